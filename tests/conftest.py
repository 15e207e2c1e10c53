"""What holds for every test: how they are dealt out to workers, and which of them want the machine to themselves.

`make test` runs them in several processes (pytest-xdist, `--dist loadgroup`): each test goes to whichever worker is
free, tests of one `xdist_group` to the same one, because they share a fixture that takes seconds.
"""

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LONGEST = ("integration", "artifact", "numerics")
"""Folders whose tests come first: what is left at the end is short, and no worker waits for another."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, what looks back on all the others last; who shares a fixture stays together."""
    items.sort(key=_turn)
    for item in items:
        shared = _module_fixtures(item)
        if shared and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}-{shared[0]}"))


def _turn(item: pytest.Item) -> tuple[bool, int]:
    folder = item.path.relative_to(HERE).parts[0]
    return item.get_closest_marker("last") is not None, [*LONGEST, folder].index(folder)


def _module_fixtures(item: pytest.Item) -> list[str]:
    """Names of the module's own fixtures that the test uses and that are made once for the module."""
    if not isinstance(item, pytest.Function):
        return []
    found = item._fixtureinfo.name2fixturedefs.items()
    return sorted(name for name, made in found if made[-1].scope == "module")


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
