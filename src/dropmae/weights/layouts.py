"""Names of tensors in public checkpoints: one table per layout, read in both directions.

A pair ("encoder.blocks.*", "blocks.*") says that our name on the left is their name on the right, each star standing
for the same text on both sides. Position tables are not in the pairs: in memory a fixed table has no tensor and a
learned one has no row for the class token, so `positions` names them and `official` translates them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from dropmae import registry

Pairs = tuple[tuple[str, str], ...]
Pieces = tuple[tuple[str, int], ...]

BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
"""Parts of a plain transformer block, which have the same names everywhere."""

ENCODER: Pairs = (
    ("encoder.patch_embed.*", "patch_embed.proj.*"),
    *((f"encoder.blocks.*.{part}.*", f"blocks.*.{part}.*") for part in BLOCK),
    ("encoder.norm.*", "norm.*"),
)
CLASS_TOKEN: Pairs = (("encoder.cls_token", "cls_token"),)
ENDS: Pairs = (
    ("decoder.embed.*", "decoder_embed.*"),
    ("decoder.mask_token", "mask_token"),
    ("decoder.norm.*", "decoder_norm.*"),
    ("decoder.pred.*", "decoder_pred.*"),
)
"""What stands before and after the blocks of a decoder."""
DECODER: Pairs = (*ENDS, *((f"decoder.blocks.*.{part}.*", f"decoder_blocks.*.{part}.*") for part in BLOCK))
FRAMES: Pairs = (
    ("encoder.frame_embed.*", "temporal_pos_embed_*"),
    ("decoder.frame_embed.*", "decoder_temporal_pos_embed_*"),
)
BRANCH_SCALES = (("attn.proj", "ls1"), ("mlp.fc2", "ls2"))
"""The last layer of a block's branches, and timm's name of what scales it."""
TRANSFORMERS: Pairs = (
    ("encoder.patch_embed.*", "embeddings.patch_embeddings.projection.*"),
    ("encoder.cls_token", "embeddings.cls_token"),
    ("encoder.blocks.*.attn.proj.*", "encoder.layer.*.attention.output.dense.*"),
    ("encoder.norm.*", "layernorm.*"),
)
TRANSFORMERS_STACKS = tuple(
    (
        f"encoder.blocks.*.attn.qkv.{kind}",
        tuple(f"encoder.layer.*.attention.attention.{part}.{kind}" for part in ("query", "key", "value")),
    )
    for kind in ("weight", "bias")
)
CLIP: Pairs = (
    ("encoder.patch_embed.weight", "conv1.weight"),
    ("encoder.cls_token", "class_embedding"),
    ("encoder.norm_pre.*", "ln_pre.*"),
    ("encoder.blocks.*.norm1.*", "transformer.resblocks.*.ln_1.*"),
    ("encoder.blocks.*.attn.qkv.*", "transformer.resblocks.*.attn.in_proj_*"),
    ("encoder.blocks.*.attn.proj.*", "transformer.resblocks.*.attn.out_proj.*"),
    ("encoder.blocks.*.norm2.*", "transformer.resblocks.*.ln_2.*"),
    ("encoder.blocks.*.mlp.fc1.*", "transformer.resblocks.*.mlp.c_fc.*"),
    ("encoder.blocks.*.mlp.fc2.*", "transformer.resblocks.*.mlp.c_proj.*"),
    ("encoder.norm.*", "ln_post.*"),
)
CROSS_DECODER: Pairs = (
    ("decoder.blocks.*.attn.qkv.*", "decoder_blocks.*.self_attn.in_proj_*"),
    ("decoder.blocks.*.attn.proj.*", "decoder_blocks.*.self_attn.out_proj.*"),
    ("decoder.blocks.*.cross.proj.*", "decoder_blocks.*.multihead_attn.out_proj.*"),
    ("decoder.blocks.*.mlp.fc1.*", "decoder_blocks.*.linear1.*"),
    ("decoder.blocks.*.mlp.fc2.*", "decoder_blocks.*.linear2.*"),
    ("decoder.blocks.*.norm1.*", "decoder_blocks.*.norm1.*"),
    ("decoder.blocks.*.norm_cross.*", "decoder_blocks.*.norm2.*"),
    ("decoder.blocks.*.norm2.*", "decoder_blocks.*.norm3.*"),
    *ENDS,
)
CROSS_JOINS = (
    (
        "decoder_blocks.*.multihead_attn.in_proj_*",
        (("decoder.blocks.*.cross.q.*", 1), ("decoder.blocks.*.cross.kv.*", 2)),
    ),
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
    """(our name, their name), the stars standing for the same texts on both sides; the first match counts."""
    joins: tuple[tuple[str, Pieces], ...] = ()
    """(their name, our names and their shares of its rows): what they keep in one tensor and we in several."""
    stacks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(our name, their names): what we keep in one tensor and they in several, one below the other; "" is zeros."""
    scales: Pairs = ()
    """(our name, their name): factors of the rows of a tensor of ours that theirs are multiplied with in use."""
    needless: tuple[str, ...] = ()
    """Our tensors that a file may lack, which are then zero."""
    form: str = "plain"
    """What the encoder does otherwise, one of `nn.vit.FORMS`."""
    heads: Mapping[str, int] = field(default_factory=dict)
    """Size -> number of attention heads where it is not that of the size."""
    positions: dict[str, str]
    """Our part ("encoder", "decoder") -> their name of its position table."""
    copies: int = 1
    """How many times, one after the other, the encoder's table is in the file, which is once for each frame."""
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
    decoding: Mapping[str, Any] = field(default_factory=dict)
    """Fields of that class which say how such a decoder computes."""
    arguments: Mapping[str, str] = field(
        default_factory=lambda: {"norm_pix": "norm_pix_loss", "mask_ratio": "mask_ratio"}
    )
    """Fields of that class -> arguments of the training script, which a file may hold."""

    def ours(self, name: str) -> Pieces:
        """Our names of their tensor `name` and their shares of its rows: mostly one; none where it has no place.

        NAME/2 is the third part of our tensor NAME, and NAME/scale the factors of its rows.
        """
        for theirs, pieces in self.joins:
            if (stars := _match(theirs, name)) is not None:
                return tuple((_fill(ours, stars), share) for ours, share in pieces)
        stacked = ((part, f"{ours}/{n}") for ours, parts in self.stacks for n, part in enumerate(parts))
        scales = ((theirs, f"{ours}/scale") for ours, theirs in self.scales)
        found = _translate(name, (*stacked, *scales, *((theirs, ours) for ours, theirs in self.pairs)))
        return ((found, 1),) if found else ()

    def theirs(self, name: str) -> str | None:
        """Their name of our tensor `name`, or of the one that holds it; None where it has none."""
        joined = [(ours, theirs) for theirs, pieces in self.joins for ours, _ in pieces]
        joined += [(ours, parts[0]) for ours, parts in self.stacks]
        return _translate(name, (*joined, *self.pairs))

    def parts(self, name: str) -> list[str]:
        """Their names of the parts of our tensor `name` where they keep it in several."""
        for ours, parts in self.stacks:
            if (stars := _match(ours, name)) is not None:
                return [_fill(part, stars) for part in parts]
        return []

    def unused(self, name: str) -> bool:
        """Whether their tensor `name` may be there and has no use here."""
        return any(_match(pattern, name) is not None for pattern in self.idle)

    def has(self, part: str) -> bool:
        """Whether the layout holds tensors of our part "encoder", "decoder" or "head"."""
        return any(ours.startswith(f"{part}.") for ours, _ in self.pairs)


