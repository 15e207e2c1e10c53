"""A job that somebody deleted and that a finalizer keeps: its pods go, it says why it stays, and nothing is made."""

import copy
import datetime as dt

import pytest
from rig import Rig, job

from bagpipe_operator import names
from bagpipe_operator.api import Job

JOB = (names.KIND, "ns", "j")
FINALIZER = "example.com/keep"


def delete(rig: Rig, *finalizers: str) -> None:
    """`kubectl delete`, as the API server shows it while these finalizers keep the job."""
    raw = copy.deepcopy(rig.api.objects[JOB])
    raw["metadata"] |= {"deletionTimestamp": f"{rig.api.now:%Y-%m-%dT%H:%M:%SZ}", "finalizers": list(finalizers)}
    raw["metadata"]["generation"] += 1
    rig.api.put(names.KIND, raw)


def writes(rig: Rig) -> list[str]:
    """What was written since the last call, but for status and events."""
    found = [f"{m} {u.rpartition('/')[2]}" for m, u in rig.api.requests if m != "GET" and "/bagpipejobs" not in u]
    rig.api.requests.clear()
    return [one for one in found if one != "POST events"]


def put_pod(rig: Rig, owner: str, name: str) -> None:
    """A running pod of a child, named `Kind/name`."""
    kind, _, called = owner.partition("/")
    raw = rig.api.objects[kind, "ns", called]
    template = raw["spec"]["template"]
    reference = {"kind": kind, "name": called, "uid": raw["metadata"]["uid"], "controller": True}
    meta = {"name": name, "labels": template["metadata"]["labels"], "ownerReferences": [reference]}
    rig.api.put("Pod", {"metadata": meta, "spec": template["spec"], "status": {"phase": "Running"}})


def test_the_pods_of_a_deleted_job_go_in_order_and_nothing_is_made(rig):
    """A finalizer of somebody else keeps the job: trainers end first, then the rest; claims and addresses stay."""
    rig.submit(job(checkpoint={"volumeClaim": {}}, servers={"replicas": 1, "volumeClaim": {}}))
    rig.settle()
    put_pod(rig, "Job/j-trainers-0", "t")
    put_pod(rig, "StatefulSet/j-servers", "j-servers-0")
    rig.settle()
    writes(rig)
    delete(rig, FINALIZER)
    rig.settle()
    assert writes(rig) == ["DELETE j-trainers-0"] and "Job/j-oracle-0" in rig.kinds()
    assert rig.status()["phase"] == "Deleting" and rig.condition("Running")["status"] == "False"
    rig.api.remove(("Pod", "ns", "t"))
    rig.settle()
    assert sorted(set(writes(rig))) == ["DELETE j-oracle-0", "PATCH j-servers"]
    assert rig.api.objects["StatefulSet", "ns", "j-servers"]["spec"]["replicas"] == 0
    assert "its pods are being ended" in rig.condition("Deleting")["message"]
    rig.api.remove(("Pod", "ns", "j-servers-0"))
    rig.api.remove(("ConfigMap", "ns", "j-config"))
    rig.settle()
    assert not any(kind.startswith(("Job/", "Pod/", "ConfigMap/")) for kind in rig.kinds())
    assert "PersistentVolumeClaim/j-checkpoints" in rig.kinds() and writes(rig) == []
    assert "no pod of it runs any more" in rig.condition("Deleting")["message"]
    assert rig.api.objects[JOB]["metadata"]["finalizers"] == [FINALIZER]


def test_who_keeps_a_deleted_job_is_named_once(rig):
    """Most finalizers are taken off within seconds; the one that is not is told in a condition and one warning."""
    rig.submit(job())
    rig.settle()
    delete(rig, FINALIZER)
    rig.settle()
    assert rig.condition("Deleting")["reason"] == "Deleted"
    for _ in range(5):
        rig.api.now += dt.timedelta(seconds=60)
        rig.again()
    told = rig.condition("Deleting")
    assert (told["status"], told["reason"]) == ("True", "HeldByFinalizer") and FINALIZER in told["message"]
    assert "2026-01-01T00:00:00Z" in told["message"] and told["observedGeneration"] == 2
    assert rig.events().count("HeldByFinalizer") == 1 and rig.status()["reason"] == "HeldByFinalizer"
    uid = rig.api.objects[JOB]["metadata"]["uid"]
    assert rig.shell.memories.known(("ns", "j"), uid) is not None
    rig.api.remove(JOB)
    rig.settle()
    assert rig.shell.memories.known(("ns", "j"), uid) is None and rig.store.job(("ns", "j")) is None


