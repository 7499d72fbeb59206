"""Labels as YOLO's trainers read them: a text per frame, and a data.yaml with the names of the classes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dropmae.contracts import Export
from dropmae.contracts.exports import Add
from dropmae.engine import Answer
from dropmae.exports._things import clipped, frame_name, things
from dropmae.storage import replacing_files
from dropmae.video import Video


@dataclass(kw_only=True)
class YOLO(Export):
    """labels/<image>.txt with lines "class cx cy w h" in shares of the frame; empty where nothing is to be seen.

    Classes count from 0. The layout does not know which object is which.
    """

    suffixes = (".yolo.zip", ".yolo")
    needs = ("boxes", "mask")
    folders = (".yolo",)

    @contextlib.contextmanager
    def open(self, out: Path, video: Video, doubtful_below: float | None) -> Iterator[Add]:
        classes: dict[str, int] = {}
        with replacing_files(out, self.KIND) as write:

            def add(answer: Answer) -> None:
                height, width = answer.picture.shape[:2]
                lines = list[str]()
                for thing in things(answer.target):
                    box = None if thing.box is None else clipped(thing.box, height, width)
                    if box is not None:
                        x, y, w, h = box
                        shares = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                        kind = classes.setdefault(thing.name, len(classes))
                        lines.append(" ".join([str(kind), *(f"{share:.6f}" for share in shares)]) + "\n")
                name = Path(frame_name(video, answer.frame)).stem
                write(f"labels/{name}.txt", "".join(lines).encode())

            yield add
            names = "".join(f"  {number}: {json.dumps(name)}\n" for name, number in classes.items())
            write("data.yaml", f"path: .\ntrain: images\nval: images\nnames:\n{names}".encode())
