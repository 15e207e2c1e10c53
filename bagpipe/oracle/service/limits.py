"""How long an oracle waits for its roles."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, all from `spec.transport`."""

    startup: float
    step: float
    dead_peer: float
    server_return: float
    """How long a server may be gone, and trainers wait for one that comes back with its rows."""
