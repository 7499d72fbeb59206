"""Rendered clips: what the annotation says is what the pictures show."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dropmae.rendering.scenes import Scene, Surface
from dropmae.rendering.synth import Rendering, clip_name, frames, render, scene, synth
from dropmae.target import mask_boxes, read_targets
from dropmae.video import Video

PLAIN = Rendering(frames=6, size=(96, 128), lighting=False, blur=False, noise=False)
CLIPS = range(12)
STEP = 20.0
"""Difference of the third colour between neighbouring surfaces in a chart."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Pictures this small are drawn faster by one thread, on a busy machine by far."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Cutout(Surface):
    """A surface whose edge is not smoothed, so that no pixel mixes two surfaces."""

    def pixels_per_unit(self, time: float) -> float:
        return 1e9


class Chart(Scene):
    """A scene whose colours are the coordinates on the surface and the surface's number, unrounded."""

    units: np.ndarray
    """Length of a pixel on each surface."""

    def expose(self, canvas: torch.Tensor, time: int) -> np.ndarray:
        return canvas.permute(1, 2, 0).numpy()

    def miss(self, colours: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Distance [...] in pixels between places on a surface that two colours [..., 3] stand for."""
        numbers = np.round(colours[..., 2] / STEP).astype(int)
        return np.abs(colours - others).max(-1) / self.units[numbers]


def chart(n: int, **changes: Any) -> Chart:
    made = scene(3, n, replace(PLAIN, **changes))
    units = np.array([100 / surface.pixels_per_unit(0) for surface in made.surfaces])
    for index, surface in enumerate(made.surfaces):
        size = surface.picture.shape[-1]
        line = (torch.arange(size) * 2 + 1) / size - 1
        u, v = torch.broadcast_tensors(line[None, :] * 100, line[:, None] * 100)
        number = torch.full((size, size), index * STEP)
        surface.picture = torch.cat([torch.stack([u, v, number]), surface.picture[0, 3:]])[None]
    values = {field.name: getattr(made, field.name) for field in fields(made)}
    values["surfaces"] = [Cutout(**{f.name: getattr(one, f.name) for f in fields(one)}) for one in made.surfaces]
    drawn = Chart(**values)
    drawn.units = units
    return drawn


def pick(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Colours [..., C] of a picture [H, W, C] at points [..., 2], bilinear."""
    height, width = picture.shape[:2]
    grid = torch.from_numpy(points.reshape(1, 1, -1, 2) / [width, height] * 2 - 1)
    source = torch.from_numpy(picture.astype(np.float64)).permute(2, 0, 1)[None]
    found = F.grid_sample(source, grid, padding_mode="border", align_corners=False)[0, :, 0].T
    return found.numpy().reshape(*points.shape[:-1], -1)


def centres(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([x, y], -1)


def pure(colours: np.ndarray) -> np.ndarray:
    """Whether a colour is that of one surface, and no mixture of neighbours."""
    share = colours[..., 2] / STEP
    return np.abs(share - np.round(share)) < 1e-4


@pytest.mark.parametrize("n", CLIPS)
def test_flow_leads_to_the_same_point_of_the_same_surface(n: int) -> None:
    made = chart(n)
    drawn = list(made)
    for (picture, target), (after, _) in pairwise(drawn):
        assert target.flow is not None
        goal = centres(96, 128) + np.nan_to_num(target.flow)
        then = pick(after, goal)
        valid = ~np.isnan(target.flow[..., 0])
        # Bilinear sampling next to the edge of the picture or of a surface mixes what is not known or not the same.
        clear = valid & pure(then) & (goal > 1).all(-1) & (goal < [127, 95]).all(-1)
        clear &= np.abs(then[..., 2] - picture[..., 2]) < 1e-3
        assert clear.sum() > 0.7 * valid.sum()
        error = made.miss(picture[clear], then[clear])
        assert error.max() < 0.1, "pixels, where a bent surface curves between two of them"
        assert np.median(error) < 1e-3
    assert drawn[-1][1].flow is None


@pytest.mark.parametrize("n", CLIPS)
def test_flow_is_missing_where_the_next_frame_does_not_show_the_point(n: int) -> None:
    open_flow, known_flow = list(chart(n, hidden_flow=True)), list(chart(n))
    for (_, full), (picture, target), (after, _) in zip(open_flow, known_flow, known_flow[1:]):
        assert full.flow is not None
        assert target.flow is not None
        valid = ~np.isnan(target.flow[..., 0])
        assert np.isfinite(full.flow).all()
        np.testing.assert_array_equal(full.flow[valid], target.flow[valid])
        goal = np.floor(centres(96, 128) + full.flow).astype(int)
        outside = ((goal < 0) | (goal >= [128, 96])).any(-1)
        assert not valid[outside].any()
        goal = np.clip(goal, 0, [127, 95])
        then = after[goal[..., 1], goal[..., 0]]
        same = np.round(picture[..., 2] / STEP) == np.round(then[..., 2] / STEP)
        np.testing.assert_array_equal(valid[~outside], same[~outside])


@pytest.mark.parametrize("n", CLIPS)
def test_points_stay_on_their_spot(n: int) -> None:
    made = chart(n, points=20, frames=10)
    drawn = list(made)
    targets = [target for _, target in drawn]
    owners = targets[0].owners
    assert owners is not None
    assert len(owners) == 20 * (1 + len(targets[0].ids))
    assert (np.diff(owners) >= 0).all()
    seen, checked = np.full((len(owners), 3), np.nan), 0
    for picture, target in drawn:
        assert target.points is not None
        assert target.visible is not None
        assert target.mask is not None
        np.testing.assert_array_equal(target.owners, owners)
        inside = ((target.points >= 0) & (target.points < [128, 96])).all(1)
        assert not target.visible[~inside].any()
        cells = np.clip(np.floor(target.points).astype(int), 0, [127, 95])
        labels = target.mask[cells[:, 1], cells[:, 0]]
        np.testing.assert_array_equal(labels[target.visible], owners[target.visible])
        colours = pick(picture, target.points)
        margin = ((target.points > 1) & (target.points < [127, 95])).all(1)
        for row in np.flatnonzero(target.visible & margin & pure(colours)):
            if np.isfinite(seen[row]).all():
                assert made.miss(colours[row], seen[row]) < 0.1
                checked += 1
            seen[row] = colours[row]
        # A point that is in the picture but hidden lies under another surface.
        hidden = picture[cells[:, 1], cells[:, 0]]
        for row in np.flatnonzero(inside & ~target.visible & np.isfinite(seen[:, 0])):
            assert round(hidden[row, 2] / STEP) != round(seen[row, 2] / STEP)
    assert checked > 50


def test_boxes_are_tight_around_what_is_visible() -> None:
    absent = whole = part = 0
    for n in range(8):
        for target in render(3, n, replace(PLAIN, frames=40, flow=False))[1].values():
            assert target.mask is not None
            assert target.boxes is not None
            assert target.scores is not None
            ids, boxes = mask_boxes(target.mask, target.ids)
            np.testing.assert_array_equal(target.boxes, boxes)
            np.testing.assert_array_equal(target.ids, np.arange(1, len(ids) + 1))
            missing = np.isnan(boxes[:, 0])
            np.testing.assert_array_equal(target.scores == 0, missing)
            assert (target.scores <= 1).all()
            absent, whole = absent + missing.sum(), whole + (target.scores > 0.95).sum()
            part += ((target.scores > 0) & (target.scores < 0.8)).sum()
    assert min(absent, part) > 3
    assert whole > 50


def test_visible_share_counts_what_is_cut_off_and_covered() -> None:
    """Against pixels: the object's visible area, and its whole area drawn alone on a picture three times as large."""
    compared = 0
    for n in range(40):
        made = scene(5, n, replace(PLAIN, frames=1, foreground=False))
        if made.objects == 0 or len(made.surfaces) != made.objects + 1:
            continue
        (_, target), *_ = list(made)
        for row, surface in enumerate(made.surfaces[1:]):
            shift = np.array([[1, 0, 128], [0, 1, 96], [0, 0, 1]])
            alone = replace(surface, poses=shift @ surface.poses)
            large = Scene(size=(3 * 96, 3 * 128), frames=1, surfaces=[made.surfaces[0], alone], objects=row + 1)
            drawn = next(iter(large))[1].mask
            assert drawn is not None
            area = np.count_nonzero(drawn == row + 1)
            assert target.mask is not None
            assert target.scores is not None
            if area > 300:
                assert abs((target.mask == row + 1).sum() / area - target.scores[row]) < 0.12
                compared += 1
    assert compared > 12


def test_objects_leave_and_come_back() -> None:
    options = replace(PLAIN, frames=60, flow=False, objects=(3, 4))
    returned = 0
    for n in range(6):
        targets = [target for _, target in frames(1, n, options)]
        there = np.array([np.isfinite(target.boxes[:, 0]) for target in targets if target.boxes is not None])
        first, last = there.argmax(0), len(there) - 1 - there[::-1].argmax(0)
        returned += sum(not there[first[k] : last[k], k].all() for k in range(there.shape[1]))
    assert returned >= 3


def test_a_clip_is_a_function_of_seed_and_number() -> None:
    options = Rendering(frames=4, size=(64,))
    pictures, targets = render(7, 2, options)
    render(7, 3, options)
    again, others = render(7, 2, options)
    assert pictures.shape == (4, 64, 64, 3)
    np.testing.assert_array_equal(pictures, again)
    np.testing.assert_array_equal(targets[1].points, others[1].points)
    np.testing.assert_array_equal(targets[1].flow, others[1].flow)
    assert (render(8, 2, options)[0] != pictures).any()
    assert (render(7, 4, options)[0] != pictures).any()


def test_longer_clips_begin_alike_in_what_they_show() -> None:
    short, long = (scene(7, 2, replace(PLAIN, frames=count)) for count in (4, 9))
    assert len(short.surfaces) == len(long.surfaces)
    for one, other in zip(short.surfaces, long.surfaces):
        assert torch.equal(one.picture, other.picture)


def test_scene_and_motion_diversity() -> None:
    """Few scenes share their textures, few motions their poses, and each leaves the other free."""

    def kinds(options: Rendering) -> tuple[int, int]:
        options = replace(options, objects=(2, 2), foreground=False, frames=3)
        made = [scene(0, n, options).surfaces for n in range(8)]
        textures = {surfaces[0].picture.numpy().tobytes() for surfaces in made}
        paths = {np.round(surfaces[-1].poses[:, :2, 2], 6).tobytes() for surfaces in made}
        return len(textures), len(paths)

    assert kinds(PLAIN) == (8, 8)
    assert kinds(replace(PLAIN, scenes=2)) == (2, 8)
    assert kinds(replace(PLAIN, motions=2)) == (8, 2)


SMALL = {"size": (64, 64), "frames": 5}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_holds_videos_and_their_targets(tmp_path: Path) -> None:
    told = synth(str(tmp_path / "a"), clips=2, seed=4, workers=1, **SMALL)
    assert told["rendered"] == 2
    listed = read_targets(tmp_path / "a" / "targets.jsonl")
    assert list(listed) == [clip_name(0), clip_name(1)]
    pictures, targets = render(4, 1, Rendering(**SMALL))
    video = Video(tmp_path / "a" / clip_name(1))
    assert video.shape == pictures.shape
    assert np.abs(video[2].astype(int) - pictures[2]).mean() < 12
    found = listed[clip_name(1)]
    assert sorted(found) == list(range(5))
    for index, target in targets.items():
        kept = found[index]
        assert kept.points is not None
        assert target.points is not None
        np.testing.assert_array_equal(kept.mask, target.mask)
        np.testing.assert_array_equal(kept.boxes, target.boxes)
        np.testing.assert_allclose(kept.points, target.points, atol=6e-4)
        if target.flow is not None:
            assert kept.flow is not None
            np.testing.assert_allclose(kept.flow, target.flow, atol=1 / 128)
    assert found[4].flow is None


def test_the_same_files_with_any_number_of_processes_and_by_steps(tmp_path: Path) -> None:
    synth(str(tmp_path / "one"), clips=3, workers=1, **SMALL)
    synth(str(tmp_path / "two"), clips=3, workers=2, **SMALL)
    synth(str(tmp_path / "steps"), clips=1, workers=1, **SMALL)
    assert synth(str(tmp_path / "steps"), clips=3, workers=1, **SMALL)["rendered"] == 2
    assert synth(str(tmp_path / "steps"), clips=3, workers=1, **SMALL)["rendered"] == 0
    (tmp_path / "steps" / clip_name(1)).unlink()
    assert synth(str(tmp_path / "steps"), clips=3, workers=1, **SMALL)["rendered"] == 1
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "steps")


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dropmae", "synth", str(tmp_path / "killed"), "--clips", "6", "--workers", "1"]
    command += ["--size", "64", "64", "--frames", "5"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "killed").glob(".parts/*.jsonl")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "targets.jsonl").exists()
    told = synth(str(tmp_path / "killed"), clips=6, workers=1, **SMALL)
    assert 0 < told["rendered"] < 6
    synth(str(tmp_path / "whole"), clips=6, workers=1, **SMALL)
    left = {
        name: data for name, data in contents(tmp_path / "killed").items() if not name.endswith((".tmp", ".partial"))
    }
    assert left == contents(tmp_path / "whole")


