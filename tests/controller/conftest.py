"""A world for the pure core: children in memory, with just enough of Kubernetes' own controllers.

`World.settle` reconciles until nothing changes any more, so every test also shows that the decision
has a fixed point: a settled world is written to no more.
"""

import copy
import datetime as dt
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_api import merged
from rig import Rig

from bagpipe_operator import names, patches
from bagpipe_operator.api import Job
from bagpipe_operator.decision import Decision, Deletion
from bagpipe_operator.names import Role
from bagpipe_operator.observe import Known, Obstacle, observe
from bagpipe_operator.reconcile import desired
from bagpipe_operator.settings import Settings

T0 = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
Raw = dict[str, Any]


def stamp(when: dt.datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


class World:
    """One BagpipeJob, its children, and a clock that moves when told."""

    def __init__(
        self, spec: Raw | None = None, settings: Raw | None = None, labels: dict[str, str] | None = None
    ) -> None:
        self._uids = itertools.count(1)
        self.now = T0
        self.settings = Settings.of(settings or {})
        self.spec: Raw = {
            "data": {"path": "/x"},
            "servers": {"replicas": 2},
            "trainers": {"replicas": 2},
            **(spec or {}),
        }
        self.labels = labels or {}
        self.status: Raw = {}
        self.uid = "job-uid"
        self.generation = 1
        self.deleted: dt.datetime | None = None
        """When somebody deleted it."""
        self.finalizers: list[str] = []
        self.objects: dict[tuple[str, str], Raw] = {}
        self.lost_nodes: dict[str, dt.datetime] = {}
        self.progress: Raw | None = None
        self.priorities: dict[str, Raw] = {}
        self.refused: dict[tuple[str, str], Obstacle] = {}
        self.warnings: dict[str, Obstacle] = {}
        self.logs: dict[str, str] = {}
        self.log_keeper: dict[str, str] = {"configMap": "j-logs"}
        """What comes of keeping logs; empty: no answer."""
        self.logs_asked: list[str] = []
        self.events: list[tuple[str, str]] = []
        self.gone = False
        self.secrets = 0
        self.looked_at: set[str] = set()
        self.status_writes = 0
        self.again_at: dt.datetime | None = None
        self.slow_deletion = False
        """Pods that are told to go stay until `let_go`."""

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    @property
    def job(self) -> Job:
        meta: Raw = {"name": "j", "namespace": "ns", "uid": self.uid, "generation": self.generation}
        meta |= {"labels": self.labels, "finalizers": self.finalizers}
        meta |= {"deletionTimestamp": stamp(self.deleted)} if self.deleted else {}
        return Job.of({"metadata": meta, "spec": self.spec, "status": self.status})

    def kinds(self, kind: str) -> list[str]:
        return sorted(name for k, name in self.objects if k == kind)

    def pods(self, role: str | None = None, attempt: int | None = None) -> list[Raw]:
        found = [o for (k, _), o in sorted(self.objects.items()) if k == "Pod"]
        found = [p for p in found if role in (None, p["metadata"]["labels"][names.LABEL_ROLE])]
        return [p for p in found if attempt in (None, int(p["metadata"]["labels"][names.LABEL_ATTEMPT]))]

    def live_pods(self, role: str | None = None) -> list[Raw]:
        return [p for p in self.pods(role) if p["status"]["phase"] in ("Pending", "Running")]

    def condition(self, kind: str) -> Raw | None:
        return next((c for c in self.status.get("conditions", []) if c["type"] == kind), None)

    def is_true(self, kind: str) -> bool:
        found = self.condition(kind)
        return found is not None and found["status"] == "True"

    # ── one pass ─────────────────────────────────────────────────────────────────────────────────

    def decide(self) -> Decision | None:
        children = [o for (k, _), o in self.objects.items() if k != "Pod"]
        known = Known(
            lost_nodes=self.lost_nodes,
            progress=self.progress,
            priorities=self.priorities,
            refused=self.refused,
            warnings=self.warnings,
            logs=self.logs,
        )
        seen = observe(self.uid, copy.deepcopy(children), copy.deepcopy(self.pods()), known)
        return desired(self.job, seen, self.settings, self.now)

    def step(self) -> bool:
        """Decide, carry out, let Kubernetes' controllers act; whether anything changed."""
        decision = self.decide()
        before = json.dumps([self.status, self.logs, sorted(map(str, self.objects.items()))], default=str)
        if decision is not None:
            self._carry_out(decision)
        self._controllers()
        return before != json.dumps([self.status, self.logs, sorted(map(str, self.objects.items()))], default=str)

    def settle(self, passes: int = 30) -> "World":
        for _ in range(passes):
            if not self.step():
                return self
        raise AssertionError(f"no fixed point after {passes} passes: {self.status}")

    def run(self) -> "World":
        """Settle with every pod started."""
        self.settle()
        self.start_pods()
        return self.settle()

    def after(self, seconds: float) -> "World":
        self.now += dt.timedelta(seconds=seconds)
        return self.settle()

    def _carry_out(self, decision: Decision) -> None:
        status = decision.status.to_dict()
        if status != self.status:
            self.status_writes += 1
            self.status = merged(self.status, json.loads(json.dumps(patches.merge(self.status, status))))
            assert self.status == json.loads(json.dumps(status)), "the API server keeps another status than was decided"
            self.events += [(e.type, e.reason) for e in decision.events]
        for deletion in decision.delete:
            self._delete(deletion)
        for body in decision.apply:
            self._apply(json.loads(json.dumps(body)))
        self.secrets += decision.create_job_secret
        if decision.workload_status is not None:
            workload = self.objects["Workload", names.workload("j")]
            workload["status"] = {
                k: v for k, v in {**workload.get("status", {}), **decision.workload_status}.items() if v is not None
            }
        self.gone = self.gone or decision.delete_job
        if decision.keep_logs:
            self.logs_asked = [f"{p.role}-{p.index}" for p in decision.keep_logs]
            self.logs = self.log_keeper
        self.looked_at |= decision.look_at_nodes
        self.again_at = decision.again_at

    def _apply(self, body: Raw) -> None:
        key = (body["kind"], body["metadata"]["name"])
        old = self.objects.get(key)
        meta = {**body["metadata"], "uid": old["metadata"]["uid"] if old else f"uid-{next(self._uids)}"}
        self.objects[key] = {**body, "metadata": meta, "status": (old or {}).get("status", {})}

    def _delete(self, deletion: Deletion) -> None:
        target = self.objects.get((deletion.kind, deletion.name))
        if target is None or target["metadata"]["uid"] != deletion.uid:
            return
        if deletion.kind == "Pod":
            if deletion.force and self._kept_by_its_job(target):
                target["metadata"]["deletionGracePeriodSeconds"] = 0
            else:
                self.delete_pod(target, force=deletion.force)
            return
        for pod in [p for p in self.pods() if p["metadata"]["ownerReferences"][0]["uid"] == deletion.uid]:
            self.delete_pod(pod)
        if self.slow_deletion and any(p["metadata"]["ownerReferences"][0]["uid"] == deletion.uid for p in self.pods()):
            target["metadata"]["deletionTimestamp"] = stamp(self.now)
        else:
            del self.objects[deletion.kind, deletion.name]

    # ── Kubernetes ───────────────────────────────────────────────────────────────────────────────

    def _kept_by_its_job(self, pod: Raw) -> bool:
        """Whether its Job's finalizer is on it, which goes when the pod has ended, or the Job has, or is deleted."""
        uid = pod["metadata"]["ownerReferences"][0]["uid"]
        owner = next((o for o in self.objects.values() if o["metadata"]["uid"] == uid), None)
        going = owner is None or "deletionTimestamp" in owner["metadata"] or "foregroundDeletion" in self.finalizers
        over = going or (owner or {})["status"].get("conditions")
        return bool(pod["metadata"].get("finalizers")) and not over and pod["status"]["phase"] in ("Pending", "Running")

    def _controllers(self) -> None:
        for (kind, _), owner in list(self.objects.items()):
            if "deletionTimestamp" in owner["metadata"]:
                continue
            if kind == "StatefulSet":
                self._stateful_set(owner)
            elif kind == "Job":
                self._batch_job(owner)

    def _stateful_set(self, owner: Raw) -> None:
        wanted = {f"{owner['metadata']['name']}-{i}": i for i in range(owner["spec"]["replicas"])}
        for pod in self.pods("server"):
            if pod["metadata"]["name"] not in wanted:
                self.delete_pod(pod)
        for name, index in wanted.items():
            if ("Pod", name) not in self.objects:
                self._new_pod(owner, name, {names.LABEL_POD_INDEX: str(index)})

    def _batch_job(self, owner: Raw) -> None:
        mine = [p for p in self.pods() if p["metadata"]["ownerReferences"][0]["uid"] == owner["metadata"]["uid"]]
        if owner["status"].get("conditions"):
            return
        if owner["spec"].get("suspend"):
            for pod in mine:
                if pod["status"]["phase"] in ("Pending", "Running"):
                    self.delete_pod(pod)
            return
        count = owner["spec"].get("completions", 1)
        failed = [p for p in mine if p["status"]["phase"] == "Failed"]
        permanent = [p for p in failed if _exit_code(p) in names.PERMANENT_EXITS]
        if (
            permanent
            or len(failed) > owner["spec"]["backoffLimit"]
            or owner["status"].get("lost", 0) > owner["spec"]["backoffLimit"]
        ):
            reason = "PodFailurePolicy" if permanent else "BackoffLimitExceeded"
            message = f"Container bagpipe failed with exit code {_exit_code(permanent[0])}" if permanent else "too many"
            owner["status"]["conditions"] = [{"type": "Failed", "status": "True", "reason": reason, "message": message}]
            for pod in mine:
                if pod["status"]["phase"] in ("Pending", "Running"):
                    self.delete_pod(pod)
            return
        if sum(p["status"]["phase"] == "Succeeded" for p in mine) == count:
            owner["status"]["conditions"] = [{"type": "Complete", "status": "True", "reason": "Done", "message": ""}]
            return
        taken = {
            p["metadata"]["labels"].get(names.LABEL_COMPLETION_INDEX, "0")
            for p in mine
            if p["status"]["phase"] != "Failed"
        }
        for index in range(count):
            if str(index) not in taken:
                name = f"{owner['metadata']['name']}-{index}-{next(self._uids)}"
                self._new_pod(owner, name, {names.LABEL_COMPLETION_INDEX: str(index)})

    def _new_pod(self, owner: Raw, name: str, labels: dict[str, str]) -> None:
        template = owner["spec"]["template"]
        meta = {
            "name": name,
            "namespace": "ns",
            "uid": f"uid-{next(self._uids)}",
            "labels": {**template["metadata"]["labels"], **labels},
            "ownerReferences": [
                {
                    "kind": owner["kind"],
                    "name": owner["metadata"]["name"],
                    "uid": owner["metadata"]["uid"],
                    "controller": True,
                }
            ],
            "creationTimestamp": stamp(self.now),
        }
        if owner["kind"] == "Job":
            meta["finalizers"] = ["batch.kubernetes.io/job-tracking"]
        self.objects["Pod", name] = {
            "kind": "Pod",
            "metadata": meta,
            "spec": dict(template["spec"]),
            "status": {"phase": "Pending"},
        }

    # ── what happens to pods ─────────────────────────────────────────────────────────────────────

    def pod(self, role: str, index: int = 0) -> Raw:
        """The newest pod of a role and index that has not ended."""
        key = names.LABEL_POD_INDEX if role == "server" else names.LABEL_COMPLETION_INDEX
        found = [p for p in self.live_pods(role) if p["metadata"]["labels"].get(key, "0") == str(index)]
        return max(found, key=lambda p: int(p["metadata"]["uid"].split("-")[1]))

    def start_pods(self) -> None:
        for pod in self.live_pods():
            pod["spec"].setdefault("nodeName", "n1")
            pod["status"] |= {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
            pod["status"].setdefault(
                "containerStatuses", [{"name": "bagpipe", "restartCount": 0, "state": {"running": {}}}]
            )

    def end(self, pod: Raw, code: int, message: str = "", reason: str = "") -> None:
        """Its main container ends for good."""
        ended = {
            "exitCode": code,
            "reason": reason or ("Completed" if code == 0 else "Error"),
            "message": message,
            "finishedAt": stamp(self.now),
        }
        pod["status"] |= {"phase": "Succeeded" if code == 0 else "Failed", "conditions": []}
        pod["status"]["containerStatuses"] = [{"name": "bagpipe", "restartCount": 0, "state": {"terminated": ended}}]

    def end_init(self, pod: Raw, code: int, message: str = "", name: str = "fetch") -> None:
        """An init container ends badly: the pod has failed, and its main container never ran."""
        ended = {"exitCode": code, "reason": "Error", "message": message, "finishedAt": stamp(self.now)}
        waiting = {"name": "bagpipe", "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}
        pod["status"] = {"phase": "Failed", "containerStatuses": [waiting]}
        pod["status"]["initContainerStatuses"] = [{"name": name, "restartCount": 0, "state": {"terminated": ended}}]

    def restart_container(self, pod: Raw, code: int, message: str = "") -> None:
        """As the kubelet does with a server's process."""
        old = pod["status"]["containerStatuses"][0]
        ended = {"exitCode": code, "reason": "Error", "message": message, "finishedAt": stamp(self.now)}
        new = {
            "name": "bagpipe",
            "restartCount": old["restartCount"] + 1,
            "state": {"running": {}},
            "lastState": {"terminated": ended},
        }
        pod["status"]["containerStatuses"] = [new]

    def wait_for(self, pod: Raw, reason: str, message: str = "") -> None:
        """Its container cannot start."""
        pod["status"]["containerStatuses"] = [
            {"name": "bagpipe", "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}}
        ]

    def disrupt(self, pod: Raw, code: int = 143) -> None:
        """The cluster takes it away by an eviction; it ends with `code`."""
        self.end(pod, code)
        pod["status"]["conditions"] = [
            {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
        ]

    def delete_pod(self, pod: Raw, force: bool = False) -> None:
        """As `kubectl delete pod`: gone at once, or with `slow_deletion` when `let_go` is called."""
        if self.slow_deletion and not force and pod["status"]["phase"] in ("Pending", "Running"):
            pod["metadata"].setdefault("deletionTimestamp", stamp(self.now + dt.timedelta(seconds=60)))
            pod["metadata"].setdefault("deletionGracePeriodSeconds", 60)
            return
        self.objects.pop(("Pod", pod["metadata"]["name"]), None)
        owner = next(
            (o for o in self.objects.values() if o["metadata"]["uid"] == pod["metadata"]["ownerReferences"][0]["uid"]),
            None,
        )
        if owner is not None and owner["kind"] == "Job" and pod["status"]["phase"] in ("Pending", "Running"):
            owner["status"]["lost"] = owner["status"].get("lost", 0) + 1

    def let_go(self) -> "World":
        """Everything that was told to go is gone."""
        for pod in [p for p in self.pods() if "deletionTimestamp" in p["metadata"]]:
            self.delete_pod(pod, force=True)
        for key, owner in list(self.objects.items()):
            if "deletionTimestamp" in owner["metadata"]:
                del self.objects[key]
        return self

    def complete(self) -> "World":
        for pod in self.live_pods("trainer"):
            self.end(pod, 0)
        for pod in self.live_pods("oracle"):
            self.end(pod, 0, json.dumps({"steps": 5, "modelDigest": "abc"}))
        return self.settle()


def _exit_code(pod: Raw) -> int | None:
    for container in pod["status"].get("containerStatuses", []):
        if "terminated" in container["state"]:
            return int(container["state"]["terminated"]["exitCode"])
    return None


@pytest.fixture
def world() -> Callable[..., World]:
    """Makes worlds."""
    return World


@pytest.fixture
def roles() -> type[Role]:
    return Role


@pytest.fixture
def rig() -> Iterator[Rig]:
    """The shell on a fake API server with no job."""
    made = Rig()
    yield made
    made.close()
