"""`track FOLDER`: every video below a folder, in parallel; what is done is noted, so that the same command goes on."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dropmae
from dropmae import locks, moving, storage
from dropmae.data.shards import videos_outside
from dropmae.engine import names_of
from dropmae.interruption import Interrupted, Stop
from dropmae.progress import Progress, say
from dropmae.storage import Lines
from dropmae.target import Target
from dropmae.verbs.prepare import run, stamp
from dropmae.video import Video, find

JOURNAL, SUMMARY = "track.jsonl", "summary.csv"
COLUMNS = ("video", "status", "object", "name", "first", "last", "from", "to", "confidence", "gaps", "frames")
NAMED = re.compile(r"(20\d\d)[-_.]?([01]\d)[-_.]?([0-3]\d)[-_. T]{0,3}([0-2]\d)[-_.:h]?([0-5]\d)[-_.:m]?([0-5]\d)?")
"""A date and a time of day in a file's name."""


@dataclass
class Job:
    """A video to be gone through."""

    name: str
    """Its path below the folder."""
    source: str
    outs: list[str]
    find: bool
    prompts: Mapping[int, Target] | None
    options: dict[str, Any] = field(default_factory=dict)
    """What else `dropmae.track` is told."""

    told: str = ""
    """What changes when the file of prompts does, where this video is in it."""

    def stamp(self) -> list[Any]:
        """What changes when the video does, or what is told of it."""
        return [*stamp(self.source), *([self.told] if self.told else [])]


def track_folder(
    folder: Path,
    out: Path,
    endings: tuple[str, ...],
    prompts: Mapping[str, Mapping[int, Target]] | None,
    *,
    moving: bool,
    workers: int,
    options: dict[str, Any],
    made_with: Mapping[str, str],
    version: str = "",
) -> dict[str, Any]:
    """Follows what moves, or what `prompts` tell of {video: {frame: Target}}, in every video; the report.

    `out` gets the results of each video under its name, `summary.csv`, and the journal by which the same command goes
    on, if it is one with the same `options` and `made_with`, what else results depend on. Videos of which `prompts`
    tell are gone through anew where their `version` is another one. OSError if none of the videos can be read.
    """
    sources = videos_outside(find(folder), folder, out)
    told = {"endings": list(endings), "moving": moving, **{n: str(value) for n, value in options.items()}}
    told |= made_with
    jobs = [job(source, folder, out, endings, prompts, moving, options, version) for source in sources]
    with Stop(urgent=True), locks.held(out):
        done = known(out / JOURNAL, told)
        todo = [one for one in jobs if (row := done.get(one.name)) is None or row["stamp"] != one.stamp()]
        lines, progress = Lines(out / JOURNAL), Progress(len(jobs), len(jobs) - len(todo), unit="video")
        lines.rewrite([{"settings": told}, *done.values()])
        try:
            for count, (one, outcome) in enumerate(run(todo, workers, one_video), len(jobs) - len(todo) + 1):
                done[one.name] = {"name": one.name, "stamp": one.stamp(), **outcome}
                lines.add([done[one.name]])
                if "error" in outcome:
                    say(f"bad: {one.name}: {outcome['error']}")
                progress.show(count, {})
        except (OSError, KeyboardInterrupt) as error:
            count = sum(one.name in done for one in jobs)
            finished = f"{count} of {len(jobs)} videos are done, and the same command continues"
            if isinstance(error, OSError):
                raise OSError(f"{error}; {finished}") from None
            raise Interrupted(getattr(error, "number", signal.SIGINT), finished) from None
        finally:
            progress.close()
            rows = [done[one.name] for one in jobs if one.name in done]
            storage.write_text(out / SUMMARY, table(rows))
    bad = [row["name"] for row in rows if "error" in row]
    empty = sum(not row.get("objects") for row in rows) - len(bad)
    say(f"{len(rows)} videos, {empty} empty, {len(bad)} bad; {out / SUMMARY} lists them")
    if rows and len(bad) == len(rows):
        raise OSError(
            f"{folder}: none of its {len(rows)} files can be read as a video; {out / SUMMARY} has the reasons"
        )
    objects = sum(len(row.get("objects", ())) for row in rows)
    return {"out": str(out), "videos": len(rows), "empty": empty, "bad": bad, "objects": objects}


