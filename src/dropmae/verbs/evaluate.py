"""The verbs score and evaluate: numbers for anybody's prediction files by each benchmark's own rules, and for weights.

`evaluate` makes the prediction files first, sequence by sequence: what is finished stays when it is stopped.
"""

from __future__ import annotations

import inspect
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dropmae import registry
from dropmae.inference.following import PROPAGATION, Job, claim, spread
from dropmae.progress import say
from dropmae.storage import write_json

OPTIONS = {"evaluate": PROPAGATION}
"""Verb -> folder and name of the class whose fields are its flags too."""
MANY = 12
"""Names listed before a list is cut short."""


def score(
    benchmark: str,
    *,
    results: Path,
    root: Path | None = None,
    annotations: Path | None = None,
    split: str | None = None,
    workers: int = 0,
    **settings: Any,
) -> dict[str, Any]:
    """Scores prediction files in a benchmark's official layout; no images and no model are needed.

    Sequences without results are named and do not count, so that a part of a split can be scored; the tracking
    benchmarks stop at them unless `partial` is set.

    Args:
        benchmark: which benchmark: its name, or the path of a .py file.
        root: the data set, in its usual layout.
        annotations: a file of ground truth instead of the data set, for benchmarks that read one.
        results: the folder with the predictions.
        split: which sequences; by default those that papers report.
        workers: processes that score sequences side by side; 0 is one per core. The numbers do not depend on it.
    """
    places = [Path(place) for place in (root, annotations) if place is not None]
    if len(places) != 1:
        raise ValueError("score needs the ground truth: either root, the data set's folder, or annotations, a file")
    bench = build(benchmark, settings)
    place, results = places[0], Path(results)
    if not place.exists():
        raise FileNotFoundError(f"{place}: no such {'folder' if annotations is None else 'file'}")
    if not results.exists():
        raise FileNotFoundError(f"{results}: no such folder")
    if annotations is not None and not place.is_file():
        raise FileNotFoundError(f"{place}: not a file; a data set's folder is given as root")
    truth = bench.annotations(place) if split is None else bench.annotations(place, split)
    report = measure(bench, bench.read(results, truth), truth, workers)
    report = {"benchmark": Path(benchmark).stem, **report}
    show(report)
    return report


def evaluate(
    benchmark: str,
    *,
    root: Path,
    weights: str,
    out: Path,
    split: str | None = None,
    workers: int = 0,
    device: str = "auto",
    **settings: Any,
) -> dict[str, Any]:
    """Runs weights on a benchmark: predictions in its official layout, and its numbers.

    A trained task does its own work; a pre-trained encoder carries the first labels on by training-free propagation,
    whose options are flags here. The same command on the same folder goes on where it was stopped. From a script,
    call it below `if __name__ == "__main__"`: sequences are shared among processes.

    Args:
        benchmark: which benchmark: its name, or the path of a .py file.
        root: the data set, in its usual layout.
        weights: a weight file or run folder; random:SIZE:METHOD:SEED:IMAGE is an untrained encoder.
        out: folder for predictions/ (official layout), numbers.json and notes of what is done; made if needed.
        split: which sequences; by default those that papers report.
        workers: sequences followed side by side; 0 is one per core, and one on a GPU. The numbers do not depend on it.
        device: auto, cpu, cuda or cuda:N.
    """
    known = [name for name, _, _ in registry.fields(registry.load("benchmarks", benchmark))]
    bench = build(benchmark, {name: value for name, value in settings.items() if name in known})
    rest = {name: value for name, value in settings.items() if name not in known and value is not None}
    job = Job(
        benchmark,
        {name: getattr(bench, name) for name in known},
        str(root),
        split,
        str(weights),
        rest,
        str(out),
        device,
    )
    if not Path(root).exists() and not hasattr(bench, "prepare"):
        raise FileNotFoundError(f"{root}: no such folder")
    if workers < 0:
        raise ValueError(f"workers is the number of sequences side by side, or 0 for one per core; not {workers}")
    task = job.task()
    claim(Path(out), job.describe(task))
    sequences = bench.sequences(Path(root), split)
    pending = [number for number, sequence in enumerate(sequences) if not job.note(sequence.name).is_file()]
    if len(pending) < len(sequences):
        say(f"{len(sequences) - len(pending)} of {len(sequences)} sequences are done already")
    spread(job, task, bench, sequences, pending, workers)
    truth = bench.annotations(Path(root)) if split is None else bench.annotations(Path(root), split)
    report = measure(bench, bench.read(job.predictions, truth), truth, workers)
    notes = [json.loads(job.note(sequence.name).read_text()) for sequence in sequences]
    frames, seconds = (sum(note[key] for note in notes) for key in ("frames", "seconds"))
    speed = {"frames": frames, "frames_per_second": frames / seconds if seconds else None}
    report = {"benchmark": Path(benchmark).stem, "weights": str(weights), **report, "speed": speed}
    write_json(Path(out) / "numbers.json", report)
    show(report)
    say(f"predictions are in {job.predictions}, the numbers in {Path(out) / 'numbers.json'}")
    return report


