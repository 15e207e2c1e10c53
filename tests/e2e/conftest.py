"""End-to-end tests: any cluster that `$KUBECONFIG` names, with the chart installed and the images loaded.

`make e2e` brings a cluster up and sets the environment:
    BAGPIPE_E2E_PYTHON    interpreter with bagpipe[trainer,cluster]: the local run that clusters are compared with
    BAGPIPE_E2E_MACHINES  how its machines are stopped: `kit PATH` (the plain cluster's script) or `kind`
    BAGPIPE_E2E_AUDIT     the API server's audit log, JSON lines, where it writes one (tools/e2e-audit.yaml)
    BAGPIPE_E2E_KUEUE     1 once Kueue is installed and `kueue.enabled` is set in the chart
    BAGPIPE_E2E_IMAGES    prefix and tag of the images, default `bagpipe-{}:0.1.0`
Without a cluster these tests are skipped; under CI=true that is a failure, and so is every other skip.
"""

import datetime as dt
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from on_cluster import Kube, Machines, Operators, Watcher

Raw = dict[str, Any]
SAMPLES = Path(__file__).parent.parent.parent / "manifests" / "samples"
STANDIN = "bagpipe-standin:4"
STEPS = 1000
DISTURBED = 200
"""The step at which something happens to a job: two checkpoints in, long before its end."""


def standin(name: str, **spec: Any) -> Raw:
    """A job of stand-ins: 2 servers, 2 trainers, `steps` of 0.2 s, checkpoints on a shared claim."""
    steps = spec.pop("steps", 30)
    env = {"STANDIN_STEPS": steps, **spec.pop("env", {})}
    roles = {
        "image": STANDIN,
        "terminationGracePeriodSeconds": 5,
        "env": [{"name": k, "value": str(v)} for k, v in env.items()],
        **spec.pop("allRoles", {}),
    }
    body: Raw = {
        "data": {"format": "synthetic"},
        "allRoles": roles,
        "checkpoint": {"volumeClaim": {"size": "1Gi", "storageClassName": "shared", "accessMode": "ReadWriteMany"}},
        "servers": {"replicas": 2},
        "trainers": {"replicas": 2},
        "runPolicy": {"nodeLostSeconds": 5},
        **spec,
    }
    return {"apiVersion": "bagpipe.dev/v1alpha1", "kind": "BagpipeJob", "metadata": {"name": name}, "spec": body}


def real(**spec: Any) -> Raw:
    """The checkpointed sample on the real images, named `j`, long enough to be disturbed; its rows die with a pod."""
    body: Raw = yaml.safe_load((SAMPLES / "checkpointed.yaml").read_text())
    body["metadata"]["name"] = "j"
    body["spec"] |= {"steps": STEPS, "logEvery": 25, "servers": {"replicas": 2}}
    body["spec"]["checkpoint"] |= {"every": 100}
    body["spec"]["runPolicy"] = {"nodeLostSeconds": 5, "backoffLimit": 3}
    body["spec"]["allRoles"] = {"terminationGracePeriodSeconds": 10}
    body["spec"] |= spec
    return body


def trained_here(body: Raw, directory: Path) -> Raw:
    """`bagpipe run` of the same document on this machine; `export` holds the model as plain tensors."""
    file = directory / "job.yaml"
    file.write_text(yaml.safe_dump(body))
    bagpipe = [os.environ.get("BAGPIPE_E2E_PYTHON", sys.executable), "-m", "bagpipe"]
    run_dir = directory / "run"
    command = [*bagpipe, "run", str(file), "--run-dir", str(run_dir)]
    command += ["--set", f"spec.checkpoint.path={directory / 'checkpoints'}"]
    subprocess.run(command, check=True, timeout=500, capture_output=True)
    subprocess.run([*bagpipe, "export", str(run_dir), str(directory / "export")], check=True, capture_output=True)
    summary: Raw = json.loads((run_dir / "summary.json").read_text())
    return summary | {"export": str(directory / "export")}


@pytest.fixture(scope="session", autouse=True)
def _cluster() -> None:
    done = (
        subprocess.run(["kubectl", "get", "crd", "bagpipejobs.bagpipe.dev"], capture_output=True, check=False)
        if _kubectl()
        else None
    )
    if done is not None and done.returncode == 0:
        return
    if os.environ.get("CI") == "true":
        pytest.fail("no cluster with the chart installed: run `make e2e`")
    pytest.skip("no cluster with the chart installed: run `make e2e`")


def _kubectl() -> bool:
    return bool(os.environ.get("KUBECONFIG"))


@pytest.fixture
def kube() -> Iterator[Kube]:
    """A namespace of the test's own, which enforces the restricted Pod Security profile."""
    result = Kube(f"e2e-{uuid.uuid4().hex[:6]}")
    result.run("create", "namespace", result.namespace)
    result.run("label", "namespace", result.namespace, "pod-security.kubernetes.io/enforce=restricted")
    yield result
    result.run("delete", "namespace", result.namespace, "--wait=false")


