"""A trainer's client takes from a server only what it asked for: other rows end in an error that names the server."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pytest

from bagpipe.config.document import TransportConfig
from bagpipe.embedding.client import EmbeddingClient
from bagpipe.errors import BagpipeError, ExitCode, PeerLost, StorageError
from bagpipe.net.listener import Listener
from bagpipe.net.messages import (
    FIRST_READING,
    Fetch,
    Message,
    Refused,
    Rows,
    SnapshotFile,
    SnapshotFiles,
    SnapshotStatus,
)
from bagpipe.net.sockets import Context
from bagpipe.net.wire import Array
from bagpipe.testing.open_door import OpenDoor

WIDTH, DIM = 6, 4
KEYS = np.array([0, 2, 4, 6, 1, 3, 5, 7])
"""Half of them server 0's, half server 1's; records are wanted of the first four, all of server 0."""
VALUES = np.arange(4 * DIM, dtype=np.float32).reshape(4, DIM)
RECORDS = np.arange(4 * WIDTH, dtype=np.float32).reshape(4, WIDTH)
NO_RECORDS, NO_VALUES = np.zeros((0, WIDTH), np.float32), np.zeros((0, DIM), np.float32)
PATIENCE = 100.0


@dataclass
class Job:
    """A client, and the two servers that it asks, whose answers the test writes."""

    client: EmbeddingClient
    servers: list[Listener]

    def asked(self, number: int, kind: type[Message]) -> bytes:
        """Wait until a server has been asked this; returns who asked."""
        ((peer, message, _),) = self.servers[number].poll(PATIENCE)
        assert isinstance(message, kind)
        return peer

    def answer(self, number: int, peer: bytes, message: Message, arrays: tuple[Array, ...] = ()) -> None:
        assert self.servers[number].send(peer, message, arrays)


@pytest.fixture
def job() -> Iterator[Job]:
    with ExitStack() as stack:
        context = stack.enter_context(Context(TransportConfig(dead_peer_seconds=60)))
        servers = [context.listen("tcp://127.0.0.1:0", OpenDoor()) for _ in range(2)]
        connections = [context.connect(one.endpoint, peer=f"server {n}") for n, one in enumerate(servers)]
        client = EmbeddingClient(
            connections, rank=1, widths=[(WIDTH, DIM)], deadline_seconds=PATIENCE, packed=lambda: False
        )
        yield Job(client, servers)


OTHER_ROWS: dict[str, tuple[Array, ...]] = {
    "fewer rows": (NO_RECORDS, VALUES[:3]),
    "one row for all": (NO_RECORDS, VALUES[:1]),
    "a row without its dimension": (NO_RECORDS, VALUES[0]),
    "records for values": (RECORDS, NO_VALUES),
    "rows of another width": (NO_RECORDS, RECORDS),
    "float64": (NO_RECORDS, VALUES.astype(np.float64)),
    "keys": (NO_RECORDS, VALUES.astype(np.int64)),
    "no arrays": (),
    "an array too many": (NO_RECORDS, VALUES, VALUES),
}


@pytest.mark.parametrize("arrays", OTHER_ROWS.values(), ids=OTHER_ROWS)
def test_rows_that_were_not_asked_for_are_named(job: Job, arrays: tuple[Array, ...]) -> None:
    """numpy would spread one row over all, or take whole numbers for rows, and train another model in silence."""
    job.client.fetch(5, 0, KEYS, num_records=4, after=-1)
    job.answer(0, job.asked(0, Fetch), Rows(step=5, group=0), (RECORDS, NO_VALUES))
    peer = job.asked(1, Fetch)
    job.answer(1, peer, Rows(step=5, group=7), (NO_RECORDS, VALUES))  # Nobody has asked for that.
    job.answer(1, peer, Rows(step=5, group=0), arrays)
    with pytest.raises(PeerLost, match=r"trainer 1: embedding server 1 answered the fetch of step 5.*expected float32"):
        job.client.collect(5, 0)


def test_an_answer_that_comes_twice_is_taken_once(job: Job) -> None:
    """Whatever comes after the rows changes them no more."""
    job.client.fetch(5, 0, KEYS, num_records=4, after=-1)
    for number, arrays in enumerate(((RECORDS, NO_VALUES), (NO_RECORDS, VALUES))):
        peer = job.asked(number, Fetch)
        job.answer(number, peer, Rows(step=5, group=0), arrays)
        job.answer(number, peer, Rows(step=5, group=0), tuple(7 * one for one in arrays))
    records, values = job.client.collect(5, 0)
    job.client.poll(0.1)
    assert np.array_equal(records, RECORDS) and np.array_equal(values, VALUES)


def test_rows_that_are_not_needed_any_more_take_no_memory(job: Job) -> None:
    """An evaluation that fails never takes those it has asked for; what still comes of them is dropped."""
    job.client.fetch(FIRST_READING, 0, KEYS, num_records=4, after=-1)
    job.answer(0, job.asked(0, Fetch), Rows(step=FIRST_READING, group=0), (RECORDS, NO_VALUES))
    job.client.poll(PATIENCE)
    job.client.forget(FIRST_READING, 0)
    job.answer(1, job.asked(1, Fetch), Rows(step=FIRST_READING, group=0), (NO_RECORDS, VALUES))
    job.client.poll(PATIENCE)
    job.client.forget(FIRST_READING, 0)
    assert repr(job.client) == "EmbeddingClient(shards=2, fetching=[], reading=0, unwritten=[0, 0])"


def test_only_files_that_were_asked_for_make_a_checkpoint(job: Job) -> None:
    """Answers about other steps are not kept, and a file outside the checkpoint's directory is refused by name."""
    job.client.ask_snapshots(5)
    peers = [job.asked(number, SnapshotStatus) for number in range(2)]
    for step in range(6, 50):
        job.answer(0, peers[0], SnapshotFiles(step=step, done=True))
    ours = (SnapshotFile(name="shard-0/group0-part00000.safetensors", num_bytes=1, sha256="0"),)
    job.answer(0, peers[0], SnapshotFiles(step=5, done=True, files=ours))
    job.client.poll(PATIENCE)
    while not job.client._snapshots:
        job.client.poll(PATIENCE)
    assert list(job.client._snapshots) == [(5, 0)]
    elsewhere = (SnapshotFile(name="../step-1/shard", num_bytes=1, sha256="0"),)
    job.answer(1, peers[1], SnapshotFiles(step=5, done=True, files=elsewhere))
    with pytest.raises(StorageError, match=r"embedding server 1: expected files in .* found '../step-1/shard'"):
        job.client.poll(PATIENCE)


