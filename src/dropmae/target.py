"""Target: everything known about one frame. A prompt, a prediction and a ground-truth label are all Targets.

On disk Targets are the lines of a `targets.jsonl`: one per video, frame and object, with any subset of the keys
video, frame, time, id, box, mask, points, visible, uncertainty, score, box3d, click, name, classes, flow. A line
without an id holds what belongs to no object. `FIELDS` is the table that writing, reading, telling and drawing go by.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from dropmae.names import relative
from dropmae.opening import STILL_PIXELS, Archive, check_pixels, open_file
from dropmae.storage import below, mark, replacing


@dataclass(kw_only=True, eq=False)
class Target:
    """What is known about one frame; every field but `ids` may be absent (None).

    Coordinates are (x, y) in pixels with pixel centres at +0.5; boxes are x y w h of the top-left corner; angles are
    in radians. Rows of `ids`, `boxes`, `boxes3d`, `clicks` and `scores` belong together; a row of NaN says that the
    object is not there.
    """

    ids: np.ndarray
    """int64 [N]: object ids, positive, unique within a video."""
    boxes: np.ndarray | None = None
    """float64 [N, 4]: x, y, w, h in pixels; NaN where the object is absent."""
    mask: np.ndarray | None = None
    """uint8 or int32 [H, W]: one label map; 0 is background, other values are object ids (255 may be void)."""
    points: np.ndarray | None = None
    """float64 [M, 2]: x, y in pixels; row m is the same physical point in every frame of a video."""
    visible: np.ndarray | None = None
    """bool [M]: whether the point can be seen in this frame."""
    owners: np.ndarray | None = None
    """int64 [M]: the object id that each point belongs to; None where points belong to no object."""
    flow: np.ndarray | None = None
    """float32 [H, W, 2]: displacement in pixels from this frame to the next; NaN where it is not valid."""
    boxes3d: np.ndarray | None = None
    """float64 [N, 7]: centre x, y, z, then w, l, h in metres, and yaw in radians."""
    clicks: np.ndarray | None = None
    """float64 [N, 2]: x, y in pixels of a place on each object; NaN where none is known."""
    scores: np.ndarray | None = None
    """float64 [N]: confidence of each object in [0, 1]; for ground truth, the visible share where it is known."""
    uncertainty: np.ndarray | None = None
    """float64 [M]: how far, in pixels, each point is expected to lie from its true place."""
    names: Sequence[str | None] | None = None
    """[N]: what each object is called, its class for one; None where that is not known."""
    classes: Mapping[str, float] | None = None
    """What the frame as a whole shows: {class: probability}."""
    occluded: np.ndarray | None = None
    """bool [H, W]: pixels that cannot be seen in the next frame."""
    flow_confidence: np.ndarray | None = None
    """float32 [H, W]: confidence of the flow in [0, 1]."""

    def box(self, object_id: int | None = None) -> np.ndarray:
        """float64 [4]: the box of one object (the first one where no id is given); NaN where there is none."""
        missing = np.full(4, np.nan)
        if self.boxes is None or not len(self.boxes):
            return missing
        if object_id is None:
            return self.boxes[0]
        rows = np.flatnonzero(self.ids == object_id)
        return self.boxes[rows[0]] if len(rows) else missing


class Field(NamedTuple):
    """A row of the table of Target's fields."""

    of: Literal["object", "point", "pixel", "frame"]
    """What its rows, or the field as a whole, belong to."""
    key: str
    """What it is called in a line of `targets.jsonl`; empty where it has no key of its own."""
    width: int = 0
    """Numbers in each of its rows; 0 for one value."""
    told_with: str = ""
    """The field with which a task is told it, or from which it is withheld; empty: by itself."""


FIELDS: dict[str, Field] = {
    "boxes": Field("object", "box", 4),
    "mask": Field("pixel", "mask"),
    "points": Field("point", "points", 2),
    "visible": Field("point", "visible", told_with="points"),
    "uncertainty": Field("point", "uncertainty"),
    "owners": Field("point", "", told_with="points"),
    "scores": Field("object", "score"),
    "boxes3d": Field("object", "box3d", 7),
    "clicks": Field("object", "click", 2),
    "names": Field("object", "name"),
    "flow": Field("pixel", "flow", 2),
    "occluded": Field("pixel", "flow"),
    "flow_confidence": Field("pixel", "flow"),
    "classes": Field("frame", "classes"),
}
"""Every field of Target but `ids`, in the order of a line's keys."""
DENSE = tuple(name for name, row in FIELDS.items() if row.key == "flow")
"""Fields that lie in a file of their own."""


