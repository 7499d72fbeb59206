"""Which objects are looked at in full in a frame, and which are followed by their filters on small cells alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dcf_world import Counted, given, made, shown, untrained


@pytest.fixture(scope="module")
def world() -> tuple[np.ndarray, np.ndarray]:
    return made()


def test_fine_filter_follows_between_full_looks(world: Any):
    task = untrained(fine_image=192, fine_centre=1.0, full_every=3)
    task.encoder = Counted()
    state = task.start(shown(world, (60, 60)), given((60, 60)))
    task.encoder.crops.clear()
    for k in range(1, 10):
        state, found = task.step(state, shown(world, (60 + 5 * k, 60 + 2 * k)))
        box = found[k].box()
        np.testing.assert_allclose(box[:2] + box[2:] / 2, [72 + 5 * k, 76 + 2 * k], atol=2.5)
        assert state.unseen[0] == (k % 3)
        assert found[k].scores[0] > 0.9
    assert len(task.encoder.crops) == 3


def test_no_more_objects_than_allowed_are_looked_at_in_full_and_each_has_its_turn(world: Any):
    task = untrained(fine_image=192, fine_centre=1.0, full_most=1)
    task.encoder = Counted()
    places = [(30, 30), (110, 40), (180, 100)]
    state = task.start(shown(world, *places), given(*places))
    task.encoder.crops.clear()
    looked = []
    for k in range(1, 7):
        now = [(x + 3 * k, y + k) for x, y in places]
        state, found = task.step(state, shown(world, *now))
        looked.append(int(np.flatnonzero(state.unseen == 0)[0]) if k > 2 else -1)
        middles = found[k].boxes[:, :2] + found[k].boxes[:, 2:] / 2
        np.testing.assert_allclose(middles - [12, 16], now, atol=3)
    assert task.encoder.crops == [1] * 6
    assert sorted(looked[-3:]) == [0, 1, 2]


def test_what_is_gone_takes_nobody_elses_turn(world: Any):
    task = untrained(fine_image=192, fine_centre=1.0, full_most=1, tiles=0)
    places = [(30, 30), (110, 40), (180, 100)]
    state = task.start(shown(world, *places), given(*places))
    looked = []
    for _ in range(12):
        state, _ = task.step(state, shown(world, *places[1:]))  # the first one has gone
        looked += np.flatnonzero(state.unseen == 0).tolist()
    assert state.lost[0] > 0
    turns = [looked[-8:].count(row) for row in range(3)]
    assert min(turns) >= 1
    assert turns[0] >= max(turns[1:])  # what was not surely seen has its turn sooner


def test_what_is_not_surely_where_it_was_is_looked_at_in_full(world: Any):
    task = untrained(fine_image=192, full_every=3)
    task.encoder = Counted()
    state = task.start(shown(world, (60, 60)), given((60, 60)))
    task.encoder.crops.clear()
    for k in range(3):
        state, found = task.step(state, shown(world))
        assert len(task.encoder.crops) >= k + 1  # gone: the fine filter finds nothing, and then it counts as lost
    assert found[3].scores[0] < 0.25


def test_what_is_due_waits_for_the_next_full_look(world: Any):
    every = untrained(fine_image=192, update_every=3, update_above=0.0, template_above=1.0)
    seldom = untrained(fine_image=192, update_every=3, update_above=0.0, template_above=1.0, full_every=2)
    changes = []
    for task in (every, seldom):
        state, changed = task.start(shown(world, (60, 60)), given((60, 60))), []
        for k in range(1, 9):
            before = state.memories[0].filters
            state, _ = task.step(state, shown(world, (60 + k, 60)))
            changed.append(k) if not torch.equal(before, state.memories[0].filters) else None
        changes.append(changed)
    assert changes == [[3, 6], [4, 6]]


def test_without_a_fine_filter_every_look_is_full(world: Any):
    task = untrained(full_every=3, full_most=1)
    task.encoder = Counted()
    state = task.start(shown(world, (60, 60), (150, 90)), given((60, 60), (150, 90)))
    task.encoder.crops.clear()
    task.step(state, shown(world, (62, 60), (152, 90)))
    assert task.encoder.crops == [2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"full_every": 0}, "full_every must be positive"), ({"full_most": -1}, "full_most must not be negative")],
)
def test_full_looks_that_make_no_sense_are_refused(fields: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        untrained(**fields)
