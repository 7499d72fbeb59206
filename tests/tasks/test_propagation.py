"""Label propagation: the fast affinity, each script's rules against a plain writing-down of them, and odd input."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from dropmae import registry
from dropmae.data.clips import Sequence
from dropmae.engine import Engine
from dropmae.nn import masking
from dropmae.nn.vit import Positions, resize_positions, sincos_table
from dropmae.ops import switch
from dropmae.ops.affinity import Context, Window, propagate, reference
from dropmae.ops.resampling import hard_labels, input_size, nearest_labels, resize_bytes, soft_labels
from dropmae.target import Target
from dropmae.tasks.propagation import Propagation, State, fitted, speed
from dropmae.tasks.propagation.labels import point_maps, strongest
from dropmae.tasks.propagation.presets import ELSEWHERE, PRESETS

PRESET_NAMES = sorted(PRESETS)
SCRIPTS = [name for name in PRESET_NAMES if name != "fitted"]


class Pixels(nn.Module):
    """An encoder whose features are the patches themselves: shifted by whole patches, they are the same."""

    def __init__(self, patch: int = 16) -> None:
        super().__init__()
        self.patch, self.width = patch, 3 * patch * patch
        self.scale = nn.Parameter(torch.ones(()))

    def features(self, frames: Tensor) -> Tensor:
        patches = masking.patchify(frames, self.patch) * self.scale
        patches = patches - patches.mean(-1, keepdim=True)
        return patches.transpose(1, 2).unflatten(2, masking.grid_of(frames, self.patch))


def make(preset: Any = "dino", encoder: Any = None, **settings: Any) -> Propagation:
    task = Propagation(preset=preset, resize="native", multiple=0, **settings)
    task.encoder = encoder or Pixels()
    return task.eval()


def noise_frame(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def run(task: Propagation, frames: list[np.ndarray], target: Target, **prompts: Target) -> tuple[State, list[Target]]:
    state, out = task.start(frames[0], target), []
    for number, frame in enumerate(frames[1:], 1):
        state, found = task.step(state, frame, prompts.get(f"at{number}"))
        assert list(found) == [number]
        out.append(found[number])
    assert task.finish(state) == {}
    return state, out


def masked(mask: np.ndarray, *ids: int) -> Target:
    return Target(ids=np.array(ids, np.int64), mask=mask)


def mask_of(target: Target) -> np.ndarray:
    assert target.mask is not None
    return target.mask


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


# ---------------------------------------------------------------- affinity


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shape", ["square", "circle", "disk"])
@pytest.mark.parametrize(("grid", "radius", "budget"), [((7, 9), 2.0, 0), ((9, 5), 3.5, 64), ((6, 6), 20.0, 500)])
def test_the_fast_affinity_is_the_plain_one(ties: bool, shape: Any, grid: Any, radius: float, budget: int) -> None:
    generator = torch.Generator().manual_seed(0)
    count = grid[0] * grid[1]
    features = functional.normalize(torch.randn(6, count, 8, generator=generator), dim=2)
    labels = torch.rand(5, count, 3, generator=generator)
    contexts = [Context(features[:1], labels[:1]), Context(features[1:5], labels[1:], Window(radius, shape))]
    for topk in (1, 4):
        plain = reference(features[5], contexts, grid, topk=topk, temperature=0.1, ties=ties)
        fast = propagate(features[5], contexts, grid, topk=topk, temperature=0.1, ties=ties, budget=budget)
        torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)


def test_equal_tokens_count_together_only_where_ties_do() -> None:
    """Ten copies of a frame: with ties all of them count, and else as many as topk."""
    frame = functional.normalize(torch.randn(20, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = torch.zeros(10, 20, 1)
    labels[:5] = 1  # half of the copies say 1
    context = [Context(frame.repeat(10, 1, 1), labels, Window(2, "square"))]
    for how in (reference, propagate):
        together = how(frame, context, (4, 5), topk=3, temperature=0.1, ties=True)
        torch.testing.assert_close(together, torch.full((20, 1), 0.5), atol=1e-4, rtol=0)
    alone = propagate(frame, context, (4, 5), topk=3, temperature=0.1, ties=False)
    thirds = (alone * 3).round()
    torch.testing.assert_close(alone * 3, thirds, atol=1e-4, rtol=0)


def test_the_reference_form_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    features = functional.normalize(torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(0)), dim=2)
    context = [Context(features[:1], torch.rand(1, 12, 2), Window(1))]
    with switch.use("reference"):
        monkeypatch.setattr("dropmae.ops.affinity._best", None)
        out = propagate(features[1], context, (3, 4), topk=2, temperature=0.1)
    assert torch.equal(out, reference(features[1], context, (3, 4), topk=2, temperature=0.1, ties=False))


def test_a_window_smaller_than_topk_is_no_error() -> None:
    features = functional.normalize(torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(0)), dim=2)
    labels = torch.rand(1, 12, 2)
    context = [Context(features[:1], labels, Window(0, "square"))]
    for ties in (False, True):
        out = propagate(features[1], context, (3, 4), topk=5, temperature=0.1, ties=ties)
        torch.testing.assert_close(out, labels[0])  # each token sees its own place alone
    with pytest.raises(ValueError, match="topk"):
        propagate(features[1], context, (3, 4), topk=0, temperature=0.1)


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("preset", "frame", "expected"),
    [
        ("dino", (480, 854), (480, 832)),  # 52x30 tokens
        ("dino", (1080, 1920), (480, 832)),
        ("dino", (480, 1152), (480, 1152)),
        ("dino", (854, 480), (832, 480)),
        ("cropmae", (480, 854), (480, 880)),  # 55x30
        ("crw", (480, 854), (480, 848)),
        ("dinov3", (480, 854), (960, 1712)),
        ("dinov3", (720, 1280), (960, 1712)),
    ],
)
def test_presets_resize_as_their_scripts(preset: Any, frame: tuple[int, int], expected: tuple[int, int]) -> None:
    rules = Propagation(preset=preset)
    assert input_size(frame, rules.resize, 16, rules.multiple, rules.rounding) == expected


def test_benchmarks_change_the_size() -> None:
    assert input_size((1080, 1920), ELSEWHERE["cropmae", "vip"]["resize"], 16, 64, "floor") == (448, 880)
    assert input_size((240, 320), ELSEWHERE["cropmae", "jhmdb"]["resize"], 16, 64, "floor") == (320, 320)
    assert input_size((100, 100), "short480", 14, 64, "floor") == (476, 476)  # 64 is no multiple of this patch
    assert input_size((5, 500), "long480", 16, 64, "floor") == (64, 480)
    with pytest.raises(ValueError, match="short480"):
        Propagation(resize="480p")


def test_nearest_follows_pillow_or_opencv() -> None:
    mask = np.random.default_rng(0).integers(0, 5, (37, 53)).astype(np.uint8)
    pillow = np.asarray(Image.fromarray(mask).resize((20, 11), Image.Resampling.NEAREST))
    assert np.array_equal(nearest_labels(torch.from_numpy(mask).long(), (11, 20), "centre").numpy(), pillow)
    rows, columns = (np.arange(11) * 37 / 11).astype(int), (np.arange(20) * 53 / 20).astype(int)
    corner = nearest_labels(torch.from_numpy(mask).long(), (11, 20), "corner").numpy()
    assert np.array_equal(corner, mask[rows][:, columns])


def test_soft_labels_sum_to_one() -> None:
    mask = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (48, 64)))
    for size in (None, (48, 64), (96, 80)):
        soft = soft_labels(mask, 4, (3, 4), size, "corner")
        assert soft.shape == (12, 4)
        torch.testing.assert_close(soft.sum(1), torch.ones(12))


def test_hard_labels_do_not_depend_on_how_many_maps_fit() -> None:
    maps = torch.rand(40, 5, 6, generator=torch.Generator().manual_seed(0))
    for stretch in (False, True):
        large = functional.interpolate(maps[None], (20, 24), mode="bilinear")[0]
        if stretch:
            low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
            large = (large - low) / (high - low)
        assert torch.equal(hard_labels(maps, (20, 24), upsample="bilinear", stretch=stretch), large.argmax(0))
    constant = torch.stack([torch.ones(2, 2), torch.zeros(2, 2)])
    assert not hard_labels(constant, (4, 4), upsample="bilinear", stretch=True).any()  # and no NaN wins
    assert hard_labels(constant.flip(0), (4, 4), upsample="bilinear", stretch=True).all()


@pytest.mark.parametrize(
    "settings", [{"preset": "fitted"}, {"preset": "dino"}, {"preset": "fitted", "edges": "guided"}]
)
def test_an_object_that_fills_the_frame_stays(settings: dict[str, Any]) -> None:
    """Its map is the same everywhere, which has no least and largest value to be stretched between."""
    frames, mask = wandering()
    _, found = run(make(**settings), frames[:3], masked(np.ones_like(mask)))
    assert [(mask_of(target) == 1).mean() for target in found] == [1, 1]


# ---------------------------------------------------------------- whole videos


@pytest.mark.parametrize("preset", SCRIPTS)
def test_a_shifted_texture_propagates_with_j_one(preset: Any) -> None:
    """Vertical bands, as borders that are straight everywhere survive any interpolation."""
    frame = noise_frame(96, 256)
    mask = np.zeros((96, 256), np.uint8)
    mask[:, 32:96], mask[:, 128:176] = 3, 7
    frames = [np.roll(frame, 16 * t, 1) for t in range(6)]
    _, found = run(make(preset), frames, masked(mask))
    for t, target in enumerate(found, 1):
        true = np.roll(mask, 16 * t, 1)
        assert target.ids.tolist() == [3, 7]
        inside = slice(16 * (t + 1), None)  # what has come in at the left was never seen there
        for number in (3, 7):
            assert jaccard(mask_of(target)[:, inside] == number, true[:, inside] == number) == 1
        assert target.boxes is not None
        assert target.scores is not None
        assert (target.scores > 0.8).all()


@pytest.mark.parametrize("preset", PRESET_NAMES)
@pytest.mark.parametrize("shift", [(16, 0), (-16, 32), (0, -48)])
def test_a_shifted_object_of_whole_patches_has_j_one(preset: Any, shift: tuple[int, int]) -> None:
    """Any outline of whole patches, where pixels take their token's label."""
    frame, mask = noise_frame(160, 192), np.zeros((160, 192), np.uint8)
    mask[64:96, 64:128], mask[96:112, 80:96] = 1, 1
    mask[48:64, 112:128] = 2
    task = make(preset, upsample="nearest", normalize_maps=False)
    frames = [np.roll(frame, (shift[0] * t, shift[1] * t), (0, 1)) for t in range(3)]
    _, found = run(task, frames, masked(mask))
    for t, target in enumerate(found, 1):
        assert np.array_equal(mask_of(target), np.roll(mask, (shift[0] * t, shift[1] * t), (0, 1)))


