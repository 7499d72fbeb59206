"""Label propagation without training: masks, parts and points carried through a video by frozen features.

The usual test of self-supervised correspondence. Every frame's tokens look for their likes in the first frame and in
the last few, and take over the labels found there (`ops.affinity`); predictions go back into the context as they are,
before any decision. `preset` names whose script is followed: what differs between them is worth several points.

    dino      eval_video_segmentation.py of DINO (arXiv 2104.14294)
    crw       test.py of videowalk, contrastive random walk (2006.14613)
    cropmae   the evaluation of CropMAE (2403.17823), and with it of SiamMAE, T-CoRe, Co-Settle
    dinov3    the notebook segmentation_tracking of DINOv3 (2508.10104)
    fitted    of ours, no script: as dino, with a model of the objects that is fitted to each video (`fitted`)

A video that is no benchmark's is followed as `fitted` has it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae.contracts import PRESET, Task, settle
from dropmae.nn import masking
from dropmae.nn.vit import Encoder, Positions
from dropmae.ops.affinity import Context, Shape, Window, propagate
from dropmae.ops.resampling import (
    Interpolation,
    Nearest,
    hard_labels,
    input_size,
    nearest_labels,
    resize_bytes,
    resize_frames,
    soft_labels,
)
from dropmae.target import Target, mask_boxes, misplaced
from dropmae.tasks.propagation import fitted, outline
from dropmae.tasks.propagation.edges import sharp
from dropmae.tasks.propagation.labels import (
    VOID,
    confidence,
    known_points,
    label_map,
    picture_size,
    point_maps,
    strongest,
)
from dropmae.tasks.propagation.presets import ELSEWHERE, PRESETS


@dataclass(eq=False)
class State:
    """What `Propagation` remembers of a video: of constant size, but for an anchor per prompt up to a limit."""

    size: tuple[int, int]
    """Height and width of the frames."""
    sides: tuple[int, int]
    """Height and width of what the network sees."""
    grid: tuple[int, int]
    """Rows and columns of its tokens."""
    masked: bool
    """Whether there are masks, and so a channel for the background, or points alone."""
    points: int
    """Number of points, whose channels come last."""
    owners: np.ndarray | None
    """The objects that points belong to."""
    keys: Tensor
    """[context, N, C]: features of the last frames, in a ring."""
    soft: Tensor
    """[context, N, K]: their labels."""
    anchors: list[tuple[Tensor, Tensor]]
    """Features [N, C] and labels [N, K] of the first frame and of prompted ones."""
    ids: list[int]
    """Objects, in the order of their channels."""
    model: fitted.Model | None = None
    """What sets the objects apart, where `Propagation.model_share` asks for it."""
    filled: int = 0
    """How many of the ring's places are in use."""
    index: int = 0
    """Number of the last frame seen, counted from the one that was started with."""


