"""Distributions that the heads predict: factored categoricals and symexp two-hot."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embody.config import ActionSpec
from embody.nn.noise import Noise

__all__ = ["FactoredCategorical", "TwoHot", "symexp", "symlog"]

_NEVER = -1e9  # log-probability of a masked action; finite, so that p ln p is 0 in entropy and KL


def symlog(x: Tensor) -> Tensor:
    """`sign(x) ln(|x| + 1)`."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """`sign(x) (exp(|x|) - 1)`, the inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


class TwoHot(nn.Module):
    """A scalar as a distribution over bins spaced evenly in symlog (Dreamer 3, equation 10)."""

    bins: Tensor

    def __init__(self, low: float, high: float, bins: int) -> None:
        super().__init__()
        assert low < high and bins >= 2, f"two-hot range ({low}, {high}) with {bins} bins"
        # On the CPU even if the model is on the meta device, which holds no values.
        ends = symlog(torch.tensor([low, high], dtype=torch.float64, device="cpu"))
        self.register_buffer("bins", torch.linspace(float(ends[0]), float(ends[1]), bins), persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        """Weights `[..., bins]` on the two bins around `x`, whose mean is `x`; `x` is clamped to the range of the
        bins."""
        values = symexp(self.bins)
        x = x.float().clamp(values[0], values[-1])
        above = torch.searchsorted(values, x.contiguous(), right=True).clamp(1, len(values) - 1)
        left, right = values[above - 1], values[above]
        weight = (x - left) / (right - left)
        low = F.one_hot(above - 1, len(self.bins)) * (1 - weight)[..., None]
        return low + F.one_hot(above, len(self.bins)) * weight[..., None]

    def decode(self, logits: Tensor) -> Tensor:
        """`sum_i p_i symexp(b_i)`, `[...]`: the mean."""
        return (logits.float().softmax(dim=-1) * symexp(self.bins)).sum(dim=-1)

    def decode_peak(self, logits: Tensor) -> Tensor:
        """The mean over the most likely bin and its neighbours, `[...]`; probability on distant bins is ignored."""
        index = torch.arange(len(self.bins), device=logits.device)
        near = (index - logits.argmax(dim=-1, keepdim=True)).abs() <= 1
        return self.decode(logits.float().masked_fill(~near, float("-inf")))

    def loss(self, logits: Tensor, x: Tensor) -> Tensor:
        """Cross-entropy against `encode(x)`, `[...]`."""
        return -(self.encode(x) * logits.float().log_softmax(dim=-1)).sum(dim=-1)


class FactoredCategorical:
    """One independent categorical distribution for each action factor, from logits `[..., sum(sizes)]`."""

    def __init__(self, logits: Tensor, spec: ActionSpec) -> None:
        assert logits.shape[-1] == sum(spec.sizes), f"{logits.shape[-1]} logits for action sizes {spec.sizes}"
        self.log_probs = [part.log_softmax(dim=-1) for part in logits.float().split(spec.sizes, dim=-1)]

    def log_prob(self, actions: Tensor) -> Tensor:
        """`ln p(a)`, the sum over factors, for int64 actions `[..., A]`."""
        parts = [log_p.gather(-1, actions[..., a, None]).squeeze(-1) for a, log_p in enumerate(self.log_probs)]
        return torch.stack(parts).sum(dim=0)

    def within_support_of(self, other: "FactoredCategorical", support: float) -> "FactoredCategorical":
        """This distribution restricted to actions with `q(a) >= support max_b q(b)`, q being `other`'s; by factor.

        Other actions get probability 0, as in discrete BCQ (Fujimoto et al. 2019, arXiv:1910.01708, section 4).
        """
        limited = copy.copy(self)
        limited.log_probs = [
            log_p.masked_fill(log_q < log_q.amax(-1, keepdim=True) + math.log(support), _NEVER).log_softmax(-1)
            for log_p, log_q in zip(self.log_probs, other.log_probs, strict=True)
        ]
        return limited

    def allows(self, actions: Tensor) -> Tensor:
        """bool `[...]`: which int64 actions `[..., A]` are not masked by `within_support_of`."""
        return self.log_prob(actions) > _NEVER / 2

    def sample(self, noise: Noise) -> Tensor:
        """Sampled actions int64 `[..., A]`, by the Gumbel-max trick."""
        return torch.stack([_gumbel_argmax(log_p, noise) for log_p in self.log_probs], dim=-1)

    def entropy(self) -> Tensor:
        """Entropy `[...]` in nats, summed over factors."""
        return torch.stack([-(log_p.exp() * log_p).sum(dim=-1) for log_p in self.log_probs]).sum(dim=0)

    def kl(self, other: "FactoredCategorical") -> Tensor:
        """`KL(self || other)`, `[...]`, in closed form, summed over factors."""
        parts = [
            (log_p.exp() * (log_p - log_q)).sum(dim=-1)
            for log_p, log_q in zip(self.log_probs, other.log_probs, strict=True)
        ]
        return torch.stack(parts).sum(dim=0)


def _gumbel_argmax(log_p: Tensor, noise: Noise) -> Tensor:
    uniform = noise.uniform(*log_p.shape)
    return (log_p - torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))).argmax(dim=-1)
