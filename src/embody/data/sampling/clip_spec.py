"""What the batches of a stage are made of: from which episodes, of what shape, from where, and in what mix of rows."""

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
    keep: Callable[[EpisodeRow], bool] | None = None  # e.g. only the best demonstrations; None keeps all episodes
    # One weight, above 0, for each dataset: its share of the rows is its weight over the sum of the weights of those
    # datasets that have episodes to draw. Empty: each task has the same share, whatever dataset it is in.
    weights: tuple[float, ...] = ()

    def holds(self, row: EpisodeRow) -> bool:
        """Whether an episode of the split is among them."""
        return (row.labelled or not self.labelled_only) and (self.keep is None or self.keep(row))


@dataclass(frozen=True)
class BatchShapes:
    """How many rows and timesteps batches have; every `long_every`-th batch is long."""

    rows: int  # of a short batch, at least 1; a long one holds as many frames
    length: int  # timesteps of a row, at least 1
    long_length: int = 0  # timesteps of a row of a long batch, at least `length`; 0: all batches are short
    long_every: int = 4

    def __post_init__(self) -> None:
        assert not 0 < self.long_length < self.length, "the config has checked it"

    @classmethod
    def of(cls, stage: StageConfig) -> "BatchShapes":
        """Those of a training stage."""
        return cls(stage.batch, stage.length, stage.long_length, stage.long_every)

    def at(self, step: int) -> tuple[int, int]:
        """Rows and timesteps of batch `step` (>= 0)."""
        if self.long_length and step % self.long_every == self.long_every - 1:
            return max(1, self.rows * self.length // self.long_length), self.long_length
        return self.rows, self.length

    def distinct(self) -> list[tuple[int, int]]:
        """Rows and timesteps of the one or two kinds of batches, short ones first."""
        return list(dict.fromkeys(self.at(step) for step in range(self.long_every)))


@dataclass(frozen=True)
class Placement:
    """Where in an episode a clip may lie. A clip never leaves its episode but by padding, which is masked."""

    left_pad: int = 0  # a clip may begin so many timesteps before its episode
    padded_share: float = 0.25  # of the clips that are not around an event: their start is drawn among padded ones too
    # Clips are contexts for imagination: they end at a timestep after which the episode goes on, may begin any number
    # of timesteps before it, and are not padded on the right, but for `after`.
    contexts: bool = False
    after: int = 0  # the last so many timesteps of a clip come behind its context, padded on the right
    first_timesteps: int = 0  # clips are of the first so many timesteps of an episode, as if it ended there; 0: of all

    def __post_init__(self) -> None:
        assert self.contexts or not self.after


@dataclass(frozen=True)
class Mix:
    """What the rows of a batch are, in this order, by their shares of the batch (from 0 to 1):

    - "uniform": a clip from any of the episodes;
    - "miss": a clip of a recording with events that holds a miss: the action that mostly brings its task's event, and
      no event;
    - "relevant": the others: a clip of an episode that achieves its task [P: half of the rows] or, where a recording
      has events, one around an event.
    """

    uniform_share: float = 1.0
    miss_share: float = 0.0
    # A relevant clip holds its event, or begins up to so many timesteps before it would; a context ends 1 to so many
    # timesteps before it.
    event_lead: int = 0
    flow: Literal["all", "uniform"] = "all"  # the rows on which the world model's loss counts

    def __post_init__(self) -> None:
        assert self.uniform_share + self.miss_share <= 1, "the config has checked it"

    @property
    def has_relevant(self) -> bool:
        """Whether some share of the rows is relevant; of a small batch there may be none all the same."""
        return self.uniform_share + self.miss_share < 1

    def kinds(self, rows: int) -> list[RowKind]:
        """What each row of a batch of `rows` is; the first shares are rounded up."""
        uniform = _rounded_up(self.uniform_share * rows)
        others = _rounded_up((self.uniform_share + self.miss_share) * rows)
        counts: dict[RowKind, int] = {"uniform": uniform, "miss": others - uniform, "relevant": rows - others}
        return [kind for kind, count in counts.items() for _ in range(count)]

    def bc_rows(self, rows: int) -> list[bool]:
        """To which rows of a batch behaviour cloning applies: the relevant ones, or all where the mix has none."""
        return [kind == "relevant" or not self.has_relevant for kind in self.kinds(rows)]

    def flow_rows(self, rows: int) -> list[bool]:
        """On which rows of a batch the world model's loss counts."""
        return [self.flow == "all" or kind == "uniform" for kind in self.kinds(rows)]


@dataclass(frozen=True)
class Relabelling:
    """What the rewards, returns and task of a clip are made of."""

    gamma: float = 1.0  # discount of returns, from 0 to 1
    once: bool = False  # a task is over with its first event: returns stop there
    # What a clip of a recording with events is relabelled for: "one", the task that it was drawn for; "all" tasks at
    # once, whose reward is 1 where one is achieved for the first time in the episode; "recorded": its rewards stay as
    # they are. But for "one" the batch says which tasks are left, instead of a label.
    goal: Goal = "one"
    words: int = 1  # W, to which task labels are cut or padded


@dataclass(frozen=True)
class ClipSpec:
    """All that says what batches hold, but for the datasets and the seed."""

    episodes: EpisodeSelection
    shapes: BatchShapes
    tokenizer_hash: str | None = None  # clips show the latents of this tokenizer; None: frames
    placement: Placement = Placement()
    mix: Mix = Mix()
    relabelling: Relabelling = Relabelling()


def _rounded_up(rows: float) -> int:
    return math.ceil(round(rows, 6))  # 0.2 + 0.4 of five rows are three
