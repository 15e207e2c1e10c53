"""The shell on a fake API server: whatever one job contains or one answer says, only that job is affected."""

import asyncio
import copy
import json
import logging
from pathlib import Path

import pytest
import yaml
from rig import Rig, job

from bagpipe_operator import names, shell
from bagpipe_operator.names import Role


def test_a_fault_about_one_job_is_that_jobs_alone(rig, monkeypatch, caplog):
    """An exception about one key is told in that job, counted and logged; other jobs and the operator go on."""
    real = shell.desired

    def desired(one, *rest):
        if one.name == "bad":
            raise KeyError("boom")
        return real(one, *rest)

    monkeypatch.setattr(shell, "desired", desired)
    rig.submit(job("bad"))
    rig.submit(job("good"))

    async def go():
        workers = [asyncio.create_task(rig.shell.work()) for _ in range(2)]
        rig.deliver()
        for _ in range(200):
            await asyncio.sleep(0)  # The workers' turn.
        assert not any(w.done() for w in workers)
        for worker in workers:
            worker.cancel()

    with caplog.at_level(logging.ERROR):
        rig.go(go())
    told = rig.condition("Failed", "bad")
    assert (told["status"], told["reason"]) == ("Unknown", "InternalError") and "KeyError: 'boom'" in told["message"]
    assert any(getattr(r, "job", "") == "ns/bad" and r.exc_info for r in caplog.records)
    assert b'bagpipe_operator_internal_errors_total{exception="KeyError"} ' in rig.metrics.render()
    assert "InternalError" in rig.events("bad") and rig.status("good")["phase"] == "Starting"


def test_a_fault_that_is_over_leaves_no_trace(rig, monkeypatch):
    """Once the operator understands the job again, the condition goes and the job starts."""
    rig.submit(job())
    with monkeypatch.context() as patch:
        patch.setattr(shell, "desired", lambda *_: 1 / 0)
        rig.settle()
    assert rig.condition("Failed")["reason"] == "InternalError" and rig.kinds() == []
    rig.again()
    assert rig.condition("Failed") == {} and "Job/j-trainers-0" in rig.kinds()


def test_a_fault_is_told_once(rig, monkeypatch):
    """The same fault again writes nothing: its condition stands already."""
    monkeypatch.setattr(shell, "desired", lambda *_: 1 / 0)
    rig.submit(job())
    for _ in range(3):
        rig.again()
    assert sum(method == "PATCH" for method, _ in rig.api.requests) == 1


def test_a_status_that_the_api_server_refuses_is_a_fault_of_ours(rig, monkeypatch):
    """A status that cannot be written becomes InternalError with the API server's words, not silence for ever."""
    rig.submit(job())
    rig.api.refuse = lambda method, raw: (
        (422, "Invalid", "status.phase: no such phase") if (raw.get("status") or {}).get("phase") else None
    )
    rig.settle()
    assert "no such phase" in rig.condition("Failed")["message"]


def test_a_refused_child_fails_the_job_at_once(rig):
    """What the API server will never take ends the job with its words, and nothing of it is left running."""
    words = "spec.template.spec.field: not in this release"
    rig.api.refuse = lambda method, obj: (422, "Invalid", words) if obj["metadata"]["name"] == "j-trainers-0" else None
    rig.submit(job())
    rig.settle()
    failed = rig.condition("Failed")
    assert (failed["status"], failed["reason"]) == ("True", "ChildRefused")
    assert "j-trainers-0" in failed["message"] and words in failed["message"]
    assert "ChildRefused" in rig.events()
    assert rig.api.objects["Job", "ns", "j-oracle-0"]["spec"]["suspend"] and "StatefulSet/j-servers" not in rig.kinds()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("ConfigMap", "j-config"),
        ("Service", "j-oracle"),
        ("NetworkPolicy", "j-peers"),
        ("PodDisruptionBudget", "j-servers"),
        ("PersistentVolumeClaim", "j-checkpoints"),
        ("StatefulSet", "j-servers"),
        ("Job", "j-trainers-0"),
    ],
)
@pytest.mark.parametrize("labelled", [False, True], ids=["plain", "with our labels"])
def test_what_is_not_ours_is_never_touched(rig, kind, name, labelled):
    """An object of somebody else under a child's name fails the job as NameTaken; no write and no deletion meets it."""
    labels = names.labels("j", Role.TRAINER, 0) if labelled and kind != "PersistentVolumeClaim" else {"app": "shop"}
    theirs = {"metadata": {"name": name, "labels": labels}, "data": {"setting": "theirs"}, "spec": {"x": 1}}
    before = rig.api.put(kind, theirs)
    rig.submit(job(checkpoint={"volumeClaim": {"size": "1Gi"}}))
    rig.settle()
    failed = rig.condition("Failed")
    assert (failed["status"], failed["reason"]) == ("True", "NameTaken") and f"{kind}/{name}" in failed["message"]
    assert rig.api.objects[kind, "ns", name] == before
    rig.api.remove((names.KIND, "ns", "j"))
    rig.settle()
    assert rig.api.objects[kind, "ns", name] == before


