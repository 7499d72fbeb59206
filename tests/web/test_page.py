"""The page's server: who may ask it, what it takes in, and that it finds and writes what `track` does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

import dropmae
import launch
from dropmae import registry, weights
from dropmae.cli import main
from dropmae.formats.labels import NAMED, label_png, name_lines
from dropmae.page import server as serving
from dropmae.page import uploads
from dropmae.page.guard import HEADERS
from dropmae.page.prompts import IDS
from dropmae.page.server import Page, Server
from dropmae.page.serving import warm_up
from dropmae.page.work import Engines
from dropmae.target import decode_mask, encode_mask, read_targets, write_targets
from dropmae.video import write
from samples import SQUARE, moving_square
from test_opening import LISTS, png

FRAMES = 40
CAR = Path(__file__).parents[2] / "docs/images/car.mp4"


class Client(httpx.Client):
    """A browser of the page, with its cookie."""

    def __init__(self, served: Server) -> None:
        self.base = served.url.partition("/?")[0]
        super().__init__(base_url=self.base, headers={"origin": self.base}, timeout=60)
        assert self.get(served.url).status_code == 303

    def __enter__(self) -> Client:
        return self  # it is open already

    def open(self) -> dict[str, Any]:
        return self.post("/open", json={"video": 0}).json()

    def say(self, state: dict[str, Any], **said: Any) -> dict[str, Any]:
        answer = self.post(f"/works/{state['key']}/prompts", json={"version": state["version"], **said})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def box(self, state: dict[str, Any], frame: int, box: Any, number: int = 1) -> dict[str, Any]:
        return self.say(state, frame=frame, lines=[{"id": number, "box": list(box)}])

    def follow(self, state: dict[str, Any], way: str = "forwards", **more: Any) -> list[dict[str, Any]]:
        answer = self.post(f"/works/{state['key']}/follow", json={"way": way, **more})
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]

    def answers(self, state: dict[str, Any]) -> dict[int, str]:
        text = self.get(f"/works/{state['key']}/answers?from=0&to=999").text
        return {json.loads(line)["frame"]: line for line in text.splitlines()}

    def export(self, state: dict[str, Any], form: str) -> bytes:
        made = self.post(f"/works/{state['key']}/exports", json={"form": form})
        assert made.status_code == 200, made.text
        found = self.get(f"/files/{made.json()['file']}")
        assert self.get(f"/files/{made.json()['file']}").status_code == 404
        return found.content


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vot.safetensors"
    torch.manual_seed(0)
    weights.save(registry.load("tasks", "vot")(size="tiny", image=64), path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "<img src=x onerror=alert(1)>.mp4"
    write(path, moving_square(FRAMES), 12, gop=10)
    return path


@pytest.fixture(scope="module")
def served(tracker: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    page = Page([str(clip)], Engines(str(tracker), {}, "cpu", "fp32"), tmp_path_factory.mktemp("page"))
    with Server(page) as found:
        yield found


@pytest.fixture
def client(served: Server) -> Iterator[Client]:
    with Client(served) as found:
        yield found
    for key in list(served.page.works):
        with Client(served) as found:
            assert found.delete(f"/works/{key}").status_code == 204
    assert not [path for path in served.page.folder.rglob("*") if path.is_file()]


# ------------------------------------------------------------ who may ask


def test_who_may_ask(served: Server, client: Client) -> None:
    state, bare = client.open(), httpx.Client(base_url=client.base)
    port = served.page.guard.port
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1",
        f"127.0.0.1:{port + 1}",
        f"127.0.0.1:{port}.evil",
    ):
        assert client.get("/open", headers={"host": host}).status_code == 421
    assert client.get("/open", headers={"host": f"localhost:{port}"}).status_code == 200
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{port + 1}", f"https://127.0.0.1:{port}", ""):
        for path in ("/open", "/upload", f"/works/{state['key']}/prompts"):
            assert client.post(path, json={"video": 0}, headers={"origin": origin}).status_code == 403
    assert client.get("/open", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    for path in ("/", "/open", "/static/app.js", f"/works/{state['key']}", f"/works/{state['key']}/frames/0"):
        for how in ({}, {"cookie": f"dropmae_{port}=x"}, {"cookie": "dropmae_1=x"}, {"cookie": '=";,'}):
            assert bare.get(path, headers=how).status_code == 403
    assert bare.get("/?token=x").status_code == 403
    assert bare.get(f"/open?token={served.page.guard.token}").status_code == 403
    token = {"cookie": f"dropmae_{port}={served.page.guard.token}"}
    assert bare.get("/open", headers=token).status_code == 200
    assert bare.post("/open", json={"video": 0}, headers=token).status_code == 403  # says not where it comes from
    bare.close()
    answer = client.get("/")
    assert HEADERS.items() <= dict(answer.headers).items()
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert client.options("/open").status_code == 405
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.sendall(f"GET /open HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        assert b" 400 " in line.recv(100)


@pytest.mark.parametrize(
    "path", ["..%2fserver.py", "%2e%2e/server.py", "%00", "%2fetc%2fpasswd", "a" * 5000, "app.js%00", "App.js"]
)
def test_no_path_leads_out(client: Client, path: str) -> None:
    key = client.open()["key"]
    for start in ("/static/", "/works/", f"/works/{key}/frames/", f"/works/{key}/", "/files/"):
        assert client.get(start + path).status_code in (400, 404, 405)
    answer = client.post(f"/works/{key}/exports", json={"form": f"/../../{path}.mp4"})
    assert answer.status_code == 422
    assert client.post("/open", json={"video": path}).status_code == 422


def test_the_page_asks_nobody_else() -> None:
    for name, (data, _) in serving.FILES.items():
        text = data.decode()
        assert not [
            word for word in ("http:", "https:", "//cdn", "innerHTML", "eval(", "style=", " onclick=") if word in text
        ], name


# ------------------------------------------------------------ what comes in


def test_uploads(served: Server, client: Client, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, name = clip.read_bytes(), {"x-name": "..%2F..%2F%3Cb%3E%0A.mp4"}
    state = client.post("/upload", content=data, headers=name).json()
    assert (state["name"], state["frames"], state["width"]) == ("../../<b>\\x0a.mp4", FRAMES, 96)
    assert Path(served.page.works[state["key"]].path).parent.parent == served.page.folder
    picture = client.get(f"/works/{state['key']}/frames/7")
    assert picture.headers["content-type"] == "image/jpeg"
    bad = client.post("/upload", content=b"ffconcat version 1.0\nfile clip.mp4\n", headers={"x-name": "a.mp4"})
    assert bad.status_code == 500
    assert "a.mp4" in bad.json()["error"]
    assert str(served.page.folder) not in bad.text
    monkeypatch.setattr(uploads, "VIDEO_BYTES", 1000)
    assert client.post("/upload", content=data).status_code == 413
    assert client.post("/upload", content=iter([data[:600], data[600:1200]])).status_code == 413
    monkeypatch.setattr(uploads, "VIDEO_BYTES", 10**12)
    port, token = served.page.guard.port, served.page.guard.token
    head = f"POST /upload HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: {client.base}\r\n"
    head += f"Cookie: dropmae_{port}={token}\r\n"
    with socket.create_connection(("127.0.0.1", port)) as line:  # more than there is room for
        line.sendall(f"{head}Connection: close\r\nContent-Length: {10**17}\r\n\r\n".encode())
        assert b"room on the disk" in b"".join(iter(lambda: line.recv(5000), b""))[:9000]
    with socket.create_connection(("127.0.0.1", port)) as line:  # half of it, then nothing
        line.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data[:999])
    for _ in range(100):
        if not list(served.page.folder.glob("upload-*/*.partial")):
            break
        time.sleep(0.05)
    assert len(list(served.page.folder.glob("upload-*"))) == 1


def test_what_a_process_of_its_own_looks_at(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    for name, text in LISTS.items():
        (tmp_path / name).write_text(text.format(clip="clip.mp4", http="http://127.0.0.1:9", port=9))
        assert uploads.look(str(tmp_path / name), "a").startswith("a"), name
    (tmp_path / "a.png").write_bytes(png(16000, 16000, bytes(1000)))
    assert "256000000 pixels" in uploads.look(str(tmp_path / "a.png"), "a")
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:2000])
    (tmp_path / "empty").write_bytes(b"")
    for name in ("cut.mp4", "empty"):
        assert uploads.look(str(tmp_path / name), "a")
    assert uploads.look(str(clip), "a") == ""
    monkeypatch.setenv("DROPMAE_MAX_PIXELS", "1000")
    assert "96x72 pixels are more than" in uploads.look(str(clip), "a")
    monkeypatch.delenv("DROPMAE_MAX_PIXELS")
    monkeypatch.setattr(uploads, "FRAMES", FRAMES - 1)
    assert "40 frames are more than 39" in uploads.look(str(clip), "a")
    monkeypatch.setattr(uploads, "SECONDS", 0.01)
    with pytest.raises(OSError, match=r"a: could not be read within"):
        uploads.check_video(clip, "a")


HALF = np.zeros((72, 96), np.uint8)
HALF[20:40, 30:50] = 1
RLE = encode_mask(HALF)
WRONG: dict[str, Any] = {
    "lines must be a list": "x",
    "a list of at most": [{"id": n + 1, "box": [1, 1, 2, 2]} for n in range(10_000)],
    "a line has an id": [{"id": 1, "path": "/etc/passwd"}],
    "id must be": [{"id": 0, "box": [1, 1, 2, 2]}],
    "id must be a number": [{"id": IDS + 1, "box": [1, 1, 2, 2]}],
    "id must be a number from": [{"id": True, "box": [1, 1, 2, 2]}],
    "two lines": [{"id": 1, "box": [1, 1, 2, 2]}] * 2,
    "box must be 4": [{"id": 1, "box": [1, 1, 2]}],
    "box must be 4 finite": [{"id": 1, "box": [float("nan"), 1, 2, 2]}],
    "box must be 4 finite numbers": [{"id": 1, "box": [1, 1, 2, 10**400]}],
    "positive width": [{"id": 1, "box": [1, 1, 0, 2]}],
    "lies outside": [{"id": 1, "box": [500, 500, 9, 9]}],
    "points must be 2": [{"id": 1, "points": [[1e9, 3]]}],
    "points must be a list": [{"id": 1, "points": [[1, 2]] * 10_001}],
    "visible must": [{"id": 1, "points": [[1, 2]], "visible": []}],
    "mask must have the video's size": [{"id": 1, "mask": {**RLE, "size": [10**6, 10**6]}}],
    "mask: run lengths add up": [{"id": 1, "mask": {**RLE, "counts": [5, 6]}}],
    "mask: a mask's size and run": [{"id": 1, "mask": {**RLE, "counts": [-1, 72 * 96 + 1]}}],
    "mask must have a list": [{"id": 1, "mask": {**RLE, "counts": [0] * (72 * 96 * 2 + 1)}}],
    "mask: mask shows nothing": [{"id": 1, "mask": {**RLE, "counts": [72 * 96]}}],
}


def test_what_is_said_is_checked(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    state = client.box(client.open(), 3, SQUARE)
    where = f"/works/{state['key']}/prompts"
    for words, lines in WRONG.items():
        body = json.dumps({"version": state["version"], "frame": 3, "lines": lines})
        answer = client.post(where, content=body)
        assert answer.status_code == 422, words
        assert words in answer.json()["error"]
    for more in (
        {"frame": FRAMES, "lines": []},
        {"frame": 1.5, "lines": []},
        {"names": {"x": "a"}},
        {"names": {"1": ""}},
    ):
        assert client.post(where, json={"version": state["version"], **more}).status_code == 422
    for body in (b"[1]", b"{", b"[" * 100_000, b"\xff"):
        assert client.post(where, content=body).status_code == 422
    assert client.post(where, json={"version": 0, "undo": True}).status_code == 409
    monkeypatch.setattr(uploads, "JSON_BYTES", 10)
    now = client.get(f"/works/{state['key']}").json()
    assert (now["version"], now["prompts"]) == (state["version"], {"3": [{"id": 1, "box": list(SQUARE)}]})
    for way in (
        {"way": "up"},
        {"way": "forwards"},
        {"way": "forwards", "frame": 2, "stop": 2},
        {"way": "backwards", "frame": 99},
    ):
        assert client.post(f"/works/{state['key']}/follow", json=way).status_code == 422
    assert (
        "at frame 2 or before"
        in client.post(f"/works/{state['key']}/follow", json={"way": "forwards", "frame": 2}).text
    )


# ------------------------------------------------------------ following and taking along


def tracked(clip: Path, tracker: Path, prompts: bytes, out: Path, **more: Any) -> dict[str, bytes]:
    """What `track` writes for the same prompts, by the ending of its files' names."""
    file = out.with_suffix(".prompts.jsonl")
    file.write_bytes(prompts)
    dropmae.track(str(clip), weights=str(tracker), prompts=file, out=out, precision="fp32", **more)
    return {suffix: out.with_suffix(suffix).read_bytes() for suffix in (".mp4", ".jsonl")}


