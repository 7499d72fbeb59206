"""YouTube-VOS: objects that appear late, ids with gaps, its numbers and the server's zip; DAVIS's zip for test-dev."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dropmae.benchmarks.davis import DAVIS
from dropmae.benchmarks.youtubevos import YouTubeVOS
from dropmae.cli import main
from dropmae.data.mixture import open_source
from dropmae.engine import prompts_of
from dropmae.formats.labels import LabelFolder, MatchedLabels, read_labels, write_labels
from dropmae.target import Target

FRAMES = range(0, 40, 5)


def square(place: int, object_id: int, shape: tuple[int, int] = (24, 32)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[4:14, place : place + 8] = object_id
    return mask


def truth(frame: int) -> np.ndarray:
    """Object 2 from the start, object 7 from frame 15 on."""
    mask = square(frame // 5, 2)
    return np.maximum(mask, square(18 + frame // 5, 7)) if frame >= 15 else mask


def dataset(root: Path, split: str, complete: bool, video: str = "0a1b2c") -> Path:
    """One video; where the annotation is not complete, only the masks that give the objects are there."""
    images, masks = (root / split / kind / video for kind in ("JPEGImages", "Annotations"))
    everything = root / f"{split}_all_frames" / "JPEGImages" / video
    for folder in (images, masks, everything):
        folder.mkdir(parents=True)
    for frame in range(36):
        picture = Image.fromarray(np.full((24, 32, 3), 5 * frame, np.uint8))
        picture.save(everything / f"{frame:05d}.jpg")
        if frame in FRAMES:
            picture.save(images / f"{frame:05d}.jpg")
            if complete:
                write_labels(masks / f"{frame:05d}.png", truth(frame))
    if not complete:
        write_labels(masks / "00000.png", truth(0))
        write_labels(masks / "00015.png", np.where(truth(15) == 7, 7, 0))
    objects = {"2": {"category": "cat", "frames": ["00000"]}, "7": {"category": "yak", "frames": ["00015"]}}
    (root / split / "meta.json").write_text(json.dumps({"videos": {video: {"objects": objects}}}))
    return root


def results(folder: Path, video: str = "0a1b2c") -> Path:
    (folder / video).mkdir(parents=True)
    for frame in FRAMES:
        write_labels(folder / video / f"{frame:05d}.png", truth(frame))
    return folder


def test_objects_are_given_where_they_appear(tmp_path: Path) -> None:
    root = dataset(tmp_path / "data", "valid", complete=False)
    bench = YouTubeVOS()
    (sequence,) = bench.sequences(root)
    assert sequence.video.fps == 6
    assert len(sequence.video) == 8
    assert sorted(sequence.targets) == [0, 3]
    given = prompts_of(sequence.targets, "appearance", ("mask",))
    assert [target.ids.tolist() for target in given.values()] == [[2], [7]]
    bench.write(sequence.name, {k: Target(ids=np.array([2]), mask=truth(5 * k)) for k in range(8)}, tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out" / sequence.name).iterdir())
    assert names == [f"{frame:05d}.png" for frame in FRAMES]
    assert np.array_equal(read_labels(tmp_path / "out" / sequence.name / "00015.png"), truth(15))


def test_all_frames_are_followed_and_every_fifth_is_written(tmp_path: Path) -> None:
    root = dataset(tmp_path / "data", "valid", complete=False)
    bench = YouTubeVOS(rate="all")
    (sequence,) = bench.sequences(root)
    assert (len(sequence.video), sequence.video.fps) == (36, 30)
    assert sorted(sequence.targets) == [0, 15]
    bench.write(sequence.name, {k: Target(ids=np.array([2]), mask=truth(k)) for k in range(36)}, tmp_path / "out")
    assert len(list((tmp_path / "out" / sequence.name).iterdir())) == len(FRAMES)


def test_the_zip_holds_what_the_server_wants(tmp_path: Path) -> None:
    root, found = dataset(tmp_path / "data", "valid", complete=False), results(tmp_path / "results")
    (found / "0a1b2c" / "00000.png").unlink()  # the first frame is given, so it may be left out
    bench = YouTubeVOS(submission=tmp_path / "out.zip")
    truths = bench.annotations(root)
    report = bench.score(bench.read(found, truths), truths)
    assert (report["protocol"], report["packed"]) == ("server", 8)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert sorted(archive.namelist()) == [f"Annotations/0a1b2c/{frame:05d}.png" for frame in FRAMES]
        with Image.open(io.BytesIO(archive.read("Annotations/0a1b2c/00020.png"))) as image:
            assert image.mode == "P"
            assert np.array_equal(np.asarray(image), truth(20))
            assert image.getpalette()[3:6] == [128, 0, 0]  # type: ignore[index]
    first = (tmp_path / "out.zip").read_bytes()
    bench.score(bench.read(found, truths), truths)
    assert (tmp_path / "out.zip").read_bytes() == first


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda folder: (folder / "00020.png").unlink(), "00020.png: missing"),
        (lambda folder: write_labels(folder / "00005.png", truth(20)), "object 7 is none of those given by then"),
        (lambda folder: write_labels(folder / "00005.png", square(0, 3)), "object 3 is none of those"),
        (lambda folder: write_labels(folder / "00010.png", square(0, 2, (10, 32))), "32x10 pixels"),
        (lambda folder: [path.unlink() for path in folder.iterdir()] and folder.rmdir(), "no results"),
    ],
)
def test_what_the_server_would_refuse_is_named(tmp_path: Path, damage: Any, complaint: str) -> None:
    root, found = dataset(tmp_path / "data", "valid", complete=False), results(tmp_path / "results")
    damage(found / "0a1b2c")
    bench = YouTubeVOS(submission=tmp_path / "out.zip")
    truths = bench.annotations(root)
    with pytest.raises(OSError, match=complaint):
        bench.score(bench.read(found), truths)
    assert not (tmp_path / "out.zip").exists()


def test_without_a_zip_there_is_nothing_to_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, found = dataset(tmp_path / "data", "valid", complete=False), results(tmp_path / "results")
    command = ["score", "youtubevos", "--root", str(root), "--results", str(found)]
    assert main(command) == 1
    assert "--submission" in capsys.readouterr().err
    assert main([*command, "--submission", str(tmp_path / "out.zip"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packed"] == 8


def test_numbers_where_the_annotation_is_there(tmp_path: Path) -> None:
    root, found = dataset(tmp_path / "data", "train", complete=True), results(tmp_path / "results")
    bench = YouTubeVOS()
    truths = bench.annotations(root, "train")
    report = bench.score(bench.read(found, truths), truths)
    assert report["G_mean"] == report["J_seen"] == report["F_seen"] == 1
    assert report["J_unseen"] is None
    assert report["objects"] == 2
    # A category that the training set lacks is an unseen one, and each half counts as much.
    seen = {"videos": {"x": {"objects": {"1": {"category": "cat"}}}}}
    held = dataset(tmp_path / "held", "valid", complete=True)
    (held / "train").mkdir()
    (held / "train" / "meta.json").write_text(json.dumps(seen))
    for frame in FRAMES:
        write_labels(found / "0a1b2c" / f"{frame:05d}.png", np.where(truth(frame) == 7, 0, truth(frame)))
    truths = bench.annotations(held)
    report = bench.score(bench.read(found, truths), truths)
    assert (report["J_seen"], report["J_unseen"], report["G_mean"]) == (1, 0, 0.5)
    objects = report["sequences"]["0a1b2c"]["objects"]
    assert objects["7"] == {"J_mean": 0, "F_mean": 0}


def test_the_frame_that_gives_an_object_is_not_scored(tmp_path: Path) -> None:
    root, found = dataset(tmp_path / "data", "train", complete=True), results(tmp_path / "results")
    for frame in (0, 15):
        write_labels(
            found / "0a1b2c" / f"{frame:05d}.png", np.where(truth(frame) == (7 if frame else 2), 0, truth(frame))
        )
    bench = YouTubeVOS()
    truths = bench.annotations(root, "train")
    assert bench.score(bench.read(found, truths), truths)["G_mean"] == 1


def test_training_takes_it_in_its_own_layout(tmp_path: Path) -> None:
    root = dataset(tmp_path / "data", "train", complete=True)
    source = open_source(f"youtubevos={root}*2")
    assert (len(source.sequences), source.ratio) == (1, 2.0)
    (sequence,) = source.sequences
    assert sequence.video.fps == 6
    assert sequence.targets[4].ids.tolist() == [2, 7]
    (root / "train").rename(root / "train_480p")
    assert len(YouTubeVOS().sequences(root, "train")) == 1


def test_wrong_roots_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is .* a YouTube-VOS root"):
        YouTubeVOS().sequences(tmp_path)
    root = dataset(tmp_path / "data", "valid", complete=False)
    (root / "valid" / "meta.json").write_text("[]")
    with pytest.raises(OSError, match=r"not the meta\.json"):
        YouTubeVOS().annotations(root)
    with pytest.raises(FileNotFoundError, match="no results"):
        YouTubeVOS().read(tmp_path, {"0a1b2c": {}})


# ------------------------------------------------------------ frames by name, and DAVIS


def davis(root: Path, split: str = "test-dev", count: int = 6) -> Path:
    """A video of which, as in test-dev, only the first mask is public."""
    for kind in ("JPEGImages", "Annotations"):
        (root / kind / "480p" / "boat").mkdir(parents=True)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / f"{split}.txt").write_text("boat\n")
    for frame in range(count):
        Image.fromarray(np.full((24, 32, 3), 9 * frame, np.uint8)).save(
            root / "JPEGImages/480p/boat" / f"{frame:05d}.jpg"
        )
    write_labels(root / "Annotations/480p/boat/00000.png", np.maximum(square(0, 1), square(20, 2)))
    return root


def test_the_zip_for_test_dev(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, found = davis(tmp_path / "DAVIS"), tmp_path / "results"
    (found / "boat").mkdir(parents=True)
    for frame in range(1, 6):
        write_labels(found / "boat" / f"{frame:05d}.png", square(frame, 2))
    command = ["score", "davis", "--root", str(root), "--split", "test-dev", "--results", str(found)]
    assert main(command) == 1
    assert "--submission" in capsys.readouterr().err
    command += ["--submission", str(tmp_path / "out.zip"), "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["packed"] == 6
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert sorted(archive.namelist()) == [f"boat/{frame:05d}.png" for frame in range(6)]
        with Image.open(io.BytesIO(archive.read("boat/00000.png"))) as image:
            assert image.mode == "P"
            assert np.unique(np.asarray(image)).tolist() == [0, 1, 2]
    write_labels(found / "boat" / "00003.png", square(0, 3))
    assert main(command) == 1
    assert "object 3, but boat has objects 1..2" in capsys.readouterr().err
    (found / "boat" / "00003.png").unlink()
    assert main(command) == 1
    assert "00003.png: missing; the server wants every frame" in capsys.readouterr().err
    with pytest.raises(ValueError, match="2017"):
        DAVIS(year=2016, submission=tmp_path / "x.zip")


def test_a_frame_missing_in_the_middle_shifts_nothing(tmp_path: Path) -> None:
    root = davis(tmp_path / "DAVIS", "val")
    for frame in range(1, 6):
        write_labels(root / "Annotations/480p/boat" / f"{frame:05d}.png", square(frame, 1))
    (root / "JPEGImages/480p/boat/00002.jpg").unlink()
    bench = DAVIS()
    (sequence,) = bench.sequences(root)
    assert sorted(sequence.targets) == [0, 1, 2, 3, 4]
    mask = sequence.targets[2].mask
    assert mask is not None
    assert np.array_equal(mask, square(3, 1))  # the picture after the gap with the mask of its own name
    bench.write("boat", dict(sequence.targets), tmp_path / "out")
    assert sorted(path.stem for path in (tmp_path / "out" / "boat").iterdir()) == [
        "00000",
        "00001",
        "00003",
        "00004",
        "00005",
    ]
    with pytest.raises(OSError, match=r"00002\.png: missing"):
        bench.score(bench.read(tmp_path / "out"), bench.annotations(root))


def test_label_maps_follow_the_images_names(tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    for number in (10, 2, 30):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(images / f"{number}.jpg")
    for number in (2, 30, 99):
        write_labels(masks / f"{number}.png", np.full((4, 4), number, np.uint8))
    found = MatchedLabels(masks, images)
    assert found.stems == ["2", "10", "30"]
    assert {place: target.ids.tolist() for place, target in found.items()} == {0: [2], 2: [30]}
    assert isinstance(found, LabelFolder)
