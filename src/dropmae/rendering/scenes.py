"""Rendered clips: textured surfaces that move, with everything that is known about every pixel.

A scene is a pile of flat surfaces (a background, objects made of one or more parts, unlabelled foreground) seen by a
moving camera. A surface is a picture over the square [-1, 1] x [-1, 1]; at each time it is bent by two sine shears and
placed in the image by a homography. Both can be inverted in closed form, so that boxes, masks, point tracks and flow
follow exactly from what is drawn, and not from an estimate. `movement` and `appearance` decide what there is.

The rules of the annotation: a pixel belongs to the topmost surface that covers its centre; a point is visible where
the pixel that it falls into belongs to its surface; the flow of a pixel is that of its surface at the pixel's centre.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from dropmae.rendering.geometry import transform
from dropmae.target import Target, mask_boxes

SHARE_POINTS = 256
"""Points per object on which the visible share of its surface is measured."""


@dataclass(kw_only=True, eq=False)
class Surface:
    """One textured layer. Times run over -1 ... T, one row each; between two frames poses are interpolated."""

    owner: int
    """The object's id; 0 for background and unlabelled foreground."""
    picture: torch.Tensor
    """float32 [1, 3 or 4, S, S]: colours in 0..255 and, unless the surface fills the frame, its signed distance."""
    extent: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1 in the square: where there is anything to draw; None: endless, by mirror images."""
    poses: np.ndarray
    """float64 [T + 2, 3, 3]: from the square to pixels."""
    bends: np.ndarray | None = None
    """float64 [T + 2, 2, 3]: amplitude, rate and phase of x += a sin(r y + p), then of y += a sin(r x + p)."""
    shadow: float = 0.0
    """How dark the shadow is that it throws on what lies below."""

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray | None]:
        """Pose [3, 3] and bends [2, 3] at a time from -1 to T."""
        row = min(int(np.floor(time)) + 1, len(self.poses) - 2)
        share = time + 1 - row
        if share == 0:
            return self.poses[row], None if self.bends is None else self.bends[row]
        pose = (1 - share) * self.poses[row] + share * self.poses[row + 1]
        bend = None if self.bends is None else (1 - share) * self.bends[row] + share * self.bends[row + 1]
        return pose, bend

    def place(self, x: torch.Tensor, y: torch.Tensor, time: float) -> tuple[torch.Tensor, torch.Tensor]:
        """From the square to pixels."""
        pose, bend = self.at(time)
        if bend is not None:
            x = x + bend[0, 0] * torch.sin(y * bend[0, 1] + bend[0, 2])
            y = y + bend[1, 0] * torch.sin(x * bend[1, 1] + bend[1, 2])
        return transform(pose, x, y)

    def locate(self, x: torch.Tensor, y: torch.Tensor, time: float) -> tuple[torch.Tensor, torch.Tensor]:
        """From pixels to the square: the inverse of `place`."""
        pose, bend = self.at(time)
        x, y = transform(np.linalg.inv(pose), x, y)
        if bend is not None:
            y = y - bend[1, 0] * torch.sin(x * bend[1, 1] + bend[1, 2])
            x = x - bend[0, 0] * torch.sin(y * bend[0, 1] + bend[0, 2])
        return x, y

    def window(self, time: float, size: tuple[int, int], margin: float = 1.0) -> tuple[int, int, int, int] | None:
        """Rows and columns y0, y1, x0, x1 of the frame that the surface may cover; None where it is outside."""
        height, width = size
        if self.extent is None:
            return 0, height, 0, width
        pose, bend = self.at(time)
        x0, y0, x1, y1 = self.extent
        slack_x, slack_y = (0.0, 0.0) if bend is None else (abs(bend[0, 0]), abs(bend[1, 0]))
        xs = np.array([x0 - slack_x, x1 + slack_x])[[0, 1, 0, 1]]
        ys = np.array([y0 - slack_y, y1 + slack_y])[[0, 0, 1, 1]]
        w = pose[2, 0] * xs + pose[2, 1] * ys + pose[2, 2]
        px = (pose[0, 0] * xs + pose[0, 1] * ys + pose[0, 2]) / w
        py = (pose[1, 0] * xs + pose[1, 1] * ys + pose[1, 2]) / w
        left, right = max(int(px.min() - margin), 0), min(int(px.max() + margin) + 1, width)
        top, bottom = max(int(py.min() - margin), 0), min(int(py.max() + margin) + 1, height)
        return (top, bottom, left, right) if left < right and top < bottom else None

    def look(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """[3 or 4, h, w]: the picture at positions in the square."""
        grid = torch.stack(torch.broadcast_tensors(x, y), -1)[None]
        beyond = "reflection" if self.extent is None else "border"
        return F.grid_sample(self.picture, grid, padding_mode=beyond, align_corners=False)[0]

    def pixels_per_unit(self, time: float) -> float:
        """Scale of the surface at its centre."""
        pose, _ = self.at(time)
        return float(np.sqrt(abs(np.linalg.det(pose) / pose[2, 2] ** 3)))

    def speed(self, time: float) -> float:
        """Largest displacement of the extent's corners around `time`, in pixels per frame."""
        x0, y0, x1, y1 = self.extent or (-0.7, -0.7, 0.7, 0.7)
        xs, ys = torch.tensor([x0, x1, x0, x1]), torch.tensor([y0, y0, y1, y1])
        before, after = self.place(xs, ys, time - 0.5), self.place(xs, ys, time + 0.5)
        return float(torch.hypot(after[0] - before[0], after[1] - before[1]).max())


