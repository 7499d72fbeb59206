"""Drawing on frames: boxes, masks, points with their trails, scores, flow, and pictures side by side.

Frames are uint8 [H, W, 3]; every function returns a new one. An object has the colour that its id has in DAVIS.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dropmae.annotations.labels import PALETTE
from dropmae.rendering.geometry import corners
from dropmae.target import Target

Colour = tuple[int, int, int]


def colour(object_id: int) -> Colour:
    """The colour of an object; what belongs to none is drawn in light grey."""
    red, green, blue = PALETTE[object_id % 256].tolist() if object_id % 256 else (224, 224, 224)
    return red, green, blue


def bright(object_id: int) -> Colour:
    """The colour of an object, lightened so that lines and letters stand out on a dark ground."""
    red, green, blue = ((value + 255) // 2 if max(colour(object_id)) < 200 else value for value in colour(object_id))
    return red, green, blue


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def thickness(frame: np.ndarray) -> int:
    """Line width in pixels that suits the frame's size."""
    return max(1, round(min(frame.shape[:2]) / 200))


def draw_text(frame: np.ndarray, text: str, at: tuple[float, float] = (0, 0), ground: Colour = (0, 0, 0)) -> np.ndarray:
    """Writes a line on a coloured ground with its top left corner at (x, y), moved so that it lies in the frame."""
    picture = Image.fromarray(frame)
    _write(ImageDraw.Draw(picture), text, at, ground, picture.size)
    return np.array(picture)


