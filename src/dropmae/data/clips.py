"""Sequences of frames, and training batches made from them; sample i is a pure function of (seed, i)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from dropmae.data.augment import Crops, resized
from dropmae.data.resample import pack
from dropmae.interruption import serve_data, withheld
from dropmae.sequence import Sequence as Sequence
from dropmae.video import DamagedFrame, Video

PATIENCE = 20.0
"""Seconds in which data processes are to end."""
ATTEMPTS = 100
"""Replacements tried for one sample before training stops: then practically nothing can be read."""


def frame_pair(length: int, gap: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Two frame indices, the earlier first, `gap[0]` to `gap[1]` apart as far as `length` frames allow.

    As the official DropMAE code draws them: the start uniform over all frames that have a successor at the least gap,
    then the end uniform over what the gap and the video's end allow. Videos shorter than the least gap use the largest
    gap they have. OSError for a video of one frame: it is bad input for a pair.
    """
    if length < 2:
        raise OSError("the video has one frame, and a pair needs two")
    least = min(gap[0], length - 1)
    start = int(rng.integers(length - least))
    return start, int(rng.integers(start + least, min(length - 1, start + max(gap[1], least)) + 1))


def generator(*key: int) -> np.random.Generator:
    """A numpy generator that is a pure function of up to four non-negative integers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


Sample = Callable[[Sequence, np.random.Generator], dict[str, Any]]


@dataclass(eq=False)
class Clips(Dataset):
    """An endless stream of samples: each epoch visits every sequence once (or `repeats` times in a row).

    `self[i]` makes sample i and depends on (seed, i) and the files alone. A sequence that cannot be read (OSError) is
    replaced by another, chosen from (seed, i, attempt); `reports` of the sample name it.
    """

    sequences: list[Sequence]
    sample: Sample
    seed: int = 0
    repeats: int = 1
    resize_on: Literal["host", "device"] = "host"
    """Where crops are resized: as samples are made, or by whoever gets the batch (`resample.unpack`)."""
    pool: Any = None
    """What holds the frames where they lie on a device (`resident.Pool`)."""

    def __post_init__(self) -> None:
        if not self.sequences:
            raise ValueError("there is no video to learn from")
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, not {self.repeats}")
        self._bad: dict[int, str] = {}
        self._order = lru_cache(2)(self._shuffled)
        self._open: tuple[int, Sequence] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_order": None, "_open": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._order = lru_cache(2)(self._shuffled)

    @property
    def epoch(self) -> int:
        """Samples per epoch."""
        return len(self.sequences) * self.repeats

    def _shuffled(self, epoch: int) -> np.ndarray:
        return generator(self.seed, 1, epoch).permutation(len(self.sequences))

    def position(self, i: int, attempt: int = 0) -> int:
        """Which sequence sample i comes from, at the given attempt."""
        if attempt:
            return int(generator(self.seed, 2, i, attempt).integers(len(self.sequences)))
        return int(self._order(i // self.epoch)[i % self.epoch // self.repeats])

    def __getitem__(self, index: int) -> dict[str, Any]:
        reports: list[tuple[str, str]] = []
        for attempt in range(ATTEMPTS):
            position = self.position(index, attempt)
            if position not in self._bad:
                try:
                    made = self.make(position, generator(self.seed, 3, index))
                    made = resized(made) if self.resize_on == "host" else made
                    return {**made, "index": index, "reports": reports}
                except OSError as error:
                    self._open = None
                    reason = " ".join(str(error).split())
                    if not isinstance(error, DamagedFrame):  # which depends on the frames that were drawn
                        self._bad[position] = reason
            else:
                reason = self._bad[position]
            reports.append((self.sequences[position].name, reason))
        name, reason = reports[0]
        raise OSError(f"{ATTEMPTS} tries in a row found no video that can be read; the first was {name}: {reason}")

    def make(self, position: int, rng: np.random.Generator) -> dict[str, Any]:
        """A sample of the sequence at `position`."""
        return self.sample(self._opened(position).drawn(rng), rng)

    def _opened(self, position: int) -> Sequence:
        """The sequence at `position`, opened anew unless it is the last one used, so that memory stays flat."""
        if self._open is not None and self._open[0] == position:
            return self._open[1]
        if self._open is not None:
            _close(self._open[1])
        sequence = self.sequences[position]
        fresh = replace(sequence)
        self._open = (position, fresh)
        return fresh


def _close(sequence: Sequence) -> None:
    if not isinstance(sequence.source, Video) and "video" in sequence.__dict__:
        sequence.video.close()


@dataclass
class Share:
    """What one process takes of every global batch: micro-batches of `micro` samples, of `rank` among `world`."""

    batch: int
    micro: int
    rank: int = 0
    world: int = 1

    @property
    def micros(self) -> int:
        """Micro-batches per step and process."""
        return self.batch // (self.micro * self.world)

    def indices(self, start: int, stop: int) -> Iterator[list[int]]:
        """Sample numbers of each micro-batch of steps start .. stop - 1, in order."""
        for step in range(start, stop):
            for part in range(self.micros):
                first = step * self.batch + (part * self.world + self.rank) * self.micro
                yield list(range(first, first + self.micro))


def collate(samples: list[dict[str, Any]], *, resize: bool = True, pool: Any = None) -> dict[str, Any]:
    """One batch: arrays and numbers stacked into tensors, `reports` joined.

    Without `resize`, or with regions that are places in a `pool`, crops stay to be done.
    """
    samples = [resized(sample) if resize and pool is None else sample for sample in samples]
    batch: dict[str, Any] = {"reports": [report for sample in samples for report in sample.pop("reports")]}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        if isinstance(values[0], Crops):
            batch |= pack(name, values, pool)
        elif isinstance(values[0], np.ndarray):  # in a data process it stacks right into shared memory
            batch[name] = default_collate([torch.from_numpy(value) for value in values])
        else:
            batch[name] = torch.tensor(values)
    return batch


def batches(clips: Clips, share: Share, start: int, stop: int, workers: int) -> Iterator[dict[str, Any]]:
    """Micro-batches of steps start .. stop - 1, made by `workers` processes (0: in this one), in fixed order.

    Where the frames lie on a device this process makes them, which takes little.
    """
    if clips.pool is not None:
        return (collate([clips[i] for i in part], pool=clips.pool) for part in share.indices(start, stop))
    loader = DataLoader(
        clips,
        batch_sampler=_Batches(share, start, stop),
        num_workers=workers,
        collate_fn=partial(collate, resize=clips.resize_on == "host"),
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_begin if workers else None,
        prefetch_factor=4 if workers else None,
    )
    with withheld():
        return iter(loader)


def end(stream: Iterator[dict[str, Any]] | None) -> None:
    """Ends the processes of `batches` now, which a kept error would otherwise hold on to.

    One that was killed may have held a lock that ending them waits for: after PATIENCE seconds it is left behind.
    """
    shutdown = getattr(stream, "_shutdown_workers", None)
    if shutdown is not None:
        thread = threading.Thread(target=shutdown, daemon=True)
        thread.start()
        thread.join(PATIENCE)


@dataclass
class _Batches:
    share: Share
    start: int
    stop: int

    def __iter__(self) -> Iterator[list[int]]:
        return self.share.indices(self.start, self.stop)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.share.micros


def _begin(_: int) -> None:
    """Makes a process one that makes data."""
    torch.set_num_threads(1)
    serve_data()
