"""Pairs of pictures with exact flow: photographs and cut-outs as layers, each moving in its own way.

Frame 2 shows every layer through a similarity; frame 1 shows at x what frame 2 shows at x + w(x), where w is the
layer's motion: an affine or projective field and a smooth deformation. So flow is known everywhere without turning any
field round, below what hides it too, and a pixel is occluded where another layer, or no picture, is at its goal.

Pictures are uint8 [4, H, W]: colours and how much they cover. H x W are the sides of the frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Moves:
    """How far and in which ways layers move; lengths are drawn from these ranges by their logarithm."""

    shift: tuple[float, float] = (0.3, 40.0)
    """Shift in pixels."""
    stretch: float = 0.15
    """Deviation of rotation in radians, of zoom and of shear, for the longest shifts; less for shorter ones."""
    bend: tuple[float, float] = (0.05, 6.0)
    """Deformation in pixels, of a grid of a few cells."""
    tilt: float = 0.3
    """How often the background moves as a plane in perspective does."""
    still: float = 0.15
    """How often a layer rests, or an object goes along with the background."""
    blur: float = 0.15
    """How often the shutter is open for part of the motion."""
    approach: float = 0.0
    """How often the background moves as a street does that is driven along: ground, walls to both sides, and what is
    far away."""
    plain: float = 0.0
    """How often a picture has lost its detail and most of its contrast, as asphalt and walls have."""


MOVES = Moves()


def levels(picture: Tensor) -> list[Tensor]:
    """A picture [4, H, W] and its halves, down to a short side of 16; colours weigh by how much they cover."""
    found, last = [picture], picture.float()[None]
    while min(last.shape[2:]) >= 32:
        cover = functional.avg_pool2d(last[:, 3:], 2)
        colours = functional.avg_pool2d(last[:, :3] * last[:, 3:], 2) / cover.clamp(min=1e-3)
        last = torch.cat([colours.clamp(0, 255), cover], 1)
        found.append(last[0].round().byte())
    return found


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A picture's place in frame 2 and its motion."""

    picture: Tensor
    """float32 [4, h, w] in [0, 1]."""
    matrix: Tensor
    """float32 [2, 3]: from pixels of frame 2 to pixels of the picture."""
    flow: Tensor
    """float32 [2, H, W]: from frame 1 to frame 2, for any pixel, shown or not."""
    endless: bool
    """Whether the picture is continued by its mirror image."""

    def seen(self, places: Tensor) -> Tensor:
        """[4, h, w]: what frame 2 shows of it at places [2, h, w], premultiplied by how much it covers."""
        height, width = self.picture.shape[1:]
        at = torch.einsum("ij,jhw->ihw", self.matrix[:, :2], places) + self.matrix[:, 2, None, None]
        grid = (at.permute(1, 2, 0) * torch.tensor([2 / width, 2 / height]) - 1)[None]
        mode = "reflection" if self.endless else "zeros"
        found = functional.grid_sample(self.picture[None], grid, padding_mode=mode, align_corners=False)[0]
        return torch.cat([found[:3] * found[3:], found[3:]])


def field(rng: Rng, size: tuple[int, int], cells: int) -> Tensor:
    """float32 [2, H, W]: a smooth random field of about unit size."""
    coarse = torch.from_numpy(rng.normal(size=(1, 2, cells, cells + 1)).astype(np.float32))
    return functional.interpolate(coarse, size, mode="bicubic", align_corners=True)[0]


