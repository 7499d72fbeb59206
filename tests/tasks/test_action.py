"""Action recognition: frames that are chosen, tokens, augmentation, probes, verdicts over views, learned motions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dropmae import evaluate, finetune, registry, track, weights
from dropmae.benchmarks._actions import labelled
from dropmae.benchmarks.motions import Motions
from dropmae.data.clips import Clips, Sequence, collate, generator
from dropmae.engine import Engine
from dropmae.loading import load_task, untrained
from dropmae.metrics.classes import Views, within
from dropmae.tasks._clips import clip_tokens, square_crops, training_frames, view_frames
from dropmae.tasks.action import Action
from dropmae.tasks.action.augment import OPERATIONS, erase, mixed, rand_augment, soft_cross_entropy, soft_targets
from dropmae.video import Video

SMALL: dict[str, Any] = {"size": "tiny", "depth": 2, "patch": 8, "image": 32, "frames": 8, "stride": 1, "flip": 0.0}
PLAIN: dict[str, Any] = {"randaugment": False, "erasing": 0.0, "mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0}


def made(**fields: Any) -> Action:
    torch.manual_seed(0)
    return Action(**{**SMALL, **fields})


def batch_of(task: Any, count: int = 4) -> dict[str, Any]:
    clips = Clips(list(Motions().sequences(Path(), "train")), task.sample, seed=0)
    batch = collate([clips[index] for index in range(count)])
    batch.pop("reports")
    return {**batch, "seed": 0, "step": 0, "progress": 0.0}


# -------------------------------------------------------------------- frames

WINDOW = [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]
"""64 frames in 16 steps of 64 / 15, cut to whole numbers, the last one within the window."""


@pytest.mark.parametrize(
    ("length", "wanted"),
    [
        (1, [0] * 16),
        (15, [0, 7, *[14] * 14]),
        (16, [0, 5, 10, *[15] * 13]),
        (63, [0, 4, 9, 13, 18, 22, 27, 31, 36, 40, 45, 49, 54, 58, 62, 62]),
        (64, WINDOW),
        (65, WINDOW),
    ],
)
def test_a_dense_training_clip_is_the_official_one(length: int, wanted: list[int]) -> None:
    assert training_frames(length, 16, 4, "dense", generator(0)).tolist() == wanted


def test_a_dense_training_window_lies_anywhere() -> None:
    found = [training_frames(300, 16, 4, "dense", generator(0, seed)) for seed in range(400)]
    assert all((one - one[0]).tolist() == WINDOW for one in found)
    starts = {int(one[0]) for one in found}
    assert min(starts) < 10
    assert 225 < max(starts) <= 235  # the window ends at 299 at most


def test_uniform_training_takes_a_frame_of_each_part() -> None:
    for seed in range(20):
        found = training_frames(100, 16, 4, "uniform", generator(0, seed))
        assert (found // 6).tolist() == list(range(16))
    assert training_frames(10, 16, 4, "uniform", generator(0)).tolist() == [0] * 16
    assert training_frames(16, 16, 4, "uniform", generator(0)).tolist() == list(range(16))


def test_views_begin_at_equal_shares() -> None:
    dense = [view_frames(75, 16, view, 5, "dense") for view in range(5)]  # of 300 frames, every fourth
    assert [int(one[0]) for one in dense] == [0, 14, 29, 44, 59]
    assert dense[4].tolist() == list(range(59, 75))
    assert view_frames(4, 16, 3, 5, "dense").tolist() == [0, 1, 2, *[3] * 13]
    assert view_frames(20, 16, 0, 1, "dense")[0] == 2
    starts, centres = (view_frames(100, 16, view, 2, "uniform").tolist() for view in range(2))
    assert starts[:6] == [0, 6, 12, 18, 25, 31]
    assert centres[:6] == [3, 9, 15, 21, 28, 34]
    few = [view_frames(20, 16, view, 2, "uniform").tolist()[:5] for view in range(2)]
    assert few == [[0, 1, 2, 3, 5], [0, 1, 3, 4, 5]]


def test_crops_go_from_end_to_end() -> None:
    frames = np.arange(10, dtype=np.uint8)[None, None, :, None].repeat(4, 1).repeat(3, 3)
    assert square_crops(frames, 3)[:, 0, 0, 0, 0].tolist() == [0, 3, 6]
    assert square_crops(frames.transpose(0, 2, 1, 3), 3)[:, 0, 0, 0, 0].tolist() == [0, 3, 6]
    assert square_crops(frames, 1).shape == (1, 1, 3, 4, 4)
    assert square_crops(frames, 1)[0, 0, 0, 0, 0] == 3


# -------------------------------------------------------------------- augmentation and loss


def test_operations_keep_clips_together() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    changed = 0
    for seed in range(12):
        found = rand_augment([frame, frame], generator(seed))
        assert np.array_equal(found[0], found[1])
        assert found[0].shape == frame.shape
        changed += not np.array_equal(found[0], frame)
    assert changed > 6
    grey = np.full((8, 8, 3), 200, np.uint8)
    from PIL import Image

    values = [np.asarray(OPERATIONS[place](Image.fromarray(grey), 7.0, 1))[4, 4, 0] for place in (2, 4, 5, 6, 9)]
    # inverted; two bits kept; 200 is above 256 - 179; it is not below 128; 1 + .09 * 7 times, at most 255
    assert values == [55, 192, 55, 200, 255]


def test_erasing_hides_the_same_rectangle_in_all_frames() -> None:
    clip = np.zeros((3, 3, 32, 32), np.uint8)
    erase(clip, generator(1))
    hidden = np.asarray(clip > 0).max(1)
    assert 0.01 < hidden.mean() < 0.36
    rows, columns = (np.flatnonzero(hidden.max((0, axis))) for axis in (2, 1))
    assert hidden[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.95
    assert not np.array_equal(clip[0], clip[1])


def test_mixed_targets_are_what_is_shown() -> None:
    label = torch.tensor([0, 1, 2, 3])
    target = soft_targets(label, 10, 0.1, 0.7)
    torch.testing.assert_close(target.sum(1), torch.ones(4))
    assert target[0, 0] == pytest.approx(0.7 * 0.91 + 0.3 * 0.01)
    assert target[0, 3] == pytest.approx(0.3 * 0.91 + 0.7 * 0.01)
    logits = torch.zeros(4, 10)
    assert float(soft_cross_entropy(logits, target)) == pytest.approx(np.log(10))
    clips = torch.arange(4.0)[:, None, None, None, None].expand(4, 2, 3, 16, 16)
    for seed in range(8):
        cut, share = mixed(clips, 0.0, 1.0, generator(seed))
        assert torch.equal(cut[:, 0], cut[:, 1])
        assert float((cut[1] == 1).float().mean()) == pytest.approx(share)
        blend, share = mixed(clips, 0.8, 0.0, generator(seed))
        torch.testing.assert_close(blend[0], torch.full_like(blend[0], 3 * (1 - share)))
    assert mixed(clips, 0.0, 0.0, generator(0))[1] == 1.0


def test_a_loss_of_mixed_clips_is_computed_once_more() -> None:
    task = made(mixup=0.8, cutmix=1.0).train()
    batch = batch_of(task)
    with torch.no_grad():
        first, second = task(batch)["loss"], task(batch)["loss"]
    assert torch.equal(first, second)
    assert float(task.eval()(batch)["loss"].detach()) != float(first)


def test_rates_fall_from_the_head_down() -> None:
    task = made(layer_decay=0.5)
    rates = {name: group["lr"] for group in task.groups(None) for name in group["names"]}
    assert rates["head.classify.weight"] == rates["head.norm.weight"] == 1.0
    assert rates["encoder.blocks.1.mlp.fc1.weight"] == 0.5
    assert rates["encoder.blocks.0.mlp.fc1.weight"] == 0.25
    assert rates["encoder.patch_embed.weight"] == 0.125
    decays = {name: group["decay"] for group in task.groups(None) for name in group["names"]}
    assert decays["head.classify.bias"] == 0.0
    assert decays["head.classify.weight"] == 1.0


@pytest.mark.parametrize(("preset", "wanted"), [("k400", (4, "dense", 5, 0.5)), ("ssv2", (2, "uniform", 2, 0.0))])
def test_presets_are_the_scripts_of_their_data(preset: Any, wanted: tuple) -> None:
    task = Action(size="tiny", depth=1, image=32, preset=preset)
    assert (task.stride, task.sampling, task.views, task.flip) == wanted


# -------------------------------------------------------------------- encoders


@pytest.mark.parametrize(
    ("method", "attend"),
    [("mgm", "clip"), ("mae", "clip"), ("mae", "frames"), ("twinmae", "pairs"), ("siammae", "frames")],
)
def test_any_encoder_is_taken_over(method: str, attend: Any, tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = registry.load("methods", method)(size="tiny", image=32, patch=8, depth=2)
    weights.save(source, tmp_path / "w.safetensors")
    task = made(attend=attend, protocol="linear", cls=source.cls).eval()
    taken = task.take_over(weights.load(tmp_path / "w.safetensors"), method, "w")
    assert all(name.startswith("head.") for name in taken.fresh)
    clip = torch.randint(0, 256, (1, 1, 3, 32, 32), dtype=torch.uint8).expand(-1, 8, -1, -1, -1)
    with torch.no_grad():
        found, wanted = clip_tokens(task.encoder, clip), clip_tokens(source.encoder.eval(), clip)
    if (method, attend) == ("mae", "clip"):  # places differ, the embedding of what stands still does not
        torch.testing.assert_close(task.encoder.patch_embed.weight.sum(2), source.encoder.patch_embed.weight)
    else:
        torch.testing.assert_close(found, wanted)


def test_a_classifier_goes_on_with_other_classes_and_pictures(tmp_path: Path) -> None:
    weights.save(made(), tmp_path / "w.safetensors")
    task = made(labels=("a", "b"), image=48)
    taken = task.take_over(weights.load(tmp_path / "w.safetensors"), "Action", "w")
    assert taken.fresh == ["head.classify.weight", "head.classify.bias"]
    with pytest.raises(ValueError, match="squares of a multiple of 8"):
        task.resize_image((48, 64))


def test_attention_reaches_as_far_as_it_should() -> None:
    for attend, far in (("clip", 8), ("pairs", 2), ("frames", 1)):
        task = made(attend=attend).eval()
        clip = torch.rand(1, 8, 3, 32, 32)
        other = clip.clone()
        other[:, 0] = torch.rand(3, 32, 32)
        with torch.no_grad():
            change = (clip_tokens(task.encoder, clip) - clip_tokens(task.encoder, other)).abs().amax((0, 2))
        frames = change.unflatten(0, (8 // (2 if attend == "clip" else 1), -1)).amax(1) > 1e-6
        assert int(frames.sum()) == (4 if attend == "clip" else far)


@pytest.mark.parametrize("protocol", ["linear", "attentive"])
def test_a_probe_leaves_the_encoder_as_it_is(protocol: Any) -> None:
    task = made(protocol=protocol, attend="frames", **PLAIN).train()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        loss = task(batch_of(task))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    changed = {name for name, value in task.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("head.") for name in changed)
    assert ("head.norm.running_mean" in changed) == (protocol == "linear")
    assert not task.encoder.training
    assert {name for group in task.groups(None) for name in group["names"]} <= {n for n in before if n[:5] == "head."}


def test_only_a_time_code_tells_frames_apart() -> None:
    clip = torch.rand(1, 8, 3, 32, 32)
    for code in (True, False):
        task = made(protocol="attentive", attend="frames", time_code=code).eval()
        with torch.no_grad():
            change = (task.logits(clip) - task.logits(clip.flip(1))).abs().max()
        assert (float(change) > 1e-5) == code


# -------------------------------------------------------------------- labels and verdicts


def test_classes_come_from_the_data() -> None:
    data = [Sequence(name, None, labelled(name)) for name in ("run 10", "jump", "run 2", "jump")]
    assert Action.for_data(data, {})["labels"] == ("jump", "run 2", "run 10")
    assert Action.for_data(data, {"labels": ("a", "b")})["labels"] == ("a", "b")
    with pytest.raises(ValueError, match="tells no classes"):
        Action.for_data([Sequence("x", None)], {})
    task = made(labels=("jump", "walk"))
    with pytest.raises(OSError, match="its class 'swim' is none of the 2 that are learned"):
        task.sample(Sequence("x", np.zeros((4, 32, 32, 3), np.uint8), labelled("swim")), generator(0))
    with pytest.raises(OSError, match="it has no class"):
        task.sample(Sequence("x", np.zeros((4, 32, 32, 3), np.uint8)), generator(0))


@pytest.mark.parametrize(
    "wrong",
    [{"preset": "x"}, {"frames": 7}, {"labels": ("a",)}, {"stride": 0}, {"flip": 2.0}, {"memory": 3}, {"mixup": -1.0}],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        made(**wrong)


def test_views_are_averaged_as_probabilities() -> None:
    views = np.array([[0.99999, 0.00001], [0.2, 0.8], [0.2, 0.8]])
    found = Views(("zero", "one"), views)
    assert next(iter(found)) == "one"  # the mean of logits would be for zero
    assert np.log(views[:, 0] / views[:, 1]).mean() > 2.8
    assert found["zero"] == pytest.approx(0.46666, abs=1e-4)
    assert within(np.array([0.1, 0.3, 0.3]), 2, 1)  # a tie does not count against it
    assert not within(np.array([0.1, 0.3, 0.3]), 0, 2)


def test_the_last_answer_is_about_the_whole_video() -> None:
    task = made(views=3, crops=3, every=4, labels=tuple("abcdefg")).eval()
    with torch.no_grad():
        task.head.classify.weight.normal_(std=0.5)
    frames = np.random.default_rng(0).integers(0, 256, (20, 40, 48, 3), np.uint8)
    found = list(Engine(task, "cpu", "fp32").session().follow(enumerate(frames)))
    assert [answer.frame for answer in found] == list(range(20))
    assert all(len(answer.target.classes or {}) == 5 for answer in found)
    last = found[-1].target.classes
    assert isinstance(last, Views)
    assert last.views.shape == (9, 7)
    small = np.stack([np.asarray(frame) for frame in map(scaled, frames)])
    clips = [square_crops(small[view_frames(20, 8, view, 3, "dense")], 3) for view in range(3)]
    with torch.no_grad():
        wanted = torch.cat([task.scores(torch.from_numpy(one)) for one in clips])
    np.testing.assert_allclose(last.views, wanted.numpy(), atol=1e-5)
    assert found[3].target.classes == found[0].target.classes != found[4].target.classes


def scaled(frame: np.ndarray) -> np.ndarray:
    from dropmae.tasks._clips import scaled

    return scaled(frame, 32)


def test_track_says_what_a_video_shows(tmp_path: Path) -> None:
    weights.save(made(labels=("jump", "run", "sit", "stand", "swim", "walk")), tmp_path / "w.safetensors")
    np.save(tmp_path / "clip.npy", np.random.default_rng(0).integers(0, 256, (20, 64, 96, 3), np.uint8))
    report = track(tmp_path / "clip.npy", weights=str(tmp_path / "w.safetensors"), out=tmp_path / "out.mp4")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert report["frames"] == len(lines) == 20
    shares = [list(line["classes"].values()) for line in lines]
    assert all(len(one) == 5 and sorted(one, reverse=True) == one for one in shares)
    video = Video(tmp_path / "out.mp4")
    assert len(video) == 20
    assert video.height > 64 + 60
    assert video.width == 96


def colours(root: Path, count: int = 8) -> Path:
    """Folders red and blue of short videos."""
    for channel, name in ((0, "red"), (2, "blue")):
        (root / name).mkdir(parents=True)
        for number in range(count):
            rng = np.random.default_rng([channel, number])
            clip = rng.integers(0, 60, (6, 32, 40, 3)).astype(np.uint8)
            clip[..., channel] += 150
            np.save(root / name / f"{name}_g{number:02d}.npy", clip)
    return root


def test_any_encoder_finds_near_videos_without_training(tmp_path: Path) -> None:
    root = colours(tmp_path / "data")
    settings = ("image=32", "frames=4", "stride=1", "k=3", "every=0")
    found = evaluate(
        "actions", root=root, weights="random:tiny:mae:0:32", out=tmp_path / "out", set=settings, workers=1
    )
    assert found["top1"] == found["view_top1"] == 1.0
    assert 2 <= found["videos"] == found["expected"] < 16
    assert isinstance(load_task("random:tiny:mae:0:32"), registry.load("tasks", "propagation"))
    knn: Any = registry.load("tasks", "knn")(k=2, image=32, frames=4, gallery=f"actions={root}")
    knn.encoder = untrained("random:tiny:twinmae:0:32").encoder
    assert knn.class_names() == ("blue", "red")


# -------------------------------------------------------------------- motions


@pytest.mark.slow
def test_motion_is_learned_and_nothing_else(tmp_path: Path) -> None:
    """The class is the motion alone: with the first frame repeated there is nothing to tell it by."""
    options = {"steps": 400, "global_batch": 16, "lr": 0.016, "warmup": "10%", "workers": 0, "validate_every": "100%"}
    fields: dict[str, Any] = {**SMALL, **PLAIN, "depth": 3, "drop_path": 0.0, "layer_decay": 1.0, "scale": (0.5, 1.0)}
    finetune("action", f"motions={tmp_path}", out=tmp_path / "run", epoch_samples=1000, **options, **fields)
    found = {}
    for order in ("forward", "first", "shuffled"):
        report = evaluate(
            "motions", root=tmp_path, weights=str(tmp_path / "run"), out=tmp_path / order, clips=200, order=order,
            set=("every=0", "views=1", "crops=1"), workers=1,
        )  # fmt: skip
        found[order] = report["top1"]
    assert found["forward"] >= 0.95
    assert found["first"] <= 0.35
    assert found["shuffled"] <= 0.6
