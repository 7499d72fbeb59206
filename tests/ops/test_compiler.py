"""Just-in-time compilation and the switch between the forms of an op."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from dropmae.ops import compiler, switch

SOURCE = 'extern "C" int answer() { return 42; }\n'
needs_compiler = pytest.mark.skipif(not shutil.which("c++") and not shutil.which("g++"), reason="no C++ compiler")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    compiler._attempt.cache_clear()
    monkeypatch.setenv("DROPMAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def source(folder: Path, text: str = SOURCE) -> Path:
    path = folder / "answer.cpp"
    path.write_text(text)
    return path


@needs_compiler
def test_compiled_once_for_each_source(cache: Path, tmp_path: Path) -> None:
    path = source(tmp_path)
    assert compiler.load(path).answer() == 42
    made = list(cache.iterdir())
    assert [file.suffix for file in made] == [".so"]
    assert cache.stat().st_mode & 0o077 == 0
    stamp = made[0].stat().st_mtime_ns
    compiler._attempt.cache_clear()
    assert compiler.load(path).answer() == 42
    assert made[0].stat().st_mtime_ns == stamp
    compiler._attempt.cache_clear()
    assert compiler.load(source(tmp_path, SOURCE.replace("42", "43"))).answer() == 43
    assert len(list(cache.iterdir())) == 2


@needs_compiler
def test_compiled_anew_where_a_header_changes(cache: Path, tmp_path: Path) -> None:
    header, path = tmp_path / "number.hpp", source(tmp_path, '#include "number.hpp"\n' + SOURCE.replace("42", "NUMBER"))
    for number in (42, 43):
        header.write_text(f"#define NUMBER {number}\n")
        compiler._attempt.cache_clear()
        assert compiler.load(path).answer() == number


@needs_compiler
def test_a_source_that_fails_is_one_line_and_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(compiler.CannotCompile, match=r"answer\.cpp") as caught:
        compiler.load(source(tmp_path, "nonsense\n"))
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_no_compiler(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(compiler.CannotCompile, match="no C"):
        compiler.load(source(tmp_path))


@needs_compiler
def test_a_cache_that_cannot_be_written(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DROPMAE_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(compiler.CannotCompile, match="could not be compiled"):
        compiler.load(source(tmp_path))


def test_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DROPMAE_OPS", raising=False)
    assert switch.form() == "fast"
    monkeypatch.setenv("DROPMAE_OPS", "reference")
    assert switch.form() == "reference"
    with switch.use("torch"):
        assert switch.form() == "torch"
        with switch.use("fast"):
            assert switch.form() == "fast"
        assert switch.form() == "torch"
    monkeypatch.setenv("DROPMAE_OPS", "quick")
    with pytest.raises(ValueError, match="fast, torch, reference"):
        switch.form()
    with pytest.raises(ValueError, match="fast, torch, reference"), switch.use("quick"):
        pass


def test_threads_choose_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the pages of a browser, each in a thread, have to."""
    monkeypatch.delenv("DROPMAE_OPS", raising=False)
    inside, seen = threading.Barrier(2), {}

    def work(name: str) -> None:
        with switch.use(name):
            inside.wait(10)
            seen[name] = switch.form()
            inside.wait(10)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("torch", "reference")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"torch": "torch", "reference": "reference"}
    assert switch.form() == "fast"
