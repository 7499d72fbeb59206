"""Trains a tracker's heads on the features of a frozen encoder: `dropmae.tasks.dcf`, on views made by dcf-views.py.

Use: python recipes/dcf-heads.py ENCODER OUT.safetensors --views FILE.npz ... [--steps N] [--cache DIR]

ENCODER is a weight file of ours (`dropmae convert` makes one of a public checkpoint). The encoder goes over each view
once; what is kept of it, the principal components of two of its blocks, is stored in half precision in DIR, 145 kB a
view. A sample is an object as it was given, as it was lately (both views of it), and a third view to look for it in: n
views give n^2 samples. The filter of each view is fitted to that view alone.

Losses: penalty-reduced focal loss of the score map (CornerNet), generalised IoU and L1 of the boxes around the centre,
and cross-entropy of presence, for which a sample is right where the box at the peak overlaps the object by half.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae import registry, weights
from dropmae.ops import allocator
from dropmae.tasks.dcf import DCF, fine, maps
from dropmae.tasks.dcf.head import peaks, tokens
from dropmae.tasks.vot.head import overlaps

ALIEN, LATELY, BATCH, WARM, KEEP = 0.05, 0.6, 24, 60, 0.997
"""Share of samples whose search view is of another object; of those with a later template of its own; sizes."""
WRONG = 0.4, 0.15
"""Deviation of the log of the size that the head is told, of both sides together and of each: so much that it has to
look. Heads that learned with .12 and .06 believed what they were told, and in tracking nothing led the size back."""


class Shard(NamedTuple):
    """What is known of some episodes."""

    features: Tensor
    """float16 [E, V, n, n, C]"""
    filters: Tensor
    """float32 [E, V, F, K]"""
    boxes: Tensor
    """float32 [E, V, 4]"""
    usable: np.ndarray
    """bool [E, V]: seen well enough to be a template."""
    present: np.ndarray
    """int [E, V]"""
    small: Tensor
    """float16 [E, V, V + 1, m, m]: the answer of a view's fine filter in each view, and in one of another thing."""


def half() -> Any:
    """bfloat16 where the CPU multiplies it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pictures(task: DCF, crops: np.ndarray) -> Tensor:
    """uint8 [B, 3, side, side]: crops uint8 [B, n, n, 3] as large as the tracker takes them."""
    made = torch.from_numpy(crops).permute(0, 3, 1, 2)
    if task.image != made.shape[-1]:
        made = functional.interpolate(made, (task.image, task.image), mode="bilinear", antialias=True)
    return made


def components(task: DCF, crops: np.ndarray) -> None:
    """Sets the fixed projections of the head to the principal components of these crops' features."""
    parts = pictures(task, crops).split(8)
    features = torch.cat([task.encoder.layers(part, task.taps).flatten(2) for part in parts])
    parts = features.transpose(1, 2).flatten(0, 1).split([part.in_features for part in task.head.reduce], 1)
    for number, (reduce, rows) in enumerate(zip(task.head.reduce, parts)):
        mean = rows.mean(0)
        basis = torch.linalg.svd((rows - mean).T @ (rows - mean) / len(rows))[0][:, : len(reduce.weight)]
        reduce.weight.copy_(basis.T)
        reduce.bias.copy_(-mean @ basis)
        scale = (rows @ basis - mean @ basis).std(0) ** -0.5
        start = sum(len(part.weight) for part in task.head.reduce[:number])
        for part in (task.head.cells, task.head.tokens):  # so that small components count too
            part.weight[:, start : start + len(scale)] *= scale / scale.mean()


def begin(task: DCF, file: Path) -> None:
    """Copies trained heads; what they were not told of counts for nothing at first."""
    own = task.head.state_dict()
    for name, value in weights.read_tensors(file).items():
        mine = own[name.removeprefix("head.")]
        if mine.ndim == 2:
            mine[:, value.shape[1] :] = 0
        mine[tuple(slice(0, length) for length in value.shape)] = value.to(mine.dtype)


def filters(task: DCF, features: Tensor, boxes: Tensor) -> Tensor:
    """float32 [V, F, K]: the filters of each view [V, n, n, C] by itself, with as many unknowns as it has cells."""
    found = []
    for one, box in zip(features.float(), boxes):
        cells = task.cells(one[None])[0]
        wanted = task.wanted(box[None], len(one)).flatten(0, 2)
        gram = cells @ cells.T
        gram.diagonal().add_(task.ridge * cells.square().sum() / cells.shape[1])
        found.append(cells.T @ torch.cholesky_solve(wanted, torch.linalg.cholesky(gram)))
    return torch.stack(found)


