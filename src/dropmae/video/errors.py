"""One-line errors that name the file."""

from __future__ import annotations


class DamagedFrame(OSError):
    """One frame of a file that opens cannot be decoded; others may well be readable."""


def broken(name: object, reason: object, kind: type[OSError] = OSError) -> OSError:
    """An OSError that says `name: reason`, of the class that fits a reason which is itself an exception."""
    text = str(getattr(reason, "strerror", None) or reason)
    kinds = (FileNotFoundError, PermissionError, IsADirectoryError)
    kind = next((known for known in kinds if isinstance(reason, known)), kind)
    return kind(f"{name}: {text[:1].lower()}{text[1:]}")
