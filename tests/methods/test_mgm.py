"""Motion-guided masking: vectors through crops and flips, block matching, and masks that follow what moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dropmae.data.augment import crop_clip, crop_motion
from dropmae.data.clips import Sequence, collate, generator
from dropmae.methods.mgm import MGM, clip_indices
from dropmae.nn import masking
from dropmae.ops import noise
from dropmae.ops.motion import block_motion, clip_changes, clip_motion
from dropmae.video import BLOCK, Writer

SLOTS, GRID = 8, (14, 14)


def make(image: int = 64, **settings: Any) -> MGM:
    torch.manual_seed(0)
    return MGM(size="tiny", image=image, decoder_depth=1, **settings).eval()


def keys(batch: int = 1) -> Tensor:
    return noise.keys(0, torch.arange(batch))


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, 3] with detail at several scales."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cell in (2, 4, 8, 16):
        coarse = rng.normal(size=(height // cell + 1, width // cell + 1, 3))
        total += coarse.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    return np.clip(128 + 35 * total, 0, 255).astype(np.uint8)


def moving_object(
    frames: int = 64, side: int = 224, object_side: int = 48, pan: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A clip [T, side, side, 3] in which a square crosses a background, and the square's (left, top) [T, 2]."""
    background, square = texture(side, side + pan * frames, 1), texture(object_side, object_side, 2)
    clip, places = [], []
    for t in range(frames):
        frame = background[:, pan * t : pan * t + side].copy()
        left, top = 10 + 2 * t, 30 + t
        frame[top : top + object_side, left : left + object_side] = square
        clip.append(frame)
        places.append((left, top))
    return np.stack(clip), np.array(places)


def guided(centres: list[tuple[int, int] | None], side: int = 2) -> Tensor:
    """Vectors [1, 16, 14, 14, 2]: a block that moves by (3, 0) at each slot's centre, still elsewhere; None is NaN."""
    motion = torch.zeros(1, 2 * len(centres), *GRID, 2)
    for slot, centre in enumerate(centres):
        frames = motion[0, 2 * slot : 2 * slot + 2]
        if centre is None:
            frames[:] = torch.nan
        else:
            frames[:, centre[0] - side : centre[0] + side + 1, centre[1] - side : centre[1] + side + 1, 0] = 3
    return motion


def hidden(module: MGM, motion: Tensor) -> Tensor:
    """bool [B, S, 14, 14]: what is hidden of clips with these vectors."""
    return module.hide(keys(len(motion)), GRID, module.moving(motion)).masked.unflatten(1, (-1, *GRID))


def test_block_matching_finds_whole_shifts() -> None:
    picture = torch.from_numpy(texture(96, 128).astype(np.float32)).mean(-1)
    for x, y in ((0, 0), (3, 0), (-2, 5), (6, -6)):
        later = picture.roll((y, x), (0, 1))
        found = block_motion(picture[None], later[None], 8, 6)[0, 2:-2, 2:-2]
        assert (found == torch.tensor([x, y], dtype=torch.float32)).all()
    assert not block_motion(torch.zeros(1, 32, 32), torch.zeros(1, 32, 32), 8, 4).any()  # ties: the shortest shift
    with pytest.raises(ValueError, match="blocks"):
        block_motion(torch.zeros(1, 30, 32), torch.zeros(1, 30, 32), 8, 4)


def test_changes_are_where_the_picture_changes() -> None:
    frames = torch.full((1, 4, 3, 64, 64), 100, dtype=torch.uint8)
    frames[0, 2, :, 16:32, 32:48] = 132
    found = clip_changes(frames, 16)
    assert found.shape == (1, 4, 4, 4, 2)
    assert found[0, 0].isnan().all()
    expected = torch.zeros(4, 4)
    expected[1, 2] = 2.0  # 32 levels
    for number in (2, 3):
        torch.testing.assert_close(found[0, number, ..., 0], expected)
    assert not found[0, 1:, ..., 1].any()
    assert not found[0, 1].any()


def test_clip_motion_is_in_pixels_of_the_picture() -> None:
    frame = torch.from_numpy(texture(64, 64)).permute(2, 0, 1)
    clip = torch.stack([frame.roll(4 * t, 2) for t in range(4)])[None]
    motion = clip_motion(clip, 16, 12)
    assert motion[:, 0].isnan().all()
    assert (motion[0, 1:, 1:3, 1:3] == torch.tensor([4.0, 0.0])).all()