def test_a_server_that_no_attempt_can_help_ends_the_run_for_good(job: Job) -> None:
    """Its refusal of a request and its failure of a snapshot keep their exit code: 78 of a limit, 75 of a full disk."""
    why = "rows: cannot be written: File too large; raise the limit of a file's size (ulimit -f), 64 KiB here"
    job.client.ask_snapshots(5)
    peers = [job.asked(number, SnapshotStatus) for number in range(2)]
    for for_good, code in ((True, ExitCode.BAD_CONFIG), (False, ExitCode.TRANSIENT)):
        job.answer(0, peers[0], SnapshotFiles(step=5, done=False, error=why, for_good=for_good))
        while (answer := job.client._snapshots.get((5, 0))) is None or answer.for_good != for_good:
            job.client.poll(PATIENCE)
        with pytest.raises(StorageError) as failed:
            job.client.snapshots(5)
        assert failed.value.exit_code == code
        assert str(failed.value) == f"embedding server 0: snapshot of step 6 failed: {why}"
        job.answer(0, peers[0], Refused(reason=why, exit_code=code))
        with pytest.raises(BagpipeError) as refused:
            job.client.poll(PATIENCE)
        assert refused.value.exit_code == code
        assert str(refused.value) == f"trainer 1: embedding server 0 refused: {why}"


def test_an_evaluation_has_no_number_of_a_step(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits in vain is told what for; rows of an evaluation were said to be those of step 4503599627370496."""
    monkeypatch.setattr(job.client, "_deadline", 0.0)
    waits = [(5, "step 5 .* reading=0"), (FIRST_READING, r"an evaluation between two steps .*\[\(5, 0\)\], reading=1")]
    for step, words in waits:
        job.client.fetch(step, 0, KEYS, num_records=0, after=-1)
        with pytest.raises(PeerLost, match=f"trainer 1: waited 0 s for rows of {words}"):
            job.client.collect(step, 0)
