"""Progress of long work: a bar on a terminal, plain lines elsewhere; always on stderr.

Work goes on where nobody can be told any more: a terminal that was closed, a pipe whose reader has left.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

from dropmae.names import printable

LINE_SECONDS = 10.0


def say(*lines: str) -> None:
    """One message for people, in one or more lines, in which nothing can be that a terminal would obey."""
    with contextlib.suppress(OSError):
        print(*map(printable, lines), sep="\n", file=sys.stderr, flush=True)


class Progress:
    """Shows the step, the metrics and the time left; on a terminal as a bar, elsewhere a line every ten seconds."""

    def __init__(
        self,
        total: int,
        done: int = 0,
        *,
        unit: str = "step",
        enabled: bool = True,
        say: Callable[[str], None] = say,
    ) -> None:
        """`unit` is what is counted: step, frame, sequence."""
        self.total, self.first, self.unit, self.enabled, self.say = total, done, unit, enabled, say
        self.started = self.shown = time.perf_counter()
        self.bar: Any = None
        if enabled and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = BarColumn(bar_width=24), TextColumn("{task.description}")
            self.bar = Progress(*columns, console=Console(stderr=True), transient=False)
            self.task = self.bar.add_task("", total=total, completed=done)
            with contextlib.suppress(OSError):
                self.bar.start()

    def show(self, step: int, values: dict[str, Any], samples_per_step: int = 0) -> None:
        """Shows where the work is; elsewhere than on a terminal at most every ten seconds, and at the end."""
        now = time.perf_counter()
        if not self.enabled or not (self.bar or step == self.total or now - self.shown > LINE_SECONDS):
            return
        self.shown = now
        pace = (now - self.started) / max(step - self.first, 1)
        parts = [f"{self.unit} {step}/{self.total}"]
        if values.get("loss") is not None:
            parts.append(f"loss {values['loss']:.4f}")
        if "lr" in values:
            parts.append(f"lr {values['lr']:.2e}")
        if samples_per_step:
            parts.append(f"{samples_per_step / pace:.0f} clips/s")
        if "data_wait" in values:
            parts.append(f"data wait {values['data_wait']:.0%}")
        if "memory_mb" in values:
            parts.append(f"{values['memory_mb']:.0f} MB")
        parts.append(f"{duration_text(pace * (self.total - step))} left")
        text = "  ".join(parts)
        if self.bar:
            with contextlib.suppress(OSError):
                self.bar.update(self.task, completed=step, description=text)
        else:
            self.say(text)

    def close(self) -> None:
        if self.bar:
            with contextlib.suppress(OSError):
                self.bar.stop()


def duration_text(seconds: float) -> str:
    """A duration for people: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
