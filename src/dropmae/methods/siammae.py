"""SiamMAE (Gupta et al., NeurIPS 2023, arXiv 2305.14344): the future frame from 5 % of itself and the whole past.

The paper has no public code. Confirmed by its text and its followers: a siamese encoder, no mask on the past frame and
95 % on the future one, a decoder in which the future attends to the past and to itself, normalised pixels, gap 4-48,
one crop of area 0.5-1 and one flip for both frames, two pairs of every video opened (`--repeats 2`).
"""

from __future__ import annotations

from dataclasses import dataclass

from dropmae.methods._siamese import PRESETS, Siamese, spaced_pair

__all__ = ["PRESETS", "SiamMAE", "spaced_pair"]


@dataclass(kw_only=True, eq=False, repr=False)
class SiamMAE(Siamese):
    """Siamese masked autoencoder: the hidden 95 % of the future frame are predicted with the help of the past frame.

    Frame 0 is the past, given whole; frame 1 is the future.
    """
