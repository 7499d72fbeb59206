"""How a box is believed to move: a Kalman filter over its place and its step from scan to scan, x y z and yaw.

Places that are measured badly, of people far away say, count little against a way that was smooth so far.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dropmae.metrics.boxes3d import moved, wrapped

GIVEN = np.array([0.02, 0.02, 0.02, 0.01])
"""Standard deviation of a box that is given."""
FIRST = np.array([1.0, 1.0, 0.03, 0.03])
"""Standard deviation of the step of something that was seen once."""
CHANGE = (0.005, 0.02)
"""Standard deviation of the change of a step from scan to scan, in height and in yaw."""
SURPRISE = 9.0
"""Squared distance in standard deviations from which on a place counts less, as it may be of something else."""


def begun() -> np.ndarray:
    """float64 [8, 8]: the covariance of place and step, in the scan's axes, of a box that was given."""
    return np.diag(np.concatenate([GIVEN, FIRST]) ** 2)


def ahead(box: np.ndarray, step: np.ndarray) -> np.ndarray:
    """float64 [7]: where a box [7] is expected that moves by a step [4] x y z, yaw."""
    made = moved(box, np.array([0.0, 0.0, 0.0, step[3]]))
    made[:3] += step[:3]
    return made


def later(covariance: np.ndarray, change: float) -> np.ndarray:
    """The covariance one scan later, when steps along x and y change with a standard deviation of `change` metres."""
    made = covariance.copy()
    made[:4] += made[4:]
    made[:, :4] += made[:, 4:]
    made[range(4, 8), range(4, 8)] += np.array([change, change, *CHANGE]) ** 2
    return made


class Belief(NamedTuple):
    """What is believed of an object."""

    box: np.ndarray
    """float64 [7]"""
    step: np.ndarray
    """float64 [4]: x y z, yaw, in the scan's axes."""
    covariance: np.ndarray
    """float64 [8, 8]: of place and step."""


def corrected(known: Belief, found: np.ndarray, doubt: np.ndarray) -> Belief:
    """What is believed after an offset [4] in the box's axes was found, with standard deviations `doubt` [4]."""
    box, step, covariance = known
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(box[6]), -np.sin(box[6])], [np.sin(box[6]), np.cos(box[6])]]
    gap, noise = turn @ found, turn @ np.diag(doubt**2) @ turn.T
    far = float(gap @ np.linalg.solve(covariance[:4, :4] + noise, gap)) / SURPRISE
    whole = covariance[:4, :4] + noise * max(far, 1)
    gain = np.linalg.solve(whole, covariance[:4]).T
    change = gain @ gap
    made = box.copy()
    made[:3] += change[:3]
    made[6] = wrapped(box[6] + change[3])
    return Belief(made, step + change[4:], covariance - gain @ covariance[:4])
