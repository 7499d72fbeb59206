"""Which form of an op runs: its plain PyTorch meaning, or the fastest one that is at hand.

The environment variable DROPMAE_OPS holds one of FORMS for a whole program, `use("reference")` for a block of code.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

FORMS = ("fast", "torch", "reference")
"""fast: the best of all; torch: nothing but PyTorch, arranged for speed; reference: the meaning, literally."""

_chosen: ContextVar[str | None] = ContextVar("form", default=None)


def form() -> str:
    """The form asked for: by the innermost `use`, else by DROPMAE_OPS, else "fast"."""
    return _chosen.get() or _known(os.environ.get("DROPMAE_OPS") or "fast")


@contextmanager
def use(name: str) -> Iterator[None]:
    """Runs the block, in this thread alone, with the op form `name`; ValueError if it is none of FORMS."""
    before = _chosen.set(_known(name))
    try:
        yield
    finally:
        _chosen.reset(before)


@cache
def note(fallback: str) -> None:
    """Warns, once in a program, that a slower form with the same result is taken, and why."""
    warnings.warn(fallback, RuntimeWarning, stacklevel=3)


def _known(name: str) -> str:
    if name not in FORMS:
        raise ValueError(f"DROPMAE_OPS must be one of {', '.join(FORMS)}, not {name!r}")
    return name
