"""The tracker: the official network's numbers, its files in both directions, following, training, wrong input."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dropmae
from dropmae import registry, weights
from dropmae.data.clips import Clips, Sequence, collate, generator
from dropmae.target import Target
from dropmae.tasks.vot import crops, head, samples
from dropmae.tasks.vot.encoder import deciding_tokens, keep_rate
from dropmae.tasks.vot.speed import measure
from dropmae.verbs.convert import convert
from dropmae.weights import official
from dropmae.weights.layouts import named
from official_files import block_shapes, put

Tensors = dict[str, Tensor]


def tracker_shapes(
    width: int = 768, depth: int = 12, search: int = 24, template: int = 12, channels: int = 256, identity: bool = True
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official tracker; 244 of them, or 242 without frame identities."""
    b = "backbone"
    shapes: dict[str, tuple[int, ...]] = {
        f"{b}.cls_token": (1, 1, width),
        f"{b}.pos_embed": (1, 197, width),
        f"{b}.pos_embed_z": (1, template**2, width),
        f"{b}.pos_embed_x": (1, search**2, width),
        f"{b}.patch_embed.proj.weight": (width, 3, 16, 16),
        f"{b}.patch_embed.proj.bias": (width,),
        f"{b}.norm.weight": (width,),
        f"{b}.norm.bias": (width,),
    }
    for frame in "xz" if identity else "":
        shapes[f"{b}.temporal_pos_embed_{frame}"] = (1, 1, width)
    for number in range(depth):
        shapes |= block_shapes(f"{b}.blocks.{number}", width)
    widths = [width, channels, channels // 2, channels // 4, channels // 8]
    for name, out in (("ctr", 1), ("offset", 2), ("size", 2)):
        for number in range(1, 5):
            place, c = f"box_head.conv{number}_{name}", widths[number]
            shapes |= {f"{place}.0.weight": (c, widths[number - 1], 3, 3), f"{place}.0.bias": (c,)}
            shapes |= {f"{place}.1.{part}": (c,) for part in ("weight", "bias", "running_mean", "running_var")}
            shapes[f"{place}.1.num_batches_tracked"] = ()
        shapes |= {f"box_head.conv5_{name}.weight": (out, widths[4], 1, 1), f"box_head.conv5_{name}.bias": (out,)}
    return shapes


def tracker_recipe(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    """Numbers by which an official module and this one can be compared: a draw per name, in sorted order."""
    made: Tensors = {}
    for i, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        if name.endswith("num_batches_tracked"):
            made[name] = torch.zeros(shape, dtype=torch.int64)
            continue
        a = np.random.RandomState(i).standard_normal(shape).astype(np.float32)
        if name.endswith("running_var"):
            a = 1 + 0.1 * np.abs(a)
        elif name.endswith("running_mean"):
            a = 0.1 * a
        elif a.ndim == 1:
            a = 1 + 0.1 * a if name.endswith("weight") else 0.05 * a
        elif a.ndim == 3:
            a = 0.2 * a
        else:
            a = a / np.float32(math.sqrt(math.prod(shape[1:])))
        made[name] = torch.from_numpy(a)
    return made


def module_of(tensors: Tensors, **fields: Any) -> Any:
    """A tracker with these official weights."""
    table = named("droptrack")
    made = registry.load("tasks", "vot")(**fields)
    weights.fill(made, {table.ours(name)[0][0]: tensor for name, tensor in tensors.items()}, "here")
    return made.eval()


# ------------------------------------------------------------ the official numbers, base size and 384 pixels


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """What the network says to the goldens' input, with elimination and without."""
    module = module_of(tracker_recipe(tracker_shapes()), keep_unused=True)
    z, x = (
        torch.from_numpy(np.random.RandomState(seed).standard_normal((1, 3, side, side)).astype(np.float32))
        for seed, side in ((21, 192), (22, 384))
    )
    found: dict[str, Any] = {"module": module}
    with torch.no_grad():
        template = module.encoder.tokens(z, 1)
        weights_ = module.token_weights(torch.zeros(1, 4))
        for name, keep in (("eliminating", 0.7), ("all", 1.0)):
            caught: list[Any] = []
            joint = module.encoder.joint

            def catching(*args: Any, joint: Any = joint, caught: list[Any] = caught, **more: Any) -> Any:
                caught.append(joint(*args, **more))
                return caught[-1]

            module.encoder.joint = catching
            found[name] = (module.respond(template, weights_, x, keep, None), caught[0])
            module.encoder.joint = joint
    return found


def test_parameters_are_the_official_ones(golden: dict[str, Any]) -> None:
    module = golden["module"]
    assert len(module.state_dict()) == 244
    assert sum(tensor.numel() for tensor in module.state_dict().values()) == 92_830_161
    assert sum(p.numel() for p in module.head.parameters()) == 6_474_117


def test_boxes_with_elimination(golden: dict[str, Any]) -> None:
    maps, joint = golden["eliminating"]
    box, score = head.decode(maps)
    assert box[0].tolist() == pytest.approx([0.45512, 0.659171, 0.439972, 0.49691], abs=1e-4)
    assert score.item() == pytest.approx(0.595674, abs=1e-4)
    assert divmod(int(maps.score.argmax()), 24) == (16, 11)
    assert maps.score.sum().item() == pytest.approx(299.981, abs=1e-2)
    assert maps.offset[0, :, 16, 11].tolist() == pytest.approx([-0.0771142, -0.179887], abs=1e-4)
    assert [len(gone[0]) for gone in joint.removed] == [172, 121, 84]
    assert sorted(joint.removed[0][0].tolist())[:10] == [0, 1, 3, 7, 9, 13, 14, 16, 22, 23]
    assert len(set(torch.cat(joint.removed, 1)[0].tolist())) == 377
    assert int((joint.search == 0).all(1).sum()) == 377
    both = torch.cat([joint.template, joint.search.flatten(2).transpose(1, 2)], 1)
    assert both.mean().item() == pytest.approx(0.000922648, abs=1e-5)
    assert both.std().item() == pytest.approx(0.695529, abs=1e-4)
    assert joint.template[0, 0, :5].tolist() == pytest.approx(
        [0.1492, 0.753048, -0.824842, 0.209333, 0.55829], abs=1e-4
    )


def test_boxes_under_the_window(golden: dict[str, Any]) -> None:
    maps, _ = golden["eliminating"]
    box, _ = head.decode(maps, maps.score * head.hann(24))
    assert box[0].tolist() == pytest.approx([0.453618, 0.454086, 0.475575, 0.497909], abs=1e-4)


def test_boxes_without_elimination(golden: dict[str, Any]) -> None:
    maps, joint = golden["all"]
    box, score = head.decode(maps)
    assert box[0].tolist() == pytest.approx([0.41396, 0.409403, 0.451702, 0.459812], abs=1e-4)
    assert divmod(int(maps.score.argmax()), 24) == (10, 10)
    assert score.item() == pytest.approx(0.615769, abs=1e-4)
    assert maps.score.sum().item() == pytest.approx(303.184, abs=1e-2)
    assert joint.removed == []
    both = torch.cat([joint.template, joint.search.flatten(2).transpose(1, 2)], 1)
    assert both.std().item() == pytest.approx(1.00744, abs=1e-4)
    assert joint.template[0, 0, :5].tolist() == pytest.approx(
        [0.132864, 0.774145, -0.844112, 0.179407, 0.567649], abs=1e-4
    )


# ------------------------------------------------------------ what surrounds it


@pytest.mark.parametrize(
    ("warm", "rates"),
    [
        (50, {1: 1, 19: 1, 20: 1, 21: 0.999704, 30: 0.971353, 45: 0.85, 60: 0.728647, 69: 0.700296, 70: 0.7, 100: 0.7}),
        (80, {1: 1, 20: 1, 60: 0.85, 99: 0.700116, 100: 0.7, 300: 0.7}),
    ],
)
def test_the_keep_rate_in_training(warm: int, rates: dict[int, float]) -> None:
    for epoch, rate in rates.items():
        assert keep_rate(epoch, 20, warm, 0.7) == pytest.approx(rate, abs=1e-6)
        assert keep_rate(epoch / 100, 0.2, warm / 100, 0.7) == pytest.approx(rate, abs=1e-6)


def test_the_middle_of_a_template() -> None:
    assert [deciding_tokens("point", (side, side)) for side in (12, 8, 7, 14)] == [[65], [27], [24], [90]]
    assert deciding_tokens("square", (12, 12)) == [65, 66, 77, 78]
    assert deciding_tokens("square", (1, 1)) == [0]


@pytest.fixture
def module() -> Any:
    torch.manual_seed(0)
    return registry.load("tasks", "vot")(size="tiny", image=64)


def test_presets() -> None:
    vot = registry.load("tasks", "vot")
    for image, template, factor, jitter, scale in ((384, 192, 5, 4.5, 0.5), (256, 128, 4, 3, 0.25)):
        made = vot(size="tiny", image=image)
        assert (made.template, made.search_factor, made.template_factor) == (template, factor, 2)
        assert (made.centre_jitter, made.scale_jitter) == (jitter, scale)
    assert vot(size="tiny", image=256).grid == (16, 16)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": "enormous"},
        {"image": 65},
        {"image": 0},
        {"template": 30},
        {"ce_keep_ratio": 0},
        {"ce_layers": (12,)},
        {"flip": 1.5},
        {"downsample_prob": -0.5},
        {"motion_blur_prob": 2},
        {"drop_path": 1.0},
        {"search_factor": 0},
        {"head_width": 12},
        {"lost_below": -0.1},
        {"size_smoothing": 1.5},
        {"gap": 0},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    word = next(iter(wrong)).split("_")[0]
    with pytest.raises(ValueError, match=rf"(?i){word}"):
        registry.load("tasks", "vot")(**{"size": "tiny", "image": 64, **wrong})


@pytest.mark.parametrize("tokens", ["point", "square", "all", "box"])
def test_who_decides_on_elimination(tokens: str) -> None:
    torch.manual_seed(0)
    made = registry.load("tasks", "vot")(size="tiny", image=128, ce_template_range=tokens, ce_keep_ratio=0.5).eval()
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.1, 0.3, 0.8, 0.2], [0.5, 0.5, 0.001, 0.001]])
    shares = made.token_weights(boxes)
    assert shares.sum(1).tolist() == pytest.approx([1, 1, 1])
    assert len(made.rows(torch.device("cpu"))) == shares.shape[1]
    if tokens == "box":
        assert (shares > 0).sum(1).tolist() == [4, 4, 1]
    pictures = torch.randint(0, 256, (3, 3, 128, 128), dtype=torch.uint8)
    with torch.no_grad():
        template = made.encoder.tokens(pictures[:, :, :64, :64], 1)
        together = made.respond(template, shares, pictures, 0.5, None)
        alone = made.respond(template[1:2], shares[1:2], pictures[1:2], 0.5, None)
    torch.testing.assert_close(together.score[1:2], alone.score, atol=1e-5, rtol=1e-4)


