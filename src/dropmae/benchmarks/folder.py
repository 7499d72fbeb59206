"""Any folder of videos with annotation, of ours or of others: whatever it holds can be followed and scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dropmae.contracts import Benchmark
from dropmae.formats.annotations import annotation_file, read_annotations
from dropmae.metrics import flow, points
from dropmae.metrics.boxes import centre_distances, iou
from dropmae.metrics.masks import boundary_f, jaccard
from dropmae.sequence import Sequence
from dropmae.storage import below
from dropmae.target import Target, empty, mask_boxes, write_targets
from dropmae.video import Video

ENDINGS = (".jsonl", ".xml", ".json", ".csv", ".txt")
"""Of files of results."""


@dataclass(kw_only=True)
class Folder(Benchmark):
    """Boxes, masks, points and flow of a folder's annotation, each scored where truth and results have it.

    It is a `targets.jsonl`, or annotations.xml (CVAT), annotations.json (COCO), gt/gt.txt (MOT) or annotations.csv, or
    such a file given in place of the folder. An object is given in the first frame that shows it and scored in all
    later ones; a point likewise. A frame without a prediction is a miss. Results are files of any of these forms.
    """

    contours: bool = True
    """Score the contours of masks too (F)."""

    train_split = None
    prompted = "appearance"
    """What a tracker is told: each object and point in the first frame that shows it."""

    # ---------------------------------------------------------------- what is on disk

    def sequences(self, root: Path, split: str | None = None) -> list[Sequence]:
        """The annotated videos, named by their path below `root`; a split is a folder within it."""
        place = Path(root) / (split or "")
        folder = place if place.is_dir() else place.parent
        listed = {found_in(folder, name): targets for name, targets in self.annotations(place).items()}
        for name in listed:
            if not (folder / name).exists():
                file = annotation_file(place) if place.is_dir() else place
                said = "its annotation" if file is None else file.name
                raise FileNotFoundError(f"{folder / name}: no such video, but {said} speaks of it")
        return [Sequence(name, folder / name, targets) for name, targets in listed.items()]

    def annotations(self, root: Path, split: str | None = None) -> dict[str, Mapping[int, Target]]:
        """{video: {frame: Target}}, read when asked for; `root` may also be the file itself."""
        place = Path(root) / (split or "")
        folder = place if place.is_dir() else place.parent
        return read_annotations(place, size=lambda name: Video(folder / found_in(folder, name)).shape[1:3])

    def read(self, results: Path, annotations: Mapping[str, Any] | None = None) -> dict[str, Mapping[int, Target]]:
        """{video: {frame: Target}} of a file of results, or of all below a folder; read when asked for."""
        place = Path(results)
        files = [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.suffix in ENDINGS)
        files = [file for file in files if not file.name.startswith(".")]
        files = [file for file in files if file.suffix == ENDINGS[0]] or files  # beside ours other files may lie
        found: dict[str, Mapping[int, Target]] = {}
        for file in files:
            for name, targets in read_annotations(file).items():
                alike = [known for known in annotations or () if Path(known).stem == Path(name).stem]
                name = alike[0] if len(alike) == 1 else name
                if name in found:
                    raise OSError(f"{file}: {name} has results in another file too")
                found[name] = targets
        if not found:
            raise FileNotFoundError(f"{results}: no results; expected files of {', '.join(ENDINGS)}")
        return found

    def write(
        self, name: str, targets: Mapping[int, Target], out: Path, seconds: Iterable[float] | None = None
    ) -> None:
        """<out>/<name>.jsonl, whole or not at all; flow goes to `flow/` beside it."""
        write_targets(below(out, f"{name}.jsonl"), {name: targets})

    # ---------------------------------------------------------------- numbers

    def score(
        self,
        results: Mapping[str, Mapping[int, Target]],
        annotations: Mapping[str, Mapping[int, Target]],
        *,
        map: Callable = map,
    ) -> dict[str, Any]:
        """Means over the sequences that both hold, and each of them under "sequences".

        Boxes: `success_auc` (the area under the success curve, which is the mean overlap), `success_50`,
        `precision_20` (centre within 20 pixels), over the frames that show the object. Masks: `J_mean`, `F_mean`,
        `J&F_mean`. Points: `delta` (the mean of `points_within` 1, 2, 4, 8 and 16 pixels, over the frames that show the
        point), `oa` (occlusion accuracy) and `aj` (average Jaccard), as in TAP-Vid. Flow: `epe` (the mean end-point
        error, in pixels), `outliers` (off by more than 3 pixels and 5 %), `over_1px` and the like. Sequences weigh
        the same, and in each its objects. OSError where sizes differ.
        """
        rows, rest = self.measured(results, annotations, map, "results and annotations have no field in common")
        return {
            "protocol": "given once",
            **points.averaged(list(rows.values())),
            "sequences": {name: points.averaged([row]) for name, row in rows.items()},
            **rest,
        }

    def measured(
        self,
        results: Mapping[str, Mapping[int, Target]],
        annotations: Mapping[str, Mapping[int, Target]],
        map: Callable,
        lack: str,
    ) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
        """The numbers of each video that both hold; and what is missing, extra, and skipped because of a `lack`.

        OSError where no numbers are left.
        """
        names = [name for name in annotations if name in results]
        if not names:
            raise OSError("nothing to score: the results hold none of the videos")
        found = dict(zip(names, map(self.measure, names, [results[n] for n in names], [annotations[n] for n in names])))
        rows = {name: row for name, row in found.items() if row}
        if not rows:
            raise OSError(f"nothing to score: {lack}")
        missing = [name for name in annotations if name not in results]
        extra = [name for name in results if name not in annotations]
        return rows, {"missing": missing, "extra": extra, "skipped": {n: lack for n in found if n not in rows}}

    def measure(self, name: str, result: Mapping[int, Target], truth: Mapping[int, Target]) -> dict[str, float]:
        """The numbers of one sequence; empty where there is nothing to compare."""
        counts = Counts(contours=self.contours)
        for frame in sorted(truth):
            try:
                counts.add(truth[frame], result[frame] if frame in result else empty())
            except ValueError as error:
                raise OSError(f"{name}, frame {frame}: {error}") from None
            if counts.without_flow is True:
                counts.without_flow = frame
        flow_alone = not (counts.overlaps or counts.j or counts.points)
        if counts.without_flow is not None and ("flow" in counts.predicted or flow_alone):
            frame = counts.without_flow
            raise OSError(f"{name}, frame {frame}: the results have no flow, which a mean end-point error needs")
        return counts.numbers()


def found_in(folder: Path, name: str) -> str:
    """What a video is called in a folder: as its annotation calls it, or nearly so, where that leaves one."""
    if (folder / name).exists():
        return name
    plain = Path(name).name
    near = [path for path in sorted(folder.glob("*")) if plain in (path.name, path.stem) and path.suffix not in ENDINGS]
    return near[0].name if len(near) == 1 else name


@dataclass(kw_only=True, eq=False)
class Counts:
    """What the frames of one sequence add up to."""

    contours: bool
    given: set[int] = field(default_factory=set)
    """Objects that an earlier frame has shown."""
    predicted: set[str] = field(default_factory=set)
    """Fields that the results have in some frame: others are not scored."""
    overlaps: dict[int, list[float]] = field(default_factory=dict)
    distances: dict[int, list[float]] = field(default_factory=dict)
    j: dict[int, list[float]] = field(default_factory=dict)
    f: dict[int, list[float]] = field(default_factory=dict)
    shown: np.ndarray | None = None
    """bool [M]: points that an earlier frame has shown."""
    points: list[np.ndarray] = field(default_factory=list)
    """Per frame: squared distance, visible in truth, visible in the result, each [points that are scored]."""
    flow: np.ndarray = field(default_factory=lambda: np.zeros(3 + len(flow.THRESHOLDS)))
    """Sums of `metrics.flow.errors`."""
    without_flow: int | bool | None = None
    """The first frame in which the truth has flow and the result has none."""

    def add(self, truth: Target, result: Target) -> None:
        """One frame; ValueError where sizes differ."""
        present = set()
        if truth.boxes is not None:
            present |= set(truth.ids[np.isfinite(truth.boxes).all(1)].tolist())
            self.add_boxes(truth, result)
        if truth.mask is not None:
            present |= set(mask_boxes(truth.mask)[0].tolist())
            self.add_masks(truth.mask, result.mask)
        self.given |= present
        if truth.points is not None:
            self.add_points(truth, result)
        if truth.flow is not None:
            self.add_flow(truth.flow, result.flow)

    def add_boxes(self, truth: Target, result: Target) -> None:
        boxes, ids = result.boxes, result.ids
        if boxes is None and result.mask is not None:
            ids, boxes = mask_boxes(result.mask)
        if boxes is not None:
            self.predicted.add("boxes")
        assert truth.boxes is not None
        for object_id, true in zip(truth.ids.tolist(), truth.boxes):
            if object_id not in self.given or not np.isfinite(true).all():
                continue
            rows = np.flatnonzero(ids == object_id) if boxes is not None else []
            found = boxes[rows[:1]] if boxes is not None and len(rows) else np.full((1, 4), np.nan)
            hit = bool(np.isfinite(found).all())
            overlap = float(iou(found, true[None])[0]) if hit and found[0, 2:].all() else 0.0
            self.overlaps.setdefault(object_id, []).append(overlap)
            distance = float(centre_distances(found, true[None])[0]) if hit else np.inf
            self.distances.setdefault(object_id, []).append(distance)

    def add_masks(self, true: np.ndarray, found: np.ndarray | None) -> None:
        if found is not None:
            self.predicted.add("masks")
            if found.shape != true.shape:
                raise ValueError(f"a mask of {found.shape} for a video of {true.shape}")
        void = true == 255 if true.dtype == np.uint8 and (true == 255).any() else None
        for object_id in sorted(self.given):
            one = found == object_id if found is not None else np.zeros_like(true, bool)
            self.j.setdefault(object_id, []).append(jaccard(one, true == object_id, void))
            if self.contours:
                self.f.setdefault(object_id, []).append(boundary_f(one, true == object_id, void))

    def add_points(self, truth: Target, result: Target) -> None:
        assert truth.points is not None
        there = np.isfinite(truth.points[:, 0])
        visible = there & (truth.visible if truth.visible is not None else True)
        if self.shown is None:
            self.shown = np.zeros(len(visible), bool)
        if len(visible) != len(self.shown):
            raise ValueError(f"{len(visible)} points, but {len(self.shown)} in an earlier frame")
        found, seen = np.full(truth.points.shape, np.nan), np.zeros(len(visible), bool)
        if result.points is not None:
            self.predicted.add("points")
            if len(result.points) != len(found):
                raise ValueError(f"{len(result.points)} points were followed, but {len(found)} are annotated")
            found = result.points
            seen = result.visible if result.visible is not None else np.isfinite(found[:, 0])
        scored = self.shown & there
        squared = np.nan_to_num(np.square(found - truth.points).sum(1), nan=np.inf)
        self.points.append(np.stack([squared, visible, seen])[:, scored])
        self.shown |= visible

    def add_flow(self, true: np.ndarray, found: np.ndarray | None) -> None:
        if found is not None:
            self.predicted.add("flow")
            if found.shape != true.shape:
                raise ValueError(f"flow of {found.shape[:2]} for a video of {true.shape[:2]}")
        known = ~np.isnan(true[..., 0])
        if found is None:
            self.without_flow = self.without_flow if self.without_flow is not None else bool(known.any()) or None
            return
        self.flow += flow.errors(true, found)

    def numbers(self) -> dict[str, float]:
        """What can be said, by name."""
        row: dict[str, float] = {}
        if "boxes" in self.predicted and self.overlaps:
            overlaps = [np.array(values) for values in self.overlaps.values()]
            row["success_auc"] = _mean([values.mean() for values in overlaps])
            row["success_50"] = _mean([(values > 0.5).mean() for values in overlaps])
            row["precision_20"] = _mean([(np.array(values) <= 20).mean() for values in self.distances.values()])
        if "masks" in self.predicted and self.j:
            row["J_mean"] = _mean([np.mean(values) for values in self.j.values()])
            if self.contours:
                row["F_mean"] = _mean([np.mean(values) for values in self.f.values()])
                row["J&F_mean"] = (row["J_mean"] + row["F_mean"]) / 2
        if "points" in self.predicted and self.points:
            row |= points.numbers(*np.concatenate(self.points, 1))
        if "flow" in self.predicted and self.flow[0]:
            row |= {name: value for name, value in flow.numbers(self.flow).items() if value is not None}
        return row


def _mean(values: list[Any]) -> float:
    return float(np.mean(values))
