"""Following boxes through LiDAR scans with a plain ViT: two crops become tokens, and each token votes for the box.

The tokens of an earlier crop and of the scan at hand attend to each other, as template and search region do in
one-stream trackers. Every token says whether it holds the object and where the object's centre is; the votes are
averaged. Motion between scans is taken to go on as it was.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dropmae.contracts import Task
from dropmae.contracts.models import Taken
from dropmae.metrics.boxes3d import inside, moved, offset
from dropmae.nn.vit import SIZES, Encoder, Size
from dropmae.sequence import Sequence
from dropmae.target import Target
from dropmae.tasks.lidar.align import GROUND, fit
from dropmae.tasks.lidar.crops import around, cloud, ground, prompted_boxes, radius, reference, sampled
from dropmae.tasks.lidar.motion import Belief, ahead, begun, corrected, later
from dropmae.tasks.lidar.samples import sample
from dropmae.tasks.lidar.stems import Picture, Pillars, cells

TURN = 0.25
"""Radians of yaw that a vote of 1 means."""
SHORT = 2.2
"""Length in metres of people and cyclists, at the most: they move little themselves from scan to scan."""
SCENE = 8.0
"""Half the side, in metres, of the square around a short box in which the scanner's own motion is looked for."""
STAYS = 0.4
"""Share of the points there that must lie on the next scan's."""
VOTES = np.array([1.0, 1.0, 10.0, 10.0])
"""How much more cautiously the votes' x y z and yaw are taken: height and yaw would drift with what is remembered."""
FLOOR = np.array([1e3, 1e3, 0.1, 1e3])
"""Standard deviation of the place of a box on the ground, which tells the height alone."""


class Vote(NamedTuple):
    """What the votes of an object come to."""

    offset: np.ndarray
    """float64 [4]: x y z, yaw, in the axes of the expected box."""
    doubt: np.ndarray
    """float64 [4]: how far off it is as often as not."""
    score: float
    """Confidence, in [0, 1]."""


@dataclass(kw_only=True, frozen=True, eq=False)
class State:
    """Where N objects are and what is known of them; nothing in it grows with time."""

    index: int
    """The frame it belongs to, counted from the one that tracking started with."""
    ids: np.ndarray
    """int64 [N]"""
    boxes: np.ndarray
    """float64 [N, 7]"""
    steps: np.ndarray
    """float64 [N, 4]: how far each moved lately from scan to scan, x y z in metres and yaw."""
    doubts: np.ndarray
    """float64 [N, 8, 8]: covariance of place and step, see `motion`."""
    scores: np.ndarray
    """float64 [N]"""
    ages: np.ndarray
    """int64 [N]: scans since it was given."""
    floors: np.ndarray
    """float64 [N]: how high the ground lay beside its box when it was given, in its axes; nan where that is unknown."""
    firsts: tuple[np.ndarray, ...]
    """Its points when it was given, float64 [P, 3] in its axes, of each object."""
    scenes: tuple[np.ndarray, ...]
    """float64 [P, 3]: what stood around it then, in its axes, until its second scan; nothing of cars and vans."""
    latest: tuple[np.ndarray, ...]
    """float64 [P, 3]: the points around it in the latest scan in which it was found, in the axes of its box there."""


