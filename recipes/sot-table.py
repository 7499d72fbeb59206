"""One table of trackers on sequences in the layouts of OTB and TLD.

Use: python recipes/sot-table.py --otb DIR --tld DIR --out OUT [--weights FILE ...]

Rows: a copy of the first box, OpenCV's KCF and CSRT (the extra `bench`), the tracker's network with random weights, and
the tracker: the one that comes with the package, or those named. Each is given the same first box and then frame after
frame, and all are scored by the same code: the success and precision curves of OTB; frames in which the object is
absent (TLD) are left out. The numbers are means over the sequences of both. frames/s: frames over the time that the
tracker itself took. What is in OUT is not made again. Where OpenCV reports a failure, the box before stands.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dropmae import registry, weights
from dropmae.inference import following
from dropmae.target import Target
from dropmae.verbs.track import SHIPPED

PROTOCOLS = {"otb": "official", "tld": "got10k"}


class Copy:
    """The first box for ever."""

    def start(self, frame: np.ndarray, target: Target) -> tuple[int, Target]:
        return 0, target

    def step(self, state: tuple[int, Target], frame: np.ndarray, prompt: None = None) -> Any:
        index, target = state
        return (index + 1, target), {index + 1: target}

    def finish(self, state: Any) -> dict[int, Target]:
        return {}


class OpenCV(Copy):
    """One of OpenCV's trackers, called as a task is called."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def start(self, frame: np.ndarray, target: Target) -> Any:
        self.tracker = self.make()
        self.tracker.init(np.ascontiguousarray(frame[..., ::-1]), tuple(round(v) for v in target.box().tolist()))
        return 0, target

    def step(self, state: tuple[int, Target], frame: np.ndarray, prompt: None = None) -> Any:
        index, target = state
        found, box = self.tracker.update(np.ascontiguousarray(frame[..., ::-1]))
        if found:
            target = Target(ids=target.ids, boxes=np.array([box], np.float64))
        return (index + 1, target), {index + 1: target}


def untrained(path: Path) -> Any:
    """The network of a weight file with the weights that training would begin with."""
    fields = weights.read_header(path)["fields"]
    torch.manual_seed(0)
    return registry.load("tasks", "vot")(**fields).eval()


def rows(files: list[Path]) -> dict[str, Callable[[], Any]]:
    """{name of the row: what makes the tracker}."""
    import cv2  # type: ignore[import-not-found]

    made: dict[str, Callable[[], Any]] = {
        "first box": Copy,
        "OpenCV KCF": lambda: OpenCV(cv2.TrackerKCF_create),
        "OpenCV CSRT": lambda: OpenCV(cv2.TrackerCSRT_create),
        "untrained": lambda: untrained(files[0]),
    }
    return made | {f"{file.parent.name}-{file.stem}": lambda file=file: weights.load(file) for file in files}


def measure(task: Any, name: str, root: Path, out: Path) -> dict[str, Any]:
    """Follows every sequence of a benchmark that is not done yet, and scores them."""
    bench: Any = registry.load("benchmarks", name)(protocol=PROTOCOLS[name])
    for sequence in bench.sequences(root):
        if not (out / f"{sequence.name}.txt").is_file():
            seconds: list[float] = []
            targets = following.follow(task, sequence, "first", seconds)
            bench.write(sequence.name, targets, out, seconds=seconds)
    truth = bench.annotations(root)
    read = bench.read(out, truth)
    report = bench.score(read, truth)
    times = {key: result.seconds[1:] for key, result in read.items()}
    return {key: {**row, "seconds": float(times[key].sum())} for key, row in report["sequences"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in PROTOCOLS:
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, nargs="*", default=[SHIPPED / "vot.safetensors"])
    given = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, {os.cpu_count()} cores")
    table: dict[str, Any] = {}
    for row, make in rows(given.weights).items():
        task = make()
        table[row] = {}
        for name in PROTOCOLS:
            table[row] |= measure(task, name, getattr(given, name), given.out / row.replace(" ", "-") / name)
    (given.out / "table.json").write_text(json.dumps(table, indent=1))
    names = list(next(iter(table.values())))
    lines = [["", "success AUC", "precision@20", "frames/s", *names], ["---"] * (4 + len(names))]
    for row, found in table.items():
        means = [np.mean([one[key] for one in found.values()]) for key in ("success_auc", "precision_20")]
        frames, seconds = (
            sum(one["frames"] - 1 for one in found.values()),
            sum(one["seconds"] for one in found.values()),
        )
        cells = [f"{value:.3f}" for value in means] + ["-" if row == "first box" else f"{frames / seconds:.0f}"]
        lines.append([row, *cells, *(f"{found[name]['success_auc']:.3f}" for name in names)])
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main()
