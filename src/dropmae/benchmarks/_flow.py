"""What the benchmarks of optical flow share: pairs of pictures, files of flow, sums of errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dropmae.contracts import Benchmark
from dropmae.formats.flow import read_flow, read_marks, write_flo
from dropmae.metrics import flow as metrics
from dropmae.sequence import Sequence
from dropmae.storage import below
from dropmae.target import Target

Rows = dict[str, np.ndarray]
"""{part of a picture: sums of its errors}; "" is all of it."""


@dataclass(frozen=True, kw_only=True)
class FlowPair(Mapping[int, Target]):
    """Two pictures and files of what is known of the first: {0: Target}, read when asked for; nothing where none is."""

    name: str
    first: Path
    second: Path
    flow: Path | None = None
    """None: the truth is kept by others, and flow can only be handed in."""
    occluded: Path | None = None
    """A mask of pixels that the second picture does not show."""
    marks: Mapping[str, Path] = field(default_factory=dict)
    """Further files that a benchmark goes by."""

    def __len__(self) -> int:
        return int(self.flow is not None)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __getitem__(self, frame: int) -> Target:
        if frame or self.flow is None:
            raise KeyError(frame)
        occluded = None if self.occluded is None else read_marks(self.occluded)
        return Target(ids=np.zeros(0, np.int64), flow=read_flow(self.flow), occluded=occluded)


@dataclass(kw_only=True)
class FlowBenchmark(Benchmark):
    """Flow from a picture to the next, pair by pair; frames where NaN is predicted are taken not to move.

    A data set says where its pairs are (`pairs`), what its result files are called (`files`), and how it adds up.
    """

    LIMITS: ClassVar[tuple[float, ...]] = metrics.THRESHOLDS
    """Pixels beyond which errors are counted."""
    POOLED: ClassVar[tuple[str, ...]] = ("epe", "outliers")
    """Numbers that are of all pixels together; others are means over pairs."""
    RULES: ClassVar[str] = ""
    """Whose way of adding up that is."""

    def pairs(self, root: Path, split: str | None = None) -> list[FlowPair]:
        """The pairs of a split; FileNotFoundError where there is none, ValueError for a split that is none."""
        raise NotImplementedError

    def files(self, name: str) -> tuple[str, ...]:
        """Names of result files, below a folder, for a pair: the official one first."""
        raise NotImplementedError

    def tally(self, pair: FlowPair, true: Target, found: np.ndarray) -> Rows:
        """The sums of one pair: of all its pixels, and of its parts."""
        assert true.flow is not None
        return {"": metrics.errors(true.flow, found, limits=self.LIMITS)}

    # ---------------------------------------------------------------- the contract

    def sequences(self, root: Path, split: str | None = None) -> list[Sequence]:
        """A sequence of two frames for each pair."""
        return [Sequence(pair.name, [pair.first, pair.second], pair) for pair in self.pairs(Path(root), split)]

    def annotations(self, root: Path, split: str | None = None) -> dict[str, FlowPair]:
        return {pair.name: pair for pair in self.pairs(Path(root), split)}

    def read(self, results: Path, annotations: Mapping[str, FlowPair]) -> dict[str, Path]:
        """{pair: its file of flow}; FileNotFoundError where there is none at all."""
        found = {}
        for name in annotations:
            files = (below(Path(results), file) for file in self.files(name))
            if (file := next((file for file in files if file.is_file()), None)) is not None:
                found[name] = file
        if not found:
            example = self.files(next(iter(annotations), "NAME"))[0]
            raise FileNotFoundError(f"{results}: no flow of these pairs; expected files such as {example}")
        return found

    def write(
        self, name: str, targets: Mapping[int, Target], out: Path, seconds: Iterable[float] | None = None
    ) -> None:
        """The flow of a pair, in the official form. ValueError where there is none."""
        flow = targets[0].flow if 0 in targets else None
        if flow is None:
            raise ValueError(f"{name}: there is no flow to write")
        self.write_flow(below(Path(out), self.files(name)[0]), flow)

    write_flow = staticmethod(write_flo)
    """Writes a result file."""

    def score(
        self, results: Mapping[str, Path | np.ndarray], annotations: Mapping[str, FlowPair], *, map: Callable = map
    ) -> dict[str, Any]:
        """`epe` in pixels and `outliers` (beyond 3 pixels and 5 %), `over_Npx`, and the same of parts of the pictures.

        Means are of all pixels or over pairs, as the data set has it. OSError where flow has another size. Numbers are
        None where the truth is kept by others.
        """
        names = [name for name in annotations if name in results]
        if not names:
            raise OSError(f"nothing to score: the results hold none of the {len(annotations)} pairs")
        rows: dict[str, Rows] = dict(
            zip(names, map(self.row, [annotations[n] for n in names], [results[n] for n in names]))
        )
        report: dict[str, Any] = {"benchmark": type(self).__name__.lower(), "rules": self.RULES, **self.summary(rows)}
        report["count"] = len(names)
        report["sequences"] = {
            name: self.described({key: self.numbers(v) for key, v in row.items()}) for name, row in rows.items()
        }
        report["missing"] = [name for name in annotations if name not in results]
        return report

    def row(self, pair: FlowPair, result: Path | np.ndarray) -> Rows:
        """The sums of one pair, whose files are read."""
        if not len(pair):
            return {}
        found = result if isinstance(result, np.ndarray) else read_flow(result)
        try:
            return self.tally(pair, pair[0], found)
        except ValueError as error:
            raise OSError(f"{pair.name}: {error}") from None

    def numbers(self, totals: np.ndarray) -> dict[str, float | None]:
        return metrics.numbers(totals, self.LIMITS)

    def summary(self, rows: Mapping[str, Rows]) -> dict[str, Any]:
        """The numbers of all pairs."""
        parts = dict.fromkeys(part for row in rows.values() for part in row) or {"": None}
        found = {}
        for part in parts:
            sums = [row[part] for row in rows.values() if part in row]
            each = metrics.mean(self.numbers(one) for one in sums)
            whole = self.numbers(np.sum(sums, 0)) if sums else dict.fromkeys(("epe", "outliers"))
            found[part] = {name: whole[name] if self.pools(name) else each.get(name) for name in whole}
        return self.described(found)

    def pools(self, name: str) -> bool:
        """Whether a number is of all pixels together."""
        return name in self.POOLED or (name.startswith("over_") and "outliers" in self.POOLED)

    @staticmethod
    def described(found: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
        """Numbers by name: those of parts have the part's name behind them, without counts of small errors."""
        named = dict(found.get("", {}))
        for part, row in found.items():
            if part:
                named |= {f"{name}_{part}": value for name, value in row.items() if not name.startswith("over_")}
        return named


def only_split(benchmark: Any, split: str | None, known: tuple[str, ...]) -> None:
    """ValueError for a split that a data set has not."""
    if split is not None and split not in known:
        name = type(benchmark).__name__.lower()
        there = f"there are {', '.join(known)}" if known else "it has none"
        raise ValueError(f"{name} has no split {split!r}; {there}")
