"""Training of tasks: data sources and their mixture, self-made labels, what is taken over, the verb."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dropmae
from dropmae import registry, weights
from dropmae.benchmarks.folder import Folder
from dropmae.cli import main
from dropmae.data.boxtracks import BoxTracks, tracks_of
from dropmae.data.clips import Sequence, generator
from dropmae.data.mixture import Joined, Mixture, open_source
from dropmae.datasets import pseudo_labels
from dropmae.target import Target, read_targets, write_targets
from dropmae.tasks.vot.samples import causal_pair, jittered
from dropmae.training.fit import plan
from dropmae.verbs.finetune import Tuning, finetune, take_over
from dropmae.video import Video, write

pytestmark = pytest.mark.usefixtures("no_charts")

TINY: dict[str, Any] = {"size": "tiny", "image": 64, "workers": 0, "global_batch": 4, "steps": 4}


def picture(number: int, frames: int = 6, size: tuple[int, int] = (64, 80)) -> np.ndarray:
    """uint8 [T, H, W, 3]: smooth noise, shifted by a pixel a frame."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (size[0] // 4, size[1] // 4 + frames, 3)).astype(np.uint8)
    whole = np.asarray(Image.fromarray(coarse).resize((size[1] + 4 * frames, size[0]), Image.Resampling.BICUBIC))
    return np.stack([whole[:, t : t + size[1]] for t in range(frames)])


def boxes(*rows: tuple[float, ...]) -> Target:
    return Target(ids=np.arange(1, len(rows) + 1), boxes=np.array(rows, float))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three labelled clips."""
    root = tmp_path_factory.mktemp("labelled")
    targets = {}
    for number in range(3):
        write(root / f"clip{number}.mp4", picture(number), 10)
        targets[f"clip{number}.mp4"] = {t: boxes((10 - t, 12, 20, 24), (40 - t, 30, 16, 12)) for t in range(6)}
    write_targets(root / "targets.jsonl", targets)
    return root


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of which nothing is known."""
    root = tmp_path_factory.mktemp("unlabelled")
    for number in range(2):
        write(root / f"film{number}.mp4", picture(10 + number, frames=14), 10)
    return root


# ------------------------------------------------------------ which frames, and which crop


def test_pairs_are_causal() -> None:
    frames = np.array([0, 1, 5, 6, 300, 301])
    seen = Counter()
    for i in range(400):
        first, second = causal_pair(frames, 4, generator(0, i))
        assert first < second
        seen[first, second] += 1
    # Frame 1 has none less than 4 later, so it may go less than 9; frame 6 less than 299, the first that will do.
    assert set(seen) == {(0, 1), (1, 2), (1, 3), (2, 3), (3, 4), (3, 5), (4, 5)}
    assert causal_pair(np.array([7]), 4, generator(0)) == (0, 0)
    gaps = [
        frames_[1] - frames_[0] for frames_ in (causal_pair(np.arange(1000), 200, generator(1, i)) for i in range(500))
    ]
    assert min(gaps) >= 1
    assert max(gaps) == 199


def test_jitter() -> None:
    box = np.array([50.0, 40, 20, 30])
    assert jittered(box, 0, 0, generator(0)).tolist() == box.tolist()
    moved = np.stack([jittered(box, 4.5, 0.5, generator(0, i)) for i in range(2000)])
    assert np.log(moved[:, 2] / 20).std() == pytest.approx(0.5, abs=0.03)
    offset = (moved[:, :2] + moved[:, 2:] / 2 - [60, 55]) / np.sqrt(moved[:, 2:].prod(1, keepdims=True))
    assert np.abs(offset).max() <= 2.25
    assert np.abs(offset).max() > 2.2


def test_tracks_of_targets(folder: Path) -> None:
    listed = read_targets(folder / "targets.jsonl")["clip0.mp4"]
    for targets in (listed, BoxTracks(listed), dict(listed)):
        found = tracks_of(targets)
        assert sorted(found) == [1, 2]
        assert found[1][0].tolist() == list(range(6))
        assert found[2][1][3].tolist() == [37, 30, 16, 12]
    hidden = {
        0: Target(ids=np.array([1, 2]), boxes=np.array([[0.0, 0, 5, 5], [1, 1, 4, 4]]), scores=np.array([0, 0.5])),
        1: Target(ids=np.array([1, 2]), boxes=np.array([[np.nan] * 4, [1, 1, 0, 4]])),
    }
    assert {name: frames.tolist() for name, (frames, _) in tracks_of(hidden).items()} == {2: [0]}


