"""What both ends of a connection share: a zmq socket that is closed once and can be used in a `with`."""

from types import TracebackType
from typing import Self

import zmq

from bagpipe.net.delay import message_delay
from bagpipe.net.refusal_log import RefusalLog


class SocketEnd:
    """A zmq socket with a count of the messages that it refused."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self.socket = socket
        self.refused = RefusalLog()
        """Messages and peers that were dropped or refused here."""
        self._delay = message_delay()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close; what was sent still goes out within `LINGER_SECONDS`. Closing again does nothing."""
        if not self.socket.closed:
            self.socket.close()
