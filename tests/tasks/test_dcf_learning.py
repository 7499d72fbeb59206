"""Learning a tracker's heads on an encoder that learns nothing: what is kept of the data, samples, losses, the verb."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dcf_world import Colours
from dropmae import registry, weights
from dropmae.cli import main
from dropmae.data.mixture import open_source
from dropmae.sequence import Sequence
from dropmae.target import Target, write_targets
from dropmae.tasks.dcf import DCF, learning
from dropmae.video import write

pytestmark = pytest.mark.usefixtures("no_charts")


class Counting(Colours):
    """Colours, with a number that tells one encoder from another, and the crops that it has seen."""

    def __init__(self, number: float = 0.0) -> None:
        super().__init__()
        self.number, self.seen = nn.Parameter(torch.tensor(number)), 0

    def layers(self, frames: Tensor, layers: tuple[int, ...]) -> Tensor:
        self.seen += len(frames)
        return super().layers(frames, layers)


def task_with(encoder: Any, **fields: Any) -> DCF:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"taps": (1,), "widths": (12,), "channels": (6,), "head_width": 16, "head_depth": 1}
    settings: dict[str, Any] = {**sizes, "head_heads": 2, "image": 112, "views": 5, "extent": True, **fields}
    task = DCF(**settings)
    task.encoder = encoder
    return task


def moving(name: str, number: int, frames: int = 8) -> Sequence:
    """A bright thing of 24 x 30 pixels that moves over noise, and a second one that is too small to learn from."""
    rng = np.random.default_rng(number)
    video = rng.integers(0, 90, (frames, 96, 128, 3)).astype(np.uint8)
    targets = {}
    for t in range(frames):
        x, y = 20 + 6 * t, 30 + t
        video[t, y : y + 30, x : x + 24] = (250, 40 * number, 30)
        targets[t] = Target(ids=np.array([1, 2]), boxes=np.array([[x, y, 24.0, 30.0], [5, 5, 3.0, 3.0]]))
    return Sequence(name, video, targets)


def test_views_hold_the_object_where_the_box_says():
    made = learning.views(moving("a", 1), 5, 112)
    assert made.crops.shape == (5, 112, 112, 3)
    assert set(made.owners) == {1}  # the other one is too small
    for crop, (x, y, w, h) in zip(made.crops, made.boxes * 112):
        ys, xs = np.nonzero(crop[..., 0] > 200)
        np.testing.assert_allclose([xs.min(), ys.min()], np.maximum([x, y], 0), atol=1.5)
        np.testing.assert_allclose([xs.max() + 1, ys.max() + 1], np.minimum([x + w, y + h], 112), atol=1.5)
    again = learning.views(moving("a", 1), 5, 112)
    assert np.array_equal(again.crops, made.crops)
    assert not np.array_equal(learning.views(moving("b", 1), 5, 112).boxes, made.boxes)


def test_a_sample_is_a_whole_template_and_another_view_of_the_same_object():
    boxes = np.array(
        [[0.2, 0.2, 0.4, 0.4], [0.7, 0.3, 0.6, 0.4], [0.3, 0.1, 0.3, 0.5], [0.1, 0.1, 0.2, 0.2]], np.float32
    )
    kept = {
        "boxes": boxes,  # the second reaches half out of its crop; the fourth is another object, alone
        "owners": np.array([1, 1, 1, 2]),
        "features": np.arange(4, dtype=np.float16)[:, None, None, None] * np.ones((1, 2, 2, 3), np.float16),
        "filters": np.arange(4, dtype=np.float16)[:, None, None] * np.ones((1, 27, 1), np.float16),
    }
    drawn = [learning.draw(kept, np.random.default_rng(seed)) for seed in range(200)]
    pairs = {(int(one["first"].max()), int(one["search"].max())) for one in drawn}
    assert pairs == {(0, 1), (0, 2), (2, 0), (2, 1)}
    for one in drawn:
        first, last, search = (int(one[name].max()) for name in ("first", "last", "search"))
        assert int(one["filters"].max()) == first
        assert np.array_equal(one["box"], boxes[search])
        assert last in {first, 0, 2} - {search} | {first}
    told = np.array([one["told"] / one["box"][2:] for one in drawn])
    assert np.log(told).std(0) == pytest.approx([np.hypot(*learning.WRONG)] * 2, rel=0.15)
    with pytest.raises(OSError, match="two views"):
        learning.draw({name: value[3:] for name, value in kept.items()}, np.random.default_rng(0))


def test_features_are_looked_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sequences = [moving("a", 1), moving("b", 2)]
    encoder = Counting()
    task = task_with(encoder)
    task.keep_features(sequences, tmp_path)
    assert encoder.seen == 1 + 2 * 5 + 2 * learning.BASIS // 8  # whether it fits, views, and those of the components
    assert "2 videos with 4 objects" in capsys.readouterr().err
    reduced = [value.clone() for name, value in task.head.state_dict().items() if name.startswith("reduce")]
    other = task_with(again := Counting())
    other.keep_features([*sequences, moving("c", 3)], tmp_path)
    assert again.seen == 1 + 5
    mine = [value for name, value in other.head.state_dict().items() if name.startswith("reduce")]
    assert all(torch.equal(value, one) for value, one in zip(mine, reduced))
    kept = {name: t.numpy() for name, t in weights.read_tensors(learning.file_of(tmp_path, sequences[0])).items()}
    views = learning.views(sequences[0], 5, 112)
    seen = task.head.reduced(encoder.layers(torch.from_numpy(views.crops).permute(0, 3, 1, 2), (1,)))
    np.testing.assert_allclose(kept["features"], seen.detach().numpy(), atol=2e-3)
    answer = task.cells(torch.from_numpy(kept["features"]).float()) @ torch.from_numpy(kept["filters"]).float()
    wanted = task.wanted(torch.from_numpy(kept["boxes"]), 8).flatten(1, 2)
    assert float((answer - wanted).square().mean() / wanted.square().mean()) < 0.3  # the filters answer as they should


def test_eight_bits_take_half_the_room_and_are_as_good(tmp_path: Path):
    sequence, kept, drawn = moving("a", 1), [], []
    for bits in (16, 8):
        task = task_with(Counting(), kept_bits=bits, channels=(12,))
        task.keep_features([sequence], folder := tmp_path / str(bits))
        kept.append({name: t.numpy() for name, t in weights.read_tensors(learning.file_of(folder, sequence)).items()})
        drawn.append(task.sample(sequence, np.random.default_rng(0)))
    half, eighth = kept
    assert eighth["features"].dtype == np.int8
    assert eighth["features"].nbytes + eighth["scales"].nbytes < 0.7 * half["features"].nbytes
    for one, other in zip(half["features"], (learning.unpacked(eighth, row) for row in range(len(half["features"])))):
        most = np.abs(one).max((0, 1))
        assert (np.abs(one - other) <= most / 250 + 2e-3).all()  # half a step of 127, and what half precision rounds
    for name, value in drawn[0].items():
        np.testing.assert_allclose(drawn[1][name], value, atol=0.02 * max(1.0, float(np.abs(value).max())))
    task = task_with(Counting(), channels=(12,))
    with pytest.raises(ValueError, match="kept there with another kept_bits"):
        task.keep_features([sequence], tmp_path / "8")
    notes = tmp_path / "16" / "features.json"
    notes.write_text(json.dumps({k: v for k, v in json.loads(notes.read_text()).items() if k != "kept_bits"}))
    task.keep_features([sequence], tmp_path / "16")  # as it was written before there was a choice


def test_components_are_those_of_all_views_and_small_ones_count_too(tmp_path: Path):
    torch.manual_seed(0)
    found = torch.randn(5, 12, 4, 4) * torch.linspace(3, 0.1, 12).view(1, -1, 1, 1) + 2
    task = task_with(Counting())
    cells = task.head.cells.weight.detach().clone()
    made = learning.components(task, found)
    rows = found.flatten(2).transpose(1, 2).flatten(0, 1).numpy()
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    own = made["weight0"].numpy()
    np.testing.assert_allclose(own @ own.T, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(np.abs(np.diag(own @ vectors[:, ::-1][:, :6])), 1, atol=1e-3)
    np.testing.assert_allclose(made["bias0"], -own @ rows.mean(0), atol=1e-4)
    scale = values[::-1][:6] ** -0.25
    np.testing.assert_allclose(made["scale0"], scale / scale.mean(), rtol=0.02)
    learning.project(task, made)
    torch.testing.assert_close(task.head.cells.weight.detach(), cells * made["scale0"])


def test_a_video_without_a_large_box_and_other_labels(tmp_path: Path):
    good, small = moving("a", 1), moving("b", 2)
    tiny = {t: Target(ids=np.array([1]), boxes=np.array([[5, 5, 3.0, 3.0]])) for t in range(8)}
    task = task_with(Counting())
    task.keep_features([good, few := Sequence("b", small.source, tiny)], tmp_path)
    assert task.sample(good, np.random.default_rng(0))["box"].shape == (4,)
    with pytest.raises(OSError, match="no object in it has two views"):
        task.sample(few, np.random.default_rng(0))
    other = Sequence("a", good.source, {t: target for t, target in good.targets.items() if t < 4})
    with pytest.raises(OSError, match="no features of it are kept"):
        task.sample(other, np.random.default_rng(0))  # labelled otherwise, so looked at anew
    again = task_with(encoder := Counting(), head_width=8)
    again.keep_features([other], tmp_path)
    assert encoder.seen == 1 + 4
    with pytest.raises(ValueError, match="can be read and has a box of at least 4 pixels"):
        task_with(Counting()).keep_features([few], tmp_path / "none")
    with pytest.raises(ValueError, match="--taps 1 of widths 5 do not fit the encoder"):
        task_with(Counting(), widths=(5,), channels=(4,)).keep_features([good], tmp_path / "odd")


def test_what_does_not_fit_the_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sequences = [moving("a", 1)]
    task_with(Counting()).keep_features(sequences, tmp_path)
    with pytest.raises(ValueError, match="with another encoder; name another --cache"):
        task_with(Counting(1.0)).keep_features(sequences, tmp_path)
    with pytest.raises(ValueError, match="with another channels, extent"):
        task_with(Counting(), channels=(5,), extent=False).keep_features(sequences, tmp_path)
    heads = task_with(Counting())
    heads.taken_over = True  # trained ones, with projections of their own
    with pytest.raises(ValueError, match="other heads than those of --init"):
        heads.keep_features(sequences, tmp_path)
    with pytest.raises(ValueError, match="no video of the data has a box"):
        task_with(Counting()).keep_features([Sequence("plain", np.zeros((2, 8, 8, 3), np.uint8))], tmp_path / "b")
    with pytest.raises(ValueError, match="name its weights, --trunk"):
        task_with(None).keep_features(sequences, tmp_path / "c")
    lost = Sequence("lost", tmp_path / "none.mp4", sequences[0].targets)
    task_with(Counting()).keep_features([lost, *sequences], tmp_path)
    assert "lost: left out" in capsys.readouterr().err


def test_heads_learn_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sequences = [moving(name, number) for number, name in enumerate("abcd", 1)]
    task = task_with(Counting())
    task.keep_features(sequences, tmp_path)
    names = {name for group in task.groups(None) for name in group["names"]}
    assert "head.cells.weight" in names
    assert not any("reduce" in name or "encoder" in name for name in names)
    samples = [task.sample(sequences[k % 4], np.random.default_rng(k)) for k in range(32)]
    batch: dict[str, Any] = {name: torch.from_numpy(np.stack([s[name] for s in samples])) for name in samples[0]}
    batch |= {"index": torch.arange(32), "seed": 0, "step": 0, "progress": 0.0}
    optimizer = torch.optim.AdamW([p for n, p in task.named_parameters() if n in names], 3e-3)
    found = []
    for _ in range(60):
        values = task(batch)
        optimizer.zero_grad()
        values["loss"].backward()
        optimizer.step()
        found.append({name: float(value.detach()) for name, value in values.items()})
    assert found[-1]["loss"] < 0.6 * found[0]["loss"]
    assert found[-1]["overlap"] > max(0.6, found[0]["overlap"])
    one = batch | {"owner": torch.zeros(32, dtype=torch.int64)}  # nothing else that could be looked for in vain
    monkeypatch.setattr(learning, "ALIEN", 1.0)
    assert float(task(one)["hit"]) > 0.5 > float(task(batch)["hit"])
    alone = task({name: value[:1] if isinstance(value, Tensor) else value for name, value in batch.items()})
    assert all(torch.isfinite(value) for value in alone.values())  # there is no other object in a batch of one


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three labelled clips, and an encoder."""
    root = tmp_path_factory.mktemp("labelled")
    targets = {}
    for number in range(1, 4):
        one = moving(f"clip{number}", number)
        write(root / "clips" / f"clip{number}.mp4", one.source, 10)
        targets[f"clip{number}.mp4"] = dict(one.targets)
    write_targets(root / "clips" / "targets.jsonl", targets)
    torch.manual_seed(0)
    weights.save(registry.load("methods", "mae")(size="tiny", image=64), root / "encoder.safetensors")
    return root


