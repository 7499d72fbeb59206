"""NanoTrack (Apache-2.0) as a row of tables, by onnxruntime on one thread: a Siamese tracker of phones.

What it does is its published description and settings: a template of 127 and a search crop of 255 pixels around the box
with half its mean side as context on each side, padded with the mean colour; a map of scores and of distances to the
sides, stride 16; SiamRPN's penalty, window and damped sizes. Needs onnx and onnxruntime (the extra `export`), OpenCV
(`bench`), and the two files of a version, nanotrack_backbone.onnx and nanotrack_head.onnx.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnx
import onnxruntime

from dropmae.contracts import Task
from dropmae.target import Target

TEMPLATE, SEARCH, STRIDE = 127, 255, 16


class Settings(NamedTuple):
    grid: int
    window: float
    penalty: float
    rate: float


SETTINGS = {"v2": Settings(16, 0.490, 0.150, 0.385), "v3": Settings(15, 0.455, 0.138, 0.348)}


@dataclass
class State:
    index: int
    ids: np.ndarray
    centre: np.ndarray
    size: np.ndarray
    colour: tuple[float, ...]
    template: np.ndarray


def session(path: Path, any_size: bool) -> Any:
    model = onnx.load(path)
    if any_size:  # the backbone sees both crops
        for value in [*model.graph.input, *model.graph.output]:
            for axis in (2, 3):
                value.type.tensor_type.shape.dim[axis].dim_param = "side"
        del model.graph.value_info[:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class NanoTrack(Task):
    """The files in `folder`, whose name, v2 or v3, says which settings are theirs."""

    takes = ("boxes",)
    gives = ("boxes",)

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.settings = SETTINGS[folder.name]
        self.backbone = session(folder / "nanotrack_backbone.onnx", True)
        self.heads = session(folder / "nanotrack_head.onnx", False)
        n = self.settings.grid
        self.hann = np.outer(np.hanning(n), np.hanning(n)).ravel()
        steps = (np.arange(n) - n // 2) * float(STRIDE)
        self.x, self.y = (axis.ravel() for axis in np.meshgrid(steps, steps))

    def start(self, frame: np.ndarray, target: Target) -> State:
        box = target.box()
        colour = tuple(float(np.floor(value)) for value in frame.mean((0, 1)))
        state = State(0, target.ids, box[:2] + (box[2:] - 1) / 2, box[2:].copy(), colour, np.zeros(0))
        state.template = self.features(frame, state, context(*box[2:]), TEMPLATE)
        return state

    def features(self, frame: np.ndarray, state: State, side: float, out: int) -> np.ndarray:
        """Of a square crop of this side around the last centre, in blue, green, red."""
        whole = max(2, round(side))
        left, top = (int(np.floor(value - (whole + 1) / 2 + 0.5)) for value in state.centre)
        patch = np.empty((whole, whole, 3), np.uint8)
        patch[:] = state.colour
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + whole, frame.shape[1]), min(top + whole, frame.shape[0])
        if x1 > x0 and y1 > y0:
            patch[y0 - top : y1 - top, x0 - left : x1 - left] = frame[y0:y1, x0:x1]
        made = cv2.resize(patch[..., ::-1], (out, out)).transpose(2, 0, 1)[None].astype(np.float32)
        return self.backbone.run(None, {self.backbone.get_inputs()[0].name: made})[0]

    def step(self, state: State, frame: np.ndarray, prompt: None = None) -> Any:
        side, rules = context(*state.size), self.settings
        scale = TEMPLATE / side
        found = self.features(frame, state, side * SEARCH / TEMPLATE, SEARCH)
        first, second = (value.name for value in self.heads.get_inputs())
        logits, sides = self.heads.run(None, {first: state.template, second: found})
        logits, sides = logits.reshape(2, -1), sides.reshape(4, -1)
        score = 1 / (1 + np.exp(logits[0] - logits[1]))
        x0, y0, x1, y1 = self.x - sides[0], self.y - sides[1], self.x + sides[2], self.y + sides[3]
        w, h = x1 - x0, y1 - y0
        change = worse(context(w, h) / context(*(state.size * scale)))
        penalty = np.exp(-rules.penalty * (change * worse(state.size[0] / state.size[1] / (w / h)) - 1))
        best = int(np.argmax(penalty * score * (1 - rules.window) + self.hann * rules.window))
        rate = float(penalty[best] * score[best] * rules.rate)
        limits = np.array(frame.shape[1::-1], np.float64)
        centre = state.centre + np.array([x0[best] + x1[best], y0[best] + y1[best]]) / 2 / scale
        size = state.size * (1 - rate) + np.array([w[best], h[best]]) / scale * rate
        centre, size = np.clip(centre, 0, limits), np.clip(size, 10, limits)
        state = dataclasses.replace(state, index=state.index + 1, centre=centre, size=size)
        box = np.concatenate([centre - size / 2, size])[None]
        return state, {state.index: Target(ids=state.ids, boxes=box, scores=np.array([float(score[best])]))}


def context(w: Any, h: Any) -> Any:
    """Side of the template's crop around a box."""
    return np.sqrt((w + (w + h) / 2) * (h + (w + h) / 2))


def worse(value: Any) -> Any:
    return np.maximum(value, 1 / value)
