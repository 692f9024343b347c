"""Which number formats a GPU has units for."""

from typing import Literal, get_args

import torch

from embody.errors import UserError, one_line

__all__ = ["Precision", "check_precision", "gpu_precision"]

Precision = Literal["float32", "bfloat16", "float16", "int8", "float8"]

# Compute capabilities: tensor cores multiply float16 from Volta on, and bfloat16 from Ampere on.
_FLOAT16, _BFLOAT16 = (7, 0), (8, 0)


def gpu_precision(device: torch.device) -> Literal["float32", "bfloat16", "float16"]:
    """The fastest format of matrix products on a GPU: bfloat16 or float16, if it has units for them, else float32."""
    capability = torch.cuda.get_device_capability(device)
    if capability >= _BFLOAT16:
        return "bfloat16"
    return "float16" if capability >= _FLOAT16 else "float32"


def check_precision(precision: Precision, device: torch.device) -> None:
    """A `UserError` if `precision` is unknown, or `device` is a GPU that would emulate it.

    Products of int8 and float8 weights need bfloat16, too.
    """
    if precision not in get_args(Precision):
        raise UserError(
            f"unknown precision {one_line(repr(precision), 40)}: choose from {', '.join(get_args(Precision))}"
        )
    if device.type == "cuda" and precision not in ("float32", "float16"):
        major, minor = torch.cuda.get_device_capability(device)
        if (major, minor) < _BFLOAT16:
            raise UserError(
                f"precision {precision}: this GPU (compute capability {major}.{minor}) has no bfloat16 units and would"
                f" emulate them slowly: choose {gpu_precision(device)}"
            )
