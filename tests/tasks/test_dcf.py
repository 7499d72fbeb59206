"""The tracker on a frozen encoder: its filter, crops, head and state, with an encoder that sees colours."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dcf_world import Colours, Wide, given, made, shown, untrained
from dropmae import weights
from dropmae.loading import named
from dropmae.ops import ridge
from dropmae.target import Target
from dropmae.tasks.dcf import DCF, State, crops, maps
from dropmae.tasks.dcf.head import GRID, Head, likeness, likest, middle, tokens
from dropmae.video import Video


@pytest.fixture(scope="module")
def world() -> tuple[np.ndarray, np.ndarray]:
    return made()


def parts(state: State) -> dict[str, Any]:
    """Every array and tensor of a state."""
    own = {f.name: getattr(state, f.name) for f in dataclasses.fields(State) if f.name != "memories"}
    return own | {f"{k} {name}": value for k, one in enumerate(state.memories) for name, value in one.tensors().items()}


def same(one: State, other: State) -> bool:
    pairs = zip(parts(one).values(), parts(other).values())
    return all(torch.equal(a, b) if isinstance(a, Tensor) else np.array_equal(a, b) for a, b in pairs)


# -------------------------------------------------------------------- parts


def test_filter_is_the_solution_of_ridge_regression():
    features = torch.randn(3, 6, 6, 4)
    cells, wanted = maps.neighbourhoods(features), torch.rand(3, 6, 6, 2)
    gram, cross = ridge.sums(cells.flatten(0, 1), wanted.flatten(0, 2), 3)
    found = ridge.solve(gram, cross, 0.1)
    rows = cells.flatten(0, 1).double()
    amount = 0.1 * (rows.T @ rows / 3).diagonal().mean() + 1e-6
    stacked = torch.cat([rows / 3**0.5, amount.sqrt() * torch.eye(36, dtype=torch.float64)])
    answers = torch.cat([wanted.flatten(0, 2).double() / 3**0.5, torch.zeros(36, 2, dtype=torch.float64)])
    expected = torch.linalg.lstsq(stacked, answers).solution
    torch.testing.assert_close(found.double(), expected, atol=2e-4, rtol=1e-3)


def test_correlations_stand_for_the_gram_matrix_of_neighbourhoods_with_zeros_around():
    features = torch.randn(3, 7, 7, 4)
    wide = functional.pad(functional.normalize(features, dim=-1).permute(0, 3, 1, 2), (3, 3, 3, 3))
    shifted = [wide[:, :, i : i + 11, j : j + 11] for i in range(3) for j in range(3)]
    rows = torch.cat(shifted, 1).flatten(2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(maps.gram(maps.correlations(features)), rows.T @ rows / 3, atol=1e-5, rtol=1e-5)


def test_mended_filters_come_near_the_solution_of_ridge_regression():
    torch.manual_seed(0)
    sums, cross = maps.correlations(torch.randn(2, 9, 9, 4)), torch.randn(36, 3)
    solution = ridge.solve(maps.gram(sums), cross, 0.02)
    away = [(maps.mended(sums, cross, 0.02, torch.zeros(36, 3), n) - solution).norm() for n in (1, 5, 20)]
    assert away[1] < 0.02 * solution.norm()
    assert away[2] < 1e-4 * solution.norm()
    torch.testing.assert_close(maps.mended(sums, cross, 0.02, solution, 5), solution, atol=1e-4, rtol=1e-3)


def test_neighbourhood_of_a_cell_is_its_unit_features_and_those_around():
    features = torch.randn(1, 5, 5, 2)
    cells = maps.neighbourhoods(features).view(5, 5, 9, 2)
    unit = functional.normalize(features, dim=-1)[0]
    assert torch.equal(cells[2, 3, 4], unit[2, 3])
    assert torch.equal(cells[2, 3, 0], unit[1, 2])
    assert torch.equal(cells[0, 0, 0], unit[0, 0])


def test_gaussian_peaks_in_the_cell_of_the_centre():
    found = maps.gaussian(torch.tensor([[0.3, 0.2, 0.4, 0.1]]), 20, 0.25, 0.6)[0]
    assert divmod(int(found.argmax()), 20) in ((4, 9), (4, 10), (5, 9), (5, 10))
    across, down = found.sum(0), found.sum(1)
    assert (across > across.max() / 2).sum() > (down > down.max() / 2).sum()


def test_extents_say_which_cells_a_box_covers_and_where_in_it_they_lie():
    inside, across, down = maps.extents(torch.tensor([[0.2, 0.4, 0.4, 0.2]]), 10)[0].unbind(-1)
    expected = torch.zeros(10, 10)
    expected[4:6, 2:6] = 1
    assert torch.equal(inside, expected)
    torch.testing.assert_close(across[4], torch.tensor([0, 0, -0.75, -0.25, 0.25, 0.75, 0, 0, 0, 0]))
    torch.testing.assert_close(down[:, 2], torch.tensor([0, 0, 0, 0, -0.5, 0.5, 0, 0, 0, 0]))


def test_filters_of_the_extent_tell_what_the_object_covers_elsewhere(world: Any):
    task = untrained(extent=True)
    state = task.start(shown(world, (60, 60)), given((60, 60)))
    assert state.memories[0].filters.shape[-1] == 4
    place = crops.region(np.array([110.0, 90.0]), 96)
    features = task.embed(shown(world, (100, 70)), [place])
    answers = (task.cells(features) @ state.memories[0].filters[0])[0].view(*features.shape[1:3], 4)
    inside = torch.tensor(place.inside(np.array([100, 70, 24, 32]))[None], dtype=torch.float32)
    wanted = maps.extents(inside, len(answers))[0]
    covered = wanted[..., 0] == 1
    assert answers[covered][:, 1].mean() > 0.3 + answers[~covered][:, 1].mean()
    for axis in (1, 2):
        assert np.corrcoef(answers[covered][:, axis + 1].detach(), wanted[covered][:, axis])[0, 1] > 0.6


def test_crop_of_the_same_size_is_the_frame_with_the_mean_colour_around():
    frame = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    place = crops.Region(-5, 10, 30)
    found = crops.cut(frame, place, 30)
    assert np.array_equal(found[:20, 5:], frame[10:, :25])
    assert (found[:, :5] == crops.FILL).all()
    assert (found[20:] == crops.FILL).all()
    assert (crops.cut(frame, crops.Region(100, 100, 10), 8) == crops.FILL).all()


def test_region_and_back():
    place = crops.region(np.array([50.0, 40.0]), 20.4)
    assert place == crops.Region(40, 30, 20)
    box = np.array([45.0, 33.0, 6.0, 4.0])
    np.testing.assert_allclose(place.outside(place.inside(box)), box)
    np.testing.assert_allclose(place.inside(box), [0.25, 0.15, 0.3, 0.2])


def test_tiles_cover_the_frame_and_begin_nearby():
    centres = crops.tiles((100, 160), 48, np.array([150.0, 20.0]))
    covered = np.zeros((100, 160), bool)
    for x, y in centres:
        covered[max(0, round(y - 24)) : round(y + 24), max(0, round(x - 24)) : round(x + 24)] = True
    assert covered.all()
    distances = ((centres - [150, 20]) ** 2).sum(1)
    assert (np.diff(distances) >= 0).all()
    assert len(crops.tiles((20, 20), 100, np.zeros(2))) == 1


def test_tokens_lie_over_and_around_the_box():
    places = (torch.arange(20) + 0.5) / 20
    features = torch.stack([places.expand(20, 20), places[:, None].expand(20, 20)], -1)[None]
    found = tokens(features, torch.tensor([[0.4, 0.3, 0.2, 0.3]]))[0].view(GRID, GRID, 2)
    torch.testing.assert_close(found.mean((0, 1)), torch.tensor([0.5, 0.45]))
    torch.testing.assert_close(found[0, 0], torch.tensor([0.5 - 0.2 * 0.9, 0.45 - 0.3 * 0.9]))


@pytest.mark.parametrize("extent", [False, True])
def test_every_part_of_the_head_learns(extent: bool):
    head = Head((6, 6), (4, 5), 16, 2, 2, extent=extent)
    known = torch.cat([head.template(torch.randn(2, GRID * GRID, 9), kind) for kind in (0, 1)], 1)
    responses = torch.rand(2, 8, 8, 4 if extent else 1)
    logits, boxes, cells = head(torch.randn(2, 8, 8, 9), known, responses, torch.full((2, 2), 0.2))
    assert logits.shape == (2, 8, 8)
    assert boxes.shape == (2, 8, 8, 4)
    present = head.present(cells, logits.sigmoid(), responses[..., 0], logits.flatten(1).argmax(1))
    (logits.sum() + boxes.sum() + present.sum()).backward()
    idle = [name for name, p in head.named_parameters() if p.grad is None and not name.startswith("reduce")]
    assert not idle


# -------------------------------------------------------------------- tracking


def test_it_follows_by_its_filter_to_within_a_cell(world: Any):
    task = untrained()
    state = task.start(shown(world, (60, 60)), given((60, 60)))
    for k in range(1, 9):
        x, y = 60 + 6 * k, 60 + 2 * k
        state, found = task.step(state, shown(world, (x, y)))
        assert list(found) == [k]
        np.testing.assert_allclose(found[k].box()[:2] + found[k].box()[2:] / 2, [x + 12, y + 16], atol=10)
    assert found[8].scores[0] > 0.9


def test_state_is_a_value_of_constant_size(world: Any):
    task = untrained(update_every=1, template_every=1, update_above=0.0, template_above=0.0)
    first = task.start(shown(world, (60, 60)), given((60, 60)))
    before = task.copy(first) if hasattr(task, "copy") else first
    second, found = task.step(first, shown(world, (64, 60)))
    assert same(first, before)
    again, twice = task.step(first, shown(world, (64, 60)))
    assert np.array_equal(found[1].boxes, twice[1].boxes)
    assert not torch.equal(second.memories[0].filters, first.memories[0].filters)
    sizes = [{name: np.shape(value) for name, value in parts(s).items()} for s in (first, again)]
    assert sizes[0] == sizes[1]


def test_several_objects_are_followed_as_each_alone(world: Any):
    task, frames = untrained(), [shown(world, (40 + 4 * k, 40), (150, 90 - 3 * k)) for k in range(4)]
    both = task.start(frames[0], given((40, 40), (150, 90)))
    alone = [task.start(frames[0], given(place)) for place in ((40, 40), (150, 90))]
    for frame in frames[1:]:
        both, found = task.step(both, frame)
        for row in range(2):
            alone[row], one = task.step(alone[row], frame)
            np.testing.assert_allclose(found[both.index].boxes[row], one[both.index].box(), atol=0.05)


def test_what_is_gone_has_a_low_score_and_is_found_again_far_away(world: Any):
    task = untrained(tiles=2, patience=1)
    state = task.start(shown(world, (50, 40)), given((50, 40)))
    for _ in range(3):
        state, found = task.step(state, shown(world))
    assert found[3].scores[0] < 0.25
    assert state.lost[0] == 3
    for _ in range(8):
        state, found = task.step(state, shown(world, (160, 90)))
    np.testing.assert_allclose(found[11].box()[:2], [160, 90], atol=10)
    assert state.lost[0] == 0


def test_without_tiles_it_waits_where_it_was(world: Any):
    task = untrained(tiles=0, patience=1, lost_below=0.25)
    state, held = task.start(shown(world, (20, 20)), given((20, 20))), []
    for _ in range(6):
        state, found = task.step(state, shown(world, (190, 110)))
        held.append(state.boxes[0])
    assert np.isnan(found[6].box()).all()
    assert all(np.array_equal(box, held[0]) for box in held[1:])
    assert np.abs(held[0][:2] - 20).max() < 60  # in its search region, and far from where it now is


def test_likeness_is_the_mean_cosine_over_the_middle_of_the_box():
    torch.manual_seed(0)
    found, known = torch.randn(2, GRID * GRID, 5), torch.randn(2, GRID * GRID, 5)
    inner = [row * GRID + column for row in range(3, 7) for column in range(3, 7)]  # tokens span two sides of the box
    assert torch.equal(middle(found), found[:, inner])
    right = [
        np.mean([float(functional.cosine_similarity(a[i], b[i], dim=0)) for i in inner]) for a, b in zip(found, known)
    ]
    np.testing.assert_allclose(likeness(middle(found), middle(known)), right, atol=1e-6)
    np.testing.assert_allclose(likeness(middle(found), 3 * middle(found)), 1, atol=1e-6)


def test_presence_by_likeness_falls_when_the_thing_is_gone(world: Any):
    task = untrained(presence="likeness", calibration=(20.0, -14.0))
    state = task.start(shown(world, (100, 60)), Target(ids=np.array([1]), boxes=np.array([[100.0, 60, 24, 32]])))
    state, _ = task.step(state, shown(world, (104, 62)))
    assert state.scores[0] > 0.7
    state, _ = task.step(state, shown(world))
    assert state.scores[0] < 0.3


def test_presence_by_contrast_is_what_the_chance_and_the_surroundings_say():
    torch.manual_seed(0)
    features, boxes = torch.randn(2, 8, 8, 5), torch.tensor([[0.25, 0.25, 0.5, 0.25], [0.0, 0.5, 0.25, 0.5]])
    around = maps.outside(features, boxes)
    for one, box, rows in zip(features, boxes.tolist(), around.unflatten(1, (8, 8))):
        for y in range(8):
            for x in range(8):
                px, py = (x + 0.5) / 8, (y + 0.5) / 8
                inside = box[0] <= px <= box[0] + box[2] and box[1] <= py <= box[1] + box[3]
                assert torch.equal(rows[y, x], torch.zeros(5) if inside else one[y, x])
    found = torch.randn(2, 4, 5)
    for k in range(2):
        alike = [
            sorted((float(functional.cosine_similarity(a, b, dim=0)) for b in around[k]), reverse=True)[:3]
            for a in found[k]
        ]
        assert float(likest(found, around)[k]) == pytest.approx(np.mean(alike), abs=1e-5)


@pytest.mark.parametrize(("presence", "calibration"), [("contrast", (1.0, 8.0, 0.0)), ("facts", (1, 7, 3, -2.5))])
def test_presence_by_contrast_falls_when_the_thing_is_gone(world: Any, presence: Any, calibration: Any):
    task = untrained(presence=presence, calibration=calibration)
    state = task.start(shown(world, (100, 60)), Target(ids=np.array([1]), boxes=np.array([[100.0, 60, 24, 32]])))
    state, _ = task.step(state, shown(world, (104, 62)))
    there = state.scores[0]
    state, _ = task.step(state, shown(world))
    assert there > 0.6 > 0.4 > state.scores[0]


def test_a_calibration_has_a_factor_for_each_fact_and_an_offset():
    with pytest.raises(ValueError, match="presence=contrast goes by: 2 and an offset, not 2 numbers"):
        untrained(presence="contrast", calibration=(1.0, 0.0))
    with pytest.raises(ValueError, match="presence=facts goes by: 3 and an offset, not 3 numbers"):
        untrained(presence="facts", calibration=(1.0, 2.0, 0.0))
    with pytest.raises(ValueError, match="presence=head goes by: 1 and an offset, not 3 numbers"):
        untrained(calibration=(1.0, 2.0, 0.0))


def test_size_stays_within_its_limit_of_the_first_box(world: Any):
    task = untrained(size_rate=1.0, size_limit=1.5)
    with torch.no_grad():
        task.head.sides.bias.fill_(1.0)  # always e times larger
    state = task.start(shown(world, (100, 60)), given((100, 60)))
    for _ in range(5):
        state, found = task.step(state, shown(world, (100, 60)))
    np.testing.assert_allclose(found[5].box()[2:], [36, 48])


def test_a_constant_error_of_the_head_is_taken_out(world: Any):
    """The head finds everything e^0.3 too large and half a quarter to the right; the first frame shows it."""
    found = {}
    for calibrate in (False, True):
        task = untrained(size_rate=1.0, calibrate=calibrate)
        with torch.no_grad():
            task.head.sides.bias.copy_(torch.tensor([-0.2, 0.3, 0.6, 0.3]))
        state = task.start(shown(world, (100, 60)), given((100, 60)))
        for _ in range(3):
            state, answers = task.step(state, shown(world, (100, 60)))
        found[calibrate] = answers[3].box()
    assert found[False][2] > 40
    np.testing.assert_allclose(found[True], [100, 60, 24, 32], atol=6)


def test_prompts_add_and_correct_objects(world: Any):
    task = untrained()
    state = task.start(shown(world, (40, 40)), given((40, 40)))
    prompt: Any = Target(ids=np.array([1, 7]), boxes=np.array([[50.0, 40, 24, 32], [150, 90, 24, 32]]))
    state, found = task.step(state, shown(world, (50, 40), (150, 90)), prompt)
    assert found[1].ids.tolist() == [1, 7]
    np.testing.assert_allclose(found[1].boxes, prompt.boxes)
    state, found = task.step(state, shown(world, (52, 40), (152, 90)))
    np.testing.assert_allclose(found[2].boxes[:, 0], [52, 152], atol=10)


def test_heads_are_saved_without_the_encoder(world: Any, tmp_path: Any):
    task = untrained()
    task.encoder = None
    weights.save(task, tmp_path / "heads.safetensors", half=True)
    assert all(name.startswith("head.") for name in weights.read_shapes(tmp_path / "heads.safetensors"))
    again = weights.load(tmp_path / "heads.safetensors")
    with pytest.raises(ValueError, match="trunk"):
        again.start(shown(world, (40, 40)), given((40, 40)))
    again.encoder = Colours()
    state = again.start(shown(world, (40, 40)), given((40, 40)))
    assert again.step(state, shown(world, (44, 40)))[1][1].scores[0] > 0.5


def test_boxes_without_area_or_outside_are_refused(world: Any):
    task = untrained()
    for box in ([0.0, 0, 0, 5], [500.0, 500, 5, 5]):
        with pytest.raises(ValueError, match="box of object 1"):
            task.start(world[0], Target(ids=np.array([1]), boxes=np.array([box])))


def test_heads_that_come_with_the_package_fit_vit_s_and_are_no_default(world: Any):
    header = weights.read_header("shipped:dcf")
    assert header["fields"]["trunk"] == "dinov2-s"
    assert header["parts"] == ["head"]
    task = weights.load("shipped:dcf", settings={"trunk": ""})
    task.encoder = Wide()
    state = task.start(shown(world, (60, 60)), given((60, 60)))
    state, found = task.step(state, shown(world, (64, 60)))
    assert np.isfinite(found[1].box()).all()
    assert 0 < found[1].scores[0] < 1
    assert named(None, given((60, 60))) == "shipped:filters"


def test_fine_filter_places_the_box_to_a_pixel(world):
    task = untrained(fine_image=192, fine_centre=1.0)
    state = task.start(shown(world, (100, 60)), given((100, 60)))
    for place in ((103, 62), (109, 61), (114, 66)):
        state, found = task.step(state, shown(world, place))
    box = found[3].box()
    np.testing.assert_allclose(box[:2] + box[2:] / 2, [126, 82], atol=1.5)


@pytest.mark.parametrize("told", [0.6, 0.8, 1.25, 1.6])
def test_the_shipped_heads_look_for_the_size_whatever_they_are_told(told: float) -> None:
    """Heads that had learned with sizes nearly right found .86 of the height when told .6, so that sizes ran away.

    These find at least .95 then. Told 1.6 they find .83 of the height, and all of it in the next look.
    """
    frame = Video(Path(__file__).parents[2] / "docs/images/car.mp4")[76]
    task, box = weights.load("shipped:filters").eval(), np.array([160.0, 69.0, 108.0, 171.0])
    state = task.start(frame, Target(ids=np.array([1]), boxes=box[None]))
    centre, size, ratios = box[:2] + box[2:] / 2, box[2:] * told, []
    for _ in range(2):
        state = dataclasses.replace(state, boxes=np.concatenate([centre - size / 2, size])[None])
        with torch.no_grad():
            found = task.look(state, frame, [0], [crops.region(centre, task.reach(state, 0))], [True])[0]
        size = found.box[2:]
        ratios.append(size / box[2:])
    assert (ratios[0] > (0.92 if told < 1 else 0.8)).all()
    assert (ratios[0] < 1.15).all()
    assert (np.abs(ratios[1] - 1) < 0.08).all()


def test_the_settings_that_the_docs_name_are_there() -> None:
    text = (Path(__file__).parents[2] / "docs/tracking.md").read_text()
    table = text.split("## On a frozen encoder")[1].split("| setting | meaning |")[1].split("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert len(named) > 10
    assert named <= set(DCF.use)
