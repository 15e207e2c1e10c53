"""Whatever dies, the job ends Complete, with every step done and never two pods for one rank."""

import threading
import time

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


class Watcher(threading.Thread):
    """Looks for two living trainers of one rank, all the time."""

    def __init__(self, kube, name):
        super().__init__(daemon=True)
        self.kube, self.name, self.stop, self.seen = kube, name, threading.Event(), []

    def run(self):
        while not self.stop.wait(0.2):
            try:
                pods = self.kube.pods(self.name, "trainer")
            except AssertionError:
                continue
            ranks = {}
            for pod in pods:
                if pod["status"]["phase"] in ("Succeeded", "Failed"):
                    continue
                rank = pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
                ranks.setdefault(rank, []).append(pod["metadata"]["name"])
            self.seen += [names for names in ranks.values() if len(names) > 1]


@pytest.fixture
def started(kube, job):
    """A running job, watched for double ranks; ends with the check that it completed with all its steps."""
    watchers = []

    def start(name="j", **spec):
        kube.apply(job(name, **spec))
        kube.wait(name, "Running")
        watchers.append(Watcher(kube, name))
        watchers[-1].start()
        return kube.status(name)

    yield start
    for watcher in watchers:
        watcher.stop.set()
        watcher.join()
        assert watcher.seen == []


def complete(kube, name="j", seconds=150):
    status = kube.wait(name, "Complete", seconds)
    assert status["summary"]["modelDigest"] == f"steps-{status['summary']['steps']}"
    return status


@pytest.mark.parametrize("role", ["trainer", "server", "oracle"])
def test_deleted_pod(kube, started, role):
    """A deleted pod of any role costs one disruption and no failure."""
    started()
    kube.run("delete", "pod", kube.running("j", role)[0]["metadata"]["name"], "--wait=false")
    status = complete(kube)
    assert status["disruptions"] == 1 and status["restarts"] == 0 and status["attempt"] == 1


@pytest.mark.parametrize("role", ["trainer", "oracle"])
def test_killed_process(kube, started, role):
    """A killed process is one failure; the next attempt ends well."""
    started(env={"STANDIN_EXIT": f"{role}:0:0:137:5"})
    status = complete(kube)
    assert status["restarts"] == 1 and status["attempt"] == 1
    assert status["lastFailure"]["exitCode"] == 137 and status["lastFailure"]["role"] == role


@pytest.mark.parametrize(
    ("kind", "name"), [("service", "j-oracle"), ("statefulset", "j-servers"), ("configmap", "j-config")]
)
def test_deleted_child(kube, started, kind, name):
    """A deleted child is made again, and the job ends well."""
    started()
    kube.run("delete", kind, name, "--wait=false")
    kube.until(f"{kind} is back", lambda: "deletionTimestamp" not in kube.get(kind, name)["metadata"])
    complete(kube)


def test_server_pod_with_a_claim_costs_nothing(kube, started):
    """Rows on a claim: a deleted server's pod comes back, the attempt goes on."""
    started(servers={"replicas": 2, "volumeClaim": {"size": "1Gi"}})
    kube.run("delete", "pod", "j-servers-1", "--wait=false")
    assert complete(kube).get("attempt", 0) == 0


def test_drained_node(kube, started):
    """A drain takes a node's pods away in order; the job goes on elsewhere."""
    started()
    node = kube.running("j", "trainer")[0]["spec"]["nodeName"]
    try:
        kube.run(
            "drain",
            node,
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--force",
            "--timeout=60s",
            "--pod-selector=bagpipe.dev/job=j",
        )
        status = complete(kube)
    finally:
        kube.run("uncordon", node)
    assert status["restarts"] == 0 and status["disruptions"] >= 1


def test_stopped_node(kube, started, kit):
    """A node that dies takes its pods along; they are replaced elsewhere, once it is known to be lost."""
    started(steps=60)
    node = kube.running("j", "trainer")[0]["spec"]["nodeName"]
    kit("stop-node", node)
    try:
        complete(kube, seconds=200)
    finally:
        kit("start-node", node)


def test_api_server_away(kube, started, kit):
    """The API server is away for a minute: the job goes on by itself, and the operator finds its way back."""
    started(steps=150)
    kit("stop", "kube-apiserver")
    time.sleep(60)
    kit("start", "kube-apiserver")
    assert complete(kube).get("attempt", 0) == 0


def test_scaled(kube, started):
    """`kubectl scale` restarts the trainers from their checkpoint under the new number."""
    started(steps=60)
    kube.until("a few steps", lambda: kube.status("j").get("progress", {}).get("step", 0) >= 5)
    kube.run("scale", "bpj", "j", "--replicas=1")
    kube.until("new attempt", lambda: kube.status("j")["attempt"] == 1)
    kube.wait("j", "Running")
    assert len(kube.running("j", "trainer")) == 1


def test_suspend_and_resume(kube, started):
    """Suspend frees every pod; resume goes on from the checkpoint."""
    started(steps=60)
    kube.until("a few steps", lambda: kube.status("j").get("progress", {}).get("step", 0) >= 5)
    kube.run("patch", "bpj", "j", "--type=merge", "-p", '{"spec":{"runPolicy":{"suspend":true}}}')
    kube.wait("j", "Suspended")
    assert kube.pods("j") == []
    kube.run("patch", "bpj", "j", "--type=merge", "-p", '{"spec":{"runPolicy":{"suspend":false}}}')
    status = complete(kube)
    assert status["attempt"] == 1 and status["restarts"] == 0
    trainer = next(p for p in kube.pods("j", "trainer") if p["metadata"]["labels"]["bagpipe.dev/attempt"] == "1")
    log = kube.run("logs", trainer["metadata"]["name"])
    assert "goes on at step 0" not in log
