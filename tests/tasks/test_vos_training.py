"""Training masks: samples, augmentation, loss, what learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dropmae import registry, weights
from dropmae.cli import main
from dropmae.data.clips import Clips, Sequence, collate, generator
from dropmae.data.mixture import open_source
from dropmae.formats.labels import write_labels
from dropmae.nn.vit import resize_positions
from dropmae.rendering.synth import synth
from dropmae.target import Target
from dropmae.tasks.vos import VOS
from dropmae.tasks.vos.samples import choose
from dropmae.verbs.convert import convert
from dropmae.verbs.finetune import take_over
from official_files import dropmae_shapes, recipe, with_sincos

pytestmark = pytest.mark.usefixtures("no_charts")


def clip(number: int, length: int = 12, side: int = 64, ids: tuple[int, ...] = (4, 9)) -> Sequence:
    """Two squares of different colours over a plain ground, with their masks."""
    rng = np.random.default_rng(number)
    video = np.full((length, side, side, 3), rng.integers(60, 190, 3), np.uint8)
    masks = np.zeros((length, side, side), np.uint8)
    for object_id in ids:
        colour, (x, y), (dx, dy) = rng.integers(0, 256, 3), rng.integers(0, side - 24, 2), rng.integers(-1, 2, 2)
        for t in range(length):
            top, left = np.clip([y + dy * t, x + dx * t], 0, side - 24)
            video[t, top : top + 24, left : left + 24] = colour
            masks[t, top : top + 24, left : left + 24] = object_id
    targets = {t: Target(ids=np.array(ids), mask=masks[t]) for t in range(length)}
    return Sequence(f"clip{number}", video, targets)


@pytest.fixture(scope="module")
def clips() -> list[Sequence]:
    return [clip(number) for number in range(6)]


def batch_of(model: VOS, sequences: list[Sequence], indices: list[int]) -> dict[str, Any]:
    made = Clips(sequences, model.sample, seed=0)
    found = collate([made[i] for i in indices])
    found.pop("reports")
    return {**found, "seed": 0, "step": 3, "progress": 0.05}


def training(**fields: Any) -> VOS:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"size": "tiny", "image": 64, **fields}
    return VOS(**settings).train()


def test_samples(clips: list[Sequence]) -> None:
    for memory in (1, 3):
        model = training(memory=memory, objects=3)
        one, same = (model.sample(clips[0], generator(1, 2)) for _ in range(2))
        assert all(np.array_equal(one[name], same[name]) for name in one)
        assert one["frames"].shape == (memory + 1, 3, 64, 64)
        assert one["masks"].shape == (memory, 3, 64, 64)
        assert one["masks"].max() == 1
        assert one["masks"].sum(1).max() == 1  # objects do not overlap
        assert one["present"].tolist() == [True, True, False]
        assert set(np.unique(one["label"])) <= {0, 1, 2}
        assert not one["masks"][:, 2].any()


def test_masks_stay_on_their_objects(clips: list[Sequence]) -> None:
    """Pictures and masks are changed alike: under the mask is the object's colour and no other."""
    model = training(gap=4)
    for seed in range(20):
        made = model.sample(clips[1], generator(7, seed))
        for slot in np.flatnonzero(made["present"]):
            inside = made["frames"][0].transpose(1, 2, 0)[made["masks"][0, slot] > 0].astype(float)
            if len(inside) > 50:
                assert np.abs(inside - np.median(inside, 0)).mean() < 12
                later = made["frames"][1].transpose(1, 2, 0)[made["label"] == slot + 1]
                if len(later) > 50:
                    assert np.abs(np.median(later, 0) - np.median(inside, 0)).max() < 12


def test_a_still_image_is_shown_twice(clips: list[Sequence]) -> None:
    still = Sequence("photo", clips[0].source[:1], {0: clips[0].targets[0]})
    model = training(memory=2)
    made = model.sample(still, generator(3))
    assert made["masks"][0].any()
    assert not np.array_equal(made["frames"][0], made["frames"][-1])


def test_only_annotated_frames_are_used(clips: list[Sequence]) -> None:
    whole = clips[2]
    sparse = Sequence("sparse", whole.source, {t: whole.targets[t] for t in (0, 5, 10)})
    model = training(rotation=0.0, shear=0.0, scale=(1.0, 1.0), flip=0.0, gap=5)
    for seed in range(5):
        assert model.sample(sparse, generator(seed))["masks"].any()


def test_frames_are_chosen_as_in_the_paper() -> None:
    rng = np.random.default_rng(0)
    drawn = [choose(range(40), 24, 1, 0.5, rng) for _ in range(4000)]
    gaps = np.array([last - first for first, last in drawn])
    assert np.abs(gaps).max() == 24
    assert np.abs(gaps).min() == 1
    assert abs((gaps > 0).mean() - 0.5) < 0.03
    assert {first for first, _ in drawn} == set(range(40))
    assert choose([7], 24, 1, 0.5, rng) == [7, 7]
    assert choose([0, 90], 24, 1, 0.0, rng) == [0, 90]
    for _ in range(50):
        first, between, near, last = choose(range(20), 10, 3, 0.0, rng)
        assert first <= between <= near < last
        assert near in (last - 1, first)


