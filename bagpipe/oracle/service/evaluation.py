"""The evaluation of the test part: its plans go out as those of training do, what comes back is held to the labels."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bagpipe.batch import Batch, Floats
from bagpipe.config.document import JobSpec
from bagpipe.config.losses import labels_are_candidates, loss_kind
from bagpipe.data.dataset import Dataset
from bagpipe.data.labels import checked
from bagpipe.metrics.tasks import evaluate_tasks
from bagpipe.oracle.plan.schedule import EvaluationSchedule
from bagpipe.oracle.service.kept import Kept, ScoreFile, read_scores
from bagpipe.oracle.service.phases import Assembled, Evaluation, OpenedData, Trained
from bagpipe.oracle.service.shell import Shell

EVALUATION_LOOKAHEAD = 8
FAILED = "failed"
"""Key of the reason in `evaluation` where there are no figures."""


@dataclass(slots=True)
class Answers:
    """What the test part says of each example, collected while its batches go by."""

    labels: list[Floats] = field(default_factory=list)
    weights: list[Floats] = field(default_factory=list)

    def collect(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches."""
        for batch in batches:
            self.labels.append(batch.labels_BL)
            if batch.weights_B is not None:
                self.weights.append(batch.weights_B)
            yield batch

    def judge(self, outputs: list[Floats], spec: JobSpec, dataset: Dataset) -> dict[str, Any]:
        """The figures of these outputs, in the order of the batches.

        Raises:
            ValueError: there is not one output for each label.
        """
        loss = loss_kind(spec.model)
        return evaluate_tasks(
            np.concatenate([np.ravel(part) for part in outputs]),
            np.concatenate(self.labels),
            dataset.transform.label_names,
            None if loss is None else loss.figures,
            candidates=labels_are_candidates(spec.model, dataset.num_labels),
            weights_B=np.concatenate(self.weights) if self.weights else None,
        )


def evaluate_test_part(
    shell: Shell, data: OpenedData, assembled: Assembled, kept: Kept, trained: Trained
) -> Evaluation:
    """Stream the test part's plans and judge the outputs that come back; None where there is nothing to evaluate.

    Raises:
        PeerLost: outputs that came to a predecessor of this process are lost.
    """
    spec, dataset = assembled.topology.spec, data.dataset
    if not spec.evaluate or trained.stopped or not dataset.num_test_examples:
        return None
    shell.reporter.event("evaluating", step=trained.step)
    schedule = EvaluationSchedule(
        dataset.layout,
        world_size=len(assembled.topology.trainers),
        lookahead=min(assembled.settings.lookahead, EVALUATION_LOOKAHEAD),
        slots=assembled.settings.slots,
        first_step=trained.step,
        with_keys=assembled.topology.with_keys,
    )
    answers = Answers()
    loss, names = loss_kind(spec.model), dataset.transform.label_names
    batches = answers.collect(checked(dataset.test_batches(spec.batch_size), loss, names, "the test part"))
    conversation = shell.conversation
    for step, rank, logits in read_scores(kept.scores):
        conversation.scored.setdefault(step, {})[rank] = logits
    with ScoreFile(kept.scores, conversation.scored) as scores:
        shell.keep_score = scores.append
        shell.stream(schedule.plans(batches), trained.step, evaluation=True)
    return _judged(answers, conversation.logits(trained.step), spec, dataset, conversation.evaluation_failed)


def _judged(answers: Answers, outputs: list[Floats], spec: JobSpec, dataset: Dataset, failed: str) -> dict[str, Any]:
    """The figures, or why there are none: the model is trained and saved, and can be evaluated again."""
    try:
        return {FAILED: failed} if failed else answers.judge(outputs, spec, dataset)
    except ValueError as error:
        return {FAILED: str(error)}