def plain_dino(frames: list[np.ndarray], mask: np.ndarray, encoder: Any, context: int) -> list[np.ndarray]:
    """DINO's script in one go: exp of similarities, a 0/1 window, everything below the fifth largest zeroed."""
    h, w = frames[0].shape[0] // 16, frames[0].shape[1] // 16
    mean, deviation = np.array(masking.MEAN), np.array([0.228, 0.224, 0.225])
    feats, out = [], []
    for frame in frames:
        picture = torch.from_numpy(((frame / 255 - mean) / deviation).transpose(2, 0, 1)).float()[None]
        feats.append(functional.normalize(encoder.features(picture)[0].flatten(1), dim=0))
    small = np.asarray(Image.fromarray(mask).resize((w, h), Image.Resampling.NEAREST)).copy()
    segs = [functional.one_hot(torch.from_numpy(small).long()).permute(2, 0, 1).float()]
    rows, columns = np.divmod(np.arange(h * w), w)
    near = (abs(rows[:, None] - rows) <= 12) & (abs(columns[:, None] - columns) <= 12)
    for t in range(1, len(frames)):
        used = [0, *range(max(1, t - context), t)]
        affinity = torch.stack([torch.exp(feats[t].T @ feats[s] / 0.1) * torch.from_numpy(near) for s in used])
        affinity = affinity.permute(0, 2, 1).flatten(0, 1)  # sources x targets
        affinity[affinity < affinity.topk(5, 0).values.amin(0)] = 0
        affinity /= affinity.sum(0, keepdim=True)
        seg = (torch.cat([segs[s].flatten(1) for s in used], 1) @ affinity).unflatten(1, (h, w))
        segs.append(seg)
        large = functional.interpolate(seg[None], scale_factor=16, mode="bilinear")[0]
        for channel in large:
            if channel.max() > 0:
                channel -= channel.min().clone()
                channel /= channel.max().clone()
        out.append(large.argmax(0).numpy())
    return out


