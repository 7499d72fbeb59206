"""Lists and layouts of action recognition, made here; files of results; top-1 and top-5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dropmae import evaluate, registry, score
from dropmae.benchmarks._actions import ClassLabels, held_out
from dropmae.benchmarks.motions import Motions, rendered
from dropmae.metrics.classes import Views
from dropmae.target import Target


def bench(name: str, **fields: Any) -> Any:
    return registry.load("benchmarks", name)(**fields)


def put(root: Path, *names: str) -> None:
    """Empty files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def told(sequences: Any) -> dict[str, str]:
    return {one.name: next(iter(one.targets[0].classes)) for one in sequences}


def test_folders_of_classes_are_split_by_groups(tmp_path: Path) -> None:
    put(
        tmp_path,
        *(f"{name}/v_{name}_g{g:02d}_c{c:02d}.avi" for name in ("Run", "Sit") for g in range(12) for c in (1, 2)),
    )
    put(tmp_path, "Run/readme.txt", "Run/.hidden.avi", "stray.avi")
    parts = [told(bench("actions").sequences(tmp_path, split)) for split in ("train", "test")]
    assert not parts[0].keys() & parts[1].keys()
    assert len(parts[0]) + len(parts[1]) == 48
    assert parts[1] == told(bench("actions").sequences(tmp_path))
    assert all(label == name.split("/")[0] for part in parts for name, label in part.items())
    assert not {name[:-4] for name in parts[0]} & {name[:-4] for name in parts[1]}
    assert held_out("Run/a_g01_c01") == held_out("Run/a_g01_c07")
    with pytest.raises(FileNotFoundError, match="no videos; expected class/video"):
        bench("actions").sequences(tmp_path / "Run")
    with pytest.raises(ValueError, match="splits are train and test"):
        bench("actions").sequences(tmp_path, "dev")


def test_folders_of_splits(tmp_path: Path) -> None:
    put(tmp_path, "train/Run/a.mp4", "val/Run/b.mp4", "val/Sit/c.mp4")
    assert told(bench("actions").sequences(tmp_path)) == {"val/Run/b": "Run", "val/Sit/c": "Sit"}
    assert told(bench("actions").sequences(tmp_path, "train")) == {"train/Run/a": "Run"}


def test_universal_lists(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    put(tmp_path, "clips/a b.mp4", "clips/c.mp4")
    (tmp_path / "val.csv").write_text("clips/a b.mp4 1\nclips/c.mp4 0\n\nclips/gone.mp4 0\n")
    found = bench("actions")
    assert told(found.sequences(tmp_path)) == {"clips/a b": "1", "clips/c": "0"}
    assert "2 of 3 videos are there" in capsys.readouterr().err
    assert len(found.annotations(tmp_path)) == 3
    (tmp_path / "labels.txt").write_text("run\nsit\n")
    assert told(found.sequences(tmp_path))["clips/a b"] == "sit"
    assert found.annotations(tmp_path).classes == ("run", "sit")
    (tmp_path / "val.csv").write_text("clips/c.mp4 7\n")
    with pytest.raises(OSError, match=r"class '7' of clips/c.mp4 is none of the 2"):
        found.sequences(tmp_path)
    (tmp_path / "val.csv").write_text("clips/c.mp4\n")
    with pytest.raises(OSError, match="line 1: a line is `path label`"):
        found.sequences(tmp_path)


def test_kinetics(tmp_path: Path) -> None:
    head = "label,youtube_id,time_start,time_end,split\n"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.csv").write_text(
        head + 'zumba,aaa,1,11,train\n"abseiling",bbb,2,12,train\n"""air, drumming""",ccc,0,10,train\n'
    )
    (tmp_path / "annotations" / "val.csv").write_text(head + "zumba,x-_1,5,15,val\nzumba,gone,5,15,val\n")
    put(tmp_path, "val/zumba/x-_1_000005_000015.mp4", "train/abseiling/bbb_000002_000012.mp4")
    found = bench("kinetics")
    assert told(found.sequences(tmp_path)) == {"x-_1_000005_000015": "zumba"}
    assert told(found.sequences(tmp_path, "train")) == {"bbb_000002_000012": "abseiling"}
    assert found.annotations(tmp_path).classes == ("abseiling", "air, drumming", "zumba")
    (tmp_path / "annotations" / "val.csv").write_text("a b\n")
    with pytest.raises(OSError, match="expected the columns label"):
        found.sequences(tmp_path)