def empty() -> Target:
    """A Target of which nothing is known."""
    return Target(ids=np.zeros(0, np.int64))


def redacted(target: Target, takes: Iterable[str]) -> Target:
    """What a target says in the fields `takes` and in those that are told with them; of nothing else."""
    takes = set(takes)
    told = {n: getattr(target, n) for n, row in FIELDS.items() if n in takes or row.told_with in takes}
    objects = any(told.get(name) is not None for name, row in FIELDS.items() if row.of == "object" or name == "mask")
    return Target(ids=target.ids if objects else np.zeros(0, np.int64), **told)


def says_something(target: Target) -> bool:
    """Whether any field holds anything that is known: a finite box or point, an object in the mask, a class."""
    for name, row in FIELDS.items():
        value = getattr(target, name)
        if value is None or row.told_with:
            continue
        if row.of in ("frame",) or name == "names":
            known = bool(value)
        elif name == "mask":
            known = bool((value > 0).any())
        else:
            known = bool(np.size(value)) and bool(np.isfinite(np.asarray(value, np.float64)).any())
        if known:
            return True
    return False


def malformed(target: Any) -> str | None:
    """What is wrong with the form of a Target, as a task of somebody's own may make it; None where nothing is."""
    if not isinstance(target, Target):
        return f"an answer is a Target, not {type(target).__name__}"
    if not isinstance(target.ids, np.ndarray) or target.ids.ndim != 1 or target.ids.dtype.kind not in "iu":
        return "ids are whole numbers in an array [N]"
    counts = {"object": len(target.ids), "point": int(np.size(target.points) / 2) if target.points is not None else 0}
    for name, kind in FIELDS.items():
        value = getattr(target, name)
        if value is None or kind.of not in counts:
            continue
        wanted = (counts[kind.of], kind.width) if kind.width else (counts[kind.of],)
        numbers = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
        if np.shape(value) != wanted or not (numbers or name == "names"):
            return f"{name} are numbers in an array {[*wanted]}, not {type(value).__name__} {[*np.shape(value)]}"
    return None


def misplaced(target: Target, height: int, width: int) -> str | None:
    """What is wrong with where boxes, points and mask are in a frame of this size; None where nothing is.

    A box needs a size and some of it in the frame; a point that can be seen lies in it; a mask has its size.
    """
    if target.mask is not None and target.mask.shape != (height, width):
        shape = "x".join(str(side) for side in target.mask.shape[::-1])
        return f"the mask has {shape} pixels, but the frame has {width}x{height}"
    frame = f"the {width}x{height} frame"
    for number, box in zip(target.ids.tolist(), () if target.boxes is None else target.boxes):
        x, y, w, h = (float(value) for value in box)
        if np.isfinite(box).all() and not (w > 0 and h > 0):
            return f"the box of object {number} ({x:g} {y:g} {w:g} {h:g}) needs a positive width and height"
        if np.isfinite(box).all() and (x >= width or y >= height or x + w <= 0 or y + h <= 0):
            return f"the box of object {number} ({x:g} {y:g} {w:g} {h:g}) lies outside {frame}"
    for number, (x, y) in zip(target.ids.tolist(), () if target.clicks is None else target.clicks.tolist()):
        if np.isfinite(x + y) and not (0 <= x < width and 0 <= y < height):
            return f"the click on object {number} at {x:g},{y:g} lies outside {frame}"
    for number, (x, y) in enumerate(() if target.points is None else target.points.tolist()):
        seen = target.visible is None or bool(target.visible[number])
        if seen and np.isfinite(x + y) and not (0 <= x <= width and 0 <= y <= height):
            return f"point {number + 1} at {x:g},{y:g} lies outside {frame}"
    return None


