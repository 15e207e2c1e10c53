"""What ends an attempt, what ends the job, and what is counted as what."""

import datetime as dt

import pytest


def test_crash_goes_back_to_the_checkpoint(world):
    """A trainer that crashes takes all roles to a new attempt, counted, with its termination message in the status."""
    w = world().run()
    w.end(w.pod("trainer", 1), 1, "Traceback\nValueError: boom")
    w.run()
    assert w.status["attempt"] == 1 and w.status["restarts"] == 1 and w.status["disruptions"] == 0
    assert w.is_true("Running") and not w.is_true("Restarting")
    last = w.status["lastFailure"]
    assert last["exitCode"] == 1 and last["role"] == "trainer" and last["index"] == 1 and last["reason"] == "Crashed"
    assert "ValueError: boom" in last["message"]
    assert all(p["metadata"]["labels"]["bagpipe.dev/attempt"] == "1" for p in w.live_pods())
    assert ("Warning", "Crashed") in w.events


def test_never_two_pods_for_a_rank(world):
    """While any process of the old attempt may still run, no pod of the next one is made."""
    w = world().run()
    w.slow_deletion = True
    w.end(w.pod("trainer", 1), 1)
    w.settle()
    assert w.status["attempt"] == 1
    for role in ("trainer", "oracle", "server"):
        assert not [p for p in w.pods(role) if p["metadata"]["labels"]["bagpipe.dev/attempt"] == "1"]
    for _ in range(3):
        w.let_go().settle()
    assert len(w.live_pods()) == 5


@pytest.mark.parametrize(("code", "reason"), [(78, "BadConfig"), (65, "BadData")])
@pytest.mark.parametrize("role", ["oracle", "trainer"])
def test_permanent_exit_fails_at_once(world, role, code, reason):
    """What a retry cannot mend ends the job, whatever the back-off limit."""
    w = world().run()
    w.end(w.pod(role), code, f"spec.batchSize: expected a number ({code})")
    w.settle()
    assert w.is_true("Failed") and w.condition("Failed")["reason"] == reason
    assert "spec.batchSize" in w.condition("Failed")["message"]
    assert w.status.get("attempt", 0) == 0 and w.status["lastFailure"]["exitCode"] == code


def test_permanent_exit_of_a_server_fails_at_once(world):
    """A server that was restarted by the kubelet is judged by how it ended before."""
    w = world().run()
    w.restart_container(w.pod("server", 1), 78, "bad")
    w.settle()
    assert w.condition("Failed")["reason"] == "BadConfig" and w.live_pods() == []


def test_permanent_exit_is_remembered_by_the_job(world):
    """Where the pod is gone already, its Job still says that the end was permanent."""
    w = world().run()
    w.end(w.pod("trainer"), 65)
    w._controllers()
    for pod in w.pods("trainer"):
        w.delete_pod(pod)
    w.settle()
    assert w.condition("Failed")["reason"] == "BadData"


def test_back_off_limit(world):
    """One failure more than the limit ends the job; the waits between attempts grow from the second on."""
    w = world({"runPolicy": {"backoffLimit": 2}}).run()
    w.end(w.pod("trainer"), 1)
    w.run()
    assert w.status["attempt"] == 1 and w.is_true("Running")
    w.end(w.pod("trainer"), 1)
    w.run()
    assert w.status["attempt"] == 2 and w.live_pods() == [] and w.again_at == w.now + dt.timedelta(seconds=10)
    w.after(10)
    w.run()
    assert w.is_true("Running")
    w.end(w.pod("trainer"), 137, "last words")
    w.settle()
    assert w.condition("Failed")["reason"] == "BackoffLimitExceeded"
    assert "last words" in w.condition("Failed")["message"]


def test_lost_peers_are_explained_by_the_crash(world):
    """When one trainer crashes and the others lose their peer, the crash is the cause, and it counts once."""
    w = world().run()
    w.end(w.pod("trainer", 0), 75, "lost trainer 1")
    w.end(w.pod("trainer", 1), 137)
    w.run()
    assert w.status["restarts"] == 1 and w.status["lastFailure"]["exitCode"] == 137


def test_out_of_memory_is_named(world):
    """A process killed for memory says so."""
    w = world().run()
    w.end(w.pod("trainer"), 137, reason="OOMKilled")
    assert w.run().status["lastFailure"]["reason"] == "OOMKilled"


