"""Wrong things end with a named reason, not a hang."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]


def failed(kube, reason, seconds=90, name="j"):
    status = kube.wait(name, "Failed", seconds)
    condition = kube.condition(name, "Failed")
    assert condition["reason"] == reason, condition
    assert kube.until("no pod is left running", lambda: not kube.running(name) or None, 30) is not None
    return status


def test_missing_image(kube, job):
    """An image that does not exist is named while the job waits, and when it fails."""
    kube.apply(
        job("j", runPolicy={"startupDeadlineSeconds": 25}, trainers={"replicas": 2, "image": "nowhere.invalid/none:1"})
    )
    kube.until(
        "it says why", lambda: kube.condition("j", "Running").get("reason") in ("ErrImagePull", "ImagePullBackOff"), 30
    )
    failed_status = kube.wait("j", "Failed", 60)
    assert kube.condition("j", "Failed")["reason"] in ("ErrImagePull", "ImagePullBackOff"), failed_status


def test_impossible_resources(kube, job):
    """Resources that no node has."""
    resources = {"requests": {"cpu": "1000"}}
    kube.apply(job("j", runPolicy={"startupDeadlineSeconds": 8}, trainers={"replicas": 2, "resources": resources}))
    failed(kube, "Unschedulable")


@pytest.mark.parametrize(("code", "reason"), [(78, "BadConfig"), (65, "BadData")])
def test_permanent_exit(kube, job, code, reason):
    """What the library refuses fails at once, without a retry, with the process's termination message."""
    kube.apply(job("j", env={"STANDIN_EXIT": f"oracle:0:0:{code}"}))
    status = failed(kube, reason)
    assert status.get("attempt", 0) == 0 and f"ends with {code}" in status["lastFailure"]["lastWords"]


def test_crash_loop(kube, job):
    """A command that crashes again and again: back-off, then Failed, with its termination message."""
    crashes = ",".join(f"trainer:1:{attempt}:1:2" for attempt in range(9))
    # More steps than trainer 0 can take alone before it is stopped: an attempt that begins at the last one is no crash.
    kube.apply(job("j", steps=1000, env={"STANDIN_EXIT": crashes}, runPolicy={"backoffLimit": 2}))
    status = failed(kube, "BackoffLimitExceeded", 150)
    assert status["attempt"] == 2 and "ends with 1" in status["lastFailure"]["lastWords"]


def test_deadline(kube, job):
    """A job that runs longer than it may: its pods go, and `bagpipe job logs` still has what each of them said last."""
    kube.apply(job("j", steps=100_000))
    kube.until("a few steps", lambda: kube.status("j").get("progress", {}).get("step", 0) >= 5)
    kube.run("patch", "bpj", "j", "--type=merge", "-p", '{"spec":{"runPolicy":{"activeDeadlineSeconds":1}}}')
    failed(kube, "DeadlineExceeded")  # Then the logs are read, and then the status says where they are.
    kept_in = kube.until("the last lines are kept", lambda: kube.status("j").get("logs"), 60)
    assert kept_in == {"configMap": "j-logs"}
    kept = kube.get("configmap", "j-logs")["data"]
    assert sorted(kept) == [f"{who}.log" for who in ("oracle-0", "server-0", "server-1", "trainer-0", "trainer-1")]
    kube.until("the pods are gone", lambda: not kube.pods("j"), 60)
    command = [sys.executable, "-m", "bagpipe", "job", "logs", "j", "--namespace", kube.namespace]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert json.loads(printed.splitlines()[-1])["step"] > 0 and printed == kept["oracle-0.log"]
    kube.run("delete", "bpj", "j", "--wait=true", "--timeout=60s")
    kube.until("the logs go with the job", lambda: not kube.run("get", "configmaps", "-o", "name").count("j-logs"), 60)


def test_unknown_profile(kube, job):
    """A profile that this installation does not have."""
    kube.apply(job("j", trainers={"replicas": 1, "gpuProfile": "v9000"}))
    failed(kube, "InvalidSpec", 20)
    assert kube.pods("j") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metadata": {"name": "a" * 41}}, "40 characters"),
        ({"spec": {"data": {}, "batchsize": 1}}, "unknown field"),
        ({"spec": {"data": {}, "trainers": {"replicas": 0}}}, "greater than or equal to 1"),
        ({"spec": {"data": {}, "model": {"name": "dlrm", "entrypoint": "a:B"}}}, "not both"),
        ({"spec": {"data": {}, "batchSize": 1, "trainers": {"replicas": 2}}}, "at least one example"),
        ({"spec": {"data": {}, "lookahead": "many"}}, "or one of 'auto'"),
        ({"spec": {"data": {}, "oracle": {"env": [{"name": "POD_NAME", "value": "x"}]}}}, "belongs to the operator"),
    ],
)
def test_refused_at_apply_time(kube, change, words):
    """What can be known at apply time is refused then."""
    body = {
        "apiVersion": "bagpipe.dev/v1alpha1",
        "kind": "BagpipeJob",
        "metadata": {"name": "j"},
        "spec": {"data": {}},
        **change,
    }
    assert words in kube.refused(body)


def test_immutable_while_running(kube, job):
    """Settings cannot change under a running job; suspended they can."""
    body = job("j", steps=1000)
    kube.apply(body)
    body["spec"]["seed"] = 5
    assert "suspend it first" in kube.refused(body)
    body["spec"].pop("seed")
    body["spec"]["runPolicy"]["suspend"] = True
    kube.apply(body)
    body["spec"]["seed"] = 5
    kube.apply(body)


def changed(body, path, value):
    """The document with one value of its spec replaced, or taken away."""
    copied = json.loads(json.dumps(body))
    *parents, last = path.split(".")
    target = copied["spec"]
    for parent in parents:
        target = target.setdefault(parent, {})
    if value is None:
        target.pop(last)
    else:
        target[last] = value
    return copied


def test_what_cannot_change_is_refused(kube, job):
    """Claims that exist are what they are, also while the job is suspended; and a job that ended takes no change."""
    body = job("j", steps=5, runPolicy={"suspend": True})
    kube.apply(body)
    assert "make a new job" in kube.refused(changed(body, "servers.volumeClaim", {"size": "1Gi"}))
    assert "make a new job" in kube.refused(changed(body, "checkpoint.volumeClaim", None))
    assert "make a new job" in kube.refused(changed(body, "checkpoint.volumeClaim.size", "2Gi"))
    kept = changed(body, "checkpoint.volumeClaim.retain", True)
    kube.apply(kept)
    assert "stays kept" in kube.refused(changed(body, "checkpoint.volumeClaim.retain", False))
    running = changed(kept, "runPolicy.suspend", False)
    kube.apply(running)
    kube.wait("j", "Complete", 120)
    assert "has ended" in kube.refused(changed(running, "trainers.replicas", 1))
    kube.run("delete", "bpj", "j", "--wait=true", "--timeout=30s")
    assert kube.get("pvc", "j-checkpoints")["metadata"].get("ownerReferences") is None
