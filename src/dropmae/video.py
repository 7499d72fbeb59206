"""Video: a random-access sequence of frames, exact to the frame for everything FFmpeg reads; and writing H.264.

How a file is read. Demuxing (without decoding) gives every packet's timestamp and key flag, and with them the packet
that each picture comes from and the place to start decoding for it. Where a container gives no timestamps that can be
trusted (raw streams, AVI), one sequential decode makes the same table. Packets are numbered as they are fed to the
decoder and its pictures carry that number, so no picture is ever identified by counting or by rounded times; a picture
that does not turn up where the table has it makes the reader start from an earlier key frame, at last from the first.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import tarfile
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, overload

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image, ImageOps

av.logging.set_level(av.logging.PANIC)  # FFmpeg's own messages; what matters of them comes as exceptions

BLOCK = 16
"""Side in pixels of the blocks of a motion map."""
FPS = 30.0
"""Frames per second of what has no rate of its own (image folders, arrays)."""
IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"}
NOT_VIDEO = frozenset(
    f".{suffix}"
    for line in (
        "txt md rst csv tsv json jsonl yaml yml xml html log ini cfg toml py sh pdf doc docx xls xlsx srt vtt ass sub",
        "zip gz bz2 xz 7z rar tgz tar mat pkl pickle pt pth safetensors onnx npz h5 hdf5 parquet db sqlite bin exe so",
        "wav mp3 flac aac m4a ogg opus flo pfm ply tmp part lock md5 sha256",
    )
    for suffix in line.split()
)
"""Suffixes of files that `find` leaves out."""
TEXT_FORMATS = {"tty", "bin", "xbin", "adf", "idf"}
"""Formats in which FFmpeg would render plain text as pictures."""
TIMED = {"h264", "hevc", "vvc", "av1", "libdav1d", "vp9", "mjpeg", "png", "prores", "dnxhd", "mpeg4", "mpeg2video"}
"""Codecs of which one packet makes one picture ..."""
TIMING = {"mov", "matroska", "mpegts"}
"""... in containers that keep true timestamps."""
CLEAN = {"h264", "hevc", "vvc", "av1", "libdav1d", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4", "h263", "flv",
         "msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2", "wmv3", "vc1", "theora", "ffv1"}  # fmt: skip
"""Codecs whose key frames are true entry points; others are entered at the start, unless each picture stands alone."""
NONE = np.iinfo(np.int64).min
NEAR = 4
"""Pictures that cost as much to decode as a seek does."""


class Media(Protocol):
    """What stands behind a Video."""

    fps: float

    def __len__(self) -> int: ...
    def size(self) -> tuple[int, int]: ...
    def read(self, indices: list[int], motion: bool) -> dict[int, tuple[np.ndarray, np.ndarray | None]]: ...
    def play(self) -> Iterator[np.ndarray]: ...
    def close(self) -> None: ...


class Video:
    """A sequence of frames with random access; `v[i]` is uint8 [H, W, 3] in RGB.

    `source` is the path of a video file, of a folder of images (in natural order), of a .npy array or of a frame store
    made by `prepare --frames`; `archive.tar::member`, a file or a folder of images in an uncompressed tar; an array
    [T, H, W, 3] or [T, H, W]; a list of arrays or of image paths; or a camera by number (0 or "0"), which can only be
    iterated. Files are recognised by their content. Rotation metadata is applied.

    `v[i]` and `v[-1]` are frames, `v[[i, j]]` is [n, H, W, 3] in one pass, and `v[a:b:s]` is a Video that shares the
    decoder (s < 0 plays backwards). Iterating decodes straight through and never seeks. A Video can be pickled and
    crosses a fork; it then opens the file anew. `close()` releases the file; the next use opens it again.

    Raises FileNotFoundError or another OSError, in one line with the file's name, where the source cannot be opened or
    a frame cannot be decoded; ValueError where `source` is nothing of the above; IndexError outside the sequence.
    """

    def __init__(self, source: Any, *, fps: float | None = None, short_side: int | None = None, threads: int = 1):
        """`fps` overrides the rate, `short_side` scales pictures down to it (never up), `threads` decode (0: all)."""
        if short_side is not None and short_side < 1:
            raise ValueError(f"short_side must be at least 1, not {short_side}")
        self.source = source
        self._options = {"fps": fps, "short_side": short_side, "threads": threads}
        self._lock = threading.RLock()
        self._media: Media = open_media(source, short_side, threads)
        self._range: range | None = None
        self._fps = fps

    @property
    def path(self) -> Path | None:
        """Where the frames come from; None for arrays and cameras."""
        return Path(self.source) if isinstance(self.source, (str, Path)) and not camera(self.source) else None

    @property
    def name(self) -> str:
        """The file's name without its suffix, or the folder's name."""
        if self.path is None:
            return f"camera{self.source}" if camera(self.source) else "array"
        inner = Path(str(self.path).split("::")[-1])
        return inner.name if inner.is_dir() else inner.stem

    @property
    def fps(self) -> float:
        """Frames per second, the average where the rate varies; a view's is its file's divided by its step."""
        rate = self._fps or self._media.fps
        return rate / abs(self._range.step) if self._range is not None else rate

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, 3)."""
        return (len(self), *self._media.size(), 3)

    @property
    def height(self) -> int:
        return self._media.size()[0]

    @property
    def width(self) -> int:
        return self._media.size()[1]

    def __len__(self) -> int:
        return len(self._indices())

    def _indices(self) -> range:
        if self._range is None:
            with self._lock:
                return range(len(self._media))
        return self._range

    @overload
    def __getitem__(self, index: slice) -> Video: ...
    @overload
    def __getitem__(self, index: int | np.integer | Sequence[int] | np.ndarray) -> np.ndarray: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            view = object.__new__(Video)
            view.__dict__.update(self.__dict__, _range=self._indices()[index])
            return view
        if isinstance(index, (int, np.integer)):
            return self.read([int(index)])[0]
        return self.read(index)

    @overload
    def read(self, indices: Iterable[int]) -> np.ndarray: ...
    @overload
    def read(self, indices: Iterable[int], motion: bool) -> Any: ...
    def read(self, indices: Iterable[int], motion: bool = False) -> Any:
        """Frames uint8 [n, H, W, 3] in the order asked for, in one pass; with `motion` also the maps [n, h, w, 2]."""
        mine = self._indices()
        rows = []
        for index in indices:
            if not -len(mine) <= index < len(mine):
                raise IndexError(f"frame {index} of {self.name}, which has {len(mine)}")
            rows.append(mine[int(index)])
        with self._lock:
            found = self._media.read(sorted(set(rows)), motion) if rows else {}
            height, width = self._media.size()
        frames = np.empty((len(rows), height, width, 3), np.uint8)
        for k, row in enumerate(rows):
            frames[k] = found[row][0]
        if not motion:
            return frames
        maps = np.full((len(rows), -(-height // BLOCK), -(-width // BLOCK), 2), np.nan, np.float32)
        for k, row in enumerate(rows):
            vectors = found[row][1]
            if vectors is not None:
                maps[k] = vectors
        return frames, maps * np.float32(self._range.step if self._range is not None else 1)

    def motion(self, index: int) -> np.ndarray:
        """The codec's motion vectors: float32 [h, w, 2] in pixels, per 16x16 block, x before y.

        The displacement since frame i-1 of what is now in the block (destination minus source); NaN where there is
        none: I frames, intra blocks, and everything but H.264, MPEG-4 part 2, MPEG-1 and MPEG-2. A vector that spans
        several frames (around B frames) is divided by their number; a stream with several reference frames does not tell
        which one was used, so its vectors can be too long: `prepare` writes one reference and no B frames. In a view
        the vectors are those of the file times the view's step.
        """
        return self.read([index], motion=True)[1][0]

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._range is None:
            yield from self._media.play()
        elif self._range.step > 0:
            wanted = iter(self._range)
            following = next(wanted, None)
            if following is not None and following > 0:  # a view from the middle: one seek, then straight on
                for index in self._range:
                    yield self.read([self._range.index(index)])[0]
                return
            for index, frame in enumerate(self._media.play()) if following is not None else ():
                if index == following:
                    yield frame
                    following = next(wanted, None)
                    if following is None:
                        return
        else:
            for start in range(0, len(self._range), BLOCK):  # backwards: a block of frames in one pass forwards
                yield from self.read(range(start, min(start + BLOCK, len(self._range))))

    def close(self) -> None:
        """Releases the file and the decoder; they come back when they are needed."""
        with self._lock:
            self._media.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "options": self._options, "range": self._range}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["source"], **state["options"])
        self._range = state["range"]

    def __repr__(self) -> str:
        what = self.source if isinstance(self.source, (str, Path, int)) else type(self.source).__name__
        return f"Video({str(what)!r}{'' if self._range is None else f', {self._range}'})"


def open_media(source: Any, short_side: int | None, threads: int) -> Media:
    """Recognises what `source` is."""
    if isinstance(source, Video):
        return open_media(source.source, short_side, threads)
    if camera(source):
        return Camera(int(source))
    if isinstance(source, np.ndarray):
        return Arrays(source, short_side)
    if isinstance(source, (list, tuple)):
        if source and isinstance(source[0], np.ndarray):
            return Arrays(source, short_side)
        return Pictures([Piece(str(item), 0, None) for item in source], "the list", short_side)
    if not isinstance(source, (str, Path)):
        raise ValueError(f"a Video is made from a path, an array or a list of them, not from {type(source).__name__}")
    path = str(source)
    if "::" in path:
        archive, member = path.split("::", 1)
        pieces = tar_pieces(archive, member)
        if len(pieces) > 1 or Path(pieces[0].path.split("::")[-1]).suffix.lower() in IMAGES:
            return Pictures(pieces, path, short_side)
        return File(path, pieces[0].url(), short_side, threads)
    if os.path.isdir(path):
        found = [
            entry.path for entry in os.scandir(path) if Path(entry.name).suffix.lower() in IMAGES and visible(entry)
        ]
        if not found:
            raise FileNotFoundError(f"{path}: the folder holds no images")
        return Pictures([Piece(item, 0, None) for item in sorted(found, key=natural)], path, short_side)
    if "://" not in path:
        try:
            with open(path, "rb") as file:
                head = file.read(8)
        except OSError as error:
            raise broken(path, error) from None
        if not head:
            raise broken(path, "the file is empty")
        if head.startswith(b"\x93NUMPY"):
            return Arrays(load_npy(path), short_side)
        if store := stored_frames(path):
            return Arrays(*store[:1], short_side, fps=store[1])
    return File(path, path, short_side, threads)


def visible(entry: os.DirEntry) -> bool:
    return not entry.name.startswith(".") and entry.is_file()


def camera(source: Any) -> bool:
    return (isinstance(source, int) and not isinstance(source, bool)) or (isinstance(source, str) and source.isdigit())


def natural(text: str) -> list[tuple[int, int | str]]:
    """Sort key in which frame 2 comes before frame 10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part]


def broken(name: object, reason: object) -> OSError:
    """An OSError of one line that names the file and the reason."""
    text = str(getattr(reason, "strerror", None) or reason)
    kinds = (FileNotFoundError, PermissionError, IsADirectoryError)
    kind = next((kind for kind in kinds if isinstance(reason, kind)), OSError)
    return kind(f"{name}: {text[:1].lower()}{text[1:]}")


def fitted(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Height and width with the short side scaled down to `short_side`."""
    side = min(height, width)
    if short_side is None or side <= short_side:
        return height, width
    return max(1, round(height * short_side / side)), max(1, round(width * short_side / side))


# --- arrays and images -----------------------------------------------------------------------------------------------


class Arrays:
    """Frames that are there already: an array (in memory or mapped) or a list of arrays of one shape."""

    def __init__(self, frames: np.ndarray | Sequence[np.ndarray], short_side: int | None, fps: float = FPS):
        shapes = {tuple(np.shape(frame)) for frame in frames} if not isinstance(frames, np.ndarray) else set()
        shape = frames.shape[1:] if isinstance(frames, np.ndarray) else next(iter(shapes), ())
        dtype = frames.dtype if isinstance(frames, np.ndarray) else frames[0].dtype
        if len(shapes) > 1 or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)):
            raise ValueError(f"frames must be [T, H, W, 3] or [T, H, W], not {sorted(shapes) or shape}")
        if dtype != np.uint8:
            raise ValueError(f"frames must be uint8, not {dtype}; scale them to 0..255 first")
        self.frames, self.fps = frames, fps
        self.full = (shape[0], shape[1])
        self.fit = fitted(*self.full, short_side)

    def __len__(self) -> int:
        return len(self.frames)

    def size(self) -> tuple[int, int]:
        return self.fit

    def frame(self, index: int) -> np.ndarray:
        frame = self.frames[index]
        frame = np.broadcast_to(frame.reshape(*self.full, -1), (*self.full, 3))
        return np.array(frame) if self.fit == self.full else scaled(frame, self.fit)

    def read(self, indices: list[int], motion: bool) -> dict[int, tuple[np.ndarray, np.ndarray | None]]:
        return {index: (self.frame(index), None) for index in indices}

    def play(self) -> Iterator[np.ndarray]:
        return map(self.frame, range(len(self)))

    def close(self) -> None: ...


