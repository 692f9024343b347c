"""One episode in memory.

Timestep t holds the action that led to it, its frame, its reward and its flags: see `Episode`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embody.data.arrays import (
    flag,
    flags,
    frames_array,
    integers,
    real_number,
    real_numbers,
    text,
    whole_number,
)
from embody.data.video import Video
from embody.errors import UserError, one_line

__all__ = ["EVERY_TASK", "Episode", "EpisodeRow", "label_indices", "label_words"]

EVERY_TASK = "*"  # the task of a recording with events, which serves all tasks of its dataset


@dataclass(frozen=True)
class Episode:
    """An episode of T timesteps. Timestep 0 is the reset; each later one is an action, the frame and reward it led to.

    An episode that is cut off by a time limit has no terminal. A recording of many tasks has the task `EVERY_TASK` and
    `events`: for each of the dataset's K tasks it counts as an episode whose rewards are that task's events (0 or 1);
    its own `rewards` are then used by the goal "recorded" only. A plain video with the task `EVERY_TASK` has no events;
    clips are drawn from it as often as from such a recording.

    Arrays may be given as lists, tensors or arrays of other integer or float types (see `embody.data.arrays`); they are
    kept in the types below. Wrong shapes, types or flags raise a `UserError`.
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
        where = f"episode of {one_line(repr(self.task), 40)} with seed {one_line(repr(self.seed), 40)}"
        self._convert(where)
        self._check_shapes(where)
        if self.labelled and (self.events is not None) != (self.task == EVERY_TASK):
            raise UserError(
                f"{where}: an episode has events if, and only if, its task is {EVERY_TASK!r}: set both or neither"
            )
        if self.events is not None and self.events[0].any():
            raise UserError(f"{where}: events must be false at timestep 0")
        if not self.labelled and (self.actions.any() or self.events is not None):
            raise UserError(f"{where}: a plain video (labelled=False) must have all-zero actions and no events")
        if self.rewards[0] != 0 or self.actions[0].any():
            raise UserError(f"{where}: action and reward must be 0 at timestep 0")
        if self.is_terminal[:-1].any():
            raise UserError(f"{where}: is_terminal must be false before the last timestep")
        if not 0 <= self.noise <= 1:
            raise UserError(f"{where}: noise must lie in 0..1, got {self.noise}")

    def _convert(self, where: str) -> None:
        """Give every field its type; a `UserError` if that is not possible, or an array has another shape."""

        def set_field(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        for name in ("task", "label", "source"):
            set_field(name, text(getattr(self, name), f"{where}: {name}"))
        for name in ("success", "labelled"):
            set_field(name, flag(getattr(self, name), f"{where}: {name}"))
        set_field("seed", whole_number(self.seed, f"{where}: seed"))
        set_field("noise", real_number(self.noise, f"{where}: noise"))
        if not isinstance(self.frames, Video):
            set_field("frames", frames_array(self.frames, f"{where}: frames", axis="T"))
        actions = integers(self.actions, f"{where}: actions")
        set_field("actions", actions[:, None] if actions.ndim == 1 else actions)
        set_field("rewards", real_numbers(self.rewards, f"{where}: rewards"))
        set_field("is_terminal", flags(self.is_terminal, f"{where}: is_terminal"))
        for name, convert in (("events", flags), ("is_null", flags), ("camera", real_numbers)):
            if getattr(self, name) is not None:
                set_field(name, convert(getattr(self, name), f"{where}: {name}"))

    def _check_shapes(self, where: str) -> None:
        steps = self.length
        for name, columns in (
            ("actions", "A"),
            ("rewards", None),
            ("is_terminal", None),
            ("events", "K"),
            ("camera", 2),
            ("is_null", None),
        ):
            array = getattr(self, name)
            if array is None:
                continue
            wanted = f"[{steps}]" if columns is None else f"[{steps}, {columns}]"
            if array.ndim != 1 + (columns is not None) or (columns == 2 and array.shape[1] != 2):
                raise UserError(f"{where}: {name} must be {wanted}, got {list(array.shape)}")
            if len(array) != steps:
                raise UserError(f"{where}: {name} has {len(array)} steps, frames {steps}")

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
