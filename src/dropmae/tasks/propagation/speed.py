"""How fast labels are propagated without training, and how much memory it takes, by the rules of each preset.

`python -c "from dropmae.tasks.propagation.speed import measure; print(measure())"`
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from dropmae import registry
from dropmae.contracts import Precision
from dropmae.engine import Engine
from dropmae.machine import resident_peak
from dropmae.nn.vit import Size
from dropmae.speed.timing import alone, medians, scene, timed
from dropmae.target import Target
from dropmae.tasks.propagation import Propagation
from dropmae.tasks.propagation.presets import PRESETS


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
    one = partial(_one, size, frame, objects, frames, precision, {"context": context, **options})
    report = {preset: alone(one, preset) for preset in presets}
    return {"size": size, "frame": list(frame), "objects": objects, "context": context, **report}


def _one(
    size: Size,
    frame: tuple[int, int],
    objects: int,
    frames: int,
    precision: Precision,
    settings: dict[str, Any],
    preset: Any,
) -> dict[str, Any]:
    """`measure` of one preset, in this process."""
    model = Propagation(preset=preset, **settings)
    model.encoder = registry.load("methods", "mae")(size=size).encoder.eval()
    first, second, labels = scene(frame, objects)
    engine = Engine(model, "cpu", precision)
    state = engine.run(model.start, first, Target(ids=np.arange(1, objects + 1), mask=labels))
    rows = []
    for number in range(settings["context"] + frames):
        rows.append(timed(partial(engine.run, model.step, state, (first, second)[number % 2])))
    spent = medians(rows[settings["context"] :])
    return {
        "frames_per_s": 1 / spent.wall,
        "seconds": spent.wall,
        "cpu_seconds": spent.busy,
        "peak_mb": resident_peak(),
        "grid": list(state.grid),
    }
