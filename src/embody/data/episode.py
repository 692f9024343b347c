"""One episode in memory.

Timestep t holds the action that led to it, its frame, its reward and its flags: see `Episode`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embody.data.video import Video
from embody.errors import UserError

__all__ = ["EVERY_TASK", "Episode", "EpisodeRow", "label_indices", "label_words"]

EVERY_TASK = "*"  # the task of a recording with events, which serves all tasks of its dataset


@dataclass(frozen=True)
class Episode:
    """An episode of T timesteps. Timestep 0 is the reset; each later one is an action, the frame and reward it led to.

    An episode that is cut off by a time limit has no terminal. A recording of many tasks has the task `EVERY_TASK` and
    `events`: for each of the dataset's K tasks it counts as an episode whose rewards are that task's events (0 or 1);
    its own `rewards` are then used by the goal "recorded" only. A plain video with the task `EVERY_TASK` has no events;
    clips are drawn from it as often as from such a recording. Wrong shapes, dtypes or flags raise a `UserError`.
    """

    frames: NDArray[np.uint8] | Video  # [T, H, W, 3], or the video file that holds them
    actions: NDArray[np.int64]  # [T, A]; row t led to frame t; row 0 is all zeros and unused
    rewards: NDArray[np.float32]  # [T]; reward t came with frame t; rewards[0] = 0
    is_terminal: NDArray[np.bool_]  # [T]; true only at the last timestep, if the environment terminated there
    task: str
    label: str  # the mission text
    source: str  # who played: "expert", "random", ...
    noise: float  # probability, 0 to 1, that a random action replaced the player's
    seed: int
    success: bool
    labelled: bool = True  # False: a plain video, whose actions are unknown; they are zeros and unused
    events: NDArray[np.bool_] | None = None  # [T, K]: which tasks are achieved at timestep t
    camera: NDArray[np.float32] | None = None  # [T, 2]: the camera's recorded motion in degrees, before binning
    is_null: NDArray[np.bool_] | None = None  # [T]: the action that led here was "do nothing"
    changes: tuple[str, ...] = ()  # what its import changed, in words; stored in the report of the import only

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
            raise UserError(
                f"{where}: an episode has events if, and only if, its task is {EVERY_TASK!r}: set both or neither"
            )
        if self.events is not None and self.events[0].any():
            raise UserError(f"{where}: events must be false at timestep 0")
        if not self.labelled and (self.actions.any() or self.events is not None):
            raise UserError(f"{where}: a plain video (labelled=False) must have all-zero actions and no events")
        if self.camera is not None and not np.isfinite(self.camera).all():
            raise UserError(f"{where}: camera must be finite")
        if self.rewards[0] != 0 or self.actions[0].any():
            raise UserError(f"{where}: action and reward must be 0 at timestep 0")
        if not np.isfinite(self.rewards).all():
            raise UserError(f"{where}: rewards must be finite")
        if self.is_terminal[:-1].any():
            raise UserError(f"{where}: is_terminal must be false before the last timestep")
        if not 0 <= self.noise <= 1:
            raise UserError(f"{where}: noise must lie in 0..1, got {self.noise}")

    @property
    def length(self) -> int:
        """T, the number of timesteps."""
        return self.frames.length if isinstance(self.frames, Video) else len(self.frames)


@dataclass(frozen=True)
class EpisodeRow:
    """The row of an episode in a dataset's table. Fields as in `Episode`."""

    id: int
    split: str
    task: str
    label: str
    source: str
    noise: float
    seed: int
    success: bool
    length: int  # timesteps
    return_: float  # undiscounted sum of the recorded rewards
    labelled: bool = field(default=True, repr=False)  # not in `repr`: fingerprints of format 1 hash it


def label_words(label: str) -> list[str]:
    """The words of a task label, in lower case and without punctuation."""
    return re.findall(r"\w+", label.lower())


def label_indices(label: str, vocabulary: Sequence[str], words: int) -> NDArray[np.int64]:
    """The label's words as indices into `vocabulary`, int64 `[words]`: truncated or padded with 0; 1 is unknown."""
    places = {word: place for place, word in enumerate(vocabulary)}
    indices = np.zeros(words, np.int64)
    for i, word in enumerate(label_words(label)[:words]):
        indices[i] = places.get(word, 1)
    return indices
