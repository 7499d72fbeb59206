"""Where else a run's numbers go: TensorBoard, Trackio or Weights & Biases, each a package of the extra `log`.

A run that is continued goes on in the same run there, whose id is kept in the run folder's log.json. All three work
without a network: TensorBoard and Trackio write files, W&B does so under WANDB_MODE=offline.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from dropmae.storage import write_json

Name = Literal["none", "tensorboard", "trackio", "wandb"]
MODULES = {"tensorboard": "torch.utils.tensorboard", "trackio": "trackio", "wandb": "wandb"}
PROJECT = "dropmae"


class Log:
    """Sends the lines of a run's journals to `name`; ValueError where its package is missing, OSError where it fails.

    `done` steps are finished. `reached` says up to which step each journal had come when the run stopped: those lines
    were sent then, and as the run does the same again they are not sent twice.
    """

    def __init__(self, name: str, out: Path, done: int, reached: dict[str, int]) -> None:
        self.name, self.skip = name, reached
        try:
            self.package: Any = importlib.import_module(MODULES[name])
        except ImportError as error:
            raise ValueError(f"--log {name} needs a package: pip install 'dropmae[log]' ({error})") from error
        self.writer: Any = None
        if name == "tensorboard":
            self.skip = {}  # it forgets what came after `done` by itself
            self.writer = self.package.SummaryWriter(str(out / "tensorboard"), purge_step=done)
            return
        kept, path = {}, out / "log.json"
        if path.exists():
            kept = json.loads(path.read_text())
        if name not in kept:
            self.skip = {}
            kept[name] = {"id": secrets.token_hex(4)}
            write_json(path, kept)
        config = json.loads((out / "config.json").read_text()) if (out / "config.json").exists() else {}
        with self._calling():
            self._open(out.resolve(), kept[name]["id"], config)

    def _open(self, out: Path, identity: str, config: dict[str, Any]) -> None:
        project = os.environ.get(f"{self.name.upper()}_PROJECT", PROJECT)
        if self.name == "trackio":  # runs are known by their names there
            self.package.init(project, f"{out.name}-{identity}", config=config, resume="allow", embed=False)
            return
        run = self.package.init(
            project=project, name=out.name, id=identity, config=config, resume="allow", dir=str(out)
        )
        run.define_metric("step")  # what validation finds may be sent before the steps that led there
        for kind in ("metrics", "validation"):
            run.define_metric(f"{kind}/*", step_metric="step")
        self.writer = run

    def send(self, kind: str, lines: Iterable[dict[str, Any]]) -> None:
        """Sends every number of `lines`, each with its "step", under the journal's name."""
        for line in lines:
            step = line["step"]
            if step <= self.skip.get(kind, -1):
                continue
            values = {f"{kind}/{name}": value for name, value in line.items() if _plots(name, value)}
            with self._calling():
                if self.name == "tensorboard":
                    for name, value in values.items():
                        self.writer.add_scalar(name, value, step)
                elif self.name == "trackio":
                    self.package.log(values, step=step)
                else:
                    self.writer.log({"step": step, **values})

    def close(self) -> None:
        with self._calling():
            if self.name == "tensorboard":
                self.writer.close()
            elif self.name == "trackio":
                self.package.finish()
            else:
                self.writer.finish()

    @contextlib.contextmanager
    def _calling(self) -> Any:
        """What the package prints goes to stderr, and what it raises is one line."""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except Exception as error:  # a package of others, over a network
            remedy = "; WANDB_MODE=offline keeps it on this machine" if self.name == "wandb" else ""
            raise OSError(f"--log {self.name} failed: {error}{remedy}") from error


def _plots(name: str, value: Any) -> bool:
    return name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool)
