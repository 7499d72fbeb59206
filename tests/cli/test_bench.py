"""The bench: every method beside the textbook form, which drops what ours drops."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from dropmae import registry
from dropmae.cli import main
from dropmae.data.clips import Sequence
from dropmae.ops import asad, noise, switch
from dropmae.speed import loadspeed, stepspeed
from dropmae.speed.stepspeed import TEXTBOOK, textbook
from dropmae.speed.taskspeed import scene
from dropmae.training.distributed import supports_bf16
from dropmae.verbs.bench import LOADING_COLUMNS, NEED_COLUMNS, SCALE_COLUMNS, table
from dropmae.verbs.prepare import prepare
from dropmae.video import Video, write

NEEDS = [name for name, _ in NEED_COLUMNS.values()]


def test_every_method_and_form_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--size", "tiny", "--image", "64", "--batch", "2", "--rounds", "1", "--device", "cpu"]
    beside = {f"{TEXTBOOK}, fp32"} if supports_bf16(torch.device("cpu")) else set()
    assert main([*words, "--no-memory", "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    forms = {"dropmae, torch ops", "dropmae, reference ops"}
    assert set(result["steps"]) == {*registry.names("methods"), *forms, TEXTBOOK, *beside}
    assert result["steps"]["twinmae"]["times_twinmae"] == result["steps"]["dropmae"]["times_dropmae"] == 1
    for row in result["steps"].values():
        assert row["seconds"] > 0
        assert 0 < row["utilisation"] < 2
        assert row["gigaflop_per_sample"] > 0
        assert row["peak_memory_mb"] is None
    assert all(result["steps"][name]["precision"] == "fp32" for name in beside)
    assert set(result["attention"]) == {"plain", "plain, PyTorch's", *switch.FORMS, "textbook"}
    assert {"date", "device", "torch", "commit"} <= result["setting"].keys()
    assert "a training step" in printed.err
    assert_it_fits(printed.err, {"dropmae, reference ops", *beside})


def assert_it_fits(tables: str, names: set[str]) -> None:
    """Nothing in tables for 80 columns is broken into two lines or cut off."""
    assert "…" not in tables
    rows = [line.strip() for line in tables.splitlines() if line.strip() and set(line.strip()) != {"─"}]
    assert all(len(line) <= 80 for line in rows)
    for name in names:
        assert sum(line.startswith(f"{name} ") for line in rows) == 1
        assert next(line for line in rows if line.startswith(f"{name} ")).split()[-1] == "%"


def test_wide_numbers_fit_too(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=80)
    longest = {"prepared, --repeats 4": {name: 345.6 for name, _ in LOADING_COLUMNS.values()}}
    table(console, "loading", longest, LOADING_COLUMNS)
    scale = {name: 0.123 for name, _ in SCALE_COLUMNS.values()} | {"samples_per_s": 123456, "gpu_hours": 12345}
    table(console, "scale", {"128 x 8": scale}, SCALE_COLUMNS)
    table(console, "need", {"128 x 8": dict.fromkeys(NEEDS, 1234.5)}, NEED_COLUMNS)
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert (
        len([line for line in printed.splitlines() if line.strip().startswith(("prepared, --repeats 4 ", "128 x 8 "))])
        == 3
    )
    assert printed.count("1234.50") + printed.count("12345") >= 3


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
        step()
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
        stepspeed.peak_memory(stepspeed.Setting("dropmae", "tiny", 64, batch, "cpu", False, 0)) for batch in (1, 16)
    )
    assert small is not None
    assert large is not None
    assert 100 < small < large


def test_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sequences: list[Sequence]) -> None:
    for sequence in sequences[:2]:
        write(tmp_path / f"{sequence.name}.mp4", list(sequence.source), fps=25)
    monkeypatch.setattr(loadspeed, "SECONDS", 0.1)
    rows = loadspeed.measure(tmp_path, 32, 1, 0, prepare)
    assert {"raw", "prepared", "prepared --frames"} <= rows.keys()
    assert rows["raw"]["times_raw"] == 1
    assert all(row["pairs_per_s"] > 0 and row["megabytes"] > 0 for row in rows.values())
    assert all(rows["prepared"][f"{stage}_ms"] > 0 for stage in ("open", "table", "frames", "crop"))
    assert rows["prepared, --repeats 4"]["open_ms"] is None
    with pytest.raises(FileNotFoundError, match="holds no video"):
        loadspeed.measure(tmp_path / "none", 32, 1, 0, prepare)


def test_what_decord_cannot_read_is_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sequences: list[Sequence], capsys: pytest.CaptureFixture[str]
) -> None:
    """With a stand-in for decord, which need not be installed; it refuses one file as decord refuses some."""

    class Reader:
        def __init__(self, path: str, num_threads: int, ctx: object) -> None:
            if "strange" in path:
                raise RuntimeError("[00:00:00] src/video/video_reader.cc:151: Check failed\n\nStack trace:\n  [bt] (0)")
            self.video = Video(path)

        def __len__(self) -> int:
            return len(self.video)

        def get_batch(self, numbers: list[int]) -> SimpleNamespace:
            return SimpleNamespace(asnumpy=lambda: self.video[numbers])

    stand_in = ModuleType("decord")
    stand_in.__spec__ = ModuleSpec("decord", None)
    vars(stand_in).update(VideoReader=Reader, cpu=lambda number: number)
    monkeypatch.setitem(sys.modules, "decord", stand_in)
    monkeypatch.setattr(loadspeed, "SECONDS", 0.1)
    for sequence, name in zip(sequences[:2], ("plain", "strange")):
        write(tmp_path / f"{name}.mp4", list(sequence.source), fps=25)
    rows = loadspeed.measure(tmp_path, 32, 1, 0, prepare)
    assert rows["raw, decord recipe"]["times_decord"] == 1
    assert rows["raw"]["times_decord"] > 0
    told = capsys.readouterr().err
    assert "left out for all, as decord cannot read it: strange.mp4\n" in told
    assert "video_reader.cc" not in told
    (tmp_path / "plain.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="holds no video"):
        loadspeed.measure(tmp_path, 32, 1, 0, prepare)


@pytest.mark.parametrize("wrong", [["--batch", "0"], ["--rounds", "0"]])
def test_impossible_settings_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *wrong]) == 2
    assert "at least 1" in capsys.readouterr().err


def test_more_objects_than_a_byte_can_number() -> None:
    """255 in eight bits is no object but what is not known; 256 did not fit at all."""
    for count in (254, 255, 300):
        clip, prompt = scene((96, 128), 2, count)
        assert clip[0].shape == (96, 128, 3)
        assert prompt.mask is not None
        assert prompt.points is not None
        assert prompt.mask.max() == count
        assert len(prompt.points) == count
        assert set(prompt.ids) == set(np.unique(prompt.mask)) - {0}
