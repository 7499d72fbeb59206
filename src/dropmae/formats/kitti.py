"""KITTI tracking: labels and calibration of a scene, and boxes between its camera and its scanner.

In labels a box is h w l, the middle of its bottom in camera coordinates (x right, y down, z ahead), and its turn about
y. Of the calibration only `Tr_velo_cam` counts for boxes, as trackers have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dropmae.opening import open_file

COLUMNS = 17


class Labels(NamedTuple):
    """The rows of a label file."""

    frames: np.ndarray
    """int64 [R]"""
    tracks: np.ndarray
    """int64 [R]: ids."""
    types: np.ndarray
    """str [R]"""
    boxes: np.ndarray
    """float64 [R, 7]: h w l x y z rotation_y, as they stand there."""


def lines_of(path: Path) -> list[list[str]]:
    """The words of a text file line by line; OSError where it is none."""
    with open_file(path) as stream:
        data = stream.read()
    try:
        return [line.split() for line in data.decode().splitlines()]
    except UnicodeDecodeError:
        raise OSError(f"{path}: no text") from None


def read_labels(path: Path) -> Labels:
    """label_02/SCENE.txt; OSError that names the line that cannot be read."""
    frames, tracks, types, boxes = list[int](), list[int](), list[str](), list[list[float]]()
    for number, words in enumerate(lines_of(path), 1):
        if not words:
            continue
        try:
            if len(words) < COLUMNS:
                raise ValueError(f"{len(words)} of {COLUMNS} columns")
            row = [float(word) for word in words[10:17]]
            if not np.isfinite(row).all() or int(words[0]) < 0:
                raise ValueError("a number that is none, or a frame before the first")
            frames.append(int(words[0]))
            tracks.append(int(words[1]))
            types.append(words[2])
            boxes.append(row)
        except ValueError as error:
            raise OSError(f"{path}, line {number}: {error}") from None
    return Labels(
        np.array(frames, np.int64), np.array(tracks, np.int64), np.array(types, str), np.reshape(boxes, (-1, 7))
    )


@dataclass(frozen=True, eq=False)
class Calibration:
    """How scanner and left colour camera of a scene stand to each other."""

    to_camera: np.ndarray
    """float64 [3, 4]: scanner coordinates to the reference camera's."""
    rectify: np.ndarray
    """float64 [3, 3]"""
    project: np.ndarray
    """float64 [3, 4]: of camera 2."""

    @cached_property
    def inverse(self) -> np.ndarray:
        """float64 [4, 4]"""
        return np.linalg.inv(np.vstack([self.to_camera, [0, 0, 0, 1]]))

    def from_labels(self, rows: np.ndarray) -> np.ndarray:
        """float64 [R, 7]: boxes in scan coordinates of rows h w l x y z rotation_y [R, 7]."""
        height, width, length, x, y, z, turn = rows.T
        centre = np.stack([x, y - height / 2, z, np.ones(len(rows))]) if len(rows) else np.ones((4, 0))
        return np.column_stack([(self.inverse @ centre)[:3].T, width, length, height, -turn - np.pi / 2])

    def to_labels(self, boxes: np.ndarray) -> np.ndarray:
        """float64 [N, 7]: the way back."""
        x, y, z = self.to_camera @ np.column_stack([boxes[:, :3], np.ones(len(boxes))]).T
        width, length, height = boxes[:, 3:6].T
        turn = (-boxes[:, 6] - np.pi / 2 + np.pi) % (2 * np.pi) - np.pi
        return np.column_stack([height, width, length, x, y + height / 2, z, turn])

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """float64 [P, 3]: x and y in the picture of camera 2 of points [P, 3] in scan coordinates, and their depth."""
        seen = self.rectify @ (self.to_camera @ np.column_stack([points, np.ones(len(points))]).T)
        x, y, depth = self.project @ np.vstack([seen, np.ones(len(points))])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.stack([x / depth, y / depth, depth], 1)


NAMES = {"to_camera": ("Tr_velo_cam", "Tr_velo_to_cam"), "rectify": ("R_rect", "R0_rect"), "project": ("P2",)}
"""What files call the matrices."""


def read_calibration(path: Path) -> Calibration:
    """calib/SCENE.txt, with or without colons behind the names; OSError where a matrix is missing or broken."""
    found: dict[str, np.ndarray] = {}
    for number, words in enumerate(lines_of(path), 1):
        field = next((field for field, names in NAMES.items() if words and words[0].rstrip(":") in names), None)
        if field is None:
            continue
        try:
            values = np.array(words[1:], np.float64)
            found[field] = values.reshape((3, 3) if field == "rectify" else (3, 4))
        except ValueError:
            raise OSError(
                f"{path}, line {number}: {words[0]} has {len(words) - 1} numbers, or something else"
            ) from None
    if missing := [names[0] for field, names in NAMES.items() if field not in found]:
        raise OSError(f"{path}: the calibration has no {', '.join(missing)}")
    turn = found["to_camera"][:, :3]
    if not all(np.isfinite(matrix).all() for matrix in found.values()) or abs(np.linalg.det(turn)) < 1e-6:
        raise OSError(f"{path}: a matrix of the calibration has numbers that are none, or there is no way back")
    return Calibration(**found)


def calibration_of(scans: Path) -> Path:
    """Where the calibration of a folder of scans ROOT/velodyne/SCENE is; FileNotFoundError where there is none."""
    place = scans.parent.parent / "calib" / f"{scans.name}.txt"
    if not place.is_file():
        raise FileNotFoundError(f"{scans}: no calibration, which in KITTI's layout is {place}")
    return place
