"""How fast masks are carried on, beside the textbook form, both measured in turn in one run.

The textbook form is one pass per object, attention as an explicit softmax, everything in float32 and embedded anew for
every object: what the published code of DropSeg computes, written plainly.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae import weights as files
from dropmae.engine import Engine
from dropmae.machine import resident_peak
from dropmae.nn import masking
from dropmae.nn.vit import Block, Size
from dropmae.target import Target
from dropmae.tasks.vos import VOS
from dropmae.tasks.vos.frames import Canvas
from dropmae.tasks.vos.memory import MemoryEncoder
from dropmae.training.distributed import supports_bf16

FORMS = ("textbook", "ours")


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
        part = block.attn
        packed = part.qkv(block.norm1(tokens)).unflatten(2, (3, part.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = packed.unbind(0)
        share = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1)
        tokens = tokens + part.proj((share @ v).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp(block.norm2(tokens))
    return encoder.norm(tokens)[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)


class Scene(NamedTuple):
    """Two frames uint8 [H, W, 3] and the label map uint8 [H, W] of the first."""

    first: np.ndarray
    second: np.ndarray
    labels: np.ndarray


def scene(frame: tuple[int, int], objects: int) -> Scene:
    """Two frames of random squares, with objects side by side."""
    coarse = np.random.default_rng(0).integers(0, 256, (2, -(-frame[0] // 8), -(-frame[1] // 8), 3), dtype=np.uint8)
    first, second = coarse.repeat(8, 1).repeat(8, 2)[:, : frame[0], : frame[1]]
    labels = np.zeros(frame, np.uint8)
    for number in range(objects):
        columns = slice(number * frame[1] // objects, (2 * number + 1) * frame[1] // (2 * objects))
        labels[frame[0] // 4 : frame[0] // 2, columns] = number + 1
    return Scene(first, second, labels)


class Forms:
    """One step in both forms, on the CPU; ours in bfloat16 where the processor multiplies it."""

    def __init__(self, size: Size, frame: tuple[int, int], objects: int) -> None:
        self.scene, ids = scene(frame, objects), np.arange(1, objects + 1)
        self.masks = np.stack([self.scene.labels == number for number in ids.tolist()])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = VOS(size=size).eval()
        self.half = supports_bf16(torch.device("cpu"))
        with self.precision():
            self.state = self.model.start(self.scene.first, Target(ids=ids, mask=self.scene.labels))

    def precision(self) -> Any:
        return torch.autocast("cpu", torch.bfloat16) if self.half else contextlib.nullcontext()

    def textbook(self) -> Tensor:
        return textbook(self.model, self.scene.first, self.masks, self.scene.second, self.state.canvas)

    def ours(self) -> None:
        with self.precision():
            self.model.step(self.state, self.scene.second)

    def check(self) -> None:
        """AssertionError where both forms do not give the same logits in float32."""
        with torch.no_grad():
            ids = np.arange(1, len(self.masks) + 1)
            state = self.model.start(self.scene.first, Target(ids=ids, mask=self.scene.labels))
            ours = self.model.logits(state, self.model.look(state, self.scene.second))
            torch.testing.assert_close(ours, self.textbook(), atol=1e-3, rtol=1e-3)


def measure(
    size: Size = "small", frame: tuple[int, int] = (480, 854), objects: int = 3, repeats: int = 3
) -> dict[str, Any]:
    """Seconds of a step in both forms, medians of pairs measured in turn, and the most memory that each takes.

    Per form {"seconds", "cpu_seconds", "peak_mb"}, where peak_mb is the whole process; `ratio` is the median ratio of
    seconds, `cpu_ratio` that of processor time, which other programs disturb less.
    """
    forms = Forms(size, frame, objects)
    forms.check()
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in FORMS}
    for _ in range(repeats):
        for name in FORMS:
            rows[name].append(timed(getattr(forms, name)))
    ratios = [[a / b for a, b in zip(*pair)] for pair in zip(rows["textbook"], rows["ours"])]
    report: dict[str, Any] = {
        name: {
            "seconds": statistics.median(row[0] for row in rows[name]),
            "cpu_seconds": statistics.median(row[1] for row in rows[name]),
            "peak_mb": peak(name, size, frame, objects),
        }
        for name in FORMS
    }
    return {
        "size": size,
        "frame": list(frame),
        "objects": objects,
        "threads": torch.get_num_threads(),
        "precision": "bf16" if forms.half else "fp32",
        **report,
        "frames_per_s": 1 / report["ours"]["seconds"],
        "ratio": statistics.median(ratio[0] for ratio in ratios),
        "cpu_ratio": statistics.median(ratio[1] for ratio in ratios),
    }


def timed(function: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the wall and of the processor."""
    wall, busy = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - busy


def peak(form: str, size: Size, frame: tuple[int, int], objects: int) -> float | None:
    """Most memory in MB of a process of its own that makes one step, where the system tells (Linux)."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_resident, form, size, frame, objects).result()


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
    forms = Forms(size, frame, objects)
    getattr(forms, form)()
    return resident_peak()
