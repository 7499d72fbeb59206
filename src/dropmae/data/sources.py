"""What a task is trained on: data sets in their own layouts, mixed by ratio, and labels made from unlabelled video."""

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
from dropmae.benchmarks.folder import Folder
from dropmae.data.boxtracks import BoxTracks
from dropmae.data.clips import Clips, Sequence, generator
from dropmae.datasets.coco import Coco
from dropmae.datasets.image_masks import Stills
from dropmae.datasets.pseudo_labels import WAYS, SelfMade
from dropmae.names import utf8
from dropmae.video import find

IMAGES = "coco"
"""Name of the layout that is no benchmark."""


@dataclass(eq=False)
class Source:
    """One entry of the training data."""

    entry: str
    """What the user typed."""
    sequences: Listed[Sequence]
    ratio: float = 1.0
    """How often it is drawn from, beside the ratios of the others."""
    maker: SelfMade | None = None
    """Makes a labelled sequence of an unlabelled one."""

    def describe(self) -> dict[str, Any]:
        """What it is, for the run's configuration."""
        names = hashlib.sha256()
        for number in range(0, len(self.sequences), max(1, len(self.sequences) // 10_000)):
            names.update(utf8(self.sequences[number].name) + b"\n")
        return {"entry": self.entry, "sequences": len(self.sequences), "names": names.hexdigest()[:16]}


def open_source(entry: str) -> Source:
    """The source that an entry names: [NAME[:SPLIT]=]PATH[*RATIO].

    NAME is a benchmark (its train split is taken, unless another is named), coco, stills (images with masks), or how
    labels are made of the unlabelled videos below PATH: selfmade, or one of its ways alone. Without a name PATH is a
    folder with a targets.jsonl. ValueError for a name that is none, FileNotFoundError where there is nothing.
    """
    match = re.fullmatch(r"(?:(\w+)(?::(\w+))?=)?(.+?)(?:\*(\d+(?:\.\d+)?))?", str(entry), re.S)
    if match is None:
        raise ValueError(f"{entry!r} is no training data: write [NAME[:SPLIT]=]PATH[*RATIO]")
    name, split, path, ratio = match[1], match[2], Path(match[3]), float(match[4] or 1)
    if ratio <= 0:
        raise ValueError(f"{entry}: the ratio must be positive")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder")
    if name is None or name == "folder":
        sequences = Folder().sequences(path, split)
    elif name == IMAGES:
        return Source(str(entry), Coco(path, split or "train"), ratio)
    elif name == "stills":
        return Source(str(entry), Stills(path), ratio)
    elif name == "selfmade" or name in WAYS:
        videos = unlabelled(path)
        return Source(str(entry), videos, ratio, SelfMade(videos, tuple(WAYS) if name == "selfmade" else (name,)))
    elif name == "synthetic":
        raise ValueError(
            f"{entry}: synthetic is for testing; render other clips with dropmae synth and give the folder"
        )
    elif name in registry.names("benchmarks"):
        bench: Any = registry.load("benchmarks", name)()
        sequences = bench.sequences(path, split or "train")
    else:
        known = ", ".join([*registry.names("benchmarks"), IMAGES, "stills", "selfmade", *WAYS])
        raise ValueError(f"{entry}: {name!r} is no kind of training data; there are: {known}")
    if not sequences:
        raise FileNotFoundError(f"{path}: holds no labelled video")
    return Source(str(entry), [replace(one, targets=BoxTracks(one.targets)) for one in sequences], ratio)


def unlabelled(folder: Path) -> list[Sequence]:
    """All videos below a folder, named by their path in it."""
    paths = find(folder)
    if not paths:
        raise FileNotFoundError(f"{folder}: holds no video")
    return [Sequence(str(path.relative_to(folder)) if path != folder else path.name, path) for path in paths]


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

    def make(self, position: int, rng: np.random.Generator) -> dict[str, Any]:
        """A sample of the sequence at `position`; where it has no labels, they are made first."""
        maker = self.sequences.place(position)[0].maker
        sequence = self._opened(position)
        return self.sample(sequence if maker is None else maker.make(sequence, rng), rng)
