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
