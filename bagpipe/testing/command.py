"""One command of ours as a process of its own, and how it ended."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bagpipe.testing.warm_commands import run_warm


@dataclass(frozen=True, slots=True)
class Ended:
    """One command's end."""

    code: int
    output: str
    errors: str

    def one_line(self) -> str:
        """Its only line on stderr."""
        lines = [line for line in self.errors.splitlines() if line.strip()]
        assert len(lines) == 1, self
        assert lines[0].startswith("error: "), self
        return lines[0]


def bagpipe(*arguments: str, limit: Callable[[], None] | None = None) -> Ended:
    """Run a command to its end: as a fork that has everything loaded, or, with a `limit`, as a user starts it.

    Args:
        limit: called in the process before it begins.
    """
    if limit is None:
        return Ended(*run_warm(Path.cwd(), *arguments, PYTHONWARNINGS="default"))
    done = subprocess.run(
        [sys.executable, "-m", "bagpipe", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"},
        preexec_fn=limit,
    )
    return Ended(done.returncode, done.stdout, done.stderr)
