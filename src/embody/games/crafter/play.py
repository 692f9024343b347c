"""Crafter: what a policy achieves in one long episode, asked for one achievement after the other or for all.

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
from embody.games.crafter.tasks import ACHIEVEMENTS, AFTER, LABELS
from embody.games.lockstep import LockstepEnvs
from embody.games.policy import TaskPolicy
from embody.games.success import Recording

__all__ = ["AchievementScheduler", "Unlocked", "play_achievements"]

NEVER = -1
_NEEDS = {"drink": "collect_drink", "food": "eat_cow", "energy": "wake_up"}
_ENOUGH = 8  # of 9


class AchievementScheduler:
    """The task of one episode, by its place in `ACHIEVEMENTS`."""

    def __init__(self, schedule: AchievementSchedule) -> None:
        """A `UserError` names a task of the order that there is not."""
        for name in schedule.order:
            if name not in ACHIEVEMENTS:
                raise UserError(f"schedule.order: unknown {name!r}: choose from {', '.join(ACHIEVEMENTS)}")
        self._schedule = schedule
        self._order = [ACHIEVEMENTS.index(name) for name in schedule.order]
        self._after = {p: [ACHIEVEMENTS.index(name) for name in AFTER.get(ACHIEVEMENTS[p], ())] for p in self._order}
        self._asked = dict.fromkeys(self._order, 0)  # steps, in this round
        self._task: int | None = None  # that patience is counted for
        self._need: str | None = None

    def task(self, unlocked: NDArray[np.bool_], inventory: Mapping[str, int], steps: int) -> int:
        """What to ask for now: `unlocked` bool `[P]`; `steps` have passed since the last call."""
        if self._task is not None:
            self._asked[self._task] += steps
            self._task = None
        if self._need and inventory[self._need] >= _ENOUGH:
            self._need = None
        if not self._need:
            least = min(_NEEDS, key=lambda name: inventory[name])
            self._need = least if inventory[least] <= self._schedule.low else None
        if self._need:
            return ACHIEVEMENTS.index(_NEEDS[self._need])
        possible = [p for p in self._order if not unlocked[p] and unlocked[self._after[p]].all()]
        if not possible:
            return self._order[-1]
        patience = self._schedule.patience
        if all(self._asked[p] >= patience for p in possible):
            self._asked |= dict.fromkeys(possible, 0)
        self._task = next(p for p in possible if self._asked[p] < patience)
        return self._task


@dataclass(frozen=True)
class Unlocked:
    """What one policy achieved in N episodes."""

    first_step: NDArray[np.int64]  # [N, P]: after so many actions; -1 is never
    length: NDArray[np.int64]  # [N]: actions played
    died: NDArray[np.bool_]  # [N]
    reward: NDArray[np.float32]  # [N]: Crafter's own, summed
    recordings: tuple[Recording, ...] = ()  # the first few episodes

    @property
    def achieved(self) -> NDArray[np.bool_]:
        """`[N, P]`."""
        return self.first_step != NEVER

    def to_json(self) -> dict[str, Any]:
        """All but the recordings."""
        return {name: getattr(self, name).tolist() for name in ("first_step", "length", "died", "reward")}

    @classmethod
    def from_json(cls, parts: Sequence[Mapping[str, Any]]) -> "Unlocked":
        """`to_json` of several batches, one after the other."""

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
    """One episode for each of `seeds`, all side by side; the first `record` of them are kept as pictures.

    The policy is asked for one achievement after the other or, if the `goal` tells it what is left, for all: then it is
    told before each frame which are.
    """
    envs = LockstepEnvs(config, config.tasks[0], seeds)
    frames = envs.reset()
    n = len(frames)
    schedulers = [AchievementScheduler(schedule) for _ in seeds]
    first_step = np.full((n, len(ACHIEVEMENTS)), NEVER)
    length, reward = np.zeros(n, np.int64), np.zeros(n, np.float32)
    active, died = np.ones(n, bool), np.zeros(n, bool)

    def ask(steps: int, before: list[str]) -> list[str]:
        """The labels of the episodes that go on; of the others, what they were."""
        return [
            LABELS[scheduler.task(row != NEVER, info["inventory"], steps)] if goes_on else label
            for scheduler, row, info, goes_on, label in zip(
                schedulers, first_step, envs.infos, active, before, strict=True
            )
        ]

    def left() -> list[str]:
        rows = (first_step == NEVER).tolist()
        return [", ".join(label for label, asked in zip(LABELS, row, strict=True) if asked) for row in rows]

    labels = left() if goal.told_what_is_left else ask(0, [""] * n)
    policy.begin(frames, labels)
    at = np.arange(n)  # the episodes that the policy still sees
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
        if goal.told_what_is_left:
            before, labels = labels, left()
            if labels != before:
                policy.relabel([labels[i] for i in at])
        policy.observe(actions[at], frames[at])
        if step % schedule.every == 0:
            if not active[at].all():
                policy.keep(np.flatnonzero(active[at]).tolist())
                at = np.flatnonzero(active)
            if not goal.told_what_is_left:
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