@dataclass(kw_only=True, eq=False)
class Effects:
    """What happens to light and lens; the defaults do nothing."""

    gain: np.ndarray | None = None
    """float32 [T, 3]: brightness per colour."""
    light: torch.Tensor | None = None
    """float32 [2, h, w]: two coarse fields of brightness between which the light drifts."""
    shutter: float = 0.0
    """Share of a frame's time during which the shutter is open."""
    defocus: np.ndarray | None = None
    """float64 [T]: blur radius in pixels."""
    noise: torch.Tensor | None = None
    """float32 [3, H, W]: sensor noise in grey levels, rolled by a random step per frame."""
    rolls: np.ndarray | None = None
    """int64 [T, 2]: those steps."""
    shadow: tuple[float, float] = (0.0, 0.0)
    """Where shadows fall: an offset in pixels."""


@dataclass(kw_only=True, eq=False)
class Scene:
    """Surfaces from back to front, and what is to be annotated."""

    size: tuple[int, int]
    """Height and width in pixels."""
    frames: int
    surfaces: list[Surface]
    objects: int
    """Objects have ids 1 ... objects."""
    effects: Effects = field(default_factory=Effects)
    tracks: list[tuple[int, torch.Tensor]] = field(default_factory=list)
    """Tracked points: index of the surface, and float64 [M, 2] in its square."""
    shares: list[tuple[int, torch.Tensor]] = field(default_factory=list)
    """Points on which the visible share of each object is measured, in the same form."""
    flow: bool = True
    hidden_flow: bool = False
    """Whether flow also tells where hidden pixels and those that leave the frame go."""

    def __post_init__(self) -> None:
        height, width = self.size
        self._x = torch.arange(width)[None, :] + 0.5
        self._y = torch.arange(height)[:, None] + 0.5
        self._owners = np.array([surface.owner for surface in self.surfaces], np.int32)

    def __iter__(self) -> Iterator[tuple[np.ndarray, Target]]:
        """Frame uint8 [H, W, 3] and Target, one after the other; memory does not grow with the clip."""
        held: tuple[np.ndarray, Target] | None = None
        before: tuple[torch.Tensor, torch.Tensor] | None = None
        for time in range(self.frames):
            picture, top, moved = self.draw(time)
            if held is not None:
                if before is not None:
                    held[1].flow = self.valid_flow(*before, top)
                yield held
            held = picture, self.annotate(time, top)
            before = (moved, top) if moved is not None and time + 1 < self.frames else None
        if held is not None:
            yield held

    def draw(self, time: int) -> tuple[np.ndarray, torch.Tensor, torch.Tensor | None]:
        """Frame [H, W, 3], index of the topmost surface [H, W], and flow [2, H, W] of that surface."""
        height, width = self.size
        canvas = torch.zeros(3, height, width)
        top = torch.zeros(height, width, dtype=torch.uint8)
        moved = torch.zeros(2, height, width) if self.flow else None
        for index, surface in enumerate(self.surfaces):
            if surface.shadow:
                self.darken(canvas, surface, time)
            window, still = surface.window(time, self.size), None
            if window is not None:
                rows, columns = slice(*window[:2]), slice(*window[2:])
                x, y = self._x[:, columns], self._y[rows]
                u, v = surface.locate(x, y, time)
                seen = surface.look(u, v)
                still, inside = (window, seen), None
                if len(seen) == 4:
                    inside = seen[3] > 0
                    top[rows, columns].masked_fill_(inside, index)
                if moved is not None:
                    new_x, new_y = surface.place(u, v, time + 1)
                    step = torch.stack([new_x - x, new_y - y])
                    target = moved[:, rows, columns]
                    target.copy_(step if inside is None else torch.where(inside, step, target))
            self.paint(canvas, surface, time, still)
        return self.expose(canvas, time), top, moved

    def paint(
        self, canvas: torch.Tensor, surface: Surface, time: int, still: tuple[tuple[int, ...], torch.Tensor] | None
    ) -> None:
        """Draws one surface; with the shutter open while it moves, the mean over that time."""
        shutter, scale = self.effects.shutter, surface.pixels_per_unit(time)
        travel = surface.speed(time) * shutter if shutter else 0.0
        if travel < 1:
            if still is None:
                return
            (y0, y1, x0, x1), seen = still
            region = canvas[:, y0:y1, x0:x1]
            if len(seen) == 3:
                region.copy_(seen)
            else:
                alpha = (seen[3] * scale + 0.5).clamp_(0, 1)
                region.lerp_(seen[:3], alpha.expand(3, -1, -1))
            return
        window = surface.window(time, self.size, margin=travel + 1)
        if window is None:
            return
        rows, columns = slice(*window[:2]), slice(*window[2:])
        region = canvas[:, rows, columns]
        total, cover = torch.zeros_like(region), torch.zeros(region.shape[1:])
        count = int(min(max(np.ceil(travel / 1.5), 2), 8))
        for moment in (np.arange(count) + 0.5) / count - 0.5:
            seen = surface.look(*surface.locate(self._x[:, columns], self._y[rows], time + moment * shutter))
            if len(seen) == 3:
                total += seen
                continue
            alpha = (seen[3] * scale + 0.5).clamp_(0, 1)
            total.addcmul_(seen[:3], alpha.expand(3, -1, -1))
            cover += alpha
        if surface.picture.shape[1] == 3:
            region.copy_(total / count)
        else:
            region.mul_(1 - cover / count).add_(total / count)

    def darken(self, canvas: torch.Tensor, surface: Surface, time: int) -> None:
        """Throws the shadow of a surface on what has been drawn so far."""
        dx, dy = self.effects.shadow
        window = surface.window(time, self.size, margin=abs(dx) + abs(dy) + 1)
        if window is None:
            return
        rows, columns = slice(*window[:2]), slice(*window[2:])
        seen = surface.look(*surface.locate(self._x[:, columns] - dx, self._y[rows] - dy, time))
        soft = surface.pixels_per_unit(time) / (1 + 0.5 * (abs(dx) + abs(dy)))
        canvas[:, rows, columns] *= 1 - surface.shadow * (seen[3] * soft + 0.5).clamp_(0, 1)

    def expose(self, canvas: torch.Tensor, time: int) -> np.ndarray:
        """Light, lens and sensor: float [3, H, W] to uint8 [H, W, 3]."""
        effects = self.effects
        if effects.gain is not None:
            canvas *= torch.from_numpy(effects.gain[time])[:, None, None]
        if effects.light is not None:
            share = 0.5 - 0.5 * np.cos(np.pi * (time % 64) / 32)
            light = torch.lerp(effects.light[0], effects.light[1], float(share))
            canvas *= F.interpolate(light[None, None], size=self.size, mode="bilinear", align_corners=True)[0]
        if effects.defocus is not None and effects.defocus[time] > 0.2:
            canvas = blur(canvas, float(effects.defocus[time]))
        if effects.noise is not None and effects.rolls is not None:
            canvas = canvas + effects.noise.roll(tuple(effects.rolls[time].tolist()), (1, 2))
        return canvas.add_(0.5).clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()

    def valid_flow(self, moved: torch.Tensor, top: torch.Tensor, next_top: torch.Tensor) -> np.ndarray:
        """float32 [H, W, 2]: the flow, NaN where the point is hidden or outside in the next frame."""
        if not self.hidden_flow:
            height, width = self.size
            x, y = (moved[0] + self._x).floor_(), (moved[1] + self._y).floor_()
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            places = (y.clamp_(0, height - 1) * width + x.clamp_(0, width - 1)).long()
            seen = next_top.view(-1)[places] == top
            moved.masked_fill_(~(inside & seen), float("nan"))
        return moved.permute(1, 2, 0).contiguous().numpy()

    def annotate(self, time: int, top: torch.Tensor) -> Target:
        """The Target of one frame, but for flow."""
        ids = np.arange(1, self.objects + 1)
        mask = self._owners[top.numpy()]
        if self.objects < 255:
            mask = mask.astype(np.uint8)
        _, boxes = mask_boxes(mask, ids)
        labels = top.numpy()
        points, visible, owners = [np.zeros((0, 2))], [np.zeros(0, bool)], [np.zeros(0, np.int64)]
        for index, square in self.tracks:
            places, seen, rows, columns = self.follow(index, square, time)
            points.append(places)
            visible.append(seen & (labels[rows, columns] == index))
            owners.append(np.full(len(places), self.surfaces[index].owner, np.int64))
        seen_count, all_count = np.zeros(self.objects + 1), np.zeros(self.objects + 1)
        for index, square in self.shares:
            places, seen, rows, columns = self.follow(index, square, time)
            owner = self.surfaces[index].owner
            all_count[owner] += len(places)
            seen_count[owner] += (seen & (mask[rows, columns] == owner)).sum()
        scores = seen_count[1:] / np.maximum(all_count[1:], 1)
        return Target(
            ids=ids,
            boxes=boxes,
            mask=mask,
            points=np.concatenate(points) if self.tracks else None,
            visible=np.concatenate(visible) if self.tracks else None,
            owners=np.concatenate(owners) if self.tracks else None,
            scores=np.where(np.isnan(boxes[:, 0]), 0.0, np.maximum(scores, 1 / SHARE_POINTS)) if self.shares else None,
        )

    def follow(
        self, index: int, square: torch.Tensor, time: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Points of a surface in pixels [M, 2], whether they are in the frame, and the row and column they fall in."""
        height, width = self.size
        x, y = self.surfaces[index].place(square[:, 0], square[:, 1], time)
        places = torch.stack([x, y], 1).numpy()
        cells = np.floor(places)
        seen = (cells[:, 0] >= 0) & (cells[:, 0] < width) & (cells[:, 1] >= 0) & (cells[:, 1] < height)
        columns = np.clip(cells[:, 0], 0, width - 1).astype(np.int64)
        rows = np.clip(cells[:, 1], 0, height - 1).astype(np.int64)
        return places, seen, rows, columns


def blur(picture: torch.Tensor, radius: float) -> torch.Tensor:
    """A picture [3, H, W] out of focus: two passes of a tent that is `radius` pixels wide at half height."""
    reach = int(np.ceil(radius))
    kernel = (1 - torch.arange(-reach, reach + 1).abs() / (radius + 1)).clamp_(min=0)
    kernel /= kernel.sum()
    padded = F.pad(picture[:, None], (reach, reach, reach, reach), mode="replicate")
    wide = F.conv2d(padded, kernel.view(1, 1, 1, -1))
    return F.conv2d(wide, kernel.view(1, 1, -1, 1))[:, 0]
