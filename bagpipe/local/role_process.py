"""What the commands of all roles have in common: logging to stderr, and SIGTERM as a request to stop."""

import logging
import os
import resource
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from bagpipe.config.document import Job
from bagpipe.config.load import load_job
from bagpipe.config.paths import shown
from bagpipe.errors import ConfigError, StorageError
from bagpipe.local.user_modules import offer_user_modules
from bagpipe.lowlevel import stacks
from bagpipe.lowlevel.malloc import keep_freed_memory

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
    logging.raiseExceptions = False  # A record that cannot be written ends no role: a model may have closed stderr.
    stacks.tell_of_crashes()


def yield_to_trainers() -> None:
    """Let trainers on the same machine go first.

    Oracle and servers work ahead of them, so that a trainer that waits for its peer or the network leaves them time
    enough; a trainer that is interrupted holds up all others. In a pod, alone with its processes, this changes nothing.
    """
    os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))


def raise_descriptor_limit() -> None:
    """Let this process open as many files and connections as the machine allows; the usual limit is 1,024.

    A stranger who reaches a role's port can hold connections open, each for as long as a handshake may take. With few
    descriptors the role could then open no file of a checkpoint and admit no role of the job.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # A hard limit of "unlimited" may exceed the kernel's own and be refused.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class StopRequest:
    """Whether this process was asked to stop; a call returns the answer at once."""

    def __init__(self) -> None:
        self._asked = False
        # A signal's handler may write to a pipe at any moment; a lock might be held by the code that it interrupts.
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __call__(self) -> bool:
        return self._asked

    def ask(self, number: int, frame: FrameType | None) -> None:
        """The handler of a signal."""
        self._asked = True
        with suppress(BlockingIOError):  # The pipe is full of requests already.
            os.write(self._writing, b"!")

    def wait(self) -> None:
        """Wait until a request comes; for a role whose supervisor would start it again if it ended."""
        poller = select.poll()
        poller.register(self._reading, select.POLLIN)
        poller.poll()

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)


@contextmanager
def stop_flag() -> Iterator[StopRequest]:
    """SIGTERM and Ctrl-C become a request. The role ends at its next safe point."""
    request = StopRequest()
    before = {number: signal.signal(number, request.ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        request.close()


def load_role(job_file: Path, run_dir: Path) -> Job:
    """The job, and a run directory that exists.

    Raises:
        ConfigError: the job file is wrong.
        StorageError: the run directory cannot be made.
    """
    keep_freed_memory()
    raise_descriptor_limit()
    offer_user_modules(job_file.absolute().parent)
    job = load_job(job_file)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{run_dir}: cannot be made: {error.strerror}; choose another --run-dir") from None
    return job


def check_writable(folder: Path) -> None:
    """Refuse a checkpoints' folder that this process may not write to: else that shows at the first checkpoint.

    Raises:
        ConfigError: it, or the folder in which it would be made, cannot be written.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            f"spec.checkpoint.path: {shown(folder)}: user {os.getuid()}, as whom this process runs, cannot write in "
            f"{shown(there)}; give the user the right, or choose another folder"
        )


def check_index(name: str, index: int, replicas: int) -> None:
    """Refuse a shard or rank that the job does not have."""
    if index >= replicas:
        raise ConfigError(f"--{name} {index}: the job has {replicas} of them; expected 0 to {replicas - 1}")
