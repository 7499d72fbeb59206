"""Matching accuracy: numbers by hand, and encoders from rendering to score."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import dropmae
from dropmae.benchmarks.matching import Matching
from dropmae.target import Target

NAN = [np.nan, np.nan]


def pointed(*points: list[float], visible: list[bool] | None = None) -> Target:
    seen = None if visible is None else np.array(visible)
    return Target(ids=np.zeros(0, np.int64), points=np.array(points, float), visible=seen)


def test_by_hand() -> None:
    """Frames of 140 x 200 pixels: a cell is 10 pixels.

    Point 0 is asked for in frame 0, moves by 5 and then by 30; point 1 in frame 1, and is hidden in frame 2.
    """
    truth = {
        0: pointed([50, 50], [9, 9], visible=[True, False]),
        1: pointed([55, 50], [20, 20], visible=[True, True]),
        2: pointed([80, 50], [20, 20], visible=[True, False]),
        3: pointed([80, 50], [25, 41], visible=[True, True]),
    }
    bench = Matching(size=(140, 200))
    #        point 0: 10 across is right; 15 down is within two cells; 5 is right.  Point 1: 21 is a miss.
    result = {1: pointed([65, 50], NAN), 2: pointed([80, 65], [20, 20]), 3: pointed([75, 45], [25, 20])}
    report = bench.score({"v": result}, {"v": truth})
    row = report["sequences"]["v"]
    assert row["points"] == 4
    assert row["match"] == 2 / 4
    assert row["match_2"] == 3 / 4
    assert row["moved"] == 3 / 4, "by 30 in frames 2 and 3, and point 1 by 21"
    assert row["match_moved"] == 1 / 3
    assert row["unmoved"] == 1 / 4
    assert report["match"] == row["match"]
    assert report["protocol"] == "within 1/14 of the short side"
    finer = Matching(size=(140, 200), cells=28).score({"v": result}, {"v": truth})
    assert finer["match"] == 1 / 4, "5 pixels are a cell"
    still = {frame: pointed([50, 50], [20, 20]) for frame in truth}
    found = bench.score({"v": still}, {"v": truth})
    assert found["match"] == found["unmoved"] == 1 / 4
    assert found["match_moved"] == 0


def test_sequences_weigh_the_same_and_frames_without_an_answer_are_misses() -> None:
    moved = {frame: pointed([10.0 * frame, 10]) for frame in range(4)}
    long = {frame: pointed([10, 10]) for frame in range(11)}
    bench = Matching(size=(140, 140))
    report = bench.score({"a": {1: moved[1]}, "b": long}, {"a": moved, "b": long, "c": long})
    assert report["sequences"]["a"]["match"] == pytest.approx(1 / 3)
    assert report["match"] == pytest.approx((1 / 3 + 1) / 2)
    assert report["match_moved"] == 0, "frame 3 of the first alone"
    assert report["missing"] == ["c"]
    nothing = bench.score({"b": long}, {"b": long})
    assert nothing["match_moved"] is None


def test_what_cannot_be_scored_is_one_line() -> None:
    once = {0: pointed([1, 1]), 1: pointed([1, 1], visible=[False]), 2: Target(ids=np.zeros(0, np.int64))}
    bench = Matching()
    with pytest.raises(OSError, match="no point is seen twice"):
        bench.score({"v": once}, {"v": once})
    with pytest.raises(OSError, match="none of the videos"):
        bench.score({"other": once}, {"v": once})
    twice = {0: pointed([1, 1]), 1: pointed([1, 1])}
    with pytest.raises(OSError, match="v, frame 1: 2 points, but 1 are annotated"):
        bench.score({"v": {1: pointed([1, 1], [2, 2])}}, {"v": twice})
    with pytest.raises(ValueError, match="cells must be at least 1"):
        Matching(cells=0)


def test_an_encoder_is_judged_from_rendering_to_score(tmp_path: Path) -> None:
    usual = {"root": tmp_path / "clips", "clips": 2, "frames": 4, "size": (64, 64), "workers": 1, "device": "cpu"}
    first = dropmae.evaluate("matching", weights="random:tiny:twinmae:0:64", out=tmp_path / "a", **usual)
    again = dropmae.evaluate("matching", weights="random:tiny:twinmae:0:64", out=tmp_path / "b", **usual)
    assert first["match"] == again["match"] > 0
    assert {"match", "match_2", "match_moved", "unmoved", "moved"} <= first.keys()
    lines = (tmp_path / "a" / "predictions" / "clip-00000.mp4.jsonl").read_text().splitlines()
    places = [point for line in lines for point in json.loads(line)["points"] if point and json.loads(line)["frame"]]
    asked = json.loads(lines[0])["points"]
    middles = {8.0, 24.0, 40.0, 56.0}
    assert {value for point in places if point not in asked for value in point} <= middles | {
        value for point in asked if point for value in point
    }
    with pytest.raises(ValueError, match="neighbours has no setting topk"):
        dropmae.evaluate("matching", weights="random:tiny", out=tmp_path / "c", set=("topk=3",), **usual)
