"""Mutated and hostile files, opened as the verbs open them: `make fuzz`, and a little of it in `make test`.

Each input is tried in a process of its own, forked from one that has loaded everything. Counted are inputs, those that
were refused, and what must not be: code run, connections, programs started, other files opened, crashes, more than 20 s
of CPU time, more than 1.5 GB, exceptions that are neither OSError nor ValueError, and messages without the file's name.
Then `info` is asked about it, which has to say what it says on lines without control characters.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import pickle
import random
import resource
import signal
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from dropmae import cli, weights
from dropmae.benchmarks.folder import Folder
from dropmae.engine import Answer
from dropmae.exports import forms
from dropmae.formats import flow
from dropmae.formats.annotations import read_annotations
from dropmae.formats.arrays import read_dump, read_mat
from dropmae.formats.boxes import ResultFiles, read_boxes, read_json
from dropmae.formats.labels import read_labels
from dropmae.formats.pickled import read_pickled
from dropmae.methods.mae import MAE
from dropmae.target import Target, read_targets, write_targets
from dropmae.video import Video, write, write_store
from dropmae.video.scans import read_scan
from dropmae.weights import foreign, official

SECONDS, MEGABYTES = 20, 1500
"""Most processor time; most memory, what is loaded included."""
OWN = 300
"""Megabytes that a process holds which has just begun."""
WAIT = 60
"""Seconds on the clock after which a process that waits for something is a hang too."""
FORBIDDEN = (
    "socket.connect",
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "ctypes.dlopen",
    "pty.spawn",
)
CANARY = "canary-was-executed"
KNOWN = tuple(os.path.realpath(place) for place in (sys.prefix, sys.base_prefix, Path(weights.__file__).parents[2]))
"""Folders of the program's own files, which it may read."""
SYSTEM = ("/dev/", "/proc/", "/sys/", "/usr/", "/lib", "/etc/ld.so", "/etc/localtime")

Maker = Callable[[Path], object]


class Call:
    """Pickles as a call that leaves a trace."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def frames(count: int = 8) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (32, 48, 3)).astype(np.uint8) for _ in range(count)]


def encoded(path: Path, codec: str, pixels: str = "yuv420p") -> None:
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, pixels
        for array in frames():
            output.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format=pixels)))
        output.mux(stream.encode(None))


def packed(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def tree() -> dict[str, Any]:
    return {
        "model": {"patch_embed.proj.weight": torch.ones(192, 3, 16, 16), "norm.bias": torch.ones(192)},
        "args": argparse.Namespace(lr=0.1, names=["a", "b"], when=collections.Counter("ab")),
        "epoch": 3,
    }


def attack(path: Path, protocol: int) -> None:
    choices = [Call(os.system, f"touch {CANARY}"), Call(eval, f"open({CANARY!r}, 'w')"), Call(exec, "import os")]
    path.write_bytes(pickle.dumps({"model": choices}, protocol))


def ours(path: Path) -> None:
    weights.save(MAE(size="tiny", image=32), path)


def labels(path: Path) -> None:
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)


def annotated(path: Path) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 2:6] = 1
    target = Target(ids=np.ones(1, np.int64), boxes=np.array([[1.0, 2, 3, 4]]), mask=mask, points=np.ones((2, 2)))
    write_targets(path, {"v.mp4": {0: target, 1: target}})


def exported(path: Path) -> None:
    """Labels in the form that the name's ending asks for, of an object with a mask."""
    mask = np.zeros((32, 48), np.uint8)
    mask[2:5, 2:6] = 1
    target = Target(ids=np.ones(1, np.int64), boxes=np.array([[2.0, 2, 4, 3]]), mask=mask, names=["fox"])
    video = Video(np.stack(frames(3)))
    with forms(path)[path].open(path, video, None) as add:
        for number in range(3):
            add(Answer(number, video[number], target))


