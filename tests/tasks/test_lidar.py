"""Tracking in LiDAR scans: rendering, benchmarks, the task, and what users get wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dropmae
from dropmae import registry, weights
from dropmae.benchmarks.folder3d import Folder3D
from dropmae.benchmarks.kitti3d import Kitti3D
from dropmae.benchmarks.nuscenes3d import SPLITS, NuScenes3D, scene_numbers
from dropmae.data.clips import collate, generator
from dropmae.data.mixture import open_source
from dropmae.engine import Engine
from dropmae.formats.kitti import read_calibration, read_labels
from dropmae.metrics.boxes3d import inside, local, offset
from dropmae.rendering.lidar import BOX, ELLIPSOID, Sensor, hits
from dropmae.rendering.streets import Scanning, drawn
from dropmae.target import Target, read_targets
from dropmae.tasks.lidar import Vote
from dropmae.tasks.lidar.align import fit, turned
from dropmae.tasks.lidar.motion import Belief, ahead, begun, corrected, later
from dropmae.video import Video
from dropmae.video.scans import Recording

EYE = "1 0 0 0 0 1 0 0 0 0 1 0"
VELO = "Tr_velo_cam 0 -1 0 0.1 0 0 -1 -0.2 1 0 0 -0.3"
"""The scanner's x is the camera's z, its y the other way of the camera's x."""


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streets")
    dropmae.synth(
        str(root), scans=True, clips=2, workers=1, frames=4, beams=32, columns=600, objects=(4, 4), distance=18.0
    )
    return root


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    torch.manual_seed(0)
    weights.save(registry.load("tasks", "lidar")(), path)
    return path


def boxes_of(sequence: Any) -> np.ndarray:
    """The boxes of a tracklet."""
    return sequence.targets.boxes


def kitti(
    root: Path, labels: str, frames: int = 4, calibration: str = f"P2: {EYE}\nR_rect 1 0 0 0 1 0 0 0 1\n{VELO}\n"
) -> Path:
    for folder in ("label_02", "calib", "velodyne/0019"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "label_02" / "0019.txt").write_text(labels)
    (root / "calib" / "0019.txt").write_text(calibration)
    for number in range(frames):
        points = np.random.default_rng(number).uniform(-1, 1, (50, 4)) + np.array([10, 0, 0, 0])
        points.astype(np.float32).tofile(root / "velodyne" / "0019" / f"{number:06d}.bin")
    return root


ROW = "{frame} {track} {kind} 0 0 0 0 0 0 0 1.5 1.6 4.0 0.1 0.55 {z} {turn}\n"


# ---------------------------------------------------------------- rendering


def test_rays_meet_solids_where_they_should() -> None:
    up, around = np.array([0.0]), np.array([0.0, 0.3])
    solid = np.array([10.0, 0, 0, 2, 1, 1, 0])
    assert hits(solid, BOX, up, around)[0].tolist() == [8.0, np.inf]
    assert hits(solid, ELLIPSOID, up, around)[0].tolist() == [8.0, np.inf]
    turned = np.array([10.0, 0, 0, 2, 1, 1, np.pi / 2])
    assert hits(turned, BOX, up, around)[0, 0] == pytest.approx(9)


def test_what_stands_in_front_hides_what_is_behind() -> None:
    solids = np.array([[8.0, 0, 0, 0.1, 3, 3, 0], [12.0, 0, 0, 1, 1, 1, 0]])
    scan = Sensor(noise=0, dropout=0).scan
    rng = np.random.default_rng(0)
    points, owners, shares = scan(solids, np.array([BOX, BOX]), np.array([0, 1]), np.ones(2), rng)
    assert shares == {1: 0.0}
    assert not (owners == 1).any()
    points, owners, shares = scan(solids[1:], np.array([BOX]), np.array([1]), np.ones(1), rng)
    assert shares == {1: 1.0}
    own = points[owners == 1]
    assert len(own) > 50
    assert np.allclose(own[:, 0].min(), 11, atol=1e-3)


