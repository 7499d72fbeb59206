"""The dependency direction of the design, read from the imports of every module."""

from __future__ import annotations

import ast
import functools
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


@functools.cache
def tree(path: Path) -> ast.Module:
    """What is written in a module; read once, as most tests here ask every module."""
    return ast.parse(path.read_text())


@functools.cache
def imported(path: Path) -> set[str]:
    """What a module imports; from a package, each name on its own, as it may be a module."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


KNOWN = {dotted(path) for path in modules()}


@functools.cache
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


def strays(path: Path) -> set[str]:
    """What a module imports that it may not: what does not lie below it, and what its folder does not know."""
    own, others = dotted(path), own_imports(path)
    found = {name for name in others if name.split(".")[0] != own.split(".")[0] and layer(name) >= layer(own)}
    if part(path) in ("methods", "tasks"):  # which know neither the loop nor each other
        found |= {name for name in others if name.startswith("training")}
        for name in (name for name in others if name.startswith(("methods.", "tasks."))):
            room = name.split(".")[:2]
            found |= set() if room == own.split(".")[:2] or room[1].startswith("_") else {name}
    if part(path) == "training":  # nor the loop them
        found |= {name for name in others if name.startswith(("methods", "tasks"))}
    return found


def test_imports_point_downwards() -> None:
    assert not {dotted(path): found for path in modules() if dotted(path) and (found := strays(path))}


@pytest.mark.parametrize(
    ("name", "line", "found"),
    [
        ("video/a.py", "from dropmae.engine import Session", {"engine"}),
        ("video/a.py", "import dropmae.formats.boxes", {"formats.boxes"}),
        ("video/a.py", "from dropmae.opening import open_file", set()),
        ("methods/a.py", "from dropmae.training.fit import fit", {"training.fit"}),
        ("methods/a.py", "from dropmae.methods.mae import MAE", {"methods.mae"}),
        ("methods/a.py", "from dropmae.methods._motion import x", set()),
        ("tasks/vot/a.py", "from dropmae.tasks.vos import VOS", {"tasks.vos"}),
        ("tasks/vot/a.py", "from dropmae.tasks.vot.head import x", set()),
        ("training/a.py", "from dropmae.methods import mae", {"methods.mae"}),
    ],
)
def test_the_search_for_imports_finds_them(
    name: str, line: str, found: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_layers.SOURCE", tmp_path)
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(line)
    assert strays(tmp_path / name) == found


TASKS = set(registry.names("tasks")) - set(FIELDS)
"""A task may be called as what it gives is; that word alone says nothing of who holds it."""
NAMED = {"_moved.py"}
"""A table of names, which nothing follows but imports of old ones."""


def tasks_in(path: Path) -> set[str]:
    """The tasks that a module imports or names."""
    held = {node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant) and type(node.value) is str}
    named = {text for text in held if re.search(rf"^({'|'.join(TASKS)})(\.\w+)?$|\btasks\.\w+\b", text)}
    return named | {name for name in own_imports(path) if name.startswith("tasks.")}


def test_tasks_are_known_by_their_contract_alone() -> None:
    """No module outside `tasks/` imports a task, or holds the name of one: a new one changes nothing but its room."""
    others = [path for path in modules() if part(path) != "tasks" and path.name not in NAMED]
    assert not {dotted(path): found for path in others if (found := tasks_in(path))}


@pytest.mark.parametrize(
    "line", ["from dropmae.tasks.vot import VOT", "a = 'vos'", "a = 'vot.head'", "a = 'x tasks.y'"]
)
def test_the_search_for_tasks_finds_them(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(line)
    assert tasks_in(tmp_path / "a.py")


def test_no_module_imports_itself_through_others() -> None:
    graph = {dotted(path): own_imports(path) - {dotted(path)} for path in modules() if dotted(path)}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the modules


def test_every_place_in_the_layers_is_taken() -> None:
    missing = {name for names in LAYERS for name in names} - KNOWN
    assert not missing


def test_verbs_are_not_hidden_by_modules() -> None:
    """Importing a module puts it into the package under its name, where `dropmae.track` has to stay the function."""
    assert not {name.split(".")[0] for name in KNOWN} & dropmae.VERBS.keys()


def test_third_parties_have_one_home() -> None:
    for path in modules():
        for name in imported(path):
            homes = HOMES.get(name.split(".")[0])
            assert homes is None or part(path) in homes, f"{dotted(path)} imports {name}, whose home is {homes}"
            assert name.split(".")[0] != "triton" or path.stem.endswith("_triton"), f"{path.name} imports {name}"


def test_help_does_not_import_torch() -> None:
    code = "import sys; from dropmae.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pretrain" in done.stdout


@pytest.mark.parametrize(
    ("verbs", "absent"),
    [
        (("prepare",), {"torch"}),
        (("pretrain",), {"matplotlib"}),
        (("track", "evaluate", "prepare", "info"), {"matplotlib", "torch._dynamo"}),  # PyTorch's compiler: two seconds
    ],
)
def test_what_takes_long_to_import_waits_until_it_is_used(verbs: tuple[str, ...], absent: set[str]) -> None:
    """The processes of `prepare` would each hold 200 MB more, and every command would start later."""
    modules = ", ".join(f"dropmae.verbs.{verb}" for verb in verbs)
    code = f"import sys, {modules}; print({absent!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


def test_no_grab_bags() -> None:
    names = {path.stem for path in modules()}
    assert not names & {"utils", "helpers", "common", "base", "misc"}
