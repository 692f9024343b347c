"""Similarity of frames beyond squared error: SSIM and LPIPS of pairs, Frechet distance of sets.

Legend: N frames, H W pixels, D features.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from embody.tokenizer import Lpips

__all__ = ["WINDOW", "Features", "frechet", "lpips_distances", "random_features", "ssim"]

Features = Callable[[NDArray[np.uint8]], NDArray[np.float64]]  # uint8 [N, H, W, 3] -> [N, D]

WINDOW, _SIGMA = 11, 1.5  # pixels; Wang et al. 2004
_C1, _C2 = 0.01**2, 0.03**2  # for colours in [0, 1]
_LPIPS_SIDE = 32  # pixels; the pooling of its network leaves nothing of smaller frames
_AT_ONCE = 128  # frames in a batch


@torch.no_grad()
def ssim(frames: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """SSIM of each pair of frames uint8 `[N, H, W, 3]` -> `[N]`: at most 1, for equal frames.

    As in Wang et al. 2004: a Gaussian window of 11x11 pixels with sigma 1.5, wherever it fits entirely, averaged over
    positions and colours. NaN for frames smaller than the window.
    """
    assert frames.shape == others.shape, (frames.shape, others.shape)
    if min(frames.shape[1:3]) < WINDOW:
        return np.full(len(frames), np.nan)
    parts = [
        _ssim(_colours(frames[i : i + _AT_ONCE]), _colours(others[i : i + _AT_ONCE]))
        for i in range(0, len(frames), _AT_ONCE)
    ]
    return np.concatenate([part.numpy() for part in parts]) if parts else np.zeros(0)


def _colours(frames: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    count = len(x)
    # Centred, because variances are differences of moments, whose rounding errors grow with the mean.
    x, y = x - 0.5, y - 0.5
    mean_x, mean_y, xx, yy, xy = _smooth(torch.cat((x, y, x * x, y * y, x * y))).split(count)
    var_x, var_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (var_x + var_y + _C2)
    return (luminance * structure).double().mean(dim=(1, 2, 3))


def _smooth(images: Tensor) -> Tensor:
    """`[N, 3, H, W]` convolved with the window, without padding: rows, then columns."""
    places = torch.arange(WINDOW) - WINDOW // 2
    weight = torch.exp(-(places**2) / (2 * _SIGMA**2))
    weight = (weight / weight.sum()).expand(3, 1, WINDOW).unsqueeze(-1)
    return F.conv2d(F.conv2d(images, weight, groups=3), weight.transpose(2, 3), groups=3)


@torch.no_grad()
def lpips_distances(lpips: Lpips, frames: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """LPIPS of each pair of frames uint8 `[N, H, W, 3]` -> `[N]`; NaN for frames below 32x32."""
    if min(frames.shape[1:3]) < _LPIPS_SIDE:
        return np.full(len(frames), np.nan)
    device = lpips.shift.device
    parts = [
        lpips(*(2 * _colours(x[i : i + _AT_ONCE]).to(device) - 1 for x in (frames, others)))
        for i in range(0, len(frames), _AT_ONCE)
    ]
    return torch.cat(parts).double().cpu().numpy() if parts else np.zeros(0)


# --- sets of frames -------------------------------------------------------------------------------------------------


def frechet(features: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """`|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))` of two sets of features, `[N, D]` and `[M, D]`; 0 if they are equal.

    The squared distance of the Gaussians with the sets' means and covariances (Heusel et al. 2017). It is biased
    upwards for small sets, so compare only sets of similar size. NaN if a set has no more frames than features, as its
    covariance is then singular.
    """
    if min(len(features), len(others)) <= features.shape[1]:
        return float("nan")
    gap = features.mean(axis=0) - others.mean(axis=0)
    first, second = np.cov(features, rowvar=False), np.cov(others, rowvar=False)
    # C C' has the eigenvalues of C^(1/2) C' C^(1/2), which is symmetric.
    values, vectors = np.linalg.eigh(np.atleast_2d(first))
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ np.atleast_2d(second) @ root)
    spread = np.trace(np.atleast_2d(first)) + np.trace(np.atleast_2d(second)) - 2 * np.sqrt(np.maximum(inner, 0)).sum()
    return max(0.0, float(gap @ gap + spread))


@torch.no_grad()
def random_features(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """32 features of each frame uint8 `[N, H, W, 3]`, from a convolutional network with fixed random weights.

    The tokenizer's latents are not suitable: they miss what the tokenizer misses, differ between runs, and have so many
    dimensions that their covariance needs thousands of frames. Features of a classifier would need a download.
    """
    weights, parts = _random_weights(), []
    for i in range(0, len(frames), _AT_ONCE):
        x = 4 * _colours(frames[i : i + _AT_ONCE]) - 2
        for weight in weights:
            x = F.relu(F.conv2d(x, weight, stride=2, padding=1))
        parts.append(x.mean(dim=(2, 3)).double().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, len(weights[-1])))


@cache
def _random_weights() -> tuple[Tensor, ...]:
    random = np.random.RandomState(0)  # numpy guarantees the numbers of this legacy generator in all versions
    return tuple(
        torch.from_numpy(random.standard_normal((out, into, 4, 4)) * (2 / (into * 16)) ** 0.5).float()
        for into, out in ((3, 16), (16, 32), (32, 32))
    )
