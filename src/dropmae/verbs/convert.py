"""`dropmae convert`: public checkpoints to our weight files, and back."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dropmae import registry, weights
from dropmae.contracts import Task
from dropmae.progress import say
from dropmae.storage import check_output, mark, mark_zip, replacing, replacing_files
from dropmae.weights import foreign, official
from dropmae.weights.layouts import layouts, named
from dropmae.weights.official import Image

OURS = "dropmae weights"
"""What a report calls our own files."""
FOLDERS = re.compile(r"(?<![\w./:])(?:[A-Za-z]:)?[/\\](?:[^/\\=*]+[/\\])+")
"""The folders of an absolute path."""
GRAPHS = (".pt2", ".onnx")
"""Endings of files that hold a task's step as a graph."""
EMBEDDED = "a folder of networks"
"""Kind of the folders that hold a task for use elsewhere, for their mark (`storage.mark`)."""


def convert(
    source: Path,
    out: Path,
    *,
    to: str | None = None,
    layout: str | None = None,
    entry: str | None = None,
    image: Image | None = None,
    encoder_only: bool = False,
    half: bool = False,
    objects: int = 1,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Turn a public checkpoint into a weight file of ours, any weights into a public layout, a tracker into a program.

    Reads DropMAE, MAE, CropMAE, DINO, DINOv2, MoCo-v3, CLIP, BEiT, DeiT, timm and transformers' ViT files (.pth, .pt,
    .tar, .safetensors), with or without decoder, OSTrack and DropTrack trackers, DropSeg, and our own files and run
    folders. Nothing that is pickled in a file is executed. Returns what was found and done.

    Args:
        source: a checkpoint, or a weight file or run folder of ours.
        out: the file to write; what is there is replaced once the new one is complete. OUT.onnx and OUT.pt2 (of
            torch.export) hold a tracker's step as a graph of fixed shapes, checked against PyTorch. Without an ending
            it is a folder: a tracker's networks and the loop around them, in Python and in C++ (docs/tracking.md).
        to: public layout to write: dropmae, mae, timm, dino, dinov2, cropmae, ostrack, droptrack, dropseg or another
          (docs/weights.md). Ours where it is not given.
        layout: layout of the source, where its names do not tell.
        entry: which entry of the source, where it holds several encoders (DINO's student and teacher, averages).
        image: side of the pictures in pixels, or height and width; position tables are written for it.
        encoder_only: leave the decoder out.
        half: store float16, half the size.
        objects: how many objects the graph in OUT.onnx or OUT.pt2 follows at once.
        overwrite: replace OUT even if it is the source or no result of `convert`.
    """
    source, out = Path(source), Path(out)
    target = None if to is None else named(to)
    if target is None and out.suffix in (".pth", ".pt", ".tar"):
        raise ValueError(f"{out}: weight files of ours end in .safetensors; --to writes one of {', '.join(layouts())}")
    inputs = [source, weights.locate(source)] if source.is_dir() else [source]
    folder = to is None and (not out.suffix or out.is_dir())
    if folder and (half or encoder_only or objects != 1):
        raise ValueError(
            f"{out} is a folder, with all of a task, for any number of objects: name a file, or leave "
            "--half, --encoder-only and --objects out"
        )
    check_output(out, EMBEDDED if folder else weights.KIND, inputs, overwrite=overwrite, folder=folder)
    module, report, extra = _read(source, layout, entry, image, encoder_only)
    left_out: list[str] = []
    if folder:
        files, found = module.export_folder()
        with replacing_files(out, EMBEDDED) as add:
            for name, data in files.items():
                add(name, data)
        report |= found | {"files": {name: len(data) for name, data in files.items()}}
    elif out.suffix in GRAPHS:
        if to is not None or half:
            raise ValueError(f"{out} is a graph in float32: leave --to and --half out")
        report |= module.export_step(out, objects)
    elif target is None:
        weights.save(module, out, {**extra, "by": mark(weights.KIND)}, half=half)
    else:
        tensors, left_out = official.from_module(module, target, image)
        report["notes"] += official.remarks(module, target)
        _write(tensors, out, target.entry, half)
        report["written"] = len(tensors)
    report |= {
        "to": to or ("folder" if folder else out.suffix[1:] if out.suffix in GRAPHS else OURS),
        "out": str(out),
        "bytes": sum(report["files"].values()) if folder else out.stat().st_size,
        "left_out": left_out,
    }
    _print(report)
    return report


def _read(
    source: Path, layout: str | None, entry: str | None, image: Image | None, encoder_only: bool
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The module in `source`, a report on it, and what belongs into the header of a file made of it."""
    report: dict[str, Any] = {"source": str(source)}
    if source.is_dir() or weights.is_ours(source):
        header = weights.read_header(source)
        module: Any = weights.load(source, borrow=False)
        if image is not None:
            if patch := registry.settings(module).get("patch", 0):  # convolutions alone have none
                foreign.grid_of(image, patch)
            if isinstance(module, Task):  # a task, whose position tables are learned
                module.resize_image(image)
            else:
                module.image = image
        extra = {name: without_folders(value) for name, value in header.items() if name not in weights.OWN}
        stated = extra.pop("license", None)
        if weights.locate(source).parent == weights.SHIPPED:
            stated = stated or "Apache-2.0, as the package"
        if stated:
            extra.setdefault("licence", stated)
        report |= {"layout": OURS, "class": header["name"], "unexpected": [], "notes": []}
    else:
        found = foreign.examine(source, layout, entry, image)
        module = official.to_module(found, encoder_only=encoder_only, image=image)
        extra = {
            "licence": found.layout.licence,
            "source": {"file": source.name, "layout": found.layout.name, "entry": found.entry},
            "training": found.training,
        }
        report |= {"layout": found.layout.name, "entry": found.entry, "class": found.layout.module}
        report |= {"unexpected": found.unused, "notes": found.notes}
    if encoder_only and "decoder" in dict(module.named_children()):
        module.decoder = weights.Missing("decoder", str(source))
    parts = {name: part for name, part in module.named_children() if name in ("encoder", "decoder", "head")}
    report["fields"] = registry.settings(module)
    report["missing"] = [name for name, part in parts.items() if isinstance(part, weights.Missing)]
    report["parameters"] = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    report["licence"] = extra.get("licence")
    return module, report, extra


def without_folders(value: Any) -> Any:
    """What a header says, with the last name alone of every path in it: a file that is given away names no folders."""
    if isinstance(value, Mapping):
        return {name: without_folders(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_folders(one) for one in value]
    return FOLDERS.sub("", value) if isinstance(value, str) else value


def _write(tensors: dict[str, torch.Tensor], out: Path, entry: str | None, half: bool) -> None:
    """A public file: safetensors where the name says so, else what `torch.load(weights_only=True)` reads."""
    if out.suffix == ".safetensors":
        weights.write_tensors(tensors, out, {"by": mark(weights.KIND)}, half=half)
        return
    plain = OrderedDict((name, tensor.half() if half else tensor.contiguous()) for name, tensor in tensors.items())
    with replacing(out) as partial:
        torch.save(plain if entry is None else {entry: plain}, partial)
        mark_zip(partial, weights.KIND)


def _print(report: dict[str, Any]) -> None:
    """The report for people, on stderr."""
    lines = [f"{report['source']}: {report['layout']}" + (f", under {report['entry']}" if report.get("entry") else "")]
    fields = report["fields"]
    shown = ("size", "image", "patch", "cls", "learned_positions")
    lines.append("  " + ", ".join([report["class"], *(f"{name} {fields[name]}" for name in shown if name in fields)]))
    lines += [f"  {part}: {count:,} parameters" for part, count in report["parameters"].items() if count]
    lines += [f"  missing: {part}" for part in report["missing"]]
    if report["unexpected"]:
        lines.append(f"  unexpected, not used: {weights.listed(report['unexpected'])}")
    if report["left_out"]:
        lines.append(f"  left out, no place in that layout: {weights.listed(report['left_out'])}")
    lines += [f"  {note}" for note in report["notes"]]
    lines += [f"  {name}: {size / 1e6:.2f} MB" for name, size in report.get("files", {}).items()]
    lines.append(f"  licence of the weights: {report['licence'] or 'not stated'}")
    lines.append(f"  -> {report['out']} ({report['to']}, {report['bytes'] / 1e6:.1f} MB)")
    say(*lines)
