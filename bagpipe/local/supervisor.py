"""Runs one job here: starts every role as a child process, watches them, and does what the policy decides.

The supervisor moves no data and knows nothing of training. It guarantees that a role that ends is noticed at once, that
no role outlives it (not even when it is killed itself), and that a request to stop ends in a checkpoint. All decisions
are made by `policy.decide`.
"""

import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from bagpipe.config.document import Job
from bagpipe.errors import ExitCode
from bagpipe.local.commands import Attempt, CommandBuilder, addresses, role_commands, roles_of
from bagpipe.local.policy import HOPELESS, End, Ended, Limits, NewAttempt, Observed, RestartAlone, RoleId, decide
from bagpipe.local.process import LAST_LINES, TRACEBACK, Child, last_error, last_lines, tells_progress
from bagpipe.local.progress import MetricsTail, View
from bagpipe.local.room import Room
from bagpipe.local.rundir import RunDir
from bagpipe.local.wakeup import Wakeup
from bagpipe.net.admission import TOKEN_VARIABLE

LOOK_SECONDS = 0.1
GRACE_SECONDS = 120.0
"""How long stopping at a checkpoint may take."""
SETTLE_SECONDS = 2.0
"""How long roles may take to end by themselves once the run is over."""
LOG_LINES = 15
TOKEN_BYTES = 32
INTERRUPTED = 130
THE_ORACLE_SAID = "the oracle gave up: "


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    code: int
    attempts: int
    seconds: float
    error: str = ""
    """One line, empty when all went well."""


