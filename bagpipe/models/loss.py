"""What a model is trained for: its own `loss`, or the job's."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from bagpipe.config.model import ModelConfig
from bagpipe.errors import ConfigError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits_BL, labels_BL) to a scalar: the mean over the examples."""


def loss_of(model: nn.Module, config: ModelConfig) -> Loss:
    """The loss of a slice of a batch. A model that has a method `loss(logits_BL, labels_BL)` brings its own.

    It must be a mean over examples: slices are weighted by their sizes to give the global batch's mean.
    An empty slice of a short batch takes part with a zero loss.

    Raises:
        ConfigError: the job chooses a loss and the model has its own. From the loss: logits do not fit the labels.
    """
    own = getattr(model, "loss", None)
    if callable(own) and config.loss is not None:
        raise ConfigError(f"model.loss: {config.loss}: this model has a loss of its own; remove the setting")
    chosen: Loss = own if callable(own) else _squared_error if config.loss == "mse" else _cross_entropy

    def loss(logits_BL: torch.Tensor, labels_BL: torch.Tensor) -> torch.Tensor:
        _check_tensor(logits_BL, f"model {type(model).__name__}: forward")
        if not callable(own) and logits_BL.shape != labels_BL.shape:
            # torch would broadcast, and train on every example's logit against every other's label.
            raise ConfigError(
                f"model {type(model).__name__}: expected logits of shape {list(labels_BL.shape)}, one for each example "
                f"and label, found {list(logits_BL.shape)}; change what forward returns, or give the model its own loss"
            )
        if not labels_BL.shape[0]:
            return logits_BL.sum() * 0.0
        value = chosen(logits_BL, labels_BL)
        if callable(own):
            _check_own_loss(value, f"model {type(model).__name__}: loss")
        return value

    return loss


def _check_tensor(value: object, where: str) -> None:
    if not isinstance(value, torch.Tensor):
        raise ConfigError(f"{where}: expected a tensor, found {type(value).__name__}; change what it returns")


def _check_own_loss(value: object, where: str) -> None:
    _check_tensor(value, where)
    assert isinstance(value, torch.Tensor)
    if value.numel() != 1:
        raise ConfigError(
            f"{where}: expected one number, the mean over the examples, found a tensor of shape {list(value.shape)}; "
            "change what it returns"
        )


def _cross_entropy(logits_BL: torch.Tensor, labels_BL: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits_BL, labels_BL)


def _squared_error(logits_BL: torch.Tensor, labels_BL: torch.Tensor) -> torch.Tensor:
    return functional.mse_loss(torch.sigmoid(logits_BL), labels_BL)
