"""Drawing on frames: boxes, masks, points and their trails, scores, flow, grids, and pictures side by side.

Frames are uint8 [H, W, 3]; every function returns a new one. Lines have a dark outer line, so that they can be seen on
any ground, and grow with the picture. An object keeps its colour, which is chosen by its id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dropmae.rendering.geometry import corners
from dropmae.target import Target

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]

COLOURS: tuple[Colour, ...] = (
    (255, 255, 64),
    (255, 25, 217),
    (64, 255, 191),
    (166, 110, 0),
    (41, 166, 145),
    (170, 0, 255),
    (230, 23, 92),
    (143, 204, 20),
)
"""Of objects 1, 2, ... in turn: saturated, and at least 24 apart in CIELAB for every kind of colour vision (found by a
random search with the model of Machado et al., 2009). Those that are farthest apart come first."""
DARK: Colour = (16, 16, 16)
"""The outer line of everything that is drawn."""
UNOWNED: Colour = (255, 255, 255)
"""What belongs to no object (id 0): a given box, the truth."""


def colour(object_id: int) -> Colour:
    """The colour of an object."""
    return COLOURS[(object_id - 1) % len(COLOURS)] if object_id else UNOWNED


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def thickness(frame: np.ndarray) -> int:
    """Line width in pixels that suits the frame's size: 2 at 256 rows, without the dark outer line."""
    return max(2, round(min(frame.shape[:2]) / 160))


def letter_size(frame: np.ndarray) -> int:
    """Size of letters in pixels that suits the frame's size."""
    return max(11, min(frame.shape[:2]) // 26)


def draw_text(frame: np.ndarray, text: str, at: tuple[float, float] = (0, 0), ground: Colour = (0, 0, 0)) -> np.ndarray:
    """Writes a line on a coloured ground with its top left corner at (x, y), moved so that it lies in the frame."""
    picture = Image.fromarray(frame)
    _write(ImageDraw.Draw(picture), text, at, ground, letter_size(frame), picture.size)
    return np.array(picture)


def _write(
    draw: ImageDraw.ImageDraw, text: str, at: tuple[float, float], ground: Colour, height: int, size: tuple[int, int]
) -> None:
    letters = font(height)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=letters)
    wide, high = right - left + 4, bottom - top + 4
    x = max(0, min(at[0], size[0] - wide))
    y = max(0, min(at[1], size[1] - high))
    draw.rectangle([x, y, x + wide, y + high], fill=ground)
    ink = (0, 0, 0) if 3 * ground[0] + 6 * ground[1] + ground[2] > 1280 else (255, 255, 255)
    draw.text((x + 2 - left, y + 2 - top), text, fill=ink, font=letters)


def draw_mask(frame: np.ndarray, mask: np.ndarray, opacity: float = 0.4) -> np.ndarray:
    """Lays a label map [H, W] over the frame: translucent colours, with outlines and a dark line around."""
    table = np.array([colour(number) for number in range(256)], np.float32)
    labels, inside = mask.astype(np.int64) % 256, mask > 0
    tinted = frame.astype(np.float32)
    tinted[inside] += opacity * (table[labels[inside]] - tinted[inside])
    outer, core = inside.copy(), inside
    for _ in range(thickness(frame)):
        core = core & ~_borders(np.where(core, mask, 0))
    for axis in (0, 1):
        near = [slice(None)] * 2
        far = [slice(None)] * 2
        near[axis], far[axis] = slice(1, None), slice(None, -1)
        outer[tuple(near)] |= inside[tuple(far)]
        outer[tuple(far)] |= inside[tuple(near)]
    edge = inside & ~core
    tinted[edge] = table[labels[edge]]
    tinted[outer & ~inside] = DARK
    return (tinted + 0.5).astype(np.uint8)


def _borders(mask: np.ndarray) -> np.ndarray:
    """bool [H, W]: pixels with another label above, below, left or right of them; the frame's border is none."""
    edge = np.zeros(mask.shape, bool)
    down, right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge


