"""`dropmae synth`: clips of textured objects that move over moving backgrounds, or scans, with exact annotation.

Clip n is a pure function of the options and (seed, n): of a scene (what there is), a motion (how it moves) and the
light and lens of that clip. `scenes` and `motions` limit how many different ones there are, so that the diversity of
either can be studied alone.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dropmae import locks, machine
from dropmae.interruption import Pool, Stop, serve, working
from dropmae.progress import Progress
from dropmae.rendering import motions
from dropmae.rendering.geometry import scales, shifts, tilts, turns
from dropmae.rendering.motions import chance, log_uniform
from dropmae.rendering.scenes import SHARE_POINTS, Effects, Scene, Surface
from dropmae.rendering.streets import RATE, Scanning, drawn
from dropmae.rendering.things import Appearance, Thing, appearance
from dropmae.storage import clean, remove, replacing, write_folder, write_json, write_text
from dropmae.target import Target, read_targets, target_lines, write_flow
from dropmae.video import Writer

Rng = np.random.Generator


@dataclass(kw_only=True, frozen=True)
class Rendering:
    """What is rendered; lengths of time are in frames."""

    frames: int = 32
    """Frames per clip."""
    size: tuple[int, ...] = (256, 256)
    """Height and width in pixels; one number is a square."""
    objects: tuple[int, int] = (1, 4)
    """Fewest and most objects per clip."""
    points: int = 8
    """Tracked points on each object, and on the background."""
    masks: bool = True
    """Annotate masks."""
    flow: bool = True
    """Annotate optical flow."""
    hidden_flow: bool = False
    """Give flow also where the next frame hides the point or has lost it (else NaN)."""
    scenes: int = 0
    """Different scenes (textures, shapes, sizes) in the whole set; 0: every clip has its own."""
    motions: int = 0
    """Different motions (of camera and objects) in the whole set; 0: every clip has its own."""
    speed: float = 1.0
    """Makes everything move faster or slower."""
    foreground: bool = True
    """Unlabelled things in front of objects and between them and the background."""
    lighting: bool = True
    """Changing light and shadows."""
    blur: bool = True
    """Motion blur and defocus."""
    noise: bool = True
    """Sensor noise."""

    def __post_init__(self) -> None:
        if len(self.size) not in (1, 2) or min(self.size) < 16:
            raise ValueError(f"--size takes height and width (or one number) of at least 16, not {self.size}")
        if self.frames < 1:
            raise ValueError(f"--frames must be at least 1, not {self.frames}")
        low, high = self.objects
        if not 0 <= low <= high <= 60:
            raise ValueError(f"--objects takes the fewest and the most objects, at most 60, not {low} {high}")
        for name in ("points", "scenes", "motions"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must not be negative")
        if not 0 <= self.speed <= 10:
            raise ValueError(f"--speed must be between 0 and 10, not {self.speed}")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.size[0], self.size[-1]


@dataclass(kw_only=True, frozen=True)
class Settings(Rendering, Scanning):
    """What `synth` takes: of clips, or, with --scans, of streets that a LiDAR sees."""


OPTIONS = Settings


def effects(rng: Rng, options: Rendering) -> Effects:
    """Draws light, lens and sensor of one clip."""
    times, short = np.arange(options.frames), min(options.shape)
    made = Effects()
    if options.lighting:
        look = np.exp(rng.normal(0, 0.08, 3) + rng.normal(0.1, 0.15))
        gain = np.tile(look, (options.frames, 1))
        if chance(rng, 0.5):
            gain *= np.exp(motions.sway(rng, times, log_uniform(rng, 0.03, 0.35), (15, 120)))[:, None]
        if chance(rng, 0.08):
            gain[int(rng.integers(options.frames)) :] *= float(np.exp(rng.normal(0, 0.3)))
        made.gain = gain.astype(np.float32)
        if chance(rng, 0.35):
            made.light = 1 + torch.from_numpy(rng.uniform(-0.35, 0.25, (2, 4, 5)).astype(np.float32))
        if chance(rng, 0.4):
            x, y = rng.normal(0, 0.03, 2) * short
            made.shadow = float(x), float(y)
    if options.blur:
        if chance(rng, 0.35):
            made.shutter = float(rng.uniform(0.2, 0.9))
        if chance(rng, 0.15):
            wide = log_uniform(rng, 0.5, 2.5) * short / 256
            made.defocus = np.clip(motions.sway(rng, times, 1.5 * wide, (20, 60)), 0, None)
    if options.noise and chance(rng, 0.4):
        grain = rng.standard_normal((3, *options.shape), np.float32) * log_uniform(rng, 1, 7)
        made.noise = torch.from_numpy(grain)
        made.rolls = rng.integers(0, options.shape, (options.frames, 2))
    return made


@lru_cache(4)
def _kept(seed: int, number: int, options: Rendering) -> Appearance:
    rng = np.random.default_rng([seed, 2, number])
    return appearance(rng, options.shape, options.objects, options.foreground)


def scene(seed: int, n: int, options: Rendering) -> Scene:
    """Clip n of a set, not yet drawn."""
    if seed < 0 or n < 0:
        raise ValueError("seed and clip numbers must not be negative")
    rng = np.random.default_rng([seed, 1, n])
    scene_number = int(rng.integers(options.scenes)) if options.scenes else n
    motion_number = int(rng.integers(options.motions)) if options.motions else n
    # Where there are few scenes the same one comes again; otherwise keeping them would only take memory.
    what = (_kept if options.scenes else _kept.__wrapped__)(seed, scene_number, options)
    times = np.arange(-1.0, options.frames + 1)
    ones, zeros = np.ones(len(times)), np.zeros(len(times))
    camera_rng = np.random.default_rng([seed, 3, motion_number])
    camera = motions.camera(camera_rng, times, options.speed)
    first_angle = float(camera_rng.uniform(0, 2 * np.pi))
    light = effects(np.random.default_rng([seed, 5, n]), options)

    far = 1 / float(rng.uniform(0.35, 1)) if chance(rng, 0.5) else 1.0
    flat = scales(ones * what.backdrop_reach)
    tilt = tilts(zeros + what.backdrop_tilt[0], zeros + what.backdrop_tilt[1], 0.3)
    surfaces = [Surface(owner=0, picture=what.backdrop, poses=camera.poses(options.shape, far) @ flat @ tilt)]
    if what.ridge is not None:
        surfaces.append(Surface(owner=0, picture=what.ridge, poses=camera.poses(options.shape) @ flat))
    tracks: list[tuple[int, torch.Tensor]] = []
    shares: list[tuple[int, torch.Tensor]] = []
    aspect = np.array(options.shape[::-1]) / min(options.shape)

    def lay(item: Thing, owner: int, poses: np.ndarray, bends: np.ndarray | None, swing: np.ndarray) -> None:
        """Adds the parts of a thing, and the points that are followed on them."""
        counts = dict.fromkeys(range(len(item.parts)), 0)
        for pick in rng.integers(len(item.parts), size=options.points):
            counts[int(pick)] += 1
        for index, piece in enumerate(item.parts):
            placed = poses
            if piece.joint is not None:
                x, y, angle = piece.joint
                shape = scales(ones * piece.reach) @ shifts(np.stack([0.75 * ones, zeros], 1))
                placed = poses @ shifts(np.stack([zeros + x, zeros + y], 1))
                placed = placed @ turns(angle + piece.swing * swing) @ shape
            surfaces.append(
                Surface(
                    owner=owner,
                    picture=piece.picture,
                    extent=piece.extent,
                    poses=placed,
                    bends=bends if len(item.parts) == 1 else None,
                    shadow=0.45 if owner and light.shadow != (0, 0) else 0,
                )
            )
            inner = torch.from_numpy(piece.inner)
            if owner and counts[index]:
                tracks.append((len(surfaces) - 1, inner[: counts[index]]))
            if owner:
                number = SHARE_POINTS if piece.joint is None else round(SHARE_POINTS * piece.reach**2)
                shares.append((len(surfaces) - 1, inner[-number:]))

    for number in range(len(what.objects) + 1):
        for behind, depth, place, item in what.foreground:
            if behind == number:
                world = shifts(np.tile(place, (len(times), 1))) @ scales(ones * item.radius)
                lay(item, 0, camera.poses(options.shape, depth) @ world, None, zeros)
        if number < len(what.objects):
            item = what.objects[number]
            own = np.random.default_rng([seed, 4, motion_number, number])
            angle = first_angle + 2.4 * number
            start = np.array([np.cos(angle), np.sin(angle)]) * own.uniform(0.05, 0.33) * aspect
            move = motions.movement(own, times, start, aspect, options.speed)
            base = motions.screen(options.shape, ones) if move.held else camera.poses(options.shape)
            lay(item, number + 1, base @ move.poses @ scales(ones * item.radius), move.bends, move.swing)

    if options.points:
        tracks.insert(0, (0, _seen_points(rng, surfaces[0], options)))
    return Scene(
        size=options.shape,
        frames=options.frames,
        surfaces=surfaces,
        objects=len(what.objects),
        effects=light,
        tracks=sorted(tracks, key=lambda track: surfaces[track[0]].owner),
        shares=shares,
        flow=options.flow,
        hidden_flow=options.hidden_flow,
    )


def _seen_points(rng: Rng, surface: Surface, options: Rendering) -> torch.Tensor:
    """Points of the background that are in the picture at some time, float64 [points, 2] in its square."""
    height, width = options.shape
    found = []
    for _ in range(options.points):
        x, y = (torch.tensor([v], dtype=torch.float64) for v in rng.random(2) * [width, height])
        found.append(torch.stack(surface.locate(x, y, int(rng.integers(options.frames))), 1))
    return torch.cat(found)


@contextmanager
def one_thread() -> Iterator[None]:
    """Pictures are too small to be shared by threads, which on a busy machine would mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def frames(seed: int, n: int, options: Rendering | None = None) -> Iterator[tuple[np.ndarray, Target]]:
    """Clip n frame by frame: pictures uint8 [H, W, 3] and Targets."""
    options = options or Rendering()
    with one_thread():
        drawn = iter(scene(seed, n, options))
    for _ in range(options.frames):
        with one_thread():
            picture, target = next(drawn)
        if not options.masks:
            target.mask = None
        yield picture, target