def test_features_of_single_frames(module: Any) -> None:
    frames = torch.randint(0, 256, (2, 3, 48, 80), dtype=torch.uint8)
    assert module.encoder.features(frames).shape == (2, 192, 3, 5)


def test_settings_rebuild_it(module: Any) -> None:
    again = type(module)(**registry.settings(module))
    assert registry.settings(again) == registry.settings(module)
    assert all(registry.field_docs(type(module)).get(name) for name in registry.settings(module))
    assert {name.split(".")[0] for name in module.state_dict()} == {"encoder", "head"}


# ------------------------------------------------------------ official files


def tiny_tracker(identity: bool = True) -> Tensors:
    return tracker_recipe(tracker_shapes(192, 12, 6, 3, 64, identity))


@pytest.mark.parametrize("identity", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_files_in_both_directions(identity: bool, prefix: str, tmp_path: Path) -> None:
    plain = tiny_tracker(identity)
    assert len(plain) == (244 if identity else 242)
    tree = {"epoch": 300, "net": {prefix + n: t for n, t in plain.items()}, "net_type": "OSTrack", "optimizer": {}}
    report = convert(put(tree, tmp_path / "OSTrack_ep0300.pth.tar"), tmp_path / "w.safetensors")
    assert (report["layout"], report["class"]) == ("droptrack" if identity else "ostrack", "vot")
    assert report["unexpected"] == []
    made: Any = dropmae.load(tmp_path / "w.safetensors")
    assert (made.image, made.template, made.identity, made.head_width) == (96, 48, identity, 64)
    convert(tmp_path / "w.safetensors", tmp_path / "back.pth.tar", to=report["layout"])
    back = torch.load(tmp_path / "back.pth.tar", weights_only=True)["net"]
    assert back.keys() == plain.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in plain.items())


