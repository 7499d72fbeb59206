"""Writing has one home: nothing of a user's is destroyed, nothing half-written is left, nobody writes around it."""

from __future__ import annotations

import ast
import contextlib
import errno
import inspect
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dropmae
from dropmae import locks, machine, registry, storage, weights
from dropmae.cli import main
from dropmae.video import Writer, write

SOURCE = Path(dropmae.__file__).parent

# ------------------------------------------------------------ nobody writes around it

METHODS = {"write_text", "write_bytes", "unlink", "rename", "replace", "rmdir", "touch", "symlink_to", "hardlink_to"}
"""Of a Path. A `replace` of two arguments is that of a text."""
FUNCTIONS = {
    "os": {"remove", "unlink", "rename", "replace", "rmdir", "removedirs", "renames", "truncate", "link", "symlink"},
    "shutil": {"rmtree", "move", "copy", "copy2", "copyfile", "copytree", "copymode", "unpack_archive", "make_archive"},
}
SAVERS = {"save", "savez", "savez_compressed", "savefig", "tofile", "dump", "save_file", "to_csv", "imwrite"}
OURS = {"storage", "learner", "weights"}
"""Whose functions of such names go through storage."""
HANDS = {"replacing", "replacing_folder", "TemporaryDirectory", "BytesIO", "StringIO"}
"""What hands out things that anybody may write to: a partial file or folder, memory, a temporary folder."""


def lent(function: ast.AST) -> set[str]:
    """Names in a function that may be written to: bound to what `HANDS` gave, or a parameter called `partial`."""
    names: set[str] = set()
    for node in [*ast.walk(function), *ast.walk(function)]:  # twice: a name may be passed on before it is seen
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            names |= {argument.arg for argument in node.args.args if argument.arg in ("partial", "stream", "buffer")}
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.With):
            pairs = [(item.context_expr, item.optional_vars) for item in node.items if item.optional_vars is not None]
        if isinstance(node, ast.Assign):
            values, targets = [node.value], node.targets
            if isinstance(node.value, ast.Tuple) and isinstance(targets[0], ast.Tuple):
                values, targets = node.value.elts, targets[0].elts
            pairs = list(zip(values, targets))
        for value, target in pairs:
            called = {call.func for call in ast.walk(value) if isinstance(call, ast.Call)}
            makers = {getattr(name, "attr", getattr(name, "id", "")) for name in called}
            inner = {name.id for name in ast.walk(value) if isinstance(name, ast.Name)}
            if isinstance(target, ast.Name) and (makers & HANDS or inner & names):
                names.add(target.id)
    return names


def roots(node: ast.AST) -> set[str]:
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}


