"""A folder or file that one process works on: who holds it is written in a `.lock`, and a second one is told.

The lock names machine, process and when that process began. It is over when the process is gone, or is another one of
the same number; of a process on another machine when it has given no sign of life (it touches the file every few
seconds) for half a minute. Nothing but files is needed, so that it works on every system and on network file systems.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dropmae import machine, storage
from dropmae.names import printable
from dropmae.progress import say

NAME = ".lock"
BYTES = 1 << 16
"""Of the largest lock."""
BEAT, SILENCE = 5.0, 30.0
"""Seconds between signs of life, and after how many without one a process elsewhere counts as gone."""


@contextlib.contextmanager
def held(place: str | Path, *, file: bool = False, option: str = "--out") -> Iterator[None]:
    """Makes the folder and holds it, or holds a `file` that is to be written; OSError that names who does already, and
    the option that would choose another one.

    A folder in which nothing was written is removed again.
    """
    place = Path(place)
    folder = place.parent if file else place
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage.unwritable(place, error) from error
    path, own = folder / (f".{place.name}{NAME}" if file else NAME), _own()
    _take(path, place, own, option)
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, over), daemon=True)
    beat.start()
    try:
        yield
    finally:
        over.set()
        with contextlib.suppress(OSError):
            if _holder(path) == own:
                storage.remove(path)
        if made:
            storage.remove_empty(folder)


def _own() -> dict[str, Any]:
    return {
        "host": machine.HOST,
        "name": platform.node(),
        "pid": os.getpid(),
        "born": machine.born(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _created(path: Path, place: Path, own: dict[str, Any]) -> bool:
    try:
        return storage.create(path, json.dumps(own))
    except OSError as error:
        raise storage.unwritable(place, error) from error


def _take(path: Path, place: Path, own: dict[str, Any], option: str) -> None:
    waited = 0.0
    while not _created(path, place, own):
        holder = _holder(path)
        if holder is None:  # just going, or just coming
            if waited > SILENCE:  # or torn, by a machine that went off
                storage.take_away(path, lambda text: _parsed(text) is None)
            time.sleep(0.05)
            waited += 0.05
        elif _alive(path, place, holder):
            raise OSError(
                f"{place} is in use by process {holder['pid']} on {printable(holder.get('name'))[:80]}, since "
                f"{printable(holder.get('since'))[:80]}: wait for it, or choose another {option}"
            )
        else:
            storage.take_away(path, lambda text, holder=holder: _parsed(text) == holder)


def _alive(path: Path, place: Path, holder: dict[str, Any]) -> bool:
    """Whether the process that holds a lock is there."""
    pid = int(holder["pid"])
    if holder.get("host") == machine.HOST:
        return machine.alive(pid) and machine.born(pid) == holder.get("born")
    before, started = _beaten(path), time.monotonic()
    say(f"{place}: is process {pid} on {printable(holder.get('name'))[:80]}, which held it, still there?")
    while time.monotonic() - started < SILENCE:
        time.sleep(1.0)
        if _beaten(path) != before:
            return _holder(path) is not None
    return False


def _holder(path: Path) -> dict[str, Any] | None:
    """Who holds a lock; None where nobody does or it is just being written. OSError for what is no lock of ours."""
    try:
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode) and status.st_size <= BYTES:
            return _parsed(path.read_bytes().decode("utf-8", "replace"))
    except OSError:
        return None
    raise OSError(f"{path} is in the way, and is no lock that dropmae made: remove it")


def _parsed(text: str) -> dict[str, Any] | None:
    """What the text of a lock says; None where it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    pid = found.get("pid") if isinstance(found, dict) else None
    return found if type(pid) is int and 0 < pid < 2**31 else None


def _beaten(path: Path) -> int:
    """When a lock was last touched; the file is opened, so that network file systems ask their server."""
    try:
        with open(path, "rb") as stream:
            return os.fstat(stream.fileno()).st_mtime_ns
    except OSError:
        return -1


def _beat(path: Path, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)
