"""Tables of numbers: of one result sequence by sequence, of several results side by side, and beside published ones.

For people they fit 80 columns; the same tables come as CSV, Markdown and LaTeX.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

Form = Literal["csv", "md", "latex"]
Report = Mapping[str, Any]
"""What a benchmark's `score` returns."""

SHORT = {
    "success_auc": "AUC",
    "success_50": "SR50",
    "success_75": "SR75",
    "precision": "P",
    "precision_20": "P20",
    "norm_precision": "NP",
    "norm_precision_20": "NP20",
    "norm_precision_auc": "NPauc",
    "ao": "AO",
    "sr50": "SR50",
    "sr75": "SR75",
    "J&F_mean": "J&F",
    "J_mean": "J",
    "J_recall": "Jrec",
    "J_decay": "Jdec",
    "F_mean": "F",
    "F_recall": "Frec",
    "F_decay": "Fdec",
    "G_mean": "G",
    "J_seen": "Js",
    "F_seen": "Fs",
    "J_unseen": "Ju",
    "F_unseen": "Fu",
    "mean_iou": "mIoU",
    "mean_accuracy": "mAcc",
    "pixel_accuracy": "pAcc",
    "frequency_iou": "fIoU",
    "delta": "delta",
    "oa": "OA",
    "aj": "AJ",
    "outliers": "Fl",
    "epe": "EPE px",
}
"""What the field calls a number, in as few letters as it does."""
LEADING = ("ao", "success_auc", "J&F_mean", "G_mean", "mean_iou", "PCK@0.2", "aj", "J_mean", "epe")
"""The first of these numbers that a report has ranks it."""
LOWER_IS_BETTER = ("epe", "outliers", "over")
"""First words of the names of such numbers."""
IN_PIXELS = "epe"
"""First word of the names of numbers that are no shares but pixels."""
NOT_SHARES = ("fps",)
"""Numbers of a report that are no metrics though they may lie below 1."""
LEAST_NAME = 12
"""Letters that the first column keeps however many columns there are."""


def metrics(report: Report) -> dict[str, float | None]:
    """The metrics of a report: shares in [0, 1], and end-point errors in pixels; other numbers are left out."""
    return {
        key: value
        for key, value in report.items()
        if (value is None or (isinstance(value, float) and (abs(value) <= 1 or word(key) == IN_PIXELS)))
        and key not in NOT_SHARES
    }


def word(key: str) -> str:
    """The first word of a number's name."""
    return key.partition("_")[0]


def leading(report: Report) -> str | None:
    """The name of the number that ranks a report; None where it has no metric."""
    held = metrics(report)
    return next((key for key in LEADING if key in held), next(iter(held), None))


def order(report: Report, key: str | None) -> tuple[bool, float]:
    """Sorts reports: the best first, those without the number last."""
    value = None if key is None else metrics(report).get(key)
    if key is None or value is None:
        return True, 0.0
    return False, value if word(key) in LOWER_IS_BETTER else -value