@pytest.fixture(scope="session")
def pinned(_cluster: None) -> Raw:
    """Settings for all roles where no volume is shared between nodes: they stay on one."""
    if subprocess.run(["kubectl", "get", "storageclass", "shared"], capture_output=True, check=False).returncode == 0:
        return {}
    nodes = json.loads(
        subprocess.run(["kubectl", "get", "nodes", "-o", "json"], capture_output=True, check=True).stdout
    )
    name = next(n["metadata"]["name"] for n in nodes["items"] if not (n["spec"].get("taints") or ()))
    return {"nodeSelector": {"kubernetes.io/hostname": name}}


def _placed(body: Raw, pinned: Raw) -> Raw:
    if pinned:
        body["spec"]["allRoles"] = {**body["spec"].get("allRoles", {}), **pinned}
        if "volumeClaim" in body["spec"].get("checkpoint", {}):
            body["spec"]["checkpoint"]["volumeClaim"] = {"size": "1Gi"}
    return body


@pytest.fixture
def job(pinned: Raw) -> Callable[..., Raw]:
    """Documents of stand-ins."""
    return lambda name, **spec: _placed(standin(name, **spec), pinned)


@pytest.fixture
def real_job(pinned: Raw) -> Callable[..., Raw]:
    """Documents for the real images."""
    return lambda **spec: _placed(real(**spec), pinned)


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Raw:
    """What `bagpipe run` makes of `real_job()` here."""
    return trained_here(real(), tmp_path_factory.mktemp("here"))


@pytest.fixture
def watched(kube: Kube) -> Iterator[Callable[[str], None]]:
    """Watches a job for two living trainers of one rank until the test's end, which fails if there ever were."""
    watchers: list[Watcher] = []

    def watch(name: str) -> None:
        watchers.append(Watcher(kube, name))
        watchers[-1].start()

    yield watch
    for watcher in watchers:
        watcher.over.set()
        watcher.join()
        assert watcher.seen == []


@pytest.fixture
def started(
    kube: Kube, real_job: Callable[..., Raw], expected: Raw, watched: Callable[[str], None]
) -> Callable[..., Kube]:
    """Starts the real job and returns at step `DISTURBED`; it is watched for double ranks until the end."""

    def start(**spec: Any) -> Kube:
        # A test before this one may have taken a node away; a pod that fits nowhere is tried again after minutes only.
        kube.until("all nodes take pods", lambda: all(map(_takes_pods, kube.get("nodes")["items"])), 120)
        kube.apply(real_job(**spec))
        watched("j")
        step = f"step {DISTURBED}"
        kube.until(step, lambda: kube.status("j").get("progress", {}).get("step", 0) >= DISTURBED, 200)
        return kube

    return start


def _takes_pods(node: Raw) -> bool:
    """Whether a node is ready, and Kubernetes keeps no pod off it because of its state."""
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
    taints = [t["key"] for t in node["spec"].get("taints", []) if t["key"].startswith("node.kubernetes.io/")]
    return ready and not taints and not node["spec"].get("unschedulable")


@pytest.fixture(scope="session")
def disturbed_at() -> int:
    """The step that `started` returns at."""
    return DISTURBED


@pytest.fixture
def complete(kube: Kube, expected: Raw) -> Callable[..., Raw]:
    """Waits for the real job's end: the same loss, evaluation and model as here, to the bit."""

    def check(seconds: float = 240) -> Raw:
        status = kube.wait("j", "Complete", seconds)
        for what in ("modelDigest", "loss", "evaluation", "steps"):
            assert status["summary"].get(what) == expected[what], (what, status)
        return status

    return check


@pytest.fixture
def machines() -> Machines:
    """The cluster's machines: a kubeconfig alone stops none."""
    how = os.environ.get("BAGPIPE_E2E_MACHINES")
    if not how:
        pytest.skip("needs the cluster's machines (BAGPIPE_E2E_MACHINES): a kubeconfig alone stops none")
    return Machines(how)


@pytest.fixture
def two_nodes(pinned: Raw) -> None:
    """For what moves pods from node to node."""
    if pinned:
        pytest.skip("needs a storage class `shared`: checkpoints here are tied to one node")


@pytest.fixture
def operators(kube: Kube) -> Operators:
    """The operator's own pods."""
    return Operators(kube)


def audited(since: float = 0.0) -> list[Raw]:
    """Entries of the API server's audit log, of requests about objects, received at or after `since` (Unix time)."""
    path = os.environ.get("BAGPIPE_E2E_AUDIT")
    if not path:
        pytest.skip("needs the API server's audit log (BAGPIPE_E2E_AUDIT)")
    entries = []
    for line in Path(path).read_text().splitlines():
        entry = json.loads(line)
        if "objectRef" in entry and moment(entry) >= since:
            entries.append(entry)
    return entries


def moment(entry: Raw, key: str = "requestReceivedTimestamp") -> float:
    return dt.datetime.fromisoformat(entry[key]).timestamp()


@pytest.fixture
def audit() -> Callable[..., list[Raw]]:
    """Reads the audit log."""
    return audited


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Under CI=true a test that skips itself has failed: nothing is left out silently."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped under CI=true: {report.longrepr}"
