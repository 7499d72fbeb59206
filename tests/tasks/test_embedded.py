"""A tracker in a folder of its own does what the task does: in Python without PyTorch, and in C++."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch

import dropmae
from dropmae import registry, weights
from dropmae.cli import main
from dropmae.rendering.synth import Rendering, render
from dropmae.storage import mark
from dropmae.target import Target
from dropmae.tasks.vot import crops
from dropmae.verbs.convert import EMBEDDED, convert

FILES = {"template.onnx", "step.onnx", "step.int8.onnx", "tracker.py", "tracker.cpp", "README.md", ".made-by"}
SOURCES = Path(crops.__file__).parent / "embedded"
STAND_IN = Path(__file__).parents[1] / "fixtures"
"""Holds a header that stands in for onnxruntime's."""
BOXES = np.array([[30.0, 40, 50, 40], [150, 100, 80, 90], [-10, 120, 40, 60], [90.5, 20.25, 33.3, 21.7]])
"""Within the frames of `clip`, and out over its edges."""

onnxruntime = pytest.importorskip("onnxruntime", reason="embedded trackers run in onnxruntime")
pytest.importorskip("onnxscript", reason="writing ONNX files needs onnxscript")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("embedded") / "folder"
    convert(Path("shipped:vot"), place)
    return place


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """uint8 [12, 160, 220, 3]."""
    return np.asarray(render(3, 0, Rendering(frames=12, size=(160, 220), points=0, flow=False))[0])


