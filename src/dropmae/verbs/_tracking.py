"""A pass of `track` over a video: what it finds, draws and writes, and what it sums up."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dropmae import locks
from dropmae.contracts import Export
from dropmae.engine import Answer, Picture, Session, names_of, pictures, shown
from dropmae.exports import forms as written_as
from dropmae.exports.jsonl import called
from dropmae.interruption import Interrupted, Stop
from dropmae.page.answers import Answers, Kept
from dropmae.page.passes import merged, newly_told, with_names
from dropmae.progress import Progress, say
from dropmae.storage import workspace
from dropmae.target import Target, target_lines
from dropmae.video import Video
from dropmae.video.cuts import CutFinder
from dropmae.video.table import gaps, told
from dropmae.visualize.confidence import Confidence

MANY = 8
"""Frames listed before a list is cut short."""


class Tracking(Iterator[tuple[int, Target]]):
    """What `track` returns: (frame number, Target) one after the other. `finish` takes what is left and sums it up."""

    def __init__(
        self,
        video: Video,
        session: Session,
        numbers: Sequence[int] | None,
        stop: int | None,
        out: Path | None,
        weights: str,
        exports: Mapping[Path, Export] | None = None,
        both: Sequence[int] | None = None,
    ) -> None:
        self.video, self.session, self.numbers, self.stop, self.weights = video, session, numbers, stop, weights
        self.out = None if out is None else Path(out)
        self.both = both
        """Where every object is followed both ways: the frames of the way back, from the last prompt on."""
        self.exports = exports if exports is not None else {} if self.out is None else written_as(self.out)
        self.count, self.seconds = 0, 0.0
        self.last: tuple[int, Target] | None = None
        self.spans: dict[int, dict[str, int]] = {}
        """Of each object its first and last frame, and how often it was gone in between."""
        self.there: list[int] = []
        self.lost: dict[int, int] = {}
        self.missed: list[int] = []
        self.finder, self.cuts = CutFinder(), list[int]()
        self.confidence = Confidence(self.task.doubtful_below)
        self.steps = self.run()

    def __iter__(self) -> Tracking:
        return self

    def __next__(self) -> tuple[int, Target]:
        return next(self.steps)

    @property
    def task(self) -> Any:
        return self.session.engine.task

    def run(self) -> Iterator[tuple[int, Target]]:
        """Follows, draws and writes; the files appear when all is done, or when it ends early, with what was found."""
        stop = Stop()
        stopped: BaseException | None = None
        with contextlib.ExitStack() as stack:
            if self.out is not None:
                stack.enter_context(stop)
                stack.enter_context(locks.held(self.out.with_suffix(""), file=True))
            doubtful_below = self.confidence.doubtful_below
            adds = [
                (form, stack.enter_context(form.open(path, self.video, doubtful_below)))
                for path, form in self.exports.items()
            ]
            total = 0 if self.numbers is None else len({*self.numbers, *(self.both or ())})
            progress = Progress(max(total, 1), unit="frame", enabled=self.out is not None and total > 0)
            stack.callback(progress.close)
            answers = self.timed()
            while True:
                try:
                    with stop.at_once():
                        answer = next(answers, None)
                except (KeyboardInterrupt, Exception) as error:  # of the video, of the task, or from outside
                    if not self.count:
                        raise
                    stopped = error
                    break
                if answer is None:
                    break
                answer = answer._replace(cut=answer.picture.ndim == 3 and self.finder.cut(answer.picture))
                self.note(answer)
                for form, add in adds:
                    if form.wants(answer):
                        add(answer)
                progress.show(self.count, {})
                yield answer.frame, answer.target
        if isinstance(stopped, OSError):
            raise OSError(f"{stopped}; {self.kept()}") from stopped
        if isinstance(stopped, Exception):
            say(self.kept())
            raise stopped
        number = int(getattr(stopped, "number", signal.SIGINT))
        if stopped is not None and (self.numbers is not None or number != signal.SIGINT):
            raise Interrupted(number, self.kept())  # a live stream ends by Ctrl-C, as it should

    def kept(self) -> str:
        """What a run that ended early has written."""
        if not self.exports:
            return ""
        total = "" if self.numbers is None else f" of {len({*self.numbers, *(self.both or ())})}"
        files = " and ".join(map(str, self.exports))
        return f"{self.count}{total} frames are in {files}; the same command begins anew and replaces them"

    def timed(self) -> Iterator[Answer]:
        """The session's answers; `seconds` counts reading frames and following, not what is done with the answers."""
        frames = pictures(self.video, self.numbers)
        if self.numbers is None and self.stop is not None:
            frames = itertools.islice(frames, self.stop)
        ahead = self.session.follow(frames)
        steps = ahead if self.both is None else both_ways(self.video, self.session, frames, self.both)
        while True:
            before = time.perf_counter()
            step = next(steps, None)
            self.seconds += time.perf_counter() - before
            if step is None:
                return
            yield step

    def note(self, answer: Answer) -> None:
        """Keeps what the summary says."""
        self.count += 1
        self.confidence.add(answer.frame, answer.target)
        if answer.cut:
            self.cuts.append(answer.frame)
        if answer.missed:
            self.missed.append(answer.frame)
        self.last, target = (answer.frame, answer.target), answer.target
        there = shown(target)
        for number in there:
            own = self.spans.setdefault(number, {"first": answer.frame, "last": answer.frame, "gaps": 0})
            own["gaps"] += own["last"] != answer.frame and number not in self.there
            own["last"] = answer.frame
        self.there = there
        if target.boxes is not None and not answer.missed:
            for object_id, box in zip(target.ids.tolist(), target.boxes):
                self.lost[object_id] = self.lost.get(object_id, 0) + (not np.isfinite(box).all())

    def finish(self) -> dict[str, Any]:
        """Follows to the end; a summary, which holds the lines themselves where no file was written."""
        name = called(self.video, Path.cwd())
        kept = [
            line
            for number, target in self
            if not self.exports and number not in self.missed[-1:]
            for line in target_lines(name, number, target)
        ]
        number, target = self.last or (None, None)
        report: dict[str, Any] = {
            "video": self.video.name if isinstance(self.video.source, list) else str(self.video.source),
            "task": type(self.task).__name__.lower(),
            "weights": self.weights,
            "precision": self.session.engine.precision,
            "frames": self.count,
            "last": number,
            "objects": [] if target is None else target.ids.tolist(),
            "confidence": self.confidence.summary(),
            "spans": {str(number): dict(own) for number, own in self.spans.items()},
            "cuts": self.cuts,
            "gaps": gaps(self.video.times) if self.video.stamped and self.numbers is not None else [],
            "frames_lost": {str(object_id): count for object_id, count in self.lost.items()},
            "frames_missed": self.missed,
            "frames_skipped": {str(number): reason for number, reason in self.session.skipped.items()},
            "seconds": self.seconds,
            "fps": self.count / self.seconds if self.seconds else None,
        }
        if self.out is not None:
            lines = next((path for path in self.exports if path.suffix == ".jsonl"), None)
            report |= {"out": str(self.out), "targets": None if lines is None else str(lines)}
        else:
            report["lines"] = [json.loads(line) for line in kept]
        self.tell(report)
        return report

    def tell(self, report: dict[str, Any]) -> None:
        """The summary for people."""
        rate = f", {report['fps']:.1f} frames/s" if report["fps"] else ""
        head = f"{report['video']}: {report['frames']} frames with {report['task']} in {report['precision']}{rate}"
        lines = [head]
        lines += [f"  {line}" for line in self.confidence.lines()]
        lines += [f"  {cut_line(self.cuts)}"] if self.cuts else []
        lines += [f"  {words}"] if (words := told(report["gaps"])) else []
        lines += [f"  object {name} was lost in {count} frames" for name, count in self.lost.items() if count]
        missed, skipped = self.missed, self.session.skipped
        lines += [f"  {report['task']} did not answer {len(missed)} frames, {missed[0]} first"] if missed else []
        lines += [f"  passed over: {reason}" for reason in list(skipped.values())[:3]]
        lines += [f"  and {len(skipped) - 3} more frames"] if len(skipped) > 3 else []
        lines.append(f"  -> {report['out']}" if "out" in report else "  nothing was written: --out OUT.mp4 does")
        say(*lines)


