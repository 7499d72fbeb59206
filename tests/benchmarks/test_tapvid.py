"""TAP-Vid: its pickles read as data, its queries, its numbers."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dropmae.benchmarks.tapvid import TAPVid
from dropmae.formats.pickled import read_pickled
from dropmae.metrics import points
from dropmae.target import Target


def video(rng: np.random.Generator, frames: int = 12, count: int = 3) -> dict[str, Any]:
    places = rng.uniform(0.1, 0.9, (count, 1, 2)) + rng.normal(0, 0.01, (count, frames, 2)).cumsum(1)
    hidden = np.zeros((count, frames), bool)
    hidden[0, 4:7], hidden[1, :3] = True, True
    pictures = rng.integers(0, 256, (frames, 20, 30, 3), np.uint8)
    return {"video": pictures, "points": places.astype(np.float32), "occluded": hidden}


def odd(changed: Any) -> dict[str, Any]:
    held = video(np.random.default_rng(0))
    return held | changed(held)


def jpegs(held: dict[str, Any]) -> dict[str, Any]:
    encoded = []
    for frame in held["video"]:
        Image.fromarray(frame).save(stream := io.BytesIO(), "JPEG")
        encoded.append(stream.getvalue())
    return held | {"video": encoded, "points": held["points"].astype(np.float64)}


def targets(sequence: Any) -> dict[int, Any]:
    return dict(sequence.targets)


def perfect(bench: TAPVid, root: Path, out: Path) -> dict[str, Any]:
    for name, clip in bench.annotations(root).items():
        bench.write(name, clip.targets(), out)
    return bench.score(bench.read(out, bench.annotations(root)), bench.annotations(root))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_form_of_file_scores_perfectly(tmp_path: Path, protocol: int) -> None:
    rng = np.random.default_rng(0)
    first, second = video(rng), jpegs(video(rng))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"davis/one": first}, protocol))
    (tmp_path / "b.pkl").write_bytes(pickle.dumps([second], protocol))
    for queries in ("first", "strided"):
        bench = TAPVid(queries=queries)
        report = perfect(bench, tmp_path, tmp_path / queries)
        assert [report[key] for key in ("aj", "delta", "oa", "aj_redetected")] == [1, 1, 1, 1]
        assert list(report["sequences"]) == ["davis/one", "b_0000"]
    one, two = TAPVid().sequences(tmp_path)
    assert one.video[3].shape == two.video[3].shape == (256, 256, 3)
    wanted = np.asarray(Image.fromarray(first["video"][3]).resize((256, 256), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(one.video[3], wanted)
    np.testing.assert_allclose(targets(one)[3].points, first["points"][:, 3] * 256)
    other = targets(TAPVid(raster="cotracker").sequences(tmp_path)[0])
    assert other[0].points[0, 0] == pytest.approx(first["points"][0, 0, 0] * 255)


def test_strided_asks_in_every_fifth_frame(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"one": video(np.random.default_rng(0))}))
    bench = TAPVid(queries="strided")
    (one,) = bench.sequences(tmp_path)
    assert bench.direction == "both"
    assert {frame: int(target.visible.sum()) for frame, target in targets(one).items()} == {0: 2, 5: 2, 10: 3}
    assert all((np.isfinite(target.points[:, 0]) == target.visible).all() for target in targets(one).values())


class Attack:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/dropmae-was-here",)


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        ({"one": Attack()}, "asks for posix.system"),
        ({"one": {"video": np.array([Attack()], object), "points": 0, "occluded": 0}}, "asks for posix.system"),
        ({"one": 3}, "is no video with points"),
        ({"one": {"video": np.zeros((2, 4, 4, 3)), "points": np.zeros((1, 3, 2)), "occluded": np.zeros((1, 2))}},
         "occluded"),
        ({"../one": video(np.random.default_rng(0))}, "cannot name a sequence"),
        ({"one": odd(lambda one: {"video": one["video"] / np.float32(255)})}, "uint8"),
        ({"one": odd(lambda one: {"points": one["points"] * 256})}, "one: points are shares of a frame's sides"),
        ({"one": odd(lambda one: {"points": one["points"] * np.nan})}, "finite where they are seen"),
    ],
)  # fmt: skip
def test_a_file_with_anything_else_is_refused(tmp_path: Path, held: Any, reason: str) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(held))
    with pytest.raises((OSError, ValueError), match=reason) as caught:
        TAPVid().sequences(tmp_path)
    assert "\n" not in str(caught.value)
    assert not Path("/tmp/dropmae-was-here").exists()


@pytest.mark.parametrize(
    ("tracks", "hidden"),
    [
        (np.zeros((3, 12, 1)), np.zeros((3, 12), bool)),
        (np.zeros((3, 12, 4)), np.zeros((3, 12), bool)),
        (np.zeros((3, 12, 2), complex), np.zeros((3, 12), bool)),
        (np.zeros((3, 12, 2)).astype("U8"), np.zeros((3, 12), bool)),
        (np.zeros((3, 12, 2)), np.full((3, 12), np.nan)),
    ],
)
def test_results_of_another_form_are_refused(tmp_path: Path, tracks: np.ndarray, hidden: np.ndarray) -> None:
    """One column would be taken for both of x and y."""
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"one": video(np.random.default_rng(0))}))
    np.savez(tmp_path / "one.npz", tracks=tracks, occluded=hidden)
    with pytest.raises(OSError, match=r"one\.npz: (tracks are numbers \[N, T, 2\]|occluded tells yes or no)"):
        TAPVid().read(tmp_path, TAPVid().annotations(tmp_path))


def test_damaged_pickles_say_so(tmp_path: Path) -> None:
    whole = pickle.dumps({"one": video(np.random.default_rng(0))})
    for size in (0, 10, 200, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a.pkl").write_bytes(whole[:size])
        with pytest.raises(OSError, match=r"a\.pkl: not a readable pickle"):
            read_pickled(tmp_path / "a.pkl")
    claims = b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + b"."
    nested = b"\x80\x04" + b"(" * 3 + b"]" * 100 + b"e" * 3 + b"."
    for data in (claims, nested, b"\x80\x04]\x94h\x00a."):  # the last one is a list within itself
        (tmp_path / "a.pkl").write_bytes(data)
        with pytest.raises(OSError, match="not a readable pickle"):
            read_pickled(tmp_path / "a.pkl")


def test_coming_back_into_sight() -> None:
    visible = np.array([[1, 1, 0, 0, 1, 0, 1], [1, 0, 1, 1, 1, 1, 1]], bool)
    found = points.returned(visible, np.ones_like(visible), np.array([0, 3]))
    assert found.tolist() == [[False] * 4 + [True] * 3, [True] + [False] * 6]


@pytest.mark.data
@pytest.mark.parametrize("queries", ["first", "strided"])
def test_equals_the_reference(test_data: Path, tmp_path: Path, queries: Any) -> None:
    """Against what the code of TAP-Vid gives for the same arrays."""
    expected = json.loads((test_data / "parity/expected/tapvid.json").read_text())["result"][f"{queries}/tapnet"]
    held, results = {}, {}
    for file in sorted((test_data / "parity/inputs/tap").glob("*.npz")):
        given = dict(np.load(file))
        length = given["points"].shape[1]
        pictures = np.zeros((length, 4, 4, 3), np.uint8)
        held[file.stem] = {"video": pictures, "points": given["points"], "occluded": given["occluded"]}
        results[file.stem] = (given["pred_tracks"], given["pred_occluded"])
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(held))
    bench = TAPVid(queries=queries)
    truth = bench.annotations(tmp_path)
    # A row for each query of what was predicted for each track.
    for name, (tracks, hidden) in results.items():
        visible = ~held[name]["occluded"]
        asked = [np.flatnonzero(visible.any(1))] if queries == "first" else [
            np.flatnonzero(visible[:, frame]) for frame in range(0, visible.shape[1], 5)]  # fmt: skip
        rows = np.concatenate(asked)
        results[name] = (tracks[rows], hidden[rows])
    report = bench.score(results, truth)
    wanted = {"aj": "average_jaccard", "delta": "average_pts_within_thresh", "oa": "occlusion_accuracy"}
    for mine, theirs in wanted.items():
        assert report[mine] == pytest.approx(expected[theirs], abs=1e-9), mine
    for limit in points.DISTANCES:
        assert report["points_within"][str(limit)] == pytest.approx(expected[f"pts_within_{limit}"], abs=1e-9)
        assert report["jaccard"][str(limit)] == pytest.approx(expected[f"jaccard_{limit}"], abs=1e-9)
    assert [row["aj"] for row in report["sequences"].values()] == pytest.approx(expected["per_video_AJ"], abs=1e-9)


def test_frames_without_an_answer_are_misses(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"one": video(np.random.default_rng(0))}))
    bench, nobody = TAPVid(), np.zeros(0, np.int64)
    clip = bench.annotations(tmp_path)["one"]
    some = {t: target for t, target in clip.targets().items() if t < 6} | {11: Target(ids=nobody)}
    bench.write("one", some, tmp_path / "out")
    report = bench.score(bench.read(tmp_path / "out", {"one": clip}), {"one": clip})
    assert 0 < report["delta"] < 1
    assert 0 < report["aj"] < 1
