"""DAVIS 2016 and 2017: video object segmentation (Perazzi et al., CVPR 2016; Pont-Tuset et al., arXiv:1704.00675)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from dropmae import storage
from dropmae.contracts import Benchmark
from dropmae.formats.labels import LabelFolder, MatchedLabels, grey_png, label_ids, label_png, write_archive
from dropmae.metrics.masks import assign, boundary_f, jaccard, statistics
from dropmae.names import relative_names
from dropmae.opening import read_text
from dropmae.sequence import Sequence
from dropmae.target import Target

VOID = 255
MAX_NAMES = 5
"""Sequences named in an error."""
MAX_PROPOSALS = 20


class Curves(NamedTuple):
    """J and F of every scored frame of one sequence: {object id: float64 [frames]}."""

    frames: list[int]
    j: dict[int, np.ndarray]
    f: dict[int, np.ndarray]


@dataclass(kw_only=True)
class DAVIS(Benchmark):
    """Region similarity J and contour accuracy F on DAVIS, by the rules of the official evaluation of each year.

    Layout: <root>/{JPEGImages,Annotations}/{480p,Full-Resolution}/<sequence>/<frame>.{jpg,png} and
    ImageSets/<year>/<split>.txt; results are <sequence>/<frame>.png. Where there is no ImageSets folder, every
    annotated sequence counts.
    """

    year: Literal[2016, 2017] = 2017
    """2016: one foreground, masks 0/255, mean over sequences. 2017: several objects per video, mean over objects."""
    resolution: Literal["480p", "full"] = "480p"
    """Annotations and images at 480 rows, or as recorded (Full-Resolution)."""
    protocol: Literal["auto", "semi-supervised", "unsupervised", "2016", "vos-benchmark"] = "auto"
    """Whose rules: "semi-supervised" and "unsupervised" of davis2017-evaluation, "2016" of the original code for one
    foreground, "vos-benchmark" of the tool of that name. auto: 2016 or semi-supervised, by the year."""
    uint8_decay: bool = False
    """Compute decay with 8-bit frame numbers as the official code does, which goes wrong beyond 256 frames."""
    submission: Path | None = None
    """Write the zip that the server takes (test-dev, test-challenge): sequence folders at its root, every frame."""

    def __post_init__(self) -> None:
        if self.submission is not None and self.rules == "2016":
            raise ValueError("the server takes results on DAVIS 2017; DAVIS 2016 has no hidden split")
        self._stems: dict[str, list[str]] = {}

    @property
    def rules(self) -> str:
        """The protocol in force."""
        if self.protocol != "auto":
            return self.protocol
        return "2016" if self.year == 2016 else "semi-supervised"

    # ---------------------------------------------------------------- what is on disk

    def names(self, root: Path, split: str | None = None) -> list[str]:
        """The sequences of a split (val where none is given), in the order of its list."""
        split = split or "val"
        year = "2019" if self.rules == "unsupervised" and split.startswith("test") else str(self.year)
        sets = Path(root) / "ImageSets"
        if not sets.is_dir():
            return sorted(folder.name for folder in self.folder(root, "Annotations").iterdir() if folder.is_dir())
        files = [sets / year / f"{split}.txt"]
        if self.year == 2016:
            files.append(sets / ("480p" if self.resolution == "480p" else "1080p") / f"{split}.txt")
        for file in files:
            if file.is_file():
                # The lists of the 2016 release name every frame: /JPEGImages/480p/<sequence>/00000.jpg
                words = [line.split()[0] for line in read_text(file).splitlines() if line.strip()]
                names = [word.split("/")[-2] if "/" in word else word for word in words]
                return list(dict.fromkeys(relative_names(names, file)))
        lists = [path.relative_to(sets).with_suffix("").parts for path in sorted(sets.rglob("*.txt"))]
        there = ", ".join(f"{name} of {'/'.join(folders) or sets.name}" for *folders, name in lists)
        raise FileNotFoundError(
            f"{files[0]}: no such list of sequences; here are: {there or 'none'}. The year is a setting of its own: "
            "--year 2016 --split val, say"
        )

    def folder(self, root: Path, kind: str) -> Path:
        """<root>/<kind>/<resolution>; FileNotFoundError where it is missing."""
        if kind == "Annotations" and self.rules == "unsupervised":
            kind = "Annotations_unsupervised"
        choices = ["480p"] if self.resolution == "480p" else ["Full-Resolution", "1080p"]
        for choice in choices:
            if (path := Path(root) / kind / choice).is_dir():
                return path
        raise FileNotFoundError(f"{Path(root) / kind / choices[0]}: no such folder; is {root} a DAVIS root?")

    def sequences(self, root: Path, split: str | None = None) -> list[Sequence]:
        """The videos of a split with their ground-truth masks; objects are numbered 1..K, 2016 has object 1 only."""
        images, masks = self.folder(root, "JPEGImages"), self.folder(root, "Annotations")
        clean = foreground if self.rules == "2016" else without_void
        found = []
        for name in self.names(root, split):
            targets = MatchedLabels(masks / name, images / name, clean)
            self._stems[name] = targets.stems
            found.append(Sequence(name, images / name, targets))
        return found

    def annotations(self, root: Path, split: str | None = None) -> dict[str, LabelFolder]:
        """{sequence: {frame: Target}} with the masks as they are stored, read when asked for."""
        masks = self.folder(root, "Annotations")
        if self.submission is not None:
            images = self.folder(root, "JPEGImages")
            self._stems = {name: MatchedLabels(masks, images / name).stems for name in self.names(root, split)}
        return {name: LabelFolder(masks / name) for name in self.names(root, split)}

    def read(self, results: Path, annotations: Mapping[str, Any] | None = None) -> dict[str, LabelFolder]:
        """{sequence: {frame: Target}} of all <sequence> folders in `results`; masks are read when asked for."""
        if not Path(results).is_dir():
            raise FileNotFoundError(f"{results}: no such folder; results are laid out as <sequence>/<frame>.png")
        folders = sorted(path for path in Path(results).iterdir() if path.is_dir() and not path.name.startswith("."))
        found = {folder.name: LabelFolder(folder) for folder in folders}
        if annotations is not None and not found.keys() & annotations.keys():
            names = ", ".join(list(annotations)[:3])
            raise FileNotFoundError(f"{results}: no results; expected <sequence>/<frame>.png for any of {names} ...")
        return found

    def write(
        self, name: str, targets: Mapping[int, Target], out: Path, seconds: Iterable[float] | None = None
    ) -> None:
        """<out>/<name>/<frame>.png: palette images of object ids; 0/255 grey for 2016. All of it or nothing.

        Frames carry the names of the images once `sequences` has listed them, else their numbers.
        """
        masks = {}
        stems = self._stems.get(name)
        for index, target in targets.items():
            if target.mask is None:
                raise ValueError(f"{name}, frame {index}: no mask to write")
            masks[f"{stems[index] if stems else f'{index:05d}'}.png"] = target.mask
        storage.write_folder(storage.below(out, name), masks, foreground_png if self.rules == "2016" else label_png)

    # ---------------------------------------------------------------- numbers

    def score(
        self,
        results: Mapping[str, Mapping[int, Target]],
        annotations: Mapping[str, Mapping[int, Target]],
        *,
        map: Callable = map,
    ) -> dict[str, Any]:
        """J and F of the sequences that both hold: mean, recall and decay; per sequence and object too.

        Sequences without results are listed under "missing", those that are not of the split under "extra", and those
        with nothing to score under "skipped" with the reason; none of them counts. `map` may score sequences in
        parallel. OSError where a frame is missing, cannot be read, or differs in size from its annotation.
        """
        packed = {} if self.submission is None else self.pack(results, annotations, self.submission)
        if all(len(annotation) < 2 for annotation in annotations.values()):
            if not packed:
                raise OSError(
                    "only first masks are public here, so there is nothing to score: --submission ZIP packs it"
                )
            return {"protocol": "server", "year": self.year, **packed, "sequences": {}}
        names = [name for name in annotations if name in results]
        curves = dict(
            zip(names, map(self.measure, names, [results[n] for n in names], [annotations[n] for n in names]))
        )
        skipped = {name: found for name, found in curves.items() if isinstance(found, str)}
        sequences: dict[str, Any] = {}
        everything: list[dict[str, float]] = []
        for name, found in curves.items():
            if isinstance(found, str):
                continue
            objects = {str(key): self.summary(found.j[key], found.f[key]) for key in found.j}
            sequences[name] = {
                **mean(list(objects.values())),
                "frames": len(found.frames),
                **(
                    {"objects": {key: clean_numbers(row) for key, row in objects.items()}}
                    if self.rules != "2016"
                    else {}
                ),
            }
            everything += objects.values()
        if not sequences:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
            raise OSError(f"nothing to score: {reasons or 'the results hold none of the sequences'}")
        # One row per object in 2017 and one per sequence in 2016, where a sequence is one object: a plain mean is both.
        return {
            "protocol": self.rules,
            "year": self.year,
            **mean(everything),
            "objects": len(everything),
            "sequences": sequences,
            "missing": [name for name in annotations if name not in results],
            "extra": [name for name in results if name not in annotations],
            "skipped": skipped,
            **packed,
        }

    def pack(
        self,
        results: Mapping[str, Mapping[int, Target]],
        annotations: Mapping[str, Mapping[int, Target]],
        path: Path,
    ) -> dict[str, Any]:
        """Writes the server's zip; OSError that names what it would refuse: a missing video, frame, or a wrong id."""
        if missing := [name for name in annotations if name not in results]:
            raise OSError(f"no results for {', '.join(missing[:MAX_NAMES])}; the server takes a split as a whole")

        def files() -> Iterator[tuple[str, np.ndarray]]:
            for name, annotation in annotations.items():
                start = min(annotation, default=-1)
                first = labels(annotation, start) if start >= 0 else None
                most = MAX_PROPOSALS
                if first is not None and self.rules != "unsupervised":
                    most = int(np.where(first == VOID, 0, first).max())
                pairs = Pairs(name, [], results[name], annotation)
                for frame in [int(stem) for stem in self._stems.get(name, [])] or sorted(results[name]):
                    mask = labels(results[name], frame) if frame in results[name] else first
                    if mask is None or (frame not in results[name] and frame != start):
                        raise FileNotFoundError(f"{pairs.where(frame)}: missing; the server wants every frame")
                    if first is not None and mask.shape != first.shape:
                        raise OSError(f"{pairs.where(frame)}: its size is not the annotation's; resize it (nearest)")
                    if (highest := int(mask.max(initial=0))) > most:
                        raise OSError(f"{pairs.where(frame)}: object {highest}, but {name} has objects 1..{most}")
                    yield f"{name}/{frame:05d}.png", mask

        return {"submission": str(path), "packed": write_archive(Path(path), files())}

    def summary(self, j: np.ndarray, f: np.ndarray) -> dict[str, float]:
        """The statistics of one object's J and F over frames."""
        rows = [statistics(values, self.uint8_decay) for values in (j, f)]
        row = {
            f"{m}_{what}": value
            for m, values in zip("JF", rows)
            for what, value in zip(("mean", "recall", "decay"), values)
        }
        return {"J&F_mean": (row["J_mean"] + row["F_mean"]) / 2, **row}

    def measure(self, name: str, result: Mapping[int, Target], annotation: Mapping[int, Target]) -> Curves | str:
        """J and F per frame and object of one sequence, or the reason why there is nothing to score."""
        frames = sorted(annotation)
        if self.rules != "unsupervised":
            frames = frames[1:-1]  # the first mask is given; the last one is left out by convention
            if not frames:
                return f"{len(annotation)} annotated frame(s); the first and the last one are not scored"
        elif not frames:
            return "no annotated frame"
        rules = {
            "semi-supervised": self.semi_supervised,
            "unsupervised": self.unsupervised,
            "2016": self.single,
            "vos-benchmark": self.open_set,
        }
        return rules[self.rules](Pairs(name, frames, result, annotation))

    def semi_supervised(self, pairs: Pairs) -> Curves | str:
        """davis2017-evaluation: objects 1..K with K from the first annotation; void is background."""
        first = pairs.truth(min(pairs.annotation))
        count = int(np.where(first == VOID, 0, first).max())
        if not count:
            if (first == VOID).any():
                raise ValueError(f"{pairs.name}: masks of 0 and 255 are those of DAVIS-2016; score them with year 2016")
            return "no object in the first annotated frame"
        j, f = np.zeros((2, count, len(pairs.frames)))
        for column, frame in enumerate(pairs.frames):
            predicted, true = pairs.read(frame)
            if (highest := int(predicted.max(initial=0))) > count:
                hint = "; 0/255 masks go with year 2016" if highest == VOID else ""
                raise OSError(f"{pairs.where(frame)}: object {highest}, but {pairs.name} has objects 1..{count}{hint}")
            for key in range(1, count + 1):
                j[key - 1, column], f[key - 1, column] = both(predicted == key, true == key)
        keys = range(1, count + 1)
        return Curves(pairs.frames, dict(zip(keys, j)), dict(zip(keys, f)))

    def single(self, pairs: Pairs) -> Curves:
        """The 2016 code: whatever is not 0 is foreground, in the prediction and in the annotation."""
        j, f = np.zeros((2, len(pairs.frames)))
        for column, frame in enumerate(pairs.frames):
            predicted, true = pairs.read(frame)
            j[column], f[column] = both(predicted != 0, true != 0)
        return Curves(pairs.frames, {1: j}, {1: f})

    def unsupervised(self, pairs: Pairs) -> Curves | str:
        """davis2017-evaluation, unsupervised: all frames, without void; proposals go to objects by mean (J + F) / 2."""
        loaded = [pairs.read(frame) for frame in pairs.frames]
        first = loaded[0][1]
        count = int(np.where(first == VOID, 0, first).max())
        if not count:
            return "no object in the first annotated frame"
        proposals = max(int(predicted.max(initial=0)) for predicted, _ in loaded)
        if proposals > MAX_PROPOSALS:
            raise OSError(
                f"{pairs.name}: object {proposals} in the results, but at most {MAX_PROPOSALS} proposals are allowed"
            )
        proposals = max(proposals, count)
        j, f = np.zeros((2, proposals, count, len(pairs.frames)))
        for column, (predicted, true) in enumerate(loaded):
            void = true == VOID
            for row in range(proposals):
                for key in range(count):
                    j[row, key, column], f[row, key, column] = both(predicted == row + 1, true == key + 1, void)
        rows = assign((j.mean(2) + f.mean(2)) / 2)
        return Curves(
            pairs.frames,
            {key + 1: j[row, key] for key, row in enumerate(rows)},
            {key + 1: f[row, key] for key, row in enumerate(rows)},
        )

    def open_set(self, pairs: Pairs) -> Curves | str:
        """vos-benchmark: an object counts from the frame in which either side first shows it; 255 is an object too.

        Objects that only the prediction holds are left out.
        """
        seen: set[int] = set()
        true_ids: set[int] = set()
        j: dict[int, list[float]] = {}
        f: dict[int, list[float]] = {}
        for frame in pairs.frames:
            predicted, true = pairs.read(frame)
            here = {*label_ids(true).tolist()} - {0}
            true_ids |= here
            seen |= here | {*label_ids(predicted).tolist()} - {0}
            for key in seen:
                values = both(predicted == key, true == key)
                j.setdefault(key, []).append(values[0])
                f.setdefault(key, []).append(values[1])
        if not true_ids:
            return "no object in the scored frames"
        keys = sorted(true_ids)
        return Curves(pairs.frames, {k: np.array(j[k]) for k in keys}, {k: np.array(f[k]) for k in keys})


