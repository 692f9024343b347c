"""Crafter's evaluation episodes: which achievements a policy unlocks, pursuing one at a time or all at once.

N environments, P achievements, T timesteps, A action factors, H W pixels.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embody.config import EnvConfig
from embody.data.goal import Goal
from embody.errors import UserError
from embody.games.crafter.schedule import AchievementSchedule
from embody.games.crafter.tasks import ACHIEVEMENTS, LABELS, PREREQUISITES
from embody.games.lockstep import LockstepEnvs
from embody.games.policy import TaskPolicy
from embody.games.success import Recording

__all__ = ["AchievementScheduler", "Unlocked", "play_achievements"]

NEVER = -1  # in `Unlocked.first_step`
_NEEDS = {"drink": "collect_drink", "food": "eat_cow", "energy": "wake_up"}  # what refills each of them
_ENOUGH = 8  # of 9: a need ends at this level


class AchievementScheduler:
    """Chooses the task of one episode as `AchievementSchedule` describes; a task is an index in `ACHIEVEMENTS`."""

    def __init__(self, schedule: AchievementSchedule) -> None:
        """Raises a `UserError` if `schedule.order` names an unknown achievement."""
        for name in schedule.order:
            if name not in ACHIEVEMENTS:
                raise UserError(f"schedule.order: unknown {name!r}: choose from {', '.join(ACHIEVEMENTS)}")
        self._schedule = schedule
        self._order = [ACHIEVEMENTS.index(name) for name in schedule.order]
        self._prerequisites = {
            p: [ACHIEVEMENTS.index(name) for name in PREREQUISITES.get(ACHIEVEMENTS[p], ())] for p in self._order
        }
        self._steps_pursued = dict.fromkeys(self._order, 0)  # in this round through the order
        self._task: int | None = None  # the achievement that is being pursued; None while a need is served
        self._need: str | None = None  # the need that is being served: drink, food or energy

    def task(self, unlocked: NDArray[np.bool_], inventory: Mapping[str, int], steps: int) -> int:
        """The task from now on.

        `unlocked` bool `[P]` are the achievements of this episode so far, `inventory` the player's, and `steps` the
        number of steps since the last call.
        """
        if self._task is not None:
            self._steps_pursued[self._task] += steps
            self._task = None
        if self._need and inventory[self._need] >= _ENOUGH:
            self._need = None
        if not self._need:
            least = min(_NEEDS, key=lambda name: inventory[name])
            self._need = least if inventory[least] <= self._schedule.low else None
        if self._need:
            return ACHIEVEMENTS.index(_NEEDS[self._need])
        possible = [p for p in self._order if not unlocked[p] and unlocked[self._prerequisites[p]].all()]
        if not possible:
            return self._order[-1]
        patience = self._schedule.patience
        if all(self._steps_pursued[p] >= patience for p in possible):
            self._steps_pursued |= dict.fromkeys(possible, 0)
        self._task = next(p for p in possible if self._steps_pursued[p] < patience)
        return self._task


@dataclass(frozen=True)
class Unlocked:
    """The achievements that one policy unlocked in N episodes."""

    first_step: NDArray[np.int64]  # [N, P]: the number of actions until the achievement was unlocked; -1 if it was not
    length: NDArray[np.int64]  # [N]: actions played
    died: NDArray[np.bool_]  # [N]
    reward: NDArray[np.float32]  # [N]: the sum of Crafter's own rewards
    recordings: tuple[Recording, ...] = ()  # the first few episodes

    @property
    def achieved(self) -> NDArray[np.bool_]:
        """Whether each achievement was unlocked, bool `[N, P]`."""
        return self.first_step != NEVER

    def to_json(self) -> dict[str, Any]:
        """The arrays as lists; the recordings are left out."""
        return {name: getattr(self, name).tolist() for name in ("first_step", "length", "died", "reward")}

    @classmethod
    def from_json(cls, parts: Sequence[Mapping[str, Any]]) -> "Unlocked":
        """Join the `to_json` of several batches, in order."""

        def joined(name: str, kind: type) -> NDArray[Any]:
            return np.concatenate([np.array(part[name], kind) for part in parts])

        return cls(
            joined("first_step", np.int64),
            joined("length", np.int64),
            joined("died", np.bool_),
            joined("reward", np.float32),
        )


def play_achievements(
    config: EnvConfig,
    schedule: AchievementSchedule,
    seeds: Sequence[int],
    policy: TaskPolicy,
    goal: Goal,
    record: int = 0,
) -> Unlocked:
    """Play one episode for each of `seeds`, all in lockstep; the first `record` of them are returned as recordings.

    If the `goal` is all achievements at once, the policy's label lists those that are not unlocked yet, and it is
    updated at every frame. Otherwise an `AchievementScheduler` chooses one achievement at a time.
    """
    envs = LockstepEnvs(config, config.tasks[0], seeds)
    frames = envs.reset()
    n = len(frames)
    schedulers = [AchievementScheduler(schedule) for _ in seeds]
    first_step = np.full((n, len(ACHIEVEMENTS)), NEVER)
    length, reward = np.zeros(n, np.int64), np.zeros(n, np.float32)
    active, died = np.ones(n, bool), np.zeros(n, bool)

    def ask(steps: int, before: list[str]) -> list[str]:
        """The label of each episode's task; those of episodes that are over stay as they were `before`."""
        return [
            LABELS[scheduler.task(row != NEVER, info["inventory"], steps)] if goes_on else label
            for scheduler, row, info, goes_on, label in zip(
                schedulers, first_step, envs.infos, active, before, strict=True
            )
        ]

    def left() -> list[str]:
        rows = (first_step == NEVER).tolist()
        return [", ".join(label for label, asked in zip(LABELS, row, strict=True) if asked) for row in rows]

    labels = left() if goal.lists_remaining_tasks else ask(0, [""] * n)
    policy.begin(frames, labels)
    at = np.arange(n)  # the episodes that the policy plays
    seen, played = [frames[:record]], []
    for step in itertools.count(1):
        actions = np.zeros((n, len(config.actions.sizes)), np.int64)
        actions[at] = policy.act()
        frames, rewards, terminated, truncated, _ = envs.step(actions, active)
        length += active
        reward += rewards
        died |= terminated
        first_step[envs.events & (first_step == NEVER)] = step
        active = active & ~(terminated | truncated)
        seen.append(frames[:record])
        played.append(actions[:record])
        if not active.any():
            break
        if goal.lists_remaining_tasks:
            before, labels = labels, left()
            if labels != before:
                policy.relabel([labels[i] for i in at])
        policy.observe(actions[at], frames[at])
        if step % schedule.every == 0:
            if not active[at].all():
                policy.keep(np.flatnonzero(active[at]).tolist())
                at = np.flatnonzero(active)
            if not goal.lists_remaining_tasks:
                before, labels = labels, ask(schedule.every, labels)
                if labels != before:
                    policy.relabel([labels[i] for i in at])
    return Unlocked(first_step, length, died, reward, tuple(_recordings(config, first_step, length, seen, played)))


def _recordings(
    config: EnvConfig,
    first_step: NDArray[np.int64],
    length: NDArray[np.int64],
    seen: Sequence[NDArray[np.uint8]],
    played: Sequence[NDArray[np.int64]],
) -> Iterator[Recording]:
    for i in range(len(seen[0])):
        steps = int(length[i])
        unlocked = int((first_step[i] != NEVER).sum())
        actions = np.stack([np.zeros_like(played[0][i]), *(timestep[i] for timestep in played[:steps])])
        pictures = np.stack([timestep[i] for timestep in seen[: steps + 1]])
        title = f"{unlocked} of {len(ACHIEVEMENTS)} achievements"
        yield Recording(config.tasks[0], title, unlocked == len(ACHIEVEMENTS), pictures, actions)
