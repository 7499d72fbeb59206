"""PCK: small cases by hand, JHMDB (with the reference numbers and its file formats) and BADJA."""

from __future__ import annotations

import json
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dropmae.benchmarks.badja import BADJA, Animal
from dropmae.benchmarks.jhmdb import JHMDB, Pose
from dropmae.cli import main
from dropmae.formats.arrays import read_dump, read_mat
from dropmae.formats.labels import write_labels
from dropmae.metrics import keypoints
from dropmae.opening import load_array
from dropmae.target import Target


def test_sizes_and_shares_by_hand() -> None:
    truth = np.zeros((2, 3, 2))
    truth[0] = [[0, 0], [30, 40], [1000, 1000]]
    counted = np.array([[True, True, False], [False, False, False]])
    size = keypoints.person_size(truth, counted)
    assert size[0] == pytest.approx(0.6 * 50)
    assert np.isnan(size[1])
    predicted = truth + np.array([3.0, 0])
    predicted[0, 1] = np.nan
    errors = keypoints.joint_errors(predicted, truth, size, counted)
    assert errors[0].tolist() == pytest.approx([0.1])
    assert errors[1].tolist() == [np.inf]
    assert keypoints.pck(errors, 0.1)[:2] == [1, 0]
    assert keypoints.mean_pck(errors, 0.1) == 0.5  # the third joint was never counted
    assert keypoints.within(predicted, truth, np.array([3.0, 3.1])).tolist() == [[False] * 3, [True] * 3]


# -------------------------------------------------------------------- JHMDB


@pytest.mark.parametrize("protocol", ["videowalk", "tapnet"])
def test_equals_the_reference_pck(test_data: Path, protocol: Any) -> None:
    folder = test_data / "parity"
    results, annotations = {}, {}
    for file in sorted((folder / "inputs" / "jhmdb").glob("*.npz")):
        with np.load(file) as arrays:
            width, height = (int(size) for size in arrays["wh"])
            predicted = arrays["pred"].transpose(2, 1, 0) / 40 * (width, height)
            annotations[file.stem] = Pose(arrays["gt"].transpose(2, 1, 0) - 1, (width, height))
        # tapnet's code compares with MATLAB's coordinates, which begin at 1; results here begin at 0
        results[file.stem] = predicted - 1 if protocol == "tapnet" else predicted
    report = JHMDB(protocol=protocol).score(results, annotations)
    reference = json.loads((folder / "expected" / "jhmdb.json").read_text())["result"][protocol]
    assert report["protocol"] == protocol
    for key, value in reference.items():
        assert report[f"PCK@{key.removeprefix('PCK@')}"] == pytest.approx(value / 100, abs=1e-9)
    assert report["sequences"].keys() == results.keys()
    assert len(report["joints"]) == 15


