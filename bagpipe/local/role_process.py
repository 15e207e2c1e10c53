"""What the three roles' commands have in common: logging to stderr, and SIGTERM as a request to stop."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from bagpipe.config.document import Job
from bagpipe.config.load import load_job
from bagpipe.errors import ConfigError, StorageError
from bagpipe.lowlevel.malloc import keep_freed_memory

CHECKPOINTS = "checkpoints"
NICENESS = 10
"""Of oracle and servers: a tenth of a trainer's weight, and still that much of a processor when all are busy."""


def log_to_stderr(role: str) -> None:
    """One line per record, with the role in front: logs of several roles may be read together."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"%(asctime)s {role} %(levelname)s %(name)s: %(message)s",
        force=True,
    )


def yield_to_trainers() -> None:
    """Let trainers on the same machine go first.

    Oracle and servers work ahead of them, so that a trainer that waits for its peer or the network leaves them time
    enough; a trainer that is interrupted holds up all others. In a pod, alone with its processes, this changes nothing.
    """
    os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))


@contextmanager
def stop_flag() -> Iterator[Callable[[], bool]]:
    """Whether this process was asked to stop (SIGTERM or Ctrl-C). The role ends at its next safe point."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def until_stopped(stop: Callable[[], bool]) -> None:
    """Nothing left to do but to be there until SIGTERM comes; for a supervisor that restarts whatever ends."""
    pause = threading.Event()
    while not stop():
        pause.wait(0.2)


def load_role(job_file: Path, run_dir: Path) -> Job:
    """The job, and a run directory that exists.

    Raises:
        ConfigError: the job file is wrong.
        StorageError: the run directory cannot be made.
    """
    keep_freed_memory()
    job = load_job(job_file)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{run_dir}: cannot be made: {error.strerror}; choose another --run-dir") from None
    return job


def checkpoint_root(job: Job, run_dir: Path) -> Path:
    """Where this job's checkpoints lie."""
    return Path(job.spec.checkpoint.path) if job.spec.checkpoint.path else run_dir / CHECKPOINTS


def check_index(name: str, index: int, replicas: int) -> None:
    """Refuse a shard or rank that the job does not have."""
    if index >= replicas:
        raise ConfigError(f"--{name} {index}: the job has {replicas} of them; expected 0 to {replicas - 1}")
