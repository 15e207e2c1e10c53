"""The command line of each role of a local run: the same that a cluster uses."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bagpipe.config.document import Job, JobSpec
from bagpipe.local.policy import RoleId
from bagpipe.local.ports import free_ports, loopback


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a run: its number, where it starts, where its roles listen."""

    number: int
    checkpoint: Path | None
    oracle: str
    servers: tuple[str, ...]


CommandBuilder = Callable[[RoleId, Attempt], Sequence[str]]


def role_commands(job: Job, job_file: Path, run_dir: Path) -> CommandBuilder:
    """Builds `bagpipe oracle|server|trainer ...` for this job."""
    trainers = job.spec.trainers

    def build(role: RoleId, attempt: Attempt) -> list[str]:
        command = [sys.executable, "-P", "-m", "bagpipe", role.kind, "--job", str(job_file), "--run-dir", str(run_dir)]
        command += ["--attempt", str(attempt.number)]
        if role.kind == "oracle":
            start = ["--checkpoint", str(attempt.checkpoint)] if attempt.checkpoint else []
            return [*command, "--bind", attempt.oracle, *start]
        command += ["--oracle", attempt.oracle]
        if role.kind == "server":
            return [*command, "--shard", str(role.index), "--bind", attempt.servers[role.index]]
        port = trainers.port + role.index if trainers.port else 0
        return [*command, "--rank", str(role.index), "--bind", f"tcp://{loopback()}:{port}"]

    return build


def roles_of(spec: JobSpec) -> tuple[RoleId, ...]:
    """Every role of a run, in the order in which they are started."""
    servers = tuple(RoleId("server", i) for i in range(spec.servers.replicas))
    return (RoleId("oracle"), *servers, *(RoleId("trainer", i) for i in range(spec.trainers.replicas)))


def addresses(spec: JobSpec) -> tuple[str, tuple[str, ...]]:
    """Where the oracle and each server listen: the given ports, or ports that are free now.

    A server keeps its address when it restarts, so its port is chosen here and not by its process.
    """
    base = spec.servers.port
    given = [spec.oracle.port, *(base + i if base else 0 for i in range(spec.servers.replicas))]
    free = iter(free_ports(given.count(0)))
    endpoints = [f"tcp://{loopback()}:{port or next(free)}" for port in given]
    return endpoints[0], tuple(endpoints[1:])
