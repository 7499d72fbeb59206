"""The learned head: each cell of a search crop looks at tokens of the object, and says where it is, and its box.

It learns on features of a frozen encoder, from what does not depend on the kind of object: likeness to the tokens, the
response of the object's own filter, and how both change from cell to cell.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dropmae.nn.vit import Linear

GRID = 10
"""Tokens along a side of what an object is remembered by."""
SPAN = 2.0
"""What they cover, in sides of its box."""
MIDDLE = 0.8
"""Share of the box's sides that is its middle."""
FEW = 3
"""Cells of an object's surroundings that a place is compared with."""
NEAR = 2
"""Cells around a peak in which there is no second one."""


def tokens(features: Tensor, boxes: Tensor) -> Tensor:
    """[B, GRID GRID, C]: features [B, n, n, C] at places over and around boxes x y w h [B, 4], shares of the crop."""
    steps = ((torch.arange(GRID, device=boxes.device) + 0.5) / GRID - 0.5) * SPAN
    centre = boxes[:, :2] + boxes[:, 2:] / 2
    x, y = (2 * (centre[:, axis, None] + steps * boxes[:, axis + 2, None]) - 1 for axis in (0, 1))
    places = torch.stack([x[:, None].expand(-1, GRID, -1), y[:, :, None].expand(-1, -1, GRID)], -1)
    picture = features.permute(0, 3, 1, 2).float()
    found = functional.grid_sample(picture, places.float(), align_corners=False, padding_mode="border")
    return found.flatten(2).transpose(1, 2)


def middle(found: Tensor) -> Tensor:
    """[B, M, C]: those of an object's `tokens` [B, GRID GRID, C] that lie in the middle of its box."""
    low = round(GRID * (0.5 - MIDDLE / SPAN / 2))
    return found.unflatten(1, (GRID, GRID))[:, low : GRID - low, low : GRID - low].flatten(1, 2)


def likeness(found: Tensor, known: Tensor) -> Tensor:
    """[B]: the mean cosine of features [B, M, C] with those of an object [B, M, C], place by place."""
    return functional.cosine_similarity(found, known, dim=-1).mean(1)


def likest(found: Tensor, others: Tensor) -> Tensor:
    """[B]: the mean cosine of features [B, M, C] with the few of [B, N, C] that each is most like."""
    cosines = functional.normalize(found, dim=-1) @ functional.normalize(others, dim=-1).transpose(1, 2)
    return cosines.topk(FEW, -1).values.mean((1, 2))


