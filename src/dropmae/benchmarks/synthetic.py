"""A fixed set of rendered clips with exact annotation: the only benchmark that needs no data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dropmae.benchmarks.folder import Folder
from dropmae.target import Target

if TYPE_CHECKING:
    from dropmae.data.clips import Sequence


@dataclass(kw_only=True)
class Synthetic(Folder):
    """Boxes, masks, points and flow on clips that are rendered into `root` once, and scored as a folder is.

    The default seed is not that of `dropmae synth`, so that an encoder trained on those has not seen these.
    """

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
        if split is not None:
            raise ValueError(f"the synthetic benchmark has no split {split!r}; another seed gives other clips")
        self.prepare(root)
        return super().sequences(root)

    def annotations(self, root: Path, split: str | None = None) -> dict[str, Mapping[int, Target]]:
        """What is known of the clips; see `sequences`."""
        if split is not None:
            raise ValueError(f"the synthetic benchmark has no split {split!r}; another seed gives other clips")
        if not Path(root).is_file():
            self.prepare(root)
        return super().annotations(root)
