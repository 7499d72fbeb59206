"""Evaluate: prompts, the official layout, going on after a stop, several processes, and one-line errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dropmae import registry, weights
from dropmae.data.clips import Sequence
from dropmae.engine import Engine, prompts_of, shown
from dropmae.evaluation import Evaluation, answers
from dropmae.formats.labels import read_labels, write_labels
from dropmae.loading import untrained
from dropmae.target import Target
from dropmae.tasks.propagation import Propagation
from dropmae.verbs.evaluate import evaluate, score

TAKES = ("mask", "points")
SMALL: dict[str, Any] = {"resize": "native", "context": 2, "workers": 1}


def davis(root: Path, names: tuple[str, ...] = ("one", "two"), frames: int = 3) -> Path:
    """A DAVIS root: a noise texture that moves by whole patches, with two objects on it."""
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        picture, mask = rng.integers(0, 256, (48, 96, 3), np.uint8), np.zeros((48, 96), np.uint8)
        mask[16:48, 16:32], mask[:32, 48:64] = 1, 2
        for t in range(frames):
            for kind, content, suffix in (("JPEGImages", picture, "jpg"), ("Annotations", mask, "png")):
                folder = root / kind / "480p" / name
                folder.mkdir(parents=True, exist_ok=True)
                moved = np.roll(content, 16 * t, 1)
                if suffix == "png":
                    write_labels(folder / f"{t:05d}.png", moved)
                else:
                    Image.fromarray(moved).save(folder / f"{t:05d}.jpg", quality=95)
    return root


def run(root: Path, out: Path, **settings: Any) -> dict[str, Any]:
    return evaluate("davis", root=root, weights="random:tiny", out=out, **{**SMALL, **settings})


def test_predictions_are_official_files_and_numbers_are_those_of_score(tmp_path: Path) -> None:
    report = run(davis(tmp_path / "davis"), tmp_path / "out")
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out/predictions").rglob("*.png"))
    assert files == [f"predictions/{name}/{t:05d}.png" for name in ("one", "two") for t in range(3)]
    first = read_labels(tmp_path / "out/predictions/one/00000.png")
    assert np.array_equal(first, read_labels(tmp_path / "davis/Annotations/480p/one/00000.png"))
    scored = score("davis", root=tmp_path / "davis", results=tmp_path / "out/predictions", workers=1)
    assert {key: report[key] for key in scored} == scored
    assert json.loads((tmp_path / "out/numbers.json").read_text()) == report
    assert report["speed"]["frames"] == 6
    assert report["weights"] == "random:tiny"


def test_it_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    root = davis(tmp_path / "davis")
    broken = root / "JPEGImages/480p/two/00002.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    report = run(root, tmp_path / "out")
    assert list(report["frames_skipped"]) == ["two"]
    assert "00002.jpg" in report["frames_skipped"]["two"]["2"]
    kept = tmp_path / "out/predictions/one/00002.png"
    written = kept.stat().st_mtime_ns
    assert not read_labels(tmp_path / "out/predictions/two/00002.png").any()  # it counts as missed
    broken.write_bytes(whole)
    report = run(root, tmp_path / "out")
    assert "frames_skipped" not in report
    assert kept.stat().st_mtime_ns == written
    fresh = run(root, tmp_path / "fresh")
    assert report["sequences"] == fresh["sequences"]


def test_a_sequence_that_is_told_otherwise_is_followed_anew(tmp_path: Path) -> None:
    """A first mask that was put right is not scored with what was found from the old one."""
    root = davis(tmp_path / "davis")
    run(root, tmp_path / "out")
    kept = tmp_path / "out/predictions/one/00002.png"
    written = kept.stat().st_mtime_ns
    first = root / "Annotations/480p/two/00000.png"
    mask = read_labels(first)
    mask[:16, 48:64] = 0
    write_labels(first, mask)
    report, fresh = run(root, tmp_path / "out"), run(root, tmp_path / "fresh")
    assert report["sequences"] == fresh["sequences"]
    assert kept.stat().st_mtime_ns == written


def test_a_sequence_that_cannot_start_does_not_stop_the_others(tmp_path: Path) -> None:
    root = davis(tmp_path / "davis")
    first = root / "JPEGImages/480p/one/00000.jpg"
    whole = first.read_bytes()
    first.write_bytes(whole[:100])
    with pytest.raises(OSError, match=r"1 of 2 sequences could not be followed: .*00000\.jpg"):
        run(root, tmp_path / "out")
    assert (tmp_path / "out/predictions/two/00002.png").is_file()
    first.write_bytes(whole)
    assert set(run(root, tmp_path / "out")["sequences"]) == {"one", "two"}


def test_processes_do_not_change_the_numbers(tmp_path: Path) -> None:
    root = davis(tmp_path / "davis")
    alone, together = run(root, tmp_path / "a"), run(root, tmp_path / "b", workers=2)
    assert alone["sequences"] == together["sequences"]


def test_another_configuration_is_refused_by_name(tmp_path: Path) -> None:
    root = davis(tmp_path / "davis", ("one",))
    run(root, tmp_path / "out")
    with pytest.raises(ValueError, match=r"task.topk was 5, now 3") as caught:
        run(root, tmp_path / "out", topk=3)
    assert "Choose another --out" in str(caught.value)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    with pytest.raises(ValueError, match="no folder of an evaluation"):
        run(root, tmp_path / "full")


def test_weights_count_by_their_content(tmp_path: Path) -> None:
    root = davis(tmp_path / "davis", ("one",))
    module = registry.load("methods", "dropmae")(size="tiny", image=64)
    weights.save(module, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    settings: dict[str, Any] = {"root": root, "out": tmp_path / "out", **SMALL}
    first = evaluate("davis", weights=str(tmp_path / "a.safetensors"), **settings)
    again = evaluate("davis", weights=str(tmp_path / "b.safetensors"), **settings)
    assert first["sequences"] == again["sequences"]
    weights.save(registry.load("methods", "dropmae")(size="tiny", image=64), tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="content was"):
        evaluate("davis", weights=str(tmp_path / "b.safetensors"), **settings)


def test_presets_know_their_benchmarks() -> None:
    job = Evaluation("vip", {}, "", None, "random:tiny", {"preset": "cropmae"}, "", "cpu", "fp32")
    rules = job.engine().task
    assert (rules.resize, rules.topk) == ("long880", 10)
    assert Propagation.for_benchmark("vip", preset="cropmae", topk=4).topk == 4
    assert Propagation.for_benchmark("vip").resize == "short480"


def test_untrained_encoders_are_named() -> None:
    one, two = untrained("random:tiny:siammae:3"), untrained("random:tiny:siammae:3")
    assert type(one).__name__ == "SiamMAE"
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
    assert type(untrained("random")).__name__ == "MAE"
    for wrong in ("random:tiny:mae:zero", "random:tiny:mae:0:large", "random:tiny:mae:0:112:1"):
        with pytest.raises(ValueError, match="random:SIZE:METHOD:SEED"):
            untrained(wrong)


@pytest.mark.parametrize(
    ("settings", "kind", "word"),
    [
        ({"root": Path("nowhere")}, FileNotFoundError, "nowhere"),
        ({"weights": "nowhere.safetensors"}, FileNotFoundError, "nowhere"),
        ({"workers": -1}, ValueError, "workers"),
        ({"temprature": 1.0}, ValueError, "temprature"),
        ({"preset": "dyno"}, ValueError, "preset"),
        ({"split": "train"}, OSError, "train"),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, settings: dict[str, Any], kind: type, word: str) -> None:
    root = davis(tmp_path / "davis", ("one",), 2)
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("one\n")
    given: dict[str, Any] = {"root": root, "weights": "random", "out": tmp_path / "out", **SMALL, **settings}
    with pytest.raises(kind, match=word) as caught:
        evaluate("davis", **given)
    assert "\n" not in str(caught.value)


def mask_target(*ids: int, points: Any = None, visible: Any = None) -> Target:
    mask = np.zeros((4, 8), np.uint8)
    for number in ids:
        mask[:, number] = number
    return Target(ids=np.array(ids, np.int64), mask=mask, points=points, visible=visible)


def test_prompts_are_the_first_frame_or_each_first_appearance() -> None:
    targets = {3: mask_target(1), 5: mask_target(1, 2), 6: mask_target(2), 7: mask_target(1, 2, 3)}
    assert list(prompts_of(targets, "first", TAKES)) == [3]
    told = prompts_of(targets, "appearance", TAKES)
    assert {frame: shown(target) for frame, target in told.items()} == {3: [1], 5: [2], 7: [3]}
    assert told[5].ids.tolist() == [2]
    assert prompts_of({}, "first", TAKES) == {}
    assert prompts_of(targets, "first", ()) == {}
    assert prompts_of(targets, "first", ("boxes",)) == {}


def test_points_are_told_once_when_they_first_show() -> None:
    points = np.arange(6.0).reshape(3, 2)
    targets = {
        0: mask_target(1, points=points, visible=np.array([True, False, False])),
        1: mask_target(1, points=points + 1, visible=np.array([True, True, False])),
        2: mask_target(1, points=points + 2, visible=np.array([False, True, False])),
    }
    told = prompts_of(targets, "appearance", TAKES)
    assert list(told) == [0, 1]
    assert told[0].points is not None
    assert told[1].points is not None
    assert np.isfinite(told[0].points[:, 0]).tolist() == [True, False, False]
    assert np.isfinite(told[1].points[:, 0]).tolist() == [False, True, False]
    assert shown(told[1]) == []


def test_following_starts_where_something_is_known() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    mask = np.zeros((32, 32), np.uint8)
    mask[16:] = 1
    task = Propagation(resize="native", multiple=0)
    task.encoder = untrained("random").encoder
    target = Target(ids=np.array([1]), mask=mask)
    engine, bench = Engine(task, "cpu", "fp32"), registry.load("benchmarks", "davis")()
    found = answers(engine, bench, Sequence("noise", frames, {2: target})).targets
    assert list(found) == [2, 3]
    assert found[2].mask is not None
    assert np.array_equal(found[2].mask, mask)
    with pytest.raises(OSError, match="nothing is annotated"):
        answers(engine, bench, Sequence("noise", frames, {}))
    with pytest.raises(OSError, match="nothing is annotated in frame 0"):
        answers(engine, bench, Sequence("noise", frames, {0: Target(ids=np.array([1]), boxes=np.full((1, 4), np.nan))}))
    flow = Target(ids=np.zeros(0, np.int64), flow=np.zeros((32, 32, 2), np.float32))
    with pytest.raises(ValueError, match="frame 0 tells nothing that propagation takes"):
        answers(engine, bench, Sequence("noise", frames, {0: flow}))


def test_one_annotated_frame_of_one() -> None:
    task = Propagation(resize="native", multiple=0)
    task.encoder = untrained("random").encoder
    frame = np.zeros((1, 32, 32, 3), np.uint8)
    target = Target(ids=np.array([1]), mask=np.ones((32, 32), np.uint8))
    bench = registry.load("benchmarks", "davis")()
    assert list(answers(Engine(task, "cpu", "fp32"), bench, Sequence("still", frame, {0: target})).targets) == [0]


def test_points_of_real_animals(test_data: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"resize": "short96", "context": 1, "workers": 1}
    root = test_data / "data/BADJA"
    report = evaluate("badja", root=root, weights="random:tiny", out=tmp_path / "out", **settings)
    assert 0 < report["PCK@0.2"] < 1
    assert set(report["sequences"]) <= {"camel", "dog", "bear"}


def test_a_trackers_scores_are_judged_beside_its_boxes(tmp_path: Path) -> None:
    """OTB's layout: an encoder carries the box of a square along; its scores are pooled over the frames after."""
    folder = tmp_path / "otb/Square"
    (folder / "img").mkdir(parents=True)
    for t in range(3):
        picture = np.random.default_rng(0).integers(0, 90, (48, 96, 3), np.uint8)
        picture[16:48, 16 + 16 * t : 48 + 16 * t] += 150
        Image.fromarray(picture).save(folder / f"img/{t + 1:04d}.jpg")
    (folder / "groundtruth_rect.txt").write_text("".join(f"{17 + 16 * t},17,32,32\n" for t in range(3)))
    report = evaluate("otb", root=tmp_path / "otb", weights="random:tiny", out=tmp_path / "out", **SMALL)
    assert report["confidence"]["scored_frames"] == 2
    assert 0 <= report["confidence"]["calibration_error"] <= 1
    note = json.loads((tmp_path / "out" / "done" / "Square.json").read_text())
    ((overlaps, scores),) = note["confidence"]
    assert len(overlaps) == len(scores) == 2
