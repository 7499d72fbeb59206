"""report.html: written by every run, whole in itself, and true to what the run's files say."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dropmae
from dropmae.runs import Run
from dropmae.verbs.report import command
from dropmae.video import write_store
from dropmae.visualize import charts
from samples import moving_squares

SETTINGS: dict[str, Any] = {
    "size": "tiny",
    "image": 32,
    "patch": 8,
    "steps": 6,
    "global_batch": 2,
    "workers": 0,
    "validate_every": "50%",
    "scale": (0.5, 1.0),
}
VOID = {"meta", "link", "img", "br", "hr"}


class Page(HTMLParser):
    """Collects text, pictures and links, and checks that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.sources: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "img":
            assert dict(attrs).get("alt"), "a picture without words"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(4):
        write_store(folder / f"clip{number}.frames", moving_squares(number, frames=8, side=40), 25)
    (folder / "bad <i>file.mp4").write_bytes(b"nothing that could be read")
    return folder


@pytest.fixture(scope="module")
def runs(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    for method in ("twinmae", "dropmae", "mae"):
        dropmae.pretrain(method, videos, out=folder / method, **SETTINGS)
    return [folder / "twinmae", folder / "dropmae", folder / "mae"]


def test_a_run_ends_with_its_report(runs: list[Path]) -> None:
    text = (runs[1] / "report.html").read_text()
    page = Page(text)
    assert page.sources
    assert all(source.startswith("data:") for source in page.sources)
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert 'name="viewport"' in text
    lines = [json.loads(line) for line in (runs[1] / "metrics.jsonl").read_text().splitlines()]
    assert f"{lines[0]['loss']:.3f}" in page.text
    assert f"{lines[-1]['loss']:.3f}" in page.text
    for words in ("DropMAE", "12 pairs of frames", "drop-ratio", "torch", "step 6", "Attention in the decoder"):
        assert words in page.text
    assert "bad <i>file.mp4" in page.text
    assert "bad <i>file.mp4" not in text
    kept = {path.name for path in (runs[1] / "figures").iterdir()}
    assert kept == {"progress", "attention.json", "reconstruction.png", "temporal.png"}


def test_methods_of_single_frames_have_no_attention_section(runs: list[Path]) -> None:
    page = Page((runs[2] / "report.html").read_text())
    assert "Attention in the decoder" not in page.text
    assert "Reconstruction" in page.text


def test_a_finished_run_keeps_its_report(runs: list[Path], videos: Path) -> None:
    path = runs[0] / "report.html"
    before = path.stat().st_mtime_ns
    dropmae.pretrain("twinmae", videos, out=runs[0], **SETTINGS)
    assert path.stat().st_mtime_ns == before
    path.unlink()
    dropmae.pretrain("twinmae", videos, out=runs[0], **SETTINGS)
    assert path.exists()


def test_several_runs_share_a_page(runs: list[Path], tmp_path: Path) -> None:
    found = dropmae.report(runs, out=tmp_path / "all.html", title="A & B")
    page = Page(Path(found["out"]).read_text())
    for words in ("A & B", "TwinMAE", "DropMAE", "MAE", "drop-ratio"):
        assert words in page.text
    with pytest.raises(ValueError, match="--out"):
        dropmae.report(runs)


def test_a_run_that_has_just_begun_can_be_looked_at(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((runs[0] / "config.json").read_text())
    dropmae.report([tmp_path])
    assert "TwinMAE" in Page((tmp_path / "report.html").read_text()).text
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": null, "lr": 0.0, "clips_per_s": 3.0}\n{"step": 2, "lo')
    dropmae.report([tmp_path])
    assert "2 pairs" in Page((tmp_path / "report.html").read_text()).text


def test_what_is_no_run_or_damaged_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run folder"):
        dropmae.report([tmp_path])
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(OSError, match="not readable"):
        dropmae.report([tmp_path])
    for text, says in [("[]", "training run$"), ('{"benchmark": {}, "task": {}}', "an evaluation, whose numbers")]:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(OSError, match=says):
            dropmae.report([tmp_path])


def test_the_command_makes_the_same_run(runs: list[Path]) -> None:
    text = command(Run(runs[0]))
    for words in ("pretrain twinmae VIDEOS", "--image 32", "--scale 0.5 1.0", "--steps 6", "--size tiny"):
        assert words in text
    assert "--mask-ratio" not in text


def test_charts_are_the_same_for_the_same_numbers() -> None:
    def draw() -> bytes:
        with charts.styled():
            plot, (axes,) = charts.chart(4, 3)
            charts.curve(axes, np.arange(50.0), np.sin(np.arange(50.0)), "#123456", "run", noisy=True)
            charts.finish(axes, "title", "x")
        return charts.svg(plot)

    assert draw() == draw()


def test_running_mean_passes_over_missing_values() -> None:
    values = np.array([np.nan, 1.0, np.nan, 1.0, 1.0])
    assert np.isnan(charts.smooth(values)[0])
    assert np.allclose(charts.smooth(values, 1.0)[1:], 1.0)
    rising = charts.smooth(np.arange(100.0))
    assert (np.diff(rising) > 0).all()


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (500, "500"), (2000, "2k"), (20000, "20k"), (1.5e6, "1.5M"), (3.2e-4, "3.2e-4")]
)
def test_axis_numbers_are_short(value: float, text: str) -> None:
    assert charts.number(value) == text