def test_identities_folded_and_made_up(tmp_path: Path) -> None:
    """An OSTrack file computes what the DropTrack file did that it was made of, and the other way round."""
    made = module_of(tiny_tracker(), size="tiny", image=96, template=48, head_width=64, keep_unused=True)
    z, x = (torch.from_numpy(np.random.RandomState(s).randn(1, 3, s, s).astype(np.float32)) for s in (48, 96))
    with torch.no_grad():
        expected = made.respond(made.encoder.tokens(z, 1), made.token_weights(torch.zeros(1, 4)), x, 0.7, None)
    weights.save(made, tmp_path / "d.safetensors")
    convert(tmp_path / "d.safetensors", tmp_path / "o.pth", to="ostrack")
    assert len(torch.load(tmp_path / "o.pth", weights_only=True)["net"]) == 242
    convert(tmp_path / "o.pth", tmp_path / "o.safetensors")
    convert(tmp_path / "o.safetensors", tmp_path / "again.pth", to="droptrack")
    assert len(torch.load(tmp_path / "again.pth", weights_only=True)["net"]) == 244
    convert(tmp_path / "again.pth", tmp_path / "again.safetensors")
    for name in ("o", "again"):
        other: Any = dropmae.load(tmp_path / f"{name}.safetensors")
        with torch.no_grad():
            found = other.respond(other.encoder.tokens(z, 1), other.token_weights(torch.zeros(1, 4)), x, 0.7, None)
        assert other.identity == (name == "again")
        torch.testing.assert_close(found.score, expected.score, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.size, expected.size, atol=1e-5, rtol=1e-4)


