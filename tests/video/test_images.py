"""Image files as frames: depths, several pictures in a file, and which of them are label maps."""

from __future__ import annotations

import io
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, TiffImagePlugin

from dropmae import opening, registry
from dropmae.datasets.image_masks import separated
from dropmae.formats.labels import read_labels, shaded, write_labels
from dropmae.video import Video, images, write_store

GREY = np.full((40, 60), 200, np.uint8)
GREY[:20, :30] = 10
DEEP = GREY.astype(np.uint16) * 257


# --- more than eight bits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm", "low.pgm"])
def test_grey_of_16_bits_keeps_its_upper_8(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "low.pgm":  # its white is 4095, and it says so
        path.write_bytes(b"P5 60 40 4095\n" + (DEEP >> 4).astype(">u2").tobytes())
    elif name == "a.pgm":
        path.write_bytes(b"P5 60 40 65535\n" + DEEP.astype(">u2").tobytes())
    else:
        Image.fromarray(DEEP).save(path)
    frame = Video(path)[0]
    assert np.array_equal(frame, np.repeat(GREY[..., None], 3, 2))
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / name)
    assert np.array_equal(Video(tmp_path / "folder")[0], frame)


def test_deep_grey_is_turned_as_its_exif_data_say(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    Image.fromarray(DEEP).save(tmp_path / "phone.png", exif=exif)
    assert np.array_equal(Video(tmp_path / "phone.png")[0][..., 0], np.rot90(GREY, -1))


@pytest.mark.parametrize(
    "pixels", [DEEP.astype(np.int32), DEEP.astype(np.int32) - 40000, GREY.astype(np.float32), GREY / np.float32(255)]
)
def test_numbers_without_a_known_range_are_no_picture(pixels: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(OSError, match=r"a\.tif: its pixels are numbers .* nobody knows what is white"):
        Video(tmp_path / "a.tif")


# --- several pictures in a file --------------------------------------------------------------------------------------


def pictures(count: int = 8) -> list[Image.Image]:
    texture = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    return [Image.fromarray(np.roll(texture, 5 * i, 1)) for i in range(count)]


@pytest.mark.parametrize("name", ["stack.tif", "anim.webp", "anim.png", "anim.gif"])
def test_an_image_file_of_several_pictures_is_a_video(name: str, tmp_path: Path) -> None:
    made, lengths = pictures(), [40, 40, 40, 40, 400, 40, 40, 40]
    options: dict[str, Any] = {} if name.endswith("tif") else {"duration": lengths}
    options |= {"lossless": True} if name.endswith("webp") else {}
    made[0].save(tmp_path / name, save_all=True, append_images=made[1:], **options)
    video, off = Video(tmp_path / name), 45 if name.endswith("gif") else 0  # a palette
    assert video.shape == (8, 48, 64, 3)
    for i in (6, 0, 3, 7, 2):
        assert np.abs(video[i].astype(int) - np.asarray(made[i])).max() <= off, i
    assert all(np.array_equal(video[i], frame) for i, frame in enumerate(video))
    assert np.array_equal(video[::-1][1], video[6])
    expected = np.arange(8) / 30 if name.endswith("tif") else np.cumsum([0, *lengths[:-1]]) / 1000
    assert np.allclose(video.times, expected)
    assert video.fps == pytest.approx(30 if name.endswith("tif") else 8 / 0.68, rel=0.01 if off == 0 else 0.2)


def test_what_is_in_a_file_beside_its_picture_is_no_frame(tmp_path: Path) -> None:
    made = pictures(3)
    small = TiffImagePlugin.ImageFileDirectory_v2()
    small[254] = 1  # a smaller copy, as slide scanners and maps have them
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "map.tif"), True) as file:
        made[0].save(file, "TIFF")
        file.newFrame()
        made[0].resize((32, 24)).save(file, "TIFF", tiffinfo=small)
    assert len(Image.open(tmp_path / "map.tif").getexif()) > 0
    assert Video(tmp_path / "map.tif").shape == (1, 48, 64, 3)
    made[0].save(tmp_path / "poster.png", save_all=True, append_images=made[1:], default_image=True, duration=50)
    assert np.array_equal(Video(tmp_path / "poster.png")[0], np.asarray(made[1])), "not what others show in its place"
    assert len(Video(tmp_path / "poster.png")) == 2


