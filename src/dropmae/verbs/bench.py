"""The verb `bench`: training steps, attention dropout and data loading, each beside its yardstick in one run.

Speeds drift on every machine, so what is compared runs in turn, A B C A B C, and ratios are medians over the rounds.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

import dropmae
from dropmae import registry
from dropmae.nn.vit import Block, Size
from dropmae.ops import allocator
from dropmae.progress import say
from dropmae.speed import loadspeed, stepspeed, taskspeed
from dropmae.speed.cluster import Cluster, Model, parse
from dropmae.speed.simulation import simulate as simulated
from dropmae.training import distributed
from dropmae.verbs.prepare import prepare


def bench(
    *,
    size: Size = "base",
    image: int = 224,
    batch: int = 8,
    rounds: int = 3,
    device: str = "auto",
    bf16: bool | None = None,
    fp32: bool = True,
    memory: bool = True,
    steps: bool = True,
    compile: bool = False,
    videos: Path | None = None,
    weights: str | None = None,
    frame: tuple[int, int] = (360, 640),
    count: int = 1,
    simulate: tuple[str, ...] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Times training steps, attention dropout and data loading side by side; a table of each.

    A step is forward, backward and AdamW on a batch that lies on the device. The default, ViT-B at 224 pixels, takes
    several minutes on a CPU and 10 GB; `--size tiny --image 112 --no-memory` takes half a minute.

    Args:
        size: size of the networks.
        image: side of the pictures in pixels.
        batch: samples in a step; a sample is a pair, a frame for mae and a clip for mgm.
        rounds: steps of each that count, after one that warms up.
        device: auto, cpu, cuda or cuda:N.
        bf16: autocast to bfloat16; by default where the hardware multiplies it.
        fp32: beside bfloat16, time the textbook form in float32 too, which is slow.
        memory: measure the peak memory of each step; on a CPU each then runs in a process of its own.
        steps: time training steps and attention; `--no-steps --videos DIR` times loading alone.
        compile: time DropMAE's step under torch.compile too, which first takes minutes.
        weights: time the steps of a trained task, of anybody's, instead of training: a weight file or run folder.
        frame: height and width of the frames it goes through.
        count: objects or points that it follows.
        videos: folder of videos: time the loading of pairs from up to eight of them, as they are and prepared.
        simulate: instead of all that, simulate DropMAE's training on a cluster: NAME=VALUE words such as nodes=8 gpus=8
            rate=1500; docs/scaling.md has the names. Without rate and tflops the step is measured on this device.
        seed: decides weights and pictures.
    """
    if batch < 1 or rounds < 1:
        raise ValueError("batch and rounds must be at least 1")
    if simulate:
        return simulation(parse(simulate), size, image, batch, rounds, device, bf16, seed)
    if weights is not None:
        found = taskspeed.measure(weights, frame, count, max(rounds, 20), device)
        say(
            f"{found['task']}, {count} in {frame[0]}x{frame[1]}, {found['precision']} on {found['device']}: "
            f"{found['ms']:.1f} ms a step (p99 {found['p99_ms']:.1f}), {found['frames_per_s']:.1f} frames/s"
        )
        return found
    if not steps and videos is None:
        raise ValueError("without --steps and without --videos there is nothing to measure")
    where = distributed.pick_device(device)
    half = distributed.supports_bf16(where) if bf16 is None else bf16
    if where.type == "cpu":
        allocator.keep_memory()  # as the training loop does, for the yardstick too
    plain = stepspeed.Setting("twinmae", size, image, batch, str(where), half, seed)
    result: dict[str, Any] = {"setting": {**asdict(plain), **environment(where), "rounds": rounds}}
    for unused in ("method", "form", "compile"):
        del result["setting"][unused]
    if steps:
        result["steps"] = stepspeed.steps(stepspeed.contenders(plain, fp32, compile), rounds, memory)
        result["attention"] = stepspeed.operators(plain, max(rounds, 5))
    if videos is not None:
        result["loading"] = loadspeed.measure(Path(videos), image, rounds, seed, prepare)
    show(result)
    return result


def simulation(
    cluster: Cluster, size: Size, image: int, batch: int, rounds: int, device: str, bf16: bool | None, seed: int
) -> dict[str, Any]:
    """The rows of a simulated cluster that trains DropMAE of that size, and what they follow from."""
    model = parameters(size, image)
    setting = stepspeed.Setting("dropmae", size, image, batch, "cpu", False, seed)
    result: dict[str, Any] = {"setting": {"size": size, "image": image, "parameters": model.parameters}}
    if not cluster.rate:
        if cluster.tflops:
            rate = cluster.tflops * 1e12 / (3 * stepspeed.flop(setting))
        else:
            where = distributed.pick_device(device)
            half = distributed.supports_bf16(where) if bf16 is None else bf16
            step = stepspeed.Step(replace(setting, device=str(where), bf16=half), {})
            rate = batch / statistics.median([step() for _ in range(rounds + 1)][1:])
            result["setting"] |= environment(where)
        cluster = replace(cluster, rate=rate)
    result["cluster"] = asdict(cluster)
    result["scales"] = simulated(cluster, model)
    console = Console(stderr=True)
    console.print(", ".join(f"{name} {value}" for name, value in result["setting"].items()))
    console.print(", ".join(f"{name}={value}" for name, value in result["cluster"].items()))
    table(console, "nodes x GPUs: speed, and where the time goes in percent", result["scales"], SCALE_COLUMNS)
    table(console, "what it takes", result["scales"], NEED_COLUMNS)
    return result


