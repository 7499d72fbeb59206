"""The verb `track`: follow boxes, masks or points through a video, with the weights of any task."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dropmae import registry
from dropmae import weights as files
from dropmae.formats.labels import foreground, read_labels
from dropmae.formats.results import of_video
from dropmae.inference.precision import Precision, settle, within
from dropmae.inference.stream import Follower, live, pictures
from dropmae.progress import Progress, say
from dropmae.storage import replacing
from dropmae.target import Target, mask_boxes, read_targets, target_lines
from dropmae.training.distributed import pick_device
from dropmae.video import Video, Writer
from dropmae.visualize.overlay import draw_target, draw_text

if TYPE_CHECKING:
    Source = Boxes = Any
else:  # what a command line can say; in Python it is whatever `Video` takes, and boxes in any form [N, 4]
    Source, Boxes = str, tuple[float, ...]

SHIPPED = Path(__file__).parent.parent / "shipped"
"""Where the weights that come with the package are: the tracker vot.safetensors, the segmenter vos.safetensors."""


def track(
    video: Source,
    *,
    weights: Path | None = None,
    out: Path | None = None,
    box: Boxes = (),
    mask: Path | None = None,
    points: tuple[str, ...] = (),
    prompts: Path | None = None,
    start: int = 0,
    stop: int | None = None,
    backwards: bool = False,
    lost_below: float | None = None,
    device: str = "auto",
    precision: Precision = "auto",
) -> Any:
    """Follow objects through a video, from boxes, a mask, points or a file of prompts.

    With `out` this writes the video with what was found drawn on it, and beside it the same as lines of a
    targets.jsonl, and returns a summary. Without, it returns an iterator of (frame number, Target), for Python.

    Args:
        video: a video file, a folder of images, or a camera by its number (0), which runs until interrupted.
        weights: a weight file or run folder: a tracker, a segmenter, or an encoder whose features then carry labels. By
            default what comes with the package: the segmenter where a mask is given, the tracker for boxes.
        out: OUT.mp4, with OUT.jsonl beside it, or just OUT.jsonl.
        box: x y w h in pixels, of the top left corner; several objects one after the other.
        mask: PNG with the objects' labels.
        points: t,x,y of points to follow: the frame and the place in pixels.
        prompts: a targets.jsonl with what is known in any frames; objects may appear late or be corrected.
        start: number of the frame that box and mask are about.
        stop: number of the frame to end before (with `backwards`: the last one to follow to).
        backwards: follow towards the beginning of the video.
        lost_below: confidence below which an object counts as lost and has no box; by default as the weights say.
        device: auto, cpu, cuda or cuda:N.
        precision: bf16 computes faster where the hardware has it; auto takes it there. int8, on a CPU, takes 8 bits for
            the transformer's layers: faster for large models, and a little less exact.
    """
    source = Video(video)
    where = pick_device(device)
    known = gather(source, box, mask, points, prompts, start)
    task = load_task(weights, known, where)
    if lost_below is not None:
        if not hasattr(task, "lost_below"):
            raise ValueError(f"{type(task).__name__.lower()} does not say when an object is lost: leave lost_below out")
        task.lost_below = lost_below
    half = settle(task, precision, where)
    numbers = None if live(source.source) else span(source, min(known), max(known), start, stop, backwards)
    if numbers is None and (start or backwards):
        raise ValueError("a live stream starts where it is: start and backwards are for files")
    tracking = Tracking(source, Follower(task, known), numbers, stop, out, where, half)
    return tracking if out is None else tracking.finish()


class Tracking(Iterator[tuple[int, Target]]):
    """What `track` returns: (frame number, Target) one after the other. `finish` takes what is left and sums it up."""

    def __init__(
        self,
        video: Video,
        follower: Follower,
        numbers: range | None,
        stop: int | None,
        out: Path | None,
        device: torch.device,
        half: bool,
    ) -> None:
        self.video, self.follower, self.numbers, self.stop = video, follower, numbers, stop
        self.device, self.half = device, half
        self.out = None if out is None else Path(out)
        if self.out is not None and self.out.suffix not in (".mp4", ".jsonl"):
            raise ValueError(f"{out}: the result is a video, OUT.mp4, or lines, OUT.jsonl")
        self.count, self.seconds = 0, 0.0
        self.last: dict[int, Target] = {}
        self.lost: dict[int, int] = {}
        self.steps = self.run()

    def __iter__(self) -> Tracking:
        return self

    def __next__(self) -> tuple[int, Target]:
        return next(self.steps)

    @property
    def name(self) -> str:
        """What the lines call the video: its path from where they are."""
        path = self.video.path
        if path is None:
            return self.video.name
        return os.path.relpath(path, self.out.parent if self.out is not None else Path.cwd())

    def run(self) -> Iterator[tuple[int, Target]]:
        """Follows, draws and writes; the files appear when all is done."""
        with contextlib.ExitStack() as stack:
            lines = writer = None
            if self.out is not None:
                partial = stack.enter_context(replacing(self.out.with_suffix(".jsonl")))
                lines = stack.enter_context(open(partial, "w"))
                if self.out.suffix == ".mp4":
                    writer = stack.enter_context(Writer(self.out, self.video.fps or 30))
            total = 0 if self.numbers is None else len(self.numbers)
            progress = Progress(max(total, 1), enabled=self.out is not None and total > 0)
            stack.callback(progress.close)
            try:
                for number, picture, target in self.timed():
                    self.count += 1
                    self.note(number, target)
                    if lines is not None:
                        lines.writelines(f"{line}\n" for line in target_lines(self.name, number, target))
                    if writer is not None:
                        writer.write(fitted(self.drawn(picture, target), writer.size))
                    progress.show(self.count, {})
                    yield number, target
            except KeyboardInterrupt:
                if self.numbers is not None or not self.count:
                    raise
                # That is how one ends a live stream: what was found is kept.

    def timed(self) -> Iterator[tuple[int, np.ndarray, Target]]:
        """The follower's answers; `seconds` counts reading frames and following, not what is done with the answers."""
        frames = pictures(self.video, self.numbers)
        if self.numbers is None and self.stop is not None:
            frames = itertools.islice(frames, self.stop)
        steps = self.follower.follow(frames)
        while True:
            before = time.perf_counter()
            with within(self.half, self.device):
                step = next(steps, None)
            self.seconds += time.perf_counter() - before
            if step is None:
                return
            yield step

    def note(self, number: int, target: Target) -> None:
        self.last = {number: target}
        if target.boxes is not None:
            for object_id, box in zip(target.ids.tolist(), target.boxes):
                self.lost[object_id] = self.lost.get(object_id, 0) + (not np.isfinite(box).all())

    def drawn(self, picture: np.ndarray, target: Target) -> np.ndarray:
        """The frame with the answer on it, and a word on what is lost."""
        made = draw_target(picture, target)
        if target.boxes is not None:
            gone = [str(i) for i, box in zip(target.ids.tolist(), target.boxes) if not np.isfinite(box).all()]
            made = draw_text(made, f"lost: {', '.join(gone)}") if gone else made
        return made

    def finish(self) -> dict[str, Any]:
        """Follows to the end; a summary, which holds the lines themselves where no file was written."""
        kept = [line for number, target in self for line in target_lines(self.name, number, target)]
        number, target = next(iter(self.last.items()))
        report: dict[str, Any] = {
            "video": str(self.video.source),
            "task": type(self.follower.task).__name__.lower(),
            "frames": self.count,
            "last": number,
            "objects": target.ids.tolist(),
            "frames_lost": {str(object_id): count for object_id, count in self.lost.items()},
            "frames_skipped": {str(number): reason for number, reason in self.follower.skipped.items()},
            "seconds": self.seconds,
            "fps": self.count / self.seconds if self.seconds else None,
        }
        if self.out is not None:
            report |= {"out": str(self.out), "targets": str(self.out.with_suffix(".jsonl"))}
        else:
            report["lines"] = [json.loads(line) for line in kept]
        self.tell(report)
        return report

    def tell(self, report: dict[str, Any]) -> None:
        """The summary for people."""
        rate = f", {report['fps']:.1f} frames/s" if report["fps"] else ""
        lines = [f"{report['video']}: {report['frames']} frames with {report['task']}{rate}"]
        lines += [f"  object {name} was lost in {count} frames" for name, count in self.lost.items() if count]
        skipped = self.follower.skipped
        lines += [f"  passed over: {reason}" for reason in list(skipped.values())[:3]]
        lines += [f"  and {len(skipped) - 3} more frames"] if len(skipped) > 3 else []
        lines.append(f"  -> {report['out']}" if "out" in report else "  nothing was written: --out OUT.mp4 does")
        say("\n".join(lines))


