"""`dropmae info`: what a file or folder is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from dropmae import weights
from dropmae.opening import open_file
from dropmae.progress import say
from dropmae.video import Video, find
from dropmae.video.scans import scan_files
from dropmae.video.table import gaps, told
from dropmae.weights import foreign

PROBED = 8
"""Videos of a folder that are opened; the others are counted."""
SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
"""Suffixes under which weights are kept, whatever the first bytes are."""


def info(path: Path) -> dict[str, Any]:
    """Say what a weight file, public checkpoint, run, video, folder of scans or folder of videos holds.

    Nothing that is pickled in a file is executed. Returns what is printed.

    Args:
        path: a file or folder.
    """
    path = Path(path)
    if path.is_dir():
        found = _run(path) if (path / "config.json").is_file() else _folder(path)
    elif not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    else:
        found = _weights(path) if _is_weights(path) else _video(path)
    found = {"path": str(path), **found}
    say(*_lines(found))
    return found


def _is_weights(path: Path) -> bool:
    with open_file(path) as file:
        start = file.read(9)
    return start[:2] == b"PK" or start[8:] == b"{" or start[:1] == b"\x80" or path.suffix.lower() in SUFFIXES


def _weights(path: Path) -> dict[str, Any]:
    size = {"bytes": path.stat().st_size}
    if not weights.is_ours(path):
        return {**_checkpoint(path), **size}
    header = weights.read_header(path)
    parts: dict[str, int] = dict.fromkeys(header["parts"], 0)
    for name, shape in weights.read_shapes(path).items():
        part = name.split(".", 1)[0]
        parts[part] = parts.get(part, 0) + math.prod(shape)
    extra = {name: value for name, value in header.items() if name not in weights.OWN}
    return {
        "kind": "weights",
        "class": header["name"],
        "fields": header["fields"],
        "parameters": parts,
        "precision": weights.precision(path),
        "version": header["version"],
        **extra,
        **size,
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    """A public checkpoint; where it is of no known layout, what it holds and why it cannot be converted."""
    entries = foreign.contents(path)
    try:
        found = foreign.examine(path)
    except ValueError as error:
        return {"kind": "checkpoint", "layout": None, "entries": entries, "obstacle": str(error)}
    described = {
        "kind": "checkpoint",
        "layout": found.layout.name,
        "about": found.layout.about,
        "entry": found.entry,
        "entries": entries,
        "class": found.layout.module,
        "size": found.size,
        "patch": found.patch,
        "grid": list(found.grid),
        "cls": found.cls,
        "learned_positions": found.learned,
        "parts": found.parts,
        "unused": found.unused,
        "licence": found.layout.licence,
        "training": found.training,
    }
    if found.strange:
        described["obstacle"] = f"its encoder also has {weights.listed(found.strange)}"
    return described


def _run(path: Path) -> dict[str, Any]:
    """A run folder: its configuration, how far it is, and its weights."""
    try:
        config = json.loads((path / "config.json").read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise OSError(f"{path / 'config.json'} is not readable ({error})") from error
    found = {"kind": "run", **(config if isinstance(config, dict) else {})}
    metrics = path / "metrics.jsonl"
    if metrics.is_file() and (last := _last_line(metrics)) is not None:
        found["last"] = last
    if (path / weights.LAST).is_file():
        held = _weights(path / weights.LAST)
        found["weights"] = {name: held[name] for name in ("class", "parameters", "precision", "bytes") if name in held}
    return found


def _last_line(path: Path) -> Any:
    """The last complete line of a JSON-lines file; None where there is none."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        lines = file.read().split(b"\n")[:-1]
    try:
        return json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError as error:
        raise OSError(f"{path}: its last line is not JSON ({error})") from error


def _folder(path: Path) -> dict[str, Any]:
    """A folder of videos, of which a few are opened; a folder of images, or of scans, is itself a video."""
    if scan_files(str(path)):
        return _scans(path)
    videos = find(path)
    if videos == [path]:
        return _video(path)
    if not videos:
        raise FileNotFoundError(f"{path}: holds no run, video or frames")
    step = max(1, len(videos) // PROBED)
    probed, bad = [], {}
    for video in videos[::step][:PROBED]:
        try:
            probed.append({"video": str(video.relative_to(path)), **_measures(video)})
        except OSError as error:
            bad[str(video.relative_to(path))] = str(error)
    return {"kind": "folder", "videos": len(videos), "probed": probed, "unreadable": bad}


def _video(path: Path) -> dict[str, Any]:
    return {"kind": "video", **_measures(path)}


def _scans(path: Path) -> dict[str, Any]:
    """Scans, of which a few are read."""
    video = Video(path)
    some = video.read(sorted({int(place) for place in np.linspace(0, len(video) - 1, PROBED)}))
    known = np.concatenate([scan[np.isfinite(scan[:, :3]).all(1), :3] for scan in some])
    points = float(np.mean([len(scan) for scan in some]))
    told = {"kind": "scans", "frames": len(video), "columns": some[0].shape[1], "points": points}
    for axis, values in zip("xyz", known.T if len(known) else ()):
        told[f"{axis}_metres"] = [round(float(end), 2) for end in (values.min(), values.max())]
    return told


def _measures(path: Path) -> dict[str, Any]:
    with Video(path) as video:
        frames, height, width, _ = video.shape
        fps, details = float(video.fps), video.details()
        last = float(video.times[-1]) + (1 / fps if fps else 0)
        details |= {"gaps": words} if video.stamped and (words := told(gaps(video.times))) else {}
    return {"frames": frames, "width": width, "height": height, "fps": fps, "seconds": last, **details}


def _lines(found: dict[str, Any], indent: str = "") -> list[str]:
    """What was found as lines for people, nested values further in."""
    lines = []
    for name, value in found.items():
        title = f"{indent}{name.replace('_', ' ')}"
        if isinstance(value, dict) and value:
            lines += [title, *_lines(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [title]
            for item in value:
                lines.append(f"{indent}  " + ", ".join(f"{key} {_shown(part)}" for key, part in item.items()))
        elif value not in (None, "", [], {}):
            lines.append(f"{title}: {_shown(value)}")
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float, list)):
        return str(value)
    if isinstance(value, list):
        return ", ".join(map(str, value[:8])) + (f" and {len(value) - 8} more" if len(value) > 8 else "")
    return str(value) if isinstance(value, int) else f"{value:.5g}"