def test_it_writes_what_track_writes(client: Client, clip: Path, tracker: Path, tmp_path: Path) -> None:
    """A box is followed, corrected in the middle and a second object is added, as people do; then as `track` does."""
    state = client.box(client.open(), 4, SQUARE)
    assert state["command"].startswith("dropmae track ")
    assert "--box 20 16 24 20 --start 4 --weights" in state["command"]
    lines = client.follow(state, frame=4, stop=30)
    assert [line["frame"] for line in lines[:-1]] == list(range(4, 30))
    assert lines[-1] == {"done": 26, "stale": []}
    before = client.answers(state)
    state = client.box(state, 20, (50, 30, 20, 22))
    assert state["stale"] == [[20, 29]]
    state = client.say(state, frame=9, lines=[{"id": 2, "box": [60, 5, 20, 20]}], names={"1": "object 1", "2": "a <b>"})
    state = client.say(state, undo=True)
    assert (state["stale"], state["redo"]) == ([[20, 29]], 1)
    frames = [line["frame"] for line in client.follow(state, frame=20)[:-1]]
    assert frames == list(range(13, FRAMES))  # from the copy of the state that is nearest
    after = client.answers(state)
    assert {n: after[n] for n in range(4, 20)} == {n: before[n] for n in range(4, 20)}
    assert json.loads(after[20])["targets"][0]["box"] == [50, 30, 20, 22]
    assert after[25] != before[25]
    prompts = client.export(state, ".prompts.jsonl")
    expected = tracked(clip, tracker, prompts, tmp_path / "out.mp4")
    assert {form: client.export(state, form) for form in expected} == expected
    state = client.say(state, redo=True)
    assert state["names"] == {"1": "object 1", "2": "a <b>"}
    assert client.follow(state, "both")[-1]["stale"] == []
    expected = tracked(clip, tracker, client.export(state, ".prompts.jsonl"), tmp_path / "both.mp4", both=True)
    assert {form: client.export(state, form) for form in expected} == expected
    assert "--both" in client.get(f"/works/{state['key']}").json()["command"]
    assert client.post(f"/works/{state['key']}/exports", json={"form": ".exe"}).status_code == 422