@torch.no_grad()
def answers(task: DCF, crops: np.ndarray, boxes: Tensor) -> Tensor:
    """`Shard.small` of crops uint8 [E, V, n, n, 3]: the other object's view is the next of the next episode."""
    found, device = [], torch.device("cpu")

    def seen(crops: np.ndarray) -> Tensor:
        made = torch.from_numpy(crops).permute(0, 3, 1, 2)
        made = functional.interpolate(made, (task.fine_image,) * 2, mode="bilinear", antialias=True)
        return fine.spectra(made.permute(0, 2, 3, 1).numpy(), device)

    here = seen(crops[0])
    first = here
    for e in range(len(crops)):
        following = seen(crops[e + 1]) if e + 1 < len(crops) else first
        n, rows = here.shape[-2], []
        filters_ = task.sharpen(here, boxes[e], fine.supports(boxes[e, :, 2:] * n, n), None)
        for v, one in enumerate(filters_):
            shown = torch.cat([here, following[None, (v + 1) % len(here)]])
            rows.append(fine.respond(one.expand_as(shown), shown))
        found.append(torch.stack(rows).half())
        here = following
    return torch.stack(found)


@torch.no_grad()
def shard(task: DCF, file: Path, cache: Path) -> Shard:
    """The views of a file with their features, made once."""
    views = np.load(file)
    boxes, store = torch.from_numpy(views["boxes"]).float(), cache / f"{file.stem}.pt"
    if not store.is_file():
        kept = []
        for crops in views["crops"]:
            with half():
                found = task.encoder.layers(pictures(task, crops), task.taps)
            kept.append(task.head.reduced(found.float()).half())
        features = torch.stack(kept)
        torch.save((features, torch.stack([filters(task, one, box) for one, box in zip(features, boxes)])), store)
    low, high = boxes[..., :2].clamp(0, 1), (boxes[..., :2] + boxes[..., 2:]).clamp(0, 1)
    whole = ((high - low).prod(-1) / boxes[..., 2:].prod(-1)).numpy() > 0.97
    usable = (views["present"] == 1) & (views["visible"] > 0.75) & whole
    small = torch.zeros(len(boxes), boxes.shape[1], boxes.shape[1] + 1, 0, 0)
    if task.fine_told:
        store_of_small = cache / f"{file.stem}-fine-{task.fine_image}.pt"
        if not store_of_small.is_file():
            torch.save(answers(task, views["crops"], boxes), store_of_small)
        small = torch.load(store_of_small)
    return Shard(*torch.load(store), boxes, usable, views["present"], small)


def draw(task: DCF, shards: list[Shard], rng: np.random.Generator) -> tuple[Any, ...] | None:
    """One sample; None where the draw is no good."""
    own = shards[rng.integers(len(shards))]
    e = int(rng.integers(len(own.boxes)))
    good = np.flatnonzero(own.usable[e])
    first = int(rng.choice(good)) if len(good) and rng.random() < 0.5 else 0
    seekable = [v for v in np.flatnonzero(own.present[e] >= 0) if v != first]
    if first not in good or not seekable:
        return None
    search = int(rng.choice(seekable))
    later = [v for v in good if v not in (first, search)]
    last = int(rng.choice(later)) if later and rng.random() < LATELY else first
    alien = rng.random() < ALIEN
    o = (e + 1) % len(own.boxes) if alien else e
    small = own.small[e, first, own.boxes.shape[1] if alien else search]
    search = (first + 1) % own.boxes.shape[1] if alien else search
    box, lately = own.boxes[e, first], own.boxes[e, last].clone()
    if last != first:  # as the tracker finds it
        lately[:2] += lately[2:] * torch.from_numpy(rng.normal(0, 0.04, 2)).float()
        lately[2:] *= torch.from_numpy(np.exp(rng.normal(0, 0.06, 2))).float()
    wrong = torch.from_numpy(np.exp(rng.normal(0, WRONG[0]) + rng.normal(0, WRONG[1], 2))).float()
    present = torch.tensor(own.present[e, search] == 1 and not alien)
    templates = own.features[e, first], box, own.features[e, last], lately
    found = own.features[o, search], own.boxes[e, search], present, own.filters[e, first], box[2:] * wrong
    return *templates, *found, small


