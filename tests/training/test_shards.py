"""Shards: the same videos as the folder gives, on any address; continued, and what is wrong in one line."""

from __future__ import annotations

import io
import json
import pickle
import signal
import subprocess
import sys
import tarfile
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from fsspec.core import url_to_fs

from dropmae import registry
from dropmae.cli import main
from dropmae.data import shards
from dropmae.data.clips import Clips, Share, batches
from dropmae.data.shards import find_sequences
from dropmae.verbs.prepare import prepare
from dropmae.video import Video, find, write


def texture(seed: int, count: int, side: int = 48) -> list[np.ndarray]:
    big = np.random.default_rng(seed).integers(0, 256, (side + count, side + count, 3)).astype(np.uint8)
    return [big[i : i + side, i : i + side] for i in range(count)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for i in range(6):
        write(root / ("a" if i % 2 else "b") / f"clip{i}.mp4", texture(i, 12 + i), 25)
    (root / "text.mp4").write_text("not a video\n" * 100)
    return root


@pytest.fixture(params=["folder", "file", "memory"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = f"out-{uuid.uuid4().hex}"
    return {
        "folder": str(tmp_path / name),
        "file": f"file://{tmp_path}/{name}",
        "memory": f"memory://bucket/{name}",
    }[request.param]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few kilobytes."""
    made = shards.Packer
    module = sys.modules[prepare.__module__]  # `dropmae.prepare` is the function
    monkeypatch.setattr(module, "Packer", lambda root, form, size, at: made(root, form, 12_000, at))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("frames", [False, True])
def test_shards_give_what_the_folder_gives(videos: Path, out: str, tmp_path: Path, frames: bool) -> None:
    """Of the same files: x264 does not always make the same bytes of small pictures."""
    report = prepare(videos, out, short_side=32, frames=frames, shards=True, workers=1)
    system, path = url_to_fs(out)
    for shard in system.glob(f"{path}/*.tar"):
        with tarfile.open(fileobj=io.BytesIO(system.cat_file(shard))) as archive:
            archive.extractall(tmp_path / "plain")
    assert report["videos"] == 6
    assert [bad["name"] for bad in report["bad"]] == ["text.mp4"]
    plain, packed = find_sequences(tmp_path / "plain"), find_sequences(out)
    assert [sequence.name for sequence in packed] == [sequence.name for sequence in plain]
    assert len({sequence.source.path for sequence in packed}) > 1
    for one, other in zip(plain, packed):
        video = pickle.loads(pickle.dumps(other)).video
        assert (video.shape, video.fps, video.name) == (one.video.shape, one.video.fps, one.video.name)
        assert np.array_equal(video[[11, 3]], one.video[[11, 3]])
        assert np.array_equal(np.stack(list(video)), np.stack(list(one.video)))
    sample = registry.load("methods", "twinmae")(size="tiny", image=32).sample
    share = Share(batch=6, micro=6)
    first, second = (
        next(batches(Clips(found, sample, 0), share, 0, 1, workers)) for found, workers in ((plain, 0), (packed, 1))
    )
    assert torch.equal(first["frames"], second["frames"])
    assert json.loads(system.cat_file(f"{path}/report.json"))["frames"] == report["frames"]
    assert not [name for name in system.ls(path, detail=False) if "staging" in name]


def test_a_shard_is_a_tar_file(videos: Path, tmp_path: Path) -> None:
    prepare(videos, tmp_path / "out", short_side=32, shards=True, workers=1)
    shard = tmp_path / "out" / "000000.tar"
    listed = subprocess.run(["tar", "tf", str(shard)], capture_output=True, text=True, check=True).stdout.split()
    packed = find_sequences(tmp_path / "out")
    assert sorted(listed) == sorted(sequence.name for sequence in packed)
    with tarfile.open(shard) as archive:
        for sequence in packed:
            member = archive.extractfile(sequence.name)
            assert member is not None
            assert member.read() == sequence.source.read()
            assert archive.getmember(sequence.name).offset_data == sequence.source.start
    name = packed[0].name
    assert np.array_equal(Video(f"{shard}::{name}")[5], packed[0].video[5])


@pytest.mark.usefixtures("small")
def test_the_same_command_continues(videos: Path, out: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    for path in find(videos)[:4]:
        write(mine / path.name, list(Video(path)), 25)
    first = prepare(mine, out, short_side=32, shards=True, workers=1)
    system, path = url_to_fs(out)
    before = {name: system.cat_file(name) for name in system.glob(f"{path}/*.tar")}
    assert prepare(mine, out, short_side=32, shards=True, workers=1) == first
    write(mine / "new.mp4", texture(9, 14), 25)
    assert prepare(mine, out, short_side=32, shards=True, workers=1)["videos"] == 5
    after = {name: system.cat_file(name) for name in system.glob(f"{path}/*.tar")}
    assert after.items() > before.items()
    assert len(find_sequences(out)) == 5
    lost = min(after)
    system.rm_file(lost)
    with pytest.raises(FileNotFoundError, match=r"000000\.tar: the shard is missing"):
        find_sequences(out)
    assert prepare(mine, out, short_side=32, shards=True, workers=1)["videos"] == 5
    assert all(len(list(sequence.video)) > 10 for sequence in find_sequences(out))
    with pytest.raises(ValueError, match=r"another form \(short_side 32, now 48\)"):
        prepare(mine, out, short_side=48, shards=True)


def test_killed_at_any_moment_it_continues(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-m", "dropmae", "prepare", str(videos), str(out), "--shards", "--short-side", "32"]
    process = subprocess.Popen([*words, "--workers", "1"], stderr=subprocess.DEVNULL)
    journal = out / ".staging" / "prepare.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not journal.exists() or journal.read_bytes().count(b"\n") < 4):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    waiting = {path.name: path.stat().st_mtime_ns for path in (out / ".staging").rglob("*.mp4")}
    assert waiting
    (out / "000000.tar").write_bytes(b"not in the index")
    with pytest.raises(FileNotFoundError, match="holds no video"):
        find_sequences(out)
    assert prepare(videos, out, short_side=32, shards=True, workers=1)["videos"] == 6
    assert [len(sequence.video) for sequence in find_sequences(out)] == [13, 15, 17, 12, 14, 16]


def test_damage_is_one_line(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    prepare(videos, out, short_side=32, shards=True, workers=1)
    words = ["pretrain", "twinmae", str(out), "--out", str(tmp_path / "run"), "--size", "tiny", "--image", "32"]
    shard, index = out / "000000.tar", out / "index.jsonl"
    whole, lines = shard.read_bytes(), index.read_text()

    def told() -> str:
        capsys.readouterr()
        assert main([*words, "--steps", "1", "--workers", "0"]) == 1
        shown = capsys.readouterr().err.strip().splitlines()
        assert len(shown) == 1
        return shown[0]

    shard.write_bytes(whole[:-100])
    assert "000000.tar: the shard is damaged" in told()
    shard.unlink()
    assert "000000.tar: the shard is missing" in told()
    shard.write_bytes(whole)
    index.write_text(lines[: lines.index("\n", 300) + 1])
    assert "index.jsonl: the index is cut short" in told()
    for text in ("", "{", '{"rows": 1}\n', lines.replace('"offset": ', '"offset": 9999999'), lines[:-20]):
        index.write_text(text)
        assert "index.jsonl: the index is damaged" in told()
    index.unlink()
    assert "its tar files have no index.jsonl" in told()
    words[2] = "memory://nowhere/at-all"
    assert "memory://nowhere/at-all: holds no index.jsonl" in told()
    assert not (tmp_path / "run").exists()


def test_a_damaged_member_is_a_bad_file(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(videos, out, short_side=32, shards=True, workers=1)
    victim = find_sequences(out)[2].source
    data = bytearray((out / "000000.tar").read_bytes())
    data[victim.start : victim.start + victim.length] = bytes(victim.length)
    (out / "000000.tar").write_bytes(data)
    sample = registry.load("methods", "twinmae")(size="tiny", image=32).sample
    clips = Clips(find_sequences(out), sample, 0)
    reports = [report for i in range(6) for report in clips[i]["reports"]]
    assert {name for name, _ in reports} == {"a/clip5.mp4"}
    assert all("000000.tar::a/clip5.mp4" in reason for _, reason in reports)


def test_wrong_places(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="not empty and holds no shards"):
        prepare(videos, tmp_path, shards=True)
    with pytest.raises(ValueError, match="only --shards writes"):
        prepare(videos, "memory://bucket/plain")
    with pytest.raises(ValueError, match="nosuch"):
        prepare(videos, "nosuch://bucket/x", shards=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "thesis.txt"]