def fitted(picture: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """A frame as large as the first one: the video that is written has one size."""
    if size is None or picture.shape[:2] == size:
        return picture
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((size[1], size[0])))


def span(video: Video, first: int, last: int, start: int, stop: int | None, backwards: bool) -> range:
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
    video: Video, box: Any, mask: Path | None, points: tuple[str, ...], prompts: Path | None, start: int
) -> dict[int, Target]:
    """{frame: what is known there} from the flags; ValueError where there is nothing or it makes no sense."""
    if start < 0:
        raise ValueError(f"start is the number of a frame, not {start}")
    found: dict[int, Target] = {}
    if prompts is not None:
        found = read_prompts(prompts, video)
    numbers = np.asarray(box, np.float64).ravel()
    if len(numbers) % 4 or not np.isfinite(numbers).all():
        raise ValueError(f"a box is four numbers x y w h, not {' '.join(f'{value:g}' for value in numbers)}")
    if (len(numbers) or mask is not None) and start in found:
        raise ValueError(f"{prompts} speaks of frame {start} already: leave box and mask out")
    if len(numbers) and mask is not None:
        raise ValueError("box and mask both say what to follow: give one of them")
    if len(numbers):
        boxes = numbers.reshape(-1, 4)
        found[start] = Target(ids=np.arange(1, len(boxes) + 1), boxes=boxes)
    if mask is not None:
        labels = foreground(read_labels(mask))
        ids, _ = mask_boxes(labels)
        if not len(ids):
            raise ValueError(f"{mask}: the mask shows no object")
        found[start] = Target(ids=ids, mask=labels)
    for frame, target in point_prompts(points).items():
        if frame in found:
            old = found[frame]
            target = Target(ids=old.ids, boxes=old.boxes, mask=old.mask, points=target.points, visible=target.visible)
        found[frame] = target
    if not found:
        raise ValueError("say what to follow: --box x y w h, --mask PNG, --points t,x,y or --prompts FILE")
    return found


