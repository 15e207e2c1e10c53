"""The figures of an evaluation: each label has its own, over all examples; labels are never pooled.

`evaluate_tasks` gives what `evaluation` of `summary.json` holds (docs/figures.md). One label has its figures beside
`examples`; several have them below `tasks`, by the labels' names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bagpipe.batch import Floats
from bagpipe.config.losses import Figures
from bagpipe.config.metrics import Metric, metrics_of
from bagpipe.metrics.figures import Task, figures_of
from bagpipe.metrics.functions import Function
from bagpipe.metrics.groups import Groups

Floats64 = npt.NDArray[np.float64]


def evaluate_tasks(
    outputs_BL: npt.ArrayLike,
    labels_BL: Floats,
    names: Sequence[str],
    kind: Figures | None,
    *,
    candidates: bool = False,
    weights_B: npt.ArrayLike | None = None,
    groups_B: Groups | None = None,
    metrics: tuple[Metric, ...] | None = None,
    functions: Mapping[str, Function] | None = None,
) -> dict[str, Any]:
    """The figures of every label.

    Args:
        outputs_BL: what the model gave, one for each example and label; any shape that has as many numbers.
        names: of the labels, `[L]`.
        kind: what the outputs are; None: a model's own loss decides it, so labels in [0, 1] are taken for clicks and
            others for values.
        candidates: an example's labels belong to candidates of one task, whose figures are over all of them; they are
            one group.
        weights_B: how much each example counts; None: one each.
        groups_B: the group of each example; None: the data has no groups.
        metrics: the figures to compute; None: the default ones for this kind of outputs.
        functions: those of `metrics` that are the user's own.

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
        groups_B = np.repeat(np.arange(examples), count)
        columns = [(outputs.reshape(-1), labels.reshape(-1), spread)]
    else:
        columns = [(outputs[:, task], labels[:, task], weights) for task in range(count)]
    tasks = []
    for column, answers, own in columns:
        kind_here = kind or _kind(answers)
        chosen = metrics or metrics_of((), kind_here)
        assert chosen is not None, "what is predicted is known"
        tasks.append(figures_of(Task(column, answers, kind_here, own, groups_B), chosen, functions or {}))
    if len(tasks) == 1:
        return {"examples": examples, **tasks[0]}
    return {"examples": examples, "tasks": dict(zip(names, tasks, strict=True))}


def by_task(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The figures of each task by its name; of a single task, which has no name here, by the empty one."""
    tasks = evaluation.get("tasks")
    if isinstance(tasks, Mapping):
        return dict(tasks)
    return {"": {name: value for name, value in evaluation.items() if name != "examples"}}


def _kind(labels: Floats64) -> Figures:
    return "clicks" if not labels.size or (labels.min() >= 0.0 and labels.max() <= 1.0) else "values"
