"""Sockets deliver, notice dead peers, and keep strangers out."""

import contextlib
import resource
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq

from bagpipe.config.document import TransportConfig
from bagpipe.errors import ConfigError, PeerLost
from bagpipe.net import connection as connection_module
from bagpipe.net import sockets
from bagpipe.net.admission import TOKEN_VARIABLE, Admission
from bagpipe.net.connection import COPIED_BYTES, keep_frames
from bagpipe.net.curve import CURVE_DIR
from bagpipe.net.form import form
from bagpipe.net.listener import MOST_AT_ONCE
from bagpipe.net.messages import Fetch, Hello, Message, Ping, Pong, SayHello
from bagpipe.net.sockets import Context
from bagpipe.net.waits import milliseconds
from bagpipe.net.wire import decode, encode
from bagpipe.testing.open_door import OpenDoor

FAST = TransportConfig(dead_peer_seconds=0.5)
PATIENCE = 60
"""Seconds after which a wait has failed; far above what a loaded machine needs, and no measure of anything."""
FETCH = Fetch(rank=0, step=1, group=0, after=-1, num_records=2)


@pytest.fixture
def context() -> Iterator[Context]:
    with Context(FAST) as made:
        yield made


@pytest.fixture
def outside() -> Iterator[zmq.Context]:
    """Where a stranger's sockets come from."""
    with zmq.Context() as made:
        yield made


def test_request_and_answer(context: Context) -> None:
    """A request with a large array arrives whole, and the answer finds its way back."""
    listener = context.listen("tcp://127.0.0.1:0", OpenDoor())
    connection = context.connect(listener.endpoint, peer="server")
    connection.send(FETCH, [np.arange(3_000_000)])
    ((peer, message, arrays),) = listener.poll(PATIENCE)
    assert message == FETCH and np.array_equal(arrays[0], np.arange(3_000_000))
    assert listener.send(peer, Pong())
    assert connection.receive(PATIENCE, waiting_for="pong", step=None)[0] == Pong()


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_copied_may_change_before_it_is_sent(context: Context, packed: bool) -> None:
    """A large array that is overwritten while its peer is not even there arrives as it was."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    connection = context.connect(address, peer="trainer 1")
    gradients = np.linspace(0.5, 1, COPIED_BYTES, dtype=np.float32)
    before = gradients.copy()
    connection.send_frames(keep_frames(encode(FETCH, [gradients], packed=packed), copied=True))
    gradients[:] = 7
    ((_, _, arrays),) = context.listen(address, OpenDoor()).poll(PATIENCE)
    assert np.array_equal(arrays[0], before)


def test_silence_ends_in_an_error_that_says_what_was_awaited(context: Context) -> None:
    """A wait ends at its deadline and names peer, matter and step."""
    listener = context.listen("tcp://127.0.0.1:0", OpenDoor())
    connection = context.connect(listener.endpoint, peer="server 1")
    with pytest.raises(PeerLost, match=r"0.2 s for rows from server 1 at step 7"):
        connection.receive(0.2, waiting_for="rows", step=7)


def test_a_dead_peer_is_noticed_long_before_the_deadline(context: Context) -> None:
    """Once a connected peer is gone for dead_peer_seconds, waiting for it ends."""
    listener = context.listen("tcp://127.0.0.1:0", OpenDoor())
    connection = context.connect(listener.endpoint, peer="server")
    connection.send(Ping())
    listener.send(listener.poll(PATIENCE)[0][0], Pong())
    connection.receive(PATIENCE, waiting_for="pong", step=None)
    listener.close()
    with pytest.raises(PeerLost, match="is gone"):  # and not: silent for so long
        connection.receive(PATIENCE, waiting_for="rows", step=1)


def test_an_address_that_answers_nothing_is_given_up(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A try to connect ends in seconds, so that a replaced pod's name is looked up again."""
    monkeypatch.setattr(sockets, "CONNECT_SECONDS", 0.2)
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # A full queue drops what comes next, as an address without a pod does.
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        tries = stack.enter_context(context._socket(zmq.DEALER))
        monitor = stack.enter_context(tries.get_monitor_socket(zmq.EVENT_CONNECT_RETRIED))
        tries.connect(f"tcp://127.0.0.1:{full.getsockname()[1]}")
        for _ in range(2):
            assert monitor.poll(PATIENCE * 1000)
            monitor.recv_multipart()


