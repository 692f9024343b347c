"""Environments, experts and seeds."""

import dataclasses
import sys

import numpy as np
import pytest

from embody.config import ActionSpec, EnvConfig
from embody.games import (
    Demonstrator,
    DemonstratorLost,
    LockstepEnvs,
    environment_seeds,
    evaluation_seeds,
    make_env,
)
from embody.games.minigrid.demonstrator import make_demonstrator, make_off_task_demonstrator
from embody.games.minigrid.presets import minigrid
from embody.games.minigrid.tasks import ACTION_NAMES, TASKS, VOCABULARY

ACTIONS = ActionSpec.of_names(ACTION_NAMES)
CONFIG = EnvConfig("minigrid", tasks=TASKS, max_steps=(40,) * len(TASKS), actions=ACTIONS)


def play(task: str, seed: int, noise: float, expert: Demonstrator | None = None) -> tuple[int, bool]:
    """Steps and success of one episode of the expert, a share of its actions replaced."""
    expert = expert or make_demonstrator(task)
    env, rng = make_env(CONFIG, task), np.random.default_rng(seed)
    env.reset(seed=seed)
    expert.reset(env)
    action, lost = None, False
    for step in range(1, 41):
        try:
            suggested = expert.action(action) if not lost else 6
        except DemonstratorLost:
            lost, suggested = True, 6
        action = int(rng.integers(7)) if rng.random() < noise else suggested
        _, reward, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            assert reward == float(info["success"])
            return step, info["success"]
    raise AssertionError("the step limit of 40 did not end the episode")


@pytest.mark.parametrize("task", TASKS)
def test_frames_equal_minigrids_rendering(task: str) -> None:
    env, rng = make_env(CONFIG, task), np.random.default_rng(0)
    for seed in range(5):
        frame, _ = env.reset(seed=seed)
        for _ in range(20):
            expected = env.game.get_frame(highlight=False, tile_size=8)
            height, width, _ = expected.shape
            assert frame.shape == (48, 48, 3) and frame.dtype == np.uint8
            np.testing.assert_array_equal(frame[:height, :width], expected)
            assert not frame[height:].any() and not frame[:, width:].any()
            frame, _, terminated, truncated, _ = env.step(rng.integers(7))
            if terminated or truncated:
                break


@pytest.mark.parametrize("task", TASKS)
def test_expert_always_succeeds(task: str) -> None:
    assert [play(task, seed, noise=0.0)[1] for seed in range(20)] == [True] * 20


@pytest.mark.parametrize("task", TASKS)
def test_expert_recovers_from_random_actions(task: str) -> None:
    assert sum(play(task, seed, noise=0.25)[1] for seed in range(40)) >= 36


def test_doorkey_expert_gets_past_a_key_dropped_in_its_way() -> None:
    """Whatever a random player did to the key and the door, the expert ends the episode."""
    config = dataclasses.replace(CONFIG, max_steps=(400,) * len(TASKS))
    env, expert, rng = make_env(config, "MiniGrid-DoorKey-6x6-v0"), make_demonstrator("MiniGrid-DoorKey-6x6-v0"), None
    dropped = 0
    for seed in range(30):
        env.reset(seed=seed)
        expert.reset(env)
        rng = np.random.default_rng(seed)
        while env.game.carrying is None:
            env.step(expert.action(None))
        for _ in range(30):
            env.step(int(rng.choice([0, 1, 2, 4, 5])))
        dropped += env.game.carrying is None
        for _ in range(60):
            _, _, terminated, _, info = env.step(expert.action(None))
            if terminated:
                break
        assert info["success"], f"seed {seed}"
    assert dropped > 10


def test_opening_the_box_to_move_loses_the_expert() -> None:
    task = "BabyAI-PutNextLocalS5N3-v0"
    env, expert = make_env(CONFIG, task), make_demonstrator(task)
    for seed in range(100):
        _, info = env.reset(seed=seed)
        if "box next to" in info["mission"]:
            break
    expert.reset(env)
    action = None
    while (action := expert.action(action)) != 3:
        env.step(action)
    env.step(5)
    with pytest.raises(DemonstratorLost, match="box next to"):
        expert.action(5)


@pytest.mark.parametrize("task", [task for task in TASKS if "DoorKey" not in task])
def test_an_off_task_expert_plays_another_mission_well(task: str) -> None:
    """It fails but where the way to its goal leads past the right one; the events it brings about are real."""
    expert = make_off_task_demonstrator(task)
    assert expert is not None
    found = [play(task, seed, 0.0, expert) for seed in range(40)]
    assert sum(success for _, success in found) <= 8
    if "Fetch" in task:  # where the wrong object ends the episode; some rooms have two alike
        assert sum(steps < 20 for steps, _ in found) >= 34


def test_an_off_task_expert_completes_its_other_mission() -> None:
    task = "BabyAI-PutNextLocalS5N3-v0"
    env, expert, done = make_env(CONFIG, task), make_off_task_demonstrator(task), 0
    assert expert is not None
    for seed in range(20):
        env.reset(seed=seed)
        expert.reset(env)
        mission, verifier = env.game.mission, expert._game.instrs  # type: ignore[attr-defined]
        assert verifier.surface(env.game) != mission.replace("the", "a")
        action = None
        for _ in range(39):
            action = expert.action(action)
            env.step(action)
            if verifier.verify(action) == "success":
                done += 1
                break
        assert env.game.mission == mission
    assert done >= 18


