"""An embedding server's process: one shard behind a socket.

A shell around `shard.py` (rows), `gate.py` (order) and `snapshot.py` (checkpoints). It registers with
the oracle, loads its share of a checkpoint written by any number of shards, and serves trainers until
the oracle says that the job is over. Nothing here imports torch.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from msgspec import structs

from bagpipe.batch import Floats, Keys
from bagpipe.checkpoint.manifest import check_same_job
from bagpipe.checkpoint.store import directory_of, open_checkpoint
from bagpipe.config.document import TransportConfig
from bagpipe.embedding.gate import Gate
from bagpipe.embedding.shard import RowStore
from bagpipe.embedding.shard_files import (
    Header,
    claim_directory,
    confirm_directory,
    holds_rows,
    layout_digest,
    watermark_array,
)
from bagpipe.embedding.snapshot import Snapshot
from bagpipe.embedding.watermark import Watermarks
from bagpipe.errors import ConfigError, ExitCode, PeerLost, Stopped, StorageError, WireError
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
    SnapshotFiles,
    SnapshotStatus,
    Topology,
    WriteBack,
    Written,
)
from bagpipe.net.register import refusal, register
from bagpipe.net.sockets import Connection, Context, Listener, check_hello, wait
from bagpipe.rows.initial import Newborn
from bagpipe.rows.record import record_width

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
SNAPSHOT_SECONDS = 600.0
"""Longest time a snapshot may take before the next one or the end of the job gives up on it."""

SNAPSHOTS_REMEMBERED = 4


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
        accept: looks at the topology before anything is served; raises what it does not like.

    Raises:
        ConfigError: `accept` refused.
        PeerLost: the oracle is gone, or the job did not begin in time.
        CheckpointError: the checkpoint cannot be loaded.
        StorageError: the disk is full.
        Stopped: asked to stop.
    """
    with Context(transport) as context, context.listen(bind) as listener:
        to_oracle = context.connect(oracle, peer="oracle")
        endpoint = advertise or listener.endpoint
        kept = data_dir if storage == "file" else None
        fresh = kept is None or not holds_rows(kept, job=job, attempt=attempt)
        hello = Hello(
            job=job,
            attempt=attempt,
            role="server",
            index=shard,
            by_worker_id=by_worker_id,
            endpoint=endpoint,
            fresh=fresh,
        )
        topology = register(to_oracle, hello, startup_seconds=transport.startup_seconds, stop=stop)
        try:
            accept(topology)
        except ConfigError as error:
            # Told to the oracle, which tells everybody: nobody waits for a server that will not come.
            to_oracle.send(Refused(reason=str(error), exit_code=error.exit_code))
            raise
        held = Shard.open(
            topology,
            Header(
                job=job,
                attempt=attempt,
                shard=topology.servers.index(endpoint) if by_worker_id else shard,
                num_shards=len(topology.servers),
                num_trainers=len(topology.trainers),
                record_widths=_record_widths(topology),
                layout_digest=layout_digest(topology.layout),
            ),
            directory=kept,
            checkpoint_dir=checkpoint_dir or Path(topology.checkpoint_dir),
        )
        server = EmbeddingServer(held, listener, to_oracle, structs.replace(hello, fresh=False), transport)
        try:
            server.serve(stop)
        except StorageError as error:
            server.dismiss(error)
            raise


def _record_widths(topology: Topology) -> tuple[int, ...]:
    optimizer = topology.spec.embedding.optimizer
    return tuple(record_width(optimizer, group.embedding_dim) for group in topology.layout.groups)


@dataclass(slots=True)
class Shard:
    """The rows of one shard and everything that must outlive its process."""

    number: int
    num_shards: int
    stores: list[RowStore]
    marks: Watermarks
    checkpoint_dir: Path

    @classmethod
    def open(cls, topology: Topology, header: Header, *, directory: Path | None, checkpoint_dir: Path) -> "Shard":
        """This attempt's rows as a killed process left them, or those of the checkpoint it starts from."""
        reused = directory is not None and claim_directory(directory, header)
        embedding, seed = topology.spec.embedding, topology.spec.seed
        stores = [
            RowStore(
                group,
                embedding.optimizer,
                Newborn(group, seed=seed, init_scale=embedding.init_scale),
                shard=header.shard,
                num_shards=header.num_shards,
                directory=directory,
            )
            for group in topology.layout.groups
        ]
        marks = Watermarks(watermark_array(directory, header.num_trainers))
        shard = cls(header.shard, header.num_shards, stores, marks, checkpoint_dir)
        if not reused:
            marks.reset(topology.first_step)
            if topology.checkpoint is not None:
                shard.load(Path(topology.checkpoint), topology)
            if directory is not None:
                confirm_directory(directory, header)
        log.info("shard %d of %d: %s%s", header.shard, header.num_shards, stores, " (reopened)" if reused else "")
        return shard

    def load(self, directory: Path, topology: Topology) -> None:
        """Take this shard's rows out of a checkpoint written by any number of shards."""
        checkpoint = open_checkpoint(directory)
        check_same_job(checkpoint.manifest, topology.layout, _record_widths(topology), str(directory))
        for file in checkpoint.manifest.shards:
            group, keys, records = checkpoint.rows(file)
            ours = keys % self.num_shards == self.number
            self.stores[group].write(keys[ours], records[ours])


