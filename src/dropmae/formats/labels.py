"""Label maps as PNG files: one object id per pixel, read from any common form, written with the usual palette."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from dropmae import storage
from dropmae.names import printable
from dropmae.opening import IMAGE_BYTES, Archive, open_image, read_text
from dropmae.storage import replacing
from dropmae.target import Target


def _palette() -> np.ndarray:
    """uint8 [256, 3]: the colours of PASCAL VOC and DAVIS; the bits of an id, dealt out in turn to red, green, blue."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours |= (((ids[:, None] >> (3 * (bit // 3) + np.arange(3))) & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours


PALETTE = _palette()
LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP")
"""Pillow's names of formats that change values, or may."""
LEVELS = 64
"""More different values than this in a grey picture are shades, not objects."""


def read_labels(path: str | Path, shades: bool = False, data: bytes | None = None) -> np.ndarray:
    """uint8 or int32 [H, W]: the object id of every pixel of a PNG, or another lossless image, or of its bytes `data`.

    Palette images give their index whatever the colours are, grey ones their value (so 0 and 255 in DAVIS-2016),
    two-level ones 0 and 1. Colour images are read through the DAVIS palette, or as grey where their channels agree.
    With `shades` a grey picture may be one object, whose rim is drawn softly; otherwise such a picture, and any that
    was compressed with losses, is refused: its values are no ids.

    FileNotFoundError and OSError name the file and what is wrong with it.
    """
    with open_image(path if data is None else data, path) as image:
        mode, form, pixels = image.mode, image.format, np.asarray(image)
    if form in LOSSY and not shades:
        raise OSError(
            f"{path}: {form} changes values, and with them ids: save a label map as PNG, an id for each object"
        )
    if mode in ("LA", "PA"):
        pixels = pixels[..., 0]
    if mode == "F":
        raise OSError(f"{path}: numbers with a fraction are no ids; save a label map as PNG, an id for each object")
    if pixels.ndim == 2:
        labels = pixels.astype(np.uint8 if pixels.dtype == bool or pixels.dtype.itemsize == 1 else np.int32)
        return labels if shades or mode in ("P", "PA") else unshaded(labels, path)
    if mode not in ("RGB", "RGBA"):
        raise OSError(f"{path}: a colour image of mode {mode}; save label maps as palette or grey PNG")
    packed = _pack(pixels[..., :3])
    known = {int(code): index for index, code in enumerate(_pack(PALETTE))}
    codes, inverse = np.unique(packed, return_inverse=True)
    if all(int(code) in known for code in codes):
        return np.array([known[int(code)] for code in codes], np.uint8)[inverse].reshape(packed.shape)
    if all(code == (code & 255) * 0x010101 for code in codes):
        labels = np.ascontiguousarray(pixels[..., 0])
        return labels if shades else unshaded(labels, path)
    raise OSError(f"{path}: a colour image outside the DAVIS palette; save label maps as palette or grey PNG")


def unshaded(labels: np.ndarray, path: object) -> np.ndarray:
    """A grey label map as it is; OSError where it is a picture, or a mask whose rim has shades of grey."""
    if shaded(labels):
        count = len(np.unique(labels))
        raise OSError(
            f"{path}: {count} shades of grey, which are no ids: a picture, or a mask that was resized smoothly or "
            "saved as JPEG. A label map has a number for each object and no shades between: round it to these first"
        )
    return labels


def shaded(labels: np.ndarray) -> bool:
    """Whether a grey uint8 picture [H, W] has shades and not ids: too many values, or thin rims around white areas.

    Of a label map the areas between black and white are objects, which have some thickness, and where white (255) is
    void it is the rim that is white.
    """
    if labels.dtype != np.uint8:
        return False
    levels = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    between = levels[(levels > 0) & (levels < 255)]
    if len(between) > LEVELS or not len(between) or min(labels.shape) < 3:
        return len(between) > LEVELS
    middle = labels[1:-1, 1:-1]
    flat = np.ones(middle.shape, bool)
    for down, across in np.ndindex(3, 3):
        flat &= labels[down : down + len(middle), across : across + middle.shape[1]] == middle
    thick = np.unique(middle[flat])
    white = int(thick.max(initial=0)) >= max(int(between.max()), 128)
    return white and 2 * int(np.isin(between, thick).sum()) < len(between)


