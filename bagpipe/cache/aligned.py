"""Aligns the arrays that a model computes on, because the rounding of matrix products depends on alignment."""

from typing import Any

import numpy.typing as npt
import torch


def aligned(array: npt.NDArray[Any]) -> torch.Tensor:
    """A copy in torch's own memory, which is aligned to 64 bytes whatever the array's is.

    Matrix products round by alignment. An array that lies in a received frame, or where numpy happened to find
    room, starts anywhere, so the same job would differ in its last bits from run to run.
    """
    return torch.from_numpy(array).clone()
