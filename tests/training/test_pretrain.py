"""The verb `pretrain` as a user runs it: killed, continued, on bad files, on two processes, on wrong arguments."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import dropmae
import launch
from dropmae import video
from dropmae.cli import main
from samples import moving_squares

pytestmark = pytest.mark.usefixtures("no_charts")

SMALL = ["--size", "tiny", "--depth", "2", "--image", "64", "--global-batch", "4", "--precision", "fp32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine short H.264 clips."""
    made = tmp_path_factory.mktemp("videos")
    for number in range(9):
        video.write(made / f"clip{number}.mp4", moving_squares(number, frames=20))
    return made


def command(folder: Path, out: Path, *more: str, method: str = "dropmae") -> list[str]:
    return ["pretrain", method, str(folder), "--out", str(out), *SMALL, *more]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def spawn(words: list[str]) -> launch.Process:
    return launch.start(words, env=ENVIRONMENT, stderr=subprocess.PIPE)


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_killed_at_random_and_started_again_gives_the_same_bits(folder: Path, tmp_path: Path) -> None:
    steps = ["--steps", "24", "--save-every", "3", "--validate-every", "25%"]
    whole = launch.run(command(folder, tmp_path / "whole", *steps, "--workers", "1"), env=ENVIRONMENT)
    assert whole.returncode == 0, whole.stderr
    chance = random.Random(0)
    kills = 0
    for attempt in range(30):
        words = command(folder, tmp_path / "killed", *steps, "--workers", str(attempt % 3))
        process = spawn(words)
        journal = tmp_path / "killed" / "metrics.jsonl"
        before = journal.read_text().count("\n") if journal.exists() else 0
        if kills < 3:  # wait until it moves, then kill it somewhere
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                if journal.exists() and journal.read_text().count("\n") > before:
                    break
                time.sleep(0.02)
            time.sleep(chance.uniform(0, 0.4))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
        _, errors = process.communicate(timeout=120)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors
    assert kills > 0
    one, other = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


