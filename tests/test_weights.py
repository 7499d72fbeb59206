"""Weight files: round trips, public layouts in both directions, damaged and hostile files."""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

import dropmae
from dropmae import masking, official, registry, unpickle, weights
from dropmae.cli import main
from dropmae.convert import convert
from dropmae.info import info
from dropmae.layouts import LAYOUTS, named
from official_files import (
    Tensors,
    decoder_shapes,
    dropmae_shapes,
    encoder_shapes,
    recipe,
    run_blocks,
    run_encoder,
    with_sincos,
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


def tiny_dropmae() -> Tensors:
    return with_sincos(recipe(dropmae_shapes(192, 12, 192, 4, 17)), (4, 4))


def tiny_mae(grid: tuple[int, int] = (4, 4)) -> Tensors:
    rows = 1 + grid[0] * grid[1]
    shapes = encoder_shapes(192, 12, 16, rows, cls=True) | decoder_shapes(192, 192, 4, 16, rows)
    return with_sincos(recipe(shapes), grid)


def tiny_classifier(grid: tuple[int, int] = (4, 4), patch: int = 16, cls: bool = True) -> Tensors:
    return recipe(encoder_shapes(192, 12, patch, cls + grid[0] * grid[1], cls))


def put(tree: Any, path: Path, new: bool = True) -> Path:
    torch.save(tree, path, _use_new_zipfile_serialization=new)
    return path


def pictures(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(3).standard_normal((2, 3, height, width)).astype(np.float32))


# --- our own files


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
    with pytest.raises(ValueError, match="not an absolute path"):
        dropmae.load(with_header(ours, out, name="../evil.py"))
    with pytest.raises(OSError, match="header is damaged"):
        dropmae.load(with_header(ours, out, kind="../tests"))


def test_a_users_own_method_comes_back_by_its_path(tmp_path: Path) -> None:
    source = tmp_path / "mymae.py"
    source.write_text(
        "from dataclasses import dataclass\nfrom dropmae.autoencoder import MaskedAutoencoder\n"
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


# --- public layouts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_name_table_reads_in_both_directions(layout: str) -> None:
    table = named(layout)
    shapes = {"dropmae": dropmae_shapes(192, 2, 192, 2, 17)}.get(layout, encoder_shapes(192, 2, 16, 17, cls=True))
    if layout == "mae":
        shapes |= decoder_shapes(192, 192, 2, 16, 17)
    if layout == "cropmae":
        shapes |= decoder_shapes(192, 192, 0, 16, 17)
        shapes |= {f"decoder_blocks.3.{name}": () for name in CropMAEBlock(8, 2).state_dict()}
    seen = set()
    for name in shapes:
        if name in table.positions.values():
            continue
        pieces = table.ours(name)
        assert pieces, name
        for mine, _ in pieces:
            assert table.theirs(mine) == name
            assert mine.split(".")[0] in ("encoder", "decoder")
            assert mine not in seen
            seen.add(mine)
    assert table.ours("optimizer.state") == ()
    assert table.theirs("head.weight") is None


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "rows"])
def test_dropmae_files_in_every_wrapping(prefix: str, new: bool, tmp_path: Path) -> None:
    plain = tiny_dropmae()
    tensors = {prefix + name: tensor for name, tensor in plain.items()}
    arguments = argparse.Namespace(norm_pix_loss=False, mask_ratio=0.5, out=pathlib.Path("/x"), best=np.float64(3.0))
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"params": [0]}]}
    trees = (
        {"model": tensors, "optimizer": optimizer, "args": arguments},
        {"state_dict": collections.OrderedDict(tensors)},
        {"net": tensors},
        tensors,
    )
    for tree in trees if not prefix else trees[:1]:
        convert(put(tree, tmp_path / "x.pth", new), tmp_path / "x.safetensors")
        made: Any = dropmae.load(tmp_path / "x.safetensors")
        assert type(made).__name__ == "DropMAE"
        assert made.grid == (4, 4)
        if "args" in tree:
            assert (made.norm_pix, made.mask_ratio) == (False, 0.5)
        back, left_out = official.from_module(made, named("dropmae"))
        assert not left_out
        assert back.keys() == plain.keys()
        assert all(torch.allclose(back[name], tensor, atol=1e-6, rtol=0) for name, tensor in plain.items())


