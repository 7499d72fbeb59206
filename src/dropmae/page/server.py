"""The server of the page: what can be asked for, and the threads in which it is done.

One thread follows, for whoever comes first; frames, exports and uploads have others. An answer that takes long is a
stream of lines of JSON, which ends when the page closes it, within a frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import anyio
import anyio.lowlevel
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dropmae import storage
from dropmae.names import printable
from dropmae.page import commands, labels, saved, uploads
from dropmae.page.guard import Guard
from dropmae.page.passes import Step
from dropmae.page.prompts import numbers, whole
from dropmae.page.recording import Recording, camera_name
from dropmae.page.work import Engines, Work
from dropmae.progress import say
from dropmae.target import Target, encode_mask, target_lines
from dropmae.video import is_live
from dropmae.video.tape import SUFFIX

MOST = 8
"""Videos that are open at once."""
PATIENCE = 10.0
"""Seconds that a change waits for what was followed to stop."""
LOOK = 0.07
"""Seconds between two looks at a recording."""
SIDE = 4096
"""Longest side of a picture that is sent."""
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = {
    entry.name: (entry.read_bytes(), TYPES[Path(entry.name).suffix])
    for entry in resources.files("dropmae.page").joinpath("static").iterdir()
    if Path(entry.name).suffix in TYPES
}
"""All that the page is made of."""


class Conflict(Exception):
    """What was asked for does not fit what is there now."""


IDLE = ["\n"]
"""What is sent where there is nothing to say: whoever has gone is noticed then."""
EXPECTED = (KeyError, ValueError, OSError, ClientDisconnect, uploads.TooLarge, Conflict)
"""What people or the world can be the cause of."""


class Page:
    """The works that are open, and the answers to requests about them."""

    def __init__(self, videos: list[str], engines: Engines, folder: Path, question: int | None = None) -> None:
        """`videos` are those that the command line names. With a `question`, the number of a frame, people are asked
        only what to follow, and `answer` then has it."""
        self.videos, self.engines, self.folder, self.question = videos, engines, folder, question
        self.works: dict[str, Work] = {}
        self.locks: dict[str, asyncio.Lock] = {}
        self.opening = asyncio.Lock()
        self.files: dict[str, tuple[Path, str]] = {}
        """What was written and not fetched yet."""
        self.answer: dict[int, Target] | None = None
        self.answered = threading.Event()
        self.turn, self.queue = asyncio.Lock(), list[object]()
        self.torch = ThreadPoolExecutor(1, "following")
        routes = [
            Route("/", self.home),
            Route("/static/{name}", self.static),
            Route("/open", self.list_videos),
            Route("/open", self.open_video, methods=["POST"]),
            Route("/upload", self.upload, methods=["POST"]),
            Route("/works/{key}", self.show),
            Route("/works/{key}", self.drop, methods=["DELETE"]),
            Route("/works/{key}/frames/{number:int}", self.frame),
            Route("/works/{key}/live", self.watch),
            Route("/works/{key}/stop", self.stop, methods=["POST"]),
            Route("/works/{key}/answers", self.answers),
            Route("/works/{key}/prompts", self.say, methods=["POST"]),
            Route("/works/{key}/outline", self.outline, methods=["POST"]),
            Route("/works/{key}/follow", self.follow, methods=["POST"]),
            Route("/works/{key}/exports", self.export, methods=["POST"]),
            Route("/files/{token}", self.file),
            Route("/works/{key}/saved", self.restore, methods=["POST"]),
            Route("/works/{key}/labels", self.labels, methods=["POST"]),
            Route("/works/{key}/done", self.done, methods=["POST"]),
        ]
        handlers: Any = {
            KeyError: told(404),
            ValueError: told(422),
            Conflict: told(409),
            uploads.TooLarge: told(413),
            OSError: told(500),
            ClientDisconnect: told(400),
            Exception: told(500),
        }
        self.guard = Guard(Starlette(routes=routes, exception_handlers=handlers))

    # ------------------------------------------------------------ the page and its videos

    async def home(self, _: Request) -> Response:
        return file_of("index.html")

    async def static(self, request: Request) -> Response:
        return file_of(request.path_params["name"])

    async def list_videos(self, _: Request) -> Response:
        opened = [{"key": work.key, "name": work.name} for work in self.works.values()]
        names = [camera_name(video) if is_live(video) else Path(video).name for video in self.videos]
        return JSONResponse({"videos": names, "works": opened, "question": self.question})

    async def open_video(self, request: Request) -> Response:
        number = (await uploads.said(request)).get("video")
        if not isinstance(number, int) or not 0 <= number < len(self.videos):
            raise ValueError("video is the number of one that the command line names")
        return await self.opened(self.videos[number], "")

    async def watch(self, request: Request) -> Response:
        """How a recording goes on, line by line, until it has ended."""
        recording = self.recording(self.work(request))

        async def lines() -> AsyncIterator[str]:
            while True:
                state = recording.state()
                yield json.dumps(state) + "\n"
                if state["ended"] is not None:
                    return
                await asyncio.sleep(LOOK)

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def stop(self, request: Request) -> Response:
        """Ends a recording: what there is is a video as any other then."""
        work = self.work(request)
        await anyio.to_thread.run_sync(self.recording(work).stop)
        return JSONResponse(self.state(self.work(request)))

    async def upload(self, request: Request) -> Response:
        title = printable(unquote(request.headers.get("x-name", "video")))[:200]
        folder = self.folder / f"upload-{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700)
        path = folder / uploads.file_name(title)
        try:
            await uploads.stored(request, path, uploads.VIDEO_BYTES)
            await anyio.to_thread.run_sync(uploads.check_video, path, title)
            return await self.opened(str(path), title)
        except BaseException:
            storage.remove(folder)
            raise

    async def opened(self, source: str, title: str) -> Response:
        async with self.opening:  # a camera takes its time, and the next one who asks must see it
            if len(self.works) >= MOST:
                raise Conflict(f"{MOST} videos are open: close one first")
            key = secrets.token_hex(16)
            folder = self.folder / key
            begun: Any = source
            recordings = [one.recording for one in self.works.values() if one.recording is not None]
            if is_live(source) and any(one.on for one in recordings):
                raise Conflict("a camera is being recorded already: stop that first")
            folder.mkdir(mode=0o700)
            try:
                if is_live(source):
                    begun = await anyio.to_thread.run_sync(Recording, source, folder)
                work = await anyio.to_thread.run_sync(Work, key, begun, folder, self.engines, title)
            except BaseException:
                if isinstance(begun, Recording):
                    begun.close()
                storage.remove(folder)
                raise
            self.works[key], self.locks[key] = work, asyncio.Lock()
            return JSONResponse(self.state(work))

    async def show(self, request: Request) -> Response:
        work = self.work(request)
        return JSONResponse({**self.state(work), "scores": work.scores()})

    async def drop(self, request: Request) -> Response:
        async with self.held(request) as work:
            del self.works[work.key]
            await anyio.to_thread.run_sync(work.close)
            storage.remove(work.folder)
            if Path(work.path).parent.parent == self.folder:
                storage.remove(Path(work.path).parent)
        return Response(status_code=204)

    async def frame(self, request: Request) -> Response:
        work, number = self.work(request), request.path_params["number"]
        if number >= work.count:
            raise KeyError("there is no such frame")
        side = min(uploads.int_of(request.query_params.get("side")) or SIDE, SIDE)
        data = await anyio.to_thread.run_sync(work.jpeg, number, side)
        return Response(data, media_type="image/jpeg")

    # ------------------------------------------------------------ saying

    async def say(self, request: Request) -> Response:
        """Changes what is said: {"version", and frame and lines, or names, or undo, or redo}."""
        asked = await uploads.said(request)
        async with self.held(request) as work:
            if asked.get("version") != work.prompts.version:
                raise Conflict("something else was said here meanwhile, in another tab perhaps: it is shown now")
            if asked.get("undo"):
                work.prompts.undo()
            elif asked.get("redo"):
                work.prompts.redo()
            elif "frame" in asked:
                work.prompts.set(asked["frame"], asked.get("lines"), asked.get("names"))
            else:
                work.prompts.call(asked.get("names"))
            await anyio.to_thread.run_sync(work.said)
            if "frame" in asked and not self.queue:  # it is likely to be followed from there, soon
                self.torch.submit(work.look_up, asked["frame"])
            return JSONResponse(self.state(work))

    async def outline(self, request: Request) -> Response:
        """{"mask"} of what {"frame", and box or click} shows."""
        asked, work = await uploads.said(request), self.work(request)
        if not whole(asked.get("frame"), 0, work.count - 1):
            raise ValueError("frame is the number of a frame")
        if ("box" in asked) == ("click" in asked):
            raise ValueError("an outline is found in a box, or at a click")
        kind, count, field = ("box", 4, "boxes") if "box" in asked else ("click", 2, "clicks")
        told: dict[str, Any] = {field: np.array([numbers(asked[kind], count, kind, 1e6)])}
        mask = await self.follows(work.outline, asked["frame"], Target(ids=np.array([1]), **told))
        return JSONResponse({"mask": encode_mask(mask)})

    # ------------------------------------------------------------ following

    async def follow(self, request: Request) -> Response:
        """{"way": forwards, backwards or both, and but for both: "frame", and "stop", before which it ends}"""
        asked, work = await uploads.said(request), self.work(request)
        way, frame, stop = asked.get("way"), asked.get("frame", -1), asked.get("stop")
        if way == "both":
            runs = work.both()
        elif way in ("forwards", "backwards"):
            sign = 1 if way == "forwards" else -1
            stop = (work.count if sign > 0 else -1) if stop is None else stop
            if not whole(frame, 0, work.count - 1) or not whole(stop, -1, work.count):
                raise ValueError("frame and stop are numbers of frames")
            if (stop - frame) * sign <= 0:
                raise ValueError(f"no frame lies {way} from {frame} before {stop}")
            runs = [(sign, frame, stop)]
        elif way == "live":
            if not self.recording(work).on:
                raise Conflict("the recording has ended: follow it forwards")
            if not whole(frame, 0, work.count - 1):
                raise ValueError("frame is the number of a frame")
            runs = [(0, frame, 0)]
        else:
            raise ValueError("way is forwards, backwards, both or live")
        for sign, start, _ in runs:
            work.every[sign].begin(start)
        lock = await self.locked(work)
        return StreamingResponse(self.lines(work, lock, runs), media_type="application/x-ndjson")

    async def lines(self, work: Work, lock: asyncio.Lock, runs: list[tuple[int, int, int]]) -> AsyncIterator[str]:
        """A line per frame that was followed, then {"done"}; {"error"} where it failed; neither where it stopped."""
        count, mine = 0, object()
        steps: Any = None
        self.queue.append(mine)
        try:
            while self.turn.locked() and self.queue[0] is not mine:
                yield json.dumps({"waiting": self.queue.index(mine)}) + "\n"
                await asyncio.sleep(0.5)
            async with self.turn:
                for run in runs:
                    steps = work.follow(*run)
                    while found := await self.follows(next_lines, work, steps):
                        count += found != IDLE
                        for line in found:
                            yield line
                        await anyio.lowlevel.checkpoint()  # where the page has gone, this ends it
                yield json.dumps({"done": count, "stale": work.stale_ranges()}) + "\n"
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            yield json.dumps({"error": printable(" ".join(str(error).split()) or type(error).__name__)}) + "\n"
        finally:
            self.queue.remove(mine)
            if steps is not None:
                steps.close()
            lock.release()

    async def answers(self, request: Request) -> Response:
        """What is known of frames `from` to `to`, a line each."""
        work, query = self.work(request), request.query_params
        first, last = uploads.int_of(query.get("from")), uploads.int_of(query.get("to"))
        numbers = [n for n in range(max(0, first), min(last, work.count - 1, first + 1000) + 1)]
        found = "".join(line for n in numbers if (line := known_line(work, n)))
        return Response(found, media_type="application/x-ndjson")

    # ------------------------------------------------------------ taking along

    async def export(self, request: Request) -> Response:
        """Writes {"form"}: the ending of a file's name; {"file", "name"}, of which the file can be fetched once."""
        form = (await uploads.said(request)).get("form")
        async with self.held(request) as work:
            folder = work.folder / f"export-{secrets.token_hex(8)}"
            folder.mkdir()
            name = f"{Path(work.name).stem}{form}"
            try:
                path = folder / uploads.file_name(name)
                await anyio.to_thread.run_sync(write_form, work, form, path)
            except BaseException:
                storage.remove(folder)
                raise
        token = secrets.token_hex(16)
        self.files[token] = (path, name)
        return JSONResponse({"file": token, "name": name})

    async def file(self, request: Request) -> Response:
        if (found := self.files.pop(request.path_params["token"], None)) is None:
            raise KeyError("this file was fetched already, or never written")
        path, name = found
        return FileResponse(path, filename=name, background=BackgroundTask(storage.remove, path.parent))

    async def restore(self, request: Request) -> Response:
        async with self.held(request) as work:
            path = work.folder / f"restored-{secrets.token_hex(8)}"
            try:
                await uploads.stored(request, path, uploads.SAVED_BYTES)
                await anyio.to_thread.run_sync(saved.read, path, work)
            finally:
                storage.remove(path)
            return JSONResponse({**self.state(work), "scores": work.scores()})

    async def labels(self, request: Request) -> Response:
        """Says what files tell, of which one PNG alone is about the frame `frame`: see `labels.read`."""
        frame = uploads.int_of(request.query_params.get("frame"))
        async with self.held(request) as work:
            folder = work.folder / f"labels-{secrets.token_hex(8)}"
            folder.mkdir()
            try:
                path = folder.with_suffix(".files")
                await uploads.stored(request, path, uploads.SAVED_BYTES)
                await anyio.to_thread.run_sync(labels.read, path, folder, work, frame)
            finally:
                storage.remove(folder)
                storage.remove(folder.with_suffix(".files"))
            return JSONResponse({**self.state(work), "scores": work.scores()})

    async def done(self, request: Request) -> Response:
        """People have shown what to follow, and the command line goes on."""
        work = self.work(request)
        if self.question is None or not work.prompts.targets:
            raise ValueError("show first what to follow")
        self.answer = dict(work.prompts.targets)
        return JSONResponse({}, background=BackgroundTask(self.answered.set))

    # ------------------------------------------------------------ inner matters

    def work(self, request: Request) -> Work:
        key = request.path_params["key"]
        if key not in self.works:
            raise KeyError("this video is not open any more: open it again")
        work = self.works[key]
        work.prompts.count = work.count
        return work

    def recording(self, work: Work) -> Recording:
        if work.recording is None:
            raise KeyError("this video is no recording")
        return work.recording

    async def locked(self, work: Work) -> asyncio.Lock:
        lock = self.locks[work.key]
        try:
            await asyncio.wait_for(lock.acquire(), PATIENCE)
        except TimeoutError:
            raise Conflict("it is being followed: stop that first") from None
        return lock

    @contextlib.asynccontextmanager
    async def held(self, request: Request) -> AsyncIterator[Work]:
        """A work that nobody else changes meanwhile; Conflict where it stays in use."""
        work = self.work(request)
        lock = await self.locked(work)
        try:
            yield work
        finally:
            lock.release()

    async def follows(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function in the thread that follows, and waits for its end even where the page has gone."""
        with anyio.CancelScope(shield=True):
            return await asyncio.get_running_loop().run_in_executor(self.torch, function, *arguments)

    def state(self, work: Work) -> dict[str, Any]:
        """All that the page shows of a work but for answers and scores."""
        said = work.prompts
        return {
            "key": work.key,
            "name": work.name,
            "frames": work.count,
            "fps": round(work.video.fps, 3),
            "height": work.size[0],
            "width": work.size[1],
            "version": said.version,
            "prompts": dict(said.said.frames),
            "names": dict(said.said.names),
            "undo": len(said.past),
            "redo": len(said.future),
            "weights": work.spec,
            "accepts": work.accepts(),
            "stale": work.stale_ranges(),
            "doubtful": work.doubtful_below(),
            "command": commands.command(work),
            "exports": work.exports(),
            "question": self.question,
            "live": None if work.recording is None else work.recording.state(),
        }


def known_line(work: Work, number: int) -> str:
    """What is known of a frame as a line; empty where nothing is."""
    if (kept := work.answer(number)) is None:
        return ""
    targets = ",".join(target_lines("", number, kept.target))
    flags = f'"given": {json.dumps(kept.given)}, "missed": {json.dumps(kept.missed)}'
    return f'{{"frame": {number}, {flags}, "targets": [{targets}]}}\n'


def next_lines(work: Work, steps: Iterator[Step]) -> list[str]:
    """Follows one frame more; the lines on it, none at the end, an empty one where none came yet."""
    if (step := next(steps, None)) is None:
        return []
    if step.idle:
        return IDLE
    lines = [known_line(work, answer.frame) for answer in step.answers]
    if step.skipped:
        lines.append(json.dumps({"skipped": step.frame, "reason": printable(step.skipped)}) + "\n")
    return lines or [json.dumps({"seen": step.frame}) + "\n"]


def file_of(name: str) -> Response:
    data, kind = FILES[name]
    return Response(data, media_type=kind)


def write_form(work: Work, form: Any, path: Path) -> None:
    """Writes what was said (.prompts.jsonl), all of a work (.dropmae), a recording (.recorded.mov), or what was found
    in any of the forms."""
    if form == ".prompts.jsonl":
        storage.write_text(path, "".join(f"{line}\n" for line in work.prompts.lines()))
    elif form == saved.SUFFIX:
        saved.write(work, path)
    elif form == SUFFIX and work.recording is not None:
        work.recording.tape.write(path)
    elif isinstance(form, str):
        work.export(form, path)
    else:
        raise ValueError("form is the ending of a file's name")


def told(status: int) -> Any:
    """Answers an error with its one line."""

    async def handle(_: Request, error: Exception) -> Response:
        if not isinstance(error, EXPECTED):
            say(f"{type(error).__name__}: {error}")
        text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
        return JSONResponse({"error": printable(" ".join(str(text).split()))[:500]}, status)

    return handle


class Server:
    """The page on a loopback address, in a thread of its own, from `with` to its end."""

    def __init__(self, page: Page, port: int = 0) -> None:
        self.page = page
        try:
            self.socket = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            raise OSError(
                f"port {port} of 127.0.0.1 cannot be used ({error.strerror}): --port 0 takes a free one"
            ) from None
        page.guard.port = self.socket.getsockname()[1]
        config = uvicorn.Config(
            page.guard,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws="none",
            lifespan="off",
            limit_concurrency=64,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=16384,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],), name="page", daemon=True)

    @property
    def url(self) -> str:
        return self.page.guard.url

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for work in list(self.page.works.values()):
            if work.recording is not None:
                work.recording.stop()  # and with it whoever watches or follows it
        self.server.should_exit = True
        self.thread.join(5)
        self.page.torch.shutdown(wait=False, cancel_futures=True)
        for work in list(self.page.works.values()):
            work.close()
        self.socket.close()

    def wait(self, browser: bool) -> None:
        """Tells people where it is, and waits for the answer to the question, or for ever."""
        print(self.url, flush=True)
        if browser and not webbrowser.open(self.url):
            say("no browser was found here: open the address above in one on this machine")
        while not self.page.answered.wait(0.2):
            if not self.thread.is_alive():
                raise OSError("the page's server ended")
