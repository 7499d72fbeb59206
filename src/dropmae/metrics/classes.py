"""Classification of videos: probabilities of several views, their mean, top-1 and top-5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dropmae.target import Target

BEST = 5
"""Classes that an answer names."""


class Views(dict[str, float]):
    """The likeliest classes, {class: probability}, the first one first: of the mean of several views' probabilities.

    Means of probabilities and not of logits, as all official evaluations take them.
    """

    def __init__(self, labels: Sequence[str], views: np.ndarray) -> None:
        """Probabilities [V, C] of the classes `labels`, a row per view."""
        mean = np.asarray(views, np.float64).mean(0)
        super().__init__((labels[i], float(mean[i])) for i in np.argsort(-mean, kind="stable")[:BEST].tolist())
        self.labels, self.views = tuple(labels), np.asarray(views, np.float32)


def views_of(target: Target) -> tuple[tuple[str, ...], np.ndarray]:
    """Classes and their probabilities [V, C] in an answer; one without views is a view itself."""
    classes = target.classes or {}
    if isinstance(classes, Views):
        return classes.labels, classes.views
    return tuple(classes), np.array([list(classes.values())], np.float32)


def class_of(targets: Mapping[int, Target]) -> str | None:
    """The class of a labelled video: the likeliest one of the first frame that tells any; None where none does."""
    for frame in sorted(targets):
        if classes := targets[frame].classes:
            return max(classes, key=lambda name: classes[name])
    return None


def within(scores: np.ndarray, label: int, count: int) -> bool:
    """Whether fewer than `count` of the scores [C] are above that of the label: ties do not count against it."""
    return int((scores > scores[label]).sum()) < count


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities [V, C]."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
