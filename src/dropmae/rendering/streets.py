"""`dropmae synth --scans`: streets with cars, vans, cyclists, people and clutter, as a moving LiDAR sees them.

Street n is a pure function of the settings and (seed, n). Things move by speed and turn over a flat ground, and none of
them through another; the sensor drives past. Boxes are exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dropmae.rendering.lidar import BOX, ELLIPSOID, Sensor
from dropmae.rendering.motions import chance, log_uniform
from dropmae.target import Target

Rng = np.random.Generator
RATE = 10.0
"""Frames per second."""
CLASSES = ("Car", "Pedestrian", "Van", "Cyclist")
SPEEDS = {"Car": (0, 15), "Van": (0, 13), "Cyclist": (1.5, 8), "Pedestrian": (0, 2.2)}
"""Slowest and fastest, in metres per second."""


@dataclass(kw_only=True, frozen=True)
class Scanning:
    """What rendered scans look like."""

    frames: int = 20
    """Scans per street, ten a second."""
    objects: tuple[int, int] = (4, 12)
    """Fewest and most objects per street."""
    # Scans
    beams: int = 64
    """Beams of the scanner."""
    columns: int = 1800
    """Directions of a beam per turn."""
    distance: float = 35.0
    """Farthest place of an object at first, in metres."""
    clutter: float = 1.0
    """How much else stands about."""
    near: float = 6.0
    """Keep the points within so many metres of an object; 0 keeps all."""

    def __post_init__(self) -> None:
        low, high = self.objects
        if self.frames < 1 or self.beams < 1 or self.columns < 8 or not 1 <= low <= high <= 60:
            raise ValueError(
                "--frames and --beams take 1 or more, --columns 8 or more, --objects the fewest and the most of 1 to "
                f"60, not {self.frames}, {self.beams}, {self.columns}, {low} {high}"
            )
        if not 6 <= self.distance <= 200 or not 0 <= self.clutter <= 10 or self.near < 0:
            raise ValueError(
                f"--distance is 6 to 200 metres, --clutter 0 to 10, --near 0 or more, not {self.distance:g}, "
                f"{self.clutter:g}, {self.near:g}"
            )


class Solids(NamedTuple):
    """The parts of a thing in its own axes: x forward, z from the ground up."""

    rows: np.ndarray
    """float64 [S, 7], see `lidar`."""
    kinds: np.ndarray
    albedo: np.ndarray
    swings: np.ndarray
    """float64 [S]: how far a part swings along x as the thing moves."""


class Thing(NamedTuple):
    """Something on the street, with its way through it."""

    name: str
    """Its class; empty for clutter."""
    size: np.ndarray
    """float64 [3]: w, l, h of its box."""
    solids: Solids
    path: np.ndarray
    """float64 [T, 3]: x, y and heading in the world."""


def solids(parts: Sequence[tuple[int, tuple[float, ...], tuple[float, ...], float, float]]) -> Solids:
    """From (kind, centre x y z, half sides, albedo, swing) of each part."""
    rows = np.array([[*centre, *half, 0.0] for _, centre, half, _, _ in parts])
    kinds, albedo, swings = (np.array([part[place] for part in parts]) for place in (0, 3, 4))
    return Solids(rows, kinds, albedo, swings)


def vehicle(rng: Rng, van: bool) -> tuple[np.ndarray, Solids]:
    """Size w l h and parts of a car: a body, a cabin, bumpers and wheels; a van's cabin is long and high."""
    width, length = (
        (rng.normal(1.9, 0.1), rng.normal(5.0, 0.4)) if van else (rng.normal(1.65, 0.1), rng.normal(4.0, 0.4))
    )
    height = rng.normal(2.15, 0.18) if van else rng.normal(1.52, 0.1)
    waist = height * rng.uniform(0.5, 0.62)
    share = rng.uniform(0.72, 0.9) if van else rng.uniform(0.45, 0.65)
    back = -length / 2 * rng.uniform(0.8, 1.0) if van or chance(rng, 0.5) else -length * rng.uniform(0.3, 0.42)
    shine, glass = log_uniform(rng, 0.05, 0.9), rng.uniform(0.02, 0.2)
    floor = rng.uniform(0.15, 0.3)
    parts = [
        (BOX, (0.0, 0.0, (waist + floor) / 2), (length * 0.46, width * 0.5, (waist - floor) / 2), shine, 0.0),
        (
            BOX,
            (back + share * length / 2, 0.0, (waist + height) / 2),
            (share * length / 2, width * 0.44, (height - waist) / 2),
            glass,
            0.0,
        ),
        (ELLIPSOID, (0.0, 0.0, (waist + floor) / 2), (length * 0.5, width * 0.47, waist * 0.42), shine, 0.0),
    ]
    for x in (-0.31 * length, 0.31 * length):
        parts += [(ELLIPSOID, (x, y, 0.32), (0.32, 0.1, 0.32), 0.05, 0.0) for y in (-width / 2 + 0.1, width / 2 - 0.1)]
    return np.array([width, length, height]), solids(parts)


