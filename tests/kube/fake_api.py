"""An API server in memory, with what the operator relies on; `api_conformance.py` holds it against a real one.

Objects with UIDs, generations and resource versions; creates that conflict; server-side apply with the fields that
each manager owns; merge and JSON patches; the status subresource; deletions with UID preconditions, in the background
and in the foreground, with garbage collection; lists by name and label; a history of events that can be compacted;
schemas that refuse with 422; logs. What Kubernetes' controllers do is no part of it (`fake_controllers.py`).
"""

import copy
import datetime as dt
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bagpipe_operator import names
from bagpipe_operator.api_error import ApiError
from bagpipe_operator.cluster import RESOURCES, Cluster
from bagpipe_operator.connection import Connection
from bagpipe_operator.metrics import Metrics

Raw = dict[str, Any]
Key = tuple[str, str, str]
"""Kind, namespace, name."""

_KINDS = {f"/{prefix}/{plural}": kind for kind, (prefix, plural) in RESOURCES.items()}
_PATH = re.compile(r"(/api/v1|/apis/[^/]+/[^/]+)(?:/namespaces/([^/]+))?/([a-z]+)(?:/([^/]+))?(?:/([a-z]+))?")
_SYSTEM = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "deletionTimestamp")
_QUANTITY = re.compile(r"[0-9.]+([munkKMGTPE]i?)?")


