"""Reads PyTorch's pickled files (.pth, .pt, .tar) and executes nothing that is in them.

A pickle is a program: it names functions and calls them. Here no name is ever imported. The few calls that tensors
and plain containers need are answered by stand-ins that only take notes; the class of any other object (the
`argparse.Namespace` of a training script, a project's own settings) becomes an inert record of its attributes; and a
pickle that calls anything else is refused by name. Tensors stay in the file until they are asked for.

Both formats are read: the zip archive of torch 1.6 and later, and the older one of pickles and raw storages in a row.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from dropmae.opening import open_file

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
    "UntypedStorage": torch.uint8,
}
TORCH_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}


class Refused(Exception):
    """The pickle wants something that weights do not need."""


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
        raise Refused(f"would call {cls.origin}, which no weights need")

    def __setattr__(cls, name: str, value: Any) -> None:
        raise Refused(f"would change {cls.origin}")


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


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Stored:
    """`_rebuild_tensor`, `_v2`, `_v3`; the third gives the dtype of an untyped storage after two more arguments."""
    if not isinstance(storage, Storage):
        raise Refused("makes a tensor of something that is no storage")
    dtype = rest[2].dtype if len(rest) > 2 and isinstance(rest[2], Kind) else storage.dtype
    return Stored(storage, dtype, offset, tuple(shape), tuple(stride))


def _from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor of a subclass, or with attributes: the tensor in it."""
    if not isinstance(function, Call):
        raise Refused(f"would call {getattr(function, 'origin', function)}, which no weights need")
    return function(*arguments)


def _object(kind: Any, *arguments: Any) -> Any:
    """An object of a class, as the oldest pickles make it."""
    return kind.blank() if isinstance(kind, Sealed) else Table()


def _table(*arguments: Any) -> Table:
    items = arguments[0] if arguments and isinstance(arguments[0], (list, dict)) else ()
    return Table(items)


def _bytes(text: Any = "", encoding: Any = "latin1") -> bytes:
    return text if isinstance(text, bytes) else str(text).encode("latin1")


def _first(value: Any, *rest: Any) -> Any:
    return value


def _text(*words: Any) -> str:
    return "/".join(str(word) for word in words if isinstance(word, str)).replace("//", "/")


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
}
"""The calls that are answered, by ours instead; numpy's come from `NUMPY_CALLS`."""

NUMPY_CALLS = {"scalar", "_reconstruct", "_frombuffer", "dtype", "ndarray"}
"""Numpy's numbers and arrays may lie beside the weights (a best score, a statistic); what is in them is not read."""

RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg", "commands": "subprocess"}
"""Python 2's names of modules."""


class _Array:
    """An array, number or dtype of numpy, of which nothing is kept."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Reader(pickle.Unpickler):
    """Unpickler whose names are all stand-ins."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{RENAMED.get(module_name, module_name)}.{global_name}"
        if name in CALLS:
            return Call(CALLS[name])
        if module_name.split(".")[0] == "numpy" and global_name in NUMPY_CALLS:
            return Call(lambda *arguments: _Array())
        if module_name in ("torch", "torch.cuda", "torch.storage") and global_name in DTYPES:
            return Kind(DTYPES[global_name])
        if module_name == "torch" and global_name in TORCH_DTYPES:
            return Kind(TORCH_DTYPES[global_name])
        return Sealed(global_name, (Record,), {"__slots__": (), "origin": name})

    def persistent_load(self, pid: Any) -> Any:
        """A storage ("storage", class, key, device, count, part of another?); of a module only the class is kept."""
        if not isinstance(pid, tuple) or not pid:
            raise Refused("names a storage in an unknown way")
        if pid[0] == "module":
            return pid[1]
        if pid[0] != "storage" or len(pid) < 5 or not isinstance(pid[1], Kind):
            raise Refused("holds numbers of an unknown kind")
        key, count = str(pid[2]), _whole(pid[4])
        start = _whole(pid[5][1]) if len(pid) > 5 and pid[5] else 0
        storage = Storage(key, pid[1].dtype, count, start)
        self.storages.setdefault(key, storage)
        return storage


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
            reason = " ".join(str(error).split()) or type(error).__name__
            raise OSError(f"{path}: not a readable PyTorch file ({reason})") from error

    def _open_zip(self) -> zipfile.ZipFile | None:
        with open_file(self.path) as file:
            if file.read(2) != b"PK":
                return None
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise OSError(f"{self.path}: not a readable PyTorch file, probably cut off ({error})") from error

    def _read_zip(self, archive: zipfile.ZipFile) -> Any:
        found = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(found) != 1:
            raise OSError("no data.pkl in the archive")
        self._folder = found[0].removesuffix("data.pkl")
        order = f"{self._folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise OSError("written on a big-endian machine")
        with archive.open(found[0]) as file:
            return _Reader(file).load()

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
            except (KeyError, zipfile.BadZipFile, EOFError) as error:
                raise OSError(f"{self.path}: not a readable PyTorch file, it is damaged ({error})") from error
        return self._last[1]

    def _fetch(self, key: str) -> bytes:
        if self._zip:
            entry = self._zip.getinfo(f"{self._folder}data/{key}")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise OSError(f"{self.path}: not a readable PyTorch file, its numbers are compressed")
            return self._zip.read(entry)
        place, length = self._places[key]
        with open_file(self.path) as file:
            file.seek(place)
            return file.read(length)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise OSError(f"a size in the file is {value!r}")
    return value
