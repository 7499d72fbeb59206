"""What the kinds of things that can be added promise: Method, Task, Benchmark, Dataset, and Export.

A class in `methods/`, `tasks/`, `benchmarks/`, `datasets/` or `exports/`, or in a user's own .py file, is a
keyword-only dataclass that inherits one of them. Members without a default must be given; all others say here what they
mean and have a default, so that shared code never asks whether something is there. docs/contracts.md has a worked
example of each.

Benchmark and Dataset need no torch, so that scoring does not load it; Method and Task load it at their first use.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from dropmae.contracts.datasets import Benchmark, Dataset
    from dropmae.contracts.exports import Export
    from dropmae.contracts.models import Method, Model, Taken, Task

Precision = Literal["auto", "bf16", "fp16", "fp32", "int8"]
"""In which a trained task is used. auto: bf16 where the hardware multiplies it, else fp16 on a GPU and fp32 on a CPU;
int8: the transformer's linear layers in 8 bits, on a CPU."""

PRESET: Any = None
"""Default of a field whose value follows from other fields, a preset say, where it is not given (`settle`)."""

__all__ = ["Benchmark", "Dataset", "Export", "Method", "Model", "Precision", "Taken", "Task", "conform"]

_HOMES = {"Benchmark": "datasets", "Dataset": "datasets", "Export": "exports"}
KINDS = {"methods": "Method", "tasks": "Task", "benchmarks": "Benchmark", "datasets": "Dataset", "exports": "Export"}
"""Folder -> the contract that what lies in it keeps."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dropmae.contracts' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dropmae.contracts.{_HOMES.get(name, 'models')}"), name)


def settle(thing: Any, values: Mapping[str, Any]) -> None:
    """Gives the fields of `thing` that were left at PRESET their values."""
    for name, value in values.items():
        if getattr(thing, name) is PRESET:
            setattr(thing, name, value)


@cache
def conform(folder: str, cls: type, where: str) -> type:
    """`cls`, if it keeps the contract of `folder`; a class that does not inherit it gets its defaults.

    ValueError, in one line, where a member that must be given is missing or a class variable has a wrong form.
    """
    contract: Any = __getattr__(KINDS[folder])
    if not dataclasses.is_dataclass(cls):
        raise ValueError(f"{where}: {cls.__name__} is no dataclass: write @dataclass(kw_only=True) above it")
    if not issubclass(cls, contract):
        kept = {name: vars(cls)[name] for name in ("__module__", "__qualname__", "__doc__") if name in vars(cls)}
        if folder == "tasks":
            kept["runs_in_16_bits"] = vars(cls).get("runs_in_16_bits", False)  # NumPy, for one, has no bf16
        try:
            cls = type(cls.__name__, (cls, contract), kept)
        except TypeError as error:
            raise ValueError(f"{where}: {cls.__name__} cannot be a {contract.__name__} ({error})") from None
    missing = [name for name in contract.MUST if getattr(cls, name) is getattr(contract, name)]
    if missing:
        raise ValueError(f"{where}: {cls.__name__} lacks {', '.join(missing)}, which a {contract.__name__} must have")
    contract.check_class(cls, where)
    return cls
