"""Errors of soft mattes [H, W] in [0, 1] as papers on matting report them.

SAD and the gradient error are those of Rhemann et al., "A Perceptually Motivated Online Benchmark for Image Matting",
CVPR 2009, in thousands; dtSSD is that of Erofeev et al., "Perceptually Motivated Benchmark for Video Matting", BMVC
2015, in hundredths. Lower is better.
"""

from __future__ import annotations

import numpy as np

SIGMA = 1.4
"""Of the derivative of a Gaussian, in pixels."""


def sad(matte: np.ndarray, truth: np.ndarray) -> float:
    """The sum of absolute differences, in thousands."""
    return float(np.abs(matte.astype(np.float64) - truth).sum() / 1000)


def gradient(matte: np.ndarray, truth: np.ndarray) -> float:
    """The sum of squared differences of the gradients' lengths, in thousands."""
    return float(((_slope(matte) - _slope(truth)) ** 2).sum() / 1000)


def dtssd(matte: np.ndarray, truth: np.ndarray, matte_before: np.ndarray, truth_before: np.ndarray) -> float:
    """The root of the mean squared difference of what changed since the frame before, in hundredths.

    The mean is over the pixels in which either changed, or where the truth is neither 0 nor 1: over a whole frame it
    would tell the size of the object.
    """
    change = matte.astype(np.float64) - matte_before
    wanted = truth.astype(np.float64) - truth_before
    counted = (change != 0) | (wanted != 0) | ((truth > 0) & (truth < 1))
    return 100 * float(np.sqrt(((change - wanted)[counted] ** 2).mean())) if counted.any() else 0.0


def _slope(matte: np.ndarray) -> np.ndarray:
    """The length of the gradient at each pixel, by derivatives of a Gaussian."""
    reach = int(np.ceil(3 * SIGMA))
    at = np.arange(-reach, reach + 1)
    bell = np.exp(-(at**2) / (2 * SIGMA**2))
    bell, rise = bell / bell.sum(), -at * bell / np.abs(at * bell * at).sum()
    across = _filtered(_filtered(matte, rise, 1), bell, 0)
    down = _filtered(_filtered(matte, rise, 0), bell, 1)
    return np.hypot(across, down)


def _filtered(matte: np.ndarray, taps: np.ndarray, axis: int) -> np.ndarray:
    """A convolution along an axis; the border is repeated."""
    reach = len(taps) // 2
    padded = np.pad(matte.astype(np.float64), [(reach, reach) if axis == a else (0, 0) for a in (0, 1)], "edge")
    length = matte.shape[axis]
    shifted = [np.take(padded, range(place, place + length), axis) for place in range(len(taps))]
    return np.tensordot(taps[::-1], np.stack(shifted), 1)
