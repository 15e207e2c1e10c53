"""What holds for every test: how they are dealt out to workers, and which of them want the machine to themselves.

`make test` runs them in several processes (pytest-xdist). Each test goes to whichever worker is free, but the tests of
a file that has a fixture for the whole file go to one, because such a fixture takes seconds.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before torch is loaded: its threads spin while they wait, for a core that another worker could use. Trainers set their
# own number of threads, whatever this says.

settings.register_profile("bagpipe", deadline=None)  # A loaded machine stands still for longer than any example takes.
settings.load_profile("bagpipe")

HERE = Path(__file__).parent
LONGEST = ("integration", "artifact", "numerics")
"""Folders whose tests come first: what is left at the end is short, and no worker waits for another."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, what looks back on all the others last."""
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> tuple[bool, int]:
    folder = item.path.relative_to(HERE).parts[0]
    return item.get_closest_marker("last") is not None, [*LONGEST, folder].index(folder)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal out test by test, in their order; a file whose tests share a fixture goes to one worker whole."""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, _ = nodeid.partition("::")
            return file if _shares_a_fixture(config.rootpath / file) else nodeid

    return Scheduling(config, log)


@cache
def _shares_a_fixture(file: Path) -> bool:
    return re.search(r"scope=.module", file.read_text(encoding="utf-8")) is not None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test marked `alone` runs while no other worker runs any. Waiting for that is outside the test's timeout."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    with _machine(item.config.cache.mkdir("machine"), shared=item.get_closest_marker("alone") is None):
        return (yield)


@contextmanager
def _machine(locks: Path, *, shared: bool) -> Iterator[None]:
    """Hold the machine, with others or alone. Who waits to be alone keeps the door shut, so that nobody else enters."""
    with ExitStack() as files:
        door, room = (files.enter_context((locks / name).open("w")) for name in ("door", "room"))
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield
