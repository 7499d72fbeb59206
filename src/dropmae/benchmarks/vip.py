"""VIP: body parts of people in video (Zhou et al., "Adaptive Temporal Encoding Network", ACM MM 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dropmae import storage
from dropmae.contracts import Benchmark
from dropmae.formats.labels import LabelFolder, grey_png
from dropmae.metrics.masks import class_scores, confusion
from dropmae.names import relative_names
from dropmae.opening import read_text
from dropmae.sequence import Sequence
from dropmae.target import Target

# fmt: off
CLASSES = (
    "background", "hat", "hair", "sun-glasses", "upper-clothes", "dress", "coat", "socks", "pants", "gloves", "scarf",
    "skirt", "torso-skin", "face", "right-arm", "left-arm", "right-leg", "left-leg", "right-shoe", "left-shoe",
)
# fmt: on


@dataclass(kw_only=True)
class VIP(Benchmark):
    """mIoU of 20 part classes, propagated over the annotated frames of the validation videos.

    Layout: <root>/Images/<video>/<frame>.jpg, <root>/{Category_ids,Annotations/Category_ids}/<video>/<frame>.png and
    <root>/lists/val_videos.txt, where <root> may also be the folder above VIP_Fine; results are <video>/<frame>.png
    with class ids. Without a list every annotated video counts. The rules are those of videowalk's evaluation: one
    confusion matrix over all frames in the results, the given first one too, and the plain mean over 20 classes.
    """

    _files: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False)

    def home(self, root: Path) -> Path:
        """The folder that holds Images and Category_ids."""
        for folder in (Path(root), Path(root) / "VIP_Fine", Path(root) / "VIP"):
            if any((folder / kind).is_dir() for kind in ("Category_ids", "Annotations/Category_ids")):
                return folder
        raise FileNotFoundError(f"{Path(root) / 'Category_ids'}: no such folder; is {root} a VIP root?")

    def labels(self, root: Path) -> Path:
        """The folder of class label maps."""
        home = self.home(root)
        return next(home / kind for kind in ("Category_ids", "Annotations/Category_ids") if (home / kind).is_dir())

    def names(self, root: Path, split: str | None = None) -> list[str]:
        """The videos of a split (val where none is given)."""
        lists = self.home(root) / "lists"
        if not lists.is_dir():
            return sorted(folder.name for folder in self.labels(root).iterdir() if folder.is_dir())
        file = lists / f"{split or 'val'}_videos.txt"
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such list of videos")
        words = [line.split()[0] for line in read_text(file).splitlines() if line.strip()]
        return relative_names((word.rsplit("/", 1)[-1] for word in words), file)

    def sequences(self, root: Path, split: str | None = None) -> list[Sequence]:
        """The annotated frames of each video, numbered from 0, with class ids as object ids."""
        found, labels, images = [], self.labels(root), self.home(root) / "Images"
        for name in self.names(root, split):
            numbered = LabelFolder(labels / name).files
            self._files[name] = [path.name for path in numbered.values()]
            targets = LabelFolder(labels / name, files=dict(enumerate(numbered.values())))
            found.append(Sequence(name, [image_of(images / name, path.stem) for path in numbered.values()], targets))
        return found

    def annotations(self, root: Path, split: str | None = None) -> dict[str, LabelFolder]:
        """{video: {frame number: Target}}, read when asked for."""
        labels = self.labels(root)
        return {name: LabelFolder(labels / name) for name in self.names(root, split)}

    def read(self, results: Path, annotations: Mapping[str, Any] | None = None) -> dict[str, LabelFolder]:
        """{video: {frame number: Target}} of all <video> folders in `results`."""
        if not Path(results).is_dir():
            raise FileNotFoundError(f"{results}: no such folder; results are laid out as <video>/<frame>.png")
        folders = sorted(path for path in Path(results).iterdir() if path.is_dir() and not path.name.startswith("."))
        return {folder.name: LabelFolder(folder) for folder in folders}

    def write(
        self, name: str, targets: Mapping[int, Target], out: Path, seconds: Iterable[float] | None = None
    ) -> None:
        """<out>/<video>/<frame>.png, grey with class ids (the evaluation reads colours, so a palette would mislead it).

        Frames carry the names of the annotated files once `sequences` has listed them, else their numbers.
        """
        files: dict[str, np.ndarray] = {}
        names = self._files.get(name)
        for index, target in targets.items():
            if target.mask is None:
                raise ValueError(f"{name}, frame {index}: no mask to write")
            files[names[index] if names else f"{index:012d}.png"] = target.mask
        storage.write_folder(storage.below(out, name), files, lambda mask: grey_png(np.asarray(mask, np.uint8)))

    def score(
        self,
        results: Mapping[str, Mapping[int, Target]],
        annotations: Mapping[str, Mapping[int, Target]],
        *,
        map: Callable = map,
    ) -> dict[str, Any]:
        """mIoU and pixel accuracies over all frames together, and the mIoU of each video on its own.

        Frames without a prediction do not count (as in videowalk) and are counted as "missing_frames"; predictions
        without an annotation are passed over. Predictions of another size are resized, nearest neighbour.
        """
        names = [name for name in annotations if name in results]
        counted = dict(zip(names, map(self.count, names, [results[n] for n in names], [annotations[n] for n in names])))
        matrices = {name: matrix for name, (matrix, frames) in counted.items() if frames}
        if not matrices:
            raise OSError("nothing to score: no frame of the results has an annotation")
        total = class_scores(np.sum(list(matrices.values()), 0))
        per_class = total.pop("iou")
        assert isinstance(per_class, list)
        return {
            "protocol": "videowalk",
            **{key: number(value) for key, value in total.items()},
            "classes": {c: number(value) for c, value in zip(CLASSES, per_class)},
            "sequences": {
                name: {"mean_iou": number(class_scores(matrix)["mean_iou"]), "frames": counted[name][1]}
                for name, matrix in matrices.items()
            },
            "missing": [name for name in annotations if name not in results],
            "missing_frames": sum(len(annotations[name]) - counted[name][1] for name in names),
            "extra": [name for name in results if name not in annotations],
        }

    def count(
        self, name: str, result: Mapping[int, Target], annotation: Mapping[int, Target]
    ) -> tuple[np.ndarray, int]:
        """Confusion matrix [20, 20] of one video and the number of frames in it."""
        matrix = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
        frames = [frame for frame in annotation if frame in result]
        for frame in frames:
            predicted, true = result[frame].mask, annotation[frame].mask
            if predicted is None or true is None:
                raise ValueError(f"{name}, frame {frame}: no mask")
            if predicted.max(initial=0) >= len(CLASSES):
                raise OSError(
                    f"{name}, frame {frame}: class {predicted.max()} in the results; classes are 0..{len(CLASSES) - 1}"
                )
            if predicted.shape != true.shape:
                size = true.shape[1], true.shape[0]
                predicted = np.asarray(Image.fromarray(predicted).resize(size, Image.Resampling.NEAREST))
            matrix += confusion(predicted, true, len(CLASSES))
        return matrix, len(frames)


def image_of(folder: Path, stem: str) -> Path:
    """The image of an annotated frame."""
    for suffix in (".jpg", ".png", ".jpeg"):
        if (path := folder / f"{stem}{suffix}").is_file():
            return path
    raise FileNotFoundError(f"{folder / stem}.jpg: no image for this label map")


def number(value: Any) -> float | None:
    """NaN as None, for JSON."""
    return None if math.isnan(value) else value
