"""Exports of labels: what is written is what others read, and what is read again is what was followed."""

from __future__ import annotations

import configparser
import csv
import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import dropmae
from dropmae import registry
from dropmae.contracts import Task
from dropmae.data.mixture import open_source
from dropmae.engine import Answer, Engine, only
from dropmae.exports import ending, endings, forms
from dropmae.formats import rle
from dropmae.formats.annotations import read_annotations
from dropmae.formats.boxes import read_boxes
from dropmae.formats.labels import read_labels
from dropmae.target import Target, encode_mask, mask_boxes, read_targets
from dropmae.verbs._tracking import Tracking
from dropmae.video import Video, write
from samples import moving_square

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


def exported(out: Path, targets: dict[int, Target], order: Any = None, video: Video | None = None) -> Path:
    video = video or Video(np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8))
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


# ------------------------------------------------------------ and back again


def same(found: Any, wanted: dict[int, Target], *, names: bool = True) -> None:
    """That every object is where it was, under its name, and nowhere else."""
    assert sorted(found) == sorted(wanted)
    for frame, target in wanted.items():
        read = found[frame]
        assert (read.names is not None) == names
        for row, number in enumerate(target.ids.tolist()):
            box = target.box(number) if target.mask is None else mask_boxes(target.mask, target.ids)[1][row]
            if number in read.ids:
                (place,) = np.flatnonzero(read.ids == number)
                assert read.names is None or (target.names and read.names[place] == target.names[row])
            if target.mask is not None and read.mask is not None:
                assert np.array_equal(read.mask == number, target.mask == number)
            else:
                np.testing.assert_allclose(read.box(number), box, atol=1e-3)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(
    "suffix", [".coco.json", ".cvat.xml", ".mot.txt", ".mot.zip", ".mot", ".csv", ".masks", ".masks.zip"]
)
def test_what_is_read_again_is_what_was_followed(suffix: str, masks: bool, tmp_path: Path) -> None:
    masks |= suffix.startswith(".masks")
    targets = followed(masks)
    if suffix == ".coco.json" and not masks:
        targets = {f: replace(t, boxes=np.clip(np.array(t.boxes), 0, [30, 28, 22, 11.5])) for f, t in targets.items()}
    ((name, found),) = read_annotations(exported(tmp_path / f"clip{suffix}", targets)).items()
    assert name in ("clip", "array")
    same(found, targets, names=suffix != ".mot.txt")
    backwards = exported(tmp_path / f"back{suffix}", targets, sorted(targets, reverse=True))
    ((_, again),) = read_annotations(backwards).items()
    for frame in found:
        assert sorted(again[frame].ids.tolist()) == sorted(found[frame].ids.tolist())


def test_names_are_on_one_line_and_can_be_read_again(tmp_path: Path) -> None:
    """Of objects, and of videos: a line end in them shifts no class, and bytes that are no UTF-8 stay."""
    targets = {0: Target(ids=np.array([1, 2]), boxes=np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]]), names=["a\nb", "c"])}
    for title in ("new\nline", "lat\udce9"):
        write(tmp_path / f"{title}.mp4", np.zeros((1, 36, 52, 3), np.uint8), 10)
        video = Video(tmp_path / f"{title}.mp4")
        for suffix in (".jsonl", ".coco.json", ".cvat.xml", ".mot", ".csv"):
            out = exported(tmp_path / f"{title}.out{suffix}", targets, video=video)
            ((_, found),) = read_annotations(out).items()
            assert found[0].names == ["a\nb" if suffix == ".jsonl" else r"a\x0ab", "c"]
        exported(tmp_path / f"{title}.yolo.zip", targets, video=video)
    assert list(read_targets(tmp_path / "lat\udce9.out.jsonl")) == ["lat\udce9.mp4"]


def test_masks_are_davis(tmp_path: Path) -> None:
    targets = followed()
    folder = exported(tmp_path / "a.masks", targets)
    assert sorted(path.name for path in folder.glob("*.png")) == [f"{frame:05d}.png" for frame in range(FRAMES)]
    for frame, target in targets.items():
        assert np.array_equal(read_labels(folder / f"{frame:05d}.png"), np.array(target.mask))
        with Image.open(folder / f"{frame:05d}.png") as image:
            assert image.mode == "P"
            assert (image.getpalette() or [])[3:6] == [128, 0, 0]


