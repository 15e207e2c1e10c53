"""A real embedding server behind a real socket: what is wrong is refused to its sender, and changes nothing."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import zmq

from bagpipe.batch import Floats
from bagpipe.config.document import DataConfig, EmbeddingConfig, JobSpec, RowOptimizer, TransportConfig
from bagpipe.embedding.server import run_server
from bagpipe.errors import ConfigError
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
    SayHello,
    SnapshotFiles,
    SnapshotStatus,
    Topology,
    WriteBack,
    Written,
)
from bagpipe.net.sockets import Context
from bagpipe.net.wire import Array, decode, encode
from bagpipe.tables import Table, TableLayout
from bagpipe.testing.mutate_frames import mutated
from bagpipe.testing.open_door import OpenDoor

TRANSPORT = TransportConfig(dead_peer_seconds=5)
LAYOUT = TableLayout.of([Table(name="t", num_embeddings=64, embedding_dim=4, feature_names=("f",))])
SPEC = JobSpec(
    data=DataConfig(path="x"), embedding=EmbeddingConfig(dim=4, optimizer=RowOptimizer(name="sgd")), lookahead=4
)
OURS = np.arange(0, 64, 2, dtype=np.int64)
"""Keys of shard 0 of 2."""
NO_ROWS: list[Array] = [np.zeros(0, np.int64), np.zeros((0, 4), np.float32)]

PATIENCE = 100.0
"""Seconds, far above what any wait here takes."""


@dataclass
class Job:
    """An oracle that gives out one topology, and a server's thread; trainers are the test's own connections."""

    context: Context
    oracle: Listener
    data: Path
    failed: list[BaseException] = field(default_factory=list)
    endpoint: str = ""
    server: bytes = b""
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        ((self.server, hello, _),) = self.oracle.poll(PATIENCE)
        assert isinstance(hello, Hello)
        self.endpoint = hello.endpoint
        topology = Topology(
            servers=(self.endpoint, "tcp://127.0.0.1:9"),
            trainers=("tcp://127.0.0.1:1", "tcp://127.0.0.1:2"),
            layout=LAYOUT,
            spec=SPEC,
            num_dense=0,
            num_labels=1,
            slots=(32,),
            checkpoint=None,
            checkpoint_dir=str(self.data / "checkpoints"),
            first_step=0,
            total_steps=None,
        )
        self.oracle.send(self.server, topology)

    def end(self) -> None:
        """The job is over; the server must have lived until here."""
        assert self._thread is not None and self._thread.is_alive() and not self.failed
        self.oracle.send(self.server, NoMorePlans(step=9))
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive() and not self.failed

    def trainer(self, rank: int) -> Connection:
        connection = self.context.connect(self.endpoint, peer="server")
        connection.send(Hello(job="job", attempt=0, role="trainer", index=rank))
        assert isinstance(answer(connection), Pong)
        return connection

    def _serve(self) -> None:
        try:
            run_server(
                oracle=self.oracle.endpoint,
                bind="tcp://127.0.0.1:0",
                advertise=None,
                shard=0,
                job="job",
                attempt=0,
                data_dir=self.data / "rows",
                storage="file",
                checkpoint_dir=None,
                transport=TRANSPORT,
                stop=lambda: False,
            )
        except BaseException as error:  # noqa: BLE001  # whatever ended it fails the test
            self.failed.append(error)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    with Context(TRANSPORT) as context:
        made = Job(context, context.listen("tcp://127.0.0.1:0", OpenDoor()), tmp_path)
        made.start()
        yield made
        made.end()


def answer(connection: Connection) -> Message:
    return connection.receive(PATIENCE, waiting_for="an answer", step=None)[0]


def ask(connection: Connection, message: Message, arrays: Sequence[Array] = ()) -> Message:
    connection.send(message, arrays)
    return answer(connection)


def write(rank: int, step: int, keys: npt.ArrayLike, value: float) -> tuple[WriteBack, list[Array]]:
    array = np.array(keys, np.int64)
    return WriteBack(rank=rank, step=step, checkpoint=False), [array, np.full((array.size, 4), value, np.float32)]


def rows(connection: Connection, step: int, keys: npt.NDArray[np.int64], after: int) -> Floats:
    """The records of these keys, once every trainer has written `after`."""
    connection.send(Fetch(rank=0, step=step, group=0, after=after, num_records=keys.size), [keys])
    message, (records, _) = connection.receive(PATIENCE, waiting_for="rows", step=step)
    assert isinstance(message, Rows)
    return records


def zeroth(*arrays: Array) -> tuple[WriteBack, list[Array]]:
    return WriteBack(rank=0, step=0, checkpoint=False), list(arrays)


WRONG_WRITE_BACKS: dict[str, tuple[WriteBack, list[Array]]] = {
    "a key of another shard": write(0, 0, [0, 1], 1.0),
    "a key of no table": write(0, 0, [0, 64], 1.0),
    "a negative key": write(0, 0, [-2], 1.0),
    "a new key twice": write(0, 0, [4, 4, 4], 1.0),
    "float64 records": zeroth(OURS[:2], np.ones((2, 4))),
    "records too wide": zeroth(OURS[:2], np.ones((2, 5), np.float32)),
    "records too few": zeroth(OURS[:2], np.ones((1, 4), np.float32)),
    "int32 keys": zeroth(OURS[:1].astype(np.int32), np.ones((1, 4), np.float32)),
    "keys in two dimensions": zeroth(OURS[:4].reshape(2, 2), np.ones((4, 4), np.float32)),
    "no arrays": zeroth(),
    "a group too many": zeroth(*NO_ROWS, *NO_ROWS),
    "more rows than two caches hold": write(0, 0, np.zeros(65), 1.0),
    "the name of another": write(1, 0, [0], 1.0),
    "a rank that the job has not": write(7, 0, [0], 1.0),
}
WRONG_FETCHES: dict[str, tuple[Fetch, list[Array]]] = {
    "float keys": (Fetch(rank=0, step=1, group=0, after=0, num_records=0), [np.zeros(3, np.float32)]),
    "a key of another shard": (Fetch(rank=0, step=1, group=0, after=0, num_records=0), [OURS[:3] + 1]),
    "a width group that is none": (Fetch(rank=0, step=1, group=9, after=0, num_records=0), [OURS[:3]]),
    "more records than keys": (Fetch(rank=0, step=1, group=0, after=0, num_records=4), [OURS[:3]]),
    "more keys than a cache has": (Fetch(rank=0, step=1, group=0, after=0, num_records=0), [np.zeros(33, np.int64)]),
    "no keys": (Fetch(rank=0, step=1, group=0, after=0, num_records=0), []),
    "a step that waits for itself": (Fetch(rank=0, step=1, group=0, after=1, num_records=0), [OURS[:3]]),
}


def test_a_wrong_request_changes_nothing_and_leaves_no_hole(job: Job) -> None:
    """Every wrong write-back and fetch is refused to its sender, and the right write-back of that step counts."""
    first, second = job.trainer(0), job.trainer(1)
    before = rows(first, 1, OURS, -1)
    for name, (message, arrays) in WRONG_WRITE_BACKS.items():
        assert isinstance(ask(first, message, arrays), Refused), name
    for name, (fetch, arrays) in WRONG_FETCHES.items():
        assert isinstance(ask(first, fetch, arrays), Refused), name
    assert np.array_equal(rows(first, 2, OURS, -1), before)
    assert ask(first, *write(0, 0, [0, 2], 7.0)) == Written(step=0)
    assert ask(second, *write(1, 0, [4], 8.0)) == Written(step=0)
    assert second.try_receive() is None
    assert rows(first, 3, OURS[:4], 0)[:, 0].tolist() == [7, 7, 8, before[3, 0]]


def test_a_fetch_waits_for_every_trainer_and_goes_to_its_sender(job: Job) -> None:
    """A fetch that waits is answered to its sender, when the last trainer has written, with the rows of that moment."""
    first, second = job.trainer(0), job.trainer(1)
    first.send(Fetch(rank=0, step=2, group=0, after=0, num_records=2), [OURS[:2]])
    assert ask(second, *write(1, 0, [2], 5.0)) == Written(step=0)
    assert ask(first, *write(0, 0, [0], 4.0)) == Written(step=0)
    message, (records, _) = first.receive(PATIENCE, waiting_for="rows", step=2)
    assert message == Rows(step=2, group=0) and records[:, 0].tolist() == [4, 5]
    assert second.try_receive() is None


def test_a_restarted_oracle_hears_that_the_rows_are_here(job: Job) -> None:
    """A server says Hello again to the oracle's next process, and that it has the rows of this attempt."""
    first, second = job.trainer(0), job.trainer(1)
    for trainer, rank in ((first, 0), (second, 1)):
        assert ask(trainer, *write(rank, 0, [4 * rank], 3.0)) == Written(step=0)
    address = job.oracle.endpoint
    job.oracle.close()
    deadline = time.monotonic() + PATIENCE
    while True:  # zmq closes a listener in the background
        try:
            job.oracle = job.context.listen(address, OpenDoor())
            break
        except ConfigError:
            assert time.monotonic() < deadline
    ((job.server, hello, _), *_) = job.oracle.poll(PATIENCE)
    assert isinstance(hello, Hello) and not hello.fresh and hello.endpoint == job.endpoint
    assert rows(first, 2, OURS[:1], 0)[0, 0] == 3


