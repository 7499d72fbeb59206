"""JHMDB: fifteen joints of a person through short clips (Jhuang et al., ICCV 2013)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dropmae.contracts import Benchmark
from dropmae.formats.arrays import read_dump, read_mat
from dropmae.metrics.keypoints import joint_errors, mean_pck, pck, person_size
from dropmae.names import relative
from dropmae.opening import load_array, open_image, read_text
from dropmae.sequence import Sequence
from dropmae.storage import below, replacing
from dropmae.target import Target

# fmt: off
JOINTS = (
    "neck", "belly", "face", "right shoulder", "left shoulder", "right hip", "left hip", "right elbow", "left elbow",
    "right knee", "left knee", "right wrist", "left wrist", "right ankle", "left ankle",
)
# fmt: on
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(kw_only=True)
class JHMDB(Benchmark):
    """PCK of joints propagated from the first frame; the number of CRW, SiamMAE, CropMAE and their like.

    Layout: <root>/Rename_Images/<class>/<video>/<frame>.png, <root>/joint_positions/<class>/<video>/joint_positions.mat
    (MATLAB 5, `pos_img`) and <root>/splits/<class>_test_split<n>.txt. Results are <class>/<video>.npy with [2, 15, T]
    pixels (x and y from 0, a negative x where there is no prediction), or the <line>.dat files of videowalk.
    """

    protocol: Literal["videowalk", "vfs", "tapnet"] = "videowalk"
    """videowalk: the first frame is left out, a joint counts unless its predicted x is negative. vfs: the first frame
    counts, x = 0 is no prediction either. tapnet: the first frame counts, and the joints that lie inside it do."""
    fold: Literal[1, 2, 3] = 1
    """Which of the three train/test splits; papers use the first."""
    filelist: Path | None = None
    """The list ("<images> <joints>" per line) whose line numbers, from 0, name <line>.dat result files."""
    grid: float = 40
    """Width and height of the feature grid that coordinates in .dat files count in; 40 at stride 8, 20 at patch 16."""

    # ---------------------------------------------------------------- what is on disk

    def names(self, root: Path, split: str | None = None) -> list[str]:
        """<class>/<video> of the test videos (or those of split "train"), by class."""
        kind = {"train": "1", "test": "2"}.get(split or "test")
        if kind is None:
            raise ValueError(f"{split!r}: JHMDB has the splits train and test")
        files = sorted((Path(root) / "splits").glob(f"*_test_split{self.fold}.txt"))
        if not files:
            raise FileNotFoundError(
                f"{root}/splits/<class>_test_split{self.fold}.txt: no such files; is {root} a JHMDB root?"
            )
        found = []
        for file in files:
            label = file.stem.removesuffix(f"_test_split{self.fold}")
            rows = [line.split() for line in read_text(file).splitlines() if line.strip()]
            rows = [row for row in rows if len(row) > 1 and row[1] == kind]
            found += [relative(f"{label}/{row[0].removesuffix('.avi')}", file) for row in rows]
        return found

    def sequences(self, root: Path, split: str | None = None) -> list[Sequence]:
        """The videos with their joints as points, visible where they lie inside the image."""
        found = []
        for name, pose in self.annotations(root, split).items():
            images = Path(root) / "Rename_Images" / name
            found.append(Sequence(name, images, {frame: pose.target(frame) for frame in range(len(pose.joints))}))
        return found

    def annotations(self, root: Path, split: str | None = None) -> dict[str, Pose]:
        """{video: Pose}; image sizes are read from the first frame where it is there, else they are JHMDB's 320x240."""
        found = {}
        for name in self.names(root, split):
            first = Path(root) / "Rename_Images" / name / "00001.png"
            size = (320, 240)
            if first.is_file():
                with open_image(first, first) as image:
                    size = image.size
            file = Path(root) / "joint_positions" / name / "joint_positions.mat"
            found[name] = Pose(joints_of(file), size)
        return found

    def read(self, results: Path, annotations: Mapping[str, Pose]) -> dict[str, np.ndarray]:
        """{video: float64 [T, 15, 2]}, pixels from 0, NaN where nothing was predicted."""
        results = Path(results)
        if not results.is_dir():
            raise FileNotFoundError(f"{results}: no such folder; results are laid out as <class>/<video>.npy")
        found = {}
        for name in annotations:
            for file in (results / f"{name}.npy", results / f"{name.rsplit('/', 1)[-1]}.npy"):
                if file.is_file():
                    found[name] = self.arrange(file, load_array(file))
        lines = {int(file.stem): file for file in results.glob("*.dat") if file.stem.isdecimal()}
        if lines and not found:
            for name, line in self.lines(annotations).items():
                if line in lines:
                    size = np.array(annotations[name].size, float)
                    values = self.arrange(lines[line], read_dump(lines[line]))
                    found[name] = np.where(values < 0, values, values / self.grid * size)
        if not found:
            raise FileNotFoundError(
                f"{results}: no results; expected <class>/<video>.npy, {next(iter(annotations))}.npy for one"
            )
        return found

    def lines(self, annotations: Mapping[str, Any]) -> dict[str, int]:
        """{video: line of the file list}."""
        if self.filelist is None:
            raise ValueError(".dat results are numbered by the lines of a list of videos; give it as filelist")
        rows = [
            line.split()[0].rstrip("/").split("/") for line in read_text(self.filelist).splitlines() if line.strip()
        ]
        numbers = {"/".join(row[-2:]): number for number, row in enumerate(rows)}
        return {name: numbers[name] for name in annotations if name in numbers}

    @staticmethod
    def arrange(file: Path, values: np.ndarray) -> np.ndarray:
        """[T, 15, 2] of the stored [2, 15, T]."""
        if values.ndim != 3 or values.shape[:2] != (2, len(JOINTS)):
            raise OSError(f"{file}: holds {list(values.shape)}, but joints are [2, {len(JOINTS)}, frames]")
        return values.astype(float).transpose(2, 1, 0)

    def write(
        self, name: str, targets: Mapping[int, Target], out: Path, seconds: Iterable[float] | None = None
    ) -> None:
        """<out>/<class>/<video>.npy, float64 [2, 15, T]; -1, which is not counted, only where a position is NaN."""
        values = np.full((max(targets) + 1, len(JOINTS), 2), -1.0)
        for frame, target in targets.items():
            if target.points is None or len(target.points) != len(JOINTS):
                raise ValueError(f"{name}, frame {frame}: {len(JOINTS)} points are needed")
            known = ~np.isnan(target.points).any(1)
            values[frame, known] = target.points[known] - 0.5
        with replacing(below(out, f"{name}.npy")) as partial, open(partial, "wb") as stream:
            np.save(stream, values.transpose(2, 1, 0))

    # ---------------------------------------------------------------- numbers

    def score(
        self, results: Mapping[str, np.ndarray], annotations: Mapping[str, Pose], *, map: Callable = map
    ) -> dict[str, Any]:
        """PCK at 0.1 .. 0.5 of the person size: per joint over all videos together, then the mean over joints.

        OSError where a result has fewer frames than its video has poses; more are passed over.
        """
        names = [name for name in annotations if name in results]
        rows = dict(zip(names, map(self.errors, names, [results[n] for n in names], [annotations[n] for n in names])))
        if not rows:
            raise OSError("nothing to score: the results hold none of the videos")
        pooled = [np.concatenate([row[joint] for row in rows.values()]) for joint in range(len(JOINTS))]
        return {
            "protocol": self.protocol,
            **{f"PCK@{at}": number(mean_pck(pooled, at)) for at in THRESHOLDS},
            "joints": {
                name: {f"PCK@{at}": number(pck([values], at)[0]) for at in THRESHOLDS}
                for name, values in zip(JOINTS, pooled)
            },
            "sequences": {
                name: {f"PCK@{at}": number(mean_pck(row, at)) for at in THRESHOLDS} for name, row in rows.items()
            },
            "missing": [name for name in annotations if name not in results],
        }

    def errors(self, name: str, predicted: np.ndarray, pose: Pose) -> list[np.ndarray]:
        """Per joint, the errors that count by the protocol."""
        truth = pose.joints
        if len(predicted) < len(truth):
            raise OSError(f"{name}: {len(predicted)} frames in the results, {len(truth)} poses in the annotation")
        predicted = predicted[: len(truth)]
        given = ~np.isnan(predicted).any(-1)
        if self.protocol == "tapnet":
            first = truth[0] + 1  # it compares MATLAB's coordinates, from 1, with the image size
            counted = np.tile(((first >= 0) & (first < np.array(pose.size))).all(-1), (len(truth), 1))
        elif self.protocol == "vfs":
            counted = given & (predicted[..., 0] > 0)
        else:
            counted = given & ~(predicted[..., 0] < 0)
        size = person_size(truth, counted)
        if self.protocol == "videowalk":
            counted[0] = False
        return joint_errors(predicted, truth, size, counted)