def plain_dinov3(frames: list[np.ndarray], mask: np.ndarray, encoder: Any, context: int) -> list[np.ndarray]:
    """DINOv3's notebook: minus infinity outside the disk and below the fifth largest, pixels as their tokens."""
    h, w = frames[0].shape[0] // 16, frames[0].shape[1] // 16
    mean, deviation = np.array(masking.MEAN), np.array(masking.DEVIATION)
    feats = []
    for frame in frames:
        picture = torch.from_numpy(((frame / 255 - mean) / deviation).transpose(2, 0, 1)).float()[None]
        feats.append(functional.normalize(encoder.features(picture)[0].flatten(1).T, dim=1))
    small = functional.interpolate(torch.from_numpy(mask)[None, None].float(), (h, w), mode="nearest-exact")[0, 0]
    probs, out = [functional.one_hot(small.long()).float().flatten(0, 1)], []
    rows, columns = np.divmod(np.arange(h * w), w)
    near = torch.from_numpy(np.hypot(rows[:, None] - rows, columns[:, None] - columns) <= 3)
    for t in range(1, len(frames)):
        used = [0, *range(max(1, t - context), t)]
        dot = torch.cat([(feats[t] @ feats[s].T).masked_fill(~near, -torch.inf) for s in used], 1)
        dot = torch.where(dot >= dot.topk(5, 1).values[:, -1:], dot, -torch.inf)
        probs.append(torch.softmax(dot / 0.2, 1) @ torch.cat([probs[s] for s in used]))
        large = probs[-1].T.unflatten(1, (h, w)).repeat_interleave(16, 1).repeat_interleave(16, 2)
        low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
        out.append(((large - low) / (high - low)).nan_to_num(0).argmax(0).numpy())
    return out


