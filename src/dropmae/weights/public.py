"""Public weights by name: fetched from where their authors have put them, once, and only where somebody asks.

What a name stands for is printed before anything is fetched: address, size, licence. The file goes to the cache folder
(DROPMAE_CACHE, else dropmae/ in the user's cache), is taken up again where a fetch broke off, checked against its
size and SHA-256, and converted. With `--offline`, or DROPMAE_OFFLINE set, nothing is fetched.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from dropmae import storage
from dropmae.progress import say

CHUNK = 1 << 20
TIMEOUT = 30
"""Seconds without a byte after which a fetch has broken off."""
OFFLINE = "DROPMAE_OFFLINE"


class Entry(NamedTuple):
    """A public file."""

    address: str
    size: int
    licence: str
    sha256: str


_DINOV2 = "https://dl.fbaipublicfiles.com/dinov2"
NAMES: dict[str, Entry] = {
    "dinov2-s": Entry(
        f"{_DINOV2}/dinov2_vits14/dinov2_vits14_pretrain.pth",
        88_283_115,
        "Apache-2.0",
        "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
    ),
    "dinov2-b": Entry(
        f"{_DINOV2}/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
        346_378_731,
        "Apache-2.0",
        "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    ),
}
"""What can be fetched. Files whose size and hash are not known from several places have no row."""


def cache_folder() -> Path:
    """Where fetched weights are kept."""
    if own := os.environ.get("DROPMAE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dropmae"


def fetch(name: str) -> Path:
    """Our weight file of the public weights called `name`: from the cache, or fetched and converted.

    OSError where they cannot be had, are not what they should be, or may not be fetched.
    """
    entry = NAMES[name]
    ours = cache_folder() / f"{name}-{entry.sha256[:8]}.safetensors"
    if ours.is_file():
        return ours
    if os.environ.get(OFFLINE, "0") not in ("", "0"):
        raise OSError(f"{name} is not in {ours.parent}, and offline nothing is fetched ({entry.address})")
    say(f"{name}: fetching {entry.size / 1e6:.1f} MB from {entry.address} (licence {entry.licence}) to {ours.parent}")
    original = ours.with_name(entry.address.rsplit("/", 1)[-1])
    download(entry, original)
    convert(original, ours, entry)
    storage.remove(original)
    return ours


def convert(original: Path, ours: Path, entry: Entry) -> None:
    """Writes our file of the encoder in a public one."""
    # By name, since whoever asks for the file is what these build upon.
    names = ("weights", "weights.foreign", "weights.official")
    weights, foreign, official = (importlib.import_module(f"dropmae.{name}") for name in names)
    found = foreign.examine(original)
    extra = {
        "licence": entry.licence,
        "source": {"file": original.name, "address": entry.address, "sha256": entry.sha256},
    }
    weights.save(official.to_module(found, encoder_only=True), ours, extra)


def download(entry: Entry, path: Path) -> None:
    """Fetches a file to `path`, going on where an earlier fetch broke off; OSError in one line otherwise."""
    partial = path.with_name(f"{path.name}.part")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        done = partial.stat().st_size if partial.exists() else 0
        if done < entry.size:
            with open(partial, "r+b" if done else "wb") as file:
                for start, piece in _pieces(entry.address, done):
                    file.seek(start)
                    file.truncate()
                    file.write(piece)
    except (OSError, http.client.HTTPException) as error:
        reason = f"{error.code} {error.reason}" if isinstance(error, HTTPError) else " ".join(str(error).split())
        raise OSError(f"{entry.address} could not be fetched ({reason}); the same command goes on from there") from None
    size = partial.stat().st_size
    if size < entry.size:
        raise OSError(
            f"{entry.address} broke off after {size} of {entry.size} bytes; the same command goes on from there"
        )
    with open(partial, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if size != entry.size or digest != entry.sha256:
        storage.remove(partial)
        raise OSError(
            f"{entry.address} is not the file that it should be: {size} bytes, SHA-256 {digest}, not {entry.size} and "
            f"{entry.sha256}; it was removed"
        )
    storage.move(partial, path)


def _pieces(address: str, done: int) -> Iterator[tuple[int, bytes]]:
    """(place in the file, bytes) from `done` on, or from the start where the server does not go on."""
    request = Request(address, headers={"Range": f"bytes={done}-"} if done else {})
    with urlopen(request, timeout=TIMEOUT) as answer:
        place = done if answer.status == 206 else 0
        while piece := answer.read(CHUNK):
            yield place, piece
            place += len(piece)
