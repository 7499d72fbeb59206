"""What anybody found, or drew by hand, in one video: lines, boxes in text, label maps, or a folder of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dropmae.formats.annotations import annotation_file, read_annotations
from dropmae.formats.boxes import ResultFiles, read_boxes
from dropmae.formats.labels import LabelFolder
from dropmae.opening import read_text
from dropmae.target import Target


def read_results(path: Path, names: Sequence[str]) -> Mapping[int, Target]:
    """{frame: Target} of the video that goes by one of `names`, from any of these:

    - a targets.jsonl, or an annotation file of CVAT, COCO or MOT, about this video or about one video only;
    - a text file with a box x y w h per line, from frame 0 on (an OTB or LaSOT ground truth too, whose pixels begin at
      1: they are taken as they are);
    - a folder of label maps <frame>.png;
    - a folder or zip in which one of these goes by the video's name: what `evaluate` writes, an evaluator's results.

    FileNotFoundError or ValueError of one line where there is none.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder of results")
    if path.suffix.lower() in (".jsonl", ".xml", ".json", ".csv", ".png"):
        return of_video(path, read_annotations(path), names)
    if path.suffix == ".txt" and not of_mot(path):
        return boxes_by_frame(read_boxes(path))
    if path.suffix == ".txt":
        return of_video(path, read_annotations(path), names)
    if path.is_dir():
        for folder in (path, *(path / part / name for part in (".", "predictions") for name in names)):
            if labels := LabelFolder(folder).files:
                return LabelFolder(folder, files=labels)
        if file := annotation_file(path):
            return of_video(file, read_annotations(file), names)
        for name in names:
            if (path / f"{name}.jsonl").is_file():
                return read_results(path / f"{name}.jsonl", names)
    try:
        found = ResultFiles(path).result(names)
    except (FileNotFoundError, NotADirectoryError):
        found = None
    if found is None:
        raise FileNotFoundError(
            f"{path}: holds nothing for {' or '.join(names)}; results are a targets.jsonl, a .txt of boxes, a folder "
            "of <frame>.png, or a folder or zip that holds them under the video's name"
        )
    return boxes_by_frame(found.runs[0])


def of_video(path: Path, listed: Mapping[str, Mapping[int, Target]], names: Sequence[str]) -> Mapping[int, Target]:
    """The Targets of the video that goes by one of `names`, or of the only one that is listed."""
    fitting = [video for video in listed if Path(video).stem in names] if len(listed) > 1 else list(listed)
    if len(fitting) != 1:
        raise ValueError(f"{path} has lines about {len(listed)} videos, {len(fitting)} of them called {names[0]}")
    return listed[fitting[0]]


def of_mot(path: Path) -> bool:
    """Whether the lines of a text are MOT's, of six numbers and more, and not boxes of four."""
    line = next((line for line in read_text(path).splitlines() if line.strip()), "")
    return len(re.findall(r"[^,;\s]+", line)) >= 6


def boxes_by_frame(boxes: np.ndarray) -> dict[int, Target]:
    """{frame: Target} of boxes [T, 4] of one object, from frame 0 on."""
    return {frame: Target(ids=np.array([1]), boxes=box[None]) for frame, box in enumerate(boxes)}


def distinct_names(paths: Sequence[str | Path]) -> list[str]:
    """A short name for each of several results: the last part of its path that not all of them share.

    results/KCF/Dog1.txt beside results/ours/Dog1.txt are KCF and ours. Names that are still the same are numbered.
    """
    parts = [(*Path(path).absolute().parts[:-1], Path(path).stem) for path in paths]
    depths = range(1, min(map(len, parts), default=1) + 1)
    depth = next((depth for depth in depths if len({own[-depth] for own in parts}) > 1), 1)
    found = [own[-depth] for own in parts]
    repeated = {name for name in found if found.count(name) > 1}
    return [f"{name} {found[: row + 1].count(name)}" if name in repeated else name for row, name in enumerate(found)]
