"""dropmae: learning and using temporal matching in video.

    import dropmae

    dropmae.pretrain("dropmae", "videos/", out="run", size="small", epochs=400)
    module = dropmae.load("run/last.safetensors")
    video = dropmae.Video("clip.mp4")

Every verb of the command line has the same name here. Nothing heavy is imported before it is used.

Threads that wait let others work: OMP_WAIT_POLICY=PASSIVE is set, unless it is set already, and holds where this is
imported before torch. Beside other busy processes the default, to spin, is many times slower.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from dropmae import _moved

__version__ = "0.1.0"

_moved.install()
for _name, _value in (("OMP_WAIT_POLICY", "PASSIVE"), ("KMP_BLOCKTIME", "0")):  # libgomp's; Intel's and LLVM's
    os.environ.setdefault(_name, _value)

VERBS = {
    "demo": "verbs.demo",
    "prepare": "verbs.prepare",
    "pretrain": "verbs.pretrain",
    "finetune": "verbs.finetune",
    "track": "verbs.track",
    "show": "verbs.show",
    "web": "verbs.web",
    "evaluate": "verbs.evaluate",
    "score": "verbs.evaluate",
    "reconstruct": "verbs.inspection",
    "attention": "verbs.inspection",
    "report": "verbs.report",
    "info": "verbs.info",
    "convert": "verbs.convert",
    "synth": "rendering.synth",
    "bench": "verbs.bench",
}
"""Verb -> the module that holds the function of that name; no module here may be called as a verb is."""

_NAMES = {
    **VERBS,
    "load": "weights",
    "save": "weights",
    "trust": "registry",
    "Video": "video",
    "Target": "target",
    "Sequence": "sequence",
}


if TYPE_CHECKING:  # what __getattr__ gives, for people's editors
    from dropmae.registry import trust as trust
    from dropmae.rendering.synth import synth as synth
    from dropmae.sequence import Sequence as Sequence
    from dropmae.target import Target as Target
    from dropmae.verbs.bench import bench as bench
    from dropmae.verbs.convert import convert as convert
    from dropmae.verbs.demo import demo as demo
    from dropmae.verbs.evaluate import evaluate as evaluate
    from dropmae.verbs.evaluate import score as score
    from dropmae.verbs.finetune import finetune as finetune
    from dropmae.verbs.info import info as info
    from dropmae.verbs.inspection import attention as attention
    from dropmae.verbs.inspection import reconstruct as reconstruct
    from dropmae.verbs.prepare import prepare as prepare
    from dropmae.verbs.pretrain import pretrain as pretrain
    from dropmae.verbs.report import report as report
    from dropmae.verbs.show import show as show
    from dropmae.verbs.track import track as track
    from dropmae.verbs.web import web as web
    from dropmae.video import Video as Video
    from dropmae.weights import load as load
    from dropmae.weights import save as save


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'dropmae' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dropmae.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
