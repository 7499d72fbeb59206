"""A warping refiner: it looks at the other picture where a place is thought to be, and says how far it should move.

One module serves dense flow, whose places are all cells of a grid and look at their neighbours (`kernel` 3), and lists
of points, each by itself (`kernel` 1). Three things tell it where to go: the correlation of a place's features with a
window around where it is thought to be; the step of a least-squares alignment of the two feature maps there (Lucas and
Kanade, IJCAI 1981, with the mean of both gradients as in Benhimane and Malis, IROS 2004); and what it remembers.

B samples, C channels, h x w places (for points: h points in w frames, or any other shape), H x W cells of the map that
is looked at. Places are (x, y) in cells of that map, whose first cell has its centre at 0.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

DAMPING = 5e-5
"""Added to the diagonal of the normal equations, in units of squared features per squared cell."""
FEW = 1024
"""Cells of a map that is compared as a whole, where only windows are asked for."""
FARTHEST = 2.0
"""Cells beyond which an alignment step is not believed."""


def centres(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """float32 [1, 2, h, w]: the centres of the cells of a grid."""
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([columns, rows])[None].to(device)


def grey(frames: Tensor) -> Tensor:
    """float32 [B, 1, H, W]: the brightness, 0 to 255, of pictures uint8 [B, 3, H, W]."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=frames.device)
    return (frames.float() * weights[:, None, None]).sum(1, keepdim=True)


def sample(features: Tensor, places: Tensor) -> Tensor:
    """float32 [B, C, h, w]: features [B, C, H, W] at places [B, 2, h, w], bilinear; the border is repeated outside."""
    height, width = features.shape[2:]
    grid = places.float().permute(0, 2, 3, 1) * places.new_tensor([2 / width, 2 / height]).float() - 1
    return functional.grid_sample(features.float(), grid, padding_mode="border", align_corners=False)


def views(padded: Tensor, radius: int) -> Iterator[Tensor]:
    """(2 r + 1)^2 views [B, C, h, w] of a map that is `radius` cells larger on each side, moved, row by row."""
    height, width = (side - 2 * radius for side in padded.shape[2:])
    for place in range((2 * radius + 1) ** 2):
        y, x = divmod(place, 2 * radius + 1)
        yield padded[:, :, y : y + height, x : x + width]


def windows(padded: Tensor, radius: int) -> Tensor:
    """[B, C, (2 r + 1)^2, h, w]: all `views` by one operation, for graphs, which would hold one for each of them."""
    height, width = (side - 2 * radius for side in padded.shape[2:])
    cells = functional.unfold(padded, 2 * radius + 1)
    return cells.view(*padded.shape[:2], (2 * radius + 1) ** 2, height, width)


def alike(own: Tensor, features: Tensor, places: Tensor, radius: int) -> Tensor:
    """[B, M, K, h, w]: products of M features [B, M, C, h, w] each with those around places, over the root of C.

    "Around" is a window of K = (2 r + 1)^2 cells, row by row. What is interpolated are the products with whole cells.
    """
    b, m, c, h, w = own.shape
    rows, columns = features.shape[2:]
    side = 2 * radius + 2
    corner = places.detach() - 0.5 - radius
    whole = corner.floor()
    part = (corner - whole).flatten(2)[:, :, None, None]  # [B, 2, 1, 1, P]
    steps = torch.arange(side, device=places.device)
    x = (whole[:, 0].flatten(1)[:, :, None].long() + steps).clamp(0, columns - 1)  # [B, P, side]
    y = (whole[:, 1].flatten(1)[:, :, None].long() + steps).clamp(0, rows - 1)
    at = (y[:, :, :, None] * columns + x[:, :, None, :]).flatten(2)  # [B, P, side * side]
    if rows * columns <= FEW:  # all products at once are one fast multiplication of matrices
        every = (own.flatten(3) * c**-0.5).transpose(2, 3) @ features.flatten(2)[:, None]
        found = every.gather(3, at[:, None].expand(-1, m, -1, -1)).transpose(2, 3)
    else:
        at = at + torch.arange(b, device=at.device)[:, None, None] * rows * columns
        cells = features.permute(0, 2, 3, 1).reshape(-1, c)[at.flatten()].view(b * h * w, side * side, c)
        wanted = own.permute(0, 3, 4, 2, 1).reshape(b * h * w, c, m) * c**-0.5
        found = (cells @ wanted).view(b, h * w, side * side, m).permute(0, 3, 2, 1)
    found = found.unflatten(2, (side, side))  # [B, M, side, side, P]
    right, down = part[:, None, 0], part[:, None, 1]
    found = found[:, :, :, :-1] * (1 - right) + found[:, :, :, 1:] * right
    found = found[:, :, :-1] * (1 - down) + found[:, :, 1:] * down
    return found.reshape(b, m, (side - 1) ** 2, h, w)


