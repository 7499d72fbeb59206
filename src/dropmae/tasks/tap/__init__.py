"""Tracking any point: places, visibility and uncertainty of any number of points, each asked for in its own frame.

An online tracker for CPUs. A light pyramid of convolutions gives each frame features at every fourth and eighth pixel;
a point is known by its features in the frame in which it was asked for and by those of late, is guessed at from the
whole picture (nearer places are likelier), and refined by looks around the guess (`nn.refine`, as dense flow is). What
is kept of a point has a constant size, and no point knows of another, as TAP-Vid demands (arXiv 2211.03726). The scheme
is that of TAPIR (arXiv 2306.08637) done frame by frame. Last, places are fitted to the pixels of the file (`pixels`).

B videos, N points, T frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae.contracts import Task
from dropmae.sequence import Sequence
from dropmae.target import Target
from dropmae.tasks.tap import pixels
from dropmae.tasks.tap.features import COARSEST, STRIDES, Pyramid
from dropmae.tasks.tap.follower import Follower, Found, Points, chosen
from dropmae.tasks.tap.samples import point_sample

FALL = 0.8
"""Weight of each look relative to the next one."""
HIDDEN = 0.2
"""Weight of the place of a point that cannot be seen."""


@dataclass(eq=False)
class State:
    """What is known after a frame; its size depends on the number of points and the size of the frames alone."""

    size: tuple[int, int]
    """Height and width of the frames."""
    sides: tuple[int, int]
    """Height and width of what the network sees."""
    points: Points
    told: np.ndarray
    """bool [N]: which points have been asked for."""
    owners: np.ndarray | None
    light: Tensor
    """uint8 [1, 1, H, W]: the brightness of the last frame."""
    index: int = 0


@dataclass(kw_only=True, eq=False, repr=False)
class TAP(Task):
    """Follows any number of points, each from the frame in which it is asked for."""

    takes = ("points",)
    gives = ("points", "visible", "uncertainty")
    use = ("resolution", "visible_above", "looks", "update_rate", "fit_within")
    recipe = {"schedule": "cosine", "warmup": "3%", "clip": 1.0, "weight_decay": 1e-4, "lr": 2e-3}

    # Model
    widths: tuple[int, ...] = (16, 32, 64, 96)
    """Channels of the convolutions at every second, fourth, eighth and sixteenth pixel."""
    channels: int = 48
    """Channels of the features that points are recognised by."""
    hidden: int = 96
    """Numbers that are remembered of a point."""
    radius: int = 3
    """Cells around a place that a look sees."""
    # In use
    resolution: int = 384
    """Frames with more pixels than a square of this side are scaled down to as many."""
    visible_above: float = 0.5
    """Probability above which a point counts as visible."""
    looks: int = 3
    """Looks around the first guess, each from where the one before led. One more than it learned with is more exact."""
    update_rate: float = 0.3
    """How much of what a point looks like of late is renewed by a frame that shows it."""
    fit_within: float = 4.0
    """Pixels, of those that the network sees, by which a place may be moved to fit the file's own; 0: not at all."""
    # Training samples
    image: int = 96
    """Training: side of the pictures in pixels."""
    frames: int = 6
    """Training: frames of a sample."""
    points: int = 64
    """Training: points of a sample."""

    def __post_init__(self) -> None:
        super().__init__()
        self.check_fields()
        self.encoder = Pyramid(self.widths, self.channels)
        self.head = Follower(self.channels, self.hidden, self.radius, self.looks, self.update_rate)

    def check_fields(self) -> None:
        """ValueError for a field that makes no sense."""
        if len(self.widths) != 4 or any(width < 8 or width % 8 for width in self.widths):
            raise ValueError(f"widths are four multiples of 8, not {self.widths}")
        for name in ("channels", "hidden", "radius", "points", "looks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.image < 4 * COARSEST or self.image % COARSEST or self.resolution < 4 * COARSEST:
            raise ValueError(f"image is a multiple of {COARSEST}, and it and resolution are at least {4 * COARSEST}")
        if self.frames < 2 or not 0 < self.visible_above < 1 or not 0 <= self.update_rate <= 1:
            raise ValueError("frames must be at least 2, visible_above between 0 and 1, and update_rate in [0, 1]")
        if not self.fit_within >= 0:
            raise ValueError(f"fit_within must not be negative, but is {self.fit_within}")

    def resize_image(self, image: int | tuple[int, int]) -> None:
        """Convolutions know no size: it is that of training pictures alone, which are square."""
        side, other = (image, image) if isinstance(image, int) else image
        if side != other:
            raise ValueError(f"training pictures are square, not {side}x{other}")
        self.image = side
        self.check_fields()

    def export_step(self, out: Path, objects: int) -> dict[str, Any]:
        from dropmae.tasks.tap.export import export  # of use to this alone

        return export(self, out, objects)

    # ---------------------------------------------------------------- training

    def sample(self, sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
        """A few frames and points of a sequence, as `point_sample` makes them; OSError where it shows none."""
        return point_sample(sequence.drawn(rng), self.frames, self.image, self.points, rng)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """{"loss", "error", "delta", "occlusion"} of a batch as `sample` makes them."""
        # The same frames are gone through both ways, by other queries.
        places, visible, known = (torch.cat([batch[k], batch[k].flip(1)]) for k in ("places", "visible", "known"))
        asked, frames = torch.cat(batch["asked"].unbind(1)), places.shape[1]
        features = self.encoder(batch["frames"].flatten(0, 1))
        maps = [one.unflatten(0, batch["frames"].shape[:2]).unbind(1) for one in features]
        rows, columns = features[1].shape[-2:]
        points: Points | None = None
        losses, sums = [], places.new_zeros(4)
        for frame in range(frames):
            now = tuple(torch.cat([one[frame], one[frames - 1 - frame]]) for one in maps)
            new, begun = self.head.asked(now, places[:, frame]), asked < frame
            if points is None:
                points = new
                continue
            found = self.head(now, points)
            points = chosen(begun, found.points, chosen(asked == frame, new, points))
            true, seen = places[:, frame], (visible[:, frame] & begun).float()
            hidden = (known[:, frame] & ~visible[:, frame] & begun).float()
            weight = seen + HIDDEN * hidden
            at = (true / STRIDES[1]).floor().long()
            cell = (at[..., 1] * columns + at[..., 0]).clamp(0, rows * columns - 1)
            guess = functional.cross_entropy(found.guess.flatten(0, 1), cell.flatten(), reduction="none").view_as(seen)
            loss = 0.5 * guess * seen
            for number, look in enumerate(found.looks):
                error = ((look - true).abs().clamp(max=64) + 0.01).sum(-1)
                loss = loss + 0.3 * FALL ** (len(found.looks) - 1 - number) * error * weight
            off = (found.looks[-1].detach() - true).abs().mean(-1).clamp(max=64)
            spread = found.spread.clamp(-3, 5)
            loss = loss + 0.5 * (off * (-spread).exp() + spread) * seen
            judged = functional.binary_cross_entropy_with_logits(found.points.seen, seen, reduction="none")
            loss = loss + 2 * judged * (seen + hidden)
            losses.append(loss)
            distance = (found.looks[-1].detach() - true).norm(dim=-1)
            within = torch.stack([(distance < limit).float() for limit in (1, 2, 4, 8, 16)]).mean(0)
            right = ((found.points.seen > 0).float() == seen).float() * (seen + hidden)
            sums += torch.stack([(within * seen).sum(), seen.sum(), right.sum(), (seen + hidden).sum()])
        count = sums[1].clamp(min=1)
        return {
            "loss": torch.stack(losses).sum() / count,
            "delta": sums[0] / count,
            "occlusion": sums[2] / sums[3].clamp(min=1),
        }

    # ---------------------------------------------------------------- use

    @torch.no_grad()
    def start(self, frame: np.ndarray, target: Target) -> State:
        """Points of the first frame, uint8 [H, W, 3]; those at NaN are to be asked for later."""
        if target.points is None:
            raise ValueError("tap follows points, and none are given")
        size, count = picture_size(frame), len(target.points)
        shrink = min(1.0, self.resolution / math.sqrt(size[0] * size[1]))
        sides = tuple(max(2, round(side * shrink / COARSEST)) * COARSEST for side in size)
        picture = self.picture(frame)
        nothing: Any = None
        told, light = np.zeros(count, bool), pixels.light(picture)
        state = State(size, (sides[0], sides[1]), nothing, told, target.owners, light)
        maps = self.maps(picture, state)
        state.points = self.head.asked(maps, self.inner(state, np.zeros((count, 2))))
        self.tell(state, maps, target)
        return state

    @torch.no_grad()
    def step(self, state: State, frame: np.ndarray, prompt: Target | None = None) -> tuple[State, dict[int, Target]]:
        """Takes the next frame; {its number: where the points are}. The state that was passed in is used up."""
        if picture_size(frame) != state.size:
            (h, w), (height, width) = picture_size(frame), state.size
            raise ValueError(f"the frame has {w}x{h} pixels, but the first one has {width}x{height}")
        state.index += 1
        picture = self.picture(frame)
        maps = self.maps(picture, state)
        found = self.settle(state, self.head(maps, state.points), pixels.light(picture))
        state.points = found.points
        answer = self.answered(state, found)
        if prompt is not None and prompt.points is not None:
            fresh = self.tell(state, maps, prompt)
            answer.points[fresh], answer.visible[fresh] = prompt.points[fresh], True  # pyrefly: ignore
            answer.uncertainty[fresh] = 0  # pyrefly: ignore
        return state, {state.index: answer}

    def picture(self, frame: np.ndarray) -> Tensor:
        """uint8 [3, H, W]: a frame where the network is."""
        return torch.from_numpy(np.ascontiguousarray(frame)).to(self.head.begin.weight.device).permute(2, 0, 1)

    def settle(self, state: State, found: Found, now: Tensor) -> Found:
        """What was found, with places fitted to the frame's own pixels: of points that this frame and the one before
        show, as otherwise the patch of before is of what hid them."""
        before, state.light = state.light, now
        shown = (found.points.seen[0] > 0) & (state.points.seen[0] > 0)
        seen = torch.from_numpy(state.told).to(now.device) & shown
        if not self.fit_within or not seen.any():
            return found
        scale = torch.tensor(state.size[::-1], device=now.device) / torch.tensor(state.sides[::-1], device=now.device)
        places, within = found.points.places.clone(), self.fit_within * float(scale.mean())
        rows = seen.nonzero()[:, 0]
        old, guess = (one[0, rows].float() * scale for one in (state.points.places, places))
        with torch.autocast(now.device.type, enabled=False):
            places[0, rows] = (pixels.settled(before, now, old, guess, within) / scale).to(places.dtype)
        return found._replace(points=replace(found.points, places=places))

    def maps(self, picture: Tensor, state: State) -> tuple[Tensor, ...]:
        """The features of a picture uint8 [3, H, W]."""
        picture = picture[None]
        if state.sides != state.size:
            picture = functional.interpolate(picture.float(), state.sides, mode="bilinear", antialias=True)
            picture = picture.round().clamp(0, 255).byte()
        return tuple(one.float() for one in self.encoder(picture))

    def inner(self, state: State, points: np.ndarray) -> Tensor:
        """Places [1, N, 2] in what the network sees."""
        scale = np.array(state.sides[::-1]) / np.array(state.size[::-1])
        return torch.from_numpy(np.nan_to_num(points) * scale)[None].float().to(self.head.begin.weight.device)

    def tell(self, state: State, maps: tuple[Tensor, ...], prompt: Target) -> np.ndarray:
        """Begins the points that a prompt shows, anew where they were followed already; bool [N], which ones."""
        assert prompt.points is not None
        if len(prompt.points) != len(state.told):
            raise ValueError(f"{len(prompt.points)} points, but the video was started with {len(state.told)}")
        fresh = np.asarray(np.isfinite(prompt.points).all(1))
        fresh = fresh if prompt.visible is None else fresh & np.asarray(prompt.visible, bool)
        new = self.head.asked(maps, self.inner(state, prompt.points))
        state.points = chosen(torch.from_numpy(fresh)[None].to(new.seen.device), new, state.points)
        state.told |= fresh
        return fresh

    def answered(self, state: State, found: Found) -> Target:
        """What was found, in pixels of the frame; NaN for points that have not been asked for."""
        scale = np.array(state.size[::-1]) / np.array(state.sides[::-1])
        places = found.points.places[0].double().cpu().numpy() * scale
        spread = found.spread[0].clamp(-3, 5).exp().double().cpu().numpy() * math.sqrt(2) * float(scale.mean())
        seen = torch.sigmoid(found.points.seen[0].float()).cpu().numpy() > self.visible_above
        inside = ((places >= 0) & (places <= np.array(state.size[::-1]))).all(1)
        places[~state.told], spread[~state.told] = np.nan, np.nan
        return Target(
            ids=np.zeros(0, np.int64),
            points=places,
            visible=seen & inside & state.told,
            owners=state.owners,
            uncertainty=spread,
        )


def picture_size(frame: np.ndarray) -> tuple[int, int]:
    """Height and width of a frame; ValueError where it is none."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
        raise ValueError(f"a frame is uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}")
    return frame.shape[0], frame.shape[1]
