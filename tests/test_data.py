"""Datasets on disk: exact round trips, interruptions, damaged files; the guarantees of the sampler."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from embody.config import ActionSpec
from embody.data import (
    ClipSampler,
    DatasetWriter,
    Episode,
    LatentWriter,
    Meta,
    Placement,
    discounted_returns,
    is_complete,
    label_indices,
    open_dataset,
    open_latents,
)
from embody.data.sampling.sampler import Anchors
from embody.errors import UserError

META = Meta(("walk",), ActionSpec((7, 3)), 12, 10, 5, ("<pad>", "<unknown>", "get", "the", "key"))


def make_episode(seed: int, steps: int, task: str = "walk") -> Episode:
    random = np.random.default_rng(seed)
    actions = random.integers(0, (7, 3), (steps, 2))
    rewards = random.standard_normal(steps).astype(np.float32)
    actions[0], rewards[0] = 0, 0
    terminal = np.zeros(steps, bool)
    terminal[-1] = seed % 2
    frames = random.integers(0, 256, (steps, 12, 10, 3), np.uint8)
    return Episode(frames, actions, rewards, terminal, task, f"get the key {seed}", "expert", 0.25, seed, seed % 3 == 0)


def write(root: Path, splits: dict[str, list[list[Episode]]]) -> DatasetWriter:
    writer = DatasetWriter(root, META)
    for split, shards in splits.items():
        for index, episodes in enumerate(shards):
            writer.write_shard(split, index, episodes)
    return writer


def assert_same(a: Episode, b: Episode) -> None:
    for name in ("frames", "actions", "rewards", "is_terminal"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    for name in ("task", "label", "source", "noise", "seed", "success"):
        assert getattr(a, name) == getattr(b, name)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    train = [[make_episode(i, 5 + i) for i in range(3)], [make_episode(3, 1), make_episode(4, 30)]]
    held_out = [[make_episode(5, 9)]]
    write(tmp_path / "walk", {"train": train, "validation": held_out}).finish()
    dataset = open_dataset(tmp_path / "walk")
    written = [*train[0], *train[1], *held_out[0]]
    assert dataset.meta == META
    assert [row.id for row in dataset.episodes("train")] == [0, 1, 2, 3, 4]
    assert [row.id for row in dataset.episodes("validation")] == [5]
    for row, episode in zip(dataset.episodes(), written, strict=True):
        assert_same(dataset.episode(row.id), episode)
        assert row.length == len(episode.frames)
        assert row.return_ == pytest.approx(float(episode.rewards.sum()), abs=1e-5)
    np.testing.assert_array_equal(dataset.frames(4, 13, 21), written[4].frames[13:21])
    with pytest.raises(ValueError, match="no split 'test'"):
        dataset.episodes("test")


def test_a_killed_writer_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [[make_episode(i, 6)] for i in range(3)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    write(whole, {"train": shards}).finish()
    writer = write(killed, {"train": shards[:1]})
    with monkeypatch.context() as patch:  # dies with the frames and steps of shard 1 on disk, but not yet listed
        patch.setattr("embody.data.writer._row", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            writer.write_shard("train", 1, shards[1])
    assert (killed / "frames" / "train-00001.h5").exists()
    with pytest.raises(ValueError, match="incomplete.*embody collect"):
        open_dataset(killed)
    again = DatasetWriter(killed, META)
    assert again.shards("train") == 1 and again.shards("validation") == 0
    assert not is_complete(killed)
    again.write_shard("train", 1, shards[1])
    again.write_shard("train", 2, shards[2])
    again.finish()
    assert is_complete(killed)
    assert open_dataset(killed).fingerprint == open_dataset(whole).fingerprint


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    episode = make_episode(1, 8)
    prints = set()
    for name in ("frames", "actions", "rewards"):
        changed = getattr(episode, name).copy()
        changed[3] += 1
        changed[3] %= 3  # a valid action
        other = Episode(**{**episode.__dict__, name: changed})
        write(tmp_path / name, {"train": [[other]]}).finish()
        prints.add(open_dataset(tmp_path / name).fingerprint)
    write(tmp_path / "same", {"train": [[episode]]}).finish()
    assert len(prints | {open_dataset(tmp_path / "same").fingerprint}) == 4


def test_what_cannot_be_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no dataset in .*nothing: run `embody collect` or `embody import` first"):
        open_dataset(tmp_path / "nothing")
    root = tmp_path / "walk"
    write(root, {"train": [[make_episode(1, 8)]]}).finish()
    with pytest.raises(ValueError, match="is complete"):
        DatasetWriter(root, META).write_shard("train", 1, [make_episode(2, 8)])
    text = (root / "meta.json").read_text()
    (root / "meta.json").write_text(text.replace('"format_version": 1', '"format_version": 99'))
    for opening in (lambda: open_dataset(root), lambda: DatasetWriter(root, META)):
        with pytest.raises(ValueError, match="format version 99"):
            opening()
    (root / "meta.json").write_text(text[:30])
    with pytest.raises(ValueError, match="damaged"):
        open_dataset(root)
    (root / "meta.json").write_text(text)
    with h5py.File(root / "frames" / "train-00000.h5", "w") as file:
        file["frames"] = np.zeros((7, 12, 10, 3), np.uint8)
    with pytest.raises(ValueError, match="damaged .*the table lists 8 steps"):
        open_dataset(root)
    (root / "frames" / "train-00000.h5").write_bytes(b"half")
    with pytest.raises(ValueError) as raised:
        open_dataset(root)
    assert "damaged" in str(raised.value) and "\n" not in str(raised.value)


def test_the_writer_refuses_what_does_not_fit(tmp_path: Path) -> None:
    writer = write(tmp_path / "walk", {"train": [[make_episode(1, 8)]]})
    other = Meta(("walk",), ActionSpec((5,)), 12, 10, 5, META.vocabulary)
    with pytest.raises(ValueError, match="has other actions"):
        DatasetWriter(tmp_path / "walk", other)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="no dataset"):
        DatasetWriter(tmp_path / "full", META)
    with pytest.raises(UserError, match="shard 2 of train: the next is 1"):
        writer.write_shard("train", 2, [make_episode(1, 8)])
    with pytest.raises(ValueError, match="task 'run'"):
        writer.write_shard("train", 1, [make_episode(1, 8, task="run")])
    fields = make_episode(2, 8).__dict__
    with pytest.raises(ValueError, match="actions must be"):
        writer.write_shard("train", 1, [Episode(**{**fields, "actions": fields["actions"] + [[0, 0]] + 7 * _late(8)})])
    assert writer.shards("train") == 1


def _late(steps: int) -> np.ndarray:
    return (np.arange(steps) == steps - 1).astype(np.int64)[:, None]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("frames", np.zeros((8, 12, 10), np.uint8), "frames must be"),
        ("frames", np.zeros((7, 12, 10, 3), np.uint8), "has 8 steps, frames 7"),
        ("rewards", np.ones(8, np.float32), "timestep 0"),
        ("actions", np.ones((8, 2), np.int64), "timestep 0"),
        ("is_terminal", np.ones(8, bool), "before the last timestep"),
        ("noise", 1.5, "noise"),
    ],
)
def test_an_episode_checks_itself(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Episode(**{**make_episode(1, 8).__dict__, name: value})


def test_latents_round_trip_and_go_on(tmp_path: Path) -> None:
    write(tmp_path / "walk", {"train": [[make_episode(1, 8), make_episode(2, 5)], [make_episode(3, 4)]]}).finish()
    dataset = open_dataset(tmp_path / "walk")
    latents = np.random.default_rng(0).standard_normal((17, 4, 6)).astype(np.float16)
    with pytest.raises(ValueError, match="embody encode"):
        open_latents(dataset, "abc")
    writer = LatentWriter(dataset, "abc", 4, 6)
    first = writer.pending()[0]
    with writer.filling(first) as out:
        out[:] = latents[first.start : first.stop]
    with pytest.raises(ValueError, match="incomplete"):
        open_latents(dataset, "abc")
    with pytest.raises(ValueError, match="4x6 a frame, not 4x7"):
        LatentWriter(dataset, "abc", 4, 7)
    again = LatentWriter(dataset, "abc", 4, 6)
    assert [shard.name for shard in again.pending()] == ["train-00001"]
    with again.filling(again.pending()[0]) as out:
        out[:] = latents[13:]
    opened = open_latents(dataset, "abc")
    np.testing.assert_array_equal(opened.slice(0, 0, 8), latents[:8])
    np.testing.assert_array_equal(opened.slice(1, 2, 5), latents[10:13])
    np.testing.assert_array_equal(opened.slice(2, 1, 2), latents[14:15])
    write(tmp_path / "other", {"train": [[make_episode(9, 17)]]}).finish()
    (tmp_path / "walk" / "latents").rename(tmp_path / "other" / "latents")
    with pytest.raises(ValueError, match="other episodes"):
        open_latents(open_dataset(tmp_path / "other"), "abc")


def test_returns_by_hand() -> None:
    rewards = np.array([0, 1, 2, 4, 0, 0, 0, 8], np.float32)  # episodes of 4, 1 and 3 timesteps
    returns = discounted_returns(rewards, np.array([0, 4, 5, 8]), 0.5)
    np.testing.assert_allclose(returns, [1 + 1 + 1, 2 + 2, 4, 0, 0, 4, 8, 0])


def test_labels_become_words() -> None:
    np.testing.assert_array_equal(label_indices("Get the, RED key!", META.vocabulary, 6), [2, 3, 1, 4, 0, 0])
    np.testing.assert_array_equal(label_indices("get the key", META.vocabulary, 2), [2, 3])


# --- the sampler ----------------------------------------------------------------------------------------------------

LENGTHS, TASKS = np.array([12, 3, 40, 1, 25]), np.array([0, 0, 1, 1, 2])


def test_sampler_is_a_function_of_seed_and_position() -> None:
    one, two = (ClipSampler(LENGTHS, TASKS, 3, Placement(left_pad=4)) for _ in range(2))
    forward = [one.clip(i, 8) for i in range(200)]
    assert forward == [two.clip(i, 8) for i in reversed(range(200))][::-1]
    assert len(set(forward)) > 50
    assert forward != [ClipSampler(LENGTHS, TASKS, 4, Placement(left_pad=4)).clip(i, 8) for i in range(200)]


@pytest.mark.parametrize("left_pad", [0, 4, 100])
def test_clips_stay_in_their_episode_and_are_full_where_they_can(left_pad: int) -> None:
    sampler = ClipSampler(LENGTHS, TASKS, 0, Placement(left_pad))
    starts = []
    for position in range(3000):
        episode, start = sampler.clip(position, 8)
        assert -min(left_pad, 7) <= start <= max(0, LENGTHS[episode] - 8)
        starts.append(start)
    assert (min(starts) < 0) == (left_pad > 0)


def test_tasks_are_uniform_and_episodes_follow_their_timesteps() -> None:
    sampler, n = ClipSampler(LENGTHS, TASKS, 1, Placement(left_pad=7)), 9000
    counts = np.bincount([sampler.clip(i, 8)[0] for i in range(n)], minlength=5)
    expected = n / 3 * np.array([12 / 15, 3 / 15, 40 / 41, 1 / 41, 1])
    # chi-square with 4 degrees of freedom: above 18.5 once in a thousand
    assert ((counts - expected) ** 2 / expected).sum() < 18.5


def test_both_ends_of_an_episode_are_seen_as_often_as_its_middle() -> None:
    sampler = ClipSampler([20], [0], 5, Placement(left_pad=7, padded_share=1.0))
    n, seen = 20_000, np.zeros(20)
    for position in range(n):
        _, start = sampler.clip(position, 8)
        seen[max(0, start) : start + 8] += 1
    often = seen / n * 27  # 8 of the 27 drawn starts show a given timestep; late ones move back to the last full clip
    np.testing.assert_allclose(often, [8] * 12 + [15, 14, 13, 12, 11, 10, 9, 8], atol=0.4)  # four standard deviations


def test_timesteps_behind_a_context_do_not_move_it() -> None:
    lengths, tasks = [5, 9, 14], [0, 0, 1]
    alone = ClipSampler(lengths, tasks, 2, Placement(contexts=True))
    followed = ClipSampler(lengths, tasks, 2, Placement(contexts=True, after=7))
    for position in range(200):
        assert followed.clip(position, 4 + 7) == alone.clip(position, 4)


def test_clips_around_an_event_may_begin_before_their_episode() -> None:
    sampler = ClipSampler([20], [0], 0, Placement(left_pad=3), anchors=Anchors({0: np.array([1])}))
    starts = {sampler.clip(n, 6)[1] for n in range(200)}
    assert starts == {-3, -2, -1, 0, 1}  # the event in any timestep, as far as padding goes


def test_context_ends_are_uniform_over_non_final_timesteps() -> None:
    sampler, n = ClipSampler([5, 9, 1], [0, 0, 0], 2, Placement(contexts=True)), 12_000
    counts = np.zeros((3, 9))
    for position in range(n):
        episode, start = sampler.clip(position, 10)
        counts[episode, start + 9] += 1
    assert (counts[0, 4:] == 0).all() and (counts[1, 8:] == 0).all() and (counts[2] == 0).all()
    seen = np.concatenate([counts[0, :4], counts[1, :8]])
    assert ((seen - n / 12) ** 2 / (n / 12)).sum() < 31.3  # 11 degrees of freedom, once in a thousand


def test_sampler_without_episodes_says_so() -> None:
    with pytest.raises(ValueError, match="no episode"):
        ClipSampler([], [], 0, Placement())
    with pytest.raises(ValueError, match="single timestep"):
        ClipSampler([4, 1], [0, 1], 0, Placement(contexts=True))