@dataclass(kw_only=True, eq=False, repr=False)
class Propagation(Task):
    """Training-free propagation of masks, part labels and points; `encoder` is any with dense `features`.

    Assign `encoder` before use: `task.encoder = dropmae.load("run").encoder`. Options that are not given are the
    preset's.
    """

    preset: Literal["dino", "crw", "cropmae", "dinov3", "fitted"] = "dino"
    """Whose script is followed; the options below that are given depart from it."""
    context: int = PRESET
    """How many of the last frames are looked at, besides the first one."""
    padding: Literal["grow", "copies"] = PRESET
    """At the start fewer frames are looked at, or copies of the first one fill their places."""
    topk: int = PRESET
    """How many of the most similar tokens of all those frames count."""
    ties: bool = PRESET
    """Whether tokens as similar as the last of them count too."""
    temperature: float = PRESET
    """Softmax temperature over their similarities."""
    radius: float = PRESET
    """How far from its own place a token looks, in tokens."""
    window: Shape = PRESET
    """What is within the radius: both offsets (square), the distance being less (circle), or no more (disk)."""
    first_windowed: bool = PRESET
    """Whether the first frame too is looked at within the radius only."""
    resize: str = PRESET
    """Size of the network's input: short480, long880, 480x880 (height x width) or native."""
    multiple: int = PRESET
    """What a side that is not given is rounded to a multiple of; 0 is the patch."""
    rounding: Literal["floor", "nearest", "ceil"] = PRESET
    """How sides are rounded."""
    interpolation: Interpolation = PRESET
    """Of frames; bicubic is antialiased, bilinear is not, and bytes is bilinear as OpenCV rounds pictures of bytes."""
    red_std: float = PRESET
    """Deviation of red by which frames are normalised (DINO's script has 0.228 for 0.229)."""
    label_resize: Literal["nearest", "bilinear"] = PRESET
    """How masks are brought down to tokens."""
    nearest: Nearest = PRESET
    """Which pixel is nearest: to the middle of the new one (Pillow) or to its upper left corner (OpenCV)."""
    upsample: Literal["bilinear", "nearest"] = PRESET
    """How soft labels are brought up to pixels."""
    decide_at: Literal["network", "frame"] = PRESET
    """Whether the label of a pixel is decided at the size of the network's input or of the frame."""
    normalize_maps: bool = PRESET
    """Whether each label's map is stretched to 0..1 before the decision."""
    point_peaks: int = PRESET
    """How many of its strongest tokens a point is the mean of."""
    grid_excess: float = PRESET
    """What is added to the grid's sides, in tokens, before the scale is computed by which positions are resized."""
    anchors: int = 4
    """Most frames with later prompts that are kept for good besides the first one."""
    positions: Literal["resized", "computed"] = "resized"
    """Sin-cos positions of another grid than the encoder was trained on: those of that grid, resized, as all these
    scripts have it, or ones computed for the grid at hand."""

    block: int = 0
    """Block of the encoder after which features are taken, from 1; 0: the last one, as all scripts have it."""
    model_share: float = PRESET
    """Share of a model that is fitted to the objects of each video (`fitted`) in the masks that are given out; what is
    carried on from frame to frame is propagation's alone. No script has it."""
    outline: bool = PRESET
    """Whether the object in a box that is given is looked for in it (`outline`), or all of the box is taken for it."""
    edges: Literal["coarse", "guided"] = "coarse"
    """Of masks: as their tokens have it, which the scripts do, or moved to where colours change (`edges`)."""

    RENAMED = {
        "labels": "label_resize",
        "stretch": "normalize_maps",
        "excess": "grid_excess",
        "joint_peaks": "point_peaks",
        "red_deviation": "red_std",
        "decide": "decide_at",
    }
    takes = ("mask", "boxes", "points", "clicks")
    gives = ("mask", "boxes", "scores", "points", "visible")
    training_free = True

    @classmethod
    def for_benchmark(cls, name: str, root: str = "", **options: Any) -> Propagation:
        """The propagation that a preset's script does on a benchmark, but for the options given; without one, ours."""
        preset = options.get("preset", "dino" if name else "fitted")
        return cls(**{**ELSEWHERE.get((preset, name), {}), "preset": preset, **options})

    def __post_init__(self) -> None:
        super().__init__()
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {self.preset!r}")
        settle(self, PRESETS[self.preset])
        if min(self.context, self.anchors, self.block) < 0 or min(self.topk, self.point_peaks) < 1:
            raise ValueError("context, anchors and block must not be negative, topk and point_peaks at least 1")
        if self.positions not in ("resized", "computed"):
            raise ValueError("positions must be resized or computed")
        if not 0 <= self.model_share <= 1:
            raise ValueError(f"model_share must be in [0, 1], not {self.model_share}")
        if self.temperature <= 0 or self.radius < 0 or not 0 <= self.grid_excess < 1:
            raise ValueError(
                "the temperature must be positive, the radius not negative and the excess from 0 to below 1"
            )
        input_size((480, 854), self.resize, 16, self.multiple, self.rounding)
        self.encoder: Any = None

    @torch.no_grad()
    def start(self, frame: np.ndarray, target: Target) -> State:
        """Takes the first frame, uint8 [H, W, 3], and what is known in it: a mask, boxes, points, or nothing yet.

        In a mask 255 (of uint8) is void and taken for background, unless `target.ids` name it. ValueError where mask
        and frame differ in size, or the mask holds ids that `target.ids` do not name.
        """
        if self.encoder is None:
            raise ValueError("propagation needs an encoder: task.encoder = dropmae.load(weights).encoder")
        if self.block and not (isinstance(self.encoder, Encoder) and self.block <= len(self.encoder.blocks)):
            kind = f"{len(self.encoder.blocks)} blocks" if isinstance(self.encoder, Encoder) else "no blocks of ours"
            raise ValueError(f"features are to be taken after block {self.block}, but the encoder has {kind}")
        target = self.understood(frame, target)
        size, patch = picture_size(frame), self.encoder.patch
        sides = input_size(size, self.resize, patch, self.multiple, self.rounding)
        features = self.features(frame, sides)
        points = 0 if target.points is None else len(target.points)
        masked = target.mask is not None or target.boxes is not None or not points
        state = State(
            size=size,
            sides=sides,
            grid=(sides[0] // patch, sides[1] // patch),
            masked=masked,
            points=points,
            owners=target.owners,
            keys=features.repeat(self.context, 1, 1),
            soft=features.new_zeros(self.context, len(features), masked + points),
            anchors=[],
            ids=[],
        )
        labels = self.corrected(state, features.new_zeros(len(features), masked + points), target)
        state.anchors.append((features, labels))
        self.fit(state, self.rows(state, features), labels, True)
        if self.padding == "copies":
            state.soft[:] = labels
            state.filled = self.context
        return state

    @torch.no_grad()
    def step(self, state: State, frame: np.ndarray, prompt: Target | None = None) -> tuple[State, dict[int, Target]]:
        """Takes the next frame; {its number: what is where in it}. The state that was passed in is used up.

        A prompt is the truth about this frame: objects (new ones too) and points that it names are as it says.
        """
        if picture_size(frame) != state.size:
            (h, w), (height, width) = picture_size(frame), state.size
            raise ValueError(f"the frame has {w}x{h} pixels, but the first one has {width}x{height}")
        prompt = None if prompt is None else self.understood(frame, prompt)
        state.index += 1
        features = self.features(frame, state.sides)
        with torch.autocast(features.device.type, enabled=False):  # the comparison of features is always in float32
            soft = propagate(
                features,
                self.contexts(state),
                state.grid,
                topk=self.topk,
                temperature=self.temperature,
                ties=self.ties,
            )
        if prompt is not None:
            soft = self.corrected(state, soft, prompt)
            state.anchors.append((features, soft))
            if len(state.anchors) > 1 + self.anchors:
                del state.anchors[1]
        rows = self.rows(state, features)
        shown = self.told_apart(state, rows, soft)
        if self.context:
            place = (state.index - 1) % self.context
            state.keys[place], state.soft[place] = features, soft
            state.filled = min(max(state.filled, place + 1), self.context)
        given = prompt is not None and (prompt.mask is not None or prompt.boxes is not None)
        if given:
            shown = soft
        self.fit(state, rows, shown, given)
        return state, {state.index: self.decided(state, frame, shown, prompt)}

    @torch.no_grad()
    def understood(self, frame: np.ndarray, prompt: Target) -> Target:
        """A prompt whose boxes, and clicks on objects, have become a mask of what they show; smaller things lie before
        larger ones."""
        boxed = self.outline and prompt.boxes is not None
        if prompt.mask is not None or not (boxed or prompt.clicks is not None):
            return prompt
        if self.encoder is None:
            raise ValueError("propagation needs an encoder: task.encoder = dropmae.load(weights).encoder")
        picture_size(frame)
        if fault := misplaced(prompt, *frame.shape[:2]):
            raise ValueError(fault)
        shown: dict[int, np.ndarray] = {}
        for row, number in enumerate(prompt.ids.tolist()):
            for places, seen in ((prompt.boxes, outline.inside), (prompt.clicks, outline.around)):
                if number not in shown and places is not None and np.isfinite(places[row]).all():
                    shown[number] = seen(frame, np.asarray(places[row], float), self.encoder.patch, self.features)
        small = max(shown, default=0) < VOID
        mask = np.zeros(frame.shape[:2], np.uint8 if small else np.int32)
        for number in sorted(shown, key=lambda number: -shown[number].sum()):
            mask[shown[number]] = number
        boxes = mask_boxes(mask, prompt.ids)[1] if prompt.boxes is None else prompt.boxes
        return dataclasses.replace(prompt, mask=mask, boxes=boxes, clicks=None)

    def rows(self, state: State, features: Tensor) -> Tensor | None:
        """What the model of the objects sees of a frame's features [N, C]; None where there is no model."""
        return fitted.seen(features, state.grid) if self.model_share and state.masked else None

    def fit(self, state: State, rows: Tensor | None, soft: Tensor, given: bool) -> None:
        """Lets the model of the objects learn from a frame with labels [N, K] that were `given` or found."""
        if rows is None or not state.ids:
            return
        own = soft[:, : 1 + len(state.ids)]
        with torch.autocast(rows.device.type, enabled=False):
            state.model = (
                fitted.begun(rows, own) if state.model is None else fitted.updated(state.model, rows, own, given)
            )

    def told_apart(self, state: State, rows: Tensor | None, soft: Tensor) -> Tensor:
        """[N, K]: propagated labels, in which those of masks are mixed with what the model says."""
        if rows is None or state.model is None:
            return soft
        with torch.autocast(rows.device.type, enabled=False):
            answer = fitted.answered(state.model, rows)
        own = soft[:, : answer.shape[1]]
        own = own / own.sum(1, keepdim=True).clamp(min=1e-6)
        return torch.cat([own.lerp(answer, self.model_share), soft[:, answer.shape[1] :]], 1)

    def features(self, frame: np.ndarray, sides: tuple[int, int]) -> Tensor:
        """Unit vectors float32 [N, C] of a frame uint8 [H, W, 3] that is resized to `sides`."""
        device = next(self.encoder.parameters()).device
        if self.interpolation == "bytes":
            frame = resize_bytes(frame, sides)
        picture = torch.from_numpy(np.ascontiguousarray(frame)).to(device).permute(2, 0, 1)[None].float() / 255
        mean = torch.tensor(masking.MEAN, device=device).view(3, 1, 1)
        deviation = torch.tensor((self.red_std, *masking.DEVIATION[1:]), device=device).view(3, 1, 1)
        picture = (resize_frames(picture, sides, self.interpolation) - mean) / deviation
        known = isinstance(getattr(self.encoder, "positions", None), Positions)  # a user's own need not have any
        places = {"resized": self.positions == "resized", "excess": self.grid_excess}
        if self.block:
            dense = self.encoder.layers(picture, (self.block,), **places)[0]
        else:
            dense = self.encoder.features(picture, **(places if known else {}))[0]
        return functional.normalize(dense.flatten(1).T.float(), dim=1)

    def contexts(self, state: State) -> list[Context]:
        """What a new frame is compared with: the first frame, prompted ones, and the last ones."""
        window = Window(self.radius, self.window)
        (keys, labels), *later = state.anchors
        found = [Context(keys[None], labels[None], window if self.first_windowed else None)]
        found += [Context(keys[None], labels[None], window) for keys, labels in later]
        if state.filled:
            found.append(Context(state.keys[: state.filled], state.soft[: state.filled], window))
        return found

    def corrected(self, state: State, soft: Tensor, target: Target) -> Tensor:
        """Soft labels [N, K] in which what `target` says takes the place of `soft` [N, K]; new objects get channels.

        Where a named object was and no longer is, what it leaves goes to the background.
        """
        where = f"frame {state.index}" if state.index else "the first frame"
        named = label_map(target, state.size, where)
        soft = soft.clone()
        if named is not None:
            ids, labels = named
            if not state.masked:
                raise ValueError(f"{where}: the video was started with points alone; start it with a mask or a box")
            soft = widened(state, soft, [number for number in ids if number not in state.ids])
            size = state.sides if self.label_resize == "bilinear" else None
            own = soft_labels(torch.from_numpy(labels), 1 + len(ids), state.grid, size, self.nearest).to(soft)
            columns = [1 + state.ids.index(number) for number in ids]
            soft[:, 1 : 1 + len(state.ids)] *= own[:, :1]
            soft[:, columns] = own[:, 1:]
            soft[:, 0] = (1 - soft[:, 1 : 1 + len(state.ids)].sum(1)).clamp(min=0)
        elif state.masked and not state.index:
            soft[:, 0] = 1
        if target.points is not None:
            if len(target.points) != state.points:
                raise ValueError(f"{where}: {len(target.points)} points, but the video was started with {state.points}")
            drawn = point_maps(target, state.size, state.grid)
            told = np.flatnonzero(drawn.any(0))
            soft[:, soft.shape[1] - state.points + torch.from_numpy(told)] = torch.from_numpy(drawn[:, told]).to(soft)
        return soft

    def decided(self, state: State, frame: np.ndarray, soft: Tensor, prompt: Target | None) -> Target:
        """The Target of a frame with soft labels [N, K]; what a prompt said about it stays as it was said."""
        target = Target(ids=np.array(state.ids, np.int64))
        if state.masked:
            own = soft[:, : 1 + len(state.ids)]
            at = state.sides if self.decide_at == "network" else state.size
            maps = own.T.unflatten(1, state.grid)
            numbers = np.array([0, *state.ids])
            if self.edges == "guided":
                hard = sharp(frame, maps)
            else:
                hard = hard_labels(maps, at, upsample=self.upsample, stretch=self.normalize_maps)
                hard = nearest_labels(hard, state.size, self.nearest)
            mask = numbers[hard.cpu().numpy()]
            named = None if prompt is None else label_map(prompt, state.size, f"frame {state.index}")
            if named is not None:
                told = np.array([0, *named[0]])[named[1]]
                mask = np.where(told > 0, told, np.where(np.isin(mask, named[0]), 0, mask))
            target.mask = mask.astype(np.uint8 if numbers.max() < VOID else np.int32)
            target.boxes = mask_boxes(target.mask, target.ids)[1]
            target.scores = confidence(own)
        if state.points:
            target.points = strongest(soft[:, -state.points :], state.grid, state.size, self.point_peaks)
            if prompt is not None and prompt.points is not None:
                told = known_points(prompt)
                target.points[told] = prompt.points[told]
            target.visible = np.asarray(np.isfinite(target.points).all(1))
            target.owners = state.owners
        return target


def widened(state: State, soft: Tensor, fresh: list[int]) -> Tensor:
    """`soft` [N, K] with a channel for each new object, which `state` gets too: zero in all that was seen before."""
    at = 1 + len(state.ids)

    def wider(labels: Tensor) -> Tensor:
        new = labels.new_zeros(*labels.shape[:-1], len(fresh))
        return torch.cat([labels[..., :at], new, labels[..., at:]], -1)

    state.anchors = [(keys, wider(labels)) for keys, labels in state.anchors]
    state.soft = wider(state.soft)
    state.ids = [*state.ids, *fresh]
    return wider(soft)
