"""Success, precision and normalised-precision plots of one or several trackers, or of one under several protocols."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from dropmae import locks
from dropmae.storage import check_output, mark, replacing

PLOT = "a plot"
"""Kind of output, for its mark."""
DASHES = ("-", "--", "-.", ":")


class Plot(NamedTuple):
    """How one curve is drawn."""

    title: str
    x: str
    y: str
    ranks: tuple[str, ...]
    """The first of these numbers that a score has stands in the legend and orders it."""
    place: Literal["upper right", "lower right"]


PLOTS = {
    "success": Plot("Success", "overlap threshold", "share of frames above it", ("ao", "success_auc"), "upper right"),
    "precision": Plot(
        "Precision",
        "centre distance threshold (pixels)",
        "share of frames within it",
        ("precision", "precision_20"),
        "lower right",
    ),
    "norm_precision": Plot(
        "Normalised precision",
        "centre distance threshold (share of the object's size)",
        "share of frames within it",
        ("norm_precision",),
        "lower right",
    ),
}


def check_plots(folder: Path | None, *, overwrite: bool) -> None:
    """ValueError where plots in `folder` would replace something else."""
    for curve in PLOTS:
        if folder is None:
            return
        check_output(Path(folder) / f"{curve}.png", PLOT, overwrite=overwrite)


def draw_plots(scores: Mapping[str, Mapping[str, Any]], folder: Path, title: str = "") -> list[Path]:
    """Writes success.png, precision.png and norm_precision.png to `folder`, with a line for each of `scores`.

    `scores` is {label: what a benchmark's `score` returned}; the legend orders them by the number that ranks the plot.
    A plot is left out where no score has its curve.
    """
    written = []
    with locks.held(Path(folder) / "plots", file=True, option="--plots"):  # those of one call belong together
        for curve, plot in PLOTS.items():
            written += draw_plot(scores, curve, plot, Path(folder), title)
    return written


def draw_plot(scores: Mapping[str, Mapping[str, Any]], curve: str, plot: Plot, folder: Path, title: str) -> list[Path]:
    """The plot of one curve, where a score has it."""
    # The object interface needs no pyplot, hence no display and no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [(label, score) for label, score in scores.items() if curve in score.get("curves", {})]
    if not lines:
        return []
    lines.sort(key=lambda line: -rank(line[1], plot))
    figure = Figure(figsize=(6.4, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row, (label, score) in enumerate(lines):
        # Later lines are thinner, so that none hides another where protocols agree.
        width = 1.5 + 0.7 * max(min(len(lines), 6) - 1 - row, 0)
        dash = DASHES[row // 10 % len(DASHES)]
        text = f"[{rank(score, plot):.3f}] {label}"
        axes.plot(score["thresholds"][curve], np.array(score["curves"][curve], float), dash, lw=width, label=text)
    axes.set(xlabel=plot.x, ylabel=plot.y, title=" · ".join(part for part in (plot.title, title) if part))
    axes.set(xlim=(0, max(score["thresholds"][curve][-1] for _, score in lines)), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc=plot.place, fontsize=9)
    path = Path(folder) / f"{curve}.png"
    with replacing(path) as partial:
        figure.savefig(partial, format="png", metadata={"Comment": mark(PLOT)})
    return [path]


def rank(score: Mapping[str, Any], plot: Plot) -> float:
    """The number of a score that ranks a plot; 0 where it has none."""
    return next((float(score[key]) for key in plot.ranks if score.get(key) is not None), 0.0)
