"""What no watch has said, or not yet: jobs and children that are gone, replaced or changed, and clocks set back."""

import copy
import datetime as dt
import itertools

import pytest
from rig import Rig, job

from bagpipe_operator import names

JOB = (names.KIND, "ns", "j")
FINALIZER = "example.com/keep"


def writes(rig: Rig) -> int:
    return sum(method != "GET" for method, _ in rig.api.requests)


def one_pass(rig: Rig, without: str) -> str:
    """One reconcile of the job with the watch of one kind standing still; returns how it went."""

    async def go() -> str:
        rig.deliver(None, without)
        if not rig.queue.depth:
            return "at rest"
        return await rig.shell._attempt(await rig.queue.get())

    return rig.go(go())


def collect_garbage(rig: Rig) -> None:
    """What Kubernetes does with the objects of an owner that is gone."""
    there = {raw["metadata"]["uid"] for raw in rig.api.objects.values()}
    for key, raw in list(rig.api.objects.items()):
        owners = [o["uid"] for o in raw["metadata"].get("ownerReferences") or ()]
        if owners and not there.intersection(owners):
            rig.api.remove(key)


def test_a_job_that_is_gone_gets_no_new_objects(rig):
    """Its children are told to be gone and the job itself is not yet: nothing is made for it, and it is forgotten."""
    rig.submit(job())
    rig.settle()
    before = writes(rig)
    rig.api.remove(JOB)
    results = []
    for _ in range(10):
        results.append(one_pass(rig, without=names.KIND))
        collect_garbage(rig)
    assert writes(rig) == before and "error" not in results and "internal error" not in results
    assert rig.store.job(("ns", "j")) is None and rig.kinds() == []


def test_a_job_that_was_made_again_is_the_one_that_runs(rig):
    """Deleted and made again before any watch told of it, the new job has its own objects, and the old one none."""
    rig.submit(job())
    rig.settle()
    rig.api.remove(JOB)
    new = rig.submit(job(trainers={"replicas": 3}))["metadata"]["uid"]
    for _ in range(10):
        one_pass(rig, without=names.KIND)
        collect_garbage(rig)
    rig.settle()
    assert rig.api.objects["Job", "ns", "j-trainers-0"]["spec"]["completions"] == 3
    owners = [raw["metadata"].get("ownerReferences", ()) for raw in rig.api.objects.values()]
    assert {one["uid"] for some in owners for one in some} == {new}


def test_what_is_known_of_a_job_is_no_news_of_the_next_one(rig):
    """A refusal and a progress record of a job that ran are not those of the job that takes its name at once."""
    rig.submit(job())
    rig.settle()
    raw = rig.api.objects[JOB]
    for c in raw["status"]["conditions"]:
        c["status"] = "True" if c["type"] == "Running" else c["status"]
    rig.api.put(names.KIND, raw)
    rig.api.remove(("Service", "ns", "j-oracle"))
    rig.api.refuse = lambda method, raw: (422, "Invalid", "no") if raw["kind"] == "Service" else None
    rig.settle()
    assert rig.condition("Reconciled")["reason"] == "ChildRefused" and rig.condition("Failed") == {}
    memory = rig.shell.memories.known(("ns", "j"), raw["metadata"]["uid"])
    memory.progress = {"step": 500}
    rig.api.refuse = lambda method, raw: None
    rig.api.remove(JOB)
    rig.submit(job())
    rig.settle()
    assert rig.condition("Failed") == {} and "progress" not in rig.status() and "Job/j-trainers-0" in rig.kinds()


