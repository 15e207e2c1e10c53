"""A job that does not run says why, in the words of the component that reports it, as long as they are true."""

import datetime as dt

import pytest

from bagpipe_operator import warned
from bagpipe_operator.observe import Obstacle

EPHEMERAL = {
    "volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
}
TOLD = Obstacle(reason="FailedCreate", message="pods is forbidden: exceeded quota: small")


def event(uid, reason, message, when="2026-01-01T00:00:00Z", kind="Warning", **rest):
    return {
        "metadata": {"creationTimestamp": when},
        "involvedObject": {"uid": uid},
        "type": kind,
        "reason": reason,
        "message": message,
        **rest,
    }


def test_the_newest_warning_counts():
    """Of several warnings about an object the one that was last seen is kept; what is no warning is not."""
    found = warned.newest(
        [
            event("a", "FailedMount", "old", "2026-01-01T00:00:00Z"),
            event("a", "FailedMount", "new", "2026-01-01T00:00:00Z", lastTimestamp="2026-01-01T00:09:00Z"),
            event("a", "FailedMount", "older", "2026-01-01T00:05:00Z"),
            event("b", "Scheduled", "fine", kind="Normal"),
            event("c", "Unhealthy", "readiness probe failed"),
            {"reason": "FailedMount"},
            event("d", "FailedCreate", "x", None, series={"lastObservedTime": "nonsense"}),
        ]
    )
    assert {uid: o.message for uid, o in found.items()} == {"a": "new", "d": "x"}


@pytest.mark.parametrize("reason", ["FailedMapVolume", "FailedPrepareDynamicResources", "NetworkNotReady"])
def test_what_else_a_kubelet_lacks_before_it_starts_a_pod(world, reason):
    """A disk without a file system, a device, or its network: the pod says only that its containers are created."""
    w = world().settle()
    pod = w.pod("trainer", 1)
    w.warnings = warned.newest([event(pod["metadata"]["uid"], reason, "the node's words")])
    w.settle()
    assert w.condition("Running")["reason"] == reason and "the node's words" in w.condition("Running")["message"]
    w.start_pods()
    w.settle()
    assert w.is_true("Running")


@pytest.mark.parametrize("kind", ["StatefulSet", "Job"])
def test_pods_that_may_not_be_made(world, kind):
    """A controller that may not make pods is heard, while pods are missing; then its old words count no more."""
    w = world()
    w.decide()
    w.step()
    name = {"StatefulSet": "j-servers", "Job": "j-trainers-0"}[kind]
    role = {"StatefulSet": "server", "Job": "trainer"}[kind]
    for pod in w.pods(role):
        w.delete_pod(pod, force=True)
    w.warnings = {w.objects[kind, name]["metadata"]["uid"]: TOLD}
    w._carry_out(w.decide())
    running = w.condition("Running")
    assert (running["status"], running["reason"]) == ("False", "FailedCreate")
    assert f"{kind} {name}: pods is forbidden: exceeded quota" in running["message"]
    assert ("Warning", "FailedCreate") in w.events
    w.settle()
    assert w.condition("Running")["reason"] == "Starting"
    w.start_pods()
    assert w.settle().is_true("Running")


def test_a_volume_that_cannot_be_mounted(world):
    """The kubelet's warning about a pod that is not ready is the reason; about one that is ready it is history."""
    w = world().settle()
    uid = w.pod("trainer", 1)["metadata"]["uid"]
    w.warnings = {uid: Obstacle(reason="FailedMount", message='configmap "code" not found')}
    w.settle()
    assert w.condition("Running")["reason"] == "FailedMount"
    assert "trainer 1" in w.condition("Running")["message"] and 'configmap "code"' in w.condition("Running")["message"]
    w.start_pods()
    w.settle()
    assert w.is_true("Running")


def without_volume(w, pod):
    """The scheduler's words about a pod whose claim has no volume."""
    message = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."
    placed = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    pod["status"]["conditions"] = [placed]
    return w


@pytest.mark.parametrize(
    ("spec", "claim"),
    [
        ({"checkpoint": {"volumeClaim": {"storageClassName": "nope"}}}, "j-checkpoints"),
        ({"allRoles": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "mine"}}]}}, "mine"),
        ({"allRoles": {"volumes": [{"name": "v", "ephemeral": EPHEMERAL}]}}, "{pod}-v"),
    ],
)
def test_a_claim_without_a_volume_says_why(world, spec, claim):
    """Whoever made it: the scheduler knows only that there is none, its provisioner knows why."""
    w = world(spec).settle()
    pod = w.pod("trainer", 0)
    claim = claim.format(pod=pod["metadata"]["name"])
    words = 'storageclass.storage.k8s.io "nope" not found'
    about = event("claim", "ProvisioningFailed", words)
    about["involvedObject"] |= {"kind": "PersistentVolumeClaim", "name": claim}
    other = event("other", "ProvisioningFailed", "of somebody else")
    other["involvedObject"] |= {"kind": "PersistentVolumeClaim", "name": "other"}
    without_volume(w, pod).warnings = warned.about_claims(warned.newest([about, other]))
    w.settle()
    running = w.condition("Running")
    assert running["reason"] == "ProvisioningFailed"
    assert running["message"] == f"trainer 0 ({pod['metadata']['name']}): PersistentVolumeClaim {claim}: {words}"
    pod["status"]["conditions"][0]["message"] = "0/2 nodes are available: 2 Insufficient cpu."
    w.settle()
    assert w.condition("Running")["reason"] == "Unschedulable"


