"""Weights that come with the package: which of them a prompt takes, and one line where none goes by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dropmae import registry, weights
from dropmae.cli import main
from dropmae.target import read_targets
from dropmae.video import write


@pytest.fixture
def prompted(tmp_path: Path) -> list[str]:
    """The command line that follows a square through a clip, without weights."""
    frames = np.random.default_rng(0).integers(60, 120, (3, 64, 96, 3)).astype(np.uint8)
    write(tmp_path / "clip.mp4", frames, 12)
    mask = np.zeros((64, 96), np.uint8)
    mask[16:40, 20:50] = 3
    Image.fromarray(mask).save(tmp_path / "first.png")
    return ["track", str(tmp_path / "clip.mp4"), "--mask", str(tmp_path / "first.png")]


def test_a_mask_takes_the_segmenter_of_the_package(
    prompted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = registry.load("tasks", "vos")(preset="light", image=64)
    weights.save(model, tmp_path / "shipped" / "vos.safetensors", half=True)
    monkeypatch.setattr(weights, "SHIPPED", tmp_path / "shipped")
    assert main([*prompted, "--out", str(tmp_path / "out.jsonl")]) == 0
    said = capsys.readouterr().err
    assert "shipped:vos, which comes with the package" in said
    assert "3 frames with vos" in said
    (found,) = read_targets(tmp_path / "out.jsonl").values()
    assert found[2].ids.tolist() == [3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mask", "first.png"], "that come with the package go by mask: name some, --weights FILE"),
        (
            ["--box", "20", "16", "30", "24"],
            "that come with the package go by boxes: name some, --weights FILE",
        ),
        (["--points", "0,20,20"], "that come with the package go by points: name some, --weights FILE"),
    ],
)
def test_what_did_not_come_with_the_package_is_one_line(
    words: list[str],
    message: str,
    prompted: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(weights, "SHIPPED", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    assert main([*prompted[:2], *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dropmae track:")]
    assert message in line
