"""One video with all that was said about it and found in it: what the page shows, follows, exports and saves."""

from __future__ import annotations

import contextlib
import io
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dropmae import weights
from dropmae.contracts import Precision
from dropmae.engine import Answer, Engine, only
from dropmae.exports import endings
from dropmae.exports.jsonl import called
from dropmae.loading import contract_of, load_task, named, training_free_class
from dropmae.page.answers import Kept
from dropmae.page.passes import LivePass, Pass, Step, merged, newly_told, with_names
from dropmae.page.prompts import KINDS, Prompts, kinds_of, plain_name
from dropmae.page.recording import Recording
from dropmae.target import Target, empty, misplaced
from dropmae.video import Video
from dropmae.video.cuts import CutFinder
from dropmae.video.tape import SUFFIX

BYTES = 64 << 20
"""Of decoded frames that are kept for looking at."""
BACK = 12
"""Frames that are decoded at once where somebody goes backwards."""
QUALITY = 85


class Engines:
    """The tasks that are in use, each loaded once."""

    def __init__(self, spec: str | None, settings: dict[str, Any], device: str, precision: Precision) -> None:
        self.spec, self.settings, self.device, self.precision = spec, settings, device, precision
        self.made: dict[str, Engine] = {}
        self.names: dict[str, str | None] = {}
        self.tasks: dict[str, Any] = {}
        self.lock = threading.Lock()

    def called(self, kind: str) -> str | None:
        """The weights that follow what is shown as `kind`: boxes, mask or points; None where there are none."""
        if kind not in self.names:
            told: dict[str, Any] = {kind: np.zeros((0, 4))}
            self.names[kind] = None
            with contextlib.suppress(ValueError):
                self.names[kind] = named(self.spec, Target(ids=np.zeros(0, np.int64), **told))
        return self.names[kind]

    def get(self, spec: str) -> Engine:
        with self.lock:
            if spec not in self.made:
                self.made[spec] = Engine(
                    load_task(spec, settings=self.settings, wanted=KINDS), self.device, self.precision
                )
            return self.made[spec]

    def takes(self, spec: str) -> tuple[str, ...]:
        """What the task of some weights may be told; ValueError where it is nothing that can be drawn on a picture."""
        cls = self.task_of(spec)
        found = tuple(kind for kind in cls.takes if kind in KINDS)
        if not found or cls.frame_kind != "picture":
            takes = " and ".join(cls.takes) or "no prompt"
            raise ValueError(
                f"{spec}: {cls.__name__.lower()} goes by {takes} in {cls.frame_kind}s, and the page is for boxes, "
                "masks and points in pictures: use dropmae track"
            )
        return found

    def task_of(self, spec: str) -> Any:
        """The class of the task that some weights become."""
        if spec not in self.tasks:
            header = {"kind": ""} if spec.startswith("random") else weights.read_header(spec)
            own = header["kind"] == "tasks"
            self.tasks[spec] = contract_of(header) if own else training_free_class(self.settings, KINDS)
        return self.tasks[spec]


