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


def test_a_job_that_is_resumed_before_its_pods_have_ended_lost_nothing(world):
    """What a suspension told to go is no disruption: a job that may have none goes on as a new attempt."""
    w = world({"runPolicy": {"disruptionLimit": 0}}).run()
    w.slow_deletion = True
    w.spec["runPolicy"] |= {"suspend": True}
    w.settle()
    assert w.status["phase"] == "Suspending"
    w.spec["runPolicy"] |= {"suspend": False}
    w.settle()
    for _ in range(3):  # Trainers, then the oracle and the servers.
        w.let_go().settle()
    w.slow_deletion = False
    w.run()
    counts = [w.status.get(key, 0) for key in ("attempt", "restarts", "disruptions")]
    assert w.is_true("Running") and counts == [1, 0, 0]
    assert len(w.live_pods()) == len(w.pods(attempt=1)) == 5


def test_an_edit_between_two_looks_is_carried_out(world):
    """Suspended, changed and resumed while no operator looked: the attempt of the old document gives way."""
    w = world().run()
    w.spec["data"] = {"path": "/y"}
    w.run()
    assert w.is_true("Running") and w.status["attempt"] == 1 and w.status.get("disruptions", 0) == 0
    assert ("Normal", "Edited") in w.events and "lastFailure" not in w.status
    assert "path: /y" in w.objects["ConfigMap", "j-config"]["data"]["job.yaml"]
    w.spec["trainers"] |= {"env": None}  # Says the same as nothing.
    w.settle()
    assert w.status["attempt"] == 1


def test_a_gang_that_was_named_between_two_looks_is_joined(world):
    """Pods name their gang: those of the old document belong to none, and their Jobs cannot be changed."""
    w = world(settings={"gangSchedulers": ["Volcano"]}).run()
    w.spec["runPolicy"] = {"gang": "Volcano"}
    w.run()
    assert w.is_true("Running") and w.status["attempt"] == 1
    assert {p["spec"].get("schedulerName") for p in w.live_pods()} == {"volcano"}


def test_an_attempt_of_an_older_release_goes_on(world):
    """An attempt whose status does not say what it was made of is not ended by the upgrade that asks for that."""
    w = world().run()
    del w.status["pinned"]["made"]
    w.settle()
    assert w.is_true("Running") and w.status.get("attempt", 0) == 0 and w.status["pinned"]["made"]["attempt"] == 0


def test_an_attempt_reads_how_many_trainers_it_has(world):
    """A number that is not allowed does not reach the document that servers read when they start again."""
    w = world(settings={"jobLimits": {"maxTrainers": 3}}).run()
    before = w.objects["ConfigMap", "j-config"]["data"]
    w.spec["trainers"] = {"replicas": 50}
    w.settle()
    assert w.condition("Reconciled")["reason"] == "BeyondLimits"
    assert w.objects["ConfigMap", "j-config"]["data"] == before


@pytest.mark.parametrize(
    "change",
    [
        {"allRoles": {"env": [{"name": "POD_NAME", "value": "x"}]}},
        {"trainers": {"replicas": 2, "gpuProfile": "nonsense"}},
        {"servers": {"podTemplate": {"spec": {"hostname": "x"}}}},
        {"oracle": {"podTemplate": {"spec": []}}},
    ],
)
@pytest.mark.parametrize("seen", [True, False], ids=["suspended", "unseen"])
def test_a_mistake_that_comes_while_pods_run_leaves_none(world, change, seen):
    """A job that ends because no pod could be made of it any more takes the pods along that had been made before."""
    w = world().run()
    w.slow_deletion = True
    w.spec["runPolicy"] = {"suspend": seen}
    w.settle()
    w.spec |= change
    w.spec["runPolicy"] = {}
    for _ in range(4):
        w.let_go().settle()
    assert w.condition("Failed")["reason"] == "InvalidSpec"
    assert w.live_pods() == [] and ("StatefulSet", "j-servers") not in w.objects
