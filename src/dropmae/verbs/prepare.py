"""The verb `prepare`: verifies a folder of videos, and re-encodes them for fast random access or stores their frames.

Every file is decoded from end to end, so that what is bad is known before training. Re-encoded with a key frame every
16 frames and no B frames, a random pair costs a fraction of what it costs in a film, and with one reference frame the
codec's motion vectors mean what they say. OUT keeps the structure of VIDEOS; `prepare.jsonl` in it records file by file
what has been done, so that the same command continues; `report.json` says what came out. With `--shards` videos wait in
a staging folder, which has that journal, until a shard is full; then `index.jsonl` (data/shards.py) says that they are
done.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dropmae import locks, storage
from dropmae.data.shards import Packer, Place, videos_outside
from dropmae.interruption import Interrupted, Pool, Stop, serve, working
from dropmae.names import utf8
from dropmae.progress import Progress, say
from dropmae.storage import Lines, write_json
from dropmae.video import Video, find, write, write_store
from dropmae.video.store import STORE
from dropmae.video.writer import VIDEO

JOURNAL = "prepare.jsonl"
REPORT = "report.json"
PRESET = "faster"
"""Of x264: the slower ones take longer for no smaller files where each frame has one reference."""
TUNE = "fastdecode"
"""No arithmetic coding and no loop filter: a pair takes a third less time to read, for a tenth larger files."""


@dataclass(frozen=True)
class Form:
    """How videos are stored; another form in the same folder is an error."""

    short_side: int
    frames: bool
    crf: int
    gop: int

    @property
    def suffix(self) -> str:
        return ".frames" if self.frames else ".mp4"


@dataclass(frozen=True)
class Job:
    """One video to prepare."""

    name: str
    """Its path below VIDEOS."""
    source: str
    output: str
    form: Form


class Unreadable(Exception):
    """Tells a source that cannot be read from an output that cannot be written."""


def prepare(
    videos: Path,
    out: str | Path,
    *,
    short_side: int = 256,
    frames: bool = False,
    crf: int = 23,
    gop: int = 16,
    shards: bool = False,
    shard_size: int = 256,
    workers: int = 0,
) -> dict[str, Any]:
    """Verifies every video and re-encodes it for fast random access, or stores its decoded frames.

    VIDEOS is searched recursively: files, and folders of images, each of which becomes one video; what lies in run
    folders and in those of `track` is left out. The result is H.264 without B frames and sound, at the source's average
    frame rate, or with `--frames` one memory-mapped file of uint8 frames per video, which is large and as fast as it
    gets. Bad files are named with the reason, here and in OUT/report.json, and left out. The same command continues
    where it was stopped, and takes in new and changed files.

    Args:
        videos: folder of videos, or one video.
        out: folder to write to, which keeps the structure of VIDEOS; with `--shards` also an address of fsspec's.
        short_side: scale to this short side, in pixels; smaller videos keep their size.
        frames: store decoded frames instead of H.264: short side x long side x 3 bytes for each.
        crf: quality of H.264 from 0 to 51; lower is better and larger.
        gop: frames from key frame to key frame; fewer make random access faster and files larger.
        shards: pack what is prepared into tar files with an index, OUT/index.jsonl.
        shard_size: megabytes of a shard.
        workers: processes to use; 0 takes one per processor.
    """
    if short_side < 16 or not 0 <= crf <= 51 or gop < 1 or workers < 0 or shard_size < 1:
        raise ValueError(
            "short_side must be at least 16, crf from 0 to 51, gop and shard_size at least 1 and workers 0 or more, "
            f"not {short_side}, {crf}, {gop}, {shard_size}, {workers}"
        )
    place = Place(out) if shards else None
    if place is None and "://" in str(out):
        raise ValueError(f"{out} is an address, and only --shards writes to one")
    videos, folder = Path(videos), Path(out) if place is None else staging(place, Path(videos))
    form = Form(short_side, frames, crf, gop)
    if folder.resolve() == videos.resolve() or videos.resolve() in folder.resolve().parents:
        raise ValueError(f"{out} lies in {videos}, where it would be taken for a source; choose another folder")
    sources = videos_outside(find(videos), videos)
    if not sources:
        raise FileNotFoundError(f"{videos}: no videos in this folder")
    started = time.perf_counter()
    jobs = plan(sources, videos if videos.is_dir() else videos.parent, folder, form)
    with Stop(urgent=True), locks.held(folder):
        if place is None:
            journal: Journal = Journal(folder, form)
        else:
            journal = PackedJournal(folder, form, Packer(out, asdict(form), shard_size * 10**6, folder), jobs)
        work(journal, jobs, folder, workers or os.cpu_count() or 1)
        report = journal.report(jobs)
    told = {"settings": asdict(form), **report}
    if place is None:
        write_json(folder / REPORT, told)
        where = str(folder / REPORT)
    else:
        place.write(REPORT, (json.dumps(told, indent=2) + "\n").encode())
        where = place.address(REPORT)
    say(
        f"{report['videos']} videos, {report['frames']} frames, {report['bytes'] / 1e6:.1f} MB in {out}, "
        f"{time.perf_counter() - started:.0f} s; {len(report['bad'])} bad" + (f", see {where}" * bool(report["bad"]))
    )
    if report["unchecked"]:
        say(f"{report['unchecked']} videos are of codecs that do not notice damage: wrong pixels in them are not named")
    if not report["videos"]:
        raise OSError(f"{videos}: none of its {len(jobs)} files can be read as a video; {where} has the reasons")
    return {"out": str(out), **report}


def work(journal: Journal, jobs: list[Job], folder: Path, workers: int) -> None:
    """Prepares what the journal does not know yet."""
    with journal:
        todo = [job for job in jobs if not journal.has(job)]
        storage.clean(folder)
        kind = STORE if any(job.form.frames for job in jobs) else VIDEO
        for job in todo:
            if job.name not in journal.done and os.path.exists(job.output) and not storage.made_as(job.output, kind):
                raise ValueError(f"{job.output} is in the way of {job.name} and is not {storage.mark(kind)}: move it")
        progress = Progress(len(jobs), len(jobs) - len(todo), unit="video")
        try:
            for count, (job, outcome) in enumerate(run(todo, workers, convert), len(jobs) - len(todo) + 1):
                journal.add(job, outcome)
                if "error" in outcome:
                    say(f"bad: {job.name}: {outcome['error']}")
                progress.show(count, {})
            journal.finish()
        except (OSError, KeyboardInterrupt) as error:
            count = sum(journal.has(job) for job in jobs)
            done = f"{count} of {len(jobs)} videos are done, and the same command continues"
            if isinstance(error, OSError):
                raise OSError(f"{error}; {done}") from None
            raise Interrupted(getattr(error, "number", signal.SIGINT), done) from None
        finally:
            progress.close()


def plan(sources: list[Path], root: Path, out: Path, form: Form) -> list[Job]:
    """A job for each source; outputs that would have the same name keep the suffix of their source in theirs."""
    names = [source.relative_to(root).as_posix() for source in sources]
    names = [root.resolve().name if name == "." else name for name in names]
    stems = [name if source.is_dir() else str(Path(name).with_suffix("")) for name, source in zip(names, sources)]
    often = Counter(stems)
    outputs = [name if often[stem] > 1 else stem for name, stem in zip(names, stems)]
    return [
        Job(name, str(source), str(out / (output + form.suffix)), form)
        for name, source, output in zip(names, sources, outputs)
    ]


class Journal:
    """`prepare.jsonl`: the form in its first line, then a line for each video that is done or bad.

    Raises ValueError where the folder holds something else or another form.
    """

    def __init__(self, out: Path, form: Form):
        self.path, self.form = out / JOURNAL, asdict(form)
        self.lines = Lines(self.path)
        self.done: dict[str, dict[str, Any]] = {}
        if not self.path.exists():
            if out.is_dir() and any(entry.name != locks.NAME for entry in out.iterdir()):
                raise ValueError(f"{out} is not empty and was not made by prepare; choose another folder")
            out.mkdir(parents=True, exist_ok=True)
            return
        lines = self.lines.read()
        before = lines[0]["form"] if lines else self.form
        if changed := [name for name in self.form if before.get(name) != self.form[name]]:
            changes = ", ".join(f"{name} {before.get(name)}, now {self.form[name]}" for name in changed)
            raise ValueError(f"{out} holds videos of another form ({changes}); choose another folder")
        self.done = {line["name"]: line for line in lines[1:]}

    def __enter__(self) -> Journal:
        """Writes what is known anew, and opens the file for more."""
        rows = [{"form": self.form}, *self.done.values()]
        self.lines.rewrite(rows)
        return self

    def __exit__(self, *_: object) -> None:
        """Every line is written as soon as it is known."""

    def finish(self) -> None:
        """All videos are dealt with."""

    def has(self, job: Job) -> bool:
        """Whether the video as it is now has been dealt with."""
        row = self.done.get(job.name)
        return bool(row and row["stamp"] == stamp(job.source) and ("error" in row or os.path.exists(job.output)))

    def add(self, job: Job, outcome: dict[str, Any]) -> None:
        row = {"name": job.name, "stamp": stamp(job.source), **outcome}
        self.lines.add([row])
        self.done[job.name] = row

    def report(self, jobs: list[Job]) -> dict[str, Any]:
        rows = [self.done[job.name] for job in jobs]
        good = [row for row in rows if "error" not in row]
        bad = [{"name": row["name"], "reason": row["error"]} for row in rows if "error" in row]
        totals = {key: sum(row[key] for row in good) for key in ("frames", "bytes")}
        unchecked = sum(not row.get("checked", True) for row in good)
        return {"videos": len(good), **totals, "unchecked": unchecked, "bad": bad}


class PackedJournal(Journal):
    """Of a staging folder, from which videos move into shards: what is in these is done, too."""

    def __init__(self, folder: Path, form: Form, packer: Packer, jobs: list[Job]):
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, form)
        self.packer, self.folder = packer, folder
        for job in jobs:
            if not self.packed(job) and super().has(job):  # by a run that was stopped before its shard was full
                self.pack(job)

    def packed(self, job: Job) -> bool:
        return self.packer.has(job.name, stamp(job.source))

    def has(self, job: Job) -> bool:
        return self.packed(job) or super().has(job)

    def add(self, job: Job, outcome: dict[str, Any]) -> None:
        super().add(job, outcome)
        self.pack(job)

    def pack(self, job: Job) -> None:
        row = self.done[job.name]
        name = Path(job.output).relative_to(self.folder).as_posix()
        self.packer.add({**row, "source": row["name"], "name": name}, Path(job.output))

    def finish(self) -> None:
        self.packer.flush()
        self.done |= {source: {**row, "name": source} for source, row in self.packer.index.rows.items()}
        storage.remove(self.folder)


def staging(place: Place, videos: Path) -> Path:
    """Where videos wait for their shard: in OUT, or beside other temporary files where OUT is elsewhere."""
    if place.local is not None:
        return place.local / ".staging"
    key = hashlib.sha256(utf8(f"{videos.resolve()}\n{place.root}")).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"dropmae-prepare-{key}"


def stamp(source: str) -> list[int]:
    """What changes when a source changes: size (or number of files in a folder) and time of the last change."""
    try:
        status = os.stat(source)
        return [len(os.listdir(source)) if os.path.isdir(source) else status.st_size, status.st_mtime_ns]
    except OSError:
        return [-1, -1]


def run(jobs: list[Any], workers: int, work: Callable[[Any], dict[str, Any]]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """What `work` makes of each job, as they come. A file that kills its process is a bad file, and stops nothing."""
    waiting = deque(jobs)
    while waiting:
        suspects: list[Any] = []
        with working(pool(min(workers, len(waiting)))) as processes:
            running: dict[Future, Any] = {}
            try:
                while waiting or running:
                    while waiting and len(running) < 2 * workers:
                        job = waiting.popleft()
                        running[processes.submit(work, job)] = job
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        outcome = future.result()
                        yield running.pop(future), outcome
            except BrokenProcessPool:
                suspects = list(running.values())
        for job in suspects:
            with working(pool(1)) as process:
                try:
                    outcome = process.submit(work, job).result()
                except BrokenProcessPool:
                    outcome = {"error": "the decoder crashes on it"}
            yield job, outcome


def pool(workers: int) -> Pool:
    return Pool(workers, multiprocessing.get_context("spawn"), initializer=serve)


def convert(job: Job) -> dict[str, Any]:
    """Prepares one video: what came out, or the error that makes it a bad one. OSError if it cannot be written."""
    try:
        video = Video(job.source, short_side=job.form.short_side)
        fps, checked = video.fps, video.details().get("damage", "noticed") == "noticed"
    except Exception as error:  # whatever goes wrong in reading a file is that file's fault, and stops no other
        return {"error": reason(job, error)}
    with video:
        try:
            if job.form.frames:
                count = write_store(job.output, readable(video), fps)
            else:
                settings = {"crf": job.form.crf, "gop": job.form.gop, "b_frames": 0, "references": 1}
                count = write(job.output, readable(video), fps, **settings, preset=PRESET, tune=TUNE)
        except Unreadable as error:
            return {"error": reason(job, error)}
        return {"frames": count, "fps": fps, "bytes": os.path.getsize(job.output), "checked": checked}


def readable(video: Video) -> Iterator[np.ndarray]:
    """The frames of a video; Unreadable where one cannot be read."""
    try:
        yield from video
    except Exception as error:  # as in `convert`
        raise Unreadable(error) from None


def reason(job: Job, error: Exception) -> str:
    error = error.args[0] if isinstance(error, Unreadable) else error
    text = " ".join(str(error).split()).removeprefix(f"{job.source}: ")
    return text if isinstance(error, OSError) else f"{type(error).__name__}: {text}"
