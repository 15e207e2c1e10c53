"""The loss that a model is trained with: its own `loss`, or the job's.

The job's losses are means over examples and labels of the terms below, x the output and y the label (docs/models.md):

    bce             log(1 + e^x) - y x, y in [0, 1]: the negative log-likelihood of a click
    mse             (s(x) - y)^2 with s the logistic function, y in [0, 1]: squared error of the probability
    squared-error   (x - y)^2, any y: squared error of the output itself
    poisson         e^x - y x, y >= 0: the negative log-likelihood of a count with mean e^x, without its constant

One takes the labels of an example as candidates, of which one was chosen:

    softmax         -sum over the candidates of y log softmax(x): a term for each example

Two more compare examples with each other: pairwise and in-batch-softmax (`comparing.py`).
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.nn import functional

from bagpipe.config.losses import CHOICE
from bagpipe.config.model import ModelConfig
from bagpipe.errors import ConfigError
from bagpipe.models.comparing import check_products, in_batch_softmax, pairwise


class Loss(Protocol):
    """The loss of a slice of a batch: a scalar, the mean over the examples."""

    def __call__(
        self,
        logits_BL: torch.Tensor,
        labels_BL: torch.Tensor,
        weights_B: torch.Tensor | None = None,
        groups_B: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """With `weights_B`, the mean counts each example by its weight; `groups_B` has each example's group."""
        ...


Terms = Callable[[torch.Tensor, torch.Tensor, str], torch.Tensor]
"""(logits_BL, labels_BL, torch's `reduction`) to a term for each example and label, or for each example, or their mean.

Terms are `[B, L]`, or `[B, 1]`.
"""


def has_own_loss(model: nn.Module) -> bool:
    """Whether the model has a loss of its own."""
    return callable(getattr(model, "loss", None))


def loss_of(model: nn.Module, config: ModelConfig) -> Loss:
    """The loss of a slice of a batch. A model that has a method `loss(logits_BL, labels_BL)` brings its own.

    It must be a mean over examples: slices are weighted by their sizes, or by the sums of their examples' weights, to
    give the global batch's mean. Where examples have weights, the model's own is called as
    `loss(logits_BL, labels_BL, weights_B)` and gives the weighted mean. An empty slice of a short batch takes part with
    a zero loss.

    Raises:
        ConfigError: the job chooses a loss and the model has its own. From the loss: logits do not fit the labels, or
            examples have weights and the model's own loss takes none of them.
    """
    if has_own_loss(model):
        for name, given in (("loss", config.loss), ("taskWeights", config.task_weights or None)):
            if given is not None:
                shown = given if name == "loss" else list(config.task_weights)
                raise ConfigError(f"model.{name}: {shown}: this model has a loss of its own; remove the setting")
        return _OwnLoss(model)
    if config.loss in ("pairwise", "in-batch-softmax"):
        return _ComparingLoss(model, config.loss, config.task_weights)
    return _ChosenLoss(model, _TERMS[config.loss or "bce"], config.task_weights)


class _OwnLoss:
    """The model's own loss."""

    def __init__(self, model: nn.Module) -> None:
        loss: Any = model.loss
        self._name, self._loss = type(model).__name__, loss
        self._takes_weights = _takes_weights(loss)

    def __call__(
        self,
        logits_BL: torch.Tensor,
        labels_BL: torch.Tensor,
        weights_B: torch.Tensor | None = None,
        groups_B: torch.Tensor | None = None,
    ) -> torch.Tensor:
        _check_tensor(logits_BL, f"model {self._name}: forward")
        if _nothing_counts(labels_BL, weights_B):
            return logits_BL.sum() * 0.0
        if weights_B is not None and not self._takes_weights:
            raise ConfigError(
                f"model {self._name}: the examples have weights (spec.data.columns.weight), but its loss takes none; "
                "declare loss(self, logits_BL, labels_BL, weights_B), or remove the weight"
            )
        weights = () if weights_B is None else (weights_B,)
        value: torch.Tensor = self._loss(logits_BL, labels_BL, *weights)
        where = f"model {self._name}: loss"
        _check_tensor(value, where)
        _check_real(value, where)
        if value.numel() != 1:
            raise ConfigError(
                f"{where}: expected one number, the mean over the examples, found a tensor of shape "
                f"{list(value.shape)}; change what it returns"
            )
        return value


def _takes_weights(loss: Any) -> bool:
    """Whether the third argument of a model's own loss is the examples' weights.

    A default other than None says that it is something else, such as a factor: weights would take its place in silence.
    """
    called = loss.forward if isinstance(loss, nn.Module) else loss
    parameters = inspect.signature(called).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 2 and positional[2].default in (inspect.Parameter.empty, None)


