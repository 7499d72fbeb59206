"""Crops resized as a batch: what the host makes bit for bit, through the loop, and in data processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dropmae import registry
from dropmae.data.augment import crop_box, crop_clip, crop_frames, resize
from dropmae.data.clips import Clips, Sequence, Share, batches, collate, generator
from dropmae.data.resample import BITS, COARSE, split, unpack, weights
from dropmae.verbs.pretrain import pretrain
from dropmae.video import Video, write

pytestmark = pytest.mark.usefixtures("no_charts")


def photo(seed: int, height: int, width: int) -> np.ndarray:
    """Blocks and noise: edges overshoot, and everything has to be clipped."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.integers(0, 2, (height // 8 + 1, width // 8 + 1, 3)), np.ones((8, 8, 1)))[:height, :width]
    return np.clip(blocks * 255 + rng.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("sides", [(32, 32), (24, 40), (96, 96)])
@pytest.mark.parametrize("shared", [False, True])
def test_a_batch_makes_what_the_host_makes(sides: tuple[int, int], shared: bool) -> None:
    shapes = [(60, 90), (120, 70), (256, 300), sides]
    host, device = [], []
    for i, (height, width) in enumerate(shapes):
        frames = [photo(i, height, width), photo(i + 9, height, width)]
        crops = crop_frames(frames, generator(3, i), sides, (0.2, 1.0), flip=0.5, shared=shared)
        device.append({"frames": crops, "index": i, "reports": []})
        host.append({"frames": crops, "index": i, "reports": []})
    expected = collate(host)["frames"]
    batch = collate(device, resize=False)
    assert "frames" not in batch
    found = unpack(batch)
    assert found.keys() == {"frames", "index", "reports"}
    assert found["frames"].dtype == torch.uint8
    assert torch.equal(found["frames"], expected)


def test_autocast_does_not_blur_the_levels() -> None:
    crops = crop_frames([photo(0, 90, 80)], generator(1), (64, 64), (0.5, 1.0), flip=0.5, shared=False)
    batch = collate([{"frames": crops, "reports": []}], resize=False)
    with torch.autocast("cpu", torch.bfloat16):
        found = unpack(batch)["frames"]
    assert torch.equal(found[0], torch.from_numpy(np.asarray(crops)))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 200), (200, 7), (40, 32), (500, 300)])
def test_the_host_goes_across_and_then_down(height: int, width: int) -> None:
    """Whatever Pillow would do first, and each pass as Pillow alone would do it."""
    frame = photo(4, height, width)
    across = Image.fromarray(frame).resize((40, height), Image.Resampling.BICUBIC)
    assert np.array_equal(resize(frame, (24, 40)), np.asarray(across.resize((40, 24), Image.Resampling.BICUBIC)))


def test_weights_in_two_parts_are_the_weights() -> None:
    made = weights(torch.tensor([200, 30]), 200, 32)
    coarse, fine = split(made)
    assert torch.equal(coarse * 2**-COARSE + fine * 2**-BITS, made)
    for part in (coarse, fine):
        assert torch.equal(part, part.round())
        assert part.abs().max() <= 2**11


def test_clips_and_their_motion_agree() -> None:
    frames = [photo(i, 96, 96) for i in range(3)]
    motion = np.random.default_rng(0).normal(size=(3, 6, 6, 2)).astype(np.float32)
    args = ((48, 48), (3, 3), (0.5, 1.0))
    crops, vectors = crop_clip(frames, motion, 16, generator(2), *args, flip=1.0)
    top, left, height, width = crop_box(96, 96, generator(2), (0.5, 1.0))
    assert crops.flips == [True] * 3
    assert np.asarray(crops).shape == (3, 3, 48, 48)
    assert np.array_equal(crops.regions[1], frames[1][top : top + height, left : left + width])
    mirrored = crop_clip(frames, motion, 16, generator(2), *args, flip=0.0)[1][:, :, ::-1] * [-1, 1]
    np.testing.assert_allclose(vectors, mirrored)


def test_weights_add_up_and_nothing_comes_from_outside() -> None:
    made = weights(torch.tensor([20, 64, 33]), 64, 32)
    torch.testing.assert_close(made.sum(-1), torch.ones(3, 32))
    assert not made[0, :, 20:].any()
    assert torch.equal(weights(torch.tensor([32]), 40, 32)[0], torch.eye(32, 40))


def test_a_batch_without_crops_passes() -> None:
    batch = {"frames": torch.zeros(2, 2, 3, 4, 4), "seed": 0}
    assert unpack(batch).keys() == batch.keys()
    assert unpack(batch)["frames"] is batch["frames"]


@pytest.mark.parametrize("method", ["mae", "twinmae", "dropmae", "siammae", "mgm"])
def test_every_method_takes_it(method: str, sequences: list[Sequence]) -> None:
    module = registry.load("methods", method)(size="tiny", image=64)
    share = Share(batch=2, micro=2)
    host, device = (
        next(batches(Clips(sequences, module.sample, 0, resize_on=where), share, 0, 1, workers))
        for where, workers in (("host", 0), ("device", 1))
    )
    assert all(value.is_shared() for value in device.values() if isinstance(value, torch.Tensor) and value.numel() > 99)
    device = unpack(device)
    assert device.keys() == host.keys()
    assert all(torch.equal(device[key], host[key]) for key in host if key != "reports")


def test_a_run_learns_the_same(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / "videos" / f"{i}.mp4", [photo(10 * i + k, 64, 80) for k in range(6)], 25)
    losses = []
    for augment in ("host", "device"):
        settings = {
            "size": "tiny",
            "depth": 2,
            "image": 32,
            "steps": 3,
            "global_batch": 4,
            "workers": 0,
            "device": "cpu",
        }
        run = pretrain("twinmae", tmp_path / "videos", out=tmp_path / augment, augment=augment, **settings)
        losses.append(run["loss"])
    assert losses[0] == losses[1]


def test_frames_are_scaled_while_they_are_decoded(tmp_path: Path) -> None:
    write(tmp_path / "big.mp4", [photo(k, 128, 160) for k in range(4)], 25)
    assert Sequence("big", tmp_path / "big.mp4", short_side=32).video.shape == (4, 32, 40, 3)
    assert Sequence("big", Video(tmp_path / "big.mp4"), short_side=32).video.shape == (4, 128, 160, 3)
    with pytest.raises(ValueError, match="short-side must be 0 or at least 16"):
        pretrain("twinmae", tmp_path, out=tmp_path / "run", short_side=8)