@pytest.mark.parametrize("how", ["evicted", "stopped", "deleted", "deleted job"])
def test_disruptions_are_counted_apart(world, how):
    """Preemption, drain, SIGTERM and deletion restart the job without touching the failures."""
    w = world({"runPolicy": {"backoffLimit": 0, "restartPolicy": "Never"}}).run()
    if how == "evicted":
        w.disrupt(w.pod("trainer"), 137)
    elif how == "stopped":
        w.end(w.pod("trainer"), 143)
    elif how == "deleted":
        w.delete_pod(w.pod("trainer"))
    else:
        for pod in w.live_pods("trainer"):
            w.delete_pod(pod)
        del w.objects["Job", "j-trainers-0"]
    w.run()
    assert w.status["disruptions"] == 1 and w.status["restarts"] == 0 and w.is_true("Running")


def test_peers_lost_to_a_disruption_are_no_failure(world):
    """A trainer that ends because another was taken away does not count as a failure."""
    w = world().run()
    w.disrupt(w.pod("trainer", 0), 137)
    w.now += dt.timedelta(seconds=5)
    w.end(w.pod("trainer", 1), 75, "lost trainer 0")
    w.run()
    assert w.status["disruptions"] == 1 and w.status["restarts"] == 0


def test_a_trainer_ended_by_its_job_is_no_disruption(world):
    """When a trainer gives up alone, its Job deletes the others: later, so they are not the cause."""
    w = world().run()
    w.end(w.pod("trainer", 0), 75, "no answer from server 1")
    other = w.pod("trainer", 1)
    w.now += dt.timedelta(seconds=2)
    w.end(other, 143)
    other["metadata"] |= {"deletionTimestamp": (w.now + dt.timedelta(seconds=60)).strftime("%Y-%m-%dT%H:%M:%SZ")}
    other["metadata"] |= {"deletionGracePeriodSeconds": 60}
    w.step()
    assert w.status["restarts"] == 1 and w.status["disruptions"] == 0
    assert w.status["lastFailure"]["reason"] == "TransientFailure"


def test_disruption_limit(world):
    """Disruptions have a limit of their own."""
    w = world({"runPolicy": {"disruptionLimit": 1}}).run()
    w.disrupt(w.pod("trainer"))
    w.run()
    w.disrupt(w.pod("trainer"))
    w.settle()
    assert w.condition("Failed")["reason"] == "DisruptionLimitExceeded"


def test_disruptions_do_not_go_on_for_ever(world):
    """A job that says nothing about disruptions bears a hundred of them."""
    w = world().run()
    w.status["disruptions"] = 99
    w.disrupt(w.pod("trainer"))
    w.run()
    w.after(600)
    w.run()
    assert w.is_true("Running") and w.status["disruptions"] == 100
    w.disrupt(w.pod("trainer"))
    w.settle()
    assert w.condition("Failed")["reason"] == "DisruptionLimitExceeded"


def test_late_peers_at_the_start_cost_nothing(world):
    """Before all pods have run, a trainer that gave up waiting is no failure: its peers may be pulling their image."""
    w = world({"runPolicy": {"backoffLimit": 0}}).settle()
    w.end(w.pod("trainer"), 75)
    w.settle()
    assert w.status["attempt"] == 1 and w.status["restarts"] == 0 and not w.is_true("Failed")


@pytest.mark.parametrize(("code", "ends"), [(1, True), (70, True), (137, False), (75, False), (143, False)])
def test_exit_code_policy(world, code, ends):
    """With `restartPolicy: ExitCode` codes 1 to 127 but 75 end the job; what a signal ended is retried."""
    w = world({"runPolicy": {"restartPolicy": "ExitCode"}}).run()
    w.end(w.pod("trainer"), code)
    w.run()
    assert w.is_true("Failed") == ends and w.is_true("Running") != ends


def test_never_policy(world):
    """With `restartPolicy: Never` the first failure ends the job."""
    w = world({"runPolicy": {"restartPolicy": "Never"}}).run()
    w.end(w.pod("trainer"), 137)
    assert w.settle().condition("Failed")["reason"] == "RestartPolicyNever"


def test_the_oracle_takes_the_attempt_along(world):
    """An oracle that dies ends the attempt: the trainers' caches follow its plan and nobody else's."""
    w = world().run()
    w.end(w.pod("oracle"), 137)
    w.run()
    assert w.status["attempt"] == 1 and w.status["restarts"] == 1 and w.is_true("Running")


