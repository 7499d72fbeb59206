"""VIP: the reference numbers, the layout, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dropmae.benchmarks.vip import VIP
from dropmae.cli import main
from dropmae.formats.labels import LabelFolder, grey_png
from dropmae.storage import write_bytes
from dropmae.target import Target


def write_grey(path: Path, mask: np.ndarray) -> None:
    write_bytes(path, grey_png(mask.astype(np.uint8)))


def test_equals_the_reference_miou(test_data: Path) -> None:
    folder = test_data / "parity" / "inputs" / "vip"
    names = sorted(path.name for path in (folder / "gt").iterdir())
    sides = [{name: LabelFolder(folder / side / name) for name in names} for side in ("pred", "gt")]
    report = VIP().score(*sides)
    reference = json.loads((test_data / "parity" / "expected" / "vip.json").read_text())["result"]
    keys = {
        "mean_iou": "mean_IU",
        "mean_accuracy": "mean_accuracy",
        "pixel_accuracy": "overall_accuracy",
        "frequency_iou": "fwavacc",
    }
    for ours, theirs in keys.items():
        assert report[ours] == pytest.approx(reference[theirs], abs=1e-9)
    assert len(report["classes"]) == 20
    assert report["sequences"].keys() == set(names)


def parts(shift: int) -> np.ndarray:
    mask = np.zeros((24, 32), np.uint8)
    mask[4:20, 4 + shift : 20 + shift] = 3
    mask[8:12, 8 + shift : 12 + shift] = 13
    mask[0, 0] = 255
    return mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two videos; only every 25th frame is annotated."""
    home = tmp_path / "VIP_Fine"
    for name in ("videos1", "videos2"):
        (home / "Annotations" / "Category_ids" / name).mkdir(parents=True)
        (home / "Images" / name).mkdir(parents=True)
        for number in range(1, 80):
            Image.fromarray(np.full((24, 32, 3), number, np.uint8)).save(home / "Images" / name / f"{number:012d}.png")
            if number % 25 == 1:
                write_grey(home / "Annotations" / "Category_ids" / name / f"{number:012d}.png", parts(number // 25))
    (home / "lists").mkdir()
    (home / "lists" / "val_videos.txt").write_text("videos1\nvideos2\n")
    return tmp_path


def test_from_folder_to_numbers(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench, out = VIP(), tmp_path / "out"
    sequences = bench.sequences(root)
    assert [len(sequence.video) for sequence in sequences] == [4, 4]
    assert sequences[0].video[2][0, 0, 0] == 51  # the third annotated frame
    assert sequences[0].targets[2].ids.tolist() == [3, 13]
    bench.write("videos1", {t: Target(ids=np.array([3]), mask=parts(t) * (parts(t) < 20)) for t in range(4)}, out)
    assert sorted(path.stem for path in (out / "videos1").iterdir()) == [f"{n:012d}" for n in (1, 26, 51, 76)]
    with Image.open(out / "videos1" / "000000000001.png") as image:
        assert image.mode == "L"
    assert main(["score", "vip", "--root", str(root), "--results", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["mean_iou"] == report["sequences"]["videos1"]["mean_iou"] == 1  # over the classes that occur
    assert report["classes"]["hat"] is None
    assert report["missing"] == ["videos2"]


def test_frames_without_prediction_and_other_sizes(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "videos1"
    out.mkdir(parents=True)
    write_grey(out / "000000000026.png", parts(1).repeat(2, 0).repeat(2, 1) % 255)
    write_grey(out / "000000000027.png", parts(1))
    report = VIP().score(VIP().read(out.parent), VIP().annotations(root))
    assert report["mean_iou"] == 1
    assert report["sequences"]["videos1"]["frames"] == 1
    assert report["missing_frames"] == 3


def test_bad_input(root: Path, tmp_path: Path) -> None:
    bench = VIP()
    with pytest.raises(FileNotFoundError, match="a VIP root"):
        bench.annotations(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"train_videos\.txt"):
        bench.annotations(root, "train")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        bench.read(tmp_path / "nowhere")
    out = tmp_path / "out" / "videos1"
    out.mkdir(parents=True)
    with pytest.raises(OSError, match="nothing to score"):
        bench.score(bench.read(out.parent), bench.annotations(root))
    write_grey(out / "000000000026.png", np.full((24, 32), 20))
    with pytest.raises(OSError, match=r"videos1, frame 26: class 20 .* 0\.\.19"):
        bench.score(bench.read(out.parent), bench.annotations(root))
    (root / "VIP_Fine" / "Images" / "videos1" / f"{26:012d}.png").unlink()
    with pytest.raises(FileNotFoundError, match="no image for this label map"):
        bench.sequences(root)
