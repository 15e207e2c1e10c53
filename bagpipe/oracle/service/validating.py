"""Makes the batches of the validation part as trainers ask for them, and judges the outputs that come back.

`validation.py` decides what is done when; this file has the data, the figures and the files.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bagpipe.batch import Batch, Floats
from bagpipe.config.evaluation import EvaluationConfig
from bagpipe.config.losses import loss_kind
from bagpipe.data.dataset import Dataset
from bagpipe.data.labels import checked
from bagpipe.errors import DataError
from bagpipe.metrics.validations import Validation, best_step, figure, stops_at
from bagpipe.net.messages import Topology, ValidationBatch
from bagpipe.net.plan_codec import pack_plan
from bagpipe.net.wire import encode
from bagpipe.oracle.plan.reading import reading_plans
from bagpipe.oracle.plan.schedule import slice_bounds
from bagpipe.oracle.service.answers import Answers, judged
from bagpipe.oracle.service.kept import Kept
from bagpipe.oracle.service.report import Reporter


@dataclass(slots=True)
class Validator:
    """The validation part of an attempt's data, gone through once for each evaluation."""

    dataset: Dataset
    topology: Topology
    kept: Kept
    reporter: Reporter
    _step: int = -1
    _number: int = 0
    _answers: Answers = field(default_factory=Answers)
    _batches: Iterator[Batch] = field(default_factory=lambda: iter(()))

    def next_batch(self, step: int) -> dict[int, Any]:
        """The next batch of the evaluation after `step`, encoded for each rank.

        Raises:
            DataError: a label does not suit the loss, or the part has become shorter.
        """
        if step != self._step:
            self._begin(step)
        batch = next(self._batches, None)
        if batch is None:
            raise DataError("data.validation: ended before its last example; it was changed while it was read")
        world = len(self.topology.trainers)
        plans = reading_plans(self.dataset.layout, batch, self._number, world_size=world, after=step)
        self._number += 1
        frames = {}
        for plan in plans:
            header, arrays = pack_plan(plan)
            frames[plan.rank] = encode(ValidationBatch(after=step, plan=header), arrays, attempt=self.kept.attempt)
        return frames

    def read_all(self, step: int) -> None:
        """Read the rest of the part, so that every label is known even if an earlier process sent the batches."""
        if step != self._step:
            self._begin(step)
        for _ in self._batches:
            pass

    def judge(self, step: int, outputs: list[Floats], failed: str, history: list[Validation]) -> Validation:
        """The figures of the evaluation after `step`, recorded and kept for a process that takes this one's place."""
        spec = self.topology.spec
        ordered = in_order(outputs, [len(labels) for labels in self._answers.labels], self.dataset.num_labels)
        figures = judged(self._answers, ordered, spec, self.dataset, failed)
        validation = Validation(step=step + 1, figures=figures)
        self.kept.keep_validations([*history, validation])
        text = in_words(validation, spec.evaluation, spec.checkpoint.best, history)
        self.reporter.event("validated", step=step + 1, text=text, validation=figures)
        return validation

    def _begin(self, step: int) -> None:
        self._step, self._number, self._answers = step, 0, Answers()
        spec = self.topology.spec
        batches = self.dataset.validation_batches(spec.batch_size)
        names = self.dataset.transform.label_names
        self._batches = self._answers.collect(checked(batches, loss_kind(spec.model), names, "the validation part"))


def in_order(outputs: list[Floats], examples: list[int], num_labels: int) -> list[Floats]:
    """Every rank's outputs, one slice of each batch after the other, in the order of the examples.

    Args:
        examples: of each batch.
    """
    if sum(map(len, outputs)) != sum(examples) * num_labels:
        return outputs  # too few or too many: whoever judges them says so
    found, at = [], [0] * len(outputs)
    for count in examples:
        sizes = np.diff(slice_bounds(count, len(outputs))) * num_labels
        for rank, size in enumerate(sizes.tolist()):
            found.append(outputs[rank][at[rank] : at[rank] + size])
            at[rank] += size
    return found


def in_words(validation: Validation, config: EvaluationConfig, best: str | None, before: list[Validation]) -> str:
    """One evaluation in a line, for people."""
    step, figures = validation.step, validation.figures
    if "failed" in figures:
        return f"validation after step {step} failed: {figures['failed']}"
    tasks = figures.get("tasks", {"": figures})
    parts = [
        f"{f'{label}/' if label else ''}{name} {value:.4f}"
        for label, found in tasks.items()
        for name, value in found.items()
        if isinstance(value, float)
    ]
    watched = best or (config.early_stopping.metric if config.early_stopping is not None else None)
    if watched is not None and (at := best_step([*before, validation], watched)) is not None:
        value = next(figure(one, watched) for one in [*before, validation] if one.step == at)
        parts.append("best so far" if at == step else f"best {watched} {value:.4f} at step {at}")
    end = "; training stops early" if stops_at([*before, validation], config) == step else ""
    return f"validation after step {step}: {'  '.join(parts) or 'no figure is defined'}{end}"
