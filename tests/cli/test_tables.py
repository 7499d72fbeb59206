"""Tables: they fit 80 columns, are sorted, compare several results, and rank nothing that cannot be compared."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dropmae
from dropmae import registry
from dropmae.benchmarks._onepass import OnePass
from dropmae.cli import main
from dropmae.visualize.tables import beside_published, comparison, detail, metrics, published, shown

KEYS = ("success_auc", "success_50", "success_75", "precision_20", "norm_precision", "norm_precision_20")


def report(value: float, names: list[str], **more: Any) -> dict[str, Any]:
    """A report whose every metric is `value`."""
    row = {**dict.fromkeys(KEYS, value), "norm_precision_auc": None}
    each = {name: {**row, "frames": 7} for name in names}
    return {"benchmark": "otb", "protocol": "official", "rules": "x" * 90, **row, "fps": 0.5, "sequences": each, **more}


@pytest.fixture
def otb(tmp_path: Path) -> Path:
    """Three sequences in OTB's layout."""
    for name, frames in (("Couple", 12), ("Dog1", 11), ("Skiing", 13)):
        (tmp_path / "otb" / name / "img").mkdir(parents=True)
        for number in range(1, frames + 1):
            Image.new("RGB", (8, 6)).save(tmp_path / "otb" / name / "img" / f"{number:04d}.jpg")
        (tmp_path / "otb" / name / "groundtruth_rect.txt").write_text("10,20,30,40\n" * frames)
        for tracker, shift in (("far", 60), ("near", 3)):
            (tmp_path / tracker).mkdir(exist_ok=True)
            (tmp_path / tracker / f"{name}.txt").write_text(f"{10 + shift},20,30,40\n" * frames)
    return tmp_path / "otb"


def test_metrics_are_shares_and_pixels() -> None:
    found = metrics({"J_mean": 0.5, "fps": 0.4, "objects": 3, "protocol": "x", "epe": 7.5, "F_mean": None})
    assert found == {"J_mean": 0.5, "F_mean": None, "epe": 7.5}
    assert [shown("J_mean", 0.1234), shown("epe", 7.514), shown("J_mean", None)] == ["12.3", "7.51", "-"]


def test_a_table_fits_80_columns_and_is_sorted() -> None:
    names = ["clip10", "clip9", "a_name_that_is_much_longer_than_any_name_of_a_sequence_should_ever_be_001"]
    text = detail(report(0.5, names)).text()
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "AUC" in text and "SR50" in text and "NPauc" in text  # noqa: PT018
    assert text.index("clip9") < text.index("clip10")
    assert "_001" in text, "names are cut in the middle"
    assert "all (3)" in text
    assert "0.5" not in text, "what is no metric is not shown"


def test_results_side_by_side_the_best_first() -> None:
    tables = comparison({"bad": report(0.2, ["a", "b"]), "good": report(0.7, ["a", "b"]), "part": report(0.4, ["b"])})
    order = [row[0] for row in tables[0].rows if row]
    assert order == ["good", "part", "bad"]
    assert [row[-1] for row in tables[0].rows if row] == ["2", "1", "2"]
    assert tables[1].heads == ["sequence", *order]
    assert tables[1].rows == [["a", "70.0", "-", "20.0"], ["b", "70.0", "40.0", "20.0"]]


def test_errors_in_pixels_rank_the_smallest_first() -> None:
    reports = {name: {"benchmark": "f", "epe": value} for name, value in (("a", 4.0), ("b", 2.5))}
    table = comparison(reports)[0]
    assert [row[0] for row in table.rows if row] == ["b", "a"]
    assert "2.50" in table.text()
    assert "EPE px" in table.text()


def test_forms_for_programs() -> None:
    table = detail(report(1 / 3, ["a_b", "c&d"]))
    rows = list(csv.reader(io.StringIO(table.render("csv"))))
    assert rows[0][:2] == ["sequence", "AUC"]
    assert float(rows[1][1]) == 1 / 3, "as computed"
    assert "| a_b | 33.3 |" in table.render("md")
    latex = table.render("latex")
    assert r"a\_b & 33.3" in latex
    assert r"c\&d" in latex
    assert latex.count(r"\\") == 4


def test_published_rows_are_whole() -> None:
    names = registry.names("benchmarks")
    for row in published():
        assert row["benchmark"] in names
        assert row["numbers"]
        assert all(0 < value < 1 for value in row["numbers"].values())
        assert all(row[key] for key in ("split", "sequences", "method", "backbone", "data", "protocol", "source"))
        cls = registry.load("benchmarks", row["benchmark"])
        if issubclass(cls, OnePass):
            assert row["protocol"] in (*cls.RULES, "server", "not stated")
    held = {row["benchmark"] for row in published()}
    assert held >= {
        "got10k",
        "lasot",
        "lasot_ext",
        "tnl2k",
        "trackingnet",
        "itb",
        "davis",
        "youtubevos",
        "vip",
        "jhmdb",
    }


def test_only_what_is_comparable_is_ranked() -> None:
    whole = [f"s{number}" for number in range(280)]

    def lines(**more: Any) -> str:
        found = {"mine": {**report(0.715, whole), "benchmark": "lasot", "protocol": "ostrack", **more}}
        return beside_published(found).text()

    text = lines()
    assert text.index("1. DropTrack") < text.index("2. > mine") < text.index("3. OSTrack")
    other = lines(protocol="official")
    assert "1. > mine" in other
    assert "* DropTrack" in other
    assert "* not ranked: test, ostrack" in other
    part = lines(sequences={"s1": {}})
    assert "* > mine" in part
    assert "1 of 280 sequences" in part
    assert max(len(line) for line in "\n".join([text, other, part]).splitlines()) <= 80
    with pytest.raises(ValueError, match="no published numbers of tld"):
        beside_published({"mine": {**report(0.5, ["a"]), "benchmark": "tld"}})


def test_score_takes_several_results(otb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["score", "otb", "--root", str(otb), "--results", str(tmp_path / "far"), str(tmp_path / "near")]
    assert main([*words, "--json", "--table", "md", "--plots", str(tmp_path / "plots")]) == 0
    out, told = capsys.readouterr()
    found = json.loads(out)["results"]
    assert list(found) == ["far", "near"]
    assert found["near"]["success_auc"] > 0.8 > found["far"]["success_auc"]
    assert told.index("| near |") < told.index("| far |"), "with --json the table is for people"
    assert len(list((tmp_path / "plots").glob("*.png"))) == 3
    assert main([*words, "--table", "csv", "--names", "A", "B"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert [row[0] for row in rows[:3]] == ["", "B", "A"]
    assert main([*words, "--names", "A"]) == 2
    alone = dropmae.score("otb", root=otb, results=tmp_path / "near")
    assert alone["success_auc"] == found["near"]["success_auc"]
    assert np.isfinite(alone["precision_20"])
