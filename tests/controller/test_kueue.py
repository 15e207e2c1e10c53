"""A job with a queue: held until admitted, stopped when evicted, and its reservation given back by us."""

import json

import pytest

from bagpipe_operator.observe import Obstacle

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


def admit(w, **more):
    counts = {s["name"]: s["count"] for s in w.objects[WORKLOAD]["spec"]["podSets"]}
    flavors = [{"name": role, "flavors": {"cpu": "f"}, "count": count, **more} for role, count in counts.items()]
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


@pytest.mark.parametrize("by", ["runPolicy.queueName", "the label kueue.x-k8s.io/queue-name"])
def test_without_kueue_a_queue_is_told_to_mean_nothing(world, by):
    """An installation without Kueue runs the job at once, and says so in a condition and one event."""
    policy = {"runPolicy": {"queueName": "q"}} if by.startswith("run") else {}
    w = world(policy, labels={} if policy else {"kueue.x-k8s.io/queue-name": "q"}).run()
    assert len(w.pods()) == 5 and w.is_true("Running")
    told = w.condition("QuotaReserved")
    assert (told["status"], told["reason"]) == ("False", "QueueIgnored") and f"{by} names the queue 'q'" in told[
        "message"
    ]
    w.end(w.pod("trainer"), 1)
    w.run()
    assert w.events.count(("Warning", "QueueIgnored")) == 1


def test_a_queues_name_taken_away_takes_its_condition_along(world):
    """What the job no longer asks for is in its status no longer, with Kueue and without."""
    label = {"kueue.x-k8s.io/queue-name": "q"}
    ignored = world(labels=dict(label)).run()
    ignored.labels.clear()
    assert ignored.settle().condition("QuotaReserved") is None
    served = world(labels=dict(label), settings={"kueue": True}).settle()
    admit(served)
    served.labels.clear()
    assert served.run().condition("QuotaReserved") is None and WORKLOAD not in served.objects


def test_a_priority_without_a_queue_is_told_to_mean_nothing(world):
    """A priority class of Kueue has an effect in a queue alone; without one the job runs, and says so."""
    for settings in ({"kueue": True}, {}):
        w = world({"runPolicy": {"workloadPriorityClass": "high"}}, settings=settings).run()
        told = w.condition("QuotaReserved")
        assert w.is_true("Running") and told["reason"] == "QueueIgnored" and "'high'" in told["message"]


def test_volcanos_queue_is_none_of_kueues(world):
    """With Volcano's gangs `queueName` is a queue of Volcano, which an installation without Kueue serves."""
    policy = {"runPolicy": {"queueName": "q", "gang": "Volcano"}}
    assert world(policy, settings={"gangSchedulers": ["Volcano"]}).run().condition("QuotaReserved") is None


def test_kueue_is_told_whether_all_pods_run(queued):
    """PodsReady follows Running, and is said once: Kueue with `waitForPodsReady` evicts a job that does not say it."""
    admit(queued)
    assert told(queued) == "True" and queued.decide().workload_status is None
    queued.end(queued.pod("trainer"), 1)
    queued.settle()
    assert told(queued) == "False" and queued.decide().workload_status is None


def told(w):
    listed = w.objects[WORKLOAD]["status"]["conditions"]
    return next((c["status"] for c in listed if c["type"] == "PodsReady"), None)


def asked(w):
    return {s["name"]: s["count"] for s in w.objects[WORKLOAD]["spec"]["podSets"]}


def test_more_trainers_queue_for_their_quota(queued):
    """Scaled up, the job stops at a checkpoint, and a new Workload asks for all that it needs; then it goes on."""
    admit(queued)
    uid = queued.objects[WORKLOAD]["metadata"]["uid"]
    queued.slow_deletion = True
    queued.spec["trainers"] = {"replicas": 6}
    queued.settle()
    assert queued.condition("Running")["reason"] == "QuotaChanges"
    assert queued.objects[WORKLOAD]["metadata"]["uid"] == uid and asked(queued)["trainer"] == 2  # Its pods still run.
    for _ in range(3):
        queued.let_go().settle()
    assert queued.pods() == [] and queued.status["phase"] == "Queued"
    assert queued.objects[WORKLOAD]["metadata"]["uid"] != uid and asked(queued)["trainer"] == 6
    queued.slow_deletion = False
    admit(queued)
    assert len(queued.live_pods("trainer")) == 6 and queued.status["attempt"] == 1 and queued.status["restarts"] == 0


