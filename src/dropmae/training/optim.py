"""Learning-rate schedule and durations."""

from __future__ import annotations

import math
import re

from dropmae.nn.groups import decay_groups

__all__ = ["cosine", "decay_groups", "duration"]  # decay_groups: its name here works for one version


def duration(text: str | int, epoch: float, total: int | None = None) -> int:
    """Steps that a duration means: "1000" steps, "40ep" epochs of `epoch` steps each, "5%" of `total` steps."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ep|epochs?|%|steps?|)\s*", str(text))
    if not match:
        raise ValueError(f"{text!r} is not a duration: write 1000 (steps), 40ep (epochs) or 5%")
    value, unit = float(match.group(1)), match.group(2)
    if unit == "%":
        if total is None:
            raise ValueError(f"{text!r}: a share of the run needs the run's own length in steps or epochs")
        return round(value / 100 * total)
    if unit.startswith("ep"):
        return round(value * epoch)
    return round(value)


def cosine(step: int, total: int, warmup: int, peak: float, floor: float = 0.0) -> float:
    """Learning rate at `step` of `total`: linear from 0 over `warmup` steps, then half a cosine from peak to floor."""
    if step < warmup:
        return peak * step / warmup
    share = (step - warmup) / max(total - warmup, 1)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
