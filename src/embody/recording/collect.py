"""Records the demonstrations of every task, in parallel; killed at any time, the same call goes on where it stopped."""

import dataclasses
import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embody.config import Config
from embody.data import DatasetWriter, Episode, Meta, atomic_write, exclusive_lock, is_complete
from embody.errors import UserError
from embody.games import game, make_env
from embody.recording.play import Split, play_episodes
from embody.recording.workers import processes, worker_pool

__all__ = ["Progress", "collect", "is_collected"]

SHARD = 64  # episodes at most
SHARD_BYTES = 2**27  # of pixels: a few shards wait in memory
RECORD = "collection.json"  # how a dataset was made, in its folder
# Settings that came later: not in the record where they are as they were before.
_LATER = {"unlabelled_fraction": 0.0, "off_task_fraction": 0.0}

Progress = Callable[[str, int, int], None]  # task, episodes done, episodes in all


@dataclass(frozen=True)
class Job:
    """One shard to play."""

    task: str
    split: Split
    index: int
    first: int  # episode
    count: int


def is_collected(config: Config) -> bool:
    """Whether a run records what it learns from: its datasets are not named, and its game has an environment here."""
    return not config.data.sources and game(config.env.game).make_env is not None


def collect(config: Config, progress: Progress | None = None) -> None:
    """Record `config.collect`'s episodes of each task into `data_dir/TASK`, splits "train" and "validation".

    Episode i of a split depends on (config, task, split, i) alone. What is whole already is left untouched. With more
    than one worker, processes are spawned: a script that calls this needs a main guard. A `UserError` if there is no
    task, one that is not whole is unknown or cannot be played here, or a folder holds episodes that were made
    otherwise; nothing is written then.
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
            _collect_task(config, task, pool, progress or (lambda task, done, total: None))


def _collect_task(config: Config, task: str, pool: ProcessPoolExecutor | None, progress: Progress) -> None:
    jobs = _shards(config, task)
    total = sum(job.count for job in jobs)
    root = Path(config.data_dir) / task
    if is_complete(root):
        progress(task, total, total)
        return
    env, played = config.env, game(config.env.game)
    tasks = played.achievements or (task,)
    meta = Meta(tasks, env.actions, env.height, env.width, env.fps, played.vocabulary, played.labels)
    with exclusive_lock(root):
        writer = DatasetWriter(root, meta)
        with atomic_write(root / RECORD) as path:
            record = {name: value for name, value in _record(config, task).items() if value != _LATER.get(name)}
            path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        missing = [job for job in jobs if job.index >= writer.shards(job.split)]
        done = total - sum(job.count for job in missing)
        progress(task, done, total)
        for job, episodes in _play(config, missing, pool):
            writer.write_shard(job.split, job.index, episodes)
            done += job.count
            progress(task, done, total)
        writer.finish()


def _shards(config: Config, task: str) -> list[Job]:
    """The shards of a task, in the order they are written."""
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
    """All that the episodes of `task` depend on."""
    recipe = dataclasses.asdict(config.collect)
    del recipe["workers"]
    limit = config.env.max_steps[config.env.tasks.index(task)]
    return json.loads(json.dumps({"task": task, "max_steps": limit, **recipe}))


def _check_folder(config: Config, task: str) -> None:
    """`UserError` if the task's folder holds a dataset made otherwise. One that others made, whole, is welcome."""
    root = Path(config.data_dir) / task
    if not (root / RECORD).exists():
        return
    found, wanted = _LATER | json.loads((root / RECORD).read_text(encoding="utf-8")), _record(config, task)
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UserError(
                f"dataset {root} was collected with {name} {found.get(name)}, now {value} is asked for:"
                " set data_dir to another folder, or delete this one"
            )


# --- worker processes -----------------------------------------------------------------------------------------------


def _play(config: Config, jobs: list[Job], pool: ProcessPoolExecutor | None) -> Iterator[tuple[Job, list[Episode]]]:
    """The episodes of every job, in order; few shards wait in memory at any time."""
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
