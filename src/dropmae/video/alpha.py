"""Writing video with transparency: ProRes 4444 in mov, and VP9 with alpha in webm. The alpha is kept without losses.

Alpha is straight: colours are not multiplied by it. Colours are encoded with the matrix and range of the source, and
the file names these, so that nothing shifts where it is laid over the source again.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.packet import PacketSideData, packet_sidedata_type_from_literal
from av.video.reformatter import ColorRange, Colorspace

from dropmae.video.frames import FPS
from dropmae.video.sound import Sound
from dropmae.video.writer import VIDEO, Writer


class Colours(NamedTuple):
    """How a video's numbers mean colours, by FFmpeg's numbers; 2 (of the range 0) where the file does not say."""

    primaries: int = 1
    transfer: int = 1
    matrix: int = 1
    range: int = 1


MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
"""What converts by each matrix; where none is named, frames are decoded by that of BT.601, and so encoded."""
FULL = 2
"""FFmpeg's number of the full range."""
OPAQUE, DEPTH = 1023, 10
GOP = 60
"""Frames from key frame to key frame of VP9; both layers have theirs in the same places."""

Part = tuple[slice, slice]
"""Rows and columns."""


class AlphaWriter(Writer):
    """Writes frames uint8 [H, W, 4] (straight RGBA) of one size, by the ending of the name: .webm, or .mov.

    As a `Writer`, which appears under its name when it is complete. `part` of `write` says beyond which rows and
    columns a frame is empty (black and transparent), which saves most of the time.
    """

    CHANNELS = 4

    def __init__(
        self,
        path: str | Path,
        fps: float | Fraction = FPS,
        *,
        colours: Colours | None = None,
        sound: Sound | None = None,
        kind: str = VIDEO,
        threads: int = 1,
    ):
        super().__init__(path, fps, sound=sound, kind=kind, threads=threads)
        self.colours = colours or Colours()
        if self.form != "webm":
            self.colours = self.colours._replace(range=1)  # ProRes knows no other
        self.alpha: Any = None
        self.buffer: Any = None

    def add_stream(self, height: int, width: int) -> Any:
        webm = self.form == "webm"
        # The fast encoder of ProRes takes even widths only.
        codec, options = ("prores_ks", {"profile": "4444"}) if width % 2 else ("prores_aw", {"profile": "4"})
        codec, options = ("libvpx-vp9", VP9) if webm else (codec, options)
        stream = self.container.add_stream(codec, rate=self.rate, options=options)
        stream.pix_fmt = "yuv420p" if webm else "yuva444p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = self.colours
        if webm:
            stream.metadata["alpha_mode"] = "1"
            self.alpha = av.CodecContext.create("libvpx-vp9", "w")
            self.alpha.width, self.alpha.height, self.alpha.pix_fmt = width, height, "yuv420p"
            self.alpha.options = {**{k: v for k, v in VP9.items() if k != "crf"}, "lossless": "1"}
            self.alpha.color_range, self.alpha.time_base, self.alpha.framerate = FULL, self.base, self.rate
            self.alpha.thread_count = self.threads
        return stream

    def padded(self, frame: np.ndarray) -> np.ndarray:
        return frame  # 4:4:4 has odd sizes, and so has VP9

    def packets(self, frame: np.ndarray, place: int, part: Part | None = None) -> list[Any]:
        height, width = frame.shape[:2]
        rows, columns = part or (slice(0, height), slice(0, width))
        # On even places, so that the colours of 4:2:0 are whole.
        rows = slice(rows.start & ~1, min(height, rows.stop + (rows.stop & 1)))
        columns = slice(columns.start & ~1, min(width, columns.stop + (columns.stop & 1)))
        inside = frame[rows, columns]
        form = self.stream.pix_fmt
        picture = self.blank(height, width, form)
        if inside.size:
            small = self.reformatter.reformat(
                av.VideoFrame.from_ndarray(np.ascontiguousarray(inside[..., :3]), format="rgb24"),
                format="yuv420p" if form == "yuv420p" else "yuv444p10le",
                dst_colorspace=MATRICES.get(self.colours.matrix, Colorspace.ITU601),
                dst_color_range=ColorRange.JPEG if self.colours.range == FULL else ColorRange.MPEG,
                threads=1,
            )
            for number in range(3):
                step = 2 if form == "yuv420p" and number else 1
                within = (halved(rows, step), halved(columns, step))
                plane(picture, number)[within] = plane(small, number)
        if self.alpha is None:
            layer = plane(picture, 3)
            layer[rows, columns] = deepened(inside[..., 3])
        picture.pts, picture.time_base = place, self.base
        found = self.stream.encode(picture)
        return found if self.alpha is None else self.layered(found, frame[..., 3], place)

    def blank(self, height: int, width: int, form: str) -> Any:
        """A frame that is black and transparent."""
        made = av.VideoFrame(width, height, form)
        deep = 4 if form != "yuv420p" else 1
        black = 0 if self.colours.range == FULL else 16
        for number, value in enumerate((black, 128, 128, 0)[: len(made.planes)]):
            plane(made, number)[:] = value * deep
        made.color_primaries, made.color_trc, made.colorspace, made.color_range = self.colours
        return made

    def layered(self, found: list[Any], alpha: np.ndarray, place: int) -> list[Any]:
        """The packets of the colours with those of the alpha beside them, as Matroska's second layer."""
        layer = av.VideoFrame(alpha.shape[1], alpha.shape[0], "yuv420p")
        plane(layer, 0)[:] = alpha
        for number in (1, 2):
            plane(layer, number)[:] = 128
        layer.pts, layer.time_base, layer.color_range = place, self.base, FULL
        beside = self.alpha.encode(layer)
        if len(found) != len(beside):
            raise OSError(f"{self.path}: the encoder of VP9 gives its layers at different times")
        for packet, other in zip(found, beside):
            data = (1).to_bytes(8, "big") + bytes(other)
            make: Any = PacketSideData  # its stub has no arguments
            side = make(packet_sidedata_type_from_literal("matroska_block_additional"), len(data))
            side.update(data)
            packet.set_sidedata(side)
        return found


VP9 = {"crf": "18", "b": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "0", "g": str(GOP)}
VP9 |= {"keyint_min": str(GOP), "lag-in-frames": "0", "auto-alt-ref": "0"}
"""Options of libvpx: a packet for every frame, at once, so that the layers fit; key frames at fixed distances."""


def halved(part: slice, step: int) -> slice:
    return slice(part.start // step, -(-part.stop // step))


def deepened(alpha: np.ndarray) -> np.ndarray:
    """8 bits as 10, so that 255 is opaque and cutting the two lowest off gives the same again."""
    wide = alpha.astype(np.uint16)
    return wide << 2 | wide >> 6


def plane(frame: Any, number: int) -> np.ndarray:
    """A plane of a frame as an array [h, w] that shares its memory."""
    one = frame.planes[number]
    kind = np.dtype("<u2") if "10" in frame.format.name else np.dtype(np.uint8)
    flat = np.frombuffer(memoryview(one), kind)
    return flat.reshape(-1, one.line_size // kind.itemsize)[: one.height, : one.width]
