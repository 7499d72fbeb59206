"""Gradients and colours of square cells of pictures, as filters on what an object looks like see them.

Histograms of oriented gradients (Felzenszwalb et al., PAMI 2010, equations 3 to 6, with bins that overlap as the cube
of a cosine): 18 with sign, 9 without, and 4 sums; how much of each cell has one of eleven colours; and its grey. One
compiled pass over the picture makes them (cells_cpu.cpp), or PyTorch's operators where there is no compiler.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from dropmae.ops import switch
from dropmae.ops.compiler import Library

CELL = 4
"""Side of a cell in pixels."""
BINS = 9
"""Orientations of gradients, without sign."""
CLIP = 0.2
"""Largest share of one bin in the gradients around a cell."""
COLOURS = (
    (0, 0, 0), (128, 128, 128), (255, 255, 255), (220, 40, 40), (240, 140, 40), (240, 220, 60), (60, 160, 60),
    (60, 170, 220), (40, 60, 180), (140, 60, 160), (120, 80, 50),
)  # fmt: skip
"""The colours that are told apart, in sRGB."""
LEVELS = 32
"""Steps of each primary in the table of colours."""
SPREAD = 18.0
"""Deviation of a colour in CIELAB."""
CHANNELS = 3 * BINS + 4 + len(COLOURS) + 1


def cells(pictures: Tensor) -> Tensor:
    """float32 [B, CHANNELS, n, n] of pictures uint8 [B, H, H, 3], n = H / CELL; ValueError where that is not whole."""
    side = pictures.shape[1]
    if pictures.shape[2] != side or side % CELL:
        raise ValueError(f"pictures must be squares whose side {CELL} divides, not {side}x{pictures.shape[2]}")
    if pictures.device.type != "cpu" or switch.form() != "fast" or not switch.compiled(library):
        return reference(pictures)
    pictures, n = pictures.contiguous(), side // CELL
    found = torch.empty(len(pictures), CHANNELS, n, n)
    pointers = (one.data_ptr() for one in (pictures, memberships(), found))
    library().cells(*pointers, len(pictures), side, torch.get_num_threads())
    return found


def reference(pictures: Tensor) -> Tensor:
    """The same by PyTorch's operators."""
    wide = pictures.permute(0, 3, 1, 2).float()
    with torch.autocast(pictures.device.type, enabled=False):
        grey = functional.avg_pool2d(wide.mean(1, keepdim=True), CELL) / 255 - 0.5
        return torch.cat([gradients(wide), colours(wide), grey], 1)


def gradients(pictures: Tensor) -> Tensor:
    """[B, 31, n, n]: histograms of gradients of pictures float [B, 3, H, W] of 0 to 255."""
    padded = functional.pad(pictures, (1, 1, 1, 1), mode="replicate")
    x = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    y = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    strongest = (x * x + y * y).argmax(1, keepdim=True)
    both = torch.cat([x.gather(1, strongest), y.gather(1, strongest)], 1)
    length = both.square().sum(1, keepdim=True).sqrt() + 1e-3
    angles = torch.arange(BINS, device=pictures.device) * math.pi / BINS
    along = torch.einsum("kc,bchw->bkhw", torch.stack([angles.cos(), angles.sin()], 1), both)
    along = along * (along / length) ** 2
    signed = torch.cat([along.clamp_min(0), (-along).clamp_min(0)], 1)
    signed = functional.avg_pool2d(signed, 2 * CELL, CELL, CELL // 2, count_include_pad=False)
    plain = signed[:, :BINS] + signed[:, BINS:]
    energy = functional.pad(plain.square().sum(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    blocks = (4 * functional.avg_pool2d(energy, 2, 1) + 1).rsqrt()
    n, m = plain.shape[2:]
    around = [blocks[:, :, i : i + n, j : j + m] for i in (0, 1) for j in (0, 1)]
    first = torch.stack([(signed * scale).clamp_max(CLIP) for scale in around], 1)
    second = torch.stack([(plain * scale).clamp_max(CLIP) for scale in around], 1)
    return torch.cat([first.sum(1) / 2, second.sum(1) / 2, first.sum(2) / math.sqrt(2 * BINS)], 1)


def lab(colours: Tensor) -> Tensor:
    """CIELAB [..., 3] of sRGB [..., 3] of 0 to 255."""
    shares = colours / 255
    linear = torch.where(shares > 0.04045, ((shares + 0.055) / 1.055) ** 2.4, shares / 12.92)
    matrix = torch.tensor([[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0177, 0.1095, 0.8728]])
    tones = linear @ matrix.T
    roots = torch.where(tones > 0.008856, tones.clamp_min(1e-6) ** (1 / 3), 7.787 * tones + 16 / 116)
    x, y, z = roots.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


@cache
def memberships() -> Tensor:
    """float32 [LEVELS^3, 11]: how much a colour belongs to each of `COLOURS`, less the mean."""
    steps = (torch.arange(LEVELS) + 0.5) * 256 / LEVELS
    with torch.autocast("cpu", enabled=False):  # kept for all, whatever the precision of the first who asks
        places = lab(torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1)).view(-1, 1, 3)
        distance = (places - lab(torch.tensor(COLOURS, dtype=torch.float32))).square().sum(-1)
    return torch.softmax(-distance / (2 * SPREAD**2), -1) - 1 / len(COLOURS)


def colours(pictures: Tensor) -> Tensor:
    """[B, 11, n, n]: shares of colours in the cells of pictures float [B, 3, H, W] of 0 to 255."""
    level = (functional.avg_pool2d(pictures, CELL // 2) * (LEVELS / 256)).long().clamp_(0, LEVELS - 1)
    red, green, blue = level.unbind(1)
    found = memberships().to(pictures.device)[(red * LEVELS + green) * LEVELS + blue]
    return functional.avg_pool2d(found.permute(0, 3, 1, 2), 2)


library = Library("cells_cpu.cpp", "gradients and colours on this CPU in PyTorch's form", (("cells", "ppplli"),))
