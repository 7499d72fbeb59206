"""Run folders: held by one process, taken over while nothing is finished, continued, extended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dropmae
import launch
from dropmae import locks, machine, runs, storage
from dropmae.cli import main
from dropmae.nn import vit
from dropmae.video import write

pytestmark = pytest.mark.usefixtures("no_charts")


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two clips, and a `tiny` that is tiny."""
    monkeypatch.setitem(vit.SIZES, "tiny", vit.Shape(8, 2, 2, 8, 1, 2))
    for number in range(2):
        frames = np.random.default_rng(number).integers(0, 255, (8, 40, 48, 3)).astype(np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        write(tmp_path / "in" / f"{number}.mp4", frames, 10)
    return tmp_path / "in"


def words(videos: Path, out: Path, *more: str) -> list[str]:
    size = ["--size", "tiny", "--image", "32", "--patch", "8", "--global-batch", "2", "--workers", "0"]
    steps = [] if "--steps" in more else ["--steps", "4"]
    return ["pretrain", "mae", str(videos), "--out", str(out), *size, *steps, *more]


def steps(out: Path) -> list[int]:
    return [row["step"] for row in storage.Lines(out / "metrics.jsonl").read()]


# ------------------------------------------------------------ locks


def test_a_folder_that_is_held_says_by_whom(tmp_path: Path) -> None:
    with locks.held(tmp_path / "a"), pytest.raises(OSError, match=rf"in use by process {os.getpid()} on \S+, since"):
        locks.held(tmp_path / "a").__enter__()
    assert not (tmp_path / "a").exists(), "nothing was written in it"


@pytest.mark.parametrize("change", [{"pid": 2**22 + 1}, {"born": "another process of the same number"}])
def test_the_lock_of_a_dead_process_is_taken_over(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / locks.NAME).write_text(json.dumps({**locks._own(), **change}))
    with locks.held(tmp_path):
        assert json.loads((tmp_path / locks.NAME).read_text()) == locks._own() | {
            "since": json.loads((tmp_path / locks.NAME).read_text())["since"]
        }
    assert not (tmp_path / locks.NAME).exists()


def test_a_process_elsewhere_is_gone_when_it_gives_no_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SILENCE", 2.5)
    path = tmp_path / locks.NAME
    path.write_text(json.dumps({**locks._own(), "host": "elsewhere", "name": "node7"}))
    with locks.held(tmp_path):
        pass
    path.write_text(json.dumps({**locks._own(), "host": "elsewhere", "name": "node7"}))
    beat = "import os, sys, time\nfor _ in range(40):\n    os.utime(sys.argv[1]); time.sleep(0.2)"
    alive = subprocess.Popen([sys.executable, "-c", beat, str(path)])
    try:
        with pytest.raises(OSError, match="on node7"):
            locks.held(tmp_path).__enter__()
    finally:
        alive.kill()
        alive.wait()


RACE = """
import sys, time
from pathlib import Path
from dropmae import locks, storage
out, count = Path(sys.argv[1]), 0
storage.append(out / "ready", ["1"])
while len((out / "ready").read_text().split()) < 4:
    time.sleep(0.001)
for attempt in range(40):
    try:
        with locks.held(out):
            storage.append(out / "log", [f"in {sys.argv[2]}"])
            time.sleep(0.002)
            storage.append(out / "log", [f"out {sys.argv[2]}"])
    except OSError:
        time.sleep(0.001)
"""


def test_one_at_a_time_also_where_the_lock_is_stale(tmp_path: Path) -> None:
    (tmp_path / locks.NAME).write_text(json.dumps({**locks._own(), "pid": 2**22 + 1}))
    some = [subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path), str(number)]) for number in range(4)]
    assert [process.wait(60) for process in some] == [0, 0, 0, 0]
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) >= 20
    for came, went in zip(lines[::2], lines[1::2]):
        assert (came.split()[0], went.split()[0]) == ("in", "out")
        assert came.split()[1] == went.split()[1]


# ------------------------------------------------------------ whose folder it is


