"""The only module that speaks to the API server: read, create, apply, patch, delete; nothing else.

Plain dicts over aiohttp with kopf's own credentials, because the generated client costs more memory
than all the rest of the operator (docs/decisions/0009-operator-client.md). Every request has a deadline;
every write asks the fence first, so that a leader that lost its lease falls silent.
"""

import asyncio
import base64
import json
import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import kopf

from bagpipe_operator import names
from bagpipe_operator.metrics import Metrics

_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
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
}


class ApiError(Exception):
    """The API server refused; `code` is HTTP's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class ApiUnavailable(Exception):
    """No answer, or one that says `later`."""


class NotFound(ApiError):
    """There is no such object."""


class Conflict(ApiError):
    """Somebody changed or made it before; read again."""


class Fenced(Exception):
    """This process may not write: its lease has run out."""


@dataclass
class Connection:
    """Where the API server is and how we prove who we are."""

    server: str
    ssl: ssl.SSLContext | None
    token: str | None

    def headers(self) -> dict[str, str]:
        # Bound tokens are rotated on disk: read again each time, a few hundred bytes of page cache.
        token = _TOKEN.read_text().strip() if _TOKEN.exists() else self.token
        return {"Authorization": f"Bearer {token}"} if token else {}


def connect() -> Connection:
    """From the pod's service account, or from `$KUBECONFIG` outside a cluster."""
    settings = kopf.OperatorSettings()
    info = kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)
    if info is None:
        raise ApiUnavailable("no service account and no kubeconfig: nothing says where the API server is")
    context = (
        ssl.create_default_context(cafile=info.ca_path, cadata=_decoded(info.ca_data))
        if info.server.startswith("https")
        else None
    )
    if context is not None and info.insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if context is not None and (info.certificate_path or info.certificate_data):
        _load_certificate(context, info)
    return Connection(server=info.server.rstrip("/"), ssl=context, token=info.token)


def _decoded(data: Any) -> str | None:
    return base64.b64decode(data).decode() if data else None


def _load_certificate(context: ssl.SSLContext, info: Any) -> None:
    """The TLS library reads certificates from files only."""
    with tempfile.NamedTemporaryFile("w") as cert, tempfile.NamedTemporaryFile("w") as key:
        cert.write(_decoded(info.certificate_data) or Path(info.certificate_path).read_text())
        key.write(_decoded(info.private_key_data) or Path(info.private_key_path).read_text())
        cert.flush()
        key.flush()
        context.load_cert_chain(cert.name, key.name)


def path(kind: str, namespace: str | None, name: str | None = None, sub: str | None = None) -> str:
    """URL path of a collection, an object or a subresource."""
    prefix, plural = RESOURCES[kind]
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
        self._session = aiohttp.ClientSession(timeout=_DEADLINE, connector=aiohttp.TCPConnector(limit=32))

    async def close(self) -> None:
        await self._session.close()

    async def get(self, url: str, **params: str) -> dict[str, Any]:
        return await self._json("GET", url, params=params)

    async def text(self, url: str, **params: str) -> str:
        return (await self._request("GET", url, params=params)).decode(errors="replace")

    async def create(self, kind: str, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._json("POST", path(kind, namespace), body)

    async def replace(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._json("PUT", path(kind, namespace, name), body)

    async def apply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Server-side apply: what we say is ours, whoever said it before."""
        meta = body["metadata"]
        url = path(body["kind"], meta["namespace"], meta["name"])
        return await self._json(
            "PATCH", url, body, "application/apply-patch+yaml", {"fieldManager": names.MANAGER, "force": "true"}
        )

    async def patch_status(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        url = path(kind, namespace, name, "status")
        return await self._json("PATCH", url, body, "application/merge-patch+json", {"fieldManager": names.MANAGER})

    async def delete(self, kind: str, namespace: str, name: str, uid: str, *, force: bool = False) -> None:
        """Delete this very object; that it is gone already is as good."""
        options: dict[str, Any] = {
            "preconditions": {"uid": uid},
            "propagationPolicy": "Foreground" if kind == "Job" else "Background",
        }
        if force:
            options["gracePeriodSeconds"] = 0
        try:
            await self._json("DELETE", path(kind, namespace, name), options)
        except (NotFound, Conflict):
            return

    async def _json(
        self,
        method: str,
        url: str,
        body: Any = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(await self._request(method, url, body, content_type, params))
        return result

    async def _request(
        self,
        method: str,
        url: str,
        body: Any = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> bytes:
        if method != "GET" and not self.may_write():
            raise Fenced(f"{method} {url}: the lease is not ours any more")
        headers = {**self._connection.headers(), "Content-Type": content_type, "Accept": "application/json, */*"}
        data = None if body is None else json.dumps(body)
        try:
            async with self._session.request(
                method,
                self._connection.server + url,
                data=data,
                headers=headers,
                params=params,
                ssl=self._connection.ssl or True,
            ) as response:
                self._metrics.api_requests.labels(method, str(response.status)).inc()
                raw = await response.read()
                if response.status < 400:
                    return raw
                raise _error(response.status, raw)
        except (TimeoutError, aiohttp.ClientConnectionError, asyncio.IncompleteReadError) as error:
            self._metrics.api_requests.labels(method, "none").inc()
            raise ApiUnavailable(f"{method} {url}: {type(error).__name__} {error}") from error


def _error(code: int, raw: bytes) -> Exception:
    try:
        message = json.loads(raw).get("message", "")
    except ValueError:
        message = raw[:200].decode(errors="replace")
    if code in (429, 500, 502, 503, 504):
        return ApiUnavailable(f"{code}: {message}")
    return {404: NotFound, 409: Conflict}.get(code, ApiError)(code, message)
