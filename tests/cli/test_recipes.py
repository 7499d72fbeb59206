"""Every recipe says what it is, and every command in it is one that the command line understands."""

from __future__ import annotations

import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dropmae import cli, video
from dropmae.target import read_targets
from dropmae.weights import SHIPPED

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.sh"))
RECORDER = """#!/usr/bin/env bash
{ printf '%q ' "$0" "$@"; echo; } >> "$RECORD"
"""


def commands(recipe: Path, folder: Path) -> list[list[str]]:
    """What a recipe would run: dropmae, torchrun and python are replaced by a recorder."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("dropmae", "torchrun", "python", "python3", "srun"):
        (tools / name).write_text(RECORDER)
        (tools / name).chmod(0o755)
    arguments = [str(folder / f"argument{number}") for number in range(1, 7)]
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "RECORD": str(folder / "record")}
    done = subprocess.run(
        ["bash", str(recipe), *arguments[: needed(recipe)]],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in (folder / "record").read_text().splitlines()]


def needed(recipe: Path) -> int:
    """How many of $1, $2 ... a recipe reads as its own positional arguments."""
    text = recipe.read_text()
    return max((number for number in range(1, 7) if f"${number}" in text or f"${{{number}" in text), default=0)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_the_head_says_what_to_expect(recipe: Path) -> None:
    lines = recipe.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    head = "\n".join(line for line in lines[1:12] if line.startswith("#"))
    for word in ("Expected:", "Hours:", "Use:"):
        assert word in head
    assert "Paper:" in head or "What:" in head
    assert os.access(recipe, os.X_OK)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_every_command_is_understood(recipe: Path, tmp_path: Path) -> None:
    found = 0
    for words in commands(recipe, tmp_path):
        name, rest = Path(words[0]).name, words[1:]
        if name != "dropmae":
            if rest and rest[0].endswith(".py"):
                compile(Path(rest[0]).read_text(), rest[0], "exec")
                found += 1
            if "dropmae" not in rest:
                continue
            rest = rest[rest.index("dropmae") + 1 :]
        rest = [word for word in rest if word not in ("--json", "--debug")]
        cli.parse(rest)
        found += 1
    assert found


def test_boxes_drawn_by_hand_can_be_read() -> None:
    boxes = read_targets(RECIPES[0].with_name("hand-boxes.jsonl"))
    assert len(boxes) == 13
    for frames in boxes.values():
        assert len(frames) in (5, 6)
        for number in frames:
            box = frames[number].box(1)
            assert (box[:2] >= 0).all()
            assert (box[2:] > 10).all()


def test_a_part_of_a_cut_out_keeps_its_place_and_size() -> None:
    pytest.importorskip("cv2", reason="views are rendered with OpenCV, of the extra `bench`")
    views = runpy.run_path(str(RECIPES[0].with_name("dcf-views.py")))
    thing = np.zeros((120, 160, 4), np.uint8)
    thing[20:100, 30:130, 3] = 255
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y, w, h = part = views["part_of"](thing, rng)
        assert x >= 30
        assert y >= 20
        assert x + w <= 130
        assert y + h <= 100
        assert 0.3 <= w / 100 <= 0.75
        assert 0.3 <= h / 80 <= 0.75
        turned = views["affine"](2.0, np.pi / 2, 1.0, 0.0, (x + w / 2, y + h / 2), (50.0, 60.0))
        np.testing.assert_allclose(views["moved"](part, turned), [50 - h, 60 - w, 2 * h, 2 * w])
    assert (
        views["part_of"](np.where(np.eye(120, 160, dtype=bool)[..., None], 255, thing * 0).astype(np.uint8), rng)
        is None
    )


def test_the_settings_of_a_tracker_are_tried_on_any_davis(tmp_path: Path) -> None:
    frames, masks = (tmp_path / part / "480p" / "square" for part in ("JPEGImages", "Annotations"))
    frames.mkdir(parents=True)
    masks.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    for number in range(4):
        mask = np.zeros((120, 160), np.uint8)
        mask[40:80, 50 + 4 * number : 90 + 4 * number] = 255
        Image.fromarray(np.where(mask[..., None], 255 - noise // 4, noise // 4)).save(frames / f"{number:05}.jpg")
        Image.fromarray(mask).save(masks / f"{number:05}.png")
    command = [sys.executable, str(RECIPES[0].with_name("track-settings.py")), str(SHIPPED / "vot.safetensors")]
    words = [str(tmp_path), "--try", "size_smoothing=1.0", "first_frame_bias=no", "--forms", "whole", "middle", "long"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=240, check=True)
    count, head, _, *rows = done.stdout.splitlines()
    assert count.startswith("1 objects")
    assert head.split(" | ")[1:5] == ["mean", "whole", "middle", "long"]
    assert [row.split(" | ")[0] for row in rows] == ["| as it is", "| size_smoothing=1.0 first_frame_bias=no"]
    for row in rows:
        mean, *forms = ([float(part) for part in cell.split(" / ")] for cell in row.split(" | ")[1:5])
        assert mean == pytest.approx(np.mean(forms, axis=0), abs=1e-3)
        assert 0.5 < forms[0][0] <= 1  # four pixels to the right


def test_the_gpu_check_goes_through_on_a_cpu(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="the check decodes with OpenCV, of the extra `bench`")
    for number in range(2):
        frames = np.random.default_rng(number).integers(0, 256, (1, 10, 12, 3), np.uint8).repeat(8, 0)
        video.write(tmp_path / "videos" / f"{number}.mp4", frames.repeat(8, 1).repeat(8, 2))
    script = Path(__file__).parents[2] / "recipes" / "gpu-check.sh"
    environment = {**os.environ, "DRY": "1", "PYTHON": sys.executable}
    words = ["bash", str(script), str(tmp_path / "videos"), str(tmp_path / "out")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "out" / "gpu-check.json").read_text())
    assert found["prepare"] == {"videos": 2, "frames": 16}
    assert found["kernel_tests"]["passed"]
    assert found["kernel_error"]["float32"]["output"] < 1e-5
    assert found["kernel_error"]["bfloat16"]["gradient"] < 0.05
    assert {"twinmae", "dropmae"} <= found["bench"]["steps"].keys()
    assert len(found["goals"]) == 3
    assert set(found["training"]) == {"twinmae", "dropmae"}
    written = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_file())
    assert written == ["dropmae-metrics.jsonl", "dropmae.safetensors", "gpu-check.json", "twinmae-metrics.jsonl",
                       "twinmae.safetensors"]  # fmt: skip


@pytest.fixture
def sot_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs recipes/sot-table.py for a box that does not move, on two made-up sequences in the layout of OTB."""
    pytest.importorskip("cv2", reason="the table has rows of OpenCV, of the extra `bench`")
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for name, speed in (("Stays", 0), ("Leaves", 40)):
        (tmp_path / "Mine" / name / "img").mkdir(parents=True)
        for number in range(1, 5):
            Image.fromarray(noise).save(tmp_path / "Mine" / name / "img" / f"{number:04}.jpg")
        boxes = "".join(f"{1 + speed * number},1,20,20\n" for number in range(4))
        (tmp_path / "Mine" / name / "groundtruth_rect.txt").write_text(boxes)
    monkeypatch.syspath_prepend(str(RECIPES[0].parent))
    script = RECIPES[0].with_name("sot-table.py")

    def run(*words: str) -> None:
        places = ["--otb", str(tmp_path / "Mine"), "--out", str(tmp_path / "out"), "--log", str(tmp_path / "log.md")]
        monkeypatch.setattr(sys, "argv", [str(script), *places, "--only", "first box", *words])
        runpy.run_path(str(script), run_name="__main__")

    return run


