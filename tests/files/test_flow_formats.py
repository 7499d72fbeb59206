"""Files of optical flow: exact both ways, and what is wrong with them said in one line."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from dropmae.formats.flow import read_flow, read_kitti, read_pfm, write_flo, write_kitti, write_pfm
from dropmae.formats.png16 import SIGNATURE, png16, read_png16

RNG = np.random.default_rng(3)
FLOW = RNG.normal(0, 20, (7, 9, 2)).astype(np.float32)
FLOW[2, 3] = np.nan


def test_flo_and_pfm_keep_every_bit(tmp_path: Path) -> None:
    write_flo(tmp_path / "a.flo", FLOW)
    np.testing.assert_array_equal(read_flow(tmp_path / "a.flo"), FLOW)
    assert (tmp_path / "a.flo").read_bytes()[:12] == struct.pack("<fii", 202021.25, 9, 7)
    write_pfm(tmp_path / "a.pfm", FLOW)
    np.testing.assert_array_equal(read_flow(tmp_path / "a.pfm"), FLOW)
    assert (tmp_path / "a.pfm").read_bytes().endswith(FLOW[0, -1].tobytes() + bytes(4)), "rows run from the bottom up"
    big = b"PF 2 1 1.0\n" + np.arange(6, dtype=">f4").tobytes()
    (tmp_path / "b.pfm").write_bytes(big)
    assert read_pfm(tmp_path / "b.pfm").ravel().tolist() == [0, 1, 2, 3, 4, 5]


def test_kitti_is_exact_to_its_step(tmp_path: Path) -> None:
    write_kitti(tmp_path / "a.png", FLOW)
    found = read_kitti(tmp_path / "a.png")
    assert np.array_equal(np.isnan(found), np.isnan(FLOW))
    np.testing.assert_array_equal(found[0], np.rint(FLOW[0] * 64) / 64)
    assert read_png16(tmp_path / "a.png")[2, 3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_filter_of_png(tmp_path: Path, kind: int, channels: int) -> None:
    values = RNG.integers(0, 2**16, (5, 6, channels)).astype(np.uint16)
    rows = values.astype(">u2").reshape(5, -1).view(np.uint8).astype(int)
    step, lines = 2 * channels, b""
    for y in range(5):  # as the specification puts it, byte by byte
        line = [kind]
        for x in range(rows.shape[1]):
            left = rows[y, x - step] if x >= step else 0
            up = rows[y - 1, x] if y else 0
            corner = rows[y - 1, x - step] if y and x >= step else 0
            paeth = min((left, up, corner), key=lambda value: abs(left + up - corner - value))
            line.append((rows[y, x] - (0, left, up, (left + up) // 2, paeth)[kind]) % 256)
        lines += bytes(line)
    head = struct.pack(">IIBBBBB", 6, 5, 16, {1: 0, 3: 2}[channels], 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    data = SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    (tmp_path / "a.png").write_bytes(data)
    np.testing.assert_array_equal(read_png16(tmp_path / "a.png"), values)


def with_head(png: bytes, width: int, height: int, bits: int) -> bytes:
    """A PNG that says another size and depth."""
    head = b"IHDR" + struct.pack(">IIB", width, height, bits) + png[25:29]
    return png[:12] + head + struct.pack(">I", zlib.crc32(head)) + png[33:]


def test_bad_files_are_refused_in_one_line(tmp_path: Path) -> None:
    write_flo(tmp_path / "good.flo", FLOW)
    good = (tmp_path / "good.flo").read_bytes()
    deep = png16(np.zeros((4, 4, 3), np.uint16))
    shallow, huge = with_head(deep, 4, 4, 8), with_head(deep, 1 << 20, 1 << 20, 16)
    bad = {
        "magic.flo": (b"PIEX" + good[4:], "begins with"),
        "turned.flo": (b"HEIP" + good[4:], "big-endian"),
        "short.flo": (good[:-4], "bytes, not"),
        "long.flo": (good + b"\0", "bytes, not"),
        "huge.flo": (b"PIEH" + struct.pack("<ii", 1 << 20, 1 << 20), "pixels are more than"),
        "negative.flo": (b"PIEH" + struct.pack("<ii", -1, -1), "damaged"),
        "empty.flo": (b"", "begins with"),
        "short.pfm": (b"PF\n9 9\n-1\n" + bytes(8), "bytes of numbers"),
        "words.pfm": (b"PF\nnine 9\n-1\n", "is no number"),
        "grey.pfm": (b"Pf\n1 1\n-1\n" + bytes(4), "one channel"),
        "shallow.png": (shallow, "8 bits a channel"),
        "huge.png": (huge, "pixels are more than"),
        "cut.png": (deep[:40], "damaged PNG"),
        "grey.png": (png16(np.zeros((4, 4, 1), np.uint16)), "1 channels"),
        "other.png": (b"GIF89a", "not a PNG"),
        "what.txt": (b"", "flow is read from"),
    }
    for name, (data, reason) in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(OSError, match=reason) as caught:
            read_flow(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.data
def test_files_of_others() -> None:
    if not (root := os.environ.get("DROPMAE_TEST_DATA")):
        pytest.skip("DROPMAE_TEST_DATA is not set")
    kitti = read_flow(Path(root) / "data/KITTI-flow/training/flow_occ/000000_10.png")
    assert kitti.shape == (375, 1242, 2)
    assert 0.1 < (~np.isnan(kitti[..., 0])).mean() < 0.3
    codecs = Path(root) / "data/flow-codecs"
    assert np.abs(read_flow(codecs / "00001_flow.flo")).max() < 100
    assert read_pfm(codecs / "0000000-occ_weights_01.pfm").shape == (50, 50, 1)


def test_no_bit_of_a_png_changes_unnoticed(tmp_path: Path) -> None:
    """Each flips in turn, but for those of the length and the checksum at the end, which nothing is read from."""
    values = (np.arange(9 * 11 * 3).reshape(9, 11, 3) * 7).astype(np.uint16)
    whole = png16(values)
    for place in range(8, len(whole) - 12):
        (tmp_path / "a.png").write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(OSError, match=r"a\.png"):
            read_png16(tmp_path / "a.png")
