"""The one place that writes, replaces and removes files; `tests/files/test_storage.py` finds what goes around it.

A file is either whole or as it was before: it is written beside, flushed to disk, then renamed. The partial file has a
name of its own, `.NAME.HOST-PID-RANDOM.partial`, so that two processes never write to one, and what a killed process
left can be told from what a living one is writing.

What a verb is told to write (`--out`) goes through `check_output`: it may not be one of the inputs, by links either,
nor a file that was not made as the same kind of output. Such files are marked when they are made.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import json
import os
import secrets
import shutil
import stat
import tempfile
import threading
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from dropmae import machine
from dropmae.names import utf8

SUFFIX = ".partial"
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
HEAD, TAIL = 4 << 20, 64 << 10
"""Bytes at the start and the end of a file among which its mark is looked for: an mp4 has it behind its index."""
MARK = ".made-by"
"""The file that marks a folder of results."""


_written: contextvars.ContextVar[list[Path] | None] = contextvars.ContextVar("_written", default=None)


@contextlib.contextmanager
def noting() -> Iterator[list[Path]]:
    """A list of the files that are written by this thread until the block ends, those in whole folders included."""
    token = _written.set(files := [])
    try:
        yield files
    finally:
        _written.reset(token)


def _note(path: Path) -> None:
    files = _written.get()
    if files is not None:
        files += [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]


def mark(kind: str) -> str:
    """The words in a file that say which kind of output it is: "a picture made by dropmae" for one."""
    return f"{kind} made by dropmae"


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends without an error.

    Where the block fails, on a full disk for one, what was there before stays and the partial file is removed. OSError
    where it cannot be written, or where `path` is a folder or a device.
    """
    path = Path(path)
    _ordinary(path, stat.S_ISREG, "a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    try:
        yield partial
        with open(partial, "rb+") as stream:
            os.fsync(stream.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
        _note(path)
    except (OSError, RuntimeError) as error:  # the latter is how torch and others report a failed write
        if not _of_writing(error, partial):
            raise
        raise unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """As `replacing`, an empty folder to fill: a folder that exists under its name is a complete one."""
    folder = Path(folder)
    _ordinary(folder, stat.S_ISDIR, "a folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(folder)
    partial.mkdir()
    try:
        yield partial
        flush_folder(partial)
        remove(folder)
        os.rename(partial, folder)
        flush_folder(folder.parent)
        _note(folder)
    except OSError as error:
        if not _of_writing(error, partial):
            raise
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file, whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    write_bytes(path, utf8(text))


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_folder(folder: str | Path, files: Mapping[str, Any], encode: Callable[[Any], bytes]) -> None:
    """Writes {file name: value} to `folder`, whole or not at all; what was there before is replaced."""
    with replacing_folder(folder) as partial:
        for name, value in files.items():
            below(partial, name).write_bytes(encode(value))


@contextlib.contextmanager
def replacing_files(path: str | Path, kind: str) -> Iterator[Callable[[str, bytes], None]]:
    """A function `add(name, data)` of the files of a folder, or of a zip where `path` ends so; whole or not at all.

    Both carry `mark(kind)`, and the same files give the same bytes.
    """
    path = Path(path)
    if path.suffix.lower() != ".zip":
        with replacing_folder(path) as partial:

            def write(name: str, data: bytes) -> None:
                place = below(partial, name)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)

            write(MARK, mark(kind).encode())
            yield write
        return
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.comment = mark(kind).encode()

        def pack(name: str, data: bytes) -> None:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, data)

        yield pack


def append(path: str | Path, lines: Iterable[str]) -> None:
    """Appends lines, without their line ends, to a file that need not be there yet."""
    try:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write("".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise unwritable(Path(path), error) from error


class Lines:
    """A file of JSON lines that grows while work goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All lines; a torn last one, which may just be being written, is left out."""
        found = []
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found

    def rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Puts these lines in the place of all others, whole or not at all."""
        write_text(self.path, "".join(f"{json.dumps(row)}\n" for row in rows))

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        append(self.path, map(json.dumps, rows))


def move(file: Path, path: Path) -> None:
    """Gives a complete file of ours its place on the same file system."""
    _ordinary(path, stat.S_ISREG, "a file")
    os.replace(file, path)


def remove(path: str | Path) -> None:
    """Removes a file or a whole folder, if it is there; a folder first gets a name under which nobody looks for it."""
    path = Path(path)
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    hidden = partial_name(path)
    os.rename(path, hidden)
    shutil.rmtree(hidden)


def remove_empty(folder: Path) -> None:
    """Removes a folder if nothing is in it."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def sweep(path: Path) -> None:
    """Removes what processes that are gone left half-written of a file or folder."""
    if path.parent.is_dir():
        for left in path.parent.glob(f".{_escaped(path.name)}.*{SUFFIX}"):
            _remove_dead(left)


def create(path: Path, text: str) -> bool:
    """Makes a file that was not there, whole; False where it is there already."""
    sweep(path)
    partial = partial_name(path)
    try:
        partial.write_text(text)
        try:
            os.link(partial, path)  # at once and only if there is none
        except FileExistsError:
            return False
        except OSError:  # file systems without links
            try:
                with open(path, "x") as stream:
                    stream.write(text)
            except FileExistsError:
                return False
        return True
    finally:
        partial.unlink(missing_ok=True)


def take_away(path: Path, fits: Callable[[str], bool]) -> None:
    """Removes a file whose text fits, also while others may do the same and make it anew."""
    moved = partial_name(path)
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, moved)
        if not fits(moved.read_bytes().decode("utf-8", "replace")):  # somebody was faster, and this is theirs
            with contextlib.suppress(OSError):
                os.link(moved, path)
        moved.unlink()


def below(folder: str | Path, name: str) -> Path:
    """The path `name` within `folder`, for names that come from files; ValueError where it is not within it.

    A name is relative and has neither `.` and `..` parts nor control characters. Links are no way out either.
    """
    folder, parts = Path(folder), name.split("/")
    bad = not all(parts) or {".", ".."} & set(parts) or (os.name == "nt" and {":", "\\"} & set(name))
    if bad or any(unicodedata.category(letter) == "Cc" for letter in name):
        raise ValueError(f"{name!r} is no name of a file below {folder}: it must be relative, without .. and controls")
    path = folder / name
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r} leads out of {folder} by a link")
    return path


