"""A job with a queue: held until admitted, stopped when evicted, and its reservation given back by us."""

import pytest

T0 = "2026-01-01T00:00:00Z"
WORKLOAD = ("Workload", "bagpipejob-j")


def conditions(**true_or_false: bool) -> list[dict]:
    return [
        {"type": kind, "status": str(value), "reason": "R", "message": "m", "lastTransitionTime": T0}
        for kind, value in true_or_false.items()
    ]


@pytest.fixture
def queued(world):
    w = world({"runPolicy": {"queueName": "q", "workloadPriorityClass": "high"}}, settings={"kueue": True})
    w.priorities = {"high": {"value": 100}}
    return w.settle()


def admit(w):
    flavors = [{"name": role, "flavors": {"cpu": "f"}} for role in ("oracle", "server", "trainer")]
    w.objects[WORKLOAD]["status"] = {
        "conditions": conditions(QuotaReserved=True, Admitted=True),
        "admission": {"clusterQueue": "c", "podSetAssignments": flavors},
    }
    return w.run()


def test_held_until_admitted(queued):
    """There is a Workload with a pod set for each role, and no pod."""
    assert queued.pods() == [] and queued.status["phase"] == "Queued"
    spec = queued.objects[WORKLOAD]["spec"]
    assert [(s["name"], s["count"]) for s in spec["podSets"]] == [("oracle", 1), ("server", 2), ("trainer", 2)]
    assert spec["queueName"] == "q" and (spec["priorityClassName"], spec["priority"]) == ("high", 100)
    assert queued.condition("Suspended")["reason"] == "WaitingForQuota"


def test_admitted_runs(queued):
    """Admitted, it starts as attempt 0."""
    admit(queued)
    assert queued.is_true("Running") and queued.is_true("QuotaReserved") and queued.status.get("attempt", 0) == 0


def test_evicted_gives_back_only_when_the_pods_are_gone(queued):
    """The reservation is kept while a pod may still run; then it is given back, and the job queues again."""
    admit(queued)
    queued.slow_deletion = True
    queued.objects[WORKLOAD]["status"]["conditions"] += conditions(Evicted=True)
    queued.settle()
    assert queued.objects[WORKLOAD]["status"]["admission"]
    for _ in range(3):
        queued.let_go().settle()
    status = queued.objects[WORKLOAD]["status"]
    assert "admission" not in status and queued.pods() == []
    now = {c["type"]: c["status"] for c in status["conditions"]}
    assert now["QuotaReserved"] == "False" and now["Admitted"] == "False" and now["Requeued"] == "True"
    assert queued.status["phase"] == "Queued"


def test_admitted_again_goes_on(queued):
    """After a preemption the job goes on as a new attempt that counts as no failure."""
    admit(queued)
    queued.objects[WORKLOAD]["status"]["conditions"] += conditions(Evicted=True)
    queued.settle()
    admit(queued)
    assert queued.status["attempt"] == 1 and queued.status["restarts"] == 0 and queued.is_true("Running")


def test_finished_is_told(queued):
    """A finished job frees its quota."""
    admit(queued).complete()
    told = {c["type"]: (c["status"], c["reason"]) for c in queued.objects[WORKLOAD]["status"]["conditions"]}
    assert told["Finished"] == ("True", "Succeeded")


def test_without_kueue_a_queue_means_nothing(world):
    """An installation without Kueue runs the job at once."""
    assert len(world({"runPolicy": {"queueName": "q"}}).settle().pods()) == 5


def test_kueue_is_told_whether_all_pods_run(queued):
    """PodsReady follows Running, and is said once: Kueue with `waitForPodsReady` evicts who does not say it."""
    admit(queued)
    assert told(queued) == "True" and queued.decide().workload_status is None
    queued.end(queued.pod("trainer"), 1)
    queued.settle()
    assert told(queued) == "False" and queued.decide().workload_status is None


def told(w):
    listed = w.objects[WORKLOAD]["status"]["conditions"]
    return next((c["status"] for c in listed if c["type"] == "PodsReady"), None)
