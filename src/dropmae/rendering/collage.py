"""Photographs, video and cut-outs moving over each other, with the exact path of every point.

A clip is a stack of layers. Each is a flat picture with alpha that turns in space, moves, grows and bends; what a pixel
shows is found by going back through its motion, and where a point of it goes by going forward, so that tracks and
visibility are exact. All frames of a layer are sampled in one call of torch.

Plane coordinates are pixels of the layer's own picture with its centre at 0; image coordinates are (x, y) in pixels
with pixel centres at +0.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Rng = np.random.Generator
Bends = Callable[[Tensor, Tensor], Tensor]
"""Offsets [K, M, 2] in the plane of points [K, M, 2] at times [K]: where the picture is looked up, minus the point."""
Kind = Literal["train", "held"]
"""Which bends and occluders there are: those of training, or others."""
ROUNDS = 16
"""Of the fixed-point iteration that undoes a bend; each halves the error at least."""
DISTANCE = 2.5
"""From the eye to a layer, in its longer sides."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Six numbers over time: x, y, angle, logarithm of the size, and the turns about the x and the y axis."""

    start: Tensor
    speed: Tensor
    swing: Tensor
    rate: Tensor
    phase: Tensor

    def __call__(self, times: Tensor) -> Tensor:
        """[K, 6] at times [K]."""
        t = times[:, None]
        return self.start + self.speed * t + self.swing * torch.sin(self.rate * t + self.phase)


