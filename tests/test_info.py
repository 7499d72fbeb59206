"""The verbs `info` and `convert` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dropmae import registry, weights
from dropmae.cli import main
from dropmae.verbs.info import info
from official_files import (
    put,
    tiny_classifier,
    tiny_mae,
)


@pytest.fixture
def module() -> Any:
    return registry.load("methods", "dropmae")(size="tiny", image=64).eval()


@pytest.fixture
def ours(module: Any, tmp_path: Path) -> Path:
    weights.save(module, tmp_path / "w.safetensors", {"training": {"steps": 7}})
    return tmp_path / "w.safetensors"


def test_info_says_what_a_file_is(module: Any, ours: Path, tmp_path: Path) -> None:
    found = info(ours)
    assert (found["kind"], found["class"], found["precision"]) == ("weights", "dropmae", "F32")
    assert found["parameters"]["encoder"] == sum(p.numel() for p in module.encoder.parameters())
    assert found["training"] == {"steps": 7}
    found = info(put({"model": tiny_mae(), "epoch": 3}, tmp_path / "x.pth"))
    assert (found["kind"], found["layout"], found["entry"], found["grid"]) == ("checkpoint", "mae", "model", [4, 4])
    assert found["training"] == {"epoch": 3}
    found = info(put({"a": {"b": torch.zeros(3)}}, tmp_path / "x.pth"))
    assert (found["layout"], found["entries"]) == (None, {"a": 3})
    assert "no encoder" in found["obstacle"]
    json.dumps(found, allow_nan=False)


def test_info_says_what_a_folder_is(module: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"method": "dropmae", "fields": {"size": "tiny"}}))
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo')
    weights.save(module, run / "last.safetensors")
    found = info(run)
    assert (found["kind"], found["method"], found["last"]) == ("run", "dropmae", {"step": 2, "loss": 1.5})
    assert found["weights"]["class"] == "dropmae"
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("a", "b"):
        np.save(videos / f"{name}.npy", np.zeros((4, 24, 32, 3), np.uint8))
    found = info(videos / "a.npy")
    assert (found["kind"], found["frames"], found["height"], found["width"]) == ("video", 4, 24, 32)
    (videos / "c.mp4").write_text("no video")
    found = info(videos)
    assert (found["kind"], found["videos"], len(found["probed"])) == ("folder", 3, 2)
    assert list(found["unreadable"]) == ["c.mp4"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no run, video or frames"):
        info(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no such file"):
        info(tmp_path / "nothing")


def test_convert_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = put(tiny_classifier((2, 6)), tmp_path / "x.pth"), tmp_path / "x.safetensors"
    assert main(["convert", str(path), str(out)]) == 2
    assert main(["convert", str(path), str(out), "--image", "32", "96", "--half", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["fields"]["image"] == [32, 96]
    assert "licence of the weights: DINO: Apache-2.0" in printed.err
    before = out.read_bytes()
    path.write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    assert main(["convert", str(path), str(out)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "refused" in error
    assert out.read_bytes() == before
