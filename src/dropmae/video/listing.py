"""Finding the videos under a folder without opening them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dropmae.opening import open_file
from dropmae.video.frames import image_name, natural

NOT_VIDEO = frozenset(
    f".{suffix}"
    for line in (
        "txt md rst csv tsv json jsonl yaml yml xml html log ini cfg toml py sh pdf doc docx xls xlsx srt vtt ass sub",
        "zip gz bz2 xz 7z rar tgz tar mat pkl pickle pt pth safetensors onnx npz h5 hdf5 parquet db sqlite bin exe so",
        "wav mp3 flac aac m4a ogg opus flo pfm ply svg ico tmp part partial lock md5 sha256 ds_store",
    )
    for suffix in line.split()
)
"""Suffixes of files that are known to be something else."""

BEGINNINGS = re.compile(
    rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |FLV\x01|OggS|0&\xb2u|\x00\x00\x01[\xb3\xba]|\x00\x00\x00?\x01[\x27\x67]",
    re.S,
)
"""First bytes of mp4, Matroska, AVI, FLV, Ogg, ASF, MPEG and raw H.264, for files without a suffix."""


def find(folder: str | Path) -> list[Path]:
    """The videos under a folder, recursively and in natural order.

    These are all files but hidden ones, images and those whose suffix says that they are something else (text,
    archives, sound, weights); and every folder that holds at least two images and no such file. Only files without any
    suffix are looked into, so that hundreds of thousands are listed in seconds; what is no video after all shows when
    it is opened. Links are followed, and each real file counts once. A file given as `folder` is itself the answer.

    Raises FileNotFoundError where there is no such folder.
    """
    root = Path(folder)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such file or folder")
    if not root.is_dir():
        return [root]
    found: dict[str, str] = {}
    """Where a video really is -> under which name it was found, its own name before that of a link."""
    folders_seen: set[str] = set()
    linked: list[str] = []
    for parent, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(parent)
        if real in folders_seen:
            folders.clear()
            continue
        folders_seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        videos = [name for name in files if may_be_video(parent, name)]
        for name in videos:
            path = os.path.join(parent, name)
            if os.path.islink(path):
                linked.append(path)
            else:
                found[os.path.join(real, name)] = path
        if not videos and sum(map(image_name, files)) > 1:
            found[real] = parent
    for path in linked:
        found.setdefault(os.path.realpath(path), path)
    return [Path(path) for path in sorted(found.values(), key=natural)]


def may_be_video(folder: str, name: str) -> bool:
    if name.startswith(".") or image_name(name):
        return False
    suffix = os.path.splitext(name)[1].lower()
    return suffix not in NOT_VIDEO if suffix else begins_like_video(os.path.join(folder, name))


def begins_like_video(path: str) -> bool:
    try:
        with open_file(path) as file:
            return bool(BEGINNINGS.match(file.read(16)))
    except OSError:
        return False
