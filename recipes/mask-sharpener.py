"""Trains what makes propagated masks sharp, `dropmae.tasks.propagation.sharpen`, on views made by dcf-views.py --masks.

Use: python recipes/mask-sharpener.py ENCODER OUT.safetensors --views FILE.npz ... [--steps N] [--cache DIR]

The mask of each episode's first view is carried to the other three by training-free propagation with ENCODER; the
network learns what is missing from there to the true mask, which the pasting tells. Losses: cross-entropy, pixels near
the edge of the object counting more, and the dice loss (V-Net, arXiv 1606.04797).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae import weights
from dropmae.metrics.masks import boundary_f, jaccard
from dropmae.ops import allocator
from dropmae.target import Target
from dropmae.tasks.propagation import Propagation
from dropmae.tasks.propagation.sharpen import Sharpener, colour_odds, places, shares

BATCH, WARM, KEEP, EDGE = 16, 60, 0.997, 4.0


@torch.no_grad()
def propagated(task: Propagation, file: Path, cache: Path) -> Tensor:
    """float16 [E, V - 1, 2, n, n]: labels of background and object in all views but the first of each episode."""
    store = cache / f"{file.stem}-soft.pt"
    if not store.is_file():
        views, found = np.load(file), []
        task.encoder = weights.load(str(task.trunk)).encoder.eval()
        crops, masks = views["crops"], views["masks"]
        half = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        for pictures, mask in zip(crops, masks):
            own = []
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                given = Target(ids=np.array([1]), mask=(mask[0] > 127).astype(np.uint8))
                state = task.start(pictures[0], given)
                for picture in pictures[1:]:
                    state, _ = task.step(state, picture)
                    own.append(state.soft[(state.index - 1) % task.context].T.unflatten(1, state.grid).half())
            found.append(torch.stack(own))
        torch.save(torch.stack(found), store)
    return torch.load(store)


class Views:
    """Episodes at half size, as the network sees them."""

    def __init__(self, file: Path, soft: Tensor) -> None:
        views = np.load(file)
        crops = torch.from_numpy(views["crops"]).permute(0, 1, 4, 2, 3)
        self.pictures = torch.stack([functional.avg_pool2d(one.float(), 2).round().byte() for one in crops])
        masks = torch.from_numpy(views["masks"])
        self.masks = torch.stack([functional.avg_pool2d(one.float(), 2).round().byte() for one in masks])
        first = zip(self.pictures[:, 0], self.masks[:, 0])
        self.odds = torch.stack([colour_odds(picture.float() / 255, mask > 127) for picture, mask in first]).half()
        self.soft = soft

    def sample(self, rows: np.ndarray, columns: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Picture, share, stretched, odds and truth of views `columns` (from 1) of episodes `rows`."""
        picture = self.pictures[rows, columns].float() / 255
        odds = self.odds[rows].float().gather(1, places(picture).flatten(1)).view(len(rows), *picture.shape[2:])
        soft = functional.interpolate(self.soft[rows, columns - 1].float(), picture.shape[2:], mode="bilinear")
        return (
            picture,
            *(torch.stack(part)[:, 1] for part in zip(*map(shares, soft))),
            odds,
            self.masks[rows, columns].float() / 255,
        )


def varied(batch: tuple[Tensor, ...], rng: np.random.Generator) -> tuple[Tensor, ...]:
    """The same, some mirrored, some with colours that tell nothing, some with worse masks, all lit otherwise."""
    picture, share, wide, odds, truth = (part.clone() for part in batch)
    count = len(picture)
    told = torch.from_numpy(rng.random(count) > 0.15)
    odds *= told[:, None, None]
    light = torch.from_numpy(np.exp(rng.normal(0, 0.1, (count, 3)))).float()
    picture = (picture * light[:, :, None, None] + float(rng.normal(0, 0.03))).clamp(0, 1)
    for k in np.flatnonzero(rng.random(count) < 0.4):
        side = int(rng.integers(4, 20))
        noise = torch.from_numpy(rng.normal(0, rng.uniform(0.2, 1.2), (1, 1, side, side))).float()
        noise = functional.interpolate(noise, share.shape[1:], mode="bilinear")[0, 0]
        for plane in (share, wide):
            plane[k] = (torch.logit(plane[k], 0.01) + noise).sigmoid()
    mirrored = torch.from_numpy(rng.random(count) < 0.5)
    for part in (picture, share, wide, odds, truth):
        part[mirrored] = part[mirrored].flip(-1)
    return picture, share, wide, odds, truth


