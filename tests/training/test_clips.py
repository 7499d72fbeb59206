"""Samples: pairs as the official code draws them, crops, purity, bad files, memory of a data process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dropmae.data import augment
from dropmae.data.clips import Clips, Sequence, frame_pair, generator

MEMORY = """
import resource, sys
from dropmae import registry, video
from dropmae.data.clips import Clips, Sequence
paths = [path for folder in sys.argv[2:] for path in video.find(folder)]
module = registry.load("methods", "dropmae")(size="tiny", image=112)
clips = Clips([Sequence(path.name, path) for path in paths], module.sample, 0)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
for i in range(int(sys.argv[1])):
    clips[i]
    if i + 1 in (100, int(sys.argv[1])):
        print(resident())
"""


def test_pairs_are_drawn_as_the_official_code_draws_them() -> None:
    pairs = [frame_pair(80, (1, 49), generator(0, i)) for i in range(20_000)]
    gaps = Counter(late - early for early, late in pairs)
    assert set(gaps) == set(range(1, 50))
    assert min(early for early, _ in pairs) == 0
    assert max(late for _, late in pairs) == 79
    starts = np.bincount([early for early, _ in pairs], minlength=79)
    assert starts.min() > 0.6 * starts.mean()  # uniform over every frame that has a successor
    late_starts = [late - early for early, late in pairs if early == 70]
    assert set(late_starts) == set(range(1, 10))  # the end of the video bounds the gap


@pytest.mark.parametrize("length", [2, 3, 5, 10])
def test_short_videos_use_what_they_have(length: int) -> None:
    for i in range(200):
        early, late = frame_pair(length, (4, 48), generator(i))
        assert 0 <= early < late < length
        assert late - early >= min(4, length - 1)


def test_one_frame_is_no_pair() -> None:
    with pytest.raises(OSError, match="one frame"):
        frame_pair(1, (1, 49), generator(0))


def test_crops_have_the_area_and_aspect_asked_for() -> None:
    boxes = np.array([augment.crop_box(280, 280, generator(i), (0.2, 0.7)) for i in range(3000)])
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 280).all()
    assert (left + width <= 280).all()
    area, aspect = height * width / 280**2, width / height
    assert area.min() > 0.19
    assert area.max() < 0.71
    assert aspect.min() > 0.74
    assert aspect.max() < 1.35
    assert abs(np.log(aspect).mean()) < 0.03


def test_a_shared_crop_cuts_both_frames_alike() -> None:
    ramp = np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 64, 3)
    same, own = (
        np.asarray(augment.crop_frames([ramp, ramp], generator(1), (32, 32), (0.2, 0.5), flip=0.5, shared=shared))
        for shared in (True, False)
    )
    assert np.array_equal(same[0], same[1])
    assert not np.array_equal(own[0], own[1])


def test_resizing_is_antialiased_bicubic() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(frame).resize((25, 20), Image.Resampling.BICUBIC))
    assert np.array_equal(augment.resize(frame, (20, 25)), expected)
    assert augment.resize(frame, (40, 60)) is frame


def test_a_bad_file_is_replaced_by_a_choice_of_its_own(sequences: list[Sequence]) -> None:
    def sample(sequence: Sequence, rng: np.random.Generator) -> dict:
        if sequence.name in ("clip3", "clip4"):
            raise OSError("torn")
        return {"name": np.array(int(sequence.name.removeprefix("clip")))}

    first, second = Clips(sequences, sample, 0), Clips(sequences, sample, 0)
    forward = [int(first[i]["name"]) for i in range(60)]
    backward = [int(second[i]["name"]) for i in reversed(range(60))][::-1]
    assert forward == backward  # what was read before does not matter
    assert not {3, 4} & set(forward)
    assert first[0].keys() == {"name", "index", "reports"}


def test_no_video_is_an_error() -> None:
    with pytest.raises(ValueError, match="no video"):
        Clips([], lambda sequence, rng: {})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the resident size from /proc")
def test_a_data_process_does_not_grow(test_data: Path) -> None:
    samples = os.environ.get("DROPMAE_MEMORY_SAMPLES", "250")
    folders = [str(test_data / "data" / name) for name in ("clips", "clips-raw")]
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, samples, *folders],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    early, late = map(float, done.stdout.split())
    print(f"{early:.1f} MB at sample 100, {late:.1f} MB at sample {samples}")
    assert late <= early + 15
