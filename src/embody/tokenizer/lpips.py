"""LPIPS, the distance of two images in the features of an image classifier (Zhang et al. 2018, version 0.1).

Legend: N images, C H W pixels or features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LPIPS_NETS", "Lpips", "LpipsNet"]

LpipsNet = Literal["alex", "vgg"]


@dataclass(frozen=True)
class _Conv:
    """A convolution of the classifier, followed by ReLU."""

    width: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int = 0  # window of the max pooling before it, whose stride is 2; 0: no pooling
    read: bool = False  # whether its output is compared


LPIPS_NETS: Mapping[LpipsNet, tuple[_Conv, ...]] = {
    "alex": (
        _Conv(64, kernel=11, stride=4, padding=2, read=True),
        _Conv(192, kernel=5, padding=2, pool=3, read=True),
        _Conv(384, pool=3, read=True),
        _Conv(256, read=True),
        _Conv(256, read=True),
    ),
    "vgg": (
        _Conv(64),
        _Conv(64, read=True),
        _Conv(128, pool=2),
        _Conv(128, read=True),
        _Conv(256, pool=2),
        _Conv(256),
        _Conv(256, read=True),
        _Conv(512, pool=2),
        _Conv(512),
        _Conv(512, read=True),
        _Conv(512, pool=2),
        _Conv(512),
        _Conv(512, read=True),
    ),
}


class Lpips(nn.Module):
    """`d(x, y) = sum_l mean_HW sum_C w_lC (f_lC(x) - f_lC(y))^2`; f_l are layer l's features, of unit norm over C.

    The network is frozen: all tensors are buffers, and no checkpoint contains them.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: LpipsNet, weights: Mapping[str, Tensor]) -> None:
        """`weights` holds `convI_weight` `[out, in, k, k]` and `convI_bias` of each convolution I, and `headL` `[C]`,
        w_l, of each compared layer."""
        super().__init__()
        self.layers = LPIPS_NETS[net]
        for name, tensor in weights.items():
            self.register_buffer(name, tensor.float(), persistent=False)
        # The classifier's colour standardisation, for inputs in [-1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Distances, float32 `[N]`, at least 0, of images `[N, 3, H, W]` in [-1, 1] of at least 32x32 pixels."""
        with torch.autocast(images.device.type, enabled=False):
            pairs = zip(self.features(images.float()), self.features(others.float()), strict=True)
            distances = [
                torch.einsum("nchw,c->nhw", (f_NCHW - g_NCHW).square(), self.get_buffer(f"head{layer}")).mean((1, 2))
                for layer, (f_NCHW, g_NCHW) in enumerate(pairs)
            ]
        return torch.stack(distances).sum(dim=0)

    def features(self, images: Tensor) -> list[Tensor]:
        """`f_l` `[N, C, H, W]` of each compared layer: vectors over C of norm 1, or 0."""
        x_NCHW, read = (images - self.shift) / self.scale, []
        for i, conv in enumerate(self.layers):
            if conv.pool:
                x_NCHW = F.max_pool2d(x_NCHW, conv.pool, stride=2)
            weight, bias = self.get_buffer(f"conv{i}_weight"), self.get_buffer(f"conv{i}_bias")
            x_NCHW = F.relu(F.conv2d(x_NCHW, weight, bias, conv.stride, conv.padding))
            if conv.read:
                # eps inside the root; the published code adds it outside, where the gradient at 0 is not defined.
                read.append(x_NCHW / (x_NCHW.square().sum(dim=1, keepdim=True) + 1e-10).sqrt())
        return read
