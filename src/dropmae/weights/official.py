"""Public checkpoints <-> our modules: what a file holds, and the translation of names and position tables.

DropMAE, MAE, CropMAE, DINO, DeiT and timm share one encoder and differ in names, class token and positions.
`examine` says what a file is, `to_module` makes one of our classes of it, `from_module` gives a module's weights in a
public layout. Width, depth, patch and grid are read from shapes; the number of heads leaves no trace in them and is
that of the size of this width and depth.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dropmae import registry, weights
from dropmae.nn import vit
from dropmae.opening import open_file
from dropmae.weights import unpickle
from dropmae.weights.layouts import Layout, Pieces, layouts, named

Grid = tuple[int, int]
Image = int | tuple[int, int]

PIXELS = 224
"""Side of the pictures that a file without a position table is taken to be for."""


@dataclass(frozen=True)
class Lazy:
    """A tensor that is still in its file."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@dataclass
class Checkpoint:
    """What a public weight file holds, by names and shapes; of the numbers only position tables are looked at."""

    path: Path
    layout: Layout
    entry: str
    """Where in the file the weights are: names of mappings and prefixes, joined by dots."""
    tensors: dict[str, Lazy]
    """By our names; position tables are not among them."""
    tables: dict[str, Lazy]
    """Part -> its position table as it is in the file."""
    size: str
    patch: int
    grid: Grid
    learned: bool
    """Whether the encoder's positions are a learned table rather than the sin-cos one."""
    unused: list[str]
    """Their names that have no use here and are left out."""
    strange: list[str]
    """Their names, within the encoder, that have no place here: what it computes may depend on them."""
    training: dict[str, Any]
    """Arguments of the training run, where the file tells them."""
    notes: list[str] = field(default_factory=list)

    @property
    def cls(self) -> bool:
        """Whether there is a class token."""
        return "encoder.cls_token" in self.tensors

    @property
    def parts(self) -> list[str]:
        return sorted({name.split(".", 1)[0] for name in self.tensors})