def test_boxes_of_a_street_hold_its_things_and_move_on() -> None:
    options = Scanning(frames=3, beams=32, columns=600, objects=(3, 3), distance=12, clutter=0.2)
    before: dict[int, np.ndarray] = {}
    held = 0
    for points, target in drawn(0, 0, options):
        assert target.boxes3d is not None
        assert target.scores is not None
        for number, box, share in zip(target.ids.tolist(), target.boxes3d, target.scores):
            count = int(inside(local(points, box), box, 0.1).sum())
            held += count
            assert count == 0 or share > 0
            if number in before:
                assert np.array_equal(before[number][3:6], box[3:6])
                assert np.linalg.norm(before[number][:3] - box[:3]) < 4
            before[number] = box
    assert held > 100
    again, other = (next(iter(drawn(seed, 0, options)))[0] for seed in (0, 1))
    assert np.array_equal(again, next(iter(drawn(0, 0, options)))[0])
    assert len(again) != len(other)


def test_synth_refuses_what_is_not_of_scans(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no setting 'masks' of scans"):
        dropmae.synth(str(tmp_path / "a"), scans=True, masks=True)
    with pytest.raises(ValueError, match="no setting 'beams' of clips"):
        dropmae.synth(str(tmp_path / "a"), beams=3)
    with pytest.raises(ValueError, match="--distance"):
        dropmae.synth(str(tmp_path / "a"), scans=True, distance=1.0)


# ---------------------------------------------------------------- benchmarks


def test_kitti_boxes_are_turned_into_scan_coordinates(tmp_path: Path) -> None:
    rows = [ROW.format(frame=f, track=3, kind="Car", z=10.0 + f, turn=-np.pi / 2) for f in (0, 1, 3)]
    rows.append(ROW.format(frame=0, track=4, kind="DontCare", z=5.0, turn=0))
    root = kitti(tmp_path, "".join(rows))
    (one,) = Kitti3D().sequences(root)
    assert one.name == "Car/0019-0003"
    assert [len(scan) for scan in one.video] == [50, 50, 50]  # frames 0, 1 and 3: the gap is closed up
    np.testing.assert_array_equal(one.video[2], Video(root / "velodyne" / "0019")[3])
    truth: Any = one.targets
    box = truth[0].boxes3d[0]
    # The camera's x .1 (less .1), the bottom at .55 (and .2, and half the height up), z 10 (and .3).
    np.testing.assert_allclose(box, [10.3, 0.0, 0.0, 1.6, 4.0, 1.5, 0.0], atol=1e-9)
    calibration, labels = read_calibration(root / "calib" / "0019.txt"), read_labels(root / "label_02" / "0019.txt")
    np.testing.assert_allclose(calibration.to_labels(truth.boxes), labels.boxes[:3], atol=1e-9)
    pixels = calibration.pixels(np.array([[10.3, 0.2, -0.2]]))
    np.testing.assert_allclose(pixels[0], [(-0.2 + 0.1) / 10, 0, 10], atol=1e-9)
    (root / "velodyne" / "0019" / "000001.bin").unlink()  # as four are missing in the official data
    assert [len(scan) for scan in Kitti3D().sequences(root)[0].video] == [50, 0, 50]


def test_scores_are_pooled_by_class_and_weighted_by_frames(tmp_path: Path) -> None:
    rows = [ROW.format(frame=f, track=1, kind="Car", z=10.0 + 3 * f, turn=0) for f in range(3)]
    rows += [ROW.format(frame=0, track=2, kind="Van", z=20.0, turn=0)]
    bench = Kitti3D()
    root = kitti(tmp_path / "data", "".join(rows))
    truth = bench.annotations(root)
    perfect = {name: one.boxes for name, one in truth.items()}
    found = bench.score(perfect, truth)
    assert (found["success"], found["precision"]) == (1.0, 1.0)
    away = {name: boxes + 50 for name, boxes in perfect.items()}
    found = bench.score(away, truth)
    # The given first frames are right: one of three of the car, all of the van.
    assert found["categories"]["Car"]["success"] == pytest.approx((1 + 2 * 0.025) / 3)
    assert found["categories"]["Van"]["success"] == 1
    assert found["success"] == pytest.approx((3 * (1 + 2 * 0.025) / 3 + 1) / 4)
    assert found["baselines"]["velocity"]["success"] == 1
    assert found["baselines"]["keep"]["categories"]["Car"]["precision"] == pytest.approx(1 / 3)
    for name, boxes in perfect.items():
        bench.write(name, dict(enumerate(truth[name][f] for f in range(len(boxes)))), tmp_path / "results")
    assert bench.score(bench.read(tmp_path / "results", truth), truth)["success"] == 1
    missed = Target(ids=np.ones(1, np.int64), boxes3d=np.full((1, 7), np.nan))
    bench.write("Car/0019-0001", {0: truth["Car/0019-0001"][0], 1: missed, 2: missed}, tmp_path / "results")
    found = bench.score(bench.read(tmp_path / "results", truth), truth)
    assert found["sequences"]["Car/0019-0001"]["success"] == pytest.approx((1 + 2 * 0.025) / 3)
    with pytest.raises(OSError, match="2 boxes for 3 frames"):
        bench.score({"Car/0019-0001": np.zeros((2, 7))}, truth)


def test_nuscenes_scans_and_boxes_are_in_the_world(tmp_path: Path) -> None:
    assert [len(scene_numbers(SPLITS[name])) for name in ("val", "train", "mini_val", "mini_train")] == [150, 350, 2, 8]
    half = float(np.sqrt(0.5))  # a quarter turn about z
    tables: dict[str, list[dict[str, Any]]] = {
        "scene": [{"token": "s", "name": "scene-0103"}, {"token": "t", "name": "scene-0061"}],
        "sample": [{"token": f"m{k}", "timestamp": 10 - k, "scene_token": "s"} for k in range(2)],
        "category": [{"token": "c", "name": "human.pedestrian.child"}, {"token": "d", "name": "animal"}],
        "instance": [{"token": "i", "category_token": "c"}, {"token": "j", "category_token": "d"}],
        "sensor": [{"token": "l", "channel": "LIDAR_TOP"}],
        "calibrated_sensor": [
            {"token": "k", "sensor_token": "l", "translation": [0, 0, 2], "rotation": [1, 0, 0, 0]}
        ],
        "ego_pose": [{"token": "e", "translation": [100, 200, 0], "rotation": [half, 0, 0, half]}],
        "sample_data": [
            {
                "token": f"f{k}", "sample_token": f"m{k}", "is_key_frame": True, "calibrated_sensor_token": "k",
                "ego_pose_token": "e", "filename": f"samples/{k}.pcd.bin",
            }
            for k in range(2)
        ],
        "sample_annotation": [
            {
                "token": f"a{i}{k}", "sample_token": f"m{k}", "instance_token": i, "num_lidar_pts": 1,
                "translation": [100, 203 + k, 2], "size": [0.6, 0.8, 1.7], "rotation": [half, 0, 0, half],
            }
            for k in range(2)
            for i in ("i", "j")
        ],
    }  # fmt: skip
    (tmp_path / "v1.0-mini").mkdir()
    (tmp_path / "samples").mkdir()
    for name, rows in tables.items():
        (tmp_path / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))
    for k in range(2):
        np.array([[3, 0, 0, 9, 1]], np.float32).tofile(tmp_path / "samples" / f"{k}.pcd.bin")
    (one,) = NuScenes3D().sequences(tmp_path)
    assert one.name == "Pedestrian/scene-0103-i"
    # Later moments have smaller numbers here: frames go by their time stamps.
    np.testing.assert_allclose(boxes_of(one)[:, 1], [204, 203])
    np.testing.assert_allclose(boxes_of(one)[0, 6], np.pi / 2)
    np.testing.assert_allclose(one.video[0][0], [100, 203, 2, 9, 1], atol=1e-4)
    with pytest.raises(FileNotFoundError, match="no scene of this split"):
        NuScenes3D().sequences(tmp_path, "mini_train")
    (tmp_path / "v1.0-mini" / "scene.json").write_text("[{}]")
    with pytest.raises(OSError, match=r"scene\.json: no table"):
        NuScenes3D().sequences(tmp_path)


