"""Crafter's evaluation: the scheduler of tasks, and the counted achievements."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from embody.config import EnvConfig
from embody.data.goal import AllAchievements, OneTask
from embody.games import make_env
from embody.games.crafter.play import AchievementScheduler, Unlocked, play_achievements
from embody.games.crafter.presets import crafter_small
from embody.games.crafter.schedule import AchievementSchedule
from embody.games.crafter.tasks import ACHIEVEMENTS, LABELS, PREREQUISITES

FULL = {"food": 9, "drink": 9, "energy": 9}
SCHEDULE = AchievementSchedule(patience=20, every=10)


def unlocked(*names: str) -> np.ndarray:
    return np.array([name in names for name in ACHIEVEMENTS])


def asked(scheduler: AchievementScheduler, done: np.ndarray, steps: int = 10, **inventory: int) -> str:
    return ACHIEVEMENTS[scheduler.task(done, FULL | inventory, steps)]


# --- who sets the task ----------------------------------------------------------------------------------------------


def test_tasks_come_in_order_and_unlocked_ones_never() -> None:
    scheduler = AchievementScheduler(SCHEDULE)
    done: list[str] = []
    for name in SCHEDULE.order:
        assert asked(scheduler, unlocked(*done), 0) == name
        done.append(name)
    assert asked(scheduler, unlocked(*done)) == SCHEDULE.order[-1]


def test_what_an_achievement_needs_comes_before_it() -> None:
    assert sorted(SCHEDULE.order) == sorted(ACHIEVEMENTS)
    for name, before in PREREQUISITES.items():
        assert all(SCHEDULE.order.index(first) < SCHEDULE.order.index(name) for first in before), name


def test_after_patience_comes_the_next_and_then_all_again() -> None:
    schedule = replace(SCHEDULE, order=("collect_wood", "collect_drink", "place_table"))
    scheduler = AchievementScheduler(schedule)
    nothing = unlocked()
    steps = [0, 10, 10, 10, 10, 10]
    wood, drink = "collect_wood", "collect_drink"  # place_table is possible after wood only
    assert [asked(scheduler, nothing, n) for n in steps] == [wood, wood, drink, drink, wood, wood]
    assert asked(scheduler, unlocked(wood)) == drink
    assert [asked(scheduler, unlocked(wood)) for _ in range(3)] == [drink, "place_table", "place_table"]


def test_a_need_comes_first_until_it_is_met_and_costs_no_patience() -> None:
    scheduler = AchievementScheduler(replace(SCHEDULE, order=("collect_wood", "collect_sapling"), low=3))
    nothing = unlocked()
    assert asked(scheduler, nothing, 0) == "collect_wood"
    assert asked(scheduler, nothing, drink=3, food=4) == "collect_drink"
    assert asked(scheduler, nothing, drink=7, food=3) == "collect_drink"  # not met yet
    assert asked(scheduler, nothing, drink=8, food=3, energy=2) == "wake_up"  # the least of them
    assert asked(scheduler, nothing, drink=9, food=2, energy=8) == "eat_cow"
    assert asked(scheduler, nothing, food=8) == "collect_wood"
    # 10 of its 20 steps were spent before the needs, none in them.
    assert asked(scheduler, nothing) == "collect_sapling"


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(ValueError, match="schedule.order: unknown 'collect_gold'"):
        AchievementScheduler(replace(SCHEDULE, order=("collect_gold",)))


# --- what is counted ------------------------------------------------------------------------------------------------


class Script:
    """Plays fixed actions and remembers the tasks that it was given."""

    def __init__(self, actions: np.ndarray) -> None:  # [N, T]
        self.actions, self.asked, self.timestep = actions, [], 0

    def begin(self, frames: np.ndarray, labels: list[str]) -> None:
        self.frames, self.asked, self.timestep, self.rows = [frames], [labels], 0, np.arange(len(frames))
        self.told_at = [0]

    def act(self) -> np.ndarray:
        return self.actions[self.rows, self.timestep, None]

    def observe(self, actions: np.ndarray, frames: np.ndarray) -> None:
        self.timestep += 1
        self.frames.append(frames)

    def relabel(self, labels: list[str]) -> None:
        self.asked.append(labels)
        self.told_at.append(self.timestep)

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = self.rows[list(rows)]


def env(limit: int) -> EnvConfig:
    return replace(crafter_small().env, max_steps=(limit,))


def played_alone(seed: int, actions: Sequence[int]) -> tuple[dict[str, int], float, int, bool]:
    """First steps, reward, length and death of one episode, from Crafter's own counters."""
    game = make_env(env(len(actions)), "crafter")
    game.reset(seed=seed)
    first: dict[str, int] = {}
    total = 0.0
    for step, action in enumerate(actions, 1):
        _, reward, terminated, _, info = game.step(action)
        total += reward
        for name, count in info["achievements"].items():
            if count:
                first.setdefault(name, step)
        if terminated:
            return first, total, step, info["discount"] == 0
    return first, total, len(actions), False