def both_ways(
    video: Video, session: Session, frames: Iterator[tuple[int, Picture]], way: Sequence[int]
) -> Iterator[Answer]:
    """All answers in the order of frames; those of the `way` back are kept on disk until it is their turn."""
    told = session.prompts
    last, first = max(newly_told(told), default=0), min(told, default=0)
    back = session.engine.session({number: prompt for number, prompt in told.items() if number <= last})
    with workspace("track") as folder, contextlib.closing(Answers(folder)) as kept:
        for answer in back.follow(pictures(video, [number for number in way if number <= last])):
            kept.put(answer.frame, Kept(answer.target, answer.given, answer.missed))
        session.skipped |= back.skipped
        names = names_of(told)
        for number, picture in pictures(video, sorted(number for number in way if number < first)):
            if number in kept and not isinstance(picture, OSError):
                yield Answer(number, picture, *with_names(kept[number], names))
        for frame, picture, target, given, missed, _ in session.follow(frames):
            found = Kept(target, given, missed)
            found = merged(frame, found, kept[frame], told, {}) if frame in kept else found
            yield Answer(frame, picture, *with_names(found, names))


def cut_line(cuts: list[int]) -> str:
    """Words on the cuts of a video."""
    first = ", ".join(str(frame) for frame in cuts[:MANY])
    more = f" and {len(cuts) - MANY} more" if len(cuts) > MANY else ""
    count = "a cut" if len(cuts) == 1 else f"{len(cuts)} cuts"
    return f"{count} in the video, at frame {first}{more}: what is followed may be another object from there on"
