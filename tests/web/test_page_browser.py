"""The page in a real browser: what people do with mouse and keys, and what they see. Needs Debian's chromium."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dropmae import registry, weights
from dropmae.formats.labels import label_png, name_lines
from dropmae.page.server import Page, Server
from dropmae.page.work import Engines
from dropmae.target import decode_mask, encode_mask
from dropmae.video import write
from samples import moving_square
from test_page import FRAMES, Slow, clip, tracked, tracker

__all__ = ["clip", "tracker"]

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here: apt-get install chromium; the page is untested"
)
QUIET = ("background-networking", "component-update", "sync", "gpu")
FLAGS = ["--headless", "--no-sandbox", *(f"--disable-{name}" for name in QUIET)]
WIDTH, HEIGHT = 96, 72
CAR = Path(__file__).parents[2] / "docs/images/car.mp4"


class Screen:
    """The page as somebody in front of it has it."""

    def __init__(self, browser: Any, served: Server, size: tuple[int, int] = (1024, 700), dark: bool = False) -> None:
        scheme = "dark" if dark else "light"
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        self.page, self.served, self.faults = self.context.new_page(), served, list[str]()
        self.rounds = 0
        self.shows = WIDTH, HEIGHT
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)
        self.page.on("request", self.asked)
        self.page.on("dialog", lambda dialog: self.faults.append(dialog.message))
        self.page.set_default_timeout(180_000)
        self.page.goto(served.url)
        self.until("title.textContent !== '' || !empty.hidden")

    def asked(self, request: Any) -> None:
        if not request.url.startswith((f"http://127.0.0.1:{self.served.page.guard.port}/", "data:", "blob:")):
            self.faults.append(f"asked {request.url}")

    def js(self, expression: str) -> Any:
        """The value of an expression, in which ids are elements and s is the store.

        What changed before is drawn first: the page draws at the next animation frame, on a busy machine late.
        """
        ids = ("title", "empty", "hint", "view", "command", "save", "content")
        names = ", ".join(f"{name} = document.getElementById('{name}')" for name in ids)
        return self.page.evaluate(
            f"async () => {{ const {names}, s = await import('/static/store.js'); "
            f"await new Promise((drawn) => requestAnimationFrame(drawn)); return ({expression}); }}"
        )

    def until(self, expression: str, seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while not self.js(expression):
            assert time.monotonic() < end, f"{expression}: {self.js('hint.textContent')}"
            time.sleep(0.02)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the file is on the screen, with the whole frame shown."""
        left, top, wide, high = self.js(
            "(({x, y, width, height}) => [x, y, width, height])(view.getBoundingClientRect())"
        )
        width, height = self.shows
        scale = min(wide / width, high / height)
        return left + (wide - width * scale) / 2 + x * scale, top + (high - height * scale) / 2 + y * scale

    def drag(self, *places: tuple[float, float]) -> None:
        self.page.mouse.move(*self.place(*places[0]))
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*self.place(*place))
        self.page.mouse.up()

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.place(x, y))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def said(self, version: int) -> dict[str, Any]:
        """What the server knows once there is a version of the prompts."""
        self.until(f"s.store.work.version >= {version}")
        return self.js("s.store.work")

    def painted(self, frame: int) -> None:
        """Waits until a frame's picture, no stand-in for it, is on the screen with all that was changed before."""
        self.until(f"s.store.frames.kept.get({frame}) instanceof ImageBitmap", 20)
        self.js("await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")

    def followed(self) -> None:
        self.rounds += 1
        self.until(f"s.store.rounds >= {self.rounds}")

    def go(self, frame: int) -> None:
        self.page.fill("#number", str(frame))
        self.press("Enter")
        self.until(f"s.store.frame === {frame}")

    def close(self) -> None:
        faults = list(self.faults)  # what is on its way when its work is deleted is not found, and that is no fault
        for key in list(self.served.page.works):
            self.page.evaluate(f"() => fetch('/works/{key}', {{method: 'DELETE'}})")
        self.context.close()
        assert not faults


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def served(tracker: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    page = Page([str(clip)], Engines(str(tracker), {}, "cpu", "fp32"), tmp_path_factory.mktemp("page"))
    with Server(page) as found:
        yield found


@pytest.fixture
def screen(browser: Any, served: Server) -> Iterator[Screen]:
    found = Screen(browser, served)
    yield found
    found.close()


def test_from_a_box_to_a_file(screen: Screen, clip: Path, tracker: Path, tmp_path: Path) -> None:
    """The story: draw, follow, stop being content at a frame, correct it there, follow on, save."""
    assert screen.js("title.textContent").startswith("<img src=x onerror=alert(1)>.mp4")
    screen.until("hint.textContent.includes('Drag a box')", 20)
    assert screen.js("save.disabled")
    screen.go(2)
    screen.drag((24, 18), (40, 30), (48, 38))
    state = screen.said(1)
    assert np.allclose(state["prompts"]["2"][0]["box"], [24, 18, 24, 20], atol=0.6)
    screen.until("hint.textContent.includes('Press Follow (F)')", 20)
    screen.press("f")
    screen.until("Object.keys(s.store.scores).length > 3")
    screen.followed()
    assert screen.js("[s.store.frame, Object.keys(s.store.scores).length]") == [FRAMES - 1, FRAMES - 2]
    before = screen.js("JSON.stringify([...s.store.answers].filter(([n]) => n < 20))")
    screen.go(20)
    found = screen.js("s.shown(20).get(1).box")
    screen.drag((found[0] + found[2] / 2, found[1] + found[3] / 2), (50, 40), (60, 40))  # the box itself is moved
    state = screen.said(2)
    assert np.allclose(state["prompts"]["20"][0]["box"][2:], found[2:], atol=0.6)
    assert state["stale"] == [[20, FRAMES - 1]]
    screen.until("hint.textContent.includes('20–39 were found before your last correction')", 20)
    screen.press("z")
    assert screen.said(3)["stale"] == []  # what was found before is good again
    screen.press("y")
    assert screen.said(4)["stale"] == [[20, FRAMES - 1]]
    screen.press("f")
    screen.followed()
    assert screen.js("s.store.work.stale") == []
    assert screen.js("JSON.stringify([...s.store.answers].filter(([n]) => n < 20))") == before
    saved: dict[str, bytes] = {}
    screen.press("s")
    for form in (".prompts.jsonl", ".jsonl", ".mp4"):
        with screen.page.expect_download() as download:
            screen.page.get_by_role("button", name=f"Save {form}", exact=True).click()
        saved[form] = Path(download.value.path()).read_bytes()
    expected = tracked(clip, tracker, saved.pop(".prompts.jsonl"), tmp_path / "out.mp4")
    assert saved == expected
    assert not screen.js("document.querySelector('img')")


def test_handles_names_and_several_objects(screen: Screen) -> None:
    screen.drag((10, 10), (30, 30))
    screen.said(1)
    screen.drag((30, 30), (40, 36))  # the corner's handle
    state = screen.said(2)
    assert np.allclose(state["prompts"]["0"][0]["box"], [10, 10, 30, 26], atol=0.8)
    screen.press("Control+ArrowRight")
    assert screen.said(3)["prompts"]["0"][0]["box"][0] == pytest.approx(state["prompts"]["0"][0]["box"][0] + 1)
    screen.press("n")
    screen.drag((60, 40), (80, 60))
    assert [line["id"] for line in screen.said(4)["prompts"]["0"]] == [1, 2]
    screen.page.get_by_label("Name of object 2").fill("<b>cat</b>")
    screen.press("Enter")
    assert screen.said(5)["names"] == {"1": "object 1", "2": "<b>cat</b>"}
    screen.press("1")
    assert screen.js("s.store.object") == 1
    screen.press("ArrowRight", "ArrowRight", "Shift+ArrowRight", "ArrowLeft")
    assert screen.js("s.store.frame") == 11
    screen.press("q", "Delete")
    assert [line["id"] for line in screen.said(6)["prompts"]["0"]] == [2]
    screen.page.get_by_label("Remove <b>cat</b>").click()
    assert screen.said(7)["prompts"] == {}
    before = screen.js("view.getBoundingClientRect().width")
    screen.page.mouse.move(*screen.place(48, 36))
    screen.page.mouse.wheel(0, -400)
    screen.until("parseInt(document.getElementById('zoom').textContent) > 900")
    assert screen.js("view.getBoundingClientRect().width") == before
    screen.press("0")


def test_keep_step_weakest_and_back(screen: Screen) -> None:
    screen.go(5)
    screen.drag((30, 21), (54, 41))
    screen.said(1)
    screen.press(".")
    screen.followed()
    screen.press(".")
    screen.followed()
    assert screen.js("Object.keys(s.store.scores).map(Number)") == [5, 6]
    screen.page.fill("#count", "10")
    screen.press("Enter", "f")
    screen.followed()
    assert screen.js("Math.max(...Object.keys(s.store.scores).map(Number))") == 15
    screen.go(5)
    screen.page.fill("#count", "")
    screen.press("Enter", "b")
    screen.followed()
    assert screen.js("Object.keys(s.store.scores).length") == 16
    scores = {int(frame): row["1"] for frame, row in screen.js("s.store.scores").items() if frame != "5"}
    screen.press("w")
    assert screen.js("s.store.frame") == min(scores, key=lambda frame: scores[frame])
    screen.go(9)
    screen.press("k")
    state = screen.said(2)
    assert state["prompts"]["9"][0]["box"] == screen.js("s.store.answers.get(9).targets[0].box")
    screen.until("command.textContent.includes('--both')", 20)


def test_reload_in_the_middle_loses_nothing(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    screen.drag((20, 16), (44, 36))
    state = screen.said(1)
    engine = screen.served.page.engines.get(state["weights"])
    slow = Slow(engine.task, 0.05)
    monkeypatch.setattr(engine.task, "step", slow)
    screen.press("f")
    screen.until("Object.keys(s.store.scores).length > 4")
    screen.page.reload()
    screen.rounds = 0
    screen.until("s.store.work && Object.keys(s.store.scores).length > 4")
    count = slow.count
    time.sleep(0.3)
    assert slow.count <= count + 1
    slow.seconds = 0
    screen.press("a")
    screen.followed()
    assert screen.js("Object.keys(s.store.scores).length") == FRAMES
    slow.seconds = 0.05
    screen.go(1)
    screen.drag((21, 17), (46, 38))
    screen.said(2)
    screen.press("f")
    screen.until("s.store.running")
    screen.press("Escape")
    screen.followed()
    screen.until("hint.textContent.includes('Stopped after')", 20)


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_small_screens_and_screen_readers(browser: Any, served: Server, dark: bool) -> None:
    screen = Screen(browser, served, dark=dark)
    for _ in range(2):
        outside = screen.js(
            "[...document.querySelectorAll('body *')].filter((e) => e.checkVisibility()).map((e) => "
            "[e, e.getBoundingClientRect()]).filter(([e, r]) => r.width && (r.right > innerWidth + 1 || r.left < -1 || "
            "(r.bottom > innerHeight + 1 && !e.closest('aside')))).map(([e]) => e.id || e.outerHTML.slice(0, 80))"
        )
        assert not outside
        assert screen.js("document.documentElement.scrollHeight <= innerHeight")
        nameless = screen.js(
            "[...document.querySelectorAll('button, input, select, canvas, progress')].filter((e) => !(e.ariaLabel || "
            "e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).map((e) => e.outerHTML)"
        )
        assert not nameless
        screen.drag((20, 16), (44, 36))
        screen.said(1)
    screen.press("?")
    rows = screen.js("[...content.querySelectorAll('.keys div')].map((row) => row.textContent)")
    assert len(rows) > 30
    assert len(rows) == screen.js("(await import('/static/keys.js')).KEYS.length")
    screen.press("Escape")
    reached = set()
    for _ in range(60):
        screen.press("Tab")
        reached.add(screen.js("document.activeElement.id || document.activeElement.dataset.tool"))
    assert {"forwards", "backwards", "view", "timeline", "save", "undo", "box", "hand", "number", "copy"} <= reached
    ink, ground = screen.js("((c) => [c.color, c.backgroundColor])(getComputedStyle(document.body))")
    bright = [sum(map(int, tone[4:-1].split(", "))) for tone in (ink, ground)]
    assert (bright[0] > bright[1]) == dark
    screen.close()


def test_masks_and_points_are_drawn(browser: Any, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "mae.safetensors"
    torch.manual_seed(0)
    weights.save(registry.load("methods", "dropmae")(size="tiny", image=64), path)
    with Server(Page([str(clip)], Engines(str(path), {"resize": "native"}, "cpu", "fp32"), tmp_path)) as served:
        screen = Screen(browser, served)
        screen.press("g")
        for place in ((20, 20), (60, 20), (60, 50), (20, 50)):
            screen.click(*place)
        screen.press("Enter")
        mask = decode_mask(screen.said(1)["prompts"]["0"][0]["mask"])
        assert abs(int(mask.sum()) - 1200) < 60
        assert mask[35, 40]
        screen.press("m")
        screen.drag((70, 60), (80, 60))
        painted = decode_mask(screen.said(2)["prompts"]["0"][0]["mask"])
        assert painted[60, 75]
        assert painted[35, 40]
        screen.press("r", "[", "[")
        screen.drag((40, 35), (41, 35))
        erased = decode_mask(screen.said(3)["prompts"]["0"][0]["mask"])
        assert not erased[35, 40]
        assert erased[35, 58]
        screen.press("f")
        screen.followed()
        assert screen.js("s.shown(9).get(1).mask.size") == [HEIGHT, WIDTH]
        screen.press("Control+z", "Control+z", "Control+z")
        screen.said(6)
        screen.press("p", "Home")
        screen.click(30, 30)
        screen.said(7)
        screen.press("Shift")
        screen.page.keyboard.down("Shift")
        screen.drag((10, 10), (62, 36))
        screen.page.keyboard.up("Shift")
        points = screen.said(8)["prompts"]["0"][0]["points"]
        assert np.allclose(points[0], [30, 30], atol=0.6)
        assert len(points) > 2
        screen.press("f")
        screen.followed()
        x, y = screen.js("s.shown(12).get(1).points[0]")
        screen.go(12)
        screen.drag((x, y), (50, 50), (70, 60))  # a predicted point is put right
        told = screen.said(9)["prompts"]["12"][0]["points"]
        assert np.allclose(told[0], [70, 60], atol=0.8)
        assert told[1:] == [None] * (len(points) - 1)
        screen.close()


def test_outlines_are_found(browser: Any, tmp_path: Path) -> None:
    """A click, or a box, on a car in a real clip; what was found is painted on, undone, and cut out of the video."""
    page = Page([str(CAR)], Engines(None, {}, "cpu", "fp32"), tmp_path)
    with Server(page) as served:
        screen = Screen(browser, served)
        screen.shows = 456, 256
        screen.go(76)
        screen.press("d")
        screen.until("hint.textContent.includes('its outline is found')", 20)
        screen.click(215, 150)
        (line,) = screen.said(1)["prompts"]["76"]
        clicked = decode_mask(line["mask"])
        assert clicked[150, 215]
        assert 2000 < clicked.sum() < 16000
        screen.drag((160, 69), (200, 200), (268, 240))
        (line,) = screen.said(2)["prompts"]["76"]
        boxed = decode_mask(line["mask"])
        assert 8000 < boxed.sum() < 16000
        assert not boxed[:, :155].any()
        screen.press("z")
        assert decode_mask(screen.said(3)["prompts"]["76"][0]["mask"]).sum() == clicked.sum()
        screen.press("y")
        assert screen.said(4)["weights"] == "shipped:encoder"
        for _ in range(2):  # the frame itself, and the next one
            screen.press(".")
            screen.followed()
        screen.until("s.shown(77).get(1)?.mask", 60)
        assert 0.8 < decode_mask(screen.js("s.shown(77).get(1).mask")).sum() / boxed.sum() < 1.25
        screen.close()


def test_lines_of_coordinates(screen: Screen) -> None:
    """By key and by button; a line is where its number says, at any zoom."""

    def tones(x: float) -> list[int]:
        place = screen.place(x, 33)
        return screen.js(
            "((at) => [...view.getContext('2d').getImageData(at[0], at[1], 1, 1).data].slice(0, 3))"
            f"([{place[0]} - view.getBoundingClientRect().x, {place[1]} - view.getBoundingClientRect().y])"
        )

    screen.painted(0)
    before = [tones(20), tones(25)]
    screen.press("l")
    screen.until("document.getElementById('lines').ariaPressed === 'true'", 20)
    step = 10  # of 96 pixels on 670 of the screen
    screen.until("s.store.lines", 20)
    screen.painted(0)
    assert tones(2 * step) != before[0]
    assert tones(2.5 * step) == before[1]
    screen.page.get_by_role("button", name="Lines L").click()
    screen.until("document.getElementById('lines').ariaPressed === 'false'", 20)
    screen.painted(0)
    assert [tones(20), tones(25)] == before


def test_labels_are_brought(screen: Screen, tmp_path: Path) -> None:
    """A mask of the frame that is shown, then several of those in their names."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[20:40, 30:50] = 2
    for name in ("mask.png", "00008.png", "00011.png"):
        (tmp_path / name).write_bytes(label_png(mask))
    (tmp_path / "labelmap.txt").write_text(name_lines({2: "owl"}))
    screen.go(5)
    screen.page.set_input_files("#file", tmp_path / "mask.png")
    state = screen.said(1)
    assert np.array_equal(decode_mask(state["prompts"]["5"][0]["mask"]), mask > 0)
    screen.page.set_input_files("#file", [tmp_path / name for name in ("00008.png", "00011.png", "labelmap.txt")])
    state = screen.said(2)
    assert (list(state["prompts"]), state["names"]) == (["5", "8", "11"], {"2": "owl"})
    screen.until("hint.textContent.includes('3 files are read: what is said is in 3 frames.')", 20)
    screen.press("z")
    assert list(screen.said(3)["prompts"]) == ["5"]


def test_masks_are_coded_as_in_python(screen: Screen) -> None:
    rng = np.random.default_rng(0)
    for mask in (rng.integers(0, 2, (7, 5)), np.ones((3, 4)), np.zeros((2, 2)), np.eye(6)):
        height, width = mask.shape
        code = encode_mask(mask)
        made = screen.js(
            f"await import('/static/masks.js').then((m) => [[...m.decode({json.dumps(code)})], "
            f"m.encode(Uint8Array.from({mask.astype(int).ravel().tolist()}), {width}, {height})])"
        )
        assert made == [mask.astype(int).ravel().tolist(), code]


def test_files_are_taken(browser: Any, clip: Path, tracker: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("#EXTM3U\n")
    write(tmp_path / "good clip.mp4", moving_square(6), 12)
    with Server(Page([], Engines(str(tracker), {}, "cpu", "fp32"), tmp_path)) as served:
        screen = Screen(browser, served)
        screen.until("empty.textContent.includes('Drop a video here')", 20)
        screen.page.set_input_files("#file", tmp_path / "bad.mp4")
        screen.until("hint.textContent.includes('bad.mp4')  && s.store.error")
        end = time.monotonic() + 20
        while not screen.faults and time.monotonic() < end:
            screen.js("1")  # the browser notes the server's refusal, soon
        screen.faults.clear()
        screen.page.set_input_files("#file", tmp_path / "good clip.mp4")
        screen.until("s.store.work && empty.hidden")
        assert screen.js("title.textContent").startswith("good clip.mp4")
        screen.drag((20, 16), (44, 36))
        screen.said(1)
        screen.close()
