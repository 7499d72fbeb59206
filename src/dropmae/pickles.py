"""Pickles, read without running anything and without more memory or time than a limit.

A pickle is a program. Python's own machine for it is used in its slow form, whose steps can be replaced: the fast one
believes what a file says about itself, so that nine bytes take gigabytes. What names mean is up to the subclass.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import IO, Any

BYTES = 1 << 26
"""Bytes of the longest pickle, the numbers of tensors not counted, which lie elsewhere."""
STEPS = 1 << 21
"""Steps of the longest pickle, and how much may be copied in them; a checkpoint with its optimizer has 100,000."""
KEY = 64
"""Parts of the largest key of a mapping."""

Step = Callable[[Any], None]
MACHINE: Any = vars(pickle)["_Unpickler"]


class Refused(Exception):
    """The pickle wants something that data do not need."""


class _Source:
    """A file of which a pickle may read a limited part."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, BYTES

    def read(self, count: int) -> bytes:
        if count > self.left:
            raise Refused(f"is longer than {BYTES:,} bytes")
        data = self.file.read(count)
        self.left -= len(data)
        if len(data) < count:
            raise EOFError("it is cut off")
        return data

    def readline(self) -> bytes:
        data = self.file.readline(self.left)
        self.left -= len(data)
        if data[-1:] != b"\n":
            raise EOFError("it is cut off")
        return data


class _Steps(dict[int, Step]):
    """The steps of the machine, counted as they are looked up."""

    def __init__(self, steps: dict[int, Step]) -> None:
        super().__init__(steps)
        self.left = STEPS

    def spend(self, count: int = 1) -> None:
        self.left -= count
        if self.left < 0:
            raise Refused(f"takes more than {STEPS:,} steps")

    def __getitem__(self, code: int) -> Step:
        self.left -= 1
        if self.left < 0:
            raise Refused(f"takes more than {STEPS:,} steps")
        return super().__getitem__(code)


class Unpickler(MACHINE):
    """Reads one pickle. `find_class` says what stands for a name, `call` what a call of it gives.

    Sets become lists, since nothing here needs them and their members would have to be hashed.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(_Source(file), encoding="latin1")
        self.dispatch = _Steps(self.STEPS)

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise Refused(f"asks for {module_name}.{global_name}")

    def call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        raise Refused("calls something")

    def spend(self, values: Any) -> None:
        """Counts what is copied."""
        self.dispatch.spend(len(values) if isinstance(values, (str, bytes, list, tuple, dict)) else 1)

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        for argument in arguments:
            self.spend(argument)
        self.stack[-1] = self.call(self.stack[-1], tuple(arguments))

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self.call(klass, tuple(args)))

    def _build(self) -> None:
        self.spend(self.stack[-1])
        MACHINE.load_build(self)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][checked(key)] = value

    def _set_items(self) -> None:
        items = self.pop_mark()
        for place in range(0, len(items) - 1, 2):
            self.stack[-1][checked(items[place])] = items[place + 1]

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({checked(key): value for key, value in zip(items[::2], items[1::2])})

    def _empty_set(self) -> None:
        self.append([])

    def _add_items(self) -> None:
        items = self.pop_mark()
        self.stack[-1].extend(items)

    def _frozen_set(self) -> None:
        self.append(tuple(self.pop_mark()))

    def _byte_array(self) -> None:
        (count,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(count))

    STEPS: dict[int, Step] = {
        **MACHINE.dispatch,
        pickle.REDUCE[0]: _reduce,
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.DICT[0]: _dict,
        pickle.EMPTY_SET[0]: _empty_set,
        pickle.ADDITEMS[0]: _add_items,
        pickle.FROZENSET[0]: _frozen_set,
        pickle.BYTEARRAY8[0]: _byte_array,
    }


def checked(key: Any) -> Any:
    """A key of a mapping, which Python would hash through all of its parts, however deep and often they are in it."""
    waiting, count = [key], 0
    while waiting:
        part, count = waiting.pop(), count + 1
        if isinstance(part, tuple):
            waiting += part[:KEY]
        if count > KEY:
            raise Refused("has keys of many parts")
    return key
