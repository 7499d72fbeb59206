"""How the heads learn on an encoder that learns nothing: what it shows of labelled objects is looked at once and kept.

A view is a crop around an object in one frame. Of each the reduced features and the filters that are fitted to it alone
are kept in half precision, or the features in 8-bit integers. A sample is an object as it was given, as it was lately
(both views of it), and a third view to look for it in: n views give n^2 samples, at no cost of the encoder.

Losses: penalty-reduced focal loss of the score map (CornerNet, arXiv 1808.01244), generalised IoU and L1 of the boxes
around the centre, and cross-entropy of presence, for which a sample is right where the box at the peak overlaps the
object by half.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae import locks, storage, weights
from dropmae.data.boxtracks import tracks_of
from dropmae.names import utf8
from dropmae.progress import Progress, say
from dropmae.sequence import Sequence
from dropmae.tasks._overlaps import overlaps
from dropmae.tasks.dcf import crops, maps
from dropmae.tasks.dcf.head import peaks, tokens
from dropmae.video import DamagedFrame

if TYPE_CHECKING:
    from dropmae.tasks.dcf.sight import Sight

ALIEN, LATELY = 0.05, 0.6
"""Share of samples whose search view is of another object; of those with a later template of its own."""
WRONG = 0.4, 0.15
"""Deviation of the log of the size that the head is told, of both sides together and of each: so much that it has to
look. Heads that learned with .12 and .06 believed what they were told, and in tracking nothing led the size back."""
FACTORS = 2.3, 4.6
"""Least and largest side of a view in square roots of the object's area."""
WHOLE, SEEN = 0.97, 0.4
"""Share of a box that lies in a view which can be a template, and in one that the object is looked for in."""
LEAST = 4.0
"""Pixels of the shorter side of a box that is learned from."""
KEPT = "features of a frozen encoder"
BASIS = 64
"""Views of which the principal components are those of all."""
PORTION = 8
"""Crops that go through the encoder at a time."""


class Views(NamedTuple):
    """Crops uint8 [V, S, S, 3] of a video, boxes [V, 4] x y w h in shares of their sides, and whose they are."""

    crops: np.ndarray
    boxes: np.ndarray
    owners: np.ndarray


