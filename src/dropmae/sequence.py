"""A named video with what is known about its frames: what data sets consist of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dropmae.formats.tracks import Truth
from dropmae.target import Target

if TYPE_CHECKING:
    from dropmae.video import Video


@dataclass(eq=False)
class Sequence:
    """A named video with what is known about its frames; the video is opened at first use.

    `source` is a path (file, folder of images), an array or a Video; `targets` maps frame indices to Targets and is
    empty for unlabelled video.
    """

    name: str
    source: Any
    targets: Mapping[int, Target] = field(default_factory=dict)
    fps: float | None = None
    """Frames per second, where the source does not tell or is wrong: folders of images."""
    short_side: int | None = None
    """Scale frames down to this short side while they are decoded."""

    @cached_property
    def video(self) -> Video:
        """The frames; of a one-pass benchmark those that are annotated, should there be more."""
        from dropmae.video import Video  # opens files of all kinds, which scoring does not

        known = isinstance(self.source, Video)
        video = self.source if known else Video(self.source, fps=self.fps, short_side=self.short_side)
        extent = self.targets.extent if isinstance(self.targets, Truth) else None
        return video if extent is None or extent >= len(video) else video[:extent]

    def drawn(self, rng: np.random.Generator) -> Sequence:
        """What a sample is taken of: this one, or, in data sets that make up labels, one made of it at random."""
        return self

    def __repr__(self) -> str:
        source = self.source if isinstance(self.source, (str, Path)) else type(self.source).__name__
        return f"Sequence({self.name!r}, {source}, {len(self.targets)} targets)"
