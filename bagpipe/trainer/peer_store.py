"""The key-value store through which NCCL's ranks find each other, on the trainers' own sockets.

NCCL asks a store for one thing: rank 0 sets the identifier of a communicator, the others get it. torch's own store is a
listener without a token that answers anybody. Here a value that is set goes to every other trainer as a message
between trainers, and getting one waits for that message.
"""

import threading
from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from bagpipe.errors import PeerLost
from bagpipe.net.array_forms import UINT8, Form
from bagpipe.trainer.exchange import PeerExchange
from bagpipe.trainer.torch_private import Store

Bytes = npt.NDArray[np.uint8]
_KEY_AND_VALUE = (Form(UINT8, (None,)), Form(UINT8, (None,)))


class PeerStore(Store):  # type: ignore[misc]  # torch has no types for it
    """One trainer's copy of all keys.

    Only the thread that made it sends and receives. NCCL's watchdog, a thread of its own, reads and sets keys that
    concern its own process: it sees this copy.

    Args:
        step: the step in which everything here is said: the attempt's first.
    """

    def __init__(self, peers: PeerExchange, *, others: Sequence[int], step: int) -> None:
        super().__init__()
        self._peers, self._step = peers, step
        self._values: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._owner = threading.get_ident()
        self._sent = 0
        self._taken = dict.fromkeys(others, 0)
        """How many messages of each other trainer have been taken."""

    def __repr__(self) -> str:
        return f"PeerStore(keys={sorted(self._values)})"

    def set(self, key: str, value: str | bytes) -> None:
        """Set a key here and at every other trainer."""
        content = value.encode() if isinstance(value, str) else bytes(value)
        with self._lock:
            self._values[key] = content
        if threading.get_ident() == self._owner:
            self._peers.send_to_all(self._step, "store", [_array(key.encode()), _array(content)], self._sent)
            self._sent += 1

    def get(self, key: str) -> bytes:
        """A key's value, once it is set anywhere.

        Raises:
            PeerLost: it was not set in time, or, in a thread that did not make the store, is not set now.
        """
        self.wait([key])
        with self._lock:
            if key in self._values:
                return self._values[key]
        raise PeerLost(f"the key {key} is not set in this process, and only the thread that trains waits for others")

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all these keys are set."""
        if threading.get_ident() == self._owner:
            self._take_in()
        with self._lock:
            return all(key in self._values for key in keys)

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Wait until all these keys are set; the exchange's own deadline holds, not `timeout`."""
        if threading.get_ident() == self._owner:
            self._peers.wait_until(lambda: self.check(keys), f"the keys {', '.join(keys)}", self._step)

    def add(self, key: str, value: int) -> int:
        """Add to a counter of this process alone; returns its new value."""
        with self._lock:
            total = int(self._values.get(key, b"0")) + value
            self._values[key] = str(total).encode()
        return total

    def delete_key(self, key: str) -> bool:
        """Forget a key here; returns whether it was set."""
        with self._lock:
            return self._values.pop(key, None) is not None

    def num_keys(self) -> int:
        with self._lock:
            return len(self._values)

    def clone(self) -> "PeerStore":
        """Another handle for another thread: this one is safe for any."""
        return self

    def _take_in(self) -> None:
        for peer in self._taken:
            while self._peers.arrived(peer, self._step, "store", self._taken[peer]):
                key, value = self._peers.receive(peer, self._step, "store", _KEY_AND_VALUE, self._taken[peer])
                self._taken[peer] += 1
                with self._lock:
                    self._values[bytes(key).decode()] = bytes(value)


def _array(content: bytes) -> Bytes:
    return np.frombuffer(content, np.uint8)
