"""The outline of an object of which one frame shows a box, or one point: what a mask is begun with.

Nothing is learned. The tokens of the frame are the nodes of a graph, with edges as strong as their features are alike,
and a random walk from each ends in the object or in its surroundings ("Random Walks for Image Segmentation", Grady,
TPAMI 2006; features of a self-supervised encoder for its colours). What is outside a box is surroundings; in it the
middle is more likely the object, and what is like the outside less. Of a point its token is the object, and walks end
anywhere else with a small probability, the less alike the sooner. Where the cut lies is read off the probabilities
(Otsu, 1979), and edges are moved to those of the picture (`edges`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae.tasks._crops import cut, region
from dropmae.tasks.propagation.edges import guided, halved

CELLS, MARGIN = 32, 1.7
"""Tokens along the side of the square around a box, or along the frame's shorter side; the square's side in longer
sides of the box."""
MOST = 4096
"""Tokens of a frame."""
ALIKE = 12.0
"""How fast edges get weaker as features differ: the weight is exp(ALIKE (cosine - 1))."""
FAR, SPREAD = 0.02, 0.12
"""Weight of edges between tokens that are no neighbours; how far those of a frame reach, in its width."""
MIDDLE, OWN, OTHER, TOP = 0.6, 0.03, 0.5, 5
"""Deviation of what the middle of a box is, in half sides; how strongly a token in it is held to the object, in mean
degrees; what part of that holds it to the surroundings; of how many most similar tokens outside that is the mean."""
CERTAIN = 1e3
"""Held so strongly, a token is what it is said to be."""
LEAKS, BORDER = (0.001, 0.003, 0.01, 0.03), 0.05
"""How strongly, in mean degrees, tokens are held to the surroundings of a point, each in a walk of its own of which the
mean counts, for large and for small objects; and those at the frame's border."""
LEAST = 0.05
"""Share of a box below which what was found in it is no object: the box itself is then the better guess."""

Features = Callable[[np.ndarray, tuple[int, int]], Tensor]
"""Unit features float32 [N, C] of a picture uint8 [H, W, 3] that is resized to these sides, multiples of the patch."""


class Graph(NamedTuple):
    """Tokens of a picture, and how alike they are."""

    grid: tuple[int, int]
    alike: Tensor
    """float32 [N, N]: cosines, less what all have in common."""
    edges: Tensor
    """float32 [N, N]"""
    mean: Tensor
    """The mean degree, by which everything else is measured."""


def graph(features: Tensor, grid: tuple[int, int], spread: float = math.inf) -> Graph:
    """Of unit features [N, C] of a grid of tokens; edges other than between neighbours reach `spread` tokens far."""
    with torch.autocast(features.device.type, enabled=False):  # weights of edges are sensitive to cosines
        own = functional.normalize(features.float() - features.float().mean(0), dim=1)
        alike = own @ own.T
    rows, columns = (torch.arange(side, device=own.device).float() for side in grid)
    places = torch.stack([rows[:, None].expand(grid), columns.expand(grid)], -1).flatten(0, 1)
    away = torch.cdist(places, places)
    edges = torch.exp(ALIKE * (alike - 1)) * ((away < 1.5).float() + FAR * torch.exp(-0.5 * (away / spread) ** 2))
    edges.fill_diagonal_(0)
    return Graph(grid, alike, edges, edges.sum(1).mean())


def walks(graph: Graph, own: Tensor, other: Tensor) -> Tensor:
    """[h, w]: the probability that a walk from each token ends in the object, to which tokens are held so strongly
    (`own` [N], in mean degrees) and not in the surroundings (`other` [N])."""
    degrees = graph.edges.sum(1) + graph.mean * (own + other)
    ends = (graph.mean * own)[:, None]
    found = torch.linalg.solve(torch.diag(degrees) - graph.edges, ends)
    return found[:, 0].clamp(0, 1).unflatten(0, graph.grid)


def threshold(values: Tensor) -> float:
    """What divides values [N] into two parts such that most of their variance lies between these (Otsu)."""
    ordered = values.flatten().double().sort().values
    count, total = len(ordered), ordered.cumsum(0)
    below = torch.arange(1, count, device=values.device)
    low, high = total[:-1] / below, (total[-1] - total[:-1]) / (count - below)
    place = int((below * (count - below) * (high - low) ** 2).argmax()) if count > 1 else 0
    return float((ordered[place] + ordered[min(place + 1, count - 1)]) / 2)