def test_yolo_has_a_text_for_every_frame(tmp_path: Path) -> None:
    folder = exported(tmp_path / "a.yolo", followed(masks=False))
    texts = {path.name: path.read_text().splitlines() for path in sorted((folder / "labels").glob("*.txt"))}
    assert list(texts) == [f"array_{frame:06d}.txt" for frame in range(FRAMES)]
    assert [len(lines) for lines in texts.values()] == [2, 2, 1, 1, 2, 2]
    kind, *shares = texts["array_000000.txt"][1].split()
    assert kind == "1"
    np.testing.assert_allclose([float(s) for s in shares], [41 / 52, 24 / 36, 22 / 52, 8 / 36], atol=1e-6)
    assert (folder / "data.yaml").read_text().endswith('names:\n  0: "red fox"\n  1: "a < b & \'c\'"\n')


def test_mot_is_what_trackevals_loader_takes(tmp_path: Path) -> None:
    """The rules of its loader: at least six numbers, whole frames from 1 within seqLength, no id twice in a frame."""
    folder = exported(tmp_path / "a.mot", followed(masks=False))
    info = configparser.ConfigParser()
    info.read(folder / "seqinfo.ini")
    assert info["Sequence"]["seqLength"] == str(FRAMES)
    seen = set()
    for row in csv.reader((folder / "gt" / "gt.txt").open()):
        frame, number, *_, flag, kind, share = map(float, row)
        assert 1 <= frame <= FRAMES
        assert (frame, number) not in seen
        seen.add((frame, number))
        assert flag == share == 1
        assert kind in (1, 2)
    assert len(seen) == 2 * FRAMES - 2
    one = {frame: only(target, [1]) for frame, target in followed(masks=False).items()}
    boxes = read_boxes(exported(tmp_path / "a.otb.txt", {f: one[f] for f in (1, 2, 4)}))
    assert len(boxes) == FRAMES
    assert np.isfinite(boxes).all(1).tolist() == [False, True, True, False, True, False]
    assert boxes[1].tolist() == [3.25, 3, 10, 11.5], "pixels count from 1"
    with pytest.raises(ValueError, match="holds one object, not 2"):
        exported(tmp_path / "b.otb.txt", followed(masks=False))


CVAT_SHAPE = {"frame", "outside", "occluded", "keyframe", "z_order"}
CVAT_OWN = {"box": {"xtl", "ytl", "xbr", "ybr"}, "mask": {"rle", "left", "top", "width", "height"}}


@pytest.mark.parametrize("masks", [False, True])
def test_cvats_xml_has_its_published_structure(masks: bool, tmp_path: Path) -> None:
    root = ElementTree.parse(exported(tmp_path / "a.xml", followed(masks))).getroot()
    assert root.tag == "annotations"
    assert [child.tag for child in root] == ["version", "meta", "track", "track"]
    assert root.findtext("version") == "1.1"
    task = root.find("meta/task")
    assert task is not None
    assert task.findtext("size") == str(FRAMES)
    assert task.findtext("mode") == "interpolation"
    assert [label.findtext("name") for label in task.findall("labels/label")] == ["red fox", "a < b & 'c'"]
    assert task.findtext("original_size/width") == str(WIDTH)
    for track in root.findall("track"):
        assert set(track.attrib) == {"id", "label", "source"}
        frames = [int(shape.attrib["frame"]) for shape in track]
        assert frames == sorted(set(frames))
        for shape in track:
            assert set(shape.attrib) == CVAT_SHAPE | CVAT_OWN[shape.tag]
            assert shape.attrib["keyframe"] == "1"
    gone = [shape.attrib["frame"] for shape in root.findall("track")[1] if shape.attrib["outside"] == "1"]
    assert gone == ["2"], "once, where it leaves"


