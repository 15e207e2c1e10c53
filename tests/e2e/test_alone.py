"""One job's trouble stays that job's, is told within ten seconds, and nobody else's object is touched."""

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]

SOON = 10


def restarts(operators):
    """How often the operators' processes have ended; a pod that is only just made has none yet."""
    return sum(c["restartCount"] for p in operators.pods() for c in p["status"].get("containerStatuses", []))


def says(kube, name, kind, reason, seconds=SOON):
    """The condition with this reason, once it is there; its event is there too."""
    found = kube.until(
        f"{name} says {reason}",
        lambda: (c := kube.condition(name, kind)).get("reason") == reason and c,
        seconds,
    )
    kube.until(f"an event {reason}", lambda: reason in told(kube, name), SOON)
    return found


def told(kube, name):
    about = [(e["involvedObject"], e["reason"]) for e in kube.get("events")["items"]]
    return [reason for what, reason in about if (what["kind"], what["name"]) == ("BagpipeJob", name)]


def test_bad_jobs_leave_the_others_alone(kube, job, operators):
    """What is malformed, mounts nothing, or is refused by the API server ends its own job; another runs to its end."""
    before = restarts(operators)
    kube.apply(job("unnamed", trainers={"podTemplate": {"spec": {"containers": [{"image": "my-sidecar:1"}]}}}))
    twice = [{"resourceName": "cpu", "restartPolicy": "NotRequired"}] * 2  # Nothing but the API server looks at these.
    container = {"name": "bagpipe", "resizePolicy": twice}
    kube.apply(job("refused", trainers={"podTemplate": {"spec": {"containers": [container]}}}))
    kube.apply(job("unmounted", trainers={"volumeMounts": [{"name": "data", "mountPath": "/data"}]}))
    kube.apply(job("good", steps=20))
    message = says(kube, "unnamed", "Failed", "InvalidSpec")["message"]
    assert message == "spec.trainers.podTemplate.spec.containers[0].name: expected a value, found nothing"
    assert 'resizePolicy[1]: Duplicate value: "cpu"' in says(kube, "refused", "Failed", "ChildRefused")["message"]
    message = says(kube, "unmounted", "Failed", "InvalidSpec")["message"]
    assert message.startswith("spec.trainers.volumeMounts[0].name: these pods have no volume 'data'")
    kube.wait("good", "Complete", 120)
    assert restarts(operators) == before


def test_a_deletion_that_something_holds(kube, job):
    """A deleted job on which somebody has a finalizer ends its pods, says what keeps it, and goes when that does."""
    body = job("j", steps=100_000)
    body["metadata"]["finalizers"] = ["example.com/backup"]
    kube.apply(body)
    kube.wait("j", "Running")
    kube.run("delete", "bpj", "j", "--wait=false")
    try:
        held = says(kube, "j", "Deleting", "HeldByFinalizer", 30)
        assert held["status"] == "True" and "example.com/backup" in held["message"]
        kube.until("no pod runs", lambda: not kube.running("j"), 90)
        assert kube.status("j")["phase"] == "Deleting"
    finally:
        kube.run("patch", "bpj", "j", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    kinds = "bpj,pods,jobs,statefulsets,services,secrets,networkpolicies,poddisruptionbudgets,persistentvolumeclaims"
    kube.until("nothing is left", lambda: not kube.get(kinds)["items"], 60)


@pytest.mark.parametrize("hard", [{"services": "1"}, {"pods": "1"}], ids=lambda h: next(iter(h)))
def test_a_quota_is_told_and_forgotten(kube, job, hard):
    """A quota, on what we make or on pods, is a condition and an event; when it is gone the job runs."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": hard}}
    kube.apply(quota)
    kube.until("the quota counts", lambda: kube.get("resourcequota", "small").get("status", {}).get("hard"), 20)
    kube.apply(job("j", steps=10))
    reason = "QuotaExceeded" if "services" in hard else "FailedCreate"
    assert "exceeded quota: small" in says(kube, "j", "Running", reason)["message"]
    kube.run("delete", "resourcequota", "small")
    status = kube.wait("j", "Complete", 150)
    assert status["restarts"] == 0


def test_a_missing_volume_is_told(kube, job):
    """A volume whose ConfigMap does not exist is the reason why the job does not run."""
    volumes, mounts = [{"name": "code", "configMap": {"name": "nobody"}}], [{"name": "code", "mountPath": "/code"}]
    kube.apply(job("j", trainers={"replicas": 1, "volumes": volumes, "volumeMounts": mounts}))
    says(kube, "j", "Running", "FailedMount", 20)
    words = 'configmap "nobody" not found'  # On a busy node other mounts may be late before, and that is told too.
    kube.until(words, lambda: words in kube.condition("j", "Running").get("message", ""), 60)


def test_a_scheduler_that_nobody_runs_is_told(kube, job):
    """Pods that no scheduler looks at say whose turn it is."""
    kube.apply(job("j", allRoles={"schedulerName": "nobody"}))
    assert "'nobody'" in says(kube, "j", "Running", "NoScheduler", 15)["message"]


def test_a_class_that_nobody_serves_is_told(kube, job):
    """A job of an operatorClass without an operator gets one event that says so, no status, and no pod."""
    kube.apply(job("j", runPolicy={"operatorClass": "nobody"}))
    kube.until("an event NoOperator", lambda: "NoOperator" in told(kube, "j"), 90)
    kube.apply(job("served", steps=5))
    kube.wait("served", "Complete", 120)  # Longer than the operator needs to look at the other one again.
    about = [e for e in kube.get("events")["items"] if e["involvedObject"]["name"] == "j"]
    assert [(e["type"], e["reason"]) for e in about] == [("Warning", "NoOperator")]
    assert "no operator of class 'nobody' has looked at this job" in about[0]["message"]
    assert kube.status("j") == {} and kube.pods("j") == []


def test_objects_of_others_stand(kube, job):
    """What another application has under names that a job wants is left as it is; the job fails as NameTaken."""
    labels = {"labels": {"app": "shop"}}
    theirs = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "web-config", **labels},
            "data": {"a": "theirs"},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "web-checkpoints", **labels},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "web-peers", **labels},
            "spec": {"podSelector": {"matchLabels": {"app": "shop"}}, "policyTypes": ["Ingress"]},
        },
    ]
    for raw in theirs:
        kube.apply(raw)
    before = [meta(kube, raw) for raw in theirs]
    kube.apply(job("web"))
    assert "it was left as it is" in says(kube, "web", "Failed", "NameTaken")["message"]
    kube.run("delete", "bpj", "web", "--wait=true", "--timeout=30s")
    assert [meta(kube, raw) for raw in theirs] == before


def meta(kube, raw):
    found = kube.get(raw["kind"], raw["metadata"]["name"])
    return {key: found["metadata"].get(key) for key in ("uid", "labels", "ownerReferences")}, found.get("data")


def test_a_loss_that_is_no_number(kube, job):
    """A job whose loss is NaN ends Complete, and says that no number came of it."""
    kube.apply(job("j", steps=15, env={"STANDIN_LOSS": "nan"}))
    status = kube.wait("j", "Complete", 120)
    assert status["summary"]["modelDigest"] == "steps-15" and status["summary"]["notFinite"] == {"loss": "NaN"}
    assert "loss is NaN" in kube.condition("j", "Complete")["message"]
