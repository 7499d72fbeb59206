"""Sharded training: two processes on a CPU do what DistributedDataParallel does, and what they leave can be resumed."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import socket
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint import metadata

from dropmae import storage
from dropmae.contracts import Model
from dropmae.data.clips import Clips, Sequence
from dropmae.nn.groups import decay_groups
from dropmae.nn.vit import Block
from dropmae.training import checkpoints, distributed
from dropmae.training.fit import Options, fit


class Blocks(Model):
    """Two transformer blocks over tokens, with what FSDP treats apart: a token, a norm, a head, running statistics."""

    def __init__(self, poison: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.blocks = nn.ModuleList(Block(8, 2) for _ in range(2))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)
        self.register_buffer("seen", torch.zeros(()))
        self.poison = poison

    def groups(self, options: Any) -> list[dict[str, Any]]:
        return decay_groups(self)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        x = batch["x"]
        self.seen += x.mean()
        tokens = x + self.token
        for block in self.blocks:
            tokens = block(tokens)
        loss = (self.head(self.norm(tokens)).float() - x[..., :3]).square().mean()
        return {"loss": loss * float("nan") if batch["step"] in self.poison else loss}


def sample(sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
    return {"x": rng.standard_normal((5, 8)).astype(np.float32)}


def save(module: nn.Module, path: Path) -> None:
    save_file(module.state_dict(), path)


def train(out: Path, poison: tuple[int, ...] = (), **changes: Any) -> dict[str, Any]:
    """A run on as many processes as there are; its summary, and what validation saw."""
    usual: dict[str, Any] = {"steps": 12, "global_batch": 12, "micro_batch": 2, "lr": 0.4, "workers": 0}
    usual |= {"device": "cpu", "warmup": "2", "precision": "fp32", "clip": 0.5, "save_every": "4"}
    torch.manual_seed(0)
    module = Blocks(poison)
    seen: list[float] = []

    def validate(module: nn.Module, step: int) -> dict[str, Any]:
        seen.append(float(module.state_dict()["head.weight"].abs().sum()))
        return {"size": seen[-1]}

    clips = Clips([Sequence(str(i), i) for i in range(10)], sample, 0)
    summary = fit(module, clips, Options(**{**usual, **changes}), out, save=save, validate=validate)
    return {**summary, "seen": seen, "whole": {name: tensor.tolist() for name, tensor in module.state_dict().items()}}


def _rank(rank: int, world: int, port: int, queue: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    try:
        queue.put((rank, work(*arguments)))
    except (OSError, FloatingPointError) as error:
        queue.put((rank, str(error)))
    distributed.stop()


def launch(world: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work` returns, or its error, on each of `world` processes; None where it was killed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dropmae.training.fit", "safetensors.torch", "torch._dynamo", "pytest"])
    queue = context.Queue()
    ranks = [context.Process(target=_rank, args=(i, world, port, queue, work, arguments)) for i in range(world)]
    for process in ranks:
        process.start()
    found: dict[int, Any] = {}
    while len(found) < world and all(process.exitcode in (None, 0) for process in ranks):
        try:
            rank, value = queue.get(timeout=0.1)
        except Empty:
            continue
        found[rank] = value
    for process in ranks:
        if len(found) < world:
            process.kill()
        process.join()
    return [found.get(rank) for rank in range(world)]


def losses(out: Path) -> list[float | None]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def known(name: str, tensor: Tensor) -> Tensor:
    """A tensor without the keys' biases: softmax does not see them, so that Adam follows rounding errors there."""
    return torch.cat([tensor[:8], tensor[16:]]) if name.endswith("qkv.bias") else tensor


def both(out: Path) -> list[dict[str, Any]]:
    return [
        train(out / f"{precision}-{shard}", shard=shard, precision=precision)
        for precision in ("fp32", "bf16")
        for shard in (False, True)
    ]


