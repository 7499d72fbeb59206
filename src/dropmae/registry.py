"""The folders are the registry: the file name is the name a user types.

`methods/dropmae.py` holds one class `DropMAE`, whose lower-cased name is the file's name; so does the package
`tasks/vot/`. Adding one adds a method, a task or a benchmark, unless its name begins with an underscore; a user's own
file works by its path.

A user's file is a program, and this is the one place that runs one: once for its path and content, and only where the
caller names it (as METHOD, TASK or BENCHMARK, by `--code FILE.py`, `dropmae.trust(FILE)`, or the variable
DROPMAE_CODE). What a weight file or a run folder names is looked up among those and never run by itself.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import textwrap
import threading
import traceback
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path, PurePath
from types import ModuleType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dropmae import contracts
from dropmae.progress import say

USERS = "dropmae_user_"
"""How the module names of users' files begin."""
TRUSTED = "DROPMAE_CODE"
"""Environment variable with the users' files that the caller named; processes that are started inherit it."""

_lock = threading.RLock()


def names(folder: str) -> list[str]:
    """Names in `folder` ("methods", "tasks", "benchmarks"), sorted; nothing is imported."""
    place = Path(__file__).parent / folder
    found = [*place.glob("*.py"), *(file.parent for file in place.glob("*/__init__.py"))]
    return sorted(file.stem for file in found if not file.stem.startswith("_"))


def load(folder: str, name: str) -> type:
    """The class behind `name`, or behind the path of a user's own .py file, which runs: the caller names it.

    Raises ValueError that lists the known names where there is no such file.
    """
    if name.endswith(".py"):
        module, stem = trust(name), PurePath(name).stem
    else:
        check(folder, name)
        module, stem = importlib.import_module(f"dropmae.{folder}.{name}"), name
    for attribute, value in vars(module).items():
        if (
            inspect.isclass(value)
            and attribute.replace("_", "").lower() == stem.replace("_", "").lower()
            and value.__module__.startswith(module.__name__)
        ):
            made = contracts.conform(folder, value, name)
            setattr(module, attribute, made)  # the next call gives the same class, and so does unpickling
            return made
    raise ValueError(f"{name}: the file holds no class named like it ({stem!r}, in any case)")


def check(folder: str, name: str) -> None:
    """ValueError, with what was perhaps meant, where nothing in `folder` is called so."""
    if name.endswith(".py"):
        raise ValueError(f"{name}: no such file")
    if name not in (known := names(folder)):
        raise ValueError(f"{name!r} is not one of the {folder}: {', '.join(known)}{meant(name, known)}")


def meant(name: str, known: Iterable[str]) -> str:
    """ "; did you mean ...?", where something known is called nearly so."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def find(folder: str, name: str, where: str) -> type:
    """The class that the file `where` names, of the package or of a user's file that the caller has named.

    A file is known by its path, or else by its name, since weights and code may have moved. ValueError that says what
    to name where it was not.
    """
    if not name.endswith(".py"):
        return load(folder, name)
    files = trusted()
    found = [file for file in files if file == name] or [file for file in files if same_name(file, name)]
    if len(found) == 1:
        return load(folder, found[0])
    if found:
        raise ValueError(f"{where} needs the class in {name}, and {' and '.join(found)} are both called so: name one")
    raise ValueError(
        f"{where} needs the class in {name!r}, and code that a file names is not run by itself: if you trust it, add "
        f"--code {name!r} (in Python: dropmae.trust)"
    )


def same_name(file: str, other: str) -> bool:
    return PurePath(file).name == PurePath(other).name


# ---------------------------------------------------------------- users' files


def trusted() -> list[str]:
    """Absolute paths of the users' files that the caller named."""
    return [str(Path(file).resolve()) for file in os.environ.get(TRUSTED, "").split(os.pathsep) if file]


def trust(path: str | Path) -> ModuleType:
    """The module of a user's .py file, which is run where this was not done with the same content before.

    Weight files and run folders that name a class in it can be read from then on, in processes that are started, too.
    ValueError where there is no such file, or in one line what it raises.
    """
    file = Path(path).resolve()
    if file.suffix != ".py" or not file.is_file():
        raise ValueError(f"{path}: no such .py file")
    name = module_name(file)
    with _lock:
        if str(file) not in (known := trusted()):
            os.environ[TRUSTED] = os.pathsep.join([*known, str(file)])
        module = sys.modules.get(name)
        if module is None or vars(module)["__content__"] != digest(file.read_bytes()):
            sys.modules.pop(name, None)
            try:
                module = importlib.import_module(name)
            except (Exception, SystemExit) as error:  # it is the code of the user
                lines = [
                    frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)
                ]
                line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 0
                reason = error.msg if isinstance(error, SyntaxError) else error
                raise ValueError(f"{path}, line {line}: {type(error).__name__}: {reason}") from error
        return module


