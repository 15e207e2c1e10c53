"""The operator's client: every way in which a request can end badly is one error with a policy."""

import asyncio

import pytest

from bagpipe_operator.api_error import ApiError, Outcome
from bagpipe_operator.cluster import Cluster
from bagpipe_operator.connection import Connection
from bagpipe_operator.main import asked_for, not_served, until_known, until_served
from bagpipe_operator.metrics import Metrics
from bagpipe_operator.settings import Settings


def answer(code: int, body: str, length: int | None = None, head: str = "") -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {code} x\r\nContent-Length: {size}\r\n{head}Connection: close\r\n\r\n{body}".encode()


def status(code: int, reason: str, message: str = "words") -> bytes:
    return answer(code, f'{{"kind": "Status", "reason": "{reason}", "message": "{message}"}}')


@pytest.mark.parametrize(
    ("sent", "outcome"),
    [
        (answer(200, '{"kind": "Po', 500), Outcome.LATER),
        (answer(200, "<html>hello</html>"), Outcome.LATER),
        (answer(200, "[1]"), Outcome.LATER),
        (answer(200, "[" * 100_000), Outcome.LATER),
        (b"", Outcome.LATER),
        (b"nonsense\r\n\r\n", Outcome.LATER),
        (answer(200, "x", head="Content-Encoding: gzip\r\n"), Outcome.LATER),
        (answer(500, "not json"), Outcome.LATER),
        (answer(500, "[1, 2]"), Outcome.LATER),
        (status(429, "TooManyRequests"), Outcome.LATER),
        (status(410, "Expired"), Outcome.LATER),
        (status(401, "Unauthorized"), Outcome.LATER),
        (status(409, "AlreadyExists"), Outcome.EXISTS),
        (status(409, "Conflict"), Outcome.CHANGED),
        (status(404, "NotFound"), Outcome.ABSENT),
        (status(422, "Invalid"), Outcome.REFUSED),
        (status(400, "BadRequest"), Outcome.REFUSED),
        (status(403, "Forbidden"), Outcome.FORBIDDEN),
        (status(403, "Forbidden", "admission webhook x denied the request: no"), Outcome.REFUSED),
        (status(409, "Conflict", "admission webhook x denied the request: no"), Outcome.REFUSED),
        (status(404, "NotFound", "admission webhook x denied the request: no"), Outcome.REFUSED),
    ],
    ids=lambda v: v.decode()[:70] if isinstance(v, bytes) else v.value,
)
def test_every_answer_has_a_policy(sent, outcome):
    """Cut bodies, answers that are no JSON, and each refusal: an `ApiError`, whose outcome says what to do."""

    async def go() -> Outcome:
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(sent)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        cluster = Cluster(Connection(f"http://{host}:{port}", None, None), Metrics())
        try:
            with pytest.raises(ApiError) as caught:
                await cluster.get("/x")
            return caught.value.outcome
        finally:
            await cluster.close()
            server.close()

    assert asyncio.run(go()) is outcome


def test_nobody_there():
    """A refused connection is an answer for later."""

    async def go() -> Outcome:
        cluster = Cluster(Connection("http://127.0.0.1:1", None, None), Metrics())
        try:
            with pytest.raises(ApiError) as caught:
                await cluster.get("/x")
            return caught.value.outcome
        finally:
            await cluster.close()

    assert asyncio.run(go()) is Outcome.LATER


def test_the_api_servers_wish_to_wait_is_kept():
    """Retry-After is part of the error, and the queue waits at least so long."""
    error = ApiError.of_answer(429, b"{}", "7")
    assert error.retry_after == 7.0 and ApiError.of_answer(429, b"{}", "Fri, 31 Dec 1999").retry_after is None


def test_a_lost_lease_sends_nothing():
    """Without the lease no write leaves the process."""

    async def go() -> Outcome:
        cluster = Cluster(Connection("http://127.0.0.1:1", None, None), Metrics(), lambda: False)
        try:
            with pytest.raises(ApiError) as caught:
                await cluster.create("ConfigMap", "ns", {})
            return caught.value.outcome
        finally:
            await cluster.close()

    assert asyncio.run(go()) is Outcome.FENCED


