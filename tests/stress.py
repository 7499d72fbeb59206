"""Two processes on one --out, and kills at random moments: `make stress`, and a little of it in `make test`.

Every verb that writes runs in processes forked from one that has loaded everything, so that much happens at once and
most kills fall inside the work. What counts is what lies there in the end, beside what the command makes when it is
left alone: files whose bytes come out alike twice must be those bytes, all others must be whole.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

import dropmae
from dropmae import cli, weights
from dropmae.methods.mae import MAE
from dropmae.video import Video, write
from dropmae.weights import is_ours

for _verb in dropmae.VERBS:
    getattr(dropmae, _verb)  # its module is loaded here and not in every process

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
WAIT = 300
"""Seconds on the clock after which a process hangs."""

Words = list[str]


class Verb(NamedTuple):
    """What is run twice at once, and killed."""

    words: Callable[[Path, Path, int], Words]
    """Of the folder of inputs, the --out and the number of the variant, 0 or 1, which differ in what they write."""
    name: str = "out"
    """Of the --out."""
    long: bool = False
    """Whether it takes a while, so that people stop it and go on."""


def training(out: Path, *words: str) -> Words:
    small = ["--global-batch", "2", "--device", "cpu", "--workers", "0", "--save-every", "3"]
    return [*words, "--out", str(out), *small]


SMALL = ("--size", "tiny", "--image", "32")
VERBS = {
    "track": Verb(
        lambda inputs, out, n: [
            *("track", str(inputs / "long.npy"), "--box", "20", "16", str(24 + n), "24", "--out", str(out)),
            *("--stop", str(40 + 8 * n)),
        ],
        "out.mp4",
        long=True,
    ),
    "prepare": Verb(
        lambda inputs, out, n: [
            *("prepare", str(inputs / "videos"), str(out), "--short-side", str(32 + 16 * n), "--workers", "1"),
        ],
        long=True,
    ),
    "evaluate": Verb(
        lambda inputs, out, n: [
            *("evaluate", "folder", "--root", str(inputs / "clips"), "--weights", "shipped:vot"),
            *("--out", str(out), "--workers", "1", *(("--set", "inertia=0.5") if n else ())),
        ],
        long=True,
    ),
    "pretrain": Verb(
        lambda inputs, out, n: training(
            out, "pretrain", "mae", str(inputs / "videos"), *SMALL, "--steps", str(20 + 4 * n)
        ),
        long=True,
    ),
    "finetune": Verb(
        lambda inputs, out, n: training(
            out, "finetune", "vot", str(inputs / "clips"), "--size", "tiny", "--image", "64", "--steps", str(6 + 2 * n)
        ),
        long=True,
    ),
    "synth": Verb(
        lambda inputs, out, n: [
            *("synth", str(out), "--clips", "2", "--frames", "4", "--size", "64", "64", "--workers", "1"),
            *("--seed", str(n)),
        ],
    ),
    "report": Verb(
        lambda inputs, out, n: ["report", str(inputs / "run"), "--title", "ab"[n] * 40, "--out", str(out)], "out.html"
    ),
    "attention": Verb(
        lambda inputs, out, n: [
            *("attention", str(inputs / "run"), str(inputs / "videos"), "--out", str(out), "--seed", str(n)),
        ],
    ),
    "reconstruct": Verb(
        lambda inputs, out, n: [
            *("reconstruct", str(inputs / "run"), str(inputs / "videos" / "0.mp4"), "--out", str(out)),
            *("--seed", str(n)),
        ],
        "out.png",
    ),
    "score": Verb(
        lambda inputs, out, n: [
            *("score", "otb", "--root", str(inputs / "otb"), "--results", str(inputs / f"boxes{n}"), "--workers", "1"),
            *("--plots", str(out)),
        ],
    ),
    "show": Verb(
        lambda inputs, out, n: [
            *("show", str(inputs / "videos" / "0.mp4"), "--results", str(inputs / f"boxes{n}" / "Seq.txt")),
            *("--out", str(out)),
        ],
        "out.mp4",
    ),
    "convert": Verb(
        lambda inputs, out, n: ["convert", str(inputs / f"{n}.pth"), str(out)],
        "out.safetensors",
    ),
}


def prepare_inputs(inputs: Path) -> None:
    """Makes what the verbs read."""
    for number in range(4):
        frames = np.random.default_rng(number).integers(0, 255, (12, 64, 64, 3)).astype(np.uint8)
        write(inputs / "videos" / f"{number}.mp4", frames, 10)
    np.save(inputs / "long.npy", np.random.default_rng(9).integers(0, 255, (48, 64, 96, 3)).astype(np.uint8))
    for number, folder in enumerate((inputs / "boxes0", inputs / "boxes1", inputs / "otb/Seq")):
        folder.mkdir(parents=True)
        file = "groundtruth_rect.txt" if number == 2 else "Seq.txt"
        (folder / file).write_text("".join(f"{9 + frame * number},9,20,20\n" for frame in range(12)))
    (inputs / "otb/Seq/img").mkdir()
    quiet(["synth", str(inputs / "clips"), "--clips", "3", "--frames", "8", "--size", "64", "64", "--workers", "1"])
    quiet(training(inputs / "run", "pretrain", "twinmae", str(inputs / "videos"), *SMALL, "--steps", "2"))
    for number in range(2):
        torch.manual_seed(number)
        weights.save(MAE(size="tiny", image=32), inputs / f"{number}.safetensors")
        quiet(["convert", str(inputs / f"{number}.safetensors"), str(inputs / f"{number}.pth"), "--to", "mae"])


def quiet(words: Words) -> None:
    process = started(words, inherits=False)
    code, told = ended(process)
    assert code == 0, f"{words}: {told}"


# ---------------------------------------------------------------- processes


class Process(NamedTuple):
    pid: int
    told: Path
    begun: float


def started(words: Words, inherits: bool = True) -> Process:
    """A command in a process and a group of its own; what it tells goes to a file."""
    handle, told = tempfile.mkstemp()
    pid = os.fork()
    if not pid:
        code = 70
        try:
            os.setsid()
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            code = cli.main(words)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(handle)
    return Process(pid, Path(told), time.monotonic())


def ended(process: Process) -> tuple[int, str]:
    """Exit code, a signal's as shells give it, and what was told; a process that hangs is killed, and its code 99."""
    code: int | None = None
    while code is None:
        pid, status = os.waitpid(process.pid, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
        elif time.monotonic() - process.begun > WAIT:
            os.killpg(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)
            code = 99
        else:
            time.sleep(0.005)
    told = process.told.read_text(errors="replace")
    process.told.unlink()
    return 128 - code if code < 0 else code, told


# ---------------------------------------------------------------- what lies there


def contents(folder: Path) -> dict[str, str]:
    """{path: digest} of the files below a folder that are no partial ones and no locks."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def left(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob(".*")]


def torn(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of the files that cannot be read whole."""
    found = []
    for name in names:
        path = folder / name
        try:
            if path.suffix in (".json", ".jsonl"):
                lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
                [json.loads(line) for line in lines]
            elif path.suffix in (".mp4", ".frames"):
                with Video(path) as video:
                    for _ in video:
                        pass
            elif path.suffix == ".png":
                Image.open(path).load()
            elif path.suffix == ".safetensors" and path.name != "state.safetensors":
                assert is_ours(path), "no weights"
                weights.read_tensors(path)
            elif path.suffix == ".html":
                assert "</html>" in path.read_text()[-20:], "no end"
        except Exception as error:
            found.append(f"{name}: {type(error).__name__}: {error}")
    return found


class Alone(NamedTuple):
    """What a command makes when it is left alone, and how long it takes."""

    made: dict[str, str]
    fixed: frozenset[str]
    """Files whose bytes come out alike."""
    seconds: float


def alone(verb: Verb, inputs: Path, place: Path, variant: int) -> Alone:
    found, seconds = [], 0.0
    for _ in range(2):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        before = time.monotonic()
        code, told = ended(started(verb.words(inputs, place / verb.name, variant)))
        seconds = time.monotonic() - before
        assert code == 0, told
        found.append(contents(place))
    fixed = frozenset(name for name, digest in found[0].items() if found[1].get(name) == digest)
    return Alone(found[1], fixed, seconds)


def differs(place: Path, than: Alone) -> str:
    """In what the files that lie there differ from what the command makes alone; empty for nothing."""
    made = contents(place)
    if made.keys() != than.made.keys():
        return f"files {sorted(made.keys() ^ than.made.keys())}"
    changed = [name for name in than.fixed if made[name] != than.made[name]]
    return f"other bytes in {sorted(changed)}" if changed else "; ".join(torn(place, set(made) - than.fixed))


# ---------------------------------------------------------------- the two trials


def pairs(name: str, inputs: Path, place: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """`count` times two processes at once that write different things to one --out."""
    rng, verb = random.Random(seed), VERBS[name]
    references = [alone(verb, inputs, place, variant) for variant in range(2)]
    ends, bad = collections.Counter[str](), []
    for number in range(count):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        first = started(verb.words(inputs, place / verb.name, 0))
        time.sleep(rng.choice([0, rng.random() * references[0].seconds]))
        results = [ended(process) for process in (first, started(verb.words(inputs, place / verb.name, 1)))]
        codes = [code for code, _ in results]
        ends[" ".join(map(str, sorted(codes)))] += 1
        fits = [n for n in range(2) if codes[n] == 0 and not differs(place, references[n])]
        odd = [told for code, told in results if code not in (0, 1, 2) or "Traceback" in told or "Error:" in told]
        if odd or not fits or left(place):
            how = "; ".join(differs(place, reference) or "whole" for reference in references)
            bad.append(f"{name} pair {seed}:{number} ended with {codes}: {how} {left(place)} {odd}")
    return {"pairs": count, "ended with": dict(ends), "bad": bad}


def kills(name: str, inputs: Path, place: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """`count` kills at random moments of a run, each followed by the same command to its end."""
    rng, verb = random.Random(seed), VERBS[name]
    reference = alone(verb, inputs, place, 0)
    ends, bad = collections.Counter[str](), []
    for number in range(count):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        kind, group = SIGNALS[number % 3], bool(number // 3 % 2)
        moment = rng.uniform(0.05, 1) * reference.seconds
        words = verb.words(inputs, place / verb.name, 0)
        process = started(words)
        time.sleep(moment)
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(process.pid, getattr(signal, kind))
        code, told = ended(process)
        ends[f"{kind[3:]} {code}"] += 1
        kept = contents(place)
        faults = [f"torn: {one}" for one in torn(place, kept)]
        if kind != "SIGKILL":
            faults += [] if code in (0, 128 + getattr(signal, kind)) else [f"code {code}: {told[-300:]}"]
            faults += [told[max(0, told.index("Traceback") - 200) :][:2000]] if "Traceback" in told else []
            faults += [f"left {left(place)}"] if left(place) else []
        again, said = ended(started([*words]))
        faults += [] if again == 0 else [f"the same command ended with {again}: {said[-300:]}"]
        faults += [one] if again == 0 and (one := differs(place, reference)) else []
        lost = [file for file in kept if file in reference.fixed and file not in contents(place)]
        faults += [f"lost {lost}"] if lost else []
        faults += [f"left {left(place)} in the end"] if left(place) else []
        if faults:
            bad.append(f"{name} kill {seed}:{number} {kind} {'group' if group else 'one'} {moment:.2f} s: {faults}")
    inside = sum(n for end, n in ends.items() if not end.endswith(" 0"))
    return {"kills": count, "inside": inside, "ended with": dict(ends), "seconds": reference.seconds, "bad": bad}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pairs", type=int, default=12)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", nargs="*", default=list(VERBS))
    given = options.parse_args()
    torch.set_num_threads(1)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        inputs, place = Path(folder) / "inputs", Path(folder) / "place"
        prepare_inputs(inputs)
        for name in given.only:
            trials = [(pairs, given.pairs), (kills, given.kills if VERBS[name].long else 0)]
            for trial, count in ((trial, count) for trial, count in trials if count):
                before = time.monotonic()
                found = trial(name, inputs, place, count, given.seed)
                wrong += len(found["bad"])
                print(name, json.dumps({**found, "took": round(time.monotonic() - before)}), flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
