"""The oracle and the servers of one attempt as children of a program whose loop is the trainer."""

import secrets
import subprocess
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

from bagpipe.config.document import Job
from bagpipe.errors import BagpipeError, ExitCode, PeerLost, Stopped, error_of
from bagpipe.local.commands import Attempt, addresses, role_commands, roles_of
from bagpipe.local.policy import HOPELESS, RoleId
from bagpipe.local.process import Child, last_error
from bagpipe.local.rundir import RunDir
from bagpipe.net.admission import TOKEN_VARIABLE

TOKEN_BYTES = 32
START_SECONDS = 60.0
"""How long it may take to start the processes."""
SETTLE_SECONDS = 2.0
"""How long the others may take to end by themselves once one of them has failed."""


class Children:
    """The child processes. Use it in a `with`: those that still run at its end are killed.

    The kernel ends a child with the thread that started it. So that is a thread which lives as long as the children
    may, and not the caller's: a program may open a session in one thread and train in another.
    """

    def __init__(self, job: Job, run_dir: RunDir, checkpoint: Path | None) -> None:
        self.oracle, servers = addresses(job.spec)
        self.attempt = run_dir.next_attempt()
        self.environment: Mapping[str, str] = {TOKEN_VARIABLE: secrets.token_hex(TOKEN_BYTES)}
        """Environment variables that this process needs too, to be admitted by the roles."""
        self._children: dict[RoleId, Child] = {}
        self._over, begun = threading.Event(), Future[None]()
        start = Attempt(self.attempt, checkpoint, self.oracle, servers)
        # No thread of a pool: the interpreter ends those first, and a program that ends still closes its session.
        self._parent = threading.Thread(
            target=self._keep, args=(job, run_dir, start, begun), name="bagpipe-children", daemon=True
        )
        self._parent.start()
        try:
            begun.result(START_SECONDS)
        except BaseException:
            self.kill()
            raise

    def _keep(self, job: Job, run_dir: RunDir, attempt: Attempt, begun: "Future[None]") -> None:
        """Start the processes, and live until they are to end."""
        try:
            build = role_commands(job, run_dir.job_file, run_dir.path)
            for role in roles_of(job.spec):
                if role.kind != "trainer" and not self._over.is_set():
                    log, heading = run_dir.log(role.kind, role.index), f"attempt {self.attempt}"
                    command = build(role, attempt)
                    self._children[role] = Child(role, command, log, heading=heading, environment=self.environment)
        except BaseException as error:  # noqa: BLE001  # raised again where it is waited for
            begun.set_exception(error)
        else:
            begun.set_result(None)
        self._over.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """End all of them."""
        for child in list(self._children.values()):
            child.kill()
        self._over.set()
        self._parent.join(START_SECONDS)
        for child in self._children.values():  # One that was being started meanwhile.
            child.kill()

    def wait(self, seconds: float) -> bool:
        """Wait until all have ended by themselves; False: they did not within `seconds`."""
        deadline = time.monotonic() + seconds
        try:
            for child in self._children.values():
                child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def anybody_ended(self) -> bool:
        """Whether one of them has ended, with an error or without: before the job begins, none should."""
        return any(child.poll() is not None for child in self._children.values())

    def failed(self) -> tuple[int, str] | None:
        """Exit code and error of the child that explains why the others ended; None: none failed."""
        self.wait(SETTLE_SECONDS)
        ended = [(child.poll(), child) for child in self._children.values()]
        bad = [(code, child) for code, child in ended if code not in (None, ExitCode.DONE, ExitCode.STOPPED)]
        if not bad:
            return None
        code, child = min(bad, key=lambda one: (one[0] not in HOPELESS, one[0] or 0))
        assert code is not None
        words = last_error(child.log) or f"it said nothing (log: {child.log})"
        return code, f"{child.role} ended: {words.removeprefix('the oracle gave up: ')}"

    def why(self, error: BagpipeError, lost: str) -> BagpipeError:
        """Of a lost peer, or a wait that was given up, the error of the child that explains it; else the error itself.

        Args:
            lost: why the folders are this run's no more; empty: they are.
        """
        failed = self.failed() if isinstance(error, PeerLost | Stopped) else None
        if failed is not None:
            return error_of(failed[0])(failed[1])
        if not isinstance(error, Stopped):
            return error
        logs = next(iter(self._children.values())).log.parent
        ended = f"the oracle or a server was ended before the job began; begin again (logs: {logs})"
        return PeerLost(f"session: {lost or ended}")