def loss(logits: Tensor, truth: Tensor) -> Tensor:
    near = functional.max_pool2d(truth[:, None], 9, 1, 4) + functional.max_pool2d(-truth[:, None], 9, 1, 4)
    cross = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none") * (1 + EDGE * near[:, 0])
    chance = logits.sigmoid()
    dice = 1 - (2 * (chance * truth).sum((1, 2)) + 50) / (chance.sum((1, 2)) + truth.sum((1, 2)) + 50)
    return cross.mean() + dice.mean()


@torch.no_grad()
def judged(network: Sharpener, held: tuple[Tensor, ...]) -> str:
    """J and F of held-out views, before and after."""
    numbers = []
    for name, answer in (("before", held[2] > 0.5), ("after", network(*held[:4]) > 0)):
        pairs = [(a.numpy(), t.numpy() > 0.5) for a, t in zip(answer, held[4]) if (t > 0.5).sum() > 20]
        j, f = (np.mean([metric(a, t) for a, t in pairs]) for metric in (jaccard, boundary_f))
        numbers.append(f"{name} J {j:.3f} F {f:.3f}")
    return ", ".join(numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--views", type=Path, nargs="+", required=True)
    parser.add_argument("--cache", type=Path, default=Path("sharpener-cache"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--credit", default="", help="what the views were made of, for the header")
    given = parser.parse_args()
    allocator.keep_memory()
    torch.manual_seed(given.seed)
    rng = np.random.default_rng(given.seed)
    given.cache.mkdir(parents=True, exist_ok=True)
    task = Propagation(resize="native", trunk=given.encoder)
    shards = [Views(file, propagated(task, file, given.cache)) for file in given.views]
    settings = Propagation(trunk=given.encoder, sharp=True)
    network = settings.sharpener
    assert network is not None
    network.to(memory_format=torch.channels_last)
    half = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    mean = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = torch.optim.AdamW(network.parameters(), given.rate, betas=(0.9, 0.98), weight_decay=0.01)
    held = shards[0].sample(np.repeat(np.arange(20), 3), np.tile([1, 2, 3], 20))
    for step in range(given.steps):
        for group in optimizer.param_groups:
            group["lr"] = given.rate * min(1, (step + 1) / WARM) * (0.5 + 0.5 * math.cos(math.pi * step / given.steps))
        at = int(rng.integers(len(shards)))
        rows = rng.integers(20 if at == 0 else 0, len(shards[at].soft), BATCH)
        *seen, truth = varied(shards[at].sample(rows, rng.integers(1, 4, BATCH)), rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = network(seen[0].contiguous(memory_format=torch.channels_last), *seen[1:])
        found = loss(logits, truth)
        optimizer.zero_grad()
        found.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for name, p in network.named_parameters():
                mean[name].lerp_(p, 1 - min(KEEP, (1 + step) / (20 + step)))
        if step % 100 == 99:
            print(step + 1, f"loss {float(found.detach()):.3f}", judged(network, held), flush=True)
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(mean[name])
    print("the mean of the weights:", judged(network, held))
    extra = {"steps": given.steps, "batch": BATCH, "views": sum(s.soft.shape[:2].numel() for s in shards)}
    weights.save(settings, given.out, {**extra, "data": given.credit}, half=True)


if __name__ == "__main__":
    main()
