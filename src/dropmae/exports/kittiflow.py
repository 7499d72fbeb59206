"""Flow as KITTI has it: a 16-bit PNG per frame."""

from __future__ import annotations

from dataclasses import dataclass

from dropmae.exports.flo import Flo
from dropmae.formats.flow import kitti


@dataclass(kw_only=True)
class KittiFlow(Flo):
    """<frame>.png in steps of 1/64 pixel, and <frame>.occluded.png."""

    suffixes = (".kitti", ".kitti.zip")
    folders = (".kitti",)

    EACH = ".png"
    encode = staticmethod(kitti)