HOSTILE = {
    "a.xml": ('<!DOCTYPE a [<!ENTITY x "y">]><annotations>&x;</annotations>', "document type"),
    "b.xml": ('<?xml version="1.0"?><annotations><track id="0"><box frame="1" xtl="nan"', "not XML|xtl is a number"),
    "c.xml": ('<annotations><track id="1"><box frame="-1" xtl="0" ytl="0"/></track></annotations>', "frame is a num"),
    "d.xml": ("<svg></svg>", "no annotations of CVAT's kind"),
    "e.xml": ('<annotations><track id="0"><mask frame="0" rle="4" left="0" top="0" width="2" height="2"/></track>'
              "</annotations>", "original_size"),
    "f.json": ('{"images": [], "annotations": [{"image_id": 3}]}', "not listed"),
    "g.json": ('{"images": [{"id": 1, "file_name": "../../etc/passwd"}], "annotations": []}', "cannot name a sequence"),
    "h.json": ('{"what": 1}', "neither COCO's"),
    "i.txt": ("1,1,2,3\n", "line 1: not frame, id"),
    "j.txt": ("1,1,0,0,nan,4,1\n", "line 1"),
    "k.csv": ("frame,id,x,y,width,height\n1,b,2,3,4,5\n", "line 2"),
    "l.txt": ("hello\n", "not annotations of a known form"),
    "m.json": ('{"images": [{"id": 1, "file_name": "a/1.jpg"}], "annotations": [{"image_id": 1, "category_id": 1, '
               '"bbox": [1, 2, 3]}]}', "bbox is x, y, w, h"),
}  # fmt: skip


def coco(*entries: dict[str, Any], numbers: tuple[int, int] = (0, 1)) -> str:
    """Two frames of a clip, and annotations in them: `image` and what else each says."""
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 8, "height": 6, "video_id": 1, "frame_index": number}
              for n, number in enumerate(numbers)]  # fmt: skip
    told = [{"id": row, "image_id": 0, "category_id": 1, **entry} for row, entry in enumerate(entries)]
    return json.dumps({"videos": [{"id": 1, "name": "clip"}], "images": images, "annotations": told})


