"""The verb `report`: what a run did, in one page that needs nothing beside it."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Listed
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dropmae import registry
from dropmae.opening import open_image
from dropmae.progress import duration_text, say
from dropmae.runs import Run
from dropmae.storage import check_output, mark, write_text
from dropmae.training.fit import Options
from dropmae.training.tuning import Tuning
from dropmae.verbs import inspection
from dropmae.visualize import charts
from dropmae.visualize.views import NORMALISED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT = "a report"


def report(runs: list[Path], *, out: Path | None = None, title: str = "", overwrite: bool = False) -> dict[str, Any]:
    """Writes report.html of a run, or of several side by side: one file that asks for nothing else.

    Curves, pictures, attention charts, configuration, environment and bad files; works while a run goes on, too.

    Args:
        runs: run folders of `pretrain` or `finetune`.
        out: file to write; without it report.html in the run's folder.
        title: heading of the page.
        overwrite: replace OUT even if it is no report.
    """
    folders = [Path(runs)] if isinstance(runs, (str, Path)) else [Path(folder) for folder in runs]
    if not folders:
        raise ValueError("which run? Give a run folder")
    if out is None and len(folders) > 1:
        raise ValueError("several runs need an --out to write their page to")
    path = folders[0] / "report.html" if out is None else check_output(out, REPORT, overwrite=overwrite)
    return bind(folders, path, title)


def bind(folders: list[Path], path: Path, title: str = "", more: str = "") -> dict[str, Any]:
    """Writes the page of some runs, with `more` sections of HTML between what they learned and how."""
    read = [Run(folder) for folder in folders]
    for run, name in zip(read, inspection.distinct([run.method for run in read], [str(f) for f in folders])):
        run.name = name
    write_text(path, page(read, title, more))
    say(f"report: {path}")
    return {"out": str(path), "runs": [str(folder) for folder in folders]}


def finish(run: Path, draw: Callable[[], None]) -> None:
    """Has the figures of a finished run drawn, if that is not done, and writes its report.html."""
    page_file, weights = run / "report.html", run / "last.safetensors"
    if page_file.exists() and page_file.stat().st_mtime >= weights.stat().st_mtime:
        return
    try:
        draw()
    except OSError as error:  # the weights are there all the same
        say(f"no pictures in the report: {error}")
    report([run])


def page(runs: list[Run], title: str = "", more: str = "") -> str:
    """The whole page as HTML; `more` as in `bind`."""
    heading = title or " and ".join(run.name for run in runs)
    body = [
        f"<header><h1>{esc(heading)}</h1>{legend(runs)}{''.join(lead(run) for run in runs)}</header>",
        learning(runs),
        pictures(runs),
        attention(runs),
        more,
        configuration(runs),
        bad_files(runs),
    ]
    style = (resources.files("dropmae.verbs") / "report.css").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="generator" content="{mark(REPORT)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{esc(heading)}</title><link rel="icon" href="data:,"><style>{style}</style></head>\n'
        f"<body><main>{''.join(part for part in body if part)}</main></body></html>\n"
    )


def esc(text: Any) -> str:
    return html.escape(str(text))


def colour(place: int) -> str:
    return charts.COLOURS[place % len(charts.COLOURS)]


def legend(runs: list[Run]) -> str:
    if len(runs) < 2:
        return ""
    chips = "".join(f'<li><i style="background:{colour(n)}"></i>{esc(run.name)}</li>' for n, run in enumerate(runs))
    return f'<ul class="legend">{chips}</ul>'


def lead(run: Run) -> str:
    """What happened, in a few sentences."""
    options, fields = run.config["options"], run.config["fields"]
    side = fields.get("image")
    size = f"{side}" if isinstance(side, int) else "×".join(map(str, side or ()))
    kind = [*([fields["size"]] if fields.get("size") else []), f"{size} pixels"]  # a frozen encoder is another's
    what = "pairs of frames" if "gap" in fields else "samples"
    text = (
        f"<b>{esc(run.name)}</b> ({esc(', '.join(kind))}) saw {run.samples:,} {what} from "
        f"{run.videos:,} video{'s' * (run.videos != 1)} in {duration_text(run.seconds)} ({run.speed:.0f} a second"
        f"; {len(run.metrics):,} steps of {options['global_batch']})."
    )
    loss, gap = run.ends("loss"), run.ends("gap", validation=True)
    if loss:
        text += f" Its loss went from <b>{loss[0]:.3f}</b> to <b>{loss[1]:.3f}</b>."
    if gap:
        verdict = "it uses time" if gap[1] > 0.005 else "it makes little use of time so far"
        text += f" Another clip's frame in place of the partner changes it by <b>{gap[1]:+.3f}</b>: {verdict}."
    elif run.kind == "tasks":
        ends = {name: run.ends(name, validation=True) for name in run.names(validation=True)}
        told = [f"{esc(n)} from {e[0]:.3f} to <b>{e[1]:.3f}</b>" for n, e in ends.items() if e and n not in PLAIN]
        text += f" On fixed samples: {', '.join(told)}." if told else ""
    return f"<p>{text}</p>"


def uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def figure(source: str, alt: str, text: str = "", kind: str = "") -> str:
    note = f"<figcaption>{text}</figcaption>" if text else ""
    return f'<figure class="{kind}"><div><img src="{source}" alt="{esc(alt)}"></div>{note}</figure>'


def section(title: str, content: str, text: str = "") -> str:
    note = f"<p>{text}</p>" if text else ""
    return f"<section><h2>{esc(title)}</h2>{note}{content}</section>"


@dataclass(frozen=True)
class Curve:
    """A chart of one metric over the samples seen."""

    name: str
    title: str
    text: str = ""
    noisy: bool = True
    validation: bool = False
    percent: bool = False
    zero: bool = True


CURVES = (
    Curve(
        "loss",
        "Loss",
        "Thin: every step; thick: running mean; circles: on fixed samples, without dropout.",
        zero=False,
    ),
    Curve(
        "gap",
        "What the partner is worth",
        "Loss beside another clip's frame minus loss beside the true partner.",
        noisy=False,
        validation=True,
        zero=False,
    ),
    Curve("lr", "Learning rate", noisy=False),
    Curve("grad_norm", "Gradient norm"),
    Curve("clips_per_s", "Samples a second"),
    Curve("data_wait", "Time spent waiting for data", percent=True),
)


PLAIN = {"step", "loss", "memory_mb", *(curve.name for curve in CURVES)}
"""Names of metrics that have a place of their own."""


def curves(runs: list[Run]) -> list[Curve]:
    """Those of every run, then one for each further loss that a model names, and each number it is probed for."""
    named = dict.fromkeys(name for run in runs for name in run.names() if name not in PLAIN)
    probed = dict.fromkeys(name for run in runs for name in run.names(validation=True) if name not in PLAIN)
    own = [Curve(name, name, "As the model names it; circles: on fixed samples.") for name in named]
    own += [Curve(n, f"{n}, on fixed samples", noisy=False, validation=True) for n in probed if n not in named]
    return [*CURVES[:1], *own, *CURVES[1:]]


def learning(runs: list[Run]) -> str:
    """Curves over the samples seen; those of which no run has two values are left out."""
    parts = []
    for what in curves(runs):
        if any(len(run.series(what.name, validation=what.validation)[0]) > 1 for run in runs):
            parts.append(figure(uri(charts.svg(chart(runs, what)), "svg+xml"), what.title, what.text))
    return section("Learning", f'<div class="charts">{"".join(parts)}</div>') if parts else ""


def chart(runs: list[Run], what: Curve) -> Figure:
    """One metric of all runs."""
    with charts.styled():
        plot, (axes,) = charts.chart(4.3, 2.9)
        tops = []
        for place, run in enumerate(runs):
            x, y = run.series(what.name, validation=what.validation)
            if not np.isfinite(y).any():
                continue
            charts.curve(axes, x, y, colour(place), run.name, noisy=what.noisy)
            tops.append(1.1 * np.nanpercentile(y, 98.5))
            if what.name not in PLAIN or what.name in ("loss", "gap"):
                x, y = run.series(what.name, validation=True)
                axes.plot(x, y, "o", color=colour(place), markersize=4, markerfacecolor="white")
        charts.finish(axes, what.title, "samples seen", percent=what.percent, zero=what.zero)
        if what.noisy and not what.percent and max(tops, default=-np.inf) > axes.get_ylim()[0]:
            # A few extremes, such as the first steps of a long run, shall not flatten all the rest.
            axes.set_ylim(top=max(tops))
        if what.name == "gap":
            axes.axhline(0, color=charts.SOFT, linewidth=0.9)
    return plot


def picture(path: Path) -> str:
    """A PNG as a data URI, compressed as photographs are: a tenth of the size."""
    out = io.BytesIO()
    with open_image(path, path) as image:
        image.convert("RGB").save(out, format="WEBP", quality=88, method=3)
    return uri(out.getvalue(), "webp")


def pictures(runs: list[Run]) -> str:
    """Reconstructions over the course of training, and at its end."""
    parts = []
    for place, run in enumerate(runs):
        strips = run.stages()
        if strips:
            folder = strips[0][1].parent
            columns = [("frame", folder / "frames.png"), ("seen", folder / "hidden.png")]
            columns += [(f"step {step:,}", path) for step, path in strips]
            cells = "".join(
                f'<figure><img src="{picture(path)}" alt="{esc(text)}"><figcaption>{esc(text)}</figcaption></figure>'
                for text, path in columns
                if path.exists()
            )
            parts.append(f"{subtitle(runs, place)}<div class='strip'>{cells}</div>")
    if parts:
        text = "Reconstructions while training: hidden patches as predicted then, pasted between the visible ones."
        if any(run.config["fields"].get("norm_pix") for run in runs):
            text += f" {NORMALISED}"
        parts.append(f"<p class='note'>{text}</p>")
    for run in runs:
        path = run.folder / "figures" / "predictions.png"
        if path.exists():
            text = "What the trained task makes of sequences it learned from; the first picture of a row is given."
            sheet = figure(picture(path), f"predictions of {run.name}", text, kind="sheet wide")
            parts.append(sheet)
        path = run.folder / "figures" / "reconstruction.png"
        if path.exists():
            sheet = figure(picture(path), f"reconstructions of {run.name}", kind="sheet")
            owner = f" of {run.name}" if len(runs) > 1 else ""
            parts.append(_details(f"More reconstructions{owner}, at the end", sheet))
    title = "Reconstruction" if any(run.kind == "methods" for run in runs) else "Predictions"
    return section(title, "".join(parts)) if parts else ""


def subtitle(runs: list[Run], place: int) -> str:
    if len(runs) < 2:
        return ""
    return f'<h3><i style="background:{colour(place)}"></i>{esc(runs[place].name)}</h3>'


def attention(runs: list[Run]) -> str:
    """Where the decoders' attention goes."""
    known = [(place, {**run.attention, "name": run.name}) for place, run in enumerate(runs) if run.attention]
    if not known:
        return ""
    parts = []
    tones = [colour(place) for place, _ in known]
    panels = [
        ("within", "Within the frame", "Solid: all of the token's own frame; dotted: without the token itself."),
        ("between", "Between the frames", "The straight dotted line is attention spread evenly over all tokens."),
        ("f_tem", "To the best partner", "f<sub>tem</sub>: largest share given to one token of the other frame."),
    ]
    for share, title, text in panels:
        with charts.styled():
            plot, (axes,) = charts.chart(4.3, 2.9)
            charts.attention_panel(axes, [found for _, found in known], share, title, tones)
        parts.append(figure(uri(charts.svg(plot), "svg+xml"), title, text))
    content = f'<div class="charts">{"".join(parts)}</div>'
    for place, _ in known:
        path = runs[place].folder / "figures" / "temporal.png"
        if path.exists():
            content += subtitle(runs, place) + figure(picture(path), f"f_tem of {runs[place].name}", kind="sheet wide")
    videos = max(found["videos"] for _, found in known)
    return section(
        "Attention in the decoder",
        content,
        f"Share of the attention per decoder layer, mean over all tokens and heads of a sample of each of {videos} "
        "videos, hidden as in training, without dropout; bands are the deviation between videos. The heat maps show "
        "f<sub>tem</sub>, a token's largest attention to one token of the other frame: bright tokens have found a "
        "partner.",
    )


