"""The table of a file's pictures: which packet each comes from, and where decoding can start for it."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

import numpy as np

from dropmae.video.decoder import NONE, Decoder, marked
from dropmae.video.errors import broken
from dropmae.video.nal import entry_point

TIMED = frozenset(("h264", "hevc", "vvc", "av1", "libdav1d", "vp9", "mpeg2video"))
"""Codecs of which one packet makes one picture ..."""
TIMING = frozenset(("mov", "matroska", "mpegts"))
"""... in containers that keep true timestamps: there the packets alone tell the order of the pictures."""
ENTERED = frozenset(
    "h264 hevc vvc av1 libdav1d vp8 vp9 mpeg1video mpeg2video mpeg4 h263 flv msmpeg4v1 msmpeg4v2 msmpeg4 "  # noqa: SIM905
    "wmv1 wmv2 wmv3 vc1 theora png ffv1".split()
)
"""Codecs whose key frames are true entry points. Others are entered at the start, or anywhere if all is intra."""


class Table(NamedTuple):
    """Where the pictures of a file are."""

    shown: np.ndarray
    """int64 [n]: number of the packet that picture i comes from, in display order."""
    entries: list[tuple[int, int]]
    """(picture, packet), ascending: pictures from `picture` on can be decoded by starting at `packet`."""
    stamps: np.ndarray
    """int64 [packets, 4]: pts, dts, byte position and size of every packet; NONE where there is none."""
    ranks: np.ndarray | None
    """int64 [packets]: the picture each packet makes, -1 for none; None where packets do not identify pictures."""
    counted: bool
    """Whether every picture has been decoded to make the table."""

    def entry(self, picture: int) -> int:
        """Which of the entries is the best for a picture."""
        return bisect_right(self.entries, (picture, len(self.stamps))) - 1


def tabulate(decoder: Decoder, trust: bool = True) -> Table:
    """Makes the table from the packets alone where they can be trusted, else by decoding everything once.

    `decoder` stands at the start of its file, and must be put somewhere else by `seek` afterwards. Raises OSError for
    a file that is cut short or has no picture.
    """
    stamps, keys, dropped = [], [], []
    codec = decoder.context.codec
    container = decoder.container.format.name.split(",")[0]
    for number, packet in decoder.packets:
        stamps.append((packet.pts, packet.dts, packet.pos, packet.size))
        if packet.is_discard:  # before the start that an edit list gives
            dropped.append(number)
        enterable = packet.is_keyframe and (codec.name in ENTERED or codec.intra_only)
        if enterable and entry_point(codec.name, decoder.extradata, bytes(packet)):
            keys.append(number)
    try:
        marks = np.array(stamps, np.int64).reshape(-1, 4)
    except TypeError:  # there is a None among them
        marks = np.array([marked(stamp) for stamp in stamps], np.int64).reshape(-1, 4)
    if (promised := decoder.promised()) > len(marks):
        raise broken(decoder.name, f"cut short: {len(marks)} of its {promised} frames are there")
    order = None
    if trust and codec.name in TIMED and container in TIMING:
        order = display_order(marks[:, 0], keys)
    elif trust and codec.intra_only and not dropped:
        order = np.arange(len(marks))
    if order is not None and len(order):
        shown = order[~np.isin(order, dropped)]
        times = np.argsort(order)[shown]  # ascending: places in display order, those not shown included
        places = np.searchsorted(times, np.argsort(order)[keys])
        entries = [(int(place), key) for place, key in zip(places, keys) if place < len(shown)]
        return finished(decoder, shown, entries, marks, counted=False)
    decoder.close()
    decoder.open()
    pictures = []
    while (picture := decoder.pull()) is not None:
        pictures.append((picture.packet, bool(picture.frame.key_frame)))
    labels = [packet for packet, _ in pictures if packet is not None]
    if len(set(labels)) < len(pictures):
        return finished(decoder, np.arange(len(pictures)), [], marks, counted=True)._replace(ranks=None)
    starts = set(keys)
    entries = [(place, packet) for place, (packet, key) in enumerate(pictures) if key and packet in starts]
    return finished(decoder, np.array(labels, np.int64), entries, marks, counted=True)


def finished(decoder: Decoder, shown: np.ndarray, entries: list, marks: np.ndarray, counted: bool) -> Table:
    if not len(shown):
        raise broken(decoder.name, "none of its frames can be decoded")
    ranks = np.full(len(marks), -1, np.int64)
    ranks[shown] = np.arange(len(shown))
    return Table(shown, sorted({(0, 0), *entries}), marks, ranks, counted)


def display_order(pts: np.ndarray, keys: list[int]) -> np.ndarray | None:
    """Packet numbers in display order; None where timestamps do not tell, or where the first pictures may be dropped.

    A stream that begins with anything but a clean key frame, shown first, has pictures that cannot be decoded.
    """
    order = np.argsort(pts, kind="stable")
    ordered = pts[order]
    if not len(pts) or ordered[0] == NONE or (np.diff(ordered) <= 0).any() or keys[:1] != [0] or order[0] != 0:
        return None
    return order