def test_bad_annotation_is_bad_input(clips: list[Sequence]) -> None:
    model, source = training(), clips[0].source
    with pytest.raises(OSError, match="no annotated frame"):
        model.sample(Sequence("a", source), generator(0))
    boxes = {t: Target(ids=np.array([1]), boxes=np.ones((1, 4))) for t in range(3)}
    with pytest.raises(OSError, match="without a mask"):
        model.sample(Sequence("b", source, boxes), generator(0))
    small = {t: Target(ids=np.array([1]), mask=np.ones((8, 8), np.uint8)) for t in range(3)}
    with pytest.raises(OSError, match="8x8 pixels, the frame 64x64"):
        model.sample(Sequence("c", source, small), generator(0))
    empty = {t: Target(ids=np.zeros(0, np.int64), mask=np.zeros((64, 64), np.uint8)) for t in range(3)}
    made = model.sample(Sequence("d", source, empty), generator(0))
    assert made["present"].tolist() == [True, False]
    assert not made["label"].any()


def test_randomness_follows_the_sample(clips: list[Sequence]) -> None:
    model = training(drop_path=0.5)
    with torch.no_grad():
        whole = model(batch_of(model, clips, [0, 1, 2, 3]))["loss"]
        halves = [model(batch_of(model, clips, part))["loss"] for part in ([2, 3], [0, 1])]
    torch.testing.assert_close(whole, sum(halves) / 2, atol=1e-5, rtol=1e-5)


def test_every_parameter_learns(clips: list[Sequence]) -> None:
    model = training(encoder_rate=0.1)
    model({**batch_of(model, clips, [0, 1, 2]), "progress": 0.9})["loss"].backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
    assert "encoder.positions.table" not in {n for n, p in model.named_parameters() if p.requires_grad}
    groups = model.groups(None)
    named_once = sorted(name for group in groups for name in group["names"])
    assert named_once == sorted(name for name, p in model.named_parameters() if p.requires_grad)
    assert all({"names", "lr", "decay"} == group.keys() for group in groups)
    slow = {name for group in groups if group["lr"] == 0.1 for name in group["names"]}
    assert slow == {name for name in named_once if name.startswith("encoder.")}


def test_it_learns_to_follow_squares(clips: list[Sequence]) -> None:
    model = training(rotation=0.0, shear=0.0, scale=(1.0, 1.0), flip=0.0, gap=3, drop_path=0.0)
    batch = batch_of(model, clips, list(range(6)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = model.probe(batch)
    for _ in range(25):
        loss = model(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = model.probe(batch)
    assert after["loss"] < 0.6 * before["loss"]
    assert after["J"] > before["J"]
    assert all(isinstance(value, float) for value in after.values())


@pytest.mark.parametrize("method", ["dropmae", "mae"])
@pytest.mark.parametrize("positions", [None, 0])
def test_a_pre_trained_encoder_is_taken_over(method: str, positions: int | None, tmp_path: Path) -> None:
    torch.manual_seed(1)
    source: Any = registry.load("methods", method)(size="tiny", image=112)
    weights.save(source, tmp_path / "init.safetensors")
    model = training(positions=positions)
    taken = take_over(model, tmp_path / "init.safetensors")
    own, given = model.encoder.state_dict(), source.encoder.state_dict()
    for name in ("patch_embed.weight", "blocks.11.mlp.fc2.bias", "norm.weight"):
        assert torch.equal(own[name], given[name])
    assert model.encoder.frame_embed is not None
    if method == "dropmae":
        assert torch.equal(model.encoder.frame_embed.z, source.encoder.frame_embed.z)
    else:
        assert not model.encoder.frame_embed.z.any()
    if positions is None:
        expected = resize_positions(source.encoder.positions((7, 7), torch.device("cpu")), (7, 7), (4, 4))
        torch.testing.assert_close(own["positions.table"], expected)
    assert all(name.startswith(("decoder.", "encoder.mask_embed.")) or method == "mae" for name in taken.fresh)


def test_the_official_pre_training_starts_the_official_model(tmp_path: Path) -> None:
    """A DropMAE file as released: its sin-cos table of 14 x 14 is stretched to 24 x 24, and once more in use."""
    official = with_sincos(recipe(dropmae_shapes(192, 12, 192, 4)), (14, 14))
    torch.save({"model": official}, tmp_path / "checkpoint.pth")
    convert(tmp_path / "checkpoint.pth", tmp_path / "init.safetensors")
    model = training(image=384)
    taken = take_over(model, tmp_path / "init.safetensors")
    assert not [name for name in taken.unused if name.startswith("encoder.")]
    expected = resize_positions(official["pos_embed"][:, 1:], (14, 14), (24, 24))
    table = model.encoder.positions.table
    assert table is not None
    torch.testing.assert_close(table, expected)
    again = resize_positions(expected, (24, 24), (30, 54))
    torch.testing.assert_close(model.encoder.positions((30, 54), torch.device("cpu")), again)
    assert model.encoder.frame_embed is not None
    assert torch.equal(model.encoder.frame_embed.x, official["temporal_pos_embed_x"])


def test_learned_positions_need_a_place(tmp_path: Path) -> None:
    source: Any = registry.load("methods", "mae")(size="tiny", image=64, learned_positions=4)
    weights.save(source, tmp_path / "init.safetensors")
    with pytest.raises(ValueError, match="learned its positions"):
        take_over(training(positions=0), tmp_path / "init.safetensors")


# ------------------------------------------------------------ data


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 48, 3), value, np.uint8)).save(path)


