"""Finding what moves in a video, without being told: boxes of what moves against the camera, linked over time.

Frames are sampled some times a second and made small. Where the camera stands, the median over a window of time is the
background, and what differs from it by more than the noise of that place is something; noise is learned from how
samples follow each other, and slow changes of light are taken off. Where the camera moves, each sample is laid over its
neighbours, by the shift that explains most of the picture, and their median is the background. Whatever stays in
place, such as leaves in the wind, a light that flickers or the hole that something left behind, is no object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from dropmae.target import Target
from dropmae.video import Video

PER_SECOND = 5.0
"""Samples."""
SIDE = 180
"""Short side of the small pictures, in pixels."""
WINDOW = 120
"""Samples that have a background of their own."""
BACKGROUND = 25
"""Samples that it is made of, at most."""
NOISE = 6.0
"""Times the noise of a place by which something differs."""
LEVELS = 3.5
"""Grey levels, of 255, by which it differs at least."""
CELL = 4
"""Side of the cells, in pixels, of which objects are put together."""
FILLED = 0.3
"""Share of a cell that has to differ."""
CELLS = 3
"""Cells of the smallest object."""
SEEN = 3
"""Samples in which an object is seen at least."""
NEAR = 6
"""Samples before and after one that make its background where the camera moves."""
MISSED = 3
"""Samples after which an object that is not seen is another one when it is."""
SPREAD = 0.4
"""How far its centre has to come, in shares of its own size."""
FEW = 2
"""Pixels to each side of which the mean is made one by one."""
LARGEST = 0.7
"""Share of the picture that an object has at most: beyond it the light has changed."""


@dataclass(eq=False)
class Way:
    """What is taken for one object."""

    frames: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    """x, y, w, h in the frames of the video."""
    samples: list[int] = field(default_factory=list)

    def expected(self, sample: int) -> np.ndarray:
        """Where its centre should be, from the last two sights."""
        centres = [box[:2] + box[2:] / 2 for box in self.boxes[-2:]]
        if len(centres) < 2:
            return centres[-1]
        step = (centres[1] - centres[0]) / (self.samples[-1] - self.samples[-2])
        return centres[1] + step * (sample - self.samples[-1])

    @property
    def moves(self) -> bool:
        """Whether it was seen often enough, and came far enough."""
        if len(self.frames) < SEEN:
            return False
        boxes = np.array(self.boxes)
        centres = boxes[:, :2] + boxes[:, 2:] / 2
        size = float(np.sqrt(np.median(boxes[:, 2] * boxes[:, 3])))
        return float(np.ptp(centres, axis=0).max()) >= SPREAD * size


def find_moving(video: Video) -> list[Way]:
    """What moves in a video, in the order in which it appears."""
    step = max(1, round((video.fps or 30) / PER_SECOND))
    ways: list[Way] = []
    sample = 0
    for frames, found in sights(video, range(0, len(video), step)):
        for frame, boxes in zip(frames, found):
            link(ways, sample, frame, boxes)
            sample += 1
    return sorted((way for way in ways if way.moves), key=lambda way: way.frames[0])


def prompts_of(ways: list[Way]) -> dict[int, Target]:
    """{frame: boxes} that tell a tracker of every object, each once, as soon as it is seen nearly whole."""
    told: dict[int, list[tuple[int, np.ndarray]]] = {}
    for number, way in enumerate(ways, 1):
        areas = np.array([box[2] * box[3] for box in way.boxes[:SEEN]])
        place = int(np.argmax(areas >= 0.7 * areas.max()))
        told.setdefault(way.frames[place], []).append((number, way.boxes[place]))
    return {
        frame: Target(ids=np.array([number for number, _ in rows]), boxes=np.array([box for _, box in rows]))
        for frame, rows in sorted(told.items())
    }


def link(ways: list[Way], sample: int, frame: int, boxes: list[np.ndarray]) -> None:
    """Adds the boxes of a sample to the ways that lead to them, nearest first; others begin one."""
    pairs = []
    for place, box in enumerate(boxes):
        centre, size = box[:2] + box[2:] / 2, float(np.sqrt(box[2] * box[3]))
        for way in ways:
            if sample - way.samples[-1] <= MISSED:
                reach = 1.5 * max(size, float(np.sqrt(way.boxes[-1][2] * way.boxes[-1][3])))
                far = min(np.abs(centre - spot).max() for spot in (way.expected(sample), middle(way.boxes[-1])))
                if far <= reach:
                    pairs.append((far / reach, place, way))
    taken: set[int] = set()
    for _, place, way in sorted(pairs, key=lambda pair: pair[:2]):
        if place not in taken and way.samples[-1] < sample:
            taken.add(place)
            add(way, sample, frame, boxes[place])
    for place, box in enumerate(boxes):
        if place not in taken:
            ways.append(Way())
            add(ways[-1], sample, frame, box)


def middle(box: np.ndarray) -> np.ndarray:
    return box[:2] + box[2:] / 2


def add(way: Way, sample: int, frame: int, box: np.ndarray) -> None:
    way.samples.append(sample)
    way.frames.append(frame)
    way.boxes.append(box)


def sights(video: Video, numbers: range) -> Iterator[tuple[list[int], list[list[np.ndarray]]]]:
    """(frames, for each the boxes of what differs there) of every window; frames that cannot be read are left out."""
    small = Video(video.source, short_side=SIDE) if video.path is not None else video
    zoom = np.array([video.width, video.height, video.width, video.height], np.float64)
    for start in range(0, len(numbers), WINDOW):
        frames, pictures = list[int](), list[np.ndarray]()
        for number in numbers[start : start + WINDOW]:
            try:
                picture = small[number]
            except OSError:
                continue
            frames.append(number)
            pictures.append(grey(picture))
        if len(pictures) < SEEN:
            continue
        stack = np.stack(pictures)
        maps = differences(stack)
        scale = zoom / (stack.shape[2], stack.shape[1], stack.shape[2], stack.shape[1])
        yield frames, [[box * scale for box in objects(one)] for one in maps]


def grey(picture: np.ndarray) -> np.ndarray:
    """float32 [h, w] of a small picture, no larger than SIDE by much."""
    light = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    step = max(1, min(light.shape) // SIDE)
    height, width = (side // step * step for side in light.shape)
    return light[:height, :width].reshape(height // step, step, width // step, step).mean((1, 3))


def differences(stack: np.ndarray) -> Iterator[np.ndarray]:
    """bool [h, w] of each sample of a window [n, h, w]: what is something."""
    probes = np.unique(np.linspace(0, len(stack) - 2, 13).astype(int))
    if float(np.median([np.abs(shift(stack[i], stack[i + 1])).max() for i in probes])) >= 1:
        yield from against_neighbours(stack, [shift(a, b) for a, b in pairwise(stack)])
        return
    chosen = stack[np.linspace(0, len(stack) - 1, min(len(stack), BACKGROUND)).round().astype(int)]
    background = np.median(chosen, 0)
    stack = np.stack([relit(picture, background) for picture in stack])
    steps = np.abs(np.diff(np.stack([relit(picture, background) for picture in chosen]), axis=0))
    noise = averaged(np.maximum(1.05 * np.median(steps, 0), 0.7), 2)  # 1.4826 / sqrt(2) of it is a deviation
    for place, picture in enumerate(stack):
        away = unlit(picture - background, noise)
        apart = [unlit(picture - stack[other], noise) for other in (place - 1, place + 1) if 0 <= other < len(stack)]
        moved = np.max([over(one, noise, 0.7) for one in apart], 0)
        yield over(away, noise) & (averaged(moved.astype(np.float32), 6) > 0.02)


def relit(picture: np.ndarray, background: np.ndarray) -> np.ndarray:
    """A sample with the brightness and contrast of the background: a fit to what differs least."""
    x, y = background[::3, ::3].ravel(), picture[::3, ::3].ravel()
    gain, offset = 1.0, float(np.median(y - x))
    for _ in range(4):
        left = np.abs(y - gain * x - offset)
        near = left <= 2 * np.median(left) + 1e-3
        spread = float(np.var(x[near]))
        if spread < 1:
            return picture - float(np.median(y - x))
        gain = float(np.mean((x[near] - x[near].mean()) * (y[near] - y[near].mean()))) / spread
        gain = min(max(gain, 0.5), 2.0)
        offset = float(y[near].mean() - gain * x[near].mean())
    return (picture - offset) / gain


def unlit(away: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Differences without what is of the light: changes that are the same far around."""
    reach = min(away.shape) // 4
    return away - averaged(np.clip(away, -2 * noise, 2 * noise), reach) - float(np.median(away))


