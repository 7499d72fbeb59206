"""Looks at sets that are for reporting, each on record: rows of the table at the end of docs/log.md.

A number of these sets may be reported only if no choice was made by it. So the recipes that follow their sequences
(sot-table.py, embedded.py) do so with `--final` alone, and write down each look as soon as there is a number.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
from pathlib import Path

from dropmae import storage

PLACE = Path(__file__).resolve().parents[1]
LOG = PLACE / "docs" / "log.md"
HEAD = "| date | commit | look | tracker | set | sequences | success AUC / precision@20 |"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The flags --final and --log."""
    parser.add_argument(
        "--final",
        nargs="?",
        const="",
        metavar="TITLE",
        help="the trackers are final: look at these sets, which are for reporting, and append date, commit and result "
        "of each tracker on each set to the log; without it no sequence is followed",
    )
    parser.add_argument(
        "--log", type=Path, default=LOG, help="the file that looks are appended to; by default docs/log.md"
    )


def refusal(what: str) -> str:
    """What to say to somebody who would look without `--final`."""
    return (
        f"{what}: there is no look on record. These sets are for reporting: choose settings on others, say with "
        "recipes/track-settings.py, and when the tracker is final give --final TITLE, which records the look"
    )


def commit() -> str:
    """The commit of this checkout, with -dirty where its files differ, but for the log; unknown where there is none."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(PLACE), *words], capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/log.md")
        return git("rev-parse", "--short", "HEAD").strip() + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def record(
    log: Path, title: str, made_by: str, tracker: str, place: str, sequences: int, auc: float, precision: float
) -> None:
    """Appends one look, of a tracker at a set, to the table in `log`, which is made where there is none.

    `made_by` is the commit; `auc` and `precision` are in [0, 1], means over the sequences of the set.
    """
    cells = [f"{datetime.date.today()}", made_by, title or "-", tracker, place, str(sequences)]
    cells = [" ".join(cell.replace("|", "/").split()) for cell in cells]
    row = f"| {' | '.join(cells)} | {auc:.3f} / {precision:.3f} |"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    if HEAD not in lines:
        section = [
            "## Looks at reporting sets",
            "",
            "Appended by the recipes, oldest first: one row per tracker and set. No setting may be chosen by them.",
            "",
        ]
        lines += [*([""] if lines else []), *section, HEAD, f"|{'---|' * HEAD.count(' | ')}---|"]
    end = lines.index(HEAD)
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    log.parent.mkdir(parents=True, exist_ok=True)
    storage.write_text(log, "\n".join([*lines[:end], row, *lines[end:]]) + "\n")
