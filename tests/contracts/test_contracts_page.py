"""The proof of the house: the examples of docs/contracts.md, in a folder of their own, go through every verb."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dropmae
from dropmae import registry
from dropmae.cli import main
from dropmae.data.clips import generator
from dropmae.engine import Engine
from dropmae.target import Target
from dropmae.video import Video

PAGE = Path(__file__).parents[2] / "docs" / "contracts.md"


def examples() -> dict[str, str]:
    """{file name: code} of the page."""
    return dict(re.findall(r"<!-- file: (\w+\.py) -->\n```python\n(.*?)```", PAGE.read_text(), re.S))


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    for name, code in examples().items():
        (folder / name).write_text(code)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs whose second picture is the first one moved by whole patches."""
    folder = tmp_path_factory.mktemp("pairs")
    for number in range(6):
        rng = np.random.default_rng(number)
        x, y = rng.integers(-1, 2, 2) * 8
        picture = rng.integers(0, 256, (8, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        flow = np.broadcast_to(np.array([x, y], np.float32), (64, 96, 2))
        np.savez(folder / f"pair{number}.npz", frames=np.stack([picture, np.roll(picture, (y, x), (0, 1))]), flow=flow)
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: Any) -> dict[str, Any]:
    """What a command prints as JSON; it must end well."""
    capsys.readouterr()
    code = main([*map(str, words), "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out)


@pytest.fixture(scope="module")
def encoder(mine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the page's method."""
    from dropmae.verbs import pretrain

    folder = tmp_path_factory.mktemp("videos")
    for number in range(2):
        rng = np.random.default_rng(number)
        clip = rng.integers(0, 256, (1, 8, 8, 3), np.uint8).repeat(6, 0).repeat(8, 1).repeat(8, 2)
        np.save(folder / f"{number}.npy", clip)
    out = tmp_path_factory.mktemp("run") / "later"
    pretrain.pretrain(
        str(mine / "later.py"), folder, out=out, size="tiny", image=64, patch=8, steps=1, global_batch=2, workers=0
    )
    return out


def test_a_users_files_go_through_every_verb(
    mine: Path, pairs: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, bench, run = mine / "match.py", mine / "pairs.py", tmp_path / "run"
    usual = ["--global-batch", 2, "--epoch-samples", 4, "--workers", 0, "--device", "cpu", "--precision", "fp32"]
    train = ["finetune", task, f"{bench}={pairs}", "--out", run, "--init", encoder, *usual]
    report = said(capsys, *train, "--steps", 2)
    assert sorted(report["fresh"]) == ["head.bias", "head.weight"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["known"] for line in lines] == [1.0, 1.0]
    recipe = json.loads((run / "config.json").read_text())["options"]
    assert (recipe["lr"], recipe["schedule"], recipe["clip"]) == (1e-3, "cosine", 1.0)
    # Its own weights are continued whole, head included.
    again = said(capsys, "finetune", task, f"{bench}={pairs}", "--out", tmp_path / "more", "--init", run, *usual,
                 "--steps", 1)  # fmt: skip
    assert again["fresh"] == []

    code = ["--code", task]
    clip = np.load(pairs / "pair0.npz")["frames"]
    np.save(tmp_path / "clip.npy", clip)
    drawn = said(capsys, "track", tmp_path / "clip.npy", "--weights", run, *code, "--out", tmp_path / "flow.mp4")
    assert (drawn["frames"], drawn["task"], drawn["frames_missed"]) == (2, "match", [])
    assert Video(tmp_path / "flow.mp4").shape[:3] == (2, 64, 96)
    found = dict(dropmae.track(clip, weights=run, precision="fp32"))
    assert found[0].flow.shape == (64, 96, 2)
    assert found[1].flow is None

    words = ["--root", pairs, *code]
    numbers = said(capsys, "evaluate", bench, *words, "--weights", run, "--out", tmp_path / "eval", "--workers", 1)
    assert set(numbers["sequences"]) == {f"pair{n}" for n in range(6)}
    assert numbers["precision"] == "fp32"
    own = np.linalg.norm(found[0].flow - np.load(pairs / "pair0.npz")["flow"], axis=-1).mean()
    assert numbers["sequences"]["pair0"]["epe"] == pytest.approx(own, abs=0.02)
    scored = said(capsys, "score", bench, "--root", pairs, "--results", tmp_path / "eval" / "predictions")
    assert scored["epe"] == numbers["epe"]

    page = said(capsys, "report", run, *code)
    text = Path(page["out"]).read_text()
    assert "dropmae finetune" in text
    assert "known" in text  # the loss that the task names
    assert (run / "figures" / "predictions.png").is_file()
    info = said(capsys, "info", run, *code)
    assert "match.py" in json.dumps(info)
    made = said(capsys, "convert", run, tmp_path / "half.safetensors", "--half", *code)
    assert made["missing"] == []
    speed = said(capsys, "bench", "--weights", tmp_path / "half.safetensors", *code, "--frame", 64, 96)
    assert speed["answered"] == 24


def test_it_learns(mine: Path, pairs: Path) -> None:
    """Matching moved pictures is learned at all, so that the example is no toy."""
    torch.manual_seed(0)
    cls: Any = registry.load("tasks", str(mine / "match.py"))
    bench: Any = registry.load("benchmarks", str(mine / "pairs.py"))()
    task, sequences = cls(image=64), bench.sequences(pairs)
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3)
    losses = []
    for step in range(15):
        samples = [task.sample(s, generator(step, n)) for n, s in enumerate(sequences)]
        batch = {name: torch.from_numpy(np.stack([s[name] for s in samples])) for name in samples[0]}
        loss = task(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])


def test_a_foreign_tracker_in_sixty_lines(mine: Path, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime", reason="the foreign tracker needs onnxruntime")
    pytest.importorskip("onnxscript", reason="writing the ONNX file needs onnxscript")
    assert ort
    assert len(examples()["foreign.py"].splitlines()) <= 60

    class Centre(torch.nn.Module):
        """Where the search region is brightest in the mean, with the size of a quarter of it."""

        def forward(self, template: torch.Tensor, search: torch.Tensor) -> torch.Tensor:
            light = search.float().mean(1)[0] ** 4 + 0 * template.float().mean()
            total, steps = light.sum(), (torch.arange(64) + 0.5) / 64
            return torch.stack([(light.sum(0) * steps).sum() / total, (light.sum(1) * steps).sum() / total,
                                torch.tensor(0.25), torch.tensor(0.25)])  # fmt: skip

    crop = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    program = torch.onnx.export(
        Centre().eval(),
        (crop, crop),
        input_names=["template", "search"],
        output_names=["box"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(str(tmp_path / "theirs.onnx"))
    task: Any = registry.load("tasks", str(mine / "foreign.py"))
    frames = np.zeros((8, 72, 96, 3), np.uint8)
    for t in range(8):
        frames[t, 20 + t : 36 + t, 20 + 2 * t : 36 + 2 * t] = 255
    prompt = Target(ids=np.array([1]), boxes=np.array([[20.0, 20, 16, 16]]))
    session = Engine(task(file=str(tmp_path / "theirs.onnx")), "cpu").session({0: prompt})
    last = list(session.follow(enumerate(frames)))[-1].target.box()
    np.testing.assert_allclose(last[:2] + last[2:] / 2, [42, 35], atol=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("    def start(self, frame, target):\n        return 0, frame\n", ""), "lacks start"),
        (("(\"flow\",), 1, (\"temperature\",)", "(\"flwo\",), 1, (\"temperature\",)"), "gives names flwo"),
        (("(\"temperature\",)", "(\"temprature\",)"), "use names temprature"),
        (("(\"temperature\",)", "\"temperature\""), "use is 'temperature', but should be a tuple"),
        (("@dataclass(kw_only=True, eq=False, repr=False)\n", ""), "is no dataclass"),
    ],
)  # fmt: skip
def test_what_a_users_file_lacks_is_one_line(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    code = examples()["match.py"]
    assert change[0] in code
    (tmp_path / "match.py").write_text(code.replace(*change))
    with pytest.raises(ValueError, match=message) as caught:
        registry.load("tasks", str(tmp_path / "match.py"))
    assert "match.py" in str(caught.value)
    assert "\n" not in str(caught.value)
