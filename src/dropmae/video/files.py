"""Files that FFmpeg reads, with random access; and live streams, without."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import av
import numpy as np

from dropmae.video.decoder import Decoder, Picture, rotation, side_data
from dropmae.video.errors import DamagedFrame, broken
from dropmae.video.frames import FPS, Frame, fitted
from dropmae.video.motion import motion_map
from dropmae.video.table import Table, tabulate

NEAR = 4
"""Pictures that take as long to decode as a seek does."""
FASTEST = 10000
"""Frames per second beyond which a rate is the clock of a container that does not know its rate."""
B = 3
"""FFmpeg's picture type of B frames."""

CAMERAS = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("dshow", "video={}"),
}
"""How FFmpeg names a camera by number: format and address."""


class File:
    """The pictures of a file that FFmpeg reads, by number."""

    def __init__(self, name: str, url: str | bytes, short_side: int | None, threads: int, form: str | None = None):
        """`form` is FFmpeg's name of the container where it is known, which saves trying all of them."""
        self.name, self.url, self.short_side, self.threads = name, url, short_side, threads
        self.options = {"format": form} if form else {}
        self.motion = self.skipped = False
        self.table: Table | None = None
        self.shape: tuple[int, int] | None = None
        self.decoder: Decoder | None = None
        stream = self.opened().stream
        rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
        self.fps = next((rate for rate in rates if rate <= FASTEST), FPS)

    def opened(self) -> Decoder:
        """The decoder; a new one after `close`, and in another process than before."""
        if self.decoder is None or self.process != os.getpid():
            self.decoder = self.begun(self.motion)
            self.process = os.getpid()
            self.next: int | None = None
            """Number of the picture that comes next out of the decoder; None before the first after a seek."""
            self.anchor: int | None = None
            """The last picture before it that others may refer to."""
        return self.decoder

    def begun(self, motion: bool = False) -> Decoder:
        return Decoder(self.name, self.url, threads=self.threads, motion=motion, options=self.options)

    def close(self) -> None:
        if self.decoder is not None:
            self.decoder.close()
            self.decoder = None

    def pictures(self) -> Table:
        """The table of pictures, made at first use."""
        if self.table is None:
            self.opened()
            if self.next is not None:  # not at the start any more
                self.close()
            self.table = tabulate(self.opened())
        return self.table

    def __len__(self) -> int:
        return len(self.pictures().shown)

    def size(self) -> tuple[int, int]:
        if self.shape is None:
            self.read([0], False)
        assert self.shape is not None
        return self.shape

    def read(self, indices: list[int], motion: bool) -> dict[int, Frame]:
        if motion and not self.motion:
            self.motion = True
            self.close()
        table = self.pictures()
        skippable = None
        if motion and self.skipped:
            self.next = None  # the distances of references are counted over all pictures
        if table.ranks is not None and not motion and self.opened().context.codec.name == "h264":
            skippable = table.ranks < indices[-1]  # later ones may be asked for next
            skippable[table.shown[[index for index in indices if index < len(table.shown)]]] = False
        self.skipped = skippable is not None
        found = {}
        for index in indices:
            frame = self.locate(index, skippable)
            rgb = self.opened().rgb(frame, self.short_side)
            self.shape = (rgb.shape[0], rgb.shape[1])
            found[index] = (rgb, self.displacements(frame, index) if motion else None)
        return found

    def locate(self, index: int, skippable: np.ndarray | None) -> av.VideoFrame:
        """Picture `index`: by decoding on if it is near, else from the best entry point.

        Where it does not turn up from there, or not whole, from the entry points before. If it does not even come from
        the start, the packets promised what the decoder does not deliver, and all is decoded to know what it does.
        """
        table, decoder = self.pictures(), self.opened()
        if index >= len(table.shown):
            raise DamagedFrame(f"{self.name}: frame {index} cannot be decoded; the file has {len(table.shown)}")
        best = table.entry(index)
        if self.next is not None and table.entries[best][0] - NEAR <= self.next <= index:
            frame = self.advance(index, self.next, skippable)
            if frame is not None:
                return frame
        damaged = 0
        for picture, packet in reversed(table.entries[: best + 1]):
            decoder.seek(packet, table.stamps)
            self.next = self.anchor = None
            frame = self.advance(index, picture, skippable)
            if frame is not None:
                return frame
            damaged += bool(decoder.bad)
            if damaged == 2:  # further back the damage would still be on the way
                break
        if not damaged and not table.counted:
            self.close()
            self.table = tabulate(self.opened(), trust=False)
            return self.locate(index, None)
        raise DamagedFrame(f"{self.name}: frame {index} is damaged")

    def advance(self, index: int, start: int, skippable: np.ndarray | None) -> av.VideoFrame | None:
        """Decodes on to picture `index`; None if it does not come, or not whole. Pictures before `start` are ignored.

        These are leading pictures of an open group, which refer to what lies before the entry point.
        """
        decoder, table = self.opened(), self.pictures()
        entry = table.entries[table.entry(start)][1]
        while (picture := decoder.pull(skippable)) is not None:
            if table.ranks is None:
                rank = self.next or 0
            else:
                rank = -1 if picture.packet is None else int(table.ranks[picture.packet])
            if rank < start:
                continue
            expected = start if self.next is None else self.next
            while decoder.dropped and table.shown[expected] in decoder.dropped:
                expected += 1
            if rank != expected or (picture.packet == entry != 0 and not picture.frame.key_frame):
                break
            if rank == index and decoder.bad and self.damaged(index, picture, table):
                break
            self.next = rank + 1
            self.span = 1 if self.anchor is None else rank - self.anchor
            if picture.frame.pict_type != B:
                self.anchor = rank
            if rank == index:
                return picture.frame
        self.next = None
        return None

    def damaged(self, index: int, picture: Picture, table: Table) -> bool:
        """Whether anything from the entry point of the picture to the picture could not be decoded."""
        entry = max(table.entries[table.entry(index)][1], int(table.shown[0]))
        return any(entry <= number <= (picture.packet or 0) for number in self.opened().bad)

    def displacements(self, frame: av.VideoFrame, index: int) -> np.ndarray | None:
        """The motion map of the picture that came out last; None if the codec left no vectors."""
        data = side_data(frame, "MOTION_VECTORS")
        if data is None:
            return None
        table, ahead = self.pictures(), index + 1
        if table.ranks is not None:
            packet = int(table.shown[index])
            known = table.ranks[max(0, packet - 32) : packet]  # decoded before it; the nearest one shown later
            ahead = int(known[known > index].min(initial=len(table.shown)))
            ahead = index + 1 if ahead == len(table.shown) else ahead
        size = self.size()
        coded = (frame.height, frame.width)
        return motion_map(data.to_ndarray(), self.span, ahead - index, coded, rotation(frame), size)

    def play(self) -> Iterator[np.ndarray]:
        """Every frame from the first, from a decoder of its own, without a table and without seeking."""
        decoder = self.begun()
        first, count = None, 0
        try:
            while (picture := decoder.pull()) is not None:
                packet = picture.packet or 0
                first = packet if first is None else first
                if any(first <= number <= packet for number in decoder.bad):
                    raise DamagedFrame(f"{self.name}: frame {count} is damaged")
                yield decoder.rgb(picture.frame, self.short_side)
                count += 1
            if first is None:
                raise broken(self.name, "none of its frames can be decoded")
            if any(number >= first for number in decoder.bad):
                raise DamagedFrame(f"{self.name}: damaged after frame {count - 1}")
            if decoder.fed < (promised := decoder.promised()):
                raise broken(self.name, f"cut short: {decoder.fed} of its {promised} frames are there")
        finally:
            decoder.close()


