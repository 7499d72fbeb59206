"""Tracking on a frozen encoder: a correlation filter that is fitted to each object, and a learned head for its box.

The filter is of the line of DCF and DiMP (arXiv 1404.7828, 1904.07220), the head looks at the object's tokens as
transformer trackers do. The encoder learns nothing and is any with dense features of the widths that the head knows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from dropmae import weights
from dropmae.contracts import Task
from dropmae.data.boxtracks import boxes_of
from dropmae.nn.vit import SIZES, Encoder, Size
from dropmae.ops import ridge
from dropmae.target import Target
from dropmae.tasks._prompts import check_frame, prompted_boxes
from dropmae.tasks.dcf import crops, fine, maps
from dropmae.tasks.dcf.crops import Region
from dropmae.tasks.dcf.head import Head, likeness, middle, peaks, tokens
from dropmae.tasks.dcf.state import FITTED, Found, Reading, State

WORST = np.array([0.3, 0.3, 0.5, 0.5])
"""Largest error of each kind that is made up for, see `State.errors`."""
FINE_LEAST, FINE_SURE = 0.03, 0.3
"""The fine filter's response counts from here on, and from there on its place is fully believed."""
SHIFTS = ((0.0, 0.0, 1.0), (0.125, 0.0, 1.0), (-0.125, 0.0, 1.0), (0.0, 0.125, 1.0), (0.0, -0.125, 1.0))
"""Crops that the filter is first fitted to: shift in shares of the side, and scale."""


