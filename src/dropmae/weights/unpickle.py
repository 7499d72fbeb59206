"""Reads PyTorch's pickled files (.pth, .pt, .tar) and executes nothing that is in them.

A pickle is a program: it names functions and calls them. Here no name is ever imported. The few calls that tensors
and plain containers need are answered by stand-ins that only take notes; the object of any other class, and the value
of any other call (the `argparse.Namespace` of a training script, a date, a project's own settings), becomes an inert
record of its attributes. A pickle that would call what only an attack needs is refused by name, so that its user hears
of it. Tensors stay in the file until they are asked for.

Both formats are read: the zip archive of torch 1.6 and later, and the older one of pickles and raw storages in a row.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from dropmae.names import printable
from dropmae.opening import Archive, open_file
from dropmae.pickles import BYTES, Refused, Unpickler

MAGIC = 0x1950A86A20F9469CFC6C
"""First pickle of the older format."""

DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
TORCH_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}


class Kind(NamedTuple):
    """Stand-in for a storage class or a dtype."""

    dtype: torch.dtype


class Storage(NamedTuple):
    """Where the numbers of one or more tensors lie in the file."""

    key: str
    dtype: torch.dtype
    count: int
    start: int
    """First element, where the storage is itself a part of another."""


class Stored(NamedTuple):
    """A tensor that is still in the file."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Sealed(type):
    """Metaclass of the stand-ins for classes: a pickle can neither call nor change them.

    Making an object without running a constructor (NEWOBJ, the way plain objects are pickled) does not pass through
    a call, and is all that a pickle can do with them.
    """

    origin: str

    def blank(cls) -> Any:
        """An object of the class with no attributes."""
        return cls.__new__(cls)  # pyrefly: ignore

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        """What a call of it by the pickle gives: a record, of an unknown class as well as of an unknown function."""
        if ATTACKS.match(cls.origin):
            raise Refused(f"would call {cls.origin}, which no weights need")
        return cls.blank()

    def __setattr__(cls, name: str, value: Any) -> None:
        raise Refused(f"would change {cls.origin}")


ATTACKS = re.compile(
    r"(os|posix|nt|subprocess|sys|shutil|socket|importlib|runpy|pty|pdb|code|codeop|ctypes|webbrowser|multiprocessing|"
    r"threading|asyncio|signal|platform|pickle|_pickle|marshal|shelve|urllib|http|ftplib|requests|tempfile|commands|"
    r"popen2|pip|pkgutil|zipimport|timeit|trace|profile|cProfile|bdb|linecache|glob|fileinput|io\.open|_io\.open|"
    r"torch\.(serialization|hub|package|jit))\b|"
    r"builtins\.(?!(object|int|float|str|bool|bytes|memoryview|type|property|\w*(Error|Exception|Warning))$)"
)
"""Functions that have no business in weights. That nothing is run does not depend on this list."""


class Record(metaclass=Sealed):
    """An object of a class that is not known here: its attributes, and nothing that could run."""

    __slots__ = ("attributes",)
    attributes: dict[str, Any]
    origin = "a class"

    def __new__(cls, *arguments: Any, **named: Any) -> Record:
        record = object.__new__(cls)
        object.__setattr__(record, "attributes", {})
        return record

    def __setattr__(self, name: str, value: Any) -> None:
        raise Refused(f"would change an object of {self.origin}")

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.attributes.update({str(name): value for name, value in part.items()})

    def __setitem__(self, name: Any, value: Any) -> None:
        self.attributes[str(name)] = value

    def append(self, value: Any) -> None:
        """Elements of a list of unknown class are of no interest."""

    extend = append


class Table(dict):
    """A mapping of any class that keeps its items."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Attributes beside the items (the `_metadata` of a state dict) are dropped."""


class Call:
    """A call that is allowed: a function of ours in the place of the one that the pickle names."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, value: Any) -> None:
        raise Refused("would change a function")

    def __setstate__(self, state: Any) -> None:
        raise Refused("would change a function")

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Any:
    """`_rebuild_tensor`, `_v2`, `_v3`; the third gives the dtype of an untyped storage after two more arguments."""
    if isinstance(storage, Record):
        return _blank()  # of a storage of numbers that no weights have
    if not isinstance(storage, Storage):
        raise Refused("makes a tensor of something that is no storage")
    dtype = rest[2].dtype if len(rest) > 2 and isinstance(rest[2], Kind) else storage.dtype
    shape, stride = (tuple(_whole(size) for size in sizes) for sizes in (shape, stride))
    if len(shape) != len(stride) or len(shape) > 64 or math.prod(shape) >= 2**62:
        raise Refused(f"makes a tensor of an impossible shape, {str(shape)[:80]}")
    return Stored(storage, dtype, _whole(offset), shape, stride)


def _from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor of a subclass, or with attributes: the tensor in it."""
    return function(*arguments) if isinstance(function, (Call, Sealed)) else _blank()