def arguments(labelled: Path, out: Path, *more: str) -> list[str]:
    shape = "--taps 12 --widths 192 --channels 8 --head-width 16 --head-depth 1 --head-heads 2 --image 96 --views 4"
    plain = f"--trunk {labelled / 'encoder.safetensors'} --workers 0 --global-batch 4 --steps 4 --precision fp32"
    return ["finetune", "dcf", str(labelled / "clips"), "--out", str(out), *shape.split(), *plain.split(), *more]


def test_the_verb_trains_heads_that_track(labelled: Path, tmp_path: Path):
    assert main(arguments(labelled, tmp_path / "run")) in (0, None)
    kept = sorted(file.name for file in (tmp_path / "run" / "features").iterdir())
    assert len(kept) == 3 + 2
    assert (tmp_path / "run" / "figures" / "predictions.png").is_file()  # for which the encoder is taken again
    assert "(96 pixels) saw 16 samples from 3 videos" in (tmp_path / "run" / "report.html").read_text()
    header = weights.read_header(tmp_path / "run")
    assert header["name"] == "dcf"
    assert not any(name.startswith("encoder.") for name in weights.read_shapes(tmp_path / "run" / "last.safetensors"))
    command = ["track", str(labelled / "clips" / "clip1.mp4"), "--box", "20", "30", "24", "30"]
    out = tmp_path / "found.jsonl"
    assert main([*command, "--weights", str(tmp_path / "run"), "--out", str(out)]) in (0, None)
    assert len(out.read_text().splitlines()) >= 8