def shown(key: str, value: Any) -> str:
    """A number for people: pixels with two digits, shares in percent with one."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return "-"
    return f"{value:.2f}" if word(key) == IN_PIXELS else f"{100 * value:.1f}"


def by_name(name: str) -> list[tuple[bool, Any]]:
    """Sorts names as people do: clip2 before clip10."""
    return [(part.isdigit(), int(part) if part.isdigit() else part.lower()) for part in re.split(r"(\d+)", name)]


@dataclass
class Table:
    """Rows of cells under headings. The first cell of a row is its name; None in place of a row is a line."""

    title: str
    heads: list[str]
    rows: list[list[str] | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    exact: list[list[Any]] = field(default_factory=list)
    """The rows for CSV, numbers as they were computed."""

    def add(self, names: Sequence[str], keys: Sequence[str], values: Mapping[str, Any]) -> None:
        """A row: what it is, and the values of `keys`."""
        self.rows.append([*names, *(shown(key, values.get(key)) for key in keys)])
        self.exact.append([*names, *("" if values.get(key) is None else values.get(key) for key in keys)])

    def text(self, width: int = 80) -> str:
        """For a terminal of so many columns; what does not fit is cut from the middle of the names."""
        rows = [row for row in self.rows if row is not None]
        wide = [max(len(row[column]) for row in [self.heads, *rows]) for column in range(len(self.heads))]
        spare = width - sum(wide[1:]) - 2 * (len(wide) - 1)
        wide[0] = min(wide[0], max(spare, LEAST_NAME))

        def line(row: Sequence[str]) -> str:
            cells = [clipped(row[0], wide[0]).ljust(wide[0])]
            cells += [cell.rjust(size) for cell, size in zip(row[1:], wide[1:])]
            return "  ".join(cells).rstrip()

        rule = "-" * (sum(wide) + 2 * (len(wide) - 1))
        body = [rule if row is None else line(row) for row in self.rows]
        told = [textwrap.fill(text, width, subsequent_indent="  ") for text in (self.title, *self.notes)]
        return "\n".join([told[0], line(self.heads), rule, *body, *told[1:]])

    def render(self, form: Form) -> str:
        """As CSV (numbers as computed: shares in [0, 1]), Markdown or LaTeX (as people see them)."""
        rows = [row for row in self.rows if row is not None]
        if form == "csv":
            out = io.StringIO()
            csv.writer(out, lineterminator="\n").writerows([self.heads, *self.exact])
            return out.getvalue().rstrip("\n")
        if form == "md":
            lines = [["---", *["---:"] * (len(self.heads) - 1)], *rows]
            table = "\n".join(
                "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in [self.heads, *lines]
            )
            return "\n\n".join([f"**{self.title}**", table, *self.notes])
        body = [" & ".join(latex(cell) for cell in row) + r" \\" for row in [self.heads, *rows]]
        columns = "l" + "r" * (len(self.heads) - 1)
        lines = [f"% {self.title}", rf"\begin{{tabular}}{{{columns}}}", r"\hline", body[0], r"\hline", *body[1:]]
        return "\n".join([*lines, r"\hline", r"\end{tabular}", *(f"% {note}" for note in self.notes)])


def clipped(text: str, width: int) -> str:
    """A text of at most `width` letters, cut in the middle, where names differ least."""
    if len(text) <= width:
        return text
    head = (width - 2) // 2
    return f"{text[:head]}..{text[len(text) - (width - 2 - head) :]}"


def latex(text: str) -> str:
    """A text with LaTeX's own characters escaped."""
    return re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", r"\textbackslash ")).replace("~", r"\textasciitilde ")


# What is shown of reports


def heading(report: Report) -> str:
    """The benchmark, its year and the protocol of a report."""
    title = " ".join(str(report[key]) for key in ("benchmark", "year") if key in report)
    title += f", protocol {report['protocol']}" if "protocol" in report else ""
    return title + (f" ({report['rules']})" if "rules" in report else "") + ", in %"


def detail(report: Report) -> Table:
    """One result: a row per sequence, sorted by name, their mean, attributes and other protocols."""
    keys = list(metrics(report))
    rows: Mapping[str, Report] = report.get("sequences", {})
    table = Table(heading(report), ["sequence", *(SHORT.get(key, key) for key in keys)])
    for name in sorted(rows, key=by_name):
        table.add([name], keys, metrics(rows[name]))
    table.rows.append(None)
    table.add([f"all ({len(rows)})"], keys, metrics(report))
    for part, word in (("attributes", "attribute"), ("protocols", "protocol")):
        if report.get(part):
            table.rows.append(None)
        for name, row in report.get(part, {}).items():
            table.add([f"{word} {name}" + (f" ({row['count']})" if part == "attributes" else "")], keys, metrics(row))
    return table


def comparison(reports: Mapping[str, Report]) -> list[Table]:
    """Several results side by side: the numbers of each, the best first, and the leading one for each sequence."""
    first = next(iter(reports.values()))
    key = leading(first)
    keys = list(dict.fromkeys(key for report in reports.values() for key in metrics(report)))
    ranked = sorted(reports, key=lambda name: order(reports[name], key))
    table = Table(heading(first), ["", *(SHORT.get(key, key) for key in keys), "of"])
    for name in ranked:
        table.add([name], keys, metrics(reports[name]))
        count = str(len(reports[name].get("sequences", {})))
        for rows in (table.rows, table.exact):
            row = rows[-1]
            assert row is not None
            row.append(count)
    table.notes += ["of: sequences that have results"]
    if key is None:
        return [table]
    each = Table(f"{SHORT.get(key, key)} of each sequence", ["sequence", *ranked])
    for sequence in sorted({name for report in reports.values() for name in report.get("sequences", {})}, key=by_name):
        found = {name: metrics(reports[name].get("sequences", {}).get(sequence, {})).get(key) for name in ranked}
        each.rows.append([sequence, *(shown(key, found[name]) for name in ranked)])
        each.exact.append([sequence, *("" if found[name] is None else found[name] for name in ranked)])
    return [table, each]


