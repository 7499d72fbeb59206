"""Image files as frames: several files, or one that holds several pictures."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property

import numpy as np
from PIL import Image, ImageOps

from dropmae.opening import IMAGE_BYTES, check_animation, open_image
from dropmae.video.errors import DamagedFrame, broken
from dropmae.video.frames import FPS, Piece, Still

SUBFILE = 254
"""The TIFF tag that says what a page is; its bits 0 and 2 are set for a smaller copy and for a mask."""


def rgb_of(image: Image.Image, name: str) -> np.ndarray:
    """uint8 [H, W, 3] of a picture, the right way up.

    Of 16-bit grey the upper 8 bits are kept, so that 65535 is white. Whole numbers of 32 bits and fractions have no
    range that is known: OSError.
    """
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG"))  # brought to 16 bits
    if image.mode in ("I", "F") and not deep:
        kind = "of 32 bits" if image.mode == "I" else "with fractions"
        raise broken(name, f"its pixels are numbers {kind}, of which nobody knows what is white; save 8 or 16 bits")
    turned = ImageOps.exif_transpose(image)
    if deep:
        return np.repeat((np.asarray(turned) >> 8).astype(np.uint8)[..., None], 3, 2)
    return np.array(turned.convert("RGB"))


PAGES = 10_000
"""Most pictures in a TIFF: to find the next one takes Pillow the longer the more there were."""


def pages(image: Image.Image, name: str) -> list[int]:
    """The pictures of a file that are frames: one but for animated PNG and WebP, and stacks in TIFF."""
    if image.format != "TIFF":  # a PNG may show something else where nothing can be animated
        count = getattr(image, "n_frames", 1) if image.format in ("PNG", "WEBP") else 1
        if count == 1:
            return [0]
        check_animation(name, count, *image.size)
        return list(range(int(bool(getattr(image, "default_image", False))), count))
    found = []
    for page in range(PAGES + 1):
        try:
            image.seek(page)
        except EOFError:
            break
        if page == PAGES:
            raise broken(name, f"more than {PAGES:,} pictures in a TIFF: save them as files in a folder, or as a video")
        if not image.tag_v2.get(SUBFILE, 0) & 5:  # type: ignore[attr-defined]
            found.append(page)
    image.seek(0)
    return found or [0]


def source_of(piece: Piece) -> str | bytes:
    """What `open_image` takes; OSError where it is too large."""
    if (piece.length or 0) > IMAGE_BYTES:
        raise broken(piece.name, f"{piece.length:,} bytes are too many for an image")
    return piece.path if piece.length is None else piece.read()


class Pictures(Still):
    """Image files of one size, with a picture each."""

    def __init__(self, pieces: list[Piece], short_side: int | None = None):
        super().__init__(short_side)
        self.pieces = pieces
        first = self.image(0)
        self.full = (first.shape[0], first.shape[1])

    def __len__(self) -> int:
        return len(self.pieces)

    def image(self, index: int) -> np.ndarray:
        piece = self.pieces[index]
        with open_image(source_of(piece), piece.name) as image:
            if (count := len(pages(image, piece.name))) > 1:
                raise broken(piece.name, f"holds {count} pictures, a video of its own: give it by itself")
            return rgb_of(image, piece.name)

    def load(self, index: int) -> np.ndarray:
        frame = self.image(index)
        if frame.shape[:2] != self.full:
            (height, width), (h, w) = self.full, frame.shape[:2]
            raise broken(self.pieces[index].name, f"{w}x{h} pixels, while the first frame has {width}x{height}")
        return frame


class Stack(Still):
    """The pictures of one image file: animated PNG and WebP, stacks in TIFF. It is held open between frames."""

    def __init__(self, piece: Piece, short_side: int | None = None):
        super().__init__(short_side)
        self.piece, self.held = piece, ExitStack()
        self.opened: Image.Image | None = None
        self.pages = pages(self.image(), piece.name)
        first = self.load(0)
        self.full = (first.shape[0], first.shape[1])

    def __len__(self) -> int:
        return len(self.pages)

    def image(self) -> Image.Image:
        if self.opened is None:
            self.opened = self.held.enter_context(open_image(source_of(self.piece), self.piece.name))
            self.first = self.opened.size
        return self.opened

    def shown(self, index: int) -> Image.Image:
        """The file at picture `index`; DamagedFrame where it cannot be read."""
        if self.image().tell() > self.pages[index] and self.image().format != "TIFF":
            self.close()  # an animation is decoded from its start; Pillow does not always find its way back
        image, name = self.image(), self.piece.name
        try:
            image.seek(self.pages[index])
            if image.size != self.first:
                (w, h), (width, height) = image.size, self.first
                raise broken(name, f"frame {index} has {w}x{h} pixels, while the first has {width}x{height}")
            image.load()
        except Exception as error:  # Pillow on bad images
            self.close()
            if name in str(error):
                raise
            raise DamagedFrame(f"{name}: frame {index} is damaged") from None
        return image

    def load(self, index: int) -> np.ndarray:
        return rgb_of(self.shown(index), self.piece.name)

    @cached_property
    def lengths(self) -> np.ndarray:
        """float64 [T]: seconds for which each picture is shown."""
        if self.image().format == "TIFF":
            return np.full(len(self), 1 / FPS)
        shown = [float(self.shown(index).info.get("duration") or 0) / 1000 for index in range(len(self))]
        return np.array([seconds if seconds > 0 else 1 / FPS for seconds in shown])

    @property
    def fps(self) -> float:  # type: ignore[override]
        return len(self) / float(self.lengths.sum())

    def times(self) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum(self.lengths[:-1])])

    def close(self) -> None:
        self.held.close()
        self.opened = None


def open_images(piece: Piece, short_side: int | None) -> Still:
    """What an image file holds: one picture, or several."""
    with open_image(source_of(piece), piece.name) as image:
        several = len(pages(image, piece.name)) > 1
    return Stack(piece, short_side) if several else Pictures([piece], short_side)
