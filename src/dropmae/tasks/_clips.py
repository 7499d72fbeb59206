"""What tasks share that say what a video shows: which frames are looked at, tokens of clips, and answers over time.

Two ways to choose frames. *dense*: one window of `frames` frames, `stride` apart (K400, UCF101, HMDB51); *uniform*: the
video in as many equal parts, a frame of each (Something-Something). The rules are those of VideoMAE's data sets.
B clips, T frames, N patches of a frame, L tokens, C width, V views.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dropmae.contracts import Task
from dropmae.metrics.classes import Views
from dropmae.nn import masking
from dropmae.nn.vit import ClipEncoder, Encoder
from dropmae.target import Target
from dropmae.tasks._prompts import check_frame

Sampling = Literal["dense", "uniform"]


def training_frames(length: int, count: int, stride: int, sampling: Sampling, rng: np.random.Generator) -> np.ndarray:
    """int64 [count]: frames of a training clip of a video of `length` frames.

    A dense window of count * stride frames ends anywhere in the video, its last frame included, so that frames are a
    little more than the stride apart; a shorter video is gone through whole and stays at its last frame. Uniform: a
    random frame of each part, and frame 0 alone of a video of fewer frames than parts.
    """
    window = count * stride
    if sampling == "uniform":
        part = length // count
        return np.arange(count) * part + (rng.integers(part, size=count) if part else 0)
    if length > window:
        end = int(rng.integers(window, length))
        return np.linspace(end - window, end, count).astype(np.int64).clip(end - window, end - 1)
    shown = np.linspace(0, length, length // stride).astype(np.int64)
    return np.append(shown, np.full(count - len(shown), length)).clip(0, length - 1)


def view_frames(length: int, count: int, view: int, views: int, sampling: Sampling) -> np.ndarray:
    """int64 [count]: what view number `view` of `views` takes of the `length` frames that are kept of a video.

    Dense: of every stride-th frame, a window that begins at an equal share of the way, the last frame repeated where
    there are too few; one view alone lies in the middle. Uniform: the frame at an equal share of each part; two views
    are the parts' starts and their centres, one view their centres.
    """
    if sampling == "uniform":
        share = view / views if views > 1 else 0.5
        return (length / count * (np.arange(count) + share)).astype(np.int64)
    spare = max(0, length - count)
    start = int(view * (spare / (views - 1))) if views > 1 else spare // 2
    return np.minimum(start + np.arange(count), length - 1)


def square_crops(frames: np.ndarray, crops: int) -> np.ndarray:
    """uint8 [crops, T, 3, S, S] of frames [T, H, W, 3]: squares from end to end of the longer side; one is central."""
    side, long = min(frames.shape[1:3]), max(frames.shape[1:3])
    axis = 1 if frames.shape[1] > frames.shape[2] else 2
    step = (long - side) / max(crops - 1, 1)
    starts = [int(step * number) if crops > 1 else (long - side) // 2 for number in range(crops)]
    made = [np.take(frames, range(start, start + side), axis) for start in starts]
    return np.ascontiguousarray(np.stack(made).transpose(0, 1, 4, 2, 3))


def clip_tokens(encoder: Any, frames: Tensor, drop: Tensor | None = None) -> Tensor:
    """Tokens [B, L, C] of clips [B, T, 3, H, W], uint8 or normalised, without class tokens, in the order of time.

    An encoder of clips attends over all of space and time, one of pairs over frames 0 and 1, 2 and 3, ..., any other
    sees each frame by itself. `drop` [depth, 2, B] is drop path's, the same for all parts of a clip. ValueError where
    the frames cannot be shared out so.
    """
    frames = masking.normalize(frames)
    clips, count = frames.shape[:2]
    if isinstance(encoder, ClipEncoder):
        together = encoder.tubelet
    else:
        together = 2 if isinstance(encoder, Encoder) and encoder.frame_embed is not None else 1
    if count % together:
        raise ValueError(f"this encoder sees {together} frames at once, which do not divide the clip's {count}")
    if isinstance(encoder, ClipEncoder):
        places = encoder.places(masking.grid_of(frames, encoder.patch), count)
        tokens = encoder.embed(masking.tubelets(frames, encoder.patch, together)) + places
    elif isinstance(encoder, Encoder):
        parts = frames.flatten(0, 1).unflatten(0, (-1, together))  # [B T / t, t, 3, H, W]
        places = encoder.places(masking.grid_of(frames, encoder.patch), together)
        tokens = encoder.embed(masking.patchify(parts, encoder.patch).flatten(1, 2)) + places
    else:
        return encoder.features(frames.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, (clips, -1)).flatten(1, 2)
    if drop is not None:
        drop = drop.repeat_interleave(len(tokens) // clips, 2)
    skipped = 0 if encoder.cls_token is None else 1
    return encoder.encode(tokens, drop)[:, skipped:].unflatten(0, (clips, -1)).flatten(1, 2)


@dataclass(frozen=True, eq=False)
class State:
    """What is known of a video so far; it holds no more frames than the task's `memory`."""

    kept: tuple[np.ndarray, ...]
    """Frames uint8 [h, w, 3], the shorter side as long as the network's pictures."""
    index: int
    verdict: Views | None
    """What the last frames show."""


