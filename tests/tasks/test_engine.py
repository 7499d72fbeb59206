"""The engine: what a task is told, what counts as its answer, order, lag, snapshots, threads, both directions."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dropmae
from dropmae import registry, weights
from dropmae.contracts import Precision, Task
from dropmae.data.clips import Sequence
from dropmae.engine import Engine, follow, pictures
from dropmae.evaluation import answers
from dropmae.target import FIELDS, Target, redacted, says_something
from dropmae.video import Video
from samples import SQUARE, moving_square


def boxes(*rows: Any, ids: Any = None) -> Target:
    return Target(ids=np.array(ids or range(1, len(rows) + 1)), boxes=np.array(rows, np.float64))


class Late(Task):
    """Looks two frames ahead."""

    takes, gives, lag = ("boxes",), ("boxes",), 2

    def __init__(self, slower: int = 0) -> None:
        super().__init__()
        self.wait = self.lag + slower

    def start(self, frame: np.ndarray, target: Target) -> list[int]:
        return [0]

    def step(self, state: list[int], frame: np.ndarray, prompt: Target | None = None) -> tuple[list[int], dict]:
        state.append(state[-1] + 1)
        ready = state[-1] - self.wait
        return state, {ready: Target(ids=np.array([ready]))} if ready > 0 else {}

    def finish(self, state: list[int]) -> dict[int, Target]:
        return {n: Target(ids=np.array([n])) for n in state[max(1, len(state) - self.wait) :]}


class Silent(Task):
    """Answers nothing at all."""

    takes = ("boxes", "mask")

    def start(self, frame: np.ndarray, target: Target) -> int:
        return 0

    def step(self, state: int, frame: np.ndarray, prompt: Target | None = None) -> tuple[int, dict]:
        return state, {}


class Difference(Task):
    """Needs no prompt; its flow from a frame to the next is there once the next one is."""

    gives, lag = ("flow",), 1

    def start(self, frame: np.ndarray, target: Target) -> tuple[int, np.ndarray]:
        self.told = target
        return 0, frame

    def step(self, state: Any, frame: np.ndarray, prompt: Target | None = None) -> tuple[Any, dict]:
        flow = (frame.astype(np.float32) - state[1]).mean(-1, keepdims=True).repeat(2, -1)
        return (state[0] + 1, frame), {state[0]: Target(ids=np.zeros(0, np.int64), flow=flow)}

    def finish(self, state: Any) -> dict[int, Target]:
        return {state[0]: Target(ids=np.zeros(0, np.int64))}


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_tasks_that_look_ahead(count: int) -> None:
    session = Engine(Late(), "cpu").session({3: boxes(SQUARE)})
    found = list(session.follow(pictures(Video(moving_square(3 + count)))))
    assert [answer.frame for answer in found] == list(range(3, 3 + count))
    assert [answer.target.ids[0] for answer in found[1:]] == list(range(1, count))
    assert [answer.given for answer in found] == [True] + [False] * (count - 1)
    for answer in found:
        assert np.array_equal(answer.picture, moving_square(3 + count)[answer.frame])
    assert not session.missed


def test_an_answer_that_is_later_than_promised_is_missed_or_refused() -> None:
    session = Engine(Late(slower=1), "cpu").session({0: boxes(SQUARE)})
    with pytest.raises(ValueError, match="late answers for its frame 1, but only 2 to"):
        list(session.follow(enumerate(moving_square(8))))
    assert session.missed[0] == 1


def test_a_task_that_answers_nothing_misses_every_frame_it_should_have_answered() -> None:
    session = Engine(Silent(), "cpu").session({2: boxes(SQUARE)})
    found = list(session.follow(enumerate(moving_square(8))))
    assert session.missed == [3, 4, 5, 6, 7]
    assert found[0].given
    assert found[0].target.box().tolist() == list(SQUARE)
    assert all(answer.missed and np.isnan(answer.target.box()).all() for answer in found[1:])


@pytest.mark.parametrize("name", ["otb", "folder", "davis"])
def test_nothing_that_is_known_becomes_an_answer(name: str) -> None:
    """The leak test: truth about every frame is there, and none of it reaches the results of a silent task."""
    mask = np.zeros((72, 96), np.uint8)
    mask[20:40, 30:50] = 1
    flow = np.ones((72, 96, 2), np.float32)
    truth = {n: Target(ids=np.array([1]), boxes=np.array([SQUARE]), mask=mask, flow=flow) for n in range(4)}
    bench = registry.load("benchmarks", name)()
    found = answers(Engine(Silent(), "cpu"), bench, Sequence("clip", moving_square(4), truth))
    assert found.missed == [1, 2, 3]
    for frame in (1, 2, 3):
        target = found.targets[frame]
        assert target.flow is None
        assert target.mask is None or not target.mask.any()
        assert target.boxes is None or np.isnan(target.boxes).all()
    assert found.targets[0].flow is None


class Peeking(Silent):
    """Keeps whatever it is told."""

    takes = ("boxes",)

    def start(self, frame: np.ndarray, target: Target) -> int:
        self.told = [target]
        return 0

    def step(self, state: int, frame: np.ndarray, prompt: Target | None = None) -> tuple[int, dict]:
        self.told += [] if prompt is None else [prompt]
        return state, {}


def test_a_task_is_told_nothing_but_what_it_takes() -> None:
    everything: dict[str, Any] = {
        "boxes": np.array([SQUARE]), "mask": np.ones((72, 96), np.uint8), "points": np.ones((2, 2)),
        "visible": np.ones(2, bool), "uncertainty": np.ones(2), "owners": np.ones(2, np.int64),
        "scores": np.ones(1), "boxes3d": np.ones((1, 7)), "clicks": np.ones((1, 2)), "names": ["dog"],
        "classes": {"dog": 1.0},
        "flow": np.ones((72, 96, 2), np.float32), "occluded": np.ones((72, 96), bool),
        "flow_confidence": np.ones((72, 96), np.float32),
    }  # fmt: skip
    assert everything.keys() == FIELDS.keys()
    target = Target(ids=np.array([1]), **everything)
    task = Peeking()
    list(Engine(task, "cpu").session({0: target, 3: target}).follow(enumerate(moving_square(5))))
    assert len(task.told) == 2
    for told in task.told:
        assert [name for name in FIELDS if getattr(told, name) is not None] == ["boxes"]
    assert not says_something(redacted(target, ()))
    assert redacted(target, ("points",)).ids.tolist() == []
    assert {n for n in FIELDS if getattr(redacted(target, ("points",)), n) is not None} == {
        "points", "visible", "owners"
    }  # fmt: skip


def test_a_task_that_is_told_only_what_it_does_not_take_says_so() -> None:
    points = Target(ids=np.zeros(0, np.int64), points=np.ones((1, 2)))
    with pytest.raises(ValueError, match="silent can be told boxes or mask, and what is known there is points"):
        list(Engine(Silent(), "cpu").session({0: points}).follow(enumerate(moving_square(2))))


def test_a_task_without_prompts_answers_for_its_first_frame() -> None:
    frames, task = moving_square(4), Difference()
    found = list(Engine(task, "cpu").session().follow(enumerate(frames)))
    assert [answer.frame for answer in found] == [0, 1, 2, 3]
    assert not any(answer.given or answer.missed for answer in found)
    for answer, (a, b) in zip(found, pairwise(frames)):
        assert answer.target.flow is not None
        assert np.array_equal(answer.target.flow[..., 0], (b.astype(np.float32) - a).mean(-1))
    assert found[3].target.flow is None
    assert not says_something(task.told)
    # What is known of such frames is no prompt.
    truth = {n: Target(ids=np.zeros(0, np.int64), flow=np.zeros((72, 96, 2), np.float32)) for n in range(4)}
    bench = registry.load("benchmarks", "folder")()
    assert sorted(answers(Engine(task, "cpu"), bench, Sequence("clip", frames, truth)).targets) == [0, 1, 2, 3]
    assert not says_something(task.told)


def test_unreadable_frames_are_passed_over_but_for_prompted_ones() -> None:
    frames: list[Any] = list(moving_square(6))
    frames[2] = OSError("2.png: cut off")
    session = Engine(Silent(), "cpu").session({0: boxes(SQUARE)})
    assert [answer.frame for answer in session.follow(enumerate(frames))] == [0, 1, 3, 4, 5]
    assert session.skipped == {2: "2.png: cut off"}
    with pytest.raises(OSError, match="cut off"):
        list(Engine(Silent(), "cpu").session({2: boxes(SQUARE)}).follow(enumerate(frames)))
    with pytest.raises(ValueError, match="no frame 9"):
        list(Engine(Silent(), "cpu").session({9: boxes(SQUARE)}).follow(enumerate(moving_square(3))))


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vot.safetensors"
    torch.manual_seed(0)
    weights.save(registry.load("tasks", "vot")(size="tiny", image=64), path)
    return path


def propagation() -> Any:
    torch.manual_seed(0)
    task = registry.load("tasks", "propagation")(resize="native", multiple=0, context=3)
    task.encoder = registry.load("methods", "mae")(size="tiny", image=64).eval().encoder
    return task


@pytest.mark.parametrize("kind", ["vot", "propagation"])
def test_a_correction_goes_on_from_a_snapshot(kind: str, tracker: Path) -> None:
    engine = Engine(weights.load(tracker) if kind == "vot" else propagation(), "cpu", "fp32")
    frames, correction = moving_square(8), boxes((40.0, 20.0, 24.0, 20.0))
    session, kept = engine.session({0: boxes(SQUARE)}), None
    for number, frame in enumerate(frames):
        if number == 4:
            kept = session.snapshot()
        session.push(number, frame)
    assert kept is not None
    for _ in range(2):  # what is kept can be gone on from more than once
        again = kept.snapshot()
        again.prompts[4] = correction
        resumed = [answer for number in range(4, 8) for answer in again.push(number, frames[number])]
        whole = list(engine.session({0: boxes(SQUARE), 4: correction}).follow(enumerate(frames)))[4:]
        assert [answer.frame for answer in resumed] == [4, 5, 6, 7]
        for a, b in zip(resumed, whole, strict=True):
            np.testing.assert_array_equal(a.target.boxes, b.target.boxes)
    assert 4 not in kept.prompts


class Counting(Silent):
    """Notes in how many threads it is done."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def step(self, state: int, frame: np.ndarray, prompt: Target | None = None) -> tuple[int, dict]:
        self.seen.append(torch.get_num_threads())
        return state, {}


