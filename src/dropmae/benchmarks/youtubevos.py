"""YouTube-VOS 2018 and 2019 (Xu et al., ECCV 2018, arXiv:1809.03327): objects that may appear in mid-video."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dropmae import storage
from dropmae.contracts import Benchmark
from dropmae.formats.labels import LabelFolder, MatchedLabels, label_ids, label_png, write_archive
from dropmae.metrics.masks import boundary_f, jaccard
from dropmae.opening import load_json
from dropmae.sequence import Sequence
from dropmae.target import Target

FPS = {"sampled": 6.0, "all": 30.0}
"""Frames per second of the two sets of images."""
TOP = "Annotations"
"""The folder at the root of the server's zip."""


class Labels(LabelFolder):
    """The annotated frames of one video, by the numbers in their names, and what kind of thing each object is."""

    def __init__(self, folder: Path, categories: Mapping[int, str], images: Path) -> None:
        super().__init__(folder)
        self.categories, self.images = dict(categories), images

    @cached_property
    def shown(self) -> dict[int, list[int]]:
        """{object: numbers of the frames that show it}."""
        found: dict[int, list[int]] = {}
        for frame in self.files:
            for object_id in label_ids(self.labels(frame)).tolist():
                if object_id:
                    found.setdefault(object_id, []).append(frame)
        return found

    @property
    def first(self) -> dict[int, int]:
        """{object: number of the first frame that shows it}."""
        return {object_id: frames[0] for object_id, frames in self.shown.items()}

    @property
    def complete(self) -> bool:
        """Whether more than the masks by which objects are given is known."""
        return any(len(frames) > 1 for frames in self.shown.values())

    @cached_property
    def wanted(self) -> list[int]:
        """Numbers of the frames of which results are asked: all sampled ones from the first annotated one on."""
        if not self.files:
            raise OSError(f"{self.folder}: holds no annotation")
        stems = sorted(path.stem for path in self.images.glob("*.jpg")) if self.images.is_dir() else []
        numbers = [int(stem) for stem in stems if stem.isdecimal()] or list(self.files)
        return [number for number in numbers if number >= min(self.files)]


