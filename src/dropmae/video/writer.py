"""Writing H.264; and what writing other codecs shares with it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from dropmae import machine
from dropmae.storage import mark, replacing, unwritable
from dropmae.video.addresses import local
from dropmae.video.frames import FPS
from dropmae.video.sound import Sound

BT601 = 6
"""FFmpeg's number for SMPTE 170M, the matrix with which the colours are made here and which the file names."""
LIMITED = 1


VIDEO = "a video"
"""Kind of output, for its mark, unless another is named."""


class GivenUp(Exception):
    """Tells `replacing` that the file will not be finished."""


FORMATS = {".mov": "mov", ".webm": "webm"}
"""Container by the ending of a file's name, in any case; mp4 for others."""
CLOCK = Fraction(1, 90000)
"""Time base of frames that come with their times."""
SOUND = ("aac", "mp3", "ac3", "eac3", "opus", "alac", "flac")
"""Sound that both mp4 and mov hold."""
WEBM_SOUND = ("opus", "vorbis")


class Writer:
    """Writes frames to an H.264 mp4 or mov (yuv420p), which appears under its name when it is complete.

    A context manager; an exception inside it gives the file up. Frames are uint8 [H, W, 3], RGB, of one size. Odd sizes
    are padded by repeating the last row or column, since 4:2:0 colour has even sizes only: 7x5 becomes 8x6.

    Raises OSError in one line where the file cannot be written, ValueError for frames that do not fit or for none.
    """

    CHANNELS = 3

    def __init__(
        self,
        path: str | Path,
        fps: float | Fraction = FPS,
        *,
        crf: int = 20,
        gop: int = 250,
        b_frames: int = 2,
        references: int = 3,
        preset: str = "veryfast",
        tune: str = "",
        threads: int = 1,
        sound: Sound | None = None,
        kind: str = VIDEO,
    ):
        """`crf` 0..51, lower is better; at most `gop` frames from key frame to key frame; `preset`, `tune` of x264.

        `sound` is copied as it is, unless this container cannot hold it, which `silent` then says. `kind` of output is
        what the file is marked as (`storage.mark`).
        """
        rate = Fraction(fps).limit_denominator(1001) or Fraction(fps).limit_denominator(10**6)
        if rate <= 0:
            raise ValueError(f"fps must be positive, not {fps}")
        self.path, self.rate, self.threads, self.kind = Path(path), rate, threads, kind
        self.settings = {"crf": str(crf), "g": str(gop), "bf": str(b_frames), "refs": str(references), "preset": preset}
        self.settings |= {"tune": tune} if tune else {}
        if "avx512bw" in machine.instructions():  # what x264 does with them depends on what was in memory before
            self.settings["x264-params"] = "asm=avx2"
        self.size: tuple[int, int] | None = None
        self.count = 0
        self.stack = ExitStack()
        self.reformatter = VideoReformatter()
        self.container: Any = None
        self.stream: Any = None
        self.form = FORMATS.get(self.path.suffix.lower(), "mp4")
        track = None if sound is None else sound.track
        codec = "" if track is None else track.codec_context.name
        held = WEBM_SOUND if self.form == "webm" else SOUND
        fits = codec in held or (codec.startswith("pcm_") and self.form == "mov")
        self.silent = None if fits or track is None else f"its sound is {codec}, which {self.form} cannot hold"
        """Why there is no sound though there was some; None where there is none to tell."""
        self.sound, self.track = sound if fits else None, None
        self.last = -1

    def open(self, height: int, width: int, timed: bool) -> None:
        partial = self.stack.enter_context(replacing(self.path))
        options = {} if self.form == "webm" else {"movflags": "+faststart"}
        self.container = av.open(local(str(partial)), "w", format=self.form, options=options)
        self.container.metadata["comment"] = mark(self.kind)
        self.base = CLOCK if timed else 1 / self.rate
        self.stream = self.add_stream(height, width)
        self.stream.height, self.stream.width = height, width
        context = self.stream.codec_context
        context.time_base, context.thread_count = self.base, self.threads
        if self.sound is not None:
            self.track = self.container.add_stream_from_template(self.sound.track)

    def add_stream(self, height: int, width: int) -> Any:
        """The stream of pictures in the container."""
        stream = self.container.add_stream("libx264", rate=self.rate, options=self.settings)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = BT601, LIMITED
        return stream

    def padded(self, frame: np.ndarray) -> np.ndarray:
        """A frame as large as the codec takes it."""
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        return frame

    def packets(self, frame: np.ndarray, place: int, part: Any = None) -> list[Any]:
        """What a frame that is shown at `place`, in units of the time base, is encoded as."""
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = self.reformatter.reformat(
            rgb, format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG, threads=1
        )
        picture.pts, picture.time_base = place, self.base
        return self.stream.encode(picture)

    def write(self, frame: np.ndarray, seconds: float | None = None, part: Any = None) -> None:
        """Appends a frame; with `seconds`, all frames say when they are shown, else they follow at the rate."""
        if frame.ndim != 3 or frame.shape[2] != self.CHANNELS or frame.dtype != np.uint8:
            wanted = f"uint8 [H, W, {self.CHANNELS}]"
            raise ValueError(f"{self.path}: a frame is {wanted}, not {frame.dtype} {list(frame.shape)}")
        height, width = frame.shape[:2]
        self.size = self.size or (height, width)
        if (height, width) != self.size:
            raise ValueError(f"{self.path}: frame {self.count} is {width}x{height}, not {self.size[1]}x{self.size[0]}")
        frame = self.padded(frame)
        try:
            if not self.count:
                self.open(frame.shape[0], frame.shape[1], seconds is not None)
            place = self.count if seconds is None else round(seconds / CLOCK)
            self.last = max(place, self.last + 1)
            self.container.mux(self.packets(frame, self.last, part))
            self.copy_sound(float(self.last * self.base))
        except (av.FFmpegError, OSError) as error:
            raise self.failed(error) from None
        self.count += 1

    def copy_sound(self, seconds: float) -> None:
        """Copies the sound up to a time from the first frame on."""
        if self.sound is not None:
            for packet in self.sound.until(self.sound.start + seconds):
                packet.stream = self.track
                self.container.mux(packet)

    def close(self) -> None:
        """Finishes the file."""
        if self.container is None:
            raise ValueError(f"{self.path}: a video needs at least one frame")
        try:
            self.container.mux(self.stream.encode(None))
            self.copy_sound(float(self.last * self.base + 1 / self.rate))
            self.container.close()
        except (av.FFmpegError, OSError) as error:
            raise self.failed(error) from None
        self.stack.close()

    def failed(self, error: Exception) -> OSError:
        reason = unwritable(self.path, error)  # before there is room on the disk again
        self.discard()
        return reason

    def discard(self) -> None:
        """Gives the file up; what was under its name before stays."""
        if self.container is not None:
            with suppress(av.FFmpegError, OSError):  # what stopped the writing stops the end of the file too
                self.container.close()
        self.stack.__exit__(GivenUp, GivenUp(), None)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        if kind is None:
            self.close()
        else:
            self.discard()


def write(path: str | Path, frames: Iterable[np.ndarray], fps: float | Fraction = FPS, **settings: Any) -> int:
    """Writes frames uint8 [H, W, 3] as an H.264 mp4; `settings` are those of Writer. The number of frames."""
    with Writer(path, fps, **settings) as writer:
        for frame in frames:
            writer.write(frame)
    return writer.count
