"""Label maps in PNG files of every kind that people produce."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dropmae.formats.annotations import read_annotations
from dropmae.formats.labels import NAMED, PALETTE, LabelFolder, label_png, name_lines, read_labels, write_labels
from dropmae.storage import write_folder

MASK = np.array([[0, 1, 2], [3, 255, 20]], np.uint8)


def test_palette_is_that_of_davis() -> None:
    assert PALETTE[:5].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert PALETTE[255].tolist() == [224, 224, 192]


def test_writes_and_reads_ids(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.png", MASK)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert (np.asarray(image.convert("RGB")) == PALETTE[MASK]).all()
    assert (read_labels(tmp_path / "a.png") == MASK).all()
    wide = np.array([[0, 300], [65535, 1]])
    write_labels(tmp_path / "b.png", wide)
    assert (read_labels(tmp_path / "b.png") == wide).all()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1", "grey as RGB", "I;16"])
def test_reads_every_form(tmp_path: Path, mode: str) -> None:
    mask, file = MASK, tmp_path / "a.png"
    if mode == "P":  # the index counts, whatever the colours are
        image = Image.fromarray(mask)
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    elif mode in ("RGB", "RGBA"):
        image = Image.fromarray(PALETTE[mask]).convert(mode)
    elif mode == "1":
        mask = (MASK > 1).astype(np.uint8)
        image = Image.fromarray(mask * np.uint8(255)).convert("1")
    elif mode == "grey as RGB":
        image = Image.fromarray(mask).convert("RGB")
    elif mode == "I;16":
        image = Image.fromarray(mask.astype(np.uint16))
    else:
        image = Image.fromarray(mask).convert(mode)
    image.save(file)
    assert (read_labels(file) == mask).all()


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png: no such file"):
        read_labels(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(OSError, match=r"text\.png: not a readable image"):
        read_labels(tmp_path / "text.png")
    write_labels(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 9, (64, 64)))
    raw = (tmp_path / "whole.png").read_bytes()
    for name, content in (("cut.png", raw[: len(raw) // 2]), ("bad.png", raw[:200] + b"\0" * 50 + raw[250:])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OSError, match=rf"{name}: not a readable image"):
            read_labels(tmp_path / name)
    Image.fromarray(np.full((2, 2, 3), (10, 20, 30), np.uint8)).save(tmp_path / "photo.png")
    with pytest.raises(OSError, match="palette"):
        read_labels(tmp_path / "photo.png")


def test_folders_are_lazy_and_whole(tmp_path: Path) -> None:
    write_folder(tmp_path / "clip", {"00000.png": MASK, "00007.png": MASK[:, :1]}, label_png)
    (tmp_path / "clip" / "notes.png").write_text("not a frame")
    folder = LabelFolder(tmp_path / "clip")
    assert list(folder) == [0, 7]
    assert folder[0].ids.tolist() == [1, 2, 3, 20]
    mask = folder[7].mask
    assert mask is not None
    assert mask.tolist() == [[0], [3]]
    with pytest.raises(KeyError):
        folder[1]
    write_folder(tmp_path / "clip", {"00001.png": MASK}, label_png)
    assert list(LabelFolder(tmp_path / "clip")) == [1]

    def fail(mask: np.ndarray) -> bytes:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path / "other", {"00000.png": MASK}, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


def test_one_number_twice(tmp_path: Path) -> None:
    write_folder(tmp_path / "clip", {"1.png": MASK, "00001.png": MASK}, label_png)
    with pytest.raises(OSError, match="twice"):
        list(LabelFolder(tmp_path / "clip"))


def test_label_maps_are_annotations(tmp_path: Path) -> None:
    """One PNG, a folder or a zip of <frame>.png; with what a list of names beside them calls the objects."""
    one, two = np.array([[0, 1], [2, 2]], np.uint8), np.array([[0, 0], [0, 255]], np.uint8)
    files = {"00004.png": label_png(one), "11.png": label_png(two), NAMED: name_lines({1: "a: fox", 2: "owl"}).encode()}
    write_folder(tmp_path / "clip", files, bytes)
    with zipfile.ZipFile(tmp_path / "clip.masks.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name if name == NAMED else f"clip/{name}", data)
    for path in (tmp_path / "clip", tmp_path / "clip.masks.zip"):
        ((name, found),) = read_annotations(path).items()
        assert (name, list(found)) == ("clip", [4, 11])
        assert np.array_equal(np.array(found[4].mask), one)
        assert (found[4].ids.tolist(), found[4].names) == ([1, 2], ["a  fox", "owl"])
        assert np.array_equal(np.array(found[11].mask), two > 0), "white on black is one object"
    (tmp_path / "fox.png").write_bytes(files["00004.png"])
    for path, frame in ((tmp_path / "fox.png", 0), (tmp_path / "clip" / "00004.png", 4)):
        ((_, found),) = read_annotations(path).items()
        assert list(found) == [frame]
        assert np.array_equal(np.array(found[frame].mask), one)
    (tmp_path / "clip" / NAMED).write_text("fox:1,2,3::\n")
    with pytest.raises(OSError, match=r"labelmap.txt: 'fox:1,2,3::' is not name:r,g,b::"):
        read_annotations(tmp_path / "clip" / "00004.png")
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(tmp_path / "1.png")
    with pytest.raises(FileNotFoundError, match="a folder of annotated videos holds"):
        read_annotations(tmp_path)  # of pictures
