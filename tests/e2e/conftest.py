"""End-to-end tests: any cluster that `$KUBECONFIG` names, with the chart installed and the images loaded.

`make e2e` brings a cluster up and sets the environment:
    BAGPIPE_E2E_PYTHON    interpreter with bagpipe[trainer,cluster]: the local run that clusters are compared with
    BAGPIPE_E2E_MACHINES  how its machines are stopped: `kit PATH` (the plain cluster's script) or `kind`
    BAGPIPE_E2E_AUDIT     the API server's audit log, JSON lines, where it writes one (tools/e2e-audit.yaml)
    BAGPIPE_E2E_KUEUE     1 once Kueue is installed and `kueue.enabled` is set in the chart
    BAGPIPE_E2E_IMAGES    prefix and tag of the images, default `bagpipe-{}:0.1.0`
Without a cluster these tests are skipped; under CI=true that is a failure, and so is every other skip.
"""

import contextlib
import datetime as dt
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

Raw = dict[str, Any]
SYSTEM = "bagpipe-system"
SAMPLES = Path(__file__).parent.parent.parent / "manifests" / "samples"
STANDIN = "bagpipe-standin:3"
STEPS = 1000
DISTURBED = 200
"""The step at which something happens to a job: two checkpoints in, long before its end."""
MANIFESTS = "/etc/kubernetes/manifests"


class Kube:
    """kubectl in one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def run(self, *args: str, stdin: str | None = None, check: bool = True, namespace: str | None = None) -> str:
        command = ["kubectl", "--namespace", namespace or self.namespace, *args]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *args: str, namespace: str | None = None) -> Any:
        return json.loads(self.run("get", *args, "-o", "json", namespace=namespace))

    def apply(self, body: Raw) -> None:
        self.run("apply", "-f", "-", stdin=yaml.safe_dump(body))

    def refused(self, body: Raw) -> str:
        """What the API server says to a document that it must not take."""
        command = ["kubectl", "--namespace", self.namespace, "apply", "-f", "-"]
        done = subprocess.run(
            command, input=yaml.safe_dump(body), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode, "it was taken"
        return done.stderr

    def status(self, name: str) -> Raw:
        return dict(self.get("bpj", name).get("status") or {})

    def condition(self, name: str, kind: str) -> Raw:
        found = [c for c in self.status(name).get("conditions", []) if c["type"] == kind]
        return found[0] if found else {}

    def pods(self, name: str, role: str | None = None) -> list[Raw]:
        selector = f"bagpipe.dev/job={name}" + (f",bagpipe.dev/role={role}" if role else "")
        return list(self.get("pods", "-l", selector)["items"])

    def running(self, name: str, role: str | None = None) -> list[Raw]:
        return [
            p
            for p in self.pods(name, role)
            if p["status"]["phase"] == "Running" and "deletionTimestamp" not in p["metadata"]
        ]

    def until(self, what: str, probe: Callable[[], Any], seconds: float = 60) -> Any:
        """Polls until `probe` gives something; an error of its own is retried, as the API server may be away."""
        end, last = time.monotonic() + seconds, None
        while time.monotonic() < end:
            try:
                last = probe()
                if last:
                    return last
            except AssertionError as error:
                last = error
            time.sleep(0.3)
        jobs = self.run("get", "bpj,pods", "-o", "wide", check=False)
        raise AssertionError(f"not within {seconds} s: {what}; last: {last}\n{jobs}")

    def wait(self, name: str, kind: str, seconds: float = 90) -> Raw:
        """Until the condition is true; at once an error if the job ended otherwise."""

        def probe() -> Raw | None:
            status = self.status(name)
            true = {c["type"]: c for c in status.get("conditions", []) if c["status"] == "True"}
            if kind not in true and true.keys() & {"Failed", "Complete"}:
                pytest.fail(f"{name} ended otherwise: {json.dumps(status, indent=1)}")
            return status if kind in true else None

        return dict(self.until(f"{name} {kind}", probe, seconds))


def standin(name: str, **spec: Any) -> Raw:
    """A job of stand-ins: 2 servers, 2 trainers, `steps` of 0.2 s, checkpoints on a shared claim."""
    steps = spec.pop("steps", 30)
    env = {
        "STANDIN_SERVERS": spec.get("servers", {}).get("replicas", 2),
        "STANDIN_TRAINERS": spec.get("trainers", {}).get("replicas", 2),
        "STANDIN_STEPS": steps,
        **spec.pop("env", {}),
    }
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


class Watcher(threading.Thread):
    """Looks for two living trainers of one rank, all the time."""

    def __init__(self, kube: Kube, name: str) -> None:
        super().__init__(daemon=True)
        self.kube, self.name, self.over = kube, name, threading.Event()
        self.seen: list[list[str]] = []

    def run(self) -> None:
        while not self.over.wait(0.3):
            try:
                pods = self.kube.pods(self.name, "trainer")
            except (AssertionError, subprocess.TimeoutExpired):  # The API server may be away.
                continue
            ranks: dict[str, list[str]] = {}
            for pod in pods:
                if pod["status"]["phase"] in ("Succeeded", "Failed"):
                    continue
                rank = pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
                ranks.setdefault(rank, []).append(pod["metadata"]["name"])
            self.seen += [names for names in ranks.values() if len(names) > 1]


class Machines:
    """The cluster's machines, where we may stop them: the plain cluster's script, or kind's containers."""

    def __init__(self, how: str) -> None:
        self.how, _, self.script = how.partition(" ")

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def _plain(self, *args: str) -> str:
        return self._run(self.script, *args)

    def stop_node(self, node: str) -> None:
        self._plain("stop-node", node) if self.how == "kit" else self._run("docker", "kill", node)

    def start_node(self, node: str) -> None:
        self._plain("start-node", node) if self.how == "kit" else self._run("docker", "start", node)

    def stop_api_server(self) -> None:
        self._plain("stop", "kube-apiserver") if self.how == "kit" else self._manifest(MANIFESTS, "/")

    def start_api_server(self) -> None:
        self._plain("start", "kube-apiserver") if self.how == "kit" else self._manifest(
            "/", "/etc/kubernetes/manifests"
        )

    def _manifest(self, here: str, there: str) -> None:
        """A static pod lives as long as its file lies in the kubelet's folder."""
        found = self._run(
            "docker", "ps", "--filter", "label=io.x-k8s.kind.role=control-plane", "--format", "{{.Names}}"
        )
        name = "kube-apiserver.yaml"
        self._run("docker", "exec", found.split()[0], "mv", f"{here}/{name}", f"{there}/{name}")

    def kill_container(self, pod: Raw) -> None:
        """SIGKILL for the pod's main process."""
        container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
        kill = ("ctr", "-n", "k8s.io", "task", "kill", "-s", "SIGKILL", container)
        node = pod["spec"]["nodeName"]
        self._plain("shell", node, *kill) if self.how == "kit" else self._run("docker", "exec", node, *kill)


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
def started(kube: Kube, real_job: Callable[..., Raw], expected: Raw) -> Iterator[Callable[..., Kube]]:
    """Starts the real job and returns at step `DISTURBED`; it is watched for double ranks until the end."""
    watchers: list[Watcher] = []

    def start(**spec: Any) -> Kube:
        kube.apply(real_job(**spec))
        watchers.append(Watcher(kube, "j"))
        watchers[-1].start()
        step = f"step {DISTURBED}"
        kube.until(step, lambda: kube.status("j").get("progress", {}).get("step", 0) >= DISTURBED, 200)
        return kube

    yield start
    for watcher in watchers:
        watcher.over.set()
        watcher.join()
        assert watcher.seen == []


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


