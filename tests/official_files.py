"""Makes checkpoints as public training code writes them, from nothing but the names and shapes, and runs them.

The forward pass here is written apart from the package, straight over the public names, so that a translation error
cannot hide in code that both sides share.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Tensors = dict[str, Tensor]


def block_shapes(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, rows, columns in (
        ("attn.qkv", 3 * width, width),
        ("attn.proj", width, width),
        ("mlp.fc1", 4 * width, width),
        ("mlp.fc2", width, 4 * width),
    ):
        shapes[f"{prefix}.{name}.weight"] = (rows, columns)
        shapes[f"{prefix}.{name}.bias"] = (rows,)
    for name in ("norm1", "norm2"):
        shapes[f"{prefix}.{name}.weight"] = shapes[f"{prefix}.{name}.bias"] = (width,)
    return shapes


def encoder_shapes(width: int, depth: int, patch: int, rows: int, cls: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, rows, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    if cls:
        shapes["cls_token"] = (1, 1, width)
    for i in range(depth):
        shapes |= block_shapes(f"blocks.{i}", width)
    return shapes


def decoder_shapes(encoder_width: int, width: int, depth: int, patch: int, rows: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "mask_token": (1, 1, width),
        "decoder_pos_embed": (1, rows, width),
        "decoder_embed.weight": (width, encoder_width),
        "decoder_embed.bias": (width,),
        "decoder_norm.weight": (width,),
        "decoder_norm.bias": (width,),
        "decoder_pred.weight": (patch * patch * 3, width),
        "decoder_pred.bias": (patch * patch * 3,),
    }
    for i in range(depth):
        shapes |= block_shapes(f"decoder_blocks.{i}", width)
    return shapes


def dropmae_shapes(
    width: int = 768, depth: int = 12, decoder_width: int = 512, decoder_depth: int = 8, rows: int = 197
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official DropMAE model; 257 of them at its own size."""
    shapes = encoder_shapes(width, depth, 16, rows, cls=False)
    shapes |= decoder_shapes(width, decoder_width, decoder_depth, 16, rows)
    for frame in "xz":
        shapes[f"temporal_pos_embed_{frame}"] = (1, 1, width)
        shapes[f"decoder_temporal_pos_embed_{frame}"] = (1, 1, decoder_width)
    return shapes


def sincos(height: int, width: int, channels: int) -> Tensor:
    """[1, 1 + h w, C]: the fixed table with its row of zeros, one number at a time."""
    table = np.zeros((1, 1 + height * width, channels))
    quarter = channels // 4
    for row in range(height):
        for column in range(width):
            for k in range(quarter):
                rate = 10000 ** (-k / quarter)
                place = table[0, 1 + row * width + column]
                place[k], place[quarter + k] = math.sin(column * rate), math.cos(column * rate)
                place[2 * quarter + k], place[3 * quarter + k] = math.sin(row * rate), math.cos(row * rate)
    return torch.from_numpy(table.astype(np.float32))


def recipe(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    """Weights from the names alone: name i of the sorted ones is drawn from seed i, scaled to keep activations sane."""
    made: Tensors = {}
    for i, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        a = np.random.RandomState(i).standard_normal(shape).astype(np.float32)
        if a.ndim == 1:
            a = 1 + 0.1 * a if name.endswith("weight") else 0.05 * a
        else:
            a = 0.2 * a if a.ndim == 3 else a / np.sqrt(np.prod(shape[1:]))
        made[name] = torch.from_numpy(np.asarray(a, np.float32))
    return made


def with_sincos(tensors: Tensors, grid: tuple[int, int]) -> Tensors:
    """The same tensors with fixed tables in the place of the drawn ones."""
    tables = {n: sincos(*grid, t.shape[2]) for n, t in tensors.items() if n in ("pos_embed", "decoder_pos_embed")}
    return tensors | tables


def run_blocks(tensors: Tensors, prefix: str, x: Tensor, heads: int) -> Tensor:
    """All blocks named `prefix`.0, `prefix`.1, ... over tokens [B, L, C]."""
    width = x.shape[-1]

    def normed(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (width,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    i = 0
    while f"{prefix}.{i}.norm1.weight" in tensors:
        name = f"{prefix}.{i}"
        q, k, v = linear(normed(x, f"{name}.norm1"), f"{name}.attn.qkv").split(width, dim=-1)
        heads_out = []
        for h in range(heads):
            part = slice(h * width // heads, (h + 1) * width // heads)
            share = (q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width // heads)).softmax(-1)
            heads_out.append(share @ v[..., part])
        x = x + linear(torch.cat(heads_out, -1), f"{name}.attn.proj")
        x = x + linear(functional.gelu(linear(normed(x, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
        i += 1
    return x


def run_encoder(tensors: Tensors, pictures: Tensor, heads: int) -> Tensor:
    """[B, C, h, w] of normalised pictures [B, 3, H, W], as classifiers compute their last tokens, class token first."""
    patch = tensors["patch_embed.proj.weight"].shape[-1]
    x = functional.conv2d(pictures, tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"], stride=patch)
    h, w = x.shape[-2:]
    x = x.flatten(2).transpose(1, 2)
    if "cls_token" in tensors:
        x = torch.cat([tensors["cls_token"].expand(len(x), -1, -1), x], 1)
    x = run_blocks(tensors, "blocks", x + tensors["pos_embed"], heads)
    x = functional.layer_norm(x, (x.shape[-1],), tensors["norm.weight"], tensors["norm.bias"], 1e-6)
    return x[:, -h * w :].transpose(1, 2).unflatten(2, (h, w))


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