# ------------------------------------------------------------ sources


def images(place: Path, count: int) -> None:
    place.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(picture(number, 1)[0]).save(place / f"{number + 1:08d}.jpg")


def test_data_sets_in_their_own_layouts(tmp_path: Path) -> None:
    rows = "".join(f"{10 + t},12,20,24\n" for t in range(4))
    got = tmp_path / "got" / "train"
    images(got / "GOT-10k_Train_000001", 4)
    (got / "list.txt").write_text("GOT-10k_Train_000001\n")
    (got / "GOT-10k_Train_000001" / "groundtruth.txt").write_text(rows)
    (got / "GOT-10k_Train_000001" / "absence.label").write_text("0\n0\n1\n0\n")
    (got / "GOT-10k_Train_000001" / "cover.label").write_text("8\n0\n8\n8\n")
    lasot = tmp_path / "lasot" / "cat"
    for name in ("cat-1", "cat-2"):
        images(lasot / name / "img", 4)
        (lasot / name / "groundtruth.txt").write_text(rows)
        (lasot / name / "full_occlusion.txt").write_text("0,0,0,1")
        (lasot / name / "out_of_view.txt").write_text("0,0,0,0")
    (tmp_path / "lasot" / "testing_set.txt").write_text("cat-2\n")
    net = tmp_path / "net"
    for part in range(12):
        (net / f"TRAIN_{part}" / "anno").mkdir(parents=True)
    images(net / "TRAIN_3" / "frames" / "v_1", 4)
    (net / "TRAIN_3" / "anno" / "v_1.txt").write_text(rows)
    coco = tmp_path / "coco"
    images(coco / "train2017", 2)
    entries = [
        {"id": 5, "image_id": 1, "bbox": [1, 2, 30, 20], "iscrowd": 0},
        {"id": 6, "image_id": 2, "bbox": [1, 2, 30, 20], "iscrowd": 1},
        {"id": 7, "image_id": 2, "bbox": [1, 2, 0, 20], "iscrowd": 0},
        {"id": 8, "image_id": 2, "bbox": [5, 6, 10, 10], "iscrowd": 0},
    ]
    names = [{"id": number, "file_name": f"{number:08d}.jpg"} for number in (1, 2)]
    (coco / "annotations").mkdir()
    (coco / "annotations" / "instances_train2017.json").write_text(
        json.dumps({"images": names, "annotations": entries})
    )
    module: Any = registry.load("tasks", "vot")(size="tiny", image=64)
    expected = {
        f"got10k={tmp_path / 'got'}*2": [0, 3],
        f"lasot={tmp_path / 'lasot'}": [0, 1, 2],
        f"trackingnet={net}": [0, 1, 2, 3],
        f"coco={coco}*0.5": [0],
    }
    sources = [open_source(entry) for entry in expected]
    assert [source.ratio for source in sources] == [2, 1, 1, 0.5]
    assert [len(source.sequences) for source in sources] == [1, 1, 1, 2]
    for source, frames in zip(sources, expected.values(), strict=True):
        sequence = source.sequences[0]
        (track,) = tracks_of(sequence.targets).values()
        assert track[0].tolist() == frames
        sample = module.sample(sequence, generator(0))
        assert sample["search"].shape == (3, 64, 64)
    assert tracks_of(sources[3].sequences[1].targets)[1][1].tolist() == [[5, 6, 10, 10]]
    assert sources[3].sequences[1].name == "00000002.jpg#8"
    # LaSOT counts pixels from 1.
    assert tracks_of(sources[1].sequences[0].targets)[1][1][0].tolist() == [9, 11, 20, 24]
    mixed = Mixture(Joined(sources), module.sample, seed=0, samples=100)
    drawn = Counter(mixed.position(i) for i in range(3000))
    shares = [drawn[0], drawn[1], drawn[2], drawn[3] + drawn[4]]
    assert np.array(shares) / 3000 == pytest.approx(np.array([2, 1, 1, 0.5]) / 4.5, abs=0.03)
    assert mixed.epoch == 100
    assert {name for i in range(8) for name in mixed[i]} == {"template", "search", "box", "inner", "index", "reports"}


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        ("nothing={}", ValueError, "no kind of training data"),
        ("synthetic={}", ValueError, "for testing"),
        ("{}/none", FileNotFoundError, "no such"),
        ("{}", FileNotFoundError, "targets.jsonl"),
        ("selfmade={}", FileNotFoundError, "no video"),
        ("pseudo_labels={}", FileNotFoundError, "no video"),
        ("got10k={}", FileNotFoundError, "train"),
        ("lasot={}", FileNotFoundError, "LaSOT"),
        ("trackingnet={}", FileNotFoundError, "TrackingNet"),
        ("coco={}", FileNotFoundError, "instances_train2017"),
        ("{}*0", ValueError, "positive"),
    ],
)
def test_wrong_entries_are_one_line(
    entry: str, error: type[Exception], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error, match=message):
        open_source(entry.format(tmp_path))
    words = [
        "finetune",
        "vot",
        entry.format(tmp_path),
        "--out",
        str(tmp_path / "run"),
        "--size",
        "tiny",
        "--image",
        "64",
    ]
    assert main(words) == (2 if error is ValueError else 1)
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_bad_sequence_is_replaced_and_named(folder: Path, tmp_path: Path) -> None:
    module: Any = registry.load("tasks", "vot")(size="tiny", image=64)
    source = open_source(str(folder))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    source.sequences = [Sequence("broken", broken, {0: boxes((1, 1, 9, 9))}), source.sequences[0]]
    mixed = Mixture(Joined([source]), module.sample, seed=0)
    reports = [report for i in range(12) for report in mixed[i]["reports"]]
    assert {name for name, _ in reports} == {"broken"}


