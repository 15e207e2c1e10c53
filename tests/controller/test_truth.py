"""What stands in the status is true, of the present, and whole."""


def test_a_finished_job_has_nothing_active(world):
    """The status of a job that ended shows no pod as active or ready, and no time to go."""
    w = world().run()
    w.progress = {"step": 7, "etaSeconds": 60}
    w.settle()
    w.complete()
    for role in ("oracle", "servers", "trainers"):
        assert (w.status["replicaStatuses"][role]["active"], w.status["replicaStatuses"][role]["ready"]) == (0, 0)
    assert w.status["replicaStatuses"]["trainers"]["succeeded"] == 2 and w.status["trainerReplicas"] == 2
    assert w.status["progress"] == {"step": 7} and w.status["readyPods"]["servers"] == "0/2"


def test_pods_that_are_kept_are_counted(world):
    """With `cleanPodPolicy: None` the servers go on, and the status says so."""
    w = world({"runPolicy": {"cleanPodPolicy": "None"}}).run().complete()
    assert w.status["replicaStatuses"]["servers"]["active"] == 2 and w.status["readyPods"]["servers"] == "2/2"


def shown(w):
    return w.status["phase"], w.status["reason"], w.status["phaseTime"]


def test_the_phase_has_a_reason_and_an_age(world):
    """Each phase says why it is and since when; what was spent in the others is kept."""
    w = world().settle()
    assert shown(w) == ("Starting", "Starting", "2026-01-01T00:00:00Z")
    w.after(30)
    w.start_pods()
    w.settle()
    assert shown(w) == ("Running", "PodsReady", "2026-01-01T00:00:30Z")
    w.after(90)
    w.end(w.pod("trainer"), 1)
    w.settle()
    assert shown(w) == ("Restarting", "Crashed", "2026-01-01T00:02:00Z")
    w.after(5)
    w.run()
    w.after(5)
    w.complete()
    assert shown(w) == ("Complete", "Completed", "2026-01-01T00:02:10Z")
    assert w.status["durations"] == {"Starting": 30, "Running": 95, "Restarting": 5}


def test_the_observed_generation_follows_also_at_the_end(world):
    """An edit of a finished job is seen, though nothing comes of it."""
    w = world().run().complete()
    w.generation = 2
    before = w.status["conditions"]
    assert w.settle().status["observedGeneration"] == 2 and w.status["conditions"] == before


def test_conditions_say_which_generation_they_judged(world):
    """Each condition bears the generation of the spec that it was judged by."""
    w = world().run()
    w.generation = 3
    w.settle()
    assert {c["observedGeneration"] for c in w.status["conditions"]} == {3}


def test_a_server_that_does_not_come_back_is_told(world):
    """All pods have run, and a server's next pod finds no node or image: the job says which, and why, once."""
    w = world({"servers": {"replicas": 2, "volumeClaim": {}}}).run()
    w.delete_pod(w.pod("server", 1))
    w.settle()
    w.pod("server", 1)["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}
    ]
    w.settle()
    told = w.condition("ServersReady")
    assert w.is_true("Running") and told["status"] == "False"
    assert told["message"] == "1 of 2 servers are ready: server 1 (j-servers-1) does not start (Unschedulable)"
    assert w.events.count(("Warning", "PodsNotReady")) == 1
    writes = w.status_writes
    for reason in ("ErrImagePull", "ImagePullBackOff", "ErrImagePull"):
        w.pod("server", 1)["status"] = {"phase": "Pending"}
        w.wait_for(w.pod("server", 1), reason, "x")
        w.settle()
    assert w.status_writes == writes + 1
