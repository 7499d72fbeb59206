"""What the scores of a tracked video say about each object, in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dropmae.target import Target


@dataclass
class Confidence:
    """Gathers scores frame by frame; NaN and frames without scores do not count."""

    doubtful_below: float | None
    """Scores below it are doubtful; None where the task does not say."""
    scores: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    """Object -> (frame, score) in the order in which frames came."""

    def add(self, frame: int, target: Target) -> None:
        """Takes the scores of one frame."""
        if target.scores is not None:
            for object_id, score in zip(target.ids.tolist(), target.scores.tolist()):
                if np.isfinite(score):
                    self.scores.setdefault(object_id, []).append((frame, score))

    def summary(self) -> dict[str, dict[str, Any]]:
        """Object -> mean and lowest score, the frame of the lowest, how many frames are doubtful, and the first one."""
        found = {}
        for object_id, rows in self.scores.items():
            lowest = min(rows, key=lambda row: row[1])
            doubtful = [] if self.doubtful_below is None else [at for at, score in rows if score < self.doubtful_below]
            found[str(object_id)] = {
                "mean": round(float(np.mean([score for _, score in rows])), 4),
                "lowest": round(lowest[1], 4),
                "lowest_frame": lowest[0],
                "doubtful_frames": len(doubtful),
                "doubtful_from": doubtful[0] if doubtful else None,
            }
        return found

    def lines(self) -> list[str]:
        """The summary for people."""
        return [
            f"object {name}: confidence {row['mean']:.2f} on average, lowest {row['lowest']:.2f} in frame "
            f"{row['lowest_frame']}" + doubt(row)
            for name, row in self.summary().items()
        ]


def doubt(row: dict[str, Any]) -> str:
    """Words on the doubtful frames of an object."""
    count = row["doubtful_frames"]
    return f"; doubtful from frame {row['doubtful_from']} on, in {count} frame{'s' * (count > 1)}" if count else ""
