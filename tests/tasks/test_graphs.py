"""Flow and points as graphs: what onnxruntime and torch.export make of a file is what the task answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dropmae import weights
from dropmae.target import Target
from dropmae.tasks.flow import Flow
from dropmae.tasks.tap import TAP
from dropmae.tasks.tap.export import STATE
from dropmae.verbs.convert import convert

SIDE, COUNT = 64, 5


def picture(seed: int = 0) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 256, (SIDE // 8 + 1, SIDE // 8 + 1, 3), np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Writes a task as a graph and returns a function of named arrays to a list of arrays."""

    def run_(task: Any, ending: str, **more: Any) -> Any:
        weights.save(task, tmp_path / "w.safetensors", {})
        out = tmp_path / f"w{ending}"
        report = convert(tmp_path / "w.safetensors", out, **more)
        assert report["difference"] < 0.02
        if ending == ".pt2":
            program = torch.export.load(out).module()
            return lambda **given: [part.detach().numpy() for part in program(*map(torch.from_numpy, given.values()))]
        onnxruntime = pytest.importorskip("onnxruntime", reason="an ONNX graph runs in onnxruntime")
        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
        return lambda **given: session.run(None, given)

    return run_


def ending(name: str) -> Any:
    if name == ".onnx":
        pytest.importorskip("onnxscript", reason="writing ONNX files needs onnxscript")
    return name


@pytest.mark.parametrize("name", [".onnx", ".pt2"])
def test_flow(run: Any, name: str) -> None:
    torch.manual_seed(0)
    task = Flow(preset="tiny", looks=(1, 1, 1), polish=1, halves=0, fit_rounds=0).eval()
    graph = run(task, ending(name), image=(SIDE, SIDE + 16))
    wide = np.concatenate([picture(), picture(1)], 1)
    first, second = wide[:SIDE, 3 : 3 + SIDE + 16], wide[:SIDE, : SIDE + 16]
    flow, occluded, confidence = graph(
        first=np.ascontiguousarray(first.transpose(2, 0, 1)[None]),
        second=np.ascontiguousarray(second.transpose(2, 0, 1)[None]),
    )
    own = task.between(first, second)
    assert own.flow is not None
    assert own.flow_confidence is not None
    np.testing.assert_allclose(flow.transpose(1, 2, 0), own.flow, atol=1e-3)
    np.testing.assert_array_equal(occluded > 0.5, own.occluded)
    np.testing.assert_allclose(confidence, own.flow_confidence, atol=1e-4)


@pytest.mark.parametrize("name", [".onnx", ".pt2"])
def test_points_for_three_frames_of_which_some_begin_late(run: Any, name: str) -> None:
    torch.manual_seed(0)
    task = TAP(channels=16, hidden=24, radius=2, image=SIDE, resolution=SIDE, fit_within=0).eval()
    graph = run(task, ending(name), image=SIDE, objects=COUNT)
    frames = [picture()[k : k + SIDE, k : k + SIDE] for k in range(3)]
    asked = np.random.default_rng(1).uniform(8, SIDE - 8, (COUNT, 2)).astype(np.float32)
    late = np.array([False, False, True, False, True])
    shapes = {"places": 2, "speed": 2, "memory": 24, **{n: 16 for n in STATE if n[:3] in ("own", "lat")}}
    known = {n: np.zeros((1, COUNT, shapes[n]) if n in shapes else (1, COUNT), np.float32) for n in STATE}
    found = []
    for number, frame in enumerate(frames):
        fresh = (late if number == 1 else ~late if number == 0 else np.zeros(COUNT, bool))[None]
        shown = np.ascontiguousarray(frame.transpose(2, 0, 1)[None])
        *rest, _ = graph(frame=shown, fresh=fresh, asked=asked[None], **known)
        known = dict(zip(STATE, rest, strict=True))
        found.append(known["places"][0])
    state = task.start(frames[0], Target(ids=np.zeros(0, np.int64), points=np.where(late[:, None], np.nan, asked)))
    begin = Target(ids=np.zeros(0, np.int64), points=np.where(late[:, None], asked, np.nan))
    state, one = task.step(state, frames[1], begin)
    state, two = task.step(state, frames[2])
    assert one[1].points is not None
    assert two[2].points is not None
    np.testing.assert_allclose(found[1], one[1].points, atol=1e-2)
    np.testing.assert_allclose(found[2], two[2].points, atol=1e-2)


def test_what_makes_no_sense_is_one_line(tmp_path: Path) -> None:
    weights.save(Flow(preset="tiny"), tmp_path / "f.safetensors", {})
    with pytest.raises(ValueError, match="flow has no objects"):
        convert(tmp_path / "f.safetensors", tmp_path / "f.pt2", objects=2)
    with pytest.raises(ValueError, match="multiples of 16"):
        convert(tmp_path / "f.safetensors", tmp_path / "f.pt2", image=(60, 64))
    weights.save(TAP(channels=16, hidden=24, radius=2), tmp_path / "t.safetensors", {})
    with pytest.raises(ValueError, match="square"):
        convert(tmp_path / "t.safetensors", tmp_path / "t.pt2", image=(64, 96))
    with pytest.raises(ValueError, match="objects must be at least 1"):
        convert(tmp_path / "t.safetensors", tmp_path / "t.pt2", objects=0)
