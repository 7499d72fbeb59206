"""Boxes in files: text with one box x y w h per line, flags, times, a JSON of annotations, a folder or zip of results.

Numbers in text may be parted by commas, semicolons, tabs or spaces, and a box may be NaN. What cannot be read is an
OSError of one line that names the file and the line.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dropmae.formats.tracks import Result, Track
from dropmae.names import relative, relative_names
from dropmae.opening import Archive, load_json, read_text
from dropmae.storage import replacing


def parse_boxes(text: str, where: object) -> np.ndarray:
    """float64 [T, 4] from a text of one box per line, a line per frame; `where` is named in errors.

    Empty lines at the end do not count. One before that is an error: evaluators pass over it, and so give every later
    box to the frame before its own.
    """
    lines = re.sub(r"\r+\n", "\n", text).rstrip().splitlines()
    if not lines:
        raise OSError(f"{where}: empty, no boxes")
    starts = range(0, len(lines), BLOCK)
    return np.concatenate([_block(lines[start : start + BLOCK], start + 1, where) for start in starts])


BLOCK = 4096
"""Lines that are words at a time, which take fifty times the memory of numbers."""


def _block(lines: list[str], first: int, where: object) -> np.ndarray:
    """float64 [T, 4] of some lines, of which the first one has the number `first`."""
    rows = [re.sub(r"[,;\t]", " ", line).split() for line in lines]
    try:
        boxes = np.array(rows, np.float64)
        if boxes.ndim == 2 and boxes.shape[1] == 4:
            return boxes
    except ValueError:
        pass  # the loop below finds the line
    for number, words in enumerate(rows, first):
        if not words:
            raise OSError(f"{where}: line {number} is empty: a frame without a box has a line too, NaN,NaN,NaN,NaN say")
        try:
            if len([float(word) for word in words]) == 4:
                continue
        except ValueError:
            pass  # named below, like a line of three numbers
        raise OSError(f"{where}: line {number} is not a box of four numbers x y w h: {' '.join(words)[:60]!r}")
    raise AssertionError("four floats in every line make an array of four columns")


def parse_numbers(text: str, where: object) -> np.ndarray:
    """float64 [n]: all numbers of a text in reading order, however they are parted. `where` is named in errors."""
    try:
        return np.array(re.sub(r"[,;]", " ", text).split(), np.float64)
    except ValueError as error:
        raise OSError(f"{where}: not numbers only ({error})") from None


def read_boxes(path: Path) -> np.ndarray:
    """float64 [T, 4]: the boxes of a text file."""
    return parse_boxes(read_text(path), path)


def read_regions(path: Path) -> np.ndarray:
    """float64 [T, 4]: a box x y w h per line of a file of boxes and polygons x1 y1 x2 y2 x3 y3 ...

    Of a polygon it is the one that encloses it, from the least to the greatest coordinates. A line of one number, with
    which the challenges mark a frame without a region, becomes NaN.
    """
    rows: list[list[float]] = []
    for number, line in enumerate(read_text(path).rstrip().splitlines(), 1):
        words = re.sub(r"[,;\t]", " ", line).split()
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        if len(values) == 4:
            rows.append(values)
        elif len(values) == 1:
            rows.append([np.nan] * 4)
        elif len(values) >= 6 and len(values) % 2 == 0:
            x, y = values[::2], values[1::2]
            rows.append([min(x), min(y), max(x) - min(x), max(y) - min(y)])
        else:
            what = "a mask, which this does not read" if line.startswith("m") else f"no box or polygon: {line[:60]!r}"
            raise OSError(f"{path}: line {number} is {what}")
    if not rows:
        raise OSError(f"{path}: empty, no regions")
    return np.array(rows)


def read_numbers(path: Path) -> np.ndarray:
    """float64 [n]: all numbers of a text file."""
    return parse_numbers(read_text(path), path)


def read_names(path: Path) -> list[str]:
    """The lines of a list of sequence names, without empty ones; OSError where one could lead out of a folder."""
    return relative_names((line.strip() for line in read_text(path).splitlines() if line.strip()), path)


def read_attributes(path: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `names` whose flag in a file of 0/1 flags is set; () where there is no such file."""
    if not path.is_file():
        return ()
    flags = read_numbers(path)
    if len(flags) != len(names):
        raise OSError(f"{path}: {len(flags)} attribute flags, not {len(names)}")
    return tuple(name for name, flag in zip(names, flags) if flag > 0)


def format_boxes(boxes: np.ndarray, decimals: int) -> str:
    """Boxes [T, 4] as text: one line each, parted by commas, with so many decimals."""
    return "".join(",".join(f"{value:.{decimals}f}" for value in row) + "\n" for row in boxes)


def format_seconds(seconds: Iterable[float]) -> str:
    """The seconds that each frame took, one per line."""
    return "".join(f"{value:.8f}\n" for value in seconds)


def write_zip(path: Path, texts: dict[str, str]) -> None:
    """Writes a zip of text files {name inside: text}, whole or not at all; the same texts give the same bytes."""
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted(texts.items()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, text)