def over(away: np.ndarray, noise: np.ndarray, share: float = 1.0) -> np.ndarray:
    """bool: where differences, averaged over nine pixels, are more than noise."""
    size = np.abs(averaged(away, 1))
    return (size > share * NOISE / 2 * noise) & (size > share * LEVELS)


def against_neighbours(stack: np.ndarray, shifts: list[tuple[int, int]]) -> Iterator[np.ndarray]:
    """As `differences` where the camera moves: each sample against the median of its neighbours, laid over it."""
    at = np.concatenate([np.zeros((1, 2), int), np.cumsum(np.array(shifts).reshape(-1, 2), 0)])
    limit = np.array(stack.shape[1:]) // 4
    for place, picture in enumerate(stack):
        near = [n for n in range(max(0, place - NEAR), min(len(stack), place + NEAR + 1)) if n != place]
        near = [n for n in near if (np.abs(at[place] - at[n]) <= limit).all()]
        found = np.zeros(picture.shape, bool)
        if len(near) > 3:
            near = [near[n] for n in np.unique(np.linspace(0, len(near) - 1, 7).astype(int))]
            moves = [at[place] - at[n] for n in near]
            background = np.median([np.roll(stack[n], move, (0, 1)) for n, move in zip(near, moves)], 0)
            down, across = np.gradient(background)
            uncertain = 2 + 0.7 * averaged(np.hypot(down, across), 2)  # shifts are whole pixels
            top, left = 2 + np.abs(moves).max(0)
            inside = slice(top, -top), slice(left, -left)
            found[inside] = over(unlit(relit(picture, background) - background, uncertain), uncertain)[inside]
        yield found


