"""The verb `finetune`: a task, labelled data, an encoder to start from, a run folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dropmae import declarations, registry, runs, weights
from dropmae.contracts import Taken
from dropmae.data.mixture import Joined, Mixture, Source, open_source
from dropmae.progress import say
from dropmae.training import checkpoints, distributed
from dropmae.training.fit import FREE, fit
from dropmae.training.tuning import Tuning
from dropmae.verbs.inspection import predict
from dropmae.verbs.report import finish

PROBES, PORTION = 64, 8
"""Samples of a validation, and how many of them go through the network at once."""

if TYPE_CHECKING:
    Entries = Any
else:
    Entries = tuple[str, ...]


OPTIONS = Tuning


def finetune(task: str, data: Entries, *, init: Path | None = None, out: Path, **settings: Any) -> dict[str, Any]:
    """Trains TASK on labelled data, from a pre-trained encoder or from nothing.

    DATA entries are [NAME[:SPLIT]=]PATH[*RATIO]: a folder of videos with a targets.jsonl, annotations.xml (CVAT),
    annotations.json (COCO) or gt/gt.txt (MOT), or that file itself; a data set in its own layout (got10k=DIR lasot=DIR
    trackingnet=DIR coco=DIR; with masks davis=DIR youtubevos=DIR); images with masks (image_masks=DIR); unlabelled
    videos of which labels are made (pseudo_labels=DIR, or a part of it, :paste, which alone has masks, :warp, :cycle);
    or a data set or benchmark in a .py file (my.py=DIR). The same command on the same run folder continues it.

    Args:
        task: name of a task, or the path of a .py file that holds one.
        data: training data.
        init: run folder or weight file whose encoder is taken over, of any method or task; None starts at random.
        out: run folder, made if needed; last.safetensors in it are the weights.
    """
    cls: Any = registry.load("tasks", task)
    if not cls.trainable():
        raise ValueError(f"{task} has nothing to train: use it with a pre-trained encoder as it is")
    mine, theirs = declarations.share(settings, task, cls, Tuning, "finetune")
    options = Tuning(**{**cls.recipe, **theirs})
    entries = [data] if isinstance(data, (str, Path)) else list(data)
    if not entries:
        raise ValueError("there is nothing to learn from: name data, a folder with a targets.jsonl for one")
    sources, held = ([open_source(str(entry)) for entry in some] for some in (entries, options.validation))
    if options.cache is not None and not cls.frozen:
        raise ValueError(f"--cache keeps features of an encoder that learns nothing, and {task} trains its own")
    torch.manual_seed(options.seed)
    module = cls(**cls.for_data(Joined(sources), mine))
    out = Path(out)
    data_told = {
        "sources": [source.describe() for source in sources],
        "validation": [source.describe() for source in held],
        "init": None if init is None else str(init),
    }
    config = runs.describe("tasks", task, module, options, data_told, distributed.world())
    classes: dict[str, type] = {"fields": cls, "options": Tuning}
    taken = None
    if init is not None and (cls.frozen or checkpoints.newest(out) is None):
        taken = take_over(module, Path(init))
        if distributed.is_main():
            say(*report_taken(taken, Path(init)))
    clips = mixture(sources, module, options, options.seed)
    probed = mixture(held or sources, module, options, options.seed + 1)
    probe = runs.Probe(lambda: [probed[index] for index in range(PROBES)], options.seed, PORTION)
    save = partial(weights.save, extra={"training": {"options": config["options"], "data": config["data"]}})
    main = distributed.is_main()
    try:
        with runs.opened(
            out, config, runs.trained, classes=classes, free=FREE, extend=options.extend, main=main
        ) as record:
            if cls.frozen:
                record.write()
                device = distributed.pick_device(options.device)
                distributed.start(device)
                keep_features(module.to(device), Joined(sources + held), options.cache or out / "features")
            summary = fit(module, clips, options, out, save=save, validate=probe, begin=record.write)
            if main:
                finish(out, lambda: predict(out, module, probed, options.seed))
    finally:
        distributed.stop()
    return summary if taken is None else {**summary, "fresh": taken.fresh, "unused": taken.unused}


def keep_features(module: Any, sequences: Joined, folder: Path) -> None:
    """Has what a frozen encoder shows of the data kept, by one process; the others then find it there."""
    if distributed.is_main():
        module.keep_features(sequences, folder)
    distributed.barrier()
    if not distributed.is_main():
        module.keep_features(sequences, folder)


def mixture(sources: list[Source], module: Any, options: Tuning, seed: int) -> Mixture:
    return Mixture(Joined(sources), module.sample, seed, options.repeats, samples=options.epoch_samples)


def take_over(module: Any, init: Path) -> Taken:
    """Copies the encoder in a weight file or run folder, of any method or task; of the same task also the rest."""
    return module.take_over(weights.load(init), weights.read_header(init)["name"], init)


def report_taken(taken: Taken, init: Path) -> list[str]:
    """What a task took over, for people."""
    head = [name for name in taken.fresh if not name.startswith("encoder.")]
    encoder = [name for name in taken.fresh if name.startswith("encoder.")]
    lines = [f"{init} ({taken.kind}): {taken.count} tensors taken over"]
    lines += [f"  not in it, so as initialised: {weights.listed(encoder)}"] if encoder else []
    lines += [f"  the head is new, {len(head)} tensors"] if head else []
    lines += [f"  no use for: {weights.listed(taken.unused)}"] if taken.unused else []
    return lines
