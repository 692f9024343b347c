"""Agent tokens and the heads that read them.

Agent tokens are a second stream: they attend to the dynamics' tokens, and no other token attends to them. With
`own_weights` the stream has layers of its own; otherwise it uses the dynamics' layers (`blocks`), as in the paper.
Legend: B rows, T frames, M agent tokens, W words, P tasks, D width, H features, A action factors, L distances.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from embody.config import ActionSpec, AgentConfig, TransformerConfig
from embody.data.goal import goal_of
from embody.nn.cache import RingCache
from embody.nn.distributions import FactoredCategorical, TwoHot
from embody.nn.norm import RMSNorm
from embody.nn.transformer import Block, Memory, initialise, run_second_stream

__all__ = ["Agent", "HeadOutputs", "Heads", "mlp"]


@dataclass(frozen=True)
class HeadOutputs:
    """The logits of the heads at timestep t."""

    policy: Tensor  # [..., L, sum(sizes)]: the actions of timesteps t+1 .. t+L
    reward: Tensor  # [..., L, bins]: the rewards of timesteps t .. t+L-1
    value: Tensor  # [..., bins]: the return after timestep t
    continues: Tensor  # [...]: logit that timestep t is not terminal


class Heads(nn.Module):
    """MLPs on the features; the policy and the reward head have one output layer for each distance [P]."""

    reward_mean: Tensor  # mean reward of the data if rewards are standardised, else 0
    reward_std: Tensor  # its standard deviation if rewards are standardised, else 1

    def __init__(self, config: AgentConfig, width: int, actions: ActionSpec) -> None:
        """`width` is the width of the agent tokens."""
        super().__init__()
        self.config, self.actions = config, actions
        features = config.tokens * width
        self.policy = mlp(features, config.hidden, config.distances * sum(actions.sizes))
        self.cloned: nn.Module | None = None  # the policy after behaviour cloning, if `support` needs it
        self.reward = mlp(features, config.hidden, config.distances * config.bins)
        self.value = mlp(features, config.hidden, config.bins)
        self.continues = mlp(features, config.hidden, 1)
        self.register_buffer("reward_mean", torch.zeros(()))
        self.register_buffer("reward_std", torch.ones(()))
        self.reward_bins = TwoHot(*config.reward_range, config.bins)
        self.value_bins = TwoHot(*config.value_range, config.bins)

    def forward(self, features: Tensor) -> HeadOutputs:
        """Outputs `[..., *]` of features `[..., H]`."""
        distances = (self.config.distances, -1)
        return HeadOutputs(
            policy=self.policy(features).unflatten(-1, distances),
            reward=self.reward(features).unflatten(-1, distances),
            value=self.value(features),
            continues=self.continues(features).squeeze(-1),
        )

    def expected_reward(self, logits: Tensor) -> Tensor:
        """Rewards `[...]` from logits `[..., bins]`, in the environment's units.

        They are decoded around the most likely bin: 1% of probability on distant bins would be as much as a step costs.
        """
        bins = self.reward_bins
        decoded = bins.decode(logits) if self.config.reward_loss == "mse" else bins.decode_peak(logits)
        return decoded * self.reward_std + self.reward_mean

    def act(self, features: Tensor, support: float = 0.0) -> FactoredCategorical:
        """The policy of the next action, restricted to the `support` of the cloned policy (see `SamplingConfig`)."""
        policy = self._next_action(self.policy, features)
        if not support:
            return policy
        cloned = policy if self.cloned is None else self._next_action(self.cloned, features)
        return policy.within_support_of(cloned, support)

    def keep_cloned_policy(self) -> None:
        """Keep a frozen copy of the policy, before imagination changes it, to restrict actions to its support."""
        self.cloned = copy.deepcopy(self.policy).requires_grad_(False)

    def _next_action(self, policy: nn.Module, features: Tensor) -> FactoredCategorical:
        size = sum(self.actions.sizes)
        return FactoredCategorical(policy(features)[..., :size], self.actions)


class Agent(nn.Module):
    """Embeds the task as agent tokens, which attend to the dynamics and become the features that the heads read."""

    def __init__(self, config: AgentConfig, trunk: TransformerConfig, actions: ActionSpec) -> None:
        """`trunk` is the dynamics' transformer; the agent's layers have its shape."""
        super().__init__()
        self.config, self.trunk, self.goal = config, trunk, goal_of(config.goal)
        width = trunk.width
        self.word = self.goal.word_embedding(config)
        self.task = nn.Linear(self.goal.task_inputs(config), config.tokens * width)
        self.token_MD = nn.Parameter(torch.randn(config.tokens, width))
        self.token_norm = RMSNorm(width)
        self.blocks = nn.ModuleList(Block(trunk, kind) for kind in trunk.layers * config.own_weights)
        self.norm = RMSNorm(width)
        self.heads = Heads(config, width, actions)
        self.apply(lambda module: initialise(module, trunk.depth))
        for head in (self.heads.policy, self.heads.reward, self.heads.value, self.heads.continues):
            last = head[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)

    def new_cache(self, rows: int, context: int, dtype: torch.dtype = torch.float32) -> RingCache:
        """An empty cache of the agent tokens, in the `dtype` of the dynamics' cache."""
        config, device = self.config, self.token_MD.device
        return RingCache(self.trunk, rows=rows, tokens=config.tokens, context=context, device=device, dtype=dtype)

    def forward(
        self, task: Tensor, memory: Memory, frames: int, *, blocks: Sequence[nn.Module], cache: RingCache | None = None
    ) -> Tensor:
        """Features `[B, T, H]` for `task`, from the dynamics' `memory` of `frames` = T frames.

        `task`: the words of a label, int64 `[B, W]`; in multi-achievement mode, the tasks left after each timestep,
        bool `[B, T, at most tasks]`. `blocks`: the dynamics' layers, used unless the agent owns its weights. With a
        cache the frames are provisional until `cache.commit`.
        """
        M, width = self.config.tokens, self.trunk.width
        task_BTMD = self.task(self.goal.inputs(task, self.word, self.config)).unflatten(-1, (M, width))
        g_BTMD = self.token_norm(task_BTMD + self.token_MD).expand(-1, frames, -1, -1)
        layers = self.blocks if self.config.own_weights else blocks
        g_BTMD = run_second_stream(list(layers), self.trunk, g_BTMD, memory, cache)
        return self.norm(g_BTMD).flatten(2)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """An MLP of three linear layers with SiLU."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, outputs)
    )