def test_an_oracle_that_crashes_again_and_again_ends_the_job(world):
    """The oracle's crashes count towards the back-off limit; a deletion or an eviction of it does not."""
    w = world({"runPolicy": {"backoffLimit": 1}}).run()
    w.disrupt(w.pod("oracle"), 137)
    w.run()
    w.delete_pod(w.pod("oracle"))
    w.run()
    w.after(10)
    w.run()
    assert w.status["disruptions"] == 2 and w.status["restarts"] == 0
    w.end(w.pod("oracle"), 1)
    assert not w.run().is_true("Failed")
    w.after(20)
    w.run()
    w.end(w.pod("oracle"), 1, "boom")
    w.settle()
    assert w.condition("Failed")["reason"] == "BackoffLimitExceeded" and "boom" in w.condition("Failed")["message"]


def test_trainers_that_lost_the_oracle_do_not_count_besides(world):
    """The oracle's crash explains the trainers' lost peer: one failure, not three."""
    w = world().run()
    w.end(w.pod("trainer", 0), 75)
    w.end(w.pod("trainer", 1), 75)
    w.end(w.pod("oracle"), 137)
    w.run()
    assert w.status["restarts"] == 1 and w.status["lastFailure"]["role"] == "oracle"


def test_server_process_restarts_in_place(world):
    """A server's process that dies restarts on its files: the attempt stays, and the crash counts."""
    w = world({"runPolicy": {"backoffLimit": 1}}).run()
    w.restart_container(w.pod("server"), 137)
    w.settle()
    assert w.status.get("attempt", 0) == 0 and w.is_true("Running")
    w.restart_container(w.pod("server"), 137)
    assert w.settle().condition("Failed")["reason"] == "BackoffLimitExceeded"


def test_crashes_in_place_are_remembered_by_the_next_attempt(world):
    """What was counted in one attempt is not forgotten with its pods."""
    w = world().run()
    w.restart_container(w.pod("server"), 137)
    w.settle()
    w.end(w.pod("trainer"), 1)
    assert w.run().status["restarts"] == 2


def test_server_pod_without_a_claim_takes_its_rows_along(world):
    """Rows in a pod's own directory are gone with the pod: back to the checkpoint, as a disruption."""
    w = world().run()
    w.delete_pod(w.pod("server", 1))
    w.run()
    assert w.status["attempt"] == 1 and w.status["disruptions"] == 1
    assert w.status["lastFailure"]["reason"] == "ServerVolumeLost"


def test_server_pod_with_a_claim_comes_back_as_it_was(world):
    """Rows on a claim outlive the pod: no step is lost, no attempt begins."""
    w = world({"servers": {"replicas": 2, "volumeClaim": {"size": "1Gi"}}}).run()
    w.delete_pod(w.pod("server", 1))
    w.run()
    assert w.status.get("attempt", 0) == 0 and w.is_true("Running")


def test_rows_in_memory_are_lost_with_the_process(world):
    """With storage in memory a restarted process has no rows: back to the checkpoint."""
    w = world({"servers": {"replicas": 1, "storage": "memory", "volumeClaim": {}}}).run()
    w.restart_container(w.pod("server"), 137)
    w.run()
    assert w.status["attempt"] == 1 and w.status["restarts"] == 1


@pytest.mark.parametrize("condition", ["FailureTarget", "Failed"])
def test_a_job_remembers_a_mistake_whose_pod_is_gone(world, condition):
    """Kubernetes says `FailureTarget` while the peers of the pod that ended with 78 still end: no new attempt."""
    w = world().run()
    batch = w.objects["Job", "j-trainers-0"]
    words = "Container bagpipe for pod ns/j-trainers-0-1 failed with exit code 78 matching FailJob rule at index 0"
    batch["status"]["conditions"] = [
        {"type": condition, "status": "True", "reason": "PodFailurePolicy", "message": words}
    ]
    w.slow_deletion = True
    mistaken, peer = w.pod("trainer", 1), w.pod("trainer", 0)
    w.end(mistaken, 78)
    w.delete_pod(mistaken, force=True)
    w.delete_pod(peer)
    w.end(peer, 143)
    w.settle()
    assert w.is_true("Failed") and w.status["attempt"] == 0 and w.condition("Failed")["reason"] == "BadConfig"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"trainers": {"replicas": 1, "gpuProfile": "v1000"}}, "spec.trainers.gpuProfile"),
        ({"oracle": {"podTemplate": {"spec": {"hostname": "x"}}}}, "spec.oracle.podTemplate.spec.hostname"),
        ({"allRoles": {"volumes": [{"name": "bagpipe-tmp"}]}}, "bagpipe-tmp"),
        ({"servers": {"replicas": 1, "labels": {"bagpipe.dev/role": "x"}}}, "bagpipe.dev/role"),
    ],
)
def test_spec_that_cannot_be_built(world, spec, words):
    """What neither the schema nor CEL can refuse fails the job at once, by name, and makes nothing."""
    w = world(spec).settle()
    assert w.condition("Failed")["reason"] == "InvalidSpec" and words in w.condition("Failed")["message"]
    assert w.objects == {}


