"""Label maps as DAVIS has them: a PNG per frame, whose pixels are the numbers of objects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dropmae.contracts import Export
from dropmae.contracts.exports import Add
from dropmae.engine import Answer
from dropmae.formats.labels import NAMED, label_png, name_lines
from dropmae.storage import replacing_files
from dropmae.video import Video


@dataclass(kw_only=True)
class Masks(Export):
    """<frame>.png from 00000 on, as large as the frames, without losses, with the usual palette.

    Where objects have names, labelmap.txt has them, in CVAT's lines name:r,g,b::.
    """

    suffixes = (".masks.zip", ".masks")
    needs = ("mask",)
    folders = (".masks",)

    @contextlib.contextmanager
    def open(self, out: Path, video: Video, doubtful_below: float | None) -> Iterator[Add]:
        names = dict[int, str]()
        with replacing_files(out, self.KIND) as write:

            def add(answer: Answer) -> None:
                told = answer.target.names or []
                names.update((i, name) for i, name in zip(answer.target.ids.tolist(), told) if name)
                if answer.target.mask is not None:
                    write(f"{answer.frame:05d}.png", label_png(answer.target.mask))

            yield add
            if names:
                write(NAMED, name_lines(names).encode())