def test_a_status_that_conflicts_is_written_though_no_watch_tells_why(rig):
    """A job that somebody changed and whose watch stands still is read, and its status is written all the same."""
    rig.submit(job())
    rig.settle()
    raw = copy.deepcopy(rig.api.objects[JOB])
    raw["spec"]["runPolicy"] = {"suspend": True}
    rig.api.put(names.KIND, raw)
    rig.api.remove(("Pod", "ns", "p"))
    rig.shell.memories.known(("ns", "j"), raw["metadata"]["uid"]).progress = {"step": 5}
    results = []
    for _ in range(6):
        rig.go(added(rig))
        results.append(one_pass(rig, without=names.KIND))
    assert results[0] == "conflict" and set(results[1:]) == {"ok"}
    assert rig.status()["phase"] == "Suspended"


async def added(rig: Rig) -> None:
    rig.queue.add(("ns", "j"))


def test_a_status_that_always_conflicts_is_tried_no_more_than_the_back_off_allows(rig, monkeypatch):
    """Refused with 409 for ever, the status is written once in a try, and each try is later than the one before."""
    rig.submit(job())
    rig.api.refuse = lambda method, raw: (409, "Conflict", "changed") if raw["kind"] == names.KIND else None
    delays = []
    failed = rig.queue.failed
    monkeypatch.setattr(rig.queue, "failed", lambda *args: delays.append(failed(*args)) or delays[-1])

    async def go() -> None:
        rig.deliver()
        for _ in range(12):
            await rig.shell._attempt(await rig.queue.get())
            rig.queue.add(("ns", "j"))

    rig.go(go())
    assert [m for m, _ in rig.api.requests if m != "GET"] == ["PATCH"] * 12
    assert all(later > earlier for earlier, later in itertools.pairwise(delays[:8])) and delays[-1] > 40
    assert rig.kinds() == []


@pytest.mark.parametrize("kind", ["Job", "StatefulSet", "ConfigMap"])
def test_a_child_that_is_gone_unheard_is_made_again(rig, kind):
    """A child whose end no watch tells is found gone by the write or the deletion that meets nothing."""
    rig.submit(job())
    rig.settle()
    old = {key: raw for key, raw in rig.api.objects.items() if key[0] == kind}
    for key in old:
        rig.api.remove(key)
    for suspended in (True, False):
        raw = copy.deepcopy(rig.api.objects[JOB])
        raw["spec"]["runPolicy"] = {"suspend": suspended}
        raw["spec"]["steps"] = 7
        rig.api.put(names.KIND, raw)
        for _ in range(8):
            rig.go(added(rig))
            one_pass(rig, without=kind)
        assert rig.status()["phase"] == ("Suspended" if suspended else "Starting")
    made = {key[2]: raw for key, raw in rig.api.objects.items() if key[0] == kind}
    assert len(made) == len(old) and not {r["metadata"]["uid"] for r in made.values()} & {
        r["metadata"]["uid"] for r in old.values()
    }


def test_an_event_that_comes_twice_or_late_changes_nothing(rig):
    """All events of a job's start told again, from the first to the last, lead to no write."""
    rig.submit(job())
    rig.settle()
    before = writes(rig)
    for _ in range(2):
        rig._seen.clear()
        rig.settle()
    assert writes(rig) == before


def test_a_configuration_that_was_changed_by_hand_is_put_right(rig):
    """A ConfigMap that somebody edited or deleted says again what the job says, and no attempt ends."""
    rig.submit(job())
    rig.settle()
    key = ("ConfigMap", "ns", "j-config")
    right = copy.deepcopy(rig.api.objects[key]["data"])
    rig.api.put("ConfigMap", {**copy.deepcopy(rig.api.objects[key]), "data": {"job.yaml": "steps: 3"}})
    rig.settle()
    assert rig.api.objects[key]["data"] == right
    rig.api.remove(key)
    rig.settle()
    assert rig.api.objects[key]["data"] == right
    assert rig.status()["attempt"] == 0 and rig.condition("Reconciled").get("status") != "False"


def deleting(raw: dict, finalizer: str, when: str = "2026-01-01T00:00:00Z") -> dict:
    meta = {**copy.deepcopy(raw["metadata"]), "deletionTimestamp": when, "finalizers": [finalizer]}
    return {**copy.deepcopy(raw), "metadata": meta}