PREPARING = {"name": "fetch", "restartCount": 0, "state": {"running": {}}}
STANDING = {"name": "bagpipe", "restartCount": 0, "ready": True, "state": {"running": {}}}
BESIDE = {"name": "side", "restartCount": 0, "ready": False, "state": {"running": {}}}


@pytest.mark.parametrize(
    ("reason", "state", "counts"),
    [
        ("FailedScheduling", {}, True),
        ("FailedScheduling", {"nodeName": "n1"}, False),
        ("FailedMount", {"nodeName": "n1"}, True),
        ("FailedMount", {"nodeName": "n1", "initContainerStatuses": [PREPARING]}, False),
        ("FailedMount", {"nodeName": "n1", "containerStatuses": [STANDING]}, False),
    ],
)
def test_a_warning_is_history_once_the_pod_has_got_past_it(world, reason, state, counts):
    """A pod that is placed lacks no node, and one whose containers run lacks no volume, though it is not ready yet."""
    w = world().settle()
    pod = w.pod("trainer", 1)
    pod["spec"] |= {key: value for key, value in state.items() if key == "nodeName"}
    pod["status"] |= {key: value for key, value in state.items() if key != "nodeName"}
    w.warnings = {pod["metadata"]["uid"]: Obstacle(reason=reason, message="as it was")}
    w.settle()
    assert w.condition("Running")["reason"] == (reason if counts else "Starting")


@pytest.mark.parametrize(
    ("kind", "why", "statuses"),
    [
        ("Initialized", "ContainersNotInitialized", {"initContainerStatuses": [PREPARING]}),
        ("Ready", "ReadinessGatesNotReady", {"containerStatuses": [STANDING]}),
        ("Ready", "ContainersNotReady", {"containerStatuses": [STANDING, BESIDE]}),
    ],
)
def test_what_a_pod_waits_for_beside_its_main_container_is_said(world, kind, why, statuses):
    """A container that prepares the pod and does not end, a gate, a container beside: in Kubernetes' words."""
    w = world().settle()
    w.start_pods()
    pod = w.pod("server", 0)
    pod["status"] = {"phase": "Pending", "conditions": [{"type": kind, "status": "False", "reason": why}], **statuses}
    pod["status"]["conditions"][0]["message"] = "what it waits for"
    w.settle()
    running = w.condition("Running")
    who = f"server 0 ({pod['metadata']['name']})"
    assert (running["reason"], running["message"]) == (
        "Starting",
        f"4 of 5 pods run, 5 exist; {who}: what it waits for",
    )


def test_what_is_started_again_and_again_says_how_it_ended(world):
    """An init container of a server too, which no new attempt follows: the kubelet says only how long it waits."""
    w = world().settle()
    ended = {"terminated": {"exitCode": 1, "message": "connecting\nno such bucket"}}
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container=fetch"}}
    pod = w.pod("server", 0)
    pod["status"]["initContainerStatuses"] = [{**PREPARING, "restartCount": 3, "state": state, "lastState": ended}]
    w.settle()
    running = w.condition("Running")
    assert running["reason"] == "CrashLoopBackOff"
    assert running["message"].endswith("failed container=fetch; it exited with 1: no such bucket")


def test_the_reason_becomes_the_end(world):
    """What stood in the way when the startup deadline passes is the reason of the failure."""
    w = world({"runPolicy": {"startupDeadlineSeconds": 60}}).settle()
    w.warnings = {w.pod("server", 0)["metadata"]["uid"]: Obstacle(reason="FailedMount", message="no such secret")}
    w.after(61)
    assert w.condition("Failed")["reason"] == "FailedMount" and "no such secret" in w.condition("Failed")["message"]


def test_a_scheduler_that_nobody_runs(world):
    """Where no scheduler has mentioned a pod for some seconds, the message names the one that it waits for."""
    w = world({"allRoles": {"schedulerName": "nobody"}}).settle()
    assert w.condition("Running")["reason"] == "Starting"
    assert w.again_at == w.now + dt.timedelta(seconds=8)
    w.after(8)
    running = w.condition("Running")
    assert running["reason"] == "NoScheduler" and "'nobody'" in running["message"]
    assert ("Warning", "NoScheduler") in w.events


def test_what_is_refused_while_the_job_runs_does_not_stop_it(world):
    """A running job goes on without what the API server does not accept, and says so."""
    w = world().run()
    w.refused = {("Service", "j-oracle"): Obstacle(reason="ChildRefused", message="no", final=True)}
    w.settle()
    assert w.is_true("Running") and w.condition("Reconciled")["status"] == "False"
    assert ("Warning", "ChildRefused") in w.events
    w.refused = {}
    assert w.settle().is_true("Reconciled")


