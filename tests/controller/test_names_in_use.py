"""Objects that are there already under a name that a job needs, on a fake API server: whose they are decides."""

import pytest
from rig import job

from bagpipe_operator import names


def test_a_secret_of_somebody_else_is_not_used_as_keys(rig):
    """The Secret's name has a part of the job's UID: one that is there already cannot be taken for ours."""
    rig.api.put("Secret", {"metadata": {"name": "j-curve"}, "stringData": {"public": "x", "secret": "y"}})
    uid = rig.submit(job(transport={"security": "curve"}))["metadata"]["uid"]
    rig.settle()
    ours = f"j-curve-{uid[:8]}"
    assert f"Secret/{ours}" in rig.kinds()
    template = rig.api.objects["Job", "ns", "j-trainers-0"]["spec"]["template"]
    secrets = [v["secret"]["secretName"] for v in template["spec"]["volumes"] if "secret" in v]
    assert secrets == [ours]


def test_what_an_older_job_of_the_name_left_is_waited_for(rig):
    """Objects that are owned by a deleted job of the same name are named, and taken by nobody until they are gone."""
    owner = {"kind": names.KIND, "name": "j", "uid": "older", "controller": True}
    rig.api.put(
        "ConfigMap", {"metadata": {"name": "j-config", "labels": names.labels("j"), "ownerReferences": [owner]}}
    )
    rig.submit(job())
    rig.settle()
    assert rig.condition("Failed") == {} and rig.condition("Running")["reason"] == "OlderJobEnding"
    assert "j-config" in rig.condition("Running")["message"]
    rig.api.remove(("ConfigMap", "ns", "j-config"))
    rig.settle()
    assert rig.condition("Running")["reason"] == "Starting" and "Job/j-trainers-0" in rig.kinds()


def test_a_claim_that_was_retained_is_used_again(rig):
    """The claim that an earlier job of this name left on purpose is the next one's, and gets no owner."""
    labels = names.labels("j")
    rig.api.put("PersistentVolumeClaim", {"metadata": {"name": "j-checkpoints", "labels": labels}, "spec": {}})
    rig.submit(job(checkpoint={"volumeClaim": {"size": "1Gi", "retain": True}}))
    rig.settle()
    assert rig.condition("Failed") == {} and "Job/j-trainers-0" in rig.kinds()
    assert "ownerReferences" not in rig.api.objects["PersistentVolumeClaim", "ns", "j-checkpoints"]["metadata"]


@pytest.mark.parametrize(("kind", "name"), [("NetworkPolicy", "j-peers"), ("PodDisruptionBudget", "j-servers")])
def test_a_name_that_somebody_takes_from_a_running_job_is_told_and_taken_back(rig, kind, name):
    """Our object is deleted and another made under its name: the job runs on, says so, and makes it once it can."""
    rig.submit(job())
    rig.settle()
    attempt = rig.status().get("attempt", 0)
    status = rig.api.objects[names.KIND, "ns", "j"]["status"]
    status["conditions"] = [c for c in status["conditions"] if c["type"] != "Running"] + [
        {"type": "Running", "status": "True", "reason": "PodsReady", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    ]
    rig.api.remove((kind, "ns", name))
    theirs = rig.api.put(kind, {"metadata": {"name": name, "labels": {"app": "shop"}}, "spec": {"x": 1}})
    rig.submit({**rig.api.objects[names.KIND, "ns", "j"]})
    rig.settle()
    told = rig.condition("Reconciled")
    assert (told["status"], told["reason"]) == ("False", "NameTaken") and f"{kind}/{name}" in told["message"]
    assert rig.api.objects[kind, "ns", name] == theirs and rig.condition("Failed") == {}
    again = rig.queue._timers["ns", "j"].when() - rig.loop.time()
    assert again < 62, "nobody tells when an object of somebody else goes"
    rig.api.remove((kind, "ns", name))
    rig.again()
    assert rig.condition("Reconciled")["status"] == "True" and rig.status().get("attempt", 0) == attempt
    assert rig.api.objects[kind, "ns", name]["metadata"]["ownerReferences"]