def packed_dump(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": np.ones((2, 3), np.float32), "b": [1, "x", {"c": np.arange(4)}]}))


def cloud(path: Path) -> None:
    head = "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 2\nHEIGHT 1\nPOINTS 2\n"
    path.write_bytes(head.encode() + b"DATA binary\n" + np.ones((2, 3), np.float32).tobytes())


def member(path: Path) -> None:
    write(path.with_suffix(".mp4"), frames(), 25)
    with tarfile.open(path, "w") as archive:
        archive.add(path.with_suffix(".mp4"), "v.mp4")


TEXT = "1,2,3,4\n5,6,7,8\n" * 20
MADE: dict[str, dict[str, Maker]] = {
    "checkpoints": {
        "zip.pth": lambda path: torch.save(tree(), path),
        "rows.pth": lambda path: torch.save(tree(), path, _use_new_zipfile_serialization=False),
        "whole.pth": lambda path: torch.save(torch.nn.Linear(3, 2), path),
        "attack0.pth": lambda path: attack(path, 0),
        "attack4.pth": lambda path: attack(path, 4),
        "ours.safetensors": ours,
    },
    "media": {
        **{f"v.{form}": lambda path: encoded(path, "libx264") for form in ("mp4", "mkv", "ts", "flv", "h264")},
        "v.avi": lambda path: encoded(path, "mpeg4"),
        "v.webm": lambda path: encoded(path, "libvpx-vp9"),
        "l.mkv": lambda path: encoded(path, "ffv1"),
        "v.mxf": lambda path: encoded(path, "mpeg2video"),
        "v.mpg": lambda path: encoded(path, "mpeg2video"),
        "j.mov": lambda path: encoded(path, "mjpeg", "yuvj420p"),
        **{f"i.{form}": lambda path: Image.fromarray(frames(1)[0]).save(path) for form in ("png", "jpg", "tif", "bmp")},
        "i.webp": lambda path: Image.fromarray(frames(1)[0]).save(path),
        "a.gif": lambda path: Image.fromarray(frames(1)[0]).save(path),
        "g.pgm": lambda path: Image.fromarray(frames(1)[0][..., 0]).save(path),
        "n.apng": lambda path: Image.fromarray(frames(1)[0]).save(
            path, "PNG", save_all=True, append_images=[Image.fromarray(frames(2)[1])]
        ),
        "s.pcd": cloud,
        "s.bin": lambda path: path.write_bytes(np.ones((5, 4), np.float32).tobytes()),
        "a.npy": lambda path: np.save(path, np.stack(frames(2))),
        "s.frames": lambda path: write_store(path, frames(2), 25),
        "t.tar": member,
        "l.m3u8": lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n"),
        "c.mp4": lambda path: path.write_text("ffconcat version 1.0\nfile /etc/passwd\n"),
    },
    "annotations": {
        "targets.jsonl": annotated,
        "b.txt": lambda path: path.write_text(TEXT),
        "r.zip": lambda path: packed(path, {"Seq.txt": TEXT.encode(), "../up.txt": b"1,2,3,4\n"}),
        "g.json": lambda path: path.write_text(json.dumps({"Seq": {"gt_rect": [[1, 2, 3, 4]]}})),
        "m.png": labels,
        "d.dat": lambda path: path.write_bytes(pickle.dumps(np.ones((2, 3)))),
        "annotations.xml": exported,
        "c.coco.json": exported,
        "a.csv": exported,
        "m.mot.txt": exported,
        "f.flo": lambda path: flow.write_flo(path, np.ones((4, 6, 2), np.float32)),
        "f.pfm": lambda path: flow.write_pfm(path, np.ones((4, 6, 1), np.float32)),
        "f.kitti.png": lambda path: flow.write_kitti(path, np.ones((4, 6, 2), np.float32)),
        "p.pkl": packed_dump,
        "p.mat": lambda path: path.write_bytes(b" " * 124 + b"\0\1IM" + b"\x0e\0\0\0\x08\0\0\0" * 2),
    },
}


def use(path: Path) -> None:
    """Opens a file as the verbs do."""
    kind = path.suffix
    if kind in (".pth", ".safetensors"):
        if weights.is_ours(path):
            weights.load(path)
        else:
            foreign.contents(path)
            official.to_module(foreign.examine(path))
    elif path.name == "targets.jsonl":
        for targets in read_targets(path).values():
            list(targets.values())
        Folder().sequences(path.parent)
    elif kind in (".xml", ".csv") or path.name in ("c.coco.json", "m.mot.txt"):
        for rows in read_annotations(path, size=lambda name: (32, 48)).values():
            list(rows.values())
    elif kind in (".flo", ".pfm") or path.name == "f.kitti.png":
        {".flo": flow.read_flo, ".pfm": flow.read_pfm, ".png": flow.read_kitti}[kind](path)
    elif kind in (".pcd", ".bin"):
        read_scan(path)
    elif kind == ".pkl":
        read_pickled(path)
    elif kind in (".txt", ".json"):
        (read_boxes if kind == ".txt" else read_json)(path)
    elif kind == ".zip":
        ResultFiles(path).result(["Seq", "up"])
    elif kind in (".dat", ".mat"):
        (read_dump if kind == ".dat" else read_mat)(path)
    elif path.name == "m.png":
        read_labels(path)
    else:
        with Video(f"{path}::v.mp4" if kind == ".tar" else path) as video:
            count = len(video)
            video.read([0, count // 2, count - 1])
            for number, _ in enumerate(video):
                if number == 30:
                    break


NUMBERS = [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"\xff" * 8, b"\0\0\0\x08", b"\0\1\0\0"]
WORDS = [b"../" * 3, b"\x1b[2J", b"http://127.0.0.1:9/", b"9" * 20, b"-1", b"NaN", b"{" * 2000, b"cos\nsystem\n"]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to six changes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(max(1, min(len(changed), rng.choice([64, 512, 1 << 30]))))
        way = rng.randrange(7)
        if way == 0 and changed:
            changed[place % len(changed)] ^= 1 << rng.randrange(8)
        elif way == 1:
            changed[place : place + 4] = rng.choice(NUMBERS)
        elif way == 2:
            changed[place:place] = rng.choice(WORDS)
        elif way == 3 and rng.random() < 0.3:
            del changed[place:]
        elif way == 4:
            del changed[place : place + rng.randint(1, 64)]
        elif way == 5:
            changed[place:place] = changed[place : place + 64] * rng.choice([1, 2, 50])
        else:
            changed[place : place + 8] = rng.randbytes(8)
    return bytes(changed)


def variant(path: Path, seed: bytes, rng: random.Random) -> None:
    """Writes a mutation; of zips every other one is mutated inside."""
    if seed[:2] == b"PK" and rng.random() < 0.6:
        with zipfile.ZipFile(io.BytesIO(seed)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = rng.choice([name for name in members if name.endswith(".pkl")] or list(members))
        members[name] = mutated(members[name], rng)
        how = zipfile.ZIP_STORED if path.suffix == ".pth" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", how) as archive:
            for inner, data in members.items():
                archive.writestr(inner, data)
    else:
        path.write_bytes(mutated(seed, rng))


def tried(path: Path) -> dict[str, Any]:
    """What becomes of one file, in a process of its own."""
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        os.close(readable)
        out: dict[str, Any] = {"said": "", "kind": "read", "forbidden": [], "opened": [], "told": ""}
        begun = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
        out["begun"] = begun  # a copy of its parent, which is large where many tests have run in it
        place = os.path.realpath(path.parent)
        folders = (place, *KNOWN, *SYSTEM)

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            if event in FORBIDDEN:
                out["forbidden"].append(event)
            elif event == "open" and isinstance(arguments[0], (str, bytes)):
                file = os.path.realpath(os.fsdecode(arguments[0]))
                if not file.startswith(folders) and not file.startswith(f"{tempfile.gettempdir()}/dropmae-"):
                    out["opened"].append(file)

        sys.addaudithook(watch)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 2))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.alarm(WAIT)
        os.chdir(path.parent)
        try:
            use(path)
        except (OSError, ValueError) as error:
            out |= {"kind": "refused", "said": str(error)}
        except BaseException as error:
            out |= {"kind": "traceback", "said": f"{type(error).__name__}: {error}"}
        else:
            out["said"] = ""
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            try:
                code = cli.main(["info", str(path)])
            except BaseException as error:
                code = f"{type(error).__name__}: {error}"
        text = told.getvalue()
        if code not in (0, 1, 2) or "Traceback" in text or any(ord(one) < 32 and one not in "\n\t\r" for one in text):
            out["told"] = f"{code} {text!r}"[:300]
        os.write(writable, json.dumps({**out, "said": out["said"][:400]}).encode())
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as answer:
        text = answer.read()
    _, status, used = os.wait4(child, 0)
    found = json.loads(text) if text else {"said": "", "kind": "crash", "forbidden": []}
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL, signal.SIGALRM):
        found["kind"] = "hang"
    memory = used.ru_maxrss / 1024 - max(0.0, found.pop("begun", 0.0) - OWN)
    return {"opened": [], "told": "", **found, "seconds": used.ru_utime + used.ru_stime, "megabytes": memory}


def fuzz(kind: str, count: int, seed: int = 0, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Figures of `count` mutations of the files of a kind."""
    rng = random.Random(seed)
    total: dict[str, Any] = collections.Counter()
    peak = slowest = 0.0
    bad: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for name, make in MADE[kind].items():
            place = Path(folder) / "seeds" / name
            place.parent.mkdir(exist_ok=True)
            make(place)
            made[name] = place.read_bytes()
        for number in range(count):
            name = list(made)[number % len(made)]
            path = Path(folder) / "tries" / name
            path.parent.mkdir(exist_ok=True)
            variant(path, made[name], rng)
            found = tried(path)
            code = (path.parent / CANARY).exists()
            unnamed = found["kind"] == "refused" and path.name not in found["said"]
            large, outside = found["megabytes"] > MEGABYTES, (Path(folder) / "up.txt").exists()
            total.update([found["kind"]])
            wrong = {
                "code run": code, "forbidden": bool(found["forbidden"]), "not named": unnamed, "too large": large,
                "outside": outside, "lines": "\n" in found["said"], "opened": bool(found["opened"]),
                "told": bool(found["told"]),
            }  # fmt: skip
            total.update({what: 1 for what, is_so in wrong.items() if is_so})
            if any(wrong.values()) or found["kind"] in ("crash", "hang", "traceback"):
                what = ", ".join(word for word in wrong if wrong[word])
                bad.append(f"{kind} {seed}:{number} {name} {found['kind']} {what}: {found['said'][:200]}")
                bad[-1] += f" {found['opened']} {found['told']}".rstrip(" []")
                say(bad[-1])
            peak, slowest = max(peak, found["megabytes"]), max(slowest, found["seconds"])
            for left in path.parent.iterdir():
                left.unlink()
    return {"inputs": count, **total, "peak_mb": round(peak), "slowest_cpu_s": round(slowest, 1), "bad": bad}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    for kind, count in (("checkpoints", 1000), ("media", 1000), ("annotations", 500)):
        options.add_argument(f"--{kind}", type=int, default=count)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    torch.set_num_threads(1)
    wrong = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("fuzz: ended by a SIGTERM from outside; what is above is all"))
    for kind in MADE:
        started = time.monotonic()
        print(f"{kind}: {getattr(given, kind)} inputs", file=sys.stderr, flush=True)
        found = fuzz(kind, getattr(given, kind), given.seed, lambda line: print(line, file=sys.stderr, flush=True))
        wrong += len(found.pop("bad"))
        print(kind, json.dumps({**found, "seconds": round(time.monotonic() - started)}), flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