def person(rng: Rng, lift: float = 0.0, lean: float = 0.0) -> list:
    """Parts of somebody who walks, or, lifted, sits."""
    tall, wide = rng.normal(1.72, 0.12), rng.normal(0.24, 0.03)
    shine = rng.uniform(0.05, 0.7)
    legs, chest = tall * 0.47, tall * 0.68
    swing = 0.0 if lift else 0.3
    parts = [
        (ELLIPSOID, (lean, 0.0, chest + lift), (0.16, wide, tall * 0.2), shine, 0.0),
        (ELLIPSOID, (lean * 1.6, 0.0, tall - 0.12 + lift), (0.11, 0.09, 0.13), 0.4, 0.0),
    ]
    for side in (-1, 1):
        leg = (swing * side, (ELLIPSOID, (lean * 0.5, side * 0.1, legs / 2 + lift / 2), (0.1, 0.08, legs / 2)))
        arm = (-0.7 * swing * side, (ELLIPSOID, (lean, side * (wide + 0.05), chest + lift), (0.07, 0.06, tall * 0.17)))
        parts += [(*what, rng.uniform(0.05, 0.6), moves) for moves, what in (leg, arm)]
    return parts


def pedestrian(rng: Rng) -> tuple[np.ndarray, Solids]:
    parts = person(rng)
    if chance(rng, 0.25):  # a bag
        parts.append((BOX, (-0.2, rng.uniform(-0.1, 0.1), 1.2), (0.12, 0.16, 0.22), rng.uniform(0.1, 0.6), 0.0))
    top = parts[1][1][2] + 0.13
    return np.array([rng.uniform(0.55, 0.8), rng.uniform(0.6, 1.0), top]), solids(parts)


def cyclist(rng: Rng) -> tuple[np.ndarray, Solids]:
    parts = person(rng, lift=0.15, lean=rng.uniform(0.0, 0.2))
    parts += [(ELLIPSOID, (x, 0.0, 0.34), (0.34, 0.04, 0.34), 0.3, 0.0) for x in (-0.52, 0.52)]
    parts.append((BOX, (0.0, 0.0, 0.6), (0.5, 0.04, 0.15), 0.5, 0.0))
    parts.append((BOX, (0.45, 0.0, 1.0), (0.04, 0.28, 0.04), 0.5, 0.0))
    return np.array([rng.uniform(0.55, 0.75), rng.uniform(1.72, 1.85), parts[1][1][2] + 0.13]), solids(parts)


