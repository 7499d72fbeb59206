"""COCO's annotated images (Lin et al., ECCV 2014) as sequences of one frame, each with one object."""

from __future__ import annotations

from collections.abc import Sequence as Listed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dropmae.contracts import Dataset
from dropmae.names import relative
from dropmae.opening import load_json
from dropmae.sequence import Sequence
from dropmae.target import Target


@dataclass(kw_only=True)
class Coco(Dataset):
    """Every annotated object that is no crowd.

    Layout: <root>/annotations/instances_<split>2017.json, with the images in <root>/<split>2017/ or
    <root>/images/<split>2017/.
    """

    train_split = "train"

    def sequences(self, root: Path, split: str | None = None) -> Listed[Sequence]:
        return Objects(root, split or "train")


class Objects(Listed[Sequence]):
    """The objects of a split; their boxes and names are kept in arrays, since there are 860,000 of them."""

    def __init__(self, root: Path, split: str) -> None:
        file = Path(root) / "annotations" / f"instances_{split}2017.json"
        folders = [Path(root) / f"{split}2017", Path(root) / "images" / f"{split}2017"]
        found = [folder for folder in folders if folder.is_dir()]
        if not file.is_file() or not found:
            raise FileNotFoundError(f"{root}: no COCO images; expected {file} and {folders[0]}/*.jpg")
        self.folder = found[0]
        try:
            content = load_json(file)
            names = {image["id"]: relative(image["file_name"], file) for image in content["images"]}
            rows = [
                (entry["id"], entry["image_id"], *entry["bbox"])
                for entry in content["annotations"]
                if not entry.get("iscrowd") and entry["bbox"][2] > 0 and entry["bbox"][3] > 0
            ]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise OSError(f"{file}: not annotations of COCO's kind ({error!r})") from None
        if not rows:
            raise OSError(f"{file}: no object is annotated")
        table = np.array(rows, np.float64)
        self.ids, self.boxes = table[:, 0].astype(np.int64), table[:, 2:]
        order = {image: number for number, image in enumerate(names)}
        self.images = np.array([order[int(image)] for image in table[:, 1]])
        self.names = np.array(list(names.values()))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: Any) -> Any:
        name = str(self.names[self.images[number]])
        target = Target(ids=np.ones(1, np.int64), boxes=self.boxes[number : number + 1])
        return Sequence(f"{name}#{self.ids[number]}", [str(self.folder / name)], {0: target})
