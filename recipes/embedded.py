"""What `dropmae convert shipped:vot FOLDER` writes, beside `dropmae track`: the same boxes? how fast? how large?

Use: python recipes/embedded.py FOLDER [--otb DIR ... --final [TITLE]] [--log FILE] [--binary TRACKER] [--times DIR]
         [--rounds 5] [--steps 60]

FOLDER is that folder and TRACKER its tracker.cpp, compiled. Boxes: every sequence in the layout of OTB below each DIR
is followed from its first box by `track` in float32, and by tracker.py and TRACKER with either network; the numbers are
the largest and the 95th percentile of how far x, y, width or height is off, in pixels, and the success AUC. Such sets
are for reporting: this needs --final, and puts the look on record in docs/log.md (or FILE). Times: milliseconds of a
step on one thread, crops included and decoding not, of 1, 4 and 10 objects in the frames of the first sequence in DIR.
The ways take turns. CPU time is over all rounds, and does not count what else the machine does; wall time is of the
round with the least median. TRACKER's is from a picture going into its pipe to the boxes coming out. Set
OMP_NUM_THREADS=1.
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

import looks  # beside this file
import numpy as np
import torch

import dropmae
from dropmae import registry
from dropmae.data.boxtracks import tracks_of
from dropmae.engine import Engine
from dropmae.loading import load_task
from dropmae.metrics.boxes import centre_distances, iou
from dropmae.rendering.synth import Rendering, render
from dropmae.target import Target

OBJECTS = (1, 4, 10)
CLIPS = 10
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
    commit = looks.commit()
    for root in given.otb:
        worth: dict[str, list[tuple[float, float]]] = {}
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
                far = np.array([centre_distances(boxes[n][None], truth[n][None])[0] for n in numbers[1:]])
                worth.setdefault(name, []).append((auc, float((far <= 20).mean())))
                print(
                    f"| {sequence.name} | {len(frames)} | {name} | {row[0]:.3f} | {row[1]:.3f} | {auc:.3f} |",
                    flush=True,
                )
        for name, pairs in worth.items():
            tracker, place = f"{given.weights} ({name})", f"otb: {root.resolve().name}"
            looks.record(given.log, given.final, commit, tracker, place, len(pairs), *np.mean(pairs, axis=0).tolist())
    for name, values in rows.items():
        most, usual, auc = np.array(values).T
        print(f"| all | | {name} | {most.max():.3f} | {np.median(usual):.3f} | {auc.mean():.3f} |")


def apart(given: argparse.Namespace) -> None:
    """How far one step's box in 8 bits is from that in float32, from the same place, in sides of the object."""
    make = tracker_class(given.folder)
    one, other = make(given.folder), make(given.folder, int8=True)
    found = []
    for number in range(CLIPS):
        frames, targets = render(777, number, Rendering(frames=10, size=(200, 240), points=0, flow=False))
        boxes = np.stack([boxes[0] for seen, boxes in tracks_of(targets).values() if seen[0] == 0])
        one.start(frames[0], boxes)
        other.start(frames[0], boxes)
        other._errors = one._errors
        for frame in frames[1:]:
            other.boxes = one.boxes.copy()
            sides = np.sqrt(one.boxes[:, 2:].prod(1))
            found.append(np.abs(other.step(frame)[0] - one.step(frame)[0]).max(1) / sides)
    usual, much, most = (100 * np.percentile(np.concatenate(found), share) for share in (50, 95, 100))
    count = sum(map(len, found))
    print(f"int8, {count} single steps: {usual:.2f} % of a side, 95 % of them {much:.2f} %, most {most:.2f} %")


