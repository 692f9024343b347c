"""The three goals, on hand-made recordings and dreams."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from embody.data import EVERY_TASK, Dataset
from embody.data.goal import AllAchievements, ClipPlaces, GameReward, Goal, OneTask, StepOutcome, goal_of
from embody.data.recorded_events import RecordedEvents
from embody.model import WorldAndAgent
from embody.training.rewards import reward_statistics
from tests.tiny_models import AGENT, VOCABULARY, make_agent, make_dataset, make_dynamics

GOALS = OneTask(), AllAchievements(), GameReward()
MANY = GOALS[1:]
# Timesteps and tasks of the events of an episode of 8: "go" (0) twice, "door" (2) once, "red" (1) never.
EVENTS = [(2, 0), (4, 2), (5, 0)]
REWARDS = [0, 0.5, -1, 0, 0.25, 0, 0, 2]


@pytest.fixture
def recorded(tmp_path: Path) -> Dataset:
    """A dataset of two equal episodes."""
    return make_dataset(tmp_path, [8, 8], rewards=2 * REWARDS, events=EVENTS)


def test_goals_by_name() -> None:
    assert [type(goal_of(name)) for name in ("one", "all", "recorded")] == [type(goal) for goal in GOALS]


# --- recordings


def test_paying_steps(recorded: Dataset) -> None:
    """Paying steps: one task, each of its events; all, the first event of each task; recorded, the game's rewards."""
    events = RecordedEvents(recorded, 3)
    one, every, game = GOALS
    found = [one.paying_steps(events, task) for task in range(3)]
    assert [steps.tolist() for steps in found if steps is not None] == [[2, 5, 10, 13], [], [4, 12]]
    for task in range(3):
        steps = every.paying_steps(events, task)
        assert steps is not None and steps.tolist() == [2, 4, 10, 12] and game.paying_steps(events, task) is None
    assert events.in_episode(1, events.firsts).tolist() == [2, 4]
    assert [goal.keeps_rewards(EVERY_TASK) for goal in GOALS] == [False, False, True]
    assert all(goal.keeps_rewards("go to the red door") for goal in GOALS)


def test_what_a_batch_says_is_asked(recorded: Dataset) -> None:
    """A clip of two timesteps of padding and timesteps 0 to 4, and one of an episode without labels."""
    timesteps = np.array([[0, 0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]])
    real = np.array([[False] * 2 + [True] * 5, [True] * 7])
    places = ClipPlaces(np.array([1, 0]), timesteps + [[8], [0]], timesteps, real)
    labels, labelled = np.array([[3, 4], [5, 0]]), np.array([True, False])
    fields = [goal.clip_fields(RecordedEvents(recorded, 4), places, labels, labelled) for goal in GOALS]
    assert fields[0].keys() == {"task"} and fields[0]["task"].tolist() == [[3, 4], [0, 0]]
    for found in fields[1:]:
        # A fourth task, which another dataset has, is not left to do here.
        left = [[1, 1, 1, 0]] * 4 + [[0, 1, 1, 0]] * 2 + [[0, 1, 0, 0]]
        assert found["task"].astype(int).tolist() == [left, [[0] * 4] * 7]
        assert np.argwhere(found["events"][0]).tolist() == [[4, 0], [6, 2]]
        assert np.argwhere(found["events"][1]).tolist() == [[1, 0], [3, 2], [4, 0]]


def test_nothing_is_achieved_by_padding(recorded: Dataset) -> None:
    """Padding repeats the last timestep of an episode, but an event there counts once."""
    timesteps = np.array([[1, 2, 2]])
    places = ClipPlaces(np.array([0]), timesteps, timesteps, np.array([[True, True, False]]))
    fields = AllAchievements().clip_fields(RecordedEvents(recorded, 3), places, np.zeros((1, 2)), np.array([True]))
    assert np.argwhere(fields["events"][0]).tolist() == [[1, 0]]


def test_statistics(recorded: Dataset) -> None:
    """Two episodes of 8 timesteps, gamma 1/2; one task: once as "go", once as "door"."""
    one, every, game = (reward_statistics([recorded], goal, 0.5) for goal in GOALS)
    assert one is not None and every is not None and game is not None
    assert one.rewards == every.rewards == (0, 1) and game.rewards == (-1, 2)
    assert one.mean == pytest.approx(6 / 32) and every.mean == pytest.approx(4 / 16)
    assert one.returns == (0, pytest.approx(1 + 1 / 8)) and every.returns == (0, pytest.approx(1 + 1 / 4))
    assert game.mean == pytest.approx(1.75 / 8) and game.std == pytest.approx(np.std(2 * REWARDS, ddof=1))
    once = reward_statistics([recorded], OneTask(), 0.5, once=True)
    assert once is not None and once.returns == (0, 1)


