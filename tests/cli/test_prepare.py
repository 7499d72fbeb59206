"""prepare: what comes out, what is reported, and that it can be stopped anywhere."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from dropmae.verbs.prepare import Form, Job, convert, prepare, run
from dropmae.video import Video, find, write


def texture(seed: int, count: int, height: int, width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (height // 8 + 4, width // 8 + 4, 3)).astype(np.uint8))
    big = np.asarray(small.resize((width + 3 * count, height + 2 * count), Image.Resampling.BICUBIC))
    return [big[2 * i : 2 * i + height, 3 * i : 3 * i + width] for i in range(count)]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two good videos, a folder of images, and four bad files."""
    root = tmp_path / "videos"
    write(root / "a" / "wide.mp4", texture(0, 40, 96, 160), Fraction(30000, 1001), gop=250, b_frames=3)
    write(root / "small.mp4", texture(1, 20, 40, 56), 12)
    (root / "walk").mkdir()
    for i, frame in enumerate(texture(2, 5, 70, 80)):
        Image.fromarray(frame).save(root / "walk" / f"{i}.png")
    (root / "empty.mp4").write_bytes(b"")
    (root / "text.mp4").write_text("not a video\n" * 100)
    whole = (root / "a" / "wide.mp4").read_bytes()
    (root / "a" / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (root / "notes.txt").write_text("no candidate at all")
    return root


BAD = {
    "a/cut.mp4": "cut short|damaged",
    "empty.mp4": "the file is empty",
    "text.mp4": "not a video, or its header is damaged",
}


def check_bad(bad: list[dict[str, str]]) -> None:
    assert {item["name"] for item in bad} == set(BAD)
    for item in bad:
        assert re.search(BAD[item["name"]], item["reason"]), item
        assert "/" not in item["reason"]


def test_videos_are_encoded_for_random_access(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    result = prepare(videos, out, short_side=64, workers=2)
    assert result["videos"] == 3
    assert result["frames"] == 65
    check_bad(result["bad"])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "bad: empty.mp4: the file is empty" in shown.err
    assert json.loads((out / "report.json").read_text())["bad"] == result["bad"]
    assert [path.relative_to(out).as_posix() for path in find(out)] == ["a/wide.mp4", "small.mp4", "walk.mp4"]
    wide = Video(out / "a" / "wide.mp4")
    assert wide.shape == (40, 64, 106, 3)
    assert wide.fps == 30000 / 1001
    original = Video(videos / "a" / "wide.mp4", short_side=64)
    assert abs(wide[30].astype(int) - original[30]).mean() < 8
    assert Video(out / "small.mp4").shape == (20, 40, 56, 3), "never scaled up"
    assert Video(out / "walk.mp4").shape == (5, 64, 74, 3)
    with av.open(str(out / "a" / "wide.mp4")) as container:
        stream: Any = container.streams.video[0]
        kinds = [(bool(frame.key_frame), frame.pict_type) for frame in container.decode(stream)]
        assert stream.codec_context.name == "h264"
    assert [i for i, (key, _) in enumerate(kinds) if key] == [0, 16, 32]
    assert {kind for _, kind in kinds} == {1, 2}, "no B frames"
    expected = np.array([-3, -2]) * 64 / 96
    assert np.allclose(np.nanmedian(wide.motion(20).reshape(-1, 2), 0), expected, atol=0.3)


def test_frames_are_stored(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = prepare(videos, out, short_side=32, frames=True, workers=1)
    check_bad(result["bad"])
    assert [path.relative_to(out).as_posix() for path in find(out)] == ["a/wide.frames", "small.frames", "walk.frames"]
    video = Video(out / "a" / "wide.frames")
    assert video.shape == (40, 32, 54, 3)
    assert video.fps == 30000 / 1001
    assert np.array_equal(video[[39, 3]], Video(videos / "a" / "wide.mp4", short_side=32)[[39, 3]])


def test_the_same_command_continues(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = prepare(videos, out, short_side=32, workers=1)
    times = {path: path.stat().st_mtime_ns for path in find(out)}
    assert prepare(videos, out, short_side=32, workers=1) == first
    assert {path: path.stat().st_mtime_ns for path in find(out)} == times
    (out / "small.mp4").unlink()
    write(videos / "text.mp4", texture(5, 6, 40, 48))
    write(videos / "new.mp4", texture(6, 7, 40, 48))
    again = prepare(videos, out, short_side=32, workers=1)
    assert (again["videos"], again["frames"]) == (5, first["frames"] + 13)
    assert {item["name"] for item in again["bad"]} == {"a/cut.mp4", "empty.mp4"}
    assert times.items() >= {p: p.stat().st_mtime_ns for p in find(out) if p.name in ("wide.mp4", "walk.mp4")}.items()
    with pytest.raises(ValueError, match=r"another form \(short_side 32, now 48\)"):
        prepare(videos, out, short_side=48)


def test_killed_at_any_moment_it_continues(videos: Path, tmp_path: Path) -> None:
    for i in range(8):
        write(videos / f"more{i}.mp4", texture(i, 30, 64, 64))
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "dropmae",
        "prepare",
        str(videos),
        str(out),
        "--short-side",
        "48",
        "--workers",
        "2",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    journal = out / "prepare.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not journal.exists() or journal.read_bytes().count(b"\n") < 4):
        time.sleep(0.01)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with journal.open("a") as file:
        file.write('{"name": "half a li')
    (out / ".more7.mp4.1.partial").write_bytes(b"left behind")
    while time.monotonic() < deadline and any(map(alive, workers)):
        time.sleep(0.05)
    assert not any(map(alive, workers)), "workers end with their parent"
    result = prepare(videos, out, short_side=48, workers=2)
    assert result["videos"] == 11
    check_bad(result["bad"])
    assert not list(out.rglob("*.partial"))
    for path in find(out):
        assert len(list(Video(path))) > 4


def children(process: int) -> list[int]:
    if not os.path.exists("/proc/self/status"):
        return []
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"\nPPid:\t{process}\n" in (entry / "status").read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_a_full_disk_is_one_line_and_loses_nothing(videos: Path, tmp_path: Path) -> None:
    if os.name != "posix":
        pytest.skip("the limit on file sizes is set with ulimit")
    write(videos / "big.mp4", texture(9, 20, 240, 320), crf=1)
    for flag in ("", "--frames"):
        out = tmp_path / f"out{flag}"
        command = f"ulimit -f 100; {sys.executable} -m dropmae prepare {videos} {out} --workers 1 --crf 1 {flag}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("dropmae prepare:")
        assert "ile too large" in last
        assert "the same command continues" in last
        assert "Traceback" not in done.stderr
        assert not list(out.rglob("*.partial"))
        assert prepare(videos, out, frames=bool(flag), crf=1, workers=1)["videos"] == 4


class Bomb(str):
    """A path that ends the process which receives it, as a crashing decoder does."""

    def __reduce__(self) -> Any:
        return os._exit, (3,)


def test_a_file_that_crashes_the_decoder_is_a_bad_file(videos: Path, tmp_path: Path) -> None:
    form = Form(32, False, 23, 16)
    jobs = [Job(f"{i}.mp4", str(videos / "small.mp4"), str(tmp_path / f"{i}.mp4"), form) for i in range(4)]
    jobs.insert(2, Job("bomb.mp4", Bomb("bomb.mp4"), str(tmp_path / "bomb.mp4"), form))
    outcomes = {job.name: outcome for job, outcome in run(jobs, 2, convert)}
    assert outcomes.pop("bomb.mp4") == {"error": "the decoder crashes on it"}
    assert len(outcomes) == 4
    assert all(outcome["frames"] == 20 for outcome in outcomes.values())


def test_outputs_of_the_same_name_keep_their_suffix(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    write(videos / "x.mp4", texture(0, 4, 32, 32))
    (videos / "x.mov").write_bytes((videos / "x.mp4").read_bytes())
    write(videos / "y.v2.mp4", texture(0, 4, 32, 32))
    prepare(videos, tmp_path / "out", workers=1)
    assert [path.name for path in find(tmp_path / "out")] == ["x.mov.mp4", "x.mp4.mp4", "y.v2.mp4"]


def test_one_file_and_one_folder_of_images(videos: Path, tmp_path: Path) -> None:
    assert prepare(videos / "small.mp4", tmp_path / "one", workers=1)["videos"] == 1
    assert prepare(videos / "walk", tmp_path / "images", workers=1)["frames"] == 5
    assert (tmp_path / "images" / "walk.mp4").exists()


def test_wrong_arguments_and_folders(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        prepare(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="no videos"):
        prepare(tmp_path / "none", tmp_path / "out")
    cases: list[dict[str, Any]] = [{"short_side": 8}, {"crf": 52}, {"gop": 0}, {"workers": -1}]
    for wrong in cases:
        with pytest.raises(ValueError, match="must be at least"):
            prepare(videos, tmp_path / "out", **wrong)
    with pytest.raises(ValueError, match="lies in"):
        prepare(videos, videos / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="is not empty and was not made by prepare"):
        prepare(videos, tmp_path / "mine")
    assert not (tmp_path / "out").exists()
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "text.mp4").write_text("text\n" * 50)
    with pytest.raises(OSError, match="none of its 1 files can be read"):
        prepare(bad, tmp_path / "out", workers=1)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["bad"][0]["name"] == "text.mp4"
