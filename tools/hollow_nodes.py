"""Nodes of a cluster without machines: their pods are reported as running, and log a step a second.

Where a time is given, the oracle and the trainers of a job are reported as ended, without a fault, so long after that.

The load on the control plane is measured with hundreds of jobs, whose processes no single machine could hold. All else
is real: the API server, the controllers, the scheduler and the operator. Nodes bear the label and the taint `hollow`.
The API server reads a pod's log from its node, so `serve` needs an address that the API server reaches.
"""

import asyncio
import base64
import datetime as dt
import json
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

from bagpipe_operator import names
from bagpipe_operator.connection import Connection
from bagpipe_operator.names import Role

Raw = dict[str, Any]
LABEL = "hollow"
STEPS = 1_000_000
_ENDING = frozenset({Role.ORACLE.value, Role.TRAINER.value})
"""Roles whose processes end by themselves; servers are told to."""
_JSON = "application/strategic-merge-patch+json"
_PODS_OF_A_NODE = 250
_SIGNER = "kubernetes.io/kubelet-serving"


class Api:
    """Requests of an administrator."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        connector = TCPConnector(limit=64, ssl=connection.ssl or True)
        self._session = ClientSession(timeout=ClientTimeout(total=None, connect=10), connector=connector)

    async def close(self) -> None:
        await self._session.close()

    async def surely(self, method: str, path: str, body: Any, kind: str = "application/json") -> None:
        """As `call`, again while the API server does not answer: a small machine's may be late."""
        for pause in (1, 2, 4, 8, 16, 32):
            with suppress(ClientError, TimeoutError):
                status, _ = await self.call(method, path, body, kind)
                if status < 500 and status != 429:
                    return
            await asyncio.sleep(pause)
        raise TimeoutError(f"{method} {path}: no answer in a minute")

    async def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, Raw]:
        """Status and body of the answer."""
        headers = {**self._connection.headers(), "Content-Type": kind}
        sent = None if body is None else json.dumps(body)
        async with self._session.request(method, self._connection.server + path, data=sent, headers=headers) as got:
            return got.status, await got.json()

    async def events(self, path: str) -> AsyncIterator[Raw]:
        """A watch, until the API server ends it."""
        url, headers = self._connection.server + path, self._connection.headers()
        async with self._session.get(url, headers=headers, read_bufsize=2**22) as got:
            async for line in got.content:
                yield json.loads(line)


