"""Views of objects with exact boxes, to learn a tracker's heads from: nothing in them was labelled by hand.

Use: python recipes/dcf-views.py OUT --clips FILE ... --photos FILE ... --cutouts FILE ... [--episodes N] [--seed S]
     [--pasted SHARE] [--parts SHARE] [--shapes SHARE] [--tracks FILE ... --real SHARE]

OUT.npz gets `crops` uint8 [N, 4, 252, 252, 3], `boxes` float [N, 4, 4] x y w h in shares of the crop, `present` [N, 4]
(1, 0: the object is not there, -1: too little of it is), `visible` [N, 4] and `factors` [N]. An episode is one object
seen four times. Two of three (`--pasted`) are photographs of single objects with alpha, pasted over a clip or a
photograph: bent, turned, scaled, lit otherwise, before others of their kind and behind things. Of some of them a part
alone is the object, as a face is of a person (`--parts`, their share). Some change their shape from view to view, as
what walks or turns does (`--shapes`): they become narrower or lower, and are bent by more. The rest are pieces of a
picture, which is turned, scaled and sheared. Of a share (`--real`) nothing is made up: they are objects that real-
tracks.py has followed there and back (`--tracks`). Some lose detail, colour, contrast, or what JPEG takes. Needs OpenCV
(the extra `bench`).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from dropmae.tasks.dcf.crops import FILL, cut, region
from dropmae.video import Video

OUT, VIEWS, AGREE = 252, 4, 0.8
LONGEST, EVERY, ROWS = 150, 4, 256
"""Of a clip every fourth of the first 150 frames is taken, with its shorter side at 256 pixels."""


class Sources(NamedTuple):
    clips: list[np.ndarray]
    photos: list[np.ndarray]
    cutouts: list[np.ndarray]
    kinds: list[str]
    tracks: list[Followed]


class Followed(NamedTuple):
    """An object of a real video, in those of its frames in which two ways of following it agree."""

    frames: np.ndarray
    boxes: np.ndarray


class View(NamedTuple):
    crop: np.ndarray
    box: np.ndarray
    present: int
    visible: float


def read(clips: list[Path], photos: list[Path], cutouts: list[Path], tracks: list[Path]) -> Sources:
    """The pictures; the kind of a cut-out is its name up to the first underscore."""
    objects = []
    for file in tracks:
        found = np.load(file)
        frames = found["frames"]
        for boxes, agree in zip(found["boxes"], found["agree"]):
            good = agree > AGREE
            if good.sum() >= VIEWS + 1:
                objects.append(Followed(frames[good], boxes[good]))
    films = []
    for file in clips:
        video = Video(file)
        frames = [Image.fromarray(video[i]) for i in range(0, min(len(video), LONGEST), EVERY)]
        scale = ROWS / min(frames[0].size)
        size = (round(frames[0].width * scale), round(frames[0].height * scale))
        films.append(np.stack([np.asarray(frame.resize(size, Image.Resampling.BILINEAR)) for frame in frames]))
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in photos]
    things = [np.asarray(Image.open(file).convert("RGBA")) for file in cutouts]
    return Sources(films, pictures, things, [file.name.split("_")[0] for file in cutouts], objects)


def bent(thing: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """A cut-out bent by smooth waves, on a larger canvas."""
    pad = int(0.2 * max(thing.shape[:2]))
    side = max(thing.shape[:2])
    thing = cv2.copyMakeBorder(thing, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    y, x = np.mgrid[: thing.shape[0], : thing.shape[1]].astype(np.float32)
    a, phase, rate = rng.normal(0, amount, 4) * side, rng.uniform(0, 6.28, 4), rng.uniform(0.5, 1.6, 4) * 6.28 / side
    across = x + a[0] * np.sin(rate[0] * y + phase[0]) + 0.5 * a[1] * np.sin(rate[1] * x + phase[1])
    down = y + a[2] * np.sin(rate[2] * x + phase[2]) + 0.5 * a[3] * np.sin(rate[3] * y + phase[3])
    return cv2.remap(thing, across.astype(np.float32), down.astype(np.float32), cv2.INTER_LINEAR)


def light(rng: np.random.Generator, amount: float) -> np.ndarray:
    """[6]: gamma, gain, offset, and the gain of each colour."""
    first = [np.exp(rng.normal(0, 0.15 * amount)), np.exp(rng.normal(0, 0.12 * amount)), rng.normal(0, 0.04 * amount)]
    return np.concatenate([first, np.exp(rng.normal(0, 0.06 * amount, 3))])


def lit(picture: np.ndarray, how: np.ndarray) -> np.ndarray:
    return np.clip(((picture.astype(np.float32) / 255) ** how[0] * how[1] + how[2]) * how[3:] * 255, 0, 255)


def affine(
    scale: float, turn: float, aspect: float, shear: float, source: tuple[float, float], place: tuple[float, float]
) -> np.ndarray:
    """[2, 3]: turned, stretched and sheared, such that `source` comes to lie on `place`."""
    c, s = math.cos(turn), math.sin(turn)
    a = scale * np.array([[c, -s], [s, c]]) @ np.array([[math.sqrt(aspect), shear], [0, 1 / math.sqrt(aspect)]])
    return np.concatenate([a, (np.array(place) - a @ np.array(source))[:, None]], 1)


def part_of(thing: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """A box x y w h of a cut-out that is a part of it and mostly covered by it; None where six draws find none."""
    ys, xs = np.nonzero(thing[..., 3] > 127)
    low, whole = np.array([xs.min(), ys.min()]), np.array([np.ptp(xs), np.ptp(ys)]) + 1.0
    for _ in range(6):
        size = whole * rng.uniform(0.3, 0.75, 2)
        corner = low + rng.uniform(0, 1, 2) * (whole - size)
        x0, y0, x1, y1 = np.concatenate([corner, corner + size]).astype(int)
        if 0.25 < size[0] / size[1] < 4 and (thing[y0:y1, x0:x1, 3] > 127).mean() > 0.7:
            return np.concatenate([corner, size])
    return None


def moved(box: np.ndarray, where: np.ndarray) -> np.ndarray:
    """A box x y w h after `where` [2, 3], as large as its sides have become: not what would enclose it turned."""
    (a, b, _), (c, d, _) = where
    size = np.array([math.hypot(a * box[2], b * box[3]), math.hypot(c * box[2], d * box[3])])
    return np.concatenate([where[:, :2] @ (box[:2] + box[2:] / 2) + where[:, 2] - size / 2, size])


def paste(canvas: np.ndarray, thing: np.ndarray, where: np.ndarray, how: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Puts a cut-out through `where` [2, 3] onto the canvas; its whole box x y w h, and its alpha there [n, n]."""
    small, matrix = thing, where
    area = abs(np.linalg.det(where[:, :2]))
    if area < 0.25:
        factor = max(math.sqrt(area) * 1.4, 0.05)
        small = cv2.resize(thing, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        matrix = where.copy()
        matrix[:, :2] /= [small.shape[1] / thing.shape[1], small.shape[0] / thing.shape[0]]
    made = cv2.warpAffine(small, matrix, canvas.shape[1::-1], flags=cv2.INTER_LINEAR)
    alpha = cv2.GaussianBlur(made[..., 3], (0, 0), 0.8).astype(np.float32) / 255
    canvas[:] = canvas * (1 - alpha[..., None]) + lit(made[..., :3], how) * alpha[..., None]
    ys, xs = np.nonzero(thing[..., 3] > 127)
    edge = cv2.convexHull(np.stack([xs, ys], 1).astype(np.float32))[:, 0] + 0.5
    points = edge @ where[:, :2].T + where[:, 2]
    return np.concatenate([points.min(0), np.ptp(points, 0)]), alpha


def worn(picture: np.ndarray, detail: int, quality: int, gray: bool, blur: tuple[float, float] | None) -> np.ndarray:
    """A crop after motion blur (length, angle), with less detail, colour and quality."""
    picture = np.clip(picture, 0, 255)
    if blur is not None:
        kernel = np.zeros((21, 21), np.float32)
        reach = np.array([math.cos(blur[1]), math.sin(blur[1])]) * blur[0]
        cv2.line(kernel, tuple((10 - reach).astype(int).tolist()), tuple((10 + reach).astype(int).tolist()), (1.0,))
        picture = cv2.filter2D(picture, -1, kernel / kernel.sum())
    picture = picture.astype(np.uint8)
    if gray:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, 2)
    if detail < OUT:
        picture = cv2.resize(picture, (detail, detail), interpolation=cv2.INTER_AREA)
    if quality:
        picture = cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)
    return cv2.resize(picture, (OUT, OUT), interpolation=cv2.INTER_LINEAR) if detail < OUT else picture