def test_what_an_orphaning_deletion_left_is_named(rig):
    """It runs on, as whoever deleted the job asked; the next job of its name says what to do, and touches nothing."""
    uid = rig.submit(job())["metadata"]["uid"]
    rig.settle()
    for (kind, _, _), child in list(rig.api.objects.items()):
        if [owner["uid"] for owner in child["metadata"].get("ownerReferences", ())] == [uid]:
            child["metadata"].pop("ownerReferences")
            rig.api.put(kind, child)
    rig.api.remove((names.KIND, "ns", "j"))
    rig.settle()
    before = {key: raw for key, raw in rig.api.objects.items() if key[0] != "Event"}
    assert ("Job", "ns", "j-trainers-0") in before
    rig.submit(job())
    rig.settle()
    failed = rig.condition("Failed")
    assert failed["reason"] == "NameTaken" and "deleted without it (--cascade=orphan)" in failed["message"]
    assert "-l bagpipe.dev/job=j" in failed["message"] and "jobs.batch,statefulsets" in failed["message"]
    assert {key: raw for key, raw in rig.api.objects.items() if key in before} == before


CLAIM = "bagpipe-run-j-servers-1"


def test_a_claim_of_somebody_else_is_not_given_to_a_server(rig):
    """A claim that the servers' StatefulSet would take by its name, and delete, fails the job before there is a set."""
    before = rig.api.put("PersistentVolumeClaim", {"metadata": {"name": CLAIM, "labels": {"app": "shop"}}, "spec": {}})
    rig.submit(job(servers={"replicas": 2, "volumeClaim": {"size": "1Gi"}}))
    rig.settle()
    failed = rig.condition("Failed")
    assert (failed["status"], failed["reason"]) == ("True", "NameTaken") and CLAIM in failed["message"]
    assert "StatefulSet/j-servers" not in rig.kinds()
    assert rig.api.objects["PersistentVolumeClaim", "ns", CLAIM] == before


@pytest.mark.parametrize("kept", [False, True], ids=["pod", "pod that a deletion with --cascade=orphan left"])
def test_a_pod_of_somebody_else_with_a_servers_name_is_told(rig, kept):
    """Kubernetes' StatefulSet controller waits for it to go, and posts no event about that."""
    labels = names.labels("j", Role.SERVER, 0) if kept else {"app": "shop"}
    before = rig.api.put("Pod", {"metadata": {"name": "j-servers-1", "labels": labels}, "spec": {}})
    rig.submit(job(servers={"replicas": 2}))
    rig.settle()
    failed = rig.condition("Failed")
    assert (failed["status"], failed["reason"]) == ("True", "NameTaken") and "Pod/j-servers-1" in failed["message"]
    assert "StatefulSet/j-servers" not in rig.kinds() and rig.api.objects["Pod", "ns", "j-servers-1"] == before


