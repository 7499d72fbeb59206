"""What a `weights` argument means: a file, a run folder, what comes with the package, an untrained encoder.

Whatever it is becomes a Task: trained weights their own, an encoder the task that works with any encoder as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dropmae import contracts, registry, weights
from dropmae.contracts import Task
from dropmae.contracts.models import name_of
from dropmae.progress import say
from dropmae.target import FIELDS, Target

SHIPPED = "shipped"
"""The weights of the package that fit what is known; shipped:NAME is a certain one."""
ENCODER = "encoder"
"""Of the shipped files, the one that is no task."""


def load_task(
    spec: str | Path | None,
    prompt: Target | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    benchmark: str = "",
    root: str = "",
    wanted: tuple[str, ...] = (),
) -> Task:
    """The task that a `weights` argument means, for what `prompt` tells or, without one, `wanted`; None is "shipped".

    `settings` are fields of the task: in trained weights those that it lets change (`use`), in a task that works with
    any encoder all of them, over what `benchmark`'s usual script has for the data in `root`. ValueError where one is
    unknown or frozen.
    """
    spec, settings = named(spec, prompt, wanted), dict(settings or {})
    known = wanted if prompt is None else tuple(name for name in FIELDS if getattr(prompt, name) is not None)
    if spec.partition(":")[0] == "random":
        return training_free(untrained(spec), settings, benchmark, root, known)
    header = weights.read_header(spec)
    if header["kind"] == "tasks":
        return weights.load(spec, settings=settings)
    source = weights.load(spec)
    task = training_free(source, settings, benchmark, root, known)
    say(f"{spec} is an encoder ({header['name']}), which {name_of(task)} uses as it is")
    return task


def named(
    spec: str | Path | None, prompt: Target | None, wanted: tuple[str, ...] = (), needs: tuple[str, ...] = ()
) -> str:
    """The argument with "shipped", or None, replaced by the name of the shipped weights that are called for."""
    return shipped(prompt, wanted, needs) if spec is None or str(spec) == SHIPPED else str(spec)


def training_free(
    source: Any, settings: Mapping[str, Any], benchmark: str = "", root: str = "", told: tuple[str, ...] = ()
) -> Task:
    """A task that works with any encoder as it is, with that of `source`."""
    cls: Any = training_free_class(settings, told, benchmark)
    known, settings = [name for name, _, _ in registry.fields(cls)], registry.renamed(cls, settings, warn=True)
    if unknown := sorted(settings.keys() - set(known)):
        name = cls.__name__.lower()
        raise ValueError(f"{name} has no setting {', '.join(unknown)}; there are: {', '.join(known)}")
    task = cls.for_benchmark(benchmark, root, **registry.parsed(cls, settings))
    task.encoder = source.encoder
    return task.eval()


def training_free_class(settings: Mapping[str, Any], told: tuple[str, ...] = (), benchmark: str = "") -> type[Task]:
    """The class of a task that works with any encoder as it is.

    Of several, one that is made for the benchmark, then one that takes or gives a field that is `told`, then one that
    has the settings, then one that is told what to follow, then one that is made for no benchmark in particular.
    """
    classes: list[Any] = [registry.load("tasks", name) for name in registry.names("tasks")]
    fields = {cls: {name for name, _, _ in registry.fields(cls)} for cls in classes if cls.training_free}

    def fits(cls: Any) -> tuple[bool, ...]:
        known = bool({*cls.takes, *cls.gives} & {*told})
        return benchmark in cls.made_for, known, settings.keys() <= fields[cls], bool(cls.takes), not cls.made_for

    return max(fields, key=fits)


def shipped(prompt: Target | None, wanted: tuple[str, ...] = (), needs: tuple[str, ...] = ()) -> str:
    """shipped:NAME of the weights of the package for what is known in a first frame; says which.

    Those that need no prompt are known by what they give: fields that are `wanted`, or that a benchmark's first frame
    has. What they answer must have one of the fields `needs`, where any are named. ValueError where there are none.
    """
    asked = list(wanted) if prompt is None else [name for name in FIELDS if getattr(prompt, name) is not None]
    asked.sort(key=lambda name: name != "mask")  # which says more than a box
    found: dict[str, str] = {}
    heads: dict[str, str] = {}
    fetched: dict[str, tuple[str, str]] = {}
    for path in sorted(weights.SHIPPED.glob("*.safetensors")):
        header = weights.read_header(path)
        contract = contract_of(header) if header["kind"] == "tasks" else None
        trunk = "" if contract is None else contract.works_on(header["fields"])
        if trunk and not trunk.startswith(f"{SHIPPED}:"):  # heads on an encoder that does not come with the package
            if contract is not None:
                fetched.setdefault(contract.takes[0], (path.stem, trunk))
            continue
        if needs and contract is not None and not {*needs} & {*contract.gives}:
            continue
        known = () if contract is None else contract.takes or contract.gives
        (heads if trunk else found).setdefault(known[0] if known else "", path.stem)
    smaller, found = found, found | heads  # heads on the package's encoder are better and slower
    name = next((found[field] for field in asked if field in found), None)
    if name is None and asked and not wanted and (weights.SHIPPED / f"{ENCODER}.safetensors").is_file():
        name = ENCODER
    if name is None:
        what = " and ".join(n for n in asked if not FIELDS[n].told_with) or "no prompt"
        raise ValueError(f"no weights that come with the package go by {what}: name some, --weights FILE")
    faster = [other for field, other in smaller.items() if found[field] == name != other]
    beside = "".join(f"; {SHIPPED}:{other} is faster and less exact" for other in faster)
    beside += "".join(
        f"; {SHIPPED}:{other} is slower and more exact, and fetches {trunk} once"
        for field, (other, trunk) in fetched.items()
        if found.get(field) == name
    )
    say(f"no weights were named: {SHIPPED}:{name}, which comes with the package, is used{beside}")
    return f"{SHIPPED}:{name}"


def contract_of(header: Mapping[str, Any]) -> type[contracts.Task]:
    """The class of a task that weights are of."""
    cls: Any = registry.find(header["kind"], header["name"], "the file")
    return cls


def untrained(spec: str) -> Any:
    """A method with the weights it would start training with: random:SIZE:METHOD:SEED:IMAGE, any end may miss.

    IMAGE is the side in pixels of the frames it would train on, from whose grid positions are resized.
    """
    words = [*spec.split(":")[1:], "", "", "", ""][:4]
    size, method, seed, image = (word or default for word, default in zip(words, ("tiny", "mae", "0", "224")))
    if spec.count(":") > 4 or not seed.isdecimal() or not image.isdecimal():
        raise ValueError(
            f"untrained weights are written random:SIZE:METHOD:SEED:IMAGE, random:tiny:mae:0:224 say, not {spec!r}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed))
        return registry.load("methods", method)(size=size, image=int(image)).eval()
