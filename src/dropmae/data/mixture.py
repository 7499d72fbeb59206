"""What a task is trained on: data sets in their own layouts, mixed by ratio."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from collections.abc import Sequence as Listed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dropmae import registry
from dropmae.data.boxtracks import BoxTracks
from dropmae.data.clips import Clips, generator
from dropmae.names import utf8
from dropmae.sequence import Sequence

RENAMED = {
    "stills": ("image_masks", None),
    "selfmade": ("pseudo_labels", None),
    **{way: ("pseudo_labels", way) for way in ("paste", "warp", "cycle")},
}
"""Earlier names of training data, which commands and run folders hold -> name and split."""
PLAIN = "folder"
"""The data set meant by a path without a name."""


@dataclass(eq=False)
class Source:
    """One entry of the training data."""

    entry: str
    """What the user typed."""
    sequences: Listed[Sequence]
    ratio: float = 1.0
    """How often it is drawn from, beside the ratios of the others."""

    def describe(self) -> dict[str, Any]:
        """What it is, for the run's configuration."""
        names = hashlib.sha256()
        for number in range(0, len(self.sequences), max(1, len(self.sequences) // 10_000)):
            names.update(utf8(self.sequences[number].name) + b"\n")
        return {"entry": self.entry, "sequences": len(self.sequences), "names": names.hexdigest()[:16]}


def open_source(entry: str) -> Source:
    """The source that an entry names: [NAME[:SPLIT]=]PATH[*RATIO].

    NAME is a data set or a benchmark, or a user's .py file with one; its train split is taken where none is named.
    Without a name PATH is a folder of videos with annotation (`benchmarks.folder`). ValueError for a name that is none,
    FileNotFoundError where there is nothing.
    """
    match = re.fullmatch(r"(?:(\w+|[^=]+\.py)(?::(\w+))?=)?(.+?)(?:\*(\d+(?:\.\d+)?))?", str(entry), re.S)
    if match is None:
        raise ValueError(f"{entry!r} is no training data: write [NAME[:SPLIT]=]PATH[*RATIO]")
    path, ratio = Path(match[3]), float(match[4] or 1)
    name, split = RENAMED.get(match[1], (match[1] or PLAIN, match[2]))
    if ratio <= 0:
        raise ValueError(f"{entry}: the ratio must be positive")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder")
    known = {folder: registry.names(folder) for folder in ("datasets", "benchmarks")}
    folder = "benchmarks" if name in known["benchmarks"] else "datasets"
    if not name.endswith(".py") and name not in known[folder]:
        there = ", ".join(known["datasets"] + known["benchmarks"])
        raise ValueError(f"{entry}: {name!r} is no kind of training data; there are: {there}")
    cls: Any = registry.load(folder, name)
    sequences = cls().sequences(path, split or cls.train_split)
    if not sequences:
        raise FileNotFoundError(f"{path}: holds no labelled video")
    if isinstance(sequences, list):  # else they are made as they are asked for
        sequences = [replace(one, targets=BoxTracks(one.targets)) for one in sequences]
    return Source(str(entry), sequences, ratio)


class Joined(Listed[Sequence]):
    """The sequences of several sources, one after the other."""

    def __init__(self, sources: list[Source]) -> None:
        self.sources = sources
        self.ends = np.cumsum([len(source.sequences) for source in sources])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def place(self, number: int) -> tuple[Source, int]:
        """Source and number within it of a sequence."""
        which = int(np.searchsorted(self.ends, number, "right"))
        return self.sources[which], number - (int(self.ends[which - 1]) if which else 0)

    def __getitem__(self, number: Any) -> Any:
        source, local = self.place(number)
        return source.sequences[local]

    def __iter__(self) -> Iterator[Sequence]:
        for source in self.sources:
            yield from source.sequences


@dataclass(eq=False)
class Mixture(Clips):
    """An endless stream of samples from several sources: the source by ratio, then one of its sequences, uniformly.

    That is how trackers are trained: an epoch is so many `samples`, and does not visit every sequence.
    """

    sequences: Any
    """The sources' sequences, `Joined`."""
    samples: int = 60_000
    """Samples per epoch."""

    @property
    def epoch(self) -> int:
        return self.samples

    def position(self, i: int, attempt: int = 0) -> int:
        """Which sequence sample i comes from, at the given attempt."""
        joined = self.sequences
        rng = generator(self.seed, 5, i // self.repeats, attempt)
        ratios = np.cumsum([source.ratio for source in joined.sources])
        which = int(np.searchsorted(ratios, rng.random() * ratios[-1], "right"))
        count = len(joined.sources[which].sequences)
        return int(joined.ends[which]) - count + int(rng.integers(count))
