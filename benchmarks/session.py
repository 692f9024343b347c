"""Whether a frame costs the same however long a session runs: `python -m benchmarks.session`.

Blocks of frames after 10, 100, 1,000 and 10,000, in turns, on the model of the interactive workload. Between them the
sessions are moved on without dreaming: the cost of a frame depends on its position alone. Prints a table, writes JSON.
"""

import argparse
import datetime
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import describe
from benchmarks.ours import config_of
from benchmarks.run import ROOT, commit, save
from benchmarks.workloads import FULL, TINY, WORKLOADS
from embody.dynamics import Dynamics
from embody.imagination import Dream
from embody.model import for_inference
from embody.nn.noise import GeneratorNoise

AFTER = (10, 100, 1_000, 10_000)
BLOCK = 16  # frames timed at a time


def session(dynamics: Dynamics, frames: int, passes: int) -> Dream:
    """One that already has so many frames."""
    dream = Dream(dynamics, k_sample=passes, noise=GeneratorNoise(torch.Generator().manual_seed(0)))
    d = dynamics.config
    context = dream.noise.normal(1, 8, d.tokens, d.channels)
    dream.reset(context, torch.zeros(1, 8, 1, dtype=torch.long), torch.zeros(1, 8, dtype=torch.bool))
    move_to(dream, frames)
    return dream


def move_to(dream: Dream, frames: int) -> None:
    """To frame `frames`, onward or back."""
    assert dream.world_cache is not None
    dream.pending = None
    dream.world_cache.commit(frames - dream.world_cache.frames)


def block(dream: Dream, frames: int) -> float:
    """Seconds a frame, after `frames` of them."""
    move_to(dream, frames)
    action: Tensor = torch.zeros(1, 1, dtype=torch.long)
    dream.advance(action)  # the first has nothing to keep
    start = time.perf_counter()
    for _ in range(BLOCK):
        dream.advance(action)
    return (time.perf_counter() - start) / BLOCK


def main(words: Sequence[str] | None = None) -> Path:
    """Measure; where the results went."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.session", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: only whether it runs")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    shapes = TINY if options.tiny else FULL
    config = config_of(WORKLOADS["W3"], shapes)
    # A ring that 10 frames fill: its mask goes at once. The other case, a mask for ever, is the longer ring's.
    found = {}
    for ring in (8, config.dynamics.context):
        world = Dynamics(replace(config.dynamics, context=ring), config.env.actions)
        world = for_inference(world, compiled=options.compiled)
        dreams = {frames: session(world, frames, shapes.passes) for frames in AFTER}
        seconds: dict[int, list[float]] = {frames: [] for frames in AFTER}
        for frames, dream in dreams.items():
            block(dream, frames)
        for _ in range(options.rounds):
            for frames, dream in dreams.items():
                seconds[frames].append(block(dream, frames))
        found[str(ring)] = {str(frames): statistics.median(times) for frames, times in seconds.items()}
    print(
        "| ring | "
        + " | ".join(f"after {n:,}" for n in AFTER)
        + " | furthest apart |\n"
        + "| --- " * (2 + len(AFTER))
        + "|"
    )
    for ring_name, medians in found.items():
        apart = max(medians.values()) / min(medians.values()) - 1
        print(f"| {ring_name} | " + " | ".join(f"{1e3 * s:.2f} ms" for s in medians.values()) + f" | {apart:.1%} |")
    results = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": describe(),
        "settings": {
            "threads": options.threads,
            "wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
            "compiled": options.compiled,
            "rounds": options.rounds,
            "torch": torch.__version__,
        },
        "seconds_a_frame": found,
    }
    return save(results, options.results, "session")


if __name__ == "__main__":
    print(f"\n{main()}")