def job(
    source: Path,
    folder: Path,
    out: Path,
    endings: tuple[str, ...],
    prompts: Mapping[str, Mapping[int, Target]] | None,
    moving: bool,
    options: dict[str, Any],
    version: str,
) -> Job:
    name = source.relative_to(folder).as_posix()
    mine = None if prompts is None else prompts.get(name, {})
    return Job(
        name,
        str(source),
        [str(out / f"{name}{ending}") for ending in endings],
        moving,
        mine,
        options,
        version if mine else "",
    )


def known(path: Path, told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a journal says is done; ValueError where it was done otherwise, or the folder is not ours."""
    if not path.exists():
        if path.parent.is_dir() and any(entry.name != locks.NAME for entry in path.parent.iterdir()):
            raise ValueError(f"{path.parent} is not empty and was not made by track: choose another folder")
        return {}
    rows = Lines(path).read()
    if rows and rows[0].get("settings") != told:
        changed = [name for name in told if rows[0].get("settings", {}).get(name) != told[name]]
        raise ValueError(f"{path.parent} was made with other settings ({', '.join(changed)}): choose another folder")
    return {row["name"]: row for row in rows[1:]}


def one_video(job: Job) -> dict[str, Any]:
    """What is in one video, in a process of its own: its objects, or the error that makes it a bad one."""
    try:
        video = Video(job.source)
        begun, frames = wall_clock(video), len(video)
        told = job.prompts if job.prompts is not None else None
        if job.find:
            told = moving.prompts_of(moving.find_moving(video))
        if told is not None and not told:
            return {"frames": frames, "objects": []}
        times, names = video.times, names_of(told or {})
        outs: dict[str, Any] = {"out": Path(job.outs[0]), "also": tuple(map(Path, job.outs[1:])), "overwrite": True}
        outs |= {} if told is None else {"prompts": told}
        with contextlib.redirect_stderr(io.StringIO()):  # many at once would talk over each other
            report = dropmae.track(video, **outs, **job.options)
    except Exception as error:  # whatever goes wrong with one video is its own, and stops no other
        text = " ".join(str(error).split()).removeprefix(f"{job.source}: ")
        return {"error": text if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {text}"}
    objects = []
    for number, span in report["spans"].items():
        ends = [float(times[span["first"]]), float(times[span["last"]])]
        clock = [
            None if begun is None else (begun + timedelta(seconds=at)).isoformat(" ", "milliseconds") for at in ends
        ]
        mean = report["confidence"].get(number, {}).get("mean")
        called = {"name": names[int(number)]} if int(number) in names else {}
        objects.append({"object": int(number), **called, **span, "from": clock[0], "to": clock[1], "confidence": mean})
    return {"frames": frames, "objects": objects}


def wall_clock(video: Video) -> datetime | None:
    """When a video was begun, by its metadata, else by its name; None where neither tells."""
    told = video.details().get("created")
    if told:
        try:
            found = datetime.fromisoformat(told.replace("Z", "+00:00"))
            if found.year > 1970:  # a clock that was not set
                return found.replace(tzinfo=None)
        except ValueError:
            pass
    match = NAMED.search(video.name)
    try:
        if match is None:
            return None
        year, month, day, hour, minute, second = (int(part or 0) for part in match.groups())
        return datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None


def table(rows: list[dict[str, Any]]) -> str:
    """The summary: a line per object, and one for a video that has none or that is bad."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        start = {"video": row["name"], "frames": row.get("frames", "")}
        if "error" in row:
            writer.writerow(start | {"status": f"bad: {row['error']}"})
        elif not row["objects"]:
            writer.writerow(start | {"status": "empty"})
        for one in row.get("objects", ()):
            writer.writerow(start | {"status": "found"} | {n: "" if v is None else v for n, v in one.items()})
    return buffer.getvalue()
