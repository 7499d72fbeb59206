"""The command line that does what was done on the page."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from dropmae.page.prompts import plain_name
from dropmae.target import Target


def command(work: Any) -> str:
    """`dropmae track ...` with what is said; empty where nothing is, and where the video is still being recorded."""
    told: dict[int, Target] = work.prompts.targets
    if not told or (work.recording is not None and work.recording.on):
        return ""
    stem = Path(work.name).stem
    words = ["dropmae", "track", work.path, *prompt_words(told, work.prompts.said.names, stem)]
    if work.engines.spec is not None:
        words += ["--weights", work.engines.spec]
    words += [word for name, value in work.engines.settings.items() for word in ("--set", f"{name}={value}")]
    found, begun = work.frames_found(), min(told)
    if found and found[0] < begun:
        words.append("--both" if found[-1] > begun else "--backwards")
    if found and found[-1] < work.count - 1 and found[-1] > begun:
        words += ["--stop", str(found[-1] + 1)]
    return shlex.join([*words, "--out", f"{stem}.tracked.mp4"])


def prompt_words(told: dict[int, Target], names: Any, stem: str) -> list[str]:
    """Boxes of one frame as numbers, all else as the file that the page gives."""
    frame = min(told)
    target = told[frame]
    plain = all(name == plain_name(number) for number, name in names.items())
    simple = len(told) == 1 and target.mask is None and target.points is None and plain
    if not simple or target.boxes is None or target.ids.tolist() != list(range(1, len(target.ids) + 1)):
        return ["--prompts", f"{stem}.prompts.jsonl"]
    numbers = [f"{value:g}" if value == int(value) else repr(value) for box in target.boxes.tolist() for value in box]
    return ["--box", *numbers, *(["--start", str(frame)] if frame else [])]
