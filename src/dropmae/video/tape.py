"""A video that is still being recorded: frames by their number as soon as they are there."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from dropmae.storage import Scratch, mark, replacing
from dropmae.video.addresses import local
from dropmae.video.errors import broken
from dropmae.video.frames import FPS, Still

QUALITY = 92
"""Of the pictures, which are JPEGs, as most cameras send them."""
CLOCK = 1000
"""Times are told to the millisecond."""
SUFFIX = ".recorded.mov"
"""Ending of the file that a tape becomes."""


class Tape(Still):
    """Frames one behind the other in a file without a name, each a JPEG; memory holds where they lie.

    `Video(tape)` is a video that grows. Frames are added by one thread and read by any. What is read is what the file
    that `write` makes of it gives, pixel for pixel.
    """

    stamped = True

    def __init__(self, folder: Path, name: str, height: int, width: int, fps: float = FPS) -> None:
        """An empty tape on the disk of `folder`; `fps` counts as long as there are fewer than two frames."""
        super().__init__(None)
        self.name, self.full, self.fps = name, (height, width), fps
        self.file = Scratch(folder)
        self.ends = [0]
        """Where each frame ends in the file, after the 0 where the first one begins."""
        self.milliseconds: list[int] = []
        """When each frame came, from the first one on."""

    def __len__(self) -> int:
        return len(self.milliseconds)

    @property
    def used(self) -> int:
        """Bytes of all frames on the disk."""
        return self.ends[-1]

    @property
    def seconds(self) -> float:
        """From the first frame to the last one."""
        return self.milliseconds[-1] / CLOCK if self.milliseconds else 0.0

    def shown_last(self) -> int:
        """For how many milliseconds the last frame is shown: as long as the others on average."""
        return max(1, round(self.milliseconds[-1] / (len(self) - 1)))

    def times(self) -> np.ndarray:
        return np.array(self.milliseconds, np.float64) / CLOCK

    def details(self) -> dict[str, Any]:
        return {"codec": "mjpeg"}

    def add(self, frame: np.ndarray, seconds: float) -> None:
        """Appends a frame, uint8 [H, W, 3], that came `seconds` after the first one. OSError where the disk is full.

        A frame of another size, where a camera changes it, is scaled.
        """
        image, buffer = Image.fromarray(np.ascontiguousarray(frame)), io.BytesIO()
        height, width = self.full
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        image.save(buffer, "JPEG", quality=QUALITY)
        self.file.append(buffer.getbuffer())
        self.ends.append(self.ends[-1] + buffer.tell())
        last = self.milliseconds[-1] if self.milliseconds else -1
        self.milliseconds.append(max(last + 1, round(seconds * CLOCK) if last >= 0 else 0))
        if len(self) > 1:  # on average, and exactly what the file that `write` makes has
            self.fps = float(Fraction(len(self) * CLOCK, self.milliseconds[-1] + self.shown_last()))

    def data(self, index: int) -> bytes:
        """The JPEG of a frame."""
        start, end = self.ends[index], self.ends[index + 1]
        return self.file.read(start, end - start)

    def load(self, index: int) -> np.ndarray:
        try:
            (picture,) = av.CodecContext.create("mjpeg", "r").decode(av.Packet(self.data(index)))
        except (av.FFmpegError, ValueError) as error:
            raise broken(f"{self.name}, frame {index}", error) from None
        height, width = self.full
        reformatter = VideoReformatter()  # as `Decoder.rgb` has it
        rgb = reformatter.reformat(picture, width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1)
        return rgb.to_ndarray()

    def play(self) -> Iterator[np.ndarray]:
        return map(self.frame, range(len(self)))

    def write(self, out: Path) -> None:
        """Writes what is there as a video file of these very JPEGs, with their times; whole or not at all."""
        clock, (height, width) = Fraction(1, CLOCK), self.full
        with replacing(out) as partial, av.open(local(str(partial)), "w", format="mov") as container:
            container.metadata["comment"] = mark("a recording")
            stream: Any = container.add_stream("mjpeg", rate=Fraction(self.fps).limit_denominator(CLOCK))
            stream.height, stream.width, stream.pix_fmt = height, width, "yuvj420p"
            stream.codec_context.time_base = clock
            last = self.shown_last() if len(self) > 1 else round(CLOCK / self.fps)
            for index in range(len(self)):
                packet = av.Packet(self.data(index))
                packet.stream, packet.time_base, packet.is_keyframe = stream, clock, True
                packet.pts = packet.dts = self.milliseconds[index]
                packet.duration = (*self.milliseconds, self.milliseconds[-1] + last)[index + 1] - packet.pts
                container.mux(packet)

    def erase(self) -> None:
        """Lets go of the file, and with it of all frames."""
        self.file.close()
