"""Kueue admits a job, preempts it for a more important one, and admits it again; it ends with all its steps.

Needs Kueue in the cluster and `kueue.enabled` in the chart (BAGPIPE_E2E_KUEUE=1).
"""

import os

import pytest

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not os.environ.get("BAGPIPE_E2E_KUEUE"), reason="needs Kueue: BAGPIPE_E2E_KUEUE=1"),
]

API = "kueue.x-k8s.io/v1beta1"


@pytest.fixture
def queue(kube):
    """A queue with room for one job of five pods of 100m."""
    name = kube.namespace
    flavor = {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": name}, "spec": {}}
    resources = [{"name": "cpu", "nominalQuota": "600m"}]
    spec = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [{"coveredResources": ["cpu"], "flavors": [{"name": name, "resources": resources}]}],
    }
    kube.apply(flavor)
    kube.apply({"apiVersion": API, "kind": "ClusterQueue", "metadata": {"name": name}, "spec": spec})
    local = {"apiVersion": API, "kind": "LocalQueue", "metadata": {"name": "training"}, "spec": {"clusterQueue": name}}
    kube.apply(local)
    for priority in ("low", "high"):
        value = {"low": 1, "high": 100}[priority]
        body = {"apiVersion": API, "kind": "WorkloadPriorityClass", "metadata": {"name": f"{name}-{priority}"}}
        kube.apply({**body, "value": value})
    yield name
    kube.run("delete", "bpj", "--all")
    kube.run("delete", "localqueue", "training")
    kube.run("delete", "clusterqueue", name, "--wait=false")
    kube.run("delete", "resourceflavor", name, "--wait=false")
    kube.run("delete", "workloadpriorityclass", f"{name}-low", f"{name}-high")


def queued(job, name, queue, priority, steps):
    body = job(name, steps=steps, runPolicy={"queueName": "training", "workloadPriorityClass": f"{queue}-{priority}"})
    body["spec"]["allRoles"]["resources"] = {"requests": {"cpu": "100m"}}
    return body


def workload(kube):
    return kube.get("workloads.kueue.x-k8s.io", "bagpipejob-j")


def counts(listed):
    return {entry["name"]: entry["count"] for entry in listed}


def test_quota_is_what_runs(kube, job, queue):
    """With more trainers a job queues for all it needs; with fewer it keeps its place and gives the rest back."""
    kube.apply(queued(job, "j", queue, "low", 150))
    kube.wait("j", "Running", 60)
    uid = workload(kube)["metadata"]["uid"]
    kube.run("scale", "bpj", "j", "--replicas=3")
    kube.until("another Workload", lambda: workload(kube)["metadata"]["uid"] != uid, 60)
    kube.until("three trainers", lambda: len(kube.running("j", "trainer")) == 3, 90)
    kube.wait("j", "Running", 60)
    uid = workload(kube)["metadata"]["uid"]
    assert counts(workload(kube)["spec"]["podSets"]) == {"oracle": 1, "server": 2, "trainer": 3}
    kube.run("scale", "bpj", "j", "--replicas=1")
    kube.until(
        "two are given back",
        lambda: counts(workload(kube)["status"].get("reclaimablePods", ())) == {"trainer": 2},
        90,
    )
    assert workload(kube)["metadata"]["uid"] == uid
    status = kube.wait("j", "Complete", 150)
    assert status["summary"]["modelDigest"] == "steps-150" and status["restarts"] == 0


def test_a_suspended_job_asks_for_nothing(kube, job, queue):
    """Suspended, a job has no Workload; its queue cannot change while it may run, and can while it is suspended."""
    body = queued(job, "j", queue, "low", 60)
    kube.apply(body)
    kube.wait("j", "Running", 60)
    body["spec"]["runPolicy"]["queueName"] = "elsewhere"
    assert "queueName cannot change under a job" in kube.refused(body)
    kube.run("patch", "bpj", "j", "--type=merge", "-p", '{"spec":{"runPolicy":{"suspend":true}}}')
    kube.wait("j", "Suspended", 60)
    kube.until("no Workload", lambda: not kube.get("workloads.kueue.x-k8s.io")["items"], 30)
    kube.run("patch", "bpj", "j", "--type=merge", "-p", '{"spec":{"runPolicy":{"suspend":false}}}')
    assert kube.wait("j", "Complete", 120)["attempt"] == 1


