"""TAP-Vid and RoboTAP: any point through real and rendered videos (Doersch et al., NeurIPS 2022, arXiv 2211.03726)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from dropmae.contracts import Benchmark
from dropmae.formats.pickled import read_pickled
from dropmae.metrics import points
from dropmae.names import printable, relative
from dropmae.opening import Archive, open_image
from dropmae.sequence import Sequence
from dropmae.storage import below, replacing
from dropmae.target import Target
from dropmae.video import Video

RASTER = 256
"""Pixels of the square in which everything is measured."""
STRIDE = 5
"""Frames between the queries of the strided mode."""
Resize = Literal["lanczos", "bilinear"]
FILTERS = {"lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR}


@dataclass(kw_only=True)
class TAPVid(Benchmark):
    """Average Jaccard (aj), position accuracy (delta) and occlusion accuracy (oa) of points at 256 x 256 pixels.

    <root> is a .pkl file or holds some, DAVIS, RGB-Stacking, Kinetics or RoboTAP alike: a dictionary or a list of
    {video, points, occluded}, where a video is uint8 [T, H, W, 3] or a list of JPEGs. They are read as data, and what
    they would run is refused. Results are <video>.npz with `tracks` [N, T, 2] (x, y in pixels of the 256 x 256 raster)
    and `occluded` [N, T], a row for each query.
    """

    queries: Literal["first", "strided"] = "first"
    """first: each point is asked for in the first frame that shows it, and judged after that. strided: in every fifth
    frame that shows it, and judged in all other frames, before it too."""
    resize: Resize = "lanczos"
    """How frames are brought to the square that trackers see: as the evaluation of TAP-Vid does, or bilinear, as in
    Chrono's and others'. A number without it means little."""
    side: int = RASTER
    """Side of that square in pixels; results of more than 256 are a category of their own."""
    raster: Literal["tapnet", "cotracker"] = "tapnet"
    """Places in shares of a side are multiplied by its pixels, or (CoTracker and those who follow it) by one less."""

    prompted = "appearance"

    def __post_init__(self) -> None:
        for name, known in (("queries", ("first", "strided")), ("resize", get_args(Resize))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.side < 16:
            raise ValueError(f"side must be at least 16 pixels, not {self.side}")
        if self.queries == "strided":
            self.direction = "both"  # pyrefly: ignore

    # ---------------------------------------------------------------- what is on disk

    def clips(self, root: Path) -> dict[str, Clip]:
        """{name: Clip} of a file or of all .pkl files in a folder; OSError where one holds anything else."""
        root = Path(root)
        files = [root] if root.is_file() else sorted(root.glob("*.pkl")) or sorted(root.glob("*/*.pkl"))
        if not files:
            raise FileNotFoundError(f"{root}: holds no .pkl file of TAP-Vid")
        found: dict[str, Clip] = {}
        for file in files:
            held = read_pickled(file)
            if isinstance(held, list):
                held = {f"{file.stem}_{number:04d}": one for number, one in enumerate(held)}
            if not isinstance(held, dict) or not held:
                raise OSError(f"{file}: neither a dictionary nor a list of videos with points")
            for name, one in held.items():
                if name in found:
                    raise OSError(f"{file}: {printable(name)} is in another file too")
                found[relative(str(name), file)] = self.clip(file, str(name), one)
        return found

    def clip(self, file: Path, name: str, held: Any) -> Clip:
        """One video and its queries."""
        where = f"{file}: {printable(name)}"
        if not isinstance(held, dict) or not {"video", "points", "occluded"} <= set(held):
            raise OSError(f"{where} is no video with points: video, points and occluded are needed")
        places, hidden = held["points"], held["occluded"]
        if not all(isinstance(one, np.ndarray) for one in (places, hidden)) or places.shape != (*hidden.shape, 2):
            raise OSError(f"{where}: points are [N, T, 2] and occluded [N, T]")
        shown = places[~np.asarray(hidden, bool)]
        if not np.all(np.abs(shown) <= 2):  # some lie a little outside
            raise OSError(f"{where}: points are shares of a frame's sides, and finite where they are seen")
        scale = self.side - (self.raster == "cotracker")
        places = np.asarray(places, np.float64) * scale
        visible = ~np.asarray(hidden, bool)
        video = held["video"]
        length = len(video) if isinstance(video, (np.ndarray, list)) else -1
        pictures = isinstance(video, np.ndarray)
        wrong = pictures and (video.ndim != 4 or video.shape[3] != 3 or video.dtype != np.uint8)
        if length != places.shape[1] or wrong:
            raise OSError(f"{where}: a video of {places.shape[1]} frames is needed, uint8 [T, H, W, 3] or JPEGs")
        if self.queries == "first":
            rows = np.flatnonzero(visible.any(1))
            asked = visible[rows].argmax(1)
        else:
            frames = np.arange(0, length, STRIDE)
            asked, rows = (part.ravel() for part in np.meshgrid(frames, np.arange(len(places)), indexing="ij"))
            rows, asked = rows[visible[rows, asked]], asked[visible[rows, asked]]
        return Clip(where, video, places[rows], visible[rows], asked)

    def sequences(self, root: Path, split: str | None = None) -> list[Sequence]:
        """The videos, brought to the square; in strided mode with what is asked alone."""
        if split not in (None, "train"):
            raise ValueError(f"TAP-Vid has no split {split!r}: give the file of a part, as tapvid_davis.pkl, as root")
        found: list[Sequence] = []
        for name, clip in self.clips(root).items():
            if len(clip.asked):
                known = clip.targets() if self.queries == "first" else clip.prompts()
                found.append(Squared(name, None, known, clip=clip, side=self.side, resize=self.resize))
        if not found:
            raise OSError(f"{root}: no point of any video can ever be seen")
        return found

    def annotations(self, root: Path, split: str | None = None) -> dict[str, Clip]:
        return self.clips(root)

    def read(self, results: Path, annotations: Mapping[str, Clip]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """{video: (tracks [N, T, 2], occluded [N, T])} of the .npz files in `results`."""
        found = {}
        for name in annotations:
            file = below(results, f"{name}.npz")
            if file.is_file():
                with Archive(file) as archive:
                    try:
                        tracks, hidden = archive.array("tracks.npy"), archive.array("occluded.npy")
                    except KeyError:
                        raise OSError(f"{file}: holds no tracks and occluded") from None
                if tracks.dtype.kind not in "fiu" or tracks.ndim != 3 or tracks.shape[2] != 2:
                    raise OSError(f"{file}: tracks are numbers [N, T, 2], not {tracks.dtype} {list(tracks.shape)}")
                if hidden.dtype.kind not in "biuf" or np.isnan(hidden).any():
                    raise OSError(f"{file}: occluded tells yes or no of each, not {hidden.dtype} or NaN")
                found[name] = (tracks, hidden > 0)
        if not found:
            raise FileNotFoundError(f"{results}: no results; expected {next(iter(annotations), 'VIDEO')}.npz")
        return found

    def write(
        self, name: str, targets: Mapping[int, Target], out: Path, seconds: Iterable[float] | None = None
    ) -> None:
        """<out>/<video>.npz; frames without an answer are hidden, at NaN."""
        count = max((len(target.points) for target in targets.values() if target.points is not None), default=0)
        length = max(targets) + 1
        tracks, hidden = np.full((length, count, 2), np.nan, np.float32), np.ones((length, count), bool)
        for frame, target in targets.items():
            if target.points is not None:
                tracks[frame] = target.points * (RASTER / self.side)
                hidden[frame] = ~(np.isfinite(target.points[:, 0]) if target.visible is None else target.visible)
        with replacing(below(out, f"{name}.npz")) as partial, open(partial, "wb") as stream:
            np.savez(stream, tracks=tracks.swapaxes(0, 1), occluded=hidden.T)

    # ---------------------------------------------------------------- numbers

    def score(
        self, results: Mapping[str, Any], annotations: Mapping[str, Clip], *, map: Callable = map
    ) -> dict[str, Any]:
        """aj, delta, oa, `aj_redetected` (aj from where points come back into sight) and the parts: means over videos.

        OSError where results have another number of queries or fewer frames than their video.
        """
        names = [name for name in annotations if name in results]
        rows = dict(zip(names, map(self.measure, names, [results[n] for n in names], [annotations[n] for n in names])))
        skipped = {
            name: "no point that can be seen in another frame than its own" for name, row in rows.items() if not row
        }
        rows = {name: row for name, row in rows.items() if row}
        if not rows:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
            raise OSError(f"nothing to score: {reasons or 'the results hold none of the videos'}")
        return {
            "protocol": self.queries,
            "input": f"{self.side}x{self.side}, {self.resize}",
            **points.averaged(list(rows.values())),
            "sequences": {name: points.averaged([row]) for name, row in rows.items()},
            "missing": [name for name in annotations if name not in results],
            "skipped": skipped,
        }

    def measure(self, name: str, result: tuple[np.ndarray, np.ndarray], clip: Clip) -> dict[str, float]:
        """The numbers of one video; empty where there is nothing to judge."""
        tracks, hidden = result
        count, length = clip.visible.shape
        if tracks.ndim != 3 or len(tracks) != count or tracks.shape[1] < length or hidden.shape != tracks.shape[:2]:
            raise OSError(f"{name}: tracks {list(tracks.shape)} for {count} queries and {length} frames")
        truth = clip.places * (RASTER / self.side)
        off = tracks[:, :length].astype(np.float64) - truth
        squared = np.nan_to_num(np.square(off).sum(-1), nan=np.inf)
        frames = np.arange(length)
        counted = frames > clip.asked[:, None] if self.queries == "first" else frames != clip.asked[:, None]
        seen = ~hidden[:, :length]
        found = points.numbers(squared[counted], clip.visible[counted], seen[counted])
        again = points.returned(clip.visible, counted, clip.asked)
        back = points.numbers(squared[again], clip.visible[again], seen[again])
        return found | ({"aj_redetected": back["aj"]} if found and back else {})


@dataclass(eq=False)
class Clip:
    """One video and its queries; places are in pixels of the square."""

    where: str
    video: Any
    places: np.ndarray
    """float64 [N, T, 2], a row for each query."""
    visible: np.ndarray
    """bool [N, T]"""
    asked: np.ndarray
    """int64 [N]: the frame of each query."""

    def targets(self) -> dict[int, Target]:
        """What is known of all frames."""
        nobody = np.zeros(0, np.int64)
        return {
            t: Target(ids=nobody, points=self.places[:, t], visible=self.visible[:, t].copy())
            for t in range(self.places.shape[1])
        }

    def prompts(self) -> dict[int, Target]:
        """What is asked for: each point in its own frame, NaN in the others."""
        made = {}
        for frame in np.unique(self.asked).tolist():
            mine = self.asked == frame
            places = np.where(mine[:, None], self.places[:, frame], np.nan)
            made[frame] = Target(ids=np.zeros(0, np.int64), points=places, visible=mine)
        return made


@dataclass(eq=False, repr=False)
class Squared(Sequence):
    """A video of TAP-Vid, brought to a square when its frames are asked for."""

    clip: Clip = field(kw_only=True)
    side: int = RASTER
    resize: Resize = "lanczos"

    @cached_property
    def video(self) -> Video:
        frames = []
        for number, frame in enumerate(self.clip.video):
            if isinstance(frame, np.ndarray):
                picture = Image.fromarray(frame)
            else:
                with open_image(bytes(frame), f"{self.clip.where}, frame {number}") as opened:
                    picture = opened.convert("RGB")
            frames.append(np.asarray(picture.resize((self.side, self.side), FILTERS[self.resize])))
        return Video(np.stack(frames))