def test_malformed_messages_are_dropped(context: Context, outside: zmq.Context) -> None:
    """Noise from a stranger does not end a listener."""
    listener = context.listen("tcp://127.0.0.1:0", OpenDoor())
    stranger = outside.socket(zmq.DEALER)
    stranger.connect(listener.endpoint)
    stranger.send_multipart([b"noise", b"more"])
    connection = context.connect(listener.endpoint, peer="server")
    connection.send(Ping())
    assert received(listener, 1) == [Ping()]
    stranger.close(0)


def test_a_taken_port_is_a_config_error(context: Context) -> None:
    """Binding where somebody listens names the address and a remedy."""
    taken = context.listen("tcp://127.0.0.1:0", OpenDoor()).endpoint
    with pytest.raises(ConfigError, match=f"cannot listen on {taken}.*choose another port"):
        context.listen(taken, OpenDoor())


@pytest.mark.parametrize("address", ["localhost", "tcp://h:99999", "udp://h:1", "tcp://nobody.invalid:1:1"])
def test_an_address_that_is_none_leaves_nothing_open(address: str) -> None:
    """A wrong address is a ConfigError, and the context closes at once afterwards: nothing waits for ever."""
    with Context(FAST) as context:
        with pytest.raises(ConfigError, match="expected a"):
            context.connect(address, peer="oracle")
        with pytest.raises(ConfigError, match=r"expected a|cannot listen"):
            context.listen(address, OpenDoor())


def test_a_socket_that_was_left_open_does_not_hold_the_context() -> None:
    """What failed between being opened and becoming a connection is closed with the context."""
    with Context(FAST) as context:
        left_open = context._socket(zmq.DEALER)
        left_open.connect("tcp://127.0.0.1:9")
    assert left_open.closed


def test_an_address_without_its_protocol_is_taken(context: Context) -> None:
    """`localhost:PORT` reaches what listens at tcp://127.0.0.1:PORT."""
    listener = context.listen("127.0.0.1:0", OpenDoor())
    connection = context.connect(listener.endpoint.replace("tcp://127.0.0.1", "localhost"), peer="server")
    connection.send(Ping())
    assert [message for _, message, _ in listener.poll(PATIENCE)] == [Ping()]


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine's Python knows no IPv6")
def test_ipv6_addresses(context: Context) -> None:
    """A listener on [::1] is reached at the address that it says."""
    listener = context.listen("tcp://[::1]:0", OpenDoor())
    assert listener.endpoint.startswith("tcp://[::1]:")
    context.connect(listener.endpoint, peer="server").send(Ping())
    assert [message for _, message, _ in listener.poll(PATIENCE)] == [Ping()]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.25, 250), (-1, 0), (float("inf"), 2**31 - 1), (1e300, 2**31 - 1), (float("nan"), 0), (float("-inf"), 0)],
)
def test_waits_that_zmq_cannot_count(seconds: float, expected: int) -> None:
    """No wait is negative, which zmq takes for for ever, and none overflows."""
    assert milliseconds(seconds) == expected


def test_endless_deadlines_open_sockets() -> None:
    """Infinite `deadPeerSeconds` are as many as zmq counts."""
    with Context(TransportConfig(dead_peer_seconds=float("inf"))) as context:
        listener = context.listen("tcp://127.0.0.1:0", OpenDoor())
        context.connect(listener.endpoint, peer="server").send(Ping())
        assert [message for _, message, _ in listener.poll(PATIENCE)] == [Ping()]


def admitting(context: Context, bind: str = "tcp://127.0.0.1:0", token: str = "") -> sockets.Listener:
    return context.listen(bind, Admission("server", "job", 0, token, num_trainers=2))


HELLO = Hello(form=form(), job="job", attempt=0, role="trainer", index=0)


def received(listener: sockets.Listener, count: int) -> list[Message]:
    """The next `count` messages that the listener lets through."""
    messages: list[Message] = []
    deadline = time.monotonic() + PATIENCE
    while len(messages) < count:
        assert time.monotonic() < deadline, f"expected {count} messages, found {messages}"
        messages += [message for _, message, _ in listener.poll(0.1)]
    return messages


def refusals(context: Context) -> int:
    """How many connections the context's doorkeeper has refused; waits for the first, which its own thread counts."""
    assert context.doorkeeper is not None
    deadline = time.monotonic() + PATIENCE
    while not context.doorkeeper.refused.total and time.monotonic() < deadline:
        select.select([], [], [], 0.01)
    return context.doorkeeper.refused.total


