"""The folders are the registry: the file name is the name a user types.

`methods/dropmae.py` holds one class `DropMAE`, whose lower-cased name is the file's name. Adding a file adds a
method, a task or a benchmark; a user's own file works by its path.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints


def names(folder: str) -> list[str]:
    """Names in `folder` ("methods", "tasks", "benchmarks"), sorted; nothing is imported."""
    files = (Path(__file__).parent / folder).glob("*.py")
    return sorted(file.stem for file in files if not file.stem.startswith("_"))


def load(folder: str, name: str) -> type:
    """The class behind `name`, or behind the path of a user's own .py file.

    Raises ValueError that lists the known names where there is no such file.
    """
    if name.endswith(".py"):
        path = Path(name).resolve()
        if not path.is_file():
            raise ValueError(f"{name}: no such file")
        spec = importlib.util.spec_from_file_location(f"dropmae_user_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        stem = path.stem
    else:
        known = names(folder)
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"{name!r} is not one of the {folder}: {', '.join(known)}{hint}")
        module = importlib.import_module(f"dropmae.{folder}.{name}")
        stem = name
    for attribute, value in vars(module).items():
        if inspect.isclass(value) and attribute.lower() == stem.lower() and value.__module__ == module.__name__:
            return value
    raise ValueError(f"{name}: the file holds no class named like it ({stem!r}, in any case)")


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, base classes included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node, after in zip(body.body, body.body[1:]):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                docs[node.target.id] = " ".join(after.value.value.split())
    return docs


def fields(cls: type) -> list[tuple[str, Any, Any]]:
    """(name, type, default) of every public init field of a dataclass; MISSING where a value must be given."""
    hints = get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):
        if not field.init or field.name.startswith("_"):
            continue
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found.append((field.name, hints[field.name], default))
    return found


def defaults(cls: type) -> dict[str, Any]:
    """Of the fields of a dataclass that need not be given."""
    return {name: default for name, _, default in fields(cls) if default is not dataclasses.MISSING}


def settings(thing: Any) -> dict[str, Any]:
    """The field values of a dataclass instance: what its flags, its JSON header and its form show."""
    return {name: getattr(thing, name) for name, _, _ in fields(type(thing))}
