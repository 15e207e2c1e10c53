"""What tests of sockets share: a short silence that ends a peer, a role's first word, and waits that fail late."""

import time

from bagpipe.config.document import TransportConfig
from bagpipe.net import sockets
from bagpipe.net.admission import Admission
from bagpipe.net.form import form
from bagpipe.net.messages import Fetch, Hello, Message
from bagpipe.net.sockets import Context

FAST = TransportConfig(dead_peer_seconds=0.5)
PATIENCE = 60
"""Seconds after which a wait has failed; far above what a loaded machine needs, and no measure of anything."""
FETCH = Fetch(rank=0, step=1, group=0, after=-1, num_records=2)
HELLO = Hello(form=form(), job="job", attempt=0, role="trainer", index=0)


def admitting(context: Context, bind: str = "tcp://127.0.0.1:0", token: str = "") -> sockets.Listener:
    return context.listen(bind, Admission("server", "job", 0, token, num_trainers=2))


def received(listener: sockets.Listener, count: int) -> list[Message]:
    """The next `count` messages that the listener lets through."""
    messages: list[Message] = []
    deadline = time.monotonic() + PATIENCE
    while len(messages) < count:
        assert time.monotonic() < deadline, f"expected {count} messages, found {messages}"
        messages += [message for _, message, _ in listener.poll(0.1)]
    return messages
