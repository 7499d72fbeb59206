"""What a tracker on frozen encoders remembers of its objects, and what it reads in one look at them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from dropmae.tasks.dcf.crops import Region


class Known(NamedTuple):
    """What crops are compared with, each with its object: rows of a `Memory`."""

    templates: Tensor
    middles: Tensor
    surroundings: Tensor
    filters: Tensor
    fine: Tensor
    errors: Tensor


@dataclass(kw_only=True, frozen=True, eq=False)
class Memory:
    """What N objects look like to one encoder."""

    templates: Tensor
    """[N, 2, M, D]: what the head knows it by: as it was given, and as it was lately."""
    middles: Tensor
    """float32 [N, M, C]: features of the middle of each object as it was given, which `likeness` compares."""
    surroundings: Tensor
    """float32 [N, n n, C]: features of the cells around it in that frame; 0 where the object was."""
    sums: Tensor
    """float32 [N, 2, 13, C, C]: what the filter is fitted by (`maps.correlations`), in the first frame and later."""
    crosses: Tensor
    """float32 [N, 2, F, K]"""
    filters: Tensor
    """float32 [N, F, K]: of the object's centre and, with `extent`, of its extent (`maps.extents`)."""
    fine: Tensor
    """complex64 [N, C, m, m // 2 + 1]: filters on small cells (`fine`); C = 0 where there are none."""
    supports: Tensor
    """float32 [N, m, m]: where they may be other than zero."""
    errors: Tensor
    """float64 [N, 4]: how far what the head finds lies from its box: of the centre, in sides of the box, and of the log
    of both sides. 0 but for `calibrate`."""

    def of(self, rows: Sequence[int]) -> Self:
        """The memory of these objects, in this order, which may name one several times."""
        return dataclasses.replace(self, **{name: value[list(rows)] for name, value in self.tensors().items()})

    def known(self, rows: Sequence[int]) -> Known:
        """What is known of these objects, without the sums, which are large."""
        return Known(*(getattr(self, name)[list(rows)] for name in Known._fields))

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def but(self, rows: Sequence[int], changed: Mapping[str, Tensor]) -> Self:
        """The same, but for what is now known of the objects in `rows`, [len(rows), ...] each."""
        if list(rows) == list(range(len(self.filters))):
            return dataclasses.replace(self, **changed)  # all of them, and nothing is copied
        made = {name: getattr(self, name).clone() for name in changed}
        for name, value in changed.items():
            made[name][list(rows)] = value
        return dataclasses.replace(self, **made)


def joined(parts: Sequence[Memory]) -> Memory:
    """One memory of the objects of several."""
    names = [field.name for field in dataclasses.fields(Memory)]
    return Memory(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


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
    unseen: np.ndarray
    """int64 [N]: for how many frames each object has been followed by its filter on small cells alone."""
    memories: tuple[Memory, ...]
    """What the objects look like: to the tracker's encoder, and to that of the other one that works `beside` it."""


class View(NamedTuple):
    """What one encoder shows of B crops, each with its object."""

    features: Tensor
    """[B, n, n, C]"""
    spectra: Tensor
    """complex64 [B, C, m, m // 2 + 1]: of small cells."""
    small: Tensor | None
    """float32 [B, m, m]: what the filters on small cells answer."""
    high: Tensor | None
    """[B, 4, n, n]: their `peaks`, where the head is told of them."""
    response: Tensor
    """float32 [B, n, n]: what the filters answer."""
    scores: Tensor
    """[B, n, n]: the head's, in [0, 1]."""
    boxes: Tensor
    """[B, n, n, 4]: x1 y1 x2 y2 in shares of the crop."""
    cells: Tensor
    """[B, n, n, D]: what the head's cells hold."""
    chance: Tensor
    """[B, n, n]: how likely the object's centre is in each cell, by all of these."""


class Reading(NamedTuple):
    """What was found in some crops."""

    boxes: np.ndarray
    """float64 [B, 4]: x y w h in shares of the crop's side."""
    logits: np.ndarray
    """float64 [B]: of the probability that they overlap the object by half."""


class Found(NamedTuple):
    """What was seen in one crop."""

    box: np.ndarray
    """float64 [4]: x y w h in the frame."""
    score: float
    looks: tuple[tuple[Tensor, Tensor], ...]
    """What each encoder saw of it: features [n, n, C], and small cells complex64 [C, m, m // 2 + 1]."""
    place: Region
