"""A job's life without accidents: start, run, end, clean-up, time to live, hold and resume, scaling."""

import datetime as dt

import pytest


def test_everything_is_made_at_once(world):
    """A new job gets configuration, addresses and all its pods in one pass: roles wait for each other by themselves."""
    w = world()
    w.step()
    assert w.kinds("Job") == ["j-oracle-0", "j-trainers-0"]
    assert w.kinds("StatefulSet") == ["j-servers"]
    assert w.kinds("Service") == ["j-oracle", "j-servers", "j-trainers"]
    assert w.kinds("ConfigMap") == ["j-config"]
    assert w.kinds("NetworkPolicy") == ["j-peers"]
    assert w.kinds("PodDisruptionBudget") == ["j-servers"]
    assert len(w.pods()) == 5


def test_running_when_all_pods_are_ready(world):
    """Running is true when every pod is ready, not earlier."""
    w = world().settle()
    assert w.status["phase"] == "Starting" and not w.is_true("Running")
    w.start_pods()
    w.pod("trainer", 1)["status"]["conditions"] = []
    assert not w.settle().is_true("Running")
    w.start_pods()
    w.settle()
    assert w.is_true("Running") and w.is_true("ServersReady") and w.status["phase"] == "Running"
    assert w.status["replicaStatuses"]["trainers"] == {
        "desired": 2, "ready": 2, "active": 2, "succeeded": 0, "failed": 0, "restarts": 0,
    }  # fmt: skip
    assert w.status["trainerReplicas"] == 2


def test_settled_job_is_not_written_to(world):
    """In a steady state a pass writes neither status nor objects, however often it comes."""
    w = world().run()
    writes = w.status_writes
    for _ in range(5):
        w.now += dt.timedelta(seconds=100)
        decision = w.decide()
        assert decision.apply == () and decision.delete == () and decision.events == ()
        w.settle()
    assert w.status_writes == writes


def test_a_running_job_is_not_starting(world):
    """Once all pods run the startup deadline is over, however long the job runs."""
    w = world({"runPolicy": {"startupDeadlineSeconds": 60}}).run()
    assert "startingSince" not in w.status
    w.after(10**6)
    assert w.is_true("Running") and not w.is_true("Failed")


def test_complete_needs_trainers_and_oracle(world):
    """The job is complete when all trainers and the oracle have ended well; the oracle's result becomes the summary."""
    w = world().run()
    for i in (0, 1):
        w.end(w.pod("trainer", i), 0)
    assert not w.settle().is_true("Complete")
    w.end(w.pod("oracle"), 0, '{"steps": 5, "modelDigest": "abc"}')
    w.settle()
    assert w.is_true("Complete") and not w.is_true("Running") and w.status["phase"] == "Complete"
    assert w.status["summary"] == {"steps": 5, "modelDigest": "abc"}
    assert ("Normal", "Completed") in w.events


def test_the_result_is_kept_as_soon_as_it_is_there(world):
    """The oracle's result outlives its pod, which a drain may take before the last trainer ends."""
    w = world().run()
    w.end(w.pod("oracle"), 0, '{"modelDigest": "abc"}')
    w.settle()
    for pod in w.pods("oracle"):
        w.delete_pod(pod)
    w.settle().complete()
    assert w.is_true("Complete") and w.status["summary"] == {"modelDigest": "abc"}
    assert "not known" not in w.condition("Complete")["message"]


def test_a_result_that_nobody_read_is_said_to_be_unknown(world):
    """If the oracle's pod was gone before its result was read, Complete says that it is not known."""
    w = world().run()
    for pod in w.live_pods("trainer"):
        w.end(pod, 0)
    w.end(w.pod("oracle"), 0, '{"modelDigest": "abc"}')
    w._controllers()
    for pod in w.pods("oracle"):
        w.delete_pod(pod)
    w.settle()
    assert w.is_true("Complete") and "summary" not in w.status
    assert "its result is not known" in w.condition("Complete")["message"]


