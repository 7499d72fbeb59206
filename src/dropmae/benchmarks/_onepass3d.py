"""What the benchmarks of tracking in point clouds share: tracklets, files of results, and the scoring.

One object is followed at a time. Its first box is given and counts; success and precision are taken over all frames of
all tracklets of a class, and of these the mean weighs classes by their frames (P2B, M2-Track).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from dropmae.contracts import Benchmark
from dropmae.metrics.boxes3d import are_boxes, distances, iou, moved, offset, precision, success
from dropmae.opening import open_file
from dropmae.sequence import Sequence
from dropmae.storage import below, write_text
from dropmae.target import Target


class Boxes(Mapping[int, Target]):
    """The boxes of one object, float64 [T, 7], as Targets."""

    def __init__(self, boxes: np.ndarray, category: str) -> None:
        self.boxes, self.category = boxes, category

    def __getitem__(self, frame: int) -> Target:
        if not 0 <= frame < len(self.boxes):
            raise KeyError(frame)
        return Target(ids=np.ones(1, np.int64), boxes3d=self.boxes[frame : frame + 1], names=[self.category])

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.boxes)))

    def __len__(self) -> int:
        return len(self.boxes)


class Tracklet(NamedTuple):
    """One object before anything of its scans is opened."""

    name: str
    source: Any
    """What `Video` takes."""
    truth: Boxes


@dataclass(kw_only=True)
class OnePass3D(Benchmark):
    """One-pass evaluation in point clouds."""

    TITLE: ClassVar[str] = ""

    def tracklets(self, root: Path, split: str | None = None) -> list[Tracklet]:
        """The objects of a split; FileNotFoundError where there are none."""
        raise NotImplementedError

    def sequences(self, root: Path, split: str | None = None) -> list[Sequence]:
        """The objects of a split, each with the scans in which it is annotated."""
        return [Sequence(*one) for one in self.checked(Path(root), split)]

    def annotations(self, root: Path, split: str | None = None) -> dict[str, Boxes]:
        return {one.name: one.truth for one in self.checked(Path(root), split)}

    def checked(self, root: Path, split: str | None) -> list[Tracklet]:
        """The tracklets; OSError where a box of the truth is none."""
        found = self.tracklets(root, split)
        for one in found:
            if len(wrong := np.flatnonzero(~are_boxes(one.truth.boxes))):
                box = " ".join(f"{value:g}" for value in one.truth.boxes[wrong[0]])
                raise OSError(f"{root}: {one.name}: box {wrong[0]} is none: x y z w l h yaw are {box}")
        return found

    def write(
        self, name: str, targets: Mapping[int, Target], out: Path, seconds: Iterable[float] | None = None
    ) -> None:
        """<out>/<name>.txt: x y z w l h yaw of each frame in scan coordinates, nan where there is no box."""
        rows = np.full((max(targets, default=-1) + 1, 7), np.nan)
        for frame, target in targets.items():
            if target.boxes3d is not None and len(target.boxes3d):
                rows[frame] = target.boxes3d[0]
        write_text(below(out, f"{name}.txt"), "".join(" ".join(map(repr, row)) + "\n" for row in rows.tolist()))

    def read(self, results: Path, annotations: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """{tracklet: float64 [T, 7]}; FileNotFoundError where there are none, OSError for a file of something else."""
        found = {}
        for name in annotations:
            path = below(results, f"{name}.txt")
            if path.is_file():
                found[name] = read_rows(path)
        if not found:
            raise FileNotFoundError(
                f"{results}: no results; expected <tracklet>.txt, {next(iter(annotations))}.txt say"
            )
        return found

    def score(
        self, results: Mapping[str, np.ndarray], annotations: Mapping[str, Boxes], *, map: Callable = map
    ) -> dict[str, Any]:
        """`success` and `precision` as shares, by class under "categories" and by tracklet under "sequences".

        "baselines" has them of `keep`, the given box in every frame, and of `velocity`, which is also told the second
        box and goes on as from the first to the second. OSError where numbers of frames differ.
        """
        names = [name for name in annotations if name in results]
        if not names:
            raise OSError("nothing to score: the results hold none of the tracklets")
        kinds = {"": {name: results[name] for name in names}}
        kinds |= {kind: {name: make(annotations[name].boxes) for name in names} for kind, make in BASELINES.items()}
        for name in names:
            if len(results[name]) != len(annotations[name]):
                raise OSError(f"{name}: {len(results[name])} boxes for {len(annotations[name])} frames")
        jobs = [(found[name], annotations[name].boxes) for found in kinds.values() for name in names]
        rows = list(map(errors, *zip(*jobs)))
        scored = {}
        for number, kind in enumerate(kinds):
            scored[kind] = dict(zip(names, rows[number * len(names) :]))
        categories = list(dict.fromkeys(annotations[name].category for name in names))
        own = {one: [name for name in names if annotations[name].category == one] for one in categories}
        report = {kind: summary(found, own) for kind, found in scored.items()}
        counts = {one: {"tracklets": len(own[one]), "frames": sum(len(results[n]) for n in own[one])} for one in own}
        whole = report.pop("")
        for one in categories:
            whole["categories"][one] |= counts[one]
        return {
            "protocol": "one pass, first frame counted",
            **whole,
            "frames": sum(count["frames"] for count in counts.values()),
            "baselines": report,
            "sequences": {name: {**numbers([row]), "frames": len(row[0])} for name, row in scored[""].items()},
            "missing": [name for name in annotations if name not in results],
        }


def errors(found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Overlaps [T] and distances [T] of boxes [T, 7]; the first, which is given, is right."""
    found = np.concatenate([true[:1], found[1:]])
    return iou(found, true), distances(found, true)


def numbers(rows: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Success and precision over the frames of all rows."""
    overlaps, metres = (np.concatenate([row[place] for row in rows]) for place in (0, 1))
    return {"success": success(overlaps), "precision": precision(metres)}


def summary(found: Mapping[str, tuple[np.ndarray, np.ndarray]], own: Mapping[str, list[str]]) -> dict[str, Any]:
    """The numbers of each class, and their mean weighted by frames."""
    made = {one: numbers([found[name] for name in names]) for one, names in own.items()}
    weights = [sum(len(found[name][0]) for name in names) for names in own.values()]
    keys = ("success", "precision")
    means = {key: float(np.average([one[key] for one in made.values()], weights=weights)) for key in keys}
    return {**means, "categories": made}


def kept(true: np.ndarray) -> np.ndarray:
    return np.repeat(true[:1], len(true), 0)


def continued(true: np.ndarray) -> np.ndarray:
    """The first two boxes, and on at the same speed and turn."""
    made = true.copy()
    if len(true) > 1:
        turn = offset(true[0], true[1])[3]
        for frame in range(2, len(true)):
            made[frame] = moved(made[frame - 1], np.array([0, 0, 0, turn]))
            made[frame, :3] = made[frame - 1, :3] + true[1, :3] - true[0, :3]
    return made


BASELINES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"keep": kept, "velocity": continued}


def read_rows(path: Path) -> np.ndarray:
    """float64 [T, 7] of a text file; OSError where it holds something else."""
    with open_file(path) as stream:
        data = stream.read()
    try:
        rows = [[float(word) for word in line.replace(",", " ").split()] for line in data.decode().splitlines()]
    except ValueError as error:
        raise OSError(f"{path}: {error}") from None
    if wrong := [number for number, row in enumerate(rows, 1) if len(row) != 7]:
        raise OSError(f"{path}, line {wrong[0]}: a box is x y z w l h yaw, seven numbers")
    return np.array(rows).reshape(-1, 7)
