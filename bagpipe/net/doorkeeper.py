"""Decides who may connect to this process at all, in zmq's handshake, before any message (ZAP, RFC 27).

A listener with the job's keys (CURVE) admits peers that hold the same key; one with the job's token alone (PLAIN)
admits peers that send it. A refused peer gets no further than the handshake, so a stranger can neither send endless
messages nor see an answer; `handshakes.py` bounds what it can send, and how often, within one. `admission.py` decides
what an admitted peer may send.
"""

import hmac
import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from bagpipe.net.handshakes import Handshakes
from bagpipe.net.refusal_log import RefusalLog
from bagpipe.net.waits import milliseconds

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
"""Where libzmq asks."""
ZAP_VERSION = b"1.0"
USERNAME = b"bagpipe"
"""PLAIN requires a user name; only the token is checked."""
LONGEST_TOKEN_BYTES = 255
"""The longest password that PLAIN carries."""

IDLE_SECONDS = 60.0
"""The thread wakes up so often where nothing happens."""
STOP_SECONDS = 10.0
"""How long `stop` waits for the thread, which usually ends within milliseconds."""
log = logging.getLogger(__name__)
_END, _WATCH = b"end", b"watch"


class Doorkeeper:
    """A thread that answers for every listener of one zmq context. Made before any of them is bound.

    Args:
        public_key: of the job's pair, 32 bytes; empty: the job has none, and no CURVE client is admitted.
        token: the job's; empty: no PLAIN client is admitted.
    """

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", *, public_key: bytes, token: bytes) -> None:
        self.refused = RefusalLog()
        self._context, self._public_key, self._token = context, public_key, token
        self._questions = context.socket(zmq.REP)
        self._questions.linger = 0
        self._questions.bind(ZAP_ENDPOINT)
        self._orders, self._heard = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        self._orders.bind(f"inproc://doorkeeper-{id(self)}")
        self._heard.connect(f"inproc://doorkeeper-{id(self)}")
        self._to_watch: deque[zmq.Socket[bytes]] = deque()
        self._thread = threading.Thread(target=self._serve, name="doorkeeper", daemon=True)
        self._thread.start()

    def watch(self, listener: "zmq.Socket[bytes]") -> None:
        """Count peers that fail the handshake without speaking this mechanism, about which libzmq asks no ZAP handler,
        and end those that do not come to its end.
        """
        address = f"inproc://monitor-{id(listener)}"
        listener.monitor(
            address,
            zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
        )
        monitor = self._context.socket(zmq.PAIR)
        monitor.rcvhwm = 0  # With a bound, a flood of connections would stop zmq's own thread.
        monitor.linger = 0
        monitor.connect(address)
        self._to_watch.append(monitor)
        self._orders.send(_WATCH)

    def stop(self) -> None:
        """End the thread; from now on no peer is admitted. A thread that does not end in time ends with the process."""
        self._orders.send(_END)
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            log.warning("the doorkeeper's thread did not end within %g s; it ends with this process", STOP_SECONDS)
        self._orders.close(0)

    def _serve(self) -> None:
        poller = zmq.Poller()
        monitors: dict[zmq.Socket[bytes], Handshakes | None] = {}
        """Of each listener; None: it has not accepted anybody yet."""
        for socket in (self._questions, self._heard):
            poller.register(socket, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(self._patience(monitors.values())))
            if self._heard in ready:
                if self._heard.recv() == _END:
                    break
                monitors[monitor := self._to_watch.popleft()] = None
                poller.register(monitor, zmq.POLLIN)
            for monitor, handshakes in monitors.items():
                if monitor in ready:
                    monitors[monitor] = self._note(recv_monitor_message(monitor), handshakes)
                if handshakes is not None:
                    for told in handshakes.look():
                        self.refused.add(told)
            if self._questions in ready:
                self._answer()
        for socket in (self._questions, self._heard, *monitors):
            socket.close(0)

    def _patience(self, all_handshakes: Iterable[Handshakes | None]) -> int:
        """Milliseconds until handshakes are to be looked at again."""
        due = [wait for one in all_handshakes if one is not None and (wait := one.patience()) is not None]
        return milliseconds(min(due, default=IDLE_SECONDS)) + 1

    def _note(self, event: Mapping[str, Any], handshakes: Handshakes | None) -> Handshakes | None:
        """Something has happened to a connection of a listener; returns its handshakes."""
        where = event["endpoint"].decode("ascii", "replace")
        if event["event"] != zmq.EVENT_ACCEPTED:
            self.refused.add(f"refused a connection to {where}: it did not show the job's key or token")
            return handshakes
        if handshakes is None:
            handshakes = Handshakes(int(where.rpartition(":")[2]), "CURVE" if self._public_key else "PLAIN")
        if told := handshakes.accepted(event["value"]):
            self.refused.add(told)
        return handshakes

    def _answer(self) -> None:
        version, request, _, address, _, mechanism, *credentials = self._questions.recv_multipart()
        admitted = version == ZAP_VERSION and self._admits(mechanism, credentials)
        if not admitted:
            who = address.decode("ascii", "replace")
            self.refused.add(f"refused a connection of {who}: it does not have the job's key or token")
        code, text = (b"200", b"OK") if admitted else (b"400", b"refused")
        self._questions.send_multipart([ZAP_VERSION, request, code, text, b"", b""])

    def _admits(self, mechanism: bytes, credentials: list[bytes]) -> bool:
        if mechanism == b"CURVE" and self._public_key:
            return len(credentials) == 1 and hmac.compare_digest(credentials[0], self._public_key)
        if mechanism == b"PLAIN" and self._token:
            return len(credentials) == 2 and hmac.compare_digest(credentials[1], self._token)
        return False
