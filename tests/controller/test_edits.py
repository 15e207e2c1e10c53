"""What an edit, another clock or a quick series of ends does to a job."""

import datetime as dt
import json

import pytest

from bagpipe_operator.api import Job

CLAIM = {"checkpoint": {"volumeClaim": {"size": "1Gi"}}}


def test_a_policy_that_is_not_wanted_any_more_goes(world):
    """`networkPolicy: None` takes the job's NetworkPolicy away; the running attempt goes on."""
    w = world().run()
    assert w.kinds("NetworkPolicy") == ["j-peers"]
    w.spec["runPolicy"] = {"networkPolicy": "None"}
    w.settle()
    assert w.kinds("NetworkPolicy") == [] and w.is_true("Running") and w.status["attempt"] == 0


def test_a_claim_that_shall_be_kept_loses_its_owner(world):
    """`retain: true`, said later, takes the job's ownership from the claim: deleting the job keeps the checkpoints."""
    w = world(CLAIM).run()
    assert w.objects["PersistentVolumeClaim", "j-checkpoints"]["metadata"]["ownerReferences"]
    w.spec["runPolicy"] = {"suspend": True}
    w.settle()
    w.spec["checkpoint"] = {"volumeClaim": {"size": "1Gi", "retain": True}}
    w.settle()
    assert "ownerReferences" not in w.objects["PersistentVolumeClaim", "j-checkpoints"]["metadata"]


def test_a_claim_that_was_kept_is_never_bound_again(world):
    """A claim without an owner stays without one, whatever a later job says: no deletion of a job takes it along."""
    w = world(CLAIM)
    labels = {"app.kubernetes.io/managed-by": "bagpipe-operator", "bagpipe.dev/job": "j"}
    meta = {"name": "j-checkpoints", "uid": "uid-0", "labels": labels}
    w.objects["PersistentVolumeClaim", "j-checkpoints"] = {
        "kind": "PersistentVolumeClaim",
        "metadata": meta,
        "spec": {},
    }
    w.run()
    assert w.is_true("Running")
    assert "ownerReferences" not in w.objects["PersistentVolumeClaim", "j-checkpoints"]["metadata"]


@pytest.mark.parametrize("restarts", [0, 2])
def test_a_leader_whose_clock_is_behind_changes_nothing(world, restarts):
    """A leader half an hour behind neither scales running servers down nor waits half an hour before an attempt."""
    w = world({"runPolicy": {"backoffLimit": 5}}).run()
    for _ in range(restarts):
        w.end(w.pod("trainer"), 1)
        w.run()
        w.after(20)
        w.run()
    assert w.is_true("Running")
    w.now -= dt.timedelta(minutes=30)
    w.settle()
    assert w.objects["StatefulSet", "j-servers"]["spec"]["replicas"] == 2
    assert w.is_true("Running") and len(w.live_pods()) == 5
    w.end(w.pod("trainer"), 1)
    w.run()
    w.after(300)
    w.run()
    assert w.is_true("Running") and w.status["attempt"] == restarts + 1


def test_no_moment_of_the_status_lies_ahead(world):
    """Ages that would be negative are zero: what a faster clock wrote counts from now."""
    w = world().settle()
    w.now -= dt.timedelta(minutes=30)
    w.settle()
    job = w.job
    assert job.status.attempt_time == w.now and job.status.starting_since == w.now


def test_ends_in_a_row_wait_longer_each_time(world):
    """The first end comes back at once, the next after 10 s, 20 s and so on; after a long attempt it starts over."""
    w = world({"runPolicy": {"backoffLimit": 50}}).run()
    waits = []
    for _ in range(4):
        w.disrupt(w.pod("trainer"), 137)
        w.settle()
        start = w.now
        while not w.live_pods():
            w.now = w.again_at
            w.settle()
        waits.append((w.now - start).total_seconds())
        w.start_pods()
        w.settle()
    assert waits == [0, 10, 20, 40]
    w.after(3600)
    w.disrupt(w.pod("trainer"), 137)
    w.settle()
    assert w.live_pods()


def evict(world, pod, message, condition=None):
    world.end(pod, 137)
    pod["status"] |= {"reason": "Evicted", "message": message}
    pod["status"]["conditions"] = [condition] if condition else []


@pytest.mark.parametrize("role", ["trainer", "server"])
def test_a_pod_over_its_own_limit_has_failed(world, role):
    """What a node ends for using more than its own limit counts as a failure, with the node's words."""
    w = world({"runPolicy": {"backoffLimit": 1}}).run()
    words = 'Container bagpipe exceeded its local ephemeral storage limit "1Mi". '
    evict(w, w.pod(role), words)
    w.run()
    last = w.status["lastFailure"]
    assert (w.status["restarts"], w.status["disruptions"], last["reason"]) == (1, 0, "OverItsLimit")
    assert "exceeded its local ephemeral storage limit" in last["message"]
    w.after(30)
    w.run()
    evict(w, w.pod(role), words)
    w.settle()
    assert w.condition("Failed")["reason"] == "BackoffLimitExceeded"


@pytest.mark.parametrize(
    ("condition", "status", "reason"),
    [
        ("PreemptionByScheduler", "", "Preempted"),
        ("EvictionByEvictionAPI", "", "Evicted"),
        ("DeletionByTaintManager", "", "NodeLost"),
        ("DeletionByPodGC", "", "NodeLost"),
        ("TerminationByKubelet", "Evicted", "NodePressure"),
        ("SomethingNew", "", "Disrupted"),
        (None, "NodeShutdown", "NodeShutdown"),
        (None, "OutOfcpu", "RejectedByNode"),
        (None, "Preempting", "Preempted"),
    ],
)
def test_a_disruption_bears_its_reason(world, condition, status, reason):
    """Why the cluster took a pod away is the reason of the restart, and counts as no failure."""
    w = world().run()
    pod = w.pod("trainer")
    w.end(pod, 137)
    pod["status"] |= {"reason": status, "message": "The node was low on resource: memory."}
    said = {"type": "DisruptionTarget", "status": "True", "reason": condition}
    pod["status"]["conditions"] = [said] if condition else []
    w.run()
    assert (w.status["lastFailure"]["reason"], w.status["disruptions"], w.status["restarts"]) == (reason, 1, 0)
    assert ("Warning", reason) in w.events


def test_a_status_is_read_whatever_stands_in_its_times():
    """A text that is no moment is read as none."""
    meta = {"name": "j", "namespace": "n", "uid": "u"}
    job = Job.of({"metadata": meta, "spec": {}, "status": {"startTime": "yesterday", "attempt": 3}})
    assert job.status.start_time is None and json.loads(json.dumps(job.status.to_dict()))["attempt"] == 3
