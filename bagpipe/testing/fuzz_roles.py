"""Sends mutated frames over real sockets to each role, plain and with CURVE, before and after `Hello`.

A role runs as its own command, `bagpipe oracle|server|trainer`; this process plays all other roles. The frames come
from a member of the job, because a stranger gets no frame past the handshake. The role must live and answer, and its
memory must stay bounded. Messages with which a member may end the job, `Refused` and `Stop`, are left out.
"""

import os
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from bagpipe.config.document import Job, JobSpec
from bagpipe.config.load import dump_job
from bagpipe.errors import WireError
from bagpipe.local.ports import free_ports, loopback
from bagpipe.net.admission import TOKEN_VARIABLE
from bagpipe.net.connection import Connection
from bagpipe.net.curve import CURVE_DIR, CurveKeys
from bagpipe.net.listener import Listener
from bagpipe.net.messages import CacheMemory, Hello, Message, Refused, Stop, Topology
from bagpipe.net.sockets import Context
from bagpipe.net.wire import decode, encode
from bagpipe.tables import Table, TableLayout
from bagpipe.testing.mutate_frames import Frames, mutated, sample_messages
from bagpipe.testing.open_door import OpenDoor

Role = Literal["oracle", "server", "trainer"]
ROLES: tuple[Role, ...] = ("oracle", "server", "trainer")
SPEC = {
    "data": {"format": "synthetic", "synthetic": {"examples": 64, "tableSizes": [100]}},
    "embedding": {"dim": 4},
    "batchSize": 8,
    "epochs": 1_000_000,
    "lookahead": 2,
    "evaluate": False,
    "trainers": {"replicas": 2, "device": "cpu"},
    "transport": {"deadPeerSeconds": 60.0},
}
ANSWER_SECONDS = 120.0
AT_ONCE = 200
"""Frames that are sent before the role is asked again whether it answers."""


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """The result of fuzzing one role."""

    role: Role
    security: Literal["plain", "curve"]
    hello: bool
    """After a `Hello` as trainer 0 (of a trainer: as trainer 1)."""
    frames: int
    seconds: float
    grown_mib: float
    """Growth of the role's resident memory."""
    error: str
    """Empty: the role lived and answered to the end."""

    def __str__(self) -> str:
        when = "after Hello" if self.hello else "before Hello"
        what = self.error or f"alive, {self.grown_mib:+.0f} MiB"
        return f"{self.role}, {self.security}, {when}: {self.frames} frames in {self.seconds:.0f} s: {what}"


def fuzz_role(
    role: Role, folder: Path, *, security: Literal["plain", "curve"], hello: bool, frames: int, seed: int
) -> Fuzzed:
    """Start the role, send it so many mutated messages, and see that it lives."""
    begun = time.monotonic()
    with _Stage.of(role, folder, security) as stage:
        victim = stage.connect(hello=hello)
        if (error := stage.ask(victim)) is not None:
            return Fuzzed(role, security, hello, 0, 0.0, 0.0, error)
        before, sent, error = stage.memory(), 0, None
        for batch in _batches(seed, frames):
            for one in batch:
                victim.socket.send_multipart(one or [b""])
            sent += len(batch)
            if (error := stage.ask(victim)) is not None:
                break
        grown = (stage.memory() - before) / 1024 if error is None else 0.0
    return Fuzzed(role, security, hello, sent, time.monotonic() - begun, grown, error or "")


def _batches(seed: int, frames: int) -> Iterator[list[Frames]]:
    batch: list[Frames] = []
    for one in mutated(random.Random(seed), sample_messages(), frames):
        if _is_harmless(one):
            batch.append(one)
        if len(batch) == AT_ONCE:
            yield batch
            batch = []
    yield batch


def _is_harmless(frames: Frames) -> bool:
    """Whether it is none of the messages with which a member ends the job, or registers as another role."""
    try:
        message, _ = decode(frames)
    except WireError:
        return True
    return not isinstance(message, Hello | Refused | Stop)