def render(seed: int, n: int, options: Rendering | None = None) -> tuple[np.ndarray, dict[int, Target]]:
    """Clip n of a set in memory: frames uint8 [T, H, W, 3], and a Target for each."""
    pictures, targets = zip(*frames(seed, n, options))
    return np.stack(pictures), dict(enumerate(targets))


def synth(
    out: str,
    *,
    clips: int = 16,
    scans: bool = False,
    seed: int = 0,
    workers: int = 0,
    fps: float = 25.0,
    **settings: Any,
) -> dict[str, Any]:
    """Renders clips of textured objects that move over moving backgrounds, exactly annotated.

    The folder gets one H.264 mp4 per clip, `targets.jsonl` (boxes and masks of what is visible, point tracks, visible
    shares) and `flow/`. The same command continues a folder that is not finished, and adds clips to one that is.
    With --scans a clip is a folder of LiDAR scans, ten a second, as KITTI stores them, of cars, vans, cyclists and
    people in a street with clutter; `targets.jsonl` has their boxes in metres, classes and visible shares.

    Args:
        out: the folder to write to
        clips: how many clips the folder shall hold
        scans: render LiDAR scans instead of pictures
        seed: another seed, other clips
        workers: processes to use; 0 takes one per processor
        fps: frames per second of the files
    """
    kind = Scanning if scans else Rendering
    if unknown := set(settings) - {f.name for f in dataclasses.fields(kind)}:
        raise ValueError(f"synth has no setting {sorted(unknown)[0]!r}" + f" of {'scans' if scans else 'clips'}")
    if clips < 1 or workers < 0 or not 0 < fps <= 1000:
        raise ValueError(f"clips must be at least 1, workers 0 or more, fps above 0, not {clips}, {workers}, {fps}")
    options = kind(**settings)
    if isinstance(options, Rendering) and (options.shape[0] % 2 or options.shape[1] % 2):
        raise ValueError(f"H.264 needs an even height and width, not {options.shape}; `render` takes any size")
    folder = Path(out)
    parts = folder / ".parts"
    told = {"seed": seed, "fps": fps, **json.loads(json.dumps(dataclasses.asdict(options)))}
    told |= {"size": list(options.shape)} if isinstance(options, Rendering) else {"fps": RATE, "scans": True}
    record, started = folder / "synth.json", time.perf_counter()
    with Stop(urgent=True), locks.held(folder):
        if record.exists():
            before = json.loads(record.read_text())
            if differing := [key for key in {**told, **before} if told.get(key) != before.get(key)]:
                changes = ", ".join(f"{key} {before.get(key)}, now {told.get(key)}" for key in differing)
                raise ValueError(f"{folder} holds clips of other settings ({changes}); choose another folder")
        elif folder.is_dir() and any(entry.name != locks.NAME for entry in folder.iterdir()):
            raise ValueError(f"{folder} is not empty and was not made by synth; choose another folder")
        write_json(record, told)
        targets = folder / "targets.jsonl"
        listed = read_targets(targets) if targets.exists() else {}
        names = [clip_name(n, scans) for n in range(clips)]
        missing = [n for n, name in enumerate(names) if name not in listed or not (folder / name).exists()]
        todo = [n for n in missing if not ((parts / f"{names[n]}.jsonl").exists() and (folder / names[n]).exists())]
        clean(folder)
        shown = Progress(clips, clips - len(todo), unit="clip")
        for done, _ in enumerate(_each(folder, seed, todo, fps, options, workers), clips - len(todo) + 1):
            shown.show(done, {})
        shown.close()
        if missing:
            with replacing(targets) as partial, open(partial, "wb") as stream:
                if targets.exists():
                    with open(targets, "rb") as old:
                        shutil.copyfileobj(old, stream)
                for n in missing:
                    if names[n] not in listed:
                        with open(parts / f"{names[n]}.jsonl", "rb") as part_of_it:
                            shutil.copyfileobj(part_of_it, stream)
            remove(parts)
    return {
        "out": str(folder),
        "clips": clips,
        "rendered": len(todo),
        "frames": clips * options.frames,
        "seconds": round(time.perf_counter() - started, 3),
    }


