"""Which roles have vanished: their connection is gone and they have not come back. Pure.

The shell tries every role's connection a few times within `deadPeerSeconds` and tells which of them lead nowhere. So a
process that has ended, or a machine that answers no heartbeat, is noticed even where no supervisor watches it.

The clock counts only seconds in which the oracle listened: what a role said while the oracle was planning is read
before anything is held against it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, order=True)
class RoleName:
    """A server or trainer of the job."""

    kind: Literal["server", "trainer"]
    index: int

    def __str__(self) -> str:
        return f"{self.kind} {self.index}"


@dataclass(slots=True)
class _Seen:
    peer: bytes
    gone_since: float | None = None


@dataclass(slots=True)
class Liveness:
    """The connection of every role that has said `Hello`.

    Args:
        patience: seconds for which a role of each kind may be gone before it counts as vanished.
    """

    patience: Mapping[str, float]
    _roles: dict[RoleName, _Seen] = field(default_factory=dict)

    def hello(self, role: RoleName, peer: bytes) -> None:
        """A role said who it is; `peer` is what the socket calls it, another one after a restart."""
        self._roles[role] = _Seen(peer)

    def left(self, role: RoleName) -> None:
        """A role has done its work: it may go."""
        self._roles.pop(role, None)

    @property
    def watched(self) -> dict[bytes, RoleName]:
        """The peers whose connection is to be tried."""
        return {seen.peer: role for role, seen in self._roles.items()}

    def tried(self, unreachable: Collection[bytes], now: float) -> list[RoleName]:
        """Every watched connection was tried, and these lead nowhere; returns the roles that have just gone."""
        gone = []
        for role, seen in self._roles.items():
            if seen.peer not in unreachable:
                seen.gone_since = None
            elif seen.gone_since is None:
                seen.gone_since = now
                gone.append(role)
        return gone

    @property
    def anybody_gone(self) -> bool:
        """Whether a role is gone and may still come back."""
        return any(seen.gone_since is not None for seen in self._roles.values())

    def vanished(self, now: float) -> list[tuple[RoleName, float]]:
        """Roles that have been gone for longer than their kind's patience, and for how many seconds."""
        gone = [(role, now - seen.gone_since) for role, seen in self._roles.items() if seen.gone_since is not None]
        return sorted((role, seconds) for role, seconds in gone if seconds > self.patience[role.kind])
