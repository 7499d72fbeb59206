"""What moves is found where it is, in any light; what does not, is not; and a folder of videos is gone through."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dropmae
import launch
from dropmae import locks, moving
from dropmae.moving import find_moving
from dropmae.verbs._folder import table, wall_clock
from dropmae.verbs._prompts import folder_prompts
from dropmae.video import Video, write
from dropmae.weights import SHIPPED

HEIGHT, WIDTH, RATE = 96, 160, 10


def filmed(frames: int, start: int | None, *, noise: float = 2, light: Any = None, low: bool = False) -> np.ndarray:
    """uint8 [T, H, W, 3]: a scene in which a dark square comes in from the left at frame `start`, 4 pixels a frame."""
    rng = np.random.default_rng(0)
    ground = np.kron(rng.uniform(60, 200, (12, 20)), np.ones((8, 8)))[..., None].repeat(3, 2)
    made = np.empty((frames, HEIGHT, WIDTH, 3), np.uint8)
    for t in range(frames):
        frame = ground.copy()
        if start is not None and t >= start:
            right = 4 * (t - start)
            frame[40:64, max(0, right - 24) : max(0, right)] = 30
        frame = 100 + 0.3 * frame if low else frame
        frame = frame * (1 if light is None else light(t)) + rng.normal(0, noise, (HEIGHT, WIDTH, 1))
        made[t] = np.clip(frame, 0, 255)
    return made


SETTINGS = {
    "plain": {},
    "noisy": {"noise": 9},
    "infra-red": {"noise": 5, "low": True},
    "slow light": {"light": lambda t: 1 + 0.1 * np.sin(t / 7)},
    "sudden light": {"light": lambda t: 1.15 if t > 25 else 1},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_what_moves_is_found_within_a_second(settings: dict[str, Any]) -> None:
    (way,) = find_moving(Video(filmed(50, 15, **settings), fps=RATE))
    assert 15 < way.frames[0] <= 15 + RATE
    told = moving.prompts_of([way])
    ((frame, target),) = told.items()
    assert frame - 15 <= RATE
    x, y, w, h = target.box(1)
    right = 4 * (frame - 15)
    wanted = np.array([max(0, right - 24), 40, right, 64])
    np.testing.assert_allclose([x, y, x + w, y + h], wanted, atol=6)
    assert find_moving(Video(filmed(50, None, **settings), fps=RATE)) == [], "nothing moves"


def test_what_stays_in_its_place_is_no_object() -> None:
    blinking = filmed(50, None)
    blinking[::3, 20:36, 100:116] = 255
    assert find_moving(Video(blinking, fps=RATE)) == []
    moved = filmed(60, None)
    rng = np.random.default_rng(1)
    wide = np.kron(rng.uniform(60, 200, (12, 60)), np.ones((8, 8)))[..., None].repeat(3, 2)
    for t in range(60):  # the camera turns
        moved[t] = wide[:, 4 * t : 4 * t + WIDTH]
    assert find_moving(Video(moved, fps=RATE)) == []
    for t in range(10, 60):
        moved[t, 40:64, max(0, 100 - 2 * t) : 124 - 2 * t] = 20
    assert len(find_moving(Video(moved, fps=RATE))) >= 1


def test_clocks_and_lines_of_the_summary(tmp_path: Path) -> None:
    write(tmp_path / "cam_20240501-235958.mp4", filmed(3, None), RATE)
    assert str(wall_clock(Video(tmp_path / "cam_20240501-235958.mp4"))) == "2024-05-01 23:59:58"
    write(tmp_path / "x.mp4", filmed(3, None), RATE)
    assert wall_clock(Video(tmp_path / "x.mp4")) is None
    rows = [{"name": "a,b.mp4", "frames": 3, "objects": []}, {"name": "c.mp4", "error": "no video"}]
    read = list(csv.DictReader(table(rows).splitlines()))
    assert [(row["video"], row["status"], row["frames"]) for row in read] == [
        ("a,b.mp4", "empty", "3"),
        ("c.mp4", "bad: no video", ""),
    ]


@pytest.mark.slow
def test_a_folder_that_is_killed_goes_on(tmp_path: Path) -> None:
    """SIGKILL in the middle: what was finished is whole and is not done again, and the end is as without it."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(5):
        write(folder / f"{number}.mp4", filmed(24, 6), RATE)
    command = ["track", str(folder), "--find", "moving", "--workers", "2", "--weights", "shipped:vot", "--out"]
    started = launch.start([*command, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    journal, end = out / "track.jsonl", time.monotonic() + 120
    while not (journal.exists() and journal.read_text().count("\n") > 2):
        assert started.poll() is None, "it ended by itself"
        assert time.monotonic() < end
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    assert started.wait(60) == -signal.SIGKILL
    finished = [json.loads(line)["name"] for line in journal.read_text().splitlines()[1:]]
    before = {name: (out / f"{name}.jsonl").stat().st_mtime_ns for name in finished}
    assert 2 <= len(before) < 5
    done = launch.run([*command, str(out)])
    assert done.returncode == 0, done.stderr
    assert "5 videos, 0 empty, 0 bad" in done.stderr
    assert {name: (out / f"{name}.jsonl").stat().st_mtime_ns for name in finished} == before
    assert launch.run([*command, str(tmp_path / "whole")]).returncode == 0
    names = [*(f"{number}.mp4.jsonl" for number in range(5)), "summary.csv"]
    assert [(out / name).read_bytes() for name in names] == [(tmp_path / "whole" / name).read_bytes() for name in names]
    left = [{path.name for path in made.iterdir()} - {locks.NAME} for made in (out, tmp_path / "whole")]
    assert left[0] == left[1]


@pytest.mark.slow
def test_a_folder_is_gone_through_and_goes_on(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    write(folder / "sub" / "one_20240501_120000.mp4", filmed(24, 6), RATE)
    write(folder / "two.mp4", filmed(12, None), RATE)
    (folder / "bad.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
    command = ["track", str(folder), "--find", "moving", "--out", str(out), "--every", "2"]
    command += ["--workers", "1", "--forms", ".jsonl", ".csv", "--weights", "shipped:vot"]
    done = launch.run(command)
    assert done.returncode == 0, done.stderr
    assert "3 videos, 1 empty, 1 bad" in done.stderr
    rows = {row["video"]: row for row in csv.DictReader((out / "summary.csv").open())}
    assert rows["two.mp4"]["status"] == "empty"
    assert rows["bad.mp4"]["status"].startswith("bad: ")
    one = rows["sub/one_20240501_120000.mp4"]
    assert (one["status"], one["object"], one["frames"]) == ("found", "1", "24")
    assert 6 < int(one["first"]) <= 16
    assert one["from"] == f"2024-05-01 12:00:0{int(one['first']) // 10}.{int(one['first']) % 10}00"
    assert float(one["confidence"]) > 0
    assert (out / "sub" / "one_20240501_120000.mp4.csv").exists()
    before = (out / "sub" / "one_20240501_120000.mp4.jsonl").stat().st_mtime_ns
    (folder / "two.mp4").unlink()
    write(folder / "three.mp4", filmed(12, None), RATE)
    again = dropmae.track(
        str(folder), find="moving", out=out, every=2, workers=1, forms=(".jsonl", ".csv"), weights="shipped:vot"
    )
    assert (again["videos"], again["empty"], again["bad"]) == (3, 1, ["bad.mp4"])
    assert (out / "sub" / "one_20240501_120000.mp4.jsonl").stat().st_mtime_ns == before, "it was done already"
    with pytest.raises(ValueError, match=r"made with other settings \(every\)"):
        dropmae.track(
            str(folder), find="moving", out=out, every=3, workers=1, forms=(".jsonl", ".csv"), weights="shipped:vot"
        )
    with pytest.raises(ValueError, match="is a folder of videos: give --out DIR"):
        dropmae.track(str(folder), box=(1, 2, 3, 4), out=out)


def detections(path: Path, boxes: dict[str, list[float]]) -> Path:
    """MegaDetector's file of an animal in the first frame of each video."""
    rows = [
        {"file": name, "detections": [{"category": "1", "conf": 0.9, "bbox": box, "frame_number": 0}]}
        for name, box in boxes.items()
    ]
    path.write_text(json.dumps({"detection_categories": {"1": "animal"}, "images": rows}))
    return path


def test_a_file_names_the_videos_of_a_folder(tmp_path: Path) -> None:
    """By their paths first, then by what they are called; by a name that several have it is an error."""
    folder, out = tmp_path / "in", tmp_path / "in" / "out"
    for name in ("x", "b/x", "b/y", "b/z", "c/z", "out/w"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / f"{name}.mp4", filmed(2, None)[:, :, : 80 if name == "b/y" else None], RATE)
    (folder / "bad.mp4").write_text("no video")
    left, right = [0.1, 0.2, 0.3, 0.4], [0.5, 0.2, 0.3, 0.4]
    told = {"x.mp4": left, "b/x.mp4": right, "y": left, "bad.mp4": left, "gone.mp4": left, "w": left}
    found = folder_prompts(detections(tmp_path / "md.json", told), folder, out)
    assert sorted(found) == ["b/x.mp4", "b/y.mp4", "bad.mp4", "x.mp4"]
    np.testing.assert_allclose([found[f"{name}x.mp4"][0].box()[0] for name in ("", "b/")], [16, 80])
    np.testing.assert_allclose(found["b/y.mp4"][0].box(), [8, 19.2, 24, 38.4])
    assert found["x.mp4"][0].names == ["animal"]
    with pytest.raises(OSError, match=r"md.json: z.mp4 may be b/z.mp4 or c/z.mp4; name the path"):
        folder_prompts(detections(tmp_path / "md.json", {"z.mp4": left}), folder, out)
    with pytest.raises(ValueError, match=r"names none of the videos of .*in, but in/x.mp4"):
        folder_prompts(detections(tmp_path / "md.json", {"in/x.mp4": left}), folder, out)


@pytest.mark.slow
def test_what_changes_the_results_of_a_folder_is_seen(tmp_path: Path) -> None:
    """Other prompts, other weights under the same name, and its own videos below the folder."""
    folder, out, weights = tmp_path / "in", tmp_path / "in" / "out", tmp_path / "w.safetensors"
    folder.mkdir()
    shutil.copy(SHIPPED / "vot.safetensors", weights)
    for name in ("a", "b"):
        write(folder / f"{name}.mp4", filmed(3, None), RATE)

    def went(told: dict[str, list[float]]) -> list[dict[str, str]]:
        file = detections(tmp_path / "md.json", told)
        options: dict[str, Any] = {"forms": (".mp4",), "workers": 1, "weights": str(weights)}
        assert dropmae.track(str(folder), prompts=file, out=out, **options)["videos"] == 2
        return list(csv.DictReader((out / "summary.csv").open()))

    assert [(row["status"], row["name"]) for row in went({"a.mp4": [0.1, 0.2, 0.3, 0.4]})] == [
        ("found", "animal"),
        ("empty", ""),
    ]
    assert [row["status"] for row in went({"b.mp4": [0.5, 0.2, 0.3, 0.4]})] == ["empty", "found"]
    assert dropmae.prepare(folder, tmp_path / "prepared", workers=1)["videos"] == 2, "and not what was drawn"
    shutil.copy(SHIPPED / "filters.safetensors", weights)
    with pytest.raises(ValueError, match=r"made with other settings \(content of the weights"):
        went({"b.mp4": [0.5, 0.2, 0.3, 0.4]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"find": "moving", "forms": ("/../../evil.jsonl",)}, "forms are endings of file names"),
        ({"find": "moving", "forms": ()}, "give one at least"),
        ({"find": "moving", "forms": (".webm",)}, "OUT.webm is made of mask"),
        ({"find": "moving", "also": ("z.csv",)}, "also is for one video"),
        ({"find": "moving", "edge": "hard"}, "edge is for"),
        ({"find": "moving", "workers": -3}, "workers is the number of videos"),
        ({"find": "moving", "grid": 3}, "find looks for what to follow"),
        ({"find": "moving", "lost_below": 7.0}, "lost_below must be in"),
        ({}, "say what to follow in it"),
        ({"weights": None}, "say what to follow in it"),
    ],
)
def test_wrong_arguments_of_a_folder_are_said_at_once(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / f"{name}.mp4").write_text("no video")
    options = {"weights": "shipped:vot", **options}
    with pytest.raises(ValueError, match=message):
        dropmae.track(str(tmp_path / "in"), out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
