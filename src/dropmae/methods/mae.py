"""MAE on single frames of video (He et al., CVPR 2022, arXiv 2111.06377): the baseline that sees no time."""

from __future__ import annotations

from dataclasses import dataclass

from dropmae.methods._masked_autoencoder import MaskedAutoencoder


@dataclass(kw_only=True, eq=False, repr=False)
class MAE(MaskedAutoencoder):
    """Masked autoencoder of single frames, 75 % of the patches hidden, with a class token as in the paper."""

    cls: bool = True
    """Whether a class token goes through encoder and decoder, as in MAE."""
