"""Names of tensors in public segmenters."""

from __future__ import annotations

from dropmae.weights.layouts import ENCODER, Layout, Pairs

SEGMENTER: Pairs = (
    *ENCODER,
    ("encoder.mask_embed.*", "mask_patch_embed.proj.*"),
    ("encoder.frame_embed.*", "temporal_pos_embed_*"),
    ("decoder.twice.*", "fpn2.0.*"),
    ("decoder.fourfold.0.*", "fpn1.0.*"),
    ("decoder.fourfold.1.*", "fpn1.1.ln.*"),
    ("decoder.fourfold.2.*", "fpn1.3.*"),
    ("decoder.merge_twice.skip.*", "stcn_decoder.up_16_8.skip_conv.*"),
    ("decoder.merge_fourfold.skip.*", "stcn_decoder.up_8_4.skip_conv.*"),
    *(
        (f"decoder.{ours}.{part}.*", f"stcn_decoder.{theirs}.{name}.*")
        for ours, theirs in (
            ("compress", "compress"),
            ("merge_twice.out", "up_16_8.out_conv"),
            ("merge_fourfold.out", "up_8_4.out_conv"),
        )
        for part, name in (("shortcut", "downsample"), ("conv1", "conv1"), ("conv2", "conv2"))
    ),
    ("decoder.pred.*", "stcn_decoder.pred.*"),
    ("encoder.positions.table", "pos_embed_two_frame"),
    # What the file must hold and no computation uses is written, and left out when it is read.
    ("relic.cls_token", "cls_token"),
    ("relic.positions", "pos_embed"),
    ("relic.three_frames", "pos_embed_three_frame"),
    ("relic.head.*", "head.*"),
    ("relic.norm.*", "fc_norm.*"),
)

LAYOUTS = (
    Layout(
        name="dropseg",
        about="DropSeg (jimmy-dq/DropSeg): masks carried through video",
        licence="none is stated for the DropSeg weights; they start from DropMAE's, whose code derives from MAE's "
        "(CC-BY-NC 4.0)",
        pairs=SEGMENTER,
        positions={"encoder": "pos_embed_two_frame"},
        copies=2,
        marks=("mask_patch_embed.proj.weight", "pos_embed_two_frame"),
        idle=("cls_token", "pos_embed", "pos_embed_three_frame", "head.*", "fc_norm.*"),
        entry=None,
        fixed=False,
    ),
)
