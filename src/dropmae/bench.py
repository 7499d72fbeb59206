"""The verb `bench`: training steps of every method, side by side in one run."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import dropmae
from dropmae import distributed, registry
from dropmae.clips import Clips, Sequence, collate
from dropmae.ops import asad
from dropmae.vit import Size

TEXTBOOK = "dropmae, textbook"


def bench(
    *,
    methods: tuple[str, ...] = (),
    size: Size = "tiny",
    image: int = 112,
    batch: int = 16,
    rounds: int = 5,
    device: str = "auto",
    bf16: bool | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Times a training step (forward, backward, AdamW) of each method, in turn, and gives ratios to TwinMAE's.

    Every round runs each method once, so that ratios hold on a machine whose speed drifts; medians over rounds are
    shown. The textbook form of DropMAE is explicit softmax, torch.multinomial without replacement on the flattened W,
    masked logits and a second softmax, with explicit attention in the encoder too.

    Args:
        methods: which methods, beside twinmae and the textbook form of dropmae; by default all.
        size: size of the networks.
        image: side of the pictures in pixels.
        batch: samples in a step; a sample is a pair, a frame for mae and a clip for mgm.
        rounds: steps of each that count, after one that warms up.
        device: auto, cpu, cuda or cuda:N.
        bf16: autocast to bfloat16; by default where the hardware multiplies it.
        seed: decides weights and pictures.
    """
    if batch < 1 or rounds < 1:
        raise ValueError("batch and rounds must be at least 1")
    where = distributed.pick_device(device)
    half = distributed.supports_bf16(where) if bf16 is None else bf16
    names = dict.fromkeys([*(methods or registry.names("methods")), "twinmae", TEXTBOOK])
    steps = {name: _step(_module(name, size, image, seed), batch, where, half, seed) for name in names}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            seconds = step(number)
            if number:
                times[name].append(seconds)
    rows = {
        name: {
            "seconds": statistics.median(found),
            "samples_per_s": batch / statistics.median(found),
            "times_twinmae": statistics.median(a / b for a, b in zip(found, times["twinmae"])),
        }
        for name, found in times.items()
    }
    result = {"setting": _setting(size, image, batch, rounds, where, half), "steps": rows}
    _show(result)
    return result


def textbook(query: Tensor, key: Tensor, value: Tensor, count: int) -> Tensor:
    """Attention with spatial-attention dropout as one would write it down: the yardstick of every ratio."""
    logits = (query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5
    with torch.no_grad():
        weights = asad.drop_weights(logits.detach())
        chosen = torch.multinomial(weights.flatten(0, -3).flatten(1), count, replacement=False)
        pairs = torch.zeros_like(weights.flatten(0, -3).flatten(1), dtype=torch.bool).scatter_(1, chosen, True)
        dropped = asad.spread(pairs.view(weights.shape))
    return torch.softmax(logits.masked_fill(dropped, float("-inf")), dim=-1) @ value


def explicit(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Plain attention with its matrix written out."""
    return torch.softmax((query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5, dim=-1) @ value


def _explicitly(forward: Callable[..., Tensor], x: Tensor, attend: Any = None) -> Tensor:
    return forward(x, attend or explicit)


def _module(name: str, size: Size, image: int, seed: int) -> Any:
    torch.manual_seed(seed)
    if name != TEXTBOOK:
        return registry.load("methods", name)(size=size, image=image)
    module = registry.load("methods", "dropmae")(size=size, image=image)
    count = asad.drop_count(module.drop_ratio, module.grid[0] * module.grid[1])
    module.attends = lambda key, grid: [partial(textbook, count=count)] * len(module.decoder.blocks)
    for block in module.encoder.blocks:
        block.attn.forward = partial(_explicitly, block.attn.forward)
    return module


def _step(module: Any, batch: int, device: torch.device, half: bool, seed: int) -> Callable[[int], float]:
    """A function that runs one training step and gives its seconds."""
    module.to(device).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    rng = np.random.default_rng(seed)
    shape = (20, module.sides[0] + 16, module.sides[1] + 16, 3)
    made = [Sequence(f"noise{i}", rng.integers(0, 256, shape, dtype=np.uint8)) for i in range(min(batch, 4))]
    clips = Clips(made, module.sample, seed)
    found = collate([clips[i] for i in range(batch)])
    inputs = {name: value.to(device) for name, value in found.items() if isinstance(value, Tensor)}
    inputs |= {"seed": seed, "progress": 0.0}

    def step(number: int) -> float:
        index = torch.arange(number * batch, (number + 1) * batch, device=device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            loss = module({**inputs, "index": index, "step": number})["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    return step


def _setting(size: str, image: int, batch: int, rounds: int, device: torch.device, half: bool) -> dict[str, Any]:
    """Where, when and with what it was measured."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        commit = ""
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{device.type}, {processor}, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "dropmae": dropmae.__version__,
        "commit": commit or "unknown",
        "size": size,
        "image": image,
        "batch": batch,
        "rounds": rounds,
        "precision": "bf16" if half else "fp32",
    }


def _show(result: dict[str, Any]) -> None:
    setting = ", ".join(f"{name} {value}" for name, value in result["setting"].items())
    table = Table(title="a training step", caption=setting)
    for column in ("method", "ms", "samples/s", "times TwinMAE's"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, row in result["steps"].items():
        cells = (f"{1e3 * row['seconds']:.1f}", f"{row['samples_per_s']:.1f}", f"{row['times_twinmae']:.2f}")
        table.add_row(name, *cells)
    Console(stderr=True).print(table)