CSV_HEAD = ("frame", "id", "x", "y", "width", "height")
LEFT, RIGHT = [0, 0, 2, 2], [4, 0, 2, 2]
HOSTILE |= {
    "n.json": (coco({"bbox": LEFT, "track_id": 2**70}), "id of an object is a number from 0"),
    "o.json": (coco({"bbox": LEFT, "track_id": 5}, {"bbox": RIGHT, "track_id": 5}), "object 5 is twice in frame 0"),
    "p.json": (coco({"bbox": LEFT, "track_id": 5}, {"bbox": RIGHT}), "object 5 has an id, and others have none"),
    "q.json": (coco({"bbox": LEFT, "track_id": 5, "score": "high"}), "a score is a number, not 'high'"),
    "r.json": (coco({"bbox": [4, 4, -2, 2], "track_id": 5}), "bbox is x, y, w, h"),
    "s.json": (coco({"bbox": LEFT, "segmentation": {"size": [3, 4], "counts": [2, 10]}}), r"a mask of \(3, 4\) rows"),
    "t.json": (coco({"bbox": LEFT}, numbers=(3, 3)), "two images are frame 3 of clip"),
    "u.csv": ("frame,id,x,y,width,height\n0,1,10,20,20\n", "line 2: it is cut off"),
    "v.csv": ("# a\nframe,id,x,y,width,height\n0,1,10,inf,20,20\n", "line 3: a box has four numbers"),
    "w.csv": ("frame,id,x,y,width,height\n0,-4,1,2,3,4\n", "a number from 0 to .*, not -4"),
    "y.txt": ("1,1,10,20,-20,20,1,-1,-1,-1\n", "frame 0: a box is x, y, w, h, not 10, 20, -20, 20"),
    "z.xml": (
        '<annotations><track id="0"><box frame="3" xtl="9" ytl="0" xbr="4" ybr="2"/></track></annotations>',
        "frame 3: a box is x, y, w, h, not 9, 0, -5, 2",
    ),
    "aa.csv": (f"frame,id,x,y,width,height\n0,1,{'9' * 200_000},2,3,4\n", "aa.csv: field larger than field limit"),
    "ae.xml": ('<?xml version="1.0" encoding="udf-8"?><annotations/>', "ae.xml: unknown encoding: udf-8"),
    "ab.csv": ("frame,id,x,y,width,height\n-1,1,1,2,3,4\n", "frames count from 0, and there is frame -1"),
    "ac.json": (coco({"bbox": "1234", "track_id": 5}), "annotation 0: a bbox is x, y, w, h, not 1234"),
    "ad.json": (
        coco({"segmentation": [[0, 0, 4, 0, 4, 4]], "track_id": 1}).replace('"width": 8', '"width": 1000000000'),
        "ad.json: an image: 1000000000x6 pixels are more than",
    ),
    "x.txt": ("1,1.7,10,20,20,20,1,-1,-1,-1\n", "line 1: not frame, id"),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_bad_annotations_are_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(HOSTILE[name][0])
    with pytest.raises((OSError, ValueError), match=HOSTILE[name][1]) as caught:
        read_annotations(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ids", [(0, 1), (3, 4), ("left", "right"), (2.0, 3.0)])
def test_objects_keep_who_they_are(ids: tuple[Any, Any], tmp_path: Path) -> None:
    """Two objects that change places: by overlap they would be taken for each other."""
    one, other = ids
    places = ((LEFT, one, 0), (RIGHT, other, 0), (RIGHT, one, 1), (LEFT, other, 1))
    rows = [{"bbox": box, "track_id": number, "image_id": image} for box, number, image in places]
    (tmp_path / "a.json").write_text(coco(*rows))
    files = [tmp_path / "a.json"]
    if isinstance(one, int):
        lines = [(image, number, *box) for box, number, image in places]
        (tmp_path / "a.csv").write_text("".join(f"{','.join(map(str, row))}\n" for row in (CSV_HEAD, *lines)))
        (tmp_path / "a.txt").write_text("".join(f"{row[0] + 1},{','.join(map(str, row[1:]))}\n" for row in lines))
        files += [tmp_path / "a.csv", tmp_path / "a.txt"]
    for file in files:
        ((_, found),) = read_annotations(file).items()
        left, right = found[0].ids.tolist()
        assert 0 < left < right
        assert found[1].box(left).tolist() == found[0].box(right).tolist() == RIGHT
        assert found[1].box(right).tolist() == LEFT


def test_a_mask_that_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    """Masks are drawn when they are asked for, and the error still tells whose they are."""
    for shape in ({"size": [6, 8], "counts": [2, 1]}, [[0, 0, 4, 0, 4]], [[0, 0, 4, 0, 4, float("nan")]]):
        (tmp_path / "a.json").write_text(coco({"segmentation": shape, "track_id": 1}))
        found = read_annotations(tmp_path / "a.json")["clip"]
        with pytest.raises(OSError, match=r"a.json: annotation 0: (run lengths add up|a polygon is a list)"):
            found[0]


def test_camera_traps_and_detectors_become_objects(tmp_path: Path) -> None:
    """MegaDetector's shares of the frame, linked over time; COCO Camera Traps' images by folder."""
    rows = [
        {"category": "1", "conf": 0.9, "bbox": [0.1 + t / 100, 0.2, 0.2, 0.2], "frame_number": 10 * t} for t in range(4)
    ]
    weak = {"category": "2", "conf": 0.1, "bbox": [0.5, 0.5, 0.1, 0.1], "frame_number": 0}
    content: dict[str, Any] = {
        "info": {"format_version": "1.5"},
        "detection_categories": {"1": "animal", "2": "person"},
    }
    content["images"] = [{"file": "cam1/a.mp4", "detections": [*rows, weak]}, {"file": "cam1/b.mp4", "detections": []}]
    (tmp_path / "md.json").write_text(json.dumps(content))
    found = read_annotations(tmp_path / "md.json", size=lambda name: (100, 200))
    assert sorted(found) == ["cam1/a.mp4", "cam1/b.mp4"]
    assert sorted(found["cam1/a.mp4"]) == [0, 10, 20, 30]
    assert not len(found["cam1/b.mp4"])
    assert {tuple(target.ids) for target in found["cam1/a.mp4"].values()} == {(1,)}
    np.testing.assert_allclose(found["cam1/a.mp4"][20].box(1), [24, 20, 40, 20])
    assert found["cam1/a.mp4"][0].names == ["animal"]
    traps = {
        "images": [{"id": f"x{n}", "file_name": f"loc1/IMG_{n}.JPG", "seq_id": "s"} for n in (9, 10, 8)],
        "annotations": [{"id": "q", "image_id": "x10", "category_id": 3, "bbox": [1, 2, 3, 4]},
                        {"id": "r", "image_id": "x9", "category_id": 0}],
        "categories": [{"id": 3, "name": "coyote"}, {"id": 0, "name": "empty"}],
    }  # fmt: skip
    (tmp_path / "cct.json").write_text(json.dumps(traps))
    ((name, read),) = read_annotations(tmp_path / "cct.json").items()
    assert (name, sorted(read)) == ("loc1", [2]), "the third in natural order"
    assert read[2].names == ["coyote"]


class Shift(Task):
    """Moves boxes by two pixels a frame, to the right, and a pixel down."""

    takes, gives = ("boxes",), ("boxes", "scores")

    def start(self, frame: np.ndarray, target: Target) -> Any:
        return 0, target

    def step(self, state: Any, frame: np.ndarray, prompt: Target | None = None) -> tuple[Any, dict[int, Target]]:
        number, target = state[0] + 1, prompt or state[1]
        if prompt is None:
            target = Target(
                ids=target.ids, boxes=np.add(np.array(target.boxes), (2, 1, 0, 0)), scores=np.full(len(target.ids), 0.5)
            )
        return (number, target), {number: target}


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ({"boxes": []}, "an answer is a Target, not dict"),
        (Target(ids=[1]), "ids are whole numbers"),  # pyrefly: ignore
        (Target(ids=np.array([1]), boxes=np.zeros((0, 4))), r"boxes are numbers in an array \[1, 4\], not .* \[0, 4\]"),
        (Target(ids=np.array([1]), boxes=np.zeros((1, 5))), r"boxes are numbers"),
        (Target(ids=np.array([1]), scores=np.array(["a"])), r"scores are numbers in an array \[1\]"),
        (Target(ids=np.array([], int), points=np.zeros((2, 2)), visible=np.ones(3)), r"visible are numbers"),
    ],
)
def test_an_answer_of_another_form_is_named(answer: Any, fault: str) -> None:
    """A task of somebody's own may give anything."""

    class Odd(Shift):
        def step(self, state: Any, frame: np.ndarray, prompt: Target | None = None) -> tuple[Any, dict[int, Target]]:
            return (1, state[1]), {1: answer}

    told = {0: Target(ids=np.array([1]), boxes=np.ones((1, 4)))}
    with pytest.raises(ValueError, match=f"^odd, its frame 1: {fault}"):
        list(Engine(Odd(), "cpu").session(told).follow(enumerate(np.zeros((2, 8, 8, 3), np.uint8))))