def test_broken_kitti_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no labels"):
        Kitti3D().sequences(tmp_path)
    row = ROW.format(frame=0, track=1, kind="Car", z=10.0, turn=0)
    root = kitti(tmp_path, row)
    with pytest.raises(ValueError, match="no split 'dev'"):
        Kitti3D().sequences(root, "dev")
    (root / "label_02" / "0019.txt").write_text(row.replace("4.0", "x"))
    with pytest.raises(OSError, match=r"0019\.txt, line 1"):
        Kitti3D().sequences(root)
    (root / "label_02" / "0019.txt").write_text("0 1 Car\n")
    with pytest.raises(OSError, match="3 of 17 columns"):
        Kitti3D().sequences(root)
    (root / "label_02" / "0019.txt").write_text(row)
    (root / "calib" / "0019.txt").write_text(VELO.replace("0.1", "x"))
    with pytest.raises(OSError, match=r"0019\.txt, line 1: Tr_velo_cam has 12"):
        Kitti3D().sequences(root)
    (root / "calib" / "0019.txt").write_text(VELO)
    with pytest.raises(OSError, match="has no R_rect, P2"):
        Kitti3D().sequences(root)
    for wrong in (VELO.replace("0.1", "nan"), "Tr_velo_cam 0 0 0 0 0 0 0 0 0 0 0 0"):
        kitti(tmp_path, row, calibration=f"P2: {EYE}\nR_rect 1 0 0 0 1 0 0 0 1\n{wrong}\n")
        with pytest.raises(OSError, match=r"0019\.txt: a matrix of the calibration"):
            Kitti3D().sequences(root)
    for labels, reason in (
        (row + row, r"0019\.txt: object 1 is twice in frame 0"),
        (row.replace("1.5 1.6", "-1.5 1.6"), r"Car/0019-0001: box 0 is none: .* -1.5 "),
        (row.replace("0 1", "-3 1", 1), r"line 1: .* a frame before the first"),
    ):
        with pytest.raises(OSError, match=reason):
            Kitti3D().annotations(kitti(tmp_path, labels))
    kitti(tmp_path, row)
    (root / "calib" / "0019.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no calibration"):
        Kitti3D().sequences(root)


