"""targets.jsonl: what is written is what is read, and what cannot be read is named."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from dropmae.target import Target, decode_mask, encode_mask, mask_boxes, read_flow, read_targets, write_flow
from dropmae.target import write_targets as write

RNG = np.random.default_rng(0)


def full(frame: int) -> Target:
    mask = np.zeros((20, 30), np.uint8)
    mask[2:9, 3 + frame : 12] = 2
    mask[10:15, 20:29] = 7
    flow = RNG.normal(0, 5, (20, 30, 2)).astype(np.float32)
    flow[3, 4] = np.nan
    return Target(
        ids=np.array([2, 7, 9]),
        boxes=np.array([[3.5 + frame, 2, 8.25, 7], [20, 10, 9, 5], [np.nan] * 4]),
        mask=mask,
        points=RNG.uniform(0, 20, (5, 2)),
        visible=np.array([True, False, True, True, False]),
        owners=np.array([0, 0, 2, 7, 7]),
        flow=flow,
        scores=np.array([0.5, 1, 0]),
        boxes3d=RNG.normal(0, 10, (3, 7)),
    )


def same(one: Target, other: Target) -> None:
    for name in ("ids", "boxes", "mask", "points", "visible", "owners", "flow", "scores", "boxes3d"):
        a, b = getattr(one, name), getattr(other, name)
        if b is None:
            assert a is None, name
            continue
        assert a is not None, name
        assert a.dtype == b.dtype, name
        np.testing.assert_allclose(a, b, atol={"flow": 1 / 128}.get(name, 6e-4), err_msg=name)


def test_everything_comes_back(tmp_path: Path) -> None:
    targets = {frame: full(frame) for frame in (0, 3, 4)}
    write(tmp_path / "targets.jsonl", {"a/clip one.mp4": targets, 'b"\u00e9.mp4': {1: targets[3]}})
    found = read_targets(tmp_path / "targets.jsonl")
    assert list(found) == ["a/clip one.mp4", 'b"\u00e9.mp4']
    assert list(found["a/clip one.mp4"]) == [0, 3, 4]
    assert len(found["a/clip one.mp4"]) == 3
    assert 1 not in found["a/clip one.mp4"]
    for frame, target in targets.items():
        same(found["a/clip one.mp4"][frame], target)
    same(pickle.loads(pickle.dumps(found))["a/clip one.mp4"][4], targets[4])


@pytest.mark.parametrize("missing", ["boxes", "mask", "points", "flow", "scores", "visible", "boxes3d"])
def test_any_field_may_be_missing(tmp_path: Path, missing: str) -> None:
    target = full(0)
    setattr(target, missing, None)
    if missing == "points":
        target.visible = target.owners = None
    write(tmp_path / "t.jsonl", {"v": {0: target}})
    if missing == "visible":
        target.visible = np.ones(5, bool)
    same(read_targets(tmp_path / "t.jsonl")["v"][0], target)


def test_points_of_no_object(tmp_path: Path) -> None:
    target = Target(ids=np.zeros(0, np.int64), points=np.array([[1.0, 2], [3, 4]]), visible=np.array([True, False]))
    write(tmp_path / "t.jsonl", {"v": {0: target}})
    same(read_targets(tmp_path / "t.jsonl")["v"][0], target)


def test_rows_of_points_agree_where_an_object_is_missing(tmp_path: Path) -> None:
    lines = [
        {"video": "v", "frame": 0, "id": 1, "points": [[1, 1], [2, 2]]},
        {"video": "v", "frame": 0, "id": 2, "points": [[3, 3]]},
        {"frame": 1, "video": "v", "id": 2, "points": [[4, 4]], "visible": [0]},
        {"video": "v", "frame": 2, "id": 1, "box": [1, 2, 3, 4]},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    found = read_targets(tmp_path / "t.jsonl")["v"]
    points, visible = found[1].points, found[1].visible
    assert points is not None
    assert visible is not None
    np.testing.assert_array_equal(points, [[np.nan] * 2, [np.nan] * 2, [4, 4]])
    np.testing.assert_array_equal(visible, [False, False, False])
    np.testing.assert_array_equal(found[1].owners, [1, 1, 2])
    assert found[2].points is None
    np.testing.assert_array_equal(found[2].box(1), [1, 2, 3, 4])


def test_a_mask_without_objects_is_still_a_mask(tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl", {"v": {0: Target(ids=np.zeros(0, np.int64), mask=np.zeros((4, 6), np.uint8))}})
    mask = read_targets(tmp_path / "t.jsonl")["v"][0].mask
    assert mask is not None
    assert mask.shape == (4, 6)
    assert not mask.any()


def test_large_ids_and_objects_known_by_their_mask_alone(tmp_path: Path) -> None:
    mask = np.zeros((4, 6), np.int32)
    mask[1:3, 2:5] = 70_000
    write(tmp_path / "t.jsonl", {"v": {0: Target(ids=np.zeros(0, np.int64), mask=mask)}})
    found = read_targets(tmp_path / "t.jsonl")["v"][0]
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_array_equal(found.ids, [70_000])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not JSON"),
        ("[]", 'line 1: not an object with a "video"'),
        ('{"video": "v"}', 'line 1: "frame"'),
        ('{"video": "v", "frame": -1}', 'line 1: "frame"'),
    ],
)
def test_lines_that_cannot_be_read_are_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "t.jsonl").write_text(line + "\n")
    with pytest.raises(OSError, match=message):
        read_targets(tmp_path / "t.jsonl")


@pytest.mark.parametrize(
    "rest",
    [
        '"id": 1, "box": [1, 2, 3]}',
        '"id": 1, "box": "here"}',
        '"id": 1, "box": [1, 2, -3, 4]}',
        '"id": 1, "box": [1, 2, Infinity, 4]}',
        '"id": 1, "box": ["1", "2", "3", "4"]}',
        '"id": 1, "box": [1, 2, true, 4]}',
        '"id": 1, "mask": {"size": [3, 3], "counts": [4]}}',
        '"id": 1, "mask": [1]}',
        '"points": [[1, 2], [3]]}',
        '"points": [[1, 2]], "visible": []}',
        '"id": "car", "box": [1, 2, 3, 4]}',
        '"id": 1, "box": [1, 2',
    ],
)
def test_fields_that_cannot_be_read_are_named(tmp_path: Path, rest: str) -> None:
    (tmp_path / "t.jsonl").write_text('{"video": "v", "frame": 5, ' + rest + "\n")
    with pytest.raises(OSError, match=r"t\.jsonl(: v, frame 5|, line 1)"):
        read_targets(tmp_path / "t.jsonl")["v"][5]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"targets\.jsonl: no such file"):
        read_targets(tmp_path / "targets.jsonl")


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl", {"v": {0: full(0)}})
    before = (tmp_path / "t.jsonl").read_bytes()
    with pytest.raises(AttributeError):
        write(tmp_path / "t.jsonl", {"v": {0: full(1), 1: None}})  # type: ignore[dict-item]
    assert (tmp_path / "t.jsonl").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flow", "t.jsonl"]


def test_flow_is_kept_to_a_64th_of_a_pixel(tmp_path: Path) -> None:
    flow = np.array([[[0, 0.25], [511.9, -511.9], [np.nan, np.nan], [600, 0]]], np.float32)
    write_flow(tmp_path / "f.npz", {3: flow})
    found = read_flow(tmp_path / "f.npz", 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, :2], flow[0, :2], atol=1 / 128)
    assert np.isnan(found[0, 2:]).all(), "beyond 512 pixels there is none"
    with pytest.raises(OSError, match=r"f\.npz: holds no flow for frame 4"):
        read_flow(tmp_path / "f.npz", 4)
    (tmp_path / "f.npz").write_bytes(b"nothing")
    with pytest.raises(OSError, match=r"f\.npz"):
        read_flow(tmp_path / "f.npz", 3)


def test_run_lengths() -> None:
    for mask in (RNG.random((7, 5)) < 0.5, np.zeros((3, 4), bool), np.ones((3, 4), bool), np.zeros((0, 3), bool)):
        np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)
    assert encode_mask(np.array([[1, 0], [1, 1]])) == {"size": [2, 2], "counts": [0, 2, 1, 1]}, "column by column"


def test_boxes_of_masks() -> None:
    mask = np.zeros((10, 12), np.uint8)
    mask[2:5, 3:9], mask[7, 7], mask[0] = 1, 4, 255
    ids, boxes = mask_boxes(mask)
    np.testing.assert_array_equal(ids, [1, 4])
    np.testing.assert_array_equal(boxes, [[3, 2, 6, 3], [7, 7, 1, 1]])
    assert np.isnan(mask_boxes(mask, np.array([9]))[1]).all()
