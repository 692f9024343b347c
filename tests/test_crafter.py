"""Crafter: the environment against the package's own, planning on hand-made maps, the expert, and recordings."""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embody.config import ActionSpec, Config
from embody.data import EVERY_TASK, BatchShapes, ClipSpec, EpisodeSelection, Relabelling, batches, open_dataset
from embody.data.episode import label_words
from embody.games import LockstepEnvs, environment_seeds, game, make_env
from embody.games.crafter.demonstrator import ACTION, CrafterExpert
from embody.games.crafter.environment import (
    CrafterPixels,
    _load_crafter,
    _new_game,
)
from embody.games.crafter.planning import WallState, WorldView, cheapest_path, plan_walls
from embody.games.crafter.presets import crafter_small
from embody.games.crafter.random_goals import CRAFTING_ACTIONS, EXPERT_STEPS, TRY_CONTINUE, TRY_START, RandomGoalExpert
from embody.games.crafter.tasks import ACHIEVEMENTS, ACTION_NAMES, LABELS, VOCABULARY
from embody.recording import collect, play_episodes
from embody.recording.play import _draw, _draw_noise, _rng, _unlabelled
from embody.tokenizer import Tokenizer
from embody.training.dynamics import DynamicsStage
from embody.training.encode import encode_dataset
from embody.training.tokenizer import TokenizerStage
from tests.test_collect import GOTO, assert_same
from tests.test_collect import small as small_minigrid

crafter = pytest.importorskip("crafter", reason="crafter is not installed")


def begin(seed: int = 0, max_steps: int = 1000) -> CrafterPixels:
    env = CrafterPixels(max_steps, 64, 64)
    env.reset(seed=seed)
    return env


@pytest.fixture
def fresh_world_cache() -> Iterator[None]:
    """Worlds are cached by seed: clear the cache, so that this test generates its own."""
    _new_game.cache_clear()
    yield
    _new_game.cache_clear()


