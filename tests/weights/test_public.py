"""Weights by name, fetched from a server on this machine that breaks off, tampers and does not go on."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import dropmae
from dropmae import weights
from dropmae.cli import main
from dropmae.weights import public
from official_files import put, recipe
from test_encoders import MODELS


class Server(ThreadingHTTPServer):
    content = b""
    broken_after: int | None = None
    ranges = True
    asked: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Any = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if self.path != "/weights.pth":
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if server.broken_after is None else body[: server.broken_after])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    found = Server(("127.0.0.1", 0), Handler)
    found.asked = []
    found.content = put(recipe(MODELS["dinov2"].shapes(17)), tmp_path / "made.pth").read_bytes()
    threading.Thread(target=found.serve_forever, daemon=True).start()
    entry = public.Entry(
        f"http://127.0.0.1:{found.server_port}/weights.pth",
        len(found.content),
        "Apache-2.0",
        hashlib.sha256(found.content).hexdigest(),
    )
    monkeypatch.setitem(public.NAMES, "made-up", entry)
    monkeypatch.setenv("DROPMAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DROPMAE_OFFLINE", raising=False)
    yield found
    found.shutdown()
    found.server_close()


def test_a_name_is_fetched_once(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = dropmae.load("made-up")
    told = capsys.readouterr().err
    assert f"127.0.0.1:{server.server_port}/weights.pth" in told.replace("\n", "")
    assert "Apache-2.0" in told
    expected = recipe(MODELS["dinov2"].shapes(17))["norm.weight"]
    torch.testing.assert_close(module.encoder.norm.weight, expected)
    assert weights.read_header("made-up")["licence"] == "Apache-2.0"
    assert weights.locate(Path("made-up")).parent == tmp_path / "cache"
    assert len(server.asked) == 1
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]


def test_a_file_of_that_name_comes_first(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("made-up").write_bytes(b"nothing")
    with pytest.raises(OSError, match="not a readable weight file"):
        dropmae.load("made-up")
    assert not server.asked


@pytest.mark.parametrize("ranges", [True, False])
def test_a_fetch_that_broke_off_goes_on(server: Server, ranges: bool) -> None:
    server.broken_after, server.ranges = 100_000, ranges
    with pytest.raises(OSError, match=r"the same command goes on from there") as error:
        dropmae.load("made-up")
    assert "\n" not in str(error.value)
    server.broken_after = None
    dropmae.load("made-up")
    assert server.asked == [None, "bytes=100000-"]


def test_what_is_not_the_file_is_removed(server: Server, tmp_path: Path) -> None:
    right = server.content
    server.content = right[:-1] + bytes([right[-1] ^ 1])
    with pytest.raises(OSError, match=r"is not the file that it should be.*removed"):
        dropmae.load("made-up")
    assert not list((tmp_path / "cache").iterdir())
    server.content = right
    dropmae.load("made-up")


def test_nothing_is_fetched_offline(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DROPMAE_OFFLINE", "1")
    with pytest.raises(OSError, match="offline nothing is fetched"):
        dropmae.load("made-up")
    monkeypatch.setenv("DROPMAE_OFFLINE", "0")
    assert main(["evaluate", "davis", "--root", ".", "--weights", "made-up", "--out", "x", "--offline"]) == 1
    assert not server.asked
    monkeypatch.delenv("DROPMAE_OFFLINE")
    dropmae.load("made-up")
    monkeypatch.setenv("DROPMAE_OFFLINE", "1")
    dropmae.load("made-up")


def test_no_server_and_no_file_are_one_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = public.NAMES["made-up"]
    monkeypatch.setitem(public.NAMES, "made-up", entry._replace(address=entry.address.replace("weights", "other")))
    with pytest.raises(OSError, match="404"):
        dropmae.load("made-up")
    monkeypatch.setitem(public.NAMES, "made-up", entry._replace(address="http://127.0.0.1:9/weights.pth"))
    with pytest.raises(OSError, match="could not be fetched") as error:
        dropmae.load("made-up")
    assert "\n" not in str(error.value)


def test_the_table_is_complete() -> None:
    for name, entry in public.NAMES.items():
        assert entry.address.startswith("https://"), name
        assert len(entry.sha256) == 64
        assert entry.size > 1e6
        assert entry.licence


def test_unknown_names_are_missing_files() -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        dropmae.load("dinov9-s")
