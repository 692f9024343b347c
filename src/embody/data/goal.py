"""The goal of the agent: one task named by a label, all achievements, or the game's own reward.

A `Goal` decides how recordings are relabelled, what the `task` field of a batch holds and how the agent embeds it, the
reward and the continue probability of a dreamt step, and which rewards a dream is evaluated on. The loader, the agent,
the dream, the player and the evaluation all use it. It belongs to `data`, the lowest of these packages. So its methods
take arrays, tensors, and models only by the protocol `OutcomeModel`.

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
from embody.data.arrays import text
from embody.data.dataset import Dataset
from embody.data.episode import EVERY_TASK, label_indices, label_words
from embody.data.recorded_events import RecordedEvents
from embody.errors import UserError, one_line

__all__ = ["AllAchievements", "ClipPlaces", "GameReward", "Goal", "OneTask", "OutcomeModel", "StepOutcome", "goal_of"]


class ClipPlaces(NamedTuple):
    """The dataset steps that clips consist of. Padding repeats the first or last timestep of the episode."""

    episodes: NDArray[np.int64]  # [B]
    steps: NDArray[np.int64]  # [B, T], indices into the dataset's flat arrays
    timesteps: NDArray[np.int64]  # [B, T], in their episode
    real: NDArray[np.bool_]  # [B, T]: false for padding


class StepOutcome(NamedTuple):
    """The outcome of a dreamt step, predicted from its latents and action; empty (`[B, 0]`) if the heads predict it."""

    achieved: Tensor  # bool [B, P], or [B, T, P] for T steps: which remaining tasks the step achieved
    reward: Tensor  # float32 [B] or [B, T]
    continues: Tensor  # float32 [B] or [B, T]: probability that the episode continues

    @classmethod
    def nothing(cls, rows: int, device: torch.device) -> "StepOutcome":
        """An empty outcome for `rows` rows."""
        none = torch.zeros(rows, 0, device=device)
        return cls(none.bool(), none, none)


class OutcomeModel(Protocol):
    """The methods of a model that predict the outcome of a dreamt step."""

    def head_outcome(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The heads' reward and continue probability, `[...]`, at features `[..., H]`."""

    def event_logits(self, before: Tensor, after: Tensor) -> Tensor:
        """Logits, `[..., at least P]`, of the tasks achieved between latents `before` and `after`, `[..., L, Z]`."""

    def expected_risk(self, before: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Expected cost and continue probability, `[...]`, of `actions` `[..., A]` at latents `[..., L, Z]`."""


class Goal(ABC):
    """The goal of the agent. It has no state; `goal_of` returns it by its name."""

    # True: the `task` field is bool [B, T, P], the remaining tasks; false: the words of one label a row.
    lists_remaining_tasks: ClassVar[bool]
    # True: the models `EventClassifier` and `RiskModel` predict the outcomes of dreamt steps; false: the heads do.
    predicts_outcomes: ClassVar[bool]

    # --- relabelling of recordings

    @abstractmethod
    def keeps_rewards(self, task: str) -> bool:
        """Whether an episode recorded for `task` keeps its recorded rewards."""

    @abstractmethod
    def paying_steps(self, events: RecordedEvents, task: int) -> NDArray[np.int64] | None:
        """The steps with reward 1 in a clip drawn for `task`; others have 0. None: the recorded rewards stay."""

    @abstractmethod
    def relabellings(self, events: RecordedEvents) -> list[NDArray[np.int64]]:
        """The paying steps of each relabelling of recordings with events, for statistics of rewards."""

    @abstractmethod
    def clip_fields(
        self, events: RecordedEvents, places: ClipPlaces, labels: NDArray[np.int64], labelled: NDArray[np.bool_]
    ) -> dict[str, NDArray]:
        """The goal's fields of a `Batch`: `task`, and in multi-achievement mode also `events`.

        `labels` int64 `[B, W]`: the label of the task that each clip was drawn for; `labelled` bool `[B]`.
        """

    @abstractmethod
    def check(self, datasets: Sequence[Dataset], config: AgentConfig) -> None:
        """A `UserError` if an agent of `config` cannot be trained for this goal on `datasets`."""

    # --- the task as an input of the agent

    @abstractmethod
    def task_of_labels(
        self, labels: Sequence[str], vocabulary: Sequence[str], tasks: Sequence[str], words: int
    ) -> Tensor:
        """The task of each of N labels: word indices `[N, W]`, or remaining tasks, bool `[N, P]`.

        `tasks` are the labels of the P tasks, `words` is W. A `UserError` if a label is no text, names an unknown task
        or has more than W words.
        """

    @abstractmethod
    def rows_to_reread(self, old: Tensor, new: Tensor) -> Tensor:
        """The rows, int64 `[n]`, whose context the agent must read again when the task changes from `old` to `new`."""

    @abstractmethod
    def repeat_over_time(self, task: Tensor, timesteps: int) -> Tensor:
        """The `task` field of a batch: `task` of each row (as `task_of_labels` returns it) at all timesteps."""

    @abstractmethod
    def select_timesteps(self, task: Tensor, timesteps: slice) -> Tensor:
        """The part of a batch's `task` field that belongs to `timesteps`."""

    @abstractmethod
    def concatenate_timesteps(self, parts: Sequence[Tensor]) -> Tensor:
        """The `task` field of consecutive timesteps, joined from the `task` fields `parts`."""

    @abstractmethod
    def task_inputs(self, config: AgentConfig) -> int:
        """I, the size of the task's embedding."""

    @abstractmethod
    def vocabulary(self, config: AgentConfig) -> int:
        """How many words have an embedding; 0 if the goal uses no words."""

    @abstractmethod
    def word_embedding(self, config: AgentConfig) -> nn.Embedding | None:
        """The table of word embeddings; None if the goal uses no words."""

    @abstractmethod
    def inputs(self, task: Tensor, words: nn.Embedding | None, config: AgentConfig) -> Tensor:
        """The task's embedding, `[B, T, I]`, or `[B, 1, I]` if it is the same at all timesteps."""

    # --- dreams

    @abstractmethod
    def step_outcome(
        self, model: OutcomeModel, task: Tensor, before: Tensor, actions: Tensor, after: Tensor
    ) -> tuple[Tensor, StepOutcome]:
        """The `task` field after a dreamt step, and the outcome of the step.

        `actions` `[B, A]` led from latents `before` `[B, L, Z]` to latents `after` `[B, L, Z]`.
        """

    @abstractmethod
    def outcome(
        self, model: OutcomeModel, features: Tensor, reward: Tensor, continues: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Reward and continue probability, `[...]`: those given, or those the heads predict at features `[..., H]`."""

    # --- evaluation

    @abstractmethod
    def rewards_to_predict(self, rewards: Tensor, task: Tensor, context: int) -> Tensor:
        """The recorded rewards after the first `context` timesteps, `[B, T - context]`, or by task `[.., P]`.

        `rewards` `[B, T]` and `task` are fields of a batch.
        """

    @abstractmethod
    def predicted_rewards(self, reward: Tensor, achieved: Tensor) -> Tensor:
        """The dreamt counterpart of `rewards_to_predict`, from `reward` `[B, T]` and `StepOutcome.achieved`."""

    @abstractmethod
    def task_names(self, datasets: Sequence[Dataset], task: Tensor, words: int) -> tuple[str, ...]:
        """The name of the task of each row, or of each of the P tasks if rewards are by task."""


class OneTask(Goal):
    """One task, named by a label. Each of its events in a recording has reward 1; the heads predict rewards in
    dreams."""

    lists_remaining_tasks = False
    predicts_outcomes = False

    def keeps_rewards(self, task: str) -> bool:
        return task != EVERY_TASK

    def paying_steps(self, events: RecordedEvents, task: int) -> NDArray[np.int64] | None:
        return events.of_task[task]

    def relabellings(self, events: RecordedEvents) -> list[NDArray[np.int64]]:
        return events.of_task

    def clip_fields(
        self, events: RecordedEvents, places: ClipPlaces, labels: NDArray[np.int64], labelled: NDArray[np.bool_]
    ) -> dict[str, NDArray]:
        return {"task": labels * labelled[:, None]}

    def check(self, datasets: Sequence[Dataset], config: AgentConfig) -> None:
        for dataset in datasets:
            recorded = dict.fromkeys(row.label for row in dataset.episodes() if row.labelled)
            for label in (*recorded, *dataset.meta.labels):
                _check_words(label, f"dataset {dataset.root}: label", config.words)

    def task_of_labels(
        self, labels: Sequence[str], vocabulary: Sequence[str], tasks: Sequence[str], words: int
    ) -> Tensor:
        for label in labels:
            _check_words(label, "label", words)
        return torch.from_numpy(np.stack([label_indices(label, vocabulary, words) for label in labels]))

    def rows_to_reread(self, old: Tensor, new: Tensor) -> Tensor:
        return (new != old).any(dim=1).nonzero()[:, 0]  # as in training, where all of a clip has one label

    def repeat_over_time(self, task: Tensor, timesteps: int) -> Tensor:
        return task

    def select_timesteps(self, task: Tensor, timesteps: slice) -> Tensor:
        return task

    def concatenate_timesteps(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[-1]  # a row has one label

    def task_inputs(self, config: AgentConfig) -> int:
        return config.words * config.word_width

    def vocabulary(self, config: AgentConfig) -> int:
        return config.vocabulary

    def word_embedding(self, config: AgentConfig) -> nn.Embedding | None:
        return nn.Embedding(config.vocabulary, config.word_width, padding_idx=0)

    def inputs(self, task: Tensor, words: nn.Embedding | None, config: AgentConfig) -> Tensor:
        # Embeddings are concatenated in order, as the order of words matters. They are aligned at the end of the label:
        # the object is named there, whether the mission begins with "fetch", "go fetch" or "go to".
        assert words is not None
        return words(_aligned_at_end(task)).flatten(1)[:, None]

    def step_outcome(
        self, model: OutcomeModel, task: Tensor, before: Tensor, actions: Tensor, after: Tensor
    ) -> tuple[Tensor, StepOutcome]:
        return task, StepOutcome.nothing(len(actions), after.device)

    def outcome(
        self, model: OutcomeModel, features: Tensor, reward: Tensor, continues: Tensor
    ) -> tuple[Tensor, Tensor]:
        return model.head_outcome(features)

    def rewards_to_predict(self, rewards: Tensor, task: Tensor, context: int) -> Tensor:
        return rewards[:, context:]

    def predicted_rewards(self, reward: Tensor, achieved: Tensor) -> Tensor:
        return reward

    def task_names(self, datasets: Sequence[Dataset], task: Tensor, words: int) -> tuple[str, ...]:
        """Looks each row's label up in the datasets; tasks that share a label are joined with "or"."""
        tasks: dict[tuple[int, ...], dict[str, None]] = {(0,) * words: {"every task": None}}
        for dataset in datasets:
            meta = dataset.meta
            named = [(row.label, row.task) for row in dataset.episodes("validation") if row.labelled]
            for label, name in {*named, *zip(meta.labels, meta.tasks, strict=False)}:
                tasks.setdefault(tuple(label_indices(label, meta.vocabulary, words).tolist()), {})[name] = None
        return tuple(" or ".join(sorted(tasks[tuple(row)])) for row in task.tolist())


class _ManyTasks(Goal):
    """Multi-achievement mode: the agent's input lists the remaining tasks; `EventClassifier` and `RiskModel` predict
    outcomes."""

    lists_remaining_tasks = True
    predicts_outcomes = True
    name: ClassVar[str]

    def clip_fields(
        self, events: RecordedEvents, places: ClipPlaces, labels: NDArray[np.int64], labelled: NDArray[np.bool_]
    ) -> dict[str, NDArray]:
        achieved_at_BP = events.achieved_at[places.episodes]
        left_BTP = (achieved_at_BP[:, None] > places.timesteps[:, :, None]) & labelled[:, None, None]
        return {"task": left_BTP, "events": events.at(places.steps) & places.real[:, :, None]}

    def check(self, datasets: Sequence[Dataset], config: AgentConfig) -> None:
        for dataset in datasets:
            if len(dataset.meta.tasks) > config.tasks:
                raise UserError(
                    f"agent.tasks is {config.tasks}, but dataset {dataset.root} has {len(dataset.meta.tasks)} tasks:"
                    f" set agent.tasks to {len(dataset.meta.tasks)}"
                )
            if any(row.labelled and row.task != EVERY_TASK for row in dataset.episodes()):
                raise UserError(
                    f"agent.goal {self.name} needs recordings with events, those in {dataset.root} have one task each:"
                    ' set agent.goal to "one"'
                )

    def task_of_labels(
        self, labels: Sequence[str], vocabulary: Sequence[str], tasks: Sequence[str], words: int
    ) -> Tensor:
        """A label lists the remaining tasks: "collect wood, wake up"."""
        place = {task: number for number, task in enumerate(tasks)}
        left_NP = torch.zeros(len(labels), len(tasks), dtype=torch.bool)
        for left_P, label in zip(left_NP, labels, strict=True):
            for task in filter(None, text(label, "label").split(", ")):
                if task not in place:
                    raise UserError(f"unknown task {task!r}: choose from {', '.join(tasks)}")
                left_P[place[task]] = True
        return left_NP

    def rows_to_reread(self, old: Tensor, new: Tensor) -> Tensor:
        return new.new_zeros(0, dtype=torch.long)  # none: in training, too, the remaining tasks change within a clip

    def repeat_over_time(self, task: Tensor, timesteps: int) -> Tensor:
        return task[:, None].expand(-1, timesteps, -1)

    def select_timesteps(self, task: Tensor, timesteps: slice) -> Tensor:
        return task[:, timesteps]

    def concatenate_timesteps(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), dim=1)

    def task_inputs(self, config: AgentConfig) -> int:
        return config.tasks

    def vocabulary(self, config: AgentConfig) -> int:
        return 0

    def word_embedding(self, config: AgentConfig) -> nn.Embedding | None:
        return None

    def inputs(self, task: Tensor, words: nn.Embedding | None, config: AgentConfig) -> Tensor:
        return F.pad(task.float(), (0, config.tasks - task.shape[-1]))

    def step_outcome(
        self, model: OutcomeModel, task: Tensor, before: Tensor, actions: Tensor, after: Tensor
    ) -> tuple[Tensor, StepOutcome]:
        """`r_t = sum_k achieved_k - E[cost | z_{t-1}, a_t]`, `c_t = 1 - P[end | z_{t-1}, a_t]`; tasks pay once."""
        left_BP = task[:, 0]
        achieved_BP = left_BP & (model.event_logits(before, after)[:, : left_BP.shape[1]] > 0)
        cost_B, continues_B = model.expected_risk(before, actions)
        left_BP = left_BP & ~achieved_BP
        return left_BP[:, None], StepOutcome(achieved_BP, achieved_BP.sum(dim=-1) - cost_B, continues_B)

    def outcome(
        self, model: OutcomeModel, features: Tensor, reward: Tensor, continues: Tensor
    ) -> tuple[Tensor, Tensor]:
        return reward, continues

    def rewards_to_predict(self, rewards: Tensor, task: Tensor, context: int) -> Tensor:
        return task[:, context - 1 : -1] & ~task[:, context:]

    def predicted_rewards(self, reward: Tensor, achieved: Tensor) -> Tensor:
        return achieved

    def task_names(self, datasets: Sequence[Dataset], task: Tensor, words: int) -> tuple[str, ...]:
        return max((dataset.meta.tasks for dataset in datasets), key=len)


class AllAchievements(_ManyTasks):
    """Multi-achievement mode: a timestep has reward 1 if it achieves any task for the first time in its episode."""

    name = "all"

    def keeps_rewards(self, task: str) -> bool:
        return task != EVERY_TASK

    def paying_steps(self, events: RecordedEvents, task: int) -> NDArray[np.int64] | None:
        return events.firsts

    def relabellings(self, events: RecordedEvents) -> list[NDArray[np.int64]]:
        return [events.firsts]


class GameReward(_ManyTasks):
    """Multi-achievement mode with the recorded rewards of the game (in Crafter also 0.1 for a point of health)."""

    name = "recorded"

    def keeps_rewards(self, task: str) -> bool:
        return True

    def paying_steps(self, events: RecordedEvents, task: int) -> NDArray[np.int64] | None:
        return None

    def relabellings(self, events: RecordedEvents) -> list[NDArray[np.int64]]:
        return []


_GOALS: dict[GoalName, Goal] = {"one": OneTask(), "all": AllAchievements(), "recorded": GameReward()}


def goal_of(name: GoalName) -> Goal:
    """The goal named by `AgentConfig.goal`."""
    return _GOALS[name]


def _check_words(label: str, what: str, words: int) -> None:
    found = len(label_words(text(label, what)))
    if found > words:
        raise UserError(
            f"{what} {one_line(repr(label), 60)} has {found} words, the agent reads at most {words} (agent.words)"
        )


def _aligned_at_end(task_BW: Tensor) -> Tensor:
    """Word indices `[B, W]` with the padding (zeros) moved from the end to the start."""
    W = task_BW.shape[1]
    words_B1 = (task_BW > 0).sum(dim=1, keepdim=True)
    from_W = torch.arange(W, device=task_BW.device) - W + words_B1
    return torch.where(from_W >= 0, task_BW.gather(1, from_W.clamp(min=0)), 0)