def element(kind: int, content: bytes, order: str) -> bytes:
    """One element of a MATLAB 5 file, in the short form where it fits."""
    if len(content) <= 4 and kind != 14:
        return struct.pack(f"{order}I", len(content) << 16 | kind) + content.ljust(4, b"\0")
    return struct.pack(f"{order}II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def mat_file(arrays: dict[str, np.ndarray], order: str = "<", packed: bool = False, array_class: int = 6) -> bytes:
    """A MATLAB 5 file of float64 arrays."""
    body = b""
    for name, array in arrays.items():
        matrix = element(6, struct.pack(f"{order}II", array_class, 0), order)
        matrix += element(5, np.array(array.shape, f"{order}i4").tobytes(), order)
        matrix += element(1, name.encode(), order)
        matrix += element(9, array.astype(f"{order}f8").tobytes(order="F"), order)
        whole = element(14, matrix, order)
        if packed:
            squeezed = zlib.compress(whole)
            whole = struct.pack(f"{order}II", 15, len(squeezed)) + squeezed
        body += whole
    return b"MATLAB 5.0 MAT-file".ljust(124) + (b"\0\1IM" if order == "<" else b"\1\0MI") + body


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
def test_reads_matlab_files(tmp_path: Path, order: str, packed: bool) -> None:
    rng = np.random.default_rng(0)
    arrays = {"scale": rng.random((1, 7)), "pos_img": rng.random((2, 15, 7)), "x": rng.random((1, 1))}
    (tmp_path / "a.mat").write_bytes(mat_file(arrays, order, packed))
    found = read_mat(tmp_path / "a.mat")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


def test_what_is_no_plain_array_is_passed_over_or_named(tmp_path: Path) -> None:
    file = tmp_path / "a.mat"
    whole = mat_file({"pos_img": np.random.default_rng(0).random((2, 15, 7))}, packed=True)
    file.write_bytes(whole + mat_file({"cell": np.zeros(3)}, array_class=1)[128:])
    assert list(read_mat(file)) == ["pos_img"]
    for content, words in (
        (whole[:300], "damaged"),
        (whole[:140] + b"\0" * 40 + whole[180:], "damaged"),
        (b"text", "not a MATLAB 5 file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(200), "HDF5"),
    ):
        file.write_bytes(content)
        with pytest.raises(OSError, match=words):
            read_mat(file)
    with pytest.raises(FileNotFoundError, match=r"b\.mat: no such file"):
        read_mat(tmp_path / "b.mat")


class Hostile:
    def __reduce__(self) -> Any:
        return (print, ("this must never run",))


def test_array_dumps_are_read_and_nothing_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array, file = np.random.default_rng(0).random((2, 15, 4)), tmp_path / "0.dat"
    for stored in (array, array.astype(">f4"), np.asfortranarray(array), array.astype(np.int64)):
        stored.dump(file)
        assert np.array_equal(read_dump(file), stored)
    np.array([Hostile(), None]).dump(file)
    with pytest.raises(OSError, match=r"not a (NumPy array dump|readable pickle of data)"):
        read_dump(file)
    for content in (pickle.dumps(Hostile()), pickle.dumps([1, 2]), b"", b"text"):
        file.write_bytes(content)
        with pytest.raises(OSError, match=r"not a (NumPy array dump|readable pickle of data)"):
            read_dump(file)
    np.save(tmp_path / "a.npy", np.array([Hostile()], object), allow_pickle=True)
    with pytest.raises(OSError, match="not a readable"):
        load_array(tmp_path / "a.npy")
    assert "never" not in capsys.readouterr().out


POSES = {"catch/one": 6, "catch/two": 4, "walk/three": 5}


def pose(name: str) -> np.ndarray:
    """float64 [2, 15, T], counted from 1 as in the files."""
    rng = np.random.default_rng(len(name))
    start = rng.uniform(60, 180, (2, 15, 1))
    return start + np.cumsum(rng.normal(0, 2, (2, 15, POSES[name])), -1)


@pytest.fixture
def jhmdb(tmp_path: Path) -> Path:
    root = tmp_path / "jhmdb"
    for name, frames in POSES.items():
        (root / "joint_positions" / name).mkdir(parents=True)
        (root / "joint_positions" / name / "joint_positions.mat").write_bytes(mat_file({"pos_img": pose(name)}))
        (root / "Rename_Images" / name).mkdir(parents=True)
        for number in range(1, frames + 2):  # one frame more than there are poses
            Image.new("RGB", (320, 240)).save(root / "Rename_Images" / name / f"{number:05d}.png")
    (root / "splits").mkdir()
    (root / "splits" / "catch_test_split1.txt").write_text("one.avi 2\ntwo.avi 1\n")
    (root / "splits" / "walk_test_split1.txt").write_text("three.avi 2\n")
    return root


def test_jhmdb_from_folder_to_numbers(jhmdb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench, out = JHMDB(), tmp_path / "out"
    sequences = bench.sequences(jhmdb)
    assert [sequence.name for sequence in sequences] == ["catch/one", "walk/three"]
    assert [sequence.name for sequence in bench.sequences(jhmdb, "train")] == ["catch/two"]
    for sequence in sequences:
        first = sequence.targets[0]
        assert first.points is not None
        assert first.visible is not None
        assert first.visible.all()
        assert first.points[0] == pytest.approx(pose(sequence.name)[:, 0, 0] - 0.5)  # pixel 1 has its centre at 0.5
        frames = {t: sequence.targets[min(t, len(sequence.targets) - 1)] for t in range(len(sequence.video))}
        bench.write(sequence.name, frames, out)
    assert main(["score", "jhmdb", "--root", str(jhmdb), "--results", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["PCK@0.1"] == report["sequences"]["catch/one"]["PCK@0.5"] == 1
    still = {t: sequences[0].targets[0] for t in range(6)}
    bench.write("catch/one", still, out)
    assert 0 < bench.score(bench.read(out, bench.annotations(jhmdb)), bench.annotations(jhmdb))["PCK@0.1"] < 1


def test_joints_without_prediction_do_not_count(jhmdb: Path, tmp_path: Path) -> None:
    bench = JHMDB()
    annotations = bench.annotations(jhmdb)
    frames = {t: annotations["catch/one"].target(t) for t in range(6)}
    points = frames[3].points
    assert points is not None
    points[0] = np.nan
    bench.write("catch/one", frames, tmp_path / "out")
    stored = np.load(tmp_path / "out" / "catch" / "one.npy")
    assert stored.shape == (2, 15, 6)
    assert stored[:, 0, 3].tolist() == [-1, -1]
    report = bench.score(bench.read(tmp_path / "out", annotations), annotations)
    assert report["PCK@0.1"] == 1
    assert report["missing"] == ["walk/three"]


def test_reads_the_files_of_videowalk(jhmdb: Path, tmp_path: Path) -> None:
    results = tmp_path / "dat"
    results.mkdir()
    ((pose("walk/three") - 1) / np.array([320, 240])[:, None, None] * 40).dump(results / "1.dat")
    listing = tmp_path / "list.txt"
    listing.write_text(
        "".join(f"/data/Rename_Images/{n}/ /data/joint_positions/{n}\n" for n in ("catch/one", "walk/three"))
    )
    bench = JHMDB(filelist=listing)
    annotations = bench.annotations(jhmdb)
    report = bench.score(bench.read(results, annotations), annotations)
    assert list(report["sequences"]) == ["walk/three"]
    assert report["PCK@0.1"] == 1
    with pytest.raises(ValueError, match="filelist"):
        JHMDB().read(results, annotations)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.zeros((2, 15, 3)), "3 frames in the results, 6 poses"),
        (np.zeros((2, 14, 6)), r"holds \[2, 14, 6\]"),
        (b"no array", "not a readable .npy file"),
    ],
)
def test_bad_results_on_jhmdb(jhmdb: Path, tmp_path: Path, content: Any, words: str) -> None:
    if isinstance(content, bytes):
        (tmp_path / "one.npy").write_bytes(content)
    else:
        np.save(tmp_path / "one.npy", content)
    bench = JHMDB()
    annotations = bench.annotations(jhmdb)
    with pytest.raises(OSError, match=words):
        bench.score(bench.read(tmp_path, annotations), annotations)


def test_bad_folders_of_jhmdb(jhmdb: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is .* a JHMDB root"):
        JHMDB().annotations(tmp_path)
    with pytest.raises(ValueError, match="train and test"):
        JHMDB().annotations(jhmdb, "val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no results"):
        JHMDB().read(tmp_path / "empty", JHMDB().annotations(jhmdb))


# -------------------------------------------------------------------- BADJA


def animal(frames: int = 3) -> Animal:
    rng = np.random.default_rng(0)
    visible = np.ones((frames, 37), bool)
    visible[0, 0] = visible[1, 1] = False
    return Animal(
        list(range(0, 5 * frames, 5)), rng.uniform(10, 90, (frames, 37, 2)), visible, np.full(frames, 900.0), (100, 100)
    )


def test_badja_by_hand() -> None:
    truth = animal()
    tracks = {frame: joints.copy() for frame, joints in zip(truth.frames, truth.joints)}
    tracks[5][2] += [5.9, 0]  # the limit is 0.2 * sqrt(900) = 6
    tracks[5][3] += [6.1, 0]
    tracks[10][4] = np.nan
    tracks[10][0] += 50  # not seen in the first frame
    report = BADJA().score({"cat": tracks}, {"cat": truth})
    joints = 36 + 36 - 1  # two frames, without joint 0, and joint 1 in one of them
    cat = report["sequences"]["cat"]
    assert (cat["PCK@0.2"], cat["joints"]) == ((joints - 2) / joints, joints)
    # Of 256 x 256 pixels the two that were moved are off by 15.1 and 15.6, within the last of five distances.
    assert cat["delta"] == pytest.approx((joints - 3 + 0.4) / joints)
    pips = BADJA(protocol="pips").score({"cat": tracks}, {"cat": truth})["sequences"]["cat"]
    assert (pips["PCK@0.2"], pips["joints"]) == ((36 + 36 + 37 - 2 - 2) / (36 + 36 + 37), 36 + 36 + 37)


def test_badja_on_real_animals(test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = test_data / "data" / "BADJA"
    bench = BADJA()
    sequences = bench.sequences(root)
    assert [sequence.name for sequence in sequences] == ["camel", "dog"]  # there is no mask of the bear
    for sequence in sequences:
        first = sequence.targets[min(sequence.targets)]
        bench.write(sequence.name, {frame: first for frame in sequence.targets}, tmp_path)
    assert main(["score", "badja", "--root", str(root), "--results", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["protocol"], report["scale"]) == ("visible", "mask")
    assert 0.4 < report["sequences"]["camel"]["PCK@0.2"] < 0.6  # joints that stay where they were
    assert report["PCK@0.2"] == pytest.approx(np.mean([row["PCK@0.2"] for row in report["sequences"].values()]))
    boxes = BADJA(scale="joints", frames=(test_data / "data" / "DAVIS", test_data / "data" / "clips-raw"))
    assert [sequence.name for sequence in boxes.sequences(root)] == ["bear", "camel", "dog"]


def test_badja_in_its_own_layout(tmp_path: Path) -> None:
    """Rows and columns at full resolution, frames at 480p."""
    davis = tmp_path / "DAVIS"
    for kind, size in (("480p", (60, 40)), ("Full-Resolution", (120, 80))):
        (davis / "JPEGImages" / kind / "cow").mkdir(parents=True)
        Image.new("RGB", size).save(davis / "JPEGImages" / kind / "cow" / "00000.jpg")
    (davis / "Annotations" / "480p" / "cow").mkdir(parents=True)
    mask = np.zeros((40, 60), np.uint8)
    mask[:20, :30] = 255
    entries = []
    for frame in (0, 6):
        write_labels(davis / "Annotations" / "480p" / "cow" / f"{frame:05d}.png", mask)
        path = f"DAVIS/JPEGImages/Full-Resolution/cow/{frame:05d}.jpg"
        entries.append({"image_path": path, "joints": [[20, 60]] * 37, "visibility": [True] * 37})
    (tmp_path / "joint_annotations").mkdir()
    (tmp_path / "joint_annotations" / "cow.json").write_text(json.dumps(entries))
    found = BADJA().annotations(tmp_path)["cow"]
    assert found.frames == [0, 6]
    assert found.joints[0, 0].tolist() == [30.5, 10.5]
    assert found.area.tolist() == [600, 600]
    assert not found.visible[:, 34].any()
    assert found.visible.sum() == 72
    (sequence,) = BADJA().sequences(tmp_path)
    assert sequence.source == davis / "JPEGImages" / "480p" / "cow"


def test_bad_input_for_badja(tmp_path: Path) -> None:
    bench, truth = BADJA(), animal()
    tracks = {frame: joints for frame, joints in zip(truth.frames, truth.joints)}
    with pytest.raises(OSError, match="cat: frame 10 is missing"):
        bench.score({"cat": {0: tracks[0], 5: tracks[5]}}, {"cat": truth})
    with pytest.raises(OSError, match="3 joints in the results, not 37"):
        bench.score({"cat": {**tracks, 5: tracks[5][:3]}}, {"cat": truth})
    with pytest.raises(OSError, match="nothing to score"):
        bench.score({}, {"cat": truth})
    truth.area[1] = np.nan
    with pytest.raises(OSError, match="scale joints"):
        bench.score({"cat": tracks}, {"cat": truth})
    with pytest.raises(FileNotFoundError, match=r"neither badja_480p\.json nor"):
        bench.annotations(tmp_path)
    for content in ("{", '{"a": [[1, 2]]}', '{"1": [[1, "x"]]}', "[1]"):
        (tmp_path / "cat.json").write_text(content)
        with pytest.raises(OSError, match=r"cat\.json: not"):
            bench.read(tmp_path)
    with pytest.raises(ValueError, match="37 points"):
        bench.write("cat", {0: Target(ids=np.array([1]))}, tmp_path)


def test_joints_at_zero_are_not_annotated_where_nothing_says_who_is_visible(tmp_path: Path) -> None:
    xy = [[0.0, 0.0]] * 36 + [[5.0, 6.0]]
    entry: dict[str, Any] = {"width": 20, "height": 10, "frames": [{"frame": 0, "xy": xy}, {"frame": 3, "xy": xy}]}
    (tmp_path / "badja_480p.json").write_text(json.dumps({"cows": entry}))
    found = BADJA(scale="joints").annotations(tmp_path)["cows"]
    assert found.visible.sum(1).tolist() == [1, 1]
    del entry["frames"][0]["xy"]
    (tmp_path / "badja_480p.json").write_text(json.dumps({"cows": entry}))
    with pytest.raises(OSError, match=r"badja_480p\.json: cows: 'xy' is missing"):
        BADJA(scale="joints").annotations(tmp_path)
