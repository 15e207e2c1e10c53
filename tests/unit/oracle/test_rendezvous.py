"""Who may join a job, and who must not come back empty-handed."""

from typing import Any

import pytest

from bagpipe.errors import ExitCode
from bagpipe.net.messages import Hello
from bagpipe.oracle.service.rendezvous import Rendezvous


def hello(role: str, index: int, **more: Any) -> Hello:
    return Hello(job="job", attempt=0, role=role, index=index, endpoint=f"tcp://{role}:{1 + index}", **more)


def complete() -> Rendezvous:
    meeting = Rendezvous(num_servers=1, num_trainers=2)
    for one in (hello("trainer", 1), hello("server", 0, fresh=True), hello("trainer", 0)):
        assert meeting.register(one) is None
    return meeting


def test_complete_once_everybody_came_in_any_order() -> None:
    """Addresses are listed by index, whatever the order of arrival."""
    meeting = Rendezvous(num_servers=1, num_trainers=2)
    meeting.register(hello("trainer", 1))
    assert not meeting.complete and meeting.missing() == "server 0, trainer 0"
    meeting = complete()
    assert meeting.complete and meeting.missing() == "none"
    assert meeting.trainer_endpoints() == ("tcp://trainer:1", "tcp://trainer:2")


@pytest.mark.parametrize(("role", "index"), [("trainer", 2), ("server", 1), ("oracle", 0)])
def test_roles_that_the_job_does_not_have_are_refused(role: str, index: int) -> None:
    """A stray role is told what the job consists of."""
    refused = complete().register(hello(role, index))
    assert (
        refused is not None
        and "1 servers and 2 trainers" in refused.reason
        and refused.exit_code == ExitCode.BAD_CONFIG
    )


def test_a_place_is_taken_by_one_process() -> None:
    """The same address may register again, another one may not."""
    meeting = complete()
    assert meeting.register(hello("trainer", 1)) is None
    other = Hello(job="job", attempt=0, role="trainer", index=1, endpoint="tcp://elsewhere:1")
    refused = meeting.register(other)
    assert refused is not None and refused.exit_code == ExitCode.TRANSIENT


def test_a_server_that_lost_its_rows_ends_the_attempt() -> None:
    """Before training begins nothing can be lost; afterwards only a server with its files is welcome."""
    meeting = complete()
    assert meeting.rows_lost(hello("server", 0, fresh=True)) is None
    meeting.begin([])
    assert meeting.rows_lost(hello("server", 0)) is None
    refused = meeting.rows_lost(hello("server", 0, fresh=True))
    assert refused is not None and refused.exit_code == ExitCode.TRANSIENT


def test_a_server_that_a_killed_oracle_has_not_told_has_lost_nothing() -> None:
    """A process that the topology was made for is welcome without rows; another one in its place is not."""
    meeting = Rendezvous(num_servers=1, num_trainers=0)
    meeting.register(hello("server", 0, fresh=True, process="first"))
    restarted = Rendezvous(num_servers=1, num_trainers=0)
    restarted.begin(meeting.server_processes())
    assert restarted.rows_lost(hello("server", 0, fresh=True, process="first")) is None
    assert restarted.rows_lost(hello("server", 0, fresh=True, process="second")) is not None
    assert restarted.rows_lost(hello("server", 0, fresh=True)) is not None


def test_servers_known_by_worker_id_are_numbered_in_that_order() -> None:
    """Any ids, around those of the others; one too many is refused."""
    meeting = Rendezvous(num_servers=2, num_trainers=1)
    assert meeting.register(hello("server", 7, by_worker_id=True)) is None
    assert meeting.missing() == "a server, trainer 0"
    assert meeting.register(hello("server", 0, by_worker_id=True)) is None
    assert meeting.register(hello("server", 7, by_worker_id=True)) is None
    assert meeting.register(hello("server", 3, by_worker_id=True)) is not None
    assert meeting.server_endpoints() == ("tcp://server:1", "tcp://server:8")


@pytest.mark.parametrize("endpoint", ["", "garbage", "tcp://host", "tcp://*:1", "tcp://host:0", "x" * 60_000])
def test_a_role_that_nobody_can_reach_is_refused_itself(endpoint: str) -> None:
    """Its address would go to every other role, and end each of them with an error of its own."""
    refused = Rendezvous(1, 1).register(Hello(job="job", attempt=0, role="trainer", index=0, endpoint=endpoint))
    assert refused is not None and refused.exit_code == ExitCode.BAD_CONFIG
    assert "trainer 0 is nowhere to be reached" in refused.reason and len(refused.reason) < 1000


def test_roles_are_counted_one_way_only() -> None:
    """Servers by their shards or all by worker ids, and trainers by their ranks: no place is one that nobody has."""
    meeting = Rendezvous(num_servers=2, num_trainers=1)
    assert meeting.register(hello("trainer", 7, by_worker_id=True)) is not None
    assert meeting.register(hello("server", 1)) is None
    assert meeting.register(hello("server", 0, by_worker_id=True)) is not None
    assert meeting.register(hello("server", 0)) is None
    assert meeting.register(hello("trainer", 0)) is None and meeting.complete
