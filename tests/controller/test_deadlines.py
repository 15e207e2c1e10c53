"""How long a job may start and run, and what it says when that is over."""

import datetime as dt

import pytest


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "CreateContainerConfigError", "InvalidImageName"])
def test_startup_deadline_names_the_reason(world, reason):
    """A job that cannot start says why while it waits, and fails with that reason."""
    w = world({"runPolicy": {"startupDeadlineSeconds": 60}}).settle()
    w.start_pods()
    w.wait_for(w.pod("trainer", 1), reason, "no such image")
    w.pod("trainer", 1)["status"]["conditions"] = []
    w.settle()
    assert w.condition("Running")["reason"] == reason and w.condition("Running")["status"] == "False"
    assert w.again_at == w.now + dt.timedelta(seconds=60)
    w.after(60)
    assert w.condition("Failed")["reason"] == reason and "no such image" in w.condition("Failed")["message"]


def test_unschedulable_is_named(world):
    """Resources that no node has end in a named reason."""
    w = world({"runPolicy": {"startupDeadlineSeconds": 60}}).settle()
    w.pod("server")["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}
    ]
    assert w.after(60).condition("Failed")["reason"] == "Unschedulable"


def test_startup_deadline_without_a_known_reason(world):
    """Where nothing is known to be wrong the deadline itself is the reason."""
    w = world({"runPolicy": {"startupDeadlineSeconds": 60}}).settle()
    assert w.after(60).condition("Failed")["reason"] == "StartupDeadlineExceeded"


def test_startup_deadline_is_not_renewed_by_attempts_that_never_ran(world):
    """Attempts that fail before all pods ran share one deadline: no endless start."""
    w = world({"runPolicy": {"startupDeadlineSeconds": 60}}).settle()
    w.now += dt.timedelta(seconds=40)
    w.end(w.pod("trainer"), 75)
    w.settle()
    assert w.status["attempt"] == 1
    assert w.after(20).is_true("Failed")


def test_active_deadline(world):
    """The clock starts with the first run, goes on through restarts, and stands still while held."""
    w = world({"runPolicy": {"activeDeadlineSeconds": 100}}).settle()
    w.after(50)
    w.run()
    w.after(60)
    w.spec["runPolicy"]["suspend"] = True
    w.settle()
    w.after(1000)
    w.spec["runPolicy"]["suspend"] = False
    w.run()
    assert not w.after(39).is_true("Failed")
    assert w.after(1).condition("Failed")["reason"] == "DeadlineExceeded"
    assert w.live_pods() == []
