"""The steps of gpu-check.sh, which says what they are for. A failure is written down and does not stop the rest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dropmae
from dropmae.nn.vit import SIZES
from dropmae.ops import asad, noise, switch
from dropmae.speed import stepspeed
from dropmae.training.distributed import supports_bf16
from dropmae.video.store import write_store

ROOT = Path(__file__).parent.parent
DRY = os.environ.get("DRY") == "1"
DEVICE = "cpu" if DRY else "cuda"
TRAIN = os.environ.get("TRAIN", "pair")
MINUTES = float(os.environ.get("MINUTES", "1" if DRY else "8"))
SIZE = os.environ.get("SIZE", "tiny")
SHORT_SIDE = 64 if DRY else 256
STARTED = time.monotonic()
SPARE = 30.0
"""Seconds kept for what comes after training."""


def left() -> float:
    """Seconds that are left."""
    return 60 * MINUTES - (time.monotonic() - STARTED)


def decoded(file: Path) -> Iterator[np.ndarray]:
    """The frames of a video as OpenCV reads them, RGB, their short side at most SHORT_SIDE."""
    import cv2

    video = cv2.VideoCapture(str(file))
    while True:
        there, frame = video.read()
        if not there:
            return
        factor = SHORT_SIDE / min(frame.shape[:2])
        if factor < 1:
            size = (round(frame.shape[1] * factor), round(frame.shape[0] * factor))
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        yield np.ascontiguousarray(frame[..., ::-1])


def prepare(videos: Path, frames: Path) -> dict[str, Any]:
    """Stored frames of every video that can be read."""
    counts: dict[str, int] = {}
    for file in sorted(path for path in videos.rglob("*") if path.is_file()):
        try:
            counts[file.name] = write_store(frames / f"{file.stem}.frames", decoded(file), 30.0)
        except ValueError as error:
            counts[file.name] = 0
            print(f"{file.name} is left out: {error}")
    if not any(counts.values()):
        raise OSError(f"{videos}: OpenCV reads none of its files")
    return {"videos": len(counts), "frames": sum(counts.values())}


def kernel_tests() -> dict[str, Any]:
    """The tests of the Triton kernels, where the absence of a GPU is a failure; in the dry run a few, interpreted."""
    file = ROOT / "tests/ops/test_asad_triton.py"
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    environment = {**os.environ, "FAIL_WITHOUT_CUDA": "0" if DRY else "1"}
    words += ["-k", "other_strides or exactly_so_many"] if DRY else []
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd=ROOT, timeout=240)
    print(done.stdout[-3000:])
    return {"passed": done.returncode in ((0, 5) if DRY else (0,)), "said": done.stdout.strip().splitlines()[-1:]}


def kernel_error() -> dict[str, Any]:
    """Largest difference of the fast form's output and gradients from float64, over the largest value, by dtype."""
    found: dict[str, Any] = {}
    shape = SIZES["tiny" if DRY else "base"]
    tokens, heads, depth = (
        (32, 2, 32) if DRY else (392, shape.decoder_heads, shape.decoder_width // shape.decoder_heads)
    )
    count = asad.drop_count(0.1, tokens // 2)
    for dtype in (torch.float32, torch.bfloat16):
        generator = torch.Generator().manual_seed(0)
        made = torch.randn(2, tokens, 3, heads, depth, generator=generator).to(DEVICE, dtype)
        stream = noise.keys(0, torch.arange(2)).to(DEVICE)
        results = []
        for form, wide in (("fast", dtype), ("reference", torch.float64)):
            packed = made.detach().to(wide).requires_grad_()
            query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
            with switch.use(form):
                out = asad.attention(query, key, value, count, stream)
            out.float().square().sum().backward()
            results.append((out.detach().double(), packed.grad.double()))
        names = ("output", "gradient")
        found[str(dtype).removeprefix("torch.")] = {
            name: float((a - b).abs().max() / b.abs().max()) for name, a, b in zip(names, *results)
        }
    return found


def bench() -> dict[str, Any]:
    """Training steps of TwinMAE, DropMAE, its forms and the textbook's, peak memory, utilisation; attention alone."""
    size: Any = "tiny" if DRY else "base"
    half = not DRY or supports_bf16(torch.device(DEVICE))
    plain = stepspeed.Setting("twinmae", size, 64 if DRY else 224, 2 if DRY else 32, DEVICE, half, 0)
    every = stepspeed.contenders(plain, fp32=False)
    chosen = {name: every[name] for name in every if name.startswith(("twinmae", "dropmae", stepspeed.TEXTBOOK))}
    rounds = 1 if DRY else 5
    rows = stepspeed.steps(chosen, rounds, memory=False)
    for name in ("twinmae", "dropmae") if not DRY else ():
        rows[name]["peak_memory_mb"] = stepspeed.peak_memory(chosen[name])
    return {"steps": rows, "attention": stepspeed.operators(plain, rounds)}


def trackers() -> dict[str, Any]:
    """Frames per second of a tracker's step at the published sizes, for one object and for 32."""
    from dropmae.tasks.vot import speed as trackspeed

    found: dict[str, Any] = {}
    for image, batch in [(64, 1)] if DRY else [(256, 1), (256, 32), (384, 1), (384, 32)]:
        size: Any = "tiny" if DRY else "base"
        report = trackspeed.measure(size, image, 1 if DRY else 20, batch, DEVICE, ("auto",))
        found[f"{image}, {batch} objects"] = report["steps"]["ours, auto"]
    return found


def goals(found: dict[str, Any]) -> dict[str, Any]:
    """Which of the goals hold."""
    rows = found["bench"]["steps"]
    ours, twin, plain = rows["dropmae"], rows["twinmae"], rows[stepspeed.TEXTBOOK]
    held: dict[str, Any] = {
        "time at most 1.15 of TwinMAE": [ours["times_twinmae"], ours["times_twinmae"] <= 1.15],
        "at least 4 times the textbook form": [plain["times_dropmae"], plain["times_dropmae"] >= 4],
        "utilisation at least .30": [ours["utilisation"], ours["utilisation"] >= 0.3],
    }
    if ours["peak_memory_mb"] and twin["peak_memory_mb"]:
        share = ours["peak_memory_mb"] / twin["peak_memory_mb"]
        held["memory at most 1.1 of TwinMAE"] = [share, share <= 1.1]
    return held


def trained(name: str, run: Path, make: Callable[[int, Path], Any], seconds: float) -> dict[str, Any]:
    """Trains for about so many seconds: a short run tells how many steps that is."""
    if DRY:
        make(2, run / name)
        return {"steps": 2}
    probe = 60
    make(probe, run / f"{name}-probe")
    lines = [json.loads(line) for line in (run / f"{name}-probe" / "metrics.jsonl").read_text().splitlines()]
    rates = sorted(line["clips_per_s"] for line in lines)
    rate, batch = rates[len(rates) // 2], json.loads((run / f"{name}-probe" / "config.json").read_text())["options"]
    steps = max(probe, int(0.85 * seconds * rate / batch["global_batch"]))
    before = time.monotonic()
    make(steps, run / name)
    return {"steps": steps, "pairs_per_s": rate, "seconds": time.monotonic() - before}


def training(frames: Path, out: Path) -> dict[str, Any]:
    """What TRAIN asks for, for the rest of the time; half-precision weights and curves in OUT."""
    usual: dict[str, Any] = {"device": DEVICE, "seed": int(os.environ.get("SEED", "0")), "workers": 0}
    small: dict[str, Any] = {"size": "tiny", "image": 64, "global_batch": 4} if DRY else {}
    pairs = {"size": SIZE, "image": 224, "global_batch": 512, "lr": 1.5e-3, "warmup": "5%", "crop": "shared",
             "scale": (0.3, 1.0), "resident": True, **usual, **small}  # fmt: skip
    makers: dict[str, Callable[[int, Path], Any]] = {}
    if TRAIN == "pair":
        for method in ("twinmae", "dropmae"):
            makers[method] = lambda steps, run, method=method: dropmae.pretrain(
                method, frames, out=run, steps=steps, **pairs
            )
    elif TRAIN == "distill":
        options: dict[str, Any] = {**pairs, "teacher": os.environ["TEACHER"]}
        del options["crop"]
        makers["distill"] = lambda steps, run: dropmae.pretrain("distill", frames, out=run, steps=steps, **options)
    elif TRAIN == "tracker":
        tracker = {"size": SIZE, "image": 256, "global_batch": 128, **usual, **small}
        makers["vot"] = lambda steps, run: dropmae.finetune(
            "vot", [f"selfmade={frames}"], out=run, steps=steps, **tracker
        )
    elif TRAIN != "none":
        raise ValueError(f"TRAIN is pair, distill, tracker or none, not {TRAIN!r}")
    found: dict[str, Any] = {}
    for place, (name, make) in enumerate(makers.items()):
        seconds = max(10.0, (left() - SPARE) / (len(makers) - place) - 20)
        found[name] = trained(name, out / "runs", make, seconds)
        dropmae.convert(out / "runs" / name, out / f"{name}.safetensors", half=True, encoder_only=True)
        shutil.copy(out / "runs" / name / "metrics.jsonl", out / f"{name}-metrics.jsonl")
    return found


def main() -> int:
    videos, out = Path(sys.argv[1]), Path(sys.argv[2])
    frames = out / "frames"
    frames.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"dry": DRY, "torch": torch.__version__, "python": sys.version.split()[0]}
    if not DRY:
        found["device"] = torch.cuda.get_device_name()
    parts: dict[str, Callable[[], Any]] = {
        "prepare": lambda: prepare(videos, frames),
        "kernel_tests": kernel_tests,
        "kernel_error": kernel_error,
        "bench": bench,
        "goals": lambda: goals(found),
        "trackers": trackers,
        "training": lambda: training(frames, out),
    }
    failed = 0
    for name, part in parts.items():
        before = time.monotonic()
        try:
            found[name] = part()
        except Exception as error:  # a later part may still tell what no other session can
            traceback.print_exc()
            found[name], failed = {"failed": f"{type(error).__name__}: {error}"}, failed + 1
        found[f"{name}_seconds"] = round(time.monotonic() - before, 1)
        (out / "gpu-check.json").write_text(json.dumps(found, indent=1, default=str) + "\n")
        print(
            f"{name}: {json.dumps(found[name], default=str)[:600]}  ({found[f'{name}_seconds']} s, {left():.0f} left)"
        )
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