def test_backwards_and_forwards_meet_at_the_prompt(client: Client, clip: Path, tracker: Path, tmp_path: Path) -> None:
    state = client.box(client.open(), 12, SQUARE)
    assert [line["frame"] for line in client.follow(state, "backwards", frame=12, stop=5)[:-1]] == list(
        range(12, 5, -1)
    )
    assert [line["frame"] for line in client.follow(state, "backwards", frame=5)[:-1]] == list(range(5, -1, -1))
    backwards = client.answers(state)
    prompts = client.export(state, ".prompts.jsonl")
    alone = tracked(clip, tracker, prompts, tmp_path / "back.mp4", backwards=True)[".jsonl"].splitlines()
    assert [json.loads(line)["box"] for line in alone] == [
        json.loads(backwards[n])["targets"][0]["box"] for n in range(12, -1, -1)
    ]
    client.follow(state, frame=12)
    assert {n: line for n, line in client.answers(state).items() if n < 12} == {n: backwards[n] for n in range(12)}
    state = client.box(state, 6, (30, 20, 20, 20))  # a correction on the way back changes what is behind it
    assert state["stale"] == [[0, 6]]
    client.follow(state, "backwards", frame=6)
    corrected = client.answers(state)
    assert json.loads(corrected[6])["targets"][0]["box"] == [30, 20, 20, 20]
    assert {n: corrected[n] for n in range(7, FRAMES)} == {n: client.answers(state)[n] for n in range(7, FRAMES)}
    assert corrected[7] == backwards[7]


