"""A little of `make stress`: two processes on one --out, and kills at random moments."""

from __future__ import annotations

from pathlib import Path

import pytest

import stress

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    stress.prepare_inputs(folder)
    return folder


@pytest.mark.parametrize("name", ["track", "convert"])
def test_two_at_once_leave_what_one_makes(name: str, inputs: Path, tmp_path: Path) -> None:
    found = stress.pairs(name, inputs, tmp_path / "place", 2, seed=1)
    assert found["bad"] == []
    assert sum(found["ended with"].values()) == 2


def test_evaluate_goes_on_after_each_signal(inputs: Path, tmp_path: Path) -> None:
    found = stress.kills("evaluate", inputs, tmp_path / "place", 3, seed=1)
    assert found["bad"] == []


def test_what_is_torn_or_mixed_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"frame": 1}\n{"fra')
    (tmp_path / "b.html").write_text("<html>")
    (tmp_path / "c.txt").write_text("x")
    assert [one.split(":")[0] for one in stress.torn(tmp_path, stress.contents(tmp_path))] == ["a.jsonl", "b.html"]
    made = stress.contents(tmp_path)
    (tmp_path / "c.txt").write_text("y")
    assert "other bytes in ['c.txt']" in stress.differs(tmp_path, stress.Alone(made, frozenset(["c.txt"]), 1.0))