def hidden(thing: np.ndarray, before: np.ndarray) -> float:
    """The share of what `thing` [n, n] covers that is seen behind the alpha of another [n, n]."""
    inside = thing > 0.5
    return 1 - float((before * inside).sum() / max(inside.sum(), 1))


class Piece(NamedTuple):
    """A piece of a picture, to be followed as the picture is moved."""

    picture: np.ndarray
    box: np.ndarray
    step: float


def piece(picture: np.ndarray, target: float, rng: np.random.Generator) -> Piece | None:
    """The one with most contrast of six drawn at random; None where that is too little."""
    short, best = min(picture.shape[:2]), (16.0, np.zeros(4))
    for _ in range(6):
        side = math.exp(rng.uniform(math.log(20), math.log(0.45 * short)))
        aspect = math.exp(rng.normal(0, 0.45))
        w, h = side * math.sqrt(aspect), side / math.sqrt(aspect)
        if w >= picture.shape[1] - 2 or h >= picture.shape[0] - 2:
            continue
        x, y = rng.uniform(0, picture.shape[1] - w), rng.uniform(0, picture.shape[0] - h)
        contrast = picture[int(y) : int(y + h) + 1, int(x) : int(x + w) + 1].reshape(-1, 3).std(0).mean()
        if contrast > best[0]:
            best = (float(contrast), np.array([x, y, w, h]))
    box = best[1]
    return Piece(picture, box, math.sqrt(box[2] * box[3]) / target) if box[2] else None


