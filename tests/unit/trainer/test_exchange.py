"""What trainers send each other arrives, also where a connection is reset on the way."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import pytest

from bagpipe.config.document import TransportConfig
from bagpipe.errors import PeerLost
from bagpipe.net.admission import Admission
from bagpipe.net.array_forms import floats
from bagpipe.net.messages import Hello
from bagpipe.net.sockets import Context
from bagpipe.trainer import delivery
from bagpipe.trainer.exchange import PeerExchange

ROWS = np.arange(32, dtype=np.float32).reshape(4, 8)
FORM = [floats(4, 8)]


@dataclass
class Link:
    """A TCP connection from one trainer to another that can swallow what it carries, and be reset."""

    target: int
    swallows: bool = False
    swallowed: threading.Event = field(default_factory=threading.Event)
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _open: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def reset(self) -> None:
        self.swallows = False
        opened, self._open = self._open, []
        for one in opened:
            _end(one)

    def close(self) -> None:
        self._listener.close()
        self.reset()

    def _accept(self) -> None:
        try:
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self._open += [near, far]
                for source, sink, watched in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._carry, args=(source, sink, watched), daemon=True).start()
        except OSError:
            return

    def _carry(self, source: socket.socket, sink: socket.socket, watched: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if watched and self.swallows:
                    self.swallowed.set()
                else:
                    sink.sendall(data)
        except OSError:
            pass
        _end(source)
        _end(sink)


def _end(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:  # The other side was quicker.
        pass
    one.close()


@dataclass
class Pair:
    """Trainers 0 and 1; the way from 1 to 0 goes through `link`."""

    zero: PeerExchange
    one: PeerExchange
    link: Link


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        # Heartbeats would be swallowed too, and the silence be noticed: that is another way to the same end.
        contexts = [stack.enter_context(Context(TransportConfig(dead_peer_seconds=60))) for _ in range(2)]
        listeners = [context.listen("tcp://127.0.0.1:0") for context in contexts]
        link = Link(int(listeners[0].endpoint.rpartition(":")[2]))
        stack.callback(link.close)
        to_zero = contexts[1].connect(link.endpoint, peer="trainer 0")
        to_one = contexts[0].connect(listeners[1].endpoint, peer="trainer 1")
        for rank, (listener, connection) in enumerate(zip(listeners, (to_one, to_zero), strict=True)):
            listener.admit(Admission("trainer", "job", 0, "", 2))
            connection.send(Hello(job="job", attempt=0, role="trainer", index=rank))
        zero, one = (
            PeerExchange(listener, peers, rank=rank, attempt=0, deadline_seconds=20, packed=lambda: False)
            for rank, (listener, peers) in enumerate(zip(listeners, ([None, to_one], [to_zero, None]), strict=True))
        )
        yield Pair(zero, one, link)


def lose(pair: Pair, step: int) -> None:
    """Trainer 1's message of this step leaves it, and never comes."""
    pair.link.swallowed.clear()
    pair.link.swallows = True
    pair.one.send(0, step, "gradients", [ROWS * step])
    assert pair.link.swallowed.wait(10)
    pair.link.reset()


def test_a_message_lost_in_a_reset_is_sent_again(pair: Pair) -> None:
    """As soon as the connection is back, long before the deadline, and without a new attempt."""
    pair.one.send(0, 0, "gradients", [ROWS])
    assert np.array_equal(pair.zero.receive(1, 0, "gradients", FORM)[0], ROWS)
    lose(pair, 1)
    stop = threading.Event()

    def keep_looking() -> None:
        while not stop.wait(0.02):
            pair.one.look_after()

    # Trainer 1 waits for something else, as for its next plan.
    looking = threading.Thread(target=keep_looking, daemon=True)
    looking.start()
    try:
        assert np.array_equal(pair.zero.receive(1, 1, "gradients", FORM)[0], ROWS)
    finally:
        stop.set()
        looking.join()
    assert pair.one.sent_again >= 1


def test_a_message_that_a_peer_dropped_is_sent_again(pair: Pair) -> None:
    """A peer that has let another process in as this trainer drops what it says, and asks who it is: it says so, and
    sends again what was dropped, though its connection never broke.
    """
    pair.one.send(0, 0, "gradients", [ROWS])
    pair.zero.receive(1, 0, "gradients", FORM)
    admission = pair.zero._listener.admission
    for identity in admission.identities():
        admission.forget(identity)
    pair.one.send(0, 1, "gradients", [ROWS])
    deadline = time.monotonic() + 100
    while not pair.zero.arrived(1, 1, "gradients"):
        assert time.monotonic() < deadline
        pair.one.look_after()
    assert np.array_equal(pair.zero.receive(1, 1, "gradients", FORM)[0], ROWS)


def test_a_trainer_that_waits_for_a_peer_sends_again_what_the_peer_misses(pair: Pair) -> None:
    """Each waits for the other's message of step 1, and the one of trainer 1 is lost: both get what they wait for."""
    pair.one.send(0, 0, "gradients", [ROWS])
    pair.zero.receive(1, 0, "gradients", FORM)
    lose(pair, 1)
    got = []

    def other() -> None:
        got.append(pair.zero.receive(1, 1, "gradients", FORM)[0])
        pair.zero.send(1, 1, "eager", [ROWS + 1])

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    assert np.array_equal(pair.one.receive(0, 1, "eager", FORM)[0], ROWS + 1)
    thread.join()
    assert np.array_equal(got[0], ROWS)