def test_masks_and_points(served: Server, client: Client, clip: Path, tmp_path: Path) -> None:
    """With an encoder: what is painted and clicked goes the same way; rows of points stay together."""
    path = tmp_path / "mae.safetensors"
    torch.manual_seed(0)
    weights.save(registry.load("methods", "dropmae")(size="tiny", image=64), path)
    engines = Engines(str(path), {"resize": "native"}, "cpu", "fp32")
    with Server(Page([str(clip)], engines, tmp_path)) as other, Client(other) as mine:
        state = mine.say(mine.open(), frame=1, lines=[{"id": 3, "mask": RLE, "points": [[40.0, 30.0]]}])
        assert state["accepts"] == {"boxes": "", "mask": "", "points": ""}
        mine.follow(state, frame=1, stop=6)
        state = mine.say(state, frame=4, lines=[{"id": 3, "points": [None, [33.5, 28.25]]}])
        assert state["stale"] == [[1, 5]]  # a new row of points is one in all frames
        mine.follow(state, frame=4)
        expected = tracked(clip, path, mine.export(state, ".prompts.jsonl"), tmp_path / "o.mp4", set=("resize=native",))
        assert {form: mine.export(state, form) for form in expected} == expected
        (found,) = read_targets(tmp_path / "o.jsonl").values()
        assert found[9].mask is not None
        assert found[9].points is not None
        assert found[9].points.shape == (2, 2)
    state = client.open()
    assert state["accepts"]["points"].endswith("is told boxes or a mask")


