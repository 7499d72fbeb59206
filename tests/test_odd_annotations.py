"""What annotation and result files of others hold: gaps, empty files, targets twice, more images than boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dropmae.benchmarks.davis import DAVIS
from dropmae.benchmarks.lasot import LaSOT
from dropmae.benchmarks.otb import OTB
from dropmae.formats.boxes import parse_boxes, read_boxes

BOXES = [(20 + 3 * i, 15 + 2 * i, 30, 24) for i in range(6)]
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
