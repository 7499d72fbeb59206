"""What each script of label propagation does, on DAVIS and where it treats another benchmark in a way of its own."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "dino": {
        "context": 7, "padding": "grow", "topk": 5, "ties": True, "temperature": 0.1,
        "radius": 12.0, "window": "square", "first_windowed": True,
        "resize": "short480", "multiple": 64, "rounding": "floor", "interpolation": "bytes", "red_std": 0.228,
        "label_resize": "nearest", "nearest": "centre", "upsample": "bilinear", "decide_at": "network",
        "normalize_maps": True, "point_peaks": 5, "grid_excess": 0.1, "model_share": 0.0, "outline": False,
    },
    "crw": {
        "context": 20, "padding": "copies", "topk": 10, "ties": False, "temperature": 0.05,
        "radius": 12.0, "window": "circle", "first_windowed": False,
        "resize": "native", "multiple": 0, "rounding": "nearest", "interpolation": "bilinear", "red_std": 0.229,
        "label_resize": "bilinear", "nearest": "corner", "upsample": "bilinear", "decide_at": "network",
        "normalize_maps": False, "point_peaks": 3, "grid_excess": 0.0, "model_share": 0.0, "outline": False,
    },
    "cropmae": {
        "context": 20, "padding": "copies", "topk": 7, "ties": False, "temperature": 0.7,
        "radius": 20.0, "window": "circle", "first_windowed": False,
        "resize": "480x880", "multiple": 64, "rounding": "floor", "interpolation": "bilinear", "red_std": 0.229,
        "label_resize": "bilinear", "nearest": "corner", "upsample": "bilinear", "decide_at": "network",
        "normalize_maps": False, "point_peaks": 5, "grid_excess": 0.1, "model_share": 0.0, "outline": False,
    },
    "dinov3": {
        "context": 7, "padding": "grow", "topk": 5, "ties": True, "temperature": 0.2,
        "radius": 12.0, "window": "disk", "first_windowed": True,
        "resize": "short960", "multiple": 0, "rounding": "ceil", "interpolation": "bicubic", "red_std": 0.229,
        "label_resize": "nearest", "nearest": "centre", "upsample": "nearest", "decide_at": "frame",
        "normalize_maps": True, "point_peaks": 5, "grid_excess": 0.0, "model_share": 0.0, "outline": False,
    },
}  # fmt: skip
PRESETS["fitted"] = PRESETS["dino"] | {"model_share": 0.5, "outline": True}
"""What each script does on DAVIS, and ours."""

ELSEWHERE: dict[tuple[str, str], dict[str, Any]] = {
    ("cropmae", "davis"): {"interpolation": "nearest"},  # its frames are resized beforehand, without interpolation
    ("cropmae", "vip"): {"resize": "long880", "topk": 10},
    ("cropmae", "jhmdb"): {"resize": "320x320"},
    ("crw", "vip"): {"resize": "560x560", "context": 4},
    ("crw", "jhmdb"): {"resize": "320x320", "context": 7},
}
"""Where a script treats a benchmark in a way of its own: {(preset, benchmark): settings}."""
