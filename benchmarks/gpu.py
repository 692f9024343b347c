"""What a GPU makes of the paper's model, with random weights: `python -m benchmarks.gpu`, about 8 minutes at most.

Interactive frames a second, answers a second, the share of the matrix rate that training steps reach, imagined frames a
second, and peak memory, for the presets `minecraft` and `crafter`. Rows that no longer fit into the time are named and
left out. Results go to `benchmarks/results/` as JSON, a table to the terminal. `--tiny` runs all of it on tiny models,
without a GPU too.
"""

import argparse
import datetime
import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.machine import describe
from benchmarks.ours import answer_flops
from benchmarks.roofline import matrix_rate
from benchmarks.run import ROOT, commit, save
from embody.config import Config
from embody.cost.flops import (
    decode_flops,
    dynamics_row_flops,
    generated_frame_flops,
    imagination_row_flops,
    tokenizer_row_flops,
)
from embody.data.goal import goal_of
from embody.data.sampling.batch import Batch
from embody.dynamics import Dynamics, ShortcutLoss
from embody.games.crafter.presets import crafter
from embody.games.minecraft.presets import minecraft
from embody.imagination import Dream, Player
from embody.model import Agent, WorldAndAgent, for_inference
from embody.nn.noise import GeneratorNoise, RowNoise
from embody.nn.transformer import Block
from embody.tokenizer import Tokenizer, TokenizerLoss
from embody.training.imagination import ImaginationStage
from embody.training.loop import StepContext

__all__ = ["main", "markdown"]

ROWS = ("interactive", "acting", "dynamics step", "tokenizer step", "imagination")
BUDGET = 480.0  # seconds for all of them
GOALS = {"interactive": "75 frames/s", "dynamics step": "60% MFU", "tokenizer step": "60% MFU"}  # of `minecraft`


@dataclass(frozen=True)
class Sizes:
    """How much of each; `rows` and `frames` of a training step."""

    frames: int = 64  # generated
    dynamics: tuple[int, int] = (4, 64)
    tokenizer: tuple[int, int] = (2, 8)
    dreams: int = 8
    steps: int = 6  # timed, after two
    matrix: tuple[int, ...] = (4096, 8192, 16384)


BIG = {"minecraft": Sizes(), "crafter": Sizes(dynamics=(64, 32), tokenizer=(256, 2), dreams=256)}
SMALL = Sizes(frames=3, dynamics=(2, 4), tokenizer=(1, 2), dreams=2, steps=1, matrix=(64,))


