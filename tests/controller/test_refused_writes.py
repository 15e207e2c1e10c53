"""Writes that the API server refuses, or does not answer: what is told of them, and what happens once they pass."""

import copy
import datetime as dt
import itertools

import pytest
from rig import job

from bagpipe_operator import names
from bagpipe_operator.api_error import ApiError


def test_a_quota_is_a_condition_that_goes_when_it_is_over(rig):
    """A refusal that may pass does not end the job: it says why it waits, and anew when that changes, then starts."""
    rig.submit(job())
    said = {"words": "services is forbidden: exceeded quota: small, requested: services=1"}

    def refuse(method, raw):
        return (403, "Forbidden", said["words"]) if said["words"] and raw["kind"] == "Service" else None

    rig.api.refuse = refuse
    rig.settle()
    assert rig.condition("Failed") == {}
    assert (rig.condition("Running")["reason"], rig.condition("Running")["status"]) == ("QuotaExceeded", "False")
    assert "exceeded quota: small" in rig.condition("Running")["message"]
    assert rig.condition("Reconciled")["reason"] == "QuotaExceeded" and "QuotaExceeded" in rig.events()
    assert not [k for k in rig.kinds() if k.startswith(("Job", "StatefulSet"))]
    said["words"] = 'services is forbidden: User "operator" cannot create resource'
    rig.again()
    assert rig.condition("Running")["reason"] == "Forbidden" and rig.events().count("Forbidden") >= 1
    said["words"] = ""
    rig.again()
    assert rig.condition("Running")["reason"] == "Starting" and rig.condition("Reconciled")["status"] == "True"
    assert "Job/j-trainers-0" in rig.kinds()


def test_a_quota_on_secrets_is_told_like_any_other(rig):
    """A job whose Secret may not be made yet names it in a condition, makes no pod without it, and then goes on."""
    rig.api.refuse = lambda method, raw: (
        (403, "Forbidden", "secrets is forbidden: exceeded quota: small") if raw["kind"] == "Secret" else None
    )
    rig.submit(job())
    rig.settle()
    told = rig.condition("Running")
    assert told["reason"] == "QuotaExceeded" and "Secret/j-curve-" in told["message"]
    assert not [k for k in rig.kinds() if k.startswith(("Job", "StatefulSet"))]
    rig.api.refuse = lambda method, raw: None
    rig.again()
    assert rig.condition("Reconciled")["status"] == "True" and "Job/j-trainers-0" in rig.kinds()


def test_a_deletion_that_is_forbidden_is_told(rig):
    """A held job of which something may not be deleted yet says so, does not fail, and is held in the end."""
    rig.submit(job())
    rig.settle()
    for words in ("jobs.batch is forbidden: no delete", 'admission webhook "keep" denied the request: no'):
        rig.api.refuse = lambda method, raw, words=words: (403, "Forbidden", words) if method == "delete" else None
        raw = copy.deepcopy(rig.api.objects[names.KIND, "ns", "j"])
        raw["spec"]["runPolicy"] = {"suspend": True}
        rig.api.put(names.KIND, raw)
        rig.again()
        told = rig.condition("Reconciled")
        assert told["status"] == "False" and words in told["message"] and rig.condition("Failed") == {}
        assert rig.status()["phase"] == "Suspending"
    rig.api.refuse = lambda method, raw: None
    rig.again()
    assert rig.status()["phase"] == "Suspended" and rig.condition("Reconciled")["status"] == "True"


def test_a_job_runs_although_something_of_it_may_not_be_deleted(rig):
    """A policy that keeps an object which the job wants no more is told, and ends nothing."""
    rig.submit(job())
    rig.settle()
    rig.api.refuse = lambda method, raw: (
        (403, "Forbidden", 'admission webhook "keep" denied the request: no') if method == "delete" else None
    )
    raw = copy.deepcopy(rig.api.objects[names.KIND, "ns", "j"])
    raw["spec"]["runPolicy"] = {"networkPolicy": "None"}
    rig.api.put(names.KIND, raw)
    rig.again()
    rig.again()
    assert "NetworkPolicy/j-peers" in rig.condition("Reconciled")["message"] and rig.condition("Failed") == {}
    rig.api.refuse = lambda method, raw: None
    rig.again()
    assert "NetworkPolicy/j-peers" not in rig.kinds() and rig.condition("Reconciled")["status"] == "True"


