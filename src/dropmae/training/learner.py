"""What learns: a module, whole in each process or sharded among them, and its optimizer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dropmae.training import checkpoints, distributed, sharding

SCALE, BACK, STEADY = 2.0**14, 8.0, 500
"""With fp16 the loss is multiplied so that small gradients are not lost: at first by SCALE, after an overflow by BACK
times less, after STEADY steps without one by twice as much."""


class Learner:
    """Module and optimizer: one step, and an exact checkpoint of both.

    `module` is whole: the one that was given, on the first process as it was at the last `collect`. `trained` is what
    learns, the same one or its sharded twin; the optimizer works on `held`, this process's share of its parameters.
    """

    def __init__(self, module: Any, options: Any, device: torch.device, half: torch.dtype | None) -> None:
        self.module: nn.Module = module
        self.sharded = options.shard
        self.trained: Any = module
        if self.sharded:
            self.trained = sharding.shard(copy.deepcopy(module), device, half is torch.bfloat16)
        if distributed.is_main() or not self.sharded:
            module.to(device)
        self.parameters: dict[str, nn.Parameter] = dict(self.trained.named_parameters())
        self.held = {name: sharding.hold(parameter) for name, parameter in self.parameters.items()}
        groups = [
            {
                "params": [self.held[name] for name in group["names"]],
                "factor": group["lr"],
                "weight_decay": options.weight_decay * group["decay"],
            }
            for group in module.groups(options)
        ]
        self.clip = options.clip
        self.scaler: dict[str, Tensor] = {}
        if half is torch.float16:
            self.scaler = {name: torch.tensor(v, device=device) for name, v in (("scale", SCALE), ("steady", 0.0))}
        # lr 0 at the start: each step sets its own
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=options.betas, eps=1e-8, fused=True)

    def scaled(self, loss: Tensor) -> Tensor:
        """What `backward` is called on."""
        return loss * self.scaler["scale"] if self.scaler else loss

    def rescale(self, finite: Tensor) -> None:
        """Settles the scale of the next step by whether the gradients of this one were finite, on the device."""
        scale, steady = self.scaler["scale"], torch.where(finite, self.scaler["steady"] + 1, 0.0)
        grown = torch.where(steady >= STEADY, 2 * scale, scale)
        self.scaler = {"scale": torch.where(finite, grown, scale / BACK), "steady": steady % STEADY}

    def step(self, rate: float, loss: Tensor) -> tuple[Tensor, Tensor]:
        """One optimizer step, left out on the device where loss or gradient is not finite; (norm, finite)."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        gradients = []
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                gradients.append(sharding.share(parameter.grad))
                self.held[name].grad = gradients[-1]
        if self.scaler:
            torch._foreach_mul_(gradients, 1 / self.scaler["scale"])
        norm = sharding.total_norm(gradients) if self.sharded else torch.nn.utils.get_total_norm(gradients)
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        if self.clip:
            scale = (self.clip / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, torch.where(finite, scale, 1.0))
        setattr(self.optimizer, "found_inf", (~finite).float())  # noqa: B010 (the fused kernels read it)
        if self.scaler:
            self.rescale(finite)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.trained.zero_grad(set_to_none=True)
        return norm, finite

    def collect(self) -> None:
        """Makes `module` what has been learned so far, on the first process; every process takes part."""
        if self.sharded:
            sharding.collect(self.trained, self.module)

    def save(self, out: Path, step: int) -> None:
        """Writes everything a continued run needs, whole or not at all; every process takes part."""
        if self.sharded:
            sharding.settle(self.trained)
        tensors = {f"module.{name}": value for name, value in self.trained.state_dict().items()}
        for name, held in self.held.items():
            for key, value in self.optimizer.state[held].items() if held in self.optimizer.state else ():
                spread = sharding.spread_as(value, self.parameters[name]) if value.ndim else value
                tensors[f"optimizer.{name}.{key}"] = spread
        checkpoints.write(out, step, tensors | {f"scaler.{name}": value for name, value in self.scaler.items()})

    def load(self, out: Path) -> int:
        """Takes up the checkpoint in run folder `out`, if there is one; the number of finished steps."""
        path = distributed.gather(checkpoints.newest(out))[0]  # file systems of many nodes may not agree at once
        if path is None:
            return 0
        own = {f"module.{name}": value for name, value in self.trained.state_dict().items()}

        def form(name: str) -> Tensor | None:
            if name in own:
                return own[name]
            if name.startswith("scaler."):  # of a run in fp16, which may go on in another precision
                return self.scaler.get(name.removeprefix("scaler."))
            parameter, _, key = name.removeprefix("optimizer.").rpartition(".")
            if parameter not in self.parameters:
                raise ValueError(f"nothing here is named {name}")
            return self.parameters[parameter] if key != "step" else torch.zeros((), device=self.held[parameter].device)

        with torch.no_grad():
            tensors = checkpoints.read(path, form)
            for name, tensor in own.items():
                sharding.share(tensor).copy_(sharding.share(tensors.pop(name)))
        self.scaler |= {name: tensors.pop(f"scaler.{name}") for name in self.scaler if f"scaler.{name}" in tensors}
        for name, tensor in tensors.items():
            parameter, _, key = name.removeprefix("optimizer.").rpartition(".")
            kept = sharding.share(tensor).detach()
            self.optimizer.state[self.held[parameter]][key] = kept
        return checkpoints.step_of(path)
