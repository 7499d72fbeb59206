"""What the single-object tracking benchmarks share: their fields, reading and writing results, and the scoring.

A benchmark adds the layout of its files (`clips`) and says which protocols it can be scored by (`RULES`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from dropmae.contracts import Benchmark
from dropmae.formats.boxes import ResultFiles, format_boxes, format_seconds, read_json
from dropmae.formats.tracks import Clip, Result, Track, boxes_of
from dropmae.metrics import protocols
from dropmae.metrics.protocols import Protocol
from dropmae.sequence import Sequence
from dropmae.storage import below, write_text
from dropmae.target import Target

ProtocolName = Literal["official", "pytracking", "ostrack", "got10k", "pysot", "otb", "all"]
Results = Mapping[str, Result | np.ndarray | Mapping[int, Target]]
"""{sequence: Result}, or per sequence float64 [T, 4] in the data set's own coordinates, or {frame: Target}."""


@dataclass(kw_only=True)
class OnePass(Benchmark):
    """One-pass evaluation of a single-object tracker: the first box is given, the rest is compared."""

    protocol: ProtocolName = "official"
    """Whose rules give the numbers: this data set's own toolkit, or the analysis code that a paper used. "all" puts
    them side by side, with the first as the headline."""
    truncate: bool = False
    """Cut predicted coordinates to whole numbers toward zero, as OSTrack and DropTrack do when they save results."""
    unshifted: bool = False
    """Hand the tracker the data set's coordinates as they are, as pytracking and OSTrack do, also where the first pixel
    is called 1 rather than 0."""
    partial: bool = False
    """Score the sequences that have results, rather than stop where some have none."""

    TITLE: ClassVar[str] = ""
    RULES: ClassVar[dict[str, Protocol]] = {}
    """The protocols this data set can be scored by; the first one is the default and the headline of "all"."""
    ORIGIN: ClassVar[float] = 0.0
    """What the data set calls the first pixel of a row or column."""
    PREFIX: ClassVar[str] = ""
    """What pytracking and OSTrack put before a sequence's name."""
    DECIMALS: ClassVar[int] = 3
    """Of the coordinates in result files."""
    REPETITIONS: ClassVar[int] = 0
    """How many runs of a tracker may lie side by side, as <sequence>_001.txt, ..."""

    def __post_init__(self) -> None:
        if self.protocol != "all":
            self.rules(self.protocol)

    @property
    def origin(self) -> float:
        return 0.0 if self.unshifted else self.ORIGIN

    def clips(self, root: Path, split: str | None = None) -> list[Clip]:
        """The videos of a split with their ground truth; nothing is opened yet."""
        raise NotImplementedError

    def only_test(self, split: str | None) -> None:
        """ValueError where a split is asked for of a data set that has none."""
        if split not in (None, "test"):
            raise ValueError(f"{self.TITLE} has no split {split!r}; all of it is test")

    def sequences(self, root: Path, split: str | None = None) -> list[Sequence]:
        """The videos of a split, the one that papers report where none is named; targets are a `Truth`."""
        return [Sequence(*clip) for clip in self.clips(Path(root), split)]

    def annotations(self, root: Path, split: str | None = None) -> dict[str, Track]:
        """{sequence: Track} of a data set's folder, or of a JSON file (see `boxfiles.read_json`); no images needed."""
        if Path(root).is_file():
            return read_json(Path(root))
        return {clip.name: clip.truth.track for clip in self.clips(Path(root), split)}

    def aliases(self, name: str, names: Iterable[str]) -> list[str]:
        """The ways in which result files may call a sequence, the usual one first."""
        return [name]

    # ---------------------------------------------------------------- results

    def read(self, results: Path, annotations: Mapping[str, Track]) -> dict[str, Result]:
        """Results of anybody's tracker from a folder or zip: <sequence>.txt, x y w h per line, times beside them.

        Names match without case; folders below are searched too. FileNotFoundError where sequences have no result,
        unless `partial` is set.
        """
        files = ResultFiles(results, self.PREFIX)
        read = {name: files.result(self.aliases(name, annotations), self.REPETITIONS) for name in annotations}
        missing = [name for name, result in read.items() if result is None]
        found = {name: result for name, result in read.items() if result is not None}
        if not found or (missing and not self.partial):
            some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            hint = "; partial scores the others" if found else ""
            raise FileNotFoundError(
                f"{results}: no result for {len(missing)} of {len(annotations)} sequences ({some}){hint}"
            )
        return found

    def write(
        self, name: str, targets: Mapping[int, Target], out: Path, seconds: Iterable[float] | None = None
    ) -> None:
        """`path` with a box per frame, and <name>_time.txt beside it where the seconds per frame are given.

        A frame without a box repeats the one before. ValueError where frame 0 has none.
        """
        boxes, decimals = self.rounded(boxes_of(targets, name, self.origin))
        path = self.path(name, out)
        if seconds is not None:
            write_text(path.with_name(f"{name}_time.txt"), format_seconds(seconds))
        write_text(path, format_boxes(boxes, decimals))

    def missed(self, target: Target) -> Target:
        """A box without an area, which overlaps with nothing: no box would mean the one before."""
        return replace(target, boxes=np.zeros((len(target.ids), 4)))

    def path(self, name: str, out: Path) -> Path:
        """The file that `write` makes last: where it is there, the sequence is done."""
        return below(out, f"{name}.txt")

    def rounded(self, boxes: np.ndarray) -> tuple[np.ndarray, int]:
        """Boxes as they are saved, and the number of decimals."""
        return (np.trunc(boxes), 0) if self.truncate else (boxes, self.DECIMALS)

    def result(self, name: str, value: Result | np.ndarray | Mapping[int, Target]) -> Result:
        """One sequence's Result from any of the forms that `score` takes."""
        if isinstance(value, Mapping):
            value = boxes_of(value, name, self.origin)
        if not isinstance(value, Result):
            value = Result(runs=[np.asarray(value, np.float64)])
        if self.truncate:
            value = Result(runs=[np.trunc(run) for run in value.runs], seconds=value.seconds)
        return value

    # ---------------------------------------------------------------- numbers

    def score(self, results: Results, annotations: Mapping[str, Track], *, map: Callable = map) -> dict[str, Any]:
        """Success, precision and normalised precision over the sequences that both hold; see `protocols.numbers`.

        Also "sequences" (the same numbers each), "attributes" (over the sequences that have one, with their count),
        "curves" at "thresholds", "fps" where times were kept, "missing", and under protocol "all" every protocol's
        numbers in "protocols". OSError where the protocol's evaluator would stop, with the sequence and the reason.
        """
        paired = {name: self.result(name, results[name]) for name in annotations if name in results}
        if not paired:
            raise OSError(f"nothing to score: the results hold none of the {len(annotations)} sequences")
        tracks = {name: annotations[name] for name in paired}
        if self.protocol != "all":
            report = self.measure(self.protocol, paired, tracks)
        else:
            report = self.side_by_side(paired, tracks)
        report["missing"] = [name for name in annotations if name not in paired]
        if "protocols" in report:
            report["protocols"] = {
                name: {key: value for key, value in found.items() if key != "sequences"}
                for name, found in report["protocols"].items()
            }
        return report

    def side_by_side(self, results: Mapping[str, Result], tracks: Mapping[str, Track]) -> dict[str, Any]:
        """The report of the first protocol that takes these results, with every protocol's in "protocols"."""
        found: dict[str, Any] = {}
        for name in self.RULES:
            try:
                found[name] = self.measure(name, results, tracks)
            except OSError as error:
                found[name] = {"protocol": name, "error": str(error)}
        scored = [report for report in found.values() if "error" not in report]
        if not scored:
            raise OSError(next(iter(found.values()))["error"])
        return {**scored[0], "protocols": found}

    def measure(self, protocol: str, results: Mapping[str, Result], tracks: Mapping[str, Track]) -> dict[str, Any]:
        """The report under one protocol. Repetitions of a tracker weigh like further sequences of the same name."""
        rules = self.rules(protocol)
        curves: dict[str, list[dict[str, np.ndarray]]] = {}
        for name, result in results.items():
            try:
                curves[name] = [self.curves(name, run, tracks[name], protocol) for run in result.runs]
            except ValueError as error:
                raise OSError(f"{name}: {error}") from None
        found = protocols.mean_curves([run for runs in curves.values() for run in runs], rules)
        attributes = {}
        for attribute in self.attributes(tracks):
            having = [name for name in results if attribute in tracks[name].attributes]
            mean = protocols.mean_curves([run for name in having for run in curves[name]], rules)
            attributes[attribute] = {"count": len(having), **protocols.numbers(mean, rules)}
        return {
            "benchmark": type(self).__name__.lower(),
            "protocol": protocol,
            "rules": rules.source,
            "truncated": self.truncate,
            **protocols.numbers(found, rules),
            "count": len(results),
            **self.speed(results),
            "sequences": {
                name: {
                    **protocols.numbers(protocols.mean_curves(runs, rules), rules),
                    "frames": len(tracks[name].boxes),
                }
                for name, runs in curves.items()
            },
            "attributes": attributes,
            "curves": {name: [v if math.isfinite(v) else None for v in curve] for name, curve in found.items()},
            "thresholds": {name: steps.tolist() for name, steps in zip(protocols.CURVES, rules.thresholds)},
        }

    def rules(self, protocol: str) -> Protocol:
        """The rules behind a protocol's name; ValueError that lists the names."""
        if protocol not in self.RULES:
            name = type(self).__name__.lower()
            raise ValueError(f"{protocol!r} is not a protocol of {name}; there are: {', '.join(self.RULES)}, all")
        return self.RULES[protocol]

    def curves(self, name: str, run: np.ndarray, track: Track, protocol: str) -> dict[str, np.ndarray]:
        """The curves of one run on one sequence; ValueError where the evaluator would stop."""
        rules = self.rules(protocol)
        return protocols.sequence_curves(protocols.frame_errors(run, track.boxes, self.absent(track), rules), rules)

    @staticmethod
    def absent(track: Track) -> np.ndarray | None:
        """bool [T]: the frames that the data set flags as without the object; None where it does not say."""
        return track.absent

    @staticmethod
    def attributes(tracks: Mapping[str, Track]) -> list[str]:
        """The attributes that any sequence has, in the order of their first appearance."""
        return list(dict.fromkeys(attribute for track in tracks.values() for attribute in track.attributes))

    @staticmethod
    def speed(results: Mapping[str, Result]) -> dict[str, float]:
        """{"fps"}: the mean over sequences of the mean of 1 / t, as the toolkits have it; {} without times."""
        times = [timed(result) for result in results.values()]
        rates = [float((1 / seconds).mean()) for seconds in times if len(seconds)]
        return {"fps": float(np.mean(rates))} if rates else {}


def timed(result: Result) -> np.ndarray:
    """float64 [n]: the seconds per frame that are times; empty where none were kept."""
    seconds = np.zeros(0) if result.seconds is None else result.seconds
    return seconds[np.isfinite(seconds) & (seconds > 0)]
