"""PodGroups for gang schedulers on a real API server, and nodes that are given back without one.

Needs the PodGroups' CRDs (`podgroups.yaml`) and `gangSchedulers` in the chart (BAGPIPE_E2E_GANGS=1); the schedulers
themselves are not here, so the jobs name the cluster's own.
"""

import os

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

GROUPS = {"Volcano": "scheduling.volcano.sh", "Coscheduling": "scheduling.x-k8s.io"}


@pytest.mark.skipif(not os.environ.get("BAGPIPE_E2E_GANGS"), reason="needs PodGroups: BAGPIPE_E2E_GANGS=1")
@pytest.mark.parametrize("gang", GROUPS)
def test_a_gang_is_a_pod_group(kube, job, gang):
    """A PodGroup of all pods is made, follows the number of trainers, comes back when deleted, and goes at the end."""
    kind = f"podgroups.{GROUPS[gang]}"
    kube.apply(job("j", steps=60, runPolicy={"gang": gang}, allRoles={"schedulerName": "default-scheduler"}))
    kube.wait("j", "Running", 60)
    group = kube.get(kind, "j-gang")
    assert group["spec"]["minMember"] == 5
    kube.run("delete", kind, "j-gang")
    kube.until("it is back", lambda: kube.get(kind, "j-gang")["metadata"]["uid"] != group["metadata"]["uid"], 30)
    kube.run("scale", "bpj", "j", "--replicas=1")
    kube.until("four members", lambda: kube.get(kind, "j-gang")["spec"]["minMember"] == 4, 60)
    kube.wait("j", "Complete", 150)
    kube.until("it is gone", lambda: not kube.get(kind)["items"], 30)


def test_nodes_that_cannot_be_used_are_given_back(kube, job):
    """A job whose trainers find no node gives all its nodes back, says why, and counts no failure."""
    policy = {"partialStartSeconds": 5, "startupDeadlineSeconds": 600}
    nowhere = {"replicas": 2, "nodeSelector": {"example.com/rack": "none"}}
    kube.apply(job("j", steps=1000, trainers=nowhere, runPolicy=policy))

    def told():
        """The first attempt may have been given back while its claims were still being bound."""
        failure = kube.status("j").get("lastFailure") or {}
        assert failure.get("reason", "PartlyPlaced") == "PartlyPlaced", failure
        return "3 of 5 pods" in failure.get("message", "")

    kube.until("only the trainers found no node", told, 150)
    status = kube.status("j")
    assert status["attempt"] >= 1
    assert status["restarts"] == 0 and status["disruptions"] == 0
