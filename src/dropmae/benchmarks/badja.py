"""BADJA: joints of animals in video (Biggs et al., "Creatures Great and SMAL", ACCV 2018, arXiv:1811.05804)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dropmae.contracts import Benchmark
from dropmae.formats.labels import LabelFolder
from dropmae.metrics.keypoints import within
from dropmae.metrics.points import DISTANCES
from dropmae.names import printable, relative
from dropmae.opening import load_json, open_image
from dropmae.sequence import Sequence
from dropmae.storage import below, write_json
from dropmae.target import Target

JOINTS = 37
CHIN = 34
"""The one joint of the files that BADJA does not count among its annotations."""
THRESHOLD = 0.2
SCALES = ("480p", "Full-Resolution")
IMAGES = (".jpg", ".jpeg", ".png")

Tracks = dict[int, np.ndarray]
"""{frame: float64 [37, 2]}, x y in pixels with pixel centres at +0.5; NaN where there is no prediction."""


@dataclass
class Animal:
    """The annotation of one video; positions are in pixels of its frames."""

    frames: list[int]
    """The annotated frames, about every fifth one."""
    joints: np.ndarray
    """float64 [F, 37, 2]: x, y."""
    visible: np.ndarray
    """bool [F, 37]: annotated in this frame."""
    area: np.ndarray
    """float64 [F]: the animal's area in square pixels; NaN where its mask is not at hand."""
    size: tuple[int, int]
    """Width and height of the frames."""

    def targets(self) -> dict[int, Target]:
        """Joints as points of object 1, {frame: Target}."""
        owners = np.ones(JOINTS, np.int64)
        return {
            frame: Target(ids=np.array([1]), points=joints, visible=visible.copy(), owners=owners)
            for frame, joints, visible in zip(self.frames, self.joints, self.visible)
        }


