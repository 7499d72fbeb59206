"""Weights on the sequences of a benchmark: several side by side, each written when it is finished."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import signal
import time
from collections.abc import Iterable
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dropmae import machine, registry
from dropmae.contracts import Benchmark
from dropmae.formats.tracks import Truth
from dropmae.interruption import Interrupted, Pool, serve, working
from dropmae.metrics.confidence import scored
from dropmae.progress import Progress
from dropmae.storage import below, noting, write_json
from dropmae.target import FIELDS, Target, misplaced, redacted, says_something, target_lines

if TYPE_CHECKING:
    from dropmae.engine import Followed

PREDICTIONS, DONE = "predictions", "done"
"""Where the official files go, and a note per finished sequence."""


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated, in terms that another process understands."""

    benchmark: str
    fields: dict[str, Any]
    root: str
    split: str | None
    weights: str
    """Not just "shipped": which of them."""
    settings: dict[str, Any]
    """Fields of the task that were given."""
    out: str
    device: str
    precision: Any
    told: tuple[str, ...] = ()
    """Fields of Target that the first label has."""

    @property
    def predictions(self) -> Path:
        return Path(self.out) / PREDICTIONS

    def bench(self) -> Benchmark:
        return registry.load("benchmarks", self.benchmark)(**self.fields)

    def note(self, name: str) -> Path:
        """Where it is noted that a sequence is done."""
        return below(Path(self.out) / DONE, f"{name}.json")

    def done(self, name: str, told: str = "") -> bool:
        """Whether a sequence is done.

        One with frames that could not be read, that is `told` otherwise, or of which a file is gone, is tried again.
        """
        note = self.note(name)
        known = json.loads(note.read_text()) if note.is_file() else {"skipped": True}
        return not known.get("skipped") and known.get("told", told) == told and not gone(note, self.predictions)

    def engine(self) -> Any:
        """The task, ready for use."""
        from dropmae.engine import Engine
        from dropmae.loading import load_task

        stem = Path(self.benchmark).stem
        task = load_task(self.weights, settings=self.settings, benchmark=stem, root=self.root, wanted=self.told)
        return Engine(task, self.device, self.precision)

    def describe(self, engine: Any) -> dict[str, Any]:
        """What makes two evaluations the same: benchmark, settings, precision and weights, which may lie anywhere."""
        from dropmae.weights import locate

        spec = self.weights if self.weights.startswith("random") else file_digest(locate(self.weights))
        return {
            "benchmark": {"name": Path(self.benchmark).stem, "split": self.split, **self.fields},
            "task": {"name": type(engine.task).__name__, **registry.settings(engine.task)},
            "weights": {"content": spec},
            "engine": {"precision": engine.precision},
        }


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def told_first(bench: Benchmark, task: Any, sequence: Any) -> str:
    """A digest of what a task is told of a sequence, where that is about its first frame; "" elsewhere."""
    if bench.prompted != "first" or not task.takes:
        return ""
    with contextlib.suppress(OSError):  # what cannot be read is named when its turn comes
        first = min(sequence.targets, default=None)
        target = None if first is None else redacted(sequence.targets[first], task.takes)
        lines = [] if first is None or target is None else target_lines("", first, target)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    return ""


def first_label(sequences: Any) -> Target | None:
    """What the first annotated frame of the first sequence tells, by which shipped weights are chosen."""
    for sequence in sequences[:1]:
        for frame in sorted(sequence.targets)[:1]:
            return sequence.targets[frame]
    return None


def gone(note: Path, predictions: Path) -> list[Path]:
    """The files of a sequence that is noted as done and that are not there any more."""
    names = json.loads(note.read_text()).get("files", ())  # notes of earlier versions do not list them
    return [predictions / name for name in names if not (predictions / name).is_file()]


def lost(results: Path) -> str:
    """Words on the files that an evaluation once wrote to a folder, its own or `predictions`, and that are gone."""
    out = results.parent if results.name == PREDICTIONS else results
    notes = sorted((out / DONE).rglob("*.json")) if (out / PREDICTIONS).is_dir() else []
    files = [file for note in notes for file in gone(note, out / PREDICTIONS)]
    if not files:
        return ""
    count = "is gone" if len(files) == 1 else f"and {len(files) - 1} more files are gone"
    return f"{files[0]} {count}, which evaluate wrote: the same evaluate command makes what is gone again"


def begun(out: Path) -> bool:
    """Whether a sequence is done in the folder of an evaluation."""
    return any((out / DONE).rglob("*.json"))


def check_prompts(bench: Benchmark, sequences: Iterable[Any]) -> None:
    """OSError that names the sequences whose first box is none, or outside the frame, and where it is written."""
    faults = []
    for sequence in sequences:
        first = min(sequence.targets, default=None)
        target = None if first is None else sequence.targets[first]
        if target is None or target.boxes is None or target.mask is not None:
            continue
        if bench.prompted == "first" and not np.isfinite(target.boxes).all(1).any():
            fault = f"there is no box in frame {first}, where following begins"
        else:
            fault = None
            with contextlib.suppress(OSError):  # a video that cannot be read is named when its turn comes
                fault = misplaced(target, sequence.video.height, sequence.video.width)
                sequence.video.close()
        if fault:
            file = sequence.targets.file if isinstance(sequence.targets, Truth) else None
            faults.append(f"{sequence.name}: {fault}" + f" ({file})" * (file is not None))
    if faults:
        rest = f"; and {len(faults) - 3} more sequences" if len(faults) > 3 else ""
        raise OSError("; ".join(faults[:3]) + rest)


