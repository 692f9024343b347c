"""Muon (Jordan et al. 2024) in the precision of the weights.

`torch.optim.Muon` orthogonalises in bfloat16, which is ten times as slow as float32 on a CPU without bfloat16 units.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["Muon", "orthogonalise"]

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Approximates `U V^T` for each matrix `U S V^T` in `matrices` `[N, m, n]`, by Newton-Schulz iteration.

    A step is `x <- a x + (b x x^T + c (x x^T)^2) x`; the result's singular values are from about 0.7 to 1.2.
    """
    a, b, c = _NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices) / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum, scaled so that an update has RMS `0.2 lr`, which is usual for AdamW."""

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, object]], lr: float, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.found_inf: Tensor | None = None  # as of fused AdamW: where 1, `[]`, the step changes nothing

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            gradients = [weight.grad for weight in weights]
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
            momenta = [self.state[weight]["momentum"] for weight in weights]
            skipped = None if self.found_inf is None else self.found_inf > 0
            if skipped is not None:  # a momentum averaged with itself does not change
                gradients = [torch.where(skipped, m, g) for m, g in zip(momenta, gradients, strict=True)]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            directions = torch._foreach_lerp(gradients, momenta, group["momentum"])
            # Matrices of the same shape are batched, because small products would hardly occupy a GPU.
            for shape in dict.fromkeys(weight.shape for weight in weights):
                alike = [i for i, weight in enumerate(weights) if weight.shape == shape]
                updates = orthogonalise(torch.stack([directions[i] for i in alike]))
                if skipped is not None:
                    updates = torch.where(skipped, 0.0, updates)
                size = 0.2 * max(shape) ** 0.5
                torch._foreach_add_([weights[i] for i in alike], updates.unbind(), alpha=-group["lr"] * size)
