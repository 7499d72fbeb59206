"""Names of tensors in public checkpoints: one table per layout, read in both directions.

A pair ("encoder.blocks.*", "blocks.*") says that our name on the left is their name on the right, the star standing
for the same text on both sides. Position tables are not in the pairs: in memory a fixed table has no tensor and a
learned one has no row for the class token, so `positions` names them and `official` translates them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Pairs = tuple[tuple[str, str], ...]

ENCODER: Pairs = (
    ("encoder.patch_embed.*", "patch_embed.proj.*"),
    ("encoder.blocks.*", "blocks.*"),
    ("encoder.norm.*", "norm.*"),
)
CLASS_TOKEN: Pairs = (("encoder.cls_token", "cls_token"),)
DECODER: Pairs = (
    ("decoder.embed.*", "decoder_embed.*"),
    ("decoder.mask_token", "mask_token"),
    ("decoder.blocks.*", "decoder_blocks.*"),
    ("decoder.norm.*", "decoder_norm.*"),
    ("decoder.pred.*", "decoder_pred.*"),
)
FRAMES: Pairs = (
    ("encoder.frame_embed.*", "temporal_pos_embed_*"),
    ("decoder.frame_embed.*", "decoder_temporal_pos_embed_*"),
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one public family of checkpoints names and stores its tensors."""

    name: str
    """What a user types after --to and --layout."""
    about: str
    """Which files have this layout."""
    licence: str
    """Licence of the released weights, as far as their authors state one."""
    pairs: Pairs
    """(our name, their name), "*" standing for the same text on both sides; the first match counts."""
    positions: dict[str, str]
    """Our part ("encoder", "decoder") -> their name of its position table."""
    marks: tuple[str, ...] = ()
    """Their names by which a file of this layout is told from the following ones; all must be there."""
    needs: tuple[str, ...] = ()
    """Our names without which such a file cannot be written."""
    idle: tuple[str, ...] = ()
    """Their names, as patterns, that no encoder or decoder here uses; they may be there and are left out."""
    entry: str | None = "model"
    """Under which name a .pth file holds its tensors; None: they are the file."""
    cls_row: bool = True
    """Whether a position table starts with a row for the class token even where there is no such token."""
    fixed: bool = True
    """Whether a file may leave the position table out because it is the sin-cos one."""
    kind: str = "methods"
    """Folder of the class that such weights become."""
    module: str = "mae"
    """File name of that class."""

    def ours(self, name: str) -> str | None:
        """Our name of their tensor `name`; None where it has none."""
        return _translate(name, ((theirs, ours) for ours, theirs in self.pairs))

    def theirs(self, name: str) -> str | None:
        """Their name of our tensor `name`; None where it has none."""
        return _translate(name, self.pairs)

    def unused(self, name: str) -> bool:
        """Whether their tensor `name` may be there and has no use here."""
        return any(_star(pattern, name) is not None for pattern in self.idle)

    def has(self, part: str) -> bool:
        """Whether the layout holds tensors of our part "encoder", "decoder" or "head"."""
        return any(ours.startswith(f"{part}.") for ours, _ in self.pairs)


def _translate(name: str, pairs) -> str | None:
    for source, target in pairs:
        middle = _star(source, name)
        if middle is not None:
            return target.replace("*", middle)
    return None


def _star(pattern: str, name: str) -> str | None:
    """The text that the star of `pattern` stands for in `name`; None where they do not match."""
    match = re.fullmatch(re.escape(pattern).replace(r"\*", "(.+)"), name)
    if match is None:
        return None
    return match.group(1) if match.groups() else ""


CLASSIFIER = ("head.*", "head_dist.*", "fc_norm.*", "pre_logits.*")
"""What stands behind the encoder of an image classifier."""

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            name="dropmae",
            about="DropMAE (jimmy-dq/DropMAE), whole or without its decoder",
            licence="none is stated for the DropMAE weights; their code derives from MAE's, which is CC-BY-NC 4.0",
            pairs=ENCODER + DECODER + FRAMES,
            positions={"encoder": "pos_embed", "decoder": "decoder_pos_embed"},
            marks=("temporal_pos_embed_x", "temporal_pos_embed_z"),
            needs=("encoder.frame_embed.x",),
            idle=("cls_token",),
            module="dropmae",
        ),
        Layout(
            name="cropmae",
            about="CropMAE and its SiamMAE (alexandre-eymael/CropMAE); the encoder only",
            licence="CropMAE: MIT",
            pairs=ENCODER + CLASS_TOKEN,
            positions={"encoder": "pos_embed"},
            marks=("decoder_blocks.0.multihead_attn.in_proj_weight",),
            needs=("encoder.cls_token",),
            idle=("decoder_*", "mask_token"),
        ),
        Layout(
            name="mae",
            about="MAE (facebookresearch/mae), whole or without its decoder",
            licence="MAE: CC-BY-NC 4.0, no commercial use",
            pairs=ENCODER + CLASS_TOKEN + DECODER,
            positions={"encoder": "pos_embed", "decoder": "decoder_pos_embed"},
            marks=("decoder_blocks.0.attn.qkv.weight",),
            needs=("encoder.cls_token",),
            idle=CLASSIFIER,
        ),
        Layout(
            name="timm",
            about="image classifiers as timm and DeiT store them; the encoder only",
            licence="differs from model to model: see the model's card (DeiT and AugReg: Apache-2.0)",
            pairs=ENCODER + CLASS_TOKEN,
            positions={"encoder": "pos_embed"},
            marks=("head.weight",),
            idle=CLASSIFIER,
            entry=None,
            cls_row=False,
            fixed=False,
        ),
        Layout(
            name="dino",
            about="DINO (facebookresearch/dino): a bare encoder, or the teacher of a training checkpoint",
            licence="DINO: Apache-2.0 (other bare encoders: see where the file came from)",
            pairs=ENCODER + CLASS_TOKEN,
            positions={"encoder": "pos_embed"},
            needs=("encoder.cls_token",),
            idle=("mask_token", *CLASSIFIER),
            entry=None,
            cls_row=False,
            fixed=False,
        ),
    )
}
"""Every layout by name; the first whose marks a file has is the file's layout, so the most particular come first."""


def named(name: str) -> Layout:
    """The layout of that name; ValueError that lists the names where there is none."""
    if name not in LAYOUTS:
        raise ValueError(f"{name!r} is not a layout of public checkpoints: {', '.join(LAYOUTS)}")
    return LAYOUTS[name]
