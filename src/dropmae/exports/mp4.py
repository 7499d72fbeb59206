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
from dropmae.progress import say
from dropmae.target import Target
from dropmae.video import Video, Writer
from dropmae.visualize.overlay import draw_target, draw_text


@dataclass(kw_only=True)
class MP4(Export):
    """An overlay: boxes, masks, points and flow on the frames, in H.264; with the video's sound, and at its times."""

    suffixes = (".mp4", ".mov")
    beside = (".jsonl",)

    trail: int = 12
    """Frames of the way behind each object or point."""

    @contextlib.contextmanager
    def open(self, out: Path, video: Video, doubtful_below: float | None) -> Iterator[Add]:
        past: deque[Target] = deque(maxlen=self.trail)
        times = video.times if video.stamped else None
        first: Answer | None = None
        writer: Writer | None = None
        cut = -1
        with contextlib.ExitStack() as stack:

            def begin(forward: bool) -> Writer:
                sound = video.sound(float(times[first.frame])) if times is not None and first and forward else None
                if sound is not None:
                    stack.callback(sound.close)
                made = stack.enter_context(Writer(out, video.fps or 30, sound=sound, kind=self.KIND))
                if made.silent:
                    say(f"{out} has no sound: {made.silent}")
                return made

            def draw(answer: Answer) -> None:
                nonlocal cut
                assert writer is not None
                assert first is not None
                if answer.cut:
                    past.clear()
                    cut = writer.count
                picture = drawn(answer, list(past), doubtful_below)
                if cut >= 0 and writer.count - cut < self.trail:
                    picture = draw_text(picture, "cut", (0, picture.shape[0]))
                seconds = None if times is None else abs(float(times[answer.frame] - times[first.frame]))
                writer.write(fitted(picture, writer.size), seconds)
                past.append(answer.target)

            def add(answer: Answer) -> None:
                nonlocal first, writer
                if first is None:
                    first = answer  # whether to play the sound shows with the second frame
                    return
                if writer is None:
                    writer = begin(answer.frame > first.frame)
                    draw(first)
                draw(answer)

            yield add
            if first is not None and writer is None:
                writer = begin(forward=True)
                draw(first)


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
