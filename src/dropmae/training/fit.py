"""The one training loop.

`fit` knows nothing of methods and tasks beyond `forward(batch) -> {"loss"}` and `groups(options)`. Every random
choice hashes (seed, sample number), and step s takes samples s G .. (s + 1) G - 1 of the stream, so a run that was
killed and started again does what an uninterrupted one does.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from dropmae import machine
from dropmae.data.clips import Clips, Share, batches, end
from dropmae.data.resample import unpack
from dropmae.interruption import Interrupted, Stop, Whole, undisturbed
from dropmae.ops import allocator
from dropmae.progress import Progress, say
from dropmae.training import distributed, logs, optim
from dropmae.training.journal import BadFiles, MetricsLog
from dropmae.training.learner import Learner


@dataclass(kw_only=True)
class Options:
    """How to train. Durations are written 1000 (steps), 40ep (epochs) or 5% (of the run)."""

    # Optimisation
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
    # Machine
    micro_batch: int = 0
    """Samples per forward pass and process; 0 takes the largest divisor up to 64."""
    workers: int = -1
    """Data processes per rank; -1 takes the machine's cores shared among its ranks, at most 16."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """bf16 and fp16 are autocast with float32 weights, fp16 with a scaled loss; auto takes bf16 where the hardware
    multiplies it, else fp16 on a GPU and fp32 on a CPU."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    compile: bool = False
    """Run the model through torch.compile."""
    shard: bool = False
    """Share weights, gradients and moments among all processes (FSDP2) instead of keeping them whole in each."""
    save_every: str = "5%"
    """Duration between checkpoints."""
    validate_every: str = "10%"
    """Duration between validations."""
    extend: bool = False
    """Go on with a finished or stopped run to another --steps or --epochs, by the schedule of the new length."""
    log: logs.Name = "none"
    """Where else to send what metrics.jsonl and validation.jsonl hold; needs the extra `log`."""

    def __post_init__(self) -> None:
        self.betas = (float(self.betas[0]), float(self.betas[1]))
        for name in ("global_batch", "lr", "epochs", "repeats"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name.replace('_', '-')} must be positive, not {getattr(self, name)}")
        for name in ("steps", "micro_batch", "seed", "lr", "min_lr", "weight_decay", "clip", "epochs"):
            if not 0 <= getattr(self, name) < 2**63:
                title = name.replace("_", "-")
                raise ValueError(f"{title} must not be negative, nor without end, but is {getattr(self, name)}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), not {self.betas[0]} and {self.betas[1]}")
        if self.workers < -1:
            raise ValueError(
                f"workers is a number of data processes, or -1 for what the machine has; not {self.workers}"
            )

    def rate(self, step: int, how: Plan) -> float:
        """The learning rate at a step: a linear warm-up, then half a cosine."""
        return optim.cosine(step, how.steps, how.warmup, how.peak, how.floor)


