"""From disk to batches: the time convention at each timestep, and the same order for all ways of loading."""

import dataclasses
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embody.config import ActionSpec, AgentObjective, EnvConfig, StageConfig
from embody.data import (
    BatchShapes,
    ClipSpec,
    Dataset,
    DatasetWriter,
    Episode,
    EpisodeSelection,
    LatentWriter,
    Meta,
    Mix,
    Placement,
    Relabelling,
    batches,
    open_dataset,
    open_datasets,
    steps_per_epoch,
)
from embody.data.sampling.batch import Batch
from embody.data.sampling.loader import _in_thread
from embody.errors import UserError
from embody.games.minigrid.presets import minigrid

STAGE = StageConfig(batch=6, length=4, long_length=12, long_every=3)
VOCABULARY = ("<pad>", "<unknown>", "open", "the", "door")


def hand_made(task: str, seed: int, steps: int) -> Episode:
    """Timestep t shows the number `10 * seed + t`, was reached by action t % 7, and brought reward t."""
    timesteps = np.arange(steps)
    frames = np.broadcast_to((10 * seed + timesteps)[:, None, None, None], (steps, 8, 6, 3)).astype(np.uint8)
    frames[..., 1] += 1  # channels and axes must not be mixed up
    frames[:, 2, :, :] = 200
    terminal = timesteps == steps - 1
    source, success = ("expert", True) if seed % 2 else ("random", False)
    return Episode(
        frames,
        timesteps[:, None] % 7,
        timesteps.astype(np.float32),
        terminal,
        task,
        "open the door",
        source,
        0,
        seed,
        success,
    )


