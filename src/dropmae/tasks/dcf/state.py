"""What a tracker on a frozen encoder remembers of its objects, and what it reads in one look at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from dropmae.tasks.dcf.crops import Region

FITTED = ("templates", "middles", "grams", "crosses", "filters", "fine", "supports")
"""Fields of a state that are tensors, a row for each object."""


@dataclass(kw_only=True, frozen=True, eq=False)
class State:
    """Where N objects are, and what they look like; nothing in it grows with time."""

    index: int
    """The frame it belongs to, counted from the one that tracking started with."""
    size: tuple[int, int]
    """Height and width of that frame."""
    ids: np.ndarray
    """int64 [N]"""
    boxes: np.ndarray
    """float64 [N, 4]: x y w h, where each object was last believed to be."""
    sides: np.ndarray
    """float64 [N, 2]: width and height of the first box."""
    factors: np.ndarray
    """float64 [N]: side of the search region in square roots of the box's area."""
    scores: np.ndarray
    """float64 [N]: probability that the box overlaps the object by more than half."""
    lost: np.ndarray
    """int64 [N]: for how many frames each object has been looked for."""
    errors: np.ndarray
    """float64 [N, 4]: how far what the head finds lies from its box: of the centre, in sides of the box, and of the log
    of both sides. 0 but for `DCF.calibrate`."""
    templates: Tensor
    """[N, 2, M, D]: what the head knows it by: as it was given, and as it was lately."""
    middles: Tensor
    """float32 [N, M, C]: features of the middle of each object as it was given, which `likeness` compares."""
    grams: Tensor
    """float32 [N, 2, F, F]: the filter's sums, of the first frame and of later ones."""
    crosses: Tensor
    """float32 [N, 2, F, K]"""
    filters: Tensor
    """float32 [N, F, K]: of the object's centre and, with `DCF.extent`, of its extent (`maps.extents`)."""
    fine: Tensor
    """complex64 [N, C, m, m // 2 + 1]: filters on small cells (`fine`); C = 0 where there are none."""
    supports: Tensor
    """float32 [N, m, m]: where they may be other than zero."""


class Found(NamedTuple):
    """What was seen in one crop."""

    box: np.ndarray
    """float64 [4]: x y w h in the frame."""
    score: float
    features: Tensor
    """[n, n, C]"""
    spectrum: Tensor
    """complex64 [C, m, m // 2 + 1]: of small cells."""
    place: Region


class Reading(NamedTuple):
    """What was found in some crops."""

    boxes: np.ndarray
    """float64 [B, 4]: x y w h in shares of the crop's side."""
    scores: np.ndarray
    """float64 [B]"""
