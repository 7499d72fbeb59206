"""The verb `web`: a page on which people show what to follow in a video, correct it and take it along."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from dropmae import registry
from dropmae.contracts import Precision
from dropmae.loading import load_task
from dropmae.page import recording
from dropmae.training import distributed
from dropmae.video import Video, find, is_live


def web(
    video: str | None = None,
    *,
    weights: str | None = None,
    set: tuple[str, ...] = (),
    port: int = 0,
    browser: bool = True,
    device: str = "auto",
    precision: Precision = "auto",
) -> None:
    """Open a page in the browser: draw a box, paint a mask or click points, follow, correct, save.

    The page is served on this machine alone (127.0.0.1), by an address that holds a secret, which is printed; nothing
    leaves the machine. It runs until it is interrupted (Ctrl-C); save what should be kept.

    Args:
        video: a video file, a folder of images, a folder of videos to choose from, or a camera by its number (0), which
            is recorded as long as you like; without it, the page takes files.
        weights: a weight file or run folder, as for `track`; by default what fits what is shown.
        set: name=value of the task's settings, of those that may change after training.
        port: of 127.0.0.1; 0 takes a free one.
        browser: open the page; --no-browser prints its address only.
        device: auto, cpu, cuda or cuda:N.
        precision: as for `track`.
    """
    if not 0 <= port < 2**16:
        raise ValueError(f"port is a number from 0 to 65535, not {port}")
    settings, server = registry.assignments(set), serving()
    distributed.pick_device(device)
    if weights is not None and settings:
        load_task(weights, settings=settings)  # a wrong one is said now, and not on the page
    server.serve(videos_of(video), weights, settings, port, browser, device, precision)


def videos_of(video: str | None) -> list[str]:
    """What a path names: itself, or the videos below a folder that is none of images.

    OSError where it is a camera that there is not.
    """
    if video is None:
        return []
    if is_live(video):
        recording.open_camera(video).close()
        return [video]
    found = find(video)
    if found == [Path(video)]:
        Video(video).close()
    if not found:
        raise FileNotFoundError(f"{video}: holds no video")
    return [str(path) for path in found]


def serving() -> Any:
    """The server, which needs packages that not everybody has."""
    try:
        return importlib.import_module("dropmae.page.serving")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("starlette", "uvicorn", "anyio"):
            raise
        raise OSError(f"the page needs {error.name}: pip install 'dropmae[web]'") from None
