"""The point tracker, what it learns from, and what is done with it."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

import dropmae
from dropmae.benchmarks.collage import Collage, Files
from dropmae.benchmarks.tapvid import TAPVid
from dropmae.contracts import Task
from dropmae.datasets.kubric import Kubric
from dropmae.engine import Engine, follow
from dropmae.evaluation import answers
from dropmae.nn.refine import alike, sample
from dropmae.rendering import collage
from dropmae.sequence import Sequence
from dropmae.target import Target
from dropmae.tasks.tap import TAP
from dropmae.video import Video

NOBODY = np.zeros(0, np.int64)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs and cut-outs enough for both parts."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(12):
        coarse = rng.integers(0, 256, (10, 12, 3), np.uint8)
        Image.fromarray(coarse).resize((120, 100), Image.Resampling.BICUBIC).save(root / f"photo{number}.png")
        cut = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((60, 60), Image.Resampling.BICUBIC)
        alpha = np.zeros((60, 60), np.uint8)
        alpha[8:-8, 12:-12] = 255
        cut.putalpha(Image.fromarray(alpha))
        cut.save(root / f"cut{number}.png")
    return root


def tracker(**fields: Any) -> TAP:
    torch.manual_seed(0)
    return TAP(widths=(8, 16, 16, 16), channels=16, hidden=16, **fields).eval()


# -------------------------------------------------------------------- rendered clips


@pytest.mark.parametrize("bend", [collage.waves, collage.twist])
def test_points_go_where_their_pixels_go(bend: Any) -> None:
    """Back from where a point is said to be, through turns, perspective and bends, its own place is found."""
    rng, times = np.random.default_rng(3), torch.arange(8).float()
    for _ in range(5):
        layer = collage.Layer(torch.rand(1, 4, 40, 70), collage.curve(rng, (96, 96), 8, 5, 0.02), torch.ones(3))
        layer.bends = bend(rng, layer.half, 0.6)
        points = (torch.rand(30, 2) - 0.5) * 2 * layer.half
        back = layer.looked_up(layer.placed(points, times), times)
        assert (back - points).abs().max() < 0.02
        assert (layer.placed(points, times)[0] - layer.placed(points, times)[-1]).norm(dim=-1).max() > 1


def test_what_lies_over_a_point_hides_it() -> None:
    still = [torch.zeros(6) for _ in range(5)]
    ground = collage.Layer(
        torch.rand(1, 3, 40, 40), collage.Curve(torch.tensor([20.0, 20, 0, 0, 0, 0]), *still[1:]), torch.ones(3)
    )
    opaque = torch.ones(1, 4, 10, 10)
    speed = torch.tensor([10.0, 0, 0, 0, 0, 0])
    over = collage.Layer(opaque, collage.Curve(torch.tensor([5.0, 20, 0, 0, 0, 0]), speed, *still[2:]), torch.ones(3))
    tracks = collage.tracked([ground, over], torch.tensor([[20.0, 20], [5, 20]]), torch.tensor([0, 0]), 6, (40, 40))
    assert tracks.layers.tolist() == [0, 1]
    assert tracks.visible[:, 0].tolist() == [True, False, False, True, True, True] or tracks.visible[1:3, 0].sum() < 2
    assert tracks.visible[:, 1].tolist() == [True, True, True, True, False, False]
    np.testing.assert_allclose(tracks.places[:, 1, 0], [5, 15, 25, 35, 45, 55], atol=1e-4)
    clip = collage.rendered([ground, over], 6, (40, 40))
    assert clip[1, :, 20, 15].tolist() == [1, 1, 1]


def test_what_is_evaluated_is_kept_apart(pictures: Path) -> None:
    train, held = (Files.below(pictures, kind) for kind in ("train", "held"))
    assert not {*train.grounds, *train.cutouts} & {*held.grounds, *held.cutouts}
    bench = Collage(clips=2, frames=6, size=(64, 64), points=12)
    first, second = bench.sequences(pictures)
    assert first.video[0].shape == (64, 64, 3)
    again = Collage(clips=2, frames=6, size=(64, 64), points=12).sequences(pictures)[0]
    np.testing.assert_array_equal(first.video[3], again.video[3])
    np.testing.assert_array_equal(first.targets[5].points, again.targets[5].points)
    assert len(second.targets) == 6
    truth = {name: dict(targets) for name, targets in bench.annotations(pictures).items()}
    report = bench.score(truth, truth)
    assert (report["aj"], report["delta"], report["oa"]) == (1, 1, 1)
    with pytest.raises(FileNotFoundError, match="0 pictures with alpha"):
        Collage().sequences(pictures.parent / "nowhere", "train")


# -------------------------------------------------------------------- the tracker


def test_products_with_a_window() -> None:
    """Both ways to compare give what sampling the features around each place does, outside the map too."""
    torch.manual_seed(0)
    for side in (12, 40):
        features, own = torch.randn(2, 8, side, side + 4), torch.randn(2, 3, 8, 5, 1)
        places = torch.rand(2, 2, 5, 1) * (side + 6) - 3
        found = alike(own, features, places, 1)
        for number, (y, x) in enumerate((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)):
            seen = sample(features, places + torch.tensor([x, y]).view(1, 2, 1, 1))
            np.testing.assert_allclose(found[:, :, number], (own * seen[:, None]).sum(2) * 8**-0.5, atol=1e-5)


def test_it_learns_and_points_know_nothing_of_each_other(pictures: Path) -> None:
    task = tracker(image=64, frames=4, points=16).train()
    rows = Collage().sequences(pictures, "train")
    batch = default_collate([task.sample(rows[n], np.random.default_rng(n)) for n in range(2)])
    assert batch["frames"].shape == (2, 4, 3, 64, 64)
    optimizer, losses = torch.optim.Adam(task.parameters(), 3e-3), []
    for _ in range(12):
        loss = task(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    clip = np.random.default_rng(0).integers(0, 256, (5, 48, 64, 3), np.uint8)
    both = np.array([[10.0, 12], [40, 30]])
    found: list[Any] = []
    for points in (both, both[1:]):
        prompts = {0: Target(ids=NOBODY, points=points)}
        found.append(follow(Engine(task.eval()), Video(clip), prompts).targets[4])
    np.testing.assert_allclose(found[0].points[1], found[1].points[0], atol=1e-4)
    np.testing.assert_allclose(found[0].uncertainty[1], found[1].uncertainty[0], rtol=1e-4)


def test_points_of_later_frames_and_both_ways() -> None:
    """A point is NaN and hidden until it is asked for, is what was said in its own frame, and has one in all others
    where a sequence is gone through both ways; the state does not grow."""
    task = tracker()
    clip = np.random.default_rng(0).integers(0, 256, (7, 300, 420, 3), np.uint8)
    first, later = np.full((2, 2), np.nan), np.full((2, 2), np.nan)
    first[0], later[1] = (100.25, 90), (300, 200.5)
    prompts = {frame: Target(ids=NOBODY, points=one) for frame, one in ((0, first), (3, later))}
    found: dict[int, Any] = {**follow(Engine(task), Video(clip), prompts).targets}
    assert np.isnan(found[2].points[1]).all()
    assert not found[2].visible[1]
    np.testing.assert_allclose(found[3].points[1], later[1])
    assert found[3].visible[1]
    assert np.isfinite(found[6].points).all()
    both: dict[int, Any] = {**follow(Engine(task), Video(clip), prompts, "both").targets}
    assert all(np.isfinite(target.points).all() for target in both.values())
    task = tracker(resolution=256)  # an engine converts its task
    state = task.start(clip[0], prompts[0])
    before = sum(value.numel() for value in vars(state.points).values() if isinstance(value, torch.Tensor))
    for frame in clip[1:]:
        state, _ = task.step(state, frame)
    assert sum(value.numel() for value in vars(state.points).values() if isinstance(value, torch.Tensor)) == before
    assert state.sides == (224, 304)  # as many pixels as 256 x 256, in sixteens
    with pytest.raises(ValueError, match="the frame has 10x10 pixels"):
        task.step(state, np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(ValueError, match="3 points, but the video was started with 2"):
        task.step(state, clip[0], Target(ids=NOBODY, points=np.zeros((3, 2))))


# -------------------------------------------------------------------- data and the command line


def test_kubric_is_read_as_data(tmp_path: Path) -> None:
    folder = tmp_path / "0001"
    (folder / "frames").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "frames" / f"{number:03d}.png")
    hidden = np.zeros((4, 5), bool)
    hidden[1, 3:] = True
    held: Any = {"coords": rng.uniform(0, 32, (4, 5, 2)).astype(np.float32), "visibility": hidden}
    np.save(folder / "0001.npy", held, allow_pickle=True)
    (one,) = Kubric().sequences(tmp_path)
    assert len(one.targets) == len(one.video) == 5
    last: Any = one.targets[4]
    np.testing.assert_allclose(last.points, held["coords"][:, 4], rtol=1e-6)
    assert last.visible.tolist() == [True, False, True, True]
    sample_ = tracker(image=64, frames=3, points=6).sample(one, np.random.default_rng(0))
    assert sample_["places"].shape == (3, 6, 2)
    np.save(folder / "0001.npy", np.zeros(3))
    (one,) = Kubric().sequences(tmp_path)
    with pytest.raises(OSError, match=r"0001\.npy: not a readable pickle of data"):
        one.targets[0]


@dataclass(kw_only=True, eq=False, repr=False)
class Drift(Task):
    """Points move by a hundredth of the square per frame, to the right as time goes on."""

    takes, gives = ("points",), ("points", "visible")

    def __post_init__(self) -> None:
        super().__init__()

    def start(self, frame: np.ndarray, target: Any) -> Any:
        return 0, int(frame[0, 0, 0]), np.full(target.points.shape, np.nan), target

    def step(self, state: Any, frame: np.ndarray, prompt: Any = None) -> Any:
        number, before, points, told = state
        points = np.where(np.isfinite(told.points), told.points, points) if told is not None else points
        points = np.add(points, [2.56 * np.sign(int(frame[0, 0, 0]) - before), 0])
        answer: Any = points if prompt is None else np.where(np.isfinite(prompt.points), prompt.points, points)
        seen = np.isfinite(answer[:, 0])
        target = Target(ids=NOBODY, points=answer, visible=seen)
        return (number + 1, int(frame[0, 0, 0]), points, prompt), {number + 1: target}


def test_strided_through_the_engine(tmp_path: Path) -> None:
    """Each query is followed forwards and backwards from its own frame: a tracker that knows the motion is perfect."""
    clip = np.repeat(np.arange(10, 34, 2, dtype=np.uint8), 64 * 64 * 3).reshape(12, 64, 64, 3)
    places = np.array([[[0.3, 0.4]], [[0.6, 0.5]]]) + 0.01 * np.arange(12)[:, None] * [1, 0]
    held = {"one": {"video": clip, "points": places, "occluded": np.zeros((2, 12), bool)}}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(held))
    bench = TAPVid(queries="strided")
    (one,) = bench.sequences(tmp_path)
    found = answers(Engine(Drift()), bench, one)
    bench.write(one.name, found.targets, tmp_path / "out")
    truth = bench.annotations(tmp_path)
    report = bench.score(bench.read(tmp_path / "out", truth), truth)
    assert (report["aj"], report["delta"], report["oa"]) == (1, 1, 1)


def test_a_grid_of_points_and_their_arrays(tmp_path: Path) -> None:
    clip, weights = np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), np.uint8), tmp_path / "tap.safetensors"
    dropmae.save(tracker(), weights)
    dropmae.track(
        clip,
        weights=weights,
        grid=3,
        start=1,
        points=[(4, 8.0, 9.0)],
        out=tmp_path / "out.npz",
        also=(tmp_path / "out.csv",),
    )
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert rows[1] == "frame,time,point,id,x,y,visible,uncertainty"
    assert rows[2].endswith(",1,,,,0,")
    assert len(rows) == 2 + 5 * 10
    held = np.load(tmp_path / "out.npz")
    assert held["points"].shape == (5, 10, 2)
    assert held["frames"].tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(held["points"][3, 0], [8, 9])
    np.testing.assert_allclose(held["points"][0, 1:3], [[64 / 6, 8], [32, 8]], rtol=1e-5)
    assert not held["visible"][:3, 0].any()
    assert np.isnan(held["uncertainty"][:3, 0]).all(), "it is not known yet"
    assert (held["uncertainty"][0, 1:] == 0).all(), "what is told is certain"
    found = list(dropmae.track(clip, weights=weights, grid=2))
    assert [number for number, _ in found] == list(range(6))
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"points": [(9, 1.0, 1.0)]}, "frame 9, where something is to be followed from, is none of the 6 frames"),
        ({"points": [(0, 99.0, 1.0)]}, "point 1 at 99,1 lies outside the 64x48 frame"),
        ({"grid": -1}, "grid is the number of rows"),
        ({}, "say what to follow"),
    )
    for wrong, reason in cases:
        with pytest.raises(ValueError, match=reason):
            dropmae.track(clip, weights=weights, out=tmp_path / "other.npz", **wrong)
    assert Sequence("x", clip).video[0].shape == (48, 64, 3)


def test_it_goes_on_with_training_pictures_of_another_size(tmp_path: Path) -> None:
    dropmae.save(tracker(), tmp_path / "tap.safetensors")
    task: Any = dropmae.load(tmp_path / "tap.safetensors")
    task.resize_image(64 + 2 * task.image)
    assert task.image % 16 == 0
    with pytest.raises(ValueError, match="square"):
        task.resize_image((64, 96))
    with pytest.raises(ValueError, match="multiple"):
        task.resize_image(65)
