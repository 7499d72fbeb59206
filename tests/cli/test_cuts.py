"""Cuts are found, fast motion is none, and what `track` says of confidence, cuts, times and sound is so."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import dropmae
from dropmae import registry, weights
from dropmae.target import Target, read_targets
from dropmae.verbs._prompts import gather
from dropmae.video import Video, Writer, write
from dropmae.video.cuts import LEAST, cuts, distance, signature
from dropmae.visualize.confidence import Confidence
from samples import moving_squares


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tracker."""
    path = tmp_path_factory.mktemp("weights") / "vot.safetensors"
    weights.save(registry.load("tasks", "vot")(size="tiny", image=64), path)
    return path


def noisy(path: Path, codec: str = "aac", frames: int = 20) -> Path:
    """A video of 10 frames a second with a tone that grows louder."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=10)
        sound: Any = container.add_stream(codec, rate=16000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound.layout = "mono"
        for number, picture in enumerate(moving_squares(1, frames)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.pad(picture, ((0, 0), (0, 16), (0, 0)))))
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(video.encode(frame))
        count = 1600 * frames
        wave = np.sin(np.arange(count) * 0.2) * np.linspace(0, 0.9, count)
        form = "fltp" if codec == "aac" else "s16"
        values = wave.astype(np.float32) if codec == "aac" else (wave * 32000).astype(np.int16)
        piece = av.AudioFrame.from_ndarray(values[None], form, "mono")
        piece.rate = 16000
        container.mux([*sound.encode(piece), *sound.encode(None), *video.encode(None)])
    return path


def loudness(path: Path) -> list[tuple[float, float]]:
    """(seconds, root mean square) of each piece of a file's sound."""
    with av.open(str(path)) as container:
        return [
            (frame.time or 0.0, float(np.sqrt((frame.to_ndarray() ** 2).mean()))) for frame in container.decode(audio=0)
        ]


def test_a_cut_between_clips_is_found() -> None:
    frames = [*moving_squares(1), *moving_squares(2), *moving_squares(3, 3)]
    assert cuts(frames) == [12, 24]
    assert cuts([]) == cuts(frames[:1]) == []