def show_piece(
    one: Piece, first: bool, target: float, place: np.ndarray, zoom: float, hard: float, spin: float, rng: Any
) -> Any:
    """Canvas, box, mask, and whether the piece is in it."""
    x, y, w, h = one.box
    moved = [0.0, 1.0, 0.0] if first else [
        rng.normal(0, 0.8 * spin), math.exp(rng.normal(0, 0.08 * hard)), rng.normal(0, 0.05 * hard)
    ]  # fmt: skip
    a = affine(zoom / one.step, *moved, (x + w / 2, y + h / 2), tuple(place))
    source = one.picture if one.step < 1.6 else cv2.GaussianBlur(one.picture, (0, 0), one.step * 0.4)
    present = True
    size = np.array([math.hypot(a[0, 0] * w, a[0, 1] * h), math.hypot(a[1, 0] * w, a[1, 1] * h)])
    if not first and rng.random() < 0.12:  # another place of the picture
        spot = (rng.uniform(0, one.picture.shape[1]), rng.uniform(0, one.picture.shape[0]))
        away = affine(zoom / one.step, 0, 1.0, 0, spot, (OUT / 2, OUT / 2))
        centre = away @ np.array([x + w / 2, y + h / 2, 1])
        if (np.abs(centre - OUT / 2) > OUT / 2 + target).any():
            a, present = away, False
    canvas = cv2.warpAffine(source, a, (OUT, OUT), flags=cv2.INTER_LINEAR, borderValue=FILL)
    box = np.concatenate([place - size / 2, size])
    mask = np.zeros((OUT, OUT), np.float32)
    x0, y0, x1, y1 = np.clip(np.round([*box[:2], *(box[:2] + size)]), 0, OUT).astype(int)
    mask[y0:y1, x0:x1] = 1
    return canvas.astype(np.float32), box, mask, present