def test_dropmae_without_a_decoder(tmp_path: Path) -> None:
    """As a tracker's code cuts it: every name with "decoder" in it is gone, the mask token is still there."""
    cut = {name: tensor for name, tensor in tiny_dropmae().items() if "decoder" not in name}
    report = convert(put({"model": cut}, tmp_path / "x.pth"), tmp_path / "x.safetensors")
    assert report["missing"] == ["decoder"]
    assert report["unexpected"] == ["mask_token"]
    made: Any = dropmae.load(tmp_path / "x.safetensors")
    assert made.encoder.features(pictures(64, 64)).shape == (2, 192, 4, 4)
    convert(tmp_path / "x.safetensors", tmp_path / "y.pth", to="dropmae")
    back = torch.load(tmp_path / "y.pth", weights_only=True)["model"]
    assert back.keys() == cut.keys() - {"mask_token"}


def test_mae_with_its_decoder(tmp_path: Path) -> None:
    plain = tiny_mae()
    convert(put({"model": plain}, tmp_path / "x.pth"), tmp_path / "x.safetensors")
    made: Any = dropmae.load(tmp_path / "x.safetensors")
    assert (type(made).__name__, made.cls, made.learned_positions) == ("MAE", True, 0)
    x = pictures(64, 64)
    hidden = masking.random_mask(torch.rand(2, 16, generator=torch.Generator().manual_seed(5)), 4)
    with torch.no_grad():
        torch.testing.assert_close(made.encoder.features(x), run_encoder(plain, x, 3), atol=2e-5, rtol=1e-4)
        prediction, _ = made.predict(x[:, None], torch.zeros(2, dtype=torch.int32), hidden)
        tokens = functional.conv2d(x, plain["patch_embed.proj.weight"], plain["patch_embed.proj.bias"], stride=16)
        tokens = tokens.flatten(2).transpose(1, 2) + plain["pos_embed"][:, 1:]
        kept = torch.stack([sample[index] for sample, index in zip(tokens, hidden.keep, strict=True)])
        kept = torch.cat([plain["cls_token"].expand(2, -1, -1), kept], 1)
        latent = run_blocks(plain, "blocks", kept, 3)
        latent = functional.layer_norm(latent, (192,), plain["norm.weight"], plain["norm.bias"], 1e-6)
        latent = latent @ plain["decoder_embed.weight"].T + plain["decoder_embed.bias"]
        filled = plain["mask_token"].expand(2, 17, -1).clone()
        filled[:, 0] = latent[:, 0]
        for sample in range(2):
            filled[sample, 1 + hidden.keep[sample]] = latent[sample, 1:]
        out = run_blocks(plain, "decoder_blocks", filled + plain["decoder_pos_embed"], 6)
        out = functional.layer_norm(out, (192,), plain["decoder_norm.weight"], plain["decoder_norm.bias"], 1e-6)
        expected = (out @ plain["decoder_pred.weight"].T + plain["decoder_pred.bias"])[:, 1:]
    torch.testing.assert_close(prediction, expected, atol=5e-5, rtol=1e-4)
    convert(tmp_path / "x.safetensors", tmp_path / "y.pth", to="mae")
    back = torch.load(tmp_path / "y.pth", weights_only=True)["model"]
    assert back.keys() == plain.keys()
    assert all(torch.allclose(back[name], tensor, atol=1e-6, rtol=0) for name, tensor in plain.items())


def test_a_bare_mae_encoder_is_told_by_its_positions(tmp_path: Path) -> None:
    plain = with_sincos(tiny_classifier((3, 5)), (3, 5))
    for kind in (torch.float32, torch.float16, torch.bfloat16):
        stored = {name: tensor.to(kind) for name, tensor in plain.items()}
        found = official.examine(put({"model": stored}, tmp_path / "x.pth"))
        assert (found.layout.name, found.grid, found.learned) == ("mae", (3, 5), False)
    made: Any = official.to_module(found)
    assert made.image == (48, 80)


