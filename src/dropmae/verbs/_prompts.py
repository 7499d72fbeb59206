"""What `track` is told to follow: its flags, and files of prompts, as Targets of frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dropmae.data.shards import videos_outside
from dropmae.engine import prompts_of
from dropmae.formats.annotations import read_annotations
from dropmae.formats.labels import foreground, read_labels
from dropmae.formats.results import of_video
from dropmae.formats.rows import SIGHTED, Rows
from dropmae.metrics.boxes3d import inside, local
from dropmae.target import Target, mask_boxes, misplaced, says_something
from dropmae.video import Video
from dropmae.video import find as videos_below
from dropmae.video.scans import scan_files

GRID = 512
"""Rows and columns of the largest grid of points."""


def gather(
    video: Video, box: Any, mask: Any, points: Any, prompts: Any, start: int, box3d: Any = (), click: Any = ()
) -> dict[int, Target]:
    """{frame: what is known there} from the flags; ValueError where there is nothing or it makes no sense."""
    if start < 0:
        raise ValueError(f"start is the number of a frame, not {start}")
    found: dict[int, Target] = {}
    if prompts is not None:
        found = dict(prompts.items()) if isinstance(prompts, Mapping) else read_prompts(prompts, video)
        if not any(map(says_something, found.values())):
            raise ValueError(f"{'the prompts' if isinstance(prompts, Mapping) else prompts}: no object is shown there")
    if video.kind == "scan":
        return gather_scans(video, box3d, found, start, bool(len(box) + len(click) + len(points) or mask is not None))
    if len(box3d):
        raise ValueError("box3d is of scans (.bin .npy .pcd), and this is a video of pictures: give --box x y w h")
    numbers = np.asarray(box, np.float64).ravel()
    if len(numbers) % 4 or not np.isfinite(numbers).all():
        raise ValueError(f"a box is four numbers x y w h, not {' '.join(f'{value:g}' for value in numbers)}")
    clicked = np.asarray(click, np.float64).ravel()
    if len(clicked) % 2 or not np.isfinite(clicked).all():
        raise ValueError(f"a click is two numbers x y, not {' '.join(f'{value:g}' for value in clicked)}")
    said = [name for name, told in (("box", len(numbers)), ("click", len(clicked)), ("mask", mask is not None)) if told]
    if said and start in found:
        raise ValueError(f"{prompts} speaks of frame {start} already: leave {' and '.join(said)} out")
    if len(said) > 1:
        raise ValueError(f"{' and '.join(said)} both say what to follow: give one of them")
    if len(clicked):
        found[start] = Target(ids=np.arange(1, len(clicked) // 2 + 1), clicks=clicked.reshape(-1, 2))
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
    spots = point_prompts(points)
    for frame, target in spots.items():
        if frame in found:
            old = found[frame]
            target = replace(old, points=target.points, visible=target.visible)
        found[frame] = target
    if start and found and not said and start not in spots:
        raise ValueError(
            f"start {start} is about box, mask and grid, but points and prompts name their own frames, {min(found)} "
            "first: leave it out"
        )
    for frame, target in found.items():
        flat = any(getattr(target, name) is not None for name in ("boxes", "points", "clicks", "mask"))
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


def folder_prompts(path: Path, folder: Path, out: Path) -> dict[str, Mapping[int, Target]]:
    """{path of a video below a folder: what an annotation file says of it}, for the videos that it names.

    What lies in `out` is none. A video that cannot be read is left to its turn. ValueError where none of the videos is
    named.
    """
    videos = {
        source.relative_to(folder).as_posix(): source for source in videos_outside(videos_below(folder), folder, out)
    }

    def size(name: str) -> tuple[int, int]:
        try:
            with Video(videos[video_called(path, name, videos) or ""]) as video:
                return video.height, video.width
        except (OSError, KeyError):
            return 1, 1

    listed = read_annotations(path, size=size)
    found: dict[str, Mapping[int, Target]] = {}
    for name, told in listed.items():
        if (video := video_called(path, name, videos)) is not None:
            sighted = isinstance(told, Rows) and told.sightings
            found[video] = prompts_of(told, "appearance", SIGHTED) if sighted else told
    if not found:
        raise ValueError(f"{path}: names none of the videos of {folder}, but {', '.join([*listed][:3]) or 'nothing'}")
    return found


def video_called(path: Path, name: str, videos: Iterable[str]) -> str | None:
    """Which of the paths a name in the file `path` means: it, the only one of this file name, or without its ending.

    None where there is none; OSError where there are several.
    """
    for part in (str, lambda video: Path(video).name, lambda video: Path(video).stem):
        if fitting := [video for video in videos if part(video) == name]:
            if len(fitting) > 1:
                raise OSError(f"{path}: {name} may be {' or '.join(fitting[:3])}; name the path")
            return fitting[0]
    return None


def read_prompts(path: Path, video: Video) -> dict[int, Target]:
    """What an annotation file says of this video, or of the only one in it.

    Of a detector's file, which knows no objects, only where each of them is seen first.
    """
    found = read_annotations(path, size=lambda _: (video.height, video.width))
    told = of_video(path, found, (video.name,))
    if isinstance(told, Rows) and told.sightings:
        return prompts_of(told, "appearance", SIGHTED)
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
