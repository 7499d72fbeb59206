"""DAVIS: the reference evaluators' numbers, the layouts, and bad input through the command line."""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dropmae.benchmarks.davis import DAVIS, foreground_png
from dropmae.cli import main
from dropmae.formats.labels import LabelFolder, read_labels, write_labels
from dropmae.storage import write_bytes
from dropmae.target import Target
from dropmae.verbs.evaluate import score

NAMES = ("one", "two", "three")


def write_foreground(path: Path, mask: np.ndarray) -> None:
    write_bytes(path, foreground_png(mask))


def same(found: float | None, expected: float, scale: float = 1.0) -> bool:
    if math.isnan(expected):
        return found is None
    return found == pytest.approx(expected / scale, abs=1e-9)


@pytest.fixture
def parity(test_data: Path) -> Callable[..., tuple[dict[str, Any], Any]]:
    """Scores the reference inputs and gives the reference numbers beside them."""

    def compare(bench: DAVIS, expected: str, names: tuple[str, ...]) -> tuple[dict[str, Any], Any]:
        folder = test_data / "parity"
        sides = [
            {name: LabelFolder(folder / "inputs" / "vos" / side / name) for name in names} for side in ("pred", "gt")
        ]
        return bench.score(*sides), json.loads((folder / "expected" / f"{expected}.json").read_text())["result"]

    return compare


@pytest.mark.parametrize(
    ("protocol", "expected", "names"),
    [
        ("semi-supervised", "davis2017_semi", NAMES),
        ("semi-supervised", "davis2017_semi_long", (*NAMES, "long")),
        ("unsupervised", "davis2017_unsup", NAMES),
    ],
)
def test_equals_davis2017_evaluation(parity: Callable, protocol: Any, expected: str, names: tuple[str, ...]) -> None:
    report, reference = parity(DAVIS(protocol=protocol, uint8_decay=True), expected, names)
    assert report["protocol"] == protocol
    assert same(report["J&F_mean"], reference["J&F-Mean"])
    for measure in "JF":
        for what in ("Mean", "Recall", "Decay"):
            assert same(report[f"{measure}_{what.lower()}"], reference[f"{measure}-{what}"])
    per_object = {
        f"{name}_{key}": [row["J_mean"], row["F_mean"]]
        for name, sequence in report["sequences"].items()
        for key, row in sequence["objects"].items()
    }
    assert per_object.keys() == reference["per_object"].keys()
    for key, values in reference["per_object"].items():
        assert per_object[key] == pytest.approx(values, abs=1e-9)


def test_decay_is_right_by_default(parity: Callable) -> None:
    report, reference = parity(DAVIS(), "davis2017_semi_long", (*NAMES, "long"))
    assert math.isnan(reference["J-Decay"])
    assert abs(report["J_decay"]) < 0.5


def test_equals_the_2016_code(parity: Callable) -> None:
    report, reference = parity(DAVIS(year=2016, uint8_decay=True), "davis2016", (*NAMES, "long"))
    assert report["protocol"] == "2016"
    letters = {"mean": "M", "recall": "O", "decay": "D"}
    for measure in "JF":
        for what, letter in letters.items():
            assert same(report[f"{measure}_{what}"], reference[f"{measure}_{letter}"])
    for name, values in reference["per_sequence"].items():
        row = report["sequences"][name]
        found = [row[f"{measure}_{what}"] for measure in "JF" for what in letters]
        assert all(same(a, b) for a, b in zip(found, values, strict=True))


def test_equals_vos_benchmark(parity: Callable) -> None:
    report, reference = parity(DAVIS(protocol="vos-benchmark"), "vos_benchmark", (*NAMES, "long"))
    assert same(report["J_mean"], reference["J"], 100)
    assert same(report["F_mean"], reference["F"], 100)
    assert same(report["J&F_mean"], reference["J&F"], 100)
    for name, (j, f) in reference["per_object"].items():
        rows = report["sequences"][name]["objects"]
        assert rows.keys() == j.keys()
        assert all(same(rows[key]["J_mean"], j[key], 100) and same(rows[key]["F_mean"], f[key], 100) for key in j)