def examine(
    path: str | Path, layout: str | None = None, entry: str | None = None, image: Image | None = None
) -> Checkpoint:
    """What the public checkpoint at `path` is; nothing in it is executed.

    `layout` and `entry` choose where the file leaves a choice; `image` tells the grid of a learned position table
    that is not square. OSError for a file that cannot be read, ValueError for one without an encoder of a known size.
    """
    path = Path(path)
    asked = None if layout is None else named(layout)
    mappings, training = _open(path)
    found, place, lead = _choose(path, mappings, asked, entry)
    tensors, tables, unused, strange = _translate(found, lead, mappings[place])
    if found.copies > 1 and "encoder" in tables:
        tables["encoder"] = _single(path, tables["encoder"], found.copies)
    tensors = _assembled(path, found, tensors)
    width, depth, patch = _measure(path, tensors)
    size = next((name for name, shape in vit.SIZES.items() if (shape.width, shape.depth) == (width, depth)), None)
    if size is None:
        known = ", ".join(f"{name} {shape.width} x {shape.depth}" for name, shape in vit.SIZES.items())
        raise ValueError(f"{path}: an encoder {width} wide and {depth} deep is none of the sizes: {known}")
    notes: list[str] = []
    if found.name == "clip":
        notes.append("read as OpenAI's, with QuickGELU; files of OpenCLIP mostly want --layout openclip")
    relative = _relative(path, tensors)
    if relative and "encoder" not in tables:  # relative positions alone
        tables["encoder"] = Lazy((1, relative**2 + 1, width), lambda: torch.zeros(1, relative**2 + 1, width))
    if "encoder" in tables:
        rows, hint = tables["encoder"].shape[1], grid_of(image, patch) if image else None
        table = tables["encoder"].read()
        if hint and hint[0] * hint[1] in (rows, rows - 1):
            extra = rows - hint[0] * hint[1]
        elif "encoder.cls_token" in tensors:  # has a row of its own, save where positions are for patches only
            extra = int(_square(rows) is None or not table[:, 0].any())
        else:
            extra = int(_square(rows) is None and _square(rows - 1) is not None)
        grid, learned = _positions(path, table, extra, hint)
    elif "encoder.positions.table" in tensors:
        side = _square(tensors["encoder.positions.table"].shape[1]) or 0
        grid, learned = (side, side), True
    elif found.fixed:
        grid, learned = (PIXELS // patch, PIXELS // patch), False
        notes.append(f"no position table in the file: the sin-cos one is taken, for {PIXELS} pixels")
    else:
        raise ValueError(f"{path} lacks {lead}{found.positions['encoder']}, its position table")
    if found.name == "dino" and not learned and asked is None:
        found = layouts()["mae"]  # a bare encoder with the sin-cos table is MAE's: its plain files have no decoder
    if not {"decoder.embed.weight", "decoder.pred.weight"} & tensors.keys():
        unused += [f"{lead}{found.theirs(name)}" for name in tensors if name.startswith("decoder.")]
        tensors = {name: lazy for name, lazy in tensors.items() if not name.startswith("decoder.")}
    return Checkpoint(
        path=path,
        layout=found,
        entry=".".join(word for word in (place, lead.rstrip(".")) if word),
        tensors=tensors,
        tables=tables,
        size=size,
        patch=patch,
        grid=grid,
        learned=learned,
        unused=sorted(unused),
        strange=sorted(strange),
        training=training,
        notes=notes,
    )


def contents(path: str | Path) -> dict[str, int]:
    """How many numbers the tensors hold in each mapping of a public weight file, by the mapping's dotted place."""
    mappings, _ = _open(Path(path))
    return {place: sum(math.prod(lazy.shape) for lazy in own.values()) for place, own in mappings.items()}


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
        if _fixed_grid(table, len(table) - rows, found.grid) != found.grid:
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


def _single(path: Path, table: Lazy, copies: int) -> Lazy:
    """A position table [1, 1 + copies N, C] as [1, 1 + N, C]; ValueError where the copies differ."""
    whole = table.read()
    rows = (whole.shape[1] - 1) // copies
    frames = whole[:, 1:].split(max(rows, 1), dim=1)
    if len(frames) != copies or any(not torch.equal(frame, frames[0]) for frame in frames):
        raise ValueError(f"{path}: its position table is not the same for all of {copies} frames")
    return Lazy((1, 1 + rows, whole.shape[2]), lambda: whole[:, : 1 + rows])


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


def grid_of(image: Image, patch: int) -> Grid:
    """(h, w) in patches of pictures of the given side or height and width in pixels."""
    height, width = (image, image) if isinstance(image, int) else image
    if min(height, width) <= 0 or height % patch or width % patch:
        raise ValueError(f"image {height}x{width} is not a multiple of the {patch}-pixel patch")
    return height // patch, width // patch


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


def _open(path: Path) -> tuple[dict[str, dict[str, Lazy]], dict[str, Any]]:
    """The mappings in a file by their dotted place, and the training arguments in it."""
    with open_file(path) as file:
        start = file.read(9)
    if start[8:] == b"{":
        return {
            "": {_plain(name): _lazy_tensor(path, name, shape) for name, shape in weights.read_shapes(path).items()}
        }, {}
    if path.suffix.lower() == ".safetensors" and start[:2] != b"PK":
        raise OSError(f"{path}: not a readable weight file: its header is damaged (it has no table of tensors)")
    opened = unpickle.Checkpoint(path)
    training: dict[str, Any] = {}
    if isinstance(opened.tree, dict):
        arguments = opened.tree.get("args")
        found = arguments.attributes if isinstance(arguments, unpickle.Record) else arguments
        if isinstance(found, dict):
            training = {str(name)[:WORD]: value for name, value in found.items() if _short(value)}
        if isinstance(epoch := opened.tree.get("epoch"), int) and _short(epoch):
            training["epoch"] = epoch
    return _mappings(opened), training


WORD = 1000
"""Letters of the longest argument of a training run that is kept."""


def _short(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= WORD
    return isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 2**63)


def _mappings(opened: unpickle.Checkpoint) -> dict[str, dict[str, Lazy]]:
    """Dotted place -> its own tensors, of every mapping and module in what was pickled; each counts once.

    A module that was pickled whole holds its tensors in `_parameters` and `_buffers`, and others in `_modules`.
    """
    found: dict[str, dict[str, Lazy]] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, str, Any]] = [("", "", opened.tree)]
    while waiting:
        place, inside, node = waiting.pop()
        inner = node.attributes if isinstance(node, unpickle.Record) else node
        if not isinstance(inner, dict) or id(inner) in seen or len(place) + len(inside) > WORD:
            continue
        seen.add(id(inner))
        is_module = isinstance(node, unpickle.Record) and isinstance(inner.get("_parameters"), dict)
        if is_module:
            gone = inner.get("_non_persistent_buffers_set")
            for kept in (inner["_parameters"], inner.get("_buffers")):
                for name, value in kept.items() if isinstance(kept, dict) else ():
                    if isinstance(value, unpickle.Stored) and not (isinstance(gone, list) and name in gone):
                        found.setdefault(place, {})[_plain(f"{inside}{name}")] = _lazy(opened, value)
            parts = inner.get("_modules")
            later = (
                [(place, f"{inside}{name}.", part) for name, part in parts.items()] if isinstance(parts, dict) else []
            )
        else:
            place, inside = f"{place}.{inside}".strip("."), ""
            own = {str(name): value for name, value in inner.items() if isinstance(value, unpickle.Stored)}
            if own:
                found.setdefault(place, {}).update({_plain(name): _lazy(opened, value) for name, value in own.items()})
            later = [(f"{place}.{name}" if place else str(name), "", part) for name, part in inner.items()]
        waiting += reversed(later)
    return found


