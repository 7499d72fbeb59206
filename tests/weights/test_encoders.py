"""Public encoders that are no plain ViT of MAE's names: each layout beside a forward pass over its own names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

import dropmae
from dropmae import weights
from dropmae.verbs.convert import convert
from official_files import Tensors, pictures, put, recipe

WIDTH, DEPTH, PATCH = 192, 12, 16


@dataclass
class Model:
    """How a family of encoders names its tensors and computes; NAME of block i is `block(i) + names[NAME]`."""

    names: dict[str, str]
    block: Callable[[int], str]
    patch: str = "patch_embed.proj"
    cls: str = "cls_token"
    positions: str = "pos_embed"
    norm: str = "norm"
    pre_norm: str = ""
    epsilon: float = 1e-6
    quick: bool = False
    heads: int = 3
    scales: tuple[str, str] | None = None
    rest: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """More tensors of such files, without use here."""

    def shapes(self, rows: int) -> dict[str, tuple[int, ...]]:
        """What a file of this family holds, `rows` positions with the class token's."""
        made = {
            f"{self.patch}.weight": (WIDTH, 3, PATCH, PATCH),
            f"{self.patch}.bias": (WIDTH,),
            self.cls: (1, 1, WIDTH),
            self.positions: (1, rows, WIDTH),
            **self.rest,
        }
        for name in (self.norm, self.pre_norm):
            made |= {f"{name}.{kind}": (WIDTH,) for kind in ("weight", "bias") if name}
        sizes = {"norm1": (), "norm2": (), "q": (1, 1), "k": (1, 1), "v": (1, 1), "qkv": (3, 1)}
        sizes |= {"proj": (1, 1), "fc1": (4, 1), "fc2": (1, 4)}
        for i in range(DEPTH):
            for name, own in self.names.items():
                dot = "_" if own.endswith("in_proj") else "."
                rows, *columns = (WIDTH * factor for factor in sizes[name] or (1,))
                made[f"{self.block(i)}{own}{dot}weight"] = (rows, *columns)
                made[f"{self.block(i)}{own}{dot}bias"] = (rows,)
            for own in self.scales or ():
                made[f"{self.block(i)}{own}"] = (WIDTH,)
        return made

    def run(self, tensors: Tensors, images: Tensor, bias: Callable[[int], Tensor] | None = None) -> Tensor:
        """[B, C, h, w] of normalised pictures [B, 3, H, W]."""

        def normed(x: Tensor, name: str) -> Tensor:
            mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
            return (x - mean) / (variance + self.epsilon).sqrt() * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

        def linear(x: Tensor, i: int, name: str) -> Tensor:
            own = self.block(i) + self.names[name]
            dot = "_" if own.endswith("in_proj") else "."
            return x @ tensors[f"{own}{dot}weight"].T + tensors[f"{own}{dot}bias"]

        def scaled(x: Tensor, i: int, which: int) -> Tensor:
            return x * tensors[self.block(i) + self.scales[which]] if self.scales else x

        x = functional.conv2d(images, tensors[f"{self.patch}.weight"], tensors.get(f"{self.patch}.bias"), stride=PATCH)
        h, w = x.shape[-2:]
        x = torch.cat([tensors[self.cls].reshape(1, 1, -1).expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        if self.positions in tensors:
            x = x + tensors[self.positions]
        x = normed(x, self.pre_norm) if self.pre_norm else x
        for i in range(DEPTH):
            y = normed(x, self.block(i) + self.names["norm1"])
            if "qkv" in self.names:
                q, k, v = linear(y, i, "qkv").chunk(3, -1)
            else:
                q, k, v = (linear(y, i, part) for part in "qkv")
            q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
            logits = q @ k.transpose(2, 3) / math.sqrt(WIDTH // self.heads)
            logits = logits if bias is None else logits + bias(i)
            x = x + scaled(linear((logits.softmax(-1) @ v).transpose(1, 2).flatten(2), i, "proj"), i, 0)
            y = linear(normed(x, self.block(i) + self.names["norm2"]), i, "fc1")
            y = y / (1 + torch.exp(-1.702 * y)) if self.quick else functional.gelu(y)
            x = x + scaled(linear(y, i, "fc2"), i, 1)
        return normed(x, self.norm)[:, 1:].transpose(1, 2).unflatten(2, (h, w))


TIMM = {"norm1": "norm1", "qkv": "attn.qkv", "proj": "attn.proj", "norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
APART = {part: f"attention.attention.{name}" for part, name in zip("qkv", ("query", "key", "value"))}
TRANSFORMERS: dict[str, Any] = {
    "patch": "embeddings.patch_embeddings.projection",
    "cls": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "norm": "layernorm",
    "block": lambda i: f"encoder.layer.{i}.",
}
CLIP: dict[str, Any] = {
    "names": {
        "norm1": "ln_1",
        "qkv": "attn.in_proj",
        "proj": "attn.out_proj",
        "norm2": "ln_2",
        "fc1": "mlp.c_fc",
        "fc2": "mlp.c_proj",
    },
    "block": lambda i: f"transformer.resblocks.{i}.",
    "patch": "conv1",
    "cls": "class_embedding",
    "positions": "positional_embedding",
    "norm": "ln_post",
    "pre_norm": "ln_pre",
    "epsilon": 1e-5,
    "rest": {"proj": (WIDTH, 64)},
}
MODELS = {
    "dinov2": Model(TIMM, lambda i: f"blocks.{i}.", scales=("ls1.gamma", "ls2.gamma"), rest={"mask_token": (1, WIDTH)}),
    "dinov2-transformers": Model(
        {
            **APART,
            "norm1": "norm1",
            "proj": "attention.output.dense",
            "norm2": "norm2",
            "fc1": "mlp.fc1",
            "fc2": "mlp.fc2",
        },
        scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
        **TRANSFORMERS,
    ),
    "transformers": Model(
        {
            **APART,
            "norm1": "layernorm_before",
            "proj": "attention.output.dense",
            "norm2": "layernorm_after",
            "fc1": "intermediate.dense",
            "fc2": "output.dense",
        },
        epsilon=1e-12,
        rest={"pooler.dense.weight": (WIDTH, WIDTH)},
        **TRANSFORMERS,
    ),
    "clip": Model(quick=True, **CLIP),
    "openclip": Model(**CLIP),
    "mocov3": Model(
        TIMM,
        lambda i: f"blocks.{i}.",
        rest={"head.0.weight": (64, WIDTH), "head.4.weight": (64, 64)},
    ),
    "timm": Model(TIMM, lambda i: f"blocks.{i}.", rest={"head.weight": (10, WIDTH), "head.bias": (10,)}),
}


def made(layout: str) -> Tensors:
    """Tensors of a 4x4 grid by the names of a layout, layer scale far from one, CLIP's first ones without a batch."""
    model = MODELS[layout]
    tensors = recipe(model.shapes(17))
    for i in range(DEPTH):
        for number, own in enumerate(model.scales or ()):
            tensors[model.block(i) + own] = torch.linspace(-0.4, 0.9 + i / 9, WIDTH).roll(number)
    if model.pre_norm:
        del tensors["conv1.bias"]
        tensors |= {name: tensors[name].flatten(0, 1) for name in (model.positions,)}
        tensors |= {model.cls: tensors[model.cls].flatten()}
    return tensors


@pytest.mark.parametrize(
    ("layout", "lead", "entry"),
    [
        ("dinov2", "", None),
        ("dinov2", "module.", "model"),
        ("dinov2-transformers", "", None),
        ("dinov2-transformers", "dinov2.", None),
        ("transformers", "", None),
        ("transformers", "vit.", None),
        ("clip", "visual.", None),
        ("openclip", "visual.", "state_dict"),
        ("mocov3", "module.base_encoder.", "state_dict"),
        ("timm", "", None),
    ],
)
def test_features_are_those_of_the_public_names(layout: str, lead: str, entry: str | None, tmp_path: Path) -> None:
    model, plain = MODELS[layout], made(layout)
    tensors = {f"{lead}{name}": tensor for name, tensor in plain.items()}
    if lead == "visual.":
        tensors["transformer.resblocks.0.ln_1.weight"] = torch.ones(64)  # the text's
    if lead == "module.base_encoder.":
        tensors |= {f"module.momentum_encoder.{name}": -tensor for name, tensor in plain.items()}
    source = put(tensors if entry is None else {entry: tensors}, tmp_path / "x.pth")
    report = convert(source, tmp_path / "x.safetensors", layout="openclip" if layout == "openclip" else None)
    assert report["layout"] == layout
    encoder = dropmae.load(tmp_path / "x.safetensors").encoder
    images = pictures(64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder.features(images), model.run(plain, images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", ["dinov2", "dinov2-transformers", "transformers", "mocov3"])
def test_a_public_layout_is_written_back(layout: str, tmp_path: Path) -> None:
    convert(put(made(layout), tmp_path / "x.pth"), tmp_path / "x.safetensors", layout=layout)
    convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors", to=layout)
    again = safetensors.torch.load_file(tmp_path / "y.safetensors")
    assert again.keys() == {name for name in made(layout) if name not in MODELS[layout].rest}
    images = pictures(64, 64)
    with torch.no_grad():
        expected = dropmae.load(tmp_path / "x.safetensors").encoder.features(images)
        torch.testing.assert_close(MODELS[layout].run(again, images), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("absolute", [False, True])
def test_beit(shared: bool, absolute: bool, tmp_path: Path) -> None:
    model = Model(TIMM, lambda i: f"blocks.{i}.", scales=("gamma_1", "gamma_2"))
    tensors = recipe(model.shapes(17))
    if not absolute:
        del tensors["pos_embed"]
    generator = torch.Generator().manual_seed(1)
    tables = [torch.randn(7 * 7 + 3, 3, generator=generator) for _ in range(1 if shared else DEPTH)]
    names = ["rel_pos_bias."] if shared else [f"blocks.{i}.attn." for i in range(DEPTH)]
    public = dict(tensors)
    for name, table in zip(names, tables):
        public[f"{name}relative_position_bias_table"] = table
        public[f"{name}relative_position_index"] = torch.zeros(17, 17, dtype=torch.int64)
    for i in range(DEPTH):
        whole = tensors[f"blocks.{i}.attn.qkv.bias"]
        whole[WIDTH : 2 * WIDTH] = 0
        del public[f"blocks.{i}.attn.qkv.bias"]
        public[f"blocks.{i}.attn.q_bias"], _, public[f"blocks.{i}.attn.v_bias"] = whole.chunk(3)

    def bias(layer: int) -> Tensor:
        table = tables[0 if shared else layer]
        out = torch.zeros(3, 17, 17)
        for a in range(17):
            for b in range(17):
                (ya, xa), (yb, xb) = divmod(a - 1, 4), divmod(b - 1, 4)
                row = (ya - yb + 3) * 7 + xa - xb + 3
                row = 51 if a == b == 0 else 49 if a == 0 else 50 if b == 0 else row
                out[:, a, b] = table[row]
        return out

    source = put({"model": public}, tmp_path / "x.pth")
    assert convert(source, tmp_path / "x.safetensors")["layout"] == "beit"
    encoder = dropmae.load(tmp_path / "x.safetensors").encoder
    images = pictures(64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder.features(images), model.run(tensors, images, bias), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="4x4 grid"):
        encoder.features(pictures(64, 96))
    with pytest.raises(ValueError, match="4x4 grid: they are not for pictures of 5x5"):
        convert(source, tmp_path / "y.safetensors", image=80)
    with pytest.raises(ValueError, match="only read"):
        convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors", to="beit")


def test_what_has_no_place_is_refused_in_one_line(tmp_path: Path) -> None:
    def refused(layout: str, match: str, **change: Tensor | None) -> None:
        tensors = {**made(layout), **{name.replace("__", "."): tensor for name, tensor in change.items()}}
        source = put({n: t for n, t in tensors.items() if t is not None}, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=match) as error:
            convert(source, tmp_path / "out.safetensors")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out.safetensors").exists()

    refused("dinov2", "depends on register_tokens", register_tokens=torch.zeros(1, 4, WIDTH))
    refused("dinov2-transformers", "register_tokens", embeddings__register_tokens=torch.zeros(1, 4, WIDTH))
    refused("dinov2", r"lacks blocks\.5\.ls2\.gamma", blocks__5__ls2__gamma=None)
    refused("transformers", "lacks .*attention.query.weight", encoder__layer__3__attention__attention__key__weight=None)
    refused("clip", "lacks ln_pre.bias", ln_pre__bias=None)


def test_foreign_forms_are_no_start_for_trackers(tmp_path: Path) -> None:
    convert(put(made("clip"), tmp_path / "x.pth"), tmp_path / "x.safetensors", image=64)
    from dropmae.tasks.vot import VOT
    from dropmae.verbs.finetune import take_over

    with pytest.raises(ValueError, match="of form clip"):
        take_over(VOT(size="tiny", image=64), tmp_path / "x.safetensors")


def test_the_real_file(test_data: Path, tmp_path: Path) -> None:
    source = test_data / "weights" / "dinov2_vits14_fp16.safetensors"
    report = convert(source, tmp_path / "x.safetensors")
    assert (report["layout"], report["fields"]["size"], report["fields"]["patch"]) == ("dinov2", "small", 14)
    assert weights.read_header(tmp_path / "x.safetensors")["licence"].startswith("DINOv2: Apache-2.0")
    tensors = {name: tensor.float() for name, tensor in safetensors.torch.load_file(source).items()}
    images = pictures(518, 518)[:1]
    encoder = dropmae.load(tmp_path / "x.safetensors").encoder

    def normed(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (384,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    with torch.no_grad():
        x = functional.conv2d(
            images, tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"], stride=14
        ).flatten(2)
        x = torch.cat([tensors["cls_token"], x.transpose(1, 2)], 1) + tensors["pos_embed"]
        for i in range(12):
            packed = linear(normed(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
            q, k, v = (part.unflatten(-1, (6, 64)).transpose(1, 2) for part in packed.chunk(3, -1))
            share = (q @ k.transpose(2, 3) / 8).softmax(-1) @ v
            share = linear(share.transpose(1, 2).flatten(2), f"blocks.{i}.attn.proj")
            x = x + share * tensors[f"blocks.{i}.ls1.gamma"]
            y = linear(
                functional.gelu(linear(normed(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")), f"blocks.{i}.mlp.fc2"
            )
            x = x + y * tensors[f"blocks.{i}.ls2.gamma"]
        expected = normed(x, "norm")[:, 1:].transpose(1, 2).unflatten(2, (37, 37))
        torch.testing.assert_close(encoder.features(images), expected, atol=1e-4, rtol=1e-4)
