"""The demo, on a few tiny clips: all is made, and the same command continues what was begun or returns at once."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

import dropmae
from dropmae.cli import main
from dropmae.target import read_targets
from dropmae.video import Video, write_store
from dropmae.weights import SHIPPED
from samples import moving_squares

DEMO = importlib.import_module("dropmae.verbs.demo")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings under which the demo takes seconds."""
    monkeypatch.setattr(DEMO, "CLIPS", {"clips": 3, "frames": 5, "size": (40, 40)})
    monkeypatch.setattr(DEMO, "FIELDS", {**DEMO.FIELDS, "image": 32, "patch": 8})
    monkeypatch.setattr(DEMO, "TRAINING", {**DEMO.TRAINING, "global_batch": 2, "workers": 0})
    monkeypatch.setattr(DEMO, "FOLLOWED", {**DEMO.FOLLOWED, "frames": 4, "size": (64, 80)})
    monkeypatch.setattr(DEMO, "REAL", {**DEMO.REAL, "stop": 3})
    monkeypatch.setattr(DEMO, "FEWEST", 2)
    monkeypatch.setattr(DEMO, "MOST", 3)


def test_demo_ends_with_a_report_and_returns_at_once_the_second_time(tiny: None, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--minutes", "0.01", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["out"] == str(out / "report.html")
    assert told.err.strip().splitlines()[-1] == str((out / "report.html").resolve())
    for verb in ("synth", "prepare", "pretrain twinmae", "pretrain dropmae", "track", "report"):
        assert f"$ dropmae {verb} " in told.err
    page = (out / "report.html").read_text()
    assert "TwinMAE" in page
    assert "DropMAE" in page
    assert "followed from one box by the tracker that comes with the package" in page
    assert "Tracking in a real clip" in page
    assert (out / "tracking" / "tracked.mp4").is_file()
    ((_, followed),) = read_targets(out / "tracking" / "real.jsonl").items()
    assert [len(followed[frame].ids) for frame in sorted(followed)] == [1, 1, 1]
    assert json.loads((out / "demo.json").read_text())["steps"] == 2
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert dropmae.demo(out=out, minutes=100)["steps"] == 2
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}


def test_the_real_clip_of_the_demo_comes_with_the_package_and_is_credited() -> None:
    clip = SHIPPED / "car.mp4"
    assert clip.stat().st_size < 500_000
    with Video(clip) as video:
        assert len(video) == DEMO.REAL["stop"]
        assert video.width >= 320
        x, y, w, h = DEMO.REAL["box"]
        frame = video[0].astype(float)
        inside = frame[int(y) : int(y + h), int(x) : int(x + w)].mean()
        assert inside > 2 * frame[:, : int(x)].mean()  # a white car on dark asphalt
    assert "car.mp4" in (SHIPPED / "CREDITS.md").read_text()


def test_demo_trains_as_long_as_the_time_allows(tiny: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_store(tmp_path / "clip.frames", moving_squares(0, frames=4, side=40), 25)
    monkeypatch.setattr(DEMO, "MOST", 100_000)
    first = DEMO.settled(tmp_path / "a.json", tmp_path, DEMO.RESERVE + 100, seed=0)
    assert 2 < first < 100_000
    assert DEMO.settled(tmp_path / "a.json", tmp_path, 1e9, seed=0) == first
    told = json.loads((tmp_path / "a.json").read_text())
    assert first == int(100 / max(told["seconds_per_step"].values()))


def test_a_run_that_fails_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    bad = ["dropmae", "pretrain", "twinmae", "/nowhere", "--out", "/nowhere/run"]
    with pytest.raises(OSError, match=r"pretrain twinmae ended with code 1: .*/nowhere"):
        DEMO.side_by_side([["dropmae", "--version", "fine"], bad])
    assert "twinmae  dropmae pretrain: /nowhere" in capfd.readouterr().err


def test_demo_wants_time(tmp_path: Path, capsys: Any) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), "--minutes", "0"]) == 2
    assert "minutes" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
