"""The verb `track`: follow boxes, masks or points through a video, boxes through scans, with any task's weights."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dropmae import locks, moving, registry
from dropmae.contracts import Export, Precision
from dropmae.engine import Answer, Engine, Picture, Session, pictures, prompts_of, shown
from dropmae.exports import forms as written_as
from dropmae.exports.jsonl import called
from dropmae.formats.annotations import read_annotations
from dropmae.formats.labels import foreground, read_labels
from dropmae.formats.results import of_video
from dropmae.formats.rows import Rows
from dropmae.interruption import Interrupted, Stop
from dropmae.loading import load_task, named
from dropmae.metrics.boxes3d import inside, local
from dropmae.page.answers import Answers, Kept
from dropmae.page.passes import merged, newly_told, with_names
from dropmae.progress import Progress, say
from dropmae.storage import workspace
from dropmae.target import Target, mask_boxes, misplaced, target_lines
from dropmae.verbs._folder import track_folder
from dropmae.verbs.web import serving
from dropmae.video import Video, is_live
from dropmae.video import find as videos_below
from dropmae.video.cuts import CutFinder
from dropmae.video.scans import scan_files
from dropmae.video.table import gaps, told
from dropmae.visualize.confidence import Confidence

if TYPE_CHECKING:
    Sources = Boxes = Weights = Mask = Points = Prompts = Any
else:  # what a command line can say; in Python whatever `Video` takes, boxes [N, 4], a label map, triples, and paths
    Sources, Boxes, Weights = tuple[str, ...], tuple[float, ...], str | None
    Mask, Points, Prompts = Path | None, tuple[str, ...], Path | None


GRID = 512
"""Rows and columns of the largest grid of points."""
MANY = 8
"""Frames listed before a list is cut short."""


def track(
    video: Sources,
    *,
    weights: Weights = None,
    out: Path | None = None,
    also: tuple[Path, ...] = (),
    box: Boxes = (),
    box3d: Boxes = (),
    mask: Mask = None,
    click: Boxes = (),
    points: Points = (),
    names: tuple[str, ...] = (),
    grid: int = 0,
    prompts: Prompts = None,
    flow: bool = False,
    start: int = 0,
    stop: int | None = None,
    backwards: bool = False,
    both: bool = False,
    pick: bool = False,
    lost_below: float | None = None,
    find: Literal["moving"] | None = None,
    every: int = 1,
    forms: tuple[str, ...] = (".jsonl",),
    workers: int = 0,
    edge: Literal["soft", "hard"] | None = None,
    constant_rate: bool = False,
    set: tuple[str, ...] = (),
    device: str = "auto",
    precision: Precision = "auto",
    overwrite: bool = False,
) -> Any:
    """Follow objects through a video, or through all videos of a folder: from boxes, a mask, points, a file of prompts.

    With `out` this writes the video with what was found drawn on it, and beside it the same as lines of a
    targets.jsonl, and returns a summary. Without, it returns an iterator of (frame number, Target), for Python. Of a
    folder of videos each is followed, in parallel, and `summary.csv` says what is in which; the same command goes on.

    Args:
        video: a video file, a folder of images or of LiDAR scans (.bin .npy .pcd), several images, a folder of videos,
            or a camera by its number (0), which runs until interrupted.
        weights: a weight file or run folder: a tracker, a segmenter, or an encoder whose features then carry labels.
            shipped:NAME comes with the package; by default what fits the prompt: the tracker for boxes, the encoder for
            a mask or points.
        out: OUT.mp4, with OUT.jsonl beside it, or another form, which its ending tells: .jsonl .csv .json (COCO) .xml
            (CVAT) .mot.txt .yolo .otb.txt .masks (PNGs), and cut-outs .webm .rgba.mov .rgba (docs/exports.md); of
            scans .kitti.txt.
        also: further files of the same answers.
        box: x y w h in pixels, of the top left corner; several objects one after the other.
        box3d: x y z w l h yaw in scans: the centre and the size in metres, z up, and how far the length is turned from
            x towards y, in radians; several objects one after the other.
        mask: PNG with the objects' labels.
        click: x y in pixels of a place on an object, whose outline is then found; several one after the other.
        points: t,x,y of points to follow: the frame and the place in pixels.
        grid: follow so many rows of so many points, evenly over the frame `start`.
        names: what the objects of box or mask are called, in their order.
        prompts: what is known in any frames, so that objects may appear late or be corrected: a targets.jsonl, a file
            of CVAT, COCO or MOT; or a detector's (MegaDetector, COCO Camera Traps), of which first sights are taken.
        flow: where every pixel goes in the next frame, with nothing to follow; for OUT.mp4 (colours), OUT.arrows.mp4,
            OUT.flo or OUT.kitti (a file per frame).
        start: number of the frame that box, box3d, mask and grid are about.
        stop: number of the frame to end before (with `backwards`: the last one to follow to).
        backwards: follow towards the beginning of the video.
        both: follow every object both ways from where it is shown first.
        pick: ask on a page in the browser what to follow; `start` is the frame that it shows first.
        lost_below: confidence below which an object counts as lost and has no box; by default as the weights say.
        find: moving looks for what moves against the camera, so that nothing need be named.
        every: follow through each so many frames only.
        forms: of a folder of videos: the endings of the files written of each.
        workers: of a folder of videos: processes that follow side by side; 0 is one per core.
        edge: of cut-outs: soft (the default) is found in the picture around the mask's edge, hard is the mask itself.
        constant_rate: where a video's rate varies, cut-outs repeat and leave out frames to keep one, and say how many;
            else they keep its times.
        set: name=value of the task's settings, of those that may change after training.
        device: auto, cpu, cuda or cuda:N.
        precision: bf16 computes faster where the hardware has it; auto takes it there. int8, on a CPU, takes 8 bits for
            the transformer's layers: faster for large models, and a little less exact.
        overwrite: replace OUT.mp4 and OUT.jsonl even if they are read here or were not written by `track`.
    """
    paths = list(video) if isinstance(video, (list, tuple)) else [video]
    if also and out is None:
        raise ValueError("also is for further files beside OUT: give --out")
    if every < 1:
        raise ValueError(f"every is a number of frames from 1, not {every}")
    if find is not None and (len(np.ravel(box)) or mask is not None or len(points) + len(click) or prompts is not None):
        raise ValueError("find looks for what to follow: leave box, mask, points and prompts out")
    if len(paths) == 1 and is_folder(video := paths[0]):
        things = *(len(np.ravel(one)) for one in (box, box3d, click)), mask is not None, len(points), grid, len(names)
        named_things = any(things) or start or stop or backwards or both or pick or flow
        if out is None or named_things or Path(out).is_file():
            raise ValueError(f"{video} is a folder of videos: give --out DIR, and --find moving or --prompts FILE")
        told = None if prompts is None else folder_prompts(prompts, Path(video))
        options = {"weights": weights, "lost_below": lost_below, "set": set, "device": device, "precision": precision}
        asked = {"every": every, **{name: value for name, value in options.items() if value not in (None, ())}}
        written_as([Path(f"OUT{ending}") for ending in forms])
        place = Path(video), Path(out), tuple(forms), told
        return track_folder(*place, moving=find is not None, workers=workers or os.cpu_count() or 1, options=asked)
    asked = {"edge": edge, "constant_rate": constant_rate or None}
    asked = {name: value for name, value in asked.items() if value is not None}
    exports = {} if out is None else written_as([Path(out), *map(Path, also)], asked)
    for path, form in exports.items():
        form.check(path, [*paths, mask, prompts, weights], overwrite=overwrite)
    source = Video(paths[0] if len(paths) == 1 else paths)
    for number in range(len(source) if len(paths) > 1 else 0):
        source[number]  # of pictures that are named one by one none is passed over
    if find is not None:
        prompts = moving.prompts_of(moving.find_moving(source))
        if not prompts:
            raise ValueError(f"{source.name}: nothing was found that moves; say what to follow")
    if pick and (len(box) + len(box3d) + len(click) + len(points) + grid or mask is not None or prompts is not None):
        raise ValueError(
            "pick asks what to follow, which box, mask, click, points, grid, prompts say: give one of them"
        )
    if pick and len(paths) > 1:
        raise ValueError("pick shows one video: give one file or folder")
    spots = [*points, *grid_points(source, grid, start)]
    said = source, box, mask, spots, prompts, start, box3d, click
    known = serving().pick(str(paths[0]), start) if pick else gather(*said)
    if names:
        known = called_by(known, names, start)
    settings = registry.assignments(set) | ({} if lost_below is None else {"lost_below": lost_below})
    first = known[min(known)] if known else None
    if flow and known:
        raise ValueError("flow is of all pixels and follows nothing: leave box, mask, points and prompts out")
    masks = any("mask" in form.needs and "boxes" not in form.needs for form in exports.values())
    spec = named(weights, first, ("flow",) if flow else (), ("mask",) if masks else ())
    if out is not None:
        say(f"{source.name}: loading {spec}")
    engine = Engine(load_task(spec, first, settings=settings), device, precision)
    if flow and "flow" not in engine.task.gives:
        raise ValueError(f"{spec} gives {' and '.join(engine.task.gives)}, not flow: name weights of flow, or none")
    if engine.task.takes and not known:
        name, takes = type(engine.task).__name__.lower(), " or ".join(engine.task.takes)
        raise ValueError(
            f"say what to follow ({name} takes {takes}): --box x y w h, --box3d x y z w l h yaw, --mask PNG, "
            "--click x y, --points t,x,y, --grid 32 or --prompts FILE"
        )
    live = is_live(source.source)
    if live and (start or backwards or both or pick):
        raise ValueError("a live stream starts where it is: start, backwards, both and pick are for files")
    if both and backwards:
        raise ValueError("backwards is a part of both: give one of them")
    first_frame, last = (min(known), max(known)) if known else (start, start)
    numbers: Any = None if live else span(source, first_frame, last, stop, backwards)
    if numbers is not None and every > 1:
        numbers = sorted({*numbers[::every], *(frame for frame in known if frame in numbers)}, reverse=backwards)
    for path, form in exports.items():
        if form.needs and not {*form.needs} & {*engine.task.gives}:
            needs, gives = " or ".join(form.needs), " and ".join(engine.task.gives)
            raise ValueError(
                f"{path} is made of {needs}, and this gives {gives}: other weights or prompts do, --mask say"
            )
    tracking = Tracking(source, engine.session(known), numbers, stop, out, spec, exports, both=both)
    return tracking if out is None else tracking.finish()


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
        both: bool = False,
    ) -> None:
        self.video, self.session, self.numbers, self.stop, self.weights = video, session, numbers, stop, weights
        self.out, self.both = None if out is None else Path(out), both
        self.exports = exports if exports is not None else {} if self.out is None else written_as(self.out)
        self.count, self.seconds = 0, 0.0
        self.last: tuple[int, Target] | None = None
        self.spans: dict[int, dict[str, int]] = {}
        """Of each object its first and last frame, and how often it was gone in between."""
        self.there: list[int] = []
        self.lost: dict[int, int] = {}
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
        """Follows, draws and writes; the files appear when all is done, or when it is stopped, with what was found."""
        stop, stopped = Stop(), None
        with contextlib.ExitStack() as stack:
            if self.out is not None:
                stack.enter_context(stop)
                stack.enter_context(locks.held(self.out.with_suffix(""), file=True))
            doubtful_below = self.confidence.doubtful_below
            adds = [stack.enter_context(e.open(path, self.video, doubtful_below)) for path, e in self.exports.items()]
            total = 0 if self.numbers is None else len(self.video) if self.both else len(self.numbers)
            progress = Progress(max(total, 1), unit="frame", enabled=self.out is not None and total > 0)
            stack.callback(progress.close)
            answers = self.timed()
            while True:
                try:
                    with stop.at_once():
                        answer = next(answers, None)
                except KeyboardInterrupt as error:
                    if not self.count:
                        raise
                    stopped = error
                    break
                if answer is None:
                    break
                answer = answer._replace(cut=answer.picture.ndim == 3 and self.finder.cut(answer.picture))
                self.note(answer)
                for add in adds:
                    add(answer)
                progress.show(self.count, {})
                yield answer.frame, answer.target
        number = int(getattr(stopped, "number", signal.SIGINT))
        if stopped is not None and (self.numbers is not None or number != signal.SIGINT):
            raise Interrupted(number, self.kept())  # a live stream ends by Ctrl-C, as it should

    def kept(self) -> str:
        """What an interrupted run has written."""
        if not self.exports:
            return ""
        total = "" if self.numbers is None else f" of {len(self.numbers)}"
        files = " and ".join(map(str, self.exports))
        return f"{self.count}{total} frames are in {files}; the same command begins anew and replaces them"

    def timed(self) -> Iterator[Answer]:
        """The session's answers; `seconds` counts reading frames and following, not what is done with the answers."""
        frames = pictures(self.video, self.numbers)
        if self.numbers is None and self.stop is not None:
            frames = itertools.islice(frames, self.stop)
        steps = both_ways(self.video, self.session, frames) if self.both else self.session.follow(frames)
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
        self.last, target = (answer.frame, answer.target), answer.target
        there = shown(target)
        for number in there:
            own = self.spans.setdefault(number, {"first": answer.frame, "last": answer.frame, "gaps": 0})
            own["gaps"] += own["last"] != answer.frame and number not in self.there
            own["last"] = answer.frame
        self.there = there
        if target.boxes is not None:
            for object_id, box in zip(target.ids.tolist(), target.boxes):
                self.lost[object_id] = self.lost.get(object_id, 0) + (not np.isfinite(box).all())

    def finish(self) -> dict[str, Any]:
        """Follows to the end; a summary, which holds the lines themselves where no file was written."""
        name = called(self.video, Path.cwd())
        kept = [line for number, target in self if not self.exports for line in target_lines(name, number, target)]
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
            "frames_missed": self.session.missed,
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
        missed, skipped = self.session.missed, self.session.skipped
        lines += [f"  {report['task']} did not answer {len(missed)} frames, {missed[0]} first"] if missed else []
        lines += [f"  passed over: {reason}" for reason in list(skipped.values())[:3]]
        lines += [f"  and {len(skipped) - 3} more frames"] if len(skipped) > 3 else []
        lines.append(f"  -> {report['out']}" if "out" in report else "  nothing was written: --out OUT.mp4 does")
        say(*lines)


