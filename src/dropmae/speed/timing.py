"""What speed is measured with: steps in turn, A B C A B C, since machines drift; memory in processes of their own."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")


class Spent(NamedTuple):
    """Seconds on the wall and of the processor, which other programs disturb less."""

    wall: float
    busy: float


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(function: Callable[[], Any], device: str | torch.device = "cpu") -> Spent:
    """What a call takes, until the device is done."""
    device = torch.device(device)
    wait(device)
    wall, busy = time.perf_counter(), time.process_time()
    function()
    wait(device)
    return Spent(time.perf_counter() - wall, time.process_time() - busy)


def in_turn(steps: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each step returns, in each of the rounds that follow one that warms up."""
    rows: dict[str, list[T]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            found = step()
            if number:
                rows[name].append(found)
    return rows


def ratio(times: list[float], others: list[float]) -> float:
    """Median over the rounds of a ratio of times."""
    return statistics.median(a / b for a, b in zip(times, others))


def medians(rows: list[Spent]) -> Spent:
    return Spent(*(statistics.median(part) for part in zip(*rows)))


def alone(function: Callable[..., T], *arguments: Any) -> T:
    """The call's result from a fresh process with as many threads, which is gone afterwards."""
    context, threads = multiprocessing.get_context("spawn"), (torch.get_num_threads(),)
    with ProcessPoolExecutor(1, context, torch.set_num_threads, threads) as pool:
        return pool.submit(function, *arguments).result()


def explicit(query: Tensor, key: Tensor, value: Tensor, seen: list[Tensor] | None = None) -> Tensor:
    """Plain attention with its matrix written out, as in the textbook; `seen` holds that matrix afterwards."""
    share = torch.softmax((query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5, dim=-1)
    if seen is not None:
        seen[:] = [share]
    return share @ value


class Scene(NamedTuple):
    """Two frames uint8 [H, W, 3] and the label map uint8 [H, W] of the first."""

    first: np.ndarray
    second: np.ndarray
    labels: np.ndarray


def scene(frame: tuple[int, int], objects: int = 1) -> Scene:
    """Two frames of random squares, with objects side by side."""
    coarse = np.random.default_rng(0).integers(0, 256, (2, -(-frame[0] // 8), -(-frame[1] // 8), 3), dtype=np.uint8)
    first, second = coarse.repeat(8, 1).repeat(8, 2)[:, : frame[0], : frame[1]]
    labels = np.zeros(frame, np.uint8)
    for number in range(objects):
        columns = slice(number * frame[1] // objects, (2 * number + 1) * frame[1] // (2 * objects))
        labels[frame[0] // 4 : frame[0] // 2, columns] = number + 1
    return Scene(first, second, labels)
