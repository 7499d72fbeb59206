"""Work in a file: what was said and found in a video, to go on with at another time. The video itself is not in it.

A line of JSON, then the answers one behind the other as `answers.packed` makes them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from dropmae.engine import pictures
from dropmae.opening import TEXT_BYTES, open_file
from dropmae.page.answers import packed, unpacked
from dropmae.page.prompts import Said, checked_names
from dropmae.page.work import Work
from dropmae.storage import mark, replacing

SUFFIX = ".dropmae"
KIND = "work on a video"


def write(work: Work, out: Path) -> None:
    """Writes a work, whole or not at all."""
    if work.recording is not None and work.recording.on:
        raise ValueError("stop the recording first: work is saved on a whole video")
    index, parts = [], {direction: one.answers for direction, one in work.every.items()}
    for direction, found in parts.items():
        index += [[direction, frame, place.length, place.key] for frame, place in sorted(found.places.items())]
    head = {
        "by": mark(KIND),
        "name": work.name,
        "video": identity(work),
        "weights": work.spec,
        "prompts": {str(frame): list(lines) for frame, lines in work.prompts.said.frames.items()},
        "names": {str(number): name for number, name in work.prompts.said.names.items()},
        "origins": {str(direction): one.origin for direction, one in work.every.items()},
        "order": work.order,
        "answers": index,
    }
    with replacing(out) as partial, open(partial, "wb") as stream:
        stream.write(json.dumps(head).encode() + b"\n")
        for direction, frame, *_ in index:
            stream.write(packed(parts[direction][frame]))


def read(path: Path, work: Work) -> None:
    """Goes on with saved work; ValueError, with nothing changed, where it is none or of another video."""
    with open_file(path) as stream:
        head = header(stream.readline(TEXT_BYTES))
        if head["video"] != identity(work):
            raise ValueError(f"this was saved from {str(head.get('name'))[:200]!r}, which is not the video shown here")
        try:
            index = [(int(sign), int(frame), int(length), str(key)) for sign, frame, length, key in head["answers"]]
            frames = {int(frame): work.prompts.checked(lines) for frame, lines in head["prompts"].items()}
            names, order = checked_names(head["names"]), [int(sign) for sign in head["order"]]
            origins = {int(sign): None if origin is None else int(origin) for sign, origin in head["origins"].items()}
            origins = {0: None, **origins}  # work that was saved before cameras has none that was live
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the saved work is damaged ({error})") from None
        inside = {frame for _, frame, *_ in index} | {*frames, *origins.values()} - {None}
        if sorted(order) != [-1, 1] or set(origins) != {-1, 0, 1} or not inside <= set(range(work.count)):
            raise ValueError("the saved work speaks of frames that are not there")
        found = []
        for direction, frame, length, key in index:
            kept = unpacked(stream.read(max(0, min(length, TEXT_BYTES))))
            mask = kept.target.mask
            if direction not in origins or (mask is not None and mask.shape != work.size):
                raise ValueError("the saved work has answers that do not fit the video")
            found.append((direction, frame, kept, key))
    work.prompts.change(Said(dict(sorted(frames.items())), names))
    work.said()
    for direction, one in work.every.items():
        one.reset()
        one.origin = origins[direction]
        one.tell(work.prompts.targets)
    for direction, frame, kept, key in found:
        work.every[direction].answers.put(frame, kept, key)
    work.order = order


def header(line: bytes) -> dict[str, Any]:
    try:
        head = json.loads(line)
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict) or head.get("by") != mark(KIND) or not isinstance(head.get("video"), dict):
        raise ValueError("this file is no saved work")
    return head


def identity(work: Work) -> dict[str, Any]:
    """By which a video is known again: its name may change, its first picture does not."""
    _, picture = next(pictures(work.video, [0]))
    data = b"" if isinstance(picture, OSError) else picture.tobytes()
    height, width = work.size
    digest = hashlib.sha256(data).hexdigest()
    return {"frames": work.count, "height": height, "width": width, "first": digest}
