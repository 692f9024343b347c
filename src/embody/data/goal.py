"""What the agent is asked for: one task by its label, all achievements, or the game's own reward.

All that depends on it is a method of one object: how recordings are relabelled, what the `task` of a batch holds and
how the agent reads it, what a dreamt step pays and whether the episode goes on, which rewards a dream is compared by.
The loader, the agent, the model, the dream, the player and the evaluation ask the same object, so it stands in
`data`, the lowest room of theirs: its methods take arrays and tensors, and know a model as a `StepJudge`.

Shapes: B rows, T timesteps, W words, P tasks, I inputs of the task's embedding, A action factors, L Z latents,
H features.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from embody.config import AgentConfig
from embody.config import Goal as GoalName
from embody.data.dataset import Dataset
from embody.data.episode import EVERY_TASK, label_indices
from embody.data.recorded_events import RecordedEvents
from embody.errors import UserError

__all__ = ["AllAchievements", "ClipPlaces", "GameReward", "Goal", "Judged", "OneTask", "StepJudge", "goal_of"]


class ClipPlaces(NamedTuple):
    """Where in a dataset the timesteps of clips are; padding repeats an episode's first or last timestep."""

    episodes: NDArray[np.int64]  # [B]
    steps: NDArray[np.int64]  # [B, T], indices into the dataset's flat arrays
    timesteps: NDArray[np.int64]  # [B, T], in their episode
    real: NDArray[np.bool_]  # [B, T]: false for padding


class Judged(NamedTuple):
    """What a dreamt step brought, as its frames and action show it; empty, `[B, 0]`, if the agent's heads say it."""

    achieved: Tensor  # bool [B, P], or [B, T, P] of T steps: of the tasks that were left to do
    reward: Tensor  # float32 [B] or [B, T]
    continues: Tensor  # float32 [B] or [B, T]: probability that the episode goes on

    @classmethod
    def nothing(cls, rows: int, device: torch.device) -> "Judged":
        """The empty one."""
        none = torch.zeros(rows, 0, device=device)
        return cls(none.bool(), none, none)


