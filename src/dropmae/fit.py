"""The one training loop.

`fit` knows nothing of methods and tasks beyond `forward(batch) -> {"loss"}` and `groups(options)`. Every random
choice hashes (seed, sample number), and step s takes samples s G .. (s + 1) G - 1 of the stream, so a run that was
killed and started again does what an uninterrupted one does.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dropmae import distributed, optim
from dropmae.clips import Clips, Share, batches
from dropmae.journal import BadFiles, Journal
from dropmae.ops import allocator
from dropmae.progress import Progress, say
from dropmae.weights import write_tensors


@dataclass(kw_only=True)
class Options:
    """How to train. Durations are written 1000 (steps), 40ep (epochs) or 5% (of the run)."""

    epochs: float = 400
    """Passes over the videos; not used where --steps is given."""
    steps: int = 0
    """Optimizer steps; 0 lets --epochs decide."""
    global_batch: int = 4096
    """Samples per optimizer step, over all processes and micro-batches together."""
    lr: float = 1.5e-4
    """Base learning rate per 256 samples; the peak is lr * global_batch / 256."""
    min_lr: float = 0.0
    """Learning rate at the end, as a base rate per 256 samples."""
    warmup: str = "10%"
    """Duration of the linear warm-up from zero."""
    weight_decay: float = 0.05
    """AdamW's decay of matrices and embeddings; vectors and biases have none."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's moment decay rates."""
    clip: float = 0.0
    """Largest gradient norm; 0 does not clip."""
    seed: int = 0
    """Decides the initial weights and, hashed with the sample number, every later random choice."""
    repeats: int = 1
    """Samples made in a row from each opened video; an epoch grows by as much."""
    micro_batch: int = 0
    """Samples per forward pass and process; 0 takes the largest divisor up to 64."""
    workers: int = -1
    """Data processes per rank; -1 takes the machine's cores shared among its ranks, at most 16."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16 is autocast with float32 weights; auto takes it where the hardware multiplies bf16."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    compile: bool = False
    """Run the model through torch.compile."""
    save_every: str = "5%"
    """Duration between checkpoints."""
    validate_every: str = "10%"
    """Duration between validations."""
    log: Literal["none", "tensorboard"] = "none"
    """Where else to send what metrics.jsonl holds."""

    def __post_init__(self) -> None:
        self.betas = (float(self.betas[0]), float(self.betas[1]))
        for name in ("global_batch", "lr", "epochs", "repeats"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name.replace('_', '-')} must be positive, not {getattr(self, name)}")
        if self.steps < 0 or self.micro_batch < 0 or self.seed < 0:
            raise ValueError("steps, micro-batch and seed must not be negative")

    def rate(self, step: int, how: Plan) -> float:
        """The learning rate at a step: a linear warm-up, then half a cosine."""
        return optim.cosine(step, how.steps, how.warmup, how.peak, how.floor)


FREE = ("micro_batch", "workers", "precision", "device", "compile", "save_every", "validate_every", "log")
"""Options that may differ when a run is continued: they do not say what is learned."""


@dataclass
class Plan:
    """What the options come to for this data set and this number of processes."""

    options: Options
    epoch: float
    """Steps per epoch."""
    steps: int
    warmup: int
    peak: float
    floor: float
    save_every: int
    validate_every: int
    share: Share
    workers: int
    device: torch.device
    bf16: bool

    def lr(self, step: int) -> float:
        return self.options.rate(step, self)