def real(track: Followed, rng: np.random.Generator) -> tuple[list[View], float]:
    """Views of an object as it was followed, and the side of the first crops in sides of the object."""
    factor, hard = math.exp(rng.uniform(math.log(2.3), math.log(4.6))), rng.uniform(0.4, 1.3)
    detail = OUT if rng.random() < 0.6 else int(math.exp(rng.uniform(math.log(50), math.log(230))))
    quality, gray = int(rng.uniform(25, 92)) if rng.random() < 0.4 else 0, rng.random() < 0.1
    flip, views = rng.random() < 0.5, []
    for k, number in enumerate(rng.choice(len(track.frames), VIEWS, replace=False)):
        frame, box = track.frames[number], track.boxes[number]
        size = math.sqrt(box[2] * box[3])
        side = factor * size * math.exp(rng.normal(0, 0.2 if k else 0.1))
        shift = rng.laplace(0, 0.22, 2) if k == 0 or rng.random() < 0.7 else rng.uniform(-0.42, 0.42, 2) * factor
        shift = np.clip(shift * (1 if k else 0.4), -0.45 * factor, 0.45 * factor)
        centre, present = box[:2] + box[2:] / 2 + shift * size, 1
        if k and rng.random() < 0.12:  # another place of the picture
            away = rng.uniform(0, 1, 2) * frame.shape[1::-1]
            if (np.abs(away - box[:2] - box[2:] / 2) > side / 2 + box[2:] / 2).any():
                centre, present = away, 0
        place = region(centre, side)
        crop, inside = cut(frame, place, OUT), place.inside(box)
        if flip:
            crop, inside[0] = crop[:, ::-1], 1 - inside[0] - inside[2]
        crop = worn(lit(crop, light(rng, 0.5 * hard)), detail, quality, gray, None)
        shown = np.clip(inside[:2] + inside[2:], 0, 1) - np.clip(inside[:2], 0, 1)
        if present and shown.prod() < 0.4 * inside[2:].prod():
            present = -1
        views.append(View(crop, inside, present, 1.0))
    return views, factor


