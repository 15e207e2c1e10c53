"""Nobody but an admitted role says anything to a listener, and each only what is its to say, in its own name."""

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from bagpipe.errors import ExitCode
from bagpipe.net.admission import MAY_SAY, OF_TRAINER_0, Admission, Held, Speaker, check_hello, fingerprint
from bagpipe.net.messages import (
    PROTOCOL_VERSION,
    Confirmed,
    Exchange,
    Fetch,
    Finished,
    Hello,
    Message,
    NeedPlans,
    NoMorePlans,
    Ping,
    Refused,
    Role,
    Saved,
    SayHello,
    SnapshotStatus,
    StepDone,
    Stop,
    WriteBack,
    Written,
)

RANK = 1
EVERYTHING: tuple[Message, ...] = (
    Fetch(rank=RANK, step=1, group=0, after=-1, num_records=2),
    WriteBack(rank=RANK, step=1, checkpoint=False),
    SnapshotStatus(step=1),
    Saved(rank=RANK, step=1),
    NeedPlans(rank=RANK, step=0, credit=4, done=-1, told_from=0),
    StepDone(rank=RANK, step=1, loss=0.5, num_examples=1, seconds=0.1, waits={}),
    Finished(rank=RANK),
    Stop(rank=RANK),
    Exchange(attempt=0, step=1, source=RANK, kind="dense", through=0),
    Confirmed(attempt=0, source=RANK, through=0),
    Refused(reason="give up", exit_code=65),
    NoMorePlans(step=3),
    Written(step=3),
)


def door(listener: Role, token: str = "") -> Admission:
    return Admission(listener, "job", 0, token, num_trainers=3, num_servers=2)


