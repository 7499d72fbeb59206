"""Public checkpoints <-> our modules: what a file holds, and the translation of names and position tables.

DropMAE, MAE, CropMAE, DINO, DeiT and timm share one encoder and differ in names, class token and positions.
`foreign.examine` says what a file is, `to_module` makes one of our classes of it, `from_module` gives a module's
weights in a public layout.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dropmae import registry, weights
from dropmae.weights.foreign import Checkpoint, Grid, Image, Lazy, fixed_grid, grid_of
from dropmae.weights.layouts import Layout


def to_module(found: Checkpoint, *, encoder_only: bool = False, image: Image | None = None) -> nn.Module:
    """One of our classes with the checkpoint's weights; ValueError that names what is missing or does not fit.

    `image` is the side of the pictures it is meant for from here on; the checkpoint's own where it is not given.
    """
    if found.strange:
        raise ValueError(
            f"{found.path} is another model: what its encoder computes depends on {weights.listed(found.strange)}, "
            "for which there is no place here"
        )
    if found.layout.kind == "tasks":
        return _task(found, encoder_only, image)
    height, width = found.grid[0] * found.patch, found.grid[1] * found.patch
    fields: dict[str, Any] = {"size": found.size, "patch": found.patch, "cls": found.cls}
    fields["image"] = image or (height if height == width else (height, width))
    fields |= {"form": found.layout.form, "heads": found.layout.heads.get(found.size, 0)}
    parts = ["encoder"] if encoder_only else found.parts
    for ours, theirs in found.layout.arguments.items():
        if isinstance(found.training.get(theirs), (bool, int, float)):
            fields[ours] = found.training[theirs]
    if found.layout.decoding:
        fields |= found.layout.decoding
        fields |= _decoder_fields(found.tensors) if "decoder" in parts else {}
    lazies = {name: lazy for name, lazy in found.tensors.items() if name.split(".", 1)[0] in parts}
    if found.cls:
        token = lazies["encoder.cls_token"]
        lazies["encoder.cls_token"] = Lazy((1, 1, math.prod(token.shape)), lambda: token.read().view(1, 1, -1))
    if found.layout.needless:
        shape = lazies["encoder.norm.bias"].shape if "encoder.norm.bias" in lazies else (0,)
        lazies = dict.fromkeys(found.layout.needless, Lazy(shape, lambda: torch.zeros(shape))) | lazies
    rows = found.grid[0] * found.grid[1]
    if found.learned:
        table = found.tables["encoder"]
        fields["learned_positions"] = found.grid[0] if height == width else found.grid
        lazies["encoder.positions.table"] = _last(table, rows)
        if found.cls:
            lazies["encoder.cls_position"] = _first(table, rows)
    if "decoder" in parts and "decoder" in found.tables:
        table = found.tables["decoder"].read()[0]
        if fixed_grid(table, len(table) - rows, found.grid) != found.grid:
            raise ValueError(
                f"{found.path}: the decoder's positions are not the sin-cos table; "
                "its encoder alone can be converted with --encoder-only"
            )
    return _made(found, fields, lazies)


def _made(found: Checkpoint, fields: dict[str, Any], lazies: dict[str, Lazy]) -> Any:
    """The module, built and filled once the shapes are known to fit."""
    where, theirs = str(found.path), found.layout.theirs
    header = {"kind": found.layout.kind, "name": found.layout.module, "fields": fields}
    shell, shapes = weights.outline(header, where), {name: lazy.shape for name, lazy in lazies.items()}
    try:
        weights.fitting(shell, shapes, where, theirs)
    except ValueError as error:
        shard = "; it is one of several shards" if re.search(r"\d+-of-\d+", found.path.name) else ""
        if shard or found.layout.kind == "tasks":
            raise ValueError(f"{error}{shard}") from error
        encoder = {name: shape for name, shape in shapes.items() if name.startswith("encoder.")}
        weights.fitting(shell, encoder, where, theirs)
        raise ValueError(f"{error}; its encoder fits: --encoder-only leaves the decoder out") from error
    made = weights.build(header, where)
    weights.fill(made, {name: _finite(found, name, lazy.read()) for name, lazy in lazies.items()}, where, theirs)
    return made.eval()


def _finite(found: Checkpoint, name: str, tensor: Tensor) -> Tensor:
    """Floating numbers as float32; OSError where some are none, as a failed training leaves them."""
    if not tensor.is_floating_point():
        return tensor
    if not bool(tensor.isfinite().all()):
        raise OSError(f"{found.path}: {found.layout.theirs(name) or name} holds numbers that are not finite (NaN)")
    return tensor.float()


def _task(found: Checkpoint, encoder_only: bool, image: Image | None) -> nn.Module:
    """A task with the checkpoint's weights: its class says which fields tensors of these shapes have."""
    tensors = {name: lazy for name, lazy in found.tensors.items() if not encoder_only or name.startswith("encoder.")}
    if "encoder" in found.tables:
        tensors["encoder.positions.table"] = _last(found.tables["encoder"], found.grid[0] * found.grid[1])
    cls: Any = registry.load("tasks", found.layout.module)
    try:
        fields = cls.fields_of({name: lazy.shape for name, lazy in tensors.items()}, found.patch)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{found.path}: {error}") from error
    fields |= {"size": found.size, "patch": found.patch}
    left = () if fields.get("keep_unused") else cls.unused_official_tensors
    made: Any = _made(found, fields, {name: lazy for name, lazy in tensors.items() if name not in left})
    if image is not None:
        made.resize_image(image)
    return made


