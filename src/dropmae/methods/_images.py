"""What methods share that learn from crops of single frames or pairs: the fields of an encoder and of the crops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dropmae.contracts import Method
from dropmae.data.augment import crop_frames
from dropmae.data.clips import Sequence
from dropmae.nn.vit import FORMS, SIZES, Encoder, Shape, Size


@dataclass(kw_only=True, eq=False, repr=False)
class PictureMethod(Method):
    """A method whose encoder sees patches of pictures of one size; `frames` says how many frames a sample has."""

    frames = 1

    # Model
    size: Size = "base"
    """Width, depth and heads of encoder and decoder."""
    image: int | tuple[int, int] = 224
    """Side of the training pictures in pixels, or their height and width: multiples of the patch."""
    patch: int = 0
    """Side of a patch in pixels; 0 takes that of the size (16, for huge 14)."""
    # Training samples
    scale: tuple[float, float] = (0.2, 1.0)
    """Area of the random crop as a share of the frame: least and most."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    # Model
    cls: bool = False
    """Whether a class token goes through encoder and decoder, as in MAE."""
    learned_positions: int | tuple[int, int] = 0
    """Side in patches, or height and width, of a learned position table, for foreign encoders; 0: fixed sin-cos."""
    depth: int = 0
    """Blocks of the encoder; 0 takes those of the size."""
    heads: int = 0
    """Attention heads of the encoder; 0 takes those of the size."""
    form: Literal["plain", "transformers", "clip", "openclip", "beit"] = "plain"
    """What foreign encoders do otherwise: `nn.vit.FORMS`."""

    def __post_init__(self) -> None:
        super().__init__()
        if self.size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, not {self.size!r}")
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, not {self.form!r}")
        shape = SIZES[self.size]
        shape = shape._replace(depth=self.depth or shape.depth, heads=self.heads or shape.heads)
        if shape.depth < 1 or shape.heads < 1 or shape.width % shape.heads:
            raise ValueError(f"depth must be positive, and the number of heads divide the width, {shape.width}")
        self.patch = self.patch or shape.patch
        sides = (self.image, self.image) if isinstance(self.image, int) else tuple(self.image)
        if not isinstance(self.image, int):
            self.image = (sides[0], sides[1])
        if any(side <= 0 or side % self.patch for side in sides):
            raise ValueError(f"image {sides[0]}x{sides[1]} is not a multiple of the {self.patch}-pixel patch")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"the crop scale must be 0 < least <= most <= 1, not {self.scale}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"the flip probability must be in [0, 1], not {self.flip}")
        self.sides = (sides[0], sides[1])
        self.grid = (sides[0] // self.patch, sides[1] // self.patch)
        side = self.learned_positions
        learned = (side, side) if isinstance(side, int) else (side[0], side[1])
        if FORMS[self.form].relative and learned != self.grid:
            raise ValueError(
                f"the biases of form {self.form} are by relative position on a {learned[0]}x{learned[1]} grid: they "
                f"are not for pictures of {self.grid[0]}x{self.grid[1]} patches"
            )
        self.build(shape, learned if all(learned) else None)
        self.encoder.positions.home = self.grid

    def build(self, shape: Shape, learned: tuple[int, int] | None) -> None:
        """Makes the parts, for an encoder of the given shape and grid of learned positions."""
        self.encoder = self.make_encoder(shape, learned, self.frames)

    def make_encoder(self, shape: Shape, learned: tuple[int, int] | None, frames: int) -> Encoder:
        """An encoder of the method's fields."""
        return Encoder(
            shape.width,
            shape.depth,
            shape.heads,
            self.patch,
            frames=frames,
            cls=self.cls,
            learned_grid=learned,
            form=FORMS[self.form],
        )

    def sample(self, sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
        """One training sample: `frames` uint8 [1, 3, H, W], a random frame under a random crop and flip."""
        frame = sequence.video[int(rng.integers(len(sequence.video)))]
        return {"frames": crop_frames([frame], rng, self.sides, self.scale, flip=self.flip, shared=False)}
