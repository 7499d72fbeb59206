"""The task of optical flow: pairs that are rendered, samples made of them, what the network answers, and bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from dropmae import track, weights
from dropmae.data.clips import generator
from dropmae.datasets.layers import Layers
from dropmae.engine import Engine, follow
from dropmae.formats.flow import read_flow, read_marks
from dropmae.nn.refine import centres, sample
from dropmae.rendering.layers import Moves, levels, render_pair, street
from dropmae.sequence import Sequence
from dropmae.target import Target, read_targets
from dropmae.tasks.flow import Flow, astray
from dropmae.tasks.flow.decoder import Found, losses, match
from dropmae.tasks.flow.samples import UNKNOWN, Changes, flow_sample, scattered
from dropmae.tasks.flow.tiles import starts, tiled
from dropmae.video import Video

SMALL: dict[str, Any] = {"widths": (8, 8, 16, 16), "channels": 8, "memory": 16, "radius": 1, "image": (64, 96)}
PLAIN: Any = {"scales": (0, 0), "flips": (0, 0), "jitter": (0, 0, 0, 0), "erase": 0}


def told(target: Target) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flow, occlusion and confidence, which are all there."""
    assert target.flow is not None
    assert target.occluded is not None
    assert target.flow_confidence is not None
    return target.flow, target.occluded, target.flow_confidence