def plain_walk(frames: list[np.ndarray], mask: np.ndarray, encoder: Any, context: int, rules: Any) -> list[np.ndarray]:
    """The script of videowalk and CropMAE: copies of frame 0 at the start, whose first one is looked at everywhere."""
    h, w = frames[0].shape[0] // 16, frames[0].shape[1] // 16
    mean, deviation = np.array(masking.MEAN), np.array(masking.DEVIATION)
    feats = []
    for frame in [frames[0]] * context + frames:
        picture = torch.from_numpy(((frame / 255 - mean) / deviation).transpose(2, 0, 1)).float()[None]
        feats.append(functional.normalize(encoder.features(picture)[0].flatten(1), dim=0))
    onehot = functional.one_hot(torch.from_numpy(mask).long()).permute(2, 0, 1)[None].float()
    labels = [functional.interpolate(onehot, (h, w), mode="bilinear")[0]] * (context + 1)
    rows, columns = np.divmod(np.arange(h * w), w)
    far = np.hypot(rows[:, None] - rows, columns[:, None] - columns) >= rules["radius"]
    out = []
    for t in range(1, len(frames)):
        used = [0, *range(t, t + context)]
        affinity = torch.stack([feats[t + context].T @ feats[s] for s in used])  # frames, targets, sources
        affinity[1:, torch.from_numpy(far)] -= 1e10
        affinity = (affinity / rules["temperature"]).permute(1, 0, 2).flatten(1)
        values, places = affinity.topk(rules["topk"], 1)
        source = torch.cat([labels[s].flatten(1) for s in used], 1)
        labels.append((source[:, places] * torch.softmax(values, 1)).sum(2).unflatten(1, (h, w)))
        large = functional.interpolate(labels[-1][None], frames[0].shape[:2], mode="bilinear")[0]
        out.append(large.argmax(0).numpy())
    return out


