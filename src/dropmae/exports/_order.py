"""For forms whose frames have to come in the order of the video: answers that come backwards wait for the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dropmae.contracts.exports import Add
from dropmae.engine import Answer, pictures
from dropmae.target import decode_mask, encode_mask, mask_boxes
from dropmae.video import Video


@contextlib.contextmanager
def ascending(add: Add, video: Video) -> Iterator[Add]:
    """Takes answers in either order and hands them to `add` by ascending frames, at once where they come so.

    Of those that come backwards the masks wait as run lengths, and the pictures are read again.
    """
    first: Answer | None = None
    backwards: bool | None = None
    held: dict[int, tuple[Answer, dict[int, dict]]] = {}

    def hold(answer: Answer) -> None:
        mask = answer.target.mask
        shown = [] if mask is None else mask_boxes(mask)[0].tolist()
        codes = {number: encode_mask(mask == number) for number in shown}
        light = answer._replace(picture=answer.picture[:0], target=replace(answer.target, mask=None))
        held[answer.frame] = light, {-1: {} if mask is None else {"size": mask.shape, "dtype": mask.dtype}, **codes}

    def take(answer: Answer) -> None:
        nonlocal first, backwards
        if first is None:
            first = answer
            return
        if backwards is None:
            backwards = answer.frame < first.frame
            (hold if backwards else add)(first)
        (hold if backwards else add)(answer)

    yield take
    if first is not None and backwards is None:
        add(first)
    for number, picture in pictures(video, sorted(held)) if held else ():
        if isinstance(picture, OSError):
            raise picture
        answer, codes = held.pop(number)
        form, mask = codes.pop(-1), None
        if form:
            mask = np.zeros(form["size"], form["dtype"])
            for object_id, code in codes.items():
                mask[decode_mask(code)] = object_id
        add(answer._replace(picture=picture, target=replace(answer.target, mask=mask)))
