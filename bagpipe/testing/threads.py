"""A whole job in one process, every role a thread: real sockets, real planner, real shards.

What it leaves out is processes: starting them takes longer than training a test's few steps. The
grid of exactness tests runs this way; `tests/integration` runs the same jobs as processes.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bagpipe.config.document import Job
from bagpipe.embedding.server import run_server
from bagpipe.errors import PeerLost
from bagpipe.local.ports import free_ports, loopback
from bagpipe.oracle.service.main import run_oracle
from bagpipe.trainer.loop import run_trainer


@dataclass(slots=True)
class ThreadedRun:
    """Result of `run_in_threads`: the oracle's report, and where everything lies."""

    run_dir: Path
    report: dict[str, Any]

    @property
    def losses(self) -> list[float]:
        """Loss of every logged step (every step with `logEvery: 1`)."""
        lines = (self.run_dir / "metrics.jsonl").read_text().splitlines()
        return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


TOLD_SECONDS = 2.0
"""In which a role ends by itself once the oracle has told it that the run failed."""


@dataclass(slots=True)
class _Failures:
    """Errors of the role threads; the first one is what the run died of."""

    errors: list[tuple[str, BaseException]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def catch(self, name: str, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:  # every role's end is collected and raised by the caller
            with self.lock:
                self.errors.append((name, error))


def run_in_threads(
    job: Job,
    run_dir: Path,
    *,
    attempt: int = 0,
    checkpoint: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
    timeout_seconds: float = 120.0,
) -> ThreadedRun:
    """Run one attempt of `job` to its end.

    Raises:
        Whatever the first role to fail raised; PeerLost if a role outlives the timeout.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    failures, over = _Failures(), threading.Event()
    roles = _roles(job, run_dir, attempt=attempt, checkpoint=checkpoint, stop=stop, over=over.is_set)
    threads = [
        threading.Thread(target=failures.catch, args=(name, run), name=name, daemon=True) for name, run in roles.items()
    ]
    for thread in threads:
        thread.start()
    oracle, *others = threads
    oracle.join(timeout_seconds)
    if failures.errors:
        # Who was connected has been told why. Who was not yet would wait for an oracle until its own deadline; where
        # roles are processes, a supervisor ends it.
        for thread in others:
            thread.join(TOLD_SECONDS)
        over.set()
    for thread in threads:
        thread.join(timeout_seconds)
        if thread.is_alive() and not failures.errors:
            raise PeerLost(f"{thread.name} was still running after {timeout_seconds:g} s")
    if failures.errors:
        raise failures.errors[0][1]
    return ThreadedRun(run_dir, json.loads((run_dir / "report.json").read_text()))


def _roles(
    job: Job,
    run_dir: Path,
    *,
    attempt: int,
    checkpoint: Path | None,
    stop: Callable[[], bool],
    over: Callable[[], bool],
) -> dict[str, Callable[[], None]]:
    """What each role of the job runs, by the role's name; the oracle's is the first.

    Args:
        over: whether the oracle has failed, so that the others are to end too.
    """
    spec = job.spec
    oracle = f"tcp://{loopback()}:{free_ports(1)[0]}"
    checkpoints = spec.checkpoint.folder(run_dir)

    def the_oracle() -> None:
        run_oracle(job, bind=oracle, run_dir=run_dir, attempt=attempt, checkpoint=checkpoint, stop=stop)

    def server(shard: int) -> Callable[[], None]:
        return lambda: run_server(
            oracle=oracle,
            bind=f"tcp://{loopback()}:0",
            advertise=None,
            shard=shard,
            job=job.metadata.name,
            attempt=attempt,
            data_dir=run_dir / "servers" / str(shard),
            storage=spec.servers.storage,
            checkpoint_dir=checkpoints,
            transport=spec.transport,
            stop=over,
        )

    def trainer(rank: int) -> Callable[[], None]:
        return lambda: run_trainer(
            job,
            oracle=oracle,
            bind=f"tcp://{loopback()}:0",
            advertise=None,
            rank=rank,
            attempt=attempt,
            stop=lambda: stop() or over(),
        )

    roles = {"oracle": the_oracle}
    roles |= {f"server {i}": server(i) for i in range(spec.servers.replicas)}
    roles |= {f"trainer {i}": trainer(i) for i in range(spec.trainers.replicas)}
    return roles
