"""The one way to run a task: frames go in, a Target per frame comes out.

An `Engine` is a task made ready, on its device and in one precision; any number of `Session`s, in any threads, go
through videos with it. A session tells the task only what it `takes`, keeps the order of answers, passes over frames
that cannot be read, and counts what the task did not answer as missed. Nothing that is known beyond the prompts ever
becomes an answer.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from dropmae.contracts import Precision, Task
from dropmae.nn.int8 import layers_in_int8, to_int8
from dropmae.ops import int8
from dropmae.target import FIELDS, Target, empty, malformed, mask_boxes, redacted, says_something
from dropmae.training import distributed
from dropmae.video import BLOCK, Video, is_live

if hasattr(os, "register_at_fork"):  # OpenMP's threads are not copied by a fork, and waiting for them never ends
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

Picture = np.ndarray | OSError
"""A frame, uint8 [H, W, 3] or a scan float32 [P, C], or why there is none."""
MAX_BAD_FRAMES = 30
"""Frames in a row that may be unreadable."""
SMALL = 0.1
"""Seconds of one core below which a step is not shared among threads: to wake them takes longer than they save."""


class Engine:
    """A task ready for use, on its device, in one precision; several sessions and threads may share it.

    The task's layers are converted in place. ValueError for a precision that the device or the task does not have.
    """

    def __init__(self, task: Task, device: str | torch.device = "auto", precision: Precision = "auto") -> None:
        self.device = distributed.pick_device(device) if isinstance(device, str) else device
        self.task: Any = task.to(self.device).eval()
        self.precision, self._half = prepare_precision(self.task, precision, self.device)
        self._share = Share() if self.device.type == "cpu" else None

    def session(self, prompts: Mapping[int, Target] | None = None) -> Session:
        """A pass over a video with what is known in some of its frames, {number of the frame: Target}."""
        return Session(self, prompts)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function of the task in this precision, without gradients."""
        half = self._half
        autocast = torch.autocast(self.device.type, half) if half is not None else contextlib.nullcontext()
        alone = self._share.step() if self._share is not None and function == self.task.step else None
        try:
            with torch.no_grad(), autocast, alone or contextlib.nullcontext():
                return function(*arguments)
        except TypeError as error:
            if "ScalarType BFloat16" not in str(error):
                raise
            kind = type(self.task).__name__
            told = f"{kind} gives NumPy a tensor in bf16, which it lacks: .float() before .numpy(), or --precision fp32"
            raise ValueError(told) from error