def module_name(file: Path) -> str:
    """What the module of a user's file is called: two files of one name in two folders are two modules."""
    stem = re.sub(r"\W", "_", file.stem)
    return f"{USERS}{stem}_{digest(str(file).encode())}"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def user_file(cls: type) -> Path | None:
    """The user's file that `cls` is from; None for a class of the package or of anywhere else."""
    return Path(inspect.getfile(cls)) if cls.__module__.startswith(USERS) else None


class _Loader(SourceFileLoader):
    """Runs a user's file as it is now, and leaves no compiled file beside it."""

    def path_stats(self, path: Any) -> Any:
        raise OSError("no compiled file is read or written")

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__content__"] = digest(self.get_data(self.path))
        super().exec_module(module)


class _Finder(MetaPathFinder):
    """Finds named users' files by the names of their modules: a process that is sent an object needs its class."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        for file in trusted() if fullname.startswith(USERS) else ():
            if module_name(Path(file)) == fullname:
                return importlib.util.spec_from_file_location(fullname, file, loader=_Loader(fullname, file))
        return None


sys.meta_path.append(_Finder())


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


def renames(cls: type) -> dict[str, str]:
    """Names that fields of a class once had -> their names of today (its RENAMED, and what it inherits)."""
    return {old: new for base in reversed(cls.__mro__) for old, new in vars(base).get("RENAMED", {}).items()}


def renamed(cls: type, given: Mapping[str, Any], *, warn: bool = False) -> dict[str, Any]:
    """What is given for fields of a class, by their names of today.

    With `warn` the caller wrote the names, and hears of each old one; ValueError where old and new are both given.
    """
    table = renames(cls)
    for old in given.keys() & table.keys() if warn else ():
        if table[old] in given:
            raise ValueError(f"{old} is now called {table[old]}, which is given too: leave {old} out")
        say(moved(old, table[old]))
    return {table.get(name, name): value for name, value in given.items()}


def moved(old: str, new: str) -> str:
    """The warning about a field's old name."""
    return f"{old} is now called {new}; the old name goes with the next version"


def defaults(cls: type) -> dict[str, Any]:
    """Of the fields of a dataclass that need not be given."""
    return {name: default for name, _, default in fields(cls) if default is not dataclasses.MISSING}


def settings(thing: Any) -> dict[str, Any]:
    """The field values of a dataclass instance: what its flags, its JSON header and its form show."""
    return {name: getattr(thing, name) for name, _, _ in fields(type(thing))}


# ---------------------------------------------------------------- settings as text


def assignments(words: Iterable[str]) -> dict[str, str]:
    """{name: text} of words name=text, as `--set` takes them; ValueError for one that is not so written."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, text = str(word).partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"settings are written name=value, not {word!r}")
        found[name] = text
    return found


def parsed(cls: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a dataclass with those that are text turned into values; ValueError where none fits."""
    kinds = {name: kind for name, kind, _ in fields(cls)}
    return {n: read(n, v, kinds[n]) if isinstance(v, str) else v for n, v in settings.items()}


def read(name: str, text: str, kind: Any) -> Any:
    """A field's value from text: a number, yes or no, one of its choices, none, or several values with commas."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is str or kind is Any:
        return text
    if kind is Path:
        return Path(text)
    if kind is type(None) and text.lower() == "none":
        return None
    if kind is bool and text.lower() in ("yes", "true", "1", "no", "false", "0"):
        return text.lower() in ("yes", "true", "1")
    if kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    if origin is Literal:
        for choice in parts:
            if text == str(choice):
                return choice
    if origin in (Union, UnionType):
        for part in sorted(parts, key=lambda part: part is str):
            with contextlib.suppress(ValueError):
                return read(name, text, part)
    if origin is tuple:
        words = [word for word in text.split(",") if word]
        each = [parts[0]] * len(words) if parts[-1:] == (...,) else list(parts)
        if len(words) == len(each):
            return tuple(read(name, word, part) for word, part in zip(words, each))
    if origin is Literal:
        raise ValueError(f"{name} is one of {', '.join(map(str, parts))}, not {text!r}")
    wanted = getattr(kind, "__name__", str(kind))
    raise ValueError(f"{name} takes {wanted}, not {text!r}")
