"""The command line: exit codes, one line per error, JSON alone on stdout."""

from __future__ import annotations

import errno
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
from dataclasses import MISSING
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import dropmae
from dropmae import cli, declarations, manual, registry


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["pretrain", "--help"],
        ["pretrain", "dropmae", "-h"],
        ["track", "--help-all"],
        ["--completion", "bash"],
    ],
)
def test_help_goes_to_stdout_and_exits_with_0(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    assert "dropmae" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pretrian"], "did you mean pretrain?"),
        (["pretrian", "--help"], "did you mean pretrain?"),
        (["info"], "PATH must be given"),
        (["info", "a", "b", "c"], "'b' is one word too many"),
        (["synth", "out", "--clips", "many"], "--clips takes int, not 'many'"),
        (["synth", "out", "--clips"], "--clips takes one INT"),
        (["track", "v", "--boz", "1"], "did you mean --box?"),
        (["track", "v", "--no-box"], "there is no flag --no-box"),
        (["track", "v", "--precision", "fp8"], "--precision is one of auto"),
        (["finetune", "vop", "d", "--out", "o"], "did you mean vot?"),
        (["finetune", "vot", "d"], "--out must be given; usage: dropmae finetune vot DATA... --out PATH [flags]"),
        (["finetune", "vot", "d", "--out", "o", "--betas", "0.9"], "--betas takes FLOAT FLOAT, not 0.9"),
        (["evaluate", "no.py", "--root", "r", "--out", "o"], "no.py: no such file"),
        (["--completion", "csh"], "--completion takes one of bash, zsh, fish"),
        (["info", "x", "--code", "no.py"], "no.py: no such .py file"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert told in captured.err
    assert not captured.out


def test_no_words_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["track", "v.mp4", "--box", "122,18,60,168"], {"video": ("v.mp4",), "box": (122.0, 18.0, 60.0, 168.0)}),
        (["track", "--box", "1", "-2", "3", "4", "v.mp4"], {"video": ("v.mp4",), "box": (1.0, -2.0, 3.0, 4.0)}),
        (["track", "v", "--points", "0,1,2", "--points", "0,3,4"], {"video": ("v",), "points": ("0,1,2", "0,3,4")}),
        (["track", "v", "--backwards", "--stop", "none"], {"video": ("v",), "backwards": True, "stop": None}),
        (["synth", "o", "--size", "120x160"], {"out": "o", "size": (120, 160)}),
        (["synth", "o", "--no-flow", "--fps=12.5"], {"out": "o", "flow": False, "fps": 12.5}),
        (["bench", "--bf16", "True", "--no-fp32"], {"bf16": True, "fp32": False}),
        (["report", "a", "b", "--title", "two"], {"runs": [Path("a"), Path("b")], "title": "two"}),
        (
            ["pretrain", "mae", "--image", "64", "v", "--out", "o", "--short_side", "32"],
            {"method": "mae", "image": 64, "videos": "v", "out": Path("o"), "short_side": 32},
        ),
        (
            ["pretrain", "mae", "v", "--out", "o", "--image", "64", "96"],
            {"method": "mae", "videos": "v", "out": Path("o"), "image": (64, 96)},
        ),
    ],
)
def test_words_become_what_the_verb_takes(words: list[str], given: dict[str, Any]) -> None:
    assert cli.parse(words)[1] == given


def pages() -> list[tuple[str, str | None]]:
    """Every verb, alone and with each name that it takes."""
    found: list[tuple[str, str | None]] = []
    for verb in dropmae.VERBS:
        folder = declarations.declared(verb).folder
        found += [(verb, None), *((verb, name) for name in (registry.names(folder) if folder else []))]
    return found


@pytest.mark.parametrize(("verb", "name"), pages())
def test_what_is_read_from_the_text_is_what_is_there(verb: str, name: str | None) -> None:
    """Fields of classes, parameters of functions, their types, defaults and docstrings."""
    function, read = getattr(dropmae, verb), declarations.declared(verb)
    hints = get_type_hints(function)
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    assert [flag.name for flag in read.flags] == [p.name for p in parameters]
    for flag, parameter in zip(read.flags, parameters):
        assert flag.hint == hints[flag.name]
        assert flag.default == (MISSING if parameter.default is parameter.empty else parameter.default)
        assert flag.text
    if read.folder is not None and name is not None:
        cls, own = registry.load(read.folder, name), declarations.described(read.folder, name).flags("")
        assert [(flag.name, flag.hint, flag.default) for flag in own.values()] == registry.fields(cls)
        docs = registry.field_docs(cls)
        assert all(flag.text == docs.get(flag.name, "") for flag in own.values())
    if read.options is not None:
        options = getattr(importlib.import_module(function.__module__), "OPTIONS")  # noqa: B009
        if not isinstance(options, dict):
            fields = read.options.flags("").values()
            assert [(flag.name, flag.hint, flag.default) for flag in fields] == registry.fields(options)


