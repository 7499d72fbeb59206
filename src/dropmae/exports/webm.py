"""A cut-out as webm: VP9 with alpha, which browsers play over a page."""

from __future__ import annotations

from dataclasses import dataclass

from dropmae.exports._cutouts import CutOutVideo


@dataclass(kw_only=True)
class WebM(CutOutVideo):
    """VP9 with its alpha kept without losses; sound is kept where it is Opus or Vorbis."""

    suffixes = (".webm",)