@pytest.mark.parametrize("bench", [DAVIS(year=2016), DAVIS(protocol="vos-benchmark")], ids=["2016", "vos-benchmark"])
def test_native_masks_of_0_and_255(test_data: Path, tmp_path: Path, bench: DAVIS) -> None:
    for side in ("pred", "gt"):
        for name in NAMES:
            (tmp_path / side / name).mkdir(parents=True)
            for file in (test_data / "parity" / "inputs" / "vos" / side / name).glob("*.png"):
                write_foreground(tmp_path / side / name / file.name, read_labels(file))
    sides = [{name: LabelFolder(tmp_path / side / name) for name in NAMES} for side in ("pred", "gt")]
    report = bench.score(*sides)
    reference = json.loads((test_data / "parity" / "expected" / "davis2016_native.json").read_text())["result"]
    assert same(report["J_mean"], reference["vos-benchmark"]["J"], 100)
    assert same(report["F_mean"], reference["vos-benchmark"]["F"], 100)
    assert same(report["J&F_mean"], reference["vos-benchmark"]["J&F"], 100)


def test_scores_osvos_on_real_sequences(test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = test_data / "reference-results" / "davis2016"
    with zipfile.ZipFile(folder / "osvos.zip") as archive:
        archive.extractall(tmp_path)
    root = str(test_data / "data" / "DAVIS")
    command = ["score", "davis", "--root", root, "--results", str(tmp_path), "--year", "2016", "--json"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    published = json.loads((folder / "osvos_davis.json").read_text())
    assert len(report["sequences"]) == 7
    assert len(report["extra"]) == 13
    assert "13 sequences not of this split" in err
    for name, row in report["sequences"].items():
        for measure in "JF":
            values = [float(value) for value in published[name][measure]]
            assert row[f"{measure}_mean"] == pytest.approx(np.mean(values), abs=5e-4)
    assert report["J_mean"] == pytest.approx(np.mean([row["J_mean"] for row in report["sequences"].values()]))


def test_reads_davis_2017(test_data: Path, tmp_path: Path) -> None:
    bench = DAVIS()
    root = test_data / "data" / "DAVIS-multi-object"
    (sequence,) = bench.sequences(root)
    assert sequence.name == "dogs-jump"
    assert sequence.targets[0].ids.tolist() == [1, 2, 3]
    assert len(sequence.video) == len(sequence.targets) == 66
    first = sequence.targets[0].mask
    assert first is not None
    assert sequence.video[0].shape[:2] == first.shape
    bench.write(sequence.name, dict(sequence.targets), tmp_path)
    report = bench.score(bench.read(tmp_path), bench.annotations(root))
    assert report["J&F_mean"] == report["J_recall"] == 1
    assert report["sequences"]["dogs-jump"]["objects"].keys() == {"1", "2", "3"}


# -------------------------------------------------------------------- a small data set made here


def square(x: int, y: int = 10, side: int = 16, key: int = 1) -> np.ndarray:
    mask = np.zeros((48, 64), np.uint8)
    mask[y : y + side, x : x + side] = key
    return mask


def clip(frames: int = 6) -> list[np.ndarray]:
    """Two objects; the second one vanishes half-way."""
    return [square(5 + 3 * t) + (square(30 - t, 30, 10, 2) if t < frames // 2 else 0) for t in range(frames)]


def save(folder: Path, masks: list[np.ndarray], write: Callable[[Path, np.ndarray], None] = write_labels) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, mask in enumerate(masks):
        write(folder / f"{number:05d}.png", mask)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        save(tmp_path / "davis" / "Annotations" / "480p" / name, clip())
    for year in ("2016", "2017"):
        (tmp_path / "davis" / "ImageSets" / year).mkdir(parents=True)
        (tmp_path / "davis" / "ImageSets" / year / "val.txt").write_text("a\nb\nc\n")
    return tmp_path / "davis"


@pytest.fixture
def results(root: Path, tmp_path: Path) -> Path:
    for name in ("a", "b"):
        save(tmp_path / "results" / name, clip())
    return tmp_path / "results"


@pytest.fixture
def run(root: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, str]]:
    """The verb on this data: exit code, JSON, lines on stderr."""

    def call(*flags: str) -> tuple[int, Any, str]:
        words = ["score", "davis", "--root", str(root), "--results", str(results), "--workers", "1", "--json", *flags]
        code = main(words)
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return call


def test_scores_a_part_of_a_split(run: Callable, results: Path) -> None:
    (results / "later").mkdir()
    (results / "a" / "99999.png").write_bytes(b"frames beyond the annotation are not read")
    code, report, err = run()
    assert code == 0
    assert report["protocol"] == "semi-supervised"
    assert list(report["sequences"]) == ["a", "b"]
    assert (report["missing"], report["extra"]) == (["c"], ["later"])
    assert "1 sequences without results, not counted: c" in err
    assert {"J_mean", "F_mean", "J&F_mean"} <= report.keys() & report["sequences"]["a"].keys()
    assert report["J&F_mean"] == 1
    assert report["sequences"]["a"]["frames"] == 4


def test_vanishing_and_forgotten_objects(run: Callable, results: Path) -> None:
    save(results / "a", [np.where(mask == 2, 0, mask) for mask in clip()])  # the second object is never predicted
    _, report, _ = run()
    objects = report["sequences"]["a"]["objects"]
    assert objects["1"]["J_mean"] == 1
    assert objects["2"]["J_mean"] == 0.5  # two scored frames show it; in the two others both sides are empty
    assert report["J_mean"] == pytest.approx(3.5 / 4)


def test_the_last_frame_is_not_needed(run: Callable, results: Path) -> None:
    (results / "a" / "00000.png").unlink()
    (results / "a" / "00005.png").unlink()
    assert run()[0] == 0


def broken_by(change: str, root: Path, results: Path) -> None:
    file = results / "a" / "00002.png"
    if change == "missing":
        file.unlink()
    elif change == "size":
        write_labels(file, clip()[2][:24, :32])
    elif change == "unknown":
        write_labels(file, square(8, key=7))
    elif change == "void":
        write_labels(file, square(8, key=255))
    elif change == "unreadable":
        file.write_bytes(file.read_bytes()[:60])
    elif change == "photo":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)).save(file)
    elif change == "none":
        shutil.rmtree(results / "a")
        shutil.rmtree(results / "b")
    elif change == "truth":
        (root / "Annotations" / "480p" / "a" / "00002.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", "a/00002.png: missing"),
        ("size", "a/00002.png: 32x24 pixels, but the annotation has 64x48"),
        ("unknown", "a/00002.png: object 7, but a has objects 1..2"),
        ("void", "a/00002.png: object 255, but a has objects 1..2"),
        ("unreadable", "a/00002.png: not a readable image"),
        ("photo", "a/00002.png: a colour image"),
        ("none", "results: no results; expected <sequence>/<frame>.png"),
        ("truth", "a/00002.png: not a readable image"),
    ],
)
def test_bad_results_are_one_clear_line(run: Callable, root: Path, results: Path, change: str, words: str) -> None:
    broken_by(change, root, results)
    code, report, err = run()
    assert (code, report) == (1, None)
    assert words in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_errors_in_workers_are_the_same(run: Callable, root: Path, results: Path, workers: str) -> None:
    broken_by("missing", root, results)
    code, _, err = run("--workers", workers)
    assert code == 1
    assert err.startswith("dropmae score: ")
    assert err.strip().endswith("a needs a mask for every frame that is scored")