def best_offset(products: Tensor, radius: int) -> Tensor:
    """[B, 2, h, w]: the mean offset (x, y) in a window under the softmax of products [B, K, h, w]."""
    steps = torch.arange(-radius, radius + 1, device=products.device, dtype=products.dtype)
    share = products.softmax(1).unflatten(1, (len(steps), len(steps)))
    return torch.stack([torch.einsum("byxhw,x->bhw", share, steps), torch.einsum("byxhw,y->bhw", share, steps)], 1)


def correlation(own: Tensor, warped: Tensor, radius: int) -> Tensor:
    """[B, K, h, w]: products of features with those of the K neighbours in the warped map, over the root of C.

    Outside there is nothing.
    """
    own, padded = own * own.shape[1] ** -0.5, functional.pad(warped, (radius,) * 4)
    if torch.compiler.is_exporting():
        return (own[:, :, None] * windows(padded, radius)).sum(1)
    if torch.is_grad_enabled() and (own.requires_grad or padded.requires_grad):
        return Correlation.apply(own, padded, radius)
    return torch.stack([(own * view).sum(1) for view in views(padded, radius)], 1)


class Correlation(torch.autograd.Function):
    """`correlation` with a way back that adds up in place: a third of the time, since no view is written out."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, padded: Tensor, radius: int) -> Tensor:
        ctx.save_for_backward(own, padded)
        ctx.radius = radius
        return torch.stack([(own * view).sum(1) for view in views(padded, radius)], 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        own, padded = ctx.saved_tensors
        back, spread = torch.zeros_like(own), torch.zeros_like(padded)
        for number, (view, into) in enumerate(zip(views(padded, ctx.radius), views(spread, ctx.radius))):
            grad = grads[0][:, number, None]
            back.addcmul_(view, grad)
            into.addcmul_(own, grad)
        return back, spread, None


def gradients(features: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences of a map [B, C, h, w] along x and y."""
    wide = functional.pad(features, (1, 1, 1, 1), mode="replicate")
    return (wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]) / 2, (wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]) / 2


def alignment(own: Tensor, warped: Tensor) -> Tensor:
    """[B, 4, h, w]: the step (x, y) in cells that aligns the maps best, how well it is determined, what is left.

    Least squares over a 5 x 5 window, damped, so that a place without texture does not move.
    """
    dx, dy = gradients((own + warped) / 2)
    left = own - warped
    parts = torch.stack([(dx * dx).mean(1), (dx * dy).mean(1), (dy * dy).mean(1), (dx * left).mean(1),
                         (dy * left).mean(1), (left * left).mean(1)], 1)  # fmt: skip
    parts = smoothed(parts)
    xx, xy, yy, bx, by, rest = parts.unbind(1)
    xx, yy = xx + DAMPING, yy + DAMPING
    bottom = xx * yy - xy * xy
    step = torch.stack([yy * bx - xy * by, xx * by - xy * bx], 1) / bottom[:, None]
    step = FARTHEST * torch.tanh(step / FARTHEST)
    sure = bottom / (xx + yy)  # near the smaller eigenvalue
    return torch.cat([step, torch.log(sure / DAMPING)[:, None], (rest + 1e-6).sqrt()[:, None]], 1)


def smoothed(x: Tensor) -> Tensor:
    """Means over a window of 5 x 5 cells, which count less the farther away they are."""
    for _ in range(2):
        x = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return x


def checked(own: Tensor, other: Tensor, places: Tensor, step: Tensor) -> Tensor:
    """An `alignment` step [B, 4, h, w] as far as it makes the maps more alike where it leads; else no step."""
    with torch.no_grad():
        left = smoothed((own - sample(other, places + step[:, :2])).square().mean(1, keepdim=True))
        better = (left < step[:, 3:] ** 2).float()
    return torch.cat([step[:, :2] * better, step[:, 2:]], 1)


def polish(flow: Tensor, first: Tensor, second: Tensor, gate: Tensor, steps: int) -> Tensor:
    """Flow [B, 2, H, W] in pixels after `steps` checked alignments of two pictures [B, 3, H, W] at half their size.

    `gate` [B, 1, H/2, W/2] is the share of a step that is taken. What is added is smooth, so that edges stay sharp.
    """
    own, other = (detail(functional.avg_pool2d(picture.float(), 2)) for picture in (first, second))
    start = functional.avg_pool2d(flow, 2) / 2
    here, found = centres(start.shape[2], start.shape[3], flow.device), start.detach()
    for _ in range(steps):
        places = here + found
        step = checked(own, other, places, alignment(own, sample(other, places)))
        found = found + step[:, :2] * gate
    more = 2 * (found - start.detach())
    return flow + functional.interpolate(more, flow.shape[2:], mode="bilinear", align_corners=False)