class StepJudge(Protocol):
    """A model, as far as it says what a dreamt step brought."""

    def head_outcome(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Reward and probability to go on, `[...]`, that the heads predict at features `[..., H]`."""

    def event_logits(self, before: Tensor, after: Tensor) -> Tensor:
        """Logits `[..., at least P]` of the tasks achieved between latents `[..., L, Z]` and the next ones."""

    def expected_risk(self, before: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Expected cost and probability to go on, `[...]`, of `actions` `[..., A]` taken at latents `[..., L, Z]`."""


class Goal(ABC):
    """What the agent is asked for. It has no state: `goal_of` makes it from its name."""

    told_what_is_left: ClassVar[bool]  # the `task` of a batch changes over time; else it is a label, one a row
    judges_steps: ClassVar[bool]  # a model has `Events` and `Risk`, which say what a dreamt step brings; else its heads

    # --- recordings

    @abstractmethod
    def keeps_rewards(self, task: str) -> bool:
        """Whether an episode recorded for `task` is learnt from with the rewards that it has."""

    @abstractmethod
    def paying(self, events: RecordedEvents, task: int) -> NDArray[np.int64] | None:
        """The steps that pay 1, all others 0, in a clip drawn for `task`; None: it keeps its rewards."""

    @abstractmethod
    def relabellings(self, events: RecordedEvents) -> list[NDArray[np.int64]]:
        """The paying steps of every way in which recordings of all tasks are relabelled, for statistics."""

    @abstractmethod
    def clip_fields(
        self, events: RecordedEvents, places: ClipPlaces, labels: NDArray[np.int64], labelled: NDArray[np.bool_]
    ) -> dict[str, NDArray]:
        """The fields of a `Batch` that say what is asked: `task`, and `events` if tasks are left to do.

        `labels` int64 `[B, W]` of the tasks that clips were drawn for; `labelled` bool `[B]`.
        """

    @abstractmethod
    def check(self, datasets: Sequence[Dataset], tasks: int) -> None:
        """A `UserError` if an agent of so many `tasks` cannot be asked for this with these recordings."""

    # --- telling the agent

    @abstractmethod
    def told(self, labels: Sequence[str], vocabulary: Sequence[str], tasks: Sequence[str], words: int) -> Tensor:
        """What labels ask for: `[N, W]` or `[N, P]`. `tasks`: the label of each task; `words`: W.

        A `UserError` if a label names a task that there is not.
        """

    @abstractmethod
    def to_reread(self, before: Tensor, told: Tensor) -> Tensor:
        """The rows, int64 `[n]`, whose past must be read anew when they are `told` something else than `before`."""

    @abstractmethod
    def over_time(self, told: Tensor, timesteps: int) -> Tensor:
        """The `task` of a batch whose rows are asked for what they are `told`, the same at all timesteps."""

    @abstractmethod
    def during(self, task: Tensor, timesteps: slice) -> Tensor:
        """The part of a batch's `task` that belongs to some of its timesteps."""

    @abstractmethod
    def in_time(self, parts: Sequence[Tensor]) -> Tensor:
        """The `task` of timesteps that follow each other, of which each part is one `task`."""

    @abstractmethod
    def task_inputs(self, config: AgentConfig) -> int:
        """I, the numbers that the agent tokens are made from."""

    @abstractmethod
    def vocabulary(self, config: AgentConfig) -> int:
        """The words that have an embedding."""

    @abstractmethod
    def word_embedding(self, config: AgentConfig) -> nn.Embedding | None:
        """Their table; None without words."""

    @abstractmethod
    def inputs(self, task: Tensor, words: nn.Embedding | None, config: AgentConfig) -> Tensor:
        """What the agent tokens are made from, `[B, T, I]`, or `[B, 1, I]` for all timesteps alike."""

    # --- dreams

    @abstractmethod
    def judge(
        self, model: StepJudge, task: Tensor, before: Tensor, actions: Tensor, after: Tensor
    ) -> tuple[Tensor, Judged]:
        """The `task` after a step (of one timestep, if it is told over time), and what the step brought.

        `actions` `[B, A]` led from latents `before` `[B, L, Z]` to `after`.
        """

    @abstractmethod
    def outcome(self, model: StepJudge, features: Tensor, reward: Tensor, continues: Tensor) -> tuple[Tensor, Tensor]:
        """Reward and probability to go on, `[...]`, at features `[..., H]`, the judged ones being those given."""

    # --- evaluation

    @abstractmethod
    def rewards_to_predict(self, rewards: Tensor, task: Tensor, context: int) -> Tensor:
        """What dreams behind the first `context` timesteps are compared with: `[B, T - context]`, or by task `[.., P]`.

        `rewards` `[B, T]` and the `task` of a batch.
        """

    @abstractmethod
    def predicted_rewards(self, reward: Tensor, achieved: Tensor) -> Tensor:
        """What is compared with these, of dreamt `reward` `[B, T]` and `Judged.achieved`."""

    @abstractmethod
    def task_names(self, datasets: Sequence[Dataset], task: Tensor, words: int) -> tuple[str, ...]:
        """The tasks by which they are told apart: of each row or, where rewards are by task, of each of those."""


class OneTask(Goal):
    """One task, named by a label. Each of its events in a recording of all tasks pays 1; the heads predict dreams."""

    told_what_is_left = False
    judges_steps = False

    def keeps_rewards(self, task: str) -> bool:
        return task != EVERY_TASK

    def paying(self, events: RecordedEvents, task: int) -> NDArray[np.int64] | None:
        return events.of_task[task]

    def relabellings(self, events: RecordedEvents) -> list[NDArray[np.int64]]:
        return events.of_task

    def clip_fields(
        self, events: RecordedEvents, places: ClipPlaces, labels: NDArray[np.int64], labelled: NDArray[np.bool_]
    ) -> dict[str, NDArray]:
        return {"task": labels * labelled[:, None]}

    def check(self, datasets: Sequence[Dataset], tasks: int) -> None:
        pass

    def told(self, labels: Sequence[str], vocabulary: Sequence[str], tasks: Sequence[str], words: int) -> Tensor:
        return torch.from_numpy(np.stack([label_indices(label, vocabulary, words) for label in labels]))

    def to_reread(self, before: Tensor, told: Tensor) -> Tensor:
        return (told != before).any(dim=1).nonzero()[:, 0]  # as in training, where a clip has one label

    def over_time(self, told: Tensor, timesteps: int) -> Tensor:
        return told

    def during(self, task: Tensor, timesteps: slice) -> Tensor:
        return task

    def in_time(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[-1]  # a row has one label

    def task_inputs(self, config: AgentConfig) -> int:
        return config.words * config.word_width

    def vocabulary(self, config: AgentConfig) -> int:
        return config.vocabulary

    def word_embedding(self, config: AgentConfig) -> nn.Embedding | None:
        return nn.Embedding(config.vocabulary, config.word_width, padding_idx=0)

    def inputs(self, task: Tensor, words: nn.Embedding | None, config: AgentConfig) -> Tensor:
        # Words are concatenated in order: "the red key next to the blue ball" is not its reverse. Their end is aligned:
        # what is named stands there, in the same places whether one must "fetch", "go fetch" or "go to" it.
        assert words is not None
        return words(_aligned_at_end(task)).flatten(1)[:, None]

    def judge(
        self, model: StepJudge, task: Tensor, before: Tensor, actions: Tensor, after: Tensor
    ) -> tuple[Tensor, Judged]:
        return task, Judged.nothing(len(actions), after.device)

    def outcome(self, model: StepJudge, features: Tensor, reward: Tensor, continues: Tensor) -> tuple[Tensor, Tensor]:
        return model.head_outcome(features)

    def rewards_to_predict(self, rewards: Tensor, task: Tensor, context: int) -> Tensor:
        return rewards[:, context:]

    def predicted_rewards(self, reward: Tensor, achieved: Tensor) -> Tensor:
        return reward

    def task_names(self, datasets: Sequence[Dataset], task: Tensor, words: int) -> tuple[str, ...]:
        """Of each row, by the words of its label; several tasks, if they share a label."""
        tasks: dict[tuple[int, ...], dict[str, None]] = {(0,) * words: {"every task": None}}
        for dataset in datasets:
            meta = dataset.meta
            named = [(row.label, row.task) for row in dataset.episodes("validation") if row.labelled]
            for label, name in {*named, *zip(meta.labels, meta.tasks, strict=False)}:
                tasks.setdefault(tuple(label_indices(label, meta.vocabulary, words).tolist()), {})[name] = None
        return tuple(" or ".join(sorted(tasks[tuple(row)])) for row in task.tolist())


class _ManyTasks(Goal):
    """All tasks at once: the agent is told which are left to do; events and risk are read off the frames of a dream."""

    told_what_is_left = True
    judges_steps = True
    name: ClassVar[str]

    def clip_fields(
        self, events: RecordedEvents, places: ClipPlaces, labels: NDArray[np.int64], labelled: NDArray[np.bool_]
    ) -> dict[str, NDArray]:
        achieved_at_BP = events.achieved_at[places.episodes]
        left_BTP = (achieved_at_BP[:, None] > places.timesteps[:, :, None]) & labelled[:, None, None]
        return {"task": left_BTP, "events": events.at(places.steps) & places.real[:, :, None]}

    def check(self, datasets: Sequence[Dataset], tasks: int) -> None:
        for dataset in datasets:
            if len(dataset.meta.tasks) > tasks:
                raise UserError(
                    f"agent.tasks {tasks}: dataset {dataset.root} has {len(dataset.meta.tasks)} tasks, set it to that"
                )
            if any(row.labelled and row.task != EVERY_TASK for row in dataset.episodes()):
                raise UserError(
                    f"agent.goal {self.name}: recordings in {dataset.root} have one task each, and nothing says which"
                    ' events they hold: set it to "one"'
                )

    def told(self, labels: Sequence[str], vocabulary: Sequence[str], tasks: Sequence[str], words: int) -> Tensor:
        """A label names the tasks that are left: "collect wood, wake up"."""
        place = {task: number for number, task in enumerate(tasks)}
        left_NP = torch.zeros(len(labels), len(tasks), dtype=torch.bool)
        for left_P, label in zip(left_NP, labels, strict=True):
            for task in filter(None, label.split(", ")):
                if task not in place:
                    raise UserError(f"unknown task {task!r}: name those that are left, of {', '.join(tasks)}")
                left_P[place[task]] = True
        return left_NP

    def to_reread(self, before: Tensor, told: Tensor) -> Tensor:
        return told.new_zeros(0, dtype=torch.long)  # what is left changes within the clips of training, too

    def over_time(self, told: Tensor, timesteps: int) -> Tensor:
        return told[:, None].expand(-1, timesteps, -1)

    def during(self, task: Tensor, timesteps: slice) -> Tensor:
        return task[:, timesteps]

    def in_time(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), dim=1)

    def task_inputs(self, config: AgentConfig) -> int:
        return config.tasks

    def vocabulary(self, config: AgentConfig) -> int:
        return 0

    def word_embedding(self, config: AgentConfig) -> nn.Embedding | None:
        return None

    def inputs(self, task: Tensor, words: nn.Embedding | None, config: AgentConfig) -> Tensor:
        return F.pad(task.float(), (0, config.tasks - task.shape[-1]))

    def judge(
        self, model: StepJudge, task: Tensor, before: Tensor, actions: Tensor, after: Tensor
    ) -> tuple[Tensor, Judged]:
        """`r_t = sum_k achieved_k - E[cost | z_{t-1}, a_t]`, `c_t = 1 - P[end | z_{t-1}, a_t]`; each task pays once."""
        left_BP = task[:, 0]
        achieved_BP = left_BP & (model.event_logits(before, after)[:, : left_BP.shape[1]] > 0)
        cost_B, continues_B = model.expected_risk(before, actions)
        left_BP = left_BP & ~achieved_BP
        return left_BP[:, None], Judged(achieved_BP, achieved_BP.sum(dim=-1) - cost_B, continues_B)

    def outcome(self, model: StepJudge, features: Tensor, reward: Tensor, continues: Tensor) -> tuple[Tensor, Tensor]:
        return reward, continues

    def rewards_to_predict(self, rewards: Tensor, task: Tensor, context: int) -> Tensor:
        return task[:, context - 1 : -1] & ~task[:, context:]

    def predicted_rewards(self, reward: Tensor, achieved: Tensor) -> Tensor:
        return achieved

    def task_names(self, datasets: Sequence[Dataset], task: Tensor, words: int) -> tuple[str, ...]:
        return max((dataset.meta.tasks for dataset in datasets), key=len)


class AllAchievements(_ManyTasks):
    """Multi-achievement mode: a timestep pays 1 if it achieves any task for the first time in its episode."""

    name = "all"

    def keeps_rewards(self, task: str) -> bool:
        return task != EVERY_TASK

    def paying(self, events: RecordedEvents, task: int) -> NDArray[np.int64] | None:
        return events.firsts

    def relabellings(self, events: RecordedEvents) -> list[NDArray[np.int64]]:
        return [events.firsts]


class GameReward(_ManyTasks):
    """Multi-achievement mode with the rewards that the game gave (in Crafter also a tenth of a point of health)."""

    name = "recorded"

    def keeps_rewards(self, task: str) -> bool:
        return True

    def paying(self, events: RecordedEvents, task: int) -> NDArray[np.int64] | None:
        return None

    def relabellings(self, events: RecordedEvents) -> list[NDArray[np.int64]]:
        return []


_GOALS: dict[GoalName, Goal] = {"one": OneTask(), "all": AllAchievements(), "recorded": GameReward()}


def goal_of(name: GoalName) -> Goal:
    """The goal that `AgentConfig.goal` names."""
    return _GOALS[name]


def _aligned_at_end(task_BW: Tensor) -> Tensor:
    """Word indices with their padding, zeros, moved from behind to before them."""
    W = task_BW.shape[1]
    words_B1 = (task_BW > 0).sum(dim=1, keepdim=True)
    from_W = torch.arange(W, device=task_BW.device) - W + words_B1
    return torch.where(from_W >= 0, task_BW.gather(1, from_W.clamp(min=0)), 0)
