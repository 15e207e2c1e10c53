"""For tests of what lies behind a listener: everybody is heard."""

from bagpipe.net.admission import Admission
from bagpipe.net.messages import Message


class OpenDoor(Admission):
    """Lets everybody say everything, without a `Hello`."""

    def __init__(self) -> None:
        super().__init__("oracle", "job", 0, "", 1)

    def check(self, identity: bytes, message: Message) -> None:
        """Whoever says whatever, it is let in."""