@pytest.mark.parametrize(
    ("layout", "extra", "patch", "cls"),
    [
        ("dino", {}, 8, True),
        ("timm", {"head.weight": torch.zeros(10, 192), "head.bias": torch.zeros(10)}, 16, True),
        ("timm", {"head.weight": torch.zeros(10, 192)}, 16, False),
    ],
)
def test_classifiers_with_learned_positions(layout: str, extra: Tensors, patch: int, cls: bool, tmp_path: Path) -> None:
    plain = tiny_classifier((4, 4), patch, cls)
    report = convert(put({**plain, **extra}, tmp_path / "x.pth"), tmp_path / "x.safetensors")
    assert report["layout"] == layout
    assert report["unexpected"] == sorted(extra)
    assert report["missing"] == ["decoder"]
    made: Any = dropmae.load(tmp_path / "x.safetensors")
    assert (made.learned_positions, made.patch, made.cls) == (4, patch, cls)
    x = pictures(4 * patch, 4 * patch)
    with torch.no_grad():
        torch.testing.assert_close(made.encoder.features(x), run_encoder(plain, x, 3), atol=2e-5, rtol=1e-4)
        # another grid: the table is resized as a picture, the class token's row is not
        wider = dict(plain)
        table = plain["pos_embed"][:, -16:].transpose(1, 2).reshape(1, 192, 4, 4)
        table = functional.interpolate(table, (3, 6), mode="bicubic", align_corners=False)
        wider["pos_embed"] = torch.cat([plain["pos_embed"][:, :-16], table.flatten(2).transpose(1, 2)], 1)
        x = pictures(3 * patch, 6 * patch)
        torch.testing.assert_close(made.encoder.features(x), run_encoder(wider, x, 3), atol=2e-5, rtol=1e-4)
    convert(tmp_path / "x.safetensors", tmp_path / "y.pth", to=layout)
    back = torch.load(tmp_path / "y.pth", weights_only=True)
    assert back.keys() == plain.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in plain.items())
    convert(tmp_path / "x.safetensors", tmp_path / "z.safetensors", to=layout, image=(3 * patch, 6 * patch))
    resized = safetensors.torch.load_file(tmp_path / "z.safetensors")
    torch.testing.assert_close(resized["pos_embed"], wider["pos_embed"])


def test_learned_positions_that_are_not_square(tmp_path: Path) -> None:
    path = put(tiny_classifier((2, 6)), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"12 positions is not square, say --image"):
        convert(path, tmp_path / "x.safetensors")
    convert(path, tmp_path / "x.safetensors", image=(32, 96))
    made: Any = dropmae.load(tmp_path / "x.safetensors")
    assert (made.learned_positions, made.image) == ((2, 6), (32, 96))


def test_fixed_positions_are_written_for_any_grid(ours: Path, tmp_path: Path) -> None:
    convert(ours, tmp_path / "x.pth", to="dropmae", image=(96, 32))
    table = torch.load(tmp_path / "x.pth", weights_only=True)["model"]["pos_embed"]
    expected = with_sincos({"pos_embed": torch.zeros(1, 13, 192)}, (6, 2))["pos_embed"]
    torch.testing.assert_close(table, expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="multiple of the 16-pixel patch"):
        convert(ours, tmp_path / "x.pth", to="dropmae", image=50)


def test_dino_training_files_give_the_teacher(tmp_path: Path) -> None:
    student, teacher = tiny_classifier(), {n: t + 1 for n, t in tiny_classifier().items()}
    head = {"head.mlp.0.weight": torch.zeros(3, 192)}
    tree = {
        "student": {f"module.backbone.{n}": t for n, t in student.items()}
        | {f"module.{n}": t for n, t in head.items()},
        "teacher": {f"backbone.{n}": t for n, t in teacher.items()} | head,
        "args": argparse.Namespace(arch="vit_tiny"),
    }
    path = put(tree, tmp_path / "x.pth")
    report = convert(path, tmp_path / "x.safetensors")
    assert (report["entry"], report["unexpected"]) == ("teacher.backbone", ["head.mlp.0.weight"])
    made = dropmae.load(tmp_path / "x.safetensors").state_dict()
    assert torch.equal(made["encoder.norm.weight"], teacher["norm.weight"])
    convert(path, tmp_path / "x.safetensors", entry="student")
    made = dropmae.load(tmp_path / "x.safetensors").state_dict()
    assert torch.equal(made["encoder.norm.weight"], student["norm.weight"])
    with pytest.raises(ValueError, match=r"several encoders, choose one with --entry: a, b"):
        convert(put({"a": student, "b": teacher}, path), tmp_path / "x.safetensors")