def test_shards_learn_what_whole_copies_learn(tmp_path: Path) -> None:
    found, _ = launch(2, both, tmp_path)
    for precision, whole, sharded in (("fp32", *found[:2]), ("bf16", *found[2:])):
        one, other = tmp_path / f"{precision}-False", tmp_path / f"{precision}-True"
        np.testing.assert_allclose(losses(one), losses(other), rtol=1e-5)  # type: ignore[arg-type]
        assert losses(one)[-1] < losses(one)[0]  # type: ignore[operator]
        norms = [[json.loads(line)["grad_norm"] for line in (run / "metrics.jsonl").open()] for run in (one, other)]
        np.testing.assert_allclose(norms[0], norms[1], rtol=1e-4)
        assert max(norms[0]) > 0.5  # so that clipping was at work
        np.testing.assert_allclose(whole["seen"], sharded["seen"], rtol=1e-4)  # validation sees whole weights
        files = [load_file(run / "last.safetensors") for run in (one, other)]
        assert {name: tensor.shape for name, tensor in files[0].items()} == {n: t.shape for n, t in files[1].items()}
        for name, tensor in files[0].items():
            torch.testing.assert_close(known(name, files[1][name]), known(name, tensor), atol=5e-4, rtol=1e-3)
            assert torch.equal(files[1][name], torch.tensor(sharded["whole"][name]))  # the caller's module is filled
        assert (one / "resume" / checkpoints.FILE).exists()
        assert [path.name for path in (other / "resume").iterdir()] == ["shares-000000012"]


def poisoned(out: Path) -> list[Any]:
    summaries = [train(out / "skip", poison=(4, 8), shard=True)["loss"]]
    return [*summaries, train(out / "stop", poison=(4, 5, 6), shard=True)]


def test_non_finite_steps_are_left_out_on_every_process(tmp_path: Path) -> None:
    found = launch(2, poisoned, tmp_path)
    assert all("not finite in steps 5, 6, 7" in text for text in found)
    assert [step for step, loss in enumerate(losses(tmp_path / "skip"), 1) if loss is None] == [5, 9]
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "skip" / "last.safetensors").values())


