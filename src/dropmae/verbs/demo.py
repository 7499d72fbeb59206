"""The verb `demo`: from nothing to a report of two encoders that learned from moving pictures, in a few minutes.

A tracker of minutes would follow nothing, so the two clips in the report, a rendered and a real one, are followed by
the one that comes with the package.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dropmae import machine, registry
from dropmae.data.boxtracks import tracks_of
from dropmae.data.clips import Clips, collate
from dropmae.data.shards import find_sequences
from dropmae.metrics.boxes import iou
from dropmae.progress import duration_text, say
from dropmae.rendering.synth import synth
from dropmae.speed.stepspeed import learn
from dropmae.speed.timing import wait
from dropmae.storage import write_json
from dropmae.target import read_targets
from dropmae.training.fit import Options, plan
from dropmae.verbs.prepare import prepare
from dropmae.verbs.report import bind, figure, picture, section
from dropmae.verbs.track import track
from dropmae.video import Video
from dropmae.visualize.charts import save_picture
from dropmae.visualize.overlay import draw_boxes, tile
from dropmae.weights import SHIPPED

METHODS = ("twinmae", "dropmae")
CLIPS = {"clips": 100, "frames": 16, "size": (80, 80)}
"""Synthetic videos: many short ones, a little larger than the crops."""
FIELDS = {"size": "tiny", "image": 64, "patch": 8, "crop": "shared", "scale": (0.5, 1.0)}
"""Small pictures of small patches, and one crop for both frames: what can be learned in minutes."""
TRAINING = {"global_batch": 16, "lr": 0.016, "workers": 0, "save_every": "25%"}
"""Small batches, for many steps; the frames are decoded, so that no process is needed to prepare them."""
FEWEST, MOST = 60, 6000
"""Steps per method."""
RESERVE = 45.0
"""Seconds kept for pictures, tracking and reports."""
FOLLOWED = {"clips": 1, "frames": 48, "size": (240, 320), "points": 0, "flow": False}
"""The rendered clip that is tracked."""
REAL: dict[str, Any] = {"box": (160, 69, 108, 171), "stop": 29}
"""What is followed in the real clip that comes with the package (shipped/car.mp4), and all of its frames."""
SHOWN = 8
"""Frames of each clip in the report."""
UNSEEN = 1_000_003
"""Added to the seed for that clip, so that it is none of the others."""
TIMED = 6
"""Steps that measure the machine."""
SLOWED = 1.25
"""How much longer a step takes while the other method trains too."""


def demo(*, out: Path = Path("demo"), minutes: float = 4.75, seed: int = 0) -> dict[str, Any]:
    """Renders clips, pre-trains TwinMAE and DropMAE on them side by side, and writes report.html of both.

    Both take as many steps as the machine can make in the time; its speed is measured at the start, and the number is
    remembered. The tracker that comes with the package follows an object of another clip, and a car in a real one. The
    same command continues where it was stopped, and ends soon when all is done. Nothing is downloaded.

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
    steps = settled(record, frames, minutes * 60 - (time.monotonic() - started), seed)
    runs, todo = [out / method for method in METHODS], []
    for method, run in zip(METHODS, runs):
        words = _words("pretrain", method, frames, out=run, **FIELDS, **TRAINING, steps=steps, seed=seed)
        say(*[""][len(todo) :], f"$ {shlex.join(words)} &")
        if not (run / "report.html").exists():  # what a run writes last
            todo.append(words)
    side_by_side(todo)
    shown = follow(out / "tracking", seed + UNSEEN) + follow_real(out / "tracking")
    path = out / "report.html"
    _tell("report", *runs, out=path)
    bind(runs, path, "TwinMAE and DropMAE, trained equally long", shown)
    say(f"done in {duration_text(time.monotonic() - started)}; open the report in a browser:", str(path.resolve()))
    return {"out": str(path), "steps": steps, "runs": [str(run) for run in runs]}


def follow(out: Path, seed: int) -> str:
    """Tracks the largest object of a new clip with the shipped tracker; the section of the report about it."""
    _tell("synth", out / "clip", seed=seed, **FOLLOWED)
    synth(str(out / "clip"), seed=seed, **FOLLOWED)
    ((name, targets),) = read_targets(out / "clip" / "targets.jsonl").items()
    tracks = {key: value for key, value in tracks_of(targets).items() if value[0][0] == 0}
    frames, truth = max(tracks.values(), key=lambda track: (len(track[0]), track[1][0, 2:].prod()))
    made, box = out / "tracked.mp4", tuple(truth[0].tolist())
    _tell("track", out / "clip" / name, box=box, out=made)
    track(str(out / "clip" / name), box=box, out=made)
    (found,) = read_targets(made.with_suffix(".jsonl")).values()
    boxes = np.stack([found[int(frame)].box() for frame in frames])
    overlap, copied = (float(iou(guess, truth)[1:].mean()) for guess in (boxes, truth[:1].repeat(len(truth), 0)))
    video, places = Video(out / "clip" / name), np.linspace(0, len(frames) - 1, SHOWN).round().astype(int)
    drawn = [
        draw_boxes(video[int(frames[i])], np.stack([truth[i], boxes[i]]), [0, 2], dashed=[True, False]) for i in places
    ]
    sheet = out / "tracked.png"
    save_picture(tile(drawn, 4, [f"frame {frames[i]}" for i in places]), sheet)
    text = (
        "A new clip, followed from one box by the tracker that comes with the package (magenta; the truth is white and "
        f"dashed): mean overlap <b>{overlap:.2f}</b>, where the first box, kept for ever, has {copied:.2f}."
    )
    return section("Tracking", figure(picture(sheet), "a tracked object", kind="sheet wide"), text)


