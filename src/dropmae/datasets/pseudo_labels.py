"""Labels made from unlabelled video, for training trackers: two frames, and where one thing is in both.

    paste   a piece of one video, cut out with a random outline, lies in two frames of another; it has moved, turned,
            grown or shrunk and changed its light between them, as the piece itself may have: exact boxes and masks
    warp    a frame and the same frame warped about a textured box: exact boxes
    cycle   a textured box found again some frames later by matching, if going back from there ends where it began:
            boxes as good as the matching, but real motion

Which of them a sample is made by, and everything about it, is drawn from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence as Listed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch.nn import functional

from dropmae.contracts import Dataset
from dropmae.data.clips import frame_pair
from dropmae.data.shards import find_sequences
from dropmae.sequence import Sequence
from dropmae.target import Target, mask_boxes
from dropmae.video import Video

Rng = np.random.Generator
WAYS: dict[str, float] = {"paste": 0.5, "warp": 0.2, "cycle": 0.3}
"""How labels are made, and how often where all of them are used."""
GAP = (1, 30)
"""Frames between the two frames of a background."""
ROUNDS = 8
"""Boxes tried, of which the most textured is taken."""


@dataclass(kw_only=True)
class PseudoLabels(Dataset):
    """Labels made from all videos below a folder; a split is one of the ways in which they are made."""

    def sequences(self, root: Path, split: str | None = None) -> Listed[Sequence]:
        if split is not None and split not in WAYS:
            raise ValueError(f"labels are made by {', '.join(WAYS)}, not by {split!r}")
        videos = find_sequences(root)
        ways = tuple(WAYS) if split is None else (split,)
        return tuple(Unlabelled(one.name, one.source, videos=videos, ways=ways) for one in videos)


@dataclass(eq=False, repr=False)
class Unlabelled(Sequence):
    """A video of which labelled sequences of two frames are made."""

    videos: Listed[Sequence] = ()
    """Where pieces of other videos come from."""
    ways: tuple[str, ...] = tuple(WAYS)

    def drawn(self, rng: Rng) -> Sequence:
        """Two frames uint8 [2, H, W, 3] of one size, with Targets of both. OSError where a video cannot be read."""
        shares = np.array([WAYS[way] for way in self.ways])
        way = self.ways[int(rng.choice(len(self.ways), p=shares / shares.sum()))]
        if way == "paste":
            donor = self.videos[int(rng.integers(len(self.videos)))]
            with Video(donor.source) as video:
                frames, targets = paste(some_frames(self.video, GAP, rng), some_frames(video, (1, 8), rng), rng)
        elif way == "cycle" and (found := cycle(self.video, rng)) is not None:
            frames, targets = found
        else:
            frames, targets = warp(some_frames(self.video, (1, 1), rng)[0], rng)
        return Sequence(self.name, frames, dict(enumerate(targets)))


def some_frames(video: Video, gap: tuple[int, int], rng: Rng) -> np.ndarray:
    """uint8 [2, H, W, 3]: two frames in either order, or twice the only one."""
    if len(video) == 1:
        return video[[0, 0]]
    first, second = frame_pair(len(video), gap, rng)
    return video[[first, second] if rng.random() < 0.5 else [second, first]]


# ---------------------------------------------------------------- pieces of one video in another


def paste(ground: np.ndarray, donor: np.ndarray, rng: Rng) -> tuple[np.ndarray, list[Target]]:
    """Frames [2, H, W, 3] with a moving piece of `donor` [2, h, w, 3] in both; on some it has company."""
    height, width = ground.shape[1:3]
    short = min(height, width)
    pictures = [Image.fromarray(frame) for frame in ground]
    labels = np.zeros((2, height, width), np.uint8)
    count = 1 + int(rng.choice(3, p=[0.5, 0.3, 0.2]))
    for number in range(count, 0, -1):  # the object itself, number 1, comes last; what lies over it comes after
        pieces = cut_out(donor, rng)
        size = short * float(np.exp(rng.uniform(np.log(0.1), np.log(0.5))))
        centre = rng.uniform(0.1, 0.9, 2) * [width, height]
        moved = centre + rng.normal(0, 0.6, 2) * size
        poses = [
            (centre, size, rng.normal(0, 6)),
            (np.clip(moved, 0, [width, height]), size * float(np.exp(rng.normal(0, 0.15))), rng.normal(0, 12)),
        ]
        light = 1 + 0.25 * rng.uniform(-1, 1, (2, 1)) + 0.06 * rng.uniform(-1, 1, (2, 3))
        for frame, (place, side, angle) in enumerate(poses):
            piece = lit(pieces[frame], light[frame])
            covered = lay(pictures[frame], piece, place, side, angle)
            labels[frame][covered] = number
    if rng.random() < 0.25:
        cover(pictures[1], labels[1], rng)
    frames = np.stack([np.asarray(picture) for picture in pictures])
    made = []
    for mask in labels:
        mask = (mask == 1).astype(np.uint8)
        made.append(Target(ids=np.ones(1, np.int64), boxes=mask_boxes(mask, np.ones(1, np.int64))[1], mask=mask))
    if any(not np.isfinite(target.box()).all() for target in made):  # wholly covered or outside
        return warp(ground[0], rng)
    return frames, made


def cut_out(donor: np.ndarray, rng: Rng) -> list[Image.Image]:
    """The same textured place of two frames [2, h, w, 3], as pictures with an outline in their alpha channel."""
    height, width = donor.shape[1:3]
    x, y, w, h = (round(value) for value in textured(donor[0], (0.15, 0.6), rng))
    alpha = outline(rng)
    pieces = []
    for frame in donor:
        piece = Image.fromarray(np.ascontiguousarray(frame[y : min(y + h, height), x : min(x + w, width)]))
        piece.putalpha(alpha.resize(piece.size, Image.Resampling.BILINEAR))
        pieces.append(piece)
    return pieces


def outline(rng: Rng, side: int = 96) -> Image.Image:
    """A grey picture: a rectangle, an ellipse or a blob, 255 inside, with a more or less soft rim."""
    picture = Image.new("L", (side, side))
    draw = ImageDraw.Draw(picture)
    margin = 4
    kind = int(rng.integers(4))
    if kind == 0:
        draw.rectangle([margin, margin, side - margin, side - margin], fill=255)
    elif kind == 1:
        draw.ellipse([margin, margin, side - margin, side - margin], fill=255)
    else:
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        radius = np.ones(48)
        for order in range(2, 6):
            radius += rng.normal(0, 0.35 / order) * np.cos(order * angles + rng.uniform(0, 2 * np.pi))
        radius = np.clip(radius, 0.25, None)
        points = np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None]
        low, high = points.min(0), points.max(0)
        places = margin + (points - low) / (high - low) * (side - 2 * margin)
        draw.polygon([(float(px), float(py)) for px, py in places], fill=255)
    return picture.filter(ImageFilter.GaussianBlur(float(rng.choice([0.5, 1.0, 2.0]))))


def lit(piece: Image.Image, gain: np.ndarray) -> Image.Image:
    """A picture with alpha whose colours are scaled by [3]."""
    pixels = np.asarray(piece).astype(np.float32)
    pixels[..., :3] *= gain.astype(np.float32)
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8), "RGBA")


def lay(picture: Image.Image, piece: Image.Image, centre: Any, side: float, angle: float) -> np.ndarray:
    """Pastes a piece, scaled to a root area of `side` and turned, about a centre; bool [H, W] where it covers."""
    scale = side / np.sqrt(piece.width * piece.height)
    size = (max(2, round(piece.width * scale)), max(2, round(piece.height * scale)))
    turned = piece.resize(size, Image.Resampling.BILINEAR).rotate(angle, Image.Resampling.BILINEAR, expand=True)
    at = (round(centre[0] - turned.width / 2), round(centre[1] - turned.height / 2))
    picture.paste(turned, at, turned)
    covered = Image.new("L", picture.size)
    covered.paste(turned.getchannel("A"), at)
    return np.asarray(covered) > 127


def cover(picture: Image.Image, labels: np.ndarray, rng: Rng) -> None:
    """Lays a bar over part of the object: something of one colour passes in front of it."""
    box = mask_boxes((labels == 1).astype(np.uint8), np.ones(1, np.int64))[1][0]
    if not np.isfinite(box).all():
        return
    x, y, w, h = box
    wide, high = (w * rng.uniform(0.15, 0.45), h * 2) if rng.random() < 0.5 else (w * 2, h * rng.uniform(0.15, 0.45))
    left, top = x + rng.uniform(0, w) - wide / 2, y + rng.uniform(0, h) - high / 2
    area = [round(left), round(top), round(left + wide), round(top + high)]
    red, green, blue = rng.integers(0, 256, 3).tolist()
    ImageDraw.Draw(picture).rectangle(area, fill=(red, green, blue))
    mark = Image.new("L", picture.size)
    ImageDraw.Draw(mark).rectangle(area, fill=255)
    labels[np.asarray(mark) > 0] = 0


# ---------------------------------------------------------------- one frame, warped


def textured(frame: np.ndarray, sides: tuple[float, float], rng: Rng) -> np.ndarray:
    """float64 [4]: of some random boxes, with sides in shares of the short side, the one with the strongest edges."""
    height, width = frame.shape[:2]
    short = min(height, width)
    grey = frame.astype(np.float32).mean(-1)
    best, most = np.zeros(4), -1.0
    for _ in range(ROUNDS):
        area = short * float(np.exp(rng.uniform(np.log(sides[0]), np.log(sides[1]))))
        aspect = float(np.exp(rng.uniform(-0.6, 0.6)))
        w, h = (min(max(area * factor, 4.0), limit) for factor, limit in ((aspect, width), (1 / aspect, height)))
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        inside = grey[int(y) : int(y + h), int(x) : int(x + w)]
        edges = sum(float(np.abs(np.diff(inside, axis=axis)).mean()) for axis in (0, 1) if inside.shape[axis] > 1)
        if edges > most:
            best, most = np.array([x, y, w, h]), edges
    return best


def warp(frame: np.ndarray, rng: Rng) -> tuple[np.ndarray, list[Target]]:
    """A frame [H, W, 3] and its image under a random similarity and shear, with a textured box in both."""
    height, width = frame.shape[:2]
    box = textured(frame, (0.12, 0.5), rng)
    centre = box[:2] + box[2:] / 2
    angle, zoom = rng.normal(0, 0.1), np.exp(rng.normal(0, 0.2, 2) * [1, 0.4])
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.diag([zoom[0] * zoom[1], zoom[0] / zoom[1]])
    matrix = matrix @ np.array([[1, rng.normal(0, 0.06)], [0, 1]])
    moved = centre + rng.normal(0, 0.5, 2) * np.sqrt(box[2] * box[3])
    moved = np.clip(moved, [0.1 * width, 0.1 * height], [0.9 * width, 0.9 * height])
    inverse = np.linalg.inv(matrix)
    offset = centre - inverse @ moved
    data = (*inverse[0], offset[0], *inverse[1], offset[1])
    # The picture is continued by its mirror image, so that no black border gives the motion away.
    pad = max(height, width) // 2
    wide = np.pad(frame, ((pad, pad), (pad, pad), (0, 0)), mode="symmetric")
    shifted = (*data[:2], data[2] + pad, *data[3:5], data[5] + pad)
    warped = Image.fromarray(wide).transform((width, height), Image.Transform.AFFINE, shifted, Image.Resampling.BICUBIC)
    second = lit(warped.convert("RGBA"), 1 + 0.2 * rng.uniform(-1, 1) + 0.05 * rng.uniform(-1, 1, 3)).convert("RGB")
    corners = box[:2] + np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * box[2:]
    placed = (corners - centre) @ matrix.T + moved
    after = np.concatenate([placed.min(0), placed.max(0) - placed.min(0)])
    targets = [Target(ids=np.ones(1, np.int64), boxes=value[None]) for value in (box, after)]
    return np.stack([frame, np.asarray(second)]), targets


# ---------------------------------------------------------------- found again

SIDE = 24
"""Side in pixels to which a box is brought down for matching."""
REACH = 14
"""Pixels, at that scale, that it may move from frame to frame."""
ALIKE = 0.6
"""Correlation below which a box counts as not found."""
CLOSED = 0.12
"""How far from its beginning a cycle may end, in sides of the box."""


def cycle(video: Video, rng: Rng) -> tuple[np.ndarray, list[Target]] | None:
    """Two frames some way apart and a textured box followed from one to the other and back; None where that fails."""
    if len(video) < 3:
        return None
    first, last = frame_pair(len(video), (2, 12), rng)
    step = max(1, (last - first) // 4)
    order = [*range(first, last, step), last]
    frames = video[order]
    if rng.random() < 0.5:
        frames = frames[::-1]
    box = textured(frames[0], (0.12, 0.45), rng)
    there = matched(frames, box)
    back = None if there is None else matched(frames[::-1], there)
    if there is None or back is None:
        return None
    error = np.abs(np.concatenate([back[:2] + back[2:] / 2 - box[:2] - box[2:] / 2, back[2:] - box[2:]]))
    if (error > CLOSED * np.sqrt(box[2] * box[3])).any():
        return None
    targets = [Target(ids=np.ones(1, np.int64), boxes=value[None]) for value in (box, there)]
    return np.stack([frames[0], frames[-1]]), targets


def matched(frames: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    """float64 [4]: where the box of the first of `frames` [T, H, W, 3] is in the last, by normalised correlation.

    The picture that is looked for stays that of the first frame, so that errors do not add up. None where in some
    frame nothing is like it.
    """
    scale = SIDE / np.sqrt(box[2] * box[3])
    size = max(8, round(box[2] * scale)), max(8, round(box[3] * scale))
    first = torch.from_numpy(frames[0].astype(np.float32).mean(-1))
    wanted = sampled(first, box, size[1], size[0])
    wanted = wanted - wanted.mean()
    norm = wanted.norm()
    if norm < 1:
        return None
    wanted = wanted / norm
    place = box.astype(np.float64)
    for frame in frames[1:]:
        grey = torch.from_numpy(frame.astype(np.float32).mean(-1))
        best = (ALIKE, place)
        for zoom in (1.0, 0.95, 1.05):
            half = place[2:] * zoom / 2
            centre = place[:2] + place[2:] / 2
            pixel = place[2:] * zoom / size
            reach = REACH * pixel
            window = np.concatenate([centre - half - reach, 2 * (half + reach)])
            seen = sampled(grey, window, size[1] + 2 * REACH, size[0] + 2 * REACH)[None, None]
            ones = torch.ones(1, 1, *wanted.shape) / wanted.numel()
            mean = functional.conv2d(seen, ones)
            spread = (functional.conv2d(seen * seen, ones) - mean * mean).clamp(min=1e-3) * wanted.numel()
            alike = functional.conv2d(seen, wanted[None, None]) / spread.sqrt()
            peak = int(alike.argmax())
            value = float(alike.flatten()[peak])
            if value > best[0]:
                row, column = divmod(peak, alike.shape[-1])
                middle = window[:2] + (np.array([column, row]) + np.array(size) / 2) * pixel
                best = (value, np.concatenate([middle - half, 2 * half]))
        if best[0] <= ALIKE:
            return None
        place = best[1]
    return place


def sampled(grey: torch.Tensor, box: np.ndarray, rows: int, columns: int) -> torch.Tensor:
    """float32 [rows, columns]: a box of a picture [H, W], bilinear, the border repeated."""
    height, width = grey.shape
    x = (torch.arange(columns) + 0.5) * (float(box[2]) / columns) + float(box[0])
    y = (torch.arange(rows) + 0.5) * (float(box[3]) / rows) + float(box[1])
    grid = torch.stack(torch.meshgrid(2 * y / height - 1, 2 * x / width - 1, indexing="ij")[::-1], -1)[None]
    return functional.grid_sample(grey[None, None], grid, padding_mode="border", align_corners=False)[0, 0]