def killed(out: Path, within: bool) -> None:
    """Training in which a process dies at the second checkpoint: while shares are written, or when they are whole."""
    written, stored, count = checkpoints.checkpoint.save, save, 0

    def die_within(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == 2 and not distributed.is_main():
            os.kill(os.getpid(), signal.SIGKILL)
        return written(*arguments, **named)

    def die_after(module: nn.Module, path: Path) -> None:
        if (out / "resume" / "shares-000000008").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        stored(module, path)

    if within:
        checkpoints.checkpoint.save = die_within
    else:
        globals()["save"] = die_after
    train(out, shard=True)


@pytest.mark.parametrize("within", [True, False], ids=["while-writing", "after-writing"])
def test_killed_and_continued_gives_the_same_bits(tmp_path: Path, within: bool) -> None:
    launch(2, killed, tmp_path, within)
    reached = checkpoints.newest(tmp_path)
    assert reached is not None
    assert checkpoints.step_of(reached) == (4 if within else 8)
    launch(2, partial(train, shard=True), tmp_path)
    assert [path.name for path in (tmp_path / "resume").iterdir()] == ["shares-000000012"]
    launch(2, partial(train, shard=True), tmp_path / "whole")
    one, other = (load_file(run / "last.safetensors") for run in (tmp_path, tmp_path / "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert losses(tmp_path) == losses(tmp_path / "whole")


def test_continued_by_other_numbers_of_processes_sharded_or_not(tmp_path: Path) -> None:
    train(tmp_path / "one")
    for number, (world, shard, steps) in enumerate([(2, True, 4), (3, True, 6), (2, False, 8), (3, True, 10)]):
        found = launch(world, stopped, tmp_path / "many", shard, steps)
        assert None not in found, number
        kinds = [path.name for path in (tmp_path / "many" / "resume").iterdir()]
        assert kinds == [f"shares-{steps:09}" if shard else checkpoints.FILE]
    train(tmp_path / "many")  # here, alone, from the shares of three
    np.testing.assert_allclose(losses(tmp_path / "one"), losses(tmp_path / "many"), rtol=1e-4)  # type: ignore[arg-type]
    one, other = (load_file(tmp_path / run / "last.safetensors") for run in ("one", "many"))
    for name, tensor in one.items():
        if name != "seen":  # a running statistic, of the first process's samples
            torch.testing.assert_close(known(name, other[name]), known(name, tensor), atol=5e-4, rtol=1e-3)


class Stopped(OSError):
    """Stands for whatever ends a run between two steps."""


def stopped(out: Path, shard: bool, steps: int) -> None:
    """A run that every process leaves after the checkpoint of step `steps`."""
    barrier = distributed.barrier

    def leave() -> None:
        barrier()
        path = checkpoints.newest(out)
        if path is not None and checkpoints.step_of(path) >= steps and (out / "last.safetensors").exists():
            raise Stopped("left")

    distributed.barrier = leave
    train(out, shard=shard, save_every="2")


def test_one_process_has_nothing_to_share(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="torchrun"):
        train(tmp_path, shard=True)


def torn(out: Path) -> str:
    train(out, shard=True, steps=2)
    share = next((out / "resume").glob("*/__1_0.distcp"))
    distributed.barrier()
    if distributed.is_main():
        share.write_bytes(share.read_bytes()[:100])
    distributed.barrier()
    try:
        train(out, shard=True, steps=4)
    except OSError as error:
        return str(error)
    return "it was read"


def test_torn_shares_are_one_clear_line(tmp_path: Path) -> None:
    for text in launch(2, torn, tmp_path):
        assert "is not a readable checkpoint" in text
        assert "remove it" in text


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def saved(folder: Path, **tensors: torch.Tensor) -> Path:
    shares = folder / "shares-000000003"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint.save(dict(tensors), storage_writer=checkpoint.FileSystemWriter(shares), no_dist=True)
    return shares


def test_the_list_of_shares_is_read_and_runs_nothing(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(7)}
    shares = saved(tmp_path, **tensors)
    found = checkpoints.read(shares, lambda name: torch.empty_like(tensors[name]))
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())

    def refused(change: Callable[[Any], object]) -> str:
        listed = pickle.loads((saved(tmp_path, **tensors) / ".metadata").read_bytes())
        replaced = change(listed)
        (shares / ".metadata").write_bytes(pickle.dumps(replaced or listed))
        with pytest.raises(OSError, match=r"shares-000000003 is not a readable checkpoint \(") as caught:
            checkpoints.read(shares, lambda name: torch.empty_like(tensors[name]))
        assert not (tmp_path / "ran").exists()
        return str(caught.value)

    run = Call(os.system, f"touch {tmp_path / 'ran'}")
    assert "asks for posix.system" in refused(lambda listed: run)
    assert "asks for posix.system" in refused(lambda listed: setattr(listed, "planner_data", run))
    assert "BytesStorageMetadata" in refused(
        lambda listed: listed.state_dict_metadata.update(a=metadata.BytesStorageMetadata())
    )
    assert "else than tensors" in refused(lambda listed: listed.state_dict_metadata.update(a=None))
    assert "elsewhere" in refused(
        lambda listed: setattr(next(iter(listed.storage_data.values())), "relative_path", "../up")
    )


def full(out: Path) -> str:
    """Training whose disk is full at the second checkpoint."""
    flush = storage.flush_folder

    def fail(folder: Path) -> None:
        if (out / "resume" / "shares-000000004").exists() and folder.name.startswith(".shares-000000008"):
            raise OSError(28, "No space left on device")
        flush(folder)

    storage.flush_folder = fail
    return str(train(out, shard=True))


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    for text in launch(2, full, tmp_path):
        assert "could not be written" in text
        assert "the disk is full" in text
    assert [path.name for path in (tmp_path / "resume").iterdir()] == ["shares-000000004"]
