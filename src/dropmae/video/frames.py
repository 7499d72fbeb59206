"""Frames that need no video decoder: arrays, and where the bytes of image files are, in tar files too."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from dropmae.opening import open_file
from dropmae.video.addresses import local
from dropmae.video.errors import broken

FPS = 30.0
"""Frames per second of what has no rate of its own (images, arrays)."""
IMAGES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"))
"""Suffixes of image files."""

Frame = tuple[np.ndarray, np.ndarray | None]
"""uint8 [H, W, 3], and the motion map float32 [h, w, 2] if it was asked for and there is one."""


class Media(Protocol):
    """What stands behind a Video."""

    @property
    def kind(self) -> str:
        """What its frames are: picture or scan."""
        ...

    @property
    def fps(self) -> float: ...

    def __len__(self) -> int: ...

    def times(self) -> np.ndarray:
        """float64 [T]: seconds from the first frame to each."""
        ...

    def size(self) -> tuple[int, int]:
        """Height and width."""
        ...

    @property
    def stamped(self) -> bool:
        """Whether frames come with times of their own."""
        ...

    def details(self) -> dict[str, Any]:
        """Formats, rotation and sound, where there are such."""
        ...

    def sound(self, start: float) -> Any:
        """A `Sound` from `start` seconds on; None where there is none."""
        ...

    def read(self, indices: list[int], motion: bool) -> dict[int, Frame]:
        """Frames by index; `indices` ascend and are unique."""
        ...

    def play(self) -> Iterator[np.ndarray]:
        """All frames from the first on."""
        ...

    def close(self) -> None: ...


class Still:
    """Media whose frames are independent of each other and carry no motion."""

    kind = "picture"
    name = "array"
    fps: float = FPS
    full: tuple[int, int]

    def __init__(self, short_side: int | None):
        self.short_side = short_side

    def __len__(self) -> int:
        raise NotImplementedError

    def times(self) -> np.ndarray:
        return np.arange(len(self)) / self.fps

    stamped = False

    def details(self) -> dict[str, Any]:
        return {}

    def sound(self, start: float) -> None:
        """Frames without a file have none."""

    def load(self, index: int) -> np.ndarray:
        """Frame `index` in its full size."""
        raise NotImplementedError

    def size(self) -> tuple[int, int]:
        return fitted(*self.full, self.short_side)

    def frame(self, index: int) -> np.ndarray:
        frame = self.load(index)
        if self.size() == self.full:
            return frame
        image = Image.fromarray(np.ascontiguousarray(frame))
        return np.asarray(image.resize(self.size()[::-1], Image.Resampling.BICUBIC))

    def read(self, indices: list[int], motion: bool) -> dict[int, Frame]:
        return {index: (self.frame(index), None) for index in indices}

    def play(self) -> Iterator[np.ndarray]:
        return map(self.frame, range(len(self)))

    def close(self) -> None:
        """Nothing is held open."""


class Arrays(Still):
    """Frames that are there already: an array (in memory, or mapped into it) or a list of arrays of one shape."""

    def __init__(self, frames: np.ndarray | Sequence[np.ndarray], short_side: int | None = None, fps: float = FPS):
        super().__init__(short_side)
        if not len(frames):
            raise ValueError("the array is empty: a Video needs at least one frame")
        shapes = {frame.shape for frame in frames} if not isinstance(frames, np.ndarray) else {frames.shape[1:]}
        shape = shapes.pop()
        if shapes or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)) or 0 in shape:
            raise ValueError(f"frames must all be [H, W, 3] or [H, W], not {[list(s) for s in (shape, *shapes)]}")
        if frames[0].dtype != np.uint8:
            raise ValueError(f"frames must be uint8, not {frames[0].dtype}; scale them to 0..255 first")
        self.frames, self.fps = frames, fps
        self.full = (shape[0], shape[1])

    def __len__(self) -> int:
        return len(self.frames)

    def load(self, index: int) -> np.ndarray:
        return np.array(np.broadcast_to(self.frames[index].reshape(*self.full, -1), (*self.full, 3)))


class Piece(NamedTuple):
    """A file, or a range of bytes within one, which may lie on any address that fsspec knows."""

    name: str
    path: str
    start: int = 0
    length: int | None = None

    @property
    def url(self) -> str:
        """How FFmpeg opens it."""
        return local(self.path, self.start, self.length)

    @property
    def remote(self) -> bool:
        return self.length is not None and "://" in self.path

    def read(self) -> bytes:
        if self.remote:
            return self.part(0, self.length or 0)
        with open_file(self.path) as file:
            size = os.fstat(file.fileno()).st_size - self.start
            file.seek(self.start)
            return file.read(max(0, size if self.length is None else min(size, self.length)))

    def part(self, start: int, stop: int) -> bytes:
        """Some of its bytes, from where they lie; OSError where they are not all there."""
        from fsspec.core import url_to_fs

        try:
            system, path = url_to_fs(self.path)  # cached by fsspec, anew in each process
            found = system.cat_file(path, self.start + start, self.start + stop)
        except OSError as error:
            raise broken(self.name, error) from None
        except Exception as error:  # each file system has its own
            raise broken(self.name, f"{type(error).__name__}: {error}") from None
        if len(found) != stop - start:
            raise broken(self.name, "cut short")
        return found


def fitted(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Height and width with the short side brought down to `short_side`, never up; the long side becomes even."""
    side = min(height, width)
    if short_side is None or side <= short_side:
        return height, width
    longer = max(2 * round(max(height, width) * short_side / side / 2), short_side)
    return (short_side, longer) if height == side else (longer, short_side)


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key in which frame 2 comes before frame 10."""
    parts = [part for part in re.split(r"([0-9]+)", text) if part]
    numbers = [part.lstrip("0") if "0" <= part[0] <= "9" else None for part in parts]
    return [(1, 0, part) if number is None else (0, len(number), number) for part, number in zip(parts, numbers)]


def folder_pieces(path: str) -> list[Piece]:
    """The images in a folder, in natural order; FileNotFoundError where there are none."""
    with os.scandir(path) as entries:
        found = [entry.path for entry in entries if image_name(entry.name) and entry.is_file()]
    if not found:
        raise FileNotFoundError(f"{path}: the folder holds no images")
    return [Piece(item, item) for item in sorted(found, key=natural)]


def image_name(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGES and not Path(name).name.startswith(".")


def tar_pieces(path: str, name: str) -> list[Piece]:
    """The member `name`, or the images in the folder `name`, of an uncompressed tar file."""
    try:
        status = os.stat(path)
        members = tar_index(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise broken(path, error) from None
    except Exception:  # tarfile on damaged headers: TarError, ValueError, OverflowError, ...
        raise broken(path, "not an uncompressed tar file") from None
    if name in members:
        return [Piece(f"{path}::{name}", path, *members[name])]
    prefix = name.rstrip("/") + "/"
    inside = sorted((m for m in members if m.startswith(prefix) and image_name(m)), key=natural)
    if not inside:
        raise FileNotFoundError(f"{path}: the archive holds no {name}")
    return [Piece(f"{path}::{member}", path, *members[member]) for member in inside]


@lru_cache(maxsize=8)
def tar_index(path: str, size: int, changed: int) -> dict[str, tuple[int, int]]:
    """Member -> (first byte, length); `size` and the time of the last change make a changed file a new one."""
    with open_file(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        return {member.name: (member.offset_data, member.size) for member in archive if member.isreg()}