def plan(options: Options, epoch_samples: int) -> Plan:
    """Turns options into numbers of steps, micro-batches and rates; ValueError where they cannot be met."""
    world, batch = distributed.world(), options.global_batch
    if batch % world:
        raise ValueError(f"a global batch of {batch} cannot be shared by {world} processes: use a multiple")
    own = batch // world
    micro = options.micro_batch or max(size for size in range(1, min(own, 64) + 1) if own % size == 0)
    if own % micro:
        raise ValueError(f"micro-batch {micro} does not divide the {own} samples of each process")
    epoch = epoch_samples / batch
    steps = options.steps or max(1, math.floor(options.epochs * epoch))
    device = distributed.pick_device(options.device)
    able = distributed.supports_bf16(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Plan(
        options=options,
        epoch=epoch,
        steps=steps,
        warmup=optim.duration(options.warmup, epoch, steps),
        peak=options.lr * batch / 256,
        floor=options.min_lr * batch / 256,
        save_every=max(1, optim.duration(options.save_every, epoch, steps)),
        validate_every=max(1, optim.duration(options.validate_every, epoch, steps)),
        share=Share(batch, micro, distributed.rank(), world),
        workers=max(1, min(16, cores // local)) if options.workers < 0 else options.workers,
        device=device,
        bf16=options.precision == "bf16" or (options.precision == "auto" and able),
    )


Validate = Callable[[nn.Module, int], dict[str, Any]]


def fit(
    module: nn.Module,
    clips: Clips,
    options: Options,
    out: Path,
    *,
    save: Callable[[nn.Module, Path], None],
    validate: Validate | None = None,
) -> dict[str, Any]:
    """Trains `module` on `clips` into the run folder `out`, continuing what is there; returns a summary.

    `save` writes the weights (last.safetensors); `validate(module, step)` returns numbers for validation.jsonl. OSError
    where nothing can be read or written, FloatingPointError after three non-finite steps in a row.
    """
    how = plan(options, clips.epoch)
    distributed.start(how.device)
    if how.device.type == "cpu":
        allocator.keep_memory()
    out.mkdir(parents=True, exist_ok=True)
    state = State(module.to(how.device), options, how)
    done = state.load(out / "resume" / "state.safetensors")
    journal = Journal(out, done, options.log)
    bad = BadFiles(out)
    autocast = _autocast(how)
    model: Any = state.module
    if options.compile:
        model.compile()
    if distributed.world() > 1:
        model = DistributedDataParallel(model, device_ids=[how.device.index] if how.device.type == "cuda" else None)
    if distributed.is_main():
        say(_headline(how, options, clips, done) if done < how.steps else f"{out}: finished, {done} steps")
    progress = Progress(how.steps, done, enabled=distributed.is_main())

    def checkpoint(step: int) -> None:
        bad.merge()
        if distributed.is_main():
            journal.flush()
            state.save(out / "resume" / "state.safetensors", step)
            save(state.module, out / "last.safetensors")
        distributed.barrier()

    def check(step: int) -> None:
        if validate is not None and distributed.is_main():
            state.module.eval()
            with torch.no_grad(), autocast():
                journal.validated(step, validate(state.module, step))
            state.module.train()
        distributed.barrier()

    stop = _StopSignal(distributed.world() == 1)
    try:
        if done == 0:
            check(0)
        stream = batches(clips, how.share, done, how.steps, how.workers)
        state.module.train()
        ended, waited = time.perf_counter(), 0.0
        for step in range(done, how.steps):
            rate = how.lr(step)
            loss = torch.zeros((), device=how.device)
            for part in range(how.share.micros):
                asked = time.perf_counter()
                batch = next(stream)
                waited += time.perf_counter() - asked
                bad.add(batch.pop("reports"))
                batch = {k: v.to(how.device, non_blocking=True) for k, v in batch.items() if isinstance(v, Tensor)}
                batch |= {"seed": options.seed, "step": step, "progress": step / how.steps}
                last = part == how.share.micros - 1
                silent = isinstance(model, DistributedDataParallel) and not last
                with model.no_sync() if silent else nullcontext():
                    with autocast():
                        part_loss = model(batch)["loss"]
                    (part_loss / how.share.micros).backward()
                loss += part_loss.detach() / how.share.micros
            loss = distributed.mean(loss)
            norm, finite = state.step(rate, loss)
            now = time.perf_counter()
            journal.add(step + 1, loss, norm, finite, rate, now - ended, waited, how.share.batch, how.device)
            ended, waited = now, 0.0
            if journal.due() or step + 1 == how.steps:
                journal.flush()
                progress.show(step + 1, journal.last, options.global_batch)
            asked = stop.asked  # read once: a signal that comes later waits for the next step
            final = step + 1 == how.steps or asked
            if final or (step + 1) % how.validate_every == 0:
                check(step + 1)
            if final or (step + 1) % how.save_every == 0:
                checkpoint(step + 1)
            if asked and step + 1 < how.steps:
                raise KeyboardInterrupt
    finally:
        progress.close()
        journal.close()
        stop.restore()
    return {
        "steps": how.steps,
        "samples": how.steps * options.global_batch,
        "loss": journal.last.get("loss"),
        "out": str(out),
        "bad_files": len(bad.known),
        "samples_replaced": sum(entry["samples"] for entry in bad.known.values()),
    }


class State:
    """Module and optimizer: one step, and an exact checkpoint of both."""

    def __init__(self, module: Any, options: Options, how: Plan) -> None:
        self.module: nn.Module = module
        parameters: dict[str, nn.Parameter] = dict(module.named_parameters())
        groups = [
            {
                "params": [parameters[name] for name in group["names"]],
                "factor": group["lr"],
                "weight_decay": options.weight_decay * group["decay"],
            }
            for group in module.groups(options)
        ]
        self.names: dict[Tensor, str] = {parameters[name]: name for name in parameters}
        self.clip = options.clip
        # lr 0 at the start: each step sets its own
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=options.betas, eps=1e-8, fused=True)

    def step(self, rate: float, loss: Tensor) -> tuple[Tensor, Tensor]:
        """One optimizer step, left out on the device where loss or gradient is not finite; (norm, finite)."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        gradients = [p.grad for p in self.names if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        if self.clip:
            scale = (self.clip / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, torch.where(finite, scale, 1.0))
        setattr(self.optimizer, "found_inf", (~finite).float())  # noqa: B010 (the fused kernels read it)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm, finite

    def save(self, path: Path, step: int) -> None:
        """Writes everything a continued run needs, whole or not at all."""
        tensors = {
            f"module.{name}": value.detach().cpu().contiguous() for name, value in self.module.state_dict().items()
        }
        for parameter, kept in self.optimizer.state.items():
            for key, value in kept.items():
                tensors[f"optimizer.{self.names[parameter]}.{key}"] = value.detach().cpu().contiguous()
        write_tensors(tensors, path, {"step": str(step)})

    def load(self, path: Path) -> int:
        """Takes up the checkpoint at `path`, if there is one; the number of finished steps."""
        if not path.exists():
            return 0
        try:
            with safe_open(path, "pt") as file:
                step = int(file.metadata()["step"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        except Exception as error:
            raise OSError(f"{path} is not a readable checkpoint ({error}); remove it to start anew") from error
        self.module.load_state_dict({n[7:]: v for n, v in tensors.items() if n.startswith("module.")})
        for parameter, name in self.names.items():
            prefix = f"optimizer.{name}."
            kept = {key: tensors.get(prefix + key) for key in ("step", "exp_avg", "exp_avg_sq")}
            if kept["step"] is not None:
                self.optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in kept.items() if v is not None}
        return step


class _StopSignal:
    """SIGTERM and SIGINT end the run after the current step, with a checkpoint; a second one at once."""

    def __init__(self, enabled: bool) -> None:
        self.asked = False
        self.old: dict[int, Any] = {}
        try:
            if enabled:
                for number in (signal.SIGTERM, signal.SIGINT):
                    self.old[number] = signal.signal(number, self._ask)
        except ValueError:
            pass  # not the main thread: signals stay with whoever owns it

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True
        self.restore()

    def restore(self) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)
        self.old = {}


def _autocast(how: Plan) -> Callable[[], AbstractContextManager[Any]]:
    if not how.bf16:
        return nullcontext
    return lambda: torch.autocast(how.device.type, torch.bfloat16)


def _headline(how: Plan, options: Options, clips: Clips, done: int) -> str:
    samples = how.steps * options.global_batch
    head = f"step {done} of {how.steps}" if done else f"{how.steps} steps"
    lines = [
        f"{head}: {len(clips.sequences)} videos, {samples} samples ({samples / clips.epoch:.1f} epochs), "
        f"global batch {options.global_batch} = {how.share.world} processes x {how.share.micros} x {how.share.micro}, "
        f"peak lr {how.peak:.2e}, warm-up {how.warmup} steps, {'bf16' if how.bf16 else 'fp32'} on {how.device}, "
        f"{how.workers} data workers"
    ]
    if how.steps < 200:
        lines.append(
            f"note: {how.steps} steps is very short; a smaller --global-batch or more --epochs gives more of them"
        )
    return "\n".join(lines)