def texture(height: int, width: int) -> np.ndarray:
    torch.manual_seed(0)
    coarse = torch.rand(1, 3, height // 6, width // 6)
    return (functional.interpolate(coarse, (height, width), mode="bicubic")[0] * 255).clamp(0, 255).byte().numpy()


def shifted(x: int, y: int) -> np.ndarray:
    wide = texture(120, 160).transpose(1, 2, 0)
    return np.stack([wide[20:84, 30:126], wide[20 - y : 84 - y, 30 - x : 126 - x]])


def photographs(root: Path) -> Path:
    for number in range(2):
        Image.fromarray(texture(120, 160 + 6 * number).transpose(1, 2, 0)).save(root / f"photo{number}.png")
    cut = np.zeros((40, 40, 4), np.uint8)
    cut[8:32, 8:32] = (200, 30, 90, 255)
    Image.fromarray(cut).save(root / "thing.png")
    return root


def test_rendered_flow_is_where_things_went(tmp_path: Path) -> None:
    ground = levels(torch.from_numpy(np.concatenate([texture(240, 300), np.full((1, 240, 300), 255, np.uint8)])))
    cut = torch.full((4, 40, 40), 255, dtype=torch.uint8)
    for number in range(4):
        frames, flow, occluded = render_pair(ground, [levels(cut)], (96, 128), generator(1, number))
        assert flow.shape == (96, 128, 2)
        first, second = (torch.from_numpy(frame).permute(2, 0, 1).float()[None] for frame in frames)
        goal = centres(96, 128) + torch.from_numpy(flow).permute(2, 0, 1)[None]
        off = (sample(second, goal) - first).abs().mean(1)[0].numpy()
        assert np.median(off[~occluded]) < 4, "what is seen in both frames is alike at both ends"
        assert occluded.mean() < 0.9
    sequences = Layers(size=(64, 96)).sequences(photographs(tmp_path))
    assert [sequence.name for sequence in sequences] == ["photo0.png", "photo1.png"], "cut-outs are no backgrounds"
    one, same = (sequences[0].drawn(generator(1, 2)) for _ in range(2))
    np.testing.assert_array_equal(one.source, same.source)
    np.testing.assert_array_equal(one.targets[0].flow, same.targets[0].flow)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no picture or video"):
        Layers().sequences(tmp_path / "empty")


def test_a_street_that_is_driven_along() -> None:
    """Pairs agree with their flow, which grows towards the lower edge, and points at one place but for a turn."""
    ground = levels(torch.from_numpy(np.concatenate([texture(240, 300), np.full((1, 240, 300), 255, np.uint8)])))
    moves, contrast = Moves(approach=1.0, plain=0.5, shift=(0.3, 12.0)), []
    for number in range(8):
        frames, flow, occluded = render_pair(ground, [], (96, 128), generator(3, number), moves)
        first, second = (torch.from_numpy(frame).permute(2, 0, 1).float()[None] for frame in frames)
        goal = centres(96, 128) + torch.from_numpy(flow).permute(2, 0, 1)[None]
        off = (sample(second, goal) - first).abs().mean(1)[0].numpy()
        assert np.median(off[~occluded]) < 4
        contrast.append(float(first.std()))
    assert min(contrast) < 0.5 * max(contrast), "half of them have lost their contrast"
    places = centres(96, 128)[0]
    for number in range(8):
        flow = street(generator(4, number), places, 10.0).numpy()
        grown = np.linalg.norm(flow - flow[:, 20, 64][:, None, None], axis=0)
        assert grown[-1].mean() > 2 * grown[20].mean()
        assert np.isfinite(flow).all()


def test_samples_keep_flow_true() -> None:
    frames = np.stack([texture(120, 160).transpose(1, 2, 0)] * 2)
    rows, columns = np.mgrid[:120, :160].astype(np.float32)
    flow = np.stack([columns * 0.1, rows * -0.05], -1)
    sequence = Sequence("a", frames, {0: Target(ids=np.zeros(0, np.int64), flow=flow)})
    once: Any = {**PLAIN, "scales": (1, 1), "flips": (1, 1)}
    twice = Changes(sides=(64, 96), **once, scaled=1, stretch=0)
    found = flow_sample(sequence, generator(3), twice)
    assert found["frames"].shape == (2, 3, 64, 96)
    assert (found["occluded"] == UNKNOWN).all()
    steps = np.diff(found["flow"][0], axis=1), np.diff(found["flow"][1], axis=0)
    np.testing.assert_allclose(steps[0], 0.1, atol=1e-4)  # twice as far over twice as many pixels, and mirrored twice
    np.testing.assert_allclose(steps[1], -0.05, atol=1e-4)
    sparse = np.full((4, 4, 2), np.nan, np.float32)
    sparse[1, 2] = (3, -2)
    wide = scattered(sparse, (8, 8), np.array([2, 2], np.float32))
    assert wide[2, 4].tolist() == [6, -4]
    assert np.isfinite(wide[..., 0]).sum() == 1, "holes are not filled"
    with pytest.raises(OSError, match="no flow is known"):
        flow_sample(Sequence("a", frames, {}), generator(0), twice)


def test_untrained_it_follows_small_shifts_and_learns() -> None:
    torch.manual_seed(0)
    task = Flow(**SMALL, looks=(4, 2, 1), **PLAIN)
    frames = shifted(2, -1)
    found = told(task.eval().between(*frames))[0]
    assert np.linalg.norm(np.median(found[12:-12, 12:-12], (0, 1)) - [2, -1]) < 0.7
    flow = np.broadcast_to(np.array([2, -1], np.float32), (64, 96, 2))
    sequence = Sequence("a", frames, {0: Target(ids=np.zeros(0, np.int64), flow=flow, occluded=flow[..., 0] > 9)})
    made = task.sample(sequence, generator(0))
    batch = {name: torch.from_numpy(value)[None] for name, value in made.items()}
    optimizer = torch.optim.AdamW(task.train().parameters(), 2e-3)
    seen = []
    for _ in range(8):
        parts = task(batch)
        seen.append(parts["loss"].item())
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
    assert seen[-1] < 0.92 * seen[0]
    assert all(p.grad is not None for p in task.parameters()), "everything learns"


def test_what_is_too_fast_is_found_at_smaller_sizes() -> None:
    """An untrained network, which follows a few pixels, on a shift of 96."""
    torch.manual_seed(0)
    coarse = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (1, 3, 18, 36)).astype(np.float32))
    ground = functional.interpolate(coarse, (288, 576), mode="bicubic")[0].clamp(0, 255).byte()
    wide = ground.permute(1, 2, 0).numpy()
    frames = np.stack([wide[16:272, 112:560], wide[16:272, 16:464]])
    errors = []
    for halves in (0, 3):
        task = Flow(**SMALL, looks=(4, 2, 1), halves=halves, **PLAIN).eval()
        found = told(task.between(*frames))[0]
        errors.append(float(np.linalg.norm(np.median(found[32:-32, 32:-144], (0, 1)) - [96, 0])))
    assert errors[1] < 1.5 < 20 < errors[0]


