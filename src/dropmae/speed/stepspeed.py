"""How fast training steps and attention are: methods, forms of the ops, and the textbook form, in turn in one process.

The textbook form of DropMAE is what one writes down after reading the paper: explicit softmax, `torch.multinomial`
without replacement on the flattened W, masked logits and a second softmax, explicit attention in the encoder too,
PyTorch's linear layers, and AdamW as it comes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dropmae import machine, registry
from dropmae.data.clips import Clips, Sequence, collate
from dropmae.nn.vit import SIZES, Size
from dropmae.ops import allocator, asad, noise, switch
from dropmae.ops.attention import attention
from dropmae.progress import Progress
from dropmae.speed.timing import alone, explicit, in_turn, ratio, timed

TEXTBOOK = "dropmae, textbook"
MATRIX = {"cpu": 2048, "cuda": 8192}
"""Side of the matrices whose product gives the machine's rate."""


@dataclass(frozen=True)
class Setting:
    """A training step to be timed: a method, or the textbook form of DropMAE, and how it runs."""

    method: str
    size: Size
    image: int
    batch: int
    device: str
    bf16: bool
    seed: int
    form: str = "fast"
    compile: bool = False

    @property
    def name(self) -> str:
        """Of its row: the method, and what differs from the fast form in bfloat16 where that is the default."""
        name = self.method if self.form == "fast" else f"{self.method}, {self.form} ops"
        return f"{name}, torch.compile" if self.compile else name


def contenders(plain: Setting, fp32: bool, compiled: bool = False) -> dict[str, Setting]:
    """Every step to be timed, by the name of its row."""
    found = [replace(plain, method=method) for method in registry.names("methods")]
    found += [replace(plain, method="dropmae", form=form) for form in ("torch", "reference")]
    found.append(replace(plain, method=TEXTBOOK))
    if compiled:
        found.insert(0, replace(plain, method="dropmae", compile=True))
    named = {setting.name: setting for setting in found}
    if plain.bf16 and fp32:
        named[f"{TEXTBOOK}, fp32"] = replace(plain, method=TEXTBOOK, bf16=False)
    return named


def steps(settings: dict[str, Setting], rounds: int, memory: bool) -> dict[str, dict[str, Any]]:
    """A row for each step: seconds, samples/s, ratios to TwinMAE's and DropMAE's time, FLOP utilisation, peak memory.

    `utilisation` is the share of the rate at which the device multiplies large matrices of the same precision,
    measured in the same rounds; FLOPs are those of the forward pass in matrix products, times three.
    """
    device = torch.device(settings["twinmae"].device)
    peaks = {name: peak_memory(setting) if memory else None for name, setting in settings.items()}
    family: Family = {}
    run = {name: Step(setting, family) for name, setting in settings.items()}
    calls: dict[str, Callable[[], float]] = {**run}
    halves = {half: f"products, {half}" for half in dict.fromkeys(setting.bf16 for setting in settings.values())}
    calls |= {name: partial(matrix_rate, device, half) for half, name in halves.items()}
    progress, taken = Progress((rounds + 1) * len(calls), 0), count(1)

    def shown(call: Callable[[], float]) -> float:
        found = call()
        progress.show(next(taken), {"seconds": found})
        return found

    times = in_turn({name: partial(shown, call) for name, call in calls.items()}, rounds)
    progress.close()
    rows = {}
    for name, setting in settings.items():
        gigaflop = 3 * flop(setting) / 1e9
        shares = [gigaflop * setting.batch / s / rate for s, rate in zip(times[name], times[halves[setting.bf16]])]
        rows[name] = {
            "precision": "bf16" if setting.bf16 else "fp32",
            "seconds": statistics.median(times[name]),
            "samples_per_s": setting.batch / statistics.median(times[name]),
            "times_twinmae": ratio(times[name], times["twinmae"]),
            "times_dropmae": ratio(times[name], times["dropmae"]),
            "gigaflop_per_sample": gigaflop,
            "utilisation": statistics.median(shares),
            "peak_memory_mb": peaks[name],
        }
    return rows


Family = dict[frozenset[tuple[str, torch.Size]], tuple[nn.Module, torch.optim.Optimizer]]


class Step:
    """A training step: each call takes the next samples and returns its seconds.

    Methods of the same parameters share them in `family`, so that many of them fit in memory.
    """

    def __init__(self, setting: Setting, family: Family) -> None:
        self.setting, self.device = setting, torch.device(setting.device)
        module = build(setting).to(self.device).train()
        shapes = frozenset((name, parameter.shape) for name, parameter in module.named_parameters())
        if shapes not in family:
            family[shapes] = module, torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
        relative, self.optimizer = family[shapes]
        if setting.method == TEXTBOOK:
            self.optimizer = torch.optim.AdamW(relative.parameters(), lr=1e-4)  # as it comes, not fused
        for name, parameter in relative.named_parameters():
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, parameter)
        self.module = module
        if setting.compile:
            module.compile()
        self.inputs, self.steps = pictures(module, setting), 0

    def __call__(self) -> float:
        batch = self.setting.batch
        index = torch.arange(self.steps * batch, (self.steps + 1) * batch, device=self.device)
        inputs = {**self.inputs, "index": index, "step": self.steps, "progress": 0.0}
        self.steps += 1
        with switch.use("reference" if self.setting.method == TEXTBOOK else self.setting.form):
            return timed(partial(learn, self.module, self.optimizer, inputs, self.setting.bf16), self.device).wall


