"""A tracker to take along: two ONNX graphs, and the loop around them in Python (numpy, onnxruntime) and in C++.

template.onnx    template uint8 [N, 3, Z, Z]  ->  tokens float32 [N, M, C], once for each object
step.onnx        tokens, search uint8 [N, 3, S, S]  ->  score [N, h, w], offset and size [N, 2, h, w], as in `head.Maps`
step.int8.onnx   the same, its transformer's linear layers in 8-bit integers

N is any number of objects. The settings are the step's metadata, so that the files of `embedded/`, which are written
beside the graphs as they are, hold none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dropmae.storage import workspace
from dropmae.tasks._graph import needed, quiet, to_onnx
from dropmae.tasks.vot.export import TOLERANCE, trial_crops

FILES = ("tracker.py", "tracker.cpp", "README.md")
"""What is written as it is."""


class Template(nn.Module):
    """What is computed once for each object."""

    def __init__(self, tracker: Any) -> None:
        super().__init__()
        self.tracker = tracker

    def forward(self, template: Tensor) -> Tensor:
        return self.tracker.encoder.tokens(template, 1)


class Step(nn.Module):
    """What is computed for each frame."""

    def __init__(self, tracker: Any) -> None:
        super().__init__()
        self.tracker = tracker

    def forward(self, tokens: Tensor, search: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count = len(self.tracker.rows(tokens.device))
        weights = torch.full((tokens.shape[0], count), 1 / count, device=tokens.device)
        maps = self.tracker.respond(tokens, weights, search, self.tracker.ce_keep_ratio, None)
        return maps.score[:, 0], maps.offset, maps.size


def embed(tracker: Any, constants: Mapping[str, Iterable[float]]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files of the folder, and how far its networks' maps are from PyTorch's on some crops.

    `constants` are settings that are no fields.
    ValueError where the tracker has no such form, or where a package for ONNX is missing; ArithmeticError where a graph
    in float32 computes something else.
    """
    if tracker.ce_template_range == "box":
        raise ValueError("a tracker with ce_template_range=box cannot be embedded: its step would need the first box")
    onnxruntime, onnx, _ = needed("onnxruntime", "onnx", "onnxscript")
    template, step = Template(tracker).eval(), Step(tracker).eval()
    crops = [trial_crops(tracker, objects) for objects in (2, 3)]  # traced with two, checked with three
    with torch.no_grad(), quiet():
        tokens, expected = template(crops[0][0]), step(template(crops[1][0]), crops[1][1])
        objects = torch.export.Dim("objects", min=1)
        first = torch.export.export(template, crops[0][:1], dynamic_shapes=({0: objects},), strict=False)
        each = tokens, crops[0][1]
        later = torch.export.export(step, each, dynamic_shapes=({0: objects}, {0: objects}), strict=False)
    graphs = {
        "template.onnx": to_onnx(first, crops[0][:1], ["template"], ["tokens"]),
        "step.onnx": to_onnx(later, each, ["tokens", "search"], ["score", "offset", "size"]),
    }
    onnx.helper.set_model_props(graphs["step.onnx"], settings(tracker, constants))
    graphs["step.int8.onnx"] = to_int8(graphs["step.onnx"])
    files = {name: graph.SerializeToString() for name, graph in graphs.items()}
    sessions = {
        name: onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]) for name, data in files.items()
    }
    (found,) = sessions["template.onnx"].run(None, {"template": crops[1][0].numpy()})
    inputs = {"tokens": found, "search": crops[1][1].numpy()}
    far = {}
    for name in ("step.onnx", "step.int8.onnx"):
        maps = sessions[name].run(None, inputs)
        far[name] = max(float(np.abs(a - b.numpy()).max()) for a, b in zip(maps, expected))
    if not far["step.onnx"] <= TOLERANCE:
        raise ArithmeticError(f"what was exported is {far['step.onnx']:.2g} from PyTorch's maps: not kept")
    files |= {name: (Path(__file__).parent / "embedded" / name).read_bytes() for name in FILES}
    return files, {"difference": far["step.onnx"], "difference_int8": far["step.int8.onnx"]}


def settings(tracker: Any, constants: Mapping[str, Iterable[float]]) -> dict[str, str]:
    """What the loop needs to know of a tracker."""
    numbers = ("image", "template", "margin", "search_factor", "template_factor", "size_smoothing", "lost_below")
    return {
        **{name: repr(getattr(tracker, name)) for name in numbers},
        **{name: str(int(getattr(tracker, name))) for name in ("window", "first_frame_bias")},
        "grid": str(tracker.grid[0]),
        **{name: " ".join(repr(float(value)) for value in values) for name, values in constants.items()},
    }


def to_int8(graph: Any) -> Any:
    """The graph with its linear layers in 8-bit integers: weights with a scale for each output, stored; activations
    with one for each tensor, found while it runs (onnxruntime's dynamic quantisation).

    Weights have 7 bits, because processors without VNNI add two products in 16, which 8 bits would overflow. The patch
    embedding stays as it is: its input are pixels, and the template's tokens were made in float32.
    """
    onnx, quantization = needed("onnx", "onnxruntime.quantization")
    linear = [node.name for node in graph.graph.node if node.op_type in ("MatMul", "Gemm")]
    with workspace("embed") as folder, quiet():
        quantization.quantize_dynamic(
            graph,
            folder / "int8.onnx",
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=linear[:1],  # the patch embedding comes first
            per_channel=True,
            reduce_range=True,
        )
        return onnx.load(str(folder / "int8.onnx"))
