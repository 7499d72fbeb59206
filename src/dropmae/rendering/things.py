"""What there is in a rendered clip: a backdrop, objects made of one or more parts, and unlabelled foreground."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dropmae.rendering import textures
from dropmae.rendering.motions import chance, log_uniform
from dropmae.rendering.scenes import SHARE_POINTS, blur

Rng = np.random.Generator


@dataclass(kw_only=True, eq=False)
class Part:
    """A piece of an object: its picture, and for a limb the joint at which it swings."""

    picture: torch.Tensor
    extent: tuple[float, float, float, float]
    inner: np.ndarray
    """float64 [K, 2]: points of its surface, in random order."""
    joint: tuple[float, float, float] | None = None
    """x, y and angle in the body's square; None for the body."""
    reach: float = 1.0
    """Half the limb's length in the body's square."""
    swing: float = 1.0


@dataclass(kw_only=True, eq=False)
class Thing:
    """An object or a piece of unlabelled foreground: its parts from back to front."""

    parts: list[Part]
    radius: float
    """Half its size, in short sides."""


@dataclass(kw_only=True, eq=False)
class Appearance:
    """All of a scene but motion, light and lens."""

    backdrop: torch.Tensor
    backdrop_reach: float
    backdrop_tilt: tuple[float, float]
    ridge: torch.Tensor | None
    objects: list[Thing]
    foreground: list[tuple[int, float, np.ndarray, Thing]]
    """How many objects lie behind it, its depth, its place in the world, and the thing."""


def part(rng: Rng, outline: torch.Tensor, colours: torch.Tensor, **limb: Any) -> Part:
    """A part from its outline [S, S] and its texture [3, S, S], darker towards the rim as round things are."""
    size = colours.shape[-1]
    distance = F.interpolate(outline[None, None], size=(size, size), mode="bilinear", align_corners=False)[0]
    rim = 1 - float(rng.choice([0, 0.3, 0.6])) * (1 - distance / 0.35).clamp_(0, 1).square()
    rows, columns = np.nonzero((distance[0] > min(0.04, float(distance.max()) / 2)).numpy())
    picks = rng.integers(len(rows), size=4 * SHARE_POINTS)
    across, down = np.flatnonzero((distance[0] > 0).any(0)), np.flatnonzero((distance[0] > 0).any(1))
    return Part(
        picture=torch.cat([colours * rim * 255, distance])[None].contiguous(),
        extent=(
            (2 * float(across[0]) - 1) / size - 1,
            (2 * float(down[0]) - 1) / size - 1,
            (2 * float(across[-1]) + 3) / size - 1,
            (2 * float(down[-1]) + 3) / size - 1,
        ),
        inner=(np.stack([columns[picks], rows[picks]], 1) * 2 + 1) / size - 1,
        **limb,
    )


def thing(rng: Rng, radius: float, short: int) -> Thing:
    """An object of half the size `radius`: one outline, or a body with limbs."""
    size = int(np.clip(np.ceil(radius * short * 2.4 / 16) * 16, 48, 768))
    skin = textures.texture(rng, size)
    body = part(rng, textures.outline(rng, 96), skin)
    if not chance(rng, 0.2):
        return Thing(parts=[body], radius=radius)
    limbs = []
    skins = [skin, textures.texture(rng, size)]
    middle = body.inner.mean(0)
    for angle in np.linspace(0, 2 * np.pi, int(rng.integers(2, 6)), endpoint=False) + rng.uniform(0, 2 * np.pi):
        joint = middle + np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.25, 0.55)
        limbs.append(
            part(
                rng,
                textures.limb(rng, 96),
                skins[rng.integers(2)],
                joint=(float(joint[0]), float(joint[1]), float(angle)),
                reach=float(rng.uniform(0.35, 0.6)),
                swing=float(rng.choice([-1, 1]) * rng.uniform(0.5, 1.2)),
            )
        )
    return Thing(parts=[*limbs, body], radius=radius)


def appearance(rng: Rng, size: tuple[int, int], objects: tuple[int, int], foreground: bool) -> Appearance:
    """Draws the textures, shapes, sizes and the order of things in a scene.

    `size` is the frame's height and width, `objects` the fewest and the most; `foreground` allows unlabelled things.
    """
    height, width = size
    short, diagonal = min(size), float(np.hypot(height, width))
    reach = 0.65 * diagonal / short
    backdrop = textures.landscape(rng, min(round(2 * reach * short / 16) * 16, 2048)) * 255
    if chance(rng, 0.3):
        backdrop = blur(backdrop, log_uniform(rng, 0.7, 4) * short / 256)
    tilt = (float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-0.3, 0.3))) if chance(rng, 0.4) else (0.0, 0.0)
    ridge = None
    if foreground and chance(rng, 0.3):
        side = backdrop.shape[-1]
        ground = textures.texture(rng, side) * 255
        ridge = torch.cat([ground, textures.ridge(rng, side)[None]])[None].contiguous()
    shown: list[Thing] = []
    for _ in range(int(rng.integers(objects[0], objects[1] + 1))):
        if shown and chance(rng, 0.2):
            twin = shown[int(rng.integers(len(shown)))]
            shown.append(replace(twin, radius=twin.radius * float(rng.uniform(0.8, 1.2))))
        else:
            shown.append(thing(rng, log_uniform(rng, 0.07, 0.32), short))
    near = []
    for _ in range(int(rng.choice([0, 0, 1, 2, 3])) if foreground else 0):
        place = rng.uniform(-0.6, 0.6, 2) * [width / short, height / short]
        behind = int(rng.integers(len(shown) + 1))
        near.append((behind, float(rng.uniform(0.6, 1.3)), place, thing(rng, log_uniform(rng, 0.06, 0.4), short)))
    return Appearance(
        backdrop=backdrop[None].contiguous(),
        backdrop_reach=reach,
        backdrop_tilt=tilt,
        ridge=ridge,
        objects=shown,
        foreground=near,
    )
