"""One watch: a list of a kind's objects, then their changes, for ever. Whatever ends it, it begins again.

A watch ends often and for many reasons: every five minutes by agreement, with a connection that is cut, an API server
that is busy, versions that are too old (410), a role that was changed (403), a kind that was removed (404). None
of them ends the operator, or any other watch: this one tries again, later each time. What was missed meanwhile is
sent once it goes on, or found in the next list: an object that is not in it any more is gone.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from bagpipe_operator.api_error import ApiError, Outcome
from bagpipe_operator.cluster import Cluster, path
from bagpipe_operator.podstate import Raw

log = logging.getLogger(__name__)

_LONGEST = 30.0
_MOST_ASKED = 60.0
"""Seconds for which an API server that asks for patience gets it."""
_SERVER_SECONDS = "300"
_PAGE = "500"
_GONE = 410
_AS_BEFORE = frozenset({0, 401, 403, 429, 503})
"""After these answers the changes since the last known version can still be asked for; after others all is listed."""


class Sink(Protocol):
    """Who is told what a watch sees."""

    def put(self, kind: str, raw: Raw) -> None:
        """An object as it is now."""

    def gone(self, kind: str, raw: Raw) -> None:
        """An object was deleted; `raw` is its last state."""

    def listed(self, kind: str, namespace: str | None, items: Sequence[Raw], version: str | None) -> None:
        """All objects there are, as of `version`; none: the API server does not know the kind."""


class Watch:
    """Of one kind, in one namespace or in all.

    Args:
        pause: seconds between two requests, and the first ones after an error.
        changed: called when `refused` begins or ends.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: str,
        namespace: str | None,
        selector: str,
        sink: Sink,
        changed: Callable[[], None],
        pause: float = 1.0,
    ) -> None:
        self._cluster, self.kind, self._namespace, self._sink = cluster, kind, namespace, sink
        self._params = {"labelSelector": selector} if selector else {}
        self._changed, self._pause = changed, pause
        self._version: str | None = None
        self._failures = 0
        self.listed = asyncio.Event()
        """Set once all objects that there were at the beginning are known."""
        self.trouble = ""
        """Words of the error that the last request ended with; empty: it went well."""
        self.refused = False
        """Whether we may not watch this kind: what is known of it is out of date, and stays so."""

    async def follow(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(await self.step())

    async def step(self) -> float:
        """A list, if one is due, and a watch until it ends; returns the seconds until the next one."""
        try:
            await self._once()
        except ApiError as error:
            return self._ended(error)
        except Exception:  # A fault of ours about what was sent: the list is asked for again.
            self._version = None
            log.exception("watch failed", extra={"kind": self.kind})
            return self._later()
        return self._pause

    async def _once(self) -> None:
        if self._version is None:
            await self._list()
        params = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": _SERVER_SECONDS}
        params["resourceVersion"] = str(self._version)
        stream = self._cluster.watch(path(self.kind, self._namespace), **params, **self._params)
        async with contextlib.aclosing(stream) as lines:
            async for event in lines:
                self._take(event)
                self._well()
        self._well()

    async def _list(self) -> None:
        items: list[Raw] = []
        more: dict[str, str] = {}
        while True:
            url = path(self.kind, self._namespace)
            page = await self._cluster.get(url, limit=_PAGE, **self._params, **more)
            items += page.get("items") or ()
            meta: dict[str, Any] = page.get("metadata") or {}
            if not meta.get("continue"):
                break
            more = {"continue": meta["continue"]}
        self._sink.listed(self.kind, self._namespace, items, meta["resourceVersion"])
        self._version = meta["resourceVersion"]
        self._well()
        self.listed.set()

    def _take(self, event: Raw) -> None:
        raw, what = event["object"], event["type"]
        if what == "ERROR":
            self._version = None
            raise ApiError(int(raw.get("code") or 0), str(raw.get("message") or raw), str(raw.get("reason") or ""))
        if what == "DELETED":
            self._sink.gone(self.kind, raw)
        elif what in ("ADDED", "MODIFIED"):
            self._sink.put(self.kind, raw)
        self._version = raw["metadata"]["resourceVersion"]

    def _well(self) -> None:
        self._failures, self.trouble = 0, ""
        self._see(refused=False)

    def _see(self, *, refused: bool) -> None:
        if refused != self.refused:
            self.refused = refused
            self._changed()

    def _ended(self, error: ApiError) -> float:
        """Returns the seconds until the next request."""
        if error.code == _GONE:  # Too many changes since the version that we know: usual after a pause.
            self._version = None
            return self._later()
        if error.outcome is Outcome.ABSENT:
            return self._absent(error)
        delay = max(self._later(), min(error.retry_after or 0.0, _MOST_ASKED))
        if error.code not in _AS_BEFORE:
            self._version = None
        self.trouble = str(error)
        self._see(refused=error.outcome is Outcome.FORBIDDEN)
        facts = {"kind": self.kind, "namespace": self._namespace, "error": str(error), "again_in": round(delay, 1)}
        log.warning("watch ended", extra=facts)
        return delay

    def _absent(self, error: ApiError) -> float:
        """The kind is not installed, or was removed, which deletes its objects."""
        self._version = None
        if not self.trouble:
            log.warning("no such kind", extra={"kind": self.kind, "error": str(error)})
        self._sink.listed(self.kind, self._namespace, (), None)
        self._see(refused=False)
        self.trouble = str(error)
        self.listed.set()
        return self._later()

    def _later(self) -> float:
        self._failures += 1
        longest = min(self._pause * 2 ** min(self._failures - 1, 10), _LONGEST)
        return float(longest * random.uniform(0.8, 1.2))
