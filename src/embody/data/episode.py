"""One episode in memory, in the one time convention: timestep t holds what arrived together."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embody.data.video import Video
from embody.errors import UserError

__all__ = ["EVERY_TASK", "Episode", "EpisodeRow", "label_indices", "label_words"]

EVERY_TASK = "*"  # the task of a recording that belongs to all of its dataset's tasks


@dataclass(frozen=True)
class Episode:
    """`T` timesteps. Timestep 0 is what the reset showed; each later one is an action, the frame it led to, its reward.

    A time limit is no terminal: such an episode just ends. A recording of many tasks has `events`, and `EVERY_TASK` as
    its task: for each of the dataset's K tasks it is an episode whose rewards are that task's events, 0 or 1, and its
    own `rewards` are not read. A plain video of that task is drawn as often as such a recording, and has no events.
    Wrong shapes, dtypes or flags are a `UserError`.
    """

    frames: NDArray[np.uint8] | Video  # [T, H, W, 3], or where they are
    actions: NDArray[np.int64]  # [T, A]; row t led to frame t, row 0 is zeros and not read
    rewards: NDArray[np.float32]  # [T]; came with frame t, rewards[0] = 0
    is_terminal: NDArray[np.bool_]  # [T]; true termination, at the last timestep only
    task: str
    label: str  # what is asked for, in words
    source: str  # who played: "expert", "random", ...
    noise: float  # how often a random action replaced the player's, 0..1
    seed: int
    success: bool
    labelled: bool = True  # False: a plain video; its actions are zeros, and not read
    events: NDArray[np.bool_] | None = None  # [T, K]: which tasks are achieved at timestep t
    camera: NDArray[np.float32] | None = None  # [T, 2]: degrees as recorded, beside the binned factor of `actions`
    is_null: NDArray[np.bool_] | None = None  # [T]: the timestep was reached by doing nothing at all

    def __post_init__(self) -> None:
        where = f"episode of {self.task} with seed {self.seed}"
        if not isinstance(self.frames, Video):
            shape = self.frames.shape
            if len(self.frames) == 0 or self.frames.ndim != 4 or shape[3] != 3:
                raise UserError(f"{where}: frames must be [T, H, W, 3] with T >= 1, got {list(shape)}")
            if self.frames.dtype != np.uint8:
                raise UserError(f"{where}: frames must be uint8, got {self.frames.dtype}")
        if self.actions.ndim != 2:
            raise UserError(f"{where}: actions must be [T, A], got {list(self.actions.shape)}")
        steps, factors = self.length, self.actions.shape[1]
        for name, dtype, shape in (
            ("actions", np.int64, (steps, factors)),
            ("rewards", np.float32, (steps,)),
            ("is_terminal", np.bool_, (steps,)),
            ("camera", np.float32, (steps, 2)),
            ("is_null", np.bool_, (steps,)),
            ("events", np.bool_, (steps, -1 if self.events is None else self.events.shape[-1])),
        ):
            array = getattr(self, name)
            if array is None:
                continue
            if array.dtype != dtype:
                raise UserError(f"{where}: {name} must be {np.dtype(dtype)}, got {array.dtype}")
            if len(array) != steps:
                raise UserError(f"{where}: {name} has {len(array)} steps, frames {steps}")
            if array.shape != shape:
                raise UserError(f"{where}: {name} must be {list(shape)}, got {list(array.shape)}")
        if self.labelled and (self.events is not None) != (self.task == EVERY_TASK):
            raise UserError(f"{where}: task {EVERY_TASK!r} and events go together, the one needs the other")
        if self.events is not None and self.events[0].any():
            raise UserError(f"{where}: nothing is achieved at timestep 0, events must be false there")
        if not self.labelled and (self.actions.any() or self.events is not None):
            raise UserError(f"{where}: a plain video has neither actions nor events: leave them 0, or set labelled")
        if self.camera is not None and not np.isfinite(self.camera).all():
            raise UserError(f"{where}: camera must be finite")
        if self.rewards[0] != 0 or self.actions[0].any():
            raise UserError(f"{where}: timestep 0 has no action and no reward, both must be 0 there")
        if not np.isfinite(self.rewards).all():
            raise UserError(f"{where}: rewards must be finite")
        if self.is_terminal[:-1].any():
            raise UserError(f"{where}: is_terminal may be true at the last timestep only")
        if not 0 <= self.noise <= 1:
            raise UserError(f"{where}: noise must lie in 0..1, got {self.noise}")

    @property
    def length(self) -> int:
        """T."""
        return self.frames.length if isinstance(self.frames, Video) else len(self.frames)


@dataclass(frozen=True)
class EpisodeRow:
    """What a dataset's table says of one episode."""

    id: int
    split: str
    task: str
    label: str
    source: str
    noise: float
    seed: int
    success: bool
    length: int  # timesteps
    return_: float  # undiscounted sum of its rewards
    labelled: bool = field(default=True, repr=False)  # not in `repr`, of which the fingerprints of version 1 are made


def label_words(label: str) -> list[str]:
    """The words of a task label: lower case, without punctuation."""
    return re.findall(r"\w+", label.lower())


def label_indices(label: str, vocabulary: Sequence[str], words: int) -> NDArray[np.int64]:
    """`[words]`: the label's words in order as places in `vocabulary`, cut or padded with 0; 1 is an unknown word."""
    places = {word: place for place, word in enumerate(vocabulary)}
    indices = np.zeros(words, np.int64)
    for i, word in enumerate(label_words(label)[:words]):
        indices[i] = places.get(word, 1)
    return indices
