"""A fixed set of rendered clips with exact annotation: the only benchmark that needs no data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dropmae.benchmarks.folder import Folder
from dropmae.sequence import Sequence
from dropmae.target import Target


@dataclass(kw_only=True)
class Synthetic(Folder):
    """Boxes, masks, points and flow on clips that are rendered into `root` once, and scored as a folder is.

    The default seed is not that of `dropmae synth`, so that an encoder trained on those has not seen these.
    """

    train_split = "train"

    clips: int = 20
    """How many clips."""
    frames: int = 32
    """Frames per clip."""
    size: tuple[int, int] = (256, 256)
    """Height and width in pixels."""
    objects: tuple[int, int] = (1, 4)
    """Fewest and most objects per clip."""
    seed: int = 1_000_003
    """Another seed is another benchmark."""

    def prepare(self, root: Path) -> None:
        """Renders what is missing in `root`; ValueError where it holds other clips or anything else."""
        from dropmae.rendering.synth import synth

        settings = {"frames": self.frames, "size": self.size, "objects": self.objects}
        synth(str(root), clips=self.clips, seed=self.seed, **settings)

    def sequences(self, root: Path, split: str | None = None) -> list[Sequence]:
        """The clips, rendered into `root` where they are not there yet; there are no splits."""
        self.check_split(split)
        self.prepare(root)
        return super().sequences(root)

    def annotations(self, root: Path, split: str | None = None) -> dict[str, Mapping[int, Target]]:
        """What is known of the clips; see `sequences`."""
        self.check_split(split)
        if not Path(root).is_file():
            self.prepare(root)
        return super().annotations(root)

    @staticmethod
    def check_split(split: str | None) -> None:
        if split == "train":
            raise ValueError("synthetic is for testing; render other clips with dropmae synth and give the folder")
        if split is not None:
            raise ValueError(f"the synthetic benchmark has no split {split!r}; another seed gives other clips")