class Bench:
    """One preset on one device."""

    def __init__(self, config: Config, sizes: Sizes, device: torch.device, compiled: bool) -> None:
        objective = replace(config.tokenizer_objective, lpips="none")  # no weights are fetched
        self.config = replace(config, tokenizer_objective=objective, compile=compiled)
        self.sizes, self.device, self.compiled = sizes, device, compiled
        self.generator = torch.Generator(device).manual_seed(0)

    def interactive(self) -> dict[str, float]:
        """Frames one at a time after a full context, each decoded to pixels: K passes a frame."""
        config, sizes = self.config, self.sizes
        world = for_inference(self._world(), compiled=self.compiled)
        tokenizer = for_inference(self._tokenizer(), compiled=self.compiled)
        dream = Dream(world, k_sample=config.sampling.k_sample, noise=GeneratorNoise(self.generator))
        batch = self._batch(1, config.dynamics.context)
        assert batch.latents is not None
        dream.reset(batch.latents, batch.actions, batch.is_first)
        t, decoder = config.tokenizer, tokenizer.decoder_cache(1)

        def frame() -> None:
            latents, _ = dream.advance(batch.actions[:, 0])
            with torch.no_grad():
                tokenizer.to_pixels(tokenizer.decode(latents.view(1, 1, t.latents, t.channels), cache=decoder))

        # The decoder's ring too is full when the clock starts, and every shape was met.
        seconds = self._time(frame, sizes.frames, warm_up=t.context + 2)
        # K passes, but one of them over two frames.
        flops = generated_frame_flops(config, agent=False) + decode_flops(t, config.env.frame, 1, t.context)
        return self._rates(seconds, frames=1, flops=flops)

    def acting(self) -> dict[str, float]:
        """A frame in, an action out, after a full context."""
        config, t = self.config, self.config.tokenizer
        model = for_inference(self._world_and_agent(), compiled=self.compiled)
        tokenizer = for_inference(self._tokenizer(), precision="float32", compiled=self.compiled)
        player = Player(tokenizer, model, ("", "?"), context=config.dynamics.context, sampling=config.sampling)
        frame = np.random.default_rng(0).integers(256, size=(1, *config.env.frame, 3), dtype=np.uint8)
        player.begin(frame, [""])

        def answer() -> None:
            player.observe(player.act(), frame)

        seconds = self._time(answer, self.sizes.frames, warm_up=t.context + 2)
        p95 = statistics.quantiles(seconds, n=20, method="inclusive")[18]
        return {**self._rates(seconds, frames=1, flops=answer_flops(config)), "p95": p95}

    def dynamics(self) -> dict[str, float]:
        """A step of shortcut forcing, the bootstrap included."""
        objective = self.config.dynamics_objective
        model, loss = self._world(), ShortcutLoss(objective).to(self.device)
        rows, frames = self.sizes.dynamics
        batch = self._batch(rows, frames)
        step = self._step(model, lambda: loss(model, batch, GeneratorNoise(self.generator), bootstrap=True)[0])
        flops = rows * dynamics_row_flops(self.config.dynamics, objective, frames, bootstrap=True)
        return self._rates(self._time(step, self.sizes.steps, warm_up=2), frames=rows * frames, flops=flops)

    def tokenizer(self) -> dict[str, float]:
        """A step of masked autoencoding, on the squared error alone."""
        config, (rows, frames) = self.config, self.sizes.tokenizer
        objective, frame = config.tokenizer_objective, config.env.frame
        model, loss = self._tokenizer(), TokenizerLoss(objective).to(self.device)
        video = torch.randint(256, (rows, frames, 3, *frame), dtype=torch.uint8, device=self.device)
        mask = torch.ones(rows, frames, dtype=torch.bool, device=self.device)
        step = self._step(model, lambda: loss(model, video, mask, GeneratorNoise(self.generator))[0])
        flops = rows * tokenizer_row_flops(config.tokenizer, objective, frame, frames)
        return self._rates(self._time(step, self.sizes.steps, warm_up=2), frames=rows * frames, flops=flops)

    def imagination(self) -> dict[str, float]:
        """Dreams of one batch of contexts, then one update of the policy and the value."""
        rows = self.sizes.dreams
        config = replace(self.config, imagination=replace(self.config.imagination, updates=1))
        model = self._world_and_agent().to(self.device)
        stage, batch = ImaginationStage(config, [], "", model), self._batch(rows, config.imagination.context)
        stage.losses.to(self.device)
        noise = RowNoise(0, device=self.device)
        step = self._step(model, lambda: stage.loss(stage.dream(batch, noise), StepContext(0, 1, noise))[0])
        seconds = self._time(step, self.sizes.steps, warm_up=2)
        return self._rates(
            seconds, frames=rows * config.imagination.horizon, flops=rows * imagination_row_flops(config)
        )

    def _tokenizer(self) -> Tokenizer:
        with self.device:
            return Tokenizer(self.config.tokenizer, self.config.env.frame)

    def _world(self) -> Dynamics:
        with self.device:
            return Dynamics(self.config.dynamics, self.config.env.actions)

    def _world_and_agent(self) -> WorldAndAgent:
        config, world = self.config, self._world()
        with self.device:
            agent = Agent(config.agent, config.dynamics.trunk, config.env.actions)
        return WorldAndAgent(world, agent)

    def _batch(self, rows: int, frames: int) -> Batch:
        d, agent, shape = self.config.dynamics, self.config.agent, (rows, frames)
        goal = goal_of(agent.goal)
        no = torch.zeros(shape, dtype=torch.bool)
        batch = Batch(
            actions=torch.zeros(*shape, len(self.config.env.actions.sizes), dtype=torch.long),
            rewards=torch.zeros(shape),
            returns=torch.zeros(shape),
            is_first=no,
            is_terminal=no,
            mask=~no,
            task=goal.repeat_over_time(
                goal.task_of_labels([""] * rows, ("", "?"), [""] * agent.tasks, agent.words), frames
            ),
            labelled=torch.ones(rows, dtype=torch.bool),
            is_null=no,
            bc=torch.ones(rows, dtype=torch.bool),
            flow=torch.ones(rows, dtype=torch.bool),
            latents=torch.randn(*shape, d.tokens, d.channels),
        )
        return batch.to(self.device)

    def _step(self, model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
        for block in model.modules():
            if isinstance(block, Block):
                block.recompute, block.compiled = self.config.recompute, self.compiled
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                total = loss()
            total.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()

        return step

    def _time(self, work: Callable[[], None], times: int, warm_up: int = 0) -> list[float]:
        for _ in range(warm_up):
            work()
        seconds = []
        for _ in range(times):
            self._wait()
            start = time.perf_counter()
            work()
            self._wait()
            seconds.append(time.perf_counter() - start)
        return seconds

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _rates(self, seconds: list[float], *, frames: int, flops: float) -> dict[str, float]:
        median = statistics.median(seconds)
        return {"seconds": median, "best": min(seconds), "frames_per_second": frames / median, "flops": flops}


def measured(bench: Bench, name: str) -> dict[str, Any]:
    """One row: rates and peak memory, or what went wrong."""
    on_gpu = bench.device.type == "cuda"
    if on_gpu:
        gc.collect()  # a compiled model refers to itself: the row before would be counted too
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    try:
        found: dict[str, Any] = getattr(bench, name.split()[0])()
    except torch.OutOfMemoryError as error:
        return {"name": name, "error": str(error).splitlines()[0]}
    peak = torch.cuda.max_memory_allocated() if on_gpu else None
    return {"name": name, **found, "peak_bytes": peak, "whole_seconds": time.perf_counter() - start}


def rows(benches: Mapping[str, Bench]) -> list[dict[str, Any]]:
    """Those of each preset, until one might not fit into the rest of the time: the longest so far does not."""
    end, longest, found = time.perf_counter() + BUDGET, 0.0, []
    for preset, bench in benches.items():
        for name in ROWS:
            left = end - time.perf_counter()
            if left < longest:
                row = {"name": name, "error": f"left out: {left:.0f} s left, a row took {longest:.0f} s"}
            else:
                print(f"{preset}: {name}", file=sys.stderr, flush=True)
                row = measured(bench, name)
                longest = max(longest, left - (end - time.perf_counter()))
            found.append({"preset": preset, **row})
    return found


def markdown(results: dict[str, Any]) -> str:
    """The table."""
    rate = results["matrix_rate"]["best"]
    head = ("preset", "what", "frames/s", "seconds (best)", "p95", "MFU", "peak GiB", "goal of minecraft")
    lines = [head, ("---",) * len(head)]
    for row in results["rows"]:
        if "error" in row:
            lines.append((row["preset"], row["name"], row["error"], *[""] * 5))
            continue
        memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.1f}"
        lines.append(
            (
                row["preset"],
                row["name"],
                f"{row['frames_per_second']:.1f}",
                f"{row['seconds']:.4f} ({row['best']:.4f})",
                f"{row['p95']:.4f}" if "p95" in row else "",
                f"{row['flops'] / row['seconds'] / rate:.0%}",
                memory,
                GOALS.get(row["name"], "") if row["preset"] == "minecraft" else "",
            )
        )
    about = (
        f"{results['device']}, torch {results['torch']}, {results['date']}, commit {results['commit']}. bfloat16;"
        f" matrix rate {rate / 1e12:,.1f} TFLOP/s, measured; MFU: FLOPs by formula, recomputed ones not counted."
    )
    return about + "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(words: Sequence[str] | None = None) -> Path:
    """Measure all; where the results went."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--tiny", action="store_true", help="tiny models: only whether it runs")
    options = parser.parse_args(words)
    if not options.tiny and not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu: no GPU that torch can use; --tiny runs it on the CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    benches = {
        preset: Bench(config, SMALL if options.tiny else BIG[preset], device, compiled=device.type == "cuda")
        for preset, config in _configs(options.tiny).items()
    }
    sizes = SMALL.matrix if options.tiny else BIG["minecraft"].matrix
    results = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "no GPU",
        "machine": describe(),
        "torch": torch.__version__,
        "matrix_rate": matrix_rate(torch.bfloat16, sizes, 0.01 if options.tiny else 1.0, device),
        "rows": rows(benches),
    }
    if device.type == "cuda":
        results["machine"]["processor"] = results["device"]  # type: ignore[index]
    print(markdown(results))
    return save(results, options.results, "gpu")


def _configs(tiny: bool) -> dict[str, Config]:
    """The presets, in tiny layers if need be."""
    presets = {"minecraft": minecraft(), "crafter": crafter()}
    return {name: _tiny(config) for name, config in presets.items()} if tiny else presets


def _tiny(config: Config) -> Config:
    """A preset's frames, actions and tokens in as few layers as there can be, with large patches."""
    t, d = config.tokenizer, config.dynamics
    patches = {"minecraft": (64, (384, 640))}.get(config.name, (t.patch, t.padded))
    half = replace(t.encoder, width=32, depth=2, heads=2, kv_heads=2, mlp_width=32, pattern="ST")
    trunk = replace(d.trunk, width=32, depth=2, heads=2, kv_heads=1, mlp_width=32, pattern="ST")
    return replace(
        config,
        tokenizer=replace(t, encoder=half, decoder=half, patch=patches[0], padded=patches[1], context=2),
        dynamics=replace(d, trunk=trunk, context=4),
        agent=replace(config.agent, hidden=16),
        imagination=replace(config.imagination, context=3, horizon=2),
        evaluation=replace(config.evaluation, context=3),
    )


if __name__ == "__main__":
    print(f"\n{main()}")
