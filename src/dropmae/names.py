"""Names that come from elsewhere: of files, and in files. How they are printed, and which may become paths."""

from __future__ import annotations

import re
from collections.abc import Iterable

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line ends, marks that turn the direction of writing, and bytes that were no UTF-8."""

BYTES = re.compile(r"[\udc80-\udcff]")
"""Bytes that were no UTF-8, as Python carries them in the names of files."""


def printable(text: object) -> str:
    """A text on one line that a terminal shows and does not obey: what it would obey is written as an escape."""
    return UNPRINTABLE.sub(_escape, str(text))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    code -= 0xDC00 if 0xDC80 <= code <= 0xDCFF else 0  # a byte that was no UTF-8, as Python carries it
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def is_name(text: str) -> bool:
    """Whether a text may name something below a folder: see `relative`. A file's bytes may be no UTF-8."""
    parts = [part for part in re.split(r"[/\\]", text) if part not in ("", ".")]
    rooted = not parts or text[0] in "/\\" or re.match(r"[A-Za-z]:[/\\]", text)
    return not (rooted or ".." in parts or UNPRINTABLE.search(BYTES.sub("", text)))


def as_name(text: str) -> str:
    """A text as a name that `relative` takes: what it would not take is written as an escape."""
    return text if is_name(text) else printable(text)


def utf8(text: str) -> bytes:
    """A text as bytes, also where it is a file's name that was no UTF-8 and came from bytes."""
    return text.encode("utf-8", "surrogateescape")


def relative(name: object, where: object) -> str:
    """`name` itself, which a file at `where` gives to something below a folder; OSError where it could lead out of it.

    It may have folders in it, and must not be empty, begin at a root or a drive, step up or hold control characters.
    """
    text = str(name)
    if not is_name(text):
        raise OSError(f"{where}: {text!r} cannot name a sequence: a name is relative, without '..' and control signs")
    return text


def relative_names(names: Iterable[object], where: object) -> list[str]:
    """Each of `names`, checked as `relative` does."""
    return [relative(name, where) for name in names]
