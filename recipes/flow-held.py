"""End-point error of flow on rendered pairs of pictures kept apart, by which weights of flow are chosen.

Use: python recipes/flow-held.py PICTURES WEIGHTS ...

Means in pixels over pairs of the split `held` of `layers`, the same for all weights: `plain` 24 pairs of 320 x 448,
`wide` 8 of 368 x 1232 with shifts up to 160 pixels, and as recipes/fast_layers.py moves them `fast`, 16 of 320 x 448,
and `street`, 6 of 368 x 1232 in which all backgrounds are streets that are driven along.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from dropmae import weights
from dropmae.datasets.layers import Layers
from dropmae.rendering.layers import Moves
from dropmae.target import empty

WIDE = 368, 1232
SETS = {
    "plain": (24, Layers(size=(320, 448))),
    "wide": (8, Layers(size=WIDE, moves=Moves(shift=(0.3, 160.0)))),
    "fast": (16, Layers(size=(320, 448), moves=Moves(shift=(0.3, 60.0), approach=0.35, plain=0.3))),
    "street": (6, Layers(size=WIDE, moves=Moves(shift=(2.0, 160.0), approach=1.0, plain=0.5))),
}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("weights", nargs="+")
    given = parser.parse_args()
    models = [weights.load(file) for file in given.weights]
    print(f"| pairs | zero | {' | '.join(given.weights)} |\n|{'---|' * (2 + len(models))}")
    for name, (count, data) in SETS.items():
        sequences, rows = data.sequences(given.pictures, "held"), []
        for number in range(count):
            pair = sequences[number % len(sequences)].drawn(np.random.default_rng(1000 + number))
            flow, frames = pair.targets[0].flow, pair.video[[0, 1]]
            assert flow is not None
            known = np.isfinite(flow).all(-1)
            errors = [np.linalg.norm(flow[known], axis=-1).mean()]
            for model in models:
                state, found = model.step(model.start(frames[0], empty()), frames[1])
                found |= model.finish(state)
                errors.append(np.linalg.norm((found[0].flow - flow)[known], axis=-1).mean())
            rows.append(errors)
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in np.mean(rows, 0))} |", flush=True)


if __name__ == "__main__":
    main()
