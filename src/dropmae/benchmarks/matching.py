"""Matching between frames: rendered points, of which it is known where they are and whether they can be seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dropmae.benchmarks.synthetic import Synthetic
from dropmae.target import Target


@dataclass(kw_only=True)
class Matching(Synthetic):
    """How often a point's nearest neighbour in another frame's features is the point: the clips of `synthetic`.

    Of an encoder, without training. A point is asked for in the first frame that shows it, and counts in each later one
    that does. It is right where it is off by no more than a cell across and down, a cell being the frame's short side
    divided by `cells`: one of 7 x 7 tokens then can be right everywhere. Features hold the place of a token too, and
    most points move little: `unmoved` is what is right if every point stays where it was asked for, and `match_moved`
    counts only those that are more than two cells away from there, of which such answers have none.
    """

    cells: int = 14
    """Cells along the frame's short side."""

    def __post_init__(self) -> None:
        if self.cells < 1:
            raise ValueError(f"cells must be at least 1, not {self.cells}")

    def score(
        self,
        results: Mapping[str, Mapping[int, Target]],
        annotations: Mapping[str, Mapping[int, Target]],
        *,
        map: Callable = map,
    ) -> dict[str, Any]:
        """Shares over all points and frames of a sequence, and their means over sequences.

        `match` are right within a cell, `match_2` within two, `match_moved` within a cell of those that moved by more
        than two; `unmoved` is `match` of answers that never move, `moved` the share that moved by more than two.
        OSError where the results hold none of the videos, or other points.
        """
        rows, rest = self.measured(results, annotations, map, "no point is seen twice")
        keys = ("match", "match_2", "match_moved", "unmoved", "moved")
        means = {key: [row[key] for row in rows.values() if key in row] for key in keys}
        return {
            "protocol": f"within 1/{self.cells} of the short side",
            **{key: float(np.mean(values)) if values else None for key, values in means.items()},
            "sequences": rows,
            **rest,
        }

    def measure(self, name: str, result: Mapping[int, Target], truth: Mapping[int, Target]) -> dict[str, float]:
        """The numbers of one video; empty where no point is seen in two frames."""
        cell = min(self.size) / self.cells
        asked: np.ndarray | None = None
        rows: list[np.ndarray] = []
        for frame in sorted(truth):
            target = truth[frame]
            if target.points is None:
                continue
            asked = np.full(target.points.shape, np.nan) if asked is None else asked
            seen = np.isfinite(target.points).all(1)
            seen = seen if target.visible is None else seen & np.asarray(target.visible, bool)
            counted = seen & np.isfinite(asked).all(1)
            found = result[frame].points if frame in result else None
            if found is None:
                found = np.full(target.points.shape, np.nan)
            if found.shape != target.points.shape:
                raise OSError(f"{name}, frame {frame}: {len(found)} points, but {len(target.points)} are annotated")
            off = [np.abs(other - target.points).max(1)[counted] for other in (found, asked)]
            rows.append(np.nan_to_num(off, nan=np.inf) / cell)
            fresh = seen & ~np.isfinite(asked).all(1)
            asked[fresh] = target.points[fresh]
        off, path = np.concatenate(rows, 1) if rows else np.zeros((2, 0))
        if not len(off):
            return {}
        far = path > 2
        numbers = {"match": off <= 1, "match_2": off <= 2, "match_moved": off[far] <= 1, "unmoved": path <= 1}
        numbers["moved"] = far
        shares = {key: float(values.mean()) for key, values in numbers.items() if len(values)}
        return {**shares, "points": len(off)}
