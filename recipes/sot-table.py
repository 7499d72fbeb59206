"""One table of trackers on sequences in the layouts of OTB and TLD, and on videos with a targets.jsonl.

Use: python recipes/sot-table.py [--otb DIR ...] [--tld DIR] [--folder DIR] --out OUT [--weights FILE ...]
         [--trunk FILE] [--nano DIR ...] [--only ROW ...] --final [TITLE] [--log FILE]

Rows: a copy of the first box, OpenCV's KCF and CSRT (the extra `bench`), the tracker's network with random weights, and
the tracker: the one that comes with the package, or those named. `--trunk` names the encoder of heads that have none
(`dcf`), and adds its label propagation, given the box; `--nano` a folder v2 or v3 with the two files of NanoTrack. Each
is given the same first box and then frame after frame, and all are scored by the same code: the success and precision
curves of OTB; frames in which the object is absent (TLD) are left out. The numbers are means over the sequences of all.
ms: CPU time a step, whatever else runs. Pooled over all annotated frames after the first: AUROC of "overlap > .5" and
"> .3" and calibration error, where the tracker gives scores; and how many frames have a box with a side beyond three
times or below a third of the truth. What is in OUT is not made again. Where OpenCV reports a failure, the box before
stands.

hand-boxes.jsonl beside this file is such a targets.jsonl: boxes drawn by eye, to about 3 pixels, in five or six frames
of each of 13 clips of 256 rows that no setting of the tracker was chosen on, before any tracker had been run there.

These sets are for reporting, so no tracker is run on them without `--final`, which means that nothing will be chosen
by what comes out. Each look is put on record in docs/log.md (or `--log FILE`) as soon as a set is done: date, commit,
TITLE, tracker, set, success AUC and precision@20. Without `--final` the table of what OUT holds is printed again, if
all of it is on record; else the command ends with what is missing. Settings are chosen with recipes/track-settings.py.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import looks  # beside this file
import numpy as np
import torch

from dropmae import registry, weights
from dropmae.contracts import Task
from dropmae.data.boxtracks import BoxTracks
from dropmae.engine import Engine, follow, prompts_of
from dropmae.metrics.boxes import iou
from dropmae.metrics.confidence import Scored, confidence_numbers
from dropmae.target import Target
from dropmae.weights import SHIPPED

SURE = ("first box", "OpenCV KCF", "OpenCV CSRT")
"""Rows of trackers that give no scores."""
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


def with_trunk(file: Path, trunk: Path | None) -> Any:
    """The tracker in a weight file, on the encoder of another one where it has none."""
    settings = (
        {"trunk": str(trunk)} if trunk is not None and "encoder" not in weights.read_header(file)["parts"] else {}
    )
    return weights.load(file, settings=settings)


def carried(trunk: Path) -> Any:
    """Label propagation by an encoder."""
    task: Any = registry.load("tasks", "propagation")()
    task.encoder = weights.load(trunk).encoder
    return task.eval()


def nano(folder: Path) -> Any:
    from nanotrack import NanoTrack  # beside this file

    return NanoTrack(folder)


def rows(files: list[Path], trunk: Path | None, folders: list[Path]) -> dict[str, Callable[[], Any]]:
    """{name of the row: what makes the tracker}."""
    import cv2

    cv2.setNumThreads(torch.get_num_threads())
    made: dict[str, Callable[[], Any]] = {
        "first box": Copy,
        "OpenCV KCF": lambda: OpenCV(cv2.TrackerKCF_create),
        "OpenCV CSRT": lambda: OpenCV(cv2.TrackerCSRT_create),
    }
    made |= {f"NanoTrack {folder.name}": lambda folder=folder: nano(folder) for folder in folders}
    whole = [file for file in files if weights.read_header(file)["name"] == "vot"]
    made |= {"untrained": lambda: untrained(whole[0])} if whole else {}
    made |= {"propagation": lambda: carried(trunk)} if trunk is not None else {}
    return made | {f"{file.parent.name}-{file.stem}": lambda file=file: with_trunk(file, trunk) for file in files}


def clocked(task: Any, seconds: list[float]) -> Any:
    """The task, which notes the CPU time of its steps."""
    step = task.step

    def timed(*arguments: Any) -> Any:
        before = time.process_time()
        found = step(*arguments)
        seconds.append(time.process_time() - before)
        return found

    task.step = timed
    return task


def recorded(out: Path) -> Path:
    """The file that says that the look whose results are in `out` is on record, and at which sequences."""
    return out.with_name(f"{out.name}.recorded.json")


def on_record(name: str, root: Path, out: Path) -> bool:
    """Whether the look at every sequence of a benchmark is on record, and its results are in `out`."""
    if not recorded(out).is_file():
        return False
    done = json.loads(recorded(out).read_text())
    there = [sequence.name for sequence in registry.load("benchmarks", name)(**PROTOCOLS[name]).sequences(root)]
    return sorted(there) == sorted(done) and all((out / f"{one}.json").is_file() for one in there)


def measure(make: Callable[[], Any], name: str, root: Path, out: Path) -> dict[str, Any]:
    """Follows every sequence of a benchmark that is not done yet, and scores them; {sequence: its numbers}."""
    bench: Any = registry.load("benchmarks", name)(**PROTOCOLS[name])
    seconds: list[float] = []
    task, notes = None, {}
    for sequence in bench.sequences(root):
        note = out / f"{sequence.name}.json"
        if not note.is_file():
            task = task or clocked(make(), seconds)
            seconds.clear()
            found = follow(Engine(task, "cpu"), sequence.video, prompts_of(sequence.targets, "first", task.takes))
            bench.write(sequence.name, found.targets, out)
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(
                json.dumps({"seconds": sum(seconds), "steps": len(seconds), **compared(sequence, found.targets)})
            )
        notes[sequence.name] = json.loads(note.read_text())
    truth = bench.annotations(root)
    report = bench.score(bench.read(out, truth), truth)["sequences"]
    return {key: {**row, **notes[key]} for key, row in report.items()}


def compared(sequence: Any, found: dict[int, Target]) -> dict[str, list[Any]]:
    """{"boxes", "scores", "truth"} of one object's annotated frames after the first; null is NaN."""
    targets = sequence.targets.targets if isinstance(sequence.targets, BoxTracks) else sequence.targets
    numbers = sorted(targets)
    object_id = int(targets[numbers[0]].ids[0])
    rows: dict[str, list[Any]] = {"boxes": [], "scores": [], "truth": []}
    for number in numbers[1:]:
        scores = found[number].scores
        rows["boxes"].append(plain(found[number].box()))
        rows["truth"].append(plain(targets[number].box(object_id)))
        rows["scores"].append(None if scores is None or not np.isfinite(scores[0]) else float(scores[0]))
    return rows


