"""What was begun or made before the rooms were rebuilt (b8373a1) goes on: its runs, and what weights of then find.

`fixtures/before_the_house` holds runs of 8 steps as a kill after step 4 left them, and the numbers that the code of
then gave. A `tiny` of 8 channels keeps them small. Losses are compared to 1e-4: other processors add in other orders.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import dropmae
from dropmae import registry, weights
from dropmae.nn import vit
from dropmae.target import Target, write_targets

FIXTURES = Path(__file__).parents[1] / "fixtures" / "before_the_house"
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text())
COMMON: dict[str, Any] = {
    "size": "tiny",
    "image": 32,
    "patch": 8,
    "workers": 0,
    "global_batch": 4,
    "steps": 8,
    "save_every": "4",
    "precision": "fp32",
    "device": "cpu",
    "warmup": "2",
    "lr": 0.05,
}
TRAINING: dict[str, dict[str, Any]] = {
    "mae": COMMON,
    "dropmae": COMMON,
    "vot": {
        **COMMON,
        "eliminate": (1,),
        "head_width": 8,
        "epochs": 100,
        "epoch_samples": 60_000,
        "weight_decay": 1e-4,
        "betas": (0.9, 0.999),
        "clip": 0.1,
        "schedule": "step",
        "drop": "80%",
    },
}
TRAINING["vos"] = {name: value for name, value in TRAINING["vot"].items() if name not in ("eliminate", "head_width")}


def clip(number: int, frames: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two squares that move over blocks of noise: frames uint8 [T, S, S, 3], boxes [T, 2, 4], masks uint8 [T, S, S]."""
    rng = np.random.default_rng(number)
    ground = rng.integers(60, 190, (side // 8, side // 8, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    video = np.repeat(ground[None], frames, 0)
    masks, boxes = np.zeros((frames, side, side), np.uint8), np.zeros((frames, 2, 4))
    for place in range(2):
        colours = rng.integers(0, 256, (3, 3, 3)).repeat(7, 0).repeat(7, 1)
        (x, y), (dx, dy) = rng.integers(4, side - 30, 2), rng.integers(-1, 2, 2)
        for t in range(frames):
            left, top = np.clip([x + dx * t, y + dy * t], 0, side - 21)
            video[t, top : top + 21, left : left + 21] = colours
            masks[t, top : top + 21, left : left + 21] = place + 1
            boxes[t, place] = left, top, 21, 21
    return video, boxes, masks


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with the labelled clips of then in `clips`; `tiny` has 8 channels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vit.SIZES, "tiny", vit.Shape(8, 3, 2, 8, 1, 2))
    (tmp_path / "clips").mkdir()
    targets = {}
    for number in range(4):
        video, boxes, masks = clip(number, 10, 64)
        np.save(tmp_path / "clips" / f"clip{number}.npy", video)
        told = [Target(ids=np.array([1, 2]), boxes=boxes[t], mask=masks[t]) for t in range(10)]
        targets[f"clip{number}.npy"] = dict(enumerate(told))
    write_targets(tmp_path / "clips" / "targets.jsonl", targets)
    return tmp_path


def train(name: str, out: Path, **more: Any) -> list[float]:
    """Trains, or goes on, to the end; the losses of all steps."""
    settings = {**TRAINING[name], **more}
    if name in ("mae", "dropmae"):
        dropmae.pretrain(name, "clips", out=out, **settings)
    else:
        dropmae.finetune(name, ("clips",), out=out, **settings)
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", list(TRAINING))
def test_a_run_begun_then_goes_on_as_it_would_have(name: str, here: Path) -> None:
    out = here / "run"
    shutil.copytree(FIXTURES / name, out)
    expected = EXPECTED["runs"][name]
    assert train(name, out) == pytest.approx(expected["losses"], rel=1e-4)
    last = json.loads((out / "validation.jsonl").read_text().splitlines()[-1])
    assert last == pytest.approx(expected["validation"][-1], rel=1e-4, abs=1e-6)
    assert dropmae.load(out) is not None


@pytest.mark.parametrize("name", list(TRAINING))
def test_a_new_run_learns_what_it_learned_then(name: str, here: Path) -> None:
    assert train(name, here / "run") == pytest.approx(EXPECTED["runs"][name]["losses"], rel=1e-4)


def test_another_configuration_is_still_told_apart(here: Path) -> None:
    shutil.copytree(FIXTURES / "vot", here / "run")
    with pytest.raises(ValueError, match=r"warmup was '2', now '3'"):
        train("vot", here / "run", warmup="3")


def test_weights_saved_then_are_read(here: Path) -> None:
    assert weights.read_header(FIXTURES / "dropmae" / "last.safetensors")["fields"]["patch"] == 8
    module = dropmae.load(FIXTURES / "dropmae" / "last.safetensors")
    state = FIXTURES / "dropmae" / "resume" / "state.safetensors"
    kept = load_file(state)
    for key, value in module.state_dict().items():
        assert torch.equal(value, kept[f"module.{key}"])


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 0.02), ("bf16", 3.0)])
def test_the_shipped_tracker_finds_the_same_boxes(precision: Any, tolerance: float) -> None:
    """Within 0.02 pixels in fp32. bf16 rounds to three digits, and every kind of CPU sums in an order of its own; what
    that makes adds up over frames."""
    video, boxes, _ = clip(9, 8, 96)
    boxed: Any = {"box": tuple(boxes[0].ravel()), "weights": "shipped:vot"}
    found = dict(dropmae.track(video, **boxed, precision=precision, device="cpu"))
    ours = np.stack([found[t].boxes for t in range(8)])
    assert np.abs(ours - np.array(EXPECTED["shipped"][f"vot {precision}"])).max() <= tolerance


def test_a_segmenter_of_then_finds_the_same_masks(here: Path) -> None:
    """One that has learned for four steps, with the previous frame as memory: areas and confidences of two objects."""
    cls = registry.load("tasks", "vos")
    fields = registry.renamed(cls, json.loads((FIXTURES / "vos" / "config.json").read_text())["fields"])
    model = cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()} | {"memory": 2})
    state = load_file(FIXTURES / "vos" / "resume" / "state.safetensors")
    model.load_state_dict({n.removeprefix("module."): v for n, v in state.items() if n.startswith("module.")})
    video, _, masks = clip(9, 8, 96)
    following = model.start(video[0], Target(ids=np.array([1, 2]), mask=masks[0]))
    for t, (pixels, scores) in enumerate(EXPECTED["masks"], 1):
        following, found = model.step(following, video[t])
        assert [int((found[t].mask == number).sum()) for number in (1, 2)] == pytest.approx(pixels, abs=20)
        assert found[t].scores == pytest.approx(scores, abs=1e-5)
