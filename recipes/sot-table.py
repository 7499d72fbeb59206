"""One table of trackers on sequences in the layouts of OTB and TLD, and on videos with a targets.jsonl.

Use: python recipes/sot-table.py [--otb DIR ...] [--tld DIR] [--folder DIR] --out OUT [--weights FILE ...]
         [--trunk FILE] [--nano DIR ...] [--only ROW ...] [--final TITLE]

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

These sets are for reporting: `--final` appends the date, the commit and the table to docs/log.md, so that every look is
on record.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    cells = [f"{np.mean([one[key] for one in found.values()]):.3f}" for key in ("success_auc", "precision_20")]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--otb", type=Path, nargs="*", default=[])
    for name in ("tld", "folder"):
        parser.add_argument(f"--{name}", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, nargs="*", default=[SHIPPED / "vot.safetensors"])
    parser.add_argument("--trunk", type=Path)
    parser.add_argument("--nano", type=Path, nargs="*", default=[])
    parser.add_argument("--only", nargs="*", help="rows to make; by default all")
    parser.add_argument("--final", metavar="TITLE", help="appends the look to docs/log.md")
    given = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, {os.cpu_count()} cores")
    table: dict[str, Any] = {}
    for row, make in rows(given.weights, given.trunk, given.nano).items():
        if given.only and row not in given.only:
            continue
        table[row] = {}
        for name in PROTOCOLS:
            for root in getattr(given, name):
                table[row] |= measure(make, name, root, given.out / row.replace(" ", "-") / name / root.resolve().name)
    (given.out / "table.json").write_text(json.dumps(table, indent=1))
    names = list(next(iter(table.values())))
    head = ["", "success AUC", "precision@20", "ms", "AUROC .5", "AUROC .3", "calibration", "size off", *names]
    lines = [head, ["---"] * len(head)]
    lines += [[*line(row, f), *(f"{f[name]['success_auc']:.3f}" for name in names)] for row, f in table.items()]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    print(text)
    if given.final:
        record(given.final, text)


def record(title: str, text: str) -> None:
    """Appends a look at sets that are for reporting to docs/log.md."""
    place = Path(__file__).parent.parent
    commit = subprocess.run(
        ["git", "-C", str(place), "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with open(place / "docs" / "log.md", "a") as file:
        file.write(f"\n## {datetime.date.today()}: {title}\n\nAt {commit}, `recipes/sot-table.py --final`.\n\n{text}\n")


if __name__ == "__main__":
    main()
