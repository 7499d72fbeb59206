"""The reader of pickled files: what it reads, and that it executes nothing."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dropmae
from dropmae.verbs.convert import convert
from dropmae.verbs.info import info
from dropmae.weights import unpickle
from official_files import (
    put,
    tiny_classifier,
    tiny_dropmae,
)


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Settings:
    """An object of a project's own class, as trackers put into their checkpoints."""

    def __init__(self) -> None:
        self.lr, self.inner = 0.1, collections.OrderedDict(a=1)


class EasyDict(dict):
    """A mapping class of a project."""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def attacks(trace: Path) -> dict[str, Any]:
    touch = f"touch {trace}"
    return {
        "system": Calls(os.system, touch),
        "Popen": Calls(subprocess.Popen, ["touch", str(trace)]),
        "eval": Calls(eval, f"open({str(trace)!r}, 'w')"),
        "exec": Calls(exec, f"open({str(trace)!r}, 'w')"),
        "getattr": Calls(getattr, "x", "upper"),
        "nested": Calls(collections.OrderedDict, [["a", Calls(os.system, touch)]]),
        "import": Calls(__import__, "os"),
        "load": Calls(torch.load, str(trace)),
    }


@pytest.mark.parametrize("how", ["zip", "rows", "pickle0", "pickle2", "pickle4"])
@pytest.mark.parametrize("attack", attacks(Path("x")))
def test_pickles_with_code_are_refused_and_nothing_runs(attack: str, how: str, trace: Path, tmp_path: Path) -> None:
    tree = {"model": {**tiny_classifier(), "x": 1}, "extra": attacks(trace)[attack]}
    path = tmp_path / "evil.pth"
    if how.startswith("pickle"):
        path.write_bytes(pickle.dumps(tree["extra"], int(how[6:])))
    else:
        put(tree, path, new=how == "zip")
    with pytest.raises(OSError, match=r"evil\.pth: refused, its pickle would call \w+\.\S+") as caught:
        convert(path, tmp_path / "x.safetensors")
    name = {"nested": "system", "import": "__import__"}.get(attack, attack)
    assert f".{name}," in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match="refused"):
        info(path)
    assert not trace.exists()
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"(S'touch x'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch x'\no.",
        b"\x80\x02ccollections\nOrderedDict\nN}(U\x09_functionK\x01u\x86b.",
        b"\x80\x02cargparse\nNamespace\nN}(U\x08__init__K\x01u\x86b.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))tR.",
        b"\x80\x02U\x01xQ.",
        b"not a pickle at all",
        b"",
    ],
)
def test_raw_attacks_are_one_clear_line(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(raw)
    with pytest.raises(OSError, match=r"x\.pth: (refused|not a readable)"):
        unpickle.Checkpoint(tmp_path / "x.pth")


def test_a_pickle_cannot_change_the_reader(tmp_path: Path) -> None:
    """The stand-ins of one file are not those of the next, and take no attributes."""
    (tmp_path / "x.pth").write_bytes(b"\x80\x02cargparse\nNamespace\n)\x81N}(U\x0a__setstate__K\x01u\x86b.")
    with pytest.raises(OSError, match=r"x\.pth"):
        unpickle.Checkpoint(tmp_path / "x.pth")
    tree = {"args": argparse.Namespace(a=1), "model": {"w": torch.ones(2)}}
    opened = unpickle.Checkpoint(put(tree, tmp_path / "y.pth"))
    assert opened.tree["args"].attributes == {"a": 1}


@pytest.mark.parametrize("new", [True, False], ids=["zip", "rows"])
def test_objects_of_unknown_classes_do_not_block(new: bool, tmp_path: Path) -> None:
    settings = Settings()
    tree = {
        "net": tiny_dropmae(),
        "settings": settings,
        "cfg": EasyDict(a=EasyDict(b=[1, 2])),
        "stats": collections.OrderedDict(loss=settings),
        "numbers": {1, 2.5},
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "default": collections.defaultdict(list, {1: [2]}),
        "array": np.ones(3),
    }
    opened = unpickle.Checkpoint(put(tree, tmp_path / "x.pth", new))
    assert opened.tree["settings"].attributes["lr"] == 0.1
    assert opened.tree["cfg"].attributes["a"].attributes == {"b": [1, 2]}
    assert opened.tree["default"] == {1: [2]}
    convert(tmp_path / "x.pth", tmp_path / "x.safetensors")
    assert type(dropmae.load(tmp_path / "x.safetensors")).__name__ == "DropMAE"


@pytest.mark.parametrize("new", [True, False], ids=["zip", "rows"])
def test_tensors_of_every_kind(new: bool, tmp_path: Path) -> None:
    base = torch.randn(6, 5)
    tree = {
        "plain": base,
        "view": base[1:4, 2:].t(),
        "half": torch.randn(3).half(),
        "brain": torch.randn(3).bfloat16(),
        "count": torch.tensor(3),
        "parameter": nn.Parameter(torch.ones(2)),
        "empty": torch.zeros(0, 3),
        "flags": torch.tensor([True, False]),
    }
    opened = unpickle.Checkpoint(put(tree, tmp_path / "x.pth", new))
    for name, tensor in tree.items():
        read = opened.tensor(opened.tree[name])
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor.detach()), name


@pytest.mark.parametrize("new", [True, False], ids=["zip", "rows"])
def test_truncated_files_are_one_clear_line(new: bool, tmp_path: Path) -> None:
    path, cut = put({"model": tiny_classifier()}, tmp_path / "x.pth", new), tmp_path / "cut.pth"
    whole = path.read_bytes()
    for length in (0, 1, 5, 100, 5000, len(whole) // 2, len(whole) - 200, len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(OSError, match=r"cut\.pth: not a readable") as caught:
            convert(cut, tmp_path / "x.safetensors")
        assert "\n" not in str(caught.value)
    if new:
        cut.write_bytes(whole.replace(b"\x3f", b"\x3e"))  # numbers changed, checksums not
        with pytest.raises(OSError, match=r"cut\.pth: not a readable"):
            convert(cut, tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError, match="no such file"):
        convert(tmp_path / "none.pth", tmp_path / "x.safetensors")
