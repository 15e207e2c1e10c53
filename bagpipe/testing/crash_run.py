"""Kills a short run at one numbered point of one role, or at two points in turn, and checks the result.

The supervisor and its policy are those of `bagpipe run`; roles are forks of this process (`forked_child.py`).
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bagpipe.checkpoint.digest import model_digest
from bagpipe.checkpoint.store import newest_complete
from bagpipe.config.document import Job
from bagpipe.config.load import parse_job
from bagpipe.errors import BagpipeError
from bagpipe.local.progress import MetricsTail, PlainView
from bagpipe.local.rundir import RunDir
from bagpipe.local.supervisor import Outcome, Supervisor
from bagpipe.lowlevel.crash_points import KILLED, KILLED_THEN, VARIABLE
from bagpipe.testing.forked_child import ForkedChild, preload
from bagpipe.testing.stuck import Stuck, stuck_after

__all__ = ["Counted", "Killed", "Killing", "count_points", "preload", "run_and_kill"]

STEPS = 30
JOB = f"""
apiVersion: bagpipe.dev/v1alpha1
kind: BagpipeJob
metadata: {{name: crash}}
spec:
  model: {{name: dlrm, bottomMlp: [8], overMlp: [8]}}
  data:
    format: synthetic
    testFraction: 0.05
    validation: 0.1
    shuffle: after-first
    synthetic: {{examples: 500, tableSizes: [50, 4000, 7, 300], multiHot: 2}}
  embedding: {{dim: 8, optimizer: {{name: adagrad, lr: 0.05}}}}
  optimizer: {{average: {{decay: 0.9}}}}
  notFinite: skip
  batchSize: 32
  steps: {STEPS}
  lookahead: 8
  seed: 3
  logEvery: 1
  evaluation: {{every: 12}}
  checkpoint: {{every: 10, keep: 2, best: auc}}
  transport: {{deadPeerSeconds: 60, deadlineSeconds: 300, stepSeconds: 300}}
  servers: {{replicas: 2}}
  trainers: {{replicas: 2, device: cpu}}
"""
LONGEST_SECONDS = 600
"""A run that takes longer is stuck; a busy machine may need minutes, and as long for a role to start again (the job's
`deadPeerSeconds`)."""


@dataclass(frozen=True, slots=True)
class Counted:
    """An undisturbed run: every role's points in their order, and the model that it ends with."""

    points: dict[str, list[str]]
    digest: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Killing:
    """One role's process ends by SIGKILL just before its `number`th point, counted from 1."""

    role: str
    number: int
    point: str
    """The name that this point had when the points were counted."""
    of_that_name: bool = False
    """Only points of that name count."""
    then: str = ""
    """The role that is killed next, at its `then_number`th point from the first kill on; empty: none."""
    then_number: int = 1

    @property
    def setting(self) -> str:
        """This kill in the environment variable of crash points, after the folder."""
        name = f" {self.point}" if self.of_that_name else ""
        return f"{self.role}{name} #{self.number}" + (f" then {self.then} #{self.then_number}" if self.then else "")

    @property
    def trainers(self) -> int:
        """How many of the deaths are trainers'."""
        return sum(role.startswith("trainer") for role in (self.role, self.then))


@dataclass(frozen=True, slots=True)
class Killed:
    """The result of a run with kills."""

    killing: Killing
    reached: bool
    """Whether every role that should was killed. The number of points depends a little on when messages arrive, so a
    run may end before its last ones."""
    point: str
    """The name of the point at which the process was killed, and after an arrow that of the second kill."""
    same_digest: bool
    attempts: int
    recovery_seconds: float | None
    """From the kill to the next report of a step, or to the end."""
    error: str

    @property
    def right(self) -> bool:
        """The same model, and no more attempts were used than trainers died."""
        return self.same_digest and self.attempts <= 1 + self.killing.trainers

    def __str__(self) -> str:
        where = f"{self.killing.setting} ({self.point or self.killing.point})"
        recovered = "" if self.recovery_seconds is None else f", recovered in {self.recovery_seconds:.1f} s"
        state = "right" if self.right else "WRONG"
        reached = "" if self.reached else "not reached, "
        return f"{state}: {where}: {reached}{self.attempts} attempts{recovered} {self.error}"


def count_points(folder: Path) -> Counted:
    """Run undisturbed and count.

    Raises:
        BagpipeError: the run failed.
    """
    names = folder.with_name(f"{folder.name}-points")
    names.mkdir(parents=True)
    begun = time.monotonic()
    with _crash_setting(str(names)):
        outcome, digest = _run(folder)
    if digest is None:
        raise Stuck(f"the undisturbed run ended with {outcome.code}: {outcome.error}")
    points = {path.name: path.read_text().splitlines() for path in sorted(names.iterdir())}
    return Counted(points, digest, time.monotonic() - begun)


def run_and_kill(folder: Path, killing: Killing, digest: str) -> Killed:
    """Run with these kills; the run's folder is deleted unless something is wrong."""
    mark = folder.with_name(f"{folder.name}-mark")
    mark.mkdir(parents=True)
    with _crash_setting(f"{mark} {killing.setting}"):
        try:
            outcome, found = _run(folder)
        except BagpipeError as error:
            outcome, found = Outcome(int(error.exit_code), 0, 0.0, str(error)), None
    marks = [mark / name for name in (KILLED, KILLED_THEN) if (mark / name).exists()]
    deaths = [path.read_text().rsplit(maxsplit=1) for path in marks]
    point = " → ".join(name for name, _ in deaths)
    reached = len(deaths) == (2 if killing.then else 1)
    recovery = _recovery(folder, float(deaths[-1][1])) if deaths else None
    result = Killed(killing, reached, point, found == digest, outcome.attempts, recovery, outcome.error)
    if result.right:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(mark, ignore_errors=True)
    return result


def _run(folder: Path) -> tuple[Outcome, str | None]:
    job: Job = parse_job(JOB, "the job that is killed")
    with RunDir.create(folder) as directory, stuck_after(LONGEST_SECONDS):
        directory.begin(job)
        outcome = Supervisor(job, directory, PlainView(lambda _: None), child=ForkedChild).run()
        checkpoint = newest_complete(directory.checkpoints(job))
        ended = outcome.code == 0 and checkpoint is not None and checkpoint.name.endswith(f"{STEPS:08d}")
        return outcome, model_digest(checkpoint) if ended and checkpoint is not None else None


def _recovery(folder: Path, killed_at: float) -> float:
    records = MetricsTail(folder / "metrics.jsonl", whole=True).read()
    later = [float(record["time"]) for record in records if float(record["time"]) > killed_at and "loss" in record]
    return min(later, default=time.time()) - killed_at


@contextmanager
def _crash_setting(value: str) -> Iterator[None]:
    os.environ[VARIABLE] = value
    try:
        yield
    finally:
        del os.environ[VARIABLE]
