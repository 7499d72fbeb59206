"""What a task found, frame by frame, on disk and exactly as it was: memory holds an index and the scores."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dropmae.opening import ARRAY_BYTES
from dropmae.storage import Scratch
from dropmae.target import FIELDS, Target

TYPES = ("int64", "int32", "uint8", "bool", "float32", "float64")
"""Of the arrays of a Target."""
PLAIN = ("names", "classes")
"""Fields that are no arrays."""
HEAD = struct.Struct("<II")


class Kept(NamedTuple):
    """An answer without its picture."""

    target: Target
    given: bool
    missed: bool


class Place(NamedTuple):
    """Where an answer lies in the file, and what the timeline shows of it."""

    offset: int
    length: int
    scores: dict[int, float | None]
    key: str
    """Of what was said when it was found (`Pass.key`)."""


class Answers(Mapping[int, Kept]):
    """{frame: what was found there}; the last one that is put counts."""

    def __init__(self, folder: Path) -> None:
        self.file = Scratch(folder)
        self.places: dict[int, Place] = {}

    def put(self, frame: int, kept: Kept, key: str = "") -> None:
        data = packed(kept)
        self.places[frame] = Place(self.file.append(data), len(data), scores(kept.target), key)

    def __getitem__(self, frame: int) -> Kept:
        place = self.places[frame]
        return unpacked(self.file.read(place.offset, place.length))

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self.places))

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, frame: object) -> bool:
        return frame in self.places

    def drop(self, frames: list[int]) -> None:
        for frame in frames:
            self.places.pop(frame, None)

    def clear(self) -> None:
        self.places.clear()
        self.file.clear()

    def close(self) -> None:
        self.file.close()


def scores(target: Target) -> dict[int, float | None]:
    """{object: its score, None where the task gave none}"""
    values = [None] * len(target.ids) if target.scores is None else target.scores.tolist()
    known = [None if value is None or not math.isfinite(value) else round(value, 4) for value in values]
    points = () if target.owners is None else np.unique(target.owners).tolist()
    return {**dict.fromkeys((number for number in points if number), None), **dict(zip(target.ids.tolist(), known))}


def packed(kept: Kept) -> bytes:
    """An answer as bytes, without loss."""
    arrays: dict[str, Any] = {"ids": kept.target.ids}
    arrays |= {name: value for name in FIELDS if (value := getattr(kept.target, name)) is not None}
    plain = {name: arrays.pop(name) for name in PLAIN if name in arrays}
    parts = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    shapes = {name: [value.dtype.name, list(value.shape)] for name, value in parts.items()}
    head = json.dumps({"arrays": shapes, "plain": plain, "given": kept.given, "missed": kept.missed}).encode()
    body = zlib.compress(b"".join(value.tobytes() for value in parts.values()), 1)
    return HEAD.pack(len(head), len(body)) + head + body


def unpacked(data: bytes) -> Kept:
    """What `packed` made; ValueError where somebody else made it."""
    try:
        size, length = HEAD.unpack_from(data)
        head = json.loads(data[HEAD.size : HEAD.size + size])
        shapes = {name: (np.dtype(kind), tuple(map(int, shape))) for name, (kind, shape) in head["arrays"].items()}
        fits = all(kind.name in TYPES and min(shape, default=0) >= 0 for kind, shape in shapes.values())
        total = sum(kind.itemsize * math.prod(shape) for kind, shape in shapes.values())
        if not fits or total > ARRAY_BYTES or {*shapes, *head["plain"]} - {"ids", *FIELDS} or "ids" not in shapes:
            raise ValueError("its arrays are not those of an answer")
        body = zlib.decompressobj().decompress(data[HEAD.size + size : HEAD.size + size + length], total + 1)
        if len(body) != total:
            raise ValueError("its arrays are not as long as they should be")
        fields, place = dict[str, Any](head["plain"]), 0
        for name, (kind, shape) in shapes.items():
            count = math.prod(shape)
            fields[name] = np.frombuffer(body, kind, count, place).reshape(shape).copy()
            place += count * kind.itemsize
        return Kept(Target(**fields), bool(head["given"]), bool(head["missed"]))
    except (ValueError, TypeError, KeyError, AttributeError, struct.error, zlib.error) as error:
        raise ValueError(f"not a saved answer ({str(error)[:120]})") from None
