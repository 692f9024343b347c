"""FLOPs and activation memory of the tokenizer's perceptual loss, which is always computed in float32.

Legend: C channels, H W pixels or features, k kernel.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from embody.config import TokenizerObjective
from embody.tokenizer.lpips import LPIPS_NETS

__all__ = ["lpips_activations", "lpips_row_flops"]


@dataclass(frozen=True)
class _Layer:
    """The sizes of a convolution, after its pooling."""

    weights: int  # k^2 C_in C_out
    taken: int  # C_in H W of its input
    pooled: bool  # whether max pooling comes before it
    outputs: int  # H W
    channels: int  # C_out
    read: bool


def lpips_row_flops(objective: TokenizerObjective, frame: tuple[int, int], frames: int) -> int:
    """FLOPs: `2 (3 sum_conv k^2 C_in C_out H W + 2 sum_read C H W)` a frame.

    These are a forward pass of each image and a backward pass to the decoded one; weights are frozen and need none.
    """
    layers = list(_layers(objective, frame))
    convolutions = sum(layer.weights * layer.outputs for layer in layers)
    heads = sum(layer.channels * layer.outputs for layer in layers if layer.read)
    return 2 * frames * (3 * convolutions + 2 * heads)


def lpips_activations(objective: TokenizerObjective, frame: tuple[int, int], frames: int) -> int:
    """Bytes kept for the backward pass.

    For the decoded image: the input, the output of each ReLU, the output and indices (8 bytes) of each pooling. For
    each compared layer: `f - g` and the norm.
    """
    layers = list(_layers(objective, frame))
    total = 4 * 3 * frame[0] * frame[1] if layers else 0
    for layer in layers:
        total += 4 * layer.channels * layer.outputs
        total += 12 * layer.taken * layer.pooled
        total += 4 * (layer.channels + 1) * layer.outputs * layer.read
    return frames * total


def _layers(objective: TokenizerObjective, frame: tuple[int, int]) -> Iterator[_Layer]:
    channels, sides = 3, list(frame)
    for conv in LPIPS_NETS[objective.lpips] if objective.lpips != "none" else ():
        if conv.pool:
            sides = [(side - conv.pool) // 2 + 1 for side in sides]
        taken = channels * sides[0] * sides[1]
        sides = [(side + 2 * conv.padding - conv.kernel) // conv.stride + 1 for side in sides]
        weights = conv.kernel**2 * channels * conv.width
        yield _Layer(weights, taken, bool(conv.pool), sides[0] * sides[1], conv.width, conv.read)
        channels = conv.width