@dataclass(kw_only=True, eq=False, repr=False)
class DCF(Task):
    """Follows boxes with the features of a frozen encoder: a filter per object, and learned heads for box and presence.

    The encoder is its own (`size`), or named (`trunk`), or assigned.
    """

    takes = ("boxes", "mask")
    gives = ("boxes", "scores")
    use = (
        "trunk", "search_factor", "search_cap", "search_floor", "size_limit", "window", "penalty", "response_share",
        "size_rate", "calibrate", "ridge", "first_share", "update_rate", "update_every", "update_above",
        "template_every", "template_above", "fine_image", "fine_share", "fine_centre", "fine_steady",
        "search_below", "hold_below", "tiles", "again_above", "patience", "presence", "calibration",
        "lost_below", "doubtful_below",
    )  # fmt: skip

    size: Size | None = None
    """Width, depth and heads of an encoder of its own."""
    depth: int = 0
    """Blocks of that encoder, if not as many as its size has."""
    patch: int = 0
    """Side of its patch in pixels; 0 takes that of the size."""
    grid: int = 0
    """Side of its learned position table; 0 has sin-cos positions."""
    trunk: str = ""
    """Weight file of the encoder, where it has none of its own."""
    image: int = 252
    """Side of the search crop in pixels, a multiple of the encoder's patch."""
    taps: tuple[int, ...] = (8, 12)
    """Blocks of the encoder, counted from 1, after which features are taken; the filter sees the last of them."""
    widths: tuple[int, ...] = ()
    """Widths of what is taken; by default those of its own encoder, or of ViT-S."""
    channels: tuple[int, ...] = (96, 128)
    """Principal components that are kept of each."""
    head_width: int = 128
    """Width of the head."""
    head_depth: int = 3
    """Its layers."""
    head_heads: int = 4
    """Heads of its attention."""
    search_factor: float = 4.0
    """Side of the search region in units of the square root of the box's area."""
    search_cap: float = 1.2
    """Largest search region, as its side over the square root of the frame's area, where that leaves a factor of 2."""
    search_floor: float = 0.5
    """Least size for which the search region is made, as a share of the first box's."""
    size_limit: float = 4.0
    """How many times larger or smaller than the first box, in each side, a box may become."""
    window: float = 0.4
    """Weight of a Hann window on the score map, against far movements."""
    penalty: float = 0.1
    """How much sudden changes of size and shape lower a score."""
    response_share: float = 0.3
    """Exponent of the filter's response in the score map, that of the head's score being the rest to 1."""
    size_rate: float = 0.3
    """Share of the newly found width and height in the next ones, times the score."""
    calibrate: bool = True
    """Look for each object in the frame in which it is given, and take what is found there too large, too small or to
    one side for a constant error."""
    ridge: float = 0.02
    """Regularisation of the filter."""
    deviation: float = 0.25
    """Of the Gaussian that the filter answers with, in sides of the box."""
    first_share: float = 0.3
    """Weight of the first frame in the filter for good."""
    update_rate: float = 0.03
    """Weight of a new frame among the later ones."""
    update_every: int = 3
    """Frames between updates of the filter."""
    update_above: float = 0.6
    """Score from which on the filter is updated."""
    template_every: int = 10
    """Frames between renewals of the second template."""
    template_above: float = 0.85
    """Score from which on the second template is renewed."""
    extent: bool = False
    """Filters also answer which cells the object's box covers and where in it they lie, and the head is told of it."""
    fine_image: int = 0
    """Side in pixels of the crop for a filter on gradients and colours of small cells; 0: no such filter."""
    fine_told: bool = False
    """The head is told of its response."""
    fine_share: float = 0.0
    """Exponent of its response in the score map, beside the others."""
    fine_centre: float = 0.5
    """Its share in the centre of the box, where it answers."""
    fine_steady: float = 0.3
    """How much it stays as it was from frame to frame."""
    search_below: float = 0.25
    """Score below which an object counts as lost from sight, and is looked for elsewhere too."""
    hold_below: float = 0.25
    """Score below which a box keeps its size and, from the second such frame on, its place."""
    tiles: int = 1
    """Further crops of the picture in which a lost object is looked for in each frame, nearest first; 0: none."""
    again_above: float = 0.6
    """Score from which on it is taken for found again there."""
    patience: int = 5
    """Frames for which it is waited for where it was, before that."""
    presence: Literal["head", "likeness"] = "head"
    """What tells whether a box holds the object: a learned head, or how like its middle is to that of the box that was
    given, in the encoder's features."""
    calibration: tuple[float, float] = (1.0, 0.0)
    """Factor and offset that make the logit of the head, or the likeness, a probability."""
    lost_below: float = 0.0
    """Probability of an overlap above half below which no box is reported; 0 always reports the best guess."""
    doubtful_below: float | None = 0.5
    """Such a probability below which `track` calls a box doubtful, and draws it dashed."""

    def __post_init__(self) -> None:
        super().__init__()
        self.encoder: Any = None
        if self.size is not None:
            shape, side = SIZES[self.size], self.grid
            self.patch, self.depth = self.patch or shape.patch, self.depth or shape.depth
            table = (side, side) if side else None
            self.encoder = Encoder(shape.width, self.depth, shape.heads, self.patch, learned_grid=table)
        self.widths = self.widths or (SIZES[self.size or "small"].width,) * len(self.taps)
        self.check()
        self.register_state_dict_post_hook(without_trunk)
        self.head = Head(
            self.widths, self.channels, self.head_width, self.head_depth, self.head_heads, self.fine_told, self.extent
        )

    @classmethod
    def works_on(cls, fields: Mapping[str, Any]) -> str:
        return fields.get("trunk", "")

    def check(self) -> None:
        """ValueError for a field that makes no sense."""
        if self.size is not None and self.trunk:
            raise ValueError("a tracker has an encoder of its own (size) or works on another one (trunk), not both")
        if not 0 < len(self.taps) == len(self.widths) == len(self.channels):
            raise ValueError("taps, widths and channels go together: one of each for every block that is looked at")
        if list(self.taps) != sorted(set(self.taps)) or min(self.taps) < 1:
            raise ValueError(f"taps are numbers of blocks from 1, ascending, not {self.taps}")
        shares = ("window", "response_share", "first_share", "size_rate", "update_rate")
        for name in (*shares, "search_below", "hold_below", "lost_below"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        for name in ("search_factor", "search_cap", "ridge", "deviation", "update_every", "template_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("search_floor", "penalty", "tiles", "patience"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if self.fine_told and not self.fine_image:
            raise ValueError(
                "the head is told of a filter on small cells (fine_told) that is not there: set fine_image"
            )
        if not self.size_limit >= 1:
            raise ValueError(f"size_limit must be at least 1, not {self.size_limit}")

    def train(self, mode: bool = True) -> Self:
        """Takes the encoder from `trunk` when first put into evaluation mode, which is after the heads were read."""
        if not mode and self.encoder is None and self.trunk:
            self.encoder = weights.load(self.trunk, self.head.places.device).encoder
        return super().train(mode)

    # ---------------------------------------------------------------- features

    def embed(self, frame: np.ndarray, places: list[Region]) -> Tensor:
        """float32 [K, n, n, C]: reduced features of regions of a frame."""
        if self.encoder is None:
            raise ValueError("this tracker works on an encoder's features: name its weights, --set trunk=FILE")
        pictures = np.stack([crops.cut(frame, place, self.image) for place in places])
        batch = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(self.head.places.device)
        return self.head.reduced(self.encoder.layers(batch, self.taps))

    def spectra(self, frame: np.ndarray, places: list[Region]) -> Tensor:
        """complex64 [K, C, m, m // 2 + 1]: small cells of regions of a frame."""
        device = self.head.places.device
        if not self.fine_image:
            return torch.zeros(len(places), 0, 0, 0, device=device)
        return fine.spectra(np.stack([crops.cut(frame, place, self.fine_image) for place in places]), device)

    def cells(self, features: Tensor) -> Tensor:
        """[B, n n, F]: what the filter sees of features [B, n, n, C]."""
        return maps.neighbourhoods(features[..., -self.channels[-1] :])

    def factor(self, box: np.ndarray, frame: tuple[int, int]) -> float:
        """Side of the search region of an object given with this box, in square roots of its area."""
        most = self.search_cap * math.sqrt(frame[0] * frame[1] / box[2:].prod())
        return min(self.search_factor, max(2.0, most))

    def reach(self, state: State, row: int) -> float:
        """Side of an object's search region."""
        size = np.sqrt(state.boxes[row, 2:].prod()), self.search_floor * np.sqrt(state.sides[row].prod())
        return float(state.factors[row] * max(size))

    # ---------------------------------------------------------------- the object

    def fit(self, frame: np.ndarray, box: np.ndarray, factor: float) -> dict[str, Any]:
        """The fields of `FITTED` and "errors", of an object that is given in a frame."""
        side, centre = factor * float(np.sqrt(box[2:].prod())), box[:2] + box[2:] / 2
        places = [crops.region(centre + np.array([dx, dy]) * side, side * scale) for dx, dy, scale in SHIFTS]
        features = self.embed(frame, places)
        inside = torch.tensor(np.stack([place.inside(box) for place in places]), dtype=torch.float32)
        gram, cross = self.learn(features, inside)
        found = tokens(features[:1], inside[:1].to(features.device))
        templates = torch.stack([self.head.template(found, kind)[0] for kind in (0, 1)])
        known = self.middle(found)
        with torch.autocast(features.device.type, enabled=False):
            filter_ = ridge.solve(gram, cross, self.ridge)
        spectrum, small = self.spectra(frame, places), None
        sharp, support = spectrum[:1], torch.zeros(1, 0, 0)
        if self.fine_image:
            support = fine.supports(inside[:1, 2:].to(features.device) * spectrum.shape[-2], spectrum.shape[-2])
            sharp = self.sharpen(spectrum[:1], inside[:1], support, None)
            small = fine.respond(sharp, spectrum)
        return {
            "fine": sharp[0],
            "supports": support[0],
            "templates": templates,
            "middles": known[0],
            "grams": gram.expand(2, -1, -1).clone(),
            "crosses": cross.expand(2, -1, -1).clone(),
            "filters": filter_,
            "errors": self.measure(features, templates, known, filter_, small, inside)
            if self.calibrate
            else np.zeros(4),
        }

    def sharpen(self, seen: Tensor, inside: Tensor, support: Tensor, before: Tensor | None) -> Tensor:
        """complex64 [B, C, m, m // 2 + 1]: the filters on small cells after objects were seen at boxes `inside`."""
        n = seen.shape[-2]
        boxes = inside.to(seen.device) * n
        answer = fine.wanted(boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:].prod(1).sqrt() * fine.SHARPNESS, n)
        return fine.fit(seen, answer, support, before, self.fine_steady)

    def measure(
        self,
        features: Tensor,
        templates: Tensor,
        known: Tensor,
        filter_: Tensor,
        small: Tensor | None,
        inside: Tensor,
    ) -> np.ndarray:
        """float64 [4]: `State.errors` of an object, the mean over crops in which its box is known."""
        count = len(features)
        objects = templates.expand(count, -1, -1, -1), known.expand(count, -1, -1), filter_.expand(count, -1, -1)
        found = self.read(features, *objects, small, inside[:, 2:].numpy())
        true = inside.double().numpy()
        away = (found.boxes[:, :2] + found.boxes[:, 2:] / 2 - true[:, :2] - true[:, 2:] / 2) / true[:, 2:]
        errors = np.concatenate([away, np.log(found.boxes[:, 2:] / true[:, 2:])], 1)
        return np.clip(errors.mean(0), -WORST, WORST)

    def learn(self, features: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """The filter's sums over crops with the object's box in each, in shares of its side."""
        with torch.autocast(features.device.type, enabled=False):
            wanted = self.wanted(inside.to(features.device), features.shape[1])
            return ridge.sums(self.cells(features).flatten(0, 1), wanted.flatten(0, 2), len(features))

    def wanted(self, boxes: Tensor, n: int) -> Tensor:
        """[B, n, n, K]: what the filters should answer for boxes x y w h [B, 4] in shares of the crop's side."""
        centre = maps.gaussian(boxes, n, self.deviation, 0.6)[..., None]
        return torch.cat([centre, maps.extents(boxes, n)], -1) if self.extent else centre

    def look(
        self, state: State, frame: np.ndarray, rows: list[int], places: list[Region], steady: list[bool]
    ) -> list[Found]:
        """What is found of object `rows[k]` in region `places[k]`; `steady`: near where it was, as large as it was."""
        features, seen = self.embed(frame, places), self.spectra(frame, places)
        response = fine.respond(state.fine[rows], seen) if self.fine_image else None
        last = np.maximum(state.boxes[rows, 2:], self.search_floor / 2 * state.sides[rows])
        shares = last / np.array([[place.side] for place in places])
        objects = state.templates[rows], state.middles[rows], state.filters[rows]
        read = self.read(features, *objects, response, shares, np.array(steady))
        found = []
        for k, (row, place) in enumerate(zip(rows, places)):
            box = place.outside(read.boxes[k])
            size = box[2:] * np.exp(-state.errors[row, 2:])
            centre = box[:2] + box[2:] / 2 - state.errors[row, :2] * size
            if response is not None:
                centre = self.settled(response[k], place, centre, size)
            box = np.concatenate([centre - size / 2, size])
            found.append(Found(box, float(read.scores[k]), features[k], seen[k], place))
        return found

    def settled(self, response: Tensor, place: Region, centre: np.ndarray, size: np.ndarray) -> np.ndarray:
        """float64 [2]: a centre on its way to the peak of the fine filter's response near it."""
        n = len(response)
        reach = max(2, round(0.25 * float(np.sqrt(size.prod())) / place.side * n))
        at = np.clip((centre - [place.left, place.top]) / place.side * n, 0, n - 1).astype(int)
        low, high = np.maximum(at - reach, 0), np.minimum(at + reach + 1, n)
        spot, height = fine.peak(response, slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])))
        share = self.fine_centre * min(1.0, max(0.0, height) / FINE_SURE)
        return centre + share * (spot * place.side + [place.left, place.top] - centre)

    def read(
        self,
        features: Tensor,
        templates: Tensor,
        middles: Tensor,
        filters: Tensor,
        small: Tensor | None,
        shares: np.ndarray,
        steady: np.ndarray | None = None,
    ) -> Reading:
        """What filters and head make of crops [B, n, n, C], each with its object [B, ...], whose width and height are
        thought to be `shares` [B, 2] of the crop's side; `small` is the fine filter's response [B, m, m]."""
        n = features.shape[1]
        with torch.autocast(features.device.type, enabled=False):
            responses = (self.cells(features) @ filters).unflatten(1, (n, n))
        response = responses[..., 0]
        size = torch.tensor(shares, dtype=torch.float32, device=features.device)
        high = peaks(small, n) if small is not None else None
        told = high if self.fine_told else None
        logits, boxes, cells = self.head(features, templates.flatten(1, 2), responses, size, told)
        scores = logits.sigmoid()
        calm = np.zeros(len(features), bool) if steady is None else steady
        chance = self.weigh(scores, response, boxes, size, torch.tensor(calm, device=size.device))
        if high is not None:
            chance = chance * high[:, 0].clamp(FINE_LEAST, 1) ** self.fine_share
        peak = chance.flatten(1).argmax(1)
        found = torch.stack([around(*one) for one in zip(boxes, chance, peak)])
        found = torch.cat([found[:, :2], found[:, 2:] - found[:, :2]], 1)
        if self.presence == "likeness":
            logit = likeness(self.middle(tokens(features, found)), middles)
        else:
            logit = self.head.present(cells, scores, response, peak, told)
        factor, offset = self.calibration
        chances = (factor * logit.double() + offset).sigmoid()
        return Reading(found.double().cpu().numpy(), chances.cpu().numpy())

    def middle(self, found: Tensor) -> Tensor:
        """[B, M, C]: what `likeness` compares of an object's `tokens`: of the last tap alone."""
        return middle(found)[..., -self.channels[-1] :].contiguous()

    def weigh(self, scores: Tensor, response: Tensor, boxes: Tensor, size: Tensor, steady: Tensor) -> Tensor:
        """[B, n, n]: how likely the object's centre is in each cell."""
        n, share = scores.shape[1], self.response_share
        chance = scores.clamp_min(1e-6) ** (1 - share) * response.clamp(1e-6, 1) ** share
        sides, size = (boxes[..., 2:] - boxes[..., :2]).clamp_min(1e-4), size[:, None, None]
        change = ratio((sides / size).prod(-1).sqrt())
        shape = ratio(sides[..., 0] / sides[..., 1] / (size[..., 0] / size[..., 1]))
        chance = chance * torch.exp(-self.penalty * (change * shape - 1))
        hann = torch.hann_window(n + 2, periodic=False, device=scores.device)[1:-1]
        weight = self.window * steady.float()[:, None, None]
        return chance * (1 - weight + weight * hann[:, None] * hann)

    # ---------------------------------------------------------------- tracking

    def start(self, frame: np.ndarray, target: Target) -> State:
        """A state that follows the objects of `target`, by their boxes or masks, from `frame` uint8 [H, W, 3] on.

        ValueError where there is no box, or one that has no area or lies outside the frame.
        """
        self.eval()
        size = check_frame(frame)
        nothing = State(
            index=0,
            size=size,
            ids=np.zeros(0, np.int64),
            boxes=np.zeros((0, 4)),
            sides=np.zeros((0, 2)),
            factors=np.zeros(0),
            scores=np.zeros(0),
            lost=np.zeros(0, np.int64),
            errors=np.zeros((0, 4)),
            **{name: torch.zeros(0) for name in FITTED},
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
        fitted = [self.fit(frame, box, self.factor(box, state.size)) for box in boxes]
        stay = np.flatnonzero(~np.isin(state.ids, ids))
        fresh: dict[str, Any] = {
            "ids": ids,
            "boxes": boxes,
            "sides": boxes[:, 2:],
            "factors": np.array([self.factor(box, state.size) for box in boxes]),
            "scores": np.ones(len(ids)),
            "lost": np.zeros(len(ids), np.int64),
        }
        fresh["errors"] = np.stack([one["errors"] for one in fitted])
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(state, name)[stay], value]) for name, value in fresh.items()
        }
        for name in FITTED:
            new = torch.stack([one[name] for one in fitted])
            joined[name] = torch.cat([getattr(state, name)[torch.from_numpy(stay)], new]) if len(stay) else new
        return dataclasses.replace(state, **joined)

    @torch.no_grad()
    def step(self, state: State, frame: np.ndarray, prompt: Target | None = None) -> tuple[State, dict[int, Target]]:
        """The next state, and {frame index: boxes and scores of all objects} for the next frame uint8 [H, W, 3].

        Objects of a `prompt` are where it says and are followed from there on. The crops of all objects go through the
        encoder as one batch. A frame of another size is taken to show the same view at another scale.
        """
        size = check_frame(frame)
        if state.size != size:
            scale = np.array([size[1] / state.size[1], size[0] / state.size[0]])
            state = dataclasses.replace(state, boxes=state.boxes * np.tile(scale, 2), sides=state.sides * scale)
        state = dataclasses.replace(state, index=state.index + 1, size=size)
        prompted = np.isin(state.ids, boxes_of(prompt)[0]) if prompt is not None else np.zeros(len(state.ids), bool)
        rows = np.flatnonzero(~prompted).tolist()
        if rows:
            state = self.search(state, frame, rows)
        if prompt is not None:
            state = self.renew(state, frame, prompt)
        shown = np.where((state.scores < self.lost_below)[:, None], np.nan, state.boxes)
        return state, {state.index: Target(ids=state.ids, boxes=shown, scores=state.scores)}

    def search(self, state: State, frame: np.ndarray, rows: list[int]) -> State:
        """The state after looking for the objects in `rows`, each where it was, and if lost also elsewhere."""
        owners, places, steady = [], [], []
        for row in rows:
            centre, side = state.boxes[row, :2] + state.boxes[row, 2:] / 2, self.reach(state, row)
            spots, waited = [centre], int(state.lost[row]) - self.patience
            if self.tiles and waited >= 0:
                grid = crops.tiles(state.size, side, centre)
                spots += [grid[(waited * self.tiles + k) % len(grid)] for k in range(min(self.tiles, len(grid)))]
            owners += [row] * len(spots)
            places += [crops.region(spot, side) for spot in spots]
            steady += [state.scores[row] >= self.hold_below] + [False] * (len(spots) - 1)
        seen = self.look(state, frame, owners, places, steady)
        best: dict[int, Found] = {}
        for row, found in zip(owners, seen):
            here = best.get(row)
            if here is None or found.score > max(here.score, self.again_above):
                best[row] = found
        boxes, scores, lost = state.boxes.copy(), state.scores.copy(), state.lost.copy()
        for row, found in best.items():
            scores[row] = found.score
            lost[row] = 0 if found.score >= self.search_below else lost[row] + 1
            boxes[row] = self.settle(state, row, found)
        state = dataclasses.replace(state, boxes=boxes, scores=scores, lost=lost)
        return self.remember(state, best)

    def settle(self, state: State, row: int, found: Found) -> np.ndarray:
        """float64 [4]: the next box of an object: its place as found, its size on the way to what was found."""
        old, first = state.boxes[row, 2:], state.sides[row]
        if found.score < self.hold_below:
            held = state.scores[row] < self.hold_below
            return state.boxes[row] if held else np.concatenate([centred(found.box, old), old])
        lost = found.score < self.search_below and state.lost[row] >= self.patience
        rate = 0.0 if lost else self.size_rate * min(1.0, 0.5 + found.score)
        size = np.exp((1 - rate) * np.log(old) + rate * np.log(np.maximum(found.box[2:], 1e-3)))
        size = np.clip(size, first / self.size_limit, first * self.size_limit)
        size = np.maximum(np.minimum(size, [state.size[1], state.size[0]]), 2.0)
        corner = centred(found.box, size)
        low, high = -size / 2, np.array([state.size[1], state.size[0]]) - size / 2
        return np.concatenate([np.clip(corner, low, high), size])

    def remember(self, state: State, best: dict[int, Found]) -> State:
        """The state after what was surely seen of objects has gone into their filters and second templates."""
        learned = (
            [r for r, f in best.items() if f.score >= self.update_above] if state.index % self.update_every == 0 else []
        )
        seen = (
            [r for r, f in best.items() if f.score >= self.template_above]
            if state.index % self.template_every == 0
            else []
        )
        sharp = [r for r, f in best.items() if f.score >= self.update_above] if self.fine_image else []
        if not learned and not seen and not sharp:
            return state
        changed = [name for rows, name in ((sharp, "fine"), (learned, "filters"), (seen, "templates")) if rows]
        known = {name: getattr(state, name).clone() for name in [*changed, *(("grams", "crosses") if learned else ())]}
        for row in sharp:
            found = best[row]
            inside = torch.tensor(found.place.inside(state.boxes[row])[None], dtype=torch.float32)
            one = slice(row, row + 1)
            known["fine"][one] = self.sharpen(found.spectrum[None], inside, state.supports[one], state.fine[one])
        for row in learned:
            found = best[row]
            inside = torch.tensor(found.place.inside(state.boxes[row])[None], dtype=torch.float32)
            gram, cross = self.learn(found.features[None], inside)
            grams, crosses = known["grams"][row], known["crosses"][row]
            grams[1].lerp_(gram, self.update_rate)
            crosses[1].lerp_(cross, self.update_rate)
            share = self.first_share
            both = [share * x[0] + (1 - share) * x[1] for x in (grams, crosses)]
            with torch.autocast(gram.device.type, enabled=False):
                known["filters"][row] = ridge.solve(both[0], both[1], self.ridge)
        for row in seen:
            found = best[row]
            inside = torch.tensor(found.place.inside(state.boxes[row])[None], dtype=torch.float32)
            template = self.head.template(tokens(found.features[None], inside.to(found.features.device)), 1)
            known["templates"][row, 1] = template[0]
        return dataclasses.replace(state, **known)


def without_trunk(task: DCF, tensors: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    """Takes an encoder that belongs to another file out of what is saved of a tracker."""
    if task.trunk:
        for name in [name for name in tensors if name.startswith(f"{prefix}encoder.")]:
            del tensors[name]


def centred(box: np.ndarray, size: np.ndarray) -> np.ndarray:
    """float64 [2]: the corner of a box of another size around the same centre."""
    return box[:2] + box[2:] / 2 - size / 2


def ratio(values: Tensor) -> Tensor:
    """How many times larger or smaller: the larger of a ratio and its inverse."""
    return torch.maximum(values, 1 / values)


def around(boxes: Tensor, chance: Tensor, peak: Tensor) -> Tensor:
    """[4]: the mean of the boxes [n, n, 4] of a cell and its neighbours, weighted by their chances [n, n]."""
    n = len(chance)
    row, column = divmod(int(peak), n)
    window = (slice(max(0, row - 1), row + 2), slice(max(0, column - 1), column + 2))
    weight = chance[window][..., None].float() ** 2
    return (boxes[window] * weight).sum((0, 1)) / weight.sum()
