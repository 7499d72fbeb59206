"""Reconstructions and attention: the numbers behind the pictures, and the verbs that draw them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

import dropmae
from dropmae import locks, registry, weights
from dropmae.cli import main
from dropmae.data.clips import Sequence
from dropmae.nn import masking
from dropmae.verbs.inspection import find_sequences, snapshots
from dropmae.video import write_store
from dropmae.visualize import attention_probe
from dropmae.visualize.attention_probe import AttentionProbe, measure, temporal_maps
from dropmae.visualize.plots import draw_plots
from dropmae.visualize.views import looked_at, reconstructions, without_augmentation
from samples import moving_squares

METHODS = registry.names("methods")


def small(name: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    return registry.load("methods", name)(**{"size": "tiny", "image": 64, **fields}).eval()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(5):
        write_store(folder / f"clip{number}.frames", moving_squares(number, frames=10, side=72), 25)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    found = {}
    for name in METHODS:
        found[name] = folder / f"{name}.safetensors"
        weights.save(small(name), found[name])
    bare = small("dropmae")
    del bare.decoder
    weights.save(bare, folder / "encoder.safetensors")
    return {**found, "encoder": folder / "encoder.safetensors"}


@pytest.mark.parametrize("name", [name for name in METHODS if registry.load("methods", name).reconstructs()])
def test_every_method_reconstructs(name: str, sequences: list[Sequence]) -> None:
    module = small(name)
    _, batch = looked_at(module, sequences, 2, seed=0)
    with torch.no_grad():
        made = module.reconstruct(batch)
    frames, prediction, masked = made["frames"], made["prediction"], made["masked"]
    assert frames.shape == prediction.shape == batch["frames"].shape
    assert masked.shape == (*frames.shape[:2], 4, 4)
    assert frames.min() >= 0
    assert frames.max() <= 1
    torch.testing.assert_close(frames, batch["frames"] / 255, atol=1e-5, rtol=0)
    assert 0 < masked.float().mean() < 1
    whole = ~masked.flatten(2).any(2)
    assert torch.equal(prediction[whole], frames[whole])


@pytest.mark.parametrize("norm_pix", [True, False])
def test_a_perfect_prediction_gives_the_frames_back(norm_pix: bool, sequences: list[Sequence]) -> None:
    module = small("twinmae", norm_pix=norm_pix)
    _, batch = looked_at(module, sequences, 2, seed=0)
    frames = masking.normalize(batch["frames"])
    target = masking.patch_target(module.patches(frames), norm_pix)
    torch.testing.assert_close(module.pictures(target, frames), frames, atol=1e-4, rtol=1e-4)


def test_what_is_pasted_is_the_frame_where_it_was_seen(sequences: list[Sequence]) -> None:
    module = small("twinmae")
    _, batch = looked_at(module, sequences, 3, seed=0)
    made = reconstructions(module, batch)
    with torch.no_grad():
        masked = module.reconstruct(batch)["masked"].numpy()
    covered = masked.repeat(16, 2).repeat(16, 3)[..., None]
    assert np.array_equal(np.where(covered, 0, made["pasted"]), np.where(covered, 0, made["frames"]))
    assert np.array_equal(np.where(covered, made["pasted"], 0), np.where(covered, made["prediction"], 0))
    assert len(np.unique(made["hidden"][np.broadcast_to(covered, made["hidden"].shape)])) == 1


def test_views_are_plain_and_leave_training_as_it_was(sequences: list[Sequence]) -> None:
    module = small("dropmae", image=48, patch=8, scale=(0.3, 0.9))
    plain = without_augmentation(module)
    assert (plain.scale, plain.flip, plain.crop) == ((1.0, 1.0), 0.0, "shared")
    assert plain.encoder is module.encoder
    assert (module.scale, module.flip, module.crop) == ((0.3, 0.9), 0.5, "independent")
    before = torch.get_rng_state()
    names, batch = looked_at(module, sequences, 4, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert names == ["clip0", "clip3", "clip6", "clip9"]
    frames = [frame.transpose(2, 0, 1) for frame in sequences[0].video]
    assert all(any(np.array_equal(view, frame) for frame in frames) for view in batch["frames"][0].numpy())


def test_few_videos_give_several_samples_and_bad_ones_give_way_to_the_next(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    write_store(tmp_path / "good.frames", moving_squares(0), 25)
    known = find_sequences(tmp_path)
    names, batch = looked_at(small("twinmae"), known, 4, seed=0)
    assert names == ["good.frames"] * 4
    assert batch["index"].tolist() == [0, 1, 2, 3]
    assert capsys.readouterr().err.count("bad.mp4") == 1
    with pytest.raises(OSError, match=r"bad\.mp4"):
        looked_at(small("twinmae"), known[:1], 4, seed=0)


# Attention


def test_watcher_is_plain_attention_and_its_shares_are_those_of_the_matrix() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 13, 8) for _ in range(3))
    seen = AttentionProbe(6)
    out = seen(query, key, value)
    torch.testing.assert_close(out, functional.scaled_dot_product_attention(query, key, value))
    share = torch.softmax(query @ key.transpose(-2, -1) / 8**0.5, -1)  # one class token, then two frames of six
    rows = [(b, i) for b in range(2) for i in range(12)]
    for b, i in rows:
        mine = slice(1, 7) if i < 6 else slice(7, 13)
        other = slice(7, 13) if i < 6 else slice(1, 7)
        row = share[b, :, 1 + i]
        assert seen.own[0][b, i] == pytest.approx(float(row[:, mine].sum(1).mean()), abs=1e-6)
        assert seen.itself[0][b, i] == pytest.approx(float(row[:, 1 + i].mean()), abs=1e-6)
        assert seen.between[0][b, i] == pytest.approx(float(row[:, other].sum(1).mean()), abs=1e-6)
        assert seen.temporal[0][b, i] == pytest.approx(float(row[:, other].amax(1).mean()), abs=1e-6)
    assert seen.extra == 1


def test_uniform_attention_has_the_uniform_shares(sequences: list[Sequence]) -> None:
    module = small("twinmae")
    with torch.no_grad():
        for block in module.decoder.blocks:
            block.attn.qkv.weight.zero_()
    found = measure(module, sequences, 3, seed=0)
    assert found["videos"] == 3
    for layer in found["layers"]:
        for name, value in found["uniform"].items():
            assert layer[name] == pytest.approx(value, abs=1e-6)
            assert layer["hidden"][name] == pytest.approx(value, abs=1e-6)
        assert layer["within_others"] == pytest.approx(0.5 - 1 / 32, abs=1e-6)


def test_shares_add_up_and_do_not_depend_on_the_portions(
    sequences: list[Sequence], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = small("dropmae")
    found = measure(module, sequences, 5, seed=0)
    assert [layer["layer"] for layer in found["layers"]] == [1, 2, 3, 4]
    for layer in found["layers"]:
        assert layer["within"] + layer["between"] == pytest.approx(1, abs=1e-5)
        assert layer["within_others"] + layer["itself"] == pytest.approx(layer["within"])
        assert layer["between"] / 16 <= layer["f_tem"] <= layer["between"]
        both = 8 / 32 * layer["visible"]["within"] + 24 / 32 * layer["hidden"]["within"]
        assert both == pytest.approx(layer["within"], abs=1e-6)
    parts = attention_probe.portions
    monkeypatch.setattr(attention_probe, "portions", lambda batch: parts(batch, 2))
    again = measure(module, sequences, 5, seed=0)
    for one, other in zip(found["layers"], again["layers"]):
        assert one["between"] == pytest.approx(other["between"], abs=1e-6)


def test_no_attention_is_dropped_while_measuring(sequences: list[Sequence]) -> None:
    dropping, twin = small("dropmae", drop_in_eval=True), small("twinmae")
    twin.load_state_dict(dropping.state_dict())
    assert measure(dropping, sequences, 2, seed=0)["layers"] == measure(twin, sequences, 2, seed=0)["layers"]


def test_whole_input_hides_nothing(sequences: list[Sequence]) -> None:
    module = small("twinmae")
    masked, whole = (measure(module, sequences, 2, seed=0, whole=way)["layers"][0] for way in (False, True))
    assert "hidden" not in whole
    assert whole["between"] != masked["between"]


def test_temporal_maps_have_the_grid_and_the_range_of_attention(sequences: list[Sequence]) -> None:
    maps = temporal_maps(small("dropmae"), sequences, 2, seed=0)
    assert [sample.name for sample in maps] == ["clip0", "clip9"]
    assert maps[0].frames.shape == (2, 64, 64, 3)
    assert maps[0].maps.shape == (4, 2, 4, 4)
    assert 0 < maps[0].maps.min() < maps[0].maps.max() < 1


@pytest.mark.parametrize(("name", "why"), [("mae", "one frame"), ("siammae", "layer of its own")])
def test_methods_without_joint_attention_say_so(name: str, why: str, sequences: list[Sequence]) -> None:
    with pytest.raises(ValueError, match=why):
        measure(small(name), sequences, 2, seed=0)


# The verbs


def test_reconstruct_draws_a_picture(files: dict[str, Path], videos: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "new" / "picture.png"
    assert main(["reconstruct", str(files["dropmae"]), str(videos), "--out", str(out), "--samples", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["videos"] == ["clip0.frames", "clip4.frames"]
    assert np.isfinite(told["loss"])
    picture = np.asarray(Image.open(out))
    assert picture.shape[1] > 4 * 150
    assert picture.std() > 10


def test_reconstruct_takes_chosen_frames_and_pairs_of_images(
    files: dict[str, Path], videos: Path, tmp_path: Path
) -> None:
    clip = moving_squares(3, frames=10, side=72)
    for index in (2, 7):
        Image.fromarray(clip[index]).save(tmp_path / f"{index}.png")
    pair = [tmp_path / "2.png", tmp_path / "7.png"]
    one = dropmae.reconstruct(files["twinmae"], [videos / "clip3.frames"], out=tmp_path / "a.png", frames=(2, 7))
    two = dropmae.reconstruct(files["twinmae"], pair, out=tmp_path / "b.png", samples=1)
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-6)
    assert two["videos"] == ["2.png 7.png"]


def test_reconstruct_obeys_mask_ratio_and_dropout(files: dict[str, Path], videos: Path, tmp_path: Path) -> None:
    ways: list[dict[str, Any]] = [{}, {}, {"mask_ratio": 0.5}, {"dropout": True}]
    losses = [
        dropmae.reconstruct(files["dropmae"], [videos], out=tmp_path / "a.png", samples=2, **how)["loss"]
        for how in ways
    ]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_attention_compares_weights(files: dict[str, Path], videos: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["attention", str(files["twinmae"]), str(videos), "--out", str(tmp_path), "--count", "3", "--maps", "1"]
    assert main([*words, "--beside", str(files["dropmae"])]) == 0
    found = json.loads((tmp_path / "attention.json").read_text())
    assert [run["name"] for run in found["runs"]] == ["TwinMAE", "DropMAE"]
    assert found["input"] == "masked"
    assert all(Image.open(tmp_path / name).width > 600 for name in ("attention.png", "temporal.png"))
    assert "between-frame" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("reconstruct {encoder} {videos} --out {out}", 2, "decoder"),
        ("reconstruct {twinmae} {videos} --out {out} --frames 1 2", 2, "one video"),
        ("reconstruct {twinmae} {videos}/clip0.frames --out {out} --frames 1 99", 2, "10 frames"),
        ("reconstruct {twinmae} {videos}/clip0.frames --out {out} --frames 1", 2, "takes 2 frames"),
        ("reconstruct {mae} {videos}/clip0.frames --out {out} --frames 1 2", 2, "takes 1 frame "),
        ("reconstruct {twinmae} {videos}/none --out {out}", 1, "no such"),
        ("reconstruct {twinmae} {videos} --out {out} --dropout", 2, "drops no attention"),
        ("reconstruct {twinmae} {videos} --out {out} --mask-ratio 1", 2, "mask ratio"),
        ("attention {mae} {videos} --out {out}", 2, "one frame at a time"),
        ("attention {twinmae} {videos} --out {out} --count 0", 2, "count"),
        ("report {videos}", 1, "no run folder"),
    ],
)
def test_wrong_use_is_one_line(
    words: str, code: int, says: str, files: dict[str, Path], videos: Path, tmp_path: Path, capsys: Any
) -> None:
    assert main(words.format(**files, videos=videos, out=tmp_path / "out").split()) == code
    assert says in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_snapshots_of_steps_that_a_killed_run_lost_go_away(tmp_path: Path, sequences: list[Sequence]) -> None:
    draw = snapshots(tmp_path, sequences, seed=0)
    module = small("twinmae")
    with torch.no_grad():
        for step in (0, 5, 10):
            draw(module, step)
        snapshots(tmp_path, sequences, seed=0)(module, 5)
    names = sorted(path.name for path in (tmp_path / "figures" / "progress").iterdir())
    assert names == ["frames.png", "hidden.png", "step-00000000.png", "step-00000005.png"]


def test_files_that_belong_together_are_written_by_one_at_a_time(tmp_path: Path) -> None:
    """Of two processes at once the numbers were of one and the pictures of the other."""
    out = tmp_path / "out"
    used = r"attention\.json is in use by process"
    with locks.held(out / "attention.json", file=True), pytest.raises(OSError, match=used):
        dropmae.attention(tmp_path, [tmp_path], out=out)
    with locks.held(out / "plots", file=True), pytest.raises(OSError, match=r"in use .*choose another --plots"):
        draw_plots({"one": {"curves": {}}}, out)
    assert draw_plots({"one": {"curves": {}}}, tmp_path / "none") == []
    assert not (tmp_path / "none").exists()
