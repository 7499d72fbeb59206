"""Something-Something V2 (arXiv 1706.04261), by its JSON files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dropmae.benchmarks._actions import VideoClasses, files_below
from dropmae.opening import load_json


@dataclass(kw_only=True)
class SSv2(VideoClasses):
    """Top-1 and top-5 on Something-Something V2.

    `something-something-v2-{labels,train,validation}.json`, or shorter names that end so; videos <id>.webm anywhere
    below. Evaluated are those of validation: the labels of test are not public.
    """

    TITLE: ClassVar[str] = "Something-Something V2"
    split: ClassVar[str] = "validation"

    def listed(self, root: Path, split: str | None = None) -> tuple[tuple[str, ...], list[tuple[str, Any, str]]]:
        numbers, items = self.file(root, "labels"), self.file(root, split or self.split)
        there = {path.stem: path for path in files_below(root).values()}
        found = []
        for item in items:
            if not isinstance(item, dict) or "id" not in item or "template" not in item:
                raise OSError(f"{root}: an entry of {split or self.split} has no id and template: {str(item)[:80]}")
            label = item["template"].replace("[", "").replace("]", "")
            if label not in numbers:
                raise OSError(f"{root}: {item['id']} is of the class {label!r}, which the labels do not have")
            found.append((str(item["id"]), there.get(str(item["id"])), label))
        return tuple(sorted(numbers, key=lambda name: int(numbers[name]))), found

    def file(self, root: Path, part: str) -> Any:
        """What one of the JSON files holds."""
        files = sorted(root.rglob(f"*{part}.json"))
        if not files:
            raise FileNotFoundError(f"{root}: no something-something-v2-{part}.json")
        return load_json(files[0])