def draw_boxes(
    frame: np.ndarray,
    boxes: np.ndarray,
    ids: Sequence[int] | np.ndarray,
    labels: Sequence[str] | None = None,
    dashed: Sequence[bool] | None = None,
) -> np.ndarray:
    """Draws boxes [N, 4] in the colours of their ids, each with its label above; rows of NaN are left out.

    The line lies on the pixels at the inner edge of the box, the dark line on those around it. `dashed` marks boxes
    that are doubtful.
    """
    picture = Image.fromarray(frame)
    draw = ImageDraw.Draw(picture)
    wide, height = thickness(frame), letter_size(frame)
    rim = max(1, wide // 2)
    limit = 4 * max(picture.size)
    for row, sides in enumerate(corners(np.asarray(boxes, np.float64)).tolist()):
        if not np.isfinite(sides).all():
            continue
        # The last pixel that a box covers ends at x1, so that its outline runs through x1 - 1. Far outside, a shorter
        # side looks the same and is drawn sooner.
        x0, y0, x1, y1 = (round(max(-limit, min(side, limit))) for side in sides)
        x1, y1 = max(x1 - 1, x0), max(y1 - 1, y0)
        tone = colour(int(ids[row]))
        strokes = list(_strokes((x0, y0, x1, y1), wide, 5 * wide if dashed is not None and dashed[row] else 0))
        for a, b, c, d in strokes:
            draw.rectangle([a - rim, b - rim, c + rim, d + rim], fill=DARK)
        for stroke in strokes:
            draw.rectangle(stroke, fill=tone)
        if labels is not None and labels[row]:
            high = draw.textbbox((0, 0), labels[row], font=font(height))
            above = y0 - rim - (high[3] - high[1]) - 5
            _write(draw, labels[row], (x0, above if above >= 0 else y1 + rim + 1), tone, height, picture.size)
    return np.array(picture)


def _strokes(box: Rectangle, wide: int, dash: int) -> Iterator[Rectangle]:
    """The four sides of a box as filled rectangles, cut into dashes of `dash` pixels unless that is 0."""
    x0, y0, x1, y1 = box
    wide = max(1, min(wide, (x1 - x0 + 1) // 2, (y1 - y0 + 1) // 2))
    sides = ((x0, y0, x1, y0 + wide - 1), (x0, y1 - wide + 1, x1, y1))
    sides += ((x0, y0, x0 + wide - 1, y1), (x1 - wide + 1, y0, x1, y1))
    for a, b, c, d in sides:
        length = max(c - a, d - b) + 1
        # An odd number of pieces, every other one drawn, so that the corners are.
        pieces = max(1, round(length / dash)) // 2 * 2 + 1 if dash else 1
        for piece in range(0, pieces, 2):
            first, last = length * piece // pieces, length * (piece + 1) // pieces - 1
            yield (a + first, b, a + last, d) if c - a >= d - b else (a, b + first, c, b + last)


def draw_trails(frame: np.ndarray, ways: np.ndarray, tones: Sequence[Colour]) -> np.ndarray:
    """Draws ways [M, time, 2], oldest place first, as lines that fade with age; NaN interrupts them."""
    picture = Image.fromarray(frame)
    draw = ImageDraw.Draw(picture, "RGBA")
    wide = thickness(frame)
    for way, tone in zip(ways.tolist(), tones):
        for age, ((ax, ay), (bx, by)) in enumerate(pairwise(way), 1):
            if np.isfinite([ax, ay, bx, by]).all():
                strength = 255 * age // len(way)
                draw.line([ax, ay, bx, by], fill=(*DARK, strength // 2), width=wide + 2)
                draw.line([ax, ay, bx, by], fill=(*tone, strength), width=wide)
    return np.array(picture)


def draw_points(
    frame: np.ndarray,
    points: np.ndarray,
    visible: np.ndarray | None = None,
    owners: np.ndarray | None = None,
    trail: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Draws points [M, 2] as dots, hidden ones as rings, and behind each its way along `trail` (oldest first)."""
    # Without owners every point has a colour of its own.
    tones = [colour(int(owners[row]) if owners is not None else row + 1) for row in range(len(points))]
    if trail:
        frame = draw_trails(frame, np.stack([*trail, points], 1), tones)
    picture = Image.fromarray(frame)
    draw = ImageDraw.Draw(picture)
    wide = thickness(frame)
    radius = 3 * wide / 2
    for row, (x, y) in enumerate(np.asarray(points, np.float64).tolist()):
        if not np.isfinite([x, y]).all():
            continue
        seen = visible is None or bool(visible[row])
        # A pixel's centre lies at +0.5, where Pillow counts centres from 0.
        for size, tone in (
            ((radius + 1, DARK), (radius, tones[row])) if seen else ((radius + 3, DARK), (radius + 2, tones[row]))
        ):
            place = [x - 0.5 - size, y - 0.5 - size, x - 0.5 + size, y - 0.5 + size]
            if seen:
                draw.ellipse(place, fill=tone)
            else:
                draw.ellipse(place, outline=tone, width=wide if tone != DARK else wide + 2)
    return np.array(picture)


def draw_flow(frame: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Draws flow [H, W, 2] as arrows from the points of a grid; places without flow, or that stay, have none."""
    picture = Image.fromarray(frame)
    draw = ImageDraw.Draw(picture)
    wide = thickness(frame)
    step = 12 * wide
    for y in range(step // 2, frame.shape[0], step):
        for x in range(step // 2, frame.shape[1], step):
            u, v = flow[y, x].tolist()
            length = float(np.hypot(u, v))
            if not 0.5 <= length < np.inf:
                continue
            tip = np.array([x + u, y + v])
            back = np.array([-u, -v]) * min(1, 2 * wide / length)
            side = np.array([-back[1], back[0]]) / 2
            head = [*(tip + back + side), *tip, *(tip + back - side)]
            for tone, width in ((DARK, wide + 2), (UNOWNED, wide)):
                draw.line([x, y, *tip], fill=tone, width=width)
                draw.line(head, fill=tone, width=width)
    return np.array(picture)


def draw_target(
    frame: np.ndarray, target: Target, trail: Sequence[Target] = (), doubtful_below: float | None = None
) -> np.ndarray:
    """Draws what a Target knows of the frame: flow, mask, boxes with id and score, points.

    `trail` holds the Targets of earlier frames, oldest first: behind boxes the way of their centres is drawn, behind
    points theirs. An object whose score is below `doubtful_below` is dashed and has a question mark.
    """
    picture = frame if target.flow is None else draw_flow(frame, target.flow)
    if target.mask is not None:
        picture = draw_mask(picture, target.mask)
    if target.boxes is not None:
        ids = target.ids.tolist()
        if trail and len(ids):
            way = [[_centre(past, object_id) for past in (*trail, target)] for object_id in ids]
            picture = draw_trails(picture, np.array(way), [colour(object_id) for object_id in ids])
        scores = [float("nan")] * len(ids) if target.scores is None else target.scores.tolist()
        doubtful = [doubtful_below is not None and score < doubtful_below for score in scores]
        labels = [
            f"{object_id}: {score:.2f}{' ?' if doubt else ''}" if score == score else str(object_id)
            for object_id, score, doubt in zip(ids, scores, doubtful)
        ]
        picture = draw_boxes(picture, target.boxes, ids, labels, doubtful)
    if target.points is not None:
        before = [past.points for past in trail if past.points is not None and len(past.points) == len(target.points)]
        picture = draw_points(picture, target.points, target.visible, target.owners, before)
    return picture


def _centre(target: Target, object_id: int) -> np.ndarray:
    """float64 [2]: the centre of an object's box; NaN where it has none."""
    box = target.box(object_id)
    return box[:2] + box[2:] / 2


def draw_classes(frame: np.ndarray, classes: Mapping[str, float], rows: int = 5) -> np.ndarray:
    """The frame with a strip under it: the likeliest classes, a line each, with a bar as long as its probability."""
    size, wide = letter_size(frame), frame.shape[1]
    high = size + 6
    strip = Image.new("RGB", (wide, (rows * high + 7) // 2 * 2), DARK)
    draw = ImageDraw.Draw(strip)
    best = sorted(classes.items(), key=lambda item: -item[1])[:rows]
    for row, (name, share) in enumerate(best):
        y = 3 + row * high
        draw.rectangle([0, y, round(share * (wide - 1)), y + high - 2], fill=(0, 90, 130))
        draw.text((4, y + 1), f"{100 * share:3.0f} % {name}", fill=UNOWNED, font=font(size))
    return np.concatenate([frame, np.asarray(strip)])


def draw_grid(frame: np.ndarray, step: int | None = None) -> np.ndarray:
    """Draws lines every `step` pixels (by default some twenty along the longer side) with their coordinates.

    Small frames are enlarged until the numbers fit; the numbers are pixels of the frame itself.
    """
    height, width = frame.shape[:2]
    longer = max(height, width)
    step = step or next(s for s in (5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, longer) if s >= longer / 20)
    scale = max(1, -(-960 // longer))
    picture = Image.fromarray(frame).resize((width * scale, height * scale), Image.Resampling.BICUBIC)
    letters = font(14 if scale > 1 else max(14, longer // 70))
    probe = ImageDraw.Draw(picture).textbbox((0, 0), str(longer), font=letters)
    left, top = round(probe[2] - probe[0]) + 8, round(probe[3] - probe[1]) + 10
    sheet = Image.new("RGB", (picture.width + left, picture.height + top), (255, 255, 255))
    sheet.paste(picture, (left, top))
    draw = ImageDraw.Draw(sheet, "RGBA")
    for axis, size in enumerate((width, height)):
        for number in range(0, size, step):
            at = number * scale + (left, top)[axis]
            line = [at, top, at, sheet.height] if axis == 0 else [left, at, sheet.width, at]
            draw.line([v + (1 if i % 2 == axis else 0) for i, v in enumerate(line)], fill=(*DARK, 130), width=1)
            draw.line(line, fill=(255, 255, 255, 190), width=1)
            text = str(number)
            box = draw.textbbox((0, 0), text, font=letters)
            wide, high = box[2] - box[0], box[3] - box[1]
            x, y = (at - wide / 2, 4) if axis == 0 else (left - wide - 5, at - high / 2)
            draw.text((max(0, min(x, sheet.width - wide)) - box[0], max(0, y) - box[1]), text, fill=DARK, font=letters)
    return np.array(sheet)


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
