"""The verb `pretrain`: a method, a folder of videos, a run folder."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from dropmae import declarations, registry, runs, weights
from dropmae.data.clips import Clips, generator
from dropmae.data.resident import reside
from dropmae.data.shards import find_sequences
from dropmae.names import utf8
from dropmae.training import distributed
from dropmae.training.fit import FREE, Options, fit
from dropmae.verbs.inspection import illustrate, snapshots
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
    out = Path(out)
    torch.manual_seed(options.seed)
    module = cls(**mine)
    if short_side < 0 or 0 < short_side < 16:
        raise ValueError(f"short-side must be 0 or at least 16, not {short_side}")
    sequences = [replace(sequence, short_side=short_side or None) for sequence in find_sequences(videos, out)]
    names = utf8("\n".join(sequence.name for sequence in sequences))
    data = {"videos": len(sequences), "names": hashlib.sha256(names).hexdigest()[:16], "short_side": short_side}
    config = runs.describe("methods", method, module, options, data, distributed.world())
    classes, before = {"fields": cls, "options": Options}, {"data": {"short_side": 0}}  # had no choice once
    clips = Clips(sequences, module.sample, options.seed, options.repeats, resize_on=augment)
    training = {"options": config["options"], "data": config["data"]}
    save = partial(weights.save, extra={"training": training, **module.provenance()})
    draw = snapshots(out, sequences, options.seed)
    probe = runs.Probe(partial(fixed_samples, clips, options.seed), options.seed, PROBES)
    if resident:
        clips = reside(clips, distributed.pick_device(options.device))

    def validate(module: Any, step: int) -> dict[str, Any]:
        draw(module, step)
        return probe(module, step)

    main = distributed.is_main()
    try:
        with runs.opened(
            out,
            config,
            runs.trained,
            classes=classes,
            defaults=before,
            free=FREE,
            extend=options.extend,
            main=main,
        ) as record:
            summary = fit(module, clips, options, out, save=save, validate=validate, begin=record.write)
            if main:
                finish(out, lambda: illustrate(out, module.eval(), sequences, options.seed))
        return summary
    finally:
        distributed.stop()


def fixed_samples(clips: Clips, seed: int) -> list[dict[str, Any]]:
    """Samples of distinct videos, spread over the data set, to probe on; fewer than two are none."""
    found: list[dict[str, Any]] = []
    count = min(PROBES, len(clips.sequences))
    for position in np.linspace(0, len(clips.sequences) - 1, count).round().astype(int).tolist():
        try:
            made = clips.sample(replace(clips.sequences[position]), generator(seed, 4, position))
        except OSError:
            continue  # training names the bad files
        found.append({**made, "index": position, "reports": []})
    return found if len(found) > 1 else []