def grey_mask(path: Path, soft: bool = False) -> None:
    """One object in white, as saliency data sets have it, its rim in shades of grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((40, 48), np.uint8)
    mask[10:30, 10:30] = 255
    if soft:
        mask[9, :] = np.linspace(0, 120, 48).astype(np.uint8)
        mask[30, :] = np.linspace(0, 126, 48).astype(np.uint8)
    Image.fromarray(mask).save(path)


def test_images_with_masks_of_any_folder(tmp_path: Path) -> None:
    for kind, name in (
        ("DUTS-TR-Image", "a.jpg"),
        ("cat/photos", "b.png"),
        ("FSS/bird", "1.jpg"),
        ("FSS/boat", "1.jpg"),
    ):
        picture(tmp_path / kind / name)
    picture(tmp_path / "cat/photos" / "without.jpg")
    grey_mask(tmp_path / "DUTS-TR-Mask" / "a.png", soft=True)
    grey_mask(tmp_path / "cat/masks" / "b.png")
    for folder in ("bird", "boat"):
        write_labels(tmp_path / "FSS" / folder / "1.png", np.full((40, 48), 3, np.uint8))
    source = open_source(f"stills={tmp_path}*3")
    assert source.ratio == 3
    names = [sequence.name for sequence in source.sequences]
    assert sorted(names) == ["DUTS-TR-Image/a.jpg", "FSS/bird/1.jpg", "FSS/boat/1.jpg", "cat/photos/b.png"]
    ids = {sequence.name: sequence.targets[0].ids.tolist() for sequence in source.sequences}
    assert ids == {"DUTS-TR-Image/a.jpg": [1], "cat/photos/b.png": [1], "FSS/bird/1.jpg": [3], "FSS/boat/1.jpg": [3]}
    made = training().sample(source.sequences[0], generator(1))
    assert made["masks"].any()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no image with a mask"):
        open_source(f"stills={tmp_path / 'empty'}")
    picture(tmp_path / "x/images/a.jpg")
    picture(tmp_path / "y/images/a.jpg")
    grey_mask(tmp_path / "masks/a.png")
    with pytest.raises(OSError, match="belongs to"):
        open_source(f"stills={tmp_path}")


def test_fine_tuning_and_following_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The verbs: clips with masks, a few steps, the masks of another clip, numbers."""
    synth(str(tmp_path / "clips"), clips=3, frames=6, size=(64, 80), objects=(2, 2))
    pre: Any = registry.load("methods", "dropmae")(size="tiny", image=64)
    weights.save(pre, tmp_path / "pre.safetensors")
    command = ["finetune", "vos", str(tmp_path / "clips"), "--init", str(tmp_path / "pre.safetensors")]
    command += [
        "--out",
        str(tmp_path / "run"),
        "--size",
        "tiny",
        "--image",
        "64",
        "--steps",
        "3",
        "--global-batch",
        "2",
    ]
    command += ["--lr", "1e-2", "--clip", "0", "--drop", "60%", "--workers", "0"]
    assert main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["steps"] == 3
    assert "tensors taken over" in err
    lines = (tmp_path / "run" / "validation.jsonl").read_text().splitlines()
    assert {"loss", "J"} <= json.loads(lines[-1]).keys()
    assert main(command) == 0  # finished already
    command = ["evaluate", "folder", "--root", str(tmp_path / "clips"), "--weights", str(tmp_path / "run")]
    assert main([*command, "--out", str(tmp_path / "numbers"), "--workers", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert 0 <= report["J_mean"] <= 1
    first = next(iter((tmp_path / "clips").glob("*.mp4")))
    mask = open_source(str(tmp_path / "clips")).sequences[0].targets[0].mask
    assert mask is not None
    write_labels(tmp_path / "first.png", mask)
    command = ["track", str(first), "--mask", str(tmp_path / "first.png"), "--weights", str(tmp_path / "run")]
    assert main([*command, "--out", str(tmp_path / "out.mp4"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 6
