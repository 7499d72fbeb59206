"""A video with what was found drawn on it."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from dropmae.contracts import Export
from dropmae.contracts.exports import Add
from dropmae.engine import Answer
from dropmae.formats.kitti import Calibration, calibration_of, read_calibration
from dropmae.progress import say
from dropmae.target import Target
from dropmae.video import Video, Writer
from dropmae.visualize.overlay import colour_flow, draw_classes, draw_text
from dropmae.visualize.topview import draw_camera, draw_frame


@dataclass(kw_only=True)
class MP4(Export):
    """An overlay in H.264: boxes, masks, points and flow on the frames, classes below; with the video's sound.

    Frames come at the video's times. Scans are shown from above; where they lie in KITTI's layout with calibration and
    pictures, the camera's above that.
    """

    suffixes = (".mp4", ".mov")
    beside = (".jsonl",)
    every_frame = True

    trail: int = 12
    """Frames of the way behind each object or point."""
    colours: ClassVar[bool] = True
    """Whether flow is shown in colours, the hue its direction, in place of the frame; else as arrows on it."""

    @contextlib.contextmanager
    def open(self, out: Path, video: Video, doubtful_below: float | None) -> Iterator[Add]:
        past: deque[Target] = deque(maxlen=self.trail)
        times = video.times if video.stamped else None
        first: Answer | None = None
        colours = FlowColours() if self.colours else None
        writer: Writer | None = None
        cut = -1
        camera = Camera.beside(video)
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
                picture = drawn(answer, list(past), doubtful_below, colours)
                if camera is not None:
                    picture = camera.above(picture, answer)
                if first.target.classes is not None:
                    picture = draw_classes(picture, answer.target.classes or {})
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


class FlowColours:
    """Flow in colours. Full colour is the length of nearly all of it so far, so that colours do not flicker."""

    def __init__(self) -> None:
        self.length = 1.0
        self.last: np.ndarray | None = None

    def painted(self, picture: np.ndarray, target: Target) -> np.ndarray:
        """The colours of a target's flow, darker where it is occluded; without flow the last ones, else the picture."""
        if target.flow is None:
            return picture if self.last is None else self.last
        known = np.linalg.norm(target.flow, axis=-1)
        known = known[np.isfinite(known)]
        self.length = max(self.length, float(np.quantile(known, 0.99)) if known.size else 0.0)
        made = colour_flow(target.flow, self.length)
        if target.occluded is not None:
            made[target.occluded] = (made[target.occluded] * 0.7).astype(np.uint8)
        self.last = draw_text(made, f"full colour: {self.length:.0f} pixels", (0, made.shape[0]))
        return self.last


def drawn(
    answer: Answer, trail: list[Target], doubtful_below: float | None, colours: FlowColours | None = None
) -> np.ndarray:
    """The frame with the answer on it, and a word on what is lost; with `colours`, flow in its place."""
    picture, target = answer.picture, answer.target
    if colours is not None:
        picture, target = colours.painted(picture, target), replace(target, flow=None)
    made = draw_frame(picture, target, trail, doubtful_below)
    if target.boxes is None:
        return made
    gone = [str(i) for i, box in zip(target.ids.tolist(), target.boxes) if not np.isfinite(box).all()]
    return draw_text(made, f"lost: {', '.join(gone)}") if gone else made


@dataclass(frozen=True, eq=False)
class Camera:
    """The pictures that were taken beside scans."""

    folder: Path
    calibration: Calibration

    @classmethod
    def beside(cls, video: Video) -> Camera | None:
        """The camera of a folder of scans in KITTI's layout; None where there is none, or no calibration."""
        if video.kind != "scan" or video.path is None:
            return None
        folder = video.path.parent.parent / "image_02" / video.path.name
        if not folder.is_dir():
            return None
        try:
            return cls(folder, read_calibration(calibration_of(video.path)))
        except OSError as error:
            say(f"{error}: the camera's pictures are left out")
            return None

    def above(self, view: np.ndarray, answer: Answer) -> np.ndarray:
        """A view of the scan, with the camera's picture of the moment over it, where there is one."""
        files = [self.folder / f"{answer.frame:06d}{suffix}" for suffix in (".png", ".jpg")]
        file = next((file for file in files if file.is_file()), None)
        height = round(view.shape[1] / 3.32)  # of KITTI's pictures at this width
        picture = np.zeros((height // 2 * 2, view.shape[1], 3), np.uint8)
        if file is not None:
            made = draw_camera(Video(file)[0], answer.target, self.calibration.pixels)
            picture = fitted(made, picture.shape[:2])
        return np.concatenate([picture, view])


def fitted(picture: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """A frame as large as the first one: the video that is written has one size."""
    if size is None or picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0])))
