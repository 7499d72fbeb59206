"""The options of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dropmae.training import optim
from dropmae.training.fit import Options, Plan


@dataclass(kw_only=True)
class Tuning(Options):
    """How to train a task. The defaults are DropTrack's recipe for GOT-10k; durations as in pretrain."""

    # Optimisation
    epochs: float = 100
    """Epochs of --epoch-samples samples; not used where --steps is given."""
    epoch_samples: int = 60_000
    """Samples per epoch, drawn from the data by their ratios."""
    global_batch: int = 128
    """Samples per optimizer step, over all processes and micro-batches together."""
    lr: float = 5e-4
    """Base learning rate per 256 samples: 2.5e-4 at a batch of 128, and a tenth of it for a tracker's encoder."""
    warmup: str = "0"
    """Duration of the linear warm-up from zero."""
    weight_decay: float = 1e-4
    """AdamW's decay, for the parameters that the task lets decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moment decay rates."""
    clip: float = 0.1
    """Largest gradient norm; 0 does not clip."""
    schedule: Literal["step", "cosine"] = "step"
    """One rate, and from --drop on a tenth of it; or half a cosine down to --min-lr."""
    drop: str = "80%"
    """When the rate drops."""
    # Machine
    validation: tuple[str, ...] = ()
    """Data of which fixed samples are probed, written as DATA; by default that of the training."""

    cache: Path | None = None
    """Folder in which features of an encoder that learns nothing (dcf) are kept; by default OUT/features."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epoch_samples < 1:
            raise ValueError(f"epoch-samples must be at least 1, not {self.epoch_samples}")
        self.validation = tuple(self.validation)

    def rate(self, step: int, how: Plan) -> float:
        """The learning rate at a step."""
        if self.schedule == "cosine":
            return super().rate(step, how)
        if step < how.warmup:
            return how.peak * step / how.warmup
        return how.peak * (0.1 if step >= optim.duration(self.drop, how.epoch, how.steps) else 1.0)