def test_cropped_vectors_are_area_means_of_what_is_known() -> None:
    motion = np.full((1, 2, 2, 2), np.nan, np.float32)
    motion[0, 0, 0], motion[0, 0, 1] = (4, 0), (8, 2)
    same = crop_motion(motion, 16, (0, 0, 32, 32), (2, 2))
    assert np.array_equal(same, motion, equal_nan=True)
    whole = crop_motion(motion, 16, (0, 8, 32, 16), (1, 1))
    assert whole[0, 0, 0].tolist() == [6, 1]  # half of either block; the unknown row below does not count
    assert np.isnan(crop_motion(motion, 16, (16, 0, 16, 32), (1, 2))).all()


def test_crop_and_flip_move_vectors_as_they_move_pictures() -> None:
    """What block matching sees on the crop is what the cropped vectors say, flipped or not."""
    frames, _ = moving_object(frames=8, side=192, object_side=96)
    true = np.zeros((8, 12, 12, 2), np.float32)
    for t in range(8):
        rows, columns = slice((30 + t) // 16 + 1, (126 + t) // 16), slice((10 + 2 * t) // 16 + 1, (106 + 2 * t) // 16)
        true[t, rows, columns] = (2, 1)
    flipped = []
    for seed in range(4):
        rng = generator(seed)
        clip, motion = crop_clip(list(frames), true, BLOCK, rng, (192, 192), (12, 12), (0.9, 1.0), flip=0.5)
        seen = clip_motion(torch.from_numpy(np.asarray(clip))[None], 16, 6)[0].numpy()
        inside = np.abs(motion[1:, ..., 1]) > 0.99
        assert inside.sum() > 20
        near = np.abs(seen[1:][inside] - motion[1:][inside]).max(-1) <= 2.1  # matching is good to two pixels
        assert near.mean() > 0.9
        assert np.sign(np.median(seen[1:][inside][:, 0])) == np.sign(motion[1:][inside][0, 0])
        flipped.append(motion[1:][inside][0, 0] < 0)
    assert len(set(flipped)) == 2


@pytest.mark.parametrize("mask", MGM.masks)
@pytest.mark.parametrize("shape", ["rectangle", "ellipse", "map"])
def test_every_slot_hides_as_many_tokens(mask: Any, shape: Any) -> None:
    module = make(mask=mask, shape=shape)
    masked = hidden(module, guided([(3, 3 + slot) for slot in range(SLOTS)])).flatten(2)
    if mask == "random":
        assert masked.sum() == SLOTS * 196 - 392
        assert len(set(masked.sum(2)[0].tolist())) > 1
    else:
        assert (masked.sum(2) == 196 - 49).all()


@pytest.mark.parametrize("shape", ["rectangle", "ellipse", "map"])
@pytest.mark.parametrize("guide", ["peak", "centroid"])
def test_masks_follow_what_moves(shape: Any, guide: Any) -> None:
    module = make(mask_ratio=0.3, shape=shape, guide=guide)
    motion = guided([(6, 3 + slot) for slot in range(SLOTS)])
    masked, moving = hidden(module, motion), motion[:, ::2, ..., 0] > 0
    assert (masked & moving).sum() / moving.sum() > 0.95
    if shape == "rectangle":
        rows, columns = masked[0, 4].any(1), masked[0, 4].any(0)
        assert rows.sum() * columns.sum() <= 59 + 22  # 59 tokens, and at most one broken row and column


def test_the_camera_does_not_count() -> None:
    motion = guided([(6, 6)] * SLOTS) + torch.tensor([5.0, -4.0])  # everything pans but the object, which adds (3, 0)
    moving = motion[:, ::2, ..., 0] > 6
    kept = make(mask_ratio=0.3)
    assert (hidden(kept, motion) & moving).sum() / moving.sum() > 0.95
    strength, _ = make(camera=False).moving(motion)
    assert strength.min() > 6


def test_slots_without_vectors_are_interpolated_and_the_path_is_smooth() -> None:
    module = make(mask_ratio=0.2, smooth=0.0)
    centres: list[Any] = [(6, 3), None, None, (6, 9), (6, 9), (6, 9), (6, 9), None]
    masked = hidden(module, guided(centres))[0].float()
    columns = (masked.sum(1) * torch.arange(14)).sum(1) / masked.sum((1, 2))
    assert float(columns[1]) == pytest.approx(5, abs=0.5)
    assert float(columns[2]) == pytest.approx(7, abs=0.5)
    assert float(columns[7]) == pytest.approx(float(columns[6]), abs=0.3)
    jump: list[Any] = [(6, 3)] * 4 + [(6, 10)] * 4
    steps = []
    for smooth in (0.0, 1.0):
        masked = hidden(make(mask_ratio=0.2, smooth=smooth), guided(jump))[0].float()
        columns = (masked.sum(1) * torch.arange(14)).sum(1) / masked.sum((1, 2))
        steps.append(columns.diff().abs().max())
    assert steps[1] < 0.6 * steps[0]


def test_a_clip_in_which_nothing_moves_gets_one_mask_somewhere() -> None:
    module = make(mask_ratio=0.3)
    masked = module.hide(keys(8), GRID, module.moving(torch.zeros(8, 16, *GRID, 2))).masked.unflatten(1, (8, -1))
    same = (masked == masked[:, :1]).float().mean()
    assert same > 0.95  # all but broken ties at the border
    assert len({tuple(row.tolist()) for row in masked[:, 0]}) == 8


def test_the_simulated_mask_moves_on_its_own() -> None:
    module = make(mask="simulated", mask_ratio=0.2)
    still = module.moving(torch.zeros(6, 16, *GRID, 2))
    masked = module.hide(keys(6), GRID, still).masked.unflatten(1, (8, *GRID)).float()
    columns = (masked.sum(2) * torch.arange(14)).sum(2) / masked.sum((2, 3))
    assert (columns.diff(dim=1).abs().amax(1) < 2.6).all()
    assert (columns[:, 0] - columns[:, -1]).abs().max() > 1


def test_a_share_of_a_guided_mask_is_drawn_at_random() -> None:
    motion = guided([(5, 5)] * 8).expand(4, -1, -1, -1, -1)
    plain = hidden(make(mask_ratio=0.25), motion)
    half = hidden(make(mask_ratio=0.25, mask_mix=0.5), motion)
    assert half.sum((2, 3)).eq(49).all()  # as many as before, in every slot
    kept = (half & plain).sum((2, 3)).float()
    assert (kept >= 25).all()
    assert kept.mean() < 25 + 49 * 24 / 171 + 2  # and those that chance hides again
    assert not (half[:, :1] == half).all()  # drawn anew in every slot
    assert torch.equal(hidden(make(mask_ratio=0.25, mask_mix=0.0), motion), plain)
    free = hidden(make(mask_ratio=0.25, mask_mix=1.0), motion)
    assert abs(float((free & plain).sum()) / float(plain.sum()) - 0.25) < 0.05


def test_a_tube_is_the_same_in_every_slot() -> None:
    masked = hidden(make(mask="tube", mask_ratio=0.9), torch.zeros(3, 16, *GRID, 2))
    assert (masked == masked[:, :1]).all()
    assert (~masked).sum((2, 3)).eq(19).all()


def test_what_moves_in_a_video_is_hidden_with_and_without_codec_vectors(tmp_path: Path) -> None:
    frames, places = moving_object()
    with Writer(tmp_path / "clip.mp4", 30, b_frames=0, references=1, gop=32) as writer:
        for frame in frames:
            writer.write(frame)
    shares = {}
    for vectors, source in (("codec", tmp_path / "clip.mp4"), ("match", frames), ("auto", frames), ("changes", frames)):
        module = make(image=224, vectors=vectors, scale=(1.0, 1.0), flip=0.0, mask_ratio=0.3)
        sample = module.sample(Sequence("clip", source), generator(1))
        # The start is drawn first, and alike for every source; the file's pictures are not the frames' bit for bit.
        start = clip_indices(len(frames), 16, 4, generator(1))[0]
        moving = (torch.from_numpy(sample["strength"])[None], torch.from_numpy(sample["known"])[None])
        masked = module.hide(keys(), GRID, moving).masked
        covered = torch.zeros(SLOTS, *GRID)
        for slot in range(SLOTS):
            left, top = places[start + 8 * slot]
            covered[slot, top // 16 : (top + 47) // 16 + 1, left // 16 : (left + 47) // 16 + 1] = 1
        shares[vectors] = float((masked[0].float() * covered.flatten()).sum() / covered.sum())
    assert min(shares.values()) > 0.85, shares


def test_the_probe_says_how_much_motion_is_hidden() -> None:
    frames, _ = moving_object()
    shares = {}
    for mask in ("motion", "tube"):
        module = make(image=224, mask=mask, mask_ratio=0.5, frames=4, vectors="match")
        batch = collate(
            [{**module.sample(Sequence("clip", frames), generator(n)), "index": n, "reports": []} for n in (0, 1)]
        )
        with torch.no_grad():
            shares[mask] = module.probe({**batch, "seed": 0})["hidden_motion"]
    assert shares["motion"] > 0.9
    assert shares["tube"] < 0.7


def test_features_are_those_of_a_clip_of_one_repeated_frame() -> None:
    module = make(frames=2)
    frame = torch.randn(2, 3, 64, 64)
    clip = frame[:, None].expand(-1, 2, -1, -1, -1)
    mask = masking.keep_all(module.hide(keys(2), (4, 4), module.moving(torch.zeros(2, 2, 4, 4, 2))))
    with torch.no_grad():
        whole = module.encode(clip, mask, (4, 4)).transpose(1, 2).unflatten(2, (4, 4))
        torch.testing.assert_close(module.encoder.features(frame), whole, atol=1e-5, rtol=1e-5)


def test_targets_are_normalised_as_asked() -> None:
    clip = torch.rand(1, 4, 3, 64, 64)
    colour = make(frames=4).target(clip).unflatten(-1, (-1, 3))
    torch.testing.assert_close(colour.mean(-2), torch.zeros(1, 32, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(colour.std(-2), torch.ones(1, 32, 3), atol=1e-4, rtol=0)
    patch = make(frames=4, norm_by="patch").target(clip)
    torch.testing.assert_close(patch, masking.patch_target(make(frames=4).patches(clip), True))
    assert torch.equal(make(frames=4, norm_pix=False).target(clip), make(frames=4).patches(clip))


@pytest.mark.parametrize("settings", [{}, {"norm_by": "patch"}, {"norm_pix": False}, {"tubelet": 1}, {"cls": True}])
def test_pictures_are_the_inverse_of_targets(settings: dict[str, Any]) -> None:
    module = make(frames=4, **settings)
    clip = torch.randn(2, 4, 3, 64, 64)
    torch.testing.assert_close(module.pictures(module.target(clip), clip), clip, atol=1e-4, rtol=1e-4)
    prediction, mask = module.predict(clip, keys(2))  # no vectors: they are matched from the frames
    assert prediction.shape == module.target(clip).shape
    assert mask.masked.sum(1).tolist() == [module.slots * 12] * 2


def test_clips_of_short_videos() -> None:
    rng = generator(0)
    starts = {clip_indices(64, 16, 4, rng)[0] for _ in range(50)}
    assert starts == {0, 1, 2, 3}
    assert clip_indices(61, 16, 4, rng) == list(range(0, 61, 4))
    assert np.diff(clip_indices(40, 16, 4, rng)).tolist() == [2] * 15
    spread = clip_indices(5, 16, 4, rng)
    assert (spread[0], spread[-1], len(spread)) == (0, 4, 16)
    assert sorted(spread) == spread
    with pytest.raises(OSError, match="one frame"):
        clip_indices(1, 16, 4, rng)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"mask": "cube"}, "mask"),
        ({"frames": 15}, "tubelets"),
        ({"stride": 0}, "stride"),
        ({"aspect": (2.0, 1.0)}, "aspect"),
        ({"decoder_heads": 5}, "heads"),
        ({"learned_positions": 14}, "learned"),
        ({"smooth": -1.0}, "smooth"),
        ({"mask_mix": 1.5}, "mask-mix is a share"),
        ({"mask_mix": 0.5, "mask": "tube"}, "mask-mix is for masks that follow"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make(**wrong)
    module = make()
    with pytest.raises(ValueError, match="16 frames"):
        module.predict(
            torch.zeros(1, 4, 3, 64, 64),
            keys(),
            module.hide(keys(), (4, 4), module.moving(torch.zeros(1, 16, 4, 4, 2))),
        )