def mask_boxes(mask: np.ndarray, ids: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """ids [N] and tight boxes [N, 4] of the objects in a label map [H, W]; void (255 in uint8) is left out.

    A pixel (row, col) covers [col, col + 1) x [row, row + 1). Ids given but not in the mask get a row of NaN.
    """
    if ids is None:
        small = mask.dtype == np.uint8
        ids = np.flatnonzero(np.bincount(mask.ravel())) if small else np.unique(mask).astype(np.int64)
        ids = ids[(ids != 0) & ~(small & (ids == 255))]
    boxes = np.full((len(ids), 4), np.nan)
    for row, object_id in enumerate(ids):
        inside = mask == object_id
        ys, xs = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        if len(xs):
            boxes[row] = xs[0], ys[0], xs[-1] + 1 - xs[0], ys[-1] + 1 - ys[0]
    return ids, boxes


def encode_mask(mask: np.ndarray) -> dict:
    """Run-length code of a binary mask [H, W], as COCO's uncompressed RLE: column-major counts, zeros first."""
    flat = np.asarray(mask, bool).ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0], edges, [flat.size]])
    counts = np.diff(bounds).tolist()
    if flat.size and flat[0]:
        counts.insert(0, 0)
    return {"size": list(mask.shape), "counts": counts}


def decode_mask(code: dict) -> np.ndarray:
    """bool [H, W] from `encode_mask`'s run-length code; ValueError where the counts do not fill the size.

    Both are added up in whole numbers of any length: 64 bits could be made to agree by going round.
    """
    size, counts = (code.get("size"), code.get("counts")) if isinstance(code, dict) else (None, None)
    if not isinstance(size, list) or not isinstance(counts, list) or len(size) != 2:
        raise ValueError('a mask is {"size": [rows, columns], "counts": [run lengths]}, not ' + repr(code)[:60])
    height, width = (_count(side) for side in size)
    check_pixels("the mask", width, height, STILL_PIXELS)
    runs = [_count(run) for run in counts]
    if sum(runs) != height * width:
        raise ValueError(f"run lengths add up to {sum(runs)}, not to the mask's {height}x{width} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, np.array(runs, np.int64)).reshape((height, width), order="F")


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"a mask's size and run lengths are numbers from 0, not {str(value)[:40]!r}")
    return value


FLOW_STEP = 1 / 64
"""Resolution in pixels of flow on disk."""
FLOW_INVALID = -32768

LARGEST = 2**31 - 1
"""The largest id of an object, which label maps can hold."""
LINE_BYTES = 1 << 26
"""The longest line that is read."""

_START = re.compile(rb'\{"video": ("(?:[^"\\]|\\.)*"), "frame": (\d{1,18})[,}]')


def target_lines(
    video: str, frame: int, target: Target, dense: str | None = None, time: float | None = None
) -> list[str]:
    """The lines of `targets.jsonl` for one frame of `video` (its path relative to that file), without line ends.

    The line without an id comes first: background points, classes, and the name of the file that holds the `dense`
    fields. `time` is that of the frame, in seconds from the first one. An object that is known to be absent has `"box":
    null`. Coordinates are rounded to a thousandth of a pixel. Void is not kept.
    """
    start: dict[str, Any] = {"video": video, "frame": int(frame)}
    if time is not None:
        start["time"] = round(time, 6)
    rows: dict[int, dict[str, Any]] = {0: {}}
    ids, row_of = target.ids.tolist(), {}
    for row, object_id in enumerate(ids):
        rows[object_id], row_of[object_id] = {"id": object_id}, row
    if target.mask is not None:
        for object_id in mask_boxes(target.mask)[0].tolist():
            rows.setdefault(object_id, {"id": object_id})
    for object_id in () if target.owners is None else np.unique(target.owners).tolist():
        if object_id:  # points may be all that is known of an object
            rows.setdefault(object_id, {"id": object_id})
    for object_id, line in rows.items():
        row, mine = row_of.get(object_id), _points_of(target, object_id)
        for name, kind in FIELDS.items():
            value = getattr(target, name)
            if value is None or not kind.key or name in DENSE:
                continue
            if name == "mask":
                if object_id or len(rows) == 1:
                    line["mask"] = encode_mask(value == object_id if object_id else np.zeros_like(value, bool))
            elif kind.of == "object" and row is not None:
                written = _written(value[row], kind)
                if written is not None or kind.width:
                    line[kind.key] = written
            elif kind.of == "point" and len(mine):
                line[kind.key] = [_written(value[point], kind) for point in mine]
            elif kind.of == "frame" and not object_id and value:
                line[kind.key] = {str(label): round(float(share), 6) for label, share in value.items()}
    if dense is not None and any(getattr(target, name) is not None for name in DENSE):
        rows[0]["flow"] = dense
    if len(rows) > 1 and not rows[0]:
        del rows[0]
    return [json.dumps({**start, **line}) for line in rows.values()]


