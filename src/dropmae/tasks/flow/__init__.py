"""Optical flow: two frames, global matching, a warping refiner.

Features of both frames (convolutions, and with `size` a ViT that sees both) are matched over the whole picture at a
sixteenth of its size (GMFlow); the refiner of `nn.refine`, the same at every scale, goes on from there to a quarter; a
convex upsampling ends at single pixels. In use the flow is then fitted to the pixels (`variational`). Beside flow there
is a confidence, from a mixture of two Laplace distributions (SEA-RAFT), and occlusion.

Flow of frame t leads to frame t + 1: frame t is answered when t + 1 is there, the last one not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae.contracts import Task
from dropmae.nn import masking
from dropmae.nn.refine import centres, grey, polish, sample
from dropmae.nn.vit import FORMS, SIZES, Size
from dropmae.sequence import Sequence
from dropmae.target import Target, empty
from dropmae.tasks.flow import variational
from dropmae.tasks.flow.decoder import BROADEST, FlowDecoder, Found, losses
from dropmae.tasks.flow.encoder import CELL, Maps, Pair, PairEncoder, StemEncoder, fitted
from dropmae.tasks.flow.samples import Changes, flow_sample
from dropmae.tasks.flow.tiles import tiled

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"widths": (16, 32, 48, 64), "channels": 29, "memory": 40, "radius": 2, "looks": (2, 3, 4)},
    "small": {"widths": (32, 64, 96, 128), "channels": 61, "memory": 64, "radius": 3, "looks": (3, 4, 5)},
    "base": {"widths": (64, 96, 128, 192), "channels": 125, "memory": 128, "radius": 4, "looks": (6, 6, 6)},
}
"""For CPUs, for small GPUs, and the full scale."""


LEAST = 32
"""Pixels of the shorter side below which a pair is not halved."""


class State(NamedTuple):
    """What is known after a frame."""

    index: int
    frame: np.ndarray


@dataclass(kw_only=True, eq=False, repr=False)
class Flow(Task):
    """Dense flow from each frame to the next, with occlusion and confidence. An option that is None is the preset's."""

    gives, lag = ("flow", "occluded", "flow_confidence"), 1
    use = ("limit", "overlap", "check", "precise", "halves", "fit_rounds")
    recipe = {"lr": 0.064, "schedule": "cosine", "warmup": "5%", "clip": 1.0, "global_batch": 4, "weight_decay": 1e-4}

    # Model
    preset: Literal["tiny", "small", "base"] = "tiny"
    """Widths and iterations: tiny and small are for CPUs, base is the full scale."""
    size: Size | None = None
    """A ViT of this size beside the convolutions, to start from a pre-trained encoder; None: convolutions alone."""
    patch: int = 0
    """Side of its patches in pixels; 0 takes that of the size."""
    depth: int = 0
    """Its blocks; 0 takes those of the size."""
    form: Literal["plain", "transformers"] = "plain"
    """What public encoders do otherwise than the plain ViT."""
    pair: Pair = "joint"
    """How the ViT sees two frames: all tokens together; in turns each frame itself and the other one; or each alone."""
    widths: tuple[int, int, int, int] | None = None
    """Channels of the convolutions at 1/2, 1/4, 1/8 and 1/16 of the size."""
    channels: int | None = None
    """Channels of the features that are compared."""
    memory: int | None = None
    """Channels of what the refiner remembers of a place."""
    radius: int | None = None
    """Cells to each side in which the refiner looks."""
    looks: tuple[int, int, int] | None = None
    """How often it looks at 1/4, 1/8 and 1/16 of the size."""
    polish: int = 3
    """How often pictures are aligned at half their size in the end."""
    # In use
    limit: int = 1_200_000
    """Most pixels of one pass, a bound on memory: larger frames are done in tiles that overlap. 0: never in tiles."""
    halves: int = 3
    """How often a pair is halved to see what is too fast for it at its own size, while its shorter side stays at least
    32 pixels: what is found there serves as a guess."""
    fit_rounds: int = 4
    """Rounds in which the flow is fitted to the pixels, smooth but at edges, after the network; 0: not at all."""
    overlap: float = 0.25
    """Share of a tile that the next one covers too."""
    check: bool = False
    """Compute the flow back, too, and call occluded what does not come home (Sundaram et al., ECCV 2010)."""
    precise: float = 1.0
    """Pixels: the confidence is the probability that neither coordinate is off by more."""
    # Training samples
    image: tuple[int, int] = (128, 176)
    """Training: height and width of the crops in pixels: multiples of 16."""
    scales: tuple[float, float] = (0.0, 0.0)
    """Training: binary logarithms of the least and greatest scale of a pair; 0 0 leaves it as it is. RAFT: -0.1 1 on
    Chairs, -0.4 0.8 on Things, -0.2 0.6 on Sintel, -0.2 0.4 on KITTI."""
    flips: tuple[float, float] = (0.5, 0.1)
    """Training: probabilities of a flip, left to right and upside down."""
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.5 / 3.14)
    """Training: jitter of brightness, contrast, saturation and hue."""
    apart: float = 0.2
    """Training: probability that each frame has colours of its own."""
    erase: float = 0.5
    """Training: probability that parts of the second frame are erased."""
    eraser: tuple[int, int] = (20, 50)
    """Training: least and greatest side of such a part in pixels; RAFT 50 100."""
    noise: float = 0.0
    """Training: greatest deviation of noise in grey levels; RAFT has 5 on Chairs."""
    # Loss
    decay: float = 0.8
    """Training: weight of each look relative to the next one's."""
    farthest: float = 400.0
    """Training: longer flow does not count."""
    weights: tuple[float, float, float] = (0.2, 1.0, 0.5)
    """Training: of global matching, of the likelihood and of occlusion, relative to the looks."""

    def __post_init__(self) -> None:
        super().__init__()
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {self.preset!r}")
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        self.check_fields()
        assert self.widths is not None
        assert self.looks is not None
        assert self.channels is not None
        assert self.memory is not None
        assert self.radius is not None
        if self.size is None:
            self.encoder: Any = StemEncoder(self.widths)
        else:
            shape = SIZES[self.size]
            self.patch, self.depth = self.patch or shape.patch, self.depth or shape.depth
            self.grid = (self.image[0] // CELL, self.image[1] // CELL)
            form = FORMS[self.form]
            self.encoder = PairEncoder(
                self.widths, self.pair, shape.width, self.depth, shape.heads, self.patch, form=form
            )
        self.decoder = FlowDecoder(self.widths[1:], self.channels, self.memory, self.radius, self.looks)

    def check_fields(self) -> None:
        """ValueError for a field that makes no sense."""
        if self.size is not None and self.size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, not {self.size!r}")
        if any(side <= 0 or side % CELL for side in self.image):
            raise ValueError(f"image {self.image[0]}x{self.image[1]}: both sides must be multiples of {CELL}")
        if self.limit and self.limit < (4 * CELL) ** 2:
            raise ValueError(f"limit must be 0 or at least {(4 * CELL) ** 2} pixels, not {self.limit}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap must be in [0, 1), not {self.overlap}")
        if not self.precise > 0:
            raise ValueError(f"precise must be positive, not {self.precise}")
        for name in ("halves", "fit_rounds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        for name in ("channels", "memory", "radius"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        assert self.looks is not None
        if min(self.looks) < 0 or not self.looks[0]:
            raise ValueError(f"looks must not be negative, and the first at least 1, not {self.looks}")
        if self.scales[0] > self.scales[1] or self.eraser[0] >= self.eraser[1]:
            raise ValueError(f"scales {self.scales} and eraser {self.eraser} name the least first")

    def resize_image(self, image: int | tuple[int, int]) -> None:
        """Of convolutions alone, which know no size: it is that of training pictures."""
        if self.size is not None:
            super().resize_image(image)
        self.image = (image, image) if isinstance(image, int) else image
        self.check_fields()

    def export_step(self, out: Path, objects: int) -> dict[str, Any]:
        from dropmae.tasks.flow.export import export  # of use to this alone

        if objects != 1:
            raise ValueError("flow has no objects: leave --objects out")
        return export(self, out)

    # ---------------------------------------------------------------- training

    def sample(self, sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
        """A crop of a frame and the next one, with flow and occlusion; see `samples.flow_sample`."""
        changes = Changes(
            sides=self.image,
            scales=self.scales,
            flips=self.flips,
            jitter=self.jitter,
            apart=self.apart,
            erase=self.erase,
            eraser=self.eraser,
            noise=self.noise,
        )
        return flow_sample(sequence, rng, changes)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        found = self.predict(batch["frames"], keep=True)
        parts = losses(found, batch["flow"].float(), batch["occluded"], self.farthest, self.decay)
        match, likely, cover = self.weights
        loss = parts["steps"] + match * parts["matching"] + likely * parts["likelihood"] + cover * parts["occlusion"]
        return {"loss": loss, **parts}

    def predict(self, frames: Tensor, *, keep: bool = False) -> Found:
        """What is found for pairs uint8 [B, 2, 3, H, W] of sides that are multiples of 16."""
        pictures = masking.normalize(frames)
        first, second = self.maps(pictures)
        return self.polished(self.decoder(first, second, keep=keep), pictures[:, 0], pictures[:, 1])

    def polished(self, found: Found, first: Tensor, second: Tensor) -> Found:
        """What was found, with the last steps taken on the pictures themselves, normalised [B, 3, H, W]."""
        return found._replace(flow=polish(found.flow.float(), first, second, found.gate.float(), self.polish))

    def maps(self, frames: Tensor) -> tuple[Maps, Maps]:
        """Features of the first and of the second frames of pairs [B, 2, 3, H, W]."""
        count = len(frames)
        found = self.encoder(masking.normalize(frames.transpose(0, 1).flatten(0, 1)))
        return [each[:count] for each in found], [each[count:] for each in found]

    # ---------------------------------------------------------------- use

    def start(self, frame: np.ndarray, target: Target) -> State:
        return State(0, frame)

    def step(self, state: State, frame: np.ndarray, prompt: Target | None = None) -> tuple[State, dict[int, Target]]:
        """The flow of the frame before; ValueError where the frames differ in size."""
        if frame.shape != state.frame.shape:
            a, b = (f"{one.shape[1]}x{one.shape[0]}" for one in (state.frame, frame))
            raise ValueError(f"frame {state.index + 1} is {b} and the one before {a}: flow needs frames of one size")
        return State(state.index + 1, frame), {state.index: self.between(state.frame, frame)}

    def finish(self, state: State) -> dict[int, Target]:
        if not state.index:
            raise ValueError("there is one frame, and flow leads from a frame to the next: two are needed")
        return {state.index: empty()}

    @torch.no_grad()
    def between(self, first: np.ndarray, second: np.ndarray) -> Target:
        """Flow, occlusion and confidence of the first of two frames uint8 [H, W, 3]."""
        pair = torch.from_numpy(np.stack([first, second])).permute(0, 3, 1, 2)
        pair = pair.to(self.decoder.gate.weight.device)
        found = tiled(self.answers, pair, self.limit, self.overlap, CELL).cpu().numpy()
        return Target(
            ids=np.zeros(0, np.int64),
            flow=np.ascontiguousarray(found[:2].transpose(1, 2, 0)),
            occluded=found[2] > 0.5,
            flow_confidence=found[3],
        )

    def smaller(self, pictures: Tensor, halves: int) -> Tensor | None:
        """[1, 2, H, W]: flow of a pair [2, 3, H, W] as found at half its size, with a guess there too; or None."""
        height, width = pictures.shape[2:]
        if not halves or min(height, width) < 2 * LEAST:
            return None
        half = fitted(functional.avg_pool2d(pictures, 2))
        first, second = self.maps(half[None])
        found = self.polished(self.decoder(first, second, guess=self.smaller(half, halves - 1)), half[:1], half[1:])
        flow = found.flow.float()[..., : height // 2, : width // 2]
        return 2 * functional.interpolate(flow, scale_factor=2.0, mode="bilinear", align_corners=False)

    def answers(self, pair: Tensor) -> Tensor:
        """float32 [4, H, W]: flow, share that is occluded, and confidence, of a pair uint8 [2, 3, H, W] of any size."""
        height, width = pair.shape[2:]
        pictures = fitted(masking.normalize(pair))
        first, second = self.maps(pictures[None])
        guess = self.smaller(pictures, self.halves)
        there = self.polished(self.decoder(first, second, guess=guess), pictures[:1], pictures[1:])
        flow, logits = there.flow.float(), there.logits.float()
        occluded = torch.sigmoid(logits[:, 2:])
        if self.check:
            guess = self.smaller(pictures.flip(0), self.halves)
            back = self.polished(self.decoder(second, first, guess=guess), pictures[1:], pictures[:1]).flow
            occluded = torch.maximum(occluded, astray(flow, back))
        narrow, scale = torch.sigmoid(logits[:, :1]), logits[:, 1:2].clamp(0.0, BROADEST).exp()
        within = narrow * -np.expm1(-self.precise) + (1 - narrow) * -torch.expm1(-self.precise / scale)
        found = torch.cat([flow, occluded, within**2], 1)[..., :height, :width]
        with torch.autocast(flow.device.type, enabled=False):
            before, after = grey(pair).chunk(2)
            flow = variational.settled(found[:, :2], before, after, self.fit_rounds)
        return torch.cat([flow, found[:, 2:]], 1)[0]


def astray(there: Tensor, back: Tensor) -> Tensor:
    """float32 [B, 1, H, W]: 1 where flow [B, 2, H, W] followed there and back does not end near where it began."""
    home = sample(back, centres(there.shape[2], there.shape[3], there.device) + there)
    off = ((there + home) ** 2).sum(1, keepdim=True)
    length = (there**2).sum(1, keepdim=True) + (home**2).sum(1, keepdim=True)
    return (off > 0.01 * length + 0.5).float()
