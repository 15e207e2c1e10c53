"""For tests of the code behind a listener: every peer is admitted."""

from bagpipe.net.admission import Admission
from bagpipe.net.messages import Message


class OpenDoor(Admission):
    """Admits every peer and every message, without a `Hello`."""

    def __init__(self) -> None:
        super().__init__("oracle", "job", 0, "", 1)

    def check(self, identity: bytes, message: Message) -> None:
        """Admit the message."""