def hello(role: Role = "trainer", index: int = RANK, **fields: object) -> Hello:
    return Hello(**({"job": "job", "attempt": 0, "role": role, "index": index} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("listener", get_args(Role))
@pytest.mark.parametrize("message", EVERYTHING, ids=lambda m: type(m).__name__)
def test_a_stranger_says_nothing(listener: Role, message: Message) -> None:
    """Before a valid Hello every role answers every message but Ping with SayHello."""
    assert door(listener).check(b"a", message) == SayHello()
    assert door(listener).check(b"a", Ping()) is None


@pytest.mark.parametrize("listener", get_args(Role))
@pytest.mark.parametrize("speaker", ["server", "trainer"])
@pytest.mark.parametrize("message", EVERYTHING, ids=lambda m: type(m).__name__)
def test_a_role_says_only_what_is_its_to_say(listener: Role, speaker: Role, message: Message) -> None:
    """After its Hello a role may send exactly what the table lists for it; anything else is refused by name."""
    admission = door(listener)
    admitted = admission.check(b"a", hello(speaker))
    if speaker not in MAY_SAY[listener]:
        assert isinstance(admitted, Refused)
        assert admission.check(b"a", message) == SayHello()
        return
    assert admitted == Speaker(speaker, RANK)
    verdict, index = admission.check(b"a", message), RANK
    if isinstance(message, OF_TRAINER_0):
        assert isinstance(verdict, Refused)
        admission.check(b"b", hello(speaker, 0))
        said = structs.replace(message, rank=0) if isinstance(message, Saved) else message
        verdict, index = admission.check(b"b", said), 0
    if isinstance(message, MAY_SAY[listener][speaker]):
        assert verdict == Speaker(speaker, index)
    else:
        assert isinstance(verdict, Refused) and type(message).__name__ in verdict.reason


@pytest.mark.parametrize("message", EVERYTHING[:2], ids=lambda m: type(m).__name__)
def test_nobody_speaks_in_the_name_of_another(message: Message) -> None:
    """A write-back or fetch that names another rank than its sender's is refused."""
    admission = door("server")
    admission.check(b"a", hello(index=2))
    verdict = admission.check(b"a", message)
    assert isinstance(verdict, Refused) and "trainer 2" in verdict.reason and "rank 1" in verdict.reason


@pytest.mark.parametrize(
    ("change", "reason", "code"),
    [
        ({"version": PROTOCOL_VERSION + 1}, "protocol", ExitCode.BAD_CONFIG),
        ({"form": "of another"}, "another build of bagpipe", ExitCode.BAD_CONFIG),
        ({"job": "other"}, "belongs to job 'other'", ExitCode.BAD_CONFIG),
        ({"attempt": 2}, "attempt 2", ExitCode.TRANSIENT),
        ({"token": "guess"}, "BAGPIPE_TOKEN", ExitCode.BAD_CONFIG),
        ({"token": "gue\u00dfed"}, "BAGPIPE_TOKEN", ExitCode.BAD_CONFIG),
        (
            {"index": 3},
            "but the job has 2 servers and 3 trainers",
            ExitCode.BAD_CONFIG,
        ),
        ({"role": "oracle"}, "oracle 1 registered", ExitCode.BAD_CONFIG),
    ],
)
def test_a_foreign_hello_is_refused(change: dict[str, object], reason: str, code: ExitCode) -> None:
    """A peer of another version, job or attempt, without the token, or of no place in the job is told why."""
    admission = door("oracle", token="secret")
    refused = admission.check(b"a", hello(**({"token": "secret"} | change)))  # type: ignore[arg-type]
    assert isinstance(refused, Refused) and reason in refused.reason and refused.exit_code == code
    assert admission.check(b"a", Stop(rank=RANK)) == SayHello()
    assert admission.check(b"a", hello(token="secret")) == Speaker("trainer", RANK)


@pytest.mark.parametrize("listener", get_args(Role))
def test_an_attempt_that_has_begun_admits_no_other_process_as_a_trainer(listener: Role) -> None:
    """Also where nobody has the place: after a listener's restart, or when the trainer's connection has just ended. A
    server is admitted, because it may have been started again.
    """
    admission = door(listener)
    admission.begin([fingerprint(f"trainer {rank}") for rank in range(3)])
    if listener == "oracle":
        assert admission.check(b"s", hello("server", process="another")) == Speaker("server", RANK)
    for process in ("", "another", "trainer 2", fingerprint("trainer 1")):
        refused = admission.check(b"b", hello(process=process))
        assert isinstance(refused, Refused) and refused.exit_code == ExitCode.TRANSIENT
        assert "another process is trainer 1 in this attempt" in refused.reason
        assert admission.check(b"b", EVERYTHING[0]) == SayHello()
    for identity in (b"a", b"a"):
        assert admission.check(identity, hello(process="trainer 1")) == Speaker("trainer", RANK)
    admission.forget(b"a")
    assert isinstance(admission.check(b"b", hello(process="another")), Refused)
    assert admission.check(b"c", hello(process="trainer 1")) == Speaker("trainer", RANK)


def test_a_job_without_a_token_admits_no_other_token() -> None:
    """A role that has a token and a listener that has none belong to different runs."""
    assert check_hello(hello(token="secret"), job="job", attempt=0) is not None
    assert check_hello(hello(), job="job", attempt=0) is None


def test_servers_by_worker_id_have_any_number_but_no_more_places() -> None:
    """Servers that are counted by the oracle may have any number; the third of two is refused."""
    admission = door("oracle")
    for identity, index in ((b"a", 17), (b"b", 4)):
        assert admission.check(identity, hello("server", index, by_worker_id=True)) == Speaker("server", index)
    again = admission.check(b"c", hello("server", 17, by_worker_id=True))
    assert again == Held(Speaker("server", 17), holder=b"a")
    assert isinstance(admission.check(b"d", hello("server", 5, by_worker_id=True)), Refused)


@settings(deadline=None)
@given(
    said=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["server", "trainer"]), st.integers(0, 4)), max_size=30),
    gone=st.frozensets(st.integers(0, 30)),
)
def test_a_place_is_held_by_the_first_that_took_it(said: list[tuple[int, Role, int]], gone: frozenset[int]) -> None:
    """Whatever the order of greetings, each role and index speaks through one identity: the first that said so and
    spoke for no other, until it is forgotten.
    """
    admission = door("oracle")
    holder: dict[tuple[Role, int], bytes] = {}
    for turn, (number, role, index) in enumerate(said):
        identity = bytes([number])
        if turn in gone:
            admission.forget(identity)
            holder = {place: by for place, by in holder.items() if by != identity}
        admitted = admission.check(identity, hello(role, index))
        if index >= {"server": 2, "trainer": 3}[role]:
            assert isinstance(admitted, Refused)
        elif any(by == identity and place != (role, index) for place, by in holder.items()):
            assert isinstance(admitted, Refused) and "keeps its role" in admitted.reason
        elif (before := holder.setdefault((role, index), identity)) != identity:
            assert admitted == Held(Speaker(role, index), before)
        else:
            assert admitted == Speaker(role, index)
    for number in range(6):
        found = admission.speaker(bytes([number]))
        places = [place for place, identity in holder.items() if identity == bytes([number])]
        assert ([] if found is None else [(found.role, found.index)]) == places