def test_what_cannot_start_explains_what_starts_again_and_again(world):
    """A server that ends for want of peers says less than the trainer whose Secret is missing."""
    w = world().settle()
    w.wait_for(w.pod("server", 0), "CrashLoopBackOff", "back-off")
    w.wait_for(w.pod("trainer", 0), "CreateContainerConfigError", 'secret "missing" not found')
    w.settle()
    assert w.condition("Running")["reason"] == "CreateContainerConfigError"


@pytest.mark.parametrize("reason", ["TopologyAffinityError", "OutOfnvidia.com/gpu", "AWordOfTomorrow"])
def test_a_node_that_refuses_every_pod_is_not_asked_without_a_pause(world, reason):
    """A refusal by the kubelet is a disruption with its words; attempts come later each time, and end by the limit."""
    w = world({"runPolicy": {"disruptionLimit": 4}}).settle()
    for _ in range(60):
        for pod in w.live_pods("trainer")[:1]:
            pod["status"] = {"phase": "Failed", "reason": reason, "message": "cannot be allocated"}
        w.after(1)
    assert w.status["attempt"] <= 4
    failure = w.status["lastFailure"]
    assert failure["reason"] == "RejectedByNode" and f"{reason}: cannot be allocated" in failure["message"]
    for _ in range(4):
        for pod in w.live_pods("trainer")[:1]:
            pod["status"] = {"phase": "Failed", "reason": reason, "message": "cannot be allocated"}
        w.after(400)
    assert w.condition("Failed")["reason"] == "DisruptionLimitExceeded"


def test_attempts_that_count_as_nothing_wait_too(world):
    """A trainer that gives up at once before all pods run costs no failure, and not an attempt a second either."""
    w = world().settle()
    for _ in range(60):
        for pod in w.live_pods("trainer")[:1]:
            w.end(pod, 75)
        w.after(1)
    assert 2 <= w.status["attempt"] <= 4 and w.status.get("restarts", 0) == 0


@pytest.mark.parametrize(("code", "reason"), [(255, "Unknown"), (137, "ContainerStatusUnknown")])
def test_an_end_that_nobody_saw_is_the_nodes(world, code, reason):
    """After a node began anew its containers have made-up exit codes, which are no crash of the job."""
    w = world({"runPolicy": {"backoffLimit": 0}}).run()
    w.end(w.pod("trainer"), code, reason=reason)
    w.run()
    assert w.is_true("Running") and w.status["disruptions"] == 1 and w.status["lastFailure"]["reason"] == "NodeLost"


@pytest.mark.parametrize("wish", ["scaled", "resumed"])
@pytest.mark.parametrize("long", [True, False])
def test_a_long_attempt_ends_the_row_of_early_ends(world, wish, long):
    """What somebody asks for after a long attempt begins at once, though the first attempts had ended early."""
    w = world({"runPolicy": {"backoffLimit": 9}}).run()
    for _ in range(3):
        w.end(w.pod("trainer"), 1)
        w.settle()
        w.after(60).run()
    assert w.is_true("Running") and w.status["attempt"] == 3
    w.after(3600 if long else 60)
    if wish == "scaled":
        w.spec["trainers"] = {"replicas": 3}
    else:
        w.spec["runPolicy"] = {"backoffLimit": 9, "suspend": True}
        w.settle()
        w.spec["runPolicy"] = {"backoffLimit": 9}
    w.settle()
    assert w.status["attempt"] == 4 and bool(w.live_pods()) is long
    assert w.after(20).run().is_true("Running")