@pytest.mark.parametrize(
    ("small", "given", "threads"),
    [(60.0, False, [1] * 5), (60.0, True, [2] * 5), (0.0, False, [1, 2, 2, 2, 2]), (1e-9, False, [1, 1, 1, 2, 2])],
)
def test_small_steps_are_not_shared_among_threads(
    monkeypatch: pytest.MonkeyPatch, small: float, given: bool, threads: list[int]
) -> None:
    """The first ones tell; what takes a little longer than a small step is tried again before it is believed."""
    times = iter(np.arange(10) * 3e-9)
    monkeypatch.setattr("dropmae.engine.time.thread_time", lambda: next(times))
    monkeypatch.setattr("dropmae.engine.SMALL", small)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
    before, task = torch.get_num_threads(), Counting()
    torch.set_num_threads(2)
    try:
        frames = enumerate(np.zeros((6, 8, 8, 3), np.uint8))
        list(Engine(task, "cpu").session({0: boxes([1, 1, 4, 4])}).follow(frames))
        assert task.seen == threads
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_sessions_in_threads_do_not_disturb_each_other(tracker: Path) -> None:
    engine = Engine(weights.load(tracker), "cpu", "bf16")
    starts = [(20.0, 16.0, 24.0, 20.0), (50.0, 30.0, 20.0, 20.0), (5.0, 5.0, 16.0, 16.0)]

    def run(start: Any) -> list[Any]:
        return [a.target.boxes for a in engine.session({0: boxes(start)}).follow(enumerate(moving_square(8)))]

    alone, together = [run(start) for start in starts], {}
    threads = [threading.Thread(target=lambda n=n: together.update({n: run(starts[n])})) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, expected in enumerate(alone):
        np.testing.assert_array_equal(np.array(together[number]), np.array(expected))


class Forward(Task):
    """Moves what it was told by a pixel a frame, to the right."""

    takes = ("points", "boxes")

    def start(self, frame: np.ndarray, target: Target) -> Any:
        return 0, target

    def step(self, state: Any, frame: np.ndarray, prompt: Target | None = None) -> tuple[Any, dict]:
        index, last = state
        points: Any = None if last.points is None else last.points + np.array([1, 0])
        rows: Any = None if last.boxes is None else last.boxes + np.array([1, 0, 0, 0])
        ids = last.ids
        if prompt is not None and prompt.points is not None:
            points = np.where(np.isfinite(prompt.points), prompt.points, points)
        if prompt is not None and prompt.boxes is not None:
            ids, rows = np.concatenate([ids, prompt.ids]), np.concatenate([rows, prompt.boxes])
        visible = None if points is None else np.isfinite(points).all(1)
        target = Target(ids=ids, points=points, visible=visible, boxes=rows)
        return (index + 1, target), {index + 1: target}


def test_both_directions_join_at_each_query() -> None:
    nan = [np.nan, np.nan]
    prompts = {
        1: Target(ids=np.zeros(0, np.int64), points=np.array([[10.0, 5.0], nan])),
        3: Target(ids=np.zeros(0, np.int64), points=np.array([nan, [30.0, 9.0]])),
    }
    found = follow(Engine(Forward(), "cpu"), Video(moving_square(5)), prompts, "both").targets
    tracks = np.stack([found[n].points[:, 0] for n in range(5)], 1)  # type: ignore[index]
    np.testing.assert_array_equal(tracks[0], [11, 10, 11, 12, 13])  # its query is in frame 1
    np.testing.assert_array_equal(tracks[1], [33, 32, 31, 30, 31])
    ahead = follow(Engine(Forward(), "cpu"), Video(moving_square(5)), prompts).targets
    assert sorted(ahead) == [1, 2, 3, 4]
    objects = {1: boxes((10, 5, 4, 4)), 3: boxes((30, 9, 4, 4), ids=[7])}
    found = follow(Engine(Forward(), "cpu"), Video(moving_square(5)), objects, "both").targets
    assert [found[n].box(7)[0] for n in range(5)] == [33, 32, 31, 30, 31]
    assert [found[n].box(1)[0] for n in range(5)] == [11, 10, 11, 12, 13]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_track_and_evaluate_give_the_same_boxes(precision: Precision, tracker: Path) -> None:
    tracked = {n: t.boxes for n, t in dropmae.track(moving_square(8), weights=tracker, box=SQUARE, precision=precision)}
    engine = Engine(weights.load(tracker), "cpu", precision)
    truth = {n: boxes(SQUARE) for n in range(8)}
    found = answers(engine, registry.load("benchmarks", "otb")(), Sequence("clip", moving_square(8), truth)).targets
    assert engine.precision == precision
    for number, rows in tracked.items():
        np.testing.assert_array_equal(found[number].boxes, rows)


def test_the_precision_is_named(tracker: Path, tmp_path: Path) -> None:
    report = dropmae.track(moving_square(3), weights=tracker, box=SQUARE, out=tmp_path / "o.jsonl", precision="fp32")
    assert report["precision"] == "fp32"
    assert report["weights"] == str(tracker)
    assert Engine(Silent(), "cpu").precision in ("bf16", "fp32")
    with pytest.raises(ValueError, match="fp16 is for GPUs"):
        Engine(Silent(), "cpu", "fp16")


def test_settings_of_trained_weights(tracker: Path) -> None:
    options: dict[str, Any] = {"weights": tracker, "box": SQUARE, "precision": "fp32"}
    plain, large = (
        [t.boxes[0, 2] for _, t in dropmae.track(moving_square(8), **options, set=words)]
        for words in ((), ("margin=23",))
    )
    assert min(plain) < 20
    assert min(large) >= 23
    for word, message in (("inertia", "name=value"), ("image=64", "fixed by the training"), ("inerta=1", "no setting")):
        with pytest.raises(ValueError, match=message):
            dropmae.track(moving_square(8), **options, set=(word,))
    with pytest.raises(ValueError, match="size_smoothing takes float"):
        dropmae.track(moving_square(8), **options, set=("size_smoothing=much",))


@dataclass
class Row:
    """A setting of each kind."""

    flag: bool = False
    count: int | None = 1
    share: float = 0.5
    pair: tuple[int, int] = (1, 2)
    many: tuple[float, ...] = ()
    word: str = ""


def test_settings_as_text() -> None:
    words = registry.assignments(["flag=yes", "count=none", "share=.25", "pair=3,4", "many=1,2.5", "word=a=b"])
    assert registry.parsed(Row, words) == {
        "flag": True, "count": None, "share": 0.25, "pair": (3, 4), "many": (1.0, 2.5), "word": "a=b"
    }  # fmt: skip
    assert registry.parsed(Row, {"count": "7", "flag": "0"}) == {"count": 7, "flag": False}
    for name, text in (("flag", "maybe"), ("pair", "1"), ("share", "x")):
        with pytest.raises(ValueError, match=name):
            registry.parsed(Row, {name: text})


def test_a_tensor_in_bf16_that_numpy_gets_is_one_line() -> None:
    class Careless(Silent):
        def step(self, state: int, frame: np.ndarray, prompt: Target | None = None) -> tuple[int, dict]:
            torch.ones(1, dtype=torch.bfloat16).numpy()
            raise AssertionError

    with pytest.raises(ValueError, match=r"Careless gives NumPy a tensor in bf16.*--precision fp32$"):
        list(Engine(Careless(), "cpu").session({0: boxes(SQUARE)}).follow(enumerate(moving_square(3))))


OLD_STYLE = '''"""As files were written before there were contracts to inherit."""
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
import torch
from torch import nn
from dropmae.target import Target
from dropmae.training import optim


@dataclass(kw_only=True, eq=False, repr=False)
class Older(nn.Module):
    """Flow that is nowhere."""

    lag: ClassVar[int] = 1

    def __post_init__(self):
        super().__init__()
        self.encoder = nn.Linear(1, 1)

    def forward(self, batch):
        return {"loss": self.encoder.weight.sum()}

    def groups(self, options):
        return optim.decay_groups(self)

    def start(self, frame, target):
        return 0, frame

    def step(self, state, frame, prompt=None):
        flow = np.zeros((*frame.shape[:2], 2), np.float32)
        return (state[0] + 1, frame), {state[0]: Target(ids=np.zeros(0, np.int64), flow=flow)}

    def finish(self, state):
        return {state[0]: Target(ids=np.zeros(0, np.int64))}
'''


def test_a_class_that_inherits_no_contract_gets_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "older.py").write_text(OLD_STYLE)
    cls: Any = registry.load("tasks", str(tmp_path / "older.py"))
    assert issubclass(cls, Task)
    assert registry.load("tasks", str(tmp_path / "older.py")) is cls
    task = cls()
    assert (task.takes, task.lag, task.answers_first) == ((), 1, False)
    assert Engine(task, "cpu").precision == "fp32", "it may give its tensors to NumPy, which has no bf16"
    assert [group["names"] for group in task.groups(None)] == [["encoder.bias"], ["encoder.weight"]]
    found = list(Engine(task, "cpu").session().follow(enumerate(moving_square(4))))
    assert [answer.target.flow is not None for answer in found] == [True, True, True, False]
    weights.save(task, tmp_path / "w.safetensors")
    assert type(weights.load(tmp_path / "w.safetensors", code=tmp_path / "older.py")) is cls