class Share:
    """Whether steps are shared among a CPU's threads: the first ones, each done by one thread, tell what a step takes.

    It is counted in the thread's own time, so that a busy machine decides the same. OMP_NUM_THREADS is obeyed.
    """

    TRIES = 3
    """Steps after which it is known; the first ones take longer."""

    def __init__(self) -> None:
        self.least, self.tries = float("inf"), 0
        self.given = bool({"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys())

    @property
    def worth(self) -> bool | None:
        """Whether it is worth it; None as long as that is not known."""
        if self.given or (self.tries and self.least > 4 * SMALL):
            return True
        return False if self.least < SMALL else None if self.tries < self.TRIES else True

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """A step, in as many threads as it is worth."""
        most = torch.get_num_threads()
        if most == 1 or self.worth:
            yield
            return
        torch.set_num_threads(1)
        before = time.thread_time()
        try:
            yield
        finally:
            torch.set_num_threads(most)
        self.least, self.tries = min(self.least, time.thread_time() - before), self.tries + 1


def prepare_precision(task: Task, precision: Precision, device: torch.device) -> tuple[str, torch.dtype | None]:
    """Converts a task on `device`, in place; the precision that it came to, and autocast's dtype where there is one.

    ValueError for int8 elsewhere than on a CPU, or of a task without a transformer of ours, for another precision of a
    task that is in int8 already, and for fp16 on a CPU.
    """
    able = distributed.supports_bf16(device)
    name: str = precision
    if precision == "auto":
        name = "bf16" if able else "fp16" if device.type == "cuda" else "fp32"
        name = name if task.runs_in_16_bits else "fp32"
        if device.type == "cpu" and task.prefers_int8 and int8.fast():
            name = "int8"
    if name != "int8" and layers_in_int8(task):
        raise ValueError(f"its layers were put in 8 bits before: load the weights anew for {name}")
    if name == "int8":
        if device.type != "cpu":
            raise ValueError(f"int8 is for CPUs; on {device.type} take bf16")
        if not to_int8(task) and not layers_in_int8(task):
            raise ValueError(f"{type(task).__name__.lower()} has no transformer whose layers could be int8")
    if name == "fp16" and device.type == "cpu":
        raise ValueError("fp16 is for GPUs; on a CPU take bf16 or fp32")
    half = {"bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.bfloat16 if able else None}.get(name)
    if half is not None:  # else autocast would convert the matrices anew for every frame
        for part in task.modules():
            if isinstance(part, (nn.Linear, nn.Conv2d)):
                part.to(half)
    return name, half


class Answer(NamedTuple):
    """What is known of one frame after a task went over it."""

    frame: int
    """Its number in the video."""
    picture: np.ndarray
    target: Target
    given: bool = False
    """Whether it is the prompt itself, and no answer of the task."""
    missed: bool = False
    """Whether the task did not answer in time; then `target` shows nothing of what was to be followed."""
    cut: bool = False
    """Whether another scene begins with this frame, where somebody looked (`video.cuts`)."""


class Session:
    """One pass of a task over the frames of a video.

    `push` takes a frame, `finish` the end; both return the answers that are ready, each frame's once and in order.
    `follow` does both for an iterable of frames. `snapshot` is a session that can go on from here by itself.
    """

    def __init__(self, engine: Engine, prompts: Mapping[int, Target] | None = None) -> None:
        self.engine = engine
        self.prompts: dict[int, Target] = dict(prompts or {})
        """What is known beforehand; may be added to for frames that are still to come."""
        self.skipped: dict[int, str] = {}
        """Frames that could not be read: {number: reason}."""
        self.missed: list[int] = []
        """Numbers of the frames that the task should have answered and did not."""
        self.seconds: list[float] = []
        """What the task took for each frame, without reading it."""
        self.known = empty()
        """What the task was told so far: the objects and points that its answers are about."""
        self.names: dict[int, str] = {}
        """What prompts call the objects."""
        self._state: Any = None
        self._begun = False
        self._bad = 0
        self._next = 0  # number, as the task counts, of the oldest frame not answered yet
        self._held: deque[tuple[int, np.ndarray]] = deque()
        self._ready: dict[int, Target] = {}

    @property
    def begun(self) -> bool:
        """Whether the task has started."""
        return self._begun

    def push(self, number: int, picture: Picture) -> list[Answer]:
        """The answers that are ready once the task has seen frame `number`.

        Before the first prompt of a task that needs one, nothing happens. A frame that cannot be read is passed over;
        OSError where a prompt is about it, or where too many in a row are so.
        """
        prompt = self.told(number)
        if prompt is not None:
            self.names |= names_of({number: self.prompts[number]})
        if isinstance(picture, OSError):
            self._bad += 1
            if prompt is not None or self._bad > MAX_BAD_FRAMES:
                raise picture
            self.skipped[number] = " ".join(str(picture).split())
            return []
        self._bad, task = 0, self.engine.task
        if not self._begun:
            if task.takes and prompt is None:
                return []
            kind = "scan" if picture.ndim == 2 else "picture"
            if kind != task.frame_kind:
                name = type(task).__name__.lower()
                raise ValueError(f"{name} goes through {task.frame_kind}s, and frame {number} is a {kind}")
            before = time.perf_counter()
            prompt = None if prompt is None else self.engine.run(task.understood, picture, prompt)
            self._state = self.engine.run(task.start, picture, empty() if prompt is None else prompt)
            self.seconds.append(time.perf_counter() - before)
            self._begun = True
            self.note(prompt)
            if answers_first(task):
                self._held.append((number, picture))
                return []
            self._next = 1
            return [Answer(number, picture, self.called(prompt_as_answer(prompt or empty())), given=True)]
        self._held.append((number, picture))
        before = time.perf_counter()
        prompt = None if prompt is None else self.engine.run(task.understood, picture, prompt)
        self._state, found = self.engine.run(task.step, self._state, picture, prompt)
        self.seconds.append(time.perf_counter() - before)
        self.note(prompt)
        self._take(found)
        # The frame it was started with cannot be answered before the next one is there.
        return list(self._due(max(task.lag, int(self._next == 0))))

    def finish(self) -> list[Answer]:
        """The answers that were still held back; ValueError where the session never began."""
        if not self._begun:
            wanted = ", ".join(str(number) for number in sorted(self.prompts)[:3])
            raise ValueError(f"there is no frame {wanted}, where following should begin" if wanted else "no frame came")
        self._take(self.engine.run(self.engine.task.finish, self._state))
        return list(self._due(0))

    def follow(self, frames: Iterable[tuple[int, Picture]]) -> Iterator[Answer]:
        """Goes through frames, (number, picture), to their end."""
        for number, picture in frames:
            yield from self.push(number, picture)
        yield from self.finish()

    def snapshot(self) -> Session:
        """A copy that can be kept, and gone on from with other prompts, whatever happens to this one."""
        other = Session(self.engine, self.prompts)
        state = self.engine.task.copy(self._state) if self._begun else None
        other.__dict__ |= {
            **self.__dict__,
            "prompts": dict(self.prompts),
            "names": dict(self.names),
            "skipped": dict(self.skipped),
            "missed": list(self.missed),
            "seconds": list(self.seconds),
            "_state": state,
            "_held": self._held.copy(),
            "_ready": dict(self._ready),
        }
        return other

    def told(self, number: int) -> Target | None:
        """What the task may know of a frame; None for nothing. ValueError for what the task does not take."""
        prompt = self.prompts.get(number)
        if prompt is None:
            return None
        task = self.engine.task
        told = redacted(prompt, task.takes)
        if says_something(told):
            return told
        if task.takes and says_something(redacted(prompt, FIELDS.keys() - {"names"})):  # a name alone is of nothing
            has = ", ".join(n for n, row in FIELDS.items() if not row.told_with and getattr(prompt, n) is not None)
            name, takes = type(task).__name__.lower(), " or ".join(task.takes)
            raise ValueError(f"frame {number}: {name} can be told {takes}, and what is known there is {has}")
        return None

    def note(self, prompt: Target | None) -> None:
        """Keeps of a prompt which objects and points there are."""
        if prompt is None:
            return
        fresh = [number for number in shown(prompt) if number not in self.known.ids]
        points = self.known.points if prompt.points is None else prompt.points
        self.known = Target(
            ids=np.concatenate([self.known.ids, np.array(fresh, np.int64)]),
            boxes=prompt.boxes if prompt.boxes is not None else self.known.boxes,
            mask=prompt.mask if prompt.mask is not None else self.known.mask,
            points=points,
            boxes3d=prompt.boxes3d if prompt.boxes3d is not None else self.known.boxes3d,
            owners=self.known.owners if prompt.owners is None else prompt.owners,
        )

    def called(self, target: Target) -> Target:
        """An answer with the names that prompts gave to its objects."""
        if not self.names or target.names is not None:
            return target
        return replace(target, names=[self.names.get(number) for number in target.ids.tolist()])

    def _take(self, found: Mapping[int, Target]) -> None:
        last = self._next + len(self._held)
        for index, target in found.items():
            if not self._next <= index < last or index in self._ready:
                name = type(self.engine.task).__name__.lower()
                raise ValueError(
                    f"{name} answers for its frame {index}, but only {self._next} to {last - 1} are unanswered: "
                    "a task answers every frame once, with the number it has counted from the first one"
                )
            if target is not None and (fault := malformed(target)):
                raise ValueError(f"{type(self.engine.task).__name__.lower()}, its frame {index}: {fault}")
            self._ready[index] = target

    def _due(self, lag: int) -> Iterator[Answer]:
        """Answers in order, as far as they are there; one that is later than `lag` frames is missed."""
        while self._held:
            target = self._ready.pop(self._next, None)
            if target is None and len(self._held) <= lag:
                return
            number, picture = self._held.popleft()
            self._next += 1
            if target is None:
                self.missed.append(number)
                missing = nothing(self.known, picture.shape[:2])
                yield Answer(number, picture, self.called(missing), missed=True)
            else:
                yield Answer(number, picture, self.called(target))


def answers_first(task: Any) -> bool:
    """Whether a task answers for the frame it is started with."""
    return task.answers_first or not task.takes


def prompt_as_answer(prompt: Target) -> Target:
    """A prompt as the answer for its own frame: it is certain."""
    scores = np.ones(len(prompt.ids)) if prompt.scores is None else prompt.scores
    return replace(prompt, scores=scores)


def nothing(known: Target, size: tuple[int, ...]) -> Target:
    """The answer for a frame of `size` (height, width) that was missed: what is known is nowhere to be seen."""
    count = len(known.ids)
    return Target(
        ids=known.ids,
        boxes=None if known.boxes is None else np.full((count, 4), np.nan),
        mask=None if known.mask is None else np.zeros(size, np.uint8),
        boxes3d=None if known.boxes3d is None else np.full((count, 7), np.nan),
        points=None if known.points is None else np.full_like(known.points, np.nan),
        visible=None if known.points is None else np.zeros(len(known.points), bool),
        owners=known.owners,
        scores=np.zeros(count),
    )


def shown(target: Target) -> list[int]:
    """Objects that a target shows, in its mask or by a box."""
    if target.mask is not None:
        return mask_boxes(target.mask)[0].tolist()
    for rows in (target.boxes, target.boxes3d):
        if rows is not None:
            return target.ids[np.isfinite(rows).all(1)].tolist()
    return []


def names_of(prompts: Mapping[int, Target]) -> dict[int, str]:
    """What prompts call the objects, by their ids."""
    called = (pair for told in prompts.values() for pair in zip(told.ids.tolist(), told.names or ()))
    return {number: name for number, name in called if name is not None}


# -------------------------------------------------------------------- frames and prompts


def pictures(video: Video, numbers: Iterable[int] | None = None) -> Iterator[tuple[int, Picture]]:
    """(number, frame) of the frames `numbers` of a video, by default all; for one that cannot be read, the error.

    Backwards a block of frames is decoded at a time. A live stream is taken from where it is.
    """
    if is_live(video.source):
        yield from enumerate(video)
        return
    order = range(len(video)) if numbers is None else list(numbers)
    size = BLOCK if len(order) > 1 and order[1] < order[0] else 1
    for start in range(0, len(order), size):
        part = list(order[start : start + size])
        try:
            yield from zip(part, video.read(part))
        except OSError:
            yield from ((number, one(video, number)) for number in part)


def one(video: Video, number: int) -> Picture:
    """A frame, or why there is none."""
    try:
        return video[number]
    except OSError as error:
        return error


def prompts_of(
    targets: Mapping[int, Target], prompted: Literal["first", "appearance"], takes: tuple[str, ...]
) -> dict[int, Target]:
    """{frame: what a benchmark tells a task that `takes` such fields}; nothing for a task that needs no prompt.

    "first" is the first annotated frame, "appearance" each object and point in the first frame that shows it.
    """
    if not takes:
        return {}
    frames = sorted(targets)
    if prompted == "first":
        target = redacted(targets[frames[0]], takes) if frames else empty()
        return {frames[0]: target} if says_something(target) else {}
    told: dict[int, Target] = {}
    seen: set[int] = set()
    known: np.ndarray | None = None
    for frame in frames:
        target = redacted(targets[frame], takes)
        fresh, points = [number for number in shown(target) if number not in seen], None
        if target.points is not None:
            new = np.asarray(np.isfinite(target.points).all(1))
            new = new if target.visible is None else new & np.asarray(target.visible, bool)
            new = new if known is None else new & ~known
            known = new if known is None else known | new
            if new.any() or not told:
                points = np.where(new[:, None], target.points, np.nan)
        if not fresh and points is None:
            continue
        seen |= set(fresh)
        told[frame] = replace(only(target, fresh), points=points, owners=target.owners, visible=None)
    return told


def only(target: Target, ids: list[int]) -> Target:
    """What a target says of some objects: their rows, and their part of the mask."""
    rows = np.flatnonzero(np.isin(target.ids, ids))
    kept: dict[str, Any] = {}
    for name, kind in FIELDS.items():
        value = getattr(target, name)
        if kind.of == "object" and value is not None:
            kept[name] = [value[row] for row in rows] if name == "names" else value[rows]
    numbers = target.ids[rows]
    if target.mask is not None:
        numbers, called = np.array(ids, np.int64), dict(zip(target.ids.tolist(), target.names or ()))
        kept = {"mask": np.where(np.isin(target.mask, ids), target.mask, 0)}
        kept |= {"names": [called.get(number) for number in ids]} if target.names is not None else {}
    return Target(ids=numbers, **kept)


@dataclass
class Followed:
    """What a task made of a whole video."""

    targets: dict[int, Target]
    """Of every frame from the first prompt on, or of all frames where it was gone through both ways."""
    seconds: list[float] = field(default_factory=list)
    """What the task took for each frame."""
    skipped: dict[int, str] = field(default_factory=dict)
    """Frames that could not be read, which count as missed: {number: reason}."""
    missed: list[int] = field(default_factory=list)
    """Frames that the task did not answer."""


def follow(
    engine: Engine,
    video: Video,
    prompts: Mapping[int, Target],
    direction: Literal["forward", "both"] = "forward",
) -> Followed:
    """Goes through a video from the first prompt on; with "both" from the last one to the beginning, too."""
    ways = [range(min(prompts, default=0), len(video))]
    if direction == "both" and prompts:
        ways.append(range(max(prompts), -1, -1))
    found = Followed({})
    passes: list[dict[int, Target]] = []
    for way in ways:
        session = engine.session(prompts)
        passes.append({answer.frame: answer.target for answer in session.follow(pictures(video, way))})
        for number in session.skipped:
            size = (0, 0) if video.kind == "scan" else (video.height, video.width)
            passes[-1][number] = nothing(session.known, size)
        found.seconds += session.seconds
        found.skipped |= session.skipped
        found.missed += session.missed
    found.targets = passes[0] if len(passes) == 1 else both_ways(passes[0], passes[1], prompts)
    return found


def both_ways(
    forward: Mapping[int, Target], backward: Mapping[int, Target], prompts: Mapping[int, Target]
) -> dict[int, Target]:
    """One Target per frame from two passes: each object and point from the pass that had been told of it by then."""
    objects, points = first_told(prompts)
    merged: dict[int, Target] = {}
    for frame in sorted({*forward, *backward}):
        later, earlier = forward.get(frame), backward.get(frame)
        if later is None or earlier is None:
            merged[frame] = later or earlier or empty()
            continue
        new = dict[str, Any]()
        for name, kind in FIELDS.items():
            a, b = getattr(later, name), getattr(earlier, name)
            if kind.of == "point" and a is not None and b is not None and name != "owners":
                mine = (points <= frame).reshape(-1, *[1] * (np.ndim(a) - 1))
                new[name] = np.where(mine, a, b)
        before = [number for number in earlier.ids.tolist() if objects.get(number, -1) > frame]
        merged[frame] = joined(later, only(earlier, before), before) if before else later
        merged[frame] = replace(merged[frame], **new)
    return merged


def first_told(prompts: Mapping[int, Target]) -> tuple[dict[int, int], np.ndarray]:
    """The frames in which objects, {id: frame}, and points, [M], are told first."""
    objects: dict[int, int] = {}
    points = np.zeros(0)
    for frame in sorted(prompts):
        for number in shown(prompts[frame]):
            objects.setdefault(number, frame)
        places = prompts[frame].points
        if places is not None:
            points = np.full(len(places), np.inf) if not len(points) else points
            points = np.where(np.isfinite(places).all(1), np.minimum(points, frame), points)
    return objects, points


def joined(target: Target, other: Target, ids: list[int]) -> Target:
    """`target` with the rows and the mask of the objects `ids` from `other` in place of its own."""
    mine = only(target, [number for number in target.ids.tolist() if number not in ids])
    made: dict[str, Any] = {}
    for name, kind in FIELDS.items():
        a, b = getattr(mine, name), getattr(other, name)
        if kind.of == "object" and a is not None and b is not None:
            made[name] = [*a, *b] if name == "names" else np.concatenate([a, b])
    if mine.mask is not None and other.mask is not None:
        made["mask"] = np.where(other.mask > 0, other.mask, mine.mask)
    return replace(target, ids=np.concatenate([mine.ids, other.ids]), **made)
