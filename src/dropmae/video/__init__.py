"""Video: a random-access sequence of frames, exact to the frame for everything FFmpeg reads; and writing H.264.

How a file is read: demuxing alone, without decoding, gives every packet's timestamp and key flag, and with them the
packet that each picture comes from and the place to start decoding for it (table.py). Where a container has no
timestamps that can be trusted, one sequential decode makes the same table. The decoder's pictures carry the number of
their packet (decoder.py), so that none is identified by counting or by rounded times; where one does not turn up, the
reader starts from an earlier entry point, at last from the first (files.py).
"""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from dropmae.opening import load_array, open_file
from dropmae.video.addresses import is_address, local
from dropmae.video.errors import DamagedFrame, broken
from dropmae.video.frames import IMAGES, Arrays, Media, Piece, Still, folder_pieces, tar_pieces
from dropmae.video.images import Pictures, open_images
from dropmae.video.listing import find
from dropmae.video.motion import BLOCK
from dropmae.video.scans import SCANS, Recording, Scans, scan_files
from dropmae.video.store import DistantStore, open_store, write_store

if TYPE_CHECKING:
    from dropmae.video.sound import Sound
    from dropmae.video.writer import Writer, write

__all__ = ["BLOCK", "DamagedFrame", "Piece", "Video", "Writer", "find", "write", "write_store"]