# ---------------------------------------------------------------- the task


@pytest.mark.slow
def test_the_task_learns_votes_that_place_the_box(streets: Path) -> None:
    """Both stems, on one batch."""
    sequences = open_source(str(streets)).sequences
    for stem in ("pillar", "image"):
        torch.manual_seed(0)
        task: Any = registry.load("tasks", "lidar")(stem=stem, depth=1, points=(128, 64, 32), reach=1.0)
        samples = [{**task.sample(sequences[k % 2], generator(0, k)), "reports": []} for k in range(4)]
        batch = collate(samples)
        held = task.holding(batch)
        assert held.any(1).sum() >= 3
        assert held.float().mean() < 0.5
        optimizer = torch.optim.AdamW(task.parameters(), 2e-3)
        first: dict[str, Any] = {}
        for _ in range(25):
            found = task(batch)
            first = first or found
            optimizer.zero_grad()
            found["loss"].backward()
            optimizer.step()
        assert found["loss"] < 0.95 * first["loss"], stem
        assert stem == "image" or found["target"] < 0.9 * first["target"]


def test_points_are_fitted_where_they_were_moved_to() -> None:
    rng = np.random.default_rng(0)
    side = np.column_stack([rng.uniform(-2, 2, 200), np.full(200, -0.8), rng.uniform(-0.5, 0.7, 200)])
    end = np.column_stack([np.full(80, -2.0), rng.uniform(-0.8, 0.8, 80), rng.uniform(-0.5, 0.7, 80)])
    model = np.concatenate([side, end])
    clutter = np.column_stack([rng.uniform(-4, 4, (60, 2)), rng.uniform(-0.5, 0.7, 60)])
    true = np.array([0.43, -0.27, 0.05, np.radians(6)])
    query = np.concatenate([turned(model, true[3]) + true[:3], clutter])
    found = fit(query, model, 1.5, 4.8, np.zeros(4), 1.0, 0.05)
    assert found is not None
    np.testing.assert_allclose(found.offset, true, atol=0.04)
    assert found.share > 0.8
    assert fit(query[:0], model, 1.5, 4.8, np.zeros(4), 1.0, 0.05) is None
    near = fit(query + np.array([6.0, 0, 0]), model, 1.5, 4.8, np.zeros(4), 1.0, 0.05)
    assert near is None or np.abs(near.offset[0]) < 4.8