def test_an_api_server_that_takes_no_child_is_told_after_a_while(rig):
    """Answers of 500 become a condition after five seconds, and are said once, whatever their words."""
    count = itertools.count()
    rig.api.refuse = lambda method, raw: (
        (500, "InternalError", f"etcdserver: request {next(count)} failed") if raw["kind"] == "ConfigMap" else None
    )
    rig.submit(job())
    rig.settle()
    assert rig.condition("Running")["reason"] == "Starting" and rig.condition("Reconciled") == {}
    for _ in range(3):
        rig.api.now += dt.timedelta(seconds=6)
        rig.again()
    told = rig.condition("Running")
    assert told["reason"] == "ApiServerError" and "ConfigMap/j-config: etcdserver: request" in told["message"]
    assert rig.events().count("ApiServerError") == 2  # Of the conditions Running and Reconciled, each once.
    rig.api.refuse = lambda method, raw: None
    rig.again()
    assert rig.condition("Reconciled")["status"] == "True" and "Job/j-trainers-0" in rig.kinds()


def test_a_conflict_about_an_object_that_lasts_is_told(rig):
    """Usually over with the next try, it is said after five seconds, and again not once it is over."""
    rig.api.refuse = lambda method, raw: (409, "Conflict", "try again") if raw["kind"] == "Service" else None
    rig.submit(job())
    rig.settle()
    assert rig.condition("Reconciled") == {}
    for _ in range(3):
        rig.api.now += dt.timedelta(seconds=6)
        rig.again()
    told = rig.condition("Running")
    assert told["reason"] == "ApiServerError" and "Service/" in told["message"] and "try again" in told["message"]
    rig.api.refuse = lambda method, raw: None
    rig.again()
    assert rig.condition("Reconciled")["status"] == "True" and "Job/j-trainers-0" in rig.kinds()


@pytest.mark.parametrize("words", ["the object has been modified", 'admission webhook "keep" denied the request: no'])
def test_a_deletion_that_conflicts_is_not_taken_for_done(rig, words):
    """Only where another object bears the name is the one that was meant gone: what runs is never called suspended."""
    rig.submit(job())
    rig.settle()
    rig.api.refuse = lambda method, raw: (409, "Conflict", words) if method == "delete" else None
    raw = copy.deepcopy(rig.api.objects[names.KIND, "ns", "j"])
    raw["spec"]["runPolicy"] = {"suspend": True}
    rig.api.put(names.KIND, raw)
    for _ in range(4):
        rig.again()
        rig.api.now += dt.timedelta(seconds=6)
    assert rig.status()["phase"] == "Suspending" and words in rig.condition("Reconciled")["message"]
    rig.api.refuse = lambda method, raw: None
    rig.again()
    rig.again()
    assert rig.status()["phase"] == "Suspended" and rig.condition("Reconciled")["status"] == "True"


def test_a_namespace_that_is_being_deleted_is_told(rig):
    """No create passes in a namespace that goes: the job says so, does not fail, and makes one more attempt at most."""
    words = "unable to create new content in namespace ns because it is being terminated"
    rig.submit(job())
    rig.settle()
    rig.api.refuse = lambda method, raw: (403, "Forbidden", f"x is forbidden: {words}") if method == "create" else None
    for key in [key for key in rig.api.objects if key[0] not in (names.KIND, "Event")]:
        rig.api.remove(key)
        rig.again()
    for _ in range(5):
        rig.api.now += dt.timedelta(seconds=60)
        rig.again()
    told = rig.condition("Running")
    assert told["reason"] == "NamespaceTerminating" and words in told["message"] and rig.condition("Failed") == {}
    assert rig.status()["attempt"] <= 1
    before = sum(method == "PATCH" for method, _ in rig.api.requests)
    rig.again()
    assert sum(method == "PATCH" for method, _ in rig.api.requests) == before


