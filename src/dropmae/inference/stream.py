"""Runs a task through a video: prompts in, a Target per frame out, whatever kind of task or video it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dropmae.target import Target
from dropmae.video import BLOCK, Video
from dropmae.video import is_live as live

Picture = np.ndarray | OSError
"""A frame uint8 [H, W, 3], or why there is none."""
PATIENCE = 30
"""Frames in a row that may be unreadable."""


@dataclass
class Follower:
    """One pass of a task over frames. `skipped` names those that could not be read: {frame: reason}."""

    task: Any
    """A tracker, segmenter or the like: start, step, finish, and a `lag` if it looks ahead."""
    prompts: Mapping[int, Target]
    """What is to be followed: frame number -> what is known there. The first one starts; others correct or add."""
    skipped: dict[int, str] = field(default_factory=dict)

    def follow(self, frames: Iterable[tuple[int, Picture]]) -> Iterator[tuple[int, np.ndarray, Target]]:
        """(frame number, frame, what is where) for each of `frames` (number, picture) from the first prompt on.

        A frame that cannot be read is passed over: the task goes on with the next one. ValueError where the frame of
        the first prompt does not turn up, OSError where that of any prompt, or too many in a row, cannot be read.
        """
        state: Any = None
        answered = bad = 0
        waiting: deque[tuple[int, np.ndarray]] = deque()  # frames whose answer the task still holds back
        for number, picture in frames:
            prompt = self.prompts.get(number)
            bad = bad + 1 if isinstance(picture, OSError) else 0
            if isinstance(picture, OSError):
                if prompt is not None or bad > PATIENCE:
                    raise picture
                self.skipped[number] = " ".join(str(picture).split())
                continue
            if state is None:
                if prompt is not None:
                    state = self.task.start(picture, prompt)
                    yield number, picture, given(prompt)
                continue
            waiting.append((number, picture))
            state, found = self.task.step(state, picture, prompt)
            yield from self.matched(found, waiting, answered)
            answered += len(found)
        if state is None:
            wanted = ", ".join(str(number) for number in sorted(self.prompts)[:3])
            raise ValueError(f"there is no frame {wanted}, where following should begin")
        yield from self.matched(self.task.finish(state), waiting, answered)

    def matched(
        self, found: Mapping[int, Target], waiting: deque[tuple[int, np.ndarray]], answered: int
    ) -> Iterator[tuple[int, np.ndarray, Target]]:
        """The task counts the frames it was given from 0; answers come in that order."""
        for index in sorted(found):
            assert index == answered + 1, "a task answers every frame once and in order"
            answered += 1
            number, picture = waiting.popleft()
            yield number, picture, found[index]


def given(prompt: Target) -> Target:
    """A prompt as the answer for its own frame: it is certain."""
    scores = np.ones(len(prompt.ids)) if prompt.scores is None else prompt.scores
    return Target(**{**vars(prompt), "scores": scores})


def pictures(video: Video, numbers: range | None = None) -> Iterator[tuple[int, Picture]]:
    """(number, frame) of the frames `numbers` of a video, by default all; for one that cannot be read, the error.

    Backwards a block of frames is decoded at a time. A live stream is taken from where it is.
    """
    if live(video.source):
        yield from enumerate(video)
        return
    order = range(len(video)) if numbers is None else numbers
    size = 1 if order.step > 0 else BLOCK
    for start in range(0, len(order), size):
        part = list(order[start : start + size])
        try:
            yield from zip(part, video.read(part))
        except OSError:
            yield from ((number, one(video, number)) for number in part)


def one(video: Video, number: int) -> Picture:
    try:
        return video[number]
    except OSError as error:
        return error
