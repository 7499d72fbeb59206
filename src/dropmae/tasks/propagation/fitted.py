"""A linear model of the objects of one video: which of them a token shows, by its features alone.

Propagation asks which tokens of other frames a token is like (transductive); this learns from all of them at once what
sets the objects apart (inductive). They err in different places: "Joint Inductive and Transductive Learning for Video
Object Segmentation" (arXiv 2108.03679) trains a network on both, after few-shot learners as that of LWL (2003.11540).
Here the model is a ridge regression on features that learn nothing, of which sums are kept, and no frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dropmae.ops import ridge

RIDGE = 0.01
"""Regularisation, in units of the mean of the Gram matrix's diagonal."""
RATE, KNOWN = 0.1, 0.5
"""Share of a new frame in what is remembered of the frames that were predicted; weight of what is known for good."""


@dataclass(eq=False)
class Model:
    """What is remembered of a video: of constant size."""

    known: tuple[Tensor, Tensor]
    """Sums over the frames in which labels were given, [D, D] and [D, K]."""
    lately: tuple[Tensor, Tensor]
    """Of the frames since, the last ones counting most."""
    prompts: int
    """How many frames the first are of."""
    weights: Tensor
    """[D, K]"""


def seen(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """[N, D]: unit features [N, C] of tokens, those of the nine around each, averaged, and a constant."""
    map_ = features.T.unflatten(1, grid)[None]
    around = functional.avg_pool2d(map_, 3, 1, 1, count_include_pad=False)[0].flatten(1).T
    return torch.cat([features, functional.normalize(around, dim=1), features.new_ones(len(features), 1)], 1)


def begun(rows: Tensor, labels: Tensor) -> Model:
    """The model of what is `seen` [N, D] and labelled [N, K] in a first frame."""
    known = ridge.sums(rows, labels, len(rows))
    return Model(known, known, 1, ridge.solve(*known, RIDGE))


def answered(model: Model, rows: Tensor) -> Tensor:
    """[N, K]: the share of each label in each token."""
    answer = (rows @ model.weights).clamp(0, 1)
    return answer / answer.sum(1, keepdim=True).clamp(min=1e-6)


def updated(model: Model, rows: Tensor, labels: Tensor, given: bool) -> Model:
    """The model after another frame whose labels [N, K] were `given`, or predicted.

    It begins anew where there are more labels than before: what was seen till then says nothing of the new ones.
    """
    if labels.shape[1] != model.weights.shape[1]:
        return begun(rows, labels)
    fresh = ridge.sums(rows, labels, len(rows))
    prompts = model.prompts + given
    known = mixed(model.known, fresh, 1 / prompts) if given else model.known
    lately = fresh if given else mixed(model.lately, fresh, RATE)
    return Model(known, lately, prompts, ridge.solve(*mixed(known, lately, 1 - KNOWN), RIDGE))


def mixed(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], share: float) -> tuple[Tensor, Tensor]:
    """Sums of which a `share` is of others."""
    return one[0].lerp(other[0], share), one[1].lerp(other[1], share)