def _points_of(target: Target, object_id: int) -> np.ndarray:
    """The rows of the points that belong to an object; 0 is what belongs to none."""
    if target.points is None or (target.owners is None and object_id):
        return np.zeros(0, np.int64)
    return np.arange(len(target.points)) if target.owners is None else np.flatnonzero(target.owners == object_id)


def _written(value: Any, kind: Field) -> Any:
    """A row of a field for JSON; None where it is not known."""
    if kind.width:
        return _numbers(value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    return round(float(value), 6) if np.isfinite(value) else None


def _numbers(values: np.ndarray) -> list[float] | None:
    """A row for JSON; None where it is not finite."""
    return [round(v, 3) for v in values.tolist()] if np.isfinite(values).all() else None


def write_targets(path: str | Path, videos: Mapping[str, Mapping[int, Target]]) -> None:
    """Writes a whole `targets.jsonl`, or leaves what was there; dense fields go to `flow/` beside it."""
    path = Path(path)
    with replacing(path) as partial, open(partial, "w") as stream:
        for video, targets in videos.items():
            name = f"flow/{video}.npz"
            for frame in sorted(targets):
                stream.writelines(f"{line}\n" for line in target_lines(video, frame, targets[frame], name))
            full = {frame: targets[frame] for frame in sorted(targets) if _dense(targets[frame])}
            if full:
                with dense_file(below(path.parent, name)) as add:
                    for frame, target in full.items():
                        add(frame, target)


def read_targets(path: str | Path) -> dict[str, Mapping[int, Target]]:
    """Targets by video and frame from a `targets.jsonl`; only an index is kept, lines are read when asked for.

    FileNotFoundError and OSError name the file, and the line that cannot be read.
    """
    path = Path(path)
    index: dict[str, dict[int, list[tuple[int, int, int]]]] = {}
    names: dict[bytes, str] = {}
    try:
        with open_file(path) as stream:
            offset = 0
            for number, line in enumerate(iter(lambda: stream.readline(LINE_BYTES), b""), 1):
                if len(line) == LINE_BYTES:
                    raise OSError(f"{path}, line {number}: longer than {LINE_BYTES:,} bytes")
                match = _START.match(line)
                if match:
                    video, frame = names.get(match[1]), int(match[2])
                    if video is None:
                        video = names[match[1]] = relative(_parse(path, number, line)["video"], path)
                elif line.strip():
                    fields = _parse(path, number, line)
                    video, frame = relative(fields["video"], path), fields["frame"]
                else:
                    video, frame = None, 0
                if video is not None:
                    index.setdefault(video, {}).setdefault(frame, []).append((number, offset, len(line)))
                offset += len(line)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; a folder of annotated videos holds a targets.jsonl") from None
    return {video: VideoTargets(path, frames) for video, frames in index.items()}


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise OSError(f"{path}, line {number}: not JSON ({error})") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("video"), str):
        raise OSError(f'{path}, line {number}: not an object with a "video"')
    frame = fields.get("frame")
    if isinstance(frame, bool) or not isinstance(frame, int) or frame < 0:
        raise OSError(f'{path}, line {number}: "frame" must be a number from 0')
    owner = fields.get("id")
    if owner is not None and (isinstance(owner, bool) or not isinstance(owner, int) or not 1 <= owner <= LARGEST):
        large = type(owner) is int and owner > LARGEST
        bounds = f"at most {LARGEST}" if large else "1 or more"
        told = repr(owner)[:60]
        raise OSError(f'{path}, line {number}: "id" must be {bounds}, not {told}; 0 is the background of masks')
    owned = [row.key for row in FIELDS.values() if row.of == "object" and row.key in fields]
    if owner is None and owned:
        raise OSError(f'{path}, line {number}: "{owned[0]}" is of an object and needs its "id", 1 or more')
    return fields