def test_recordings_that_a_goal_cannot_use_are_refused(recorded: Dataset, tmp_path: Path) -> None:
    own = make_dataset(tmp_path / "own", [5])
    OneTask().check([recorded, own], AGENT)
    for goal, name in zip(MANY, ("all", "recorded"), strict=True):
        goal.check([recorded], dataclasses.replace(AGENT, tasks=3))
        with pytest.raises(ValueError, match="agent.tasks is 2, but dataset .* has 3 tasks: set"):
            goal.check([recorded], dataclasses.replace(AGENT, tasks=2))
        with pytest.raises(ValueError, match=f'agent.goal {name} needs .* one task each: set agent.goal to "one"'):
            goal.check([own], dataclasses.replace(AGENT, tasks=3))


# --- telling the agent


def test_the_past_is_read_anew_only_under_another_label() -> None:
    before, now = torch.tensor([[3, 4], [3, 0], [1, 2]]), torch.tensor([[3, 4], [3, 1], [2, 2]])
    assert (
        OneTask().rows_to_reread(before, now).tolist() == [1, 2] and OneTask().rows_to_reread(now, now).tolist() == []
    )
    for goal in MANY:
        assert goal.rows_to_reread(before > 2, now > 2).tolist() == []


def test_what_labels_tell() -> None:
    tasks = "go", "red", "door"
    words = OneTask().task_of_labels(["red door", "go"], VOCABULARY, tasks, 3)
    assert words.tolist() == [[VOCABULARY.index("red"), VOCABULARY.index("door"), 0], [VOCABULARY.index("go"), 0, 0]]
    for goal in MANY:
        left = goal.task_of_labels(["go, door", ""], VOCABULARY, tasks, 3)
        assert left.dtype == torch.bool and left.tolist() == [[True, False, True], [False] * 3]
        with pytest.raises(ValueError, match="unknown task 'blue': choose from go, red, door"):
            goal.task_of_labels(["go, blue"], VOCABULARY, tasks, 3)


def test_a_label_is_one_a_row_and_what_is_left_one_a_timestep() -> None:
    words, left = torch.tensor([[3, 4, 0]]), torch.tensor([[True, False]])
    one = OneTask()
    assert one.repeat_over_time(words, 5) is words and one.select_timesteps(words, slice(1, 2)) is words
    assert one.concatenate_timesteps([words, words]) is words
    for goal in MANY:
        task = goal.repeat_over_time(left, 3)
        assert task.tolist() == [[[True, False]] * 3]
        later = torch.zeros(1, 2, 2, dtype=torch.bool)
        joined = goal.concatenate_timesteps([task, later])
        assert joined.shape == (1, 5, 2) and goal.select_timesteps(joined, slice(2, 4)).tolist() == [[[1, 0], [0, 0]]]


@pytest.mark.parametrize("name", ["one", "all", "recorded"])
def test_the_numbers_that_agent_tokens_are_made_from(name: str) -> None:
    config = dataclasses.replace(AGENT, goal=name, tasks=4)  # type: ignore[arg-type]
    goal = goal_of(config.goal)
    if isinstance(goal, OneTask):
        table = goal.word_embedding(config)
        assert table is not None and table.num_embeddings == goal.vocabulary(config) == config.vocabulary
        given = torch.tensor([[5, 6, 0, 0], [2, 3, 4, 1]])
        expected = table(torch.tensor([[0, 0, 5, 6], [2, 3, 4, 1]])).flatten(1)[:, None]
    else:
        table = goal.word_embedding(config)
        assert table is None and goal.vocabulary(config) == 0
        given = torch.tensor([[[True, False, True], [False, False, True]]])
        expected = torch.tensor([[[1.0, 0, 1, 0], [0, 0, 1, 0]]])
    found = goal.inputs(given, table, config)
    assert torch.equal(found, expected) and found.shape[-1] == goal.task_inputs(config)


# --- dreams


