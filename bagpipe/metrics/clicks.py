"""Figures of click probabilities: AUC, log loss, calibration and normalized entropy, computed exactly.

All sums are float64 and run in sorted order, so no figure depends on the order of examples or on how they were batched.
AUC is the rank statistic with ties at half weight; without weights, and with labels 0 and 1, it is computed from
integer counts. A label between 0 and 1 is a probability: an example with the label 0.3 counts as 0.3 of a click and as
0.7 of none, in AUC as in the log loss.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats64 = npt.NDArray[np.float64]

FIGURES = ("auc", "log_loss", "calibration", "normalized_entropy")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures over a set of examples.

    None: the figure is not defined for this set, or the model diverged (a logit is NaN or infinite), in
    which case no figure means anything. `undefined` says which.
    """

    examples: int
    auc: float | None
    """Probability that a click outranks a non-click; None with one class only."""
    log_loss: float | None
    """Mean natural-log loss; None without examples."""
    calibration: float | None
    """Mean prediction / mean label; None without a positive label."""
    normalized_entropy: float | None = field(default=None, compare=False)
    """Log loss / log loss of always predicting the mean label; None with one class only."""
    undefined: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Why a figure is None, by its name."""


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Examples whose prediction lies in one bin."""

    examples: int
    mean_prediction: float
    mean_label: float


def evaluate(logits_B: npt.ArrayLike, labels_B: npt.ArrayLike, weights_B: npt.ArrayLike | None = None) -> Evaluation:
    """Evaluate logits against labels in [0, 1].

    Args:
        weights_B: how much each example counts, at least 0; None: one each.

    Raises:
        ValueError: there is not one label, or not one weight, for each logit.
    """
    logits, labels, weights = _sorted(logits_B, labels_B, weights_B)
    unusable = _unusable(logits, weights)
    if unusable:
        return Evaluation(len(logits), None, None, None, None, dict.fromkeys(FIGURES, unusable))
    total = float(len(logits)) if weights is None else float(np.sum(weights))
    positive = float(np.sum(_times(labels, weights)))
    # log(1 + e^x) - y x, in the form that does not overflow.
    losses = np.maximum(logits, 0.0) - logits * labels + np.log1p(np.exp(-np.abs(logits)))
    log_loss = float(np.sum(_times(losses, weights))) / total
    calibration = float(np.sum(_times(sigmoid(logits), weights))) / positive if positive else None
    mean = positive / total
    entropy = -(mean * math.log(mean) + (1 - mean) * math.log1p(-mean)) if 0 < mean < 1 else 0.0
    undefined = {}
    if calibration is None:
        undefined["calibration"] = "every label is 0"
    if not 0 < mean < 1:
        undefined |= dict.fromkeys(("auc", "normalized_entropy"), f"every label is {0 if mean == 0 else 1}")
    normalized = log_loss / entropy if entropy else None
    return Evaluation(len(logits), _auc(logits, labels, weights), log_loss, calibration, normalized, undefined)


def _unusable(logits: Floats64, weights: Floats64 | None) -> str:
    """Why this set of examples has no figures at all; empty if it has."""
    if not len(logits):
        return "there is no example"
    if not np.all(np.isfinite(logits)):
        return f"{np.count_nonzero(~np.isfinite(logits))} of {len(logits)} logits are not finite"
    return "every weight is 0" if weights is not None and not np.any(weights) else ""


def calibration_bins(logits_B: npt.ArrayLike, labels_B: npt.ArrayLike, bins: int = 10) -> tuple[CalibrationBin, ...]:
    """Examples in order of their prediction, in `bins` parts of equal size; empty parts are left out.

    Args:
        logits_B: finite logits.
    """
    logits, labels, _ = _sorted(logits_B, labels_B)
    parts = zip(np.array_split(sigmoid(logits), bins), np.array_split(labels, bins), strict=True)
    return tuple(CalibrationBin(len(p), float(np.mean(p)), float(np.mean(c))) for p, c in parts if len(p))


def sigmoid(logits: Floats64) -> Floats64:
    """1 / (1 + e^-x) without overflow."""
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1.0 + small), np.float64)


def _sorted(
    logits_B: npt.ArrayLike, labels_B: npt.ArrayLike, weights_B: npt.ArrayLike | None = None
) -> tuple[Floats64, Floats64, Floats64 | None]:
    logits, labels = (np.asarray(logits_B, np.float64).reshape(-1), np.asarray(labels_B, np.float64).reshape(-1))
    weights = None if weights_B is None else np.asarray(weights_B, np.float64).reshape(-1)
    if logits.shape != labels.shape:
        raise ValueError(f"expected one label for each logit, found {len(logits)} logits and {len(labels)} labels")
    if weights is not None and weights.shape != logits.shape:
        raise ValueError(f"expected one weight for each logit, found {len(logits)} logits and {len(weights)} weights")
    order = np.lexsort((labels, logits) if weights is None else (weights, labels, logits))
    return logits[order], labels[order], None if weights is None else weights[order]


def _times(values: Floats64, weights: Floats64 | None) -> Floats64:
    return values if weights is None else values * weights


def _auc(logits: Floats64, labels: Floats64, weights: Floats64 | None) -> float | None:
    """The AUC of sorted logits. With labels 0 and 1, twice the number of pairs won is an integer, so it is exact."""
    first = np.flatnonzero(np.concatenate([[True], logits[1:] != logits[:-1]]))
    clicks: npt.NDArray[Any] = labels
    others: npt.NDArray[Any] = 1.0 - labels
    if weights is not None:
        clicks, others = clicks * weights, others * weights
    elif np.all((labels == 0.0) | (labels == 1.0)):
        clicks, others = clicks.astype(np.int64), others.astype(np.int64)
    positives, negatives = np.add.reduceat(clicks, first), np.add.reduceat(others, first)
    positive, negative = np.sum(positives).item(), np.sum(negatives).item()
    if not positive or not negative:
        return None
    below = np.cumsum(negatives) - negatives
    won = np.sum(positives * (2 * below + negatives)).item()
    return float(won / (2 * positive * negative))
