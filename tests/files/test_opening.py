"""Files of others: nothing in one is opened, run or waited for, and its claims are checked before they are believed."""

from __future__ import annotations

import ast
import io
import json
import os
import socket
import struct
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dropmae
from dropmae import names, opening, registry
from dropmae.cli import main
from dropmae.formats.boxes import ResultFiles, read_json
from dropmae.progress import say
from dropmae.target import read_targets
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


@pytest.mark.parametrize("name", ["a", "a b", "set/Seq_1", "./a", "12:30", "..a", "a..b", "é²", "lat\udce9"])
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
    with pytest.raises(OSError, match=r"a\.png: not a readable image|a\.png: 16000x16000 pixels are more than"):
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
    with pytest.raises(OSError, match=r"a\.png: not a readable image"):
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
    with pytest.raises(OSError, match=r"cut\.jpg: not a readable image .*its last pixels are missing"):
        Video(cut)


# Annotation and archives


def lines(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps({"video": "v.mp4", "frame": 0, **row}) + "\n" for row in rows))
    return path


LIES = {
    "wrap": {"id": 1, "mask": {"size": [8, 8], "counts": [1 << 62, 1 << 62, 1 << 62, 1 << 62, 64]}},
    "huge": {"id": 1, "mask": {"size": [10**6, 10**6], "counts": [10**12]}},
    "large": {"id": 1, "mask": {"size": [10**5, 10**4], "counts": [10**9]}},
    "negative": {"id": 1, "mask": {"size": [8, 8], "counts": [-1, 65]}},
    "fraction": {"id": 1, "mask": {"size": [8, 8], "counts": [0.5, 63.5]}},
    "text": {"id": 1, "mask": {"size": "88", "counts": [64]}},
    "none": {"id": 1, "mask": None},
    "id": {"id": 1 << 70, "box": [1, 2, 3, 4]},
    "box": {"id": 1, "box": {"x": 1}},
    "up": {"flow": "../flow.npz"},
    "absolute": {"flow": "/etc/passwd"},
    "points": {"points": [1, 2]},
}


