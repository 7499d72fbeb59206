"""Annotation files of any known form, recognised by what is in them: {video: {frame: Target}}."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dropmae.formats.coco import Size, read_coco, read_megadetector
from dropmae.formats.cvat import read_cvat
from dropmae.formats.labels import LabelMaps
from dropmae.formats.rows import Row, Rows, confidence
from dropmae.names import printable, relative
from dropmae.opening import FILE_BYTES, Archive, read_bytes
from dropmae.target import Target, read_targets

Videos = dict[str, Mapping[int, Target]]
"""What is known of each video, by its name in the file."""
NAMES = ("targets.jsonl", "annotations.xml", "annotations.json", "gt/gt.txt", "gt.txt", "annotations.csv")
"""Files that a folder of videos may keep its annotation in, the first of them that is there."""
FORMS = "a targets.jsonl, CVAT's .xml, a .json of COCO or MegaDetector, MOT's .txt, a .csv of `track`, <frame>.png"


def read_annotations(path: Path, size: Size | None = None) -> Videos:
    """What a file, or one of `NAMES` in a folder or zip, says of videos.

    `size` gives height and width of a video's frames by its name, for files that count in shares of them. Names of
    objects are kept where a form has such. FileNotFoundError, OSError or ValueError in one line.
    """
    path = Path(path)
    if path.is_dir():
        file = annotation_file(path)
        if file is None and drawn(path):
            return {title(path): LabelMaps(path)}
        if file is None:
            raise FileNotFoundError(f"{path / NAMES[0]}: no such file; a folder of annotated videos holds {FORMS}")
        return read_annotations(file, size)
    if path.suffix.lower() == ".jsonl":
        return dict(read_targets(path))
    data, inside = read_bytes(path), path
    labels = None
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return {title(path): LabelMaps(path)}
    if data[:4] == b"PK\x03\x04":
        with Archive(path) as archive:
            there = set(archive.names())
            name = next((name for name in NAMES if name in there), None)
            if name is None and (maps := LabelMaps(path)).files:
                return {title(path): maps}
            if name is None:
                raise OSError(f"{path}: a zip of annotations holds one of {', '.join(NAMES)}, or <frame>.png")
            data, inside = archive.read(name, FILE_BYTES), Path(name)
            labels = archive.read("gt/labels.txt").decode("utf-8", "replace") if "gt/labels.txt" in there else None
    return dict(parsed(path, inside, data, labels, size).items())


def drawn(folder: Path) -> bool:
    """Whether a folder has label maps <frame>.png: the first of them is one, and no picture."""
    try:
        maps = LabelMaps(folder)
        return any(maps.labels(number).size for number in [*maps][:1])
    except OSError:
        return False


def title(path: Path) -> str:
    """The name of the video that a file is about which names none: its own, without endings."""
    return path.name.split(".")[0]


def annotation_file(folder: Path) -> Path | None:
    """The file in a folder that holds its annotation; None where there is none."""
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def parsed(path: Path, inside: Path, data: bytes, labels: str | None, size: Size | None) -> Mapping[str, Rows]:
    """What the bytes of a file say; `inside` is its name in an archive."""
    head = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    try:
        if head[:1] == b"<":
            return read_cvat(path, data)
        if head[:1] in (b"{", b"["):
            return read_json(path, data, size)
        text = data.decode("utf-8-sig", "replace")
        if inside.suffix.lower() == ".csv" or text.startswith(("# a tracking", "frame,")):
            return read_csv(path, text)
        if re.match(r"\s*\d+\s*[, ]\s*-?\d", text):
            beside = path.parent / "labels.txt"
            known = labels if labels is not None else read_bytes(beside).decode() if beside.is_file() else ""
            return read_mot(path, text, known.splitlines())
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError, csv.Error) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else printable(error)[:160]
        raise OSError(f"{path}: {reason}") from None
    raise OSError(f"{path}: not annotations of a known form, which are {FORMS}")


def read_json(path: Path, data: bytes, size: Size | None) -> Mapping[str, Rows]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OSError(f"{path}: not JSON ({printable(error)[:120]})") from None
    if isinstance(content, dict) and "detection_categories" in content and "images" in content:
        if size is None:
            raise ValueError(f"{path}: its boxes are shares of the frames, and the videos are not at hand")
        return read_megadetector(path, content, size)
    if isinstance(content, dict) and isinstance(content.get("images"), list) and "annotations" in content:
        return read_coco(path, content)
    raise OSError(f"{path}: JSON with neither COCO's images and annotations nor MegaDetector's detections")


def read_mot(path: Path, text: str, labels: list[str]) -> dict[str, Rows]:
    """MOTChallenge's lines: frame from 1, id, x, y, w, h, then what is a confidence in results and a flag in truth.

    In truth of nine columns the flag 0 leaves a line out, the class names the object by its line in labels.txt, and
    the share that is visible is its score. An id of -1 says that the lines are detections.
    """
    rows: dict[int, list[Row]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = [float(word) for word in re.split(r"[,\s]+", line.strip().rstrip(","))]
        except ValueError:
            values = []
        counts = np.array(values[:2])
        if len(values) < 6 or not np.isfinite(values).all() or values[0] < 1 or (counts != np.rint(counts)).any():
            raise OSError(f"{path}, line {number}: not frame, id, x, y, w, h, ...: {printable(line)[:60]!r}")
        truth = len(values) == 9
        if truth and values[6] == 0:
            continue
        kind = int(values[7]) if truth else 0
        name = labels[kind - 1].strip() if 0 < kind <= len(labels) else None
        score = confidence(values[8] if truth else values[6] if len(values) > 6 else None)
        box = (values[2], values[3], values[4], values[5])
        row = Row(None if values[1] == -1 else int(values[1]), name, box, score=score)
        rows.setdefault(int(values[0]) - 1, []).append(row)
    info = path.parent.parent / "seqinfo.ini"
    match = re.search(r"^name=(.+)$", read_bytes(info).decode("utf-8", "replace"), re.M) if info.is_file() else None
    plain = path.parent.parent.name if path.parent.name == "gt" else path.name.split(".")[0]
    name = relative(match[1].strip() if match else plain, path)
    return {name: Rows(rows, name)}


def read_csv(path: Path, text: str) -> dict[str, Rows]:
    """The table that `track` writes, or another with the columns frame, id, x, y, width, height."""
    comments = re.match(r"(#.*\n)*", text)
    head = "" if comments is None else comments[0]
    rows: dict[int, list[Row]] = {}
    for number, line in enumerate(csv.DictReader(io.StringIO(text[len(head) :])), 2 + head.count("\n")):
        try:
            sides = [line[key] for key in ("x", "y", "width", "height")]
            if None in sides:
                raise ValueError("it is cut off")
            box = tuple(map(float, sides)) if all(sides) else None
            if np.isinf(box or 0).any():
                raise ValueError(f"a box has four numbers, not {','.join(sides)}")
            box = None if np.isnan(box or 0).any() else box
            row = Row(int(line["id"]), line.get("name") or None, box, score=confidence(line.get("score") or None))
            rows.setdefault(int(line["frame"]), []).append(row)
        except (ValueError, TypeError) as error:
            raise OSError(f"{path}, line {number}: {printable(error)[:100]}") from None
    return {title(path): Rows(rows, title(path))}
