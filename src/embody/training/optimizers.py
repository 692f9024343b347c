"""The optimisers, their parameters and their learning rates."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from embody.config import StageConfig
from embody.nn.transformer import Block
from embody.training.muon import Muon

__all__ = ["clipped_gradients", "learning_rate", "make_optimizers", "set_rates"]


def learning_rate(config: StageConfig, step: int, steps: int) -> float:
    """The share of the full learning rate at `step`: warm-up, then constant, then linear decay to `final_lr`."""
    warmup = max(1.0, config.warmup * steps)
    left = (steps - step) / max(1.0, config.decay * steps)
    return min(1.0, (step + 1) / warmup, config.final_lr + (1 - config.final_lr) * left)


def make_optimizers(
    config: StageConfig, model: nn.Module, groups: Iterable[Mapping[str, Any]]
) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for the matrices of transformer blocks if `muon_lr` is above 0.

    Each of `groups` has trained parameters (`params`) and optionally an `lr_scale` that multiplies its learning rates.
    """
    blocks = [module for module in model.modules() if isinstance(module, Block)] if config.muon_lr else []
    matrices = {p for block in blocks for p in block.parameters() if p.ndim == 2}
    rest, muon = [], []
    for group in groups:
        scale = group.get("lr_scale", 1.0)
        rest.append({"params": [p for p in group["params"] if p not in matrices], "full_lr": scale * config.lr})
        muon.append({"params": [p for p in group["params"] if p in matrices], "full_lr": scale * config.muon_lr})
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True)
    ]
    if any(group["params"] for group in muon):
        optimizers.append(Muon([group for group in muon if group["params"]], lr=config.muon_lr))
    return optimizers


def set_rates(optimizers: Sequence[torch.optim.Optimizer], share: float) -> None:
    """Set each group's learning rate to `share` of its full rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = share * group["full_lr"]


def clipped_gradients(
    loss: Tensor, optimizers: Sequence[torch.optim.Optimizer], clip: float, scale: Tensor | None = None
) -> Tensor:
    """Compute the gradients of `loss` and shrink them to a joint norm of at most `clip`; returns the norm before.

    With a `scale` `[]` the backward pass computes the gradients times `scale`; they are divided by it before the norm.
    """
    trained = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    if scale is None:
        loss.backward()
    else:
        (loss.float() * scale).backward()
        torch._foreach_div_([p.grad for p in trained if p.grad is not None], scale)
    return nn.utils.clip_grad_norm_(trained, clip)