def test_a_result_is_one_attempts(world):
    """A trainer that crashes after the oracle reported starts a new attempt, which has no result yet."""
    w = world().run()
    w.end(w.pod("oracle"), 0, '{"modelDigest": "abc"}')
    w.settle()
    assert w.status["summary"] == {"modelDigest": "abc"}
    w.end(w.pod("trainer", 0), 1, "boom")
    w.settle()
    assert w.status["attempt"] == 1 and "summary" not in w.status


@pytest.mark.parametrize(
    ("policy", "pods", "sets", "config"),
    [("Running", 3, [], ["j-config"]), ("All", 0, [], []), ("None", 5, ["j-servers"], ["j-config"])],
)
def test_clean_pod_policy(world, policy, pods, sets, config):
    """Running keeps finished pods for their logs and ends the servers; All leaves nothing; None touches nothing."""
    w = world({"runPolicy": {"cleanPodPolicy": policy}}).run().complete()
    assert len(w.pods()) == pods
    assert w.kinds("StatefulSet") == sets
    assert w.kinds("ConfigMap") == config


def test_failed_job_ends_its_running_pods(world):
    """When a job fails, the oracle that still runs is ended, and what had ended stays for its logs."""
    w = world({"runPolicy": {"backoffLimit": 0}}).run()
    w.end(w.pod("trainer", 0), 1, "boom")
    w.settle()
    assert w.is_true("Failed") and w.live_pods() == []
    assert len(w.pods("trainer")) == 1
    assert w.objects["Job", "j-oracle-0"]["spec"]["suspend"] is True


def test_time_to_live(world):
    """A finished job is deleted when its time is over, and reconciled again exactly then."""
    w = world({"runPolicy": {"ttlSecondsAfterFinished": 100}}).run().complete()
    assert not w.after(99).gone
    assert w.again_at == w.now + dt.timedelta(seconds=1)
    assert w.after(1).gone


def test_no_time_to_live_keeps_the_job(world):
    """Without a time to live a finished job stays."""
    assert not world().run().complete().after(10**7).gone


def test_terminal_is_sticky(world):
    """What happens to the pods of a finished job changes nothing in its status."""
    w = world().run().complete()
    status = dict(w.status)
    for pod in w.pods():
        w.delete_pod(pod)
    w.spec["runPolicy"] = {"suspend": True}
    w.after(1000)
    assert w.status == status


def test_suspended_from_the_start_makes_nothing(world):
    """A job that is created suspended costs one status write and no object."""
    w = world({"runPolicy": {"suspend": True}}).settle()
    assert w.objects == {} and w.status_writes == 1
    assert w.is_true("Suspended") and w.status["phase"] == "Suspended"


def test_first_start_is_attempt_zero(world):
    """Releasing a job that never ran starts attempt 0."""
    w = world({"runPolicy": {"suspend": True}}).settle()
    w.spec["runPolicy"]["suspend"] = False
    w.run()
    assert w.status.get("attempt") == 0 and w.is_true("Running") and not w.is_true("Suspended")


def test_suspend_stops_trainers_first(world):
    """Trainers go first, so that servers and oracle are there while they write their checkpoint; then the rest."""
    w = world().run()
    w.slow_deletion = True
    w.spec["runPolicy"] = {"suspend": True}
    w.settle()
    assert all("deletionTimestamp" in p["metadata"] for p in w.pods("trainer"))
    assert not any("deletionTimestamp" in p["metadata"] for p in w.pods("server") + w.pods("oracle"))
    assert w.status["phase"] == "Suspending" and not w.is_true("Suspended")
    w.let_go().settle()
    assert all("deletionTimestamp" in p["metadata"] for p in w.pods("server") + w.pods("oracle"))
    w.let_go().settle()
    assert w.pods() == [] and w.is_true("Suspended")
    assert w.kinds("StatefulSet") == ["j-servers"] and len(w.kinds("Service")) == 3


def test_resume_is_a_new_attempt_that_counts_as_no_failure(world):
    """After a hold the job goes on from its checkpoint under a new number; no counter moves."""
    w = world().run()
    w.spec["runPolicy"] = {"suspend": True}
    w.settle()
    w.spec["runPolicy"] = {}
    w.run()
    assert w.status["attempt"] == 1 and w.is_true("Running")
    assert w.status["restarts"] == 0 and w.status["disruptions"] == 0
    assert w.kinds("Job") == ["j-oracle-1", "j-trainers-1"]
    assert ("Normal", "Resumed") in w.events


