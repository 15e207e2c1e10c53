"""What to do when a local role ends: one pure function.

| what ended | what follows |
|---|---|
| anything, with 78 or 65 | the run ends at once with that code, the oracle's if it has one: a retry cannot help |
| anything, with 70, and nothing was killed | the run ends with 70: an error of the software comes again every time |
| anything, with 75 for want of room on a disk | a new attempt, if the disk then has more room than the last one had |
| a server, otherwise | it alone restarts on its files and its address; trainers retry; bounded |
| the oracle, killed | it alone restarts and replays its plans; once every step is done, it lets the rest go; bounded |
| the oracle or a trainer, otherwise | a new attempt of all roles from the newest checkpoint; bounded |
| everything, with 0 or 143 | the run is done, or stopped with a checkpoint |

When one role fails the others end too, because they are told or notice it, and in any order: the first process that is
found dead need not be the cause. So before a new attempt, and before an end with 70, the others have a moment to end
(`SETTLE_SECONDS` without a change), and then the end that explains the others decides (`_cause`).

It never looks at a process, a clock or a file: the supervisor tells it what it has seen.
"""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bagpipe.errors import ExitCode

Kind = Literal["oracle", "server", "trainer"]

HOPELESS = (int(ExitCode.BAD_CONFIG), int(ExitCode.BAD_DATA))
ORDERLY = frozenset({int(ExitCode.DONE), int(ExitCode.STOPPED)})
SETTLE_SECONDS = 1.0
"""How long, after the last role's end, the roles that still run may take to end by themselves after a failure."""
LEAVE_SECONDS = 10.0
"""How long the rest may take to leave once the oracle has reported."""
REPORT_SECONDS = 60.0
"""How long the oracle may take to report once every trainer has left: it may have been killed and start again."""


@dataclass(frozen=True, slots=True, order=True)
class RoleId:
    """One process of a run."""

    kind: Kind
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "oracle" else f"{self.kind} {self.index}"


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that has ended. A negative code is the signal that ended it, as in `subprocess`."""

    role: RoleId
    code: int

    def __str__(self) -> str:
        if self.code < 0:
            return f"{self.role} was killed by {signal.Signals(-self.code).name}"
        return f"{self.role} ended with exit code {self.code}"


@dataclass(frozen=True, slots=True)
class Limits:
    """How often to try again, and how long to wait."""

    restarts: int
    """`runPolicy.backoffLimit`: new attempts of a run, and restarts of one role in an attempt."""
    grace_seconds: float
    """How long a run may take to stop at a checkpoint."""
    servers_keep_files: bool
    """Rows outlive a server's process (`servers.storage: file`)."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the supervisor sees of one attempt."""

    running: frozenset[RoleId]
    ended: tuple[Ended, ...]
    """In the order in which they ended; a role that was restarted is running, not ended."""
    restarts: Mapping[RoleId, int]
    """How often each role was restarted alone in this attempt."""
    attempts_failed: int
    stopping_seconds: float | None
    """Since the run was asked to stop; None: it was not."""
    quiet_seconds: float
    """Since a role last started or ended."""
    reported: bool = False
    """The oracle has written its report."""
    lacked_room: frozenset[RoleId] = frozenset()
    """Roles that have ended because a disk has no room."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do now."""


@dataclass(frozen=True, slots=True)
class RestartAlone:
    """Start one role again; the others wait for it."""

    ended: Ended


@dataclass(frozen=True, slots=True)
class NewAttempt:
    """End every role and start all of them from the newest checkpoint."""

    because: Ended


@dataclass(frozen=True, slots=True)
class End:
    """The run is over; roles that still run are killed."""

    code: int
    because: Ended | None = None
    reason: str = ""


Decision = Wait | RestartAlone | NewAttempt | End


