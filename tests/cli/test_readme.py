"""What the README and the documentation tell people to type is there and works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import dropmae
from dropmae import cli, registry, video
from samples import moving_squares

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [*PAGES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "src" / "dropmae" / "shipped").glob("*.md"))]
BLOCK = re.compile(r"^```(?:bash|sh|console)?\n(.*?)^```", re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    """Every `dropmae ...` command in a page's code blocks, continuation lines joined and comments cut."""
    found = []
    for block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            if not re.match(r"(\$ )?([A-Z_]+=\S* )*(dropmae|torchrun|python|srun) ", line):
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            words = words[: next((i for i, word in enumerate(words) if word in ("|", ">", "&&")), None)]
            if words[:1] == ["dropmae"]:
                found.append(words[1:])
            elif "-m" in words and "dropmae" in words and words[0] in ("torchrun", "python", "srun"):
                found.append(words[words.index("dropmae") + 1 :])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_understood(page: Path) -> None:
    for words in commands(page):
        words = [word for word in words if word not in ("--json", "--debug")]
        if "..." in words or any(word.endswith(".py") for word in words) or words[-1:] == ["--help"]:
            assert words[0] in dropmae.VERBS
            continue
        if cli.answer(words) is None:
            cli.parse(cli.split_code(words)[0])


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_left_to_fill_in(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    assert not re.findall(r"^[A-Z_]{4,}$|\bTODO\b|\bTBD\b", text, re.M)


def test_the_readme_says_the_two_commands_first() -> None:
    screen = (ROOT / "README.md").read_text().split("\n## ")[0] + (ROOT / "README.md").read_text()[:2500]
    assert "make demo" in screen
    assert "make test" in screen
    assert "dropmae pretrain" in screen


def test_the_make_targets_exist() -> None:
    text = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", text, re.M) for target in ("demo", "check", "test", "lint", "format", "bench"))


def test_a_method_of_ones_own_trains_and_loads(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "contracts.md").read_text()
    code = re.search(r"<!-- file: later\.py -->\n```python\n(.*?)```", page, re.S)
    assert code
    (tmp_path / "later.py").write_text(code.group(1))
    for number in range(3):
        video.write(tmp_path / "videos" / f"clip{number}.mp4", moving_squares(number))
    words = ["pretrain", str(tmp_path / "later.py"), str(tmp_path / "videos"), "--out", str(tmp_path / "run")]
    more = ["--size", "tiny", "--image", "64", "--steps", "2", "--global-batch", "2", "--workers", "0"]
    assert cli.main([*words, *more]) == 0
    module = dropmae.load(tmp_path / "run" / "last.safetensors")
    assert module.mask_ratio == 0.9
    assert type(module).__name__ == "Later"
    assert "mask_ratio" in registry.field_docs(registry.load("methods", str(tmp_path / "later.py")))
