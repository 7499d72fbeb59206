"""Help pages and shell completion, from what is declared in the source text: nothing is imported for them."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable
from dataclasses import MISSING
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import dropmae
from dropmae import declarations, registry
from dropmae.declarations import Flag, Verb

SUMMARY = {
    "demo": "clips, pre-training, reconstructions and report.html in a few minutes",
    "prepare": "verify and re-encode a folder of videos, or store decoded frames",
    "pretrain": "pre-train METHOD on a folder of videos",
    "finetune": "train TASK on labelled data, starting from a pre-trained run",
    "track": "follow a box, a mask or points through a video, or every pixel to the next frame",
    "show": "frames with the numbers of their pixels, or with what trackers made of them",
    "web": "a page on which to show what to follow, correct it and take it along",
    "evaluate": "run weights on BENCHMARK: predictions in the official layout, and numbers",
    "score": "numbers for anybody's prediction files on BENCHMARK",
    "reconstruct": "frames, masked frames and reconstruction, side by side",
    "attention": "within-frame and between-frame attention per decoder layer, and f_tem maps",
    "report": "report.html of a run",
    "info": "what a weight file, run, video or folder holds",
    "convert": "read official checkpoints, write ours or an official layout",
    "synth": "render clips with exact boxes, masks, points and flow",
    "bench": "measure speed and memory",
}
MAIN = ("size", "trunk", "image", "mask_ratio", "epochs", "steps", "global_batch", "lr", "workers", "device")
"""Settings that a page explains at once; of the others it gives the names."""
FEW, NEW = 6, 3
"""So many settings of a class, or so many that are its own, are all explained at once."""
ALWAYS = {
    "--code FILE.py": "a .py file with the class that a weight file names; it is run",
    "--json": "print the result as JSON, alone on stdout",
    "--debug": "show where an error comes from",
    "--offline": "fetch nothing",
}
COLUMN = 24
NAMES: dict[Any, str] = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", Any: "TEXT", bool: "yes|no"}
SHELLS = {
    "bash": "_dropmae() { local IFS=$'\\n'; COMPREPLY=($(dropmae --complete \"${COMP_WORDS[@]:1:COMP_CWORD}\")); }\n"
    "complete -o default -F _dropmae dropmae",
    "zsh": "#compdef dropmae\n_dropmae() { local -a found; "
    'found=("${(@f)$(dropmae --complete "${(@)words[2,CURRENT]}")}"); '
    '[[ -n "$found" ]] && compadd -a found || _files; }\ncompdef _dropmae dropmae',
    "fish": "complete -c dropmae -a '(dropmae --complete (commandline -opc)[2..-1] (commandline -ct))'",
}
"""What makes a shell ask `dropmae --complete` for the words that can follow."""


def shown(flag: Flag) -> str:
    """How a user writes it."""
    return flag.name.upper() if flag.positional else "--" + flag.name.replace("_", "-")


def kind(hint: Any) -> str:
    """What a value looks like."""
    parts = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(kind(part) for part in parts if part is not NoneType)
    if get_origin(hint) is Literal:
        return "|".join(map(str, parts))
    if get_origin(hint) in (tuple, list):
        many = parts[1:] == (...,) or get_origin(hint) is list
        return f"{kind(parts[0])}..." if many else " ".join(map(kind, parts))
    return NAMES.get(hint, str(hint))


def named(verb: Verb, words: list[str]) -> str | None:
    """The METHOD, TASK or BENCHMARK among a verb's words."""
    return words[0] if verb.folder is not None and words and not words[0].startswith("-") else None


def usage(verb: Verb, name: str | None = None) -> str:
    words = ["usage: dropmae", verb.name]
    for flag in verb.flags:
        many = "..." if get_origin(flag.hint) in (tuple, list) else ""
        if flag.positional:
            word = name if name and flag is verb.flags[0] else shown(flag) + many
            words.append(word if flag.default is MISSING else f"[{word}]")
        elif flag.default is MISSING:
            words += [shown(flag), kind(flag.hint)]
    return " ".join([*words, "[flags]"])


def summary() -> str:
    """What `dropmae --help` prints."""
    lines = ["usage: dropmae VERB ... [flags]", "", "Temporal matching in video.", ""]
    lines += [f"  {verb:<12} {SUMMARY[verb]}" for verb in SUMMARY if verb in dropmae.VERBS]
    lines += ["", "dropmae VERB --help says what a verb takes. --version prints the version."]
    return "\n".join([*lines, f"--completion {'|'.join(SHELLS)} prints what makes the shell complete words."])