class Live:
    """A camera or a network stream: frames come as they are made, and only by iterating."""

    def __init__(self, source: int | str, short_side: int | None, threads: int):
        device = str(source).isdigit()
        self.name = f"camera {source}" if device else str(source)
        self.short_side, self.threads = short_side, threads
        form, url = CAMERAS.get(sys.platform, CAMERAS["linux"])
        self.url, self.options = (url.format(source), {"format": form}) if device else (str(source), {})
        self.decoder: Decoder | None = None
        self.fps = float(self.opened().stream.average_rate or FPS)

    def opened(self) -> Decoder:
        if self.decoder is None:
            self.decoder = Decoder(self.name, self.url, threads=self.threads, options=self.options)
        return self.decoder

    def __len__(self) -> int:
        raise ValueError(f"{self.name} is a live stream, without length and random access: iterate over it")

    def size(self) -> tuple[int, int]:
        return fitted(*self.opened().coded, self.short_side)

    def read(self, indices: list[int], motion: bool) -> dict[int, Frame]:
        raise ValueError(f"{self.name} is a live stream, without length and random access: iterate over it")

    def play(self) -> Iterator[np.ndarray]:
        while (picture := self.opened().pull()) is not None:
            yield self.opened().rgb(picture.frame, self.short_side)

    def close(self) -> None:
        if self.decoder is not None:
            self.decoder.close()
            self.decoder = None
