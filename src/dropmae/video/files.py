"""Files that FFmpeg reads, with random access; and live streams, without."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import av
import numpy as np

from dropmae.opening import check_animation
from dropmae.video.addresses import is_address
from dropmae.video.decoder import NOTICED, Decoder, Picture, rotation, side_data, turned
from dropmae.video.errors import DamagedFrame
from dropmae.video.frames import FPS, Frame, fitted
from dropmae.video.motion import motion_map
from dropmae.video.sound import Sound
from dropmae.video.table import Scan, Table, frame_times, scan, tabulate

NEAR = 4
"""Pictures that take as long to decode as a seek does."""
FASTEST = 10000
"""Frames per second beyond which a rate is the clock of a container that does not know its rate."""
RATE = 0.01
"""Share by which a file's timestamps may differ from the rate that it names."""
ANIMATIONS = ("gif", "apng", "webp", "webp_anim", "jpegxl_anim", "flic")
"""FFmpeg's names of formats whose pictures are each made from those before, without places to begin at."""
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

    kind = "picture"

    def __init__(self, name: str, url: str | bytes, short_side: int | None, threads: int, form: str | None = None):
        """`form` is FFmpeg's name of the container where it is known, which saves trying all of them."""
        self.name, self.url, self.short_side, self.threads = name, url, short_side, threads
        self.options = {"form": form}
        self.motion = self.skipped = False
        self.found: Scan | None = None
        self.table: Table | None = None
        self.shape: tuple[int, int] | None = None
        self.decoder: Decoder | None = None
        self.opened()

    @cached_property
    def fps(self) -> float:
        """Frames per second: what the file says, unless its timestamps say otherwise; then their average."""
        found, stream = self.scanned(), self.opened().stream
        rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
        told = next((rate for rate in rates if rate <= FASTEST), FPS)
        seconds = np.sort(np.delete(found.seconds(float(stream.time_base or 0)), found.dropped))
        steps = np.diff(seconds[np.isfinite(seconds)])
        if len(steps) + 1 < len(seconds) or not (steps > 0).all() or not len(steps):
            return told  # some have no timestamp, or the clock begins anew
        return told if abs(len(steps) - steps.sum() * told) <= max(1, RATE * len(steps)) else len(steps) / steps.sum()

    def times(self) -> np.ndarray:
        """float64 [T]: seconds since the first frame."""
        table, found = self.pictures(), self.scanned()
        if table.ranks is None:
            return np.arange(len(table.shown)) / self.fps
        seconds = found.seconds(float(self.opened().stream.time_base or 0))
        decoded = np.sort(table.shown)
        clock = (np.diff(seconds[decoded]) > 0).all()  # some containers, AVI for one, tell when to decode, not to show
        return frame_times(seconds[decoded if clock else table.shown], self.fps)

    stamped = True

    def sound(self, start: float) -> Sound | None:
        """The sound from `start` seconds after the first frame on; None where the file has none."""
        found = Sound(self.begun(), start)
        if found.track is not None:
            return found
        found.close()
        return None

    def details(self) -> dict[str, Any]:
        """What the container says of itself: formats, the rotation that is applied, the sound that is there."""
        decoder = self.begun()
        try:
            first = decoder.pull()
            turn = None if first is None else rotation(first.frame)
            sound = [
                (track.codec_context.name, track.rate, track.channels) for track in decoder.container.streams.audio
            ]
            return {
                "container": decoder.container.format.name,
                "created": decoder.container.metadata.get("creation_time"),
                "codec": decoder.context.codec.name,
                "damage": "noticed" if decoder.context.codec.name in NOTICED else "mostly not noticed in this codec",
                "pixel_format": decoder.context.pix_fmt,
                "rotation": None if turn is None else turned(turn),
                "sound": [f"{codec}, {rate} Hz, {channels} channels" for codec, rate, channels in sound],
            }
        finally:
            decoder.close()

    def colours(self) -> tuple[int, ...]:
        """FFmpeg's numbers of the primaries, transfer, matrix and range of the first picture."""
        decoder = self.begun()
        try:
            first = decoder.pull()
            frame: Any = decoder.context if first is None else first.frame
            full = 2 if (frame.format.name if first else "").startswith("yuvj") else int(frame.color_range)
            return int(frame.color_primaries), int(frame.color_trc), int(frame.colorspace), full
        finally:
            decoder.close()

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

    def scanned(self) -> Scan:
        """What demuxing tells, at first use."""
        if self.found is None:
            self.close()
            self.found = scan(self.opened())
            if self.opened().container.format.name in ANIMATIONS:
                check_animation(self.name, len(self.found.stamps), *self.opened().coded[::-1])
        return self.found

    def pictures(self, trust: bool = True) -> Table:
        """The table of pictures, made at first use; and anew, by decoding everything, if packets are not to `trust`."""
        if self.table is None or not trust:
            found = self.scanned()
            self.close()
            self.table = tabulate(self.opened(), found, trust)
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
        if index in table.lost:
            raise DamagedFrame(f"{self.name}: frame {index} is damaged")
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
            damaged += bool(decoder.bad) or table.hurt(index, [])
            if damaged == 2:  # further back the damage would still be on the way
                break
        if not damaged and not table.counted:
            self.pictures(trust=False)
            return self.locate(index, None)
        raise DamagedFrame(f"{self.name}: frame {index} is damaged")

    def advance(self, index: int, start: int, skippable: np.ndarray | None) -> av.VideoFrame | None:
        """Decodes on to picture `index`; None if it does not come, or not whole. Pictures before `start` are ignored.

        These are leading pictures of an open group, which refer to what lies before the entry point.
        """
        decoder, table = self.opened(), self.pictures()
        entry = table.entries[table.entry(start)][1]
        while (picture := decoder.pull(skippable)) is not None:
            rank = self.next or 0 if table.ranks is None else table.rank(picture)
            if rank < start:
                continue
            expected = start if self.next is None else self.next
            while expected < rank and (expected in table.lost or table.shown[expected] in decoder.dropped):
                expected += 1
            if rank != expected or (picture.packet == entry != 0 and not picture.frame.key_frame):
                break
            if rank == index and self.hurt(index, decoder, table, skippable):
                break
            self.next = rank + 1
            self.span = 1 if self.anchor is None else rank - self.anchor
            if picture.frame.pict_type != B:
                self.anchor = rank
            if rank == index:
                return picture.frame
        self.next = None
        return None

    @staticmethod
    def hurt(index: int, decoder: Decoder, table: Table, skippable: np.ndarray | None = None) -> bool:
        """Whether picture `index`, which has just come out, or anything that it may refer to is damaged.

        What it refers to may be shown later, and only when that comes out does the decoder say that it is damaged: so
        some pictures are decoded in advance.
        """
        last = table.reference(index)
        waiting: list[Picture] = []
        while last > index and (picture := decoder.pull(skippable)) is not None:
            waiting.append(picture)
            last = -1 if picture.packet is None or table.rank(picture) >= last else last
        decoder.ready.extendleft(reversed(waiting))
        return table.hurt(index, decoder.bad)

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
        """Every frame from the first, from a decoder of its own, without seeking."""
        table, decoder, count = self.pictures(), self.begun(), 0
        try:
            while (picture := decoder.pull()) is not None or count < len(table.shown):
                astray = self.astray(table, picture, count)
                if astray and not table.counted and not table.hurt(count, decoder.bad):
                    table = self.pictures(trust=False)  # the packets promised what the decoder does not deliver
                    if picture is None and count == len(table.shown):
                        return
                off = count in table.lost or self.astray(table, picture, count)
                if picture is None or off or self.hurt(count, decoder, table):
                    raise DamagedFrame(f"{self.name}: frame {count} is damaged")
                yield decoder.rgb(picture.frame, self.short_side)
                count += 1
        finally:
            decoder.close()

    def astray(self, table: Table, picture: Picture | None, count: int) -> bool:
        """Whether what comes out of the decoder is not frame `count`."""
        if picture is None or count >= len(table.shown):
            return True
        return table.ranks is not None and table.rank(picture) != count


class Live:
    """A camera or a network stream: frames come as they are made, and only by iterating."""

    kind = "picture"

    def __init__(self, source: int | str, short_side: int | None, threads: int):
        device = not is_address(source)
        self.name = f"camera {source}" if device else str(source)
        self.short_side, self.threads = short_side, threads
        form, url = CAMERAS.get(sys.platform, CAMERAS["linux"])
        self.url = url.format(source) if device else str(source)
        self.options = {"form": form, "camera": True} if device else {}
        self.decoder: Decoder | None = None
        self.fps = float(self.opened().stream.average_rate or FPS)

    def opened(self) -> Decoder:
        if self.decoder is None:
            try:
                self.decoder = Decoder(self.name, self.url, threads=self.threads, options=self.options)
            except FileNotFoundError:
                raise FileNotFoundError(f"{self.name}: there is no such camera on this machine") from None
        return self.decoder

    def __len__(self) -> int:
        raise ValueError(f"{self.name} is a live stream, without length and random access: iterate over it")

    def times(self) -> np.ndarray:
        return np.zeros(len(self))

    stamped = False

    def details(self) -> dict[str, Any]:
        return {}

    def sound(self, start: float) -> None:
        """What a camera hears is not read."""

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