def test_another_size_of_crops(tmp_path: Path) -> None:
    """384 to 256 pixels, as a ratio: tables from 24 and 12 cells a side to 16 and 8."""
    plain = tracker_recipe(tracker_shapes(192, 12, 24, 12, 64))
    convert(put({"net": plain}, tmp_path / "x.pth"), tmp_path / "w.safetensors", image=256)
    made: Any = dropmae.load(tmp_path / "w.safetensors")
    assert (made.image, made.template, made.search_factor, made.grid) == (256, 128, 4.0, (16, 16))
    table = plain["backbone.pos_embed_z"].transpose(1, 2).unflatten(2, (12, 12))
    resized = torch.nn.functional.interpolate(table, (8, 8), mode="bicubic", align_corners=False)
    torch.testing.assert_close(made.encoder.template_positions.table.data, resized.flatten(2).transpose(1, 2))
    convert(tmp_path / "w.safetensors", tmp_path / "l.pth", to="ostrack", image=384)
    assert torch.load(tmp_path / "l.pth", weights_only=True)["net"]["backbone.pos_embed_x"].shape == (1, 576, 192)
    with pytest.raises(ValueError, match="square"):
        convert(tmp_path / "w.safetensors", tmp_path / "v.safetensors", image=(128, 256))


def test_files_that_do_not_fit_say_so(module: Any, tmp_path: Path) -> None:
    plain = tiny_tracker()
    del plain["box_head.conv3_ctr.0.bias"]
    with pytest.raises(ValueError, match=r"lacks box_head\.conv3_ctr\.0\.bias"):
        convert(put({"net": plain}, tmp_path / "x.pth"), tmp_path / "w.safetensors")
    oblong = {**tiny_tracker(), "backbone.pos_embed_x": torch.zeros(1, 35, 192)}
    with pytest.raises(ValueError, match="no square"):
        convert(put({"net": oblong}, tmp_path / "x.pth"), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="task vot"):
        official.from_module(registry.load("methods", "dropmae")(size="tiny", image=64), named("droptrack"))
    with pytest.raises(ValueError, match="no place"):
        official.from_module(module, named("dropmae"))
    headless = {name: tensor for name, tensor in tiny_tracker().items() if name.startswith("backbone.")}
    report = convert(put({"net": headless}, tmp_path / "x.pth"), tmp_path / "w.safetensors")
    assert report["missing"] == ["head"]
    with pytest.raises(ValueError, match="have none"):
        convert(tmp_path / "w.safetensors", tmp_path / "y.pth", to="ostrack")


# ------------------------------------------------------------ following

RED, BLUE = (250, 10, 20), (15, 20, 240)


class Oracle:
    """Stands in for the network: it finds the colour that the template has in its middle, and says where it is."""

    def __init__(self, module: Any) -> None:
        self.patch, self.grid = module.patch, module.grid

    def tokens(self, pictures: Tensor, frame: int) -> Tensor:
        """The middle pixel of each template, as its only token."""
        side = pictures.shape[-1] // 2
        return pictures[:, None, :, side, side].float()

    def respond(self, template: Tensor, weights: Tensor, search: Tensor, keep: float, drop: Any) -> head.Maps:
        score = torch.full((len(search), 1, *self.grid), 0.01)
        offset, size = torch.zeros(len(search), 2, *self.grid), torch.full((len(search), 2, *self.grid), 0.1)
        for row, picture in enumerate(search.float()):
            rows, columns = torch.nonzero((picture - template[row, 0, :, None, None]).abs().amax(0) < 60).T
            if not len(rows):
                continue
            low = torch.stack([columns.min(), rows.min()])
            high = torch.stack([columns.max(), rows.max()]) + 1
            centre = (low + high) / 2 / self.patch
            x, y = centre.long().tolist()
            score[row, 0, y, x] = 0.9
            offset[row, :, y, x] = centre - centre.floor()
            size[row, :, y, x] = (high - low) / search.shape[-1]
        return head.Maps(score, offset, size)


@pytest.fixture
def oracle() -> Any:
    torch.manual_seed(0)
    made = registry.load("tasks", "vot")(size="tiny", image=128, lost_below=0.5, margin=4)
    stand_in = Oracle(made)
    made.encoder.tokens, made.respond = stand_in.tokens, stand_in.respond
    return made


