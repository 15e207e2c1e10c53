"""The precision in which a model computes: float32, or bfloat16 under torch.autocast with float32 around it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.config.model import ModelConfig

Forward = Callable[[nn.Module, torch.Tensor, SparseEmbeddings], torch.Tensor]
"""(model, dense_BF, sparse) to logits_BL in float32."""


def forward_of(config: ModelConfig) -> Forward:
    """How the job's model is called, in training, evaluation and prediction alike."""

    def forward(model: nn.Module, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        if config.precision == "float32":
            return _in_float32(model(dense_BF, sparse))
        with torch.autocast(dense_BF.device.type, torch.bfloat16):
            logits = model(dense_BF, sparse)
        return _in_float32(logits)

    return forward


def in_precision(model: nn.Module, config: ModelConfig) -> nn.Module:
    """The same model, which computes in the job's precision wherever it is called: for a loop of a user's own."""
    if config.precision != "float32":
        call, own = forward_of(config), model.forward
        model.forward = lambda dense, sparse: call(own, dense, sparse)  # type: ignore[arg-type]  # called as a module is
    return model


def _in_float32(logits: Any) -> torch.Tensor:
    """Outputs as float32. A user's own model may return another type, or something that the loss will refuse."""
    wide: torch.Tensor = logits.float() if isinstance(logits, torch.Tensor) and logits.is_floating_point() else logits
    return wide
