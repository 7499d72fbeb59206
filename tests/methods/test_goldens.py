"""Numbers that the official DropMAE code gives, reached through a file as its training writes it.

The weights follow a recipe from names and shapes, so nothing of the official code or its weights is needed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dropmae
from dropmae.nn import masking
from dropmae.verbs.convert import convert
from official_files import Tensors, dropmae_shapes, recipe, with_sincos


@pytest.fixture(scope="module")
def official() -> Tensors:
    return with_sincos(recipe(dropmae_shapes()), (14, 14))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("goldens")


@pytest.fixture(scope="module")
def converted(official: Tensors, folder: Path) -> dict[str, Any]:
    """The report of converting a checkpoint of the official training."""
    arguments = argparse.Namespace(norm_pix_loss=True, mask_ratio=0.75, epochs=800, output_dir="out")
    checkpoint = {"model": official, "optimizer": {"state": {}}, "epoch": 799, "scaler": {}, "args": arguments}
    torch.save(checkpoint, folder / "checkpoint-799.pth")
    report = convert(folder / "checkpoint-799.pth", folder / "base.safetensors")
    (folder / "checkpoint-799.pth").unlink()
    return report


@pytest.fixture(scope="module")
def module(converted: dict[str, Any], folder: Path) -> Any:
    return dropmae.load(folder / "base.safetensors")


def frames() -> torch.Tensor:
    pair = [np.random.RandomState(seed).standard_normal((1, 3, 224, 224)) for seed in (11, 12)]
    return torch.from_numpy(np.stack(pair, 1).astype(np.float32))


def mask() -> masking.Mask:
    noise = np.random.RandomState(777).uniform(size=(1, 392)).astype(np.float32)
    return masking.random_mask(torch.from_numpy(noise), 98)


def test_the_file_is_recognised(official: Tensors, converted: dict[str, Any]) -> None:
    assert len(official) == 257
    assert sum(tensor.numel() for tensor in official.values()) == 111_909_632
    assert (converted["layout"], converted["entry"]) == ("dropmae", "model")
    assert not converted["missing"]
    assert not converted["unexpected"]
    fields = converted["fields"]
    assert (fields["size"], fields["image"], fields["patch"]) == ("base", 224, 16)
    assert sum(converted["parameters"].values()) == 111_657_472
    assert "CC-BY-NC" in converted["licence"]


def test_latents_and_losses(module: Any) -> None:
    x, hidden = frames(), mask()
    assert int((hidden.keep < 196).sum()) == 48
    with torch.no_grad():
        latent = module.encode(x, hidden, (14, 14))
        prediction, _ = module.predict(x, torch.zeros(1, dtype=torch.int32), hidden)
    assert latent.shape == (1, 98, 768)
    assert latent.mean().item() == pytest.approx(-0.00804299, abs=1e-6)
    assert latent.std().item() == pytest.approx(1.00947, abs=1e-5)
    first = [0.259239, 0.0612726, -0.350327, -0.969163, -1.33548]
    assert latent[0, 0, :5].tolist() == pytest.approx(first, abs=1e-4)
    assert prediction.mean().item() == pytest.approx(0.0513291, abs=1e-5)
    assert prediction.std().item() == pytest.approx(1.00511, abs=1e-4)
    first = [-0.799825, -1.45273, -0.328452, -1.29708, 0.917775]
    assert prediction[0, 0, :5].tolist() == pytest.approx(first, abs=2e-4)
    for norm_pix, loss in ((True, 1.99824), (False, 1.99556)):
        target = masking.patch_target(module.patches(x), norm_pix)
        assert masking.masked_loss(prediction, target, hidden.masked).item() == pytest.approx(loss, abs=1e-5)


def test_the_official_layout_comes_back(official: Tensors, module: Any, folder: Path) -> None:
    convert(folder / "base.safetensors", folder / "back.pth", to="dropmae")
    back = torch.load(folder / "back.pth", weights_only=True)["model"]
    assert back.keys() == official.keys()
    for name, tensor in official.items():
        if name in ("pos_embed", "decoder_pos_embed"):
            torch.testing.assert_close(back[name], tensor, atol=1e-6, rtol=0)
        else:
            assert torch.equal(back[name], tensor), name
