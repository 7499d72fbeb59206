"""GOT-10k (Huang, Zhao, Huang, PAMI 2019): one-shot tracking of 563 classes; a server keeps the test annotation."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dropmae.benchmarks._onepass import OnePass, ProtocolName, Results, timed
from dropmae.formats.boxes import (
    format_boxes,
    read_boxes,
    read_names,
    read_numbers,
    read_text,
    write_zip,
)
from dropmae.formats.tracks import Clip, Result, Track, Truth
from dropmae.metrics import boxes as bx
from dropmae.metrics import protocols
from dropmae.metrics.protocols import Protocol
from dropmae.storage import below

STEPS = np.linspace(0, 1, 101)


@dataclass(kw_only=True)
class GOT10k(OnePass):
    """Average overlap (AO) and success rates (SR) on GOT-10k, and the zip for its test server.

    Layout: <root>/{train,val,test}/{list.txt, GOT-10k_Val_000001/{*.jpg, groundtruth.txt, absence.label, cover.label,
    meta_info.ini}}; <root> can also be one split's folder. Results are <sequence>/<sequence>_001.txt, and _002, ... of
    repeated runs, with <sequence>_time.txt; or just <sequence>.txt.
    Results on the test split, of which only the first boxes are known, cannot be scored; `submission` packs them.
    """

    protocol: ProtocolName = "official"
    """Whose rules give the numbers: the toolkit's AO and SR over all visible frames but the first, pooled; or the
    success and precision curves of pytracking and OSTrack. "all" puts them side by side, the toolkit's first."""
    submission: Path | None = None
    """Write the zip that the server takes (got-10k.aitestunion.com): one folder per sequence, with the times."""

    TITLE: ClassVar[str] = "GOT-10k"
    REPETITIONS: ClassVar[int] = 9
    RULES: ClassVar[dict[str, Protocol]] = {
        "official": protocols.GOT10K_TOOLKIT,
        "pytracking": protocols.tagged(protocols.PYTRACKING, "visible"),
        "ostrack": protocols.tagged(protocols.OSTRACK, "visible"),
    }

    def clips(self, root: Path, split: str | None = None) -> list[Clip]:
        """The sequences of a split (val where none is named), in the order of its list."""
        split = split or "val"
        folder = root if (root / "list.txt").is_file() else root / split
        if not (folder / "list.txt").is_file():
            raise FileNotFoundError(f"{root}: no GOT-10k {split} split; expected <root>/{split}/list.txt")
        names = read_names(folder / "list.txt")
        return [Clip(name, folder / name, Truth(partial(read_track, folder / name), self.origin)) for name in names]

    def path(self, name: str, out: Path) -> Path:
        """<out>/<name>/<name>_001.txt; the times lie beside it."""
        return below(out, f"{name}/{name}_001.txt")

    def score(self, results: Results, annotations: Mapping[str, Track], *, map: Callable = map) -> dict[str, Any]:
        """`ao`, `sr50`, `sr75` and the success curve; writes the server's zip where it is asked for."""
        packed = {}
        if self.submission is not None:
            texts = [self.packed(name, value) for name, value in results.items()]
            write_zip(self.submission, {file: text for found in texts for file, text in found.items()})
            packed = {"submission": str(self.submission), "packed": len(results)}
        held_back = all(len(track.boxes) == 1 for track in annotations.values())
        if held_back and self.submission is None:
            raise OSError(
                "GOT-10k test: only first boxes are public, so nothing to score; submission writes the server's zip"
            )
        if held_back:
            return {"benchmark": "got10k", "protocol": "server", **packed}
        return {**super().score(results, annotations), **packed}

    def packed(self, name: str, value: Any) -> dict[str, str]:
        """The files of one sequence in the server's zip; a time of 0 says that none was kept."""
        result = self.result(name, value)
        texts = {
            f"{name}/{name}_{run:03d}.txt": format_boxes(*self.rounded(boxes))
            for run, boxes in enumerate(result.runs, 1)
        }
        seconds = np.zeros(len(result.runs[0])) if result.seconds is None else result.seconds
        columns = (
            seconds.reshape(len(result.runs[0]), -1) if len(seconds) % len(result.runs[0]) == 0 else seconds[:, None]
        )
        texts[f"{name}/{name}_time.txt"] = "".join(",".join(f"{value:.8f}" for value in row) + "\n" for row in columns)
        return texts

    def measure(self, protocol: str, results: Mapping[str, Result], tracks: Mapping[str, Track]) -> dict[str, Any]:
        if protocol != "official":
            return super().measure(protocol, results, tracks)
        rules = self.rules(protocol)
        overlaps = {
            name: np.concatenate([visible_overlaps(name, run, tracks[name]) for run in result.runs])
            for name, result in results.items()
        }
        pooled = np.concatenate(list(overlaps.values()))
        if not len(pooled):
            raise OSError("GOT-10k: no visible frame beyond the first ones, nothing to score")
        curve = bx.success_counts(pooled, STEPS) / len(pooled)
        return {
            "benchmark": "got10k",
            "protocol": protocol,
            "rules": rules.source,
            "truncated": self.truncate,
            **summary(pooled),
            "success_auc": float(curve.mean()),
            "count": len(results),
            **self.speed(results),
            "sequences": {
                name: {**summary(values), "frames": len(tracks[name].boxes)} for name, values in overlaps.items()
            },
            "attributes": {},
            "curves": {"success": curve.tolist()},
            "thresholds": {"success": STEPS.tolist()},
        }

    @staticmethod
    def speed(results: Mapping[str, Result]) -> dict[str, float]:
        """{"fps"}: the mean of 1 / t over the frames of all sequences; {} where times were not kept."""
        times = np.concatenate([timed(result) for result in results.values()])
        return {"fps": float((1 / times).mean())} if len(times) else {}

    @staticmethod
    def absent(track: Track) -> np.ndarray | None:
        """Flagged absent, or covered wholly."""
        if track.absent is None or track.cover is None:
            return track.absent
        return track.absent | (track.cover == 0)


