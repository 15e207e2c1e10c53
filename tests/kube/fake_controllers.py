"""Kubernetes' own controllers and kubelets on a `FakeApi`, one small act at a time, in any order a test chooses."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from fake_api import FakeApi, Key

from bagpipe_operator import names

Raw = dict[str, Any]
LIVING = ("Pending", "Running")


class FakeControllers:
    """StatefulSets and Jobs make and delete pods, kubelets start and end them, garbage is collected."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self._made = 0
        self.slow: set[str] = set()
        """Names of pods whose processes do not end when they are told to go."""

    def acts(self) -> list[Callable[[], None]]:
        """Everything that could happen next by itself; an empty list: the cluster is at rest."""
        return [*self._sets(), *self._jobs(), *self._kubelets(), *self._garbage()]

    def of(self, kind: str) -> Iterator[tuple[Key, Raw]]:
        for key, raw in sorted(self.api.objects.items()):
            if key[0] == kind:
                yield key, raw

    def pods(self, owner: Raw | None = None) -> list[Raw]:
        uid = owner["metadata"]["uid"] if owner else None
        return [p for _, p in self.of("Pod") if uid in (None, p["metadata"]["ownerReferences"][0]["uid"])]

    def living(self, role: str) -> list[Raw]:
        """Pods of a role whose process may run, those that are told to go included."""
        mine = [p for p in self.pods() if p["metadata"]["labels"].get(names.LABEL_ROLE) == role]
        return [p for p in mine if p["status"]["phase"] in LIVING]

    # ── controllers ──────────────────────────────────────────────────────────────────────────────

    def _sets(self) -> Iterator[Callable[[], None]]:
        for _, owner in self.of("StatefulSet"):
            if "deletionTimestamp" in owner["metadata"]:
                continue
            wanted = {f"{owner['metadata']['name']}-{i}" for i in range(owner["spec"]["replicas"])}
            have = {p["metadata"]["name"]: p for p in self.pods(owner)}
            for name in sorted(wanted - have.keys()):
                if ("Pod", "ns", name) not in self.api.objects:
                    yield self._make(owner, name, {names.LABEL_POD_INDEX: name.rpartition("-")[2]})
            for name, pod in have.items():
                dead = pod["status"]["phase"] not in LIVING
                if (name not in wanted or dead) and "deletionTimestamp" not in pod["metadata"]:
                    yield self._tell_to_go(pod)

    def _jobs(self) -> Iterator[Callable[[], None]]:
        for key, owner in self.of("Job"):
            said = {c["type"] for c in (owner.get("status") or {}).get("conditions") or ()}
            if said & {"Complete", "Failed"} or "deletionTimestamp" in owner["metadata"]:
                continue
            mine = self.pods(owner)
            if said:  # What it will be is said at once, and that it is so when no pod of it is still ending.
                if not any(_is_going(p) for p in mine):
                    yield self._say(key, "Failed" if "FailureTarget" in said else "Complete")
                continue
            if owner["spec"].get("suspend"):
                yield from (self._tell_to_go(p) for p in mine if _stays(p))
                continue
            failed = [p for p in mine if p["status"]["phase"] == "Failed"]
            count = owner["spec"]["completions"]
            if failed:
                yield self._finish(key, "FailureTarget", [p for p in mine if _stays(p)])
            elif sum(p["status"]["phase"] == "Succeeded" for p in mine) == count:
                yield self._finish(key, "SuccessCriteriaMet", [])
            else:
                taken = {p["metadata"]["labels"][names.LABEL_COMPLETION_INDEX] for p in mine}
                for index in sorted({str(i) for i in range(count)} - taken):
                    name = f"{owner['metadata']['name']}-{index}-{self._made}"
                    yield self._make(owner, name, {names.LABEL_COMPLETION_INDEX: index})

    def _make(self, owner: Raw, name: str, labels: Raw) -> Callable[[], None]:
        def act() -> None:
            self._made += 1
            template, meta = owner["spec"]["template"], owner["metadata"]
            reference = {"kind": owner["kind"], "name": meta["name"], "uid": meta["uid"], "controller": True}
            pod = {
                "metadata": {
                    "name": name,
                    "labels": {**template["metadata"]["labels"], **labels},
                    "ownerReferences": [reference],
                },
                "spec": template["spec"],
                "status": {"phase": "Pending"},
            }
            self.api.put("Pod", pod)

        return act

    def _finish(self, key: Key, condition: str, rest: list[Raw]) -> Callable[[], None]:
        def act() -> None:
            for pod in rest:
                self._tell_to_go(pod)()
            self._say(key, condition)()

        return act

    def _say(self, key: Key, condition: str) -> Callable[[], None]:
        def act() -> None:
            raw = self.api.objects[key]
            before = (raw.get("status") or {}).get("conditions") or ()
            conditions = [*before, {"type": condition, "status": "True", "reason": "x", "message": ""}]
            self.api.put("Job", {**raw, "status": {"conditions": conditions}})

        return act

    def _garbage(self) -> Iterator[Callable[[], None]]:
        """Foreground deletion: the dependents of an object that is going are told to go."""
        for kind in ("Job", "StatefulSet"):
            for _, owner in self.of(kind):
                if "deletionTimestamp" in owner["metadata"]:
                    yield from (
                        self._tell_to_go(p) for p in self.pods(owner) if "deletionTimestamp" not in p["metadata"]
                    )
        owners = {raw["metadata"]["uid"] for raw in self.api.objects.values()}
        for pod in self.pods():
            orphaned = pod["metadata"]["ownerReferences"][0]["uid"] not in owners
            if orphaned and "deletionTimestamp" not in pod["metadata"]:
                yield self._tell_to_go(pod)

    # ── kubelets ─────────────────────────────────────────────────────────────────────────────────

    def _kubelets(self) -> Iterator[Callable[[], None]]:
        for key, pod in self.of("Pod"):
            if "deletionTimestamp" in pod["metadata"]:
                if pod["metadata"]["name"] in self.slow:
                    continue
                if self._is_tracked(pod) and pod["status"]["phase"] in LIVING:
                    yield self.state(pod, "Failed", 143)
                elif not self._is_tracked(pod):
                    yield lambda key=key: self.api.remove(key)  # type: ignore[misc]
            elif pod["status"]["phase"] == "Pending":
                yield self.state(pod, "Running")

    def _is_tracked(self, pod: Raw) -> bool:
        """Whether a Job keeps the pod by its finalizer: until it has counted its end, or is over itself, or deleted."""
        uid = pod["metadata"]["ownerReferences"][0]["uid"]
        owner = next((raw for _, raw in self.of("Job") if raw["metadata"]["uid"] == uid), None)
        if owner is None or "deletionTimestamp" in owner["metadata"] or owner["spec"].get("suspend"):
            return False
        return not (owner.get("status") or {}).get("conditions")

    def state(self, pod: Raw, phase: str, code: int | None = None, words: str = "") -> Callable[[], None]:
        """The pod's phase, ready if it runs, and how its container ended."""
        container: Raw = {"name": names.CONTAINER, "restartCount": 0, "state": {"running": {}}}
        if code is not None:
            container["state"] = {"terminated": {"exitCode": code, "reason": "x", "message": words}}
        ready = [{"type": "Ready", "status": "True"}] if phase == "Running" else []
        status = {"phase": phase, "conditions": ready, "containerStatuses": [container]}
        key = ("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])

        def act() -> None:
            if key in self.api.objects:
                self.api.put("Pod", {**self.api.objects[key], "status": status})

        return act

    def _tell_to_go(self, pod: Raw) -> Callable[[], None]:
        key = ("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])

        def act() -> None:
            if key in self.api.objects:
                raw = self.api.objects[key]
                when = self.api.now.strftime("%Y-%m-%dT%H:%M:%SZ")
                self.api.put("Pod", {**raw, "metadata": {**raw["metadata"], "deletionTimestamp": when}})

        return act

    # ── what a test lets happen ──────────────────────────────────────────────────────────────────

    def crash(self, role: str, code: int = 1) -> None:
        """The first running pod of a role ends badly."""
        for pod in self.living(role)[:1]:
            if pod["status"]["phase"] == "Running":
                self.state(pod, "Failed", code, "boom")()

    def train(self) -> bool:
        """If all five pods of one attempt run, trainers and oracle end well."""
        running = [
            p for p in self.pods() if p["status"]["phase"] == "Running" and "deletionTimestamp" not in p["metadata"]
        ]
        attempts = {p["metadata"]["labels"][names.LABEL_ATTEMPT] for p in running}
        if len(running) != 5 or len(attempts) != 1:
            return False
        for pod in running:
            role = pod["metadata"]["labels"][names.LABEL_ROLE]
            if role != "server":
                self.state(pod, "Succeeded", 0, json.dumps({"modelDigest": "d"}) if role == "oracle" else "")()
        return True


def _stays(pod: Raw) -> bool:
    return pod["status"]["phase"] in LIVING and "deletionTimestamp" not in pod["metadata"]


def _is_going(pod: Raw) -> bool:
    return pod["status"]["phase"] in LIVING and "deletionTimestamp" in pod["metadata"]
