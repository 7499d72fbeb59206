"""Stopped by a signal: what was done is kept, it is said, and the same command goes on."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import launch
from dropmae import interruption, machine
from dropmae.cli import main
from dropmae.data import clips
from dropmae.interruption import Interrupted, Pool, Stop, serve, working
from dropmae.progress import Progress, say
from dropmae.training.fit import explained
from dropmae.video import Video, write


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for number in range(3):
        frames = np.random.default_rng(number).integers(0, 255, (12, 64, 64, 3)).astype(np.uint8)
        write(root / f"{number}.mp4", frames, 10)
    return root


def start(words: list[str]) -> launch.Process:
    """A process in a group of its own, as a terminal and a job have."""
    return launch.start(words, stderr=subprocess.PIPE, start_new_session=True)


def wait_for(what: Callable[[], bool], process: launch.Process, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def filled(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def training(videos: Path, out: Path, *more: str) -> list[str]:
    size = ["--size", "tiny", "--image", "32", "--global-batch", "2"]
    steps = ["--steps", "4000", "--save-every", "4000"]
    return ["pretrain", "mae", str(videos), "--out", str(out), *size, *steps, *more]


def living(group: int) -> list[str]:
    """Processes of a group that are there and are not just waiting to be forgotten."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        words = machine._stat(int(path.name))
        if len(words) > 2 and int(words[2]) == group and words[0] != "Z":
            found.append(path.name)
    return found


def steps(out: Path) -> int:
    return len((out / "metrics.jsonl").read_text().splitlines())


# ------------------------------------------------------------ the rule


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_is_noted_once_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Stop() as stop:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert stop.asked == number
        with pytest.raises(Interrupted, match="two files") as caught:
            stop.check("two files")
        assert caught.value.code == 128 + number
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(("seconds", "told"), [(0.4, ["waits"]), (0.0, [])])
def test_who_waits_for_long_is_told(seconds: float, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a large network on a CPU takes minutes, in which a first Ctrl-C seemed to do nothing."""
    monkeypatch.setattr(interruption, "AGAIN", 0.1)
    said: list[str] = []
    with Stop(waiting=lambda: said.append("waits")) as stop:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(seconds)
    time.sleep(0.2)
    assert stop.asked == signal.SIGTERM
    assert said == told


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.asked
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("terminal", [False, True])
def test_work_goes_on_where_nobody_can_be_told(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that was closed, or `2>&1 | head`: what is written there is lost, and nothing else."""

    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(5, "Input/output error") if terminal else BrokenPipeError(32, "Broken pipe")

        def isatty(self) -> bool:
            return terminal

    monkeypatch.setattr("sys.stderr", Gone())
    progress = Progress(2)
    progress.show(1, {})
    progress.show(2, {})
    progress.close()
    say("done")
    assert main(["info", "nowhere.mp4"]) == 1


def test_what_may_be_cut_off_is() -> None:
    with Stop() as stop:
        with pytest.raises(Interrupted):
            sleep_at_once(stop)
        with pytest.raises(Interrupted):
            stop.at_once().__enter__()


def sleep_at_once(stop: Stop) -> None:
    with stop.at_once():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def test_a_signal_within_a_destructor_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing can be raised out of it: Python writes a traceback and goes on."""

    class Slow:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(100):
                pass

    def work() -> None:
        slow = Slow()
        del slow
        for _ in range(1000):
            time.sleep(0.01)

    hook = sys.unraisablehook
    with pytest.raises(Interrupted) as caught, Stop(), Stop(urgent=True):
        work()
    assert caught.value.code == 143
    assert sys.unraisablehook is hook
    assert capsys.readouterr().err == ""


def test_a_pool_ignores_signals_and_ends_at_once() -> None:
    pool, workers = Pool(1, get_context("spawn"), serve), []

    def work() -> None:
        with working(pool):
            pool.submit(_sleep, 0).result()
            workers.extend((pool._processes or {}).values())
            os.kill(workers[0].pid, signal.SIGTERM)
            pool.submit(_sleep, 0).result()
            pool.submit(_sleep, 3600)
            raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted):
        work()
    assert not workers[0].is_alive()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_signal_waits_until_a_process_serves(method: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A terminal's Ctrl-C reaches those too that are still importing."""
    with Stop(), working(Pool(1, get_context(method), serve)) as pool:
        done = pool.submit(_sleep, 0.1)
        for _ in range(20):
            for pid in list(pool._processes or ()):
                os.kill(pid, signal.SIGINT)
                os.kill(pid, signal.SIGTERM)
            time.sleep(0.01)
        done.result()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "want of memory"),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", "want of memory"),
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...", "docker run --shm-size"),
        (
            "Caught RuntimeError in DataLoader worker process 0.\nTraceback ...\nRuntimeError: unable to write to file "
            "</torch_1_2_3>: No space left on device (28)\n",
            "--workers 0",
        ),
        (
            "Caught OSError in DataLoader worker process 0.\nTraceback\nOSError: 10 videos in a row",
            "10 videos in a row",
        ),
    ],
)
def test_what_befalls_data_processes_is_told_in_a_line(text: str, says: str) -> None:
    told = explained(RuntimeError(text), 2)
    assert told is not None
    assert says in told
    assert "\n" not in told
    assert explained(RuntimeError("CUDA error"), 2) is None
    for error in (ConnectionResetError(104, "Connection reset by peer"), EOFError()):
        assert "data process was killed" in str(explained(error, 2)), "it was about to hand over a batch"
        assert explained(error, 0) is None, "a store that is read by this process"


