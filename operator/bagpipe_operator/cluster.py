"""The only module that speaks to the API server: read, create, apply, patch, delete; nothing else.

Plain dicts over aiohttp with kopf's own credentials, because the generated client costs more memory
than all the rest of the operator (docs/decisions/0009-operator-client.md). Every request has a deadline;
every write asks the fence first, so that a leader that lost its lease falls silent. Whatever goes wrong
is an `ApiError`: callers know no other exception.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from bagpipe_operator import gangs, names
from bagpipe_operator.api_error import ApiError, Fenced, Outcome
from bagpipe_operator.connection import Connection
from bagpipe_operator.metrics import Metrics

_JSON = "application/json, */*"
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1, application/json"
_DEADLINE = aiohttp.ClientTimeout(total=20, connect=5)

RESOURCES = {
    names.KIND: (f"apis/{names.API_VERSION}", names.PLURAL),
    "ConfigMap": ("api/v1", "configmaps"),
    "Service": ("api/v1", "services"),
    "Secret": ("api/v1", "secrets"),
    "Pod": ("api/v1", "pods"),
    "PersistentVolumeClaim": ("api/v1", "persistentvolumeclaims"),
    "Event": ("api/v1", "events"),
    "StatefulSet": ("apis/apps/v1", "statefulsets"),
    "Job": ("apis/batch/v1", "jobs"),
    "NetworkPolicy": ("apis/networking.k8s.io/v1", "networkpolicies"),
    "PodDisruptionBudget": ("apis/policy/v1", "poddisruptionbudgets"),
    "Lease": ("apis/coordination.k8s.io/v1", "leases"),
    "Workload": ("apis/kueue.x-k8s.io/v1beta1", "workloads"),
    "ResourceFlavor": ("apis/kueue.x-k8s.io/v1beta1", "resourceflavors"),
    "WorkloadPriorityClass": ("apis/kueue.x-k8s.io/v1beta1", "workloadpriorityclasses"),
    **{gang.kind: (f"apis/{gang.api_version}", "podgroups") for gang in gangs.KNOWN.values()},
}
"""By kind; where two API groups call theirs the same, with the group behind it."""

_OF_THE_CLUSTER = frozenset({"ResourceFlavor", "WorkloadPriorityClass"})
"""Kinds that belong to no namespace."""


def path(kind: str, namespace: str | None, name: str | None = None, sub: str | None = None) -> str:
    """URL path of a collection, an object or a subresource; the namespace is of no matter to kinds of the cluster."""
    prefix, plural = RESOURCES[kind]
    namespace = None if kind in _OF_THE_CLUSTER else namespace
    parts = [
        prefix,
        *(["namespaces", namespace] if namespace else []),
        plural,
        *([name] if name else []),
        *([sub] if sub else []),
    ]
    return "/" + "/".join(parts)


class Cluster:
    """A session with the API server."""

    def __init__(self, connection: Connection, metrics: Metrics, may_write: Callable[[], bool] = lambda: True) -> None:
        self._connection = connection
        self._metrics = metrics
        self.may_write = may_write
        self._ended_at = time.monotonic()
        self._session = aiohttp.ClientSession(timeout=_DEADLINE, connector=aiohttp.TCPConnector(limit=32))

    def since_answer(self) -> float:
        """Seconds since a request ended, well or not."""
        return time.monotonic() - self._ended_at

    async def close(self) -> None:
        """Close the connections; nothing can be asked afterwards."""
        await self._session.close()

    async def get(self, url: str, **params: str) -> dict[str, Any]:
        """Read the JSON object at a path of the API server, with `params` as the query.

        Raises:
            ApiError: it cannot be read.
        """
        return await self._json("GET", url, params=params)

    async def names(self, url: str, **params: str) -> dict[str, Any]:
        """A page of a list, with nothing of the objects but their metadata.

        Raises:
            ApiError: it cannot be read.
        """
        return await self._json("GET", url, params=params, accept=_METADATA)

    async def text(self, url: str, **params: str) -> str:
        """Read a text, such as a pod's log.

        Raises:
            ApiError: it cannot be read.
        """
        return (await self._request("GET", url, params=params)).decode(errors="replace")

    async def find(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """The object of that name, whether it is ours or not; none: there is none.

        A list of one, because the operator may list its children's kinds and has no other use for `get`.
        """
        answer = await self._json("GET", path(kind, namespace), params={"fieldSelector": f"metadata.name={name}"})
        found = [raw for raw in answer.get("items") or () if raw["metadata"]["name"] == name]
        return {**found[0], "kind": kind} if found else None

    async def create(self, kind: str, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object that does not exist yet."""
        made = await self._json("POST", path(kind, namespace), _sent(body), params={"fieldManager": names.MANAGER})
        return {**made, "kind": kind}

    async def replace(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Put `body` in the object's place; its `resourceVersion` makes that fail if the object has changed.

        Raises:
            ApiError: it was not written.
        """
        return await self._json("PUT", path(kind, namespace, name), body)

    async def apply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Server-side apply to an object that exists: its `metadata.uid` keeps this from making or taking another."""
        meta = body["metadata"]
        url = path(body["kind"], meta["namespace"], meta["name"])
        params = {"fieldManager": names.MANAGER, "force": "true"}
        try:
            answer = await self._json("PATCH", url, _sent(body), "application/apply-patch+yaml", params)
            return {**answer, "kind": body["kind"]}
        except ApiError as error:
            if error.code == 422 and "metadata.uid" in error.message:  # Another object bears the name by now.
                raise ApiError(409, error.message, "Conflict") from error
            raise

    async def own_fields(self, raw: Mapping[str, Any]) -> None:
        """Turn the fields that a create gave us into applied ones, so that an apply can take them away again.

        To the API server a create and an apply are two owners, and what the first still owns the second cannot
        remove. `raw` is the object as it was read, with its `managedFields`.
        """
        meta = raw["metadata"]
        fields = [
            {**entry, "operation": "Apply"} if _created_by_us(entry) else entry
            for entry in meta.get("managedFields") or ()
        ]
        patch = [
            {"op": "replace", "path": "/metadata/managedFields", "value": fields},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": meta["resourceVersion"]},
        ]
        url = path(raw["kind"], meta["namespace"], meta["name"])
        await self._json("PATCH", url, patch, "application/json-patch+json", {"fieldManager": names.MANAGER})

    async def patch_status(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Merge `body` into the object's status (RFC 7396); returns the object as it is then.

        Raises:
            ApiError: it was not written.
        """
        url = path(kind, namespace, name, "status")
        return await self._json("PATCH", url, body, "application/merge-patch+json", {"fieldManager": names.MANAGER})

    async def delete(self, kind: str, namespace: str, name: str, uid: str, *, force: bool = False) -> bool:
        """Delete this very object; false: it was gone already, which is as good."""
        options: dict[str, Any] = {
            "preconditions": {"uid": uid},
            "propagationPolicy": "Foreground" if kind == "Job" else "Background",
        }
        if force:
            options["gracePeriodSeconds"] = 0
        try:
            await self._json("DELETE", path(kind, namespace, name), options)
        except ApiError as error:
            # Another 409, of a webhook say, is no word about whether the object is there.
            another = error.outcome is Outcome.CHANGED and _OTHER_UID in error.message and uid in error.message
            if error.outcome is not Outcome.ABSENT and not another:
                raise
            return False
        return True

    async def _json(
        self,
        method: str,
        url: str,
        body: Any = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
        accept: str = _JSON,
    ) -> dict[str, Any]:
        raw = await self._request(method, url, body, content_type, params, accept)
        try:
            result = json.loads(raw)
        except (ValueError, RecursionError):
            result = None
        if not isinstance(result, dict):
            raise ApiError(0, f"{method} {url}: expected a JSON object, found {raw[:80]!r}")
        return result

    async def _request(
        self,
        method: str,
        url: str,
        body: Any = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
        accept: str = _JSON,
    ) -> bytes:
        if method != "GET" and not self.may_write():
            raise Fenced(f"{method} {url}")
        data = None if body is None else json.dumps(body, allow_nan=False)
        code = "none"
        try:
            headers = {**self._connection.headers(), "Content-Type": content_type, "Accept": accept}
            async with self._session.request(
                method,
                self._connection.server + url,
                data=data,
                headers=headers,
                params=params,
                ssl=self._connection.ssl or True,
            ) as response:
                raw = await response.read()
                code = str(response.status)
                if response.status >= 400:
                    refusal = ApiError.of_answer(response.status, raw, response.headers.get("Retry-After"))
                    if refusal.denied:
                        self._metrics.denied.labels(*refusal.denied).inc()
                    raise refusal
                return raw
        except (TimeoutError, OSError, EOFError, ValueError, aiohttp.ClientError) as error:
            # All of a library's tree: a connection cut in the middle of a body is no `ClientConnectionError`.
            raise ApiError(0, f"{method} {url}: {type(error).__name__} {error}") from error
        finally:
            self._ended_at = time.monotonic()
            self._metrics.api_requests.labels(method, code).inc()


_OTHER_UID = "precondition"
"""How the API server says that another object bears the name by now, beside the UID that was asked for: its registry
says "the UID in the precondition (...) does not match", its storage "Precondition failed: UID in precondition: ...".
"""


def _sent(body: Mapping[str, Any]) -> dict[str, Any]:
    """As the API server wants it: the kind without the group, which is in `apiVersion`."""
    return {**body, "kind": body["kind"].partition(".")[0]} if "kind" in body else dict(body)


def _created_by_us(entry: Mapping[str, Any]) -> bool:
    return (entry.get("manager"), entry.get("operation")) == (names.MANAGER, "Update") and not entry.get("subresource")


def created_not_applied(raw: Mapping[str, Any]) -> bool:
    """Whether our fields in this object are still those of a create (see `Cluster.own_fields`)."""
    return any(_created_by_us(entry) for entry in raw["metadata"].get("managedFields") or ())
