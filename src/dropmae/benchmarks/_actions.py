"""What the benchmarks of action recognition share: labelled videos, files of results, top-1 and top-5.

A video's class is the label of its first frame. Results are `<video>.json`, {"classes": [...], "views": [[...]]}: the
probabilities of each view. Read are also the text files that VideoMAE's evaluation writes, a line per view: `id
[logits] label chunk split`.
"""

from __future__ import annotations

import csv
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Listed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

import numpy as np

from dropmae.contracts import Benchmark
from dropmae.metrics.classes import softmax, views_of, within
from dropmae.opening import load_json, read_text
from dropmae.progress import say
from dropmae.sequence import Sequence
from dropmae.storage import below, write_text
from dropmae.target import Target

VIDEOS = (".mp4", ".avi", ".webm", ".mkv", ".mov", ".mpg", ".mpeg", ".m4v", ".npy")
HELD = 5
"""One group of so many is for evaluation, where a folder has no splits."""
LINE = re.compile(r"(.+?) \[(.*?)\] (\d+) (\S+) (\S+)\s*")


class Results(NamedTuple):
    """What was found for one video."""

    classes: tuple[str, ...]
    views: np.ndarray
    """Probabilities float [V, C]."""


class ClassLabels(dict[str, str]):
    """{video: its class}, and all classes in the order of their numbers."""

    def __init__(self, classes: tuple[str, ...], listed: Iterable[tuple[str, Any, str]]) -> None:
        super().__init__((name, label) for name, _, label in listed)
        self.classes = classes


def labelled(label: str) -> dict[int, Target]:
    """The targets of a video of a class."""
    return {0: Target(ids=np.zeros(0, np.int64), classes={label: 1.0})}


@dataclass(kw_only=True)
class VideoClasses(Benchmark):
    """Videos of one class each."""

    TITLE: ClassVar[str] = ""
    split: ClassVar[str] = "test"
    """The split that is evaluated where none is named."""

    def listed(self, root: Path, split: str | None = None) -> tuple[tuple[str, ...], list[tuple[str, Any, str]]]:
        """All classes, and (name, source, class) of the videos of a split; FileNotFoundError where there are none."""
        raise NotImplementedError

    def sequences(self, root: Path, split: str | None = None) -> Listed[Sequence]:
        """The videos of a split that are there; how many are not is said."""
        wanted = self.listed(Path(root), split or self.split)[1]
        there = [Sequence(name, source, labelled(label)) for name, source, label in wanted if source is not None]
        if not there:
            example = f", {wanted[0][0]} for one" if wanted else ""
            raise FileNotFoundError(f"{root}: none of the {len(wanted)} videos of the split is there{example}")
        if len(there) < len(wanted):
            say(f"{root}: {len(there)} of {len(wanted)} videos are there; the others are left out and counted")
        return there

    def annotations(self, root: Path, split: str | None = None) -> ClassLabels:
        return ClassLabels(*self.listed(Path(root), split or self.split))

    def write(
        self, name: str, targets: Mapping[int, Target], out: Path, seconds: Iterable[float] | None = None
    ) -> None:
        """<out>/<name>.json: the classes of the last frame's answer, which is about all of the video, view by view."""
        classes, views = views_of(targets[max(targets)])
        rows = [[float(f"{value:.6g}") for value in row] for row in views.tolist()]
        write_text(below(out, f"{name}.json"), json.dumps({"classes": list(classes), "views": rows}) + "\n")

    def read(self, results: Path, annotations: Mapping[str, Any]) -> dict[str, Results]:
        """{video: Results} of <video>.json, or of VideoMAE's text files; FileNotFoundError where there are none."""
        place, found = Path(results), dict[str, Results]()
        for name in annotations:
            file = below(place, f"{name}.json") if place.is_dir() else place
            if file.suffix == ".json" and file.is_file():
                found[name] = read_views(file)
        texts = [place] if place.is_file() else sorted(place.glob("*.txt"))
        if not found and texts:
            assert isinstance(annotations, ClassLabels)
            found = read_lines(texts, annotations)
        if not found:
            raise FileNotFoundError(
                f"{results}: no results; expected {next(iter(annotations), '<video>')}.json or 0.txt"
            )
        return found

    def score(
        self, results: Mapping[str, Results], annotations: Mapping[str, Any], *, map: Callable = map
    ) -> dict[str, Any]:
        """`top1` and `top5`: shares of videos, of the mean of their views' probabilities.

        `view_top1` and `view_top5` are the means over single views, `views` has them view by view; `mean_class` is the
        mean over classes of their videos' top-1. Classes with equal probability do not count against the right one.
        OSError where results know no class of a video.
        """
        names = [name for name in annotations if name in results]
        if not names:
            raise OSError("nothing to score: the results hold none of the videos")
        rows = dict(zip(names, map(measured, names, [results[n] for n in names], [annotations[n] for n in names])))
        hits = {name: row["hits"] for name, row in rows.items()}  # [1 + V, 2]
        mean = np.mean([one[0] for one in hits.values()], 0)
        each = [np.mean([one[view] for one in hits.values() if view < len(one)], 0).tolist()
                for view in range(1, max(map(len, hits.values())))]  # fmt: skip
        own: dict[str, list[float]] = {}
        for name in names:
            own.setdefault(annotations[name], []).append(float(hits[name][0, 0]))
        single = np.mean([one[1:].mean(0) for one in hits.values()], 0)
        return {
            "protocol": f"mean probability, views: {len(each)}",
            "top1": float(mean[0]),
            "top5": float(mean[1]),
            "mean_class": float(np.mean([np.mean(values) for values in own.values()])),
            "view_top1": float(single[0]),
            "view_top5": float(single[1]),
            "views": [{"top1": one, "top5": five} for one, five in each],
            "videos": len(names),
            "expected": len(annotations),
            "sequences": {
                name: {"top1": float(hits[name][0, 0]), "top5": float(hits[name][0, 1]), "class": annotations[name],
                       "predicted": row["predicted"]} for name, row in rows.items()
            },
            "missing": [name for name in annotations if name not in results],
        }  # fmt: skip