def visible_overlaps(name: str, run: np.ndarray, track: Track) -> np.ndarray:
    """float64 [n]: overlaps of the frames that the toolkit scores, those after the first that are not covered wholly.

    Boxes of result and truth are cut to the image first (`clip_corner`). OSError where the lengths differ.
    """
    truth = track.boxes
    if len(run) != len(truth):
        raise OSError(f"{name}: {len(run)} boxes for {len(truth)} frames, which the got10k toolkit does not take")
    if track.size is None:
        raise OSError(
            f"{name}: the size of its frames is not known (meta_info.ini, or size in the JSON), and AO needs it"
        )
    run, truth = bx.clip_corner(run[1:], track.size), bx.clip_corner(truth[1:], track.size)
    overlaps = bx.iou(run, truth, eps=float(np.finfo(np.float64).eps))
    return overlaps if track.cover is None else overlaps[track.cover[1:] > 0]


def summary(overlaps: np.ndarray) -> dict[str, float | None]:
    """AO, SR at 0.50 and SR at 0.75 of the overlaps [n] of some frames; None where there is no frame."""
    if not len(overlaps):
        return {"ao": None, "sr50": None, "sr75": None}
    ao = float(overlaps.mean())
    return {
        "ao": ao if np.isfinite(ao) else None,
        "sr50": float((overlaps > 0.5).mean()),
        "sr75": float((overlaps > STEPS[75]).mean()),
    }


def read_track(folder: Path) -> Track:
    """The Track of a sequence's folder; of a test sequence only the first box is known."""
    boxes = read_boxes(folder / "groundtruth.txt")
    absence, cover = (labels(folder / f"{name}.label", len(boxes)) for name in ("absence", "cover"))
    return Track(
        boxes=boxes,
        absent=None if absence is None else absence == 1,
        cover=None if cover is None else cover.astype(np.int64),
        size=read_size(folder / "meta_info.ini"),
    )


def labels(file: Path, frames: int) -> np.ndarray | None:
    """float64 [frames] from a file of one label per line; None where there is no such file."""
    if not file.is_file():
        return None
    found = read_numbers(file)
    if len(found) != frames:
        raise OSError(f"{file}: {len(found)} labels for {frames} frames")
    return found


def read_size(file: Path) -> tuple[int, int] | None:
    """Width and height from a line "resolution: (W, H)" of a meta file; None where there is no such file or line."""
    if not file.is_file():
        return None
    match = re.search(r"^resolution\s*[:=]\s*(\(.*\))\s*$", read_text(file), re.M)
    if match is None:
        return None
    try:
        width, height = ast.literal_eval(match[1])
        return int(width), int(height)
    except (ValueError, SyntaxError, TypeError):
        raise OSError(f"{file}: resolution is not (width, height): {match[1]}") from None
