"""Pickles and .npy files of plain containers, numbers and numpy arrays, as data sets are given away; nothing is run.

No name in the file is ever imported: numpy's few are answered by stand-ins, and any other is refused. Long runs of
bytes, the arrays and encoded pictures, stay in the file and are mapped into memory, so that a file of any size opens at
once; what else it holds, its length and its steps have the limits of `pickles`.
"""

from __future__ import annotations

import math
import mmap
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from dropmae.names import printable
from dropmae.opening import open_file
from dropmae.pickles import Refused, Unpickler

BULK = 1024
"""Bytes from which on a run of them stays in the file."""
DEPTH = 32
"""Containers in each other."""


ORDERS: dict[str, Literal["<", ">", "=", "|"]] = {"<": "<", ">": ">", "=": "=", "|": "|"}
"""Of the bytes of a number."""


class Bulk:
    """Bytes that are still in the file."""

    __slots__ = ("count", "start")

    def __init__(self, start: int, count: int) -> None:
        self.start, self.count = start, count


class Kind:
    """Stand-in for a numpy dtype."""

    __slots__ = ("order", "text")

    def __init__(self, text: Any, *_: Any) -> None:
        if not isinstance(text, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]|O8?", text):
            raise Refused(f"holds numbers of the kind {text!r}"[:80])
        self.text, self.order = text, ORDERS["|"]

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
        if order not in ORDERS:
            raise Refused("holds numbers in an unknown order of bytes")
        self.order = ORDERS[order]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.text).newbyteorder(self.order)


class Array:
    """Stand-in for a numpy array, or for a single number where `shape` is ()."""

    __slots__ = ("data", "fortran", "kind", "shape")

    def __init__(self) -> None:
        self.kind, self.shape, self.fortran, self.data = Kind("u1"), (0,), False, b""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("holds an array of an unknown form")
        _, shape, kind, self.fortran, self.data = state
        self.fill(shape, kind)

    def fill(self, shape: Any, kind: Any) -> None:
        """ValueError for what is no shape or no dtype."""
        known = isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and 0 <= n < 2**40 for n in shape)
        if not known or not isinstance(kind, Kind):
            raise Refused("holds an array of an unknown form")
        self.shape, self.kind = shape, kind


class Name:
    """Stand-in for a function or a class of numpy: what a call of it gives."""

    __slots__ = ("called",)

    def __init__(self, called: Callable[..., Any]) -> None:
        self.called = called


def _scalar(kind: Any, data: Any = b"") -> Array:
    made = Array()
    made.fill((), kind)
    made.data = data
    return made


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any = "C") -> Array:
    made = Array()
    made.fill(shape, kind)
    made.data, made.fortran = data, order == "F"
    return made


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("holds bytes in an unknown form")
    return text.encode("latin1")


NAMES: dict[str, Callable[..., Any]] = {
    "_reconstruct": lambda *_: Array(),
    "scalar": _scalar,
    "_frombuffer": _from_buffer,
    "dtype": Kind,
    "ndarray": lambda *_: Array(),
}


class Reader(Unpickler):
    """Unpickler of plain data. Frames, a hint for buffered reading, are passed over, so that places are the file's."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__(file)
        self.file, self.size = file, size

    def find_class(self, module_name: str, global_name: str) -> Any:
        if module_name.split(".")[0] == "numpy" and global_name in NAMES:
            return Name(NAMES[global_name])
        if (module_name, global_name) == ("_codecs", "encode"):
            return Name(_encoded)
        raise Refused(f"asks for {printable(f'{module_name}.{global_name}'[:80])}, which no data need")

    def call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        if not isinstance(function, Name):
            raise Refused("calls something that is no function of numpy")
        return function.called(*arguments)

    def _bulk(self, count: int) -> None:
        start = self.file.tell()
        if count < BULK:
            self.append(bytes(self.read(count)))
        elif start + count > self.size:
            raise EOFError("it is cut off")
        else:
            self.file.seek(count, os.SEEK_CUR)
            self.append(Bulk(start, count))

    def _frame(self) -> None:
        self.read(8)

    def _bytes4(self) -> None:
        self._bulk(struct.unpack("<I", self.read(4))[0])

    def _bytes8(self) -> None:
        self._bulk(struct.unpack("<Q", self.read(8))[0])

    STEPS = {
        **Unpickler.STEPS,
        pickle.FRAME[0]: _frame,
        pickle.BINBYTES[0]: _bytes4,
        pickle.BINBYTES8[0]: _bytes8,
        pickle.BYTEARRAY8[0]: _bytes8,
    }


def read_pickled(path: str | Path) -> Any:
    """What a pickle, or a .npy file with one in it, holds: containers of numbers, text, bytes and arrays.

    Arrays lie in the mapped file and cannot be written to. OSError, in one line, where it is damaged, or where it wants
    anything that data do not need.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            if file.read(6) == b"\x93NUMPY":
                version = tuple(file.read(2))
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
                if not dtype.hasobject or math.prod(shape) != 1:
                    raise Refused("is a plain array")
            else:
                file.seek(0)
            found = Reader(file, size).load()
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return _resolved(found, memoryview(whole), DEPTH)
        except Exception as error:
            # A damaged pickle may trip over anything; what matters is which file it is.
            reason = "it is cut off" if isinstance(error, EOFError) else printable(error)
            raise OSError(f"{path}: not a readable pickle of data ({reason[:160]})") from None


def _resolved(value: Any, whole: memoryview, depth: int) -> Any:
    """The value with arrays and bytes in place of what stands for them."""
    if depth < 0:
        raise Refused(f"holds more than {DEPTH} containers in each other")
    if isinstance(value, dict):
        return {key: _resolved(one, whole, depth - 1) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_resolved(one, whole, depth - 1) for one in value)
    if isinstance(value, Bulk):
        return whole[value.start : value.start + value.count]
    if isinstance(value, Array):
        return _array(value, whole, depth)
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    raise Refused("holds something that is no data")


def _array(one: Array, whole: memoryview, depth: int) -> Any:
    """An array; of objects the list of them, and the only one where there is one."""
    count = math.prod(one.shape)
    if one.kind.text[0] == "O":
        if not isinstance(one.data, list) or len(one.data) != count:
            raise Refused("holds an array of objects of an unknown form")
        items = _resolved(one.data, whole, depth - 1)
        return items[0] if one.shape == () else items
    data = _resolved(one.data, whole, depth - 1)
    dtype = one.kind.dtype
    if not isinstance(data, (bytes, memoryview)) or len(data) != count * dtype.itemsize:
        raise Refused("holds an array whose numbers do not fill its shape")
    flat = np.frombuffer(data, dtype, count)
    return flat.reshape(one.shape, order="F" if one.fortran else "C") if one.shape else flat[0].item()
