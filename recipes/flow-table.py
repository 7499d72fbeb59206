"""End-point errors of predicted flow, pair by pair, beside zero flow and OpenCV's Farneback and DIS (medium preset).

Use: python recipes/flow-table.py BENCHMARK ROOT PREDICTIONS [WEIGHTS]; needs the extra `bench`. With WEIGHTS, the time
of a pair of 320 x 448 pixels on two threads, the median of seven in turn, is measured too.
"""

import sys
import time
from pathlib import Path

import cv2
import numpy as np

from dropmae import registry
from dropmae.formats.flow import read_flow
from dropmae.video import Video

DIS = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


def grey(frame: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def farneback(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return cv2.calcOpticalFlowFarneback(grey(a), grey(b), None, 0.5, 5, 15, 3, 5, 1.2, 0)


def dis(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return DIS.calc(grey(a), grey(b), None)


def table(name: str, root: Path, predictions: Path) -> None:
    bench = registry.load("benchmarks", name)()
    truth = bench.annotations(root)
    found = bench.read(predictions, truth)
    results: dict[str, dict] = {"zero": {}, "Farneback": {}, "DIS": {}, "ours": {}}
    for pair, known in truth.items():
        a, b = Video([known.first, known.second])[[0, 1]]
        results["zero"][pair] = np.zeros((*a.shape[:2], 2), np.float32)
        results["Farneback"][pair], results["DIS"][pair] = farneback(a, b), dis(a, b)
        results["ours"][pair] = read_flow(found[pair])
    scores = {who: bench.score(flows, truth) for who, flows in results.items()}
    print(f"| {name} | " + " | ".join(scores) + " |\n|---|" + "---:|" * len(scores))
    for pair in truth:
        print(f"| {pair} | " + " | ".join(f"{score['sequences'][pair]['epe']:.2f}" for score in scores.values()) + " |")
    for key in ("epe", "outliers"):
        print(f"| {key} | " + " | ".join(f"{score[key]:.3f}" for score in scores.values()) + " |")


def speed(weights: str) -> None:
    import torch

    from dropmae import load

    torch.set_num_threads(2)
    cv2.setNumThreads(2)
    task = load(weights).eval()
    a, b = np.random.default_rng(0).integers(0, 256, (2, 320, 448, 3), np.uint8)
    ways = {"ours": lambda: task.between(a, b), "Farneback": lambda: farneback(a, b), "DIS": lambda: dis(a, b)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(7):
        for name, run in ways.items():
            before = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - before)
    print(
        "seconds a pair of 320 x 448: " + ", ".join(f"{name} {np.median(took):.3f}" for name, took in seconds.items())
    )


if __name__ == "__main__":
    table(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    if len(sys.argv) > 4:
        speed(sys.argv[4])
