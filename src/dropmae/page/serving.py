"""Opening the page from the command line: for work, or for one question."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import CancelledError
from typing import Any

import numpy as np

from dropmae.contracts import Precision
from dropmae.interruption import Interrupted
from dropmae.page.prompts import KINDS
from dropmae.page.server import Page, Server
from dropmae.page.work import Engines
from dropmae.progress import say
from dropmae.storage import workspace
from dropmae.target import Target


def serve(
    videos: list[str],
    spec: str | None,
    settings: dict[str, Any],
    port: int,
    browser: bool,
    device: str,
    precision: Precision,
) -> None:
    """Serves the page until it is interrupted."""
    engines = Engines(spec, settings, device, precision)
    if spec is not None:
        engines.takes(spec)
        engines.get(spec)
    with workspace("web") as folder, Server(Page(videos, engines, folder), port) as server:
        threading.Thread(target=warm_up, args=(server.page,), name="warming", daemon=True).start()
        say("the page is served on this machine alone, until Ctrl-C; its address:")
        try:
            server.wait(browser)
        except Interrupted as error:
            say("the page is closed")
            if error.code != 130:  # Ctrl-C is how it ends
                raise


def pick(video: str, frame: int, browser: bool = True) -> dict[int, Target]:
    """What people show on the page to be followed in a video, {frame: Target}; `frame` is shown first."""
    engines = Engines(None, {}, "cpu", "auto")
    with workspace("web") as folder, Server(Page([video], engines, folder, question=frame)) as server:
        say("show on the page what to follow, then press Enter there; its address:")
        server.wait(browser)
        return server.page.answer or {}


def warm_up(page: Page) -> None:
    """Makes all that is likely to be used ready, one after the other, and never before what somebody waits for."""
    with contextlib.suppress(RuntimeError, CancelledError):  # the page is closed
        for kind in KINDS:
            while page.queue:
                time.sleep(0.1)
            page.torch.submit(warm, page.engines, kind).exception()  # whoever follows is told of it


def warm(engines: Engines, kind: str) -> None:
    """Loads what is likely to be used and goes through two frames with it: the first ones take longer than others."""
    spec = engines.called(kind)
    if spec is None or kind not in engines.takes(spec) or (spec in engines.made and engines.spec is None):
        return
    picture = np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    told: dict[str, Any] = {
        "boxes": np.array([[100.0, 80.0, 60.0, 60.0]]),
        "mask": np.pad(np.ones((60, 60), np.uint8), ((80, 100), (100, 160))),
        "points": np.array([[100.0, 80.0]]),
    }
    session = engines.get(spec).session({0: Target(ids=np.array([1]), **{kind: told[kind]})})
    for number in range(2):
        session.push(number, picture)
