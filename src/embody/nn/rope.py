"""Rotary position embedding (Su et al. 2021) at absolute positions."""

import torch
from torch import Tensor

__all__ = ["rotary_angles", "rotate"]


def rotary_angles(positions: Tensor, dim: int, base: float, fastest: float = 1.0) -> tuple[Tensor, Tensor]:
    """cos and sin of `p * fastest * base^(-2i / dim)`, each float32 `[n, dim / 2]`, for integer `positions` `[n]`."""
    # float64, because after 10,000 frames a float32 angle would be off by 0.001 radians.
    frequency = fastest * base ** (-torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim)
    angle = positions.double()[:, None] * frequency
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate each pair `(x_i, x_{i + dim/2})` of `x` `[..., n, dim]` by the angle of its position."""
    cos, sin = angles
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