def _attribute(thing: Any, name: Any = None, *rest: Any) -> Any:
    """`getattr`, as flags of an enumeration and methods are pickled: of what is known it would be an attack."""
    if not isinstance(thing, (Sealed, Record)):
        raise Refused("would call builtins.getattr, which no weights need")
    return _blank()


def _blank() -> Record:
    return Record.__new__(Record)


def _object(kind: Any, *arguments: Any) -> Any:
    """An object of a class, as the oldest pickles make it."""
    return kind.blank() if isinstance(kind, Sealed) else Table()


def _table(*arguments: Any) -> Table:
    items = arguments[0] if arguments and isinstance(arguments[0], (list, dict)) else ()
    return Table(items)


def _bytes(text: Any = "", encoding: Any = "latin1") -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin1") if isinstance(text, str) else b""


def _first(value: Any, *rest: Any) -> Any:
    return value


def _text(*words: Any) -> str:
    return "/".join(word[:PATH] for word in words[:PATH] if isinstance(word, str)).replace("//", "/")[:PATH]


PATH = 4096
"""Letters of the longest path that is kept."""


def _nothing(*arguments: Any) -> None:
    return None


CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _table,
    "collections.Counter": _table,
    "collections.defaultdict": lambda *arguments: Table(),
    "collections.deque": lambda items=(), *rest: list(items),
    "builtins.dict": _table,
    "builtins.list": lambda items=(): list(items),
    "builtins.tuple": lambda items=(): tuple(items),
    "builtins.set": lambda items=(): list(items),
    "builtins.frozenset": lambda items=(): tuple(items),
    "builtins.bytearray": _bytes,
    "builtins.complex": _nothing,
    "builtins.slice": _nothing,
    "builtins.range": _nothing,
    "builtins.xrange": _nothing,
    "builtins.getattr": _attribute,
    "_codecs.encode": _bytes,
    "copyreg._reconstructor": _object,
    "copyreg.__newobj__": _object,
    "datetime.datetime": _nothing,
    "datetime.date": _nothing,
    "datetime.timedelta": _nothing,
    "pathlib.Path": _text,
    "pathlib.PosixPath": _text,
    "pathlib.PurePosixPath": _text,
    "pathlib._local.PosixPath": _text,
    "pathlib.WindowsPath": _text,
    "torch.Size": lambda items=(): tuple(items),
    "torch.device": _text,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._utils._rebuild_device_tensor_from_numpy": _nothing,
    "torch.serialization._get_layout": _nothing,
}
"""The calls that are answered, by ours instead; numpy's come from `NUMPY_CALLS`."""

NUMPY_CALLS = {"scalar", "_reconstruct", "_frombuffer", "dtype", "ndarray"}
"""Numpy's numbers and arrays may lie beside the weights (a best score, a statistic); what is in them is not read."""

NAMES = 10_000
"""Different names that a pickle may mention."""

RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg", "commands": "subprocess"}
"""Python 2's names of modules."""


class _Array:
    """An array, number or dtype of numpy, of which nothing is kept."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Reader(Unpickler):
    """Unpickler whose names are all stand-ins."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.storages: dict[str, Storage] = {}
        self.names: dict[str, Any] = {}

    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{RENAMED.get(module_name, module_name)}.{global_name}"
        if name not in self.names:
            if len(self.names) == NAMES:
                raise Refused(f"asks for more than {NAMES:,} names")
            self.names[name] = self.stand_in(name, module_name, global_name)
        return self.names[name]

    def stand_in(self, name: str, module_name: str, global_name: str) -> Any:
        if name in CALLS:
            return Call(CALLS[name])
        if module_name.split(".")[0] == "numpy" and global_name in NUMPY_CALLS:
            return Call(lambda *arguments: _Array())
        if module_name in ("torch", "torch.cuda", "torch.storage") and global_name in DTYPES:
            return Kind(DTYPES[global_name])
        if module_name == "torch" and global_name in TORCH_DTYPES:
            return Kind(TORCH_DTYPES[global_name])
        return Sealed(printable(global_name[:200]), (Record,), {"__slots__": (), "origin": printable(name[:200])})

    def call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        if isinstance(function, (Call, Sealed)):
            return function(*arguments)
        if isinstance(function, (Record, Kind)):  # a method or a type of something unknown
            return _blank()
        raise Refused("calls something that is no function")

    def persistent_load(self, pid: Any) -> Any:
        """A storage ("storage", class, key, device, count, part of another?); of a module only the class is kept."""
        if not isinstance(pid, tuple) or not pid:
            raise Refused("names a storage in an unknown way")
        if pid[0] == "module":
            return pid[1]
        if pid[0] == "storage" and isinstance(pid[1], Sealed):
            return _blank()
        if pid[0] != "storage" or len(pid) < 5 or not isinstance(pid[1], Kind):
            raise Refused("holds numbers of an unknown kind")
        key, count = str(pid[2]), _whole(pid[4])
        start = _whole(pid[5][1]) if len(pid) > 5 and pid[5] else 0
        storage = Storage(key, pid[1].dtype, count, start)
        self.storages.setdefault(key, storage)
        return storage


