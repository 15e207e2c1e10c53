"""A listener hears the peers that it admitted, also after another took their place, and no other."""

import contextlib
import resource
import select
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import zmq
from msgspec.structs import replace
from socket_world import FAST, FETCH, HELLO, PATIENCE, admitting, received

from bagpipe.config.document import TransportConfig
from bagpipe.errors import ConfigError, ExitCode, PeerLost
from bagpipe.net import connection as connection_module
from bagpipe.net import sockets
from bagpipe.net.admission import TOKEN_VARIABLE, Admission
from bagpipe.net.curve import CURVE_DIR
from bagpipe.net.listener import MOST_AT_ONCE
from bagpipe.net.messages import Hello, Message, Ping, Pong, Refused, SayHello, Written
from bagpipe.net.sockets import Context
from bagpipe.net.wire import decode, encode
from bagpipe.testing.open_door import OpenDoor


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
    """Ports are reused: a role that was admitted before and is refused now has lost its peer; the token is right."""
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


def test_a_second_process_of_a_living_rank_is_not_heard(
    context: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It has the job's token and asks as often as it may: the first process is heard all the time, nothing of the
    second one is, its log says why meanwhile, and in the end it is refused by name.
    """
    monkeypatch.setattr(connection_module, "CROSSING_SECONDS", 0.05)
    listener = admitting(context)
    first, second = (context.connect(listener.endpoint, peer="server 0") for _ in range(2))
    first.send(HELLO)
    received(listener, 1)
    second.send(HELLO)
    deadline = time.monotonic() + PATIENCE
    told: list[Message] = []
    while not told:
        assert time.monotonic() < deadline, "the second process was never told that it has no place"
        first.send(FETCH, [np.arange(2)])
        second.send(replace(FETCH, step=2), [np.arange(2)])
        assert received(listener, 1) == [FETCH]
        assert listener.admitted() == [first.socket.getsockopt(zmq.ROUTING_ID)]
        told += [answer[0] for answer in iter(second.try_receive, None)]
    assert isinstance(told[0], Refused) and told[0].exit_code == ExitCode.TRANSIENT
    assert "another process is trainer 0, and has stayed connected for 0.75 s" in told[0].reason
    assert "server 0 does not listen to this process yet: another process is trainer 0" in caplog.text


def test_a_restarted_role_is_heard_at_once(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has its place as soon as the first one's connection has ended, however long a silence may be."""
    patient = TransportConfig(dead_peer_seconds=10 * PATIENCE)
    listener = admitting(context)
    monkeypatch.setattr(listener._contests, "dead_seconds", patient.dead_peer_seconds)
    with Context(patient) as killed:
        first = killed.connect(listener.endpoint, peer="server")
        first.send(HELLO)
        received(listener, 1)
    second = context.connect(listener.endpoint, peer="server")
    second.send(HELLO)
    deadline = time.monotonic() + PATIENCE
    while listener.admitted() != [second.socket.getsockopt(zmq.ROUTING_ID)]:
        assert time.monotonic() < deadline
        listener.poll(0.05)
        assert second.try_receive() is None
    second.send(FETCH, [np.arange(2)])
    while FETCH not in received(listener, 1):
        pass


def test_what_was_said_in_another_attempt_is_not_heard(context: Context, caplog: pytest.LogCaptureFixture) -> None:
    """Recorded messages that come again on a connection of this attempt are dropped and named, at either end."""
    listener = context.listen("tcp://127.0.0.1:0", Admission("server", "job", 7, "", num_trainers=1))
    connection = context.connect(listener.endpoint, peer="server")
    hello = replace(HELLO, attempt=7)
    connection.send(hello)
    assert received(listener, 1) == [hello]
    (peer,) = listener.admitted()
    for attempt in (6, 7):
        connection.send_frames(encode(FETCH, [np.arange(attempt)], attempt=attempt))
        listener.send_frames(peer, encode(Written(step=attempt), attempt=attempt))
    ((_, message, (keys,)),) = listener.poll(PATIENCE)
    assert message == FETCH and len(keys) == 7
    told, _ = connection.receive(PATIENCE, waiting_for="an answer", step=None)
    assert told == Written(step=7) and connection.try_receive() is None
    assert "dropped a message of trainer 0: Fetch: it was said in attempt 6, this is attempt 7" in caplog.text
    assert "dropped a message of server: Written: it was said in attempt 6, this is attempt 7" in caplog.text


def test_a_connection_that_is_remade_keeps_its_place(context: Context) -> None:
    """A reset of its connection is no end of a process: its identity shows that it is the same one."""
    listener = admitting(context)
    role = context.connect(listener.endpoint, peer="server")
    role.send(HELLO)
    received(listener, 1)
    before = listener.admitted()
    role.socket.disconnect(role.endpoint)
    role.socket.connect(role.endpoint)
    deadline = time.monotonic() + PATIENCE
    while not role.reconnected():
        assert time.monotonic() < deadline, "the connection was not remade"
    role.send(FETCH, [np.arange(2)])
    assert received(listener, 2) == [HELLO, FETCH] and listener.admitted() == before


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
