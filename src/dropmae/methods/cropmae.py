"""CropMAE (Eymael et al., ECCV 2024, arXiv 2403.17823): a crop of a picture from 1.5 % of itself and the whole picture.

Single pictures suffice, so any folder of images or videos will do. Departs from the public code in two points: crops
follow the usual rule of ten tries where theirs are clamped, and they are resized by bicubic interpolation, the local
crop from the frame itself and not from the global crop as it was resized.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dropmae.data.augment import Crops, crop_box
from dropmae.data.clips import Sequence
from dropmae.methods._siamese import Siamese


@dataclass(kw_only=True, eq=False, repr=False)
class CropMAE(Siamese):
    """Siamese masked autoencoder of two crops of one frame: frame 0 is the global crop, frame 1 a crop within it.

    Flips are independent, so that half of the pairs are mirrored against each other. `gap` and `crop` mean nothing.
    """

    # Objective
    mask_ratio: float = 0.985
    """Share of the local crop's tokens that is hidden; the global one is never masked."""
    # Training samples
    scale: tuple[float, float] = (0.5, 1.0)
    """Area of the global crop as a share of the frame: least and most; the paper has .5 for K400, .1 for ImageNet."""
    local: tuple[float, float] = (0.3, 0.6)
    """Area of the local crop as a share of the global one."""
    # Decoder
    preset: Literal["siammae", "cropmae", "rsp", "croco"] = "cropmae"
    """Whose decoder: sets the options below that are not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.local[0] <= self.local[1] <= 1:
            raise ValueError(f"the local crop must be 0 < least <= most <= 1 of the global one, not {self.local}")

    def sample(self, sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
        """Two crops of a random frame: `frames` uint8 [2, 3, H, W], the global one first."""
        frame = sequence.video[int(rng.integers(len(sequence.video)))]
        crops = Crops([], [], self.sides)
        top, left, height, width = crop_box(frame.shape[0], frame.shape[1], rng, self.scale)
        down, across, high, wide = crop_box(height, width, rng, self.local)
        for box in ((top, left, height, width), (top + down, left + across, high, wide)):
            crops.add(frame, box, bool(rng.random() < self.flip))
        return {"frames": crops}