def measured(name: str, result: Results, label: str) -> dict[str, Any]:
    """Top-1 and top-5 [1 + V, 2] of a video, of the mean of its views first, and the class that it is taken for."""
    if label not in result.classes:
        raise OSError(f"{name}: its class {label!r} is none of the {len(result.classes)} of the results")
    right, mean = result.classes.index(label), result.views.astype(np.float64).mean(0)
    hits = [[within(row, right, count) for count in (1, 5)] for row in (mean, *result.views)]
    return {"hits": np.array(hits, float), "predicted": result.classes[int(mean.argmax())]}


def read_views(path: Path) -> Results:
    """A file that `write` wrote; OSError where it is none."""
    held = load_json(path)
    try:
        classes, views = tuple(map(str, held["classes"])), np.array(held["views"], np.float64)
    except (TypeError, KeyError, ValueError) as error:
        raise OSError(f"{path}: holds no classes and views ({error})") from None
    if views.ndim != 2 or views.shape[1] != len(classes) or not len(views) or not ((views >= 0) & (views <= 1)).all():
        raise OSError(f"{path}: views are rows of {len(classes)} probabilities")
    if len({*classes}) < len(classes):
        raise OSError(f"{path}: two of its {len(classes)} classes have one name")
    return Results(classes, views)


def read_lines(paths: Listed[Path], annotations: ClassLabels) -> dict[str, Results]:
    """{video: Results} of text files `id [logits] label chunk split`; each chunk and split of a video counts once."""
    stems: dict[str, list[str]] = {}
    for name in annotations:
        stems.setdefault(PurePosixPath(name).name, []).append(name)
    rows: dict[str, dict[str, list[float]]] = {}
    for path in paths:
        for number, line in enumerate(read_text(path).splitlines(), 1):
            match = LINE.fullmatch(line)
            if match is None:
                if number == 1 and "[" not in line:
                    continue  # the head, which says the accuracy of one process
                raise OSError(f"{path}, line {number}: not `id [scores] label chunk split`")
            try:
                logits = [float(value) for value in match[2].replace(",", " ").split()]
            except ValueError as error:
                raise OSError(f"{path}, line {number}: {error}") from None
            count = len(annotations.classes)
            if len(logits) != count or not np.isfinite(logits).all():
                raise OSError(f"{path}, line {number}: {len(logits)} scores for {count} classes, or one is none")
            called = [match[1]] if match[1] in annotations else stems.get(match[1], [match[1]])
            if len(called) > 1:
                raise OSError(f"{path}, line {number}: {match[1]} may be {' or '.join(called[:3])}; name the path")
            rows.setdefault(called[0], {})[match[4] + " " + match[5]] = logits
    return {name: Results(annotations.classes, softmax(np.array(list(views.values())))) for name, views in rows.items()}


# ---------------------------------------------------------------- what is on disk


def files_below(root: Path) -> dict[str, Path]:
    """{path below `root` without its ending: video file}, in the order of names."""
    found = {}
    for parent, folders, files in os.walk(root, followlinks=True):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(VIDEOS) and not name.startswith("."):
                path = Path(parent) / name
                found[path.relative_to(root).with_suffix("").as_posix()] = path
    return found


def class_folders(root: Path) -> tuple[tuple[str, ...], list[tuple[str, Any, str]]]:
    """Classes and videos of a folder `class/video`."""
    listed = [(name, path, path.parent.name) for name, path in files_below(root).items() if "/" in name]
    if not listed:
        raise FileNotFoundError(f"{root}: no videos; expected class/video.mp4")
    return tuple(sorted({label for _, _, label in listed})), listed


def held_out(name: str) -> bool:
    """Whether a video is for evaluation, by the name of its group: what UCF101 calls g01_c02 is clip 2 of group 1."""
    return zlib.crc32(re.sub(r"_c\d+$", "", name).encode()) % HELD == 0


def list_rows(path: Path) -> list[tuple[str, str]]:
    """(path, label) of the lines of a list: split at the last space, or at the last comma where there is no space."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        name, space, label = line.strip().rpartition(" ") if " " in line.strip() else line.strip().rpartition(",")
        if not space:
            raise OSError(f"{path}, line {number}: a line is `path label`, not {line!r}")
        rows.append((name.strip(), label))
    return rows


def table_rows(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file with a head."""
    return list(csv.DictReader(read_text(path).splitlines()))