def scene(
    t: int, *objects: tuple[tuple[int, ...], tuple[float, ...]], size: tuple[int, int] = (120, 160)
) -> np.ndarray:
    """A grey frame in which each object (colour, (x, y, w, h, dx, dy)) has moved t times."""
    frame = np.full((*size, 3), 90, np.uint8)
    for colour, (x, y, w, h, dx, dy) in objects:
        left, top = round(x + t * dx), round(y + t * dy)
        frame[max(top, 0) : max(top + h, 0), max(left, 0) : max(left + w, 0)] = colour
    return frame


def target_of(*boxes: tuple[float, ...], ids: list[int] | None = None) -> Target:
    return Target(ids=np.array(ids or range(1, len(boxes) + 1)), boxes=np.array(boxes, float))


def test_objects_are_followed_together(oracle: Any) -> None:
    objects = (RED, (20, 20, 24, 20, 4, 2)), (BLUE, (120, 80, 16, 24, -3, -2))
    state = oracle.start(scene(0, *objects), target_of((20, 20, 24, 20), (120, 80, 16, 24), ids=[7, 3]))
    for t in range(1, 11):
        state, found = oracle.step(state, scene(t, *objects))
        assert list(found) == [t]
        assert found[t].ids.tolist() == [7, 3]
        assert found[t].scores.tolist() == pytest.approx([0.9, 0.9])
        expected = [[20 + 4 * t, 20 + 2 * t, 24, 20], [120 - 3 * t, 80 - 2 * t, 16, 24]]
        np.testing.assert_allclose(found[t].boxes, expected, atol=1.5)
    assert oracle.finish(state) == {}


def test_what_leaves_is_lost_and_found_again(oracle: Any) -> None:
    objects = ((RED, (20, 20, 20, 20, 0, 0)),)
    state = oracle.start(scene(0, *objects), target_of((20, 20, 20, 20)))
    seen, found = [], {}
    for t in range(1, 9):
        state, found = oracle.step(state, scene(t, *(objects if t not in (3, 4, 5) else ())))
        seen.append(np.isfinite(found[t].boxes).all())
        assert (found[t].scores[0] > 0.5) == seen[-1] == (not state.lost[0])
    assert seen == [True, True, False, False, False, True, True, True]
    np.testing.assert_allclose(found[8].boxes, [[20, 20, 20, 20]], atol=1.5)


def test_prompts_add_and_correct(oracle: Any) -> None:
    objects = (RED, (20, 20, 20, 20, 2, 0)), (BLUE, (100, 60, 20, 20, 0, 0))
    state = oracle.start(scene(0, *objects), target_of((20, 20, 20, 20)))
    state, _ = oracle.step(state, scene(1, *objects))
    state, found = oracle.step(state, scene(2, *objects), target_of((100, 60, 20, 20), ids=[2]))
    assert found[2].ids.tolist() == [1, 2]
    assert found[2].boxes[1].tolist() == [100, 60, 20, 20]
    np.testing.assert_allclose(found[2].boxes[0], [24, 20, 20, 20], atol=1.5)
    # Object 1 is now the blue one too; an object that a prompt says nothing about (NaN) goes on as it was.
    prompt = target_of((100, 60, 20, 20), (math.nan,) * 4, ids=[1, 2])
    state, found = oracle.step(state, scene(3, *objects), prompt)
    state, found = oracle.step(state, scene(4, *objects))
    assert sorted(found[4].ids.tolist()) == [1, 2]
    np.testing.assert_allclose(found[4].boxes, [[100, 60, 20, 20]] * 2, atol=1.5)
    assert len(state.template) == len(state.weights) == 2


def test_a_mask_says_where_to_begin(oracle: Any) -> None:
    mask = np.zeros((120, 160), np.uint8)
    mask[20:40, 30:60] = 5
    state = oracle.start(scene(0, (RED, (30, 20, 30, 20, 0, 0))), Target(ids=np.array([5]), mask=mask))
    assert state.ids.tolist() == [5]
    assert state.boxes.tolist() == [[30, 20, 30, 20]]


def test_frames_that_change_size(oracle: Any) -> None:
    state = oracle.start(scene(0, (RED, (40, 40, 20, 20, 0, 0))), target_of((40, 40, 20, 20)))
    double = scene(0, (RED, (84, 80, 40, 40, 0, 0)), size=(240, 320))
    state, found = oracle.step(state, double)
    np.testing.assert_allclose(found[1].boxes, [[84, 80, 40, 40]], atol=2)


def test_inertia_keeps_part_of_the_size(oracle: Any) -> None:
    before, after = (scene(0, (RED, (*box, 0, 0))) for box in ((40, 40, 20, 20), (32, 40, 40, 20)))
    for inertia, width in ((0.0, 40), (0.5, 30), (1.0, 20)):
        oracle.size_smoothing = inertia
        state = oracle.start(before, target_of((40, 40, 20, 20)))
        state, found = oracle.step(state, after)
        np.testing.assert_allclose(found[1].boxes, [[52 - width / 2, 40, width, 20]], atol=1.5)