def test_two_processes_do_what_one_does(folder: Path, tmp_path: Path) -> None:
    steps = ["--steps", "6", "--workers", "0", "--save-every", "100%", "--validate-every", "100%"]
    assert main(command(folder, tmp_path / "one", *steps)) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dropmae"]
    done = subprocess.run(
        [*launcher, *command(folder, tmp_path / "two", *steps)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(tmp_path / "one"), losses(tmp_path / "two"), rtol=1e-5)


def test_sigterm_saves_and_the_same_command_continues(folder: Path, tmp_path: Path) -> None:
    words = command(folder, tmp_path / "run", "--steps", "40", "--save-every", "1000", "--workers", "0")
    words += ["--validate-every", "100%"]
    process = subprocess.Popen([*launch.PYTHON, *words], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    journal = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert (tmp_path / "run" / "resume" / "state.safetensors").exists()
    reached = len(losses(tmp_path / "run"))
    assert main(words) == 0
    assert len(losses(tmp_path / "run")) == 40 > reached


def damage(folder: Path) -> set[str]:
    """Twelve clips, four of them broken, each in its own way, and two files that never had two pictures."""
    for number in range(12):
        video.write(folder / f"clip{number:02}.mp4", moving_squares(number, frames=20))
    names = [f"clip{number:02}.mp4" for number in range(4)]
    whole = (folder / names[0]).read_bytes()
    (folder / names[0]).write_bytes(whole[: len(whole) // 3])
    middle = bytearray((folder / names[1]).read_bytes())
    middle[-400:] = bytes(byte ^ 0x5A for byte in middle[-400:])
    (folder / names[1]).write_bytes(bytes(middle))
    (folder / names[2]).write_bytes(b"")
    (folder / names[3]).write_text("this is no video\n" * 100)
    video.write(folder / "single.mp4", moving_squares(20, frames=1))
    write_sound(folder / "sound.mp4")
    return {*names, "single.mp4", "sound.mp4"}


def write_sound(path: Path) -> None:
    """An mp4 with a second of silence and no pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def test_a_folder_with_bad_files_trains_and_names_each_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "videos").mkdir()
    broken = damage(tmp_path / "videos")
    words = command(tmp_path / "videos", tmp_path / "run", "--steps", "8", "--workers", "2")
    assert main([*words, "--json"]) == 0
    captured = capsys.readouterr()
    known = json.loads((tmp_path / "run" / "bad_files.json").read_text())
    assert set(known) == broken
    for name in broken:
        assert captured.err.count(f"bad file: {name}:") == 1
    summary = json.loads(captured.out)
    assert summary["bad_files"] == 6
    assert summary["samples_replaced"] == sum(entry["samples"] for entry in known.values()) >= 6


def test_python_has_the_same_verb(folder: Path, tmp_path: Path) -> None:
    summary = dropmae.pretrain(
        "twinmae", folder, out=tmp_path / "run", size="tiny", image=(32, 48), steps=2, global_batch=4, workers=0
    )
    assert summary["samples"] == 8
    module = dropmae.load(tmp_path / "run" / "last.safetensors")
    assert module.image == (32, 48)
    assert module.encoder.features(torch.zeros(1, 3, 32, 48)).shape == (1, 192, 2, 3)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["pretrain", "dropme", "{videos}", "--out", "{out}"], 2, "did you mean dropmae"),
        (["pretrain", "dropmae", "{out}/nowhere", "--out", "{out}/run"], 1, "no such folder"),
        (["pretrain", "dropmae", "{empty}", "--out", "{out}/run"], 1, "holds no video"),
        (["pretrain", "dropmae", "{videos}", "--out", "{out}/run", "--image", "100"], 2, "not a multiple"),
        (["pretrain", "dropmae", "{videos}", "--out", "{out}/run", "--mask-ratio", "1.2"], 2, "mask ratio"),
        (["pretrain", "dropmae", "{videos}", "--out", "{out}/run", "--drop-ratio", "-1"], 2, "must be in [0, 1]"),
        (["pretrain", "dropmae", "{videos}", "--out", "{out}/run", "--drop-ratio", "0.001"], 2, "drop nothing"),
        (["pretrain", "dropmae", "{videos}", "--out", "{out}/run", "--global-batch", "0"], 2, "must be positive"),
        (["pretrain", "dropmae", "{videos}", "--out", "{out}/run", "--warmup", "soon"], 2, "duration"),
        (["pretrain", "dropmae", "{videos}", "--out", "{videos}"], 2, "no folder of a run"),
        *(
            (["pretrain", "dropmae", "{videos}", "--out", "{out}/run", *words.split()], 2, says)
            for words, says in {
                "--min-lr -1": "min-lr must not be negative",
                "--weight-decay nan": "weight-decay must not be negative",
                "--clip inf": "nor without end",
                "--epochs inf": "nor without end",
                "--betas 2 0.9": "betas must be in [0, 1)",
                "--workers -7": "workers is a number of data processes",
                "--drop-ratio nan": "drop-ratio|not a finite number: drop_ratio nan|must be in [0, 1]",
            }.items()
        ),
    ],
)
def test_a_wrong_argument_is_one_clear_line(
    words: list[str], code: int, says: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"videos": folder, "out": tmp_path, "empty": tmp_path / "empty"}
    assert main([*[word.format(**places) for word in words], *(["--size", "tiny"] if code == 2 else [])]) == code
    error = capsys.readouterr().err
    assert any(part in error for part in says.split("|"))
    assert error.count("\n") == 1


def test_another_configuration_is_refused_and_nothing_is_touched(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(folder, tmp_path / "run", "--steps", "3", "--workers", "0")
    assert main(words) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert main([*words, "--lr", "1", "--mask-ratio", "0.5"]) == 2
    error = capsys.readouterr().err
    assert "fields.mask_ratio was 0.75, now 0.5" in error
    assert "options.lr was 0.00015, now 1.0" in error
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    assert main(words) == 0
    assert main(command(folder, tmp_path / "run", "--steps", "3", method="twinmae")) == 2


def test_an_option_that_a_run_does_not_know_counts_as_its_default(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was begun before there were these options goes on, unless they are given another value."""
    words = command(folder, tmp_path / "run", "--steps", "3", "--workers", "0")
    assert main(words) == 0
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    for part, name in (("fields", "norm_pix"), ("options", "repeats"), ("options", "betas"), ("data", "short_side")):
        del config[part][name]
    path.write_text(json.dumps(config))
    assert main(words) == 0
    for more, says in (
        (["--repeats", "2"], "options.repeats was 1, now 2"),
        (["--betas", "0.9", "0.99"], "options.betas was [0.9, 0.95], now [0.9, 0.99]"),
        (["--short-side", "32"], "data.short_side was 0, now 32"),
    ):
        capsys.readouterr()
        assert main([*words, *more]) == 2
        assert says in capsys.readouterr().err
    del config["options"]["steps"]  # 0 is its default
    path.write_text(json.dumps(config))
    assert main(words) == 2
    assert "options.steps was 0, now 3" in capsys.readouterr().err


def test_an_unreadable_checkpoint_is_one_clear_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(folder, tmp_path / "run", "--steps", "3", "--workers", "0")
    assert main(words) == 0
    (tmp_path / "run" / "resume" / "state.safetensors").write_bytes(b"torn")
    capsys.readouterr()
    assert main(words) == 1
    assert "not a readable checkpoint" in capsys.readouterr().err
