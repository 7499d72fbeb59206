"""What a training run would take on a cluster: a simulation of its steps, of its loading and of its failures.

A step is simulated GPU by GPU: micro-batches of noisy duration, gradients that travel in buckets as soon as every GPU
has them, weights that are gathered when training is sharded, samples that a loader makes ahead. A run is then simulated
from checkpoint to checkpoint, with nodes that fail at random and work that is lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dropmae.speed.cluster import Cluster, Model, all_gather, all_reduce


def compute_times(cluster: Cluster, rng: np.random.Generator, micros: int, size: int) -> np.ndarray:
    """Seconds float64 [micros, world] of each GPU's micro-batches of `size` samples: size / rate, and noise."""
    shape = micros, cluster.world
    spread = math.sqrt(math.log1p(cluster.jitter**2))
    noise = np.exp(spread * rng.standard_normal(shape) - spread**2 / 2)
    return size / cluster.rate * noise * np.where(rng.random(shape) < cluster.straggle, cluster.slow, 1.0)


BACKWARD = 2 / 3
"""Share of the backward pass in a micro-batch: twice the products of the forward pass."""


class Loader:
    """Data processes of every GPU: each micro-batch is ready when it is made, and begun when there is room for it."""

    def __init__(self, cluster: Cluster, size: int) -> None:
        self.seconds = size / supply(cluster)
        self.room = np.full((cluster.prefetch, cluster.world), -math.inf)  # when the last ones were taken
        self.made, self.count = np.full(cluster.world, -self.seconds), 0  # the run starts when the first is there

    def take(self, now: np.ndarray) -> np.ndarray:
        """When each GPU that asks at `now` gets its next micro-batch."""
        slot = self.count % len(self.room)
        self.made = np.maximum(self.made, self.room[slot]) + self.seconds
        taken = np.maximum(now, self.made)
        self.room[slot] = taken
        self.count += 1
        return taken


def supply(cluster: Cluster) -> float:
    """Samples per second that the data processes of one GPU make, with its share of the storage."""
    made = cluster.cores * cluster.load
    return min(made, cluster.storage * 1e9 / cluster.world / (cluster.sample * 1e6)) if cluster.sample else made


@dataclass
class Steps:
    """Mean seconds of a step, and where they go, as the average GPU sees it."""

    seconds: float
    compute: float
    data: float
    """Waiting for samples."""
    network: float
    """Communication that computation does not hide, were all GPUs equally fast."""
    others: float
    """Waiting for slower GPUs."""
    traffic: float
    """Bytes that a GPU's collectives carry in a step."""


