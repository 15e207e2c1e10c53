"""Containers that a pod template puts beside ours: what they keep, end and hide."""

import pytest


def beside(pod, main, other):
    """The pod as the kubelet shows it: how the main container is, and one that a pod template added."""
    states = [{"name": "a-sidecar", "state": other}, {"name": "bagpipe", "restartCount": 0, "state": main}]
    pod["status"] |= {"containerStatuses": states, "conditions": []}


def ended(code, message=""):
    return {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed", "message": message}}


@pytest.mark.parametrize("running", [True, False], ids=["runs on", "failed after it"])
def test_containers_beside_ours_keep_no_job_from_its_end(world, running):
    """A job is done when its own processes are, with their result, whatever a container of a pod template does."""
    w = world().run()
    for role in ("trainer", "oracle"):
        for pod in w.live_pods(role):
            beside(pod, ended(0, '{"modelDigest": "d"}'), {"running": {}} if running else ended(1))
            pod["status"]["phase"] = "Running" if running else "Failed"
    w.settle()
    assert w.is_true("Complete") and w.live_pods() == []
    assert w.status["summary"] == {"modelDigest": "d"} and w.status.get("restarts", 0) == 0


def test_pods_of_which_every_container_has_ended_are_left_to_kubernetes(world):
    """They are called running for a moment more; were their Jobs stopped in it, the pods would go with their logs."""
    w = world().run()
    pods = [pod for role in ("trainer", "oracle") for pod in w.live_pods(role)]
    for pod in pods:
        beside(pod, ended(0, '{"modelDigest": "d"}'), ended(0))
    w.settle()
    assert w.is_true("Running") and not w.is_true("Complete")
    assert {pod["metadata"]["name"] for pod in pods} <= {pod["metadata"]["name"] for pod in w.live_pods()}


def test_a_crash_is_seen_although_another_container_runs_on(world):
    """Kubernetes calls such a pod running for as long as the other one is; the job goes back to its checkpoint."""
    w = world().run()
    beside(w.pod("trainer"), ended(1, "boom"), {"running": {}})
    w.run()
    assert w.is_true("Running") and (w.status["attempt"], w.status["restarts"]) == (1, 1)
    assert w.status["lastFailure"]["lastWords"] == "boom"


def test_a_container_beside_a_trainer_that_fails_is_named(world):
    """Its end ends the attempt, as Kubernetes fails the Job; the reason is its name and not that a pod was deleted."""
    w = world().run()
    pod = w.pod("trainer")
    beside(pod, ended(0), ended(3, "no space"))
    pod["status"]["phase"] = "Failed"
    w.settle()
    failure = w.status["lastFailure"]
    assert (failure["reason"], failure["exitCode"]) == ("Crashed", 3)
    assert "container a-sidecar exited with 3: no space" in failure["message"]


def test_lines_of_a_pod_that_another_container_keeps_are_kept(world):
    """Ending a failed job ends such a pod and its log with it."""
    w = world({"runPolicy": {"backoffLimit": 0}}).run()
    beside(w.pod("trainer", 1), ended(1), {"running": {}})
    w.settle()
    assert w.is_true("Failed") and "trainer-1" in w.logs_asked