def spread(job: Evaluation, engine: Any, bench: Benchmark, sequences: Any, pending: list[int], workers: int) -> None:
    """Goes through the pending sequences, several at a time; each is written as soon as it is finished.

    One that cannot be read does not stop the others: OSError names it when they are done.
    """
    cores = machine.cores()
    workers = min(workers or (1 if engine.device.type != "cpu" else cores), len(pending))
    progress = Progress(len(sequences), len(sequences) - len(pending), unit="sequence")
    failed: list[str] = []
    try:
        if workers <= 1:
            for done, number in enumerate(pending, len(sequences) - len(pending) + 1):
                try:
                    follow_and_write(job, engine, bench, sequences[number])
                except OSError as error:
                    failed.append(str(error))
                progress.show(done, {})
            refuse(failed, len(sequences))
            return
        context = multiprocessing.get_context("spawn")
        with working(Pool(workers, context, prepare_worker, (job, max(1, cores // workers)))) as pool:
            futures = [pool.submit(follow_number, number) for number in pending]
            try:
                for done, future in enumerate(as_completed(futures), len(sequences) - len(pending) + 1):
                    try:
                        future.result()
                    except OSError as error:
                        failed.append(str(error))
                    progress.show(done, {})
                refuse(failed, len(sequences))
            except BrokenProcessPool:
                raise OSError(
                    "a process was killed, perhaps for want of memory: what is finished is kept, and the same command "
                    "goes on from there; --workers 1 needs the least"
                ) from None
    except KeyboardInterrupt as error:
        done = sum(job.done(sequence.name) for sequence in sequences)
        kept = f"{done} of {len(sequences)} sequences are done, and the same command goes on"
        raise Interrupted(getattr(error, "number", signal.SIGINT), kept) from None
    finally:
        progress.close()


def refuse(failed: list[str], count: int) -> None:
    """OSError for sequences that could not be followed, if there are any."""
    if failed:
        rest = f", and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise OSError(
            f"{len(failed)} of {count} sequences could not be followed: {'; '.join(failed[:3])}{rest}. The others are "
            "done, and the same command tries these again"
        )


_worker: tuple[Evaluation, Any, Benchmark, Any]


def prepare_worker(job: Evaluation, threads: int) -> None:
    """Makes everything anew in another process."""
    global _worker
    import torch

    serve()
    torch.set_num_threads(threads)
    bench = job.bench()
    _worker = (job, job.engine(), bench, bench.sequences(Path(job.root), job.split))


def follow_number(number: int) -> None:
    """Goes through one sequence in another process."""
    job, engine, bench, sequences = _worker
    follow_and_write(job, engine, bench, sequences[number])


def follow_and_write(job: Evaluation, engine: Any, bench: Benchmark, sequence: Any) -> None:
    """Goes through one sequence, writes its official files, and notes that it is done."""
    started = time.perf_counter()
    found = answers(engine, bench, sequence)
    seconds = time.perf_counter() - started
    missing = {number: bench.missed(found.targets[number]) for number in {*found.missed, *found.skipped}}
    with noting() as files:
        bench.write(sequence.name, {**found.targets, **missing}, job.predictions, seconds=found.seconds)
    inside = [file.relative_to(job.predictions).as_posix() for file in files if file.is_relative_to(job.predictions)]
    note: dict[str, Any] = {"frames": len(found.targets), "seconds": round(seconds, 3), "files": inside}
    note |= {"skipped": found.skipped} if found.skipped else {}
    note |= {"missed": len(found.missed)} if found.missed else {}
    note |= {"told": told} if (told := told_first(bench, engine.task, sequence)) else {}
    tracks = [(one, np.isfinite(one.scores)) for one in scored(found.targets, sequence.targets)]
    note["confidence"] = [[part[known].round(4).tolist() for part in one] for one, known in tracks if known.any()]
    write_json(job.note(sequence.name), note)
    sequence.video.close()


def answers(engine: Any, bench: Benchmark, sequence: Any) -> Followed:
    """What the task answers for a sequence, told what the benchmark tells; what is given stands for itself.

    OSError where nothing is annotated, ValueError where nothing that the task takes is.
    """
    from dropmae.engine import follow, prompts_of

    takes = engine.task.takes
    prompts = prompts_of(sequence.targets, bench.prompted, takes)
    if takes and not prompts:
        first = min(sequence.targets, default=None)
        if first is None or not says_something(redacted(sequence.targets[first], FIELDS)):
            where = "nothing is annotated" if first is None else f"nothing is annotated in frame {first}"
            raise OSError(f"{sequence.name}: {where}, so there is nothing to follow")
        name = type(engine.task).__name__.lower()
        raise ValueError(f"{sequence.name}: frame {first} tells nothing that {name} takes ({' or '.join(takes)})")
    return follow(engine, sequence.video, prompts, bench.direction)
