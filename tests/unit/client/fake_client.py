"""A script in place of a cluster: jobs, pods and logs as an API server tells them."""

import json
from types import SimpleNamespace


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


class Answer(RuntimeError):
    """An answer of 400 or above, as the Kubernetes client raises it."""

    def __init__(self, status, message="", reason="Not Found") -> None:
        super().__init__(message)
        self.status, self.reason = status, reason
        status = {"kind": "Status", "message": message, "reason": "AlreadyExists" if "exists" in message else "Any"}
        self.body = json.dumps(status) if message else "404 page not found"


def raising(error):
    def call(*_, **__):
        raise error

    return call


def waiting(reason, **more):
    """A pod whose process waits, beside a container that a pod template added and that runs."""
    found = pod("a", 0)
    main = {"name": "bagpipe", "restartCount": 2, "state": {"waiting": {"reason": reason}}, **more}
    found["status"]["containerStatuses"] = [{"name": "a-sidecar", "state": {"running": {}}}, main]
    return found


def pods(odd, *found):
    odd._core.list_namespaced_pod = lambda *a, **k: SimpleNamespace(data=json.dumps({"items": found}))
