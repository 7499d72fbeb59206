"""The one way into files that others made: regular files only, and what they claim is checked before it is believed.

Pictures, arrays and archives are opened here; videos in `video/container.py`, by the same rules. Nothing in this module
decodes, unpacks or allocates more than the limits below, whatever a file says about itself.
"""

from __future__ import annotations

import json
import math
import os
import stat
import struct
import traceback
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from dropmae.names import printable

PIXELS = "DROPMAE_MAX_PIXELS"
"""The environment variable that raises the three limits below, for all that is opened."""
STILL_PIXELS = 1 << 26
"""Pixels of the largest image that is decoded: 8192 x 8192."""
VIDEO_PIXELS = 8192 * 4352
"""Pixels of the largest video: what H.264, HEVC and AV1 have at their highest common level, 6.2."""
ANIMATION = 32
"""How many of the largest images an animation may hold, all its pictures together. Each of them is made from those
before it, so the last one takes as long as all: at most 20 s of CPU time."""
FILE_BYTES = 1 << 31
"""The largest file of annotation that is read at once."""
TEXT_BYTES = 1 << 25
"""The largest text of boxes, flags or names."""
IMAGE_BYTES = 1 << 29
"""The largest image file."""
MEMBER_BYTES = 1 << 23
"""The largest file that is unpacked from an archive of results: 300,000 boxes or more."""
ARRAY_BYTES = 1 << 29
"""The largest array that is read into memory."""
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000")
"""Pillow's names of the image formats that are read. Others, of which one runs programs, are not tried."""
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `check_pixels` says it, and refuses
END = b"\xff\xd9"
"""The last two bytes of a JPEG."""