def build(benchmark: str, settings: dict[str, Any]) -> Any:
    """The benchmark with these settings; ValueError where one of them is unknown or none of its choices."""
    cls = registry.load("benchmarks", benchmark)
    kinds = {name: kind for name, kind, _ in registry.fields(cls)}
    for name, value in settings.items():
        if name not in kinds:
            raise ValueError(f"{name!r} is no setting of {benchmark}; there are: {', '.join(kinds) or 'none'}")
        if get_origin(kinds[name]) is Literal and value not in get_args(kinds[name]):
            choices = ", ".join(repr(choice) for choice in get_args(kinds[name]))
            raise ValueError(f"{name} of {benchmark} is one of {choices}, not {value!r}")
    return cls(**settings)


def measure(bench: Any, results: Any, annotations: Any, workers: int = 0) -> dict[str, Any]:
    """`bench.score`, with its sequences spread over processes where it takes a `map`."""
    if workers < 0:
        raise ValueError(f"workers is the number of processes, or 0 for one per core; not {workers}")
    if "map" not in inspect.signature(bench.score).parameters:
        return bench.score(results, annotations)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(workers or cores, max(len(results), 1))
    if workers == 1:
        return bench.score(results, annotations, map=lambda f, *rows: counted(map(f, *rows), len(rows[0])))
    # A fork needs no guarded __main__ in a script that calls this, and the workers only run NumPy and Pillow.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method)) as pool:

        def spread(function: Callable[..., Any], *rows: Any) -> Iterator[Any]:
            return counted(pool.map(function, *rows), len(rows[0]))

        try:
            return bench.score(results, annotations, map=spread)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def counted(items: Iterable[Any], total: int, seconds: float = 10.0) -> Iterator[Any]:
    """The items, with a line of progress every so many seconds."""
    said = time.perf_counter()
    for done, item in enumerate(items, 1):
        if time.perf_counter() - said > seconds and done < total:
            said = time.perf_counter()
            say(f"scored {done} of {total} sequences")
        yield item


def show(report: dict[str, Any]) -> None:
    """The numbers of a report as a table on stderr, shares in percent, and what was left out."""
    console = Console(stderr=True)
    # Metrics are shares; other numbers (speed, say) are for the JSON.
    columns = [key for key, value in report.items() if value is None or (isinstance(value, float) and abs(value) <= 1)]
    rows: dict[str, dict[str, Any]] = report.get("sequences", {})
    title = " ".join(str(report[key]) for key in ("benchmark", "year") if key in report)
    protocol = f", protocol {report['protocol']}" if "protocol" in report else ""
    protocol += f" ({report['rules']})" if "rules" in report else ""
    table = Table(title=f"{title}{protocol}, in %", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("sequence", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, *[percent(row.get(column)) for column in columns])
    table.add_section()
    table.add_row(f"all ({len(rows)})", *[percent(report[column]) for column in columns])
    for part in ("attributes", "protocols"):
        if report.get(part):
            table.add_section()
        for name, row in report.get(part, {}).items():
            count = f" ({row['count']})" if part == "attributes" else ""
            table.add_row(f"{part[:-1]} {name}{count}", *[percent(row.get(column)) for column in columns])
    console.print(table)
    for name, row in report.get("protocols", {}).items():
        if "error" in row:
            say(f"protocol {name} does not take these results: {row['error']}")
    for key, what in (("missing", "without results"), ("extra", "not of this split")):
        if names := report.get(key):
            rest = f" and {len(names) - MANY} more" if len(names) > MANY else ""
            say(f"{len(names)} sequences {what}, not counted: {', '.join(names[:MANY])}{rest}")
    for name, reason in report.get("skipped", {}).items():
        say(f"{name} not counted: {reason}")


def percent(value: Any) -> str:
    """A share for people."""
    return f"{100 * value:.1f}" if isinstance(value, (int, float)) and not isinstance(value, bool) else "-"
