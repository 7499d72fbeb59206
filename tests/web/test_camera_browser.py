"""The page with a camera in a real browser: live pictures, a box on one of them, and a video in the end."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from dropmae.page.server import Server
from samples import SQUARE
from test_camera import Camera, camera, served
from test_page import Slow, tracker
from test_page_browser import CHROMIUM, Screen, browser

__all__ = ["browser", "camera", "served", "tracker"]

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here: apt-get install chromium; the page is untested"
)


def test_a_camera_is_followed_while_it_is_recorded(
    browser: Any, served: Server, camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera.fps = 10
    screen = Screen(browser, served)
    assert screen.js("title.textContent").startswith("camera 0")
    screen.until("s.recording() && s.store.frame > 3", 20)
    screen.until("hint.textContent.includes('The picture waits for you')", 20)
    told = screen.js("document.getElementById('recorded').textContent")
    assert "frames" in told
    assert "MB" in told
    screen.until("s.store.frames.kept.has(s.store.frame)", 20)
    x, y, w, h = SQUARE
    screen.drag((x, y), (x + 9, y + 9), (x + w, y + h))
    state = screen.said(1)
    ((frame, (line,)),) = state["prompts"].items()
    assert np.allclose(line["box"], SQUARE, atol=0.8)
    held = int(frame)
    assert screen.js("s.store.frame") == held  # the picture waits, and the recording goes on
    before = screen.js("s.store.work.frames")
    screen.until(f"s.store.work.frames > {before + 3}", 20)
    assert screen.js("s.store.frame") == held
    engine = served.page.engines.get(state["weights"])
    monkeypatch.setattr(engine.task, "step", Slow(engine.task, 0.25))
    screen.press("f")
    screen.until(f"s.store.running && s.store.frame > {held + 8}", 30)
    screen.until("/: [0-9.]+ of/.test(document.getElementById('told').textContent)", 20)
    rate, _, rest = screen.js("document.getElementById('told').textContent").partition(": ")[2].partition(" of ")
    assert 0 < float(rate) < 7  # a step takes a quarter of a second, and frames a tenth
    assert rest.endswith(" frames/s are followed")
    assert screen.js("s.store.running.way") == "live"
    assert screen.js("s.store.work.frames - s.store.frame") < 10  # it keeps up
    screen.press("Escape")
    screen.followed()
    followed = screen.js("Object.keys(s.store.scores).map(Number)")
    assert followed[0] == held
    assert len(followed) < followed[-1] - held + 1
    screen.until("hint.textContent.includes('came too fast')", 20)
    screen.page.reload()
    screen.rounds = 0
    screen.until("s.recording() && Object.keys(s.store.scores).length > 1", 20)
    screen.press("Home", "End")
    now = screen.js("s.store.frame")
    screen.until(f"s.store.frame > {now + 2}", 20)
    screen.press("t")
    screen.until("!s.recording() && hint.textContent.includes('as you stopped it')", 20)
    assert screen.js("document.getElementById('live').hidden")
    count = screen.js("s.store.work.frames")
    time.sleep(0.3)
    assert screen.js("s.store.work.frames") == count
    monkeypatch.undo()
    screen.go(held)
    screen.press("f")
    screen.followed()
    assert screen.js("Object.keys(s.store.scores).length") == count - held
    screen.press("s")
    with screen.page.expect_download() as download:
        screen.page.get_by_role("button", name="Save .recorded.mov", exact=True).click()
    assert download.value.suggested_filename == "camera 0.recorded.mov"
    screen.close()
