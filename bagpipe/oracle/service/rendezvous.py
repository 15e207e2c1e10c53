"""Collects every role's `Hello` and tells when all roles of the job have registered. Pure.

Addresses are found by registration, so only the oracle's address has to be known beforehand; the
order in which roles start does not matter, and a role that registers again (after a restart on the
same address) is simply told the topology again.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from bagpipe.errors import ConfigError, ExitCode
from bagpipe.net.admission import fingerprint
from bagpipe.net.endpoints import parse_endpoint
from bagpipe.net.messages import Hello, Refused


@dataclass(slots=True)
class Rendezvous:
    """Expected: servers 0..num_servers-1 and trainers 0..num_trainers-1."""

    num_servers: int
    num_trainers: int
    servers: dict[int, Hello] = field(default_factory=dict)
    trainers: dict[int, Hello] = field(default_factory=dict)
    begun: bool = False
    """The topology was given out: from here on servers hold rows that are nowhere else."""
    _there_at_the_start: frozenset[str] = frozenset()
    """Names of the servers' processes that the topology was made for."""

    @property
    def complete(self) -> bool:
        return len(self.servers) == self.num_servers and len(self.trainers) == self.num_trainers

    def register(self, hello: Hello) -> Refused | None:
        """Note where a role listens; None if it is welcome.

        Refused: a role that this job does not have, one whose address is none, so that every other role would fail to
        connect to it, or a second process in the place of a living one (its address differs: the first must end, or
        keep its address, before another takes over).
        """
        places, count = (
            (self.servers, self.num_servers) if hello.role == "server" else (self.trainers, self.num_trainers)
        )
        known = places.get(hello.index)
        # Servers that do not know their shard are numbered in the order of their worker ids: all of them, or none.
        counted = hello.by_worker_id and hello.role == "server"
        alike = all(other.by_worker_id == hello.by_worker_id for other in self.servers.values())
        room = (known is not None or len(places) < count) and (counted or hello.index < count)
        room = room and (alike or hello.role != "server")
        if hello.role not in ("server", "trainer") or hello.index < 0 or not room:
            return Refused(
                reason=f"{hello.role} {hello.index} registered, but the job has {self.num_servers} servers and "
                f"{self.num_trainers} trainers; start each role with the job file of this job",
                exit_code=ExitCode.BAD_CONFIG,
            )
        try:
            parse_endpoint(hello.endpoint, listening=False)
        except ConfigError as error:
            return Refused(
                reason=f"{hello.role} {hello.index} is nowhere to be reached ({error}); set its --advertise",
                exit_code=ExitCode.BAD_CONFIG,
            )
        if known is not None and known.endpoint != hello.endpoint:
            return Refused(
                reason=f"{hello.role} {hello.index} is already registered at {known.endpoint}; "
                f"a second one at {hello.endpoint} must wait for a new attempt",
                exit_code=ExitCode.TRANSIENT,
            )
        places[hello.index] = hello
        return None

    def begin(self, server_processes: Collection[str]) -> None:
        """The topology was made for these servers' processes, and is given out from here on."""
        self.begun, self._there_at_the_start = True, frozenset(server_processes) - {""}

    def rows_lost(self, hello: Hello) -> Refused | None:
        """A server that comes anew once training has begun must have its files.

        Without them it would answer fetches with the rows of the start instead of the trained ones, so only a new
        attempt from the last checkpoint is right. A process that was there at the start has lost nothing: it only
        asks again because the oracle was killed before it sent the topology to this server.
        """
        if not (self.begun and hello.role == "server" and hello.fresh) or hello.process in self._there_at_the_start:
            return None
        return Refused(
            reason=f"server {hello.index} was restarted without the rows it held; go back to the last checkpoint",
            exit_code=ExitCode.TRANSIENT,
        )

    def forget(self, kind: Literal["server", "trainer"], index: int) -> None:
        """A role went away before the job began: its place is free for another process."""
        places = self.servers if kind == "server" else self.trainers
        places.pop(index, None)

    def endpoint(self, kind: Literal["server", "trainer"], index: int) -> str:
        """Where a role that has registered listens."""
        return (self.servers if kind == "server" else self.trainers)[index].endpoint

    def missing(self) -> str:
        """The roles not seen yet, for people."""
        trainers = [f"trainer {i}" for i in range(self.num_trainers) if i not in self.trainers]
        return ", ".join([*self._missing_servers(), *trainers]) or "none"

    def missing_servers(self) -> str:
        """The servers not seen yet, for people; empty: none."""
        return ", ".join(self._missing_servers())

    def _missing_servers(self) -> list[str]:
        if any(hello.by_worker_id for hello in self.servers.values()):
            return ["a server"] * (self.num_servers - len(self.servers))
        return [f"server {i}" for i in range(self.num_servers) if i not in self.servers]

    def server_endpoints(self) -> tuple[str, ...]:
        return tuple(hello.endpoint for _, hello in sorted(self.servers.items()))

    def server_processes(self) -> tuple[str, ...]:
        """Names of the servers' processes, in the order of `server_endpoints`."""
        return tuple(hello.process for _, hello in sorted(self.servers.items()))

    def trainer_processes(self) -> tuple[str, ...]:
        """Digests of the names of the trainers' processes, by rank."""
        return tuple(fingerprint(self.trainers[i].process) for i in range(self.num_trainers))

    def trainer_endpoints(self) -> tuple[str, ...]:
        return tuple(self.trainers[i].endpoint for i in range(self.num_trainers))