def test_starting_says_how_far_it_is(world):
    """A job that simply starts says how many of its pods run, and posts no warning about that."""
    w = world({"checkpoint": {"volumeClaim": {"size": "1Gi"}}}).settle()
    assert w.condition("Running") | {"lastTransitionTime": ""} == {
        "type": "Running",
        "status": "False",
        "reason": "Starting",
        "message": "0 of 5 pods run, 5 exist",
        "lastTransitionTime": "",
        "observedGeneration": 1,
    }
    assert not [e for e in w.events if e[0] == "Warning"]


def test_a_new_attempt_says_what_it_waits_for(world):
    """First for the pods of the one before, then for the time that it waits after attempts that ended early."""
    w = world().run()
    w.end(w.pod("trainer"), 143)
    w.settle()
    w.run().slow_deletion = True
    w.end(w.pod("trainer"), 143)
    w.settle()
    assert w.condition("Running")["message"].endswith("0 exist; those of the attempt before are still ending")
    while "still ending" in w.condition("Running")["message"]:
        w.let_go().settle()
    told = w.condition("Running")
    assert told["reason"] == "Starting" and "they are made at 2026-01-01T00:00:10Z" in told["message"]
    assert w.after(10).condition("Running")["message"] == "0 of 5 pods run, 5 exist"


def test_what_somebody_asked_for_is_no_warning(world):
    """A job that is suspended stops as it was told to; how it ended is the reason why it restarts no more."""
    w = world().run()
    w.slow_deletion = True
    w.spec["runPolicy"] = {"suspend": True}
    w.settle()
    assert ("Normal", "Suspended") in w.events and ("Warning", "Suspended") not in w.events
    w = world({"runPolicy": {"backoffLimit": 1}}).run()
    for _ in range(2):
        w.end(w.pod("trainer"), 1)
        w.run()
    assert w.condition("Restarting")["reason"] == "BackoffLimitExceeded"


def test_warnings_are_read_for_jobs_that_do_not_run(rig):
    """One list of a namespace's warnings; those about this job reach its status, those about others do not."""
    from rig import job

    rig.submit(job())
    rig.settle()
    uid = rig.api.objects["Job", "ns", "j-trainers-0"]["metadata"]["uid"]
    rig.api.put("Event", {**event(uid, "FailedCreate", TOLD.message), "metadata": {"name": "e"}})
    rig.api.put("Event", {**event("other", "FailedCreate", "theirs"), "metadata": {"name": "f"}})

    async def go():
        await rig.warnings.read_all()
        await rig.settled()

    before = len(rig.api.requests)
    rig.go(go())
    assert (
        rig.condition("Running")["reason"] == "FailedCreate" and "exceeded quota" in rig.condition("Running")["message"]
    )
    assert [url for method, url in rig.api.requests[before:] if method == "GET"] == ["/api/v1/namespaces/ns/events"]


@pytest.mark.parametrize("reason", ["ImageInspectError", "SignatureValidationFailed", "AWordOfTomorrow"])
def test_every_reason_why_a_container_waits_is_told(world, reason):
    """Kubelets and runtimes have more words than anybody lists; only those of a container on its way are no trouble."""
    w = world().settle()
    w.wait_for(w.pod("trainer"), "ContainerCreating")
    w.settle()
    assert w.condition("Running")["reason"] == "Starting"
    w.wait_for(w.pod("trainer"), reason, "words")
    w.settle()
    assert w.condition("Running")["reason"] == reason and "words" in w.condition("Running")["message"]


def test_an_image_that_cannot_be_pulled_is_told_once(world):
    """The kubelet tries and waits by turns for as long as it lasts; the job is not written to each time."""
    w = world().settle()
    pod = w.pod("trainer")
    w.wait_for(pod, "ErrImagePull", "not found")
    w.settle()
    writes, told = w.status_writes, list(w.events)
    for reason in ("ImagePullBackOff", "ErrImagePull") * 3:
        w.wait_for(pod, reason, "not found" if reason == "ErrImagePull" else "waits")
        w.after(30)
    assert (w.status_writes, w.events) == (writes, told) and "not found" in w.condition("Running")["message"]
    w.wait_for(pod, "ContainerCreating")
    w.settle()
    assert w.condition("Running")["reason"] == "Starting"


def test_a_node_that_takes_no_pod_is_named(world):
    """A pod template may name a node that there is not: no scheduler and no kubelet ever says a word about it."""
    w = world({"trainers": {"replicas": 1, "podTemplate": {"spec": {"nodeName": "ghost"}}}}).settle()
    assert w.condition("Running")["reason"] == "Starting"
    w.after((w.again_at - w.now).total_seconds())
    told = w.condition("Running")
    assert told["reason"] == "NodeSilent" and "trainer 0" in told["message"] and "node 'ghost'" in told["message"]
    w.pod("trainer")["status"]["startTime"] = "2026-01-01T00:00:30Z"
    assert w.settle().condition("Running")["reason"] == "Starting"