def detail(picture: Tensor) -> Tensor:
    """A picture less its mean over 5 x 5 cells around each: what a change of light leaves as it is."""
    return picture - functional.avg_pool2d(picture, 5, 1, 2, count_include_pad=False)


class Refiner(nn.Module):
    """Moves places, once for each call; the same weights serve every iteration and every scale.

    `channels` of the features, `hidden` of what is remembered, `radius` of the window in cells, `extra` channels that
    the caller adds to its input. `kernel` 3: places are the cells of a grid; 1: each place is by itself, and is
    known by its features at so many `moments`.
    """

    def __init__(
        self, channels: int, hidden: int, *, radius: int = 3, kernel: int = 3, extra: int = 0, moments: int = 1
    ) -> None:
        super().__init__()
        self.radius, self.dense = radius, kernel > 1
        seen = (2 * radius + 1) ** 2 * moments + (4 if self.dense else channels)
        self.look = nn.Conv2d(seen + extra, hidden, 1)
        self.mix = nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2)
        self.think = nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2)
        self.keep = nn.Conv2d(hidden, hidden, 1)
        self.move = nn.Conv2d(hidden, 3, 1)
        nn.init.zeros_(self.move.weight)
        assert self.move.bias is not None
        nn.init.zeros_(self.move.bias)
        if self.dense:
            self.trust = nn.Conv2d(hidden, 9, 1)
            nn.init.zeros_(self.trust.weight)
            assert self.trust.bias is not None
            nn.init.zeros_(self.trust.bias)
            self.certain = nn.Parameter(torch.ones(()))
        else:
            self.weigh = nn.Parameter(torch.full((moments,), 2.0 / moments))

    def forward(
        self, own: Tensor, other: Tensor, places: Tensor, hidden: Tensor, extra: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Places [B, 2, h, w] and memory [B, D, h, w] after one look; own features [B, C, h, w], other's [B, C, H, W].

        Of places that are by themselves the own features may be those of several moments, [B, M, C, h, w]. The way
        back to `places` is cut: each look is trained for what it does itself.
        """
        places = places.detach()
        if self.dense:
            warped = sample(other, places)
            step = checked(own, other, places, alignment(own, warped))
            seen = [correlation(own, warped, self.radius), step]
        else:
            own = own if own.ndim == 5 else own[:, None]
            products = alike(own, other, places, self.radius)
            step = best_offset((products * self.weigh[:, None, None, None]).sum(1), self.radius)
            seen = [products.flatten(1, 2), own[:, 0] - sample(other, places)]
        look = self.look(torch.cat([*seen, *(() if extra is None else (extra,))], 1))
        inner = functional.relu(self.mix(functional.relu(look + hidden)))
        hidden = hidden + self.keep(functional.relu(self.think(inner)))
        move = self.move(functional.relu(hidden))
        change = move[:, :2] + step[:, :2] * 2 * torch.sigmoid(move[:, 2:])
        if not self.dense:
            return places + change, hidden
        here = centres(places.shape[2], places.shape[3], places.device)
        moved = places - here + change
        sure = neighbours(step[:, 2:3] * self.certain)[:, :, 0]
        share = (self.trust(functional.relu(hidden)) + sure).softmax(1)
        return here + (neighbours(moved) * share[:, :, None]).sum(1), hidden


def neighbours(x: Tensor) -> Tensor:
    """[B, 9, D, h, w]: the cells of a map [B, D, h, w] around each one, with itself; at the border the last again."""
    padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    if torch.compiler.is_exporting():
        return windows(padded, 1).transpose(1, 2)
    return torch.stack(list(views(padded, 1)), 1)


def convex_upsample(flow: Tensor, weights: Tensor, factor: int) -> Tensor:
    """[B, D, h f, w f] of a map [B, D, h, w]: each fine cell a convex combination of nine coarse ones (RAFT).

    `weights` [B, 9 f f, h, w] are logits. Values are carried as they are: flow in cells is to be scaled by the caller.
    """
    b, d, h, w = flow.shape
    share = weights.view(b, 9, factor, factor, h, w).softmax(1)
    fine = torch.einsum("bkijhw,bkdhw->bdhiwj", share, neighbours(flow))
    return fine.reshape(b, d, h * factor, w * factor)
