"""The dependency direction of the design, read from the imports of every module."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dropmae
from dropmae import registry
from dropmae.target import FIELDS

SOURCE = Path(dropmae.__file__).parent

LAYERS = [
    {"_moved", "machine", "names", "pickles"},
    {"opening", "storage"},
    {"ops"},
    {"interruption", "nn", "progress", "target"},
    {"locks", "video"},
    {"formats", "rendering"},
    {"sequence", "moving"},
    {"contracts"},
    {"registry", "metrics"},
    {"benchmarks", "data", "declarations", "weights"},
    {"runs"},
    {"datasets", "loading", "manual", "methods", "training", "visualize"},
    {"cli", "engine"},
    {"__main__", "evaluation", "exports", "speed"},
    {"page"},
    {"tasks"},
    {"verbs"},
]
"""A folder, or a module beside them, may import what is in rows above its own, and nothing beside or below it."""

HOMES = {"av": {"video"}, "triton": {"ops"}, "starlette": {"page"}, "uvicorn": {"page"}}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def dotted(path: Path) -> str:
    """`training.fit` for training/fit.py, `video` for video/__init__.py."""
    words = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


def part(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """What a module imports; from a package, each name on its own, as it may be a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


KNOWN = {dotted(path) for path in modules()}


def own_imports(path: Path) -> set[str]:
    """The modules of this package that a module imports, without `dropmae.` before them."""
    found = set()
    for name in imported(path):
        words = name.split(".")[1:] if name.startswith("dropmae.") else []
        if words and words[0] in dropmae.VERBS:
            words = dropmae.VERBS[words[0]].split(".")
        while words and ".".join(words) not in KNOWN:
            words = words[:-1]
        found |= {".".join(words)} if words else set()
    return found


def layer(name: str) -> int:
    """Of the folder that a module is in."""
    for number, names in enumerate(LAYERS):
        if name.split(".")[0] in names:
            return number
    raise AssertionError(f"{name} has no place in LAYERS")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_downwards(path: Path) -> None:
    own = dotted(path)
    if not own:
        return
    others = own_imports(path)
    for other in others:
        inside = other.split(".")[0] == own.split(".")[0]
        assert inside or layer(other) < layer(own), f"{own} imports {other}, which does not lie below it"
    if part(path) in ("methods", "tasks"):
        assert not {name for name in others if name.startswith("training")}, "methods and tasks do not know the loop"
        for other in (name.split(".") for name in others if name.startswith(("methods.", "tasks."))):
            assert other[:2] == own.split(".")[:2] or other[1].startswith("_"), "nor of each other"
    if part(path) == "training":
        assert not {name for name in others if name.startswith(("methods", "tasks"))}, "nor the loop of them"


TASKS = set(registry.names("tasks")) - set(FIELDS)
"""A task may be called as what it gives is; that word alone says nothing of who holds it."""
NAMED = {"_moved.py"}
"""A table of names, which nothing follows but imports of old ones."""


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_tasks_are_known_by_their_contract_alone(path: Path) -> None:
    """No module outside `tasks/` imports a task, or holds the name of one: a new one changes nothing but its room."""
    if part(path) == "tasks" or path.name in NAMED:
        return
    assert not {name for name in own_imports(path) if name.startswith("tasks.")}
    held = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    assert not [text for text in held if isinstance(text, str) and re.search(rf"^({'|'.join(TASKS)})(\.\w+)?$", text)]
    assert not [text for text in held if isinstance(text, str) and re.search(r"\btasks\.\w+\b", text)]


def test_no_module_imports_itself_through_others() -> None:
    graph = {dotted(path): own_imports(path) - {dotted(path)} for path in modules() if dotted(path)}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the modules


def test_every_place_in_the_layers_is_taken() -> None:
    missing = {name for names in LAYERS for name in names} - KNOWN
    assert not missing


def test_verbs_are_not_hidden_by_modules() -> None:
    """Importing a module puts it into the package under its name, where `dropmae.track` has to stay the function."""
    assert not {name.split(".")[0] for name in KNOWN} & dropmae.VERBS.keys()


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_third_parties_have_one_home(path: Path) -> None:
    for name in imported(path):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or part(path) in homes, f"{name} is imported outside {homes}"
        assert name.split(".")[0] != "triton" or path.stem.endswith("_triton"), f"{path.name} imports {name}"


def test_help_does_not_import_torch() -> None:
    code = "import sys; from dropmae.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pretrain" in done.stdout


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("dropmae.verbs.prepare", "torch"),
        ("dropmae.verbs.pretrain", "matplotlib"),
        ("dropmae.verbs.track", "matplotlib"),
    ],
)
def test_what_takes_long_to_import_waits_until_it_is_used(module: str, absent: str) -> None:
    """The processes of `prepare` would each hold 200 MB more, and every command would start later."""
    code = f"import sys, {module}; assert {absent!r} not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_grab_bags() -> None:
    names = {path.stem for path in modules()}
    assert not names & {"utils", "helpers", "common", "base", "misc"}
