"""The operator's shell on a fake API server, with the watches' events delivered by hand."""

import asyncio
import copy
import datetime as dt
from typing import Any

from fake_api import FakeApi, FakeCluster

from bagpipe_operator import names
from bagpipe_operator.follow import ProgressReader, WarningReader
from bagpipe_operator.heads import JobKey
from bagpipe_operator.metrics import Metrics
from bagpipe_operator.settings import Settings
from bagpipe_operator.shell import Shell
from bagpipe_operator.store import Store
from bagpipe_operator.workqueue import WorkQueue

Raw = dict[str, Any]


def job(name: str = "j", namespace: str = "ns", **spec: Any) -> Raw:
    """A job document; without keys, unless it asks for them."""
    body = {"data": {"format": "synthetic"}, "transport": {"security": "plain"}, **spec}
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": meta, "spec": body}


class Rig:
    """One operator process: what is lost when it is killed is lost when another `Rig` takes over the same `FakeApi`."""

    def __init__(self, api: FakeApi | None = None, settings: Raw | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.api = api or FakeApi()
        self.metrics, self.store, self.queue = Metrics(), Store(), WorkQueue[JobKey](burst=float("inf"))
        self.cluster = FakeCluster(self.api, self.metrics)
        self.shell = Shell(self.cluster, self.store, self.queue, Settings.of(settings or {}), self.metrics, self._now)
        self.progress = ProgressReader(self.cluster, self.store, self.queue, self.shell.memories)
        self.warnings = WarningReader(self.cluster, self.store, self.queue, self.shell.memories)
        self._seen: dict[str, int] = {}
        """By kind, the version up to which its watch has told us."""

    def _now(self) -> dt.datetime:
        return self.api.now

    def close(self) -> None:
        """The process has ended."""
        self.loop.close()

    def go(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def settle(self) -> "Rig":
        """Deliver all events and reconcile until no key is waiting; keys that were put off stay so."""
        self.go(self.settled())
        return self

    def again(self, name: str = "j") -> "Rig":
        """As `settle`, with the job looked at in any case."""

        async def go() -> None:
            self.queue.add(("ns", name))
            await self.settled()

        self.go(go())
        return self

    def submit(self, body: Raw) -> Raw:
        return self.api.put(names.KIND, copy.deepcopy(body))

    def deliver(self, count: int | None = None, without: str = "") -> None:
        """The next `count` events of the watches (all, if none is given) reach the store and the queue.

        Each kind has a watch of its own, in whose order its events come; that of the kind `without` stands still.
        """
        for version, kind, raw in list(self.api.history):
            of = kind_of(raw)
            if version <= self._seen.get(of, 0) or count == 0 or of == without:
                continue
            self._seen[of] = version
            count = None if count is None else count - 1
            if of in ("Secret", "Event", "Lease"):
                continue
            if of != names.KIND and not (raw["metadata"].get("labels") or {}).get(names.LABEL_MANAGED_BY):
                before = self.store.get(of, raw["metadata"]["namespace"], raw["metadata"]["name"])
                if before is None:
                    continue
                # What does not match the selector any more is told as deleted, as it was before.
                version = {"resourceVersion": raw["metadata"]["resourceVersion"]}
                kind, raw = "DELETED", {**before, "metadata": {**before["metadata"], **version}}
            key = self.store.remove(raw) if kind == "DELETED" else self.store.put(raw)
            if key is not None:
                self.queue.add(key)

    async def settled(self, rounds: int = 30) -> None:
        for _ in range(rounds):
            self.deliver()
            if self.queue.depth == 0:
                await self.shell.logs.idle()  # What it has to say wakes a job.
            if self.queue.depth == 0:
                return
            key = await self.queue.get()
            await self.shell._attempt(key)
        raise AssertionError(f"no end after {rounds} reconciles")

    def status(self, name: str = "j") -> Raw:
        return dict(self.api.objects[names.KIND, "ns", name].get("status") or {})

    def condition(self, kind: str, name: str = "j") -> Raw:
        found = [c for c in self.status(name).get("conditions", []) if c["type"] == kind]
        return found[0] if found else {}

    def events(self, name: str = "j") -> list[str]:
        raws = [raw for (kind, _, _), raw in self.api.objects.items() if kind == "Event"]
        return [raw["reason"] for raw in raws if raw["involvedObject"]["name"] == name]

    def kinds(self) -> list[str]:
        return sorted(f"{kind}/{name}" for kind, _, name in self.api.objects if kind not in (names.KIND, "Event"))


def kind_of(raw: Raw) -> str:
    return str(raw.get("kind"))
