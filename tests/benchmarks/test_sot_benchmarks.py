"""The single-object tracking benchmarks: layouts, results in anybody's files, submissions, published numbers."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dropmae import registry
from dropmae.benchmarks._onepass import OnePass
from dropmae.cli import main
from dropmae.data.clips import Sequence
from dropmae.formats.boxes import format_boxes, parse_boxes, read_json
from dropmae.formats.tracks import Result, Track, Truth, boxes_of
from dropmae.target import Target
from dropmae.visualize.plots import draw_plots

NAMES = ["got10k", "itb", "lasot", "lasot_ext", "nfs", "otb", "tld", "tnl2k", "trackingnet", "uav123"]
FRAMES = 12


def benchmark(name: str, **settings: Any) -> OnePass:
    return registry.load("benchmarks", name)(**settings)


def path_of(number: int, frames: int = FRAMES) -> np.ndarray:
    """A published track: whole numbers, first pixel 1, all above 0."""
    steps = np.arange(frames)[:, None]
    return np.array([[10 + number, 20, 30, 24]]) + steps * np.array([[2, 1, 0, 0]])


def text(boxes: np.ndarray, delimiter: str = ",") -> str:
    return "".join(delimiter.join(str(value) for value in row) + "\n" for row in boxes)


def images(folder: Path, first: int = 1, frames: int = FRAMES, digits: int = 4) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + frames):
        Image.fromarray(np.full((8, 8, 3), number % 256, np.uint8)).save(folder / f"{number:0{digits}d}.png")


def put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def make_otb(root: Path) -> None:
    put(root / "Couple" / "groundtruth_rect.txt", text(path_of(0), "\t"))
    images(root / "Couple" / "img")
    put(root / "Jogging" / "groundtruth_rect.1.txt", text(path_of(1)))
    put(root / "Jogging" / "groundtruth_rect.2.txt", text(path_of(2), " "))
    images(root / "Jogging" / "img")
    put(root / "Human4" / "groundtruth_rect.1.txt", "")
    put(root / "Human4" / "groundtruth_rect.2.txt", text(path_of(3)))
    images(root / "Human4" / "img")
    put(root / "BlurCar3" / "groundtruth_rect.txt", text(path_of(4)))
    images(root / "BlurCar3" / "img", 1, FRAMES + 2)
    put(root / "att" / "Couple.txt", "0,0,1,0,1,0,1,0,0,1,0\n")


def make_lasot(root: Path, classes: tuple[str, ...] = ("airplane", "zebra")) -> None:
    for number, name in enumerate(f"{cls}-{k}" for cls in classes for k in (1, 2)):
        folder = root / name.split("-")[0] / name
        put(folder / "groundtruth.txt", text(path_of(number)))
        put(folder / "full_occlusion.txt", ",".join("1" if t == 5 else "0" for t in range(FRAMES)))
        put(folder / "out_of_view.txt", ",".join("1" if t == 6 else "0" for t in range(FRAMES)) + "\n")
        images(folder / "img", digits=8)


def make_lasot_ext(root: Path) -> None:
    make_lasot(root, ("atv", "rhino"))
    make_lasot(root, ("airplane",))


def make_tnl2k(root: Path) -> None:
    for number, name in enumerate(("Game_one", "INF_two")):
        boxes = path_of(number)
        boxes[4] = 0
        put(root / name / "groundtruth.txt", text(boxes))
        images(root / name / "imgs", digits=5)


def make_trackingnet(root: Path) -> None:
    for part in ("TEST", "TRAIN_0"):
        for number, name in enumerate(("abc_0", "def_1")):
            put(root / part / "anno" / f"{name}.txt", text(path_of(number).astype(float)))
            images(root / part / "frames" / name, 0, digits=1)


def make_got10k(root: Path) -> None:
    for split in ("val", "test"):
        names = [f"GOT-10k_{split.title()}_{number:06d}" for number in (1, 2)]
        put(root / split / "list.txt", "\n".join(names))
        for number, name in enumerate(names):
            folder = root / split / name
            images(folder, digits=8)
            boxes = path_of(number).astype(float)
            put(folder / "groundtruth.txt", text(boxes if split == "val" else boxes[:1]))
            if split == "val":
                put(folder / "absence.label", "\n".join("1" if t == 7 else "0" for t in range(FRAMES)))
                put(folder / "cover.label", "\n".join("0" if t == 7 else "8" for t in range(FRAMES)))
                put(folder / "meta_info.ini", "[METAINFO]\nurl: x\nresolution: (640, 360)\n")


def make_uav123(root: Path) -> None:
    for number, (name, frames) in enumerate((("car1_1", 6), ("car1_2", 7), ("car1_s", FRAMES), ("bike1", FRAMES))):
        boxes = path_of(number, frames)
        lines = text(boxes).splitlines()
        lines[3] = "NaN,NaN,NaN,NaN"
        put(root / "anno" / "UAV123" / f"{name}.txt", "\n".join(lines))
        put(root / "anno" / "UAV123" / "att" / f"{name}.txt", ",".join("1" if k == number else "0" for k in range(12)))
    images(root / "data_seq" / "UAV123" / "car1", 1, 12, 6)
    for name in ("car1_s", "bike1"):
        images(root / "data_seq" / "UAV123" / name, digits=6)


def make_nfs(root: Path) -> None:
    for number, name in enumerate(("bee", "dog_1")):
        put(root / "anno" / f"nfs_{name}.txt", text(path_of(number), "\t"))
        images(root / "sequences" / name, digits=5)


def make_itb(root: Path) -> None:
    for number, name in enumerate(("animal/cat_a", "sport/ball_b")):
        put(root / name / "groundtruth.txt", text(path_of(number)))
        images(root / name)


def make_tld(root: Path) -> None:
    for number, name in enumerate(("car", "jumping")):
        boxes = path_of(number)
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - 1], 1)
        lines = text(corners).splitlines()
        lines[8] = "NaN,NaN,NaN,NaN"
        put(root / name / "gt.txt", "\n".join(lines) + "\n")
        put(root / name / "init.txt", lines[0])
        images(root / name)


@pytest.fixture
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    globals()[f"make_{request.param}"](tmp_path / request.param)
    return tmp_path / request.param


def each(names: list[str] = NAMES) -> pytest.MarkDecorator:
    """Runs a test on the made-up folder of each benchmark, as `root`."""
    return pytest.mark.parametrize(("name", "root"), [(name, name) for name in names], indirect=["root"])


def follow(sequence: Sequence, shift: float = 0.0) -> dict[int, Target]:
    """Predictions that are the truth moved to the right, with the last known box where the truth is absent."""
    targets, box = {}, np.zeros(4)
    for frame, target in sequence.targets.items():
        box = box if np.isnan(target.box()).any() else target.box()
        targets[frame] = boxed(box + np.array([shift, 0, 0, 0]))
    return targets


def boxed(box: np.ndarray) -> Target:
    """The prediction of one box [4]."""
    return Target(ids=np.ones(1, np.int64), boxes=np.asarray(box, np.float64)[None])


# ------------------------------------------------------------ every benchmark


@each()
def test_sequences_have_a_box_or_nan_for_every_frame(name: str, root: Path):
    bench = benchmark(name)
    sequences = bench.sequences(root)
    assert len({sequence.name for sequence in sequences}) == len(sequences) >= 2
    for sequence in sequences:
        assert len(sequence.video) == len(sequence.targets)
        assert sequence.video[0].shape == (8, 8, 3)
        first = sequence.targets[0]
        assert first.boxes is not None
        assert first.boxes.shape == (1, 4)
        assert first.boxes.dtype == np.float64
        assert first.ids.tolist() == [1]
        assert np.isfinite(first.boxes).all()
        with pytest.raises(KeyError):
            sequence.targets[len(sequence.targets)]


@each()
def test_written_results_are_read_and_scored(name: str, root: Path, tmp_path: Path):
    bench = benchmark(name)
    out = tmp_path / "results"
    for sequence in bench.sequences(root):
        bench.write(sequence.name, follow(sequence, 1), out, [0.1] * len(sequence.targets))
    annotations = bench.annotations(root)
    results = bench.read(out, annotations)
    report = bench.score(results, annotations)
    json.dumps(report, allow_nan=False)
    assert report["benchmark"] == name
    assert report["protocol"] in bench.RULES
    assert report["count"] == len(annotations) == len(report["sequences"])
    assert report["fps"] == pytest.approx(10)
    assert 0.5 < report["success_auc"] < 1
    direct = bench.score({s.name: follow(s, 1) for s in bench.sequences(root)}, annotations)
    assert direct["success_auc"] == pytest.approx(report["success_auc"], abs=1e-12)


@each()
def test_protocols_side_by_side(name: str, root: Path, tmp_path: Path):
    bench = benchmark(name, protocol="all")
    results = {sequence.name: follow(sequence, 2) for sequence in bench.sequences(root)}
    report = bench.score(results, bench.annotations(root))
    assert list(report["protocols"]) == list(bench.RULES)
    scored = {key: found for key, found in report["protocols"].items() if "error" not in found}
    for protocol, found in scored.items():
        assert found["protocol"] == protocol
        alone = benchmark(name, protocol=protocol).score(results, bench.annotations(root))
        assert alone["success_auc"] == found["success_auc"]
    assert report["protocol"] == next(iter(scored))
    assert all(found["curves"] for found in scored.values())
    json.dumps(report, allow_nan=False)


@each()
def test_a_wrong_root_says_what_was_expected(name: str, root: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(FileNotFoundError, match=r"elsewhere.*expected") as error:
        benchmark(name).annotations(tmp_path / "elsewhere")
    assert "\n" not in str(error.value)
    with pytest.raises((ValueError, FileNotFoundError)):
        benchmark(name).sequences(root, "holiday")


@each()
def test_missing_results_are_named(name: str, root: Path, tmp_path: Path):
    bench, out = benchmark(name), tmp_path / "results"
    annotations = bench.annotations(root)
    with pytest.raises(FileNotFoundError, match="no such folder of results"):
        bench.read(out, annotations)
    out.mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no \.txt"):
        bench.read(out, annotations)
    first, *others = bench.sequences(root)
    bench.write(first.name, follow(first), out)
    with pytest.raises(FileNotFoundError, match=f"no result for {len(others)} of .*{others[0].name}"):
        bench.read(out, annotations)
    some = benchmark(name, partial=True)
    report = some.score(some.read(out, annotations), annotations)
    assert report["missing"] == ([] if name == "trackingnet" else [sequence.name for sequence in others])


@each()
def test_an_empty_or_broken_result_is_one_line(name: str, root: Path, tmp_path: Path):
    bench, out = benchmark(name), tmp_path / "results"
    for sequence in bench.sequences(root):
        bench.write(sequence.name, follow(sequence), out)
    victim = sorted(out.rglob("*.txt"))[0]
    broken = {"": "empty", "1,2,3\n": "line 1", "1,2,3,4\n5,6,x,8\n": "line 2", "a b c d\n": "line 1"}
    for content, reason in broken.items():
        victim.write_text(content)
        with pytest.raises(OSError, match=f"{victim.name}: .*{reason}") as error:
            bench.read(out, bench.annotations(root))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_documented(name: str):
    cls = registry.load("benchmarks", name)
    docs = registry.field_docs(cls)
    assert all(docs.get(field) for field, _, _ in registry.fields(cls))
    assert registry.settings(cls(**registry.settings(cls()))) == registry.settings(cls())


def test_a_protocol_that_a_benchmark_lacks():
    with pytest.raises(ValueError, match="'official' is not a protocol of nfs; there are: pytracking"):
        benchmark("nfs", protocol="official")


# ------------------------------------------------------------ results in anybody's files


@pytest.mark.parametrize("delimiter", [",", "\t", " ", ", ", ";", "  "])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_delimiters(delimiter: str, newline: str):
    lines = [delimiter.join(row) for row in (["1", "2.5", "3e1", "4"], ["NaN", "nan", "NaN", "NaN"])]
    boxes = parse_boxes(newline.join([*lines, ""]), "a file")
    np.testing.assert_array_equal(boxes, [[1, 2.5, 30, 4], [np.nan] * 4])


@each(["otb"])
def test_names_match_in_every_way_they_are_written(name: str, root: Path, tmp_path: Path):
    bench, out = benchmark(name), tmp_path / "results"
    annotations = bench.annotations(root)
    assert sorted(annotations) == ["BlurCar3", "Couple", "Human4_2", "Jogging_1", "Jogging_2"]
    files = ("blurcar3", "COUPLE", "human4", "jogging-1", "Jogging.2")
    for file, track in zip(files, (annotations[key] for key in sorted(annotations))):
        put(out / f"{file}.txt", text(track.boxes, "\t"))
    report = bench.score(bench.read(out, annotations), annotations)
    assert report["success_auc"] == pytest.approx(20 / 21)
    put(out / "copy" / "couple.txt", text(path_of(0)))
    with pytest.raises(OSError, match="two files for Couple"):
        bench.read(out, annotations)


def test_results_in_a_zip(tmp_path: Path):
    make_trackingnet(tmp_path / "t")
    bench = benchmark("trackingnet", submission=tmp_path / "deep" / "s.zip")
    annotations = bench.annotations(tmp_path / "t")
    report = bench.score({key: track.boxes for key, track in annotations.items()}, annotations)
    assert report["success_auc"] == report["precision"] == report["norm_precision"] == report["coverage"] == 1
    assert report["packed"] == 2
    plain = benchmark("trackingnet")
    assert plain.score(plain.read(tmp_path / "deep" / "s.zip", annotations), annotations)["success_auc"] == 1


@each(["otb", "lasot", "uav123", "tld"])
def test_first_pixel_is_one_in_files_and_zero_in_targets(name: str, root: Path, tmp_path: Path):
    bench = benchmark(name)
    sequence = bench.sequences(root)[0]
    assert isinstance(sequence.targets, Truth)
    published, ours = sequence.targets.track.boxes[0], sequence.targets[0].box()
    assert (published - ours).tolist() == [1, 1, 0, 0]
    bench.write(sequence.name, follow(sequence), tmp_path / "results")
    written = parse_boxes((tmp_path / "results" / f"{sequence.name}.txt").read_text(), "")
    assert written[0].tolist() == published.tolist()
    plain = benchmark(name, unshifted=True)
    sequence = plain.sequences(root)[0]
    assert sequence.targets[0].box().tolist() == published.tolist()
    plain.write(sequence.name, follow(sequence), tmp_path / "results")
    assert parse_boxes((tmp_path / "results" / f"{sequence.name}.txt").read_text(), "").tolist() == written.tolist()


def test_truncation_cuts_toward_zero_in_files_and_scores(tmp_path: Path):
    make_tnl2k(tmp_path / "t")
    targets = {0: boxed(np.array([10.9, -3.9, 30.5, 20.1]))}
    bench = benchmark("tnl2k", truncate=True)
    bench.write("Game_one", targets, tmp_path)
    assert (tmp_path / "Game_one.txt").read_text() == "10,-3,30,20\n"
    benchmark("tnl2k").write("Game_one", targets, tmp_path)
    assert (tmp_path / "Game_one.txt").read_text() == "10.900,-3.900,30.500,20.100\n"
    annotations = bench.annotations(tmp_path / "t")
    moved = {key: track.boxes + 0.9 for key, track in annotations.items()}
    assert bench.score(moved, annotations)["truncated"] is True
    whole = benchmark("tnl2k").score({key: track.boxes for key, track in annotations.items()}, annotations)
    assert bench.score(moved, annotations)["success_auc"] == whole["success_auc"]
    assert benchmark("tnl2k").score(moved, annotations)["success_auc"] < whole["success_auc"]


def test_nan_and_inf_are_misses_and_never_reach_the_json():
    boxes = path_of(0).astype(float)
    result = boxes.copy()
    result[3], result[4, 2] = np.nan, np.inf
    lost = Track(boxes=np.full((4, 4), np.nan))
    for name, protocol in (("trackingnet", "official"), ("nfs", "got10k"), ("itb", "pysot")):
        bench = benchmark(name, protocol=protocol)
        found = bench.score({"a": result}, {"a": Track(boxes=boxes)})
        assert found["success_50"] == pytest.approx(10 / 12)
    both = benchmark("nfs", protocol="got10k").score({"a": boxes, "b": boxes[:4]}, {"a": Track(boxes=boxes), "b": lost})
    assert both["sequences"]["b"]["success_auc"] is None
    json.dumps(both, allow_nan=False)


def test_a_lost_object_keeps_its_last_box(tmp_path: Path):
    box, lost = np.array([1.0, 2, 3, 4]), boxed(np.full(4, np.nan))
    targets = {0: boxed(box), 1: lost, 3: boxed(box + 1)}
    assert boxes_of(targets, "x").tolist() == [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [2, 3, 4, 5]]
    with pytest.raises(ValueError, match="no box in frame 0"):
        boxes_of({0: lost}, "x")
    with pytest.raises(ValueError, match="no box in frame 0"):
        boxes_of({}, "x")


def test_a_result_that_the_toolkit_refuses_is_one_line(tmp_path: Path):
    make_lasot(tmp_path)
    bench = benchmark("lasot", partial=True)
    annotations = bench.annotations(tmp_path)
    with pytest.raises(
        OSError, match="zebra-1: only 5 boxes for 12 frames, which the LaSOT MATLAB toolkit does not take"
    ):
        bench.score({"zebra-1": path_of(2)[:5]}, annotations)
    both = benchmark("lasot", protocol="all").score({"zebra-1": path_of(2)[:5]}, annotations)
    assert both["protocol"] == "got10k"
    assert "only 5 boxes" in both["protocols"]["official"]["error"]
    with pytest.raises(OSError, match="none of the 4 sequences"):
        bench.score({"nothing": path_of(2)}, annotations)


# ------------------------------------------------------------ layouts with something of their own


def test_otb_uses_the_images_that_its_annotation_is_of(tmp_path: Path):
    make_otb(tmp_path)
    found = {sequence.name: sequence for sequence in benchmark("otb").sequences(tmp_path)}
    assert found["BlurCar3"].video[0][0, 0, 0] == 3  # the images before the third are not annotated
    assert benchmark("otb").annotations(tmp_path)["Couple"].attributes == ("SV", "DEF", "FM", "BC")


def test_attributes_are_averaged_over_their_sequences(tmp_path: Path):
    make_otb(tmp_path)
    bench = benchmark("otb")
    results = {sequence.name: follow(sequence, 3) for sequence in bench.sequences(tmp_path)}
    report = bench.score(results, bench.annotations(tmp_path))
    assert report["attributes"]["SV"]["count"] == 1
    assert report["attributes"]["SV"]["success_auc"] == pytest.approx(report["sequences"]["Couple"]["success_auc"])


def test_tiger1_begins_later_for_pytracking():
    boxes = path_of(0, 20)
    moved = boxes.copy()
    moved[:5] += 500
    annotations = {"Tiger1": Track(boxes=boxes)}
    for result in (moved, boxes[5:]):
        found = benchmark("otb", protocol="pytracking").score({"Tiger1": result}, annotations)
        assert found["success_50"] == 1
    assert benchmark("otb").score({"Tiger1": moved}, annotations)["success_50"] == pytest.approx(16 / 20)


def test_lasot_splits_and_toolkit_annotations(tmp_path: Path):
    make_lasot(tmp_path)
    bench = benchmark("lasot")
    assert [s.name for s in bench.sequences(tmp_path)] == ["airplane-1", "airplane-2", "zebra-1", "zebra-2"]
    with pytest.raises(FileNotFoundError, match="testing_set"):
        bench.sequences(tmp_path, "train")
    put(tmp_path / "testing_set.txt", "airplane-2\nzebra-1")
    assert [s.name for s in bench.sequences(tmp_path)] == ["airplane-2", "zebra-1"]
    assert [s.name for s in bench.sequences(tmp_path, "train")] == ["airplane-1", "zebra-2"]
    absent = bench.annotations(tmp_path)["zebra-1"].absent
    assert absent is not None
    assert np.flatnonzero(absent).tolist() == [5, 6]
    assert np.isnan(bench.sequences(tmp_path)[0].targets[5].box()).all()
    annos = tmp_path / "toolkit" / "annos"
    for part in ("", "absent/", "att/"):
        content = {"": text(path_of(0)), "absent/": "0\n" * 11 + "1\n", "att/": "1,0,0,0,0,0,0,0,0,0,0,0,0,1"}[part]
        put(annos / f"{part}zebra-1.txt", content)
    track = bench.annotations(tmp_path / "toolkit")["zebra-1"]
    assert track.attributes == ("IV", "ARC")
    assert track.absent is not None
    assert track.absent.tolist() == [False] * 11 + [True]


def test_lasot_ext_leaves_out_the_other_classes(tmp_path: Path):
    make_lasot_ext(tmp_path)
    assert [s.name for s in benchmark("lasot_ext").sequences(tmp_path)] == ["atv-1", "atv-2", "rhino-1", "rhino-2"]


def test_tnl2k_toolkit_annotations(tmp_path: Path):
    put(tmp_path / "annos" / "gt_rect" / "a.txt", text(path_of(0)))
    put(tmp_path / "annos" / "absent" / "a.txt", "0\n" * 12 + "1\n")  # one flag too many, as in the original
    put(tmp_path / "annos" / "att" / "a_attribute.txt", "\n".join(["0"] * 16 + ["1"]))
    track = benchmark("tnl2k").annotations(tmp_path)["a"]
    assert track.attributes == ("MS",)
    assert track.absent is not None
    assert not track.absent.any()
    assert len(track.absent) == 12


def test_uav123_pieces_begin_with_the_last_image_of_the_piece_before(tmp_path: Path):
    make_uav123(tmp_path)
    found = {sequence.name: sequence for sequence in benchmark("uav123").sequences(tmp_path)}
    assert found["car1_1"].video[0][0, 0, 0] == 1
    assert found["car1_2"].video[0][0, 0, 0] == 6
    assert len(found["car1_2"].video) == 7
    assert np.isnan(found["bike1"].targets[3].box()).all()
    assert benchmark("uav123").annotations(tmp_path)["bike1"].attributes == ("FM",)


@each(["uav123", "nfs"])
def test_prefixed_names_of_pytracking(name: str, root: Path, tmp_path: Path):
    bench = benchmark(name)
    annotations = bench.annotations(root)
    for key, track in annotations.items():
        put(tmp_path / "results" / f"{bench.PREFIX}{key}.txt", text(np.nan_to_num(track.boxes, nan=1)))
    assert len(bench.read(tmp_path / "results", annotations)) == len(annotations)


def test_got10k_repetitions_times_and_server_zip(tmp_path: Path):
    make_got10k(tmp_path / "g")
    bench = benchmark("got10k")
    annotations = bench.annotations(tmp_path / "g")
    one, two = annotations
    out = tmp_path / "results"
    put(out / one / f"{one}_001.txt", text(path_of(0)))
    put(out / one / f"{one}_002.txt", text(path_of(0) + np.array([15, 0, 0, 0])))
    put(out / one / f"{one}_time.txt", "0.1,0.2\n" * FRAMES)
    put(out / f"{two}.txt", text(path_of(1), "\t"))
    results = bench.read(out, annotations)
    report = bench.score(results, annotations)
    assert [len(result.runs) for result in results.values()] == [2, 1]
    assert report["fps"] == pytest.approx(7.5)
    # 10 scored frames a run: the first is left out and so is the covered one; half of run 2 overlaps by 1/3.
    assert report["ao"] == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert report["sr50"] == pytest.approx(2 / 3)
    with pytest.raises(OSError, match="5 boxes for 12 frames"):
        bench.score({one: path_of(0)[:5]}, annotations)

    held_back = bench.annotations(tmp_path / "g", "test")
    for key in held_back:
        bench.write(key, {t: boxed(path_of(0)[t] / 3) for t in range(FRAMES)}, out, [0.5] * FRAMES)
    with pytest.raises(OSError, match="only first boxes are public"):
        bench.score(bench.read(out, held_back), held_back)
    packing = benchmark("got10k", submission=tmp_path / "s.zip")
    report = packing.score(packing.read(out, held_back), held_back)
    assert report["packed"] == 2
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        name = "GOT-10k_Test_000001"
        assert sorted(archive.namelist())[:2] == [f"{name}/{name}_001.txt", f"{name}/{name}_time.txt"]
        lines = archive.read(f"{name}/{name}_001.txt").decode().splitlines()
        assert len(lines) == FRAMES
        assert lines[0] == "3.333,6.667,10.000,8.000"
        assert archive.read(f"{name}/{name}_time.txt").decode().splitlines() == ["0.50000000"] * FRAMES


def test_trackingnet_server_zip_and_zeros_for_missing_videos(tmp_path: Path):
    make_trackingnet(tmp_path)
    bench = benchmark("trackingnet", partial=True)
    assert [s.name for s in bench.sequences(tmp_path, "train")] == ["abc_0", "def_1"]
    assert bench.sequences(tmp_path)[0].video[11][0, 0, 0] == 11  # frame 11 comes after frame 2
    annotations = bench.annotations(tmp_path)
    put(tmp_path / "results" / "abc_0.txt", text(path_of(0)))
    report = bench.score(bench.read(tmp_path / "results", annotations), annotations)
    assert report["coverage"] == pytest.approx((12 + 1) / 24)  # the first box of the missing video is the given one
    assert report["sequences"]["def_1"]["success_50"] == pytest.approx(1 / 12)
    for file in (tmp_path / "TEST" / "anno").iterdir():
        file.write_text("10.00,20.00,30.00,24.00\n")
    held_back = benchmark("trackingnet", submission=tmp_path / "s.zip")
    annotations = held_back.annotations(tmp_path)
    with pytest.raises(OSError, match="only first boxes are public"):
        bench.score({"abc_0": path_of(0)}, annotations)
    results = {"abc_0": Result(runs=[path_of(0) + 0.125]), "def_1": path_of(1)}
    assert held_back.score(results, annotations) == {
        "benchmark": "trackingnet",
        "protocol": "server",
        "submission": str(tmp_path / "s.zip"),
        "packed": 2,
    }
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert sorted(archive.namelist()) == ["abc_0.txt", "def_1.txt"]
        assert archive.read("def_1.txt").decode().splitlines()[0] == "11.00,20.00,30.00,24.00"


# ------------------------------------------------------------ annotations in JSON


def test_annotations_of_a_json_file(tmp_path: Path):
    boxes = path_of(0).tolist()
    content = {
        "jogging_1": {"name": "Jogging", "gt_rect": boxes, "image_files": [], "init_rect": boxes[0]},
        "carDark": {"name": "CarDark", "gt_rect": boxes, "absent": [1] + [0] * 11, "attr": ["IV"], "size": [640, 360]},
        "pysot": {"video_dir": "pysot", "gt_rect": boxes, "absent": [0] + [1] * 11},
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    found = benchmark("otb").annotations(tmp_path / "a.json")
    assert list(found) == ["Jogging_1", "CarDark", "pysot"]
    for name in ("CarDark", "pysot"):
        absent = found[name].absent
        assert absent is not None
        assert np.flatnonzero(absent).tolist() == [0]
    assert found["CarDark"].attributes == ("IV",)
    assert found["CarDark"].size == (640, 360)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "not annotations"),
        ("{}", "not annotations"),
        ('{"a": {}}', "a: gt_rect is not"),
        ('{"a": {"gt_rect": [[1, 2, 3]]}}', "a: gt_rect is not"),
        ('{"a": {"gt_rect": [[1, 2, 3, 4], [1]]}}', "a: gt_rect is not"),
        ('{"a": {"gt_rect": []}}', "a: gt_rect is not"),
        ('{"a": {"gt_rect": [[1, 2, 3, 4]], "absent": [0, 1]}}', "a: 2 values of absent for 1 boxes"),
    ],
)
def test_a_broken_json_is_one_line(tmp_path: Path, content: str, reason: str):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(OSError, match=reason) as error:
        read_json(tmp_path / "a.json")
    assert "a.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_plots_take_several_trackers(tmp_path: Path):
    steps = np.linspace(0, 1, 21)
    score = {"success_auc": 0.5, "curves": {"success": (1 - steps).tolist()}, "thresholds": {"success": steps.tolist()}}
    written = draw_plots({"one": score, "two": {**score, "success_auc": None}}, tmp_path, "a title")
    assert [path.name for path in written] == ["success.png"]
    assert Image.open(written[0]).size == (960, 720)


# ------------------------------------------------------------ real data


@pytest.mark.parametrize(("tracker", "success", "precision"), [("KCF", 0.477, 0.695), ("MEEM", 0.539, 0.797)])
def test_published_numbers_on_otb100(test_data: Path, tracker: str, success: float, precision: float, tmp_path: Path):
    folder = test_data / "reference-results" / "otb100"
    bench = benchmark("otb")
    annotations = bench.annotations(folder / "OTB2015_gt.json")
    report = bench.score(bench.read(folder / tracker, annotations), annotations)
    assert report["count"] == 100
    assert round(report["success_auc"], 3) == success
    assert round(report["precision_20"], 3) == precision


@pytest.mark.parametrize(("name", "count", "absent"), [("otb", 5, 0), ("tld", 3, 85)])
def test_real_folders(test_data: Path, name: str, count: int, absent: int):
    bench = benchmark(name)
    sequences = bench.sequences(test_data / "data" / name.upper())
    assert len(sequences) == count
    lost = 0
    for sequence in sequences:
        assert len(sequence.video) == len(sequence.targets)
        boxes = np.stack([target.box() for target in sequence.targets.values()])
        lost += int(np.isnan(boxes).any(1).sum())
        height, width = sequence.video[0].shape[:2]
        known = boxes[~np.isnan(boxes).any(1)]
        centres = known[:, :2] + known[:, 2:] / 2
        assert ((centres > 0) & (centres < [width, height])).all()
    assert lost == absent


def test_formatting_is_what_the_toolkits_write():
    assert format_boxes(np.array([[1.23456, 2, 3, 4]]), 3) == "1.235,2.000,3.000,4.000\n"
    assert format_boxes(np.array([[1.0, 2, 3, 4]]), 0) == "1,2,3,4\n"


# ------------------------------------------------------------ the command line


def test_score_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_otb(tmp_path / "otb")
    content = {}
    for name, track in benchmark("otb").annotations(tmp_path / "otb").items():
        content[name.lower()] = {"name": name.split("_")[0], "gt_rect": track.boxes.tolist()}
        put(tmp_path / "results" / f"{name}.txt", text(track.boxes, "\t"))
    (tmp_path / "truth.json").write_text(json.dumps(content))
    results = ["score", "otb", "--results", str(tmp_path / "results")]
    for truth in (["--root", str(tmp_path / "otb")], ["--annotations", str(tmp_path / "truth.json")]):
        assert main([*results, *truth, "--json", "--plots", str(tmp_path / "plots")]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["success_auc"] == pytest.approx(20 / 21)
        assert report["precision_20"] == pytest.approx(1)
        assert set(report["sequences"]) == {"BlurCar3", "Couple", "Human4_2", "Jogging_1", "Jogging_2"}
    assert len(list((tmp_path / "plots").iterdir())) == 3
    assert main([*results, "--root", str(tmp_path / "otb"), "--protocol", "all"]) == 0
    assert "protocol pytracking" in capsys.readouterr().err
    (tmp_path / "results" / "Couple.txt").unlink()
    for arguments, code, reason in (
        ([], 2, "either root"),
        (["--root", str(tmp_path / "plots")], 1, "no OTB sequences"),
        (["--annotations", str(tmp_path / "otb")], 1, "not a file"),
        (["--root", str(tmp_path / "otb")], 1, "no result for 1 of 5 sequences (Couple)"),
    ):
        assert main([*results, *arguments]) == code
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1


def test_polygons_become_the_boxes_that_enclose_them(tmp_path: Path) -> None:
    folder = tmp_path / "ball"
    for number in range(4):
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / f"{number + 1:08d}.jpg")
    text = "10,30,20,28,22,8,12,10\n11.5,12,10,20\n1\n10,10,20,10,15,20\n"
    (folder / "groundtruth.txt").write_text(text)
    bench = registry.load("benchmarks", "votchallenge")()
    (sequence,) = bench.sequences(tmp_path)
    assert len(sequence.video) == 4
    boxes = [sequence.targets[n].boxes[0].tolist() for n in (0, 1, 3)]
    assert boxes == [[10, 8, 12, 22], [11.5, 12, 10, 20], [10, 10, 10, 10]]
    assert np.isnan(sequence.targets[2].boxes).all()
    bench.write("ball", dict(sequence.targets.items()), tmp_path / "out")
    truth = bench.annotations(tmp_path)
    assert bench.score(bench.read(tmp_path / "out", truth), truth)["success_auc"] == pytest.approx(20 / 21)
    (tmp_path / "other").mkdir()
    (tmp_path / "list.txt").write_text("ball\n")
    assert [clip.name for clip in bench.clips(tmp_path)] == ["ball"]
    for line, message in (("m0,0,4,4,0,16", "line 1 is a mask"), ("1,2,3", "line 1 is no box"), ("", "empty")):
        (folder / "groundtruth.txt").write_text(line)
        with pytest.raises(OSError, match=message):
            bench.annotations(tmp_path)["ball"]


def test_a_real_sequence_of_polygons(test_data: Path) -> None:
    bench = registry.load("benchmarks", "votchallenge")()
    (sequence,) = bench.sequences(test_data / "data" / "test" / "VOT2015")
    assert len(sequence.video) == len(sequence.targets) == 105
    np.testing.assert_allclose(sequence.targets[0].boxes, [[246, 208.5, 23.5, 23]])
