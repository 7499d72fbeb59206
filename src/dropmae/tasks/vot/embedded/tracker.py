"""Follows boxes with the networks beside this file. It needs numpy and onnxruntime, and nothing else.

    tracker = Tracker("embedded")                     # the folder; int8=True takes the smaller and faster network
    tracker.start(frame, [120, 80, 60, 40])           # uint8 [H, W, 3] in RGB; one box x y w h, or several [N, 4]
    boxes, scores = tracker.step(frame)               # of the next frame: [N, 4], NaN where lost, and [N]

On a command line it reads pictures in PPM (P6) from standard input, one after the other:

    ffmpeg -i clip.mp4 -f image2pipe -c:v ppm - | python tracker.py embedded 120 80 60 40 [x y w h ...] [--int8]

and prints a line for each object in each frame: frame and object, both from 0, x y w h, score.

Boxes are in pixels of the frame, x y of the top left corner. N objects, S side of the search crop, Z of the template.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import onnxruntime

BITS = 11
"""Fractional bits of a weight in bilinear resampling."""


class Region(NamedTuple):
    """A square of whole pixels, which need not lie in the frame."""

    left: int
    top: int
    side: int


class Tracker:
    """Follows any number of objects; all go through the network as one batch. What it keeps has a constant size."""

    def __init__(self, folder: str | Path = Path(__file__).parent, *, int8: bool = False, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        sessions: list[Any] = [
            onnxruntime.InferenceSession(str(Path(folder) / name), options, providers=["CPUExecutionProvider"])
            for name in ("template.onnx", "step.int8.onnx" if int8 else "step.onnx")
        ]
        self._template, self._step = sessions
        told = self._step.get_modelmeta().custom_metadata_map
        self.image, self.template, self.margin = (int(told[name]) for name in ("image", "template", "margin"))
        self.search_factor, self.template_factor = float(told["search_factor"]), float(told["template_factor"])
        self.size_smoothing, self.lost_below = float(told["size_smoothing"]), float(told["lost_below"])
        self.first_frame_bias = bool(int(told["first_frame_bias"]))
        self.zooms = [float(word) for word in told["zooms"].split()]
        self.worst = np.array([float(word) for word in told["worst"].split()])
        self.window = hann(int(told["grid"])) if int(told["window"]) else np.float32(1)
        self._forget()

    def _forget(self) -> None:
        self.size = (0, 0)
        """Height and width of the last frame."""
        self.ids = np.zeros(0, np.int64)
        """[N]: numbers of the objects, in the order of what `step` returns."""
        self.boxes = np.zeros((0, 4))
        """[N, 4]: where each was last believed to be."""
        self.scores = np.zeros(0)
        """[N]: the confidence in that."""
        self.lost = np.zeros(0, bool)
        """[N]: whether that is below `lost_below`."""
        self._errors = np.zeros((0, 4))
        """[N, 4]: how far what is found lies from the box: of the centre in its sides, of the log of the size."""
        self._tokens: np.ndarray | None = None
        """float32 [N, M, C]: the templates, embedded once."""

    def start(self, frame: np.ndarray, boxes: Any) -> None:
        """Follows what lies in `boxes` [N, 4] or [4] from this frame on; objects are numbered from 0."""
        self._forget()
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        if not len(boxes):
            raise ValueError("there is nothing to follow: give a box")
        self.size = checked(frame)
        self._renew(frame, np.arange(len(boxes)), boxes)

    def step(self, frame: np.ndarray, told: Mapping[int, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [N, 4] and scores [N] in the next frame, in the order of `ids`; a lost object's box is NaN.

        `told` {number: box} corrects objects or adds new ones: they are there in this frame, and followed from it on.
        A frame of another size is taken to show the same view at another scale.
        """
        if not len(self.ids):
            raise ValueError("start comes before step")
        height, width = checked(frame)
        if self.size != (height, width):
            self.boxes = self.boxes * np.tile([width / self.size[1], height / self.size[0]], 2)
        self.size = height, width
        ids = np.array(list(told or ()), np.int64)
        rows = np.flatnonzero(~np.isin(self.ids, ids))
        if len(rows):
            found, scores = self._search(frame, rows)
            gone = scores < self.lost_below
            self.boxes[rows] = np.where(gone[:, None], self.boxes[rows], found)
            self.scores[rows], self.lost[rows] = scores, gone
        if told:
            self._renew(frame, ids, np.array(list(told.values()), np.float64).reshape(-1, 4))
        return np.where(self.lost[:, None], np.nan, self.boxes), self.scores.copy()

    def _renew(self, frame: np.ndarray, ids: np.ndarray, boxes: np.ndarray) -> None:
        """Sees objects anew: known ones start over, others are added."""
        height, width = self.size
        for box in boxes:
            if not (np.isfinite(box).all() and (box[2:] > 0).all()):
                raise ValueError(f"a box needs a place and a positive width and height, not {box.tolist()}")
            if (box[:2] + box[2:] <= 0).any() or box[0] >= width or box[1] >= height:
                raise ValueError(f"the box {box.tolist()} lies outside the {width}x{height} frame")
        pictures = np.stack([cut(frame, region(box, self.template_factor), self.template) for box in boxes])
        (tokens,) = self._template.run(None, {"template": channels_first(pictures)})
        errors = np.zeros((len(ids), 4))
        if self.first_frame_bias:
            errors = self._first_frame_errors(tokens, frame, boxes)
        old = ~np.isin(self.ids, ids)
        self._tokens = tokens if self._tokens is None else np.concatenate([self._tokens[old], tokens])
        self.ids = np.concatenate([self.ids[old], ids])
        self.boxes = np.concatenate([self.boxes[old], boxes])
        self.scores = np.concatenate([self.scores[old], np.ones(len(ids))])
        self.lost = np.concatenate([self.lost[old], np.zeros(len(ids), bool)])
        self._errors = np.concatenate([self._errors[old], errors])

    def _first_frame_errors(self, tokens: np.ndarray, frame: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """[n, 4]: by how much the network misses `boxes` [n, 4] where they are known, means over several zooms."""
        found = []
        for zoom in self.zooms:
            size = zoom * boxes[:, 2:]
            around = np.concatenate([boxes[:, :2] + (boxes[:, 2:] - size) / 2, size], 1)
            located, _ = self._locate(tokens, frame, around)
            away = located[:, :2] + located[:, 2:] / 2 - boxes[:, :2] - boxes[:, 2:] / 2
            found.append(np.concatenate([away / boxes[:, 2:], np.log(located[:, 2:] / boxes[:, 2:])], 1))
        return np.clip(np.mean(found, 0), -self.worst, self.worst)

    def _search(self, frame: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [n, 4] and scores [n] of the objects in `rows` [n]."""
        assert self._tokens is not None
        boxes, errors = self.boxes[rows], self._errors[rows]
        located, scores = self._locate(self._tokens[rows], frame, boxes)
        centre = located[:, :2] + located[:, 2:] / 2 - errors[:, :2] * boxes[:, 2:]
        size = located[:, 2:] * np.exp(-errors[:, 2:])
        size = self.size_smoothing * boxes[:, 2:] + (1 - self.size_smoothing) * size
        return clip_boxes(np.concatenate([centre - size / 2, size], 1), self.size, self.margin), scores

    def _locate(self, tokens: np.ndarray, frame: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [n, 4] and scores [n] as the network has them, from crops around `boxes` [n, 4]."""
        places = [region(box, self.search_factor) for box in boxes]
        pictures = channels_first(np.stack([cut(frame, place, self.image) for place in places]))
        score, offset, size = self._step.run(None, {"tokens": tokens, "search": pictures})
        count, grid = len(score), score.shape[-1]
        peak = (score * self.window).reshape(count, -1).argmax(1)
        rows = np.arange(count)
        offset, size = (values.reshape(count, 2, -1)[rows, :, peak] for values in (offset, size))
        centre = (np.stack([peak % grid, peak // grid], 1).astype(np.float32) + offset) / np.float32(grid)
        side = np.array([place.side for place in places], np.float64)[:, None]
        found = np.concatenate([centre, size], 1).astype(np.float64) * side
        middle = found[:, :2] + boxes[:, :2] + boxes[:, 2:] / 2 - side / 2
        located = np.concatenate([middle - found[:, 2:] / 2, found[:, 2:]], 1)
        return located, score.reshape(count, -1)[rows, peak].astype(np.float64)


def checked(frame: np.ndarray) -> tuple[int, int]:
    """Height and width of a frame; ValueError where it is none."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
        raise ValueError(f"a frame is uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}")
    return frame.shape[0], frame.shape[1]


def hann(side: int) -> np.ndarray:
    """float32 [side, side]: the window that favours the middle of the score map."""
    line = 0.5 * (1 - np.cos(2 * math.pi / (side + 1) * np.arange(1, side + 1)))
    return (line[:, None] * line).astype(np.float32)


def channels_first(pictures: np.ndarray) -> np.ndarray:
    """[N, H, W, 3] -> [N, 3, H, W]."""
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))


def clip_boxes(boxes: np.ndarray, frame: tuple[int, int], margin: int) -> np.ndarray:
    """[N, 4]: boxes cut to a frame of this height and width, each side at least `margin` pixels long."""
    size = np.array([frame[1], frame[0]], np.float64)
    least = np.minimum(margin, size)
    low = np.clip(boxes[:, :2], 0, size - least)
    high = np.clip(boxes[:, :2] + boxes[:, 2:], least, size)
    return np.concatenate([low, np.maximum(high - low, least)], 1)


# -------------------------------------------------------------------- crops


def region(box: np.ndarray, factor: float) -> Region:
    """The square around the centre of a box [4] whose area is about `factor`**2 times the box's."""
    x, y, w, h = (float(value) for value in box)
    side = max(1, math.ceil(math.sqrt(w * h) * factor))
    return Region(round(x + 0.5 * w - side * 0.5), round(y + 0.5 * h - side * 0.5), side)


def cut(frame: np.ndarray, place: Region, out: int) -> np.ndarray:
    """uint8 [out, out, 3]: a region of a frame, bilinear in OpenCV's fixed point; zeros where there is no frame."""
    columns = seen(place.left, place.side, frame.shape[1])
    rows = seen(place.top, place.side, frame.shape[0])
    if not columns or not rows:
        return np.zeros((out, out, 3), np.uint8)
    inside = frame[
        rows.start + place.top : rows.stop + place.top, columns.start + place.left : columns.stop + place.left
    ]
    if place.side == 2 * out:  # means of 2 x 2 pixels, to which OpenCV changes over by itself
        whole = np.zeros((2 * out, 2 * out, 3), np.uint16)
        whole[rows.start : rows.stop, columns.start : columns.stop] = inside
        total = whole[0::2, 0::2] + whole[0::2, 1::2] + whole[1::2, 0::2] + whole[1::2, 1::2]
        return ((total + 2) >> 2).astype(np.uint8)
    first, second, a, b = taps(place.side, out, columns, clamped=True)
    top, bottom, c, d = taps(place.side, out, rows, clamped=False)
    used, back = np.unique(np.concatenate([top, bottom]), return_inverse=True)
    inside, top, bottom = inside[used], back[:out], back[out:]
    wide = (inside.take(first, 1) * a[:, None] + inside.take(second, 1) * b[:, None]) >> 4  # int32 [rows, out, 3]
    mixed = (wide.take(top, 0) * c[:, None, None] >> 16) + (wide.take(bottom, 0) * d[:, None, None] >> 16)
    return ((mixed + 2) >> 2).astype(np.uint8)


def seen(start: int, side: int, length: int) -> range:
    """Which of the region's pixels along an axis show the frame: where it is cut off at the far end, one less.

    The networks were trained on crops that lose it.
    """
    return range(max(0, -start), side - max(0, start + side - length + 1))


def taps(side: int, out: int, valid: range, *, clamped: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Both source pixels of each of `out` pixels, counted from the first valid one, and their weights int32 [out].

    The weight of a pixel that is not valid is 0. Along rows (`clamped`) the last pixel takes the weight of those beyond
    the end, along columns it is repeated with both weights as they are, which rounds differently.
    """
    position = ((np.arange(out) + 0.5) * (side / out) - 0.5).astype(np.float32)
    low = np.floor(position).astype(np.int64)
    share = position - low.astype(np.float32)
    if clamped:
        share[(low < 0) | (low >= side - 1)] = 0
    index, weight = [], []
    for pick, part in ((low, np.float32(1) - share), (low + 1, share)):
        pick = np.clip(pick, 0, side - 1)
        there = (pick >= valid.start) & (pick < valid.stop)
        index.append(np.clip(pick, valid.start, valid.stop - 1) - valid.start)
        weight.append(np.where(there, np.rint(part * np.float32(1 << BITS)), 0).astype(np.int32))
    return index[0], index[1], weight[0], weight[1]


# -------------------------------------------------------------------- on a command line


def pictures(stream: BinaryIO) -> Iterator[np.ndarray]:
    """uint8 [H, W, 3] of each PPM (P6, 8 bits) in a stream."""
    while word := token(stream):
        width, height, most = (int(token(stream) or 0) for _ in range(3))
        data = stream.read(width * height * 3)
        if word != b"P6" or most != 255 or len(data) < max(1, width * height * 3):
            raise ValueError("standard input is no stream of whole PPM pictures (P6, 8 bits)")
        yield np.frombuffer(data, np.uint8).reshape(height, width, 3)


def token(stream: BinaryIO) -> bytes:
    """The next word of a PPM's head, with the one blank after it; nothing at the end."""
    word = b""
    while byte := stream.read(1):
        if byte == b"#" and not word:
            while byte not in (b"\n", b""):
                byte = stream.read(1)
        elif not byte.isspace():
            word += byte
        elif word:
            break
    return word


def main() -> None:
    parser = argparse.ArgumentParser(description="Follows boxes through PPM pictures from standard input.")
    parser.add_argument("folder", help="the folder with template.onnx and step.onnx")
    parser.add_argument("box", nargs="+", type=float, help="x y w h in the first picture, of one object or of several")
    parser.add_argument("--int8", action="store_true", help="take step.int8.onnx")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if len(given.box) % 4:
        parser.error("a box has four numbers: x y w h")
    tracker = Tracker(given.folder, int8=given.int8, threads=given.threads)
    try:
        for number, frame in enumerate(pictures(sys.stdin.buffer)):
            if number:
                boxes, scores = tracker.step(frame)
            else:
                tracker.start(frame, given.box)
                boxes, scores = tracker.boxes, tracker.scores
            for row, (box, score) in enumerate(zip(boxes, scores)):
                print(number, row, *(f"{value:.3f}" for value in box), f"{score:.4f}", flush=True)
    except ValueError as error:
        sys.exit(f"tracker: {error}")


if __name__ == "__main__":
    main()