def decide(observed: Observed, limits: Limits) -> Decision:
    """The next thing to do."""
    failed = [e for e in observed.ended if not _orderly(e, observed)]
    # The oracle's verdict on job and data counts most. Once it is gone, another run may listen at its address, and
    # refuse roles of this one with a code that says nothing of this job.
    if hopeless := [end for end in failed if end.code in HOPELESS]:
        end = min(hopeless, key=lambda end: (end.role.kind != "oracle", HOPELESS.index(end.code)))
        return End(end.code, end)
    if _work_is_over(observed):
        return _leave(observed, limits)
    # On the same disk the role alone would end at the same file; a new attempt removes what this one wrote.
    if full := [end for end in failed if end.role in observed.lacked_room]:
        return _try_again(_cause(full), observed, limits)
    for end in failed:
        alone = all(other is end or other.role.kind == "server" for other in failed)
        if end.role.kind == "oracle" and end.code < 0 and alone and _may_restart(end, observed, limits):
            return RestartAlone(end)
        if end.role.kind != "server":
            return _try_again(_cause(failed), observed, limits)
    for end in observed.ended:
        if end.role.kind == "server" and (end in failed or end.code == ExitCode.STOPPED):
            stopping = observed.stopping_seconds is not None and end.code == ExitCode.TRANSIENT
            if stopping and observed.running and observed.quiet_seconds < SETTLE_SECONDS:
                return Wait()  # It may have ended because the oracle did, whose end is seen a moment later.
            if limits.servers_keep_files and _may_restart(end, observed, limits):
                return RestartAlone(end)
            return _try_again(end, observed, limits)
    if observed.stopping_seconds is not None and observed.stopping_seconds > limits.grace_seconds:
        return End(ExitCode.TRANSIENT, None, f"did not stop within {limits.grace_seconds:g} s and was killed")
    return Wait()


def _may_restart(end: Ended, observed: Observed, limits: Limits) -> bool:
    return observed.restarts.get(end.role, 0) < limits.restarts


def _orderly(end: Ended, observed: Observed) -> bool:
    """Whether a process ended as it should. One that is asked to stop before it handles signals dies of SIGTERM."""
    asked = observed.stopping_seconds is not None and end.role.kind != "server"
    return end.code in ORDERLY or (asked and end.code == -signal.SIGTERM)


def _work_is_over(observed: Observed) -> bool:
    """The oracle has reported, or no trainer is left, all of them in good order."""
    if observed.reported:
        return True
    done = {e.role: e for e in observed.ended if _orderly(e, observed)}
    trainers = [r for r in {*observed.running, *(e.role for e in observed.ended)} if r.kind == "trainer"]
    return RoleId("oracle") in done or (bool(trainers) and all(t in done for t in trainers))


def _leave(observed: Observed, limits: Limits) -> Decision:
    """Wait for the roles to leave by themselves; those that do not are killed after a while: their work is done."""
    workers = [e for e in observed.ended if e.role.kind != "server"]
    oracle = next((e for e in workers if e.role.kind == "oracle"), None)
    reported = observed.reported or (oracle is not None and _orderly(oracle, observed))
    if oracle is not None and not reported:
        if oracle.code < 0 and _may_restart(oracle, observed, limits):
            return RestartAlone(oracle)
        return _try_again(oracle, observed, limits)
    if observed.running and observed.quiet_seconds <= (LEAVE_SECONDS if reported else REPORT_SECONDS):
        return Wait()
    if any(_orderly(e, observed) and e.code != ExitCode.DONE for e in workers):
        return End(ExitCode.STOPPED)
    if reported:
        return End(ExitCode.DONE)
    return End(ExitCode.TRANSIENT, None, "every trainer left, but the oracle did not report")


def _cause(failed: Sequence[Ended]) -> Ended:
    """The end that explains the others: a kill, then an exit code of no error class, then an error of the software,
    else the first.

    A role that ends with 75 has most often only noticed that another one is gone.
    """
    # A server alone would have been restarted. Of two kills the order in which they were seen must not decide.
    failed = sorted(failed, key=lambda end: (end.role.kind == "server", abs(end.code)))
    for explains in (
        lambda code: code < 0,
        lambda code: code not in (ExitCode.TRANSIENT, ExitCode.SOFTWARE),
        lambda code: code == ExitCode.SOFTWARE,
    ):
        if (found := next((end for end in failed if explains(end.code)), None)) is not None:
            return found
    return failed[0]


def _try_again(end: Ended, observed: Observed, limits: Limits) -> Decision:
    code = end.code if end.code > 0 else 128 - end.code
    if end.code > 0 and observed.running and observed.quiet_seconds < SETTLE_SECONDS:
        return Wait()
    if end.code == ExitCode.SOFTWARE:
        return End(code, end)
    if observed.stopping_seconds is not None:
        return End(code, end, "while the run was stopping")
    if observed.attempts_failed >= limits.restarts:
        return End(
            code, end, f"and runPolicy.backoffLimit allows {limits.restarts} new attempts" if limits.restarts else ""
        )
    return NewAttempt(end)
