"""Every recipe says what it is, and every command in it is one that the command line understands."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from dropmae import cli

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.sh"))
RECORDER = """#!/usr/bin/env bash
{ printf '%q ' "$0" "$@"; echo; } >> "$RECORD"
"""


def commands(recipe: Path, folder: Path) -> list[list[str]]:
    """What a recipe would run: dropmae, torchrun and python are replaced by a recorder."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("dropmae", "torchrun", "python", "python3", "srun"):
        (tools / name).write_text(RECORDER)
        (tools / name).chmod(0o755)
    arguments = [str(folder / f"argument{number}") for number in range(1, 6)]
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "RECORD": str(folder / "record")}
    done = subprocess.run(
        ["bash", str(recipe), *arguments[: needed(recipe)]],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in (folder / "record").read_text().splitlines()]


def needed(recipe: Path) -> int:
    """How many of $1, $2 ... a recipe reads as its own positional arguments."""
    text = recipe.read_text()
    return max((number for number in range(1, 6) if f"${number}" in text or f"${{{number}" in text), default=0)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_the_head_says_what_to_expect(recipe: Path) -> None:
    lines = recipe.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    head = "\n".join(line for line in lines[1:12] if line.startswith("#"))
    for word in ("Expected:", "Hours:", "Use:"):
        assert word in head
    assert "Paper:" in head or "What:" in head
    assert os.access(recipe, os.X_OK)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_every_command_is_understood(recipe: Path, tmp_path: Path) -> None:
    found = 0
    for words in commands(recipe, tmp_path):
        name, rest = Path(words[0]).name, words[1:]
        if name != "dropmae":
            if "dropmae" not in rest:
                continue
            rest = rest[rest.index("dropmae") + 1 :]
        rest = [word for word in rest if word not in ("--json", "--debug")]
        cli.parse(rest)
        found += 1
    assert found
