"""Frames that stay in memory: the loader's batches, bit for bit, in both forms; bad videos; too little memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dropmae import registry
from dropmae.data import resident
from dropmae.data.clips import Clips, Sequence, Share, batches
from dropmae.data.resample import unpack
from dropmae.data.resident import Held, reside
from dropmae.training.fit import Options, fit
from dropmae.verbs.pretrain import pretrain

pytestmark = pytest.mark.usefixtures("no_charts")

CPU = torch.device("cpu")


def videos(folder: Path, count: int = 5) -> list[Sequence]:
    """Videos of several lengths and sizes."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        shape = (4 + number, 40 + 8 * number, 64, 3)
        np.save(folder / f"{number}.npy", rng.integers(0, 256, shape, np.uint8))
    return [Sequence(path.name, path) for path in sorted(folder.glob("*.npy"))]


def module(name: str) -> Any:
    torch.manual_seed(0)
    return registry.load("methods", name)(size="tiny", image=64, patch=16)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("name", ["mae", "twinmae", "dropmae", "siammae"])
def test_batches_are_the_loaders_bit_for_bit(name: str, pooled: bool, tmp_path: Path) -> None:
    plain = Clips(videos(tmp_path / "v"), module(name).sample, seed=3)
    held = reside(plain, CPU, pooled)
    assert all(isinstance(s.source, Held if pooled else np.ndarray) for s in held.sequences)
    share = Share(6, 3)
    expected, found = (list(batches(clips, share, 2, 5, 0)) for clips in (plain, held))
    assert len(expected) == len(found) == 6
    for a, b in zip(expected, map(unpack, found)):
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key]


def test_a_run_goes_on_with_another_residency(tmp_path: Path) -> None:
    videos(tmp_path / "v")
    usual: dict[str, Any] = {"size": "tiny", "depth": 2, "image": 64, "patch": 16, "global_batch": 4, "workers": 0,
                             "precision": "fp32", "device": "cpu", "steps": 4}  # fmt: skip
    pretrain("twinmae", tmp_path / "v", out=tmp_path / "a", **usual)
    pretrain("twinmae", tmp_path / "v", out=tmp_path / "b", resident=True, **usual)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in "ab"
    ]
    assert losses[0] == losses[1]


def test_training_from_a_pool(tmp_path: Path) -> None:
    made = module("dropmae")
    clips = reside(Clips(videos(tmp_path / "v"), made.sample), CPU, pooled=True)
    options = Options(steps=2, global_batch=4, device="cpu", precision="fp32", workers=0)
    assert fit(made, clips, options, tmp_path / "run", save=lambda module, path: None)["steps"] == 2


def test_bad_videos_are_still_named(tmp_path: Path) -> None:
    sequences = videos(tmp_path / "v", 3)
    (tmp_path / "v" / "1.npy").write_bytes(b"\x93NUMPY")
    for pooled in (False, True):
        clips = reside(Clips(sequences, module("mae").sample), CPU, pooled)
        named = {name for i in range(6) for name, _ in clips[i]["reports"]}
        assert named == {"1.npy"}


def test_what_cannot_be_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = videos(tmp_path / "v", 2)
    clips = reside(Clips(sequences, registry.load("methods", "mgm")(size="tiny", image=32).sample), CPU, pooled=True)
    with pytest.raises(ValueError, match="no motion vectors"):
        _ = clips[0]
    monkeypatch.setattr(resident, "free", lambda device: 1000)
    with pytest.raises(ValueError, match=r"needs 0\.0 GB for the frames, and 0\.0 GB are free on cpu"):
        reside(Clips(sequences, module("mae").sample), CPU)