def test_a_job_that_does_not_fit_says_so(kube, job, queue):
    """While a job waits its condition has Kueue's words."""
    body = queued(job, "j", queue, "low", 10)
    body["spec"]["allRoles"]["resources"] = {"requests": {"cpu": "400m"}}
    kube.apply(body)
    kube.until("Kueue's words", lambda: "cpu" in kube.condition("j", "Suspended").get("message", ""), 60)
    assert kube.condition("j", "Suspended")["reason"] == "WaitingForQuota" and kube.pods("j") == []
    uid = workload(kube)["metadata"]["uid"]
    kube.run("scale", "bpj", "j", "--replicas=1")  # What waits is changed in place.
    kube.until("it asks for one trainer", lambda: counts(workload(kube)["spec"]["podSets"])["trainer"] == 1, 30)
    assert workload(kube)["metadata"]["uid"] == uid


@pytest.fixture
def topology(kube, queue):
    """The queue's flavor knows that nodes are places."""
    body = {"apiVersion": API, "kind": "Topology", "metadata": {"name": queue}}
    kube.apply({**body, "spec": {"levels": [{"nodeLabel": "kubernetes.io/hostname"}]}})
    kube.run("delete", "clusterqueue", queue)
    kube.run("delete", "resourceflavor", queue)
    spec = {"topologyName": queue, "nodeLabels": {"kubernetes.io/os": "linux"}}
    kube.apply({"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": queue}, "spec": spec})
    resources = [{"name": "cpu", "nominalQuota": "600m"}]
    groups = [{"coveredResources": ["cpu"], "flavors": [{"name": queue, "resources": resources}]}]
    selector = {"matchLabels": {"kubernetes.io/metadata.name": queue}}
    spec = {"namespaceSelector": selector, "resourceGroups": groups}
    kube.apply({"apiVersion": API, "kind": "ClusterQueue", "metadata": {"name": queue}, "spec": spec})
    yield
    kube.run("delete", "bpj", "--all", "--wait=true")
    kube.run("delete", "topologies.kueue.x-k8s.io", queue, "--wait=false")


def test_places_of_a_topology(kube, job, queue, topology):
    """Trainers that ask for one place come to run on one node, each let through Kueue's gate."""
    body = queued(job, "j", queue, "low", 10)
    body["spec"]["trainers"]["annotations"] = {"kueue.x-k8s.io/podset-required-topology": "kubernetes.io/hostname"}
    kube.apply(body)
    assert kube.wait("j", "Complete", 150)["summary"]["modelDigest"] == "steps-10"
    assert len({p["spec"]["nodeName"] for p in kube.pods("j", "trainer")}) == 1
    assigned = workload(kube)["status"]["admission"]["podSetAssignments"]
    assert all("topologyAssignment" in a for a in assigned)


def test_admit_preempt_admit(kube, job, queue):
    kube.apply(queued(job, "low", queue, "low", 60))
    kube.wait("low", "Running", 60)
    assert kube.condition("low", "QuotaReserved")["status"] == "True"
    kube.until("a few steps", lambda: kube.status("low").get("progress", {}).get("step", 0) >= 5)
    kube.apply(queued(job, "high", queue, "high", 20))
    kube.wait("low", "Suspended", 60)
    assert kube.pods("low") == []
    kube.wait("high", "Complete", 90)
    status = kube.wait("low", "Complete", 120)
    assert status["attempt"] == 1 and status["restarts"] == 0
    assert status["summary"]["modelDigest"] == "steps-60"