def test_a_pod_of_an_older_set_is_waited_for(rig):
    """Garbage collection comes to it, sooner or later."""
    owner = {"kind": "StatefulSet", "name": "j-servers", "uid": "older", "controller": True}
    rig.api.put("Pod", {"metadata": {"name": "j-servers-1", "ownerReferences": [owner]}, "spec": {}})
    rig.submit(job(servers={"replicas": 2}))
    rig.settle()
    assert rig.condition("Running")["reason"] == "OlderJobEnding" and rig.condition("Failed") == {}
    rig.api.remove(("Pod", "ns", "j-servers-1"))
    rig.again()
    assert "StatefulSet/j-servers" in rig.kinds() and rig.condition("Running")["reason"] == "Starting"


def test_a_claim_of_an_older_set_is_waited_for(rig):
    """A server's claim that goes with an older StatefulSet delays the job until it is gone."""
    owner = {"kind": "StatefulSet", "name": "j-servers", "uid": "older"}
    rig.api.put("PersistentVolumeClaim", {"metadata": {"name": CLAIM, "ownerReferences": [owner]}, "spec": {}})
    rig.submit(job(servers={"replicas": 2, "volumeClaim": {"size": "1Gi"}}))
    rig.settle()
    assert rig.condition("Running")["reason"] == "OlderJobEnding" and rig.condition("Failed") == {}
    rig.api.remove(("PersistentVolumeClaim", "ns", CLAIM))
    rig.again()
    assert "StatefulSet/j-servers" in rig.kinds() and rig.condition("Running")["reason"] == "Starting"


@pytest.mark.parametrize("owned", [True, False], ids=["owned", "just made"])
def test_the_servers_own_claims_are_theirs(rig, owned):
    """A set that is scaled up again takes its own claims, also one that has no owner so far."""
    rig.submit(job(servers={"replicas": 2, "volumeClaim": {"size": "1Gi"}}))
    rig.settle()
    made = rig.api.objects["StatefulSet", "ns", "j-servers"]
    labels = {k: made["metadata"]["labels"][k] for k in (names.LABEL_JOB, names.LABEL_ROLE)}
    owner = [{"kind": "StatefulSet", "name": "j-servers", "uid": made["metadata"]["uid"]}] if owned else []
    claim = {"metadata": {"name": CLAIM, "labels": labels, "ownerReferences": owner}, "spec": {}}
    rig.api.put("PersistentVolumeClaim", claim)
    scaled = copy.deepcopy(made)
    scaled["spec"]["replicas"] = 0
    rig.api.put("StatefulSet", scaled)
    rig.settle()
    assert rig.api.objects["StatefulSet", "ns", "j-servers"]["spec"]["replicas"] == 2
    assert rig.condition("Failed") == {}


def test_labels_of_children_are_hints(rig):
    """A label that somebody changed neither ends anything nor moves the attempt."""
    rig.submit(job())
    rig.settle()
    for kind, name in (("Job", "j-trainers-0"), ("StatefulSet", "j-servers")):
        raw = rig.api.objects[kind, "ns", name]
        labels = {**raw["metadata"]["labels"], names.LABEL_ATTEMPT: "foo", names.LABEL_ROLE: "emperor"}
        rig.api.put(kind, {**raw, "metadata": {**raw["metadata"], "labels": labels}})
    rig.settle()
    assert rig.status()["attempt"] == 0 and rig.condition("Failed") == {}
    assert rig.api.objects["Job", "ns", "j-trainers-0"]["metadata"]["labels"][names.LABEL_ATTEMPT] == "0"


def running(rig: Rig, text: str) -> dict:
    """A job that runs, with an oracle that logs `text`; returns the job as read."""
    raw = rig.submit(job())
    rig.settle()
    owner = rig.api.objects["Job", "ns", "j-oracle-0"]["metadata"]
    pod = {
        "metadata": {
            "name": "p",
            "labels": names.labels("j", Role.ORACLE, 0),
            "ownerReferences": [{"kind": "Job", "name": owner["name"], "uid": owner["uid"], "controller": True}],
        },
        "status": {"phase": "Running"},
    }
    rig.api.put("Pod", pod)
    rig.api.logs["ns", "p"] = text
    raw = rig.api.objects[names.KIND, "ns", "j"]
    for c in raw["status"]["conditions"]:
        c["status"] = "True" if c["type"] == "Running" else c["status"]
    rig.settle()
    return raw


