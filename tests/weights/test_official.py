"""Public layouts, read and written: every wrapping, the same results as code that knows only the public names."""

from __future__ import annotations

import argparse
import collections
import pathlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

import dropmae
from dropmae import registry, weights
from dropmae.nn import masking
from dropmae.verbs.convert import convert
from dropmae.weights import foreign, official
from dropmae.weights.layouts import LAYOUTS, named
from official_files import (
    Tensors,
    decoder_shapes,
    dropmae_shapes,
    encoder_shapes,
    pictures,
    put,
    recipe,
    run_blocks,
    run_encoder,
    tiny_classifier,
    tiny_dropmae,
    tiny_mae,
    with_sincos,
)


@pytest.fixture
def module() -> Any:
    return registry.load("methods", "dropmae")(size="tiny", image=64).eval()


@pytest.fixture
def ours(module: Any, tmp_path: Path) -> Path:
    weights.save(module, tmp_path / "w.safetensors", {"training": {"steps": 7}})
    return tmp_path / "w.safetensors"


MAES_NAMES = [
    name
    for name, table in LAYOUTS.items()
    if table.kind == "methods" and "blocks.*.norm1.*" in dict(table.pairs).values()
]
"""Layouts with MAE's names of an encoder; the others are in test_encoders.py."""


@pytest.mark.parametrize("layout", [name for name in MAES_NAMES if not named(name).stacks])
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
        found = foreign.examine(put({"model": stored}, tmp_path / "x.pth"))
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
    weights.save(registry.load("methods", "siammae")(size="tiny", image=64), tmp_path / "z.safetensors")
    with pytest.raises(ValueError, match="a decoder of the cropmae layout has order 'cross-mlp-self'"):
        convert(tmp_path / "z.safetensors", tmp_path / "y.pth", to="cropmae")
    with pytest.raises(ValueError, match=r"the mae layout has no place for decoder\.blocks\.0\."):
        convert(tmp_path / "z.safetensors", tmp_path / "y.pth", to="mae")
    convert(tmp_path / "z.safetensors", tmp_path / "y.pth", to="cropmae", encoder_only=True)


def test_other_models_are_refused_by_name(tmp_path: Path) -> None:
    out, plain = tmp_path / "x.safetensors", tiny_classifier()
    refusals = {
        r"lacks blocks\.1\.ls1\.gamma": {**plain, "blocks.0.ls1.gamma": torch.ones(192)},
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


@pytest.mark.parametrize("layout", ["timm", "mae", "dino"])
def test_an_encoder_of_pairs_as_one_of_pictures(ours: Path, module: Any, layout: str, tmp_path: Path) -> None:
    report = convert(ours, tmp_path / "x.pth", to=layout)
    assert "the identity of frame x is added" in report["notes"][0]
    assert any(name.startswith("decoder.") for name in report["left_out"])
    read = torch.load(tmp_path / "x.pth", weights_only=True)
    plain = read if named(layout).entry is None else read[named(layout).entry]
    assert not any("decoder" in name or "temporal" in name for name in plain)
    frames = pictures(64, 64)
    expected, found = module.encoder.features(frames), run_encoder(plain, frames, 3)
    if layout == "timm":
        assert "cls_token" not in plain
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    else:
        assert not plain["cls_token"].any()
        assert not plain["pos_embed"][:, 0].any()
        # The class token takes part in attention, and nothing in such a file can keep it from that.
        assert 0.9 < functional.cosine_similarity(found, expected).min() < 1
        assert "class token is new and zero" in report["notes"][1]
    assert convert(tmp_path / "x.pth", tmp_path / "back.safetensors")["class"] == "mae"
    again = dropmae.load(tmp_path / "back.safetensors").encoder.features(frames)
    torch.testing.assert_close(again, found, atol=2e-5, rtol=1e-4)


def test_a_layout_without_a_place_is_an_error(ours: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.pth"
    weights.save(registry.load("methods", "mae")(size="tiny", image=64, cls=False), tmp_path / "mae.safetensors")
    with pytest.raises(ValueError, match=r"the mae layout has encoder\.cls_token, and these weights have not"):
        convert(tmp_path / "mae.safetensors", out, to="mae")
    with pytest.raises(ValueError, match=r"not a layout of public checkpoints: .*dropmae, "):
        convert(ours, out, to="nothing")
    with pytest.raises(ValueError, match=r"end in \.safetensors"):
        convert(ours, out)
    with pytest.raises(ValueError, match="what this reads"):
        convert(ours, ours)
    assert not out.exists()


@pytest.mark.parametrize("name", ["filters", "flow", "lidar"])
def test_a_task_without_an_encoder_of_pictures_fits_no_layout(name: str, tmp_path: Path) -> None:
    for layout in ("timm", "mae", "dino"):
        with pytest.raises(ValueError, match=f"the {layout} layout is of an encoder of pictures, and .* holds none"):
            convert(Path(f"shipped:{name}"), tmp_path / "x.pth", to=layout)
    assert not (tmp_path / "x.pth").exists()
