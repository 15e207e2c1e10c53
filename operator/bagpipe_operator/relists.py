"""After a watch has listed its objects once more, what has gone meanwhile is dropped, for nobody tells of it.

A watch lists again when the API server no longer knows what happened since the watch last heard of it, as after a
restart of the API server. A list has what is there. A deletion that fell into the gap is in no list and in no watch,
and a pod that seems to live would be waited for without end.
"""

import asyncio
import logging
from collections.abc import Collection

from bagpipe_operator.api_error import ApiError
from bagpipe_operator.cluster import Cluster
from bagpipe_operator.heads import JobKey
from bagpipe_operator.listing import Listed, names
from bagpipe_operator.store import Store
from bagpipe_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0


class Relists:
    """Remembers which kinds were listed again, and compares the store with what there is of them."""

    def __init__(self, cluster: Cluster, store: Store, queue: WorkQueue[JobKey], kinds: Collection[Listed]) -> None:
        self._cluster, self._store, self._queue = cluster, store, queue
        self._kinds = {listed.kind: listed for listed in kinds}
        self._again: set[str] = set()

    def listed(self, kind: str) -> None:
        """An object of this kind was told as one of a list, after all had been known."""
        self._again.add(kind)

    async def follow(self, seconds: float = _LOOK_SECONDS) -> None:
        """Compare now and then, if anything was listed again; never returns."""
        while True:
            await asyncio.sleep(seconds)
            await self.compare()

    async def compare(self) -> None:
        """Drop what has gone of the kinds that were listed again, and look at the jobs that it belonged to."""
        again, self._again = self._again, set()
        for kind in again:
            try:
                there = await names(self._cluster, self._kinds[kind])
            except ApiError as error:
                log.warning("names not listed", extra={"kind": kind, "error": str(error)})
                self._again.add(kind)
                continue
            for raw in self._store.gone(kind, there.by_uid.keys(), there.version):
                key = self._store.remove(raw)
                facts = {"object": f"{raw['kind']}/{raw['metadata']['name']}", "job": "/".join(key or ())}
                log.info("gone without a word of its watch", extra=facts)
                if key is not None:
                    self._queue.add(key)
