"""What comes in from the page: bodies of bounded length, and videos, which a process of its own looks at first."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from starlette.requests import Request

from dropmae import machine
from dropmae.storage import replacing

VIDEO_BYTES, JSON_BYTES, SAVED_BYTES = 2 << 30, 8 << 20, 1 << 30
"""Most bytes of a video, of what is said, and of saved work."""
FRAMES, HOURS = 200_000, 6
"""Of the longest video that is taken."""
SECONDS, MEMORY = 120, 6 << 30
"""In which a video has to be read through, and bytes of memory with which."""


class TooLarge(Exception):
    """A body is longer than it may be."""


async def body(request: Request, limit: int = JSON_BYTES) -> bytes:
    """All of a short body; TooLarge where it is not."""
    found = bytearray()
    async for chunk in pieces(request, limit):
        found += chunk
    return bytes(found)


async def said(request: Request) -> dict[str, Any]:
    """The JSON object in a body; ValueError where it is none."""
    try:
        found = json.loads(await body(request))
    except (ValueError, RecursionError):
        raise ValueError("the body is no JSON") from None
    if not isinstance(found, dict):
        raise ValueError("the body is no JSON object")
    return found


async def stored(request: Request, path: Path, limit: int) -> None:
    """Writes a body to `path`, whole or not at all."""
    if int_of(request.headers.get("content-length")) > shutil.disk_usage(path.parent).free:
        raise OSError("there is not enough room on the disk for it")
    with replacing(path) as partial, open(partial, "wb") as stream:
        async for chunk in pieces(request, limit):
            stream.write(chunk)


async def pieces(request: Request, limit: int) -> Any:
    """The pieces of a body, which may have `limit` bytes, by what is announced and by what comes."""
    if int_of(request.headers.get("content-length")) > limit:
        raise TooLarge(f"more than the {limit >> 20} MB that are taken")
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limit:
            raise TooLarge(f"more than the {limit >> 20} MB that are taken")
        yield chunk


def int_of(text: str | None) -> int:
    return int(text[:18]) if text is not None and text.isdecimal() else 0


def file_name(text: str) -> str:
    """A name that people gave to a file, as one for a folder of ours: of letters that mean nothing anywhere."""
    name = re.sub(r"[^\w.-]+", "_", text.replace("\\", "/").rpartition("/")[2], flags=re.ASCII).lstrip(".")[-80:]
    return name or "video"


def check_video(path: Path, title: str) -> None:
    """OSError in one line where a file is no video that is taken; read through by a process with little to lose."""
    words = [sys.executable, "-m", "dropmae.page.uploads", str(path), title]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"{title}: could not be read within {SECONDS} seconds") from None
    if done.returncode:
        lines = done.stdout.strip().splitlines()
        raise OSError(lines[-1] if lines else f"{title}: reading it took more memory than a video may")


def look(path: str, title: str) -> str:
    """What is wrong with a video; empty where nothing is. Runs in the process of `check_video`."""
    from dropmae.names import printable
    from dropmae.video import Video

    try:
        with Video(path) as video:
            if video.kind != "picture":
                raise OSError(f"{path}: holds no pictures")
            count, rate = len(video), video.fps
            if count > FRAMES or (rate and count / rate > HOURS * 3600):
                raise OSError(f"{path}: {count:,} frames are more than {FRAMES:,}, or than {HOURS} hours")
            video[0]
    except (OSError, ValueError, MemoryError) as error:
        return printable(" ".join(str(error).split()).replace(path, title)) or f"{title}: it needs too much memory"
    return ""


if __name__ == "__main__":
    machine.limit(MEMORY, SECONDS)
    fault = look(sys.argv[1], sys.argv[2])
    print(fault)
    sys.exit(bool(fault))
