"""Weights at work on the sequences of a benchmark: several at a time, each written when it is finished."""

from __future__ import annotations

import hashlib
import inspect
import json
import multiprocessing
import os
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dropmae import registry
from dropmae.progress import Progress
from dropmae.storage import write_json
from dropmae.target import Target, mask_boxes

PROPAGATION = ("tasks", "propagation")
"""Folder and name of what makes a tracker of a bare encoder."""
PREDICTIONS, DONE = "predictions", "done"
"""Where the official files go, and a note per finished sequence."""


@dataclass(frozen=True)
class Job:
    """What is evaluated, in terms that another process understands."""

    benchmark: str
    fields: dict[str, Any]
    root: str
    split: str | None
    weights: str
    options: dict[str, Any]
    """Options of the propagation that were given."""
    out: str
    device: str

    @property
    def predictions(self) -> Path:
        return Path(self.out) / PREDICTIONS

    def note(self, name: str) -> Path:
        """Where it is noted that a sequence is done."""
        return Path(self.out) / DONE / f"{name}.json"

    def task(self) -> Any:
        """The trained task, or a propagation with the encoder, on the device."""
        from dropmae import weights as files
        from dropmae.training import distributed

        device = distributed.pick_device(self.device)
        if self.weights == "random" or self.weights.startswith("random:"):
            module = untrained(self.weights)
        else:
            module = files.load(self.weights)
        cls = registry.load(*PROPAGATION)
        if hasattr(module, "step"):
            defaults = {name: default for name, _, default in registry.fields(cls)}  # what the command line fills in
            chosen = [name for name, value in self.options.items() if value != defaults.get(name)]
            if chosen:
                raise ValueError(
                    f"{self.weights} is a trained {type(module).__name__}: {', '.join(sorted(chosen))} are "
                    "options of propagation, with which encoders are evaluated"
                )
            return module.to(device).eval()
        unknown = sorted(self.options.keys() - {name for name, _, _ in registry.fields(cls)})
        if unknown:
            raise ValueError(f"neither {self.benchmark} nor the propagation has a setting {', '.join(unknown)}")
        task = cls.for_benchmark(Path(self.benchmark).stem, **self.options)
        task.encoder = module.encoder
        return task.to(device).eval()

    def describe(self, task: Any) -> dict[str, Any]:
        """What makes two evaluations the same: benchmark, settings and weights, which may lie anywhere."""
        from dropmae.weights import locate

        spec = self.weights
        if not spec.startswith("random"):
            with open(locate(spec), "rb") as file:
                spec = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "benchmark": {"name": Path(self.benchmark).stem, "split": self.split, **self.fields},
            "task": {"name": type(task).__name__, **registry.settings(task)},
            "weights": {"content": spec},
        }


