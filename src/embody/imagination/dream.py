"""A batch of dreams (imagined rollouts). All latents that embody generates are generated here.

Legend: B rows, T timesteps, A action factors, L spatial tokens, Z channels, H features, P tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from embody.data.arrays import actions_tensor, flags_tensor, indices_tensor, latents_tensor, whole_number
from embody.data.goal import StepOutcome
from embody.dynamics import Dynamics, Prediction
from embody.dynamics.shortcut import noise_to
from embody.errors import UserError
from embody.model import WorldAndAgent
from embody.nn.cache import RingCache
from embody.nn.noise import Noise
from embody.nn.transformer import Memory

__all__ = ["Dream", "DreamStep", "Imagined"]


@dataclass(frozen=True)
class DreamStep:
    """One imagined timestep."""

    latents: Tensor  # float32 [B, L, Z]
    features: Tensor  # float32 [B, H], what the heads read
    reward: Tensor  # float32 [B]; [B, 0] without an agent
    continues: Tensor  # float32 [B], probability that the episode goes on; [B, 0] without an agent


@dataclass(frozen=True)
class Imagined:
    """`T` imagined timesteps after known actions: the fields of `DreamStep`, stacked along T."""

    latents: Tensor  # float32 [B, T, L, Z]
    features: Tensor  # float32 [B, T, H]
    reward: Tensor  # float32 [B, T]
    continues: Tensor  # float32 [B, T]
    achieved: Tensor  # bool [B, T, P]: the tasks that each step achieved, in multi-achievement mode; else P is 0


class Dream:
    """`reset` with a real context, then `step` with actions. Without an agent there are no features and rewards.

    The agent's goal gives rewards and continue probabilities (`embody.data.goal`). Every frame, real or dreamt, is
    re-noised to the context level when it is written into the cache, at (tau, d) = (context level, d_min). Time and
    memory of a step are constant, because the cache is a ring of at most `dynamics.config.context` frames.

    Arrays may also be given as lists or numpy arrays; a `UserError` if shape or type are wrong, an action is out of
    range, or a call comes before `reset`. Values of tensors on a GPU are not checked.
    """

    def __init__(
        self,
        model: Dynamics | WorldAndAgent,
        *,
        k_sample: int,
        noise: Noise,
        longest: int | None = None,
    ) -> None:
        """`model`: the dynamics alone or with the agent. `longest`: frames of the longest dream, context included, if
        known; the ring then holds no more. Raises a `UserError` if `k_sample` does not divide `k_max`."""
        if not isinstance(model, Dynamics | WorldAndAgent):
            raise UserError(f"a dream needs a Dynamics or a WorldAndAgent, got a {type(model).__name__}")
        self.model = model
        self.with_agent = None if isinstance(model, Dynamics) else model  # the model, if it has an agent
        self.dynamics = dynamics = model if isinstance(model, Dynamics) else model.dynamics
        self.agent = self.with_agent.agent if self.with_agent else None
        if whole_number(k_sample, "k_sample") < 1 or dynamics.config.k_max % k_sample:
            raise UserError(f"k_sample {k_sample} must divide k_max {dynamics.config.k_max}: choose a power of two")
        self.k_sample, self.noise = k_sample, noise
        if longest is not None:
            whole_number(longest, "longest", low=1)
        self.rows: int | None = None  # B, once there is a context
        self.ring = min(longest or dynamics.config.context, dynamics.config.context)
        self.d_min = 1 / dynamics.config.k_max
        self.levels: dict[tuple[float, ...], Tensor] = {}  # tensors of signal levels and step sizes, for reuse
        self.pending: tuple[Tensor, Tensor] | None = None  # latents and actions of a frame not in the cache yet
        self.world_cache: RingCache | None = None
        self.agent_cache: RingCache | None = None
        self.task: Tensor | None = None  # the current task: words of a label [B, W], or the tasks left [B, 1, P]
        self.last: Tensor | None = None  # latents [B, L, Z] of the last frame
        self.last_outcome: StepOutcome | None = None  # the predicted outcome of the last step

    @torch.no_grad()
    def reset(
        self, latents: Tensor, actions: Tensor, is_first: Tensor, task: Tensor | None = None, *, frames_before: int = 0
    ) -> Tensor:
        """Start from a context: latents `[B, T, *, *]`, actions `[B, T, A]`, is_first `[B, T]`, and a batch's `task`.

        `frames_before` is the time index of the first frame: that many earlier frames are forgotten. Returns features
        `[B, T, H]`, empty without an agent. Raises a `UserError` if the context is longer than the ring.
        """
        latents = self._latents(latents, "BT")
        rows, frames = latents.shape[:2]
        actions, is_first = self._actions(actions, rows, frames), self._flags(is_first, rows, frames)
        if self.with_agent is not None and (not isinstance(task, Tensor) or len(task) != rows):
            raise UserError(f"a dream with an agent needs its task, a tensor with {rows} rows")
        if frames > self.ring:
            limit = "dynamics.context" if self.ring == self.dynamics.config.context else "the longest dream"
            raise UserError(f"a context of {frames} frames does not fit {limit} {self.ring}")
        self.world_cache = self.dynamics.new_cache(rows, self.ring)
        self.agent_cache = self.agent.new_cache(rows, self.ring, self.world_cache.dtype) if self.agent else None
        for cache in (self.world_cache, self.agent_cache):
            if cache is not None:
                cache.start_at(frames_before)
        self.task, self.pending, self.rows = task, None, rows
        features = self._see(self.dynamics.pack(latents), actions, is_first)
        if task is not None and self.with_agent is not None:
            self.task = self.with_agent.goal.select_timesteps(task, slice(-1, None))
        return features

    @torch.no_grad()
    def reread(self, rows: Tensor, latents: Tensor, actions: Tensor, is_first: Tensor, task: Tensor) -> Tensor:
        """Compute the history of `rows` (int64 `[n]`) again for other tasks `[n, W]`; other arguments are as in
        `reset`.

        Returns the features `[n, T, H]` of these rows. Other rows do not change.
        """
        self.flush()
        assert self.world_cache is not None and self.agent_cache is not None and self.task is not None
        recomputed = Dream(self.model, k_sample=self.k_sample, noise=self.noise, longest=self.ring)
        before = self.world_cache.frames - latents.shape[1]
        features = recomputed.reset(latents, actions, is_first, task, frames_before=before)
        assert recomputed.world_cache is not None and recomputed.agent_cache is not None
        self.world_cache.replace(rows, recomputed.world_cache)
        self.agent_cache.replace(rows, recomputed.agent_cache)
        self.task = self.task.index_copy(0, rows, task)
        return features

    @torch.no_grad()
    def observe(self, latents: Tensor, actions: Tensor, task: Tensor | None = None) -> Tensor:
        """Add a real frame, latents `[B, *, *]` after actions `[B, A]`. Returns features `[B, H]`.

        `task`, as in a batch of one timestep, is the task from now on.
        """
        rows = self._begun()
        latents, actions = self._latents(latents, "B", rows), self._actions(actions, rows)
        self.flush()
        if task is not None:
            self.task = task
        return self._see(self.dynamics.pack(latents[:, None]), actions[:, None])[:, 0]

    @torch.no_grad()
    def step(self, actions: Tensor) -> DreamStep:
        """Imagine the timestep after `actions`, int64 `[B, A]`, with its features and outcome, in K + 1 passes."""
        self.flush()
        latents, _ = self.advance(actions)
        features = self.flush()
        assert self.last_outcome is not None
        return DreamStep(latents, features, *self._outcome(features, self.last_outcome))

    @torch.no_grad()
    def advance(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Latents `[B, L, Z]` of the timestep after `actions`, int64 `[B, A]`, in K passes. The frame stays pending.

        If the frame before is pending, the first pass also writes it into the cache, and its features `[B, H]` are
        returned; otherwise, and without an agent, they are empty. `flush` writes the last frame.
        """
        actions = self._actions(actions, self._begun())
        z_B1LZ, features = self._sample(actions[:, None])
        self.pending = z_B1LZ, actions[:, None]
        self.last_outcome = self._step_outcome(actions, z_B1LZ[:, 0])
        return z_B1LZ[:, 0], features[:, 0]

    @torch.no_grad()
    def flush(self) -> Tensor:
        """Write the pending frame into the cache, if there is one. Returns its features `[B, H]`, else empty ones."""
        if self.pending is None:
            return torch.zeros(0, 0, device=self.noise.device)
        pending, self.pending = self.pending, None
        return self._keep(*pending)[:, 0]

    @torch.no_grad()
    def imagine(self, actions: Tensor) -> Imagined:
        """Imagine the timesteps after known actions, int64 `[B, T, A]`, T >= 1, with the results of repeated `step`.

        It takes K passes a frame instead of K + 1: the first denoising pass of a frame also writes the frame before it
        into the cache.
        """
        array = actions if isinstance(actions, Tensor) else np.asarray(actions)
        steps_ahead = array.shape[1] if array.ndim > 1 else 0
        if not steps_ahead:
            raise UserError(f"imagine: actions must be int64 [B, T, A] with T >= 1, got {list(array.shape)}")
        actions = self._actions(actions, self._begun(), steps_ahead)
        self.flush()
        latents, features, outcomes = [], [], []
        for action in actions.unbind(dim=1):
            z_BLZ, features_BH = self.advance(action)
            latents.append(z_BLZ)
            features.append(features_BH)  # features of the frame before
            assert self.last_outcome is not None
            outcomes.append(self.last_outcome)
        features_BTH = torch.stack((*features[1:], self.flush()), dim=1)
        steps = StepOutcome(*(torch.stack(parts, dim=1) for parts in zip(*outcomes, strict=True)))
        outcome = self._outcome(features_BTH, steps)
        return Imagined(torch.stack(latents, dim=1), features_BTH, *outcome, steps.achieved)

    def _begun(self) -> int:
        """B; a `UserError` if there is no context yet."""
        if self.rows is None:
            raise UserError("the dream has no context yet: call reset first")
        return self.rows

    def _latents(self, latents: Tensor, axes: str, *rows: int) -> Tensor:
        numbers = self.dynamics.config.tokens * self.dynamics.config.channels
        return latents_tensor(latents, "latents", axes, numbers, *rows, device=self.noise.device)

    def _actions(self, actions: Tensor, *leading: int) -> Tensor:
        return actions_tensor(actions, "actions", self.dynamics.actions.sizes, *leading, device=self.noise.device)

    def _flags(self, is_first: Tensor, *shape: int) -> Tensor:
        return flags_tensor(is_first, "is_first", *shape, device=self.noise.device)

    def _step_outcome(self, actions: Tensor, z: Tensor) -> StepOutcome:
        """The predicted outcome of a step whose `actions` `[B, A]` led from the last frame to `z` `[B, L, Z]`.

        Sets `task` to the tasks that are left after it.
        """
        before, self.last = self.last, z
        if self.with_agent is None:
            return StepOutcome.nothing(len(actions), z.device)
        assert self.task is not None and before is not None, "call reset with a task first"
        self.task, outcome = self.with_agent.goal.step_outcome(self.with_agent, self.task, before, actions, z)
        return outcome

    def _outcome(self, features: Tensor, predicted: StepOutcome) -> tuple[Tensor, Tensor]:
        """Reward and continue probability `[...]` at features `[..., H]`; empty without an agent."""
        if self.with_agent is None:
            return predicted.reward, predicted.continues
        return self.with_agent.goal.outcome(self.with_agent, features, predicted.reward, predicted.continues)

    @torch.no_grad()
    def select(self, rows: Tensor) -> None:
        """Keep only the dreams `rows`, int64 `[n]`."""
        rows = indices_tensor(rows, "rows", self._begun(), device=self.noise.device)
        assert self.world_cache is not None
        self.flush()
        self.rows = len(rows)
        self.world_cache = self.world_cache.select(rows)
        self.agent_cache = self.agent_cache.select(rows) if self.agent_cache else None
        self.task = self.task[rows] if self.task is not None else None
        self.last = self.last[rows] if self.last is not None else None

    def _sample(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """A sampled frame `[B, 1, L, Z]`: K steps of `z <- z + d (z^ - z) / (1 - tau)` from noise, with d = 1 / K.

        The first pass also writes a pending frame into the cache; its features `[B, 1, H]` are returned, else empty
        ones.
        """
        pending, self.pending = self.pending, None
        history = None if pending is None else self._to_context_level(pending[0])
        shape = (len(actions), 1, self.dynamics.config.tokens, self.dynamics.config.channels)
        z = self.noise.normal(*shape)
        d, features = 1 / self.k_sample, z.new_zeros(len(actions), 1, 0)
        for k in range(self.k_sample):
            tau = k * d
            if pending is None or history is None or k:
                clean = self._pass(z, [tau], [d], actions).clean
            else:
                levels = [self.dynamics.context_level, tau], [self.d_min, d]
                both = self._pass(torch.cat((history, z), dim=1), *levels, torch.cat((pending[1], actions), dim=1))
                clean = both.clean[:, 1:]
                features = self._commit(history, Memory(tuple(x_BTSD[:, :1] for x_BTSD in both.memory.inputs)))
            z = z + (clean - z) / (1 - tau) * d
        return z, features

    def _see(self, z: Tensor, actions: Tensor, is_first: Tensor | None = None) -> Tensor:
        """`_keep` for real frames."""
        self.last = z[:, -1]
        return self._keep(z, actions, is_first)

    def _keep(self, z: Tensor, actions: Tensor, is_first: Tensor | None = None) -> Tensor:
        """Write finished frames `[B, T, L, Z]` into the cache; returns their features `[B, T, H]`."""
        frames, history = z.shape[1], self._to_context_level(z)
        levels = [self.dynamics.context_level] * frames, [self.d_min] * frames
        return self._commit(history, self._pass(history, *levels, actions, is_first, memory_only=True).memory)

    def _to_context_level(self, z: Tensor) -> Tensor:
        tau = torch.full(z.shape[:2], self.dynamics.context_level, device=z.device)
        return noise_to(tau, z, self.noise.normal(*z.shape))

    def _commit(self, history: Tensor, memory: Memory) -> Tensor:
        assert self.world_cache is not None
        frames = history.shape[1]
        self.world_cache.commit(frames)
        if self.agent is None or self.agent_cache is None:
            return history.new_zeros(*history.shape[:2], 0)
        assert self.task is not None, "a dream with an agent needs its task"
        blocks = self.dynamics.trunk.blocks
        features = self.agent(self.task, memory, frames, blocks=blocks, cache=self.agent_cache)
        self.agent_cache.commit(frames)
        return features.float().clone()  # a compiled step writes its next result to the same place

    def _pass(
        self,
        z: Tensor,
        tau: Sequence[float],
        d: Sequence[float],
        actions: Tensor,
        is_first: Tensor | None = None,
        memory_only: bool = False,
    ) -> Prediction:
        """A forward pass of the dynamics over provisional frames, with the same `tau` and `d` in all rows."""
        shape = z.shape[:2]
        if is_first is None:
            is_first = torch.zeros(shape, dtype=torch.bool, device=z.device)
        levels = (self._level(tuple(values)).expand(shape) for values in (tau, d))
        return self.dynamics(z, *levels, actions, is_first, cache=self.world_cache, memory_only=memory_only)

    def _level(self, values: tuple[float, ...]) -> Tensor:
        if values not in self.levels:
            self.levels[values] = torch.tensor(values, device=self.noise.device)
        return self.levels[values]