def _translate(name: str, pairs: Iterable[tuple[str, str]]) -> str | None:
    for source, target in pairs:
        stars = _match(source, name)
        if stars is not None:
            return _fill(target, stars)
    return None


def _match(pattern: str, name: str) -> tuple[str, ...] | None:
    """What the stars of `pattern` stand for in `name`; None where they do not match."""
    match = re.fullmatch(re.escape(pattern).replace(r"\*", "(.+?)"), name)
    return None if match is None else match.groups()


def _fill(pattern: str, stars: tuple[str, ...]) -> str:
    """`pattern` with its stars replaced in order."""
    texts = iter(stars)
    return re.sub(r"\*", lambda _: next(texts), pattern)


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
            about="CropMAE and its SiamMAE (alexandre-eymael/CropMAE), whole",
            licence="CropMAE: MIT",
            pairs=ENCODER + CLASS_TOKEN + CROSS_DECODER,
            joins=CROSS_JOINS,
            positions={"encoder": "pos_embed", "decoder": "decoder_pos_embed"},
            marks=("decoder_blocks.0.multihead_attn.in_proj_weight",),
            needs=("encoder.cls_token",),
            module="siammae",
            decoding={"order": "cross-mlp-self", "norm": "post", "past_positions": False},
            arguments={
                "norm_pix": "norm_pix_loss",
                "mask_ratio": "masking_ratio",
                "decoder_heads": "decoder_num_heads",
            },
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
            name="dinov2",
            about="DINOv2 (facebookresearch/dinov2) without registers, and other encoders with timm's layer scale",
            licence="DINOv2: Apache-2.0 (other encoders with layer scale: see where the file came from)",
            pairs=ENCODER + CLASS_TOKEN,
            scales=tuple((f"encoder.blocks.*.{part}", f"blocks.*.{gamma}.gamma") for part, gamma in BRANCH_SCALES),
            positions={"encoder": "pos_embed"},
            marks=("blocks.0.ls1.gamma",),
            idle=("mask_token", *CLASSIFIER),
            entry=None,
            cls_row=False,
            fixed=False,
        ),
        Layout(
            name="dinov2-transformers",
            about="DINOv2 without registers as transformers stores it, with `dinov2.` before the names or without",
            licence="DINOv2: Apache-2.0 (other encoders with layer scale: see where the file came from)",
            pairs=(
                *TRANSFORMERS,
                *((f"encoder.blocks.*.{part}.*", f"encoder.layer.*.{part}.*") for part in ("norm1", "norm2")),
                *((f"encoder.blocks.*.{part}.*", f"encoder.layer.*.{part}.*") for part in ("mlp.fc1", "mlp.fc2")),
            ),
            stacks=TRANSFORMERS_STACKS,
            scales=(
                ("encoder.blocks.*.attn.proj", "encoder.layer.*.layer_scale1.lambda1"),
                ("encoder.blocks.*.mlp.fc2", "encoder.layer.*.layer_scale2.lambda1"),
            ),
            positions={"encoder": "embeddings.position_embeddings"},
            marks=("encoder.layer.0.layer_scale1.lambda1",),
            idle=("embeddings.mask_token", "classifier.*"),
            entry=None,
            cls_row=False,
            fixed=False,
        ),
        Layout(
            name="transformers",
            about="ViT as transformers stores it, with `vit.` before the names or without",
            licence="differs from model to model: see the model's card",
            pairs=(
                *TRANSFORMERS,
                ("encoder.blocks.*.norm1.*", "encoder.layer.*.layernorm_before.*"),
                ("encoder.blocks.*.norm2.*", "encoder.layer.*.layernorm_after.*"),
                ("encoder.blocks.*.mlp.fc1.*", "encoder.layer.*.intermediate.dense.*"),
                ("encoder.blocks.*.mlp.fc2.*", "encoder.layer.*.output.dense.*"),
            ),
            stacks=TRANSFORMERS_STACKS,
            form="transformers",
            positions={"encoder": "embeddings.position_embeddings"},
            marks=("encoder.layer.0.layernorm_before.weight",),
            idle=("embeddings.mask_token", "classifier.*", "pooler.*"),
            entry=None,
            cls_row=False,
            fixed=False,
        ),
        *(
            Layout(
                name=name,
                about=f"image encoder of {whose}",
                licence=licence,
                pairs=CLIP,
                needless=("encoder.patch_embed.bias",),
                form=name,
                positions={"encoder": "positional_embedding"},
                marks=("class_embedding", "ln_pre.weight"),
                idle=("proj",),
                entry=None,
                cls_row=False,
                fixed=False,
            )
            for name, whose, licence in (
                ("clip", "CLIP (openai/CLIP), QuickGELU", "CLIP: MIT"),
                ("openclip", "CLIP with an exact GELU (most of OpenCLIP's)", "see the model's card (OpenCLIP: MIT)"),
            )
        ),
        Layout(
            name="beit",
            about="BEiT (microsoft/unilm) with a final norm: q and v biases, layer scale, relative positions",
            licence="BEiT: MIT",
            pairs=(
                *((ours, theirs) for ours, theirs in ENCODER),
                *CLASS_TOKEN,
                ("encoder.relative.tables.*", "blocks.*.attn.relative_position_bias_table"),
                ("encoder.relative.shared", "rel_pos_bias.relative_position_bias_table"),
            ),
            stacks=(("encoder.blocks.*.attn.qkv.bias", ("blocks.*.attn.q_bias", "", "blocks.*.attn.v_bias")),),
            scales=(
                ("encoder.blocks.*.attn.proj", "blocks.*.gamma_1"),
                ("encoder.blocks.*.mlp.fc2", "blocks.*.gamma_2"),
            ),
            positions={"encoder": "pos_embed"},
            marks=("blocks.0.attn.q_bias",),
            idle=(
                "mask_token",
                "lm_head.*",
                "blocks.*.attn.relative_position_index",
                "rel_pos_bias.relative_position_index",
                *CLASSIFIER,
            ),
            form="beit",
            cls_row=False,
            fixed=False,
        ),
        Layout(
            name="mocov3",
            about="MoCo-v3 (facebookresearch/moco-v3): the base encoder of a training checkpoint",
            licence="MoCo-v3: CC-BY-NC 4.0, no commercial use",
            pairs=ENCODER + CLASS_TOKEN,
            heads={"small": 12},
            positions={"encoder": "pos_embed"},
            marks=("head.0.weight", "head.4.weight"),
            idle=CLASSIFIER,
            entry="state_dict",
            cls_row=False,
            fixed=False,
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
"""Layouts of encoders and methods by name, the most particular first; those of tasks are in their rooms."""


@cache
def layouts() -> dict[str, Layout]:
    """Every layout by name; the first whose marks a file has is the file's layout."""
    found = [(task, layout) for task in registry.names("tasks") for layout in registry.load("tasks", task).layouts]
    return {layout.name: replace(layout, kind="tasks", module=task) for task, layout in found} | LAYOUTS


def named(name: str) -> Layout:
    """The layout of that name; ValueError that lists the names where there is none."""
    if name not in layouts():
        raise ValueError(f"{name!r} is not a layout of public checkpoints: {', '.join(layouts())}")
    return layouts()[name]
