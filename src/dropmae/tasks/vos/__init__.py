"""Video object segmentation: DropSeg (Wu et al., CVPR 2023, arXiv 2304.00571), masks carried on by a plain ViT.

The preset `dropseg` is the published model: the first frame with its mask is the only memory, every object goes through
encoder and decoder by itself (here as rows of one batch), and a soft aggregation lets them compete for pixels. Beyond
it: later frames as memory, objects that appear later, corrected masks, frames of any size within a bound on memory.

B samples, K objects, M memory frames, N tokens of a frame, C width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dropmae.contracts import PRESET, Task, settle
from dropmae.data.clips import Sequence
from dropmae.nn import masking
from dropmae.nn.groups import decay_groups
from dropmae.nn.vit import SIZES, Encoder, Size, drop_path, resize_positions
from dropmae.ops import noise
from dropmae.target import Target, mask_boxes
from dropmae.tasks.vos.frames import Canvas, canvas, decide, prompt_labels
from dropmae.tasks.vos.layouts import LAYOUTS
from dropmae.tasks.vos.memory import MemoryEncoder, sincos
from dropmae.tasks.vos.pyramid import MaskDecoder, aggregate, bootstrap_share, bootstrapped
from dropmae.tasks.vos.samples import Changes, mask_sample

PRESETS: dict[str, dict[str, Any]] = {
    "dropseg": dict(size="base", image=384, memory=1, later_embedding=False, short_side=0, max_tokens=0),
    "light": dict(size="tiny", image=192, memory=2, later_embedding=True, short_side=224, max_tokens=8192),
}
"""The published model, and one for CPUs."""
PRETRAINED = 224
"""Side in pixels of the pictures of the pre-training whose positions a new model stretches."""
RATE = 30.0
"""Frames per second in which `gap` counts."""
CLASSES = 1000
"""Of the classifier that official files hold and nothing uses."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectMemory:
    """What is remembered of one object: memory tokens [N, C] of a few frames, with places and marks."""

    object_id: int
    first: Tensor
    """The frame in which it was last pointed out."""
    since: int
    """Number of that frame."""
    later: tuple[Tensor, ...] = ()
    """Frames since then, the oldest first."""
    previous: Tensor | None = None
    """The last frame seen."""

    @property
    def frames(self) -> tuple[Tensor, ...]:
        """All of them, each once."""
        last = self.previous
        return (self.first, *self.later, *(() if last is None or any(last is one for one in self.later) else (last,)))


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What is known after a frame; its size does not grow with time."""

    canvas: Canvas
    """How the video's frames are brought to the network."""
    objects: tuple[ObjectMemory, ...] = ()
    index: int = 0
    """Number of the last frame, counted from the one that was started with."""


