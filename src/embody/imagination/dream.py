"""A batch of dreams, side by side: the one way in which latents are generated.

Legend: B rows, T frames, A action factors, L spatial tokens, Z channels, H features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from embody.agent import Agent
from embody.dynamics import Dynamics, Prediction
from embody.dynamics.shortcut import noise_to
from embody.nn.cache import RingCache
from embody.nn.transformer import Memory

__all__ = ["Dream", "DreamStep", "Imagined"]


@dataclass(frozen=True)
class DreamStep:
    """What arrived together in one imagined slot."""

    latents: Tensor  # float32 [B, L, Z]
    features: Tensor  # float32 [B, H], what the heads read
    reward: Tensor  # float32 [B]
    continues: Tensor  # float32 [B], probability that the episode goes on


@dataclass(frozen=True)
class Imagined:
    """What arrived in the slots that known actions led to; as `DreamStep`, side by side in time."""

    latents: Tensor  # float32 [B, T, L, Z]
    features: Tensor  # float32 [B, T, H]
    reward: Tensor  # float32 [B, T]
    continues: Tensor  # float32 [B, T]


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
        self.d_min = 1 / dynamics.config.k_max
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
        return self._keep(packed, actions[:, None])[:, 0]

    @torch.no_grad()
    def step(self, actions: Tensor) -> DreamStep:
        """Imagine the slot that `actions` int64 `[B, A]` lead to."""
        z_B1LZ, _ = self._sample(actions[:, None])
        features = self._keep(z_B1LZ, actions[:, None])[:, 0]
        return DreamStep(z_B1LZ[:, 0], features, *self._outcome(features))

    @torch.no_grad()
    def imagine(self, actions: Tensor) -> Imagined:
        """The slots that known actions int64 `[B, T, A]`, T >= 1, lead to: the same as `step` after `step`.

        K passes a frame, not K + 1: a finished frame is kept in the pass that begins to denoise the next one.
        """
        latents, features = [], []
        before: tuple[Tensor, Tensor] | None = None
        for action in actions.split(1, dim=1):
            z_B1LZ, of_before = self._sample(action, before)
            features += [] if before is None else [of_before]
            latents.append(z_B1LZ)
            before = z_B1LZ, action
        assert before is not None, "at least one action"
        features.append(self._keep(*before))
        features_BTH = torch.cat(features, dim=1)
        return Imagined(torch.cat(latents, dim=1), features_BTH, *self._outcome(features_BTH))

    def _outcome(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Reward and continue probability `[...]` at features `[..., H]`; empty without an agent."""
        if self.agent is None:
            return features.new_zeros(*features.shape[:-1], 0), features.new_zeros(*features.shape[:-1], 0)
        out = self.agent.heads(features)
        return self.agent.heads.expected_reward(out.reward[..., 0, :]), out.continues.sigmoid()

    def select(self, rows: Tensor) -> None:
        """Go on with the chosen `rows` only (int64 `[n]`)."""
        assert self.world_cache is not None
        self.world_cache = self.world_cache.select(rows)
        self.agent_cache = self.agent_cache.select(rows) if self.agent_cache else None
        self.task = self.task[rows] if self.task is not None else None

    def _sample(self, actions: Tensor, before: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """K steps of `z <- z + d (z^ - z) / (1 - tau)` from noise, with d = 1 / K: `[B, 1, L, Z]`.

        `before`: latents and actions of the frame before if it is still to be kept. The first step's pass keeps it, and
        its features `[B, 1, H]` are returned too (empty otherwise).
        """
        history = None if before is None else self._to_context_level(before[0])
        shape = (len(actions), 1, self.dynamics.config.tokens, self.dynamics.config.channels)
        z = torch.randn(shape, generator=self.generator, device=self.generator.device)
        d, features = 1 / self.k_sample, z.new_zeros(len(actions), 1, 0)
        for k in range(self.k_sample):
            tau = k * d
            if before is None or history is None or k:
                clean = self._pass(z, [tau], [d], actions).clean
            else:
                levels = [self.dynamics.context_level, tau], [self.d_min, d]
                both = self._pass(torch.cat((history, z), dim=1), *levels, torch.cat((before[1], actions), dim=1))
                clean = both.clean[:, 1:]
                features = self._commit(history, Memory(tuple(x_BTSD[:, :1] for x_BTSD in both.memory.inputs)))
            z = z + (clean - z) / (1 - tau) * d
        return z, features

    def _keep(self, z: Tensor, actions: Tensor, is_first: Tensor | None = None) -> Tensor:
        """Features `[B, T, H]` of finished frames `[B, T, L, Z]`, which become history."""
        frames, history = z.shape[1], self._to_context_level(z)
        levels = [self.dynamics.context_level] * frames, [self.d_min] * frames
        return self._commit(history, self._pass(history, *levels, actions, is_first).memory)

    def _to_context_level(self, z: Tensor) -> Tensor:
        tau = torch.full(z.shape[:2], self.dynamics.context_level, device=z.device)
        return noise_to(tau, z, torch.randn(z.shape, generator=self.generator, device=z.device))

    def _commit(self, history: Tensor, memory: Memory) -> Tensor:
        assert self.world_cache is not None
        frames = history.shape[1]
        self.world_cache.commit(frames)
        if self.agent is None:
            return history.new_zeros(*history.shape[:2], 0)
        assert self.task is not None, "a dream with an agent needs its task"
        return self.agent(self.task, memory, frames, blocks=self.dynamics.trunk.blocks, cache=self.agent_cache).float()

    def _pass(
        self, z: Tensor, tau: Sequence[float], d: Sequence[float], actions: Tensor, is_first: Tensor | None = None
    ) -> Prediction:
        """The world over frames in progress, whose levels `tau` and `d` are the same in all rows."""
        shape, device = z.shape[:2], z.device
        if is_first is None:
            is_first = torch.zeros(shape, dtype=torch.bool, device=device)
        levels = (torch.tensor(values, device=device).expand(shape) for values in (tau, d))
        return self.dynamics(z, *levels, actions, is_first, cache=self.world_cache)