def make(root: Path, task: str, lengths: list[int], encoded: bool = False) -> Dataset:
    writer = DatasetWriter(root / task, Meta((task,), ActionSpec((7,)), 8, 6, 5, VOCABULARY))
    episodes = [hand_made(task, seed, steps) for seed, steps in enumerate(lengths)]
    writer.write_shard("train", 0, episodes[: len(episodes) // 2 + 1])
    if episodes[len(episodes) // 2 + 1 :]:
        writer.write_shard("train", 1, episodes[len(episodes) // 2 + 1 :])
    writer.finish()
    dataset = open_dataset(root / task)
    if encoded:
        encoder = LatentWriter(dataset, "abc", 2, 3)
        for shard in encoder.pending():
            steps = np.arange(shard.start, shard.stop)
            with encoder.filling(shard) as latents:
                latents[:] = steps[:, None, None] / 64
    return dataset


@pytest.fixture
def datasets(tmp_path: Path) -> list[Dataset]:
    return [make(tmp_path, "a", [5, 14, 3, 9], encoded=True), make(tmp_path, "b", [20, 2], encoded=True)]


def take(number: int, datasets: list[Dataset], **settings: Any) -> list[Batch]:
    """Batches from the fields of the parts of a `ClipSpec`, and from `seed`, `start` and `workers`."""
    settings = {"seed": 7, "left_pad": 3, "gamma": 0.5, "words": 4} | settings
    loading = {name: settings.pop(name) for name in ("seed", "start", "workers") if name in settings}
    clips = clips_of(settings.pop("stage", STAGE), settings.pop("tokenizer_hash", None), **settings)
    return list(itertools.islice(batches(datasets, clips, **loading), number))


def clips_of(stage: StageConfig, tokenizer_hash: str | None = None, **settings: Any) -> ClipSpec:
    """The spec with each of `settings` in the part that has a field of that name."""
    kinds = (EpisodeSelection, Placement, Mix, Relabelling)
    fields = [{field.name for field in dataclasses.fields(kind)} for kind in kinds]
    assert set(settings) <= set().union(*fields)
    chosen = [{name: value for name, value in settings.items() if name in names} for names in fields]
    return ClipSpec(
        EpisodeSelection("train", **chosen[0]),
        BatchShapes.of(stage),
        tokenizer_hash,
        Placement(**chosen[1]),
        Mix(**chosen[2]),
        Relabelling(**chosen[3]),
    )


def assert_equal(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b)
    for one, two in zip(a, b, strict=True):
        for field in dataclasses.fields(Batch):
            x, y = getattr(one, field.name), getattr(two, field.name)
            assert (x is None) == (y is None)
            assert x is None or (x.dtype == y.dtype and torch.equal(x, y)), field.name


def test_every_timestep_of_a_hand_made_episode(tmp_path: Path) -> None:
    """One episode of 6 timesteps in clips of 10 that begin 3 timesteps early: padding on the left and on the right."""
    dataset = make(tmp_path, "a", [6])
    stage = StageConfig(batch=64, length=10)
    batch = take(1, [dataset], stage=stage, left_pad=3)[0]
    assert batch.frames is not None and batch.frames.shape == (64, 10, 3, 8, 6) and batch.frames.dtype == torch.uint8
    assert batch.actions.dtype == torch.int64 and batch.rewards.dtype == torch.float32
    left = (batch.mask.int().argmax(1) == 3).nonzero()[0, 0]  # a row with three copies in front

    def row(field: torch.Tensor) -> list[float]:
        return field[left].flatten().tolist()

    assert row(batch.frames[:, :, 0, 0, 0]) == [0, 0, 0, 0, 1, 2, 3, 4, 5, 5]
    assert row(batch.frames[:, :, 1, 0, 0]) == [1, 1, 1, 1, 2, 3, 4, 5, 6, 6]
    assert (batch.frames[left, :, :, 2] == 200).all() and (batch.frames[left, :, :, 3:] < 200).all()
    assert row(batch.actions) == [0, 0, 0, 0, 1, 2, 3, 4, 5, 0]
    assert row(batch.rewards) == [0, 0, 0, 0, 1, 2, 3, 4, 5, 0]
    assert row(batch.is_first) == [True] * 4 + [False] * 6
    assert row(batch.is_terminal) == [False] * 8 + [True, False]
    assert row(batch.mask) == [False] * 3 + [True] * 6 + [False]
    by_hand = [5.0]
    for reward in (4, 3, 2, 1):
        by_hand.insert(0, reward + 0.5 * by_hand[0])  # returns at timesteps 0..4; timestep 5 is the last
    assert row(batch.returns)[3:9] == [*by_hand, 0]
    assert batch.task[left].tolist() == [2, 3, 4, 0]


def test_returns_reach_past_the_clip(datasets: list[Dataset]) -> None:
    batch = take(1, datasets[1:], left_pad=0, gamma=1.0)[0]
    assert batch.frames is not None
    row = int((batch.frames[:, -1, 0, 0, 0] < 19).int().argmax())  # a clip that ends before its episode of 20
    timestep = int(batch.frames[row, -1, 0, 0, 0])
    assert timestep < 19
    assert batch.returns[row, -1] == sum(range(timestep + 1, 20))


def test_latents_stand_where_their_frames_do(datasets: list[Dataset]) -> None:
    pixels, codes = take(6, datasets), take(6, datasets, tokenizer_hash="abc")
    starts = [dataset.offsets[:-1] for dataset in datasets]
    for seen, coded in zip(pixels, codes, strict=True):
        assert coded.frames is None and coded.latents is not None and seen.frames is not None
        assert coded.latents.dtype == torch.float16 and coded.latents.shape[2:] == (2, 3)
        assert torch.equal(seen.actions, coded.actions) and torch.equal(seen.mask, coded.mask)
        step = coded.latents[:, :, 0, 0] * 64  # row of the dataset's flat arrays
        value = seen.frames[:, :, 0, 0, 0].long()  # 10 * episode + timestep
        for row in range(len(step)):
            found = [
                any(step[row, t] == at + value[row, t] - 10 * i for at_ in starts for i, at in enumerate(at_))
                for t in range(step.shape[1])
            ]
            assert all(found)


def test_the_order_is_the_same_however_it_is_loaded(datasets: list[Dataset]) -> None:
    whole = take(9, datasets)
    assert_equal(whole[4:], take(5, datasets, start=4))
    assert_equal(whole, take(9, datasets, workers=2))
    assert not torch.equal(whole[0].rewards[1:], whole[1].rewards[:-1])  # each batch has positions of its own
    latents = {"tokenizer_hash": "abc"}
    assert_equal(take(9, datasets, **latents)[2:], take(7, datasets, start=2, workers=2, **latents))
    assert not torch.equal(whole[0].rewards, take(1, datasets, seed=8)[0].rewards)


def test_long_batches_hold_as_many_frames(datasets: list[Dataset]) -> None:
    shapes = [tuple(batch.mask.shape) for batch in take(6, datasets)]
    assert shapes == [(6, 4), (6, 4), (2, 12)] * 2
    assert BatchShapes(5, 7).at(3) == (5, 7) and BatchShapes(5, 7).distinct() == [(5, 7)]
    assert BatchShapes.of(STAGE).distinct() == [(6, 4), (2, 12)]
    assert steps_per_epoch(datasets, clips_of(STAGE)) == 53 // 24
    assert steps_per_epoch(datasets, clips_of(StageConfig(batch=60, length=4))) == 1


def test_contexts_end_before_the_episode_does(datasets: list[Dataset]) -> None:
    padded = 0
    for batch in take(6, datasets, contexts=True, left_pad=0, stage=StageConfig(batch=16, length=6)):
        assert batch.mask[:, -1].all() and not batch.is_terminal.any()
        real = batch.mask.sum(1)
        assert torch.equal(batch.mask.int(), batch.mask.int().cummax(1).values)  # padding on the left only
        assert torch.equal(batch.is_first.sum(1)[real < 6], 7 - real[real < 6])
        padded += int((real < 6).sum())
    assert padded > 20


def test_the_rows_behind_the_uniform_ones_come_from_episodes_that_achieve_their_task(datasets: list[Dataset]) -> None:
    def numbers(batch: Batch) -> torch.Tensor:
        assert batch.frames is not None
        return (batch.frames[:, 0, 0, 0, 0] - batch.rewards[:, 0]) / 10  # of the episodes; odd ones succeed

    stage = StageConfig(batch=8, length=4, long_length=16)
    mixed, plain = (
        take(12, datasets, stage=stage, left_pad=0, uniform_share=share, flow="uniform") for share in (0.3, 1.0)
    )
    for step, (batch, same) in enumerate(zip(mixed, plain, strict=True)):
        uniform = torch.arange(batch.rows) < (1 if step % 4 == 3 else 3)  # of two rows and of eight, rounded up
        assert torch.equal(batch.bc, ~uniform) and same.bc.all()
        assert torch.equal(batch.flow, uniform) and same.flow.all()
        assert (numbers(batch)[~uniform] % 2 == 1).all()
        same = dataclasses.replace(same, bc=batch.bc, flow=batch.flow)
        assert_equal([batch.select(uniform)], [same.select(uniform)])  # the uniform rows are as ever
    first = torch.cat([numbers(batch)[:1] for batch in mixed])
    assert (first % 2 == 0).any() and (first % 2 == 1).any()
    with pytest.raises(ValueError, match="no episode to draw clips from"):
        take(1, datasets, keep=lambda row: not row.success, uniform_share=0.5)


@pytest.mark.parametrize(
    ("mix", "kinds", "bc"),
    [
        (Mix(), "uuuuu", [True] * 5),
        (Mix(0.5), "uuurr", [False] * 3 + [True] * 2),
        (Mix(0.2, 0.4), "ummrr", [False] * 3 + [True] * 2),
        (Mix(0.6, 0.4), "uuumm", [True] * 5),  # no share is relevant: all rows have behaviour cloning
        (Mix(0.9), "uuuuu", [False] * 5),  # one is, but rounding leaves it no row
    ],
)
def test_what_the_rows_of_a_mix_are(mix: Mix, kinds: str, bc: list[bool]) -> None:
    assert "".join(kind[0] for kind in mix.kinds(5)) == kinds
    assert mix.bc_rows(5) == bc
    assert mix.flow_rows(5) == [True] * 5
    assert dataclasses.replace(mix, flow="uniform").flow_rows(5) == [kind == "u" for kind in kinds]


def test_more_than_all_rows_are_refused() -> None:
    with pytest.raises(UserError, match=r"uniform_share 0.7 and miss_share 0.4 are more than all rows"):
        AgentObjective(uniform_share=0.7, miss_share=0.4)


def test_selected_rows_keep_their_order(datasets: list[Dataset]) -> None:
    batch = take(1, datasets)[0]
    rows = torch.tensor([False, True, True, False, False, True])
    chosen = batch.select(rows)
    for field in dataclasses.fields(Batch):
        whole, part = getattr(batch, field.name), getattr(chosen, field.name)
        assert (part is None) == (whole is None)
        assert whole is None or torch.equal(part, torch.stack([whole[1], whole[2], whole[5]])), field.name
    assert batch.select(torch.ones(6, dtype=torch.bool)) is batch
    moved = batch.to(torch.device("meta"))
    assert moved.flow is batch.flow and moved.mask.device.type == moved.bc.device.type == "meta"
    assert moved.select(rows).mask.shape == (3, 4)  # without a look at what is on the device


def test_filter_and_errors(datasets: list[Dataset], tmp_path: Path) -> None:
    kept = take(4, datasets, left_pad=0, keep=lambda row: row.length == 14)
    values = torch.cat([batch.frames[:, :, 0, 0, 0].flatten() for batch in kept if batch.frames is not None])
    assert int(values.min()) >= 10 and int(values.max()) <= 23  # episode 1 of 14 timesteps, no other
    with pytest.raises(ValueError, match="no episode"):
        take(1, datasets, keep=lambda row: False)
    with pytest.raises(ValueError, match="embody encode"):
        take(1, datasets, tokenizer_hash="other")
    other = DatasetWriter(tmp_path / "c", Meta(("c",), ActionSpec((7,)), 8, 6, 5, VOCABULARY[:3]))
    other.write_shard("train", 0, [hand_made("c", 1, 4)])
    other.finish()
    with pytest.raises(ValueError, match="have different vocabulary"):
        take(1, [*datasets, open_dataset(tmp_path / "c")])


def test_datasets_of_a_config(tmp_path: Path) -> None:
    make(tmp_path, "a", [5, 4])
    config = minigrid()
    env = EnvConfig(tasks=("a",), max_steps=(9,), height=8, width=6)
    config = dataclasses.replace(
        config,
        data_dir=str(tmp_path),
        env=env,
        tokenizer=dataclasses.replace(config.tokenizer, patch=2),
    )
    assert [dataset.meta.tasks for dataset in open_datasets(config)] == [("a",)]
    small = dataclasses.replace(config, agent=dataclasses.replace(config.agent, vocabulary=4))
    with pytest.raises(ValueError, match="has 5 words, agent.vocabulary is .*: increase it"):
        open_datasets(small)
    with pytest.raises(ValueError, match="frames of .*collect it again"):
        open_datasets(
            dataclasses.replace(minigrid(), data_dir=str(tmp_path), env=dataclasses.replace(env, height=48, width=48))
        )
    with pytest.raises(ValueError, match="no dataset in .*b: run"):
        open_datasets(dataclasses.replace(config, env=dataclasses.replace(env, tasks=("b",))))


def test_speed_is_printed(tmp_path: Path) -> None:
    """Only printed (`pytest -rP`), not checked, because machines differ."""
    dataset = make(tmp_path, "a", [25] * 40)
    stage = StageConfig(batch=16, length=16)
    began = time.perf_counter()
    loaded = take(20, [dataset], stage=stage)
    seconds = time.perf_counter() - began
    print(f"{20 * 16 / seconds:.0f} clips/s of 16 frames of 8x6")
    assert all(batch.rows == 16 and batch.length == 16 for batch in loaded)


def test_the_next_batch_is_loaded_while_one_is_in_use() -> None:
    begun, used = [threading.Event() for _ in range(3)], threading.Event()

    class Numbers:
        def __getitem__(self, step: int) -> int:
            begun[step].set()
            assert step != 1 or used.wait(5), "nobody waits for a batch that is not asked for yet"
            return step

    loaded: Any = Numbers()
    numbers: Iterator[Any] = _in_thread(loaded, 0)
    assert next(numbers) == 0
    assert begun[1].wait(5)
    used.set()
    assert next(numbers) == 1
