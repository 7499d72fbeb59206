"""A cluster as a simulation needs it: what it has, what is trained on it, and how long its collectives take.

Times are seconds, sizes bytes, bandwidths bytes per second; what a user gives is in the units that `Cluster` states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints


@dataclass(kw_only=True)
class Cluster:
    """A cluster and a run on it, as given to `dropmae bench --simulate`."""

    nodes: int = 1
    """Machines."""
    gpus: int = 8
    """GPUs in a machine."""
    batch: int = 4096
    """Samples per step, over all GPUs."""
    micro: int = 64
    """Samples that a GPU takes at once, at most."""
    rate: float = 0.0
    """Samples per second of one GPU that waits for nothing; 0: from `tflops`, or measured on this device."""
    tflops: float = 0.0
    """Sustained TFLOP/s of a GPU, from which `rate` follows by the model's work; 0: not given."""
    jitter: float = 0.03
    """Deviation of a micro-batch's time from GPU to GPU and time to time, as a share of it (log-normal)."""
    straggle: float = 0.001
    """Probability that a micro-batch takes `slow` times as long."""
    slow: float = 2.0
    """How much longer a straggler takes."""
    sharding: Literal["ddp", "fsdp"] = "ddp"
    """Whole copies on every GPU, or shares as with --shard."""
    collective: Literal["hierarchical", "ring"] = "hierarchical"
    """Within nodes first and then between them, or one ring over all GPUs."""
    intra: float = 300.0
    """GB/s that a GPU sends to others in its node: an H100's NVLink has 450, and collectives reach two thirds."""
    inter: float = 50.0
    """GB/s that a node sends to others: one port of 400 Gbit/s."""
    intra_us: float = 5.0
    """Microseconds of each hop in a node."""
    inter_us: float = 15.0
    """Microseconds of each hop between nodes."""
    bucket: float = 25.0
    """MB of gradients that travel together; DistributedDataParallel's default is 25."""
    cores: float = 10.0
    """Data processes of each GPU."""
    load: float = 112.0
    """Samples per second that a core reads and decodes: of prepared video, docs/results.md."""
    sample: float = 0.4
    """MB read from storage for a sample: two frames and what lies before them to the last key frames."""
    storage: float = 10.0
    """GB/s at which the storage serves all nodes together."""
    prefetch: int = 40
    """Micro-batches that a GPU's data processes make ahead: four for each process."""
    write: float = 2.0
    """GB/s at which one process writes a checkpoint; all together write at most at `storage`."""
    every: int = 0
    """Steps between checkpoints; 0 takes the interval that loses least (Daly)."""
    mtbf: float = 6000.0
    """Hours between failures of a node; 0: none. Llama 3's 54 days on 2,048 nodes had 419 (arXiv 2407.21783): 6,300."""
    restart: float = 600.0
    """Seconds from a failure until steps are taken again."""
    samples: float = 96.6e6
    """Samples of the whole run: DropMAE's 400 epochs of Kinetics-400."""
    steps: int = 200
    """Steps that are simulated one by one; with several micro-batches in a step fewer, but at least 20."""
    runs: int = 20
    """Runs with failures over which is averaged."""
    seed: int = 0
    """Decides all that is random."""

    def __post_init__(self) -> None:
        whole = ("nodes", "gpus", "batch", "micro", "prefetch", "steps", "runs")
        for name in (*whole, "slow", "intra", "inter", "bucket", "cores", "load", "storage", "write", "samples"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--simulate: {name} must be positive, not {getattr(self, name)}")
        others = ("rate", "tflops", "jitter", "intra_us", "inter_us", "sample", "every", "mtbf", "restart", "seed")
        for name in others:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"--simulate: {name} must not be negative, not {getattr(self, name)}")
        if not 0 <= self.straggle <= 1:
            raise ValueError(f"--simulate: straggle is a probability, not {self.straggle}")
        if self.batch % (self.nodes * self.gpus):
            raise ValueError(
                f"--simulate: a batch of {self.batch} cannot be shared by {self.nodes * self.gpus} GPUs: use a multiple"
            )

    @property
    def world(self) -> int:
        return self.nodes * self.gpus


def parse(words: tuple[str, ...]) -> Cluster:
    """A cluster from NAME=VALUE words; ValueError that lists the names, or says which value does not fit."""
    kinds = get_type_hints(Cluster)
    given: dict[str, Any] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or name not in kinds:
            raise ValueError(f"--simulate takes NAME=VALUE, not {word!r}; names: {', '.join(kinds)}")
        choices = get_args(kinds[name])
        try:
            given[name] = text if choices else kinds[name](float(text)) if kinds[name] is int else float(text)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"--simulate: {name}={text} is not a number") from error
        if choices and text not in choices:
            raise ValueError(f"--simulate: {name} is {' or '.join(choices)}, not {text}")
        if kinds[name] is int and given[name] != float(text):
            raise ValueError(f"--simulate: {name} must be a whole number, not {text}")
    return Cluster(**given)


@dataclass
class Model:
    """What the simulation must know of a network."""

    parameters: int
    """All of them."""
    groups: list[int] = field(default_factory=list)
    """Those of each block, in the order of the forward pass; the rest is gathered once a step."""

    @property
    def rest(self) -> int:
        return self.parameters - sum(self.groups)


def all_gather(size: float, cluster: Cluster) -> float:
    """Seconds until every GPU has `size` bytes of which each had its part; a reduce-scatter takes as long.

    A ring of n takes n - 1 hops of size / n each. Between nodes every byte passes a node's port once; within nodes the
    hierarchical form moves each GPU's part, one nth of the node's, while the ring is as slow as its slowest link.
    """
    m, g = cluster.nodes, cluster.gpus
    near, far = cluster.intra * 1e9, cluster.inter * 1e9
    hop_near, hop_far = cluster.intra_us * 1e-6, cluster.inter_us * 1e-6
    if cluster.collective == "ring" and m > 1:
        n = m * g
        return (n - 1) * (max(hop_near, hop_far) + size / n / min(near, far))
    inside = (g - 1) * (hop_near + size / g / near)
    return inside + (m - 1) * (hop_far + size / m / far)


def all_reduce(size: float, cluster: Cluster) -> float:
    """Seconds until every GPU has the sum of `size` bytes: a reduce-scatter, then an all-gather."""
    return 2 * all_gather(size, cluster)