class EveryOther(Shift):
    """Does not answer its odd frames."""

    def step(self, state: Any, frame: np.ndarray, prompt: Target | None = None) -> tuple[Any, dict[int, Target]]:
        state, found = super().step(state, frame, prompt)
        return state, {} if state[0] % 2 else found


def test_a_frame_that_was_not_answered_is_no_answer(tmp_path: Path) -> None:
    """It is left out, as a frame that cannot be read: neither a box without area nor an object that has gone."""
    video = Video(np.zeros((5, HEIGHT, WIDTH, 3), np.uint8))
    told = {0: Target(ids=np.array([1]), boxes=np.array([[4.0, 5, 10, 12]]))}
    names = ["a.jsonl", "a.csv", "a.mot.txt", "a.otb.txt", "a.coco.json", "a.yolo", "a.cvat.xml", "a.mp4"]
    exports = forms([tmp_path / name for name in names])
    session = Engine(EveryOther(), "cpu").session(told)
    report = Tracking(video, session, range(5), None, tmp_path / "a.jsonl", "none", exports).finish()
    assert report["frames_missed"] == [1, 3]
    assert report["frames_lost"] == {"1": 0}
    assert report["spans"] == {"1": {"first": 0, "last": 4, "gaps": 2}}
    for name in ("a.jsonl", "a.csv", "a.mot.txt", "a.coco.json"):
        (targets,) = read_annotations(tmp_path / name).values()
        boxes = {frame: targets[frame].box().tolist() for frame in targets}
        assert boxes == {0: [4, 5, 10, 12], 2: [8, 7, 10, 12], 4: [12, 9, 10, 12]}, name
    lines = (tmp_path / "a.csv").read_text().splitlines()[2:]
    assert [line.split(",")[0] for line in lines] == ["0", "2", "4"]
    assert np.isnan(read_boxes(tmp_path / "a.otb.txt")).all(1).tolist() == [False, True, False, True, False]
    images = json.loads((tmp_path / "a.coco.json").read_text())["images"]
    assert [image["frame_index"] for image in images] == [0, 2, 4]  # an image without objects is an example, too
    assert len([*(tmp_path / "a.yolo/labels").iterdir()]) == 3
    places = ElementTree.parse(tmp_path / "a.cvat.xml").iter("box")
    assert [int(one.get("outside", "")) for one in places] == [0, 1, 0, 1, 0]
    assert len(Video(tmp_path / "a.mp4")) == 5
    lines = Tracking(video, Engine(EveryOther(), "cpu").session(told), range(5), None, None, "none").finish()["lines"]
    assert [line["frame"] for line in lines] == [0, 2, 4]