FREE = ("micro_batch", "workers", "precision", "device", "compile", "shard", "save_every", "validate_every")
FREE += ("extend", "log")
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
    precision: str

    @property
    def bf16(self) -> bool:
        return self.precision == "bf16"

    @property
    def half(self) -> torch.dtype | None:
        """What is computed in beside float32."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)

    def lr(self, step: int) -> float:
        return self.options.rate(step, self)


def plan(options: Options, epoch_samples: int) -> Plan:
    """Turns options into numbers of steps, micro-batches and rates; ValueError where they cannot be met."""
    world, batch = distributed.world(), options.global_batch
    if batch % world:
        raise ValueError(f"a global batch of {batch} cannot be shared by {world} processes: use a multiple")
    if options.shard and world == 1:
        raise ValueError(
            "--shard needs several processes: start them with torchrun, or leave it out to continue with one"
        )
    own = batch // world
    micro = options.micro_batch or max(size for size in range(1, min(own, 64) + 1) if own % size == 0)
    if own % micro:
        raise ValueError(f"micro-batch {micro} does not divide the {own} samples of each process")
    epoch = epoch_samples / batch
    steps = options.steps or max(1, math.floor(options.epochs * epoch))
    device = distributed.pick_device(options.device)
    name: str = options.precision
    if name == "auto":
        spare = "fp16" if device.type == "cuda" and not options.shard else "fp32"
        name = "bf16" if distributed.supports_bf16(device) else spare
    if name == "fp16" and options.shard:
        raise ValueError("--shard trains in bf16 or fp32, not in fp16")
    cores = machine.cores()
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
        precision=name,
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
    begin: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Trains `module` on `clips` into the run folder `out`, continuing what is there; returns a summary.

    `save` writes the weights (last.safetensors); `validate(module, step)` returns numbers for validation.jsonl;
    `begin` is called once nothing stands against it. On a signal the step is finished and saved, then `Interrupted` is
    raised. OSError where nothing can be read or written, FloatingPointError after three non-finite steps in a row.
    """
    how = plan(options, clips.epoch)
    distributed.start(how.device)
    if how.device.type == "cpu":
        allocator.keep_memory()
    out.mkdir(parents=True, exist_ok=True)
    learner = Learner(module, options, how.device, how.half)
    done = learner.load(out)
    if done > how.steps:
        raise ValueError(f"{out} has {done} steps behind it, more than the {how.steps} that are asked for")
    if begin is not None:
        begin()
    journal = MetricsLog(out, done, options.log)
    bad = BadFiles(out)
    autocast = _autocast(how)
    model: Any = learner.trained
    if options.compile:
        model.compile()
    if distributed.world() > 1 and not options.shard:
        model = DistributedDataParallel(model, device_ids=[how.device.index] if how.device.type == "cuda" else None)
    if distributed.is_main():
        say(*_headline(how, options, clips, done) if done < how.steps else [f"{out}: finished, {done} steps"])
    progress = Progress(how.steps, done, enabled=distributed.is_main())

    saved = done

    def checkpoint(step: int) -> None:
        bad.merge()
        journal.flush()
        keep(step)
        distributed.barrier()

    def keep(step: int) -> None:
        nonlocal saved
        learner.save(out, step)
        learner.collect()
        if distributed.is_main():
            save(learner.module, out / "last.safetensors")
        saved = step

    def check(step: int) -> int:
        """Validates; the number of the signal that cut it off, or 0."""
        cut = 0
        if validate is not None:
            learner.collect()
        if validate is not None and distributed.is_main():
            learner.module.eval()
            # A signal cuts it off, so that the checkpoint does not wait for it; a run that goes on makes up for it.
            try:
                with stop.at_once(), torch.no_grad(), autocast():
                    journal.validated(step, validate(learner.module, step))
            except Interrupted as error:
                cut = error.number
            learner.module.train()
        distributed.barrier()
        return int(distributed.first(cut))

    def where() -> str:
        if not distributed.is_main():
            return ""
        return (
            f"step {saved} of {how.steps} is saved in {out}, and the same command goes on from there" if saved else ""
        )

    settled: int | None = done  # the step that module and optimizer are at; None while they are changed
    patient = "stopping: this step is finished and kept first; another Ctrl-C ends at once, without it"
    stop = Stop(waiting=(lambda: say(patient)) if distributed.is_main() else None)
    whole, stack, stream = Whole(), contextlib.ExitStack(), None
    try:
        stack.enter_context(stop)
        due = done % how.validate_every == 0 or done == how.steps
        if distributed.first(due and journal.checked < done) and (cut := check(done)) and done == how.steps:
            raise Interrupted(cut, where())
        stream = batches(clips, how.share, done, how.steps, how.workers)
        whole.watch()
        learner.trained.train()
        ended, waited = time.perf_counter(), 0.0
        for step in range(done, how.steps):
            rate = how.lr(step)
            loss, named = torch.zeros((), device=how.device), dict[str, Tensor]()
            for part in range(how.share.micros):
                before = time.perf_counter()
                batch = next(stream)
                waited += time.perf_counter() - before
                bad.add(batch.pop("reports"))
                batch = {k: v.to(how.device, non_blocking=True) for k, v in batch.items() if isinstance(v, Tensor)}
                batch = unpack(batch) | {"seed": options.seed, "step": step, "progress": step / how.steps}
                with _averaging(model, part == how.share.micros - 1):
                    with autocast():
                        found = checked(model(batch), learner.trained)
                    part_loss = found.pop("loss")
                    learner.scaled(part_loss / how.share.micros).backward()
                loss += part_loss.detach() / how.share.micros
                for name, value in found.items():
                    named[name] = named.get(name, 0) + value.detach().float() / how.share.micros
            loss = distributed.mean(loss)
            named = dict(zip(named, distributed.mean(torch.stack(list(named.values()))))) if named else {}
            with whole:
                settled = None
                norm, finite = learner.step(rate, loss)
                learner.trained.after_step(step + 1, (step + 1) / how.steps)
                settled = step + 1
            now = time.perf_counter()
            journal.add(step + 1, loss, named, norm, finite, rate, now - ended, waited, how.share.batch, how.device)
            ended, waited = now, 0.0
            final = step + 1 == how.steps
            asked = stop.asked if distributed.world() == 1 else 0  # read once: a later signal waits for the next step
            if journal.due(step + 1) or final:
                asked = journal.flush(stop.asked)
                progress.show(step + 1, journal.last, options.global_batch)
            if asked and not final:
                checkpoint(step + 1)
                raise Interrupted(asked, where())
            cut = check(step + 1) if final or (step + 1) % how.validate_every == 0 else 0
            if final or cut or (step + 1) % how.save_every == 0:
                checkpoint(step + 1)
            if cut:  # here, so that a run that goes on begins with what was cut off; the last one too is missing
                raise Interrupted(cut, where())
        if done == how.steps:
            learner.collect()
    except (RuntimeError, OSError, EOFError) as error:
        with undisturbed():
            reason = explained(error, how.workers)
            if isinstance(error, OSError) and reason is None:
                raise
            # A data process was killed, memory is full, another rank is gone: what has been learned is still there.
            if settled is not None and settled > saved and not options.shard:
                with contextlib.suppress(Exception):
                    journal.write()
                    keep(settled)
            if stop.asked:  # whoever sent the signal to all processes took this one's helpers away
                raise Interrupted(stop.asked, where()) from error
            if reason is not None:
                raise OSError("; ".join(part for part in (reason, where()) if part)) from error
            if where():
                say(where())
            raise
    finally:
        whole.close()
        with undisturbed():
            end(stream)
        progress.close()
        journal.close()
        stack.close()
    return {
        "steps": how.steps,
        "samples": how.steps * options.global_batch,
        "loss": journal.last.get("loss"),
        "out": str(out),
        "bad_files": len(bad.known),
        "samples_replaced": sum(entry["samples"] for entry in bad.known.values()),
    }


