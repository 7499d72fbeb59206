"""The training loop: exact resume, order, accumulation, bad input, non-finite steps."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dropmae.contracts import Model
from dropmae.data.clips import Clips, Sequence, Share, batches
from dropmae.interruption import Interrupted
from dropmae.nn.groups import decay_groups
from dropmae.training import optim
from dropmae.training.fit import Options, fit, plan
from dropmae.training.learner import BACK, SCALE


class Line(Model):
    """Learns y = 3 x from one number per sample; `poison` makes steps non-finite."""

    def __init__(self, poison: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))
        self.poison = poison
        self.steps: list[tuple[int, float]] = []

    def groups(self, options: Any) -> list[dict[str, Any]]:
        return decay_groups(self)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        x = batch["x"].float()
        loss = (self.weight[0, 0] * x - 3 * x).square().mean()
        return {"loss": loss * float("nan") if batch["step"] in self.poison else loss, "largest": x.max()}

    def after_step(self, step: int, progress: float) -> None:
        self.steps.append((step, progress))


def sample(sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
    if sequence.source == "broken":
        raise OSError("it is broken")
    return {"x": rng.standard_normal(4).astype(np.float32), "source": np.array(int(sequence.name))}


def clips(count: int = 10, broken: tuple[int, ...] = (), seed: int = 0, repeats: int = 1) -> Clips:
    made = [Sequence(str(i), "broken" if i in broken else i) for i in range(count)]
    return Clips(made, sample, seed, repeats)


def options(**changes: Any) -> Options:
    usual: dict[str, Any] = {
        "steps": 20,
        "global_batch": 8,
        "lr": 1.0,
        "workers": 0,
        "device": "cpu",
        "warmup": "2",
        "precision": "fp32",
    }
    return Options(**{**usual, **changes})


def test_named_losses_are_logged_and_each_step_is_told(tmp_path: Path) -> None:
    module = Line()
    fit(module, clips(), options(steps=4, micro_batch=4), tmp_path, save=save)
    assert module.steps == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    stream = clips()
    for step, line in enumerate(lines):
        parts = [np.stack([stream[i]["x"] for i in range(8 * step + 4 * k, 8 * step + 4 * k + 4)]) for k in (0, 1)]
        assert line["largest"] == pytest.approx(np.mean([part.max() for part in parts]), rel=1e-6)


def save(module: nn.Module, path: Path) -> None:
    path.write_bytes(b"")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_learns_and_writes_a_line_per_step(tmp_path: Path) -> None:
    module = Line()
    summary = fit(module, clips(), options(steps=200, warmup="10"), tmp_path, save=save)
    metrics = lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, 201))
    assert {"loss", "lr", "grad_norm", "clips_per_s", "data_wait", "memory_mb"} <= metrics[0].keys()
    assert metrics[-1]["loss"] < 0.2 * metrics[0]["loss"]
    assert summary["samples"] == 1600


def test_an_epoch_visits_every_video_once_in_a_new_order() -> None:
    stream = clips(13)
    epochs = [[int(stream[i]["source"]) for i in range(start, start + 13)] for start in (0, 13)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(13))
    assert epochs[0] != epochs[1]
    repeated = [int(clips(5, repeats=3)[i]["source"]) for i in range(15)]
    assert repeated[::3] == repeated[1::3] == repeated[2::3]
    assert sorted(repeated[::3]) == list(range(5))


def test_samples_do_not_depend_on_workers_or_ranks() -> None:
    stream = clips(7)

    def indices(workers: int, share: Share) -> list[int]:
        return [int(i) for batch in batches(stream, share, 1, 4, workers) for i in batch["index"]]

    whole = indices(0, Share(6, 6))
    assert whole == list(range(6, 24)) == indices(2, Share(6, 3))
    ranks = [indices(0, Share(6, 1, rank, 2)) for rank in (0, 1)]
    assert sorted(ranks[0] + ranks[1]) == whole


def test_micro_batches_do_not_change_the_result(tmp_path: Path) -> None:
    modules = [Line(), Line()]
    for module, micro in zip(modules, (8, 2)):
        fit(module, clips(), options(micro_batch=micro), tmp_path / str(micro), save=save)
    torch.testing.assert_close(modules[0].weight, modules[1].weight, atol=1e-5, rtol=1e-5)


def test_continues_exactly_where_it_stopped(tmp_path: Path) -> None:
    whole, parted = Line(), Line()
    fit(whole, clips(), options(), tmp_path / "whole", save=save)

    class Stopped(Exception):
        pass

    def stop(module: nn.Module, path: Path) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        fit(parted, clips(), options(save_every="7"), tmp_path / "parted", save=stop)
    again = Line()
    fit(again, clips(), options(save_every="7", workers=2), tmp_path / "parted", save=save)
    assert torch.equal(whole.weight, again.weight)
    first, second = (lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "parted"))
    assert [(line["step"], line["loss"]) for line in first] == [(line["step"], line["loss"]) for line in second]


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    fit(Line(), clips(), options(), tmp_path, save=save)
    before = (tmp_path / "metrics.jsonl").read_text()
    fit(Line(), clips(), options(), tmp_path, save=save)
    assert (tmp_path / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize("at", [4, 8])
def test_a_validation_that_was_cut_off_is_made_up_for(at: int, tmp_path: Path) -> None:
    """In the middle or at the end: a run without its last validation is not finished."""
    asked: list[int] = []

    def validate(module: nn.Module, step: int) -> dict[str, Any]:
        asked.append(step)
        if asked.count(at) == 1 and step == at:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        return {"value": step}

    every = options(steps=8, validate_every="4", save_every="3")
    with pytest.raises(Interrupted, match=f"^step {at} of 8 is saved in .*same command goes on") as caught:
        fit(Line(), clips(), every, tmp_path, save=save, validate=validate)
    assert caught.value.code == 143
    fit(Line(), clips(), every, tmp_path, save=save, validate=validate)
    assert [line["step"] for line in lines(tmp_path / "validation.jsonl")] == [0, 4, 8]
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == list(range(1, 9))
    fit(Line(), clips(), every, tmp_path, save=save, validate=validate)
    assert len(asked) == 4


def test_bad_files_are_named_once_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = fit(Line(), clips(9, broken=(2, 5)), options(steps=30), tmp_path, save=save)
    text = capsys.readouterr().err
    assert text.count("bad file: 2: it is broken") == 1
    assert text.count("bad file: 5: it is broken") == 1
    assert summary["bad_files"] == 2
    known = json.loads((tmp_path / "bad_files.json").read_text())
    assert sum(entry["samples"] for entry in known.values()) == summary["samples_replaced"] > 30


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="tries in a row found no video that can be read; the first was"):
        fit(Line(), clips(3, broken=(0, 1, 2)), options(), tmp_path, save=save)


def test_a_non_finite_step_is_left_out(tmp_path: Path) -> None:
    module = Line(poison=(5, 9))
    fit(module, clips(), options(), tmp_path, save=save)
    assert torch.isfinite(module.weight).all()
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl") if line["loss"] is None] == [6, 10]


def test_three_non_finite_steps_in_a_row_stop_the_run(tmp_path: Path) -> None:
    module = Line(poison=(5, 6, 7))
    with pytest.raises(FloatingPointError, match="6, 7, 8"):
        fit(module, clips(), options(), tmp_path, save=save)
    assert torch.isfinite(module.weight).all()


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    module = Line()
    fit(module, clips(), options(clip=1e-3, steps=3), tmp_path, save=save)
    assert lines(tmp_path / "metrics.jsonl")[0]["grad_norm"] > 1e-3  # logged as it was before clipping


def test_schedule_and_durations() -> None:
    assert optim.duration("1000", 5.0) == 1000
    assert optim.duration("40ep", 58.0) == 2320
    assert optim.duration("5%", 1.0, 200) == 10
    with pytest.raises(ValueError, match="duration"):
        optim.duration("soon", 1.0)
    rates = [optim.cosine(step, 100, 10, 2.0) for step in range(101)]
    assert rates[0] == 0
    assert rates[5] == 1.0
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0)


def test_the_global_batch_decides_accumulation_and_rate() -> None:
    how = plan(Options(global_batch=4096, epochs=400, warmup="40ep", device="cpu"), 241_553)
    assert how.share.micros == 64
    assert how.peak == pytest.approx(2.4e-3)
    assert (how.steps, how.warmup) == (23_589, 2359)
    with pytest.raises(ValueError, match="micro-batch"):
        plan(Options(global_batch=10, micro_batch=3, device="cpu"), 100)


@pytest.mark.parametrize("wrong", [{"global_batch": 0}, {"lr": -1.0}, {"seed": -1}, {"epochs": 0}])
def test_impossible_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Options(**wrong)


class Faint(Model):
    """Its gradients are lost in float16 unless the loss is scaled; `loud` makes those of a step overflow it."""

    def __init__(self, loud: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1, bias=False)
        self.loud = loud
        nn.init.zeros_(self.layer.weight)

    def groups(self, options: Any) -> list[dict[str, Any]]:
        return decay_groups(self)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") is torch.float16
        found = self.layer(batch["x"])
        loud = 1e9 if batch["step"] in self.loud else 1.0
        return {"loss": 1e-7 * loud * (found.float() - 100 * batch["x"].float()[:, :1]).mean()}


def test_fp16_scales_the_loss_and_goes_on_after_an_overflow(tmp_path: Path) -> None:
    def trained(name: str, module: Faint, **changes: Any) -> dict[str, Tensor]:
        fit(module, clips(), options(precision="fp16", lr=0.1, **changes), tmp_path / name, save=save)
        state = load_file(tmp_path / name / "resume" / "state.safetensors")
        return {key: value for key, value in state.items() if "step" not in key}

    quiet = trained("quiet", Faint(), steps=4)
    assert quiet["scaler.scale"] == SCALE
    assert quiet["scaler.steady"] == 4
    assert (quiet["module.layer.weight"].abs() > 1e-3).all(), "gradients of 1e-8 were lost"
    loud = trained("loud", Faint((1,)), steps=4)
    assert loud["scaler.scale"] == SCALE / BACK
    assert loud["scaler.steady"] == 2
    lines = [json.loads(line) for line in (tmp_path / "loud" / "metrics.jsonl").read_text().splitlines()]
    assert [line["grad_norm"] is None for line in lines] == [False, True, False, False]

    class Stopped(Exception):
        pass

    def stop(step: int, progress: float) -> None:
        if step == 3:
            raise Stopped

    module = Faint((1,))
    setattr(module, "after_step", stop)  # noqa: B010
    with pytest.raises(Stopped):
        trained("stopped", module, steps=4, save_every="2")
    again = trained("stopped", Faint((1,)), steps=4)
    assert again.keys() == loud.keys()
    assert all(torch.equal(again[key], loud[key]) for key in loud)


def test_fp16_is_not_for_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="in bf16 or fp32"):
        plan(options(precision="fp16", shard=True), 10)


@pytest.mark.parametrize(
    ("kind", "able", "taken"), [("cuda", True, "bf16"), ("cuda", False, "fp16"), ("cpu", False, "fp32")]
)
def test_auto_takes_what_the_hardware_multiplies(
    kind: str, able: bool, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dropmae.training.distributed.pick_device", lambda name: torch.device(kind))
    monkeypatch.setattr("dropmae.training.distributed.supports_bf16", lambda device: able)
    assert plan(options(precision="auto"), 10).precision == taken
