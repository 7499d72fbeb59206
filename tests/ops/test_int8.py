"""Linear layers in 8 bits: what they compute, with and without a compiler, and what a tracker loses by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import dropmae
from dropmae.contracts import Precision, Task
from dropmae.engine import prepare_precision
from dropmae.metrics.boxes import iou
from dropmae.nn.int8 import Int8MLP, to_int8
from dropmae.nn.vit import MLP, Encoder
from dropmae.ops import int8, switch
from dropmae.ops.int8 import Int8
from dropmae.rendering.synth import Rendering, render
from dropmae.weights import SHIPPED, load

SHAPES = [(1, 1, 1), (7, 5, 9), (50, 64, 256), (33, 48, 3)]


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of what surrounds the product."""
    if request.param == "torch":
        monkeypatch.setattr(switch, "compiled", lambda library: False)
    elif not switch.compiled(int8.library):
        pytest.skip("no C++ compiler")
    return str(request.param)


def wide(x: Int8) -> Tensor:
    return x.values.double() * x.scales.double()[:, None]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (5, 17), (40, 192)])
def test_a_row_is_rounded_to_255_steps(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = (random(*shape) * torch.logspace(-20, 20, shape[0])[:, None]).to(dtype)
    made = int8.quantize(x)
    assert made.values.dtype == torch.int8
    assert made.values.abs().amax(1).eq(127).all()
    torch.testing.assert_close(made.scales, x.float().abs().amax(1) / 127)
    assert ((wide(made) - x.double()).abs() <= 0.5001 * made.scales[:, None]).all()


def test_rows_of_zeros() -> None:
    made = int8.quantize(torch.zeros(3, 8))
    assert not made.values.any()
    assert not made.scales.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "inner", "outer"), SHAPES)
def test_sums_are_exact(rows: int, inner: int, outer: int, dtype: torch.dtype) -> None:
    x, weight, bias = int8.quantize(random(rows, inner)), int8.quantize(random(outer, inner)), random(outer)
    exact = wide(x) @ wide(weight).T + bias
    found = int8.linear(x, weight, bias, dtype)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)
    activated = functional.gelu(exact)
    again = int8.gelu_linear(x, weight, bias)
    assert ((wide(again) - activated).abs() <= 0.51 * again.scales[:, None] + 1e-6).all()


def test_sums_are_exact_where_pytorchs_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a kernel that adds pairs in 16 bits."""
    monkeypatch.setattr(int8, "_sums_exactly", lambda: False)
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: torch.zeros(len(a), b.shape[1], dtype=torch.int32))
    test_sums_are_exact(7, 48, 9, torch.float32)


def test_a_layer_that_multiplies_as_long_rows_as_there_are_does_not_overflow() -> None:
    ones = int8.quantize(torch.ones(1, 5120))
    torch.testing.assert_close(int8.linear(ones, ones, torch.zeros(1), torch.float32), torch.tensor([[5120.0]]))


def test_an_mlp_keeps_its_shape_and_about_its_output() -> None:
    torch.manual_seed(0)
    mlp, x = MLP(48, 192), torch.randn(2, 3, 5, 48)
    found = Int8MLP(mlp)(x)
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert not found.requires_grad
    assert (found - mlp(x)).norm() <= 0.03 * mlp(x).norm()
    with torch.autocast("cpu", torch.bfloat16):
        assert Int8MLP(mlp)(x).dtype == torch.bfloat16


def test_every_linear_layer_of_a_transformer_is_replaced() -> None:
    encoder = Encoder(32, 3, 2, 8).eval()
    frames = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    plain = encoder.features(frames)
    assert to_int8(encoder) == 3 * 4
    assert to_int8(encoder) == 0
    assert (encoder.features(frames) - plain).norm() <= 0.05 * plain.norm()


def test_the_shipped_tracker_follows_about_as_well_as_in_float32() -> None:
    overlaps: dict[Precision, list[float]] = {"fp32": [], "int8": []}
    for number in range(3):
        frames, targets = render(99, number, Rendering(frames=12, size=(160, 200), points=0, flow=False))
        one = targets[0].ids[0]
        seen = {n: target.box(one) for n, target in targets.items() if one in target.ids}
        for precision, found in overlaps.items():
            boxes = dict(dropmae.track(frames, box=tuple(seen[0]), precision=precision))
            found += [float(iou(boxes[n].box()[None], box[None])[0]) for n, box in seen.items() if n]
    plain, quick = (np.mean(found) for found in overlaps.values())
    assert abs(plain - quick) < 0.05
    assert quick > 0.3


def test_it_is_taken_unasked_where_it_is_fast_and_was_found_as_good(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    assert int8.fast() == (int8.library.obstacle is None)
    with switch.use("torch"):
        assert not int8.fast()
    monkeypatch.setattr(int8, "fast", lambda: True)
    cpu = torch.device("cpu")
    assert prepare_precision(load(SHIPPED / "filters.safetensors").eval(), "auto", cpu)[0] == "int8"
    assert prepare_precision(load(SHIPPED / "vot.safetensors"), "auto", cpu)[0] in ("bf16", "fp32")
    monkeypatch.setattr(int8, "fast", lambda: False)
    assert prepare_precision(load(SHIPPED / "filters.safetensors").eval(), "auto", cpu)[0] in ("bf16", "fp32")


def test_a_task_that_is_in_8_bits_stays_so_and_says_so() -> None:
    task, cpu = load(SHIPPED / "vot.safetensors").eval(), torch.device("cpu")
    assert prepare_precision(task, "int8", cpu)[0] == "int8"
    assert to_int8(task) == 0
    assert prepare_precision(task, "int8", cpu)[0] == "int8"
    with pytest.raises(ValueError, match="load the weights anew for fp32"):
        prepare_precision(task, "fp32", cpu)


def test_where_it_cannot_be_had() -> None:
    task = load(SHIPPED / "vot.safetensors")
    with pytest.raises(ValueError, match="int8 is for CPUs"):
        prepare_precision(task, "int8", torch.device("cuda"))
    with pytest.raises(ValueError, match="no transformer"):
        prepare_precision(Task(), "int8", torch.device("cpu"))