def views(sequence: Sequence, count: int, side: int) -> Views:
    """Up to so many views of each object of a video, evenly spread over the frames in which it has a box; the same for
    the same names. DamagedFrame and OSError where it cannot be read."""
    found: list[tuple[np.ndarray, np.ndarray, int]] = []
    length = len(sequence.video)
    for number, (frames, boxes) in tracks_of(sequence.targets).items():
        good = np.flatnonzero((boxes[:, 2:].min(1) >= LEAST) & (frames < length))
        rng = np.random.default_rng(int.from_bytes(digest(sequence.name, str(number))[:8], "big"))
        for row in np.unique(np.linspace(0, len(good) - 1, min(count, len(good))).round().astype(int)):
            box, frame = boxes[good[row]], sequence.video[int(frames[good[row]])]
            factor, size = FACTORS[0] * (FACTORS[1] / FACTORS[0]) ** rng.random(), math.sqrt(box[2] * box[3])
            far = rng.random() < 0.3
            shift = rng.uniform(-0.42, 0.42, 2) * factor if far else rng.laplace(0, 0.22, 2)
            centre = box[:2] + box[2:] / 2 + np.clip(shift, -0.45 * factor, 0.45 * factor) * size
            place = crops.region(centre, factor * size)
            found.append((crops.cut(frame, place, side), place.inside(box), number))
    if not found:
        return Views(np.zeros((0, side, side, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    cut, boxes, owners = zip(*found)
    return Views(np.stack(cut), np.stack(boxes).astype(np.float32), np.array(owners))


def digest(*words: str) -> bytes:
    return hashlib.sha256(b"\0".join(utf8(word) for word in words)).digest()


def fingerprint(task: Sight) -> dict[str, Any]:
    """What features that are kept depend on."""
    known = hashlib.sha256()
    for name, tensor in sorted(task.encoder.state_dict().items()):
        known.update(utf8(name) + tensor.detach().cpu().contiguous().float().numpy().tobytes())
    names = ("image", "taps", "channels", "extent", "deviation", "ridge", "views", "kept_bits")
    fields = {name: getattr(task, name) for name in names}
    told = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    return {"encoder": known.hexdigest()[:16], **told}


def file_of(folder: Path, sequence: Sequence) -> Path:
    """Where the views of a video are kept, as it is labelled."""
    source = sequence.source
    place = str(Path(source).resolve()) if isinstance(source, (str, Path)) else ""
    labels = hashlib.sha256()
    for number, (frames, boxes) in tracks_of(sequence.targets).items():
        labels.update(f"{number}".encode() + frames.astype(np.int64).tobytes() + boxes.astype(np.float64).tobytes())
    return folder / f"{digest(sequence.name, place, labels.hexdigest()).hex()[:24]}.safetensors"


@torch.no_grad()
def features(task: Sight, pictures: np.ndarray) -> Tensor:
    """float32 [V, C, n, n]: what the encoder shows of crops uint8 [V, S, S, 3], before it is reduced."""
    device = task.head.places.device
    parts = torch.from_numpy(pictures).permute(0, 3, 1, 2).split(PORTION)
    return torch.cat([task.encoder.layers(part.to(device), task.taps).float() for part in parts])


@torch.no_grad()
def components(task: Sight, found: Tensor) -> dict[str, Tensor]:
    """The principal components of features [V, C, n, n], of each block that is looked at: `weight`, `bias`, and by what
    each is to be multiplied (`scale`) such that small ones count too."""
    rows_of = found.flatten(2).transpose(1, 2).flatten(0, 1).split(task.head.widths, 1)
    basis_of: dict[str, Tensor] = {}
    for number, (rows, count) in enumerate(zip(rows_of, task.channels)):
        mean = rows.mean(0)
        basis = torch.linalg.svd((rows - mean).T @ (rows - mean) / len(rows))[0][:, :count]
        scale = (rows @ basis - mean @ basis).std(0) ** -0.5
        values = {"weight": basis.T, "bias": -mean @ basis, "scale": scale / scale.mean()}
        basis_of |= {f"{name}{number}": value.contiguous() for name, value in values.items()}
    return basis_of


@torch.no_grad()
def project(task: Sight, basis: Mapping[str, Tensor]) -> None:
    """Sets the fixed projections of new heads to `components`."""
    start = 0
    reduces: list[Any] = list(task.head.reduce)
    for number, reduce in enumerate(reduces):
        reduce.weight.copy_(basis[f"weight{number}"])
        reduce.bias.copy_(basis[f"bias{number}"])
        scale = basis[f"scale{number}"]
        for part in (task.head.cells, task.head.tokens):
            part.weight[:, start : start + len(scale)] *= scale
        start += len(scale)


@torch.no_grad()
def filters(task: Sight, seen: Tensor, boxes: Tensor) -> Tensor:
    """float32 [V, F, K]: the filters of each view [V, n, n, C] by itself, with as many unknowns as it has cells."""
    found = []
    for one, box in zip(seen.float(), boxes):
        cells = task.cells(one[None])[0]
        wanted = task.wanted(box[None], len(one)).flatten(0, 2)
        gram = cells @ cells.T
        gram.diagonal().add_(task.ridge * cells.square().sum() / cells.shape[1])
        found.append(cells.T @ torch.cholesky_solve(wanted, torch.linalg.cholesky(gram)))
    return torch.stack(found)


def packed(found: Tensor) -> dict[str, Tensor]:
    """Features [V, n, n, C] as 8-bit integers, and by what each channel of each view is to be multiplied (`scales`)."""
    scales = found.float().abs().amax((1, 2)).clamp_min(1e-9) / 127
    return {"features": (found / scales[:, None, None]).round().to(torch.int8), "scales": scales}


def unpacked(kept: Mapping[str, Any], row: int) -> np.ndarray:
    """float32 [n, n, C]: the features of a view, whichever way they are kept."""
    found = kept["features"][row].astype(np.float32)
    return found * kept["scales"][row] if "scales" in kept else found


def keep(task: Sight, made: Views, file: Path) -> None:
    """Writes what the encoder shows of views."""
    kept = {"boxes": torch.from_numpy(made.boxes), "owners": torch.from_numpy(made.owners)}
    if len(made.boxes):
        seen = task.head.reduced(features(task, made.crops)).half()
        kept["filters"] = filters(task, seen, kept["boxes"].to(seen.device)).half()
        kept |= packed(seen) if task.kept_bits == 8 else {"features": seen}
    weights.write_tensors({name: tensor.cpu() for name, tensor in kept.items()}, file, {"made": storage.mark(KEPT)})


@torch.no_grad()
def look(task: Sight, sequences: Iterable[Sequence], folder: Path, fresh: bool) -> None:
    """Keeps in a folder what the encoder of a task shows of each video that is not kept there yet.

    The projections of heads that are `fresh` become those of the folder, or the principal components of the first
    videos. ValueError where the folder has features of another encoder, or of other settings or heads.
    """
    given = list(sequences)
    if any(type(one).drawn is not Sequence.drawn for one in given):
        raise ValueError("labels that are made anew for each sample have no features that could be kept")
    own = [one for one in given if tracks_of(one.targets)]
    if not own:
        raise ValueError("no video of the data has a box to learn from")
    told, notes, basis = fingerprint(task), folder / "features.json", folder / "components.safetensors"
    before = {"kept_bits": 16}  # which is not told where features were kept by earlier versions
    if notes.is_file() and (there := before | json.loads(notes.read_text())) != told:
        odd = ", ".join(name for name in told if there.get(name) != told[name])
        raise ValueError(f"{folder}: features are kept there with another {odd}; name another --cache")
    reduces: list[Any] = list(task.head.reduce)
    mine = {f"{name}{k}": getattr(part, name) for k, part in enumerate(reduces) for name in ("weight", "bias")}
    left = [one for one in own if not file_of(folder, one).is_file()]
    if left or not basis.is_file():
        objects = sum(len(tracks_of(one.targets)) for one in left)
        cells = (task.image // task.encoder.patch) ** 2
        numbers = cells * sum(task.channels) * task.kept_bits // 8 + 36 * task.channels[-1] * 2
        size = objects * task.views * numbers / 2**20
        say(f"{folder}: features of {len(left)} videos with {objects} objects, at most {size:.0f} MB")
        with locks.held(folder, option="--cache"):
            if not basis.is_file():
                ones = {f"scale{k}": torch.ones(len(part.weight)) for k, part in enumerate(reduces)}
                made = components(task, features(task, first_views(task, own))) if fresh else mine | ones
                storage.write_json(notes, told)
                weights.write_tensors({n: v.cpu() for n, v in made.items()}, basis, {"made": storage.mark(KEPT)})
            settle(task, basis, mine, fresh)
            progress = Progress(len(left), unit="video")
            for number, sequence in enumerate(left):
                try:
                    keep(task, views(sequence, task.views, task.image), file_of(folder, sequence))
                except (OSError, DamagedFrame) as error:
                    say(f"{sequence.name}: left out: {error}")
                progress.show(number + 1, {})
            progress.close()
    else:
        settle(task, basis, mine, fresh)


def settle(task: Sight, file: Path, mine: Mapping[str, Tensor], fresh: bool) -> None:
    """Takes over the projections in a file, or sees that trained heads have the same. ValueError where they do not."""
    kept = weights.read_tensors(file, device=task.head.places.device)
    if fresh:
        project(task, kept)
    elif any(not torch.allclose(value, kept[name], atol=1e-2) for name, value in mine.items()):
        raise ValueError(
            f"{file.parent}: features are kept there for other heads than those of --init; name another --cache"
        )


def first_views(task: Sight, sequences: list[Sequence]) -> np.ndarray:
    """Crops uint8 [V, S, S, 3] of the first videos that can be read. ValueError where none can."""
    found: list[np.ndarray] = []
    for sequence in sequences:
        try:
            found += list(views(sequence, BASIS // 8, task.image).crops[:BASIS])
        except (OSError, DamagedFrame):
            continue
        if len(found) >= BASIS:
            break
    if not found:
        raise ValueError(f"no video of the data can be read and has a box of at least {LEAST:.0f} pixels")
    return np.stack(found[:BASIS])


def draw(kept: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """One sample of the views of a video, and whose it is. OSError where none can be drawn: no object has two views of
    which one shows all of it."""
    boxes, owners = kept["boxes"], kept["owners"]
    shown = np.clip(boxes[:, :2] + boxes[:, 2:], 0, 1) - np.clip(boxes[:, :2], 0, 1)
    share = shown.prod(1) / boxes[:, 2:].prod(1)
    able = [
        n for n in np.unique(owners) if (share[owners == n] > WHOLE).any() and (share[owners == n] > SEEN).sum() > 1
    ]
    if not able:
        raise OSError("no object in it has two views to learn from")
    own = owners == able[int(rng.integers(len(able)))]
    good = np.flatnonzero(own & (share > WHOLE))
    first = int(rng.choice(good))
    seekable = np.flatnonzero(own & (share > SEEN))
    search = int(rng.choice(seekable[seekable != first]))
    later = good[(good != first) & (good != search)]
    last = int(rng.choice(later)) if len(later) and rng.random() < LATELY else first
    lately = boxes[last].copy()
    if last != first:  # as the tracker finds it
        lately[:2] += lately[2:] * rng.normal(0, 0.04, 2)
        lately[2:] *= np.exp(rng.normal(0, 0.06, 2))
    wrong = np.exp(rng.normal(0, WRONG[0]) + rng.normal(0, WRONG[1], 2))
    drawn = {
        "first": unpacked(kept, first),
        "first_box": boxes[first],
        "last": unpacked(kept, last),
        "last_box": lately,
        "search": unpacked(kept, search),
        "box": boxes[search],
        "filters": kept["filters"][first],
        "told": boxes[search, 2:] * wrong,
    }
    return {"owner": owners[first], **{name: value.astype(np.float32) for name, value in drawn.items()}}


def losses(task: Sight, batch: Mapping[str, Tensor], present: Tensor, small: Tensor | None = None) -> dict[str, Tensor]:
    """{"loss", "focal", "box", "presence", "overlap", "hit"} of samples as `draw` makes them; `present` bool [B]: the
    object is there; `small` [B, m, m] what a filter on small cells answers, where the head is told of it."""
    search, box, size = batch["search"].float(), batch["box"], batch["told"]
    head, n, here = task.head, search.shape[1], present.float()[:, None, None]
    with torch.autocast(search.device.type, enabled=False):
        responses = (task.cells(search) @ batch["filters"].float()).unflatten(1, (n, n))
    response = responses[..., 0]
    high = peaks(small.float(), n) if small is not None else None
    pairs = ((batch["first"], batch["first_box"]), (batch["last"], batch["last_box"]))
    known = [head.template(tokens(seen.float(), at), kind) for kind, (seen, at) in enumerate(pairs)]
    logits, boxes, cells = head(search, torch.cat(known, 1), responses, size, high)
    scores, wanted = logits.sigmoid(), maps.gaussian(box, n, 0.14, 0.55) * here
    hot = wanted > 0.6
    right = wanted * (1 - scores).detach() ** 2 * functional.logsigmoid(logits)
    wrong = (1 - wanted) ** 4 * scores.detach() ** 2 * functional.logsigmoid(-logits)
    focal = -torch.where(hot, right, wrong).sum() / hot.sum().clamp_min(1)
    truth = torch.cat([box[:, :2], box[:, :2] + box[:, 2:]], 1)[:, None, None].expand_as(boxes)
    overlap, general = (part.view(scores.shape) for part in overlaps(boxes.flatten(0, 2), truth.flatten(0, 2)))
    far = ((boxes - truth).abs() / size.repeat(1, 2)[:, None, None]).mean(-1)
    near = maps.gaussian(box, n, 0.2, 0.6) * here
    near = near * (near > 0.25)
    sides = ((1 - general + 0.5 * far) * near).sum() / near.sum().clamp_min(1)
    peak = scores.flatten(1).argmax(1)
    found = overlap.flatten(1)[torch.arange(len(peak)), peak].detach() * present
    logit = head.present(cells.detach(), scores.detach(), response, peak, high)
    presence = functional.binary_cross_entropy_with_logits(logit, (found > 0.5).float())
    there = present.sum().clamp_min(1)
    rest = {"overlap": found.sum() / there, "hit": (found > 0.5).sum() / there}
    return {"loss": focal + 2 * sides + 0.5 * presence, "focal": focal, "box": sides, "presence": presence, **rest}