def _pack(colours: np.ndarray) -> np.ndarray:
    """int32 [...]: one number per colour [..., 3]."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def label_png(mask: np.ndarray) -> bytes:
    """A label map [H, W] as palette PNG (16-bit grey where an id is beyond 255)."""
    mask = np.asarray(mask)
    if mask.max(initial=0) > 255:
        return grey_png(mask.astype(np.uint16))
    buffer, image = io.BytesIO(), Image.fromarray(mask.astype(np.uint8))
    image.putpalette(PALETTE.ravel().tolist())
    image.save(buffer, "PNG")
    return buffer.getvalue()


def grey_png(values: np.ndarray) -> bytes:
    """uint8 or uint16 [H, W] as grey PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, "PNG")
    return buffer.getvalue()


def write_labels(path: str | Path, mask: np.ndarray) -> None:
    """Writes a label map [H, W] as `label_png` makes it."""
    storage.write_bytes(path, label_png(mask))


def write_archive(path: Path, files: Iterable[tuple[str, np.ndarray]]) -> int:
    """Writes a zip of palette PNGs (name inside, label map), whole or not at all; their number.

    The same masks give the same bytes.
    """
    count = 0
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, mask in files:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, label_png(mask))
            count += 1
    return count


def label_ids(mask: np.ndarray) -> np.ndarray:
    """int64 [N]: the ids in a label map, sorted, 0 and (in uint8) 255 among them where they occur."""
    return np.flatnonzero(np.bincount(mask.ravel())) if mask.dtype == np.uint8 else np.unique(mask).astype(np.int64)


def foreground(mask: np.ndarray) -> np.ndarray:
    """A label map [H, W] as it is, but for one object drawn as 255 (DAVIS-2016), which gets id 1."""
    return (mask > 0).astype(np.uint8) if set(label_ids(mask).tolist()) <= {0, 255} else mask


class LabelFolder(Mapping[int, Target]):
    """A folder of <number>.png as {number: Target}; a file is read when its frame is asked for.

    `clean`, a function of a module, is applied to every label map read. Files whose name is no number are left out;
    `files` names them otherwise, {frame: path}. `shades` is that of `read_labels`.
    """

    def __init__(
        self,
        folder: str | Path,
        clean: Callable[[np.ndarray], np.ndarray] | None = None,
        files: dict[int, Path] | None = None,
        shades: bool = False,
    ) -> None:
        self.folder, self.clean, self.given, self.shades = Path(folder), clean, files, shades

    @cached_property
    def files(self) -> dict[int, Path]:
        """{number: path}, sorted by number; OSError where two names mean the same number."""
        if self.given is not None:
            return self.given
        found: dict[int, Path] = {}
        for path in sorted(self.folder.glob("*.png")):
            if path.stem.isdecimal():
                if (number := int(path.stem)) in found:
                    raise OSError(f"{path}: frame {number} is there twice (also as {found[number].name})")
                found[number] = path
        return dict(sorted(found.items()))

    def labels(self, number: int) -> np.ndarray:
        """The label map [H, W] of one frame; KeyError where there is none."""
        mask = read_labels(self.files[number], self.shades)
        return mask if self.clean is None else self.clean(mask)

    def __getitem__(self, number: int) -> Target:
        mask = self.labels(number)
        ids = label_ids(mask)
        return Target(ids=ids[(ids != 0) & ~((mask.dtype == np.uint8) & (ids == 255))], mask=mask)

    def __contains__(self, number: object) -> bool:
        return number in self.files

    def __iter__(self) -> Iterator[int]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        return f"LabelFolder({str(self.folder)!r})"