@dataclass(kw_only=True)
class YouTubeVOS(Benchmark):
    """J and F on YouTube-VOS, separately over seen and unseen categories, and the zip for its server.

    Layout: <root>/{train,valid,test}/{JPEGImages,Annotations}/<video>/00000.{jpg,png}, every fifth frame, and
    meta.json; <split>_all_frames/JPEGImages has all of them. Results are <video>/<frame>.png with the ids of the
    annotation, from the first annotated frame on. Of valid and test only the masks by which objects are given are
    public: `submission` packs results on them, and numbers can be had on train, or a held-out part of it.
    """

    prompted = "appearance"
    """What a tracker is told: each object in the first frame that shows it."""

    rate: Literal["sampled", "all"] = "sampled"
    """Follow objects over every fifth frame (6 per second), or over all frames; results are of every fifth one."""
    submission: Path | None = None
    """Write the zip that the servers of 2018 and 2019 take: Annotations/<video>/<frame>.png."""

    def __post_init__(self) -> None:
        self._names: dict[str, tuple[MatchedLabels, Path]] = {}

    # ---------------------------------------------------------------- what is on disk

    def home(self, root: Path, split: str | None) -> Path:
        """The folder of a split (valid where none is given); `root` may itself be one."""
        places = [Path(root) / (split or "valid")]
        if split in (None, "train", "valid", "test"):
            places.append(Path(root) / f"{split or 'valid'}_480p")  # resized copies are commonly called that
        if split is None:
            places.append(Path(root))
        for place in places:
            if (place / TOP).is_dir():
                return place
        raise FileNotFoundError(f"{places[0] / TOP}: no such folder; is {root} a YouTube-VOS root?")

    def names(self, home: Path) -> list[str]:
        """The videos of a split."""
        return sorted(folder.name for folder in (home / TOP).iterdir() if folder.is_dir())

    def sequences(self, root: Path, split: str | None = None) -> list[Sequence]:
        """The videos of a split (valid where none is given) with their masks, read when asked for."""
        home = self.home(root, split)
        sampled = images = home / "JPEGImages"
        if self.rate == "all":
            images = home.with_name(f"{home.name}_all_frames") / "JPEGImages"
        if not images.is_dir():
            raise FileNotFoundError(f"{images}: no such folder")
        found = []
        for name in self.names(home):
            targets = MatchedLabels(home / TOP / name, images / name)
            self._names[name] = (targets, sampled / name)
            found.append(Sequence(name, images / name, targets, FPS[self.rate]))
        return found

    def annotations(self, root: Path, split: str | None = None) -> dict[str, Labels]:
        """{video: {frame number: Target}}, read when asked for."""
        home = self.home(root, split)
        categories = read_categories(home / "meta.json")
        return {
            name: Labels(home / TOP / name, categories.get(name, {}), home / "JPEGImages" / name)
            for name in self.names(home)
        }

    def read(self, results: Path, annotations: Mapping[str, Any] | None = None) -> dict[str, LabelFolder]:
        """{video: {frame number: Target}} of all <video> folders in `results`, or in Annotations there."""
        place = Path(results) / TOP if (Path(results) / TOP).is_dir() else Path(results)
        if not place.is_dir():
            raise FileNotFoundError(f"{results}: no such folder; results are laid out as <video>/<frame>.png")
        found = {
            path.name: LabelFolder(path) for path in sorted(place.iterdir()) if path.is_dir() and path.name[0] != "."
        }
        if annotations is not None and not found.keys() & annotations.keys():
            names = ", ".join(list(annotations)[:3])
            raise FileNotFoundError(f"{results}: no results; expected <video>/<frame>.png for any of {names} ...")
        return found

    def write(
        self, name: str, targets: Mapping[int, Target], out: Path, seconds: Iterable[float] | None = None
    ) -> None:
        """<out>/<name>/<frame>.png, palette images with the ids of the annotation, of the sampled frames.

        Frames carry the names of the images once `sequences` has listed them, else five times their number.
        """
        stems, wanted = None, None
        if name in self._names:
            known, sampled = self._names[name]
            stems = known.stems
            wanted = {path.stem for path in sampled.glob("*.jpg")} if sampled.is_dir() else None
        masks = {}
        for index, target in targets.items():
            if target.mask is None:
                raise ValueError(f"{name}, frame {index}: no mask to write")
            stem = stems[index] if stems else f"{5 * index:05d}"
            if not wanted or stem in wanted:
                masks[f"{stem}.png"] = target.mask
        storage.write_folder(storage.below(out, name), masks, label_png)

    # ---------------------------------------------------------------- numbers

    def score(
        self,
        results: Mapping[str, Mapping[int, Target]],
        annotations: Mapping[str, Labels],
        *,
        map: Callable = map,
    ) -> dict[str, Any]:
        """J and F per object, averaged over the objects of seen and of unseen categories; `G_mean` is their mean.

        An object is scored in the annotated frames after the one that gives it. Categories count as seen where
        train/meta.json beside the split has them; without that file all of them do. A zip is written where asked for.
        """
        packed = {} if self.submission is None else self.pack(results, annotations, self.submission)
        names = [name for name in annotations if name in results]
        rows = dict(zip(names, map(self.measure, names, [results[n] for n in names], [annotations[n] for n in names])))
        rows = {name: row for name, row in rows.items() if row}
        if not rows and not packed:
            raise OSError(
                "nothing to score: no object is annotated after the frame that gives it, as in valid and test, whose "
                "masks the server keeps; --submission ZIP packs results for it"
            )
        seen = self.seen(annotations)
        everything = [(annotations[name].categories.get(key), j, f) for name, row in rows.items() for key, j, f in row]
        means: dict[str, float | None] = {}
        for kind, inside in (("seen", True), ("unseen", False)):
            part = [(j, f) for category, j, f in everything if (seen is None or category in seen) == inside]
            for place, letter in enumerate("JF"):
                means[f"{letter}_{kind}"] = float(np.mean([pair[place] for pair in part])) if part else None
        known = [value for value in means.values() if value is not None]
        skipped = {name: "no object after the frame that gives it" for name in names if name not in rows}
        return {
            "protocol": "local" if rows else "server",
            **({"G_mean": float(np.mean(known)), **means} if known else {}),
            "objects": len(everything),
            "sequences": {name: summary(row) for name, row in rows.items()},
            "missing": [name for name in annotations if name not in results],
            "extra": [name for name in results if name not in annotations],
            "skipped": {} if packed and not rows else skipped,
            **packed,
        }

    @staticmethod
    def seen(annotations: Mapping[str, Labels]) -> set[str] | None:
        """The categories of the training set; None where they are not known."""
        for labels in annotations.values():
            file = labels.folder.parents[2] / "train" / "meta.json"
            if file.is_file():
                return {category for kinds in read_categories(file).values() for category in kinds.values()}
            break
        return None

    def measure(self, name: str, result: Mapping[int, Target], truth: Labels) -> list[tuple[int, float, float]]:
        """(object, J, F) of one video, means over frames; nothing where the annotation only gives the objects."""
        values: dict[int, list[tuple[float, float]]] = {}
        firsts = truth.first
        for frame in truth.files if truth.complete else ():
            keys = [key for key, first in firsts.items() if frame > first]
            if not keys:
                continue
            true, predicted = truth.labels(frame), self.predicted(name, result, frame)
            if predicted.shape != true.shape:
                (h, w), (height, width) = predicted.shape, true.shape
                raise OSError(f"{name}, frame {frame:05d}: {w}x{h} pixels, but the annotation has {width}x{height}")
            for key in keys:
                pair = predicted == key, true == key
                values.setdefault(key, []).append((jaccard(*pair), boundary_f(*pair)))
        return [(key, *np.mean(pairs, 0).tolist()) for key, pairs in sorted(values.items())]

    @staticmethod
    def predicted(name: str, result: Mapping[int, Target], frame: int) -> np.ndarray:
        """The label map of a result; FileNotFoundError where there is none."""
        mask = result[frame].mask if frame in result else None
        if mask is None:
            where = result.folder / f"{frame:05d}.png" if isinstance(result, LabelFolder) else f"{name}, frame {frame}"
            raise FileNotFoundError(f"{where}: missing; every sampled frame from the first annotated one on is needed")
        return mask

    def pack(
        self, results: Mapping[str, Mapping[int, Target]], annotations: Mapping[str, Labels], path: Path
    ) -> dict[str, Any]:
        """Writes the server's zip; OSError that names what it would refuse or count as wrong."""
        if missing := [name for name in annotations if name not in results]:
            raise OSError(
                f"no results for {', '.join(missing[:5])} ({len(missing)}); the server takes a split as a whole"
            )

        def files() -> Iterator[tuple[str, np.ndarray]]:
            for name, truth in annotations.items():
                firsts = truth.first
                for frame in truth.wanted:
                    given = frame == min(truth.files) and frame not in results[name]
                    mask = truth.labels(frame) if given else self.predicted(name, results[name], frame)
                    if mask.shape != (size := truth.labels(min(truth.files)).shape):
                        (h, w), (height, width) = mask.shape, size
                        raise OSError(f"{name}, frame {frame:05d}: {w}x{h} pixels, but the video has {width}x{height}")
                    early = [key for key in label_ids(mask).tolist() if key and firsts.get(key, frame + 1) > frame]
                    if early:
                        raise OSError(f"{name}, frame {frame:05d}: object {early[0]} is none of those given by then")
                    yield f"{TOP}/{name}/{frame:05d}.png", mask

        return {"submission": str(path), "packed": write_archive(Path(path), files())}


def summary(rows: list[tuple[int, float, float]]) -> dict[str, Any]:
    """The numbers of one video."""
    j, f = (float(np.mean([row[place] for row in rows])) for place in (1, 2))
    objects = {str(key): {"J_mean": one, "F_mean": other} for key, one, other in rows}
    return {"J&F_mean": (j + f) / 2, "J_mean": j, "F_mean": f, "objects": objects}


def read_categories(file: Path) -> dict[str, dict[int, str]]:
    """{video: {object: category}} of a meta.json; {} where there is no such file, OSError where it is another."""
    if not file.is_file():
        return {}
    try:
        videos = load_json(file)["videos"]
        return {
            name: {int(key): str(entry.get("category", "")) for key, entry in video["objects"].items()}
            for name, video in videos.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(f"{file}: not the meta.json of YouTube-VOS ({error!r})") from None
