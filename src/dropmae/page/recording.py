"""A camera that is being recorded: a thread takes its frames as they come, until somebody stops it or it must end."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dropmae.names import printable
from dropmae.video import Video
from dropmae.video.tape import Tape

BYTES, FRAMES = 2 << 30, 200_000
"""Most bytes and frames that are recorded."""
SHARE = 0.5
"""Of the room on the disk that a recording may take."""
FIRST = 20.0
"""Seconds in which a camera has to give its first frame."""
SILENT = 5.0
"""Seconds without a frame after which the page says so."""
AWAY = 60.0
"""Seconds after which a recording ends that no page looks at."""
WAIT = 0.2
"""Seconds that somebody who waits for a frame waits at once."""


def open_camera(source: str) -> Any:
    """The one place where a camera is opened: something to iterate over for frames, with `fps` and `close`.

    OSError in one line where there is none.
    """
    return Video(source)


def camera_name(source: str) -> str:
    """What a camera is called: by its number; a stream by its address, without passwords, as the name of a file."""
    if source.isdecimal():
        return f"camera {source}"
    parts = urlsplit(source)
    return printable(f"{parts.hostname}{parts.path}".strip("/").replace("/", "-").replace(".", "-"))


class Recording:
    """A live source and the tape that its frames are put on, by a thread of its own, from the first frame on."""

    def __init__(self, source: str, folder: Path) -> None:
        """Waits for the first frame; OSError in one line where none comes. The tape is on the disk of `folder`."""
        self.source, self.name, self.folder = source, camera_name(source), folder
        self.limit = min(BYTES, int(SHARE * shutil.disk_usage(folder).free))
        self.tape: Any = None
        """Has a frame at least."""
        self.ended: str | None = None
        """Why nothing is recorded any more; None as long as it is."""
        self.fault: OSError | None = None
        """Why there never was a frame."""
        self.came = threading.Condition()
        self.wanted, self.watched, self.latest = True, time.monotonic(), time.monotonic()
        self.thread = threading.Thread(target=self.run, name=self.name, daemon=True)
        self.thread.start()
        with self.came:
            self.came.wait_for(lambda: self.tape is not None or self.ended is not None, FIRST)
        if self.tape is None:
            self.wanted = False
            silent = f"it gave no picture within {FIRST:g} seconds" if self.ended is None else "it gave no picture"
            raise self.fault or OSError(f"{self.name}: {silent}")

    @property
    def on(self) -> bool:
        """Whether frames are still coming."""
        return self.ended is None

    def run(self) -> None:
        """Opens the camera and records until the end; what happens to it is the reason why it ended."""
        reason, camera = f"{self.name} gives no more frames", None
        try:
            camera = open_camera(self.source)
            begun = None
            for frame in camera:
                now = time.monotonic()
                begun = now if begun is None else begun
                if not self.wanted:
                    reason = "you stopped it"
                    break
                tape = self.tape
                if tape is None:
                    tape = Tape(self.folder, self.name, *frame.shape[:2], fps=camera.fps)
                tape.add(frame, now - begun)
                with self.came:
                    self.tape = tape  # once there is a frame on it
                    self.latest = now
                    self.came.notify_all()
                if reason := self.must_end(now):
                    break
                reason = f"{self.name} gives no more frames"
        except (OSError, ValueError, MemoryError) as error:
            told = str(error)
            if not self.source.isdecimal():  # an address, which may hold a password
                told = told.replace(self.source, self.name)
            told = " ".join(told.split())
            reason = printable(told) or f"{self.name}: there is not enough memory"
            self.fault = OSError(reason)
        finally:
            if camera is not None:
                camera.close()
            with self.came:
                self.ended = reason
                self.came.notify_all()

    def must_end(self, now: float) -> str:
        """Why a recording may not go on; empty where it may."""
        if self.tape.used >= self.limit:
            return f"it has the {self.limit >> 20:,} MB that a recording may have"
        if len(self.tape) >= FRAMES:
            return f"it has the {FRAMES:,} frames that a recording may have"
        if now - self.watched > AWAY:
            return f"no page has looked at it for {AWAY:.0f} seconds"
        return ""

    def stop(self) -> None:
        """Ends it, with the next frame at the latest, or at once where none comes."""
        self.wanted = False
        self.thread.join(2)
        with self.came:
            if self.ended is None:  # the camera is silent: its thread ends when it speaks, and adds nothing
                self.ended = "you stopped it"
                self.came.notify_all()

    def newer(self, number: int) -> int | None:
        """The number of the newest frame after `number`; `number` where none came soon, None where none will."""
        with self.came:
            self.came.wait_for(lambda: len(self.tape) > number + 1 or self.ended is not None, WAIT)
            newest = len(self.tape) - 1
            return newest if newest > number else number if self.ended is None else None

    def state(self) -> dict[str, Any]:
        """What the page shows of it; who asks is looking."""
        now = self.watched = time.monotonic()
        silent = now - self.latest
        return {
            "frames": len(self.tape),
            "fps": round(self.tape.fps, 3),
            "seconds": round(self.tape.seconds, 3),
            "bytes": self.tape.used,
            "limit": self.limit,
            "silent": round(silent) if self.on and silent > SILENT else 0,
            "ended": self.ended,
        }

    def close(self) -> None:
        """Ends it and forgets all frames."""
        self.stop()
        self.tape.erase()
