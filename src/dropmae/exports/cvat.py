"""CVAT for video 1.1: the XML that the annotation tool imports and exports."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from dropmae.contracts import Export
from dropmae.contracts.exports import Add
from dropmae.engine import Answer
from dropmae.exports._order import ascending
from dropmae.exports._things import Thing, frame_count, short, things
from dropmae.formats.rle import crop_runs
from dropmae.names import printable
from dropmae.storage import mark, replacing
from dropmae.video import Video


@dataclass(kw_only=True, eq=False)
class Lane:
    """The shapes of one object, frame after frame."""

    name: str
    lines: Any
    """Where they wait, since a file has one object after the other; on disk once they are many."""
    last: tuple[int, str] | None = None
    """The frame it was seen in last, and its shape there; None where it has gone since."""


@dataclass(kw_only=True)
class CVAT(Export):
    """A track per object, of masks, or of boxes where there are none; a frame that does not show it ends it there.

    So does one that was not answered: else the tool would put in what lies between its neighbours.
    """

    suffixes = (".cvat.xml", ".xml")
    needs = ("boxes", "mask")
    every_frame = True

    @contextlib.contextmanager
    def open(self, out: Path, video: Video, doubtful_below: float | None) -> Iterator[Add]:
        lanes: dict[int, Lane] = {}
        with contextlib.ExitStack() as stack, replacing(out) as partial, open(partial, "w", encoding="utf-8") as stream:

            def add(answer: Answer) -> None:
                for thing in things(answer.target):
                    if thing.id not in lanes:
                        lanes[thing.id] = Lane(
                            name=thing.name,
                            lines=stack.enter_context(tempfile.SpooledTemporaryFile(1 << 20, "w+", encoding="utf-8")),
                        )
                    lane = lanes[thing.id]
                    if (made := shape(thing)) is not None:
                        lane.lines.write(placed(made, answer.frame, outside=False))
                        lane.last = (answer.frame, made)
                    elif lane.last is not None:
                        lane.lines.write(placed(lane.last[1], answer.frame, outside=True))
                        lane.last = None
                for lane in (lane for number, lane in lanes.items() if lane.last and lane.last[0] != answer.frame):
                    assert lane.last is not None
                    lane.lines.write(placed(lane.last[1], answer.frame, outside=True))
                    lane.last = None

            last = 0
            with ascending(add, video) as ordered:

                def note(answer: Answer) -> None:
                    nonlocal last
                    last = max(last, answer.frame)
                    ordered(answer)

                yield note
            count = frame_count(video, last)
            stream.write('<?xml version="1.0" encoding="utf-8"?>\n')
            stream.write(f"<!-- {mark(self.KIND)} -->\n<annotations>\n  <version>1.1</version>\n")
            stream.write(meta(video, count, list(dict.fromkeys(lane.name for lane in lanes.values()))))
            for number, lane in sorted(lanes.items()):
                stream.write(f'  <track id="{number}" label={quoteattr(lane.name)} source="auto">\n')
                lane.lines.seek(0)
                for part in iter(lambda lines=lane.lines: lines.read(1 << 20), ""):
                    stream.write(part)
                if lane.last is not None and lane.last[0] + 1 < count:  # else CVAT keeps it to the end
                    stream.write(placed(lane.last[1], lane.last[0] + 1, outside=True))
                stream.write("  </track>\n")
            stream.write("</annotations>\n")


def shape(thing: Thing) -> str | None:
    """The element of an object in a frame, with {} where its frame goes; None where it is not to be seen."""
    if thing.box is None:
        return None
    if thing.mask is not None:
        runs, (left, top, width, height) = crop_runs(thing.mask)
        text = ", ".join(map(str, runs))
        return (
            f'<mask {{}} rle="{text}" left="{left}" top="{top}" width="{width}" height="{height}" z_order="0"></mask>'
        )
    x, y, w, h = thing.box
    corners = f'xtl="{short(x)}" ytl="{short(y)}" xbr="{short(x + w)}" ybr="{short(y + h)}"'
    return f'<box {{}} {corners} z_order="0"></box>'


def placed(made: str, frame: int, *, outside: bool) -> str:
    """A line with a shape in a frame; `outside` says that from there on the object is not to be seen."""
    return "    " + made.format(f'frame="{frame}" outside="{int(outside)}" occluded="0" keyframe="1"') + "\n"


def meta(video: Video, count: int, names: list[str]) -> str:
    """What is said of the whole: the video, its frames, its labels."""
    title = escape(printable(video.name if video.path is None else video.path.name))
    labels = "".join(
        f"        <label>\n          <name>{escape(name)}</name>\n          <attributes>\n          </attributes>\n"
        "        </label>\n"
        for name in names
    )
    return (
        f"  <meta>\n    <task>\n      <name>{title}</name>\n      <size>{count}</size>\n"
        "      <mode>interpolation</mode>\n      <overlap>0</overlap>\n      <bugtracker></bugtracker>\n"
        f"      <flipped>False</flipped>\n      <labels>\n{labels}      </labels>\n"
        f"      <original_size>\n        <width>{video.width}</width>\n        <height>{video.height}</height>\n"
        f"      </original_size>\n      <source>{title}</source>\n    </task>\n  </meta>\n"
    )
