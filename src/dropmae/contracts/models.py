"""The contracts of what learns and of what is used: Method, a pre-training objective, and Task, a downstream model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dropmae.nn.groups import decay_groups
from dropmae.sequence import Sequence
from dropmae.target import FIELDS, Target


class Model(nn.Module):
    """What a Method and a Task share: an encoder, samples, a loss, parameter groups.

    A subclass is a dataclass (kw_only=True, eq=False, repr=False) whose fields are its flags; it builds its parts in
    `__post_init__` after `super().__init__()`. Its tensors are named encoder.*, decoder.* and head.*.
    """

    MUST: ClassVar[tuple[str, ...]] = ("sample", "forward")
    RENAMED: ClassVar[Mapping[str, str]] = {}
    """Names that its fields once had -> those of today: both are read in weights, run folders, flags and `--set`."""
    encoder: Any
    """A module with `features(frames [B, 3, H, W] uint8 or normalised) -> [B, D, h, w]`."""

    def sample(self, sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
        """One training sample of a sequence: arrays by name. Pure, and run in data processes.

        OSError means that the sequence cannot serve; it is named once and replaced by another.
        """
        raise ValueError(f"{name_of(self)} has nothing to train")

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """{"loss", and whatever else should be in metrics.jsonl}: scalars of a batch of samples.

        The batch holds the stacked samples and `index` (numbers of the samples), `seed`, `step`, `progress` (0 to 1).
        Whatever is random hashes seed and index (`ops.noise`).
        """
        raise ValueError(f"{name_of(self)} has nothing to train")

    def probe(self, batch: dict[str, Any]) -> dict[str, float]:
        """Numbers for validation.jsonl on a batch as `forward` takes it."""
        return {name: float(value) for name, value in self(batch).items()}

    def groups(self, options: Any) -> list[dict[str, Any]]:
        """Parameter groups {"names", "lr", "decay"}: factors on the learning rate and on the weight decay."""
        return decay_groups(self)

    def after_step(self, step: int, progress: float) -> None:
        """Called after each optimizer step on what learns, for moving averages. Buffers and parameters that no group
        names are state too: checkpoints hold them."""

    def export_step(self, out: Path, objects: int) -> dict[str, Any]:
        """Writes the step as one graph to OUT.pt2 or OUT.onnx; ValueError where it has no such form."""
        raise ValueError(f"{name_of(self)} has no step that could be exported as one graph")

    def export_folder(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        """Files, {name: bytes}, that do elsewhere what it does here, and a report; ValueError where there are none."""
        raise ValueError(f"{name_of(self)} has no form as a folder: name a file to write, OUT.safetensors say")

    @classmethod
    def reconstructs(cls) -> bool:
        """Whether it makes pictures of what it was not shown."""
        return False

    @classmethod
    def trainable(cls) -> bool:
        """Whether there is something to train."""
        return cls.forward is not Model.forward

    @classmethod
    def check_class(cls, made: type, where: str) -> None:
        """ValueError where a class variable has a wrong form."""


class Method(Model):
    """A pre-training objective."""

    frames: int = 1
    """Frames of a sample: 1, 2 for pairs, or as many as a clip has."""

    def provenance(self) -> dict[str, Any]:
        """What else belongs into the header of its weights: a licence that follows from what it learned from, say."""
        return {}

    @classmethod
    def reconstructs(cls) -> bool:
        """Whether it fills in pictures."""
        return cls.reconstruct is not Method.reconstruct

    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Pictures of a batch: {"frames", "prediction"} RGB in [0, 1], float32 [B, T, 3, H, W], and "masked" bool
        [B, T, h, w]. ValueError where the method reconstructs nothing."""
        raise ValueError(f"{name_of(self)} reconstructs no pictures")

    def watch(self, batch: dict[str, Any], attends: list[Any], *, whole: bool = False) -> Any:
        """Encodes and decodes a batch with an attention of one's own in each decoder layer; the mask that was used.
        With `whole` nothing is hidden. ValueError where there is no decoder that attends."""
        raise ValueError(f"{name_of(self)} has no decoder whose attention could be looked at")


@dataclass
class Taken:
    """What a task took over from other weights."""

    kind: str
    """What they are weights of."""
    count: int
    fresh: list[str]
    """Names of the task that keep their initial values."""
    unused: list[str]
    """Names of the source's encoder for which the task has no use."""