class Supervisor:
    """One run. Use it from the main thread: it takes SIGINT and SIGTERM, and children die with that thread."""

    def __init__(
        self,
        job: Job,
        run_dir: RunDir,
        view: View,
        *,
        build: CommandBuilder | None = None,
        child: type[Child] = Child,
        clock: Callable[[], float] = time.monotonic,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._job, self._run_dir, self._view, self._clock = job, run_dir, view, clock
        self._child = child
        self._build = build or role_commands(job, run_dir.job_file, run_dir.path)
        policy = job.spec.run_policy
        keeps = job.spec.servers.storage == "file"
        self._limits = Limits(policy.backoff_limit, grace_seconds, servers_keep_files=keeps)
        # Only the roles of this run have it, so no other program on this machine can talk to them.
        self._environment = {TOKEN_VARIABLE: secrets.token_hex(TOKEN_BYTES)}
        self._children: dict[RoleId, Child] = {}
        self._ended: dict[RoleId, Ended] = {}
        self._room = Room((run_dir.path, run_dir.checkpoints(job)))
        self._lacked_room: set[RoleId] = set()
        self._restarts: dict[RoleId, int] = {}
        self._attempts_failed = 0
        self._stop_requests = 0
        self._stopping_since: float | None = None
        self._changed_at = clock()
        self._tail = MetricsTail(run_dir.metrics)

    def run(self, checkpoint: Path | None = None) -> Outcome:
        """Run the job to its end, from `checkpoint` or from the beginning."""
        started = self._clock()
        with self._signals():
            # Inside the handlers: a second Ctrl-C while the roles are being ended must not leave any behind.
            try:
                self._start_attempt(checkpoint)
                end = self._watch()
                if end.because is not None and (end.code not in HOPELESS or not self._words(end.because)):
                    self._settle()
            finally:
                self._kill_all()
                self._run_dir.sweep(self._job)
        self._show_progress()
        return Outcome(end.code, self._attempts_failed + 1, self._clock() - started, self._explain(end))

    # ── starting and ending ───────────────────────────────────────────────────────────────────────

    def _start_attempt(self, checkpoint: Path | None) -> None:
        self._kill_all()
        self._run_dir.sweep(self._job)
        self._ended.clear()
        self._lacked_room.clear()
        self._restarts.clear()
        self._room.begin()
        oracle, servers = addresses(self._job.spec)
        self._attempt = Attempt(self._run_dir.next_attempt(), checkpoint, oracle, servers)
        for role in roles_of(self._job.spec):
            self._start(role)

    def _start(self, role: RoleId) -> None:
        command = self._build(role, self._attempt)
        log = self._run_dir.log(role.kind, role.index)
        heading = f"attempt {self._attempt.number}"
        self._children[role] = self._child(role, command, log, heading=heading, environment=self._environment)
        self._changed_at = self._clock()

    def _kill_all(self) -> None:
        for child in self._children.values():
            child.kill()
        self._children.clear()

    def _settle(self) -> None:
        """Give the other roles time to log why they end: they were told of the failure, or notice it now."""
        deadline = self._clock() + SETTLE_SECONDS
        while self._children and self._clock() < deadline and self._stop_requests < 2:
            self._pause()
            self._reap()

    # ── watching ──────────────────────────────────────────────────────────────────────────────────

    def _watch(self) -> End:
        while True:
            self._reap()
            self._show_progress()
            if self._stop_requests > 1:
                return End(
                    INTERRUPTED, None, "killed at the second request to stop; the newest complete checkpoint stands"
                )
            if lost := self._run_dir.lost:
                return End(ExitCode.TRANSIENT, None, lost)
            self._pass_on_stop()
            match decide(self._observed(), self._limits):
                case End() as end:
                    return end
                case RestartAlone(ended):
                    self._restart(ended)
                case NewAttempt(because):
                    if full := self._still_full(because):
                        return End(because.code, because, f"and {full}")
                    self._attempts_failed += 1
                    checkpoint = self._run_dir.starting_checkpoint(self._job, self._view.note)
                    back = f"from {checkpoint.name}" if checkpoint else "from the beginning"
                    self._view.note(f"{because}{self._words(because)}; every role starts again {back}")
                    self._start_attempt(checkpoint)
                case _:
                    self._pause()

    def _reap(self) -> None:
        for role, child in list(self._children.items()):
            code = child.poll()
            if code is not None:
                child.kill()
                del self._children[role]
                self._ended[role] = Ended(role, code)
                self._changed_at = self._clock()
                if code == ExitCode.TRANSIENT and self._room.lacked(last_error(child.log)):
                    self._lacked_room.add(role)

    def _still_full(self, because: Ended) -> str:
        """Why an attempt that ended for want of room would only be repeated by another one; empty: it would not."""
        if because.role not in self._lacked_room:
            return ""
        self._kill_all()
        self._run_dir.sweep(self._job)
        return self._room.no_more()

    def _observed(self) -> Observed:
        now = self._clock()
        return Observed(
            running=frozenset(self._children),
            ended=tuple(self._ended.values()),
            restarts=dict(self._restarts),
            attempts_failed=self._attempts_failed,
            stopping_seconds=None if self._stopping_since is None else now - self._stopping_since,
            quiet_seconds=now - self._changed_at,
            reported=self._run_dir.reported,
            lacked_room=frozenset(self._lacked_room),
        )

    def _restart(self, ended: Ended) -> None:
        self._restarts[ended.role] = self._restarts.get(ended.role, 0) + 1
        del self._ended[ended.role]
        how = "goes on where it was" if ended.role.kind == "oracle" else "goes on with its files"
        self._view.note(f"{ended}{self._words(ended)}; it restarts and {how}")
        self._start(ended.role)

    def _show_progress(self) -> None:
        for record in self._tail.read():
            self._view.record(record)

    def _pause(self) -> None:
        """Wait until a child ends, a request to stop comes, or progress and deadlines have to be looked at."""
        self._wakeup.wait(LOOK_SECONDS)

    # ── being asked to stop ───────────────────────────────────────────────────────────────────────

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def ask(number: int, frame: FrameType | None) -> None:
            self._stop_requests += 1

        # A closed terminal (SIGHUP) counts as a request too: nobody is left to press Ctrl-C. Not under `nohup`.
        asking = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), ask)
        if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
            del asking[signal.SIGHUP]
        with Wakeup() as self._wakeup:
            before = {number: signal.signal(number, handler) for number, handler in asking.items()}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _pass_on_stop(self) -> None:
        """Servers are not told: trainers and the oracle still need them for the last checkpoint."""
        if self._stop_requests and self._stopping_since is None:
            self._stopping_since = self._changed_at = self._clock()
            self._view.note("stopping at a checkpoint; a second Ctrl-C or signal kills")
            for role, child in self._children.items():
                if role.kind != "server":
                    child.terminate()

    # ── why it ended ───────────────────────────────────────────────────────────────────────────────

    def _words(self, ended: Ended) -> str:
        error = last_error(self._run_dir.log(ended.role.kind, ended.role.index))
        return f": {error}" if error else ""

    def _where_more_is_told(self) -> str:
        """The log with a traceback, if this attempt left one."""
        logs = [self._run_dir.log(role.kind, role.index) for role in roles_of(self._job.spec)]
        found = [log for log in logs if any(line.startswith(TRACEBACK) for line in last_lines(log, LAST_LINES))]
        return f" (traceback: {found[0]})" if found else ""

    def _explain(self, end: End) -> str:
        """One line about a run that did not end well."""
        if end.code in (ExitCode.DONE, ExitCode.STOPPED):
            return ""
        if end.because is None:
            return end.reason
        log = self._run_dir.log(end.because.role.kind, end.because.role.index)
        error = last_error(log)
        if end.code in HOPELESS and error is None:  # Its log may not grow, or has no room; the oracle was told.
            error = last_error(self._run_dir.log("oracle", 0))
        if end.code in HOPELESS and error:
            return error.removeprefix(THE_ORACLE_SAID) + self._where_more_is_told()
        if error is None:
            lines = [line for line in last_lines(log, LOG_LINES) if line.strip()]
            for line in lines:
                self._view.note(f"  {end.because.role} | {line}")
            said = [line.strip() for line in lines if not tells_progress(line)]
            error = f"{said[-1] if said else 'its log does not say why'} (log: {log})"
        ended = " ".join(filter(None, (str(end.because), end.reason)))
        return f"{ended}: {error}{self._where_more_is_told()}"
