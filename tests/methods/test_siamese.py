"""CropMAE and ToBo against the arithmetic of their papers; SiamMAE has a file of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dropmae import registry
from dropmae.data.clips import Clips, Sequence, collate, generator
from dropmae.nn import masking
from dropmae.ops import noise


def made(name: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    return registry.load("methods", name)(**{"size": "tiny", "image": 64, **fields})


def places(count: int = 64) -> np.ndarray:
    """uint8 [T, 256, 256, 3] whose red and green say where in the picture a pixel is."""
    row, column = np.mgrid[:256, :256]
    return np.stack([column, row, np.zeros_like(row)], -1).astype(np.uint8)[None].repeat(count, 0)


def test_the_local_crop_lies_within_the_global_one_and_flips_are_independent() -> None:
    method, sequence = made("cropmae", image=224), Sequence("places", places())
    flips = []
    for number in range(200):
        views = np.asarray(method.sample(sequence, generator(0, number))["frames"]).astype(float)
        spans = [(view[axis].min(), view[axis].max()) for view in views for axis in (0, 1)]
        whole, part = spans[:2], spans[2:]
        for (low, high), (first, last) in zip(whole, part):
            assert low - 2 <= first
            assert last <= high + 2
        area = [(a[1] - a[0]) * (b[1] - b[0]) for a, b in (whole, part)]
        assert 0.45 * 256**2 < area[0] <= 256**2
        assert 0.26 < area[1] / area[0] < 0.68
        flips.append(tuple(view[0, 112, 10] > view[0, 112, -10] for view in views))
    shares = [flips.count(pair) / len(flips) for pair in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert all(0.15 < share < 0.35 for share in shares)


@pytest.mark.parametrize(("image", "visible"), [(224, 2), (112, 1)])
def test_so_few_patches_of_the_local_crop_are_seen(image: int, visible: int) -> None:
    method = made("cropmae", image=image)
    mask = method.hide(noise.keys(0, torch.arange(3)), method.grid)
    tokens = method.grid[0] * method.grid[1]
    assert mask.keep.shape == (3, tokens + visible)
    assert (~mask.masked[:, tokens:]).sum(1).tolist() == [visible] * 3


def test_a_picture_suffices() -> None:
    still = Sequence("still", np.zeros((1, 80, 80, 3), np.uint8))
    assert np.asarray(made("cropmae").sample(still, generator(0))["frames"]).shape == (2, 3, 64, 64)
    with pytest.raises(OSError, match="one frame"):
        made("tobo").sample(still, generator(0))
    with pytest.raises(ValueError, match="local crop"):
        made("cropmae", local=(0.0, 0.5))


def test_the_bottleneck_knows_the_past_by_its_class_token_alone() -> None:
    method = made("tobo").eval()
    frames, key = torch.randn(2, 2, 3, 64, 64), noise.keys(0, torch.arange(2))
    mask = method.hide(key, method.grid)
    encode = method.encode
    with torch.no_grad():
        latent = encode(frames, mask, method.grid)

        def losses(change: torch.Tensor) -> dict[str, float]:
            method.encode = lambda *rest: change
            return {name: float(value) for name, value in method.losses(frames, key).items()}

        plain = losses(latent)
        patches, token = latent.clone(), latent.clone()
        patches[:, 1:17] += 1.0
        token[:, 0] += 1.0
        other_patches, other_token = losses(patches), losses(token)
    assert other_patches["loss_bottleneck"] == plain["loss_bottleneck"]
    assert other_patches["loss_context"] != plain["loss_context"]
    assert other_token["loss_bottleneck"] != plain["loss_bottleneck"]
    assert plain["loss"] == pytest.approx(plain["loss_context"] + plain["loss_bottleneck"])


def test_the_first_pass_is_siammaes() -> None:
    """With the same weights and preset the loss beside the past is that of SiamMAE."""
    ours, siam = made("tobo").eval(), made("siammae", preset="rsp", mask_ratio=0.9).eval()
    siam.load_state_dict(ours.state_dict())
    frames = torch.randint(0, 256, (3, 2, 3, 64, 64), dtype=torch.uint8)
    batch = {"frames": frames, "index": torch.arange(3), "seed": 1}
    with torch.no_grad():
        assert torch.equal(ours(batch)["loss_context"], siam(batch)["loss"])
    target = masking.patch_target(ours.patches(masking.normalize(frames)), True)
    assert target.shape == (3, 32, 768)


def test_gaps_of_pairs() -> None:
    method = made("tobo")
    long, short = (Sequence(str(n), np.arange(n, dtype=np.uint8)[:, None, None, None].repeat(64, 1).repeat(64, 2)
                            .repeat(3, 3)) for n in (200, 5))  # fmt: skip
    gaps: dict[str, set[int]] = {"200": set(), "5": set()}
    for sequence in (long, short):
        for number in range(300):
            past, future = np.asarray(method.sample(sequence, generator(1, number))["frames"])[:, 0, 0, 0].astype(int)
            gaps[sequence.name].add(future - past)
            assert past <= (200 - 97 if sequence is long else 3)
    assert min(gaps["200"]) == 1
    assert max(gaps["200"]) > 85
    assert gaps["5"] == {1, 2, 3, 4}
    with pytest.raises(ValueError, match="tobo needs cls"):
        made("tobo", cls=False)


@pytest.mark.parametrize("name", ["cropmae", "tobo"])
def test_the_partner_becomes_worth_something(name: str) -> None:
    """After a few steps another clip's view helps less than one's own."""
    rng = np.random.default_rng(0)
    clips = [
        Sequence(str(n), np.kron(rng.integers(0, 256, (1, 6, 6, 3), np.uint8), np.ones((1, 8, 8, 1), np.uint8))
                 .repeat(8, 0)) for n in range(12)
    ]  # fmt: skip
    method = made(name, image=32, patch=8, depth=2, decoder_width=96, decoder_depth=2, decoder_heads=3, flip=0.0)
    stream = Clips(clips, method.sample, seed=0)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)

    def batch(first: int) -> dict[str, Any]:
        found = collate([stream[i] for i in range(first, first + 12)])
        return {**found, "seed": 0, "step": 0, "progress": 0.5}

    for step in range(80):
        loss = method(batch(12 * step))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert method.eval().probe(batch(12 * 500))["gap"] > 0.02