def reclaimable(w):
    return {r["name"]: r["count"] for r in w.objects[WORKLOAD]["status"].get("reclaimablePods", ())}


def test_fewer_trainers_give_quota_back(world):
    """Scaled down, a job keeps its admission, and gives the rest back once the former trainers have ended."""
    w = world({"runPolicy": {"queueName": "q"}, "trainers": {"replicas": 6}}, settings={"kueue": True}).settle()
    admit(w)
    uid = w.objects[WORKLOAD]["metadata"]["uid"]
    w.slow_deletion = True
    w.spec["trainers"] = {"replicas": 2}
    w.settle()
    assert reclaimable(w) == {}
    for _ in range(3):
        w.let_go().settle()
    w.slow_deletion = False
    w.run()
    assert reclaimable(w) == {"trainer": 4} and w.objects[WORKLOAD]["metadata"]["uid"] == uid
    assert w.is_true("Running") and len(w.live_pods("trainer")) == 2
    w.spec["trainers"] = {"replicas": 3}
    w.settle()
    assert w.status["phase"] == "Queued" and asked(w)["trainer"] == 3  # What was given back must be queued for.


def test_trainers_that_have_ended_give_quota_back(queued):
    """A trainer that has ended well needs no quota; the attempt goes on with the others."""
    admit(queued)
    queued.end(queued.pod("trainer", 1), 0)
    queued.settle()
    assert reclaimable(queued) == {"trainer": 1} and queued.is_true("Running")
    queued.end(queued.pod("oracle"), 1)
    queued.settle()
    assert queued.status["phase"] == "Queued" and asked(queued)["trainer"] == 2  # The next attempt needs both again.


@pytest.mark.parametrize("change", ["requests", "queue"])
def test_what_changed_while_suspended_is_asked_anew(queued, change):
    """A suspended job has no Workload; resumed it asks for what it needs now, in the queue that it names now."""
    admit(queued)
    queued.spec["runPolicy"]["suspend"] = True
    queued.settle()
    assert WORKLOAD not in queued.objects and queued.status["phase"] == "Suspended"
    if change == "requests":
        queued.spec["servers"] = {"replicas": 2, "resources": {"requests": {"cpu": "3"}}}
    else:
        queued.spec["runPolicy"]["queueName"] = "other"
    queued.spec["runPolicy"]["suspend"] = False
    queued.settle()
    spec = queued.objects[WORKLOAD]["spec"]
    requests = [s["template"]["spec"]["containers"][0].get("resources") for s in spec["podSets"]]
    assert spec["queueName"] == ("q" if change == "requests" else "other") and queued.pods() == []
    assert requests[1] == ({"requests": {"cpu": "3"}} if change == "requests" else None)


