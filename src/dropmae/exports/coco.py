"""COCO's JSON (Lin et al., ECCV 2014) of detections and masks, with the frames of a video as its images."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dropmae.contracts import Export
from dropmae.contracts.exports import Add
from dropmae.engine import Answer
from dropmae.exports._things import Thing, clipped, frame_name, things
from dropmae.formats.rle import squeeze
from dropmae.names import as_name
from dropmae.storage import mark, replacing
from dropmae.target import encode_mask
from dropmae.video import Video


@dataclass(kw_only=True)
class COCO(Export):
    """Boxes, and masks as run lengths; an object's id is `track_id`, and `frame_index` the number of the frame."""

    suffixes = (".coco.json", ".json")
    needs = ("boxes", "mask")

    @contextlib.contextmanager
    def open(self, out: Path, video: Video, doubtful_below: float | None) -> Iterator[Add]:
        classes: dict[str, int] = {}
        count, first = 0, True
        clip = as_name(video.name if video.path is None else video.path.name)
        with (
            replacing(out) as partial,
            open(partial, "w") as stream,
            tempfile.TemporaryFile("w+", encoding="utf-8") as later,
        ):
            about = {"description": mark(self.KIND), "version": "1.0"}
            stream.write(f'{{"info": {json.dumps(about)}, "licenses": [],\n')
            stream.write(f'"videos": [{json.dumps({"id": 1, "name": clip})}],\n"images": [')

            def add(answer: Answer) -> None:
                nonlocal count, first
                height, width = answer.picture.shape[:2]
                image = {"id": answer.frame + 1, "file_name": frame_name(video, answer.frame)}
                image |= {"width": width, "height": height, "video_id": 1, "frame_index": answer.frame}
                stream.write(("\n" if first else ",\n") + json.dumps(image))
                first = False
                for thing in things(answer.target):
                    row = annotation(thing, height, width)
                    if row is not None:
                        count += 1
                        kind = classes.setdefault(thing.name, len(classes) + 1)
                        start = {"id": count, "image_id": answer.frame + 1, "category_id": kind}
                        later.write((",\n" if count > 1 else "\n") + json.dumps(start | row))

            yield add
            stream.write('],\n"annotations": [')
            later.seek(0)
            for part in iter(lambda: later.read(1 << 20), ""):
                stream.write(part)
            rows = [{"id": number, "name": name, "supercategory": ""} for name, number in classes.items()]
            stream.write(f'],\n"categories": {json.dumps(rows)}}}\n')


def annotation(thing: Thing, height: int, width: int) -> dict[str, Any] | None:
    """What is said of an object that is in the frame; a box without a mask is a polygon of four corners."""
    box = None if thing.box is None else clipped(thing.box, height, width)
    if box is None:
        return None
    x, y, w, h = (round(value, 3) for value in box)
    row: dict[str, Any] = {"bbox": [x, y, w, h], "area": round(w * h, 3), "iscrowd": 0, "track_id": thing.id}
    if thing.mask is None:
        row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    else:
        code = encode_mask(thing.mask)
        row |= {"area": int(thing.mask.sum()), "segmentation": {**code, "counts": squeeze(code["counts"])}}
    return row if thing.score is None else {**row, "score": round(thing.score, 6)}