def both_ways(video: Video, session: Session, frames: Iterator[tuple[int, Picture]]) -> Iterator[Answer]:
    """All answers in the order of frames; those of the way back are kept on disk until it is their turn."""
    told = session.prompts
    last, first = max(newly_told(told), default=0), min(told, default=0)
    back = session.engine.session({number: prompt for number, prompt in told.items() if number <= last})
    with workspace("track") as folder, contextlib.closing(Answers(folder)) as kept:
        for answer in back.follow(pictures(video, range(last, -1, -1))):
            kept.put(answer.frame, Kept(answer.target, answer.given, answer.missed))
        session.skipped |= back.skipped
        names = {i: name for n in told.values() for i, name in zip(n.ids.tolist(), n.names or ()) if name is not None}
        for number, picture in pictures(video, range(first)):
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


def span(video: Video, first: int, last: int, stop: int | None, backwards: bool) -> range:
    """The frames to go through: from the first prompt on, or backwards from the last one."""
    length = len(video)
    begin = last if backwards else first
    for number in (first, last):
        if not 0 <= number < length:
            raise ValueError(f"frame {number}, where something is to be followed from, is none of the {length} frames")
    if backwards:
        end = -1 if stop is None else stop - 1
        found = range(begin, max(end, -1), -1)
    else:
        found = range(begin, length if stop is None else min(stop, length))
    if not len(found):
        raise ValueError(f"stop {stop} leaves no frame to follow from frame {begin} on")
    return found


