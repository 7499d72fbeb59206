"""A cut-out as ProRes 4444: what editors of video take, large and exact."""

from __future__ import annotations

from dataclasses import dataclass

from dropmae.exports._cutouts import CutOutVideo


@dataclass(kw_only=True)
class ProRes(CutOutVideo):
    """ProRes 4444 in mov, ten bits, with its alpha kept without losses and the source's sound."""

    suffixes = (".rgba.mov", ".prores.mov")
