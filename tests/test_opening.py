"""Files of others: nothing in one is opened, run or waited for, and its claims are checked before they are believed."""

from __future__ import annotations

import ast
import io
import os
import socket
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dropmae
from dropmae import names, opening
from dropmae.cli import main
from dropmae.progress import say
from dropmae.video import Video, find, write

SOURCE = Path(dropmae.__file__).parent


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write(path, [np.full((32, 48, 3), 8 * i, np.uint8) for i in range(6)], 25)
    return path


# Names


@pytest.mark.parametrize(
    "name", ["12:30:00.mp4", "data:x.mp4", "x::y.mp4", "3²1.mp4", "caf\udce9.mp4", "a\nb.mp4", "%03d.mp4"]
)
def test_a_name_is_a_name_and_no_address(
    name: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    for way in (name, Path(name), tmp_path / name):
        assert len(Video(way)) == 6
    assert find(Path()) == [Path(name)]
    assert main(["info", name]) == 0
    assert capsys.readouterr().err.splitlines()[0] == f"path: {names.printable(name)}"


@pytest.mark.parametrize("folder", ["http:", "concat:a", "subfile,,start,0,end,9,,:", "0", "²"])
def test_folders_with_names_like_addresses(
    folder: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / folder / "127.0.0.1:9").mkdir(parents=True)
    (tmp_path / folder / "127.0.0.1:9" / "a.mp4").write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert [len(Video(path)) for path in find(Path())] == [6]


def test_any_name_goes_through_training_and_preparation(clip: Path, tmp_path: Path) -> None:
    for name in ("caf\udce9.mp4", "10²20.mp4", "12:30.mp4"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(clip.read_bytes())
    small = ["--size", "tiny", "--image", "32", "--steps", "1", "--global-batch", "2", "--workers", "0"]
    assert main(["pretrain", "mae", str(tmp_path / "in"), "--out", str(tmp_path / "run"), *small]) == 0
    assert main(["prepare", str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "1"]) == 0
    assert len(find(tmp_path / "out")) == 3


def test_each_real_file_once(clip: Path, tmp_path: Path) -> None:
    deep = tmp_path / "in" / "a" / "b"
    deep.mkdir(parents=True)
    for path in (deep.parent / "one.mp4", deep / "two.mp4"):
        path.write_bytes(clip.read_bytes())
    (deep / "loop").symlink_to("..")
    (deep / "self").symlink_to(".")
    (tmp_path / "in" / "again").symlink_to("a")
    (deep / "again.mp4").symlink_to("two.mp4")
    (deep / "nowhere.mp4").symlink_to("nothing")
    (tmp_path / "elsewhere.mp4").write_bytes(clip.read_bytes())
    (deep / "kept.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    found = [path.name for path in find(tmp_path / "in")]
    assert sorted(found) == ["kept.mp4", "nowhere.mp4", "one.mp4", "two.mp4"]


def test_natural_order_of_any_digits(tmp_path: Path) -> None:
    for name in ("a10.mp4", "a2.mp4", "a²1.mp4", "a002b.mp4", "a٣.mp4", "1" * 200 + ".mp4"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in find(tmp_path)][:4] == ["1" * 200 + ".mp4", "a2.mp4", "a002b.mp4", "a10.mp4"]


@pytest.mark.parametrize(
    "text", ["\x1b[31mred", "a\nb", "a\rb", "\x9b2J", "\u202egnp.exe", "a\u2028b", "caf\udce9", "\ud800"]
)
def test_nothing_printed_is_obeyed(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    safe = names.printable(text)
    assert safe.isprintable()
    assert safe.encode()
    say(f"bad: {text}", "next")
    assert capsys.readouterr().err == f"bad: {safe}\nnext\n"
    assert main(["info", f"nowhere/{text}.mp4"]) == 1
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown[:-1].isprintable()
    assert main([text]) == 2
    assert capsys.readouterr().err[:-1].isprintable()


def test_messages_are_lines() -> None:
    """`say` takes the lines one by one, so that a line end within one is always somebody's name."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "say":
                texts = [leaf.value for part in node.args for leaf in ast.walk(part) if isinstance(leaf, ast.Constant)]
                assert not any(isinstance(text, str) and "\n" in text for text in texts), f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    "name", ["", ".", "./", "..", "a/..", "../a", "/a", "\\a", "a\\..\\b", "C:\\a", "c:/a", "a\x00", "a\nb", "a\x1b"]
)
def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(OSError, match=r"list\.txt: .* cannot name a sequence"):
        names.relative(name, "list.txt")


@pytest.mark.parametrize("name", ["a", "a b", "set/Seq_1", "./a", "12:30", "..a", "a..b", "é²"])
def test_other_names_stay(name: str) -> None:
    assert names.relative(name, "list.txt") == name


# What is no file, and what names others


@pytest.mark.parametrize("name", ["a.mp4", "a.png", "a.npy", "noname", "a.frames", "a.pth", "a.safetensors"])
def test_pipes_sockets_and_devices_are_refused_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / name)
    with socket.socket(socket.AF_UNIX) as sock:
        (tmp_path / "s").mkdir()
        sock.bind(f"s/{name}")
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / name).symlink_to("/dev/zero")
        for path in (name, f"s/{name}", f"d/{name}"):
            assert main(["info", path]) == 1
            assert capsys.readouterr().err.startswith(f"dropmae info: {path}: ")
    find(tmp_path)  # does not wait either


LISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:1.0,\n{clip}\n#EXT-X-ENDLIST\n",
    "master.m3u8": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nmaster.m3u8\n",
    "list.mp4": "ffconcat version 1.0\nfile {clip}\n",
    "text.mkv": "ffconcat version 1.0\nfile text.mkv\nfile text.mkv\n",
    "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{http}</BaseURL></MPD>',
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "web.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:1.0,\n{http}/a.ts\n#EXT-X-ENDLIST\n",
    "link.webm": "{http}/a.mp4\n",
    "script.avs": "import({clip})\n",
    "script": "[Script Info]\n; {http}\n",
}


@pytest.fixture
def visitors() -> Iterator[tuple[int, list]]:
    """A server on loopback; who connects is noted."""
    server = socket.create_server(("127.0.0.1", 0))
    came: list[object] = []

    def answer() -> None:
        while True:
            try:
                connection, address = server.accept()
            except OSError:
                return
            came.append(address)
            connection.close()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield server.getsockname()[1], came
    server.shutdown(socket.SHUT_RDWR)
    server.close()


@pytest.mark.parametrize("name", LISTS)
def test_lists_open_nothing(
    name: str, clip: Path, tmp_path: Path, visitors: tuple[int, list], capsys: pytest.CaptureFixture[str]
) -> None:
    port, came = visitors
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    text = LISTS[name].format(clip="clip.mp4", http=f"http://127.0.0.1:{port}", port=port)
    (tmp_path / name).write_text(text)
    assert main(["info", str(tmp_path / name)]) == 1
    assert capsys.readouterr().err.startswith(f"dropmae info: {tmp_path / name}: ")
    assert not came


def test_an_address_is_one_only_where_the_caller_says_it(
    clip: Path, tmp_path: Path, visitors: tuple[int, list]
) -> None:
    port, came = visitors
    address = f"http://127.0.0.1:{port}/clip.mp4"
    for source in (
        Path(address),
        [address],
        f"concat:{address}",
        f"subfile,,start,0,end,9,,:{address}",
        f"cache:{address}",
    ):
        with pytest.raises(OSError, match=r"no such file"):
            Video(source)
    assert not came
    with pytest.raises(OSError, match=r"clip\.mp4"):
        Video(address)
    assert came
    assert len(Video(f"file://{clip}")) == 6


# Sizes


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that claims a size; `data` are its compressed pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_large_pictures_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(16000, 16000, zlib.compress(bytes(1 << 24))))
    tracemalloc.start()
    with pytest.raises(OSError, match=r"a\.png: not an image|a\.png: 16000x16000 pixels are more than"):
        Video(path)
    path.write_bytes(png(9000, 9000, zlib.compress(bytes(1 << 20))))
    with pytest.raises(
        OSError, match=r"a\.png: 9000x9000 pixels are more than 67,108,864: DROPMAE_MAX_PIXELS=81000000"
    ):
        Video(path)
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()
    Image.new("RGB", (40, 30)).save(path)
    monkeypatch.setenv(opening.PIXELS, "1000")
    with pytest.raises(OSError, match=r"a\.png: 40x30 pixels are more than 1,000"):
        Video(path)
    monkeypatch.setenv(opening.PIXELS, "1200")
    assert Video(path).shape == (1, 30, 40, 3)
    monkeypatch.setenv(opening.PIXELS, "many")
    with pytest.raises(ValueError, match="DROPMAE_MAX_PIXELS is a number"):
        Video(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".mpg", ".h264", ".avi", ".flv"])
def test_large_videos_are_refused_before_they_are_decoded(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import av

    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg2video" if suffix == ".mpg" else "libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for noise in np.random.default_rng(0).integers(0, 256, (9, 48, 64, 3)).astype(np.uint8):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        out.mux(stream.encode(None))
    assert len(Video(path)) == 9
    monkeypatch.setenv(opening.PIXELS, "3000")
    with pytest.raises(
        OSError, match=rf"a\{suffix}: 64x48 pixels are more than 3,000: DROPMAE_MAX_PIXELS=3072 reads it"
    ):
        Video(path)


def test_only_known_image_formats_are_tried(tmp_path: Path) -> None:
    """PostScript, for one, would be given to another program."""
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(OSError, match=r"a\.png: not an image"):
        Video(tmp_path / "a.png")


@pytest.mark.parametrize("lost", [1, 2])
def test_a_jpeg_without_its_end_marker_is_read(lost: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    whole, cut = tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    whole.write_bytes(buffer.getvalue())
    cut.write_bytes(buffer.getvalue()[:-lost])
    np.testing.assert_array_equal(Video(cut)[0], Video(whole)[0])
    cut.write_bytes(buffer.getvalue()[:-40])
    with pytest.raises(OSError, match=r"cut\.jpg: not an image .*its last pixels are missing"):
        Video(cut)