@pytest.fixture
def quick_worlds(fresh_world_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simple worlds, since generating a real one takes a second: grass with a few trees, stones, water and cows."""

    def generate(world: Any, player: Any) -> None:
        kinds = [world._mat_ids[name] for name in ("grass", "tree", "water", "stone", "sand")]
        world._mat_map[:] = world.random.choice(kinds, world.area, p=[0.7, 0.1, 0.1, 0.05, 0.05])
        world[tuple(player.pos)] = "grass"
        for pos in zip(*np.nonzero(world.random.uniform(size=world.area) > 0.99), strict=True):
            if world[pos] == ("grass", None):
                world.add(crafter.objects.Cow(world, pos))

    monkeypatch.setattr(crafter.worldgen, "generate_world", generate)


@pytest.fixture
def field(fresh_world_cache: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A world of grass without creatures; the player stands in the middle and faces down."""

    def generate(world: Any, player: Any) -> None:
        world._mat_map[:] = world._mat_ids["grass"]

    monkeypatch.setattr(crafter.worldgen, "generate_world", generate)
    monkeypatch.setattr(crafter.Env, "_balance_chunk", lambda *_: None)  # no creature spawns later


# --- the environment ------------------------------------------------------------------------------------------------


def in_order(plain: Any) -> None:
    """Make `crafter.Env` remove creatures in the order of their creation; it draws from a set ordered by address."""
    balance, place = plain._balance_object, plain._world._obj_map
    plain._balance_object = lambda chunk, objs, *rest: balance(
        chunk, sorted(objs, key=lambda obj: place[tuple(obj.pos)]), *rest
    )


@pytest.mark.parametrize("size", [(64, 64), (72, 99)])
def test_frames_and_rewards_are_crafters_own(size: tuple[int, int]) -> None:
    height, width = size
    for seed in (0, 1) if size == (64, 64) else (1,):
        env, plain = CrafterPixels(1000, height, width), crafter.Env(size=(width, height), seed=seed, length=None)
        frame, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(frame, plain.reset())
        assert frame.shape == (height, width, 3) and frame.dtype == np.uint8
        env.game._step = plain._step = 100 + 80 * seed  # the second one sleeps at night
        env.game._player.inventory["energy"] = plain._player.inventory["energy"] = 5
        in_order(plain)
        actions = np.random.default_rng(seed)
        for step in range(90):
            action = 6 if seed and step > 20 else int(actions.integers(17))
            frame, reward, terminated, _, info = env.step(action)
            expected, value, over, other = plain.step(action)
            np.testing.assert_array_equal(frame, expected)
            assert (reward, terminated) == (value, bool(over)) and info["inventory"] == other["inventory"]
            if over:
                break


def test_gymnasiums_checker_accepts_the_environment(quick_worlds: None) -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(CrafterPixels(20, 64, 64), skip_render_check=True)


def test_an_episode_is_a_function_of_its_seed(quick_worlds: None) -> None:
    env = begin(seed=4)
    first = [env.step(action)[0] for action in range(17)]
    env.reset(seed=9)  # earlier resets do not matter
    env.reset(seed=4)
    for action in range(17):
        np.testing.assert_array_equal(env.step(action)[0], first[action])
    assert environment_seeds(2**20 - 1, "crafter", "evaluation").stop < 2**63
    env.reset(seed=2**63 - 1)


def test_playing_a_world_does_not_change_the_cached_one() -> None:
    """A world is generated once; players get copies of it, whether they play at the same time or in turn."""
    actions = np.random.default_rng(0).integers(17, size=120)
    _new_game.cache_clear()
    envs = [begin(seed=3), begin(seed=3)]
    for env in envs:
        env.game._step = 150  # dusk
    played = [[env.step(action) for env in envs] for action in actions]
    again = begin(seed=3)
    again.game._step = 150
    for action, (one, other) in zip(actions, played, strict=True):
        for found in (other, again.step(action)):
            np.testing.assert_array_equal(found[0], one[0])
            assert found[1:4] == one[1:4]
    assert _new_game.cache_info()[:2] == (2, 1)  # hits, misses


def test_which_creature_leaves_does_not_depend_on_the_order_of_a_set(field: None) -> None:
    left = []
    for backwards in (False, True):
        env = begin()
        world = env.game._world
        for x in range(1, 9):
            world.add(crafter.objects.Cow(world, (x, 1)))
        cows = [thing for thing in world.objects if thing is not env.game._player]
        world.random.seed(1)
        for _ in range(200):  # a cow leaves in a tenth of them
            herd = [cow for cow in cows if not cow.removed]
            env.game._balance_object(
                (0, 12, 0, 12), herd[::-1] if backwards else herd, crafter.objects.Cow, "grass", 5, 5, 0.0, 0.1,
                None, lambda *_: (0, 2),
            )  # fmt: skip
        left.append([tuple(cow.pos) for cow in cows if not cow.removed])
    assert left[0] == left[1] and len(left[0]) == 2


def test_events_rewards_limit_and_death(field: None) -> None:
    env = begin(max_steps=3)
    world = env.game._world
    x, y = env.game._player.pos
    world[x, y + 1] = "water"
    drink = [name == "collect_drink" for name in ACHIEVEMENTS]
    _, reward, terminated, truncated, info = env.step(np.array([5]))
    assert (reward, terminated, truncated, info["success"]) == (1.0, False, False, False)
    np.testing.assert_array_equal(info["events"], drink)
    _, reward, _, truncated, info = env.step(5)  # an event again, but no reward: it was unlocked before
    assert (reward, truncated) == (0.0, False)
    np.testing.assert_array_equal(info["events"], drink)
    _, _, terminated, truncated, info = env.step(0)
    assert (terminated, truncated, info["events"].any()) == (False, True, False)

    env = begin(max_steps=1)
    world, player = env.game._world, env.game._player
    world[player.pos[0], player.pos[1] + 1] = "diamond"
    player.inventory["iron_pickaxe"] = 1
    env.game._player.health = 0
    _, _, terminated, truncated, info = env.step(5)
    assert (terminated, truncated, info["success"]) == (True, False, True)


def test_names_are_crafters_own_and_every_word_is_known() -> None:
    names = crafter.constants.actions, sorted(crafter.constants.achievements)
    assert [name.replace(" ", "_") for name in ACTION_NAMES[0]] == names[0] and list(ACHIEVEMENTS) == names[1]
    assert {word for label in LABELS for word in label_words(label)} == set(VOCABULARY[2:])
    assert LABELS[ACHIEVEMENTS.index("collect_diamond")] == "collect diamond"


def test_lockstep_envs_give_the_events_of_each_step(quick_worlds: None) -> None:
    config = crafter_small().env
    envs = LockstepEnvs(config, "crafter", [0, 1])
    envs.reset()
    assert envs.labels == ["", ""] and envs.events.shape == (2, 22)
    singles = [begin(seed) for seed in (0, 1)]
    rng, plays = np.random.default_rng(0), True
    for _ in range(200):
        actions = rng.choice([1, 2, 3, 4, 5], (2, 1))
        envs.step(actions, np.array([True, plays]))
        for i, env in enumerate(singles):
            expected = env.step(actions[i])[4]["events"] if i == 0 or plays else np.zeros(22, bool)
            np.testing.assert_array_equal(envs.events[i], expected)
        if not plays:
            break
        plays = not envs.events[1].any()
    assert not plays  # a step after an event was compared
    assert LockstepEnvs(small_minigrid(Path()).env, GOTO, [3]).events.shape == (1, 0)


def test_bad_input_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    config = crafter_small().env
    with pytest.raises(ValueError, match="unknown task 'Chess': choose from crafter"):
        make_env(config, "Chess")
    with pytest.raises(ValueError, match=r"env.actions: crafter has sizes \(17,\), got \(7,\)"):
        make_env(dataclasses.replace(config, actions=ActionSpec((7,))), "crafter")
    with pytest.raises(ValueError, match="9x9 cells, a frame of 8x64"):
        make_env(dataclasses.replace(config, height=8), "crafter")
    monkeypatch.setattr(crafter.constants, "actions", ["noop"])
    _load_crafter.cache_clear()
    with pytest.raises(ValueError, match=r"than 1\.8\.3: run `pip install -e \"\.\[crafter\]\"`"):
        begin()


# --- planning -------------------------------------------------------------------------------------------------------


def observe(env: CrafterPixels) -> WorldView:
    return WorldView(env.game, crafter.constants)


def test_a_path_avoids_what_the_player_cannot_mine(field: None) -> None:
    env = begin()
    world = env.game._world
    x, y = (int(v) for v in env.game._player.pos)
    world[x + 4, y] = "tree"
    world._mat_map[x + 2, y - 3 : y + 6] = world._mat_ids["stone"]  # a wall that reaches 3 cells up and 5 down
    view = observe(env)
    tree = view.cell((x + 4, y))
    assert len(cheapest_path(view, {tree})) == 4 + 2 * 4 and cheapest_path(view, {tree}, limit=11) == []
    env.game._player.inventory["wood_pickaxe"] = 1
    assert cheapest_path(observe(env), {tree}) == [view.cell((x + i, y)) for i in (1, 2, 3, 4)]
    world._mat_map[x + 1 : x + 4, y - 1] = world._mat_ids["lava"]
    view = observe(env)
    path = cheapest_path(view, {tree})  # one row further down, where no cell is beside lava
    beside = {cell + direction for cell in view.cells("lava") for direction in view.directions}
    assert len(path) == 6 and not beside & set(path)


def test_a_plant_is_walled_in_on_open_grass(field: None) -> None:
    env = begin()
    world = env.game._world
    env.game._player.inventory |= {"stone": 4, "sapling": 1}
    view = observe(env)
    plant = view.position + 2 * view.width + 1
    sides = {plant + direction for direction in view.directions}

    def missing(state: WallState) -> int:
        return sum(state.passable(view, side) for side in sides) + (not state.sapling)

    plan = plan_walls(view, missing, sides, plant)
    names = {"stone": ACTION["place_stone"], "plant": ACTION["place_plant"]}
    for what, direction in plan:
        env.step(names[what] if what in names else 1 + view.directions.index(direction))
    after = observe(env)
    assert type(after.objects[plant]).__name__ == "Plant" and all(after.material(side) == "stone" for side in sides)
    assert env.game._player.inventory["stone"] == 0 and 5 < len(plan) < 25

    env.reset(seed=0)
    env.game._player.inventory |= {"stone": 4, "sapling": 1}
    env.game._world._mat_map[:] = world._mat_ids["sand"]
    view = observe(env)
    assert plan_walls(view, missing, sides, plant) == []  # nothing can be planted on sand


def test_the_expert_builds_a_shelter_and_sleeps_in_it(field: None) -> None:
    env = begin()
    world, player = env.game._world, env.game._player
    world._mat_map[36:46, 20:44] = world._mat_ids["stone"]
    player.inventory |= {"wood_pickaxe": 1, "energy": 1, "stone": 1}
    env.game._step = 200
    env.game._update_time()  # to night
    expert = CrafterExpert()
    expert.reset(env)
    for _ in range(60):
        env.step(expert.action(None))
        if player.sleeping:
            break
    view, room = observe(env), set()
    queue = [view.position]
    while queue and len(room) < 9:
        room.add(cell := queue.pop())
        queue += [cell + d for d in view.directions if view.walkable(cell + d) and cell + d not in room]
    assert player.sleeping and len(room) <= 2


def unlocked_by_expert(seed: int, max_steps: int) -> np.ndarray:
    env, expert = begin(seed, max_steps), CrafterExpert()
    expert.reset(env)
    unlocked, over = np.zeros(22, bool), False
    while not over:
        _, _, terminated, truncated, info = env.step(expert.action(None))
        unlocked |= info["events"]
        over = terminated or truncated
    return unlocked


def test_the_expert_unlocks_all_achievements_of_a_world() -> None:
    assert unlocked_by_expert(1018, max_steps=700).all()


@pytest.mark.slow
def test_the_expert_mines_a_diamond_in_most_worlds() -> None:
    unlocked = np.stack([unlocked_by_expert(seed, max_steps=1000) for seed in range(1000, 1020)])
    assert unlocked[:, ACHIEVEMENTS.index("collect_diamond")].mean() >= 0.65 and unlocked.sum(axis=1).mean() >= 19


# --- the off-task expert ---------------------------------------------------------------------------------------------


def pursuing(env: CrafterPixels, goal: str | None) -> RandomGoalExpert:
    """An off-task expert that always pursues this one goal (None: the goals of the expert)."""
    random_expert = RandomGoalExpert()
    assert isinstance(random_expert, RandomGoalExpert)
    random_expert.reset(env)

    def draw(own: bool = False) -> None:
        random_expert.observe()
        random_expert._goal, random_expert._steps_left, random_expert._count_at_draw = (
            goal,
            EXPERT_STEPS,
            random_expert._times_achieved(goal) if goal else 0,
        )

    random_expert._draw_goal = draw  # type: ignore[method-assign]
    return random_expert


def test_every_goal_is_an_achievement_and_only_eat_plant_is_never_drawn(field: None) -> None:
    random_expert = pursuing(begin(), None)
    random_expert.observe()
    assert set(ACHIEVEMENTS) - set(random_expert._goal_skills) == {"eat_plant"} and set(
        random_expert._goal_skills
    ) < set(ACHIEVEMENTS)


@pytest.mark.parametrize(
    "goal, inventory",
    [
        *(("place_stone", {"stone": 2}), ("place_table", {"wood": 9}), ("place_plant", {"sapling": 2})),
        *(("collect_wood", {}), ("collect_sapling", {}), ("collect_drink", {}), ("wake_up", {"energy": 8})),
        *(("make_wood_pickaxe", {"wood": 9}), ("place_furnace", {"wood": 9, "stone": 9, "wood_pickaxe": 1})),
    ],
)
def test_a_goal_is_achieved_and_can_be_achieved_again(field: None, goal: str, inventory: dict[str, int]) -> None:
    """Also after all achievements are unlocked; the expert would pursue each of them once."""
    env = begin()
    world, player = env.game._world, env.game._player
    x, y = (int(v) for v in player.pos)
    world[x + 3, y], world[x - 3, y] = "tree", "water"
    player.inventory |= inventory
    for achievement in ACHIEVEMENTS:
        player.achievements[achievement] = 1
    random_expert, achieved = pursuing(env, goal), 0
    often = 1 if goal in ("place_furnace", "wake_up") else 2  # stones and lost energy suffice for one only
    for _ in range(120):
        _, _, over, _, info = env.step(random_expert.action(None))
        achieved += info["events"][ACHIEVEMENTS.index(goal)]
        if achieved == often or over:
            break
    assert achieved == often, goal


def test_a_goal_that_cannot_be_pursued_is_replaced_by_the_experts_goals(field: None) -> None:
    env, same = begin(), begin()
    random_expert, expert = pursuing(env, "collect_diamond"), CrafterExpert()
    expert.reset(same)
    for _ in range(20):
        action = random_expert.action(None)
        assert action == expert.action(None)
        env.step(action), same.step(action)


def test_beside_a_table_all_crafting_actions_are_tried(field: None) -> None:
    """The inventory is empty, so all tries fail. None is made while asleep."""
    env = begin()
    world, player = env.game._world, env.game._player
    x, y = (int(v) for v in player.pos)
    random_expert, expert = pursuing(env, None), CrafterExpert()
    expert.reset(env)
    assert [random_expert.action(None) for _ in range(50)] == [
        expert.action(None)
    ] * 50  # without a table it acts as the expert
    world[x + 1, y] = "table"
    own, tried = expert.action(None), [random_expert.action(None) for _ in range(1000)]
    other = [action for action in tried if action != own]
    assert set(other) | {own} == {*CRAFTING_ACTIONS, own} and len(CRAFTING_ACTIONS) == 10
    often = TRY_START / (1 - TRY_CONTINUE + TRY_START)  # in the long run
    assert (
        own not in CRAFTING_ACTIONS and abs(len(other) / 1000 - often) < 0.11
    )  # four standard deviations of correlated draws
    again = np.mean([a == b for a, b in itertools.pairwise(other)])
    assert abs(again - (0.5 + 0.5 / 10)) < 0.09
    player.sleeping = True
    assert {random_expert.action(None) for _ in range(50)} == {ACTION_NAMES[0].index("sleep")}


def test_random_goals_depend_on_the_worlds_seed_and_not_on_the_first_frame(quick_worlds: None) -> None:
    def played(draws: int) -> list[int]:
        env, random_expert, actions = begin(3), RandomGoalExpert(), []
        random_expert.reset(env)
        random_expert._rng.random(draws)
        for _ in range(200):
            actions.append(random_expert.action(None))
            env.step(actions[-1])
        return actions

    assert played(0) == played(0)
    assert len({tuple(played(draws)) for draws in range(4)}) == 4  # from the same first frame


# --- recordings -----------------------------------------------------------------------------------------------------


def small(root: Path, **fields: Any) -> Config:
    config = crafter_small()
    settings = {"train_episodes": 12, "validation_episodes": 2, "workers": 1, "unlabelled_fraction": 0.5, **fields}
    return dataclasses.replace(
        config,
        data_dir=str(root),
        env=dataclasses.replace(config.env, max_steps=(40,)),
        collect=dataclasses.replace(config.collect, **settings),
    )


@pytest.fixture
def recorded(quick_worlds: None, tmp_path: Path) -> Path:
    collect(small(tmp_path / "recorded"))
    return tmp_path / "recorded"


def test_the_dataset_equals_the_played_episodes(quick_worlds: None, recorded: Path) -> None:
    dataset = open_dataset(recorded / "crafter")
    assert dataset.version == 2 and not dataset.is_video
    assert dataset.meta.tasks == ACHIEVEMENTS and dataset.meta.labels == LABELS and dataset.meta.fps == 5
    whole = play_episodes(small(recorded, unlabelled_fraction=0.0), "crafter", "train", 0, 12)
    assert all(episode.events is not None and episode.task == EVERY_TASK for episode in whole)
    labelled = [row.labelled for row in dataset.episodes("train")]
    assert 2 <= sum(labelled) <= 10
    for i, episode in enumerate(whole):
        found = dataset.episode(i)
        if labelled[i]:
            assert_same(found, episode)
            continue
        # The same episode without actions, rewards, events and terminal.
        np.testing.assert_array_equal(found.frames, episode.frames)
        assert (found.noise, found.seed, found.events) == (episode.noise, episode.seed, None)
        assert not found.actions.any() and not found.rewards.any() and not found.is_terminal.any()
    env = begin(whole[0].seed, 40)
    for t in range(1, whole[0].length):
        frame, reward, *_, info = env.step(whole[0].actions[t])
        np.testing.assert_array_equal(frame, whole[0].frames[t])
        np.testing.assert_array_equal(info["events"], whole[0].events[t])
        assert np.float32(reward) == whole[0].rewards[t]


def test_unlabelled_episodes_are_drawn_regardless_of_noise(tmp_path: Path) -> None:
    config = small(tmp_path, random_fraction=0.5)
    noise = [_draw_noise(config, _rng(config, "crafter", "train", index)) for index in range(2000)]
    videos = np.array([_draw(config, "crafter", "train", index, 1) < 0.5 for index in range(2000)])
    assert abs(videos[np.array(noise) == 1].mean() - 0.5) < 0.08  # 5 deviations
    assert abs(videos.mean() - 0.5) < 0.06


def test_an_unlabelled_episode_has_no_terminal(quick_worlds: None, tmp_path: Path) -> None:
    episode = play_episodes(small(tmp_path, unlabelled_fraction=0.0), "crafter", "train", 0, 1)[0]
    died = np.arange(episode.length) == episode.length - 1
    assert not _unlabelled(dataclasses.replace(episode, is_terminal=died)).is_terminal.any()


def test_clips_come_from_all_episodes_and_are_relabelled(recorded: Path) -> None:
    dataset = open_dataset(recorded / "crafter")
    seen = np.zeros(2)
    clips = ClipSpec(EpisodeSelection("train"), BatchShapes(32, 8), relabelling=Relabelling(words=4))
    for batch, _ in zip(batches([dataset], clips, seed=0), range(12), strict=False):
        labelled = batch.labelled.numpy()
        seen += (~labelled).sum(), labelled.sum()
        assert not batch.actions[~labelled].any() and not batch.task[~labelled].any()
        assert (batch.task[labelled][:, 0] > 1).all() and set(np.unique(batch.rewards)) <= {0.0, 1.0}
    rows = dataset.episodes("train")
    share = sum(row.length for row in rows if not row.labelled) / sum(row.length for row in rows)
    assert abs(seen[0] / seen.sum() - share) < 0.12  # 4.7 deviations of 384 rows
    clips = dataclasses.replace(clips, episodes=EpisodeSelection("train", labelled_only=True))
    only = next(batches([dataset], clips, seed=0))
    assert only.labelled.all()


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("stage_of", [TokenizerStage, DynamicsStage])
def test_world_model_batches_may_prefer_rows_with_events(recorded: Path, stage_of: Any, share: float) -> None:
    """After the uniform rows of a batch, every row holds an event of its task; not all uniform rows do."""
    dataset, config = open_dataset(recorded / "crafter"), small(recorded)
    config = dataclasses.replace(
        config,
        tokenizer_objective=dataclasses.replace(config.tokenizer_objective, uniform_share=share),
        dynamics_objective=dataclasses.replace(config.dynamics_objective, uniform_share=share),
    )
    encode_dataset(Tokenizer(config.tokenizer, config.env.frame), "untrained", dataset)
    stage = stage_of(config, [dataset], *(["untrained"] if stage_of is DynamicsStage else []))
    first = []
    for batch, _ in zip(stage.batches(1), range(6), strict=False):
        held = ((batch.rewards > 0) & batch.mask).any(dim=1)
        uniform = math.ceil(share * len(held))
        assert held[uniform:].all()
        first += held[:uniform].tolist()
    assert not all(first)


def test_videos_alone_can_be_read(quick_worlds: None, tmp_path: Path) -> None:
    config = small(tmp_path, unlabelled_fraction=1.0, train_episodes=2)
    collect(config)
    dataset = open_dataset(tmp_path / "crafter")
    batch = next(batches([dataset], ClipSpec(EpisodeSelection("train"), BatchShapes(4, 8)), seed=0))
    assert not batch.labelled.any() and batch.frames.any()


def test_the_unlabelled_fraction_is_part_of_the_recipe(tmp_path: Path, recorded: Path) -> None:
    with pytest.raises(ValueError, match=r"unlabelled_fraction 0.5, the config has 0.0"):
        collect(small(recorded, unlabelled_fraction=0.0))
    config = small_minigrid(tmp_path, train_episodes=2, validation_episodes=1)
    collect(config)
    record = json.loads((tmp_path / GOTO / "collection.json").read_text())
    assert "unlabelled_fraction" not in record  # a setting at its default is not recorded, so older records stay valid
    collect(config)
    other = dataclasses.replace(config.collect, unlabelled_fraction=0.5)
    with pytest.raises(ValueError, match=r"unlabelled_fraction 0.0, the config has 0.5"):
        collect(dataclasses.replace(config, collect=other))


def test_shards_stay_below_their_memory_limit() -> None:
    from embody.recording.collect import SHARD_BYTES, _shards

    config = crafter_small()
    jobs = _shards(config, "crafter")
    assert max(job.count for job in jobs) * 1001 * 64 * 64 * 3 <= SHARD_BYTES
    assert sum(job.count for job in jobs if job.split == "train") == config.collect.train_episodes
    assert max(job.count for job in _shards(small_minigrid(Path()), GOTO)) == 64
    assert game("crafter").tasks == config.env.tasks
