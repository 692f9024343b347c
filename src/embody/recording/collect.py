"""Recording the demonstrations of every task, in parallel. After a kill, the same call resumes."""

import dataclasses
import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embody.config import Config
from embody.data import DatasetWriter, Episode, Meta, exclusive_lock, is_complete, write_json
from embody.errors import UserError
from embody.games import game, make_env
from embody.recording.play import Split, play_episodes
from embody.recording.workers import processes, worker_pool
from embody.saving.json_files import read_object

__all__ = ["Progress", "collect", "is_collected"]

SHARD = 64  # episodes in a shard, at most
SHARD_BYTES = 2**27  # bytes of pixels in a shard, at most: a few shards are in memory at a time
RECORD = "collection.json"  # in the dataset's folder: the settings that it was collected with
# Settings that are newer than the record, and their defaults. Defaults are not recorded, so older records stay valid.
_LATER = {"unlabelled_fraction": 0.0, "off_task_fraction": 0.0}

Progress = Callable[[str, int, int], None]  # task, episodes done, total of episodes


@dataclass(frozen=True)
class Job:
    """One shard to record."""

    task: str
    split: Split
    index: int
    first: int  # number of its first episode
    count: int  # of episodes


def is_collected(config: Config) -> bool:
    """Whether a run collects its own demonstrations: `data.sources` is empty, and the game has an environment."""
    return not config.data.sources and game(config.env.game).make_env is not None


def collect(config: Config, progress: Progress | None = None, waiting: Callable[[str], None] | None = None) -> None:
    """Record `config.collect`'s episodes of each task into `data_dir/TASK`, splits "train" and "validation".

    Episode i of a split depends on (config, task, split, i) only. Complete datasets and shards are kept. With more than
    one worker, processes are spawned, so a script that calls this needs `if __name__ == "__main__"`. A `UserError`,
    before anything is written, if there is no task, if a task to record is unknown or cannot be played, or if a folder
    was collected with other settings. If another process writes a dataset: see `exclusive_lock`.
    """
    if not config.env.tasks:
        raise UserError("env.tasks is empty: name at least one task to collect")
    for task in config.env.tasks:
        if not is_complete(config.dataset_dir(task)):
            make_env(config.env, task)
    for task in config.env.tasks:
        _check_folder(config, task)
    with worker_pool(processes(config.collect.workers)) as pool:
        for task in config.env.tasks:
            _collect_task(config, task, pool, progress or (lambda task, done, total: None), waiting)


def _collect_task(
    config: Config,
    task: str,
    pool: ProcessPoolExecutor | None,
    progress: Progress,
    waiting: Callable[[str], None] | None,
) -> None:
    jobs = _shards(config, task)
    total = sum(job.count for job in jobs)
    root = Path(config.data_dir) / task
    if is_complete(root):
        progress(task, total, total)
        return
    env, played = config.env, game(config.env.game)
    tasks = played.achievements or (task,)
    meta = Meta(tasks, env.actions, env.height, env.width, env.fps, played.vocabulary, played.labels)
    with exclusive_lock(root, waiting):
        if is_complete(root):  # another process completed it meanwhile
            progress(task, total, total)
            return
        writer = DatasetWriter(root, meta)
        record = {name: value for name, value in _record(config, task).items() if value != _LATER.get(name)}
        write_json(root / RECORD, record)
        missing = [job for job in jobs if job.index >= writer.shards(job.split)]
        done = total - sum(job.count for job in missing)
        progress(task, done, total)
        for job, episodes in _play(config, missing, pool):
            writer.write_shard(job.split, job.index, episodes)
            done += job.count
            progress(task, done, total)
        writer.finish()


def _shards(config: Config, task: str) -> list[Job]:
    """The shards of a task, in the order in which they are written."""
    splits: tuple[tuple[Split, int], ...] = (
        ("train", config.collect.train_episodes),
        ("validation", config.collect.validation_episodes),
    )
    limit = config.env.max_steps[config.env.tasks.index(task)]
    size = max(1, min(SHARD, SHARD_BYTES // ((limit + 1) * config.env.height * config.env.width * 3)))
    return [
        Job(task, split, first // size, first, min(size, episodes - first))
        for split, episodes in splits
        for first in range(0, episodes, size)
    ]


def _record(config: Config, task: str) -> dict[str, Any]:
    """The settings that the episodes of `task` depend on."""
    recipe = dataclasses.asdict(config.collect)
    del recipe["workers"]
    limit = config.env.max_steps[config.env.tasks.index(task)]
    return json.loads(json.dumps({"task": task, "max_steps": limit, **recipe}))


def _check_folder(config: Config, task: str) -> None:
    """A `UserError` if the task's dataset was collected with other settings. Imported datasets are accepted."""
    root = Path(config.data_dir) / task
    if not (root / RECORD).exists():
        return
    found = _LATER | read_object(root / RECORD, f"delete {root} and collect again")
    wanted = _record(config, task)
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UserError(
                f"dataset {root} was collected with {name} {found.get(name)}, the config has {value}: set data_dir to"
                " another folder, or delete this one"
            )


# --- worker processes -----------------------------------------------------------------------------------------------


def _play(config: Config, jobs: list[Job], pool: ProcessPoolExecutor | None) -> Iterator[tuple[Job, list[Episode]]]:
    """The episodes of every job, in order. Only a few shards are in memory at a time."""
    if pool is None:
        for job in jobs:
            yield job, play_episodes(config, job.task, job.split, job.first, job.count)
        return
    waiting: deque[tuple[Job, Future[list[Episode]]]] = deque()
    for job in jobs:
        waiting.append((job, pool.submit(play_episodes, config, job.task, job.split, job.first, job.count)))
        if len(waiting) > 2 * processes(config.collect.workers):
            job, future = waiting.popleft()
            yield job, future.result()
    for job, future in waiting:
        yield job, future.result()
