"""Matching without training: where in each later frame a point's feature has its nearest neighbour.

The plainest question about an encoder: is the token of a frame whose feature is most like that of a point the one that
shows this point? Nothing is carried from frame to frame, so that one wrong answer has no part in the next one. The
benchmark `matching` counts the right ones; label propagation (`propagation`) is what one would use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae.contracts import Task
from dropmae.nn import masking
from dropmae.nn.vit import Encoder, Positions
from dropmae.ops.resampling import input_size, resize_frames
from dropmae.target import Target
from dropmae.tasks._prompts import check_frame

USUAL = 14
"""Tokens along the short side where an encoder does not tell its grid: a ViT of patch 16 at 224 pixels."""


@dataclass(eq=False)
class State:
    """What points look like in the frames in which they were asked for."""

    size: tuple[int, int]
    """Height and width of the frames."""
    sides: tuple[int, int]
    """Height and width of what the network sees."""
    features: Tensor
    """float32 [M, C], unit vectors; zeros for points that were not asked for yet."""
    asked: np.ndarray
    """bool [M]."""
    owners: np.ndarray | None
    """The objects that points belong to."""
    index: int = 0
    """Number of the last frame seen, counted from the one that was started with."""


@dataclass(kw_only=True, eq=False, repr=False)
class Neighbours(Task):
    """Nearest neighbours of points by the features of any encoder, by cosine and among all tokens of a frame.

    The feature of a point is interpolated between the tokens around it, and the answer is the middle of a token, so
    that no answer is finer than the grid. Points that cannot be seen are answered like all others. Assign `encoder`
    before use.
    """

    grid: int = 0
    """Tokens along the short side of what the network sees; 0: as many as its training pictures had."""
    block: int = 0
    """Block of the encoder after which features are taken, from 1; 0: the last one."""

    takes = ("points",)
    gives = ("points",)
    training_free = True
    made_for = ("matching",)

    def __post_init__(self) -> None:
        super().__init__()
        if self.grid < 0 or self.block < 0:
            raise ValueError(f"grid and block must not be negative, not {self.grid} and {self.block}")
        self.encoder: Any = None

    @torch.no_grad()
    def start(self, frame: np.ndarray, target: Target) -> State:
        """Takes the first frame, uint8 [H, W, 3], and the points in it, NaN where one is not asked for yet."""
        if self.encoder is None:
            raise ValueError("neighbours needs an encoder: task.encoder = dropmae.load(weights).encoder")
        if self.block and not (isinstance(self.encoder, Encoder) and self.block <= len(self.encoder.blocks)):
            kind = f"{len(self.encoder.blocks)} blocks" if isinstance(self.encoder, Encoder) else "no blocks of ours"
            raise ValueError(f"features are to be taken after block {self.block}, but the encoder has {kind}")
        size, patch = check_frame(frame), self.encoder.patch
        sides = input_size(size, f"short{self.short_side() * patch}", patch, 0, "nearest")
        dense = self.dense(frame, sides)
        count = 0 if target.points is None else len(target.points)
        none = np.zeros(count, bool)
        state = State(size, sides, dense.new_zeros(count, len(dense)), none, target.owners)
        self.ask(state, dense, target)
        return state

    @torch.no_grad()
    def step(self, state: State, frame: np.ndarray, prompt: Target | None = None) -> tuple[State, dict[int, Target]]:
        """Takes the next frame; {its number: points float64 [M, 2]}, NaN for those that were not asked for yet.

        Points of a prompt are looked for by what they look like in this frame from now on. The state that was passed
        in is used up.
        """
        if check_frame(frame) != state.size:
            (h, w), (height, width) = check_frame(frame), state.size
            raise ValueError(f"the frame has {w}x{h} pixels, but the first one has {width}x{height}")
        state.index += 1
        dense = self.dense(frame, state.sides)
        points = np.full((len(state.asked), 2), np.nan)
        if state.asked.any():
            best = (state.features @ dense.flatten(1)).argmax(1).cpu().numpy()
            rows, columns = dense.shape[1:]
            scale = np.array(state.size[::-1]) / (columns, rows)
            found = np.stack([best % columns, best // columns], 1) + 0.5
            points[state.asked] = (found * scale)[state.asked]
        if prompt is not None and prompt.points is not None:
            fresh = self.ask(state, dense, prompt)
            points[fresh] = prompt.points[fresh]
        return state, {state.index: Target(ids=np.zeros(0, np.int64), points=points, owners=state.owners)}

    def short_side(self) -> int:
        """Tokens along the short side."""
        places = getattr(self.encoder, "positions", None)
        home = (places.learned_grid or places.home) if isinstance(places, Positions) else None
        return self.grid or (min(home) if home else USUAL)

    def dense(self, frame: np.ndarray, sides: tuple[int, int]) -> Tensor:
        """Unit vectors float32 [C, h, w] of a frame uint8 [H, W, 3] that is resized to `sides`."""
        device = next(self.encoder.parameters()).device
        picture = torch.from_numpy(np.ascontiguousarray(frame)).to(device).permute(2, 0, 1)[None].float()
        picture = resize_frames(picture, sides, "bicubic").clamp(0, 255).round().to(torch.uint8)
        known = isinstance(getattr(self.encoder, "positions", None), Positions)  # a user's own need not have any
        places: dict[str, Any] = {"resized": True} if known else {}
        pixels = masking.normalize(picture)
        if self.block:
            found = self.encoder.layers(pixels, (self.block,), **places)[0]
        else:
            found = self.encoder.features(pixels, **places)[0]
        return functional.normalize(found.float(), dim=0)

    def ask(self, state: State, dense: Tensor, target: Target) -> np.ndarray:
        """Takes over the features of the points that a target tells the place of; which these are, bool [M].

        Points near or beyond the frame's edge have the feature of the nearest token.
        """
        if target.points is None or not len(target.points):
            return np.zeros(len(state.asked), bool)
        if len(target.points) != len(state.asked):
            raise ValueError(f"{len(target.points)} points, but {len(state.asked)} in the first frame")
        seen = np.ones(len(target.points)) if target.visible is None else target.visible
        fresh = np.isfinite(target.points).all(1) & np.asarray(seen, bool)
        places = 2 * np.nan_to_num(target.points) / state.size[::-1] - 1  # -1 and 1 are the frame's edges
        where = torch.from_numpy(places).to(dense)[None, None]
        sampled = functional.grid_sample(dense[None], where, padding_mode="border", align_corners=False)[0, :, 0].T
        rows = torch.from_numpy(fresh).to(dense.device)
        state.features[rows] = functional.normalize(sampled, dim=1)[rows]
        state.asked = state.asked | fresh
        return fresh