def _last(table: Lazy, rows: int) -> Lazy:
    """The last rows of a position table, which are those of the patches."""
    return Lazy((1, rows, table.shape[2]), lambda: table.read()[:, -rows:].contiguous())


def _first(table: Lazy, rows: int) -> Lazy:
    """The row of a position table that is the class token's; zeros where it has none."""
    if table.shape[1] > rows:
        return Lazy((1, 1, table.shape[2]), lambda: table.read()[:, :1].contiguous())
    return Lazy((1, 1, table.shape[2]), lambda: torch.zeros(1, 1, table.shape[2]))


def _decoder_fields(tensors: Mapping[str, Lazy]) -> dict[str, int]:
    """Width, depth and hidden width of a decoder, for classes that have fields for them."""
    depth = {name.split(".")[2] for name in tensors if name.startswith("decoder.blocks.")}
    fields = {"decoder_width": tensors["decoder.embed.weight"].shape[0], "decoder_depth": len(depth)}
    hidden = tensors.get("decoder.blocks.0.mlp.fc1.weight")
    return fields | ({"decoder_hidden": hidden.shape[0]} if hidden is not None else {})


def from_module(made: Any, layout: Layout, image: Image | None = None) -> tuple[dict[str, Tensor], list[str]]:
    """Weights of `made` by the names of a public layout, float32, and our names of what is left out.

    Position tables are written for pictures of side `image`, the module's own where not given; a learned table is
    resized to that grid. An encoder of frame pairs goes into a layout of single frames without its decoder and as
    `remarks` says. ValueError where the layout has no place for a part of the encoder or needs one that is not there.
    """
    if layout.kind == "tasks":
        return _from_task(made, layout, image)
    own: dict[str, Tensor] = made.state_dict()
    if "encoder.patch_embed.weight" not in own or not isinstance(getattr(made, "grid", None), tuple):
        raise ValueError(f"the {layout.name} layout is of an encoder of pictures, and {type(made).__name__} holds none")
    form = vars(made).get("form", "plain")
    if form != layout.form:
        raise ValueError(f"the {layout.name} layout is for encoders of form {layout.form}, and this one is {form}")
    if layout.form not in ("plain", "transformers"):
        raise ValueError(f"the {layout.name} layout is only read")
    folded = folds(made, layout)
    dropped = [name for name in own if folded and not name.startswith("encoder.")]
    for name in dropped:
        del own[name]
    identity = own.pop("encoder.frame_embed.x").float().cpu() if folded else 0
    dropped += [name for name in ("encoder.frame_embed.z",) if folded and own.pop(name) is not None]
    bare = all(name.startswith("encoder.") for name in own)
    if bare and "encoder.cls_token" in layout.needs and "encoder.cls_token" not in own:
        own["encoder.cls_token"] = own["encoder.norm.weight"].new_zeros(1, 1, len(own["encoder.norm.weight"]))
    if lacking := [name for name in layout.needs if name not in own]:
        raise ValueError(f"the {layout.name} layout has {', '.join(lacking)}, and these weights have not")
    if own["encoder.patch_embed.weight"].ndim != 4:
        raise ValueError(f"these weights embed several frames at once, and the {layout.name} layout single ones")
    if any(name.startswith("decoder.") for name in own):
        for name, value in layout.decoding.items():
            if getattr(made, name, None) != value:
                raise ValueError(f"a decoder of the {layout.name} layout has {name} {value!r}, and this one has not")
    out: dict[str, Tensor] = {}
    for name in own:
        part, rest = name.split(".", 1)
        theirs = layout.theirs(name)
        if parts := layout.parts(name):
            out |= dict(zip(parts, own[name].float().cpu().chunk(len(parts))))
        elif theirs is not None:
            whole = [own[ours].float().cpu() for ours, _ in layout.ours(theirs)]
            out[theirs] = torch.cat(whole) if len(whole) > 1 else whole[0]
        elif not layout.has(part):
            dropped.append(name)
        elif rest not in ("positions.table", "cls_position"):
            raise ValueError(f"the {layout.name} layout has no place for {name}")
    for _, gamma in layout.scales:
        for block in range(len(made.encoder.blocks)):
            out[gamma.replace("*", str(block))] = torch.ones(made.encoder.width)
    patch: Any = made.patch
    grid: Any = grid_of(image, patch) if image else made.grid
    for part, theirs in layout.positions.items():
        if any(name.startswith(f"{part}.") for name in own):
            row = layout.cls_row or "encoder.cls_token" in own
            out[theirs] = _table(getattr(made, part), grid, row)
            if part == "encoder":
                out[theirs][:, int(row) :] += identity
    return out, dropped


