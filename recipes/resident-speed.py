"""How fast pairs are made from frames in memory, beside stored frames read by a data process, and what training takes.

`python recipes/resident-speed.py FRAMES`: FRAMES is what `dropmae prepare --frames` wrote. What is compared runs in
turn, in one thread each. Rates are by the clock, and pairs per second of processor time, all processes counted, which
other work on the machine disturbs less. GRID=7 or 14: tokens along a side of the 112 pixels that are trained on.
"""

from __future__ import annotations

import cProfile
import json
import os
import pstats
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dropmae import registry
from dropmae.data.clips import Clips, Share, batches, end
from dropmae.data.resample import unpack
from dropmae.data.resident import reside
from dropmae.data.shards import find_sequences
from dropmae.speed.timing import in_turn
from dropmae.training.fit import Options, fit

BATCH, ROUNDS = 64, 3
MAKES = int(os.environ.get("BATCHES", "12"))
"""Batches of loading alone in a round."""
TRAINS = 8
"""Steps of training in a round."""
CPU = torch.device("cpu")


class Rate(NamedTuple):
    """Pairs per second by the clock, and of processor time."""

    clock: float
    busy: float


def processor() -> float:
    """Seconds of processor time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def loading(clips: Clips, workers: int) -> Rate:
    """Rate of batches that nobody trains on; the clock runs from the second one on, when processes are at work."""
    busy, first = processor(), 0.0
    stream = batches(clips, Share(BATCH, BATCH), 0, MAKES + 1, workers)
    for number, batch in enumerate(stream):
        unpack(batch)
        first = time.perf_counter() if not number else first
    clock = time.perf_counter() - first
    end(stream)
    return Rate(MAKES * BATCH / clock, (MAKES + 1) * BATCH / (processor() - busy))


def training(name: str, patch: int, clips: Clips, workers: int, out: Path) -> Rate:
    """Rate of a few steps of a method, the median step by the clock."""
    torch.manual_seed(0)
    module = registry.load("methods", name)(size="tiny", image=112, patch=patch, crop="shared", scale=(0.5, 1.0))
    options = Options(steps=TRAINS, global_batch=BATCH, lr=4e-3, device="cpu", workers=workers, validate_every="100%")
    busy = processor()
    fit(module, clips, options, out, save=lambda module, path: None)
    busy = processor() - busy
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for file in out.rglob("*"):
        if file.is_file():
            file.unlink()
    return Rate(statistics.median(line["clips_per_s"] for line in lines[1:]), TRAINS * BATCH / busy)


def table(rows: dict[str, list[Rate]], base: str) -> None:
    """Medians over the rounds, and medians of ratios to `base` of the same round."""
    print("| | pairs/s by the clock | times | pairs per second of processor time | times |\n|---|---|---|---|---|")
    for name, rates in rows.items():
        cells = []
        for place in range(2):
            times = [one[place] / other[place] for one, other in zip(rates, rows[base])]
            cells += [f"{statistics.median(one[place] for one in rates):.0f}", f"{statistics.median(times):.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    import tempfile

    torch.set_num_threads(1)
    frames, patch = Path(sys.argv[1]), 112 // int(os.environ.get("GRID", "7"))
    make: Any = registry.load("methods", "twinmae")(size="tiny", image=112, crop="shared", scale=(0.5, 1.0)).sample
    stored = Clips(find_sequences(frames, frames), make)
    started = time.process_time()
    held, pool = (reside(stored, CPU, pooled) for pooled in (False, True))
    print(f"frames read into memory twice in {time.process_time() - started:.1f} s of processor time")
    ways: dict[str, Callable[[], Rate]] = {
        "stored frames, 1 data process": partial(loading, stored, 1),
        "stored frames, in the process": partial(loading, stored, 0),
        "resident": partial(loading, held, 0),
        "resident, a batch at once": partial(loading, pool, 0),
    }
    table(in_turn(ways, ROUNDS), "stored frames, 1 data process")
    with tempfile.TemporaryDirectory() as scratch:
        steps: dict[str, Callable[[], Rate]] = {}
        for name in ("twinmae", "dropmae"):
            steps[f"{name}, stored frames, 1 data process"] = partial(training, name, patch, stored, 1, Path(scratch))
            steps[f"{name}, resident"] = partial(training, name, patch, held, 0, Path(scratch))
        table(in_turn(steps, 1), "twinmae, stored frames, 1 data process")
    profile = cProfile.Profile()
    profile.runcall(loading, held, 0)
    pstats.Stats(profile).sort_stats("tottime").print_stats(8)


if __name__ == "__main__":
    main()
