"""Annotated images in JSON as videos: COCO, COCO Camera Traps, and what MegaDetector writes."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dropmae.formats.rle import expand
from dropmae.formats.rows import Row, Rows, confidence, polygon_mask
from dropmae.names import printable, relative
from dropmae.opening import STILL_PIXELS, check_pixels
from dropmae.target import decode_mask
from dropmae.video.frames import natural

Size = Callable[[str], tuple[int, int]]
"""Height and width of the frames of a video, by its name in the file."""
SURE = 0.2
"""Confidence from which a detection counts, where MegaDetector's file does not recommend one."""


def read_coco(path: Path, content: dict[str, Any]) -> dict[str, Rows]:
    """{video: its Rows} of a file with images and annotations.

    Images belong to a video by `video_id`, with their number in `frame_index` (or `frame_id`); else by their folder, in
    natural order; those without a folder are the frames that the digits at the end of their names tell. Objects are
    told apart by `track_id` (or `instance_id`), which may be names, too: these are numbered in their order.
    """
    names = {int(row["id"]): printable(row["name"])[:200] for row in content.get("categories") or ()}
    clips = {row["id"]: relative(row.get("name") or row["file_name"], path) for row in content.get("videos") or ()}
    places, sizes = frames_of(path, content["images"], clips), dict[Any, tuple[int, int]]()
    named = dict[str, int]()
    rows: dict[str, dict[int, list[Row]]] = {}
    for image in content["images"]:
        video, frame = places[image["id"]]
        if frame in rows.setdefault(video, {}):
            raise ValueError(f"two images are frame {frame} of {video}")
        rows[video][frame] = []
        if "height" in image and "width" in image:
            sizes[image["id"]] = int(image["height"]), int(image["width"])
    for entry in content["annotations"]:
        if entry["image_id"] not in places:
            raise ValueError(f"annotation {entry.get('id')} is of image {entry['image_id']}, which is not listed")
        video, frame = places[entry["image_id"]]
        if (made := annotation(path, entry, names, sizes.get(entry["image_id"]))) is not None:
            rows[video][frame].append(made._replace(id=identity(entry, named)))
    return {video: Rows(found, video) for video, found in rows.items()}


def frames_of(path: Path, images: list[dict[str, Any]], clips: dict[Any, str]) -> dict[Any, tuple[str, int]]:
    """{id of an image: (video, frame)}."""
    places: dict[Any, tuple[str, int]] = {}
    folders: dict[str, dict[str, Any]] = {}
    for image in images:
        number = next((image[key] for key in ("frame_index", "frame_id") if image.get(key) is not None), None)
        if image.get("video_id") in clips and number is not None:
            places[image["id"]] = clips[image["video_id"]], int(number)
        else:
            folder, _, name = relative(image["file_name"], path).replace("\\", "/").rpartition("/")
            folders.setdefault(folder, {})[name] = image["id"]
    for folder, files in folders.items():
        numbers = [int(match[1]) for name in files if (match := re.search(r"(\d+)\.\w+$", name))]
        if folder or len({*numbers}) != len(files):
            numbers, files = list(range(len(files))), {name: files[name] for name in sorted(files, key=natural)}
        places |= {image: (folder or path.stem, number) for image, number in zip(files.values(), numbers)}
    return places


def identity(entry: dict[str, Any], named: dict[str, int]) -> int | None:
    """Which object an annotation is of; None where it does not say. Names are numbered from 1 as they come."""
    told = next((entry[key] for key in ("track_id", "instance_id") if entry.get(key) is not None), None)
    if isinstance(told, str):
        return named.setdefault(told, len(named) + 1)
    if told is not None and (isinstance(told, bool) or told != int(told)):
        raise ValueError(f"annotation {entry.get('id')}: a track_id is a number or a name, not {told}")
    return None if told is None else int(told)