def test_only_who_said_hello_is_heard(context: Context, outside: zmq.Context) -> None:
    """A stranger's fetch is counted and answered with SayHello; an admitted trainer's arrives."""
    listener = admitting(context)
    stranger = outside.socket(zmq.DEALER)
    stranger.connect(listener.endpoint)
    stranger.send_multipart(encode(FETCH, [np.arange(2)]))
    assert listener.poll(1) == [] and listener.refused.total == 1
    assert stranger.poll(PATIENCE * 1000) and decode(stranger.recv_multipart())[0] == SayHello()
    stranger.close(0)
    connection = context.connect(listener.endpoint, peer="server")
    connection.send(HELLO)
    connection.send(FETCH, [np.arange(2)])
    assert received(listener, 2) == [HELLO, FETCH]


@pytest.mark.parametrize(
    ("token", "told"), [("theirs", "refused our key or token"), ("", "expects another kind of proof")]
)
def test_the_jobs_token_is_asked_for(monkeypatch: pytest.MonkeyPatch, token: str, told: str) -> None:
    """A role with the job's token is admitted without knowing of it; one of another run, or without one, is told why
    it gets no further than the handshake; a wrong token is counted.
    """
    monkeypatch.setenv(TOKEN_VARIABLE, "ours")
    with Context(FAST) as ours:
        listener = admitting(ours, token=ours.token)
        monkeypatch.setenv(TOKEN_VARIABLE, token)
        # Which end breaks off first is a race, anew with each attempt: the peer must not count as dead meanwhile.
        with Context(TransportConfig(dead_peer_seconds=PATIENCE)) as theirs:
            wrong = theirs.connect(listener.endpoint, peer="server")
            wrong.send(HELLO)
            with pytest.raises(ConfigError, match=told):
                wrong.receive(PATIENCE, waiting_for="an answer", step=None)
        assert listener.poll(0.2) == []
        if token:  # Who says none at all may break off before it is seen.
            assert refusals(ours) > 0
        right = ours.connect(listener.endpoint, peer="server")
        right.send(HELLO)
        (hello,) = received(listener, 1)
        assert isinstance(hello, Hello) and hello.token == "ours"


def test_another_listener_at_a_peers_address_is_a_peer_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports are used again: whoever was let in before and is refused now has lost its peer, not the wrong token."""
    monkeypatch.setenv(TOKEN_VARIABLE, "ours")
    with Context(FAST) as here:
        with Context(FAST) as first:
            listener = admitting(first, token=first.token)
            address = listener.endpoint
            connection = here.connect(address, peer="the oracle")
            connection.send(HELLO)
            received(listener, 1)
        monkeypatch.setenv(TOKEN_VARIABLE, "another run's")
        with Context(FAST) as second:
            admitting(second, bind=address, token=second.token)
            with pytest.raises(PeerLost, match="is gone"):
                connection.receive(PATIENCE, waiting_for="an answer", step=None)
            assert refusals(second) > 0


# What a peer says first by ZMTP 3.0, with a mechanism that asks for nothing: a socket of zmq itself would send nothing
# of a message before its last frame.
NULL_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"


def held_bytes() -> int:
    """What this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_a_stranger_cannot_fill_a_listeners_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message without an end, a million frames of one byte, is not kept, though zmq would take 64 bytes for each:
    without the token the connection ends in the handshake.
    """
    monkeypatch.setenv(TOKEN_VARIABLE, "ours")
    # Nobody is given up for silence meanwhile.
    with Context(TransportConfig(dead_peer_seconds=10 * PATIENCE)) as ours:
        listener = admitting(ours, token=ours.token)
        port = int(listener.endpoint.rpartition(":")[2])
        before = held_bytes()
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as stranger:
            with contextlib.suppress(ConnectionError):
                stranger.sendall(NULL_GREETING + bytes([4, len(READY)]) + READY)
                stranger.sendall(b"\x01\x01x" * 1_000_000)
            with contextlib.suppress(ConnectionError):
                while stranger.recv(1 << 16):  # Its greeting; then the connection is at its end.
                    pass
            assert listener.poll(0.1) == []
            assert held_bytes() - before < 30_000_000


@pytest.mark.parametrize(
    ("bind", "token", "warned"),
    [("tcp://*:0", "", True), ("tcp://*:0", "ours", False), ("tcp://127.0.0.1:0", "", False)],
)
def test_a_listener_that_strangers_reach_and_none_is_kept_from_says_so(
    bind: str, token: str, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond this machine without key or token the log names the address and the remedy; otherwise it is silent."""
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    monkeypatch.delenv(CURVE_DIR, raising=False)
    with Context(FAST) as context:
        endpoint = admitting(context, bind, context.token).endpoint
    told = [record.getMessage() for record in caplog.records if "neither key nor token" in record.getMessage()]
    assert len(told) == warned
    assert all(endpoint in line and TOKEN_VARIABLE in line for line in told)


