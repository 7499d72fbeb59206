"""The simulated cluster against closed forms, where there are any."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from dropmae.cli import main
from dropmae.speed.cluster import Cluster, Model, all_gather, all_reduce, parse
from dropmae.speed.simulation import (
    best_interval,
    checkpoint_seconds,
    scales,
    simulate,
    simulate_runs,
    simulate_steps,
    state_bytes,
    supply,
)
from dropmae.speed.stepspeed import Setting, flop
from dropmae.verbs.bench import parameters

MODEL = Model(100_000_000, [8_000_000] * 10)


def quiet(**changes: Any) -> Cluster:
    """A cluster without noise, failures or limits of loading."""
    usual: dict[str, Any] = {"rate": 1000, "jitter": 0, "straggle": 0, "mtbf": 0, "load": 1e6, "sample": 0}
    return Cluster(**{**usual, **changes})


def test_one_gpu_takes_exactly_its_own_time() -> None:
    for sharding in ("ddp", "fsdp"):
        steps = simulate_steps(quiet(gpus=1, batch=512, sharding=sharding), MODEL)
        assert steps.seconds == pytest.approx(0.512)
        assert (steps.data, steps.network, steps.others, steps.traffic) == (0, 0, pytest.approx(0, abs=1e-12), 0)
    row = simulate(quiet(gpus=1, batch=512, samples=512_000), MODEL)["1 x 1"]
    assert row["efficiency"] == pytest.approx(1)
    assert row["hours"] * 3600 == pytest.approx(512 + checkpoint_seconds(quiet(gpus=1), MODEL))  # one, at the end


def test_collectives_follow_their_formulas() -> None:
    one = quiet(gpus=8, intra=100, intra_us=2)
    assert all_gather(8e9, one) == pytest.approx(7 * (2e-6 + 1e9 / 100e9))
    ring = quiet(nodes=4, gpus=8, intra=100, inter=25, inter_us=10, collective="ring")
    assert all_reduce(8e9, ring) == pytest.approx(2 * 31 * (10e-6 + 8e9 / 32 / 25e9))
    two_level = replace(ring, collective="hierarchical", intra_us=2)
    assert all_reduce(8e9, two_level) == pytest.approx(2 * (7 * (2e-6 + 1e9 / 100e9) + 3 * (10e-6 + 2e9 / 25e9)))


def test_gradients_hide_behind_the_backward_pass_but_for_the_last_bucket() -> None:
    cluster = quiet(nodes=2, gpus=8, batch=1024, bucket=100)  # 64 samples a GPU: 64 ms, and 4 buckets of 100 MB
    took = all_reduce(100e6, cluster)
    assert took < 0.064 * 2 / 3 / 4
    assert simulate_steps(cluster, MODEL).seconds == pytest.approx(0.064 + took)
    slow = replace(cluster, inter=1.0)  # now the wire is never idle from the first bucket on
    first = 0.064 / 3 + 0.064 * 2 / 3 / 4
    assert simulate_steps(slow, MODEL).seconds == pytest.approx(first + 4 * all_reduce(100e6, slow))
    twice = replace(cluster, micro=32)  # only the last of two micro-batches has anything to sum
    assert simulate_steps(twice, MODEL).seconds == pytest.approx(0.064 + took)


def test_shards_are_gathered_ahead() -> None:
    cluster = quiet(nodes=1, gpus=8, batch=512, sharding="fsdp")
    block, rest = all_gather(2 * 8e6, cluster), all_gather(4 * 20e6, cluster)
    exposed = rest + block + all_gather(4 * 8e6, cluster) + rest  # the first gathers and the last sums
    assert simulate_steps(cluster, MODEL).seconds == pytest.approx(0.064 + exposed)
    instant = replace(cluster, rate=1e12)  # nothing to hide behind: all communication, one after the other
    everything = 2 * rest + 20 * block + 10 * all_gather(4 * 8e6, cluster)
    assert simulate_steps(instant, MODEL).seconds == pytest.approx(everything, rel=1e-3)


def test_a_slow_loader_sets_the_pace() -> None:
    cluster = quiet(nodes=2, gpus=4, batch=512, cores=4, load=100)
    assert simulate_steps(cluster, MODEL).seconds == pytest.approx(64 / 400, rel=0.01)
    stored = quiet(nodes=2, gpus=4, batch=512, sample=2, storage=4)
    assert supply(stored) == 4e9 / 2e6 / 8
    steps = simulate_steps(stored, MODEL)
    assert steps.seconds == pytest.approx(64 / 250, rel=0.01)
    assert steps.data == pytest.approx(64 / 250 - 64 / 1000, rel=0.05)


def test_stragglers_hold_up_everybody() -> None:
    alone = simulate_steps(quiet(gpus=1, batch=64, jitter=0.1, steps=4000), MODEL)
    assert alone.seconds == pytest.approx(0.064, rel=0.01)  # noise has no mean
    many = simulate_steps(quiet(nodes=8, gpus=8, batch=4096, jitter=0.1, intra=1e6, inter=1e6), MODEL)
    assert 1.2 < many.seconds / 0.064 < 1.35  # the largest of 64 normal numbers lies 2.4 deviations up
    assert many.others > 0.15 * many.seconds
    sure = simulate_steps(quiet(gpus=4, batch=256, straggle=1.0, slow=3.0, intra=1e9, intra_us=0), MODEL)
    assert sure.seconds == pytest.approx(3 * 0.064, rel=1e-3)


def test_failures_cost_what_renewal_theory_says() -> None:
    cluster = quiet(nodes=10, gpus=1, batch=1000, mtbf=2.0, restart=100, every=100, samples=10_000_000, runs=200)
    step, cost = 1.0, checkpoint_seconds(cluster, MODEL)
    rate = 10 / 7200
    expected = 100 * (1 / rate + 100) * (math.exp(rate * (100 * step + cost)) - 1)
    runs = simulate_runs(cluster, MODEL, step)
    assert runs.seconds == pytest.approx(expected, rel=0.01)
    assert runs.seconds == pytest.approx(10_000 * step + runs.checkpoints + runs.failures)
    with pytest.raises(ValueError, match="hardly ever end"):
        simulate_runs(replace(cluster, every=10_000), MODEL, step)


def test_the_best_interval_is_youngs_and_better_than_others() -> None:
    assert best_interval(1.0, 1e-7) == pytest.approx(math.sqrt(2 * 1.0 / 1e-7), rel=1e-3)
    assert best_interval(1.0, 0.0) == math.inf

    def loss(seconds: float) -> float:
        return (math.exp((seconds + 60) / 3600) - 1) / seconds

    best = best_interval(60, 1 / 3600)
    assert all(loss(best) < loss(best * factor) for factor in (0.5, 0.9, 1.1, 2.0))
    cluster = quiet(nodes=10, gpus=1, batch=1000, mtbf=10, write=0.05, samples=2e7, runs=100)
    chosen = simulate_runs(cluster, MODEL, 1.0)
    for factor in (0.25, 4):
        other = simulate_runs(replace(cluster, every=round(chosen.every * factor)), MODEL, 1.0)
        assert chosen.seconds < other.seconds


def test_scales_end_at_the_whole_cluster_and_share_the_batch() -> None:
    found = [(scale.nodes, scale.gpus) for scale in scales(Cluster(nodes=6, gpus=8, batch=4608, rate=1))]
    assert found == [(1, 1), (1, 2), (1, 4), (1, 8), (2, 8), (4, 8), (6, 8)]
    rows = simulate(replace(parse(("nodes=2", "gpus=4", "batch=512", "rate=500")), steps=20), MODEL)
    assert [row["gpus"] for row in rows.values()] == [1, 2, 4, 8]
    for row in rows.values():
        shares = [row[name] for name in ("compute", "data", "network", "others", "checkpoints", "failures")]
        assert sum(shares) == pytest.approx(1)
        assert min(shares) >= 0
        assert row["gpu_hours"] == pytest.approx(row["hours"] * row["gpus"])


def test_shares_of_memory() -> None:
    alone, whole, shared = (
        state_bytes(quiet(gpus=gpus, batch=512, sharding=sharding), MODEL)
        for gpus, sharding in ((1, "ddp"), (8, "ddp"), (8, "fsdp"))
    )
    assert (alone, whole) == (16e8, 20e8)
    assert shared == pytest.approx(16e8 / 8 + 4 * 8e6 + 4 * 20e6)


def test_parameters_are_those_of_the_model() -> None:
    model = parameters("base", 224)
    assert model.groups[:12] == [7_084_800] * 12  # attention and MLP of width 768: 12 C^2 + 9 C
    assert model.groups[12:] == [12 * 512**2 + 9 * 512] * 8
    assert 0 < model.rest < 3_000_000


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nodes"], "NAME=VALUE"),
        (["knots=8"], "names: nodes, gpus"),
        (["nodes=many"], "not a number"),
        (["nodes=1.5"], "whole number"),
        (["nodes=0"], "must be positive"),
        (["jitter=-1"], "must not be negative"),
        (["sharding=half"], "ddp or fsdp"),
        (["nodes=3", "gpus=7"], "cannot be shared by 21 GPUs"),
        (["rate=nan"], "must not be negative"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--simulate", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_bench_simulates(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--size", "tiny", "--image", "64", "--batch", "2", "--rounds", "1", "--device", "cpu", "--json"]
    assert main([*words, "--simulate", "nodes=2", "gpus=2", "batch=64", "tflops=1", "steps=20"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert set(result["scales"]) == {"1 x 1", "1 x 2", "2 x 2"}
    expected = 1e12 / 3 / flop(Setting("dropmae", "tiny", 64, 1, "cpu", False, 0))
    assert result["cluster"]["rate"] == pytest.approx(expected)
    assert "where the time goes" in printed.err
    assert main([*words, "--simulate", "gpus=1", "batch=64", "jitter=0", "straggle=0"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["cluster"]["rate"] > 0
    assert "device" in measured["setting"]
    assert measured["scales"]["1 x 1"]["efficiency"] == pytest.approx(1)
