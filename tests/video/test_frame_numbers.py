"""Frame i is frame i: in files that were trimmed, joined or damaged, whose rate varies, and however it is asked for."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from contextlib import nullcontext, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

import dropmae
from dropmae.video import DamagedFrame, Video
from dropmae.video.table import gaps

X264 = "x264-params"


def numbered(i: int, height: int = 64, width: int = 128) -> np.ndarray:
    """A moving texture with its number in eight blocks along the top, bright for 1, the lowest bit first."""
    texture = np.random.default_rng(0).integers(40, 200, (height // 4, width // 4, 3)).repeat(4, 0).repeat(4, 1)
    frame = np.roll(texture, 2 * i, 1).astype(np.uint8)
    for bit in range(8):
        frame[:16, bit * 16 : bit * 16 + 16] = 235 if i >> bit & 1 else 20
    return frame


def number(frame: np.ndarray) -> int:
    grey = frame.astype(float).mean(2)
    return sum(int(grey[4:12, bit * 16 + 4 : bit * 16 + 12].mean() > 125) << bit for bit in range(8))


def encode(
    path: Path,
    codec: str = "libx264",
    *,
    count: int = 30,
    first: int = 0,
    form: str | None = None,
    pixels: str = "yuv420p",
    times: Callable[[int], int] | None = None,
    rotation: int | None = None,
    container: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """A video of numbered frames; `times` gives when they are shown, in milliseconds."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    base = Fraction(1, 1000) if times else Fraction(1, 25)
    with av.open(str(path), "w", format=form, options=container or {}) as output:
        stream: Any = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 128, 64, pixels, 1
        stream.codec_context.time_base = base
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(first + i), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = times(i) if times else i, base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def check_numbers(path: Path, expected: list[int], turn: int = 0) -> None:
    """Iterating and random access give the same frames, and these bear the numbers expected."""
    with Video(path) as video:
        assert len(video) == len(expected)
        order = list(range(len(expected)))
        random.Random(1).shuffle(order)
        frames = {i: video[i] for i in order}
        assert [number(np.rot90(frames[i], turn)) for i in range(len(expected))] == expected
        assert all(np.array_equal(frames[i], frame) for i, frame in enumerate(video))
        assert len(video.times) == len(expected)


# --- edit lists ------------------------------------------------------------------------------------------------------

PLAIN: dict[str, Any] = {X264: "bframes=0:keyint=12:min-keyint=12:scenecut=0"}
B_FRAMES: dict[str, Any] = {X264: "bframes=3:b-pyramid=normal:keyint=12:scenecut=0"}
TRIMMED: dict[str, dict[str, Any]] = {
    "plain.mp4": PLAIN,
    "b-frames.mov": {**B_FRAMES, "rotation": 90},
    "hevc.mp4": {"codec": "libx265", "x265-params": "keyint=12:bframes=3:log-level=none"},
    "mpeg4.mp4": {"codec": "mpeg4", "g": "12", "bf": "2"},
    "mjpeg.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "png.mov": {"codec": "png", "pixels": "rgb24"},
}
EDITS: dict[str, tuple[list[tuple[int, int]], list[int]]] = {
    "end": ([(1000, 0)], list(range(25))),
    "start": ([(1400, 25)], list(range(25, 60))),
    "both": ([(800, 26)], list(range(26, 46))),
    "two": ([(400, 5), (600, 40)], [*range(5, 15), *range(40, 55)]),
    "twice": ([(400, 3), (400, 3)], [*range(3, 13)] * 2),
    "one": ([(40, 30)], [30]),
}
"""Segments (milliseconds, first frame) of an edit list, and the frames that a player shows."""


def with_edits(data: bytes, segments: list[tuple[int, int]]) -> bytes:
    """An mp4, its index at its end, with another edit list: as phones and `-c copy` trim."""
    made, chain, at, inside = bytearray(data), [], 0, [b"moov", b"trak", b"edts", b"elst"]
    while inside:
        size, kind = struct.unpack(">I4s", made[at : at + 8])
        if kind == inside[0]:
            chain.append(at)
            inside.pop(0)
            at += 8
        else:
            at += size
    size, start = struct.unpack(">I", made[chain[-1] : chain[-1] + 4])[0], chain[-1]
    offset = struct.unpack(">i", made[start + 20 : start + 24])[0]  # of the first frame, where there are B frames
    rows = b"".join(struct.pack(">IiI", length, offset + 1000 * first, 1 << 16) for length, first in segments)
    box = struct.pack(">I4sII", 16 + len(rows), b"elst", 0, len(segments)) + rows
    made[start : start + size] = box
    for parent in chain[:-1]:
        before = struct.unpack(">I", made[parent : parent + 4])[0]
        made[parent : parent + 4] = struct.pack(">I", before + len(box) - size)
    return bytes(made)


