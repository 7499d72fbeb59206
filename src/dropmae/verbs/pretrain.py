"""The verb `pretrain`: a method, a folder of videos, a run folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import dropmae
from dropmae import declarations, registry, weights
from dropmae.data.clips import Clips, Sequence, collate, generator
from dropmae.data.resident import reside
from dropmae.data.shards import find_sequences
from dropmae.names import utf8
from dropmae.storage import write_json
from dropmae.training import distributed
from dropmae.training.fit import FREE, Options, fit
from dropmae.verbs.inspection import snapshots
from dropmae.verbs.report import finish

OPTIONS = Options
PROBES = 64


def pretrain(
    method: str,
    videos: str | Path,
    *,
    out: Path,
    augment: Literal["host", "device"] = "host",
    resident: bool = False,
    short_side: int = 0,
    **settings: Any,
) -> dict[str, Any]:
    """Pre-trains METHOD on the videos below a folder, on a CPU, a GPU or, under torchrun, several processes.

    The same command on the same run folder continues it, and returns at once if it is finished.

    Args:
        method: name of a pre-training method, or the path of a .py file that holds one.
        videos: folder of videos, searched recursively (files, folders of images, or what `prepare` wrote), or the
            folder or address of shards that `prepare --shards` wrote.
        out: run folder, made if needed: config.json, metrics.jsonl, last.safetensors, resume/, report.html.
        augment: where crops are resized and flipped: by the data processes, or as a batch on the device, which spares
            the processes that work and makes the same pixels.
        resident: read all frames into memory first, of the GPU where there is one: nothing then waits for decoding. The
            same pixels; for sets that fit.
        short_side: scale frames down to this short side while they are decoded, before they are cropped; for videos
            much larger than the crops. 0 does not.
    """
    cls = registry.load("methods", method)
    mine, theirs = declarations.share(settings, method, cls, Options, "pretrain")
    options = Options(**theirs)
    torch.manual_seed(options.seed)
    module = cls(**mine)
    if short_side < 0 or 0 < short_side < 16:
        raise ValueError(f"short-side must be 0 or at least 16, not {short_side}")
    sequences = [replace(sequence, short_side=short_side or None) for sequence in find_sequences(videos)]
    out = Path(out)
    config = describe(method, module, options, sequences)
    config["data"]["short_side"] = short_side
    defaults = {"fields": registry.defaults(cls), "options": registry.defaults(Options), "data": {"short_side": 0}}
    claim(out, config, defaults)
    clips = Clips(sequences, module.sample, options.seed, options.repeats, resize_on=augment)
    training = {"options": config["options"], "data": config["data"]}
    save = partial(weights.save, extra={"training": training, **module.provenance()})
    draw, probe = snapshots(out, sequences, options.seed), _validation(clips, options.seed)
    if resident:
        clips = reside(clips, distributed.pick_device(options.device))

    def validate(module: Any, step: int) -> dict[str, Any]:
        draw(module, step)
        return probe(module, step)

    try:
        summary = fit(module, clips, options, out, save=save, validate=validate)
        if distributed.is_main():
            finish(out, module, sequences, options.seed)
        return summary
    finally:
        distributed.stop()


def describe(method: str, module: Any, options: Options, sequences: list[Sequence]) -> dict[str, Any]:
    """What a run is: its method, settings and data, and, for the record, where it was made."""
    names = "\n".join(sequence.name for sequence in sequences)
    return {
        "method": method,
        "fields": registry.settings(module),
        "options": dataclasses.asdict(options),
        "data": {"videos": len(sequences), "names": hashlib.sha256(utf8(names)).hexdigest()[:16]},
        "environment": {
            "dropmae": dropmae.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "processes": distributed.world(),
        },
    }


def claim(out: Path, config: dict[str, Any], defaults: dict[str, dict[str, Any]]) -> None:
    """Makes `out` the folder of this run, or checks that it already is; ValueError that names what differs.

    `defaults` of each part of the configuration stand for what a run does not tell that was begun before it could.
    """
    config, defaults = json.loads(json.dumps([config, defaults]))
    path = out / "config.json"
    if path.exists():
        try:
            old = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise OSError(f"{path} is not readable ({error}); remove the folder to start anew") from error
        parts = ("fields", "options", "data")
        was = {part: {**defaults.get(part, {}), **old.get(part, {})} for part in parts}
        differing = [
            f"{part}.{name} was {was[part].get(name)!r}, now {config[part].get(name)!r}"
            for part in parts
            for name in sorted({*config[part], *was[part]})
            if name not in FREE and was[part].get(name) != config[part].get(name)
        ]
        if old.get("method") != config["method"]:
            differing.insert(0, f"method was {old.get('method')!r}, now {config['method']!r}")
        if differing:
            raise ValueError(f"{out} belongs to another configuration: {'; '.join(differing)}. Choose another --out")
    elif distributed.is_main():
        if out.exists() and (not out.is_dir() or any(not path.name.startswith(".") for path in out.iterdir())):
            raise ValueError(f"{out} exists and is not a run folder; choose another --out")
        write_json(path, config)


def _validation(clips: Clips, seed: int) -> Any:
    """Probes the module on fixed samples of distinct videos, spread over the data set."""
    found: list[dict[str, Any]] = []

    def samples() -> dict[str, Any]:
        if not found:
            count = min(PROBES, len(clips.sequences))
            for position in np.linspace(0, len(clips.sequences) - 1, count).round().astype(int).tolist():
                sequence = clips.sequences[position]
                fresh = replace(sequence)
                try:
                    made = clips.sample(fresh, generator(seed, 4, position))
                except OSError:
                    continue  # training names the bad files
                found.append({**made, "index": position, "reports": []})
        return collate([dict(sample) for sample in found]) if len(found) > 1 else {}

    def validate(module: Any, step: int) -> dict[str, Any]:
        batch = samples()
        if not batch:
            return {}
        device = next(module.parameters()).device
        batch = {name: value.to(device) for name, value in batch.items() if isinstance(value, torch.Tensor)}
        return module.probe({**batch, "seed": seed, "step": step, "progress": 1.0})

    return validate
