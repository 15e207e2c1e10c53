"""Sockets deliver, notice dead peers, and keep strangers out."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq

from bagpipe.config.document import TransportConfig
from bagpipe.errors import ConfigError, PeerLost
from bagpipe.net import sockets
from bagpipe.net.curve import CurveKeys
from bagpipe.net.messages import PROTOCOL_VERSION, Fetch, Hello, Ping, Pong
from bagpipe.net.sockets import CURVE_DIR, Context, check_hello
from bagpipe.net.wire import encode

FAST = TransportConfig(dead_peer_seconds=0.5)
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
    listener = context.listen("tcp://127.0.0.1:0")
    connection = context.connect(listener.endpoint, peer="server")
    connection.send(FETCH, [np.arange(3_000_000)])
    ((peer, message, arrays),) = listener.poll(5)
    assert message == FETCH and np.array_equal(arrays[0], np.arange(3_000_000))
    assert listener.send(peer, Pong())
    assert connection.receive(5, waiting_for="pong", step=None)[0] == Pong()


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_copied_may_change_before_it_is_sent(context: Context, packed: bool) -> None:
    """A large array that is overwritten while its peer is not even there arrives as it was."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    connection = context.connect(address, peer="trainer 1")
    gradients = np.linspace(0.5, 1, sockets.COPIED_BYTES, dtype=np.float32)
    before = gradients.copy()
    connection.send_frames(sockets.keep_frames(encode(FETCH, [gradients], packed=packed), copied=True))
    gradients[:] = 7
    ((_, _, arrays),) = context.listen(address).poll(10)
    assert np.array_equal(arrays[0], before)


def test_silence_ends_in_an_error_that_says_what_was_awaited(context: Context) -> None:
    """A wait ends at its deadline and names peer, matter and step."""
    listener = context.listen("tcp://127.0.0.1:0")
    connection = context.connect(listener.endpoint, peer="server 1")
    with pytest.raises(PeerLost, match=r"0.2 s for rows from server 1 at step 7"):
        connection.receive(0.2, waiting_for="rows", step=7)


def test_a_dead_peer_is_noticed_long_before_the_deadline(context: Context) -> None:
    """Once a connected peer is gone for dead_peer_seconds, waiting for it ends."""
    listener = context.listen("tcp://127.0.0.1:0")
    connection = context.connect(listener.endpoint, peer="server")
    connection.send(Ping())
    listener.send(listener.poll(5)[0][0], Pong())
    connection.receive(5, waiting_for="pong", step=None)
    listener.close()
    begun = time.monotonic()
    with pytest.raises(PeerLost, match="is gone"):
        connection.receive(30, waiting_for="rows", step=1)
    assert time.monotonic() - begun < 5


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
            assert monitor.poll(5000)
            monitor.recv_multipart()


def test_malformed_messages_are_dropped(context: Context, outside: zmq.Context) -> None:
    """Noise from a stranger does not end a listener."""
    listener = context.listen("tcp://127.0.0.1:0")
    stranger = outside.socket(zmq.DEALER)
    stranger.connect(listener.endpoint)
    stranger.send_multipart([b"noise", b"more"])
    connection = context.connect(listener.endpoint, peer="server")
    connection.send(Ping())
    deadline = time.monotonic() + 5
    arrived: list[object] = []
    while not arrived and time.monotonic() < deadline:
        arrived += [message for _, message, _ in listener.poll(0.1)]
    stranger.close(0)
    assert arrived == [Ping()]


def test_a_taken_port_is_a_config_error(context: Context) -> None:
    """Binding where somebody listens names the address and a remedy."""
    taken = context.listen("tcp://127.0.0.1:0").endpoint
    with pytest.raises(ConfigError, match=f"cannot listen on {taken}.*choose another port"):
        context.listen(taken)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": PROTOCOL_VERSION + 1}, "protocol"),
        ({"job": "other"}, "belongs to job 'other'"),
        ({"attempt": 2}, "attempt 2"),
    ],
)
def test_foreign_hellos_are_refused(change: dict[str, object], reason: str) -> None:
    """A peer of another version, job or attempt is told why it is refused."""
    fields = {"job": "job", "attempt": 1, "role": "trainer", "index": 0} | change
    refused = check_hello(Hello(**fields), job="job", attempt=1)  # type: ignore[arg-type]
    assert refused is not None and reason in refused.reason
    assert check_hello(Hello(job="job", attempt=1, role="trainer", index=0), job="job", attempt=1) is None


def test_curve_admits_only_the_jobs_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: zmq.Context) -> None:
    """With keys, the job's roles talk to each other and a stranger with keys of its own gets nothing through."""
    secure = TransportConfig(dead_peer_seconds=0.5, security="curve")
    CurveKeys.create(tmp_path / "ours")
    theirs = CurveKeys.create(tmp_path / "theirs")
    ours = CurveKeys.load(tmp_path / "ours")
    monkeypatch.setenv(CURVE_DIR, str(tmp_path / "ours"))
    with Context(secure) as context:
        listener = context.listen("tcp://127.0.0.1:0")
        stranger = outside.socket(zmq.DEALER)
        stranger.curve_serverkey, stranger.curve_publickey, stranger.curve_secretkey = (
            ours.public,
            theirs.public,
            theirs.secret,
        )
        stranger.connect(listener.endpoint)
        stranger.send_multipart([b"let me in"])
        connection = context.connect(listener.endpoint, peer="server")
        connection.send(Ping())
        _, message, _ = listener.poll(5)[0]
        assert message == Ping()
        assert not listener.poll(0.3)
        stranger.close(0)


def test_auto_takes_keys_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: zmq.Context) -> None:
    """`security: auto` admits no plain stranger where the job has keys, and needs none where it has not."""
    CurveKeys.create(tmp_path)
    monkeypatch.setenv(CURVE_DIR, str(tmp_path))
    with Context(TransportConfig()) as context:
        listener = context.listen("tcp://127.0.0.1:0")
        stranger = outside.socket(zmq.DEALER)
        stranger.connect(listener.endpoint)
        stranger.send_multipart([b"let me in"])
        context.connect(listener.endpoint, peer="server").send(Ping())
        assert [message for _, message, _ in listener.poll(5)] == [Ping()]
        stranger.close(0)
    monkeypatch.delenv(CURVE_DIR)
    with Context(TransportConfig()) as context:
        context.connect(context.listen("tcp://127.0.0.1:0").endpoint, peer="server")


def test_missing_keys_are_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Security without keys says where they were expected."""
    monkeypatch.setenv(CURVE_DIR, str(tmp_path))
    with pytest.raises(ConfigError, match=str(tmp_path)):
        Context(TransportConfig(security="curve"))