class Refusal(Exception):
    """An answer of 400 or above."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.body = code, {"kind": "Status", "code": code, "reason": reason, "message": message}


class FakeApi:
    """The objects of a cluster."""

    def __init__(self) -> None:
        self.objects: dict[Key, Raw] = {}
        self.logs: dict[tuple[str, str], str] = {}
        self.history: list[tuple[int, str, Raw]] = []
        """Resource version, type and object of each event since the last compaction."""
        self.requests: list[tuple[str, str]] = []
        self.namespaces = {"ns", "other"}
        self.refuse: Callable[[str, Raw], tuple[int, str, str] | None] = lambda method, obj: None
        """Admission: code, reason and message for an object that is not let in."""
        self.now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        self._numbers = itertools.count(1)
        self.version = 1
        self._compacted = 1

    # ── requests ─────────────────────────────────────────────────────────────────────────────────

    def request(
        self, method: str, url: str, body: Any, content_type: str, params: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """Status and body of the answer."""
        self.requests.append((method, url))
        try:
            answer = self._answer(method, url, body, content_type, params)
        except Refusal as refusal:
            return refusal.code, json.dumps(refusal.body).encode()
        return 200, answer.encode() if isinstance(answer, str) else json.dumps(answer, allow_nan=False).encode()

    def _answer(self, method: str, url: str, body: Any, content_type: str, params: Mapping[str, str]) -> Raw | str:
        match = _PATH.fullmatch(url)
        kind = _KINDS.get(f"{match[1]}/{match[3]}") if match else None
        if match is None or kind is None:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        namespace, name, sub = match[2] or "", match[4], match[5]
        if method == "GET" and sub == "log":
            return self._log(namespace, name)
        if method == "GET":
            return self._get((kind, namespace, name)) if name else self._list(kind, namespace, params)
        if method == "POST":
            return self._create(kind, namespace, body, params)
        if method == "DELETE":
            return self.delete((kind, namespace, name), body or {})
        if method == "PUT":
            return self._write((kind, namespace, name), body, sub)
        if content_type == "application/apply-patch+yaml":
            return self._apply((kind, namespace, name), body, params["fieldManager"])
        old = self._get((kind, namespace, name))
        patched = _json_patched(old, body) if content_type == "application/json-patch+json" else merged(old, body)
        return self._write((kind, namespace, name), patched, sub)

    def _log(self, namespace: str, name: str) -> str:
        self._get(("Pod", namespace, name))
        return self.logs.get((namespace, name), "")

    def _get(self, key: Key) -> Raw:
        if key not in self.objects:
            raise Refusal(404, "NotFound", f"{key[0]} {key[2]!r} not found")
        return copy.deepcopy(self.objects[key])

    def _list(self, kind: str, namespace: str, params: Mapping[str, str]) -> Raw:
        found = [o for (k, ns, _), o in sorted(self.objects.items()) if k == kind and namespace in ("", ns)]
        if selector := params.get("fieldSelector"):
            field, _, value = selector.partition("=")
            found = [o for o in found if _field(o, field) == value]
        return {"metadata": {"resourceVersion": str(self.version)}, "items": copy.deepcopy(found)}

    def since(self, version: int) -> list[tuple[str, Raw]]:
        """Events after a resource version, as a watch sends them: one ERROR with code 410 if they are gone."""
        if version < self._compacted:
            return [("ERROR", {"code": 410, "reason": "Expired", "message": "too old resource version"})]
        return [(kind, copy.deepcopy(raw)) for at, kind, raw in self.history if at > version]

    def compact(self) -> None:
        """Forget all events."""
        self.history.clear()
        self._compacted = self.version

    # ── writes ───────────────────────────────────────────────────────────────────────────────────

    def _create(self, kind: str, namespace: str, body: Raw, params: Mapping[str, str]) -> Raw:
        if namespace not in self.namespaces:
            raise Refusal(404, "NotFound", f'namespaces "{namespace}" not found')
        raw = copy.deepcopy(dict(body))
        meta = raw.setdefault("metadata", {})
        meta.setdefault("namespace", namespace)
        if "name" not in meta:
            meta["name"] = f"{meta.get('generateName', '')}{next(self._numbers)}"
        key = (kind, namespace, meta["name"])
        if key in self.objects:
            raise Refusal(409, "AlreadyExists", f"{kind} {meta['name']!r} already exists")
        if kind == names.KIND:
            raw.pop("status", None)
        fields = {
            "manager": params.get("fieldManager", "unknown"),
            "operation": "Update",
            "fields": sorted(_leaves(raw)),
        }
        self._admit("create", raw)
        meta |= {
            "uid": f"uid-{next(self._numbers)}",
            "generation": 1,
            "creationTimestamp": self.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "managedFields": [fields],
        }
        return self._store("ADDED", key, raw)

    def _write(self, key: Key, new: Raw, sub: str | None = None) -> Raw:
        old = self._get(key)
        for field in ("uid", "resourceVersion"):
            asked = new["metadata"].get(field)
            if asked and asked != old["metadata"][field]:
                raise Refusal(409, "Conflict", f"{key[0]} {key[2]!r}: the object has been modified ({field})")
        meta = {**new["metadata"], **{k: old["metadata"][k] for k in _SYSTEM if k in old["metadata"]}}
        if "managedFields" in new["metadata"]:
            meta["managedFields"] = new["metadata"]["managedFields"]
        if sub == "status":
            result = {**old, "status": new.get("status", {})}
        elif key[0] in (names.KIND, "Pod", "Job", "StatefulSet", "PersistentVolumeClaim", "Workload"):
            result = {**new, "metadata": meta, **({"status": old["status"]} if "status" in old else {})}
        else:
            result = {**new, "metadata": meta}
        if result.get("spec") != old.get("spec"):
            meta["generation"] = old["metadata"]["generation"] + 1
        if result == old:
            return old
        self._admit("update", result, old)
        return self._store("MODIFIED", key, result)

    def _apply(self, key: Key, body: Raw, manager: str) -> Raw:
        uid = body["metadata"].get("uid")
        if key not in self.objects:
            if uid:
                raise Refusal(409, "Conflict", f"uid mismatch: the provided object specified uid {uid}")
            raise Refusal(501, "NotImplemented", "this fake creates by POST alone")
        old = self._get(key)
        if uid and uid != old["metadata"]["uid"]:
            raise Refusal(
                422, "Invalid", f'{key[0]} is invalid: metadata.uid: Invalid value: "{uid}": field is immutable'
            )
        entries = old["metadata"].get("managedFields") or []
        before = next((e for e in entries if (e["manager"], e["operation"]) == (manager, "Apply")), None)
        others = [e for e in entries if e is not before]
        kept = set(itertools.chain(*(e["fields"] for e in others)))
        wanted = set(_leaves(body))
        new = copy.deepcopy(old)
        for path in set(before["fields"] if before else ()) - wanted - kept:
            _remove(new, path)
        new = _laid_over(new, {k: v for k, v in body.items() if k != "metadata"})
        new["metadata"] = _laid_over(
            new["metadata"], {k: v for k, v in body["metadata"].items() if k not in ("name", "namespace", "uid")}
        )
        mine = {"manager": manager, "operation": "Apply", "fields": sorted(wanted)}
        if before is None or before["fields"] != mine["fields"]:
            new["metadata"]["managedFields"] = [*others, mine]
        new["metadata"].pop("resourceVersion", None)
        return self._write(key, new)

    def delete(self, key: Key, options: Raw) -> Raw:
        """As a request does: with `propagationPolicy: Foreground` an object stays until its dependents are gone."""
        raw = self._get(key)
        uid = (options.get("preconditions") or {}).get("uid")
        if uid and uid != raw["metadata"]["uid"]:
            words = f"the UID in the precondition ({uid}) does not match the UID in record ({raw['metadata']['uid']})"
            raise Refusal(409, "Conflict", words)
        if said := self.refuse("delete", raw):
            raise Refusal(*said)
        if options.get("propagationPolicy") == "Foreground" and any(self.dependents(raw["metadata"]["uid"])):
            if "deletionTimestamp" not in raw["metadata"]:
                raw["metadata"]["deletionTimestamp"] = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
                self._store("MODIFIED", key, raw)
        else:
            self.remove(key)
        return {"kind": "Status", "status": "Success"}

    def remove(self, key: Key) -> None:
        """Take an object away, and what only it owned."""
        raw = self.objects.pop(key, None)
        if raw is None:
            return
        self.version += 1
        gone = copy.deepcopy(raw)
        gone["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, "DELETED", gone))
        for dependent in list(self.dependents(raw["metadata"]["uid"])):
            if dependent[0] != "Pod":  # Pods are told to go by `fake_controllers.py`.
                self.remove(dependent)
        for owner in raw["metadata"].get("ownerReferences") or ():
            self._finish_deletion(owner["uid"])

    def _finish_deletion(self, uid: str) -> None:
        for key, raw in list(self.objects.items()):
            if (
                raw["metadata"]["uid"] == uid
                and "deletionTimestamp" in raw["metadata"]
                and not any(self.dependents(uid))
            ):
                self.remove(key)

    def dependents(self, uid: str) -> Iterator[Key]:
        for key, raw in self.objects.items():
            if any(o["uid"] == uid for o in raw["metadata"].get("ownerReferences") or ()):
                yield key

    def put(self, kind: str, raw: Raw) -> Raw:
        """As somebody else would: make it or replace it, without asking admission."""
        key = (kind, raw["metadata"].get("namespace", "ns"), raw["metadata"]["name"])
        old = self.objects.get(key)
        meta = {"namespace": key[1], "uid": f"uid-{next(self._numbers)}", "generation": 1, **raw["metadata"]}
        if old is not None:
            meta |= {"uid": old["metadata"]["uid"]}
            if raw.get("spec") != old.get("spec"):
                meta["generation"] = old["metadata"]["generation"] + 1
        return self._store("MODIFIED" if old else "ADDED", key, copy.deepcopy({**raw, "kind": kind, "metadata": meta}))

    def _store(self, event: str, key: Key, raw: Raw) -> Raw:
        self.version += 1
        raw["metadata"]["resourceVersion"] = str(self.version)
        self.objects[key] = raw
        self.history.append((self.version, event, {**copy.deepcopy(raw), "kind": key[0]}))
        return copy.deepcopy(raw)

    def _admit(self, method: str, raw: Raw, old: Raw | None = None) -> None:
        if said := self.refuse(method, raw):
            raise Refusal(*said)
        if fault := _schema_fault(raw, old):
            raise Refusal(422, "Invalid", f"{raw.get('kind')} {raw['metadata'].get('name')!r} is invalid: {fault}")


def _field(raw: Any, path: str) -> Any:
    for part in path.split("."):
        raw = raw.get(part, {})
    return raw


def _schema_fault(raw: Raw, old: Raw | None) -> str:
    """A few rules of the real schemas: enough to see what a refusal does."""
    if raw.get("kind") == names.KIND:
        status = raw.get("status") or {}
        if not isinstance(status.get("attempt", 0), int):
            return "status.attempt: must be of type integer"
        return ""
    spec = raw.get("spec") or {}
    if raw.get("kind") == "Job" and old is not None and old["spec"].get("template") != spec.get("template"):
        return "spec.template: field is immutable"
    for container in ((spec.get("template") or {}).get("spec") or {}).get("containers") or ():
        if not container.get("name") or not container.get("image"):
            return "spec.template.spec.containers: name and image are required"
        for amount in (container.get("resources") or {}).get("limits", {}).values():
            if not _QUANTITY.fullmatch(str(amount)):
                return f"quantities must match the regular expression, found {amount!r}"
    return ""


def _leaves(raw: Any, path: str = "") -> Iterator[str]:
    """Paths of the fields that a writer owns: maps by key, owners by UID, other lists whole."""
    if path in (".apiVersion", ".kind") or path.startswith(tuple(f".metadata.{s}" for s in (*_SYSTEM, "name"))):
        return
    if path == ".metadata.ownerReferences":
        yield from (f"{path}.{owner['uid']}" for owner in raw)
    elif isinstance(raw, Mapping) and raw:
        for key, value in raw.items():
            yield from _leaves(value, f"{path}.{key.replace('.', '~')}")
    else:
        yield path


def _remove(raw: Raw, path: str) -> None:
    *parents, last = path.lstrip(".").split(".")
    target: Any = raw
    for parent in parents:
        target = target.get(parent.replace("~", ".")) if isinstance(target, dict) else target
        if target is None:
            return
    if isinstance(target, list):
        target[:] = [owner for owner in target if owner["uid"] != last]
        if not target:
            raw["metadata"].pop("ownerReferences", None)
    else:
        target.pop(last.replace("~", "."), None)


def _laid_over(base: Any, top: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(top, Mapping):
        return {**base, **{k: _laid_over(base[k], v) if k in base else copy.deepcopy(v) for k, v in top.items()}}
    return copy.deepcopy(top)


def merged(base: Any, patch: Any) -> Any:
    """What a JSON merge patch makes of `base` (RFC 7396): a null anywhere in it takes its key away."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(base) if isinstance(base, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def _json_patched(base: Raw, patch: list[Raw]) -> Raw:
    result = copy.deepcopy(base)
    for operation in patch:
        *parents, last = operation["path"].strip("/").split("/")
        target = result
        for parent in parents:
            target = target[parent]
        target[last] = operation["value"]
    return result


class FakeCluster(Cluster):
    """The operator's own client, with the fake in place of the network."""

    def __init__(self, api: FakeApi, metrics: Metrics | None = None) -> None:
        self.api = api
        self.before_write: Callable[[str, str], None] = lambda method, url: None
        """Called before each write; an exception of it is what the caller sees, and nothing is written."""
        self.after_write: Callable[[str, str], None] = lambda method, url: None
        self._connection, self._metrics = Connection("fake", None, None), metrics or Metrics()
        self.may_write = lambda: True
        self._ended_at = 0.0

    async def close(self) -> None:
        """There is no session."""

    async def _request(
        self,
        method: str,
        url: str,
        body: Any = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
        accept: str = "",
    ) -> bytes:
        if method != "GET":
            self.before_write(method, url)
        sent = None if body is None else json.loads(json.dumps(body, allow_nan=False))
        code, raw = self.api.request(method, url, sent, content_type, params or {})
        if method != "GET":
            self.after_write(method, url)
        if code >= 400:
            raise ApiError.of_answer(code, raw)
        return raw