def test_an_encoder_of_more_blocks_gives_its_first() -> None:
    from dropmae.loading import untrained as method

    source = method("random:tiny:dropmae:0:64")
    weight = source.encoder.blocks[1].mlp.fc1.weight.clone()
    task: Any = registry.load("tasks", "lidar")(depth=2)
    taken = task.take_over(source, "dropmae", "somewhere")
    assert torch.equal(task.encoder.blocks[1].mlp.fc1.weight, weight)
    assert not [name for name in taken.fresh if name.startswith("encoder.")]


def test_a_place_counts_as_far_as_it_is_certain() -> None:
    start = Belief(np.array([10.0, 2, 0, 0.6, 0.8, 1.7, 0.5]), np.zeros(4), begun())
    known = start
    for scan in range(30):  # found exactly, while it moves by 0.2 along x and 0.1 along y
        known = Belief(ahead(known.box, known.step), known.step, later(known.covariance, 0.05))
        true = start.box + np.array([0.2, 0.1, 0, 0, 0, 0, 0]) * (scan + 1)
        known = corrected(known, offset(known.box, true), np.full(4, 0.01))
    np.testing.assert_allclose(known.step[:2], [0.2, 0.1], atol=0.01)
    np.testing.assert_allclose(known.box, true, atol=0.01)
    known = Belief(known.box, known.step, later(known.covariance, 0.05))
    # Certain along its own x, not along its own y.
    found = corrected(known, np.array([0.1, 0.1, 0, 0]), np.array([0.01, 1.0, 0.01, 0.01]))
    moved_by = offset(known.box, found.box)
    assert moved_by[0] > 0.08
    assert abs(moved_by[1]) < 0.02
    far = corrected(known, np.array([5.0, 0, 0, 0]), np.full(4, 0.05))  # which is likely something else
    assert offset(known.box, far.box)[0] < 2
    assert np.linalg.eigvalsh(far.covariance).min() > 0


def test_a_person_is_expected_where_what_stands_around_moved_to() -> None:
    """Three points of somebody who stands, and bushes; the scanner drives on by a metre, and another stands there."""
    rng = np.random.default_rng(0)
    person = np.array([[10.0, 0, -0.3], [10.0, 0.1, -0.6], [10.05, -0.1, -0.9]])
    places = rng.uniform([6, -6, 0], [15, 6, 0], (6, 3))
    places = places[np.abs(places[:, 1]) > 1.5]
    bushes = np.concatenate([place + rng.uniform([-0.3, -0.3, -1.6], [0.3, 0.3, -0.4], (40, 3)) for place in places])
    drive = np.array([-1.0, 0, 0])
    scans = [np.concatenate([person, bushes]), np.concatenate([person, bushes, person - drive]) + drive]
    box = np.array([10.0, 0, -0.8, 0.6, 0.8, 1.7, 0.0])
    task: Any = registry.load("tasks", "lidar")(depth=1, follow="points")
    state = task.start(scans[0].astype(np.float32), Target(ids=np.array([1]), boxes3d=box[None]))
    state, _ = task.step(state, scans[1].astype(np.float32))
    np.testing.assert_allclose(state.boxes[0, :2], box[:2] + drive[:2], atol=0.15)


def test_the_shipped_network_places_boxes_and_they_keep_their_height(streets: Path) -> None:
    task: Any = weights.load("shipped:lidar").eval()
    sequences = open_source(str(streets)).sequences
    batch = collate([{**task.sample(sequences[k % 2], generator(0, k)), "reports": []} for k in range(48)])
    with torch.no_grad():
        found = task(batch)
    assert found["metres"] < 0.5 * found["still"]
    assert task.follow == "both"
    errors = []
    for one in Folder3D().sequences(streets):
        state = task.start(one.video[0], one.targets[0])
        for scan, box in zip(list(one.video)[1:], boxes_of(one)[1:]):
            with torch.no_grad():
                state, _ = task.step(state, scan)
            errors.append(state.boxes[0, 2] - box[2])
    assert np.abs(errors).max() < 0.15


