"""What a stopped run continues from, in the run folder's resume/.

One file, state.safetensors, or, where training is sharded, a folder shares-STEP to which every process has written
its share (torch.distributed.checkpoint). Either is there whole or not at all, and can be continued with another number
of processes, sharded or not.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed import checkpoint
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.tensor import DTensor, distribute_tensor

from dropmae.opening import open_file
from dropmae.pickles import Refused, Unpickler
from dropmae.storage import clean, remove, replacing_folder
from dropmae.training import distributed
from dropmae.weights import write_tensors

FILE, SHARES = "state.safetensors", "shares-"


def newest(out: Path) -> Path | None:
    """The checkpoint of the most steps in run folder `out`, a file or a folder; None where there is none."""
    file, shares = out / "resume" / FILE, _shares(out / "resume")
    if not file.exists():
        return shares[-1] if shares else None
    return shares[-1] if shares and _step_of_shares(shares[-1]) > step_of(file) else file


def step_of(path: Path) -> int:
    """Finished steps of a checkpoint; OSError where it cannot be read."""
    if path.name != FILE:
        return _step_of_shares(path)
    try:
        with safe_open(path, "pt") as file:
            return int(file.metadata()["step"])
    except Exception as error:  # safetensors has its own, beside OSError, KeyError and ValueError
        raise _unreadable(path, error) from error


def write(out: Path, step: int, tensors: Mapping[str, Tensor]) -> None:
    """Replaces the checkpoint of run folder `out`; every process calls it.

    Where a tensor is sharded, every process writes its share; otherwise the first process writes the file. OSError
    where that fails, for one because the processes do not share a file system; what was there before then stays.
    """
    folder = out / "resume"
    sharded = any(isinstance(tensor, DTensor) for tensor in tensors.values())
    old = [*_shares(folder), *([folder / FILE] if sharded else [])] if distributed.is_main() else []
    if sharded:
        if distributed.is_main():
            clean(folder)
        _write_shares(folder / f"{SHARES}{step:09}", tensors)
    elif distributed.is_main():
        ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_tensors(ready, folder / FILE, {"step": str(step)})
    for path in old:
        if path.name != f"{SHARES}{step:09}":
            remove(path)


def read(path: Path, wanted: Callable[[str], Tensor | None]) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name, each in the form of `wanted(name)`: its shape, dtype, device and sharding.

    What is wanted as None is left out. OSError where the checkpoint cannot be read.
    """
    try:
        return _read_file(path, wanted) if path.name == FILE else _read_shares(path, wanted)
    except (Exception, checkpoint.CheckpointException) as error:  # the latter is no Exception
        raise _unreadable(path, error) from error


def _read_file(path: Path, wanted: Callable[[str], Tensor | None]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 (it is no dict)
            form = wanted(name)
            if isinstance(form, DTensor):
                whole = file.get_tensor(name).to(form.device)
                found[name] = distribute_tensor(whole, form.device_mesh, form.placements)
            elif form is not None:
                found[name] = file.get_tensor(name).to(form.device)
    return found


class _Names(Unpickler):
    """Reads the list of shares, a pickle, whose classes are these and no others; what they are made of is checked."""

    CLASSES: Mapping[str, type] = {
        **{name: getattr(metadata, name) for name in ("Metadata", "TensorStorageMetadata", "TensorProperties")},
        **{name: getattr(metadata, name) for name in ("ChunkStorageMetadata", "MetadataIndex", "StorageMeta")},
        "_StorageInfo": filesystem._StorageInfo,
    }

    def find_class(self, module_name: str, global_name: str) -> Any:
        # Classes and functions made anew each time: what a hostile file may attach to them is gone with them.
        if module_name.startswith("torch.distributed.checkpoint.") and global_name in self.CLASSES:
            kind = self.CLASSES[global_name]
            return type(global_name, (), {"__new__": lambda *_: object.__new__(kind)})
        if module_name == "torch" and isinstance(found := getattr(torch, global_name, None), torch.dtype):
            return found
        made: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch", "Size"): lambda sizes: torch.Size(sizes),
            ("torch.serialization", "_get_layout"): lambda _: torch.strided,
            ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"): lambda number: (
                metadata._MEM_FORMAT_ENCODING(number)
            ),
            **{("pathlib", name): lambda *_: None for name in ("PosixPath", "WindowsPath")},  # where it once lay
        }
        if (module_name, global_name) in made:
            return made[module_name, global_name]
        raise Refused(f"asks for {module_name}.{global_name}")

    def call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        return function(*arguments)


class _Shares(checkpoint.FileSystemReader):
    """Reads shares and runs nothing that is in them; PyTorch's own reader unpickles the list of them as it comes."""

    def read_metadata(self, *_: Any, **__: Any) -> metadata.Metadata:
        with open_file(Path(self.path) / ".metadata") as file:
            found = _Names(file).load()
        found.storage_meta = metadata.StorageMeta()
        if not all(isinstance(one, metadata.TensorStorageMetadata) for one in found.state_dict_metadata.values()):
            raise Refused("holds something else than tensors")  # which PyTorch would unpickle
        for place in found.storage_data.values():
            if Path(place.relative_path).name != place.relative_path:
                raise Refused(f"names a file elsewhere, {place.relative_path!r}")
            place.transform_descriptors = None
        return found


def _read_shares(path: Path, wanted: Callable[[str], Tensor | None]) -> dict[str, Tensor]:
    reader = _Shares(path)
    forms = {name: wanted(name) for name in reader.read_metadata().state_dict_metadata}
    found: dict[str, Any] = {name: torch.empty_like(form) for name, form in forms.items() if form is not None}
    with warnings.catch_warnings():  # that this is a single process, which it is
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        checkpoint.load(found, storage_reader=reader, no_dist=distributed.world() == 1)
    return found


def _write_shares(path: Path, tensors: Mapping[str, Tensor]) -> None:
    failure = None
    try:
        with contextlib.ExitStack() as stack:
            own: Any = None
            try:
                own = stack.enter_context(replacing_folder(path)) if distributed.is_main() else None
            except OSError as error:
                own = error
            partial = distributed.gather(own)[0]
            if isinstance(partial, OSError):
                raise partial
            done = checkpoint.save(dict(tensors), storage_writer=checkpoint.FileSystemWriter(partial))
            if distributed.is_main():
                files = {place.relative_path for place in (done.storage_data or {}).values()}
                if missing := files - set(os.listdir(partial)):
                    raise OSError(f"{len(missing)} shares are not there: all nodes must share the file system")
    except (OSError, checkpoint.CheckpointException) as error:
        failure = _reason(error)
    if failures := [told for told in distributed.gather(failure) if told]:
        raise OSError(f"{path} could not be written: {failures[0]}")


def _reason(error: BaseException) -> str:
    """What went wrong, of a failure on several processes the first one's."""
    if isinstance(error, checkpoint.CheckpointException) and error.failures:
        return str(next(iter(error.failures.values()))[0])
    return str(error)


def _shares(folder: Path) -> list[Path]:
    """Folders of shares in the order of their steps."""
    return sorted((path for path in folder.glob(f"{SHARES}*") if path.is_dir()), key=_step_of_shares)


def _step_of_shares(path: Path) -> int:
    return int(path.name.removeprefix(SHARES))


def _unreadable(path: Path, error: BaseException) -> OSError:
    return OSError(f"{path} is not a readable checkpoint ({_reason(error)}); remove it to start anew")
