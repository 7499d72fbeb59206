"""Names of tensors in public trackers."""

from __future__ import annotations

from dropmae.weights.layouts import ENCODER, Layout, Pairs

BRANCHES = {"score": "ctr", "offset": "offset", "size": "size"}
"""Our name of a branch of the trackers' head, and theirs."""
TRACKER: Pairs = (
    *((ours, f"backbone.{theirs}") for ours, theirs in ENCODER),
    ("encoder.positions.table", "backbone.pos_embed_x"),
    ("encoder.template_positions.table", "backbone.pos_embed_z"),
    ("encoder.relic_token", "backbone.cls_token"),
    ("encoder.relic_positions", "backbone.pos_embed"),
    *(
        (f"head.{ours}.{number}.{part}.*", f"box_head.conv{number + 1}_{theirs}.{part}.*")
        for ours, theirs in BRANCHES.items()
        for number in range(4)
        for part in (0, 1)
    ),
    *((f"head.{ours}.4.*", f"box_head.conv5_{theirs}.*") for ours, theirs in BRANCHES.items()),
)

LAYOUTS = (
    Layout(
        name="droptrack",
        about="DropTrack (jimmy-dq/DropTrack): OSTrack with frame identity embeddings",
        licence="none is stated for the DropTrack weights; the code of OSTrack, on which it builds, is MIT",
        pairs=(*TRACKER, ("encoder.frame_embed.*", "backbone.temporal_pos_embed_*")),
        positions={},
        marks=("backbone.pos_embed_z", "backbone.temporal_pos_embed_z"),
        entry="net",
        fixed=False,
    ),
    Layout(
        name="ostrack",
        about="OSTrack (botaoye/OSTrack) with candidate elimination or without, and trackers built on it",
        licence="OSTrack: MIT",
        pairs=TRACKER,
        positions={},
        marks=("backbone.pos_embed_z",),
        entry="net",
        fixed=False,
    ),
)