def parameters(size: Size, image: int) -> Model:
    """How many parameters DropMAE has, and each of its blocks in attention and MLP; nothing is allocated."""
    with torch.device("meta"):
        module = registry.load("methods", "dropmae")(size=size, image=image)
    blocks = [part for part in module.modules() if isinstance(part, Block)]
    sizes = [[p.numel() for part in (block.attn, block.mlp) for p in part.parameters()] for block in blocks]
    return Model(sum(p.numel() for p in module.parameters()), [sum(found) for found in sizes])


def environment(device: torch.device) -> dict[str, Any]:
    """When, where and with what it is measured."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        commit = ""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{device.type}, {name}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "dropmae": dropmae.__version__,
        "commit": commit or "unknown",
    }


def processor() -> str:
    """The CPU's name and its vector instructions as far as PyTorch uses them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.machine()
    return f"{model} {torch.backends.cpu.get_cpu_capability()}"


def show(result: dict[str, Any]) -> None:
    """The tables, on stderr."""
    console = Console(stderr=True)
    console.print(", ".join(f"{name} {value}" for name, value in result["setting"].items()))
    if "steps" in result:
        table(console, "a training step", result["steps"], STEP_COLUMNS)
        table(console, "attention of a decoder layer", result["attention"], ATTENTION_COLUMNS)
    if "loading" in result:
        table(console, "loading pairs, CPU time of one core", result["loading"], LOADING_COLUMNS)


Columns = dict[str, tuple[str, Callable[[Any], str]]]
STEP_COLUMNS: Columns = {
    "ms": ("seconds", lambda x: f"{1e3 * x:.0f}"),
    "samples\n/s": ("samples_per_s", lambda x: f"{x:.2f}"),
    "times\nTwinMAE": ("times_twinmae", lambda x: f"{x:.2f}"),
    "times\nDropMAE": ("times_dropmae", lambda x: f"{x:.2f}"),
    "of matrix\nrate": ("utilisation", lambda x: f"{100 * x:.0f} %"),
    "peak\nMB": ("peak_memory_mb", lambda x: "" if x is None else f"{x:.0f}"),
}
ATTENTION_COLUMNS: Columns = {
    "forward\nms": ("forward_s", lambda x: f"{1e3 * x:.2f}"),
    "backward\nms": ("backward_s", lambda x: f"{1e3 * x:.2f}"),
    "times\nplain": ("times_plain", lambda x: f"{x:.2f}"),
}
LOADING_COLUMNS: Columns = {
    "pairs\n/s": ("pairs_per_s", lambda x: f"{x:.1f}"),
    "times\nraw": ("times_raw", lambda x: f"{x:.2f}"),
    "times\ndecord": ("times_decord", lambda x: "" if x is None else f"{x:.2f}"),
    "MB a\nvideo": ("megabytes", lambda x: f"{x:.1f}"),
    "ms:\nopen": ("open_ms", lambda x: "" if x is None else f"{x:.1f}"),
    "\ntable": ("table_ms", lambda x: "" if x is None else f"{x:.1f}"),
    "\nframes": ("frames_ms", lambda x: "" if x is None else f"{x:.1f}"),
    "\ncrop": ("crop_ms", lambda x: "" if x is None else f"{x:.1f}"),
}


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


SCALE_COLUMNS: Columns = {
    "samples\n/s": ("samples_per_s", lambda x: f"{x:.0f}"),
    "effi-\nciency": ("efficiency", percent),
    "comp-\nuting": ("compute", percent),
    "\ndata": ("data", percent),
    "net-\nwork": ("network", percent),
    "\nothers": ("others", percent),
    "check-\npoints": ("checkpoints", percent),
    "fail-\nures": ("failures", percent),
    "\nhours": ("hours", lambda x: f"{x:.1f}"),
    "GPU\nhours": ("gpu_hours", lambda x: f"{x:.0f}"),
}
NEED_COLUMNS: Columns = {
    "read\nGB/s": ("read_gb_per_s", lambda x: f"{x:.2f}"),
    "CPU\ncores": ("cores", lambda x: f"{x:.0f}"),
    "GB/s out\nof a node": ("network_gb_per_s", lambda x: f"{x:.1f}"),
    "GB\na GPU": ("memory_gb", lambda x: f"{x:.1f}"),
    "GB a\ncheckpoint": ("checkpoint_gb", lambda x: f"{x:.1f}"),
    "every\nsteps": ("checkpoint_steps", str),
    "failures\nin a run": ("failure_count", lambda x: f"{x:.2f}"),
}


def table(console: Console, title: str, rows: dict[str, dict[str, Any]], columns: Columns) -> None:
    """Rows by name, with the columns given; it fits a terminal of 80 columns."""
    made = Table(title=title, box=box.HORIZONTALS, padding=(0, 0), pad_edge=False)
    made.add_column("")
    for heading in columns:
        made.add_column(heading, justify="right")
    for name, row in rows.items():
        made.add_row(name, *(form(row[key]) for key, form in columns.values()))
    console.print(made)
