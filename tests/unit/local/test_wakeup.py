"""A supervisor notices the end of a role at once, whatever else its process has open."""

import os
import resource
import signal
from collections.abc import Iterator

import pytest

from bagpipe.local.wakeup import Wakeup

MANY = 1100
"""More than `select` takes."""


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process has so many files open that every further one gets a higher number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < MANY + 100:
        pytest.skip(f"this process may open {hard} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, MANY + 100), hard))
    nowhere = os.open(os.devnull, os.O_RDONLY)
    opened = [nowhere, *(os.dup(nowhere) for _ in range(MANY))]
    yield
    for descriptor in opened:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_a_program_with_many_files_runs_a_job() -> None:
    """As one that evaluates a run from a notebook: the wait ended in "filedescriptor out of range in select()"."""
    with Wakeup() as wakeup:
        assert not wakeup.wait(0.001)
        signal.raise_signal(signal.SIGCHLD)
        assert wakeup.wait(60.0)
        assert not wakeup.wait(0.0)
