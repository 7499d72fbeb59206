"""A cut-out as pictures: a PNG with alpha per frame."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dropmae.contracts.exports import Add
from dropmae.engine import Answer
from dropmae.exports._cutouts import CutOut, cut_out
from dropmae.exports._mattes import Edges
from dropmae.exports._order import ascending
from dropmae.storage import replacing_files
from dropmae.video import Video


@dataclass(kw_only=True)
class RGBA(CutOut):
    """<frame>.png from 00000 on, of the frames that were followed."""

    suffixes = (".rgba.zip", ".rgba")
    folders = (".rgba",)

    @contextlib.contextmanager
    def open(self, out: Path, video: Video, doubtful_below: float | None) -> Iterator[Add]:
        edges = Edges(soft=self.edge == "soft")
        with replacing_files(out, self.KIND) as write:

            def add(answer: Answer) -> None:
                buffer = io.BytesIO()
                Image.fromarray(cut_out(edges, answer)[0]).save(buffer, "PNG", compress_level=1)
                write(f"{answer.frame:05d}.png", buffer.getvalue())

            with ascending(add, video) as ordered:
                yield ordered