# ------------------------------------------------------------ labels made of unlabelled video


@pytest.mark.parametrize("way", ["paste", "warp", "cycle"])
def test_self_made_labels(way: str, videos: Path) -> None:
    source = open_source(f"{way}={videos}")
    for i in range(8):
        made, again = (replace(source.sequences[i % 2]).drawn(generator(3, i)) for _ in range(2))
        assert made.video.shape == (2, 64, 80, 3)
        assert np.array_equal(made.video[[0, 1]], again.video[[0, 1]])
        for frame in range(2):
            x, y, w, h = made.targets[frame].box()
            assert min(w, h) > 0
            assert x < 80
            assert y < 64
            assert x + w > 0
            assert y + h > 0
    assert len(open_source(f"selfmade={videos}").sequences) == 2


def test_data_sets_and_benchmarks_of_ones_own(folder: Path, tmp_path: Path) -> None:
    """By the path of their file, beside names and ratios; a plain class is a data set, too."""
    start = (
        "from dataclasses import dataclass\nfrom dropmae.benchmarks.folder import Folder\n\n@dataclass(kw_only=True)\n"
    )
    (tmp_path / "mine.py").write_text(
        f"{start}class Mine:\n    def sequences(self, root, split=None):\n"
        "        return [one for one in Folder().sequences(root) if split in (None, one.name[:1])]\n"
    )
    (tmp_path / "judge.py").write_text(f"{start}class Judge(Folder):\n    contours: bool = False\n")
    names = [one.name for one in open_source(str(folder)).sequences]
    for file in ("mine", "judge"):
        entry = f"{tmp_path / file}.py={folder}*2"
        source = open_source(entry)
        assert ([one.name for one in source.sequences], source.ratio, source.entry) == (names, 2, entry)
        assert isinstance(source.sequences[0].targets, BoxTracks)
    with pytest.raises(FileNotFoundError, match="no labelled video"):
        open_source(f"{tmp_path / 'mine'}.py:x={folder}")


def test_earlier_names_of_training_data(videos: Path) -> None:
    """Run folders and commands hold them: they mean the same."""
    for old, new in (("selfmade", "pseudo_labels"), ("paste", "pseudo_labels:paste")):
        one, other = (open_source(f"{name}={videos}") for name in (old, new))
        made = [source.sequences[0].drawn(generator(1)) for source in (one, other)]
        assert np.array_equal(made[0].source, made[1].source)
        assert one.describe() == {**other.describe(), "entry": f"{old}={videos}"}
    with pytest.raises(ValueError, match="paste, warp, cycle, not by 'glue'"):
        open_source(f"pseudo_labels:glue={videos}")


