"""Visual object tracking: DropTrack (Wu et al., CVPR 2023, arXiv 2304.00571), OSTrack with frame identities."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dropmae.contracts import PRESET, Task, settle
from dropmae.data.boxtracks import boxes_of, tracks_of
from dropmae.data.clips import Sequence
from dropmae.nn import masking
from dropmae.nn.vit import SIZES, ClipEncoder, Encoder, Size, resize_positions
from dropmae.ops import noise
from dropmae.target import Target
from dropmae.tasks._prompts import check_frame, describe, prompted_boxes
from dropmae.tasks.vot import crops, head
from dropmae.tasks.vot.encoder import (
    PRETRAINED_ROWS,
    DecidingTokens,
    OneStreamEncoder,
    TemplateRange,
    deciding_tokens,
    inside_shares,
    keep_rate,
)
from dropmae.tasks.vot.head import CentreHead, Maps
from dropmae.tasks.vot.layouts import LAYOUTS
from dropmae.tasks.vot.samples import adjusted, causal_pair, coarsened, jittered, smeared

TRIES = 20
"""Crops tried for one training sample before another video is taken."""
ZOOMS = (0.85, 1.0, 1.18)
"""Scales of the box around which an object is looked for in its first frame, see `VOT.first_frame_bias`."""
WORST = np.array([0.5, 0.5, 0.7, 0.7])
"""Largest error of each kind that is made up for, see `State.errors`."""
COARSEST = 4.0
"""Most by which the sides of a crop shrink and grow again, see `VOT.downsample_prob`."""
LONGEST = 0.1
"""Longest line along which a crop is blurred, as a share of its side, see `VOT.motion_blur_prob`."""
LARGE = 320
"""Side of a search crop from which on the official 384-pixel settings are the default, below it the 256-pixel ones."""
LARGE_CROPS = {"search_factor": 5.0, "centre_jitter": 4.5, "scale_jitter": 0.5}
SMALL_CROPS = {"search_factor": 4.0, "centre_jitter": 3.0, "scale_jitter": 0.25}


@dataclass(kw_only=True, frozen=True, eq=False)
class State:
    """Where N objects are, and what they looked like at first; nothing in it grows with time."""

    index: int
    """The frame it belongs to, counted from the one that tracking started with."""
    size: tuple[int, int]
    """Height and width of that frame."""
    ids: np.ndarray
    """int64 [N]"""
    boxes: np.ndarray
    """float64 [N, 4]: x y w h, where each object was last believed to be."""
    scores: np.ndarray
    """float64 [N]: the confidence in that."""
    lost: np.ndarray
    """bool [N]: whether the confidence is below `lost_below`."""
    template: Tensor
    """[N, M, C]: the template tokens, embedded once."""
    weights: Tensor
    """float32 [N, R]: which of them candidate elimination goes by."""
    errors: np.ndarray
    """float64 [N, 4]: how far what is found of each object lies from its box: of the centre, in sides of the box that
    was searched around, and of the log of both sides. 0 but for `VOT.first_frame_bias`."""


@dataclass(kw_only=True, eq=False, repr=False)
class VOT(Task):
    """Follows boxes: a template of each object and a search region around its last place go through one ViT together.

    `image` 384 and 256 have the official settings; smaller ones are for CPUs.
    """

    RENAMED = {
        "eliminate": "ce_layers",
        "keep": "ce_keep_ratio",
        "look": "ce_template_range",
        "keep_start": "ce_start",
        "keep_warm": "ce_warmup",
        "inertia": "size_smoothing",
        "calibrate": "first_frame_bias",
        "coarse": "downsample_prob",
        "smear": "motion_blur_prob",
        "relics": "keep_unused",
    }
    takes = ("boxes", "mask")
    gives = ("boxes", "scores")
    layouts = LAYOUTS
    use = ("window", "size_smoothing", "first_frame_bias", "margin", "lost_below", "doubtful_below", "search_factor")
    unused_official_tensors = ("encoder.relic_token", "encoder.relic_positions")

    # Model
    size: Size = "base"
    """Width, depth and heads of the encoder."""
    image: int = 384
    """Side of the search crop in pixels, a multiple of the patch."""
    template: int = 0
    """Side of the template crop in pixels; 0 is half the search crop's."""
    patch: int = 0
    """Side of a patch in pixels; 0 takes that of the size (16, for huge 14)."""
    search_factor: float = PRESET
    """Side of the search region in units of the square root of the box's area; 5 from 320 pixels on, else 4."""
    template_factor: float = 2.0
    """The same of the template's region."""
    identity: bool = True
    """Whether frame identity embeddings are added, as in DropTrack; OSTrack has none."""
    ce_layers: tuple[int, ...] = (3, 6, 9)
    """Candidate elimination: blocks, from 0, that drop search tokens to which the template does not attend."""
    ce_keep_ratio: float = 0.7
    """Share of the search tokens that is kept at each of them; 1 drops none."""
    ce_template_range: TemplateRange = "point"
    """Template tokens whose attention decides which search tokens are kept (OSTrack, section 3.2): the middle one, the
    middle four, all, or those in the object's box."""
    head_width: int = 0
    """Channels of the head's first layer; 0 is a third of the encoder's width, at most 256."""
    # Tracking
    window: bool = True
    """Weigh the score map with a Hann window, so that small movements are preferred."""
    size_smoothing: float = 0.0
    """Share of an object's last width and height in its new ones, against boxes that flicker; the official code has
    none."""
    first_frame_bias: bool = False
    """Run the tracker once on the frame in which an object is given, compare its box with the given one, and subtract
    that offset and scale from later predictions. The official code has nothing like it."""
    margin: int = 10
    """Pixels: least side of a box, and how much of one stays within the frame."""
    lost_below: float = 0.0
    """Confidence below which an object counts as lost: no box is reported, and the search goes on where it was last
    seen. 0 always reports the best guess, which is what benchmarks expect."""
    doubtful_below: float | None = 0.45
    """Confidence below which a box is doubtful: `track` counts such frames and draws the box dashed. Of the shipped
    tracker's frames on ten objects of DAVIS, 5 % of the good ones and 59 % of the lost ones are below 0.45."""
    # Training samples
    gap: int = 200
    """Training: frames that the search frame may lie after the template, exclusive."""
    centre_jitter: float = PRESET
    """Training: width of the uniform shift of the search crop, in square roots of the area; 4.5 from 320 pixels on,
    else 3."""
    scale_jitter: float = PRESET
    """Training: deviation of the log of the search crop's scaling, per side; 0.5 from 320 pixels on, else 0.25."""
    augment: Literal["separate", "joint"] = "separate"
    """Training: whether template and search crop are flipped independently, or both or none."""
    flip: float = 0.5
    """Training: probability of a horizontal flip."""
    gray: float = 0.05
    """Training: probability that both crops lose their colours."""
    brightness: float = 0.2
    """Training: each crop's brightness is scaled by 1 +- up to this."""
    downsample_prob: float = 0.0
    """Training: probability that both crops lose detail, down to a quarter of their pixels along each side: what small
    objects in small pictures look like. Not in the paper, as `motion_blur_prob`."""
    motion_blur_prob: float = 0.0
    """Training: probability that the search crop is blurred along a line, as fast things are: up to a tenth of its
    side."""
    # Optimisation
    drop_path: float = 0.1
    """Training: probability that the last block leaves a sample as it is; less in earlier ones, linearly."""
    encoder_rate: float = 0.1
    """Training: learning rate of the encoder as a share of the head's."""
    ce_start: float = 0.2
    """Training: progress at which elimination begins (the official 20 of 100 epochs)."""
    ce_warmup: float = 0.5
    """Training: share of the run over which it grows to its full rate (50 of 100 epochs)."""
    # Loss
    giou_weight: float = 2.0
    """Weight of the generalised-IoU loss."""
    l1_weight: float = 5.0
    """Weight of the L1 loss of the corners."""
    focal_weight: float = 1.0
    """Weight of the focal loss of the score map."""
    # Model
    keep_unused: bool = False
    """Carry the class token and first position table that official files hold and nothing uses, so that `convert` can
    give the whole file back."""

    def __post_init__(self) -> None:
        super().__init__()
        if self.size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, not {self.size!r}")
        shape = SIZES[self.size]
        self.patch = self.patch or shape.patch
        self.preset()
        self.head_width = self.head_width or min(256, shape.width // 3)
        self.ce_layers = tuple(int(block) for block in self.ce_layers)
        self.check(shape.depth)
        self.encoder = OneStreamEncoder(
            shape.width,
            shape.depth,
            shape.heads,
            self.patch,
            search_grid=self.grid,
            template_grid=self.template_grid,
            identity=self.identity,
            keep_unused=self.keep_unused,
        )
        self.head = CentreHead(shape.width, self.head_width)

    def preset(self) -> None:
        """Settles the fields that follow from `image`."""
        self.template = self.template or self.image // 2
        settle(self, LARGE_CROPS if self.image >= LARGE else SMALL_CROPS)
        for name in ("image", "template"):
            side = getattr(self, name)
            if side < self.patch or side % self.patch:
                raise ValueError(f"{name} must be a multiple of the {self.patch}-pixel patch, not {side}")
        self.grid = (self.image // self.patch,) * 2
        self.template_grid = (self.template // self.patch,) * 2

    def check(self, depth: int) -> None:
        """ValueError for a field that makes no sense."""
        if any(not 0 <= block < depth for block in self.ce_layers):
            raise ValueError(f"ce_layers names blocks 0 to {depth - 1}, not {self.ce_layers}")
        if not 0 < self.ce_keep_ratio <= 1:
            raise ValueError(f"ce_keep_ratio is a share in (0, 1], not {self.ce_keep_ratio}")
        for name in ("search_factor", "template_factor", "gap", "ce_warmup", "encoder_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("centre_jitter", "scale_jitter", "brightness", "margin", "ce_start"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        for name in ("flip", "gray", "downsample_prob", "motion_blur_prob", "lost_below", "size_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1), not {self.drop_path}")

    # ---------------------------------------------------------------- the network

    def respond(self, template: Tensor, weights: Tensor, search: Tensor, keep: float, drop: Tensor | None) -> Maps:
        """The head's maps for template tokens [B, M, C] and search crops [B, 3, S, S], uint8 or normalised.

        `weights` [B, R] as in `State`; `keep` and `drop` as in `OneStreamEncoder.joint`.
        """
        grid = masking.grid_of(search, self.patch)
        deciding = DecidingTokens(self.rows(template.device), weights)
        tokens = self.encoder.tokens(search, 0)
        blocks = self.ce_layers
        found = self.encoder.joint(template, tokens, grid, stages=blocks, keep=keep, deciding=deciding, drop=drop)
        return self.head(found.search)

    def rows(self, device: torch.device) -> Tensor:
        """int64 [R]: the template tokens that may decide on elimination."""
        return torch.tensor(deciding_tokens(self.ce_template_range, self.template_grid), device=device)

    def token_weights(self, boxes: Tensor) -> Tensor:
        """float32 [B, R]: how much each of them counts, given the object's box x y w h [B, 4] in the template."""
        if self.ce_template_range == "box":
            return inside_shares(boxes, self.template, self.template_grid)
        count = len(deciding_tokens(self.ce_template_range, self.template_grid))
        return torch.full((len(boxes), count), 1 / count, device=boxes.device)

    # ---------------------------------------------------------------- training

    def sample(self, sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
        """A training pair of one object: `template` uint8 [3, Z, Z] and `search` uint8 [3, S, S] crops.

        `box` and `inner` float32 [4] are the object's box x y w h in search crop and template, in shares of their
        sides. OSError where the sequence has no boxes, or none that a crop can be made around.
        """
        tracks = tracks_of(sequence.targets)
        if not tracks:
            raise OSError("no box is known in any frame")
        frames, boxes = tracks[list(tracks)[int(rng.integers(len(tracks)))]]
        first, second = causal_pair(frames, self.gap, rng)
        pictures = sequence.video[[int(frames[first]), int(frames[second])]]
        if rng.random() < self.gray:
            pictures = (pictures @ np.array([0.299, 0.587, 0.114]) + 0.5).astype(np.uint8)[..., None].repeat(3, -1)
        flips = rng.random(2) < self.flip
        if self.augment == "joint":
            flips[1] = flips[0]
        gains = 1 + self.brightness * rng.uniform(-1, 1, 2)
        sides = [(self.template, self.template_factor), (self.image, self.search_factor)]
        made = []
        for row, (out, factor) in zip((first, second), sides):
            for _ in range(TRIES):
                jitter = (self.centre_jitter, self.scale_jitter) if made else (0.0, 0.0)
                around = jittered(boxes[row], *jitter, rng)
                place = crops.region(around, factor)
                if crops.shown(place, pictures.shape[1:3]):
                    break
            else:
                raise OSError(f"frame {frames[row]}: no crop around {describe(boxes[row])} shows anything")
            inside = crops.into_crop(boxes[row], around, out / place.side, out)
            made.append((crops.cut(pictures[len(made)], place, out), inside))
        if self.downsample_prob and rng.random() < self.downsample_prob:
            factor = COARSEST ** rng.random()
            made = [(coarsened(crop, factor), inside) for crop, inside in made]
        if self.motion_blur_prob and rng.random() < self.motion_blur_prob:
            made[1] = smeared(made[1][0], LONGEST * rng.random(), 2 * math.pi * rng.random()), made[1][1]
        (template, inner), (search, box) = (
            adjusted(crop, inside, bool(flip), float(gain)) for (crop, inside), flip, gain in zip(made, flips, gains)
        )
        return {"template": template, "search": search, "box": box, "inner": inner}

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """{"loss", "giou", "l1", "focal", "iou"} of a batch as `sample` makes them, with index, seed and progress."""
        template = self.encoder.tokens(batch["template"], 1)
        rate = keep_rate(batch["progress"], self.ce_start, self.ce_warmup, self.ce_keep_ratio)
        drop = self.drops(noise.keys(batch["seed"], batch["index"])) if self.training and self.drop_path else None
        maps = self.respond(template, self.token_weights(batch["inner"]), batch["search"], rate, drop)
        parts = head.box_losses(maps, batch["box"])
        boxes = self.giou_weight * parts["giou"] + self.l1_weight * parts["l1"]
        return {"loss": boxes + self.focal_weight * parts["focal"], **parts}

    def drops(self, key: Tensor) -> Tensor:
        """float32 [depth, 2, B]: drop path's factor for what each block's attention and MLP add, from keys [B]."""
        depth = len(self.encoder.blocks)
        rates = self.drop_path * torch.arange(depth, device=key.device) / max(depth - 1, 1)
        chance = noise.uniform(noise.fold(key, noise.DROP_PATH), 2 * depth).T.unflatten(0, (depth, 2))
        return (chance >= rates[:, None, None]) / (1 - rates[:, None, None])

    def probe(self, batch: dict[str, Any]) -> dict[str, float]:
        """Losses and mean overlap on a batch as `forward` takes it."""
        return {name: float(value) for name, value in self(batch).items()}

    def groups(self, options: Any) -> list[dict[str, Any]]:
        """The encoder learns at `encoder_rate` times the head's rate; everything decays, as in the official code."""
        names = [name for name, parameter in self.named_parameters() if parameter.requires_grad]
        encoder = [name for name in names if name.startswith("encoder.")]
        rest = [name for name in names if not name.startswith("encoder.")]
        return [{"names": encoder, "lr": self.encoder_rate, "decay": 1.0}, {"names": rest, "lr": 1.0, "decay": 1.0}]

    # ---------------------------------------------------------------- tracking

    def start(self, frame: np.ndarray, target: Target) -> State:
        """A state that follows the objects of `target`, by their boxes or masks, from `frame` uint8 [H, W, 3] on.

        Puts the module into evaluation mode. ValueError where there is no box, or one that has no area or lies outside
        the frame.
        """
        self.eval()
        nothing = State(
            index=0,
            size=check_frame(frame),
            ids=np.zeros(0, np.int64),
            boxes=np.zeros((0, 4)),
            scores=np.zeros(0),
            lost=np.zeros(0, bool),
            template=torch.zeros(0),
            weights=torch.zeros(0),
            errors=np.zeros((0, 4)),
        )
        state = self.renew(nothing, frame, target)
        if not len(state.ids):
            raise ValueError("there is nothing to follow: the target has neither a box nor a mask")
        return state

    @torch.no_grad()
    def renew(self, state: State, frame: np.ndarray, target: Target) -> State:
        """`state` with the objects of `target` seen anew in `frame`: known ids start over, others are added."""
        ids, boxes = prompted_boxes(target, frame)
        if not len(ids):
            return state
        places = [crops.region(box, self.template_factor) for box in boxes]
        inner = [crops.into_crop(b, b, self.template / p.side, self.template) for b, p in zip(boxes, places)]
        template = self.encoder.tokens(self.cut_crops(frame, places, self.template), 1)
        weights = self.token_weights(torch.tensor(np.stack(inner), dtype=torch.float32, device=template.device))
        errors = np.zeros((len(ids), 4))
        if self.first_frame_bias:
            errors = self.first_frame_errors(template, weights, frame, boxes)
        old = ~np.isin(state.ids, ids)
        stay = torch.from_numpy(np.flatnonzero(old))
        kept = len(stay) > 0
        return dataclasses.replace(
            state,
            ids=np.concatenate([state.ids[old], ids]),
            boxes=np.concatenate([state.boxes[old], boxes]),
            scores=np.concatenate([state.scores[old], np.ones(len(ids))]),
            lost=np.concatenate([state.lost[old], np.zeros(len(ids), bool)]),
            errors=np.concatenate([state.errors[old], errors]),
            template=torch.cat([state.template[stay.to(template.device)], template]) if kept else template,
            weights=torch.cat([state.weights[stay.to(template.device)], weights]) if kept else weights,
        )

    @torch.no_grad()
    def step(self, state: State, frame: np.ndarray, prompt: Target | None = None) -> tuple[State, dict[int, Target]]:
        """The next state, and {frame index: boxes and scores of all objects} for the next frame uint8 [H, W, 3].

        Objects of a `prompt` are where it says and are followed from there on. All objects go through the network as
        one batch. A frame of another size is taken to show the same view at another scale.
        """
        height, width = check_frame(frame)
        boxes, scores, lost = state.boxes, state.scores, state.lost
        if state.size != (height, width):
            boxes = boxes * np.tile([width / state.size[1], height / state.size[0]], 2)
        prompted = np.isin(state.ids, boxes_of(prompt)[0]) if prompt is not None else np.zeros(len(state.ids), bool)
        rows = np.flatnonzero(~prompted)
        if len(rows):
            found, confidence = self.search(state, frame, boxes, rows)
            gone = confidence < self.lost_below
            boxes, scores, lost = boxes.copy(), scores.copy(), lost.copy()
            boxes[rows] = np.where(gone[:, None], boxes[rows], found)
            scores[rows], lost[rows] = confidence, gone
        state = dataclasses.replace(
            state, index=state.index + 1, size=(height, width), boxes=boxes, scores=scores, lost=lost
        )
        if prompt is not None:
            state = self.renew(state, frame, prompt)
        reported = np.where(state.lost[:, None], np.nan, state.boxes)
        return state, {state.index: Target(ids=state.ids, boxes=reported, scores=state.scores)}

    def search(
        self, state: State, frame: np.ndarray, boxes: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [n, 4] and confidences [n] in `frame` of the objects in `rows` [n], which were last at `boxes`."""
        chosen = torch.from_numpy(rows).to(state.template.device)
        located, confidence = self.locate(state.template[chosen], state.weights[chosen], frame, boxes[rows])
        centre = located[:, :2] + located[:, 2:] / 2 - state.errors[rows, :2] * boxes[rows, 2:]
        size = located[:, 2:] * np.exp(-state.errors[rows, 2:])
        size = self.size_smoothing * boxes[rows, 2:] + (1 - self.size_smoothing) * size
        located = np.concatenate([centre - size / 2, size], 1)
        return crops.clip_boxes(located, (frame.shape[0], frame.shape[1]), self.margin), confidence

    def locate(
        self, template: Tensor, weights: Tensor, frame: np.ndarray, boxes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [n, 4] and confidences [n] as the network has them, from crops around `boxes` [n, 4]."""
        places = [crops.region(box, self.search_factor) for box in boxes]
        pictures = self.cut_crops(frame, places, self.image)
        maps = self.respond(template, weights, pictures, self.ce_keep_ratio, None)
        response = maps.score * head.hann(self.grid[0]).to(pictures.device) if self.window else None
        found, confidence = head.decode(maps, response)
        scale = self.image / np.array([place.side for place in places], np.float64)
        located = crops.from_crop(found.cpu().numpy().astype(np.float64), boxes, scale, self.image)
        return located, confidence.cpu().numpy()

    def first_frame_errors(self, template: Tensor, weights: Tensor, frame: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """float64 [n, 4]: `State.errors` of the objects at `boxes` [n, 4] of this frame, means over ZOOMS."""
        found = []
        for zoom in ZOOMS:
            size = zoom * boxes[:, 2:]
            around = np.concatenate([boxes[:, :2] + (boxes[:, 2:] - size) / 2, size], 1)
            located = self.locate(template, weights, frame, around)[0]
            away = located[:, :2] + located[:, 2:] / 2 - boxes[:, :2] - boxes[:, 2:] / 2
            found.append(np.concatenate([away / boxes[:, 2:], np.log(located[:, 2:] / boxes[:, 2:])], 1))
        return np.clip(np.mean(found, 0), -WORST, WORST)

    def cut_crops(self, frame: np.ndarray, places: list[crops.Region], out: int) -> Tensor:
        """uint8 [N, 3, out, out]: regions of a frame, on the module's device."""
        cuts = np.stack([crops.cut(frame, place, out) for place in places])
        return torch.from_numpy(cuts).permute(0, 3, 1, 2).to(self.encoder.norm.weight.device)

    # ---------------------------------------------------------------- weights from elsewhere

    def resize_image(self, image: int | tuple[int, int]) -> None:
        """Changes the search crop to `image` pixels, and what follows from that to the defaults of that size.

        The position tables are resized by bicubic interpolation, as OSTrack and DropTrack take up pre-trained ones.
        """
        if not isinstance(image, int):
            if image[0] != image[1]:
                raise ValueError(f"a tracker's crops are square, not {image[0]}x{image[1]}")
            image = image[0]
        old = {"positions": self.grid, "template_positions": self.template_grid}
        self.image, self.template = image, 0
        self.search_factor = self.centre_jitter = self.scale_jitter = PRESET
        self.preset()
        for name, grid in (("positions", self.grid), ("template_positions", self.template_grid)):
            part = getattr(self.encoder, name)
            part.table = nn.Parameter(resize_positions(part.table.detach(), old[name], grid).contiguous())
            part.learned_grid = grid

    def export_step(self, out: Path, objects: int) -> dict[str, Any]:
        from dropmae.tasks.vot.export import export  # needs it, and it this

        return export(self, out, objects)

    def export_folder(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        from dropmae.tasks.vot.embed import embed  # with the packages of an extra

        return embed(self, {"zooms": ZOOMS, "worst": WORST})

    @torch.no_grad()
    def adopt(self, encoder: Encoder, grid: tuple[int, int]) -> set[str]:
        """Takes over what a pre-trained encoder has in another form; the names so filled.

        Its positions on the `grid` of its pictures are resized to both tables, as the official code does. Where it
        knows no frame identities, they begin at zero: that is OSTrack.
        """
        places = encoder.positions(grid, self.encoder.norm.weight.device).float()
        if isinstance(encoder, ClipEncoder):
            places = encoder.places(grid, encoder.tubelet)  # in the first slot of time
        own: Any = self.encoder
        for part, size in ((own.positions, self.grid), (own.template_positions, self.template_grid)):
            part.table.copy_(resize_positions(places, grid, size))
        if encoder.frame_embed is None and own.frame_embed is not None:
            own.frame_embed.x.zero_()
            own.frame_embed.z.zero_()
        return {"encoder.positions.table", "encoder.template_positions.table"}

    @classmethod
    def fields_of(cls, shapes: Mapping[str, tuple[int, ...]], patch: int) -> dict[str, Any]:
        """The fields of a tracker whose tensors have these names and shapes; ValueError where they make no tracker."""
        sides = {}
        for field, name in (("image", "positions"), ("template", "template_positions")):
            shape = shapes.get(f"encoder.{name}.table", (0, 0, 0))
            side = math.isqrt(shape[1])
            if not side or side * side != shape[1]:
                raise ValueError(f"the position table of the {field} has {shape[1]} rows, which is no square")
            sides[field] = side * patch
        head = shapes.get("head.score.0.0.weight")
        unused = [shapes.get(name, (0, 0, 0))[1] for name in cls.unused_official_tensors] == [1, PRETRAINED_ROWS]
        fields = {**sides, "identity": "encoder.frame_embed.x" in shapes, "keep_unused": unused}
        return fields if head is None else {**fields, "head_width": head[0]}

    def official_state(self, identity: bool) -> dict[str, Tensor]:
        """Tensors by our names, such that an official file with or without frame identities computes the same.

        Without, the embeddings are folded into the position tables; with, a tracker that has none gets zeros. What
        official code demands and never uses is made up where it is not there.
        """
        state = {name: tensor.detach().cpu() for name, tensor in self.state_dict().items()}
        width = self.encoder.width
        for frame, table in (("x", "positions"), ("z", "template_positions")):
            own = state.pop(f"encoder.frame_embed.{frame}", torch.zeros(1, 1, width))
            if identity:
                state[f"encoder.frame_embed.{frame}"] = own
            else:
                state[f"encoder.{table}.table"] = state[f"encoder.{table}.table"] + own
        side = math.isqrt(PRETRAINED_ROWS)
        rows = resize_positions(state["encoder.positions.table"], self.grid, (side, side))
        state.setdefault("encoder.relic_token", torch.zeros(1, 1, width))
        state.setdefault("encoder.relic_positions", torch.cat([torch.zeros(1, 1, width), rows], 1))
        return state