@dataclass(kw_only=True, eq=False, repr=False)
class VOS(Task):
    """Carries masks through a video: memory frames with a mask and the next frame go through one ViT together.

    An option that is not given is the preset's.
    """

    RENAMED = {
        "tell_later": "later_embedding",
        "every": "memory_interval",
        "limit": "max_tokens",
        "turn": "rotation",
        "hard_from": "bootstrap_progress",
        "hard_share": "bootstrap_share",
    }
    takes = ("mask", "boxes")
    gives = ("mask", "boxes", "scores")
    layouts = LAYOUTS

    # Model
    preset: Literal["dropseg", "light"] = "dropseg"
    """The published model, or a light one for CPUs: tiny, small pictures, with the previous frame as memory too."""
    size: Size = PRESET
    """Width, depth and heads of the encoder; the decoder's widths follow."""
    image: int | tuple[int, int] = PRESET
    """Side of the training pictures in pixels, or their height and width: multiples of the patch."""
    patch: int = 0
    """Side of a patch in pixels; 0 takes that of the size (16, for huge 14)."""
    positions: int | tuple[int, int] = PRESET
    """Side in patches, or height and width, of the stored position table, which is stretched from the pre-training's
    and to each video's grid: by default that of the training pictures; 0 computes sin-cos positions for each grid."""
    memory: int = PRESET
    """Memory frames at most, in training and use: the first one; then the previous one; then later ones."""
    later_embedding: bool = PRESET
    """Whether memory frames after the first carry an embedding of their own."""
    memory_interval: int = 5
    """Which later frames are remembered where `memory` is 3 or more: every so many, the last ones."""
    short_side: int = PRESET
    """Frames whose shorter side has more pixels are scaled down to it in use: objects should be about as large as in
    training. 0 leaves them as they are."""
    max_tokens: int = PRESET
    """Most tokens of one pass in use, a bound on memory: more objects take turns, larger frames are scaled down. 0:
    all objects at once."""
    # Training samples
    objects: int = 2
    """Training: most objects of a sample. In use there may be any number."""
    gap: int = 24
    """Training: most frames from the first to the asked frame, at 30 frames per second."""
    reverse: float = 0.5
    """Training: probability that time runs backwards."""
    scale: tuple[float, float] = (0.36, 1.0)
    """Training: area of the random crop as a share of the frame: least and most."""
    flip: float = 0.5
    """Training: probability of a horizontal flip."""
    rotation: float = 15.0
    """Training: greatest rotation of each frame in degrees."""
    shear: float = 10.0
    """Training: greatest shear of each frame in degrees."""
    # Optimisation
    drop_path: float = 0.1
    """Training: probability that the last block leaves a row as it is; less in earlier ones, linearly."""
    # Loss
    bootstrap_progress: tuple[float, float] = (20 / 210, 70 / 210)
    """Training: progress at which only the hardest pixels begin to count, and at which `bootstrap_share` is reached."""
    bootstrap_share: float = 0.15
    """Training: share of the pixels that count in the end, those with the greatest loss."""
    # Optimisation
    encoder_rate: float = 1.0
    """Training: learning rate of the encoder relative to the decoder's."""

    def __post_init__(self) -> None:
        super().__init__()
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {self.preset!r}")
        settle(self, PRESETS[self.preset])
        if self.size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, not {self.size!r}")
        shape = SIZES[self.size]
        self.patch = self.patch or shape.patch
        height, width = (self.image, self.image) if isinstance(self.image, int) else self.image
        if min(height, width) <= 0 or height % self.patch or width % self.patch:
            raise ValueError(f"image {height}x{width} is not a multiple of the {self.patch}-pixel patch")
        self.sides, self.grid = (height, width), (height // self.patch, width // self.patch)
        settle(self, {"positions": self.grid[0] if height == width else self.grid})
        self.check()
        table = (self.positions, self.positions) if isinstance(self.positions, int) else self.positions
        self.encoder = MemoryEncoder(
            shape.width,
            shape.depth,
            shape.heads,
            self.patch,
            table=(table[0], table[1]) if all(table) else None,
            later=self.later_embedding,
        )
        side = max(1, PRETRAINED // self.patch)
        self.encoder.stretch(sincos((side, side), shape.width), (side, side))
        self.decoder = MaskDecoder(shape.width)

    def check(self) -> None:
        """ValueError for a field that makes no sense."""
        for name in ("memory", "memory_interval", "objects", "gap"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.short_side < 0 or 0 < self.short_side < self.patch:
            raise ValueError(f"short_side must be 0 or at least a patch of {self.patch} pixels, not {self.short_side}")
        if self.max_tokens and self.max_tokens < 4 * (self.memory + 1):
            raise ValueError(
                f"max_tokens must be 0 or leave room for a few tokens of each frame, not {self.max_tokens}"
            )
        for name in ("reverse", "flip", "bootstrap_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"the crop scale must be 0 < least <= most <= 1, not {self.scale}")
        if not (0 <= self.rotation <= 180 and 0 <= self.shear < 90):
            raise ValueError(f"rotation and shear are degrees, not {self.rotation} and {self.shear}")
        if not 0 <= self.bootstrap_progress[0] < self.bootstrap_progress[1]:
            raise ValueError(f"bootstrap_progress must be 0 <= begin < end, not {self.bootstrap_progress}")
        if not 0 <= self.drop_path < 1 or not self.encoder_rate > 0:
            raise ValueError(f"drop_path {self.drop_path} must be in [0, 1), encoder_rate {self.encoder_rate} positive")

    # ---------------------------------------------------------------- training

    def sample(self, sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
        """A training sample, the fields of `MaskSample`: memory frames with masks of up to K objects, and an asked one.

        OSError for a sequence without masks, or whose masks do not fit its frames.
        """
        changes = Changes(self.sides, self.scale, self.flip, self.rotation, self.shear)
        reach = max(1, int(self.gap * sequence.video.fps / RATE))
        made = mask_sample(
            sequence,
            changes,
            memory=self.memory,
            objects=self.objects,
            reach=reach,
            reverse=self.reverse,
            rng=rng,
        )
        return made._asdict()

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """{"loss"}: bootstrapped cross-entropy of a batch as `sample` makes them, with `index`, `seed`, `progress`."""
        logits = self.predict(batch)
        share = bootstrap_share(batch["progress"], *self.bootstrap_progress, self.bootstrap_share)
        loss = functional.cross_entropy(logits, batch["label"].long(), reduction="none")
        return {"loss": bootstrapped(loss, share).mean()}

    def predict(self, batch: dict[str, Any]) -> Tensor:
        """Logits [B, 1 + K, H, W] of background and objects in the asked frames; -inf for objects not present."""
        grid = masking.grid_of(batch["frames"], self.patch)
        tokens = self.encoder.embed_frames(batch["frames"])
        places = [self.encoder.place(grid, True, number > 0) for number in range(tokens.shape[1] - 1)]
        memory = tokens[:, :-1] + torch.stack(places, 1)
        query = tokens[:, -1] + self.encoder.place(grid, False)
        sample, slot = batch["present"].nonzero(as_tuple=True)
        memory = memory[sample] + self.encoder.mask_tokens(batch["masks"][sample, :, slot])
        drop = None
        if self.training and self.drop_path:
            key = noise.fold(noise.keys(batch["seed"], batch["index"])[sample], slot)
            drop = drop_path(key, len(self.encoder.blocks), self.drop_path)
        features = self.encoder.read_memory(memory.flatten(1, 2), query[sample], grid, drop)
        sides = batch["frames"].shape[-2:]
        found = torch.sigmoid(self.decoder(features, (sides[0], sides[1])))
        absent = ~batch["present"]
        probability = found.new_zeros(*absent.shape, *sides).index_put((sample, slot), found)
        logits = aggregate(probability)
        return logits.masked_fill(functional.pad(absent, (1, 0))[..., None, None], -torch.inf)

    @torch.no_grad()
    def probe(self, batch: dict[str, Any]) -> dict[str, float]:
        """Plain cross-entropy of a batch as `forward` takes it, and J, the mean overlap of the objects present."""
        logits = self.predict(batch)
        label, found = batch["label"].long(), logits.argmax(1)
        numbers = torch.arange(1, logits.shape[1], device=label.device).view(1, -1, 1, 1)
        ours, truth = found[:, None] == numbers, label[:, None] == numbers  # [B, K, H, W]
        shared, either = ((ours & truth).sum((2, 3)), (ours | truth).sum((2, 3)))
        overlap = torch.where(either > 0, shared / either.clamp(min=1), 1.0)[batch["present"]]
        return {"loss": float(functional.cross_entropy(logits, label)), "J": float(overlap.mean())}

    def groups(self, options: Any) -> list[dict[str, Any]]:
        """Vectors and biases do not decay; the encoder learns at its own rate where `encoder_rate` says so."""
        made = []
        for group in decay_groups(self):
            for lr, inside in ((self.encoder_rate, True), (1.0, False)):
                names = [name for name in group["names"] if name.startswith("encoder.") == inside]
                made.append({"names": names, "lr": lr, "decay": group["decay"]})
        return made

    # ---------------------------------------------------------------- use

    @torch.no_grad()
    def start(self, frame: np.ndarray, target: Target) -> State:
        """A state that follows the objects of `target` from `frame`, uint8 [H, W, 3], on; there may be none yet.

        Objects are given by a label map with any ids, or by boxes: a box is taken for a mask, which the model then
        refines within it. Puts the module into evaluation mode. ValueError where mask and frame differ in size.
        """
        self.eval()
        size = (frame.shape[0], frame.shape[1])
        place = canvas(size, self.patch, self.max_tokens // (self.memory + 1), self.short_side)
        state = State(canvas=place)
        return self.add_objects(state, self.embed_frame(state, frame), target, "the first frame")[0]

    @torch.no_grad()
    def step(self, state: State, frame: np.ndarray, prompt: Target | None = None) -> tuple[State, dict[int, Target]]:
        """The next state and {frame number: label map, boxes and confidences of all objects} of the next frame.

        A `prompt` is the truth about the objects that it names, known ones and new ones. ValueError where the frame
        differs in size from the first one.
        """
        state = dataclasses.replace(state, index=state.index + 1)
        tokens = self.embed_frame(state, frame)
        ids, labels, scores = self.follow(state, tokens)
        fresh: list[int] = []
        if prompt is not None:
            state, given = self.add_objects(state, tokens, prompt, f"frame {state.index}")
            fresh = list(given[0])
            labels[np.isin(labels, fresh)] = 0
            labels = np.where(given[1] > 0, given[1], labels)
            known = dict(zip(ids, scores))
            ids = [one.object_id for one in state.objects]
            scores = np.array([1.0 if number in fresh else known[number] for number in ids])
        state = self.update_memory(state, tokens, labels, fresh)
        labels = labels.astype(np.uint8 if max(ids, default=0) < 255 else np.int32)
        numbers = np.array(ids, np.int64)
        boxes = mask_boxes(labels, numbers)[1]
        return state, {state.index: Target(ids=numbers, mask=labels, boxes=boxes, scores=scores)}

    def embed_frame(self, state: State, frame: np.ndarray) -> Tensor:
        """Tokens [N, C] of a frame, without places."""
        place = state.canvas
        if frame.shape[:2] != place.size:
            (h, w), (height, width) = frame.shape[:2], place.size
            raise ValueError(f"the frame has {w}x{h} pixels, but the first one had {width}x{height}")
        picture = torch.from_numpy(np.ascontiguousarray(frame)).to(self.encoder.norm.weight.device).permute(2, 0, 1)
        return self.encoder.embed_frames(place.fit(masking.normalize(picture)))

    def add_objects(
        self, state: State, tokens: Tensor, target: Target, where: str
    ) -> tuple[State, tuple[list[int], np.ndarray]]:
        """The state in which the objects of `target` are as this frame's tokens [N, C] show them; their ids and map."""
        ids, labels, rough = prompt_labels(target, state.canvas.size, where)
        seen = self.memory_tokens(state, tokens, labels, ids)
        made = [ObjectMemory(object_id=number, first=seen[row], since=state.index) for row, number in enumerate(ids)]
        others = tuple(one for one in state.objects if one.object_id not in ids)
        if rough and ids:
            _, found, _ = self.follow(dataclasses.replace(state, objects=tuple(made)), tokens)
            for number in ids:
                inside = labels == number
                if (found[inside] == number).mean() > 0.05:  # else the box itself is the better guess
                    labels[inside & (found != number)] = 0
            seen = self.memory_tokens(state, tokens, labels, ids)
            made = [dataclasses.replace(one, first=seen[row]) for row, one in enumerate(made)]
        return dataclasses.replace(state, objects=(*others, *made)), (ids, labels)

    def memory_tokens(
        self, state: State, tokens: Tensor, labels: np.ndarray, ids: list[int], later: bool = False
    ) -> Tensor:
        """Memory tokens [K, N, C] of the objects `ids` in a frame with label map [H, W], the first or a later one."""
        place = state.canvas
        masks = torch.from_numpy(np.stack([labels == number for number in ids]) if ids else np.zeros((0, *place.size)))
        marks = self.encoder.mask_tokens(place.fit_labels(masks.to(tokens.device)))
        return tokens + self.encoder.place(place.grid(self.patch), True, later) + marks

    def follow(self, state: State, tokens: Tensor) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Ids of the objects, label map int32 [H, W] and confidences [K] in a frame of which these are the tokens."""
        ids = [one.object_id for one in state.objects]
        if not ids:
            return ids, np.zeros(state.canvas.size, np.int32), np.zeros(0)
        labels, scores = decide(self.logits(state, tokens), state.canvas.size)
        return ids, np.array([0, *ids], np.int32)[labels], scores

    def logits(self, state: State, tokens: Tensor) -> Tensor:
        """Each object's own logits [K, h, w] at the size the frame was brought to.

        Objects that remember as many frames go through the network as one batch, as far as `max_tokens` allows.
        """
        place, grid = state.canvas, state.canvas.grid(self.patch)
        query = tokens + self.encoder.place(grid, False)[0]
        found: dict[int, Tensor] = {}
        for count in sorted({len(one.frames) for one in state.objects}):
            rows = [row for row, one in enumerate(state.objects) if len(one.frames) == count]
            at_once = max(1, self.max_tokens // ((count + 1) * len(query))) if self.max_tokens else len(rows)
            for first in range(0, len(rows), at_once):
                part = rows[first : first + at_once]
                memory = torch.stack([torch.cat(state.objects[row].frames) for row in part])
                features = self.encoder.read_memory(memory, query.expand(len(part), -1, -1), grid)
                found.update(zip(part, place.cut(self.decoder(features, place.padded)).unbind(0)))
        return torch.stack([found[row] for row in range(len(found))])

    def update_memory(self, state: State, tokens: Tensor, labels: np.ndarray, fresh: list[int]) -> State:
        """The state after a frame with tokens [N, C] and label map [H, W]; `fresh` were just pointed out in it."""
        old = [one.object_id for one in state.objects if one.object_id not in fresh]
        if self.memory == 1 or not old:
            return state
        seen = dict(zip(old, self.memory_tokens(state, tokens, labels, old, later=True)))
        made = []
        for one in state.objects:
            if one.object_id in seen:
                last, later = seen[one.object_id], one.later
                if self.memory > 2 and (state.index - one.since) % self.memory_interval == 0:
                    later = (*later, last)[2 - self.memory :]
                one = dataclasses.replace(one, previous=last, later=later)
            made.append(one)
        return dataclasses.replace(state, objects=tuple(made))

    # ---------------------------------------------------------------- weights from elsewhere

    def resize_image(self, image: int | tuple[int, int]) -> None:
        """Changes the size of the training pictures, and with it a stored position table, by bicubic interpolation."""
        height, width = (image, image) if isinstance(image, int) else image
        part, grid = self.encoder.positions, (height // self.patch, width // self.patch)
        self.image, self.sides, self.grid = image, (height, width), grid
        if part.table is not None:
            assert part.learned_grid is not None
            table = resize_positions(part.table, part.learned_grid, grid).contiguous()
            part.table, part.learned_grid = nn.Parameter(table, requires_grad=False), grid
            self.positions = grid[0] if grid[0] == grid[1] else grid

    @torch.no_grad()
    def adopt(self, encoder: Encoder, grid: tuple[int, int]) -> set[str]:
        """Takes over what a pre-trained encoder has in another form; the names so filled.

        Its positions on the `grid` of its pictures are stretched, as the official code does. Where it knows no frame
        identities, they begin at zero.
        """
        own = self.encoder
        if encoder.frame_embed is None and own.frame_embed is not None:
            own.frame_embed.x.zero_()
            own.frame_embed.z.zero_()
        if own.positions.table is None:
            if encoder.positions.table is not None:
                raise ValueError("this encoder learned its positions, which have to be stored: leave positions out")
            return set()
        own.stretch(encoder.positions(grid, own.norm.weight.device).float(), grid)
        return {"encoder.positions.table"}

    @classmethod
    def fields_of(cls, shapes: Mapping[str, tuple[int, ...]], patch: int) -> dict[str, Any]:
        """The fields of a model whose tensors have these names and shapes; ValueError where they make none."""
        rows = shapes.get("encoder.positions.table", (0, 0, 0))[1]
        side = math.isqrt(rows)
        if not side or side * side != rows:
            raise ValueError(f"the position table has {rows} rows for each frame, which is no square")
        return {"image": side * patch, "positions": side}

    def official_state(self, identity: bool) -> dict[str, Tensor]:
        """Tensors by our names as the official file has them; what nothing uses there is zero.

        There is no official file without frame identities, so `identity` must be true.
        """
        assert identity
        if self.encoder.later is not None:
            raise ValueError("a model that tells later memory frames from the first has no official layout")
        state = {name: tensor.detach().cpu() for name, tensor in self.state_dict().items()}
        width, side = self.encoder.width, max(1, PRETRAINED // self.patch)
        zero = torch.zeros(1, 1, width)
        table = self.encoder.positions.table
        table = sincos(self.grid, width) if table is None else table.detach().cpu()
        return state | {
            "encoder.positions.table": torch.cat([zero, table, table], 1),
            "relic.cls_token": zero,
            "relic.positions": torch.cat([zero, sincos((side, side), width)], 1),
            "relic.three_frames": torch.cat([zero, table, table, table], 1),
            "relic.head.weight": torch.zeros(CLASSES, width),
            "relic.head.bias": torch.zeros(CLASSES),
            "relic.norm.weight": torch.ones(width),
            "relic.norm.bias": torch.zeros(width),
        }