class Clock:
    """Wall time and CPU time between calls: of this thread, or of a process's first one (Linux)."""

    def __init__(self, process: int | None = None) -> None:
        self.process, self.seconds = process, list[tuple[float, float]]()
        self.before = self.now()

    def now(self) -> tuple[float, float]:
        if self.process is None:
            return time.perf_counter(), time.thread_time()
        return time.perf_counter(), int(Path(f"/proc/{self.process}/schedstat").read_text().split()[0]) / 1e9

    def start(self) -> None:
        self.before = self.now()

    def stop(self) -> None:
        now = self.now()
        self.seconds.append((now[0] - self.before[0], now[1] - self.before[1]))


def ways(given: argparse.Namespace, frames: np.ndarray, boxes: np.ndarray) -> dict[str, Callable[[], Clock]]:
    """Functions that follow `boxes` through `frames` once, and give the seconds of each step."""
    make = tracker_class(given.folder)
    target = Target(ids=np.arange(1, len(boxes) + 1), boxes=boxes)

    def by_torch(engine: Engine) -> Clock:
        session, clock = engine.session({0: target}), Clock()
        for number, frame in enumerate(frames):
            clock.start()
            session.push(number, frame)
            clock.stop()
        return clock

    def by_onnxruntime(tracker: Any) -> Clock:
        tracker.start(frames[0], boxes)
        clock = Clock()
        for frame in frames:
            clock.start()
            tracker.step(frame)
            clock.stop()
        return clock

    def by_process(*more: str) -> Clock:
        words = [str(given.binary), str(given.folder), *map(str, boxes.ravel().tolist()), *more]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            clock = Clock(process.pid)
            for data in map(ppm, frames):
                clock.start()
                process.stdin.write(data)
                process.stdin.flush()
                for _ in boxes:
                    process.stdout.readline()
                clock.stop()
        return clock

    made: dict[str, Callable[[], Clock]] = {}
    for precision in ("fp32", "bf16", "int8"):
        made[f"torch, {precision}"] = partial(by_torch, Engine(load_task(given.weights), "cpu", precision))
    for name, int8 in (("float", False), ("int8", True)):
        made[f"Python, {name}"] = partial(by_onnxruntime, make(given.folder, int8=int8))
        if given.binary:
            made[f"C++, {name}"] = partial(by_process, *["--int8"] * int8)
    return made


def measure(given: argparse.Namespace) -> None:
    """The table of times."""
    sequence = next(iter(registry.load("benchmarks", "otb")(protocol="official").sequences(given.times)))
    frames = np.stack([sequence.video[n % len(sequence.video)] for n in range(given.steps + 1)])
    first = sequence.targets[min(sequence.targets)].box()
    print(f"{sequence.name}, {frames.shape[2]}x{frames.shape[1]}, {given.rounds} rounds of {given.steps} steps")
    print("| objects | | CPU p50, ms | CPU p99, ms | wall p50, ms | wall p99, ms |\n|---|---|---|---|---|---|")
    for count in OBJECTS:
        shift = np.arange(count)[:, None] * np.array([[7.0, 3.0, 0.0, 0.0]])
        made = ways(given, frames, first + shift)
        rounds: dict[str, list[np.ndarray]] = {name: [] for name in made}
        for _ in range(given.rounds):
            for name, run in made.items():
                rounds[name].append(1000 * np.array(run().seconds[1:]))  # [steps, 2]
        for name, taken in rounds.items():
            best = min(taken, key=lambda one: float(np.median(one[:, 0])))[:, 0]
            used = np.concatenate(taken)[:, 1]
            cells = (np.percentile(values, share) for values in (used, best) for share in (50, 99))
            print(f"| {count} | {name} | {' | '.join(f'{cell:.1f}' for cell in cells)} |", flush=True)


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
    looks.add_options(parser)
    given = parser.parse_args()
    if given.otb and given.final is None:
        parser.error(looks.refusal(", ".join(str(root) for root in given.otb)))
    print(f"{torch.get_num_threads()} threads of torch")
    weigh(given)
    apart(given)
    if given.otb:
        compare(given)
    if given.times:
        measure(given)


if __name__ == "__main__":
    main()