def _plain(name: str) -> str:
    """A tensor's name without the wrappers that training puts around single layers."""
    return re.sub(r"_checkpoint_wrapped_module\.|_fsdp_wrapped_module\.|(?<=\.)_orig_mod\.", "", name)


def _lazy_tensor(path: Path, name: str, shape: tuple[int, ...]) -> Lazy:
    return Lazy(shape, lambda: weights.read_tensors(path, name)[name])


def _lazy(opened: unpickle.Checkpoint, stored: unpickle.Stored) -> Lazy:
    return Lazy(stored.shape, lambda: opened.tensor(stored))


def _choose(
    path: Path, mappings: Mapping[str, dict[str, Lazy]], layout: Layout | None, entry: str | None
) -> tuple[Layout, str, str]:
    """Layout, place and prefix of the encoder in a file: the only one, or the one that `entry` says."""
    found: dict[str, tuple[Layout, str, str]] = {}
    for place, names in mappings.items():
        known: set[str] = set()
        for candidate in [layout] if layout else layouts().values():
            anchor = candidate.theirs("encoder.patch_embed.weight") or ""
            for name in names:
                lead = name.removesuffix(anchor)
                if lead == name or name in known or (lead and not lead.endswith(".")):
                    continue
                if layout or all(f"{lead}{mark}" in names for mark in candidate.marks):
                    where = ".".join(word for word in (place, lead.rstrip(".")) if word)
                    found.setdefault(where, (candidate, place, lead))
                    known.add(name)
    if not found:
        raise ValueError(f"{path} holds no encoder of the layouts {', '.join(layouts())}: no patch_embed.proj.weight")
    if entry is not None:
        keep = [where for where in found if f"{where}.".startswith(f"{entry}.")]
        if len(keep) != 1:
            raise ValueError(f"{path} has {len(keep)} encoders under {entry!r}; there are: {', '.join(found)}")
        return found[keep[0]]
    if len(found) > 1:
        teachers = [where for where in found if where.split(".")[0] == "teacher" or where.endswith("base_encoder")]
        if len(teachers) != 1:  # DINO's papers evaluate the teacher, MoCo-v3's the base encoder
            raise ValueError(f"{path} holds several encoders, choose one with --entry: {', '.join(found)}")
        return found[teachers[0]]
    return next(iter(found.values()))


def _translate(
    layout: Layout, lead: str, names: Mapping[str, Lazy]
) -> tuple[dict[str, Lazy], dict[str, Lazy], list[str], list[str]]:
    """Tensors by our names, position tables by part, and their names without use and without place."""
    parts = {name: part for part, name in layout.positions.items()}
    tensors, tables = {}, {}
    unused, strange = [], []
    for name, lazy in names.items():
        theirs = name.removeprefix(lead)
        pieces = layout.ours(theirs)
        if not name.startswith(lead) or layout.unused(theirs):
            unused.append(name)
        elif theirs in parts:
            tables[parts[theirs]] = _three(name, lazy)
        elif pieces:
            tensors |= _split(lazy, pieces)
        else:
            strange.append(name)
    return tensors, tables, unused, strange


def _assembled(path: Path, layout: Layout, tensors: dict[str, Lazy]) -> dict[str, Lazy]:
    """The tensors with what the layout keeps in parts put together, and factors of rows multiplied in."""
    made = {name: lazy for name, lazy in tensors.items() if "/" not in name}
    depth = len({name.split(".")[2] for name in tensors if name.startswith("encoder.blocks.")})
    for pattern, theirs in layout.stacks:
        for block in range(depth):
            ours = pattern.replace("*", str(block))
            parts = [tensors.get(f"{ours}/{n}") if part else None for n, part in enumerate(theirs)]
            there = [part for part in parts if part is not None]
            if len(there) == sum(map(bool, theirs)):
                made[ours] = _stacked(parts, there[0].shape)
    for pattern, theirs in layout.scales:
        lost = [block for block in range(depth) if f"{pattern.replace('*', str(block))}/scale" not in tensors]
        if 0 < len(lost) < depth:
            raise ValueError(f"{path} lacks {theirs.replace('*', str(lost[0]))}, and has others of that kind")
    for name, factor in tensors.items():
        base = name.removesuffix("/scale")
        for whole in (f"{base}.weight", f"{base}.bias") if base != name else ():
            if whole in made:
                made[whole] = _scaled(made[whole], factor)
    if shared := made.pop("encoder.relative.shared", None):
        made |= {f"encoder.relative.tables.{block}": shared for block in range(depth)}
    return made