def folds(made: nn.Module, layout: Layout) -> bool:
    """Whether frame identities of an encoder have no place in a layout and are added to its positions."""
    frame = "encoder.frame_embed.x"
    return layout.kind == "methods" and frame in made.state_dict() and layout.theirs(frame) is None


def remarks(made: nn.Module, layout: Layout | None) -> list[str]:
    """What somebody who uses a written encoder has to know."""
    if layout is None or layout.kind == "tasks":
        return []
    found, own = [], made.state_dict()
    if folds(made, layout):
        found.append(
            "the identity of frame x is added to the positions, as features() adds it; the decoder is left out"
        )
    if "encoder.cls_token" in layout.needs and "encoder.cls_token" not in own:
        found.append("the class token is new and zero; as every token attends to it, features differ a little")
    return found


def _from_task(made: Any, layout: Layout, image: Image | None) -> tuple[dict[str, Tensor], list[str]]:
    """As `from_module`, of a task in a layout of its own class."""
    if weights.class_name(type(made)) != ("tasks", layout.module):
        raise ValueError(f"the {layout.name} layout is that of the task {layout.module}, not of {type(made).__name__}")
    if any(isinstance(part, weights.Missing) for part in made.children()):
        raise ValueError(f"the {layout.name} layout has a head, and these weights have none")
    if image is not None:
        made = copy.deepcopy(made)
        made.resize_image(image)
    own = made.official_state(layout.theirs("encoder.frame_embed.x") is not None)
    named = {name: layout.theirs(name) for name in own}
    out = {theirs: own[name] for name, theirs in named.items() if theirs is not None}
    return out, [name for name, theirs in named.items() if theirs is None]


@torch.no_grad()
def _table(part: Any, grid: Grid, row: bool) -> Tensor:
    """Position table [1, (1 +) h w, C] of a part; beside fixed positions the row of the class token is zero."""
    device = next(part.parameters()).device
    table = part.positions(grid, device).float().cpu().clone()
    if not row:
        return table
    first = getattr(part, "cls_position", None)
    start = torch.zeros(1, 1, table.shape[-1]) if first is None else first.float().cpu()
    return torch.cat([start, table], dim=1)
