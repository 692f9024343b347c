"""Rotary position embedding (Su et al. 2021), by absolute index."""

import torch
from torch import Tensor

__all__ = ["rotary_angles", "rotate"]


def rotary_angles(positions: Tensor, dim: int, base: float, fastest: float = 1.0) -> tuple[Tensor, Tensor]:
    """cos and sin of `p * fastest * base^(-2i / dim)`, each float32 `[n, dim / 2]`, for integer `positions` `[n]`."""
    frequency = fastest * base ** (-torch.arange(0, dim, 2, dtype=torch.float32, device=positions.device) / dim)
    angle = positions.float()[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pair `(x_i, x_{i + dim/2})` of `x` `[..., n, dim]` by its position's angle."""
    cos, sin = angles
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