def page(verb: Verb, words: list[str], whole: bool) -> str:
    """Help for a verb and for what its first word names; `whole` explains every setting."""
    width = min(shutil.get_terminal_size((80, 24)).columns, 100)
    name = named(verb, words)
    lines = [*wrapped(usage(verb, name), width, "", "  "), "", *paragraphs(verb.doc, width)]
    if name is not None and verb.folder is not None:
        doc = declarations.doc(verb.folder, name)
        lines += ["", *paragraphs(f"{name}: {doc}" if whole else f"{name}: {first(doc)}", width)]
    elif verb.folder is not None:
        lines += ["", f"{verb.folder[:-1].upper()} is a .py file, or one of"]
        for one in registry.names(verb.folder):
            told = first(declarations.doc(verb.folder, one))
            lines.append(f"  {one:<12} {textwrap.shorten(told, width - 15, placeholder=' ...')}")
        lines += ["", f"dropmae {verb.name} {verb.folder[:-1].upper()} --help shows its own settings, too."]
    own = verb.flags if name is None else verb.flags[1:]
    lines += ["", *(row for flag in own for row in entry(flag, width, True))]
    settings = declarations.settings(verb, name)
    new = [flag for flag in settings if flag.new]
    groups: dict[str, list[Flag]] = {}
    for flag in settings:
        groups.setdefault(flag.group, []).append(flag)
    rest: dict[str, list[Flag]] = {}
    everything = whole or len(settings) <= FEW
    for title, flags in groups.items():
        chosen = [f for f in flags if everything or f.name in MAIN or (f in new and len(new) <= NEW)]
        rest[title] = [flag for flag in flags if flag not in chosen]
        if chosen:
            lines += [""] if whole or title == next(iter(groups)) else []
            lines += [title, *(row for flag in chosen for row in entry(flag, width, whole))]
    if any(rest.values()):
        lines += ["", "More; --help-all explains them"]
        for title, flags in rest.items():
            text = f"{title}: {' '.join(map(shown, flags))}"
            lines += wrapped(text, width, "  ", "    ") if flags else []
    if any(flag.name == "set" for flag in verb.flags) and (verb.folder is None or name is not None):
        lines += ["", *task_settings(width, whole)]
    if whole:
        lines += ["", "Always", *(row for left, text in ALWAYS.items() for row in columns(left, text, width))]
    return "\n".join(lines)


def task_settings(width: int, whole: bool) -> list[str]:
    """What `--set` takes, for each task that trained weights may hold; of one that works with any encoder, all."""
    lines = ["Settings of the task, --set NAME=VALUE; the weights decide which task it is"]
    for name in registry.names("tasks"):
        cls = declarations.described("tasks", name)
        free, use = cls.value("training_free", False), cls.value("use", ())
        names = [own for own in cls.names() if free or own in use]
        title = f"{name} ({'an encoder' if free else 'its own weights'})"
        if whole and names:
            flags = cls.flags("")
            told = [(f"{own}={kind(flags[own].hint)}", flags[own].text) for own in names]
            lines += [f"  {title}:", *(row for left, text in told for row in columns(left, text, width))]
        elif names:
            lines += wrapped(f"{title}: {' '.join(names)}", width, "  ", "    ")
    return lines


def paragraphs(text: str, width: int) -> list[str]:
    """Text in lines of that width; a paragraph with indented lines stays as it is."""
    lines: list[str] = []
    for part in text.strip().split("\n\n"):
        lines += [""] if lines else []
        lines += part.splitlines() if "\n  " in part else wrapped(part, width)
    return lines


def wrapped(text: str, width: int, start: str = "", indent: str = "") -> list[str]:
    return textwrap.wrap(text, width, initial_indent=start, subsequent_indent=indent, break_on_hyphens=False)


def first(text: str, ends: str = ".") -> str:
    """The first sentence, or the part of it before one of `ends`."""
    whole = " ".join(text.split())
    found = re.split(rf"[{ends}] ", whole)[0].rstrip(".")
    return first(whole) if len(found) < 8 < len(whole) and ends != "." else found + "." * bool(found)


def entry(flag: Flag, width: int, whole: bool) -> list[str]:
    """The lines about a flag."""
    left, text, given = shown(flag), flag.text if whole else first(flag.text, ".;:"), flag.default
    if kind(flag.hint) == kind(bool):
        left = left if given is False else f"--[no-]{left[2:]}"
        given = "yes" if given is True else None
    elif not flag.positional:
        left = f"{left} {kind(flag.hint)}"
    if given is not MISSING and given not in (None, "", ()):
        words = " ".join(map(str, given)) if isinstance(given, (tuple, list)) else str(given)
        text = f"{text.rstrip('.')} [{words}]"
    return columns(left, text, width)


def columns(left: str, text: str, width: int) -> list[str]:
    told = wrapped(text, width - COLUMN - 2) or [""]
    indent = " " * (COLUMN + 2)
    if len(left) > COLUMN - 1:
        return [*wrapped(left, width, "  ", "      "), *(indent + line for line in told)]
    return [f"  {left:<{COLUMN}}{told[0]}", *(indent + line for line in told[1:])]


# ---------------------------------------------------------------- completion


def complete(words: list[str]) -> Iterable[str]:
    """The words that can stand in the place of the last one; none where a path or a value can."""
    *before, last = words or [""]
    return sorted(word for word in candidates(before, last) if word.startswith(last))


def candidates(before: list[str], last: str) -> list[str]:
    if not before:
        return [*dropmae.VERBS, "--help", "--version", "--completion"]
    if before[0] not in dropmae.VERBS:
        return []
    verb = declarations.declared(before[0])
    if len(before) == 1 and verb.folder is not None and not last.startswith("-"):
        return registry.names(verb.folder)
    flags = [*verb.flags, *declarations.settings(verb, named(verb, before[1:]))]
    by_name = {shown(flag): flag for flag in flags if not flag.positional}
    if last.startswith("-"):
        offs = [f"--no-{name[2:]}" for name, flag in by_name.items() if kind(flag.hint) == kind(bool)]
        return [*by_name, *offs, "--help", "--help-all", *(word.split()[0] for word in ALWAYS)]
    flag = by_name.get(before[-1])
    choices = kind(flag.hint).split("|") if flag is not None and "|" in kind(flag.hint) else []
    return [] if flag is None or kind(flag.hint) == kind(bool) else choices
