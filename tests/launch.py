"""`python -m dropmae WORDS` for tests, without the seconds that importing PyTorch takes each time.

The first command starts a process that imports what commands import, and every command is a fork of it: a process of
its own, with its own number, files, environment and signals, which runs the module as the interpreter's `-m` does.
What tests get back is used as `subprocess.Popen` is. Where a process cannot be forked safely (not Linux, or a GPU in
use), or a command asks for another interpreter (a variable PYTHON...), it is a plain subprocess.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import cache
from pathlib import Path
from typing import IO, Any

PYTHON = [sys.executable, "-m", "dropmae"]
WARM = ("pretrain", "finetune", "prepare", "track", "evaluate")
"""Verbs whose modules are imported before the first fork."""
LATER = ("torch._dynamo", "matplotlib.backends.backend_svg")
"""What optimizers and charts import when they are first used."""
LONGEST = 1 << 20
"""Bytes of a request, most of which are the environment."""


class Forked:
    """A command that runs in a fork: what tests use of `subprocess.Popen`, with text for streams."""

    def __init__(self, words: list[str], answers: socket.socket, out: IO[str] | None, err: IO[str] | None) -> None:
        self.args, self.stdout, self.stderr = words, out, err
        self.returncode: int | None = None
        self._answers = answers
        data, files, *_ = socket.recv_fds(answers, LONGEST, 1)
        if not files:
            raise OSError(f"the process that starts commands is gone: {words}")
        self.pid: int = int(data)
        self._handle = files[0]  # stands for this very process, also when it is gone

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._answers], [], [], timeout)[0]:
            data = self._answers.recv(LONGEST)
            if not data:
                raise OSError(f"the process that starts commands is gone: {self.args}")
            self.returncode = os.waitstatus_to_exitcode(int(data))
            self._answers.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What is still to be read of both streams, once they and the process have ended."""
        until = None if timeout is None else time.monotonic() + timeout
        read = ["", ""]

        def collect(place: int, stream: IO[str]) -> None:
            read[place] = stream.read()
            stream.close()

        streams = [(place, one) for place, one in enumerate((self.stdout, self.stderr)) if one and not one.closed]
        readers = [threading.Thread(target=collect, args=one, daemon=True) for one in streams]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if until is None else max(0.0, until - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(None if until is None else max(0.0, until - time.monotonic()))
        return read[0], read[1]

    def __del__(self) -> None:
        self._answers.close()
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._handle)


Process = Forked | subprocess.Popen[str]


def start(
    words: list[str],
    *,
    env: dict[str, str] | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    start_new_session: bool = False,
) -> Process:
    """Starts `dropmae WORDS`; `stdout` and `stderr` are None, PIPE or DEVNULL."""
    wanted = dict(os.environ if env is None else env)
    server, _ = _server()
    if server is None or _interpreter(wanted) != _interpreter(os.environ):
        return subprocess.Popen(
            [*PYTHON, *words], env=wanted, stdout=stdout, stderr=stderr, text=True, start_new_session=start_new_session
        )
    request = json.dumps([words, os.getcwd(), wanted, start_new_session]).encode()
    with contextlib.ExitStack() as stack:
        nothing = os.open(os.devnull, os.O_RDWR)
        stack.callback(os.close, nothing)
        ends, given = list[IO[str] | None](), [nothing]
        for number, asked in ((1, stdout), (2, stderr)):
            if asked != subprocess.PIPE:
                ends.append(None)
                given.append(number if asked is None else nothing)
                continue
            mine, its = os.pipe()
            ends.append(os.fdopen(mine, encoding="utf-8"))
            stack.callback(os.close, its)
            given.append(its)
        answers, its_answers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.callback(its_answers.close)
        socket.send_fds(server, [request], [*given, its_answers.fileno()])
    return Forked(words, answers, *ends)


def run(
    words: list[str], *, env: dict[str, str] | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `dropmae WORDS` to its end and captures what it prints."""
    process = start(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(words, process.wait(), out, err)


def _interpreter(environment: Any) -> dict[str, str]:
    """What of an environment an interpreter reads when it starts."""
    return {name: value for name, value in environment.items() if name.startswith("PYTHON")}


@cache
def _server() -> tuple[socket.socket | None, subprocess.Popen[bytes] | None]:
    """The socket of the process from which commands are forked, and the process; it ends when this one does."""
    if sys.platform != "linux":
        return None, None
    import torch

    if torch.cuda.is_available():
        return None, None
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    line = [sys.executable, str(Path(__file__).resolve()), str(its.fileno())]
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(line, env=environment, pass_fds=[its.fileno()], stdin=nothing, stdout=nothing)
    its.close()
    return mine, process


# ------------------------------------------------------------ the process that is forked


def serve(requests: socket.socket) -> list[str]:
    """Forks for each request; returns only in a fork, which is to run the words that are given then."""
    running: dict[int, tuple[int, socket.socket]] = {}  # handle of a process: its number, and who asked for it
    asks = requests.fileno()
    while True:
        for ready in select.select([asks, *running], [], [])[0]:
            if ready != asks:
                pid, answers = running.pop(ready)
                os.close(ready)
                with contextlib.suppress(OSError), answers:
                    answers.send(str(os.waitpid(pid, 0)[1]).encode())
                continue
            data, files, *_ = socket.recv_fds(requests, LONGEST, 4)
            if not data:
                sys.exit()
            assert len(os.listdir("/proc/self/task")) == 1, "the locks of threads would stay closed in a fork"
            pid = os.fork()
            if not pid:
                for handle, (_, answers) in running.items():
                    os.close(handle)
                    answers.close()
                requests.close()
                os.close(files.pop())
                words, folder, environment, session = json.loads(data)
                become(folder, environment, session, files)
                return words
            answers = socket.socket(fileno=files.pop())
            for file in files:
                os.close(file)
            handle = os.pidfd_open(pid)
            running[handle] = pid, answers
            with contextlib.suppress(OSError):
                socket.send_fds(answers, [str(pid).encode()], [handle])


def become(folder: str, environment: dict[str, str], session: bool, files: list[int]) -> None:
    """Makes this fork what a new interpreter would be: in that folder, on those files for 0, 1 and 2."""
    import numpy as np
    import torch

    if session:
        os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    tempfile.tempdir = None  # so that it is looked for in this environment
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__ = (
        os.fdopen(0, encoding="utf-8", closefd=False),
        os.fdopen(1, "w", encoding="utf-8", closefd=False),
        os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False),
    )
    np.random.seed()  # noqa: NPY002 (Python draws anew after a fork, and PyTorch begins in the same place as ever)
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", "1")))


def warm(socket_number: int) -> list[str]:
    """Imports what commands import, then serves; returns in a fork, with the words of its command."""
    import gc
    import importlib

    import dropmae.cli

    for name in (*(f"dropmae.{dropmae.VERBS[verb]}" for verb in WARM), *LATER):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that a fork does not copy what it only looks through
    return serve(socket.socket(fileno=socket_number))


def main(socket_number: int) -> None:
    """Serves; in a fork, runs the module as `-m` does and ends without taking down what was imported."""
    import atexit
    import runpy

    codes = list[int]()

    def end() -> None:
        """Runs last of all, after what others do at exit, since it is registered first."""
        if codes:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(codes[0])

    atexit.register(end)
    sys.argv = ["-m", *warm(socket_number)]
    try:
        runpy.run_module("dropmae", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if isinstance(error.code, int):
            codes.append(error.code & 0xFF)
        raise


if __name__ == "__main__":
    main(int(sys.argv[1]))
