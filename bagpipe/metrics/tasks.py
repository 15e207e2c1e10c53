"""The figures of an evaluation: for each label its own, never pooled, over examples.

`evaluate_tasks` gives what `evaluation` of `summary.json` holds (docs/figures.md). One label has its figures beside
`examples`; several have them below `tasks`, by the labels' names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bagpipe.batch import Floats
from bagpipe.config.losses import Figures
from bagpipe.metrics.clicks import evaluate
from bagpipe.metrics.values import value_errors

UNDEFINED = "undefined"
"""Entry that says for each figure that is null why."""

Floats64 = npt.NDArray[np.float64]


def figure_names(kind: Figures | None) -> tuple[str, ...]:
    """The figures of a label; of a model's own loss, whose kind is None, all that they may turn out to be."""
    clicks, values = ("auc", "logLoss", "calibration"), ("rmse", "mae", "bias")
    if kind is None:
        return clicks + values
    return clicks if kind == "clicks" else values


def evaluate_tasks(
    outputs_BL: npt.ArrayLike,
    labels_BL: Floats,
    names: Sequence[str],
    kind: Figures | None,
    *,
    candidates: bool = False,
    weights_B: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """The figures of every label.

    Args:
        outputs_BL: what the model gave, one for each example and label; any shape that has as many numbers.
        names: of the labels, `[L]`.
        kind: what the outputs are; None: a model's own loss decides it, so labels in [0, 1] are taken for clicks and
            others for values.
        candidates: an example's labels belong to candidates of one task, whose figures are over all of them.
        weights_B: how much each example counts; None: one each.

    Raises:
        ValueError: there is not one output for each label.
    """
    outputs = np.asarray(outputs_BL, np.float64)
    if outputs.size != labels_BL.size:
        raise ValueError(f"the model gave {outputs.size} outputs for {labels_BL.size} labels; expected one for each")
    outputs, labels = outputs.reshape(labels_BL.shape), labels_BL.astype(np.float64)
    weights = None if weights_B is None else np.asarray(weights_B, np.float64)
    examples, count = labels.shape
    if candidates:
        spread = None if weights is None else np.repeat(weights, count)
        return {"examples": examples, **_figures(outputs.reshape(-1), labels.reshape(-1), spread, kind)}
    tasks = [_figures(outputs[:, task], labels[:, task], weights, kind) for task in range(count)]
    if count == 1:
        return {"examples": examples, **tasks[0]}
    return {"examples": examples, "tasks": dict(zip(names, tasks, strict=True))}


def by_task(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The figures of each task by its name; of a single task, which has no name here, by the empty one."""
    tasks = evaluation.get("tasks")
    if isinstance(tasks, Mapping):
        return dict(tasks)
    return {"": {name: value for name, value in evaluation.items() if name != "examples"}}


def _figures(outputs: Floats64, labels: Floats64, weights: Floats64 | None, kind: Figures | None) -> dict[str, Any]:
    if kind is None:
        kind = "clicks" if not labels.size or (labels.min() >= 0.0 and labels.max() <= 1.0) else "values"
    if kind in ("values", "counts"):
        return _value_figures(np.exp(outputs) if kind == "counts" else outputs, labels, weights)
    scored = evaluate(outputs, labels, weights)
    found = {"auc": scored.auc, "logLoss": scored.log_loss, "calibration": scored.calibration}
    why = {"auc": "auc", "logLoss": "log_loss", "calibration": "calibration"}
    undefined = {name: scored.undefined[why[name]] for name, value in found.items() if value is None}
    return {**found, UNDEFINED: undefined} if undefined else found


def _value_figures(predictions: Floats64, labels: Floats64, weights: Floats64 | None) -> dict[str, Any]:
    errors = value_errors(predictions, labels, weights)
    found: dict[str, Any] = {"rmse": errors.rmse, "mae": errors.mae, "bias": errors.bias}
    if errors.rmse is None:
        reason = "a prediction is not finite" if len(labels) else "there is no example"
        return {**found, UNDEFINED: dict.fromkeys(found, reason)}
    return found
