"""Recordings of many tasks, plain videos among labelled ones, and how often each is drawn."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embody.agent import AgentLoss
from embody.config import ActionSpec, DataConfig, EnvConfig, ImaginationConfig, StageConfig
from embody.data import (
    EVERY_TASK,
    Dataset,
    DatasetWriter,
    Episode,
    Meta,
    open_dataset,
    open_datasets,
    steps_per_epoch,
)
from embody.data.goal import AllAchievements, GameReward, OneTask
from embody.data.sampling.batch import Batch
from embody.dynamics import ShortcutLoss
from embody.errors import UserError
from embody.games.minecraft.presets import minecraft
from embody.games.minigrid.presets import minigrid
from embody.model import WorldAndAgent
from embody.nn.noise import GeneratorNoise
from embody.training.agent import AgentStage
from embody.training.imagination import ImaginationStage
from embody.training.rewards import check_ranges, reward_statistics
from tests.test_loader import STAGE, VOCABULARY, clips_of, make, take
from tests.tiny_models import (
    AGENT,
    BEHAVIOUR,
    CONFIG,
    FLOW,
    make_agent,
    make_batch,
    make_dataset,
    make_dynamics,
    seeded,
)

LABELS = ("open", "open the door", "door")


def test_batches_of_plain_datasets_are_what_they_always_were(tmp_path: Path) -> None:
    """Compared with values that were recorded before events, plain videos and weights existed."""
    datasets = [make(tmp_path, "a", [5, 14, 3, 9]), make(tmp_path, "b", [20, 2])]
    names = ("actions", "rewards", "returns", "is_first", "is_terminal", "mask", "task", "frames")

    def digest(loaded: list[Batch]) -> str:
        content = hashlib.sha256()
        for batch in loaded:
            for name in names:
                content.update(getattr(batch, name).numpy().tobytes())
        return content.hexdigest()[:16]

    assert digest(take(9, datasets, uniform_share=0.3)) == "f0f4c6a433d8e6a5"
    assert digest(take(5, datasets, contexts=True, after=2)) == "1b6d655238ded7d5"
    assert [dataset.fingerprint for dataset in datasets] == ["a892a2551dc5eb8a", "9dfc82afcd6e9746"]
    meta = (tmp_path / "a" / "meta.json").read_bytes()
    assert hashlib.sha256(meta).hexdigest()[:16] == "6ba961b3156809c0"  # version 1


def timesteps_shown(seed: int, steps: int, events: np.ndarray | None, **fields: Any) -> Episode:
    """Timestep t shows the number t, in channel 1 the seed."""
    frames = np.zeros((steps, 8, 6, 3), np.uint8)
    frames[..., 0], frames[..., 1] = np.arange(steps)[:, None, None], seed
    values = {
        "actions": np.arange(steps)[:, None] % 7,
        "rewards": np.zeros(steps, np.float32),
        "is_terminal": np.zeros(steps, bool),
        "task": "c" if events is None else EVERY_TASK,
        "label": "",
        "source": "human",
        "noise": 0.0,
        "seed": seed,
        "success": False,
        "events": events,
        "is_null": np.arange(steps) % 3 == 2,
    }
    return Episode(frames, **{**values, **fields})


def at(steps: int, *places: tuple[int, int]) -> np.ndarray:
    events = np.zeros((steps, 3), bool)
    for timestep, task in places:
        events[timestep, task] = True
    return events


def write(root: Path, *episodes: Episode, tasks: tuple[str, ...] = ("x", "y", "z"), actions: int = 7) -> Dataset:
    labels = LABELS if len(tasks) == 3 else ()
    writer = DatasetWriter(root, Meta(tasks, ActionSpec((actions,)), 8, 6, 5, VOCABULARY, labels))
    writer.write_shard("train", 0, episodes)
    writer.finish()
    return open_dataset(root)


def plain(root: Path, *lengths: int, actions: int = 7) -> Dataset:
    """Unlabelled episodes, whose frames show 200 in channel 1."""
    episodes = [
        timesteps_shown(200, n, None, labelled=False, success=True, actions=np.zeros((n, 1), np.int64), is_null=None)
        for n in lengths
    ]
    return write(root, *episodes, tasks=("c",), actions=actions)


def rows(loaded: Iterator[Batch] | list[Batch]) -> Iterator[dict[str, torch.Tensor]]:
    for batch in loaded:
        for row in range(batch.rows):
            fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(Batch)}
            yield {name: field[row] for name, field in fields.items() if field is not None}


# --- events -----------------------------------------------------------------------------------------------------------


def test_a_recording_is_relabelled_for_the_task_that_is_drawn(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", timesteps_shown(1, 10, at(10, (2, 0), (5, 0), (5, 2), (9, 0))))
    by_hand = {  # rewards, and returns at gamma 1/2
        2: ([0, 0, 1, 0, 0, 1, 0, 0, 0, 1], None),
        4: ([0, 0, 0, 0, 0, 1, 0, 0, 0, 0], [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 0, 0, 0, 0, 0]),
    }
    returns = [0.0]
    for reward in by_hand[2][0][:0:-1]:
        returns.insert(0, reward + 0.5 * returns[0])
    by_hand[2] = (by_hand[2][0], returns)
    seen = []
    for row in rows(take(10, [dataset], stage=StageConfig(batch=8, length=10), left_pad=0)):
        first = int(row["task"][0])  # "open" is 2, "door" 4; "y", "open the door", never occurs
        assert row["task"].tolist() == [first, 0, 0, 0]
        assert row["rewards"].tolist() == by_hand[first][0]
        np.testing.assert_allclose(row["returns"], by_hand[first][1])
        assert not row["is_terminal"].any()  # an achieved task ends nothing
        assert row["is_null"].tolist() == [t % 3 == 2 for t in range(10)]
        seen.append(first)
    assert 25 < seen.count(2) < 55 and len(seen) == 80  # half of 80, three standard deviations


def test_recordings_in_which_nothing_is_achieved_are_drawn_too(tmp_path: Path) -> None:
    """Plain videos train the world model; they have no task."""
    nothing = write(tmp_path / "nothing", timesteps_shown(1, 10, at(10)))
    alone = list(rows(take(2, [nothing], left_pad=0)))
    assert all(row["frames"][0, 1, 0, 0] == 1 and row["labelled"] for row in alone)
    assert not any(row["task"].any() or row["rewards"].any() for row in alone)
    some = write(tmp_path / "some", timesteps_shown(2, 10, at(10, (5, 0))))
    drawn = [int(row["frames"][0, 1, 0, 0]) for row in rows(take(10, [nothing, some], left_pad=0))]
    assert set(drawn) == {1, 2}
    achieving = rows(take(10, [nothing, some], left_pad=0, uniform_share=0.0))
    assert {int(row["frames"][0, 1, 0, 0]) for row in achieving} == {2}


def test_asked_for_everything_the_first_of_each_kind_pays(tmp_path: Path) -> None:
    """Compared by hand: achievements of this episode count, those of an earlier one do not."""
    dataset = write(
        tmp_path / "set",
        timesteps_shown(1, 10, at(10, (2, 0), (5, 0), (5, 2), (7, 2), (9, 0))),
        timesteps_shown(2, 10, at(10, (3, 2), (3, 0), (8, 2))),
    )
    returns = {1: [5 / 8 + 1 / 16 - 1 / 8, 9 / 8, 1 / 4, 1 / 2, 1], 2: [1 / 4, 1 / 2, 1, 0, 0]}  # gamma 1/2
    paid = {1: [2, 5], 2: [3]}
    drawn = set()
    for row in rows(take(10, [dataset], stage=StageConfig(batch=8, length=10), left_pad=0, goal="all")):
        seed = int(row["frames"][0, 1, 0, 0])
        gone = {1: [(2, 0), (5, 2)], 2: [(3, 0), (3, 2)]}[seed]  # when, and which: the second of three never comes
        assert row["task"].tolist() == [
            [all(k != task or t < at for at, k in gone) for task in range(3)] for t in range(10)
        ]
        assert row["rewards"].nonzero()[:, 0].tolist() == paid[seed] and row["rewards"].max() == 1
        np.testing.assert_allclose(row["returns"][:5], returns[seed])
        assert (
            row["events"].nonzero().tolist()
            == {
                1: [[2, 0], [5, 0], [5, 2], [7, 2], [9, 0]],
                2: [[3, 0], [3, 2], [8, 2]],
            }[seed]
        )
        drawn.add(seed)
    assert drawn == {1, 2}
    # Of short clips too, where they begin: what is repeated before an episode or behind it achieved nothing.
    at_timesteps = {1: {(2, 0), (5, 0), (5, 2), (7, 2), (9, 0)}, 2: {(3, 0), (3, 2), (8, 2)}}
    for row in rows(take(10, [dataset], stage=StageConfig(batch=8, length=4), left_pad=2, goal="all")):
        seed, timesteps = int(row["frames"][0, 1, 0, 0]), row["frames"][:, 0, 0, 0].tolist()
        found = {(timesteps[t], task) for t, task in row["events"].nonzero().tolist()}
        assert found == {(timestep, task) for timestep, task in at_timesteps[seed] if timestep in timesteps}
        for t, now in enumerate(timesteps):
            had = {task for timestep, task in at_timesteps[seed] if timestep <= now}
            assert set(row["task"][t].nonzero()[:, 0].tolist()) == {0, 1, 2} - had
    own = write(tmp_path / "own", timesteps_shown(3, 10, at(10, (4, 1)), rewards=np.arange(10, dtype=np.float32) / 10))
    for row in rows(take(2, [own], stage=StageConfig(batch=8, length=10), left_pad=0, goal="recorded")):
        np.testing.assert_allclose(row["rewards"], np.arange(10) / 10, rtol=1e-6)  # the recording's own, nothing else
        assert row["returns"][7] == pytest.approx(0.8 + 0.9 / 2) and row["task"].sum() == 20 + 4
    found = reward_statistics([own], GameReward(), 0.5)
    assert found is not None and found.rewards == pytest.approx((0.0, 0.9)) and found.mean == pytest.approx(0.45)
    few = dataclasses.replace(CONFIG, agent=dataclasses.replace(AGENT, goal="all", tasks=2, value_range=(0.0, 9.0)))
    with pytest.raises(ValueError, match="agent.tasks is 2, but dataset .*set has 3 tasks: set"):
        AgentStage(few, [dataset], "", make_dynamics())
    # Around which events clips are drawn does not change: those of later ones, which pay nothing, are cloned too.
    settings = {"stage": StageConfig(batch=8, length=2), "uniform_share": 0.0, "left_pad": 0}
    one, every = (take(10, [dataset], goal=goal, **settings) for goal in ("one", "all"))
    for a, b in zip(one, every, strict=True):
        assert torch.equal(a.frames, b.frames) and torch.equal(a.actions, b.actions)
    assert reward_statistics([dataset], AllAchievements(), 0.5) == reward_statistics(
        [write(tmp_path / "two", *(_paying(seed, paid[seed]) for seed in (1, 2)), tasks=("c",))], OneTask(), 0.5
    )


def _paying(seed: int, timesteps: list[int]) -> Episode:
    rewards = np.zeros(10, np.float32)
    rewards[timesteps] = 1
    return timesteps_shown(seed, 10, None, rewards=rewards)


def test_returns_of_events_are_those_of_their_rewards(tmp_path: Path) -> None:
    """The same recording, once by events and once by plain rewards, in clips with padding on both sides."""
    random = np.random.default_rng(0)
    events = at(40, *((int(t), 0) for t in random.permutation(np.arange(1, 40))[:9]))
    one = write(tmp_path / "one", timesteps_shown(1, 40, events))
    rewards = events[:, 0].astype(np.float32)
    other = write(tmp_path / "two", timesteps_shown(1, 40, None, rewards=rewards, label="open"), tasks=("c",))
    settings = {"stage": StageConfig(batch=8, length=30), "left_pad": 20, "gamma": 0.9}
    for a, b in zip(take(5, [one], **settings), take(5, [other], **settings), strict=True):
        for name in ("rewards", "task", "frames", "mask", "is_null"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name
        torch.testing.assert_close(a.returns, b.returns)


def test_returns_may_stop_at_the_next_event(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", timesteps_shown(1, 6, at(6, (2, 0), (4, 0))))
    for batch in take(9, [dataset], stage=StageConfig(batch=2, length=6), left_pad=0, gamma=0.5, once=True):
        torch.testing.assert_close(batch.returns, torch.tensor([[0.5, 1, 0.5, 1, 0, 0]]).expand(2, 6))
    found, every = (reward_statistics([dataset], OneTask(), 0.5, once) for once in (True, False))
    assert found is not None and every is not None
    assert found.returns == (0, 1) and every.returns == (0, 1.25)


def test_relevant_clips_hold_an_event_of_their_task_anywhere(tmp_path: Path) -> None:
    places = {2: [(1, 3), (1, 30), (2, 11)], 3: [(2, 0)], 4: [(2, 19)]}
    first, second = at(60, (3, 0), (30, 0)), at(20, (11, 0), (19, 2))
    dataset = write(tmp_path / "set", timesteps_shown(1, 60, first), timesteps_shown(2, 20, second))
    stage, found, offsets = StageConfig(batch=10, length=6), [], []
    for batch in take(300, [dataset], stage=stage, left_pad=3, uniform_share=0.1):
        assert batch.frames is not None
        for row in range(1, 10):
            task, seed = int(batch.task[row, 0]), int(batch.frames[row, 0, 1, 0, 0])
            hit = (batch.rewards[row] > 0) & batch.mask[row]
            assert hit.any()
            timesteps = batch.frames[row, hit, 0, 0, 0].tolist()
            assert len(timesteps) == 1 and (seed, timesteps[0]) in places[task]
            found.append((task, seed, timesteps[0]))
            if timesteps[0] == 30:
                offsets.append(int(hit.int().argmax()))
    counts = {key: found.count(key) for key in set(found)}
    n = len(found)  # tasks alike, and a task's events alike
    for key, expected in (((2, 1, 3), n / 6), ((2, 1, 30), n / 6), ((2, 2, 11), n / 6), ((4, 2, 19), n / 2)):
        assert counts.pop(key) == pytest.approx(expected, abs=4 * (n * 0.25) ** 0.5)
    assert not counts
    spread = np.bincount(offsets, minlength=6)
    assert ((spread - spread.mean()) ** 2 / spread.mean()).sum() < 20.5  # 5 degrees of freedom, once in a thousand


def test_ranges_hold_what_events_pay(tmp_path: Path) -> None:
    """Recordings with events count with their events (0 or 1), not their rewards; plain videos do not count."""
    raw = np.zeros(20, np.float32)
    raw[5] = 1024
    recorded = write(tmp_path / "m", timesteps_shown(1, 20, at(20, (5, 0), (6, 0), (9, 0), (3, 2)), rewards=raw))
    videos = plain(tmp_path / "p", 30)
    found = reward_statistics([recorded, videos], OneTask(), 0.9)
    assert found is not None and found.rewards == (0, 1)
    loaded = [batch for batch in take(40, [recorded], gamma=0.9)]  # what the loader makes of it, all over
    assert found.returns == (0, pytest.approx(1 + 0.9 + 0.9**4))  # before the first of timesteps 5, 6, 9
    assert max(float(batch.returns.max()) for batch in loaded) == pytest.approx(found.returns[1])
    once = np.concatenate([np.zeros(36), np.ones(4)])  # 20 timesteps for each of the two tasks that occur
    assert (found.mean, found.std) == pytest.approx((once.mean(), once.std(ddof=1)))
    beside = make(tmp_path, "a", [5])
    both = reward_statistics([recorded, beside], OneTask(), 0.9)
    every = np.concatenate([once, beside.rewards])
    assert both is not None and (both.mean, both.std) == pytest.approx((every.mean(), every.std(ddof=1)))
    assert reward_statistics([videos], OneTask(), 0.9) is None
    with pytest.raises(ValueError, match="agent.value_range 0 to 1 does not hold the data's returns .* to 2.5561: set"):
        check_ranges(dataclasses.replace(minigrid(), imagination=ImaginationConfig(gamma=0.9)), found)
    check_ranges(minecraft(), found)


def test_relevant_clips_may_begin_before_they_hold_their_event(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", timesteps_shown(1, 40, at(40, (30, 0))))
    stage, first = StageConfig(batch=10, length=4), []
    for batch in take(100, [dataset], stage=stage, left_pad=0, uniform_share=0.1, event_lead=6):
        assert batch.frames is not None
        for row in range(1, 10):
            first.append(int(batch.frames[row, 0, 0, 0, 0]))
            assert bool(batch.rewards[row].any()) == (first[-1] > 26)
            assert batch.returns[row, 0] > 0 or first[-1] == 30
    starts = np.bincount(first, minlength=31)[21:31]  # uniform over 30 - (4 + 6) + 1 .. 30
    assert starts.sum() == 900 and ((starts - 90) ** 2 / 90).sum() < 27.9  # 9 degrees of freedom, once in a thousand


def test_some_clips_hold_a_miss(tmp_path: Path) -> None:
    """A miss has the most frequent action at the task's events, here 3 and 2, but no event."""
    events = at(40, (3, 0), (10, 0), (11, 0), (9, 2), (17, 2))
    dataset = write(tmp_path / "set", timesteps_shown(1, 40, events))
    taken, misses = {2: 3, 4: 2}, {2: [17, 24, 31, 38], 4: [2, 16, 23, 30, 37]}  # of timestep t the action is t % 7
    assert taken[4] == 9 % 7 and 17 % 7 == 3  # of two actions alike the first
    seen: dict[int, set[int]] = {2: set(), 4: set()}
    for batch in take(
        100, [dataset], stage=StageConfig(batch=10, length=3), left_pad=0, uniform_share=0.1, miss_share=0.4
    ):
        assert batch.frames is not None
        for row in range(1, 5):
            task, timesteps = int(batch.task[row, 0]), batch.frames[row, :, 0, 0, 0].tolist()
            held = set(timesteps) & set(misses[task])
            assert held and not batch.rewards[row, [timesteps.index(timestep) for timestep in held]].any()
            assert {int(batch.actions[row, timesteps.index(timestep), 0]) for timestep in held} == {taken[task]}
            seen[task] |= held
        for row in range(5, 10):
            assert batch.rewards[row].any()
    assert seen == {task: set(timesteps) for task, timesteps in misses.items()}


