"""The last phase: trainers finish their checkpoints and leave, then the servers; and the report of the attempt."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from bagpipe.lowlevel.strict_json import encode
from bagpipe.metrics.validations import Validation, summary_of
from bagpipe.oracle.service.kept import Kept
from bagpipe.oracle.service.phases import Assembled, Ending, Evaluation, OpenedData, Trained, hit_rate
from bagpipe.oracle.service.shell import POLL_SECONDS, Shell

COME_BACK_SECONDS = 3.0
"""How long a restarted oracle waits for roles that have not registered with it yet, to tell them that they may go.
Roles that still run register within a second; those that have ended never do, and it cannot tell the two apart."""


def release(shell: Shell, kept: Kept, ending: Ending, left: Collection[int]) -> None:
    """Let everybody go.

    Args:
        left: ranks of the trainers that have gone already.

    Raises:
        PeerLost: a trainer vanished before its last checkpoint was complete.
        StorageError: what outlives this process cannot be written.
    """
    conversation = shell.conversation
    kept.keep_ending(ending, left)
    shell.keep_left = lambda ranks: kept.keep_ending(ending, ranks)
    shell.act(conversation.leave(ending.step, stopped=ending.stopped, left=left))
    while not conversation.all_left:
        shell.listen(POLL_SECONDS)
    shell.act(conversation.release_servers())
    limit = shell.now + COME_BACK_SECONDS
    while not conversation.all_told and shell.now < limit:
        shell.listen(POLL_SECONDS)


def report_of(
    trained: Trained,
    evaluation: Evaluation,
    assembled: Assembled,
    data: OpenedData,
    validations: Sequence[Validation],
    *,
    stopped: bool,
    skipped: int,
) -> str:
    """What `report.json` holds, as its text; `docs/figures.md` says what each figure means."""
    spec = assembled.topology.spec
    stats, settings = trained.planner_stats, assembled.settings
    report: dict[str, Any] = {
        "steps": trained.step,
        "stopped": stopped,
        "skippedSteps": skipped,
        "loss": trained.figures.loss,
        "examplesPerSecond": round(trained.figures.examples_per_second, 1),
        "cacheHitRate": round(hit_rate(stats), 6),
        "waits": {name: round(seconds, 3) for name, seconds in trained.figures.waits.items()},
        "evaluation": evaluation,
        "validation": summary_of(validations, spec.evaluation, spec.checkpoint.best),
        "plan": {
            "lookahead": settings.lookahead,
            "cacheSlots": list(settings.slots),
            "reason": settings.reason,
            "peakRows": [max(s.peak_rows) for s in stats],
            "stepsWithShortenedView": sum(s.shortened_steps for s in stats),
            "shortestView": min((s.shortest_view for s in stats if s.shortest_view), default=None),
        },
        "data": asdict(data.dataset.report),
    }
    return encode(report, indent=2) + "\n"