@dataclass(kw_only=True, eq=False, repr=False)
class Lidar(Task):
    """Follows boxes through LiDAR scans."""

    takes = ("boxes3d",)
    gives = ("boxes3d", "scores")
    frame_kind = "scan"
    use = ("follow", "coast_below", "prior", "spread", "first_spread", "change", "caution")
    recipe = {
        "lr": 1.6e-2,
        "schedule": "cosine",
        "warmup": "3%",
        "clip": 1.0,
        "weight_decay": 0.02,
        "global_batch": 16,
        "epoch_samples": 3200,
    }

    # Model
    size: Size = "tiny"
    """Width and heads of the encoder."""
    depth: int = 2
    """Blocks of the encoder; of pre-trained ones that have more, the first so many are taken over."""
    patch: int = 16
    """Side of a patch in pixels, of the stem `image`."""
    stem: Literal["pillar", "image"] = "pillar"
    """How points become tokens: each cell by a small network of its own, or the view from above as a picture that goes
    through the encoder's patch embedding."""
    grid: int = 8
    """Cells along the side of the square that is searched."""
    grid_before: int = 4
    """Cells along the side of the square around the earlier box; a cell is as large as of the other."""
    points: tuple[int, int, int] = (512, 192, 128)
    """Points that are looked at: of the scan at hand, of the one before, and of the object as it was given."""
    reach: float = 2.0
    """Half the side of the square in metres, and 0.7 times the object's longer side more."""
    # Loss
    vote_weight: float = 1.0
    """Of the votes of tokens that hold the object."""
    mean_weight: float = 2.0
    """Of what the votes come to."""
    # In use
    follow: Literal["votes", "points", "both"] = "both"
    """What moves a box: the votes; the fit of the object's remembered points to the scan; or both, the fit near where
    the votes lead."""
    coast_below: float = 0.15
    """Confidence of the votes, or share of the points that fit, below which a box goes on as it moved before."""
    prior: float = 0.05
    """What a fit loses that is one `spread` from there, of the share of points that lie on the scan's."""
    spread: float = 0.3
    """Metres that a fit is expected to be from there, at the least."""
    first_spread: float = 1.0
    """The same, at the most: where it is not known how an object moves."""
    change: float = 0.1
    """Metres by which the step of an object is expected to change from scan to scan."""
    caution: float = 3.0
    """How many times as far off as they say the votes are taken to be."""

    def __post_init__(self) -> None:
        super().__init__()
        if not 1 <= self.grid_before <= self.grid or self.grid % 2 != self.grid_before % 2:
            raise ValueError(f"grid-before is 1 to grid, both even or both odd, not {self.grid_before} and {self.grid}")
        if self.depth < 1 or min(self.points) < 1 or not 0 < self.reach <= 100:
            raise ValueError("depth, points and reach must be positive")
        shape = SIZES[self.size]
        self.encoder = Encoder(shape.width, self.depth, shape.heads, self.patch, frames=2)
        self.encoder.patch_embed.requires_grad_(self.stem == "image")
        width = shape.width
        stem = Pillars(width) if self.stem == "pillar" else Picture(self.encoder)
        last = nn.Linear(width, 10)
        nn.init.zeros_(last.weight)  # so that learning begins with boxes where they are expected
        nn.init.zeros_(last.bias)
        self.head = nn.ModuleDict({
            "stem": stem,
            "size": nn.Sequential(nn.Linear(4, 64), nn.GELU(), nn.Linear(64, width)),
            "votes": nn.Sequential(nn.Linear(width, width), nn.GELU(), last),
        })  # fmt: skip

    def take_over(self, source: Any, kind: str, where: str | Path) -> Taken:
        """As every task does it; of a deeper encoder the first blocks are taken."""
        blocks = source.encoder.blocks
        if type(source) is not type(self) and len(blocks) > self.depth:
            source.encoder.blocks = blocks[: self.depth]
        return super().take_over(source, kind, where)

    # ---------------------------------------------------------------- the network

    def votes(self, query: Tensor, before: Tensor, size: Tensor, reach: Tensor) -> Tensor:
        """[B, grid ** 2, 10]: of every token a logit that it holds the object, the offset of the object's box from the
        expected one (x y z in metres, yaw), a logit that this is right, and the logarithms of how far off each of the
        four may be.

        From points [B, K, 3] around the expected box and [B, K', 5] around an earlier one, see `crops.reference`; the
        box's `size` [B, 3], and `reach` [B], half the side of the square.
        """
        side = 2 * reach / self.grid
        plain = torch.cat([query, torch.full_like(query[..., :1], 0.5), torch.zeros_like(query[..., :1])], -1)
        encoder, stem = self.encoder, self.head["stem"]
        now, then = stem(plain, size, side, self.grid), stem(before, size, side, self.grid_before)
        place = encoder.positions((self.grid, self.grid), now.device)
        edge = (self.grid - self.grid_before) // 2
        inner = place.unflatten(1, (self.grid, self.grid))[:, edge : self.grid - edge, edge : self.grid - edge]
        large = self.head["size"](torch.cat([size.log(), reach[:, None].log()], -1))[:, None]
        frame = encoder.frame_embed
        assert frame is not None
        tokens = torch.cat([now + place + frame(0) + large, then + inner.flatten(1, 2) + frame(1) + large], 1)
        made = self.head["votes"](encoder.encode(tokens)[:, : self.grid**2]).float()
        scale = (reach / 8)[:, None, None]
        return torch.cat([made[..., :1], made[..., 1:4] * scale, made[..., 4:5] * TURN, made[..., 5:]], -1)

    def settle(self, votes: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Offset [B, 4], how far off it is as often as not [B, 4], its confidence as a logit [B], and the largest logit
        [B] that a token holds the object."""
        weight = votes[..., 0].softmax(1)[..., None]
        mean = (weight * votes[..., 1:]).sum(1)
        return mean[:, :4], mean[:, 5:].clamp(-3, 4).exp() * units(size), mean[:, 4], votes[..., 0].amax(1)

    # ---------------------------------------------------------------- training

    def sample(self, sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
        return sample(sequence, rng, self.reach, (self.grid, self.grid_before), self.points)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Of samples with "query", "reference", "size" and "reach" as `votes` takes them, and "offset" [B, 4], where
        the box is, seen from the expected one."""
        size, true = batch["size"], batch["offset"]
        votes = self.votes(batch["query"], batch["reference"], size, batch["reach"])
        held = self.holding(batch)
        some = held.any(1)
        known = some.float() / some.sum().clamp(min=1)
        bce = functional.binary_cross_entropy_with_logits(votes[..., 0], held.float(), reduction="none")
        target = ((bce * held).sum(1) / held.sum(1).clamp(min=1) + (bce * ~held).sum(1) / (~held).sum(1)).mean()
        unit = units(size)
        error = robust((votes[..., 1:5] - true[:, None]) / unit[:, None])
        vote = ((error * held).sum(1) / held.sum(1).clamp(min=1) * known).sum()
        mean, doubt, sure, _ = self.settle(votes, size)
        whole = (robust((mean - true) / unit) * known).sum()
        doubtful = (2 * ((mean - true).detach().abs() / doubt).log1p() + (doubt / unit).log()).mean()
        with torch.no_grad():
            left = ((1 - (mean - true)[:, :3].abs() / size[:, [1, 0, 2]]).clamp(min=0)).prod(1)
            overlap = left / (2 - left) * some
        trust = functional.binary_cross_entropy_with_logits(sure, overlap)
        loss = target + self.vote_weight * vote + self.mean_weight * whole + 0.5 * trust + 0.5 * doubtful
        made = {"loss": loss, "target": target, "vote": vote, "whole": whole, "trust": trust, "doubtful": doubtful}
        made |= {"metres": ((mean - true)[:, :3].norm(dim=1) * known).sum(), "overlap": (overlap * known).sum()}
        return made | {
            "still": (true[:, :3].norm(dim=1) * known).sum(),
            "yaw": ((mean - true)[:, 3].abs() * known).sum(),
        }

    def holding(self, batch: dict[str, Any]) -> Tensor:
        """bool [B, grid ** 2]: the cells that hold points of the object, the ground's in its box left out."""
        points, true, size = batch["query"], batch["offset"][:, None], batch["size"][:, None]
        shifted, cosine, sine = points - true[..., :3], true[..., 3].cos(), true[..., 3].sin()
        x, y = shifted[..., 0] * cosine + shifted[..., 1] * sine, shifted[..., 1] * cosine - shifted[..., 0] * sine
        own = torch.stack([x, y, shifted[..., 2]], -1).abs() <= size[..., [1, 0, 2]] / 2 + 0.03
        own[..., 2] &= shifted[..., 2] > GROUND - size[..., 2] / 2
        index, _ = cells(points, self.grid, 2 * batch["reach"] / self.grid)
        held = torch.zeros(len(points), self.grid**2 + 1, device=points.device)
        return held.scatter_reduce(1, index, own.all(-1).float(), "amax")[:, :-1] > 0

    # ---------------------------------------------------------------- tracking

    def start(self, frame: np.ndarray, target: Target) -> State:
        """A state that follows the boxes of `target` from a scan on; a box may be empty.

        ValueError where there is none, or one without a size.
        """
        nothing = State(
            index=0, ids=np.zeros(0, np.int64), boxes=np.zeros((0, 7)), steps=np.zeros((0, 4)),
            doubts=np.zeros((0, 8, 8)), scores=np.zeros(0), ages=np.zeros(0, np.int64), floors=np.zeros(0), firsts=(),
            scenes=(), latest=(),
        )  # fmt: skip
        state = self.renew(nothing, cloud(frame), target)
        if not len(state.ids):
            raise ValueError("there is nothing to follow: the target has no 3-D box")
        return state

    def renew(self, state: State, points: np.ndarray, target: Target) -> State:
        """`state` with the objects of `target` seen anew: known ids start over with the steps they had."""
        ids, boxes = prompted_boxes(target)
        stay = [row for row, number in enumerate(state.ids.tolist()) if number not in ids]
        rows = {number: row for row, number in enumerate(state.ids.tolist())}
        steps = [state.steps[rows[number]] if number in rows else np.zeros(4) for number in ids.tolist()]
        near = [around(points, box, radius(box, self.reach)) for box in boxes]
        firsts = [self.kept(own[inside(own, box, 0.05)], self.points[2]) for own, box in zip(near, boxes)]
        levels = [ground(own, box) for own, box in zip(near, boxes)]
        return State(
            index=state.index,
            ids=np.concatenate([state.ids[stay], ids]),
            boxes=np.concatenate([state.boxes[stay], boxes]),
            steps=np.concatenate([state.steps[stay], np.reshape(steps, (-1, 4))]),
            doubts=np.concatenate([state.doubts[stay], np.reshape([begun() for _ in ids], (-1, 8, 8))]),
            scores=np.concatenate([state.scores[stay], np.ones(len(ids))]),
            ages=np.concatenate([state.ages[stay], np.zeros(len(ids), np.int64)]),
            firsts=(*(state.firsts[row] for row in stay), *firsts),
            floors=np.concatenate([state.floors[stay], np.array(levels, np.float64)]),
            scenes=(*(state.scenes[row] for row in stay), *(self.scene(points, box) for box in boxes)),
            latest=(*(state.latest[row] for row in stay), *(self.recent(points, box) for box in boxes)),
        )

    def recent(self, points: np.ndarray, box: np.ndarray) -> np.ndarray:
        """float64 [P, 3]: what is remembered of the surroundings of a box, in its axes."""
        return self.kept(around(points, box, radius(box, self.reach) * self.grid_before / self.grid), self.points[1])

    @staticmethod
    def kept(points: np.ndarray, count: int) -> np.ndarray:
        """At most so many of the points, always the same ones."""
        return points if len(points) <= count else points[np.random.default_rng(0).choice(len(points), count, False)]

    def step(self, state: State, frame: np.ndarray, prompt: Target | None = None) -> tuple[State, dict[int, Target]]:
        """The next state, and {frame index: boxes and scores of all objects} for the next scan float32 [P, C].

        Where no points are around the place in which a box is expected, or the votes are not to be trusted, the box
        goes on as it moved before.
        """
        points = cloud(frame)
        state = dataclasses.replace(state, index=state.index + 1, ages=state.ages + 1)
        told = set() if prompt is None else set(prompted_boxes(prompt)[0].tolist())
        rows = [row for row, number in enumerate(state.ids.tolist()) if number not in told]
        if rows:
            state = self.seek(state, points, rows)
        if prompt is not None:
            state = self.renew(state, points, prompt)
        return state, {state.index: Target(ids=state.ids, boxes3d=state.boxes, scores=state.scores)}

    def seek(self, state: State, points: np.ndarray, rows: list[int]) -> State:
        """The state after looking for the objects in `rows`, all crops as one batch."""
        state = self.carried(state, points, rows)
        expected = {row: ahead(state.boxes[row], state.steps[row]) for row in rows}
        queries, backs = {}, []
        rng = np.random.default_rng(state.index)
        for row, box in expected.items():
            near = around(points, box, radius(box, self.reach))
            if len(near):
                queries[row] = near
                given = bool(state.ages[row] == 1)
                backs.append(remembered(state.latest[row], box, state.firsts[row], self.points[1:], given, rng))
        found = self.look(queries, backs, expected, rng) if queries and self.follow != "points" else {}
        boxes, steps, scores, latest = state.boxes.copy(), state.steps.copy(), state.scores.copy(), list(state.latest)
        doubts = state.doubts.copy()
        for row, box in expected.items():
            known = Belief(box, steps[row], later(doubts[row], self.change))
            known, scores[row] = self.placed(state, row, known, queries.get(row), found.get(row))
            boxes[row], steps[row], doubts[row] = known
            if scores[row] >= self.coast_below:
                latest[row] = self.recent(points, boxes[row])
        return dataclasses.replace(state, boxes=boxes, steps=steps, doubts=doubts, scores=scores, latest=tuple(latest))

    def placed(
        self, state: State, row: int, known: Belief, near: np.ndarray | None, voted: Vote | None
    ) -> tuple[Belief, float]:
        """What is known of an object after the points `near` it and the votes were looked at, and the confidence."""
        if near is None:
            return known, 0.0
        start, level = known, ground(near, known.box)
        if level is not None and np.isfinite(state.floors[row]):
            known = corrected(known, np.array([0.0, 0.0, level - state.floors[row], 0.0]), FLOOR)
        score = 0.0
        if voted is not None:
            score = voted.score
            if score < self.coast_below:
                return known, score
            there = offset(known.box, moved(start.box, voted.offset))
            known = corrected(known, there, self.caution * VOTES * voted.doubt)
        if self.follow == "votes":
            return known, score
        box, latest = start.box, state.latest[row]
        own = np.array([0.0, 0.0, 0.0, *box[3:6], 0.0])
        model = np.concatenate([state.firsts[row], latest[inside(latest, own, 0.1)]])
        spread = float(np.clip(np.sqrt(known.covariance[[0, 1], [0, 1]].mean()), self.spread, self.first_spread))
        guess = offset(box, known.box)
        found = fit(near, model, float(box[5]), radius(box, self.reach), guess, spread, self.prior)
        if found is None or found.share < self.coast_below:
            return known, score
        there = offset(known.box, moved(box, found.offset))
        return corrected(known, there, found.doubt(float(box[4]))), found.share if voted is None else score

    def carried(self, state: State, points: np.ndarray, rows: list[int]) -> State:
        """The state with the first steps of people and cyclists as what stands around them moved: by the scanner's own
        motion. How cars and vans move is their own matter."""
        steps, doubts, scenes = state.steps.copy(), state.doubts.copy(), list(state.scenes)
        for row in rows:
            if len(scenes[row]):
                box, near = state.boxes[row], around(points, state.boxes[row], SCENE)
                found = fit(near, scenes[row], float(max(box[5], 1.5)), SCENE, np.zeros(4), 1.0, 0.03)
                if found is not None and found.share >= STAYS:
                    steps[row, :2] = moved(box, found.offset)[:2] - box[:2]
                    doubts[row, [4, 5], [4, 5]] = (0.1 + 0.2 * box[4]) ** 2
                scenes[row] = scenes[row][:0]
        return dataclasses.replace(state, steps=steps, doubts=doubts, scenes=tuple(scenes))

    def scene(self, points: np.ndarray, box: np.ndarray) -> np.ndarray:
        """float64 [P, 3]: what stands around a box, in its axes; nothing of a box longer than SHORT."""
        near = around(points, box, SCENE) if box[4] < SHORT else np.zeros((0, 3))
        return self.kept(near[~inside(near, box, 0.3)], 512)

    def look(
        self, queries: dict[int, np.ndarray], backs: list[np.ndarray], expected: dict[int, np.ndarray], rng: Any
    ) -> dict[int, Vote]:
        """{row: what the votes come to}."""
        device = self.encoder.patch_embed.weight.device
        boxes = np.stack([expected[row] for row in queries])
        reach = [radius(box, self.reach) for box in boxes]
        given = (
            np.stack([sampled(near, self.points[0], rng) for near in queries.values()]),
            np.stack(backs), boxes[:, 3:6].astype(np.float32), np.array(reach, np.float32),
        )  # fmt: skip
        query, before, size, far = (torch.from_numpy(part).to(device) for part in given)
        mean, doubt, sure, held = self.settle(self.votes(query, before, size, far), size)
        score = sure.sigmoid() * (2 * held.sigmoid()).clamp(max=1)
        found = (part.double().cpu().numpy() for part in (mean, doubt, score))
        return {row: Vote(step, far, float(one)) for row, step, far, one in zip(queries, *found)}


def units(size: Tensor) -> Tensor:
    """[B, 4]: what errors of x y z and yaw are measured in, of boxes of these sizes [B, 3]."""
    return torch.cat([size[:, [1, 0, 2]].clamp(min=0.5) / 4, torch.full_like(size[:, :1], 0.15)], 1)


def robust(error: Tensor) -> Tensor:
    """The sum over the last dimension of errors, quadratic up to 0.3."""
    return functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.3, reduction="none").sum(-1)


def remembered(
    latest: np.ndarray, box: np.ndarray, first: np.ndarray, counts: tuple[int, int], given: bool, rng: Any
) -> np.ndarray:
    """float32 [K, 5]: as `crops.reference`, of points that are in the axes of the box already."""
    own = np.array([0.0, 0.0, 0.0, *box[3:6], 0.0])
    return reference(latest, own, first, np.inf, counts, given, rng)
