"""The bench: every method beside the textbook form, which drops what ours drops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dropmae import loadspeed, registry, stepspeed
from dropmae.cli import main
from dropmae.clips import Sequence
from dropmae.ops import asad, noise, switch
from dropmae.stepspeed import TEXTBOOK, textbook
from dropmae.video import write


def test_every_method_and_form_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--size", "tiny", "--image", "64", "--batch", "2", "--rounds", "1", "--device", "cpu"]
    assert main([*words, "--bf16", "True", "--no-memory", "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    forms = {"dropmae, torch ops", "dropmae, reference ops"}
    assert set(result["steps"]) == {*registry.names("methods"), *forms, TEXTBOOK, f"{TEXTBOOK}, fp32"}
    assert result["steps"]["twinmae"]["times_twinmae"] == result["steps"]["dropmae"]["times_dropmae"] == 1
    for row in result["steps"].values():
        assert row["seconds"] > 0
        assert 0 < row["utilisation"] < 2
        assert row["gigaflop_per_sample"] > 0
        assert row["peak_memory_mb"] is None
    assert result["steps"][f"{TEXTBOOK}, fp32"]["precision"] == "fp32"
    assert set(result["attention"]) == {"plain", "plain, PyTorch's", *switch.FORMS, "textbook"}
    assert {"date", "device", "torch", "commit"} <= result["setting"].keys()
    assert "a training step" in printed.err


def test_work_of_the_base_model_is_the_published_one() -> None:
    setting = stepspeed.Setting("dropmae", "base", 224, 1, "cpu", False, 0)
    assert stepspeed.flop(setting) / 1e9 == pytest.approx(40.1, rel=0.01)  # counted in the official code


def test_relatives_share_parameters_and_optimizer() -> None:
    family: stepspeed.Family = {}
    one, other, far, textbook = (
        stepspeed.Step(stepspeed.Setting(name, "tiny", 64, 1, "cpu", False, 0), family)
        for name in ("twinmae", "dropmae", "mae", TEXTBOOK)
    )
    assert one.optimizer is other.optimizer is not far.optimizer
    assert one.optimizer.defaults["fused"]
    assert not textbook.optimizer.defaults["fused"]
    for step in (other, textbook):
        before = one.module.decoder.mask_token.clone()
        step(0)
        assert not torch.equal(one.module.decoder.mask_token, before)


def test_the_textbook_form_drops_as_many_pairs() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 2, 3, 18, 8).unbind(0)
    count = asad.drop_count(0.3, 9)
    seen = textbook(query, key, torch.eye(18).expand(2, 3, 18, 18), count)
    assert torch.equal((seen == 0).sum((-1, -2)), torch.full((2, 3), count))
    torch.testing.assert_close(seen.sum(-1), torch.ones(2, 3, 18))
    with switch.use("reference"):
        ours = asad.attention(query, key, torch.eye(18).expand(2, 3, 18, 18), count, noise.keys(0, torch.arange(2)))
    assert torch.equal((ours == 0).sum((-1, -2)), (seen == 0).sum((-1, -2)))


def test_peak_memory_is_that_of_a_process_of_its_own() -> None:
    small, large = (
        stepspeed.peak_memory(stepspeed.Setting("dropmae", "tiny", 64, batch, "cpu", False, 0)) for batch in (1, 64)
    )
    assert small is not None
    assert large is not None
    assert 100 < small < large


def test_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sequences: list[Sequence]) -> None:
    for sequence in sequences[:2]:
        write(tmp_path / f"{sequence.name}.mp4", list(sequence.source), fps=25)
    monkeypatch.setattr(loadspeed, "SECONDS", 0.1)
    rows = loadspeed.measure(tmp_path, 32, 1, 0)
    assert {"raw", "prepared", "prepared --frames"} <= rows.keys()
    assert rows["raw"]["times_raw"] == 1
    assert all(row["pairs_per_s"] > 0 and row["megabytes"] > 0 for row in rows.values())
    assert all(rows["prepared"][f"{stage}_ms"] > 0 for stage in ("open", "table", "frames", "crop"))
    assert rows["prepared, --repeats 4"]["open_ms"] is None
    with pytest.raises(FileNotFoundError, match="holds no video"):
        loadspeed.measure(tmp_path / "none", 32, 1, 0)


@pytest.mark.parametrize("wrong", [["--batch", "0"], ["--rounds", "0"]])
def test_impossible_settings_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *wrong]) == 2
    assert "at least 1" in capsys.readouterr().err