def episode(
    all_: Sources, share: float, parts: float, shapes: float, rng: np.random.Generator
) -> tuple[list[View], float] | None:
    """Views of one object and the side of the first crops in sides of the object; None where the draw is no good."""
    pasted = rng.random() < share
    factor = math.exp(rng.uniform(math.log(2.3), math.log(4.6)))
    target, hard = OUT / factor, rng.uniform(0.4, 1.3)
    spin = rng.uniform(0.3, 1.2) if rng.random() < 0.15 else 0.09 * hard
    clip = all_.clips[rng.integers(len(all_.clips))] if rng.random() < 0.65 else None
    still = None if clip is not None else all_.photos[rng.integers(len(all_.photos))]
    begin, step = (int(rng.integers(len(clip))) if clip is not None else 0), int(rng.integers(0, 6))
    detail = OUT if rng.random() < 0.45 else int(math.exp(rng.uniform(math.log(50), math.log(230))))
    quality = int(rng.uniform(25, 92)) if rng.random() < 0.5 else 0
    gray, contrast = rng.random() < 0.1, (rng.uniform(0.25, 0.6) if rng.random() < 0.12 else 1.0)

    def ground(k: int) -> np.ndarray:
        if clip is None:
            assert still is not None
            return still
        return clip[(begin + k * step) % len(clip)]

    one = None if pasted else piece(ground(0), target, rng)
    if not pasted and one is None:
        return None
    index, front = int(rng.integers(len(all_.cutouts))), all_.cutouts[rng.integers(len(all_.cutouts))]
    thing = all_.cutouts[index][:, :: -1 if rng.random() < 0.5 else 1]
    turn, aspect, bend = rng.normal(0, 0.12), math.exp(rng.normal(0, 0.12)), rng.uniform(0, 0.035) * hard
    whole = np.array([0.0, 0.0, thing.shape[1], thing.shape[0]])
    own_part = part_of(thing, rng) if pasted and rng.random() < parts else None
    core = whole if own_part is None else own_part
    lively = pasted and shapes > 0 and rng.random() < shapes
    bend = rng.uniform(0.02, 0.1) if lively else bend
    breathe = 0.2 if rng.random() < 0.6 else 0.4
    zoomed = rng.uniform(0.3, 0.95) * min(ground(0).shape[:2]) / OUT
    spot, drift = rng.uniform(0.2, 0.8, 2) * ground(0).shape[1::-1], rng.normal(0, 6, 2)
    others = company(all_, index, rng) if pasted else []
    views = []
    for k in range(VIEWS):
        how, zoom = light(rng, 0.5 * hard), math.exp(rng.normal(0, breathe if k else 0.1))
        shift = rng.laplace(0, 0.22, 2) if k == 0 or rng.random() < 0.7 else rng.uniform(-0.42, 0.42, 2) * factor
        place = OUT / 2 + np.clip(shift * (1 if k else 0.4), -0.45 * factor, 0.45 * factor) * target
        blur = (rng.uniform(1.5, 8), rng.uniform(0, 3.14)) if k and rng.random() < 0.15 else None
        visible = 1.0
        if one is not None:
            canvas, box, mask, present = show_piece(one, k == 0, target, place, zoom, hard, spin, rng)
            canvas = lit(canvas, how)
        else:
            at = spot + drift * k + rng.normal(0, 3, 2)
            a = affine(
                1 / (zoomed * math.exp(rng.normal(0, 0.05))), rng.normal(0, 0.03), 1, 0, tuple(at), (OUT / 2,) * 2
            )
            border = cv2.BORDER_REFLECT_101 if rng.random() < 0.6 else cv2.BORDER_CONSTANT
            back = cv2.warpAffine(ground(k), a, (OUT, OUT), flags=cv2.INTER_LINEAR, borderMode=border, borderValue=FILL)
            canvas, present = lit(back, how), not (k and rng.random() < 0.13)
            box, mask, before = np.array([*place, 1.0, 1.0]), np.zeros((OUT, OUT), np.float32), []
            for other, angle, away, scale, over in others:
                angle, away = angle + rng.normal(0, 0.3), away * math.exp(rng.normal(0, 0.15)) * target
                middle = (other.shape[1] / 2, other.shape[0] / 2)
                spot_ = (place[0] + away * math.cos(angle), place[1] + away * math.sin(angle))
                size = target * zoom * scale / math.sqrt(other.shape[0] * other.shape[1])
                matrix = affine(size, rng.normal(0, 0.1), math.exp(rng.normal(0, 0.1)), 0, middle, spot_)
                if over:
                    before.append((other, matrix))
                else:
                    paste(canvas, other, matrix, how)
            if present:
                shape = bent(thing, rng, bend) if bend * max(thing.shape[:2]) > 0.5 else thing
                size = zoom * target / math.sqrt(core[2:].prod() * 0.85)
                rim = (np.array(shape.shape[1::-1]) - thing.shape[1::-1]) / 2  # what bending has added
                source = rim + core[:2] + core[2:] / 2
                change = math.exp(rng.normal(0, 0.08 * hard))
                if lively and k:
                    squeeze, upright = math.exp(rng.normal(-0.1, 0.4)), rng.random() < 0.7
                    size *= math.sqrt(squeeze)
                    change *= squeeze if upright else 1 / squeeze
                own = affine(
                    size, turn + rng.normal(0, spin), aspect * change, rng.normal(0, 0.06 * hard), tuple(source),
                    tuple(place),
                )  # fmt: skip
                box, mask = paste(canvas, shape, own, 0.5 * (light(rng, 0.3) + how))
                if own_part is not None:
                    box = moved(np.concatenate([rim + own_part[:2], own_part[2:]]), own)
                    inside = np.zeros_like(mask)
                    x0, y0, x1, y1 = np.clip(np.round([*box[:2], *(box[:2] + box[2:])]), 0, OUT).astype(int)
                    inside[y0:y1, x0:x1] = 1
                    mask = mask * inside
            for other, matrix in before:
                alpha = paste(canvas, other, matrix, how)[1]
                visible *= hidden(mask, alpha) if present else 1
        if present and k and rng.random() < 0.18:  # something comes before it
            angle, away = rng.uniform(0, 6.28), rng.uniform(0.3, 0.8) * target
            size = target * zoom * rng.uniform(0.5, 1.1) / math.sqrt(front.shape[0] * front.shape[1])
            spot_ = (place[0] + away * math.cos(angle), place[1] + away * math.sin(angle))
            matrix = affine(size, rng.normal(0, 0.4), 1.0, 0, (front.shape[1] / 2, front.shape[0] / 2), spot_)
            visible *= hidden(mask, paste(canvas, front, matrix, how)[1])
        crop = worn((canvas - canvas.mean()) * contrast + canvas.mean(), detail, quality, gray, blur)
        shown = np.clip(box[:2] + box[2:], 0, OUT) - np.clip(box[:2], 0, OUT)
        enough = visible >= 0.3 and shown.prod() >= 0.4 * box[2:].prod()
        views.append(View(crop, box / OUT, (1 if enough else -1) if present else 0, visible))
    return (views, factor) if views[0].present == 1 and views[0].visible >= 0.75 else None


