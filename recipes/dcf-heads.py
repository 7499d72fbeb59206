"""Trains a tracker's heads on the features of a frozen encoder: `dropmae.tasks.dcf`, on views made by dcf-views.py.

Use: python recipes/dcf-heads.py ENCODER OUT.safetensors --views FILE.npz ... [--steps N] [--cache DIR]

ENCODER is a weight file of ours (`dropmae convert` makes one of a public checkpoint). The encoder goes over each view
once; what is kept of it, the principal components of two of its blocks, is stored in half precision in DIR, 145 kB a
view. A sample is an object as it was given, as it was lately (both views of it), and a third view to look for it in: n
views give n^2 samples. The filter of each view is fitted to that view alone.

Samples and losses are those of `dropmae finetune dcf` (`tasks/dcf/learning.py`), which learns from labelled videos;
here an object may also be absent or hidden from view, and the head may be told of the filter on small cells.
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
from dropmae.tasks.dcf import DCF, fine, learning

BATCH, WARM, KEEP = 24, 60, 0.997


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


def begin(task: DCF, file: Path) -> None:
    """Copies trained heads; what they were not told of counts for nothing at first."""
    own = task.head.state_dict()
    for name, value in weights.read_tensors(file).items():
        mine = own[name.removeprefix("head.")]
        if mine.ndim == 2:
            mine[:, value.shape[1] :] = 0
        mine[tuple(slice(0, length) for length in value.shape)] = value.to(mine.dtype)


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
        torch.save(
            (features, torch.stack([learning.filters(task, one, box) for one, box in zip(features, boxes)])), store
        )
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


def draw(task: DCF, shards: list[Shard], absent: bool, rng: np.random.Generator) -> tuple[Any, ...] | None:
    """One sample; None where the draw is no good. `absent`: in some the object is not where it is looked for."""
    own = shards[rng.integers(len(shards))]
    e = int(rng.integers(len(own.boxes)))
    good = np.flatnonzero(own.usable[e])
    first = int(rng.choice(good)) if len(good) and rng.random() < 0.5 else 0
    seekable = [v for v in np.flatnonzero(own.present[e] >= (0 if absent else 1)) if v != first]
    if first not in good or not seekable:
        return None
    search = int(rng.choice(seekable))
    later = [v for v in good if v not in (first, search)]
    last = int(rng.choice(later)) if later and rng.random() < learning.LATELY else first
    alien = rng.random() < learning.ALIEN and absent
    o = (e + 1) % len(own.boxes) if alien else e
    small = own.small[e, first, own.boxes.shape[1] if alien else search]
    search = (first + 1) % own.boxes.shape[1] if alien else search
    box, lately = own.boxes[e, first], own.boxes[e, last].clone()
    if last != first:  # as the tracker finds it
        lately[:2] += lately[2:] * torch.from_numpy(rng.normal(0, 0.04, 2)).float()
        lately[2:] *= torch.from_numpy(np.exp(rng.normal(0, 0.06, 2))).float()
    wrong = torch.from_numpy(np.exp(rng.normal(0, learning.WRONG[0]) + rng.normal(0, learning.WRONG[1], 2))).float()
    present = torch.tensor(own.present[e, search] == 1 and not alien)
    templates = own.features[e, first], box, own.features[e, last], lately
    found = own.features[o, search], own.boxes[e, search], present, own.filters[e, first], box[2:] * wrong
    return *templates, *found, small


NAMES = "first", "first_box", "last", "last_box", "search", "box", "present", "filters", "told", "small"


def losses(task: DCF, samples: list[tuple[Any, ...]]) -> dict[str, Tensor]:
    """The losses of samples and what else is shown of them."""
    batch = {name: torch.stack(column) for name, column in zip(NAMES, zip(*samples))}
    with half():
        return learning.losses(task, batch, batch["present"], batch["small"] if task.fine_told else None)


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
    parser.add_argument("--always", action="store_true", help="the object is in every view that it is looked for in")
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
        first = pictures(task, np.load(given.views[0])["crops"][:, 0])
        seen = torch.cat([task.encoder.layers(part, task.taps) for part in first.split(8)])
        learning.project(task, learning.components(task, seen))
    if given.init:
        begin(task, given.init)
    task.head.reduce.requires_grad_(False)
    window, upto, seen = given.window or len(given.views), 0, 0
    shards: list[Shard] = []
    trained = {name: p for name, p in task.head.named_parameters() if p.requires_grad}
    mean = {name: p.detach().clone() for name, p in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), given.rate, betas=(0.9, 0.98), weight_decay=0.02)
    for step in range(given.steps):
        while upto < min(len(given.views), window + step // given.each):
            shards = [*shards, shard(task, given.views[upto], given.cache)][-window:]
            upto, seen = upto + 1, seen + shards[-1].present.size
        for group in optimizer.param_groups:
            group["lr"] = given.rate * min(1, (step + 1) / WARM) * (0.5 + 0.5 * math.cos(math.pi * step / given.steps))
        samples: list[tuple[Any, ...]] = []
        while len(samples) < BATCH:
            if (one := draw(task, shards, not given.always, rng)) is not None:
                samples.append(one)
        found = losses(task, samples)
        optimizer.zero_grad()
        found["loss"].backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for name, p in trained.items():
                mean[name].lerp_(p, 1 - min(KEEP, (1 + step) / (20 + step)))
        if step % 25 == 24:
            print(
                step + 1, " ".join(f"{name} {float(value.detach()):.3f}" for name, value in found.items()), flush=True
            )
    with torch.no_grad():
        for name, p in trained.items():
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