def test_a_warped_box_holds_the_same_picture() -> None:
    """Corners of the box go where the picture goes: a marked corner is found there again."""
    frame = np.full((120, 160, 3), 100, np.uint8)
    frame[40:70, 60:100] = picture(3, 1, (32, 40))[0][:30]
    for i in range(6):
        frames, (first, second) = pseudo_labels.warp(frame, generator(5, i))
        moved = second.box()
        assert np.array_equal(frames[0], frame)
        if first.box()[0] < 60 and first.box()[0] + first.box()[2] > 100:
            inside = np.abs(frames[1].astype(int) - np.median(frames[1], (0, 1))).max(-1) > 40
            rows, columns = np.nonzero(inside)
            assert moved[0] - 2 <= np.median(columns) <= moved[0] + moved[2] + 2
            assert moved[1] - 2 <= np.median(rows) <= moved[1] + moved[3] + 2


def test_matching_finds_what_moved() -> None:
    """Smooth noise that shifts by a pixel a frame to the left; in another clip nothing is found."""
    frames = picture(0, 10, (96, 128))
    found = pseudo_labels.matched(frames, np.array([60.0, 30, 30, 24]))
    assert found is not None
    np.testing.assert_allclose(found, [51, 30, 30, 24], atol=2.5)
    assert (
        pseudo_labels.matched(np.concatenate([frames[:2], picture(9, 2, (96, 128))]), np.array([60.0, 30, 30, 24]))
        is None
    )
    flat = np.full((3, 40, 40, 3), 7, np.uint8)
    assert pseudo_labels.matched(flat, np.array([5.0, 5, 20, 20])) is None
    assert pseudo_labels.cycle(Video(flat), generator(0)) is None


def test_videos_of_one_frame_teach_too(tmp_path: Path) -> None:
    write(tmp_path / "one.mp4", picture(0, 1), 10)
    source = open_source(f"selfmade={tmp_path}")
    for i in range(6):
        assert len(source.sequences[0].drawn(generator(i)).targets) == 2


# ------------------------------------------------------------ what is taken over


