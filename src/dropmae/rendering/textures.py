"""Procedural textures and outlines for rendered clips; everything is drawn from the generator that is passed in.

A texture is float32 [3, S, S] in [0, 1]; a pattern is one float32 [S, S] field in [0, 1] before it is coloured. An
outline is a field of signed distances [S, S] over the square [-1, 1] x [-1, 1], positive inside, in its units.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

Rng = np.random.Generator


def texture(rng: Rng, size: int) -> torch.Tensor:
    """float32 [3, size, size]: one or two coloured patterns, lit by a broad gradient."""
    picture = coloured(rng, size)
    if rng.random() < 0.45:
        edge = 0.5 + (octaves(rng, size, coarse=int(rng.integers(2, 6))) - 0.5) * float(rng.choice([4.0, 40.0]))
        share = edge.clamp(0, 1) * float(rng.uniform(0.5, 1))
        picture = torch.lerp(picture, coloured(rng, size), share)
    shade = 1 + (octaves(rng, size, coarse=2, fall=0.4) - 0.5) * float(rng.uniform(0, 1.2))
    grain = 1 + (octaves(rng, size, coarse=max(size // 8, 4), fall=1.0) - 0.5) * float(rng.uniform(0, 0.5))
    return (picture * (shade * grain)).clamp_(0, 1)


def landscape(rng: Rng, size: int) -> torch.Tensor:
    """float32 [3, size, size]: a backdrop; a texture, on most of which shapes with textures of their own lie about."""
    picture = texture(rng, size)
    x, y = axes(size)
    soft = size / 2 / float(rng.choice([1, 1, 4]))
    for _ in range(int(rng.choice([0, 0, 2, 4, 6, 8]))):
        angle, wide = float(rng.uniform(0, 2 * np.pi)), float(np.exp(rng.uniform(np.log(0.1), np.log(0.7))))
        left, top = rng.uniform(-1, 1, 2).tolist()
        cos, sin = float(np.cos(angle)) / wide, float(np.sin(angle)) / wide
        grid = torch.stack([(x - left) * cos + (y - top) * sin, (y - top) * cos - (x - left) * sin], -1)[None]
        own = max(int(size * wide), 32)
        patch = torch.cat([texture(rng, own), outline(rng, own)[None]])
        seen = F.grid_sample(patch[None], grid, padding_mode="border", align_corners=False)[0]
        picture = torch.lerp(picture, seen[:3], (seen[3:] * wide * soft + 0.5).clamp_(0, 1))
    return picture


def coloured(rng: Rng, size: int) -> torch.Tensor:
    """float32 [3, size, size]: a pattern sent through a colour ramp, or a drawing that brings its own colours."""
    drawings: list[Callable[[Rng, int, np.ndarray], torch.Tensor]] = [leaves, glyphs, fibres]
    patterns: list[Callable[[Rng, int], torch.Tensor]] = [octaves, stripes, checks, cells, spots, bricks, rings]
    colours = palette(rng)
    choice = int(rng.integers(len(drawings) * 2 + len(patterns)))
    if choice < 2 * len(drawings):
        return drawings[choice // 2](rng, size, colours)
    field = patterns[choice - 2 * len(drawings)](rng, size)
    if rng.random() < 0.6:
        field = warp(rng, field)
    return ramp(field, colours)


def palette(rng: Rng, count: int | None = None) -> np.ndarray:
    """float32 [n, 3]: colours that go together, of nature's modest saturation more often than not."""
    count = count or int(rng.integers(2, 7))
    hue, spread = rng.random(), float(rng.choice([0.03, 0.1, 0.4]))
    vivid, dark = rng.beta(1.5, 2.5), rng.beta(1.2, 3)
    if rng.random() < 0.5:
        hue, spread, vivid = float(rng.choice([0.08, 0.1, 0.28, 0.58])), 0.03, rng.beta(1.5, 4)
    rows = []
    for _ in range(count):
        saturation = np.clip(vivid + rng.normal(0, 0.15), 0, 1)
        value = np.clip(rng.uniform(0.08, 1) * (1 - 0.5 * dark), 0.03, 1)
        rows.append(colorsys.hsv_to_rgb((hue + rng.normal(0, spread)) % 1, saturation, value))
    return np.asarray(rows, np.float32)


def ramp(field: torch.Tensor, colours: np.ndarray) -> torch.Tensor:
    """A field [S, S] in [0, 1] to colours [3, S, S], piecewise linear between the rows of `colours`."""
    table = np.stack([np.interp(np.linspace(0, len(colours) - 1, 256), np.arange(len(colours)), c) for c in colours.T])
    index = (field * 255.99).clamp(0, 255).long()
    return torch.from_numpy(table.astype(np.float32))[:, index]