def writes(call: ast.Call) -> list[ast.AST] | None:
    """What a call writes to or removes, as the expressions that may name it; None where it does neither."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if isinstance(owner, ast.Name) and owner.id in OURS:
        return None
    everything: list[ast.AST] = [*call.args, *(keyword.value for keyword in call.keywords)]
    everything += [owner] if owner is not None else []
    if name == "open":
        modes = [*call.args[:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        texts = [mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
        return everything if any(len(text) < 6 and set(text) & set("wax+") for text in texts) else None
    if isinstance(owner, ast.Name) and name in FUNCTIONS.get(owner.id, set()):
        return everything
    if name in METHODS and owner is not None and not (name == "replace" and (len(call.args) != 1 or call.keywords)):
        return everything
    if name in SAVERS and owner is not None and call.args:
        return everything
    return None


def trespasses(text: str) -> list[str]:
    """Calls in a module that write or remove files of their own choice."""
    found, parts = [], list(ast.parse(text).body)
    parts += [inner for part in parts if isinstance(part, ast.ClassDef) for inner in part.body]
    for part in parts:
        if not isinstance(part, ast.ClassDef):
            allowed = lent(part)
            for call in (node for node in ast.walk(part) if isinstance(node, ast.Call)):
                places = writes(call)
                if places is not None and not any(roots(place) & (allowed | HANDS) for place in places):
                    found.append(f"line {call.lineno}: {ast.unparse(call)}")
    return found


def test_only_storage_writes_and_removes() -> None:
    others = [path for path in sorted(SOURCE.rglob("*.py")) if path.name != "storage.py"]
    assert not {str(path.relative_to(SOURCE)): found for path in others if (found := trespasses(path.read_text()))}


@pytest.mark.parametrize(
    "line",
    [
        'open(path, "w")',
        'open(path, mode="ab")',
        "path.write_text(text)",
        "path.unlink()",
        "shutil.rmtree(folder)",
        "os.replace(a, b)",
        "np.save(path, array)",
        "image.save(path)",
        "figure.savefig(path)",
        "torch.save(thing, path)",
        "made.replace(path)",
    ],
)
def test_the_search_finds_what_it_is_for(line: str) -> None:
    assert trespasses(f"def f(path):\n    {line}\n")
    lent_line = line.replace("path", "partial").replace("folder", "partial").replace("a, b", "a, partial")
    assert not trespasses(f"def f(path):\n    with replacing(path) as partial:\n        {lent_line}\n")


# ------------------------------------------------------------ whole or not at all


def fill(path: Path, error: Exception) -> None:
    with storage.replacing(path) as partial:
        partial.write_text("half")
        raise error


def test_what_a_killed_process_left_of_a_lock_goes(tmp_path: Path) -> None:
    left = storage.partial_name(tmp_path / ".a.lock")
    left = left.with_name(left.name.replace(f"-{os.getpid()}-", "-999999999-"))
    left.write_text("half")
    with locks.held(tmp_path / "a", file=True):
        assert not left.exists()


@pytest.mark.parametrize("make", [storage.replacing, storage.replacing_folder])
def test_another_files_error_stays_its_own(make: Any, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Permission denied") as caught, make(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "Permission denied", "in.mp4")
    assert caught.value.filename == "in.mp4"
    told = r"^\[Errno \d+\] \S*b could not be written: No such device$"
    with pytest.raises(OSError, match=told), make(tmp_path / "a"), storage.replacing(tmp_path / "b"):
        raise OSError(errno.ENODEV, "No such device")


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(OSError, match=r"a.txt could not be written"):
        fill(path, OSError(errno.EIO, "something"))
    with pytest.raises(OSError, match=r"^in.mp4: frame 3 is damaged$"):  # what was read for it is named already
        fill(path, OSError("in.mp4: frame 3 is damaged"))
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_no_two_writers_share_a_partial_file(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 60)
    with storage.replacing(path) as one, storage.replacing(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert len(list(tmp_path.iterdir())) == 1


def test_leftovers_of_dead_processes_alone_are_removed(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left = tmp_path / "sub" / f".a.{machine.HOST}-{dead.stdout.strip()}-0a.partial"
    own = tmp_path / f".a.{machine.HOST}-{os.getpid()}-0b.partial"
    elsewhere = tmp_path / ".a.0badcafe-1-0c.partial"
    old = tmp_path / ".a.partial"
    left.parent.mkdir()
    for path in (left, own, elsewhere, old):
        path.write_text("half")
    storage.clean(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob(".*")) == sorted([own.name, elsewhere.name])


def test_devices_and_folders_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match="is there and is not a file"):
            storage.write_text(tmp_path / name, "x")
    with pytest.raises(OSError, match="is not a folder"):
        storage.write_folder(tmp_path / "pipe", {}, bytes)


def test_a_full_disk_is_called_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="could not be written: the disk is full"):
        fill(tmp_path / "a", OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(storage, "disk_full", lambda folder: True)
    with pytest.raises(OSError, match="the disk is full"):
        fill(tmp_path / "a.pth", RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"))
    writer = Writer(tmp_path / "a.mp4", 10)
    writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.stream = Failing()
    with pytest.raises(OSError, match=r"a\.mp4 could not be written: the disk is full"):
        writer.close()
    assert not list(tmp_path.iterdir())


class Failing:
    def encode(self, frame: Any) -> Any:
        raise OSError("Input/output error")


# ------------------------------------------------------------ names from files


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/abs", ".", "..", "", "a//b", "a\nb", "a\x1b[2Jb", "a/./b"])
def test_names_do_not_lead_out(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="relative"):
        storage.below(tmp_path, name)


def test_names_that_stay(tmp_path: Path) -> None:
    for name in ("a", "a/b", "a..b", "12:30:00.mp4", "x::y", "größe.mp4", "...", "\udcff.mp4"):
        assert storage.below(tmp_path, name) == tmp_path / name
    (tmp_path / "way").symlink_to("/")
    with pytest.raises(ValueError, match="by a link"):
        storage.below(tmp_path, "way/out")


@pytest.mark.parametrize("benchmark", registry.names("benchmarks"))
def test_no_benchmark_writes_elsewhere(benchmark: str, tmp_path: Path) -> None:
    """A list that names `..` cannot make a benchmark remove what is in --out, nor write beside it."""
    from dropmae.target import Target

    out = tmp_path / "out" / "predictions"
    kept = out / "finished" / "00000.png"
    kept.parent.mkdir(parents=True)
    kept.write_text("finished")
    bench = registry.load("benchmarks", benchmark)()
    mask = np.ones((8, 8), np.uint8)
    target = Target(ids=np.array([1]), boxes=np.array([[1.0, 1, 4, 4]]), mask=mask, points=np.ones((15, 2)))
    target.flow = np.ones((8, 8, 2), np.float32)
    for name in ("..", "../up", "/tmp/dropmae-elsewhere", "finished/.."):
        for points in (15, 20, 17):
            target.points = np.ones((points, 2))
            with contextlib.suppress(ValueError):  # of points too, where a benchmark has another number
                bench.write(name, {0: target}, out)
    assert kept.read_text() == "finished"
    assert all(out in path.parents for path in tmp_path.rglob("*") if path.is_file())
    assert not Path("/tmp/dropmae-elsewhere").exists()


# ------------------------------------------------------------ what a user has, no verb destroys

FOLDERS = {"prepare", "pretrain", "finetune", "evaluate", "synth", "demo"}
"""Verbs that write a folder of their own, and refuse one that is something else."""
FILES = {"track", "reconstruct", "attention", "report", "convert", "show"}
"""Verbs that write files that are named to them."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip, prompts, a mask, weights and a run."""
    root = tmp_path_factory.mktemp("place")
    frames = np.random.default_rng(0).integers(0, 255, (6, 48, 64, 3)).astype(np.uint8)
    write(root / "clip.mp4", frames, 10)
    line = {"video": "clip.mp4", "frame": 0, "id": 1, "box": [10, 10, 20, 20]}
    (root / "prompts.jsonl").write_text(json.dumps(line) + "\n")
    Image.fromarray(np.pad(np.ones((20, 20), np.uint8), ((10, 18), (10, 34)))).save(root / "mask.png")
    torch.manual_seed(0)
    weights.save(registry.load("methods", "dropmae")(size="tiny", image=64), root / "w.safetensors")
    weights.save(registry.load("tasks", "vot")(size="tiny", image=64, ce_layers=()), root / "vot.safetensors")
    return root


