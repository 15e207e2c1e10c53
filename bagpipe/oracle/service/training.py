"""The phase that streams the plans of training."""

from collections.abc import Iterable, Iterator

from bagpipe.batch import Batch
from bagpipe.errors import ConfigError
from bagpipe.oracle.plan.schedule import TrainingSchedule
from bagpipe.oracle.service.conversation import Conversation
from bagpipe.oracle.service.kept import Kept
from bagpipe.oracle.service.phases import Assembled, OpenedData, Start, Trained, hit_rate
from bagpipe.oracle.service.shell import Shell
from bagpipe.oracle.service.validating import Validator
from bagpipe.plan import BatchPlan


def train(shell: Shell, data: OpenedData, assembled: Assembled, kept: Kept, start: Start) -> Trained:
    """Stream every training plan until all are done.

    Raises:
        ConfigError: there is no batch to train on.
    """
    topology, settings, reporter = assembled.topology, assembled.settings, shell.reporter
    spec = topology.spec
    if topology.validation_batches:
        shell.conversation.validations.num_batches = topology.validation_batches
        shell.validator = Validator(data.dataset, topology, kept, reporter)
    schedule = TrainingSchedule(
        data.dataset.layout,
        world_size=len(topology.trainers),
        lookahead=settings.lookahead,
        slots=settings.slots,
        first_step=start.step,
        total_steps=topology.total_steps,
        checkpoint_every=spec.checkpoint.every,
        validate_every=spec.evaluation.every if topology.validation_batches else None,
        save_validated=spec.checkpoint.best is not None or spec.evaluation.early_stopping is not None,
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
    """The schedule's plans, up to an early stop; once the run is asked to stop, the next one is the last."""
    plans = schedule.plans(batches)
    while (at := conversation.validations.stops_at) is None or schedule.step < at:
        schedule.stopping = conversation.stop_asked
        step_plans = next(plans, None)
        if step_plans is None:
            return
        yield step_plans
