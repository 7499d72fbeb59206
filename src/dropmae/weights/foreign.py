"""What a public checkpoint holds, by our names and theirs; of its numbers only position tables are looked at.

Width, depth, patch and grid are read from shapes; the number of heads leaves no trace in them and is that of the size
of this width and depth.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dropmae import weights
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


def _single(path: Path, table: Lazy, copies: int) -> Lazy:
    """A position table [1, 1 + copies N, C] as [1, 1 + N, C]; ValueError where the copies differ."""
    whole = table.read()
    rows = (whole.shape[1] - 1) // copies
    frames = whole[:, 1:].split(max(rows, 1), dim=1)
    if len(frames) != copies or any(not torch.equal(frame, frames[0]) for frame in frames):
        raise ValueError(f"{path}: its position table is not the same for all of {copies} frames")
    return Lazy((1, 1 + rows, whole.shape[2]), lambda: whole[:, : 1 + rows])


def grid_of(image: Image, patch: int) -> Grid:
    """(h, w) in patches of pictures of the given side or height and width in pixels."""
    height, width = (image, image) if isinstance(image, int) else image
    if min(height, width) <= 0 or height % patch or width % patch:
        raise ValueError(f"image {height}x{width} is not a multiple of the {patch}-pixel patch")
    return height // patch, width // patch


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
    fixed = fixed_grid(table[0], extra, hint)
    if fixed is not None:
        return fixed, False
    rows = table.shape[1] - extra
    side = _square(rows)
    if hint and hint[0] * hint[1] == rows:
        return hint, True
    if side is None:
        raise ValueError(f"{path}: its learned table of {rows} positions is not square, say --image HEIGHT WIDTH")
    return (side, side), True


def fixed_grid(table: Tensor, extra: int, hint: Grid | None) -> Grid | None:
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
