"""One start of a tiny job: every role joins, the first plan is made, one step is trained, and every role ends.

The supervisor and its policy are those of `bagpipe run`. Roles are its commands, or forks of this process
(`forked_child.py`), which are several times cheaper because no interpreter starts and no torch is loaded.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from bagpipe.config.load import parse_job
from bagpipe.errors import BagpipeError
from bagpipe.local.commands import roles_of
from bagpipe.local.process import Child
from bagpipe.local.progress import PlainView
from bagpipe.local.rundir import RunDir
from bagpipe.local.supervisor import Supervisor
from bagpipe.testing.forked_child import ForkedChild
from bagpipe.testing.stuck import Stuck, stuck_after

STARTUP_SECONDS = 240
LONGEST_SECONDS = 900
"""A start that takes longer is stuck: each part of it has `STARTUP_SECONDS`, after which its role writes its stacks."""
STACKS = "Timeout ("
"""With this `faulthandler` begins the stacks of a process that it found waiting."""
JOB = f"""
metadata: {{name: start}}
spec:
  model: {{name: dlrm, bottomMlp: [4], overMlp: [4]}}
  data: {{format: synthetic, synthetic: {{examples: 32, tableSizes: [5, 7]}}}}
  embedding: {{dim: 4}}
  batchSize: 8
  steps: 1
  lookahead: 2
  transport: {{startupSeconds: {STARTUP_SECONDS}}}
  runPolicy: {{backoffLimit: 0}}
  servers: {{replicas: 1}}
  trainers: {{replicas: 2, device: cpu, threads: 1}}
"""


@dataclass(frozen=True, slots=True)
class Started:
    """What came of one start."""

    forked: bool
    """Whether roles were forks; else commands, as `bagpipe run` starts them."""
    code: int
    seconds: float
    told: str
    """Why it did not end well; empty if it did."""
    stacks: int
    """How many roles have written their stacks."""

    @property
    def right(self) -> bool:
        """One step was trained and every role has ended."""
        return self.code == 0

    @property
    def silent(self) -> bool:
        """It did not end well, and nothing says where it stood."""
        return not self.right and not self.told and not self.stacks

    def __str__(self) -> str:
        state = "right" if self.right else "SILENT" if self.silent else "WRONG"
        how = "forks" if self.forked else "commands"
        stacks = f", {self.stacks} roles wrote their stacks" if self.stacks else ""
        return f"{state}: {how}: {self.seconds:.1f} s{stacks} {self.told}".rstrip()


def start_once(folder: Path, *, forked: bool, longest_seconds: int = LONGEST_SECONDS) -> Started:
    """Start the job once; its folder is deleted unless something is wrong."""
    job = parse_job(JOB, "the job that is started")
    begun = time.monotonic()
    child = ForkedChild if forked else Child
    with RunDir.create(folder) as directory:
        directory.begin(job)
        logs = [directory.log(role.kind, role.index) for role in roles_of(job.spec)]
        try:
            with stuck_after(longest_seconds):
                outcome = Supervisor(job, directory, PlainView(lambda _: None), child=child).run()
            code, told = int(outcome.code), outcome.error
        except Stuck as error:
            code, told = int(error.exit_code), ""
        except BagpipeError as error:
            code, told = int(error.exit_code), str(error)
    seconds = time.monotonic() - begun
    stacks = sum(STACKS in log.read_text(encoding="utf-8", errors="replace") for log in logs if log.exists())
    result = Started(forked, code, seconds, told, stacks)
    if result.right:
        shutil.rmtree(folder)
    return result
