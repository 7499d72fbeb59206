"""Tracking on frozen encoders: correlation filters that are fitted to each object, and a learned head for its box.

What an encoder shows of an object is `sight`; here it is followed, by one encoder or by two that agree on where it is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dropmae import weights
from dropmae.contracts import Taken
from dropmae.data.boxtracks import boxes_of
from dropmae.nn.vit import Encoder
from dropmae.ops import noise
from dropmae.sequence import Sequence
from dropmae.target import Target
from dropmae.tasks._prompts import check_frame, prompted_boxes
from dropmae.tasks.dcf import crops, fine, learning
from dropmae.tasks.dcf.crops import Region
from dropmae.tasks.dcf.sight import Sight, check_positive, check_shares, highest
from dropmae.tasks.dcf.state import Found, State, joined

URGENT = 2
"""Frames for which what was not surely seen goes before what has waited longer."""
ALIENS = 11
"""Stream of random numbers: whose search view is another object's."""


@dataclass(kw_only=True, eq=False, repr=False)
class DCF(Sight):
    """Follows boxes with the features of a frozen encoder: a filter per object, and learned heads for box and presence.

    The encoder is its own (`size`), or named (`trunk`), or assigned. Another tracker of this kind may look at the same
    crops (`beside`): where the object is, is then what both together hold likeliest, and its box lies between theirs.
    """

    takes = ("boxes", "mask")
    gives = ("boxes", "scores")
    use = (
        "trunk", "search_factor", "search_cap", "search_floor", "size_limit", "window", "penalty", "response_share",
        "size_rate", "calibrate", "ridge", "first_share", "update_rate", "update_every", "update_above",
        "template_every", "template_above", "fine_image", "fine_share", "fine_centre", "fine_steady",
        "search_below", "hold_below", "tiles", "again_above", "patience", "presence", "calibration",
        "lost_below", "doubtful_below", "beside", "beside_share", "full_every", "full_most", "glance_above",
        "glance_sure",
    )  # fmt: skip

    recipe = {
        "global_batch": 24, "lr": 0.0085, "schedule": "cosine", "warmup": "2%", "clip": 1.0, "weight_decay": 0.02,
        "betas": (0.9, 0.98), "epoch_samples": 2400, "epochs": 10,
    }  # fmt: skip
    frozen = True
    prefers_int8 = True

    search_factor: float = 4.0
    """Side of the search region in units of the square root of the box's area."""
    search_cap: float = 1.2
    """Largest search region, as its side over the square root of the frame's area, where that leaves a factor of 2."""
    search_floor: float = 0.5
    """Least size for which the search region is made, as a share of the first box's."""
    size_limit: float = 4.0
    """How many times larger or smaller than the first box, in each side, a box may become."""
    size_rate: float = 0.3
    """Share of the newly found width and height in the next ones, times the score."""
    update_every: int = 3
    """Frames between updates of the filter."""
    update_above: float = 0.6
    """Score from which on the filter is updated."""
    template_every: int = 10
    """Frames between renewals of the second template."""
    template_above: float = 0.85
    """Score from which on the second template is renewed."""
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
    lost_below: float = 0.0
    """Probability of an overlap above half below which no box is reported; 0 always reports the best guess."""
    doubtful_below: float | None = 0.5
    """Such a probability below which `track` calls a box doubtful, and draws it dashed."""
    beside: str = ""
    """Weight file of another tracker of this kind that looks at the same crops; "": there is none."""
    beside_share: float = 0.5
    """How much of where the object is, how large, and whether it is there, is taken from that one."""
    full_every: int = 1
    """Frames from one full look at an object to the next, while its filter on small cells is sure where it is."""
    full_most: int = 3
    """Most objects that have a turn to be looked at in full in one frame, where filters on small cells can follow the
    others: those that have waited longest, and sooner those that were not surely seen. 0: all."""
    glance_above: float = 0.5
    """Score from which on an object counts as surely seen."""
    glance_sure: float = 0.2
    """Response from which on its filter on small cells is sure where it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.partner: Any = None
        self.features_in: Path | None = None
        self.taken_over = False
        self.register_state_dict_post_hook(without_borrowed)

    # ---------------------------------------------------------------- learning

    def keep_features(self, sequences: Iterable[Sequence], folder: Path) -> None:
        if self.fine_told:
            raise ValueError("heads that are told of the filter on small cells (fine_told) are trained by a recipe")
        self.eval()
        if self.encoder is None:
            raise ValueError("dcf learns on the features of an encoder: name its weights, --trunk shipped:encoder")
        try:
            self.head.reduced(learning.features(self, np.zeros((1, self.image, self.image, 3), np.uint8)))
        except (KeyError, RuntimeError):
            told = f"--taps {' '.join(map(str, self.taps))} of widths {' '.join(map(str, self.widths))}"
            raise ValueError(f"{told} do not fit the encoder: name --taps and --widths that it has") from None
        learning.look(self, sequences, folder, not self.taken_over)
        self.features_in = folder
        self.encoder.requires_grad_(False)
        self.partner = None
        if self.trunk:
            self.encoder = None

    def take_over(self, source: Any, kind: str, where: str | Path) -> Taken:
        if not isinstance(source, DCF):
            raise ValueError(f"{where} ({kind}) is no tracker of this kind: an encoder to learn on is --trunk {where}")
        taken = super().take_over(source, kind, where)
        self.taken_over = True
        return taken

    def sample(self, sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
        if self.features_in is None:
            raise ValueError("no features of the data are kept: call keep_features before")
        file = learning.file_of(self.features_in, sequence)
        if not file.is_file():
            raise OSError("no features of it are kept: it could not be read, or has no box")
        kept = {name: tensor.numpy() for name, tensor in weights.read_tensors(file).items()}
        drawn = learning.draw(kept, rng)
        owner = learning.digest(sequence.name, str(drawn["owner"]))[:7]
        return {**drawn, "owner": np.array(int.from_bytes(owner, "big"))}

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        seed, index = batch["seed"], batch["index"]
        alien = noise.uniform(noise.fold(noise.keys(seed, index), ALIENS), 1)[:, 0] < learning.ALIEN
        alien = alien & (batch["owner"] != batch["owner"].roll(1, 0))
        search = torch.where(alien[:, None, None, None], batch["search"].roll(1, 0), batch["search"])
        return learning.losses(self, {**batch, "search": search}, ~alien)

    @classmethod
    def works_on(cls, fields: Mapping[str, Any]) -> str:
        return fields.get("trunk", "")

    def check(self) -> None:
        super().check()
        check_shares(self, ("size_rate", "search_below", "hold_below", "lost_below", "beside_share", "glance_above"))
        check_positive(self, ("search_factor", "search_cap", "update_every", "template_every", "full_every"))
        for name in ("search_floor", "tiles", "patience", "full_most"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if self.views < 2:
            raise ValueError(
                f"views must be at least 2, one to know an object by and one to look for it in, not {self.views}"
            )
        if not self.size_limit >= 1:
            raise ValueError(f"size_limit must be at least 1, not {self.size_limit}")

    def train(self, mode: bool = True) -> Self:
        """When first put into evaluation mode, which is after the heads were read, it takes what it works with, unless
        it is learning: what is kept of the data needs no encoder."""
        if not mode and self.features_in is None:
            self.borrow()
        return super().train(mode)

    def borrow(self) -> None:
        """Takes the encoder from `trunk`, and the tracker from `beside`."""
        device = self.head.places.device
        if self.encoder is None and self.trunk:
            encoder = weights.load(self.trunk, device).encoder
            if not isinstance(encoder, Encoder):
                raise ValueError(f"trunk={self.trunk}: its encoder has no blocks of tokens to look at")
            self.encoder = encoder.requires_grad_(False)
        if self.partner is None and self.beside:
            alone = not weights.read_header(self.beside)["fields"].get("beside")  # else two could name each other
            found = weights.load(self.beside, device) if alone else None
            if not isinstance(found, DCF):
                raise ValueError(f"beside={self.beside}: this is no tracker of this kind that works alone")
            self.partner = found

    @property
    def sights(self) -> list[tuple[Sight, float]]:
        """What looks at an object, and how much each counts."""
        if self.partner is None:
            return [(self, 1.0)]
        return [(self, 1 - self.beside_share), (self.partner, self.beside_share)]

    def factor(self, box: np.ndarray, frame: tuple[int, int]) -> float:
        """Side of the search region of an object given with this box, in square roots of its area."""
        most = self.search_cap * math.sqrt(frame[0] * frame[1] / box[2:].prod())
        return min(self.search_factor, max(2.0, most))

    def reach(self, state: State, row: int) -> float:
        """Side of an object's search region."""
        size = np.sqrt(state.boxes[row, 2:].prod()), self.search_floor * np.sqrt(state.sides[row].prod())
        return float(state.factors[row] * max(size))

    def look(
        self, state: State, frame: np.ndarray, rows: list[int], places: list[Region], steady: list[bool]
    ) -> list[Found]:
        """What is found of object `rows[k]` in region `places[k]`; `steady`: near where it was, as large as it was."""
        last = np.maximum(state.boxes[rows, 2:], self.search_floor / 2 * state.sides[rows])
        shares = last / np.array([[place.side] for place in places])
        known = [memory.known(rows) for memory in state.memories]
        views = [
            sight.answer(sight.embed(frame, places), sight.spectra(frame, places), one, shares, np.array(steady))
            for (sight, _), one in zip(self.sights, known)
        ]
        parts = [part for _, part in self.sights]
        agreed = agree([view.chance for view in views], parts)
        boxes, logits = [], []
        for (sight, _), view, one, (chance, peak) in zip(self.sights, views, known, agreed):
            reading = sight.pick(view, one, chance, peak)
            boxes.append(sight.corrected(reading, view, one, places))
            logits.append(reading.logits)
        between = amid(boxes, parts)
        scores = torch.from_numpy(sum(part * logit for part, logit in zip(parts, logits))).sigmoid().numpy()
        return [
            Found(box, float(score), tuple((view.features[k], view.spectra[k]) for view in views), place)
            for k, (box, score, place) in enumerate(zip(between, scores, places))
        ]

    # ---------------------------------------------------------------- tracking

    def start(self, frame: np.ndarray, target: Target) -> State:
        """A state that follows the objects of `target`, by their boxes or masks, from `frame` uint8 [H, W, 3] on.

        ValueError where there is no box, or one that has no area or lies outside the frame.
        """
        self.eval()
        self.borrow()
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
            unseen=np.zeros(0, np.int64),
            memories=(),
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
        factors = [self.factor(box, state.size) for box in boxes]
        stay = np.flatnonzero(~np.isin(state.ids, ids))
        fresh: dict[str, Any] = {
            "ids": ids,
            "boxes": boxes,
            "sides": boxes[:, 2:],
            "factors": np.array(factors),
            "scores": np.ones(len(ids)),
            "lost": np.zeros(len(ids), np.int64),
            "unseen": np.zeros(len(ids), np.int64),
        }
        both: dict[str, Any] = {
            name: np.concatenate([getattr(state, name)[stay], value]) for name, value in fresh.items()
        }
        memories = []
        for number, (sight, _) in enumerate(self.sights):
            new = [sight.fit(frame, box, factor) for box, factor in zip(boxes, factors)]
            memories.append(joined([*([state.memories[number].of(stay.tolist())] if len(stay) else []), *new]))
        return dataclasses.replace(state, **both, memories=tuple(memories))

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
        state, rows = self.glance(state, frame, rows)
        if rows:
            state = self.search(state, frame, rows)
        if prompt is not None:
            state = self.renew(state, frame, prompt)
        shown = np.where((state.scores < self.lost_below)[:, None], np.nan, state.boxes)
        return state, {state.index: Target(ids=state.ids, boxes=shown, scores=state.scores)}

    def planned(self, state: State, rows: list[int]) -> list[int]:
        """Those of the objects in `rows` that are to be looked at in full."""
        unsure = {row for row in rows if state.scores[row] < self.glance_above or state.lost[row]}
        due = [row for row in rows if row in unsure or state.unseen[row] + 1 >= self.full_every]
        due.sort(key=lambda row: -state.unseen[row] - URGENT * (row in unsure))
        return due[: self.full_most or None]

    def glance(self, state: State, frame: np.ndarray, rows: list[int]) -> tuple[State, list[int]]:
        """The state after some objects were followed by their filters on small cells alone, and those of the objects in
        `rows` that are yet to be looked at in full.

        Those are what is `planned`, and of the others what was surely seen lately and now is not. What was not surely
        seen, and has no turn, waits where it was.
        """
        able = [number for number, (sight, _) in enumerate(self.sights) if sight.fine_image]
        full = self.planned(state, rows) if able else rows
        waiting = [row for row in rows if row not in full]
        if not waiting:
            return state, rows
        sight, memory = self.sights[able[0]][0], state.memories[able[0]]
        middles = state.boxes[waiting, :2] + state.boxes[waiting, 2:] / 2
        places = [crops.region(middle, self.reach(state, row)) for row, middle in zip(waiting, middles)]
        responses = fine.respond(memory.fine[waiting], sight.spectra(frame, places))
        boxes, unseen = state.boxes.copy(), state.unseen.copy()
        for row, place, response in zip(waiting, places, responses):
            n = len(response)
            part = slice(n // 4, n - n // 4)
            spot, height = fine.peak(response, part, part)
            unseen[row] += 1
            if height >= self.glance_sure:
                centre = spot * place.side + [place.left, place.top]
                boxes[row, :2] = within(centre - boxes[row, 2:] / 2, boxes[row, 2:], state.size)
            elif state.scores[row] >= self.glance_above and not state.lost[row]:
                unseen[row] -= 1
                full.append(row)
        return dataclasses.replace(state, boxes=boxes, unseen=unseen), sorted(full)

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
        boxes, scores, lost, unseen = (getattr(state, name).copy() for name in ("boxes", "scores", "lost", "unseen"))
        for row, found in best.items():
            scores[row] = found.score
            lost[row] = 0 if found.score >= self.search_below else lost[row] + 1
            boxes[row] = self.settle(state, row, found)
            unseen[row] = 0
        waited = state.unseen
        state = dataclasses.replace(state, boxes=boxes, scores=scores, lost=lost, unseen=unseen)
        return self.remember(state, best, waited)

    def settle(self, state: State, row: int, found: Found) -> np.ndarray:
        """float64 [4]: the next box of an object: its place as found, its size on the way to what was found."""
        old, first = state.boxes[row, 2:], state.sides[row]
        if found.score < self.hold_below:
            held = state.scores[row] < self.hold_below
            return state.boxes[row] if held else np.concatenate([centred(found.box, old), old])
        lost = found.score < self.search_below and state.lost[row] >= self.patience
        rate = 0.0 if lost else self.size_rate * min(1.0, 0.5 + found.score)
        rate = 1 - (1 - rate) ** (1 + state.unseen[row])
        size = np.exp((1 - rate) * np.log(old) + rate * np.log(np.maximum(found.box[2:], 1e-3)))
        size = np.clip(size, first / self.size_limit, first * self.size_limit)
        size = np.maximum(np.minimum(size, [state.size[1], state.size[0]]), 2.0)
        return np.concatenate([within(centred(found.box, size), size, state.size), size])

    def remember(self, state: State, best: dict[int, Found], waited: np.ndarray) -> State:
        """The state after what was surely seen of objects has gone into their filters and second templates.

        `waited` [N]: for how many frames there had been no full look at them. What is due every so many frames is done
        with the first full look from then on.
        """

        def those(above: float, every: int = 1) -> list[int]:
            due = state.index % every <= waited
            return [row for row, found in best.items() if found.score >= above and due[row]]

        sharp, learned = those(self.update_above), those(self.update_above, self.update_every)
        recent, memories = those(self.template_above, self.template_every), []
        for number, ((sight, _), memory) in enumerate(zip(self.sights, state.memories)):
            for change, rows in ((sight.sharpened, sharp), (sight.learned, learned), (sight.recent, recent)):
                if rows:
                    looks = [best[row].looks[number] for row in rows]
                    inside = np.stack([best[row].place.inside(state.boxes[row]) for row in rows])
                    memory = change(memory, rows, looks, inside)
            memories.append(memory)
        return dataclasses.replace(state, memories=tuple(memories))


def without_borrowed(task: DCF, tensors: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    """Takes what belongs to other files out of what is saved of a tracker."""
    borrowed = (f"{prefix}partner.", *([f"{prefix}encoder."] if task.trunk else []))
    for name in [name for name in tensors if name.startswith(borrowed)]:
        del tensors[name]


def agree(chances: list[Tensor], parts: list[float]) -> list[tuple[Tensor, Tensor]]:
    """Chances [B, n, n] on the grid of each encoder, and the number of the cell with the highest [B], after all were
    multiplied, each with its part as exponent."""
    if len(chances) == 1:
        return [highest(chances[0])]
    n = max(chance.shape[-1] for chance in chances)
    both = torch.stack([part * on_grid(chance, n).clamp_min(1e-9).log() for chance, part in zip(chances, parts)])
    product = both.sum(0).exp()
    row, column = (product.flatten(1).argmax(1) // n, product.flatten(1).argmax(1) % n)
    found = []
    for chance in chances:
        own = chance.shape[-1]
        there = [((place + 0.5) / n * own).long() for place in (row, column)]
        found.append((on_grid(product, own), there[0] * own + there[1]))
    return found


def on_grid(chance: Tensor, n: int) -> Tensor:
    """float32 [B, n, n] of [B, m, m]."""
    return functional.interpolate(chance[:, None].float(), (n, n), mode="bilinear", align_corners=False)[:, 0]


def amid(boxes: list[np.ndarray], parts: list[float]) -> np.ndarray:
    """float64 [B, 4]: the mean of boxes x y w h, with their parts: of the centres, and of the logs of the sides."""
    if len(boxes) == 1:
        return boxes[0]
    centre = sum(part * (box[:, :2] + box[:, 2:] / 2) for box, part in zip(boxes, parts))
    size = np.exp(sum(part * np.log(np.maximum(box[:, 2:], 1e-6)) for box, part in zip(boxes, parts)))
    return np.concatenate([centre - size / 2, size], 1)


def within(corner: np.ndarray, size: np.ndarray, frame: tuple[int, int]) -> np.ndarray:
    """float64 [2]: the corner of a box of this size whose centre does not leave a frame of this height and width."""
    return np.clip(corner, -size / 2, np.array([frame[1], frame[0]]) - size / 2)


def centred(box: np.ndarray, size: np.ndarray) -> np.ndarray:
    """float64 [2]: the corner of a box of another size around the same centre."""
    return box[:2] + box[2:] / 2 - size / 2