def commands(root: Path, out: Path) -> dict[str, list[list[str]]]:
    """For each verb that writes a named file, commands that write `out`."""
    clip, made, method = str(root / "clip.mp4"), ["--out", str(out)], str(root / "w.safetensors")
    vot = ["--weights", str(root / "vot.safetensors")]
    return {
        "track": [
            [clip, *vot, "--box", "10", "10", "20", "20", *made],
            [clip, *vot, "--prompts", str(root / "prompts.jsonl"), *made],
        ],
        "reconstruct": [[method, clip, *made]],
        "convert": [
            [str(root / "w.safetensors"), str(out)],
            [str(root / "w.safetensors"), str(out), "--to", "dropmae"],
        ],
        "attention": [[method, clip, "--maps", "1", "--count", "1", *made]],
        "show": [[clip, "--frame", "0", *made]],
    }


def suffixes(verb: str) -> list[str]:
    return {"track": [".mp4", ".jsonl"], "convert": [".safetensors", ".pth"], "attention": [""]}.get(verb, [".png"])


def fitting(some: list[list[str]], suffix: str) -> list[list[str]]:
    """The commands that may write a file of this suffix."""
    return [command for command in some if ("--to" in command) == (suffix == ".pth")]


def test_every_verb_that_writes_is_known() -> None:
    writing = set()
    for verb in dropmae.VERBS:
        if {"out", "plots"} & inspect.signature(getattr(dropmae, verb)).parameters.keys():
            writing.add(verb)
    assert writing <= FOLDERS | FILES | {"score"}


@pytest.mark.parametrize("verb", sorted(FILES & dropmae.VERBS.keys() - {"report", "attention"}))
def test_foreign_files_and_inputs_stay(verb: str, place: Path, tmp_path: Path, capsys: Any) -> None:
    for suffix in suffixes(verb):
        foreign, link, hard = (tmp_path / f"{name}{suffix}" for name in ("foreign", "link", "hard"))
        foreign.write_bytes(b"mine")
        link.symlink_to(place / "clip.mp4")
        os.link(place / "clip.mp4", hard)
        before = (place / "clip.mp4").read_bytes()
        for out in (foreign, link, hard):
            for command in fitting(commands(place, out)[verb], suffix):
                assert main([verb, *command]) == 2, (verb, out)
                said = capsys.readouterr().err
                assert "--overwrite" in said.splitlines()[-1]
        assert foreign.read_bytes() == b"mine"
        assert (place / "clip.mp4").read_bytes() == hard.read_bytes() == before
        assert link.is_symlink()
        command = fitting(commands(place, foreign)[verb], suffix)[0]
        assert main([verb, *command, "--overwrite"]) == 0
        assert foreign.read_bytes() != b"mine"
        assert main([verb, *command]) == 0, "its own kind is replaced"
        for path in (link, hard):
            path.unlink()
    assert not list(tmp_path.rglob("*.partial"))


