"""CURVE keys of a job: they authenticate its roles, and encrypt what they send.

Every role of a job holds the same key pair, from a directory that only the job can read (a Secret on a
cluster). A listener admits exactly that public key, so a stranger's handshake fails before any message.
"""

from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from bagpipe.config.document import TransportConfig
from bagpipe.errors import ConfigError
from bagpipe.lowlevel.atomic_files import how_to_mend

CURVE_DIR = "BAGPIPE_CURVE_DIR"
"""Names the environment variable that holds the folder of the job's keys."""


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """A job's key pair, Z85-encoded."""

    public: bytes
    secret: bytes

    @classmethod
    def of(cls, transport: TransportConfig, directory: str | None) -> "CurveKeys | None":
        """The keys in `directory`, if the job wants any.

        Raises:
            ConfigError: it does, and there are none.
        """
        if transport.security == "plain" or (transport.security == "auto" and not directory):
            return None
        if not directory:
            raise ConfigError(
                "spec.transport.security is curve, but $BAGPIPE_CURVE_DIR is not set; point it at the job's keys"
            )
        return cls.load(Path(directory))

    @classmethod
    def load(cls, directory: Path) -> "CurveKeys":
        """Read `public` and `secret` from a directory.

        Raises:
            ConfigError: a key is missing or is not one.
        """
        keys = []
        for name in ("public", "secret"):
            try:
                key = (directory / name).read_bytes().strip()
            except OSError as error:
                remedy = f"; {remedy}" if (remedy := how_to_mend(error)) else ""
                raise ConfigError(f"cannot read the job's key {directory / name}: {error.strerror}{remedy}") from None
            if len(key) != 40:
                raise ConfigError(f"{directory / name}: expected a key of 40 characters, found {len(key)}")
            keys.append(key)
        return cls(*keys)

    @classmethod
    def create(cls, directory: Path) -> "CurveKeys":
        """Make a new pair in a directory that only its owner can read."""
        public, secret = zmq.curve_keypair()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, key in (("public", public), ("secret", secret)):
            path = directory / name
            path.touch(mode=0o600)
            path.write_bytes(key)
        return cls(public, secret)

    @property
    def public_bytes(self) -> bytes:
        """The public key as the handshake carries it."""
        return z85.decode(self.public)

    def serve(self, socket: "zmq.Socket[bytes]") -> None:
        """Make a listening socket prove that it holds the job's key."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.public)

    def connect(self, socket: "zmq.Socket[bytes]") -> None:
        """Authenticate a connecting socket with the job's key, and its peer by the same."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.public)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret)
