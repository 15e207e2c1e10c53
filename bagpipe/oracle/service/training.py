"""The phases that stream plans: training, and the evaluation of the test part."""

from collections.abc import Iterable, Iterator

import numpy as np

from bagpipe.batch import Batch, Floats
from bagpipe.errors import ConfigError
from bagpipe.metrics.clicks import evaluate
from bagpipe.oracle.plan.schedule import EvaluationSchedule, TrainingSchedule
from bagpipe.oracle.service.conversation import Conversation
from bagpipe.oracle.service.kept import Kept, ScoreFile, read_scores
from bagpipe.oracle.service.phases import Assembled, Evaluation, OpenedData, Start, Trained, hit_rate
from bagpipe.oracle.service.shell import Shell
from bagpipe.plan import BatchPlan

EVALUATION_LOOKAHEAD = 8


def train(shell: Shell, data: OpenedData, assembled: Assembled, kept: Kept, start: Start) -> Trained:
    """Stream every training plan until all are done.

    Raises:
        ConfigError: there is no batch to train on.
    """
    topology, settings, reporter = assembled.topology, assembled.settings, shell.reporter
    schedule = TrainingSchedule(
        data.dataset.layout,
        world_size=len(topology.trainers),
        lookahead=settings.lookahead,
        slots=settings.slots,
        first_step=start.step,
        total_steps=topology.total_steps,
        checkpoint_every=topology.spec.checkpoint.every,
        with_keys=topology.with_keys,
    )
    stats = tuple(planner.stats for planner in schedule.planners)
    shell.hit_rate = lambda: hit_rate(stats)
    reporter.begin_training(start, topology.total_steps, settings)
    plans = _plans_until_stopped(shell.conversation, schedule, data.batches)
    shell.stream(plans, start.step, evaluation=False)
    if schedule.step == 0:
        raise ConfigError("spec.data: no batch to train on; with dropLast, batchSize must not exceed the examples")
    figures = kept.figures() or reporter.training.figures()
    kept.keep_figures(figures)
    return Trained(schedule.step, shell.conversation.stop_asked, figures, stats)


def _plans_until_stopped(
    conversation: Conversation, schedule: TrainingSchedule, batches: Iterable[Batch]
) -> Iterator[tuple[BatchPlan, ...]]:
    """The schedule's plans; once the run is asked to stop, the next one is the last."""
    plans = schedule.plans(batches)
    while True:
        schedule.stopping = conversation.stop_asked
        step_plans = next(plans, None)
        if step_plans is None:
            return
        yield step_plans


def evaluate_test_part(
    shell: Shell, data: OpenedData, assembled: Assembled, kept: Kept, trained: Trained
) -> Evaluation:
    """Stream the test part's plans and score the logits that come back; None where there is nothing to evaluate.

    Raises:
        PeerLost: logits that came to a predecessor of this process are lost.
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
    )
    labels: list[Floats] = []

    def batches() -> Iterator[Batch]:
        for batch in dataset.test_batches(spec.batch_size):
            labels.append(batch.labels_BL)
            yield batch

    conversation = shell.conversation
    for step, rank, logits in read_scores(kept.scores):
        conversation.scored.setdefault(step, {})[rank] = logits
    with ScoreFile(kept.scores, conversation.scored) as scores:
        shell.keep_score = scores.append
        shell.stream(schedule.plans(batches()), trained.step, evaluation=True)
    parts = [np.ravel(part) for part in conversation.logits(trained.step)]
    scored = evaluate(np.concatenate(parts), np.concatenate(labels).reshape(-1))
    return {
        "examples": scored.examples,
        "auc": scored.auc,
        "logLoss": scored.log_loss,
        "calibration": scored.calibration,
    }