class MatchedLabels(LabelFolder):
    """A folder of label maps whose frame numbers are the places of the images of the same name in another folder.

    So a frame that is missing, numbers that go up by five, or a first frame that is not 0 shift nothing.
    """

    def __init__(
        self, folder: str | Path, images: str | Path, clean: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> None:
        super().__init__(folder, clean)
        self.images = Path(images)

    @cached_property
    def stems(self) -> list[str]:
        """The names of the images without suffix, in the order of a Video's frames."""
        from dropmae.video.frames import folder_pieces

        return [Path(piece.name).stem for piece in folder_pieces(str(self.images))]

    @cached_property
    def files(self) -> dict[int, Path]:
        """{place of the image: label map}; a label map without an image is left out."""
        known = {path.stem: path for path in self.folder.glob("*.png")}
        return {place: known[stem] for place, stem in enumerate(self.stems) if stem in known}


NAMED = "labelmap.txt"
"""The file beside label maps that says what objects are called, in lines name:r,g,b:: as CVAT has it."""


def name_lines(names: Mapping[int, str]) -> str:
    """The text of `NAMED` for {object: name}; objects beyond 255 have no colour, and so none there."""
    lines = [f"{' '.join(name.split()).replace(':', ' ')}:{','.join(map(str, PALETTE[i].tolist()))}::"
             for i, name in sorted(names.items()) if i <= 255]  # fmt: skip
    return "".join(f"{line}\n" for line in ["# label:color_rgb:parts:actions", *lines])


def names_in(text: str, where: object) -> dict[int, str]:
    """{object: name} of the text of `NAMED`; OSError for lines that are none, or of colours that no object has."""
    known = {",".join(map(str, colour.tolist())): number for number, colour in enumerate(PALETTE)}
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        number = known.get(rest.partition(":")[0].replace(" ", ""))
        if number is None:
            raise OSError(f"{where}: {printable(line)[:60]!r} is not name:r,g,b:: with a colour of DAVIS's palette")
        if number:
            found[number] = name.strip()
    return found


class LabelMaps(LabelFolder):
    """Label maps that somebody drew: one PNG, or a folder or a zip of <frame>.png, with names by `NAMED` beside them.

    A single PNG is of the frame that its name tells, else of frame 0. White on black is one object.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, foreground)
        self.single, self.inside, text = self.folder.is_file(), dict[int, str](), ""
        self.zipped = self.single and zipfile.is_zipfile(self.folder)
        if self.zipped:
            with Archive(self.folder) as archive:
                members = archive.names()
                text = archive.read(NAMED).decode("utf-8", "replace") if NAMED in members else ""
            for name in members:
                stem = PurePosixPath(name).stem
                if name.lower().endswith(".png") and stem.isdecimal():
                    if (number := int(stem)) in self.inside:
                        raise OSError(f"{path}: frame {number} is there twice (also as {self.inside[number]})")
                    self.inside[number] = name
            self.given = {number: self.folder / name for number, name in sorted(self.inside.items())}
        elif self.single:
            self.given = {int(self.folder.stem) if self.folder.stem.isdecimal() else 0: self.folder}
        beside = (self.folder.parent if self.single else self.folder) / NAMED
        if not self.zipped and beside.is_file():
            text = read_text(beside)
        self.names = names_in(text, f"{path}: {NAMED}")

    def labels(self, number: int) -> np.ndarray:
        if not self.zipped:
            return super().labels(number)
        with Archive(self.folder) as archive:
            data = archive.read(self.inside[number], IMAGE_BYTES)
        return foreground(read_labels(self.files[number], data=data))

    def __getitem__(self, number: int) -> Target:
        target = super().__getitem__(number)
        names = [self.names.get(i) for i in target.ids.tolist()]
        return replace(target, names=names) if any(names) else target
