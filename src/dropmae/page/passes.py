"""Going through a video in one direction, in pieces: stopped anywhere, gone on from near a correction.

A pass is what `track` does in one go. It keeps copies of the task's state, densely behind the frame it has come to and
thinner further back, so that the answers after a correction are those that a pass over everything would have given.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dropmae.engine import Answer, Engine, Session, first_told, joined, one, only, pictures
from dropmae.page.answers import Answers, Kept
from dropmae.target import FIELDS, Target
from dropmae.video import Video

EVERY = 8
"""A copy of the state is kept every so many frames, and four times as far back ever fewer of them."""
LIVE_STATES = 32
"""Copies of the state that are kept of what is followed live, beside those where something was said."""


class Step(NamedTuple):
    """What became of one frame."""

    frame: int
    answers: list[Answer]
    skipped: str = ""
    """Why the frame was passed over."""
    idle: bool = False
    """Whether nothing came, and somebody may stop."""


class Pass:
    """One direction (1: forwards, -1: backwards) through a video, and what it found.

    An answer is up to date as long as what the task had been told until then is what people say now; so undoing a
    change makes the answers from before it good again.
    """

    def __init__(self, direction: int, folder: Path) -> None:
        self.direction = direction
        self.answers = Answers(folder)
        self.origin: int | None = None
        """The frame it began with; None before."""
        self.prompts: dict[int, Target] = {}
        """What is said, of which the task is told what lies at or behind the origin."""
        self.states: dict[int, tuple[str, Session]] = {}
        """{frame: (its key then, the session once it has seen it)}"""
        self.passed = set[int]()
        """Frames that could not be read."""
        self._told: list[int] = []
        self._keys: list[str] = []

    def ahead(self, frame: int, other: int) -> bool:
        """Whether `frame` comes after `other`, or is it."""
        return (frame - other) * self.direction >= 0

    def told(self) -> dict[int, Target]:
        """What the task is told in this pass."""
        origin = self.origin
        return {n: told for n, told in self.prompts.items() if origin is not None and self.ahead(n, origin)}

    def tell(self, prompts: Mapping[int, Target]) -> None:
        """Takes what is said now."""
        self.prompts = dict(prompts)
        told = self.told()
        # Rows of points belong together: another number of them makes every answer another one.
        digest = hashlib.sha1(f"{self.origin} {count_points(told)}".encode())
        self._told, self._keys = [], []
        for number in sorted(told, key=lambda number: number * self.direction):
            digest.update(f"{number} ".encode() + content(told[number]))
            self._told.append(number * self.direction)
            self._keys.append(digest.hexdigest())

    def key(self, frame: int) -> str:
        """What the task is told until it comes to a frame, as a few letters; empty before it begins."""
        place = bisect.bisect_right(self._told, frame * self.direction)
        return self._keys[place - 1] if place else ""

    def stale(self) -> set[int]:
        """Frames whose answers were found when something else was said."""
        return {number for number, place in list(self.answers.places.items()) if place.key != self.key(number)}

    def reset(self) -> None:
        """Forgets all but what is said."""
        self.answers.clear()
        self.states, self.origin, self.passed = {}, None, set()
        self.tell(self.prompts)

    def begin(self, frame: int) -> tuple[Session | None, int]:
        """What to go on from, so that `frame` is seen next or soon: a session, or None for a new one, and the first
        frame that it has to see. ValueError where nothing is said at or before `frame`."""
        there = [n for n, (key, _) in self.states.items() if not self.ahead(n, frame) and key == self.key(n)]
        if there:
            nearest = max(there, key=lambda number: number * self.direction)
            return self.states[nearest][1], nearest + self.direction
        if (origin := self.first(frame)) is None:
            way = "before" if self.direction > 0 else "after"
            raise ValueError(f"nothing is shown at frame {frame} or {way} it: show there what to follow")
        return None, origin

    def first(self, frame: int) -> int | None:
        """Where a new pass begins that comes by `frame`; None where nothing is said on the way.

        Forwards with the first prompt. Backwards with a prompt in `frame` itself, else with the last frame in which
        something is shown for the first time, else with the nearest prompt.
        """
        known = [number for number in self.prompts if self.ahead(frame, number)]
        if not known or self.direction > 0:
            return min(known, default=None)
        news = [number for number in newly_told(self.prompts) if number >= frame]
        return frame if frame in known else max(news, default=min(known))

    def run(
        self, engine: Engine, video: Video, frame: int, stop: int, read: tuple[int, np.ndarray] | None = None
    ) -> Iterator[Step]:
        """Follows from `frame` to the one before `stop` (in this direction); before that what has to be caught up.

        `read` is the frame that was read last: forwards it need not be looked for again.
        """
        state, number = self.begin(frame)
        if state is None:
            self.renew(number)
            session = engine.session(self.told())
        else:
            session = state.snapshot()
            session.prompts = self.told()
        numbers = range(number, stop, self.direction)
        frames = pictures(video, numbers)
        if read is not None and self.direction > 0 and numbers and numbers[0] == read[0]:
            frames = chain([read], pictures(video, numbers[1:]))
        done = None
        try:
            for step, picture in frames:
                done, before = None, len(session.skipped)
                answers = session.push(step, picture)
                self.keep(step, session)
                if step == numbers[-1] and step in (0, len(video) - 1):
                    answers += session.snapshot().finish()
                self.take(answers)
                done, reason = step, session.skipped[step] if len(session.skipped) > before else ""
                self.passed |= {step} if reason else set()
                yield Step(step, answers, reason)
        finally:
            if done is not None:
                self.states[done] = (self.key(done), session)

    def renew(self, origin: int) -> None:
        """Begins anew with a frame; what was found before it belongs to nothing any more."""
        self.answers.drop([number for number in list(self.answers.places) if not self.ahead(number, origin)])
        self.states, self.origin, self.passed = {}, origin, set()
        self.tell(self.prompts)

    def take(self, answers: list[Answer]) -> None:
        """Keeps answers."""
        for answer in answers:
            kept = Kept(answer.target, answer.given, answer.missed)
            self.answers.put(answer.frame, kept, self.key(answer.frame))

    def keep(self, number: int, session: Session) -> None:
        """Keeps a copy of the state now and then, and lets go of old ones the more the older they are."""
        assert self.origin is not None
        if (number - self.origin) % EVERY == 0 or number in self.prompts:
            self.states[number] = (self.key(number), session.snapshot())
            for old in list(self.states):
                spacing = EVERY
                while 4 * spacing < abs(number - old):
                    spacing *= 2
                if (old - self.origin) % spacing and self.ahead(number, old):
                    del self.states[old]

    def next(self) -> int | None:
        """The first frame of this pass that has no answer yet, or a stale one; None before it began."""
        if self.origin is None:
            return None
        number, stale = self.origin, self.stale()
        while number in self.passed or (number in self.answers and number not in stale):
            number += self.direction
        return number

    def scores(self) -> dict[int, dict[int, float | None]]:
        """{frame: {object: score}}"""
        return {number: place.scores for number, place in list(self.answers.places.items())}

    def close(self) -> None:
        self.answers.close()
        self.states = {}


class LivePass(Pass):
    """Forwards through a video that is still being recorded, from frame to whatever frame is the newest by then.

    Frames that come while the task is busy are left out, but for those in which something is said. So what it finds
    depends on how fast the machine is, and no other pass goes on from it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(1, folder)

    def follow(self, engine: Engine, video: Video, frame: int, newer: Callable[[int], int | None]) -> Iterator[Step]:
        """Follows from `frame` on; `newer` is `Recording.newer`. ValueError where nothing is said until there."""
        state, origin = self.begin(frame)
        if state is None:
            self.renew(origin)
            session = engine.session(self.told())
            number: int | None = origin
        else:
            session = state.snapshot()
            session.prompts = self.told()
            number = min([n for n in session.prompts if origin <= n] + [frame])
        last = None
        try:
            while number is not None:
                if number != last:
                    last, before, picture = None, len(session.skipped), one(video, number)
                    answers = session.push(number, picture)
                    self.keep(number, session)
                    self.take(answers)
                    last = number
                    yield Step(number, answers, session.skipped[number] if len(session.skipped) > before else "")
                else:
                    yield Step(number, [], idle=True)
                told = min((n for n in (*session.prompts, frame) if n > number), default=None)
                number = newer(number) if told is None else told
            if last is not None and session.begun and (answers := session.snapshot().finish()):
                self.take(answers)
                yield Step(last, answers)
        finally:
            if last is not None:
                self.states[last] = (self.key(last), session)

    def keep(self, number: int, session: Session) -> None:
        """Keeps a copy of the state now and then, the fewer the longer ago, and where something was said."""
        if number in self.prompts or number - max(self.states, default=-EVERY) >= EVERY:
            self.states[number] = (self.key(number), session.snapshot())
        free = sorted(n for n in self.states if n not in self.prompts)
        if len(free) > LIVE_STATES:
            crowd = {n: (after - before) / (number + 1 - n) for before, n, after in zip(free, free[1:], free[2:])}
            del self.states[min(crowd, key=lambda n: crowd[n])]