class Piece(NamedTuple):
    """A file, or a range of bytes within one."""

    path: str
    start: int
    length: int | None

    def url(self) -> str:
        file = self.path.split("::")[0]
        return file if self.length is None else f"subfile,,start,{self.start},end,{self.start + self.length},,:{file}"

    def bytes(self) -> bytes:
        with open(self.path.split("::")[0], "rb") as file:
            file.seek(self.start)
            return file.read(-1 if self.length is None else self.length)


class Pictures:
    """Image files of one size; EXIF orientation is applied and 16-bit grey is brought down to 8."""

    fps = FPS

    def __init__(self, pieces: list[Piece], name: str, short_side: int | None):
        if not pieces:
            raise ValueError(f"{name} is empty: a Video needs at least one frame")
        self.pieces, self.name = pieces, name
        first = self.load(pieces[0])
        self.full = (first.shape[0], first.shape[1])
        self.fit = fitted(*self.full, short_side)

    def load(self, piece: Piece) -> np.ndarray:
        try:
            with Image.open(io.BytesIO(piece.bytes())) as image:
                if image.mode.startswith("I;16"):
                    return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, 2)
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(f"{piece.path}: no such file") from None
            raise broken(piece.path, "not an image that can be read, or damaged") from None

    def __len__(self) -> int:
        return len(self.pieces)

    def size(self) -> tuple[int, int]:
        return self.fit

    def frame(self, index: int) -> np.ndarray:
        frame = self.load(self.pieces[index])
        if frame.shape[:2] != self.full:
            (height, width), (h, w) = self.full, frame.shape[:2]
            raise broken(self.pieces[index].path, f"{w}x{h} pixels, while the first frame has {width}x{height}")
        return frame if self.fit == self.full else scaled(frame, self.fit)

    def read(self, indices: list[int], motion: bool) -> dict[int, tuple[np.ndarray, np.ndarray | None]]:
        return {index: (self.frame(index), None) for index in indices}

    def play(self) -> Iterator[np.ndarray]:
        return map(self.frame, range(len(self)))

    def close(self) -> None: ...