def test_a_leaving_trainer_waits_until_its_last_message_has_come(pair: Pair) -> None:
    """The last message of all is lost, and its sender has nothing left to do but to leave."""
    pair.one.send(0, 0, "gradients", [ROWS])
    pair.zero.receive(1, 0, "gradients", FORM)
    lose(pair, 1)
    leaving = threading.Thread(target=pair.one.leave, args=(1,), daemon=True)
    leaving.start()
    assert np.array_equal(pair.zero.receive(1, 1, "gradients", FORM)[0], ROWS)
    pair.zero.leave(1)
    leaving.join(10)
    assert not leaving.is_alive()
    assert pair.one._delivery.unconfirmed() == []


def test_what_is_sent_may_change_at_once_if_it_is_copied(pair: Pair) -> None:
    """Also for the second sending, whose memory DDP has filled anew in the meantime."""
    bucket = np.ones(1 << 19, np.float32)
    pair.link.swallows = True
    pair.one.send(0, 0, "dense", [bucket], copied=True)
    assert pair.link.swallowed.wait(10)
    bucket[:] = 7
    pair.link.reset()
    thread = threading.Thread(target=pair.one.leave, args=(0,), daemon=True)
    thread.start()
    assert set(pair.zero.receive(1, 0, "dense", [floats(1 << 19)])[0].tolist()) == {1.0}
    pair.zero.leave(0)
    thread.join()


def test_a_message_of_another_attempt_or_of_nobody_is_dropped(pair: Pair) -> None:
    """A trainer of the attempt before may still be sending."""
    pair.one._attempt = 1
    pair.one.send(0, 0, "gradients", [ROWS])
    pair.one._attempt = 0
    pair.one.send(0, 0, "eager", [ROWS])
    pair.zero.receive(1, 0, "eager", FORM)
    assert not pair.zero.arrived(1, 0, "gradients")
    assert pair.zero._listener.refused.total == 1


def test_a_trainer_that_a_peer_does_not_listen_to_ends_by_name(pair: Pair) -> None:
    """It does not wait for its step's deadline: the peer has said why nothing of it is heard."""
    pair.one._rank = 5
    pair.one.send(0, 0, "gradients", [ROWS])
    pair.one._rank = 1
    deadline = time.monotonic() + 100
    while not pair.zero._listener.refused.total:
        assert time.monotonic() < deadline
        pair.zero._poll(0.01)
    assert pair.one._peers[0].poll(100)
    with pytest.raises(PeerLost, match="trainer 1: trainer 0 refused: trainer 1 sent a Exchange in the name of rank 5"):
        pair.one.look_after()


def test_silence_is_named(pair: Pair) -> None:
    """Who waited, for what of whom, at which step."""
    pair.zero.deadline_seconds = 0.3
    with pytest.raises(PeerLost, match=r"trainer 0: waited for eager of trainer 1 at step 4; nothing came for 0.3 s"):
        pair.zero.receive(1, 4, "eager", FORM)


OTHER_ARRAYS = {
    "fewer rows": [ROWS[:2]],
    "more rows": [np.concatenate((ROWS, ROWS))],
    "wider rows": [np.concatenate((ROWS, ROWS), axis=1)],
    "one row for all": [ROWS[:1]],
    "one number for all": [np.zeros((), np.float32)],
    "no array": [],
    "an array too many": [ROWS, ROWS],
    "a dimension too many": [ROWS[None]],
    "float64": [ROWS.astype(np.float64)],
    "whole numbers": [ROWS.astype(np.int32)],
}


def test_other_arrays_than_the_plan_lists_end_in_an_error_that_names_their_sender(pair: Pair) -> None:
    """No compiled loop reads or writes beyond an end, and numpy spreads nothing: expected, found, whose, which step."""
    for step, (name, arrays) in enumerate(OTHER_ARRAYS.items()):
        pair.one.send(0, step, "gradients", arrays)
        with pytest.raises(PeerLost) as told:
            pair.zero.receive(1, step, "gradients", FORM)
        assert f"trainer 0: trainer 1 sent a message (gradients) of step {step} with other" in str(told.value), name
        assert "expected float32 (4, 8), found" in str(told.value), name
    pair.one.send(0, len(OTHER_ARRAYS), "gradients", [ROWS])
    assert np.array_equal(pair.zero.receive(1, len(OTHER_ARRAYS), "gradients", FORM)[0], ROWS)


@pytest.mark.parametrize("bound", ["number", "bytes"])
def test_a_peer_that_sends_what_nobody_waits_for_fills_no_memory(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bound: str
) -> None:
    """Messages of steps to come are kept up to a bound of their number, or of their bytes, then dropped and named;
    room comes back as steps pass.
    """
    if bound == "number":
        monkeypatch.setattr(delivery, "MOST_HERE", 3)
    else:
        pair.zero._delivery.most_bytes = 4 * ROWS.nbytes - 1
    for step in range(10**6, 10**6 + 5):
        pair.one.send(0, step, "eager", [ROWS])
    deadline = time.monotonic() + 100
    while pair.zero._listener.refused.total < 2:
        assert time.monotonic() < deadline
        pair.zero._poll(0.1)
    why = "3 others of it wait" if bound == "number" else "384 bytes of it wait already, and with 128 more it would be"
    assert f"dropped a message (eager) of step 1000003 of trainer 1: {why}" in caplog.text
    assert len(pair.zero._delivery._here) == 3
    pair.zero.done(10**6 + 2)
    pair.one.send(0, 10**6 + 5, "gradients", [ROWS])
    assert np.array_equal(pair.zero.receive(1, 10**6 + 5, "gradients", FORM)[0], ROWS)