@pytest.fixture(scope="module")
def code() -> Any:
    """The module tracker.py, by its path as a user has it."""
    spec = importlib.util.spec_from_file_location("embedded_tracker", SOURCES / "tracker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def followed(clip: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """[T, N, 4] of `track`."""
    steps = dropmae.track(clip, weights="shipped:vot", box=tuple(boxes.ravel().tolist()), precision="fp32")
    return np.stack([target.boxes for _, target in steps])


# ------------------------------------------------------------ the folder


def test_what_is_written(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == FILES
    for name in ("tracker.py", "tracker.cpp", "README.md"):
        assert (folder / name).read_bytes() == (SOURCES / name).read_bytes()
    told = onnxruntime.InferenceSession(folder / "step.int8.onnx").get_modelmeta().custom_metadata_map
    assert {"image": "128", "search_factor": "3.5", "size_smoothing": "0.85", "window": "1"}.items() <= told.items()
    home = str(Path(dropmae.__file__).parent).encode()
    assert not any(home in path.read_bytes() for path in folder.iterdir())
    assert (folder / "step.int8.onnx").stat().st_size < 0.4 * (folder / "step.onnx").stat().st_size


def test_the_loop_in_cpp_is_short() -> None:
    assert len((SOURCES / "tracker.cpp").read_text().splitlines()) < 300


def test_a_report_and_what_may_be_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = registry.load("tasks", "vot")(size="tiny", image=64)
    weights.save(made, tmp_path / "w.safetensors")
    out = tmp_path / "out"
    out.mkdir()
    (out / ".made-by").write_text(mark(EMBEDDED))
    (out / "old.onnx").write_text("an earlier one's")
    report = convert(tmp_path / "w.safetensors", out)
    assert report["difference"] < 1e-4
    assert report["to"] == "folder"
    assert report["bytes"] == sum(report["files"].values())
    assert {path.name for path in out.iterdir()} == FILES
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    capsys.readouterr()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for more in ([], ["--overwrite"]):
        assert main(["convert", str(tmp_path / "w.safetensors"), str(tmp_path / "mine"), *more]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert "is not empty: choose another --out" in said[0]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("source", "more", "message"),
    [
        ("shipped:vot", {"half": True}, "leave --half, --encoder-only and --objects out"),
        ("shipped:vot", {"objects": 4}, "leave --half, --encoder-only and --objects out"),
        ("shipped:encoder", {}, "has no form as a folder: name a file to write"),
        ("shipped:filters", {}, "dcf has no form as a folder"),
        ("shipped:tap", {}, "tap has no form as a folder"),
    ],
)
def test_what_cannot_be_embedded(source: str, more: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        convert(Path(source), tmp_path / "out", **more)
    assert not list(tmp_path.iterdir())


def test_a_template_that_needs_the_first_box(tmp_path: Path) -> None:
    weights.save(
        registry.load("tasks", "vot")(size="tiny", image=64, ce_template_range="box"), tmp_path / "w.safetensors"
    )
    with pytest.raises(ValueError, match="ce_template_range=box cannot be embedded"):
        convert(tmp_path / "w.safetensors", tmp_path / "out")


# ------------------------------------------------------------ in Python


def test_it_needs_numpy_and_onnxruntime_alone(folder: Path) -> None:
    """All else of what is installed is out of reach."""
    script = (
        "import importlib.abc, sys\n"
        "class Only(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'dropmae', 'onnx', 'PIL', 'cv2', 'scipy', 'av'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Only())\n"
        f"sys.path.insert(0, {str(folder)!r})\n"
        "import numpy as np\nfrom tracker import Tracker\n"
        "made = Tracker(int8=True)\n"
        "frame = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)\n"
        "made.start(frame, (20, 30, 40, 30))\n"
        "boxes, scores = made.step(frame)\n"
        "print(boxes.shape, scores.shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 4) (1,)"


def test_crops_are_those_of_the_task(code: Any) -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (70, 110, 3), dtype=np.uint8)
    regions = [crops.Region(*map(int, row)) for row in rng.integers((-60, -60, 1), (120, 80, 200), (300, 3))]
    regions += [crops.Region(-5, -7, 64), crops.Region(20, 3, 64), crops.Region(-500, 0, 20), crops.Region(0, 0, 3000)]
    for place in regions:
        np.testing.assert_array_equal(code.cut(frame, code.Region(*place), 32), crops.cut(frame, place, 32), str(place))
    for box in rng.uniform((-20, -20, 0.01, 0.01), (110, 70, 90, 90), (200, 4)):
        assert tuple(code.region(box, 3.5)) == tuple(crops.region(box, 3.5))


def test_boxes_are_those_of_track(folder: Path, clip: np.ndarray, code: Any) -> None:
    expected = followed(clip, BOXES)
    made = code.Tracker(folder)
    made.start(clip[0], BOXES)
    found = np.stack([BOXES, *(made.step(frame)[0] for frame in clip[1:])])
    np.testing.assert_allclose(found, expected, atol=0.02)
    alone = code.Tracker(folder)
    alone.start(clip[0], BOXES[1])
    np.testing.assert_allclose([alone.step(frame)[0][0] for frame in clip[1:]], expected[1:, 1], atol=0.02)


@pytest.mark.parametrize(
    "fields",
    [
        {"ce_keep_ratio": 0.7, "ce_template_range": "square", "first_frame_bias": True, "margin": 4},
        {"identity": False, "window": False, "search_factor": 3.0, "size_smoothing": 0.5},
    ],
)
def test_every_setting_is_kept(fields: dict[str, Any], tmp_path: Path, clip: np.ndarray, code: Any) -> None:
    """Also prompts later on, frames of another size, and objects that count as lost."""
    torch.manual_seed(1)
    task = registry.load("tasks", "vot")(size="tiny", image=64, **fields).eval()
    frames = [*clip[:3], clip[3, ::2, ::2], *clip[4:6]]
    told = {2: {7: [40.0, 50, 30, 30], 0: [60.0, 70, 30, 30]}}
    state = task.start(frames[0], Target(ids=np.arange(3), boxes=BOXES[:3]))
    task.lost_below = float(np.median(task.step(state, frames[1])[1][1].scores))  # about half are
    weights.save(task, tmp_path / "w.safetensors")
    convert(tmp_path / "w.safetensors", tmp_path / "out")
    made = code.Tracker(tmp_path / "out")
    made.start(frames[0], BOXES[:3])
    for number, frame in enumerate(frames[1:], 1):
        prompt = told.get(number)
        target = prompt and Target(ids=np.array([*prompt]), boxes=np.array([*prompt.values()]))
        state, found = task.step(state, frame, target)
        boxes, scores = made.step(frame, prompt)
        assert made.ids.tolist() == state.ids.tolist()
        np.testing.assert_allclose(boxes, found[number].boxes, atol=0.02)
        np.testing.assert_allclose(scores, found[number].scores, atol=1e-3)
        assert number != 1 or np.isnan(boxes).any()


def test_int8_follows_about_the_same(folder: Path, clip: np.ndarray, code: Any) -> None:
    """One step from the same place: how the errors of many add up is measured in docs/results.md."""
    found = []
    for int8 in (False, True):
        made = code.Tracker(folder, int8=int8)
        made.start(clip[0], BOXES[[1]])
        found.append(made.step(clip[1])[0][0])
    assert np.abs(found[0] - found[1]).max() < 5


@pytest.mark.parametrize("box", [[0, 0, 0, 5], [500, 0, 5, 5], [np.nan, 0, 5, 5], []])
def test_boxes_that_cannot_be_followed(box: list[float], folder: Path, clip: np.ndarray, code: Any) -> None:
    with pytest.raises(ValueError, match=r"positive width|outside the 220x160 frame|give a box"):
        code.Tracker(folder).start(clip[0], box)
    with pytest.raises(ValueError, match="start comes before step"):
        code.Tracker(folder).step(clip[0])


# ------------------------------------------------------------ on a command line, and in C++


def ppm(frames: Iterable[np.ndarray]) -> bytes:
    head = b"P6\n# a comment\n%d %d\n255\n"
    return b"".join(head % (frame.shape[1], frame.shape[0]) + frame.tobytes() for frame in frames)


def lines(words: list[Any], data: bytes, environment: dict[str, str] | None = None) -> np.ndarray:
    """[T, N, 7] of what a tracker prints: frame, object, x y w h, score."""
    done = subprocess.run(
        list(map(str, words)), input=data, capture_output=True, check=False, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr.decode()
    table = np.array([line.split() for line in done.stdout.decode().splitlines()], float)
    return table.reshape(-1, int(table[:, 1].max()) + 1, 7)


def test_pictures_on_standard_input(folder: Path, clip: np.ndarray) -> None:
    words = [sys.executable, folder / "tracker.py", folder, *BOXES[:2].ravel()]
    found = lines(words, ppm(clip[:4]))
    assert found[:, 0, 0].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found[..., 2:6], followed(clip[:4], BOXES[:2]), atol=0.02)
    cut = subprocess.run(list(map(str, words)), input=ppm(clip[:2])[:-9], capture_output=True, check=False)
    assert cut.returncode == 1
    assert cut.stderr.decode().strip() == "tracker: standard input is no stream of whole PPM pictures (P6, 8 bits)"


class Networks:
    """Runs networks for a program that was compiled with the stand-in of onnxruntime's header."""

    def __init__(self, place: Path) -> None:
        self.ask, self.answer = place / "ask", place / "answer"
        self.sessions: dict[str, Any] = {}
        for pipe in (self.ask, self.answer):
            os.mkfifo(pipe)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "NETWORK_ASK": str(self.ask), "NETWORK_ANSWER": str(self.answer)}

    def serve(self) -> None:
        with open(self.ask, "rb") as ask, open(self.answer, "wb") as answer:
            while words := ask.readline().decode().split():
                session = self.session(words[1])
                if words[0] == "metadata":
                    text = session.get_modelmeta().custom_metadata_map.get(words[2])
                    answer.write(b"-1\n" if text is None else b"%d\n%s" % (len(text), text.encode()))
                else:
                    self.run(session, int(words[2]), int(words[3]), ask, answer)
                answer.flush()

    def session(self, path: str) -> Any:
        if path not in self.sessions:
            self.sessions[path] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return self.sessions[path]

    def run(self, session: Any, count: int, wanted: int, ask: BinaryIO, answer: BinaryIO) -> None:
        inputs = {}
        for _ in range(count):
            name, kind, *shape = ask.readline().decode().split()
            dtype = np.dtype(np.uint8 if kind == "u" else np.float32)
            sides = tuple(map(int, shape))
            inputs[name] = np.frombuffer(ask.read(int(np.prod(sides)) * dtype.itemsize), dtype).reshape(sides)
        names = [ask.readline().decode().strip() for _ in range(wanted)]
        for values in session.run(names, inputs):
            answer.write(" ".join(map(str, [values.ndim, *values.shape])).encode() + b"\n")
            answer.write(np.ascontiguousarray(values, np.float32).tobytes())


