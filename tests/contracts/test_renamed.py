"""Fields with new names: the old ones are understood in weights, run folders, flags, --set and Python, and said."""

from __future__ import annotations

from dataclasses import MISSING
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dropmae
from dropmae import cli, registry, runs, weights
from samples import SQUARE, moving_square

USERS = """
from dataclasses import dataclass
import numpy as np
from dropmae.contracts import Benchmark

@dataclass(kw_only=True)
class Mine(Benchmark):
    RENAMED = {"many": "count", "strict": "exact"}
    count: int = 1
    exact: bool = False
    def sequences(self, root, split=None): return []
    def annotations(self, root, split=None): return {}
    def read(self, results, annotations): return {}
    def write(self, name, targets, out, seconds=None): pass
    def score(self, results, annotations, *, map=map): return {"count": self.count, "sequences": {}}
"""


def test_every_table_leads_from_no_field_to_a_field() -> None:
    told = 0
    for folder in ("methods", "tasks", "benchmarks", "datasets", "exports"):
        for name in registry.names(folder):
            cls = registry.load(folder, name)
            fields = {field for field, _, default in registry.fields(cls) if default is not MISSING}
            for old, new in registry.renames(cls).items():
                assert old not in fields, (name, old)
                assert new in fields, (name, new)
                told += 1
    assert told > 10


def test_shipped_weights_of_then_load() -> None:
    fields = weights.read_header("shipped:vot")["fields"]
    module = weights.load("shipped:vot")
    renames = registry.renames(type(module))
    old = fields.keys() & renames.keys()
    assert len(old) > 5, "written before the names changed"
    for field in old:
        value = getattr(module, renames[field])
        assert (list(value) if isinstance(value, tuple) else value) == fields[field], field


def test_a_run_folder_of_then_is_the_same_run(tmp_path: Path) -> None:
    cls = registry.load("tasks", "vot")
    old: dict[str, Any] = {"method": "vot", "fields": {"inertia": 0.5}, "options": {}, "data": {}}
    begun = lambda out: True  # noqa: E731
    with runs.opened(tmp_path / "run", old, begun) as record:
        record.write()
    new = {**old, "fields": {**registry.defaults(cls), "size_smoothing": 0.5}}
    with runs.opened(tmp_path / "run", new, begun, classes={"fields": cls}) as record:
        assert record.known
    new["fields"]["size_smoothing"] = 0.6
    with pytest.raises(ValueError, match=r"size_smoothing was 0.5, now 0.6"):
        runs.opened(tmp_path / "run", new, begun, classes={"fields": cls}).__enter__()


def test_flags_settings_and_arguments_of_then(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["finetune", "vot", "data", "--out", "o", "--inertia", "0.5", "--calibrate", "--keep=1"]
    given = cli.parse(words)[1]
    assert (given["size_smoothing"], given["first_frame_bias"], given["ce_keep_ratio"]) == (0.5, True, 1.0)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert "--inertia is now called --size-smoothing; the old name goes with the next version" in said[0]
    np.save(tmp_path / "clip.npy", moving_square(3))
    options: dict[str, Any] = {"box": SQUARE, "weights": "shipped:vot", "device": "cpu", "precision": "fp32"}
    found = dict(dropmae.track(tmp_path / "clip.npy", **options, set=("inertia=1",)))
    assert found[2].boxes[0, 2:] == pytest.approx(SQUARE[2:])
    assert "inertia is now called size_smoothing" in capsys.readouterr().err
    with pytest.raises(ValueError, match="inertia is now called size_smoothing, which is given too"):
        dropmae.track(tmp_path / "clip.npy", **options, set=("inertia=1", "size_smoothing=0"))


def test_a_users_file_has_a_table_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(USERS)
    words = [str(tmp_path / "mine.py"), "--results", str(tmp_path), "--root", str(tmp_path)]
    assert cli.parse(["score", *words, "--many", "3", "--no-strict"])[1]["exact"] is False
    assert "--no-strict is now called --no-exact" in capsys.readouterr().err
    assert dropmae.score(words[0], results=tmp_path, root=tmp_path, many=3)["count"] == 3
    assert "many is now called count" in capsys.readouterr().err
