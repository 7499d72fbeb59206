"""One table of trackers on sequences in the layouts of OTB and TLD, and on videos with a targets.jsonl.

Use: python recipes/sot-table.py [--otb DIR] [--tld DIR] [--folder DIR] --out OUT [--weights FILE ...]

Rows: a copy of the first box, OpenCV's KCF and CSRT (the extra `bench`), the tracker's network with random weights, and
the tracker: the one that comes with the package, or those named. Each is given the same first box and then frame after
frame, and all are scored by the same code: the success and precision curves of OTB; frames in which the object is
absent (TLD) are left out. The numbers are means over the sequences of all. frames/s: frames over the time that the
tracker itself took. What is in OUT is not made again. Where OpenCV reports a failure, the box before stands.

hand-boxes.jsonl beside this file is such a targets.jsonl: boxes drawn by eye, to about 3 pixels, in five or six frames
of each of 13 clips of 256 rows that no setting of the tracker was chosen on, before any tracker had been run there.
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
from dropmae.contracts import Task
from dropmae.engine import Engine, follow, prompts_of
from dropmae.target import Target
from dropmae.weights import SHIPPED

PROTOCOLS: dict[str, dict[str, str]] = {"otb": {"protocol": "official"}, "tld": {"protocol": "got10k"}, "folder": {}}


class Copy(Task):
    """The first box for ever."""

    takes = ("boxes",)
    gives = ("boxes",)

    def start(self, frame: np.ndarray, target: Target) -> tuple[int, Target]:
        return 0, target

    def step(self, state: tuple[int, Target], frame: np.ndarray, prompt: None = None) -> Any:
        index, target = state
        return (index + 1, target), {index + 1: target}


class OpenCV(Copy):
    """One of OpenCV's trackers, called as a task is called."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
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
    bench: Any = registry.load("benchmarks", name)(**PROTOCOLS[name])
    times: dict[str, list[float]] = {}
    for sequence in bench.sequences(root):
        clock = out / f"{sequence.name}.times"
        if not clock.is_file():
            engine = Engine(task, "cpu", "fp32")
            found = follow(engine, sequence.video, prompts_of(sequence.targets, "first", task.takes))
            bench.write(sequence.name, found.targets, out)
            clock.write_text(json.dumps(found.seconds))
        times[sequence.name] = json.loads(clock.read_text())[1:]
    truth = bench.annotations(root)
    report = bench.score(bench.read(out, truth), truth)["sequences"]
    return {key: {**row, "frames": len(times[key]), "seconds": sum(times[key])} for key, row in report.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in PROTOCOLS:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, nargs="*", default=[SHIPPED / "vot.safetensors"])
    given = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, {os.cpu_count()} cores")
    table: dict[str, Any] = {}
    for row, make in rows(given.weights).items():
        task = make()
        table[row] = {}
        for name in PROTOCOLS:
            if getattr(given, name):
                table[row] |= measure(task, name, getattr(given, name), given.out / row.replace(" ", "-") / name)
    (given.out / "table.json").write_text(json.dumps(table, indent=1))
    names = list(next(iter(table.values())))
    lines = [["", "success AUC", "precision@20", "frames/s", *names], ["---"] * (4 + len(names))]
    for row, found in table.items():
        means = [np.mean([one[key] for one in found.values()]) for key in ("success_auc", "precision_20")]
        frames, seconds = (sum(one[key] for one in found.values()) for key in ("frames", "seconds"))
        cells = [f"{value:.3f}" for value in means] + ["-" if row == "first box" else f"{frames / seconds:.0f}"]
        lines.append([row, *cells, *(f"{found[name]['success_auc']:.3f}" for name in names)])
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main()
