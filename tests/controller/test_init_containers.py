"""An init container that fails is a failure of its role, with its words; one that is taken is a disruption."""

import pytest


@pytest.mark.parametrize("code", [1, 75, 78, 128, 143])
def test_an_init_container_that_fails_is_a_failure_with_its_words(world, code):
    """An init container's end counts towards backoffLimit whatever its exit code says in the library's words."""
    w = world({"runPolicy": {"backoffLimit": 1}}).settle()
    w.end_init(w.pod("trainer", 1), code, "fetching\nno such bucket")
    w.settle()
    failure = w.status["lastFailure"]
    assert (w.status["restarts"], failure["reason"], failure["exitCode"]) == (1, "Crashed", code)
    assert f"init container fetch exited with {code}: no such bucket" in failure["message"]
    w.after(60)
    w.end_init(w.pod("trainer", 0), code)
    w.settle()
    assert w.condition("Failed")["reason"] == "BackoffLimitExceeded"


def test_a_pod_that_is_taken_in_its_init_container_was_disrupted(world):
    """A drain that ends an init container is no failure of the job."""
    w = world().settle()
    pod = w.pod("trainer")
    w.end_init(pod, 143)
    pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]
    w.settle()
    assert (w.status.get("restarts", 0), w.status["disruptions"]) == (0, 1)


def test_what_prepares_a_server_and_fails_counts_like_its_process(world):
    """The kubelet starts a server's init container again for ever; the job ends at its limit, with its words."""
    w = world({"runPolicy": {"backoffLimit": 2}}).settle()
    pod = w.pod("server", 1)

    def failed(times, code=1, **more):
        ended = {"exitCode": code, "reason": "Error", "message": "fetching\nno such bucket"}
        waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
        last = {"name": "fetch", "restartCount": times, "state": waiting, "lastState": {"terminated": ended}}
        pod["status"] = {"phase": "Pending", "initContainerStatuses": [{**last, **more}]}
        return w.settle()

    assert failed(2, code=78).condition("Failed") is None
    pod["spec"]["initContainers"] = [{"name": "fetch", "restartPolicy": "Always"}]
    assert failed(9).condition("Failed") is None, "what stays beside the server prepares nothing"
    pod["spec"]["initContainers"] = [{"name": "fetch"}]
    done = {"state": {"terminated": {"exitCode": 0}}}
    assert failed(9, **done).condition("Failed") is None, "it has done its work in the end"
    failed(3)
    told = w.condition("Failed")
    assert told["reason"] == "BackoffLimitExceeded"
    assert (
        "3 failures, backoffLimit 2: server 1 (j-servers-1) init container fetch exited with 1: no such bucket"
        in (told["message"])
    )