def annotation(path: Path, entry: dict[str, Any], names: dict[int, str], size: tuple[int, int] | None) -> Row | None:
    """The row of an annotation; None where it has no place: a class alone, an empty box."""
    box, shape = entry.get("bbox"), entry.get("segmentation")
    listed = isinstance(box, list)
    box = tuple(float(value) for value in box) if box else None
    if box is not None and (not listed or len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) < 0):
        raise ValueError(f"annotation {entry.get('id')}: a bbox is x, y, w, h, not {str(entry['bbox'])[:60]}")
    row = Row(None, names.get(int(entry["category_id"])), score=confidence(entry.get("score")))
    if shape and not same_as_box(shape, box):
        own = (int(shape["size"][0]), int(shape["size"][1])) if isinstance(shape, dict) else size
        if size not in (None, own):
            raise ValueError(f"annotation {entry.get('id')}: a mask of {own} rows and columns in an image of {size}")
        size = own
        if size is None:
            raise ValueError(f"annotation {entry.get('id')}: a polygon needs the height and width of its image")
        check_pixels(f"{path}: an image", size[1], size[0], STILL_PIXELS)
        return row._replace(mask=partial(drawn, f"{path}: annotation {entry.get('id')}", shape, size))
    return None if box is None or min(box[2:]) <= 0 else row._replace(box=box)


def same_as_box(shape: Any, box: tuple[float, ...] | None) -> bool:
    """Whether a polygon says no more than the box."""
    if not isinstance(shape, list) or len(shape) != 1 or len(shape[0]) != 8 or box is None:
        return False
    xs, ys = shape[0][::2], shape[0][1::2]
    edges = (box[0], box[1], box[0] + box[2], box[1] + box[3])
    return np.allclose((min(xs), min(ys), max(xs), max(ys)), edges, atol=0.01)


def drawn(where: str, shape: Any, size: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: run lengths, compressed or not, or polygons; OSError that begins with `where` for neither."""
    try:
        if isinstance(shape, dict):
            counts = shape["counts"]
            return decode_mask({"size": list(size), "counts": expand(counts) if isinstance(counts, str) else counts})
        mask = np.zeros(size, bool)
        for part in shape:
            if len(part) % 2 or not np.isfinite(part).all():
                raise ValueError("a polygon is a list of numbers x, y, x, y, ...")
            mask |= polygon_mask(list(zip(part[::2], part[1::2])), size)
        return mask
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise OSError(f"{where}: {printable(error)[:160]}") from None


def read_megadetector(path: Path, content: dict[str, Any], size: Size) -> dict[str, Rows]:
    """{video or folder of images: its Rows} of MegaDetector's output, whose boxes are shares of the frame.

    Detections count from the confidence that the file recommends on. Classes come from `detection_categories`.
    """
    names = {str(key): printable(name) for key, name in content["detection_categories"].items()}
    told = (content.get("info") or {}).get("detector_metadata") or {}
    sure = float(told.get("typical_detection_threshold", SURE))
    stills, videos = dict[str, list[str]](), dict[str, dict[int, list[Row]]]()
    images = content["images"]
    found = {relative(row["file"], path).replace("\\", "/"): row.get("detections") or [] for row in images}
    moving = {name for name, rows in found.items() if any("frame_number" in row for row in rows)}
    for name in sorted(found.keys() - moving, key=natural):
        stills.setdefault(name.rpartition("/")[0], []).append(name)
    places: dict[str, tuple[str, int | None]] = {name: (name, None) for name in moving}
    for folder, files in stills.items():
        places |= {name: (folder if len(files) > 1 else name, number) for number, name in enumerate(files)}
    for name, (video, number) in places.items():
        kept = videos.setdefault(video, {})
        for entry in found[name]:
            frame = int(entry["frame_number"]) if number is None else number
            if float(entry["conf"]) >= sure:
                height, width = size(video)
                x, y, w, h = (float(value) for value in entry["bbox"])
                box = (x * width, y * height, w * width, h * height)
                kept.setdefault(frame, []).append(
                    Row(None, names.get(str(entry["category"])), box, score=float(entry["conf"]))
                )
    return {video: Rows(rows, video) for video, rows in videos.items()}
