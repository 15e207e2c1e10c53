"""Two processes say that they are one role of the job: who has the place.

The first one keeps it as long as its connection is there, whoever else has the job's token. A connection ends at once
with its process, and within `deadPeerSeconds` where the machine or the network is gone, because it answers no heartbeat
then. So a role that was restarted has its place at once or soon; a second process of a living role never has.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bagpipe.errors import ExitCode
from bagpipe.net.admission import Held, Speaker
from bagpipe.net.messages import Refused, SayHello

BETWEEN_TRIES_SECONDS = 0.1
"""A holder's connection is tried at most so often: a flood of `Hello` must not become one for the holder."""
PATIENCE = 1.5
"""A second process is refused when it has asked for so many times `deadPeerSeconds`. zmq sends a heartbeat every fifth
of them and waits for its answer as long as they are, so a connection whose other end is gone has ended by then."""


@dataclass(slots=True)
class _Contest:
    challenger: bytes
    since: float
    """When this challenger asked first."""
    tried: float
    """When the holder's connection was tried last."""


@dataclass(slots=True)
class Contests:
    """The places of one listener that are asked for though another has them; one challenger of each is remembered.

    Args:
        dead_seconds: within so many seconds a connection ends whose other end is gone.
        is_there: tries a peer's connection.
    """

    dead_seconds: float
    is_there: Callable[[bytes], bool]
    clock: Callable[[], float] = time.monotonic
    _contests: dict[Speaker, _Contest] = field(default_factory=dict)

    def decide(self, challenger: bytes, held: Held) -> SayHello | Refused | None:
        """None: the holder's connection has ended, and the place is free. Else what the challenger is told: to ask
        again, or at last that it has no place.
        """
        now = self.clock()
        contest = self._contests.get(held.speaker)
        if contest is None or now - contest.tried >= BETWEEN_TRIES_SECONDS:
            if not self.is_there(held.holder):
                self._contests.pop(held.speaker, None)
                return None
            if contest is None:
                contest = self._contests[held.speaker] = _Contest(challenger, since=now, tried=now)
            contest.tried = now
        if contest.challenger != challenger:
            contest.challenger, contest.since = challenger, now
        who, seconds = held.speaker, self.dead_seconds * PATIENCE
        if now - contest.since < seconds:
            return SayHello(
                reason=f"another process is {who}, and is connected; its place is free when that connection ends"
            )
        del self._contests[held.speaker]
        return Refused(
            reason=f"another process is {who}, and has stayed connected for {seconds:g} s; expected one process for "
            "each role: end one of the two, or start this one with an index of its own",
            exit_code=ExitCode.TRANSIENT,
        )