def simulate_steps(cluster: Cluster, model: Model) -> Steps:
    """Simulates `cluster.steps` steps one by one."""
    own = cluster.batch // cluster.world
    micro = max(size for size in range(1, min(own, cluster.micro) + 1) if own % size == 0)
    micros = own // micro
    rng = np.random.default_rng(cluster.seed)
    loader = Loader(cluster, micro)
    timeline = _fsdp if cluster.sharding == "fsdp" else _ddp
    now, seconds, data = np.zeros(cluster.world), 0.0, 0.0
    count = min(cluster.steps, max(20, cluster.steps // micros))
    for _ in range(count):
        durations = compute_times(cluster, rng, micros, micro)
        for part in range(micros):
            ready = loader.take(now)
            data += float((ready - now).mean())
            now = timeline(cluster, model, ready, durations[part], part == micros - 1)
        seconds += float(durations.sum(0).mean())
    compute, data, step = (float(value) / count for value in (seconds, data, now.max()))
    even = replace(cluster, jitter=0.0, straggle=0.0)
    smooth, plain = np.zeros(cluster.world), np.full(cluster.world, micro / cluster.rate)
    for part in range(micros):
        smooth = timeline(even, model, smooth, plain, part == micros - 1)
    network = max(0.0, float(smooth.max()) - micros * micro / cluster.rate)
    network = min(network, max(0.0, step - compute - data))
    others = max(0.0, step - compute - data - network)
    return Steps(step, compute, data, network, others, _traffic(cluster, model, micros))


def _traffic(cluster: Cluster, model: Model, micros: int) -> float:
    if cluster.world == 1:
        return 0.0
    if cluster.sharding == "ddp":
        return 2 * 4.0 * model.parameters
    gathered = 2 * 2.0 * sum(model.groups) * micros + 4.0 * model.rest * micros
    return gathered + 4.0 * model.parameters


def _ddp(cluster: Cluster, model: Model, ready: np.ndarray, seconds: np.ndarray, last: bool) -> np.ndarray:
    """When each GPU ends a micro-batch; in the last one float32 gradients are summed bucket by bucket."""
    end = ready + seconds
    if not last or cluster.world == 1:
        return end
    total = 4.0 * model.parameters
    count = max(1, math.ceil(total / (cluster.bucket * 1e6)))
    took = all_reduce(total / count, cluster)
    wire = 0.0
    for number in range(count):
        there = ready + seconds * (1 - BACKWARD * (1 - (number + 1) / count))
        wire = max(wire, float(there.max())) + took
    return np.maximum(end, wire)


def _fsdp(cluster: Cluster, model: Model, ready: np.ndarray, seconds: np.ndarray, last: bool) -> np.ndarray:
    """When each GPU ends a micro-batch of sharded training.

    Blocks are gathered in bfloat16, each when the one before begins, forwards and again backwards; in the last
    micro-batch their float32 gradients are summed when they are there. What lies around the blocks is gathered first
    and summed last, in float32. One wire carries all this in order, and each collective waits for the slowest GPU.
    """
    if cluster.world == 1:
        return ready + seconds
    whole = sum(model.groups)
    order = [(size, (1 - BACKWARD) * size / whole, False) for size in model.groups]
    order += [(size, BACKWARD * size / whole, last) for size in reversed(model.groups)]
    gathered = float(ready.max()) + all_gather(4.0 * model.rest, cluster) + all_gather(2.0 * order[0][0], cluster)
    at, wire = ready, gathered
    for number, (size, portion, reduced) in enumerate(order):
        begun = np.maximum(at, gathered)
        if number + 1 < len(order):
            gathered = wire = max(wire, float(begun.max())) + all_gather(2.0 * order[number + 1][0], cluster)
        at = begun + seconds * portion
        if reduced:
            wire = max(wire, float(at.max())) + all_gather(4.0 * size, cluster)
    if last:
        wire = max(wire, float(at.max())) + all_gather(4.0 * model.rest, cluster)
        return np.maximum(at, wire)
    return at


def checkpoint_seconds(cluster: Cluster, model: Model) -> float:
    """For how long a checkpoint stops training: weights and both moments, and the weights once more by themselves."""
    together = min(cluster.write * cluster.world, cluster.storage) if cluster.sharding == "fsdp" else cluster.write
    return 12 * model.parameters / (together * 1e9) + 4 * model.parameters / (cluster.write * 1e9)


def best_interval(cost: float, rate: float) -> float:
    """Seconds of work between checkpoints of `cost` seconds that lose least when failures come at `rate` per second.

    The exact optimum for failures without memory, (1 - rate t) exp(rate (t + cost)) = 1; for small costs it is Young's
    sqrt(2 cost / rate) (1974; Daly 2006). Infinite where nothing fails.
    """
    if rate == 0:
        return math.inf
    low, high = 0.0, 1 / rate
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - rate * middle) * math.exp(rate * (middle + cost)) > 1 else (low, middle)
    return low


@dataclass
class Runs:
    """Mean seconds of whole runs, and what of them went into checkpoints and failures."""

    seconds: float
    checkpoints: float
    failures: float
    """Work that was lost, and restarts."""
    count: float
    """Failures in a run."""
    every: int
    """Steps between checkpoints."""


def simulate_runs(cluster: Cluster, model: Model, step: float) -> Runs:
    """Simulates `cluster.runs` whole runs, whose steps take `step` seconds, from checkpoint to checkpoint."""
    total = math.ceil(cluster.samples / cluster.batch)
    cost = checkpoint_seconds(cluster, model)
    rate = cluster.nodes / (cluster.mtbf * 3600) if cluster.mtbf else 0.0
    every = cluster.every or max(1, round(min(best_interval(cost, rate) / step, total)))
    works = np.full(math.ceil(total / every), every * step)
    works[-1] = (total - every * (len(works) - 1)) * step
    lengths = works + cost
    if rate * lengths.max() > 8:
        raise ValueError(
            f"--simulate: with a failure every {1 / rate:.0f} s and {lengths.max():.0f} s between checkpoints a run "
            "would hardly ever end: lower every"
        )
    lost, count = 0.0, 0
    rng = np.random.default_rng(cluster.seed)
    open_ = np.tile(lengths, cluster.runs) if rate else lengths[:0]
    while len(open_):
        until = rng.exponential(1 / rate, len(open_))
        failed = until < open_
        lost += float(until[failed].sum()) + cluster.restart * int(failed.sum())
        count += int(failed.sum())
        open_ = open_[failed]
    lost, saving = lost / cluster.runs, cost * len(works)
    return Runs(total * step + saving + lost, saving, lost, count / cluster.runs, every)


def scales(cluster: Cluster) -> list[Cluster]:
    """The same with 1, 2, 4 ... GPUs of one node and then with 1, 2, 4 ... nodes, where they can share the batch."""

    def doubled(limit: int) -> list[int]:
        return [*(2**power for power in range(limit.bit_length()) if 2**power < limit), limit]

    wanted = [(1, gpus) for gpus in doubled(cluster.gpus)] + [(nodes, cluster.gpus) for nodes in doubled(cluster.nodes)]
    found = [(nodes, gpus) for nodes, gpus in dict.fromkeys(wanted) if cluster.batch % (nodes * gpus) == 0]
    return [replace(cluster, nodes=nodes, gpus=gpus) for nodes, gpus in found]


def simulate(cluster: Cluster, model: Model) -> dict[str, dict[str, Any]]:
    """A row for each scale, by its name: speed, efficiency, shares of the run's time, costs and needs.

    Shares are of the average GPU's time and add up to 1; `efficiency` is samples/s over those of as many GPUs that
    never wait. Memory is that of weights, gradients and moments, without activations.
    """
    if not cluster.rate:
        raise ValueError("--simulate: a rate is needed")
    rows = {}
    for scale in scales(cluster):
        steps = simulate_steps(scale, model)
        runs = simulate_runs(scale, model, steps.seconds)
        working = 1 - (runs.checkpoints + runs.failures) / runs.seconds
        speed = scale.batch / steps.seconds
        rows[f"{scale.nodes} x {scale.gpus}"] = {
            "gpus": scale.world,
            "samples_per_s": speed,
            "efficiency": speed / (scale.world * scale.rate),
            "step_s": steps.seconds,
            "compute": working * steps.compute / steps.seconds,
            "data": working * steps.data / steps.seconds,
            "network": working * steps.network / steps.seconds,
            "others": working * steps.others / steps.seconds,
            "checkpoints": runs.checkpoints / runs.seconds,
            "failures": runs.failures / runs.seconds,
            "failure_count": runs.count,
            "hours": runs.seconds / 3600,
            "gpu_hours": runs.seconds / 3600 * scale.world,
            "read_gb_per_s": speed * scale.sample / 1e3,
            "network_gb_per_s": (scale.nodes - 1) / scale.nodes * steps.traffic / steps.seconds / 1e9,
            "memory_gb": state_bytes(scale, model) / 1e9,
            "checkpoint_gb": 16 * model.parameters / 1e9,
            "checkpoint_s": checkpoint_seconds(scale, model),
            "checkpoint_steps": runs.every,
            "cores": scale.rate / scale.load * scale.world,
        }
    return rows


def state_bytes(cluster: Cluster, model: Model) -> float:
    """Bytes of weights, gradients and moments that a GPU holds at most.

    Whole copies: 4 + 4 + 8 a parameter and, with several GPUs, 4 for the buckets in which gradients travel. Shares: 12
    a parameter, divided by all; gradients whole where micro-batches are added up; two gathered blocks and the rest.
    """
    world, count = cluster.world, model.parameters
    if cluster.sharding == "ddp" or world == 1:
        return count * (16 if world == 1 else 20)
    gradients = 4 * count / (world if cluster.batch // world <= cluster.micro else 1)
    return 12 * count / world + gradients + 2 * 2 * max(model.groups) + 4 * model.rest
