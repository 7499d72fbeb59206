"""What one frozen encoder shows of objects in crops of a frame: filters, a learned head, and what is remembered.

The filter is of the line of DCF and DiMP (arXiv 1404.7828, 1904.07220), the head looks at the object's tokens as
transformer trackers do. The encoder learns nothing and is any with dense features of the widths that the head knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dropmae.contracts import Task
from dropmae.nn.vit import SIZES, Encoder, Size
from dropmae.ops import ridge
from dropmae.tasks.dcf import crops, fine, maps
from dropmae.tasks.dcf.crops import Region
from dropmae.tasks.dcf.head import Head, likeness, likest, middle, peaks, tokens
from dropmae.tasks.dcf.state import Known, Memory, Reading, View

WORST = np.array([0.3, 0.3, 0.5, 0.5])
"""Largest error of each kind that is made up for, see `Memory.errors`."""
FINE_LEAST, FINE_SURE = 0.03, 0.3
"""The fine filter's response counts from here on, and from there on its place is fully believed."""
LEAST_CHANCE = 1e-4
"""What a chance counts for at least where it tells whether an object is there."""
SHIFTS = ((0.0, 0.0, 1.0), (0.125, 0.0, 1.0), (-0.125, 0.0, 1.0), (0.0, 0.125, 1.0), (0.0, -0.125, 1.0))
"""Crops that the filter is first fitted to: shift in shares of the side, and scale."""