def chunk(kind: bytes, data: bytes) -> bytes:
    """One of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def large_animation(path: Path, side: int, count: int) -> None:
    """`count` pictures of `side` x `side` pixels, of which the others change two pixels of the first."""
    if path.suffix in (".png", ".apng"):

        def control(number: int, width: int) -> bytes:
            return chunk(b"fcTL", struct.pack(">5I2H2B", number, width, width, 0, 0, 1, 25, 0, 0))

        whole, dot = (zlib.compress(bytes((width * 3 + 1) * width)) for width in (side, 2))
        parts = [
            chunk(b"IHDR", struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0)),
            chunk(b"acTL", struct.pack(">2I", count, 0)),
        ]
        parts += [control(0, side), chunk(b"IDAT", whole)]
        for number in range(1, 2 * count - 1, 2):
            parts += [control(number, 2), chunk(b"fdAT", struct.pack(">I", number + 1) + dot)]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IEND", b"")]))
        return
    dots = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")] * (count // 2)
    dots[0].save(path, save_all=True, append_images=dots[1:], duration=40)
    data = bytearray(path.read_bytes())  # the canvas is what its header says
    if path.suffix == ".gif":
        data[6:10] = struct.pack("<2H", side, side)
    else:
        data[24:30] = struct.pack("<I", side - 1)[:3] * 2
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.apng", "a.webp"])
def test_an_animation_of_too_many_large_pictures_is_refused_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each picture needs all before it: one in the middle of 200 kB took 20 seconds and more."""
    large_animation(tmp_path / name, 4000, 3000)
    before = time.process_time()
    told = rf"{name}: an animation of 3,000 pictures with 4000x4000 pixels.*DROPMAE_MAX_PIXELS=1500000000 reads it$"
    with pytest.raises(OSError, match=told):
        len(Video(tmp_path / name))
    assert time.process_time() - before < 4
    assert (tmp_path / name).stat().st_size < 1_000_000
    large_animation(tmp_path / name, 64, 6)
    monkeypatch.setattr(opening, "STILL_PIXELS", 4096)
    monkeypatch.setattr(opening, "ANIMATION", 6)
    video = Video(tmp_path / name)
    assert video[5].shape == (64, 64, 3)
    assert len(video) == 6
    large_animation(tmp_path / name, 64, 8)
    with pytest.raises(OSError, match=r"an animation of 8 pictures.*DROPMAE_MAX_PIXELS=5462 "):
        len(Video(tmp_path / name))
    monkeypatch.setenv("DROPMAE_MAX_PIXELS", "5462")
    assert Video(tmp_path / name).shape == (8, 64, 64, 3)


