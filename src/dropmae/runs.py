"""What a run left in its folder, read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dropmae import registry

STAGES = 5
"""Most moments of training that a run tells of."""


@dataclass(eq=False)
class Run:
    """A run folder."""

    folder: Path
    name: str = ""

    def __post_init__(self) -> None:
        if not (self.folder / "config.json").is_file():
            raise FileNotFoundError(f"{self.folder}: no run folder (it holds no config.json)")
        self.config: dict[str, Any] = _json(self.folder / "config.json")
        name = str(self.config["method"])  # a user's file is not run for its title
        self.method = Path(name).stem if name.endswith(".py") else registry.load("methods", name).__name__
        self.metrics = _lines(self.folder / "metrics.jsonl")
        self.validation = _lines(self.folder / "validation.jsonl")
        bad = self.folder / "bad_files.json"
        self.bad: dict[str, dict[str, Any]] = _json(bad) if bad.exists() else {}

    @property
    def batch(self) -> int:
        return int(self.config["options"]["global_batch"])

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


def _lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a journal that may just be written: a torn last line is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
