"""One episode in memory, in the one time convention: slot t holds what arrived together."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Episode", "EpisodeRow", "label_indices", "label_words"]


@dataclass(frozen=True)
class Episode:
    """`T` slots. Slot 0 is what the reset showed; slot t > 0 is an action, the frame it led to and its reward.

    A time limit is no terminal: such an episode just ends. Wrong shapes, dtypes or flags are a `ValueError`.
    """

    frames: NDArray[np.uint8]  # [T, H, W, 3]
    actions: NDArray[np.int64]  # [T, A]; row t led to frame t, row 0 is zeros and not read
    rewards: NDArray[np.float32]  # [T]; came with frame t, rewards[0] = 0
    is_terminal: NDArray[np.bool_]  # [T]; true termination, at the last slot only
    task: str
    label: str  # what is asked for, in words
    source: str  # who played: "expert", "random", ...
    noise: float  # how often a random action replaced the player's, 0..1
    seed: int
    success: bool

    def __post_init__(self) -> None:
        where = f"episode of {self.task} with seed {self.seed}"
        steps = len(self.frames)
        if steps == 0 or self.frames.ndim != 4 or self.frames.shape[3] != 3:
            raise ValueError(f"{where}: frames must be [T, H, W, 3] with T >= 1, got {list(self.frames.shape)}")
        if self.actions.ndim != 2:
            raise ValueError(f"{where}: actions must be [T, A], got {list(self.actions.shape)}")
        for name, dtype in (
            ("frames", np.uint8),
            ("actions", np.int64),
            ("rewards", np.float32),
            ("is_terminal", np.bool_),
        ):
            array = getattr(self, name)
            if array.dtype != dtype:
                raise ValueError(f"{where}: {name} must be {np.dtype(dtype)}, got {array.dtype}")
            if len(array) != steps:
                raise ValueError(f"{where}: {name} has {len(array)} steps, frames {steps}")
        if self.rewards.shape != (steps,) or self.is_terminal.shape != (steps,):
            raise ValueError(f"{where}: rewards and is_terminal must be [T]")
        if self.rewards[0] != 0 or self.actions[0].any():
            raise ValueError(f"{where}: slot 0 has no action and no reward, both must be 0 there")
        if not np.isfinite(self.rewards).all():
            raise ValueError(f"{where}: rewards must be finite")
        if self.is_terminal[:-1].any():
            raise ValueError(f"{where}: is_terminal may be true at the last slot only")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"{where}: noise must lie in 0..1, got {self.noise}")


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
    length: int  # slots
    return_: float  # undiscounted sum of its rewards


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