@pytest.mark.parametrize("pair", ["joint", "alternating", "separate"])
def test_a_transformer_beside_the_convolutions(pair: Any) -> None:
    task = Flow(**SMALL, size="tiny", depth=2, patch=8, pair=pair).eval()
    a, b = (torch.from_numpy(shifted(0, 0)).permute(0, 3, 1, 2)[None] for _ in range(2))
    b = b.clone()
    b[:, 1] = 255 - b[:, 1]
    one, other = (task.maps(frames)[0][-1] for frames in (a, b))
    assert one.shape == (1, 19, 4, 6)
    assert torch.allclose(one, other, atol=1e-5) == (pair == "separate"), "only there a frame does not see the other"
    assert task.encoder.features(a[:, 0]).shape[1] == 192
    assert task.predict(a, keep=True).flow.shape == (1, 2, 64, 96)


def test_matching_finds_the_same_cell_wherever_it_is() -> None:
    marks = torch.eye(24).view(1, 24, 4, 6)
    moved = marks.roll((1, 2), (2, 3))
    found = match(marks, moved, torch.tensor(50.0), keep=True)
    torch.testing.assert_close(found.flow[0, :, :3, :4], torch.tensor([2.0, 1.0])[:, None, None].expand(2, 3, 4))
    assert found.logits is not None
    assert found.logits.shape == (1, 24, 24)
    again = match(marks, moved, torch.tensor(50.0), keep=False)
    torch.testing.assert_close(again.flow, found.flow)


def test_losses_of_nothing_and_of_the_truth() -> None:
    true = torch.randn(1, 2, 32, 48) * 5
    logits = torch.zeros(1, 3, 32, 48)
    logits[:, 0], logits[:, 2] = 20, -20
    steps = [(16, functional.avg_pool2d(true, 16) / 16)]
    perfect = losses(Found(true, logits, true[:, :1], steps, None), true, torch.zeros(1, 32, 48), 400, 0.8)
    assert perfect["epe"] == 0
    assert perfect["likelihood"] < 1e-4
    assert perfect["occlusion"] < 1e-4
    unknown = torch.full_like(true, torch.nan)
    nothing = losses(
        Found(true, logits, true[:, :1], steps, torch.zeros(1, 6, 6)), unknown, torch.full((1, 32, 48), 255), 400, 0.8
    )
    assert all(float(value) == 0 for value in nothing.values()), "a truth without a known pixel teaches nothing"


def test_tiles_of_any_size_blend_without_seams() -> None:
    asked = []

    def ramp(pair: torch.Tensor) -> torch.Tensor:
        asked.append(pair.shape[2] * pair.shape[3])
        return pair[0, :1].float()

    rows, columns = torch.meshgrid(torch.arange(150.0), torch.arange(230.0), indexing="ij")
    pair = (rows + columns).expand(2, 3, -1, -1)
    torch.testing.assert_close(tiled(ramp, pair, 64 * 64, 0.25, 16)[0], pair[0, 0])
    assert len(asked) > 9
    assert max(asked) <= 64 * 64
    assert starts(100, 40, 0.5) == [0, 20, 40, 60]
    frames = np.concatenate([shifted(1, 0)] * 2, 2)
    task = Flow(**SMALL, limit=4096).eval()
    assert told(task.between(*frames))[0].shape == (64, 192, 2)


def test_what_does_not_come_home_is_occluded() -> None:
    there = torch.zeros(1, 2, 32, 32)
    there[:, 0] = 4
    assert astray(there, -there)[0, 0, :, :24].sum() == 0
    assert astray(there, there)[0, 0].all()