def learn(module: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Any], bf16: bool) -> None:
    """Forward, backward and the optimizer's step on a batch that is on the device."""
    with torch.autocast(batch["index"].device.type, torch.bfloat16, enabled=bf16):
        loss = module(batch)["loss"]
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def build(setting: Setting) -> Any:
    """The network of a step; its weights follow from the seed."""
    torch.manual_seed(setting.seed)
    if setting.method != TEXTBOOK:
        return registry.load("methods", setting.method)(size=setting.size, image=setting.image)
    module = registry.load("methods", "dropmae")(size=setting.size, image=setting.image)
    count = asad.drop_count(module.drop_ratio, module.grid[0] * module.grid[1])
    module.attends = lambda key, grid: [partial(textbook, count=count)] * len(module.decoder.blocks)
    for block in module.encoder.blocks:
        block.attn.forward = partial(_explicitly, block.attn.forward)
    return module


def _explicitly(forward: Callable[..., Tensor], x: Tensor, attend: Any = None) -> Tensor:
    return forward(x, attend or explicit)


def pictures(module: Any, setting: Setting) -> dict[str, Any]:
    """A batch of noise as the loader would give it."""
    rng = np.random.default_rng(setting.seed)
    shape = (20, module.sides[0] + 16, module.sides[1] + 16, 3)
    made = [Sequence(f"noise{i}", rng.integers(0, 256, shape, dtype=np.uint8)) for i in range(min(setting.batch, 4))]
    clips = Clips(made, module.sample, setting.seed)
    found = collate([clips[i] for i in range(setting.batch)])
    return {k: v.to(setting.device) for k, v in found.items() if isinstance(v, Tensor)} | {"seed": setting.seed}


def textbook(query: Tensor, key: Tensor, value: Tensor, count: int) -> Tensor:
    """Attention with spatial-attention dropout as one would write it down: the yardstick of every ratio."""
    logits = (query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5
    with torch.no_grad():
        weights = asad.drop_weights(logits.detach())
        chosen = torch.multinomial(weights.flatten(0, -3).flatten(1), count, replacement=False)
        pairs = torch.zeros_like(weights.flatten(0, -3).flatten(1), dtype=torch.bool).scatter_(1, chosen, True)
        dropped = asad.spread(pairs.view(weights.shape))
    return torch.softmax(logits.masked_fill(dropped, float("-inf")), dim=-1) @ value


def operators(plain: Setting, rounds: int) -> dict[str, dict[str, Any]]:
    """Attention at the size of the decoder's, forward and backward, without and with dropout in each form."""
    shape, side = SIZES[plain.size], plain.image // SIZES[plain.size].patch
    tokens, heads, depth = 2 * side**2, shape.decoder_heads, shape.decoder_width // shape.decoder_heads
    device, dtype = torch.device(plain.device), torch.bfloat16 if plain.bf16 else torch.float32
    count = asad.drop_count(0.1, side**2)
    packed = torch.randn(plain.batch, tokens, 3, heads, depth, device=device, dtype=dtype, requires_grad=True)
    stream = noise.keys(plain.seed, torch.arange(plain.batch)).to(device)

    def op(name: str) -> Tensor:
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        if name == "plain":
            return attention(query, key, value)
        if name == "plain, PyTorch's":
            return nn.functional.scaled_dot_product_attention(query, key, value)
        if name == "textbook":
            with torch.autocast(device.type, dtype) if plain.bf16 else nullcontext():
                return textbook(query, key, value, count)
        with switch.use(name):
            return asad.attention(query, key, value, count, stream)

    def both(name: str) -> tuple[float, float]:
        made: list[Tensor] = []
        forward = timed(lambda: made.append(op(name)), device)
        return forward.wall, timed(made[0].sum().backward, device).wall

    names = ("plain", "plain, PyTorch's", *switch.FORMS, "textbook")
    times = in_turn({name: partial(both, name) for name in names}, rounds)
    totals = {name: [a + b for a, b in found] for name, found in times.items()}
    return {
        name: {
            "forward_s": statistics.median(a for a, _ in found),
            "backward_s": statistics.median(b for _, b in found),
            "times_plain": ratio(totals[name], totals["plain"]),
        }
        for name, found in times.items()
    }


def flop(setting: Setting) -> float:
    """FLOPs of one sample's forward pass in matrix products, attention included."""
    module = build(replace(setting, method="dropmae" if setting.method == TEXTBOOK else setting.method)).train()
    single = {
        k: v[:1].cpu() if isinstance(v, Tensor) else v for k, v in pictures(module, replace(setting, batch=1)).items()
    }
    batch = {**single, "index": torch.arange(1), "step": 0, "progress": 0.0}
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), switch.use("reference"), sdpa_kernel(SDPBackend.MATH), counter:
        module(batch)
    return float(counter.get_total_flops())


def matrix_rate(device: torch.device, half: bool) -> float:
    """GFLOP/s of the product of two large matrices."""
    side, dtype = MATRIX[device.type], torch.bfloat16 if half else torch.float32
    a, b = torch.randn(2, side, side, device=device).to(dtype).unbind(0)
    a @ b

    def products() -> None:
        for _ in range(4):
            a @ b

    return 4 * 2 * side**3 / timed(products, device).wall / 1e9


def peak_memory(setting: Setting) -> float | None:
    """MB at most in use over two steps of a fresh process: of its tensors on a GPU, of all of it on a CPU."""
    return alone(peak_of_process, setting)


def peak_of_process(setting: Setting) -> float | None:
    """`peak_memory`, in the process whose peak it is."""
    if setting.device == "cpu":
        allocator.keep_memory()
    step = Step(setting, {})
    for _ in range(2):
        step()
    if setting.device != "cpu":
        return torch.cuda.max_memory_allocated(torch.device(setting.device)) / 2**20
    return machine.resident_peak()
