"""What verbs take and which fields classes have, read from the source text: nothing is imported, so torch is not.

Annotations and defaults may name what a module defines or imports from this package or the standard library. What
cannot be read so (a user's class may compute a default) is `Unreadable`, and the caller imports the class instead.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import importlib
import inspect
import operator
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import dropmae
from dropmae import registry
from dropmae._moved import MOVED

ROOT = Path(dropmae.__file__).parent
KINDS = {"method": "methods", "task": "tasks", "benchmark": "benchmarks"}
"""A verb's first parameter -> the folder of the class that it names."""
OPERATORS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.BitOr: operator.or_,
    ast.USub: operator.neg,
}
MAKERS = (Path, tuple, frozenset, dict, list, set)
"""What a default may be made with."""
HEADING = re.compile(r"    # ([A-Z][a-z]+(?: [a-z]+)*)")
"""A comment above a field: the title of the group that begins with it."""


class Unreadable(Exception):
    """Something stands there that only running the module would tell."""


@dataclass(frozen=True)
class Flag:
    """A parameter of a verb or a field of a class."""

    name: str
    hint: Any
    """Its type."""
    default: Any
    """dataclasses.MISSING where it must be given."""
    text: str = ""
    """What it means."""
    group: str = ""
    """Title under which help lists it."""
    positional: bool = False
    new: bool = False
    """Whether it is a field that the class has and what it inherits from does not."""


@dataclass(frozen=True)
class Class:
    """A class in the source text."""

    module: Source
    node: ast.ClassDef

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.node) or ""

    def bases(self) -> list[Class]:
        """Those in source text; torch's own (nn.Module) and the standard library's have no fields."""
        bases = [base for base in self.node.bases if self.module.origin(base) != "torch"]
        return [found for found in map(self.module.value, bases) if isinstance(found, Class)]

    def lines(self) -> list[Class]:
        """Itself and all it inherits from, the nearest first."""
        return [self, *(cls for base in self.bases() for cls in base.lines())]

    def value(self, name: str, default: Any = None) -> Any:
        """A class variable of it or of what it inherits from."""
        for cls in self.lines():
            for node in cls.node.body:
                target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
                if isinstance(target, ast.Name) and target.id == name and getattr(node, "value", None) is not None:
                    return cls.module.value(node.value)  # type: ignore[attr-defined]
        return default

    def names(self) -> list[str]:
        """Of its own public fields, with nothing that they stand for looked up."""
        own = [node for node in self.node.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
        named = [(node.target.id, ast.unparse(node.annotation)) for node in own if isinstance(node.target, ast.Name)]
        return [name for name, hint in named if not name.startswith("_") and not hint.startswith("ClassVar")]

    def flags(self, group: str) -> dict[str, Flag]:
        """Its public fields by name, inherited ones first, as `dataclasses` orders them."""
        found: dict[str, Flag] = {}
        for base in reversed(self.bases()):
            found |= {name: dataclasses.replace(flag, new=False) for name, flag in base.flags(group).items()}
        if not any("dataclass" in ast.unparse(decorator) for decorator in self.node.decorator_list):
            return found
        docs, titles = self.docs(), self.titles()
        for node in self.node.body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            name = node.target.id
            if name.startswith("_") or ast.unparse(node.annotation).startswith(("ClassVar", "InitVar")):
                continue
            old = found.get(name)
            default = self.default(node.value)
            if default is not NotImplemented:
                title = titles.get(name) or (old.group if old else group)
                text = docs.get(name) or (old.text if old else "")
                found[name] = Flag(name, self.module.value(node.annotation), default, text, title, new=old is None)
        return found

    def default(self, node: ast.expr | None) -> Any:
        """A field's default; NotImplemented where it is none that a user can give."""
        if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("field")):
            return dataclasses.MISSING if node is None else self.module.value(node)
        words = {word.arg: word.value for word in node.keywords}
        if "init" in words:
            return NotImplemented
        if "default_factory" in words:
            return self.module.value(words["default_factory"])()
        return self.module.value(words["default"]) if "default" in words else dataclasses.MISSING

    def docs(self) -> dict[str, str]:
        """The string under each field."""
        return {
            node.target.id: " ".join(after.value.value.split())
            for node, after in zip(self.node.body, self.node.body[1:])
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if isinstance(after.value.value, str)
        }

    def titles(self) -> dict[str, str]:
        """The group of each field: the last heading above it."""
        lines, title, found = self.module.text.splitlines(), "", {}
        for node in self.node.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                if match := HEADING.fullmatch(lines[node.lineno - 2]):
                    title = match[1]
                found[node.target.id] = title
        return found


