"""A batch of dreams, side by side: the one way in which latents are generated.

Legend: B rows, T frames, A action factors, L spatial tokens, Z channels, H features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from embody.agent import Agent
from embody.dynamics import Dynamics, Prediction
from embody.dynamics.shortcut import noise_to
from embody.nn.cache import RingCache

__all__ = ["Dream", "DreamStep"]


@dataclass(frozen=True)
class DreamStep:
    """What arrived together in one imagined slot."""

    latents: Tensor  # float32 [B, L, Z]
    features: Tensor  # float32 [B, H], what the heads read
    reward: Tensor  # float32 [B]
    continues: Tensor  # float32 [B], probability that the episode goes on


class Dream:
    """`reset` with a real context, then `step` with actions. Without an agent there are no features and rewards.

    Every frame is kept re-noised to the context level, with its (tau, d) index, whether it was real or dreamt.
    Time and memory a step do not grow: the history is a ring of `dynamics.config.context` frames.
    """

    def __init__(
        self, dynamics: Dynamics, agent: Agent | None = None, *, k_sample: int, generator: torch.Generator
    ) -> None:
        if k_sample < 1 or dynamics.config.k_max % k_sample:
            raise ValueError(f"k_sample {k_sample} must divide k_max {dynamics.config.k_max}: choose a power of two")
        self.dynamics, self.agent = dynamics, agent
        self.k_sample, self.generator = k_sample, generator
        self.world_cache: RingCache | None = None
        self.agent_cache: RingCache | None = None
        self.task: Tensor | None = None

    @torch.no_grad()
    def reset(self, latents: Tensor, actions: Tensor, is_first: Tensor, task: Tensor | None = None) -> Tensor:
        """Begin anew from context latents `[B, T, *, *]`, actions `[B, T, A]`, is_first `[B, T]`, task `[B, W]`.

        Returns features `[B, T, H]` (empty without an agent).
        """
        rows, frames = latents.shape[:2]
        context = self.dynamics.config.context
        if frames > context:
            raise ValueError(f"a context of {frames} frames does not fit dynamics.context {context}")
        self.world_cache = self.dynamics.new_cache(rows)
        self.agent_cache = self.agent.new_cache(rows, context) if self.agent else None
        self.task = task
        return self._keep(self.dynamics.pack(latents), actions, is_first)

    @torch.no_grad()
    def observe(self, latents: Tensor, actions: Tensor) -> Tensor:
        """A real frame came: latents `[B, *, *]` after actions `[B, A]`. Returns features `[B, H]`."""
        packed = self.dynamics.pack(latents[:, None])
        return self._keep(packed, actions[:, None], self._not_first(actions))[:, 0]

    @torch.no_grad()
    def step(self, actions: Tensor) -> DreamStep:
        """Imagine the slot that `actions` int64 `[B, A]` lead to."""
        z_B1LZ = self._sample(actions[:, None])
        features = self._keep(z_B1LZ, actions[:, None], self._not_first(actions))[:, 0]
        reward = continues = torch.zeros(len(actions), 0, device=actions.device)
        if self.agent is not None:
            out = self.agent.heads(features)
            reward = self.agent.heads.expected_reward(out.reward[:, 0])
            continues = out.continues.sigmoid()
        return DreamStep(z_B1LZ[:, 0], features, reward, continues)

    def select(self, rows: Tensor) -> None:
        """Go on with the chosen `rows` only (int64 `[n]`)."""
        assert self.world_cache is not None
        self.world_cache = self.world_cache.select(rows)
        self.agent_cache = self.agent_cache.select(rows) if self.agent_cache else None
        self.task = self.task[rows] if self.task is not None else None

    def _sample(self, actions: Tensor) -> Tensor:
        """K steps of `z <- z + d (z^ - z) / (1 - tau)` from noise, with d = 1 / K."""
        config, B = self.dynamics.config, len(actions)
        shape = (B, 1, config.tokens, config.channels)
        z = torch.randn(shape, generator=self.generator, device=self.generator.device)
        d = 1 / self.k_sample
        for k in range(self.k_sample):
            tau = k * d
            velocity = (self._pass(z, tau, d, actions, self._not_first(actions[:, 0])).clean - z) / (1 - tau)
            z = z + velocity * d
        return z

    def _keep(self, z: Tensor, actions: Tensor, is_first: Tensor) -> Tensor:
        assert self.world_cache is not None
        level, d_min = self.dynamics.context_level, 1 / self.dynamics.config.k_max
        noise = torch.randn(z.shape, generator=self.generator, device=z.device)
        tau = torch.full(z.shape[:2], level, device=z.device)
        memory = self._pass(noise_to(tau, z, noise), level, d_min, actions, is_first).memory
        frames = z.shape[1]
        self.world_cache.commit(frames)
        if self.agent is None:
            return z.new_zeros(*z.shape[:2], 0)
        assert self.task is not None, "a dream with an agent needs its task"
        return self.agent(self.task, memory, frames, blocks=self.dynamics.trunk.blocks, cache=self.agent_cache).float()

    def _pass(self, z: Tensor, tau: float, d: float, actions: Tensor, is_first: Tensor) -> Prediction:
        shape, device = z.shape[:2], z.device
        levels = torch.full(shape, tau, device=device), torch.full(shape, d, device=device)
        return self.dynamics(z, *levels, actions, is_first, cache=self.world_cache)

    def _not_first(self, actions: Tensor) -> Tensor:
        return torch.zeros(len(actions), 1, dtype=torch.bool, device=actions.device)