def test_an_api_server_that_asks_for_patience_gets_it(rig, monkeypatch):
    """After 429 with Retry-After nothing that happens to the job's objects makes it write again before that time."""
    rig.submit(job())
    rig.settle()
    for key in (("ConfigMap", "ns", "j-config"), ("Service", "ns", "j-oracle")):
        rig.api.remove(key)
    asked = []

    def throttle(method, url):
        asked.append(url)
        seconds = 45.0 if "services" in url else None
        raise ApiError(429, "too many requests", "TooManyRequests", seconds)

    rig.cluster.before_write = throttle
    failed = rig.queue.failed
    monkeypatch.setattr(rig.queue, "failed", lambda *args: delays.append(failed(*args)) or delays[-1])
    delays = []
    rig.settle()
    writes = len(asked)
    for number in range(20):
        rig.api.put("Pod", {"metadata": {"name": f"p{number}", "labels": names.labels("j")}})
        rig.settle()
    assert writes == len(asked) > 0 and delays[0] >= 45 and len(delays) == 1
    assert rig.condition("Failed") == {}


def test_a_conflict_that_lasts_is_logged(rig, caplog):
    """A status that is refused with 409 again and again cannot be told in the job, so the log names the job."""
    rig.submit(job())
    rig.api.refuse = lambda method, raw: (409, "Conflict", "modified") if raw["kind"] == names.KIND else None

    async def go():
        rig.deliver()
        for _ in range(6):
            assert await rig.shell._attempt(await rig.queue.get()) == "conflict"
            rig.queue.add(("ns", "j"))

    rig.go(go())
    assert [r.job for r in caplog.records if r.message == "reconcile failed"] == ["ns/j"] * 2


def test_a_status_that_cannot_be_written_is_told_in_an_event(rig):
    """No condition can say so; the event comes after a while, and once, and goes on being true for half an hour."""
    rig.submit(job())
    rig.settle()
    words = "etcdserver: request is too large"
    rig.cluster.before_write = lambda method, url: refuse(url)

    def refuse(url):
        if url.endswith("/bagpipejobs/j/status"):
            raise ApiError(500, words)

    rig.submit(job(runPolicy={"suspend": True}))
    for seconds in (0, 10, 15, 60, 60):
        rig.api.now += dt.timedelta(seconds=seconds)
        rig.again()
    told = [raw for (kind, _, _), raw in rig.api.objects.items() if kind == "Event" and words in raw["message"]]
    assert len(told) == 1 and "status cannot be written" in told[0]["message"]
    rig.api.now += dt.timedelta(seconds=1800)
    rig.again()
    told = [raw for (kind, _, _), raw in rig.api.objects.items() if kind == "Event" and words in raw["message"]]
    assert len(told) == 2
    rig.cluster.before_write = lambda method, url: None
    rig.again()
    assert rig.status()["phase"] in ("Suspending", "Suspended")


def test_a_webhook_that_refuses_every_status_is_no_fault_of_the_operator(rig, caplog):
    """It is told in an event and the log with its words, counted as no internal error, and asked once in a try."""
    words = 'admission webhook "freeze" denied the request: no status today'
    rig.submit(job())
    rig.api.refuse = lambda method, raw: (403, "Forbidden", words) if "status" in raw else None

    async def go():
        rig.deliver()
        for _ in range(8):
            rig.api.now += dt.timedelta(seconds=6)
            rig.queue.add(("ns", "j"))
            assert await rig.shell._attempt(await rig.queue.get()) == "error"

    rig.go(go())
    assert [method for method, _ in rig.api.requests].count("PATCH") == 8
    assert not [k for k in rig.kinds() if not k.startswith("Event")]
    lines = [r for r in caplog.records if r.message == "reconcile failed"]
    assert len(lines) == 8 and all(r.job == "ns/j" and words in r.error and r.exc_info is None for r in lines)
    assert lines[-1].again_in > 10, "it waits longer each time"
    assert b"bagpipe_operator_internal_errors_total{" not in rig.metrics.render()
    told = [raw["message"] for (kind, _, _), raw in rig.api.objects.items() if kind == "Event"]
    assert len(told) == 1 and words in told[0]
    rig.api.refuse = lambda method, raw: None
    rig.again()
    assert rig.status()["phase"] == "Starting" and "Job/j-trainers-0" in rig.kinds()
