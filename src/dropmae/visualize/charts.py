"""Pictures for people: pages of labelled pictures, heat maps and charts, in one style.

matplotlib is imported where something is drawn with it, since it takes half a second, and much imports this module.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from dropmae.storage import mark, replacing
from dropmae.visualize.overlay import font

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURE = "a picture"
"""Kind of output, for its mark."""
COLOURS = ("#1f6f9f", "#d4622a", "#3b8f63", "#8a5bb5", "#b3862b", "#5c6b7a")
"""Of runs, in order."""
INK, SOFT, LINE = "#2a2f38", "#747c89", "#e3e6eb"
STYLE = {
    "font.size": 10.5,
    "font.family": ["DejaVu Sans"],
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.9,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "dropmae",
}
POINTS = 400
"""Most points of a curve."""


# Charts


def styled() -> AbstractContextManager[None]:
    """Within, charts have this project's style; elsewhere matplotlib stays as the user has it."""
    import matplotlib

    return matplotlib.rc_context(STYLE)


def chart(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def svg(figure: Figure) -> bytes:
    """The figure as SVG text, the same for the same numbers."""
    out = io.BytesIO()
    with styled():
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def save_chart(figure: Figure, path: str | Path) -> None:
    """The figure as PNG, whole or not at all."""
    with replacing(path) as partial, styled():
        figure.savefig(partial, format="png", dpi=160, metadata={"Comment": mark(PICTURE)})


def smooth(values: np.ndarray, share: float = 0.02) -> np.ndarray:
    """An exponential mean over about `share` of the curve, without the bias of its start; NaN is passed over."""
    keep = 1 - 1 / max(1.0, share * len(values))
    total = weight = 0.0
    out = np.empty(len(values))
    for place, value in enumerate(values.tolist()):
        if value == value:
            total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        out[place] = total / weight if weight else np.nan
    return out


def thin(*series: np.ndarray) -> list[np.ndarray]:
    """At most POINTS evenly spread points of each series, the first and last among them."""
    length = len(series[0])
    chosen = np.unique(np.linspace(0, length - 1, min(length, POINTS)).round().astype(int))
    return [values[chosen] for values in series]


def curve(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str, label: str, *, noisy: bool) -> None:
    """One run's curve; a noisy one faint, with its running mean on top."""
    if noisy and len(y) > 20:
        faint = thin(x, y)
        axes.plot(*faint, color=colour, alpha=0.22, linewidth=0.9)
        y = smooth(y)
    axes.plot(*thin(x, y), color=colour, label=label, solid_capstyle="round")


def finish(axes: Axes, title: str, xlabel: str, *, percent: bool = False, zero: bool = False) -> None:
    """Title, labels and readable ticks."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if zero:
        axes.set_ylim(bottom=0)


def number(value: float) -> str:
    """For an axis: 500, 20k, 1.5M, 3e-4."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * limit or (abs(value) >= limit and not value % (limit / 10)):
            return f"{value / limit:g}{letter}"
    if 0 < abs(value) < 0.01:
        digits, power = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.4g}"


def attention_panel(
    axes: Axes, runs: Sequence[dict[str, Any]], share: str, title: str, colours: Sequence[str] = COLOURS
) -> None:
    """`within` (dotted: without the token itself), `between` or `f_tem` per decoder layer; bands: over videos."""
    from matplotlib.ticker import MaxNLocator

    for run, colour in zip(runs, list(colours) * len(runs)):
        layers = [layer["layer"] for layer in run["layers"]]
        value = np.array([layer[share] for layer in run["layers"]])
        spread = np.array([layer[f"{share}_deviation"] for layer in run["layers"]])
        axes.fill_between(layers, value - spread, value + spread, color=colour, alpha=0.14, linewidth=0)
        axes.plot(layers, value, "o-", color=colour, label=run["name"], markersize=4.5)
        if share == "within":
            others = [layer["within_others"] for layer in run["layers"]]
            axes.plot(layers, others, "o:", color=colour, markersize=3, linewidth=1.3)
    if share == "within":
        axes.plot([], [], "o:", color=SOFT, markersize=3, linewidth=1.3, label="without the token itself")
    if runs:
        axes.axhline(runs[0]["uniform"][share], color=SOFT, linewidth=0.9, linestyle=(0, (1, 3)), label="if uniform")
    finish(axes, title, "decoder layer", percent=True, zero=True)
    if share != "f_tem":
        axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def attention_figure(runs: Sequence[dict[str, Any]]) -> Figure:
    """Within-frame and between-frame attention of runs per decoder layer, as in DropMAE's figure."""
    with styled():
        figure, (left, right) = chart(9.6, 4.2, 2)
        attention_panel(left, runs, "within", "Attention within the frame")
        attention_panel(right, runs, "between", "Attention between the frames")
        for axes in (left, right):
            axes.legend(loc="best")
    return figure


