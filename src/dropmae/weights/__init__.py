"""Weight files of this project: safetensors whose header says which class they are for and how it was made.

Tensors are named encoder.*, decoder.*, head.*; the header's entry "dropmae" is JSON with

    kind, name     the folder and file of the class: "methods", "dropmae"; a user's own file is named by its path
    fields         the values of the class's fields
    parts          which of encoder, decoder, head the file holds
    version        of dropmae, and whatever else was given to `save`

Reading one runs no code that it names: the class is one of the package, or of a file that the caller has named
(`registry.trust`). Public checkpoints come in through `dropmae convert`.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

import dropmae
from dropmae import contracts, registry
from dropmae.names import printable
from dropmae.opening import open_file
from dropmae.storage import replacing

KIND = "a weight file"
"""Kind of output, for its mark (`storage.mark`)."""
LAST = "last.safetensors"
"""The weight file of a run folder."""
SHIPPED = Path(dropmae.__file__).parent / "shipped"
"""The weights that come with the package."""

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Safetensors' names of dtypes."""

OWN = {"kind": str, "name": str, "fields": dict, "parts": list, "version": str}
"""What `save` writes into the header by itself, and its types."""
MOST = 1 << 14
"""Tensors of the largest module that is built of a file's word; the largest size has 600."""
SIDE = 8192
"""Most pixels of a side of the pictures that a file's fields are for."""


class Missing(nn.Module):
    """Takes the place of a part that the weight file does not hold; using it is an error that says so."""

    def __init__(self, part: str, where: str) -> None:
        super().__init__()
        self.__dict__["complaint"] = f"{where} holds no {part}, which this needs: use weights that have one"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise ValueError(self.__dict__["complaint"])

    def forward(self, *arguments: Any, **named: Any) -> Any:
        raise ValueError(self.__dict__["complaint"])


def save(
    module: nn.Module,
    path: str | Path,
    extra: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
) -> None:
    """Writes a method's or task's tensors and configuration to `path`, whole or not at all.

    `extra` is more JSON for the header (steps, data, licence); `half` stores float16, half the size. OSError where it
    cannot be written; ValueError where a number does not fit into float16.
    """
    tensors = module.state_dict()
    kind, name = class_name(type(module))
    header = {
        **(extra or {}),
        "kind": kind,
        "name": name,
        "fields": registry.settings(module),
        "parts": sorted({name.split(".", 1)[0] for name in tensors}),
        "version": dropmae.__version__,
    }
    write_tensors(tensors, path, {"dropmae": json.dumps(header, default=str)}, half=half)


