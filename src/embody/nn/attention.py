"""Grouped-query attention with QK-norm and RoPE, as attention calls that need no mask.

Legend: X, Y tokens (a frame's, or one token's along time), D width, N query heads, G key/value heads, K head dim.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from embody.config import TransformerConfig
from embody.nn import custom_backward
from embody.nn.norm import RMSNorm
from embody.nn.rope import rotate

__all__ = ["Attention", "attend", "attend_capped"]

# SDPA's kernels refuse a batch of 2^16 or more, which folding space into the batch reaches.
_MAX_BATCH = 32_768


class Attention(nn.Module):
    """Fused projection to queries, keys and values, RMS norm of each head's queries and keys, output projection."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.head_dim = config.width // config.heads
        self.soft_cap = config.soft_cap
        self.qkv = nn.Linear(config.width, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=False)
        self.out = nn.Linear(self.heads * self.head_dim, config.width, bias=False)
        self.q_norm = RMSNorm(self.head_dim)
        self.k_norm = RMSNorm(self.head_dim)

    @torch.no_grad()
    def align_queries(self) -> None:
        """Initialise each query projection with its key projection, so that tokens first attend to similar tokens.

        This follows the mimetic initialisation of Trockman & Kolter (2023).
        """
        q, k, _ = self.qkv.weight.split([n * self.head_dim for n in (self.heads, self.kv_heads, self.kv_heads)])
        group = self.heads // self.kv_heads
        q.copy_(k.unflatten(0, (self.kv_heads, 1, -1)).expand(-1, group, -1, -1).reshape(q.shape))

    def project(
        self, x_BYD: Tensor, angles: tuple[Tensor, Tensor], queries_from: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries `[B, N, X, K]`, keys and values `[B, G, Y, K]`; queries and keys are normalised and rotated.

        Tokens before `queries_from` have keys and values but no queries: X = Y - queries_from.
        """
        if not queries_from:
            q, k, v = self._heads(self.qkv(x_BYD)).split((self.heads, self.kv_heads, self.kv_heads), dim=1)
            return _norm_and_rotate(self.q_norm, q, angles), _norm_and_rotate(self.k_norm, k, angles), v
        # Slices instead of `split`, which 8-bit matrices do not support.
        weight, of_q = self.qkv.weight, self.heads * self.head_dim
        q = self._heads(F.linear(x_BYD[:, queries_from:], weight[:of_q]))
        k, v = self._heads(F.linear(x_BYD, weight[of_q:])).chunk(2, dim=1)
        of_queries = angles[0][queries_from:], angles[1][queries_from:]
        return _norm_and_rotate(self.q_norm, q, of_queries), _norm_and_rotate(self.k_norm, k, angles), v

    def _heads(self, x_BYD: Tensor) -> Tensor:
        return x_BYD.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def forward(self, q_BNXK: Tensor, k_BGYK: Tensor, v_BGYK: Tensor, causal: bool = False) -> Tensor:
        """Attention and output projection, `[B, X, D]`."""
        o_BNXK = attend(q_BNXK, k_BGYK, v_BGYK, causal=causal, soft_cap=self.soft_cap)
        return self.out(o_BNXK.transpose(1, 2).flatten(2))

    def attend_cached(self, q_BN1K: Tensor, k_BGCK: Tensor, v_BGCK: Tensor, bias_C: Tensor | None) -> Tensor:
        """Attention of one query a head to a ring cache, and output projection, `[B, 1, D]`.

        `bias_C` is added to the logits: 0, or -inf for places that are not filled yet.
        """
        if q_BN1K.shape[0] > _MAX_BATCH:
            parts = zip(*(x.split(_MAX_BATCH) for x in (q_BN1K, k_BGCK, v_BGCK)), strict=True)
            return torch.cat([self.attend_cached(q, k, v, bias_C) for q, k, v in parts])
        # The query heads of a group become queries of one head, so that no kernel needs to support groups.
        q_BGnK = q_BN1K.unflatten(1, (self.kv_heads, -1)).squeeze(3).to(k_BGCK.dtype)
        bias = None if bias_C is None else bias_C.expand(1, 1, 1, -1)
        if self.soft_cap:
            logits_BGnC = self.soft_cap * torch.tanh((q_BGnK @ k_BGCK.mT) * self.head_dim**-0.5 / self.soft_cap)
            o_BGnK = (logits_BGnC if bias is None else logits_BGnC + bias).softmax(dim=-1) @ v_BGCK
        else:
            o_BGnK = F.scaled_dot_product_attention(q_BGnK, k_BGCK, v_BGCK, attn_mask=bias)
        return self.out(o_BGnK.flatten(1)[:, None])


def _norm_and_rotate(norm: RMSNorm, x_BNYK: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    if custom_backward.use_custom_backward(x_BNYK, norm.weight):
        x_BYNK = x_BNYK.transpose(1, 2).float()
        return custom_backward.rms_norm_and_rotate(x_BYNK, norm.weight, norm.eps, *angles).transpose(1, 2)
    return rotate(norm(x_BNYK), angles)


def attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, soft_cap: float = 0.0) -> Tensor:
    """`softmax(cap(q k^T / sqrt(K))) v` with `cap(x) = soft_cap * tanh(x / soft_cap)`; without a cap if it is 0.

    q `[B, N, X, K]`, k and v `[B, G, Y, K]`, N a multiple of G. Causal calls need X = Y.
    """
    if q.shape[0] > _MAX_BATCH:
        parts = zip(q.split(_MAX_BATCH), k.split(_MAX_BATCH), v.split(_MAX_BATCH), strict=True)
        return torch.cat([attend(*part, causal=causal, soft_cap=soft_cap) for part in parts])
    if not soft_cap:
        # The backward pass of SDPA in 16 bits is slow on CPUs, so attention is computed in float32.
        if q.device.type == "cpu" and v.dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", enabled=False):  # autocast would cast the inputs back to 16 bits
                o = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=causal, enable_gqa=True)
            return o.to(v.dtype)
        return F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=causal, enable_gqa=True)
    # A single query has few logits and a history of varying length: FlexAttention would be compiled again and again.
    if q.device.type == "cuda" and q.shape[2] > 1:
        kernels: dict[str, Any] = {} if torch.compiler.is_compiling() else {"kernel": _compiled()}
        return attend_capped(q.to(v.dtype), k.to(v.dtype), v, causal=causal, soft_cap=soft_cap, **kernels)
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    logits = soft_cap * torch.tanh((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5 / soft_cap)
    if causal:
        future = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
        logits = logits.masked_fill(future, float("-inf"))
    return logits.softmax(dim=-1) @ v


def attend_capped(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, soft_cap: float, kernel: Callable[..., Any] = flex_attention
) -> Tensor:
    """`attend` with a cap by FlexAttention, which stores no `[X, Y]` logits if `kernel` is compiled."""
    mask = _causal_mask(q.shape[2], q.device) if causal else None
    # With varying lengths Inductor may choose its decoding kernel, which fails to find block sizes in float32.
    options: dict[str, Any] = {"kernel_options": {"BACKEND": "TRITON"}} if q.is_cuda else {}
    grouped = q.shape[1] != k.shape[1]
    return kernel(q, k, v, score_mod=_cap(soft_cap), block_mask=mask, enable_gqa=grouped, **options)


# Cached, because FlexAttention is compiled again for every new function object.
@functools.cache
def _compiled() -> Callable[..., Any]:
    import torch._dynamo

    # Each kind of call (causal, grouped, with a gradient) is compiled for one shape, then for all shapes. Beyond the
    # default limit of 8, torch would silently fall back to a kernel that stores all logits.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    return torch.compile(flex_attention, fullgraph=True)


@functools.cache
def _cap(soft_cap: float) -> Callable[..., Tensor]:
    return lambda score, b, n, x, y: soft_cap * torch.tanh(score / soft_cap)


@functools.lru_cache(maxsize=16)
def _causal_mask(frames: int, device: torch.device) -> BlockMask:
    return create_block_mask(lambda b, n, x, y: x >= y, None, None, frames, frames, device=str(device))