def test_a_job_that_goes_away_while_its_log_is_read(rig, monkeypatch):
    """The answer for a job that is gone is dropped."""
    raw = running(rig, json.dumps({"step": 3, "loss": 1.0}))
    key = ("ns", "j")

    async def go():
        text = rig.cluster.text

        async def slowly(*args, **kwargs):
            found = await text(*args, **kwargs)
            rig.api.remove((names.KIND, *key))
            await rig.settled()
            return found

        monkeypatch.setattr(rig.cluster, "text", slowly)
        await rig.progress.read(raw)
        assert rig.shell.memories.known(key, raw["metadata"]["uid"]) is None and rig.queue.depth == 0

    rig.go(go())


def test_a_slow_log_delays_no_other_jobs(rig, monkeypatch):
    """Progress of one job is read while another one's log does not come, and each job's is read once at a time."""
    running(rig, "")
    raw = copy.deepcopy(rig.api.objects[names.KIND, "ns", "j"])
    for name in ("slow", "quick"):
        meta = {**raw["metadata"], "name": name}
        rig.store.put({**raw, "metadata": meta, "status": {**raw["status"], "phase": "Running"}})
    rig.store.remove({**raw, "metadata": {**raw["metadata"], "resourceVersion": "999999"}})

    async def go():
        begun, twice = [], asyncio.Event()

        async def read(raw):
            begun.append(raw["metadata"]["name"])
            if begun.count("quick") == 2:
                twice.set()
            if raw["metadata"]["name"] == "slow":
                await asyncio.Event().wait()

        monkeypatch.setattr(rig.progress, "read", read)
        following = asyncio.ensure_future(rig.progress.follow(0.001))
        await asyncio.wait_for(twice.wait(), 20)
        following.cancel()
        await asyncio.wait([following])
        assert begun.count("slow") == 1

    rig.go(go())


def test_progress_that_is_no_number_is_left_out(rig):
    """A loss that is NaN never reaches the status; the step does."""
    raw = running(rig, '{"step": 8, "total_steps": 12, "loss": NaN, "examples_per_second": 1e-320}')

    async def go():
        await rig.progress.read(raw)
        await rig.settled()

    rig.go(go())
    assert rig.status()["progress"] == {"step": 8, "totalSteps": 12, "examplesPerSecond": 0.0}


@pytest.mark.parametrize(
    "text",
    ['{"step": true}', "{" * 3000, '{"step": 1e999}', '{"step": 99999999999999999999}', "\ufffd", "", '["step"]'],
)
def test_any_log_is_read_without_harm(rig, text):
    """Logs that are no records at all leave the progress as it is."""
    raw = running(rig, text)
    rig.go(rig.progress.read(raw))
    memory = rig.shell.memories.known(("ns", "j"), raw["metadata"]["uid"])
    assert memory is not None and memory.progress is None


def test_each_map_of_the_status_is_replaced_whole(rig):
    """No field of an older failure, and no server of an older attempt, stays in the status."""
    raw = rig.submit(job())
    raw["status"] = {
        "attempt": 0,
        "lastFailure": {"reason": "Crashed", "message": "boom", "node": "n1", "exitCode": 1},
        "serverPods": {"old": 1},
    }
    rig.api.put(names.KIND, raw)
    rig.api.refuse = lambda method, obj: (422, "Invalid", "no") if obj["kind"] == "Service" else None
    rig.settle()
    assert rig.status()["lastFailure"]["reason"] == "ChildRefused"
    assert "node" not in rig.status()["lastFailure"] and "exitCode" not in rig.status()["lastFailure"]


CASES = Path(__file__).parent / "malformed.yaml"


@pytest.mark.parametrize("case", yaml.safe_load(CASES.read_text()), ids=lambda c: c["name"])
def test_malformed_parts_are_named(rig, case):
    """Each free-form part that is not as it must be ends the job as InvalidSpec, with its path and what was found."""
    rig.submit(job(**case["spec"]))
    rig.settle()
    failed = rig.condition("Failed")
    assert (failed["status"], failed["reason"]) == ("True", "InvalidSpec")
    assert failed["message"] == case["says"]
    assert rig.kinds() == []