@dataclass(kw_only=True, eq=False, repr=False)
class Sight(Task):
    """An encoder, the filters that are fitted to its features, and the head that looks at both."""

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
    window: float = 0.4
    """Weight of a Hann window on the score map, against far movements."""
    penalty: float = 0.1
    """How much sudden changes of size and shape lower a score."""
    response_share: float = 0.3
    """Exponent of the filter's response in the score map, that of the head's score being the rest to 1."""
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
    presence: Literal["head", "likeness", "contrast", "facts"] = "head"
    """What tells whether a box holds the object: a learned head; how like its middle is to that of the box that was
    given, in the encoder's features; how much more like that it is than like what was around that box, together with
    the chance by which its place was found; or these two and the likeness, which also tells how exact the box is."""
    calibration: tuple[float, ...] = (1.0, 0.0)
    """Factors and offset that make the logit of the head, the likeness, or the log of the chance, the contrast and, of
    "facts", the likeness, the logit of a probability."""
    views: int = 24
    """Training: most frames of each object of a video that the encoder looks at."""
    kept_bits: Literal[16, 8] = 16
    """Training: what is kept of them is in half precision, or in 8-bit integers with a factor for each channel."""

    def __post_init__(self) -> None:
        super().__init__()
        self.encoder: Any = None
        if self.size is not None:
            shape, side = SIZES[self.size], self.grid
            self.patch, self.depth = self.patch or shape.patch, self.depth or shape.depth
            table = (side, side) if side else None
            self.encoder = Encoder(shape.width, self.depth, shape.heads, self.patch, learned_grid=table)
            self.encoder.requires_grad_(False)
        self.widths = self.widths or (SIZES[self.size or "small"].width,) * len(self.taps)
        self.check()
        self.head = Head(
            self.widths, self.channels, self.head_width, self.head_depth, self.head_heads, self.fine_told, self.extent
        )
        self.head.reduce.requires_grad_(False)

    def check(self) -> None:
        """ValueError for a field that makes no sense."""
        if self.size is not None and self.trunk:
            raise ValueError("a tracker has an encoder of its own (size) or works on another one (trunk), not both")
        if not 0 < len(self.taps) == len(self.widths) == len(self.channels):
            raise ValueError("taps, widths and channels go together: one of each for every block that is looked at")
        if list(self.taps) != sorted(set(self.taps)) or min(self.taps) < 1:
            raise ValueError(f"taps are numbers of blocks from 1, ascending, not {self.taps}")
        facts = {"contrast": 2, "facts": 3}.get(self.presence, 1)
        if len(self.calibration) != facts + 1:
            told = f"{facts} and an offset, not {len(self.calibration)} numbers"
            raise ValueError(f"calibration has a factor for each fact that presence={self.presence} goes by: {told}")
        check_shares(self, ("window", "response_share", "first_share", "update_rate"))
        check_positive(self, ("ridge", "deviation"))
        if not self.penalty >= 0:
            raise ValueError(f"penalty must not be negative, but is {self.penalty}")
        if self.fine_told and not self.fine_image:
            raise ValueError(
                "the head is told of a filter on small cells (fine_told) that is not there: set fine_image"
            )

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

    def wanted(self, boxes: Tensor, n: int) -> Tensor:
        """[B, n, n, K]: what the filters should answer for boxes x y w h [B, 4] in shares of the crop's side."""
        centre = maps.gaussian(boxes, n, self.deviation, 0.6)[..., None]
        return torch.cat([centre, maps.extents(boxes, n)], -1) if self.extent else centre

    def learn(self, features: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """The filter's sums over crops with the object's box in each, in shares of its side: the `correlations` of
        cells [13, C, C], and what they have in common with what it should answer [9 C, K]."""
        with torch.autocast(features.device.type, enabled=False):
            wanted = self.wanted(inside.to(features.device), features.shape[1]).flatten(0, 2)
            cross = self.cells(features).flatten(0, 1).T @ wanted / len(features)
            return maps.correlations(features[..., -self.channels[-1] :]), cross

    def sharpen(self, seen: Tensor, inside: Tensor, support: Tensor, before: Tensor | None) -> Tensor:
        """complex64 [B, C, m, m // 2 + 1]: the filters on small cells after objects were seen at boxes `inside`."""
        n = seen.shape[-2]
        boxes = inside.to(seen.device) * n
        answer = fine.wanted(boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:].prod(1).sqrt() * fine.SHARPNESS, n)
        return fine.fit(seen, answer, support, before, self.fine_steady)

    def middle(self, found: Tensor) -> Tensor:
        """[B, M, C]: what `likeness` compares of an object's `tokens`: of the last tap alone."""
        return middle(found)[..., -self.channels[-1] :].contiguous()

    # ---------------------------------------------------------------- the object

    def fit(self, frame: np.ndarray, box: np.ndarray, factor: float) -> Memory:
        """What an object looks like that is given in a frame, in crops of `factor` square roots of its area."""
        side, centre = factor * float(np.sqrt(box[2:].prod())), box[:2] + box[2:] / 2
        places = [crops.region(centre + np.array([dx, dy]) * side, side * scale) for dx, dy, scale in SHIFTS]
        features, spectrum = self.embed(frame, places), self.spectra(frame, places)
        inside = torch.tensor(np.stack([place.inside(box) for place in places]), dtype=torch.float32)
        sums, cross = self.learn(features, inside)
        found = tokens(features[:1], inside[:1].to(features.device))
        with torch.autocast(features.device.type, enabled=False):
            filter_ = ridge.solve(maps.gram(sums), cross, self.ridge)
        sharp, support = spectrum[:1], torch.zeros(1, 0, 0)
        if self.fine_image:
            support = fine.supports(inside[:1, 2:].to(features.device) * spectrum.shape[-2], spectrum.shape[-2])
            sharp = self.sharpen(spectrum[:1], inside[:1], support, None)
        known = Memory(
            templates=torch.stack([self.head.template(found, kind) for kind in (0, 1)], 1),
            middles=self.middle(found),
            surroundings=maps.outside(features[:1, ..., -self.channels[-1] :], inside[:1].to(features.device)),
            sums=sums.expand(1, 2, -1, -1, -1).clone(),
            crosses=cross.expand(1, 2, -1, -1).clone(),
            filters=filter_[None],
            fine=sharp,
            supports=support,
            errors=torch.zeros(1, 4, dtype=torch.float64),
        )
        return known.but([0], {"errors": self.measure(features, spectrum, known, inside)}) if self.calibrate else known

    def measure(self, features: Tensor, spectra: Tensor, memory: Memory, inside: Tensor) -> Tensor:
        """float64 [1, 4]: `Memory.errors` of an object, the mean over crops in which its box is known."""
        known = memory.known([0] * len(features))
        view = self.answer(features, spectra, known, inside[:, 2:].numpy())
        found, true = self.pick(view, known, *highest(view.chance)).boxes, inside.double().numpy()
        away = (found[:, :2] + found[:, 2:] / 2 - true[:, :2] - true[:, 2:] / 2) / true[:, 2:]
        errors = np.concatenate([away, np.log(found[:, 2:] / true[:, 2:])], 1)
        return torch.from_numpy(np.clip(errors.mean(0), -WORST, WORST))[None]

    def answer(
        self, features: Tensor, spectra: Tensor, known: Known, shares: np.ndarray, steady: np.ndarray | None = None
    ) -> View:
        """What filters and head make of crops [B, ...], each with its object in `known`.

        Width and height are thought to be `shares` [B, 2] of the crop's side; where `steady` [B], the object is thought
        to be near the middle.
        """
        n = features.shape[1]
        small = fine.respond(known.fine, spectra) if self.fine_image else None
        with torch.autocast(features.device.type, enabled=False):
            responses = (self.cells(features) @ known.filters).unflatten(1, (n, n))
        response = responses[..., 0]
        size = torch.tensor(shares, dtype=torch.float32, device=features.device)
        high = peaks(small, n) if small is not None else None
        told = high if self.fine_told else None
        logits, boxes, cells = self.head(features, known.templates.flatten(1, 2), responses, size, told)
        scores = logits.sigmoid()
        calm = np.zeros(len(features), bool) if steady is None else steady
        chance = self.weigh(scores, response, boxes, size, torch.tensor(calm, device=size.device))
        if high is not None:
            chance = chance * high[:, 0].clamp(FINE_LEAST, 1) ** self.fine_share
        return View(features, spectra, small, told, response, scores, boxes, cells, chance)

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

    def pick(self, view: View, known: Known, chance: Tensor, peak: Tensor) -> Reading:
        """What lies at cells number `peak` [B], with the boxes around them weighted by their chances [B, n, n]."""
        found = torch.stack([around(*one) for one in zip(view.boxes, chance, peak)])
        found = torch.cat([found[:, :2], found[:, 2:] - found[:, :2]], 1)
        seen = self.middle(tokens(view.features, found)) if self.presence != "head" else None
        if seen is None:
            facts = [self.head.present(view.cells, view.scores, view.response, peak, view.high)]
        elif self.presence == "likeness":
            facts = [likeness(seen, known.middles)]
        else:
            high = chance.flatten(1).gather(1, peak[:, None])[:, 0].clamp_min(LEAST_CHANCE).log()
            like = likeness(seen, known.middles)
            facts = [high, like - likest(seen, known.surroundings), *([like] if self.presence == "facts" else [])]
        *factors, offset = self.calibration
        logits = torch.stack(facts, 1).double().cpu().numpy() @ np.array(factors) + offset
        return Reading(found.double().cpu().numpy(), logits)

    def corrected(self, reading: Reading, view: View, known: Known, places: Sequence[Region]) -> np.ndarray:
        """float64 [B, 4]: boxes x y w h in the frame of what was found in these regions, less the constant errors."""
        found = np.stack([place.outside(box) for place, box in zip(places, reading.boxes)])
        errors = known.errors.cpu().numpy()
        sizes = found[:, 2:] * np.exp(-errors[:, 2:])
        centres = found[:, :2] + found[:, 2:] / 2 - errors[:, :2] * sizes
        if view.small is not None:
            rows = zip(view.small, places, centres, sizes)
            centres = np.stack([self.settled(*row) for row in rows])
        return np.concatenate([centres - sizes / 2, sizes], 1)

    def settled(self, response: Tensor, place: Region, centre: np.ndarray, size: np.ndarray) -> np.ndarray:
        """float64 [2]: a centre on its way to the peak of the fine filter's response near it."""
        n = len(response)
        reach = max(2, round(0.25 * float(np.sqrt(size.prod())) / place.side * n))
        at = np.clip((centre - [place.left, place.top]) / place.side * n, 0, n - 1).astype(int)
        low, high = np.maximum(at - reach, 0), np.minimum(at + reach + 1, n)
        spot, height = fine.peak(response, slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])))
        share = self.fine_centre * min(1.0, max(0.0, height) / FINE_SURE)
        return centre + share * (spot * place.side + [place.left, place.top] - centre)

    def learned(
        self, memory: Memory, rows: Sequence[int], looks: Sequence[tuple[Tensor, Tensor]], boxes: np.ndarray
    ) -> Memory:
        """The memory after the filters of the objects in `rows` have seen them at `boxes` [R, 4] in shares of crops."""
        made: dict[str, list[Tensor]] = {name: [] for name in ("sums", "crosses", "filters")}
        for row, (features, _), box in zip(rows, looks, boxes):
            known = {"sums": memory.sums[row].clone(), "crosses": memory.crosses[row].clone()}
            seen = self.learn(features[None], torch.tensor(box[None], dtype=torch.float32))
            for kept, new in zip(known.values(), seen):
                kept[1].lerp_(new, self.update_rate)
            sums, cross = (self.first_share * x[0] + (1 - self.first_share) * x[1] for x in known.values())
            with torch.autocast(features.device.type, enabled=False):
                known["filters"] = maps.mended(sums, cross, self.ridge, memory.filters[row])
            for name, value in known.items():
                made[name].append(value)
        return memory.but(rows, {name: torch.stack(values) for name, values in made.items()})

    def sharpened(
        self, memory: Memory, rows: Sequence[int], looks: Sequence[tuple[Tensor, Tensor]], boxes: np.ndarray
    ) -> Memory:
        """The same of the filters on small cells, where there are any."""
        if not self.fine_image:
            return memory
        seen, inside = torch.stack([spectrum for _, spectrum in looks]), torch.tensor(boxes, dtype=torch.float32)
        support, before = memory.supports[list(rows)], memory.fine[list(rows)]
        return memory.but(rows, {"fine": self.sharpen(seen, inside, support, before)})

    def recent(
        self, memory: Memory, rows: Sequence[int], looks: Sequence[tuple[Tensor, Tensor]], boxes: np.ndarray
    ) -> Memory:
        """The same of the second templates."""
        features = torch.stack([features for features, _ in looks])
        found = tokens(features, torch.tensor(boxes, dtype=torch.float32, device=features.device))
        templates = memory.templates[list(rows)]
        return memory.but(rows, {"templates": torch.stack([templates[:, 0], self.head.template(found, 1)], 1)})


def check_shares(task: Any, names: Sequence[str]) -> None:
    """ValueError where one of these fields is not in [0, 1]."""
    for name in names:
        if not 0 <= getattr(task, name) <= 1:
            raise ValueError(f"{name} must be in [0, 1], not {getattr(task, name)}")


def check_positive(task: Any, names: Sequence[str]) -> None:
    """ValueError where one of these fields is not above 0."""
    for name in names:
        if not getattr(task, name) > 0:
            raise ValueError(f"{name} must be positive, not {getattr(task, name)}")


def highest(chance: Tensor) -> tuple[Tensor, Tensor]:
    """Chances [B, n, n] themselves, and the number of the cell with the highest [B]."""
    return chance, chance.flatten(1).argmax(1)


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
