"""What does not go although it was told to, and what goes although it should stay: the job says so."""

import pytest
from rig import job

from bagpipe_operator import names


@pytest.mark.parametrize("suspended", [False, True], ids=["new attempt", "suspended"])
def test_a_pod_that_does_not_end_is_named(world, suspended):
    """Nothing takes its place until its node says that it has ended; the job says which pod and where, then goes on."""
    w = world().run()
    w.slow_deletion = True
    if suspended:
        w.spec["runPolicy"] = {"suspend": True}
    else:
        w.end(w.pod("trainer"), 1)
    w.settle()
    assert (w.condition("Reconciled") or {}).get("reason") != "PodNotEnding", "it is only slow"
    w.after(60)
    assert w.again_at is not None
    w.after(65)
    told = w.condition("Reconciled")
    assert (told["status"], told["reason"]) == ("False", "PodNotEnding"), told
    assert "trainer" in told["message"] and "node n1 has not said that it has" in told["message"]
    assert ("Warning", "PodNotEnding") in w.events
    w.let_go().slow_deletion = False
    w.settle()
    assert w.condition("Reconciled")["status"] == "True"
    assert w.status["phase"] == ("Suspended" if suspended else "Restarting")


def test_a_checkpoint_claim_that_somebody_deleted_is_told_while_it_is_there(world):
    """Kubernetes keeps it until the last pod has ended, and then the checkpoints are lost: the time to act is now."""
    w = world({"checkpoint": {"volumeClaim": {"size": "1Gi"}}}).run()
    assert w.condition("ModelKept") is None
    claim = w.objects["PersistentVolumeClaim", "j-checkpoints"]["metadata"]
    claim |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["kubernetes.io/pvc-protection"]}
    w.settle()
    told = w.condition("ModelKept")
    assert (told["status"], told["reason"]) == ("False", "ClaimBeingDeleted") and "j-checkpoints" in told["message"]
    assert ("Warning", "ClaimBeingDeleted") in w.events and w.status["phase"] == "Running"


def test_a_checkpoint_claim_without_its_volume_is_told(world):
    """Before the job runs it is the reason why not; later that its model is not kept."""
    w = world({"checkpoint": {"volumeClaim": {"size": "1Gi"}}}).settle()
    w.objects["PersistentVolumeClaim", "j-checkpoints"]["status"] = {"phase": "Lost"}
    w.settle()
    assert w.condition("Running")["reason"] == w.condition("ModelKept")["reason"] == "ClaimLost"
    w.run()
    assert w.status["phase"] == "Running" and w.condition("ModelKept")["status"] == "False"
    w.objects["PersistentVolumeClaim", "j-checkpoints"]["status"] = {"phase": "Bound"}
    assert w.settle().condition("ModelKept")["status"] == "True"


def test_a_deadline_that_somebody_put_on_our_jobs_is_named(world):
    """Policies add activeDeadlineSeconds to every Job; that pods went is then no riddle."""
    w = world().run()
    ended = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "Job was active longer"}
    w.objects["Job", "j-trainers-0"]["status"]["conditions"] = [ended]
    w.end(w.pod("trainer"), 143)
    w.settle()
    told = w.status["lastFailure"]
    assert told["reason"] == "PodLost" and "activeDeadlineSeconds that is not the operator's" in told["message"]
    assert (w.status["disruptions"], w.status.get("restarts", 0)) == (1, 0)


def test_trainers_that_a_deletion_left_are_waited_for(rig):
    """`kubectl delete job j-trainers-0 --cascade=orphan`: no second process of a rank is started beside them."""
    rig.submit(job())
    rig.settle()
    made = rig.api.objects["Job", "ns", "j-trainers-0"]
    template = made["spec"]["template"]
    pod = {"metadata": {"name": "j-trainers-0-0-x", "labels": template["metadata"]["labels"]}, "spec": template["spec"]}
    rig.api.put("Pod", {**pod, "status": {"phase": "Running"}})
    rig.api.remove(("Job", "ns", "j-trainers-0"))
    status = rig.api.objects[names.KIND, "ns", "j"]["status"]
    when = {"lastTransitionTime": "2026-01-01T00:00:00Z"}
    running = {"type": "Running", "status": "True", "reason": "PodsReady", **when}
    status["conditions"] = [c for c in status["conditions"] if c["type"] != "Running"] + [running]
    rig.submit(rig.api.objects[names.KIND, "ns", "j"])
    rig.settle()
    assert rig.status()["attempt"] == 1 and "Job/j-trainers-1" not in rig.kinds()
    told = rig.condition("Running")
    assert told["reason"] == "OlderJobEnding" and "Pod/j-trainers-0-0-x" in told["message"]
    rig.api.put("Pod", {**pod, "status": {"phase": "Failed"}})
    rig.settle()
    assert "Job/j-trainers-1" in rig.kinds()
