"""An embedding server's process: one shard behind a socket.

It registers with the oracle, opens its shard, and serves trainers until the oracle says that the job is over. A request
is checked by `requests.py`, `gate.py` decides when it is carried out, and `shard.py` holds the rows; this is the loop
that carries the gate's actions out. Snapshots are written on other threads. Nothing here imports torch.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import structs

from bagpipe.config.document import TransportConfig
from bagpipe.embedding.gate import (
    Acknowledge,
    Action,
    Answer,
    AskAgain,
    Gate,
    Refuse,
    StartSnapshot,
    StoreDue,
    StoreMark,
    StoreRows,
)
from bagpipe.embedding.requests import Bounds, FetchRequest, check_fetch, check_write_back
from bagpipe.embedding.shard import Shard
from bagpipe.embedding.shard_files import holds_rows, note_start
from bagpipe.errors import ConfigError, ExitCode, PeerLost, Stopped, StorageError, WireError
from bagpipe.lowlevel import crash_points
from bagpipe.net.admission import Admission
from bagpipe.net.connection import Connection
from bagpipe.net.listener import Listener
from bagpipe.net.messages import (
    Fetch,
    Hello,
    Message,
    NoMorePlans,
    Ping,
    Pong,
    Refused,
    Rows,
    SendAgain,
    SnapshotStatus,
    Topology,
    WriteBack,
    Written,
)
from bagpipe.net.register import process_name, refusal, register
from bagpipe.net.sockets import Context, wait

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
LEAVE_SECONDS = 60.0
"""How long a server whose job is over may still write a snapshot that nobody waits for any more."""


def run_server(
    *,
    oracle: str,
    bind: str,
    advertise: str | None,
    shard: int,
    job: str,
    attempt: int,
    data_dir: Path,
    storage: Literal["file", "memory"],
    checkpoint_dir: Path | None,
    transport: TransportConfig,
    stop: Callable[[], bool],
    by_worker_id: bool = False,
    accept: Callable[[Topology], None] = lambda topology: None,
) -> None:
    """Serve one shard for one attempt.

    Args:
        shard: number of this shard; with `by_worker_id` any number that differs from the other servers':
            the oracle counts the shards in that order.
        checkpoint_dir: None: where the oracle says.
        accept: checks the topology before anything is served; raises ConfigError to refuse it.

    Raises:
        ConfigError: `accept` refused.
        PeerLost: the oracle is gone, or the job did not begin in time.
        CheckpointError: the checkpoint cannot be loaded.
        StorageError: the disk is full, or the files of an earlier process contradict themselves.
        Stopped: asked to stop.
    """
    with Context(transport) as context, context.listen(bind) as listener:
        to_oracle = context.connect(oracle, peer="oracle")
        endpoint = advertise or listener.endpoint
        kept = data_dir if storage == "file" else None
        hello = Hello(
            job=job,
            attempt=attempt,
            role="server",
            index=shard,
            by_worker_id=by_worker_id,
            endpoint=endpoint,
            fresh=kept is None or not _nothing_lost(kept, job, attempt),
            process=process_name(),
        )
        topology = register(to_oracle, hello, startup_seconds=transport.startup_seconds, stop=stop)
        try:
            accept(topology)
        except ConfigError as error:
            # The oracle tells every role, so that none waits for a server that will not come.
            to_oracle.send(Refused(reason=str(error), exit_code=error.exit_code))
            raise
        admission = Admission("server", job, attempt, context.token, len(topology.trainers))
        admission.begin(topology.trainer_processes)
        listener.admit(admission)
        held = Shard.open(
            topology,
            job=job,
            attempt=attempt,
            number=topology.servers.index(endpoint) if by_worker_id else shard,
            directory=kept,
            checkpoint_dir=checkpoint_dir or Path(topology.checkpoint_dir),
        )
        # A restarted oracle must be told that the rows are here.
        to_oracle.remember(structs.replace(hello, fresh=False))
        server = EmbeddingServer(held, topology, listener, to_oracle, transport.dead_peer_seconds)
        try:
            server.serve(stop)
        except StorageError as error:
            server.dismiss(error)
            raise


def _nothing_lost(directory: Path, job: str, attempt: int) -> bool:
    """Whether this process can take the place of an earlier one of this attempt: its rows are here, or it had none."""
    return holds_rows(directory, job=job, attempt=attempt) or note_start(directory, job=job, attempt=attempt)


class EmbeddingServer:
    """The loop: requests of trainers are checked, and carried out in the order that `Gate` decides."""

    def __init__(
        self,
        shard: Shard,
        topology: Topology,
        listener: Listener,
        oracle: Connection,
        dead_peer_seconds: float,
    ) -> None:
        self.shard, self.listener, self.oracle = shard, listener, oracle
        self._dead_peer_seconds = dead_peer_seconds
        self._first_step = topology.first_step
        self._bounds = Bounds(len(topology.trainers), topology.slots)
        # A trainer asks for the rows of each group up to `prefetchDepth` steps ahead of the one it is in.
        most_waiting = len(topology.layout.groups) * (2 * topology.spec.prefetch_depth + 2)
        self.gate = Gate(shard.marks.steps, shard.marks.snapshot_due, most_waiting=most_waiting)

    def serve(self, stop: Callable[[], bool]) -> None:
        """Serve trainers until the oracle ends the job.

        Raises:
            PeerLost, ConfigError, DataError: the oracle is gone or gave up.
            StorageError: the disk is full.
            Stopped: asked to stop; rows stay on disk.
        """
        self._carry_out(self.gate.resume())
        looked = -math.inf
        while True:
            ready = wait([self.listener, self.oracle], POLL_SECONDS)
            # Fetches come many times a second; it is enough to look at the oracle's connection less often.
            if self.oracle in ready or time.monotonic() - looked > POLL_SECONDS:
                looked = time.monotonic()
                self.shard.snapshots.poll()
                if self._over():
                    break
            for peer, message, arrays in self.listener.poll(0.0):
                self._handle(peer, message, arrays)
            if stop():
                raise Stopped(f"server {self.shard.number}: stopped as asked")
        self._finish_snapshots(stop)

    def dismiss(self, error: StorageError) -> None:
        """Tell every trainer why this shard cannot go on."""
        for peer in self.listener.admitted():
            self.listener.send(peer, Refused(reason=str(error), exit_code=error.exit_code))

    def _over(self) -> bool:
        while (received := self.oracle.try_receive()) is not None:
            message, _ = received
            if isinstance(message, NoMorePlans):
                return True
            if isinstance(message, Refused):
                raise refusal(message)
        if self.oracle.lost:
            raise PeerLost(
                f"server {self.shard.number}: the oracle at {self.oracle.endpoint} has been gone for "
                f"{self._dead_peer_seconds:g} s"
            )
        return False

    def _finish_snapshots(self, stop: Callable[[], bool]) -> None:
        """Wait for the disk, but not long: the last checkpoint is complete by now; no trainer needs this snapshot."""
        deadline = time.monotonic() + LEAVE_SECONDS
        while not self.shard.snapshots.idle and not stop() and time.monotonic() < deadline:
            wait([self.oracle], POLL_SECONDS)
            self.shard.snapshots.poll()

    def _handle(self, peer: bytes, message: Message, arrays: Sequence[Any]) -> None:
        stores = self.shard.stores
        try:
            match message:
                case Hello() | Ping():
                    self.listener.send(peer, Pong())
                case Fetch():
                    self._carry_out(self.gate.fetch(check_fetch(peer, message, arrays, stores, self._bounds)))
                case WriteBack():
                    self._carry_out(self.gate.write_back(check_write_back(peer, message, arrays, stores, self._bounds)))
                case SnapshotStatus(step=step):
                    if step < self._first_step:
                        # Its files would take the place of those of the checkpoint that the attempt began from.
                        raise WireError(f"expected a step of this attempt, from {self._first_step} on, found {step}")
                    if self.gate.rows_are_of(step):
                        self.shard.snapshots.due_again(step)
                    self.listener.send(peer, self.shard.snapshots.status(step, passed=self.gate.passed(step)))
                case _:
                    raise WireError("an embedding server has no use for it")
        except WireError as error:
            self._refuse(peer, f"a {type(message).__name__} of {self.listener.name_of(peer)}: {error}")

    def _carry_out(self, actions: Sequence[Action]) -> None:
        """Carry them out in their order: a write-back is acknowledged when its rows and its mark are stored."""
        marks = self.shard.marks
        for action in actions:
            crash_points.passed(type(action).__name__)
            match action:
                case StoreDue(step):
                    marks.store_due(step)
                case StoreRows(request):
                    self.shard.store_rows(request)
                case StoreMark(rank, step):
                    marks.store_mark(rank, step)
                case Acknowledge(peer, step):
                    self.listener.send(peer, Written(step=step))
                case AskAgain(peer, after):
                    self.listener.send(peer, SendAgain(after=after))
                case StartSnapshot(step):
                    self.shard.snapshots.due(step)
                case Answer(fetch):
                    self._answer(fetch)
                case Refuse(peer, reason):
                    self._refuse(peer, f"{self.listener.name_of(peer)}: {reason}")

    def _answer(self, fetch: FetchRequest) -> None:
        rows = fetch.rows
        store = self.shard.stores[rows.group]
        records, values = store.read(rows.keys, fetch.num_records, rows.positions_in(store))
        answer = Rows(step=fetch.step, group=rows.group)
        self.listener.send(fetch.peer, answer, [records, values], packed=fetch.packed)

    def _refuse(self, peer: bytes, reason: str) -> None:
        """Tell a peer that it has broken the protocol; for the other peers nothing changes."""
        self.listener.refused.add(f"refused {reason}")
        told = f"server {self.shard.number} refused {reason}"
        self.listener.send(peer, Refused(reason=told, exit_code=ExitCode.SOFTWARE))
