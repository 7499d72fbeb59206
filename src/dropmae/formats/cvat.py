"""CVAT's XML 1.1, for videos and for images: what people draw in the annotation tool.

It is read as a stream of elements by expat. A document type, with which entities and other files could come in, is
refused, so that nothing is expanded and nothing fetched.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from dropmae.formats.rle import crop_mask
from dropmae.formats.rows import Row, Rows, polygon_mask
from dropmae.names import printable
from dropmae.opening import STILL_PIXELS, check_pixels

SHAPES = ("box", "mask", "polygon")
"""Elements that are read; points, lines and tags are left out."""


class Reading:
    """What the elements so far have said."""

    def __init__(self, path: object) -> None:
        self.path = path
        self.rows: dict[str, dict[int, list[Row]]] = {}
        self.above: list[str] = []
        self.text = ""
        self.about: dict[str, str] = {}
        """Text of the elements of <task>, and of <original_size>."""
        self.track: tuple[int, str | None] | None = None
        self.image: dict[str, str] | None = None

    def start(self, name: str, values: dict[str, str]) -> None:
        self.above.append(name)
        self.text = ""
        if name == "track":
            self.track = (whole(values, "id"), values.get("label"))
        elif name == "image":
            self.image = values
            self.rows.setdefault("", {}).setdefault(whole(values, "id"), [])
        elif name in SHAPES and (self.track or self.image):
            self.shape(name, values)

    def shape(self, kind: str, values: dict[str, str]) -> None:
        if self.track is not None:
            number, label = self.track
            frame, gone = whole(values, "frame"), values.get("outside") == "1"
        else:
            assert self.image is not None
            number, label, frame, gone = None, values.get("label"), whole(self.image, "id"), False
        label = None if label is None else printable(label)[:200]
        row = Row(number, label)
        if kind == "box" and not gone:
            x, y, right, bottom = (real(values, key) for key in ("xtl", "ytl", "xbr", "ybr"))
            row = row._replace(box=(x, y, right - x, bottom - y))
        elif not gone:
            size = self.size()
            mask = partial(drawn, kind, dict(values), size)
            mask()  # what is wrong with it is said now
            row = row._replace(mask=mask)
        self.rows.setdefault("", {}).setdefault(frame, []).append(row)

    def size(self) -> tuple[int, int]:
        """Height and width of the frames; OSError where the file does not say."""
        about = self.image or self.about
        if not {"height", "width"} <= about.keys():
            raise OSError(f"{self.path}: masks need the size of the frames (original_size), which it does not tell")
        height, width = whole(about, "height"), whole(about, "width")
        check_pixels(self.path, width, height, STILL_PIXELS)
        return height, width

    def end(self, name: str) -> None:
        if len(self.above) > 1 and self.above[-2] in ("task", "original_size", "job"):
            self.about[name] = self.text.strip()
        self.above.pop()
        self.text = ""
        if name == "track":
            self.track = None
        elif name == "image":
            self.image = None

    def letters(self, text: str) -> None:
        self.text = (self.text + text)[:1000]


def read_cvat(path: Path, data: bytes) -> dict[str, Rows]:
    """{video: its Rows} from the bytes of an annotations.xml; OSError in one line where it is none."""
    reading, parser = Reading(path), expat.ParserCreate()
    parser.StartDoctypeDeclHandler = partial(refuse, path)
    parser.StartElementHandler, parser.EndElementHandler = reading.start, reading.end
    parser.CharacterDataHandler = reading.letters
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise OSError(f"{path}: not XML ({error})") from None
    except (ValueError, KeyError) as error:
        raise OSError(f"{path}, line {parser.CurrentLineNumber}: {printable(error)[:160]}") from None
    if not reading.rows:
        raise OSError(f"{path}: no annotations of CVAT's kind: no track or image with a box, mask or polygon in it")
    title = reading.about.get("source") or reading.about.get("name") or Path(path).stem
    return {title: Rows(reading.rows[""], title)}


def refuse(path: object, *_: Any) -> None:
    raise OSError(
        f"{path}: a document type in it could bring in other files or grow without end; annotations have none"
    )


def drawn(kind: str, values: dict[str, str], size: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: a mask or polygon."""
    if kind == "mask":
        left, top, width, height = (whole(values, key) for key in ("left", "top", "width", "height"))
        return crop_mask([int(run) for run in values["rle"].split(",")], (left, top, width, height), size)
    points = [[float(value) for value in pair.split(",")] for pair in values["points"].split(";")]
    if any(len(point) != 2 for point in points) or not np.isfinite(points).all():
        raise ValueError("points of a polygon are x,y;x,y;...")
    return polygon_mask([(x, y) for x, y in points], size)


def whole(values: dict[str, str], key: str) -> int:
    """A whole number from 0; ValueError where it is none."""
    text = values.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"{key} is a number from 0, not {text[:40]!r}")
    return int(text)


def real(values: dict[str, str], key: str) -> float:
    try:
        value = float(values.get(key, ""))
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"{key} is a number of pixels, not {values.get(key, '')[:40]!r}")
    return value
