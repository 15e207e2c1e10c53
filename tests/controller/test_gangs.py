"""A job's pods run together or give their nodes back: with a gang scheduler, and without one."""

import pytest
from fake_api import FakeApi
from rig import Rig, job

from bagpipe_operator.policies import backoff, partial

KINDS = {"Volcano": "PodGroup.scheduling.volcano.sh", "Coscheduling": "PodGroup.scheduling.x-k8s.io"}
SCHEDULERS = {"Volcano": "volcano", "Coscheduling": "scheduler-plugins-scheduler"}


def group_of(template, gang):
    meta = template["metadata"]
    if gang == "Volcano":
        return meta["annotations"]["scheduling.k8s.io/group-name"]
    return meta["labels"]["scheduling.x-k8s.io/pod-group"]


@pytest.mark.parametrize("gang", KINDS)
def test_a_gang_is_a_pod_group_of_all_pods(world, gang):
    """All pods name one PodGroup, which wants all of them, and the gang scheduler; scaled, it wants more."""
    w = world({"runPolicy": {"gang": gang}}, settings={"gangSchedulers": [gang]}).run()
    group = w.objects[KINDS[gang], "j-gang"]
    assert group["spec"]["minMember"] == 5
    made = [o["spec"]["template"] for (kind, _), o in w.objects.items() if kind in ("Job", "StatefulSet")]
    assert len(made) == 3 and all(group_of(template, gang) == "j-gang" for template in made)
    assert {p["spec"]["schedulerName"] for p in w.live_pods()} == {SCHEDULERS[gang]}
    w.spec["trainers"] = {"replicas": 4}
    w.run()
    assert w.objects[KINDS[gang], "j-gang"]["spec"]["minMember"] == 7 and w.is_true("Running")
    w.complete()
    assert (KINDS[gang], "j-gang") not in w.objects


def test_a_scheduler_of_ones_own_is_kept(world):
    """A gang scheduler that runs under another name is the one that the job names."""
    spec = {"runPolicy": {"gang": "Coscheduling"}, "allRoles": {"schedulerName": "ours"}}
    w = world(spec, settings={"gangSchedulers": ["Coscheduling"]}).settle()
    assert {p["spec"]["schedulerName"] for p in w.pods()} == {"ours"}


def test_a_gang_that_nobody_serves_is_refused(world):
    """A job whose gang scheduler this installation does not serve fails at once; one that runs goes on without it."""
    w = world({"runPolicy": {"gang": "Volcano"}}).settle()
    assert w.condition("Failed")["reason"] == "InvalidSpec" and w.pods() == []
    assert "does not serve Volcano; gangSchedulers: none" in w.condition("Failed")["message"]
    w = world({"runPolicy": {"gang": "Volcano"}}, settings={"gangSchedulers": ["Volcano"]}).run()
    w.settings = world().settings
    assert w.settle().is_true("Running")


def test_volcano_takes_queue_and_priority(world):
    """The queue and the priority class of the job are the PodGroup's."""
    spec = {"runPolicy": {"gang": "Volcano", "queueName": "q"}, "allRoles": {"priorityClassName": "p"}}
    w = world(spec, settings={"gangSchedulers": ["Volcano"]}).settle()
    assert w.objects[KINDS["Volcano"], "j-gang"]["spec"] == {"minMember": 5, "queue": "q", "priorityClassName": "p"}


def test_a_gang_has_no_other_priority_than_its_pods(world):
    """A priority class that `jobs.limits` does not allow reaches Volcano's queue no more than the pods."""
    below = {"podTemplate": {"spec": {"priorityClassName": "batch"}}}
    spec = {"runPolicy": {"gang": "Volcano"}, "allRoles": {"priorityClassName": "critical", **below}}
    limits = {"priorityClasses": ["batch"]}
    w = world(spec, settings={"gangSchedulers": ["Volcano"], "jobLimits": limits}).settle()
    assert w.objects[KINDS["Volcano"], "j-gang"]["spec"]["priorityClassName"] == "batch"


def test_another_gang_leaves_no_group_behind(world):
    """A job that names another gang scheduler while held has that one's group, and none if it names none."""
    w = world({"runPolicy": {"gang": "Volcano"}}, settings={"gangSchedulers": list(KINDS)}).run()

    def edited(**policy):
        w.spec["runPolicy"] |= policy
        return w.settle()

    edited(suspend=True)
    edited(gang="Coscheduling", suspend=False)
    assert {kind for kind, _ in w.objects if kind in KINDS.values()} == {KINDS["Coscheduling"]}
    edited(suspend=True)
    edited(gang="None")
    assert not {kind for kind, _ in w.objects if kind in KINDS.values()}