def axes(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x [1, S] and y [S, 1]: the coordinates of the texture's pixel centres in [-1, 1]."""
    line = (torch.arange(size) * 2 + 1.0) / size - 1
    return line[None, :], line[:, None]


def uniform(rng: Rng, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.random(shape, dtype=np.float32))


def stretched(field: torch.Tensor) -> torch.Tensor:
    low, high = field.min(), field.max()
    return (field - low) / (high - low + 1e-6)


def resized(grid: torch.Tensor, size: int) -> torch.Tensor:
    mode = "bicubic" if min(grid.shape) > 1 else "bilinear"
    return F.interpolate(grid[None, None], size=(size, size), mode=mode, align_corners=False)[0, 0]


def octaves(rng: Rng, size: int, coarse: int | None = None, fall: float | None = None) -> torch.Tensor:
    """Fractal value noise: grids of 2, 4, 8 ... cells, each octave weaker by `fall` (about 0.5 is a natural image)."""
    coarse = coarse or int(rng.choice([2, 3, 5, 8]))
    fall = float(rng.uniform(0.35, 0.85)) if fall is None else fall
    stretch = int(rng.choice([1, 1, 1, 3, 8])) if coarse < 8 else 1
    rows, columns, weight = coarse, max(coarse // stretch, 1), 1.0
    total = uniform(rng, rows, columns) - 0.5
    while rows < size // 2:
        # Each octave is added at its own resolution, so that all together cost little more than the finest.
        rows, columns, weight = rows * 2, columns * 2, weight * fall
        total = F.interpolate(total[None, None], size=(rows, columns), mode="bicubic", align_corners=False)[0, 0]
        total += weight * (uniform(rng, rows, columns) - 0.5)
    return stretched(resized(total, size))


def warp(rng: Rng, field: torch.Tensor) -> torch.Tensor:
    """The field with its coordinates bent by smooth noise."""
    size, bend = field.shape[-1], float(rng.uniform(0.02, 0.3))
    x, y = axes(size)
    offsets = [(resized(uniform(rng, n, n), size) - 0.5) * bend for n in (int(rng.integers(2, 7)),) * 2]
    grid = torch.stack([x + offsets[0], y + offsets[1]], -1)[None]
    return F.grid_sample(field[None, None], grid, padding_mode="reflection", align_corners=False)[0, 0]


def turned(rng: Rng, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates [S, S] turned by a random angle."""
    x, y = axes(size)
    angle = float(rng.uniform(0, np.pi))
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def stripes(rng: Rng, size: int) -> torch.Tensor:
    x, _ = turned(rng, size)
    wave = torch.sin(x * float(np.exp(rng.uniform(np.log(6), np.log(60)))) + float(rng.uniform(0, 6)))
    return (0.5 + wave * float(rng.choice([0.5, 1.5, 8.0]))).clamp(0, 1)


def checks(rng: Rng, size: int) -> torch.Tensor:
    x, y = turned(rng, size)
    rate = float(np.exp(rng.uniform(np.log(6), np.log(40))))
    wave = torch.sin(x * rate) * torch.sin(y * rate * float(rng.choice([1, 1, 0.5, 2])))
    return (0.5 + wave * float(rng.choice([0.5, 2.0, 10.0]))).clamp(0, 1)


def cells(rng: Rng, size: int) -> torch.Tensor:
    """Voronoi cells: their numbers, their borders, or the distance to their seeds."""
    count = int(np.exp(rng.uniform(np.log(3), np.log(20))))
    x, y = axes(size)
    x, y = (x + 1) * (count / 2), (y + 1) * (count / 2)
    columns, rows = x.floor().long(), y.floor().long()
    jitter, numbers = uniform(rng, 2, count + 2, count + 2), uniform(rng, count + 2, count + 2)
    first = torch.full((size, size), 9.0)
    second, number = first.clone(), torch.zeros(size, size)
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            seed_x = columns + (dx - 1) + jitter[0][rows + dy, columns + dx]
            seed_y = rows + (dy - 1) + jitter[1][rows + dy, columns + dx]
            distance = (x - seed_x).square() + (y - seed_y).square()
            nearer = distance < first
            second = torch.where(nearer, first, torch.minimum(second, distance))
            number = torch.where(nearer, numbers[rows + dy, columns + dx], number)
            first = torch.where(nearer, distance, first)
    kind = rng.integers(3)
    if kind == 0:
        return number
    gap = second.sqrt() - first.sqrt()
    if kind == 1:
        return (gap * 4).clamp(0, 1) * (0.5 + 0.5 * number)
    return (first.sqrt() * 0.9).clamp(0, 1)


def spots(rng: Rng, size: int) -> torch.Tensor:
    """Camouflage: noise cut at a few levels."""
    field, levels = octaves(rng, size, coarse=int(rng.integers(4, 16)), fall=0.4), int(rng.integers(2, 5))
    return (field * levels).floor() / levels


def bricks(rng: Rng, size: int) -> torch.Tensor:
    x, y = turned(rng, size)
    rows = float(rng.uniform(4, 14))
    y = y * rows
    x = x * rows / float(rng.uniform(1, 3)) + 0.5 * float(rng.integers(2)) * y.floor()
    joint = float(rng.uniform(0.04, 0.15))
    inside = ((x % 1 - 0.5).abs() < 0.5 - joint) & ((y % 1 - 0.5).abs() < 0.5 - joint)
    numbers = uniform(rng, 64, 64)[y.floor().long() % 64, x.floor().long() % 64]
    return torch.where(inside, 0.25 + 0.75 * numbers, torch.zeros(()))


def rings(rng: Rng, size: int) -> torch.Tensor:
    x, y = axes(size)
    radius = ((x - float(rng.uniform(-1, 1))).square() + (y - float(rng.uniform(-1, 1))).square()).sqrt()
    if rng.random() < 0.4:
        return (radius / 2).clamp(0, 1)
    return (0.5 + float(rng.choice([0.5, 3.0])) * torch.sin(radius * float(rng.uniform(8, 50)))).clamp(0, 1)


def to_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture, np.float32)).permute(2, 0, 1) / 255


def inks(rng: Rng, colours: np.ndarray, count: int, spread: float = 0.06) -> list[tuple[int, int, int]]:
    """Any of the colours, a little off."""
    chosen = colours[rng.integers(len(colours), size=count)] + rng.normal(0, spread, (count, 3))
    return [(int(red), int(green), int(blue)) for red, green, blue in (np.clip(chosen, 0, 1) * 255).tolist()]


def leaves(rng: Rng, size: int, colours: np.ndarray) -> torch.Tensor:
    """Dead leaves: shapes of many sizes piled up, which gives the edge statistics of photographs."""
    picture = Image.new("RGB", (size, size), inks(rng, colours, 1)[0])
    draw = ImageDraw.Draw(picture)
    count, smallest = int(rng.integers(60, 400)), float(rng.uniform(0.008, 0.03))
    # Radii with density r^-3 between smallest and 0.3: every scale covers about the same share of the picture.
    radii = smallest / np.sqrt(1 - rng.random(count) * (1 - (smallest / 0.3) ** 2))
    corners, spread = int(rng.choice([0, 0, 3, 4, 5, 7])), float(rng.choice([0.04, 0.2]))
    centres, angles = rng.random((count, 2)) * size, rng.uniform(0, 2 * np.pi, count)
    shades = inks(rng, colours, count, spread)
    for radius, (x, y), angle, colour in zip(np.sort(radii)[::-1] * size, centres, angles, shades):
        if corners:
            turns = angle + np.arange(corners) * (2 * np.pi / corners) + rng.normal(0, 0.2, corners)
            draw.polygon([(x + radius * np.cos(a), y + radius * np.sin(a)) for a in turns], fill=colour)
        else:
            tall = radius * rng.uniform(0.4, 1)
            draw.ellipse([x - radius, y - tall, x + radius, y + tall], fill=colour)
    return to_tensor(picture)


def glyphs(rng: Rng, size: int, colours: np.ndarray) -> torch.Tensor:
    """Lines of strokes that look like writing in no alphabet."""
    picture = Image.new("RGB", (size, size), inks(rng, colours, 1)[0])
    draw = ImageDraw.Draw(picture)
    height = size * float(np.exp(rng.uniform(np.log(0.04), np.log(0.25))))
    width, pen = height * rng.uniform(0.5, 0.9), max(1, int(height * rng.uniform(0.08, 0.2)))
    letters = [rng.random((int(rng.integers(3, 6)), 2)) * [0.8, 0.75] for _ in range(9)]
    colour = inks(rng, colours, 1, 0.3)[0]
    top = rng.uniform(-height, 0)
    while top < size:
        left = rng.uniform(-width, 0)
        if rng.random() < 0.3:
            colour = inks(rng, colours, 1, 0.3)[0]
        while left < size:
            if rng.random() > 0.15:
                stroke = letters[rng.integers(len(letters))] * [width, height] + [left, top]
                draw.line([(float(x), float(y)) for x, y in stroke], fill=colour, width=pen, joint="curve")
            left += width
        top += height
    return to_tensor(picture)


def fibres(rng: Rng, size: int, colours: np.ndarray) -> torch.Tensor:
    """Grass, hair, scratches: short strokes along a common or random direction."""
    picture = Image.new("RGB", (size, size), inks(rng, colours, 1)[0])
    draw = ImageDraw.Draw(picture)
    count, length = int(rng.integers(200, 900)), size * float(rng.uniform(0.03, 0.25))
    angles = rng.uniform(0, np.pi) + rng.normal(0, float(rng.choice([0.1, 0.4, 3.0])), count)
    starts = rng.random((count, 2)) * size * 1.1 - 0.05 * size
    steps = np.stack([np.cos(angles), np.sin(angles)], 1) * (length * rng.uniform(0.5, 1, count))[:, None]
    pen = max(1, round(size * rng.uniform(0.002, 0.02)))
    for (x, y), (dx, dy), colour in zip(starts.tolist(), steps.tolist(), inks(rng, colours, count, 0.08)):
        draw.line([x, y, x + dx, y + dy], fill=colour, width=pen)
    return to_tensor(picture)


def outline(rng: Rng, size: int) -> torch.Tensor:
    """float32 [S, S]: signed distance to a random outline that fills most of [-0.9, 0.9], positive inside."""
    kind = rng.choice(["blob", "blob", "blob", "star", "polygon", "ellipse", "bar", "ring"])
    turns, rounding = np.linspace(0, 2 * np.pi, 48, endpoint=False), 0.0
    if kind == "blob":
        harmonics = np.arange(2, 2 + int(rng.integers(2, 6)))
        phases, sizes = rng.uniform(0, 2 * np.pi, len(harmonics)), rng.normal(0, 0.35, len(harmonics)) / harmonics**0.7
        radius = np.maximum(1 + sizes @ np.cos(harmonics[:, None] * turns + phases[:, None]), 0.25)
    elif kind == "star":
        tips = int(rng.integers(3, 8))
        turns = np.linspace(0, 2 * np.pi, 2 * tips, endpoint=False)
        radius = np.where(np.arange(2 * tips) % 2 == 0, 1.0, rng.uniform(0.35, 0.7))
        rounding = float(rng.choice([0, 0.05, 0.1]))
    elif kind == "polygon":
        corners = int(rng.integers(3, 9))
        turns = (np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) * (2 * np.pi / corners)
        radius = rng.uniform(0.75, 1, corners)
        rounding = float(rng.choice([0, 0.05, 0.15]))
    elif kind == "bar":
        slope = rng.uniform(0.1, 0.7)
        turns = np.array([slope, np.pi - slope, np.pi + slope, -slope]) + rng.uniform(-0.15, 0.15, 4)
        radius, rounding = np.ones(4), float(rng.choice([0, 0.05, 0.15]))
    else:
        radius = np.ones(48)
    points = np.stack([np.cos(turns), np.sin(turns)], 1) * radius[:, None]
    if kind != "bar":
        points[:, 1] *= rng.uniform(0.45, 1)
    points -= (points.max(0) + points.min(0)) / 2
    field = polygon_distance(points * ((0.9 - rounding) / np.abs(points).max()), size) + rounding
    if kind == "ring":
        x, y = axes(size)
        hole, shift = float(rng.uniform(0.2, 0.5)), float(rng.choice([0, 0.3, 0.6]))
        field = torch.minimum(field, ((x - shift).square() + y.square()).sqrt() - hole)
    return field


def limb(rng: Rng, size: int) -> torch.Tensor:
    """Signed distance [S, S] to a rounded bar along x that tapers from left to right."""
    wide, narrow = float(rng.uniform(0.15, 0.35)), float(rng.uniform(0.08, 0.3))
    x, y = axes(size)
    along = ((x + 0.6) / 1.2).clamp(0, 1)
    return torch.lerp(torch.tensor(wide), torch.tensor(narrow), along) - torch.hypot(x - (along * 1.2 - 0.6), y)


def ridge(rng: Rng, size: int) -> torch.Tensor:
    """Signed distance [S, S], roughly, to everything below a rugged horizon."""
    _, y = axes(size)
    height = (octaves(rng, size, coarse=3, fall=0.4)[size // 2] - 0.5) * float(rng.uniform(0, 0.8))
    return (y - height[None] - float(rng.uniform(-0.4, 0.4))) * 0.7


def polygon_distance(points: np.ndarray, size: int) -> torch.Tensor:
    """Signed distance [S, S] of every texture pixel to the polygon's edges [K, 2], positive inside (even-odd rule)."""
    x, y = axes(size)
    nearest, inside = torch.full((size, size), 9.0), torch.zeros(size, size, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(points.tolist(), np.roll(points, -1, 0).tolist()):
        dx, dy = bx - ax, by - ay
        share = (((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-9)).clamp(0, 1)
        nearest = torch.minimum(nearest, (x - ax - share * dx).square() + (y - ay - share * dy).square())
        if dy != 0:
            crossing = ((ay > y) != (by > y)) & (x < ax + (y - ay) * (dx / dy))
            inside ^= crossing
    distance = nearest.sqrt()
    return torch.where(inside, distance, -distance)