def test_a_token_that_no_handshake_carries_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too long a token is named before anything listens."""
    monkeypatch.setenv(TOKEN_VARIABLE, "x" * 256)
    with pytest.raises(ConfigError, match=f"{TOKEN_VARIABLE}: expected at most 255 bytes, found 256"):
        Context(FAST)


def test_a_listener_that_nobody_was_admitted_to_hears_nobody(context: Context) -> None:
    """There is no listener that lets everything through for want of an admission."""
    listener = context.listen("tcp://127.0.0.1:0")
    context.connect(listener.endpoint, peer="server").send(Ping())
    with pytest.raises(RuntimeError, match="whom to admit"):
        listener.poll(PATIENCE)


def test_a_listener_that_was_restarted_hears_hello_again(context: Context) -> None:
    """When another process listens at the same address, the connection says Hello again and its owner is told."""
    listener = admitting(context)
    address = listener.endpoint
    connection = context.connect(address, peer="server")
    connection.send(HELLO)
    assert received(listener, 1) == [HELLO] and not connection.reconnected()
    listener.close()
    connection.send(FETCH, [np.arange(2)])
    deadline = time.monotonic() + PATIENCE
    while True:  # zmq closes a listener in the background
        try:
            again = admitting(context, address)
            break
        except ConfigError:
            assert time.monotonic() < deadline
    messages: list[Message] = []
    told = 0
    while HELLO not in messages or not told:
        assert time.monotonic() < deadline
        told += connection.reconnected()
        assert connection.try_receive() is None
        messages += [message for _, message, _ in again.poll(0.05)]
    connection.send(FETCH, [np.arange(2)])
    assert received(again, 1) == [FETCH] and told == 1


def test_a_peer_whose_place_is_taken_again_and_again_takes_it_back(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second process of a rank is let in instead of the first one; whenever the first one speaks, it is asked for its
    Hello, says it, and is heard again, however often that happens on one connection.
    """
    monkeypatch.setattr(connection_module, "CROSSING_SECONDS", 0.2)  # The second time, the answer has to wait for it.
    listener = admitting(context)
    first, second = (context.connect(listener.endpoint, peer="server") for _ in range(2))
    first.send(HELLO)
    received(listener, 1)
    for _ in range(3):
        second.send(HELLO)
        received(listener, 1)
        first.send(FETCH, [np.arange(2)])
        deadline = time.monotonic() + PATIENCE
        while not first.reconnected():
            assert time.monotonic() < deadline, "the first one was not asked for its Hello, or did not say it"
            assert first.try_receive() is None
            assert FETCH not in [message for _, message, _ in listener.poll(0.01)]
        first.send(FETCH, [np.arange(2)])
        while FETCH not in received(listener, 1):
            pass


def test_a_flood_does_not_keep_a_listeners_owner(context: Context) -> None:
    """One poll returns a bounded number of messages, however many have arrived."""
    listener = context.listen("tcp://127.0.0.1:0", OpenDoor())
    connection = context.connect(listener.endpoint, peer="server")
    for _ in range(MOST_AT_ONCE + 500):
        connection.send(Ping())
    counts = []
    while sum(counts) < MOST_AT_ONCE + 500:
        counts.append(len(listener.poll(PATIENCE)))
    assert max(counts) <= MOST_AT_ONCE


def test_who_reads_nothing_is_not_kept_for_ever(
    context: Context, outside: zmq.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers beyond a bound to a peer that does not read them are dropped, and nothing blocks."""
    monkeypatch.setattr(sockets, "MOST_WAITING", 10)
    listener = context.listen("tcp://127.0.0.1:0", OpenDoor())
    stranger = outside.socket(zmq.DEALER)
    stranger.setsockopt(zmq.RCVHWM, 10)
    stranger.connect(listener.endpoint)
    stranger.send_multipart(encode(Ping()))
    ((peer, _, _),) = listener.poll(PATIENCE)
    frame = np.zeros(1 << 20, np.uint8)
    sent = [listener.send(peer, Pong(), [frame]) for _ in range(200)]
    stranger.close(0)
    listener.socket.close(0)
    assert not all(sent)