@dataclass(eq=False)
class Source:
    """A module's text and what its names stand for."""

    path: Path
    text: str = ""
    names: dict[str, Any] = field(default_factory=dict)
    """Name -> its definition: a node, or (node, place) in an assignment of several."""

    def __post_init__(self) -> None:
        self.text = self.path.read_text()
        try:
            self.bind(ast.parse(self.text).body)
        except SyntaxError as error:
            raise ValueError(f"{self.path}, line {error.lineno}: SyntaxError: {error.msg}") from error

    def bind(self, body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                self.names[node.name] = node
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                for alias in node.names:
                    self.names[alias.asname or alias.name.split(".")[0]] = (node, alias)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    self.assign(target, node.value)
            elif isinstance(node, (ast.If, ast.Try)):
                self.bind(node.body)  # what only a type checker sees is replaced by what is there otherwise
                self.bind(node.orelse)

    def assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            for part, own in zip(target.elts, value.elts):
                self.assign(part, own)

    def origin(self, node: ast.expr) -> str:
        """The package that the first name of an expression is imported from; "" where it is not."""
        while isinstance(node, (ast.Attribute, ast.Subscript)):
            node = node.value
        entry = self.names.get(node.id) if isinstance(node, ast.Name) else None
        if not isinstance(entry, tuple):
            return ""
        return (getattr(entry[0], "module", None) or entry[1].name).split(".")[0]

    def lookup(self, name: str) -> Any:
        """What a name stands for: a value, a Class, or a Source."""
        node = self.names.get(name)
        if isinstance(node, ast.ClassDef):
            return Class(self, node)
        if isinstance(node, ast.expr):
            return self.value(node)
        if isinstance(node, tuple):
            return imported(*node)
        if node is None and hasattr(builtins, name):
            return getattr(builtins, name)
        if name == "__file__":
            return str(self.path)
        raise Unreadable(f"{self.path.name}: {name}")

    def value(self, node: ast.expr) -> Any:
        """The value of an expression, a type included."""
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return self.lookup(node.id)
            case ast.Tuple():
                return tuple(self.value(part) for part in node.elts)
            case ast.List():
                return [self.value(part) for part in node.elts]
            case ast.Set():
                return {self.value(part) for part in node.elts}
            case ast.Dict():
                return {self.value(key): self.value(part) for key, part in zip(node.keys, node.values) if key}
            case ast.UnaryOp() if type(node.op) in OPERATORS:
                return OPERATORS[type(node.op)](self.value(node.operand))
            case ast.BinOp() if type(node.op) in OPERATORS:
                left, right = self.value(node.left), self.value(node.right)
                return OPERATORS[type(node.op)](left, right)
            case ast.Subscript():
                return self.value(node.value)[self.value(node.slice)]
            case ast.Attribute():
                base = self.value(node.value)
                if isinstance(base, Source):
                    return base.lookup(node.attr)
                return base.value(node.attr) if isinstance(base, Class) else getattr(base, node.attr)
            case ast.Call() if not node.keywords and self.value(node.func) in MAKERS:
                return self.value(node.func)(*[self.value(part) for part in node.args])
        raise Unreadable(f"{self.path.name}, line {node.lineno}: {ast.unparse(node)}")


def imported(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> Any:
    """What an import gives: a Source or what it holds, of this package; a module of the standard library itself."""
    if isinstance(node, ast.Import):
        module, name = alias.name if alias.asname else alias.name.split(".")[0], ""
    else:
        module, name = node.module or "", alias.name
    if module.split(".")[0] == "dropmae":
        inside = source(module)
        if not name:
            return inside
        return inside.lookup(name) if name in inside.names else source(f"{module}.{name}")
    if module.split(".")[0] not in sys.stdlib_module_names:
        raise Unreadable(module)
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


@cache
def source(module: str) -> Source:
    """The text of a module of this package, by its dotted name; Unreadable where there is none."""
    place = ROOT.joinpath(*MOVED.get(module, module).split(".")[1:])
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return Source(path)
    raise Unreadable(module)


# ---------------------------------------------------------------- what the command line asks for


@dataclass(frozen=True)
class Verb:
    """A verb's function, as its text has it."""

    name: str
    doc: str
    """What it does, without the section on its parameters."""
    flags: tuple[Flag, ...]
    folder: str | None
    """Of the class that its first argument names."""
    options: Class | None
    """A dataclass whose fields it takes, too."""


@cache
def declared(name: str) -> Verb:
    """What a verb takes."""
    module = source(f"dropmae.{dropmae.VERBS[name]}")
    node = module.names[name]
    text = ast.get_docstring(node) or ""
    docs, found = parameter_docs(text), []
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(positional) - len(given.defaults)) + given.defaults + given.kw_defaults
    for place, (argument, default) in enumerate(zip([*positional, *given.kwonlyargs], defaults)):
        value = dataclasses.MISSING if default is None else module.value(default)
        first = place < len(positional)
        found.append(Flag(argument.arg, module.value(argument.annotation), value, docs[argument.arg], "", first))
    folder = KINDS.get(found[0].name) if found else None
    options = module.lookup("OPTIONS") if "OPTIONS" in module.names and given.kwarg else None
    if isinstance(options, dict):
        options = described(*options[name]) if name in options else None
    return Verb(name, text.split("\nArgs:")[0].strip(), tuple(found), folder, options)


def parameter_docs(text: str) -> dict[str, str]:
    """Help for each parameter, from the `Args:` section of a docstring."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", text, re.M)
    pattern = r"^    (\w+): (.*(?:\n      +.*)*)"
    rows = re.finditer(pattern, section.group(1) if section else "", re.M)
    return {row.group(1): " ".join(row.group(2).split()) for row in rows}


def described(folder: str, name: str) -> Class:
    """The class behind a name in `folder`, or in a user's .py file; ValueError where there is no such file."""
    users = name.endswith(".py") and Path(name).is_file()
    if not users:
        registry.check(folder, name)
    module = Source(Path(name)) if users else source(f"dropmae.{folder}.{name}")
    stem = Path(name).stem if users else name
    for own in module.names:
        if own.lower() == stem.lower() and isinstance(found := module.lookup(own), Class):
            return found
    raise Unreadable(f"{name}: no class is called like the file")


def doc(folder: str, name: str) -> str:
    """What the class behind a name says of itself."""
    try:
        return described(folder, name).doc
    except Unreadable:  # a user's class, which the caller has named
        return inspect.getdoc(registry.load(folder, name)) or ""


def settings(verb: Verb, name: str | None) -> list[Flag]:
    """The flags of a verb beside its own: fields of the class that `name` is, and of its options.

    ValueError where two of them have one name, since one would be swallowed.
    """
    found: list[Flag] = []
    recipe: dict[str, Any] = {}
    idle = False
    if verb.folder is not None and name is not None:
        try:
            cls = described(verb.folder, name)
            idle = cls.value("training_free", False)  # the verb says that there is nothing to train
            own = list(cls.flags("Settings").values())
            use, recipe = cls.value("use", ()), cls.value("recipe", {})
        except Unreadable:  # a user's class, which the caller has named
            made = registry.load(verb.folder, name)
            docs = registry.field_docs(made)
            own = [Flag(n, kind, default, docs.get(n, ""), "Settings") for n, kind, default in registry.fields(made)]
            use, recipe = getattr(made, "use", ()), getattr(made, "recipe", {})
        found += [dataclasses.replace(flag, group="In use") if flag.name in use else flag for flag in own]
    if verb.options is not None:
        options = verb.options.flags("Settings").values()
        found += [dataclasses.replace(f, new=False, default=recipe.get(f.name, f.default)) for f in options]
    if not idle:
        check_names([flag.name for flag in (*verb.flags, *found)], verb.name, name)
    return found


def renames(verb: Verb, name: str | None) -> dict[str, str]:
    """Names that `settings` once had -> their names of today."""
    classes = [] if verb.options is None else verb.options.lines()
    if verb.folder is not None and name is not None:
        try:
            classes = [*classes, *described(verb.folder, name).lines()]
        except Unreadable:
            return registry.renames(registry.load(verb.folder, name))
    return {old: new for cls in classes for old, new in cls.value("RENAMED", {}).items()}


def check_names(names: list[str], verb: str, name: str | None) -> None:
    """ValueError where two flags of a verb have one name."""
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise ValueError(
            f"{name} has a field {', '.join(twice)}, and so has `{verb}`, which would swallow it: rename the field"
        )


def share(given: Mapping[str, Any], name: str, cls: type, options: type, verb: str) -> list[dict[str, Any]]:
    """What is given to a verb, shared among the class that is called `name` and the verb's options.

    ValueError for a setting that neither has, or that both have.
    """
    mine, theirs = ([field for field, _, _ in registry.fields(one)] for one in (cls, options))
    given = registry.renamed(options, registry.renamed(cls, given, warn=True), warn=True)
    if unknown := sorted(given.keys() - {*mine, *theirs}):
        known = ", ".join(sorted([*mine, *theirs]))
        hint = registry.meant(unknown[0], [*mine, *theirs])
        raise ValueError(f"{name} has no setting {', '.join(unknown)}{hint}; it has {known}")
    check_names([*(flag.name for flag in declared(verb).flags), *mine, *theirs], verb, name)
    return [{one: value for one, value in given.items() if one in names} for names in (mine, theirs)]
