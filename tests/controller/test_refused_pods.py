"""When a job's pods are looked at: before it begins or queues, and never again once it has run."""

import pytest

from bagpipe_operator import podcheck

WRONG = {"oracle": {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}}
SAYS = "spec.oracle.volumeMounts[0].name: these pods have no volume 'data'; declare it in volumes"


def test_nothing_is_made_of_a_job_whose_pods_would_be_refused(world):
    """It fails at once, with the setting and the remedy, and has no object but the event about it."""
    w = world(WRONG).settle()
    failed = w.condition("Failed")
    assert (failed["status"], failed["reason"], failed["message"]) == ("True", "InvalidSpec", SAYS)
    assert w.objects == {}


def test_it_is_said_before_the_job_queues(world):
    """Not hours later, when its turn has come."""
    w = world({**WRONG, "runPolicy": {"queueName": "q"}}, settings={"kueue": True}).settle()
    assert w.condition("Failed")["message"] == SAYS and w.kinds("Workload") == []


def test_a_job_that_has_run_is_ended_by_no_rule_that_a_release_has_learnt(world, monkeypatch):
    """An older operator ran it, with a field that its API server dropped: so the next attempt runs as well."""
    with monkeypatch.context() as older:
        older.setattr(podcheck, "pod_fault", lambda *_: None)
        w = world(WRONG).run()
    w.end(w.pod("trainer"), 1)
    w.run()
    assert w.is_true("Running") and w.status["attempt"] == 1


@pytest.mark.parametrize("changed", [WRONG, {"data": {"path": "here.csv"}}], ids=["pods", "paths"])
def test_a_change_is_looked_at(world, changed):
    """Also of a job that has run: it was suspended, changed, and is resumed."""
    w = world().run()
    w.spec["runPolicy"] = {"suspend": True}
    w.settle()
    w.spec = {**w.spec, **changed, "runPolicy": {}}
    w.settle()
    assert w.condition("Failed")["reason"] == "InvalidSpec"
    assert ("volume 'data'" in w.condition("Failed")["message"]) is (changed is WRONG)
