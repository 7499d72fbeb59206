"""The verbs score and evaluate: numbers for anybody's prediction files by each benchmark's own rules, and for weights.

`evaluate` makes the prediction files first, sequence by sequence: what is finished stays when it is stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import numpy as np

from dropmae import machine, registry
from dropmae.contracts import Precision
from dropmae.evaluation import Evaluation, begun, check_prompts, first_label, gone, lost, spread, told_first
from dropmae.formats.results import distinct_names
from dropmae.interruption import Pool, Stop, serve, working
from dropmae.metrics.confidence import Scored, confidence_numbers
from dropmae.names import relative_names
from dropmae.progress import say
from dropmae.runs import opened
from dropmae.storage import write_json
from dropmae.target import FIELDS
from dropmae.visualize import plots as curves
from dropmae.visualize.tables import Form, present

if TYPE_CHECKING:
    Folders = Any
else:  # what a command line can say; in Python one path will do
    Folders = tuple[Path, ...]


def score(
    benchmark: str,
    *,
    results: Folders,
    root: Path | None = None,
    annotations: Path | None = None,
    split: str | None = None,
    names: tuple[str, ...] = (),
    table: Form | None = None,
    beside: Literal["published"] | None = None,
    plots: Path | None = None,
    workers: int = 0,
    overwrite: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Scores prediction files in a benchmark's official layout; no images and no model are needed.

    Several results are shown side by side, the best first. Sequences without results are named and do not count, so
    that a part of a split can be scored; the tracking benchmarks stop at them unless `partial` is set.

    Args:
        benchmark: which benchmark: its name, or the path of a .py file.
        root: the data set, in its usual layout.
        annotations: a file of ground truth instead of the data set, for benchmarks that read one.
        results: the folder with the predictions; several trackers' folders are compared.
        split: which sequences; by default those that papers report.
        names: what the trackers are called, in the order of `results`; by default what their paths differ in.
        table: print the table on stdout, as CSV (shares in [0, 1]), Markdown or LaTeX.
        beside: "published" adds the numbers of papers; what was scored by other rules is marked and not ranked.
        plots: folder for success.png, precision.png and norm_precision.png, with a curve for each tracker.
        workers: processes that score sequences side by side; 0 is one per core. The numbers do not depend on it.
        overwrite: replace pictures in `plots` that are something else.
    """
    curves.check_plots(plots, overwrite=overwrite)
    places = [Path(place) for place in (root, annotations) if place is not None]
    if len(places) != 1:
        raise ValueError("score needs the ground truth: either root, the data set's folder, or annotations, a file")
    folders = [Path(results)] if isinstance(results, (str, Path)) else [Path(folder) for folder in results]
    if names and len(names) != len(folders):
        raise ValueError(f"{len(names)} names for {len(folders)} results")
    bench = build(benchmark, settings)
    place = places[0]
    if not place.exists():
        raise FileNotFoundError(f"{place}: no such {'folder' if annotations is None else 'file'}")
    for folder in folders:
        if not folder.exists():
            raise FileNotFoundError(f"{folder}: no such folder")
    if annotations is not None and not place.is_file():
        raise FileNotFoundError(f"{place}: not a file; a data set's folder is given as root")
    truth = bench.annotations(place) if split is None else bench.annotations(place, split)
    reports: dict[str, dict[str, Any]] = {}
    for name, folder in zip(names or distinct_names(folders), folders):
        words = lost(folder)
        try:
            found = measure(bench, bench.read(folder, truth), truth, workers)
        except OSError as error:
            if not words:
                raise
            raise type(error)(f"{error}; {words}") from None
        if words:
            say(f"{folder}: {words}")
        reports[name] = {"benchmark": Path(benchmark).stem, **found}
    show(bench, reports, table, beside, plots)
    return (
        next(iter(reports.values())) if len(reports) == 1 else {"benchmark": Path(benchmark).stem, "results": reports}
    )