def test_outlines_are_found_or_refused(client: Client, tmp_path: Path) -> None:
    state = client.open()
    place = f"/works/{state['key']}/outline"
    refused = client.post(place, json={"frame": 0, "click": [40, 30]})  # a tracker of boxes draws no outlines
    assert refused.status_code == 422
    assert "finds no outlines" in refused.text
    with Server(Page([str(CAR)], Engines(None, {}, "cpu", "fp32"), tmp_path)) as other, Client(other) as mine:
        place = f"/works/{mine.open()['key']}/outline"
        for asked, fault in (
            ({"frame": 0}, "in a box, or at a click"),
            ({"frame": 0, "box": [1, 2, 3, 4], "click": [5, 6]}, "in a box, or at a click"),
            ({"frame": 9999, "click": [5, 6]}, "number of a frame"),
            ({"frame": True, "click": [5, 6]}, "number of a frame"),
            ({"frame": 0, "click": [5]}, "click must be 2 finite numbers"),
            ({"frame": 0, "click": ["5", 6]}, "click must be 2 finite numbers"),
            ({"frame": 0, "box": [1, 2, 0, 4]}, "needs a positive width and height"),
            ({"frame": 0, "box": [1000, 2, 5, 4]}, "lies outside"),
            ({"frame": 0, "click": [456, 6]}, "lies outside"),
        ):
            answer = mine.post(place, json=asked)
            assert answer.status_code == 422, asked
            assert fault in answer.text, asked
        found = mine.post(place, json={"frame": 76, "box": [160, 69, 108, 171]}).json()
        mask = decode_mask(found["mask"])
        assert mask.shape == (256, 456)
        assert 0.5 < mask[69:240, 160:268].mean() < 0.95
        assert mask.sum() == mask[69:240, 160:268].sum()


