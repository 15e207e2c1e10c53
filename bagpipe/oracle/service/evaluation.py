"""Evaluates the test part: its plans go out as those of training do, and the outputs are compared with the labels."""

from bagpipe.config.losses import loss_kind
from bagpipe.data.labels import checked
from bagpipe.oracle.plan.schedule import EvaluationSchedule
from bagpipe.oracle.service.answers import Answers, judged
from bagpipe.oracle.service.kept import Kept, ScoreFile, read_scores
from bagpipe.oracle.service.phases import Assembled, Evaluation, OpenedData, Trained
from bagpipe.oracle.service.shell import Shell

EVALUATION_LOOKAHEAD = 8


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
        conversation.scores.parts.setdefault(step, {})[rank] = logits
    with ScoreFile(kept.scores, conversation.scores.parts) as scores:
        shell.keep_score = scores.append
        shell.stream(schedule.plans(batches), trained.step, evaluation=True)
    return judged(answers, conversation.scores.in_order(trained.step), spec, dataset, conversation.scores.failed)