def gather(
    video: Video, box: Any, mask: Any, points: Any, prompts: Any, start: int, box3d: Any = (), click: Any = ()
) -> dict[int, Target]:
    """{frame: what is known there} from the flags; ValueError where there is nothing or it makes no sense."""
    if start < 0:
        raise ValueError(f"start is the number of a frame, not {start}")
    found: dict[int, Target] = {}
    if prompts is not None:
        found = dict(prompts.items()) if isinstance(prompts, Mapping) else read_prompts(prompts, video)
    if video.kind == "scan":
        return gather_scans(video, box3d, found, start, bool(len(box) + len(click) + len(points) or mask is not None))
    if len(box3d):
        raise ValueError("box3d is of scans (.bin .npy .pcd), and this is a video of pictures: give --box x y w h")
    numbers = np.asarray(box, np.float64).ravel()
    if len(numbers) % 4 or not np.isfinite(numbers).all():
        raise ValueError(f"a box is four numbers x y w h, not {' '.join(f'{value:g}' for value in numbers)}")
    spots = np.asarray(click, np.float64).ravel()
    if len(spots) % 2 or not np.isfinite(spots).all():
        raise ValueError(f"a click is two numbers x y, not {' '.join(f'{value:g}' for value in spots)}")
    said = [name for name, told in (("box", len(numbers)), ("click", len(spots)), ("mask", mask is not None)) if told]
    if said and start in found:
        raise ValueError(f"{prompts} speaks of frame {start} already: leave {' and '.join(said)} out")
    if len(said) > 1:
        raise ValueError(f"{' and '.join(said)} both say what to follow: give one of them")
    if len(spots):
        found[start] = Target(ids=np.arange(1, len(spots) // 2 + 1), clicks=spots.reshape(-1, 2))
    if len(numbers):
        boxes = numbers.reshape(-1, 4)
        if len(corners := boxes[are_corners(boxes, video.height, video.width)]):
            x, y, right, bottom = corners[0]
            raise ValueError(
                f"a box is x y w h, and {x:g} {y:g} {right:g} {bottom:g} would end far outside the frame; "
                f"if these are two corners, it is {x:g} {y:g} {right - x:g} {bottom - y:g}"
            )
        found[start] = Target(ids=np.arange(1, len(boxes) + 1), boxes=boxes)
    if mask is not None:
        labels = foreground(read_labels(mask) if isinstance(mask, (str, Path)) else np.asarray(mask))
        ids, _ = mask_boxes(labels)
        if not len(ids):
            raise ValueError(f"{mask}: the mask shows no object")
        found[start] = Target(ids=ids, mask=labels)
    for frame, target in point_prompts(points).items():
        if frame in found:
            old = found[frame]
            target = replace(old, points=target.points, visible=target.visible)
        found[frame] = target
    if start and found and start not in found:
        raise ValueError(
            f"start {start} is about box, mask and grid, but points and prompts name their own frames, {min(found)} "
            "first: leave it out"
        )
    for frame, target in found.items():
        flat = target.boxes is not None or target.points is not None or target.clicks is not None
        if flat and (fault := misplaced(target, video.height, video.width)):
            raise ValueError(f"frame {frame}: {fault}")
    return found


def called_by(known: dict[int, Target], names: Sequence[str], start: int) -> dict[int, Target]:
    """What is known, with the objects of frame `start` called by `names`; ValueError where they are not as many."""
    told = known.get(start)
    count = 0 if told is None else len(told.ids)
    if told is None or len(names) != count:
        raise ValueError(f"{len(names)} names for {count} objects in frame {start}")
    return {**known, start: replace(told, names=list(names))}


def gather_scans(video: Video, box3d: Any, found: dict[int, Target], start: int, flat: bool) -> dict[int, Target]:
    """As `gather`, in scans; ValueError where a box has no size or holds no point."""
    if flat:
        raise ValueError("in scans things are followed by --box3d x y z w l h yaw, not by boxes, masks or points")
    numbers = np.asarray(box3d, np.float64).ravel()
    if len(numbers) % 7 or not np.isfinite(numbers).all():
        raise ValueError(f"box3d takes x y z w l h yaw, not {' '.join(f'{value:g}' for value in numbers)}")
    if len(numbers) and start in found:
        raise ValueError(f"the prompts speak of frame {start} already: leave box3d out")
    if len(numbers):
        boxes = numbers.reshape(-1, 7)
        found[start] = Target(ids=np.arange(1, len(boxes) + 1), boxes3d=boxes)
    for frame, target in sorted(found.items())[:1]:  # later ones may be where nothing is seen
        boxes = np.zeros((0, 7)) if target.boxes3d is None else target.boxes3d
        scan = video[frame] if 0 <= frame < len(video) else np.zeros((0, 3))
        for row in np.flatnonzero(np.isfinite(boxes).all(1)).tolist():
            number, one = target.ids[row], boxes[row]
            if not (one[3:6] > 0).all():
                raise ValueError(f"frame {frame}: the box of object {number} needs a positive w, l and h")
            if not inside(local(scan, one), one).any():
                near = np.linalg.norm(scan[:, :3] - one[:3], axis=1)
                near = near[np.isfinite(near)]
                told = f"the nearest one is {near.min():.1f} m from its centre" if len(near) else "the scan is empty"
                raise ValueError(
                    f"frame {frame}: the box of object {number} holds no point ({told}); it is x y z of its centre, "
                    "w l h, and yaw, in the scan's own coordinates"
                )
    return found


def grid_points(video: Video, grid: int, start: int) -> list[tuple[int, float, float]]:
    """(frame, x, y) of the points of a grid over a frame, each in the middle of its cell.

    ValueError for a negative or a huge number of rows.
    """
    if not 0 <= grid <= GRID:
        raise ValueError(f"grid is the number of rows and columns of points, 1 to {GRID}, not {grid}")
    middles = (np.arange(grid) + 0.5) / max(grid, 1)
    return [(start, float(x * video.width), float(y * video.height)) for y in middles for x in middles]


def are_corners(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """bool [N]: which boxes [N, 4] end far outside the frame as x y w h, and lie within it as two corners."""
    sides = np.array([width, height])
    start, end = boxes[:, :2], boxes[:, 2:]
    within = np.all((start >= 0) & (start < end) & (end <= sides), 1)
    return within & np.any(start + end > 1.1 * sides, 1)


def is_folder(source: Any) -> bool:
    """Whether a source is a folder of videos, and not one of images or scans, which is a video itself."""
    if not isinstance(source, (str, Path)) or not Path(source).is_dir() or scan_files(str(source)):
        return False
    return videos_below(source) != [Path(source)]


def folder_prompts(path: Path, folder: Path) -> dict[str, Mapping[int, Target]]:
    """{video: what is known there} of an annotation file about the videos of a folder."""

    def size(name: str) -> tuple[int, int]:
        with Video(folder / name) as video:
            return video.height, video.width

    listed = read_annotations(path, size=size)
    sighted = {name for name, told in listed.items() if isinstance(told, Rows) and told.sightings}
    return {n: prompts_of(t, "appearance", ("boxes", "mask")) if n in sighted else t for n, t in listed.items()}


def read_prompts(path: Path, video: Video) -> dict[int, Target]:
    """What an annotation file says of this video, or of the only one in it.

    Of a detector's file, which knows no objects, only where each of them is seen first.
    """
    found = read_annotations(path, size=lambda _: (video.height, video.width))
    told = of_video(path, found, (video.name,))
    if isinstance(told, Rows) and told.sightings:
        return prompts_of(told, "appearance", ("boxes", "mask"))
    return dict(told.items())


def point_prompts(points: Any) -> dict[int, Target]:
    """{frame: all points, NaN but for those known in it} from texts t,x,y or triples."""
    rows = []
    for text in points:
        try:
            frame, x, y = (float(part) for part in (text.split(",") if isinstance(text, str) else text))
        except (ValueError, TypeError):
            raise ValueError(f"a point is t,x,y (the frame, and the place in pixels), not {text!r}") from None
        if frame < 0 or frame != int(frame) or not np.isfinite(x + y):
            raise ValueError(f"a point's frame is a number from 0 and its place finite, unlike {text!r}")
        rows.append((int(frame), x, y))
    found = {}
    for frame in sorted({row[0] for row in rows}):
        places = np.array([(x, y) if own == frame else (np.nan, np.nan) for own, x, y in rows])
        found[frame] = Target(ids=np.zeros(0, np.int64), points=places, visible=np.isfinite(places[:, 0]))
    return found