def content(target: Target) -> bytes:
    """What a prompt tells, for comparing; what objects are called is not told."""
    arrays = [np.asarray(value) for name, value in vars(target).items() if value is not None and name != "names"]
    names = [name for name, value in vars(target).items() if value is not None]
    return repr(names).encode() + b"".join(repr(array.shape).encode() + array.tobytes() for array in arrays)


def merged(
    frame: int, forward: Kept, backward: Kept, prompts: Mapping[int, Target], corrected: Mapping[int, Target]
) -> Kept:
    """One answer from those of both passes: each object and point from the pass that had been told of it by then.

    `corrected` is what the backward pass was told, where it is the later one: then it counts for what it was told of in
    later frames than this one.
    """
    beyond = {number: target for number, target in corrected.items() if number > frame}
    (objects, points), since = first_told(beyond), first_told(prompts)[1]
    ids = [n for n in backward.target.ids.tolist() if n in objects or n not in forward.target.ids]
    target = joined(forward.target, only(backward.target, ids), ids) if ids else forward.target
    changed = dict[str, Any]()
    for name, kind in FIELDS.items():
        a, b = getattr(forward.target, name), getattr(backward.target, name)
        if kind.of == "point" and a is not None and b is not None and name != "owners":
            theirs = (since > frame) | (np.isfinite(points) if len(points) else False)
            changed[name] = np.where(theirs.reshape(-1, *[1] * (np.ndim(a) - 1)), b, a)
    return Kept(replace(target, **changed), forward.given, forward.missed and backward.missed)


def with_names(kept: Kept, names: Mapping[int, str]) -> Kept:
    """An answer whose objects are called by `names`, where any of them has one."""
    called = [names.get(number) for number in kept.target.ids.tolist()]
    return kept._replace(target=replace(kept.target, names=called if any(called) else None))


def newly_told(prompts: Mapping[int, Target]) -> list[int]:
    """The frames in which an object or a point is shown for the first time."""
    objects, points = first_told(prompts)
    return sorted({*objects.values(), *(int(frame) for frame in points if np.isfinite(frame))})


def count_points(prompts: Mapping[int, Target]) -> int:
    """How many points are said."""
    return max((0 if target.points is None else len(target.points) for target in prompts.values()), default=0)
