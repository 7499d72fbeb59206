"""Adaptive spatial-attention dropout: the official numbers, the invariants, and the distribution of the draw."""

from __future__ import annotations

import itertools

import pytest
import torch

from dropmae.ops import asad, noise

TINY = [  # W of the official code for A[i, j] = sin(1.3 i + 0.7 j^2), L = 8
    [0.0, 0.0674625, 0.0495184, 0.0360235],
    [0.0932041, 0.0, 0.0156893, 0.0936115],
    [0.0872764, 0.0445156, 0.0, 0.0860217],
    [0.0442411, 0.0325812, 0.131928, 0.0],
    [0.0, 0.046807, 0.0383605, 0.237609],
    [0.0356, 0.0, 0.117352, 0.0923519],
    [0.0856767, 0.087111, 0.0, 0.02847],
    [0.049398, 0.0494909, 0.0236138, 0.0],
]


def tiny_logits() -> torch.Tensor:
    i = torch.arange(8.0, dtype=torch.float64)
    return torch.sin(1.3 * i[:, None] + 0.7 * i[None] ** 2)


def test_weights_are_the_official_ones() -> None:
    torch.testing.assert_close(asad.drop_weights(tiny_logits()), torch.tensor(TINY), atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize(
    ("ratio", "tokens", "count"),
    [(0.1, 196, 7448), (0.2, 196, 15288), (0.05, 196, 3528), (0.1, 256, 12800), (0.5, 4, 8)],
)
def test_counts_are_the_official_ones(ratio: float, tokens: int, count: int) -> None:
    assert asad.drop_count(ratio, tokens) == count


@pytest.mark.parametrize("ratio", [-0.1, 1.5, float("nan"), 0.005])
def test_impossible_ratios_are_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="P"):
        asad.drop_count(ratio, 196)


def test_zero_is_twinmae() -> None:
    assert asad.drop_count(0.0, 196) == 0


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 8.0, 60.0])
def test_invariants(sharpness: float) -> None:
    logits = sharpness * torch.randn(3, 2, 18, 18, generator=torch.Generator().manual_seed(0))
    count = asad.drop_count(0.3, 9)
    key = noise.keys(0, torch.arange(6)).view(3, 2)
    pairs = asad.draw_pairs(asad.drop_weights(logits), count, key)
    assert torch.equal(pairs.sum((-1, -2)), torch.full((3, 2), count))
    full = asad.spread(pairs)
    assert not full.diagonal(dim1=-2, dim2=-1).any()
    assert not full[..., :9, 9:].any()
    assert not full[..., 9:, :9].any()


def race_probabilities(weights: list[float], count: int) -> torch.Tensor:
    """Inclusion probabilities of drawing `count` without replacement, by enumeration of all orders."""
    found = torch.zeros(len(weights), dtype=torch.float64)
    for order in itertools.permutations(range(len(weights)), count):
        left, chance = sum(weights), 1.0
        for position in order:
            chance *= weights[position] / left
            left -= weights[position]
        found[list(order)] += chance
    return found


def test_inclusion_probabilities_are_those_of_sampling_without_replacement() -> None:
    weights = asad.drop_weights(2 * tiny_logits()[:6, :6])  # 6 queries, 3 keys, 12 possible pairs
    flat = weights.flatten().double()
    possible = flat.nonzero()[:, 0]
    expected = race_probabilities(flat[possible].tolist(), 4)
    trials = 40_000
    pairs = asad.draw_pairs(weights.expand(trials, -1, -1), 4, noise.keys(5, torch.arange(trials)))
    seen = pairs.flatten(1)[:, possible].double().mean(0)
    deviation = (expected * (1 - expected) / trials).sqrt()
    assert float(((seen - expected) / deviation).abs().max()) < 4.5
    assert not pairs.flatten(1)[:, flat == 0].any()


def test_agrees_with_multinomial_on_a_large_case() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = asad.drop_weights(2 * torch.randn(60, 60, generator=generator))
    count, trials = asad.drop_count(0.2, 30), 1500
    ours = asad.draw_pairs(weights.expand(trials, -1, -1), count, noise.keys(9, torch.arange(trials))).flatten(1)
    flat = weights.flatten().expand(trials, -1)
    drawn = torch.multinomial(flat, count, generator=generator)
    theirs = torch.zeros_like(ours).scatter_(1, drawn, True)
    a, b = ours.double().mean(0), theirs.double().mean(0)
    error = (2 * (a + b) / 2 * (1 - (a + b) / 2) / trials).sqrt().clamp(min=1e-9)
    z = ((a - b) / error)[weights.flatten() > 0]
    assert abs(float(z.square().mean()) - 1) < 0.15
    assert float(z.abs().max()) < 5


def test_attention_equals_the_explicit_form() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 12, 8, generator=generator, dtype=torch.float64).unbind(0)
    stream = noise.keys(0, torch.arange(2))
    count = asad.drop_count(0.4, 6)
    out = asad.attention(query, key, value, count, stream)
    logits = query @ key.transpose(-1, -2) / 8**0.5
    streams = noise.fold(stream[:, None], torch.arange(4, dtype=torch.int32))
    dropped = asad.spread(asad.draw_pairs(asad.drop_weights(logits), count, streams))
    expected = torch.softmax(logits.masked_fill(dropped, float("-inf")), -1) @ value
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-6)
    assert dropped.sum() == 2 * 4 * count


def test_gradient_is_that_of_masked_attention() -> None:
    generator = torch.Generator().manual_seed(1)
    shape = (3, 1, 2, 8, 4)
    query, key, value = (t.requires_grad_() for t in torch.randn(shape, generator=generator).unbind(0))
    stream = noise.keys(0, torch.arange(1))
    asad.attention(query, key, value, 8, stream).square().sum().backward()
    grads = [t.grad.clone() for t in (query, key, value)]  # type: ignore[union-attr]
    with torch.no_grad():
        logits = query @ key.transpose(-1, -2) / 2
        streams = noise.fold(stream[:, None], torch.arange(2, dtype=torch.int32))
        dropped = asad.spread(asad.draw_pairs(asad.drop_weights(logits), 8, streams))
    for t in (query, key, value):
        t.grad = None
    explicit = torch.softmax((query @ key.transpose(-1, -2) / 2).masked_fill(dropped, float("-inf")), -1) @ value
    explicit.square().sum().backward()
    for t, grad in zip((query, key, value), grads):
        torch.testing.assert_close(t.grad, grad, atol=1e-5, rtol=1e-4)