@dataclass
class Pose:
    """Joints of one video."""

    joints: np.ndarray
    """float64 [T, 15, 2]: x, y in pixels from 0 at the centre of the first pixel (MATLAB's minus 1)."""
    size: tuple[int, int]
    """Image width and height."""

    @cached_property
    def inside(self) -> np.ndarray:
        """bool [T, 15]: joints inside the image."""
        return np.all((self.joints >= -0.5) & (self.joints < np.array(self.size) - 0.5), axis=-1)

    def target(self, frame: int) -> Target:
        """The pose of one frame as points of object 1."""
        owners = np.ones(len(JOINTS), np.int64)
        return Target(
            ids=np.array([1]), points=self.joints[frame] + 0.5, visible=self.inside[frame].copy(), owners=owners
        )


def number(value: float) -> float | None:
    """NaN as None, for JSON."""
    return None if math.isnan(value) else value


def joints_of(file: Path) -> np.ndarray:
    """float64 [T, 15, 2] of a joint_positions.mat, counted from 0."""
    positions = read_mat(file).get("pos_img")
    if positions is not None and positions.ndim == 2:  # MATLAB drops the last dimension of a single frame
        positions = positions[..., None]
    if positions is None or positions.shape[:2] != (2, len(JOINTS)):
        raise OSError(f"{file}: no pos_img of [2, {len(JOINTS)}, frames] in it")
    return positions.astype(float).transpose(2, 1, 0) - 1