def test_other_settings_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    synth(str(tmp_path / "a"), clips=1, workers=1, **SMALL)
    before = contents(tmp_path / "a")
    with pytest.raises(ValueError, match=r"speed 1\.0, now 2\.0"):
        synth(str(tmp_path / "a"), clips=1, workers=1, speed=2.0, **SMALL)
    assert contents(tmp_path / "a") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.mp4").touch()
    with pytest.raises(ValueError, match="not empty"):
        synth(str(tmp_path / "mine"), **SMALL)
    assert os.listdir(tmp_path / "mine") == ["holiday.mp4"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (64, 65)}, "even"),
        ({"size": (8,)}, "at least 16"),
        ({"frames": 0}, "at least 1"),
        ({"objects": (3, 2)}, "fewest"),
        ({"scenes": -1}, "negative"),
        ({"clips": 0}, "at least 1"),
        ({"colour": 1}, "no setting 'colour'"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synth(str(tmp_path / "a"), **settings)
    assert not (tmp_path / "a").exists()


def test_any_number_and_size() -> None:
    for size, objects in (((33, 57), (0, 0)), ((16,), (9, 9)), ((40, 90), (30, 30))):
        pictures, targets = render(0, 0, Rendering(size=size, objects=objects, frames=3, points=2))
        assert pictures.shape == (3, size[0], size[-1], 3)
        assert len(targets[0].ids) == objects[0]
        assert targets[0].points is not None
        assert len(targets[0].points) == 2 * (1 + objects[0])


def test_speed() -> None:
    """At speed 0 nothing moves; what moves faster goes further from frame to frame."""
    pictures, _ = render(3, 1, replace(PLAIN, speed=0))
    assert (pictures == pictures[:1]).all()
    lengths = {}
    for speed in (0, 1, 4):
        steps = [
            np.linalg.norm(target.flow, axis=-1).mean()
            for n in range(4)
            for _, target in frames(3, n, replace(PLAIN, speed=speed, hidden_flow=True))
            if target.flow is not None
        ]
        lengths[speed] = np.mean(steps)
    assert lengths[0] < 1e-4
    assert lengths[4] > 2 * lengths[1] > 0


def test_what_is_not_asked_for_is_not_there() -> None:
    _, targets = render(0, 0, Rendering(size=(32,), frames=2, masks=False, flow=False, points=0))
    assert targets[0].mask is None
    assert targets[0].flow is None
    assert targets[0].points is None
    assert targets[0].boxes is not None