def __getattr__(name: str) -> Any:
    if name not in ("Writer", "write"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dropmae.video import writer

    return getattr(writer, name)


LIVE = ("rtsp://", "rtmp://", "rtp://", "srt://", "udp://", "tcp://")
"""Addresses of streams that cannot be rewound."""


class Video:
    """A sequence of frames with random access; `v[i]` is uint8 [H, W, 3], RGB.

    `source` is the path of a video file, of a folder of images (in natural order), of a .npy array or of a frame store
    that `prepare --frames` wrote; `archive.tar::member`, a file or a folder of images in an uncompressed tar; a
    Piece of a shard; an array [T, H, W, 3] or [T, H, W]; a list of arrays or of image paths; a Tape, which is still
    being recorded; or a live stream, which can only be iterated: a camera by number (0 or "0") or an rtsp:// address.
    Files are recognised by their content. Of several video streams the first is read. Rotation in a file's metadata is
    applied, edit lists are obeyed; non-square pixels stay.

    A folder of .bin and .pcd files is a sequence of scans: `kind` is "scan", a frame is float32 [P, C], several are a
    list, and there is no height and width.

    `v[i]` and `v[-1]` are frames, `v[[i, j]]` is [n, H, W, 3] in one pass, as is `v[mask]` with a bool per frame, and
    `v[a:b:s]` is a Video that shares the decoder (s < 0 plays backwards). Iterating decodes straight on and never
    seeks. A Video can be pickled and crosses a fork: it then opens its file anew. `close()` releases the file; the next
    use opens it again.

    Raises FileNotFoundError or another OSError in one line with the file's name where the source cannot be read,
    DamagedFrame (an OSError) where only some frames cannot, ValueError where `source` is none of the above or
    a live stream is not iterated, IndexError outside the sequence.
    """

    def __init__(self, source: Any, *, fps: float | None = None, short_side: int | None = None, threads: int = 1):
        """`fps` overrides the rate, `short_side` scales frames down to it (never up), `threads` decode (0: all)."""
        if short_side is not None and short_side < 1:
            raise ValueError(f"short_side must be at least 1, not {short_side}")
        if isinstance(source, Video):
            self.__dict__.update(source.__dict__)
            return
        self.source = source
        self._options: dict[str, Any] = {"fps": fps, "short_side": short_side, "threads": threads}
        self._lock = threading.RLock()
        self._media = open_media(source, short_side, threads)
        self._range: range | None = None

    @property
    def path(self) -> Path | None:
        """Where the frames come from; None for arrays and live streams."""
        if isinstance(self.source, Piece):
            return Path(self.source.name)
        return None if is_live(self.source) or not isinstance(self.source, (str, Path)) else Path(self.source)

    @property
    def name(self) -> str:
        """The file's name without its suffix, or the folder's name; of a list of images that of the first."""
        if self.path is None:
            if isinstance(self.source, Still):
                return self.source.name
            first = self.source[0] if isinstance(self.source, (list, tuple)) else None
            if isinstance(first, (str, Path)):
                return Path(first).stem
            return f"camera {self.source}" if is_live(self.source) else "array"
        inner = Path(str(self.path).split("::")[-1])
        return inner.name if inner.is_dir() else inner.stem

    @property
    def kind(self) -> str:
        """What its frames are: "picture", uint8 [H, W, 3], or "scan", float32 [P, C]."""
        return self._media.kind

    @property
    def fps(self) -> float:
        """Frames per second, the average where the rate varies; a view's is its file's divided by its step."""
        rate = self._options["fps"] or self._media.fps
        return rate / abs(self._range.step) if self._range is not None else rate

    @property
    def image_names(self) -> list[str]:
        """The names of the images that its frames are; empty for anything but a folder or list of images."""
        names = [Path(piece.name.split("::")[-1]).name for piece in getattr(self._media, "pieces", ())]
        return names if self._range is None else [names[index] for index in self._range] if names else []

    @property
    def stamped(self) -> bool:
        """Whether the frames come with their times; else `times` follow from `fps`."""
        return self._media.stamped

    @property
    def times(self) -> np.ndarray:
        """float64 [T]: seconds from the first frame of the file to each frame, by the file's timestamps or by `fps`."""
        with self._lock:
            rate, length = self._options["fps"], len(self._media)
            times = np.arange(length) / rate if rate else self._media.times()
        return times if self._range is None else times[list(self._range)]

    def sound(self, start: float = 0.0) -> Sound | None:
        """The file's sound from `start` seconds after its first frame on, to be closed; None where there is none."""
        return self._media.sound(start)

    def details(self) -> dict[str, Any]:
        """What the file says of itself: container, created (when), codec, pixel_format, rotation (applied) and sound.

        `damage` says whether the codec's decoder notices it.
        """
        with self._lock:
            return self._media.details()

    def colours(self) -> tuple[int, ...] | None:
        """How a file's numbers mean colours: FFmpeg's for primaries, transfer, matrix and range; None for others."""
        with self._lock:
            return self._media.colours() if hasattr(self._media, "colours") else None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, 3)."""
        return (len(self), self.height, self.width, 3)

    @property
    def height(self) -> int:
        return self._size()[0]

    @property
    def width(self) -> int:
        return self._size()[1]

    def _size(self) -> tuple[int, int]:
        with self._lock:
            return self._media.size()

    def _indices(self) -> range:
        if self._range is not None:
            return self._range
        with self._lock:
            return range(len(self._media))

    def __len__(self) -> int:
        return len(self._indices())

    @overload
    def __getitem__(self, index: slice) -> Video: ...
    @overload
    def __getitem__(self, index: int | np.integer | Iterable[int] | np.ndarray) -> np.ndarray: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            view = object.__new__(Video)
            view.__dict__.update(self.__dict__, _range=self._indices()[index])
            return view
        if isinstance(index, bool) or not hasattr(index, "__index__") or np.ndim(index):
            chosen: Any = index
            return self.read(chosen)
        return self.read([operator.index(index)])[0]

    @overload
    def read(self, indices: Iterable[int], motion: Literal[False] = False) -> np.ndarray: ...
    @overload
    def read(self, indices: Iterable[int], motion: Literal[True]) -> tuple[np.ndarray, np.ndarray]: ...
    def read(self, indices: Any, motion: bool = False) -> Any:
        """Frames uint8 [n, H, W, 3] in the order asked for, in one pass; with `motion` also the maps [n, h, w, 2].

        `indices` are whole numbers, negative ones from the end, or a mask: a bool for each frame.
        """
        mine = self._indices()
        rows = [mine[place] for place in picked(indices, len(mine), self.name)]
        with self._lock:
            found = self._media.read(sorted(set(rows)), motion) if rows else {}
            if self.kind == "scan":
                return [found[row][0] for row in rows]
            height, width = self._media.size()
        frames = np.empty((len(rows), height, width, 3), np.uint8)
        for place, row in enumerate(rows):
            frames[place] = found[row][0]
        if not motion:
            return frames
        maps = np.full((len(rows), -(-height // BLOCK), -(-width // BLOCK), 2), np.nan, np.float32)
        for place, row in enumerate(rows):
            vectors = found[row][1]
            if vectors is not None:
                maps[place] = vectors
        return frames, maps * np.float32(mine.step)

    def motion(self, index: int) -> np.ndarray:
        """The codec's motion vectors: float32 [h, w, 2] in pixels, (x, y), one per 16x16 block.

        Each is the displacement since frame i-1 of what is in the block now (destination minus source); NaN where there
        is none: I frames, intra blocks, and all codecs but H.264, MPEG-4 part 2, MPEG-2 and their elders. A vector that
        spans several frames (around B frames) is divided by their number. A stream with several reference frames does
        not say which one was used, so its vectors can be too long: `prepare` writes one reference and no B frames. In a
        view they are the file's vectors times the view's step.
        """
        return self.read([index], motion=True)[1][0]

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._range is None:
            yield from self._media.play()
        elif self._range.step > 0:
            for index in range(len(self._range)):
                yield self.read([index])[0]
        else:  # backwards: some frames in one pass forwards, as often as needed
            for start in range(0, len(self._range), BLOCK):
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
        what = repr(str(self.source)) if isinstance(self.source, (str, Path, int)) else type(self.source).__name__
        return f"Video({what}{'' if self._range is None else f', {self._range}'})"


def picked(indices: Any, length: int, name: str) -> list[int]:
    """The frame numbers that `Video.read` is asked for; IndexError where there is no such frame."""
    chosen = np.asarray(list(indices) if isinstance(indices, Iterator) else indices)
    if chosen.dtype == bool and chosen.ndim == 1:
        if len(chosen) != length:
            raise IndexError(f"a mask of {len(chosen)} values for {name}, which has {length} frames")
        return np.flatnonzero(chosen).tolist()
    if chosen.ndim != 1 or (chosen.size and not np.issubdtype(chosen.dtype, np.integer)):
        what = " ".join(repr(indices).split())[:60]
        raise ValueError(f"frames are picked by a number, a list of numbers, a mask or a slice, not by {what}")
    numbers = chosen.tolist() if chosen.size else []
    if outside := [number for number in numbers if not -length <= number < length]:
        raise IndexError(f"frame {outside[0]} of {name}, which has {length}")
    return numbers


def open_media(source: Any, short_side: int | None, threads: int) -> Media:
    """Recognises what `source` is, by its content where it is a file."""
    if is_live(source):
        from dropmae.video.files import Live

        return Live(source, short_side, threads)
    if isinstance(source, Still):
        return source
    if isinstance(source, np.ndarray):
        return Arrays(source, short_side)
    if isinstance(source, Piece):  # which is a tuple as well
        return open_piece(source, short_side, threads)
    if isinstance(source, Recording):
        return Scans(source)
    if isinstance(source, (list, tuple)):
        if not source:
            raise ValueError("the list is empty: a Video needs at least one frame")
        if isinstance(source[0], np.ndarray):
            return Arrays(source, short_side)
        if all(str(item).lower().endswith(SCANS) for item in source):
            return Scans(Recording(tuple(str(item) for item in source)))
        return Pictures([Piece(str(item), str(item)) for item in source], short_side)
    if not isinstance(source, (str, Path)):
        raise ValueError(f"a Video is made of a path, an array or a list of either, not of {type(source).__name__}")
    if is_address(source):
        return encoded(str(source), str(source), short_side, threads)
    path = str(source).removeprefix("file://")
    if "::" in path and not os.path.lexists(path):
        pieces = tar_pieces(*path.split("::", 1))
        if len(pieces) > 1:
            return Pictures(pieces, short_side)
        if Path(pieces[0].name).suffix.lower() in IMAGES:
            return open_images(pieces[0], short_side)
        return encoded(path, pieces[0].url, short_side, threads)
    if os.path.isdir(path):
        if scans := scan_files(path):
            return Scans(Recording(tuple(scans)))
        return Pictures(folder_pieces(path), short_side)
    with open_file(path) as file:
        head = file.read(8)
    if not head:
        raise broken(path, "the file is empty")
    if Path(path).suffix.lower() in IMAGES:
        return open_images(Piece(path, path), short_side)
    if head[:6] == b"\x93NUMPY":
        return Arrays(open_array(path), short_side)
    if (store := open_store(path)) is not None:
        return Arrays(store[0], short_side, store[1])
    return encoded(path, local(path), short_side, threads, form="mov" if head[4:] == b"ftyp" else None)


def encoded(name: str, url: Any, short_side: int | None, threads: int, form: str | None = None) -> Media:
    """What FFmpeg decodes; its library is loaded for the first of them, and stored frames do without."""
    from dropmae.video.files import File

    return File(name, url, short_side, threads, form)


def open_piece(piece: Piece, short_side: int | None, threads: int) -> Media:
    """A prepared video within a shard: H.264, or a frame store."""
    if piece.name.endswith(".frames"):
        if piece.remote:
            return DistantStore(piece, short_side)
        store = open_store(piece.path, piece.start)
        if store is None:
            raise broken(piece.name, "not a frame store; the shard is damaged")
        return Arrays(store[0], short_side, store[1])
    return encoded(piece.name, piece.read() if piece.remote else piece.url, short_side, threads, form="mov")


def open_array(path: str) -> np.ndarray:
    """The array of a .npy file, mapped into memory; OSError where it does not hold frames."""
    array = load_array(path, mapped=True)
    try:
        Arrays(array)
    except ValueError as error:
        raise broken(path, error) from None
    return array


def is_live(source: Any) -> bool:
    """Whether a source is a camera's number or a stream's address."""
    if isinstance(source, str):
        number = source.isascii() and source.isdigit()
        return (number and not os.path.exists(source)) or source.lower().startswith(LIVE)
    return isinstance(source, int) and not isinstance(source, bool)
