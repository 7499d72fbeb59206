"""Benchmarks of optical flow: each one's layout, its way of adding up, and the numbers that the evaluators print."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dropmae.benchmarks._flow import FlowBenchmark, FlowPair
from dropmae.benchmarks.flyingchairs import FlyingChairs
from dropmae.benchmarks.flyingthings import FlyingThings
from dropmae.benchmarks.kittiflow import KittiFlow
from dropmae.benchmarks.middlebury import Middlebury
from dropmae.benchmarks.sintel import Sintel
from dropmae.formats.flow import write_flo, write_kitti, write_pfm
from dropmae.metrics import flow as metrics
from dropmae.target import Target

RNG = np.random.default_rng(5)


def true_flow(scale: float, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    return (RNG.integers(-64, 65, (*size, 2)) / 64 * scale).astype(np.float32)


def flow_of(pair: FlowPair) -> np.ndarray:
    flow = pair[0].flow
    assert flow is not None
    return flow


def picture(path: Path, values: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((6, 8, 3), np.uint8) if values is None else values).save(path)


def middlebury(root: Path) -> list[np.ndarray]:
    flows = [true_flow(4), true_flow(9)]
    flows[0][0, 0] = np.nan
    for name, flow in zip(("Grove2", "Urban2"), flows):
        picture(root / "other-data" / name / "frame10.png")
        picture(root / "other-data" / name / "frame11.png")
        write_flo(root / "other-gt-flow" / name / "flow10.flo", flow)
    return flows


def chairs(root: Path) -> list[np.ndarray]:
    flows = [true_flow(30), true_flow(3), true_flow(5)]
    for number, flow in enumerate(flows, 1):
        for side in (1, 2):
            picture(root / "data" / f"0000{number}_img{side}.ppm")
        write_flo(root / "data" / f"0000{number}_flow.flo", flow)
    return flows


def things(root: Path) -> list[np.ndarray]:
    flows = [true_flow(30) for _ in range(4)]
    flows[0][1, 1] = 500
    for number in (6, 7, 8):
        picture(root / f"frames_cleanpass/TEST/A/0000/left/{number:04d}.png")
    places = [("Future", 6), ("Future", 7), ("Past", 8), ("Past", 7)]
    for (word, number), flow in zip(places, flows):
        folder = root / f"optical_flow/TEST/A/0000/into_{word.lower()}/left"
        write_pfm(folder / f"OpticalFlowInto{word}_{number:04d}_L.pfm", flow)
    return flows


def sintel(root: Path) -> list[np.ndarray]:
    flows = [true_flow(3), true_flow(90)]
    for name in ("clean", "final"):
        for number in (1, 2, 3):
            picture(root / f"training/{name}/alley_1/frame_{number:04d}.png")
    hidden = np.zeros((6, 8), np.uint8)
    hidden[:2] = 255
    for number, flow in enumerate(flows, 1):
        write_flo(root / f"training/flow/alley_1/frame_{number:04d}.flo", flow)
        picture(root / f"training/occlusions/alley_1/frame_{number:04d}.png", hidden)
    return flows


def kitti(root: Path) -> list[np.ndarray]:
    flows = [true_flow(30), true_flow(9)]
    flows[1][1:] = np.nan
    objects = np.zeros((6, 8), np.uint8)
    objects[:, :3] = 2
    for number, flow in enumerate(flows):
        for frame in (10, 11):
            picture(root / f"training/image_2/{number:06d}_{frame}.png")
        write_kitti(root / f"training/flow_occ/{number:06d}_10.png", flow)
        picture(root / f"training/obj_map/{number:06d}_10.png", objects)
    return flows


KINDS = [(Middlebury, middlebury), (FlyingChairs, chairs), (FlyingThings, things), (Sintel, sintel), (KittiFlow, kitti)]


@pytest.mark.parametrize(("kind", "made"), KINDS)
def test_perfect_and_still(kind: type[FlowBenchmark], made: object, tmp_path: Path) -> None:
    made(tmp_path / "data")  # type: ignore[operator]
    bench = kind(passes=("clean",)) if kind is FlyingThings else kind()  # type: ignore[call-arg]
    truth = bench.annotations(tmp_path / "data", "test" if kind is FlyingThings else None)
    for name, pair in truth.items():
        bench.write(name, {0: pair[0], 1: Target(ids=np.zeros(0, np.int64))}, tmp_path / "perfect")
        still = np.zeros_like(flow_of(pair))
        bench.write(name, {0: Target(ids=np.zeros(0, np.int64), flow=still)}, tmp_path / "still")
    perfect, still = (bench.score(bench.read(tmp_path / name, truth), truth) for name in ("perfect", "still"))
    assert perfect["epe"] == 0
    assert perfect["outliers"] == 0
    assert perfect["missing"] == []
    lengths = [np.linalg.norm(flow_of(pair).astype(float), axis=-1) for pair in truth.values()]
    if kind is FlyingThings:
        lengths = [
            np.where((np.abs(flow_of(pair)) < 400).all(-1), size, np.nan) for pair, size in zip(truth.values(), lengths)
        ]
    by_pair, pooled = (
        np.mean([np.nanmean(size) for size in lengths]),
        np.nanmean(np.concatenate([s.ravel() for s in lengths])),
    )
    assert still["epe"] == pytest.approx(by_pair if kind in (Middlebury, KittiFlow) else pooled)
    assert still["epe"] > 1
    assert set(still["sequences"]) == set(truth)
    frames = bench.sequences(tmp_path / "data", "test" if kind is FlyingThings else None)[0].video
    assert frames.shape == (2, 6, 8, 3)


def test_parts_of_sintel_and_kitti(tmp_path: Path) -> None:
    flows = sintel(tmp_path / "sintel")
    bench, truth = Sintel(), Sintel().annotations(tmp_path / "sintel")
    still = bench.score({name: np.zeros((6, 8, 2), np.float32) for name in truth}, truth)
    length = np.stack([np.linalg.norm(flow.astype(float), axis=-1) for flow in flows])
    assert still["epe_s40+"] == pytest.approx(length[length > 40].mean())
    assert still["epe_clean"] == still["epe_final"] == pytest.approx(length.mean())
    seen = np.stack([metrics.lands_inside(flow) for flow in flows])
    seen[:, :2] = False
    assert still["epe_matched"] == pytest.approx(length[seen].mean())
    assert still["epe_unmatched"] == pytest.approx(length[~seen].mean())
    assert bench.files("clean/alley_1/frame_0001")[0] == "clean/alley_1/frame0001.flo", "as the bundler takes it"
    flows = kitti(tmp_path / "kitti")
    truth = KittiFlow().annotations(tmp_path / "kitti")
    still = KittiFlow(protocol="pooled").score({name: np.zeros((6, 8, 2), np.float32) for name in truth}, truth)
    length = np.stack([np.linalg.norm(flow.astype(float), axis=-1) for flow in flows])
    assert still["epe_fg"] == pytest.approx(np.nanmean(length[:, :, :3]))
    assert still["outliers_bg"] == pytest.approx((length[:, :, 3:] > 3).sum() / (~np.isnan(length[:, :, 3:])).sum())


def test_splits_and_what_is_missing(tmp_path: Path) -> None:
    chairs(tmp_path / "chairs")
    bench = FlyingChairs()
    assert len(bench.pairs(tmp_path / "chairs")) == 3
    with pytest.raises(FileNotFoundError, match="says what is train"):
        bench.pairs(tmp_path / "chairs", "train")
    (tmp_path / "chairs_split.txt").write_text("1\n2\n1\n")
    assert [pair.name for pair in bench.pairs(tmp_path / "chairs")] == ["00002"]
    assert [pair.name for pair in bench.pairs(tmp_path / "chairs", "train")] == ["00001", "00003"]
    with pytest.raises(ValueError, match="no split 'test'"):
        bench.pairs(tmp_path / "chairs", "test")
    truth = bench.annotations(tmp_path / "chairs", "train")
    with pytest.raises(OSError, match=r"00001: flow of \(5, 8\) for a video of \(6, 8\)"):
        bench.score({"00001": np.zeros((5, 8, 2), np.float32)}, truth)
    with pytest.raises(FileNotFoundError, match="00001_flow"):
        bench.read(tmp_path / "nothing", truth)
    for cls in (Middlebury, Sintel, KittiFlow, FlyingThings, FlyingChairs):
        with pytest.raises(FileNotFoundError, match="expected"):
            cls().pairs(tmp_path / "empty")
    kitti(tmp_path / "kitti")
    os.rename(tmp_path / "kitti/training", tmp_path / "kitti/testing")
    hidden = KittiFlow().annotations(tmp_path / "kitti", "test")
    assert KittiFlow().score({name: np.zeros((6, 8, 2)) for name in hidden}, hidden)["epe"] is None


def test_truth_without_a_known_pixel_and_flow_without_numbers(tmp_path: Path) -> None:
    flow = np.full((6, 8, 2), np.nan, np.float32)
    assert metrics.numbers(metrics.errors(flow, np.zeros_like(flow)))["epe"] is None
    assert metrics.numbers(metrics.errors(np.ones_like(flow), flow))["epe"] == pytest.approx(2**0.5), "NaN rests"
    kitti(tmp_path)
    write_kitti(tmp_path / "training/flow_occ/000001_10.png", flow)
    truth = KittiFlow().annotations(tmp_path)
    scored = KittiFlow().score({name: np.zeros((6, 8, 2)) for name in truth}, truth)
    assert scored["sequences"]["000001"]["epe"] is None
    assert scored["epe"] == scored["sequences"]["000000"]["epe"], "a pair without truth does not count"


@pytest.mark.data
def test_as_the_evaluators_print_it(tmp_path: Path) -> None:
    if not (root := os.environ.get("DROPMAE_TEST_DATA")):
        pytest.skip("DROPMAE_TEST_DATA is not set")
    known = json.loads((Path(root) / "parity/expected/flow.json").read_text())["result"]
    results, pairs, dense = {}, {}, {}
    for file in sorted((Path(root) / "parity/inputs/flow").glob("*.npz")):
        data = np.load(file)
        truth = data["gt"].astype(np.float32)
        write_flo(tmp_path / f"dense/{file.stem}.flo", truth)
        truth[~data["valid"].astype(bool)] = np.nan
        write_flo(tmp_path / f"{file.stem}.flo", truth)
        results[file.stem] = data["pred"].astype(np.float32)
        for kept, folder in ((pairs, tmp_path), (dense, tmp_path / "dense")):
            kept[file.stem] = FlowPair(name=file.stem, first=file, second=file, flow=folder / f"{file.stem}.flo")
    raft = KittiFlow().score(results, pairs)
    assert raft["epe"] == pytest.approx(known["raft_kitti"]["kitti-epe"], abs=1e-6)
    assert raft["outliers"] == pytest.approx(known["raft_kitti"]["kitti-f1"] / 100, abs=1e-6)
    pooled = KittiFlow(protocol="pooled").score(results, pairs)
    assert pooled["outliers"] == pytest.approx(known["kitti_devkit_Fl_pixel_weighted"] / 100, abs=1e-6)
    each = [row["outliers"] for row in pooled["sequences"].values()]
    assert each == pytest.approx(known["kitti_devkit_per_image_Fl"], abs=1e-6)
    assert FlyingChairs().score(results, dense)["epe"] == pytest.approx(known["raft_chairs"]["chairs"], abs=1e-6)
    assert Sintel().score(results, dense)["epe"] == pytest.approx(known["raft_sintel"]["clean"], abs=1e-6)


@pytest.mark.data
@pytest.mark.parametrize(
    ("kind", "folder", "count"), [(Middlebury, "Middlebury", 4), (FlyingChairs, "FlyingChairs_release", 1),
                                  (Sintel, "Sintel", 1), (KittiFlow, "KITTI-flow", 1)]
)  # fmt: skip
def test_data_of_others(kind: type[FlowBenchmark], folder: str, count: int) -> None:
    if not (root := os.environ.get("DROPMAE_TEST_DATA")):
        pytest.skip("DROPMAE_TEST_DATA is not set")
    bench = kind()
    truth = bench.annotations(Path(root) / "data" / folder)
    assert len(truth) == count
    assert bench.score({name: flow_of(pair) for name, pair in truth.items()}, truth)["epe"] == 0
    still = bench.score({name: np.zeros_like(flow_of(pair)) for name, pair in truth.items()}, truth)
    for name, pair in truth.items():
        length = np.nanmean(np.linalg.norm(flow_of(pair).astype(float), axis=-1))
        assert still["sequences"][name]["epe"] == pytest.approx(length)
