"""How fast boxes are followed, beside the textbook form, both measured in turn in one run.

The textbook form is the network of OSTrack and DropTrack written plainly: everything in float32, attention as an
explicit softmax in every block, the template cropped once but embedded anew for every frame, one object at a time.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae.contracts import Precision
from dropmae.engine import Engine
from dropmae.nn import masking
from dropmae.nn.vit import Size
from dropmae.target import Target
from dropmae.tasks.vot import VOT, crops, head
from dropmae.training.distributed import supports_bf16


@torch.no_grad()
def textbook(model: VOT, template: np.ndarray, frame: np.ndarray, box: np.ndarray) -> Tensor:
    """Box [4] in shares of the crop, from a template crop [Z, Z, 3] and a frame [H, W, 3] with the last box."""
    assert model.search_factor is not None
    search = crops.cut(frame, crops.region(box, model.search_factor), model.image)
    encoder: Any = model.encoder
    tokens = []
    for picture, positions, number in ((template, encoder.template_positions, 1), (search, encoder.positions, 0)):
        pixels = masking.normalize(torch.from_numpy(picture).permute(2, 0, 1)[None])
        patches = functional.conv2d(pixels, encoder.patch_embed.weight, encoder.patch_embed.bias, stride=encoder.patch)
        tokens.append(patches.flatten(2).transpose(1, 2) + positions.table + encoder.frame_embed(number))
    first, places = tokens[0].shape[1], torch.arange(tokens[1].shape[1])
    count, joined = len(places), torch.cat(tokens, 1)
    row = int(model.rows(joined.device)[0])
    for number, block in enumerate(encoder.blocks):
        packed = block.attn.qkv(block.norm1(joined)).unflatten(2, (3, block.attn.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = packed.unbind(0)
        share = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1)
        joined = joined + block.attn.proj((share @ v).transpose(1, 2).flatten(2))
        if number in model.eliminate:
            left = share[0, :, row, first:].mean(0).argsort(descending=True)[: math.ceil(model.keep * len(places))]
            places, joined = places[left], torch.cat([joined[:, :first], joined[:, first:][:, left]], 1)
        joined = joined + block.mlp(block.norm2(joined))
    found = joined.new_zeros(1, count, joined.shape[2])
    found[:, places] = encoder.norm(joined)[:, first:]
    maps = model.head(found.transpose(1, 2).unflatten(2, model.grid))
    return head.decode(maps, maps.score * head.hann(model.grid[0]))[0][0]


class Forms:
    """One step in the textbook form and, with `batch` objects, in ours in some precisions."""

    def __init__(
        self, size: Size, image: int, batch: int, device: torch.device, precisions: tuple[Precision, ...] = ("auto",)
    ) -> None:
        rng = np.random.default_rng(0)
        self.frames = rng.integers(0, 256, (2, 45, 80, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        self.boxes = np.array([[200.0, 100, 90, 60]]) + np.arange(batch)[:, None] * [2, 1, 0, 0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = VOT(size=size, image=image).eval().to(device)
        self.template = crops.cut(
            self.frames[0], crops.region(self.boxes[0], self.model.template_factor), self.model.template
        )
        self.target = Target(ids=np.arange(1, batch + 1), boxes=self.boxes)
        self.steps = {f"ours, {precision}": self.step(precision, device) for precision in precisions}
        if device.type == "cpu":
            self.steps = {"textbook": self.textbook, **self.steps}

    def step(self, precision: Precision, device: torch.device) -> Callable[[], Any]:
        """What follows the objects into the second frame."""
        engine = Engine(copy.deepcopy(self.model), device, precision)
        state = engine.run(engine.task.start, self.frames[0], self.target)
        return partial(engine.run, engine.task.step, state, self.frames[1])

    def textbook(self) -> Tensor:
        return textbook(self.model, self.template, self.frames[1], self.boxes[0])

    def check(self) -> None:
        """AssertionError where both forms do not give the same box in float32."""
        state = self.model.start(self.frames[0], self.target)
        _, found = self.model.step(state, self.frames[1])
        share = self.textbook().numpy().astype(np.float64)[None]
        scale = np.array([self.model.image / crops.region(self.boxes[0], self.model.search_factor or 0).side])
        box = crops.clip_boxes(crops.from_crop(share, self.boxes[:1], scale, self.model.image), (360, 640), 10)
        np.testing.assert_allclose(found[1].box(), box[0], atol=0.05)


def measure(
    size: Size = "base",
    image: int = 384,
    repeats: int = 3,
    batch: int = 1,
    device: str = "cpu",
    precisions: tuple[Precision, ...] = ("auto", "int8"),
) -> dict[str, Any]:
    """Seconds of a step of `batch` objects in the textbook form and in ours, measured in turn; medians.

    `ratio` is the median ratio of the textbook form's seconds per object to ours in the same round, `cpu_ratio` that of
    processor time, which other programs disturb less. On a GPU the textbook form and int8 are left out.
    """
    where = torch.device(device)
    plain = where.type == "cpu"
    forms = Forms(size, image, batch, where, tuple(p for p in precisions if plain or p != "int8"))
    if plain:
        forms.check()
    for step in forms.steps.values():
        step()
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in forms.steps}
    for _ in range(repeats):
        for name, step in forms.steps.items():
            rows[name].append(timed(step, where))
    report: dict[str, Any] = {"size": size, "image": image, "batch": batch, "device": device}
    report |= {"threads": torch.get_num_threads(), "bf16": supports_bf16(where), "steps": {}}
    for name, times in rows.items():
        count = 1 if name == "textbook" else batch
        seconds = statistics.median(wall for wall, _ in times)
        report["steps"][name] = found = {"seconds": seconds, "frames_per_s": 1 / seconds}
        for key, part in (("ratio", 0), ("cpu_ratio", 1)) if plain else ():
            pairs = zip(rows["textbook"], times)
            found[key] = statistics.median(count * slow[part] / quick[part] for slow, quick in pairs)
    return report


def timed(function: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Seconds on the wall and of the processor."""
    wall, busy = time.perf_counter(), time.process_time()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - busy
