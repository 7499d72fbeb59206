"""Masks carried through video: ids, prompts, memory, sizes, bounds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dropmae
from dropmae import registry, weights
from dropmae.target import Target
from dropmae.tasks.vos import VOS
from dropmae.tasks.vos.frames import canvas
from dropmae.tasks.vos.speed import forms, growth, measure


@pytest.fixture(scope="module")
def small() -> VOS:
    torch.manual_seed(0)
    return VOS(size="tiny", image=64).eval()


def variant(small: VOS, **fields: Any) -> VOS:
    """The same weights with other settings."""
    made = VOS(**{**registry.settings(small), **fields})
    made.load_state_dict(small.state_dict())
    return made.eval()


def frames(count: int = 4, height: int = 70, width: int = 100) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, height // 10 + 1, width // 10 + 1, 3), dtype=np.uint8)
    return list(coarse.repeat(10, 1).repeat(10, 2)[:, :height, :width])


def mask_with(ids: tuple[int, ...], height: int = 70, width: int = 100) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8 if max(ids, default=0) < 255 else np.int32)
    for number, object_id in enumerate(ids):
        side = width // max(1, len(ids))
        mask[10:50, number * side : number * side + side // 2] = object_id
    return mask


def labels(target: Target) -> np.ndarray:
    assert target.mask is not None
    return target.mask


def prompt(*ids: int) -> Target:
    return Target(ids=np.array(ids, np.int64), mask=mask_with(ids))


def run(
    model: VOS, pictures: list[np.ndarray], first: Target, prompts: dict[int, Target] | None = None
) -> list[Target]:
    state, found = model.start(pictures[0], first), []
    for number, picture in enumerate(pictures[1:], 1):
        state, targets = model.step(state, picture, (prompts or {}).get(number))
        assert list(targets) == [number]
        found.append(targets[number])
    return found


@pytest.mark.parametrize("objects", [1, 3])
def test_one_batch_gives_what_one_pass_per_object_gives(objects: int) -> None:
    assert list(forms("tiny", (70, 100), objects, check=True)[0]) == ["textbook", "ours"]


def test_speed_is_measured() -> None:
    report = measure("tiny", (48, 64), 2, repeats=1)
    assert report["ratio"] > 0
    assert report["ours"]["peak_mb"] > 1


def test_memory_over_time_is_measured(tmp_path: Path) -> None:
    weights.save(VOS(preset="light", image=64), tmp_path / "w.safetensors")
    report = growth(tmp_path / "w.safetensors", (48, 64), 2, frames=30)
    assert list(report) == ["1", "3", "10", "30"]
    assert all(row["frames_per_s"] for row in report.values())


def test_ids_come_back_as_they_were_given(small: VOS) -> None:
    for ids in ((1, 2, 3), (2, 7, 200), (5, 1000)):
        found = run(small, frames(), prompt(*ids))
        for target in found:
            assert target.ids.tolist() == list(ids)
            assert target.mask is not None
            assert target.boxes is not None
            assert target.scores is not None
            assert set(np.unique(target.mask)) <= {0, *ids}
            assert target.mask.dtype == (np.uint8 if max(ids) < 255 else np.int32)
            there = np.isin(ids, target.mask)
            assert np.isfinite(target.boxes).all(1).tolist() == there.tolist()
            assert ((target.scores > 0) == there).all()
    gaps, plain = run(small, frames(), prompt(3, 90)), run(small, frames(), prompt(1, 2))
    for a, b in zip(gaps, plain):
        assert np.array_equal(np.array([0, 3, 90])[labels(b)], labels(a))


def test_more_objects_than_training_had(small: VOS) -> None:
    assert small.objects == 2
    ids = tuple(range(1, 21))
    found = run(small, frames(3), prompt(*ids))
    assert found[-1].ids.tolist() == list(ids)


@pytest.mark.parametrize("limit", [100, 150])
def test_objects_take_turns_within_the_limit(small: VOS, limit: int) -> None:
    turns = variant(small, max_tokens=limit)
    first, pictures = prompt(1, 2, 3, 4), frames(3)
    state = turns.start(pictures[0], first)
    tokens = turns.embed_frame(state, pictures[1])
    assert 2 * len(tokens) <= limit
    seen: list[int] = []
    recall = turns.encoder.read_memory

    def counted(memory: torch.Tensor, query: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(len(memory) * (memory.shape[1] + query.shape[1]))
        return recall(memory, query, *rest)

    turns.encoder.read_memory = counted  # type: ignore[method-assign]
    found = turns.logits(state, tokens)
    assert max(seen) <= limit
    assert len(seen) > 1
    together = variant(turns, max_tokens=0).logits(state, tokens)
    torch.testing.assert_close(found, together, atol=1e-4, rtol=1e-4)


def test_large_frames_are_scaled_down(small: VOS) -> None:
    bounded = variant(small, max_tokens=60)
    pictures = frames(3, 301, 203)
    first = Target(ids=np.array([1]), mask=mask_with((1,), 301, 203))
    state = bounded.start(pictures[0], first)
    assert 2 * len(state.objects[0].first) <= 60
    assert state.canvas.sides[0] / state.canvas.sides[1] == pytest.approx(301 / 203, rel=0.05)
    found = run(bounded, pictures, first)[0]
    assert found.mask is not None
    assert found.mask.shape == (301, 203)


def test_padding_is_half_on_each_side() -> None:
    place = canvas((90, 171), 16)
    assert place.pad == (2, 3, 3, 3)
    picture = torch.rand(3, 90, 171)
    assert torch.equal(place.cut(place.fit(picture)), picture)
    assert canvas((64, 32), 16) == ((64, 32), (64, 32), (0, 0, 0, 0))
    assert canvas((2000, 10), 16, 20).grid(16) == (20, 1)
    assert canvas((480, 854), 16, 0, 240).sides == (240, 427)
    assert canvas((200, 300), 16, 0, 240).sides == (200, 300)
    assert canvas((480, 854), 16, 100, 240).grid(16)[0] < 15


def test_objects_that_appear_later(small: VOS) -> None:
    pictures = frames(5)
    late = Target(ids=np.array([9]), mask=np.where(mask_with((1, 1, 1)) > 0, 0, 0).astype(np.uint8))
    assert late.mask is not None
    late.mask[55:65, 20:40] = 9
    found = run(small, pictures, prompt(1), {2: late})
    assert found[0].ids.tolist() == [1]
    assert sorted(found[1].ids.tolist()) == [1, 9]
    assert found[1].mask is not None
    assert np.array_equal(found[1].mask == 9, late.mask == 9)
    assert sorted(found[3].ids.tolist()) == [1, 9]
    # The newcomer's memory is the frame it appeared in, so that without the others it goes the same way.
    state = small.start(pictures[2], late)
    tokens = small.embed_frame(state, pictures[3])
    alone = small.logits(state, tokens)[0]
    joined = small.start(pictures[0], prompt(1))
    for picture, told in zip(pictures[1:3], (None, late)):
        joined, _ = small.step(joined, picture, told)
    row = [one.object_id for one in joined.objects].index(9)
    torch.testing.assert_close(small.logits(joined, tokens)[row], alone, atol=1e-4, rtol=1e-4)


def test_nothing_to_follow_at_first(small: VOS) -> None:
    empty = Target(ids=np.zeros(0, np.int64), mask=np.zeros((70, 100), np.uint8))
    found = run(small, frames(), empty, {2: prompt(4)})
    assert found[0].ids.tolist() == []
    assert found[0].mask is not None
    assert not found[0].mask.any()
    assert found[2].ids.tolist() == [4]


def test_a_corrected_mask_replaces_the_memory(small: VOS) -> None:
    pictures = frames()
    right = prompt(1)
    assert right.mask is not None
    right.mask = np.roll(right.mask, 30, 1)
    found = run(small, pictures, prompt(1, 2), {2: right})
    assert found[1].mask is not None
    assert np.array_equal(found[1].mask == 1, right.mask == 1)
    assert found[1].scores is not None
    assert found[1].scores[found[1].ids == 1] == 1
    again = run(small, pictures[2:], right)
    state = small.start(pictures[2], right)
    assert torch.equal(state.objects[0].first, small.start(pictures[2], right).objects[0].first)
    assert again[0].ids.tolist() == [1]


def test_void_is_background(small: VOS) -> None:
    first = prompt(1)
    assert first.mask is not None
    first.mask[60:] = 255
    assert run(small, frames(2), first)[0].ids.tolist() == [1]


def test_boxes_become_masks(small: VOS) -> None:
    boxes = np.array([[5.0, 5.0, 60.0, 50.0], [10.0, 10.0, 15.0, 15.0], [np.nan] * 4])
    first = Target(ids=np.array([3, 8, 9]), boxes=boxes)
    state = small.start(frames()[0], first)
    assert [one.object_id for one in state.objects] == [3, 8]
    found = run(small, frames(), first)
    assert found[0].ids.tolist() == [3, 8]
    with pytest.raises(ValueError, match="covers nothing"):
        small.start(frames()[0], Target(ids=np.array([1]), boxes=np.array([[200.0, 5.0, 10.0, 10.0]])))


def test_sizes_that_differ_are_one_clear_line(small: VOS) -> None:
    with pytest.raises(ValueError, match="the mask has 50x40 pixels, the frame 100x70"):
        small.start(frames()[0], Target(ids=np.array([1]), mask=np.ones((40, 50), np.uint8)))
    state = small.start(frames()[0], prompt(1))
    with pytest.raises(ValueError, match="the frame has 80x60 pixels, but the first one had 100x70"):
        small.step(state, frames(1, 60, 80)[0])
    with pytest.raises(ValueError, match="frame 1: the mask has 50x40"):
        small.step(state, frames()[1], Target(ids=np.array([1]), mask=np.ones((40, 50), np.uint8)))


def test_states_are_values(small: VOS) -> None:
    for model in (small, variant(small, memory=3, memory_interval=1)):
        pictures = frames()
        state = model.start(pictures[0], prompt(1, 2))
        second, found = model.step(state, pictures[1])
        model.step(second, pictures[2])
        again = model.step(state, pictures[1])[1]
        assert np.array_equal(labels(found[1]), labels(again[1]))


@pytest.mark.parametrize(("memory", "expected"), [(1, [1] * 6), (2, [1, 2, 2, 2, 2, 2]), (4, [1, 2, 2, 3, 3, 4])])
def test_memory_grows_to_its_bound(small: VOS, memory: int, expected: list[int]) -> None:
    model = variant(small, memory=memory, memory_interval=2)
    pictures = frames(3) * 4
    state = model.start(pictures[0], prompt(1, 2))
    counts = []
    for picture in pictures[1:]:
        counts.append(len(state.objects[0].frames))
        state, _ = model.step(state, picture)
    assert counts[:6] == expected
    assert max(counts) == memory
    assert len(state.objects[0].later) <= max(0, memory - 2)
    numbers = [id(one) for one in state.objects[0].frames]
    assert len(numbers) == len(set(numbers))


def test_memory_of_a_video_is_flat(small: VOS) -> None:
    model = variant(small, memory=3, memory_interval=2)
    pictures = frames(2)
    state = model.start(pictures[0], prompt(1, 2))
    sizes = []
    for number in range(12):
        state, _ = model.step(state, pictures[number % 2])
        sizes.append(sum(tensor.untyped_storage().nbytes() for one in state.objects for tensor in one.frames))
    assert len(set(sizes[5:])) <= 2


def test_settings_and_weights_come_back(small: VOS, tmp_path: Path) -> None:
    weights.save(small, tmp_path / "w.safetensors")
    again = dropmae.load(tmp_path / "w.safetensors")
    assert registry.settings(again) == registry.settings(small)
    a, b = run(small, frames(), prompt(1, 2))[-1], run(again, frames(), prompt(1, 2))[-1]
    assert np.array_equal(labels(a), labels(b))
    assert {name.split(".")[0] for name in small.state_dict()} == {"encoder", "decoder"}


def test_presets() -> None:
    published = {field.name: field.default for field in dataclasses.fields(VOS) if field.init}
    assert published["preset"] == "dropseg"
    light = VOS(preset="light")
    assert (light.size, light.image, light.memory, light.short_side) == ("tiny", 192, 2, 224)
    assert VOS(preset="light", memory=1).memory == 1


def test_positions_are_stretched_or_computed() -> None:
    stored, computed = VOS(size="tiny", image=64), VOS(size="tiny", image=64, positions=0)
    assert stored.encoder.positions.table is not None
    assert stored.encoder.positions.table.shape == (1, 16, 192)
    assert not stored.encoder.positions.table.requires_grad
    assert computed.encoder.positions.table is None
    stored.resize_image(96)
    assert stored.encoder.positions.table.shape == (1, 36, 192)
    again = VOS(**registry.settings(stored)).encoder.positions.table
    assert again is not None
    assert again.shape == (1, 36, 192)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image": 65},
        {"image": 0},
        {"size": "enormous"},
        {"preset": "none"},
        {"memory": 0},
        {"memory_interval": 0},
        {"max_tokens": 3},
        {"short_side": 5},
        {"objects": 0},
        {"gap": 0},
        {"scale": (0.0, 1.0)},
        {"flip": 2.0},
        {"rotation": -1.0},
        {"bootstrap_progress": (0.5, 0.1)},
        {"drop_path": 1.0},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    word = next(iter(wrong)).split("_")[0]
    settings: dict[str, Any] = {"size": "tiny", "image": 64, **wrong}
    with pytest.raises(ValueError, match=rf"(?i){word}"):
        VOS(**settings)


def test_later_memory_frames_are_told_apart() -> None:
    torch.manual_seed(0)
    model = VOS(preset="light", image=64).eval()
    pictures, first = frames(3), prompt(1, 2)
    assert model.encoder.later is not None
    assert VOS().encoder.later is None
    plain = run(model, pictures, first)
    told = VOS(**registry.settings(model))
    told.load_state_dict(model.state_dict())
    assert told.encoder.later is not None
    torch.nn.init.normal_(told.encoder.later)
    marked = run(told.eval(), pictures, first)
    before, after = ([np.asarray(one.scores) for one in found] for found in (plain, marked))
    assert np.array_equal(before[0], after[0])  # the first frame alone is remembered
    assert not np.array_equal(before[1], after[1])
    with pytest.raises(ValueError, match="no official layout"):
        model.official_state(True)
