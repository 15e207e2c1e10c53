"""What the operator costs with many jobs, on the cluster that `$KUBECONFIG` names, with a chart of no replica.

python tools/operator_load.py suspended                      1,000 jobs that are held: time to settle, memory, writes
python tools/operator_load.py running --address 10.10.0.1    200 jobs with progress, on hollow nodes
python tools/operator_load.py queued --address 10.10.0.1     5,000 jobs, 100 at once as Kueue lets them through
... --write                                                  and its row of the table in docs/operator.md

    helm install bagpipe charts/bagpipe --namespace bagpipe-system --create-namespace --set replicas=0

The operator runs here as a process of its own, as its image would. All but the nodes is real: the API server, the
controllers, the scheduler and Kueue. `--address` is an IP of this machine that the API server reaches.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from hollow_nodes import LABEL, Api, Hollow, Raw
from pages import with_part

from bagpipe_operator import names
from bagpipe_operator.connection import connect

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "operator.md"
BEGIN, END = "<!-- load: written by tools/operator_load.py -->", "<!-- end of load -->"
HEAD = [
    "| jobs | until all are so | on a processor | writes | then: writes a second | CPU | memory, at most |",
    "|---|---|---|---|---|---|---|",
]
JOBS = {"suspended": 1000, "running": 200, "queued": 5000}
PHASES = {"suspended": "Suspended", "running": "Running", "queued": "Complete"}
"""The phase in which every job of a kind comes to rest."""
NAMESPACES = 10
PODS_OF_A_JOB = 3
KUEUE = "kueue.x-k8s.io/v1beta1"
QUEUE = "load"
PORT = 18080
_PATIENT = {"leaseSeconds": 120, "renewSeconds": 10}
"""An API server that answers late on a small machine ends no measurement; in a cluster a stand-by would take over."""
CHECKPOINTS = "/checkpoints"
KEPT = {
    "volumes": [{"name": "checkpoints", "hostPath": {"path": CHECKPOINTS}}],
    "volumeMounts": [{"name": "checkpoints", "mountPath": CHECKPOINTS}],
}
"""Hollow nodes mount nothing; the operator sees that the model outlives the pods, and has nothing to warn of."""
TICK = 2.0
STEADY = 60.0
PATIENCE = 7200.0


@dataclass(frozen=True)
class Sample:
    """What the operator had used and done at a moment."""

    at: float
    writes: int
    """Requests that change something, but for renewals of the lease."""
    cpu: float
    peak: int
    """MiB of memory, at most so far."""
    depth: int
    phases: dict[str, int]


class Operator:
    """The operator as a process, and what it says of itself."""

    def __init__(self, folder: Path, kueue: bool) -> None:
        file = folder / "operator.yaml"
        settings = {"listenPort": PORT, "leaseNamespace": "kube-system", "kueue": kueue, **_PATIENT}
        file.write_text(json.dumps(settings))
        command = [sys.executable, "-m", "bagpipe_operator.main", "--config", str(file), "--log-level", "warning"]
        env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}", "MALLOC_ARENA_MAX": "2"}
        self.began = time.monotonic()
        self._process = subprocess.Popen(command, env=env, cwd=folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)

    def sample(self) -> Sample:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        made = re.findall(
            r'^bagpipe_operator_api_requests_total\{code="\w*",method="(\w+)"\} (\S+)', text, re.MULTILINE
        )
        phases: dict[str, int] = {}
        for phase, count in re.findall(r'^bagpipe_jobs\{.*phase="(\w+)"\} (\S+)', text, re.MULTILINE):
            phases[phase] = phases.get(phase, 0) + int(float(count))
        depth = re.search(r"^bagpipe_operator_queue_depth (\S+)", text, re.MULTILINE)
        return Sample(
            at=time.monotonic(),
            writes=sum(int(float(count)) for method, count in made if method not in ("GET", "PUT")),
            cpu=self._cpu(),
            peak=self._peak(),
            depth=int(float(depth[1])) if depth else 0,
            phases=phases,
        )

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _peak(self) -> int:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self._process.pid}/status").read_text())
        return int(found[1]) // 1024 if found else 0

    async def until(self, what: str, true: Callable[[Sample], bool]) -> Sample:
        """The first sample that is so."""
        last = None
        while time.monotonic() - self.began < PATIENCE:
            await asyncio.sleep(TICK)
            with suppress(OSError):  # It has only begun.
                last = await asyncio.to_thread(self.sample)
                if true(last):
                    return last
            if self._process.poll() is not None:
                raise ChildProcessError(f"the operator ended with {self._process.returncode}")
        raise TimeoutError(f"not within {PATIENCE:.0f} s: {what}; last: {last}")


def job(kind: str, number: int) -> Raw:
    place = {"nodeSelector": {LABEL: "true"}, "tolerations": [{"key": LABEL, "operator": "Exists"}]}
    spec = {
        "data": {"format": "synthetic"},
        "allRoles": {**place, "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}, **KEPT},
        "checkpoint": {"path": f"{CHECKPOINTS}/{number}"},
        "servers": {"replicas": 1},
        "trainers": {"replicas": 1},
        "runPolicy": {"queueName": QUEUE} if kind == "queued" else {"suspend": kind == "suspended"},
    }
    meta = {"name": f"{kind}-{number}", "namespace": f"load-{number % NAMESPACES}"}
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": meta, "spec": spec}


async def made(api: Api, path: str, body: Raw) -> None:
    status, answer = await api.call("POST", path, body)
    if status not in (200, 201, 409):
        raise RuntimeError(f"{path}: {status} {answer.get('message')}")


async def open_queue(api: Api, at_once: int) -> None:
    """A queue in each namespace, all of them with one quota, of so many jobs."""
    root = f"/apis/{KUEUE}"
    group = {"apiVersion": KUEUE, "metadata": {"name": QUEUE}}
    await made(api, f"{root}/resourceflavors", {**group, "kind": "ResourceFlavor"})
    quota = [{"name": "cpu", "nominalQuota": str(at_once * PODS_OF_A_JOB)}]
    quota += [{"name": "memory", "nominalQuota": f"{at_once * PODS_OF_A_JOB}Gi"}]
    resources = [{"coveredResources": ["cpu", "memory"], "flavors": [{"name": QUEUE, "resources": quota}]}]
    spec = {"namespaceSelector": {}, "resourceGroups": resources}
    await made(api, f"{root}/clusterqueues", {**group, "kind": "ClusterQueue", "spec": spec})
    for number in range(NAMESPACES):
        local = {**group, "kind": "LocalQueue", "spec": {"clusterQueue": QUEUE}}
        await made(api, f"{root}/namespaces/load-{number}/localqueues", local)


async def submit(api: Api, kind: str, count: int, at_once: int) -> None:
    """All jobs, twenty at a time."""
    for number in range(NAMESPACES):
        await made(api, "/api/v1/namespaces", {"metadata": {"name": f"load-{number}"}})
    if kind == "queued":
        await open_queue(api, at_once)
    free = asyncio.Semaphore(20)

    async def one(number: int) -> None:
        async with free:
            body = job(kind, number)
            await made(
                api, f"/apis/{names.API_VERSION}/namespaces/{body['metadata']['namespace']}/{names.PLURAL}", body
            )

    await asyncio.gather(*(one(number) for number in range(count)))


async def measure(options: argparse.Namespace, folder: Path) -> str:
    """One row of the table."""
    api, kind, count = Api(connect()), options.kind, options.jobs or JOBS[options.kind]
    phase = PHASES[kind]
    with ExitStack() as stack:
        nodes: asyncio.Future[None] | None = None
        if kind != "suspended":
            lives = options.lives if kind == "queued" else None
            nodes = asyncio.ensure_future(Hollow(api, options.address, options.nodes, lives).run())
        await submit(api, kind, count, options.at_once)
        operator = stack.enter_context(Operator(folder, kueue=kind == "queued"))

        def settled(sample: Sample) -> bool:
            if nodes is not None and nodes.done():
                nodes.result()  # It should go on for ever, so this raises.
            print(f"{sample.at - operator.began:.0f} s: {sample.phases}, {sample.peak} MiB", file=sys.stderr)
            if "Failed" in sample.phases:
                raise RuntimeError(f"{sample.phases['Failed']} jobs failed; kubectl get bagpipejobs -A says why")
            quiet = kind == "running" or sample.depth == 0  # Jobs that run always have news.
            return sample.phases.get(phase, 0) == count and quiet

        there = await operator.until(f"{count} jobs {phase}", settled)
        await asyncio.sleep(5)
        first = await asyncio.to_thread(operator.sample)
        await asyncio.sleep(STEADY)
        last = await asyncio.to_thread(operator.sample)
        if nodes is not None:
            nodes.cancel()
    await api.close()
    return row(f"{count:,} {kind}", operator.began, there, first, last)


def row(what: str, began: float, there: Sample, first: Sample, last: Sample) -> str:
    seconds = last.at - first.at
    steady = f"{(last.writes - first.writes) / seconds:.2f} | {(last.cpu - first.cpu) / seconds:.1%} of a core"
    until = f"{there.at - began:.0f} s | {there.cpu:.0f} s | {there.writes:,}"
    return f"| {what} | {until} | {steady} | {last.peak} MiB |"


def main(arguments: Sequence[str]) -> int:
    """Returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(JOBS))
    parser.add_argument("--jobs", type=int, help="how many (default: 1,000, 200 and 5,000)")
    parser.add_argument("--address", default="127.0.0.1", help="IP of this machine, for the API server")
    parser.add_argument("--nodes", type=int, default=4, help="hollow nodes, of 250 pods each")
    parser.add_argument("--at-once", type=int, default=100, help="queued jobs for which there is quota")
    parser.add_argument(
        "--lives", type=float, default=10.0, help="seconds after which a queued job's trainer has trained"
    )
    parser.add_argument("--write", action="store_true", help="write the row into docs/operator.md")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(options, Path(folder)))
    print(found)
    if options.write:
        write(found)
    return 0


def write(found: str) -> None:
    """In place of the row of this kind."""
    page = TARGET.read_text()
    old = page.partition(BEGIN)[2].partition(END)[0].splitlines()
    rows = {_kind(line): line for line in (*old, found) if line.startswith("|") and line not in HEAD}
    lines = [line for kind in JOBS for what, line in rows.items() if what.startswith(kind)]
    TARGET.write_text(with_part(page, BEGIN, END, [*HEAD, *lines]))


def _kind(line: str) -> str:
    """What jobs a row is of, without their number: `running`, or `suspended, all new`."""
    return line.split("|")[1].strip().partition(" ")[2]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
