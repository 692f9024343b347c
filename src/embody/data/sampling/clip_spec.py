"""The specification of a stage's batches: episodes, shapes, placement of clips, mix of rows and relabelling."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from embody.config import Goal, StageConfig
from embody.data.episode import EpisodeRow

__all__ = ["BatchShapes", "ClipSpec", "EpisodeSelection", "Mix", "Placement", "Relabelling", "RowKind"]

RowKind = Literal["uniform", "miss", "relevant"]


@dataclass(frozen=True)
class EpisodeSelection:
    """The episodes that clips may come from."""

    split: str  # "train" or "validation"
    labelled_only: bool = False  # leave out plain videos, which have no actions and no rewards
    keep: Callable[[EpisodeRow], bool] | None = None  # such as the best demonstrations only; None keeps all episodes
    # One weight above 0 for each dataset. A dataset's share of the rows is its weight divided by the sum over all
    # datasets that have episodes to draw. Empty: all tasks have the same share, whatever their dataset.
    weights: tuple[float, ...] = ()

    def holds(self, row: EpisodeRow) -> bool:
        """Whether clips may come from this episode of the split."""
        return (row.labelled or not self.labelled_only) and (self.keep is None or self.keep(row))


@dataclass(frozen=True)
class BatchShapes:
    """The numbers of rows and timesteps of batches. Every `long_every`-th batch is long."""

    rows: int  # rows of a short batch, at least 1; a long batch has fewer, for the same number of frames
    length: int  # timesteps of a short batch, at least 1
    long_length: int = 0  # timesteps of a long batch, at least `length`; 0: all batches are short
    long_every: int = 4

    def __post_init__(self) -> None:
        assert not 0 < self.long_length < self.length, "the config has checked it"

    @classmethod
    def of(cls, stage: StageConfig) -> "BatchShapes":
        """The shapes that the settings of a training stage ask for."""
        return cls(stage.batch, stage.length, stage.long_length, stage.long_every)

    def at(self, step: int) -> tuple[int, int]:
        """Rows and timesteps of batch `step` (>= 0)."""
        if self.long_length and step % self.long_every == self.long_every - 1:
            return max(1, self.rows * self.length // self.long_length), self.long_length
        return self.rows, self.length

    def distinct(self) -> list[tuple[int, int]]:
        """Rows and timesteps of short batches and, if there are any, of long ones."""
        return list(dict.fromkeys(self.at(step) for step in range(self.long_every)))


@dataclass(frozen=True)
class Placement:
    """Where in an episode a clip may lie. Timesteps outside of the episode are padding, which is masked."""

    left_pad: int = 0  # timesteps by which a clip may begin before its episode
    padded_share: float = 0.25  # share of clips, without anchors, whose start is drawn among padded timesteps too
    # True: clips are contexts for imagination. They end before the last timestep of the episode, and may begin any
    # number of timesteps before the episode. Only their last `after` timesteps are padded on the right.
    contexts: bool = False
    after: int = 0  # timesteps of a clip that follow its context
    first_timesteps: int = 0  # an episode counts as if it ended after so many timesteps; 0: no limit

    def __post_init__(self) -> None:
        assert self.contexts or not self.after


@dataclass(frozen=True)
class Mix:
    """The kinds of rows in a batch, in this order, by their shares of the batch (0 to 1):

    - "uniform": a clip from any episode;
    - "miss": a clip that contains a miss, from a recording with events. A miss is a step without an event, whose action
      is the most frequent one at the task's events;
    - "relevant": the remaining rows (half of them in the paper): a clip of an episode that achieves its task or, if the
      recording has events, a clip around an event.
    """

    uniform_share: float = 1.0
    miss_share: float = 0.0
    # A relevant clip contains its event, or ends up to so many timesteps before it. A context ends 1 to so many
    # timesteps before the event.
    event_lead: int = 0
    flow: Literal["all", "uniform"] = "all"  # the rows on which the world model is trained

    def __post_init__(self) -> None:
        assert self.uniform_share + self.miss_share <= 1, "the config has checked it"

    @property
    def has_relevant(self) -> bool:
        """Whether the share of relevant rows is above 0. A small batch may still have none, by rounding."""
        return self.uniform_share + self.miss_share < 1

    def kinds(self, rows: int) -> list[RowKind]:
        """The kind of each row of a batch of `rows` rows. The shares of uniform and miss rows are rounded up."""
        uniform = _rounded_up(self.uniform_share * rows)
        others = _rounded_up((self.uniform_share + self.miss_share) * rows)
        counts: dict[RowKind, int] = {"uniform": uniform, "miss": others - uniform, "relevant": rows - others}
        return [kind for kind, count in counts.items() for _ in range(count)]

    def bc_rows(self, rows: int) -> list[bool]:
        """Whether behaviour cloning applies to each row: to relevant ones, or to all if the mix has none."""
        return [kind == "relevant" or not self.has_relevant for kind in self.kinds(rows)]

    def flow_rows(self, rows: int) -> list[bool]:
        """Whether the world model's loss counts on each row."""
        return [self.flow == "all" or kind == "uniform" for kind in self.kinds(rows)]


@dataclass(frozen=True)
class Relabelling:
    """How the rewards, returns and task of a clip are computed."""

    gamma: float = 1.0  # discount factor of returns, 0 to 1
    once: bool = False  # true: a task ends with its first event, and returns count only that one
    # The goal for which clips of recordings with events are relabelled. "one": the task that the clip was drawn for.
    # "all": reward 1 whenever a task is achieved for the first time in the episode. "recorded": the recorded rewards.
    # With "all" and "recorded" the field `Batch.task` lists the remaining tasks, otherwise it holds the label.
    goal: Goal = "one"
    words: int = 1  # W: task labels are truncated or padded to so many words


@dataclass(frozen=True)
class ClipSpec:
    """Everything that batches depend on, apart from the datasets and the seed."""

    episodes: EpisodeSelection
    shapes: BatchShapes
    tokenizer_hash: str | None = None  # batches hold the latents of this tokenizer; None: frames
    placement: Placement = Placement()
    mix: Mix = Mix()
    relabelling: Relabelling = Relabelling()


def _rounded_up(rows: float) -> int:
    return math.ceil(round(rows, 6))  # (0.2 + 0.4) * 5 rows are 3, not 4 by a rounding error
