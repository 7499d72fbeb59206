"""The tracker that comes with the package: that it is taken where a box is given, and what it is good for."""

from __future__ import annotations

import numpy as np
import pytest

import dropmae
from dropmae import weights
from dropmae.data.boxtracks import tracks_of
from dropmae.metrics.boxes import iou
from dropmae.rendering.synth import Rendering, render
from dropmae.target import Target

SHIPPED = weights.SHIPPED / "vot.safetensors"
HELD_OUT = 54321
"""Seed of clips that are in no training."""


def test_the_file_is_small_and_says_what_it_is() -> None:
    assert SHIPPED.stat().st_size < 25e6
    header = weights.read_header(SHIPPED)
    assert (header["kind"], header["name"], header["fields"]["size"]) == ("tasks", "vot", "tiny")
    assert SHIPPED.with_name("vot.md").is_file()
    assert SHIPPED.with_name("CREDITS.md").is_file()


def test_it_is_what_follows_a_box(capsys: pytest.CaptureFixture[str]) -> None:
    frames = np.random.default_rng(0).integers(60, 120, (3, 64, 96, 3)).astype(np.uint8)
    found = dict(dropmae.track(frames, box=(20, 16, 30, 24)))
    told = capsys.readouterr().err
    assert "shipped:filters, which comes with the package, is used; shipped:vot is faster and less exact" in told
    assert "shipped:dcf is slower and more exact, and fetches dinov2-s once" in told
    assert sorted(found) == [0, 1, 2]
    assert np.isfinite(found[2].box()).all()


def test_it_follows_better_than_the_first_box() -> None:
    model = weights.load(SHIPPED)
    ours, copied = [], []
    for number in range(4):
        frames, targets = render(HELD_OUT, number, Rendering(frames=16, size=(160, 200), points=0, flow=False))
        tracks = {key: value for key, value in tracks_of(targets).items() if value[0][0] == 0}
        ids = np.array(list(tracks))
        state = model.start(frames[0], Target(ids=ids, boxes=np.stack([boxes[0] for _, boxes in tracks.values()])))
        found = {}
        for frame in frames[1:]:
            state, one = model.step(state, frame)
            found |= one
        for key, (seen, boxes) in tracks.items():
            guesses = np.stack([found[int(t)].box(key) for t in seen[1:]])
            ours.append(iou(guesses, boxes[1:]).mean())
            copied.append(iou(boxes[:1].repeat(len(guesses), 0), boxes[1:]).mean())
    assert np.mean(ours) > np.mean(copied) + 0.1
