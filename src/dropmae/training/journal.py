"""What a run leaves behind while it goes on: a line per step, a line per validation, and the files that were bad."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dropmae import machine
from dropmae.progress import say
from dropmae.storage import Lines, write_json
from dropmae.training import distributed
from dropmae.training.logs import Log

FLUSH_SECONDS = 1.0
BAD_STEPS = 3


class MetricsLog:
    """metrics.jsonl, one line per optimizer step, and validation.jsonl; flushed at least every second."""

    def __init__(self, out: Path, done: int, log: str) -> None:
        self.main = distributed.is_main()
        self.pending: list[tuple[int, Tensor, Mapping[str, Tensor], Tensor, Tensor, dict[str, Any]]] = []
        self.last: dict[str, Any] = {}
        self.flushed, self.next = time.perf_counter(), done + 1
        self.bad: list[int] = []
        self.checked = -1
        """Step of the last validation there is."""
        self.log: Log | None = None
        if not self.main:
            return
        self.files = {kind: Lines(out / f"{kind}.jsonl") for kind in ("metrics", "validation")}
        reached = {kind: _truncate(lines, done) for kind, lines in self.files.items()}
        self.checked = max((row["step"] for row in self.files["validation"].read()), default=-1)
        if log != "none":
            self.log = Log(log, out, done, reached)

    def add(
        self,
        step: int,
        loss: Tensor,
        named: Mapping[str, Tensor],
        norm: Tensor,
        finite: Tensor,
        lr: float,
        seconds: float,
        waited: float,
        batch: int,
        device: torch.device,
    ) -> None:
        """Notes one step; the tensors are read only when flushed, so that the device is not waited for.

        `named` are the further losses that the model gives, by name.
        """
        line = {
            "lr": lr,
            "clips_per_s": batch / seconds,
            "data_wait": min(1.0, waited / seconds),
            "memory_mb": _memory(device),
        }
        self.pending.append((step, loss, named, norm, finite, line))

    def due(self, step: int) -> bool:
        """Whether to flush after this step; the same on every rank, so that all of them stop at the same step."""
        return step >= self.next

    def flush(self, asked: int = 0) -> int:
        """On every rank: writes what is pending; FloatingPointError where three steps in a row were not finite.

        Gives the number of a signal that any rank was `asked` to stop by, the same on all of them.
        """
        count, now = len(self.pending), time.perf_counter()
        self.write()
        if count:
            self.next = self.last["step"] + max(1, int(FLUSH_SECONDS * count / (now - self.flushed)))
        told = distributed.gather((self.next, asked))
        self.next, self.flushed = told[0][0], now
        return max(number for _, number in told)

    def write(self) -> None:
        """Writes what is pending."""
        lines = []
        for step, loss, named, norm, finite, line in self.pending:
            fine = bool(finite)
            self.last = {
                "step": step,
                "loss": loss.item() if fine else None,
                **{name: value.item() if fine else None for name, value in named.items()},
                "grad_norm": norm.item() if fine else None,
                **line,
            }
            lines.append(self.last)
            self.bad = [] if fine else [*self.bad, step]
            if len(self.bad) >= BAD_STEPS:
                self._write("metrics", lines)
                raise FloatingPointError(
                    f"loss or gradient was not finite in steps {', '.join(map(str, self.bad))}: stopped; the weights "
                    "are those before them. A lower --lr or --precision fp32 may help"
                )
        self.pending.clear()
        self._write("metrics", lines)

    def validated(self, step: int, values: dict[str, Any]) -> None:
        self._write("validation", [{"step": step, **values}])

    def _write(self, kind: str, lines: list[dict[str, Any]]) -> None:
        if not self.main or not lines:
            return
        self.files[kind].add(lines)
        if self.log is not None:
            self.log.send(kind, lines)

    def close(self) -> None:
        if self.log is not None:
            self.log.close()


@dataclass
class BadFiles:
    """Videos that could not be read, each named once, with the samples that were replaced for them."""

    out: Path
    known: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path = self.out / "bad_files.json"
        self.fresh: list[tuple[str, str]] = []
        if self.path.exists():
            self.known = json.loads(self.path.read_text())

    def add(self, reports: list[tuple[str, str]]) -> None:
        self.fresh += reports

    def merge(self) -> None:
        """Joins the reports of all ranks, names each new file once and writes bad_files.json."""
        reports = [report for rank in distributed.gather(self.fresh) for report in rank]
        self.fresh = []
        for name, reason in reports:
            if name not in self.known:
                self.known[name] = {"reason": reason, "samples": 0}
                if distributed.is_main():
                    say(f"bad file: {name}: {reason}")
            self.known[name]["samples"] += 1
        if reports and distributed.is_main():
            write_json(self.path, self.known)


def _memory(device: torch.device) -> float:
    """MB in use: on the GPU the peak of its allocator, on a CPU the resident size of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return machine.resident()


def _truncate(lines: Lines, done: int) -> int:
    """Drops the lines of steps after `done`, and a torn last line, that a killed run left behind.

    Returns the last step that was there, -1 where there was none.
    """
    if not lines.path.exists():
        return -1
    rows = [row for row in lines.read() if "step" in row]
    lines.rewrite(row for row in rows if done and row["step"] <= done)
    return rows[-1]["step"] if rows else -1
