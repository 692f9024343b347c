"""A batch of dreams, side by side: the one way in which latents are generated.

Legend: B rows, T timesteps, A action factors, L spatial tokens, Z channels, H features, P tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
    """One imagined timestep: what arrived after an action."""

    latents: Tensor  # float32 [B, L, Z]
    features: Tensor  # float32 [B, H], what the heads read
    reward: Tensor  # float32 [B]; [B, 0] without an agent
    continues: Tensor  # float32 [B], probability that the episode goes on; [B, 0] without an agent


@dataclass(frozen=True)
class Imagined:
    """`T` imagined timesteps, that known actions led to: the fields of `DreamStep`, stacked along T."""

    latents: Tensor  # float32 [B, T, L, Z]
    features: Tensor  # float32 [B, T, H]
    reward: Tensor  # float32 [B, T]
    continues: Tensor  # float32 [B, T]
    achieved: Tensor  # bool [B, T, P]: the tasks that each step achieved, in multi-achievement mode; else P is 0


class Dream:
    """`reset` with a real context, then `step` with actions. Without an agent there are no features and rewards.

    What a step pays, and whether the episode goes on, is for the agent's goal to say (`embody.data.goal`).
    Every frame is kept re-noised to the context level, with its (tau, d) index, whether it was real or dreamt.
    Time and memory a step do not grow: the history is a ring of `dynamics.config.context` frames.
    """

    def __init__(
        self,
        model: Dynamics | WorldAndAgent,
        *,
        k_sample: int,
        noise: Noise,
        longest: int | None = None,
    ) -> None:
        """`model`: a world alone, or with its agent. `longest`: frames of the longest dream, its context included, if
        that is known: the ring holds no more. A `UserError` if `k_sample` does not divide the grid of levels."""
        self.model = model
        self.with_agent = None if isinstance(model, Dynamics) else model  # the model, if it has an agent
        self.dynamics = dynamics = model if isinstance(model, Dynamics) else model.dynamics
        self.agent = self.with_agent.agent if self.with_agent else None
        if k_sample < 1 or dynamics.config.k_max % k_sample:
            raise UserError(f"k_sample {k_sample} must divide k_max {dynamics.config.k_max}: choose a power of two")
        self.k_sample, self.noise = k_sample, noise
        self.ring = min(longest or dynamics.config.context, dynamics.config.context)
        self.d_min = 1 / dynamics.config.k_max
        self.levels: dict[tuple[float, ...], Tensor] = {}  # made once
        self.pending: tuple[Tensor, Tensor] | None = None  # latents and actions of a finished frame not kept yet
        self.world_cache: RingCache | None = None
        self.agent_cache: RingCache | None = None
        self.task: Tensor | None = None  # what is asked for now: a label [B, W], or the tasks that are left [B, 1, P]
        self.last: Tensor | None = None  # latents [B, L, Z] of the last frame
        self.last_outcome: StepOutcome | None = None  # what the last step brought

    @torch.no_grad()
    def reset(
        self, latents: Tensor, actions: Tensor, is_first: Tensor, task: Tensor | None = None, *, frames_before: int = 0
    ) -> Tensor:
        """Begin anew from context latents `[B, T, *, *]`, actions `[B, T, A]`, is_first `[B, T]`, and the batch's task.

        `frames_before` the context others passed, which are forgotten.
        Returns features `[B, T, H]` (empty without an agent).
        """
        rows, frames = latents.shape[:2]
        if frames > self.ring:
            limit = "dynamics.context" if self.ring == self.dynamics.config.context else "the longest dream"
            raise UserError(f"a context of {frames} frames does not fit {limit} {self.ring}")
        self.world_cache = self.dynamics.new_cache(rows, self.ring)
        self.agent_cache = self.agent.new_cache(rows, self.ring, self.world_cache.dtype) if self.agent else None
        for cache in (self.world_cache, self.agent_cache):
            if cache is not None:
                cache.start_at(frames_before)
        self.task, self.pending = task, None
        features = self._see(self.dynamics.pack(latents), actions, is_first)
        if task is not None and self.with_agent is not None:
            self.task = self.with_agent.goal.select_timesteps(task, slice(-1, None))
        return features

    @torch.no_grad()
    def reread(self, rows: Tensor, latents: Tensor, actions: Tensor, is_first: Tensor, task: Tensor) -> Tensor:
        """The history of `rows` (int64 `[n]`), as `reset` takes it, is read anew under other tasks `[n, W]`.

        Returns their features `[n, T, H]`. The others stay as they are.
        """
        self.flush()
        assert self.world_cache is not None and self.agent_cache is not None and self.task is not None
        anew = Dream(self.model, k_sample=self.k_sample, noise=self.noise, longest=self.ring)
        before = self.world_cache.frames - latents.shape[1]
        features = anew.reset(latents, actions, is_first, task, frames_before=before)
        assert anew.world_cache is not None and anew.agent_cache is not None
        self.world_cache.replace(rows, anew.world_cache)
        self.agent_cache.replace(rows, anew.agent_cache)
        self.task = self.task.index_copy(0, rows, task)
        return features

    @torch.no_grad()
    def observe(self, latents: Tensor, actions: Tensor, task: Tensor | None = None) -> Tensor:
        """A real frame came: latents `[B, *, *]` after actions `[B, A]`. Returns features `[B, H]`.

        `task`, as that of a batch of one timestep: what is asked for from now on.
        """
        self.flush()
        if task is not None:
            self.task = task
        return self._see(self.dynamics.pack(latents[:, None]), actions[:, None])[:, 0]

    @torch.no_grad()
    def step(self, actions: Tensor) -> DreamStep:
        """Imagine the timestep that `actions` int64 `[B, A]` lead to, and what the agent sees in it: K + 1 passes."""
        self.flush()
        latents, _ = self.advance(actions)
        features = self.flush()
        assert self.last_outcome is not None
        return DreamStep(latents, features, *self._outcome(features, self.last_outcome))

    @torch.no_grad()
    def advance(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Latents `[B, L, Z]` of the timestep that `actions` int64 `[B, A]` lead to, in K passes: it is not kept yet.

        The first pass keeps the frame before, if that is still to be done; its features `[B, H]` are returned too
        (empty otherwise, and without an agent). `flush` keeps the last one.
        """
        z_B1LZ, features = self._sample(actions[:, None])
        self.pending = z_B1LZ, actions[:, None]
        self.last_outcome = self._step_outcome(actions, z_B1LZ[:, 0])
        return z_B1LZ[:, 0], features[:, 0]

    @torch.no_grad()
    def flush(self) -> Tensor:
        """Keep the frame that `advance` left, if any; returns its features `[B, H]`, as `advance` does."""
        if self.pending is None:
            return torch.zeros(0, 0, device=self.noise.device)
        pending, self.pending = self.pending, None
        return self._keep(*pending)[:, 0]

    @torch.no_grad()
    def imagine(self, actions: Tensor) -> Imagined:
        """The timesteps that known actions int64 `[B, T, A]`, T >= 1, lead to: the same as `step` after `step`.

        K passes a frame, not K + 1: a finished frame is kept in the pass that begins to denoise the next one.
        """
        self.flush()
        latents, features, judged = [], [], []
        for action in actions.unbind(dim=1):
            z_BLZ, features_BH = self.advance(action)
            latents.append(z_BLZ)
            features.append(features_BH)  # of the frame before
            assert self.last_outcome is not None
            judged.append(self.last_outcome)
        features_BTH = torch.stack((*features[1:], self.flush()), dim=1)
        steps = StepOutcome(*(torch.stack(parts, dim=1) for parts in zip(*judged, strict=True)))
        outcome = self._outcome(features_BTH, steps)
        return Imagined(torch.stack(latents, dim=1), features_BTH, *outcome, steps.achieved)

    def _step_outcome(self, actions: Tensor, z: Tensor) -> StepOutcome:
        """What the step brought whose `actions` `[B, A]` led from the last frame to `z` `[B, L, Z]`.

        `task` becomes what is then left to do.
        """
        before, self.last = self.last, z
        if self.with_agent is None:
            return StepOutcome.nothing(len(actions), z.device)
        assert self.task is not None and before is not None, "reset comes first, and says what is asked"
        self.task, judged = self.with_agent.goal.step_outcome(self.with_agent, self.task, before, actions, z)
        return judged

    def _outcome(self, features: Tensor, judged: StepOutcome) -> tuple[Tensor, Tensor]:
        """Reward and continue probability `[...]` at features `[..., H]`; empty without an agent."""
        if self.with_agent is None:
            return judged.reward, judged.continues
        return self.with_agent.goal.outcome(self.with_agent, features, judged.reward, judged.continues)

    @torch.no_grad()
    def select(self, rows: Tensor) -> None:
        """Go on with the chosen `rows` only (int64 `[n]`)."""
        assert self.world_cache is not None
        self.flush()
        self.world_cache = self.world_cache.select(rows)
        self.agent_cache = self.agent_cache.select(rows) if self.agent_cache else None
        self.task = self.task[rows] if self.task is not None else None
        self.last = self.last[rows] if self.last is not None else None

    def _sample(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """K steps of `z <- z + d (z^ - z) / (1 - tau)` from noise, with d = 1 / K: `[B, 1, L, Z]`.

        The first step's pass keeps the frame before if that is still to be done: its features `[B, 1, H]` are returned
        too (empty otherwise).
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
        """As `_keep`, of real frames."""
        self.last = z[:, -1]
        return self._keep(z, actions, is_first)

    def _keep(self, z: Tensor, actions: Tensor, is_first: Tensor | None = None) -> Tensor:
        """Features `[B, T, H]` of finished frames `[B, T, L, Z]`, which become history."""
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
        """The world over frames in progress, whose levels `tau` and `d` are the same in all rows."""
        shape = z.shape[:2]
        if is_first is None:
            is_first = torch.zeros(shape, dtype=torch.bool, device=z.device)
        levels = (self._level(tuple(values)).expand(shape) for values in (tau, d))
        return self.dynamics(z, *levels, actions, is_first, cache=self.world_cache, memory_only=memory_only)

    def _level(self, values: tuple[float, ...]) -> Tensor:
        if values not in self.levels:
            self.levels[values] = torch.tensor(values, device=self.noise.device)
        return self.levels[values]