@dataclass(eq=False)
class VideoTargets(Mapping[int, Target]):
    """The Targets of one video in a `targets.jsonl`, read frame by frame when asked for."""

    path: Path
    lines: dict[int, list[tuple[int, int, int]]]
    """Frame -> number, offset and length of its lines."""
    _counts: dict[int, int] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self.lines))

    def __contains__(self, frame: object) -> bool:
        return frame in self.lines

    def fields(self, frame: int) -> list[dict[str, Any]]:
        """The lines of one frame as dictionaries."""
        found = []
        with open_file(self.path) as stream:
            for number, offset, length in self.lines[frame]:
                stream.seek(offset)
                found.append(_parse(self.path, number, stream.read(length)))
        return found

    def counts(self) -> dict[int, int]:
        """How many points each object has (0: no object) in this video, so that rows of all frames agree."""
        if self._counts is None:
            self._counts = {}
            for frame in self.lines:
                for line in self.fields(frame):
                    owner, size = line.get("id") or 0, len(line.get("points") or [])
                    self._counts[owner] = max(size, self._counts.get(owner, 0))
        return self._counts

    def __getitem__(self, frame: int) -> Target:
        lines = self.fields(frame)
        try:
            return self._target(frame, lines)
        except Exception as error:
            # What a line may hold is anybody's to write; whatever is wrong with it, the user needs to know where.
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise OSError(f"{self.path}: {lines[0]['video']}, frame {frame}: {reason[:200]}") from None

    def _target(self, frame: int, lines: list[dict[str, Any]]) -> Target:
        objects: dict[int, dict[str, Any]] = {}
        for line in lines:
            if "id" in line and line["id"] is not None:
                own = objects.setdefault(line["id"], {})
                if twice := [key for key in line if key in own and key not in ("video", "frame", "id")]:
                    raise ValueError(f"object {line['id']} has two lines with {twice[0]}")
                own |= line
            elif "mask" in line and decode_mask(line["mask"]).any():
                raise ValueError('a mask that is not empty is of an object and needs its "id"')
        rows = list(objects.values())
        target = Target(ids=np.array(list(objects), np.int64))
        for name, kind in FIELDS.items():
            if kind.of == "object" and any(kind.key in line for line in rows):
                setattr(target, name, _column(rows, name, kind))
        masks = [(line.get("id") or 0, decode_mask(line["mask"])) for line in lines if "mask" in line]
        if masks:
            large = max(object_id for object_id, _ in masks) > 254
            target.mask = np.zeros(masks[0][1].shape, np.int32 if large else np.uint8)
            for object_id, mask in masks:
                target.mask[mask] = object_id
        if any("points" in line for line in lines):
            counts = self.counts()
            places = {owner: np.full((count, 2), np.nan) for owner, count in sorted(counts.items()) if count}
            seen = {owner: np.zeros(len(rows), bool) for owner, rows in places.items()}
            doubt = {owner: np.full(len(rows), np.nan) for owner, rows in places.items()}
            for line in lines:
                owner, listed = line.get("id") or 0, line.get("points") or []
                shown = _beside(line, "visible", len(listed), 1)
                errors = _beside(line, "uncertainty", len(listed), None)
                for row, point in enumerate(listed):
                    if point is not None:
                        places[owner][row] = _row(point, "points", 2)
                        seen[owner][row] = bool(shown[row])
                    if errors[row] is not None:
                        doubt[owner][row] = errors[row]
            target.points, target.visible = np.concatenate(list(places.values())), np.concatenate(list(seen.values()))
            if any("uncertainty" in line for line in lines):
                target.uncertainty = np.concatenate(list(doubt.values()))
            if any(places):
                target.owners = np.repeat(list(places), [len(rows) for rows in places.values()]).astype(np.int64)
        for line in lines:
            if "classes" in line:
                shares = line["classes"]
                if not isinstance(shares, dict) or not all(map(_is_number, shares.values())):
                    raise ValueError(f"classes are {{name: share}}, not {repr(shares)[:60]}")
                target.classes = {str(label): float(share) for label, share in shares.items()}
            if "flow" in line:
                for name, value in read_dense(self.path.parent / relative(line["flow"], self.path), frame).items():
                    setattr(target, name, value)
        return target


def _column(rows: list[dict[str, Any]], name: str, kind: Field) -> Any:
    """A field of all objects from their lines; NaN, or None for names, where a line does not tell."""
    values = [line.get(kind.key) for line in rows]
    if name == "names":
        if odd := [value for value in values if not isinstance(value, (str, int, type(None)))]:
            raise ValueError(f"{kind.key} is a text, not {repr(odd[0])[:60]}")
        return [None if value is None else str(value) for value in values]
    if not kind.width:
        if odd := [value for value in values if value is not None and not _is_number(value)]:
            raise ValueError(f"{kind.key} is a number, not {repr(odd[0])[:60]}")
        return np.array([np.nan if value is None else value for value in values], np.float64)
    table = np.full((len(rows), kind.width), np.nan)
    for index, value in enumerate(values):
        if value is not None:
            table[index] = _row(value, kind.key, kind.width)
    return table


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _beside(line: dict[str, Any], key: str, count: int, missing: Any) -> list[Any]:
    """What a line says of each of its points, numbers or null; `missing` where it does not say."""
    values = line.get(key)
    if values is None:
        return [missing] * count
    if not isinstance(values, list) or len(values) != count or not all(v is None or _is_number(v) for v in values):
        raise ValueError(f"{key} takes a number for each of {count} points, not {repr(values)[:60]}")
    return values


