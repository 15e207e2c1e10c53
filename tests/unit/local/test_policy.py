"""The supervisor's policy: what follows when a role ends."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe.local.policy import (
    LEAVE_SECONDS,
    REPORT_SECONDS,
    SETTLE_SECONDS,
    Decision,
    End,
    Ended,
    Limits,
    NewAttempt,
    Observed,
    RestartAlone,
    RoleId,
    Wait,
    decide,
)

ORACLE, SERVER, TRAINER, OTHER = RoleId("oracle"), RoleId("server", 0), RoleId("trainer", 0), RoleId("trainer", 1)
EVERYONE = frozenset({ORACLE, SERVER, RoleId("server", 1), TRAINER, OTHER})
LIMITS = Limits(restarts=2, grace_seconds=30, servers_keep_files=True)


def observe(
    *ended: tuple[RoleId, int],
    restarts: dict[RoleId, int] | None = None,
    failed: int = 0,
    stopping: float | None = None,
    quiet: float = 0.0,
    reported: bool = False,
    lacked_room: set[RoleId] | None = None,
) -> Observed:
    gone = {role for role, _ in ended}
    return Observed(
        running=EVERYONE - gone,
        ended=tuple(Ended(role, code) for role, code in ended),
        restarts=restarts or {},
        attempts_failed=failed,
        stopping_seconds=stopping,
        quiet_seconds=quiet,
        reported=reported,
        lacked_room=frozenset(lacked_room or ()),
    )


def everyone_ends(code: int) -> list[tuple[RoleId, int]]:
    return [(role, code if role.kind != "server" else 0) for role in sorted(EVERYONE)]


SETTLED = SETTLE_SECONDS + 0.1
TRAINERS_DONE = [(TRAINER, 0), (OTHER, 0)]

TABLE: list[tuple[str, Observed, Decision]] = [
    ("everything runs", observe(), Wait()),
    ("all done", observe(*everyone_ends(0)), End(0)),
    ("all stopped", observe(*everyone_ends(143), stopping=1), End(143)),
    ("stopped by a signal to one trainer only", observe(*everyone_ends(143)), End(143)),
    ("one trainer done, others soon", observe((TRAINER, 0)), Wait()),
    ("trainers done, oracle about to report", observe(*TRAINERS_DONE), Wait()),
    (
        "trainers done, oracle never reports",
        observe(*TRAINERS_DONE, quiet=REPORT_SECONDS + 1),
        End(75, None, "every trainer left, but the oracle did not report"),
    ),
    ("trainers done, the oracle starts again", observe(*TRAINERS_DONE, quiet=LEAVE_SECONDS + 1), Wait()),
    ("trainers done, oracle killed", observe(*TRAINERS_DONE, (ORACLE, -9)), RestartAlone(Ended(ORACLE, -9))),
    (
        "trainers done, oracle killed too often",
        observe(*TRAINERS_DONE, (ORACLE, -9), restarts={ORACLE: 2}),
        NewAttempt(Ended(ORACLE, -9)),
    ),
    ("oracle killed once it has reported", observe(*TRAINERS_DONE, (ORACLE, -9), reported=True), Wait()),
    (
        "oracle killed once it has reported, a server hangs",
        observe(*TRAINERS_DONE, (ORACLE, -9), quiet=LEAVE_SECONDS + 1, reported=True),
        End(0),
    ),
    (
        "oracle killed once it has reported a stop",
        observe((TRAINER, 143), (OTHER, 143), (ORACLE, -9), quiet=LEAVE_SECONDS + 1, reported=True),
        End(143),
    ),
    ("oracle done, a trainer lingers", observe((ORACLE, 0), (TRAINER, 0)), Wait()),
    ("oracle done, a trainer hangs", observe((ORACLE, 0), (TRAINER, 0), quiet=LEAVE_SECONDS + 1), End(0)),
    ("oracle done, a trainer crashes while leaving", observe((ORACLE, 0), (TRAINER, 0), (OTHER, -11)), Wait()),
    (
        "oracle stopped, a server hangs",
        observe((ORACLE, 143), *[(t, 143) for t in (TRAINER, OTHER)], quiet=99),
        End(143),
    ),
    ("oracle fails to report", observe(*TRAINERS_DONE, (ORACLE, 75), quiet=SETTLED), NewAttempt(Ended(ORACLE, 75))),
    (
        "a full disk: the server alone would fill it again",
        observe((SERVER, 75), quiet=SETTLED, lacked_room={SERVER}),
        NewAttempt(Ended(SERVER, 75)),
    ),
    (
        "a full disk is told before what follows from it",
        observe((ORACLE, 75), (TRAINER, 75), quiet=SETTLED, lacked_room={TRAINER}),
        NewAttempt(Ended(TRAINER, 75)),
    ),
    ("a full disk, the others may say why", observe((SERVER, 75), lacked_room={SERVER}), Wait()),
    ("bad config", observe((TRAINER, 78)), End(78, Ended(TRAINER, 78))),
    ("bad data", observe((ORACLE, 65), (TRAINER, 65)), End(65, Ended(ORACLE, 65))),
    (
        "the oracle's word on the data, and a server that another run refused at the oracle's address",
        observe((SERVER, 78), (ORACLE, 65)),
        End(65, Ended(ORACLE, 65)),
    ),
    ("bad config beats an earlier crash", observe((TRAINER, -9), (ORACLE, 78)), End(78, Ended(ORACLE, 78))),
    ("bad checkpoint at a server", observe((SERVER, 65)), End(65, Ended(SERVER, 65))),
    ("a trainer is killed", observe((TRAINER, -9)), NewAttempt(Ended(TRAINER, -9))),
    ("the first failure is the cause", observe((TRAINER, -9), (OTHER, 75)), NewAttempt(Ended(TRAINER, -9))),
    ("the oracle fails, the others may say why", observe((ORACLE, 75)), Wait()),
    ("the oracle fails, nobody says more", observe((ORACLE, 75), quiet=SETTLED), NewAttempt(Ended(ORACLE, 75))),
    ("an error of the software, the others may say why", observe((ORACLE, 70)), Wait()),
    ("an error of the software", observe((ORACLE, 70), quiet=SETTLED), End(70, Ended(ORACLE, 70))),
    (
        "an error of the software is told before what follows from it",
        observe((ORACLE, 75), (OTHER, 75), (TRAINER, 70), quiet=SETTLED),
        End(70, Ended(TRAINER, 70)),
    ),
    (
        "a bad model is told after what follows from it",
        observe((ORACLE, 75), (TRAINER, 78)),
        End(78, Ended(TRAINER, 78)),
    ),
    (
        "an error that follows from a kill is none of the software",
        observe((OTHER, 70), (TRAINER, -9)),
        NewAttempt(Ended(TRAINER, -9)),
    ),
    ("oracle and server are killed", observe((SERVER, -9), (ORACLE, -9)), RestartAlone(Ended(ORACLE, -9))),
    ("oracle and trainer are killed", observe((ORACLE, -9), (TRAINER, -9)), NewAttempt(Ended(ORACLE, -9))),
    (
        "a trainer dies too often",
        observe((TRAINER, 75), failed=2, quiet=SETTLED),
        End(75, Ended(TRAINER, 75), "and runPolicy.backoffLimit allows 2 new attempts"),
    ),
    ("the oracle is killed", observe((ORACLE, -9)), RestartAlone(Ended(ORACLE, -9))),
    ("the oracle is killed too often", observe((ORACLE, -9), restarts={ORACLE: 2}), NewAttempt(Ended(ORACLE, -9))),
    ("a server is killed", observe((SERVER, -9)), RestartAlone(Ended(SERVER, -9))),
    ("a server is terminated alone", observe((SERVER, 143)), RestartAlone(Ended(SERVER, 143))),
    ("a server dies too often", observe((SERVER, -9), restarts={SERVER: 2}), NewAttempt(Ended(SERVER, -9))),
    (
        "another server's restarts do not count",
        observe((SERVER, -9), restarts={RoleId("server", 1): 2}),
        RestartAlone(Ended(SERVER, -9)),
    ),
    ("a trainer's death comes before a server's", observe((SERVER, -9), (TRAINER, -9)), NewAttempt(Ended(TRAINER, -9))),
    ("a server leaves while the run stops: why is seen in a moment", observe((SERVER, 75), stopping=1), Wait()),
    (
        "a server gave up while the run stops, and nobody else",
        observe((SERVER, 75), stopping=1, quiet=SETTLED),
        RestartAlone(Ended(SERVER, 75)),
    ),
    ("a server dies while the run stops", observe((SERVER, -9), stopping=1), RestartAlone(Ended(SERVER, -9))),
    (
        "a trainer dies while the run stops",
        observe((TRAINER, -9), stopping=1),
        End(137, Ended(TRAINER, -9), "while the run was stopping"),
    ),
    ("asked to stop before it could listen", observe((TRAINER, -15), stopping=1), Wait()),
    ("terminated without being asked", observe((TRAINER, -15)), NewAttempt(Ended(TRAINER, -15))),
    ("stopping takes its time", observe(stopping=29), Wait()),
    ("stopping takes too long", observe(stopping=31), End(75, None, "did not stop within 30 s and was killed")),
]


@pytest.mark.parametrize(("observed", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_table(observed: Observed, expected: Decision) -> None:
    """Each way in which roles can end has the consequence that design section 6 gives it."""
    assert decide(observed, LIMITS) == expected


def test_a_server_without_files_takes_its_rows_along() -> None:
    """With `storage: memory` a dead server means a new attempt, for its rows are gone."""
    limits = Limits(restarts=2, grace_seconds=30, servers_keep_files=False)
    assert decide(observe((SERVER, -9)), limits) == NewAttempt(Ended(SERVER, -9))


CODES = st.sampled_from([0, 1, 65, 70, 75, 78, 143, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGSEGV])


@given(
    codes=st.dictionaries(st.sampled_from(sorted(EVERYONE)), CODES),
    failed=st.integers(0, 3),
    stopping=st.none() | st.floats(0, 60),
)
def test_nobody_left_never_waits(codes: dict[RoleId, int], failed: int, stopping: float | None) -> None:
    """When nothing runs any more the supervisor acts: it never waits for a process that is not there."""
    ended = {role: codes.get(role, 0) for role in EVERYONE}
    assert decide(observe(*ended.items(), failed=failed, stopping=stopping), LIMITS) != Wait()


@given(
    codes=st.dictionaries(st.sampled_from(sorted(EVERYONE)), CODES, min_size=1), stopping=st.none() | st.floats(0, 60)
)
def test_attempts_are_bounded(codes: dict[RoleId, int], stopping: float | None) -> None:
    """Once the back-off limit is used up, no combination of deaths begins another attempt."""
    used_up = observe(
        *codes.items(), failed=2, restarts={SERVER: 2, RoleId("server", 1): 2, RoleId("oracle"): 2}, stopping=stopping
    )
    assert not isinstance(decide(used_up, LIMITS), NewAttempt | RestartAlone)


def test_of_two_kills_the_order_decides_nothing() -> None:
    """Two servers end by different signals while a run stops: the exit code is that of SIGKILL, in any order."""
    ends = [(RoleId("server", 0), -9), (RoleId("server", 1), -15), (RoleId("oracle"), 1)]
    for order in (ends, ends[::-1]):
        decided = decide(observe(*order, stopping=0.0, quiet=LEAVE_SECONDS + 1), LIMITS)
        assert isinstance(decided, End) and decided.code == 137


@given(
    codes=st.dictionaries(st.sampled_from(sorted(EVERYONE)), CODES, min_size=1),
    data=st.data(),
    stopping=st.none() | st.floats(0, 20),
)
def test_the_order_in_which_ends_are_seen_decides_nothing(
    codes: dict[RoleId, int], data: st.DataObject, stopping: float | None
) -> None:
    """Once no other role is about to end, any order of the same ends has the same consequence and exit code."""
    ends = list(codes.items())
    one, other = (
        decide(observe(*order, stopping=stopping, quiet=LEAVE_SECONDS + 1), LIMITS)
        for order in (ends, data.draw(st.permutations(ends)))
    )
    assert type(one) is type(other)
    if isinstance(one, End):
        assert isinstance(other, End) and other.code == one.code


@given(codes=st.dictionaries(st.sampled_from(sorted(EVERYONE)), CODES, min_size=1))
def test_hopeless_codes_end_the_run(codes: dict[RoleId, int]) -> None:
    """A role that ends with 78 or 65 ends the run with that code, whatever else happened."""
    decision = decide(observe(*codes.items()), LIMITS)
    if {65, 78} & set(codes.values()):
        assert isinstance(decision, End)
        assert decision.code in (65, 78)
