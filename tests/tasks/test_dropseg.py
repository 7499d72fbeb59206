"""DropSeg: the numbers that the official code gives, reached through a file as its training writes it.

The weights follow a recipe from names and shapes, so nothing of the official code or its weights is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dropmae
from dropmae import registry, weights
from dropmae.tasks.vos import VOS, ObjectMemory, State
from dropmae.tasks.vos.frames import canvas, decide
from dropmae.tasks.vos.pyramid import aggregate, bootstrap_share, bootstrapped
from dropmae.verbs.convert import convert
from dropmae.weights.layouts import named
from official_files import Tensors, block_shapes, recipe, sincos


def dropseg_shapes(width: int = 768, depth: int = 12, rows: int = 576) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official model; 190 of them at its own size."""
    middle, fine = 2 * width // 3, width // 3
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 197, width),
        "pos_embed_two_frame": (1, 1 + 2 * rows, width),
        "pos_embed_three_frame": (1, 1 + 3 * rows, width),
        "temporal_pos_embed_x": (1, 1, width),
        "temporal_pos_embed_z": (1, 1, width),
        "head.weight": (1000, width),
        "fpn1.0.weight": (width, width, 2, 2),
        "fpn1.3.weight": (width, fine, 2, 2),
        "fpn2.0.weight": (width, middle, 2, 2),
        "head.bias": (1000,),
        "fpn1.0.bias": (width,),
        "fpn1.3.bias": (fine,),
        "fpn2.0.bias": (middle,),
    }
    for name, channels in (("patch_embed", 3), ("mask_patch_embed", 1)):
        shapes |= {f"{name}.proj.weight": (width, channels, 16, 16), f"{name}.proj.bias": (width,)}
    for name in ("norm", "fc_norm", "fpn1.1.ln"):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    convolutions = {
        "compress.downsample": (middle, width),
        "compress.conv1": (middle, width),
        "compress.conv2": (middle, middle),
        "up_16_8.skip_conv": (middle, middle),
        "up_16_8.out_conv.downsample": (fine, middle),
        "up_16_8.out_conv.conv1": (fine, middle),
        "up_16_8.out_conv.conv2": (fine, fine),
        "up_8_4.skip_conv": (fine, fine),
        "up_8_4.out_conv.conv1": (fine, fine),
        "up_8_4.out_conv.conv2": (fine, fine),
        "pred": (1, fine),
    }
    for name, (out, channels) in convolutions.items():
        shapes |= {f"stcn_decoder.{name}.weight": (out, channels, 3, 3), f"stcn_decoder.{name}.bias": (out,)}
    for i in range(depth):
        shapes |= block_shapes(f"blocks.{i}", width)
    return shapes


def as_released(tensors: Tensors) -> Tensors:
    """The same with one table for all frames, as training leaves it."""
    table = tensors["pos_embed_two_frame"]
    rows = (table.shape[1] - 1) // 2
    first, frame = table[:, :1], table[:, 1 : 1 + rows]
    return tensors | {
        "pos_embed_two_frame": torch.cat([first, frame, frame], 1),
        "pos_embed_three_frame": torch.cat([first, frame, frame, frame], 1),
    }


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