def _row(values: Any, key: str, width: int) -> list[float]:
    known = isinstance(values, list) and len(values) == width and {*map(type, values)} <= {int, float}
    if not known or any(map(math.isinf, values)) or (key == "box" and min(values[2:]) < 0):
        raise ValueError(f"{key} takes {width} numbers, not {values}")
    return values


def write_flow(path: str | Path, flows: Mapping[int, np.ndarray] | Iterable[tuple[int, np.ndarray]]) -> None:
    """Writes the flow [H, W, 2] of some frames as a `dense_file`."""
    with dense_file(path) as add:
        for frame, flow in flows.items() if isinstance(flows, Mapping) else flows:
            add(frame, Target(ids=np.zeros(0, np.int64), flow=flow))


@contextmanager
def dense_file(path: str | Path, kind: str = "") -> Iterator[Any]:
    """A function `add(frame, target)` that writes the dense fields of a frame to one npz, whole or not at all.

    It carries the mark of a `kind` of output, where one is named.

    Flow is an int16 array named by the frame's index, in steps of 1/64 pixel, where -32768 stands for NaN and for
    displacements of 512 pixels and more; `occluded` (0 or 1) and `flow_confidence` (in steps of 1/255) are uint8,
    named FRAME.occluded and FRAME.flow_confidence.
    """
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.comment = mark(kind).encode() if kind else b""

        def add(frame: int, target: Target) -> None:
            for name, value in _dense(target).items():
                if name == "flow":
                    steps = np.rint(value * (1 / FLOW_STEP))
                    largest = np.maximum(np.abs(steps[..., 0]), np.abs(steps[..., 1]))
                    steps[~(largest < -FLOW_INVALID)] = FLOW_INVALID
                    stored, member = steps.astype(np.int16), f"{frame}.npy"
                else:
                    levels = value if value.dtype == bool else np.rint(np.clip(value, 0, 1) * 255)
                    stored, member = levels.astype(np.uint8), f"{frame}.{name}.npy"
                buffer = io.BytesIO()
                np.save(buffer, stored, allow_pickle=False)
                # A fixed date, so that the same flow gives the same file.
                archive.writestr(zipfile.ZipInfo(member), buffer.getvalue(), zipfile.ZIP_DEFLATED, 1)

        yield add


def _dense(target: Target) -> dict[str, np.ndarray]:
    """The dense fields that a target has."""
    return {name: getattr(target, name) for name in DENSE if getattr(target, name) is not None}


def read_flow(path: str | Path, frame: int) -> np.ndarray:
    """float32 [H, W, 2]: the flow of one frame from a `dense_file`; OSError where it is not there."""
    return read_dense(path, frame)["flow"]


def read_dense(path: str | Path, frame: int) -> dict[str, np.ndarray]:
    """The dense fields of one frame from a `dense_file`; OSError where it holds no flow of that frame."""
    found: dict[str, np.ndarray] = {}
    with Archive(path) as archive:
        there = set(archive.names())
        if f"{frame}.npy" not in there:
            raise OSError(f"{path}: holds no flow for frame {frame}")
        steps = archive.array(f"{frame}.npy")
        if steps.ndim != 3 or steps.shape[2] != 2 or steps.dtype != np.int16:
            raise OSError(f"{path}: the flow of frame {frame} is {steps.dtype} {list(steps.shape)}")
        if f"{frame}.occluded.npy" in there:
            found["occluded"] = archive.array(f"{frame}.occluded.npy").astype(bool)
        if f"{frame}.flow_confidence.npy" in there:
            found["flow_confidence"] = archive.array(f"{frame}.flow_confidence.npy").astype(np.float32) / 255
    found["flow"] = steps.astype(np.float32) * FLOW_STEP
    found["flow"][steps[..., 0] == FLOW_INVALID] = np.nan
    return found