def test_each_look_at_a_reporting_set_is_on_record(
    sot_table: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.md"
    with pytest.raises(SystemExit, match="2"):
        sot_table()
    assert "first box on Mine: there is no look on record" in capsys.readouterr().err
    assert not log.exists()
    assert not (tmp_path / "out").exists()
    sot_table("--final", "one | two")
    head, rule, row = log.read_text().splitlines()[-3:]
    assert head == "| date | commit | look | tracker | set | sequences | success AUC / precision@20 |"
    assert rule.count("|") == head.count("|") == row.count("|")
    date, commit, *rest = row.strip("| ").split(" | ")
    assert len(date.split("-")) == 3
    assert commit == runpy.run_path(str(RECIPES[0].with_name("looks.py")))["commit"]()
    # one sequence is right in all frames but the last threshold of the curve, 1, and the other in the first frame alone
    assert rest == ["one / two", "first box", "otb: Mine", "2", "0.595 / 0.625"]


def test_a_look_is_recorded_once_and_again_where_there_is_more_to_see(
    sot_table: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, out = tmp_path / "log.md", tmp_path / "out" / "first-box" / "otb"
    log.write_text("# Log\n\nWords.\n")
    sot_table("--final")
    once = log.read_text()
    assert once.startswith("# Log\n\nWords.\n\n## Looks at reporting sets\n")
    sot_table("--final", "the same")
    sot_table()  # prints what is known
    assert "| first box | 0.595 | 0.625 |" in capsys.readouterr().out.splitlines()[-1]
    assert log.read_text() == once
    log.write_text(once + "\nMore words.\n")
    shutil.copytree(tmp_path / "Mine" / "Stays", tmp_path / "Mine" / "StaysToo")
    with pytest.raises(SystemExit, match="2"):
        sot_table()
    sot_table("--final", "three")
    *_, first, second, empty, last = log.read_text().splitlines()
    assert (empty, last) == ("", "More words.")
    assert " | - | first box | otb: Mine | 2 | " in first
    assert " | three | first box | otb: Mine | 3 | " in second
    (out / "Mine.recorded.json").unlink()  # results that nobody wrote down
    with pytest.raises(SystemExit, match="2"):
        sot_table()


def test_what_returns_was_out_of_the_picture_and_comes_back() -> None:
    pytest.importorskip("cv2")
    made = runpy.run_path(str(RECIPES[0].with_name("found-again.py")))
    rng = np.random.default_rng(0)
    things = [[rng.integers(0, 255, (40, 60, 4)).astype(np.uint8) for _ in range(5)]]
    for gap in (10, 45):
        shown = made["scene"](things, [np.zeros((9, 240, 320, 3), np.uint8)], gap, rng)
        low, high = shown.boxes[:, :2], shown.boxes[:, :2] + shown.boxes[:, 2:]
        seen = ((high > 0) & (low < (320, 240))).all(1)
        gone = made["BEFORE"] + made["EDGE"]
        assert not seen[gone : gone + gap].any()
        assert seen[: made["BEFORE"]].all()
        assert seen[shown.back + 1 :].all()
        scores = np.ones(len(shown.frames))
        right, wrong = (made["judged"](shown, boxes, scores, gap) for boxes in (shown.boxes, shown.others))
        assert (right.found, right.wrong, wrong.wrong) == (True, False, True)
        stayed = made["judged"](shown, shown.boxes[:1].repeat(len(scores), 0) - 1000, scores, gap)
        assert (stayed.found, stayed.wrong) == (False, False)


def test_labels_of_sleap_become_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two animals of two nodes: what a model predicted and what is not labelled is left out, places are ours."""
    h5py = pytest.importorskip("h5py", reason="SLEAP's files are HDF5, which the extra `bench` reads")
    with h5py.File(tmp_path / "labels.slp", "w") as file:
        file["videos_json"] = [json.dumps({"backend": {"filename": "C:\\films\\flies.mp4"}}).encode()]
        about = file.create_group("metadata").attrs
        about["format_id"], about["json"] = 1.2, json.dumps({"nodes": [{"name": "head"}, {"name": "tail"}]})
        frame = [(name, "u8") for name in ("frame_idx", "instance_id_start", "instance_id_end")]
        file["frames"] = np.array([(0, 0, 2), (7, 2, 4)], frame)
        one = [(name, "i8") for name in ("instance_type", "track", "point_id_start", "point_id_end")]
        file["instances"] = np.array([(0, 1, 0, 2), (0, 0, 2, 4), (0, 1, 4, 6), (1, 0, 6, 8)], one)
        point = [("x", "f8"), ("y", "f8"), ("visible", "?")]
        file["points"] = np.array(
            [(1, 2, 1), (3, 4, 1), (5, 6, 1), (0, 0, 0), (11, 12, 1), (13, 14, 1), (9, 9, 1), (9, 9, 1)], point
        )
    script = RECIPES[0].with_name("sleap-targets.py")
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "labels.slp"), str(tmp_path / "targets.jsonl")])
    runpy.run_path(str(script), run_name="__main__")
    found = read_targets(tmp_path / "targets.jsonl")["flies.mp4"]
    first, later = found[0].points, found[7].points
    assert first is not None
    assert later is not None
    assert np.array_equal(first, [[5.5, 6.5], [np.nan] * 2, [1.5, 2.5], [3.5, 4.5]], equal_nan=True)
    assert np.array_equal(later, [[np.nan] * 2, [np.nan] * 2, [11.5, 12.5], [13.5, 14.5]], equal_nan=True)
    assert found[0].owners is not None
    assert found[0].owners.tolist() == [1, 1, 2, 2]
    (tmp_path / "other.slp").write_text("no")
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "other.slp"), str(tmp_path / "other.jsonl")])
    with pytest.raises(SystemExit, match=r"other\.slp: no labels of SLEAP"):
        runpy.run_path(str(script), run_name="__main__")
    assert not (tmp_path / "other.jsonl").exists()
