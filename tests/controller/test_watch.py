"""The watches on a fake API server: whatever ends one, the operator goes on, misses nothing, and says what it lacks."""

import asyncio
import copy
import json
import logging

import pytest
from fake_api import FakeApi
from rig import Rig, job

from bagpipe_operator import names
from bagpipe_operator.api_error import ApiError
from bagpipe_operator.cluster import Cluster
from bagpipe_operator.connection import Connection
from bagpipe_operator.metrics import Metrics
from bagpipe_operator.settings import Settings
from bagpipe_operator.unclaimed import Unclaimed
from bagpipe_operator.watches import Intake, Watches

KINDS = {
    "Pod": "pods",
    "Service": "services",
    "ConfigMap": "configmaps",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "StatefulSet": "statefulsets",
    "Job": "jobs",
    "NetworkPolicy": "networkpolicies",
    "PodDisruptionBudget": "poddisruptionbudgets",
    names.KIND: names.PLURAL,
}


class Operator(Rig):
    """A rig whose events come through the operator's own watches, a round of all of them at a time."""

    def __init__(self, api: FakeApi | None = None, **raw: bool) -> None:
        super().__init__(api)
        settings = Settings.of(raw)
        self.intake = Intake(self.store, self.queue, "", Unclaimed(self.cluster, ""))
        self.watches = Watches(self.cluster, self.intake, settings, pause=0.0)
        self.shell = type(self.shell)(
            self.cluster, self.store, self.queue, settings, self.metrics, self._now, self.watches.blind
        )
        self.synced = False

    async def look(self) -> None:
        """Every watch once, then all jobs that are queued."""
        for watch in self.watches.each:
            await watch.step()
        if not self.synced and not self.watches.not_synced():
            self.synced = True
            self.intake.open()
        for _ in range(self.queue.depth):
            await self.shell._attempt(await self.queue.get())

    def look_at_all(self, rounds: int = 6) -> None:
        async def go() -> None:
            for _ in range(rounds):
                await self.look()

        self.go(go())

    def writes(self) -> int:
        return sum(method != "GET" for method, _ in self.api.requests)

    def denied(self, verb: str, resource: str) -> float:
        labels = {"verb": verb, "resource": resource}
        return self.metrics.registry.get_sample_value("bagpipe_operator_denied_requests_total", labels) or 0.0


@pytest.fixture
def operator():
    made = Operator()
    yield made
    made.close()


def test_a_job_starts_and_then_nothing_is_written(operator):
    """Through the watches alone a job gets all it needs; a settled job is written to no more."""
    operator.submit(job())
    operator.look_at_all()
    assert operator.status()["phase"] == "Starting" and "Job/j-trainers-0" in operator.kinds()
    before = operator.writes()
    operator.look_at_all()
    assert operator.writes() == before


