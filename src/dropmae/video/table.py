"""The table of a file's pictures: which packet each comes from, and where decoding can start for it."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

import numpy as np

from dropmae.video.decoder import NONE, Decoder, Picture, marked
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
SINGLE = (ENTERED - {"theora"}) | {"cinepak"}
"""Codecs in which a packet that shows nothing, without being made to, has lost its picture ..."""
FEW = 3
"""... if it is the exception: at most one in so many. (Where fields are packets of their own it is every other one.)
Several in a row are what a decoder does not show after a loss, until the next key frame."""
JOINT = 3
"""Packets between one that a container suspects, because its counter jumped, and a key frame, with which a segment
begins that was joined on: nothing is missing there."""


class Scan(NamedTuple):
    """What demuxing alone tells."""

    stamps: np.ndarray
    """int64 [packets, 4]: pts, dts, byte position and size of every packet; NONE where there is none."""
    keys: list[int]
    """Packets at which decoding can start."""
    dropped: list[int]
    """Packets that an edit list leaves out, though others may need them."""
    doubtful: frozenset[int]
    """Packets that the container says are damaged."""

    def seconds(self, base: float) -> np.ndarray:
        """float64 [packets]: when each is shown (pts, or dts in a file that has no other); NaN where it is not told."""
        column = 0 if (self.stamps[:, 0] != NONE).any() else 1
        return np.where(self.stamps[:, column] == NONE, np.nan, self.stamps[:, column] * base)


class Table(NamedTuple):
    """Where the pictures of a file are."""

    shown: np.ndarray
    """int64 [n]: number of the packet that picture i comes from, in display order."""
    entries: list[tuple[int, int]]
    """(picture, packet), ascending: pictures from `picture` on can be decoded by starting at `packet`."""
    stamps: np.ndarray
    """int64 [packets, 4]: those of the scan."""
    ranks: np.ndarray | None
    """int64 [packets]: the picture each packet makes, -1 for none; None where packets do not identify pictures."""
    counted: bool
    """Whether every picture has been decoded to make the table."""
    lost: frozenset[int]
    """Pictures that were in a packet which does not decode: they keep their number. Also those that may be one of them,
    where timestamps do not tell."""
    suspect: frozenset[int]
    """Packets that are damaged, whether or not the decoder minds."""

    def entry(self, picture: int) -> int:
        """Which of the entries is the best for a picture."""
        return bisect_right(self.entries, (picture, len(self.stamps))) - 1

    def rank(self, picture: Picture) -> int:
        """Which picture it is, -1 for none."""
        return -1 if self.ranks is None or picture.packet is None else int(self.ranks[picture.packet])

    def reference(self, picture: int) -> int:
        """The last picture that this one may refer to; it may be shown later."""
        if self.ranks is None or picture >= len(self.shown):
            return -1
        return int(self.ranks[self.entries[self.entry(picture)][1] : int(self.shown[picture])].max(initial=-1))

    def hurt(self, picture: int, bad: list[int]) -> bool:
        """Whether anything from the entry point to the picture is damaged, of itself or by what the decoder says."""
        picture = min(picture, len(self.shown) - 1)
        first, last = max(self.entries[self.entry(picture)][1], int(self.shown[0])), int(self.shown[picture])
        return any(first <= number <= last for numbers in (bad, self.suspect) for number in numbers)


def scan(decoder: Decoder) -> Scan:
    """Demuxes a file from its start, where `decoder` stands. OSError for one that is cut short."""
    stamps, keys, dropped, flagged, starts = [], [], [], [], []
    codec = decoder.context.codec
    for number, packet in decoder.packets:
        stamps.append((packet.pts, packet.dts, packet.pos, packet.size))
        if packet.is_discard:
            dropped.append(number)
        if packet.is_corrupt:
            flagged.append(number)
        if packet.is_keyframe:
            starts.append(number)
            enterable = codec.name in ENTERED or codec.intra_only
            if enterable and entry_point(codec.name, decoder.extradata, bytes(packet)):
                keys.append(number)
    try:
        marks = np.array(stamps, np.int64).reshape(-1, 4)
    except TypeError:  # there is a None among them
        marks = np.array([marked(stamp) for stamp in stamps], np.int64).reshape(-1, 4)
    if (promised := decoder.promised()) > len(marks):
        raise broken(decoder.name, f"cut short: {len(marks)} of its {promised} frames are there")
    if decoder.container.format.name == "mpegts":
        flagged = [number for number in flagged if not any(0 < start - number <= JOINT for start in starts)]
    return Scan(marks, keys, dropped, frozenset(flagged))


def tabulate(decoder: Decoder, found: Scan, trust: bool = True) -> Table:
    """Makes the table from the packets alone where they can be trusted, else by decoding everything once.

    `decoder` must be put somewhere by `seek` afterwards. OSError for a file without a picture.
    """
    codec, container = decoder.context.codec, decoder.container.format.name.split(",")[0]
    stamps, keys, dropped = found.stamps, found.keys, found.dropped
    order = None
    if trust and codec.name in TIMED and container in TIMING:
        order = display_order(stamps, keys)
    elif trust and codec.intra_only and not dropped:
        order = np.arange(len(stamps))
    if order is not None and len(order):
        shown = order[~np.isin(order, dropped)]
        times = np.argsort(order)[shown]  # ascending: places in display order, those not shown included
        places = np.searchsorted(times, np.argsort(order)[keys])
        entries = [(int(place), key) for place, key in zip(places, keys) if place < len(shown)]
        return finished(decoder, found, shown, entries)
    decoder.close()
    decoder.open()
    pictures = []
    while (picture := decoder.pull()) is not None:
        pictures.append((picture.packet, bool(picture.frame.key_frame)))
    labels = [packet for packet, _ in pictures if packet is not None]
    if len(set(labels)) < len(pictures):
        return finished(decoder, found, np.arange(len(pictures)), [], counted=True)._replace(ranks=None)
    lost = missing(decoder, found, labels)
    shown, unsure = placed(labels, lost, stamps[:, 0])
    starts, places = set(keys), {packet: place for place, packet in enumerate(shown.tolist())}
    entries = [(places[packet], packet) for packet, key in pictures if packet is not None and key and packet in starts]
    return finished(decoder, found, shown, entries, frozenset(lost), unsure, counted=True)


def missing(decoder: Decoder, found: Scan, labels: list[int]) -> list[int]:
    """Packets whose picture did not come out of the decoder, though it should have."""
    silent = set(range(len(found.stamps))) - {*labels, *found.dropped, *decoder.bad, *decoder.hidden}
    if decoder.context.codec.name not in SINGLE:
        silent = set()
    elif len(silent) * FEW > len(labels):  # fields, what refers to what was cut off, and waiting
        begun = sorted(labels)[1] if len(labels) > 1 else len(found.stamps)
        silent = {packet for packet in silent if packet > begun and {packet - 1, packet + 1} & silent}
    return sorted((silent | set(decoder.bad)) - {*labels, *found.dropped})


def placed(labels: list[int], lost: list[int], pts: np.ndarray) -> tuple[np.ndarray, frozenset[int]]:
    """int64 [n]: packets of pictures in display order, `labels` and among them what was lost after the first of them.

    Also the places at which that may be wrong: where timestamps do not tell, a lost packet's picture was shown as near
    to its place in the file as others are, and nobody knows before which.
    """
    if not lost or not labels:
        return np.array(labels, np.int64), frozenset()
    known, ordered = pts[[*labels, *lost]], np.sort(labels)
    drift = np.arange(len(labels)) - np.searchsorted(ordered, labels)  # of display from decoding
    if (known != NONE).all() and len(set(known.tolist())) == len(known) and (np.diff(pts[labels]) > 0).all():
        place = {packet: (int(pts[packet]), 0) for packet in (*labels, *lost)}
        drift[:] = 0
    else:
        place = {packet: (rank, 1) for rank, packet in enumerate(labels)}
        place |= {packet: (int(np.searchsorted(ordered, packet)), 0) for packet in lost}
    late = [packet for packet in lost if place[packet] > place[labels[0]] or packet > max(labels)]
    shown = np.array(sorted([*labels, *late], key=lambda packet: (place[packet], packet)), np.int64)
    reach = range(int(drift.min()), int(drift.max()) + 1)
    places = np.flatnonzero(np.isin(shown, late)).tolist()
    return shown, frozenset(place + step for place in places for step in reach if place + step < len(shown))


def finished(
    decoder: Decoder,
    found: Scan,
    shown: np.ndarray,
    entries: list[tuple[int, int]],
    lost: frozenset[int] = frozenset(),
    unsure: frozenset[int] = frozenset(),
    counted: bool = False,
) -> Table:
    """The table, for `lost` packets and pictures that are `unsure`."""
    if not len(shown):
        raise broken(decoder.name, "none of its frames can be decoded")
    # A damaged packet may give several pictures, so that there are more of these than packets.
    ranks = np.full(max(len(found.stamps), int(shown.max()) + 1), -1, np.int64)
    ranks[shown] = np.arange(len(shown))
    return Table(shown, sorted({(0, 0), *entries}), found.stamps, ranks, counted, unsure, found.doubtful | lost)


def display_order(stamps: np.ndarray, keys: list[int]) -> np.ndarray | None:
    """Packet numbers in display order; None where timestamps do not tell, or where the first pictures may be dropped.

    Timestamps do not tell where they are missing, the same or against the order of decoding, as joined segments and
    damaged headers have them. A stream that begins with anything but a clean key frame, shown first, has pictures that
    cannot be decoded.
    """
    pts, dts = stamps[:, 0], stamps[:, 1]
    order, known = np.argsort(pts, kind="stable"), dts != NONE
    ordered = pts[order]
    if not len(pts) or ordered[0] == NONE or (np.diff(ordered) <= 0).any() or keys[:1] != [0] or order[0] != 0:
        return None
    return None if (np.diff(dts[known]) <= 0).any() or (pts < dts)[known].any() else order


def frame_times(known: np.ndarray, rate: float) -> np.ndarray:
    """float64 [n]: seconds since the first of n frames, from what their timestamps say (NaN: nothing).

    Frames without one are spread evenly, by `rate` where nothing else tells. Where time does not go on, because
    segments were joined, it goes on by the usual step.
    """
    places = np.flatnonzero(np.isfinite(known))
    if len(places) < 2:
        return np.arange(len(known)) / rate
    apart, steps = np.diff(places), np.diff(known[places])
    forward = steps > 0
    usual = float(np.median(steps[forward] / apart[forward])) if forward.any() else 1 / rate
    seconds = np.concatenate([[0.0], np.cumsum(np.where(forward, steps, usual * apart))])
    times = np.interp(np.arange(len(known)), places, seconds)
    times[: places[0]] = (np.arange(places[0]) - places[0]) * usual
    times[places[-1] + 1 :] = seconds[-1] + np.arange(1, len(known) - places[-1]) * usual
    return times - times[0]


RARE = 20
"""At most one in so many steps of a steady stream is a gap; with more of them its rate varies."""


def gaps(times: np.ndarray) -> list[tuple[int, int]]:
    """(frame, n) where time for n more frames passes before a frame, in a stream whose steps are else the same.

    Packets that a container lost leave such gaps; numbers count the frames that are there. Nothing where rates vary.
    """
    steps = np.diff(times)
    usual = float(np.median(steps)) if len(steps) else 0.0
    if usual <= 0:
        return []
    counts = np.round(steps / usual).astype(np.int64)
    places = np.flatnonzero(counts > 1)
    steady = np.abs(steps / usual - counts).max() < 0.25 and len(places) * RARE <= len(steps)
    return [(int(place) + 1, int(counts[place]) - 1) for place in places] if steady else []


def told(found: list[tuple[int, int]], most: int = 3) -> str:
    """Words on gaps; empty where there are none."""
    rest = f", and at {len(found) - most} more places" if len(found) > most else ""
    parts = [f"{count} before frame {frame}" for frame, count in found[:most]]
    return f"frames seem to be missing: {', '.join(parts)}{rest}; numbers count those that are there" if found else ""
