"""Computes one label's figures by name: each has a value, or a reason why it has none."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bagpipe.config.losses import Figures
from bagpipe.config.metrics import Metric
from bagpipe.metrics.clicks import Evaluation, evaluate, sigmoid
from bagpipe.metrics.functions import Function
from bagpipe.metrics.groups import Groups, grouped_auc, map_at, ndcg_at, recall_at
from bagpipe.metrics.values import ValueErrors, value_errors

log = logging.getLogger(__name__)

UNDEFINED = "undefined"
"""Entry that has, for each figure that is null, the reason."""

Floats64 = npt.NDArray[np.float64]
Answer = tuple[float | None, str]
"""A figure, and the reason where it is None."""

_OF_CLICKS = {
    "auc": "auc",
    "logLoss": "log_loss",
    "calibration": "calibration",
    "normalizedEntropy": "normalized_entropy",
}
_RANKINGS = {"recall": recall_at, "ndcg": ndcg_at, "map": map_at}


@dataclass(slots=True)
class Task:
    """One label of all examples, and the model's outputs for it.

    Args:
        outputs: the model's, `[N]`.
        labels: `[N]`.
        kind: what the outputs are.
        weights: how much each example counts, `[N]`; None: one each.
        groups: the group of each example, `[N]`; None: the data has no groups.
    """

    outputs: Floats64
    labels: Floats64
    kind: Figures
    weights: Floats64 | None = None
    groups: Groups | None = None
    _clicks: Evaluation | None = field(default=None, init=False)
    _errors: ValueErrors | None = field(default=None, init=False)

    @property
    def predictions(self) -> Floats64:
        """Probabilities, expected counts or values; of candidates the outputs themselves."""
        if self.kind == "clicks":
            return sigmoid(self.outputs)
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(self.outputs), np.float64) if self.kind == "counts" else self.outputs

    def figure(self, metric: Metric, functions: Mapping[str, Function]) -> Answer:
        """One figure.

        Args:
            functions: of the user's, by `Metric.name`.
        """
        if metric.own:
            return self._own(functions[metric.name])
        if metric.needs_groups:
            return self._of_groups(metric)
        if metric.name in _OF_CLICKS:
            self._clicks = self._clicks or evaluate(self.outputs, self.labels, self.weights)
            entry = _OF_CLICKS[metric.name]
            value: float | None = getattr(self._clicks, entry)
            return value, "" if value is not None else self._clicks.undefined[entry]
        self._errors = self._errors or value_errors(self.predictions, self.labels, self.weights)
        value = getattr(self._errors, metric.name)
        why = "a prediction is not finite" if len(self.labels) else "there is no example"
        return value, "" if value is not None else why

    def _of_groups(self, metric: Metric) -> Answer:
        if self.groups is None:
            return None, "no example says whom it belongs to (data.columns.group)"
        if not np.all(np.isfinite(self.outputs)):
            return None, f"{np.count_nonzero(~np.isfinite(self.outputs))} of {len(self.outputs)} outputs are not finite"
        counted = slice(None) if self.weights is None else self.weights > 0
        outputs, labels, groups = self.outputs[counted], self.labels[counted], self.groups[counted]
        if metric.name == "groupedAuc":
            weights = None if self.weights is None else self.weights[counted]
            value = grouped_auc(outputs, labels, groups, weights)
            return value, "" if value is not None else "no group has both classes"
        if np.any(labels < 0):
            return None, "a label is negative"
        value = _RANKINGS[metric.name](outputs, labels, groups, metric.k)
        return value, "" if value is not None else "no group has an example with a label above 0"

    def _own(self, function: Function) -> Answer:
        try:
            value = float(function(self.labels, self.predictions, self.weights, self.groups))
        except Exception as error:  # whatever the user's function does fails its figure alone
            log.exception("a figure of the user's own")
            return None, f"{type(error).__name__}: {error}".splitlines()[0]
        return (value, "") if math.isfinite(value) else (None, f"the function gave {value}")


def figures_of(task: Task, metrics: tuple[Metric, ...], functions: Mapping[str, Function]) -> dict[str, Any]:
    """Every figure by its key, and below `undefined` why some are null."""
    answers = {metric.key: task.figure(metric, functions) for metric in metrics}
    found: dict[str, Any] = {key: value for key, (value, _) in answers.items()}
    undefined = {key: why for key, (value, why) in answers.items() if value is None}
    return {**found, UNDEFINED: undefined} if undefined else found
