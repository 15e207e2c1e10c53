"""The oracle's shell while its data is prepared: it answers, and nothing holds it up once the attempt is over."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bagpipe.config.document import TransportConfig
from bagpipe.errors import DataError, PeerLost, Stopped
from bagpipe.net.messages import Wait
from bagpipe.net.sockets import Context
from bagpipe.oracle.service.conversation import Conversation
from bagpipe.oracle.service.ledger import StepLedger
from bagpipe.oracle.service.limits import Limits
from bagpipe.oracle.service.rendezvous import Rendezvous
from bagpipe.oracle.service.report import Reporter
from bagpipe.oracle.service.shell import Shell
from bagpipe.testing.open_door import OpenDoor

LIMITS = Limits(startup=60, step=60, dead_peer=60, server_return=60)


@pytest.fixture
def shell_of(tmp_path: Path) -> Iterator[Callable[[Callable[[], bool]], Shell]]:
    with Context(TransportConfig()) as context:
        listener = context.listen("tcp://127.0.0.1:0", OpenDoor())
        reporter = Reporter(tmp_path, attempt=0, log_every=1)

        def made(stop: Callable[[], bool]) -> Shell:
            conversation = Conversation(Rendezvous(1, 1), StepLedger(1, 0), LIMITS, 4, answer=Wait())
            return Shell(TransportConfig(), listener, conversation, reporter, stop)

        yield made
        reporter.close()


def reads_for_ever(released: threading.Event) -> Callable[[], None]:
    def read() -> None:
        released.wait(60)

    return read


def test_a_stop_while_data_is_prepared_is_looked_at_at_once(shell_of: Callable[[Callable[[], bool]], Shell]) -> None:
    """A file that takes an hour to read does not hold up who was asked to stop."""
    released = threading.Event()
    begun = time.monotonic()
    with pytest.raises(Stopped, match="while the data was prepared"):
        shell_of(lambda: True).prepare(reads_for_ever(released))
    assert time.monotonic() - begun < 10
    assert all(t.daemon for t in threading.enumerate() if t.name == "prepare"), "it would hold up the process's end"
    released.set()


def test_a_lost_role_ends_the_attempt_while_data_is_prepared(
    shell_of: Callable[[Callable[[], bool]], Shell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What listening raises is raised at once; the thread that reads is not waited for."""
    released = threading.Event()
    shell = shell_of(lambda: False)

    def lost(timeout_seconds: float) -> None:
        raise PeerLost("trainer 0 has vanished")

    monkeypatch.setattr(shell, "listen", lost)
    begun = time.monotonic()
    with pytest.raises(PeerLost, match="vanished"):
        shell.prepare(reads_for_ever(released))
    assert time.monotonic() - begun < 10
    released.set()


def test_what_preparing_comes_to_is_passed_on(shell_of: Callable[[Callable[[], bool]], Shell]) -> None:
    """Its result is returned, and its error is raised."""

    def fail() -> None:
        raise DataError("no such file")

    assert shell_of(lambda: False).prepare(lambda: 7) == 7
    with pytest.raises(DataError, match="no such file"):
        shell_of(lambda: False).prepare(fail)
