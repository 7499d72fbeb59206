"""Being stopped by a signal, the same for every verb: what was done is kept, it is said, and the same command goes on.

SIGINT (Ctrl-C), SIGTERM (Slurm, kubernetes), SIGUSR1 (Slurm's warning before a requeue) and SIGHUP (the terminal is
gone) all mean: stop. SIGHUP does not where it was ignored before, by nohup. `cli.main` turns them into `Interrupted`,
wherever a verb is. A verb that has something to put in order first works in a `Stop`, looks at `asked` where it can
stop, and raises `Interrupted` with what it has kept. Processes that work for a verb ignore the signals (`serve`), since
a terminal or a job's end sends them to all: the main process decides, and they end with it.
"""

from __future__ import annotations

import _thread
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import connection
from types import FrameType
from typing import Any

from dropmae import machine

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
AGAIN = 2.0
"""Seconds after which a second Ctrl-C ends the work where it is; a launcher sends one signal several times at once."""
PATIENCE = 60
"""Seconds after which a process that serves ends after a SIGTERM, should nobody have ended it before."""


class Interrupted(KeyboardInterrupt):
    """The work was stopped by a signal; the text says what was kept."""

    def __init__(self, number: int = signal.SIGINT, kept: str = "") -> None:
        super().__init__(kept)
        self.number, self.kept = int(number), kept

    @property
    def code(self) -> int:
        """The exit code that shells give: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


class Stop:
    """A context in which signals are noted and change nothing else; `asked` is the first one's number, or 0.

    Within `at_once()`, work that may be cut off anywhere, the signal raises `Interrupted`. `urgent` makes all of it so.
    Only the main thread of a process gets signals: elsewhere nothing is ever asked. Where one comes within a
    destructor, out of which nothing can be raised, it comes again a moment later. `waiting` is called where the work
    goes on for longer than a moment.
    """

    def __init__(self, *, urgent: bool = False, waiting: Callable[[], None] | None = None) -> None:
        self.waiting = waiting
        self.timer: threading.Timer | None = None
        self.asked, self.since = 0, 0.0
        self.urgent = int(urgent)
        self.again = False
        self.old: dict[int, Any] = {}
        self.hook: Any = None

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number != getattr(signal, "SIGHUP", 0) or signal.getsignal(number) != signal.SIG_IGN:
                    self.old[number] = signal.signal(number, self._note)
            self.hook, sys.unraisablehook = sys.unraisablehook, self._dropped
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if self.hook is not None:
            sys.unraisablehook = self.hook
        self.old, self.hook = {}, None
        if self.timer is not None:
            self.timer.cancel()

    def _dropped(self, lost: Any) -> None:
        if isinstance(lost.exc_value, Interrupted):
            self.again = True
            threading.Timer(0.01, _signal_main, (lost.exc_value.number,)).start()
        elif self.hook is not None:
            self.hook(lost)

    def _note(self, number: int, frame: FrameType | None) -> None:
        impatient = self.asked and number == signal.SIGINT and time.monotonic() - self.since > AGAIN
        again, self.again = self.again, False
        if not self.asked:
            self.asked, self.since = number, time.monotonic()
            if self.waiting is not None and not self.urgent:
                self.timer = threading.Timer(AGAIN, self.waiting)
                self.timer.daemon = True
                self.timer.start()
        elif not impatient and not again:
            return
        if self.urgent or impatient:
            raise Interrupted(self.asked)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Work that a signal, also one that came before, cuts off."""
        self.urgent += 1
        try:
            self.check()
            yield
        finally:
            self.urgent -= 1

    def check(self, kept: str = "") -> None:
        """Raises `Interrupted` if a signal came."""
        if self.asked:
            raise Interrupted(self.asked, kept)


def _signal_main(number: int) -> None:
    """Sends this process's main thread a signal, which wakes it where the system can."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(int(threading.main_thread().ident or 0), number)
    else:
        _thread.interrupt_main(signal.Signals(number))


class Whole:
    """A context whose block is not broken into by the news that a helper died, which PyTorch raises at any moment."""

    def __init__(self) -> None:
        self.number = getattr(signal, "SIGCHLD", None)
        self.handler: Any = None
        self.inside, self.missed = False, False

    def watch(self) -> None:
        """Stands between PyTorch's handler, which is there once there are data processes, and the signal."""
        if self.number is not None and threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(self.number)
            if callable(handler):
                self.handler = handler
                signal.signal(self.number, self._told)

    def close(self) -> None:
        if self.handler is not None and self.number is not None:
            signal.signal(self.number, self.handler)
            self.handler = None

    def _told(self, number: int, frame: FrameType | None) -> None:
        self.missed = self.inside
        if not self.inside:
            self.handler(number, frame)

    def __enter__(self) -> None:
        self.inside = True

    def __exit__(self, *_: object) -> None:
        self.inside = False
        if self.missed and self.handler is not None:
            self.missed = False
            self.handler(self.number, None)


@contextlib.contextmanager
def withheld() -> Iterator[None]:
    """Processes that are started in the block get signals once they `serve`, and not while they import."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker  # of systems with such signals

    resource_tracker.ensure_running()  # it lets the signals through when it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _let_through() -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


class Pool(ProcessPoolExecutor):
    """Processes whose initializer calls `serve`, for `working`."""

    def submit(self, *arguments: Any, **named: Any) -> Future[Any]:
        with withheld():
            return super().submit(*arguments, **named)


def serve() -> None:
    """Makes this process one that works for another: it ignores the signals, and ends when the other is gone."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _let_through()
    machine.die_with_parent()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def serve_data(_: int = 0) -> None:
    """As `serve`, for a data process, which PyTorch's loader watches and ends by SIGTERM."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave_later)
    _let_through()
    machine.die_with_parent()


def _leave_later(number: int, _: FrameType | None) -> None:
    """The first SIGTERM may have gone to all of a job's processes; a second one is meant."""
    signal.signal(number, signal.SIG_DFL)
    machine.end_in(PATIENCE)


def _watch(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


@contextlib.contextmanager
def working(pool: Pool) -> Iterator[Pool]:
    """A pool of serving processes; where its block fails, they are ended at once instead of after their work."""
    try:
        with pool:
            try:
                yield pool
            except BaseException:
                for worker in list((getattr(pool, "_processes", None) or {}).values()):
                    worker.kill()
                raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """The end of a data process raises nothing in the block: PyTorch's handler of the signal that tells it does."""
    told = getattr(signal, "SIGCHLD", None)
    if told is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(told, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(told, before)