def open_file(path: str | Path) -> BinaryIO:
    """A regular file, open for reading; whatever else bears the name is refused at once, without waiting for it.

    Raises FileNotFoundError, IsADirectoryError or another OSError in one line with the name.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    except ValueError:  # a zero byte in the name
        raise FileNotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise type(error)(f"{path}: {_reason(error)}") from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path}: is a directory")
    raise OSError(f"{path}: not a regular file but a pipe, a device or the like")


def _reason(error: OSError) -> str:
    """What the operating system says, as the rest of a sentence."""
    text = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
    return text[:1].lower() + text[1:]


def read_bytes(path: str | Path, limit: int = FILE_BYTES) -> bytes:
    """A whole file of at most `limit` bytes."""
    with open_file(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > limit:
            raise OSError(f"{path}: {size:,} bytes are more than the {limit:,} that are read at once")
        return file.read()


def read_text(path: str | Path) -> str:
    """A text file, whatever its encoding."""
    return read_bytes(path, TEXT_BYTES).decode("utf-8-sig", "replace")


def load_json(path: str | Path) -> Any:
    """The content of a JSON file; OSError with its name where it is none."""
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise OSError(f"{path}: not JSON ({printable(error)[:120]})") from None


def check_pixels(name: object, width: int, height: int, limit: int) -> None:
    """OSError where a picture is larger than `limit` pixels, or than the environment allows."""
    allowed = pixels_allowed(limit)
    if width * height > allowed:
        raise OSError(f"{name}: {width}x{height} pixels are more than {allowed:,}: {PIXELS}={width * height} reads it")


def check_animation(name: object, count: int, width: int, height: int) -> None:
    """OSError where `count` pictures that can be read only from the first on are too many of their size."""
    allowed = pixels_allowed(STILL_PIXELS) * ANIMATION
    if (total := count * width * height) > allowed:
        raise OSError(
            f"{name}: an animation of {count:,} pictures with {width}x{height} pixels, read from its start for each, "
            f"takes too long: make a video of it, or {PIXELS}={-(-total // ANIMATION)} reads it"
        )


def pixels_allowed(limit: int) -> int:
    """`limit`, or what the environment variable PIXELS says in its place."""
    text = os.environ.get(PIXELS, "")
    if not text:
        return limit
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**31):
        raise ValueError(f"{PIXELS} is a number of pixels, not {text!r}")
    return int(text)


@contextmanager
def open_image(source: str | Path | bytes, name: object) -> Iterator[Image.Image]:
    """An image file, or its bytes, as Pillow has it, decoded; `name` is named in errors, which are all OSErrors.

    A JPEG that lacks nothing but the marker at its end is read; one that lacks pixels is not.
    """
    data = source if isinstance(source, bytes) else read_bytes(source, IMAGE_BYTES)
    try:
        image = _decoded(data, name)
    except OSError as error:
        if data[:2] != b"\xff\xd8" or "truncated" not in str(error):
            raise
        image = _unended(data, name)
    with image:
        try:
            yield image
        except (TypeError, SyntaxError, EOFError, LookupError, ArithmeticError, struct.error) as error:
            where = traceback.extract_tb(error.__traceback__)[-1].filename
            if "PIL" not in Path(where).parts:  # Pillow reads further pages and tags when they are asked for
                raise
            raise _unreadable(name, error) from None


def _decoded(data: bytes, name: object) -> Image.Image:
    if (allowed := pixels_allowed(STILL_PIXELS)) > (Image.MAX_IMAGE_PIXELS or allowed):
        Image.MAX_IMAGE_PIXELS = allowed  # the user's word counts for Pillow too
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except Exception as error:  # Pillow on damaged files: OSError, ValueError, SyntaxError, struct.error, ...
        raise _unreadable(name, error) from None
    check_pixels(name, *image.size, STILL_PIXELS)
    try:
        image.load()
    except Exception as error:
        raise _unreadable(name, error) from None
    return image


def _unreadable(name: object, error: Exception) -> OSError:
    """Pillow on bad images raises OSError, SyntaxError, ValueError, struct.error and more, mostly without the name."""
    reason = "" if isinstance(error, Image.UnidentifiedImageError) else f" ({printable(error)[:120]})"
    return OSError(f"{name}: not a readable image{reason}")


def _unended(data: bytes, name: object) -> Image.Image:
    """A JPEG without its end; OSError where pixels are missing too.

    Nothing is read after the last pixel, so a picture that is all there does not depend on what stands after it.
    """
    images = [_decoded(data.rstrip(b"\xff") + filling * 64 + END, name) for filling in (b"\x00", b"\x55")]
    if images[0].tobytes() != images[1].tobytes():
        raise OSError(f"{name}: not a readable image (its last pixels are missing)")
    return images[0]


def load_array(path: str | Path, mapped: bool = False) -> np.ndarray:
    """The array of a .npy file, read or (`mapped`) mapped into memory; OSError where it is none. No pickle is read."""
    if not mapped:
        return _array(read_bytes(path, ARRAY_BYTES), path)
    open_file(path).close()
    try:
        return np.lib.format.open_memmap(path, "r")
    except Exception as error:
        raise _no_array(path, error) from None


def _array(data: bytes, name: object) -> np.ndarray:
    """The array in the bytes of a .npy file, whose header may claim anything."""
    try:
        file = BytesIO(data)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, kind = read(file)
        if kind.hasobject:
            raise ValueError("it holds objects, not numbers")
        flat = np.frombuffer(data, kind, math.prod(shape), file.tell()).copy()
        return flat.reshape(shape, order="F" if fortran else "C")
    except Exception as error:
        raise _no_array(name, error) from None


def _no_array(name: object, error: Exception) -> OSError:
    """numpy on a damaged header raises ValueError, SyntaxError, TypeError, MemoryError and more."""
    return OSError(f"{name}: not a readable .npy file ({printable(error)[:120]})")


class Archive:
    """A zip whose members are read whole and within limits; what is wrong with it is an OSError with its name."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.file = open_file(path)
        try:
            self.zip = zipfile.ZipFile(self.file)
        except Exception as error:  # zipfile on a damaged directory: BadZipFile, NotImplementedError, struct.error, ...
            self.file.close()
            raise OSError(f"{path}: a damaged zip ({printable(error)[:120]})") from None

    def names(self) -> list[str]:
        """Its files, as they are named in it, without folders."""
        return [entry.filename for entry in self.zip.infolist() if not entry.is_dir()]

    def array(self, name: str) -> np.ndarray:
        """The array of a .npy file in it."""
        return _array(self.read(name, ARRAY_BYTES), f"{self.path}: {name}")

    def read(self, name: str, limit: int = MEMBER_BYTES) -> bytes:
        """The bytes of one member, of which there may be `limit`; only what unpacks bit by bit is unpacked."""
        try:
            if self.zip.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("packed in an unusual way")
            with self.zip.open(name) as member:
                data = member.read(limit + 1)
        except Exception as error:  # zipfile on damaged members: BadZipFile, zlib.error, EOFError, RuntimeError, ...
            raise OSError(f"{self.path}: {name!r} in it is damaged ({printable(error)[:120]})") from None
        if len(data) > limit:
            raise OSError(f"{self.path}: {name!r} in it has more than {limit:,} bytes")
        return data

    def stored(self, name: str) -> bytes:
        """The bytes of a member that is not compressed, so that it cannot be larger than its archive."""
        if self.zip.getinfo(name).compress_type != zipfile.ZIP_STORED:
            raise OSError(f"{self.path}: {name!r} in it is compressed, which numbers are not")
        return self.read(name, os.fstat(self.file.fileno()).st_size)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.zip.close()
        self.file.close()
