"""What all cut-outs share: the objects on nothing, with a soft edge, in the colours of the frames."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dropmae.contracts import Export
from dropmae.contracts.exports import Add
from dropmae.engine import Answer
from dropmae.exports._clock import Clock
from dropmae.exports._mattes import Edges
from dropmae.exports._order import ascending
from dropmae.exports._things import frame_count
from dropmae.progress import say
from dropmae.video import Video
from dropmae.video.alpha import AlphaWriter, Colours, Part


@dataclass(kw_only=True)
class CutOut(Export):
    """Masks as straight alpha; what is far from an object is black, so that nothing of it is in the file."""

    needs = ("mask",)

    edge: Literal["soft", "hard"] = "soft"
    """A soft edge is found in the picture, in a band around the mask's, and kept steady over time."""


@dataclass(kw_only=True)
class CutOutVideo(CutOut):
    """A video with transparency, as long as the source; frames of which nothing is known are empty."""

    constant_rate: bool = False
    """Where the source's rate varies, repeat and leave out frames to keep one; else its times are kept."""

    @contextlib.contextmanager
    def open(self, out: Path, video: Video, doubtful_below: float | None) -> Iterator[Add]:
        clock, edges = Clock(video, self.constant_rate), Edges(soft=self.edge == "soft")
        told = video.colours()
        next_frame, last = 0, 0
        with contextlib.ExitStack() as stack:
            sound = video.sound() if video.stamped else None
            if sound is not None:
                stack.callback(sound.close)
            colours = Colours() if told is None else Colours(*told)
            writer = AlphaWriter(out, clock.rate, colours=colours, sound=sound, kind=self.KIND)
            stack.enter_context(writer)
            if writer.silent:
                say(f"{out} has no sound: {writer.silent}")

            def show(frame: int, picture: np.ndarray, part: Part) -> None:
                for seconds in clock.showings(frame):
                    writer.write(picture, seconds, part)

            def add(answer: Answer) -> None:
                nonlocal next_frame, last
                picture, part = cut_out(edges, answer)
                for frame in range(next_frame, answer.frame):
                    show(frame, np.zeros_like(picture), NOTHING)
                next_frame, last = answer.frame + 1, answer.frame
                show(answer.frame, picture, part)

            with ascending(add, video) as ordered:
                yield ordered
            for frame in range(next_frame, frame_count(video, last)):
                show(frame, np.zeros((video.height, video.width, 4), np.uint8), NOTHING)
            clock.tell(out)


NOTHING: Part = (slice(0, 0), slice(0, 0))


def cut_out(edges: Edges, answer: Answer) -> tuple[np.ndarray, Part]:
    """uint8 [H, W, 4] of all objects in a frame, and the rows and columns beyond which it is empty."""
    frame, mask = answer.picture, answer.target.mask
    made = np.zeros((*frame.shape[:2], 4), np.uint8)
    if mask is None or not mask.any():
        edges.forget()
        return made, NOTHING
    alpha, part = edges.cut(frame, mask > 0)
    inside = made[part]
    inside[..., 3] = alpha
    near = edges.near(alpha)
    inside[..., :3][near] = frame[part][near]
    return made, part