class Slow:
    """A task that takes its time, and counts its steps."""

    def __init__(self, task: Any, seconds: float) -> None:
        self.task, self.seconds, self.count, self.step_of = task, seconds, 0, task.step

    def __call__(self, *arguments: Any) -> Any:
        time.sleep(self.seconds)
        self.count += 1
        return self.step_of(*arguments)


def test_closing_ends_within_a_frame_and_loses_nothing(
    served: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = client.box(client.open(), 0, SQUARE)
    engine = served.page.engines.get(served.page.works[state["key"]].spec or "")
    slow = Slow(engine.task, 0.1)
    monkeypatch.setattr(engine.task, "step", slow)
    monkeypatch.setattr(serving, "PATIENCE", 0.3)
    where, seen = f"/works/{state['key']}", []
    with client.stream("POST", f"{where}/follow", json={"way": "forwards", "frame": 0}) as answer:
        for line in answer.iter_lines():
            seen.append(json.loads(line))
            if len(seen) == 5:
                with Client(served) as other:  # two at once: the second has to wait, and is told so
                    again = other.post(f"{where}/follow", json={"way": "forwards", "frame": 0})
                    assert (again.status_code, again.json()["error"]) == (409, "it is being followed: stop that first")
                    there = other.get(where).json()  # a reload in the middle shows what is there
                    assert len(there["scores"]) >= 5
                break
    count = slow.count
    time.sleep(0.5)
    assert slow.count - count <= 1
    slow.seconds = 0
    kept = client.answers(state)
    assert len(kept) >= 5
    rest = client.follow(state, frame=len(kept))
    assert rest[0]["frame"] == len(kept)
    assert len(client.answers(state)) == FRAMES
    slow.seconds = 0.1
    with client.stream("POST", f"{where}/follow", json={"way": "backwards", "frame": 0, "stop": -1}) as answer:
        next(answer.iter_lines())
    assert client.delete(where).status_code == 204
    assert client.get(where).status_code == 404


def test_the_first_answer_comes_at_once(clip: Path, tmp_path: Path) -> None:
    """What comes with the package is made ready once the page is there, and nobody who follows waits for it."""
    with Server(Page([str(clip)], Engines(None, {}, "cpu", "auto"), tmp_path)) as other, Client(other) as mine:
        other.page.queue.append(mine)
        warming = threading.Thread(target=warm_up, args=(other.page,))
        warming.start()
        warming.join(0.3)
        assert not other.page.engines.made
        other.page.queue.clear()
        warming.join(60)
        state = mine.box(mine.open(), 4, SQUARE)
        assert state["weights"] in other.page.engines.made
        before = time.process_time()
        asked = {"way": "forwards", "frame": 4}
        with mine.stream("POST", f"/works/{state['key']}/follow", json=asked) as answer:
            lines = answer.iter_lines()
            assert [json.loads(next(lines))["frame"] for _ in range(2)] == [4, 5]
            assert time.process_time() - before < 1  # docs/results.md has what it takes, 0.4 s


def test_two_videos_take_turns(served: Server, client: Client) -> None:
    one, two = (client.box(client.open(), 0, SQUARE) for _ in range(2))
    found: dict[str, Any] = {}

    def run(state: dict[str, Any]) -> None:
        with Client(served) as own:
            found[state["key"]] = own.follow(state, frame=0)

    threads = [threading.Thread(target=run, args=(state,)) for state in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [lines[-1]["done"] for lines in found.values()] == [FRAMES, FRAMES]
    for _ in range(6):
        client.open()
    assert client.post("/open", json={"video": 0}).status_code == 409


def test_saved_work_goes_on(client: Client, clip: Path) -> None:
    state = client.box(client.open(), 2, SQUARE)
    client.follow(state, frame=2, stop=9)
    state = client.box(state, 6, (40, 30, 20, 20))
    data, answers = client.export(state, ".dropmae"), client.answers(state)
    other = client.open()
    restored = client.post(f"/works/{other['key']}/saved", content=data).json()
    assert (restored["prompts"], restored["stale"], client.answers(other)) == (state["prompts"], [[6, 8]], answers)
    client.follow(restored, frame=6)
    client.follow(state, frame=6)
    assert client.answers(other) == client.answers(state)
    head, _, rest = data.partition(b"\n")
    for bad in (b"", b"{}", data[:-9], data[:200], head.replace(b'"frames": 40', b'"frames": 41') + b"\n" + rest,
                head.replace(b"[1, 8,", b"[1, 800,") + b"\n" + rest, head + b"\n" + b"\0" * len(rest)):  # fmt: skip
        answer = client.post(f"/works/{other['key']}/saved", content=bad)
        assert answer.status_code == 422, bad[:80]
    assert len(client.answers(other)) == FRAMES - 2


def test_labels_become_what_is_said(client: Client, tmp_path: Path) -> None:
    """Mask PNGs, one or several with names, and annotation files; what was said elsewhere stays, and it is undone."""
    state = client.box(client.open(), 2, SQUARE, number=9)

    def bring(files: dict[str, bytes], frame: int = 7) -> Any:
        head = json.dumps([[name, len(data)] for name, data in files.items()]).encode() + b"\n"
        return client.post(f"/works/{state['key']}/labels?frame={frame}", content=head + b"".join(files.values()))

    mask = label_png(3 * HALF)
    state = bring({"any.png": mask}).json()
    assert state["prompts"] == {
        "2": [{"id": 9, "box": list(SQUARE)}],
        "7": [{"id": 3, "mask": {"size": [72, 96], "counts": RLE["counts"]}}],
    }
    files = {"../00004.png": mask, "5.png": mask, NAMED: name_lines({3: "<b>fox"}).encode()}
    state = bring(files).json()
    assert list(state["prompts"]) == ["2", "4", "5", "7"]
    assert state["names"] == {"3": "<b>fox", "9": "object 9"}
    before = state["prompts"]
    boxes = "frame,id,name,x,y,width,height,score\n8,3,fox,1,2,30,40,\n8,9,,5,6,7,8,0.5\n"
    state = bring({"a.csv": boxes.encode()}).json()
    assert state["prompts"]["8"] == [{"id": 3, "box": [1, 2, 30, 40]}, {"id": 9, "box": [5, 6, 7, 8]}]
    state = client.say(state, undo=True)
    assert (state["prompts"], state["names"]["3"]) == (before, "<b>fox")
    small = label_png(HALF[:9, :9] + 1)
    for bad, words in {
        "a.png": (mask[:99], "a.png: "),
        "b.png": (small, "mask must have the video's size, 72 x 96"),
        "c.csv": (boxes.replace("8,3,", "99,3,").encode(), "c.csv: frame 99 is none of the 40 frames"),
        "d.zip": (b"PK\x03\x04", "d.zip: a damaged zip"),
        "e.txt": (b"what?", "e.txt: not annotations of a known form"),
    }.items():
        answer = bring({bad: words[0]})
        assert answer.status_code == 422
        assert answer.json()["error"].startswith(words[1])
    for body in (b"", b"[]\n", b'[["a.png", -1]]\n', b'[["a", 1], ["a", 1]]\nxx', b"[[1]]\n", b"{}\n"):
        assert client.post(f"/works/{state['key']}/labels", content=body).status_code == 422
    assert client.get(f"/works/{state['key']}").json()["prompts"] == before
    assert len(client.follow(state, frame=2, stop=9)) == 8


def test_a_full_disk_is_told(served: Server, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    state = client.box(client.open(), 0, SQUARE)
    client.follow(state, frame=0, stop=3)

    def full(*_: Any) -> None:
        raise OSError(28, "the disk is full")

    monkeypatch.setattr(os, "replace", full)
    answer = client.post(f"/works/{state['key']}/exports", json={"form": ".mp4"})
    assert (answer.status_code, "the disk is full" in answer.json()["error"]) == (500, True)
    monkeypatch.undo()
    assert len(client.export(state, ".mp4")) > 1000


# ------------------------------------------------------------ the verb


def test_the_verb_prints_its_address_and_ends_by_ctrl_c(clip: Path, tracker: Path, tmp_path: Path) -> None:
    words = ["web", str(clip), "--weights", str(tracker), "--no-browser"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    started = launch.start(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert started.stdout is not None
    line = started.stdout.readline()
    assert line.startswith("http://127.0.0.1:")
    assert len(line.partition("/?token=")[2].strip()) >= 43
    with urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(line.strip()) as answer:
        assert b"<title>dropmae</title>" in answer.read()
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    port = line.split(":")[2].split("/")[0]
    taken = launch.run([*words, "--port", port])
    assert taken.returncode == 1
    assert taken.stderr.splitlines()[-1].startswith(f"dropmae web: port {port} of 127.0.0.1 cannot be used")
    started.send_signal(signal.SIGINT)
    out, said = started.communicate(timeout=60)
    assert (started.returncode, out) == (0, "")
    assert said.splitlines()[-1] == "the page is closed"
    assert not list(tmp_path.iterdir())


def test_wrong_words(clip: Path, tracker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "none").mkdir()
    for words, line in {
        ("nowhere.mp4",): "nowhere.mp4: no such file",
        (str(tmp_path / "text.mp4"),): "text.mp4: not a video",
        (str(tmp_path / "none"),): "holds no video",
        ("63",): "camera 63: there is no such camera on this machine",
        (str(clip), "--weights", str(tmp_path / "w.safetensors")): "w.safetensors",
        (str(clip), "--set", "x"): "settings are written name=value",
    }.items():
        capsys.readouterr()
        assert main(["web", *words, "--no-browser"]) in (1, 2)
        said = capsys.readouterr()
        assert line in said.err
        assert not said.out


def test_pick_asks_once(clip: Path, tracker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`track --pick` opens the page, people draw a box, and the terminal goes on with it."""
    asked = []

    def draw(self: Server, browser: bool) -> None:
        with Client(self) as client:
            state = client.open()
            assert state["question"] == 5
            assert client.post(f"/works/{state['key']}/done", json={}).status_code == 422
            client.box(state, 5, SQUARE)
            client.post(f"/works/{state['key']}/done", json={})
        asked.append(browser)
        assert self.page.answered.wait(5)

    monkeypatch.setattr(Server, "wait", draw)
    out = tmp_path / "picked.jsonl"
    assert main(["track", str(clip), "--pick", "--start", "5", "--weights", str(tracker), "--out", str(out)]) == 0
    assert asked == [True]
    (found,) = read_targets(out).values()
    assert list(found) == list(range(5, FRAMES))
    write_targets(tmp_path / "p.jsonl", {"clip": {5: found[5]}})
    assert main(["track", str(clip), "--pick", "--box", "1", "2", "3", "4", "--out", str(out)]) == 2


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"port": -1}, "port is a number from 0 to 65535, not -1"),
        ({"port": 99999}, "port is a number"),
        ({"device": "gpu"}, "no such kind of device"),
        ({"weights": "shipped:vot", "set": ("nothing=1",)}, "nothing is no setting of vot"),
    ],
)
def test_what_is_wrong_is_said_before_there_is_a_page(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        dropmae.web(browser=False, **wrong)