class Hollow:
    """Some nodes, as their kubelets would speak for them.

    Args:
        address: IP of this machine, for the API server.
        count: of nodes.
        lives: Seconds after which an oracle or a trainer ends; none: they never do.
    """

    def __init__(self, api: Api, address: str, count: int, lives: float | None = None) -> None:
        self._api, self._address, self._lives = api, address, lives
        self._names = [f"hollow-{number}" for number in range(count)]
        self._port = 0
        self._known: dict[str, str] = {}
        """UIDs of pods, and what was last said of them."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """For ever; every pod that is sent to one of the nodes is said to run."""
        await self._serve_logs()
        for name in self._names:
            await self._make_node(name)
        await asyncio.gather(self._renew(), self._watch())

    async def _make_node(self, name: str) -> None:
        taint = {"key": LABEL, "effect": "NoSchedule"}
        node: Raw = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {LABEL: "true"}}}
        await self._api.call("POST", "/api/v1/nodes", {**node, "spec": {"taints": [taint]}})
        lease = {"metadata": {"name": name}, "spec": {"holderIdentity": name, "leaseDurationSeconds": 40}}
        await self._api.call("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease)
        room = {"cpu": "1000", "memory": "1000Gi", "pods": str(_PODS_OF_A_NODE)}
        status = {
            "capacity": room,
            "allocatable": room,
            "addresses": [{"type": "InternalIP", "address": self._address}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._port}},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Hollow", "lastHeartbeatTime": _now()}],
        }
        await self._api.call("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, _JSON)

    async def _renew(self) -> None:
        """Nodes whose leases are not renewed are lost."""
        while True:
            for name in self._names:
                path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}"
                spec = {"spec": {"renewTime": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}}
                await self._api.surely("PATCH", path, spec, "application/merge-patch+json")
            await asyncio.sleep(4)

    # ── pods ─────────────────────────────────────────────────────────────────────────────────────

    async def _watch(self) -> None:
        """Lists, then watches, and again whenever the watch ends, or a small machine's API server is late."""
        while True:
            with suppress(ClientError, TimeoutError):
                await self._watch_once()
            await asyncio.sleep(0.2)

    async def _watch_once(self) -> None:
        status, listed = await self._api.call("GET", "/api/v1/pods?resourceVersion=0")
        if status != 200:
            return
        for pod in listed["items"]:
            self._see(pod)
        version = listed["metadata"]["resourceVersion"]
        async for event in self._api.events(f"/api/v1/pods?watch=1&resourceVersion={version}&timeoutSeconds=600"):
            if event["type"] == "ERROR":
                return
            if event["type"] != "DELETED":
                self._see(event["object"])

    def _see(self, pod: Raw) -> None:
        meta = pod["metadata"]
        if not str((pod.get("spec") or {}).get("nodeName", "")).startswith(f"{LABEL}-"):
            return
        if "deletionTimestamp" in meta:
            self._say(meta["uid"], "gone", self._remove(pod))
        elif meta["uid"] not in self._known:
            self._say(meta["uid"], "runs", self._start(pod))

    def _say(self, uid: str, what: str, doing: Any) -> None:
        if self._known.get(uid) == what:
            doing.close()
            return
        self._known[uid] = what
        task = asyncio.ensure_future(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, pod: Raw) -> None:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        status = running(pod)
        await self._api.surely("PATCH", path, {"metadata": {"uid": meta["uid"]}, "status": status}, _JSON)
        if self._lives is not None and (meta.get("labels") or {}).get(names.LABEL_ROLE) in _ENDING:
            await asyncio.sleep(self._lives)
            body = {"metadata": {"uid": meta["uid"]}, "status": ended(status)}
            await self._api.surely("PATCH", path, body, _JSON)

    async def _remove(self, pod: Raw) -> None:
        meta = pod["metadata"]
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
        await self._api.surely("DELETE", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", options)

    # ── logs ─────────────────────────────────────────────────────────────────────────────────────

    async def _serve_logs(self) -> None:
        app = web.Application()
        app.add_routes([web.get("/containerLogs/{namespace}/{pod}/{container}", log)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, self._address, 0, ssl_context=await self._certificate())
        await site.start()
        self._port = runner.addresses[0][1]

    async def _certificate(self) -> ssl.SSLContext:
        """Signed by the cluster for a kubelet at our address, as the API server may ask for that."""
        with tempfile.TemporaryDirectory() as folder:
            key, request, chain = (Path(folder) / name for name in ("key", "request", "chain"))
            subject = "/O=system:nodes/CN=system:node:hollow"
            command = ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", subject]
            command += ["-addext", f"subjectAltName=IP:{self._address}", "-keyout", str(key), "-out", str(request)]
            done = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
            if await done.wait():
                raise ChildProcessError(f"{' '.join(command)}: {done.returncode}")
            chain.write_bytes(await self._signed(base64.b64encode(request.read_bytes()).decode()))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(chain, key)
            return context

    async def _signed(self, request: str) -> bytes:
        path = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
        usages = ["digital signature", "key encipherment", "server auth"]
        spec = {"request": request, "signerName": _SIGNER, "usages": usages}
        _, made = await self._api.call("POST", path, {"metadata": {"generateName": "hollow-"}, "spec": spec})
        own = f"{path}/{made['metadata']['name']}"
        approval = {"type": "Approved", "status": "True", "reason": "Hollow", "message": "of a measurement"}
        made["status"] = {"conditions": [approval]}
        await self._api.call("PUT", f"{own}/approval", made)
        for _ in range(100):
            _, found = await self._api.call("GET", own)
            if certificate := (found.get("status") or {}).get("certificate"):
                return base64.b64decode(certificate)
            await asyncio.sleep(0.1)
        raise TimeoutError(f"{own}: the cluster signed no certificate in ten seconds")


async def log(_: web.Request) -> web.Response:
    """What an oracle logs: one record, of a step that rises by one a second."""
    step = int(time.time()) % STEPS
    record = {"step": step, "total_steps": STEPS, "loss": round(1 / (1 + step), 6), "examples_per_second": 100.0}
    return web.Response(text=json.dumps(record) + "\n")


def running(pod: Mapping[str, Any]) -> Raw:
    """Status of a pod all of whose containers run and are ready."""
    containers = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "restartCount": 0,
            "ready": True,
            "started": True,
            "state": {"running": {"startedAt": _now()}},
        }
        for container in pod["spec"]["containers"]
    ]
    kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": _now()} for kind in kinds]
    address = {"hostIP": "10.255.0.1", "podIP": "10.255.0.2"}
    return {
        "phase": "Running",
        "startTime": _now(),
        **address,
        "conditions": conditions,
        "containerStatuses": containers,
    }


def ended(status: Raw) -> Raw:
    """What `running` became of a pod whose processes ended well, with the result that an oracle leaves."""
    done = {"exitCode": 0, "reason": "Completed", "finishedAt": _now(), "message": json.dumps({"steps": STEPS})}
    containers = [
        {
            **container,
            "ready": False,
            "started": False,
            "state": {"terminated": {**container["state"]["running"], **done}},
        }
        for container in status["containerStatuses"]
    ]
    conditions = [
        {**condition, "status": "False", "reason": "PodCompleted"}
        if condition["type"] in ("ContainersReady", "Ready")
        else condition
        for condition in status["conditions"]
    ]
    return {**status, "phase": "Succeeded", "conditions": conditions, "containerStatuses": containers}


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
