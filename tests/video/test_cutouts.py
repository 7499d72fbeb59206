"""Cut-outs: alpha is what was found, colours and times are the source's, and soft edges are nearer to the truth."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from dropmae.engine import Answer
from dropmae.exports import forms
from dropmae.exports._mattes import Edges
from dropmae.metrics import mattes
from dropmae.target import Target
from dropmae.video import Video, Writer

HEIGHT, WIDTH, FRAMES = 50, 70, 6


def disc(t: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """bool [H, W]: a disc that moves."""
    rows, columns = np.mgrid[:height, :width]
    return np.hypot(rows - 24, columns - 25 - 3 * t) < 12


def filmed(path: Path, times: Any = None) -> Video:
    """A video of colours that name their frame."""
    with Writer(path, Fraction(30000, 1001), crf=4) as writer:
        for t in range(FRAMES):
            frame = np.full((HEIGHT, WIDTH, 3), (40 + 20 * t, 120, 200 - 10 * t), np.uint8)
            writer.write(frame, None if times is None else times[t])
    return Video(path)


def exported(out: Path, video: Video, frames: Any = range(FRAMES), **settings: Any) -> Path:
    (form,) = forms(out, settings).values()
    with form.open(out, video, None) as add:
        for t in frames:
            add(
                Answer(
                    t, video[t], Target(ids=np.array([4]), mask=disc(t, video.height, video.width).astype(np.uint8) * 4)
                )
            )
    return out


def layers(path: Path) -> tuple[list[np.ndarray], list[np.ndarray], list[float], Any]:
    """Alpha uint8 and colours uint8 [H, W, 3] of every frame, their times, and the first frame, as PyAV reads them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        webm = path.suffix == ".webm"
        decoder = av.CodecContext.create("libvpx-vp9", "r") if webm else stream.codec_context
        frames = [
            frame for packet in container.demux(stream) for frame in decoder.decode(packet if packet.size else None)
        ]
        alphas, colours = [], []
        for frame in frames:
            bits = {"yuva420p": 8, "yuva444p10le": 10, "yuva444p12le": 12}[frame.format.name]
            plane = frame.planes[3]
            wide = np.frombuffer(memoryview(plane), np.uint8 if bits == 8 else "<u2")
            alpha = wide.reshape(plane.height, -1)[:, : frame.width]
            alphas.append((alpha >> (bits - 8)).astype(np.uint8))
            colours.append(frame.reformat(format="rgb24").to_ndarray())
        return (
            alphas,
            colours,
            [float(frame.time or 0) for frame in frames],
            (frames[0], stream.average_rate),
        )


@pytest.mark.parametrize("name", ["a.webm", "a.rgba.mov"])
def test_the_alpha_plane_is_the_mask(name: str, tmp_path: Path) -> None:
    video = filmed(tmp_path / "in.mp4")
    alphas, colours, _, (first, rate) = layers(exported(tmp_path / name, video, range(1, 5), edge="hard"))
    assert len(alphas) == FRAMES, "as long as the source"
    assert rate == Fraction(30000, 1001)
    for t in range(FRAMES):
        mask = disc(t) if 1 <= t < 5 else np.zeros((HEIGHT, WIDTH), bool)
        assert np.array_equal(alphas[t], mask * np.uint8(255)), t
        inner = disc(t) & np.roll(disc(t), 3, 0) & np.roll(disc(t), -3, 1)
        if mask.any():
            assert np.abs(colours[t][inner].astype(int) - video[t][inner]).mean() < 3, "the colours are the source's"
            assert colours[t][np.hypot(*np.mgrid[-24:26, -25 - 3 * t : 45 - 3 * t]) > 22].max() < 12, (
                "nothing else is there"
            )
    assert (int(first.colorspace), int(first.color_range)) == video.colours()[2:]  # type: ignore[index]


@pytest.mark.parametrize("name", ["a.webm", "a.rgba.mov"])
def test_times_are_kept_or_what_was_done_is_said(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = [0, 0.1, 0.2, 0.6, 0.7, 0.71]
    video = filmed(tmp_path / "in.mp4", times)
    _, _, found, _ = layers(exported(tmp_path / name, video))
    np.testing.assert_allclose(found, times, atol=2e-3)
    assert "shown again" not in capsys.readouterr().err
    alphas, _, found, _ = layers(exported(tmp_path / name, video, constant_rate=True, edge="hard"))
    np.testing.assert_allclose(np.diff(found), 1 / video.fps, atol=2e-3)
    assert "frames are shown again" in capsys.readouterr().err
    held = [t for t in range(FRAMES) for alpha in alphas if np.array_equal(alpha > 127, disc(t))]
    assert len(held) > FRAMES - 2


def test_pictures_are_rgba(tmp_path: Path) -> None:
    video = filmed(tmp_path / "in.mp4")
    folder = exported(tmp_path / "a.rgba", video, [3, 2], edge="hard")
    assert sorted(path.name for path in folder.glob("*.png")) == ["00002.png", "00003.png"]
    with Image.open(folder / "00003.png") as image:
        pixels = np.asarray(image)
    assert np.array_equal(pixels[..., 3] == 255, disc(3))
    assert np.array_equal(pixels[disc(3)][:, :3], video[3][disc(3)])


def test_soft_edges_are_nearer_to_the_truth() -> None:
    """A disc with a soft rim over another ground, and masks that are off by two pixels, now here, now there."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:160, :200]
    edges, soft, hard, truths = Edges(), list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    ground = 60 + 30 * rng.random((160, 200, 3)).astype(np.float32)
    for t in range(6):
        truth = np.clip((45 - np.hypot(rows - 80, columns - 80 - 2 * t)) / 3 + 0.5, 0, 1)
        frame = truth[..., None] * np.array([190, 90, 60]) + (1 - truth[..., None]) * ground
        mask = np.roll(truth > 0.5, ((-1) ** t, 2 * (-1) ** t), (0, 1))
        soft.append(edges.alpha(frame.astype(np.uint8), mask) / 255)
        hard.append(mask.astype(float))
        truths.append(truth)
    for measure in (mattes.sad, mattes.gradient):
        assert np.mean([measure(*pair) for pair in zip(soft, truths)]) < 0.5 * np.mean(
            [measure(*pair) for pair in zip(hard, truths)]
        )
    moving = [[mattes.dtssd(m[t], truths[t], m[t - 1], truths[t - 1]) for t in range(1, 6)] for m in (soft, hard)]
    assert np.mean(moving[0]) < 0.5 * np.mean(moving[1])
    assert Edges().alpha(np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), bool)).max() == 0
    whole = Edges().alpha(rng.integers(0, 255, (20, 30, 3)).astype(np.uint8), np.ones((20, 30), bool))
    assert whole.min() == 255, "a mask without an edge stays"


def test_errors_of_mattes_are_those_of_the_papers() -> None:
    truth, other = np.zeros((20, 20)), np.zeros((20, 20))
    truth[:, 10:] = 1
    other[:, 11:] = 1
    assert mattes.sad(other, truth) == pytest.approx(0.02)
    ramp = np.tile(np.arange(20) / 20, (20, 1))
    assert mattes._slope(ramp)[10, 10] == pytest.approx(1 / 20, rel=1e-6), "a slope is a slope"
    assert mattes.gradient(truth, truth) == 0
    assert mattes.gradient(other, truth) > 0
    assert mattes.dtssd(truth, truth, other, other) == 0
    assert mattes.dtssd(other, truth, truth, truth) == pytest.approx(100)