def write_tensors(
    tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None, *, half: bool = False
) -> None:
    """A safetensors file of `tensors`, whole or not at all; `half` stores floating numbers as float16.

    The format is written here and not by its library, which goes through a temporary file of its own in the same
    folder, left behind by a killed process, and whose errors are no OSErrors.
    """
    table: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    order = sorted(tensors, key=lambda name: (-_precision(tensors[name], half).itemsize, name))
    for name in order:
        dtype = _precision(tensors[name], half)
        start, end = end, end + tensors[name].numel() * dtype.itemsize
        table[name] = {"dtype": DTYPES[dtype], "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    head = json.dumps(table).encode()
    head += b" " * (-len(head) % 8)
    with replacing(path) as partial, open(partial, "wb") as file:
        file.write(len(head).to_bytes(8, "little"))
        file.write(head)
        for name in order:
            file.write(_bytes(name, tensors[name], half))


def _precision(tensor: Tensor, half: bool) -> torch.dtype:
    return torch.float16 if half and tensor.is_floating_point() else tensor.dtype


def _bytes(name: str, tensor: Tensor, half: bool) -> memoryview:
    """The numbers of a tensor in row-major order; ValueError where one does not fit into float16."""
    ready = tensor.detach().to("cpu", _precision(tensor, half)).contiguous()
    if half and bool((ready.isinf() & ~tensor.detach().cpu().isinf()).any()):
        raise ValueError(f"{name} holds numbers beyond float16's 65504: save without half precision")
    return ready.reshape(-1).view(torch.uint8).numpy().data if ready.numel() else memoryview(b"")


def class_name(cls: type) -> tuple[str, str]:
    """Folder and name by which `registry.load` finds `cls`; for a user's own class its file's path."""
    words = cls.__module__.split(".")
    if len(words) == 3 and words[0] == "dropmae" and words[1] in ("methods", "tasks"):
        return words[1], words[2]
    file = registry.user_file(cls)
    if file is None:
        raise ValueError(f"{cls.__name__} is no method or task: those are loaded by name, or by the path of their file")
    return ("tasks" if issubclass(cls, contracts.Task) else "methods"), str(file)


def locate(path: str | Path) -> Path:
    """The weight file meant by `path`: itself, the last weights of a run folder, or shipped:NAME of the package.

    The name of public weights (`public.NAMES`) is that of a file that is fetched, unless there is one of that name.
    FileNotFoundError where it is not there.
    """
    if str(path).startswith("shipped:"):
        name, there = str(path).partition(":")[2], sorted(file.stem for file in SHIPPED.glob("*.safetensors"))
        if name not in there:
            raise ValueError(f"{path}: no such weights come with the package; there are: {', '.join(there) or 'none'}")
        return SHIPPED / f"{name}.safetensors"
    path = Path(path)
    if path.is_dir():
        if not (path / LAST).is_file():
            raise FileNotFoundError(f"{path}: a folder without {LAST}, so not a run that has saved weights")
        return path / LAST
    if not path.exists():
        from dropmae.weights import public

        if str(path) in public.NAMES:
            return public.fetch(str(path))
    open_file(path).close()
    return path


def read_header(path: str | Path) -> dict[str, Any]:
    """The JSON header of a weight file or of a run folder's last weights.

    OSError where the file cannot be read or is cut off; ValueError where it is a public checkpoint, which has to be
    converted first.
    """
    path = locate(path)
    with _opened(path) as file:
        metadata = file.metadata() or {}
    if "dropmae" not in metadata:
        raise ValueError(_foreign(path))
    try:
        header = json.loads(metadata["dropmae"])
    except (ValueError, RecursionError) as error:
        raise OSError(f"{path}: its header is damaged ({error})") from error
    if not isinstance(header, dict) or not OWN.keys() <= header.keys() or header["kind"] not in ("methods", "tasks"):
        raise OSError(f"{path}: its header is damaged (it names no class)")
    if wrong := [name for name, kind in OWN.items() if not isinstance(header[name], kind)]:
        raise OSError(f"{path}: its header is damaged ({', '.join(wrong)} of a wrong type)")
    if not all(isinstance(part, str) for part in header["parts"]):
        raise OSError(f"{path}: its header is damaged (parts are no names)")
    return header


def is_ours(path: str | Path) -> bool:
    """Whether a file says that it is one of this project's weight files; what else its header says may be damaged."""
    try:
        with _opened(locate(path)) as file:
            return "dropmae" in (file.metadata() or {})
    except (OSError, ValueError):
        return False


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a safetensors file or run folder."""
    path = locate(path)
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def precision(path: str | Path) -> str:
    """The dtype of most tensors in a safetensors file or run folder, as safetensors names it: F32, F16, BF16."""
    path = locate(path)
    with _opened(path) as file:
        kinds = [file.get_slice(name).get_dtype() for name in file.keys()]  # noqa: SIM118
    return max(set(kinds), key=kinds.count) if kinds else "nothing"


def read_tensors(path: str | Path, prefix: str = "", device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Tensors of a weight file or run folder whose names start with `prefix`, by name, on `device`."""
    path = locate(path)
    with _opened(path) as file:
        return {name: file.get_tensor(name).to(device) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with open_file(path) as file:
        start = file.read(10)
    # Safetensors begin with a length, whose bytes may be those of a zip or a pickle, and then a brace.
    if start[8:9] != b"{" and (start[:2] == b"PK" or start[:1] == b"\x80"):
        raise ValueError(_foreign(path))
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise OSError(f"{path}: not a readable weight file, perhaps cut off ({error})") from error


def _foreign(path: Path) -> str:
    out = path.with_suffix(".safetensors").name if path.suffix != ".safetensors" else f"ours-{path.name}"
    return f"{path} is not one of dropmae's weight files: convert it first, `dropmae convert {path} {out}`"


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    settings: Mapping[str, Any] | None = None,
    code: str | Path | None = None,
    borrow: bool = True,
) -> Any:
    """The method or task in a weight file, or in the last weights of a run folder, in evaluation mode.

    `settings` are fields of a task that may be changed after training (`use`), as values or as text; `code` is the .py
    file of a user's own class, which is run; without `borrow` what belongs to other files, such as the encoder that
    heads work on, is neither read nor fetched. The class is built from the header's fields, and every name and shape
    must fit. A part that the file does not hold (the decoder of an encoder-only file) is replaced by one that says so
    when it is used. OSError for a file that cannot be read; ValueError for one that does not fit, or that `dropmae
    convert` must read first.
    """
    path = locate(path)
    if code is not None:
        registry.trust(code)
    header = read_header(path)
    if settings:
        header = {**header, "fields": {**header["fields"], **changed(header, settings, str(path))}}
    fitting(outline(header, str(path)), read_shapes(path), str(path))
    module = build(header, str(path))
    fill(module, read_tensors(path), str(path))
    module = module.to(device)
    return module.eval() if borrow else nn.Module.train(module, False)


def changed(header: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of the task in `header` that are given; ValueError where one is unknown or fixed by the training."""
    cls: Any = registry.find(header["kind"], header["name"], where)
    free = tuple(cls.use) if header["kind"] == "tasks" else ()
    settings = registry.renamed(cls, settings, warn=True)
    for name in settings:
        if name not in free:
            known = name in {field for field, _, _ in registry.fields(cls)}
            what = "is fixed by the training" if known else "is no setting"
            raise ValueError(f"{name} {what} of {header['name']}; what may be set: {', '.join(free) or 'nothing'}")
    return registry.parsed(cls, settings)


def build(header: Mapping[str, Any], where: str) -> nn.Module:
    """A module with fresh weights of the class and fields in `header`; the global random state stays as it was."""
    name = header["name"]
    cls = registry.find(header["kind"], name, where)
    known, given = {field for field, _, _ in registry.fields(cls)}, registry.renamed(cls, header["fields"])
    strange = sorted(given.keys() - known)
    if strange:
        raise ValueError(
            f"{where} was made by dropmae {header.get('version', '?')}; {name} of dropmae {dropmae.__version__} "
            f"has no field {', '.join(strange)}"
        )
    with torch.random.fork_rng(devices=[]):
        return cls(**{field: _tuples(value) for field, value in given.items()})


def outline(header: Mapping[str, Any], where: str) -> nn.Module:
    """As `build`, without any memory for tensors: what a file says of its module is compared before it is believed.

    ValueError where the fields make no module, one of more than MOST tensors, or one of pictures larger than SIDE,
    which no tensor tells and which would take memory later.
    """
    image = header["fields"].get("image")
    sides = [side for side in (image if isinstance(image, list) else [image]) if isinstance(side, (int, float))]
    if any(side > SIDE for side in sides):
        raise ValueError(f"{where}: its fields ask for pictures of {max(sides):g} pixels a side, more than {SIDE:,}")
    thread, count = threading.get_ident(), 0

    def counted(module: nn.Module, name: str, value: Any) -> None:
        nonlocal count
        count += threading.get_ident() == thread
        if count > MOST:
            raise ValueError(f"{where}: its fields make a {header['name']} of more than {MOST:,} tensors")

    try:
        registry.find(header["kind"], header["name"], where)  # imported before, or its constants would have no numbers
        with torch.device("meta"), _Unfilled(), _counting(counted):
            return build(header, where)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RuntimeError) as error:
        if str(error).startswith(where):
            raise
        raise ValueError(f"{where}: its fields make no {header['name']} ({printable(error)[:120]})") from error


class _Unfilled(TorchFunctionMode):
    """Tensors on no device are not filled with numbers: for that PyTorch would import its compiler, more than a second.

    It leaves out what fresh weights are usually made with, which changes no shape: random numbers, scaled, or a log.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.randn, torch.rand):
            return torch.empty(*args, **{name: value for name, value in kwargs.items() if name != "generator"})
        if func in (Tensor.normal_, nn.init.normal_) and (tensor := [*args, *kwargs.values()][0]).is_meta:
            return tensor
        plain = func in (Tensor.mul, Tensor.log) and all(type(factor) in (int, float) for factor in args[1:])
        if plain and args[0].is_meta and args[0].is_floating_point():
            return torch.empty(args[0].shape, dtype=args[0].dtype)
        return func(*args, **kwargs)


@contextlib.contextmanager
def _counting(hook: Callable[..., None]) -> Iterator[None]:
    handles = [register_module_parameter_registration_hook(hook), register_module_module_registration_hook(hook)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tuples(value: Any) -> Any:
    """JSON has lists where fields are tuples."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def fitting(
    module: nn.Module, shapes: Mapping[str, tuple[int, ...]], where: str, rename: Callable[[str], str | None] = str
) -> set[str]:
    """The parts of `module` of which there is no tensor among `shapes`; ValueError in one line where others differ.

    All names and shapes of each part that is there must be, and the encoder must be there. `rename` gives the name by
    which the user knows a tensor.
    """
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    there = {name.split(".", 1)[0] for name in shapes}
    absent = {name.split(".", 1)[0] for name in own} - there
    if "encoder" in absent:
        raise ValueError(f"{where} holds no encoder")
    wanted = {name: shape for name, shape in own.items() if name.split(".", 1)[0] not in absent}
    title = type(module).__name__
    if missing := wanted.keys() - shapes.keys():
        raise ValueError(f"{where} lacks {listed(rename(name) or name for name in missing)}, which {title} needs")
    if strange := shapes.keys() - wanted.keys():
        names = listed(rename(name) or name for name in strange)
        raise ValueError(f"{where} holds {names}, for which {title} has no place")
    for name, shape in wanted.items():
        if shape != tuple(shapes[name]):
            found, expected = "x".join(map(str, shapes[name])), "x".join(map(str, shape))
            title = f"{title} of these fields needs {expected}"
            raise ValueError(f"{where}: {rename(name) or name} is {found}, and {title}")
    return absent


def fill(
    module: nn.Module, tensors: Mapping[str, Tensor], where: str, rename: Callable[[str], str | None] = str
) -> None:
    """Puts `tensors` into `module`, which they must fit (see `fitting`); parts that are not there become Missing."""
    for part in fitting(module, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, where, rename):
        setattr(module, part, Missing(part, where))
    module.load_state_dict(dict(tensors))


def listed(names: Iterable[str]) -> str:
    """At most three names, and how many more there are."""
    names = sorted(names)
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
