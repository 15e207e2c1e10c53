"""The last lines of the pods that a failed job's end takes away are kept, and what cannot be kept holds nothing up."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig import Rig, job

from bagpipe_operator import log_keeper, names
from bagpipe_operator.api import Job
from bagpipe_operator.names import Role
from bagpipe_operator.podstate import Pod

DEADLINE = {"runPolicy": {"activeDeadlineSeconds": 100}}


def test_pods_stay_until_their_lines_are_kept(world):
    """A deadline ends no pod before the last lines of all that run are kept; then it ends them, and says so."""
    w = world(DEADLINE).run()
    w.log_keeper = {}
    w.after(100)
    assert w.is_true("Failed") and len(w.live_pods()) == 5 and "StatefulSet" in {kind for kind, _ in w.objects}
    assert sorted(w.logs_asked) == ["oracle-0", "server-0", "server-1", "trainer-0", "trainer-1"]
    w.logs = {"configMap": "j-logs"}
    w.settle()
    assert w.live_pods() == [] and w.status["logs"] == {"configMap": "j-logs"}
    assert w.events.count(("Normal", "LogsKept")) == 1


def test_no_answer_holds_pods_for_a_minute(world):
    """When nothing comes of keeping the logs, the job is looked at again a minute after its end, and the pods go."""
    w = world(DEADLINE).run()
    w.log_keeper = {}
    w.after(100)
    assert (w.again_at - w.now).total_seconds() == 60
    w.after(59)
    assert len(w.live_pods()) == 5
    w.after(1)
    assert w.live_pods() == [] and "60 s" in w.status["logs"]["message"]
    assert w.events.count(("Warning", "LogsNotKept")) == 1


def test_a_clock_that_is_set_back_holds_no_pods(world):
    """A failed job whose end lies an hour ahead of the clock does not wait an hour for its logs."""
    w = world(DEADLINE).run()
    w.log_keeper = {}
    w.after(100)
    assert len(w.live_pods()) == 5
    w.after(-3600)
    assert w.live_pods() == [] and "60 s" in w.status["logs"]["message"]


def test_what_cannot_be_kept_is_said(world):
    """A refusal ends the wait at once: its words are in the status and in an event."""
    w = world(DEADLINE).run()
    w.log_keeper = {"message": "no room"}
    w.after(100)
    assert w.live_pods() == [] and w.status["logs"] == {"message": "no room"}
    assert ("Warning", "LogsNotKept") in w.events


@pytest.mark.parametrize(
    ("policy", "asked"),
    [
        ("Running", ["oracle-0", "server-0", "server-1", "trainer-1"]),
        ("All", ["oracle-0", "server-0", "server-1", "trainer-0", "trainer-1"]),
        ("None", []),
    ],
)
def test_whose_lines_are_kept(world, policy, asked):
    """A pod that stays keeps its own log: with `Running` the one that ended, with `None` every one."""
    w = world({"runPolicy": {"backoffLimit": 0, "cleanPodPolicy": policy}}).run()
    w.slow_deletion = True
    w.end(w.pod("trainer", 0), 1, "boom")
    w.settle()
    assert w.is_true("Failed") and sorted(w.logs_asked) == asked


def test_a_complete_job_keeps_no_lines(world):
    """No logs are kept of a job that ended well."""
    w = world().run().complete()
    assert w.logs_asked == [] and "logs" not in w.status


def failed(rig: Rig, logs: dict[str, str], **spec: object) -> Rig:
    """A job that fails at its deadline with a running pod for each of `logs`, which are by role."""
    rig.submit(job(runPolicy={"startupDeadlineSeconds": 60}, **spec))
    rig.settle()
    kinds = {Role.ORACLE: ("Job", "j-oracle-0"), Role.TRAINER: ("Job", "j-trainers-0")}
    for name, text in logs.items():
        role = Role(name.partition("-")[0])
        kind, owner = kinds[role]
        meta = rig.api.objects[kind, "ns", owner]["metadata"]
        labels = {**names.labels("j", role, 0), names.LABEL_COMPLETION_INDEX: name.partition("-")[2]}
        reference = {"kind": kind, "name": owner, "uid": meta["uid"], "controller": True}
        pod = {"metadata": {"name": name, "labels": labels, "ownerReferences": [reference]}}
        rig.api.put("Pod", {**pod, "status": {"phase": "Running"}})
        rig.api.logs["ns", name] = text
    rig.settle()
    rig.api.now = rig.api.now.replace(hour=1)
    return rig.again()


def kept(rig: Rig) -> dict[str, str]:
    return dict(rig.api.objects["ConfigMap", "ns", "j-logs"]["data"])


def test_lines_are_written_before_pods_are_ended(rig):
    """The ConfigMap of the job's own, with a key for each process, is there before the first deletion is asked for."""
    failed(rig, {"oracle-0": "step 3\n", "trainer-1": "waiting\n"})
    assert kept(rig) == {"oracle-0.log": "step 3\n", "trainer-1.log": "waiting\n"}
    meta = rig.api.objects["ConfigMap", "ns", "j-logs"]["metadata"]
    assert meta["ownerReferences"][0]["uid"] == rig.api.objects[names.KIND, "ns", "j"]["metadata"]["uid"]
    assert rig.status()["logs"] == {"configMap": "j-logs"} and "LogsKept" in rig.events()
    asked = [(method, url.rpartition("/")[2]) for method, url in rig.api.requests]
    made = max(i for i, (method, name) in enumerate(asked) if (method, name) == ("POST", "configmaps"))
    ended = min(i for i, (method, name) in enumerate(asked) if (method, name) == ("DELETE", "j-servers"))
    assert made < ended


