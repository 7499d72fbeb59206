"""The verb `show`: frames with the coordinates of their pixels, or with what several trackers made of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from dropmae.engine import pictures as pictures_of
from dropmae.evaluation import lost
from dropmae.formats.labels import foreground
from dropmae.formats.results import distinct_names, read_results
from dropmae.progress import Progress, say
from dropmae.storage import check_output
from dropmae.target import Target
from dropmae.video import Video, Writer
from dropmae.visualize.charts import PICTURE, save_picture
from dropmae.visualize.overlay import (
    COLOURS,
    DARK,
    UNOWNED,
    Colour,
    draw_boxes,
    draw_grid,
    draw_mask,
    draw_points,
    draw_text,
    font,
    tile,
)

if TYPE_CHECKING:
    Source = Any
else:
    Source = str

SHOWN = "a comparison"
"""Kind of output, for its mark."""
Results = Mapping[str, Mapping[int, Target]]
"""{tracker's name: {frame: what it found there}}"""


def show(
    video: Source,
    *,
    frame: int | None = None,
    grid: int | None = None,
    results: tuple[Path, ...] = (),
    truth: Path | None = None,
    names: tuple[str, ...] = (),
    frames: tuple[int, ...] = (),
    columns: int = 0,
    out: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Draw frames of a video: one with the coordinates of its pixels, or several with the results of trackers.

    `show clip.mp4 --frame 0` writes the frame with a grid, from which the four numbers of a box can be read. With
    `results` it draws what papers show: the same frames with every tracker's boxes, points or masks in its colour, the
    truth in white and dashed, and a legend. OUT.png takes some frames, OUT.mp4 all of them.

    Args:
        video: a video file or a folder of images.
        frame: number of the frame to draw with a grid.
        grid: pixels between the lines of the grid; by default some twenty lines.
        results: of each tracker a targets.jsonl, a .txt with a box per line, a folder of <frame>.png masks, or a folder
            or zip that holds one of these under the video's name.
        truth: the ground truth, in any of these forms.
        names: what the trackers are called, in the order of `results`; by default what their paths differ in.
        frames: numbers of the frames to draw; by default five, evenly spread (all of them in OUT.mp4).
        columns: pictures side by side; by default all frames.
        out: OUT.png or OUT.mp4; by default a PNG in this folder that is called after the video.
        overwrite: replace OUT even if it is read here or is not a picture that `show` drew.
    """
    source = Video(video)
    title = source.path.parent.name if source.path is not None and source.name in IMAGE_FOLDERS else source.name
    if frame is None and not results and truth is None:
        frame = frames[0] if len(frames) == 1 else 0
    if grid is not None and grid < 1:
        raise ValueError(f"grid is a number of pixels between lines, from 1, not {grid}")
    if frame is not None and (results or truth is not None or frames):
        raise ValueError("frame is for the grid of one frame; with results or truth say frames")
    if frame is not None:
        (frame,) = numbers_of(source, (frame,))
    out = Path(out) if out is not None else Path(f"{title}-frame-{frame}.png" if frame is not None else f"{title}.png")
    if out.suffix.lower() not in (".png", ".mp4") or (frame is not None and out.suffix.lower() != ".png"):
        raise ValueError(f"{out}: write OUT.png{'' if frame is not None else ' or OUT.mp4'}")
    inputs = [video, *results, *([truth] if truth is not None else [])]
    check_output(out, SHOWN if out.suffix.lower() == ".mp4" else PICTURE, inputs, overwrite=overwrite)
    if frame is not None:
        save_picture(draw_grid(source[frame], grid), out)
        say(f"{out}: frame {frame} of {source.width} x {source.height} pixels, x to the right, y down")
        say("--box takes x y w h: with corners at (X0, Y0) and (X1, Y1) that is X0 Y0 X1-X0 Y1-Y0")
        return {"out": str(out), "frame": frame, "width": source.width, "height": source.height}
    if names and len(names) != len(results):
        raise ValueError(f"{len(names)} names for {len(results)} results")
    called = [title, *({source.name} - {title})]
    found = {} if truth is None else {TRUTH: read_results(truth, called)}
    found |= dict(zip(names or distinct_names(results), (found_in(Path(path), called) for path in results)))
    if out.suffix.lower() == ".mp4":
        shown: Sequence[int] = numbers_of(source, frames) if frames else range(len(source))
        write_video(source, found, shown, out)
    else:
        spread = np.linspace(0, len(source) - 1, min(5, len(source))).round().astype(int).tolist()
        shown = numbers_of(source, frames or tuple(spread))
        pictures = list(itertools.chain(*(compared(source[n], n, found) for n in shown)))
        rows = len(pictures) // len(shown)
        if rows > 1:  # a tracker's masks go in a row of their own
            pictures = [pictures[n * rows + row] for row in range(rows) for n in range(len(shown))]
        sheet = tile(pictures, len(shown) if rows > 1 else columns or len(shown))
        save_picture(sheet if rows > 1 else np.concatenate([sheet, legend(found, sheet.shape[1])]), out)
    say(f"{out}: {len(shown)} frames, {', '.join(found)}")
    return {"out": str(out), "frames": list(shown), "names": list(found)}


TRUTH = "truth"
IMAGE_FOLDERS = ("img", "imgs", "images", "frames", "color")
"""Folders of a sequence's frames that have no name of their own; the sequence is called as the folder above."""


def found_in(path: Path, called: Sequence[str]) -> Mapping[int, Target]:
    """`read_results`, with a word on what an evaluation once wrote there."""
    try:
        return read_results(path, called)
    except OSError as error:
        if not (words := lost(path)):
            raise
        raise type(error)(f"{error}; {words}") from None


def numbers_of(video: Video, frames: Sequence[int]) -> list[int]:
    """The frames' numbers, counted from the end where negative; ValueError for one that is not there."""
    for number in frames:
        if not -len(video) <= number < len(video):
            raise ValueError(f"frame {number} is none of the {len(video)} frames of {video.name}")
    return [number % len(video) for number in frames]


def tones(results: Results) -> dict[str, Colour]:
    """The colour of each tracker; the truth is white."""
    others = [name for name in results if name != TRUTH]
    return {TRUTH: UNOWNED, **{name: COLOURS[row % len(COLOURS)] for row, name in enumerate(others)}}


def compared(frame: np.ndarray, number: int, results: Results) -> Iterator[np.ndarray]:
    """The frame with everybody's boxes and points; where there are masks, once for each tracker."""
    here = {name: targets[number] for name, targets in results.items() if number in targets}
    if any(next(iter(targets.values())).mask is not None for targets in results.values() if targets):
        for name in results:
            target = here.get(name)
            made = frame if target is None or target.mask is None else draw_mask(frame, foreground(target.mask))
            yield draw_text(made, f"{name}  #{number:04d}")
        return
    order = {name: row + 1 for row, name in enumerate(name for name in results if name != TRUTH)}
    made = frame
    for name, target in here.items():
        own = order.get(name, 0)
        if target.points is not None:
            made = draw_points(made, target.points, target.visible, np.full(len(target.points), own))
        if target.boxes is not None:
            count = len(target.boxes)
            made = draw_boxes(made, target.boxes, [own] * count, dashed=[name == TRUTH] * count)
    yield draw_text(made, f"#{number:04d}")


def legend(results: Results, width: int) -> np.ndarray:
    """A white strip with every tracker's colour and name, in as many lines as `width` pixels need."""
    size = max(13, width // 70)
    letters, colours = font(size), tones(results)
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    places, x, y = [], size, size // 2
    for name in results:
        wide = round(probe.textlength(name, font=letters)) + 4 * size
        if x + wide > width and x > size:
            x, y = size, y + 2 * size
        places.append((name, x, y))
        x += wide
    strip = Image.new("RGB", (width, y + 2 * size), (255, 255, 255))
    draw = ImageDraw.Draw(strip)
    for name, x, y in places:
        draw.rectangle([x, y, x + 2 * size, y + size], fill=colours[name], outline=DARK, width=max(1, size // 8))
        draw.text((x + 2.5 * size, y + size / 2), name, fill=DARK, font=letters, anchor="lm")
    return np.array(strip)


def write_video(video: Video, results: Results, shown: Sequence[int], out: Path) -> None:
    """All of `shown` as a video, with the legend below; masks side by side. A frame that cannot be read is black."""
    progress = Progress(len(shown), unit="frame")
    reasons: list[str] = []
    with Writer(out, video.fps or 30, kind=SHOWN) as writer:
        for done, (number, frame) in enumerate(pictures_of(video, shown), 1):
            if isinstance(frame, OSError):
                reasons.append(str(frame))
                if len(reasons) == len(shown):
                    raise frame
                frame = draw_text(np.zeros((video.height, video.width, 3), np.uint8), "cannot be read")
            pictures = list(compared(frame, number, results))
            picture = tile(pictures, min(3, len(pictures))) if len(pictures) > 1 else pictures[0]
            if len(pictures) == 1:
                picture = np.concatenate([picture, legend(results, picture.shape[1])])
            writer.write(picture)
            progress.show(done, {})
    progress.close()
    if reasons:
        say(f"{len(reasons)} frames are black, as they could not be read: {reasons[0]}")