def test_numbers_do_not_depend_on_workers(run: Callable, results: Path) -> None:
    save(results / "b", [np.roll(mask, 2, 1) for mask in clip()])
    assert run()[1] == run("--workers", "2")[1] == run("--workers", "0")[1]


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_sequences_too_short_to_score(run: Callable, root: Path, results: Path, frames: int) -> None:
    folder = root / "Annotations" / "480p" / "a"
    for file in sorted(folder.glob("*.png"))[frames:]:
        file.unlink()
    code, report, err = run()
    assert code == 0
    assert list(report["sequences"]) == ["b"]
    assert "annotated frame" in report["skipped"]["a"]
    assert "a not counted" in err
    shutil.rmtree(results / "b")
    code, report, err = run()
    assert (code, report) == (1, None)
    assert "nothing to score: a:" in err


def test_unsupervised_scores_a_single_frame(root: Path, results: Path) -> None:
    shutil.copytree(root / "Annotations", root / "Annotations_unsupervised")
    for file in sorted((root / "Annotations_unsupervised" / "480p" / "a").glob("*.png"))[1:]:
        file.unlink()
    bench = DAVIS(protocol="unsupervised")
    report = bench.score(bench.read(results), bench.annotations(root))
    assert report["sequences"]["a"]["frames"] == 1
    assert report["J&F_mean"] == 1


def test_empty_first_mask(run: Callable, root: Path) -> None:
    write_labels(root / "Annotations" / "480p" / "a" / "00000.png", np.zeros((48, 64), np.uint8))
    _, report, _ = run()
    assert report["skipped"] == {"a": "no object in the first annotated frame"}


def test_masks_of_2016_need_year_2016(run: Callable, root: Path, results: Path) -> None:
    for folder in (root / "Annotations" / "480p", results):
        for name in ("a", "b"):
            save(folder / name, clip(), write_foreground)
    code, _, err = run()
    assert code == 2
    assert "year 2016" in err
    code, report, _ = run("--year", "2016")
    assert (code, report["J_mean"], report["protocol"]) == (0, 1, "2016")
    assert "objects" not in report["sequences"]["a"]