@pytest.mark.parametrize("verb", ["list", "watch"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_judged_before_every_kind_is_listed(kind, verb, caplog):
    """A kind that may not be listed holds all jobs and is named with the verb; one that may not be watched, too."""
    operator = Operator()
    operator.api.deny = lambda asked, resource: (asked, resource) == (verb, KINDS[kind])
    operator.submit(job())
    with caplog.at_level(logging.WARNING):
        operator.look_at_all()
    assert not [k for k in operator.kinds() if k.startswith(("Job/", "StatefulSet/"))]
    assert operator.denied(verb, KINDS[kind]) >= 6
    assert any(getattr(r, "kind", "") == kind and f"cannot {verb} resource" in r.error for r in caplog.records)
    assert bool(operator.watches.not_synced()) == (verb == "list")
    if verb == "watch":
        told = operator.condition("Reconciled")
        assert (told["status"], told["reason"]) == ("False", "Forbidden")
        assert (
            f'{kind} cannot be watched: 403: {KINDS[kind]} is forbidden: User "operator" cannot watch'
            in told["message"]
        )
        assert operator.events() == ["Forbidden"]  # Once, however often it is refused.
    operator.api.deny = lambda asked, resource: False
    operator.look_at_all()
    assert operator.status()["phase"] == "Starting" and "Job/j-trainers-0" in operator.kinds()
    operator.close()


def test_the_whole_role_is_taken_away_and_comes_back(operator):
    """Without any right the operator lives, counts each refusal, writes nothing, and goes on once the role is back."""
    operator.submit(job())
    operator.look_at_all()
    operator.api.deny = lambda verb, resource: True
    operator.submit(job("late"))
    objects = copy.deepcopy(operator.api.objects)
    operator.look_at_all(3)
    assert operator.api.objects == objects and operator.denied("watch", "pods") == 3
    assert "cannot watch" in operator.watches.blind()
    operator.api.deny = lambda verb, resource: False
    operator.look_at_all()
    assert operator.watches.blind() == "" and "Job/late-trainers-0" in operator.kinds()


@pytest.mark.parametrize("verb", ["create", "patch", "delete"])
@pytest.mark.parametrize("kind", ["Service", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "StatefulSet", "Job"])
def test_a_write_that_no_role_allows(kind, verb):
    """A verb on one kind that is taken away in the middle of an attempt is counted and told, and then goes through."""
    operator = Operator()
    operator.submit(job())
    if verb != "create":
        operator.look_at_all()
    operator.api.deny = lambda asked, resource: (asked, resource) == (verb, KINDS[kind])
    if verb == "patch":  # Somebody changed what we wrote.
        (key,) = [k for k in operator.api.objects if k[0] == kind][:1]
        raw = copy.deepcopy(operator.api.objects[key])
        raw["metadata"]["labels"][names.LABEL_ROLE] = "emperor"
        operator.api.put(kind, raw)
    if verb == "delete":
        raw = copy.deepcopy(operator.api.objects[names.KIND, "ns", "j"])
        raw["spec"]["runPolicy"] = {"suspend": True, "networkPolicy": "None"}
        operator.api.put(names.KIND, raw)
    operator.look_at_all()
    if operator.denied(verb, KINDS[kind]):
        told = operator.condition("Reconciled")
        assert (told["status"], told["reason"]) == ("False", "Forbidden") and f"cannot {verb} resource" in told[
            "message"
        ]
        assert operator.condition("Failed") == {}
    else:
        assert verb != "create"  # That kind is put right, or taken away, in another way.
    operator.api.deny = lambda asked, resource: False

    async def again() -> None:
        operator.intake.wake()

    operator.go(again())
    operator.look_at_all()
    assert operator.condition("Reconciled").get("status", "True") == "True"
    operator.close()


def test_what_was_deleted_while_a_watch_was_away_is_gone(operator):
    """After 410 the list is asked for again: what is not in it is made anew, and what is newer than the list stays."""
    operator.submit(job())
    operator.look_at_all()
    operator.api.remove(("ConfigMap", "ns", "j-config"))
    operator.api.compact()  # Nobody is told of the deletion.
    operator.look_at_all()
    assert "ConfigMap/j-config" in operator.kinds()
    before = operator.writes()
    operator.look_at_all()
    assert operator.writes() == before


def test_a_job_that_is_made_anew_while_the_watches_are_away(operator):
    """A job of the same name and another UID gets objects of its own once the older one's are gone."""
    operator.submit(job())
    operator.look_at_all()
    older = operator.api.objects[names.KIND, "ns", "j"]["metadata"]["uid"]
    operator.api.remove((names.KIND, "ns", "j"))
    operator.submit(job())
    operator.api.compact()
    operator.look_at_all(8)
    newer = operator.api.objects[names.KIND, "ns", "j"]["metadata"]["uid"]
    owners = [
        o["uid"]
        for (kind, _, _), raw in operator.api.objects.items()
        if kind != "Event"
        for o in raw["metadata"].get("ownerReferences", ())
    ]
    assert newer != older and set(owners) == {newer} and "Job/j-trainers-0" in operator.kinds()


def test_a_kind_that_is_removed_and_comes_back(operator):
    """Without its kind a job is gone for the operator, which goes on; once both are back the job runs."""
    operator.submit(job())
    operator.look_at_all()
    answer = operator.api.request

    def without(method, url, *rest):
        if names.PLURAL in url:
            return 404, b'{"message": "the server could not find the requested resource"}'
        return answer(method, url, *rest)

    operator.api.request = without
    operator.api.remove((names.KIND, "ns", "j"))
    operator.look_at_all()
    assert operator.store.job(("ns", "j")) is None and operator.watches.blind() == ""
    operator.api.request = answer
    operator.submit(job())
    operator.look_at_all(8)
    assert operator.status()["phase"] == "Starting" and "Job/j-trainers-0" in operator.kinds()


def test_a_kind_that_an_api_server_does_not_know_for_a_while_stops_no_job():
    """Without Kueue's kinds for some lists and watches an admitted job keeps its pods; afterwards a real end counts."""
    operator = Operator(kueue=True)
    key = ("Workload", "ns", names.workload("j"))
    operator.submit(job(runPolicy={"queueName": "q"}))
    operator.look_at_all()
    admitted = [{"type": kind, "status": "True"} for kind in ("QuotaReserved", "Admitted")]
    assigned = [{"name": p["name"], "count": p["count"]} for p in operator.api.objects[key]["spec"]["podSets"]]
    status = {"conditions": admitted, "admission": {"podSetAssignments": assigned}}
    operator.api.put("Workload", {**copy.deepcopy(operator.api.objects[key]), "status": status})
    operator.look_at_all()
    assert "Job/j-trainers-0" in operator.kinds()
    answer, before = operator.api.request, operator.writes()
    operator.api.request = lambda method, url, *rest: (404, b"{}") if "kueue" in url else answer(method, url, *rest)
    operator.look_at_all()
    assert "Job/j-trainers-0" in operator.kinds() and operator.writes() == before
    operator.api.remove(key)
    operator.api.request = answer
    operator.look_at_all()
    assert "Job/j-trainers-0" not in operator.kinds()
    operator.close()


@pytest.mark.parametrize("code", [0, 429, 500, 503, 504])
def test_an_api_server_that_is_away_changes_nothing(operator, code):
    """While no request is answered well nothing is written and nobody is blamed; afterwards what was missed is done."""
    operator.submit(job())
    operator.look_at_all()
    operator.submit(job("late"))
    answer = operator.cluster._request

    async def away(method, url, *rest, **named):
        raise ApiError(code, "not now", retry_after=7.0)

    operator.cluster._request = away
    before = operator.writes()

    async def delays() -> list[float]:
        return [await watch.step() for watch in operator.watches.each]

    assert all(delay >= 7.0 for delay in operator.go(delays()))
    assert operator.writes() == before and operator.watches.blind() == ""
    operator.cluster._request = answer
    operator.look_at_all()
    assert "Job/late-trainers-0" in operator.kinds()


def test_events_that_come_twice_late_or_of_the_dead(operator):
    """An event that was told before changes nothing, also one about an object that is gone since."""
    operator.submit(job())
    operator.look_at_all()
    operator.api.remove(("ConfigMap", "ns", "j-config"))
    told = list(operator.api.history)
    operator.look_at_all()
    before, objects = operator.writes(), copy.deepcopy(operator.api.objects)

    async def again() -> None:
        for _, event, raw in (*told, *reversed(told)):
            if raw["kind"] in KINDS and raw["metadata"]["name"] != "j":
                (operator.intake.gone if event == "DELETED" else operator.intake.put)(raw["kind"], copy.deepcopy(raw))

    operator.go(again())
    operator.look_at_all()
    assert operator.writes() == before and operator.api.objects == objects


def test_one_object_that_cannot_be_read_ends_one_watch_once(operator, caplog):
    """What is no Kubernetes object is logged with its kind, and all is listed anew."""
    operator.submit(job())
    operator.look_at_all()
    watched = operator.api.watched
    bad = [{"type": "ADDED", "object": {"metadata": None}}]
    operator.api.watched = lambda url, params: bad if url.endswith("/pods") else watched(url, params)
    with caplog.at_level(logging.ERROR):
        operator.look_at_all(1)
    assert [r.kind for r in caplog.records if r.exc_info] == ["Pod"]
    operator.api.watched = watched
    before = operator.writes()
    operator.look_at_all()
    assert operator.writes() == before


def test_the_operator_follows_its_watches_until_it_is_ended(operator):
    """`follow` opens the queue once all kinds are listed, and never ends by itself."""
    operator.submit(job())

    async def go() -> None:
        following = asyncio.ensure_future(operator.watches.follow())
        key = await asyncio.wait_for(operator.queue.get(), 60)
        assert key == ("ns", "j") and not operator.watches.not_synced() and not following.done()
        following.cancel()
        await asyncio.wait([following])

    operator.go(go())


LINE = json.dumps({"type": "ADDED", "object": {"metadata": {"name": "a", "resourceVersion": "7"}}}).encode()


@pytest.mark.parametrize(
    ("body", "length", "found", "code"),
    [
        (LINE + b"\n" + LINE + b"\n", None, 2, None),
        (LINE + b"\n" + LINE[:20], None, 1, None),
        (LINE + b"\n" + LINE[:20], 5000, 1, 0),
        (b"hello\n", None, 0, 0),
    ],
    ids=["whole", "ends in a line", "cut in a line", "no JSON"],
)
def test_lines_of_a_watch(body, length, found, code):
    """Whole lines count, the rest of one does not; a connection that is cut is an `ApiError` like any other."""

    async def go() -> tuple[int, int | None]:
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            head = f"HTTP/1.1 200 x\r\nContent-Length: {length or len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        cluster, seen = Cluster(Connection(f"http://{host}:{port}", None, None), Metrics()), 0
        try:
            async for _ in cluster.watch("/x", watch="true"):
                seen += 1
        except ApiError as error:
            return seen, error.code
        finally:
            await cluster.close()
            server.close()
        return seen, None

    assert asyncio.run(go()) == (found, code)


@pytest.mark.parametrize("way", ["watch", "get"])
def test_a_request_that_no_role_allows_is_counted(way):
    """The metric of the alert has verb and resource of what the authorizer refused, and nothing of a quota."""
    metrics = Metrics()

    async def asked(words: str) -> None:
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            body = json.dumps({"reason": "Forbidden", "message": words}).encode()
            writer.write(f"HTTP/1.1 403 x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        cluster = Cluster(Connection(f"http://{host}:{port}", None, None), metrics)
        try:
            with pytest.raises(ApiError):
                await (anext(cluster.watch("/x")) if way == "watch" else cluster.get("/x"))
        finally:
            await cluster.close()
            server.close()

    asyncio.run(
        asked('pods is forbidden: User "u" cannot list resource "pods/log" in API group "" at the cluster scope')
    )
    asyncio.run(asked("services is forbidden: exceeded quota: small, requested: services=1"))
    counted = [line for line in metrics.render().decode().splitlines() if line.startswith("bagpipe_operator_denied")]
    assert [line for line in counted if "_total{" in line] == [
        'bagpipe_operator_denied_requests_total{resource="pods/log",verb="list"} 1.0'
    ]