def read_prompts(path: Path, video: Video) -> dict[int, Target]:
    """The lines about this video, or about the only one, in a targets.jsonl."""
    return dict(of_video(path, read_targets(path), (video.name,)).items())


def point_prompts(points: tuple[str, ...]) -> dict[int, Target]:
    """{frame: all points, NaN but for those known in it} from texts t,x,y."""
    rows = []
    for text in points:
        try:
            frame, x, y = (float(part) for part in text.split(","))
        except ValueError:
            raise ValueError(f"a point is t,x,y (the frame, and the place in pixels), not {text!r}") from None
        if frame < 0 or frame != int(frame) or not np.isfinite(x + y):
            raise ValueError(f"a point's frame is a number from 0 and its place finite, unlike {text!r}")
        rows.append((int(frame), x, y))
    found = {}
    for frame in sorted({row[0] for row in rows}):
        places = np.array([(x, y) if own == frame else (np.nan, np.nan) for own, x, y in rows])
        found[frame] = Target(ids=np.zeros(0, np.int64), points=places, visible=np.isfinite(places[:, 0]))
    return found


def shipped(known: dict[int, Target]) -> Path:
    """The weights of the package for what is known; says which. ValueError where there are none."""
    masks = any(target.mask is not None for target in known.values())
    boxes = any(target.boxes is not None for target in known.values())
    if not (masks or boxes):
        raise ValueError("points are carried along by an encoder's features: give its --weights")
    name = "segmenter" if masks else "tracker"
    path = SHIPPED / ("vos.safetensors" if masks else "vot.safetensors")
    if not path.is_file():
        raise ValueError(f"no {name} comes with this installation: give --weights")
    say(f"no weights were named: the {name} that comes with the package is used ({path})")
    return path


def load_task(path: Path | None, known: dict[int, Target], device: torch.device) -> Any:
    """The task in a weight file; an encoder becomes label propagation."""
    if path is None:
        path = shipped(known)
    header = files.read_header(path)
    module: Any = files.load(path, device)
    if header["kind"] == "tasks":
        return module
    say(f"{path} is an encoder ({header['name']}): labels are carried along by its features")
    task: Any = registry.load("tasks", "propagation")()
    task.encoder = module.encoder
    return task.eval()
