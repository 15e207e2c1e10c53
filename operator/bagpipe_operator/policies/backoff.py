"""When may the present attempt start?

The first attempt after one that ended early begins at once; after each further one in a row the wait doubles, as what
ends attempts in a row is not mended by hurry. A job that gave its nodes back waits in any case, for a time that differs
from job to job: jobs that got into each other's way would do so again if they came back together.
"""

import datetime as dt
import hashlib

from bagpipe_operator import times
from bagpipe_operator.api import Job, Status
from bagpipe_operator.names import Reason

_FIRST_DELAY, _LONGEST_DELAY = 10, 300


def start_time(job: Job, status: Status) -> dt.datetime:
    """The moment from which on pods of the present attempt may be made."""
    assert status.attempt_time is not None
    return times.later(status.attempt_time, _delay(job, status))


def _delay(job: Job, status: Status) -> int:
    gave_way = status.last_failure.get("reason") == Reason.PARTLY_PLACED
    doublings = status.short_attempts - (1 if gave_way else 2)
    if doublings < 0:
        return 0
    delay: int = min(_FIRST_DELAY * 2 ** min(doublings, 10), _LONGEST_DELAY)
    return round(delay * (0.5 + _lot(job.uid, status.attempt))) if gave_way else delay


def _lot(uid: str, attempt: int) -> float:
    """From 0 to 1, another for each job and attempt, the same whenever it is asked."""
    return int.from_bytes(hashlib.sha256(f"{uid}/{attempt}".encode()).digest()[:4], "big") / 2**32