def test_a_forgotten_peer_is_a_stranger() -> None:
    """A peer whose owner refuses it after its Hello says nothing more before the next one."""
    admission = door("oracle")
    admission.check(b"a", hello())
    admission.forget(b"a")
    assert admission.check(b"a", Stop(rank=RANK)) == SayHello()


def test_a_hello_of_an_earlier_attempt_ends_no_role_of_this_one() -> None:
    """A link that says old messages again says this one on an admitted connection: the role is asked for its own and
    keeps its place; a connection that has said nothing else is refused.
    """
    admission = Admission("server", "job", 1, "", num_trainers=3)
    old, own = hello(attempt=0), hello(attempt=1)
    assert isinstance(admission.check(b"a", old), Refused)
    assert admission.check(b"a", own) == Speaker("trainer", RANK)
    told = admission.check(b"a", old)
    assert isinstance(told, SayHello) and "a Hello of attempt 0 came after one of attempt 1" in told.reason
    assert admission.speaker(b"a") == Speaker("trainer", RANK)


def test_a_connection_keeps_its_role() -> None:
    """Who was admitted as one rank and says Hello as another is refused by name, and takes nobody's place."""
    admission = door("server")
    admission.check(b"a", hello(index=0))
    admission.check(b"b", hello(index=1))
    verdict = admission.check(b"b", hello(index=0))
    assert isinstance(verdict, Refused) and "trainer 1 said Hello as trainer 0" in verdict.reason
    assert admission.speaker(b"a") == Speaker("trainer", 0) and admission.speaker(b"b") == Speaker("trainer", 1)


def test_only_servers_are_counted_by_worker_id() -> None:
    """A trainer has the rank that it says, and one that the job does not have is refused."""
    assert isinstance(door("oracle").check(b"a", hello("server", 7, by_worker_id=True)), Speaker)
    verdict = door("oracle").check(b"a", hello("trainer", 7, by_worker_id=True))
    assert isinstance(verdict, Refused) and "trainer 7" in verdict.reason


def test_who_was_refused_leaves_nothing_behind() -> None:
    """Ten thousand wrong Hellos take no memory and no place, and whoever comes with the right one then is let in."""
    admission = door("server", token="secret")
    for number in range(10_000):
        wrong = hello(token=("", "secre", "secret ", "Secret", "secret" * 10_000)[number % 5])
        assert isinstance(admission.check(number.to_bytes(4, "big"), wrong), Refused)
    assert admission.identities() == []
    assert admission.check((0).to_bytes(4, "big"), hello(token="secret")) == Speaker("trainer", RANK)
