"""The evaluation in simulators: obtained items, the task scheduler, the tables, resuming, and failing simulators."""

import dataclasses
import itertools
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.testing import assert_close

from embody.cli import main
from embody.cli.parse import parse
from embody.cli.settings import base_config
from embody.config import (
    AgentConfig,
    Config,
    DynamicsConfig,
    EnvConfig,
    SamplingConfig,
    TokenizerConfig,
    TokenizerObjective,
    TransformerConfig,
    to_dict,
)
from embody.errors import UserError
from embody.games import stored_config
from embody.games.minecraft.actions import minerl_space
from embody.games.minecraft.diamond import DiamondEpisode, EpisodeLog, diamond_summary, diamond_table, episodes_table
from embody.games.minecraft.events import events_of_inventory, was_crafted, was_obtained
from embody.games.minecraft.minerl import Trajectory
from embody.games.minecraft.play import play_diamond
from embody.games.minecraft.presets import minecraft
from embody.games.minecraft.schedule import ItemTracker, Scheduler, TaskSchedule, check_schedule
from embody.games.minecraft.simulator import MineRLEnv, SimulatorLost, SimulatorUnreachable
from embody.games.minecraft.tasks import ITEMS, TASKS, item_counts
from embody.games.policy import RandomPolicy
from embody.imagination import Player
from embody.logger_manager import LoggerManager
from embody.model import WorldAndAgent
from embody.trainer import Trainer
from tests.simulators import record_episode, serving
from tests.tiny_models import CONFIG, DYNAMICS, SAMPLING, VOCABULARY, make_agent, make_dynamics, make_tokenizer

DIAMOND = "MineRLObtainDiamond-v0"
SPACE = minerl_space(DIAMOND)
SCHEDULE = TaskSchedule(
    tasks=(
        "mine_log",
        "craft_planks",
        "craft_crafting_table",
        "place_crafting_table",
        "use_iron_pickaxe",
        "mine_diamond",
    ),
    amounts=(2, 4, 1, 1, 1, 1),
    max_steps=(9, 9, 9, 9, 1, 9),
    episode_steps=50,
)


def small_config(root: Path) -> Config:
    """Of game minecraft, with MineRL 0.4.4's actions and models that fit a test."""
    trunk = TransformerConfig(width=16, depth=2, heads=2, kv_heads=1, pattern="ST", mlp_width=24)
    folders = {f"{kind}_dir": str(root / kind) for kind in ("data", "models", "runs", "logs")}
    actions = SPACE.spec
    return Config(
        name="small",
        preset="minecraft",
        precision="float32",
        env=EnvConfig("minecraft", ("mine_log",), (50,), height=32, width=32, fps=20, actions=actions),
        tokenizer=TokenizerConfig(patch=16, latents=4, channels=4, context=2, encoder=trunk, decoder=trunk),
        tokenizer_objective=TokenizerObjective(lpips="none"),
        dynamics=DynamicsConfig(tokens=4, channels=4, context=16, trunk=trunk, k_max=8),
        agent=AgentConfig(tokens=1, hidden=8, bins=11),
        sampling=SamplingConfig(k_sample=2),
        schedule=SCHEDULE,
        **folders,
    )


# --- what was obtained ----------------------------------------------------------------------------------------------


def test_item_names_of_both_simulators_are_counted() -> None:
    counts = item_counts({"log": 1, "log2": 1, "dark_oak_log": 3, "birch_planks": 4, "iron_ore": 2, "stone_axe": 9})
    assert {item: count for item, count in counts.items() if count} == {"log": 5, "planks": 4, "iron_ore": 2}
    assert set(counts) == set(ITEMS)


def test_items_moved_inside_a_gui_are_not_obtained_again() -> None:
    """Logs put in a crafting grid and taken back, or a table moved to the cursor and back, change no count."""
    tracker = ItemTracker({"log": 5})
    for logs, tables, gui in ((7, 0, False), (3, 0, True), (6, 0, True), (7, 1, True), (7, 0, True), (7, 1, True)):
        tracker.update({"log": logs, "crafting_table": tables}, 0.0, {"use": 1}, gui)
    assert (tracker.obtained, tracker.placed) == ({"log": 2, "crafting_table": 1}, {})
    for logs in [7] * 99 + [3, 4]:  # 5 seconds after it was back, more than 3 is not more than 7
        tracker.update({"log": logs, "crafting_table": 1}, 0.0, {"use": 0})
    assert tracker.obtained["log"] == 2
    for logs in [4] * 97 + [6]:
        tracker.update({"log": logs, "crafting_table": 1}, 0.0, {"use": 0})
    assert tracker.obtained["log"] == 2  # the last 7 is 100 observations ago
    tracker.update({"log": 7, "crafting_table": 0}, 0.0, {"use": 1}, False)
    assert tracker.obtained["log"] == 3 and tracker.placed["crafting_table"] == 1
    tracker.update({"log": 5}, 0.0, {"use": 1}, False)  # a fall by two is not a placed item
    assert tracker.placed["log"] == 0


