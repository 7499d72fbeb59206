"""A simulated LiDAR: rays of turning beams against boxes, ellipsoids and the ground; the nearest surface answers.

Metres, z up, the sensor at the origin. A solid is a row [x, y, z, a, b, c, yaw]: centre, half sides or half axes along
its own x, y, z, and how far it is turned about z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Rng = np.random.Generator
BOX, ELLIPSOID = 0, 1


@dataclass(kw_only=True, frozen=True)
class Sensor:
    """A scanner with a number of beams that turns once per frame."""

    beams: int = 64
    columns: int = 1800
    """Directions per turn."""
    elevations: tuple[float, float] = (-24.8, 2.0)
    """Of the lowest and the highest beam, in degrees."""
    reach: float = 80.0
    """Farthest return."""
    height: float = 1.73
    """Above the ground."""
    noise: float = 0.02
    """Standard deviation of the range."""
    dropout: float = 0.08
    """Share of rays that do not come back, at the least; it grows with the range."""

    def scan(
        self, solids: np.ndarray, kinds: np.ndarray, owners: np.ndarray, albedo: np.ndarray, rng: Rng
    ) -> tuple[np.ndarray, np.ndarray, dict[int, float]]:
        """Points float32 [P, 4] (x y z intensity) of a turn, the owner of each, int64 [P], and {owner: visible share}.

        `solids` are [S, 7], `kinds` BOX or ELLIPSOID, `owners` numbers from 1 (0 is the ground and whatever is not
        followed), `albedo` [S] in [0, 1]. The share is that of the rays at an owner that nothing else stops before.
        """
        up = np.radians(np.linspace(*self.elevations, self.beams) + rng.normal(0, 0.03, self.beams))
        around = (np.arange(self.columns) + rng.random()) * (2 * np.pi / self.columns)
        slope = np.sin(up)[:, None]
        with np.errstate(divide="ignore"):
            depth = np.where(slope < -1e-4, -self.height / np.minimum(slope, -1e-4), np.inf) * np.ones(len(around))
        depth += np.where(np.isfinite(depth), 0.03 * np.sin(around * 7 + up[:, None] * 90), 0)  # no ground is even
        which = np.full(depth.shape, -1)
        alone: dict[int, list[np.ndarray]] = {}
        for number, (solid, kind) in enumerate(zip(solids, kinds)):
            rows, columns = self.window(solid, up, around)
            if not len(rows) or not len(columns):
                continue
            found = hits(solid, kind, up[rows], around[columns])
            place = np.ix_(rows, columns)
            if owners[number]:
                flat = (rows[:, None] * self.columns + columns)[np.isfinite(found)]
                alone.setdefault(int(owners[number]), []).append(flat)
            nearer = found < depth[place]
            depth[place] = np.where(nearer, found, depth[place])
            which[place] = np.where(nearer, number, which[place])
        owner = np.where(which >= 0, np.append(owners, 0)[which], 0)
        shares = {}
        for number, rays in alone.items():
            seen = np.unique(np.concatenate(rays))
            shares[number] = float((owner.flat[seen] == number).mean()) if len(seen) else 0.0
        bright = np.append(albedo, 0.25)[which]
        lost = rng.random(depth.shape) < self.dropout + 0.25 * (depth / self.reach) ** 2
        there = np.isfinite(depth) & (depth < self.reach) & ~lost
        beam, column = np.nonzero(there)
        range_ = depth[there] + rng.normal(0, self.noise, len(beam))
        flat = range_ * np.cos(up[beam])
        points = np.stack([flat * np.cos(around[column]), flat * np.sin(around[column]), range_ * np.sin(up[beam])], 1)
        intensity = np.clip(bright[there] + rng.normal(0, 0.06, len(beam)), 0, 1)
        return np.column_stack([points, intensity]).astype(np.float32), owner[there], shares

    def window(self, solid: np.ndarray, up: np.ndarray, around: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Beams and columns that may meet a solid."""
        flat, radius = float(np.hypot(solid[0], solid[1])), float(np.linalg.norm(solid[3:6]))
        reach = float(np.hypot(solid[3], solid[4]))
        if flat - reach > self.reach:
            return np.zeros(0, int), np.zeros(0, int)
        if flat <= radius * 1.01:
            return np.arange(len(up)), np.arange(len(around))
        wide = np.arcsin(min(1.0, reach / flat))
        angle = (around - np.arctan2(solid[1], solid[0]) + np.pi) % (2 * np.pi) - np.pi
        near, far = flat - reach, flat + reach
        low, high = solid[2] - solid[5], solid[2] + solid[5]
        lowest, highest = np.arctan2(low, near if low < 0 else far), np.arctan2(high, far if high < 0 else near)
        return np.flatnonzero((up >= lowest) & (up <= highest)), np.flatnonzero(np.abs(angle) <= wide)


def hits(solid: np.ndarray, kind: int, up: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Distances float64 [R, C] at which rays from the origin enter a solid; inf where they miss it."""
    turned = around - solid[6]
    cosine, sine = np.cos(solid[6]), np.sin(solid[6])
    x, y, z = solid[:3]
    origin = np.array([-(x * cosine + y * sine), -(y * cosine - x * sine), -z]) / solid[3:6]
    across = np.cos(up)[:, None]
    ways = (
        across * np.cos(turned) / solid[3],
        across * np.sin(turned) / solid[4],
        np.sin(up)[:, None] * np.ones(len(around)) / solid[5],
    )
    if kind == BOX:
        first, last = np.full(ways[0].shape, 0.0), np.full(ways[0].shape, np.inf)
        for way, start in zip(ways, origin):
            with np.errstate(divide="ignore", invalid="ignore"):
                a, b = (-1 - start) / way, (1 - start) / way
            first, last = np.maximum(first, np.fmin(a, b)), np.minimum(last, np.fmax(a, b))
        return np.where((first <= last) & (first > 0), first, np.inf)
    square = sum(way**2 for way in ways)
    half = sum(way * start for way, start in zip(ways, origin))
    inside = half**2 - square * (origin @ origin - 1)
    with np.errstate(invalid="ignore"):
        entry = (-half - np.sqrt(inside)) / square
    return np.where((inside >= 0) & (entry > 0), entry, np.inf)
