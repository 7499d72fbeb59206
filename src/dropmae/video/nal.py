"""What the units (NAL) inside H.264 and HEVC packets say about their pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

SLICE, DATA, IDR, SEI, DELIMITER, FILLER = 1, 2, 5, 6, 9, 12
"""Types of H.264 units (Recommendation H.264, table 7-1)."""


def entry_point(codec: str, extradata: bytes | None, packet: bytes) -> bool:
    """Whether decoding can start at the packet of a key frame and be exact for everything that is shown from it on.

    An H.264 file may flag pictures as key frames from which it recovers only over the following ones (intra refresh)
    or that later pictures look past; IDR pictures and immediate recovery points are safe. In HEVC all random access
    pictures are, but files flag others too.
    """
    if codec not in ("h264", "hevc"):
        return True
    for unit in units(codec, extradata, packet):
        if codec == "hevc":
            if (kind := unit[0] >> 1 & 63) < 32:
                return 16 <= kind <= 21
        elif (kind := unit[0] & 31) in (SLICE, IDR):
            return kind == IDR
        elif kind == SEI and recovers_at_once(unit[1:].replace(b"\0\0\3", b"\0\0")):
            return True
    return False


def units(codec: str, extradata: bytes | None, data: bytes) -> Iterator[bytes]:
    """The NAL units of a packet, with length prefixes (mp4, Matroska) or with start codes (raw, MPEG-TS)."""
    if extradata and len(extradata) > 21 and extradata[0] == 1:
        width = (extradata[4 if codec == "h264" else 21] & 3) + 1
        at = 0
        while at + width < len(data):
            length = int.from_bytes(data[at : at + width], "big")
            at += width
            if length:
                yield data[at : at + length]
            at += length
    else:
        starts = [found.end() for found in re.finditer(b"\0\0\1", data)]
        for start, stop in zip(starts, [*starts[1:], len(data) + 3]):
            if start < len(data):
                yield data[start : stop - 3]


def recovers_at_once(messages: bytes) -> bool:
    """Whether supplemental information holds a recovery point with recovery_frame_cnt 0 (H.264, D.1.8)."""
    at = 0
    while at + 2 < len(messages):
        header = []
        for _ in range(2):
            value = 0
            while at < len(messages) - 1 and messages[at] == 255:
                value, at = value + 255, at + 1
            header.append(value + messages[at])
            at += 1
            if at >= len(messages):
                return False
        kind, size = header
        if kind == 6:
            return bool(messages[at] & 0x80)  # the exponential Golomb code of zero is a single 1
        at += size
    return False


def unreferenced(extradata: bytes | None, packet: bytes) -> bool:
    """Whether an H.264 packet holds only slices that no other picture refers to, and nothing that others need."""
    slices = 0
    for unit in units("h264", extradata, packet):
        kind = unit[0] & 31
        if kind == SLICE and not unit[0] & 0x60:
            slices += 1
        elif kind not in (SEI, DELIMITER, FILLER):
            return False
    return slices > 0


PLACEHOLDER = 16
"""Bytes below which a packet of the MPEG-4 family says no more than that nothing has changed."""


def shows_nothing(codec: str, extradata: bytes | None, packet: Any) -> bool:
    """Whether a packet is made to show no picture.

    These are hidden frames of VP8 and VP9, placeholders of MPEG-4 part 2 and its kin, and in HEVC the leading pictures
    (RASL) that refer to what lies before the entry point, which after a splice is not there.
    """
    if codec in ("mpeg4", "h263", "flv", "vc1") or codec.startswith(("msmpeg4", "wmv")):
        return packet.size < PLACEHOLDER
    if codec not in ("vp8", "vp9", "libvpx", "libvpx-vp9", "hevc"):
        return False
    data = bytes(packet)
    if codec == "hevc":
        kinds = (unit[0] >> 1 & 63 for unit in units(codec, extradata, data))
        return next((8 <= kind <= 9 for kind in kinds if kind < 32), False)
    if codec in ("vp8", "libvpx"):
        return bool(data) and not data[0] & 16  # show_frame (RFC 6386, 9.1)
    if not data or data[0] >> 6 != 2 or data[-1] >> 5 == 6:  # no frame at all; several of them, the last of which shows
        return False
    bits = data[0] << 1 if data[0] >> 4 & 3 == 3 else data[0]  # profile 3 has a reserved bit
    return not bits & 8 and not bits & 2  # neither show_existing_frame nor show_frame (VP9 specification, 6.2)
