"""Windowed top-k affinity: labels of context frames carried over to a new frame by the similarity of their features.

For every token q of the new frame and every token p of the context, s_qp is the inner product of their features (unit
vectors: the cosine), minus infinity where p is outside q's window. Of all s_qp, over all frames and places together,
the k largest are kept, and the new label of q is the mean of the labels there with weights softmax(s / temperature).

`propagate` is this, computed in bands of the picture so that the affinity is never whole; `reference` says it plainly.

Shapes: N = h w tokens of a frame, row-major; M frames of context; C channels; K labels.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dropmae.ops import switch

Shape = Literal["square", "circle", "disk"]
EQUAL = 2e-7
"""Similarities of unit vectors that differ by no more are equal: so much depends on the order of the sums."""


class Window(NamedTuple):
    """Which places of a context frame a token may look at, by their distance on the grid."""

    radius: float
    shape: Shape = "square"
    """square: both offsets at most the radius; circle: Euclidean distance below it; disk: at most it."""

    def inside(self, down: Tensor, across: Tensor) -> Tensor:
        """bool: whether offsets in rows and columns, broadcast against each other, lie in the window."""
        if self.shape == "square":
            return (down.abs() <= self.radius) & (across.abs() <= self.radius)
        distance = down.square() + across.square()
        return distance < self.radius**2 if self.shape == "circle" else distance <= self.radius**2


class Context(NamedTuple):
    """Frames that labels come from."""

    keys: Tensor
    """float [M, N, C]: features."""
    labels: Tensor
    """float [M, N, K]: soft labels."""
    window: Window | None = None
    """Where to look in them; None is everywhere."""


def reference(
    query: Tensor,
    contexts: list[Context],
    grid: tuple[int, int],
    *,
    topk: int,
    temperature: float,
    ties: bool,
    tokens: Tensor | None = None,
) -> Tensor:
    """Labels [N, K] for features [N, C]: the whole affinity at once; of some `tokens` only, if given.

    See `propagate`.
    """
    rows = torch.arange(grid[0], device=query.device).repeat_interleave(grid[1])
    columns = torch.arange(grid[1], device=query.device).repeat(grid[0])
    own = slice(None) if tokens is None else tokens
    parts = []
    for keys, _, window in contexts:
        part = torch.einsum("nc,mpc->nmp", query[own], keys)
        if window is not None:
            near = window.inside(rows[own, None] - rows, columns[own, None] - columns)
            part = part.masked_fill(~near[:, None], -torch.inf)
        parts.append(part.flatten(1))
    similarity = torch.cat(parts, 1)
    best = similarity.topk(min(topk, similarity.shape[1]), 1)
    if ties:
        chosen = torch.where(similarity >= best.values[:, -1:] - EQUAL, similarity, -torch.inf)
    else:
        chosen = torch.full_like(similarity, -torch.inf).scatter_(1, best.indices, best.values)
    return torch.softmax(chosen / temperature, 1) @ torch.cat([context.labels.flatten(0, 1) for context in contexts])


def propagate(
    query: Tensor,
    contexts: list[Context],
    grid: tuple[int, int],
    *,
    topk: int,
    temperature: float,
    ties: bool = False,
    budget: int = 0,
) -> Tensor:
    """Labels [N, K] for the features [N, C] of a new frame.

    With `ties`, all places as similar as the k-th best one count, not k of them. `budget` is how many similarities are
    held at a time (0: a size that suits the device); the result does not depend on it.
    """
    if topk < 1 or temperature <= 0:
        raise ValueError(f"topk must be at least 1 and the temperature positive, not {topk} and {temperature}")
    if switch.form() == "reference":
        return reference(query, contexts, grid, topk=topk, temperature=temperature, ties=ties)
    h, w = grid
    budget = budget or (1 << 22 if query.device.type == "cpu" else 1 << 26)
    labels = torch.cat([context.labels.flatten(0, 1) for context in contexts])
    band = max(1, min(4, h))
    out = []
    for top in range(0, h, band):
        rows = range(top, min(top + band, h))
        values, places = _best(query[rows.start * w : rows.stop * w], contexts, grid, rows, topk + ties, budget)
        if ties and values.shape[1] > topk:
            tied = (values[:, topk] >= values[:, topk - 1] - EQUAL) & values[:, topk].isfinite()
            values, places = values[:, :topk], places[:, :topk]
        else:
            tied = values.new_zeros(len(values), dtype=torch.bool)
        weights = torch.softmax(values / temperature, 1)
        carried = (weights[:, :, None] * labels[places]).sum(1)
        if tied.any():
            numbers = tied.nonzero()[:, 0]
            step = max(1, budget // len(labels))
            exact = partial(reference, query, contexts, grid, topk=topk, temperature=temperature, ties=True)
            carried[numbers] = torch.cat([exact(tokens=part) for part in (numbers + rows.start * w).split(step)])
        out.append(carried)
    return torch.cat(out)


def _best(
    query: Tensor, contexts: list[Context], grid: tuple[int, int], rows: range, topk: int, budget: int
) -> tuple[Tensor, Tensor]:
    """The `topk` largest similarities [n, k] of the queries in some rows, and their places in the whole context."""
    h, w = grid
    down = torch.arange(rows.start, rows.stop, device=query.device)
    across = torch.arange(w, device=query.device)
    found: list[tuple[Tensor, Tensor]] = []
    offset = 0
    for keys, _, window in contexts:
        reach = h if window is None else int(window.radius)
        low, high = max(0, rows.start - reach), min(h, rows.stop + reach)
        far = None
        if window is not None:
            lines = torch.arange(low, high, device=query.device)
            near = window.inside(
                (down[:, None, None, None] - lines[:, None]).float(), (across[:, None, None] - across).float()
            )
            far = ~near.flatten(0, 1).flatten(1)  # [n, lines w]
        step = max(1, budget // (len(query) * (high - low) * w))
        for first in range(0, len(keys), step):
            part = keys[first : first + step, low * w : high * w]
            similarity = torch.matmul(query, part.transpose(1, 2))  # [m, n, lines w]
            if far is not None:
                similarity.masked_fill_(far, -torch.inf)
            values, frame, place = _largest(similarity.unflatten(2, (high - low, w)), topk)
            found.append((values, offset + (first + frame) * h * w + low * w + place))
        offset += len(keys) * h * w
    values, places = (torch.cat(column, 1) for column in zip(*found))
    if len(found) == 1 and values.shape[1] <= topk:
        return values, places
    best = values.topk(min(topk, values.shape[1]), 1)
    return best.values, places.gather(1, best.indices)


def _largest(similarity: Tensor, topk: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest entries [n, k] of [M, n, lines, w] per n, descending, with their frames and places (line, column).

    The k largest entries lie in the k lines whose maxima are largest, so only those are looked at in full.
    """
    count, lines, w = similarity.shape[1:]
    maxima = similarity.amax(3).permute(1, 0, 2).flatten(1)  # [n, M lines]
    chosen = maxima.topk(min(topk, maxima.shape[1]), 1, sorted=False).indices
    frame, line = chosen // lines, chosen % lines
    number = torch.arange(count, device=similarity.device)[:, None]
    rows = similarity.view(-1, w)[(frame * count + number) * lines + line]  # [n, k, w]
    best = rows.flatten(1).topk(min(topk, rows.shape[1] * w), 1)
    slot, column = best.indices // w, best.indices % w
    return best.values, frame.gather(1, slot), line.gather(1, slot) * w + column
