"""Box metrics: the primitives by hand, and every protocol against the numbers of the evaluator that it stands for."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dropmae.benchmarks.got10k import GOT10k
from dropmae.benchmarks.trackingnet import TrackingNet
from dropmae.formats.tracks import Track
from dropmae.metrics import boxes as bx
from dropmae.metrics import protocols
from dropmae.metrics.protocols import Protocol


def test_overlap_of_known_boxes():
    a = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 0, 0]], float)
    b = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [10, 0, 10, 10], [0, 0, 0, 0]], float)
    for inclusive in (False, True):
        found = bx.iou(a, b, inclusive=inclusive)
        np.testing.assert_allclose(found[:3], [1, 1 / 3, 0])
        assert np.isnan(found[3])
    assert bx.iou(a, b, eps=1e-9)[3] == 0


def test_inclusive_overlap_of_a_float_box_with_itself_can_pass_one():
    """The reason why both forms exist: at the threshold 1.0 the official curves differ by this rounding."""
    rng = np.random.default_rng(0)
    boxes = rng.uniform(1, 300, (1000, 4))
    assert (bx.iou(boxes, boxes, inclusive=True) > 1).any()
    assert bx.iou(boxes, boxes).max() == 1


def test_distances():
    a, b = np.array([[10.0, 20, 30, 40]]), np.array([[13.0, 24, 30, 40]])
    assert bx.centre_distances(a, b)[0] == 5
    assert bx.normalised_distances(a, b, a[:, 2:])[0] == pytest.approx(np.hypot(0.1, 0.1))
    assert np.isnan(bx.normalised_distances(a, a, np.zeros((1, 2)), last=True)[0])


def test_dividing_last_lands_on_the_threshold():
    """20 of 100 pixels is 0.2 to TrackingNet and a bit more to the others, which then miss that threshold."""
    truth, result = np.array([[100.0, 100, 100, 50]]), np.array([[120.0, 100, 100, 50]])
    assert bx.normalised_distances(result, truth, truth[:, 2:], pixel=1, last=True)[0] == 0.2
    assert bx.normalised_distances(result, truth, truth[:, 2:], pixel=1)[0] > 0.2


def test_counts_take_nan_as_a_miss():
    values = np.array([np.nan, 0.5, 1.0])
    assert bx.success_counts(values, np.array([0.5])).tolist() == [1]
    assert bx.success_counts(values, np.array([0.5]), at_least=True).tolist() == [2]
    assert bx.precision_counts(values, np.array([0.5])).tolist() == [1]


def test_clip_corner_keeps_the_width_left_of_the_image():
    boxes = np.array([[-10.0, 0, 50, 50], [90, 90, 50, 50], [200, 0, 10, 10]])
    assert bx.clip_corner(boxes, (100, 100)).tolist() == [[0, 0, 50, 50], [90, 90, 10, 10], [100, 0, 0, 10]]


def straight(frames: int = 30) -> np.ndarray:
    """Boxes of an object that moves to the right, all numbers above 0."""
    return np.array([[10 + 2 * t, 20, 30, 40] for t in range(frames)], float)


def score(result: np.ndarray, truth: np.ndarray, rules: Protocol, absent: np.ndarray | None = None) -> dict[str, Any]:
    curves = protocols.sequence_curves(protocols.frame_errors(result, truth, absent, rules), rules)
    return protocols.numbers(protocols.mean_curves([curves], rules), rules)


def test_a_perfect_result_misses_the_last_threshold_except_where_at_least_counts():
    truth = straight()
    for rules in (protocols.OTB, protocols.LASOT, protocols.PYTRACKING, protocols.GOT10K_TOOLKIT, protocols.PYSOT):
        found = score(truth, truth, rules)
        assert found["success_auc"] == pytest.approx(20 / 21, abs=1e-12)
        assert found["precision_20"] == pytest.approx(1, abs=1e-12)
    assert score(truth, truth, protocols.TRACKINGNET)["success_auc"] == 1


def test_rows_without_area_repeat_the_row_before():
    truth, result = straight(), straight()
    result[10] = [0, 0, 0, 0]
    result[20] = np.nan
    repaired = result.copy()
    repaired[10], repaired[20] = result[9], result[19]
    for rules in (protocols.OTB, protocols.LASOT):
        assert score(result, truth, rules) == score(repaired, truth, rules)
    with pytest.raises(ValueError, match=r"row 21.*pytracking"):
        score(result, truth, protocols.PYTRACKING)
    result[20] = repaired[20]
    assert score(result, truth, protocols.PYTRACKING) == score(repaired, truth, protocols.PYTRACKING)


def test_repair_sees_the_result_of_the_first_frame_not_its_truth():
    truth, result = straight(3), straight(3)
    result[0] = [500, 500, 10, 10]
    result[1] = np.nan
    errors = protocols.frame_errors(result, truth, None, protocols.OTB)
    assert errors.overlap.tolist() == [1, 0, 1]


def test_a_partly_nan_row_is_repaired_by_lasot_and_missed_by_otb():
    truth, result = straight(3), straight(3)
    result[2, 0] = np.nan
    assert np.isnan(protocols.frame_errors(result, truth, None, protocols.OTB).overlap[2])
    assert protocols.frame_errors(result, truth, None, protocols.LASOT).overlap[2] > 0.8


def test_lengths_as_each_evaluator_takes_them():
    truth = straight(30)
    longer, shorter = straight(33), straight(25)
    same = score(truth, truth, protocols.LASOT)
    assert score(longer, truth, protocols.LASOT) == same
    with pytest.raises(ValueError, match="only 25 boxes for 30 frames"):
        score(shorter, truth, protocols.LASOT)
    with pytest.raises(ValueError, match="33 boxes for 30 frames"):
        score(longer, truth, protocols.OTB)
    assert score(shorter, truth, protocols.OTB)["precision_20"] == pytest.approx(25 / 30)
    assert score(shorter, truth, protocols.PYTRACKING)["success_50"] == pytest.approx(25 / 30)
    assert score(shorter, truth, protocols.TRACKINGNET)["success_50"] == pytest.approx(25 / 30)
    assert score(shorter, truth, protocols.GOT10K_TOOLKIT)["precision_20"] == 1
    with pytest.raises(ValueError, match="only 25"):
        score(shorter, truth, protocols.tagged(protocols.OSTRACK, "lasot"))


def test_missing_rows_are_misses_even_where_the_truth_is_invalid():
    truth = straight(10)
    truth[8:] = 0
    assert score(truth[:8], truth, protocols.OTB)["precision_20"] == pytest.approx(0.8)
    assert score(truth, truth, protocols.OTB)["precision_20"] == pytest.approx(1.0)


def test_absent_frames_in_each_protocol():
    """Ten of twenty frames are absent, the result is perfect in the others and far off in these."""
    truth, absent = straight(20), np.arange(20) >= 10
    result = truth.copy()
    result[absent] += [500, 500, 0, 0]
    pytracking = protocols.PYTRACKING
    expected = {  # success at 0.5, precision at 20, normalised precision at 0.2
        protocols.LASOT: (0.5, 0.5, 0.5),
        protocols.tagged(pytracking, "lasot"): (0.5, 0.5, 0.5),
        protocols.tagged(pytracking, "visible"): (0.5, 0.5, 1.0),
        pytracking: (0.5, 0.5, 0.5),
        protocols.PYSOT: (0.5, 0.5, 0.5),
    }
    for rules, numbers in expected.items():
        found = score(result, truth, rules, absent)
        got = found["success_50"], found["precision_20"], found["norm_precision_20"]
        assert got == pytest.approx(numbers, abs=1e-9), rules.source
    truth[absent] = np.nan
    assert score(result, truth, protocols.GOT10K_TOOLKIT)["precision_20"] == 1
    uav = score(result, truth, protocols.tagged(pytracking, "uav"))
    assert (uav["success_50"], uav["precision_20"]) == (0.5, 1.0)
    with pytest.raises(ValueError, match="NaN in the ground truth"):
        score(result, truth, pytracking)


def test_boxes_at_the_border_are_valid_to_ostrack_only():
    truth = straight(10)
    truth[5:, 1] = -3
    assert score(truth, truth, protocols.PYTRACKING)["success_50"] == 0.5
    assert score(truth, truth, protocols.OSTRACK)["success_50"] == 1
    assert score(truth, truth, protocols.OTB)["precision_20"] == pytest.approx(1)


def test_sequences_with_an_empty_curve_drop_out_of_the_matlab_mean_only():
    curves = [dict.fromkeys(protocols.CURVES, np.full(21, value)) for value in (0.0, 0.5)]
    assert protocols.mean_curves(curves, protocols.OTB)["success"][0] == 0.5
    assert protocols.mean_curves(curves, protocols.PYTRACKING)["success"][0] == 0.25


# ------------------------------------------------------------ against the reference evaluators


def data(*parts: str) -> Path:
    root = os.environ.get("DROPMAE_TEST_DATA")
    if not root:
        pytest.skip("DROPMAE_TEST_DATA is not set: the reference evaluators' inputs and numbers are needed")
    return Path(root, *parts)


def expected(evaluator: str) -> dict[str, Any]:
    return json.loads(data("parity", "expected", f"{evaluator}.json").read_text())["result"]


def inputs(part: str) -> dict[str, dict[str, np.ndarray]]:
    files = sorted(data("parity", "inputs", "sot", part).glob("*.npz"))
    assert len(files) == 6
    return {file.stem: dict(np.load(file)) for file in files}


def evaluated(part: str, rules: Protocol, *, absent_is_nan: bool = False) -> dict[str, Any]:
    curves = []
    for sequence in inputs(part).values():
        truth, absent = sequence["gt"].copy(), sequence["absent"].astype(bool)
        if absent_is_nan:
            truth[absent] = np.nan
        curves.append(protocols.sequence_curves(protocols.frame_errors(sequence["pred"], truth, absent, rules), rules))
    return protocols.numbers(protocols.mean_curves(curves, rules), rules)


MATLAB = {
    "success_auc": "auc",
    "success_50": "op50",
    "success_75": "op75",
    "precision_20": "precision20",
    "norm_precision": "norm_precision020",
    "norm_precision_auc": "norm_precision_auc",
}
PYTHON = {
    "success_auc": "AUC",
    "success_50": "OP50",
    "success_75": "OP75",
    "precision_20": "P",
    "norm_precision": "PN",
}
TOOLKIT = {
    "success_auc": "success_score",
    "success_50": "success_rate",
    "precision_20": "precision_score",
    "norm_precision": "normalized_precision_score",
    "norm_precision_20": "norm_prec_at_0.20",
}


def compare(found: dict[str, Any], reference: dict[str, Any], keys: dict[str, str], scale: float, tolerance: float):
    compared = {ours: theirs for ours, theirs in keys.items() if theirs in reference}
    assert len(compared) >= 3
    for ours, theirs in compared.items():
        assert found[ours] * scale == pytest.approx(reference[theirs], abs=tolerance), ours


@pytest.mark.parametrize("part", ["clean", "edge"])
@pytest.mark.parametrize(
    ("evaluator", "rules"),
    [("lasot_octave", protocols.LASOT), ("tnl2k_octave", protocols.TNL2K), ("otb_octave", protocols.OTB)],
)
def test_matlab_toolkits(part: str, evaluator: str, rules: Protocol):
    compare(evaluated(part, rules), expected(evaluator)[part], MATLAB, 1, 1e-9)


@pytest.mark.parametrize("part", ["clean", "edge"])
@pytest.mark.parametrize("tag", ["otb", "tnl2k", "lasot", "lasot_extension_subset"])
@pytest.mark.parametrize(("evaluator", "rules"), [("pytracking", protocols.PYTRACKING), ("ostrack", protocols.OSTRACK)])
def test_python_analysis_code(part: str, tag: str, evaluator: str, rules: Protocol):
    if tag == "lasot":
        rules = protocols.tagged(rules, "lasot")
    elif tag == "lasot_extension_subset":
        rules = protocols.tagged(rules, "visible")
    compare(evaluated(part, rules), expected(evaluator)[f"{part}/{tag}"], PYTHON, 100, 1e-5)


@pytest.mark.parametrize("part", ["clean", "edge"])
@pytest.mark.parametrize("experiment", ["otb", "lasot", "lasot_nan_absent"])
def test_got10k_toolkit_on_other_data_sets(part: str, experiment: str):
    found = evaluated(part, protocols.GOT10K_TOOLKIT, absent_is_nan=experiment == "lasot_nan_absent")
    compare(found, expected("got10k_ope")[f"{part}/{experiment}"], TOOLKIT, 1, 1e-9)


def test_pysot_toolkit():
    """Four digits are published for the edge cases scored as OTB, without absence flags."""
    found = evaluated("edge", replace(protocols.PYSOT, absent="ignore"))
    numbers = found["success_auc"], found["precision_20"], found["norm_precision"]
    assert numbers == pytest.approx((0.3401, 0.4104, 0.2792), abs=5e-5)


def tracks(part: str) -> dict[str, Track]:
    return {
        name: Track(
            boxes=sequence["gt"],
            absent=sequence["absent"] == 1,
            cover=sequence["cover"],
            size=(int(sequence["wh"][0]), int(sequence["wh"][1])),
        )
        for name, sequence in inputs(part).items()
    }


@pytest.mark.parametrize("part", ["clean", "edge"])
@pytest.mark.parametrize("evaluator", ["got10k_pypi", "got10k_git"])
def test_got10k_val(part: str, evaluator: str):
    reference = expected(evaluator)[part]
    found = GOT10k().score({name: sequence["pred"] for name, sequence in inputs(part).items()}, tracks(part))
    assert found["ao"] == pytest.approx(reference["AO"], abs=1e-9)
    assert found["sr50"] == pytest.approx(reference["SR050"], abs=1e-9)
    assert found["sr75"] == pytest.approx(reference["SR075"], abs=1e-9)
    np.testing.assert_allclose(found["curves"]["success"], reference["succ_curve"], atol=1e-9, rtol=0)
    for name, numbers in reference["seq"].items():
        assert found["sequences"][name]["ao"] == pytest.approx(numbers["ao"], abs=1e-9)
        assert found["sequences"][name]["sr50"] == pytest.approx(numbers["sr"], abs=1e-9)


@pytest.mark.parametrize("part", ["clean", "edge"])
def test_trackingnet_devkit(part: str):
    reference = expected("trackingnet")[part]
    found = TrackingNet().score({name: sequence["pred"] for name, sequence in inputs(part).items()}, tracks(part))
    numbers = {"success_auc": "success", "precision": "precision", "norm_precision": "norm_precision"}
    compare(found, reference, {**numbers, "coverage": "coverage"}, 100, 1e-9)
