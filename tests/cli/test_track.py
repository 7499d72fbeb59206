"""The verb track: what it writes and returns, prompts of every kind, and all that can be wrong with its input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dropmae
from dropmae import registry, weights
from dropmae.cli import main
from dropmae.engine import Engine
from dropmae.formats.labels import write_labels
from dropmae.target import Target, read_targets, write_targets
from dropmae.verbs._prompts import are_corners
from dropmae.verbs._tracking import Tracking
from dropmae.video import Video, write
from samples import SQUARE, moving_square


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vot.safetensors"
    torch.manual_seed(0)
    weights.save(registry.load("tasks", "vot")(size="tiny", image=64), path)
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mae.safetensors"
    torch.manual_seed(0)
    weights.save(registry.load("methods", "dropmae")(size="tiny", image=64), path)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write(path, moving_square(10), 12)
    return path


def run(*words: Any) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line in another process."""
    done = subprocess.run(
        [sys.executable, "-m", "dropmae", *map(str, words)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def lines_of(path: Path) -> Any:
    """{frame: Target} of the only video in a file."""
    (targets,) = read_targets(path).values()
    return targets


def failing(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str]:
    """Exit code and the one line of a command that fails."""
    capsys.readouterr()
    code = main(["track", *map(str, words)])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dropmae track:")]
    assert len(lines) == 1
    return code, lines[0]


def test_a_video_and_lines_are_written(tracker: Path, video: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "out.mp4"
    code, printed, said = run(
        "track", video, "--weights", tracker, "--box", *SQUARE, 50, 40, 20, 20, "--out", out, "--json"
    )
    assert code == 0, said
    report = json.loads(printed)
    assert (report["frames"], report["task"], report["objects"]) == (10, "vot", [1, 2])
    made = Video(out)
    assert made.shape == (10, 72, 96, 3)
    assert made.fps == pytest.approx(12)
    assert not np.array_equal(made[0], Video(video)[0])
    targets = lines_of(out.with_suffix(".jsonl"))
    assert sorted(targets) == list(range(10))
    assert targets[0].boxes.tolist() == [list(SQUARE), [50, 40, 20, 20]]
    assert targets[9].ids.tolist() == [1, 2]
    assert np.isfinite(targets[9].boxes).all()
    assert targets[0].scores.tolist() == [1, 1]
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.jsonl", "out.mp4"]
    (again,) = registry.load("benchmarks", "folder")().annotations(out.with_suffix(".jsonl")).values()
    assert len(again) == 10


def test_in_python_it_is_an_iterator(tracker: Path, video: Path) -> None:
    seen = []
    for index, target in dropmae.track(str(video), weights=tracker, box=SQUARE, precision="fp32"):
        seen.append(index)
        assert target.boxes.shape == (1, 4)
        assert 0 <= target.scores[0] <= 1
    assert seen == list(range(10))
    array = [
        target.boxes for _, target in dropmae.track(moving_square(10), weights=tracker, box=[SQUARE, SQUARE], stop=3)
    ]
    assert [boxes.shape for boxes in array] == [(2, 4)] * 3


def test_from_the_middle_and_backwards(tracker: Path) -> None:
    frames = moving_square(10)
    options: dict[str, Any] = {"weights": tracker, "box": SQUARE, "precision": "fp32"}
    assert [i for i, _ in dropmae.track(frames, start=6, **options)] == [6, 7, 8, 9]
    assert [i for i, _ in dropmae.track(frames, start=6, stop=8, **options)] == [6, 7]
    back = list(dropmae.track(frames, start=6, backwards=True, **options))
    assert [i for i, _ in back] == [6, 5, 4, 3, 2, 1, 0]
    assert [i for i, _ in dropmae.track(frames, start=6, stop=4, backwards=True, **options)] == [6, 5, 4]
    ahead = list(dropmae.track(np.ascontiguousarray(frames[6::-1]), **options))
    for (_, a), (_, b) in zip(back, ahead, strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)


def test_a_video_of_one_frame(tracker: Path, tmp_path: Path) -> None:
    report = dropmae.track(moving_square(1), weights=tracker, box=SQUARE, out=tmp_path / "o.mp4")
    assert report["frames"] == 1
    assert len(Video(tmp_path / "o.mp4")) == 1


def folder_of(frames: np.ndarray, folder: Path) -> Path:
    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:04d}.png")
    return folder


def test_damaged_frames_are_passed_over(tracker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file cut off in the middle and an image of another size; what comes after is still followed."""
    folder = folder_of(moving_square(10), tmp_path / "frames")
    (folder / "0003.png").write_bytes((folder / "0003.png").read_bytes()[:200])
    Image.new("RGB", (40, 30)).save(folder / "0005.png")
    report = dropmae.track(str(folder), weights=tracker, box=SQUARE, out=tmp_path / "o.mp4")
    assert report["frames"] == 8
    assert list(report["frames_skipped"]) == ["3", "5"]
    assert "0003.png" in capsys.readouterr().err
    targets = lines_of(tmp_path / "o.jsonl")
    assert sorted(targets) == [0, 1, 2, 4, 6, 7, 8, 9]
    code, line = failing(capsys, folder, "--weights", tracker, "--box", *SQUARE, "--start", 3)
    assert code == 1
    assert "0003.png" in line


def test_a_file_damaged_in_the_middle(tracker: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    write(path, np.random.default_rng(0).integers(0, 256, (40, 72, 96, 3)).astype(np.uint8), 12, gop=10)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    report = dropmae.track(str(path), weights=tracker, box=SQUARE, out=tmp_path / "o.jsonl")
    assert report["frames"] + len(report["frames_skipped"]) == 40
    assert report["frames"] >= 20


def test_a_prompt_file_adds_objects_later(tracker: Path, video: Path, tmp_path: Path) -> None:
    prompts = {
        2: Target(ids=np.array([4]), boxes=np.array([SQUARE])),
        5: Target(ids=np.array([9]), boxes=np.array([[40.0, 40, 20, 20]])),
    }
    write_targets(tmp_path / "p.jsonl", {"clip.mp4": prompts})
    found = dict(dropmae.track(str(video), weights=tracker, prompts=tmp_path / "p.jsonl"))
    assert sorted(found) == list(range(2, 10))
    assert found[4].ids.tolist() == [4]
    assert found[5].ids.tolist() == found[9].ids.tolist() == [4, 9]
    assert found[5].boxes[1].tolist() == [40, 40, 20, 20]


def test_masks(tracker: Path, encoder: Path, video: Path, tmp_path: Path) -> None:
    """To a tracker a mask is a box; an encoder carries it along."""
    mask = np.zeros((72, 96), np.uint8)
    mask[16:36, 20:44] = 255
    Image.fromarray(mask).save(tmp_path / "binary.png")
    found = dict(dropmae.track(str(video), weights=tracker, mask=tmp_path / "binary.png", stop=3))
    assert found[2].ids.tolist() == [1]
    write_labels(tmp_path / "two.png", np.where(mask > 0, 3, 0) + np.pad(np.full((10, 10), 5), ((60, 2), (80, 6))))
    report = dropmae.track(str(video), weights=encoder, mask=tmp_path / "two.png", stop=4, out=tmp_path / "o.mp4")
    assert (report["task"], report["frames"], report["objects"]) == ("propagation", 4, [3, 5])
    targets = lines_of(tmp_path / "o.jsonl")
    assert set(np.unique(targets[3].mask)) <= {0, 3, 5}


def test_points(encoder: Path, video: Path) -> None:
    found = dict(dropmae.track(str(video), weights=encoder, points=("0,30,26", "2,60.5,50"), stop=5))
    assert found[4].points.shape == (2, 2)
    assert np.isfinite(found[4].points).all()


def test_objects_that_are_lost_have_no_box(tracker: Path, video: Path, tmp_path: Path) -> None:
    report = dropmae.track(str(video), weights=tracker, box=SQUARE, lost_below=1.0, out=tmp_path / "o.mp4")
    assert report["frames_lost"] == {"1": 9}
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [line["box"] for line in lines[1:]] == [None] * 9
    assert all("score" in line for line in lines)


class Camera:
    """A live stream that somebody ends with Ctrl-C after a few frames."""

    stamped, kind = False, "picture"

    source, path, name, fps = 0, None, "camera 0", 25.0

    def __init__(self, frames: int) -> None:
        self.frames = frames

    def __iter__(self) -> Any:
        yield from moving_square(self.frames)
        raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [None, 4])
def test_a_camera_runs_until_it_is_stopped(stop: int | None, tracker: Path, tmp_path: Path) -> None:
    engine = Engine(weights.load(tracker), "cpu", "fp32")
    session = engine.session({0: Target(ids=np.array([1]), boxes=np.array([SQUARE]))})
    camera: Any = Camera(6)
    report = Tracking(camera, session, None, stop, tmp_path / "o.mp4", str(tracker)).finish()
    assert report["frames"] == (stop or 6)
    assert len(Video(tmp_path / "o.mp4")) == (stop or 6)
    assert list(read_targets(tmp_path / "o.jsonl")) == ["camera 0"]
    never = engine.session({9: Target(ids=np.array([1]), boxes=np.array([SQUARE]))})
    with pytest.raises(KeyboardInterrupt):
        Tracking(camera, never, None, None, None, str(tracker)).finish()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--box", 200, 10, 20, 20], "outside the 96x72 frame"),
        (["--box", 10, 10, 0, 20], "positive width"),
        (["--box", 10, 10, -5, 20], "positive width"),
        (["--box", "nan", 10, 20, 20], "four numbers"),
        (["--box", 10, 10, 20], "four numbers"),
        ([], "say what to follow"),
        (["--box", *SQUARE, "--start", 10], "none of the 10 frames"),
        (["--box", *SQUARE, "--start", -1], "number of a frame"),
        (["--box", *SQUARE, "--start", 5, "--stop", 5], "leaves no frame"),
        (["--box", *SQUARE, "--out", "out.avi"], "out.avi"),
        (["--mask", "half.png"], "frame 0: the mask has 48x36 pixels, but the frame has 96x72"),
        (["--prompts", "none.csv"], "none.csv: no object is shown there"),
        (["--points", "0,5"], "t,x,y"),
        (["--points", "0,nan,5"], "finite"),
        (["--points", "0,5,5"], "vot can be told boxes or mask, and what is known there is points"),
    ],
)
def test_wrong_arguments_are_one_line(
    words: list[Any],
    message: str,
    tracker: Path,
    video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_labels(tmp_path / "half.png", np.eye(36, 48, dtype=np.uint8))
    (tmp_path / "none.csv").write_text("frame,id,x,y,width,height\n")
    code, line = failing(capsys, video, "--weights", tracker, *words)
    assert code == 2
    assert message in line


def test_both_ways_go_through_each_so_many_frames(tracker: Path, video: Path) -> None:
    """Counted from the prompt in either direction, and with every frame that prompts speak of."""
    told = {frame: Target(ids=np.array([1]), boxes=np.array([SQUARE], float)) for frame in (4, 6)}
    for prompts, frames in (({4: told[4]}, [1, 4, 7]), (told, [1, 4, 6, 7])):
        found = dropmae.track(video, weights=tracker, prompts=prompts, both=True, every=3)
        assert [frame for frame, _ in found] == frames
    found = dropmae.track(video, weights=tracker, prompts={4: told[4]}, both=True)
    assert [frame for frame, _ in found] == list(range(10))


def test_what_was_found_is_kept_where_the_rest_cannot_be_read(tracker: Path, tmp_path: Path) -> None:
    """And the error is that of the video: what is written there could be written."""
    frames, folder, out = moving_square(3), tmp_path / "in", tmp_path / "out.csv"
    folder.mkdir()
    for number in range(40):
        Image.fromarray(frames[min(number, 2)]).save(file := folder / f"{number:02d}.png")
        if number > 2:
            file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(OSError, match=r"^.*33\.png.*; 3 of 40 frames are in .*out.csv and .*out.mp4") as caught:
        dropmae.track(str(folder), weights=tracker, box=SQUARE, out=out, also=(tmp_path / "out.mp4",))
    assert "could not be written" not in str(caught.value)
    assert len(out.read_text().splitlines()) == 2 + 3
    assert len(Video(tmp_path / "out.mp4")) == 3


def test_wrong_files_are_one_line(
    tracker: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = ["--box", *SQUARE]
    code, line = failing(capsys, tmp_path / "none.mp4", "--weights", tracker, *box)
    assert (code, "none.mp4" in line) == (1, True)
    code, line = failing(capsys, video, "--weights", tmp_path / "none.safetensors", *box)
    assert (code, "none.safetensors" in line) == (1, True)
    (tmp_path / "bad.safetensors").write_bytes(tracker.read_bytes()[:5000])
    code, line = failing(capsys, video, "--weights", tmp_path / "bad.safetensors", *box)
    assert (code, "bad.safetensors" in line) == (1, True)
    Image.new("L", (96, 72)).save(tmp_path / "empty.png")
    code, line = failing(capsys, video, "--weights", tracker, "--mask", tmp_path / "empty.png")
    assert (code, "no object" in line) == (2, True)
    code, line = failing(capsys, video, "--weights", tracker, "--prompts", tmp_path / "none.jsonl")
    assert (code, "none.jsonl" in line) == (1, True)
    code, line = failing(capsys, video, "--weights", tracker, *box, "--out", tmp_path / "bad.safetensors" / "o.mp4")
    assert code == 1


def test_failing_leaves_no_files(tracker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(moving_square(4), tmp_path / "frames")
    (folder / "0000.png").write_bytes(b"")
    code, _ = failing(capsys, folder, "--weights", tracker, "--box", *SQUARE, "--out", tmp_path / "o.mp4")
    assert code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["frames"]


# ------------------------------------------------------------ on benchmarks


def benchmark_of(folder: Path, count: int = 2) -> Path:
    """Sequences in OTB's layout, whose first pixel is called 1."""
    for number in range(count):
        (folder / f"Seq{number}").mkdir(parents=True)
        folder_of(moving_square(4), folder / f"Seq{number}" / "img")
        rows = "".join(f"{21 + 2 * t},{17 + t},24,20\n" for t in range(4))
        (folder / f"Seq{number}" / "groundtruth_rect.txt").write_text(rows)
    return folder


def test_a_tracker_on_a_benchmark(tracker: Path, tmp_path: Path) -> None:
    root, out = benchmark_of(tmp_path / "otb"), tmp_path / "out"
    report = dropmae.evaluate("otb", root=root, weights=str(tracker), out=out, workers=1)
    assert report["protocol"] == "official"
    assert 0 <= report["success_auc"] <= 1
    assert report["fps"] > 0
    for number in range(2):
        lines = (out / "predictions" / f"Seq{number}.txt").read_text().splitlines()
        assert lines[0] == "21.000,17.000,24.000,20.000"
        assert len(lines) == 4
        assert len((out / "predictions" / f"Seq{number}_time.txt").read_text().splitlines()) == 4
    # Frames are read in the project's coordinates, and go back in the data set's.
    found = dict(dropmae.track(str(root / "Seq0" / "img"), weights=tracker, box=SQUARE, precision="fp32"))
    last = np.array([float(value) for value in lines[3].split(",")])
    np.testing.assert_allclose(last - [1, 1, 0, 0], found[3].boxes[0], atol=2e-3)
    # What is there is kept: only the sequence that is missing is followed again.
    (out / "done" / "Seq1.json").unlink()
    (out / "predictions" / "Seq0.txt").write_text((out / "predictions" / "Seq0.txt").read_text() + "\n")
    again = dropmae.evaluate("otb", root=root, weights=str(tracker), out=out, workers=1)
    assert again["success_auc"] == report["success_auc"]
    assert (out / "predictions" / "Seq0.txt").read_text().endswith("\n\n")


def test_a_frame_that_cannot_be_read_is_a_miss(tracker: Path, tmp_path: Path) -> None:
    """Result files of boxes cannot say that there is none: an area of 0 overlaps with nothing. Lines can."""
    root = benchmark_of(tmp_path / "otb")
    broken = sorted((root / "Seq0/img").iterdir())[2]
    broken.write_bytes(broken.read_bytes()[:60])
    report = dropmae.evaluate("otb", root=root, weights=str(tracker), out=tmp_path / "out", workers=1)
    assert list(report["frames_skipped"]["Seq0"]) == ["2"]
    lines = (tmp_path / "out/predictions/Seq0.txt").read_text().splitlines()
    assert lines[2] == "1.000,1.000,0.000,0.000"
    assert lines[3] != lines[2]
    (tmp_path / "folder").mkdir()
    (root / "Seq0/img").rename(tmp_path / "folder/clip")
    said = [{"video": "clip", "frame": n, "id": 1, "box": [20 + n, 16, 24, 20]} for n in range(4)]
    (tmp_path / "folder/targets.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in said))
    out = tmp_path / "lines"
    report = dropmae.evaluate("folder", root=tmp_path / "folder", weights=str(tracker), out=out, workers=1)
    assert list(report["frames_skipped"]["clip"]) == ["2"]
    found = json.loads((out / "predictions/clip.jsonl").read_text().splitlines()[2])
    assert (found["frame"], found["box"], found["score"]) == (2, None, 0)


def test_a_wrong_data_set_root_is_one_line(tracker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "otb", "--weights", str(tracker), "--out", str(tmp_path / "out"), "--root"]
    for root in (tmp_path, tmp_path / "none"):
        assert main([*words, str(root)]) == 1
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_two_corners_are_no_box() -> None:
    """Where x y w h would end far outside and two corners lie within; a box that sticks out a little is one."""
    boxes = np.array([[100, 50, 180, 110], [100, 50, 80, 60], [150, 80, 60, 50], [-5, 0, 30, 30]], np.float64)
    assert are_corners(boxes, 120, 200).tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="if these are two corners, it is 100 50 80 60"):
        dropmae.track(np.zeros((2, 120, 200, 3), np.uint8), box=(100, 50, 180, 110))
