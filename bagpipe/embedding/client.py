"""A trainer's client of the embedding servers: it fetches rows, writes rows back, and survives a server's restart.

Keys are spread over shards by `key % num_shards`; a request is split, its answers are put back in the
caller's order. Everything unanswered is kept and sent again when a shard falls silent or reconnects:
fetches and write-backs are idempotent, so an answer that comes twice is ignored.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import structs

from bagpipe.batch import Floats, Keys
from bagpipe.errors import ExitCode, PeerLost, StorageError
from bagpipe.net.array_forms import difference, floats
from bagpipe.net.connection import Connection
from bagpipe.net.messages import (
    FIRST_READING,
    Fetch,
    Message,
    Pong,
    Refused,
    Rows,
    SendAgain,
    SnapshotFiles,
    SnapshotStatus,
    WriteBack,
    Written,
)
from bagpipe.net.register import refusal
from bagpipe.net.sockets import wait

RETRY_SECONDS = 5.0
"""An unanswered request is sent again after so long, in case the server that had it is gone."""
UNWRITTEN_STEPS = 64
"""Most steps whose write-backs may be unacknowledged; bounds the memory kept for sending again."""


@dataclass(slots=True)
class _Part:
    """One shard's part of a fetch: where its rows belong in the answer."""

    request: Fetch
    keys: Keys
    index: npt.NDArray[np.intp]


@dataclass(slots=True)
class _Request:
    """A fetch under way, filled as the shards answer."""

    records: Floats
    values: Floats
    missing: set[int]


@dataclass(slots=True)
class _Server:
    """One server and what it has not answered yet."""

    connection: Connection
    fetches: dict[tuple[int, int], _Part] = field(default_factory=dict)
    write_backs: deque[tuple[WriteBack, list[Any]]] = field(default_factory=deque)
    asked: float = field(default_factory=time.monotonic)
    """When something was last sent or heard."""