@dataclass(kw_only=True, eq=False, repr=False)
class ClipTask(Task):
    """Says what a video shows: every so often of its last frames, and for its last frame of all of it in views."""

    gives = ("classes",)
    lag = 1

    # Frames of a clip
    frames: int = 16
    """Frames of a clip."""
    sampling: Sampling = "dense"
    """dense: a window of frames, `stride` apart; uniform: a frame of each of as many equal parts of the video."""
    stride: int = 4
    """Frames of the video from one frame of a dense clip to the next."""
    image: int = 224
    """Side of the pictures in pixels."""
    # In use
    views: int = 5
    """Clips that the verdict on a whole video is the mean of, over time."""
    crops: int = 3
    """Squares, along the longer side, that each of them is seen in."""
    every: int = 16
    """Frames from one answer about the last frames to the next; 0: the whole video alone, at its end."""
    memory: int = 512
    """Most frames that are kept; of a longer video the verdict is on the last ones."""

    def __post_init__(self) -> None:
        super().__init__()

    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of `scores`."""
        raise NotImplementedError

    def scores(self, clips: Tensor) -> Tensor:
        """Probabilities float32 [B, classes] of clips uint8 [B, T, 3, S, S]."""
        raise NotImplementedError

    def check_clips(self) -> None:
        """ValueError for numbers that make no clip."""
        for name, least in (("frames", 1), ("image", 1), ("stride", 1), ("views", 1), ("crops", 1), ("every", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.memory < self.frames:
            raise ValueError(f"memory must hold a clip's {self.frames} frames, not {self.memory}")

    def start(self, frame: np.ndarray, target: Target) -> State:
        """Nothing need be told."""
        return self.shown(State((), -1, None), frame)

    def step(self, state: State, frame: np.ndarray, prompt: Target | None = None) -> tuple[State, dict[int, Target]]:
        """Takes the next frame; what was known up to the last one."""
        return self.shown(state, frame), {state.index: answer(state.verdict)}

    def finish(self, state: State) -> dict[int, Target]:
        """{last frame: what the whole video shows, the mean over views and crops}."""
        parts = [view_frames(len(state.kept), self.frames, v, self.views, self.sampling) for v in range(self.views)]
        return {state.index: answer(self.verdict([[state.kept[i] for i in part] for part in parts], self.crops))}

    def copy(self, state: State) -> State:
        return state

    def shown(self, state: State, frame: np.ndarray) -> State:
        """The state after one more frame."""
        index, kept = state.index + 1, state.kept
        check_frame(frame)
        if self.sampling == "uniform" or index % self.stride == 0:
            kept = (*kept, scaled(frame, self.image))[-self.memory :]
            if kept[-1].shape != kept[0].shape:
                raise ValueError(
                    f"frame {index} has other proportions than the first one: {frame.shape[1]}x{frame.shape[0]}"
                )
        state = replace(state, kept=kept, index=index)
        if not self.every or index % self.every:
            return state
        near = kept[:: -self.stride if self.sampling == "uniform" else -1][: self.frames][::-1]
        near = [*near, *near[-1:] * (self.frames - len(near))]
        return replace(state, verdict=self.verdict([near], 1))

    def verdict(self, clips: list[list[np.ndarray]], crops: int) -> Views:
        """What clips show, each in so many crops, one after the other."""
        device = next(self.encoder.parameters()).device
        found = [self.scores(torch.from_numpy(square_crops(np.stack(one), crops)).to(device)) for one in clips]
        return Views(self.class_names(), torch.cat(found).float().cpu().numpy())


def scaled(frame: np.ndarray, side: int) -> np.ndarray:
    """A frame uint8 [H, W, 3] whose shorter side has `side` pixels, bilinear."""
    height, width = frame.shape[:2]
    if min(height, width) == side:
        return frame
    size = [max(side, round(length * side / min(height, width))) for length in (width, height)]
    return np.asarray(Image.fromarray(frame).resize((size[0], size[1]), Image.Resampling.BILINEAR))


def answer(verdict: Views | None) -> Target:
    return Target(ids=np.zeros(0, np.int64), classes={} if verdict is None else verdict)
