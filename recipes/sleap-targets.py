"""Points of a SLEAP label file (.slp) as a targets.jsonl, for `evaluate folder`, `score`, `finetune` and `--prompts`.

Use: python recipes/sleap-targets.py LABELS.slp OUT/targets.jsonl    (needs h5py, which is in the extra `bench`)

The video is to lie beside the targets.jsonl, under the name that LABELS.slp gives it (its folder is left out). An
animal is an object, numbered as its track is; its nodes are points, in the order of the skeleton. What a person
labelled counts; what a model predicted is left out. A node that is not labelled in a frame is not to be seen there.
Files from format 1.1 on count from the middle of the first pixel, older ones from its corner, as we do.
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import h5py
import numpy as np

from dropmae.target import Target, write_targets

CENTRES = 1.1
"""The first format whose places count from the middle of a pixel."""


def targets(file: Path) -> tuple[str, dict[int, Target]]:
    """The name of the video and {frame: Target}; SystemExit where the file has something else than is read."""
    with h5py.File(file) as labels:
        videos = [json.loads(text)["backend"]["filename"] for text in labels["videos_json"][:]]
        frames, instances, points = (labels[name][:] for name in ("frames", "instances", "points"))
        older = float(labels["metadata"].attrs.get("format_id", 1.0)) < CENTRES
        nodes = len(json.loads(labels["metadata"].attrs["json"])["nodes"])
    if len(videos) != 1:
        raise SystemExit(f"{file}: labels of {len(videos)} videos; one is read")
    found: dict[int, dict[int, np.ndarray]] = {}
    for frame in frames:
        own = instances[int(frame["instance_id_start"]) : int(frame["instance_id_end"])]
        own = own[own["instance_type"] == 0]
        if len(own) > 1 and (own["track"] < 0).any():
            raise SystemExit(f"{file}: frame {frame['frame_idx']} has animals without a track: which is which?")
        for one in own:
            rows = points[int(one["point_id_start"]) : int(one["point_id_end"])]
            seen = rows["visible"][:, None]
            places = np.where(seen, np.stack([rows["x"], rows["y"]], 1) + (0 if older else 0.5), math.nan)
            found.setdefault(int(frame["frame_idx"]), {})[max(int(one["track"]), 0) + 1] = places
    ids = sorted({number for animals in found.values() for number in animals})
    owners, nothing = np.repeat(np.array(ids, np.int64), nodes), np.full((nodes, 2), math.nan)
    made = {}
    for frame, animals in sorted(found.items()):
        places = np.concatenate([animals.get(number, nothing) for number in ids])
        visible = np.isfinite(places).all(1)
        made[frame] = Target(ids=np.array(ids, np.int64), points=places, visible=visible, owners=owners)
    return re.split(r"[/\\]", videos[0])[-1], made


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    try:
        name, made = targets(Path(sys.argv[1]))
    except (OSError, LookupError, ValueError) as error:
        raise SystemExit(f"{sys.argv[1]}: no labels of SLEAP: {error}") from None
    if not made:
        raise SystemExit(f"{sys.argv[1]}: nobody has labelled anything in it")
    write_targets(Path(sys.argv[2]), {name: made})
    print(f"{name}: {len(made)} frames with {len(next(iter(made.values())).owners)} points")


if __name__ == "__main__":
    main()
