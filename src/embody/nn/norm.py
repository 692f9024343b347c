"""RMS norm, always computed in float32."""

import torch.nn.functional as F
from torch import Tensor, nn

from embody.nn import custom_backward

__all__ = ["RMSNorm"]


class RMSNorm(nn.RMSNorm):
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension; float32 out, under autocast too."""

    eps: float

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        # A bfloat16 input with a float32 weight would also miss the fused kernel, with a warning.
        x = x.float()
        if custom_backward.use_custom_backward(x, self.weight):
            return custom_backward.rms_norm(x, self.weight, self.eps)
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)
