"""The sound of a file as packets, to be copied beside new pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av

from dropmae.video.decoder import Decoder
from dropmae.video.errors import broken


class Sound:
    """The first track of sound of a file, packet by packet and without decoding, from `start` seconds on.

    Times count from the first picture. `track` is None where the file has no sound.
    """

    def __init__(self, decoder: Decoder, start: float) -> None:
        self.decoder, self.start = decoder, start
        self.track: Any = next(iter(decoder.container.streams.audio), None)
        pictures = decoder.stream
        self.origin = float((pictures.start_time or 0) * pictures.time_base)
        self.packets = self.demuxed() if self.track is not None else iter(())
        self.held: Any = None

    def demuxed(self) -> Iterator[Any]:
        try:
            yield from self.decoder.container.demux(self.track)
        except av.FFmpegError as error:
            raise broken(self.decoder.name, error) from None

    def until(self, seconds: float) -> Iterator[Any]:
        """The packets that begin before `seconds` and have not come yet, their times counted from `start`."""
        while True:
            packet = self.held if self.held is not None else next(self.packets, None)
            self.held = None
            if packet is None:
                return
            if packet.pts is None or not packet.size:
                continue
            begin = float(packet.pts * packet.time_base) - self.origin - self.start
            if begin < 0:
                continue
            if begin >= seconds - self.start:
                self.held = packet
                return
            shift = round((self.origin + self.start) / packet.time_base)
            packet.pts -= shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            yield packet

    def close(self) -> None:
        self.decoder.close()
