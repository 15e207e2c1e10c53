"""Tiny fake roles for the supervisor: real processes, real signals, no training."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from bagpipe.config.document import Job
from bagpipe.config.load import parse_job
from bagpipe.local.commands import Attempt, CommandBuilder
from bagpipe.local.policy import RoleId
from bagpipe.local.supervisor import Outcome

WAIT_FOR_SIGTERM = "signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))\nready()\nwhile True: signal.pause()\n"
"""A role that runs until it is told to stop."""
PROLOGUE = """
import os, pathlib, signal, sys
role, attempt, box = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
def ready(): (box / f"{role}.{attempt}.{os.getpid()}").touch()
def fail(message, code):
    print("error:", message, file=sys.stderr, flush=True)
    sys.exit(code)
"""


def job_with(servers: int = 1, trainers: int = 2, backoff: int = 2) -> Job:
    return parse_job(
        "spec:\n  data: {format: synthetic}\n"
        f"  servers: {{replicas: {servers}}}\n  trainers: {{replicas: {trainers}}}\n"
        f"  runPolicy: {{backoffLimit: {backoff}}}\n",
        "test",
    )


PATIENCE = 100.0
"""Seconds, far above what any wait here takes."""


class Notes:
    """A view that remembers, and may act on what it sees."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.records: list[Mapping[str, object]] = []

    def record(self, record: Mapping[str, object]) -> None:
        self.records.append(record)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None:
        pass


def fakes(scripts: dict[str, str], box: Path) -> CommandBuilder:
    """Roles are scripts, by kind or by name; those not named wait for SIGTERM."""

    def build(role: RoleId, attempt: Attempt) -> list[str]:
        script = scripts.get(str(role), scripts.get(role.kind, WAIT_FOR_SIGTERM.format(code=143)))
        return [sys.executable, "-S", "-E", "-c", PROLOGUE + script, str(role), str(attempt.number), str(box)]

    return build


Runner = Callable[..., tuple[Outcome, Notes]]


def started(box: Path, role: str, attempt: int = 0) -> int:
    """How many processes of a role became ready in an attempt."""
    return len(list(box.glob(f"{role}.{attempt}.*")))
