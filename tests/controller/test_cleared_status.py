"""A status that somebody cleared by hand, at any moment: the job goes on, no number is used twice, nothing hangs."""

import pytest

from bagpipe_operator.settings import Settings


def second_attempt(w):
    """The first attempt's servers have been told to go and are still there."""
    w.run()
    w.slow_deletion = True
    w.end(w.pod("trainer"), 1)
    w.settle()
    return w


def waiting(w):
    """Two short attempts have ended, and the third waits its ten seconds."""
    w.run()
    for _ in range(2):
        w.end(w.pod("trainer"), 1)
        w.settle()
        w.start_pods()
    w.settle()
    assert w.status["attempt"] == 2 and not w.live_pods("trainer")
    return w


def third(w):
    """The third attempt runs."""
    return waiting(w).after(60).run()


def servers_alone(w):
    """The third attempt's Jobs are gone, and its servers have not been told to go."""
    third(w)
    for key in [key for key in w.objects if key[0] == "Job"]:
        del w.objects[key]
    for pod in w.pods("trainer") + w.pods("oracle"):
        del w.objects["Pod", pod["metadata"]["name"]]
    return w


def suspended(w):
    """After an attempt that ended."""
    w.run()
    w.end(w.pod("trainer"), 1)
    w.run()
    w.spec["runPolicy"] = {"suspend": True}
    w.settle()
    return w


@pytest.mark.parametrize("moment", [second_attempt, waiting, third, servers_alone, suspended], ids=lambda m: m.__name__)
def test_a_status_that_was_cleared(world, moment):
    """The job comes to run with a number that no pod of an older attempt bears, and ends well."""
    w = moment(world())
    used = {int(p["metadata"]["labels"]["bagpipe.dev/attempt"]) for p in w.pods()}
    w.status = {}
    w.settle()
    w.let_go()
    w.spec["runPolicy"] = {}
    w.slow_deletion = False
    w.settle()
    w.after(60).run()
    assert w.status["phase"] == "Running", w.status
    assert {int(p["metadata"]["labels"]["bagpipe.dev/attempt"]) for p in w.live_pods()} == {w.status.get("attempt", 0)}
    assert w.status.get("attempt", 0) >= max(used, default=0)
    assert w.complete().status["phase"] == "Complete"


def test_a_running_attempt_goes_on_when_its_status_is_cleared(world):
    """No pod is touched, not even by a release with other images, and the status says again what is so."""
    w = world().run()
    before = {key: raw["metadata"]["uid"] for key, raw in w.objects.items()}
    w.settings = Settings.of({"trainerImage": "trainer:2", "serverImage": "server:2"})
    w.status = {}
    w.settle()
    assert {key: raw["metadata"]["uid"] for key, raw in w.objects.items()} == before
    assert w.status["phase"] == "Running" and w.status.get("attempt", 0) == 0 and w.status.get("restarts", 0) == 0
    assert w.decide().apply == ()