def test_numbers_that_are_no_json_are_never_sent():
    """A body with NaN is a fault of the operator, found before it is sent."""

    async def go() -> None:
        cluster = Cluster(Connection("http://127.0.0.1:1", None, None), Metrics())
        try:
            with pytest.raises(ValueError, match="not JSON compliant"):
                await cluster.create("ConfigMap", "ns", {"data": float("nan")})
        finally:
            await cluster.close()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("message", "counted"),
    [
        ('pods is forbidden: User "x" cannot create resource "pods" in API group "" in the namespace "a"', 1.0),
        ('pods "j" is forbidden: exceeded quota: small, requested: pods=1', None),
        ('admission webhook "w" denied the request: no', None),
    ],
)
def test_what_no_role_allows_is_counted_by_verb_and_resource(message: str, counted: float | None):
    """`BagpipeOperatorDenied` looks at it; quotas and policies answer 403 too, and are a job's own matter."""
    metrics = Metrics()

    async def go() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(status(403, "Forbidden", message.replace('"', r"\"")))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        cluster = Cluster(Connection(f"http://{host}:{port}", None, None), metrics)
        try:
            with pytest.raises(ApiError):
                await cluster.get("/x")
        finally:
            await cluster.close()
            server.close()

    asyncio.run(go())
    labels = {"verb": "create", "resource": "pods"}
    assert metrics.registry.get_sample_value("bagpipe_operator_denied_requests_total", labels) == counted


def test_a_missing_kind_is_waited_for() -> None:
    """The CRD was removed and is applied again: the operator asks until it is there, and no longer."""
    answers = [status(404, "NotFound"), status(404, "NotFound"), answer(200, '{"items": []}'), status(404, "NotFound")]
    asked: list[bytes] = []

    async def go() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answers[len(asked) - 1])
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        cluster = Cluster(Connection(f"http://{host}:{port}", None, None), Metrics())
        try:
            await until_known(cluster, ("ml",), asyncio.Event(), pause=0.01)
            assert len(asked) == 3
            stop = asyncio.Event()
            stop.set()
            await until_known(cluster, ("ml",), stop, pause=100)
        finally:
            await cluster.close()
            server.close()

    asyncio.run(go())
    assert len(asked) == 3
    assert asked[0].startswith(b"GET /apis/bagpipe.dev/v1alpha1/namespaces/ml/bagpipejobs?limit=1 ")


def test_a_kind_that_comes_later_is_noticed() -> None:
    """Kueue is installed after the operator: its Workloads are asked for until they are there, as kopf looks once."""
    served = {"Workload": iter([404, 404, 503, 403, 200]), "PodGroup.scheduling.volcano.sh": iter([200])}

    class Asked:
        async def get(self, url: str, **_: str) -> dict:
            if url.endswith(("/resourceflavors", "/workloadpriorityclasses")):  # They belong to no namespace.
                return {"items": []}
            kind = "Workload" if "workloads" in url else "PodGroup.scheduling.volcano.sh"
            assert "/namespaces/ml/" in url
            if (answer := next(served[kind])) != 200:
                raise ApiError(answer, "the server could not find the requested resource")
            return {"items": []}

    settings = Settings.of({"kueue": True, "gangSchedulers": ["Volcano"], "namespaces": ["ml"]})

    async def go() -> None:
        kinds = await not_served(Asked(), asked_for(settings), settings.namespaces)
        assert kinds == ["Workload"]
        await until_served(Asked(), kinds, settings.namespaces, pause=0)
        assert not list(served["Workload"]), "an API server that is away was taken for one that knows the kind"

    asyncio.run(go())
    assert asked_for(Settings.of({})) == []


def test_a_refusal_is_no_missing_kind() -> None:
    """Where lists are forbidden, or nobody answers, the watches will tell; the operator does not end and begin anew."""

    class Refused:
        async def get(self, url: str, **_: str) -> dict:
            raise ApiError(403, "forbidden")

    assert asyncio.run(not_served(Refused(), ["Workload"], ())) == []
