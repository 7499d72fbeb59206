"""A tracker's step as one graph of fixed shapes: torch.export (.pt2) or ONNX, checked against what it was made of.

input   template  uint8 [N, 3, Z, Z]   crops of the objects as they were first (`crops.cut` with `template_factor`)
        search    uint8 [N, 3, S, S]   crops around where they were last (`search_factor`)
output  boxes     float32 [N, 4]       centre x, y, width, height in shares of the search crop (`crops.from_crop`)
        scores    float32 [N]          confidence
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dropmae import weights
from dropmae.storage import mark, mark_zip, replacing
from dropmae.tasks.vot import head

TOLERANCE = 1e-4
"""How far boxes and scores of a graph may be from PyTorch's."""


class Step(nn.Module):
    """The part of `VOT.step` that a network computes."""

    def __init__(self, tracker: Any) -> None:
        super().__init__()
        if tracker.ce_template_range == "box":
            raise ValueError("a tracker with ce_template_range=box cannot be exported: the graph has no box")
        self.tracker = tracker
        self.window = head.hann(tracker.grid[0])

    def forward(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.tracker.encoder.tokens(template, 1)
        count = len(self.tracker.rows(tokens.device))
        weights = torch.full((template.shape[0], count), 1 / count, device=tokens.device)
        maps = self.tracker.respond(tokens, weights, search, self.tracker.ce_keep_ratio, None)
        return head.decode(maps, maps.score * self.window if self.tracker.window else None)


def export(tracker: Any, out: Path, objects: int = 1) -> dict[str, Any]:
    """Writes the step of a tracker for so many objects to OUT.pt2 or OUT.onnx; how far it is from PyTorch.

    ValueError where it is no tracker, or where a package for ONNX is missing; ArithmeticError where the graph computes
    something else.
    """
    if objects < 1:
        raise ValueError(f"objects must be at least 1, not {objects}")
    step = Step(tracker).eval()
    inputs = trial_crops(tracker, objects)
    with torch.no_grad():
        expected = step(*inputs)
        program = torch.export.export(step, inputs, strict=False)
    with replacing(out) as partial:
        if out.suffix == ".pt2":
            buffer = io.BytesIO()
            torch.export.save(program, buffer)
            partial.write_bytes(buffer.getvalue())
            mark_zip(partial, weights.KIND)
            found = torch.export.load(buffer).module()(*inputs)
        else:
            found = _onnx(program, inputs, partial)
        differences = [float((a - b).detach().abs().max()) for a, b in zip(expected, found)]
        if not max(differences) <= TOLERANCE:
            raise ArithmeticError(f"{out}: what was exported is {max(differences):.2g} from PyTorch's boxes: not kept")
    return {"inputs": [list(part.shape) for part in inputs], "difference": max(differences)}


def trial_crops(tracker: Any, objects: int) -> tuple[Tensor, Tensor]:
    """A template and a search crop for so many objects: two places of one picture, so that there is something to find.

    Any crops would do.
    """
    rng = np.random.default_rng(0)
    side = tracker.image
    picture = torch.from_numpy(rng.integers(0, 256, (objects, 3, 2 * side // 8, 2 * side // 8), dtype=np.uint8))
    picture = picture.repeat_interleave(8, 2).repeat_interleave(8, 3)
    return (
        picture[..., : tracker.template, : tracker.template].contiguous(),
        picture[..., :side, :side].contiguous(),
    )


def _onnx(program: Any, inputs: tuple[Tensor, Tensor], partial: Path) -> list[Tensor]:
    """Writes an ONNX file and runs it."""
    onnx, onnxruntime = needed("onnx", "onnxruntime")
    onnx.save(to_onnx(program, inputs, ["template", "search"], ["boxes", "scores"]), str(partial))
    session = onnxruntime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
    return [
        torch.from_numpy(values)
        for values in session.run(None, dict(zip(("template", "search"), map(np.asarray, inputs))))
    ]


def to_onnx(program: Any, inputs: tuple[Tensor, ...], takes: list[str], gives: list[str]) -> Any:
    """An exported program as an ONNX model, which carries our mark and tells nothing of where it was made."""
    needed("onnxscript")
    with quiet():
        made = torch.onnx.export(program, inputs, input_names=takes, output_names=gives, dynamo=True, verbose=False)
    assert made is not None
    model = made.model_proto
    model.doc_string = mark(weights.KIND)
    parts = (model.graph.node, model.graph.input, model.graph.output, model.graph.value_info, model.graph.initializer)
    for part in (model, model.graph, *(row for rows in parts for row in rows)):
        part.ClearField("metadata_props")  # among them, stack traces with the folders of this machine
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings about converters and missing packages, nothing that a user could change."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def needed(*names: str) -> list[Any]:
    """Modules of the extra `export`; ValueError where one is missing."""
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise ValueError(f"ONNX needs the package {error.name}: pip install 'dropmae[export]'") from None
