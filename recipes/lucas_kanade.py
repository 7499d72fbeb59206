"""Points by OpenCV's pyramidal Lucas-Kanade, frame to frame: the yardstick that needs no training.

Use: dropmae evaluate tapvid --root R --weights lk.safetensors --code recipes/lucas_kanade.py --out OUT, where
lk.safetensors was written by `python recipes/lucas_kanade.py lk.safetensors`. A point counts as visible while the way
back from where it was found ends within a pixel of where it came from. Needs opencv-python-headless.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from dropmae.contracts import Task
from dropmae.target import Target


@dataclass(kw_only=True, eq=False, repr=False)
class Lucas_Kanade(Task):
    """Follows points from each frame to the next."""

    takes, gives = ("points",), ("points", "visible")

    window: int = 21
    """Side in pixels of the patch that is compared."""
    levels: int = 3
    """Levels of the pyramid above the first."""

    def __post_init__(self):
        super().__init__()
        self.head = torch.nn.Parameter(torch.zeros(1))  # weights hold at least a number

    def told(self, points, prompt):
        known = np.isfinite(prompt.points).all(1)
        known = known if prompt.visible is None else known & np.asarray(prompt.visible, bool)
        points = np.full(prompt.points.shape, np.nan) if points is None else points
        return np.where(known[:, None], prompt.points, points), known

    def start(self, frame, target):
        return 0, cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), self.told(None, target)[0], target.owners

    def step(self, state, frame, prompt=None):
        number, before, points, owners = state
        now, known = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.isfinite(points).all(1)
        visible = np.zeros(len(points), bool)
        if known.any():
            settings = {"winSize": (self.window, self.window), "maxLevel": self.levels}
            old = (points[known] - 0.5).astype(np.float32)[:, None]
            new, found, _ = cv2.calcOpticalFlowPyrLK(before, now, old, None, **settings)
            back, _, _ = cv2.calcOpticalFlowPyrLK(now, before, new, None, **settings)
            visible[known] = (found[:, 0] > 0) & (np.linalg.norm(back - old, axis=-1)[:, 0] < 1)
            points = points.copy()
            points[known] = new[:, 0].astype(np.float64) + 0.5
        if prompt is not None and prompt.points is not None:
            points, told = self.told(points, prompt)
            visible |= told
        target = Target(ids=np.zeros(0, np.int64), points=points, visible=visible, owners=owners)
        return (number + 1, now, points, owners), {number + 1: target}


if __name__ == "__main__":
    import dropmae

    dropmae.save(dropmae.trust(__file__).Lucas_Kanade(), sys.argv[1])
