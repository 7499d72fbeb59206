"""A run folder: opened or gone on with by one process at a time, described by its config.json, and read back.

`opened` is how every verb takes its `--out` folder: `pretrain`, `finetune`, `evaluate`. It holds the folder
(`locks.held`), refuses what is something else or of another configuration, and takes over a folder in which nothing
has been finished yet.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dropmae
from dropmae import locks, registry, storage
from dropmae.data.clips import collate
from dropmae.storage import Lines

CONFIG = "config.json"
PARTS = ("fields", "options", "data")
"""Parts of a training run's configuration in which two runs may differ."""
LENGTH = {"options.steps", "options.epochs"}
STAGES = 5
"""Most moments of training that a run tells of."""


@dataclass
class Record:
    """The configuration of a folder that is held; `write` puts it there once the work begins."""

    path: Path
    config: dict[str, Any]
    known: bool
    """Whether it is there already."""

    def write(self) -> None:
        if not self.known:
            storage.write_json(self.path, self.config)
            self.known = True


@contextlib.contextmanager
def opened(
    out: Path,
    config: dict[str, Any],
    begun: Callable[[Path], bool],
    *,
    noun: str = "run",
    parts: tuple[str, ...] = PARTS,
    classes: Mapping[str, type] | None = None,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
    free: Iterable[str] = (),
    extend: bool | None = None,
    main: bool = True,
) -> Iterator[Record]:
    """Holds `out` as the folder of what `config` describes; ValueError where it is something else's.

    `begun` says whether something is finished in it, which only the same configuration goes on with. What a folder does
    not tell that was begun before it could is as in `defaults`, or the default of the class whose fields a part holds
    (`classes`); old names of fields stand for those of today. Names in `free` may differ, and with `extend` the length
    of training. Where there are several processes, only the `main` one holds and writes.
    """
    try:
        config = json.loads(json.dumps(config, default=str, allow_nan=False))
    except ValueError:
        raise ValueError(f"not a finite number: {', '.join(endless(config))}") from None
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} exists and is not a folder; choose another --out")
    with locks.held(out) if main else contextlib.nullcontext():
        known = _compared(out, config, begun, noun, parts, classes or {}, defaults or {}, set(free), extend)
        if main:
            storage.clean(out)
        yield Record(out / CONFIG, config, known or not main)


def endless(value: Any, name: str = "") -> list[str]:
    """The names of numbers in nested settings that are not finite, with their values."""
    if isinstance(value, float):
        return [] if math.isfinite(value) else [f"{name} {value}"]
    if isinstance(value, (list, tuple)):
        return [line for one in value for line in endless(one, name)]
    return [line for key, one in value.items() for line in endless(one, str(key))] if isinstance(value, dict) else []


def _compared(
    out: Path,
    config: dict[str, Any],
    begun: Callable[[Path], bool],
    noun: str,
    parts: tuple[str, ...],
    classes: Mapping[str, type],
    defaults: Mapping[str, Mapping[str, Any]],
    free: set[str],
    extend: bool | None,
) -> bool:
    """Whether the configuration in `out` stays; ValueError where `out` is another's."""
    path = out / CONFIG
    if not out.is_dir() or all(entry.name.startswith(".") for entry in out.iterdir()):
        return False
    old = _json(path) if path.is_file() else None
    if not isinstance(old, dict) or not set(parts[:2]) <= old.keys():
        article = "an" if noun[0] in "aeiou" else "a"
        raise ValueError(f"{out} exists and is no folder of {article} {noun}; choose another --out")
    if not begun(out):
        return False
    given = {**{part: registry.defaults(cls) for part, cls in classes.items()}, **defaults}
    given = json.loads(json.dumps(given, default=str))
    told = {part: registry.renamed(classes.get(part, Record), old.get(part, {})) for part in parts}
    was = {part: {**given.get(part, {}), **told[part]} for part in parts}
    differing = {
        f"{part}.{name}": f"{part}.{name} was {was[part].get(name)!r}, now {config[part].get(name)!r}"
        for part in parts
        for name in sorted({*config[part], *was[part]})
        if name not in free and was[part].get(name) != config[part].get(name)
    }
    if old.get("method") != config.get("method"):
        differing = {"method": f"method was {old.get('method')!r}, now {config['method']!r}", **differing}
    if differing.keys() <= LENGTH and extend:
        return not differing
    if differing:
        told = "; ".join(differing.values())
        hint = "Choose another --out"
        if differing.keys() <= LENGTH and extend is not None:
            hint = "--extend goes on to the new length, by its schedule from here on; or choose another --out"
        raise ValueError(f"{out} belongs to another {noun if noun != 'run' else 'configuration'}: {told}. {hint}")
    return True


def describe(
    kind: str, name: str, module: Any, options: Any, data: Mapping[str, Any], processes: int
) -> dict[str, Any]:
    """What a training run is: its method or task, settings and data, and, for the record, where it was made."""
    return {
        "kind": kind,
        "method": name,
        "fields": registry.settings(module),
        "options": asdict(options),
        "data": dict(data),
        "environment": {
            "dropmae": dropmae.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "processes": processes,
        },
    }


