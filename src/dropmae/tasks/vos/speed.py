"""How fast masks are carried on, beside the textbook form, both measured in turn in one run.

The textbook form is one pass per object, attention as an explicit softmax, everything in float32 and embedded anew for
every object: what the published code of DropSeg computes, written plainly.
"""

from __future__ import annotations

import copy
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae import weights as files
from dropmae.engine import Engine
from dropmae.machine import resident_peak
from dropmae.nn import masking
from dropmae.nn.vit import Block, Size
from dropmae.speed.timing import alone, explicit, in_turn, medians, ratio, scene, timed
from dropmae.target import Target
from dropmae.tasks.vos import VOS
from dropmae.tasks.vos.frames import Canvas
from dropmae.tasks.vos.memory import MemoryEncoder


@torch.no_grad()
def textbook(model: VOS, first: np.ndarray, masks: np.ndarray, frame: np.ndarray, place: Canvas) -> Tensor:
    """Logits float32 [K, h, w] of the objects `masks` [K, H, W] of the first frame in another frame [H, W, 3]."""
    grid, found = place.grid(model.patch), []
    for mask in masks:
        memory, query = (
            place.fit(masking.normalize(torch.from_numpy(f).permute(2, 0, 1)))[None] for f in (first, frame)
        )
        marks = place.fit_labels(torch.from_numpy(mask)[None])[None]
        features = jointly(model.encoder, memory, marks, query, grid)
        found.append(model.decoder(features.contiguous(), place.padded))
    return place.cut(torch.cat(found))


def jointly(encoder: MemoryEncoder, memory: Tensor, mask: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features [1, C, h, w] of a query frame beside one memory frame, [1, 3, H, W] each, with a mask [1, 1, H, W]."""

    def embedded(picture: Tensor, part: torch.nn.Conv2d) -> Tensor:
        return functional.conv2d(picture, part.weight, part.bias, stride=encoder.patch).flatten(2).transpose(1, 2)

    assert isinstance(encoder.patch_embed, torch.nn.Conv2d)
    marked = embedded(memory, encoder.patch_embed) + embedded(mask, encoder.mask_embed) + encoder.place(grid, True)
    tokens = torch.cat([marked, embedded(query, encoder.patch_embed) + encoder.place(grid, False)], 1)
    for block in encoder.blocks:
        assert isinstance(block, Block)
        tokens = block(tokens, explicit)
    return encoder.norm(tokens)[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)


def forms(size: Size, frame: tuple[int, int], objects: int, check: bool = False) -> tuple[dict[str, Any], str]:
    """A step in both forms, on the CPU, by name, and the precision of ours.

    AssertionError where they are to be checked and do not give the same logits in float32.
    """
    frames, ids = scene(frame, objects), np.arange(1, objects + 1)
    masks = np.stack([frames.labels == number for number in ids.tolist()])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VOS(size=size).eval()
    target = Target(ids=ids, mask=frames.labels)
    if check:
        with torch.no_grad():
            state = model.start(frames.first, target)
            ours = model.logits(state, model.embed_frame(state, frames.second))
            plain = textbook(model, frames.first, masks, frames.second, state.canvas)
            torch.testing.assert_close(ours, plain, atol=1e-3, rtol=1e-3)
    engine = Engine(copy.deepcopy(model), "cpu")
    state = engine.run(engine.task.start, frames.first, target)
    steps = {
        "textbook": partial(textbook, model, frames.first, masks, frames.second, state.canvas),
        "ours": partial(engine.run, engine.task.step, state, frames.second),
    }
    return steps, engine.precision


def measure(
    size: Size = "small", frame: tuple[int, int] = (480, 854), objects: int = 3, repeats: int = 3
) -> dict[str, Any]:
    """Seconds of a step in both forms, medians of pairs measured in turn, and the most memory that each takes.

    Per form {"seconds", "cpu_seconds", "peak_mb"}, where peak_mb is the whole process; `ratio` is the median ratio of
    seconds, `cpu_ratio` that of processor time.
    """
    steps, precision = forms(size, frame, objects, check=True)
    rows = in_turn({name: partial(timed, step) for name, step in steps.items()}, repeats)
    wall, busy = (ratio(*([row[part] for row in rows[name]] for name in ("textbook", "ours"))) for part in (0, 1))
    report: dict[str, Any] = {"size": size, "frame": list(frame), "objects": objects}
    report |= {"threads": torch.get_num_threads(), "precision": precision}
    for name, times in rows.items():
        spent = medians(times)
        peak = alone(_resident, name, size, frame, objects)
        report[name] = {"seconds": spent.wall, "cpu_seconds": spent.busy, "peak_mb": peak}
    return {**report, "frames_per_s": 1 / report["ours"]["seconds"], "ratio": wall, "cpu_ratio": busy}


def growth(
    weights: Path, frame: tuple[int, int] = (480, 854), objects: int = 3, frames: int = 300
) -> dict[str, dict[str, float | None]]:
    """{frame number: most memory in MB of this process so far, frames per second so far} of a segmenter at work."""
    seen = scene(frame, objects)
    found: dict[str, dict[str, float | None]] = {}
    engine = Engine(files.load(weights), "cpu")
    state = engine.run(engine.task.start, seen.first, Target(ids=np.arange(1, objects + 1), mask=seen.labels))
    before = time.perf_counter()
    for number in range(1, frames + 1):
        state, _ = engine.run(engine.task.step, state, seen.second if number % 2 else seen.first)
        if number in (frames // 30, frames // 10, frames // 3, frames):
            rate = number / (time.perf_counter() - before)
            found[str(number)] = {"peak_mb": resident_peak(), "frames_per_s": rate}
    return found


def _resident(form: str, size: Size, frame: tuple[int, int], objects: int) -> float | None:
    forms(size, frame, objects)[0][form]()
    return resident_peak()
