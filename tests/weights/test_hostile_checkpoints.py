"""Checkpoints of strangers: nothing runs, nothing fills the machine, and what is harmless is inert."""

from __future__ import annotations

import argparse
import bz2
import collections
import datetime
import decimal
import enum
import functools
import gzip
import io
import json
import pathlib
import pickle
import re
import resource
import struct
import subprocess
import sys
import tarfile
import types
import typing
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dropmae import pickles, weights
from dropmae.cli import main
from dropmae.methods.mae import MAE
from dropmae.verbs.convert import convert
from dropmae.weights import foreign, official, unpickle
from official_files import tiny_classifier


class Mode(enum.Enum):
    A = "a"


class Flags(enum.Flag):
    A = 1
    B = 2


class Config(dict):
    """A mapping class of a project."""


HARMLESS = {
    "enum": Mode.A,
    "flag": Flags.A | Flags.B,
    "partial": functools.partial(max, 1),
    "namespace": types.SimpleNamespace(a=1),
    "zone": datetime.datetime.now(datetime.UTC),
    "time": datetime.time(1, 2),
    "range": range(3),
    "slice": slice(1, 2),
    "windows": pathlib.PureWindowsPath("c:\\x"),
    "generator": np.random.default_rng(0),
    "state": np.random.RandomState(0),
    "complex": torch.ones(2, dtype=torch.complex64),
    "number": 1 + 2j,
    "optional": typing.Optional[int],  # noqa: UP045
    "sparse": torch.eye(2).to_sparse(),
    "meta": torch.ones(2, device="meta"),
    "decimal": decimal.Decimal("1.5"),
    "uuid": uuid.UUID(int=1),
    "pattern": re.compile("a+"),
    "array": np.ones((2, 3)),
    "scalar": np.float32(1.5),
    "counter": collections.Counter("aab"),
    "chain": collections.ChainMap({"a": 1}),
    "kind": dict,
    "error": ValueError("x"),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_things_beside_the_weights_are_inert(name: str, protocol: int, tmp_path: Path) -> None:
    tree = {"model": {"w": torch.ones(2)}, "args": argparse.Namespace(x=HARMLESS[name], lr=0.1)}
    torch.save(tree, tmp_path / "x.pth", pickle_protocol=protocol)
    opened = unpickle.Checkpoint(tmp_path / "x.pth")
    assert torch.equal(opened.tensor(opened.tree["model"]["w"]), torch.ones(2))
    assert opened.tree["args"].attributes["lr"] == 0.1


@pytest.mark.parametrize("form", ["subclass", "module", "parallel", "wrapped", "checkpointed"])
def test_weights_are_found_wherever_tensors_can_be_had(form: str, tmp_path: Path) -> None:
    state = tiny_classifier()
    whole = nest(state)
    tree = {
        "subclass": {"net": Config(state)},
        "module": whole,
        "parallel": torch.nn.DataParallel(whole) if form == "parallel" else None,
        "wrapped": {"state": {"model": collections.OrderedDict(state)}},
        "checkpointed": {
            name.replace("blocks.0.", "blocks.0._checkpoint_wrapped_module."): v for name, v in state.items()
        },
    }[form]
    torch.save(tree, tmp_path / "x.pth")
    made = official.to_module(foreign.examine(tmp_path / "x.pth"))
    assert torch.equal(made.state_dict()["encoder.norm.weight"], state["norm.weight"])


def nest(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A module with these tensors, as one that was pickled whole."""
    root = torch.nn.Module()
    for name, tensor in state.items():
        *places, last = name.split(".")
        module = root
        for place in places:
            if place not in module._modules:
                module.add_module(place, torch.nn.Module())
            module = module.get_submodule(place)
        module.register_parameter(last, torch.nn.Parameter(tensor))
    return root


def test_position_tables_of_other_shapes(tmp_path: Path) -> None:
    state = tiny_classifier()
    table = state["pos_embed"]
    torch.save({**state, "pos_embed": table[0]}, tmp_path / "flat.pth")
    flat = official.to_module(foreign.examine(tmp_path / "flat.pth")).state_dict()
    torch.save(state, tmp_path / "plain.pth")
    plain = official.to_module(foreign.examine(tmp_path / "plain.pth")).state_dict()
    assert flat.keys() == plain.keys()
    assert all(torch.equal(flat[name], plain[name]) for name in plain)
    torch.save({**state, "pos_embed": table[:, 1:] + 1}, tmp_path / "patches.pth")  # timm's no_embed_class
    patches = official.to_module(foreign.examine(tmp_path / "patches.pth")).state_dict()
    assert not patches["encoder.cls_position"].any()
    assert torch.equal(patches["encoder.positions.table"], table[:, 1:] + 1)
    torch.save({**state, "pos_embed": table[0, 0]}, tmp_path / "row.pth")
    with pytest.raises(ValueError, match="pos_embed is 192, which is no table of positions"):
        foreign.examine(tmp_path / "row.pth")
    torch.save({**state, "norm.bias": state["norm.bias"] * float("nan")}, tmp_path / "nan.pth")
    with pytest.raises(OSError, match=r"nan\.pth: norm\.bias holds numbers that are not finite"):
        convert(tmp_path / "nan.pth", tmp_path / "x.safetensors")
    torch.save({name: value for name, value in state.items() if "mlp" not in name}, tmp_path / "m-00001-of-00002.pth")
    with pytest.raises(ValueError, match=r"lacks .*one of several shards"):
        convert(tmp_path / "m-00001-of-00002.pth", tmp_path / "x.safetensors")


STRANGERS = {
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 1234\n",
    "a web page": b"\n<!DOCTYPE html><html><title>Quota exceeded</title></html>",
    "empty": b"",
    "compressed with gzip": gzip.compress(b"PK"),
    "compressed": bz2.compress(b"PK"),
    "text": b'{"error": "not found"}',
}


@pytest.mark.parametrize("what", [*STRANGERS, "a tar archive", "unpack it first"])
def test_what_is_no_checkpoint_is_named(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(STRANGERS.get(what, b"x"))
    if what == "a tar archive":
        (tmp_path / "y").write_bytes(b"y")
        with tarfile.open(path, "w") as archive:
            archive.add(tmp_path / "y", "x.pth")
    if what == "unpack it first":
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr("inner.pth", b"y")
    assert main(["info", str(path)]) == 1
    said = capsys.readouterr().err
    assert what in said
    assert said.count("\n") == 1
    assert str(path) in said


def zipped(path: Path, pickled: bytes, order: bytes = b"little", how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/byteorder", order)
        archive.writestr("a/version", b"3\n")
    return path


def deep(steps: int) -> bytes:
    return b"\x80\x02}" + b"K\x01" + b"\x85" * steps + b"K\x01s."


BOMBS = {
    "memo": b"\x80\x02K\x01r\x00\x00\x00\x08.",
    "deep key": deep(200_000),
    "wide key": b"\x80\x02}" + b"K\x01" + b"2\x86" * 60 + b"K\x01s.",
    "deep list": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "many": b"\x80\x02(" + b"N" * 300_000 + b"l.",
    "sets": b"\x80\x04(" + b"\x8f" * 300_000 + b"l.",
    "array of bytes": b"\x80\x05\x96" + struct.pack("<Q", 1 << 33) + b".",
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b".",
    "path": b"\x80\x02U\x08aaaaaaaaq\x00" + b"0cpathlib\nPath\nh\x00h\x00\x86Rq\x00" * 60 + b".",
    "copies": b"\x80\x02(" + b"N" * 100_000 + b"lq\x000(" + b"c__builtin__\nlist\nh\x00\x85R" * 1000 + b"l.",
    "classes": b"\x80\x02(" + b"".join(b"ca\nb%d\n" % i for i in range(50_000)) + b"l.",
    "number": b"I" + b"9" * 100_000 + b"\n.",
    "shape": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\n"
    b"U\x010U\x03cpuK\x01tQK\x00(U\x01aK\x03tK\x01\x85\x89NtR.",
}


INERT = ("memo",)
"""Of these, what is read in the end: nothing came of it."""


LONG = ("deep list", "deep key", "sets", "classes")
"""Of these, what is read for half a second before it is refused; one of them stays among the fast tests."""


@pytest.mark.parametrize("new", [True, False], ids=["zip", "rows"])
@pytest.mark.parametrize("bomb", [pytest.param(b, marks=pytest.mark.slow) if b in LONG[1:] else b for b in BOMBS])
def test_bombs_are_refused_within_bounds(bomb: str, new: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "STEPS", 1 << 18)
    path = zipped(tmp_path / "x.pth", BOMBS[bomb]) if new else tmp_path / "x.pth"
    if not new:
        path.write_bytes(BOMBS[bomb])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if new and bomb in INERT:
        unpickle.Checkpoint(path)
    else:
        with pytest.raises(OSError, match=r"x\.pth: (refused|not a readable)") as caught:
            unpickle.Checkpoint(path)
        assert len(str(caught.value)) < 400
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.slow
@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packed_bombs_are_not_unpacked(how: int, tmp_path: Path) -> None:
    for number, (pickled, order) in enumerate([(b"N" * 68_000_000, b"little"), (b"N.", b"x" * (1 << 25))]):
        path = zipped(tmp_path / f"{number}.pth", pickled, order, how)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(OSError, match=r"\d\.pth: not a readable"):
            unpickle.Checkpoint(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_mappings_that_share_mappings_are_walked_once(tmp_path: Path) -> None:
    inner: dict[str, Any] = {"w": torch.ones(1)}
    for _ in range(8):
        inner = {str(i): inner for i in range(100)}
    torch.save(inner, tmp_path / "x.pth")
    assert sum(foreign.contents(tmp_path / "x.pth").values()) == 1


WRONG = [
    {"fields": None},
    {"fields": []},
    {"name": 1},
    {"name": "nothing"},
    {"kind": []},
    {"parts": 0},
    {"parts": [1]},
    {"version": 2},
    {"fields": {"size": 5}},
    {"fields": {"size": "huge"}},
    {"fields": {"image": "x"}},
    {"fields": {"image": [112]}},
    {"fields": {"image": 40_000}},
    {"fields": {"image": [16, 10**9]}},
    {"fields": {"patch": -16}},
    {"fields": {"decoder_depth": 10**9}},
    {"fields": {"decoder_width": 10**9}},
    {"fields": {"learned_positions": 10**6}},
    {"fields": {"mask_ratio": {}}},
]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("ours") / "x.safetensors"
    weights.save(MAE(size="tiny", image=32), path)
    return path.read_bytes()


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_our_own_headers_are_not_believed(
    wrong: dict, ours: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    length = int.from_bytes(ours[:8], "little")
    head = json.loads(ours[8 : 8 + length])
    own = json.loads(head["__metadata__"]["dropmae"])
    fields = (
        {**own["fields"], **wrong["fields"]}
        if isinstance(wrong.get("fields"), dict)
        else wrong.get("fields", own["fields"])
    )
    head["__metadata__"]["dropmae"] = json.dumps({**own, **wrong, "fields": fields})
    text = json.dumps(head).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + ours[8 + length :])
    with pytest.raises((OSError, ValueError)) as caught:
        weights.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert main(["info", str(path)]) in (0, 1, 2)
    assert "--debug" not in capsys.readouterr().err


@pytest.mark.parametrize("old", [b'{"__metadata__"', b'\\"kind\\"'])
@pytest.mark.parametrize("words", ["info {}", "convert {} {}.out.safetensors"])
def test_a_damaged_header_of_ours_is_called_that(
    old: bytes, words: str, ours: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not taken for a checkpoint of somebody else, of which no layout is known."""
    assert ours.count(old) == 1
    path = tmp_path / "x.safetensors"
    path.write_bytes(ours.replace(old, b"[" * len(old)))
    assert main(words.format(path, path).split()) == 1
    told = capsys.readouterr().err
    assert f"{path}: " in told
    assert "its header is damaged" in told


def test_every_class_has_an_outline() -> None:
    """It costs no memory, and is what is built."""
    made = MAE(size="tiny", image=32)
    header = {"kind": "methods", "name": "mae", "fields": {"size": "tiny", "image": 32}}
    shell = weights.outline(header, "here").state_dict()
    assert {name: tensor.shape for name, tensor in shell.items()} == {n: t.shape for n, t in made.state_dict().items()}
    assert all(tensor.is_meta for tensor in shell.values())


@pytest.mark.slow
def test_an_outline_imports_no_compiler() -> None:
    """PyTorch thinks about numbers on no device with it, and to import it takes longer than to follow twenty frames."""
    code = (
        "import sys; from dropmae import weights\n"
        "for path in weights.SHIPPED.glob('*.safetensors'): weights.outline(weights.read_header(path), path.stem)\n"
        "print(sorted({'torch._dynamo', 'sympy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_arrays_of_others_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "STEPS", 1 << 16)
    from dropmae.formats.arrays import read_dump
    from dropmae.opening import load_array

    path = tmp_path / "x"
    path.write_bytes(pickle.dumps(np.arange(6.0).reshape(2, 3)))
    np.testing.assert_array_equal(read_dump(path), np.arange(6.0).reshape(2, 3))
    for bomb in BOMBS.values():
        path.write_bytes(bomb)
        with pytest.raises(OSError, match=r"x: not a (NumPy array dump|readable pickle)"):
            read_dump(path)
    buffer = io.BytesIO()
    np.save(buffer, np.arange(6, dtype=np.uint8).reshape(1, 1, 2, 3))
    whole = buffer.getvalue()
    for shape in (b"(18446744073709551616, 1, 2, 3)", b"(-1, 1, 2, 3)", b"(9, 1, 2, 3)", b"(" * 90 + b")" * 90):
        path.write_bytes(whole.replace(b"(1, 1, 2, 3)", shape)[: len(whole) + 200])
        for mapped in (True, False):
            with pytest.raises(OSError, match=r"x: not a readable .npy file"):
                load_array(path, mapped)
