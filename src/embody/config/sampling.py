"""How finished weights are sampled. Phase 3 learns from such samples; any other sampling may be chosen afterwards."""

from dataclasses import dataclass

from embody.config.bounds import Count, Share
from embody.errors import UserError

__all__ = ["SamplingConfig"]


@dataclass(frozen=True)
class SamplingConfig:
    """How frames and actions are sampled."""

    k_sample: Count = 4
    """Each frame is generated in this many denoising steps K, a power of two, at least 1 [P: 4]."""
    support: Share = 0.0
    """Actions whose probability under the cloned policy is below this share of its maximum are masked, in dreams and
    while acting (as in BCQ); from 0 to 1, and 0 masks none [P: 0]."""

    def __post_init__(self) -> None:
        if self.k_sample & (self.k_sample - 1):
            raise UserError(f"sampling.k_sample must be a power of two, got {self.k_sample}")
