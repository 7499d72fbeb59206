"""What the operating system tells about this machine and process; the one place that asks what not all of them have."""

from __future__ import annotations

import os
from pathlib import Path


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
