"""The command line: words -> keyword arguments -> verb.

A verb is the function of that name in the module that `dropmae.VERBS` gives. Positional parameters without a default
are positional arguments, the others are flags. A verb whose first parameter is `method`, `task` or `benchmark` also
takes the fields of the class so named, and a module's `OPTIONS` adds the fields of a dataclass: both reach the verb as
keyword arguments. All that is read from the source text (`declarations`), so that help and wrong words cost no import.
A verb returns None or a JSON-able value, which `--json` prints on stdout; all else goes to stderr.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import dropmae
from dropmae import declarations, interruption, manual, registry
from dropmae.declarations import Flag
from dropmae.progress import say

NUMBER = re.compile(r"-?[\d.,x]+(e-?\d+)?")


def parse(argv: list[str]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A verb's function and the arguments that are given; ValueError for wrong ones, before the verb is imported."""
    verb, words = verb_of(argv[0]), argv[1:]
    name = manual.named(verb, words)
    flags = [*verb.flags, *declarations.settings(verb, name)]
    given = dict[str, Any]()
    known = {flag.name: flag for flag in flags if not flag.positional}
    rest = scan(modern(words, known, declarations.renames(verb, name)), known, given)
    for flag in (flag for flag in flags if flag.positional and rest):
        most = longest(flag.hint)
        given[flag.name], rest = converted(flag, rest[:most]), [] if most is None else rest[most:]
    missing = [manual.shown(flag) for flag in flags if flag.default is MISSING and flag.name not in given]
    if rest or missing:
        what = f"{rest[0]!r} is one word too many" if rest else f"{' and '.join(missing)} must be given"
        raise ValueError(f"{what}; {manual.usage(verb, name)}")
    return getattr(importlib.import_module(f"dropmae.{dropmae.VERBS[verb.name]}"), verb.name), given


def verb_of(name: str) -> declarations.Verb:
    if name not in dropmae.VERBS:
        known = ", ".join(dropmae.VERBS)
        raise ValueError(f"{name!r} is not a verb of dropmae; there are: {known}{registry.meant(name, dropmae.VERBS)}")
    return declarations.declared(name)


def modern(words: list[str], flags: dict[str, Flag], renames: dict[str, str]) -> list[str]:
    """The words, with old names of flags replaced by those of today, which is said."""
    made = []
    for word in words:
        title, equals, text = word.partition("=")
        no, old = ("no-", title[5:]) if title.startswith("--no-") else ("", title[2:])
        new = renames.get(old.replace("-", "_")) if title.startswith("--") else None
        if new is not None and title[2:].replace("-", "_") not in flags:
            word = f"--{no}{manual.shown(flags[new])[2:]}{equals}{text}"
            say(registry.moved(title, word.partition("=")[0]))
        made.append(word)
    return made


def scan(words: list[str], flags: dict[str, Flag], given: dict[str, Any]) -> list[str]:
    """Puts the values of the flags among the words into `given`; returns the other words."""
    rest = list[str]()
    while words:
        word, *words = words
        if not word.startswith("--"):
            rest.append(word)
            continue
        title, equals, text = word.partition("=")
        name = title[2:].replace("-", "_")
        flag, off = flags.get(name), False
        if flag is None and name.startswith("no_"):
            flag = flags.get(name[3:])
            off = flag is not None and is_switch(flag.hint)
            flag = flag if off else None
        if flag is None:
            hint = registry.meant(title, [manual.shown(other) for other in flags.values()])
            raise ValueError(f"there is no flag {title}{hint or ' here; --help-all lists them'}")
        if equals:
            taken = [text]
        elif is_switch(flag.hint) and words[:1] not in (["True"], ["False"], ["None"]):
            taken = ["no" if off else "yes"]
        else:
            taken = words[: longest(flag.hint)]
            ends = [n for n, one in enumerate(taken) if one.startswith("--") or (n and not fits(one, flag.hint))]
            taken = taken[: ends[0]] if ends else taken
            words = words[len(taken) :]
        value = converted(flag, taken)
        again = flag.name in given and longest(flag.hint) is None
        given[flag.name] = given[flag.name] + value if again else value
    return rest


# ---------------------------------------------------------------- words to values


