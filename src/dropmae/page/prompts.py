"""What people say about frames: checked when it comes in, kept as the lines of a targets.jsonl, undone and redone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dropmae.storage import write_text
from dropmae.target import Target, decode_mask, misplaced, read_targets

KINDS = ("boxes", "mask", "points")
KEYS = {"box": "boxes", "mask": "mask", "points": "points"}
"""Key of a line -> the field of Target that it tells."""
MOST = 64
"""Steps that can be undone."""
IDS, POINTS, LETTERS = 1 << 31, 10_000, 200
"""Largest id, most points of an object, longest name."""

Lines = tuple[dict[str, Any], ...]


class Said(NamedTuple):
    """All that was said at one time; never changed."""

    frames: Mapping[int, Lines]
    """{frame: its lines, each about an object}"""
    names: Mapping[int, str]
    """{object: what it is called}; every object there is has one."""


class Prompts:
    """What was said about a video of some size, with what was said before."""

    def __init__(self, name: str, frames: int, size: tuple[int, int], file: Path) -> None:
        """`file` is where the lines are written, `size` the height and width of the frames.

        `frames` is how many there are; of a video that is being recorded `count` grows.
        """
        self.name, self.count, self.size, self.file = name, frames, size, file
        self.said, self.version = Said({}, {}), 0
        self.targets: dict[int, Target] = {}
        self.past: list[Said] = []
        self.future: list[Said] = []

    def set(self, frame: Any, lines: Any, names: Any = None) -> None:
        """Says `lines` about a frame in place of what was said; ValueError, with nothing changed, for wrong ones."""
        if not whole(frame, 0, self.count - 1):
            raise ValueError(f"frame {short(frame)} is none of the {self.count} frames")
        told = [*self.said.frames.items()]
        told = {number: known for number, known in told if number != frame}
        if checked := self.checked(lines):
            told[frame] = checked
        self.change(Said(dict(sorted(told.items())), self.said.names if names is None else checked_names(names)))

    def call(self, names: Any) -> None:
        """What objects are called; those that are left out go, with all that was said about them."""
        called = checked_names(names)
        kept = {n: tuple(line for line in lines if line["id"] in called) for n, lines in self.said.frames.items()}
        self.change(Said({number: lines for number, lines in kept.items() if lines}, called))

    def change(self, said: Said) -> None:
        before = self.said
        self.use(said)
        self.past, self.future = [*self.past, before][-MOST:], []

    def undo(self) -> None:
        if self.past:
            before = self.said
            self.use(self.past.pop())
            self.future.append(before)

    def redo(self) -> None:
        if self.future:
            before = self.said
            self.use(self.future.pop())
            self.past.append(before)

    def use(self, said: Said) -> None:
        """Makes Targets of what is said exactly as `track --prompts` would, by way of the file."""
        write_text(self.file, "".join(f"{line}\n" for line in self.lines(said)))
        targets = dict(next(iter(read_targets(self.file).values()), {}).items())
        for frame, target in targets.items():
            if fault := misplaced(target, *self.size):
                write_text(self.file, "".join(f"{line}\n" for line in self.lines(self.said)))
                raise ValueError(f"frame {frame}: {fault}")
        ids = {line["id"] for lines in said.frames.values() for line in lines}
        names = {number: said.names.get(number, plain_name(number)) for number in sorted({*ids, *said.names})}
        self.said, self.targets, self.version = Said(said.frames, names), targets, self.version + 1

    def lines(self, said: Said | None = None) -> list[str]:
        """The lines of a targets.jsonl."""
        said = self.said if said is None else said
        return [
            json.dumps({"video": self.name, "frame": frame, **line, **named(said.names.get(line["id"]), line["id"])})
            for frame, lines in said.frames.items()
            for line in lines
        ]

    def checked(self, lines: Any) -> Lines:
        """The lines about one frame, if they can be believed; ValueError that names what is wrong."""
        if not isinstance(lines, list) or len(lines) > 1000:
            raise ValueError("lines must be a list of at most 1000")
        made = dict[int, dict[str, Any]]()
        for line in lines:
            if not isinstance(line, dict) or set(line) - {"id", "visible", *KEYS}:
                raise ValueError(f"a line has an id and any of {', '.join(KEYS)}")
            number: Any = line.get("id")
            if not whole(number, 1, IDS):
                raise ValueError(f"id must be a number from 1 on, not {short(number)}")
            if number in made:
                raise ValueError(f"id {number} has two lines")
            own = {"id": number}
            if line.get("box") is not None:
                own["box"] = numbers(line["box"], 4, "box", 1e6)
                if not (own["box"][2] > 0 and own["box"][3] > 0):
                    raise ValueError("box must have a positive width and height")
            if line.get("mask") is not None:
                own["mask"] = self.checked_mask(line["mask"])
            if line.get("points") is not None:
                points, seen = line["points"], line.get("visible")
                if not isinstance(points, list) or not 0 < len(points) <= POINTS:
                    raise ValueError(f"points must be a list of at most {POINTS:,}")
                limit = 4.0 * max(self.size)
                own["points"] = [None if point is None else numbers(point, 2, "points", limit) for point in points]
                if seen is not None:
                    if not isinstance(seen, list) or len(seen) != len(points):
                        raise ValueError("visible must have a value for each point")
                    own["visible"] = [int(bool(value)) for value in seen]
            if len(own) > 1:
                made[number] = own
        return tuple(made[number] for number in sorted(made))

    def checked_mask(self, code: Any) -> dict[str, Any]:
        height, width = self.size
        if not isinstance(code, dict) or code.get("size") != [height, width]:
            raise ValueError(f"mask must have the video's size, {height} x {width}")
        if not isinstance(code.get("counts"), list) or len(code["counts"]) > 2 * height * width:
            raise ValueError("mask must have a list of counts")
        try:
            if not decode_mask(code).any():
                raise ValueError("mask shows nothing")
        except ValueError as error:
            raise ValueError(f"mask: {error}") from None
        return {"size": [height, width], "counts": code["counts"]}


def named(name: str | None, number: int) -> dict[str, str]:
    """The key of a line for a name that somebody gave."""
    return {} if name is None or name == plain_name(number) else {"name": name}


def plain_name(number: int) -> str:
    """What an object is called that nobody gave a name."""
    return f"object {number}"


def checked_names(names: Any) -> dict[int, str]:
    """{object: name} from JSON, whose keys are texts."""
    if not isinstance(names, dict) or len(names) > 1000:
        raise ValueError("names must be an object of at most 1000 names")
    found = {}
    for key, name in names.items():
        if not key.isdecimal() or not whole(int(key[:12]), 1, IDS):
            raise ValueError(f"names: {short(key)} is no id")
        if not isinstance(name, str) or not 0 < len(name) <= LETTERS:
            raise ValueError(f"names: a name has 1 to {LETTERS} letters")
        found[int(key)] = name
    return found


def whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def numbers(values: Any, count: int, key: str, limit: float) -> list[float]:
    """Finite numbers of bounded size, rounded as lines have them."""
    fits = isinstance(values, list) and len(values) == count
    fits = fits and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if not fits or not all(-limit <= value <= limit for value in values):
        raise ValueError(f"{key} must be {count} finite numbers within {limit:g}, not {short(values)}")
    return [round(float(value), 3) for value in values]


def short(value: Any) -> str:
    return repr(value)[:40]


def kinds_of(targets: Mapping[int, Target]) -> list[str]:
    """What is told by boxes, masks or points."""
    return [kind for kind in KINDS if any(getattr(target, kind) is not None for target in targets.values())]
