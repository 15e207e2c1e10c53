"""The client's own decisions: what a job looks like, how a wait ends, which process's log is followed."""

import json
from types import SimpleNamespace

import pytest

from bagpipe.client.jobs import BagpipeClient, JobFailed, JobNotFound, JobView, WaitTimeout
from bagpipe.errors import ExitCode


def raw(phase: str = "Running", reason: str = "", **status) -> dict:
    conditions = [{"type": phase, "status": "True", "reason": reason, "message": "why"}] if reason else []
    metadata = {"name": "j", "namespace": "ns"}
    return {"metadata": metadata, "status": {"phase": phase, "conditions": conditions, **status}}


def pod(uid: str, attempt: int, index: int = 0, restarts: int = 0, state: str = "running") -> dict:
    labels = {"bagpipe.dev/attempt": str(attempt), "batch.kubernetes.io/job-completion-index": str(index)}
    containers = [{"name": "bagpipe", "restartCount": restarts, "state": {state: {}}}]
    metadata = {"name": f"pod-{uid}", "uid": uid, "labels": labels}
    return {"metadata": metadata, "status": {"containerStatuses": containers}}


class Log:
    """A log that comes in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def stream(self):
        return iter(self._pieces)


class FakeClock:
    """Time that passes when somebody pauses, and not otherwise."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def pause(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def client():
    """A client whose cluster is a script: `views` and `pods` are consumed one a call, the last one stays."""
    made = BagpipeClient.__new__(BagpipeClient)
    made.namespace, made._errors, made._clock = "ns", RuntimeError, FakeClock()
    views, pods, logs = [raw()], [[]], {}

    def take(items):
        return items.pop(0) if len(items) > 1 else items[0]

    made._jobs = SimpleNamespace(get_namespaced_custom_object=lambda *a, **k: take(views))
    made._core = SimpleNamespace(
        list_namespaced_pod=lambda *a, **k: SimpleNamespace(data=json.dumps({"items": take(pods)})),
        read_namespaced_pod_log=lambda name, namespace, **k: logs[name],
    )
    return made, views, pods, logs


def test_wait_returns_when_complete(client):
    """Every change is shown, and the complete job is returned."""
    made, views, _, _ = client
    views[:] = [raw("Starting"), raw("Running"), raw("Running"), raw("Complete", "Completed", summary={"loss": 1})]
    seen = []
    assert made.wait("j", on_change=lambda view: seen.append(view.phase)).summary == {"loss": 1}
    assert seen == ["Starting", "Running", "Complete"]


@pytest.mark.parametrize(
    ("reason", "code"),
    [("BadConfig", ExitCode.BAD_CONFIG), ("BadData", ExitCode.BAD_DATA), ("BackoffLimitExceeded", ExitCode.SOFTWARE)],
)
def test_wait_raises_when_failed(client, reason, code):
    """A failed job is an error with its reason, and the exit code that fits."""
    made, views, _, _ = client
    views[:] = [raw("Failed", reason)]
    with pytest.raises(JobFailed, match=reason) as caught:
        made.wait("j")
    assert caught.value.exit_code == code


def test_wait_has_a_deadline(client):
    """A wait ends in time, asking once a second until then, and says how far the job was."""
    with pytest.raises(WaitTimeout, match="job j is Running after 90 s"):
        client[0].wait("j", timeout_seconds=90)
    assert client[0]._clock.now() == 90


def test_follow_waits_for_the_pod_and_goes_on_with_the_next(client):
    """Following waits until there is a pod, reads it to its end, goes on with its successor, and ends with the job."""
    made, views, pods, logs = client
    views[:] = [raw(), raw(), raw(), raw(), raw("Complete", "Completed")]
    first, second = pod("a", 0, index=1, state="waiting"), pod("b", 1, index=1)
    pods[:] = [[], [first], [pod("a", 0, index=1)], [pod("a", 0, index=1), second], [second]]
    logs |= {"pod-a": Log(b"one\ntw", b"o\n"), "pod-b": Log(b"three")}
    assert list(made.logs("j", role="trainer", index=1, follow=True)) == ["one", "two", "three"]


def test_a_restarted_process_in_the_same_pod_is_another_log(client):
    """A server's process restarts in its pod: following goes on with it."""
    made, views, pods, logs = client
    views[:] = [raw(), raw(), raw("Complete", "Completed")]
    pods[:] = [[pod("a", 0)], [pod("a", 0, restarts=1)], [pod("a", 0, restarts=1)]]
    logs |= {"pod-a": Log(b"x\n")}
    assert list(made.logs("j", role="server", follow=True)) == ["x", "x"]


@pytest.mark.parametrize("follow", [False, True])
def test_last_lines_of_a_pod_that_is_gone(client, follow):
    """Of a pod that is gone there is what the operator kept; what it did not keep is an error."""
    made, views, _, _ = client
    views[:] = [raw("Failed", "DeadlineExceeded", logs={"configMap": "j-logs"})]
    data = json.dumps({"data": {"trainer-1.log": "one\ntwo\nthree\n"}})
    made._core.read_namespaced_config_map = lambda name, *a, **k: SimpleNamespace(data=data if name == "j-logs" else "")
    assert list(made.logs("j", role="trainer", index=1, follow=follow)) == ["one", "two", "three"]
    assert list(made.logs("j", role="trainer", index=1, follow=follow, tail=2)) == ["two", "three"]
    if not follow:
        with pytest.raises(JobNotFound, match="no pod of trainer 0 now; it is Failed"):
            list(made.logs("j", role="trainer", index=0))


def test_the_telling_condition_is_shown():
    """Of several conditions the one that explains the phase."""
    view = JobView.of(raw("Failed", "Unschedulable"))
    assert (view.phase, view.reason, view.message, view.finished) == ("Failed", "Unschedulable", "why", True)
