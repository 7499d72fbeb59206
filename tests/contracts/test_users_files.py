"""Users' .py files: run once, only where the caller names them, and in one place."""

from __future__ import annotations

import ast
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dropmae
from dropmae import cli, registry, weights
from dropmae.training import checkpoints
from dropmae.verbs.evaluate import evaluate
from dropmae.verbs.finetune import finetune, take_over
from dropmae.verbs.report import report
from test_layers import modules

pytestmark = pytest.mark.usefixtures("no_charts")

METHOD = '''"""A user's method."""
from dataclasses import dataclass
from pathlib import Path
from dropmae.methods.mae import MAE

with open(Path(__file__).with_suffix(".runs"), "a") as file:
    file.write("run\\n")

@dataclass(kw_only=True, eq=False, repr=False)
class Mine(MAE):
    """Mine."""
    tint: float = {tint}
    """Of nothing."""
'''
TRACKER = '''"""A user's tracker."""
from dataclasses import dataclass
from dropmae.tasks.vot import VOT

@dataclass(kw_only=True, eq=False, repr=False)
class Tracker(VOT):
    """Mine."""
'''
SMALL: dict[str, Any] = {"size": "tiny", "image": 32, "patch": 16}


@pytest.fixture(autouse=True)
def _nothing_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.TRUSTED, "")


def write(path: Path, text: str = METHOD, tint: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("{tint}", str(tint)))
    return path


def runs(path: Path) -> int:
    """How often a file of METHOD was run."""
    marks = path.with_suffix(".runs")
    return len(marks.read_text().split()) if marks.exists() else 0


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A user's method that nobody has named, and a weight file of it."""
    code = write(tmp_path / "mine.py")
    module = registry.load("methods", str(code))(**SMALL)
    weights.save(module, tmp_path / "w.safetensors")
    monkeypatch.setenv(registry.TRUSTED, "")
    code.with_suffix(".runs").unlink()
    sys.modules.pop(registry.module_name(code))
    return code, tmp_path / "w.safetensors"


def test_a_file_is_run_once_for_its_content(tmp_path: Path) -> None:
    code = write(tmp_path / "mine.py")
    first = registry.load("methods", str(code))
    assert registry.load("methods", os.path.relpath(code)) is first
    (tmp_path / "other").symlink_to(tmp_path)
    assert registry.load("methods", str(tmp_path / "other" / "mine.py")) is first
    assert runs(code) == 1
    write(code, tint=2.0)
    assert registry.defaults(registry.load("methods", str(code)))["tint"] == 2.0
    assert runs(code) == 2
    assert not list(tmp_path.glob("__pycache__"))


def test_a_class_that_inherits_no_contract_is_one_class(tmp_path: Path) -> None:
    text = "from dataclasses import dataclass\n@dataclass(kw_only=True)\nclass Bench:\n    x: int = 1\n" + "".join(
        f"    def {name}(self): ...\n" for name in ("sequences", "annotations", "read", "write", "score")
    )
    code = write(tmp_path / "bench.py", text)
    cls = registry.load("benchmarks", str(code))
    assert registry.load("benchmarks", str(code)) is cls
    assert type(pickle.loads(pickle.dumps(cls()))) is cls


def test_two_files_of_one_name_are_two(tmp_path: Path) -> None:
    files = [write(tmp_path / folder / "mine.py", tint=tint) for folder, tint in (("a", 1.0), ("b", 2.0))]
    one, other = (registry.load("methods", str(file)) for file in files)
    for cls, path in ((one, "1.safetensors"), (other, "2.safetensors")):
        weights.save(cls(**SMALL), tmp_path / path)
    assert type(dropmae.load(tmp_path / "1.safetensors")) is one
    assert type(dropmae.load(tmp_path / "2.safetensors")) is other
    assert pickle.loads(pickle.dumps(one)) is one