STRANGERS = {
    rb"\s*version https://git-lfs": "a Git LFS pointer: `git lfs pull` fetches the file itself",
    rb"(?i)\s*(<!doctype|<html|<\?xml|<head)": "a web page: the download asked for something",
    rb"\s*[{\[]\s*\"": "text (JSON)",
    rb"\x1f\x8b": "compressed with gzip: unpack it first",
    rb"BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!": "compressed: unpack it first",
    rb".{257}ustar": "a tar archive: unpack it first",
    rb"\x89HDF": "HDF5: Keras's, not PyTorch's",
    rb"\Z": "empty",
}
"""How files begin that are commonly taken for checkpoints, and what they are."""


class Checkpoint:
    """An opened file: `tree`, what was pickled, with Stored in the place of tensors; `tensor` fetches one.

    OSError with one clear line where the file is damaged, of no known format, or would execute something.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._last: tuple[str, bytes] = ("", b"")
        self._places: dict[str, tuple[int, int]] = {}
        self._folder = ""
        self._zip = self._open_zip()
        try:
            self.tree = self._read_zip(self._zip) if self._zip else self._read_rows()
        except Refused as error:
            raise OSError(f"{path}: refused, its pickle {error}; nothing of it was executed") from error
        except Exception as error:  # a damaged pickle can raise anything, from EOFError to MemoryError
            reason = printable(error)[:120] or type(error).__name__
            raise OSError(f"{path}: not a readable PyTorch file ({reason})") from error

    def _open_zip(self) -> Archive | None:
        """The zip that the file is, None for the older format; OSError that says what else it is."""
        with open_file(self.path) as file:
            start = file.read(512)
        for begins, what in STRANGERS.items():
            if re.match(begins, start):
                raise OSError(f"{self.path}: not a readable PyTorch file but {what}")
        if not start.startswith(b"PK"):
            return None
        try:
            return Archive(self.path)
        except OSError as error:
            raise OSError(f"{self.path}: not a readable PyTorch file, probably cut off ({error})") from error

    def _read_zip(self, archive: Archive) -> Any:
        names = archive.names()
        found = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(found) != 1:
            inner = [name for name in names if name.lower().endswith((".pth", ".pt", ".ckpt", ".safetensors"))]
            raise OSError(f"no data.pkl in the archive{f', but {inner[0]}: unpack it first' if inner else ''}")
        self._folder = found[0].removesuffix("data.pkl")
        order = f"{self._folder}byteorder"
        if order in names and archive.read(order, 64) != b"little":
            raise OSError("written on a big-endian machine")
        return _Reader(io.BytesIO(archive.read(found[0], BYTES))).load()

    def _read_rows(self) -> Any:
        """Magic number, version, system, tree, storage keys: five pickles; then count and numbers of each storage."""
        size = self.path.stat().st_size
        with open_file(self.path) as file:
            if _Reader(file).load() != MAGIC:
                raise OSError("it does not begin like one")
            for _ in ("version", "system"):
                _Reader(file).load()
            reader = _Reader(file)
            tree = reader.load()
            for key in _Reader(file).load():
                count = int.from_bytes(file.read(8), "little")
                place = file.tell()
                length = count * reader.storages[str(key)].dtype.itemsize
                if place + length > size:
                    raise OSError("it is cut off")
                self._places[str(key)] = (place, length)
                file.seek(place + length)
        return tree

    def tensor(self, stored: Stored) -> Tensor:
        """The tensor itself, contiguous; OSError where the file does not hold all of its numbers."""
        shape = tuple(_whole(size) for size in stored.shape)
        stride = tuple(_whole(step) for step in stored.stride)
        offset = _whole(stored.offset) + stored.storage.start
        if 0 in shape:
            return torch.empty(shape, dtype=stored.dtype)
        data = self._data(stored.storage.key)
        needed = 1 + offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if max(needed, math.prod(shape)) * stored.dtype.itemsize > len(data):
            raise OSError(f"{self.path}: not a readable PyTorch file, it lacks numbers of a tensor")
        values = torch.frombuffer(bytearray(data), dtype=stored.dtype)
        return torch.as_strided(values, shape, stride, offset).clone(memory_format=torch.contiguous_format)

    def _data(self, key: str) -> bytes:
        if self._last[0] != key or not self._last[1]:
            try:
                self._last = (key, self._fetch(key))
            except KeyError as error:
                raise OSError(f"{self.path}: not a readable PyTorch file, it lacks numbers ({error})") from error
        return self._last[1]

    def _fetch(self, key: str) -> bytes:
        if self._zip:
            return self._zip.stored(f"{self._folder}data/{key}")
        place, length = self._places[key]
        with open_file(self.path) as file:
            file.seek(place)
            return file.read(length)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise OSError(f"a size in the file is {value!r}")
    return value
