"""MOTChallenge's text (Dendorfer et al., IJCV 2021): what trackers of many objects are scored with."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dropmae.contracts import Export
from dropmae.contracts.exports import Add
from dropmae.engine import Answer
from dropmae.exports._things import Thing, frame_count, short, things
from dropmae.names import printable
from dropmae.storage import replacing, replacing_files
from dropmae.video import Video


@dataclass(kw_only=True)
class MOT(Export):
    """A line per box, frames from 1: results in a .mot.txt, or a sequence, with classes and seqinfo.ini.

    The text has frame, id, x, y, w, h, confidence and three times -1. A folder or zip has gt/gt.txt with frame, id, x,
    y, w, h, 1, class, visible share, and gt/labels.txt with the names of the classes, from 1.
    """

    suffixes = (".mot.zip", ".mot", ".mot.txt")
    needs = ("boxes", "mask")
    folders = (".mot",)

    @contextlib.contextmanager
    def open(self, out: Path, video: Video, doubtful_below: float | None) -> Iterator[Add]:
        if out.suffix.lower() == ".txt":
            with replacing(out) as partial, open(partial, "w") as stream:

                def note(answer: Answer) -> None:
                    for thing in boxed(answer):
                        score = 1.0 if thing.score is None else thing.score
                        stream.write(f"{start(answer, thing)},{score:.6f},-1,-1,-1\n")

                yield note
            return
        classes, last = dict[str, int](), 0
        with replacing_files(out, self.KIND) as write, tempfile.TemporaryFile("w+", encoding="utf-8") as lines:

            def add(answer: Answer) -> None:
                nonlocal last
                last = max(last, answer.frame)
                for thing in boxed(answer):
                    kind = classes.setdefault(thing.name, len(classes) + 1)
                    lines.write(f"{start(answer, thing)},1,{kind},1\n")

            yield add
            lines.seek(0)
            write("gt/gt.txt", lines.read().encode())
            write("gt/labels.txt", "".join(f"{name}\n" for name in classes).encode())
            write("seqinfo.ini", seqinfo(video, frame_count(video, last)).encode())


def boxed(answer: Answer) -> Iterator[Thing]:
    """The objects that have a box."""
    return (thing for thing in things(answer.target) if thing.box is not None)


def start(answer: Answer, thing: Thing) -> str:
    """The first six columns of a line."""
    assert thing.box is not None
    return ",".join([str(answer.frame + 1), str(thing.id), *map(short, thing.box)])


def seqinfo(video: Video, count: int) -> str:
    """What MOTChallenge says of a sequence."""
    rows = {"name": printable(video.name), "imDir": "img1", "frameRate": f"{video.fps:g}", "seqLength": count}
    rows |= {"imWidth": video.width, "imHeight": video.height, "imExt": ".jpg"}
    return "[Sequence]\n" + "".join(f"{key}={value}\n" for key, value in rows.items())