def test_misses_are_held_whatever_the_lead_of_clips(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", timesteps_shown(1, 40, at(40, (3, 0), (10, 0))))
    stage = StageConfig(batch=10, length=3)
    for batch in take(20, [dataset], stage=stage, left_pad=0, uniform_share=0.1, miss_share=0.4, event_lead=20):
        assert batch.frames is not None
        for row in range(1, 5):
            assert set(batch.frames[row, :, 0, 0, 0].tolist()) & {17, 24, 31, 38}


def test_misses_need_events(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="agent_objective.miss_share is above 0, but no recording with events has a miss: set it to 0"
    ):
        take(1, [make(tmp_path, "a", [5, 14])], uniform_share=0.5, miss_share=0.25)


def test_contexts_may_end_before_an_event(tmp_path: Path) -> None:
    """Contexts end 1 to `event_lead` timesteps before an event of their task, and not before the episode."""
    dataset = write(tmp_path / "set", timesteps_shown(1, 40, at(40, (3, 0), (30, 0))))
    stage, last = StageConfig(batch=10, length=4), []
    for batch in take(100, [dataset], stage=stage, left_pad=3, uniform_share=0.1, event_lead=6, contexts=True):
        assert batch.frames is not None and batch.mask[:, -1].all()
        last += batch.frames[1:, -1, 0, 0, 0].tolist()
    counts = np.bincount(last, minlength=30)
    late = counts[24:30]  # 30 - 6 .. 30 - 1, of half of the rows; the others 0 .. 2, 0 where it would be -1 to -3
    assert counts.sum() == 900 == late.sum() + counts[:3].sum()
    assert late.sum() == pytest.approx(450, abs=60) and ((late - late.mean()) ** 2 / late.mean()).sum() < 20.5
    assert counts[0] == pytest.approx(300, abs=60)


def test_contexts_may_be_of_the_first_timesteps_alone(tmp_path: Path) -> None:
    """With 12 of 40 timesteps the episode counts as if it ended there: later events do not make it relevant."""
    late = timesteps_shown(2, 40, at(40, (20, 0)))
    dataset = write(tmp_path / "set", timesteps_shown(1, 40, at(40, (8, 0), (30, 0))), late)
    stage = StageConfig(batch=10, length=4)
    settings = {"stage": stage, "left_pad": 3, "uniform_share": 0.5, "event_lead": 3, "contexts": True}
    ends: dict[str, set[tuple[int, int]]] = {"any": set(), "before an event": set()}
    for batch in take(100, [dataset], first_timesteps=12, goal="all", **settings):
        assert batch.frames is not None
        where = [(int(seed), int(timestep)) for timestep, seed in batch.frames[:, -1, :2, 0, 0].tolist()]
        ends["any"] |= set(where[:5])
        ends["before an event"] |= set(where[5:])
        assert batch.task[:, -1, 0].tolist() == [not (seed == 1 and timestep >= 8) for seed, timestep in where]
    assert ends["any"] == {(seed, timestep) for seed in (1, 2) for timestep in range(11)}
    assert ends["before an event"] == {(1, timestep) for timestep in (5, 6, 7)}


def test_success_and_events_are_drawn_side_by_side(tmp_path: Path) -> None:
    with_events = write(tmp_path / "set", timesteps_shown(1, 20, at(20, (7, 0))))
    # Odd episodes of a succeed; plain videos never do.
    datasets = [make(tmp_path, "a", [5, 14, 3, 9]), with_events, plain(tmp_path / "c", 30)]
    kinds = []
    for batch in take(60, datasets, stage=StageConfig(batch=8, length=4), left_pad=0, uniform_share=0.1):
        assert batch.frames is not None
        for row in range(1, 8):
            assert batch.labelled[row]
            recording = bool(batch.frames[row, 0, 1, 3, 0] == 1 and batch.frames[row, 0, 2, 3, 0] == 0)
            kinds.append(recording and batch.task[row].tolist() == [2, 0, 0, 0])
    assert np.mean(kinds) == pytest.approx(0.5, abs=0.1)


# --- plain videos -----------------------------------------------------------------------------------------------------


def test_rows_of_plain_videos_say_so(tmp_path: Path) -> None:
    datasets = [make(tmp_path, "a", [5, 14, 3, 9]), plain(tmp_path / "c", 30, 12, actions=3)]
    seen = set()
    for row in rows(take(10, datasets)):
        labelled = bool(row["labelled"])
        assert labelled == (row["frames"][0, 1, 0, 0] != 200)
        assert row["actions"].shape[-1] == 1
        if not labelled:
            assert not row["actions"].any() and not row["rewards"].any() and not row["task"].any()
        seen.add(labelled)
    assert seen == {True, False}
    assert all(bool(row["labelled"]) for row in rows(take(10, datasets, labelled_only=True)))
    assert steps_per_epoch(datasets, clips_of(STAGE)) == 73 // 24
    assert steps_per_epoch(datasets, clips_of(STAGE, labelled_only=True)) == 31 // 24
    same = take(5, datasets[:1]), take(5, datasets, labelled_only=True)
    assert all(torch.equal(a.returns, b.returns) for a, b in zip(*same, strict=True))  # as if they were not there
    with pytest.raises(ValueError, match="have different actions"):
        take(1, [datasets[0], write(tmp_path / "d", timesteps_shown(1, 9, None), tasks=("c",), actions=9)])


def test_agents_train_as_long_as_labelled_recordings_are(tmp_path: Path) -> None:
    own = make_dataset(tmp_path / "own", [40])
    both = [own, plain(tmp_path / "videos", 160, 12, actions=2)]
    model = WorldAndAgent(make_dynamics(), make_agent())
    for steps in (
        [AgentStage(CONFIG, data, "", make_dynamics()).steps for data in ([own], both)],
        [ImaginationStage(CONFIG, data, "", model).steps for data in ([own], both)],
    ):
        assert steps[0] == steps[1]


def test_plain_videos_give_the_action_embedding_no_gradient() -> None:
    dynamics, batch = make_dynamics(), make_batch(8, 6)
    torch.nn.init.normal_(dynamics.latent_out.weight)

    def gradient(batch: Batch) -> torch.Tensor:
        dynamics.zero_grad()
        loss, _ = ShortcutLoss(FLOW)(dynamics, batch, GeneratorNoise(seeded(3)), bootstrap=True)
        loss.backward()
        assert dynamics.action.always_D.grad is not None and dynamics.action.always_D.grad.any()
        assert dynamics.action.table.weight.grad is not None
        return dynamics.action.table.weight.grad.clone()

    assert gradient(batch).any()
    none = dataclasses.replace(batch, labelled=torch.zeros(8, dtype=torch.bool))
    assert (gradient(none) == 0).all()
    # The last rows are videos: whatever stands where their actions would be changes nothing.
    some = dataclasses.replace(batch, labelled=torch.arange(8) < 5)
    other = torch.where((torch.arange(8) < 5)[:, None, None], batch.actions, 0)
    assert torch.equal(gradient(some), gradient(dataclasses.replace(some, actions=other)))
    assert not torch.equal(gradient(some), gradient(batch))


def test_the_agent_learns_nothing_from_plain_videos_and_null_actions_if_so_asked() -> None:
    agent, batch = make_agent(), make_batch(4, 6)
    torch.nn.init.normal_(agent.heads.policy[-1].weight)
    features = torch.randn(4, 6, agent.heads.policy[0].in_features, generator=seeded(1))

    def terms(batch: Batch, **settings: Any) -> dict[str, float]:
        loss = AgentLoss(dataclasses.replace(BEHAVIOUR, **settings))
        return {name: float(value) for name, value in loss(agent.heads, features, batch)[1].items()}

    labelled = torch.tensor([True, False, True, False])
    mixed = dataclasses.replace(batch, labelled=labelled)
    wild = [torch.where(labelled[:, None], field, 9.0) for field in (batch.rewards, batch.returns)]
    nonsense = dataclasses.replace(mixed, rewards=wild[0], returns=wild[1], is_terminal=~labelled[:, None] & mixed.mask)
    assert terms(mixed) == terms(nonsense)
    assert terms(mixed) != terms(batch)
    is_null = torch.zeros(4, 6, dtype=torch.bool)
    is_null[:, 3] = True
    null = dataclasses.replace(batch, is_null=is_null)
    assert terms(null) == terms(batch)
    changed = batch.actions.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 2
    skipped = terms(null, clone_null=False)
    assert skipped == terms(dataclasses.replace(null, actions=changed), clone_null=False)
    assert skipped["policy"] != terms(batch)["policy"] and skipped["reward"] == terms(batch)["reward"]
    assert minigrid().agent_objective.clone_null and not minecraft().agent_objective.clone_null


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labelled_only", [False, True])
def test_rows_are_shared_out_by_weight(tmp_path: Path, labelled_only: bool) -> None:
    events = write(tmp_path / "e", timesteps_shown(100, 30, at(30, (4, 0), (9, 1))))
    datasets = [make(tmp_path, "a", [40]), plain(tmp_path / "c", 30, 300), events]
    weights = (1.0, 5.0, 2.0)
    loaded = take(
        150, datasets, weights=weights, labelled_only=labelled_only, stage=StageConfig(batch=8, length=2), left_pad=0
    )
    shown = torch.cat([batch.frames[:, 0, 1, 0, 0] for batch in loaded if batch.frames is not None])
    counts = np.array([int((shown < 100).sum()), int((shown == 200).sum()), int((shown == 100).sum())])
    shares = np.array([1, 0 if labelled_only else 5, 2])
    expected = counts.sum() * shares / shares.sum()
    drawn = expected > 0
    assert (counts[~drawn] == 0).all()
    chi = ((counts - expected)[drawn] ** 2 / expected[drawn]).sum()
    assert chi < 13.8  # 2 degrees of freedom, once in a thousand
    settings = {"weights": weights, "labelled_only": labelled_only}
    whole = take(6, datasets, **settings)
    for resumed in (take(4, datasets, start=2, **settings), take(4, datasets, start=2, workers=2, **settings)):
        for one, other in zip(whole[2:], resumed, strict=True):
            assert one.frames is not None and other.frames is not None and torch.equal(one.frames, other.frames)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    dataset = make(tmp_path, "a", [9])
    with pytest.raises(AssertionError, match="one for each of 1 datasets"):
        take(1, [dataset], weights=(1.0, 2.0))
    with pytest.raises(UserError, match="one number for each of 2 sources, got 1"):
        dataclasses.replace(minigrid(), data=DataConfig(("a", "b"), (1.0,)))
    with pytest.raises(ValueError, match="weights must be above 0"):
        dataclasses.replace(minigrid(), data=DataConfig(("a", "b"), (1.0, 0.0)))


def test_sources_of_a_config(tmp_path: Path) -> None:
    make(tmp_path, "a", [9])
    plain(tmp_path / "elsewhere" / "c", 30, actions=3)
    config = minigrid()
    config = dataclasses.replace(
        config,
        data_dir=str(tmp_path),
        env=EnvConfig(tasks=("other",), max_steps=(9,), height=8, width=6),
        tokenizer=dataclasses.replace(config.tokenizer, patch=2),
        data=DataConfig(("a", str(tmp_path / "elsewhere" / "c")), (3.0, 1.0)),
    )
    assert [dataset.root.name for dataset in open_datasets(config)] == ["a", "c"]
