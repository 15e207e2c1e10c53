"""How good are the predictions? AUC, log loss and calibration of click probabilities, exactly.

All sums are float64. AUC is the rank statistic with ties at half weight, computed from integer counts, so
it depends neither on the order of examples nor on how they were batched. Log loss and calibration sum in
sorted order for the same reason.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures over a set of examples.

    None: the figure is not defined for this set, or the model diverged (a logit is NaN or infinite), in
    which case no figure means anything.
    """

    examples: int
    auc: float | None
    """Probability that a click outranks a non-click; None with one class only."""
    log_loss: float | None
    """Mean natural-log loss of a binary label; None without examples."""
    calibration: float | None
    """Mean prediction / mean label; None without a positive label."""


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Examples whose prediction lies in one bin."""

    examples: int
    mean_prediction: float
    mean_label: float


def evaluate(logits_B: npt.ArrayLike, labels_B: npt.ArrayLike) -> Evaluation:
    """Evaluate logits against labels in {0, 1} (any label above 0.5 is a click).

    Raises:
        ValueError: there is not one label for each logit.
    """
    logits, clicks = _sorted(logits_B, labels_B)
    if not len(logits) or not np.all(np.isfinite(logits)):
        return Evaluation(len(logits), None, None, None)
    positive = int(np.count_nonzero(clicks))
    calibration = float(np.sum(sigmoid(logits))) / positive if positive else None
    # log(1 + e^x) - y x, in the form that does not overflow.
    losses = np.maximum(logits, 0.0) - logits * clicks + np.log1p(np.exp(-np.abs(logits)))
    return Evaluation(len(logits), _auc(logits, clicks), float(np.sum(losses)) / len(logits), calibration)


def calibration_bins(logits_B: npt.ArrayLike, labels_B: npt.ArrayLike, bins: int = 10) -> tuple[CalibrationBin, ...]:
    """Finite logits: examples by rising prediction in `bins` parts of equal size (empty ones are left out)."""
    logits, clicks = _sorted(logits_B, labels_B)
    parts = zip(np.array_split(sigmoid(logits), bins), np.array_split(clicks, bins), strict=True)
    return tuple(CalibrationBin(len(p), float(np.mean(p)), float(np.mean(c))) for p, c in parts if len(p))


def sigmoid(logits: Floats64) -> Floats64:
    """1 / (1 + e^-x) without overflow."""
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1.0 + small), np.float64)


def _sorted(logits_B: npt.ArrayLike, labels_B: npt.ArrayLike) -> tuple[Floats64, npt.NDArray[np.bool_]]:
    logits, labels = (np.asarray(logits_B, np.float64).reshape(-1), np.asarray(labels_B, np.float64).reshape(-1))
    if logits.shape != labels.shape:
        raise ValueError(f"expected one label for each logit, found {len(logits)} logits and {len(labels)} labels")
    clicks = labels > 0.5
    order = np.lexsort((clicks, logits))
    return logits[order], clicks[order]


def _auc(logits: Floats64, clicks: npt.NDArray[np.bool_]) -> float | None:
    """Sorted logits. Twice the number of pairs won, as an integer: exact for any number of examples."""
    positive = int(np.count_nonzero(clicks))
    negative = len(clicks) - positive
    if positive == 0 or negative == 0:
        return None
    first = np.flatnonzero(np.concatenate([[True], logits[1:] != logits[:-1]]))
    positives = np.add.reduceat(clicks.astype(np.int64), first)
    negatives = np.diff(np.append(first, len(clicks))) - positives
    below = np.cumsum(negatives) - negatives
    return int(np.sum(positives * (2 * below + negatives))) / (2 * positive * negative)