@pytest.mark.parametrize("name", TRIMMED)
def test_an_edit_list_leaves_the_frames_that_a_player_shows(name: str, tmp_path: Path) -> None:
    scales = {"movie_timescale": "1000", "video_track_timescale": "25000"}
    settings: dict[str, Any] = {"container": scales, **TRIMMED[name]}
    whole = encode(tmp_path / name, count=60, **settings).read_bytes()
    for kind, (segments, expected) in EDITS.items():
        path = tmp_path / f"{kind}-{name}"
        path.write_bytes(with_edits(whole, segments))
        check_numbers(path, expected, -1 if "rotation" in settings else 0)
        assert Video(path).fps == 25


def test_a_trimmed_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    fast = {"movie_timescale": "1000", "video_track_timescale": "25000", "movflags": "faststart"}
    data = bytearray(encode(tmp_path / "whole.mp4", count=60, container=fast, **PLAIN).read_bytes())
    at = data.index(b"elst") + 12
    data[at : at + 8] = struct.pack(">Ii", 1400, 25000)
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(OSError, match=r"cut\.mp4: cut short: \d+ of its 36 frames are there"):
        len(Video(path))


# --- segments that were joined ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", PLAIN),
        ("libx264", B_FRAMES),
        ("libx265", {"x265-params": "keyint=12:bframes=3:log-level=none"}),
        ("mpeg2video", {"g": "12", "bf": "2"}),
    ],
)
def test_joined_transport_streams_are_whole(codec: str, options: dict[str, Any], tmp_path: Path) -> None:
    parts = [encode(tmp_path / f"{i}.ts", codec, count=24, first=24 * i, form="mpegts", **options) for i in range(3)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    check_numbers(path, list(range(72)))
    assert np.allclose(np.diff(Video(path).times), 0.04)
    assert Video(path).fps == 25


# --- damage ----------------------------------------------------------------------------------------------------------

DAMAGED: dict[str, dict[str, Any]] = {
    "png.mov": {"codec": "png", "pixels": "rgb24"},
    "mjpeg.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "prores.mov": {"codec": "prores_ks", "pixels": "yuv422p10le"},
    "jpeg2000.mov": {"codec": "jpeg2000"},
    "mpeg4.avi": {"codec": "mpeg4", "g": "12"},
    "mpeg4-b.avi": {"codec": "mpeg4", "g": "12", "bf": "2"},
    "mpeg4-b.mp4": {"codec": "mpeg4", "g": "12", "bf": "2"},
    "h263.avi": {"codec": "h263p", "g": "12"},
    "wmv1.avi": {"codec": "wmv1", "g": "12"},
    "msmpeg4.avi": {"codec": "msmpeg4", "g": "12"},
    "cinepak.avi": {"codec": "cinepak", "pixels": "rgb24"},
    "h264.mp4": PLAIN,
    "h264-b.mp4": B_FRAMES,
    "h264-b.avi": B_FRAMES,
    "h264-b.flv": B_FRAMES,
    "hevc.mp4": {"codec": "libx265", "x265-params": "keyint=12:bframes=3:log-level=none"},
    "vp8.webm": {"codec": "libvpx", "g": "12", "deadline": "realtime", "auto-alt-ref": "1", "lag-in-frames": "10"},
    "vp9.mp4": {"codec": "libvpx-vp9", "g": "12", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_packet_that_does_not_decode_keeps_its_number(name: str, tmp_path: Path) -> None:
    """Where damage shows, as an error of that frame; frames that are as before bear the number they had."""
    path = encode(tmp_path / name, **DAMAGED[name])
    whole = list(Video(path))
    with av.open(str(path)) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    for at in (16, 23):
        start, size = packets[at]
        if name.endswith((".webm", ".flv")):  # which has something before it
            start, size = start + 24, size - 24
        for first, last, inverted in [(1 / 3, 7 / 12, False), (0.1, 0.9, True), (0.1, 0.9, False)]:
            hurt = bytearray(data)
            part = slice(start + max(8, int(first * size)), start + int(last * size))
            hurt[part] = bytes(255 - value if inverted else 0 for value in hurt[part])
            path.write_bytes(hurt)
            frames, video = {}, Video(path)
            assert len(video) == 30
            for i in random.Random(2).sample(range(30), 30):
                with suppress(DamagedFrame):
                    frames[i] = video[i]
            assert len(video) == 30
            assert all(i in frames for i in (0, 1, 11))
            assert not [i for i in frames if np.array_equal(frames[i], whole[(i + 1) % 30])]
            played = []
            with pytest.raises(DamagedFrame) if len(frames) < 30 else nullcontext():
                played.extend(video)
            assert all(np.array_equal(frame, frames[i]) for i, frame in enumerate(played))
            assert len(played) == next((i for i in range(30) if i not in frames), 30)


def without(path: Path, lost: range) -> Path:
    """The file with some of its packets left out, as a container loses them."""
    out = path.with_name(f"lost-{path.name}")
    with av.open(str(path)) as source, av.open(str(out), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for i, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            if i not in lost:
                packet.stream = stream
                output.mux(packet)
    return out


@pytest.mark.parametrize("name", ["v.ts", "v.mkv", "v.flv"])
def test_packets_that_a_container_lost_are_told(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is left of them but the time that passes."""
    path = encode(tmp_path / name, g="60", bf="0")
    assert gaps(Video(path).times) == []
    assert "gaps" not in dropmae.info(path)
    out = without(path, range(16, 18))
    assert gaps(Video(out).times) == [(16, 2)]
    assert "2 before frame 16; numbers count those that are there" in dropmae.info(out)["gaps"]
    capsys.readouterr()
    summary = dropmae.track(out, box=(10, 10, 30, 30), out=tmp_path / "out.jsonl", stop=3)
    assert summary["gaps"] == [(16, 2)]
    assert "frames seem to be missing: 2 before frame 16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], []),
        ([1] * 40, []),
        ([1] * 40 + [2] + [1] * 20 + [4], [(41, 1), (62, 3)]),
        ([17, 16, 17, 17] * 10 + [50], [(41, 2)]),  # milliseconds, rounded
        ([1] * 40 + [1.5] + [1] * 9, []),  # no whole number of frames: the rate varies
        ([1, 2] * 20, []),
    ],
)
def test_gaps_are_those_of_a_steady_stream(steps: list[float], expected: list[tuple[int, int]]) -> None:
    assert gaps(np.cumsum([0.0, *steps])) == expected


def test_which_codecs_notice_damage_is_said(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, said in (("h264.mp4", "noticed"), ("vp9.mp4", "mostly not noticed in this codec")):
        path = encode(tmp_path / "in" / name, **DAMAGED[name])
        assert Video(path).details()["damage"] == said
    report = dropmae.prepare(tmp_path / "in", tmp_path / "out", workers=1)
    assert (report["videos"], report["unchecked"]) == (2, 1)


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vary.mkv", "vary.mp4", "vary.ts", "vary.webm"])
def test_the_length_and_rate_of_a_video_whose_rate_varies(name: str, tmp_path: Path) -> None:
    shown = [i * 20 + 400 * (i // 10) for i in range(30)]  # bursts of 50 frames a second, with pauses between them
    codec: dict[str, Any] = {"codec": "libvpx-vp9", "deadline": "realtime"} if name.endswith("webm") else B_FRAMES
    form = {"ts": "mpegts", "mkv": "matroska"}.get(name[5:])
    video = Video(encode(tmp_path / name, times=shown.__getitem__, form=form, **codec))
    assert np.allclose(video.times, np.array(shown) / 1000, atol=0.0011)
    assert video.fps == pytest.approx(29 / (shown[-1] / 1000), rel=0.05)
    assert np.allclose(video[5::-2].times, np.array(shown)[5::-2] / 1000, atol=0.0011)
    assert np.allclose(Video(video.source, fps=10).times, np.arange(30) / 10)


def test_a_constant_rate_is_what_the_file_says(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv", "a.ts", "a.avi", "a.h264"):
        form = {"a.ts": "mpegts", "a.mkv": "matroska"}.get(name)
        video = Video(encode(tmp_path / name, form=form, **B_FRAMES))
        assert video.fps == 25, name
        assert np.allclose(video.times, np.arange(30) / 25, atol=0.0011), name
    assert np.allclose(Video(np.zeros((3, 4, 6), np.uint8)).times, [0, 1 / 30, 2 / 30])


# --- indices ---------------------------------------------------------------------------------------------------------


def test_what_frames_are_picked_by() -> None:
    frames = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)
    video = Video(frames)
    mask = np.arange(10) % 3 == 0
    picks: list[Any] = [mask, mask.tolist(), torch.from_numpy(mask), np.flatnonzero(mask), iter([0, 3, 6, 9])]
    for picked in picks:
        assert video[picked][:, 0, 0, 0].tolist() == [0, 3, 6, 9]
    singles: list[Any] = [7, -3, np.int64(7), np.uint8(7), np.array(7), torch.tensor(7)]
    for single in singles:
        assert video[single].shape == (4, 6, 3)
        assert video[single][0, 0, 0] == 7
    assert video[range(2, 8, 3)][:, 0, 0, 0].tolist() == [2, 5]
    assert video[2:8][np.arange(6) > 3][:, 0, 0, 0].tolist() == [6, 7]
    assert video[np.zeros(10, bool)].shape == (0, 4, 6, 3)
    for wrong in (10, -11, [3, 10], np.ones(9, bool), np.ones(11, bool)):
        with pytest.raises(IndexError, match="array, which has 10"):
            video[wrong]
    for wrong in (True, 1.0, [1.5], "3", None, np.ones((10, 1), bool), [[1, 2]]):
        with pytest.raises(ValueError, match="frames are picked by"):
            video[wrong]  # type: ignore[index]
