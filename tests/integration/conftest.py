"""What several integration tests share."""

from collections.abc import Iterator

import pytest

from bagpipe.testing.warm_commands import warm_roles


@pytest.fixture(scope="module")
def started_warm() -> Iterator[None]:
    """Roles that this process starts are forks that have everything loaded: the tests are not about their start."""
    with warm_roles():
        yield
