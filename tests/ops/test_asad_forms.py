"""Attention dropout in its several forms: the same pairs, outputs and gradients, and the right distribution in each."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from dropmae.methods.dropmae import DropMAE
from dropmae.ops import asad, attention_cpu, compiler, noise, switch
from dropmae.ops.attention import attention


def compiled() -> bool:
    try:
        attention_cpu.library()
    except compiler.CannotCompile:
        return False
    return True


needs_compiler = pytest.mark.skipif(not compiled(), reason="there is no C++ compiler: the compiled form cannot run")
FORMS = ["torch", pytest.param("fast", marks=needs_compiler)]
EVERY = ["reference", *FORMS]
SHAPES = [(2, 3, 12, 8), (1, 2, 50, 80), (2, 2, 98, 32), (1, 3, 66, 5), (1, 2, 392, 32)]


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    with switch.use(request.param):
        yield request.param


def triple(shape: tuple[int, ...], sharpness: float = 1.0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """query, key and value as the fused projection makes them; logits have about the given deviation."""
    b, heads, length, depth = shape
    generator = torch.Generator().manual_seed(0)
    packed = torch.randn(b, length, 3, heads, depth, generator=generator) * sharpness**0.5
    return [t.to(dtype).requires_grad_() for t in packed.permute(2, 0, 3, 1, 4).unbind(0)]


def head_keys(stream: Tensor, heads: int) -> Tensor:
    return noise.fold(stream[:, None], torch.arange(heads, dtype=torch.int32))


def pairs_of(form: str, query: Tensor, key: Tensor, count: int, keys: Tensor) -> Tensor:
    """bool [B, H, L, F]: what a form drops."""
    query, key = query.detach(), key.detach()
    if form == "fast":
        return attention_cpu.dropped_pairs(query, key, count, keys)
    if form == "torch":
        dropped = ~torch.stack([asad._lean_kept(q, k, count, n) for q, k, n in zip(query, key, keys)])
        half = query.shape[-2] // 2
        pairs = torch.cat([dropped[..., :half, :half], dropped[..., half:, half:]], -2)
        assert pairs.sum() == dropped.sum(), "a pair of different frames was dropped"
        return pairs
    return asad.draw_pairs(asad.drop_weights(asad._logits(query, key)), count, keys)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_drops_the_pairs_of_the_reference(
    form: str, shape: tuple[int, ...], sharpness: float, dtype: torch.dtype
) -> None:
    query, key, _ = triple(shape, sharpness, dtype)
    half = shape[2] // 2
    keys = head_keys(noise.keys(0, torch.arange(shape[0])), shape[1])
    for ratio in (0.25, 0.7, 1.0):
        count = asad.drop_count(ratio, half)
        ours = pairs_of(form, query, key, count, keys)
        assert torch.equal(ours.sum((-1, -2)), torch.full(shape[:2], count))
        assert not ours[..., torch.arange(2 * half), torch.arange(half).repeat(2)].any(), "a query lost itself"
        theirs = pairs_of("reference", query, key, count, keys)
        assert (ours != theirs).float().mean() <= 1e-3


@pytest.mark.parametrize("form", EVERY, indirect=True)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_attention_drops_exactly_so_many_in_every_dtype(form: str, dtype: torch.dtype) -> None:
    """With one-hot values the output is the attention matrix, in which a dropped pair is an exact zero."""
    query, key, _ = (t.detach() for t in triple((2, 3, 26, 26), 1.0, dtype))
    value = torch.eye(26, dtype=dtype).expand(2, 3, 26, 26)
    for ratio in (0.1, 0.5, 1.0):
        count = asad.drop_count(ratio, 13)
        share = asad.attention(query, key, value, count, noise.keys(3, torch.arange(2)))
        assert ((share == 0).sum((-1, -2)) == count).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients_are_those_of_masked_attention(form: str, shape: tuple[int, ...]) -> None:
    query, key, value = triple(shape, 2.0)
    stream = noise.keys(3, torch.arange(shape[0]))
    count = asad.drop_count(0.3, shape[2] // 2)
    out = asad.attention(query, key, value, count, stream)
    dropped = asad.spread(pairs_of(form, query, key, count, head_keys(stream, shape[1])))
    exact = [t.detach().double().requires_grad_() for t in (query, key, value)]
    logits = exact[0] @ exact[1].transpose(-1, -2) * shape[3] ** -0.5
    expected = torch.softmax(logits.masked_fill(dropped, float("-inf")), -1) @ exact[2]
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad(out, (query, key, value), upstream)
    for gradient, right in zip(ours, torch.autograd.grad(expected, exact, upstream.double())):
        torch.testing.assert_close(gradient.double(), right, atol=2e-5, rtol=2e-5)


def test_bfloat16_is_as_exact_as_its_output_allows(form: str) -> None:
    query, key, value = triple((2, 4, 98, 32), 1.0, torch.bfloat16)
    stream = noise.keys(3, torch.arange(2))
    out = asad.attention(query, key, value, 980, stream)
    assert out.dtype == torch.bfloat16
    with switch.use("reference"):
        exact = asad.attention(query.double(), key.double(), value.double(), 980, stream)
    torch.testing.assert_close(out.double(), exact, atol=0.01, rtol=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_gradients_are_off_by_a_rounding(form: str, shape: tuple[int, ...]) -> None:
    query, key, value = triple(shape, 1.0, torch.bfloat16)
    stream = noise.keys(3, torch.arange(shape[0]))
    count = asad.drop_count(0.3, shape[2] // 2)
    dropped = asad.spread(pairs_of(form, query, key, count, head_keys(stream, shape[1])))
    exact = [t.detach().double().requires_grad_() for t in (query, key, value)]
    logits = exact[0] @ exact[1].transpose(-1, -2) * shape[3] ** -0.5
    expected = torch.softmax(logits.masked_fill(dropped, float("-inf")), -1) @ exact[2]
    upstream = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    ours = torch.autograd.grad(asad.attention(query, key, value, count, stream), (query, key, value), upstream)
    for gradient, right in zip(ours, torch.autograd.grad(expected, exact, upstream.double())):
        assert (gradient.double() - right).norm() <= 0.01 * right.norm()


def test_reference_passes_gradcheck() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = torch.randn(3, 1, 2, 8, 3, generator=generator, dtype=torch.float64).unbind(0)
    stream = noise.keys(0, torch.arange(1))
    with switch.use("reference"):
        assert torch.autograd.gradcheck(
            lambda q, k, v: asad.attention(q, k, v, 8, stream), [t.requires_grad_() for t in tensors]
        )


def test_where_what_dominated_is_dropped_the_rest_is_still_a_softmax(form: str) -> None:
    query, key, value = (t.detach() for t in triple((1, 1, 12, 8), 1.0))
    query[..., 0], key[..., 0] = 30.0, 0.0
    key[..., 3, 0] = 20.0  # logit 212 beside about 0: the others' exponentials vanish
    count = 34  # the second frame has 30 pairs, all far likelier to be dropped than the first frame's
    stream = noise.keys(1, torch.arange(1))
    dropped = asad.spread(pairs_of(form, query, key, count, head_keys(stream, 1)))
    logits = (query @ key.transpose(-1, -2)).double() * 8**-0.5
    kept_peak = logits.masked_fill(dropped, float("-inf")).amax(-1)
    assert (logits.amax(-1) - kept_peak).max() > 100, "the case does not test what it should"
    expected = torch.softmax(logits.masked_fill(dropped, float("-inf")), -1) @ value.double()
    out = asad.attention(query, key, value, count, stream)
    torch.testing.assert_close(out.double(), expected, atol=1e-4, rtol=1e-4)


def test_equal_races_are_settled_by_position(form: str) -> None:
    """All logits equal: W is constant, and a race is tied where two uniform numbers are."""
    length, half = 392, 196
    keys = noise.keys(2, torch.arange(1))[:, None]
    race = noise.exponential(keys[0], length * half).reciprocal()[0]
    race.view(2, half, half).diagonal(dim1=1, dim2=2).zero_()
    order = torch.sort(race, descending=True, stable=True)
    tied = (order.values[:-1] == order.values[1:]).nonzero()[:, 0]
    count = int(tied[tied > 5000][0]) + 1  # the threshold falls between two equal races
    zeros = torch.zeros(1, 1, length, 4)
    expected = torch.zeros(length * half, dtype=torch.bool)
    expected[order.indices[:count]] = True
    assert torch.equal(pairs_of(form, zeros, zeros, count, keys).flatten(), expected)


def enumerated(weights: list[float], count: int) -> Tensor:
    """Inclusion probabilities of drawing `count` without replacement, by enumeration of all orders."""
    found = torch.zeros(len(weights), dtype=torch.float64)
    for order in itertools.permutations(range(len(weights)), count):
        left, chance = sum(weights), 1.0
        for position in order:
            chance *= weights[position] / left
            left -= weights[position]
        found[list(order)] += chance
    return found


@pytest.mark.parametrize("form", EVERY, indirect=True)
def test_inclusion_by_enumeration(form: str) -> None:
    generator = torch.Generator().manual_seed(4)
    query, key = torch.randn(2, 6, 4, generator=generator).unbind(0)
    trials, count = 40_000, 4
    weights = asad.drop_weights(query @ key.T / 2).flatten().double()
    possible = weights.nonzero()[:, 0]
    assert len(possible) == 12
    expected = enumerated(weights[possible].tolist(), count)
    heads = 100
    keys = noise.keys(5, torch.arange(trials)).view(-1, heads)
    shape = (trials // heads, heads, 6, 4)
    seen = pairs_of(form, query.expand(shape), key.expand(shape), count, keys).view(trials, -1)
    frequency = seen[:, possible].double().mean(0)
    deviation = (expected * (1 - expected) / trials).sqrt()
    z = (frequency - expected) / deviation
    assert float(z.abs().max()) < 4.5
    assert float(z.square().sum()) < 32.9  # chi-square, 12 degrees of freedom, 0.999
    assert not seen[:, weights == 0].any()


@pytest.mark.parametrize("form", EVERY, indirect=True)
def test_inclusion_agrees_with_multinomial(form: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (1.4 * torch.randn(2, 60, 16, generator=generator)).unbind(0)
    weights = asad.drop_weights(query @ key.T / 4)
    count, trials = asad.drop_count(0.2, 30), 2000
    keys = noise.keys(9, torch.arange(trials)).view(-1, 20)
    shape = (trials // 20, 20, 60, 16)
    ours = pairs_of(form, query.expand(shape), key.expand(shape), count, keys).view(trials, -1)
    drawn = torch.multinomial(weights.flatten().expand(trials, -1), count, generator=generator)
    theirs = torch.zeros_like(ours).scatter_(1, drawn, True)
    a, b = ours.double().mean(0), theirs.double().mean(0)
    error = ((a + b) * (1 - (a + b) / 2) / trials).sqrt().clamp(min=1e-9)
    z = ((a - b) / error)[weights.flatten() > 0]
    assert abs(float(z.square().mean()) - 1) < 0.15
    assert float(z.abs().max()) < 5


@needs_compiler
def test_kernel_has_the_numbers_of_noise() -> None:
    for key in (0, 1, -123456789, 2**31 - 1):
        ours = attention_cpu.uniform(key, 5000)
        assert torch.equal(ours, noise.uniform(torch.tensor(key, dtype=torch.int32), 5000))


@needs_compiler
def test_threads_change_no_bit() -> None:
    query, key, value = triple((2, 5, 98, 32))
    stream = noise.keys(0, torch.arange(2))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = asad.attention(query, key, value, 980, stream)
            results.append([out, *torch.autograd.grad(out.square().sum(), (query, key, value))])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(2, 3, 12, 12, 8), (1, 2, 7, 50, 80), (2, 2, 1, 1, 16), (1, 2, 300, 290, 32)])
def test_plain_attention(sizes: tuple[int, int, int, int, int], dtype: torch.dtype) -> None:
    b, heads, length, others, depth = sizes
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(b, heads, length, depth, generator=generator).to(dtype).requires_grad_()
    key, value = (
        t.to(dtype).requires_grad_() for t in torch.randn(2, b, heads, others, depth, generator=generator).unbind(0)
    )
    out = attention_cpu.attention(query, key, value)
    exact = [t.detach().double().requires_grad_() for t in (query, key, value)]
    expected = torch.softmax(exact[0] @ exact[1].transpose(-1, -2) * depth**-0.5, -1) @ exact[2]
    upstream = torch.randn(out.shape, generator=generator).to(dtype)
    ours = torch.autograd.grad(out, (query, key, value), upstream)
    theirs = torch.autograd.grad(expected, exact, upstream.double())
    tolerance = 1e-5 if dtype == torch.float32 else 0.01
    for a, b_ in zip((out, *ours), (expected, *theirs)):
        torch.testing.assert_close(a.double(), b_, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [40, 300])
def test_every_form_of_plain_attention_agrees(dtype: torch.dtype, length: int) -> None:
    tensors = triple((2, 2, length, 16), 1.0, dtype)
    results = []
    for name in switch.FORMS:
        with switch.use(name):
            out = attention(*tensors)
            results.append([out, *torch.autograd.grad(out.float().square().sum(), tensors)])
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    for other in results[1:]:
        for a, b in zip(results[0], other):
            torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def test_impossible_calls_are_refused() -> None:
    query, key, value = triple((1, 1, 9, 4))
    stream = noise.keys(0, torch.arange(1))
    with pytest.raises(ValueError, match="two frames"):
        asad.attention(query, key, value, 4, stream)
    with pytest.raises(ValueError, match="cannot drop 57 of the 24"):
        asad.attention(query[..., :-1, :], key[..., :-1, :], value[..., :-1, :], 8 * 7 + 1, stream)


def test_dropping_nothing_is_plain_attention(form: str) -> None:
    query, key, value = triple((1, 2, 12, 8))
    out = asad.attention(query, key, value, 0, noise.keys(0, torch.arange(1)))
    torch.testing.assert_close(out, torch.nn.functional.scaled_dot_product_attention(query, key, value))


def test_under_torch_compile(form: str) -> None:
    query, key, value = triple((1, 2, 12, 8))
    stream = noise.keys(0, torch.arange(1))
    fullgraph = form == "fast"  # the other form asks the data whether two races are equal, and leaves the graph there
    run = torch.compile(asad.attention, backend="aot_eager", fullgraph=fullgraph)
    out = run(query, key, value, 24, stream)
    torch.testing.assert_close(out, asad.attention(query, key, value, 24, stream))
    torch.testing.assert_close(
        torch.autograd.grad(out.square().sum(), query)[0],
        torch.autograd.grad(asad.attention(query, key, value, 24, stream).square().sum(), query)[0],
    )


def losses(name: str, seed: int, steps: int) -> list[float]:
    torch.manual_seed(0)
    module = DropMAE(size="tiny", image=64, drop_ratio=0.3).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (4, 2, 3, 64, 64), generator=generator, dtype=torch.uint8)
    found = []
    with switch.use(name):
        for step in range(steps):
            loss = module({"frames": frames, "index": torch.arange(4) + 4 * step, "seed": seed})["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
    return found


def test_training_goes_the_same_way(form: str) -> None:
    ours, theirs = losses(form, 0, 12), losses("reference", 0, 12)
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), atol=2e-3, rtol=2e-3)


def test_without_a_compiler_it_says_so_once_and_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = triple((1, 2, 12, 8))
    stream = noise.keys(0, torch.arange(1))
    with switch.use("reference"):
        expected = asad.attention(query, key, value, 24, stream)

    monkeypatch.setattr(attention_cpu, "library", SimpleNamespace(obstacle="in plain PyTorch: no C++ compiler"))
    switch.note.cache_clear()
    with pytest.warns(RuntimeWarning, match="no C\\+\\+ compiler"):
        out = asad.attention(query, key, value, 24, stream)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = asad.attention(query, key, value, 24, stream)
    assert torch.equal(out, again)
    torch.testing.assert_close(out, expected)
