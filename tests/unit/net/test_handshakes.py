"""Connections that do not get through a handshake are bounded in number and bytes, and keep no role from speaking."""

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from socket_world import HELLO, PATIENCE, admitting, received

from bagpipe.config.document import TransportConfig
from bagpipe.net import handshakes
from bagpipe.net.admission import TOKEN_VARIABLE
from bagpipe.net.curve import CURVE_DIR, CurveKeys
from bagpipe.net.handshakes import Handshakes
from bagpipe.net.listener import Listener
from bagpipe.net.messages import Ping
from bagpipe.net.sockets import Context

LONG_COMMAND = b"\x06" + struct.pack(">Q", 8 << 20)
"""ZMTP's announcement of a command of 8 MiB: as long as a frame of the job's own messages may be."""


def greeting(mechanism: str) -> bytes:
    """What a peer says first by ZMTP 3.0."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.encode().ljust(20, b"\0") + bytes(32)


@pytest.fixture(params=["PLAIN", "CURVE"])
def mechanism(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The job has keys, or a token alone."""
    monkeypatch.setenv(TOKEN_VARIABLE, "ours")
    if request.param == "CURVE":
        CurveKeys.create(tmp_path)
        monkeypatch.setenv(CURVE_DIR, str(tmp_path))
    return str(request.param)


@pytest.fixture
def listener(mechanism: str) -> Iterator[tuple[Context, Listener]]:
    # Nobody is given up for silence meanwhile.
    with Context(TransportConfig(dead_peer_seconds=10 * PATIENCE)) as context:
        yield context, admitting(context, token=context.token)


@pytest.fixture
def stranger(listener: tuple[Context, Listener]) -> Iterator[Callable[[bytes], socket.socket]]:
    """Connects to the listener and says this; what cannot be said any more is left out."""
    port = int(listener[1].endpoint.rpartition(":")[2])
    with ExitStack() as stack:

        def connect(words: bytes) -> socket.socket:
            made = stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
            with contextlib.suppress(ConnectionError):
                made.sendall(words)
            return made

        yield connect


def wait_for_its_end(connection: socket.socket) -> None:
    """Until the other end has closed it; fails after PATIENCE, which is twice what libzmq would give it."""
    with contextlib.suppress(ConnectionError):
        while connection.recv(1 << 16):
            pass


def is_open(connection: socket.socket) -> bool:
    """Whether the other end has not closed it, as far as is known here now."""
    connection.setblocking(False)
    try:
        while connection.recv(1 << 16):
            pass
    except BlockingIOError:
        return True
    return False


def test_a_long_command_is_not_taken_from_a_stranger(
    mechanism: str, listener: tuple[Context, Listener], stranger: Callable[[bytes], socket.socket]
) -> None:
    """Without key or token nobody has megabytes kept for half a minute: the connection ends, and that is said."""
    context, door = listener
    assert context.doorkeeper is not None
    strangers = [stranger(greeting(mechanism) + LONG_COMMAND + bytes(1 << 18)) for _ in range(4)]
    begun = time.monotonic()
    for one in strangers:
        wait_for_its_end(one)
    assert time.monotonic() - begun < 25, "libzmq's own limit ended them"
    deadline = time.monotonic() + PATIENCE
    while context.doorkeeper.refused.total < 4:  # Another thread counts, when it has ended them.
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)
    context.connect(door.endpoint, peer="server").send(HELLO)
    assert [type(one) for one in received(door, 1)] == [type(HELLO)]


def test_the_oldest_of_many_unfinished_handshakes_is_ended(
    mechanism: str,
    listener: tuple[Context, Listener],
    stranger: Callable[[bytes], socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Strangers that say nothing, half a greeting or a whole one: a role is let in among them, and stays among more."""
    monkeypatch.setattr(handshakes, "MOST_UNFINISHED", 3)
    context, door = listener
    words = (b"", greeting(mechanism)[:20], greeting(mechanism))
    first = [stranger(one) for one in words]
    role = context.connect(door.endpoint, peer="server")
    role.send(HELLO)
    received(door, 1)
    more = [stranger(one) for one in words]
    for one in first:
        wait_for_its_end(one)
    role.send(Ping())
    assert received(door, 1) == [Ping()] and not role.reconnected()
    assert all(is_open(one) for one in more)


def test_a_descriptor_that_is_another_by_now_is_left_alone(tmp_path: Path) -> None:
    """A connection may have ended before it is looked at, and its number may be a file's or another connection's."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as outside,
        server.accept()[0] as inside,
        socket.create_connection(server.getsockname()) as other_outside,
        server.accept()[0] as other,
        (tmp_path / "file").open("w") as file,
    ):
        watched = Handshakes(server.getsockname()[1], "PLAIN")
        assert watched.accepted(file.fileno()) == "" and watched.accepted(outside.fileno()) == ""
        assert len(watched) == 0
        watched.accepted(inside.fileno())
        outside.sendall(bytes(10_000))
        assert len(inside.recv(10_000, socket.MSG_WAITALL)) == 10_000
        number = inside.fileno()
        inside.close()
        os.dup2(other.fileno(), number)
        assert watched.look() == [] and len(watched) == 0
        os.close(number)
        other_outside.sendall(b"still there")
        assert other.recv(100) == b"still there"
