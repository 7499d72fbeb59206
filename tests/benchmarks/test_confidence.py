"""The worth of a tracker's scores, by hand and against a count over all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from dropmae.metrics.confidence import Scored, auroc, calibration_error, confidence_numbers, scored
from dropmae.target import Target


def test_auroc_is_the_share_of_pairs_in_order_where_ties_count_half():
    rng = np.random.default_rng(0)
    scores, right = rng.integers(0, 6, 80) / 5, rng.random(80) < 0.4
    pairs = scores[right][:, None] - scores[~right]
    assert auroc(scores, right) == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)
    assert auroc(np.array([0.1, 0.9]), np.array([False, True])) == 1
    assert np.isnan(auroc(scores, np.ones(80, bool)))


def test_calibration_error_by_hand():
    scores = np.array([0.95, 0.95, 0.95, 0.95, 0.05, 0.05])
    right = np.array([True, True, True, False, False, False])
    assert calibration_error(scores, right) == pytest.approx((4 * 0.2 + 2 * 0.05) / 6)
    assert calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0, bool)))


def test_a_score_on_an_edge_belongs_to_the_bin_below():
    """1/15 and 0.01 share the first bin, where their gaps cancel; 0.07 is in the second."""
    assert calibration_error(np.array([1 / 15, 0.01]), np.array([0, 1])) == pytest.approx(abs(1 / 15 + 0.01 - 1) / 2)
    apart = calibration_error(np.array([0.07, 0.01]), np.array([0, 1]))
    assert apart == pytest.approx((0.07 + 0.99) / 2)


def test_scores_beyond_probabilities_are_refused():
    with pytest.raises(ValueError, match="probability"):
        calibration_error(np.array([1.2]), np.array([True]))


def boxed(*rows: tuple[int, list[float], float]) -> Target:
    """A target of (id, box, score)."""
    ids, boxes, scores = zip(*rows)
    return Target(ids=np.array(ids), boxes=np.array(boxes), scores=np.array(scores))


def test_absent_and_unreported_boxes_are_wrong_and_unscored_frames_left_out():
    box, far, none = [0.0, 0, 10, 10], [90.0, 90, 10, 10], [np.nan] * 4
    truth = {
        0: boxed((1, box, 1.0)),
        2: boxed((1, box, 1.0), (2, box, 1.0)),
        3: boxed((1, box, 1.0), (2, none, 1.0)),
        4: boxed((1, far, 1.0), (2, box, 1.0)),
    }
    found = {
        2: boxed((1, box, 0.9)),
        3: boxed((1, far, 0.2), (2, box, 0.6)),
        4: boxed((1, far, np.nan), (2, none, 0.1)),
    }
    one, two = scored(found, truth)
    assert one.overlaps.tolist() == [1, 0, 1]
    assert two.overlaps.tolist() == [0, 0]
    numbers = confidence_numbers([one, two])
    assert numbers["scored_frames"] == 4
    assert numbers["auroc_50"] == 1
    assert numbers["calibration_error"] == pytest.approx((0.1 + 0.2 + 0.6 + 0.1) / 4)


def test_the_two_overlaps_that_count_as_right():
    numbers = confidence_numbers([Scored(np.array([0.43, 0.0]), np.array([0.9, 0.1]))])
    assert np.isnan(numbers["auroc_50"])
    assert numbers["auroc_30"] == 1


def test_without_scores_there_is_nothing_to_say():
    assert confidence_numbers([])["scored_frames"] == 0