def losses(task: DCF, batch: list[Tensor]) -> dict[str, Tensor]:
    """{"loss", "focal", "box", "presence", "overlap", "hit", "filter_hit"} of stacked samples."""
    first, box1, last, box2, search, box, present, filter_, size, small = batch
    head, n, here = task.head, search.shape[1], present.float()[:, None, None]
    responses = (task.cells(search.float()) @ filter_).unflatten(1, (n, n))
    response = responses[..., 0]
    high = peaks(small.float(), n) if task.fine_told else None
    with half():
        known = [head.template(tokens(f.float(), b), kind) for kind, (f, b) in enumerate(((first, box1), (last, box2)))]
        logits, boxes, cells = head(search.float(), torch.cat(known, 1), responses, size, high)
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
    rest = {"overlap": found[present].mean(), "hit": (found[present] > 0.5).float().mean()}
    return {"loss": focal + 2 * sides + 0.5 * presence, "focal": focal, "box": sides, "presence": presence, **rest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--views", type=Path, nargs="+", required=True)
    parser.add_argument("--cache", type=Path, default=Path("dcf-cache"))
    parser.add_argument("--image", type=int, default=252, help="side of the crops that the encoder sees")
    parser.add_argument("--fine", type=int, default=0, help="side of the crops for a filter on small cells")
    parser.add_argument("--extent", action="store_true", help="the heads are told how far the object reaches")
    parser.add_argument("--told", action="store_true", help="the heads are told what it answers")
    parser.add_argument("--taps", type=int, nargs="+", default=[8, 12], help="its blocks that are looked at")
    parser.add_argument("--trunk", default="", help="where the tracker is to find the encoder, for the header")
    parser.add_argument("--init", type=Path, help="heads to go on from")
    parser.add_argument("--mean", type=Path, help="heads of another run: what is saved is the mean of both")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--window", type=int, default=0, help="files drawn from at a time, in order; 0: all of them")
    parser.add_argument(
        "--each", type=int, default=220, help="steps after which the next file takes the oldest one's place"
    )
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--credit", default="", help="what the views were made of, for the header")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="how the tracker uses them")
    given = parser.parse_args()
    allocator.keep_memory()
    torch.manual_seed(given.seed)
    rng = np.random.default_rng(given.seed)
    given.cache.mkdir(parents=True, exist_ok=True)
    encoder = weights.load(str(given.encoder)).encoder
    beside = 0.5 if given.fine and not given.told else 0.0
    fields = {"fine_image": given.fine, "fine_told": given.told, "fine_share": beside, "fine_centre": 0.0}
    task = DCF(image=given.image, taps=tuple(given.taps), trunk=given.trunk, extent=given.extent, **fields)
    task.encoder = encoder
    with torch.no_grad():
        components(task, np.load(given.views[0])["crops"][:, 0])
    if given.init:
        begin(task, given.init)
    task.head.reduce.requires_grad_(False)
    window, upto, seen = given.window or len(given.views), 0, 0
    shards: list[Shard] = []
    learning = {name: p for name, p in task.head.named_parameters() if p.requires_grad}
    mean = {name: p.detach().clone() for name, p in learning.items()}
    optimizer = torch.optim.AdamW(learning.values(), given.rate, betas=(0.9, 0.98), weight_decay=0.02)
    for step in range(given.steps):
        while upto < min(len(given.views), window + step // given.each):
            shards = [*shards, shard(task, given.views[upto], given.cache)][-window:]
            upto, seen = upto + 1, seen + shards[-1].present.size
        for group in optimizer.param_groups:
            group["lr"] = given.rate * min(1, (step + 1) / WARM) * (0.5 + 0.5 * math.cos(math.pi * step / given.steps))
        samples: list[tuple[Any, ...]] = []
        while len(samples) < BATCH:
            if (one := draw(task, shards, rng)) is not None:
                samples.append(one)
        found = losses(task, [torch.stack(column) for column in zip(*samples)])
        optimizer.zero_grad()
        found["loss"].backward()
        torch.nn.utils.clip_grad_norm_(learning.values(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for name, p in learning.items():
                mean[name].lerp_(p, 1 - min(KEEP, (1 + step) / (20 + step)))
        if step % 25 == 24:
            print(
                step + 1, " ".join(f"{name} {float(value.detach()):.3f}" for name, value in found.items()), flush=True
            )
    with torch.no_grad():
        for name, p in learning.items():
            p.copy_(mean[name])
        for name, value in weights.read_tensors(given.mean).items() if given.mean else ():
            own = task.state_dict()[name]
            own.copy_((own + value.float()) / 2)
    task.encoder = None
    for name, value in registry.parsed(DCF, registry.assignments(given.set)).items():
        setattr(task, name, value)
    task.check()
    extra = {"steps": given.steps, "batch": BATCH, "views": seen, "data": given.credit}
    weights.save(task, given.out, extra, half=True)


if __name__ == "__main__":
    main()
