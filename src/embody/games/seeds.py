"""Environment seeds: training, validation and evaluation never share one."""

import zlib

from embody.config import Config
from embody.errors import UserError

__all__ = ["environment_seeds", "evaluation_seeds"]

SPLITS = ("train", "validation", "evaluation")
ROOM = 1_000_000  # seeds of one split


def environment_seeds(run_seed: int, task: str, split: str) -> range:
    """The million seeds of a task's split ("train", "validation" or "evaluation"), below 2**63.

    They depend on `collect.seed` and the task's name, not on the other tasks of the run.
    """
    if not 0 <= run_seed < 2**20:
        raise UserError(f"seed {run_seed}: must be in 0..{2**20 - 1}")
    block = (run_seed << 20 | zlib.crc32(task.encode()) >> 12) * len(SPLITS) + SPLITS.index(split)
    return range(block * ROOM, (block + 1) * ROOM)


def evaluation_seeds(config: Config, task: str, n: int) -> list[int]:
    """The first `n` seeds of the task that no recorded episode uses."""
    seeds = environment_seeds(config.collect.seed, task, "evaluation")
    if n > len(seeds):
        raise UserError(f"evaluation.episodes: at most {len(seeds)} a task, got {n}")
    return list(seeds[:n])