def clutter(rng: Rng) -> tuple[np.ndarray, Solids]:
    """A wall, pole, tree, bush, bin or heap."""
    kind, shine = rng.integers(6), rng.uniform(0.05, 0.8)
    if kind == 0:
        half = (rng.uniform(2, 9), rng.uniform(0.1, 0.3), rng.uniform(0.4, 2.0))
    elif kind == 1:
        half = (0.07, 0.07, rng.uniform(1.2, 3))
    elif kind in (2, 3):
        half = (rng.uniform(0.3, 1.2), rng.uniform(0.3, 1.2), rng.uniform(0.3, 1.0))
    else:
        half = (rng.uniform(0.2, 1.0), rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.9))
    parts = [(ELLIPSOID if kind in (2, 3) else BOX, (0.0, 0.0, half[2]), half, shine, 0.0)]
    if kind == 3:  # a tree
        crown = (ELLIPSOID, (0.0, 0.0, 3.2), (half[0] + 0.6, half[1] + 0.6, 1.4), shine, 0.0)
        parts = [(BOX, (0.0, 0.0, 1.2), (0.15, 0.15, 1.2), 0.3, 0.0), crown]
    return 2 * np.array([half[1], half[0], half[2]]), solids(parts)


def travelled(rng: Rng, start: np.ndarray, speed: float, turn: float, count: int) -> np.ndarray:
    """float64 [count, 3]: the way from a start (x, y, heading) at about this speed, turning about so much a second."""
    steps = np.arange(count) / RATE
    pace = speed * (1 + 0.3 * np.sin(rng.uniform(0.3, 1.5) * steps + rng.uniform(0, 6.28)) * chance(rng, 0.6))
    rate = turn * np.sin(rng.uniform(0.2, 1.2) * steps + rng.uniform(0, 6.28))
    heading = start[2] + np.concatenate([[0], np.cumsum(rate[:-1]) / RATE])
    moves = np.stack([np.cos(heading), np.sin(heading)], 1) * pace[:, None] / RATE
    return np.column_stack([start[:2] + np.concatenate([np.zeros((1, 2)), np.cumsum(moves[:-1], 0)]), heading])


def apart(things: list[Thing], path: np.ndarray, radius: float, margin: float) -> bool:
    """Whether a way keeps clear of all that is there already."""
    return all(
        (np.linalg.norm(thing.path[:, :2] - path[:, :2], axis=1) > radius + reach(thing) + margin).all()
        for thing in things
    )


def reach(thing: Thing) -> float:
    """Radius of the circle that a thing is kept out of; walls are thin."""
    return float(np.hypot(*thing.size[:2])) / 2 if thing.name else float(thing.size[1]) / 2


MAKERS = {
    "Car": lambda rng: vehicle(rng, False),
    "Van": lambda rng: vehicle(rng, True),
    "Pedestrian": pedestrian,
    "Cyclist": cyclist,
}