def test_a_second_process_is_told_and_changes_nothing(videos: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    assert main(words(videos, out)) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    own = {**locks._own(), "pid": other.pid, "born": machine.born(other.pid)}
    (out / locks.NAME).write_text(json.dumps(own))
    try:
        assert main(words(videos, out)) == 1
        assert f"in use by process {other.pid}" in capsys.readouterr().err
    finally:
        other.kill()
        other.wait()
    (out / locks.NAME).unlink()
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_what_is_refused_leaves_nothing(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(words(videos, out, "--micro-batch", "3")) == 2
    assert not out.exists()
    assert main(words(videos, out)) == 0


def test_a_folder_without_a_checkpoint_is_taken_over(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(words(videos, out)) == 0
    storage.remove(out / "resume")
    storage.remove(out / "last.safetensors")
    assert main(words(videos, out, "--lr", "0.1")) == 0
    assert json.loads((out / "config.json").read_text())["options"]["lr"] == 0.1
    assert steps(out) == [1, 2, 3, 4]


def test_another_folder_stays(videos: Path, tmp_path: Path, capsys: Any) -> None:
    for name, text in (("config.json", '{"model_type": "bert"}'), ("notes.txt", "mine")):
        out = tmp_path / name.partition(".")[0]
        out.mkdir()
        (out / name).write_text(text)
        assert main(words(videos, out)) == 2
        assert "is no folder of a run" in capsys.readouterr().err
        assert [path.name for path in out.iterdir()] == [name]
        assert (out / name).read_text() == text


def test_a_finished_run_is_extended_where_it_is_said(videos: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    assert main(words(videos, out)) == 0
    assert main(words(videos, out, "--steps", "6")) == 2
    assert "options.steps was 4, now 6. --extend goes on to the new length" in capsys.readouterr().err
    assert main(words(videos, out, "--steps", "6", "--lr", "0.1", "--extend")) == 2
    assert main(words(videos, out, "--steps", "6", "--extend")) == 0
    assert steps(out) == [1, 2, 3, 4, 5, 6]
    assert main(words(videos, out, "--steps", "6")) == 0, "the new length is the run's"
    assert main(words(videos, out, "--steps", "4", "--extend")) == 2
    assert "has 6 steps behind it" in capsys.readouterr().err


def test_a_run_below_its_videos(videos: Path, tmp_path: Path, capsys: Any) -> None:
    """Its pictures are no videos: neither for itself, nor for a later run beside it."""
    for name in ("run", "later"):
        assert main(words(videos, videos / name)) == 0
        assert json.loads((videos / name / "config.json").read_text())["data"]["videos"] == 2
    assert main(words(videos, videos / "run")) == 0
    assert "finished, 4 steps" in capsys.readouterr().err


def test_two_at_once(videos: Path, tmp_path: Path) -> None:
    """One trains, the other says who does; every step is there once, in order."""
    size = ["--size", "tiny", "--depth", "2", "--image", "32", "--global-batch", "2", "--workers", "0", "--steps", "20"]
    command = ["pretrain", "mae", str(videos), "--out", str(tmp_path / "run"), *size]
    some = [launch.start(command, stderr=subprocess.PIPE) for _ in range(2)]
    told = [process.communicate(timeout=120)[1] for process in some]
    codes = [process.returncode for process in some]
    assert 0 in codes
    for code, text in zip(codes, told):
        assert code == 0 or (code == 1 and "is in use by process" in text)
    assert steps(tmp_path / "run") == list(range(1, 21))


def test_lines_without_their_end_are_left_out(tmp_path: Path) -> None:
    lines = storage.Lines(tmp_path / "a.jsonl")
    assert lines.read() == []
    lines.add([{"step": 1}, {"step": 2}])
    with open(lines.path, "a") as stream:
        stream.write('{"step": 3, "lo')
    assert lines.read() == [{"step": 1}, {"step": 2}]
    lines.rewrite([{"step": 1}])
    assert lines.read() == [{"step": 1}]


def test_an_evaluation_is_held_too(tmp_path: Path) -> None:
    config = {"benchmark": {"name": "x"}, "task": {}, "weights": {}, "engine": {}}
    parts = ("benchmark", "task")
    with runs.opened(tmp_path / "e", config, lambda out: False, noun="evaluation", parts=parts) as record:
        record.write()
        with pytest.raises(OSError, match="in use"):
            runs.opened(tmp_path / "e", config, lambda out: False, parts=parts).__enter__()
    with runs.opened(tmp_path / "e", {**config, "task": {"a": 1}}, lambda out: False, parts=parts) as record:
        assert not record.known
    with pytest.raises(ValueError, match=r"another evaluation: task.a was None, now 1. Choose"):
        runs.opened(
            tmp_path / "e", {**config, "task": {"a": 1}}, lambda out: True, noun="evaluation", parts=parts
        ).__enter__()


def test_time_stamps_of_the_past_do_not_matter(tmp_path: Path) -> None:
    """A lock is judged by its process, not by its age."""
    with locks.held(tmp_path):
        os.utime(tmp_path / locks.NAME, (0, time.time() - 1e6))
        with pytest.raises(OSError, match="in use"):
            locks.held(tmp_path).__enter__()


def test_the_package_has_the_version_it_writes(videos: Path, tmp_path: Path) -> None:
    assert main(words(videos, tmp_path / "run")) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["environment"]["dropmae"] == dropmae.__version__
    assert config["kind"] == "methods"
