"""Commands as forks of one process: what becomes of them when that process ends."""

import io
import threading
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from bagpipe.testing.warm_commands import WarmCommand, WarmStarter


def test_a_starter_that_ends_leaves_nobody_waiting() -> None:
    """Killed by the system for its memory, say: its command, and one that is about to start, end in an error."""
    starter = WarmStarter.__new__(WarmStarter)
    begun: list[Future[int]] = [Future(), Future()]
    starter._lock, starter._started, starter._ended = threading.Lock(), begun.copy(), {}
    starter._process = SimpleNamespace(stdout=io.StringIO('{"pid": 7}\n'))  # type: ignore[assignment]
    starter._listen()
    assert begun[0].result(0) == 7
    for waited_for in (WarmCommand(7, starter._ended[7]).wait, begun[1].result):
        with pytest.raises(RuntimeError, match="the starter has ended"):
            waited_for(0)