class Layer(nn.Module):
    """Attention of the cells to the tokens, then a 3 x 3 convolution among the cells."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.q = Linear(width, width)
        self.kv = Linear(width, 2 * width)
        self.proj = Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.mix = Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[B, n, n, D] with tokens [B, M, D] -> [B, n, n, D]."""
        batch, width = len(x), x.shape[-1]
        query = self.q(self.norm1(x)).view(batch, -1, self.heads, width // self.heads).transpose(1, 2)
        pair = self.kv(context).view(batch, context.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, pair[0], pair[1])
        x = x + self.proj(seen.transpose(1, 2).flatten(2)).view(x.shape)
        around = self.conv(self.norm2(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.mix(functional.gelu(around))


def peaks(small: Tensor, n: int) -> Tensor:
    """[B, 4, n, n]: the highest answer of a fine filter [B, m, m] in each of n x n cells, the same less the highest of
    all, and where in its cell it lies, x and y from -0.5 to 0.5. ValueError where m is no multiple of n."""
    m = small.shape[-1]
    if m % n:
        raise ValueError(f"{m} small cells a side cannot be shared out among {n}: set fine_image")
    step = m // n
    high, at = functional.max_pool2d(small[:, None], step, return_indices=True)
    row, column = at // m, at % m
    within = [((place % step) + 0.5) / step - 0.5 for place in (column, row)]
    return torch.cat([high, high - high.amax((2, 3), keepdim=True), *within], 1)


class Head(nn.Module):
    """See above. `taps` are the encoder's widths, `channels` what each is reduced to by fixed principal components;
    `fine`: it is told what a fine filter answers, too; `extent`: and what the filters of the object's extent answer."""

    def __init__(
        self,
        taps: tuple[int, ...],
        channels: tuple[int, ...],
        width: int,
        depth: int,
        heads: int,
        fine: bool = False,
        extent: bool = False,
    ) -> None:
        super().__init__()
        self.widths = list(taps)
        self.reduce = nn.ModuleList(Linear(tap, count) for tap, count in zip(taps, channels))
        self.cells = Linear(sum(channels), width)
        self.tokens = Linear(sum(channels), width)
        self.norm_tokens = nn.LayerNorm(width)
        self.places = nn.Parameter(0.02 * torch.randn(2, GRID * GRID, width))
        self.response = Linear(2 + 3 * extent + 4 * fine, width)
        self.size = Linear(2, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.score = Linear(width, 1)
        self.sides = Linear(width, 4)
        self.presence = nn.Sequential(Linear(width + (6 if fine else 4), 64), nn.GELU(), Linear(64, 1))

    def reduced(self, features: Tensor) -> Tensor:
        """float32 [B, n, n, C]: the principal components of an encoder's features [B, sum of widths, n, n]."""
        parts = features.permute(0, 2, 3, 1).split(self.widths, -1)
        return torch.cat([reduce(part) for reduce, part in zip(self.reduce, parts)], -1).float()

    def template(self, found: Tensor, kind: int) -> Tensor:
        """[B, M, D] of an object's `tokens`: those it was given with (0), or later ones (1)."""
        return self.norm_tokens(self.tokens(found) + self.places[kind])

    def forward(
        self, features: Tensor, context: Tensor, response: Tensor, size: Tensor, small: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [B, n, n] before the sigmoid, boxes x1 y1 x2 y2 [B, n, n, 4] in shares of the crop, and what the cells
        hold [B, n, n, D].

        Of features [B, n, n, C], templates [B, M, D], the filters' responses [B, n, n, K], and the width and height
        that are expected [B, 2], in shares of the crop; and the `peaks` of the fine filter.
        """
        n = features.shape[1]
        centre = response[..., :1]
        relative = torch.cat([centre, centre - centre.amax((1, 2), keepdim=True), response[..., 1:]], -1)
        if small is not None:
            relative = torch.cat([relative, small.permute(0, 2, 3, 1)], -1)
        x = self.cells(features) + self.response(relative) + self.size(size.log())[:, None, None]
        for layer in self.layers:
            x = layer(x, context)
        x = functional.gelu(self.conv(self.norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        reach = self.sides(x).float().clamp(-3, 3).exp() * (size / 2).repeat(1, 2)[:, None, None]
        places = (torch.arange(n, device=x.device) + 0.5) / n
        centres = torch.stack([places.expand(n, n), places[:, None].expand(n, n)], -1)
        boxes = torch.cat([centres - reach[..., :2], centres + reach[..., 2:]], -1)
        return self.score(x)[..., 0].float(), boxes, x

    def present(
        self, cells: Tensor, scores: Tensor, response: Tensor, peak: Tensor, small: Tensor | None = None
    ) -> Tensor:
        """[B]: logit of the probability that the box at cell number `peak` [B] overlaps the object by half.

        Of the third output, the scores after the sigmoid, the filter's response, and the `peaks` of the fine one.
        """
        n, rows = scores.shape[1], torch.arange(len(scores), device=scores.device)
        place = torch.arange(n, device=scores.device)
        down, across = ((place - at[:, None]).abs() <= NEAR for at in (peak // n, peak % n))
        second = scores.masked_fill(down[:, :, None] & across[:, None], 0).flatten(1).amax(1)
        scores, response = scores.flatten(1), response.flatten(1)
        facts = [scores[rows, peak], second, response.amax(1), response[rows, peak]]
        if small is not None:
            high = small[:, 0].flatten(1)
            facts += [high.amax(1), high[rows, peak]]
        found = torch.cat([cells.flatten(1, 2)[rows, peak].float(), torch.stack(facts, 1)], 1)
        return self.presence(found)[:, 0].float()