def test_the_reward_shows_the_diamond() -> None:
    tracker = ItemTracker({})
    tracker.update({}, 1023.0, {})
    assert not tracker.obtained["diamond"]
    tracker.update({}, 1024.0, {})
    tracker.update({}, 1024.0, {})
    assert tracker.obtained["diamond"] == 1
    seen = ItemTracker({})
    seen.update({"diamond": 2}, 0.0, {})
    seen.update({"diamond": 2}, 1024.0, {})  # as MineRL 1.0 might have it: seen and paid
    assert seen.obtained["diamond"] == 2


@pytest.mark.parametrize("known", [True, False])  # whether a GUI is open
def test_tracked_items_equal_the_events_of_vpt_recordings(known: bool) -> None:
    random, steps = np.random.default_rng(int(known)), 3000
    counts = {item: np.abs(np.cumsum(random.choice([-1, 0, 1], steps, p=[0.06, 0.88, 0.06]))) for item in ITEMS}
    gui, using = random.random(steps) < 0.3, random.random(steps) < 0.5
    gui &= known
    events = events_of_inventory(counts, gui, using)
    tracker = ItemTracker({item: int(count[0]) for item, count in counts.items()})
    placed, obtained = np.zeros((2, steps, len(ITEMS)), np.int64)
    for n in range(1, steps):
        inventory = {item: int(count[n]) for item, count in counts.items()}
        tracker.update(inventory, 0.0, {"use": int(using[n])}, bool(gui[n]) if known else None)
        placed[n], obtained[n] = ([have[item] for item in ITEMS] for have in (tracker.placed, tracker.obtained))
    for task in ("mine_log", "craft_planks"):  # what rises in an open GUI was crafted, outside of one mined
        verb, item = task.split("_", 1)
        there = was_obtained(counts[item]) & (gui if verb == "craft" else ~gui)
        np.testing.assert_array_equal(events[:, TASKS.index(task)], there)
        assert (was_obtained(counts[item]) & gui).any() == known
    for place, item in enumerate(ITEMS):
        down = (np.diff(counts[item], prepend=counts[item][0]) == -1) & using & ~gui
        np.testing.assert_array_equal(np.diff(placed[:, place], prepend=0) > 0, down)
        standing = item in ("crafting_table", "furnace")
        rose = was_crafted(counts[item], down) if standing else was_obtained(counts[item])
        np.testing.assert_array_equal(np.diff(obtained[:, place], prepend=0) > 0, rose)
        if standing:
            np.testing.assert_array_equal(events[:, TASKS.index(f"place_{item}")], down)
            assert rose.sum() < was_obtained(counts[item]).sum()  # some were picked up
        assert rose.sum() > 2 and down.sum() > 2


def test_tracked_items_equal_the_events_of_minerl_recordings() -> None:
    random, steps = np.random.default_rng(0), 3000
    changes = {item: random.choice([-1, 0, 1], steps, p=[0.06, 0.88, 0.06]) for item in ITEMS}
    counts = {item: np.abs(np.cumsum(change)) for item, change in changes.items()}
    words = {"place": random.choice(["none", "furnace", "crafting_table"], steps - 1)}
    words["nearbySmelt"] = random.choice(["none", "coal"], steps - 1)
    rewards = np.zeros(steps - 1)
    seen = {f"inventory${item}": count for item, count in counts.items()}
    seen |= {"equipped_items$mainhand$type": np.full(steps, "air"), "equipped_items$mainhand$damage": np.zeros(steps)}
    recording = Trajectory(DIAMOND, "", words, rewards, seen, {}, {}, Path(), 0)
    events = recording._events(np.zeros((steps, len(SPACE.spec.sizes)), np.int64))
    tracker, known = ItemTracker({item: int(count[0]) for item, count in counts.items()}), np.zeros(events.shape, bool)
    for n in range(1, steps):
        before = tracker.obtained.copy(), tracker.placed.copy()
        tracker.update(
            {item: int(count[n]) for item, count in counts.items()}, 0.0, {k: v[n - 1] for k, v in words.items()}
        )
        for place, task in enumerate(TASKS):
            verb, item = task.split("_", 1)
            if verb in ("mine", "craft") and item != "diamond":
                known[n, place] = tracker.obtained[item] > before[0][item]
            elif verb == "place":
                known[n, place] = tracker.placed[item] > before[1][item]
    np.testing.assert_array_equal(known, events)
    assert (events.sum(axis=0) > 2).sum() == 14