def evaluate(
    benchmark: str,
    *,
    root: Path,
    weights: str = "shipped",
    out: Path,
    split: str | None = None,
    table: Form | None = None,
    beside: Literal["published"] | None = None,
    plots: Path | None = None,
    set: tuple[str, ...] = (),
    workers: int = 0,
    device: str = "auto",
    precision: Precision = "fp32",
    overwrite: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Runs weights on a benchmark: predictions in its official layout, and its numbers.

    A trained task does its own work; a pre-trained encoder carries the first labels on by training-free propagation.
    The same command on the same folder goes on where it was stopped. Frames that cannot be read count as missed and
    are named; their sequences, and those whose files are gone, are tried again by the next such command. From a
    script, call it below `if __name__ == "__main__"`: sequences are shared among processes.

    Args:
        benchmark: which benchmark: its name, or the path of a .py file.
        root: the data set, in its usual layout.
        weights: a weight file or run folder; shipped:NAME comes with the package, and shipped is what fits the
            benchmark; random:SIZE:METHOD:SEED:IMAGE is an untrained encoder.
        out: folder for predictions/ (official layout), numbers.json and notes of what is done; made if needed.
        split: which sequences; by default those that papers report.
        table: print the table on stdout, as CSV (shares in [0, 1]), Markdown or LaTeX.
        beside: "published" adds the numbers of papers; what was scored by other rules is marked and not ranked.
        plots: folder for success.png, precision.png and norm_precision.png.
        set: name=value of the task's settings: those that may change after training, or any where the weights are an
            encoder.
        workers: sequences followed side by side; 0 is one per core, and one on a GPU. The numbers do not depend on it.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32 is what official numbers are made in; auto is what `track` takes.
        overwrite: replace pictures in `plots` that are something else.
    """
    from dropmae.loading import named  # needs torch, which scoring does not

    curves.check_plots(plots, overwrite=overwrite)
    known = [name for name, _, _ in registry.fields(registry.load("benchmarks", benchmark))]
    bench = build(benchmark, {name: value for name, value in settings.items() if name in known})
    rest = {name: value for name, value in settings.items() if name not in known and value is not None}
    rest |= registry.assignments(set)
    if workers < 0:
        raise ValueError(f"workers is the number of sequences side by side, or 0 for one per core; not {workers}")
    bench.prepare(Path(root))
    sequences = bench.sequences(Path(root), split)
    relative_names((sequence.name for sequence in sequences), root)  # they become names of files below `out`
    fields = {name: getattr(bench, name) for name in known}
    spec = named(weights, label := first_label(sequences))
    told = tuple(name for name in FIELDS if label is not None and getattr(label, name) is not None)
    job = Evaluation(benchmark, fields, str(root), split, spec, rest, str(out), device, precision, told)
    engine = job.engine()
    config, before = job.describe(engine), {"engine": {"precision": "fp32"}}  # had no choice once
    parts = ("benchmark", "task", "weights", "engine")
    classes: dict[str, type] = {"benchmark": type(bench), "task": type(engine.task)}
    held = opened(Path(out), config, begun, noun="evaluation", parts=parts, classes=classes, defaults=before)
    with Stop(urgent=True), held as record:
        record.write()
        first = [told_first(bench, engine.task, sequence) for sequence in sequences]
        pending = [place for place, one in enumerate(sequences) if not job.done(one.name, first[place])]
        if len(pending) < len(sequences):
            say(f"{len(sequences) - len(pending)} of {len(sequences)} sequences are done already")
        for one in (sequences[number] for number in pending if job.note(sequences[number].name).is_file()):
            if files := gone(job.note(one.name), job.predictions):
                say(f"{files[0]} is gone: {one.name} is followed anew")
        if engine.task.takes:
            check_prompts(bench, (sequences[number] for number in pending))
        spread(job, engine, bench, sequences, pending, workers)
        truth = bench.annotations(Path(root)) if split is None else bench.annotations(Path(root), split)
        report = measure(bench, bench.read(job.predictions, truth), truth, workers)
    notes = [json.loads(job.note(sequence.name).read_text()) for sequence in sequences]
    frames, seconds = (sum(note[key] for note in notes) for key in ("frames", "seconds"))
    speed = {"frames": frames, "frames_per_second": frames / seconds if seconds else None}
    how: dict[str, Any] = {"benchmark": Path(benchmark).stem, "weights": spec, "precision": engine.precision}
    report = {**how, **report, "speed": speed}
    worth = confidence_numbers(Scored(*np.array(row, float)) for note in notes for row in note.get("confidence", []))
    if worth["scored_frames"]:
        report["confidence"] = {name: value if np.isfinite(value) else None for name, value in worth.items()}
    for sequence, note in zip(sequences, notes):
        if missed := note.get("missed"):
            report.setdefault("frames_missed", {})[sequence.name] = missed
            say(f"{sequence.name}: {missed} frames were not answered and count as missed")
        if skipped := note.get("skipped"):
            report.setdefault("frames_skipped", {})[sequence.name] = skipped
            reason = next(iter(skipped.values()))
            say(f"{sequence.name}: {len(skipped)} frames could not be read and count as missed: {reason}")
    write_json(Path(out) / "numbers.json", report)
    show(bench, {Path(out).resolve().name: report}, table, beside, plots)
    say(f"predictions are in {job.predictions}, the numbers in {Path(out) / 'numbers.json'}")
    return report


def build(benchmark: str, settings: dict[str, Any]) -> Any:
    """The benchmark with these settings; ValueError where one of them is unknown or none of its choices."""
    cls = registry.load("benchmarks", benchmark)
    kinds = {name: kind for name, kind, _ in registry.fields(cls)}
    settings = registry.renamed(cls, settings, warn=True)
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
    cores = machine.cores()
    workers = min(workers or cores, max(len(results), 1))
    if workers == 1:
        return bench.score(results, annotations, map=lambda f, *rows: counted(map(f, *rows), len(rows[0])))
    # A fork needs no guarded __main__ in a script that calls this, and the workers only run NumPy and Pillow.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    with working(Pool(workers, multiprocessing.get_context(method), serve)) as pool:

        def spread(function: Callable[..., Any], *rows: Any) -> Iterator[Any]:
            return counted(pool.map(function, *rows), len(rows[0]))

        return bench.score(results, annotations, map=spread)


def counted(items: Iterable[Any], total: int, seconds: float = 10.0) -> Iterator[Any]:
    """The items, with a line of progress every so many seconds."""
    said = time.perf_counter()
    for done, item in enumerate(items, 1):
        if time.perf_counter() - said > seconds and done < total:
            said = time.perf_counter()
            say(f"scored {done} of {total} sequences")
        yield item


def show(
    bench: Any,
    reports: dict[str, dict[str, Any]],
    table: Form | None,
    beside: Literal["published"] | None,
    plots: Path | None,
) -> None:
    """Tables and plots of results under their trackers' names; a list of protocols side by side has a curve each."""
    present(reports, say, table, beside)
    if plots is None:
        return
    lines = {}
    for name, report in reports.items():
        for protocol, found in report.get("protocols", {None: report}).items():
            lines[name if protocol is None else f"{name}, {protocol}"] = found
    title = getattr(bench, "TITLE", type(bench).__name__)
    written = curves.draw_plots(lines, plots, f"{title}, {len(next(iter(reports.values()))['sequences'])} sequences")
    say(f"plots: {', '.join(str(path) for path in written) or f'none, {title} has no curves'}")