def plain(box: np.ndarray) -> list[float] | None:
    return box.tolist() if np.isfinite(box).all() else None


def table_of(boxes: list[Any]) -> np.ndarray:
    """float64 [T, 4], NaN where there is none."""
    return np.array([[np.nan] * 4 if box is None else box for box in boxes], np.float64).reshape(-1, 4)


def off_size(row: dict[str, Any]) -> tuple[int, int]:
    """Frames with a side beyond three times or below a third of the truth, and frames that can be compared."""
    ratio = table_of(row["boxes"])[:, 2:] / table_of(row["truth"])[:, 2:]
    known = np.isfinite(ratio).all(1)
    return int(((ratio[known] > 3) | (ratio[known] < 1 / 3)).any(1).sum()), int(known.sum())


def line(row: str, found: dict[str, Any]) -> list[str]:
    """The cells of a tracker's row, but for the sequences."""
    cells = [f"{mean(found, key):.3f}" for key in ("success_auc", "precision_20")]
    steps, seconds = (sum(one[key] for one in found.values()) for key in ("steps", "seconds"))
    tracks = [
        Scored(np.nan_to_num(iou(table_of(one["boxes"]), table_of(one["truth"]))), np.array(one["scores"], np.float64))
        for one in found.values()
    ]
    worth = confidence_numbers(tracks) if row not in SURE else {}
    cells += [f"{1000 * seconds / max(steps, 1):.0f}"]
    cells += [f"{worth[key]:.3f}" if worth else "-" for key in ("auroc_50", "auroc_30", "calibration_error")]
    off, known = np.sum([off_size(one) for one in found.values()], axis=0)
    return [row, *cells, f"{100 * off / max(known, 1):.1f} %"]


def mean(found: dict[str, Any], key: str) -> float:
    return float(np.mean([one[key] for one in found.values()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--otb", type=Path, nargs="*", default=[], help="folders in the layout of OTB")
    parser.add_argument("--tld", type=Path, nargs="*", default=[], help="folders in the layout of TLD")
    parser.add_argument("--folder", type=Path, nargs="*", default=[], help="folders of videos with a targets.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="for results; what is there is not made again")
    parser.add_argument("--weights", type=Path, nargs="*", default=[SHIPPED / "vot.safetensors"])
    parser.add_argument("--trunk", type=Path, help="the encoder of heads that have none")
    parser.add_argument("--nano", type=Path, nargs="*", default=[], help="folders with the files of NanoTrack")
    parser.add_argument("--only", nargs="*", help="rows to make; by default all")
    looks.add_options(parser)
    given = parser.parse_args()
    made = {
        row: make
        for row, make in rows(given.weights, given.trunk, given.nano).items()
        if not given.only or row in given.only
    }
    places = [(name, root) for name in PROTOCOLS for root in getattr(given, name)]
    if not made or not places:
        parser.error("nothing to do: name --otb, --tld or --folder, and rows that there are")

    def results(row: str, name: str, root: Path) -> Path:
        return given.out / row.replace(" ", "-") / name / root.resolve().name

    todo = [(row, *place) for row in made for place in places if not on_record(*place, results(row, *place))]
    if todo and given.final is None:
        missing = [f"{row} on {root.resolve().name}" for row, _, root in todo]
        parser.error(looks.refusal(", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if missing[3:] else "")))
    print(f"{torch.get_num_threads()} threads, {os.cpu_count()} cores")
    commit, table = looks.commit(), dict[str, Any]()
    for row, make in made.items():
        table[row] = {}
        for name, root in places:
            out = results(row, name, root)
            found = measure(make, name, root, out)
            if (row, name, root) in todo:
                numbers = mean(found, "success_auc"), mean(found, "precision_20")
                place = f"{name}: {root.resolve().name}"
                looks.record(given.log, given.final, commit, row, place, len(found), *numbers)
                recorded(out).write_text(json.dumps(sorted(found)))
            table[row] |= found
    (given.out / "table.json").write_text(json.dumps(table, indent=1))
    names = list(next(iter(table.values())))
    head = ["", "success AUC", "precision@20", "ms", "AUROC .5", "AUROC .3", "calibration", "size off", *names]
    lines = [head, ["---"] * len(head)]
    lines += [[*line(row, f), *(f"{f[name]['success_auc']:.3f}" for name in names)] for row, f in table.items()]
    print("\n".join(f"| {' | '.join(cells)} |" for cells in lines))


if __name__ == "__main__":
    main()
