"""The verb `pretrain`: a method, a folder of videos, a run folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dropmae
from dropmae import distributed, registry, weights
from dropmae.clips import Clips, Sequence, collate, generator
from dropmae.fit import FREE, Options, fit
from dropmae.inspection import snapshots
from dropmae.report import finish
from dropmae.storage import write_json
from dropmae.video import find

OPTIONS = Options
PROBES = 64


def pretrain(method: str, videos: Path, *, out: Path, **settings: Any) -> dict[str, Any]:
    """Pre-trains METHOD on the videos below a folder, on a CPU, a GPU or, under torchrun, several processes.

    The same command on the same run folder continues it, and returns at once if it is finished.

    Args:
        method: name of a pre-training method, or the path of a .py file that holds one.
        videos: folder of videos, searched recursively (files, folders of images, or what `prepare` wrote).
        out: run folder, made if needed: config.json, metrics.jsonl, last.safetensors, resume/, report.html.
    """
    cls = registry.load("methods", method)
    mine = {name for name, _, _ in registry.fields(cls)}
    theirs = {field.name for field in dataclasses.fields(Options)}
    unknown = settings.keys() - mine - theirs
    if unknown:
        raise ValueError(
            f"{method} has no setting {', '.join(sorted(unknown))}; it has {', '.join(sorted(mine | theirs))}"
        )
    options = Options(**{name: value for name, value in settings.items() if name in theirs})
    torch.manual_seed(options.seed)
    module = cls(**{name: value for name, value in settings.items() if name in mine})
    sequences = find_sequences(Path(videos))
    out = Path(out)
    config = describe(method, module, options, sequences)
    claim(out, config)
    clips = Clips(sequences, module.sample, options.seed, options.repeats)
    save = partial(weights.save, extra={"training": {"options": config["options"], "data": config["data"]}})
    draw, probe = snapshots(out, sequences, options.seed), _validation(clips, options.seed)

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


def find_sequences(folder: Path) -> list[Sequence]:
    """All videos below a folder, in sorted order, named by their path in it; one clear error where there are none."""
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder")
    paths = find(folder)
    if not paths:
        raise FileNotFoundError(f"{folder}: holds no video")
    return [Sequence(str(path.relative_to(folder)) if path != folder else path.name, path) for path in paths]


def describe(method: str, module: Any, options: Options, sequences: list[Sequence]) -> dict[str, Any]:
    """What a run is: its method, settings and data, and, for the record, where it was made."""
    names = "\n".join(sequence.name for sequence in sequences)
    return {
        "method": method,
        "fields": registry.settings(module),
        "options": dataclasses.asdict(options),
        "data": {"videos": len(sequences), "names": hashlib.sha256(names.encode()).hexdigest()[:16]},
        "environment": {
            "dropmae": dropmae.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "processes": distributed.world(),
        },
    }


def claim(out: Path, config: dict[str, Any]) -> None:
    """Makes `out` the folder of this run, or checks that it already is; ValueError that names what differs."""
    config = json.loads(json.dumps(config))
    path = out / "config.json"
    if path.exists():
        try:
            old = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise OSError(f"{path} is not readable ({error}); remove the folder to start anew") from error
        differing = [
            f"{part}.{name} was {old.get(part, {}).get(name)!r}, now {config[part].get(name)!r}"
            for part in ("fields", "options", "data")
            for name in sorted({*config[part], *old.get(part, {})})
            if name not in FREE and old.get(part, {}).get(name) != config[part].get(name)
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
                fresh = Sequence(sequence.name, sequence.source, sequence.targets)
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
