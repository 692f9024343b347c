"""Losses of the agent: behaviour cloning, reward, value and continue (phase 2), PMPO with lambda-returns (phase 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embody.agent.model import Heads
from embody.config import AgentObjective, ImaginationConfig
from embody.data.sampling.batch import Batch
from embody.nn.distributions import FactoredCategorical
from embody.nn.masked_mean import Reduce, masked_mean, one_process
from embody.nn.running_rms import RunningRms

__all__ = ["AgentLoss", "PmpoLoss", "targets_ahead", "lambda_returns", "end_at_reward"]


def targets_ahead(x: Tensor, mask: Tensor, first: int, distances: int) -> tuple[Tensor, Tensor]:
    """Targets of multi-token prediction: `y[:, t, n] = x[:, t + first + n]` for n < `distances`, and their mask.

    `x` is `[B, T, ...]`, the targets `[B, T, L, ...]`, the mask bool `[B, T, L]`: true if timesteps t and t + first + n
    are both inside the clip and true in `mask`, `[B, T]`.
    """
    T = x.shape[1]
    timestep_TL = torch.arange(T, device=x.device)[:, None] + first + torch.arange(distances, device=x.device)
    inside_TL, timestep_TL = timestep_TL < T, timestep_TL.clamp(max=T - 1)
    return x[:, timestep_TL], mask[:, timestep_TL] & inside_TL & mask[:, :, None]


def lambda_returns(rewards: Tensor, continues: Tensor, values: Tensor, gamma: float, lambda_: float) -> Tensor:
    """`R_t = r_{t+1} + gamma c_{t+1} ((1 - lambda) v_{t+1} + lambda R_{t+1})`, `R_T = v_T`.

    Inputs are `[B, T + 1]`: r_t and c_t arrive with frame t (index 0 is not used), and v_t values what follows timestep
    t. The result is `[B, T]`, for timesteps 0 to T - 1.
    """
    result = [values[:, -1]]
    for t in reversed(range(values.shape[1] - 1)):
        mixed = (1 - lambda_) * values[:, t + 1] + lambda_ * result[-1]
        result.append(rewards[:, t + 1] + gamma * continues[:, t + 1] * mixed)
    return torch.stack(result[:0:-1], dim=1)


def end_at_reward(rewards: Tensor, continues: Tensor) -> Tensor:
    """`c_t <- c_t (1 - r_t)`: continue probabilities of a task that ends with its reward, in the shape of the
    inputs."""
    return continues * (1 - rewards.clamp(0, 1))


class AgentLoss(nn.Module):
    """Sum of four losses, each over its running RMS: behaviour cloning, reward, value and continue.

    Policy and reward predict L distances; the value learns the recorded returns, the continue head `1 - is_terminal`.
    """

    def __init__(self, objective: AgentObjective) -> None:
        super().__init__()
        self.objective = objective
        self.rms = nn.ModuleDict({name: RunningRms() for name in ("policy", "reward", "value", "continue")})

    def forward(
        self, heads: Heads, features: Tensor, batch: Batch, *, reduce: Reduce = one_process
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics at the timesteps of features `[B, T, H]`.

        The policy learns only from rows whose `bc` is true. Unlabelled rows (plain videos) teach nothing.
        """
        out, L = heads(features), heads.config.distances
        mask = batch.mask & batch.labelled[:, None]
        action_BTLA, action_mask = targets_ahead(batch.actions, mask, 1, L)
        action_mask &= batch.bc[:, None, None]
        if not self.objective.clone_null:
            action_mask &= ~targets_ahead(batch.is_null, mask, 1, L)[0]
        policy = FactoredCategorical(out.policy, heads.actions)
        reward_BTL, reward_mask = targets_ahead(batch.rewards, mask, 0, L)
        terms = {
            "policy": masked_mean(-policy.log_prob(action_BTLA), action_mask, reduce),
            "reward": masked_mean(self._reward_loss(heads, out.reward, reward_BTL), reward_mask, reduce),
            "value": masked_mean(heads.value_bins.loss(out.value, batch.returns), mask, reduce),
            "continue": masked_mean(
                F.binary_cross_entropy_with_logits(out.continues, (~batch.is_terminal).float(), reduction="none"),
                mask,
                reduce,
            ),
        }
        valid = {"policy": reduce(action_mask.sum()) > 0}  # a small batch may hold no row to clone
        normed = {name: self.rms[name](term, valid.get(name), reduce) for name, term in terms.items()}
        normed["policy"] = self.objective.policy_weight * normed["policy"]
        loss = torch.stack(list(normed.values())).sum()
        metrics = {name: term.detach() for name, term in terms.items()}
        next_log_prob = policy.log_prob(action_BTLA)[:, :, 0].detach()
        metrics["next_action_log_prob"] = masked_mean(next_log_prob, action_mask[:, :, 0], reduce)
        return loss, metrics

    def _reward_loss(self, heads: Heads, logits: Tensor, rewards: Tensor) -> Tensor:
        rewards = (rewards - heads.reward_mean) / heads.reward_std
        if heads.config.reward_loss == "mse":
            return (heads.reward_bins.decode(logits) - rewards).square()
        return heads.reward_bins.loss(logits, rewards)


class PmpoLoss(nn.Module):
    """PMPO (Dreamer 4, equation 11): the policy learns from the sign of the advantage and is anchored to a frozen
    prior.

    L = (1 - alpha) / |D-| sum_{D-} ln pi(a|s) - alpha / |D+| sum_{D+} ln pi(a|s) + beta / N sum KL[pi || prior],
    D+ = {A >= margin}, D- = {A < -margin}
    """

    def __init__(self, config: ImaginationConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        policy: FactoredCategorical,
        prior: FactoredCategorical,
        actions: Tensor,
        advantages: Tensor,
        mask: Tensor,
        *,
        reduce: Reduce = one_process,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Policy loss and metrics: actions int64 `[B, T, A]`, their advantages `[B, T]`, and the states in `mask`."""
        alpha, beta, margin = self.config.alpha, self.config.beta, self.config.margin
        log_prob = policy.log_prob(actions)
        good, bad = mask & (advantages >= margin), mask & (advantages < -margin)
        kl = masked_mean(policy.kl(prior), mask, reduce)
        # An empty D+ or D- contributes 0.
        loss = (
            (1 - alpha) * masked_mean(log_prob, bad, reduce) - alpha * masked_mean(log_prob, good, reduce) + beta * kl
        )
        metrics = {
            "kl": kl.detach(),
            "entropy": masked_mean(policy.entropy(), mask, reduce).detach(),
            "positive": masked_mean(good.float(), mask, reduce),
        }
        return loss, metrics