@dataclass(eq=False)
class Layer:
    """A picture that moves: RGBA [1, 4, h, w] in [0, 1], premultiplied, or RGB [F, 3, h, w] that fills the plane.

    F is 1, or (video) the number of frames.
    """

    picture: Tensor
    curve: Curve
    gain: Tensor
    """[3]: what its colours are multiplied by."""
    shift: float = 0.0
    """What is added to them."""
    bends: Bends | None = None

    @property
    def ground(self) -> bool:
        """Whether it fills the plane, continued by its mirror image."""
        return self.picture.shape[1] == 3

    @cached_property
    def half(self) -> Tensor:
        """Half of its width and height."""
        return torch.tensor(self.picture.shape[:1:-1], dtype=torch.float32) / 2

    def matrices(self, times: Tensor) -> Tensor:
        """Homographies [K, 3, 3] from its plane to the image."""
        x, y, angle, size, about_x, about_y = self.curve(times).unbind(1)
        far = DISTANCE * 2 * float(self.half.max())
        cos, sin, cx, sx, cy, sy = angle.cos(), angle.sin(), about_x.cos(), about_x.sin(), about_y.cos(), about_y.sin()
        grow = far * size.exp()
        # The plane z = 0, turned about both axes, seen from `far` away, turned in the image, resized and shifted.
        first = (grow * cos * cy - x * sy, grow * (cos * sy * sx - sin * cx) + x * sx * cy, x * far)
        second = (grow * sin * cy - y * sy, grow * (sin * sy * sx + cos * cx) + y * sx * cy, y * far)
        return torch.stack([*first, *second, -sy, sx * cy, torch.full_like(x, far)], -1).unflatten(-1, (3, 3))

    def looked_up(self, places: Tensor, times: Tensor, inverse: Tensor | None = None) -> Tensor:
        """Where in its picture [K, M, 2] the image places [K, M, 2] at times [K] come from, in plane coordinates."""
        inverse = torch.linalg.inv(self.matrices(times)) if inverse is None else inverse
        plane = projected(inverse, places)
        return plane if self.bends is None else plane + self.bends(plane, times)

    def placed(self, points: Tensor, times: Tensor) -> Tensor:
        """Image places [K, M, 2] at times [K] of points [M, 2] of the picture."""
        wanted = points.expand(len(times), -1, -1)
        plane = wanted
        for _ in range(ROUNDS if self.bends is not None else 0):
            plane = wanted - self.bends(plane, times)  # pyrefly: ignore
        return projected(self.matrices(times), plane)

    def sampled(self, looked_up: Tensor, frames: Tensor | None = None) -> Tensor:
        """Colours [K, M, 4] of plane coordinates [K, M, 2]; `frames` [K] says which picture of a video."""
        at, mode = looked_up / self.half, "reflection" if self.ground else "zeros"
        if len(self.picture) == 1:  # one picture for all times
            found = functional.grid_sample(
                self.picture, at[None], mode="bilinear", padding_mode=mode, align_corners=False
            )
            return self.lit(found[0].permute(1, 2, 0))
        pictures = self.picture if frames is None else self.picture[frames]
        found = functional.grid_sample(pictures, at[:, None], mode="bilinear", padding_mode=mode, align_corners=False)
        return self.lit(found[:, :, 0].transpose(1, 2))

    def lit(self, colours: Tensor) -> Tensor:
        """Colours [K, M, 4] as its light has them, of what the picture holds."""
        if self.ground:
            return functional.pad(colours * self.gain + self.shift, (0, 1), value=1.0)
        return torch.cat([colours[..., :3] * self.gain + self.shift * colours[..., 3:], colours[..., 3:]], -1)

    def region(self, matrices: Tensor, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of the pixels that it may cover at some time."""
        if self.ground:
            return 0, 0, size[1], size[0]
        edge = torch.linspace(-1.25, 1.25, 5)
        rim = torch.cartesian_prod(edge, edge) * self.half
        places = projected(matrices, rim.expand(len(matrices), -1, -1)).flatten(0, 1)
        low, high = places.amin(0).floor().int().tolist(), places.amax(0).ceil().int().tolist()
        return max(0, low[0]), max(0, low[1]), min(size[1], high[0]), min(size[0], high[1])


def projected(matrices: Tensor, points: Tensor) -> Tensor:
    """Homographies [K, 3, 3] applied to points [K, M, 2]."""
    x, y = points[..., 0], points[..., 1]
    a, b, c, d, e, f, g, h, i = matrices.reshape(-1, 9, 1).unbind(1)
    scale = (x * g + y * h + i).reciprocal_()
    return torch.stack([(x * a + y * b + c) * scale, (x * d + y * e + f) * scale], -1)


# -------------------------------------------------------------------- pictures of a clip


def rendered(layers: list[Layer], frames: int, size: tuple[int, int], shutter: float = 0.0, samples: int = 1) -> Tensor:
    """float32 [T, 3, H, W] in [0, 1]: the layers over each other, the first one lowest.

    With `samples` above 1 a frame is the mean of what is seen while the shutter is open, a share of the time between
    frames.
    """
    total = torch.zeros(frames, 3, *size)
    for number in range(samples):
        times = torch.arange(frames) + shutter * ((number + 0.5) / samples - 0.5)
        seen = torch.zeros(frames, 3, *size)
        for layer in layers:
            matrices = layer.matrices(times)
            x0, y0, x1, y1 = layer.region(matrices, size)
            if x0 >= x1 or y0 >= y1:
                continue
            places = torch.cartesian_prod(torch.arange(y0, y1), torch.arange(x0, x1)).flip(1) + 0.5
            inverse = torch.linalg.inv(matrices)
            at = layer.looked_up(places.expand(frames, -1, -1), times, inverse)
            colours = layer.sampled(at).transpose(1, 2).unflatten(2, (y1 - y0, x1 - x0))
            under = seen[:, :, y0:y1, x0:x1]
            if layer.ground:
                under.copy_(colours[:, :3])
            else:
                under.mul_(1 - colours[:, 3:]).add_(colours[:, :3])
        total += seen
    return total / samples


@dataclass(eq=False)
class Tracks:
    """Paths of points through a clip."""

    places: Tensor
    """[T, N, 2]: image places."""
    visible: Tensor
    """bool [T, N]."""
    layers: Tensor
    """[N]: numbers of the layers that they are on."""


def tracked(layers: list[Layer], places: Tensor, starts: Tensor, frames: int, size: tuple[int, int]) -> Tracks:
    """The paths of what is seen at places [N, 2] in the frames `starts` [N]."""
    owners = owner(layers, places[:, None], starts.float(), starts)[:, 0]
    times = torch.arange(frames).float()
    paths = torch.zeros(frames, len(places), 2)
    for number in range(len(layers)):
        mine = owners == number
        if mine.any():
            at = layers[number].looked_up(places[mine][:, None], starts[mine].float())[:, 0]
            paths[:, mine] = layers[number].placed(at, times)
    inside = ((paths >= 0) & (paths < torch.tensor(size[::-1]))).all(-1)
    seen = owner(layers, paths, times, torch.arange(frames)) == owners
    return Tracks(paths, inside & seen, owners)


def owner(layers: list[Layer], places: Tensor, times: Tensor, frames: Tensor) -> Tensor:
    """The highest layer that covers image places [K, M, 2] at times [K]: numbers [K, M]."""
    found = torch.zeros(places.shape[:2], dtype=torch.long)
    for number, layer in enumerate(layers[1:], 1):
        opaque = layer.sampled(layer.looked_up(places, times), frames)[..., 3] > 0.5
        found[opaque] = number
    return found


# -------------------------------------------------------------------- what happens in a clip


def waves(rng: Rng, half: Tensor, strength: float) -> Bends:
    """A surface rippled by three waves that run through it, as cloth or skin."""
    short = float(half.min())
    length = short * torch.from_numpy(np.exp(rng.uniform(np.log(0.7), np.log(3), 3))).float()
    heading = torch.from_numpy(rng.uniform(0, 2 * math.pi, 3)).float()
    along = torch.stack([heading.cos(), heading.sin()]) * (2 * math.pi / length)  # [2, 3]
    turned = torch.from_numpy(rng.uniform(0, 2 * math.pi, 3)).float()
    across = torch.stack([turned.cos(), turned.sin()], 1) * (strength / 3 * length / (2 * math.pi))[:, None]
    rate, phase = (torch.from_numpy(rng.uniform(low, high, 3)).float() for low, high in ((-0.5, 0.5), (0, 6.3)))

    def bends(plane: Tensor, times: Tensor) -> Tensor:
        return torch.sin(plane @ along + (rate * times[:, None] + phase)[:, None]) @ across

    return bends


def twist(rng: Rng, half: Tensor, strength: float) -> Bends:
    """A surface bent along its length that also turns about a place within it, as a limb; in no training clip."""
    centre = torch.from_numpy(rng.uniform(-0.5, 0.5, 2)).float() * half
    reach = float(half.min()) * float(rng.uniform(0.5, 1))
    rate, phase = (torch.from_numpy(rng.uniform(low, high, 2)).float() for low, high in ((0.1, 0.5), (0, 6.3)))
    sideways = bool(rng.integers(2))

    def bends(plane: Tensor, times: Tensor) -> Tensor:
        swing = strength * torch.sin(rate * times[:, None] + phase)[:, None]  # [K, 1, 2]
        off = plane - centre
        angle = swing[..., :1] * torch.exp(-off.square().sum(-1, keepdim=True) / (2 * reach**2))
        turned = torch.cat([off[..., :1] * angle.cos() - off[..., 1:] * angle.sin(),
                            off[..., :1] * angle.sin() + off[..., 1:] * angle.cos()], -1)  # fmt: skip
        along = plane[..., 1:] if sideways else plane[..., :1]
        bow = 0.5 * swing[..., 1:] * along.square() / float(half.max())
        nothing = torch.zeros_like(bow)
        return turned - off + torch.cat([bow, nothing] if sideways else [nothing, bow], -1)

    return bends


def curve(rng: Rng, size: tuple[int, int], frames: int, speed: float, turn: float) -> Curve:
    """A way through the image: somewhere in it half-way, drifting and swaying, `speed` pixels and `turn` a frame."""
    short = min(size)
    middle = np.array([rng.uniform(0, size[1]), rng.uniform(0, size[0]), rng.uniform(-0.4, 0.4), 0, 0, 0])
    way = rng.uniform(0, 2 * math.pi)
    drift = np.array([math.cos(way) * speed, math.sin(way) * speed, rng.normal(0, turn), *rng.normal(0, turn / 2, 3)])
    drift[3] = np.clip(drift[3], -0.5 / frames, 0.5 / frames)
    swing = np.array([*rng.exponential(0.02 * short, 2), rng.exponential(0.1), rng.exponential(0.04)])
    swing = np.concatenate([swing, np.minimum(rng.exponential(0.25, 2), 0.7)])
    drift[4:] = np.clip(drift[4:], -0.4 / frames, 0.4 / frames)
    values = (middle - drift * (frames - 1) / 2, drift, swing, rng.uniform(0.1, 0.7, 6), rng.uniform(0, 6.3, 6))
    return Curve(*(torch.from_numpy(np.asarray(value)).float() for value in values))


def light(rng: Rng) -> tuple[Tensor, float]:
    """A gain per colour [3], and a shift."""
    gain = torch.from_numpy(np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.07, 3))).float()
    return gain, float(rng.normal(0, 0.05))


def premultiplied(picture: Tensor) -> Tensor:
    """RGBA [1, 4, h, w] with its colours multiplied by its alpha."""
    return torch.cat([picture[:, :3] * picture[:, 3:], picture[:, 3:]], 1)


def blob(rng: Rng, height: int, width: int) -> Tensor:
    """Alpha [h, w] of a rounded shape without corners."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    angle, radius = torch.atan2(y, x), 0.72 * torch.ones_like(x)
    for order in range(1, 6):
        radius += float(rng.normal(0, 0.22 / order)) * torch.cos(order * angle + float(rng.uniform(0, 6.3)))
    return ((radius - (x * x + y * y).sqrt()) * min(height, width) / 3 + 0.5).clamp(0, 1)


def bars(rng: Rng, side: int) -> Tensor:
    """RGBA [1, 4, side, side]: bars of a fence or rings; in no training clip."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    along = x if rng.random() < 0.6 else (x * x + y * y).sqrt()
    count, share = float(rng.uniform(2, 4)), float(rng.uniform(0.2, 0.45))
    saw = (along * count + float(rng.uniform(0, 1))) % 1
    alpha = ((share / 2 - (saw - 0.5).abs()) * side / (2 * count) + 0.5).clamp(0, 1)
    alpha = alpha * (x.abs().maximum(y.abs()) < 0.98)
    first, second = (torch.from_numpy(rng.uniform(0, 1, 3)).float()[:, None, None] for _ in range(2))
    colours = first + (second - first) * (saw * 0.5 + 0.5 * (y + 1) / 2)
    return torch.cat([colours.clamp(0, 1), alpha[None]])[None]


def resized(picture: Tensor, height: int, width: int) -> Tensor:
    """Pictures [F, C, h, w] of another size, without aliasing."""
    size = (max(8, height), max(8, width))
    return functional.interpolate(picture, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def scene(ground: Tensor, cuts: list[Tensor], rng: Rng, frames: int, size: tuple[int, int], kind: Kind) -> list[Layer]:
    """Layers of a clip: `ground` [F, 3, h, w], a photograph or the frames of a video, and cut-outs [1, 4, h, w]."""
    short = min(size)
    cover = max(size[0] / ground.shape[2], size[1] / ground.shape[3]) * float(np.exp(rng.uniform(0.1, 1.1)))
    way = curve(rng, size, frames, float(rng.exponential(1.2)), 0.004)
    for values, most in ((way.start, 0.25), (way.swing, 0.25)):
        values[4:] = values[4:].clamp(-most, most)
    middle = torch.tensor([size[1] / 2, size[0] / 2]) + torch.from_numpy(rng.normal(0, 0.08 * short, 2)).float()
    way.start[:2] = middle - way.speed[:2] * (frames - 1) / 2
    way.start[3] += math.log(cover)
    layers = [Layer(ground, way, *light(rng))]
    if len(ground) == 1 and rng.random() < 0.3:
        layers[0].bends = waves(rng, layers[0].half, float(rng.uniform(0.1, 0.5)))
    for cut in cuts:
        side = short * float(np.exp(rng.uniform(np.log(0.18), np.log(0.75))))
        scale = side / math.sqrt(cut.shape[2] * cut.shape[3])
        picture = resized(premultiplied(cut), round(cut.shape[2] * scale), round(cut.shape[3] * scale))
        speed = float(np.exp(rng.uniform(np.log(0.3), np.log(9))))
        layer = Layer(picture, curve(rng, size, frames, speed, 0.02), *light(rng))
        if rng.random() < 0.6:
            make = waves if kind == "train" else twist
            layer.bends = make(rng, layer.half, float(rng.uniform(0.2, 0.6)))
        layers.append(layer)
    if kind == "held":
        picture = premultiplied(bars(rng, round(short * float(rng.uniform(0.5, 1)))))
        layers.append(Layer(picture, curve(rng, size, frames, float(rng.uniform(3, 8)), 0.01), *light(rng)))
    return layers


def filmed(layers: list[Layer], rng: Rng, frames: int, size: tuple[int, int]) -> np.ndarray:
    """uint8 [T, H, W, 3]: the clip as a camera would take it, with changing light, noise, at times motion blur."""
    blurred = rng.random() < 0.2
    clip = rendered(layers, frames, size, float(rng.uniform(0.3, 0.9)), 3 if blurred else 1)
    if rng.random() < 0.2:
        clip = functional.avg_pool2d(functional.pad(clip, (1, 1, 1, 1), mode="replicate"), 3, 1)
    light = 1 + float(rng.normal(0, 0.1)) * torch.linspace(-1, 1, frames)[:, None, None, None]
    seed = int(rng.integers(2**62))
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(seed)) * float(rng.exponential(0.012))
    return ((clip * light + noise).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def chosen(layers: list[Layer], rng: Rng, count: int, frames: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Places [N, 2] and frames [N] of points to follow: most on what moves over the ground, none on a filmed one."""
    tries = 6 * count
    starts = torch.from_numpy(np.where(rng.random(tries) < 0.5, 0, rng.integers(0, max(1, frames // 2 + 1), tries)))
    places = torch.from_numpy(rng.uniform(0, 1, (tries, 2)) * size[::-1]).float()
    owners = owner(layers, places[:, None], starts.float(), starts)[:, 0]
    above = torch.nonzero(owners > 0)[:, 0]
    below = torch.nonzero(owners == 0)[:, 0] if len(layers[0].picture) == 1 else above[:0]
    order = torch.cat([above[: max(count * 2 // 3, count - len(below))], below])[:count]
    return places[order], starts[order]