# --- who sets the task ----------------------------------------------------------------------------------------------


def test_a_task_ends_when_its_items_are_obtained_or_its_time_is_out() -> None:
    scheduler, tracker = Scheduler(SCHEDULE), ItemTracker({})
    assert scheduler.update(8, tracker) == [] and scheduler.task == "mine_log"
    assert [str(switch) for switch in scheduler.update(9, tracker)] == [
        "step 9: mine_log out of time, now craft_planks"
    ]
    assert scheduler.update(17, tracker) == []
    tracker.update({"planks": 4, "crafting_table": 1}, 0.0, {})
    said = [str(switch) for switch in scheduler.update(18, tracker)]
    assert said == [
        "step 18: craft_planks done, now craft_crafting_table",  # done and out of time at once: done
        "step 18: craft_crafting_table done, now place_crafting_table",  # it was done before it became the task
    ]
    tracker.update({"planks": 4}, 0.0, {"place": "crafting_table"})
    assert [switch.then for switch in scheduler.update(20, tracker)] == ["use_iron_pickaxe"]
    assert [switch.reached for switch in scheduler.update(21, tracker)] == [False]  # it ends by time only
    tracker.update({"diamond": 1}, 0.0, {})
    assert scheduler.update(900, tracker) == [] and scheduler.task == "mine_diamond"  # the last one stays


def test_the_default_schedule_reaches_the_diamond_task_in_time() -> None:
    schedule = minecraft().schedule
    check_schedule(schedule)
    assert schedule.episode_steps == 60 * 60 * minecraft().env.fps
    assert schedule.tasks[-1] == "mine_diamond"
    assert sum(schedule.max_steps[:-1]) < schedule.episode_steps
    assert stored_config(json.loads(json.dumps(to_dict(minecraft())))) == minecraft()
    with pytest.raises(ValueError, match="schedule: 1 tasks, 15 amounts and 15 max_steps"):
        TaskSchedule(tasks=("mine_log",))
    with pytest.raises(ValueError, match=r"schedule.tasks: unknown task 'fly'"):
        check_schedule(TaskSchedule(("fly",), (1,), (1,)))
    with pytest.raises(ValueError, match="schedule.amounts must be at least 1"):
        dataclasses.replace(minecraft(), schedule=TaskSchedule(("mine_log",), (0,), (1,)))


def make_player(context: int) -> Player:
    """One whose histories have no noise: equal to the last bits."""
    clean = dataclasses.replace(DYNAMICS, context_tau=1.0)
    model = WorldAndAgent(make_dynamics(clean), make_agent())
    return Player(make_tokenizer(), model, VOCABULARY, context=context, sampling=SAMPLING)


def test_relabelling_reads_the_same_history_again() -> None:
    """After `relabel` the features equal those of a player that always had the label; other rows do not change."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (6, 2, 8, 12, 3), dtype=np.uint8)
    actions = random.integers(0, CONFIG.env.actions.sizes, (6, 2, 2))

    def player(labels: list[str], until: int) -> Player:
        made = make_player(context=2)
        made.begin(frames[0], labels)
        for t in range(1, until):
            made.observe(actions[t], frames[t])
        return made

    before, after = ["go to the door", "go to the red"], ["go to the blue", "go to the red"]
    switched, always = player(before, 4), player(after, 4)
    assert switched.features is not None and always.features is not None
    old = switched.features.clone()
    switched.relabel(after)
    assert (switched.features[0] - old[0]).abs().max() > 0.01
    assert_close(switched.features, always.features, atol=1e-5, rtol=1e-4)
    assert torch.equal(switched.features[1], old[1])
    for t in (4, 5):
        for each in (switched, always):
            each.observe(actions[t], frames[t])
        assert_close(switched.features, always.features, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("steps", [3, 14])  # before and after the ring of 8 frames has come round
def test_a_player_may_continue_with_a_subset_of_its_episodes(steps: int) -> None:
    """The kept rows act as if the others had never existed, and their labels may change separately."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (steps + 4, 3, 8, 12, 3), dtype=np.uint8)
    actions = random.integers(0, CONFIG.env.actions.sizes, (steps + 4, 3, 2))
    labels, kept = ["go to the door", "go to the red", "go"], [2, 0]

    def player(rows: list[int]) -> Player:
        made = make_player(context=2)
        made.begin(frames[0][rows], [labels[row] for row in rows])
        for t in range(1, steps):
            made.observe(actions[t][rows], frames[t][rows])
        return made

    fewer, alone = player([0, 1, 2]), player(kept)
    fewer.keep(kept)
    for t in range(steps, steps + 4):
        for each in (fewer, alone):
            each.observe(actions[t][kept], frames[t][kept])
            if t == steps + 1:
                each.relabel(["go", "go to the blue"])
        assert fewer.features is not None and alone.features is not None
        assert_close(fewer.features, alone.features, atol=1e-5, rtol=1e-4)
    assert fewer.act().shape == (2, 2)


