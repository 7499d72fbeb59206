"""Paths of points as arrays."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dropmae.contracts import Export
from dropmae.contracts.exports import Add
from dropmae.engine import Answer
from dropmae.storage import mark_zip, replacing


@dataclass(kw_only=True)
class NPZ(Export):
    """NumPy arrays: `frames` [T], `points` [T, M, 2] (x, y in pixels, NaN where unknown), `visible` [T, M].

    Where the task tells, `uncertainty` [T, M] in pixels, too.
    """

    suffixes = (".npz",)
    needs = ("points",)

    @contextlib.contextmanager
    def open(self, out: Path, video: Any, doubtful_below: float | None) -> Iterator[Add]:
        rows: list[tuple[int, Any, Any, Any]] = []

        def add(answer: Answer) -> None:
            one = answer.target
            if one.points is not None:
                points = np.asarray(one.points, np.float32)
                seen = np.isfinite(points[:, 0]) if one.visible is None else np.asarray(one.visible, bool)
                doubt = None if one.uncertainty is None else np.asarray(one.uncertainty, np.float32)
                rows.append((answer.frame, points, seen, doubt))

        with replacing(out) as partial:
            yield add
            arrays: dict[str, np.ndarray] = {"frames": np.array([row[0] for row in rows], np.int64)}
            arrays["points"] = np.stack([row[1] for row in rows]) if rows else np.zeros((0, 0, 2), np.float32)
            arrays["visible"] = np.stack([row[2] for row in rows]) if rows else np.zeros((0, 0), bool)
            if any(row[3] is not None for row in rows):
                told = [np.where(np.isfinite(row[1][:, 0]), np.float32(0), np.float32(np.nan)) for row in rows]
                doubts = [certain if row[3] is None else row[3] for row, certain in zip(rows, told)]
                arrays["uncertainty"] = np.stack(doubts)  # what was told is certain
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                        np.lib.format.write_array(stream, array, allow_pickle=False)
            mark_zip(partial, self.KIND)
