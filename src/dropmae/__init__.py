"""dropmae: learning and using temporal matching in video.

    import dropmae

    dropmae.pretrain("dropmae", "videos/", out="run", size="small", epochs=400)
    module = dropmae.load("run/last.safetensors")
    video = dropmae.Video("clip.mp4")

Every verb of the command line has the same name here. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

VERBS = {
    "demo": "demo",
    "prepare": "prepare",
    "pretrain": "pretrain",
    "finetune": "finetune",
    "track": "track",
    "evaluate": "evaluate",
    "score": "evaluate",
    "reconstruct": "inspection",
    "attention": "inspection",
    "report": "report",
    "info": "info",
    "convert": "convert",
    "synth": "synth",
    "bench": "bench",
}
"""Verb -> the module that holds the function of that name."""

_NAMES = {**VERBS, "load": "weights", "Video": "video", "Target": "target", "Sequence": "clips"}


if TYPE_CHECKING:  # what __getattr__ gives, for people's editors
    from dropmae.bench import bench as bench
    from dropmae.clips import Sequence as Sequence
    from dropmae.convert import convert as convert
    from dropmae.demo import demo as demo
    from dropmae.evaluate import evaluate as evaluate
    from dropmae.evaluate import score as score
    from dropmae.finetune import finetune as finetune
    from dropmae.info import info as info
    from dropmae.inspection import attention as attention
    from dropmae.inspection import reconstruct as reconstruct
    from dropmae.prepare import prepare as prepare
    from dropmae.pretrain import pretrain as pretrain
    from dropmae.report import report as report
    from dropmae.synth import synth as synth
    from dropmae.target import Target as Target
    from dropmae.track import track as track
    from dropmae.video import Video as Video
    from dropmae.weights import load as load


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'dropmae' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dropmae.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})


class _Package(ModuleType):
    """Keeps `dropmae.pretrain` the verb although importing the module of that name would put the module there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in VERBS):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
