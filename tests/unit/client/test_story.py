"""`bagpipe job describe`: one page that says what happened, and nothing that is not known."""

import datetime as dt
import json
from types import SimpleNamespace

import pytest

from bagpipe.cli import main
from bagpipe.client.jobs import BagpipeClient
from bagpipe.client.story import tell

NOW = dt.datetime(2026, 1, 1, 12, 0, tzinfo=dt.UTC)
META = {"name": "j", "namespace": "ml", "uid": "u", "creationTimestamp": "2026-01-01T10:00:00Z"}
CONDITION = {
    "type": "Restarting",
    "status": "True",
    "reason": "OOMKilled",
    "message": "trainer 1 exited with 137",
    "lastTransitionTime": "2026-01-01T11:58:00Z",
}
STATUS = {
    "phase": "Restarting",
    "reason": "OOMKilled",
    "phaseTime": "2026-01-01T11:58:00Z",
    "attempt": 1,
    "restarts": 1,
    "startTime": "2026-01-01T10:01:00Z",
    "durations": {"Starting": 60, "Running": 7020},
    "progress": {"step": 300, "totalSteps": 1000, "loss": 0.5, "examplesPerSecond": 12000.4, "lastCheckpoint": 250},
    "conditions": [CONDITION],
    "lastFailure": {
        "time": "2026-01-01T11:58:00Z",
        "attempt": 0,
        "reason": "OOMKilled",
        "message": "trainer 1 exited with 137",
        "lastWords": "\n".join(f"line {n}" for n in range(30)),
    },
}
EVENT = {
    "reason": "OOMKilled",
    "message": "Restarting: trainer 1\n exited with 137",
    "lastTimestamp": "2026-01-01T11:58:00Z",
}


def pod(role, index, **status):
    label = "apps.kubernetes.io/pod-index" if role == "server" else "batch.kubernetes.io/job-completion-index"
    labels = {"bagpipe.dev/role": role, "bagpipe.dev/attempt": "1", label: str(index)}
    return {"metadata": {"name": f"p-{role}-{index}", "labels": labels}, "spec": {"nodeName": "n1"}, "status": status}


