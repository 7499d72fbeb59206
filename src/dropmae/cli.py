"""The command line: argv -> dataclass -> verb.

A verb is the function of that name in the module that `dropmae.VERBS` gives. Positional parameters without a default
are positional arguments, the others are flags. A verb whose first parameter is `method`, `task` or `benchmark` also
takes the fields of the class so named, and a module's `OPTIONS` adds the fields of a dataclass (or of the class of a
verb: {verb: (folder, name)}, loaded when it is needed): both reach the verb as keyword arguments. A verb returns None
or a JSON-able value, which `--json` prints on stdout; all else goes to stderr.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import dropmae
from dropmae import registry

FOLDERS = {"method": "methods", "task": "tasks", "benchmark": "benchmarks"}
SUMMARY = {
    "demo": "clips, pre-training, reconstructions and report.html in a few minutes",
    "prepare": "verify and re-encode a folder of videos, or store decoded frames",
    "pretrain": "pre-train METHOD on a folder of videos",
    "finetune": "train TASK on labelled data, starting from a pre-trained run",
    "track": "follow a box, a mask or points through a video",
    "show": "a frame with the numbers of its pixels; several trackers' results on one video",
    "evaluate": "run weights on BENCHMARK: predictions in the official layout, and numbers",
    "score": "numbers for anybody's prediction files on BENCHMARK",
    "reconstruct": "frames, masked frames and reconstruction, side by side",
    "attention": "within-frame and between-frame attention per decoder layer, and f_tem maps",
    "report": "report.html of a run",
    "info": "what a weight file, run, video or folder holds",
    "convert": "read official checkpoints, write ours or an official layout",
    "synth": "render clips with exact boxes, masks, points and flow",
    "bench": "measure speed and memory",
    "web": "the browser page",
}


def parameter_docs(function: Callable[..., Any]) -> dict[str, str]:
    """Help for each parameter, from the `Args:` section of a docstring."""
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", text, re.M)
    found: dict[str, str] = {}
    for match in re.finditer(r"^    (\w+): (.*(?:\n      +.*)*)", section.group(1) if section else "", re.M):
        found[match.group(1)] = " ".join(match.group(2).split())
    return found


def arguments(function: Callable[..., Any], classes: list[type]) -> type:
    """A dataclass with one field per parameter of `function` and per field of `classes`, for tyro."""
    import tyro

    hints, docs = get_type_hints(function), parameter_docs(function)
    rows: list[tuple[str, Any, Any, str, bool]] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        missing = parameter.default is parameter.empty
        default = dataclasses.MISSING if missing else parameter.default
        positional = missing and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        rows.append((parameter.name, hints[parameter.name], default, docs.get(parameter.name, ""), positional))
    for cls in classes:
        help_texts = registry.field_docs(cls)
        rows += [(n, kind, default, help_texts.get(n, ""), False) for n, kind, default in registry.fields(cls)]
    made: dict[str, tuple[str, Any, Any]] = {}
    for name, hint, default, help_text, positional in rows:
        metavar = name.upper() if positional else None
        kind: Any = Annotated[hint, tyro.conf.arg(help=help_text or None, metavar=metavar)]
        kind = tyro.conf.Positional[kind] if positional else kind
        field = dataclasses.field() if default is dataclasses.MISSING else dataclasses.field(default=default)
        made[name] = (name, kind, field)
    return dataclasses.make_dataclass("Arguments", list(made.values()), kw_only=True)


def usage() -> str:
    lines = ["usage: dropmae VERB ... [--code FILE.py] [--json] [--debug]", "", "Temporal matching in video.", ""]
    lines += [f"  {verb:<12} {SUMMARY[verb]}" for verb in SUMMARY if verb in dropmae.VERBS]
    return "\n".join([*lines, "", "dropmae VERB --help says what a verb takes. --version prints the version."])


def parse(argv: list[str]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The verb's function and its keyword arguments; SystemExit(2) for wrong arguments, as argparse does."""
    import tyro

    verb, rest = argv[0], argv[1:]
    if verb not in dropmae.VERBS:
        raise ValueError(f"{verb!r} is not a verb of dropmae; there are: {', '.join(dropmae.VERBS)}")
    module = importlib.import_module(f"dropmae.{dropmae.VERBS[verb]}")
    function = getattr(module, verb)
    first = next(iter(inspect.signature(function).parameters), "")
    classes: list[type] = []
    prog, description = f"dropmae {verb}", (inspect.getdoc(function) or "").split("\nArgs:")[0]
    if first in FOLDERS:
        folder = FOLDERS[first]
        if rest and not rest[0].startswith("-"):
            cls = registry.load(folder, rest[0])
            classes.append(cls)
            description += f"\n\n{rest[0]}: {inspect.getdoc(cls) or ''}"
        else:
            description += f"\n\n{first.upper()} is one of: {', '.join(registry.names(folder))}, or a .py file."
            description += f"\n`{prog} {first.upper()} --help` shows its own settings too."
    extra = getattr(module, "OPTIONS", None)
    if isinstance(extra, dict):
        extra = registry.load(*extra[verb]) if verb in extra else None
    if extra is not None and any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()):
        classes.append(extra)
    parsed = tyro.cli(arguments(function, classes), args=rest, prog=prog, description=description)
    values = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(parsed)}
    return function, values


def call(function: Callable[..., Any], values: dict[str, Any]) -> Any:
    positional = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
    ]
    return function(*[values.pop(name) for name in positional], **values)


def split_code(argv: list[str]) -> tuple[list[str], list[str]]:
    """The other words, and the users' files that --code FILE.py names, as often as it is given."""
    rest, code, words = list[str](), list[str](), iter(argv)
    for word in words:
        if word == "--code" or word.startswith("--code="):
            code.append(word[7:] or next(words, ""))
        else:
            rest.append(word)
    return rest, code


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; 0 done, 1 failed, 2 wrong arguments."""
    argv = list(sys.argv[1:] if argv is None else argv)
    switches = {flag: flag in argv for flag in ("--json", "--debug")}
    argv, code = split_code([word for word in argv if word not in switches])
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"dropmae {dropmae.__version__}")
        return 0
    try:
        for file in code:
            registry.trust(file)
        function, values = parse(argv)
        # With --json stdout is one JSON object: what a verb prints for other programs goes to people then.
        with contextlib.redirect_stdout(sys.stderr) if switches["--json"] else contextlib.nullcontext():
            result = call(function, values)
            if hasattr(result, "finish"):  # work that is done step by step: here all of it
                result = result.finish()
        if switches["--json"]:
            print(json.dumps(result, default=str, allow_nan=False))
        return 0
    except KeyboardInterrupt:
        print("dropmae: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if switches["--debug"]:
            raise
        expected = isinstance(error, (ValueError, OSError, FloatingPointError))
        text = " ".join(_told(error).split()) or type(error).__name__
        prefix = "" if expected else f"{type(error).__name__}: "
        hint = "" if expected else " (--debug shows where)"
        print(f"dropmae {argv[0]}: {prefix}{text}{hint}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


def _told(error: Exception) -> str:
    """What an error says, for the operating system's without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
