"""How good Crafter's recordings are: the expert's achievements by the share of its actions that are replaced.

    python -m benchmarks.crafter --episodes 100 --limit 1000 --noise 0 0.1 0.25 1 --out docs/results/crafter_expert.md

The episodes are those that `embody collect crafter_small` would play next, at each level of noise.
"""

import argparse
import dataclasses
import os
import shlex
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embody.config import Config
from embody.data import write_text
from embody.games.crafter.presets import crafter_small
from embody.games.crafter.tasks import ACHIEVEMENTS, LABELS
from embody.recording import play_episodes

FIRST = 500_000  # training episode: no preset records so many


def config_of(noise: float, limit: int) -> Config:
    """Every episode at this noise."""
    config = crafter_small()
    collect = dataclasses.replace(config.collect, noise_levels=(noise,), random_fraction=0.0, unlabelled_fraction=0.0)
    return dataclasses.replace(config, env=dataclasses.replace(config.env, max_steps=(limit,)), collect=collect)


def unlocked(config: Config, index: int) -> tuple[NDArray[np.bool_], int, bool, float]:
    """Of one episode: achievements `[22]`, actions played, whether it ended in death, and the seconds it took."""
    began = time.process_time()
    episode = play_episodes(config, "crafter", "train", FIRST + index, 1)[0]
    assert episode.events is not None
    dead = bool(episode.is_terminal[-1])
    return np.logical_or.reduce(episode.events), episode.length - 1, dead, time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100, help="at each level of noise")
    parser.add_argument("--limit", type=int, default=1000, help="steps")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0], help="share of random actions; 1: all")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    columns, rates = [], []
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        for noise in arguments.noise:
            config = config_of(noise, arguments.limit)
            found = list(pool.map(partial(unlocked, config), range(arguments.episodes)))
            each, steps, dead, seconds = (np.array(values) for values in zip(*found, strict=True))
            columns.append([each.sum(axis=1).mean(), steps.mean(), dead.mean(), *each.mean(axis=0)])
            rates.append(steps.sum() / seconds.sum())
    text = table(arguments.noise, columns, rates, arguments.episodes, arguments.limit)
    print(text)
    if arguments.out:
        write_text(arguments.out, text)


def table(noise: list[float], columns: list[list[float]], rates: list[float], episodes: int, limit: int) -> str:
    """Markdown: a column for each level, the achievements from the commonest to the rarest."""
    names = ["achievements of 22", "steps", "ended in death", *LABELS]
    order = [0, 1, 2, *(3 + np.argsort([-share for share in columns[0][3:]], kind="stable"))]
    lines = [
        f"# Crafter's expert, {episodes} episodes of at most {limit} steps at each level of noise",
        "",
        f"`python -m benchmarks.crafter {shlex.join(sys.argv[1:])}`, {time.strftime('%Y-%m-%d')}, `collect.seed` 0,"
        f" training episodes from {FIRST} on. Noise is the share of random actions. The rows of achievements give the"
        " share of episodes that have them.",
        f"Steps a second of CPU time, with the making of worlds: {', '.join(f'{rate:.0f}' for rate in rates)}.",
        "",
        "| noise | " + " | ".join(f"{level:g}" for level in noise) + " |",
        "|---|" + "---|" * len(noise),
    ]
    for place in order:
        digits = (1, 0)[place] if place < 2 else 2
        values = " | ".join(f"{column[place]:.{digits}f}" for column in columns)
        lines.append(f"| {names[place]} | {values} |")
    assert len(names) == 3 + len(ACHIEVEMENTS)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