def test_labels_of_others_are_prompts_data_and_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CVAT file tells what to follow; what is written is scored against it, under the same names."""
    module = importlib.import_module("dropmae.verbs.track")
    monkeypatch.setattr(module, "load_task", lambda *_, **__: Shift())
    write(tmp_path / "clip.mp4", moving_square(FRAMES), 20)
    boxes = np.array([[20.0 + 2 * t, 16 + t, 24, 20] for t in range(FRAMES)])
    truth = {t: Target(ids=np.array([3]), boxes=boxes[t : t + 1], names=["fox"]) for t in range(FRAMES)}
    exported(tmp_path / "annotations.xml", truth, video=Video(tmp_path / "clip.mp4"))
    exported(tmp_path / "first.xml", {0: truth[0]}, video=Video(tmp_path / "clip.mp4"))
    out = tmp_path / "out" / "clip.mot.txt"
    also = (tmp_path / "out" / "clip.coco.json", tmp_path / "out" / "clip.csv")
    dropmae.track(str(tmp_path / "clip.mp4"), prompts=tmp_path / "first.xml", out=out, also=also)
    ((_, found),) = read_annotations(also[0]).items()
    same(found, truth)
    for results in (out, also[0], also[1]):
        report = dropmae.score("folder", root=tmp_path, results=(results,))
        assert report["success_auc"] == pytest.approx(1, abs=1e-3)
        assert list(report["sequences"]) == ["clip.mp4"]
    (sequence,) = open_source(str(tmp_path)).sequences
    assert sequence.name == "clip.mp4"
    np.testing.assert_allclose(sequence.targets[2].box(), truth[2].box())
    with pytest.raises(ValueError, match=r"x.masks is made of mask, and this gives boxes and scores"):
        dropmae.track(str(tmp_path / "clip.mp4"), box=(20, 16, 24, 20), out=tmp_path / "x.masks")
    dropmae.track(str(tmp_path / "clip.mp4"), box=(20, 16, 24, 20), names=("wolf",), out=tmp_path / "n.jsonl")
    assert {line["name"] for line in map(json.loads, (tmp_path / "n.jsonl").read_text().splitlines())} == {"wolf"}
    with pytest.raises(ValueError, match="2 names for 1 objects in frame 0"):
        dropmae.track(str(tmp_path / "clip.mp4"), box=(20, 16, 24, 20), names=("a", "b"), out=tmp_path / "n.jsonl")
