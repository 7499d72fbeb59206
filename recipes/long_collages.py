"""Collages of 12 frames of 128 x 128 pixels to learn from, twice as long as those of the benchmark `collage`.

Use: dropmae finetune tap recipes/long_collages.py=PICTURES --frames 12 --image 128 --init RUN --out OUT
"""

from __future__ import annotations

from collections.abc import Sequence as Listed
from dataclasses import dataclass
from pathlib import Path

from dropmae.benchmarks.collage import Endless, Files
from dropmae.contracts import Dataset
from dropmae.sequence import Sequence


@dataclass(kw_only=True)
class LongCollages(Dataset):
    """Clips that are made anew each time, of the files that `collage` learns from."""

    train_split = "train"

    def sequences(self, root: Path, split: str | None = None) -> Listed[Sequence]:
        files = Files.below(Path(root), "held" if split == "held" else "train")
        make = {"files": files, "frames": 12, "size": (128, 128)}
        return tuple(Endless(ground.name, None, ground=ground, **make) for ground in files.grounds)
