"""What the operating system tells about this machine and its processes: the one place that asks what not all have."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import sys
import zlib
from functools import cache
from pathlib import Path


def _host() -> str:
    """This machine, or the container in it: processes are known by their numbers within one only."""
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(f'{platform.node()} {space}'.encode()):08x}"


HOST = _host()


def alive(pid: int) -> bool:
    """Whether a process of this machine is there."""
    if sys.platform == "win32":  # where signal 0 would end it
        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, pid)
        if not handle:
            return False
        code = ctypes.c_ulong()
        ctypes.windll.kernel32.GetExitCodeProcess(handle, ctypes.byref(code))
        ctypes.windll.kernel32.CloseHandle(handle)
        return code.value == 259
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _state(pid) != "Z"


def born(pid: int) -> str:
    """When a process began, in some unit: tells it from a later one of the same number; empty where unknown."""
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 else ""


def die_with_parent() -> None:
    """Has this process end as soon as the one that started it is gone, where the system can (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


def end_in(seconds: int) -> None:
    """Ends this process after so many seconds, where the system can."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def user() -> int:
    """The number of the user this process runs as; 0 where there are none, and files have owner 0."""
    return os.getuid() if hasattr(os, "getuid") else 0


def limit(memory: int, seconds: int) -> None:
    """Bounds this process's memory in bytes and its processor time, where the system can (not Windows)."""
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def _state(pid: int) -> str:
    return next(iter(_stat(pid)), "")


def _stat(pid: int) -> list[str]:
    """The words of /proc/PID/stat behind the name."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


@cache
def instructions() -> frozenset[str]:
    """What the processor can do, as Linux on x86 names it; nothing is known elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resident() -> float:
    """MB of memory that this process holds now; 0 where the system does not tell."""
    return _status("VmRSS") or 0.0


def resident_peak() -> float | None:
    """MB of memory that this process has held at most, where the system tells (Linux)."""
    return _status("VmHWM")


def _status(key: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(key)), None)