def shift(one: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """Rows and columns by which a picture has moved from one sample to the other, by the phase of its frequencies."""
    window = np.outer(np.hanning(one.shape[0]), np.hanning(one.shape[1]))
    a, b = (np.fft.rfft2((picture - picture.mean()) * window) for picture in (one, other))
    cross = b * a.conj()
    peak = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-6), one.shape)
    place = np.unravel_index(int(peak.argmax()), peak.shape)
    down, across = (int(v - side if v > side // 2 else v) for v, side in zip(place, one.shape))
    return down, across


def averaged(values: np.ndarray, reach: int) -> np.ndarray:
    """The mean over windows of 2 `reach` + 1 pixels, [h, w]; the border is repeated."""
    span = 2 * reach + 1
    for axis in (0, 1):
        around = [(reach, reach) if a == axis else (0, 0) for a in (0, 1)]
        row = np.pad(values, around, "edge").astype(np.float64).swapaxes(0, axis)
        if reach <= FEW:
            total = sum((row[place : place + values.shape[axis]] for place in range(1, span)), start=row[: 1 - span])
        else:
            sums = np.add.accumulate(row, 0)
            total = sums[span - 1 :].copy()
            total[1:] -= sums[:-span]
        values = (total / span).astype(np.float32).swapaxes(0, axis)
    return values


def objects(found: np.ndarray) -> list[np.ndarray]:
    """Boxes x, y, w, h, in pixels, of what hangs together in a map bool [h, w]."""
    height, width = (side // CELL * CELL for side in found.shape)
    cells = found[:height, :width].reshape(height // CELL, CELL, width // CELL, CELL).mean((1, 3)) >= FILLED
    boxes = []
    for rows, columns in joined(cells):
        share = len(rows) / cells.size
        if len(rows) >= CELLS and share <= LARGEST:
            top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
            inside = found[top * CELL : bottom * CELL, left * CELL : right * CELL]
            ys, xs = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            x, y = left * CELL + xs[0], top * CELL + ys[0]
            boxes.append(np.array([x, y, xs[-1] + 1 - xs[0], ys[-1] + 1 - ys[0]], np.float64))
    return boxes


def joined(cells: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of the cells of each group, in which neighbours are at most one cell apart."""
    left = {(int(y), int(x)) for y, x in np.argwhere(cells)}
    while left:
        group, edge = [], [left.pop()]
        while edge:
            y, x = edge.pop()
            group.append((y, x))
            near = {(y + dy, x + dx) for dy in range(-2, 3) for dx in range(-2, 3)} & left
            left -= near
            edge.extend(near)
        rows, columns = np.array(group).T
        yield rows, columns