# ------------------------------------------------------------ the verbs


@pytest.mark.parametrize("workers", ["0", "2"])
def test_training_keeps_its_step(videos: Path, tmp_path: Path, workers: str) -> None:
    """SIGTERM to all processes of the job, as Slurm sends it."""
    out = tmp_path / "run"
    process = start(training(videos, out, "--workers", workers))
    wait_for(lambda: filled(out / "metrics.jsonl"), process)
    os.killpg(process.pid, signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 143, told
    assert f"step {steps(out)} of 4000 is saved in {out}, and the same command goes on from there" in told
    assert (out / "last.safetensors").exists()
    assert not (out / ".lock").exists()
    reached = steps(out)
    process = start(training(videos, out, "--workers", workers))
    wait_for(lambda: steps(out) > reached, process)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"step {reached} of 4000" in told
    rows = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(1, len(rows) + 1))


def test_a_killed_data_process_costs_nothing(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [*launch.PYTHON, *training(videos, out, "--workers", "1")]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: filled(out / "metrics.jsonl"), process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("this system does not list a process's children")
    names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children.read_text().split()}
    own = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    worker = next(int(pid) for pid, line in names.items() if line == own)
    os.kill(worker, signal.SIGKILL)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1, told
    assert "a data process was killed, perhaps for want of memory" in told
    assert "is saved in" in told
    assert (out / "resume" / "state.safetensors").exists()


def test_ranks_stop_together(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dropmae"]
    words = [*launcher, *training(videos, out, "--workers", "1")]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: filled(out / "metrics.jsonl"), process, 240)
    process.terminate()
    _, told = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"step {steps(out)} of 4000 is saved" in told
    assert (out / "resume" / "state.safetensors").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_tracking_keeps_what_it_found(number: signal.Signals, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (600, 96, 128, 3)).astype(np.uint8)
    np.save(tmp_path / "clip.npy", frames)
    out = tmp_path / "out.mp4"
    words = ["track", str(tmp_path / "clip.npy"), "--box", "30", "30", "40", "40", "--out", str(out)]
    process = start(words)
    wait_for(lambda: any(filled(path) for path in tmp_path.glob(".out.jsonl.*.partial")), process)
    os.killpg(process.pid, number)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 128 + number, told
    count = len(out.with_suffix(".jsonl").read_text().splitlines())
    assert 0 < count < 600
    assert f"{count} of 600 frames are in {out}" in told
    assert len(Video(out)) == count
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.npy", "out.jsonl", "out.mp4"]
    done = launch.run([*words, "--stop", "5"])
    assert done.returncode == 0, done.stderr
    assert len(Video(out)) == 5


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos that take a while to encode."""
    root = tmp_path_factory.mktemp("noise")
    for number in range(12):
        frames = np.random.default_rng(number).integers(0, 255, (60, 96, 128, 3)).astype(np.uint8)
        write(root / f"{number}.mp4", frames, 10)
    return root


@pytest.mark.parametrize("group", [True, False])
def test_preparing_goes_on(group: bool, noise: Path, tmp_path: Path) -> None:
    words = ["prepare", str(noise), str(tmp_path / "out"), "--short-side", "64", "--workers", "2"]
    process = start(words)
    journal = tmp_path / "out" / "prepare.jsonl"
    wait_for(lambda: filled(journal) and len(journal.read_text().splitlines()) > 2, process)
    if group:
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
    _, told = process.communicate(timeout=120)
    assert process.returncode == 143, told
    assert "of 12 videos are done, and the same command continues" in told
    assert "crashes" not in told
    deadline = time.monotonic() + 30
    while left := living(process.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    done = launch.run(words)
    assert done.returncode == 0, done.stderr
    assert "12 videos" in done.stderr
    assert "0 bad" in done.stderr
    assert not list((tmp_path / "out").rglob(".*"))


FORK = """
import os, sys, numpy as np, torch, dropmae
torch.set_num_threads(2)
frames = np.random.default_rng(0).integers(0, 255, (3, 64, 96, 3)).astype(np.uint8)
def follow():
    return dict(dropmae.track(frames, box=(20, 16, 30, 24), precision="fp32", device="cpu"))[2].boxes
here = follow()
pid = os.fork()
if not pid:
    assert np.abs(follow() - here).max() < 0.01
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_tracking_after_a_fork_does_not_hang() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", FORK], env=environment, timeout=300, check=False)
    assert done.returncode == 0


def test_the_end_of_a_data_process_does_not_disturb_what_is_kept() -> None:
    def raises(*_: object) -> None:
        raise RuntimeError("a child ended")

    before = signal.signal(signal.SIGCHLD, raises)
    try:
        with interruption.undisturbed():
            assert subprocess.Popen([sys.executable, "-c", ""]).wait() == 0
        assert signal.getsignal(signal.SIGCHLD) is raises
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_data_processes_that_never_end_are_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that was killed while it held a lock."""
    monkeypatch.setattr(clips, "PATIENCE", 0.05)
    lock = threading.Lock()
    lock.acquire()
    stream: Any = SimpleNamespace(_shutdown_workers=lock.acquire)
    clips.end(stream)
    lock.release()


def test_processes_are_started_where_signals_wait() -> None:
    """`interruption.Pool` and `withheld` are the one home; a clock's process has nothing to lose."""
    root = Path(interruption.__file__).parent
    homes = {"interruption.py", "speed/timing.py"}
    found = [
        path.relative_to(root).as_posix() for path in root.rglob("*.py") if "ProcessPoolExecutor(" in path.read_text()
    ]
    assert set(found) <= homes