@dataclass(slots=True)
class _Stage:
    """One role as a process, and the listeners that play the roles it connects to."""

    role: Role
    context: Context
    process: "subprocess.Popen[bytes]"
    log: Path
    endpoint: str
    others: list[Listener]
    connections: list[Connection] = field(default_factory=list)
    questions: int = 0

    @classmethod
    @contextmanager
    def of(cls, role: Role, folder: Path, security: Literal["plain", "curve"]) -> Iterator["_Stage"]:
        folder.mkdir(parents=True)
        if security == "curve":
            CurveKeys.create(folder / "keys")
            os.environ[CURVE_DIR] = str(folder / "keys")
        os.environ[TOKEN_VARIABLE] = secrets.token_hex(16)
        try:
            with ExitStack() as stack:
                yield cls._begin(stack, role, folder)
        finally:
            os.environ.pop(CURVE_DIR, None)
            del os.environ[TOKEN_VARIABLE]

    @classmethod
    def _begin(cls, stack: ExitStack, role: Role, folder: Path) -> "_Stage":
        job = msgspec.convert({"metadata": {"name": "job"}, "spec": SPEC}, Job)
        (folder / "job.yaml").write_text(dump_job(job))
        context = stack.enter_context(Context(job.spec.transport))
        # What the role connects to: the oracle, a server, the other trainer.
        others = [stack.enter_context(context.listen(f"tcp://{loopback()}:0", OpenDoor())) for _ in range(3)]
        endpoint = f"tcp://{loopback()}:{free_ports(1)[0]}"
        command = [sys.executable, "-m", "bagpipe", role, "--job", str(folder / "job.yaml")]
        command += ["--run-dir", str(folder / "run"), "--bind", endpoint]
        command += {
            "oracle": [],
            "server": ["--oracle", others[0].endpoint, "--shard", "0"],
            "trainer": ["--oracle", others[0].endpoint, "--rank", "0"],
        }[role]
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        stack.callback(process.wait)
        stack.callback(process.kill)
        stage = cls(role, context, process, log, endpoint, others)
        if role != "oracle":
            stage._tell_topology(job.spec)
        return stage

    def _tell_topology(self, spec: JobSpec) -> None:
        """Play the oracle, up to the topology."""
        oracle, server, other = self.others
        layout = TableLayout.of([Table(name="t", num_embeddings=100, embedding_dim=4, feature_names=("t",))])
        servers = self.endpoint if self.role == "server" else server.endpoint
        trainer = self.endpoint if self.role == "trainer" else server.endpoint
        topology = Topology(
            servers=(servers,),
            trainers=(trainer, other.endpoint),
            layout=layout,
            spec=spec,
            num_dense=13,
            num_labels=1,
            slots=(100,),
            checkpoint=None,
            checkpoint_dir=str(self.log.parent / "checkpoints"),
            first_step=0,
            total_steps=None,
        )
        limit = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < limit:
            for peer, message, _ in oracle.poll(0.2):
                if isinstance(message, Hello):
                    oracle.send(peer, topology)
                    return
        raise WireError(f"{self.role} did not register; its log: {self.log}")

    def connect(self, *, hello: bool) -> Connection:
        """A member's connection to the role; with `hello` it is a trainer's."""
        if self.role == "oracle":
            # All roles have registered, so plans go out; trainer 1 finishes no step, so the job does not end.
            self._member("server", 0, self.others[1].endpoint)
            self._member("trainer", 1, self.others[2].endpoint)
            if hello:
                return self._member("trainer", 0, self.others[0].endpoint)
        elif hello:
            return self._member("trainer", 1 if self.role == "trainer" else 0, self.others[2].endpoint)
        return self.context.connect(self.endpoint, peer=self.role)

    def _member(self, role: Literal["server", "trainer"], index: int, endpoint: str) -> Connection:
        connection = self.context.connect(self.endpoint, peer=self.role)
        memory = CacheMemory(memory="a machine", num_bytes=1 << 20) if role == "trainer" else None
        connection.send(Hello(job="job", attempt=0, role=role, index=index, endpoint=endpoint, cache=memory))
        self.connections.append(connection)
        return connection

    def ask(self, victim: Connection) -> str | None:
        """None if the role still answers, else why not: it must refuse a `Hello` of a job that does not exist."""
        self.questions += 1
        name = f"question {self.questions}"
        victim.socket.send_multipart(encode(Hello(job=name, attempt=0, role="trainer", index=0)))
        limit = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < limit:
            for other in self.others:
                other.poll(0.0)
            for connection in self.connections:
                if connection is not victim:
                    _drain(connection)
            if any(isinstance(message, Refused) and name in message.reason for message in _drain(victim)):
                return None
            if self.process.poll() is not None:
                last = self.log.read_text(errors="replace").splitlines()[-1:]
                return f"ended with {self.process.returncode}: {''.join(last)[:200]}"
            victim.poll(0.05)
        return f"did not answer within {ANSWER_SECONDS:g} s"

    def memory(self) -> int:
        """Resident memory of the role in KiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def _drain(connection: Connection) -> list[Message]:
    found = []
    while (received := connection.try_receive()) is not None:
        found.append(received[0])
    return found