def test_something_something(tmp_path: Path) -> None:
    labels = {"Putting something on something": "1", "Folding something": "0"}
    items = [
        {"id": "7", "label": "putting a cup on a table", "template": "Putting [something] on [something]"},
        {"id": "8", "label": "folding a towel", "template": "Folding [something]"},
    ]
    for part, held in (("labels", labels), ("validation", items)):
        (tmp_path / f"something-something-v2-{part}.json").write_text(json.dumps(held))
    put(tmp_path, "20bn-something-something-v2/7.webm", "20bn-something-something-v2/8.webm")
    found = bench("ssv2")
    assert told(found.sequences(tmp_path)) == {"7": "Putting something on something", "8": "Folding something"}
    assert found.annotations(tmp_path).classes == ("Folding something", "Putting something on something")
    (tmp_path / "something-something-v2-validation.json").write_text(json.dumps([{"id": "9", "template": "Eating"}]))
    with pytest.raises(OSError, match="9 is of the class 'Eating', which the labels do not have"):
        found.sequences(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no something-something-v2-train\.json"):
        found.sequences(tmp_path, "train")


def test_ucf101(tmp_path: Path) -> None:
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("Archery/v_Archery_g08_c01.avi 1\nSurf/v_Surf_g08_c01.avi 2\n")
    (lists / "testlist01.txt").write_text("Surf/v_Surf_g01_c01.avi\n")
    put(tmp_path / "UCF-101", "Archery/v_Archery_g08_c01.avi", "Surf/v_Surf_g08_c01.avi", "Surf/v_Surf_g01_c01.avi")
    found = bench("ucf101")
    assert told(found.sequences(tmp_path)) == {"Surf/v_Surf_g01_c01": "Surf"}
    assert told(found.sequences(tmp_path, "train"))["Archery/v_Archery_g08_c01"] == "Archery"
    assert found.annotations(tmp_path).classes == ("Archery", "Surf")
    with pytest.raises(FileNotFoundError, match="no trainlist02"):
        bench("ucf101", fold=2).sequences(tmp_path)


def test_hmdb51(tmp_path: Path) -> None:
    lists = tmp_path / "testTrainMulti_7030_splits"
    lists.mkdir()
    (lists / "brush_hair_test_split1.txt").write_text("a!(b)#&.avi 1 \nc.avi 2 \nd.avi 0 \n")
    (lists / "wave_test_split1.txt").write_text("c.avi 2\n")
    put(tmp_path / "hmdb51_org", "brush_hair/a!(b)#&.avi", "brush_hair/c.avi", "brush_hair/d.avi", "wave/c.avi")
    found = bench("hmdb51")
    assert told(found.sequences(tmp_path)) == {"brush_hair/c": "brush_hair", "wave/c": "wave"}
    assert told(found.sequences(tmp_path, "train")) == {"brush_hair/a!(b)#&": "brush_hair"}
    assert [str(one.source.parent.name) for one in found.sequences(tmp_path)] == ["brush_hair", "wave"]


# -------------------------------------------------------------------- results


def test_results_go_through_files_view_by_view(tmp_path: Path) -> None:
    classes = tuple(f"c{number}" for number in range(7))
    truth = ClassLabels(classes, [("a/x", None, "c0"), ("a/y", None, "c1"), ("a/z", None, "c6")])
    first = np.eye(7)[[0, 0]] * 0.93 + 0.01
    second = np.array([[0.9, 0.1, 0, 0, 0, 0, 0], [0.0, 0.85, 0.15, 0, 0, 0, 0]])  # the views differ, the mean is right
    found = bench("actions")
    for name, views in (("a/x", first), ("a/y", second)):
        empty = Target(ids=np.zeros(0, np.int64))
        last = Target(ids=np.zeros(0, np.int64), classes=Views(classes, views))
        found.write(name, {0: empty, 1: last}, tmp_path)
    results = found.read(tmp_path, truth)
    np.testing.assert_allclose(results["a/y"].views, second, atol=1e-6)
    report = found.score(results, truth)
    assert report["top1"] == 1.0  # .475 against .45
    assert report["view_top1"] == 0.75
    assert [view["top1"] for view in report["views"]] == [0.5, 1.0]
    assert report["top5"] == report["view_top5"] == 1.0
    assert report["mean_class"] == 1.0
    assert (report["videos"], report["expected"], report["missing"]) == (2, 3, ["a/z"])
    assert report["sequences"]["a/y"]["predicted"] == "c1"
    (tmp_path / "a" / "z.json").write_text(json.dumps({"classes": ["c1"], "views": [[1.0]]}))
    with pytest.raises(OSError, match="a/z: its class 'c6' is none of the 1 of the results"):
        found.score(found.read(tmp_path, truth), truth)
    (tmp_path / "a" / "z.json").write_text(json.dumps({"classes": ["c1"], "views": [[1.0, 2.0]]}))
    with pytest.raises(OSError, match="views are rows of 1 probabilities"):
        found.read(tmp_path, truth)
    for views, reason in (
        ([[-5, 0.5]], "rows of 2 probabilities"),
        ([[0.4, 0.6]], "two of its 2 classes have one name"),
    ):
        (tmp_path / "a" / "z.json").write_text(json.dumps({"classes": ["c6", "c6"], "views": views}))
        with pytest.raises(OSError, match=rf"z\.json: .*{reason}"):
            found.read(tmp_path, truth)


def test_files_of_videomae_are_scored(tmp_path: Path) -> None:
    put(tmp_path / "data", "x/clip.mp4", "y/other.mp4")
    (tmp_path / "data" / "test.csv").write_text("x/clip.mp4 1\ny/other.mp4 0\n")
    # Of three views two say 0 a little, one says 1 for certain; a repeated one counts once.
    lines = ["89.1, 97.0", "clip [0.1, 0.0] 1 0 0", "clip [0.1, 0.0] 1 1 0", "clip [0.0, 9.0] 1 2 0"]
    lines += ["clip [0.1, 0.0] 1 0 0", "other [2.0, 0.0] 0 0 0"]
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "0.txt").write_text("\n".join(lines) + "\n")
    report = score("actions", results=tmp_path / "results", root=tmp_path / "data", workers=1)
    assert report["top1"] == 1.0
    assert report["view_top1"] == pytest.approx((1 / 3 + 1) / 2)
    (tmp_path / "results" / "0.txt").write_text("clip [0.1] 1 0 0\n")
    with pytest.raises(OSError, match="1 scores for 2 classes"):
        score("actions", results=tmp_path / "results", root=tmp_path / "data", workers=1)
    for scores in ("0.1, nan", "0.1, x"):  # a score that is none would count as the right class's
        (tmp_path / "results" / "0.txt").write_text(f"clip [{scores}] 1 0 0\n")
        with pytest.raises(
            OSError, match=r"0\.txt, line 1: (2 scores for 2 classes, or one is none|could not convert)"
        ):
            score("actions", results=tmp_path / "results", root=tmp_path / "data", workers=1)
    put(tmp_path / "data", "y/clip.mp4")
    (tmp_path / "data" / "test.csv").write_text("x/clip.mp4 1\ny/clip.mp4 0\n")
    (tmp_path / "results" / "0.txt").write_text("clip [0.1, 0.0] 1 0 0\n")
    with pytest.raises(OSError, match=r"0\.txt, line 1: clip may be x/clip or y/clip; name the path"):
        score("actions", results=tmp_path / "results", root=tmp_path / "data", workers=1)
    (tmp_path / "results" / "0.txt").write_text("x/clip [0.1, 0.0] 1 0 0\n")
    assert score("actions", results=tmp_path / "results", root=tmp_path / "data", workers=1)["top1"] == 0.0