def trained(out: Path) -> bool:
    """Whether a run has saved anything."""
    resume = out / "resume"
    return (out / "last.safetensors").exists() or (
        resume.is_dir() and any(not entry.name.startswith(".") for entry in resume.iterdir())
    )


class Probe:
    """Numbers of a module on fixed samples, for validation.jsonl: `probe(module, step)`."""

    def __init__(self, samples: Callable[[], list[dict[str, Any]]], seed: int, portion: int) -> None:
        """`samples` are made when they are first needed; `portion` of them go through the network at once."""
        self.make, self.seed, self.portion = samples, seed, portion
        self.samples: list[dict[str, Any]] | None = None

    def __call__(self, module: Any, step: int) -> dict[str, Any]:
        if self.samples is None:
            self.samples = self.make()
        device = next(module.parameters()).device
        totals: dict[str, float] = {}
        for start in range(0, len(self.samples), self.portion):
            batch = collate([dict(sample) for sample in self.samples[start : start + self.portion]])
            batch = {name: value.to(device) for name, value in batch.items() if isinstance(value, torch.Tensor)}
            values = module.probe({**batch, "seed": self.seed, "step": step, "progress": 1.0})
            if len(self.samples) <= self.portion:
                return values
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value * len(batch["index"]) / len(self.samples)
        return totals


@dataclass(eq=False)
class Run:
    """A run folder."""

    folder: Path
    name: str = ""

    def __post_init__(self) -> None:
        if not (self.folder / "config.json").is_file():
            raise FileNotFoundError(f"{self.folder}: no run folder (it holds no config.json)")
        self.config: dict[str, Any] = _json(self.folder / "config.json")
        if not isinstance(self.config, dict) or not {"method", "options", "data"} <= self.config.keys():
            hint = ": it holds an evaluation, whose numbers are in numbers.json" if "benchmark" in self.config else ""
            raise OSError(f"{self.folder} is not the folder of a training run{hint}")
        name = str(self.config["method"])  # a user's file is not run for its title
        self.kind: str = self.config.get("kind") or ("tasks" if "sources" in self.config["data"] else "methods")
        self.method = Path(name).stem if name.endswith(".py") else registry.load(self.kind, name).__name__
        self.metrics = Lines(self.folder / "metrics.jsonl").read()
        self.validation = Lines(self.folder / "validation.jsonl").read()
        bad = self.folder / "bad_files.json"
        self.bad: dict[str, dict[str, Any]] = _json(bad) if bad.exists() else {}

    @property
    def batch(self) -> int:
        return int(self.config["options"]["global_batch"])

    @property
    def videos(self) -> int:
        """Sequences that it learns from."""
        data = self.config["data"]
        return data["videos"] if "videos" in data else sum(source["sequences"] for source in data["sources"])

    def names(self, *, validation: bool = False) -> list[str]:
        """What the run tells of each step, or of each validation."""
        lines = self.validation if validation else self.metrics
        return list(dict.fromkeys(name for line in lines[-50:] for name in line))

    def series(self, name: str, *, validation: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Samples seen and values of a metric; missing values are NaN."""
        lines = [line for line in (self.validation if validation else self.metrics) if name in line]
        values = [np.nan if line[name] is None else float(line[name]) for line in lines]
        return np.array([line["step"] for line in lines], float) * self.batch, np.array(values)

    @property
    def samples(self) -> int:
        return int(self.metrics[-1]["step"]) * self.batch if self.metrics else 0

    @property
    def seconds(self) -> float:
        """Time spent in optimizer steps."""
        speed = self.series("clips_per_s")[1]
        return float(np.sum(self.batch / speed[speed > 0]))

    @property
    def speed(self) -> float:
        speed = self.series("clips_per_s")[1]
        return float(np.median(speed)) if len(speed) else 0.0

    @property
    def memory(self) -> str:
        used = self.series("memory_mb")[1]
        return f"{np.nanmax(used):,.0f} MB" if np.isfinite(used).any() else ""

    def ends(self, name: str, *, validation: bool = False) -> tuple[float, float] | None:
        """First and last value; of the training loss means over 2 % of the run."""
        values = self.series(name, validation=validation)[1]
        if not np.isfinite(values).any():
            return None
        values = values[np.isfinite(values)]
        few = 1 if validation else max(1, len(values) // 50)
        return float(values[:few].mean()), float(values[-few:].mean())

    @cached_property
    def attention(self) -> dict[str, Any] | None:
        path = self.folder / "figures" / "attention.json"
        return _json(path)["runs"][0] if path.exists() else None

    def stages(self) -> list[tuple[int, Path]]:
        """Steps and pictures of reconstructions during training, at most STAGES, spread over the run."""
        files = sorted((self.folder / "figures" / "progress").glob("step-*.png"))
        # Most happens early, so that the early ones lie closer together.
        places = np.unique((np.linspace(0, 1, STAGES) ** 1.5 * (len(files) - 1)).round().astype(int)) if files else []
        return [(int(files[place].stem.split("-")[1]), files[place]) for place in places]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise OSError(f"{path} is not readable: {error}") from error