@dataclass
class Pairs:
    """Predicted and true label maps of one sequence, read frame by frame and checked against each other."""

    name: str
    frames: list[int]
    result: Mapping[int, Target]
    annotation: Mapping[int, Target]

    def where(self, frame: int) -> str:
        """The file of a prediction where there is one, else sequence and frame."""
        if isinstance(self.result, LabelFolder):
            return str(self.result.files.get(frame, self.result.folder / f"{frame:05d}.png"))
        return f"{self.name}, frame {frame}"

    def truth(self, frame: int) -> np.ndarray:
        return labels(self.annotation, frame)

    def read(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Prediction and truth [H, W] of one frame."""
        if frame not in self.result:
            raise FileNotFoundError(
                f"{self.where(frame)}: missing; {self.name} needs a mask for every frame that is scored"
            )
        predicted, true = labels(self.result, frame), self.truth(frame)
        if predicted.shape != true.shape:
            (h, w), (height, width) = predicted.shape, true.shape
            raise OSError(
                f"{self.where(frame)}: {w}x{h} pixels, but the annotation has {width}x{height}; resize it (nearest)"
            )
        return predicted, true


def labels(masks: Mapping[int, Target], frame: int) -> np.ndarray:
    """One label map [H, W], without the detour over a Target where it is a file."""
    mask = masks.labels(frame) if isinstance(masks, LabelFolder) else masks[frame].mask
    if mask is None:
        raise ValueError(f"frame {frame} of the results or the annotation has no mask")
    return mask


def both(predicted: np.ndarray, true: np.ndarray, void: np.ndarray | None = None) -> tuple[float, float]:
    """J and F of one object in one frame."""
    return jaccard(predicted, true, void), boundary_f(predicted, true, void)


def foreground(mask: np.ndarray) -> np.ndarray:
    """All objects as object 1."""
    return (mask != 0).astype(np.uint8)


def without_void(mask: np.ndarray) -> np.ndarray:
    """Void as background, as the semi-supervised protocol has it."""
    return np.where(mask == VOID, 0, mask).astype(mask.dtype)


def foreground_png(mask: np.ndarray) -> bytes:
    """A 0/255 grey PNG, as the masks of DAVIS-2016 are."""
    return grey_png(foreground(mask) * np.uint8(255))


def mean(rows: list[dict[str, float]]) -> dict[str, float | None]:
    """The mean of each statistic over objects or sequences; None where it is not a number."""
    return clean_numbers({key: float(np.mean([row[key] for row in rows])) for key in rows[0]})


def clean_numbers(row: dict[str, float]) -> dict[str, float | None]:
    """NaN as None, for JSON."""
    return {key: None if math.isnan(value) else value for key, value in row.items()}