@dataclass(kw_only=True)
class BADJA(Benchmark):
    """PCK@0.2: joints of the first annotated frame followed to the other ones, right within 0.2 * sqrt(animal's area).

    Annotations are <root>/badja_480p.json ({animal: {width, height, frames: [{frame, xy, visible}]}}; where
    `visible` is missing, joints at 0, 0 are not annotated) or the original
    <root>/joint_annotations/<animal>.json, which counts rows and columns of the full-resolution frames. Results are
    <animal>.json: {frame: [[x, y] or null, ...]}, a row for each of the 37 joints, in pixels of the frames.
    """

    protocol: Literal["visible", "pips"] = "visible"
    """visible: joints that the first annotated frame shows and so does the frame at hand; the first frame is left out.
    pips: as the code of PIPs counts, every joint that the frame at hand shows (one that was not given is a miss), with
    the first frame counted as right."""
    scale: Literal["mask", "joints"] = "mask"
    """The animal's area: that of its mask, or, where no masks are at hand, of the box around its visible joints (a
    larger area and so a milder test; not comparable with published numbers)."""
    frames: tuple[Path, ...] = ()
    """Folders that hold frames and masks: a DAVIS root, or a folder of videos or image folders named after the animals.
    Default: <root>, <root>/DAVIS, <root>/extra_videos and the DAVIS folder beside <root>."""

    # ---------------------------------------------------------------- what is on disk

    def places(self, root: Path) -> list[Path]:
        """Where to look for frames and masks."""
        beside = [root, root / "DAVIS", root / "extra_videos", root.parent / "DAVIS"]
        return [Path(place) for place in self.frames] or beside

    def video(self, root: Path, name: str) -> Path | None:
        """The frames of an animal: a folder of images or a video; None where they are not at hand."""
        for place in self.places(root):
            for folder in [*(place / "JPEGImages" / scale / name for scale in SCALES), place / name]:
                if folder.is_dir():
                    return folder
            for path in sorted(place.glob(f"{name}.*")):
                if path.is_file() and path.suffix not in (".json", ".txt"):
                    return path
        return None

    def masks(self, root: Path, name: str) -> LabelFolder | None:
        """The masks of an animal; None where they are not at hand."""
        for place in self.places(root):
            for scale in SCALES:
                if (folder := place / "Annotations" / scale / name).is_dir():
                    return LabelFolder(folder)
        return None

    def sequences(self, root: Path, split: str | None = None) -> list[Sequence]:
        """The animals whose frames are at hand (and, for scale "mask", whose masks are)."""
        root = Path(root)
        found = []
        for name, animal in self.annotations(root).items():
            source = self.video(root, name)
            if source is not None and not np.isnan(animal.area).any():
                found.append(Sequence(name, source, animal.targets()))
        if not found:
            looked = ", ".join(str(place) for place in self.places(root))
            masks = " with masks" if self.scale == "mask" else ""
            raise FileNotFoundError(f"{looked}: no frames{masks} of any animal in {root}; name folders with frames")
        return found

    def annotations(self, root: Path, split: str | None = None) -> dict[str, Animal]:
        """{animal: Animal}, in pixels of the frames at hand (of the annotation where none are)."""
        root = Path(root)
        found: dict[str, Animal] = {}
        if (file := root / "badja_480p.json").is_file():
            for name, entry in load_json(file).items():
                try:
                    rows = [(row["frame"], row["xy"], visible_of(row)) for row in entry["frames"]]
                    size = (entry["width"], entry["height"])
                except (KeyError, TypeError) as error:
                    raise OSError(f"{file}: {name}: {printable(error)} is missing or is something else") from None
                found[relative(name, file)] = self.animal(root, name, rows, size)
            return found
        for file in sorted((root / "joint_annotations").glob("*.json")):
            entries = load_json(file)
            rows = [
                (int(Path(entry["image_path"]).stem), np.array(entry["joints"])[:, ::-1], entry["visibility"])
                for entry in entries
            ]
            size = self.full_size(root, file.stem, root / relative(entries[0]["image_path"], file))
            if size is not None:  # coordinates mean nothing without the size of the image they count in
                found[file.stem] = self.animal(root, file.stem, rows, size)
        if not found:
            raise FileNotFoundError(
                f"{root}: neither badja_480p.json nor joint_annotations/<animal>.json with its full-resolution frames"
            )
        return found

    def full_size(self, root: Path, name: str, image: Path) -> tuple[int, int] | None:
        """Width and height of an animal's full-resolution frames; None where they are not at hand."""
        folders = [image.parent, *(place / "JPEGImages" / SCALES[1] / name for place in self.places(root))]
        return next((size for folder in folders if (size := image_size(folder)) is not None), None)

    def animal(self, root: Path, name: str, rows: list[tuple[int, Any, Any]], size: tuple[int, int]) -> Animal:
        """One animal from (frame, xy [37, 2], visible [37]) rows in pixels of an image of `size`."""
        source = self.video(root, name)
        width, height = (image_size(source) if source is not None else None) or size
        frames = [int(frame) for frame, _, _ in rows]
        joints = np.array([xy for _, xy, _ in rows], float) * (width / size[0], height / size[1]) + 0.5
        visible = np.array([seen for _, _, seen in rows], bool)
        if joints.shape[1:] != (JOINTS, 2):
            raise OSError(f"{root}: {name} has {joints.shape[1]} joints, not {JOINTS}")
        visible[:, CHIN] = False
        if self.scale == "joints":
            low = joints.min(1, initial=np.inf, where=visible[..., None])
            high = joints.max(1, initial=-np.inf, where=visible[..., None])
            return Animal(frames, joints, visible, (high - low).clip(0).prod(1), (width, height))
        masks, area = self.masks(root, name), np.full(len(frames), np.nan)
        for row, frame in enumerate(frames):
            if masks is not None and frame in masks:
                mask = masks.labels(frame)
                area[row] = np.count_nonzero(mask) / mask.size * width * height
        return Animal(frames, joints, visible, area, (width, height))

    def read(self, results: Path, annotations: Mapping[str, Any] | None = None) -> dict[str, Tracks]:
        """{animal: {frame: positions}} of all <animal>.json in `results`."""
        if not Path(results).is_dir():
            raise FileNotFoundError(f"{results}: no such folder; results are laid out as <animal>.json")
        found: dict[str, Tracks] = {}
        for file in sorted(Path(results).glob("*.json")):
            try:
                found[file.stem] = {
                    int(frame): np.array([[math.nan] * 2 if row is None else row for row in rows], float)
                    for frame, rows in load_json(file).items()
                }
            except (TypeError, ValueError, AttributeError):
                # Any other shape than the documented one ends here, whatever it trips over.
                raise OSError(f"{file}: not {{frame: [[x, y] or null, ...]}}") from None
        return found

    def write(
        self, name: str, targets: Mapping[int, Target], out: Path, seconds: Iterable[float] | None = None
    ) -> None:
        """<out>/<animal>.json; NaN is null. Positions count whether or not they are called visible."""
        tracks: dict[str, list[list[float] | None]] = {}
        for frame, target in targets.items():
            if target.points is None or len(target.points) != JOINTS:
                raise ValueError(f"{name}, frame {frame}: {JOINTS} points are needed")
            tracks[str(frame)] = [None if np.isnan(point).any() else point.tolist() for point in target.points]
        write_json(below(out, f"{name}.json"), tracks)

    # ---------------------------------------------------------------- numbers

    def score(
        self, results: Mapping[str, Tracks], annotations: Mapping[str, Animal], *, map: Callable = map
    ) -> dict[str, Any]:
        """PCK@0.2 of each animal and their mean. Animals whose area is not known are "skipped" with the reason.

        `delta` is TAP-Vid's position accuracy of the same joints, in frames brought to 256 x 256 pixels.
        OSError where a frame that counts is missing from the results.
        """
        names = [name for name in annotations if name in results]
        skipped = {
            name: "no masks at hand; scale joints needs none"
            for name in names
            if np.isnan(annotations[name].area).any()
        }
        names = [name for name in names if name not in skipped]
        rows = dict(zip(names, map(self.measure, names, [results[n] for n in names], [annotations[n] for n in names])))
        key = f"PCK@{THRESHOLD}"
        sequences = {name: row for name, row in rows.items() if row}
        skipped |= {name: "no joint to score" for name, row in rows.items() if not row}
        if not sequences:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
            raise OSError(f"nothing to score: {reasons or 'the results hold none of the animals'}")
        return {
            "protocol": self.protocol,
            "scale": self.scale,
            **{name: float(np.mean([row[name] for row in sequences.values()])) for name in (key, "delta")},
            "sequences": sequences,
            "missing": [name for name in annotations if name not in results],
            "extra": [name for name in results if name not in annotations],
            "skipped": skipped,
        }

    def measure(self, name: str, tracks: Tracks, animal: Animal) -> dict[str, float]:
        """The numbers of one animal; empty where no joint counts."""
        counted = animal.visible.copy()
        predicted = np.full(animal.joints.shape, np.nan)
        for row, frame in enumerate(animal.frames):
            if row == 0:
                predicted[0] = animal.joints[0]
            elif frame not in tracks:
                raise OSError(f"{name}: frame {frame} is missing from the results")
            elif tracks[frame].shape != animal.joints[row].shape:
                raise OSError(f"{name}, frame {frame}: {len(tracks[frame])} joints in the results, not {JOINTS}")
            else:
                predicted[row] = tracks[frame]
        if self.protocol == "visible":
            counted[0] = False
            counted &= animal.visible[0]
        else:
            predicted[1:, ~animal.visible[0]] = np.nan
        if not counted.any():
            return {}
        right = within(predicted, animal.joints, THRESHOLD * np.sqrt(animal.area))[counted]
        squared = np.square((predicted - animal.joints) * (256 / np.array(animal.size))).sum(-1)[counted]
        near = [float((np.nan_to_num(squared, nan=np.inf) < limit**2).mean()) for limit in DISTANCES]
        return {f"PCK@{THRESHOLD}": float(right.mean()), "delta": float(np.mean(near)), "joints": int(counted.sum())}


def image_size(source: Path) -> tuple[int, int] | None:
    """Width and height of the images in a folder or of a video; None where there are none."""
    if source.is_file():
        from dropmae.video import Video

        video = Video(source)
        return video.width, video.height
    for path in sorted(source.glob("*")):
        if path.suffix.lower() in IMAGES:
            with open_image(path, path) as image:
                return image.size
    return None


def visible_of(row: dict[str, Any]) -> list[bool]:
    """Which joints of a frame are annotated: as it says, or those that are not at 0, 0."""
    return row["visible"] if "visible" in row else [bool(x or y) for x, y in row["xy"]]