def folded(name: str, prefix: str = "") -> str:
    """A sequence's name without case, `prefix` and the ways of writing a target's number: Jogging.1 is jogging_1."""
    return re.sub(r"[.\-]", "_", name.lower()).removeprefix(prefix)


class ResultFiles:
    """The text files below a tracker's result folder, or inside a zip, found by the name of a sequence."""

    def __init__(self, results: Path, prefix: str = "") -> None:
        self.results, self.prefix = Path(results), prefix
        self.zipped = self.results.is_file()
        self.found: dict[str, list[PurePosixPath | Path]] = {}
        for file in self._files():
            self.found.setdefault(folded(file.stem, prefix), []).append(file)

    def _files(self) -> list[Any]:
        if not self.zipped and not self.results.is_dir():
            raise FileNotFoundError(f"{self.results}: no such folder of results")
        if not self.zipped:
            files: list[Any] = sorted(file for file in self.results.rglob("*") if file.suffix.lower() == ".txt")
        elif zipfile.is_zipfile(self.results):
            with Archive(self.results) as archive:
                # Windows tools write backslashes, others begin with ./; the name inside is kept for reading.
                self.inside = {PurePosixPath(name.replace("\\", "/")): name for name in archive.names()}
            files = [file for file in self.inside if file.suffix.lower() == ".txt" and "__MACOSX" not in file.parts]
        else:
            raise NotADirectoryError(f"{self.results}: results are a folder of .txt files, or a zip of them")
        if not files:
            raise FileNotFoundError(f"{self.results}: holds no .txt files, one per sequence")
        return files

    def text(self, name: str) -> tuple[str, str] | None:
        """(text, where it is from) of the file called `name`; OSError where two are called so."""
        files = self.found.get(folded(name, self.prefix), [])
        exact = [file for file in files if file.stem == name]
        files = exact if len(exact) == 1 else files
        if not files:
            return None
        if len(files) > 1:
            raise OSError(f"{self.results}: two files for {name}, {files[0]} and {files[1]}; give one tracker's folder")
        if isinstance(files[0], Path):
            return read_text(files[0]), str(files[0])
        with Archive(self.results) as archive:
            return archive.read(self.inside[files[0]]).decode("utf-8-sig", "replace"), f"{self.results}:{files[0]}"

    def result(self, names: Iterable[str], repetitions: int = 0) -> Result | None:
        """The Result under the first of `names` (ways of writing one sequence's name) that is there, else None.

        With `repetitions` also its runs name_001, name_002, ...
        """
        for name in names:
            runs = [self.text(name), *(self.text(f"{name}_{run:03d}") for run in range(1, repetitions + 1))]
            boxes = [parse_boxes(*run) for run in runs if run is not None]
            if boxes:
                times = self.text(f"{name}_time")
                return Result(runs=boxes, seconds=None if times is None else parse_numbers(*times))
        return None


def track_of(entry: dict[str, Any], where: str) -> Track:
    """The Track that one entry of a JSON file of annotations states. `where` is named in errors."""
    try:
        boxes = np.array(entry["gt_rect"], np.float64)
    except (KeyError, ValueError, TypeError):
        boxes = np.zeros(0)
    if boxes.ndim != 2 or boxes.shape[1:] != (4,) or not len(boxes):
        raise OSError(f"{where}: gt_rect is not a list of boxes [x, y, w, h]")
    absent, cover, size = (entry.get(key) for key in ("absent", "cover", "size"))
    for key, flags in (("absent", absent), ("cover", cover)):
        if flags is not None and len(flags) != len(boxes):
            raise OSError(f"{where}: {len(flags)} values of {key} for {len(boxes)} boxes")
    if absent is not None:
        # The files of pysot-toolkit, known by their video_dir, flag the frames in which the object is there.
        absent = np.array(absent) == 0 if "video_dir" in entry else np.array(absent) != 0
    return Track(
        boxes=boxes,
        absent=absent,
        cover=None if cover is None else np.array(cover, np.int64),
        size=None if size is None else (int(size[0]), int(size[1])),
        attributes=tuple(str(name) for name in entry.get("attributes", entry.get("attr", ()))),
    )


def read_json(path: Path) -> dict[str, Track]:
    """{sequence: Track} from a JSON file {key: {"name", "gt_rect", ...}}.

    `gt_rect` holds a box [x, y, w, h] per frame, in the data set's own coordinates. Optional: `absent` (1 = absent),
    `cover` (eighths), `size` ([W, H]), `attributes` or `attr`. Sequences of several targets share a `name` and have
    keys that go on from it: key "jogging_1" of name "Jogging" becomes Jogging_1.
    """
    content = load_json(path)
    if not isinstance(content, dict) or not content or not all(isinstance(value, dict) for value in content.values()):
        raise OSError(f'{path}: not annotations; expected {{sequence: {{"gt_rect": [[x, y, w, h], ...]}}}}')
    found = {}
    for key, entry in content.items():
        name = str(entry.get("name", key))
        name = relative(name + key[len(name) :] if key.lower().startswith(name.lower()) else key, path)
        found[name] = track_of(entry, f"{path}: {key}")
    return found
