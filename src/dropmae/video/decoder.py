"""One pass of FFmpeg through the video stream of a file; its pictures carry the number of the packet they came from."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

from dropmae.opening import VIDEO_PIXELS, check_pixels, pixels_allowed
from dropmae.video.container import open_container
from dropmae.video.errors import broken
from dropmae.video.frames import fitted
from dropmae.video.nal import shows_nothing, unreferenced

NONE = np.iinfo(np.int64).min
"""Stands for a timestamp that a packet does not have."""
CHECKS = "crccheck+bitstream+buffer"
"""What decoders verify: it turns damage in WMV, MS-MPEG-4 and APNG from a wrong picture into an error. "explode" does
the same for motion JPEG; in other codecs it would refuse what is merely odd."""


NOTICED = frozenset(
    "h264 mpeg1video mpeg2video mpeg4 h263 wmv1 msmpeg4 prores png apng mjpeg".split()  # noqa: SIM905
)
"""Codecs whose decoders notice nearly all damaged packets (docs/video.md); others give wrong pixels without a word."""


class Picture(NamedTuple):
    """A decoded picture."""

    packet: int | None
    """Number of the packet it came from, counted from the start of the file."""
    frame: av.VideoFrame


class Decoder:
    """Decodes the first video stream of a file or device from a packet on.

    The timestamps that the decoder sees are packet numbers, so that its pictures are identified by these and not by
    counting, which dropped pictures would upset, or by timestamps, which may be missing, wrong or ambiguous.
    """

    def __init__(
        self, name: str, url: str | bytes, *, threads: int = 1, motion: bool = False, options: dict | None = None
    ):
        """`url` may be the file itself; `motion` has the codec's motion vectors exported; `options` tell its format.

        They are those of `open_container`. OSError if it is no video.
        """
        self.name, self.url, self.threads, self.motion, self.options = name, url, threads, motion, options or {}
        self.reformatter = VideoReformatter()
        self.open()

    def open(self) -> None:
        """Opens the file, anew if need be, before its first packet."""
        source = io.BytesIO(self.url) if isinstance(self.url, bytes) else self.url
        self.container = open_container(self.name, source, **self.options)
        try:
            self.stream = self.choose()
        except OSError:
            self.container.close()
            raise
        self.context = self.stream.codec_context
        self.context.thread_count = self.threads
        if self.threads != 1:
            self.context.thread_type = "AUTO"
        checks = CHECKS + "+explode" * (self.context.codec.name == "mjpeg")
        limit = str(pixels_allowed(VIDEO_PIXELS))  # a stream may grow on the way
        vectors = {"flags2": "+export_mvs"} if self.motion else {}
        self.context.options = {"err_detect": checks, "max_pixels": limit, **vectors}
        self.coded = (self.context.height, self.context.width)
        self.extradata = self.context.extradata
        self.restart(self.demux(0))

    def choose(self) -> Any:
        """The first video stream that is not cover art."""
        streams = [
            stream for stream in self.container.streams.video if not stream.disposition & Disposition.attached_pic
        ]
        if not streams:
            raise broken(self.name, "no video in it, only sound" if self.container.streams.audio else "no video in it")
        if streams[0].codec_context is None:
            raise broken(self.name, "its codec is unknown; it may be damaged")
        if not streams[0].codec_context.width or not streams[0].codec_context.height:
            raise broken(self.name, "the size of its pictures is unknown; it is damaged, or no video")
        check_pixels(self.name, streams[0].codec_context.width, streams[0].codec_context.height, VIDEO_PIXELS)
        return streams[0]

    def restart(self, packets: Iterator[tuple[int, Any]]) -> None:
        self.packets = packets
        self.ready: deque[Picture] = deque()
        self.ended = False
        self.bad: list[int] = []
        self.dropped: set[int] = set()
        self.hidden: set[int] = set()

    def demux(self, number: int) -> Iterator[tuple[int, Any]]:
        """Numbered packets from where the container stands, the next of which is `number`."""
        try:
            for packet in self.container.demux(self.stream):
                if packet.size:  # an empty packet would tell the decoder that the stream ends
                    yield number, packet
                    number += 1
        except av.FFmpegError as error:
            raise broken(self.name, error) from None
        except IndexError:  # PyAV's answer to a packet of a stream that was not there when the file was opened
            raise broken(self.name, "its streams change on the way; it is damaged") from None

    def pull(self, skippable: np.ndarray | None = None) -> Picture | None:
        """The next picture in display order; None at the end. Packets that are damaged go to `bad`.

        Those that are made to show nothing go to `hidden`. Packets marked in `skippable` (bool [packets]) are dropped
        where no other picture refers to theirs (H.264).
        """
        while not self.ready:
            if self.ended:
                return None
            number, packet = next(self.packets, (-1, None))
            if packet is None:
                self.ended = True
            else:
                if may_skip(number, skippable) and unreferenced(self.extradata, bytes(packet)):
                    self.dropped.add(number)
                    continue
                if shows_nothing(self.context.codec.name, self.extradata, packet):
                    self.hidden.add(number)
                packet.pts, packet.dts = number, None
            try:
                frames = self.context.decode(packet)
            except av.FFmpegError:
                self.bad.append(number)
                continue
            for frame in frames:
                if frame.is_corrupt and frame.pts is not None:
                    self.bad.append(frame.pts)
                self.ready.append(Picture(frame.pts, frame))
        return self.ready.popleft()

    def promised(self) -> int:
        """Packets that the file's index has once all was read, 0 if it has none that can be believed.

        The index is that of the edited view: what an edit list leaves out is not promised.
        """
        return len(self.stream.index_entries) if self.container.format.name.startswith("mov") else 0

    def seek(self, packet: int, stamps: np.ndarray) -> None:
        """Makes `packet` the next one to be decoded; `stamps` int64 [packets, 4] are what `stamp_of` gives.

        By the container's index if that leads to `packet` or before it, which is checked; else from the file's start.
        """
        if self.bad:  # a decoder may keep settings that it read in a damaged header
            self.close()
            self.open()
        for stamp in dict.fromkeys(stamps[packet, :2].tolist()):
            first = self.jump(stamp) if stamp != NONE else None
            if first is None:
                continue
            same = np.flatnonzero((stamps == stamp_of(first)).all(1))
            if len(same) == 1 and same[0] <= packet:
                number = int(same[0])
                self.restart(chain([(number, first)], self.demux(number + 1)))
                break
        else:
            self.close()
            self.open()
        for number, following in self.packets:
            if number == packet:
                self.packets = chain([(number, following)], self.packets)
                return
        self.ended = True

    def jump(self, stamp: int) -> Any:
        """The first packet after seeking to a timestamp; None where the container cannot."""
        try:
            self.container.seek(stamp, stream=self.stream)
            return next((packet for packet in self.container.demux(self.stream) if packet.size), None)
        except (av.FFmpegError, IndexError):  # IndexError: see demux
            return None

    def rgb(self, frame: av.VideoFrame, short_side: int | None = None) -> np.ndarray:
        """uint8 [H, W, 3], scaled down to `short_side` and the right way up.

        Where the stream changes its size, pictures are scaled to the size it began with. That is not simply the
        context's: a decoder that cannot crop to an unaligned left edge returns wider pictures.
        """
        changed = self.coded != (self.context.height, self.context.width)
        height, width = fitted(*(self.coded if changed else (frame.height, frame.width)), short_side)
        same = (height, width) == (frame.height, frame.width)
        how = Interpolation.BILINEAR if same else Interpolation.BICUBIC
        rgb = self.reformatter.reformat(frame, width, height, "rgb24", interpolation=how, threads=1).to_ndarray()
        return upright(rgb, rotation(frame))

    def close(self) -> None:
        """Closes the file and lets go of its pictures at once: a waiting generator would keep both in a cycle."""
        self.restart(iter(()))
        self.container.close()
        del self.context, self.stream, self.container


def stamp_of(packet: Any) -> list[int]:
    """What tells packets apart: pts, dts, byte position and size."""
    return marked((packet.pts, packet.dts, packet.pos, packet.size))


def marked(stamp: tuple[int | None, ...]) -> list[int]:
    return [NONE if value is None else value for value in stamp]


def may_skip(number: int, skippable: np.ndarray | None) -> bool:
    return skippable is not None and number < len(skippable) and bool(skippable[number])


def side_data(frame: av.VideoFrame, name: str) -> Any:
    """A piece of a frame's side data; None where there is none."""
    try:
        return frame.side_data.get(name)
    except ValueError:  # PyAV cannot list side data of a kind newer than it knows
        return None