def test_it_goes_on_with_the_encoder_that_it_was_begun_with(labelled: Path, tmp_path: Path):
    whole, half = tmp_path / "whole", tmp_path / "half"
    main(arguments(labelled, whole))
    own = [*arguments(labelled, half)]
    own[own.index("--steps") + 1] = "2"
    assert main(own) in (0, None)
    assert main([*arguments(labelled, half), "--extend"]) in (0, None)
    first, second = (weights.read_tensors(place / "last.safetensors") for place in (whole, half))
    assert {name: value.shape for name, value in first.items()} == {name: value.shape for name, value in second.items()}
    assert torch.equal(first["head.reduce.0.weight"], second["head.reduce.0.weight"])
    lines = (half / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_two_runs_share_what_is_kept_and_learn_alike(labelled: Path, tmp_path: Path):
    cache = ["--cache", str(tmp_path / "cache")]
    main(arguments(labelled, tmp_path / "whole", *cache, "--save-every", "2"))
    made = {
        file.name: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir() if file.suffix == ".safetensors"
    }
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    main(arguments(labelled, tmp_path / "second", *cache, "--save-every", "2"))
    assert {name: (tmp_path / "cache" / name).stat().st_mtime_ns for name in made} == made
    other = (tmp_path / "second" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [json.loads(line)["loss"] for line in other]


def test_while_it_learns_no_encoder_is_held(labelled: Path, tmp_path: Path):
    trunk = str(labelled / "encoder.safetensors")
    task = task_with(None, trunk=trunk, taps=(12,), widths=(192,), image=96)
    task.keep_features([one := moving("a", 1)], tmp_path)
    assert task.eval().encoder is None  # as for a validation
    state = task.start(one.video[0], one.targets[0])
    assert task.encoder is not None
    assert not any(parameter.requires_grad for parameter in task.encoder.parameters())
    assert len(task.step(state, one.video[1])[1][1].ids) == 2


def test_wrong_uses_are_one_line(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(arguments(labelled, tmp_path / "a", "--init", str(labelled / "encoder.safetensors"))) == 2
    assert "is no tracker of this kind: an encoder to learn on is --trunk" in capsys.readouterr().err
    data = ["finetune", "vot", str(labelled / "clips"), "--out", str(tmp_path / "b"), "--cache", str(tmp_path / "c")]
    assert main(data) == 2
    assert "vot trains its own" in capsys.readouterr().err
    assert main(arguments(labelled, tmp_path / "e", "--views", "1")) == 2
    assert "views must be at least 2" in capsys.readouterr().err
    other = arguments(labelled, tmp_path / "f")
    other[other.index("--trunk") + 1] = "shipped:flow"
    assert main(other) == 2
    assert "trunk=shipped:flow: its encoder has no blocks" in capsys.readouterr().err
    made = open_source(f"pseudo_labels={labelled / 'clips'}").sequences
    with pytest.raises(ValueError, match="made anew for each sample"):
        task_with(Counting()).keep_features(made, tmp_path / "d")
