"""How fast labels are propagated without training, and how much memory it takes, by the rules of each preset.

`python -c "from dropmae.speed.propagationspeed import measure; print(measure())"`
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch

from dropmae import registry
from dropmae.contracts import Precision
from dropmae.engine import Engine
from dropmae.machine import resident_peak
from dropmae.nn.vit import Size
from dropmae.speed.segmentspeed import scene, timed
from dropmae.target import Target
from dropmae.tasks.propagation import PRESETS, Propagation


def measure(
    size: Size = "small",
    frame: tuple[int, int] = (480, 854),
    objects: int = 3,
    context: int = 20,
    frames: int = 5,
    presets: Iterable[str] = tuple(PRESETS),
    precision: Precision = "fp32",
    **options: Any,
) -> dict[str, Any]:
    """Per preset {"frames_per_s", "seconds", "cpu_seconds", "peak_mb", "grid"} of an encoder of this size, patch 16.

    Each preset has a process of its own, whose whole memory counts. Times are medians of `frames` steps that come after
    the `context` frames behind the first one are in place; `options` are further settings of the propagation.
    """
    report = {}
    for preset in presets:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            task = pool.submit(
                _one, preset, size, frame, objects, context, frames, torch.get_num_threads(), precision, options
            )
            report[preset] = task.result()
    return {"size": size, "frame": list(frame), "objects": objects, "context": context, **report}


def _one(
    preset: str,
    size: Size,
    frame: tuple[int, int],
    objects: int,
    context: int,
    frames: int,
    threads: int,
    precision: Precision,
    options: dict[str, Any],
) -> dict[str, Any]:
    """`measure` of one preset, in this process."""
    torch.set_num_threads(threads)
    settings: dict[str, Any] = {"preset": preset, "context": context, **options}
    model = Propagation(**settings)
    model.encoder = registry.load("methods", "mae")(size=size).encoder.eval()
    first, second, labels = scene(frame, objects)
    engine = Engine(model, "cpu", precision)
    state = engine.run(model.start, first, Target(ids=np.arange(1, objects + 1), mask=labels))
    rows = []
    for number in range(context + frames):
        rows.append(timed(partial(engine.run, model.step, state, (first, second)[number % 2])))
    wall, busy = (statistics.median(row[place] for row in rows[context:]) for place in range(2))
    return {
        "frames_per_s": 1 / wall,
        "seconds": wall,
        "cpu_seconds": busy,
        "peak_mb": resident_peak(),
        "grid": list(state.grid),
    }