def test_a_box_follows_the_ground() -> None:
    """The road rises; the object's own points are of other beams in each scan and say nothing of its height."""
    rng = np.random.default_rng(0)
    box = np.array([10.0, 0, -0.9, 1.6, 4.0, 1.5, 0.0])
    task: Any = registry.load("tasks", "lidar")(depth=1, follow="points")
    state = None
    for t in range(12):
        road = np.column_stack([rng.uniform([6, -4], [14, 4], (300, 2)), rng.normal(-1.65 + 0.04 * t, 0.02, 300)])
        road = road[(np.abs(road[:, 0] - 10) > 2) | (np.abs(road[:, 1]) > 0.8)]
        side = np.column_stack([rng.uniform(8, 12, 80), np.full(80, -0.8), rng.choice([-1.2, -0.9, -0.5], 80)])
        scan = np.concatenate([road, side + np.array([0, 0, 0.04 * t])]).astype(np.float32)
        if state is None:
            state = task.start(scan, Target(ids=np.array([1]), boxes3d=box[None]))
        else:
            state, _ = task.step(state, scan)
    assert state is not None
    np.testing.assert_allclose(state.boxes[0, 2], -0.9 + 0.04 * 11, atol=0.06)


def test_a_state_does_not_grow(streets: Path) -> None:
    task: Any = registry.load("tasks", "lidar")(depth=1)
    one = Folder3D().sequences(streets)[0]
    state, sizes = task.start(one.video[0], one.targets[0]), []
    for t in range(12):
        with torch.no_grad():
            state, _ = task.step(state, one.video[min(t, 3)])
        assert state.doubts.shape == (1, 8, 8)
        sizes.append(sum(len(part) for name in ("firsts", "scenes", "latest") for part in getattr(state, name)))
    assert max(sizes) <= sum(task.points[1:])


class Oracle:
    """Stands in for the network: the offset to where the truth is."""

    def __init__(self, task: Any, truth: np.ndarray) -> None:
        self.task, self.truth, self.frame = task, truth, 0

    def look(self, queries: dict[int, np.ndarray], backs: Any, expected: dict[int, np.ndarray], rng: Any) -> Any:
        place = self.truth[int(self.task.now)]
        return {row: Vote(offset(expected[row], place), np.full(4, 1e-9), 0.9) for row in queries}


def test_without_points_a_box_goes_on_as_it_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    task: Any = registry.load("tasks", "lidar")(depth=1, follow="votes")
    truth = np.array([[10.0 + t, 2 + 0.5 * t, 0, 1.6, 4, 1.5, 0.1 * t] for t in range(6)])
    oracle = Oracle(task, truth)
    monkeypatch.setattr(task, "look", oracle.look)
    session = Engine(task, "cpu", "fp32").session({0: Target(ids=np.array([5]), boxes3d=truth[:1])})
    rng = np.random.default_rng(0)
    found = []
    for t in range(6):
        object.__setattr__(task, "now", t)
        near = truth[t, :3] + rng.uniform(-1, 1, (30, 3))
        cloud = np.column_stack([near, np.zeros(30)]).astype(np.float32)
        cloud[0, :] = np.nan
        empty = np.zeros((0, 4), np.float32)
        found += [answer.target for answer in session.push(t, empty if t in (3, 4) else cloud)]
    boxes = np.stack([target.boxes3d[0] for target in found])
    np.testing.assert_allclose(boxes[[1, 2, 5]], truth[[1, 2, 5]], atol=1e-9)
    np.testing.assert_allclose(boxes[[3, 4], :2], truth[[3, 4], :2], atol=1e-9)
    assert [float(target.scores[0]) for target in found[3:5]] == [0.0, 0.0]
    assert found[0].ids.tolist() == [5]


