"""A video with what was found drawn on it."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dropmae.contracts import Export
from dropmae.contracts.exports import Add
from dropmae.engine import Answer
from dropmae.target import Target
from dropmae.video import Video, Writer
from dropmae.visualize.overlay import draw_target, draw_text


@dataclass(kw_only=True)
class MP4(Export):
    """An overlay: boxes, masks, points and flow on the frames, in H.264."""

    suffixes = (".mp4",)
    beside = (".jsonl",)

    trail: int = 12
    """Frames of the way behind each object or point."""

    @contextlib.contextmanager
    def open(self, out: Path, video: Video, doubtful_below: float | None) -> Iterator[Add]:
        past: deque[Target] = deque(maxlen=self.trail)
        with Writer(out, video.fps or 30, kind=self.KIND) as writer:

            def add(answer: Answer) -> None:
                writer.write(fitted(drawn(answer, list(past), doubtful_below), writer.size))
                past.append(answer.target)

            yield add


def drawn(answer: Answer, trail: list[Target], doubtful_below: float | None) -> np.ndarray:
    """The frame with the answer on it, and a word on what is lost."""
    target = answer.target
    made = draw_target(answer.picture, target, trail, doubtful_below)
    if target.boxes is None:
        return made
    gone = [str(i) for i, box in zip(target.ids.tolist(), target.boxes) if not np.isfinite(box).all()]
    return draw_text(made, f"lost: {', '.join(gone)}") if gone else made


def fitted(picture: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """A frame as large as the first one: the video that is written has one size."""
    if size is None or picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0])))