def motion(rng: Rng, places: Tensor, about: Tensor, moves: Moves, plane: bool) -> Tensor:
    """float32 [2, H, W]: how far each of `places` moves; rotation, zoom and tilt are about a point [2]."""
    height, width = places.shape[1:]
    length = np.exp(rng.uniform(*np.log(moves.shift)))
    angle, share = rng.uniform(0, 2 * np.pi), (length / moves.shift[1]) ** 0.5
    turn, zoom, lean, skew = rng.normal(size=4) * moves.stretch * share * rng.uniform(0, 1)
    cos, sin = np.cos(turn), np.sin(turn)
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.diag(np.exp([zoom + lean / 2, zoom - lean / 2]))
    linear = linear @ np.array([[1, skew], [0, 1]]) - np.eye(2)
    off = places - about[:, None, None]
    moved = torch.einsum("ij,jhw->ihw", torch.from_numpy(linear.astype(np.float32)), off)
    moved = moved + torch.tensor([np.cos(angle), np.sin(angle)], dtype=torch.float32)[:, None, None] * float(length)
    if plane and rng.random() < moves.tilt:
        slant = torch.from_numpy((rng.normal(size=2) * 0.3 * share / max(height, width)).astype(np.float32))
        depth = (1 + torch.einsum("j,jhw->hw", slant, off)).clamp(0.5, 2)
        moved = (off + moved) / depth - off
    if rng.random() < 0.7:
        bend = min(np.exp(rng.uniform(*np.log(moves.bend))), 0.4 * length + 0.3)
        moved = moved + field(rng, (height, width), int(rng.integers(2, 6))) * float(bend)
    return moved


def street(rng: Rng, places: Tensor, length: float) -> Tensor:
    """float32 [2, H, W]: how far `places` move for a camera that drives along a street, turning a little.

    The nearest ground moves by about `length` pixels. Depth is that of ground and walls, never nearer than the frame's
    lower edge; motion is that of points on them (Longuet-Higgins and Prazdny, 1980).
    """
    height, width = places.shape[1:]
    horizon, middle = height * rng.uniform(0.2, 0.55), width * rng.uniform(0.3, 0.7)
    across, down = places[0] - middle, places[1] - horizon
    reach = height - horizon
    walls = np.exp(rng.uniform(np.log(0.8), np.log(4.0), 2)).astype(np.float32) * reach
    near = torch.maximum(down / reach, torch.maximum(across / float(walls[0]), -across / float(walls[1])))
    near = near.clamp(min=float(rng.uniform(0.02, 0.1)))  # one over depth; 1 at the lower edge
    share = min(0.45, float(length) / (reach + abs(width / 2 - middle))) * (1 if rng.random() < 0.8 else -0.8)
    grown = near * share / (1 - near * share).clamp(min=0.3)
    turn = rng.normal(size=2) * [0.06 * width, 0.02 * height] * rng.uniform(0, 1)
    shift = torch.tensor([across.new_tensor(turn[0]), across.new_tensor(turn[1])])[:, None, None]
    return torch.stack([across, down]) * grown + shift


def flattened(picture: Tensor, rng: Rng) -> Tensor:
    """A picture [4, h, w] in [0, 1] with a smaller contrast, around its mean colour."""
    mean = (picture[:3] * picture[3:]).mean((1, 2), keepdim=True) / picture[3:].mean().clamp(min=1e-3)
    return torch.cat([mean + (picture[:3] - mean) * float(rng.uniform(0.04, 0.4)), picture[3:]]).clamp(0, 1)


def placed(picture: list[Tensor], rng: Rng, size: tuple[int, int], scale: float, at: tuple[float, float]) -> tuple:
    """The level of a picture and the matrix [2, 3] that show it `scale` pixels of its own to a pixel, about `at`."""
    level = min(int(max(0, np.ceil(np.log2(max(scale, 1e-3)) - 0.3))), len(picture) - 1)
    shown = picture[level].float() / 255
    scale = scale / 2**level
    turn, flip = rng.normal(0, 0.25), -1 if rng.random() < 0.5 else 1
    cos, sin = np.cos(turn) * scale, np.sin(turn) * scale
    matrix = np.array([[cos * flip, -sin], [sin * flip, cos]])
    middle = np.array([shown.shape[2], shown.shape[1]]) / 2
    return shown, np.concatenate([matrix, (middle - matrix @ np.array(at))[:, None]], 1)


