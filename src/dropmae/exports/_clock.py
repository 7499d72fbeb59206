"""When the frames of a video are shown in a copy of it: at its rate, at its own times, or made to keep a rate."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dropmae.progress import say
from dropmae.video import Video

SLACK = 1.5e-3
"""Seconds by which times may differ from a constant rate: some containers round them to milliseconds."""


@dataclass(eq=False)
class Clock:
    """Says for each frame how often it is written, and when it is shown."""

    video: Video
    constant: bool = False
    """Whether a varying rate is made constant, by frames that are repeated or left out."""
    times: np.ndarray | None = field(init=False)
    """Seconds of all frames; None where they follow at a constant rate."""
    rate: float = field(init=False)
    repeated: int = 0
    left_out: int = 0
    written: int = 0

    def __post_init__(self) -> None:
        self.rate = self.video.fps or 30.0
        self.times = self.video.times if self.video.stamped else None
        if self.times is not None and np.abs(self.times - np.arange(len(self.times)) / self.rate).max() < SLACK:
            self.times = None

    def showings(self, frame: int, first: int = 0) -> list[float | None]:
        """The times at which a frame is written, None for the next place; frames come in order, from `first` on."""
        if self.times is None:
            return [None]
        seconds = float(self.times[frame] - self.times[first])
        if not self.constant:
            return [seconds]
        last = frame + 1 == len(self.times)
        end = seconds + 1 / self.rate if last else float(self.times[frame + 1] - self.times[first])
        count = max(round(end * self.rate) - self.written, 0)
        self.written += count
        self.left_out += count == 0
        self.repeated += max(count - 1, 0)
        return [None] * count

    def tell(self, out: object) -> None:
        """Says what was done to keep the rate."""
        if self.constant and self.times is not None:
            said = f"{self.repeated} frames are shown again and {self.left_out} are left out"
            say(f"{out}: {self.rate:g} frames a second throughout; for that {said}")