def test_kept_lines_are_no_burden_of_the_operator(rig):
    """Nothing that is watched bears the logs: they would all be in the operator's memory."""
    failed(rig, {"oracle-0": "x" * 10_000})
    labels = rig.api.objects["ConfigMap", "ns", "j-logs"]["metadata"]["labels"]
    assert names.LABEL_MANAGED_BY not in labels and labels[names.LABEL_JOB] == "j"
    assert rig.store.get("ConfigMap", "ns", "j-logs") is None


def test_a_log_that_cannot_be_read_is_said_in_its_place(rig, monkeypatch):
    """Where one log is refused and one never comes, the reasons stand in their places, and the others are kept."""
    monkeypatch.setattr(log_keeper, "_READ_SECONDS", 0.05)
    read = rig.cluster.text

    async def text(url: str, **params: str) -> str:
        if "trainer-0" in url:
            await rig.loop.create_future()
        return await read(url.replace("trainer-1/", "gone/"), **params)

    monkeypatch.setattr(rig.cluster, "text", text)
    failed(rig, {"oracle-0": "fine\n", "trainer-0": "?", "trainer-1": "?"})
    assert kept(rig) == {
        "oracle-0.log": "fine\n",
        "trainer-0.log": "(not read: no answer within 0.05 s)\n",
        "trainer-1.log": "(not read: Pod 'gone' not found)\n",
    }
    assert not [key for key in rig.kinds() if key.startswith("StatefulSet")]


def test_many_logs_that_never_come_keep_no_other_jobs_waiting(rig, monkeypatch):
    """A job with many pods on nodes that do not answer ends in time, and the logs of another one have their turn."""
    monkeypatch.setattr(log_keeper, "_READ_SECONDS", 0.02)
    monkeypatch.setattr(log_keeper, "_ALL_SECONDS", 0.1)
    read, asked = rig.cluster.text, []

    async def text(url: str, **params: str) -> str:
        asked.append("big" if "/big-" in url else "small")
        if "/big-" in url:
            await rig.loop.create_future()
        return await read(url, **params)

    monkeypatch.setattr(rig.cluster, "text", text)
    many = [Pod(name=f"big-{i}", uid=f"b{i}", role=Role.TRAINER, attempt=0, index=i) for i in range(200)]
    one = Pod(name="small-0", uid="s", role=Role.TRAINER, attempt=0)

    async def go() -> None:
        jobs = [Job.of(rig.submit(job(name))) for name in ("big", "small")]
        rig.api.logs["ns", "small-0"] = "its last words\n"
        rig.api.put("Pod", {"metadata": {"name": "small-0"}})
        rig.shell.logs.begin(jobs[0], many)
        rig.shell.logs.begin(jobs[1], [one])
        await rig.shell.logs.idle()

    rig.go(go())
    assert asked.index("small") < 2 * log_keeper._AT_ONCE and len(asked) < 50
    assert rig.api.objects["ConfigMap", "ns", "small-logs"]["data"] == {"trainer-0.log": "its last words\n"}
    data = rig.api.objects["ConfigMap", "ns", "big-logs"]["data"]
    assert len(data) == 200 and data["trainer-0.log"] == "(not read: no answer within 0.02 s)\n"
    assert data["trainer-199.log"] == "(not read: other logs took 0.1 s)\n"