def test_a_service_leads_to_its_own_attempt(world):
    """The addresses of an attempt never lead to a pod of another one."""
    w = world().run()
    w.end(w.pod("trainer"), 1)
    w.run()
    for name in w.kinds("Service"):
        assert w.objects["Service", name]["spec"]["selector"]["bagpipe.dev/attempt"] == "1"


def test_scaling_is_a_checkpointed_restart(world):
    """Changing the number of trainers stops them gracefully and starts a new attempt with the new number."""
    w = world().run()
    w.spec["trainers"] = {"replicas": 3}
    w.generation += 1
    w.run()
    assert len(w.live_pods("trainer")) == 3 and w.status["attempt"] == 1
    assert w.status["restarts"] == 0 and w.status["disruptions"] == 0 and "lastFailure" not in w.status
    assert ("Normal", "Scaled") in w.events


@pytest.mark.parametrize(
    ("kind", "name"), [("Service", "j-oracle"), ("ConfigMap", "j-config"), ("NetworkPolicy", "j-peers")]
)
def test_deleted_child_comes_back(world, kind, name):
    """What is deleted by mistake is made again."""
    w = world().run()
    del w.objects[kind, name]
    w.settle()
    assert name in w.kinds(kind)


def test_changed_child_is_put_right(world):
    """What is changed by hand is put right; what the API server filled in is left alone."""
    w = world().run()
    service = w.objects["Service", "j-oracle"]
    service["spec"] |= {"publishNotReadyAddresses": False, "sessionAffinity": "None"}
    decision = w.decide()
    assert [o["metadata"]["name"] for o in decision.apply] == ["j-oracle"]
    w.settle()
    assert w.objects["Service", "j-oracle"]["spec"]["publishNotReadyAddresses"] is True


def test_a_newer_operator_changes_no_running_job(world):
    """A newer operator's images change nothing in a job that has begun, nor in its later attempts."""
    w = world().run()
    w.settings = type(w.settings).of({"trainerImage": "other:2", "serverImage": "other:2"})
    assert w.decide().apply == ()
    w.end(w.pod("trainer"), 1)
    w.run()
    assert w.pod("trainer")["spec"]["containers"][0]["image"] == "bagpipe-trainer:0.1.0"


def test_foreign_and_deleted_jobs_are_left_alone(world):
    """Another controller's job, and one that is on its way out, are not touched."""
    w = world({"runPolicy": {"managedBy": "kueue.x-k8s.io/multikueue"}})
    assert w.decide() is None
    ours = world({"runPolicy": {"managedBy": "bagpipe.dev/bagpipe-operator"}})
    assert ours.decide() is not None


def test_pods_of_an_older_job_of_this_name_hold_the_start(world):
    """While pods of a deleted job of the same name run, nothing is started next to them."""
    old = world().run()
    w = world()
    w.uid = "other-uid"
    w.objects = dict(old.objects)
    decision = w.decide()
    assert all(o["kind"] not in ("Job", "StatefulSet") for o in decision.apply)
    w.objects = {}
    assert len(w.settle().pods()) == 5


def test_lost_status_never_reuses_a_number(world):
    """With the status lost, the job goes on with the highest attempt that exists."""
    w = world().run()
    w.end(w.pod("trainer"), 1)
    w.run()
    w.status = {}
    w.settle()
    assert w.status["attempt"] == 1


def test_progress_is_copied(world):
    """What was read of the oracle's log becomes part of the status."""
    w = world().run()
    w.progress = {"step": 7, "examplesPerSecond": 10.5}
    assert w.settle().status["progress"] == {"step": 7, "examplesPerSecond": 10.5}


def test_curve_secret_is_made_with_each_attempt_only(world):
    """The Secret is created once an attempt: the operator cannot read it, and must not write in a steady state."""
    w = world({"transport": {"security": "curve"}}).run()
    assert w.secrets == 1
    w.after(1000)
    assert w.secrets == 1
