"""The precision in which a model computes: float32, or bfloat16 under torch.autocast with float32 around it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.config.model import ModelConfig
from bagpipe.errors import UserCodeError

Forward = Callable[[nn.Module, torch.Tensor, SparseEmbeddings], torch.Tensor]
"""(model, dense_BF, sparse) to logits_BL in float32."""


def forward_of(config: ModelConfig) -> Forward:
    """How the job's model is called, in training, evaluation and prediction alike."""

    def forward(model: nn.Module, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        if config.precision == "float32":
            return _in_float32(model, model(dense_BF, sparse))
        with torch.autocast(dense_BF.device.type, torch.bfloat16):
            logits = model(dense_BF, sparse)
        return _in_float32(model, logits)

    return forward


def in_precision(model: nn.Module, config: ModelConfig) -> nn.Module:
    """The same model, which computes in the job's precision wherever it is called: for a loop of a user's own."""
    if config.precision != "float32":
        call, own = forward_of(config), model.forward
        model.forward = lambda dense, sparse: call(own, dense, sparse)  # type: ignore[arg-type]  # called as a module is
    return model


def _in_float32(model: nn.Module, logits: Any) -> torch.Tensor:
    """Outputs as float32: a user's own model may return another type.

    Raises:
        UserCodeError: they are no real numbers, in an evaluation. In training the loss says so, or takes them.
    """
    if isinstance(logits, torch.Tensor) and logits.is_floating_point():
        return logits.float()
    if not getattr(model, "training", True):
        found = logits.dtype if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserCodeError(
            f"model {type(model).__name__}: forward: expected a tensor of floating-point numbers where "
            f"self.training is False, found {found}; return one output for each example and label"
        )
    outputs: torch.Tensor = logits
    return outputs
