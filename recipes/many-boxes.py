"""Processor time of a tracker's step for one object and for many in the same video.

Use: python recipes/many-boxes.py WEIGHTS FRAMES [--objects 1 10] [--set NAME=VALUE ...] [--rounds 3] [--precision auto]

FRAMES is a folder of pictures or a video, of which the first 30 frames count. The boxes stand in a row, 18 pixels from
one to the next, 60 to 80 wide and 70 high; what they lie on decides how surely each is followed, as it does in use. One
thread. Printed for each number of objects, in turns: the mean over 26 steps after three that warm up, and in the end
the medians of the rounds and their ratio to the first.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from dropmae import registry, weights
from dropmae.engine import Engine
from dropmae.target import Target
from dropmae.video import Video


def seconds(given: argparse.Namespace, frames: list[np.ndarray], count: int) -> float:
    """Of processor time a step."""
    task = weights.load(given.weights, settings=registry.assignments(given.set))
    engine = Engine(task, "cpu", given.precision)
    middle = frames[0].shape[0] / 2 - 90
    boxes = np.stack([np.array([210.0 + 18 * k, middle, 60 + 10 * (k % 3), 70.0]) for k in range(count)])
    state = engine.run(engine.task.start, frames[0], Target(ids=np.arange(1, count + 1), boxes=boxes))
    for number, frame in enumerate(frames[1:]):
        if number == 3:
            before = time.process_time()
        state, _ = engine.run(engine.task.step, state, frame)
    return (time.process_time() - before) / (len(frames) - 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("frames")
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "int8"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    video = Video(given.frames)
    frames = [video[number] for number in range(30)]
    found: dict[int, list[float]] = {count: [] for count in given.objects}
    for _ in range(given.rounds):
        for count, times in found.items():
            times.append(1000 * seconds(given, frames, count))
            print(f"{count} objects: {times[-1]:.1f} ms a step", flush=True)
    middle = {count: statistics.median(times) for count, times in found.items()}
    for count, value in middle.items():
        print(f"{count} objects: {value:.1f} ms, {value / middle[given.objects[0]]:.1f} x")


if __name__ == "__main__":
    main()
