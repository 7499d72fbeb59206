"""Machines other than Linux: what only some systems have is asked for in one place, and nothing fails without it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dropmae.training import distributed
from test_layers import KNOWN, SOURCE, modules, tree

HOMES = ("machine.py", "ops/allocator.py")
"""Where the operating system may be asked for what not all of them have."""
MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog", "msvcrt", "winreg")
CALLS = (
    *("fork", "forkpty", "sched_getaffinity", "sched_setaffinity", "sysconf", "getuid", "geteuid", "getgid", "uname"),
    *("killpg", "setsid", "getpgid", "mkfifo", "nice", "wait3", "wait4", "getloadavg", "statvfs", "posix_fallocate"),
)
GONE = ("fork", "forkpty", "sched_getaffinity", "sched_setaffinity", "sysconf", "killpg", "setsid", "mkfifo", "getuid")
"""Of CALLS, those that other packages do without."""
SIGNALS = ("SIGKILL", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM", "SIGPIPE", "alarm", "setitimer")


def asked(module: ast.AST) -> set[str]:
    """What a module uses that not every system has."""
    found = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & {*MODULES}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} & {*MODULES}
            found |= {alias.name for alias in node.names if node.module in ("os", "signal")} & {*CALLS, *SIGNALS}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = {"os": CALLS, "signal": SIGNALS}.get(node.value.id, ())
            found |= {node.attr} & {*names}
    return found


def test_one_place_asks_for_what_not_all_systems_have() -> None:
    others = [path for path in modules() if path.relative_to(SOURCE).as_posix() not in HOMES]
    assert not {path.name: found for path in others if (found := asked(tree(path)))}


@pytest.mark.parametrize("line", ["import fcntl", "os.sched_getaffinity(0)", "from os import fork", "signal.SIGKILL"])
def test_the_search_finds_it(line: str) -> None:
    assert asked(ast.parse(line))


ELSEWHERE = """
import importlib, multiprocessing, os, sys
blocked = {modules}
for name in [*blocked]:
    sys.modules[name] = None
for name in {calls}:
    if hasattr(os, name):
        delattr(os, name)
multiprocessing.get_all_start_methods = lambda: ["spawn"]
failed = []
for name in {names}:
    try:
        importlib.import_module(name)
    except ImportError as error:
        if error.name not in {extras}:
            failed.append((name, str(error)))
    except Exception as error:
        failed.append((name, repr(error)))
from dropmae import machine
assert machine.cores() >= 1
print(failed)
"""
EXTRAS = {"triton", "onnx", "onnxruntime", "onnxscript", "decord", "cv2", "trackio", "wandb", "tensorboard"}


@pytest.mark.slow
def test_every_module_is_imported_without_what_only_linux_has() -> None:
    """`posix` stays: it is what `os` itself is made of here."""
    names = sorted(f"dropmae.{name}" for name in KNOWN if name and name != "__main__")
    blocked = {name for name in MODULES if name != "posix"}
    code = ELSEWHERE.format(modules=blocked, calls=GONE, names=names, extras=EXTRAS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


VIDEOLESS = """
import sys
for name in ("av", "tyro"):
    sys.modules[name] = None
import numpy as np
from pathlib import Path
from dropmae.verbs.pretrain import pretrain
root = Path(sys.argv[1])
summary = pretrain(
    "twinmae", root / "frames", out=root / "run", size="tiny", image=32, patch=16, global_batch=2, steps=2, workers=0
)
print(summary["steps"])
"""


@pytest.mark.slow
def test_training_on_stored_frames_needs_no_video_library(tmp_path: Path) -> None:
    import numpy as np

    from dropmae import video
    from dropmae.verbs.prepare import prepare
    from samples import moving_squares

    for number in range(2):
        video.write(tmp_path / "videos" / f"clip{number}.mp4", moving_squares(number))
    prepare(tmp_path / "videos", tmp_path / "frames", frames=True, workers=1)
    assert list((tmp_path / "frames").glob("*.frames"))
    np.save(tmp_path / "frames" / "array.npy", moving_squares(2))
    line = [sys.executable, "-c", VIDEOLESS, str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "2"


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "0", "meta", "", "cuda:0:1"])
def test_a_device_that_is_none_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="no such kind of device; say auto, cpu, cuda, cuda:N or mps"):
        distributed.pick_device(name)


@pytest.mark.parametrize(
    ("gpus", "mps", "name", "picked"),
    [
        (0, False, "auto", "cpu"),
        (0, True, "auto", "mps"),
        (2, True, "auto", "cuda:0"),
        (2, False, "cuda:1", "cuda:1"),
        (0, True, "mps", "mps"),
        (2, False, "cuda:2", "GPUs are numbered from 0, and this machine has 2"),
        (0, False, "cuda", "this machine has no CUDA device"),
        (0, False, "mps:0", "this machine has no MPS device"),
    ],
)
def test_the_device_that_is_there_is_picked(
    gpus: int, mps: bool, name: str, picked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    if " " in picked:
        with pytest.raises(ValueError, match=picked):
            distributed.pick_device(name)
    else:
        assert str(distributed.pick_device(name)) == picked


@pytest.mark.slow
def test_no_compiler_is_imported_to_follow(tmp_path: Path) -> None:
    """Nor is one when a box is followed: the first answer would come a second or two later."""
    code = (
        "import sys, numpy, dropmae; frames = list(numpy.zeros((3, 90, 120, 3), numpy.uint8) + 50); "
        "print(len(list(dropmae.track(frames, box=(30, 30, 20, 20))))); "
        "sys.exit(bool({'torch._dynamo', 'sympy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
