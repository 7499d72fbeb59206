"""What `dropmae convert shipped:vot FOLDER` writes, beside `dropmae track`: the same boxes? how fast? how large?

Use: python recipes/embedded.py FOLDER [--otb DIR ...] [--binary TRACKER] [--times DIR] [--rounds 5] [--steps 60]

FOLDER is that folder and TRACKER its tracker.cpp, compiled. Boxes: every sequence in the layout of OTB below each DIR
is followed from its first box by `track` in float32, and by tracker.py and TRACKER with either network; the numbers are
the largest and the 95th percentile of how far x, y, width or height is off, in pixels, and the success AUC. Times:
milliseconds of a step on one thread, crops included and decoding not, of 1, 4 and 10 objects in the frames of the first
sequence in DIR; the ways take turns, and of the rounds the one with the least median counts. TRACKER's is its wall time
over all steps, reading pictures from a pipe included. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dropmae
from dropmae import registry
from dropmae.engine import Engine
from dropmae.loading import load_task
from dropmae.metrics.boxes import iou
from dropmae.target import Target

OBJECTS = (1, 4, 10)
WITHOUT = ("onnxruntime", "numpy", "flatbuffers", "packaging", "protobuf")
"""What the folder needs, with what that needs."""
WITH = ("torch", "numpy", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec", "setuptools")
"""PyTorch with what it needs; `dropmae` itself, PyAV and the rest are not counted."""


def tracker_class(folder: Path) -> Any:
    """`Tracker` of the tracker.py in a folder."""
    spec = importlib.util.spec_from_file_location("embedded_tracker", folder / "tracker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Tracker


def ppm(frame: np.ndarray) -> bytes:
    return b"P6 %d %d 255\n" % (frame.shape[1], frame.shape[0]) + frame.tobytes()


def by_python(tracker: Any, frames: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    tracker.start(frames[0], boxes)
    return np.stack([boxes, *(tracker.step(frame)[0] for frame in frames[1:])])


def by_binary(binary: Path, folder: Path, frames: np.ndarray, boxes: np.ndarray, *more: str) -> np.ndarray:
    words = [str(binary), str(folder), *map(str, boxes.ravel().tolist()), *more]
    data = b"".join(map(ppm, frames))
    done = subprocess.run(words, input=data, stdout=subprocess.PIPE, check=True)
    return np.array([line.split() for line in done.stdout.decode().splitlines()], float)[:, 2:6].reshape(
        len(frames), -1, 4
    )


def by_track(weights: str, frames: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    steps = dropmae.track(frames, weights=weights, box=tuple(boxes.ravel().tolist()), precision="fp32")
    return np.stack([target.boxes for _, target in steps])


def compare(given: argparse.Namespace) -> None:
    """The table of boxes."""
    make = tracker_class(given.folder)
    rows: dict[str, list[tuple[float, float, float]]] = {}
    print("| sequence | frames | | " + "most, px | 95 %, px | AUC |\n|---|---|---|---|---|---|")
    for root in given.otb:
        for sequence in registry.load("benchmarks", "otb")(protocol="official").sequences(root):
            frames = np.stack(list(sequence.video))
            numbers = sorted(sequence.targets)
            truth = {number: sequence.targets[number].box() for number in numbers}
            first = truth[numbers[0]][None]
            found = {"track, fp32": by_track(given.weights, frames, first)}
            for name, int8 in (("float", False), ("int8", True)):
                found[f"Python, {name}"] = by_python(make(given.folder, int8=int8), frames, first)
                if given.binary:
                    words = ("--int8",) if int8 else ()
                    found[f"C++, {name}"] = by_binary(given.binary, given.folder, frames, first, *words)
            for name, boxes in found.items():
                off = np.abs(boxes - found["track, fp32"])[1:]
                overlap = np.array([iou(boxes[n], truth[n][None])[0] for n in numbers[1:]])
                auc = float(np.mean([(overlap > step).mean() for step in np.linspace(0, 1, 21)]))
                row = float(off.max()), float(np.percentile(off, 95)), auc
                rows.setdefault(name, []).append(row)
                print(
                    f"| {sequence.name} | {len(frames)} | {name} | {row[0]:.3f} | {row[1]:.3f} | {auc:.3f} |",
                    flush=True,
                )
    for name, values in rows.items():
        most, usual, auc = np.array(values).T
        print(f"| all | | {name} | {most.max():.3f} | {np.median(usual):.3f} | {auc.mean():.3f} |")


def ways(given: argparse.Namespace, frames: np.ndarray, boxes: np.ndarray) -> dict[str, Callable[[], list[float]]]:
    """Functions that follow `boxes` through `frames` once, and give the seconds of each step."""
    make = tracker_class(given.folder)
    target = Target(ids=np.arange(1, len(boxes) + 1), boxes=boxes)

    def by_torch(engine: Engine) -> list[float]:
        session = engine.session({0: target})
        list(session.follow(enumerate(frames)))
        return session.seconds[1:]

    def by_onnxruntime(tracker: Any) -> list[float]:
        tracker.start(frames[0], boxes)
        seconds = []
        for frame in frames[1:]:
            before = time.perf_counter()
            tracker.step(frame)
            seconds.append(time.perf_counter() - before)
        return seconds

    def by_process(*more: str) -> list[float]:
        taken = []
        for part in (frames[:1], frames):
            before = time.perf_counter()
            by_binary(given.binary, given.folder, part, boxes, *more)
            taken.append(time.perf_counter() - before)
        return [(taken[1] - taken[0]) / (len(frames) - 1)]

    made: dict[str, Callable[[], list[float]]] = {}
    for precision in ("fp32", "bf16", "int8"):
        engine = Engine(load_task(given.weights), "cpu", precision)
        made[f"torch, {precision}"] = partial(by_torch, engine)
    for name, int8 in (("float", False), ("int8", True)):
        tracker = make(given.folder, int8=int8)
        made[f"Python, {name}"] = partial(by_onnxruntime, tracker)
        if given.binary:
            made[f"C++, {name}"] = partial(by_process, *["--int8"] * int8)
    return made


def measure(given: argparse.Namespace) -> None:
    """The table of times."""
    sequence = next(iter(registry.load("benchmarks", "otb")(protocol="official").sequences(given.times)))
    frames = np.stack([sequence.video[n % len(sequence.video)] for n in range(given.steps + 1)])
    first = sequence.targets[min(sequence.targets)].box()
    print(f"{sequence.name}, {frames.shape[2]}x{frames.shape[1]}, {given.steps} steps, best of {given.rounds}")
    print("| objects | | p50, ms | p99, ms |\n|---|---|---|---|")
    for count in OBJECTS:
        shift = np.arange(count)[:, None] * np.array([[7.0, 3.0, 0.0, 0.0]])
        best: dict[str, np.ndarray] = {}
        made = ways(given, frames, first + shift)
        for _ in range(given.rounds):
            for name, run in made.items():
                taken = 1000 * np.array(run())
                if name not in best or np.median(taken) < np.median(best[name]):
                    best[name] = taken
        for name, taken in best.items():
            late = f"{np.percentile(taken, 99):.1f}" if len(taken) > 1 else "-"
            print(f"| {count} | {name} | {np.median(taken):.1f} | {late} |", flush=True)


def weigh(given: argparse.Namespace) -> None:
    """Bytes on the disk."""
    for title, names in (("without torch", WITHOUT), ("torch", WITH)):
        files = [file for name in names for file in importlib.metadata.files(name) or []]
        total = sum(Path(str(file.locate())).stat().st_size for file in files if Path(str(file.locate())).is_file())
        print(f"{title}: {total / 1e6:.0f} MB ({', '.join(names)})")
    for file in sorted(given.folder.iterdir()):
        print(f"{file.name}: {file.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", default="shipped:vot")
    parser.add_argument("--otb", type=Path, nargs="*", default=[])
    parser.add_argument("--binary", type=Path)
    parser.add_argument("--times", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    print(f"{torch.get_num_threads()} threads of torch")
    weigh(given)
    if given.otb:
        compare(given)
    if given.times:
        measure(given)


if __name__ == "__main__":
    main()