@pytest.mark.parametrize("method", registry.names("methods"))
def test_every_methods_encoder_is_taken_over(method: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    source: Any = registry.load("methods", method)(size="tiny", image=64)
    weights.save(source, tmp_path / "w.safetensors")
    torch.manual_seed(2)
    task: Any = registry.load("tasks", "vot")(size="tiny", image=128)
    taken = take_over(task, tmp_path / "w.safetensors")
    assert torch.equal(task.encoder.blocks[5].mlp.fc1.weight, source.encoder.blocks[5].mlp.fc1.weight)
    known = source.encoder.frame_embed is not None
    identity = {"encoder.frame_embed.x", "encoder.frame_embed.z"}
    assert {name for name in taken.fresh if name.startswith("encoder.")} == (set() if known else identity)
    assert len([name for name in taken.fresh if name.startswith("head.")]) == 90
    if known:
        assert torch.equal(task.encoder.frame_embed.z, source.encoder.frame_embed.z)
    else:
        assert not task.encoder.frame_embed.z.any()
    assert taken.unused == (["encoder.cls_token"] if source.cls else [])
    # Its own grid's table at the search crop's size: the corners of the picture keep their places.
    table = task.encoder.positions.table[0].unflatten(0, (8, 8))
    own = source.encoder.positions((4, 4), torch.device("cpu"))[0].unflatten(0, (4, 4))
    if method == "mgm":  # a frame is in the first slot of time
        own = own + torch.tensor([0.0, 1.0]).repeat_interleave(96)
    torch.testing.assert_close(table.mean((0, 1)), own.mean((0, 1)), atol=0.05, rtol=0)


def test_a_tracker_goes_on_from_a_tracker(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source: Any = registry.load("tasks", "vot")(size="tiny", image=64, identity=False)
    weights.save(source, tmp_path / "w.safetensors")
    task: Any = registry.load("tasks", "vot")(size="tiny", image=128)
    taken = take_over(task, tmp_path / "w.safetensors")
    assert taken.fresh == ["encoder.frame_embed.x", "encoder.frame_embed.z"]
    assert torch.equal(task.head.score[0][0].weight, source.head.score[0][0].weight)
    assert task.encoder.positions.table.shape == (1, 64, 192)


def test_another_size_is_refused(tmp_path: Path) -> None:
    weights.save(registry.load("methods", "dropmae")(size="tiny", image=64), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="size tiny, patch 16, and this task size small"):
        take_over(registry.load("tasks", "vot")(size="small", image=64), tmp_path / "w.safetensors")


# ------------------------------------------------------------ the verb


def test_the_rate_drops_or_falls() -> None:
    steps = plan(Tuning(steps=100, workers=0), 60_000)
    assert steps.lr(0) == pytest.approx(2.5e-4)
    assert steps.lr(79) == pytest.approx(2.5e-4)
    assert steps.lr(80) == pytest.approx(2.5e-5)
    official = plan(Tuning(workers=0), 60_000)
    assert official.steps == 46_875
    assert official.epoch == 468.75
    assert plan(Tuning(drop="80ep", workers=0), 60_000).lr(37_500) == pytest.approx(2.5e-5)
    cosine = plan(Tuning(steps=100, schedule="cosine", warmup="10", workers=0), 60_000)
    assert cosine.lr(5) == pytest.approx(1.25e-4)
    assert cosine.lr(55) == pytest.approx(1.25e-4, rel=1e-6)


def test_a_run_and_what_it_leaves(folder: Path, videos: Path, tmp_path: Path) -> None:
    weights.save(registry.load("methods", "mae")(size="tiny", image=64), tmp_path / "w.safetensors")
    data = [f"{folder}*2", f"selfmade={videos}"]
    report = finetune("vot", data, init=tmp_path / "w.safetensors", out=tmp_path / "run", validate_every="2", **TINY)
    assert report["steps"] == 4
    assert report["unused"] == ["encoder.cls_token"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4]
    assert {"loss", "iou", "giou", "l1", "focal"} <= lines[0].keys()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [source["entry"] for source in config["data"]["sources"]] == data
    made: Any = dropmae.load(tmp_path / "run")
    assert type(made).__name__ == "VOT"
    header = weights.read_header(tmp_path / "run")
    assert header["training"]["options"]["lr"] == 5e-4
    # The same again is finished, also without what it began from; another configuration is named.
    (tmp_path / "w.safetensors").unlink()
    again = finetune("vot", data, init=tmp_path / "w.safetensors", out=tmp_path / "run", validate_every="2", **TINY)
    assert again["steps"] == 4
    with pytest.raises(ValueError, match=r"data\.sources was"):
        finetune("vot", [str(folder)], init=tmp_path / "w.safetensors", out=tmp_path / "run", **TINY)
    with pytest.raises(ValueError, match=r"fields\.drop_path was 0\.1, now 0\.5"):
        finetune("vot", data, init=tmp_path / "w.safetensors", out=tmp_path / "run", drop_path=0.5, **TINY)


def test_a_killed_run_goes_on_as_if_it_had_not_been(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Stopped after two of four steps; batch statistics are in the checkpoint too."""
    finetune("vot", [str(folder)], out=tmp_path / "whole", save_every="2", **TINY)
    from dropmae.training import learner

    class Stopped(Exception):
        pass

    step = learner.Learner.step
    done = []

    def counted(self: Any, *arguments: Any) -> Any:
        if len(done) == 2:
            raise Stopped
        done.append(1)
        return step(self, *arguments)

    monkeypatch.setattr(learner.Learner, "step", counted)
    with pytest.raises(Stopped):
        finetune("vot", [str(folder)], out=tmp_path / "parts", save_every="2", **TINY)
    monkeypatch.undo()
    finetune("vot", [str(folder)], out=tmp_path / "parts", save_every="2", **TINY)
    first, second = (weights.read_tensors(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "finetune",
        "vot",
        str(folder),
        "--out",
        str(tmp_path / "run"),
        "--size",
        "tiny",
        "--image",
        "64",
        "--json",
    ]
    words += ["--steps", "1", "--global-batch", "2", "--workers", "0", "--validation", str(folder)]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 1
    for wrong, message in ((["--keep", "2"], "keep"), (["--epoch-samples", "0"], "epoch-samples")):
        assert main([*words[:4], str(tmp_path / "other"), *words[5:], *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main(["finetune", "propagation", str(folder), "--out", str(tmp_path / "other")]) == 2
    assert "nothing to train" in capsys.readouterr().err


def test_what_track_writes_can_be_learned_from(folder: Path, tmp_path: Path) -> None:
    """Lines that name their videos by the path from where they are make a training folder."""
    (sequence, *_) = Folder().sequences(folder)
    (tmp_path / "videos").symlink_to(folder)
    write_targets(tmp_path / "targets.jsonl", {"videos/clip0.mp4": dict(sequence.targets)})
    source = open_source(str(tmp_path))
    module: Any = registry.load("tasks", "vot")(size="tiny", image=64)
    assert module.sample(source.sequences[0], generator(0))["box"].shape == (4,)