def _stacked(parts: list[Lazy | None], shape: tuple[int, ...]) -> Lazy:
    """One tensor of parts of one shape, one below the other; None is zeros."""
    return Lazy(
        (shape[0] * len(parts), *shape[1:]),
        lambda: torch.cat([torch.zeros(shape) if part is None else part.read().float() for part in parts]),
    )


def _scaled(lazy: Lazy, factor: Lazy) -> Lazy:
    """A tensor whose rows are multiplied, in float32."""
    return Lazy(lazy.shape, lambda: lazy.read().float() * factor.read().float().view(-1, *[1] * (len(lazy.shape) - 1)))


def _relative(path: Path, tensors: Mapping[str, Lazy]) -> int:
    """Side of the grid of the relative positions in a file, 0 without; ValueError where it is not square."""
    table = tensors.get("encoder.relative.tables.0")
    if table is None:
        return 0
    side = _square(table.shape[0] - 3) or 0
    if side % 2 == 0:
        raise ValueError(f"{path}: {table.shape[0]} relative positions are not those of a square grid")
    return (side + 1) // 2


def _three(name: str, table: Lazy) -> Lazy:
    """A position table as [1, N, C], which may have been stored as [N, C]."""
    if len(table.shape) == 2:
        return Lazy((1, *table.shape), lambda: table.read()[None])
    if len(table.shape) != 3 or table.shape[0] != 1:
        raise ValueError(f"{name} is {'x'.join(map(str, table.shape))}, which is no table of positions 1 x N x C")
    return table


def _split(lazy: Lazy, pieces: Pieces) -> dict[str, Lazy]:
    """One tensor cut along its rows into those of the given names and shares."""
    if len(pieces) == 1:
        return {pieces[0][0]: lazy}
    unit = lazy.shape[0] // sum(share for _, share in pieces) if lazy.shape else 0
    made, start = {}, 0
    for name, share in pieces:
        rows = slice(start, start + share * unit)
        made[name] = Lazy((share * unit, *lazy.shape[1:]), lambda rows=rows: lazy.read()[rows].contiguous())
        start += share * unit
    return made


def _measure(path: Path, tensors: Mapping[str, Lazy]) -> tuple[int, int, int]:
    """Width, depth and patch side of the encoder."""
    shape = tensors["encoder.patch_embed.weight"].shape
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
        raise ValueError(f"{path}: its patch embedding is {'x'.join(map(str, shape))}, not width x 3 x patch x patch")
    blocks = {name.split(".")[2] for name in tensors if name.startswith("encoder.blocks.")}
    return shape[0], len(blocks), shape[2]


def _positions(path: Path, table: Tensor, extra: int, hint: Grid | None) -> tuple[Grid, bool]:
    """Grid of the position table [1, (1 +) N, C], and whether it is a learned one."""
    fixed = _fixed_grid(table[0], extra, hint)
    if fixed is not None:
        return fixed, False
    rows = table.shape[1] - extra
    side = _square(rows)
    if hint and hint[0] * hint[1] == rows:
        return hint, True
    if side is None:
        raise ValueError(f"{path}: its learned table of {rows} positions is not square, say --image HEIGHT WIDTH")
    return (side, side), True


def _fixed_grid(table: Tensor, extra: int, hint: Grid | None) -> Grid | None:
    """(h, w) for which the table [(1 +) h w, C] is the sin-cos one after zeros; None where there is none.

    The hint is tried first, then the squarest. Checkpoints in half precision agree within that precision.
    """
    count, channels = table.shape[0] - extra, table.shape[1]
    if count < 1 or channels % 4 or bool(table[:extra].any()):
        return None
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 1e-2}.get(table.dtype, 1e-4)
    grids = [(h, count // h) for h in range(1, count + 1) if count % h == 0]
    for grid in sorted(grids, key=lambda grid: (grid != hint, abs(grid[0] - grid[1]))):
        expected = torch.from_numpy(vit.sincos_table(*grid, channels))
        if torch.allclose(table[extra:].float(), expected, rtol=0, atol=tolerance):
            return grid
    return None


def _square(count: int) -> int | None:
    side = math.isqrt(max(count, 0))
    return side if side and side * side == count else None