class EmbeddingClient:
    """One trainer's requests to all shards. Used by one thread. Every wait ends after `deadline_seconds` in `PeerLost`.

    Args:
        connections: one for each shard, in order.
        widths: (record width, embedding_dim) of each width group.
        packed: whether floats are worth packing at present.
    """

    def __init__(
        self,
        connections: Sequence[Connection],
        *,
        rank: int,
        widths: Sequence[tuple[int, int]],
        deadline_seconds: float,
        packed: Callable[[], bool],
    ) -> None:
        self._servers = [_Server(c) for c in connections]
        self._rank, self._widths, self._deadline = rank, tuple(widths), deadline_seconds
        self._packed = packed
        self._look_around: Callable[[], None] = lambda: None
        self._requests: dict[tuple[int, int], _Request] = {}
        self._snapshots: dict[tuple[int, int], SnapshotFiles] = {}
        self._asked_for: set[int] = set()
        """Steps whose snapshots were asked for and are not complete: answers about any other are dropped."""

    def __repr__(self) -> str:
        unwritten = [len(s.write_backs) for s in self._servers]
        fetching = [(step, group) for step, group in sorted(self._requests) if step < FIRST_READING]
        reading = len(self._requests) - len(fetching)
        return f"EmbeddingClient(shards={len(self._servers)}, {fetching=}, {reading=}, {unwritten=})"

    # ── fetch ─────────────────────────────────────────────────────────────────────────────────────

    def fetch(self, step: int, group: int, keys: Keys, *, num_records: int, after: int) -> None:
        """Ask for rows; the first `num_records` with optimizer state. Returns at once.

        Args:
            step: the step that the rows are for; with `group` it names the request.
            keys: distinct keys of the width group.
            after: the shards answer once every trainer has written back this step.
        """
        record_width, dim = self._widths[group]
        request = _Request(
            records=np.empty((num_records, record_width), np.float32),
            values=np.empty((keys.size - num_records, dim), np.float32),
            missing=set(),
        )
        for number, (index, part) in enumerate(self._split(keys)):
            if index.size:
                wanted = int(np.searchsorted(index, num_records))
                message = Fetch(
                    rank=self._rank, step=step, group=group, after=after, num_records=wanted, packed=self._packed()
                )
                request.missing.add(number)
                server = self._servers[number]
                server.fetches[step, group] = _Part(message, part, index)
                self._send(server, message, [part])
        self._requests[step, group] = request

    def collect(self, step: int, group: int) -> tuple[Floats, Floats]:
        """The rows asked for: records `[num_records, R]` and values `[rest, D]`, in the order asked."""
        self.await_rows(step)
        request = self._requests.pop((step, group))
        return request.records, request.values

    def await_rows(self, step: int) -> None:
        """Wait until every row that was asked for this step is here."""
        requests = [request for (asked, _), request in self._requests.items() if asked == step]
        self._until(lambda: not any(request.missing for request in requests), "rows", step)

    def forget(self, step: int, group: int) -> None:
        """These rows, which were asked for, are not needed after all: what has come of them is freed, and what still
        comes is dropped. Does nothing where they are not under way.
        """
        self._requests.pop((step, group), None)
        for server in self._servers:
            server.fetches.pop((step, group), None)

    def while_waiting(self, look_around: Callable[[], None]) -> None:
        """Call this now and then in every wait: a server may wait for something that this trainer has to do."""
        self._look_around = look_around

    # ── write back ────────────────────────────────────────────────────────────────────────────────

    def write_back(self, step: int, groups: Sequence[tuple[Keys, Floats]], *, checkpoint: bool) -> None:
        """Hand over rows that left after `step`. Goes to every shard, empty or not: it is the watermark."""
        parts = [(self._split(keys), records) for keys, records in groups]
        message = WriteBack(rank=self._rank, step=step, checkpoint=checkpoint)
        for number, server in enumerate(self._servers):
            arrays: list[Any] = []
            for split, records in parts:
                index, keys = split[number]
                arrays += [keys, records if len(self._servers) == 1 else records[index]]
            server.write_backs.append((message, arrays))
            self._send(server, message, arrays)
        self._until(
            lambda: all(len(s.write_backs) <= UNWRITTEN_STEPS for s in self._servers), "earlier write-backs", step
        )

    def await_acknowledgements(self, step: int) -> None:
        """Wait until every shard holds every write-back sent so far."""
        self._until(lambda: not any(s.write_backs for s in self._servers), "write-backs", step)

    # ── checkpoints ───────────────────────────────────────────────────────────────────────────────

    def ask_snapshots(self, step: int) -> None:
        """Ask every shard how far its snapshot of `step` is; the answers come in with `poll`."""
        self._asked_for.add(step)
        for server in self._servers:
            self._send(server, SnapshotStatus(step=step), [])

    def snapshots(self, step: int) -> list[SnapshotFiles] | None:
        """Every shard's files once all snapshots of `step` are on disk, else None.

        Raises:
            StorageError: a shard could not write its snapshot.
        """
        answers = [self._snapshots.get((step, number)) for number in range(len(self._servers))]
        for number, answer in enumerate(answers):
            if answer is not None and answer.error:
                failed = StorageError(f"embedding server {number}: snapshot of step {step + 1} failed: {answer.error}")
                failed.exit_code = ExitCode.BAD_CONFIG if answer.for_good else ExitCode.TRANSIENT
                raise failed
        found = [a for a in answers if a is not None and a.done]
        if len(found) < len(self._servers):
            return None
        self._asked_for.discard(step)
        for number in range(len(self._servers)):
            del self._snapshots[step, number]
        return found

    def snapshot_lost(self, step: int) -> str:
        """Why the snapshot of `step` will never be complete; empty: it may become so."""
        for number in range(len(self._servers)):
            answer = self._snapshots.get((step, number))
            if answer is not None and answer.lost:
                return f"embedding server {number}: {answer.why_lost}"
        return ""

    def snapshot_progress(self, step: int) -> str:
        """Which shards have not finished their snapshots of `step`, and how far they are, for people."""
        parts = []
        for number in range(len(self._servers)):
            answer = self._snapshots.get((step, number))
            if answer is None:
                parts.append(f"embedding server {number} has not answered")
            elif answer.waits_for >= 0:
                parts.append(f"embedding server {number} still writes the checkpoint of step {answer.waits_for + 1}")
            elif not answer.done:
                written, total = answer.written_bytes // 1_000_000, answer.total_bytes // 1_000_000
                parts.append(f"embedding server {number} has written {written} of {total} MB")
        return ", ".join(parts)

    # ── the wire ──────────────────────────────────────────────────────────────────────────────────

    def poll(self, timeout_seconds: float = 0.0) -> None:
        """Take in whatever the servers have answered."""
        for connection in wait([s.connection for s in self._servers], timeout_seconds):
            number = next(n for n, s in enumerate(self._servers) if s.connection is connection)
            while (received := connection.try_receive()) is not None:
                self._accept(number, *received)

    def _split(self, keys: Keys) -> list[tuple[npt.NDArray[np.intp], Keys]]:
        """(positions, keys) of each shard's part; positions ascend, so records stay before values."""
        if len(self._servers) == 1:
            return [(np.arange(keys.size), keys)]
        owner = keys % len(self._servers)
        return [(index := np.flatnonzero(owner == number), keys[index]) for number in range(len(self._servers))]

    def _until(self, ready: Any, what: str, step: int) -> None:
        limit = time.monotonic() + self._deadline
        self.poll()
        while not ready():
            self.poll(0.2)
            self._retry()
            self._look_around()
            if time.monotonic() > limit:
                raise PeerLost(
                    f"trainer {self._rank}: waited {self._deadline:g} s for {what} of {_named(step)} ({self!r}); "
                    "look at the embedding servers' logs"
                )

    def _retry(self) -> None:
        """Send everything unanswered again to a shard that came back, or has been silent for too long."""
        now = time.monotonic()
        for server in self._servers:
            again = server.connection.reconnected() or now - server.asked > RETRY_SECONDS
            if again and (server.fetches or server.write_backs):
                self._send_again(server)

    def _send_again(self, server: _Server) -> None:
        """Everything unanswered, write-backs in their order: a shard takes no step before the one before it."""
        for message, arrays in server.write_backs:
            self._send(server, message, arrays)
        for part in server.fetches.values():
            self._send(server, part.request, [part.keys])

    def _send(self, server: _Server, message: Message, arrays: list[Any]) -> None:
        server.asked = time.monotonic()
        server.connection.send(message, arrays, packed=self._packed())

    def _accept(self, number: int, message: Message, arrays: list[Any]) -> None:
        server = self._servers[number]
        server.asked = time.monotonic()
        match message:
            case Rows():
                self._fill(number, message, arrays)
            case Written():
                while server.write_backs and server.write_backs[0][0].step <= message.step:
                    server.write_backs.popleft()
            case SendAgain():
                self._send_again(server)
            case SnapshotFiles() if message.step in self._asked_for:
                self._snapshots[message.step, number] = _checked(message, number)
            case Refused():
                reason = f"trainer {self._rank}: embedding server {number} refused: {message.reason}"
                raise refusal(structs.replace(message, reason=reason))
            case Pong() | SnapshotFiles():
                pass

    def _fill(self, number: int, message: Rows, arrays: list[Any]) -> None:
        part = self._servers[number].fetches.pop((message.step, message.group), None)
        if part is None:
            return
        request = self._requests[message.step, message.group]
        wanted = part.request.num_records
        record_width, dim = self._widths[message.group]
        if why := difference(arrays, [floats(wanted, record_width), floats(part.keys.size - wanted, dim)]):
            raise PeerLost(
                f"trainer {self._rank}: embedding server {number} answered the fetch of {_named(message.step)}, width "
                f"group {message.group}, with other rows than were asked for: {why}; does it run the same job and code?"
            )
        records, values = arrays
        request.records[part.index[:wanted]] = records
        request.values[part.index[wanted:] - request.records.shape[0]] = values
        request.missing.discard(number)


def _checked(answer: SnapshotFiles, number: int) -> SnapshotFiles:
    """The answer of a shard, whose files lie in the checkpoint's own directory.

    Raises:
        StorageError: one of them lies elsewhere, so the checkpoint would consist of what another program may change.
    """
    for file in answer.files:
        path = PurePosixPath(file.name)
        if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in file.name:
            raise StorageError(
                f"embedding server {number}: expected files in the checkpoint's directory, found {file.name[:100]!r}"
            )
    return answer


def _named(step: int) -> str:
    """A step for people; a reading of rows for an evaluation has a number that means nothing to them."""
    return f"step {step}" if step < FIRST_READING else "an evaluation between two steps"