def test_neither_motion_nor_brightness_is_a_cut() -> None:
    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(0, 256, (12, 40, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    assert cuts(scene[:, 14 * k : 14 * k + 256] for k in range(20)) == [], "a fast pan"
    assert cuts((scene * (1 - 0.03 * k)).astype(np.uint8) for k in range(20)) == [], "a fade"


@pytest.mark.parametrize("size", [(5, 7), (48, 64), (1080, 1920)])
def test_signatures_of_any_size(size: tuple[int, int]) -> None:
    black, white = np.zeros((*size, 3), np.uint8), np.full((*size, 3), 255, np.uint8)
    assert distance(signature(black), signature(white)) == 1
    assert distance(signature(black), signature(black)) == 0


def test_real_clips_have_no_cuts_and_their_joints_do(test_data: Path) -> None:
    folder = test_data / "data" / "train" / "clips"
    paths = [path for path in sorted(folder.iterdir())[:8] if not path.stem.endswith("_b")]  # another part of a clip
    clips = [list(Video(path, short_side=128)[:12]) for path in paths]
    assert cuts(frame for clip in clips for frame in clip) == np.cumsum([len(clip) for clip in clips[:-1]]).tolist()
    assert LEAST < 0.1


def test_confidence_in_numbers_and_words() -> None:
    told = Confidence(doubtful_below=0.3)
    for frame, pair in enumerate(((1, 1), (0.8, 0.2), (0.6, np.nan), (0.4, 0.1))):
        told.add(frame, Target(ids=np.array([1, 2]), scores=np.array(pair, float)))
    told.add(4, Target(ids=np.array([1])))
    assert told.summary() == {
        "1": {"mean": 0.7, "lowest": 0.4, "lowest_frame": 3, "doubtful_frames": 0, "doubtful_from": None},
        "2": {"mean": 0.4333, "lowest": 0.1, "lowest_frame": 3, "doubtful_frames": 2, "doubtful_from": 1},
    }
    assert told.lines() == [
        "object 1: confidence 0.70 on average, lowest 0.40 in frame 3",
        "object 2: confidence 0.43 on average, lowest 0.10 in frame 3; doubtful from frame 1 on, in 2 frames",
    ]
    assert Confidence(None).lines() == []


def test_track_says_cuts_doubt_and_times(tracker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "two.mp4", [*moving_squares(1, 6), *moving_squares(2, 6)], 20)
    settings = ("doubtful_below=1.0",)
    out = tmp_path / "o.mp4"
    report = dropmae.track(str(tmp_path / "two.mp4"), weights=tracker, box=(5, 5, 20, 20), set=settings, out=out)
    assert report["cuts"] == [6]
    assert report["confidence"]["1"]["doubtful_frames"] == 11
    assert report["confidence"]["1"]["doubtful_from"] == 1
    told = capsys.readouterr().err
    assert "a cut in the video, at frame 6" in told
    assert "doubtful from frame 1 on, in 11 frames" in told
    assert told.index("loading") < told.index("frame 12/12")
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [line["time"] for line in lines] == pytest.approx([number / 20 for number in range(12)], abs=1e-6)
    (targets,) = read_targets(tmp_path / "o.jsonl").values()
    assert len(targets) == 12, "such lines are read like others"


@pytest.mark.parametrize("name", ["o.mp4", "o.MP4", "o.mov"])
def test_the_overlay_keeps_the_sound(name: str, tracker: Path, tmp_path: Path) -> None:
    source = noisy(tmp_path / "in.mp4")
    dropmae.track(str(source), weights=tracker, box=(5, 5, 20, 20), start=5, stop=15, out=tmp_path / name)
    assert len(Video(tmp_path / name)) == 10
    whole, part = loudness(source), loudness(tmp_path / name)
    assert 0.8 < part[-1][0] < 1.05, "as long as the pictures"
    assert part[0][0] < 0.07
    for seconds, loud in part[2:-2]:
        assert loud == pytest.approx(min(whole, key=lambda row: abs(row[0] - seconds - 0.5))[1], abs=0.03)


def test_no_sound_backwards_or_where_it_does_not_fit(
    tracker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"weights": tracker, "box": (5, 5, 20, 20), "out": tmp_path / "o.mp4"}
    source = noisy(tmp_path / "in.mp4")
    dropmae.track(str(source), start=9, backwards=True, **options)
    assert Video(tmp_path / "o.mp4").details()["sound"] == []
    pcm = noisy(tmp_path / "pcm.mov", "pcm_s16le")
    dropmae.track(str(pcm), stop=4, **options)
    assert "has no sound: its sound is pcm_s16le" in capsys.readouterr().err
    dropmae.track(str(pcm), stop=4, **options | {"out": tmp_path / "o.mov"})
    assert Video(tmp_path / "o.mov").details()["sound"] == ["pcm_s16le, 16000 Hz, 1 channels"]


def test_masks_and_points_may_be_values() -> None:
    video, mask = Video(moving_squares(1)), np.zeros((48, 48), np.uint8)
    mask[10:20, 5:30] = 255
    told = gather(video, (), mask, (), None, 2)
    assert told[2].mask is not None
    assert told[2].mask.max() == 1, "as from a PNG of DAVIS-2016"
    points = gather(video, (), None, [(0, 3, 4), "2,5,6"], None, 0)
    assert sorted(points) == [0, 2]
    np.testing.assert_array_equal(points[2].points, [[np.nan, np.nan], [5, 6]])
    with pytest.raises(ValueError, match="a point is t,x,y"):
        gather(video, (), None, [(0, 3)], None, 0)


def test_frames_are_written_at_their_times(tmp_path: Path) -> None:
    times = [0, 0.04, 0.5, 0.54, 2.0]
    with Writer(tmp_path / "x.mp4", 25) as writer:
        for seconds, frame in zip(times, moving_squares(0)):
            writer.write(frame, seconds)
    np.testing.assert_allclose(Video(tmp_path / "x.mp4").times, times, atol=1e-4)
