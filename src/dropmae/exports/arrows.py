"""A video with flow as arrows on its frames."""

from __future__ import annotations

from dataclasses import dataclass

from dropmae.exports.mp4 import MP4


@dataclass(kw_only=True)
class Arrows(MP4):
    """As .mp4, but flow is drawn as arrows, not in colours."""

    suffixes = (".arrows.mp4",)
    needs = ("flow",)

    colours = False
