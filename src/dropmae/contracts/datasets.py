"""The contracts of what is on disk: data to train on, and data sets with the protocol they are judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from dropmae.target import Target

if TYPE_CHECKING:
    from collections.abc import Sequence as Listed

    from dropmae.sequence import Sequence


@dataclass(kw_only=True)
class Dataset:
    """Sequences to train on. Its fields are settings; nothing is opened before `sequences` is called."""

    MUST: ClassVar[tuple[str, ...]] = ("sequences",)
    RENAMED: ClassVar[Mapping[str, str]] = {}
    """Names that its fields once had -> those of today."""
    train_split: ClassVar[str | None] = None
    """The split that training takes where none is named."""

    def sequences(self, root: Path, split: str | None = None) -> Listed[Sequence]:
        """The sequences of a split, each a name, a Video and {frame: Target}; FileNotFoundError where there is none."""
        raise NotImplementedError

    @classmethod
    def check_class(cls, made: type, where: str) -> None:
        """ValueError where a class variable has a wrong form."""


@dataclass(kw_only=True)
class Benchmark(Dataset):
    """A data set with its protocol: what a task is told, the files of results, and the numbers.

    `score` takes {sequence: results} and {sequence: truth} as `read` and `annotations` return them.
    """

    MUST = ("sequences", "annotations", "read", "write", "score")
    train_split = "train"

    prompted: ClassVar[Literal["first", "appearance"]] = "first"
    """What a task is told: the first annotated frame, or each object and point in the first frame that shows it."""
    direction: ClassVar[Literal["forward", "both"]] = "forward"
    """Whether a sequence is gone through from its prompts on, or towards its beginning too (TAP-Vid's `strided`)."""

    def prepare(self, root: Path) -> None:
        """Makes ready what `sequences` needs, where it can be made; FileNotFoundError where `root` is not there."""
        if not root.exists():
            raise FileNotFoundError(f"{root}: no such folder")

    def annotations(self, root: Path, split: str | None = None) -> Mapping[str, Any]:
        """{sequence: truth} of a split, without images; `root` may be a file where the data set has such."""
        raise NotImplementedError

    def read(self, results: Path, annotations: Mapping[str, Any]) -> Mapping[str, Any]:
        """{sequence: results} from files in the official layout; FileNotFoundError where there are none."""
        raise NotImplementedError

    def write(
        self, name: str, targets: Mapping[int, Target], out: Path, seconds: Iterable[float] | None = None
    ) -> None:
        """Writes one sequence in the official layout below `out`, all of it or nothing.

        `seconds` holds what each frame took, for layouts that keep it.
        """
        raise NotImplementedError

    def missed(self, target: Target) -> Target:
        """What is written of a frame that was not answered or could not be read, where `target` shows nothing."""
        return target

    def score(
        self, results: Mapping[str, Any], annotations: Mapping[str, Any], *, map: Callable[..., Iterable[Any]] = map
    ) -> dict[str, Any]:
        """The numbers: shares as floats in [0, 1], end-point errors in pixels, "sequences" with the same of each.

        `map` may score sequences side by side. OSError where results cannot be compared with the truth.
        """
        raise NotImplementedError

    @classmethod
    def check_class(cls, made: type, where: str) -> None:
        for name, known in (("prompted", ("first", "appearance")), ("direction", ("forward", "both"))):
            if getattr(made, name) not in known:
                raise ValueError(f"{where}: {name} is one of {', '.join(known)}, not {getattr(made, name)!r}")
