"""Who has a place that two processes ask for: the first, as long as it is connected. A flood of questions tries that
seldom.
"""

from dataclasses import dataclass, field

from bagpipe.errors import ExitCode
from bagpipe.net.admission import Held, Speaker
from bagpipe.net.contests import BETWEEN_TRIES_SECONDS, Contests
from bagpipe.net.messages import Refused, SayHello

HELD = Held(Speaker("trainer", 1), holder=b"first")


@dataclass
class World:
    """A clock, and who is connected."""

    now: float = 100.0
    connected: set[bytes] = field(default_factory=lambda: {b"first"})
    tries: int = 0

    def is_there(self, peer: bytes) -> bool:
        self.tries += 1
        return peer in self.connected

    def contests(self) -> Contests:
        return Contests(10.0, self.is_there, clock=lambda: self.now)


def test_the_place_of_a_process_that_is_gone_is_free_at_once() -> None:
    """Nobody waits for a deadline where the connection has ended; nothing of that contest stays."""
    world = World(connected=set())
    contests = world.contests()
    assert contests.decide(b"second", HELD) is None and not contests._contests


def test_who_asks_for_too_long_is_refused_and_may_begin_anew() -> None:
    """Until a dead connection would have ended it is told to ask again, then that another process lives."""
    world = World()
    contests = world.contests()
    for passed in (0.0, 5.0, 14.9):
        world.now = 100.0 + passed
        told = contests.decide(b"second", HELD)
        assert isinstance(told, SayHello) and "another process is trainer 1, and is connected" in told.reason
    world.now = 115.0
    refused = contests.decide(b"second", HELD)
    assert isinstance(refused, Refused) and refused.exit_code == ExitCode.TRANSIENT
    assert isinstance(contests.decide(b"second", HELD), SayHello)


def test_each_challenger_has_its_own_time() -> None:
    """One that gave up long ago does not shorten the time of a role that was restarted now; one is remembered."""
    world = World()
    contests = world.contests()
    contests.decide(b"second", HELD)
    world.now += 1000
    assert isinstance(contests.decide(b"third", HELD), SayHello)
    assert len(contests._contests) == 1
    world.connected.clear()
    world.now += 1
    assert contests.decide(b"third", HELD) is None


def test_a_flood_tries_the_holder_seldom() -> None:
    """A thousand questions in one moment are one message to the holder."""
    world = World()
    contests = world.contests()
    for number in range(1000):
        assert isinstance(contests.decide(number.to_bytes(2, "big"), HELD), SayHello)
    assert world.tries == 1
    world.now += 2 * BETWEEN_TRIES_SECONDS
    contests.decide(b"second", HELD)
    assert world.tries == 2
