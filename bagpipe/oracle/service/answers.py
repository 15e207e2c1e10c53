"""Collects the labels of evaluated examples, and computes the figures (AUC, loss, ...) of the model's outputs."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bagpipe.batch import Batch, Floats, Int64s
from bagpipe.config.document import JobSpec
from bagpipe.config.losses import labels_are_candidates, loss_kind
from bagpipe.config.metrics import metrics_of
from bagpipe.data.dataset import Dataset
from bagpipe.metrics.directions import FAILED
from bagpipe.metrics.functions import load_functions
from bagpipe.metrics.tasks import evaluate_tasks


@dataclass(slots=True)
class Answers:
    """Labels, weights and groups of the evaluated examples, collected while their batches go by."""

    labels: list[Floats] = field(default_factory=list)
    weights: list[Floats] = field(default_factory=list)
    groups: list[Int64s] = field(default_factory=list)

    def collect(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; what they say of their examples is kept."""
        for batch in batches:
            self.labels.append(batch.labels_BL)
            if batch.weights_B is not None:
                self.weights.append(batch.weights_B)
            if batch.groups_B is not None:
                self.groups.append(batch.groups_B)
            yield batch

    def judge(self, outputs: list[Floats], spec: JobSpec, dataset: Dataset) -> dict[str, Any]:
        """The figures of these outputs, in the order of the batches.

        Raises:
            ValueError: there is not one output for each label.
        """
        loss = loss_kind(spec.model)
        kind = None if loss is None else loss.figures
        metrics = metrics_of(spec.evaluation.metrics, kind)
        return evaluate_tasks(
            np.concatenate([np.ravel(part) for part in outputs]),
            np.concatenate(self.labels),
            dataset.transform.label_names,
            kind,
            candidates=labels_are_candidates(spec.model, dataset.num_labels),
            weights_B=np.concatenate(self.weights) if self.weights else None,
            groups_B=np.concatenate(self.groups) if self.groups else None,
            metrics=metrics,
            functions=load_functions(metrics or ()),
        )


def judged(answers: Answers, outputs: list[Floats], spec: JobSpec, dataset: Dataset, failed: str) -> dict[str, Any]:
    """The figures, or why there are none. That is no error: the model is saved and can be evaluated again."""
    try:
        return {FAILED: failed} if failed else answers.judge(outputs, spec, dataset)
    except ValueError as error:
        return {FAILED: str(error)}