@pytest.mark.parametrize("finalizers", [["foregroundDeletion"], ["orphan"], ["orphan", FINALIZER]])
def test_what_kubernetes_does_itself_is_left_to_it(rig, finalizers):
    """In the foreground its garbage collector ends the pods; with `--cascade=orphan` they are to stay."""
    rig.submit(job())
    rig.settle()
    put_pod(rig, "Job/j-trainers-0", "t")
    rig.settle()
    writes(rig)
    delete(rig, *finalizers)
    for _ in range(3):
        rig.api.now += dt.timedelta(seconds=60)
        rig.again()
    assert writes(rig) == [] and rig.status()["phase"] == "Deleting"
    word = "--cascade=orphan" if "orphan" in finalizers else "--cascade=foreground"
    assert rig.condition("Deleting")["reason"] == "Deleted" and word in rig.condition("Deleting")["message"]
    assert "HeldByFinalizer" not in rig.events()


def test_what_was_taken_from_a_deleted_job_is_not_ended(rig):
    """Orphaned a moment ago, and no watch has told of the children so far: what runs there is nobody's to end."""
    rig.submit(job())
    rig.settle()
    put_pod(rig, "Job/j-trainers-0", "t")
    rig.settle()
    writes(rig)
    for key, raw in list(rig.api.objects.items()):
        if any(owner["kind"] == names.KIND for owner in raw["metadata"].get("ownerReferences") or ()):
            left = copy.deepcopy(raw)
            del left["metadata"]["ownerReferences"]
            rig.api.put(key[0], left)
    late = list(rig.api.history)
    rig.api.history[:] = []
    delete(rig, FINALIZER)
    rig.settle()
    assert writes(rig) == [], "the watch of the children stood still"
    rig.api.history[:] = late
    rig._seen.clear()
    rig.settle()
    assert writes(rig) == [] and "Job/j-trainers-0" in rig.kinds()
    told = rig.condition("Deleting")["message"]
    assert "left as they are" in told and "Pod/t" in told


def test_what_goes_before_it_is_scaled_down_is_not_made_for_a_deleted_job(rig):
    """The word that the servers' set has gone comes between the decision and the write."""
    rig.submit(job())
    rig.settle()
    made = rig.api.objects["StatefulSet", "ns", "j-servers"]
    delete(rig, FINALIZER)
    rig.settle()
    rig.api.remove(("StatefulSet", "ns", "j-servers"))
    rig.again()
    going = Job.of(rig.store.job(("ns", "j")))
    rig.go(rig.shell._writer._put(going, rig.shell.memories.of(going), made))
    assert "StatefulSet/j-servers" not in rig.kinds()


@pytest.mark.parametrize("policy", ["None", "Running"])
def test_a_job_that_had_ended_keeps_its_end_and_its_logs(world, policy):
    """What still runs of it goes; ended pods, and with them their logs, stay until the job does."""
    w = world({"runPolicy": {"cleanPodPolicy": policy, "ttlSecondsAfterFinished": 5}}).run().complete()
    before = dict(w.status)
    w.deleted, w.finalizers = w.now, [FINALIZER]
    w.after(60)
    assert w.live_pods() == [] and len(w.pods()) == 3 and not w.gone
    changed = {key for key in w.status if w.status[key] != before.get(key)}
    assert changed <= {"conditions", "observedGeneration"} and w.status["phase"] == "Complete"
    assert w.condition("Deleting")["reason"] == "HeldByFinalizer" and ("Warning", "HeldByFinalizer") in w.events


def test_a_deleted_job_gives_its_quota_back(world):
    """Once no pod is left the Workload goes, and no other is made."""
    w = world({"runPolicy": {"queueName": "q"}}, {"kueue": True}).settle()
    w.objects["Workload", "bagpipejob-j"]["status"] = {
        "conditions": [{"type": kind, "status": "True"} for kind in ("QuotaReserved", "Admitted")]
    }
    w.run()
    assert w.is_true("Running")
    w.slow_deletion = True
    w.deleted, w.finalizers = w.now, [FINALIZER]
    w.settle()
    assert w.kinds("Workload") and w.status["phase"] == "Deleting"
    w.slow_deletion = False
    w.let_go().settle()
    assert w.pods() == [] and w.kinds("Workload") == [] and w.kinds("Service")


@pytest.mark.parametrize(
    "spec", [{"runPolicy": {"suspend": True}}, {"steps": "many"}, {"trainers": {"podTemplate": {"spec": "x"}}}]
)
def test_any_deleted_job_says_so(world, spec):
    """One that was held, or that nobody can read, and one that the operator sees for the first time."""
    w = world(spec)
    w.deleted, w.finalizers = w.now, [FINALIZER]
    w.after(11)
    assert w.condition("Deleting")["reason"] == "HeldByFinalizer" and w.objects == {}
    assert w.status["phase"] == "Deleting"


def test_a_pod_on_a_lost_node_does_not_keep_a_deleted_job(world):
    """Deleted in the foreground, it goes although a node will never say that its pod has ended."""
    w = world().run()
    w.slow_deletion = True
    w.delete_pod(w.pod("trainer"))
    w.deleted, w.finalizers = w.now, ["foregroundDeletion"]
    w.lost_nodes = {"n1": w.now}
    w.after(200)
    assert len(w.pods("trainer")) == 1
