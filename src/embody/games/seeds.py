"""Seeds of environments: training, validation and evaluation episodes never share one."""

import zlib

from embody.config import Config
from embody.errors import UserError

__all__ = ["environment_seeds", "evaluation_seeds"]

SPLITS = ("train", "validation", "evaluation")
SEEDS_PER_SPLIT = 1_000_000


def environment_seeds(run_seed: int, task: str, split: str) -> range:
    """The million seeds, below 2**63, of one split ("train", "validation" or "evaluation") of a task.

    They depend on `run_seed` (`collect.seed`, 0 to 2**20 - 1) and the task's name, not on other tasks of the run.
    Raises a `UserError` if `run_seed` is out of range.
    """
    if not 0 <= run_seed < 2**20:
        raise UserError(f"seed {run_seed}: must be in 0..{2**20 - 1}")
    block = (run_seed << 20 | zlib.crc32(task.encode()) >> 12) * len(SPLITS) + SPLITS.index(split)
    return range(block * SEEDS_PER_SPLIT, (block + 1) * SEEDS_PER_SPLIT)


def evaluation_seeds(config: Config, task: str, n: int) -> list[int]:
    """The first `n` held-out seeds of the task, which no recorded episode uses; a `UserError` above a million."""
    seeds = environment_seeds(config.collect.seed, task, "evaluation")
    if n > len(seeds):
        raise UserError(f"evaluation.episodes: at most {len(seeds)} a task, got {n}")
    return list(seeds[:n])