def wandering(seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Seven frames 96x128 of two smooth blobs that wander over a smooth ground, and the first mask."""
    rng = np.random.default_rng(seed)

    def smooth(height: int, width: int) -> np.ndarray:
        small = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
        return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).copy()

    ground, one, two = smooth(96, 128), smooth(40, 40), smooth(32, 48)
    frames, first = [], np.zeros((96, 128), np.uint8)
    for t in range(7):
        frame = ground.copy()
        frame[8 + 5 * t : 48 + 5 * t, 10 + 3 * t : 50 + 3 * t] = one
        frame[50 - 4 * t : 82 - 4 * t, 70 + t : 118 + t] = two
        frames.append(frame)
    first[8:48, 10:50], first[50:82, 70:118] = 1, 2
    return frames, first


@pytest.mark.parametrize("context", [1, 3, 7])
def test_dino_does_what_dinos_script_does(context: int) -> None:
    torch.manual_seed(0)
    frames, mask = wandering()
    for encoder in (Pixels(), registry.load("methods", "mae")(size="tiny", image=64).eval().encoder):
        _, found = run(make("dino", encoder, context=context, positions="computed"), frames, masked(mask))
        with torch.no_grad():
            plain = plain_dino(frames, mask, encoder, context)
        same = [float((mask_of(target) == true).mean()) for target, true in zip(found, plain)]
        assert min(same) > 0.9995, same  # but for pixels on which two labels are equal to the last bit


def test_dinov3_does_what_its_notebook_does() -> None:
    torch.manual_seed(0)
    frames, mask = wandering(2)
    encoder = registry.load("methods", "dropmae")(size="tiny", image=64).eval().encoder
    _, found = run(make("dinov3", encoder, context=3, radius=3.0, positions="computed"), frames, masked(mask))
    with torch.no_grad():
        plain = plain_dinov3(frames, mask, encoder, 3)
    assert all(np.array_equal(mask_of(target), true) for target, true in zip(found, plain))


@pytest.mark.parametrize("preset", ["crw", "cropmae"])
@pytest.mark.parametrize("context", [2, 4, 10])
def test_crw_and_cropmae_do_what_their_script_does(preset: Any, context: int) -> None:
    torch.manual_seed(0)
    frames, mask = wandering(1)
    rules = {**PRESETS[preset], "radius": 3.0}
    encoder = registry.load("methods", "siammae")(size="tiny", image=64).eval().encoder
    _, found = run(make(preset, encoder, context=context, radius=3.0, positions="computed"), frames, masked(mask))
    with torch.no_grad():
        plain = plain_walk(frames, mask, encoder, context, rules)
    same = [float((mask_of(target) == true).mean()) for target, true in zip(found, plain)]
    assert min(same) > 0.9995, same


def test_bfloat16_changes_little() -> None:
    torch.manual_seed(0)
    frames, mask = wandering()
    encoder = registry.load("methods", "mae")(size="tiny", image=64).eval().encoder
    _, plain = run(make("dino", encoder), frames, masked(mask))
    engine = Engine(make("dino", copy.deepcopy(encoder)), "cpu", "bf16")
    answers = list(engine.session({0: masked(mask)}).follow(enumerate(frames)))
    coarse = [answer.target for answer in answers[1:]]
    assert len(coarse) == len(plain)
    assert min(float((mask_of(a) == mask_of(b)).mean()) for a, b in zip(plain, coarse)) > 0.9


def test_every_method_encodes_for_propagation() -> None:
    frames, mask = wandering()
    for name in registry.names("methods"):
        torch.manual_seed(0)
        encoder = registry.load("methods", name)(size="tiny", image=64).eval().encoder
        _, found = run(make("dino", encoder, context=2), frames[:3], masked(mask))
        assert mask_of(found[-1]).shape == mask.shape


# ---------------------------------------------------------------- points


def test_points_are_drawn_on_tokens_and_read_back() -> None:
    size, grid = (240, 320), (15, 20)
    points = np.array([[100.0, 50.0], [319.0, 239.0], [np.nan, 3.0], [-60.0, 20.0], [10.0, 10.0]])
    target = Target(ids=np.zeros(0, np.int64), points=points, visible=np.array([True, True, True, True, False]))
    maps = point_maps(target, size, grid)
    assert maps.any(0).tolist() == [True, True, False, False, False]
    assert maps[:, 0].max() == 1
    assert sorted(maps[:, 0])[-5:-1] == pytest.approx([np.exp(-2)] * 4)
    read = strongest(torch.from_numpy(maps), grid, size, 5)
    assert np.abs(read[0] - points[0]).max() <= 8 + 1e-6  # half a token
    assert np.isnan(read[2:]).all()


def test_points_follow_a_shifted_texture() -> None:
    frame = noise_frame(160, 192)
    start = np.array([[64.5, 80.5], [112.5, 48.5]])
    target = Target(ids=np.zeros(0, np.int64), points=start, owners=np.array([1, 1]))
    frames = [np.roll(frame, 16 * t, 1) for t in range(4)]
    for preset in PRESET_NAMES:
        _, found = run(make(preset), frames, target)
        for t, target_t in enumerate(found, 1):
            assert target_t.mask is None
            assert target_t.points is not None
            assert np.abs(target_t.points - start - [16 * t, 0]).max() < 2
            assert target_t.visible is not None
            assert target_t.visible.all()
            assert target_t.owners is not None
            assert target_t.owners.tolist() == [1, 1]


def test_points_and_masks_go_together_without_touching() -> None:
    """On a ground that moves by whole patches, so that no two neighbours are alike and rounding chooses nothing."""
    frames = [np.roll(noise_frame(96, 256), 16 * t, 1) for t in range(7)]
    mask = np.zeros((96, 256), np.uint8)
    mask[16:48, 32:80], mask[48:80, 128:160] = 1, 2
    points = np.array([[20.0, 20.0], [90.0, 60.0]])
    _, both = run(make("crw"), frames, Target(ids=np.array([1, 2]), mask=mask, points=points))
    _, masks = run(make("crw"), frames, masked(mask))
    _, alone = run(make("crw"), frames, Target(ids=np.zeros(0, np.int64), points=points))
    for one, two, three in zip(both, masks, alone):
        assert np.array_equal(mask_of(one), mask_of(two))
        assert one.points is not None
        assert three.points is not None
        np.testing.assert_allclose(one.points, three.points, atol=1e-4)


# ---------------------------------------------------------------- the model that is fitted


def clusters(seed: int) -> tuple[Tensor, Tensor]:
    """Unit features [60, 8] of a 6 x 10 grid of tokens of three kinds with noise, and whose each is [60, 3]."""
    rng = torch.Generator().manual_seed(seed)
    kinds = torch.nn.functional.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(9)), dim=1)
    labels = torch.zeros(60, 3)
    labels[torch.arange(60), torch.randint(3, (60,), generator=rng)] = 1
    noisy = labels @ kinds + 0.05 * torch.randn(60, 8, generator=rng)
    return torch.nn.functional.normalize(noisy, dim=1), labels


def test_a_fitted_model_is_ridge_regression_and_tells_kinds_apart() -> None:
    (first, labels), (other, truth) = clusters(0), clusters(1)
    rows = fitted.seen(first, (6, 10))
    model = fitted.begun(rows, labels)
    wide = rows.double()
    amount = fitted.RIDGE * (wide.T @ wide / 60).diagonal().mean() + 1e-6
    expected = torch.linalg.solve(wide.T @ wide / 60 + amount * torch.eye(17), wide.T @ labels.double() / 60)
    torch.testing.assert_close(model.weights.double(), expected, atol=1e-4, rtol=1e-3)
    answer = fitted.answered(model, fitted.seen(other, (6, 10)))
    assert torch.equal(answer.argmax(1), truth.argmax(1))
    torch.testing.assert_close(answer.sum(1), torch.ones(60))


def test_a_fitted_model_learns_what_changes_and_keeps_what_was_given() -> None:
    first, labels = clusters(0)
    turned = first.roll(1, 1)  # the same kinds, looking otherwise
    rows, later = (fitted.seen(one, (6, 10)) for one in (first, turned))
    model = fitted.begun(rows, labels)
    for _ in range(30):
        model = fitted.updated(model, later, labels, False)
    assert torch.equal(fitted.answered(model, later).argmax(1), labels.argmax(1))
    assert torch.equal(fitted.answered(model, rows).argmax(1), labels.argmax(1))
    assert torch.equal(model.known[0], fitted.begun(rows, labels).known[0])
    given = fitted.updated(model, later, labels, True)
    torch.testing.assert_close(given.known[1], (model.known[1] + given.lately[1]) / 2)
    assert given.prompts == 2
    fresh = fitted.updated(model, rows, torch.cat([labels, labels[:, :1]], 1), True)
    assert (fresh.prompts, fresh.weights.shape[1]) == (1, 4)


def test_what_is_shown_is_mixed_and_what_is_carried_on_is_not() -> None:
    """Without a prompt the ring of labels is propagation's own; a model's share of 1 shows what the model says."""
    frames, mask = wandering()
    plain, mixed = (run(make("dino", model_share=share), frames, masked(mask)) for share in (0.0, 1.0))
    torch.testing.assert_close(mixed[0].soft, plain[0].soft)
    assert plain[0].model is None
    assert any(not np.array_equal(mask_of(a), mask_of(b)) for a, b in zip(plain[1], mixed[1]))


def test_a_video_of_ones_own_is_followed_with_a_fitted_model_and_a_benchmark_as_its_script_does() -> None:
    assert Propagation.for_benchmark("").model_share > 0
    assert Propagation.for_benchmark("", preset="crw").model_share == 0
    assert Propagation.for_benchmark("davis").model_share == 0
    assert Propagation.for_benchmark("davis", preset="fitted").model_share > 0
    with pytest.raises(ValueError, match="model_share"):
        Propagation(model_share=2)


def test_features_may_be_taken_after_any_block() -> None:
    frames, mask = wandering()
    encoder = registry.load("methods", "mae")(size="tiny", image=64).encoder
    early, last = make(encoder=encoder, block=2), make(encoder=encoder)
    sides = frames[0].shape[:2]
    picture = torch.from_numpy(frames[0]).permute(2, 0, 1)[None]
    found = early.features(frames[0], sides)
    expected = encoder.layers(picture, (2,), resized=True, excess=0.1)[0].flatten(1).T
    torch.testing.assert_close(found, functional.normalize(expected, dim=1), atol=0.02, rtol=0)  # red by 0.228
    assert not torch.allclose(found, last.features(frames[0], sides), atol=0.02)
    with pytest.raises(ValueError, match="after block 13, but the encoder has 12 blocks"):
        make(encoder=encoder, block=13).start(frames[0], masked(mask))
    with pytest.raises(ValueError, match="no blocks of ours"):
        make(block=1).start(frames[0], masked(mask))


# ---------------------------------------------------------------- prompts and odd input


def test_an_object_that_appears_later_is_prompted() -> None:
    """A second texture enters at frame 3 and moves by whole patches; the first object goes on beside it."""
    ground, thing = noise_frame(96, 256), noise_frame(48, 48, 1)
    frames, truth = [], []
    for t in range(7):
        frame, mask = np.roll(ground, 16 * t, 1), np.zeros((96, 256), np.uint8)
        if t >= 3:
            left = 16 * (9 - t)
            frame[16:64, left : left + 48], mask[16:64, left : left + 48] = thing, 9
        frames.append(frame)
        truth.append(mask)
    first = np.zeros((96, 256), np.uint8)
    first[:, 32:64] = 1
    state, found = run(make("dino", upsample="nearest"), frames, masked(first), at3=masked(truth[3]))
    assert [target.ids.tolist() for target in found] == [[1], [1], [1, 9], [1, 9], [1, 9], [1, 9]]
    for t in (3, 4, 5, 6):
        assert np.array_equal(mask_of(found[t - 1]) == 9, truth[t] == 9)
        assert (mask_of(found[t - 1]) == 1).any()
    assert state.soft.shape[2] == 3


def test_a_corrected_mask_replaces_the_prediction() -> None:
    frames, mask = wandering()
    correct = np.zeros_like(mask)
    correct[60:90, 10:40] = 1
    state, found = run(make("dino"), frames[:3], masked(mask), at2=masked(correct, 1))
    assert np.array_equal(mask_of(found[1]) == 1, correct == 1)
    assert (mask_of(found[1]) == 2).any()  # object 2 was not named, and stays where it was
    sums = state.soft[: state.filled].sum(2)
    torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-4, rtol=0)


def test_the_first_mask_may_be_empty() -> None:
    frames, mask = wandering()
    _, found = run(make("dino"), frames[:4], masked(np.zeros_like(mask)), at2=masked(mask))
    assert not mask_of(found[0]).any()
    assert found[0].ids.tolist() == []
    assert found[2].ids.tolist() == [1, 2]
    _, nothing = run(make("crw"), frames[:2], Target(ids=np.zeros(0, np.int64)))
    assert not mask_of(nothing[0]).any()
    _, named = run(make("dino"), frames[:2], masked(np.zeros_like(mask), 1, 2))  # named, but nowhere
    assert not mask_of(named[0]).any()
    assert named[0].scores is not None
    assert named[0].scores.tolist() == [0, 0]


def test_void_is_background_unless_it_is_named() -> None:
    frames, mask = wandering()
    void = np.where(mask == 2, 255, mask).astype(np.uint8)
    _, found = run(make("dino"), frames[:2], masked(void))
    assert found[0].ids.tolist() == [1]
    _, found = run(make("dino"), frames[:2], masked(void, 1, 255))
    assert found[0].ids.tolist() == [1, 255]
    assert mask_of(found[0]).dtype == np.int32  # in uint8 it would be void again
    assert (mask_of(found[0]) == 255).any()


def test_boxes_do_for_masks() -> None:
    frames, _ = wandering()
    boxes = np.array([[10.0, 8.0, 40.0, 40.0], [np.nan] * 4])
    _, found = run(make("dino"), frames[:2], Target(ids=np.array([4, 5]), boxes=boxes))
    assert found[0].boxes is not None
    assert np.abs(found[0].boxes[0] - [13, 13, 40, 40]).max() <= 16
    assert np.isnan(found[0].boxes[1]).all()


def test_a_single_frame_is_a_video_too() -> None:
    frames, mask = wandering()
    _, found = run(make("cropmae"), frames[:1], masked(mask))
    assert found == []


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_memory_stays_constant(preset: Any) -> None:
    frames, mask = wandering()
    task = make(preset, context=3, anchors=2)
    state = task.start(frames[0], masked(mask))
    sizes = []
    for number in range(1, 12):
        state, _ = task.step(state, frames[number % 7], masked(mask) if number > 4 else None)
        tensors = [state.keys, state.soft, *(tensor for anchor in state.anchors for tensor in anchor)]
        if state.model is not None:
            tensors += [*state.model.known, *state.model.lately, state.model.weights]
        sizes.append(sum(tensor.numel() for tensor in tensors))
    assert len(set(sizes[:4])) == 1
    assert len(set(sizes[6:])) == 1
    assert all(a <= b for a, b in pairwise(sizes))


@pytest.mark.parametrize(
    ("target", "word"),
    [
        (masked(np.zeros((10, 12), np.uint8)), r"12x10 pixels, but the frame has 128x96"),
        (masked(np.full((96, 128), 7, np.uint8), 1, 2), "object 7"),
        (masked(np.ones((96, 128), np.uint8), 1, 1), "unique"),
        (masked(np.ones((96, 128), np.uint8), -1), "positive"),
    ],
)
def test_a_wrong_first_mask_is_one_clear_line(target: Target, word: str) -> None:
    frames, _ = wandering()
    with pytest.raises(ValueError, match=word) as caught:
        make().start(frames[0], target)
    assert "\n" not in str(caught.value)


def test_wrong_frames_and_settings_are_one_clear_line() -> None:
    frames, mask = wandering()
    task = make()
    state = task.start(frames[0], masked(mask))
    with pytest.raises(ValueError, match="64x48 pixels"):
        task.step(state, frames[1][:48, :64])
    with pytest.raises(ValueError, match="uint8"):
        task.start(frames[0].astype(np.float32), masked(mask))
    with pytest.raises(ValueError, match="points alone"):
        run(task, frames[:2], Target(ids=np.zeros(0, np.int64), points=np.ones((1, 2))), at1=masked(mask))
    with pytest.raises(ValueError, match="encoder"):
        Propagation().start(frames[0], masked(mask))
    with pytest.raises(ValueError, match="nothing to train"):
        task.sample(Sequence("none", frames), np.random.default_rng(0))
    wrong: dict[str, Any]
    for wrong in ({"preset": "dyno"}, {"topk": 0}, {"temperature": 0.0}, {"context": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Propagation(**wrong)


def test_settings_are_the_filled_in_ones() -> None:
    task = Propagation(preset="cropmae", topk=3)
    settings = registry.settings(task)
    assert (settings["topk"], settings["context"], settings["window"]) == (3, 20, "circle")
    assert registry.settings(Propagation(**settings)) == settings
    docs = registry.field_docs(Propagation)
    assert all(docs.get(name) for name in settings)


def test_speed_and_memory_are_measured_per_preset_in_a_process_of_its_own() -> None:
    report = speed.measure("tiny", (64, 96), 2, 2, 1, ["crw"], precision="fp32")
    row = report["crw"]
    assert row["grid"] == [4, 6]
    assert row["frames_per_s"] == pytest.approx(1 / row["seconds"])
    assert 100 < row["peak_mb"] < 2048


def test_sincos_positions_are_those_of_the_training_grid_resized_or_computed_if_asked_for() -> None:
    encoder = registry.load("methods", "mae")(size="tiny", image=64).encoder.eval()
    places, device = encoder.positions, torch.device("cpu")
    own = places((8, 12), device)
    stretched = places((8, 12), device, resized=True)
    torch.testing.assert_close(places((4, 4), device), torch.from_numpy(sincos_table(4, 4, 192))[None])
    expected = functional.interpolate(
        torch.from_numpy(sincos_table(4, 4, 192)).view(1, 4, 4, 192).permute(0, 3, 1, 2),
        size=(8, 12),
        mode="bicubic",
        align_corners=False,
    )
    torch.testing.assert_close(stretched, expected.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)
    assert places((8, 12), device) is own  # and otherwise nothing has changed

    frame = np.random.default_rng(0).integers(0, 256, (128, 192, 3), dtype=np.uint8)
    features = {}
    for way in ("resized", "computed"):
        task = Propagation(preset="crw", positions=way)
        task.encoder = encoder
        features[way] = task.features(frame, (128, 192))
    plain = functional.normalize(encoder.features(prepared(frame))[0].flatten(1).T, dim=1)
    torch.testing.assert_close(features["computed"], plain, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(features["resized"], plain, atol=1e-2)
    with pytest.raises(ValueError, match="positions must be resized or computed"):
        Propagation(positions="stretched")  # type: ignore[arg-type]


GRIDS = [((14, 14), (30, 52)), ((14, 14), (28, 55)), ((4, 6), (3, 5)), ((14, 14), (14, 20))]


@pytest.mark.parametrize("preset", ["dino", "cropmae"])
@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_positions_are_resized_by_the_scale_of_the_script(preset: Any, old: Any, new: Any) -> None:
    """PyTorch's bicubic interpolation by (n + 0.1) / m; the other two presets go by size."""
    table = torch.randn(1, old[0] * old[1], 64, generator=torch.Generator().manual_seed(0))
    picture = table.transpose(1, 2).unflatten(2, old)
    scale = ((new[0] + 0.1) / old[0], (new[1] + 0.1) / old[1])
    plain = functional.interpolate(picture, scale_factor=scale, mode="bicubic").flatten(2).transpose(1, 2)
    excess = Propagation(preset=preset).grid_excess
    torch.testing.assert_close(resize_positions(table, old, new, excess), plain, atol=1e-5, rtol=0)
    by_size = functional.interpolate(picture, new, mode="bicubic").flatten(2).transpose(1, 2)
    for other in ("crw", "dinov3"):
        excess = Propagation(preset=other).grid_excess  # type: ignore[arg-type]
        torch.testing.assert_close(resize_positions(table, old, new, excess), by_size, atol=1e-5, rtol=0)
    assert (plain - by_size).abs().max() > 1e-3

    learned = Positions(64, old)
    assert learned.table is not None
    learned.table.data = table
    fixed = Positions(64)
    fixed.home = old
    for places, source in ((learned, table), (fixed, torch.from_numpy(sincos_table(*old, 64))[None])):
        found = places(new, torch.device("cpu"), resized=True, excess=0.1)
        picture = source.transpose(1, 2).unflatten(2, old)
        plain = functional.interpolate(picture, scale_factor=scale, mode="bicubic").flatten(2).transpose(1, 2)
        torch.testing.assert_close(found, plain, atol=1e-5, rtol=0)


def test_the_task_hands_the_scale_to_its_encoder() -> None:
    encoder = registry.load("methods", "mae")(size="tiny", image=64).encoder.eval()
    frame, found = noise_frame(96, 128), {}
    for excess in (0.0, 0.1):
        task = make("cropmae", encoder, grid_excess=excess)
        found[excess] = task.features(frame, (96, 128))
    assert 1e-4 < (found[0.0] - found[0.1]).abs().max() < 0.5
    assert torch.equal(make("cropmae", encoder).features(frame, (96, 128)), found[0.1])
    with pytest.raises(ValueError, match="the excess from 0 to"):
        Propagation(grid_excess=1.5)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ((480, 854), (480, 832), "f71a23e50166"),
        ((1080, 1920), (480, 832), "1ee7f828ad90"),
        ((96, 128), (48, 64), "3361ba1b3b83"),
        ((90, 160), (448, 832), "eaac80926313"),
        ((64, 64), (32, 16), "ef00715c0127"),
        ((1, 3), (5, 7), "3dcd4a743d98"),
    ],
)
def test_frames_are_resized_to_the_bytes_of_opencv(old: Any, new: Any, expected: str) -> None:
    """The hashes are of cv2.resize (5.0); where it is installed, it is asked too."""
    frame = noise_frame(*old)
    made = resize_bytes(frame, new)
    assert hashlib.sha256(made.tobytes()).hexdigest()[:12] == expected
    with contextlib.suppress(ImportError):
        import cv2

        assert np.array_equal(made, cv2.resize(frame, new[::-1]))
    task = make("dino", Pixels(), red_std=0.229)
    picture = masking.normalize(torch.from_numpy(made).permute(2, 0, 1))[None]
    if new[0] % 16 == 0 and new[1] % 16 == 0:
        plain = functional.normalize(Pixels().features(picture)[0].flatten(1).T, dim=1)
        torch.testing.assert_close(task.features(frame, new), plain, atol=1e-5, rtol=1e-5)


def test_ties_in_frames_that_hardly_change_are_numbers() -> None:
    """Similarities summed in another order differ in their last bits, more than once by all that `EQUAL` allows."""
    generator = torch.Generator().manual_seed(0)
    base = functional.normalize(torch.randn(48, 768, generator=generator), dim=1)
    keys = torch.stack([base + 1e-7 * torch.randn(48, 768, generator=generator) for _ in range(8)])
    labels = torch.rand(8, 48, 3, generator=generator)
    contexts = [Context(keys[:1], labels[:1], Window(12)), Context(keys[1:], labels[1:], Window(12))]
    for temperature in (0.1, 0.7):
        found = propagate(base, contexts, (6, 8), topk=5, temperature=temperature, ties=True)
        assert found.isfinite().all()
        assert (found >= labels.amin((0, 1)) - 1e-5).all()
        assert (found <= labels.amax((0, 1)) + 1e-5).all()


def prepared(frame: np.ndarray) -> torch.Tensor:
    """A frame as ImageNet's mean and deviation have it, float32 [1, 3, H, W]."""
    return masking.normalize(torch.from_numpy(frame).permute(2, 0, 1))[None]