def test_prompts_beside_the_video_stay(place: Path, capsys: Any) -> None:
    before = (place / "prompts.jsonl").read_bytes()
    clip, vot = str(place / "clip.mp4"), str(place / "vot.safetensors")
    given = ["track", clip, "--weights", vot, "--prompts", str(place / "prompts.jsonl")]
    assert main([*given, "--out", str(place / "prompts.mp4")]) == 2
    assert "prompts.jsonl is what this reads" in capsys.readouterr().err
    assert main(["track", clip, "--weights", vot, "--box", "1", "1", "20", "20", "--out", clip]) == 2
    assert (place / "prompts.jsonl").read_bytes() == before
    assert not (place / "clip.jsonl").exists()


def test_attention_keeps_foreign_files(place: Path, tmp_path: Path) -> None:
    (tmp_path / "attention.png").write_text("mine")
    (command,) = commands(place, tmp_path)["attention"]
    assert main(["attention", *command]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["attention.png"]
    assert main(["attention", *command, "--overwrite"]) == 0
    assert main(["attention", *command]) == 0


def _convert(source: Path, out: Path) -> None:
    sys.exit(main(["convert", str(source), str(out)]))


@pytest.mark.slow
def test_several_at_once_write_one_of_them(place: Path, tmp_path: Path) -> None:
    """Processes that convert other weights to the same name: the file is one of them, whole."""
    sources = []
    for seed in range(3):
        torch.manual_seed(seed)
        sources.append(tmp_path / f"{seed}.safetensors")
        weights.save(registry.load("methods", "mae")(size="tiny", image=32), sources[-1])
    context = multiprocessing.get_context("spawn")
    out = tmp_path / "out.safetensors"
    workers = [context.Process(target=_convert, args=(source, out)) for source in sources]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    found = weights.load(out).state_dict()
    same = [all(torch.equal(value, found[key]) for key, value in weights.load(s).state_dict().items()) for s in sources]
    assert sum(same) == 1
    assert not list(tmp_path.glob(".*"))


def test_plots_keep_foreign_files(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "success.png").write_text("mine")
    assert main(["score", "otb", "--results", "x", "--root", "y", "--plots", str(tmp_path)]) == 2
    assert "success.png exists and is not a plot made by dropmae" in capsys.readouterr().err


FULL = """
import resource, signal, sys
from pathlib import Path
from dropmae.storage import Scratch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
file = Scratch(Path(sys.argv[1]))
places = [file.append(bytes([k]) * 2000) for k in range(2)]
try:
    file.append(b"x" * 2000)
except OSError:
    print([set(file.read(place, 2000)) for place in places], file.append(b"y" * 500), file.read(4000, 500)[-1:])
file.close()
"""


@pytest.mark.skipif(os.name == "nt", reason="files have no limit of size there")
def test_what_is_on_a_full_disk_can_still_be_read(tmp_path: Path) -> None:
    """A buffer kept what could not be written, tried again at every read, and failed."""
    found = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert found.stdout == "[{0}, {1}] 4000 b'y'\n"


@pytest.mark.parametrize(
    "text",
    [b"", b"xx", b"[1]", b'{"host": "h"}', b'{"pid": "abc"}', b'{"pid": true}', b'{"pid": %d}' % 2**70, b"\xff\xfe"],
)
def test_a_torn_lock_is_taken_over(text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was waited for without end, or ended in an error of its own."""
    monkeypatch.setattr(locks, "SILENCE", 0.2)
    (tmp_path / locks.NAME).write_bytes(text)
    with locks.held(tmp_path):
        assert json.loads((tmp_path / locks.NAME).read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "large"])
def test_what_is_no_lock_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / locks.NAME
    make: dict[str, Any] = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to(tmp_path / "elsewhere"),
        "large": lambda: path.write_bytes(bytes(1 << 20)),
    }
    make[kind]()
    with pytest.raises(OSError, match=r"\.lock is in the way, and is no lock that dropmae made: remove it"):
        locks.held(tmp_path).__enter__()
    assert [entry.name for entry in tmp_path.iterdir()] == [locks.NAME]