def checked(found: Any, module: nn.Module) -> dict[str, Tensor]:
    """What `forward` gave; ValueError where it is no loss to learn from, and numbers beside it."""
    values = found if isinstance(found, dict) else {}
    loss = values.get("loss")
    numbers = all(isinstance(value, Tensor) and value.ndim == 0 for value in values.values())
    if loss is None or not numbers or not loss.requires_grad:
        name = type(module).__name__.lower()
        raise ValueError(
            f"{name}.forward gives {{'loss': ...}}, a number that depends on the weights, and numbers beside it"
        )
    return values


def explained(error: Exception, workers: int) -> str | None:
    """What PyTorch's error about its data processes comes to, with the remedy; None for any other error.

    One that is killed while a batch is taken from it is a connection that breaks off; what they read, they report.
    """
    text = str(error)
    killed = "a data process was killed, perhaps for want of memory: fewer --workers need less"
    if workers and isinstance(error, (ConnectionError, EOFError)):
        return killed
    if "DataLoader worker" not in text:
        return None
    if any(word in text for word in ("shared memory", "Bus error", "No space left on device", "shm")):
        return "shared memory (/dev/shm) is full: give it more (docker run --shm-size=2g), or train with --workers 0"
    if "is killed" in text or "exited unexpectedly" in text:
        return killed
    return text.strip().splitlines()[-1].removeprefix("OSError: ")


def _autocast(how: Plan) -> Callable[[], AbstractContextManager[Any]]:
    if how.half is None:
        return nullcontext
    return lambda: torch.autocast(how.device.type, how.half)


def _averaging(model: Any, last: bool) -> AbstractContextManager[Any]:
    """Gradients are averaged over processes in the last micro-batch of a step and only added up before."""
    if isinstance(model, DistributedDataParallel):
        return nullcontext() if last else model.no_sync()
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    return nullcontext()


def _headline(how: Plan, options: Options, clips: Clips, done: int) -> list[str]:
    samples = how.steps * options.global_batch
    head = f"step {done} of {how.steps}" if done else f"{how.steps} steps"
    lines = [
        f"{head}: {len(clips.sequences)} videos, {samples} samples ({samples / clips.epoch:.1f} epochs), "
        f"global batch {options.global_batch} = {how.share.world} processes x {how.share.micros} x {how.share.micro}, "
        f"peak lr {how.peak:.2e}, warm-up {how.warmup} steps, {how.precision} on {how.device}, "
        f"{how.workers} data workers"
    ]
    if how.steps < 200:
        lines.append(
            f"note: {how.steps} steps is very short; a smaller --global-batch or more --epochs gives more of them"
        )
    if how.warmup > how.steps:
        lines.append(f"note: the warm-up is longer than the run, whose rate ends at {how.lr(how.steps):.2e}")
    return lines
