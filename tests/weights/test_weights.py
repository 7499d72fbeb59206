"""Our weight files: round trips, what does not fit, damaged files, a full disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import dropmae
from dropmae import registry, weights
from dropmae.verbs.convert import convert, without_folders
from official_files import (
    Tensors,
    put,
)


def small(name: str = "dropmae", **fields: Any) -> Any:
    torch.manual_seed(0)
    return registry.load("methods", name)(size="tiny", image=64, **fields).eval()


@pytest.fixture
def module() -> Any:
    return small()


@pytest.fixture
def ours(module: Any, tmp_path: Path) -> Path:
    weights.save(module, tmp_path / "w.safetensors", {"training": {"steps": 7}})
    return tmp_path / "w.safetensors"


def same(a: nn.Module, b: nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", registry.names("methods"))
def test_a_file_rebuilds_its_module(name: str, tmp_path: Path) -> None:
    module = small(name)
    weights.save(module, tmp_path / "last.safetensors", {"training": {"steps": 7}})
    state = torch.random.get_rng_state()
    again = dropmae.load(tmp_path)  # a run folder stands for its last weights
    assert torch.equal(torch.random.get_rng_state(), state)
    assert type(again) is type(module)
    assert registry.settings(again) == registry.settings(module)
    assert same(again, module)
    assert not again.training
    header = weights.read_header(tmp_path)
    assert header["training"] == {"steps": 7}
    assert (header["kind"], header["name"], header["version"]) == ("methods", name, dropmae.__version__)


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5).t(),
        "b": torch.arange(7, dtype=torch.int64),
        "c": torch.randn(4).bfloat16(),
        "d": torch.tensor(True),
        "e": torch.zeros(0, 3),
        "f": torch.tensor(2.5, dtype=torch.float64),
    }
    weights.write_tensors(tensors, tmp_path / "x.safetensors", {"step": "3"})
    read = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())
    assert os.listdir(tmp_path) == ["x.safetensors"]


@pytest.mark.parametrize("length", [0x180, 0x4B50])
def test_a_length_may_look_like_another_format(length: int, tmp_path: Path) -> None:
    """The first bytes of a file are the length of its header: those of a pickle, or of a zip."""
    path, tensors = tmp_path / "w.safetensors", {"a": torch.ones(3)}
    start = json.dumps({"kind": "methods", "name": "mae", "fields": {}, "parts": [], "version": "1", "more": ""})
    weights.write_tensors(tensors, path, {"dropmae": start})
    missing = length - int.from_bytes(path.read_bytes()[:8], "little")
    weights.write_tensors(tensors, path, {"dropmae": start.replace('"more": ""', f'"more": "{"x" * missing}"')})
    assert int.from_bytes(path.read_bytes()[:8], "little") == length
    assert weights.read_header(path)["name"] == "mae"
    assert list(weights.read_tensors(path)) == ["a"]


def test_half_precision_is_half_the_size(module: Any, ours: Path, tmp_path: Path) -> None:
    weights.save(module, tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.51 * ours.stat().st_size
    again = dropmae.load(tmp_path / "half.safetensors")
    for name, tensor in again.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, module.state_dict()[name].half().float())
    module.encoder.norm.weight.data[0] = 1e6
    with pytest.raises(ValueError, match=r"encoder\.norm\.weight.*float16"):
        weights.save(module, tmp_path / "half.safetensors", half=True)
    assert same(dropmae.load(tmp_path / "half.safetensors"), again)


def test_a_full_disk_leaves_the_old_file(ours: Path) -> None:
    """A limit on file size fails the write at the same place as a full disk does."""
    before = ours.read_bytes()
    code = f"""
import resource, torch
from dropmae import registry, weights
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
module = registry.load("methods", "mae")(size="tiny", image=64)
try:
    weights.save(module, {str(ours)!r})
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert str(ours) in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1
    assert ours.read_bytes() == before
    assert os.listdir(ours.parent) == [ours.name]


def test_bad_files_are_one_clear_line(module: Any, ours: Path, tmp_path: Path) -> None:
    whole = ours.read_bytes()
    bad = tmp_path / "bad.safetensors"
    for cut in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        bad.write_bytes(whole[:cut])
        with pytest.raises(OSError, match=r"bad\.safetensors: not a readable weight file"):
            dropmae.load(bad)
    with pytest.raises(FileNotFoundError, match="no such file"):
        dropmae.load(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match=r"without last\.safetensors"):
        dropmae.load(tmp_path)
    safetensors.torch.save_file({"x": torch.zeros(2)}, bad)
    with pytest.raises(ValueError, match="dropmae convert"):
        dropmae.load(bad)
    with pytest.raises(ValueError, match="dropmae convert"):
        dropmae.load(put({"model": {}}, tmp_path / "official.pth"))
    with pytest.raises(ValueError, match="dropmae convert"):
        dropmae.load(put({"model": {}}, tmp_path / "old.pth", new=False))