def test_counts_are_those_of_crafter() -> None:
    pytest.importorskip("crafter")
    steps, seeds = 60, [11, 12, 13]
    # Mostly movement and interaction, so that something is achieved.
    actions = np.random.default_rng(0).choice([1, 2, 3, 4, 5, 5, 5, 6], size=(len(seeds), steps))
    found = play_achievements(env(steps), SCHEDULE, seeds, Script(actions), OneTask(), record=2)
    assert found.achieved.any()
    for i, seed in enumerate(seeds):
        first, total, length, died = played_alone(seed, actions[i])
        assert {ACHIEVEMENTS[p]: int(found.first_step[i, p]) for p in np.flatnonzero(found.achieved[i])} == first
        assert found.reward[i] == pytest.approx(total, abs=1e-4)
        assert (found.length[i], found.died[i]) == (length, died)
    assert [len(recording.frames) for recording in found.recordings] == [steps + 1] * 2
    np.testing.assert_array_equal(found.recordings[1].actions[1:, 0], actions[1])


def test_labels_follow_what_was_achieved() -> None:
    pytest.importorskip("crafter")
    steps = 60
    actions = np.random.default_rng(0).choice([1, 2, 3, 4, 5, 5, 5, 6], size=(2, steps))
    script = Script(actions)
    found = play_achievements(env(steps), SCHEDULE, [11, 12], script, OneTask())
    assert script.asked[0] == [LABELS[ACHIEVEMENTS.index(SCHEDULE.order[0])]] * 2
    assert len(script.asked) > 1 and all(a != b for a, b in zip(script.asked, script.asked[1:], strict=False))
    for i in range(2):
        scheduler = AchievementScheduler(replace(SCHEDULE, low=0))
        labels = [
            LABELS[scheduler.task((found.first_step[i] != -1) & (found.first_step[i] <= step), FULL, 10 * (step > 0))]
            for step in range(0, steps, SCHEDULE.every)
        ]
        seen = list(dict.fromkeys(label for row in script.asked for label in [row[i]]))
        assert seen == list(dict.fromkeys(labels))


def test_asked_for_everything_a_policy_is_told_what_is_left() -> None:
    """Before the frame in which it changes, the label lists the achievements that remain."""
    pytest.importorskip("crafter")
    actions = np.random.default_rng(0).choice([1, 2, 3, 4, 5, 5, 5, 6], size=(2, 60))
    everything, one = Script(actions), Script(actions)
    found = play_achievements(env(60), SCHEDULE, [11, 12], everything, AllAchievements())
    assert everything.asked[0] == [", ".join(LABELS)] * 2
    steps = sorted({int(step) for step in found.first_step.flatten() if step != -1})
    assert len(everything.asked) == 1 + len(steps) > 2
    for step, asked, at in zip(steps, everything.asked[1:], everything.told_at[1:], strict=True):
        assert at == step - 1  # frames seen after the first
        for row, label in zip(found.first_step, asked, strict=True):
            assert label == ", ".join(
                name for name, first in zip(LABELS, row, strict=True) if first == -1 or first > step
            )
    same = play_achievements(env(60), SCHEDULE, [11, 12], one, OneTask())
    np.testing.assert_array_equal(found.first_step, same.first_step)


def test_batches_are_joined() -> None:
    parts = [Unlocked(np.full((n, 22), n), np.arange(n), np.ones(n, bool), np.full(n, 0.5, np.float32)) for n in (2, 3)]
    whole = Unlocked.from_json([part.to_json() for part in parts])
    assert whole.first_step.shape == (5, 22) and whole.first_step[:, 0].tolist() == [2, 2, 3, 3, 3]
    assert whole.length.tolist() == [0, 1, 0, 1, 2] and whole.died.all() and whole.reward.dtype == np.float32