def company(all_: Sources, index: int, rng: np.random.Generator) -> list[tuple[np.ndarray, float, float, float, bool]]:
    """Up to three other things: the same, of its kind, or any; angle, distance, scale, whether before it."""
    kin = [i for i, kind in enumerate(all_.kinds) if kind == all_.kinds[index]]
    found = []
    for _ in range(int(rng.choice([0, 0, 1, 1, 2, 3]))):
        draw = rng.random()
        other = index if draw < 0.45 else int(rng.choice(kin)) if draw < 0.8 else int(rng.integers(len(all_.cutouts)))
        where = (rng.uniform(0, 6.28), rng.uniform(0.7, 1.6), math.exp(rng.normal(0, 0.2)), bool(rng.random() < 0.25))
        found.append((all_.cutouts[other], *where))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name in ("clips", "photos", "cutouts"):
        parser.add_argument(f"--{name}", type=Path, nargs="+", required=True)
    parser.add_argument("--episodes", type=int, default=125)
    parser.add_argument("--pasted", type=float, default=0.65, help="share of cut-outs; the rest are pieces of pictures")
    parser.add_argument("--parts", type=float, default=0.0, help="share of pasted objects of which a part is followed")
    parser.add_argument("--shapes", type=float, default=0.0, help="share of pasted objects that change their shape")
    parser.add_argument("--tracks", type=Path, nargs="+", default=[], help="what real-tracks.py has made")
    parser.add_argument("--real", type=float, default=0.0, help="share of episodes of these")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    sources = read(given.clips, given.photos, given.cutouts, given.tracks)
    rng = np.random.default_rng(given.seed)
    made: list[tuple[list[View], float]] = []
    while len(made) < given.episodes:
        if given.real and rng.random() < given.real:
            made.append(real(sources.tracks[rng.integers(len(sources.tracks))], rng))
        elif (one := episode(sources, given.pasted, given.parts, given.shapes, rng)) is not None:
            made.append(one)
    columns = {name: np.array([[getattr(v, name) for v in views] for views, _ in made]) for name in View._fields}
    columns["crops"], columns["boxes"] = columns.pop("crop"), columns.pop("box")
    np.savez(given.out, factors=np.array([factor for _, factor in made]), **columns)


if __name__ == "__main__":
    main()
