"""What every method promises, checked on each file in methods/ without special cases."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dropmae import registry
from dropmae.data.clips import Clips, Sequence, collate, generator

METHODS = registry.names("methods")
LIGHT: dict[str, Any] = {"size": "tiny", "image": 64, "depth": 2, "decoder_depth": 2}


def small(name: str) -> nn.Module:
    """A method of few parameters: the fields of LIGHT, where it has them."""
    cls: Any = registry.load("methods", name)
    fields = {field for field, _, _ in registry.fields(cls)}
    torch.manual_seed(0)
    return cls(**{field: value for field, value in LIGHT.items() if field in fields})


def batch_of(module: Any, sequences: list[Sequence], indices: list[int]) -> dict[str, Any]:
    clips = Clips(sequences, module.sample, seed=0)
    batch = collate([clips[i] for i in indices])
    batch.pop("reports")
    return {**batch, "seed": 0, "step": 3, "progress": 0.25}


@pytest.fixture(params=METHODS)
def module(request: pytest.FixtureRequest) -> Any:
    return small(request.param)


def test_is_a_documented_dataclass(module: Any) -> None:
    cls = type(module)
    assert dataclasses.is_dataclass(cls)
    assert cls.__doc__
    docs = registry.field_docs(cls)
    undocumented = [name for name, _, _ in registry.fields(cls) if not docs.get(name)]
    assert not undocumented


def test_settings_rebuild_it(module: Any) -> None:
    again = type(module)(**registry.settings(module))
    assert registry.settings(again) == registry.settings(module)
    assert {n: p.shape for n, p in again.state_dict().items()} == {n: p.shape for n, p in module.state_dict().items()}


def test_names_are_encoder_decoder_head(module: Any) -> None:
    assert {name.split(".")[0] for name in module.state_dict()} <= {"encoder", "decoder", "head"}


def test_sample_is_pure(module: Any, sequences: list[Sequence]) -> None:
    first = module.sample(sequences[0], generator(1, 2))
    second = module.sample(sequences[0], generator(1, 2))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    other = module.sample(sequences[0], generator(1, 3))
    assert not all(np.array_equal(first[name], other[name]) for name in first)


def test_loss_is_finite_and_every_parameter_learns(module: Any, sequences: list[Sequence]) -> None:
    module.train()
    loss = module(batch_of(module, sequences, [0, 1, 2]))["loss"]
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    loss.backward()
    idle = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle


def test_groups_name_every_trainable_parameter_once(module: Any) -> None:
    named = [name for group in module.groups(None) for name in group["names"]]
    assert sorted(named) == sorted(name for name, p in module.named_parameters() if p.requires_grad)
    assert all({"names", "lr", "decay"} == group.keys() for group in module.groups(None))


def test_randomness_follows_the_sample_not_the_batch(module: Any, sequences: list[Sequence]) -> None:
    module.train()
    with torch.no_grad():
        whole = module(batch_of(module, sequences, [0, 1, 2, 3]))["loss"]
        halves = [module(batch_of(module, sequences, part))["loss"] for part in ([2, 3], [0, 1])]
        again = module(batch_of(module, sequences, [0, 1, 2, 3]))["loss"]
    torch.testing.assert_close(whole, sum(halves) / 2, atol=1e-5, rtol=1e-5)
    assert torch.equal(whole, again)


def test_loss_falls_on_one_batch(module: Any, sequences: list[Sequence]) -> None:
    module.train()
    batch = batch_of(module, sequences, list(range(4)))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = module(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("sides", [(64, 64), (48, 80)])
def test_features_have_the_grid_of_the_picture(module: Any, sides: tuple[int, int]) -> None:
    frames = torch.randint(0, 256, (2, 3, *sides), dtype=torch.uint8)
    module.eval()
    with torch.no_grad():
        features = module.encoder.features(frames)
    assert features.shape == (2, module.encoder.width, sides[0] // 16, sides[1] // 16)
    assert torch.isfinite(features).all()
    with pytest.raises(ValueError, match="multiple"):
        module.encoder.features(frames[..., :-1])


def test_probe_gives_plain_numbers(module: Any, sequences: list[Sequence]) -> None:
    module.eval()
    with torch.no_grad():
        values = module.probe(batch_of(module, sequences, [0, 1, 2]))
    assert values
    assert all(isinstance(value, float) and np.isfinite(value) for value in values.values())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "wrong",
    [{"image": 65}, {"image": 0}, {"size": "enormous"}, {"mask_ratio": 1.0}, {"mask_ratio": -0.1}, {"scale": (0.0, 1)}],
)
def test_impossible_settings_are_refused(name: str, wrong: dict[str, Any]) -> None:
    word = next(iter(wrong)).split("_")[0]
    with pytest.raises(ValueError, match=rf"(?i){word}"):
        registry.load("methods", name)(**{"size": "tiny", "image": 64, **wrong})
