"""Pairs as `layers` renders them, of which many are streets that are driven along, and many have little texture.

Use: dropmae finetune flow recipes/fast_layers.py=PICTURES --noise 6 --init RUN --out OUT
"""

from __future__ import annotations

from collections.abc import Sequence as Listed
from dataclasses import dataclass
from pathlib import Path

from dropmae.datasets.layers import Layers
from dropmae.rendering.layers import Moves
from dropmae.sequence import Sequence

MOVES = Moves(shift=(0.3, 60.0), approach=0.35, plain=0.3)


@dataclass(kw_only=True)
class FastLayers(Layers):
    """See above."""

    def sequences(self, root: Path, split: str | None = None) -> Listed[Sequence]:
        self.moves = MOVES
        return super().sequences(root, split)
