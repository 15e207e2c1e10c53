"""Sockets deliver, and notice dead peers."""

import contextlib
import errno
import math
import socket
from pathlib import Path

import numpy as np
import pytest
import zmq
from socket_world import FAST, FETCH, HELLO, PATIENCE, received

from bagpipe.config.document import TransportConfig
from bagpipe.errors import BagpipeError, ConfigError, DataError, ExitCode, PeerLost
from bagpipe.net import register as register_module
from bagpipe.net import sockets
from bagpipe.net.admission import TOKEN_VARIABLE
from bagpipe.net.connection import COPIED_BYTES, keep_frames
from bagpipe.net.messages import Ping, Pong, Refused
from bagpipe.net.sockets import Context
from bagpipe.net.waits import milliseconds
from bagpipe.net.wire import encode
from bagpipe.testing.open_door import OpenDoor


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


def test_a_role_that_was_started_alone_says_whom_it_waits_for(
    context: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Long before it gives up, and once."""
    monkeypatch.setattr(register_module, "TELL_SECONDS", 0.01)
    oracle = context.connect("tcp://127.0.0.1:1", peer="oracle")
    with pytest.raises(PeerLost, match=r"trainer 0: the oracle did not complete the job's start within 0.5 s"):
        register_module.register(oracle, HELLO, startup_seconds=0.5, stop=lambda: False)
    told = [record.getMessage() for record in caplog.records if "no answer from the oracle" in record.getMessage()]
    assert len(told) == 1 and "tcp://127.0.0.1:1 for 0.01 s; waiting up to 0.5 s" in told[0]


def test_an_oracle_that_is_known_to_start_is_not_asked_for(
    context: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The program that has started it says that it starts, and where it says what it does."""
    monkeypatch.setattr(register_module, "TELL_SECONDS", 0.01)
    oracle = context.connect("tcp://127.0.0.1:1", peer="oracle")
    log = register_module.Impatience(math.inf, "", Path("logs/oracle-0.log"))
    with pytest.raises(PeerLost):
        register_module.register(oracle, HELLO, startup_seconds=0.5, stop=lambda: False, impatience=log)
    (told,) = [record.getMessage() for record in caplog.records if "the oracle" in record.getMessage()]
    assert told == (
        "the oracle is still starting; waiting up to 0.5 s (spec.transport.startupSeconds). Its log: logs/oracle-0.log"
    )


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


def test_a_socket_that_cannot_be_closed_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is closed and the doorkeeper's thread ends all the same; a thread that stays would admit peers."""
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    context = Context(FAST)
    broken, whole = context.connect("tcp://127.0.0.1:9", peer="oracle"), context.listen("tcp://127.0.0.1:0")

    def raises() -> None:
        raise zmq.ZMQError(errno.ENOTSOCK)

    monkeypatch.setattr(broken, "close", raises)
    with pytest.raises(zmq.ZMQError):
        context.close()
    assert context.doorkeeper is not None and not context.doorkeeper._thread.is_alive()
    assert whole.socket.closed and broken.socket.closed


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (ExitCode.BAD_CONFIG, ConfigError),
        (ExitCode.BAD_DATA, DataError),
        (ExitCode.SOFTWARE, PeerLost),
        (ExitCode.TRANSIENT, PeerLost),
    ],
)
def test_what_a_refused_role_ends_with(code: ExitCode, kind: type[BagpipeError]) -> None:
    """A message that a peer refuses may have been damaged on its way, so that is tried again (docs/reliability.md)."""
    found = register_module.refusal(Refused(reason="why", exit_code=code))
    assert type(found) is kind and str(found) == "why"


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