class Operators:
    """The operator's pods, found by their labels."""

    namespace, label = SYSTEM, "app.kubernetes.io/name=bagpipe-operator"

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    def pods(self) -> list[Raw]:
        listed = self._kube.get("pods", "-l", self.label, namespace=SYSTEM)["items"]
        return [p for p in listed if "deletionTimestamp" not in p["metadata"]]

    def leader(self) -> str | None:
        """Name of the pod that holds the lease."""
        held = self._kube.get("lease", "bagpipe-operator", namespace="kube-system")["spec"].get("holderIdentity", "")
        return next((n for n in (p["metadata"]["name"] for p in self.pods()) if held.startswith(n)), None)

    def read(self, code: str) -> str:
        """What a line of Python prints in the leader's container."""
        leader = self._kube.until("a leader", self.leader)
        return self._kube.run("exec", leader, "--", "python3", "-c", code, namespace=SYSTEM)

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """No operator at all, for a while."""
        self._scale(0)
        try:
            self._kube.until("the operator is down", lambda: not self._all())
            yield
        finally:
            self._scale(2)

    def _all(self) -> list[Raw]:
        return list(self._kube.get("pods", "-l", self.label, namespace=SYSTEM)["items"])

    def _scale(self, replicas: int) -> None:
        name = self._kube.get("deployments", namespace=SYSTEM)["items"][0]["metadata"]["name"]
        self._kube.run("scale", "deployment", name, f"--replicas={replicas}", namespace=SYSTEM)


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