@pytest.mark.parametrize("lie", LIES)
def test_lines_that_lie_are_named(lie: str, tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", LIES[lie])
    tracemalloc.start()
    with pytest.raises(OSError, match=r"t\.jsonl") as caught:
        read_targets(path)["v.mp4"][0]
    assert tracemalloc.get_traced_memory()[1] < 1e7
    assert len(str(caught.value)) < 400
    tracemalloc.stop()


OUTSIDE = ["../up.mp4", "/abs/clip.mp4", "a/../../b", "..\\up", "\x1b[2J.mp4", ""]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("spaced", [True, False])
def test_lists_cannot_name_what_is_outside(name: str, spaced: bool, tmp_path: Path) -> None:
    row = json.dumps({"video": name, "frame": 0, "id": 1, "box": [1, 2, 3, 4]})
    (tmp_path / "targets.jsonl").write_text((row if spaced else row.replace(": ", ":")) + "\n")
    with pytest.raises(OSError, match=r"targets\.jsonl: .* cannot name a sequence"):
        read_targets(tmp_path / "targets.jsonl")
    (tmp_path / "a.json").write_text(json.dumps({name: {"gt_rect": [[1, 2, 3, 4]]}}))
    with pytest.raises(OSError, match=r"a\.json: .* cannot name a sequence"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["..", "/JPEGImages/480p/../00000.jpg", ".", "a\x1b[2J"])
def test_lists_of_names_cannot_leave_their_data_set(name: str, tmp_path: Path) -> None:
    places = {
        "davis": ("ImageSets/2017/val.txt", ["JPEGImages/480p", "Annotations/480p"]),
        "vip": ("VIP_Fine/lists/val_videos.txt", ["VIP_Fine/Images", "VIP_Fine/Annotations/Category_ids"]),
        "got10k": ("val/list.txt", ["val"]),
    }
    for bench, (listed, folders) in places.items():
        root = tmp_path / bench
        for folder in folders:
            (root / folder / "x").mkdir(parents=True)
        (root / listed).parent.mkdir(parents=True, exist_ok=True)
        (root / listed).write_text(f"x\n{name}\n")
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        (out / "kept").write_text("mine")
        if "/" in name and bench == "vip":
            continue  # its last part is a fine name
        with pytest.raises(OSError, match="cannot name a sequence"):
            registry.load("benchmarks", bench)().sequences(root, "val")
        assert (out / "kept").read_text() == "mine"


def complaint(attempt: Callable[[], object]) -> str:
    """What an attempt says where it fails, which is to be an OSError of one line; "" where it does not."""
    try:
        attempt()
    except OSError as error:
        return str(error)
    return ""


def zipped(path: Path, name: str, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo("x")
        entry.filename, entry.compress_type = name, zipfile.ZIP_DEFLATED
        archive.writestr(entry, data)
    return path


@pytest.mark.parametrize("name", ["Seq.txt", "./Seq.txt", "results\\Seq.txt", "a/b/Seq.TXT", "../Seq.txt", "/Seq.txt"])
def test_result_zips_of_all_tools(name: str, tmp_path: Path) -> None:
    path = zipped(tmp_path / "r.zip", name, b"1,2,3,4\n5,6,7,8\n")
    result = ResultFiles(path).result(["Seq"])
    assert result is not None
    np.testing.assert_array_equal(result.runs[0], [[1, 2, 3, 4], [5, 6, 7, 8]])
    assert [item.name for item in tmp_path.iterdir()] == ["r.zip"]


def test_result_folders_with_large_letters(tmp_path: Path) -> None:
    (tmp_path / "Seq.TXT").write_text("1,2,3,4\n")
    assert ResultFiles(tmp_path).result(["Seq"]) is not None


def test_result_zips_are_bounded_and_named_when_damaged(tmp_path: Path) -> None:
    path = zipped(tmp_path / "r.zip", "Seq.txt", b"1,2,3,4\n" * (1 << 22))
    tracemalloc.start()
    with pytest.raises(OSError, match=r"r\.zip: 'Seq\.txt' in it has more than 8,388,608 bytes"):
        ResultFiles(path).result(["Seq"])
    assert tracemalloc.get_traced_memory()[1] < 4e7
    tracemalloc.stop()
    whole = zipped(tmp_path / "r.zip", "Seq.txt", b"1,2,3,4\n" * 90).read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        said = complaint(lambda: ResultFiles(path).result(["Seq"]))
        assert not said or said.startswith(str(path))


# The next place


HOMES = {
    "av.open": {"video/container.py", "video/writer.py"},
    "Image.open": {"opening.py"},
    "zipfile.ZipFile": {"opening.py", "storage.py"},
    "tarfile.open": {"video/frames.py"},
    "np.load": set(),
    "np.memmap": {"video/store.py"},
    "torch.load": set(),
    "pickle.load": set(),
    "pickle.loads": set(),
    "pickle.Unpickler": set(),
}
"""What opens files of others, and where it may stand; archives are written elsewhere too."""


@pytest.mark.parametrize("name", ["file:y.mp4", "http:/127.0.0.1:9/y.mp4", "pipe:1.mp4", "tcp:y.mov", "y%03d.mp4"])
def test_what_is_written_is_a_file_and_no_address(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path(name), [np.zeros((32, 32, 3), np.uint8)] * 2, 25)
    assert len(Video(tmp_path / name)) == 2


def test_files_of_others_are_opened_in_their_homes() -> None:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and (homes := HOMES.get(ast.unparse(node.func))) is not None:
                writes = any(isinstance(part, ast.Constant) and part.value == "w" for part in node.args)
                assert writes or path.relative_to(SOURCE).as_posix() in homes, f"{path}:{node.lineno}"
                if writes and ast.unparse(node.func) == "av.open":
                    assert ast.unparse(node.args[0]).startswith("local("), f"{path}:{node.lineno}"
            if isinstance(node, ast.ImportFrom) and node.module in ("zipfile", "tarfile", "av"):
                assert not {alias.name for alias in node.names} & {"ZipFile", "TarFile", "open"}, (
                    f"{path}:{node.lineno}"
                )