@pytest.fixture(scope="module")
def official() -> Tensors:
    return recipe(dropseg_shapes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dropseg")


@pytest.fixture(scope="module")
def report(official: Tensors, folder: Path) -> dict[str, Any]:
    """The report of converting a file as the official training writes it."""
    torch.save(as_released(official), folder / "retrain_s03_210000.pth")
    made = convert(folder / "retrain_s03_210000.pth", folder / "dropseg.safetensors")
    (folder / "retrain_s03_210000.pth").unlink()
    return made


@pytest.fixture(scope="module")
def model(report: dict[str, Any], folder: Path) -> Any:
    return dropmae.load(folder / "dropseg.safetensors")


@pytest.fixture(scope="module")
def batch() -> dict[str, Any]:
    coarse = np.random.RandomState(53).uniform(size=(2, 24, 24)) > 0.6
    masks = torch.from_numpy(coarse.repeat(16, 1).repeat(16, 2))[None, None]
    frames = torch.stack([normal(51, 1, 3, 384, 384), normal(52, 1, 3, 384, 384)], 1)
    label = torch.zeros(1, 384, 384, dtype=torch.uint8)
    return {"frames": frames, "masks": masks, "label": label, "present": torch.ones(1, 2, dtype=torch.bool)}


@pytest.fixture(scope="module")
def features(model: Any, official: Tensors, batch: dict[str, Any]) -> torch.Tensor:
    """[2, 768, 24, 24]; the numbers were made with another table for the asked frame than for the memory."""
    encoder = model.encoder
    with torch.no_grad():
        tokens = encoder.embed_frames(batch["frames"])[0]
        memory = tokens[0] + encoder.place((24, 24), True) + encoder.mask_tokens(batch["masks"][0, 0])
        query = tokens[1] + official["pos_embed_two_frame"][:, 577:] + encoder.frame_embed(0)
        return encoder.read_memory(memory, query.expand(2, -1, -1), (24, 24))


def test_the_file_is_recognised(official: Tensors, report: dict[str, Any]) -> None:
    assert len(official) == 190
    assert sum(tensor.numel() for tensor in official.values()) == 110_224_105
    assert (report["layout"], report["class"]) == ("dropseg", "vos")
    assert not report["missing"]
    idle = {"cls_token", "pos_embed", "pos_embed_three_frame"}
    idle |= {f"{part}.{name}" for part in ("head", "fc_norm") for name in ("weight", "bias")}
    assert set(report["unexpected"]) == idle
    fields = report["fields"]
    assert (fields["size"], fields["image"], fields["positions"], fields["memory"]) == ("base", 384, 24, 1)


def test_features_and_pyramid(model: Any, features: torch.Tensor) -> None:
    with torch.no_grad():
        twice, fourfold = model.decoder.pyramid(features)
    assert twice.shape == (2, 512, 48, 48)
    assert fourfold.shape == (2, 256, 96, 96)
    for found, mean, deviation in (
        (features, -0.00258439, 1.00962),
        (twice, -0.0111912, 0.610212),
        (fourfold, -0.00522863, 0.553845),
    ):
        assert found.mean().item() == pytest.approx(mean, abs=1e-5)
        assert found.std().item() == pytest.approx(deviation, abs=1e-4)


def test_masks_of_384_pixels(model: Any, features: torch.Tensor) -> None:
    with torch.no_grad():
        found = model.decoder(features, (384, 384))
        probability = torch.sigmoid(found)[None]
        logits = aggregate(probability)
        alone = aggregate(probability * torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    assert probability[0].mean((1, 2)).tolist() == pytest.approx([0.636801, 0.634527], abs=1e-4)
    assert logits.mean((0, 2, 3)).tolist() == pytest.approx([-1.93261, 0.584548, 0.574898], abs=1e-3)
    assert logits[0, :, 100, 200].tolist() == pytest.approx([-2.42087, 0.926628, 0.906569], abs=1e-3)
    shares = logits.softmax(1).mean((0, 2, 3))
    assert shares.tolist() == pytest.approx([0.0591953, 0.472628, 0.468176], abs=1e-4)
    labels, scores = decide(found, (384, 384))
    assert np.bincount(labels.ravel()).tolist() == pytest.approx([854, 91516, 55086], abs=5)
    assert ((scores > 0.4) & (scores < 1)).all()
    assert alone.mean((0, 2, 3)).tolist() == pytest.approx([-0.584548, 0.584548, -16.1181], abs=1e-3)
    assert alone.softmax(1)[0, 1:].mean((1, 2)).tolist() == pytest.approx([0.735314, 4.07995e-08], rel=1e-3)


def test_an_absent_object_takes_no_part(model: Any, features: torch.Tensor, batch: dict[str, Any], monkeypatch) -> None:
    """The selector: of two slots the second one is empty, and only the first goes through the network."""
    rows: list[int] = []

    def recall(memory: torch.Tensor, *rest: Any) -> torch.Tensor:
        rows.append(len(memory))
        return features[: len(memory)]

    monkeypatch.setattr(model.encoder, "read_memory", recall)
    with torch.no_grad():
        both = model.predict(batch)
        first = model.predict({**batch, "present": torch.tensor([[True, False]])})
    assert rows == [2, 1]
    assert both.mean((0, 2, 3)).tolist() == pytest.approx([-1.93261, 0.584548, 0.574898], abs=1e-3)
    assert first[:, :2].mean((0, 2, 3)).tolist() == pytest.approx([-0.584548, 0.584548], abs=1e-3)
    assert torch.isneginf(first[:, 2]).all()


def test_any_resolution(model: Any, official: Tensors) -> None:
    """90 x 170 pixels: padded to 96 x 176, the table stretched a second time."""
    table = torch.cat(
        [official["pos_embed_two_frame"][:, :1], *[model.encoder.positions((6, 11), torch.device("cpu"))] * 2], 1
    )
    assert table.shape == (1, 133, 768)
    first = [-0.129544, -0.0883511, -0.0226319, 0.236159, 0.38794]
    assert table[0, 1, :5].tolist() == pytest.approx(first, abs=1e-5)
    last = [0.0925782, 0.0947153, -0.195401, -0.111791, 0.286098]
    assert table[0, 66, :5].tolist() == pytest.approx(last, abs=1e-5)
    assert (table.mean().item(), table.std().item()) == pytest.approx((-0.000186561, 0.157197), abs=1e-6)
    frames = normal(54, 1, 2, 3, 90, 170)[0]
    masks = torch.from_numpy(np.random.RandomState(55).uniform(size=(2, 90, 170)) > 0.5)
    place = canvas((90, 170), 16)
    assert (place.pad, place.padded) == ((3, 3, 3, 3), (96, 176))
    with torch.no_grad():
        memory, tokens = model.encoder.embed_frames(torch.stack([place.fit(frame) for frame in frames]))
        marked = memory + model.encoder.place((6, 11), True) + model.encoder.mask_tokens(place.fit_labels(masks))
        objects = tuple(ObjectMemory(object_id=k + 1, first=marked[k], since=0) for k in range(2))
        found = model.logits(State(canvas=place, objects=objects), tokens)
        padded = model.decoder(
            model.encoder.read_memory(
                marked, (tokens + model.encoder.place((6, 11), False)).expand(2, -1, -1), (6, 11)
            ),
            place.padded,
        )
    shares = aggregate(torch.sigmoid(padded)[None]).softmax(1).mean((0, 2, 3))
    assert shares.tolist() == pytest.approx([0.0685023, 0.464349, 0.467148], abs=1e-4)
    labels, _ = decide(found, (90, 170))
    assert np.bincount(labels.ravel()).tolist() == pytest.approx([139, 6685, 8476], abs=5)


def test_the_official_layout_comes_back(official: Tensors, report: dict[str, Any], folder: Path) -> None:
    convert(folder / "dropseg.safetensors", folder / "back.pth", to="dropseg")
    back = torch.load(folder / "back.pth", weights_only=True)
    assert {name: t.shape for name, t in back.items()} == {name: t.shape for name, t in official.items()}
    released, rows = as_released(official), slice(1, None)
    for name, tensor in released.items():
        if name.startswith("pos_embed_"):
            assert torch.equal(back[name][:, rows], tensor[:, rows]), name
        elif name not in report["unexpected"]:
            assert torch.equal(back[name], tensor), name
    torch.testing.assert_close(back["pos_embed"], sincos(14, 14, 768), atol=1e-6, rtol=0)


def test_other_files_are_refused(official: Tensors, tmp_path: Path) -> None:
    small = recipe(dropseg_shapes(192, 12, 16))
    torch.save(small, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="not the same for all of 2 frames"):
        convert(tmp_path / "other.pth", tmp_path / "x.safetensors")
    torch.save(as_released(small) | {"blocks.0.gamma": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="gamma"):
        convert(tmp_path / "other.pth", tmp_path / "x.safetensors")
    weights.save(registry.load("methods", "dropmae")(size="tiny", image=64), tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="task vos"):
        convert(tmp_path / "m.safetensors", tmp_path / "x.pth", to="dropseg")
    assert named("dropseg").theirs("encoder.patch_embed.weight") == "patch_embed.proj.weight"


def test_bootstrapped_cross_entropy() -> None:
    logits = normal(56, 1, 3, 64, 64)
    label = torch.from_numpy(np.random.RandomState(57).randint(0, 3, (1, 64, 64)))
    loss = torch.nn.functional.cross_entropy(logits, label, reduction="none")
    model = VOS(size="tiny", image=64)
    for iteration, expected, share in (
        (0, 1.3939, 1.0),
        (19_999, 1.3939, 1.0),
        (20_000, 1.3939, 1.0),
        (45_000, 1.95378, 0.575),
        (70_000, 2.91831, 0.15),
        (70_001, 2.91831, 0.15),
        (200_000, 2.91831, 0.15),
    ):
        found = bootstrap_share(iteration / 210_000, *model.bootstrap_progress, model.bootstrap_share)
        assert found == pytest.approx(share, abs=1e-9)
        assert bootstrapped(loss, round(found, 9)).item() == pytest.approx(expected, abs=1e-5)


def test_aggregation_example() -> None:
    shares = aggregate(torch.tensor([0.9, 0.3]).view(1, 2, 1, 1)).softmax(1)
    assert shares.flatten().tolist() == pytest.approx([0.00791983, 0.946986, 0.0450946], abs=1e-6)
