"""Scans as frames: point clouds, float32 [P, C], whose first columns are x, y, z in metres, z up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dropmae.opening import load_array, open_file
from dropmae.video.errors import broken
from dropmae.video.frames import Frame, Still, natural

SCANS = (".bin", ".pcd", ".npy")
"""Endings of files that hold a scan each."""
COLUMNS = {".pcd.bin": 5}
"""Columns of a headerless file by the end of its name (nuScenes); KITTI's and all others have FOUR."""
FOUR = 4
NUMBERS = {f"{kind.upper()}{size}": f"<{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8)[kind == "f" :]}
"""What a .pcd calls numbers, by TYPE and SIZE."""


class Recording(NamedTuple):
    """Scans by their files, which need not be all in a folder."""

    files: tuple[str | None, ...]
    """None stands for a turn of which nothing was kept: an empty scan."""
    columns: int | None = None
    """Of files without a header; None goes by their names."""
    poses: np.ndarray | None = None
    """float64 [T, 4, 4]: of the scanner in the world, into which points are then moved; None leaves them."""


class Scans(Still):
    """The scans of a recording."""

    kind = "scan"
    fps = 10.0

    def __init__(self, recording: Recording):
        super().__init__(None)
        self.files, self.columns, self.poses = recording

    def __len__(self) -> int:
        return len(self.files)

    def size(self) -> tuple[int, int]:
        raise ValueError("frames that are scans have no height and width")

    def frame(self, index: int) -> np.ndarray:
        file = self.files[index]
        points = np.zeros((0, self.columns or FOUR), np.float32) if file is None else read_scan(file, self.columns)
        if self.poses is not None:
            pose = self.poses[index]
            points[:, :3] = points[:, :3].astype(np.float64) @ pose[:3, :3].T + pose[:3, 3]
        return points

    def read(self, indices: list[int], motion: bool) -> dict[int, Frame]:
        if motion:
            raise ValueError("scans have no motion vectors")
        return super().read(indices, motion)

    def play(self) -> Iterator[np.ndarray]:
        return map(self.frame, range(len(self)))


def scan_files(folder: str) -> list[str]:
    """The scans in a folder that holds nothing else, in natural order; [] where it holds something else.

    Arrays (.npy) count as scans where their tables are [P, 3 or more].
    """
    names = [name for name in os.listdir(folder) if not name.startswith(".")]
    if not names or not all(name.lower().endswith(SCANS) for name in names):
        return []
    files = [os.path.join(folder, name) for name in sorted(names, key=natural)]
    if files[0].lower().endswith(".npy"):
        try:
            read_scan(files[0])
        except OSError:
            return []
    return files


def read_scan(path: str | Path, columns: int | None = None) -> np.ndarray:
    """float32 [P, C] of one scan: headerless float32 rows (.bin), a .npy table, or a .pcd file; P may be 0.

    OSError that names the file where it is cut off or holds something else.
    """
    path = str(path)
    open_file(path).close()
    try:
        if path.lower().endswith(".npy"):
            points = load_array(path)
        elif path.lower().endswith(".pcd"):
            points = read_pcd(path)
        else:
            width = columns or next((n for end, n in COLUMNS.items() if path.lower().endswith(end)), FOUR)
            values = np.fromfile(path, "<f4")
            if len(values) % width or os.path.getsize(path) % 4:
                raise ValueError(f"{os.path.getsize(path)} bytes are no rows of {width} numbers: cut off, or others")
            points = values.reshape(-1, width)
    except ValueError as error:
        raise broken(path, error) from None
    if points.ndim != 2 or points.shape[1] < 3 or points.dtype.kind not in "fiu":
        raise broken(path, f"a scan is a table of points with x, y, z, not {points.dtype} {list(points.shape)}")
    return np.ascontiguousarray(points, np.float32)


def read_pcd(path: str) -> np.ndarray:
    """[P, C] of a .pcd file (Point Cloud Library 0.7), ASCII or binary: x, y, z first, then its other numbers."""
    with open(path, "rb") as file:
        header: dict[str, list[str]] = {}
        while "DATA" not in header:
            line = file.readline(4096)
            if not line:
                raise ValueError("its header has no end")
            words = line.decode("ascii", "replace").split()
            if words and not words[0].startswith("#"):
                header[words[0].upper()] = words[1:]
        if missing := {"FIELDS", "TYPE", "SIZE", "POINTS"} - {key for key, words in header.items() if words}:
            raise ValueError(f"its header has no {', '.join(sorted(missing))}")
        names, count = header["FIELDS"], int(header["POINTS"][0])
        kinds = [NUMBERS.get(kind + size) for kind, size in zip(header["TYPE"], header["SIZE"])]
        sizes = {len(header["TYPE"]), len(header["SIZE"]), len(names)}
        if None in kinds or len(sizes) > 1 or any(number != "1" for number in header.get("COUNT", [])):
            raise ValueError("its header does not give one number of a known kind per field")
        row = np.dtype([(f"{place}", kind) for place, kind in enumerate(kinds)])
        if header["DATA"] == ["ascii"]:
            table = np.array(file.read().split(), np.float64).reshape(-1, len(names))
        elif header["DATA"] == ["binary"]:
            data = file.read(min(max(count, 0) * row.itemsize, os.fstat(file.fileno()).st_size))
            rows = np.frombuffer(data[: len(data) // row.itemsize * row.itemsize], row)
            table = np.stack([rows[name].astype(np.float64) for name in row.names or ()], 1)
        else:
            raise ValueError(f"its data is {' '.join(header['DATA'])}, which this does not read: save it as binary")
    if len(table) != count:
        raise ValueError(f"{len(table)} of {count} points are there: cut off")
    first = [names.index(axis) for axis in ("x", "y", "z") if axis in names]
    if len(first) < 3:
        raise ValueError(f"its fields are {', '.join(names)}, without x, y and z")
    return table[:, first + [place for place in range(len(names)) if place not in first]]