@pytest.mark.parametrize("suspended", [False, True])
def test_what_a_finalizer_of_somebody_else_keeps_is_named(rig, suspended):
    """An object that does not go says in the job which finalizer keeps it; once that is off the job goes on."""
    rig.submit(job())
    rig.settle()
    key = ("Job", "ns", "j-trainers-0")
    rig.api.put("Job", deleting(rig.api.objects[key], FINALIZER))
    raw = copy.deepcopy(rig.api.objects[JOB])
    raw["spec"]["runPolicy"] = {"suspend": suspended}
    rig.api.put(names.KIND, raw)
    rig.settle()
    before = writes(rig)
    for _ in range(20):
        rig.api.now += dt.timedelta(seconds=60)
        rig.again()
    told = rig.condition("Reconciled")
    assert (told["status"], told["reason"]) == ("False", "HeldByFinalizer")
    assert "Job/j-trainers-0" in told["message"] and FINALIZER in told["message"]
    assert suspended or rig.condition("Running")["reason"] == "HeldByFinalizer"
    assert writes(rig) - before <= 4 and key in rig.api.objects
    rig.api.remove(key)
    rig.settle()
    assert rig.condition("Reconciled")["status"] == "True"
    assert rig.status()["phase"] == ("Suspended" if suspended else "Restarting")
    assert suspended or "Job/j-trainers-1" in rig.kinds()


def test_kubernetes_own_finalizers_are_nobodys_fault(world):
    """A pod that its Job still counts is only slow; one with a finalizer of somebody else is held."""
    w = world().run()
    pod = w.pod("trainer")
    for finalizer, told in (("batch.kubernetes.io/job-tracking", False), (FINALIZER, True)):
        w.slow_deletion = True
        w.delete_pod(pod)
        pod["metadata"]["finalizers"] = [finalizer]
        w.after(100)
        assert (w.condition("Reconciled") or {}).get("reason") == ("HeldByFinalizer" if told else None)
    assert f"Pod/{pod['metadata']['name']}" in w.condition("Reconciled")["message"]


def test_the_finalizer_is_told_without_an_event(world):
    """The operator looks again by itself when an object should have gone."""
    w = world().run()
    held = w.objects["ConfigMap", "j-config"]["metadata"]
    held |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["foregroundDeletion", FINALIZER]}
    w.now = dt.datetime(2026, 1, 1, 0, 0, 1, tzinfo=dt.UTC)
    assert w.decide().again_at == dt.datetime(2026, 1, 1, 0, 0, 10, tzinfo=dt.UTC)


def test_a_clock_that_was_set_back_delays_no_word(rig):
    """An API server that takes no child is told although the first refusal lies an hour ahead of the clock."""
    rig.submit(job())
    rig.api.refuse = lambda method, raw: (500, "InternalError", "etcd") if raw["kind"] == "ConfigMap" else None
    rig.settle()
    rig.api.now -= dt.timedelta(hours=1)
    for _ in range(2):
        rig.again()
        rig.api.now += dt.timedelta(seconds=6)
    assert rig.condition("Running")["reason"] == "ApiServerError"


def test_a_clock_that_was_set_back_delays_no_repair(rig):
    """What was changed back and forth is put right within minutes of the new clock, and no attempt ends meanwhile."""
    rig.submit(job())
    rig.settle()
    key = ("Service", "ns", "j-oracle")
    for _ in range(8):
        raw = copy.deepcopy(rig.api.objects[key])
        raw["spec"]["clusterIP"] = "10.0.0.1"
        rig.api.put("Service", raw)
        rig.again()
    assert rig.condition("Reconciled")["reason"] == "Contested"
    rig.api.now -= dt.timedelta(hours=1)
    rig.again()
    rig.api.now += dt.timedelta(seconds=301)
    rig.again()
    assert rig.api.objects[key]["spec"]["clusterIP"] == "None" and rig.status()["attempt"] == 0
