"""Collecting: episodes depend on the config only, and an interrupted call resumes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from embody.config import Config
from embody.data import DatasetWriter, exclusive_lock, is_complete, open_dataset
from embody.data.episode import Episode, label_indices
from embody.games import environment_seeds, make_env
from embody.games.minigrid.presets import minigrid
from embody.recording import collect, play_episodes

GOTO, DOORKEY = "BabyAI-GoToLocalS5N2-v0", "MiniGrid-DoorKey-6x6-v0"


def small(data_dir: Path, tasks: tuple[str, ...] = (GOTO,), **collect_fields: object) -> Config:
    config = minigrid()
    env = dataclasses.replace(config.env, tasks=tasks, max_steps=(40,) * len(tasks))
    fields = {"train_episodes": 70, "validation_episodes": 5, "workers": 1, **collect_fields}
    return dataclasses.replace(
        config, data_dir=str(data_dir), env=env, collect=dataclasses.replace(config.collect, **fields)
    )


def assert_same(a: Episode, b: Episode) -> None:
    for field in dataclasses.fields(Episode):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), field.name)


def contents(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in root.rglob("*") if path.is_file()}


def test_the_recorded_actions_replay_to_the_recorded_frames(tmp_path: Path) -> None:
    config = small(tmp_path, (GOTO, DOORKEY))
    for task in config.env.tasks:
        for episode in play_episodes(config, task, "train", 0, 12):
            env = make_env(config.env, task)
            frame, info = env.reset(seed=episode.seed)
            assert info["mission"] == episode.label
            np.testing.assert_array_equal(frame, episode.frames[0])
            for t in range(1, len(episode.frames)):
                frame, reward, terminated, truncated, info = env.step(episode.actions[t])
                np.testing.assert_array_equal(frame, episode.frames[t])
                assert reward == episode.rewards[t] and terminated == episode.is_terminal[t]
                assert (terminated or truncated) == (t == len(episode.frames) - 1)
            assert info["success"] == episode.success == (episode.rewards.sum() == 1)


def test_an_episode_depends_on_its_index_alone(tmp_path: Path) -> None:
    config = small(tmp_path)
    many = play_episodes(config, GOTO, "train", 0, 8)
    assert_same(many[7], play_episodes(config, GOTO, "train", 7, 1)[0])
    alone = dataclasses.replace(config, env=small(tmp_path, (DOORKEY, GOTO)).env)
    assert_same(many[3], play_episodes(alone, GOTO, "train", 3, 1)[0])
    other = play_episodes(
        dataclasses.replace(config, collect=dataclasses.replace(config.collect, seed=1)), GOTO, "train", 7, 1
    )[0]
    assert_same(many[7], play_episodes(dataclasses.replace(config, seed=1), GOTO, "train", 7, 1)[0])  # not the run's
    validation = play_episodes(config, GOTO, "validation", 7, 1)[0]
    assert len({many[7].seed, other.seed, validation.seed}) == 3
    assert many[7].seed in environment_seeds(0, GOTO, "train")
    assert validation.seed in environment_seeds(0, GOTO, "validation")


def test_quality_is_mixed_as_asked(tmp_path: Path) -> None:
    config = small(tmp_path, (DOORKEY,), noise_levels=(0.0, 0.5), random_fraction=0.2)
    episodes = play_episodes(config, DOORKEY, "train", 0, 200)
    noise = np.array([episode.noise for episode in episodes])
    assert set(noise) == {0.0, 0.5, 1.0}
    assert 20 <= (noise == 1).sum() <= 60 and 50 <= (noise == 0.5).sum() <= 110  # 4.7 deviations of 40, 4.2 of 80
    assert all((episode.source == "random") == (episode.noise == 1) for episode in episodes)
    success = [np.mean([e.success for e in episodes if e.noise == level]) for level in (0.0, 0.5, 1.0)]
    assert success[0] == 1 and 0.6 < success[1] < 1 and success[2] < 0.1


def test_collect_writes_what_is_played_and_then_leaves_it(tmp_path: Path) -> None:
    config = small(tmp_path)
    seen: list[tuple[str, int, int]] = []
    collect(config, lambda *state: seen.append(state))
    assert seen == [(GOTO, 0, 75), (GOTO, 64, 75), (GOTO, 70, 75), (GOTO, 75, 75)]
    dataset = open_dataset(tmp_path / GOTO)
    expected = play_episodes(config, GOTO, "train", 0, 70) + play_episodes(config, GOTO, "validation", 0, 5)
    assert [row.split for row in dataset.episodes()] == ["train"] * 70 + ["validation"] * 5
    for i, episode in enumerate(expected):
        assert_same(dataset.episode(i), episode)
        assert 1 not in label_indices(episode.label, dataset.meta.vocabulary, 16)
    before = contents(tmp_path)
    collect(config)
    assert contents(tmp_path) == before


def test_one_process_at_a_time_collects(tmp_path: Path) -> None:
    config = small(tmp_path, train_episodes=2, validation_episodes=1)
    with (
        exclusive_lock(tmp_path / GOTO),
        pytest.raises(ValueError, match="another process writes there: wait until it is done"),
    ):
        collect(config)
    collect(config)
    assert len(open_dataset(tmp_path / GOTO).episodes()) == 3


def test_collect_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect(small(tmp_path / "whole"))
    write = DatasetWriter.write_shard

    def die_at_second(self: DatasetWriter, split: str, index: int, episodes: list[Episode]) -> None:
        if (split, index) == ("train", 1):
            raise KeyboardInterrupt
        write(self, split, index, episodes)

    config = small(tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr(DatasetWriter, "write_shard", die_at_second)
        with pytest.raises(KeyboardInterrupt):
            collect(config)
    assert not is_complete(tmp_path / "killed" / GOTO)
    seen: list[int] = []
    collect(config, lambda task, done, total: seen.append(done))
    assert seen[0] == 64
    killed, whole = (open_dataset(tmp_path / name / GOTO) for name in ("killed", "whole"))
    assert killed.fingerprint == whole.fingerprint


def test_workers_change_nothing(tmp_path: Path) -> None:
    config = small(tmp_path, (GOTO, DOORKEY), workers=2)
    collect(config)
    for task in config.env.tasks:
        dataset = open_dataset(tmp_path / task)
        assert [len(dataset.episodes(split)) for split in ("train", "validation")] == [70, 5]
        for i, episode in enumerate(play_episodes(config, task, "train", 0, 70)):
            assert_same(dataset.episode(i), episode)


def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown task 'Chess'"):
        collect(small(tmp_path, (GOTO, "Chess")))
    assert not list(tmp_path.iterdir())
    collect(small(tmp_path))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="collected with train_episodes 70, the config has 80"):
        collect(small(tmp_path, (DOORKEY, GOTO), train_episodes=80))
    assert contents(tmp_path) == before