def follow_real(out: Path) -> str:
    """Tracks the car in the clip of the package with the shipped tracker; the section of the report about it."""
    clip, made = SHIPPED / "car.mp4", out / "real.mp4"
    _tell("track", clip, out=made, **REAL)
    track(str(clip), out=made, **REAL)
    with Video(made) as video:
        places = np.linspace(0, len(video) - 1, SHOWN).round().astype(int).tolist()
        drawn = tile(list(video[places]), 4, [f"frame {place}" for place in places])
    sheet = made.with_suffix(".png")
    save_picture(drawn, sheet)
    text = (
        "A real clip, as <code>dropmae track</code> draws it: the box, how sure the tracker is of it, and the way it "
        "took; dashed where it is in doubt, here as the car leaves. The true place was not measured, and the weights "
        "learned from this clip too: this shows what comes out, not how good it is elsewhere. "
        "The clip: Intel IoT DevKit, sample-videos, CC BY 4.0."
    )
    return section("Tracking in a real clip", figure(picture(sheet), "a tracked car", kind="sheet wide"), text)


def threads() -> int:
    """Threads for each of the runs that go on at once: all together one per core.

    Steps this small gain little from more threads, and lose much where another process has the core of one of them.
    """
    cores = machine.cores()
    return max(1, cores // len(METHODS))


def side_by_side(commands: list[list[str]]) -> None:
    """Runs commands of this package at once, each of their lines with the method's name before it.

    An interrupt from the terminal reaches them too: they save what they have, and this waits for them. OSError where
    one has failed when all have ended.
    """
    how: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    how["env"] = {**os.environ, "OMP_NUM_THREADS": str(threads())}
    running = [subprocess.Popen([sys.executable, "-m", *words], **how) for words in commands]

    def pass_on(words: list[str], process: subprocess.Popen[str]) -> tuple[int, str]:
        last = ""
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip():
                last = line.strip()
                say(f"{words[2]:>8}  {last}")
        return process.wait(), last

    with ThreadPoolExecutor(max(1, len(commands))) as readers:
        ends = list(readers.map(pass_on, commands, running))
    for words, (code, last) in zip(commands, ends):
        if code:
            raise OSError(f"{shlex.join(words[:3])} ended with code {code}: {last}")


def settled(record: Path, frames: Path, seconds: float, seed: int) -> int:
    """Steps per method that fit into `seconds` on this machine, or what was settled when the demo was begun."""
    if record.exists():
        return int(json.loads(record.read_text())["steps"])
    before = torch.get_num_threads()
    torch.set_num_threads(threads())
    each = [SLOWED * pace(method, frames, seed) for method in METHODS]
    torch.set_num_threads(before)
    steps = int(min(max((seconds - RESERVE) / max(each), FEWEST), MOST))
    told = ", ".join(f"{method} {one:.2f} s" for method, one in zip(METHODS, each))
    say(f"a step takes here: {told}; so {steps} steps each")
    write_json(record, {"steps": steps, "seconds_per_step": dict(zip(METHODS, each))})
    return steps


def pace(method: str, frames: Path, seed: int) -> float:
    """Seconds that an optimizer step takes here and now, its data included: the median of a few."""
    sequences = find_sequences(frames)
    module = registry.load("methods", method)(**FIELDS)
    options = Options(**TRAINING, steps=TIMED, seed=seed)
    how = plan(options, len(sequences))
    module.to(how.device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    clips, count, seconds = Clips(sequences, module.sample, seed), options.global_batch, []
    for step in range(TIMED):
        started = time.perf_counter()
        batch = collate([clips[step * count + place] for place in range(count)])
        inputs = {name: batch[name].to(how.device) for name in ("frames", "index")}
        learn(module, optimizer, {**inputs, "seed": seed, "step": step, "progress": 0.0}, how.bf16)
        wait(how.device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[TIMED // 3 :])


def _tell(verb: str, *places: Any, **settings: Any) -> None:
    """Shows a step of the demo as the command that does the same."""
    say("", f"$ {shlex.join(_words(verb, *places, **settings))}")


def _words(verb: str, *places: Any, **settings: Any) -> list[str]:
    """The command line of a verb with these arguments."""
    words = ["dropmae", verb, *map(str, places)]
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return words