def test_a_long_history_is_kept_up_to_the_size_of_the_cache() -> None:
    """After a new label the history is read again at its old positions and in its old order."""
    player = make_player(context=3)
    frames = np.random.default_rng(0).integers(0, 256, (22, 1, 8, 12, 3), dtype=np.uint8)
    player.begin(frames[0], ["go"])
    for frame in frames[1:20]:
        player.observe(np.zeros((1, 2), np.int64), frame)
    assert len(player.history) == player.dream.ring == 8
    fresh = make_player(context=3)
    fresh.begin(frames[0], ["door"])
    fresh.history = player.history.copy()
    assert player.tokenizer_cache is not None
    fresh.tokenizer_cache = player.tokenizer_cache.select(torch.tensor([0]))
    fresh.features = fresh.dream.reset(*fresh._past(slice(None)), fresh._tasks(["door"], 1))[:, -1]  # at places 0 to 7
    player.relabel(["door"])
    for frame in frames[20:]:
        assert player.features is not None
        assert_close(player.features, fresh.features, atol=1e-5, rtol=1e-4)
        for each in (player, fresh):
            each.observe(np.zeros((1, 2), np.int64), frame)
    assert_close(player.features, fresh.features, atol=1e-5, rtol=1e-4)
    player.begin(frames[0], ["go"])
    assert len(player.history) == 3  # what came before is forgotten


# --- the log and the table ------------------------------------------------------------------------------------------


def played(episode: int, items: dict[str, int], end: Any = "truncated") -> DiamondEpisode:
    return DiamondEpisode(episode, 7, 72_000, 1.0, end, items, ("a switch",))


def test_the_log_survives_a_kill_and_refuses_other_evaluations(tmp_path: Path) -> None:
    path, recipe = tmp_path / "log.jsonl", {"weights": "a", "schedule": to_dict(SCHEDULE)}
    log = EpisodeLog(path, recipe)
    for episode in (played(0, {"log": 5}), dataclasses.replace(played(1, {}, "lost"), error="gone"), played(3, {})):
        log.add(episode)
    with path.open("a") as file:
        file.write('{"episode": 4, "see')  # killed while writing
    again = EpisodeLog(path, recipe)
    assert again.episodes == log.episodes
    assert again.missing(6) == [1, 2, 4, 5]  # what was lost is played again
    again.add(played(1, {"log": 2}))
    assert EpisodeLog(path, recipe).episodes[1].items == {"log": 2}
    with pytest.raises(ValueError, match=r"log.jsonl has episodes of another evaluation \(weights differs\)"):
        EpisodeLog(path, recipe | {"weights": "b"})
    with pytest.raises(ValueError, match=r"another evaluation \(context differs\)"):
        EpisodeLog(path, recipe | {"context": 4})
    with pytest.raises(ValueError, match=r"another evaluation \(weights differs\)"):
        EpisodeLog(path, {"schedule": recipe["schedule"]})
    whole = path.read_text()
    for damage in ({"episode": "x"}, to_dict(played(0, {"log": 0})), to_dict(played(0, {"log": "x"}))):  # type: ignore[dict-item]
        path.write_text(whole + json.dumps(damage) + "\n")
        with pytest.raises(ValueError, match=r"log.jsonl is damaged"):
            EpisodeLog(path, recipe)


