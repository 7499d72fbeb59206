"""Training samples: an object in an earlier scan, and what is around it in a later one, its place roughly known."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dropmae.data.boxtracks import BoxTracks
from dropmae.metrics.boxes3d import inside, local, moved, offset
from dropmae.sequence import Sequence
from dropmae.tasks.lidar.crops import around, cloud, radius, reference, sampled

TRIES = 20
"""Draws of frames and object before a sequence counts as one that cannot serve."""
FEWEST = 4
"""Points that an object has in the scan where it is given."""


MARGIN = 6.0
"""Metres around an object beyond which no crop reaches."""


class Draw(NamedTuple):
    """An object in three scans."""

    first: np.ndarray
    """float64 [P, 3]: its points in its own axes, as it was given."""
    before: tuple[np.ndarray, np.ndarray]
    """Points [P, 3] and box [7] of an earlier scan."""
    now: tuple[np.ndarray, np.ndarray]
    given: bool
    """Whether the earlier scan is the one in which it was given."""


def draw(sequence: Sequence, rng: np.random.Generator) -> Draw:
    """An object and scans that show it; OSError where there are none."""
    targets = sequence.targets
    tracks = (targets if isinstance(targets, BoxTracks) else BoxTracks(targets)).tracks3d
    known = [track for track in tracks.values() if len(track[0]) > 1]
    for _ in range(TRIES if known else 0):
        frames, places = known[int(rng.integers(len(known)))]
        now = int(rng.integers(1, len(frames)))
        before = max(0, now - (1 if rng.random() < 0.8 else 2))
        first = before if rng.random() < 0.3 else int(rng.integers(before + 1))
        boxes = places[[first, before, now]]
        read = sequence.video.read(frames[[first, before, now]])
        scans = [cloud(scan, box, 1.5 * (MARGIN + float(box[3:5].max()))) for scan, box in zip(read, boxes)]
        own = local(scans[0], boxes[0])
        own = own[inside(own, boxes[0], 0.05)]
        if len(own) >= FEWEST:
            return Draw(own, (scans[1], boxes[1]), (scans[2], boxes[2]), first == before)
    raise OSError("no object in it has a box and points in two scans")


def sample(
    sequence: Sequence, rng: np.random.Generator, least: float, grids: tuple[int, int], counts: tuple[int, int, int]
) -> dict[str, Any]:
    """Arrays for `Lidar.forward`; see there. `grids` are the cells along a side, of the scan searched and of before."""
    drawn = draw(sequence, rng)
    (earlier, before), (later, now) = drawn.before, drawn.now
    first = drawn.first
    share = rng.uniform(0.1, 1) if rng.random() < 0.7 else 1.0  # as a scanner with fewer beams would see it
    first, earlier, later = (points[rng.random(len(points)) < share] for points in (first, earlier, later))
    slip = 0.0 if drawn.given else np.exp(rng.uniform(np.log(0.1), np.log(2)))  # a follower's box is never quite right
    shift = rng.normal(0, 1, 3) * (0.05 + 0.04 * before[[4, 3, 5]]) * [1, 1, 0.3] * slip
    known = moved(before, np.append(shift, rng.normal(0, np.radians(3)) * slip))
    if rng.random() < (0.8 if drawn.given else 0.1):
        guess = known  # nothing is known of how it moves
    else:
        strength = np.exp(rng.uniform(np.log(0.2), np.log(4)))
        spread = np.array([0.1 + 0.06 * now[4], 0.1 + 0.06 * now[3], 0.05]) * strength
        wrong = shift * (rng.random() < 0.7) + rng.normal(0, 1, 3) * spread
        guess = moved(now, np.append(wrong, rng.normal(0, np.radians(4)) * strength))
    scale, mirror = rng.uniform(0.9, 1.1), rng.random() < 0.5
    guess, known, now = (box * [*[scale] * 6, 1.0] for box in (guess, known, now))
    first, earlier, later = (points * scale for points in (first, earlier, later))
    reach = radius(guess, least)
    step = offset(guess, now)
    query = around(later, guess, reach)
    back = reference(earlier, known, first, reach * grids[1] / grids[0], counts[1:], drawn.given, rng)
    made = {
        "query": sampled(query, counts[0], rng),
        "reference": back,
        "size": guess[3:6].astype(np.float32),
        "reach": np.float32(reach),
        "offset": step.astype(np.float32),
    }
    if mirror:
        made["query"][:, 1] *= -1
        made["reference"][:, 1] *= -1
        made["offset"][[1, 3]] *= -1
    return made