def inside(frame: np.ndarray, box: np.ndarray, patch: int, features: Features) -> np.ndarray:
    """bool [H, W]: the object of which a frame uint8 [H, W, 3] shows a box x y w h, in pixels."""
    place = region(box[:2] + box[2:] / 2, MARGIN * float(box[2:].max()))
    side = CELLS * patch
    picture = cut(frame, place, side)
    nodes = graph(features(picture, (side, side)), (CELLS, CELLS))
    x, y, w, h = (float(value) for value in place.inside(box))
    middles = (torch.arange(CELLS, device=nodes.alike.device) + 0.5) / CELLS
    across, down = 2 * (middles - x) / w - 1, 2 * (middles - y) / h - 1
    within = ((down[:, None].abs() <= 1) & (across.abs() <= 1)).flatten()
    hard = np.zeros(frame.shape[:2], bool)
    left, top, right, bottom = (max(0, round(float(v))) for v in (*box[:2], *(box[:2] + box[2:])))
    hard[top:bottom, left:right] = True
    if within.sum() < 4 or within.all():
        return hard
    like = nodes.alike[:, ~within].topk(min(TOP, int((~within).sum())), 1).values.mean(1)
    hill = torch.exp(-0.5 * (down[:, None] ** 2 + across**2) / MIDDLE**2).flatten()
    own = within * OWN * hill * (1 - like).clamp(min=0)
    other = torch.where(within, OWN * OTHER * like.clamp(min=0), CERTAIN)
    chance = walks(nodes, own, other) * within.unflatten(0, nodes.grid)
    found = np.zeros_like(hard)
    shown = drawn(picture, chance, threshold(chance.flatten()[within]), (place.side, place.side))
    low, high = np.maximum([place.top, place.left], 0), np.minimum([place.top, place.left], 0)
    target = found[low[0] : place.top + place.side, low[1] : place.left + place.side]
    target[:] = shown[-high[0] :, -high[1] :][: target.shape[0], : target.shape[1]]
    found &= hard
    return found if found.sum() >= LEAST * hard.sum() else hard


def around(frame: np.ndarray, point: np.ndarray, patch: int, features: Features) -> np.ndarray:
    """bool [H, W]: the object at a point x y of a frame uint8 [H, W, 3], in pixels, as far as it is joined to it."""
    size = np.array(frame.shape[:2])
    rows, columns = np.maximum(np.round(size * CELLS / size.min()), 2)
    less = min(1.0, math.sqrt(MOST / (rows * columns)))
    grid = max(2, int(rows * less)), max(2, int(columns * less))
    nodes = graph(features(frame, (grid[0] * patch, grid[1] * patch)), grid, SPREAD * grid[1])
    at = np.minimum((np.array([point[1], point[0]]) / size * grid).astype(int), np.array(grid) - 1)
    seed = int(at[0]) * grid[1] + int(at[1])
    border = torch.ones(grid, device=nodes.alike.device)
    border[1:-1, 1:-1] = 0
    unlike, own = (1 - nodes.alike[seed]).clamp(min=0), torch.zeros_like(border).flatten()
    own[seed] = CERTAIN
    others = [leak * unlike + BORDER * border.flatten() * (own == 0) for leak in LEAKS]
    chance = torch.stack([walks(nodes, own, other) for other in others]).mean(0)
    level = threshold(chance)
    joined = reached(chance > level, (int(at[0]), int(at[1])))
    near = functional.max_pool2d(joined[None].float(), 3, 1, 1)[0] > 0
    return drawn(frame, torch.where(near, chance, chance.clamp(max=0.9 * level)), level, frame.shape[:2])


def reached(mask: Tensor, at: tuple[int, int]) -> Tensor:
    """bool [h, w]: the part of a mask that is joined to a cell, which counts in any case."""
    found = torch.zeros_like(mask)
    found[at] = True
    while True:
        wider = found | (mask & (functional.max_pool2d(found[None].float(), 3, 1, 1)[0] > 0))
        if torch.equal(wider, found):
            return found
        found = wider


def drawn(picture: np.ndarray, chance: Tensor, level: float, size: tuple[int, ...]) -> np.ndarray:
    """bool `size`: where probabilities [h, w] of a picture's tokens are above a level, with edges as the picture's."""
    small = halved(picture, chance.device)
    wide = functional.interpolate(chance[None, None], small.shape[1:], mode="bilinear")[0]
    fine = functional.interpolate(guided(small, wide)[None], tuple(size), mode="bilinear")[0, 0]
    return (fine > level).cpu().numpy()