def test_track_and_evaluate(streets: Path, untrained: Path, tmp_path: Path) -> None:
    first: Any = read_targets(streets / "targets.jsonl")["street-00000"][0]
    box = first.boxes3d[int(np.argmax(first.scores))]
    scans = streets / "street-00000"
    told = {"weights": str(untrained), "device": "cpu"}
    report = dropmae.track(str(scans), box3d=tuple(box), out=tmp_path / "out.mp4", **told)
    assert report["frames"] == 4
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(4))
    np.testing.assert_allclose(lines[0]["box3d"], box, atol=1e-3)
    video = Video(tmp_path / "out.mp4")
    assert video.shape == (4, 640, 854, 3)
    again = dict(dropmae.track(str(scans), prompts=tmp_path / "out.jsonl", stop=2, **told))
    assert sorted(again) == [0, 1]
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"box3d": (1.0, 2, 3)}, "box3d takes x y z w l h yaw"),
        ({"box3d": (500.0, 0, 0, 2, 4, 2, 0)}, r"holds no point \(the nearest one is 4"),
        ({"box3d": (*box[:3], 0.0, 1, 1, 0)}, "needs a positive w, l and h"),
        ({"box": (1.0, 2, 3, 4)}, "box3d x y z"),
        ({}, "box3d x y z"),
    ]
    for wrong, words in mistakes:
        with pytest.raises(ValueError, match=words):
            dropmae.track(str(scans), **wrong, **told)
    with pytest.raises(FileNotFoundError, match="no calibration"):
        dropmae.track(str(scans), box3d=tuple(box), out=tmp_path / "out.kitti.txt", **told)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "0.bin").write_bytes(b"12345")
    with pytest.raises(OSError, match=r"0\.bin.*no rows of 4 numbers"):
        dropmae.track(str(tmp_path / "bad"), box3d=tuple(box), **told)
    found = dropmae.evaluate(
        "folder3d", root=streets, weights=str(untrained), out=tmp_path / "ev", workers=1, device="cpu"
    )
    assert 0 < found["success"] < 1
    assert found["frames"] == sum(len(one.targets) for one in Folder3D().sequences(streets))


def test_kitti_results_and_the_camera(untrained: Path, tmp_path: Path) -> None:
    from PIL import Image

    root = kitti(tmp_path, ROW.format(frame=0, track=1, kind="Car", z=9.7, turn=-np.pi / 2))
    (root / "image_02" / "0019").mkdir(parents=True)
    Image.fromarray(np.zeros((37, 124, 3), np.uint8)).save(root / "image_02" / "0019" / "000000.png")
    scans, box = str(root / "velodyne" / "0019"), (10.0, 0.0, 0.0, 1.6, 4.0, 1.5, 0.0)
    dropmae.track(scans, box3d=box, out=root / "out.kitti.txt", weights=str(untrained), device="cpu")
    rows = [line.split() for line in (root / "out.kitti.txt").read_text().splitlines()]
    assert len(rows) == 4
    assert rows[0][:3] == ["0", "1", "Car"]
    expected = [1.5, 1.6, 4.0, 0.1, 0.55, 9.7, -np.pi / 2, 1]
    np.testing.assert_allclose([float(word) for word in rows[0][10:]], expected, atol=1e-3)
    dropmae.track(scans, box3d=box, out=root / "out.mp4", weights=str(untrained), device="cpu")
    assert Video(root / "out.mp4").shape[1:] == (640 + 256, 854, 3)


def test_recordings(tmp_path: Path) -> None:
    np.array([[1, 2, 3, 4]], np.float32).tofile(tmp_path / "a.bin")
    pose = np.eye(4)
    pose[:3, 3] = [10, 0, 0]
    video = Video(Recording((str(tmp_path / "a.bin"), None), poses=np.stack([pose, pose])))
    assert video.kind == "scan"
    assert video[0].tolist() == [[11, 2, 3, 4]]
    assert video[1].shape == (0, 4)
    assert Video([tmp_path / "a.bin"])[0].tolist() == [[1, 2, 3, 4]]


def test_real_kitti_scans(test_data: Path) -> None:
    """Boxes of the labels lie on their points: the calibration is used the right way."""
    bench = Kitti3D()
    found = {one.name: one for one in bench.sequences(test_data / "data" / "KITTI-tracking")}
    assert {name: len(one.targets) for name, one in found.items()} == {
        "Cyclist/0000-0001": 70, "Pedestrian/0000-0002": 6, "Van/0000-0000": 70, "Van/0000-0003": 65,
    }  # fmt: skip
    for one in found.values():
        box, points = boxes_of(one)[0], one.video[0]
        near = np.abs(local(points, box)[:, 2]) < box[5] / 2 - 0.2  # above the ground
        near &= np.hypot(*local(points, box).T[:2]) < 1.2 * max(box[3:5]) / 2
        own = local(points[near], box)
        assert inside(own, box, 0.15).mean() > 0.9, one.name
