"""Video: exact to the frame for what FFmpeg reads, and one clear line for what it cannot."""

from __future__ import annotations

import gc
import io
import os
import pickle
import random
import tarfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from dropmae.video import DamagedFrame, Video, Writer, files, find, write, write_store
from dropmae.video.addresses import local
from dropmae.video.decoder import Decoder

STEP = np.array([3, 2])
"""Pixels by which the test pictures move right and down per frame."""


def textured(seed: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (height // 12, width // 12, 3)).astype(np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def moving(count: int, height: int = 64, width: int = 96) -> list[np.ndarray]:
    """A texture that moves by STEP per frame; a corner tells the frame's number."""
    big = textured(0, height + 2 * count + 16, width + 3 * count + 16)
    frames = []
    for i in range(count):
        x, y = STEP * (count - i)
        frame = big[y : y + height, x : x + width].copy()
        frame[:8, :8] = i * 6 % 256
        frames.append(frame)
    return frames


def encode(
    path: Path,
    codec: str = "libx264",
    *,
    count: int = 40,
    size: tuple[int, int] = (64, 96),
    pixels: str = "yuv420p",
    form: str | None = None,
    times: Callable[[int], int] | None = None,
    rotation: int | None = None,
    container: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """Encodes `moving` with any encoder; `times` gives presentation times in milliseconds."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    rate = Fraction(25)
    with av.open(str(path), "w", format=form, options=container or {}) as output:
        stream: Any = output.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.thread_count = 1
        base = Fraction(1, 1000) if times else 1 / rate
        stream.codec_context.time_base = base
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for i, array in enumerate(moving(count, *size)):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = times(i) if times else i, base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def sequential(path: Path) -> list[np.ndarray]:
    """What FFmpeg decodes from start to end."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def same(video: Video, index: int, expected: list[np.ndarray]) -> bool:
    return np.array_equal(video[index], expected[index])


X264 = "x264-params"
OPEN = {X264: "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3:b-pyramid=normal:ref=3"}
REFRESH = {X264: "intra-refresh=1:keyint=15:bframes=0"}
X265 = {"x265-params": "keyint=12:open-gop=1:bframes=4:log-level=none"}
STREAMS: dict[str, dict[str, Any]] = {
    "plain.mp4": {"g": "12", "bf": "3"},
    "open.mp4": OPEN,
    "open.mkv": {"form": "matroska", **OPEN},
    "open.ts": {"form": "mpegts", **OPEN},
    "open.h264": OPEN,
    "open.avi": OPEN,
    "refresh.mp4": REFRESH,
    "refresh.h264": REFRESH,
    "variable-rate.mp4": {"g": "12", "bf": "2", "times": lambda i: 33 * i + i * i * 7 % 20},
    "grey.mp4": {"g": "12", "pixels": "gray"},
    "full-range.mp4": {"g": "12", "pixels": "yuvj420p"},
    "odd-size.mp4": {"g": "12", "pixels": "yuv444p", "size": (63, 95)},
    "fragments.mp4": {"g": "12", "container": {"movflags": "frag_keyframe+empty_moov"}},
    "interlaced.ts": {"form": "mpegts", X264: "tff=1:keyint=12", "flags": "+ildct+ilme"},
    "hevc.mkv": {"codec": "libx265", "form": "matroska", **X265},
    "hevc.ts": {"codec": "libx265", "form": "mpegts", **X265},
    "vp9.webm": {"codec": "libvpx-vp9", "g": "12", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "10"},
    "vp8.webm": {"codec": "libvpx", "g": "12", "deadline": "realtime", "auto-alt-ref": "1", "lag-in-frames": "10"},
    "mpeg4.avi": {"codec": "mpeg4", "g": "12", "bf": "2"},
    "mpeg4.mp4": {"codec": "mpeg4", "g": "12", "bf": "2"},
    "mpeg2.mpg": {"codec": "mpeg2video", "g": "12", "bf": "2"},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "ffv1.mkv": {"codec": "ffv1", "form": "matroska"},
    "animation.gif": {"codec": "gif", "pixels": "rgb8"},
}


@pytest.mark.parametrize("name", STREAMS)
def test_every_frame_in_any_order_is_that_of_a_sequential_decode(name: str, tmp_path: Path) -> None:
    path = encode(tmp_path / name, **STREAMS[name])
    check_exact(path)


@pytest.mark.parametrize("name", ["open.ts", "open.h264", "hevc.ts", "mpeg2.mpg"])
def test_a_stream_cut_at_its_start_begins_with_the_first_decodable_frame(name: str, tmp_path: Path) -> None:
    whole = encode(tmp_path / name, **STREAMS[name]).read_bytes()
    path = tmp_path / f"cut-{name}"
    path.write_bytes(whole[len(whole) // 3 // 188 * 188 :])
    check_exact(path)


def check_exact(path: Path) -> None:
    expected = sequential(path)
    order = list(range(len(expected)))
    random.Random(0).shuffle(order)
    with Video(path) as video:
        assert len(video) == len(expected)
        assert [i for i in order if not same(video, i, expected)] == []
        for i, j in [(3, 5), (0, len(expected) - 1), (11, 4)]:
            assert np.array_equal(video[[i, j]], np.stack([expected[i], expected[j]]))
        assert all(map(np.array_equal, video, expected))
        assert np.array_equal(video.read([13, 4, 14], motion=True)[0], np.stack([expected[i] for i in (13, 4, 14)]))
        assert np.array_equal(np.stack(list(video[::-1])), np.stack(expected[::-1]))


def test_real_files_in_random_order(test_data: Path) -> None:
    files = sorted((test_data / "data" / "clips-raw").iterdir())
    assert files
    for path in files:
        with Video(path) as video, av.open(str(path)) as container:
            chosen = random.Random(0).sample(range(len(video)), 5)
            frames = {i: video[i] for i in chosen}
            count = 0
            for count, frame in enumerate(container.decode(video=0), 1):
                if (i := count - 1) in frames:
                    assert np.array_equal(frames[i], frame.to_ndarray(format="rgb24")), f"{path.name}, frame {i}"
            assert len(video) == count, path.name


def test_an_edit_list_and_several_video_streams(test_data: Path) -> None:
    raw = test_data / "data" / "clips-raw"
    assert Video(raw / "vid2.mp4").shape == (134, 360, 640, 3)  # 45 of its 179 frames lie before its start
    assert Video(raw / "nasa_13013.mp4").shape == (325, 180, 320, 3)  # the first of its two streams


def test_a_pair_is_one_seek_and_iterating_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "long.mp4", g="100", bf="2")
    seeks: list[int] = []
    seek = Decoder.seek
    monkeypatch.setattr(
        Decoder, "seek", lambda self, packet, stamps: (seeks.append(packet), seek(self, packet, stamps))
    )
    video = Video(path)
    video[[5, 30]]
    assert seeks == [0]
    video[31], video[33]
    assert seeks == [0]
    list(video)
    assert seeks == [0]
    list(video[34:])
    assert seeks == [0]


@pytest.mark.parametrize(("name", "form"), [("film.mp4", None), ("film.ts", "mpegts")])
def test_pictures_nobody_refers_to_are_not_decoded_on_the_way(name: str, form: str | None, tmp_path: Path) -> None:
    path = encode(tmp_path / name, form=form, g="100", bf="3")
    decoder = Decoder(name, local(str(path)))
    skippable = np.ones(40, bool)
    skippable[39] = False
    pictures = [picture.packet for picture in iter(lambda: decoder.pull(skippable), None)]
    assert len(pictures) + len(decoder.dropped) == 40
    assert len(decoder.dropped) > 12
    assert {*pictures, *decoder.dropped} == set(range(40))


def test_indexing_slices_and_views(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", g="12")
    expected = sequential(path)
    video = Video(path)
    assert video.shape == (40, 64, 96, 3)
    assert (video.height, video.width, video.fps, video.name, video.path) == (64, 96, 25.0, "clip", path)
    assert video[3].dtype == np.uint8
    assert np.array_equal(video[-1], expected[-1])
    assert video[[]].shape == (0, 64, 96, 3)
    assert np.array_equal(video[np.array([7, 7, 2])], np.stack([expected[7], expected[7], expected[2]]))
    view = video[4:30:3]
    assert isinstance(view, Video)
    assert view.fps == 25 / 3
    assert np.array_equal(view[2], expected[10])
    assert np.array_equal(view[::-1][0], expected[28])
    assert [np.array_equal(a, b) for a, b in zip(view, expected[4:30:3])] == [True] * 9
    assert np.array_equal(np.stack(list(video[30:4:-2])), np.stack(expected[30:4:-2]))
    assert len(video[10:10]) == 0
    assert list(video[10:10]) == []
    assert len(Video(view)) == 9
    for wrong in (40, -41):
        with pytest.raises(IndexError, match="which has 40"):
            video[wrong]


def test_pickle_close_and_fork(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", g="12")
    expected = sequential(path)
    video = Video(path)
    assert same(video, 20, expected)
    view = pickle.loads(pickle.dumps(video[5::5]))
    assert np.array_equal(view[1], expected[10])
    video.close()
    video.close()
    assert same(video, 7, expected)
    child = os.fork() if hasattr(os, "fork") else None
    if child == 0:
        os._exit(0 if same(video, 30, expected) and same(video, 8, expected) else 1)
    if child is not None:
        assert os.waitpid(child, 0)[1] == 0
    assert same(video, 9, expected)


@pytest.mark.parametrize(
    ("angle", "turned"),
    [(90, lambda f: np.rot90(f, 1)), (180, lambda f: np.rot90(f, 2)), (-90, lambda f: np.rot90(f, -1))],
)
def test_rotation_metadata_turns_frames_and_motion(angle: int, turned: Callable, tmp_path: Path) -> None:
    path = encode(tmp_path / "phone.mp4", rotation=angle, g="100", bf="0", refs="1", size=(64, 112))
    video = Video(path)
    assert np.array_equal(video[5], turned(sequential(path)[5]))
    assert video.shape[1:3] == turned(np.zeros((64, 112))).shape
    moved = turned_vector(STEP, angle)
    assert np.allclose(np.nanmedian(video.motion(5)[1:-1, 1:-1].reshape(-1, 2), 0), moved, atol=0.25)


def turned_vector(vector: np.ndarray, angle: int) -> np.ndarray:
    x, y = vector
    return np.array({90: (y, -x), 180: (-x, -y), -90: (-y, x)}[angle])


def test_a_stream_that_changes_its_size_keeps_its_first(tmp_path: Path) -> None:
    first = encode(tmp_path / "a.h264", g="12")
    second = encode(tmp_path / "b.h264", g="12", size=(48, 80))
    path = tmp_path / "both.h264"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    video = Video(path)
    assert video.shape == (80, 64, 96, 3)
    assert np.array_equal(video[60], list(video)[60])
    assert abs(video[60].astype(int) - np.asarray(Image.fromarray(sequential(path)[60]).resize((96, 64)))).mean() < 6


@pytest.mark.parametrize(
    ("codec", "name", "options"),
    [
        ("libx264", "p.mp4", {"bf": "0", "refs": "1", "g": "12"}),
        ("libx264", "b.mp4", {"bf": "2", "refs": "1", "g": "100"}),
        ("mpeg4", "p.avi", {"g": "12"}),
        ("mpeg2video", "b.mpg", {"g": "12", "bf": "2"}),
    ],
)
def test_motion_is_the_displacement_since_the_frame_before(
    codec: str, name: str, options: dict, tmp_path: Path
) -> None:
    video = Video(encode(tmp_path / name, codec, size=(100, 150), **options))
    frames, motion = video.read(range(20), motion=True)
    assert motion.shape == (20, 7, 10, 2)
    assert motion.dtype == np.float32
    assert np.array_equal(frames, video[range(20)])
    assert np.isnan(motion[0]).all(), "an I frame has none"
    known = [i for i in range(20) if np.isfinite(motion[i]).mean() > 0.5]
    assert len(known) >= 15
    for i in known:
        assert np.allclose(np.nanmedian(motion[i, 1:-1, 1:-1].reshape(-1, 2), 0), STEP, atol=0.5), i
    i = known[-1]
    assert np.array_equal(Video(video.source).motion(i), motion[i], equal_nan=True)
    assert np.array_equal(video[::-1].motion(len(video) - 1 - i), -motion[i], equal_nan=True)
    assert np.array_equal(video[i::3].motion(0), 3 * motion[i], equal_nan=True)


def test_no_motion_is_nan(tmp_path: Path) -> None:
    assert np.isnan(Video(encode(tmp_path / "a.webm", **STREAMS["vp9.webm"])).motion(5)).all()
    assert np.isnan(Video(np.zeros((3, 20, 40), np.uint8)).motion(1)).all()
    assert Video(np.zeros((3, 20, 40), np.uint8)).motion(1).shape == (2, 3, 2)


def test_short_side_scales_down_only(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", g="12", bf="0", refs="1")
    small = Video(path, short_side=32)
    assert small.shape == (40, 32, 48, 3)
    expected = np.asarray(Image.fromarray(sequential(path)[9]).resize((48, 32), Image.Resampling.BICUBIC))
    assert abs(small[9].mean(2) - expected.mean(2)).mean() < 4
    assert np.allclose(np.nanmedian(small.motion(9)[:, 1:, 0]), STEP[0] / 2, atol=0.3)
    assert Video(path, short_side=500).shape == (40, 64, 96, 3)
    assert Video(np.zeros((2, 90, 61, 3), np.uint8), short_side=30).shape == (2, 44, 30, 3)
    with pytest.raises(ValueError, match="short_side"):
        Video(path, short_side=0)


def test_colours_survive(tmp_path: Path) -> None:
    colours = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 100, 50]], np.uint8)
    write(tmp_path / "a.mp4", [np.broadcast_to(c, (32, 32, 3)) for c in colours], crf=1)
    assert abs(np.stack(list(Video(tmp_path / "a.mp4")))[:, 16, 16].astype(int) - colours).max() <= 3
    path = encode(tmp_path / "full.mp4", pixels="yuvj420p", g="1", crf="1")
    assert abs(Video(path)[30][:4, :4].astype(int) - 180).max() <= 3, "full-range luma is not stretched"


def test_threads_do_not_change_frames(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", g="12", bf="2")
    assert np.array_equal(Video(path, threads=3)[[4, 30]], Video(path)[[4, 30]])


# --- what needs no decoder -------------------------------------------------------------------------------------------


def test_arrays_and_lists() -> None:
    frames = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    video = Video(frames, fps=12)
    assert video.shape == frames.shape
    assert video.fps == 12
    assert video.name == "array"
    assert np.array_equal(video[[1, 0]], frames[::-1])
    assert np.array_equal(Video(list(frames))[1], frames[1])
    grey = Video(frames[..., 0])
    assert np.array_equal(grey[1], np.repeat(frames[1, ..., :1], 3, 2))
    for wrong, text in [(frames.astype(float), "uint8"), (frames[0, 0], "H, W"), (frames[:0], "empty"), ([], "empty")]:
        with pytest.raises(ValueError, match=text):
            Video(wrong)
    with pytest.raises(ValueError, match="not of dict"):
        Video({})


def test_image_folders(tmp_path: Path) -> None:
    frames = moving(12, 20, 30)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    video = Video(tmp_path)
    assert np.array_equal(np.stack(list(video)), np.stack(frames)), "frame10 comes after frame9"
    assert video.name == tmp_path.name
    assert np.array_equal(Video([tmp_path / "frame3.png", tmp_path / "frame1.png"])[1], frames[1])
    assert np.array_equal(Video(tmp_path / "frame3.png")[0], frames[3])
    Image.fromarray(frames[0][:10]).save(tmp_path / "frame5.png")
    with pytest.raises(OSError, match=r"frame5.png: 30x10 pixels, while the first frame has 30x20"):
        Video(tmp_path)[5]
    (tmp_path / "frame5.png").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"frame5.png: not a readable image"):
        Video(tmp_path)[5]


def test_images_of_other_kinds(tmp_path: Path) -> None:
    deep = (np.arange(200, dtype=np.uint16) * 300).reshape(10, 20)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.array_equal(Video(tmp_path / "deep.png")[0][..., 2], deep >> 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    Image.fromarray(moving(1, 20, 30)[0]).save(tmp_path / "phone.jpg", exif=exif)
    assert Video(tmp_path / "phone.jpg").shape == (1, 30, 20, 3)


def test_tar_members(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip.mp4", g="12")
    frames = moving(11, 20, 30)
    archive = tmp_path / "all.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(clip, "set/clip.mp4")
        for i, frame in enumerate(frames):
            data = io.BytesIO()
            Image.fromarray(frame).save(data, "PNG")
            entry = tarfile.TarInfo(f"walk/{i}.png")
            entry.size = data.tell()
            data.seek(0)
            tar.addfile(entry, data)
    video = Video(f"{archive}::set/clip.mp4")
    assert video.name == "clip"
    assert np.array_equal(video[[30, 2]], Video(clip)[[30, 2]])
    assert np.array_equal(pickle.loads(pickle.dumps(video))[3], Video(clip)[3])
    assert np.array_equal(Video(f"{archive}::walk")[10], frames[10])
    assert np.array_equal(Video(f"{archive}::walk/4.png")[0], frames[4])
    with pytest.raises(FileNotFoundError, match=r"all.tar: the archive holds no set/other.mp4"):
        Video(f"{archive}::set/other.mp4")
    with pytest.raises(OSError, match=r"clip.mp4: not an uncompressed tar"):
        Video(f"{clip}::x")


def test_frame_stores(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    frames = moving(9, 20, 30)
    path = tmp_path / "clip.frames"
    assert write_store(path, iter(frames), 12.5) == 9
    video = Video(path)
    assert video.shape == (9, 20, 30, 3)
    assert video.fps == 12.5
    assert np.array_equal(video[[8, 0]], np.stack([frames[8], frames[0]]))
    assert np.array_equal(pickle.loads(pickle.dumps(video))[4], frames[4])
    assert np.array_equal(load_file(path)["frames"], np.stack(frames)), "any reader of safetensors opens it"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OSError, match=r"clip.frames: the frame store is cut short"):
        Video(path)
    with pytest.raises(ValueError, match="at least one frame"):
        write_store(tmp_path / "none.frames", [], 25)
    with pytest.raises(ValueError, match="frame 1"):
        write_store(tmp_path / "two.frames", [frames[0], frames[1][:10]], 25)
    assert [item.name for item in tmp_path.iterdir()] == ["clip.frames"]
    np.save(tmp_path / "array.npy", np.stack(frames))
    assert np.array_equal(Video(tmp_path / "array.npy")[3], frames[3])
    np.save(tmp_path / "other.npy", np.zeros((3, 4)))
    with pytest.raises(OSError, match=r"other.npy: frames must"):
        Video(tmp_path / "other.npy")


# --- bad files, live streams -----------------------------------------------------------------------------------------


def audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=44100)
        for i in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate, frame.pts = 44100, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


BAD = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello, this is text\n" * 300, "not a video"),
    "page": (b"<html><body>404 Not Found</body></html>", "not a video"),
    "subtitles": (b"1\n00:00:01,000 --> 00:00:02,000\nhello\n\n", "no video in it"),
    "noise": (np.random.default_rng(0).bytes(50000), "not a video|unknown|none of its frames"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_video_is_named_in_one_line(kind: str, tmp_path: Path) -> None:
    data, text = BAD[kind]
    path = tmp_path / "bad.mp4"
    path.write_bytes(data)
    with pytest.raises(OSError, match=rf"bad\.mp4: .*({text})") as caught:
        len(Video(path))
    assert "\n" not in str(caught.value)


def test_missing_audio_only_and_cut_short(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4: no such file"):
        Video(tmp_path / "nowhere.mp4")
    with pytest.raises(FileNotFoundError, match="no images"):
        Video(tmp_path)
    with pytest.raises(OSError, match=r"sound\.mp4: no video in it, only sound"):
        Video(audio_only(tmp_path / "sound.mp4"))
    whole = encode(tmp_path / "whole.mp4", g="12", container={"movflags": "faststart"}).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(OSError, match=r"cut\.mp4: cut short: \d+ of its 40 frames"):
        len(Video(cut))
    with pytest.raises(OSError, match=r"cut\.mp4: (cut short|frame \d+ is damaged)"):
        list(Video(cut))
    cut.write_bytes(encode(tmp_path / "index-last.mp4", g="12").read_bytes()[:-2000])
    with pytest.raises(OSError, match=r"cut\.mp4"):
        Video(cut)


def test_a_damaged_frame_is_an_error_and_the_others_are_not(tmp_path: Path) -> None:
    settings: dict[str, Any] = {X264: "keyint=10:scenecut=0:bframes=0"}
    path = encode(tmp_path / "clip.mp4", **settings)
    expected = sequential(path)
    with av.open(str(path)) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    start, size = packets[14]
    data[start + 8 : start + size] = bytes(255 - value for value in data[start + 8 : start + size])
    path.write_bytes(bytes(data))
    video = Video(path)
    assert len(video) == 40
    for i in (0, 9, 13, 20, 39):
        assert same(video, i, expected), i
    for i in (14, 15, 19):
        with pytest.raises(DamagedFrame, match=rf"clip\.mp4: frame {i} is damaged"):
            video[i]
    assert np.array_equal(video[[12, 25]], np.stack([expected[12], expected[25]]))
    with pytest.raises(DamagedFrame, match="frame 14"):
        list(video)


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    path = encode(tmp_path / "one.mp4", count=1)
    assert Video(path).shape == (1, 64, 96, 3)
    assert np.array_equal(Video(path)[0], sequential(path)[0])
    assert len(list(Video(path))) == 1


def test_a_camera_can_only_be_iterated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(files.CAMERAS, "linux", ("lavfi", "testsrc=size=64x48:rate=20:duration=1"))
    monkeypatch.setattr(files.sys, "platform", "linux")
    for number in (0, "0"):
        camera = Video(number)
        assert camera.fps == 20
        assert camera.height == 48
        for wrong in (lambda v: v[3], lambda v: len(v), lambda v: v[1:]):
            with pytest.raises(ValueError, match="camera 0 is a live stream"):
                wrong(camera)
        assert [frame.shape for frame in camera] == [(48, 64, 3)] * 20
    monkeypatch.setitem(files.CAMERAS, "linux", ("v4l2", "/dev/nothing{}"))
    with pytest.raises(FileNotFoundError, match="camera 7: there is no such camera"):
        Video(7)


def test_memory_does_not_grow(tmp_path: Path) -> None:
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("resident memory is read from /proc")
    paths = [encode(tmp_path / name, **STREAMS[name]) for name in ("plain.mp4", "open.mkv", "mpeg4.avi")]

    def use(rounds: int) -> float:
        for k in range(rounds):
            video = Video(paths[k % 3])
            video.read([k % 40, (k * 7) % 40], motion=k % 2 == 0)
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    before = use(60)
    assert use(240) < before + 8
    assert len(os.listdir("/proc/self/fd")) < 60


# --- finding and writing ---------------------------------------------------------------------------------------------


def test_find(tmp_path: Path) -> None:
    tree = [
        *("a/clip10.mp4", "a/clip2.MKV", "a/raw.jsv", "a/thumbnail.jpg", "a/other.jpg", "a/notes.txt", "a/list.csv"),
        *("walk/img/0001.jpg", "walk/img/0002.jpg", "walk/groundtruth.txt", "one/poster.png", "store/b.frames"),
        *("sequence/1.png", "sequence/2.png", "sequence/labels.json", ".hidden/c.mp4", "a/.part.mp4", "README"),
    ]
    for name in tree:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = [path.relative_to(tmp_path).as_posix() for path in find(tmp_path)]
    assert found == ["a/clip2.MKV", "a/clip10.mp4", "a/raw.jsv", "sequence", "store/b.frames", "walk/img"]
    assert find(tmp_path / "a" / "raw.jsv") == [tmp_path / "a" / "raw.jsv"]
    assert find(tmp_path / "sequence") == [tmp_path / "sequence"]
    with pytest.raises(FileNotFoundError, match="no such"):
        find(tmp_path / "nowhere")


def test_a_file_without_suffix_is_found_by_its_first_bytes(tmp_path: Path) -> None:
    encode(tmp_path / "clip.mp4").rename(tmp_path / "9f86d081")
    encode(tmp_path / "clip.mkv", form="matroska").rename(tmp_path / "3c9909af")
    (tmp_path / "LICENSE").write_text("text")
    assert [path.name for path in find(tmp_path)] == ["3c9909af", "9f86d081"]


def test_writing(tmp_path: Path) -> None:
    frames = moving(30)
    path = tmp_path / "new" / "clip.mp4"
    assert write(path, frames, 30000 / 1001, gop=8, b_frames=0, references=1) == 30
    video = Video(path)
    assert video.shape == (30, 64, 96, 3)
    assert video.fps == 30000 / 1001
    assert abs(video[20].astype(int) - frames[20]).mean() < 8
    with av.open(str(path)) as container:
        kinds = [(bool(frame.key_frame), frame.pict_type) for frame in container.decode(video=0)]
    assert [i for i, (key, _) in enumerate(kinds) if key][:4] == [0, 8, 16, 24]
    assert 3 not in {kind for _, kind in kinds}
    write(path, [frame[:51, :33] for frame in frames])
    assert Video(path).shape == (30, 52, 34, 3), "odd sizes are padded"
    assert abs(Video(path)[5][:51, 33].astype(int) - frames[5][:51, 32]).mean() < 20


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    """Whatever was in memory before: with AVX-512 x264 made 41 other files in 80 runs, and 3 without B frames."""
    clip = Path(__file__).parents[2] / "docs/images/car.mp4"
    frames, path, found = Video(clip).read(range(76, 96)), tmp_path / "clip.mp4", set[bytes]()
    draw = random.Random(0)
    for _ in range(12):
        junk = [np.frombuffer(draw.randbytes(draw.randrange(1000, 400_000)), np.uint8).repeat(2) for _ in range(12)]
        del junk
        write(path, frames[:, 60:132, 150:246], 12.5)
        found.add(path.read_bytes())
    assert len(found) == 1


def test_writing_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"before")

    def stops() -> Any:
        yield from moving(3)
        raise KeyError("stop")

    with pytest.raises(KeyError):
        write(path, stops())
    for wrong, text in [
        ([], "at least one frame"),
        ([np.zeros((4, 4), np.uint8)], "a frame is uint8"),
        (moving(1) + moving(1, 32), "frame 1 is 96x32, not 96x64"),
    ]:
        with pytest.raises(ValueError, match=text):
            write(path, wrong)
    with pytest.raises(ValueError, match="fps"):
        Writer(path, 0)
    assert path.read_bytes() == b"before"
    assert [item.name for item in tmp_path.iterdir()] == ["clip.mp4"]
    (tmp_path / "folder").write_bytes(b"")
    with pytest.raises(OSError, match="folder"):
        write(tmp_path / "folder" / "clip.mp4", moving(2))
