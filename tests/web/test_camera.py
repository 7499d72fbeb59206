"""The page with a camera: recorded as it comes, followed live, and a video as any other in the end.

There is no camera here: where one would be opened, frames come from a thing that gives so many a second.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dropmae.cli import main
from dropmae.engine import Session
from dropmae.page import recording
from dropmae.page.passes import LIVE_STATES, LivePass
from dropmae.page.server import Page, Server
from dropmae.page.work import Engines
from dropmae.target import Target
from dropmae.video import Video, files
from dropmae.video.tape import Tape
from samples import SQUARE, moving_square
from test_page import FRAMES, Client, Slow, clip, tracked, tracker

__all__ = ["clip", "tracker"]


class Camera:
    """What `open_camera` gives: `frames` at `fps`, over and over, or up to a fault."""

    def __init__(self, frames: np.ndarray, fps: float = 25, fault: tuple[int, OSError] | None = None) -> None:
        self.frames, self.fps, self.fault, self.closed, self.silent = frames, fps, fault, False, False

    def __iter__(self) -> Iterator[np.ndarray]:
        begun, number = time.monotonic(), 0
        while not self.closed:
            time.sleep(max(0.0, begun + number / self.fps - time.monotonic()))
            if self.silent:
                continue
            if self.fault is not None and number == self.fault[0]:
                raise self.fault[1]
            yield self.frames[number % len(self.frames)]
            number += 1

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Camera:
    made = Camera(moving_square(FRAMES))

    def open_camera(source: str) -> Camera:
        made.closed = False
        return made

    monkeypatch.setattr(recording, "open_camera", open_camera)
    return made


@pytest.fixture
def served(camera: Camera, tracker: Path, tmp_path: Path) -> Iterator[Server]:
    with Server(Page(["0"], Engines(str(tracker), {}, "cpu", "fp32"), tmp_path)) as found:
        yield found
    assert camera.closed


@pytest.fixture
def client(served: Server) -> Iterator[Client]:
    with Client(served) as found:
        yield found


def until_frames(client: Client, key: str, count: int) -> dict[str, Any]:
    """The state of a recording once it has so many frames."""
    with client.stream("GET", f"/works/{key}/live") as answer:
        for line in answer.iter_lines():
            state = json.loads(line)
            if state["frames"] >= count or state["ended"] is not None:
                return state
    raise AssertionError("the recording was not watched to its end")


def followed(client: Client, key: str, frame: int, count: int) -> list[int]:
    """Frames that were followed live from `frame` on; as many, then it is stopped."""
    found: list[int] = []
    with client.stream("POST", f"/works/{key}/follow", json={"way": "live", "frame": frame}) as answer:
        for line in answer.iter_lines():
            found += [json.loads(line)["frame"]] if line else []
            if len(found) == count:
                return found
    raise AssertionError(f"the live pass ended after {found}")


def test_it_is_followed_live_and_then_a_video_as_any_other(
    served: Server, client: Client, tracker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/open").json()["videos"] == ["camera 0"]
    state = client.open()
    key = state["key"]
    assert (state["name"], state["width"], state["height"]) == ("camera 0", 96, 72)
    assert state["frames"] >= 1
    assert client.post("/open", json={"video": 0}).json()["error"].startswith("a camera is being recorded already")
    live = until_frames(client, key, 6)
    assert live["ended"] is None
    assert 0 < live["fps"] < 30
    assert 0 < live["bytes"] < live["limit"]
    state = client.box(state, 4, SQUARE)
    assert state["command"] == ""
    assert client.post(f"/works/{key}/exports", json={"form": ".dropmae"}).status_code == 422
    engine = served.page.engines.get(state["weights"])
    slow = Slow(engine.task, 0.12)
    monkeypatch.setattr(engine.task, "step", slow)
    found = followed(client, key, 4, 6)  # frames come three times as fast as they are followed
    assert found[0] == 4
    assert found == sorted(set(found))
    assert found[-1] - found[0] > len(found)
    newest = until_frames(client, key, 1)["frames"]
    assert newest - found[-1] < 15  # it keeps up with the camera, whatever it left out
    state = client.get(f"/works/{key}").json()
    assert {int(number) for number in state["scores"]} >= set(found)
    assert state["stale"] == []
    ended: list[str] = []

    def go_on() -> None:
        with client.stream("POST", f"/works/{key}/follow", json={"way": "live", "frame": found[-1]}) as answer:
            ended.extend(line for line in answer.iter_lines() if line)

    with client.stream("GET", f"/works/{key}/frames/{found[-1]}") as answer:
        assert answer.read()[:2] == b"\xff\xd8"
    thread = threading.Thread(target=go_on)
    thread.start()
    until_frames(client, key, newest + 10)
    state = client.post(f"/works/{key}/stop", json={}).json()
    thread.join(10)
    assert json.loads(ended[-1])["done"] == len(ended) - 1
    assert state["live"]["ended"] == "you stopped it"
    count = state["frames"]
    time.sleep(0.15)
    assert client.get(f"/works/{key}").json()["frames"] == count
    assert client.post(f"/works/{key}/follow", json={"way": "live", "frame": 4}).status_code == 409
    slow.seconds = 0
    saved = tmp_path / "camera 0.recorded.mov"
    saved.write_bytes(client.export(state, ".recorded.mov"))
    assert f"'{saved.name}'" in state["command"]
    # What the tracker is shown is what the file holds, so every frame followed is what `track` finds in that file.
    lines = client.follow(state, frame=4)
    assert [line["frame"] for line in lines[:-1]] == list(range(4, count))
    expected = tracked(saved, tracker, client.export(state, ".prompts.jsonl"), tmp_path / "out.mp4")
    for suffix, data in expected.items():
        assert client.export(state, suffix).replace(b"camera 0", b"") == data.replace(saved.name.encode(), b"")
    work, answers = client.export(state, ".dropmae"), client.answers(state)
    with Server(Page([str(saved)], Engines(str(tracker), {}, "cpu", "fp32"), tmp_path)) as other, Client(other) as mine:
        restored = mine.post(f"/works/{mine.open()['key']}/saved", content=work).json()
        assert restored["frames"] == count
        assert mine.answers(restored) == answers


def test_a_correction_counts_from_its_frame_on(client: Client) -> None:
    state = client.open()
    key = state["key"]
    until_frames(client, key, 3)
    state = client.box(state, 1, SQUARE)
    first = followed(client, key, 1, 8)
    frame = first[4]
    state = client.say(state, frame=frame, lines=[{"id": 2, "box": [60, 5, 20, 20]}])  # another object, some frames ago
    assert state["stale"][0][0] == frame
    second = followed(client, key, frame, 6)
    assert second[0] == frame
    answers = client.answers(state)
    assert [one["id"] for one in json.loads(answers[first[3]])["targets"]] == [1]
    assert [one["id"] for one in json.loads(answers[second[-1]])["targets"]] == [1, 2]


class Counting:
    """A task of one object whose answer tells how many frames it has seen."""

    takes, gives, lag, answers_first, frame_kind, doubtful_below = ("boxes",), ("boxes",), 0, False, "picture", None

    def start(self, frame: np.ndarray, target: Target) -> int:
        return 0

    def step(self, state: int, frame: np.ndarray, prompt: Target | None = None) -> tuple[int, dict[int, Target]]:
        boxes = np.array([[state + 1.0, 0, 1, 1]])
        return state + 1, {state + 1: Target(ids=np.array([1]), boxes=boxes)}

    def understood(self, frame: np.ndarray, prompt: Target) -> Target:
        return prompt

    def finish(self, state: int) -> dict[int, Target]:
        return {}

    def copy(self, state: int) -> int:
        return state


def test_no_frame_is_left_out_in_which_something_is_said(tmp_path: Path) -> None:
    tape = Tape(tmp_path, "camera 0", 72, 96)
    for frame in moving_square(FRAMES):
        tape.add(frame, len(tape) / 10)
    engine: Any = type("Engine", (), {"task": Counting(), "run": lambda self, function, *words: function(*words)})()
    engine.session = lambda prompts: Session(engine, prompts)
    box = Target(ids=np.array([1]), boxes=np.array([SQUARE]))
    one = LivePass(tmp_path)
    one.tell({3: box, 12: box, 21: box})
    newest = iter([30, 30, 36, None])  # what the recording has come to whenever it is asked
    steps = list(one.follow(engine, Video(tape), 12, lambda _: next(newest)))
    assert [(step.frame, step.idle) for step in steps] == [
        (3, False), (12, False), (21, False), (30, False), (30, True), (36, False)
    ]  # fmt: skip
    assert sorted(one.answers) == [3, 12, 21, 30, 36]
    assert one.answers[36].target.box()[0] == 4
    one.tell({3: box, 12: box, 21: box, 33: box})
    assert one.stale() == {36}
    newest = iter([37, None])
    assert [step.frame for step in one.follow(engine, Video(tape), 33, lambda _: next(newest))] == [33, 37]
    assert one.stale() == {36}  # it is left out now
    one.close()
    tape.erase()


def test_a_tape_and_its_file_hold_the_same_frames(tmp_path: Path) -> None:
    tape = Tape(tmp_path, "camera 0", 72, 96, fps=30)
    video = Video(tape)
    assert (len(video), video.fps, video.name, video.path) == (0, 30, "camera 0", None)
    seconds = [0, 0.1, 0.1, 0.35, 2.0]
    for time_of, frame in zip(seconds, moving_square(5)):
        tape.add(frame, time_of)
    tape.add(np.zeros((30, 40, 3), np.uint8), 2.5)  # a camera that changes its size
    assert video.shape == (6, 72, 96, 3)
    assert video.fps == 2
    assert np.abs(video[2].mean(-1) - moving_square(3)[2].mean(-1)).mean() < 6  # noise in colours is not kept
    with pytest.raises(IndexError):
        video[6]
    tape.write(tmp_path / "out.mov")
    with Video(tmp_path / "out.mov") as written:
        np.testing.assert_array_equal(written[:][:6], video[[0, 1, 2, 3, 4, 5]])
        np.testing.assert_allclose(written.times, [0, 0.1, 0.101, 0.35, 2.0, 2.5], atol=1e-6)
    tape.erase()


def test_what_ffmpeg_opens_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(files.CAMERAS, "linux", ("lavfi", "testsrc=size=64x48:rate=20:duration=1"))
    monkeypatch.setattr(files.sys, "platform", "linux")
    made = recording.Recording("0", tmp_path)
    made.thread.join(10)
    assert (len(made.tape), made.tape.size(), made.ended) == (20, (48, 64), "camera 0 gives no more frames")
    assert made.newer(5) == 19
    assert made.newer(19) is None
    made.close()


def test_what_ends_a_stream_is_told_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "rtsp://me:secret@10.0.0.7/garden"

    def gone(source: str) -> Any:
        raise OSError(f"{source}: Connection refused")

    monkeypatch.setattr(recording, "open_camera", gone)
    with pytest.raises(OSError, match="10-0-0-7-garden: Connection refused") as told:
        recording.Recording(address, tmp_path)
    assert "secret" not in str(told.value)


def test_a_camera_has_a_name_without_secrets() -> None:
    assert recording.camera_name("3") == "camera 3"
    assert (
        recording.camera_name("rtsp://me:secret@10.0.0.7:554/garden/1?key=secret") == "10-0-0-7-garden-1"
    )  # a dot would end the stem of a file


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("FRAMES", 5, "it has the 5 frames that a recording may have"),
        ("BYTES", 9_000, "it has the 0 MB that a recording may have"),
        ("AWAY", 0.2, "no page has looked at it for 0 seconds"),
    ],
)
def test_a_recording_has_its_limits(
    client: Client, name: str, value: float, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, name, value)
    state = client.open()
    time.sleep(0.5)
    state = client.get(f"/works/{state['key']}").json()
    assert state["live"]["ended"] == why
    assert 1 <= state["frames"] < 12
    assert name != "BYTES" or 9_000 <= state["live"]["bytes"] < 15_000
    client.box(state, 0, SQUARE)
    assert len(client.follow(state, frame=0)) == state["frames"] + 1


def test_a_camera_that_goes_away_is_told_and_what_there_is_stays(client: Client, camera: Camera) -> None:
    camera.fault = 8, OSError("camera 0: no such device")
    state = client.open()
    until_frames(client, state["key"], 3)
    state = client.box(state, 1, SQUARE)
    lines = client.follow(state, "live", frame=1)
    assert "done" in lines[-1]
    state = client.get(f"/works/{state['key']}").json()
    assert (state["frames"], state["live"]["ended"]) == (8, "camera 0: no such device")
    assert client.get(f"/works/{state['key']}/frames/7").status_code == 200
    assert len(client.export(state, ".mp4")) > 1000


def test_no_camera_is_one_line(served: Server, client: Client, camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    camera.fault = 0, OSError("camera 0: it is used by somebody else")
    answer = client.post("/open", json={"video": 0})
    assert (answer.status_code, answer.json()) == (500, {"error": "camera 0: it is used by somebody else"})
    camera.fault, camera.silent = None, True
    monkeypatch.setattr(recording, "FIRST", 1.0)
    answer = client.post("/open", json={"video": 0})
    assert answer.json() == {"error": "camera 0: it gave no picture within 1 seconds"}
    camera.close()
    camera.silent = False
    assert not served.page.works


def test_the_verb_does_not_begin_without_a_camera(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(source: str) -> Any:
        raise OSError(f"camera {source}: it is used by somebody else")

    monkeypatch.setattr(recording, "open_camera", fail)
    assert main(["web", "0", "--no-browser"]) == 1
    assert capsys.readouterr().err == "dropmae web: camera 0: it is used by somebody else\n"


def test_states_of_what_was_followed_live_thin_out(tmp_path: Path) -> None:
    """The oldest were dropped, so that what was corrected ten seconds ago began anew, and lost all else."""
    live = LivePass(tmp_path)
    live.prompts = {40: Target(ids=np.array([1]), boxes=np.ones((1, 4)))}
    session: Any = SimpleNamespace(snapshot=lambda: None)
    for number in range(0, 20_000, 3):
        live.keep(number if number != 39 else 40, session)
    kept = sorted(live.states)
    assert 40 in kept
    assert len(kept) <= LIVE_STATES + 1
    assert all(after - before <= 12 + (20_000 - before) / 3 for before, after in pairwise(kept))
    assert kept[0] < 50


def test_the_file_of_a_tape_has_the_rate_that_the_tape_had(tmp_path: Path) -> None:
    """Their rates differed by a little, and so did, one time in eight, the files that were made of the two."""
    rng = np.random.default_rng(0)
    for number in range(6):
        tape, seconds = Tape(tmp_path, "x", 32, 48), 0.0
        for _ in range(int(rng.integers(1, 30))):
            tape.add(np.zeros((32, 48, 3), np.uint8), seconds)
            seconds += float(rng.uniform(0.01, 0.2))
        tape.write(tmp_path / f"{number}.recorded.mov")
        assert Video(tmp_path / f"{number}.recorded.mov").fps == tape.fps
        tape.erase()