def test_a_queue_holds_what_pods_are_counted_by(world):
    """A pod set has the sizes and the places of its pods and nothing else: thousands of jobs may wait in a queue."""
    place = {"tolerations": [{"key": "gpu", "operator": "Exists"}], "nodeSelector": {"zone": "a"}}
    sidecar = {"name": "proxy", "image": "p:1", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}
    claim = {"name": "data", "persistentVolumeClaim": {"claimName": "logs"}}
    volumes = {"volumes": [claim], "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    role = {"env": [{"name": "A", "value": "b"}], "resources": {"requests": {"cpu": "2"}}, **place, **volumes}
    more = {"allRoles": role, "runPolicy": {"queueName": "q"}, "trainers": {"initContainers": [sidecar]}}
    spec = world(more, settings={"kueue": True}).settle().objects[WORKLOAD]["spec"]
    found = {s["name"]: s["template"]["spec"] for s in spec["podSets"]}
    main = found["trainer"]["containers"][0]
    assert (
        main["resources"] == role["resources"]
        and main["image"]
        and not main.keys() & {"env", "command", "volumeMounts"}
    )
    assert found["trainer"]["initContainers"] == [sidecar] and found["oracle"]["volumes"] == [claim]
    assert all(pods["nodeSelector"]["zone"] == "a" for pods in found.values())
    assert all(place["tolerations"][0] in pods["tolerations"] for pods in found.values())
    assert len(json.dumps(spec)) < 2500


def test_an_edit_faster_than_the_end_of_the_pods_is_seen(queued):
    """Suspended, changed and resumed before its pods have ended, a job does not run on what was reserved before."""
    admit(queued)
    queued.slow_deletion = True
    queued.spec["runPolicy"]["suspend"] = True
    queued.settle()
    queued.spec["servers"] = {"replicas": 2, "resources": {"requests": {"cpu": "3"}}}
    queued.spec["runPolicy"]["suspend"] = False
    queued.settle()
    for _ in range(3):
        queued.let_go().settle()
    requests = queued.objects[WORKLOAD]["spec"]["podSets"][1]["template"]["spec"]["containers"][0]["resources"]
    assert requests == {"requests": {"cpu": "3"}} and queued.status["phase"] == "Queued"


def test_a_queue_by_label_that_changes_or_goes(world):
    """A queue that a label names may change at any time: the job queues in the new one, or needs no Workload."""
    w = world(settings={"kueue": True}, labels={"kueue.x-k8s.io/queue-name": "a"}).settle()
    admit(w)
    w.labels["kueue.x-k8s.io/queue-name"] = "b"
    w.settle()
    assert w.objects[WORKLOAD]["spec"]["queueName"] == "b" and w.pods() == []
    w.labels.clear()
    w.run()
    assert WORKLOAD not in w.objects and w.is_true("Running")


def test_a_release_with_other_templates_keeps_its_reservation(queued, monkeypatch):
    """What a newer operator puts into pods is not what quota is counted by: no job queues again because of it."""
    from bagpipe_operator import pods

    admit(queued)
    monkeypatch.setitem(pods._NO_SIDECARS, "a.newer/release", "x")
    assert queued.decide().apply == () and queued.settle().is_true("Running")


def test_a_part_of_a_job_is_no_job(queued):
    """An admission for fewer pods than the Workload asks for ends the job with the reason, before any pod is made."""
    counts = {"oracle": 1, "server": 2, "trainer": 1}
    assigned = [{"name": role, "flavors": {}, "count": count} for role, count in counts.items()]
    queued.objects[WORKLOAD]["status"] = {
        "conditions": conditions(QuotaReserved=True, Admitted=True),
        "admission": {"clusterQueue": "c", "podSetAssignments": assigned},
    }
    queued.settle()
    failed = queued.condition("Failed")
    assert failed["reason"] == "PartialAdmission" and "1 of 2 trainers" in failed["message"] and queued.pods() == []


def test_kueues_words_are_the_jobs(queued):
    """While a job waits it says what Kueue says; one that was deactivated says that, and is not activated by us."""
    said = conditions(QuotaReserved=False)
    said[0]["message"] = "insufficient quota for cpu in flavor f"
    queued.objects[WORKLOAD]["status"] = {"conditions": said}
    queued.settle()
    assert queued.condition("Suspended")["message"] == "waiting in queue q: insufficient quota for cpu in flavor f"
    queued.objects[WORKLOAD]["spec"]["active"] = False
    queued.settle()
    assert "was deactivated" in queued.condition("Suspended")["message"]
    assert queued.objects[WORKLOAD]["spec"]["active"] is False


def test_places_in_a_topology(world):
    """Annotations for Kueue's topologies become requests, by rank; placed pods wait at Kueue's gate for their place."""
    trainers = {"replicas": 2, "annotations": {"kueue.x-k8s.io/podset-required-topology": "rack"}}
    w = world({"runPolicy": {"queueName": "q"}, "trainers": trainers}, settings={"kueue": True}).settle()
    sets = {s["name"]: s.get("topologyRequest") for s in w.objects[WORKLOAD]["spec"]["podSets"]}
    index = "batch.kubernetes.io/job-completion-index"
    assert sets == {"oracle": None, "server": None, "trainer": {"required": "rack", "podIndexLabel": index}}
    admit(w, topologyAssignment={"levels": ["rack"], "domains": []})
    for role in ("server", "trainer"):
        pod = w.pod(role)
        assert pod["spec"]["schedulingGates"] == [{"name": "kueue.x-k8s.io/topology"}]
        assert pod["metadata"]["labels"]["kueue.x-k8s.io/podset"] == role
    template = w.objects["Job", "j-trainers-0"]["spec"]["template"]
    assert template["metadata"]["annotations"]["kueue.x-k8s.io/workload"] == "bagpipejob-j"
    servers = w.objects["StatefulSet", "j-servers"]["spec"]["template"]["metadata"]["annotations"]
    assert servers["kueue.x-k8s.io/podset-unconstrained-topology"] == "true"


def test_a_priority_class_that_is_deleted_ends_no_job(queued):
    """What the Workload has stands, as with Kueue's own kinds; a job that is made later is told what is missing."""
    queued.priorities = {}
    queued.settle()
    assert queued.status["phase"] == "Queued" and queued.objects[WORKLOAD]["spec"]["priority"] == 100
    admit(queued)
    assert queued.is_true("Running") and not queued.is_true("Failed")


def test_a_job_that_is_admitted_again_before_its_pods_have_ended_lost_nothing(queued):
    """A Workload that somebody deletes stops the job; the next one may be admitted while the pods still end."""
    admit(queued).slow_deletion = True
    del queued.objects[WORKLOAD]
    queued.settle()
    assert queued.status["phase"] == "Suspending"
    admit(queued)
    for _ in range(3):
        queued.let_go().settle()
    queued.slow_deletion = False
    queued.run()
    assert queued.is_true("Running") and queued.status.get("disruptions", 0) == 0


def test_quota_that_another_container_still_uses_is_not_given_back(queued):
    """A trainer that has ended gives its part back when its pod has: a container of a pod template may go on."""
    admit(queued)
    pod = queued.pod("trainer", 1)
    done = {"terminated": {"exitCode": 0, "reason": "Completed", "message": ""}}
    pod["status"]["containerStatuses"] = [{"name": "bagpipe", "restartCount": 0, "state": done}]
    queued.settle()
    assert not queued.objects[WORKLOAD]["status"].get("reclaimablePods")
    pod["status"]["phase"] = "Succeeded"
    queued.settle()
    assert queued.objects[WORKLOAD]["status"]["reclaimablePods"] == [{"name": "trainer", "count": 1}]


def test_a_workload_that_can_never_be_ends_the_job(world):
    """A job would wait for ever in a queue that it cannot enter: somebody's Workload has the name, or it is refused."""
    w = world({"runPolicy": {"queueName": "q"}}, settings={"kueue": True})
    w.refused = {WORKLOAD: Obstacle(reason="NameTaken", message="belongs to X", final=True)}
    w.settle()
    assert w.status["phase"] == "Failed" and w.condition("Failed")["reason"] == "NameTaken"
    w = world({"runPolicy": {"queueName": "q"}}, settings={"kueue": True})
    w.refused = {WORKLOAD: Obstacle(reason="ApiServerError", message="no answer")}
    w.settle()
    assert w.status["phase"] == "Queued" and w.condition("Reconciled")["reason"] == "ApiServerError"


def test_a_workload_that_goes_is_told_nothing_more(queued):
    """Evicted, and suspended before its pods have ended: the Workload goes, and nothing is written to what is gone."""
    admit(queued).slow_deletion = True
    queued.objects[WORKLOAD]["status"]["conditions"] += conditions(Evicted=True)
    queued.settle()
    queued.spec["runPolicy"] |= {"suspend": True}
    for _ in range(3):
        queued.let_go().settle()
    assert queued.is_true("Suspended") and WORKLOAD not in queued.objects