@pytest.mark.parametrize("owner", ["nobody", "this job"])
def test_a_configmap_of_that_name(rig, owner):
    """Somebody else's ConfigMap is left as it is, and the status says so; an earlier leader's is as good as ours."""
    rig.submit(job(runPolicy={"startupDeadlineSeconds": 60}))
    rig.settle()
    uid = rig.api.objects[names.KIND, "ns", "j"]["metadata"]["uid"]
    mine = [{"kind": names.KIND, "name": "j", "uid": uid, "controller": True}] if owner == "this job" else []
    rig.api.put("ConfigMap", {"metadata": {"name": "j-logs", "ownerReferences": mine}, "data": {"a": "b"}})
    failed(rig, {"oracle-0": "x"})
    assert kept(rig) == {"a": "b"} and not [key for key in rig.kinds() if key.startswith("StatefulSet")]
    assert ("configMap" in rig.status()["logs"]) == (owner == "this job")


def test_a_quota_on_configmaps_holds_no_pods(rig):
    """What the API server does not take is said in its words, and the pods are ended."""
    rig.submit(job(runPolicy={"startupDeadlineSeconds": 60}))
    rig.settle()
    full = (403, "Forbidden", "exceeded quota: small")
    rig.api.refuse = lambda method, raw: full if raw["metadata"].get("name") == "j-logs" else None
    failed(rig, {"oracle-0": "x"})
    assert "exceeded quota: small" in rig.status()["logs"]["message"] and "LogsNotKept" in rig.events()
    assert not [key for key in rig.kinds() if key.startswith("StatefulSet")]


def test_all_logs_together_are_bounded(rig):
    """Many long logs of any characters fit into one object; what is kept is their end."""
    logs = {f"trainer-{i}": "\n".join(f"{i} {n} \x00ü" for n in range(20_000)) + "\nend\n" for i in range(9)}
    failed(rig, logs, trainers={"replicas": 9})
    data = kept(rig)
    assert len(data) == 9 and all(text.endswith("\nend\n") for text in data.values())
    assert sum(len(text.encode()) for text in data.values()) <= log_keeper.TOTAL_BYTES < 1_000_000
    assert len(json.dumps(data)) < 3_000_000


def test_long_lines_are_read_from_their_end(rig, monkeypatch):
    """Where the kubelet would cut the last lines off, fewer are asked for."""
    text = "".join(f"{n} {'x' * 2000}\n" for n in range(900)) + "end\n"
    read = rig.cluster.text

    async def kubelet(url: str, **params: str) -> str:
        await read(url, **params)
        lines = text.splitlines(keepends=True)[-int(params["tailLines"]) :]
        return "".join(lines)[: int(params["limitBytes"])]

    monkeypatch.setattr(rig.cluster, "text", kubelet)
    failed(rig, {"oracle-0": text})
    assert kept(rig)["oracle-0.log"].endswith("\nend\n")


@given(st.text(), st.integers(0, 50))
def test_the_end_of_a_text_is_its_end(text, most):
    """Of any text at most so many bytes are kept, all from its end, from the beginning of a line where there is one."""
    text = text.encode(errors="replace").decode()
    end = log_keeper.end_of(text, most)
    assert text.endswith(end) and len(end.encode()) <= most
    if len(text.encode()) <= most:
        assert end == text
