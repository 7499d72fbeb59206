"""What `track` writes, a form a file, found by the endings of the file names that the user gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dropmae import registry
from dropmae.contracts import Export


def forms(outs: Path | Iterable[Path], settings: Mapping[str, Any] | None = None) -> dict[Path, Export]:
    """{path: the form it is written in} for file names, with what is written beside each.

    `settings` go to the forms that have such fields. ValueError for a name of no known ending, and for a setting that
    none of the forms has.
    """
    known = endings()
    names = [outs] if isinstance(outs, Path) else list(outs)
    found: dict[Path, Any] = {}
    for out in names:
        suffix = ending(out, known)
        if not suffix:
            listed = ", ".join(f"OUT{suffix}" for suffix in known)
            raise ValueError(f"{out}: the result is written by its name's ending: {listed}")
        found.setdefault(out, known[suffix])
        for other in known[suffix].beside:
            found.setdefault(out.with_name(out.name[: -len(suffix)] + other), known[other])
    chosen: dict[str, Any] = dict(settings or {})
    fields = {cls: {name for name, _, _ in registry.fields(cls)} for cls in {*known.values()}}
    for name in chosen:
        if not any(name in fields[cls] for cls in found.values()):
            able = ", ".join(f"OUT{cls.suffixes[0]}" for cls in dict.fromkeys(known.values()) if name in fields[cls])
            raise ValueError(f"{name.replace('_', '-')} is for {able}")
    return {path: cls(**{n: v for n, v in chosen.items() if n in fields[cls]}) for path, cls in found.items()}


def endings() -> dict[str, Any]:
    """{ending of a file name: the class that writes it}."""
    known: dict[str, Any] = {}
    for name in registry.names("exports"):
        cls: Any = registry.load("exports", name)
        known |= dict.fromkeys(cls.suffixes, cls)
    return known


def ending(out: Path, known: Iterable[str]) -> str:
    """The longest of the known endings that a file name has; "" for none."""
    name = out.name.lower()
    return max((suffix for suffix in known if name.endswith(suffix) and len(name) > len(suffix)), key=len, default="")


def stem(out: Path) -> str:
    """A file's name without its ending, which may be double."""
    suffix = ending(out, endings())
    return out.name[: -len(suffix)] if suffix else out.stem
