"""Modules that have moved: for one version their old names give the same module, with a warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "dropmae.annotations": "dropmae.formats",
    "dropmae.annotations.arrayfiles": "dropmae.formats.arrays",
    "dropmae.annotations.boxfiles": "dropmae.formats.boxes",
    "dropmae.annotations.labels": "dropmae.formats.labels",
    "dropmae.annotations.tracks": "dropmae.formats.tracks",
    "dropmae.data.coco": "dropmae.datasets.coco",
    "dropmae.data.maskpairs": "dropmae.tasks.vos.samples",
    "dropmae.data.pairs": "dropmae.tasks.vot.samples",
    "dropmae.data.selfmade": "dropmae.datasets.pseudo_labels",
    "dropmae.data.sources": "dropmae.data.mixture",
    "dropmae.data.stills": "dropmae.datasets.image_masks",
    "dropmae.inference.export": "dropmae.tasks.vot.export",
    "dropmae.inference": "dropmae.exports",
    "dropmae.inference.following": "dropmae.evaluation",
    "dropmae.inference.precision": "dropmae.engine",
    "dropmae.inference.stream": "dropmae.engine",
    "dropmae.metrics.onepass": "dropmae.benchmarks._onepass",
    "dropmae.networks": "dropmae.nn",
    "dropmae.networks.autoencoder": "dropmae.methods._masked_autoencoder",
    "dropmae.networks.canvas": "dropmae.tasks.vos.frames",
    "dropmae.networks.crops": "dropmae.tasks.vot.crops",
    "dropmae.networks.heads": "dropmae.tasks.vot.head",
    "dropmae.networks.int8": "dropmae.nn.int8",
    "dropmae.networks.masking": "dropmae.nn.masking",
    "dropmae.networks.memory": "dropmae.tasks.vos.memory",
    "dropmae.networks.onestream": "dropmae.tasks.vot.encoder",
    "dropmae.networks.pyramid": "dropmae.tasks.vos.pyramid",
    "dropmae.networks.vit": "dropmae.nn.vit",
    "dropmae.processes": "dropmae.machine",
    "dropmae.metrics.plots": "dropmae.visualize.plots",
    "dropmae.speed.propagationspeed": "dropmae.tasks.propagation.speed",
    "dropmae.speed.segmentspeed": "dropmae.tasks.vos.speed",
    "dropmae.speed.trackspeed": "dropmae.tasks.vot.speed",
    "dropmae.reports": "dropmae.visualize",
    "dropmae.reports.draw": "dropmae.visualize.overlay",
    "dropmae.reports.figures": "dropmae.visualize.charts",
    "dropmae.reports.runs": "dropmae.runs",
    "dropmae.reports.views": "dropmae.visualize.views",
    "dropmae.reports.watcher": "dropmae.visualize.attention_probe",
}
"""Old dotted name -> new one."""

PARTS = {
    f"{MOVED[folder]}.{part}": f"{folder}.{part}"
    for folder, _, part in (old.rpartition(".") for old in MOVED)
    if folder in MOVED and MOVED[f"{folder}.{part}"] != f"{MOVED[folder]}.{part}"
}
"""What `from dropmae.networks import crops` looks for, since the package calls itself by its new name -> old name."""


class Finder(MetaPathFinder, Loader):
    """Finds modules under their old names; both a finder and a loader, as `importlib` knows them."""

    def __init__(self) -> None:
        self.specs: dict[str, ModuleSpec | None] = {}

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED or fullname in PARTS else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        old = PARTS.get(spec.name, spec.name)
        new = MOVED[old]
        warnings.warn(f"{old} is now {new}; the old name goes with the next version", DeprecationWarning, 2)
        module = importlib.import_module(new)
        self.specs[new] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is executed again; only the spec, which the import has replaced, is put back."""
        module.__spec__ = self.specs.pop(module.__name__)


def install() -> None:
    """Puts the finder before all others, which would read a file of a moved package a second time."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