def test_a_stack_of_too_many_pages_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding the next one takes the longer the more there were: 2.4 MB took 19 seconds."""
    one = Image.fromarray(np.zeros((4, 4), np.uint8))
    one.save(tmp_path / "a.tif", save_all=True, append_images=[one] * 8)
    monkeypatch.setattr(images, "PAGES", 9)
    assert len(Video(tmp_path / "a.tif")) == 9
    monkeypatch.setattr(images, "PAGES", 8)
    with pytest.raises(OSError, match=r"a\.tif: more than 8 pictures in a TIFF: save them as"):
        Video(tmp_path / "a.tif")


def test_pages_of_other_sizes_and_folders_of_stacks_are_named(tmp_path: Path) -> None:
    made = pictures(3)
    made[0].save(tmp_path / "odd.tif", save_all=True, append_images=[made[1].resize((32, 24)), made[2]])
    video = Video(tmp_path / "odd.tif")
    assert np.array_equal(video[2], np.asarray(made[2]))
    with pytest.raises(OSError, match=r"odd\.tif: frame 1 has 32x24 pixels, while the first has 64x48"):
        video[1]
    (tmp_path / "folder").mkdir()
    for i in range(2):
        made[0].save(tmp_path / "folder" / f"{i}.tif", save_all=True, append_images=made[1:])
    with pytest.raises(OSError, match=r"0\.tif: holds 3 pictures, a video of its own"):
        Video(tmp_path / "folder")


# --- label maps ------------------------------------------------------------------------------------------------------

SQUARE = np.zeros((64, 128), np.uint8)
SQUARE[24:48, 30:54] = 255


def disc() -> np.ndarray:
    image = Image.new("L", (160, 120))
    ImageDraw.Draw(image).ellipse((40, 30, 100, 90), fill=255)
    return np.asarray(image)


def compressed(mask: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


SOFT = {
    "square as JPEG": compressed(SQUARE, 75),
    "square as good JPEG": compressed(SQUARE, 95),
    "disc as JPEG": compressed(disc(), 75),
    "disc as good JPEG": compressed(disc(), 95),
    "square resized": np.asarray(Image.fromarray(SQUARE).resize((100, 50), Image.Resampling.BILINEAR)),
    "disc resized": np.asarray(Image.fromarray(disc()).resize((333, 250), Image.Resampling.BICUBIC)),
    "picture": np.asarray(pictures(1)[0].convert("L").resize((160, 120), Image.Resampling.BICUBIC)),
}


@pytest.mark.parametrize("name", SOFT)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_shades_are_no_objects(name: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(SOFT[name]).convert(mode).save(path)
    with pytest.raises(OSError, match=r"mask\.png: \d+ shades of grey, which are no ids"):
        read_labels(path)
    soft = read_labels(path, shades=True)
    if name != "picture":
        assert np.array_equal(separated(soft), soft > 127), "one object, where a data set draws it so"


def test_formats_that_change_values_hold_no_label_map(tmp_path: Path) -> None:
    for name, form in (("a.jpg", "JPEG"), ("b.png", "JPEG"), ("a.webp", "WEBP")):
        Image.fromarray(SQUARE).convert("RGB").save(tmp_path / name, form)
        with pytest.raises(OSError, match=rf"{name}: {form} changes values"):
            read_labels(tmp_path / name)
    Image.fromarray(SQUARE.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(OSError, match="numbers with a fraction are no ids"):
        read_labels(tmp_path / "a.tif")


def test_ids_are_no_shades(tmp_path: Path) -> None:
    few = np.zeros((60, 80), np.uint8)
    few[5:20, 5:30], few[25:50, 10:40], few[30:32, 60:62] = 1, 2, 3
    few[4, 4:31] = few[20, 4:31] = 255  # a rim of void
    many = np.kron(np.arange(60, dtype=np.uint8).reshape(6, 10), np.ones((10, 8), np.uint8))
    lone = np.zeros((60, 80), np.uint8)
    lone[8, 8] = 1
    for number, mask in enumerate((few, many, lone, SQUARE, few * 40, np.zeros_like(few), np.full_like(few, 255))):
        assert not shaded(mask), number
        Image.fromarray(mask).save(tmp_path / "grey.png")
        assert np.array_equal(read_labels(tmp_path / "grey.png"), mask)
        write_labels(tmp_path / "palette.png", mask)
        assert np.array_equal(read_labels(tmp_path / "palette.png"), mask)


# --- arrays and frame stores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.frames", "clip.npy"])
def test_a_damaged_store_or_array_is_a_bad_file_and_no_end(name: str, tmp_path: Path) -> None:
    path, frames = tmp_path / name, np.random.default_rng(0).integers(0, 256, (4, 8, 10, 3), np.uint8)
    write_store(path, frames, 25.0) if name.endswith("frames") else np.save(path, frames)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(1), 0
    texts = [
        (b"[4, 8, 10, 3]", new) for new in (b"[4, 8, -1, 3]", b"[0, 8, 10, 3]", b"[4, 8, 10]   ", b"[4, 8, 9.5,3]")
    ]
    texts += [(b"(4, 8, 10, 3)", new) for new in (b"(4, 8,-10, 3)", b"(0, 8, 10, 3)", b"(4,8,10,3e9) ")]
    texts += [(b'"25.0"', new) for new in (b'"nan" ', b'"-1"  ', b'"zero"')] + [(b"dropmae-frames", b"dropmae-gnames")]
    mutated = [whole.replace(old, new) for old, new in texts if old in whole]
    for _ in range(150):
        changed = bytearray(whole)
        for at in rng.integers(0, 200, rng.integers(1, 4)):
            changed[at] = int(rng.integers(0, 256))
        mutated.append(bytes(changed))
    mutated += [whole[:cut] for cut in (1, 9, 60, 140, len(whole) - 1)]
    for data in mutated:
        path.write_bytes(data)
        refused += 1
        with suppress(OSError):
            with Video(path) as video:
                assert video[len(video) - 1].shape[2] == 3
            refused -= 1
    assert refused > 50
    path.write_bytes(whole[:-1])
    with pytest.raises(OSError, match=name):
        Video(path)


def test_features_of_pictures_as_they_are() -> None:
    encoder = registry.load("methods", "mae")(size="tiny", image=64).encoder.eval()
    video = Video(np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8))
    with torch.no_grad():
        expected = encoder.features(torch.from_numpy(video[[0, 2]]).permute(0, 3, 1, 2))
        assert torch.equal(encoder.features(video[[0, 2]]), expected)
        torch.testing.assert_close(encoder.features(video[2])[0], expected[1], atol=1e-5, rtol=1e-4)
    for wrong in (np.zeros((3, 48, 64), np.uint8), np.zeros((48, 64, 3)), np.zeros((0, 48, 64, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"an array of frames is uint8 \[H, W, 3\]"):
            encoder.features(wrong)
