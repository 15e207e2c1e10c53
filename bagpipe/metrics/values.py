"""Figures of predicted values: root mean squared and mean absolute error, and bias; float64, summed in sorted order."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ValueErrors:
    """Errors over a set of examples; None: without examples, or where a prediction is not finite."""

    examples: int
    rmse: float | None
    mae: float | None
    bias: float | None
    """Mean prediction - mean label."""


def value_errors(
    predictions_B: npt.ArrayLike, labels_B: npt.ArrayLike, weights_B: npt.ArrayLike | None = None
) -> ValueErrors:
    """Compare predictions with labels.

    Args:
        weights_B: how much each example counts, at least 0; None: one each.

    Raises:
        ValueError: there is not one label, or not one weight, for each prediction.
    """
    predictions = np.asarray(predictions_B, np.float64).reshape(-1)
    labels = np.asarray(labels_B, np.float64).reshape(-1)
    weights = np.ones_like(labels) if weights_B is None else np.asarray(weights_B, np.float64).reshape(-1)
    if not predictions.shape == labels.shape == weights.shape:
        raise ValueError(
            f"expected one label and weight for each prediction, found {len(predictions)} predictions, {len(labels)} "
            f"labels and {len(weights)} weights"
        )
    total = float(np.sum(weights))
    if not total or not np.all(np.isfinite(predictions)):
        return ValueErrors(len(labels), None, None, None)
    errors = predictions - labels
    order = np.lexsort((weights, errors))
    errors, weights = errors[order], weights[order]
    squares = float(np.sum(errors * errors * weights))
    mean_absolute = float(np.sum(np.abs(errors) * weights)) / total
    return ValueErrors(len(labels), math.sqrt(squares / total), mean_absolute, float(np.sum(errors * weights)) / total)