def test_the_table_counts_lost_episodes_separately() -> None:
    episodes = [
        played(0, {"log": 600, "diamond": 60_000}, "terminated"),
        played(1, {"log": 1800}),
        played(2, {"log": 1200}),
        played(3, {}),
        played(4, {"log": 1, "diamond": 1}, "lost"),
        played(9, {"diamond": 1}),  # its number is not below `requested`
    ]
    summary = diamond_summary(episodes, requested=5)
    assert (summary["played"], summary["lost"], summary["ends"]) == (4, 1, {"terminated": 1, "truncated": 3})
    log, diamond = summary["items"]["log"], summary["items"]["diamond"]
    assert (log["mean"], log["obtained"], log["median_minutes"]) == (0.75, 3, 1.0)
    assert (diamond["mean"], diamond["episodes"], diamond["median_step"]) == (0.25, 4, 60_000)
    assert summary["items"]["coal"]["median_minutes"] is None
    table = diamond_table(summary)
    assert "4 of 5 episodes played; 1 were lost with the simulator and are in no rate below" in table
    assert "| log | 75.0% (30.1-95.4) | 3 | 1.0 min |" in table
    assert "| iron pickaxe | 0.0% (0.0-49.0) | 0 | - |" in table
    each = episodes_table(reversed(episodes)).splitlines()
    assert each[0].startswith("| episode | seed | end | minutes | log | planks |") and len(each) == 2 + 6
    assert each[2] == "| 0 | 7 | terminated | 60.00 | 0.50 |" + " - |" * 11 + " 50.00 |"
    assert {line.count("|") for line in each} == {each[0].count("|")}
    nothing = diamond_table(diamond_summary(episodes[4:5], requested=5))
    assert "0 of 5 episodes played" in nothing and "| log" not in nothing


# --- in simulators --------------------------------------------------------------------------------------------------


def evaluate(config: Config, *servers: str, policy: Any = "random", episodes: int = 3) -> dict[str, Any]:
    settings = dataclasses.replace(config.evaluation, episodes=episodes)
    logger = LoggerManager(config.run_dir, Path(config.logs_dir), config.name)
    trainer = Trainer(config=dataclasses.replace(config, evaluation=settings), logger=logger)
    try:
        return trainer.evaluate_in_simulator(f"minerl:{DIAMOND}", servers, policy)
    finally:
        logger.close()


def logged(config: Config) -> str:
    return "".join(path.read_text() for path in sorted(Path(config.logs_dir).glob("*.log")))


