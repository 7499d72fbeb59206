"""The fast form of linear layers and of GELU is as right as PyTorch's, judged in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dropmae.nn.vit import MLP, Linear
from dropmae.ops import linear, switch

SHAPES = [((1, 1), 1, 1), ((3, 7), 5, 9), ((2, 50), 64, 256), ((65,), 48, 33), ((0, 4), 8, 16)]


@pytest.fixture(autouse=True, params=["this CPU", "without bfloat16"])
def _compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not switch.compiled(linear.library):
        pytest.skip("no C++ compiler")
    if request.param == "without bfloat16":
        monkeypatch.setattr(linear, "_has_onednn", lambda: False)


def meant(name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = functional.linear(x, weight, bias)
    return functional.gelu(out) if name == "gelu_linear" else out


def tensors(shape: tuple[int, ...], inner: int, outer: int) -> list[Tensor]:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(*shape, inner), torch.randn(outer, inner) * inner**-0.5 * 2, torch.randn(outer)
    return [tensor.bfloat16().float().requires_grad_() for tensor in (x, weight, bias)]


@pytest.mark.parametrize(("shape", "inner", "outer"), SHAPES)
@pytest.mark.parametrize("name", ["linear", "gelu_linear"])
def test_values_and_gradients(name: str, shape: tuple[int, ...], inner: int, outer: int) -> None:
    ours, torchs = (tensors(shape, inner, outer) for _ in range(2))
    exact = [tensor.detach().double().requires_grad_() for tensor in ours]
    above = torch.randn(*shape, outer).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found, plain = getattr(linear, name)(*ours), meant(name, *torchs)
    assert found.dtype == plain.dtype == torch.bfloat16
    assert found.shape == plain.shape
    truth = meant(name, *exact)
    found.backward(above)
    plain.backward(above)
    truth.backward(above.double())
    pairs = [(found, plain, truth)] + [(a.grad, b.grad, c.grad) for a, b, c in zip(ours, torchs, exact)]
    for own, other, right in pairs:
        assert own is not None
        assert other is not None
        assert right is not None
        own, other, right = own.detach().double(), other.detach().double(), right.detach()
        scale = float(right.abs().amax()) if right.any() else 1.0
        wrong = [float((one - right).abs().sum()) / max(right.numel(), 1) / scale for one in (own, other)]
        assert wrong[0] <= 1.3 * wrong[1] + 1e-4
        torch.testing.assert_close(own, right, rtol=0.03, atol=0.02 * scale)


def test_gelu_over_its_range() -> None:
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([0.0, -0.0, 1e-30, 3e38, -3e38])]).bfloat16()
    one, none = torch.ones(1, 1).bfloat16(), torch.zeros(1)
    column = x[:, None].clone().requires_grad_()
    found = linear.gelu_linear(column, one, none.bfloat16())
    right = functional.gelu(x.double())
    assert ((found[:, 0].double() - right).abs() <= right.abs() * 2**-8 + 1e-6).all()
    found.sum().backward()
    exact = x.double().requires_grad_()
    functional.gelu(exact).sum().backward()
    assert column.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(column.grad[:, 0].double(), exact.grad, rtol=2**-8, atol=1e-6)
    bad = torch.tensor([[float("nan")], [float("inf")], [-float("inf")]]).bfloat16()
    out = linear.gelu_linear(bad, one, none.bfloat16())
    assert out[0].isnan().all()
    assert out[1].isposinf().all()


def test_it_is_the_fast_form_of_bfloat16_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    kernel: Callable[..., Tensor] = linear._GeluLinear.apply
    monkeypatch.setattr(linear._GeluLinear, "apply", lambda *given: taken.append("fast") or kernel(*given))
    mlp = MLP(16, 32)
    x = torch.randn(2, 3, 16)
    mlp(x)
    with torch.autocast("cpu", torch.bfloat16), switch.use("reference"):
        mlp(x)
    assert not taken
    with torch.autocast("cpu", torch.bfloat16):
        mlp(x)
    assert taken == ["fast"]
    mlp.bfloat16()(x.bfloat16())
    assert taken == ["fast"] * 2
    with pytest.raises(RuntimeError, match="dtype"):
        mlp(x)


def test_views_and_frozen_weights() -> None:
    torch.manual_seed(0)
    layer = Linear(24, 8).bfloat16()
    x = torch.randn(5, 24, 7).bfloat16().transpose(1, 2).requires_grad_()
    plain = nn.Linear(24, 8).bfloat16()
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), plain(x), rtol=2**-7, atol=2e-3)
    layer.requires_grad_(False)
    (grad,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(grad, torch.autograd.grad(plain(x).sum(), x)[0], rtol=2**-7, atol=2e-3)
    frozen = linear.gelu_linear(x.detach(), layer.weight, layer.bias)
    assert not frozen.requires_grad


def test_weights_that_were_rounded_before_change_nothing() -> None:
    """As sharded training gathers them in bfloat16."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, 24), torch.randn(8, 24), torch.randn(8)
    for form in (linear.linear, linear.gelu_linear):
        with torch.autocast("cpu", torch.bfloat16):
            whole, rounded = form(x, weight, bias), form(x, weight.bfloat16(), bias.bfloat16())
        assert torch.equal(whole, rounded)


def test_threads_do_not_change_the_result() -> None:
    x, weight, bias = (tensor.detach() for tensor in tensors((300,), 32, 64))
    found: list[Tensor] = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            own = bias.clone().requires_grad_()
            with torch.autocast("cpu", torch.bfloat16):
                linear.gelu_linear(x, weight, own).float().square().sum().backward()
            assert own.grad is not None
            found.append(own.grad)
        finally:
            torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