def test_a_task_with_one_possible_mission_has_no_off_task_expert() -> None:
    assert make_off_task_demonstrator("MiniGrid-DoorKey-6x6-v0") is None


def test_reward_success_and_step_limit() -> None:
    config = EnvConfig("minigrid", tasks=("MiniGrid-Fetch-6x6-N2-v0",), max_steps=(3,), actions=ACTIONS)
    env = make_env(config, config.tasks[0])
    env.reset(seed=0)
    outcomes = [env.step(6)[1:4] for _ in range(3)]
    assert outcomes == [(0.0, False, False), (0.0, False, False), (0.0, False, True)]


def test_a_wrong_object_ends_fetch_without_reward() -> None:
    """The target is renamed, so that the expert of the old mission picks up the wrong object."""
    env, expert = make_env(CONFIG, "MiniGrid-Fetch-6x6-N2-v0"), make_demonstrator("MiniGrid-Fetch-6x6-N2-v0")
    env.reset(seed=1)
    expert.reset(env)
    while (action := expert.action(None)) != 3:
        env.step(action)
    env.game.targetType = "box"
    _, reward, terminated, _, info = env.step(action)
    assert (reward, terminated, info["success"]) == (0.0, True, False)


@pytest.mark.parametrize("task", TASKS)
def test_vocabulary_holds_every_word_of_the_missions(task: str) -> None:
    env = make_env(CONFIG, task)
    missions = {env.reset(seed=seed)[1]["mission"] for seed in range(100)}
    assert {word for mission in missions for word in mission.split()} <= set(VOCABULARY)
    assert VOCABULARY[:2] == ("<pad>", "<unknown>") and len(set(VOCABULARY)) == len(VOCABULARY) <= 64


def test_lockstep_equals_single_environments_and_never_resets() -> None:
    task, seeds = "BabyAI-GoToLocalS5N2-v0", list(range(6))
    actions = np.random.default_rng(0).integers(0, 7, (40, len(seeds), 1))
    envs = LockstepEnvs(CONFIG, task, seeds)
    frames = [envs.reset()]
    rewards, ends = np.zeros(len(seeds)), np.zeros(len(seeds), int)
    for step in range(40):
        frame, reward, terminated, truncated, success = envs.step(actions[step], np.ones(len(seeds), bool))
        np.testing.assert_array_equal(reward, success.astype(np.float32))
        frames.append(frame)
        rewards += reward
        ends += terminated | truncated
    assert (ends == 1).all() and 0 < rewards.sum() < len(seeds)
    for i, seed in enumerate(seeds):
        env = make_env(CONFIG, task)
        expected, info = env.reset(seed=seed)
        assert envs.labels[i] == info["mission"]
        over = False
        for step in range(40):
            np.testing.assert_array_equal(frames[step][i], expected)
            if not over:
                expected, _, terminated, truncated, _ = env.step(actions[step, i])
                over = terminated or truncated
        np.testing.assert_array_equal(frames[40][i], expected)


def test_lockstep_leaves_inactive_environments_alone() -> None:
    envs = LockstepEnvs(CONFIG, "MiniGrid-DoorKey-6x6-v0", [3, 3])
    first = envs.reset()
    frames, *_ = envs.step(np.ones((2, 1), np.int64), np.array([True, False]))
    assert (frames[0] != first[0]).any()
    np.testing.assert_array_equal(frames[1], first[1])
    with pytest.raises(AssertionError):
        envs.step(np.ones(2, np.int64), np.ones(2, bool))


def test_seeds_never_meet() -> None:
    ranges = [
        environment_seeds(run_seed, task, split)
        for run_seed in (0, 1)
        for task in minigrid().env.tasks
        for split in ("train", "validation", "evaluation")
    ]
    ranges.sort(key=lambda seeds: seeds.start)
    assert all(a.stop <= b.start for a, b in zip(ranges, ranges[1:], strict=False))
    assert environment_seeds(2**20 - 1, TASKS[0], "evaluation").stop < 2**63
    config = minigrid()
    assert evaluation_seeds(config, TASKS[0], 3) == list(environment_seeds(0, TASKS[0], "evaluation")[:3])
    with pytest.raises(ValueError, match="at most"):
        evaluation_seeds(config, TASKS[0], 10**6 + 1)


def test_bad_input_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown task 'Chess': choose from BabyAI-GoToLocal"):
        make_env(CONFIG, "Chess")
    with pytest.raises(ValueError, match="not in env.tasks"):
        make_env(EnvConfig("minigrid"), TASKS[0])
    with pytest.raises(ValueError, match="env.height, env.width: .* 6x6 cells"):
        make_env(dataclasses.replace(CONFIG, height=40), "MiniGrid-DoorKey-6x6-v0")
    with pytest.raises(ValueError, match="env.actions"):
        make_env(dataclasses.replace(CONFIG, actions=ActionSpec((2, 2))), TASKS[0])
    with pytest.raises(ValueError, match="no expert plays Chess"):
        make_demonstrator("Chess")
    for name in [name for name in sys.modules if name.split(".")[0] == "minigrid"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "minigrid", None)
    with pytest.raises(ValueError, match=r"run `pip install -e \"\.\[minigrid\]\"`"):
        make_env(CONFIG, TASKS[0])