def test_foreground_may_be_written_as_any_value(run: Callable, results: Path) -> None:
    """In 2016 whatever is not background is foreground: ids, 0/1, 0/255."""
    save(results / "a", clip(), write_foreground)
    save(results / "b", [(mask > 0).astype(np.uint8) for mask in clip()])
    assert run("--year", "2016")[1]["J&F_mean"] == 1


def test_void_in_the_truth(run: Callable, root: Path, results: Path) -> None:
    masks = clip()
    masks[2][10:20, 11:20] = 255
    save(root / "Annotations" / "480p" / "a", masks)
    semi = run()[1]["sequences"]["a"]["objects"]["1"]["J_mean"]
    assert semi == pytest.approx((3 + (256 - 90) / 256) / 4)  # void counts as background
    shutil.copytree(root / "Annotations", root / "Annotations_unsupervised")
    unsupervised = run("--protocol", "unsupervised")[1]["sequences"]["a"]["objects"]["1"]["J_mean"]
    assert unsupervised == 1  # void does not count


def test_proposals_may_be_numbered_at_will(run: Callable, root: Path, results: Path) -> None:
    shutil.copytree(root / "Annotations", root / "Annotations_unsupervised")
    save(results / "a", [np.array([0, 5, 2], np.uint8)[mask] for mask in clip()])
    assert run("--protocol", "unsupervised")[1]["J_mean"] == 1
    save(results / "a", [np.array([0, 21, 2], np.uint8)[mask] for mask in clip()])
    code, _, err = run("--protocol", "unsupervised")
    assert code == 1
    assert "at most 20 proposals" in err


def test_lists_and_folders_that_are_not_there(run: Callable, root: Path, results: Path, tmp_path: Path) -> None:
    code, _, err = run("--split", "train")
    assert code == 1
    assert "2017/train.txt: no such list" in err
    assert "val of 2016" in err
    code, _, err = run("--resolution", "full")
    assert code == 1
    assert "Full-Resolution: no such folder" in err
    code, _, err = run("--protocol", "unsupervised")
    assert "Annotations_unsupervised" in err
    code, _, err = run("--results", str(tmp_path / "nowhere"))
    assert code == 1
    assert "nowhere: no such folder" in err
    assert run("--workers", "-1")[0] == 2
    shutil.rmtree(root / "ImageSets")
    assert run()[1]["missing"] == ["c"]  # without lists every annotated sequence counts


def test_lists_of_the_2016_release(root: Path) -> None:
    shutil.rmtree(root / "ImageSets")
    (root / "ImageSets" / "480p").mkdir(parents=True)
    lines = [
        f"/JPEGImages/480p/{name}/{t:05d}.jpg /Annotations/480p/{name}/{t:05d}.png" for name in "ba" for t in range(3)
    ]
    (root / "ImageSets" / "480p" / "val.txt").write_text("\n".join(lines))
    assert DAVIS(year=2016).names(root) == ["b", "a"]


@pytest.mark.parametrize("year", [2016, 2017])
def test_writes_the_official_layout(root: Path, tmp_path: Path, year: Any) -> None:
    bench = DAVIS(year=year)
    targets = {t: Target(ids=np.array([1, 2]), mask=mask) for t, mask in enumerate(clip())}
    bench.write("a", targets, tmp_path / "out")
    files = sorted(path.name for path in (tmp_path / "out" / "a").iterdir())
    assert files == [f"{t:05d}.png" for t in range(6)]
    with Image.open(tmp_path / "out" / "a" / "00000.png") as image:
        assert image.mode == ("L" if year == 2016 else "P")
        assert np.unique(np.asarray(image)).tolist() == ([0, 255] if year == 2016 else [0, 1, 2])
    report = bench.score(bench.read(tmp_path / "out"), bench.annotations(root))
    assert report["J&F_mean"] == 1
    with pytest.raises(ValueError, match="no mask"):
        bench.write("a", {0: Target(ids=np.array([1]))}, tmp_path / "out")


def test_results_may_be_in_memory(root: Path) -> None:
    results = {"a": {t: Target(ids=np.array([1, 2]), mask=mask) for t, mask in enumerate(clip())}}
    assert DAVIS().score(results, DAVIS().annotations(root))["J_mean"] == 1


def test_settings_are_checked_in_python_too(root: Path, results: Path) -> None:
    assert score("davis", root=root, results=results, workers=1)["benchmark"] == "davis"
    with pytest.raises(ValueError, match="year of davis is one of 2016, 2017, not 2015"):
        score("davis", root=root, results=results, year=2015)
    with pytest.raises(ValueError, match="'task' is no setting of davis; there are: year, resolution, protocol"):
        score("davis", root=root, results=results, task="semi-supervised")