# Published numbers


@cache
def published() -> list[dict[str, Any]]:
    """Numbers from papers: benchmark, split, sequences, method, backbone, data, protocol, numbers, source."""
    return json.loads((Path(__file__).with_name("published.json")).read_text())["rows"]


def beside_published(reports: Mapping[str, Report]) -> Table:
    """Results beside the published ones of their benchmark.

    Only what was scored by the same rules on the same sequences is ranked. Other rows stand below, each with what
    differs. ValueError where nothing is known of the benchmark.
    """
    first = next(iter(reports.values()))
    name, year = first["benchmark"], str(first.get("year", ""))
    known = [row for row in published() if row["benchmark"] == name and str(row.get("year", "")) == year]
    if not known:
        there = sorted({row["benchmark"] for row in published()})
        raise ValueError(f"no published numbers of {name} {year}are kept; there are those of {', '.join(there)}")
    own = {key for report in reports.values() for key in metrics(report)}
    keys = [key for key in dict.fromkeys(key for row in known for key in row["numbers"]) if key in own]
    lead = leading({**known[0]["numbers"]})
    table = Table(f"{name} {year}".strip() + ", beside published numbers, in %", ["", *(SHORT.get(k, k) for k in keys)])
    ranked: list[tuple[str, Report]] = []
    marked: list[tuple[str, Report, str]] = []
    splits = {int(row["sequences"]) for row in known}
    counts = {label: len(report.get("sequences", {})) for label, report in reports.items()}
    wanted = next((count for count in counts.values() if count in splits), max(splits))
    for label, report in reports.items():
        if (count := counts[label]) == wanted:
            ranked.append((f"> {label}", report))
        else:
            marked.append((f"> {label}", report, f"{count} of {wanted} sequences"))
    for row in known:
        label = f"{row['method']}, {row['backbone']}, {row['data']}"
        if row["protocol"] == first.get("protocol") and row["sequences"] == wanted:
            ranked.append((label, row["numbers"]))
        else:
            marked.append((label, row["numbers"], f"{row['split']}, {row['protocol']}"))
    ranked.sort(key=lambda entry: order(entry[1], lead))
    marked.sort(key=lambda entry: (entry[2], order(entry[1], lead)))
    for place, (label, numbers) in enumerate(ranked, 1):
        table.add([f"{place}. {label}"], keys, metrics(numbers))
    reasons = list(dict.fromkeys(reason for _, _, reason in marked))
    if marked:
        table.rows.append(None)
    for label, numbers, reason in marked:
        table.add([f"{'*' * (reasons.index(reason) + 1)} {label}"], keys, metrics(numbers))
    table.notes += [f"{'*' * number} not ranked: {reason}" for number, reason in enumerate(reasons, 1)]
    table.notes += ["sources: " + "; ".join(dict.fromkeys(row["source"] for row in known))]
    return table


MANY = 12
"""Names listed before a list is cut short."""


def remarks(report: Report, prefix: str = "") -> list[str]:
    """What did not count, and why."""
    found = []
    for name, row in report.get("protocols", {}).items():
        if "error" in row:
            found.append(f"protocol {name} does not take these results: {row['error']}")
    for key, what in (("missing", "without results"), ("extra", "not of this split")):
        if names := report.get(key):
            rest = f" and {len(names) - MANY} more" if len(names) > MANY else ""
            found.append(f"{len(names)} sequences {what}, not counted: {', '.join(names[:MANY])}{rest}")
    found += [f"{name} not counted: {reason}" for name, reason in report.get("skipped", {}).items()]
    return [prefix + text for text in found]


def present(
    reports: Mapping[str, Report],
    say: Callable[[str], None],
    form: Form | None = None,
    beside: Literal["published"] | None = None,
) -> None:
    """Shows results under their trackers' names: tables to read through `say`, or in a form for programs on stdout."""
    tables = comparison(reports) if len(reports) > 1 else [detail(report) for report in reports.values()]
    if beside is not None:
        tables.append(beside_published(reports))
    if form is None:
        width = max(60, shutil.get_terminal_size((80, 24)).columns) if sys.stderr.isatty() else 80
        for table in tables:
            say("", *table.text(width).splitlines())
    else:
        print("\n\n".join(table.render(form) for table in tables))
    for name, report in reports.items():
        for line in remarks(report, f"{name}: " if len(reports) > 1 else ""):
            say(line)
