"""How models are sampled: phase 3 learns from samples, but finished weights may be sampled in any way."""

from dataclasses import dataclass

from embody.config.bounds import Count, Share
from embody.errors import UserError

__all__ = ["SamplingConfig"]


@dataclass(frozen=True)
class SamplingConfig:
    """Of frames, and of actions."""

    k_sample: Count = 4  # denoising passes a frame [P]
    # Actions whose probability under the cloned policy is below `support` times its maximum are masked, in dreams and
    # while acting (as in BCQ); 0 disables it [P].
    support: Share = 0.0

    def __post_init__(self) -> None:
        if self.k_sample & (self.k_sample - 1):
            raise UserError(f"sampling.k_sample must be a power of two, got {self.k_sample}")