def check_output(
    path: str | Path, kind: str, inputs: Iterable[Any] = (), *, overwrite: bool = False, folder: bool = False
) -> Path:
    """`path`, if a result of this `kind` may be written there; ValueError where that would destroy something else.

    That is an input (the same file, by whatever links) or a file that carries no `mark(kind)`; `overwrite` allows both.
    It is a file, or a `folder` of files, which is never replaced without a mark unless it is empty. What killed
    processes left beside it is removed.
    """
    path = Path(path)
    if path.is_dir() and not folder:
        raise ValueError(f"{path} is a folder: name the file to write")
    _ordinary(path, stat.S_ISDIR if folder else stat.S_ISREG, "a folder" if folder else "a file")
    if folder and path.exists():
        held = [source for source in inputs if isinstance(source, (str, Path)) and os.path.exists(source)]
        if any(path.resolve() in (place := Path(source).resolve(), *place.parents) for source in held):
            raise ValueError(f"{path} holds what this reads: choose another --out")
        marked = (path / MARK).is_file() and made_as(path / MARK, kind)
        if not marked and any(path.iterdir()):
            raise ValueError(f"{path} is not {mark(kind)}, and is not empty: choose another --out, or remove it")
    elif path.exists() and not overwrite:
        for source in (item for item in inputs if isinstance(item, (str, Path)) and os.path.exists(item)):
            if os.path.samefile(source, path):
                raise ValueError(f"{path} is what this reads ({source}): choose another --out, or give --overwrite")
        if not made_as(path, kind):
            raise ValueError(f"{path} exists and is not {mark(kind)}: choose another --out, or give --overwrite")
    sweep(path)
    return path


def made_as(path: str | Path, kind: str) -> bool:
    """Whether a file carries `mark(kind)`."""
    words = mark(kind).encode()
    with open(path, "rb") as stream:
        if words in stream.read(HEAD):
            return True
        stream.seek(max(os.fstat(stream.fileno()).st_size - TAIL, 0))
        return words in stream.read(TAIL)