def scaled(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize(size[::-1], Image.Resampling.BICUBIC))


def load_npy(path: str) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise broken(path, error) from None


@lru_cache(maxsize=8)
def tar_index(path: str, stamp: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Member -> (first byte, length) of an uncompressed tar; `stamp` makes a changed file a new one."""
    with tarfile.open(path, "r:") as archive:
        return {member.name: (member.offset_data, member.size) for member in archive if member.isfile()}


def tar_pieces(path: str, name: str) -> list[Piece]:
    """The member `name`, or the images in the folder `name`, of a tar file."""
    try:
        status = os.stat(path)
        members = tar_index(path, (status.st_size, status.st_mtime_ns))
    except tarfile.TarError:
        raise broken(path, "not an uncompressed tar file") from None
    except OSError as error:
        raise broken(path, error) from None
    if name in members:
        return [Piece(f"{path}::{name}", *members[name])]
    inside = [
        member
        for member in members
        if member.startswith(name.rstrip("/") + "/") and Path(member).suffix.lower() in IMAGES
    ]
    if not inside:
        raise FileNotFoundError(f"{path}: the archive holds no {name!r}")
    return [Piece(f"{path}::{member}", *members[member]) for member in sorted(inside, key=natural)]


# --- frame stores ----------------------------------------------------------------------------------------------------

STORE = "dropmae-frames"


def write_store(path: str | Path, frames: Iterable[np.ndarray], count: int, fps: float) -> None:
    """Writes frames [count, H, W, 3] as a safetensors file with one tensor `frames` and the rate in its header."""
    iterator = iter(frames)
    first = next(iterator)
    height, width, _ = first.shape
    length = count * height * width * 3
    header = {
        "__metadata__": {"format": STORE, "fps": repr(float(fps))},
        "frames": {"dtype": "U8", "shape": [count, height, width, 3], "data_offsets": [0, length]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            written = 0
            for frame in chain([first], iterator):
                file.write(np.ascontiguousarray(frame, np.uint8).data)
                written += 1
            assert written == count, "as many frames as announced"
        os.replace(temporary, path)
    except OSError as error:
        raise broken(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def stored_frames(path: str) -> tuple[np.ndarray, float] | None:
    """The frames (mapped into memory, not read) and rate of a frame store; None if the file is something else."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > 4096 or file.read(1) != b"{":
            return None
        try:
            header = json.loads(b"{" + file.read(length - 1))
            if header["__metadata__"]["format"] != STORE:
                return None
            shape = tuple(header["frames"]["shape"])
            fps = float(header["__metadata__"]["fps"])
        except (ValueError, KeyError, TypeError):
            return None
    if os.path.getsize(path) < 8 + length + int(np.prod(shape)):
        raise broken(path, "the frame store is cut short")
    return np.memmap(path, np.uint8, "r", 8 + length, shape), fps


# --- files through FFmpeg --------------------------------------------------------------------------------------------


class Picture(NamedTuple):
    """A decoded picture and the number of the packet it came from."""

    packet: int | None
    frame: av.VideoFrame


class Table(NamedTuple):
    """Where the pictures of a file are."""

    shown: np.ndarray
    """int64 [n]: number of the packet that picture i comes from, in display order."""
    entries: list[tuple[int, int]]
    """(picture, packet): pictures from `picture` on can be decoded by starting at `packet`; ascending."""
    stamps: np.ndarray
    """int64 [packets, 3]: pts, dts and byte position of every packet; NONE where there is none."""
    ranks: np.ndarray | None
    """int64 [packets]: the picture each packet makes, -1 for none; None where only counting tells."""


class Decoder:
    """One pass through a file's video stream; pictures carry the number of the packet they came from."""

    def __init__(self, name: str, url: str, threads: int, motion: bool = False, options: dict[str, Any] | None = None):
        self.name, self.url, self.threads, self.motion, self.options = name, url, threads, motion, options or {}
        self.open()

    def open(self) -> None:
        try:
            self.container = av.open(self.url, mode="r", metadata_errors="ignore", **self.options)
        except (av.FFmpegError, OSError, ValueError) as error:
            text = "not a video, or its header is damaged" if isinstance(error, av.InvalidDataError) else error
            raise broken(self.name, text) from None
        try:
            if self.container.format.name in TEXT_FORMATS:
                raise broken(self.name, "text, not a video")
            cover = 0x400  # AV_DISPOSITION_ATTACHED_PIC
            streams = [s for s in self.container.streams.video if not int(s.disposition) & cover]
            if not streams:
                raise broken(self.name, "no video in it" + (", only sound" if self.container.streams.audio else ""))
            self.stream = streams[0]
            self.context = self.stream.codec_context
            self.context.thread_count = self.threads
            if self.threads != 1:
                self.context.thread_type = "AUTO"
            if self.motion:
                self.context.options = {"flags2": "+export_mvs"}
            self.coded = (self.context.height, self.context.width)
            if not all(self.coded):
                raise broken(self.name, "the size of its pictures is unknown; the file is damaged or not a video")
        except OSError:
            self.container.close()
            raise
        self.restart(self.demux(0))

    def restart(self, packets: Iterator[tuple[int, av.Packet]]) -> None:
        self.packets = packets
        self.ready: deque[Picture] = deque()
        self.bad: list[int] = []
        self.ended = False

    def demux(self, number: int) -> Iterator[tuple[int, av.Packet]]:
        """Numbered packets from where the container stands, the next of which is `number`."""
        try:
            for packet in self.container.demux(self.stream):
                if packet.size:  # an empty packet would tell the decoder that the stream ends
                    yield number, packet
                    number += 1
        except av.FFmpegError as error:
            raise broken(self.name, error) from None

    def pull(self) -> Picture | None:
        """The next picture in display order; None at the end. Numbers of undecodable packets go to `bad`."""
        while not self.ready:
            if self.ended:
                return None
            number, packet = next(self.packets, (-1, None))
            if packet is None:
                self.ended = True
            else:
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

    def changed(self) -> tuple[int, int] | None:
        """The height and width the stream began with, if they are other ones now.

        Not simply the context's: a decoder that cannot crop to an unaligned left edge returns wider pictures.
        """
        return None if self.coded == (self.context.height, self.context.width) else self.coded

    def seek(self, packet: int, table: Table) -> None:
        """Makes `packet` the next one to be decoded, by the container's index if it has one, else by skipping."""
        stamps = [int(stamp) for stamp in dict.fromkeys(table.stamps[packet, :2].tolist()) if stamp != NONE]
        for stamp in stamps:
            try:
                self.container.seek(stamp, stream=self.stream)
                first = next((p for p in self.container.demux(self.stream) if p.size), None)
            except av.FFmpegError:
                continue
            if first is None:
                continue
            mark = [NONE if value is None else value for value in (first.pts, first.dts, first.pos)]
            same = np.flatnonzero((table.stamps == mark).all(1))
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

    def close(self) -> None:
        self.container.close()


class File:
    """The pictures of a file that FFmpeg reads, by number."""

    def __init__(self, name: str, url: str, short_side: int | None, threads: int):
        self.name, self.url, self.short_side, self.threads = name, url, short_side, threads
        self.motion = False
        self.table: Table | None = None
        self.shown_size: tuple[int, int] | None = None
        self.reformatter = VideoReformatter()
        self.decoder: Decoder | None = None
        self.process = os.getpid()
        stream = self.decode().stream
        self.fps = float(stream.average_rate or stream.guessed_rate or stream.base_rate or FPS)

    def decode(self) -> Decoder:
        """The decoder, opened anew after `close` and in another process than before."""
        if self.decoder is None or self.process != os.getpid():
            self.decoder = Decoder(self.name, self.url, self.threads, self.motion)
            self.process = os.getpid()
            self.next: int | None = None
            self.anchor: int | None = None
        return self.decoder

    def close(self) -> None:
        if self.decoder is not None:
            self.decoder.close()
            self.decoder = None

    def __len__(self) -> int:
        return len(self.look_up().shown)

    def size(self) -> tuple[int, int]:
        if self.shown_size is None:
            self.read([0], False)
        assert self.shown_size is not None
        return self.shown_size

    def look_up(self) -> Table:
        """The table of pictures, made at first use: from the packets alone if they can be trusted, else by decoding."""
        if self.table is None:
            decoder = Decoder(self.name, self.url, self.threads)
            try:
                self.table = self.tabulate(decoder)
            finally:
                decoder.close()
            if not len(self.table.shown):
                self.table = None
                raise broken(self.name, "none of its frames can be decoded")
        return self.table

    def tabulate(self, decoder: Decoder, trust: bool = True) -> Table:
        stamps, keys, dropped = [], [], []
        context = decoder.context
        clean = context.codec.name in CLEAN or context.codec.intra_only
        for number, packet in decoder.packets:
            stamps.append([NONE if value is None else value for value in (packet.pts, packet.dts, packet.pos)])
            if packet.is_discard:
                dropped.append(number)
            if packet.is_keyframe and clean and entry_point(context.codec.name, context.extradata, packet):
                keys.append(number)
        marks = np.array(stamps, np.int64).reshape(-1, 3)
        promised = decoder.stream.frames if decoder.container.format.name.startswith("mov") else 0
        if promised > len(marks):
            raise broken(self.name, f"cut short: {len(marks)} of {promised} frames are there")
        pts = marks[:, 0]
        order = np.argsort(pts, kind="stable")
        if (
            trust
            and len(pts)
            and context.codec.name in TIMED
            and decoder.container.format.name.split(",")[0] in TIMING
            and pts[order[0]] != NONE
            and keys[:1] == [0]
            and pts[0] == pts[order[0]]
            and (np.diff(pts[order]) > 0).all()
        ):
            shown = order[~np.isin(order, dropped)]
            places = np.searchsorted(pts[shown], pts[keys])
            entries = [(int(place), key) for place, key in zip(places, keys) if place < len(shown)]
        else:
            decoder.close()
            decoder.open()
            pictures = []
            while (picture := decoder.pull()) is not None:
                pictures.append((picture.packet, picture.frame.key_frame))
            labels = [packet for packet, _ in pictures]
            if None in labels or len(set(labels)) < len(labels):
                return Table(np.arange(len(labels)), [(0, 0)], marks, None)
            shown = np.array(labels, np.int64)
            starts = set(keys)
            entries = [(place, packet) for place, (packet, key) in enumerate(pictures) if key and packet in starts]
        entries = sorted({(0, 0), *entries})
        # An entry whose packet comes before an earlier entry's packet, or equal places, would not help.
        ranks = np.full(len(marks), -1, np.int64)
        ranks[shown] = np.arange(len(shown))
        return Table(shown, entries, marks, ranks)

    def read(self, indices: list[int], motion: bool) -> dict[int, tuple[np.ndarray, np.ndarray | None]]:
        if motion and not self.motion:
            self.motion = True
            self.close()
        found = {}
        for index in indices:
            frame = self.locate(index)
            found[index] = (
                self.convert(frame, self.decode().changed()),
                self.displacements(frame, index) if motion else None,
            )
        return found

    def locate(self, index: int) -> av.VideoFrame:
        """Picture `index`; goes back to earlier entry points as long as it does not turn up undamaged."""
        table = self.look_up()
        if index >= len(table.shown):
            raise broken(self.name, f"frame {index} cannot be decoded; only {len(table.shown)} can")
        last = bisect_right(table.entries, (index, len(table.stamps))) - 1
        decoder = self.decode()
        if self.next is not None and table.entries[last][0] - NEAR <= self.next <= index:
            frame = self.advance(index, None)
            if frame is not None:
                return frame
        damaged = 0
        for entry in reversed(table.entries[: last + 1]):
            decoder.seek(entry[1], table)
            self.next = self.anchor = None
            frame = self.advance(index, entry)
            if frame is not None:
                return frame
            damaged += bool(decoder.bad)
            if damaged == 2:
                break
        self.next = None
        if not damaged and table.ranks is not None and not getattr(self, "counted", False):
            self.counted = True  # the packets promise what the decoder does not deliver: decode to know
            fresh = Decoder(self.name, self.url, self.threads)
            try:
                self.table = self.tabulate(fresh, trust=False)
            finally:
                fresh.close()
            return self.locate(index)
        raise broken(self.name, f"frame {index} is damaged")

    def advance(self, index: int, entry: tuple[int, int] | None) -> av.VideoFrame | None:
        """Decodes on to picture `index`; None if it does not come, or not whole."""
        decoder, table = self.decode(), self.look_up()
        while (picture := decoder.pull()) is not None:
            if table.ranks is None:
                rank = 0 if self.next is None else self.next
            else:
                rank = -1 if picture.packet is None else int(table.ranks[picture.packet])
            if entry is not None and rank < entry[0]:
                continue  # a leading picture of an open group: its reference is before the entry
            if rank == (entry[0] if self.next is None and entry is not None else self.next):
                self.next = rank + 1
            else:
                self.next = None
                return None
            if rank == index:
                if decoder.bad and self.damaged(index, picture, table):
                    self.next = None
                    return None
                return picture.frame
            if picture.frame.pict_type != 3:
                self.anchor = rank
        self.next = None
        return None

    def damaged(self, index: int, picture: Picture, table: Table) -> bool:
        """Whether something between the entry point of the picture and the picture could not be decoded."""
        if picture.packet is None:
            return True
        entry = table.entries[bisect_right(table.entries, (index, len(table.stamps))) - 1][1]
        return any(entry <= number <= picture.packet for number in self.decode().bad)

    def convert(self, frame: av.VideoFrame, size: tuple[int, int] | None = None) -> np.ndarray:
        """RGB, scaled to the first picture's size where a stream changes it, and the right way up."""
        height, width = fitted(*(size or (frame.height, frame.width)), self.short_side)
        how = Interpolation.BILINEAR if (height, width) == (frame.height, frame.width) else Interpolation.BICUBIC
        rgb = self.reformatter.reformat(frame, width, height, "rgb24", interpolation=how, threads=1).to_ndarray()
        rgb = oriented(rgb, display_matrix(frame))
        self.shown_size = (rgb.shape[0], rgb.shape[1])
        return rgb

    def displacements(self, frame: av.VideoFrame, index: int) -> np.ndarray | None:
        """Motion map [h, w, 2] of a picture; None if the codec left no vectors."""
        data = frame.side_data.get("MOTION_VECTORS")
        if data is None:
            return None
        vectors = data.to_ndarray()
        past = index - self.anchor if self.anchor is not None else 1
        future = 1
        table = self.look_up()
        if table.ranks is not None and (vectors["source"] > 0).any():
            before = table.ranks[max(0, table.shown[index] - 32) : table.shown[index]]
            future = int(before[before > index].min(initial=index + 1 << 20)) - index
            future = future if future < 1 << 19 else 1
        span = np.where(vectors["source"] < 0, past, -future)
        moved = np.stack([-vectors["motion_x"], -vectors["motion_y"]], 1) / vectors["motion_scale"][:, None].clip(1)
        moved = moved / span[:, None]
        places = np.stack([vectors["dst_x"], vectors["dst_y"]], 1).astype(np.float64)
        area = vectors["w"].astype(np.float64) * vectors["h"]
        size = np.array([frame.width, frame.height], np.float64)
        turn = display_matrix(frame)
        if turn is not None:
            moved = moved @ turn
            corners = np.stack([np.zeros(2), size @ turn])
            places = places @ turn - corners.min(0)
            size = abs(corners[1])
        zoom = np.array(self.size()[::-1]) / size
        moved, places = moved * zoom, places * zoom
        h, w = (-(-side // BLOCK) for side in self.size())
        cells = np.floor(places / BLOCK).astype(np.int64)
        inside = (cells >= 0).all(1) & (cells < [w, h]).all(1)
        flow = np.full((h * w, 2), np.nan, np.float32)
        for direction in (vectors["source"] > 0, vectors["source"] < 0):  # the past, where known, wins
            use = inside & direction
            cell = cells[use, 1] * w + cells[use, 0]
            weight = np.bincount(cell, area[use], h * w)
            for axis in (0, 1):
                total = np.bincount(cell, area[use] * moved[use, axis], h * w)
                flow[weight > 0, axis] = (total[weight > 0] / weight[weight > 0]).astype(np.float32)
        return flow.reshape(h, w, 2)

    def play(self) -> Iterator[np.ndarray]:
        """Every frame from the first, from a decoder of its own, without a table and without seeking."""
        decoder = Decoder(self.name, self.url, self.threads)
        self.decode()
        count = 0
        try:
            while (picture := decoder.pull()) is not None:
                if decoder.bad:
                    raise broken(self.name, f"frame {count} is damaged")
                yield self.convert(picture.frame, decoder.changed())
                count += 1
            promised = decoder.stream.frames if self.table is None else len(self.table.shown)
        finally:
            decoder.close()
        if not count:
            raise broken(self.name, "none of its frames can be decoded")
        if decoder.bad or (self.table is not None and count < promised):
            raise broken(self.name, f"cut short or damaged after {count} frames")


def entry_point(codec: str, extradata: bytes | None, packet: av.Packet) -> bool:
    """Whether decoding can start at a key frame and be exact from it on in display order.

    An H.264 stream may flag pictures as key frames from which it recovers only over the next ones (intra refresh), or
    which later pictures look past; IDR pictures and immediate recovery points are safe.
    """
    if codec not in ("h264", "hevc"):
        return True
    data = bytes(packet)
    if extradata and extradata[0] == 1:
        width = (extradata[4 if codec == "h264" else 21] & 3) + 1
        starts, at = [], 0
        while at + width < len(data):
            starts.append(at + width)
            at += width + int.from_bytes(data[at : at + width], "big")
    else:
        starts = [found.end() for found in re.finditer(b"\0\0\1", data)]
    for start in starts:
        if start >= len(data):
            break
        if codec == "hevc":
            kind = data[start] >> 1 & 63
            if kind < 32:
                return 16 <= kind <= 21
            continue
        kind = data[start] & 31
        if kind in (1, 5):
            return kind == 5
        if kind == 6 and recovers_at_once(data[start + 1 : start + 256]):
            return True
    return False


def recovers_at_once(sei: bytes) -> bool:
    """Whether an SEI unit holds a recovery point with recovery_frame_cnt 0."""
    at = 0
    while at + 2 < len(sei):
        kind = size = 0
        while at < len(sei) and sei[at] == 255:
            kind, at = kind + 255, at + 1
        kind, at = kind + sei[at], at + 1
        while at < len(sei) and sei[at] == 255:
            size, at = size + 255, at + 1
        if at + 1 >= len(sei):
            return False
        size, at = size + sei[at], at + 1
        if kind == 6:
            return bool(sei[at] & 0x80)  # the code for zero is a single one bit
        at += size
    return False


def display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """float64 [2, 2] M of the file's rotation in right angles, (x, y) shown = (x, y) coded @ M; None for none."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    values = np.frombuffer(data, np.int32).reshape(3, 3)[:2, :2].astype(np.float64)
    upright = abs(values[0, 0]) + abs(values[1, 1]) >= abs(values[0, 1]) + abs(values[1, 0])
    turn = np.sign(values) * (np.eye(2) if upright else 1 - np.eye(2))
    return None if np.array_equal(turn, np.eye(2)) else turn


def oriented(rgb: np.ndarray, turn: np.ndarray | None) -> np.ndarray:
    if turn is None:
        return rgb
    if turn[0, 0] == 0:
        rgb = rgb.swapaxes(0, 1)
    if turn[:, 0].sum() < 0:
        rgb = rgb[:, ::-1]
    if turn[:, 1].sum() < 0:
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)


class Camera:
    """A camera by number: frames come as they are taken, and only by iterating."""

    fps = FPS

    def __init__(self, number: int):
        self.number = number
        kinds = {"darwin": ("avfoundation", f"{number}"), "win32": ("dshow", f"video={number}")}
        kind, self.url = kinds.get(sys.platform, ("v4l2", f"/dev/video{number}"))
        self.options = {"format": kind}
        self.decoder: Decoder | None = Decoder(f"camera {number}", self.url, 1, options=self.options)
        self.fps = float(self.decoder.stream.average_rate or FPS)
        self.coded = self.decoder.coded
        self.reformatter = VideoReformatter()

    def __len__(self) -> int:
        raise ValueError(f"camera {self.number} is a stream without length or random access: iterate over it")

    def size(self) -> tuple[int, int]:
        return self.coded

    def read(self, indices: list[int], motion: bool) -> dict[int, tuple[np.ndarray, np.ndarray | None]]:
        raise ValueError(f"camera {self.number} is a stream without length or random access: iterate over it")

    def play(self) -> Iterator[np.ndarray]:
        if self.decoder is None:
            self.decoder = Decoder(f"camera {self.number}", self.url, 1, options=self.options)
        while (picture := self.decoder.pull()) is not None:
            yield self.reformatter.reformat(picture.frame, format="rgb24", threads=1).to_ndarray()

    def close(self) -> None:
        if self.decoder is not None:
            self.decoder.close()
            self.decoder = None


# --- finding and writing ---------------------------------------------------------------------------------------------


def find(folder: str | Path) -> list[Path]:
    """The videos under a folder, sorted: files that are not known to be something else, and folders of images.

    Nothing is opened, so that it is quick on hundreds of thousands of files; what is not a video after all shows when
    it is opened. A folder with at least two images and no other video counts as one video. A file is itself a video.

    Raises FileNotFoundError where there is no such folder.
    """
    root = Path(folder)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such file or folder")
    if not root.is_dir():
        return [root]
    found: list[str] = []
    for parent, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        suffixes = {name: os.path.splitext(name)[1].lower() for name in files if not name.startswith(".")}
        images = sum(suffix in IMAGES for suffix in suffixes.values())
        videos = [name for name, suffix in suffixes.items() if suffix not in IMAGES and suffix not in NOT_VIDEO]
        videos = [name for name in videos if suffixes[name]]
        if images > 1 and not videos:
            found.append(parent)
        found += [os.path.join(parent, name) for name in videos]
    return [Path(path) for path in sorted(found, key=natural)]


class Writer:
    """Writes frames to an H.264 mp4 (yuv420p) that appears under its name only when it is complete.

    Use it as a context manager; frames are uint8 [H, W, 3] of one size. Odd sizes are padded by repeating the last
    row or column, as H.264 with 4:2:0 colour holds even sizes only. An exception inside the `with` removes the file.

    Raises OSError in one line where the file cannot be written.
    """

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
        threads: int = 1,
    ):
        """`crf` 0..51, lower is better; `gop` frames at most from key frame to key frame."""
        self.path = Path(path)
        self.temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self.rate = Fraction(fps).limit_denominator(1001 if fps > 1 else 100000)
        if self.rate <= 0:
            raise ValueError(f"fps must be positive, not {fps}")
        self.settings = {"crf": str(crf), "g": str(gop), "bf": str(b_frames), "refs": str(references), "preset": preset}
        self.threads = threads
        self.container: Any = None
        self.stream: Any = None
        self.count = 0

    def write(self, frame: np.ndarray) -> None:
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"a frame is uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}")
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        try:
            if self.container is None:
                self.size = (height, width)
                self.container = av.open(str(self.temporary), "w", format="mp4", options={"movflags": "+faststart"})
                self.stream = self.container.add_stream("libx264", rate=self.rate, options=self.settings)
                self.stream.height, self.stream.width = frame.shape[:2]
                self.stream.pix_fmt = "yuv420p"
                self.stream.thread_count = self.threads
                self.stream.codec_context.time_base = 1 / self.rate
            if (height, width) != self.size:
                raise ValueError(f"frame {self.count} is {width}x{height}, not {self.size[1]}x{self.size[0]}")
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture = picture.reformat(format="yuv420p", threads=1)
            picture.pts, picture.time_base = self.count, 1 / self.rate
            for packet in self.stream.encode(picture):
                self.container.mux(packet)
        except (av.FFmpegError, OSError) as error:
            self.discard()
            raise broken(self.path, error) from None
        self.count += 1

    def close(self) -> None:
        """Finishes the file. Raises ValueError where no frame was written."""
        if self.container is None:
            raise ValueError(f"{self.path}: a video needs at least one frame")
        try:
            for packet in self.stream.encode(None):
                self.container.mux(packet)
            self.container.close()
            os.replace(self.temporary, self.path)
        except (av.FFmpegError, OSError) as error:
            self.discard()
            raise broken(self.path, error) from None

    def discard(self) -> None:
        """Gives the file up."""
        if self.container is not None:
            with suppress(av.FFmpegError, OSError):  # what stopped the writing stops the trailer too
                self.container.close()
        self.temporary.unlink(missing_ok=True)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        if kind is None:
            self.close()
        else:
            self.discard()


def write(path: str | Path, frames: Iterable[np.ndarray], fps: float | Fraction = FPS, **settings: Any) -> None:
    """Writes frames uint8 [H, W, 3] as H.264 mp4; `settings` are those of Writer."""
    with Writer(path, fps, **settings) as writer:
        for frame in frames:
            writer.write(frame)
