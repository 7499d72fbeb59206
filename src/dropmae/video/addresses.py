"""What is an address, and what a file on this machine is called to FFmpeg."""

from __future__ import annotations

import re

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_address(source: object) -> bool:
    """Whether what a caller gave is an address; a Path never is one."""
    return isinstance(source, str) and bool(ADDRESS.match(source)) and not source.startswith("file://")


def local(path: str, start: int = 0, length: int | None = None) -> str:
    """A local file, or a part of it, as FFmpeg opens it and nothing else."""
    whole = f"file:{path}"
    return whole if length is None else f"subfile,,start,{start},end,{start + length},,:{whole}"