def snapshot_of(connection: Connection, step: int) -> SnapshotFiles:
    """What the server says of this step's snapshot once it is done, or lost."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = ask(connection, SnapshotStatus(step=step))
        assert isinstance(found, SnapshotFiles) and time.monotonic() < deadline
        if found.done or found.lost:
            return found


def test_a_snapshot_that_a_killed_server_did_not_finish_is_taken_again(tmp_path: Path) -> None:
    """As long as nothing was written since, its rows are still there; once anything was, it is lost."""
    with Context(TRANSPORT) as context:
        taken = []
        for _ in range(2):  # The second process goes on with the files of the first one, and knows of no snapshot.
            job = Job(context, context.listen("tcp://127.0.0.1:0", OpenDoor()), tmp_path)
            job.start()
            trainers = [job.trainer(0), job.trainer(1)]
            for rank, trainer in enumerate(trainers):
                flagged = WriteBack(rank=rank, step=0, checkpoint=True)
                ask(trainer, flagged, [OURS[rank : rank + 1], np.ones((1, 4), np.float32)])
            taken.append(snapshot_of(trainers[0], 0))
            job.end()
        assert taken[0].done and taken[1] == taken[0]
        job = Job(context, context.listen("tcp://127.0.0.1:0", OpenDoor()), tmp_path)
        job.start()
        second = job.trainer(1)
        assert ask(second, *write(1, 1, [4], 8.0)) == Written(step=1)
        assert snapshot_of(job.trainer(0), 0).lost
        job.end()


def test_no_snapshot_is_taken_of_a_step_before_the_attempt(job: Job) -> None:
    """Before the first write the rows are those of the checkpoint that it began from, whose files must stay."""
    told = ask(job.trainer(0), SnapshotStatus(step=-1))
    assert isinstance(told, Refused) and "from 0 on, found -1" in told.reason
    assert not (job.data / "checkpoints").exists()


def test_strangers_and_noise_change_nothing(job: Job) -> None:
    """Without a Hello nothing is read or written; five hundred damaged messages, also from a trainer, end nothing."""
    first, second = job.trainer(0), job.trainer(1)
    before = rows(first, 1, OURS, -1)
    samples = [write(0, 0, OURS, 9.0), write(1, 0, OURS[:3], 9.0), (SnapshotStatus(step=3), [])]
    with zmq.Context() as outside:
        stranger = outside.socket(zmq.DEALER)
        stranger.connect(job.endpoint)
        for message, arrays in [*samples, (Fetch(rank=0, step=1, group=0, after=-1, num_records=1), [OURS])]:
            stranger.send_multipart(encode(message, arrays))
            assert stranger.poll(20_000) and decode(stranger.recv_multipart())[0] == SayHello()
        wrong = Hello(job="job", attempt=0, role="trainer", index=1, token="guess")
        stranger.send_multipart(encode(wrong))
        assert stranger.poll(20_000) and isinstance(decode(stranger.recv_multipart())[0], Refused)
        noise = [*mutated(random.Random(1), [(Ping(), []), *samples], 400)]
        for frames in noise:
            stranger.send_multipart(frames or [b""])
        stranger.close(0)
    # A damaged write-back that is still one would be taken from a trainer, so it sends those of no rows.
    for frames in mutated(random.Random(2), [(Ping(), []), (SnapshotStatus(step=3), [])], 100):
        second.send_frames(frames or [b""])
    deadline = time.monotonic() + PATIENCE
    second.send(WriteBack(rank=1, step=0, checkpoint=False), NO_ROWS)
    while answer(second) != Written(step=0):
        assert time.monotonic() < deadline
    assert ask(first, WriteBack(rank=0, step=0, checkpoint=False), NO_ROWS) == Written(step=0)
    assert np.array_equal(rows(first, 2, OURS, 0), before)