class CropMAEBlock(nn.Module):
    """A decoder block with CropMAE's parts, under its names."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, 2048), nn.Linear(2048, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))

    def forward(self, future: torch.Tensor, past: torch.Tensor) -> torch.Tensor:
        x = self.norm2(future + self.multihead_attn(future, past, past)[0])
        x = self.norm3(x + self.linear2(functional.gelu(self.linear1(x))))
        return self.norm1(x + self.self_attn(x, x, x)[0])


def test_cropmae_with_its_decoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    blocks = nn.ModuleList(CropMAEBlock(64, 4) for _ in range(3)).eval()
    for vector in (p for p in blocks.parameters() if p.ndim == 1):
        nn.init.normal_(vector, std=0.2)
    decoder = with_sincos(recipe(decoder_shapes(192, 64, 0, 16, 17)), (4, 4))
    decoder |= {f"decoder_blocks.{name}": tensor for name, tensor in blocks.state_dict().items()}
    plain = with_sincos(tiny_classifier(), (4, 4)) | decoder
    arguments = argparse.Namespace(decoder_num_heads=4, masking_ratio=0.75, norm_pix_loss=True)
    report = convert(put({"model": plain, "args": arguments}, tmp_path / "x.pth"), tmp_path / "x.safetensors")
    assert (report["layout"], report["missing"], report["unexpected"]) == ("cropmae", [], [])
    made: Any = dropmae.load(tmp_path / "x.safetensors")
    assert (type(made).__name__, made.mask_ratio, made.decoder_heads) == ("SiamMAE", 0.75, 4)
    x = pictures(64, 64)
    with torch.no_grad():
        key = torch.zeros(2, dtype=torch.int32)
        mask = made.hide(key, (4, 4))
        prediction, _ = made.predict(torch.stack([x, x.flip(3)], 1), key, mask)
        latents = made.encode(torch.stack([x, x.flip(3)], 1), mask, (4, 4))
        latents = latents @ plain["decoder_embed.weight"].T + plain["decoder_embed.bias"]
        past, future = latents[:, :17], latents[:, 17:]
        filled = plain["mask_token"].expand(2, 17, -1).clone()
        filled[:, 0] = future[:, 0]
        for sample in range(2):
            filled[sample, 1 + mask.keep[sample, 16:] - 16] = future[sample, 1:]
        filled += plain["decoder_pos_embed"]
        for block in blocks:
            filled = block(filled, past)
        out = functional.layer_norm(filled, (64,), plain["decoder_norm.weight"], plain["decoder_norm.bias"], 1e-6)
        expected = (out @ plain["decoder_pred.weight"].T + plain["decoder_pred.bias"])[:, 1:]
    torch.testing.assert_close(prediction[:, 16:], expected, atol=2e-5, rtol=1e-4)
    convert(tmp_path / "x.safetensors", tmp_path / "y.pth", to="cropmae")
    back = torch.load(tmp_path / "y.pth", weights_only=True)["model"]
    assert back.keys() == plain.keys()
    assert all(torch.allclose(back[name], tensor, atol=1e-6, rtol=0) for name, tensor in plain.items())
    weights.save(small("siammae"), tmp_path / "z.safetensors")
    with pytest.raises(ValueError, match="a decoder of the cropmae layout has order 'cross-mlp-self'"):
        convert(tmp_path / "z.safetensors", tmp_path / "y.pth", to="cropmae")
    with pytest.raises(ValueError, match=r"the mae layout has no place for decoder\.blocks\.0\."):
        convert(tmp_path / "z.safetensors", tmp_path / "y.pth", to="mae")
    convert(tmp_path / "z.safetensors", tmp_path / "y.pth", to="cropmae", encoder_only=True)


def test_other_models_are_refused_by_name(tmp_path: Path) -> None:
    out, plain = tmp_path / "x.safetensors", tiny_classifier()
    refusals = {
        "blocks.0.ls1.gamma": {**plain, "blocks.0.ls1.gamma": torch.ones(192)},
        "reg_token": {**plain, "reg_token": torch.zeros(1, 4, 192)},
        "dist_token": {**plain, "dist_token": torch.zeros(1, 1, 192), "head.weight": torch.zeros(2, 192)},
        r"lacks norm\.bias, norm\.weight": {n: t for n, t in plain.items() if not n.startswith("norm.")},
        r"lacks blocks\.3\.mlp\.fc1\.bias": {n: t for n, t in plain.items() if n != "blocks.3.mlp.fc1.bias"},
        "none of the sizes: tiny 192 x 12": {n: t for n, t in plain.items() if not n.startswith("blocks.11.")},
        r"norm\.weight is 100, and MAE of these fields needs 192": {**plain, "norm.weight": torch.ones(100)},
        "patch embedding is 192x1x16x16": {**plain, "patch_embed.proj.weight": torch.zeros(192, 1, 16, 16)},
        "holds no encoder": {"conv1.weight": torch.zeros(3)},
        "lacks pos_embed": {n: t for n, t in plain.items() if n != "pos_embed"},
        r"decoder_embed\.bias is 256.*--encoder-only": {**tiny_mae(), "decoder_embed.bias": torch.zeros(256)},
        r"decoder's positions are not.*--encoder-only": {**tiny_mae(), "decoder_pos_embed": torch.ones(1, 17, 192)},
    }
    for pattern, tree in refusals.items():
        with pytest.raises(ValueError, match=pattern):
            convert(put(tree, tmp_path / "x.pth"), out)
        assert not out.exists()
    convert(tmp_path / "x.pth", out, encoder_only=True)


def test_a_layout_without_a_place_is_an_error(ours: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.pth"
    with pytest.raises(ValueError, match=r"the mae layout has encoder\.cls_token, and these weights have not"):
        convert(ours, out, to="mae")
    with pytest.raises(ValueError, match=r"no place for encoder\.frame_embed"):
        convert(ours, out, to="timm")
    with pytest.raises(ValueError, match="not a layout of public checkpoints: dropmae, "):
        convert(ours, out, to="nothing")
    with pytest.raises(ValueError, match=r"end in \.safetensors"):
        convert(ours, out)
    with pytest.raises(ValueError, match="same file"):
        convert(ours, ours)
    assert not out.exists()


# --- hostile and damaged pickles


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


# --- the verbs


def test_convert_on_the_command_line(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = put(tiny_classifier((2, 6)), tmp_path / "x.pth"), tmp_path / "x.safetensors"
    assert main(["convert", str(path), str(out)]) == 2
    assert main(["convert", str(path), str(out), "--image", "32", "96", "--half", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["fields"]["image"] == [32, 96]
    assert "licence of the weights: DINO: Apache-2.0" in printed.err
    before = out.read_bytes()
    put({"model": attacks(trace)["system"]}, path)
    assert main(["convert", str(path), str(out)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "refused" in error
    assert out.read_bytes() == before


def test_info_says_what_a_file_is(module: Any, ours: Path, tmp_path: Path) -> None:
    found = info(ours)
    assert (found["kind"], found["class"], found["precision"]) == ("weights", "dropmae", "F32")
    assert found["parameters"]["encoder"] == sum(p.numel() for p in module.encoder.parameters())
    assert found["training"] == {"steps": 7}
    found = info(put({"model": tiny_mae(), "epoch": 3}, tmp_path / "x.pth"))
    assert (found["kind"], found["layout"], found["entry"], found["grid"]) == ("checkpoint", "mae", "model", [4, 4])
    assert found["training"] == {"epoch": 3}
    found = info(put({"a": {"b": torch.zeros(3)}}, tmp_path / "x.pth"))
    assert (found["layout"], found["entries"]) == (None, {"a": 3})
    assert "no encoder" in found["obstacle"]
    json.dumps(found, allow_nan=False)


def test_info_says_what_a_folder_is(module: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"method": "dropmae", "fields": {"size": "tiny"}}))
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo')
    weights.save(module, run / "last.safetensors")
    found = info(run)
    assert (found["kind"], found["method"], found["last"]) == ("run", "dropmae", {"step": 2, "loss": 1.5})
    assert found["weights"]["class"] == "dropmae"
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("a", "b"):
        np.save(videos / f"{name}.npy", np.zeros((4, 24, 32, 3), np.uint8))
    found = info(videos / "a.npy")
    assert (found["kind"], found["frames"], found["height"], found["width"]) == ("video", 4, 24, 32)
    (videos / "c.mp4").write_text("no video")
    found = info(videos)
    assert (found["kind"], found["videos"], len(found["probed"])) == ("folder", 3, 2)
    assert list(found["unreadable"]) == ["c.mp4"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no run, video or frames"):
        info(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no such file"):
        info(tmp_path / "nothing")
