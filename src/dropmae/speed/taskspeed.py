"""How fast a trained task goes through a video, whatever it takes and gives."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from dropmae.contracts import Precision
from dropmae.engine import Engine
from dropmae.loading import load_task
from dropmae.machine import resident_peak
from dropmae.target import Target, redacted


def scene(frame: tuple[int, int], frames: int, count: int) -> tuple[np.ndarray, Target]:
    """uint8 [T, H, W, 3] in which everything drifts, and a first frame's boxes, mask and points of `count` objects."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (frame[0] // 8 + 2, frame[1] // 8 + 2, 3), dtype=np.uint8)
    large = coarse.repeat(8, 0).repeat(8, 1)
    offsets = np.abs(np.arange(frames) % 16 - 8)
    clip = np.stack([large[o : o + frame[0], o : o + frame[1]] for o in offsets.tolist()])
    side = min(frame) // 4
    corners = rng.uniform([0, 0], [frame[1] - side, frame[0] - side], (count, 2)).round()
    boxes = np.concatenate([corners, np.full((count, 2), float(side))], 1)
    mask = np.zeros(frame, np.uint8 if count < 255 else np.int32)
    for number, (x, y, w, h) in enumerate(boxes.astype(int).tolist(), 1):
        mask[y : y + h, x : x + w] = number
    shown = np.flatnonzero(np.bincount(mask.ravel(), minlength=count + 1)[1:])
    points = corners + side / 2
    ids = np.arange(1, count + 1)[shown]
    return clip, Target(ids=ids, boxes=boxes[shown], mask=mask, points=points)


def measure(
    weights: str,
    frame: tuple[int, int] = (360, 640),
    count: int = 1,
    frames: int = 20,
    device: str = "auto",
    precision: Precision = "auto",
) -> dict[str, Any]:
    """{"ms", "p99_ms", "frames_per_s", "peak_mb", ...} of a task's step for `count` objects or points.

    The median over `frames` steps that follow three which warm up; reading frames does not count.
    """
    clip, prompt = scene(frame, frames + 4, count)
    started = time.perf_counter()
    task = load_task(weights, prompt)
    engine = Engine(task, device, precision)
    session = engine.session({0: redacted(prompt, task.takes[:1])} if task.takes else None)
    loaded = time.perf_counter() - started
    answered = sum(not answer.missed for answer in session.follow(enumerate(clip)))
    each = sorted(session.seconds[4:])
    middle = statistics.median(each)
    return {
        "task": type(task).__name__.lower(),
        "device": str(engine.device),
        "precision": engine.precision,
        "frame": list(frame),
        "count": count,
        "ms": 1000 * middle,
        "p99_ms": 1000 * each[min(len(each) - 1, round(0.99 * len(each)))],
        "frames_per_s": 1 / middle,
        "load_s": loaded,
        "answered": answered,
        "peak_mb": resident_peak(),
    }
