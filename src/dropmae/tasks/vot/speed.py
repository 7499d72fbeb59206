"""How fast boxes are followed, beside the textbook form, both measured in turn in one run.

The textbook form is the network of OSTrack and DropTrack written plainly: everything in float32, attention as an
explicit softmax in every block, the template cropped once but embedded anew for every frame, one object at a time.
"""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae.contracts import Precision
from dropmae.engine import Engine
from dropmae.nn import masking
from dropmae.nn.vit import Size
from dropmae.speed.timing import explicit, in_turn, medians, ratio, scene, timed
from dropmae.target import Target
from dropmae.tasks.vot import VOT, crops, head


@torch.no_grad()
def textbook(model: VOT, template: np.ndarray, frame: np.ndarray, box: np.ndarray) -> Tensor:
    """Box [4] in shares of the crop, from a template crop [Z, Z, 3] and a frame [H, W, 3] with the last box."""
    search = crops.cut(frame, crops.region(box, model.search_factor), model.image)
    encoder: Any = model.encoder
    tokens = []
    for picture, positions, number in ((template, encoder.template_positions, 1), (search, encoder.positions, 0)):
        pixels = masking.normalize(torch.from_numpy(picture).permute(2, 0, 1)[None])
        patches = functional.conv2d(pixels, encoder.patch_embed.weight, encoder.patch_embed.bias, stride=encoder.patch)
        tokens.append(patches.flatten(2).transpose(1, 2) + positions.table + encoder.frame_embed(number))
    first, places = tokens[0].shape[1], torch.arange(tokens[1].shape[1])
    count, joined = len(places), torch.cat(tokens, 1)
    row = int(model.rows(joined.device)[0])
    seen: list[Tensor] = []
    for number, block in enumerate(encoder.blocks):
        joined = joined + block.attn(block.norm1(joined), partial(explicit, seen=seen))
        if number in model.ce_layers:
            left = (
                seen[0][0, :, row, first:]
                .mean(0)
                .argsort(descending=True)[: math.ceil(model.ce_keep_ratio * len(places))]
            )
            places, joined = places[left], torch.cat([joined[:, :first], joined[:, first:][:, left]], 1)
        joined = joined + block.mlp(block.norm2(joined))
    found = joined.new_zeros(1, count, joined.shape[2])
    found[:, places] = encoder.norm(joined)[:, first:]
    maps = model.head(found.transpose(1, 2).unflatten(2, model.grid))
    return head.decode(maps, maps.score * head.hann(model.grid[0]))[0][0]


def measure(
    size: Size = "base",
    image: int = 384,
    repeats: int = 3,
    batch: int = 1,
    device: str = "cpu",
    precisions: tuple[Precision, ...] = ("auto", "int8"),
) -> dict[str, Any]:
    """Seconds of a step of `batch` objects in the textbook form and in ours, measured in turn; medians.

    `ratio` is the median ratio of the textbook form's seconds per object to ours in the same round, `cpu_ratio` that of
    processor time. On a GPU the textbook form and int8 are left out. AssertionError where both forms do not give the
    same box in float32.
    """
    where, frames = torch.device(device), scene((360, 640))
    boxes = np.array([[200.0, 100, 90, 60]]) + np.arange(batch)[:, None] * [2, 1, 0, 0]
    target = Target(ids=np.arange(1, batch + 1), boxes=boxes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VOT(size=size, image=image).eval().to(where)
    steps: dict[str, Any] = {}
    if where.type == "cpu":
        template = crops.cut(frames.first, crops.region(boxes[0], model.template_factor), model.template)
        steps["textbook"] = partial(textbook, model, template, frames.second, boxes[0])
        share = steps["textbook"]().numpy().astype(np.float64)[None]
        scale = np.array([model.image / crops.region(boxes[0], model.search_factor or 0).side])
        box = crops.clip_boxes(crops.from_crop(share, boxes[:1], scale, model.image), (360, 640), 10)
        _, found = model.step(model.start(frames.first, target), frames.second)
        np.testing.assert_allclose(found[1].box(), box[0], atol=0.05)
    made: dict[str, str] = {}
    for precision in (one for one in precisions if where.type == "cpu" or one != "int8"):
        engine = Engine(copy.deepcopy(model), where, precision)
        made[precision] = engine.precision
        state = engine.run(engine.task.start, frames.first, target)
        steps[f"ours, {precision}"] = partial(engine.run, engine.task.step, state, frames.second)
    rows = in_turn({name: partial(timed, step, where) for name, step in steps.items()}, repeats)
    report: dict[str, Any] = {"size": size, "image": image, "batch": batch, "device": device}
    report |= {"threads": torch.get_num_threads(), "precisions": made, "steps": {}}
    for name, times in rows.items():
        seconds = medians(times).wall
        report["steps"][name] = found = {"seconds": seconds, "frames_per_s": 1 / seconds}
        for key, part in (("ratio", 0), ("cpu_ratio", 1)) if "textbook" in rows else ():
            slow = [row[part] * (1 if name == "textbook" else batch) for row in rows["textbook"]]
            found[key] = ratio(slow, [row[part] for row in times])
    return report
