"""The demo, on a few tiny clips: all is made, and the same command continues what was begun or returns at once."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

import dropmae
from dropmae.cli import main

DEMO = importlib.import_module("dropmae.demo")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings under which the demo takes seconds."""
    monkeypatch.setattr(DEMO, "CLIPS", {"clips": 3, "frames": 5, "size": (40, 40)})
    monkeypatch.setattr(DEMO, "FIELDS", {**DEMO.FIELDS, "image": 32, "patch": 8})
    monkeypatch.setattr(DEMO, "TRAINING", {**DEMO.TRAINING, "global_batch": 2, "workers": 0})
    monkeypatch.setattr(DEMO, "FEWEST", 2)
    monkeypatch.setattr(DEMO, "MOST", 3)


def test_demo_ends_with_a_report_and_returns_at_once_the_second_time(tiny: None, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--minutes", "0.01", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["out"] == str(out / "report.html")
    assert told.err.strip().splitlines()[-1] == str((out / "report.html").resolve())
    for verb in ("synth", "prepare", "pretrain twinmae", "pretrain dropmae", "report"):
        assert f"$ dropmae {verb} " in told.err
    page = (out / "report.html").read_text()
    assert "TwinMAE" in page
    assert "DropMAE" in page
    assert json.loads((out / "demo.json").read_text())["steps"] == 2
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert dropmae.demo(out=out, minutes=100)["steps"] == 2
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}


def test_demo_trains_as_long_as_the_time_allows(tiny: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(DEMO, "pace", lambda *_: 0.5)
    monkeypatch.setattr(DEMO, "MOST", 1000)
    assert DEMO.settled(tmp_path / "a.json", [], DEMO.RESERVE + 100, seed=0) == 100
    assert DEMO.settled(tmp_path / "a.json", [], 1e6, seed=0) == 100
    assert DEMO.settled(tmp_path / "b.json", [], 1e6, seed=0) == 1000


def test_demo_wants_time(tmp_path: Path, capsys: Any) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), "--minutes", "0"]) == 2
    assert "minutes" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
