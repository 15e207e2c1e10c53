"""Once an attempt has begun, no other process is one of its trainers: to no role, and to none that was restarted.

Another process that has the job's token could otherwise take the place of a trainer that has died, or that has not
connected yet, and write rows in its name.
"""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from bagpipe.config.document import DataConfig, Job, JobSpec, Metadata, TransportConfig
from bagpipe.embedding import server
from bagpipe.net.admission import Admission, Speaker, fingerprint
from bagpipe.net.messages import Hello, Refused, Topology, Wait
from bagpipe.net.sockets import Context
from bagpipe.oracle.service import main as oracle
from bagpipe.oracle.service.conversation import Conversation
from bagpipe.oracle.service.kept import Kept
from bagpipe.oracle.service.ledger import StepLedger
from bagpipe.oracle.service.limits import Limits
from bagpipe.oracle.service.rendezvous import Rendezvous
from bagpipe.oracle.service.report import Reporter
from bagpipe.oracle.service.shell import Shell
from bagpipe.tables import Table, TableLayout
from bagpipe.trainer import membership

JOB = Job(metadata=Metadata(name="job"), spec=JobSpec(data=DataConfig(path="x"), lookahead=4))
TOPOLOGY = Topology(
    servers=(),
    trainers=("tcp://127.0.0.1:9",),
    trainer_processes=(fingerprint("the first"),),
    layout=TableLayout.of([Table(name="t", num_embeddings=8, embedding_dim=4, feature_names=("f",))]),
    spec=JOB.spec,
    num_dense=0,
    num_labels=1,
    slots=(8,),
    checkpoint=None,
    checkpoint_dir="checkpoints",
    first_step=0,
    total_steps=None,
)
ORACLE, ANYWHERE = "tcp://127.0.0.1:9", "tcp://127.0.0.1:0"


class Enough(Exception):
    """The role has come as far as the test looks."""


def enough(*_: object, **__: object) -> None:
    raise Enough


def admission_of(role: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Admission]:
    """What the role's listener decides by, once it is made."""
    made: list[Admission] = []

    def noted(*arguments: Any) -> Admission:
        made.append(Admission(*arguments))
        return made[-1]

    monkeypatch.setattr(role, "Admission", noted)
    return made


def of_an_oracle(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Admission:
    """All roles are there, and it tells them the topology."""
    admission = Admission("oracle", "job", 0, "", 1, 1)
    with Context(TransportConfig()) as context, context.listen(ANYWHERE, admission) as listener:
        limits = Limits(startup=60, step=60, dead_peer=60, server_return=60)
        conversation = Conversation(Rendezvous(1, 1), StepLedger(1, 0), limits, 4, answer=Wait())
        reporter = Reporter(folder, attempt=0, log_every=1)
        Shell(TransportConfig(), listener, conversation, reporter, lambda: False).begin(TOPOLOGY)
        reporter.close()
    return admission


def of_an_oracle_that_was_killed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Admission:
    """Its successor finds the topology that was told, and listens."""
    Kept(folder, 0).keep_topology(TOPOLOGY)
    made = admission_of(oracle, monkeypatch)
    monkeypatch.setattr(oracle, "Shell", enough)
    with pytest.raises(Enough):
        oracle.run_oracle(JOB, bind=ANYWHERE, run_dir=folder, attempt=0, checkpoint=None, stop=lambda: False)
    return made[0]


def of_a_server(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Admission:
    """It has registered, for the first time or once more after a kill, and opens its tables."""
    made = admission_of(server, monkeypatch)
    monkeypatch.setattr(server, "register", lambda *_, **__: TOPOLOGY)
    monkeypatch.setattr(server.Shard, "open", enough)
    with pytest.raises(Enough):
        server.run_server(
            oracle=ORACLE,
            bind=ANYWHERE,
            advertise=None,
            shard=0,
            job="job",
            attempt=0,
            data_dir=folder,
            storage="memory",
            checkpoint_dir=None,
            transport=TransportConfig(),
            stop=lambda: False,
        )
    return made[0]


def of_a_trainer(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Admission:
    """It has registered, and the others may connect."""
    made = admission_of(membership, monkeypatch)
    monkeypatch.setattr(membership, "register", lambda *_, **__: TOPOLOGY)
    device = torch.device("cpu")
    with membership.join(
        JOB, oracle=ORACLE, bind=ANYWHERE, advertise=None, rank=0, attempt=0, device=device, stop=lambda: False
    ):
        return made[0]


@pytest.mark.parametrize(
    "admission_when_begun",
    [of_an_oracle, of_an_oracle_that_was_killed, of_a_server, of_a_trainer],
    ids=["oracle", "oracle that was killed", "server", "trainer"],
)
def test_another_process_is_no_trainer(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    admission_when_begun: Callable[[pytest.MonkeyPatch, Path], Admission],
) -> None:
    """Though the place is free and its Hello is right in all else; the process that took part is heard."""
    admission = admission_when_begun(monkeypatch, tmp_path)

    def hello(process: str) -> Hello:
        return Hello(job="job", attempt=0, role="trainer", index=0, process=process)

    refused = admission.check(b"1", hello("another"))
    assert isinstance(refused, Refused) and "another process is trainer 0" in refused.reason
    assert admission.check(b"2", hello("the first")) == Speaker("trainer", 0)
