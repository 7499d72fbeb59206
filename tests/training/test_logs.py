"""Logs elsewhere: each package gets every number once, also of a run that was stopped and continued."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dropmae.cli import main
from dropmae.training.fit import fit
from dropmae.training.logs import Log
from test_fit import Line, clips, lines, options, save


class Recorder:
    """Takes the place of trackio and wandb and notes what it is called with, as those expect it."""

    def __init__(self) -> None:
        self.opened: list[dict[str, Any]] = []
        self.sent: list[tuple[int, dict[str, float]]] = []
        self.metrics: list[str] = []
        self.closed = 0

    def init(self, project: str, name: str, **rest: Any) -> Any:
        print("this must not reach stdout")
        self.opened.append({"project": project, "name": name, **rest})
        return self

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.metrics.append(name)

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        values = dict(values)
        self.sent.append((int(values.pop("step")) if step is None else step, values))

    def finish(self) -> None:
        self.closed += 1


@pytest.fixture(params=["trackio", "wandb"])
def recorder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Recorder]:
    made = Recorder()
    module = ModuleType(request.param)
    for name in ("init", "log", "finish"):
        setattr(module, name, getattr(made, name))
    monkeypatch.setitem(sys.modules, request.param, module)
    return request.param, made


def test_a_continued_run_goes_on_in_the_same_one(
    recorder: tuple[str, Recorder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, made = recorder

    def stop(module: Any, path: Path) -> None:
        raise InterruptedError

    def validate(module: Any, step: int) -> dict[str, Any]:
        return {"gap": step / 2, "note": "no number"}

    every: dict[str, Any] = {"save_every": "7", "validate_every": "10", "log": name}
    with pytest.raises(InterruptedError):
        fit(Line(poison=(3,)), clips(), options(**every), tmp_path, save=stop, validate=validate)
    # as if it had come further than its checkpoint before it was killed
    line = {**lines(tmp_path / "metrics.jsonl")[-1], "step": 8}
    made.sent.append((8, {"metrics/loss": line["loss"]}))
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write(json.dumps(line) + "\n")
    fit(Line(poison=(3,)), clips(), options(**every), tmp_path, save=save, validate=validate)
    steps = [step for step, values in made.sent if any(key.startswith("metrics/") for key in values)]
    assert sorted(steps) == list(range(1, 21))
    by_step = {step: values for step, values in made.sent if "metrics/lr" in values}
    for row in lines(tmp_path / "metrics.jsonl"):
        if row["step"] != 8:
            assert by_step[row["step"]].get("metrics/loss") == row["loss"]
    assert [(s, v) for s, v in made.sent if "validation/gap" in v] == [
        (0, {"validation/gap": 0.0}),
        (10, {"validation/gap": 5.0}),
        (20, {"validation/gap": 10.0}),
    ]
    first, second = made.opened
    assert first == second
    identity = json.loads((tmp_path / "log.json").read_text())[name]["id"]
    assert identity in (first["id"] if name == "wandb" else first["name"])
    assert first["resume"] == "allow"
    assert made.closed == 2
    assert "must not" not in capsys.readouterr().out


def test_failures_are_one_line(recorder: tuple[str, Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _ = recorder

    def fail(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("no key")

    monkeypatch.setattr(sys.modules[name], "init", fail)
    with pytest.raises(OSError, match=f"--log {name} failed: no key"):
        Log(name, tmp_path, 0, {})


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_names_the_extra(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorboard", "torch.utils.tensorboard", "trackio", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=r"pip install 'dropmae\[log\]'"):
        fit(Line(), clips(), options(log=name), tmp_path, save=save)


def test_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scalars: list[tuple[str, float, int]] = []

    def writer(folder: str, purge_step: int) -> Any:
        assert folder == str(tmp_path / "tensorboard")
        return SimpleNamespace(add_scalar=lambda *entry: scalars.append(entry), close=lambda: None)

    module = ModuleType("torch.utils.tensorboard")
    setattr(module, "SummaryWriter", writer)  # noqa: B010
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    fit(Line(), clips(), options(log="tensorboard", steps=3), tmp_path, save=save)
    assert [step for name, _, step in scalars if name == "metrics/loss"] == [1, 2, 3]


def test_an_unknown_log_is_refused(tmp_path: Path) -> None:
    assert main(["pretrain", "mae", str(tmp_path), "--out", str(tmp_path / "run"), "--log", "paper"]) == 2


def test_the_real_trackio_keeps_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio", raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for step in (1, 2):
        log = Log("trackio", tmp_path, step - 1, {"metrics": step - 1})
        log.send("metrics", [{"step": step, "loss": 1.0 / step}])
        log.close()
    storage: Any = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
    (run,) = storage.get_runs("dropmae")
    assert [row["metrics/loss"] for row in storage.get_logs("dropmae", run)] == [1.0, 0.5]


def test_the_real_wandb_works_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for step in (1, 2):
        log = Log("wandb", tmp_path, step - 1, {"metrics": step - 1})
        log.send("metrics", [{"step": step, "loss": 1.0 / step}])
        log.close()
    identity = json.loads((tmp_path / "log.json").read_text())["wandb"]["id"]
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{identity}"))) == 2