def colours(level: np.ndarray) -> np.ndarray:
    """float [..., 3] RGB in [0, 1] of levels in [0, 1]: dark to yellow."""
    import matplotlib

    return matplotlib.colormaps["inferno"](level)[..., :3]


# Pages of pictures


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """uint8 from float in [0, 1]."""
    return (picture * 255 + 0.5).clip(0, 255).astype(np.uint8)


def heat(picture: np.ndarray, level: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: a map [h, w] in [0, 1], smoothly enlarged, in colour over the grey picture [H, W, 3]."""
    sides = picture.shape[1], picture.shape[0]
    large = np.asarray(Image.fromarray(level.astype(np.float32)).resize(sides, Image.Resampling.BICUBIC))
    grey = (picture @ np.array([0.299, 0.587, 0.114]))[..., None]
    return to_bytes(0.3 * grey + 0.7 * colours(large.clip(0, 1)))


def sheet(
    rows: Sequence[Sequence[np.ndarray]],
    columns: Sequence[str],
    labels: Sequence[str],
    breaks: Sequence[bool],
    text: str = "",
    notes: Sequence[Sequence[str]] | None = None,
) -> Image.Image:
    """Pictures uint8 [H, W, 3] in rows under column titles; a wider gap before rows of which `breaks` is true.

    `labels` stand above a row, `notes` in a corner of its pictures, `text` below all. Small pictures are enlarged.
    """
    times = max(1, round(176 / max(rows[0][0].shape[:2])))
    high, wide = (side * times for side in rows[0][0].shape[:2])
    gap, margin, top = 6, 14, 36
    letters, small = font(15), font(12)
    width = 2 * margin + len(columns) * (wide + gap) - gap
    lines = wrap(text, small, width - 2 * margin)
    above = [
        (14 if first and place else gap if place else 0) + (19 if label else 0)
        for place, (first, label) in enumerate(zip(breaks, labels))
    ]
    height = top + len(rows) * high + sum(above) + margin + (16 * len(lines) + 8 if lines else 0)
    page = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(columns):
        draw.text((margin + column * (wide + gap), 10), title, fill=INK, font=letters)
    y = top
    for place, row in enumerate(rows):
        y += above[place]
        if labels[place]:
            draw.text((margin, y - 18), labels[place], fill=SOFT, font=small)
        for column, picture in enumerate(row):
            x = margin + column * (wide + gap)
            page.paste(Image.fromarray(picture).resize((wide, high), Image.Resampling.NEAREST), (x, y))
            if notes and notes[place][column]:
                box = draw.textbbox((x + 6, y + high - 19), notes[place][column], font=small)
                draw.rectangle([box[0] - 3, box[1] - 2, box[2] + 3, box[3] + 2], fill=(255, 255, 255))
                draw.text((x + 6, y + high - 19), notes[place][column], fill=INK, font=small)
        y += high
    for place, line in enumerate(lines):
        draw.text((margin, y + 10 + 16 * place), line, fill=SOFT, font=small)
    return page


def wrap(text: str, letters: Any, width: int) -> list[str]:
    """Lines of at most `width` pixels."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and letters.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def save_picture(picture: Image.Image | np.ndarray, path: str | Path) -> None:
    """A PNG, whole or not at all."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    comment = PngInfo()
    comment.add_text("Comment", mark(PICTURE))
    with replacing(path) as partial:
        image.save(partial, format="PNG", pnginfo=comment)
