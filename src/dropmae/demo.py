"""The verb `demo`: from nothing to a report of two encoders that learned from moving pictures, in a few minutes."""

from __future__ import annotations

import json
import shlex
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from dropmae import registry
from dropmae.clips import Clips, Sequence, collate
from dropmae.fit import Options, plan
from dropmae.prepare import prepare
from dropmae.pretrain import find_sequences, pretrain
from dropmae.progress import duration_text, say
from dropmae.report import report
from dropmae.storage import write_json
from dropmae.synth import synth

METHODS = ("twinmae", "dropmae")
CLIPS = {"clips": 100, "frames": 16, "size": (80, 80)}
"""Synthetic videos: many short ones, a little larger than the crops."""
FIELDS = {"size": "tiny", "image": 64, "patch": 8, "crop": "shared", "scale": (0.5, 1.0)}
"""Small pictures of small patches, and one crop for both frames: what can be learned in minutes."""
TRAINING = {"global_batch": 16, "lr": 0.016, "workers": 0, "save_every": "25%"}
"""Small batches, for many steps; the frames are decoded, so that no process is needed to prepare them."""
FEWEST, MOST = 60, 6000
"""Steps per method."""
RESERVE = 30.0
"""Seconds kept for pictures and reports."""
TIMED = 6
"""Steps that measure the machine."""


def demo(*, out: Path = Path("demo"), minutes: float = 4.0, seed: int = 0) -> dict[str, Any]:
    """Renders clips, pre-trains TwinMAE and DropMAE on them for equally long, and writes report.html of both.

    The number of steps follows from the speed of the machine, measured at the start, and is remembered: the same
    command continues where it was stopped, and returns at once when all is done. Nothing is downloaded.

    Args:
        out: folder for clips, runs and the report.
        minutes: time for all of it; more gives longer training. Of no effect once the training has begun.
        seed: decides clips, initial weights and all that is random in training.
    """
    if not minutes > 0:
        raise ValueError(f"minutes must be positive, not {minutes}")
    out, started = Path(out), time.monotonic()
    clips, frames, record = out / "clips", out / "frames", out / "demo.json"
    _tell("synth", clips, seed=seed, **CLIPS)
    synth(str(clips), seed=seed, **CLIPS)
    _tell("prepare", clips, frames, frames=True)
    prepare(clips, frames, frames=True)
    sequences = find_sequences(frames)
    steps = settled(record, sequences, minutes * 60 - (time.monotonic() - started), seed)
    runs = []
    for method in METHODS:
        settings = {**FIELDS, **TRAINING, "steps": steps, "seed": seed}
        _tell("pretrain", method, frames, out=out / method, **settings)
        pretrain(method, frames, out=out / method, **settings)
        runs.append(out / method)
    path = out / "report.html"
    _tell("report", *runs, out=path)
    report(runs, out=path, title="TwinMAE and DropMAE, trained equally long")
    say(f"done in {duration_text(time.monotonic() - started)}; open the report in a browser:\n{path.resolve()}")
    return {"out": str(path), "steps": steps, "runs": [str(run) for run in runs]}


def settled(record: Path, sequences: list[Sequence], seconds: float, seed: int) -> int:
    """Steps per method that fit into `seconds` on this machine, or what was settled when the demo was begun."""
    if record.exists():
        return int(json.loads(record.read_text())["steps"])
    each = sum(pace(method, sequences, seed) for method in METHODS)
    steps = int(min(max((seconds - RESERVE) / each, FEWEST), MOST))
    say(f"{each:.2f} s for a step of {' and one of '.join(METHODS)}: {steps} steps each")
    write_json(record, {"steps": steps, "seconds_per_step": each})
    return steps


def pace(method: str, sequences: list[Sequence], seed: int) -> float:
    """Seconds that an optimizer step takes here and now, its data included: the median of a few."""
    module = registry.load("methods", method)(**FIELDS)
    options = Options(**TRAINING, steps=TIMED, seed=seed)
    how = plan(options, len(sequences))
    module.to(how.device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    clips, count, seconds = Clips(sequences, module.sample, seed), options.global_batch, []
    for step in range(TIMED):
        started = time.perf_counter()
        batch = collate([clips[step * count + place] for place in range(count)])
        inputs = {"frames": batch["frames"].to(how.device), "index": batch["index"].to(how.device), "seed": seed}
        with torch.autocast(how.device.type, torch.bfloat16, enabled=how.bf16):
            loss = module({**inputs, "step": step, "progress": 0.0})["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[TIMED // 3 :])


def _tell(verb: str, *places: Any, **settings: Any) -> None:
    """Shows a step of the demo as the command that does the same."""
    words = ["dropmae", verb, *map(str, places)]
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    say(f"\n$ {shlex.join(words)}")