def background(picture: list[Tensor], rng: Rng, places: Tensor, moves: Moves) -> Layer:
    """A layer that fills the frame."""
    height, width = places.shape[1:]
    sides = np.array(picture[0].shape[1:])
    most = float((sides / (1.3 * np.array([height, width]))).min())
    scale = float(np.exp(rng.uniform(np.log(min(0.6, most)), np.log(max(most, 0.6)))))
    at = (width * rng.uniform(0.2, 0.8), height * rng.uniform(0.2, 0.8))
    shown, matrix = placed(picture, rng, (height, width), scale, at)
    middle = torch.tensor([width / 2, height / 2])
    still = rng.random() < moves.still
    flow = torch.zeros_like(places) if still else motion(rng, places, middle, moves, plane=True)
    if moves.approach and rng.random() < moves.approach:
        flow = street(rng, places, float(np.exp(rng.uniform(np.log(2), np.log(moves.shift[1])))))
    if moves.plain and rng.random() < moves.plain:
        shown = flattened(shown, rng)
    return Layer(picture=shown, matrix=torch.from_numpy(matrix).float(), flow=flow, endless=True)


def thing(picture: list[Tensor], rng: Rng, places: Tensor, moves: Moves, below: Tensor) -> Layer:
    """A cut-out somewhere in the frame; `below` [2, H, W] is the background's flow, with which it may go along."""
    height, width = places.shape[1:]
    long = max(picture[0].shape[1:])
    side = min(height, width) * float(np.exp(rng.uniform(np.log(0.15), np.log(1.0))))
    x, y = width * rng.uniform(0, 1), height * rng.uniform(0, 1)
    shown, matrix = placed(picture, rng, (height, width), long / side, (x, y))
    kind = rng.random()
    flow = motion(rng, places, torch.tensor([x, y], dtype=torch.float32), moves, plane=False)
    if moves.plain and rng.random() < moves.plain / 2:
        shown = flattened(shown, rng)
    if kind < moves.still:
        flow = below
    elif kind < 0.6:
        flow = below[:, min(int(y), height - 1), min(int(x), width - 1), None, None] + flow * float(rng.uniform(0.1, 1))
    return Layer(picture=shown, matrix=torch.from_numpy(matrix).float(), flow=flow, endless=False)


def shown(layers: list[Layer], rng: Rng, places: Tensor, which: int, open_for: float) -> tuple[Tensor, Tensor]:
    """A frame [3, H, W] and which layer is on top in each pixel [H, W]; the shutter is open for so much of the way."""
    picture, top = torch.zeros(3, *places.shape[1:]), torch.zeros(places.shape[1:], dtype=torch.int64)
    for number, layer in enumerate(layers):
        goal = places + layer.flow if which == 0 else places
        seen = layer.seen(goal)
        top = torch.where(seen[3] > 0.5, number, top)
        if open_for:
            seen = (seen + layer.seen(goal - open_for * layer.flow) + layer.seen(goal + open_for * layer.flow)) / 3
        picture = picture * (1 - seen[3]) + seen[:3]
    return picture, top


def render_pair(
    ground: list[Tensor], things: list[list[Tensor]], size: tuple[int, int], rng: Rng, moves: Moves = MOVES
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames uint8 [2, H, W, 3], flow float32 [H, W, 2] of every pixel of the first, occluded bool [H, W].

    `ground` and each of `things` are `levels` of a picture; things lie over one another in their order.
    """
    height, width = size
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    places = torch.stack([columns, rows])
    layers = [background(ground, rng, places, moves)]
    layers += [thing(picture, rng, places, moves, layers[0].flow) for picture in things]
    open_for = float(rng.uniform(0.1, 0.35)) if rng.random() < moves.blur else 0.0
    (first, top), (second, above) = (shown(layers, rng, places, which, open_for) for which in (0, 1))
    flow = torch.stack([layer.flow for layer in layers]).gather(0, top[None, None].expand(1, 2, -1, -1))[0]
    goal = (places + flow).floor().long()
    inside = (goal[0] >= 0) & (goal[0] < width) & (goal[1] >= 0) & (goal[1] < height)
    there = above[goal[1].clamp(0, height - 1), goal[0].clamp(0, width - 1)]
    frames = (torch.stack([first, second]) * 255 + 0.5).clamp(0, 255).byte().permute(0, 2, 3, 1)
    return frames.numpy(), flow.permute(1, 2, 0).numpy(), (~inside | (there != top)).numpy()