@pytest.mark.parametrize(("verb", "name"), pages())
def test_pages_fit(verb: str, name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = [verb] if name is None else [verb, name]
    brief, whole = (cli.answer([*words, flag]) or "" for flag in ("--help", "--help-all"))
    read = declarations.declared(verb)
    flags = [*read.flags[name is not None :], *declarations.settings(read, name)]
    for text in (brief, whole):
        assert max(map(len, text.splitlines())) <= 80
        assert all(manual.shown(flag)[2:] in text for flag in flags)
    assert len(brief.splitlines()) <= 100
    assert f"usage: dropmae {' '.join(words)}" in brief


def test_the_longest_page_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert len((cli.answer(["finetune", "vot", "--help"]) or "").splitlines()) <= 50


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["finetune", "vot", "--help"],
        ["evaluate", "--help-all"],
        ["track", "v", "--boz"],
        ["--complete", ""],
    ],
    ids=" ".join,
)
def test_help_and_wrong_words_cost_no_torch(words: list[str]) -> None:
    """Half a second of processor time, with the interpreter's start."""
    code = (
        "import sys; from dropmae import cli; code = cli.main(sys.argv[1:]); import time;"
        "heavy = {'torch', 'numpy', 'av', 'matplotlib', 'rich'} & sys.modules.keys();"
        "print(code, time.process_time(), *heavy, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    exit_code, seconds, *heavy = done.stderr.splitlines()[-1].split()
    assert exit_code == ("2" if "--boz" in words else "0")
    assert not heavy
    assert float(seconds) < 0.5


COLLIDING = '''"""A method with fields that the verb has too."""
from dataclasses import dataclass
from dropmae.methods._masked_autoencoder import PairAutoencoder
@dataclass(kw_only=True, eq=False, repr=False)
class Coll(PairAutoencoder):
    """x."""
    {name}: int = 7
    """Mine."""
'''


@pytest.mark.parametrize("name", ["short_side", "steps"])
def test_a_field_that_the_verb_has_too_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = tmp_path / "coll.py"
    code.write_text(COLLIDING.format(name=name))
    for words in (["--help"], [str(tmp_path), "--out", str(tmp_path / "run")]):
        assert cli.main(["pretrain", str(code), *words]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"has a field {name}" in said
    with pytest.raises(ValueError, match=f"has a field {name}"):
        dropmae.pretrain(str(code), tmp_path, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_users_class_that_only_running_tells_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = tmp_path / "coll.py"
    code.write_text(COLLIDING.format(name="mine").replace("= 7", "= max(3, 7)"))
    assert cli.main(["pretrain", str(code), "--help"]) == 0
    assert "--mine" in capsys.readouterr().out


def test_completion_knows_verbs_names_flags_and_choices() -> None:
    def complete(*words: str) -> list[str]:
        return list(manual.complete([*words]))

    assert complete("pre") == ["prepare", "pretrain"]
    assert complete("finetune", "vo") == ["vos", "vot"]
    assert "--drop-ratio" in complete("pretrain", "dropmae", "--dr")
    assert complete("track", "v", "--precision", "b") == ["bf16"]
    assert complete("track", "v", "--out", "") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(tmp_path: Path) -> None:
    """The script as a shell runs it, with a `dropmae` in the path."""
    command = tmp_path / "dropmae"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m dropmae "$@"\n')
    command.chmod(0o755)
    line = (
        'eval "$(dropmae --completion bash)"; COMP_WORDS=(dropmae finetune vo); COMP_CWORD=2; _dropmae;'
        'echo "${COMPREPLY[@]}"'
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", line], env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.stdout.strip() == "vos vot", done.stderr


def test_python_runs_the_package_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "dropmae", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"dropmae {dropmae.__version__}"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("P must be\n smaller"), 2, "dropmae info: P must be smaller"),
        (OSError("the file is torn"), 1, "dropmae info: the file is torn"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/run/x"),
            1,
            "dropmae info: /run/x: No space left on device",
        ),
        (FloatingPointError("not finite"), 1, "dropmae info: not finite"),
        (KeyError("oops"), 1, "dropmae info: KeyError: 'oops' (--debug shows where)"),
    ],
)
def test_an_error_is_one_line(
    error: Exception, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: str) -> None:
        raise error

    monkeypatch.setattr("dropmae.cli.parse", lambda argv: (fail, {"path": "x"}))
    assert cli.main(["info", "x"]) == code
    assert capsys.readouterr().err == line + "\n"
    with pytest.raises(type(error)):
        cli.main(["info", "x", "--debug"])


def test_json_is_alone_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["synth", str(tmp_path), "--clips", "1", "--frames", "3", "--size", "32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) is not None


def test_every_verb_has_a_summary_and_a_function() -> None:
    for verb in dropmae.VERBS:
        assert verb in manual.SUMMARY
        function: Any = getattr(dropmae, verb)
        assert callable(function)
        assert function.__doc__
        undocumented = declarations.parameter_docs(inspect.getdoc(function) or "").keys() ^ {
            name for name in function.__annotations__ if name not in ("return", "settings")
        }
        assert not undocumented, f"{verb}: {undocumented}"