def _write(
    draw: ImageDraw.ImageDraw, text: str, at: tuple[float, float], ground: Colour, size: tuple[int, int]
) -> None:
    letters = font(max(9, min(size) // 24))
    left, top, right, bottom = draw.textbbox((0, 0), text, font=letters)
    wide, high = right - left + 4, bottom - top + 4
    x = max(0, min(at[0], size[0] - wide))
    y = max(0, min(at[1], size[1] - high))
    draw.rectangle([x, y, x + wide, y + high], fill=ground)
    ink = (0, 0, 0) if 3 * ground[0] + 6 * ground[1] + ground[2] > 1280 else (255, 255, 255)
    draw.text((x + 2 - left, y + 2 - top), text, fill=ink, font=letters)


def draw_mask(frame: np.ndarray, mask: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """Lays a label map [H, W] over the frame: translucent colours, and the outline of every object in full."""
    labels = mask.astype(np.int64) % 256
    inside = mask > 0
    tinted = frame.astype(np.float32)
    tinted[inside] += opacity * (PALETTE[labels[inside]] - tinted[inside])
    edge = np.zeros(mask.shape, bool)
    down, right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    edge &= inside
    tinted[edge] = PALETTE[labels[edge]]
    return (tinted + 0.5).astype(np.uint8)


def draw_boxes(
    frame: np.ndarray, boxes: np.ndarray, ids: Sequence[int] | np.ndarray, labels: Sequence[str] | None = None
) -> np.ndarray:
    """Draws boxes [N, 4] in the colours of their ids, each with its label above; rows of NaN are left out."""
    picture = Image.fromarray(frame)
    draw = ImageDraw.Draw(picture)
    for row, (x0, y0, x1, y1) in enumerate(corners(np.asarray(boxes, np.float64)).tolist()):
        if not np.isfinite([x0, y0, x1, y1]).all():
            continue
        tone = bright(int(ids[row]))
        # The last pixel that a box covers ends at x1, so that its outline runs through x1 - 1.
        draw.rectangle([x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)], outline=tone, width=thickness(frame))
        if labels is not None and labels[row]:
            high = max(9, min(picture.size) // 24) + 4
            _write(draw, labels[row], (x0, y0 - high if y0 >= high else y1), tone, picture.size)
    return np.array(picture)


def draw_points(
    frame: np.ndarray,
    points: np.ndarray,
    visible: np.ndarray | None = None,
    owners: np.ndarray | None = None,
    trail: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Draws points [M, 2] as dots, hidden ones as rings, and behind each the way along `trail` (oldest first)."""
    picture = Image.fromarray(frame)
    draw = ImageDraw.Draw(picture)
    wide = thickness(frame)
    ways = np.stack([*trail, points], 1)  # [M, time, 2]
    for row, way in enumerate(ways):
        # Without owners every point has a colour of its own.
        tone = bright(int(owners[row]) if owners is not None else row + 1)
        for (ax, ay), (bx, by) in zip(way[:-1].tolist(), way[1:].tolist()):
            if np.isfinite([ax, ay, bx, by]).all():
                draw.line([ax, ay, bx, by], fill=tone, width=wide)
        x, y = way[-1].tolist()
        if not np.isfinite([x, y]).all():
            continue
        radius = 2 * wide
        place = [x - radius, y - radius, x + radius, y + radius]
        if visible is None or visible[row]:
            draw.ellipse(place, fill=tone, outline=(0, 0, 0))
        else:
            draw.ellipse(place, outline=tone)
    return np.array(picture)


def draw_target(frame: np.ndarray, target: Target, trail: Sequence[Target] = ()) -> np.ndarray:
    """Draws what a Target knows of the frame but for flow: mask, boxes with id and score, points."""
    picture = frame
    if target.mask is not None:
        picture = draw_mask(picture, target.mask)
    if target.boxes is not None:
        labels = [str(object_id) for object_id in target.ids.tolist()]
        if target.scores is not None:
            known = target.scores.tolist()
            labels = [f"{label}  {score:.2f}" if score == score else label for label, score in zip(labels, known)]
        picture = draw_boxes(picture, target.boxes, target.ids, labels)
    if target.points is not None:
        before = [past.points for past in trail if past.points is not None and len(past.points) == len(target.points)]
        picture = draw_points(picture, target.points, target.visible, target.owners, before)
    return picture


@lru_cache
def _wheel() -> np.ndarray:
    """float64 [56, 3]: hues around the circle, the first one again at the end.

    The 55 hues and their spacing are those of Baker et al., A Database and Evaluation Methodology for Optical Flow,
    IJCV 2011; most of them lie between red and yellow, where the eye tells hues apart best.
    """
    turning_points = [(255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255), (255, 0, 0)]
    steps = [15, 6, 4, 11, 13, 6]
    at = np.cumsum([0, *steps])
    table = np.array(turning_points, np.float64)
    return np.stack([np.interp(np.arange(at[-1] + 1), at, channel) for channel in table.T], 1) / 255


def colour_flow(flow: np.ndarray, largest: float | None = None) -> np.ndarray:
    """uint8 [H, W, 3]: flow [H, W, 2] as hue (direction) and saturation (length); no motion white, NaN black.

    Full saturation is reached at `largest` pixels, by default the longest displacement; longer ones are darker.
    """
    known = np.isfinite(flow.sum(-1))
    u, v = np.where(known, flow[..., 0], 0), np.where(known, flow[..., 1], 0)
    length = np.hypot(u, v)
    length = length / max(largest if largest is not None else float(length.max(initial=0)), 1e-5)
    wheel = _wheel()
    place = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(wheel) - 2)
    low = np.floor(place).astype(np.int64)
    hue = wheel[low] + (place - low)[..., None] * (wheel[low + 1] - wheel[low])
    shade = np.where((length <= 1)[..., None], 1 - length[..., None] * (1 - hue), 0.75 * hue)
    return np.where(known[..., None], shade * 255, 0).astype(np.uint8)


def tile(
    pictures: Sequence[np.ndarray], columns: int, captions: Sequence[str] | None = None, gap: int = 4
) -> np.ndarray:
    """Pictures of any sizes in a grid on white, row by row, each with a caption above where there are captions."""
    if not pictures or columns < 1:
        raise ValueError("a grid needs at least one picture and one column")
    high, wide = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    line = max(11, min(18, wide // 14))
    head = line + 6 if captions is not None else 0
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (wide + gap) + gap, rows * (high + head + gap) + gap), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for index, picture in enumerate(pictures):
        x, y = gap + index % columns * (wide + gap), gap + index // columns * (high + head + gap)
        if captions is not None and index < len(captions):
            draw.text((x, y), captions[index], fill=(0, 0, 0), font=font(line))
        sheet.paste(Image.fromarray(picture), (x, y + head))
    return np.array(sheet)
