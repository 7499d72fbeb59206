"""What every task, benchmark, data set and export promises, checked on each file without special cases."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dropmae import contracts, registry, weights
from dropmae.benchmarks.folder import Folder
from dropmae.data.clips import Clips, Sequence, collate, generator
from dropmae.engine import Engine, answers_first
from dropmae.loading import untrained
from dropmae.rendering.synth import Rendering, render, synth
from dropmae.target import FIELDS, Target, redacted, says_something

EVERY = [(folder, name) for folder in contracts.KINDS for name in registry.names(folder)]
TASKS = registry.names("tasks")
LIGHT: dict[str, Any] = {"size": "tiny", "image": 64, "resize": "native"}


@pytest.fixture(scope="module")
def clip() -> Sequence:
    """A rendered clip of which everything is known."""
    frames, targets = render(3, 0, Rendering(frames=8, size=(96, 128), points=8, flow=True))
    targets[0].classes = {"left": 1.0}
    return Sequence("rendered", frames, targets)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Sequence:
    """Rendered scans."""
    root = tmp_path_factory.mktemp("scans")
    synth(str(root), scans=True, clips=1, workers=1, frames=8, beams=24, columns=400, objects=(3, 3), distance=15.0)
    return Folder().sequences(root)[0]


@pytest.fixture
def rendered(request: pytest.FixtureRequest, name: str) -> Sequence:
    """What the task called `name` goes through."""
    return request.getfixturevalue("street" if registry.load("tasks", name).frame_kind == "scan" else "clip")


def small(name: str) -> Any:
    """A task of few parameters: the fields of LIGHT, where it has them."""
    cls = registry.load("tasks", name)
    fields = {field for field, _, _ in registry.fields(cls)}
    torch.manual_seed(0)
    sides = {field.name for field in dataclasses.fields(cls) if isinstance(field.default, tuple)}
    light = {field: value for field, value in LIGHT.items() if field in fields}
    task: Any = cls(**{field: (value, value) if field in sides else value for field, value in light.items()})
    if task.training_free:
        task.encoder = untrained("random:tiny:mae:0:64").encoder
    return task.eval()


@pytest.mark.parametrize(("folder", "name"), EVERY)
def test_is_a_documented_dataclass_of_its_kind(folder: str, name: str) -> None:
    cls = registry.load(folder, name)
    assert issubclass(cls, getattr(contracts, contracts.KINDS[folder]))
    assert cls.__mro__[0].__module__.startswith(f"dropmae.{folder}.{name}"), "it inherits the contract by itself"
    assert dataclasses.is_dataclass(cls)
    assert cls.__doc__
    docs = registry.field_docs(cls)
    assert not [field for field, _, _ in registry.fields(cls) if not docs.get(field)]


@pytest.mark.parametrize(("folder", "name"), EVERY)
def test_members_are_called_as_the_contract_says(folder: str, name: str) -> None:
    """Every public function of a contract that a class replaces takes the same arguments."""
    cls, contract = registry.load(folder, name), getattr(contracts, contracts.KINDS[folder])
    for member, promised in inspect.getmembers(contract, inspect.isfunction):
        own = getattr(cls, member)
        if member.startswith("_") or own is promised or member not in _own_members(contract):
            continue
        wanted, found = inspect.signature(promised).parameters, inspect.signature(own).parameters
        assert list(found)[: len(wanted)] == list(wanted), f"{cls.__name__}.{member}"
        assert all(p.default is not p.empty for p in list(found.values())[len(wanted) :])


def _own_members(contract: type) -> set[str]:
    """Names that the contract and its bases in the package define."""
    return {name for base in contract.__mro__ if base.__module__.startswith("dropmae.") for name in vars(base)}


@pytest.mark.parametrize("name", TASKS)
def test_settings_rebuild_a_task(name: str) -> None:
    task = small(name)
    again = type(task)(**registry.settings(task))
    assert registry.settings(again) == registry.settings(task)
    if not task.training_free:
        shapes = [{n: p.shape for n, p in one.state_dict().items()} for one in (task, again)]
        assert shapes[0] == shapes[1]
    assert {name.split(".")[0] for name in task.state_dict()} <= {"encoder", "decoder", "head"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", TASKS)
def test_a_task_answers_every_frame_with_what_it_gives(name: str, precision: Any, rendered: Sequence) -> None:
    engine = Engine(small(name), "cpu", precision)
    task = engine.task
    for field in task.takes or ("",):
        first = rendered.targets[0]
        if field == "clicks":  # no data set has any
            assert first.boxes is not None
            first = dataclasses.replace(first, clicks=first.boxes[:, :2] + first.boxes[:, 2:] / 2)
        session = engine.session({0: redacted(first, (field,))} if field else {})
        found = list(session.follow(enumerate(rendered.video)))
        assert [answer.frame for answer in found] == list(range(8))
        assert not session.missed
        assert [answer.given for answer in found] == [not answers_first(task), *[False] * 7]
        for answer in found[1:]:
            given = {n for n in FIELDS if getattr(answer.target, n) is not None}
            assert given <= {*task.gives, "owners"}, f"{name} answers {given - set(task.gives)}, which it does not name"
        assert any(says_something(answer.target) for answer in found[1:])


@pytest.mark.parametrize("name", TASKS)
def test_a_copied_state_goes_on_by_itself(name: str, rendered: Sequence) -> None:
    engine = Engine(small(name), "cpu", "fp32")
    task = engine.task
    prompts = {0: redacted(rendered.targets[0], task.takes[:1])} if task.takes else {}
    session = engine.session(prompts)
    for number in range(3):
        session.push(number, rendered.video[number])
    kept = session.snapshot()
    ahead, behind = (
        [answer.target for number in range(3, 8) for answer in one.push(number, rendered.video[number])]
        for one in (session, kept)
    )
    assert len(ahead) == len(behind)
    for a, b in zip(ahead, behind):
        for field in FIELDS:
            one, two = getattr(a, field), getattr(b, field)
            assert (one is None) == (two is None)
            if isinstance(one, np.ndarray):
                np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_learns_or_says_that_it_does_not(name: str, rendered: Sequence, tmp_path: Path) -> None:
    task = small(name)
    if task.frozen:
        task.keep_features([rendered], tmp_path)
    if not task.trainable():
        with pytest.raises(ValueError, match="nothing to train"):
            task.sample(rendered, generator(0))
        return
    first, second = (task.sample(rendered, generator(1, 2)) for _ in range(2))
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])  # NaN is NaN
    clips = Clips([rendered, rendered], task.sample, seed=0)
    batch = collate([clips[i] for i in range(2)])
    batch.pop("reports")
    task.train()
    losses = task({**batch, "seed": 0, "step": 3, "progress": 0.5})
    assert all(value.ndim == 0 and torch.isfinite(value) for value in losses.values())
    losses["loss"].backward()
    assert not [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None]
    named = [n for group in task.groups(None) for n in group["names"]]
    assert sorted(named) == sorted(n for n, p in task.named_parameters() if p.requires_grad)
    task.eval()
    with torch.no_grad():
        values = task.probe({**batch, "seed": 0, "step": 3, "progress": 1.0})
    assert values
    assert all(isinstance(value, float) for value in values.values())


@pytest.mark.parametrize("name", TASKS)
def test_a_task_takes_over_its_own_weights_whole(name: str, tmp_path: Any) -> None:
    task = small(name)
    if task.training_free:
        pytest.skip("it has no weights of its own")
    weights.save(task, tmp_path / "w.safetensors")
    torch.manual_seed(1)
    other = type(task)(**registry.settings(task))
    taken = other.take_over(weights.load(tmp_path / "w.safetensors"), name, "w")
    assert taken.fresh == []
    assert all(torch.equal(a, b) for a, b in zip(task.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("name", TASKS)
def test_what_a_task_does_not_take_is_said(name: str, rendered: Sequence) -> None:
    engine = Engine(small(name), "cpu", "fp32")
    there = [f for f in ("boxes", "mask", "points", "flow") if getattr(rendered.targets[0], f) is not None]
    others = [f for f in there if f not in engine.task.takes]
    for field in others if engine.task.takes else []:
        target = redacted(rendered.targets[0], (field,))
        assert says_something(target)
        with pytest.raises(ValueError, match=f"can be told .*, and what is known there is {field}"):
            engine.session({0: target}).push(0, rendered.video[0])


def scans_in_kitti_layout(root: Any) -> Any:
    from dropmae.video import Video

    (root / "velodyne" / "0000").mkdir(parents=True)
    (root / "calib").mkdir()
    for number in range(2):
        np.zeros((5, 4), np.float32).tofile(root / "velodyne" / "0000" / f"{number:06d}.bin")
    eye = "1 0 0 0 0 1 0 0 0 0 1 0"
    (root / "calib" / "0000.txt").write_text(f"P2: {eye}\nR_rect 1 0 0 0 1 0 0 0 1\nTr_velo_cam {eye}\n")
    return Video(root / "velodyne" / "0000")


@pytest.mark.parametrize("name", registry.names("exports"))
def test_an_export_is_whole_or_not_there(name: str, tmp_path: Any) -> None:
    from dropmae.engine import Answer
    from dropmae.video import Video

    cls: Any = registry.load("exports", name)
    mask = np.zeros((32, 48), np.uint8)
    mask[4:14, 4:14] = 1
    target = Target(ids=np.array([1]), boxes=np.array([[4.0, 4, 10, 10]]), mask=mask if "mask" in cls.needs else None)
    target.boxes3d = np.array([[9.0, 0, 0, 2, 4, 2, 0]]) if "boxes3d" in cls.needs else None
    for suffix in cls.suffixes:
        folder = tmp_path / suffix.strip(".")
        out, video = folder / f"out{suffix}", Video(np.zeros((2, 32, 48, 3), np.uint8))
        if "boxes3d" in cls.needs:
            video = scans_in_kitti_layout(tmp_path / "kitti")
        cls().check(out)
        with cls().open(out, video, 0.5) as add:
            for number in range(2):
                add(Answer(number, video[number], target))
            assert not out.exists()
        before = contents(out)
        assert before
        cls().check(
            out, overwrite=suffix.endswith(".txt")
        )  # its own may be replaced, but lines of numbers have no mark
        with contextlib.suppress(ArithmeticError), cls().open(out, video, None) as add:
            add(Answer(0, video[0], target))
            raise ArithmeticError("something went wrong")
        assert contents(out) == before
        assert [path.name for path in folder.iterdir()] == [out.name]


def contents(out: Any) -> dict[str, bytes]:
    """The bytes of a file, or of all files of a folder."""
    files = sorted(path for path in out.rglob("*") if path.is_file()) if out.is_dir() else [out]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}
