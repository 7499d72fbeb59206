"""Labels that people bring along, in any form that `track --prompts` reads: they become what is said on the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dropmae import storage
from dropmae.engine import prompts_of
from dropmae.formats.annotations import read_annotations
from dropmae.formats.results import of_video
from dropmae.formats.rows import SIGHTED, Rows
from dropmae.opening import TEXT_BYTES, open_file
from dropmae.page.prompts import KEYS, Said
from dropmae.page.uploads import file_name
from dropmae.page.work import Work
from dropmae.target import Target, target_lines

FILES = 10_000
"""Most files that are brought at once."""


def read(path: Path, folder: Path, work: Work, frame: int) -> None:
    """Says what files tell of a video; ValueError or OSError, with nothing changed, where they tell nothing of it.

    The file `path` has their names and lengths as a line of JSON, then the files one behind the other, which are
    laid out in `folder`. One PNG alone is about `frame`, others about those that their names tell.
    """
    with open_file(path) as stream:
        parts = listed(stream.readline(TEXT_BYTES))
        for name, length in parts:
            storage.write_bytes(folder / name, stream.read(length))
    alone = parts[0][0] if len(parts) == 1 else ""
    told = told_of(folder / alone if alone else folder, work)
    if alone.lower().endswith(".png"):
        told = {frame: next(iter(told.values()))}
    frames, names = dict(work.prompts.said.frames), dict(work.prompts.said.names)
    for number, target in told.items():
        if not 0 <= number < work.count:
            raise ValueError(f"{alone or 'the labels'}: frame {number} is none of the {work.count} frames")
        lines = [line for text in target_lines("", number, target) if (line := said(json.loads(text)))]
        fresh = {line["id"] for line in lines}
        kept = [line for line in frames.get(number, ()) if line["id"] not in fresh]
        if lines:
            frames[number] = work.prompts.checked([*kept, *lines])
        called = zip(target.ids.tolist(), target.names or ())
        names |= {number: name[:200] for number, name in called if name and number}
    if frames == work.prompts.said.frames:
        raise ValueError(f"{alone or 'the files'}: nothing new is said there about {work.name}")
    work.prompts.change(Said(dict(sorted(frames.items())), names))
    work.said()


def listed(line: bytes) -> list[tuple[str, int]]:
    """Names, as those of files of ours, and lengths; ValueError where a line tells none."""
    try:
        parts = [(file_name(str(name)), int(length)) for name, length in json.loads(line)]
    except (ValueError, TypeError, RecursionError):
        raise ValueError("the files are not listed") from None
    if not 0 < len(parts) <= FILES or len({name for name, _ in parts}) < len(parts):
        raise ValueError(f"there are {len(parts)} files, or two of a name, where 1 to {FILES:,} are taken")
    if any(length < 0 for _, length in parts):
        raise ValueError("a file has a length")
    return parts


def told_of(path: Path, work: Work) -> Mapping[int, Target]:
    """{frame: what a file or folder says of the video}; of a detector's file the first sight of each object."""
    try:
        found = read_annotations(path, size=lambda _: work.size)
        told = of_video(path, found, (work.video.name, Path(work.name).stem))
        if isinstance(told, Rows) and told.sightings:
            return prompts_of(told, "appearance", SIGHTED)
        return dict(told.items())
    except (OSError, ValueError) as error:  # where it lies here is nobody's business
        raise ValueError(str(error).replace(f"{path}/", "").replace(f"{path.parent}/", "")) from None


def said(line: dict[str, Any]) -> dict[str, Any] | None:
    """A line of a targets.jsonl as the page keeps it; None where it shows nothing of an object."""
    own = {key: line[key] for key in KEYS if line.get(key) is not None}
    if own.get("mask") and len(own["mask"]["counts"]) < 2:
        del own["mask"]
    if "mask" in own:
        own.pop("box", None)
    if "points" in own and line.get("visible") is not None:
        own["visible"] = line["visible"]
    return {"id": line["id"], **own} if own and line.get("id") else None
