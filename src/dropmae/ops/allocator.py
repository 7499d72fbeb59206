"""How this process's memory allocator treats what a training step frees."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # glibc's mallopt


def keep_memory(keep: bool = True) -> bool:
    """Lets glibc keep what is freed for the next step; whether that could be done.

    By default glibc maps each block above 32 MB anew from the system, returns it when freed, and trims the rest of the
    heap, so that the system clears every page of every large tensor in every step: a twentieth of DropMAE's step at
    ViT-B, a quarter at the tiny size with batch 64. False brings back what glibc itself arrives at.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    if keep:
        return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, 2**31 - 1))
    largest = 32 << 20  # to which its own thresholds rise as large blocks are freed
    return bool(mallopt(MMAP_MAX, 65536) and mallopt(MMAP_THRESHOLD, largest) and mallopt(TRIM_THRESHOLD, 2 * largest))
