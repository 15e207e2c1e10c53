"""The operator's client, with a `FakeApi` in place of the network."""

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from fake_api import FakeApi, Raw

from bagpipe_operator.api_error import ApiError
from bagpipe_operator.cluster import Cluster
from bagpipe_operator.connection import Connection
from bagpipe_operator.metrics import Metrics


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
    ) -> bytes:
        if method != "GET":
            self.before_write(method, url)
        sent = None if body is None else json.loads(json.dumps(body, allow_nan=False))
        code, raw = self.api.request(method, url, sent, content_type, params or {})
        if method != "GET":
            self.after_write(method, url)
        if code >= 400:
            error = ApiError.of_answer(code, raw)
            self._count(method, str(code), error.denied)
            raise error
        self._count(method, str(code), None)
        return raw

    async def watch(self, url: str, **params: str) -> AsyncGenerator[Raw, None]:
        """What there is to tell; then it ends, as a watch does after a while."""
        await self._request("GET", url, params=params)
        for event in self.api.watched(url, params):
            yield event
