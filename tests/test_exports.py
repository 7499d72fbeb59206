"""Exports of labels: what is written is what others read, and what is read again is what was followed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dropmae import registry
from dropmae.engine import Answer
from dropmae.exports import ending, endings, forms
from dropmae.formats import rle
from dropmae.target import Target, encode_mask
from dropmae.video import Video

HEIGHT, WIDTH, FRAMES = 36, 52, 6


def blob(frame: int, x: int) -> np.ndarray:
    """bool [H, W]: a disc with a hole, that moves."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    far = np.hypot(rows - 14 - frame, columns - x - 2 * frame)
    return (far < 8) & (far > 2)


def followed(masks: bool = True) -> dict[int, Target]:
    """Two named objects, the second of which is gone in frames 2 and 3."""
    found = {}
    for frame in range(FRAMES):
        there = frame not in (2, 3)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[blob(frame, 12)] = 1
        if there:
            mask[blob(frame, 34)] = 7
        boxes = np.array([[1.25 + frame, 2, 10, 11.5], [30, 20 - frame, 30, 8] if there else [np.nan] * 4])
        found[frame] = Target(
            ids=np.array([1, 7]),
            boxes=None if masks else boxes,
            mask=mask if masks else None,
            scores=np.array([0.875, 0.25]),
            names=["red fox", "a < b & 'c'"],
        )
    return found


def exported(out: Path, targets: dict[int, Target], order: Any = None) -> Path:
    video = Video(np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8))
    (form,) = [form for path, form in forms(out).items() if path == out]
    with form.open(out, video, None) as add:
        for frame in order or sorted(targets):
            add(Answer(frame, video[frame], targets[frame]))
    return out


def test_an_ending_names_a_form_and_the_longest_wins() -> None:
    known = endings()
    assert ending(Path("a.COCO.json"), known) == ".coco.json"
    assert ending(Path(".json"), known) == "", "an ending alone is no name"
    found = forms([Path("x/a.mp4"), Path("b.mot.txt")])
    assert [str(path) for path in found] == ["x/a.mp4", "x/a.jsonl", "b.mot.txt"]
    with pytest.raises(ValueError, match=r"b.txt: the result is written by its name's ending: .*OUT.coco.json"):
        forms([Path("b.txt")])
    owners = [suffix for name in registry.names("exports") for suffix in registry.load("exports", name).suffixes]
    assert len(owners) == len(set(owners)), "no two forms share an ending"


def test_run_lengths_are_those_of_cocos_own_tools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    for frame, mask in enumerate([*(blob(f, 12) for f in range(4)), np.ones((5, 4), bool), np.zeros((3, 9), bool)]):
        counts = encode_mask(mask)["counts"]
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert rle.squeeze(counts) == theirs, frame
        assert rle.expand(theirs) == counts
        runs, box = rle.crop_runs(mask)
        assert np.array_equal(rle.crop_mask(runs, box, mask.shape), mask)
    big = [3, 70_000, 2, 69_999, 40_000, 1]
    assert rle.expand(rle.squeeze(big)) == big
    for text in ("\x10", "o", "1" * 3 + "o" * 30):
        with pytest.raises(ValueError, match="run lengths"):
            rle.expand(text)
    with pytest.raises(ValueError, match="not within"):
        rle.crop_mask([4], (3, 0, 2, 2), (4, 4))


def test_cocos_tools_read_the_file(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    targets = followed()
    read = coco.COCO(str(exported(tmp_path / "a.coco.json", targets)))
    assert [image["frame_index"] for image in read.loadImgs(sorted(read.getImgIds()))] == list(range(FRAMES))
    assert {row["name"] for row in read.loadCats(read.getCatIds())} == {"red fox", "a < b & 'c'"}
    assert len(read.getAnnIds()) == 2 * FRAMES - 2
    for row in read.loadAnns(read.getAnnIds()):
        mask = targets[row["image_id"] - 1].mask == row["track_id"]
        assert np.array_equal(read.annToMask(row), mask)
        assert row["area"] == mask.sum()
    boxes = coco.COCO(str(exported(tmp_path / "b.json", followed(masks=False))))
    row = boxes.loadAnns(boxes.getAnnIds(imgIds=[1]))[1]
    assert row["bbox"] == [30, 20, 22, 8], "boxes end at the frame"
    assert boxes.annToMask(row).sum() == 22 * 8
    json.loads((tmp_path / "b.json").read_text())
