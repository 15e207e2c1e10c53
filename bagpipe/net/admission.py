"""Decides who may talk to a listener, and which messages each may send. Pure.

A peer is a socket's identity until it says `Hello`: of this version, job and attempt, with the job's token, as a role
and index that the job has. From then on that identity *is* that role, and may send the messages that `MAY_SAY` lists
for it, in its own name only. Every other message is refused, and never reaches the code behind the listener.

A role and index is one identity's until that is forgotten. An identity is a secret of the process that made it
(`sockets.py`), so another one with the same role is another process, even if it has the job's token, as all roles do.
Once the attempt has begun, its trainers are known by `Hello.process`, and another process is refused even where the
trainer's connection is gone or this listener was restarted: a trainer that died ends the attempt.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bagpipe.errors import ExitCode
from bagpipe.net.form import form
from bagpipe.net.messages import (
    PROTOCOL_VERSION,
    Confirmed,
    Exchange,
    Fetch,
    Finished,
    Hello,
    Message,
    NeedPlans,
    NeedValidation,
    Ping,
    Refused,
    Role,
    Saved,
    SayHello,
    SnapshotStatus,
    StepDone,
    Stop,
    ValidationOutputs,
    WriteBack,
)

TOKEN_VARIABLE = "BAGPIPE_TOKEN"  # noqa: S105  # a name
"""Names the environment variable that holds the job's secret. `bagpipe run` makes one for its roles. Where it is empty
the job has none, and CURVE or a closed network has to keep strangers out."""

MAY_SAY: Mapping[Role, Mapping[Role, tuple[type[Message], ...]]] = {
    "oracle": {
        "trainer": (NeedPlans, StepDone, NeedValidation, ValidationOutputs, Saved, Finished, Stop, Refused),
        "server": (Refused,),
    },
    "server": {"trainer": (Fetch, WriteBack, SnapshotStatus)},
    "trainer": {"trainer": (Exchange, Confirmed)},
}
"""By the listener's role and the speaker's: the messages that may be sent, beside `Hello` and `Ping`."""

OF_TRAINER_0 = (Saved, SnapshotStatus)
"""What only the trainer says that completes checkpoints."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """Whom an identity was admitted as."""

    role: Role
    index: int

    def __str__(self) -> str:
        return f"{self.role} {self.index}"


@dataclass(frozen=True, slots=True)
class Held:
    """A valid `Hello` as a role whose place another identity has: it is admitted once that is forgotten."""

    speaker: Speaker
    holder: bytes


@dataclass(slots=True)
class Admission:
    """The peers of one listener. Remembers one identity for each role and index, so its memory is bounded.

    Args:
        listener: the role that listens.
        job, attempt, token: what a `Hello` has to name; `token` is empty where the job has no secret.
        num_trainers, num_servers: how many of each the job has.
    """

    listener: Role
    job: str
    attempt: int
    token: str
    num_trainers: int
    num_servers: int = 0
    _trainers: Sequence[str] = ()
    """`Topology.trainer_processes`; empty before the attempt has begun."""
    _speakers: dict[bytes, Speaker] = field(default_factory=dict)
    _identities: dict[Speaker, bytes] = field(default_factory=dict)

    def check(self, identity: bytes, message: Message) -> Speaker | Held | SayHello | Refused | None:
        """The speaker, if it may send this message; otherwise the answer that it gets. None: `Ping`, which any peer may
        send. `Held`: whether the place is free is for the listener to find out.

        A valid `Hello` binds the identity to its role for good, unless another identity has that role.
        """
        if isinstance(message, Ping):
            return None
        if isinstance(message, Hello):
            return self._admit(identity, message)
        speaker = self._speakers.get(identity)
        if speaker is None:
            return SayHello()
        if not isinstance(message, MAY_SAY[self.listener].get(speaker.role, ())):
            return _broken(f"{speaker} sent a {type(message).__name__}, which is not its to say to the {self.listener}")
        named = _index_named_by(message)
        if named is not None and named != speaker.index:
            return _broken(f"{speaker} sent a {type(message).__name__} in the name of rank {named}")
        if isinstance(message, OF_TRAINER_0) and speaker.index:
            return _broken(f"{speaker} sent a {type(message).__name__}, which is only trainer 0's to say")
        return speaker

    def begin(self, trainer_processes: Sequence[str]) -> None:
        """The attempt has begun with these trainers, as `Topology.trainer_processes` names them."""
        self._trainers = trainer_processes

    def speaker(self, identity: bytes) -> Speaker | None:
        """Whom this identity was admitted as."""
        return self._speakers.get(identity)

    def identities(self) -> list[bytes]:
        """All that are admitted now."""
        return list(self._speakers)

    def forget(self, identity: bytes) -> None:
        """Admit this identity no longer, if it was admitted."""
        speaker = self._speakers.pop(identity, None)
        if speaker is not None and self._identities.get(speaker) == identity:
            del self._identities[speaker]

    def _admit(self, identity: bytes, hello: Hello) -> Speaker | Held | SayHello | Refused:
        if identity in self._speakers and hello.attempt != self.attempt:
            # It is of this attempt; a link that says old messages again has said this one.
            return SayHello(reason=f"a Hello of attempt {hello.attempt} came after one of attempt {self.attempt}")
        refused = check_hello(hello, job=self.job, attempt=self.attempt, token=self.token)
        if refused is not None:
            return refused
        speaker = Speaker(hello.role, hello.index)
        if hello.role not in MAY_SAY[self.listener] or not self._has_place(speaker, by_worker_id=hello.by_worker_id):
            return Refused(
                reason=f"{speaker} registered with the {self.listener}, but the job has {self.num_servers} servers and "
                f"{self.num_trainers} trainers; start each role with the job file of this job",
                exit_code=ExitCode.BAD_CONFIG,
            )
        if (known := self._speakers.get(identity, speaker)) != speaker:
            return _broken(f"{known} said Hello as {speaker} on the same connection, which keeps its role")
        if speaker.role == "trainer" and not self._took_part(hello):
            return Refused(
                reason=f"another process is {speaker} in this attempt; expected one process for each role: end this "
                "one, or start it again with the attempt that follows",
                exit_code=ExitCode.TRANSIENT,
            )
        if (holder := self._identities.get(speaker, identity)) != identity:
            return Held(speaker, holder)
        self._speakers[identity], self._identities[speaker] = speaker, identity
        return speaker

    def _took_part(self, hello: Hello) -> bool:
        """Whether this process was the trainer of its rank when the attempt began, if it has begun."""
        known = self._trainers[hello.index : hello.index + 1]
        return not known or hmac.compare_digest(known[0].encode(), fingerprint(hello.process).encode())

    def _has_place(self, speaker: Speaker, *, by_worker_id: bool) -> bool:
        count = self.num_servers if speaker.role == "server" else self.num_trainers
        if by_worker_id and speaker.role == "server":
            # Any numbers that differ: the oracle counts the shards in their order.
            return speaker in self._identities or sum(s.role == speaker.role for s in self._identities) < count
        return speaker.index < count


def fingerprint(process: str) -> str:
    """What all roles may know of `Hello.process`: it shows who is the process that has that name, and not the name."""
    return hashlib.sha256(process.encode()).hexdigest()


def check_hello(hello: Hello, *, job: str, attempt: int, token: str = "") -> Refused | None:
    """Refuse a peer of another version, build, job or attempt, or without the job's token; None if it belongs here."""
    who = f"{hello.role} {hello.index}"
    if hello.version != PROTOCOL_VERSION:
        return Refused(
            reason=f"{who} speaks protocol {hello.version}, this one {PROTOCOL_VERSION}; "
            "run the same version of bagpipe everywhere",
            exit_code=ExitCode.BAD_CONFIG,
        )
    if hello.form not in ("", form()):
        return Refused(
            reason=f"{who} is of another build of bagpipe: its messages have the form {hello.form[:64]!r}, ours have "
            f"{form()!r}; run the same build (images of one release) everywhere",
            exit_code=ExitCode.BAD_CONFIG,
        )
    if hello.job != job:
        return Refused(
            reason=f"{who} belongs to job {hello.job[:64]!r}, this is {job!r}; check the addresses",
            exit_code=ExitCode.BAD_CONFIG,
        )
    if not hmac.compare_digest(hello.token.encode(), token.encode()):
        return Refused(
            reason=f"{who} does not have the token of job {job!r}; start every role with the same $BAGPIPE_TOKEN",
            exit_code=ExitCode.BAD_CONFIG,
        )
    if hello.attempt != attempt:
        return Refused(
            reason=f"{who} is of attempt {hello.attempt}, this is attempt {attempt}", exit_code=ExitCode.TRANSIENT
        )
    return None


def _index_named_by(message: Message) -> int | None:
    """The rank in whose name this is said, if it names one."""
    match message:
        case Fetch() | WriteBack() | NeedPlans() | StepDone() | Saved() | Finished() | Stop():
            return message.rank
        case NeedValidation() | ValidationOutputs():
            return message.rank
        case Exchange() | Confirmed():
            return message.source
        case _:
            return None


def _broken(reason: str) -> Refused:
    return Refused(reason=reason, exit_code=ExitCode.SOFTWARE)
