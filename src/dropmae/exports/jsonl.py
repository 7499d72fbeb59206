"""targets.jsonl: a line per frame and object, with everything that is known."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dropmae.contracts import Export
from dropmae.contracts.exports import Add
from dropmae.engine import Answer
from dropmae.names import as_name
from dropmae.storage import check_output, mark, replacing
from dropmae.target import DENSE, dense_file, target_lines
from dropmae.video import Video


@dataclass(kw_only=True)
class JSONL(Export):
    """The lines of a targets.jsonl; flow and what belongs to it goes to NAME.flow.npz beside it."""

    suffixes = (".jsonl",)

    def check(self, out: Path, inputs: Iterable[Any] = (), *, overwrite: bool = False) -> None:
        inputs = list(inputs)
        super().check(out, inputs, overwrite=overwrite)
        check_output(flow_file(out), self.KIND, inputs, overwrite=overwrite)

    @contextlib.contextmanager
    def open(self, out: Path, video: Video, doubtful_below: float | None) -> Iterator[Add]:
        name, flows = called(video, out.parent), flow_file(out)
        times = video.times if video.stamped else None
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(open(stack.enter_context(replacing(out)), "w"))
            dense, first = None, True

            def add(answer: Answer) -> None:
                nonlocal dense, first
                if any(getattr(answer.target, field) is not None for field in DENSE):
                    dense = dense or stack.enter_context(dense_file(flows, self.KIND))
                    dense(answer.frame, answer.target)
                now = None if times is None else float(times[answer.frame])
                lines = target_lines(name, answer.frame, answer.target, flows.name, now)
                if first and lines:
                    lines[0], first = json.dumps({**json.loads(lines[0]), "by": mark(self.KIND)}), False
                stream.writelines(f"{line}\n" for line in lines)

            yield add


def flow_file(out: Path) -> Path:
    """The file beside lines that holds flow, if there is any."""
    return out.with_suffix(".flow.npz")


def called(video: Video, folder: Path) -> str:
    """What lines call a video: its path below the folder they are in, else the file's name; its name if it is no file.

    Names of sequences do not lead out of their folder: to learn from what is written, write it beside the video. What
    could not be read as a name, a line end in it say, is written as an escape.
    """
    path = video.name if video.path is None else os.path.relpath(video.path, folder)
    path = video.path.name if video.path is not None and path.startswith("..") else path
    return as_name(path)
