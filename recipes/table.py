"""A Markdown table from evaluation folders: `python recipes/table.py OUT/eval`, laid out as <weights>/<benchmark>/."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HEADLINES = ("top1", "J&F_mean", "mean_iou", "PCK@0.1", "PCK@0.2", "success_auc")
"""The number of a benchmark that papers put into their tables: the first of these that its report has."""


def table(folder: Path) -> str:
    """Rows are weights, columns are benchmarks; a cell is the headline number in percent."""
    cells: dict[str, dict[str, str]] = {}
    for file in sorted(folder.glob("*/*/numbers.json"), key=lambda file: file.stat().st_mtime):
        report = json.loads(file.read_text())
        key = next((key for key in HEADLINES if report.get(key) is not None), None)
        column = f"{file.parent.name} {key}" if key else file.parent.name
        cells.setdefault(file.parent.parent.name, {})[column] = f"{100 * report[key]:.1f}" if key else "-"
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    lines = [["weights", *columns], ["---"] * (1 + len(columns))]
    lines += [[name, *(row.get(column, "-") for column in columns)] for name, row in cells.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
