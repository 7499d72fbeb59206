"""TwinMAE (DropMAE section 3.1): a masked autoencoder over two frames, DropMAE's baseline with P = 0."""

from __future__ import annotations

from dataclasses import dataclass

from dropmae.methods._masked_autoencoder import PairAutoencoder


@dataclass(kw_only=True, eq=False, repr=False)
class TwinMAE(PairAutoencoder):
    """Masked autoencoder of frame pairs: one random mask over both frames, joint attention, identity embeddings."""
