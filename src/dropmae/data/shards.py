"""Shards: prepared videos packed into tar files with an index, in a folder or on any address that fsspec knows.

`index.jsonl` says in its first line what the shards are (form, their sizes in bytes, the number of lines that follow),
then for each video where its bytes lie: shard, offset and size. A video is read by that range alone, a local one in
place. The index is written after each shard, so that what it names is whole.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dropmae import storage
from dropmae.sequence import Sequence
from dropmae.storage import replacing
from dropmae.video import Piece, find
from dropmae.video.errors import broken
from dropmae.video.frames import natural

INDEX = "index.jsonl"
FORMAT = "dropmae-shards"


class Place:
    """A folder: a local one, or an address such as s3://bucket/videos.

    What goes wrong there is an OSError in one line, ValueError where the address or its package is unknown.
    """

    def __init__(self, root: str | Path):
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        self.root = str(root).rstrip("/") or "/"
        try:
            self.system, self.path = url_to_fs(self.root)
        except ImportError as error:
            raise ValueError(f"{self.root}: {error}") from None
        self.local = Path(self.path) if isinstance(self.system, LocalFileSystem) else None

    def address(self, name: str) -> str:
        """Of a file in it, for whoever reads it."""
        return str(self.local / name) if self.local is not None else f"{self.root}/{name}"

    @contextmanager
    def reaching(self, name: str) -> Iterator[str]:
        """The path of a file as its file system has it."""
        try:
            yield f"{self.path}/{name}" if name else self.path
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.address(name)}: no such file") from None
        except OSError as error:
            raise broken(self.address(name), error) from None
        except Exception as error:  # each file system has its own
            raise broken(self.address(name), f"{type(error).__name__}: {error}") from None

    def exists(self, name: str = "") -> bool:
        with self.reaching(name) as path:
            return bool(self.system.exists(path))

    def names(self) -> list[str]:
        """What is in the folder; nothing where there is none, or where the file system cannot list."""
        try:
            return [found.rstrip("/").rsplit("/", 1)[-1] for found in self.system.ls(self.path, detail=False)]
        except (FileNotFoundError, NotADirectoryError, NotImplementedError):
            return []

    def sizes(self, names: list[str]) -> list[int | None]:
        """Bytes of files, None for one that is missing; at once where the file system can."""
        try:
            with self.reaching("") as path:
                return list(self.system.sizes([f"{path}/{name}" for name in names]))
        except FileNotFoundError:
            return [self.size(name) for name in names]

    def size(self, name: str) -> int | None:
        try:
            with self.reaching(name) as path:
                return self.system.size(path)
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        with self.reaching(name) as path:
            return self.system.cat_file(path)

    def write(self, name: str, data: bytes) -> None:
        """Whole or not at all, in a folder; elsewhere as the file system does."""
        if self.local is not None:
            storage.write_bytes(self.local / name, data)
            return
        with self.reaching(name) as path:
            self.system.pipe_file(path, data)

    def move(self, file: Path, name: str) -> None:
        """Takes a local file."""
        if self.local is not None:
            storage.move(file, self.local / name)
            return
        with self.reaching(name) as path:
            self.system.put_file(str(file), path)
        storage.remove(file)


class Index:
    """What `index.jsonl` says; an empty one where there is none.

    OSError where it is damaged.
    """

    def __init__(self, place: Place):
        self.place = place
        self.form: dict[str, Any] | None = None
        self.shards: dict[str, int] = {}
        """Bytes of each shard."""
        self.rows: dict[str, dict[str, Any]] = {}
        """By source: name, shard, offset, size, frames, fps and stamp, or error and stamp."""
        self.found = place.exists(INDEX)
        if self.found:
            self.parse(place.read(INDEX))

    def parse(self, data: bytes) -> None:
        address = self.place.address(INDEX)
        try:
            first, *rows = [json.loads(line) for line in data.splitlines()]
            if first["format"] != FORMAT:
                raise broken(address, f"not an index of shards but {first['format']}")
            self.form, self.shards, count = dict(first["form"]), dict(first["shards"]), int(first["rows"])
            self.rows = {row["source"]: row for row in rows}
            for row in rows:
                if "error" not in row:
                    inside = row["offset"] >= 0 and row["offset"] + row["size"] <= self.shards[row["shard"]]
                    if not inside or not row["name"]:
                        raise ValueError
        except (ValueError, KeyError, TypeError):
            raise broken(address, "the index is damaged; `prepare --shards` into another folder") from None
        if len(rows) != count:
            raise broken(address, f"the index is cut short: {len(rows)} of its {count} lines are there")

    def write(self) -> None:
        first = {"format": FORMAT, "form": self.form, "shards": self.shards, "rows": len(self.rows)}
        lines = [json.dumps(row) + "\n" for row in (first, *self.rows.values())]
        self.place.write(INDEX, "".join(lines).encode())

    def wrong(self) -> dict[str, OSError]:
        """The shards that are not as the index has them, and what is wrong with them."""
        found: dict[str, OSError] = {}
        for name, size in zip(self.shards, self.place.sizes(list(self.shards))):
            address, expected = self.place.address(name), self.shards[name]
            if size is None:
                found[name] = FileNotFoundError(f"{address}: the shard is missing")
            elif size != expected:
                found[name] = broken(address, f"the shard is damaged: it has {size} of {expected} bytes")
        return found


def sequences(root: str | Path) -> list[Sequence] | None:
    """The videos of shards in natural order, as a folder of the same files would give them; None without an index.

    OSError where the index or a shard is damaged or missing.
    """
    index = Index(Place(root))
    if not index.found:
        return None
    if wrong := index.wrong():
        raise next(iter(wrong.values()))
    rows = sorted((row for row in index.rows.values() if "error" not in row), key=lambda row: natural(row["name"]))
    if not rows:
        raise FileNotFoundError(f"{root}: holds no video")
    return [Sequence(row["name"], piece(index.place, row)) for row in rows]


OUTPUTS = (("config.json", "metrics.jsonl"), ("track.jsonl", "summary.csv"))
"""Files by which folders are known that hold results, and no videos to work on."""


def videos_outside(paths: Iterable[Path], root: Path, out: Path | None = None) -> list[Path]:
    """The paths that lie neither in `out` nor in another run folder, or folder of `track`, below `root`.

    Runs draw pictures of themselves, and what `track` writes are videos.
    """
    here = root.resolve()
    runs = ({} if out is None else {out.resolve(): True}) | {here: False, here.parent: False}

    def inside(folder: Path) -> bool:
        if folder not in runs:
            own = any(all((folder / name).is_file() for name in names) for names in OUTPUTS)
            runs[folder] = own or inside(folder.parent)
        return runs[folder]

    return [path for path in paths if not inside(here / path.relative_to(root))]


def find_sequences(folder: str | Path, out: Path | None = None) -> list[Sequence]:
    """All videos below a folder or in shards, in sorted order, named by their path in it; OSError without any.

    What lies in run folders, `out` among them, is none of them.
    """
    if (found := sequences(folder)) is not None:
        return found
    if "://" in str(folder):
        raise FileNotFoundError(f"{folder}: holds no {INDEX}, which `prepare --shards` writes")
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder")
    paths = videos_outside(find(folder), folder, out)
    if not paths:
        lost = f"; its tar files have no {INDEX}" if folder.is_dir() and any(folder.glob("*.tar")) else ""
        raise FileNotFoundError(f"{folder}: holds no video{lost}")
    return [Sequence(str(path.relative_to(folder)) if path != folder else path.name, path) for path in paths]


def piece(place: Place, row: dict[str, Any]) -> Piece:
    address = place.address(row["shard"])
    return Piece(f"{address}::{row['name']}", address, row["offset"], row["size"])


class Packer:
    """Writes shards of about `size` bytes and their index, going on with those that are there.

    ValueError where the place holds something else, or shards of another form. What lay in a shard that is missing or
    damaged counts as not there.
    """

    def __init__(self, root: str | Path, form: dict[str, Any], size: int, staging: Path):
        self.place, self.size, self.staging = Place(root), size, staging
        self.index = Index(self.place)
        if not self.index.found and not all(name.startswith(".") for name in self.place.names()):
            raise ValueError(f"{root} is not empty and holds no shards; choose another folder")
        before = self.index.form or form
        if changed := [name for name in form if before.get(name) != form[name]]:
            changes = ", ".join(f"{name} {before.get(name)}, now {form[name]}" for name in changed)
            raise ValueError(f"{root} holds shards of another form ({changes}); choose another folder")
        self.index.form = form
        wrong = self.index.wrong()
        self.index.rows = {key: row for key, row in self.index.rows.items() if row.get("shard") not in wrong}
        self.index.write()  # so that a shard without its line in the index, after a kill, is known for what it is
        self.waiting: list[tuple[dict[str, Any], Path]] = []
        self.bytes = 0

    def has(self, source: str, stamp: list[int]) -> bool:
        row = self.index.rows.get(source)
        return row is not None and row["stamp"] == stamp

    def add(self, row: dict[str, Any], file: Path) -> None:
        """A video that is done, or with `error` in its row a bad one; its file goes with the shard."""
        if "error" in row:
            self.index.rows[row["source"]] = row
            return
        size = file.stat().st_size
        if self.waiting and self.bytes + size > self.size:
            self.flush()
        self.waiting.append((row, file))
        self.bytes += size

    def flush(self) -> None:
        """Writes a shard of what is waiting, then the index."""
        if self.waiting:
            numbers = [int(name.removesuffix(".tar")) for name in self.index.shards]
            name = f"{max(numbers, default=-1) + 1:06}.tar"
            made = self.staging / name
            with replacing(made) as partial, tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as archive:
                for row, file in self.waiting:
                    info = tarfile.TarInfo(row["name"])
                    info.size = file.stat().st_size
                    header = len(info.tobuf(archive.format, archive.encoding or "utf-8", archive.errors))
                    row |= {"shard": name, "offset": archive.offset + header, "size": info.size}
                    with open(file, "rb") as stream:
                        archive.addfile(info, stream)
            self.index.shards[name] = made.stat().st_size
            self.place.move(made, name)
            self.index.rows |= {row["source"]: row for row, _ in self.waiting}
        used = {row.get("shard") for row in self.index.rows.values()}
        self.index.shards = {name: size for name, size in self.index.shards.items() if name in used}
        self.index.write()
        for _, file in self.waiting:
            storage.remove(file)
        self.waiting, self.bytes = [], 0
