"""The dependency direction of the design, read from the imports of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dropmae

SOURCE = Path(dropmae.__file__).parent

LAYERS = [
    {"registry", "distributed", "ops", "storage", "progress", "journal", "arrayfiles", "logs"},
    {"target", "labels", "geometry", "video", "masking", "vit", "textures", "motions"},
    {
        "weights",
        "layouts",
        "unpickle",
        "official",
        "clips",
        "shards",
        "augment",
        "resample",
        "optim",
        "checkpoints",
        "sharding",
    }
    | {"draw", "figures", "tracks", "boxfiles", "things", "scenes", "synth", "shards", "resample"},
    {"autoencoder", "learner"} | {"crops", "heads", "onestream", "pairs", "canvas", "maskpairs", "memory", "pyramid"},
    {"fit", "methods", "tasks"},
    {"metrics", "benchmarks", "onepass"},
    {
        "runs",
        "views",
        "watcher",
        "following",
        "stream",
        "segmentspeed",
        "propagationspeed",
        "stepspeed",
        "loadspeed",
        "cluster",
    }
    | {"simulation"}
    | {"sources", "selfmade", "coco", "stills", "export", "trackspeed"}
    | set(dropmae.VERBS.values()) - {"weights", "synth"},
    {"cli", "__main__", "web"},
]
HOMES = {"av": {"video"}, "tyro": {"cli"}, "triton": {"ops"}, "starlette": {"web"}}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "dropmae" else {node.module}
            )
    return found


def layer(name: str) -> int:
    found = [number for number, layer in enumerate(LAYERS) if name in layer]
    assert found, f"{name} has no place in LAYERS"
    return found[0]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_downwards(path: Path) -> None:
    own = part(path)
    if own == "__init__":
        return
    parts = {name.split(".")[1] for name in imported(path) if name.startswith("dropmae.") and len(name.split(".")) > 1}
    for other in parts - {own, "__version__", "VERBS"}:
        assert layer(other) <= layer(own), f"{own} imports {other}, which lies above it"
    if own in ("methods", "tasks"):
        assert not parts & {"fit", "benchmarks", "metrics"}
        same = {n for n in imported(path) if n.startswith(("dropmae.methods.", "dropmae.tasks."))}
        assert not same, "methods and tasks do not import each other"


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


def test_no_grab_bags() -> None:
    names = {path.stem for path in modules()}
    assert not names & {"utils", "helpers", "common", "base", "misc"}