def with_header(ours: Path, out: Path, tensors: Tensors | None = None, **changes: Any) -> Path:
    """The file `ours` with other tensors or other entries in its header."""
    header = {**weights.read_header(ours), **changes}
    weights.write_tensors(tensors or weights.read_tensors(ours), out, {"dropmae": json.dumps(header)})
    return out


def test_what_does_not_fit_is_named(ours: Path, tmp_path: Path) -> None:
    out, tensors = tmp_path / "other.safetensors", weights.read_tensors(ours)
    fields = weights.read_header(ours)["fields"]
    with pytest.raises(ValueError, match=r"weight is 192x3x16x16, and DropMAE of these fields needs 192x3x8x8"):
        dropmae.load(with_header(ours, out, fields={**fields, "patch": 8}))
    with pytest.raises(ValueError, match=r"lacks encoder\.norm\.bias, which DropMAE needs"):
        dropmae.load(with_header(ours, out, {n: t for n, t in tensors.items() if n != "encoder.norm.bias"}))
    with pytest.raises(ValueError, match=r"holds encoder\.extra, for which DropMAE has no place"):
        dropmae.load(with_header(ours, out, {**tensors, "encoder.extra": torch.zeros(1)}))
    with pytest.raises(ValueError, match="holds no encoder"):
        dropmae.load(with_header(ours, out, {n: t for n, t in tensors.items() if n.startswith("decoder")}))
    with pytest.raises(ValueError, match="has no field colour"):
        dropmae.load(with_header(ours, out, fields={**fields, "colour": 3}))
    with pytest.raises(ValueError, match="not one of the methods"):
        dropmae.load(with_header(ours, out, name="os"))
    with pytest.raises(ValueError, match="not run by itself"):
        dropmae.load(with_header(ours, out, name="../evil.py"))
    with pytest.raises(OSError, match="header is damaged"):
        dropmae.load(with_header(ours, out, kind="../tests"))


def test_a_users_own_method_comes_back_by_its_path(tmp_path: Path) -> None:
    source = tmp_path / "mymae.py"
    source.write_text(
        "from dataclasses import dataclass\nfrom dropmae.methods._masked_autoencoder import MaskedAutoencoder\n"
        "@dataclass(kw_only=True, eq=False, repr=False)\nclass MyMAE(MaskedAutoencoder):\n    '''Mine.'''\n"
    )
    module = registry.load("methods", str(source))(size="tiny", image=64)
    weights.save(module, tmp_path / "w.safetensors")
    again = dropmae.load(tmp_path / "w.safetensors")
    assert type(again).__name__ == "MyMAE"
    assert same(again, module)


def test_an_encoder_alone_has_features_and_refuses_the_rest(module: Any, ours: Path, tmp_path: Path) -> None:
    report = convert(ours, tmp_path / "encoder.safetensors", encoder_only=True, half=True)
    assert report["missing"] == ["decoder"]
    assert weights.read_header(tmp_path / "encoder.safetensors")["parts"] == ["encoder"]
    again: Any = dropmae.load(tmp_path / "encoder.safetensors")
    frames = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(again.encoder.features(frames), module.encoder.features(frames), atol=2e-2)
        batch = {"frames": torch.zeros(1, 2, 3, 64, 64), "index": torch.tensor([0]), "seed": 0}
        with pytest.raises(ValueError, match=r"encoder\.safetensors holds no decoder"):
            again(batch)
    weights.save(again, tmp_path / "again.safetensors")
    assert same(dropmae.load(tmp_path / "again.safetensors"), again)


def test_a_file_that_is_converted_names_no_folders() -> None:
    told = {"data": [{"entry": "layers=/home/ann/pictures"}], "init": "/home/ann/runs/a", "more": r"C:\ann\clips*0.5"}
    assert without_folders(told) == {"data": [{"entry": "layers=pictures"}], "init": "a", "more": "clips*0.5"}
    kept = {"source": "https://example.org/a/b.pth", "steps": 3, "licence": "Apache-2.0", "data": "clips/and photos"}
    assert without_folders(kept) == kept


@pytest.mark.parametrize("name", sorted(file.stem for file in weights.SHIPPED.glob("*.safetensors")))
def test_what_is_made_of_a_file_of_the_package_loads_and_names_its_licence(name: str, tmp_path: Path) -> None:
    """Heads come without the encoder that they work on, which is not fetched."""
    told = convert(Path(f"shipped:{name}"), tmp_path / "made.safetensors")["licence"]
    assert told.startswith("Apache-2.0")
    assert weights.read_header(tmp_path / "made.safetensors")["licence"] == told
    made, own = (weights.load(spec, borrow=False) for spec in (tmp_path / "made.safetensors", f"shipped:{name}"))
    assert same(made, own)


def test_what_is_imported_to_read_weights_keeps_its_constants() -> None:
    program = """
import dropmae
dropmae.load("shipped:flow")
from dropmae.tasks.flow.samples import GREY
assert abs(float(GREY.sum()) - 1) < 1e-6
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