def clip_name(n: int, scans: bool = False) -> str:
    return f"street-{n:05d}" if scans else f"clip-{n:05d}.mp4"


def _each(
    folder: Path, seed: int, todo: list[int], fps: float, options: Rendering | Scanning, workers: int
) -> Iterator[None]:
    """Writes the clips `todo`, in this process or in several; yields after each."""
    cores = machine.cores()
    workers = min(workers or cores, len(todo))
    if workers <= 1:
        for n in todo:
            yield write_clip(folder, seed, n, fps, options)
        return
    # Forked children never enter a parallel region, so that the parent's threads do not matter to them.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with working(Pool(workers, context, _begin)) as pool:
        for future in as_completed([pool.submit(write_clip, folder, seed, n, fps, options) for n in todo]):
            yield future.result()


def _begin() -> None:
    """Makes a process one that renders."""
    serve()
    torch.set_num_threads(1)


def write_clip(folder: Path, seed: int, n: int, fps: float, options: Rendering | Scanning) -> None:
    """Renders and writes clip n: flow, then the video, and last its lines, which say that the clip is complete."""
    if isinstance(options, Scanning):
        return write_street(folder, seed, n, options)
    name = clip_name(n)
    flow_name = f"flow/{name}.npz"
    flows: dict[int, np.ndarray] = {}
    lines: list[str] = []
    with Writer(folder / name, fps, gop=16, b_frames=0, references=1) as writer:
        for index, (picture, target) in enumerate(frames(seed, n, options)):
            writer.write(picture)
            if target.flow is not None:
                flows[index] = target.flow
            lines += target_lines(name, index, target, flow_name)
        if flows:
            write_flow(folder / flow_name, flows)
    write_text(folder / ".parts" / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))


def write_street(folder: Path, seed: int, n: int, options: Scanning) -> None:
    """As `write_clip`: a folder of scans, and its lines."""
    name = clip_name(n, scans=True)
    scans, targets = zip(*drawn(seed, n, options))
    write_folder(folder / name, {f"{i:06d}.bin": scan for i, scan in enumerate(scans)}, lambda scan: scan.tobytes())
    lines = [line for index, target in enumerate(targets) for line in target_lines(name, index, target)]
    write_text(folder / ".parts" / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))
