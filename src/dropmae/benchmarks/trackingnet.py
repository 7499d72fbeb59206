"""TrackingNet (Müller et al., ECCV 2018): 30,000 videos; the annotation of the test set is kept by a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dropmae.benchmarks._onepass import OnePass, ProtocolName, Results
from dropmae.formats.boxes import format_boxes, read_boxes, write_zip
from dropmae.formats.tracks import Clip, Result, Track, Truth
from dropmae.metrics import protocols
from dropmae.metrics.protocols import Protocol


@dataclass(kw_only=True)
class TrackingNet(OnePass):
    """Success, precision and normalised precision on TrackingNet, and the zip for its server.

    Layout: <root>/{TRAIN_0 .. TRAIN_11, TEST}/{frames/<video>/<number>.jpg, anno/<video>.txt}. The devkit, and the
    server, round every coordinate, count overlaps at or above a threshold, and report areas: `precision` is the area
    under 0 to 50 pixels, not the value at 20 (which is `precision_20`).
    Results of the public test set, of which only the first boxes are known, cannot be scored; `submission` packs them.
    """

    protocol: ProtocolName = "official"
    """Whose rules give the numbers. "all" puts them side by side, with the devkit's as the headline."""
    submission: Path | None = None
    """Write the zip that the server takes (eval.ai, challenge 1805): <video>.txt at its root."""

    TITLE: ClassVar[str] = "TrackingNet"
    DECIMALS: ClassVar[int] = 2
    RULES: ClassVar[dict[str, Protocol]] = {
        "official": protocols.TRACKINGNET,
        "pytracking": protocols.PYTRACKING,
        "ostrack": protocols.OSTRACK,
    }

    def clips(self, root: Path, split: str | None = None) -> list[Clip]:
        """The test videos; "train" are all parts, "TRAIN_3" is one of them."""
        split = (split or "test").upper()
        parts = [f"TRAIN_{part}" for part in range(12)] if split == "TRAIN" else [split]
        files = [file for part in parts for file in sorted((root / part / "anno").glob("*.txt"))]
        if not files:
            raise FileNotFoundError(f"{root}: no TrackingNet videos; expected <root>/{parts[0]}/anno/*.txt and frames/")
        return [
            Clip(file.stem, file.parent.parent / "frames" / file.stem, Truth(partial(read_track, file), self.origin))
            for file in files
        ]

    def read(self, results: Path, annotations: Mapping[str, Track]) -> dict[str, Result]:
        """As for the others; under `partial`, a video without results gets boxes of zeros, as the server does it."""
        found = super().read(results, annotations)
        lacking = {
            name: Result(runs=[np.zeros_like(annotations[name].boxes)]) for name in annotations if name not in found
        }
        return {**found, **lacking}

    def score(self, results: Results, annotations: Mapping[str, Track], *, map: Callable = map) -> dict[str, Any]:
        """As for the others, with `coverage`: the share of frames with a box. Writes the zip where it is asked for."""
        packed = {}
        if self.submission is not None:
            packed = {"submission": str(self.submission), "packed": len(results)}
            write_zip(self.submission, {f"{name}.txt": self.packed(name, value) for name, value in results.items()})
        held_back = all(len(track.boxes) == 1 for track in annotations.values())
        if held_back and self.submission is None:
            raise OSError(
                "TrackingNet: only first boxes are public, so nothing to score; submission writes the server's zip"
            )
        if held_back:
            return {"benchmark": "trackingnet", "protocol": "server", **packed}
        return {**super().score(results, annotations), **packed}

    def packed(self, name: str, value: Any) -> str:
        """One video's boxes as the server takes them."""
        return format_boxes(*self.rounded(self.result(name, value).runs[0]))

    def measure(self, protocol: str, results: Mapping[str, Result], tracks: Mapping[str, Track]) -> dict[str, Any]:
        report = super().measure(protocol, results, tracks)
        if protocol == "official":
            report["coverage"] = coverage(results, tracks)
        return report


def coverage(results: Mapping[str, Result], tracks: Mapping[str, Track]) -> float:
    """Share of all frames whose rounded box, the first one being the truth's, has x + y + w + h above 0."""
    covered, frames = 0, 0
    for name, result in results.items():
        truth = tracks[name].boxes
        for run in result.runs:
            boxes = np.round(run[: len(truth)])
            boxes[0] = np.round(truth[0])
            covered, frames = covered + int((boxes.sum(1) > 0).sum()), frames + len(truth)
    return covered / frames


def read_track(file: Path) -> Track:
    return Track(boxes=read_boxes(file))