class EmbeddingServer:
    """The loop: what trainers ask is answered in the order that `Gate` allows."""

    def __init__(
        self, shard: Shard, listener: Listener, oracle: Connection, hello: Hello, transport: TransportConfig
    ) -> None:
        self.shard, self.listener, self.oracle, self.hello, self.transport = shard, listener, oracle, hello, transport
        self.gate: Gate[_WriteBack, _Fetch] = Gate(shard.marks, self._apply, self._begin_snapshot, self._answer)
        self.snapshot: Snapshot | None = None
        self.snapshots: dict[int, Snapshot] = {}
        """Recent ones by step: trainer 0 may ask for one after the next has begun."""
        self.peers: set[bytes] = set()

    def serve(self, stop: Callable[[], bool]) -> None:
        """Until the oracle ends the job.

        Raises:
            PeerLost, ConfigError, DataError: the oracle is gone or gave up.
            Stopped: asked to stop; rows stay on disk.
        """
        looked = -math.inf
        while True:
            ready = wait([self.listener, self.oracle], POLL_SECONDS)
            # Rows are asked for many times a second; whether the oracle is still there, not as often.
            if self.oracle in ready or time.monotonic() - looked > POLL_SECONDS:
                looked = time.monotonic()
                if self._over():
                    break
            for peer, message, arrays in self.listener.poll(0.0):
                self.peers.add(peer)
                self._handle(peer, message, arrays)
            if stop():
                raise Stopped(f"server {self.shard.number}: stopped as asked")
        if self.snapshot is not None:
            self.snapshot.wait(SNAPSHOT_SECONDS)

    def dismiss(self, error: StorageError) -> None:
        """Tell everybody why this shard cannot go on."""
        for peer in self.peers:
            self.listener.send(peer, Refused(reason=str(error), exit_code=ExitCode.TRANSIENT))

    def _over(self) -> bool:
        while (received := self.oracle.try_receive()) is not None:
            message, _ = received
            if isinstance(message, NoMorePlans):
                return True
            if isinstance(message, Refused):
                raise refusal(message)
        if self.oracle.reconnected():
            self.oracle.send(self.hello)
        if self.oracle.lost:
            raise PeerLost(
                f"server {self.shard.number}: the oracle at {self.oracle.endpoint} has been gone for "
                f"{self.transport.dead_peer_seconds:g} s"
            )
        return False

    def _handle(self, peer: bytes, message: Message, arrays: list[Any]) -> None:
        try:
            match message:
                case Hello():
                    refused = check_hello(message, job=self.hello.job, attempt=self.hello.attempt)
                    self.listener.send(peer, refused or Pong())
                case Fetch():
                    self.gate.fetch(message.after, _Fetch(peer, message, arrays[0]))
                case WriteBack():
                    self._write_back(peer, message, arrays)
                case SnapshotStatus():
                    self.listener.send(peer, self._snapshot_status(message.step))
                case Ping():
                    self.listener.send(peer, Pong())
                case _:
                    log.warning("ignored an unexpected %s", type(message).__name__)
        except (WireError, IndexError, ValueError) as error:
            # A peer that breaks the protocol is told so; it must not end the shard for the others.
            log.warning("refused a %s: %s", type(message).__name__, error)
            self.listener.send(peer, Refused(reason=str(error), exit_code=ExitCode.SOFTWARE))

    def _write_back(self, peer: bytes, message: WriteBack, arrays: list[Any]) -> None:
        """Acknowledged when it is in the tables, not before (`_apply`); what is missing is asked for."""
        what = _WriteBack(peer, message, list(zip(arrays[0::2], arrays[1::2], strict=True)))
        arrival = self.gate.write_back(message.rank, message.step, checkpoint=message.checkpoint, what=what)
        written = int(self.shard.marks.steps[message.rank])
        if arrival == "old":
            self.listener.send(peer, Written(step=written))
        elif arrival == "gap":
            self.listener.send(peer, SendAgain(after=written))

    def _apply(self, what: "_WriteBack") -> None:
        running = self.snapshot if self.snapshot is not None and self.snapshot.running else None
        for group, (keys, records) in enumerate(what.groups):
            if keys.size:
                store = self.shard.stores[group]
                positions = store.positions(keys)
                if running is not None:
                    running.before_write(group, positions)
                store.write(keys, records, positions)
        self.listener.send(what.peer, Written(step=what.message.step))

    def _answer(self, what: "_Fetch") -> None:
        store = self.shard.stores[what.message.group]
        records, values = store.read(what.keys, what.message.num_records)
        self.listener.send(
            what.peer,
            Rows(step=what.message.step, group=what.message.group),
            [records, values],
            packed=what.message.packed,
        )

    def _begin_snapshot(self, step: int) -> None:
        if self.snapshot is not None:
            self.snapshot.wait(SNAPSHOT_SECONDS)
        prefix = f"shard-{self.shard.number:05d}-of-{self.shard.num_shards:05d}"
        directory = directory_of(self.shard.checkpoint_dir, step + 1)
        self.snapshot = self.snapshots[step] = Snapshot(step, self.shard.stores, directory, prefix)
        for old in sorted(self.snapshots)[:-SNAPSHOTS_REMEMBERED]:
            del self.snapshots[old]

    def _snapshot_status(self, step: int) -> SnapshotFiles:
        snapshot = self.snapshots.get(step)
        marks = self.shard.marks
        if snapshot is None and marks.reached(step) and marks.snapshot_due != step:
            return SnapshotFiles(step=step, done=False, lost=True)
        if snapshot is None or (snapshot.files is None and not snapshot.error):
            return SnapshotFiles(step=step, done=False)
        return SnapshotFiles(step=step, done=not snapshot.error, files=snapshot.files or (), error=snapshot.error)


@dataclass(frozen=True, slots=True)
class _Fetch:
    peer: bytes
    message: Fetch
    keys: Keys


@dataclass(frozen=True, slots=True)
class _WriteBack:
    peer: bytes
    message: WriteBack
    groups: list[tuple[Keys, Floats]]