def configuration(runs: list[Run]) -> str:
    """The settings of the runs, those that differ from the defaults or between runs first."""
    parts = [f"{subtitle(runs, place)}<pre>{esc(command(run))}</pre>" for place, run in enumerate(runs)]
    for title, key in (("Settings of the model", "fields"), ("Training options", "options")):
        tables = [run.config[key] for run in runs]
        rows = list(dict.fromkeys(name for table in tables for name in table))
        parts.append(_details(title, _table(runs, rows, [[table.get(name) for table in tables] for name in rows])))
    tables = [{**told(run.config["data"]), **run.config["environment"], "memory": run.memory} for run in runs]
    rows = list(dict.fromkeys(name for table in tables for name in table))
    content = _table(runs, rows, [[table.get(name) for table in tables] for name in rows])
    return section("Configuration", "".join(parts)) + section("Data and environment", content)


def told(data: dict[str, Any]) -> dict[str, Any]:
    """What a run learned from, as rows of a table."""
    rows = {key: value for key, value in data.items() if key not in ("sources", "validation")}
    for key in ("sources", "validation"):
        if data.get(key):
            rows[key] = [f"{source['entry']} ({source['sequences']})" for source in data[key]]
    return rows


def command(run: Run) -> str:
    """The command that made a run, with the settings that are not the defaults."""
    data = run.config["data"]
    words = ["dropmae", "pretrain", run.config["method"], "VIDEOS", "--out", str(run.folder)]
    options: type = Options
    if run.kind == "tasks":
        words = ["dropmae", "finetune", run.config["method"], *(source["entry"] for source in data["sources"])]
        words += ["--out", str(run.folder), *(["--init", data["init"]] if data.get("init") else [])]
        options = Tuning
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    try:
        cls: Any = registry.find(run.kind, run.config["method"], str(run.folder))
        defaults |= {**registry.defaults(cls), **(cls.recipe if run.kind == "tasks" else {})}
    except ValueError:  # of a user's file that the caller has not named: all its settings are told
        defaults |= dict.fromkeys(run.config["fields"])
    for name, value in {**run.config["fields"], **run.config["options"]}.items():
        if name in defaults and value != json.loads(json.dumps(defaults[name])) and value is not None:
            flag = "--" + name.replace("_", "-")
            if isinstance(value, bool):
                words.append(flag if value else f"--no-{flag[2:]}")
            else:
                words += [flag, *(map(str, value) if isinstance(value, list) else [str(value)])]
    return " ".join(words)