@pytest.mark.parametrize("gang", KINDS)
def test_the_api_server_is_asked_by_the_right_names(gang):
    """What is sent is a PodGroup of the scheduler's API group; it is made once, and taken away at the end."""
    rig = Rig(FakeApi(), {"gangSchedulers": [gang]})
    try:
        rig.submit(job(runPolicy={"gang": gang}))
        rig.settle()
        made = rig.api.objects[KINDS[gang], "ns", "j-gang"]
        group = {"Volcano": "scheduling.volcano.sh/v1beta1", "Coscheduling": "scheduling.x-k8s.io/v1alpha1"}[gang]
        assert (made["kind"], made["apiVersion"], made["spec"]) == ("PodGroup", group, {"minMember": 3})
        before = len(rig.api.requests)
        rig.again()
        assert [m for m, _ in rig.api.requests[before:] if m != "GET"] == []
    finally:
        rig.close()


def half_placed(world, **policy):
    """A job with three of five pods on a node, where the others find none."""
    w = world({"runPolicy": policy}).settle()
    for pod in w.live_pods()[:3]:
        pod["spec"]["nodeName"] = "n1"
    for pod in w.live_pods()[3:]:
        lacking = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}
        pod["status"]["conditions"] = [lacking]
    return w.settle()


def test_nodes_that_cannot_be_used_are_given_back(world):
    """A job with pods on nodes and others without gives all back after a while, says why, and counts no failure."""
    w = half_placed(world, backoffLimit=0)
    assert w.after(599).status.get("attempt", 0) == 0
    w.after(1)
    assert w.status["attempt"] == 1 and w.pods() == []
    restarting = w.condition("Restarting")
    assert restarting["reason"] == "PartlyPlaced" and w.status["phase"] == "Restarting"
    assert "3 of 5 pods have had nodes for 600 s" in restarting["message"] and "0/2 nodes" in restarting["message"]
    assert w.status["restarts"] == 0 and w.status["disruptions"] == 0
    assert ("Warning", "PartlyPlaced") in w.events


def test_the_next_try_comes_later_each_time(world):
    """Each time a job gave its nodes back it waits longer, and each job for a time of its own."""
    w, waits = half_placed(world, startupDeadlineSeconds=100_000), []
    for _ in range(5):
        for pod in w.live_pods()[:1]:
            pod["spec"]["nodeName"] = "n1"
        w.after(600)
        start = backoff.start_time(w.job, w.job.status)
        waits.append((start - w.now).total_seconds())
        assert w.pods() == []
        w.now = start
        w.settle()
        assert len(w.pods()) == 5
    assert all(5 * 2**n <= wait <= 15 * 2**n for n, wait in enumerate(waits[:4], start=0)), waits
    lots = {backoff._lot(f"uid-{n}", 1) for n in range(20)}
    assert len(lots) == 20 and min(lots) < 0.3 and max(lots) > 0.7


@pytest.mark.parametrize("placed", [0, 5])
def test_all_or_nothing_placed_is_waited_for(world, placed):
    """A job without a node holds up nobody; one whose pods all have nodes may be pulling its images."""
    w = world({"runPolicy": {"startupDeadlineSeconds": 100_000}}).settle()
    for pod in w.live_pods()[:placed]:
        pod["spec"]["nodeName"] = "n1"
    w.after(5000)
    assert w.status.get("attempt", 0) == 0 and len(w.pods()) == 5


def test_giving_back_ends_at_the_startup_deadline(world):
    """Giving nodes back does not begin the wait for all pods anew: without nodes the job ends with that reason."""
    w = half_placed(world, startupDeadlineSeconds=1000)
    w.after(600)
    w.after(20)
    for pod in w.live_pods()[:1]:
        pod["spec"]["nodeName"] = "n1"
    w.after(380)
    assert w.is_true("Failed") and "not all pods ran within 1000 s" in w.condition("Failed")["message"]


def test_a_job_that_runs_gives_nothing_back(world):
    """A server's pod that looks for a node within a running attempt is no reason to give the others back."""
    w = world({"servers": {"replicas": 2, "volumeClaim": {"size": "1Gi"}}}).run()
    w.delete_pod(w.pod("server"))
    w.settle()
    w.after(10_000)
    assert w.status.get("attempt", 0) == 0 and partial.end(w.job, w.job.status) is None