@pytest.mark.parametrize(
    "words",
    [
        ["track", "{clip}", "--weights", "{weights}", "--box", "1", "1", "8", "8", "--out", "{out}.jsonl"],
        ["convert", "{weights}", "{out}.safetensors"],
        ["evaluate", "folder", "--root", "{root}", "--weights", "{weights}", "--out", "{out}"],
        ["finetune", "vot", "{root}", "--init", "{weights}", "--out", "{out}", "--steps", "1", "--size", "tiny"],
        ["reconstruct", "{weights}", "{clip}", "--out", "{out}.png"],
        ["info", "{weights}"],
    ],
    ids=lambda words: words[0],
)
def test_no_verb_runs_what_a_weight_file_names(
    words: list[str], saved: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, path = saved
    root = tmp_path / "root"
    root.mkdir()
    np.save(root / "clip.npy", np.zeros((3, 32, 32, 3), np.uint8))
    line = {"video": "clip.npy", "frame": 0, "id": 1, "box": [1, 1, 8, 8]}
    (root / "targets.jsonl").write_text(json.dumps(line) + "\n")
    places = {"clip": root / "clip.npy", "weights": path, "out": tmp_path / "out", "root": root}
    exit_code = cli.main([word.format(**places) for word in words])
    said = capsys.readouterr().err
    assert runs(code) == 0
    if words[0] == "info":
        assert exit_code == 0
        return
    assert exit_code == 2
    (line,) = [line for line in said.splitlines() if line.startswith("dropmae ")]
    assert f"--code '{code}'" in line


def test_named_code_is_used(saved: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, path = saved
    with pytest.raises(ValueError, match="not run by itself"):
        dropmae.load(path)
    assert cli.main(["convert", str(path), str(tmp_path / "a.safetensors"), "--code", str(code)]) == 0
    assert runs(code) == 1
    assert type(dropmae.load(path)).__name__ == "Mine"
    monkeypatch.setenv(registry.TRUSTED, "")
    moved = write(tmp_path / "elsewhere" / "mine.py")
    assert registry.user_file(type(dropmae.load(path, code=moved))) == moved
    write(tmp_path / "third" / "mine.py")
    dropmae.trust(tmp_path / "third" / "mine.py")
    with pytest.raises(ValueError, match="both called so"):
        dropmae.load(path)


@pytest.mark.parametrize("name", ["/proc/self/cwd/mine.py", "mine.py", "../mine.py", "//tmp/mine.py"])
def test_paths_that_can_be_guessed_are_no_way_in(
    name: str, saved: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, path = saved
    header = {**weights.read_header(path), "name": name}
    weights.write_tensors(weights.read_tensors(path), path, {"dropmae": json.dumps(header)})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="not run by itself"):
        dropmae.load(path)
    assert runs(code) == 0


def test_a_trackers_head_survives_init(tmp_path: Path) -> None:
    code = write(tmp_path / "tracker.py", TRACKER)
    made = registry.load("tasks", str(code))(**SMALL)
    weights.save(made, tmp_path / "w.safetensors")
    again = registry.load("tasks", str(code))(**SMALL)
    taken = take_over(again, tmp_path / "w.safetensors")
    assert taken.fresh == []
    assert torch.equal(made.head.score[0][0].weight, again.head.score[0][0].weight)


def test_the_run_of_a_users_task_is_continued(tmp_path: Path) -> None:
    code = write(tmp_path / "tracker.py", TRACKER)
    root = tmp_path / "root"
    root.mkdir()
    np.save(root / "clip.npy", np.random.default_rng(0).integers(0, 255, (6, 48, 48, 3), np.uint8))
    lines = [{"video": "clip.npy", "frame": t, "id": 1, "box": [8, 8, 16, 16]} for t in range(6)]
    (root / "targets.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options: dict[str, Any] = {**SMALL, "global_batch": 2, "epoch_samples": 2, "workers": 0, "validate_every": "2"}
    for steps, save in ((2, 1), (2, 2)):  # the second call finds it finished
        finetune(str(code), (str(root),), out=tmp_path / "run", steps=steps, save_every=str(save), **options)
    assert checkpoints.newest(tmp_path / "run") is not None
    evaluate("folder", root=root, weights=str(tmp_path / "run"), out=tmp_path / "out", workers=1)


def test_a_report_runs_no_users_file(tmp_path: Path) -> None:
    code, run = write(tmp_path / "mine.py"), tmp_path / "run"
    run.mkdir()
    config = {"method": str(code), "fields": {"tint": 1.0}, "options": {"global_batch": 2, "seed": 0}}
    (run / "config.json").write_text(json.dumps({**config, "data": {"videos": 1}, "environment": {}}))
    report([run])
    assert runs(code) == 0
    assert "--tint 1.0" in (run / "report.html").read_text()


def test_other_processes_get_objects_of_named_classes(tmp_path: Path) -> None:
    """As data processes do that are spawned and not forked."""
    code = write(tmp_path / "mine.py")
    sent = pickle.dumps({"first": registry.trust, "second": registry.load("methods", str(code))})
    (tmp_path / "sent").write_bytes(sent)
    line = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))['second'].__name__)"
    done = subprocess.run([sys.executable, "-c", line, tmp_path / "sent"], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "Mine", done.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = (\n", "line 1: SyntaxError"),
        ("import math\nmath.no\n", "line 2: AttributeError"),
        ("import nothing_of_that_name\n", "line 1: ModuleNotFoundError"),
        ("class Other:\n    pass\n", "no class named like it"),
    ],
)
def test_a_file_that_fails_is_one_line(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = write(tmp_path / "mine.py", text)
    assert cli.main(["pretrain", str(code), str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert told in said


RUNNERS = {"exec", "eval", "compile", "__import__"}
"""Built-in functions that run text."""
LOADERS = {
    *("exec_module", "spec_from_file_location", "run_path", "run_module", "load_module", "SourceFileLoader"),
    *("Unpickler", "pickle.load", "pickle.loads", "marshal.loads", "marshal.load", "shelve.open", "dill.load"),
    *("torch.load", "jit.load", "hub.load", "joblib.load", "cloudpickle.load"),
}
"""Names, or ends of names, that run what is in a file."""
HOMES = {
    "registry.py": {"exec_module", "spec_from_file_location", "SourceFileLoader"},
    "weights/unpickle.py": {"Unpickler"},  # a subclass that imports no name
    "formats/pickled.py": {"Unpickler"},
    "training/checkpoints.py": {"Unpickler"},  # hands the list of shares to the one above
}


def running(tree: ast.AST) -> set[str]:
    """The names of RUNNERS and LOADERS that a module uses."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RUNNERS:
            found.add(node.func.id)
        if isinstance(node, (ast.Attribute, ast.Name)):
            name = ast.unparse(node)
            found |= {known for known in LOADERS if name == known or name.endswith(f".{known}")}
        if isinstance(node, ast.ImportFrom):
            found |= {known for a in node.names for known in LOADERS if f"{node.module}.{a.name}".endswith(known)}
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found |= set() if isinstance(node.value, ast.Constant) and node.value.value is False else {"allow_pickle"}
        if isinstance(node, ast.keyword) and node.arg == "weights_only":
            found |= set() if isinstance(node.value, ast.Constant) and node.value.value is True else {"weights_only"}
    return found


def test_code_is_run_in_one_place() -> None:
    for path in modules():
        found = running(ast.parse(path.read_text()))
        allowed = next((names for home, names in HOMES.items() if path.match(f"*/{Path(home).name}")), set())
        assert found <= allowed, f"{path.name} runs what a file holds: {', '.join(sorted(found - allowed))}"


@pytest.mark.parametrize(
    "line",
    [
        "exec(text)",
        "spec.loader.exec_module(m)",
        "torch.load(f)",
        "np.load(f, allow_pickle=True)",
        "import pickle; pickle.load(f)",
    ],
)
def test_the_search_for_running_code_finds_it(line: str) -> None:
    assert running(ast.parse(line))
