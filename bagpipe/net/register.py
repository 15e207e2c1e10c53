"""Joins a job as a server or trainer: sends `Hello` to the oracle, and waits for the topology."""

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bagpipe.errors import BagpipeError, ConfigError, DataError, ExitCode, PeerLost, Stopped
from bagpipe.net.connection import Connection
from bagpipe.net.messages import Hello, Refused, Topology, Wait

HELLO_SECONDS = 5.0
"""`Hello` is repeated at this interval until the topology comes: the oracle may have been restarted."""
TELL_SECONDS = 10.0
"""A role that nobody has answered for so long says so in its log: it may have been started alone, or too late."""

REMEDY = (
    "is it running? start `bagpipe oracle --job JOB --run-dir RUN --bind {oracle}` and `bagpipe server --job JOB "
    "--run-dir RUN --oracle {oracle} --shard 0` beside this program, or use `bagpipe.local(JOB)`, which starts both"
)
"""What an oracle or server that is not there is started with."""

PROCESS_BYTES = 16
"""Length of a process's random name: nobody guesses it."""

log = logging.getLogger(__name__)


def process_name() -> str:
    """For `Hello.process`."""
    return secrets.token_hex(PROCESS_BYTES)


@dataclass(frozen=True, slots=True)
class Impatience:
    """A shorter wait for the other roles, for a program that was started by hand and may lack them."""

    seconds: float
    """How long the oracle may take to answer at all; and then, once it has its data, the servers to register."""
    remedy: str
    """What the error tells the user to start."""
    oracle_log: Path | None = None
    """The log of an oracle that this program has started, whose end `stop` notices; None: nobody knows if it runs."""


def refusal(refused: Refused) -> BagpipeError:
    """The error that a refused role ends with; the exit code tells whether a retry can help.

    A peer that finds a message against the protocol (70) does not know whether its sender's code is wrong, or whether
    the message was damaged or crossed the restart of another role. A new attempt mends the latter, and where it does
    not, `runPolicy.backoffLimit` ends it. So that is tried again, unlike an error of the software in the role itself.
    """
    kinds: dict[int, type[BagpipeError]] = {ExitCode.BAD_CONFIG: ConfigError, ExitCode.BAD_DATA: DataError}
    return kinds.get(refused.exit_code, PeerLost)(refused.reason)


def register(
    oracle: Connection,
    hello: Hello,
    *,
    startup_seconds: float,
    stop: Callable[[], bool],
    impatience: Impatience | None = None,
) -> Topology:
    """Register, and wait until every role has registered.

    Raises:
        PeerLost: no topology within `startup_seconds`, or no sign of the others within less.
        ConfigError, DataError: the oracle refused this role, its key or token, or cannot run the job.
        Stopped: asked to stop meanwhile.
    """
    name = f"{hello.role} {hello.index}"
    deadline = time.monotonic() + startup_seconds
    every = HELLO_SECONDS if impatience is None else min(HELLO_SECONDS, impatience.seconds / 4)
    said, signs = 0.0, _Signs(name, oracle, impatience, time.monotonic())
    while time.monotonic() < deadline:
        if stop():
            raise Stopped(f"{name}: asked to stop before the job began")
        if time.monotonic() - said > every:
            oracle.send(hello)
            said = time.monotonic()
        oracle.poll(0.2)
        oracle.reconnected()  # Raises where the oracle has refused our key or token.
        while (received := oracle.try_receive()) is not None:
            message, _ = received
            if isinstance(message, Topology):
                return message
            if isinstance(message, Refused):
                raise refusal(message)
            if isinstance(message, Wait):
                signs.heard(message, time.monotonic())
        signs.check(time.monotonic())
        signs.tell(time.monotonic(), startup_seconds)
    raise PeerLost(
        f"{name}: the oracle did not complete the job's start within {startup_seconds:g} s; "
        "is it running, and did every other role start?"
    )


@dataclass(slots=True)
class _Signs:
    """Which other roles have answered so far."""

    name: str
    oracle: Connection
    impatience: Impatience | None
    since: float
    """When the present wait began: for the oracle's answer, or for the servers."""
    missing: str = "the oracle"
    """The roles that are awaited; empty: none."""
    told: bool = False

    def heard(self, message: Wait, now: float) -> None:
        if message.missing != self.missing:
            self.since = now if self.missing == "the oracle" or not self.missing else self.since
            self.missing = message.missing

    def tell(self, now: float, limit: float) -> None:
        """Say once that the oracle does not answer, and how long it is waited for."""
        if self.missing == "the oracle" and not self.told and now - self.since > TELL_SECONDS:
            self.told = True
            if self.impatience is not None and self.impatience.oracle_log is not None:
                says = "the oracle is still starting; waiting up to %g s (spec.transport.startupSeconds). Its log: %s"
                log.warning(says, limit, self.impatience.oracle_log)
                return
            log.warning(
                "no answer from the oracle at %s for %g s; waiting up to %g s (spec.transport.startupSeconds). Is it "
                "running, and is its job not over?",
                self.oracle.endpoint,
                TELL_SECONDS,
                limit,
            )

    def check(self, now: float) -> None:
        """Compare the wait with `Impatience.seconds`.

        Raises:
            PeerLost: a role that is awaited has not answered or registered for longer than that.
        """
        if self.impatience is None or not self.missing or now - self.since < self.impatience.seconds:
            return
        what = "does not answer" if self.missing == "the oracle" else "did not register with the oracle"
        raise PeerLost(
            f"{self.name}: {self.missing} {what} at {self.oracle.endpoint} within {self.impatience.seconds:g} s; "
            f"{self.impatience.remedy}"
        )