class Judge:
    """Says what its latents show: of each task its logit; a cost of a tenth of the action, an end in one of ten."""

    def head_outcome(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return features[..., 0], features[..., 1]

    def event_logits(self, before: Tensor, after: Tensor) -> Tensor:
        return (after - before).flatten(1)

    def expected_risk(self, before: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return actions[:, 0] / 10, torch.full((len(actions),), 0.9)


def dreamt(goal: Goal, task: Tensor) -> tuple[Tensor, StepOutcome, tuple[Tensor, Tensor]]:
    """Two rows after a step that shows tasks 0 and 1 of three in both, and 3, which no batch has; heads say 5 and 6."""
    after = torch.tensor([[[1.0, 2.0], [-1.0, 1.0]]]).expand(2, -1, -1)
    left, judged = goal.step_outcome(Judge(), task, torch.zeros(2, 2, 2), torch.tensor([[1], [0]]), after)
    features = torch.tensor([[5.0, 6.0], [5.0, 6.0]])
    return left, judged, goal.outcome(Judge(), features, judged.reward, judged.continues)


def test_heads_say_what_a_step_of_one_task_pays() -> None:
    words = torch.tensor([[3, 4, 0]] * 2)
    task, judged, (reward, continues) = dreamt(OneTask(), words)
    assert task is words and [part.shape for part in judged] == [(2, 0)] * 3
    assert reward.tolist() == [5, 5] and continues.tolist() == [6, 6]


@pytest.mark.parametrize("goal", MANY)
def test_a_step_of_all_tasks_pays_for_what_was_left_less_its_cost(goal: Goal) -> None:
    left = torch.tensor([[[True, True, True]], [[False, True, False]]])
    task, judged, (reward, continues) = dreamt(goal, left)
    assert judged.achieved.tolist() == [[True, True, False], [False, True, False]]
    assert task.tolist() == [[[False, False, True]], [[False] * 3]]
    torch.testing.assert_close(reward, torch.tensor([1.9, 1.0]))
    torch.testing.assert_close(continues, torch.tensor([0.9, 0.9]))
    _, again, (reward, _) = dreamt(goal, task)  # each is paid once
    assert not again.achieved.any()
    torch.testing.assert_close(reward, torch.tensor([-0.1, 0.0]))


@pytest.mark.parametrize("name", ["one", "all", "recorded"])
def test_models_have_what_their_goal_asks(name: str) -> None:
    model = WorldAndAgent(make_dynamics(), make_agent(dataclasses.replace(AGENT, goal=name, tasks=4)))  # type: ignore[arg-type]
    assert type(model.goal) is type(goal_of(model.agent.config.goal))
    parts = {part.split(".")[0] for part in model.state_dict()}
    assert parts == {"dynamics", "agent"} | ({"events", "risk"} if model.goal.predicts_outcomes else set())
    assert len(model.outcome_models) == (2 if model.goal.predicts_outcomes else 0)


# --- evaluation


def test_what_dreams_are_compared_with(tmp_path: Path) -> None:
    recorded = make_dataset(tmp_path, [8], "validation", events=EVENTS)
    rewards, one = torch.arange(5.0)[None], OneTask()
    words = one.task_of_labels(["go", "red"], VOCABULARY, (), 2)
    assert one.rewards_to_predict(rewards, words, 2).tolist() == [[2, 3, 4]]
    assert one.task_names([recorded], words, 2) == ("go", "red")
    left = torch.tensor([[[1, 1], [0, 1], [0, 1], [0, 0], [0, 0]]], dtype=torch.bool)
    achieved = torch.rand(1, 3, 2) < 0.5
    assert one.predicted_rewards(rewards, achieved) is rewards
    for goal in MANY:
        assert goal.rewards_to_predict(rewards, left, 2).tolist() == [[[False] * 2, [False, True], [False] * 2]]
        assert goal.predicted_rewards(rewards, achieved) is achieved
        assert goal.task_names([recorded], left, 2) == ("go", "red", "door")


# --- the source


def test_nobody_else_asks_which_goal_it_is() -> None:
    """Whoever compares a goal with its name, or reads it off missing parts of a model, has to ask the object instead.

    The config may: it refuses settings that do not go together before there is any object.
    """
    source = Path(__file__).parents[1] / "src" / "embody"
    branch = re.compile(r"""goal\s*(==|!=|in)\s*["'(\[]|(self|model|stage)\.(events|risk) is (not )?None""")
    found = [
        f"{path.relative_to(source)}:{number}: {line.strip()}"
        for path in sorted(source.rglob("*.py"))
        if path.relative_to(source).parts[0] != "config"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if branch.search(line) and not line.strip().startswith("assert ") and path.parent.name != "data"
    ]
    assert not found, found
