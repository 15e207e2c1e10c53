"""The last phase: trainers finish their checkpoints and leave, then the servers; and the report of the attempt."""

from dataclasses import asdict
from typing import Any

from bagpipe.oracle.service.phases import Assembled, Evaluation, OpenedData, Trained, hit_rate
from bagpipe.oracle.service.shell import POLL_SECONDS, Shell


def release(shell: Shell, trained: Trained) -> bool:
    """Let everybody go; returns whether the run was asked to stop.

    Raises:
        PeerLost: a trainer vanished before its last checkpoint was complete.
    """
    conversation = shell.conversation
    shell.act(conversation.leave(trained.step))
    while not conversation.all_left:
        shell.listen(POLL_SECONDS)
    shell.act(conversation.release_servers())
    return conversation.stop_asked


def report_of(
    trained: Trained, evaluation: Evaluation, assembled: Assembled, data: OpenedData, *, stopped: bool
) -> dict[str, Any]:
    """What `report.json` holds; `docs/figures.md` says what each figure means."""
    stats, settings = trained.planner_stats, assembled.settings
    return {
        "steps": trained.step,
        "stopped": stopped,
        "loss": trained.figures.loss,
        "examplesPerSecond": round(trained.figures.examples_per_second, 1),
        "cacheHitRate": round(hit_rate(stats), 6),
        "waits": {name: round(seconds, 3) for name, seconds in trained.figures.waits.items()},
        "evaluation": evaluation,
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