def real_headers() -> list[str]:
    """Flags for an onnxruntime with headers, in the folder ONNXRUNTIME (include, lib); the test is skipped without."""
    home = os.environ.get("ONNXRUNTIME")
    if not home:
        pytest.skip("ONNXRUNTIME names no folder with onnxruntime's include and lib: compiled with a stand-in alone")
    return ["-I", f"{home}/include", "-L", f"{home}/lib", "-lonnxruntime", f"-Wl,-rpath,{home}/lib"]


@pytest.fixture(scope="module", params=["stand-in", "onnxruntime"])
def binary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """tracker.cpp, compiled, and what runs its networks."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or not hasattr(os, "mkfifo"):
        pytest.skip("there is no C++ compiler, or there are no pipes with names")
    flags = ["-I", str(STAND_IN)] if request.param == "stand-in" else real_headers()
    out = tmp_path_factory.mktemp("binary") / "tracker"
    strict = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    words = [compiler, *strict, str(SOURCES / "tracker.cpp"), *flags, "-o", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, Networks if request.param == "stand-in" else None


@pytest.mark.parametrize("int8", [False, True])
def test_boxes_in_cpp(int8: bool, binary: Any, folder: Path, clip: np.ndarray, code: Any, tmp_path: Path) -> None:
    program, networks = binary
    more = ["--int8"] if int8 else []
    environment = networks(tmp_path).environment if networks else None
    frames = [*clip[:6], clip[6, ::2, ::2], *clip[7:]]
    found = lines([program, folder, *BOXES.ravel(), *more], ppm(frames), environment)
    made = code.Tracker(folder, int8=int8)
    made.start(frames[0], BOXES)
    rows = [(BOXES, np.ones(len(BOXES))), *(made.step(frame) for frame in frames[1:])]
    np.testing.assert_allclose(found[..., 2:6], [boxes for boxes, _ in rows], atol=0.02)
    np.testing.assert_allclose(found[..., 6], [scores for _, scores in rows], atol=1e-3)


@pytest.mark.parametrize(
    ("words", "data", "said"),
    [
        (["FOLDER"], b"", "usage: tracker FOLDER x y w h"),
        (["FOLDER", "1", "2", "3"], b"", "usage"),
        (["FOLDER", "1", "2", "x", "4"], b"", "usage"),
        (["FOLDER", "1", "2", "0", "4"], b"P6 2 2 255 123456789012", "a positive width and height"),
        (["FOLDER", "1", "2", "3", "4"], b"P6 2 2 255 12", "no stream of whole PPM pictures"),
        (["FOLDER", "1", "2", "3", "4"], b"hello", "no stream of whole PPM pictures"),
    ],
)
def test_wrong_words_in_cpp(
    words: list[str], data: bytes, said: str, binary: Any, folder: Path, tmp_path: Path
) -> None:
    program, networks = binary
    environment = networks(tmp_path).environment if networks else None
    full = [str(program), *(str(folder) if word == "FOLDER" else word for word in words)]
    done = subprocess.run(full, input=data, capture_output=True, check=False, timeout=60, env=environment)
    assert done.returncode == 2
    assert said in done.stderr.decode()
    assert len(done.stderr.decode().strip().splitlines()) == 1