def _details(title: str, content: str) -> str:
    return f"<details><summary>{esc(title)}</summary>{content}</details>"


def _table(runs: list[Run], names: Iterable[str], values: Listed[Listed[Any]]) -> str:
    head = "".join(f"<th>{esc(run.name)}</th>" for run in runs) if len(runs) > 1 else ""
    rows = []
    for name, row in zip(names, values):
        kind = ' class="differs"' if any(value != row[0] for value in row) else ""
        cells = "".join(f"<td>{esc(_shown(value))}</td>" for value in row)
        rows.append(f"<tr{kind}><th>{esc(name.replace('_', '-'))}</th>{cells}</tr>")
    top = f"<thead><tr><th></th>{head}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{top}<tbody>{"".join(rows)}</tbody></table></div>'


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return "–" if value is None else str(value)


def bad_files(runs: list[Run]) -> str:
    """Videos that could not be read."""
    rows = []
    for run in runs:
        for name, entry in run.bad.items():
            owner = f"<td>{esc(run.name)}</td>" if len(runs) > 1 else ""
            rows.append(
                f"<tr><th>{esc(name)}</th><td>{esc(entry['reason'])}</td><td>{entry['samples']}</td>{owner}</tr>"
            )
    if not rows:
        return section("Bad files", "<p>None: every video could be read.</p>")
    lost = sum(entry["samples"] for run in runs for entry in run.bad.values())
    head = f"<tr><th>file</th><th>reason</th><th>samples replaced</th>{'<th>run</th>' if len(runs) > 1 else ''}</tr>"
    table = (
        f'<div class="scroll"><table class="plain"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    )
    return section("Bad files", table, f"{len(rows)} could not be read; {lost:,} samples were replaced by others.")
