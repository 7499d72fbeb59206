"""Flow as Middlebury and Sintel have it: a .flo per frame, and a PNG of what the next frame hides."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from dropmae.contracts import Export
from dropmae.contracts.exports import Add
from dropmae.engine import Answer
from dropmae.formats.flow import flo
from dropmae.formats.labels import grey_png
from dropmae.storage import replacing_files
from dropmae.video import Video


@dataclass(kw_only=True)
class Flo(Export):
    """<frame>.flo from 00000 on, pixel by pixel, and <frame>.occluded.png, white where a pixel is hidden next."""

    suffixes = (".flo", ".flo.zip")
    needs = ("flow",)
    folders = (".flo",)

    EACH: ClassVar[str] = ".flo"
    """Ending of the files."""
    encode = staticmethod(flo)
    """The bytes of flow float32 [H, W, 2]."""

    @contextlib.contextmanager
    def open(self, out: Path, video: Video, doubtful_below: float | None) -> Iterator[Add]:
        with replacing_files(out, self.KIND) as write:

            def add(answer: Answer) -> None:
                target = answer.target
                if target.flow is not None:
                    write(f"{answer.frame:05d}{self.EACH}", self.encode(target.flow))
                    if target.occluded is not None:
                        hidden = np.where(target.occluded, 255, 0).astype(np.uint8)
                        write(f"{answer.frame:05d}.occluded.png", grey_png(hidden))

            yield add