class Work:
    """A video on the page. Whoever changes it or follows holds `lock`; frames can be looked at by anybody."""

    def __init__(
        self, key: str, source: str | Path | Recording, folder: Path, engines: Engines, title: str = ""
    ) -> None:
        """`folder` is its own; ValueError or OSError where `source` is no video of pictures.

        Of a recording the frames are there as they come; once it has ended it is a video as any other.
        """
        self.key, self.folder, self.engines = key, folder, engines
        self.recording = source if isinstance(source, Recording) else None
        place = source.tape if isinstance(source, Recording) else source
        self.video, self.shown = Video(place), Video(place)
        if self.video.kind != "picture":
            raise ValueError(f"{source}: holds scans, and the page shows pictures")
        self.known, self.size = len(self.video), (self.video.height, self.video.width)
        self.name = title or (self.video.path.name if self.video.path is not None else self.video.name)
        self.path = f"{self.name}{SUFFIX}" if self.recording is not None else str(source)
        self.prompts = Prompts(called(self.video, folder), self.count, self.size, folder / "prompts.jsonl")
        self.passes = {1: Pass(1, folder), -1: Pass(-1, folder)}
        self.live = LivePass(folder)
        """What was followed while it was recorded, which counts where nothing else is known."""
        self.order = [1, -1]
        """Directions, the one that was followed last at the end."""
        self.spec: str | None = None
        """The weights that follow, once something is shown."""
        self.used: str | None = None
        """Those that found what is there."""
        self.read: tuple[int, np.ndarray] | None = None
        """A frame that was read last, before it is followed from."""
        self.frames: OrderedDict[int, np.ndarray] = OrderedDict()
        self.looked, self.looking = 0, threading.Lock()

    @property
    def count(self) -> int:
        """Frames that there are by now."""
        return self.known if self.recording is None else len(self.recording.tape)

    @property
    def every(self) -> dict[int, Pass]:
        """The passes: 1 forwards, -1 backwards, 0 live."""
        return {**self.passes, 0: self.live}

    # ------------------------------------------------------------ looking

    def picture(self, number: int) -> np.ndarray:
        """A frame for people; OSError where it cannot be read."""
        with self.looking:
            if number not in self.frames:
                first = max(0, number - BACK + 1) if number < self.looked else number
                size = 3 * self.size[0] * self.size[1]
                first = max(first, number - BYTES // (2 * size))
                try:
                    found = self.shown.read(range(first, number + 1))
                except OSError:
                    first, found = number, self.shown.read([number])
                self.frames.update(zip(range(first, number + 1), found))
                while len(self.frames) > max(1, BYTES // size):
                    self.frames.popitem(last=False)
            self.frames.move_to_end(number)
            self.looked = number
            return self.frames[number]

    def jpeg(self, number: int, side: int) -> bytes:
        """A frame as JPEG with a longest side of at most `side` pixels."""
        image, buffer = Image.fromarray(self.picture(number)), io.BytesIO()
        image.thumbnail((side, side), Image.Resampling.BILINEAR)
        image.save(buffer, "JPEG", quality=QUALITY, subsampling=0 if max(image.size) <= 640 else 2)
        return buffer.getvalue()

    # ------------------------------------------------------------ saying

    def said(self) -> None:
        """To be called after a change of the prompts: what was found with others becomes stale."""
        targets = self.prompts.targets
        kinds = kinds_of(targets)
        self.spec = self.engines.called(kinds[0]) if kinds else None
        if self.spec is not None and self.spec != self.used:
            self.used = self.spec
            for one in self.every.values():
                one.reset()
        for one in self.every.values():
            one.tell(targets)

    def outline(self, number: int, told: Target) -> np.ndarray:
        """bool [H, W]: the object of which `told` has a box or a click in a frame; ValueError where nothing can."""
        if fault := misplaced(told, *self.size):
            raise ValueError(fault)
        spec = self.engines.called("mask")
        engine = None if spec is None else self.engines.get(spec)
        found = None if engine is None else engine.run(engine.task.understood, self.picture(number), told).mask
        if found is None:
            raise ValueError(f"{spec or 'what there is'} finds no outlines: paint the thing, or click its outline")
        return found == told.ids[0]

    def accepts(self) -> dict[str, str]:
        """{boxes, mask or points: why it cannot be shown here; empty where it can}"""
        found, words = {}, {"boxes": "boxes", "mask": "a mask", "points": "points"}
        for kind in KINDS:
            spec = self.spec or self.engines.called(kind)
            takes = self.engines.takes(spec) if spec else ()
            told = " or ".join(words[one] for one in takes) or "none"
            found[kind] = "" if kind in takes else f"{spec or 'what comes with the package'} is told {told}"
        return found

    # ------------------------------------------------------------ following

    def follow(self, direction: int, frame: int, stop: int) -> Iterator[Step]:
        """Follows from a frame to the one before `stop`, or with direction 0 whatever comes, to the recording's end.

        ValueError where nothing is shown on the way.
        """
        if self.spec is None:
            raise ValueError("nothing is shown yet: draw a box round what to follow, or paint it")
        if direction == 0 and self.recording is not None:
            yield from self.live.follow(self.engines.get(self.spec), self.video, frame, self.recording.newer)
            return
        self.order = [-direction, direction]
        read, self.read = self.read, None
        yield from self.passes[direction].run(self.engines.get(self.spec), self.video, frame, stop, read)

    def look_up(self, frame: int) -> None:
        """Reads a frame in which something is shown: from the last key frame on, that may take a second."""
        with contextlib.suppress(OSError):  # it is told where it is followed
            self.read = (frame, self.video[frame])

    def both(self) -> list[tuple[int, int, int]]:
        """(direction, frame, stop) of what is to be followed so that every frame has its answer."""
        told = self.prompts.targets
        ways = []
        for direction, start, stop in (
            (-1, max(newly_told(told), default=0), -1),
            (1, min(told, default=0), self.count),
        ):
            own = self.passes[direction]
            frame = own.next() if own.origin == start else None
            frame = start if frame is None else frame
            ways += [(direction, frame, stop)] if (stop - frame) * direction > 0 else []
        return ways

    def frames_found(self) -> list[int]:
        """Frames that have an answer; none where nothing is said any more."""
        return sorted({*self.passes[1].answers, *self.passes[-1].answers, *self.live.answers}) if self.spec else []

    def stale_ranges(self) -> list[list[int]]:
        """First and last frames of stretches whose answers were found before something else was said."""
        followed = {*self.passes[1].answers, *self.passes[-1].answers}
        found = self.passes[1].stale() | self.passes[-1].stale() | (self.live.stale() - followed)
        ranges: list[list[int]] = []
        before = False
        for number in sorted(self.frames_found()):  # frames without an answer do not part a stretch
            if number in found and before:
                ranges[-1][1] = number
            elif number in found:
                ranges.append([number, number])
            before = number in found
        return ranges

    def scores(self) -> dict[int, dict[int, float | None]]:
        """{frame: {object: score}} of what was found."""
        forward, backward, live = (one.scores() for one in self.every.values())
        later, earlier = (forward, backward) if self.order[-1] > 0 else (backward, forward)
        names = self.prompts.said.names
        both = {n: {**earlier.get(n, {}), **later.get(n, {})} for n in {*earlier, *later}}
        both = {n: both.get(n) or live.get(n, {}) for n in self.frames_found()}
        return {n: {number: score for number, score in row.items() if number in names} for n, row in both.items()}

    def doubtful_below(self) -> float | None:
        """The score from which on the task is sure, if it is loaded and says so."""
        engine = self.engines.made.get(self.spec or "")
        return None if engine is None else engine.task.doubtful_below

    def answer(self, frame: int) -> Kept | None:
        """What is known of a frame: of each object and point from the pass that was told of it, the later one first."""
        forward, backward = (known(one.answers.get(frame), self.prompts.said.names) for one in self.passes.values())
        if forward is not None and backward is not None:
            told = self.passes[-1].told() if self.order[-1] < 0 else {}
            forward = merged(frame, forward, backward, self.prompts.targets, told)
        kept = forward or backward or known(self.live.answers.get(frame), self.prompts.said.names)
        if kept is None or self.spec is None:
            return None
        called = {n: name for n, name in self.prompts.said.names.items() if name != plain_name(n)}
        return with_names(kept, called)

    # ------------------------------------------------------------ taking along

    def exports(self) -> dict[str, dict[str, str]]:
        """{usual ending of a file's name: {"text": what it is, "why": why what is found cannot be written so}}"""
        gives, found = self.engines.task_of(self.spec).gives if self.spec is not None else (), {}
        for cls in dict.fromkeys(endings().values()):
            suffix = next(suffix for suffix in cls.suffixes if suffix not in cls.folders)
            able = not cls.needs or {*cls.needs} & {*gives}
            if not able and not {*cls.needs} & {*KINDS}:
                continue  # nothing that is drawn here would give it
            hint = ": let it be found (D), or paint it (M)" if "mask" in cls.needs else ""
            why = "" if able else f"made of {' or '.join(cls.needs)}, which {self.spec} does not give{hint}"
            found[suffix] = {"text": (cls.__doc__ or "").splitlines()[0].replace("`", ""), "why": why}
        return found

    def export(self, suffix: str, out: Path) -> None:
        """Writes what was found to `out` as `track` would; ValueError where nothing was found."""
        numbers = self.frames_found()
        if not numbers or self.spec is None:
            raise ValueError("nothing was followed yet")
        if (known := self.exports().get(suffix)) is None or known["why"]:
            raise ValueError(f"{suffix[:40]}: {'there is no such form' if known is None else known['why']}")
        form = endings()[suffix]()
        finder = CutFinder()
        doubtful_below = self.engines.get(self.spec).task.doubtful_below
        with form.open(out, self.video, doubtful_below) as add:
            for number in numbers:
                kept, picture = self.answer(number), self.video[number]
                target = empty() if kept is None else kept.target
                given, missed = (False, True) if kept is None else (kept.given, kept.missed)
                answer = Answer(number, picture, target, given, missed, finder.cut(picture))
                if form.wants(answer):
                    add(answer)

    def close(self) -> None:
        for one in self.every.values():
            one.close()
        self.video.close()
        self.shown.close()
        if self.recording is not None:
            self.recording.close()


def known(kept: Kept | None, names: Mapping[int, str]) -> Kept | None:
    """An answer without the objects that are there no more."""
    if kept is None or {*kept.target.ids.tolist()} <= {*names}:
        return kept
    target = only(kept.target, [number for number in kept.target.ids.tolist() if number in names])
    return kept._replace(target=replace(target, points=kept.target.points, owners=kept.target.owners))
