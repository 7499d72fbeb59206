"""How cameras and objects of rendered clips move: smooth functions of time, drawn from the generator passed in.

Lengths are in units of the frame's short side, with the origin at the frame's centre, so that a motion is the same at
every size; times are frame indices. A path is float64 [n, 2], one row per time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dropmae.rendering.geometry import scales, shifts, tilts, turns

Rng = np.random.Generator


def log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def chance(rng: Rng, share: float) -> bool:
    return bool(rng.random() < share)


def path(rng: Rng, times: np.ndarray, start: np.ndarray, reach: np.ndarray, speed: float, leave: float) -> np.ndarray:
    """Through random way points within `reach` of the centre; some lie outside the frame (a share of `leave`).

    The way is straight with sharp turns, smooth, or made of dashes with rests between.
    """
    if speed == 0:
        return np.tile(start, (len(times), 1))
    pace = log_uniform(rng, 0.0015, 0.025) * speed
    moments, places = [float(times[0])], [start]
    outside = False
    while moments[-1] <= times[-1] or len(moments) < 3:
        leaving = not outside and chance(rng, leave)
        if leaving:
            angle = rng.uniform(0, 2 * np.pi)
            goal = np.array([np.cos(angle), np.sin(angle)]) * (reach + 0.5) * rng.uniform(1, 1.3)
        elif outside:
            goal = rng.uniform(-0.6, 0.6, 2) * reach
        else:
            goal = np.clip(places[-1] + rng.normal(0, 0.35, 2), -0.85 * reach, 0.85 * reach)
        seconds = float(np.linalg.norm(goal - places[-1])) / pace
        if leaving or outside:
            seconds = min(seconds, log_uniform(rng, 16, 50) / speed)
        moments.append(moments[-1] + max(seconds, 4.0))
        places.append(goal)
        outside = leaving
    at, knots = np.array(moments), np.array(places)
    style = rng.choice(["straight", "smooth", "smooth", "dash"])
    row = np.clip(np.searchsorted(at, times, side="right") - 1, 0, len(at) - 2)
    length = (at[row + 1] - at[row])[:, None]
    share = np.clip((times - at[row])[:, None] / length, 0, 1)
    if style == "smooth":
        # A cubic through the way points, with the slopes of the chords between their neighbours.
        slopes = np.zeros_like(knots)
        slopes[1:-1] = (knots[2:] - knots[:-2]) / (at[2:] - at[:-2])[:, None]
        slopes[0], slopes[-1] = (knots[1] - knots[0]) / (at[1] - at[0]), 0
        back = 1 - share
        near = knots[row] * (1 + 2 * share) + slopes[row] * length * share
        far = knots[row + 1] * (1 + 2 * back) - slopes[row + 1] * length * back
        return near * back**2 + far * share**2
    if style == "dash":
        share = np.clip(share * 1.4, 0, 1)
        share = share * share * (3 - 2 * share)
    return knots[row] + share * (knots[row + 1] - knots[row])


def sway(rng: Rng, times: np.ndarray, amplitude: float, period: tuple[float, float] = (12, 90)) -> np.ndarray:
    """A sum of two sine waves [n] of about this amplitude."""
    total = np.zeros(len(times))
    for share in (0.7, 0.3):
        rate = 2 * np.pi / log_uniform(rng, *period)
        total += share * amplitude * np.sin(rate * times + rng.uniform(0, 2 * np.pi))
    return total


def shake(rng: Rng, times: np.ndarray, amplitude: float) -> np.ndarray:
    """A trembling hand [n, 2]: white noise smoothed over a few frames."""
    kernel = np.hanning(int(rng.integers(5, 12)) + 2)
    noise = rng.normal(0, amplitude, (len(times) + len(kernel) - 1, 2))
    return np.stack([np.convolve(column, kernel / np.sqrt((kernel**2).sum()), "valid") for column in noise.T], 1)


@dataclass(kw_only=True, eq=False)
class Camera:
    pan: np.ndarray
    """[n, 2]: what the camera looks at."""
    roll: np.ndarray
    zoom: np.ndarray

    def poses(self, size: tuple[int, int], depth: float = 1.0) -> np.ndarray:
        """[n, 3, 3]: from the world at a depth (1: the objects'; nearer things pass by faster) to pixels."""
        return screen(size, self.zoom) @ turns(self.roll) @ shifts(-self.pan / depth)


def screen(size: tuple[int, int], zoom: np.ndarray) -> np.ndarray:
    """[n, 3, 3]: from units of the short side, origin at the centre, to pixels."""
    height, width = size
    centre = np.tile([[width / 2, height / 2]], (len(zoom), 1))
    return shifts(centre) @ scales(zoom * min(size))


def camera(rng: Rng, times: np.ndarray, speed: float) -> Camera:
    """One that stands still, pans, follows, zooms, rolls or trembles, or several of these."""
    count, still = len(times), np.zeros(2)
    pan = np.zeros((count, 2))
    if chance(rng, 0.55):
        pan = pan + path(rng, times, still, np.array([0.6, 0.4]), 0.6 * speed, 0)
    if chance(rng, 0.35):
        pan = pan + shake(rng, times, log_uniform(rng, 0.0007, 0.006) * speed)
    roll, zoom = np.zeros(count), np.ones(count)
    if chance(rng, 0.3):
        roll = sway(rng, times * speed, log_uniform(rng, 0.02, 0.25), (30, 150))
    if chance(rng, 0.4):
        zoom = np.exp(sway(rng, times * speed, log_uniform(rng, 0.03, 0.3), (40, 160)))
    return Camera(pan=pan, roll=roll, zoom=zoom)


@dataclass(kw_only=True, eq=False)
class Movement:
    """What one object does."""

    poses: np.ndarray
    """[n, 3, 3]: from the object's square, one unit wide, to the world or (where `held`) to the screen."""
    held: bool
    """Whether it moves relative to the camera, as something that the camera follows."""
    bends: np.ndarray | None
    """[n, 2, 3]: see `scenes.Surface`."""
    swing: np.ndarray
    """[n]: a swing in radians for its limbs."""


def movement(rng: Rng, times: np.ndarray, start: np.ndarray, aspect: np.ndarray, speed: float) -> Movement:
    """A path with turns, growing and shrinking, tilts out of the plane and wobbling; any of these may be missing."""
    count = len(times)
    zero = np.zeros(count)
    position = path(rng, times, start, 0.5 * aspect, speed, leave=0.08 if chance(rng, 0.65) else 0.5)
    if chance(rng, 0.2):
        rate, radius = log_uniform(rng, 0.04, 0.3) * speed, log_uniform(rng, 0.02, 0.15)
        position = position + radius * np.stack([np.cos(rate * times), np.sin(rate * times)], 1)
    if chance(rng, 0.15):
        rate, height = log_uniform(rng, 0.06, 0.25) * speed, log_uniform(rng, 0.03, 0.2)
        position = position + np.stack([zero, -height * np.abs(np.sin(rate * times))], 1)
    if chance(rng, 0.3):
        position = position + shake(rng, times, log_uniform(rng, 0.0007, 0.004) * speed)

    kind = rng.choice(["none", "spin", "sway", "sway", "heading"])
    angle = np.full(count, rng.uniform(-0.6, 0.6))
    if kind == "spin":
        angle = rng.uniform(0, 2 * np.pi) + times * rng.normal(0, 0.04) * speed
    elif kind == "sway":
        angle = angle + sway(rng, times * speed, log_uniform(rng, 0.05, 0.8), (15, 90))
    elif kind == "heading":
        step = np.gradient(position, axis=0)
        smooth = np.hanning(13)[1:-1] / np.hanning(13).sum()
        right, down = (np.convolve(np.pad(c, 5, mode="edge"), smooth, "valid") for c in step.T)
        angle = np.unwrap(np.arctan2(down, right + 1e-3))
    scale = np.ones(count)
    if chance(rng, 0.6):
        scale = np.exp(sway(rng, times * speed, log_uniform(rng, 0.04, 0.45), (20, 120)))
    about_x, about_y = zero, zero
    if chance(rng, 0.4):
        about_x = rng.normal(0, 0.3) + sway(rng, times * speed, log_uniform(rng, 0.1, 0.7), (20, 120))
        about_y = rng.normal(0, 0.3) + sway(rng, times * speed, log_uniform(rng, 0.1, 0.7), (20, 120))
    bends = None
    if chance(rng, 0.35):
        bends = np.zeros((count, 2, 3))
        for row in (0, 1):
            rate = rng.uniform(1.5, 5)
            bends[:, row, 0] = np.abs(rng.normal(0, 0.12)) / max(1.0, rate / 3)
            bends[:, row, 1] = rate
            bends[:, row, 2] = rng.uniform(0, 6) + times * log_uniform(rng, 0.03, 0.4) * speed
    return Movement(
        poses=shifts(position) @ turns(angle) @ scales(scale) @ tilts(about_x, about_y, 0.35),
        held=chance(rng, 0.5),
        bends=bends,
        swing=sway(rng, times * speed, rng.uniform(0.2, 0.9), (8, 40)),
    )