def mark_zip(path: str | Path, kind: str) -> None:
    """Marks a zip archive, as `torch.save` writes them, in its comment."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = mark(kind).encode()


def clean(folder: str | Path) -> None:
    """Removes what processes that are gone left half-written below a folder of ours."""
    for left in list(Path(folder).rglob(f".*{SUFFIX}")):
        _remove_dead(left)


@contextlib.contextmanager
def workspace(kind: str) -> Iterator[Path]:
    """A folder of this process alone, among the temporary ones, that goes with it; those of dead processes go too."""
    start, home = f"dropmae-{kind}.", Path(tempfile.gettempdir())
    for left in home.glob(f"{start}*{SUFFIX}"):
        if left.stat().st_uid == _user():
            _remove_dead(left)
    folder = home / f"{start}{machine.HOST}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unnamed(folder: Path) -> BinaryIO:
    """A file without a name, nor a buffer, which would keep what could not be written."""
    return cast(BinaryIO, tempfile.TemporaryFile(dir=folder, buffering=0))


class Scratch:
    """A file without a name on the disk of `folder`, which any thread may append to and read; gone when it is closed.

    What could not be appended, as the disk is full, leaves it as it was.
    """

    def __init__(self, folder: Path) -> None:
        self.file = unnamed(folder)
        self.lock, self.used = threading.Lock(), 0

    def append(self, data: bytes | memoryview) -> int:
        """Where it begins. OSError where the disk is full."""
        with self.lock:
            start, left = self.used, memoryview(data)
            self.file.seek(start)
            while left:
                left = left[self.file.write(left) :]
            self.used = start + len(data)
            return start

    def read(self, start: int, length: int) -> bytes:
        with self.lock:
            self.file.seek(start)
            found = b""
            while len(found) < length and (part := self.file.read(length - len(found))):
                found += part
            return found

    def clear(self) -> None:
        with self.lock:
            self.file.truncate(0)
            self.used = 0

    def close(self) -> None:
        with self.lock:
            self.file.close()


def partial_name(path: Path) -> Path:
    """Where this process writes what will be `path`; another name each time, and not too long for a file system."""
    stem = utf8(path.name)[:150].decode(errors="ignore")
    return path.with_name(f".{stem}.{machine.HOST}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}")


def _of_writing(error: BaseException, partial: Path) -> bool:
    """Whether an error out of a block that writes is about that, and not of another file that was read or written.

    The system's errors have a number. One without is a sentence of ours, which names what it is about.
    """
    if not isinstance(error, OSError) or error.errno is None:
        return disk_full(partial.parent) and not isinstance(error, Unwritable)
    if error.errno in FULL:
        return True
    elsewhere = isinstance(error.filename, str) and partial not in (Path(error.filename), *Path(error.filename).parents)
    return not elsewhere and not isinstance(error, Unwritable)


class Unwritable(OSError):
    """A file that could not be written, named in its text."""


def unwritable(path: Path, error: BaseException) -> OSError:
    """The error of a failed write in one line; it says so where the disk is full."""
    if getattr(error, "errno", None) in FULL or disk_full(path.parent):
        return Unwritable(errno.ENOSPC, f"{path} could not be written: the disk is full")
    reason = getattr(error, "strerror", None) or error
    return Unwritable(getattr(error, "errno", None) or 0, f"{path} could not be written: {reason}")


def disk_full(folder: Path) -> bool:
    """Whether there is no room left worth the name."""
    try:
        usage = shutil.disk_usage(folder)
        return usage.total > 0 and usage.free < 1 << 16  # /proc and its like have no room at all
    except OSError:
        return False


def flush_folder(folder: Path) -> None:
    """Has the names in a folder written to disk, where a system can."""
    with contextlib.suppress(OSError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_dead(partial: Path) -> None:
    """Removes a partial file or folder, if the process that made it is gone."""
    owner = partial.name.removesuffix(SUFFIX).rpartition(".")[2].split("-")
    ours = len(owner) == 3 and owner[0] == machine.HOST and owner[1].isdecimal()
    old = len(owner) == 1  # .NAME.partial, as versions until 0.1.0 wrote them
    if (ours and not machine.alive(int(owner[1]))) or old:
        if partial.is_dir() and not partial.is_symlink():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def _ordinary(path: Path, fits: Callable[[int], bool], what: str) -> None:
    if os.path.lexists(path) and os.path.exists(path) and not fits(os.stat(path).st_mode):
        raise OSError(errno.EEXIST, f"{path} is there and is not {what}")


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _user() -> int:
    return machine.user()


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
