"""Custom backward passes for CPUs, where autograd's elementwise operations took half of a training step.

Up to rounding, values and gradients equal those of the plain expressions in `norm`, `rope` and `transformer`, which are
used on GPUs and under torch.compile.

Legend: Y tokens, N heads, K head dim, D width, M MLP width; `r = 1 / sqrt(mean(x^2) + eps)` over the last dimension.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["use_custom_backward", "rms_norm", "rms_norm_and_rotate", "swiglu"]


def use_custom_backward(x: Tensor, weight: Tensor) -> bool:
    """True when training on a CPU outside torch.compile: `x` or `weight` needs a gradient."""
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return learns and x.device.type == "cpu" and not torch.compiler.is_compiling()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`y = r x w` for x `[..., D]`, w `[D]`."""
    return _RmsNorm.apply(x, weight, eps)


def rms_norm_and_rotate(x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    """`y = R (r x w)` for x `[..., Y, N, K]`, w `[K]`; R rotates pairs by cos and sin `[Y, K / 2]` (see `rotate`)."""
    return _RmsNormAndRotate.apply(x, weight, eps, cos[:, None], sin[:, None])


def swiglu(gate_up: Tensor) -> Tensor:
    """`silu(gate) up`, `[..., M]`, of gate and up concatenated, `[..., 2M]`."""
    return _SwiGlu.apply(gate_up)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        return *_through_norm(grad, grad * weight, x, weight, inverse), None


class _RmsNormAndRotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
        inverse = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, inverse, cos, sin)
        (a, b), (w_a, w_b) = x.chunk(2, dim=-1), weight.chunk(2)
        y = x * torch.cat((cos * w_a, cos * w_b), dim=-1)
        y_a, y_b = y.chunk(2, dim=-1)
        y_a.addcmul_(b, sin * w_b, value=-1)
        y_b.addcmul_(a, sin * w_a)
        return y.mul_(inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse, cos, sin = ctx.saved_tensors
        a, b = grad.chunk(2, dim=-1)
        back = grad * torch.cat((cos, cos), dim=-1)
        back_a, back_b = back.chunk(2, dim=-1)
        back_a.addcmul_(b, sin)
        back_b.addcmul_(a, sin, value=-1)
        return *_through_norm(back, None, x, weight, inverse), None, None, None


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        silu = F.silu(gate)
        ctx.save_for_backward(gate_up, silu)
        return silu * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        gate_up, silu = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        d_gate_up = torch.empty_like(gate_up)
        d_gate, d_up = d_gate_up.chunk(2, dim=-1)
        torch.mul(grad, silu, out=d_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=d_gate)
        return d_gate_up


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    """r, `[..., 1]`, in one pass over x."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _through_norm(
    grad: Tensor, grad_w: Tensor | None, x: Tensor, weight: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x and w from the gradient g of `r x w`: `r (g w - x r^2 mean(g w x))` and `sum(r g x)`.

    `grad_w` is g w; if it is None, it is computed in place of `grad`.
    """
    product = (grad * x).reshape(-1, x.shape[-1])
    d_weight = product.T @ inverse.reshape(-1)
    slope = (product @ weight).view_as(inverse).mul_(inverse.square()).div_(-x.shape[-1])
    d_x = grad.mul_(weight) if grad_w is None else grad_w
    return d_x.addcmul_(x, slope).mul_(inverse), d_weight
