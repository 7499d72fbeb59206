"""The command line: exit codes, one line per error, JSON alone on stdout."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

import dropmae
from dropmae import cli


@pytest.mark.parametrize(
    "words", [["--help"], ["pretrain", "--help"], ["pretrain", "dropmae", "--help"], ["--version"]]
)
def test_help_goes_to_stdout_and_exits_with_0(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(words)
    except SystemExit as stop:
        code = stop.code
    assert code == 0
    assert "dropmae" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [[], ["pretrian"], ["info"], ["info", "a", "b", "c"], ["synth", "out", "--clips", "many"]]
)
def test_wrong_arguments_exit_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(words)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    captured = capsys.readouterr()
    assert captured.err
    assert not captured.out


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
        assert verb in cli.SUMMARY
        function: Any = getattr(dropmae, verb)
        assert callable(function)
        assert function.__doc__
        undocumented = cli.parameter_docs(function).keys() ^ {
            name for name in function.__annotations__ if name not in ("return", "settings")
        }
        assert not undocumented, f"{verb}: {undocumented}"
