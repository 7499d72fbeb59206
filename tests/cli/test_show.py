"""The verb show, and how results of anybody's tracker are found for one video."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dropmae
from dropmae import video
from dropmae.formats.labels import write_labels
from dropmae.formats.results import distinct_names, read_results
from dropmae.target import Target, write_targets
from dropmae.visualize.overlay import COLOURS, colour
from samples import moving_squares

FRAMES, SIZE = 12, 64


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video of grey frames."""
    path = tmp_path / "walk.mp4"
    video.write(path, [np.full((SIZE, 2 * SIZE, 3), 90, np.uint8)] * FRAMES)
    return path


def boxes(shift: int) -> np.ndarray:
    return np.array([[10 + shift + frame, 12, 30, 30] for frame in range(FRAMES)], float)


def write_boxes(path: Path, rows: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(",".join(f"{value:g}" for value in row) + "\n" for row in rows))
    return path


def test_a_frame_with_a_grid(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = dropmae.show(str(clip), frame=-1)
    assert report == {"out": "walk-frame-11.png", "frame": 11, "width": 128, "height": 64}
    assert Image.open(report["out"]).width > 900, "small frames are enlarged"
    assert dropmae.show(np.zeros((3, 20, 30, 3), np.uint8), out=tmp_path / "array.png")["frame"] == 0


def test_a_figure_of_several_trackers(clip: Path, tmp_path: Path) -> None:
    first = write_boxes(tmp_path / "KCF" / "walk.txt", boxes(30))
    second = tmp_path / "ours.jsonl"
    write_targets(second, {"walk.mp4": {n: Target(ids=np.array([1]), boxes=b[None]) for n, b in enumerate(boxes(60))}})
    truth = write_boxes(tmp_path / "truth.txt", boxes(0))
    out = tmp_path / "figure.png"
    report = dropmae.show(str(clip), results=(first.parent, second), truth=truth, frames=(0, 4, -1), out=out)
    assert report["names"] == ["truth", "KCF", "ours"]
    assert report["frames"] == [0, 4, 11]
    sheet = np.array(Image.open(out))
    for place, number in enumerate(report["frames"]):
        left = 4 + place * (2 * SIZE + 4)
        picture = sheet[4 : 4 + SIZE, left : left + 2 * SIZE]
        for row, tone in ((60, COLOURS[1]), (30, COLOURS[0]), (0, (255, 255, 255))):
            where = np.argwhere((picture == tone).all(-1) & (np.arange(SIZE) >= 12)[:, None])
            assert where[:, 1].min() == 10 + row + number, "each tracker's box, in its colour"
    strip = sheet[SIZE + 8 :]
    assert all((strip == tone).all(-1).sum() > 50 for tone in COLOURS[:2]), "and a legend"
    renamed = dropmae.show(str(clip), results=(first.parent, second), names=("a", "b"), out=out)
    assert renamed["names"] == ["a", "b"]
    assert len(renamed["frames"]) == 5


def test_a_video_of_several_trackers(clip: Path, tmp_path: Path) -> None:
    found = write_boxes(tmp_path / "KCF.txt", boxes(0))
    out = tmp_path / "figure.mp4"
    assert len(dropmae.show(str(clip), results=(found,), out=out)["frames"]) == FRAMES
    made = video.Video(out)
    assert len(made) == FRAMES
    assert made.height > SIZE, "the legend is below"


def test_masks_are_shown_side_by_side(clip: Path, tmp_path: Path) -> None:
    for name, width in (("truth", 40), ("A", 20)):
        (tmp_path / name / "walk").mkdir(parents=True)
        for number in range(FRAMES):
            mask = np.zeros((SIZE, 2 * SIZE), np.uint8)
            mask[30:60, 10 : 10 + width] = 255 if name == "truth" else 1
            write_labels(tmp_path / name / "walk" / f"{number:05d}.png", mask)
    out = tmp_path / "figure.png"
    dropmae.show(str(clip), results=(tmp_path / "A",), truth=tmp_path / "truth", frames=(0, 5), out=out)
    sheet = np.array(Image.open(out))
    assert sheet.shape[:2] == (2 * (SIZE + 4) + 4, 2 * (2 * SIZE + 4) + 4)
    widths = [(sheet[top + 45] == colour(1)).all(-1).sum() for top in (4, SIZE + 8)]
    assert widths == [8, 8], "an outline two wide on both sides in both frames, 255 of DAVIS-2016 in the colour of 1"
    assert dropmae.show(str(clip), results=(tmp_path / "A",), out=tmp_path / "m.mp4")["names"] == ["A"]


def test_frames_folders_are_called_as_the_sequence(tmp_path: Path) -> None:
    (tmp_path / "Couple" / "img").mkdir(parents=True)
    for number, frame in enumerate(moving_squares(0)[:3]):
        Image.fromarray(frame).save(tmp_path / "Couple" / "img" / f"{number + 1:04d}.jpg")
    write_boxes(tmp_path / "results" / "Couple.txt", boxes(0)[:3])
    out = tmp_path / "f.png"
    report = dropmae.show(str(tmp_path / "Couple" / "img"), results=(tmp_path / "results",), out=out)
    assert report["names"] == ["results"]


def test_results_in_every_form(tmp_path: Path) -> None:
    rows = boxes(3)
    write_boxes(tmp_path / "zipped" / "walk.txt", rows)
    with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
        archive.write(tmp_path / "zipped" / "walk.txt", "deep/walk.txt")
    targets = {n: Target(ids=np.array([1]), boxes=row[None]) for n, row in enumerate(rows)}
    write_targets(tmp_path / "lines" / "targets.jsonl", {"other.mp4": {0: targets[3]}, "sub/walk.mp4": targets})
    write_targets(tmp_path / "per" / "walk.jsonl", {"walk.mp4": targets})
    for path in ("zipped/walk.txt", "zipped", "r.zip", "lines/targets.jsonl", "lines", "per"):
        found = read_results(tmp_path / path, ["walk"])
        np.testing.assert_array_equal([found[n].box() for n in range(FRAMES)], rows, err_msg=path)


def test_a_damaged_video_is_named_and_the_rest_of_it_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "walk"
    folder.mkdir()
    for number in range(4):
        file = folder / f"{number}.png"
        Image.fromarray(np.full((SIZE, SIZE, 3), 90, np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:50])
    truth = write_boxes(tmp_path / "truth.txt", boxes(0)[:4])
    out = tmp_path / "out.mp4"
    with pytest.raises(OSError, match=r"walk/3\.png") as caught:
        dropmae.show(str(folder), truth=truth, frames=(3,), out=out)
    assert "out.mp4" not in str(caught.value)
    assert not out.exists()
    dropmae.show(str(folder), truth=truth, out=out)
    frames = np.stack([*video.Video(out)])
    assert frames[2, 60, 60].min() > 60
    assert frames[3, 60, 60].max() < 30
    assert "1 frames are black, as they could not be read:" in capsys.readouterr().err
    with pytest.raises(OSError, match=r"walk/3\.png"):
        dropmae.show(str(folder), truth=truth, frames=(0, 3), out=tmp_path / "out.png")


def test_what_is_lost_of_an_evaluation_is_said(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of predictions that somebody removed: what reads them says so, and evaluate makes it again."""
    out, root = tmp_path / "out", tmp_path / "otb"
    rows = "".join(f"{11 + frame},13,30,30\n" for frame in range(FRAMES))
    for name in ("Walk", "Run"):
        (root / name / "img").mkdir(parents=True)
        (root / name / "groundtruth_rect.txt").write_text(rows)
        for frame in range(FRAMES):
            Image.fromarray(np.full((SIZE, SIZE, 3), frame, np.uint8)).save(root / name / f"img/{frame + 1:04d}.jpg")
    weights = "shipped:vot"
    report = dropmae.evaluate("otb", root=root, weights=weights, out=out, workers=1)
    gone = out / "predictions/Walk.txt"
    before = gone.read_bytes()
    gone.unlink()
    words = r"Walk\.txt is gone, which evaluate wrote: the same evaluate command makes what is gone again"
    with pytest.raises(FileNotFoundError, match=rf"no result for 1 of 2 sequences \(Walk\).*{words}"):
        dropmae.score("otb", root=root, results=out / "predictions")
    with pytest.raises(FileNotFoundError, match=rf"holds nothing for Walk.*{words}"):
        dropmae.show(str(root / "Walk/img"), results=(out,), names=("ours",), out=tmp_path / "a.png")
    capsys.readouterr()
    dropmae.score("otb", root=root, results=out / "predictions", partial=True)
    assert "makes what is gone again" in capsys.readouterr().err
    assert dropmae.evaluate("otb", root=root, weights=weights, out=out, workers=1)["sequences"] == report["sequences"]
    assert "Walk.txt is gone: Walk is followed anew" in capsys.readouterr().err
    assert gone.read_bytes() == before


def test_what_is_not_there(clip: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: holds nothing for walk; results are a targets\.jsonl"):
        dropmae.show(str(clip), results=(empty,), out=tmp_path / "f.png")
    with pytest.raises(FileNotFoundError, match="no such file or folder of results"):
        dropmae.show(str(clip), results=(tmp_path / "no",), out=tmp_path / "f.png")
    lines = tmp_path / "two.jsonl"
    lines.write_text("".join(json.dumps({"video": v, "frame": 0}) + "\n" for v in ("a.mp4", "b.mp4")))
    with pytest.raises(ValueError, match="lines about 2 videos, 0 of them called walk"):
        dropmae.show(str(clip), results=(lines,), out=tmp_path / "f.png")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"frame": 12}, "frame 12 is none of the 12 frames of walk"),
        ({"frame": 0, "frames": (1,)}, "frame is for the grid"),
        ({"frame": 0, "out": tmp_path / "f.mp4"}, r"write OUT\.png"),
        ({"truth": lines, "names": ("a",)}, "1 names for 0 results"),
    ]
    for wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            dropmae.show(str(clip), **wrong)


def test_names_are_what_the_paths_differ_in() -> None:
    assert distinct_names(["r/KCF/Dog1.txt", "r/ours/Dog1.txt"]) == ["KCF", "ours"]
    assert distinct_names(["r/KCF.txt", "s/ours.jsonl"]) == ["KCF", "ours"]
    assert distinct_names(["a/predictions", "b/predictions", "c/predictions"]) == ["a", "b", "c"]
    assert distinct_names(["x/r.zip"]) == ["r"]
    assert distinct_names(["a/r", "a/r"]) == ["r 1", "r 2"]
    assert distinct_names([]) == []
