"""A C++ file becomes a loaded library at its first use: nothing is compiled when the package is installed.

The library is made for the processor it runs on and kept in the user's cache folder (DROPMAE_CACHE, else
XDG_CACHE_HOME/dropmae, else ~/.cache/dropmae) under a hash of source, headers beside it, compiler, flags and processor,
so that machines that share a home folder do not get each other's.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dropmae import storage

BASE = "-O3 -std=c++17 -ffp-contract=fast -fno-math-errno -fno-trapping-math -fPIC -shared"
FLAGS = (f"{BASE} -march=native -fopenmp", f"{BASE} -march=native", f"{BASE} -mcpu=native")
"""Tried in turn: GCC, and Clang with OpenMP; then Clang without it, as on macOS: a library of one thread."""

SECONDS = 300

TYPES = {"p": ctypes.c_void_p, "l": ctypes.c_int64, "i": ctypes.c_int, "f": ctypes.c_float}


class CannotCompile(Exception):
    """Why there is no library: no compiler, or one that fails."""


@dataclass(frozen=True)
class Library:
    """The kernels of a C++ file in `csrc/`; a call gives the library, compiled at its first use, or CannotCompile."""

    file: str
    otherwise: str
    """What happens where it cannot be compiled."""
    functions: tuple[tuple[str, str], ...]
    """(name, its arguments): p a pointer, l an int64, i an int, f a float. They return nothing, those without arguments
    an int64."""

    def __call__(self) -> ctypes.CDLL:
        return _declared(self)

    @property
    def obstacle(self) -> str | None:
        """Why there is none, or None."""
        try:
            self()
        except CannotCompile as reason:
            return f"{self.otherwise}: {reason}"
        return None


@cache
def _declared(library: Library) -> ctypes.CDLL:
    found = load(Path(__file__).parent / "csrc" / library.file)
    for name, arguments in library.functions:
        function = getattr(found, name)
        function.argtypes = [TYPES[letter] for letter in arguments]
        function.restype = None if arguments else ctypes.c_int64
    return found


def load(source: Path) -> ctypes.CDLL:
    """The library compiled from `source`; CannotCompile, with the reason in one line, where that does not work."""
    found = _attempt(source)
    if isinstance(found, str):
        raise CannotCompile(found)
    return found


@cache
def _attempt(source: Path) -> ctypes.CDLL | str:
    """The library, or why there is none; tried once."""
    name = os.environ.get("CXX") or "c++"
    compiler = shutil.which(name) or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return "there is no C++ compiler (c++, g++ or clang++)"
    text = b"".join(path.read_bytes() for path in [source, *sorted(source.parent.glob("*.hpp"))])
    about = "\n".join([compiler, str(Path(compiler).resolve().stat().st_mtime), *FLAGS, _processor()])
    digest = hashlib.sha256(text + about.encode()).hexdigest()[:16]
    try:
        library = cache_folder() / f"{source.stem}-{digest}.so"
        if not library.exists():
            _compile(compiler, source, library)
        return ctypes.CDLL(str(library))
    except (OSError, CannotCompile, subprocess.TimeoutExpired) as error:
        return f"{source.name} could not be compiled and loaded: {error}"


def cache_folder() -> Path:
    """Where compiled libraries are kept; made if needed, readable by its owner alone."""
    own = os.environ.get("DROPMAE_CACHE")
    folder = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dropmae"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _compile(compiler: str, source: Path, library: Path) -> None:
    """Writes the library whole or not at all; several processes may do so at once."""
    failures = []
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        for flags in FLAGS:
            command = [compiler, *flags.split(), "-o", str(made), str(source)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
            if done.returncode:
                failures.append(next(iter(done.stderr.strip().splitlines()), f"exit code {done.returncode}"))
                continue
            try:
                ctypes.CDLL(str(made))  # a library without its OpenMP is only found out here
            except OSError as error:
                failures.append(str(error))
                continue
            storage.move(made, library)
            return
    raise CannotCompile(f"{compiler} failed: {failures[0]}")


def _processor() -> str:
    """What decides the meaning of -march=native."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(line for line in lines if line.startswith(("model", "flags", "Features", "CPU")))