def street(rng: Rng, options: Scanning) -> tuple[np.ndarray, list[Thing]]:
    """The sensor's way [T, 3] and the things of a street, those that are followed first."""
    count = options.frames
    drive = travelled(rng, np.zeros(3), 0.0 if chance(rng, 0.25) else rng.uniform(1, 15), rng.uniform(-0.2, 0.2), count)
    ego = Thing("Car", np.array([2.0, 4.5, 1.6]), solids([(BOX, (0.0, 0.0, 0.8), (2.0, 1.0, 0.8), 0.1, 0.0)]), drive)
    things = [ego]
    wanted, middle = int(rng.integers(options.objects[0], options.objects[1] + 1)), drive[count // 2, :2]
    for _ in range(20 * wanted):
        if len(things) > wanted:
            break
        name = str(rng.choice(CLASSES, p=[0.35, 0.35, 0.13, 0.17]))
        size, parts = MAKERS[name](rng)
        slow, fast = SPEEDS[name]
        speed = 0.0 if slow == 0 and chance(rng, 0.3) else rng.uniform(slow, fast)
        angle, away = rng.uniform(0, 2 * np.pi), options.distance * np.sqrt(rng.uniform(0.015, 1))
        along = drive[0, 2] + rng.choice([0, np.pi / 2, np.pi, -np.pi / 2]) + rng.normal(0, 0.2)
        heading = along if name != "Pedestrian" and chance(rng, 0.7) else rng.uniform(-np.pi, np.pi)
        start = np.array([*(middle + away * np.array([np.cos(angle), np.sin(angle)])), heading])
        turn = rng.normal(0, 0.6 if name == "Pedestrian" else 0.25)
        path = travelled(rng, start, speed, turn, count)
        if apart(things, path, float(np.hypot(*size[:2])) / 2, 0.15):
            things.append(Thing(name, size, parts, path))
    followed = len(things)
    for _ in range(int(options.clutter * rng.uniform(10, 60))):
        size, parts = clutter(rng)
        if things[1:] and chance(rng, 0.5):  # beside something that is followed
            beside = (
                things[int(rng.integers(1, followed))].path[int(rng.integers(count)), :2] if followed > 1 else middle
            )
            place = beside + rng.normal(0, 3.0, 2)
        else:
            place = middle + rng.uniform(-1, 1, 2) * (options.distance + 10)
        path = np.tile([*place, rng.uniform(-np.pi, np.pi)], (count, 1))
        if apart(things[:followed], path, float(size[1]) / 2, 0.3):
            things.append(Thing("", size, parts, path))
    return drive, things[1:]


def drawn(seed: int, n: int, options: Scanning) -> Iterator[tuple[np.ndarray, Target]]:
    """Street n of a set, scan by scan: float32 [P, 4] and Targets with `boxes3d`, `names` and visible shares."""
    if seed < 0 or n < 0:
        raise ValueError("seed and street numbers must not be negative")
    rng = np.random.default_rng([seed, 11, n])
    drive, things = street(rng, options)
    sensor = Sensor(
        beams=options.beams, columns=options.columns, height=float(rng.normal(1.75, 0.08)),
        elevations=(float(rng.uniform(-30, -22)), float(rng.uniform(1, 10))), dropout=float(rng.uniform(0.02, 0.2)),
    )  # fmt: skip
    followed = [thing for thing in things if thing.name]
    ids = np.arange(1, len(followed) + 1)
    owners = np.concatenate([np.full(len(t.solids.rows), k + 1 if t.name else 0) for k, t in enumerate(things)])
    kinds, albedo = (np.concatenate([getattr(t.solids, name) for t in things]) for name in ("kinds", "albedo"))
    for frame in range(options.frames):
        poses = [seen_from(drive[frame], thing.path[frame]) for thing in things]
        rows = np.concatenate([placed(t, pose, frame, sensor.height) for t, pose in zip(things, poses)])
        points, _, shares = sensor.scan(rows, kinds, owners, albedo, rng)
        boxes = np.array([
            [pose[0], pose[1], thing.size[2] / 2 - sensor.height, *thing.size, pose[2]]
            for thing, pose in zip(followed, poses)
        ]).reshape(-1, 7)  # fmt: skip
        if options.near and len(boxes):
            far = np.min([np.hypot(*(points[:, :2] - box[:2]).T) - np.hypot(*box[3:5]) / 2 for box in boxes], axis=0)
            points = points[far < options.near]
        yield points, Target(
            ids=ids, boxes3d=boxes, names=[thing.name for thing in followed],
            scores=np.array([shares.get(number, 0.0) for number in ids.tolist()]),
        )  # fmt: skip


def seen_from(view: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """float64 [3]: a pose x, y, heading of the world as seen from another one."""
    dx, dy = pose[:2] - view[:2]
    cosine, sine = np.cos(view[2]), np.sin(view[2])
    turn = (pose[2] - view[2] + np.pi) % (2 * np.pi) - np.pi
    return np.array([dx * cosine + dy * sine, dy * cosine - dx * sine, turn])


def placed(thing: Thing, pose: np.ndarray, frame: int, height: float) -> np.ndarray:
    """Solids [S, 7] of a thing in a frame, around the sensor."""
    rows = thing.solids.rows.copy()
    walked = np.linalg.norm(np.diff(thing.path[: frame + 1, :2], axis=0), axis=1).sum()
    rows[:, 0] += thing.solids.swings * np.sin(4.2 * walked)
    cosine, sine = np.cos(pose[2]), np.sin(pose[2])
    x, y = rows[:, 0].copy(), rows[:, 1].copy()
    rows[:, 0], rows[:, 1] = pose[0] + x * cosine - y * sine, pose[1] + x * sine + y * cosine
    rows[:, 2] -= height
    rows[:, 6] += pose[2]
    return rows
