"""The folder and synthetic benchmarks: numbers that can be worked out by hand, and files that can be read again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dropmae import registry
from dropmae.benchmarks.folder import Folder
from dropmae.benchmarks.synthetic import Synthetic
from dropmae.target import Target, write_targets

SMALL = Synthetic(clips=3, frames=6, size=(64, 64), objects=(2, 2))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    SMALL.prepare(folder)
    return folder


def test_a_perfect_result_is_perfect(root: Path, tmp_path: Path) -> None:
    truth = SMALL.annotations(root)
    for name, targets in truth.items():
        SMALL.write(name, dict(targets), tmp_path)
    report = SMALL.score(SMALL.read(tmp_path), truth)
    json.dumps(report, allow_nan=False)
    for name in ("success_auc", "success_50", "precision_20", "J_mean", "F_mean", "J&F_mean", "delta"):
        assert report[name] == pytest.approx(1, abs=2e-3), name
    assert report["oa"] == report["aj"] == 1
    assert report["outliers"] == 0
    assert report["epe"] == 0
    assert list(report["sequences"]) == list(truth)
    assert report["missing"] == report["extra"] == []


def test_nothing_found_is_nothing(root: Path) -> None:
    truth = SMALL.annotations(root)
    results = {
        name: {
            frame: Target(
                ids=np.zeros(0, np.int64),
                boxes=np.zeros((0, 4)),
                mask=np.zeros((64, 64), np.uint8),
                points=np.full_like(target.points, np.nan),
                visible=np.zeros(len(target.points), bool),
            )
            for frame, target in targets.items()
            if target.points is not None
        }
        for name, targets in truth.items()
    }
    report = SMALL.score(results, truth)
    assert report["success_auc"] == report["precision_20"] == report["delta"] == 0
    assert report["aj"] == 0
    assert report["J_mean"] < 0.3, "only frames without the object are right"
    assert "outliers" not in report


def scored(truth: dict[int, Target], result: dict[int, Target], **settings: bool) -> dict:
    return Folder(**settings).score({"v": result}, {"v": truth})


def boxed(*rows: tuple[int, list[float]]) -> Target:
    return Target(ids=np.array([row[0] for row in rows]), boxes=np.array([row[1] for row in rows], np.float64))


def test_boxes_by_hand() -> None:
    gone = [np.nan] * 4
    truth = {
        0: boxed((1, [0, 0, 10, 10]), (2, gone)),
        1: boxed((1, [0, 0, 10, 10]), (2, [50, 50, 10, 10])),
        2: boxed((1, [0, 0, 10, 10]), (2, [50, 50, 10, 10])),
        3: boxed((1, gone), (2, [50, 50, 10, 10])),
    }
    # Object 1 counts in frames 1 and 2: overlap 1/3 and a miss. Object 2, given in frame 1, in 2 and 3: 1 and a miss.
    result = {1: boxed((1, [5, 0, 10, 10])), 2: boxed((2, [50, 50, 10, 10])), 3: boxed((1, [0, 0, 5, 5]), (2, gone))}
    row = scored(truth, result)["sequences"]["v"]
    assert row["success_auc"] == pytest.approx((1 / 6 + 1 / 2) / 2)
    assert row["success_50"] == 0.25
    assert row["precision_20"] == 0.5


def test_boxes_are_taken_from_masks_where_there_are_none() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[2:6, 4:9] = 1
    truth = {frame: boxed((1, [4, 2, 5, 4])) for frame in range(3)}
    result = {frame: Target(ids=np.array([1]), mask=mask) for frame in range(3)}
    assert scored(truth, result)["success_auc"] == 1


def test_points_by_hand() -> None:
    def pointed(*points: list[float], visible: list[bool]) -> Target:
        return Target(ids=np.zeros(0, np.int64), points=np.array(points), visible=np.array(visible))

    truth = {
        0: pointed([0, 0], [5, 5], visible=[True, False]),
        1: pointed([0, 0], [5, 5], visible=[True, True]),
        2: pointed([0, 0], [5, 5], visible=[False, True]),
    }
    # Scored: the first point in frames 1 (visible) and 2 (hidden), the second in frame 2 (visible).
    result = {
        1: pointed([3, 0], [99, 99], visible=[True, False]),
        2: pointed([0, 0], [5, 13], visible=[True, False]),
    }
    row = scored(truth, result)
    assert row["points_within"] == {"1": 0, "2": 0, "4": 0.5, "8": 0.5, "16": 1}
    assert row["delta"] == pytest.approx(0.4)
    assert row["oa"] == pytest.approx(1 / 3)
    # Visible in truth 2; the first point is right from 4 pixels on; seen while hidden is a false positive.
    assert row["aj"] == pytest.approx((0 + 0 + 1 / 3 + 1 / 3 + 1 / 3) / 5)


def test_flow_by_hand() -> None:
    flow = np.zeros((2, 2, 2), np.float32)
    flow[0, 0] = [4, 3]
    flow[1, 1] = np.nan
    truth, found = Target(ids=np.zeros(0, np.int64), flow=flow), np.zeros((2, 2, 2), np.float32)
    found[0, 1] = [0, 1]
    row = scored({0: truth}, {0: Target(ids=np.zeros(0, np.int64), flow=found)})
    assert row["outliers"] == pytest.approx(1 / 3)
    assert row["epe"] == pytest.approx(6 / 3)


def test_only_what_both_hold_is_scored(root: Path) -> None:
    truth = SMALL.annotations(root)
    name = next(iter(truth))
    boxes = {frame: Target(ids=target.ids, boxes=target.boxes) for frame, target in truth[name].items()}
    report = SMALL.score({name: boxes, "other.mp4": {}}, truth)
    assert report["success_auc"] == 1
    assert "J_mean" not in report
    assert "delta" not in report
    assert report["missing"] == list(truth)[1:]
    assert report["extra"] == ["other.mp4"]
    with pytest.raises(OSError, match="none of the videos"):
        SMALL.score({"other.mp4": boxes}, truth)
    with pytest.raises(OSError, match="no field in common"):
        SMALL.score({name: {}}, truth)
    quick = replace(SMALL, contours=False).score({name: truth[name]}, truth)
    assert "F_mean" not in quick
    assert quick["J_mean"] == 1


def test_sizes_that_differ_are_named() -> None:
    one = Target(ids=np.array([1]), mask=np.ones((4, 4), np.uint8))
    other = Target(ids=np.array([1]), mask=np.ones((4, 5), np.uint8))
    with pytest.raises(OSError, match="v, frame 1: a mask of"):
        scored({0: one, 1: one}, {0: one, 1: other})


def test_sequences_and_results_on_disk(root: Path, tmp_path: Path) -> None:
    found = SMALL.sequences(root)
    assert [sequence.name for sequence in found] == ["clip-00000.mp4", "clip-00001.mp4", "clip-00002.mp4"]
    assert found[1].video.shape == (6, 64, 64, 3)
    assert found[1].targets[0].boxes is not None
    assert len(Folder().sequences(root.parent, root.name)) == 3
    target = boxed((1, [1, 2, 3, 4]))
    write_targets(tmp_path / "all.jsonl", {"a.mp4": {0: target}, "b.mp4": {0: target}})
    assert list(Folder().read(tmp_path / "all.jsonl")) == ["a.mp4", "b.mp4"]
    assert list(Folder().annotations(tmp_path / "all.jsonl")) == ["a.mp4", "b.mp4"]
    Folder().write("deep/a.mp4", {0: target}, tmp_path / "out")
    assert list(Folder().read(tmp_path / "out")) == ["deep/a.mp4"]
    Folder().write("deep/a.mp4", {0: target}, tmp_path / "out" / "again")
    with pytest.raises(OSError, match="another file"):
        Folder().read(tmp_path / "out")


def test_bad_folders(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"targets\.jsonl: no such file"):
        Folder().sequences(tmp_path)
    with pytest.raises(FileNotFoundError, match="no results"):
        Folder().read(tmp_path)
    shutil.copy(root / "targets.jsonl", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"clip-00000\.mp4: no such video"):
        Folder().sequences(tmp_path)
    with pytest.raises(ValueError, match="no split"):
        SMALL.sequences(root, "val")
    with pytest.raises(ValueError, match="other settings"):
        replace(SMALL, seed=5).sequences(root)


def test_the_registry_knows_them() -> None:
    assert registry.load("benchmarks", "folder") is Folder
    assert registry.load("benchmarks", "synthetic") is Synthetic


def test_a_frame_without_flow_is_named() -> None:
    nobody = np.zeros(0, np.int64)
    moves = Target(ids=nobody, flow=np.ones((4, 4, 2), np.float32))
    still = Target(ids=nobody, flow=np.full((4, 4, 2), np.nan, np.float32))
    truth = {0: moves, 1: moves, 2: still}
    assert scored(truth, {0: moves, 1: moves})["epe"] == 0  # the last frame has none
    for results, frame in (({0: moves}, 1), ({}, 0), ({0: Target(ids=nobody), 1: moves}, 0)):
        with pytest.raises(OSError, match=f"frame {frame}: the results have no flow"):
            scored(truth, results)