def test_a_damaged_video_is_named_and_not_replaced(tmp_path: Path) -> None:
    put(tmp_path / "data", "test/x/bad.mp4", "train/x/a.npy", "train/y/b.npy")
    for name in ("train/x/a", "train/y/b", "test/y/good"):
        path = tmp_path / "data" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))
    with pytest.raises(OSError, match=r"1 of 2 sequences could not be followed: .*bad\.mp4"):
        evaluate("actions", root=tmp_path / "data", weights="random:tiny:mae:0:32", out=tmp_path / "out", workers=1,
                 set=("image=32", "frames=2", "stride=1"))  # fmt: skip
    report = score("actions", results=tmp_path / "out" / "predictions", root=tmp_path / "data", workers=1)
    assert report["missing"] == ["test/x/bad"]


def test_only_motion_tells_the_classes_apart() -> None:
    rng = np.random.default_rng(3)
    for way, (down, right) in {"right": (0, 1), "up": (-1, 0), "still": (0, 0)}.items():
        clip = rendered(way, rng, 8, 32).astype(float)
        errors = {}
        for name, (y, x) in {"right": (0, 1), "left": (0, -1), "up": (-1, 0), "down": (1, 0), "still": (0, 0)}.items():
            shifted = np.roll(clip[:-1], (2 * y, 2 * x), (1, 2))
            errors[name] = np.abs(shifted - clip[1:])[:, 4:-4, 4:-4].mean()
        assert min(errors, key=lambda name: errors[name]) == way, (down, right, errors)
    clips = {order: Motions(order=order).sequences(Path())[1].video[:] for order in ("forward", "first", "shuffled")}
    frames = {order: [frame.tobytes() for frame in video] for order, video in clips.items()}
    assert set(frames["first"]) == {frames["forward"][0]}
    assert sorted(frames["shuffled"]) == sorted(frames["forward"])
    assert len(Motions().sequences(Path())) == len(Motions().annotations(Path())) == 500