def kinds(hint: Any) -> list[Any]:
    """The types that a value may have, but for None."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [part for part in parts if part is not NoneType]


def is_switch(hint: Any) -> bool:
    return kinds(hint) == [bool]


def longest(hint: Any) -> int | None:
    """How many words a value has at most; None: any number."""
    counts = [len(get_args(kind)) if is_listed(kind) else 1 for kind in kinds(hint)]
    return (
        None if any(get_args(kind)[1:] == (...,) or get_origin(kind) is list for kind in kinds(hint)) else max(counts)
    )


def is_listed(kind: Any) -> bool:
    return get_origin(kind) in (tuple, list)


def elements(kind: Any) -> set[Any]:
    return {*get_args(kind)} - {...} if is_listed(kind) else {kind}


def fits(word: str, hint: Any) -> bool:
    """Whether a word can go on a value: among numbers only numbers can, so that a flag takes no path that follows."""
    numeric = set().union(*map(elements, kinds(hint))) <= {int, float}
    return not numeric or NUMBER.fullmatch(word) is not None


def converted(flag: Flag, words: list[str]) -> Any:
    """The value of a flag or argument from its words; ValueError in one line where they make none."""
    title, error = manual.shown(flag), None
    if [word.lower() for word in words] == ["none"] and NoneType in get_args(flag.hint):
        return None
    for kind in sorted(kinds(flag.hint), key=lambda kind: kind in (str, Path)):
        parts = words
        if elements(kind) <= {int, float} and is_listed(kind):
            parts = [part for word in words for part in re.split(r"[,x]", word) if part]
        each = get_args(kind)
        try:
            if not is_listed(kind):
                if len(parts) != 1:
                    raise ValueError(f"{title} takes one {manual.kind(kind)}")
                return registry.read(title, parts[0], kind)
            if each[1:] == (...,) or get_origin(kind) is list:
                each = each[:1] * len(parts)
            if len(each) != len(parts):
                raise ValueError(f"{title} takes {manual.kind(kind)}, not {' '.join(words) or 'nothing'}")
            return get_origin(kind)(registry.read(title, part, one) for part, one in zip(parts, each))
        except ValueError as wrong:
            error = wrong
    assert error is not None
    raise error


# ---------------------------------------------------------------- running


def split_code(argv: list[str]) -> tuple[list[str], list[str]]:
    """The other words, and the users' files that --code FILE.py names, as often as it is given."""
    rest, code, words = list[str](), list[str](), iter(argv)
    for word in words:
        if word == "--code" or word.startswith("--code="):
            code.append(word[7:] or next(words, ""))
        else:
            rest.append(word)
    return rest, code


def answer(argv: list[str]) -> str | None:
    """What is printed where nothing is to be done but to answer: help, the version, completion."""
    if not argv or argv[0] in ("-h", "--help", "--help-all", "help"):
        return manual.summary()
    if argv[0] == "--version":
        return f"dropmae {dropmae.__version__}"
    if argv[0] == "--complete":
        return "\n".join(manual.complete(argv[1:]))
    if argv[0] == "--completion":
        if argv[1:2] and argv[1] in manual.SHELLS:
            return manual.SHELLS[argv[1]]
        raise ValueError(f"--completion takes one of {', '.join(manual.SHELLS)}")
    asked = {"-h", "--help", "--help-all"} & set(argv[1:])
    return manual.page(verb_of(argv[0]), argv[1:], "--help-all" in asked) if asked else None


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; 0 done, 1 failed, 2 wrong arguments."""
    argv = list(sys.argv[1:] if argv is None else argv)
    switches = {flag: flag in argv for flag in ("--json", "--debug", "--offline")}
    argv, code = split_code([word for word in argv if word not in switches])
    if switches["--offline"]:
        os.environ["DROPMAE_OFFLINE"] = "1"  # weights.public reads it, in started processes too
    try:
        if (text := answer(argv)) is not None:
            print(text, file=sys.stdout if argv else sys.stderr)
            return 0 if argv else 2
        for file in code:
            registry.trust(file)
        function, values = parse(argv)
        # With --json stdout is one JSON object: what a verb prints for other programs goes to people then.
        told = contextlib.redirect_stdout(sys.stderr) if switches["--json"] else contextlib.nullcontext()
        with interruption.Stop(urgent=True), told:
            result = function(**values)
            if hasattr(result, "finish"):  # work that is done step by step: here all of it
                result = result.finish()
        if switches["--json"]:
            print(json.dumps(result, default=str, allow_nan=False))
        return 0
    except KeyboardInterrupt as error:
        kept = f": {error}" if str(error) else ""
        say(f"dropmae: interrupted{kept}")
        return error.code if isinstance(error, interruption.Interrupted) else 130
    except Exception as error:  # the last stop of every verb: one line, and a trace only where asked for
        if switches["--debug"]:
            raise
        expected = isinstance(error, (ValueError, OSError, FloatingPointError))
        text = " ".join(_told(error).split()) or type(error).__name__
        prefix = "" if expected else f"{type(error).__name__}: "
        hint = "" if expected else " (--debug shows where)"
        say(f"dropmae {argv[0]}: {prefix}{text}{hint}")
        return 2 if isinstance(error, ValueError) else 1


def _told(error: Exception) -> str:
    """What an error says, for the operating system's without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