def untrained(spec: str) -> Any:
    """A method with the weights it would start training with: random:SIZE:METHOD:SEED:IMAGE, any end may miss.

    IMAGE is the side in pixels of the frames it would train on, from whose grid positions are resized.
    """
    import torch

    words = [*spec.split(":")[1:], "", "", "", ""][:4]
    size, method, seed, image = (word or default for word, default in zip(words, ("tiny", "mae", "0", "224")))
    if spec.count(":") > 4 or not seed.isdecimal() or not image.isdecimal():
        raise ValueError(
            f"untrained weights are written random:SIZE:METHOD:SEED:IMAGE, random:tiny:mae:0:224 say, not {spec!r}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed))
        return registry.load("methods", method)(size=size, image=int(image)).eval()


def claim(out: Path, config: dict[str, Any]) -> None:
    """Makes `out` the folder of this evaluation, or checks that it already is; ValueError that names what differs."""
    config = json.loads(json.dumps(config, default=str))
    path = out / "config.json"
    if path.is_file():
        old = json.loads(path.read_text())
        differing = [
            f"{part}.{name} was {old.get(part, {}).get(name)!r}, now {config[part].get(name)!r}"
            for part in config
            for name in sorted({*config[part], *old.get(part, {})})
            if old.get(part, {}).get(name) != config[part].get(name)
        ]
        if differing:
            raise ValueError(f"{out} belongs to another evaluation: {'; '.join(differing)}. Choose another --out")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is no folder of an evaluation; choose another --out")
    else:
        write_json(path, config)


def spread(job: Job, task: Any, bench: Any, sequences: list[Any], pending: list[int], workers: int) -> None:
    """Follows the pending sequences, several at a time; each is written as soon as it is finished."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    on_gpu = next(task.encoder.parameters()).device.type != "cpu"
    workers = min(workers or (1 if on_gpu else cores), len(pending))
    progress = Progress(len(sequences), len(sequences) - len(pending))
    try:
        if workers <= 1:
            for done, number in enumerate(pending, len(sequences) - len(pending) + 1):
                follow_and_write(job, task, bench, sequences[number])
                progress.show(done, {})
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, prepare_worker, (job, max(1, cores // workers))) as pool:
            futures = [pool.submit(follow_number, number) for number in pending]
            try:
                for done, future in enumerate(as_completed(futures), len(sequences) - len(pending) + 1):
                    future.result()
                    progress.show(done, {})
            except BrokenProcessPool:
                raise OSError(
                    "a process was killed, perhaps for want of memory: what is finished is kept, and the same command "
                    "goes on from there; --workers 1 needs the least"
                ) from None
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        progress.close()


_worker: tuple[Job, Any, Any, list[Any]]


def prepare_worker(job: Job, threads: int) -> None:
    """Makes everything anew in another process."""
    global _worker
    import torch

    torch.set_num_threads(threads)
    bench = registry.load("benchmarks", job.benchmark)(**job.fields)
    _worker = (job, job.task(), bench, bench.sequences(Path(job.root), job.split))


def follow_number(number: int) -> None:
    """Follows one sequence in another process."""
    job, task, bench, sequences = _worker
    follow_and_write(job, task, bench, sequences[number])


def follow_and_write(job: Job, task: Any, bench: Any, sequence: Any) -> None:
    """Follows one sequence, writes its official files, and notes that it is done."""
    started, each = time.perf_counter(), list[float]()
    targets = follow(task, sequence, getattr(bench, "prompted", "first"), each)
    seconds = time.perf_counter() - started
    times = {"seconds": each} if "seconds" in inspect.signature(bench.write).parameters else {}
    bench.write(sequence.name, targets, job.predictions, **times)
    write_json(job.note(sequence.name), {"frames": len(targets), "seconds": round(seconds, 3)})
    sequence.video.close()


def follow(
    task: Any, sequence: Any, prompted: Literal["first", "appearance"], seconds: list[float] | None = None
) -> dict[int, Target]:
    """Targets of every frame from the first that is given on; what is given stands for itself.

    `prompted` says what a benchmark tells: the first annotated frame, or each object and point where it first shows.
    What the task takes for each frame, without reading it, is added to `seconds`.
    """
    given = prompts(sequence.targets, prompted)
    if not given:
        raise OSError(f"{sequence.name}: nothing is annotated, so there is nothing to follow")
    start = min(given)
    found: dict[int, Target] = {start: given[start]}
    state = None
    for index, frame in enumerate(sequence.video[start:], start):
        before, targets = time.perf_counter(), {}
        if state is None:
            state = task.start(frame, given[start])
        else:
            state, targets = task.step(state, frame, given.get(index))
        if seconds is not None:
            seconds.append(time.perf_counter() - before)
        found |= {start + number: target for number, target in targets.items()}
    found |= {start + number: target for number, target in task.finish(state).items()}
    return found


def prompts(targets: Mapping[int, Target], prompted: Literal["first", "appearance"]) -> dict[int, Target]:
    """{frame: what a tracker is told about it}."""
    frames = sorted(targets)
    if prompted == "first":
        return {frames[0]: targets[frames[0]]} if frames else {}
    told: dict[int, Target] = {}
    seen: set[int] = set()
    shown: np.ndarray | None = None
    for frame in frames:
        target = targets[frame]
        fresh, points = [number for number in present(target) if number not in seen], None
        if target.points is not None:
            new = np.asarray(np.isfinite(target.points).all(1))
            new = new if target.visible is None else new & np.asarray(target.visible, bool)
            new = new if shown is None else new & ~shown
            shown = new if shown is None else shown | new
            if new.any() or not told:
                points = np.where(new[:, None], target.points, np.nan)
        if not fresh and points is None:
            continue
        seen |= set(fresh)
        told[frame] = replace(only(target, fresh), points=points, owners=target.owners, visible=None)
    return told


def present(target: Target) -> list[int]:
    """Objects that a target shows, in its mask or by a box."""
    if target.mask is not None:
        return mask_boxes(target.mask)[0].tolist()
    if target.boxes is None:
        return []
    return target.ids[np.isfinite(target.boxes).all(1)].tolist()


def only(target: Target, ids: list[int]) -> Target:
    """What a target says of some objects."""
    rows = np.isin(target.ids, ids)
    mask = None if target.mask is None else np.where(np.isin(target.mask, ids), target.mask, 0)
    numbers = np.array(ids, np.int64) if mask is not None else target.ids[rows]
    boxes = None if target.boxes is None or mask is not None else target.boxes[rows]
    return Target(ids=numbers, boxes=boxes, mask=mask)
