"""A task's step as one graph of fixed shapes: torch.export (.pt2) or ONNX, checked against what it was made of."""

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


def export(step: nn.Module, inputs: dict[str, Tensor], gives: list[str], out: Path, tolerance: float) -> dict[str, Any]:
    """Writes what `step` computes of the named `inputs` to OUT.pt2 or OUT.onnx; how far it is from PyTorch.

    ValueError where a package for ONNX is missing; ArithmeticError where the graph computes something else than a
    tensor for each name of `gives`, as PyTorch computes it to within `tolerance`.
    """
    step, given = step.eval(), tuple(value.clone() for value in inputs.values())  # one tensor twice would be one input
    with torch.no_grad():
        expected = step(*given)
        program = torch.export.export(step, given, strict=False)
    with replacing(out) as partial:
        if out.suffix == ".pt2":
            buffer = io.BytesIO()
            torch.export.save(program, buffer)
            partial.write_bytes(buffer.getvalue())
            mark_zip(partial, weights.KIND)
            with torch.no_grad():
                found = torch.export.load(buffer).module()(*given)
        else:
            onnx, onnxruntime = needed("onnx", "onnxruntime")
            onnx.save(to_onnx(program, given, list(inputs), gives), str(partial))
            session = onnxruntime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
            told = {name: np.asarray(value) for name, value in inputs.items()}
            found = [torch.from_numpy(values) for values in session.run(None, told)]
        differences = [float((a - b).detach().abs().max()) for a, b in zip(expected, found, strict=True)]
        if not max(differences) <= tolerance:
            raise ArithmeticError(
                f"{out}: what was exported is {max(differences):.2g} from what PyTorch computes: not kept"
            )
    return {"inputs": [list(part.shape) for part in given], "difference": max(differences)}


def blocks(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """uint8 [..., H, W]: a picture to try a graph on, of random blocks of 8 pixels."""
    sides = shape[-2:]
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (*shape[:-2], *(-(-side // 8) for side in sides)), dtype=np.uint8)
    picture = torch.from_numpy(coarse).repeat_interleave(8, -2).repeat_interleave(8, -1)
    return picture[..., : sides[0], : sides[1]].contiguous()


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