def test_two_simulators_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embody.games.minecraft.play.RandomPolicy", Placing)
    config = small_config(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        record_episode(tmp_path / name / "episode.npz", (64, 64))
    with (
        serving(tmp_path / "a", tmp_path / "a" / "episode.npz") as a,
        serving(tmp_path / "b", tmp_path / "b" / "episode.npz") as b,
    ):
        summary = evaluate(config, a.address, b.address)
        seeds = [[call["seed"] for call in server.calls if "seed" in call] for server in (a, b)]
        assert [call["limit"] for call in a.calls if "limit" in call] == [50, 50]
    path = config.run_dir / "simulator" / f"{DIAMOND}-random.jsonl"
    recipe, *lines = map(json.loads, path.read_text().splitlines())
    assert recipe["recipe"]["simulator"] == "minerl 0.0.fake"
    assert [line["episode"] for line in lines] == [0, 1, 2]
    assert seeds == [[lines[0]["seed"], lines[2]["seed"]], [lines[1]["seed"]]]
    assert len({line["seed"] for line in lines}) == 3
    for line in lines:
        assert line["items"] == {"log": 1, "planks": 4, "crafting_table": 5, "diamond": 8}
        assert (line["steps"], line["reward"], line["end"]) == (8, 1031.0, "terminated")
        assert line["switches"] == [
            "step 2: mine_log done, now craft_planks",
            "step 4: craft_planks done, now craft_crafting_table",
            "step 5: craft_crafting_table done, now place_crafting_table",
            "step 6: place_crafting_table done, now use_iron_pickaxe",
            "step 7: use_iron_pickaxe out of time, now mine_diamond",
        ]
    assert summary["items"]["diamond"]["obtained"] == 3 and summary["items"]["log"]["median_step"] == 1
    assert json.loads(path.with_suffix(".json").read_text())["items"]["coal"]["mean"] == 0
    page = path.with_suffix(".md").read_text()
    assert "| diamond | 100.0% (43.8-100.0) | 3 | 0.0 min |" in page
    assert f"| 2 | {lines[2]['seed']} | terminated | 0.01 | 0.00 | 0.00 | - | 0.00 |" in page
    assert "episode 2, step 6: place_crafting_table done, now use_iron_pickaxe" in logged(config)


class Placing(RandomPolicy):
    """The random policy, except that it always places a crafting table."""

    def act(self) -> np.ndarray:
        actions = super().act()
        actions[:, len(SPACE.keys)] = SPACE.words["place"].index("crafting_table")
        return actions


class Listener(Placing):
    """With a record of what it was told."""

    def __init__(self) -> None:
        super().__init__(SPACE.spec, np.random.default_rng(0))
        self.told: list[Any] = []

    def begin(self, frames: np.ndarray, labels: list[str]) -> None:
        super().begin(frames, labels)
        self.told = [labels]

    def observe(self, actions: np.ndarray, frames: np.ndarray) -> None:
        self.told.append(frames)

    def relabel(self, labels: list[str]) -> None:
        self.told.append(labels)


def test_the_policy_gets_each_frame_before_its_new_task(tmp_path: Path) -> None:
    episode = record_episode(tmp_path / "episode.npz", (64, 64))
    listener, log = Listener(), EpisodeLog(tmp_path / "episodes.jsonl", {})
    logger = LoggerManager(tmp_path / "run", tmp_path / "logs", "test")
    with serving(tmp_path, tmp_path / "episode.npz") as server:
        env = MineRLEnv(server.address, DIAMOND, height=64, width=64, max_steps=50)
        play_diamond([env], [7], lambda first: listener, SCHEDULE, log, logger)
    logger.close()
    labels = [(place, told[0]) for place, told in enumerate(listener.told) if isinstance(told, list)]
    assert labels == [  # after the frames of steps 2, 4, 5, 6 and 7
        (0, "mine log"),
        (3, "craft planks"),
        (6, "craft crafting table"),
        (8, "place crafting table"),
        (10, "use iron pickaxe"),
        (12, "mine diamond"),
    ]
    frames = [told[0] for told in listener.told if not isinstance(told, list)]
    np.testing.assert_array_equal(frames, episode["pov"][1:8])  # none after the end


@pytest.mark.parametrize("fault", ["die", "raise"])
def test_a_lost_episode_is_not_a_failure_and_is_played_again(tmp_path: Path, fault: str) -> None:
    config = small_config(tmp_path)
    record_episode(tmp_path / "episode.npz", (64, 64))
    with serving(tmp_path, tmp_path / "episode.npz", fault=fault, step=5) as server:
        summary = evaluate(config, server.address)
        assert (summary["requested"], summary["played"], summary["lost"]) == (3, 2, 1)
        assert summary["items"]["diamond"]["mean"] == 1.0
        assert "WARNING episode 0 is lost: " in logged(config)
        before = len(server.calls)
        summary = evaluate(config, server.address)
        assert (summary["played"], summary["lost"]) == (3, 0)
        seeds = [call["seed"] for call in server.calls[before:] if "seed" in call]
    path = config.run_dir / "simulator" / f"{DIAMOND}-random.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert [line["episode"] for line in lines] == [0, 1, 2, 0]  # only the lost one
    assert (lines[0]["end"], lines[0]["steps"]) == ("lost", 5)
    assert lines[0]["items"] == {"log": 1, "planks": 4, "crafting_table": 5}
    assert seeds == [lines[0]["seed"]] and lines[3]["end"] == "terminated"


def test_simulators_that_never_work_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_episode(tmp_path / "episode.npz", (64, 64))
    config = small_config(tmp_path)
    log = EpisodeLog(tmp_path / "log.jsonl", {})
    logger = LoggerManager(config.run_dir, Path(config.logs_dir), config.name)
    with serving(tmp_path, tmp_path / "episode.npz") as server:
        env = MineRLEnv(server.address, DIAMOND, height=32, width=32, max_steps=50)
        whole, calls = env.reset_wait, itertools.count()

        def sometimes(every: int) -> Any:
            if next(calls) % every == 0:
                raise env._lost("a test")
            return whole()

        for every, episodes in ((2, 24), (1, 50)):
            monkeypatch.setattr(env, "reset_wait", lambda every=every: sometimes(every))
            arguments = [env], range(episodes), lambda _: Listener(), SCHEDULE, log, logger
            if every == 2:
                play_diamond(*arguments)
                assert sum(episode.end == "lost" for episode in log.episodes.values()) == 12
            else:
                with pytest.raises(UserError, match="the last 10 episodes were all lost"):
                    play_diamond(*arguments)
    logger.close()
    assert len(log.missing(50)) == 38


class Stub:
    """A simulator that is lost in its first episode and then plays one step of nothing."""

    def __init__(self) -> None:
        self.space, self.observation_space, self.lost = SPACE, spaces.Box(0, 255, (32, 32, 3), np.uint8), False

    def reset_async(self, seed: int) -> None:
        self.lost, lost = True, self.lost
        if not lost:
            raise SimulatorLost("the network was down")

    def reset_wait(self) -> Any:
        return np.zeros((32, 32, 3), np.uint8), {"inventory": {}, "gui": None}

    def step_async(self, action: np.ndarray) -> None:
        assert self.lost

    def step_wait(self) -> Any:
        return np.zeros((32, 32, 3), np.uint8), 0.0, True, False, {"inventory": {}, "gui": None}


def test_many_simulators_may_fail_at_once(tmp_path: Path) -> None:
    """More than ten of them, by one fault that passes."""
    log, envs = EpisodeLog(tmp_path / "log.jsonl", {}), [Stub() for _ in range(12)]
    logger = LoggerManager(tmp_path / "run", tmp_path / "logs", "test")
    play_diamond(envs, range(24), lambda _: Listener(), SCHEDULE, log, logger)  # type: ignore[arg-type]
    logger.close()
    assert [log.episodes[n].end for n in range(24)] == ["lost"] * 12 + ["terminated"] * 12


def test_the_evaluation_continues_without_an_unreachable_simulator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Gone(Stub):
        def reset_async(self, seed: int) -> None:
            if self.lost:
                raise SimulatorUnreachable("no simulator at here:1")
            super().reset_async(seed)

    log, envs = EpisodeLog(tmp_path / "log.jsonl", {}), [Stub(), Gone(), Stub()]
    logger = LoggerManager(tmp_path / "run", tmp_path / "logs", "test")
    play_diamond(envs, range(9), lambda _: Listener(), SCHEDULE, log, logger)  # type: ignore[arg-type]
    assert [log.episodes[n].end for n in range(9)] == ["lost"] * 3 + ["terminated"] * 6
    assert "no simulator at here:1; the evaluation continues with 2 simulators" in capsys.readouterr().out
    with pytest.raises(SimulatorUnreachable, match="here:1"):
        play_diamond([envs[1]], range(10), lambda _: Listener(), SCHEDULE, log, logger)  # type: ignore[list-item]
    assert log.missing(10) == [0, 1, 2, 9]  # those that were lost are played again
    logger.close()


@pytest.fixture
def trained(tmp_path: Path) -> Config:
    """Weights as training would leave them, but for the training."""
    config = small_config(tmp_path)
    save_weights(config)
    return config


def save_weights(config: Config) -> None:
    from embody.agent import Agent
    from embody.dynamics import Dynamics
    from embody.model import WorldAndAgent
    from embody.run.provenance import settings_of
    from embody.saving.tensors import save_tensors
    from embody.tokenizer import Tokenizer

    vocabulary = ["<pad>", "<unknown>", "mine", "log", "craft", "planks", "crafting", "table", "diamond"]
    common = {"seed": 0, "vocabulary": vocabulary}
    actions = config.env.actions
    agent = Agent(config.agent, config.dynamics.trunk, actions)
    world = WorldAndAgent(Dynamics(config.dynamics, actions), agent)
    tokenizer = Tokenizer(config.tokenizer, config.env.frame)
    for name, model in (("tokenizer", tokenizer), ("agent", world)):
        save_tensors(config.weights(name), model.state_dict(), settings_of(config, name) | common)


def test_a_trained_agent_plays_and_a_killed_evaluation_resumes(
    trained: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs the command itself and kills it in the second episode."""
    record_episode(tmp_path / "episode.npz", (64, 64), steps=60)
    path = trained.run_dir / "simulator" / f"{DIAMOND}-cloning.jsonl"
    trained.run_dir.mkdir(parents=True, exist_ok=True)
    (trained.run_dir / "config.json").write_text(json.dumps(to_dict(trained)))
    with serving(tmp_path, tmp_path / "episode.npz") as server:
        folders = [
            part for kind in ("runs", "models", "logs", "data") for part in (f"--{kind}-dir", str(tmp_path / kind))
        ]
        arguments = ["evaluate", "--env", f"minerl:{DIAMOND}", "--name", "small", *folders]
        arguments += ["--server", server.address, "--policy", "cloning", "--evaluation.episodes", "2"]
        process = subprocess.Popen([sys.executable, "-m", "embody", *arguments], stdout=subprocess.DEVNULL)
        while process.poll() is None and not (path.exists() and len(path.read_text().splitlines()) == 2):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        first = path.read_text()
        assert len(first.splitlines()) == 2  # what is measured, and the first episode
        main(arguments)
        worlds = [call["seed"] for call in server.calls if "seed" in call]
    assert path.read_text().startswith(first) and len(path.read_text().splitlines()) == 3
    assert worlds in ([worlds[0], worlds[-1]], [worlds[0], worlds[-1], worlds[-1]]) and worlds[0] != worlds[-1]
    summary = json.loads(path.with_suffix(".json").read_text())
    assert (summary["played"], summary["ends"]) == (2, {"terminated": 0, "truncated": 2})  # 50 of the 60 recorded steps
    assert summary["made"]["command"].startswith("embody evaluate --env minerl:")
    assert summary["recipe"]["context"] == trained.imagination.context
    with serving(tmp_path, tmp_path / "episode.npz") as server:
        arguments[arguments.index("--server") + 1] = server.address
        for setting, value, differs in (("collect.seed", "5", "worlds"), ("sampling.k-sample", "1", "k_sample")):
            with pytest.raises(SystemExit):
                main([*arguments, f"--{setting}", value])
            assert f"has episodes of another evaluation ({differs} differs)" in capsys.readouterr().err


@pytest.mark.parametrize("named", ["", "minecraft_small"])
def test_the_random_policy_plays_in_any_action_space(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs the documented command: the presets have VPT's actions, the simulator those of MineRL 0.4.4."""
    monkeypatch.chdir(tmp_path)
    record_episode(tmp_path / "episode.npz", (64, 64))
    with serving(tmp_path, tmp_path / "episode.npz") as server:
        command = f"{named} --env minerl:{DIAMOND} --name NAME --policy random --evaluation.episodes 2"
        main(["evaluate", *command.split(), "--server", server.address, "--precision", "float32"])
        played = [call for call in server.calls if "attack" in str(call)]
    assert len(played) == 2 * 8
    summary = json.loads(Path(f"runs/NAME/simulator/{DIAMOND}-random.json").read_text())
    assert summary["played"] == 2 and summary["items"]["diamond"]["obtained"] == 2
    kept = json.loads(Path("runs/NAME/config.json").read_text())
    assert kept["env"]["actions"]["sizes"] == list(minecraft().env.actions.sizes)  # to be trained on VPT's recordings


def test_a_policy_refuses_another_action_space(trained: Config, tmp_path: Path) -> None:
    record_episode(tmp_path / "episode.npz", (64, 64))
    other = trained.with_actions(minecraft().env.actions)
    save_weights(other)
    with (
        serving(tmp_path, tmp_path / "episode.npz") as server,
        pytest.raises(
            ValueError, match=r"has the action space minerl044 \(14 factors\), but small was trained with another one"
        ),
    ):
        evaluate(other, server.address, policy="cloning")


def test_errors_of_the_command_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record_episode(tmp_path / "episode.npz", (64, 64))
    with serving(tmp_path, tmp_path / "episode.npz") as server:
        one = f"--server {server.address} --policy random --precision float32"
        for command, says in (
            (f"minigrid --env minerl:{DIAMOND} {one}", "minigrid plays minigrid, not Minecraft"),
            (f"--env minerl:MineRLOdd-v0 {one}", "has actions that embody does not know"),
            (f"--env minerl:MineRLObtainDiamondVectorObf-v0 {one}", "(VectorObf: a vector of 64 numbers"),
            (f"--env malmo:{DIAMOND} {one}", "expected minerl:NAME"),
            (f"--env minerl:{DIAMOND} --full {one}", "--full has no meaning in a simulator"),
            (f"--env minerl:{DIAMOND} {one} --server localhost", "expected host:port"),
            (
                f"--env minerl:{DIAMOND} {one} --server a:1 a:1",
                "--server: name at least one server, and each only once",
            ),
            (f"--env minerl:{DIAMOND} --precision float32", "no weights at models/minecraft/tokenizer.safetensors"),
            (f"--env minerl:{DIAMOND} {one} --schedule.tasks fly --schedule.amounts 1 --schedule.max-steps 1", "'fly'"),
        ):
            with pytest.raises(SystemExit):
                main(["evaluate", *command.split()])
            error = capsys.readouterr().err
            assert says in error and error.count("\n") == 1, error
        assert not any("seed" in call for call in server.calls)  # nothing was played


def test_the_commands_of_the_documentation_can_be_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / "simulator.md").read_text().replace("\\\n", "")
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"(?m)^embody (.*)$", text)
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command, comments=True)
        assert base_config(words).preset == "minecraft" and callable(parse(words))
