"""Two trackers that look at the same crops and agree on where the object is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dcf_world import Colours, given, made, shown, untrained
from dropmae import weights
from dropmae.target import Target
from dropmae.tasks.dcf import agree, amid


@pytest.fixture(scope="module")
def world() -> tuple[np.ndarray, np.ndarray]:
    return made()


def test_what_both_hold_likeliest_is_where_the_object_is():
    one, other = torch.full((1, 4, 4), 0.1), torch.full((1, 8, 8), 0.1)
    one[0, 0, 0], one[0, 2, 3] = 0.9, 0.8  # its own first choice, and its second
    other[0, 7, 0], other[0, 4:6, 6:8] = 0.9, 0.8
    (chance, peak), (fine_chance, fine_peak) = agree([one, other], [0.5, 0.5])
    assert chance.shape == (1, 4, 4)
    assert fine_chance.shape == (1, 8, 8)
    assert int(peak) == 2 * 4 + 3
    assert divmod(int(fine_peak), 8) in [(4, 6), (4, 7), (5, 6), (5, 7)]
    alone = agree([one], [1.0])[0]
    assert alone[0] is one
    assert int(alone[1]) == 0


def test_a_tracker_that_counts_for_nothing_decides_nothing():
    torch.manual_seed(0)
    one, other = torch.rand(3, 6, 6), torch.rand(3, 6, 6)
    chance, peak = agree([one, other], [1.0, 0.0])[0]
    torch.testing.assert_close(chance, one)
    assert torch.equal(peak, one.flatten(1).argmax(1))


def test_a_box_between_two_has_the_mean_centre_and_the_geometric_mean_of_the_sides():
    boxes = [np.array([[0.0, 0, 8, 2]]), np.array([[10.0, 4, 2, 8]])]
    np.testing.assert_allclose(amid(boxes, [0.5, 0.5]), [[7.5 - 2, 4.5 - 2, 4, 4]])
    np.testing.assert_allclose(amid(boxes, [1.0, 0.0]), boxes[0], atol=1e-12)
    assert amid(boxes[:1], [1.0]) is boxes[0]


def test_twins_answer_as_one_of_them_alone(world: Any):
    alone, pair = untrained(fine_image=192), untrained(fine_image=192)
    pair.partner = untrained(fine_image=192)
    states = [task.start(shown(world, (60, 60)), given((60, 60))) for task in (alone, pair)]
    for k in range(1, 5):
        frame = shown(world, (60 + 5 * k, 60 + k))
        found = []
        for n, task in enumerate((alone, pair)):
            states[n], answer = task.step(states[n], frame)
            found.append(answer[k])
        np.testing.assert_allclose(found[1].boxes, found[0].boxes, atol=0.02)
        np.testing.assert_allclose(found[1].scores, found[0].scores, atol=1e-3)
    assert len(states[1].memories) == 2
    assert not torch.equal(
        states[1].memories[1].filters, pair.start(shown(world, (60, 60)), given((60, 60))).memories[1].filters
    )


def test_a_pair_follows_adds_and_corrects_objects(world: Any):
    task = untrained()
    task.partner = untrained(image=224, extent=True)
    state = task.start(shown(world, (40, 40)), given((40, 40)))
    prompt: Any = Target(ids=np.array([1, 7]), boxes=np.array([[50.0, 40, 24, 32], [150, 90, 24, 32]]))
    state, _ = task.step(state, shown(world, (50, 40), (150, 90)), prompt)
    assert all(len(memory.filters) == 2 for memory in state.memories)
    state, found = task.step(state, shown(world, (53, 40), (153, 90)))
    np.testing.assert_allclose(found[2].boxes[:, 0], [53, 153], atol=10)


def test_a_partner_is_named_and_is_not_saved(world: Any, tmp_path: Any):
    weights.save(untrained(), tmp_path / "one.safetensors")
    task = untrained(beside=str(tmp_path / "one.safetensors"))
    assert task.partner is not None
    weights.save(task, tmp_path / "pair.safetensors")
    assert (
        weights.read_shapes(tmp_path / "pair.safetensors").keys()
        == weights.read_shapes(tmp_path / "one.safetensors").keys()
    )
    again = weights.load(tmp_path / "pair.safetensors")
    again.encoder = again.partner.encoder = Colours()
    _, found = again.step(again.start(shown(world, (40, 40)), given((40, 40))), shown(world, (44, 40)))
    assert np.isfinite(found[1].box()).all()
    with pytest.raises(ValueError, match="works alone"):
        untrained(beside=str(tmp_path / "pair.safetensors"))
    task.beside = str(tmp_path / "ring.safetensors")
    weights.save(task, tmp_path / "ring.safetensors")
    with pytest.raises(ValueError, match="works alone"):
        weights.load(tmp_path / "ring.safetensors")
    with pytest.raises(ValueError, match="works alone"):
        untrained(beside="shipped:vot")
    with pytest.raises(ValueError, match="beside_share"):
        untrained(beside_share=1.5)