def story(**more):
    job = {"metadata": META, "spec": {"runPolicy": {"backoffLimit": 3}}, "status": STATUS, **more}
    waiting = {"name": "bagpipe", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    pods = [pod("trainer", 10, phase="Running"), pod("trainer", 9, phase="Running", containerStatuses=[waiting])]
    return tell(job, [EVENT], [*pods, pod("oracle", 0, phase="Running")], NOW)


def test_the_page():
    """Where the job is, how far, what happened when, its pods by role and rank, and its termination message."""
    blocks = dict(part.split("\n", 1) for part in story().strip().split("\n\n"))
    assert (
        blocks["ml/j: Restarting for 2 min 0 s (OOMKilled)"].strip()
        == "attempt 1; new attempts: 1 of 3 for failures, 0 for disruptions"
    )
    assert blocks["Progress"].strip() == "step 300 of 1000, loss 0.5000, 12,000 examples/s, checkpoint at step 250"
    assert blocks["Time"].strip() == "Starting 1 min 0 s, Running 1 h 57 min, Restarting 2 min 0 s"
    assert blocks["Timeline"].splitlines() == [
        "  2026-01-01T10:00:00Z  made",
        "  2026-01-01T10:01:00Z  all pods ran for the first time",
        "  2026-01-01T11:58:00Z  OOMKilled: Restarting: trainer 1 exited with 137",
    ]
    assert [line.split()[:2] for line in blocks["Pods"].splitlines()] == [
        ["oracle", "0"],
        ["trainer", "9"],
        ["trainer", "10"],
    ]
    assert "(restarted 2 times, CrashLoopBackOff)" in blocks["Pods"]
    assert blocks["Last failure"].splitlines()[-1] == "  | line 29" and len(blocks["Last failure"].splitlines()) == 11
    assert "Result" not in blocks


def test_what_kubernetes_forgot_is_told_from_the_status():
    """After an hour the events are gone; the conditions still tell what became true."""
    page = tell({"metadata": META, "status": STATUS}, [], [], NOW)
    assert "2026-01-01T11:58:00Z  Restarting: trainer 1 exited with 137" in page


def test_nothing_is_said_twice():
    """Conditions that programs read say again what others say; what happened in one second stays in its order."""
    failed = {"type": "Failed", "status": "True", "reason": "BadData", "message": "no such file"}
    when = {"lastTransitionTime": META["creationTimestamp"]}
    listed = [{**failed, **when}, {**failed, **when, "type": "Stalled"}]
    page = tell({"metadata": META, "status": {"phase": "Failed", "conditions": listed}}, [], [], NOW)
    assert "Stalled" not in page
    assert page.index("10:00:00Z  made") < page.index("10:00:00Z  Failed: no such file")


def test_a_job_that_nobody_runs_says_so():
    """Without an operator there is no status, and the page says whom to ask."""
    page = tell({"metadata": META, "spec": {}}, [], [], NOW)
    assert page.startswith("ml/j: Pending") and "no operator has looked at it" in page


def test_a_deleted_job_that_is_still_there_says_who_keeps_it():
    """Also where no operator has looked at it since: its own record has whose finalizers it waits for."""
    meta = {**META, "deletionTimestamp": "2026-01-01T11:00:00Z", "finalizers": ["example.com/keep", "orphan"]}
    page = tell({"metadata": meta, "status": STATUS}, [], [], NOW)
    assert "was deleted at 2026-01-01T11:00:00Z; what keeps it: example.com/keep, orphan\n" in page


def test_the_result_of_a_finished_job():
    """A complete job shows its summary, and its time stands still."""
    status = {
        "phase": "Complete",
        "phaseTime": "2026-01-01T11:00:00Z",
        "durations": {"Running": 5},
        "summary": {"loss": 1},
    }
    page = story(status=status)
    assert "Result\n  loss: 1" in page and "Time\n  Running 5 s\n" in page


def test_last_lines_of_pods_that_are_gone():
    """Three lines of each of the first eight processes, how many more there are, and why there are none."""
    kept = {f"trainer-{i}.log": "a\nb\nc\nd\n" for i in range(9)}
    page = tell({"metadata": META, "status": STATUS}, [], [], NOW, kept)
    assert "Last lines of pods that are gone\n  trainer-0:\n  | b\n  | c\n  | d\n  trainer-1:" in page
    assert "and 1 more" in page and "trainer-8" not in page
    refused = {**STATUS, "logs": {"message": "logs not kept: no room"}}
    assert "  logs not kept: no room\n" in tell({"metadata": META, "status": refused}, [], [], NOW)


def test_the_client_asks_for_this_jobs_events():
    """Events of an older job of the name are another's."""
    asked = {}
    made = BagpipeClient.__new__(BagpipeClient)
    made.namespace, made._errors = "ml", RuntimeError

    def listed(namespace, **options):
        asked.update(options)
        return SimpleNamespace(data=json.dumps({"items": []}))

    made._jobs = SimpleNamespace(get_namespaced_custom_object=lambda *a, **k: {"metadata": META, "status": STATUS})
    made._core = SimpleNamespace(list_namespaced_event=listed, list_namespaced_pod=listed)
    assert "attempt 1" in made.describe("j")
    assert asked["field_selector"] == "involvedObject.kind=BagpipeJob,involvedObject.uid=u"
    assert asked["label_selector"] == "bagpipe.dev/job=j"


def test_kubectls_plugin_is_bagpipe_job(monkeypatch):
    """`kubectl bagpipe describe j` runs `bagpipe job describe j`."""
    ran = []
    monkeypatch.setattr(main.sys, "argv", ["kubectl-bagpipe", "describe", "j"])
    monkeypatch.setattr(main, "offer_user_modules", lambda: None)
    monkeypatch.setattr(main, "run_command", lambda argv: ran.append(argv) or 0)
    monkeypatch.setattr(main, "leave", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    with pytest.raises(SystemExit):
        main.plugin()
    assert ran == [["job", "describe", "j"]]


def test_last_words_steer_no_terminal():
    """What a process left may contain anything; the page shows such signs and does not send them."""
    status = {**STATUS, "lastFailure": {**STATUS["lastFailure"], "lastWords": "\x1b[2Jgone\x07\nrow Ünïcode 猫"}}
    page = tell({"metadata": META, "spec": {}, "status": status}, [], [], NOW)
    assert "| \\x1b[2Jgone\\x07" in page and "row Ünïcode 猫" in page and "\x1b" not in page