class Task(Model):
    """A downstream model that goes through a video frame by frame: `start`, `step`, `finish`.

    Frames are counted from 0, the one that was started with, in the order in which they come. The state is a value of
    constant size, so files, cameras, evaluation and the browser page share one path.
    """

    MUST = ("start", "step")

    takes: ClassVar[tuple[str, ...]] = ()
    """Fields of Target that it may be told, the usual one first; all else is withheld. Empty: it needs no prompt."""
    gives: ClassVar[tuple[str, ...]] = ()
    """Fields of Target that it answers: drawn, written, scored."""
    answers_first: ClassVar[bool] = False
    """Whether it answers for the frame it was started with; else the prompt stands as that answer. A task without
    prompts always does."""
    lag: ClassVar[int] = 0
    """Frames that an answer may come after its own. What is later counts as missed."""
    use: ClassVar[tuple[str, ...]] = ()
    """Fields that may be changed in trained weights: `--set name=value`."""
    recipe: ClassVar[Mapping[str, Any]] = {}
    """Defaults of its own for the options of `finetune`."""
    training_free: ClassVar[bool] = False
    """Whether it works with any encoder as it is: assigned to `encoder`, then used."""
    made_for: ClassVar[tuple[str, ...]] = ()
    """Benchmarks, by name, on which encoders are judged with it. Elsewhere other tasks that work with any encoder go
    before it, unless one of its settings is asked for."""
    frame_kind: ClassVar[str] = "picture"
    """What it goes through: pictures, uint8 [H, W, 3], or scans, float32 [P, C] ("scan")."""
    frozen: ClassVar[bool] = False
    """Whether its encoder learns nothing: `finetune` then calls `keep_features` before it trains."""
    runs_in_16_bits: ClassVar[bool] = True
    """Whether it may get 16-bit tensors where no precision is asked for; not so in a class without this contract."""
    prefers_int8: ClassVar[bool] = False
    """Whether it was measured to answer as well with its layers in 8-bit integers; then they are what a CPU that
    multiplies those fast takes where no precision is asked for."""
    layouts: ClassVar[tuple[Any, ...]] = ()
    """Public files that it reads and writes: each a `weights.layouts.Layout`."""
    doubtful_below: float | None = None
    """Scores below it are doubtful: `track` counts them and draws such boxes dashed. None: scores say nothing of it."""
    unused_official_tensors: ClassVar[tuple[str, ...]] = ()
    """Names of tensors that public files hold, nothing uses, and are kept only where a field says so."""

    def start(self, frame: np.ndarray, target: Target) -> Any:
        """The state that follows what `target` tells of `frame`; ValueError where that makes no sense."""
        raise NotImplementedError

    def step(self, state: Any, frame: np.ndarray, prompt: Target | None = None) -> tuple[Any, dict[int, Target]]:
        """The next state, and the answers that are ready, {number of the frame: Target}, in the order of frames.

        A prompt is what is known about this frame: new objects, corrections, points to follow from here on. The state
        that was passed in may be used up: `copy` it before to keep it.
        """
        raise NotImplementedError

    def understood(self, frame: np.ndarray, prompt: Target) -> Target:
        """A prompt as the task goes on from it: the outlines of what its boxes show, say. It answers for its frame."""
        return prompt

    def finish(self, state: Any) -> dict[int, Target]:
        """The answers that are still held back."""
        return {}

    def copy(self, state: Any) -> Any:
        """A state that goes on by itself, whatever happens to this one."""
        return copy.deepcopy(state)

    @classmethod
    def for_benchmark(cls, name: str, root: str = "", **fields: Any) -> Task:
        """The task with what a benchmark's usual script sets, but for the fields given; `root` is its data."""
        return cls(**fields)

    @classmethod
    def for_data(cls, data: Iterable[Sequence], fields: dict[str, Any]) -> dict[str, Any]:
        """The fields for a training on `data`: those given, and what follows from its labels (their classes, say)."""
        return fields

    def keep_features(self, sequences: Iterable[Sequence], folder: Path) -> None:
        """Looks at the data once with an encoder that learns nothing, and keeps in a folder what it shows; what is kept
        there already is not made again. ValueError where that is of another encoder."""

    @classmethod
    def works_on(cls, fields: Mapping[str, Any]) -> str:
        """The weights of an encoder that a task with these fields needs besides its own; "" where there are none."""
        return ""

    def resize_image(self, image: int | tuple[int, int]) -> None:
        """Changes the side of the pictures that it works on; ValueError where they have none."""
        raise ValueError(f"{name_of(self)} has no picture size that could change")

    def adopt(self, encoder: Any, grid: tuple[int, int]) -> set[str]:
        """Takes over what a pre-trained encoder, trained on a grid of so many rows and columns, holds in another form;
        the names so filled."""
        return set()

    @torch.no_grad()
    def take_over(self, source: Any, kind: str, where: str | Path) -> Taken:
        """Copies the encoder of another method or task, `source`; of the same task also the rest.

        `kind` and `where` name it. ValueError where the encoders differ in width, depth or patch.
        """
        own, theirs = self.state_dict(), source.state_dict()
        trunk = [name for name in own if name.startswith(("encoder.blocks.", "encoder.norm."))]
        shapes = [{name: state[name].shape for name in trunk if name in state} for state in (own, theirs)]
        patches = [vars(part).get("patch") for part in (self, source)]
        if shapes[0] != shapes[1] or (None not in patches and patches[0] != patches[1]):
            has, wants = (f"size {vars(x).get('size', '?')}, patch {vars(x).get('patch', '?')}" for x in (source, self))
            raise ValueError(f"the encoder in {where} has {has}, and this task {wants}: give --size and --patch")
        odd = {name: vars(source).get(name) for name in ("form", "heads")}
        if odd["form"] not in (None, "plain", "transformers") or odd["heads"]:
            raise ValueError(
                f"the encoder in {where} is of form {odd['form']} with {odd['heads'] or 'as many'} heads, and this "
                "task's is plain with those of its size"
            )
        if type(source) is type(self):
            if vars(source).get("image") != vars(self).get("image"):
                source.resize_image(vars(self)["image"])
            given, settled = dict(source.state_dict()), set[str]()
        else:
            given = {f"encoder.{name}": tensor for name, tensor in source.encoder.state_dict().items()}
            settled = self.adopt(source.encoder, source.grid) if vars(source).get("grid") else set()
        patch = given.get("encoder.patch_embed.weight")
        mine = own.get("encoder.patch_embed.weight", torch.zeros(0))
        if patch is not None and patch.ndim > max(mine.ndim, 4):  # tubelets: a still frame is embedded by their sum
            given["encoder.patch_embed.weight"] = patch.sum(2)
        filled = set(settled)
        for name, tensor in own.items():
            if name in given and name not in settled and given[name].shape == tensor.shape:
                tensor.copy_(given[name])
                filled.add(name)
        if not filled:
            raise ValueError(f"nothing in {where} ({kind}) fits {name_of(self)}: no tensor has the same name and shape")
        return Taken(
            kind=kind,
            count=len(filled),
            fresh=[name for name in own if name not in filled],
            unused=[name for name in given if name not in own and not name.endswith("positions.table")],
        )

    @classmethod
    def fields_of(cls, shapes: Mapping[str, tuple[int, ...]], patch: int) -> dict[str, Any]:
        """The fields of a task whose tensors, in a public file, have these names and shapes."""
        raise ValueError(f"no public layout of {cls.__name__.lower()} is known")

    def official_state(self, identity: bool) -> dict[str, Tensor]:
        """Tensors by our names, such that a public file with or without frame identities computes the same."""
        raise ValueError(f"no public layout of {name_of(self)} is known")

    @classmethod
    def check_class(cls, made: type[Task], where: str) -> None:
        for name in ("takes", "gives"):
            if wrong := wrong_names(getattr(made, name), tuple(FIELDS)):
                raise ValueError(f"{where}: {name} {wrong}")
        fields = tuple(getattr(made, "__dataclass_fields__", {}))
        if isinstance(made.made_for, str):
            raise ValueError(f"{where}: made_for is {made.made_for!r}, but should be a tuple of names")
        if wrong := wrong_names(made.use, fields):
            raise ValueError(f"{where}: use {wrong}")


def name_of(model: nn.Module) -> str:
    """The name a user knows it by."""
    return type(model).__name__.lower()


def wrong_names(given: Any, known: tuple[str, ...]) -> str | None:
    """What is wrong with a class variable that should be a tuple of some known names; None where nothing is."""
    if isinstance(given, str) or not isinstance(given, (tuple, list, frozenset, set)):
        return f"is {given!r}, but should be a tuple of names"
    unknown = [str(name) for name in given if name not in known]
    return f"names {', '.join(unknown)}, but there are {', '.join(known)}" if unknown else None
