"""Shared fixtures. Tests that need real videos read DROPMAE_TEST_DATA and say so when they are skipped."""

from __future__ import annotations

import gc
import importlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dropmae.sequence import Sequence

if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, here and in what is started

gc.disable()  # until all is imported: nothing of that is garbage, and to look for some takes a fifth of the time

SLOW = {
    *(
        "asad_forms",
        "asad_training",
        "asad_triton",
        "before_the_house",
        "bench",
        "contracts",
        "contracts_kinds",
        "contracts_page",
        "dcf",
        "dcf_learning",
    ),
    *(
        "camera",
        "camera_browser",
        "demo",
        "distill",
        "dropseg",
        "encoders",
        "engine",
        "evaluation",
        "finetune",
        "frame_numbers",
        "images",
    ),
    *("inspection", "int8", "moved", "official", "opening", "prepare", "pretrain", "propagation", "public", "readme"),
    *("recipes", "report", "resample", "resident", "sharding", "shards", "shipped", "shipped_tracker"),
    *("embedded", "show", "siammae", "simulation", "sot_benchmarks", "synth", "track", "users_files", "video", "vos"),
    *("fuzz", "goldens", "graphs"),
    *("interruption", "page", "page_browser", "runs", "shipped_encoder", "siamese", "vos_training", "vot", "weights"),
}
"""Modules of tests that take long as a whole; single tests elsewhere are marked `slow` themselves."""


def pytest_configure(config: pytest.Config) -> None:
    """Says how triton is used, before anything imports it: its functions are made for the interpreter or not then.

    `import torch` does not import it, but torch._dynamo does, which comes with many a module of ours. The process that
    only hands tests to others needs no torch.
    """
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        import torch

        if not torch.cuda.is_available():
            os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Modules of which every test is slow are not even imported where none of these is asked for."""
    without = "not slow" in (config.option.markexpr or "").split(" and ")
    name = collection_path.name  # of a folder too, which may be called as a module is
    return True if without and name.removeprefix("test_").removesuffix(".py") in SLOW and name[-3:] == ".py" else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what takes long and what reads real videos, and leaves out what needs a GPU where there is none."""
    import torch

    for item in items:
        if item.path.stem.removeprefix("test_") in SLOW:
            item.add_marker(pytest.mark.slow)
        if "test_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.data)
        if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="this machine has no GPU"))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real test data; the test is skipped where the machine has none."""
    folder = os.environ.get("DROPMAE_TEST_DATA")
    if not folder:
        pytest.skip("DROPMAE_TEST_DATA is not set: this test needs real video")
    return Path(folder).resolve()


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process end with a report without curves, which take longer to draw than a tiny network to train."""
    monkeypatch.setattr(importlib.import_module("dropmae.verbs.report"), "learning", lambda runs: "")


@pytest.fixture(scope="session")
def sequences() -> list[Sequence]:
    """Ten short clips in memory."""
    from dropmae.sequence import Sequence
    from samples import moving_squares

    return [Sequence(f"clip{number}", moving_squares(number)) for number in range(10)]