def test_frames_are_answered_when_the_next_is_there() -> None:
    frames = np.concatenate([shifted(1, 0), shifted(1, 0)[:1]])
    found = follow(Engine(Flow(**SMALL, check=True)), Video(frames), {})
    assert sorted(found.targets) == [0, 1, 2]
    flow, occluded, confidence = told(found.targets[1])
    assert (flow.dtype, occluded.dtype) == (np.float32, bool)
    assert 0 <= confidence.min() <= confidence.max() <= 1
    assert found.targets[2].flow is None, "nothing follows the last one"
    with pytest.raises(ValueError, match="two are needed"):
        follow(Engine(Flow(**SMALL)), Video(frames[:1]), {})
    task = Flow(**SMALL).eval()
    with pytest.raises(ValueError, match="frame 1 is 96x60 and the one before 96x64"):
        task.step(task.start(frames[0], Target(ids=np.zeros(0, np.int64))), frames[1][:60])


WRONG: list[dict[str, Any]] = [{"preset": "big"}, {"image": (60, 96)}, {"limit": 9}, {"overlap": 1.0}]
WRONG += [{"looks": (0, 1, 1)}, {"precise": 0.0}, {"channels": 0}, {"scales": (1.0, 0.0)}, {"size": "giant"}]


@pytest.mark.parametrize("wrong", WRONG)
def test_fields_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Flow(**{**SMALL, **wrong})


def test_track_writes_flow_in_every_form(tmp_path: Path) -> None:
    weights.save(Flow(**SMALL), tmp_path / "flow.safetensors")
    frames = np.concatenate([shifted(3, 0), shifted(3, 0)[:1]])
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    pictures = [tmp_path / f"{number}.png" for number in range(3)]
    say: Any = {"flow": True, "weights": tmp_path / "flow.safetensors", "out": tmp_path / "a.mp4"}
    report = track(pictures, **say, also=tuple(tmp_path / name for name in ("a.flo", "a.kitti", "b.arrows.mp4")))
    assert report["frames"] == 3
    found = read_targets(tmp_path / "a.jsonl")
    flow, occluded, _ = told(next(iter(found.values()))[0])
    assert sorted(path.name for path in (tmp_path / "a.flo").glob("*.flo")) == ["00000.flo", "00001.flo"]
    np.testing.assert_allclose(read_flow(tmp_path / "a.flo/00000.flo"), flow, atol=1 / 128)
    np.testing.assert_allclose(read_flow(tmp_path / "a.kitti/00000.png"), flow, atol=1 / 64)
    np.testing.assert_array_equal(read_marks(tmp_path / "a.kitti/00000.occluded.png"), occluded)
    colours, arrows = (Video(tmp_path / name)[0].astype(int) for name in ("a.mp4", "b.arrows.mp4"))
    assert np.abs(arrows - frames[0]).mean() < np.abs(colours - frames[0]).mean(), "arrows lie on the frame"
    listed = [(number, target.flow is None) for number, target in track(frames, flow=True, weights=say["weights"])]
    assert listed == [(0, False), (1, False), (2, True)]
    Image.fromarray(frames[0][:32]).save(tmp_path / "other.png")
    with pytest.raises(OSError, match=r"other\.png"):
        track([pictures[0], tmp_path / "other.png"], **say)
    ways: tuple[dict[str, Any], ...] = ({"every": 2}, {"backwards": True, "start": 2}, {"both": True})
    for wrong in ways:
        with pytest.raises(ValueError, match=r"to the next frame|both is of objects"):
            track(pictures, **say, **wrong)
    other: dict[str, Any] = {**say, "out": tmp_path / "e.flo"}
    track(pictures, **other, every=2)
    assert [path.name for path in (tmp_path / "e.flo").glob("*.flo")] == ["00000.flo"]
    (tmp_path / "mine.flow.npz").write_bytes(b"somebody's")
    other["out"] = tmp_path / "mine.jsonl"
    with pytest.raises(ValueError, match=r"mine.flow.npz exists and is not a tracking result"):
        track(pictures, **other)
    track(pictures, **say)  # its own files are replaced
    with pytest.raises(ValueError, match="follows nothing: leave out what to follow"):
        track(pictures, box=(1, 2, 30, 20), weights=say["weights"], out=tmp_path / "a.jsonl", overwrite=True)
    with pytest.raises(ValueError, match="leave box, mask, points"):
        track(pictures, **say, box=(1, 2, 30, 20))
    with pytest.raises(ValueError, match="not flow"):
        track(pictures, flow=True, weights="shipped:vot", out=tmp_path / "a.mp4")
