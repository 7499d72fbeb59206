"""The table and the figure of recipes/claim-tokens.sh: `python recipes/claim-tokens.py OUT` writes OUT/tokens.png."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dropmae.visualize import charts

METHODS = {"random": "#8a8a8a", "mae": "#c77d2e", "twinmae": "#3c78b4", "dropmae": "#b03a48"}
TITLES = {"random": "random weights", "mae": "MAE", "twinmae": "TwinMAE", "dropmae": "DropMAE"}
GRIDS = {"16": "7 x 7", "8": "14 x 14"}
PARTS = {"match": "matching, all points", "match_moved": "those that moved far"}
BATCH = 32
STUDENT = 2.093
"""97.5th percentile of Student's t at 19 degrees of freedom: intervals over 20 clips."""


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def by_clip(report: Any, key: str) -> np.ndarray:
    """A number of each clip, NaN where it has none."""
    return np.array([row.get(key, np.nan) for row in report["sequences"].values()])


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean, and half of the 95 % interval of the mean."""
    known = values[np.isfinite(values)]
    return float(known.mean()), float(STUDENT * known.std(ddof=1) / len(known) ** 0.5)


def share(report: Any, key: str) -> str:
    value = None if report is None else report.get(key)
    return "-" if value is None else f"{100 * value:.1f}"


def last_gap(run: Path) -> list[str]:
    """The last validation of a run: loss beside the true partner, and the gap."""
    lines = (run / "validation.jsonl").read_text().splitlines() if (run / "validation.jsonl").is_file() else []
    row = json.loads(lines[-1]) if lines else {}
    return [f"{row[key]:.3f}" if key in row else "-" for key in ("loss_true", "gap")]


def table(out: Path) -> None:
    """A row for each weights that were judged."""
    heads = ["matching", "moved far", "on 14 x 14", "moved far", "BADJA PCK@0.2", "DAVIS J&F", "loss true", "gap"]
    print(f"| | {' | '.join(heads)} |\n|{'---|' * (1 + len(heads))}")
    for folder in sorted((out / "eval").iterdir()):
        found = {
            name: read(folder / name / "numbers.json") for name in ("matching-own", "matching-14", "badja", "davis")
        }
        if "-8-" in folder.name:  # its own grid is 14 x 14
            found["matching-14"] = found["matching-own"]
        cells = [share(found[name], key) for name in ("matching-own", "matching-14") for key in PARTS]
        cells += [share(found["badja"], "PCK@0.2"), share(found["davis"], "J&F_mean")]
        print(f"| {folder.name} | {' | '.join(cells + last_gap(out / 'runs' / folder.name))} |")
        still = found["matching-own"]
    print(f"| answers that never move | {share(still, 'unmoved')} | 0.0 |{' |' * (len(heads) - 2)}")


def matched(out: Path, name: str) -> Any:
    """Numbers of matching at the grid that an encoder was trained on."""
    return read(out / "eval" / name / "matching-own" / "numbers.json")


def differences(out: Path) -> None:
    """DropMAE minus TwinMAE and minus MAE, clip by clip, with 95 % intervals over the clips."""
    print("\n| difference by clip | patch | seed | matching | of points that moved far |\n|---|---|---|---|---|")
    for folder in sorted((out / "eval").glob("dropmae-*")):
        _, patch, seed = folder.name.split("-")
        for other in ("twinmae", "mae"):
            ours, theirs = matched(out, folder.name), matched(out, f"{other}-{patch}-{seed}")
            if ours is None or theirs is None:
                continue
            found = [interval(by_clip(ours, key) - by_clip(theirs, key)) for key in PARTS]
            cells = [f"{100 * mean:+.1f} ± {100 * half:.1f}" for mean, half in found]
            print(f"| dropmae - {other} | {patch} | {seed} | {' | '.join(cells)} |")


def attention(out: Path) -> None:
    """Shares between frames, and largest ones to one token of the other frame, in each decoder layer."""
    print("\n| layers 1 to 4 | between frames | largest to one token (f_tem) |\n|---|---|---|")
    for file in sorted((out / "runs").glob("*/figures/attention.json")):
        layers = read(file)["runs"][0]["layers"]
        cells = [" ".join(f"{layer[key]:.3f}" for layer in layers) for key in ("between", "f_tem")]
        print(f"| {file.parent.parent.name} | {' | '.join(cells)} |")


def figure(out: Path) -> None:
    """Matching of each method at the grids that were judged, and the gap; bars are 95 % intervals over clips."""
    grids = [patch for patch in GRIDS if any(matched(out, f"{method}-{patch}-0") for method in ("mae", "twinmae"))]
    with charts.styled():
        drawn, axes = charts.chart(9.0, 3.6, 3)
        for axis, (key, title) in zip(axes, PARTS.items()):
            for place, (method, colour) in enumerate(METHODS.items()):
                for seed in (0, 1):
                    points = [
                        (column + 0.09 * (place - 1.5) + 0.045 * seed, *interval(by_clip(report, key)))
                        for column, patch in enumerate(grids)
                        if (report := matched(out, f"{method}-{patch}-{seed}")) is not None
                    ]
                    if points:
                        x, y, half = np.array(points).T
                        form: Any = {"marker": "os"[seed], "markersize": 4, "capsize": 2, "linewidth": 1}
                        label = f"{TITLES[method]}, another seed" if seed else TITLES[method]
                        axis.errorbar(x, y, half, color=colour, label=label, **form)
            if key == "match":
                still = matched(out, f"twinmae-{grids[0]}-0")["unmoved"]
                axis.axhline(still, color="#8a8a8a", linestyle=":", linewidth=1, label="answers that never move")
            charts.finish(axis, title, "tokens", percent=True, zero=True)
            axis.set_xticks(range(len(grids)), [GRIDS[patch] for patch in grids])
            axis.set_xlim(-0.4, len(grids) - 0.6)
        for method in ("twinmae", "dropmae"):
            for patch, style in zip(grids, ("-", "--")):
                file = out / "runs" / f"{method}-{patch}-0" / "validation.jsonl"
                rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
                x, y = (np.array([row[name] for row in rows], float) for name in ("step", "gap"))
                axes[2].plot(BATCH * x, y, style, color=METHODS[method], label=f"{TITLES[method]}, {GRIDS[patch]}")
        charts.finish(axes[2], "the partner's worth (gap)", "pairs")
        axes[2].legend(fontsize=7)
        drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=7, fontsize=7)
    charts.save_chart(drawn, out / "tokens.png")


if __name__ == "__main__":
    table(Path(sys.argv[1]))
    differences(Path(sys.argv[1]))
    attention(Path(sys.argv[1]))
    figure(Path(sys.argv[1]))
