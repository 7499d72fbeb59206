"""Sequences of frames, and training batches made from them; sample i is a pure function of (seed, i)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dropmae.target import Target
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

    @cached_property
    def video(self) -> Video:
        return self.source if isinstance(self.source, Video) else Video(self.source)

    def __repr__(self) -> str:
        source = self.source if isinstance(self.source, (str, Path)) else type(self.source).__name__
        return f"Sequence({self.name!r}, {source}, {len(self.targets)} targets)"