class _ChosenLoss:
    """A loss of the job, a mean of terms of single examples or labels."""

    def __init__(self, model: nn.Module, terms: Terms, task_weights: tuple[float, ...]) -> None:
        self._name, self._terms = type(model).__name__, terms
        self._task_weights = torch.tensor(task_weights) if task_weights else None

    def __call__(
        self,
        logits_BL: torch.Tensor,
        labels_BL: torch.Tensor,
        weights_B: torch.Tensor | None = None,
        groups_B: torch.Tensor | None = None,
    ) -> torch.Tensor:
        _check_shape(logits_BL, labels_BL, self._name)
        if _nothing_counts(labels_BL, weights_B):
            return logits_BL.sum() * 0.0
        if self._task_weights is None and weights_B is None:
            return self._terms(logits_BL, labels_BL, "mean")
        terms_BL = self._terms(logits_BL, labels_BL, "none")
        if self._task_weights is not None:
            terms_BL = terms_BL * _fitting(self._task_weights, labels_BL)
        if weights_B is None:
            return terms_BL.mean()
        return (terms_BL.mean(dim=1) * weights_B).sum() / weights_B.sum()


class _ComparingLoss:
    """A loss of the job that compares the examples of a slice."""

    def __init__(
        self, model: nn.Module, name: Literal["pairwise", "in-batch-softmax"], task_weights: tuple[float, ...]
    ) -> None:
        self._model, self._name = model, name
        self._task_weights = torch.tensor(task_weights) if task_weights else None

    def __call__(
        self,
        logits_BL: torch.Tensor,
        labels_BL: torch.Tensor,
        weights_B: torch.Tensor | None = None,
        groups_B: torch.Tensor | None = None,
    ) -> torch.Tensor:
        model = type(self._model).__name__
        if self._name == "pairwise":
            _check_shape(logits_BL, labels_BL, model)
        else:
            _check_tensor(logits_BL, f"model {model}: forward")
            _check_real(logits_BL, f"model {model}: forward")
            check_products(logits_BL, labels_BL, self._model)
        if _nothing_counts(labels_BL, weights_B):
            return logits_BL.sum() * 0.0
        if self._name == "in-batch-softmax":
            return in_batch_softmax(logits_BL, labels_BL, weights_B)
        factors = None if self._task_weights is None else _fitting(self._task_weights, labels_BL)
        return pairwise(logits_BL, labels_BL, weights_B, groups_B, factors)


def _check_shape(logits_BL: torch.Tensor, labels_BL: torch.Tensor, name: str) -> None:
    """Refuse outputs that are no real numbers, or of another shape: torch would broadcast, and train on every example's
    logit against every other's label.
    """
    _check_tensor(logits_BL, f"model {name}: forward")
    _check_real(logits_BL, f"model {name}: forward")
    if logits_BL.shape != labels_BL.shape:
        raise ConfigError(
            f"model {name}: expected logits of shape {list(labels_BL.shape)}, one for each example "
            f"and label, found {list(logits_BL.shape)}; change what forward returns, or give the model its own loss"
        )


def _fitting(task_weights: torch.Tensor, labels_BL: torch.Tensor) -> torch.Tensor:
    if task_weights.numel() != labels_BL.shape[1]:
        raise ConfigError(
            f"spec.model.taskWeights: {task_weights.numel()} factors for {labels_BL.shape[1]} labels; expected one "
            "for each label"
        )
    return task_weights.to(labels_BL.device)


def _nothing_counts(labels_BL: torch.Tensor, weights_B: torch.Tensor | None) -> bool:
    return not labels_BL.shape[0] or (weights_B is not None and not bool(weights_B.any()))


def _check_tensor(value: object, where: str) -> None:
    if not isinstance(value, torch.Tensor):
        raise ConfigError(f"{where}: expected a tensor, found {type(value).__name__}; change what it returns")


def _check_real(value: torch.Tensor, where: str) -> None:
    if not value.is_floating_point():
        raise ConfigError(f"{where}: expected floating-point numbers, found {value.dtype}; change what it returns")


def _cross_entropy(logits_BL: torch.Tensor, labels_BL: torch.Tensor, reduction: str) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits_BL, labels_BL, reduction=reduction)


def _squared_error_of_probability(logits_BL: torch.Tensor, labels_BL: torch.Tensor, reduction: str) -> torch.Tensor:
    return functional.mse_loss(torch.sigmoid(logits_BL), labels_BL, reduction=reduction)


def _squared_error(outputs_BL: torch.Tensor, labels_BL: torch.Tensor, reduction: str) -> torch.Tensor:
    return functional.mse_loss(outputs_BL, labels_BL, reduction=reduction)


def _poisson(outputs_BL: torch.Tensor, labels_BL: torch.Tensor, reduction: str) -> torch.Tensor:
    return functional.poisson_nll_loss(outputs_BL, labels_BL, log_input=True, full=False, reduction=reduction)


def _choice(logits_BL: torch.Tensor, labels_BL: torch.Tensor, reduction: str) -> torch.Tensor:
    terms_B1 = -(labels_BL * functional.log_softmax(logits_BL, dim=1)).sum(dim=1, keepdim=True)
    return terms_B1.mean() if reduction == "mean" else terms_B1


_TERMS: dict[str, Terms] = {
    "bce": _cross_entropy,
    "mse": _squared_error_of_probability,
    "squared-error": _squared_error,
    "poisson": _poisson,
    CHOICE: _choice,
}
