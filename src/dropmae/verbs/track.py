"""The verb `track`: follow boxes, masks or points through a video, boxes through scans, with any task's weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dropmae import moving, registry
from dropmae.contracts import Export, Precision, Task
from dropmae.engine import Engine
from dropmae.evaluation import file_digest
from dropmae.exports import forms as written_as
from dropmae.loading import load_task, named
from dropmae.progress import say
from dropmae.target import Target, says_something
from dropmae.verbs._folder import track_folder
from dropmae.verbs._prompts import called_by, folder_prompts, gather, grid_points, is_folder
from dropmae.verbs._tracking import Tracking
from dropmae.verbs.web import serving
from dropmae.video import Video, is_live
from dropmae.weights import locate

if TYPE_CHECKING:
    Sources = Boxes = Weights = Mask = Points = Prompts = Any
else:  # what a command line can say; in Python whatever `Video` takes, boxes [N, 4], a label map, triples, and paths
    Sources, Boxes, Weights = tuple[str, ...], tuple[float, ...], str | None
    Mask, Points, Prompts = Path | None, tuple[str, ...], Path | None


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
            x towards y, in radians; several in turn.
        mask: PNG with the objects' labels.
        click: x y in pixels of a place on an object, whose outline is then found.
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
    said = len(np.ravel(box)) + len(np.ravel(box3d)) + len(np.ravel(click)) + len(points) + grid
    if find is not None and (said or mask is not None or prompts is not None):
        raise ValueError("find looks for what to follow: leave box, mask, points, grid and prompts out")
    if workers < 0:
        raise ValueError(f"workers is the number of videos side by side, or 0 for one per core; not {workers}")
    settings = registry.assignments(set) | ({} if lost_below is None else {"lost_below": lost_below})
    asked = {"edge": edge, "constant_rate": constant_rate or None}
    asked = {name: value for name, value in asked.items() if value is not None}
    if len(paths) == 1 and is_folder(video := paths[0]):
        named_things = said or mask is not None or names or start or stop or backwards or both or pick or flow
        if out is None or named_things or Path(out).is_file():
            raise ValueError(f"{video} is a folder of videos: give --out DIR, and --find moving or --prompts FILE")
        if also:
            raise ValueError(f"{video} is a folder of videos: forms names the files of each, and also is for one video")
        exports = folder_forms(forms, asked)
        told = None if prompts is None else folder_prompts(prompts, Path(video), Path(out))
        found = Target(ids=np.ones(1, np.int64), boxes=np.ones((1, 4))) if find is not None else None
        first = found if told is None else first_told(prompts, told)
        takes: tuple[str, ...] = ("boxes",)
        if weights is not None or first is not None:  # what is wrong with them is said now, once
            spec = named(weights, first, (), needs_of(exports))
            engine = Engine(load_task(spec, first, settings=settings), device, precision)
            check_forms(exports, engine.task)
            takes = engine.task.takes
        if takes and first is None:
            raise ValueError(
                f"{video} is a folder of videos: say what to follow in it, --find moving or --prompts FILE"
            )
        known = weights is not None and not str(weights).startswith("random")
        content = {"content of the weights": file_digest(locate(str(weights)))} if known else {}
        options = {"weights": weights, "lost_below": lost_below, "set": set, "device": device, "precision": precision}
        asked |= {"every": every, **{name: value for name, value in options.items() if value not in (None, ())}}
        version = "" if prompts is None or Path(prompts).is_dir() else file_digest(Path(prompts))
        return track_folder(
            Path(video),
            Path(out),
            tuple(forms),
            told,
            moving=find is not None,
            workers=workers or os.cpu_count() or 1,
            options=asked,
            made_with=content,
            version=version,
        )
    if tuple(forms) != (".jsonl",):
        raise ValueError("forms is for a folder of videos: --out and --also name the files of one")
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
    if pick and (said or mask is not None or prompts is not None):
        raise ValueError(
            "pick asks what to follow, which box, mask, click, points, grid, prompts say: give one of them"
        )
    if pick and len(paths) > 1:
        raise ValueError("pick shows one video: give one file or folder")
    spots = [*points, *grid_points(source, grid, start)]
    things = source, box, mask, spots, prompts, start, box3d, click
    known = serving().pick(str(paths[0]), start) if pick else gather(*things)
    if names:
        known = called_by(known, names, start)
    first = known[min(known)] if known else None
    if flow and known:
        raise ValueError("flow is of all pixels and follows nothing: leave box, mask, points and prompts out")
    if flow and both:
        raise ValueError("both is of objects that are followed, and flow follows nothing")
    if flow and (backwards or every > 1) and any(path.suffix == ".jsonl" for path in exports):
        raise ValueError("flow in lines is that to the next frame: with every or backwards write OUT.flo or OUT.kitti")
    spec = named(weights, first, ("flow",) if flow else (), needs_of(exports))
    if out is not None:
        say(f"{source.name}: loading {spec}")
    engine = Engine(load_task(spec, first, settings=settings), device, precision)
    if flow and "flow" not in engine.task.gives:
        raise ValueError(f"{spec} gives {' and '.join(engine.task.gives)}, not flow: name weights of flow, or none")
    if known and not engine.task.takes:
        gives = " and ".join(engine.task.gives)
        raise ValueError(f"{spec} gives {gives} and follows nothing: leave out what to follow, or name other weights")
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
    way = range(last, -1, -1) if both else None
    if numbers is not None and every > 1:
        numbers = sorted({*numbers[::every], *(frame for frame in known if frame in numbers)}, reverse=backwards)
        between = (number for number in numbers if number <= last)
        way = sorted({*range(first_frame, -1, -every), *between}, reverse=True) if both else None
    check_forms(exports, engine.task)
    tracking = Tracking(source, engine.session(known), numbers, stop, out, spec, exports, both=way)
    return tracking if out is None else tracking.finish()


def folder_forms(forms: Iterable[str], settings: Mapping[str, Any]) -> dict[Path, Export]:
    """The forms of the files of each video of a folder; ValueError for what is no ending of a file name."""
    for ending in forms:
        if not ending.startswith(".") or {"/", os.sep} & {*ending}:
            raise ValueError(f"forms are endings of file names, .jsonl say, not {ending!r}")
    if not forms:
        raise ValueError("forms names the files of each video: give one at least, .jsonl say")
    return written_as([Path(f"OUT{ending}") for ending in forms], settings)


def first_told(prompts: Any, told: Mapping[str, Mapping[int, Target]]) -> Target:
    """The first thing that is told of the videos of a folder; ValueError where there is nothing."""
    for targets in told.values():
        for target in targets.values():
            if says_something(target):
                return target
    raise ValueError(f"{prompts}: no object is shown there")


def needs_of(exports: Mapping[Path, Export]) -> tuple[str, ...]:
    """What the weights of the package must give for these forms."""
    return ("mask",) if any("mask" in form.needs and "boxes" not in form.needs for form in exports.values()) else ()


def check_forms(exports: Mapping[Path, Export], task: Task) -> None:
    """ValueError where a form is made of what a task does not give."""
    for path, form in exports.items():
        if form.needs and not {*form.needs} & {*task.gives}:
            needs, gives = " or ".join(form.needs), " and ".join(task.gives)
            raise ValueError(
                f"{path} is made of {needs}, and this gives {gives}: other weights or prompts do, --mask say"
            )


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
