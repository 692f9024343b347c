"""A batch of dreams, side by side: the one way in which latents are generated.

Legend: B rows, T frames, A action factors, L spatial tokens, Z channels, H features, P tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from embody.dynamics import Dynamics, Prediction
from embody.dynamics.shortcut import noise_to
from embody.errors import UserError
from embody.model import WorldAndAgent
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
    achieved: Tensor | None  # bool [B, T, P]: tasks, of a goal of all, that were left until then


class Judged(NamedTuple):
    """What a step brought where all tasks are one goal."""

    achieved: Tensor  # bool [B, P] or [B, T, P]: of the tasks that were left
    cost: Tensor  # float32 [B] or [B, T]: expected
    continues: Tensor  # of the same shape: probability that the episode goes on


class Dream:
    """`reset` with a real context, then `step` with actions. Without an agent there are no features and rewards.

    Where all tasks are one goal, `events` read off the frames which of those left come about: each is paid once. What a
    step costs, and whether the episode goes on, is then what `risk` expects of the frame before and the action.
    Every frame is kept re-noised to the context level, with its (tau, d) index, whether it was real or dreamt.
    Time and memory a step do not grow: the history is a ring of `dynamics.config.context` frames.
    """

    def __init__(
        self,
        model: Dynamics | WorldAndAgent,
        *,
        k_sample: int,
        generator: torch.Generator,
        longest: int | None = None,
    ) -> None:
        """`model`: a world alone, or with its agent. `longest`: frames of the longest dream, its context included, if
        that is known: the ring holds no more. A `UserError` if `k_sample` does not divide the grid of levels."""
        self.model = model
        if isinstance(model, Dynamics):
            self.dynamics, self.agent, self.events, self.risk = model, None, None, None
        else:
            self.dynamics, self.agent, self.events, self.risk = model.dynamics, model.agent, model.events, model.risk
        dynamics = self.dynamics
        if k_sample < 1 or dynamics.config.k_max % k_sample:
            raise UserError(f"k_sample {k_sample} must divide k_max {dynamics.config.k_max}: choose a power of two")
        self.k_sample, self.generator = k_sample, generator
        self.ring = min(longest or dynamics.config.context, dynamics.config.context)
        self.d_min = 1 / dynamics.config.k_max
        self.levels: dict[tuple[float, ...], Tensor] = {}  # made once
        self.unkept: tuple[Tensor, Tensor] | None = None  # latents and actions of a finished frame not kept yet
        self.world_cache: RingCache | None = None
        self.agent_cache: RingCache | None = None
        self.task: Tensor | None = None  # a label [B, W]; of a goal of all tasks what is left, bool [B, 1, P]
        self.last: Tensor | None = None  # latents [B, L, Z] of the last frame, where events are read
        self.judged: Judged | None = None  # the last step

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
        self.task, self.unkept = task, None
        features = self._see(self.dynamics.pack(latents), actions, is_first)
        if task is not None and task.dim() == 3:
            self.task = task[:, -1:]
        return features

    @torch.no_grad()
    def reread(self, rows: Tensor, latents: Tensor, actions: Tensor, is_first: Tensor, task: Tensor) -> Tensor:
        """The history of `rows` (int64 `[n]`), as `reset` takes it, is read anew under other tasks `[n, W]`.

        Returns their features `[n, T, H]`. The others stay as they are.
        """
        self.settle()
        assert self.world_cache is not None and self.agent_cache is not None and self.task is not None
        anew = Dream(self.model, k_sample=self.k_sample, generator=self.generator, longest=self.ring)
        before = self.world_cache.frames - latents.shape[1]
        features = anew.reset(latents, actions, is_first, task, frames_before=before)
        assert anew.world_cache is not None and anew.agent_cache is not None
        self.world_cache.replace(rows, anew.world_cache)
        self.agent_cache.replace(rows, anew.agent_cache)
        self.task = self.task.index_copy(0, rows, task)
        return features

    @torch.no_grad()
    def observe(self, latents: Tensor, actions: Tensor, left: Tensor | None = None) -> Tensor:
        """A real frame came: latents `[B, *, *]` after actions `[B, A]`. Returns features `[B, H]`.

        `left` bool `[B, P]`: of a goal of all tasks, those that are left now.
        """
        self.settle()
        if left is not None:
            self.task = left[:, None]
        return self._see(self.dynamics.pack(latents[:, None]), actions[:, None])[:, 0]

    @torch.no_grad()
    def step(self, actions: Tensor) -> DreamStep:
        """Imagine the slot that `actions` int64 `[B, A]` lead to, and what the agent sees in it: K + 1 passes."""
        self.settle()
        latents, _ = self.advance(actions)
        features = self.settle()
        return DreamStep(latents, features, *self._outcome(features, self.judged))

    @torch.no_grad()
    def advance(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Latents `[B, L, Z]` of the slot that `actions` int64 `[B, A]` lead to, in K passes: it is not kept yet.

        The first pass keeps the frame before, if that is still to be done; its features `[B, H]` are returned too
        (empty otherwise, and without an agent). `settle` keeps the last one.
        """
        z_B1LZ, features = self._sample(actions[:, None])
        self.unkept = z_B1LZ, actions[:, None]
        self._judge(actions, z_B1LZ[:, 0])
        return z_B1LZ[:, 0], features[:, 0]

    @torch.no_grad()
    def settle(self) -> Tensor:
        """Keep the frame that `advance` left, if any; returns its features `[B, H]`, as `advance` does."""
        if self.unkept is None:
            return torch.zeros(0, 0, device=self.generator.device)
        unkept, self.unkept = self.unkept, None
        return self._keep(*unkept)[:, 0]

    @torch.no_grad()
    def imagine(self, actions: Tensor) -> Imagined:
        """The slots that known actions int64 `[B, T, A]`, T >= 1, lead to: the same as `step` after `step`.

        K passes a frame, not K + 1: a finished frame is kept in the pass that begins to denoise the next one.
        """
        self.settle()
        latents, features, judged = [], [], []
        for action in actions.unbind(dim=1):
            z_BLZ, features_BH = self.advance(action)
            latents.append(z_BLZ)
            features.append(features_BH)  # of the frame before
            judged.append(self.judged)
        features_BTH = torch.stack((*features[1:], self.settle()), dim=1)
        steps = [step for step in judged if step is not None]
        in_time = (torch.stack(parts, dim=1) for parts in zip(*steps, strict=True))
        of_all = Judged(*in_time) if steps else None
        outcome = self._outcome(features_BTH, of_all)
        return Imagined(torch.stack(latents, dim=1), features_BTH, *outcome, of_all.achieved if of_all else None)

    def _judge(self, actions: Tensor, z: Tensor) -> None:
        """What `actions` `[B, A]`, which led to `z` `[B, L, Z]` from the last frame, bring; what came is not left."""
        if self.events is None or self.risk is None:
            return
        assert self.task is not None and self.last is not None, "a dream whose steps are judged needs what is left"
        left_BP = self.task[:, 0]
        achieved = left_BP & (self.events(self.last, z)[:, : left_BP.shape[1]] > 0)
        self.judged = Judged(achieved, *self.risk.expected(self.last, actions))
        self.task, self.last = (left_BP & ~achieved)[:, None], z

    def _outcome(self, features: Tensor, judged: Judged | None) -> tuple[Tensor, Tensor]:
        """Reward and continue probability `[...]` at features `[..., H]`; empty without an agent.

        `r_t = sum_k achieved_k - E[cost | z_{t-1}, a_t]` and `c_t = 1 - P[end | z_{t-1}, a_t]` where steps are judged.
        """
        if self.agent is None:
            return features.new_zeros(*features.shape[:-1], 0), features.new_zeros(*features.shape[:-1], 0)
        if judged is not None:
            return judged.achieved.sum(dim=-1) - judged.cost, judged.continues
        out = self.agent.heads(features)
        # In bfloat16 a chance to end below 0.2% would be none.
        return self.agent.heads.expected_reward(out.reward[..., 0, :]), out.continues.float().sigmoid()

    @torch.no_grad()
    def select(self, rows: Tensor) -> None:
        """Go on with the chosen `rows` only (int64 `[n]`)."""
        assert self.world_cache is not None
        self.settle()
        self.world_cache = self.world_cache.select(rows)
        self.agent_cache = self.agent_cache.select(rows) if self.agent_cache else None
        self.task = self.task[rows] if self.task is not None else None
        self.last = self.last[rows] if self.last is not None else None

    def _sample(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """K steps of `z <- z + d (z^ - z) / (1 - tau)` from noise, with d = 1 / K: `[B, 1, L, Z]`.

        The first step's pass keeps the frame before if that is still to be done: its features `[B, 1, H]` are returned
        too (empty otherwise).
        """
        unkept, self.unkept = self.unkept, None
        history = None if unkept is None else self._to_context_level(unkept[0])
        shape = (len(actions), 1, self.dynamics.config.tokens, self.dynamics.config.channels)
        z = torch.randn(shape, generator=self.generator, device=self.generator.device)
        d, features = 1 / self.k_sample, z.new_zeros(len(actions), 1, 0)
        for k in range(self.k_sample):
            tau = k * d
            if unkept is None or history is None or k:
                clean = self._pass(z, [tau], [d], actions).clean
            else:
                levels = [self.dynamics.context_level, tau], [self.d_min, d]
                both = self._pass(torch.cat((history, z), dim=1), *levels, torch.cat((unkept[1], actions), dim=1))
                clean = both.clean[:, 1:]
                features = self._commit(history, Memory(tuple(x_BTSD[:, :1] for x_BTSD in both.memory.inputs)))
            z = z + (clean - z) / (1 - tau) * d
        return z, features

    def _see(self, z: Tensor, actions: Tensor, is_first: Tensor | None = None) -> Tensor:
        """As `_keep`, of real frames."""
        self.last = z[:, -1] if self.events else None
        return self._keep(z, actions, is_first)

    def _keep(self, z: Tensor, actions: Tensor, is_first: Tensor | None = None) -> Tensor:
        """Features `[B, T, H]` of finished frames `[B, T, L, Z]`, which become history."""
        frames, history = z.shape[1], self._to_context_level(z)
        levels = [self.dynamics.context_level] * frames, [self.d_min] * frames
        return self._commit(history, self._pass(history, *levels, actions, is_first, memory_only=True).memory)

    def _to_context_level(self, z: Tensor) -> Tensor:
        tau = torch.full(z.shape[:2], self.dynamics.context_level, device=z.device)
        return noise_to(tau, z, torch.randn(z.shape, generator=self.generator, device=z.device))

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
            self.levels[values] = torch.tensor(values, device=self.generator.device)
        return self.levels[values]