def rotation(frame: av.VideoFrame) -> np.ndarray | None:
    """float64 [2, 2] M of the file's rotation and mirroring in right angles: (x, y) shown = (x, y) coded @ M.

    None where there is none.
    """
    data = side_data(frame, "DISPLAYMATRIX")
    if data is None:
        return None
    values = np.frombuffer(memoryview(data), np.int32).reshape(3, 3)[:2, :2].astype(np.float64)
    straight = abs(values[0, 0]) + abs(values[1, 1]) >= abs(values[0, 1]) + abs(values[1, 0])
    turn = np.sign(values) * (np.eye(2) if straight else 1 - np.eye(2))
    return None if np.array_equal(turn, np.eye(2)) or abs(np.linalg.det(turn)) != 1 else turn


def turned(turn: np.ndarray) -> str:
    """A rotation matrix in words: degrees clockwise from the coded picture to the shown one."""
    mirrored = np.linalg.det(turn) < 0
    flipped = turn * [[-1, 1], [-1, 1]] if mirrored else turn
    degrees = round(np.degrees(np.arctan2(flipped[0, 1], flipped[0, 0]))) % 360
    return f"{degrees} degrees" + (", mirrored" if mirrored else "")


def upright(rgb: np.ndarray, turn: np.ndarray | None) -> np.ndarray:
    if turn is None:
        return rgb
    if turn[0, 0] == 0:
        rgb = rgb.swapaxes(0, 1)
    if turn[:, 0].sum() < 0:
        rgb = rgb[:, ::-1]
    if turn[:, 1].sum() < 0:
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)