def test_a_box_around_part_of_a_thing_stays_around_that_part(oracle: Any) -> None:
    part = (46, 42, 20, 24)
    first, second, grown = (
        scene(0, (RED, (*box, 0, 0))) for box in ((40, 40, 40, 30), (52, 44, 40, 30), (52, 44, 60, 45))
    )
    others = target_of(part, (100, 80, 10, 10), ids=[7, 9])
    for calibrate, box in ((False, [52, 44, 40, 30]), (True, [58, 46, 20, 24])):
        oracle.first_frame_bias = calibrate
        state = oracle.start(first, target_of(part, ids=[7]))
        assert state.errors.any() == calibrate
        state, found = oracle.step(state, second)
        np.testing.assert_allclose(found[1].boxes, [box], atol=2)
    state, found = oracle.step(state, grown)
    np.testing.assert_allclose(found[2].boxes, [[61, 47, 30, 36]], atol=3)
    added, _ = oracle.step(state, first, prompt=target_of((100, 80, 10, 10), ids=[9]))
    assert added.errors.shape == (2, 4)
    np.testing.assert_array_equal(added.errors[0], state.errors[0])
    assert np.abs(oracle.start(first, others).errors).max() <= 0.7


def test_boxes_that_reach_beyond_the_frame(oracle: Any) -> None:
    """A box larger than the frame, and one of which only a corner is inside, are followed."""
    frame = np.full((60, 80, 3), RED, np.uint8)
    state = oracle.start(frame, target_of((-20, -20, 200, 200), (75, 55, 40, 40)))
    state, found = oracle.step(state, frame)
    boxes = found[1].boxes
    assert np.isfinite(boxes).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= [80, 60]).all()


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((10, 10, 0, 5), "positive width"),
        ((10, 10, 5, -5), "positive width"),
        ((200, 10, 20, 20), "outside the 160x120 frame"),
        ((-30, 10, 30, 20), "outside"),
        ((math.nan, 10, 30, 20), "nothing to follow"),
    ],
)
def test_boxes_that_cannot_be_followed(oracle: Any, box: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oracle.start(scene(0), target_of(box))
    state = oracle.start(scene(0), target_of((5, 5, 10, 10)))
    if "nothing" not in message:
        with pytest.raises(ValueError, match=message):
            oracle.step(state, scene(0), target_of(box))
    for frame in (np.zeros((9, 9)), np.zeros((9, 9, 3), np.float32), np.zeros((0, 9, 3), np.uint8)):
        with pytest.raises(ValueError, match="a frame is uint8"):
            oracle.step(state, frame)
    with pytest.raises(ValueError, match="differ"):
        oracle.start(scene(0), target_of((5, 5, 10, 10), (5, 5, 10, 10), ids=[1, 1]))


def test_together_or_alone_is_the_same(module: Any) -> None:
    """With a real network, and states that are not used up: the same step can be taken twice."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 90, 120, 3), dtype=np.uint8)
    boxes = [(10.0, 10, 30, 20), (60.0, 40, 25, 35), (0.0, 0, 500, 400)]
    state = module.start(frames[0], target_of(*boxes))
    assert not module.training
    middle_state, first = module.step(state, frames[1])
    _, last = module.step(middle_state, frames[2])
    _, again = module.step(state, frames[1])
    np.testing.assert_array_equal(first[1].boxes, again[1].boxes)
    for row, box in enumerate(boxes):
        alone = module.start(frames[0], target_of(box))
        alone, _ = module.step(alone, frames[1])
        _, found = module.step(alone, frames[2])
        np.testing.assert_allclose(found[2].boxes[0], last[2].boxes[row], atol=1e-3)
        assert found[2].scores[0] == pytest.approx(last[2].scores[row], abs=1e-5)


# ------------------------------------------------------------ training


def labelled(number: int, frames: int = 8) -> Sequence:
    """A red square that moves over noise."""
    rng = np.random.default_rng(number)
    clip = rng.integers(60, 120, (frames, 72, 96, 3)).astype(np.uint8)
    x, y, dx, dy = int(rng.integers(4, 40)), int(rng.integers(4, 30)), int(rng.integers(0, 4)), int(rng.integers(0, 3))
    targets = {}
    for t in range(frames):
        clip[t, y + t * dy : y + t * dy + 14, x + t * dx : x + t * dx + 18] = RED
        targets[t] = target_of((x + t * dx, y + t * dy, 18, 14))
    return Sequence(f"clip{number}", clip, targets)


def batch_of(module: Any, indices: list[int]) -> dict[str, Any]:
    clips = Clips([labelled(number) for number in range(6)], module.sample, seed=0)
    batch = collate([clips[i] for i in indices])
    batch.pop("reports")
    return {**batch, "seed": 0, "step": 3, "progress": 0.9}


def red_box(picture: np.ndarray) -> list[float]:
    """x y w h, in shares, of the red pixels of a crop [3, s, s]."""
    red = (picture[0] > 180) & (picture[1] < 90)
    ys, xs = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    return [value / len(red) for value in (xs[0], ys[0], xs[-1] + 1 - xs[0], ys[-1] + 1 - ys[0])]


@pytest.mark.parametrize("augment", ["separate", "joint"])
def test_samples_show_the_box_where_they_say(augment: str) -> None:
    made = registry.load("tasks", "vot")(size="tiny", image=128, augment=augment, gray=0, scale_jitter=0.2)
    flips = set()
    for i in range(12):
        sample = made.sample(labelled(i), generator(0, i))
        assert sample["template"].shape == (3, 64, 64)
        assert sample["search"].shape == (3, 128, 128)
        np.testing.assert_allclose(red_box(sample["template"]), sample["inner"], atol=0.05)
        x, y, w, h = sample["box"]
        if min(x, y) > 0.02 and max(x + w, y + h) < 0.98:
            np.testing.assert_allclose(red_box(sample["search"]), sample["box"], atol=0.03)
        assert sample["inner"][:2] + sample["inner"][2:] / 2 == pytest.approx(0.5, abs=0.02)
        flips.add(tuple(np.round(sample["inner"], 3)))
    assert len(flips) >= 1


def test_samples_lose_detail_but_not_the_box() -> None:
    fields = {"size": "tiny", "image": 128, "augment": "joint", "gray": 0, "scale_jitter": 0.2}
    plain, coarse, smear = (
        registry.load("tasks", "vot")(**fields, **more)
        for more in ({}, {"downsample_prob": 1.0}, {"motion_blur_prob": 1.0})
    )

    def detail(picture: np.ndarray) -> float:
        return float(np.abs(np.diff(picture.astype(float), axis=-1)).mean())

    less = []
    for i in range(12):
        sharp, vague, blurred = (made.sample(labelled(i), generator(0, i)) for made in (plain, coarse, smear))
        for other in (vague, blurred):
            np.testing.assert_array_equal(sharp["box"], other["box"])
        np.testing.assert_array_equal(sharp["template"], blurred["template"])
        less.append([detail(vague[n]) / detail(sharp[n]) for n in ("search", "template")])
        less[-1].append(detail(blurred["search"]) / detail(sharp["search"]))
        middle = slice(len(vague["search"][0]) // 4, -len(vague["search"][0]) // 4)
        means = [sample["search"][:, middle, middle].mean() for sample in (sharp, vague, blurred)]
        assert np.ptp(means) < 8
    assert (np.array(less) < 1.02).all()
    assert (np.mean(less, 0) < 0.8).all()


def test_blurring_spreads_along_its_line_alone() -> None:
    crop = np.zeros((31, 31, 3), np.uint8)
    crop[15, 15] = 231
    across = samples.smeared(crop, 10 / 31, 0.0)
    assert (across[15, 10:21] == 21).all()
    assert across.sum() == 11 * 21 * 3
    down = samples.smeared(crop, 10 / 31, math.pi / 2)
    np.testing.assert_array_equal(down, across.transpose(1, 0, 2))
    np.testing.assert_array_equal(samples.smeared(crop, 0.01, 1.0), crop)
    np.testing.assert_array_equal(samples.coarsened(np.full((8, 8, 3), 7, np.uint8), 3.0), 7)


def test_samples_of_odd_sequences() -> None:
    made = registry.load("tasks", "vot")(size="tiny", image=64)
    still = labelled(0, frames=1)
    sample = made.sample(still, generator(0, 0))
    assert set(sample) == {"template", "search", "box", "inner"}
    with pytest.raises(OSError, match="no box"):
        made.sample(Sequence("none", still.source, {}), generator(0))
    gone = Sequence("gone", still.source, {0: target_of((math.nan,) * 4)})
    with pytest.raises(OSError, match="no box"):
        made.sample(gone, generator(0))
    outside = Sequence("outside", still.source, {0: target_of((5000, 5000, 10, 10))})
    with pytest.raises(OSError, match="shows anything"):
        made.sample(outside, generator(0))
    masks = np.zeros((72, 96), np.uint8)
    masks[10:30, 20:50] = 3
    assert made.sample(Sequence("m", still.source, {0: Target(ids=np.array([3]), mask=masks)}), generator(0))


def test_samples_are_pure(module: Any) -> None:
    first, second, other = (module.sample(labelled(0), generator(1, n)) for n in (2, 2, 3))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["search"], other["search"])


def test_every_parameter_learns_and_randomness_follows_the_sample(module: Any) -> None:
    batch = batch_of(module, [0, 1, 2])
    values = module(batch)
    assert set(values) == {"loss", "giou", "l1", "focal", "iou"}
    total = 2 * values["giou"] + 5 * values["l1"] + values["focal"]
    torch.testing.assert_close(values["loss"], total)
    values["loss"].backward()
    assert not [name for name, p in module.named_parameters() if p.grad is None]
    named_ = [name for group in module.groups(None) for name in group["names"]]
    assert sorted(named_) == sorted(name for name, _ in module.named_parameters())
    assert [group["lr"] for group in module.groups(None)] == [0.1, 1.0]
    key = torch.arange(4, dtype=torch.int32)
    drops = module.drops(key)
    torch.testing.assert_close(drops[:, :, 2:], module.drops(key[2:]))
    assert (drops[0] == 1).all()
    module.drop_path = 0.5
    many = module.drops(torch.arange(4000, dtype=torch.int32))
    assert many.mean(2)[-1].tolist() == pytest.approx([1, 1], abs=0.06)
    assert set(many[-1].unique().tolist()) == {0.0, 2.0}


def test_loss_falls_on_one_batch(module: Any) -> None:
    module.drop_path = 0.0
    batch = batch_of(module, list(range(4)))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = module(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    with torch.no_grad():
        values = module.probe(batch)
    assert all(isinstance(value, float) and math.isfinite(value) for value in values.values())


# ------------------------------------------------------------ as a graph


def test_the_step_as_a_graph(module: Any, tmp_path: Path) -> None:
    """torch.export for two objects; what the graph says is where the tracker's own step ends up."""
    weights.save(module, tmp_path / "w.safetensors")
    report = convert(tmp_path / "w.safetensors", tmp_path / "w.pt2", objects=2)
    assert report["difference"] < 1e-5
    assert report["inputs"] == [[2, 3, 32, 32], [2, 3, 64, 64]]
    program = torch.export.load(tmp_path / "w.pt2").module()
    frames = np.random.default_rng(0).integers(0, 256, (2, 90, 120, 3), dtype=np.uint8)
    boxes = np.array([[10.0, 10, 30, 20], [60.0, 40, 25, 35]])
    state = module.start(frames[0], target_of(*boxes.tolist()))
    _, found = module.step(state, frames[1])
    first = [crops.region(box, module.template_factor) for box in boxes]
    later = [crops.region(box, module.search_factor) for box in boxes]
    cuts = [
        torch.from_numpy(np.stack([crops.cut(frame, place, out) for place in places])).permute(0, 3, 1, 2)
        for frame, places, out in ((frames[0], first, module.template), (frames[1], later, module.image))
    ]
    shares, scores = program(*cuts)
    scale = module.image / np.array([place.side for place in later])
    located = crops.from_crop(shares.detach().numpy().astype(float), boxes, scale, module.image)
    np.testing.assert_allclose(crops.clip_boxes(located, (90, 120), module.margin), found[1].boxes, atol=1e-3)
    np.testing.assert_allclose(scores.detach().numpy(), found[1].scores, atol=1e-5)


def test_graphs_that_cannot_be(module: Any, tmp_path: Path) -> None:
    weights.save(module, tmp_path / "w.safetensors")
    weights.save(registry.load("methods", "mae")(size="tiny", image=64), tmp_path / "m.safetensors")
    cases: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("m", {}, "no step that could be exported"),
        ("w", {"objects": 0}, "at least 1"),
        ("w", {"half": True}, "leave --to and --half out"),
    )
    for source, more, message in cases:
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / f"{source}.safetensors", tmp_path / "x.pt2", **more)
    module.ce_template_range = "box"
    weights.save(module, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="ce_template_range=box"):
        convert(tmp_path / "b.safetensors", tmp_path / "x.pt2")
    assert not (tmp_path / "x.pt2").exists()


def test_onnx(module: Any, tmp_path: Path) -> None:
    weights.save(module, tmp_path / "w.safetensors")
    if not all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnxscript")):
        with pytest.raises(ValueError, match=r"dropmae\[export\]"):
            convert(tmp_path / "w.safetensors", tmp_path / "w.onnx")
        return
    assert convert(tmp_path / "w.safetensors", tmp_path / "w.onnx")["difference"] < 1e-4


def test_the_textbook_form_says_the_same() -> None:
    """The plain form against which speed is measured is the same tracker, or `measure` says so."""
    report = measure("tiny", 64, repeats=1, batch=2)
    assert list(report["steps"]) == ["textbook", "ours, auto", "ours, int8"]
    assert all(step["ratio"] > 0 and step["frames_per_s"] > 0 for step in report["steps"].values())
