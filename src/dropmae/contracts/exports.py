"""The contract of what results are written as."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dropmae.storage import check_output

Add = Callable[[Any], None]
"""Takes an `engine.Answer`, frame after frame."""


@dataclass(kw_only=True)
class Export:
    """A form that the answers for a video can be written in, as they come. Its fields are settings."""

    MUST: ClassVar[tuple[str, ...]] = ("open",)
    KIND: ClassVar[str] = "a tracking result"
    """What the files are marked as (`storage.mark`), so that `track` replaces only its own."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Of file names that ask for it; the first is the usual one."""
    beside: ClassVar[tuple[str, ...]] = ()
    """Suffixes of further forms that are written beside it."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Fields of Target of which it can say something: a task has to give one of them; () for whatever there is."""
    folders: ClassVar[tuple[str, ...]] = ()
    """Those of `suffixes` that name a folder of files."""
    every_frame: ClassVar[bool] = False
    """Whether frames that a task did not answer go to it too. From others they are left out, like those that could not
    be read, so that nobody takes them for frames that show nothing."""

    def check(self, out: Path, inputs: Iterable[Any] = (), *, overwrite: bool = False) -> None:
        """ValueError where writing `out` would destroy something else."""
        folder = out.suffix.lower() in self.folders
        check_output(out, self.KIND, inputs, overwrite=overwrite, folder=folder)

    def wants(self, answer: Any) -> bool:
        """Whether an `engine.Answer` goes to it."""
        return self.every_frame or not answer.missed

    def open(self, out: Path, video: Any, doubtful_below: float | None) -> AbstractContextManager[Add]:
        """A context whose value takes the answers for `video`; `out` appears, whole, when it ends without an error.

        Objects whose score is below `doubtful_below` may be marked.
        """
        raise NotImplementedError

    @classmethod
    def check_class(cls, made: type, where: str) -> None:
        """ValueError where a class variable has a wrong form."""
