"""What annotation and result files of others hold: gaps, empty files, targets twice, more images than boxes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dropmae
from dropmae.benchmarks.davis import DAVIS
from dropmae.benchmarks.folder import Folder
from dropmae.benchmarks.lasot import LaSOT
from dropmae.benchmarks.otb import OTB
from dropmae.evaluation import check_prompts
from dropmae.formats.boxes import parse_boxes, read_boxes
from dropmae.target import Target, encode_mask, misplaced, read_targets

BOXES = [(20 + 3 * i, 15 + 2 * i, 30, 24) for i in range(6)]
BOXED = Target(ids=np.array([1]), boxes=np.array(BOXES[:1], float))
LINES = [",".join(map(str, box)) for box in BOXES]


def write_sequence(folder: Path, lines: list[str], images: int = 6, name: str = "groundtruth_rect.txt") -> Path:
    (folder / "img").mkdir(parents=True, exist_ok=True)
    for i in range(images):
        Image.new("RGB", (160, 120), (i, 40, 80)).save(folder / "img" / f"{i + 1:04d}.jpg")
    (folder / name).write_text("\n".join(lines) + "\n" if lines else "")
    return folder / name


@pytest.mark.parametrize("gap", [0, 3, 5])
def test_an_empty_line_between_boxes_is_named_and_shifts_nothing(gap: int, tmp_path: Path) -> None:
    lines = [*LINES[:gap], " \t", *LINES[gap:]]
    truth = write_sequence(tmp_path / "root" / "Seq", LINES)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "Seq.txt").write_text("\n".join(lines) + "\n")
    bench = OTB()
    with pytest.raises(OSError, match=rf"Seq\.txt: line {gap + 1} is empty"):
        bench.read(tmp_path / "results", bench.annotations(tmp_path / "root"))
    truth.write_text("\n".join(lines))
    with pytest.raises(OSError, match=rf"groundtruth_rect\.txt: line {gap + 1} is empty"):
        bench.annotations(tmp_path / "root")


def test_line_ends_are_no_empty_lines() -> None:
    for end in ("\n", "\r\n", "\r", "\r\r\n"):
        for tail in ("", end, 3 * end, f"{end} \t{end}"):
            assert np.array_equal(parse_boxes(end.join(LINES) + tail, "x"), BOXES), (end, tail)
    assert np.isnan(parse_boxes(f"{LINES[0]}\nNaN,NaN,NaN,NaN\n", "x")[1]).all(), "a frame without a box"
    with pytest.raises(OSError, match=r"x: line 4 is not a box of four numbers x y w h: '1 2 3'"):
        parse_boxes("\n".join([*LINES[:3], "1 2 3"]), "x")


def test_an_annotation_file_without_boxes_drops_nothing_in_silence(tmp_path: Path) -> None:
    write_sequence(tmp_path / "A", LINES)
    write_sequence(tmp_path / "B", [])
    with pytest.raises(OSError, match=r"B/groundtruth_rect\.txt: empty, no boxes"):
        OTB().annotations(tmp_path)
    (tmp_path / "lasot" / "cat" / "cat-1").mkdir(parents=True)
    (tmp_path / "lasot" / "cat" / "cat-1" / "groundtruth.txt").write_text(" \n")
    with pytest.raises(OSError, match=r"cat-1/groundtruth\.txt: empty, no boxes"):
        LaSOT().annotations(tmp_path / "lasot")
    with pytest.raises(OSError, match="empty, no boxes"):
        read_boxes(tmp_path / "B" / "groundtruth_rect.txt")


def test_several_targets_of_otb(tmp_path: Path) -> None:
    for number in (1, 2):
        write_sequence(tmp_path / "Jogging", LINES[number:], name=f"groundtruth_rect.{number}.txt")
    assert [clip.name for clip in OTB().clips(tmp_path)] == ["Jogging_1", "Jogging_2"]
    write_sequence(tmp_path / "Jogging", LINES[1:])  # some copies repeat the first target under the plain name
    assert [clip.name for clip in OTB().clips(tmp_path)] == ["Jogging_1", "Jogging_2"]
    (tmp_path / "Jogging" / "groundtruth_rect.1.txt").write_text("")  # as Human4's is
    assert [clip.name for clip in OTB().clips(tmp_path)] == ["Jogging_2"]
    (tmp_path / "Jogging" / "groundtruth_rect.2.txt").write_text("")
    assert [clip.name for clip in OTB().clips(tmp_path)] == ["Jogging"]


def test_of_more_images_than_boxes_the_annotated_ones_are_followed(tmp_path: Path) -> None:
    write_sequence(tmp_path / "A", LINES, images=9)
    write_sequence(tmp_path / "B", LINES[:1], images=9)  # only the first box is known, as in GOT-10k's test set
    write_sequence(tmp_path / "C", LINES, images=4)
    assert [len(sequence.video) for sequence in OTB().sequences(tmp_path)] == [6, 9, 4]


def test_lists_of_davis_are_named_as_they_are_chosen(tmp_path: Path) -> None:
    for year, split in (("2016", "val"), ("2017", "train")):
        (tmp_path / "ImageSets" / year).mkdir(parents=True)
        (tmp_path / "ImageSets" / year / f"{split}.txt").write_text("bear\n")
    with pytest.raises(FileNotFoundError, match=r"here are: val of 2016, train of 2017\. .*--year 2016 --split val"):
        DAVIS().names(tmp_path, "2016/val")
    assert DAVIS(year=2016).names(tmp_path, "val") == ["bear"]


# --- lines of a targets.jsonl ----------------------------------------------------------------------------------------


def write_lines(path: Path, *lines: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"video": "v.mp4", **line}) + "\n" for line in lines))
    return path


BOX = {"box": [5, 5, 10, 10]}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"frame": 0, "id": 0, **BOX}, r'line 2: "id" must be 1 or more, not 0; 0 is the background'),
        ({"frame": 0, "id": -3, **BOX}, r'line 2: "id" must be 1 or more, not -3'),
        ({"frame": 0, "id": 1.5, **BOX}, r'line 2: "id" must be 1 or more, not 1\.5'),
        ({"frame": 0, "id": "2", **BOX}, r'line 2: "id" must be 1 or more, not \'2\''),
        ({"frame": 0, "id": True, **BOX}, r'line 2: "id" must be 1 or more, not True'),
        ({"frame": 0, **BOX}, r'line 2: "box" is of an object and needs its "id"'),
        ({"frame": 0, "id": None, "score": 0.5}, r'line 2: "score" is of an object and needs its "id"'),
        ({"frame": 0, "box3d": [0] * 7}, r'line 2: "box3d" is of an object and needs its "id"'),
        (
            {"frame": 0, "mask": encode_mask(np.ones((4, 6), bool))},
            r'frame 0: a mask that is not empty .* needs its "id"',
        ),
        ({"frame": 0, "id": 1, **BOX}, "frame 0: object 1 has two lines with box"),
        ({"frame": True, "id": 2, **BOX}, 'line 2: "frame" must be a number from 0'),
        ({"frame": 0, "id": 2**70, **BOX}, 'line 2: "id" must be at most 2147483647, not 1180591620717411303424'),
        ({"frame": 0, "id": 2, "score": [1]}, r"frame 0: score is a number, not \[1\]"),
        ({"frame": 0, "id": 2, "score": float("nan")}, "frame 0: score is a number, not nan"),
        ({"frame": 0, "id": 2, "name": ["fox"]}, r"frame 0: name is a text, not \['fox'\]"),
        ({"frame": 0, "id": 2, "mask": None}, 'frame 0: a mask is {"size": .*, not None'),
        ({"frame": 0, "id": 2, "mask": {"size": "46", "counts": [24]}}, 'frame 0: a mask is {"size": '),
        ({"frame": 0, "points": [[1, 2], [3, 4]], "visible": [1]}, r"frame 0: visible takes a number for each of 2 po"),
        ({"frame": 0, "points": [[1, 2]], "visible": "yes"}, "frame 0: visible takes a number for each of 1 points"),
        ({"frame": 0, "points": [[1, 2]], "uncertainty": ["a"]}, "frame 0: uncertainty takes a number for each"),
        ({"frame": 0, "classes": {"a": float("nan")}}, "frame 0: classes are {name: share}"),
        ({"frame": 0, "classes": ["a"]}, "frame 0: classes are {name: share}"),
    ],
)
def test_what_belongs_to_no_object_is_not_dropped(line: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "targets.jsonl", {"frame": 0, "id": 1, **BOX}, line)
    with pytest.raises(OSError, match=rf"targets\.jsonl(, |: v\.mp4, ){said}"):
        read_targets(path)["v.mp4"][0]
    with pytest.raises(OSError, match=said):
        Folder().score(Folder().read(path), Folder().annotations(path))


def test_lines_of_one_object_add_up(tmp_path: Path) -> None:
    mask = np.zeros((4, 6), bool)
    path = write_lines(
        tmp_path / "targets.jsonl",
        {"frame": 0, "id": 7, **BOX},
        {"frame": 0, "id": 2, "score": 0.5},
        {"frame": 0, "id": 7, "score": 0.25},
        {"frame": 0, "points": [[1, 2]], "mask": encode_mask(mask)},
    )
    target = read_targets(path)["v.mp4"][0]
    assert target.ids.tolist() == [7, 2]
    assert target.scores is not None
    assert target.scores.tolist() == [0.25, 0.5]
    assert target.boxes is not None
    assert np.array_equal(target.boxes, [[5, 5, 10, 10], [np.nan] * 4], equal_nan=True)
    assert target.points is not None
    assert target.points.tolist() == [[1, 2]]


# --- where boxes and points are --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"boxes": [[500, 5, 20, 20]]}, r"the box of object 1 \(500 5 20 20\) lies outside the 160x120 frame"),
        ({"boxes": [[-30, 5, 30, 20]]}, "lies outside"),
        ({"boxes": [[5, 5, 0, 20]]}, "needs a positive width and height"),
        ({"points": [[3, 4], [3, 121]]}, "point 2 at 3,121 lies outside the 160x120 frame"),
        ({"points": [[-0.5, 4]]}, "point 1 at -0.5,4 lies outside"),
        ({"boxes": [[150, 110, 90, 90]], "points": [[0, 0], [160, 120]]}, None),
        ({"boxes": [[np.nan] * 4], "points": [[np.nan, np.nan]]}, None),
        ({"points": [[900, 4]], "visible": np.array([False])}, None),
    ],
)
def test_what_lies_outside_the_frame_is_named(told: dict[str, Any], said: str | None) -> None:
    told = {name: np.array(value) for name, value in told.items()}
    fault = misplaced(Target(ids=np.ones(len(told.get("boxes", [])), np.int64), **told), 120, 160)
    assert fault is None if said is None else fault and re.search(said, fault)


def test_track_says_what_is_wrong_with_boxes_points_and_start(tmp_path: Path) -> None:
    write_sequence(tmp_path / "S", LINES)
    images, prompts = str(tmp_path / "S" / "img"), tmp_path / "p.jsonl"
    write_lines(prompts, {"frame": 0, "id": 1, "box": [200, 0, 5, 5]})
    cases: list[tuple[dict[str, Any], str]] = [
        ({"box": (500, 5, 20, 20)}, r"frame 0: the box of object 1 .* lies outside the 160x120 frame"),
        ({"points": ("2,300,5",)}, r"frame 2: point 1 at 300,5 lies outside"),
        ({"prompts": {0: BOXED, 1: BOXED}, "start": 1}, r"start 1 is about box, mask and grid, but .* frames, 0 first"),
        ({"points": ("2,30,5",), "start": 1}, r"start 1 is about box, mask and grid, but .* their own frames, 2 first"),
        ({"prompts": prompts}, r"frame 0: the box of object 1 \(200 0 5 5\)"),
    ]
    for told, said in cases:
        with pytest.raises(ValueError, match=said):
            dropmae.track(images, weights=Path("random:tiny"), **told)


def test_a_first_box_that_is_none_is_named_before_anything_is_followed(tmp_path: Path) -> None:
    write_sequence(tmp_path / "A", LINES)
    truth = write_sequence(tmp_path / "B", ["NaN,NaN,NaN,NaN", *LINES[1:]])
    bench = OTB()
    with pytest.raises(OSError, match=rf"^B: there is no box in frame 0, .*{truth}\)$"):
        check_prompts(bench, bench.sequences(tmp_path))
    write_sequence(tmp_path / "B", ["500,500,20,20", *LINES[1:]])
    with pytest.raises(OSError, match=r"^B: the box of object 1 \(499 499 20 20\) lies outside the 160x120 frame"):
        check_prompts(bench, bench.sequences(tmp_path))
    write_sequence(tmp_path / "B", LINES)
    (tmp_path / "A" / "img" / "0001.jpg").write_bytes(b"no image")  # that is for its own turn
    check_prompts(bench, bench.sequences(tmp_path))
